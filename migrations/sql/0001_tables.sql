-- The tables of a cell. Only its broker's role may touch them; applications get functions, viewers get views.
-- Texts in an index are in the order of their bytes, which no update of the system changes.
-- `job`, `log` and `outcome` are only inserted into on a job's way; space comes back by dropping partitions.

-- One row per writing connection of the owner, changed by takeover only: 1 the writer, 2 the duties.
CREATE TABLE ${schema}.fence (
    writer smallint PRIMARY KEY,
    term bigint NOT NULL,
    nonce bigint NOT NULL,
    pid integer,
    backend_start timestamptz,
    address text NOT NULL,
    -- Since when the term has been owned, and what a broker that follows shows to the owner: others cannot read it.
    since timestamptz NOT NULL DEFAULT now(),
    relay_key uuid NOT NULL DEFAULT gen_random_uuid()
);
INSERT INTO ${schema}.fence (writer, term, nonce, address) VALUES (1, 0, 0, ''), (2, 0, 0, '');

-- The names that jobs carry as numbers. Only the owner adds to them.
CREATE TABLE ${schema}.queue (
    number integer PRIMARY KEY,
    name text COLLATE "C" NOT NULL UNIQUE
);
CREATE TABLE ${schema}.task (
    number integer PRIMARY KEY,
    name text COLLATE "C" NOT NULL UNIQUE
);

-- The ids of jobs: the order of creation.
CREATE SEQUENCE ${schema}.job_id AS bigint;

-- What was asked for. `due_at` is null where a job is due at its creation.
CREATE TABLE ${schema}.job (
    id bigint NOT NULL,
    created_at timestamptz NOT NULL,
    due_at timestamptz,
    queue integer NOT NULL,
    task integer NOT NULL,
    priority smallint NOT NULL,
    args text NOT NULL,
    lock text,
    queueing_lock text,
    options bytea,
    metadata json,
    traceparent text,
    tracestate text,
    PRIMARY KEY (id)
) PARTITION BY RANGE (id);

-- How deliveries ended, one row each. The newest row of a job says whether it is final.
CREATE TABLE ${schema}.outcome (
    job bigint NOT NULL,
    started_at timestamptz,
    finished_at timestamptz NOT NULL,
    delivery integer NOT NULL,
    attempt integer NOT NULL,
    verdict smallint NOT NULL,
    session uuid,
    reason text,
    error_kind text,
    error_message text,
    error_trace text,
    result text,
    next_due_at timestamptz,
    changed_queue text,
    changed_priority smallint,
    changed_lock text,
    PRIMARY KEY (job, delivery)
) PARTITION BY RANGE (job);
-- For lists of what failed or was cancelled among millions that succeeded.
CREATE INDEX outcome_unsuccessful ON ${schema}.outcome (job) WHERE verdict IN (2, 3);
-- For opening a job again: what retries changed of it, however many there were.
CREATE INDEX outcome_changed ON ${schema}.outcome (job, delivery)
    WHERE changed_queue IS NOT NULL OR changed_priority IS NOT NULL OR changed_lock IS NOT NULL;

-- Plain successes: first deliveries that succeeded, without a result, in less than half an hour. They are packed where
-- one commit has eight or more of them among 128 ids, the numbers from a multiple of 128 on (`outcome_now` unpacks
-- them); all other outcomes have a row each.
CREATE TABLE ${schema}.success (
    -- The lowest id when it was written.
    first bigint NOT NULL,
    -- When the last of them ended.
    finished_at timestamptz NOT NULL,
    -- Of each its id, less that multiple of 128; and how long it took, in microseconds.
    places smallint[] NOT NULL,
    took integer[] NOT NULL,
    -- How long before `finished_at` each ended, in microseconds. Null: none before.
    earlier integer[],
    -- Who ran them, and of each whose it was, from 1. Null: all of one.
    sessions uuid[] NOT NULL,
    session_of smallint[],
    PRIMARY KEY (first)
) PARTITION BY RANGE (first);

-- What was decided: one row per commit.
CREATE TABLE ${schema}.log (
    number bigint NOT NULL,
    term bigint NOT NULL,
    nonce bigint NOT NULL,
    after_nonce bigint NOT NULL,
    committed_at timestamptz NOT NULL,
    state_hash bigint,
    facts bytea NOT NULL,
    PRIMARY KEY (number)
) PARTITION BY RANGE (number);
-- Facts are packed already; to compress them again would cost every commit.
ALTER TABLE ${schema}.log ALTER COLUMN facts SET STORAGE EXTERNAL;

-- The owner's state as of a row of the log, in chunks. It exists when its last chunk does.
CREATE TABLE ${schema}.checkpoint (
    number bigint NOT NULL,
    chunk integer NOT NULL,
    nonce bigint NOT NULL,
    is_last boolean NOT NULL,
    written_at timestamptz NOT NULL,
    data bytea NOT NULL,
    PRIMARY KEY (number, chunk)
);
ALTER TABLE ${schema}.checkpoint ALTER COLUMN data SET STORAGE EXTERNAL;
CREATE UNIQUE INDEX checkpoint_complete ON ${schema}.checkpoint (number) WHERE is_last;

-- Unfinished jobs that are not in the owner's memory, each at a position of a place.
CREATE TABLE ${schema}.parked (
    sort bigint NOT NULL,
    job bigint NOT NULL,
    place bytea NOT NULL,
    lock uuid,
    queueing_lock text COLLATE "C",
    record bytea NOT NULL,
    PRIMARY KEY (place, sort, job)
);
CREATE UNIQUE INDEX parked_job ON ${schema}.parked (job);
CREATE INDEX parked_lock ON ${schema}.parked (lock, job) WHERE lock IS NOT NULL;
CREATE INDEX parked_queueing_lock ON ${schema}.parked (queueing_lock) WHERE queueing_lock IS NOT NULL;

-- The same, many to a row: jobs of one place among 64 ids, where one commit parked four or more of them there that have
-- no queueing lock and no time.
CREATE TABLE ${schema}.parked_block (
    -- The ids from 64 times this number on, which `present` has a bit for each, the first one lowest: those that are
    -- parked still. Never none.
    block bigint NOT NULL,
    present bigint NOT NULL,
    -- The row of the log.
    number bigint NOT NULL,
    place bytea NOT NULL,
    lock uuid,
    -- Those of all that were parked here.
    records bytea NOT NULL,
    PRIMARY KEY (place, block, number)
) WITH (fillfactor = 90);
-- A hash, since no range may be read by it: that would be of all places.
CREATE INDEX parked_block_jobs ON ${schema}.parked_block USING hash (block);
CREATE INDEX parked_block_lock ON ${schema}.parked_block (lock, block) WHERE lock IS NOT NULL;

-- Calls that carried a client's request id, with their answers: the days are partitions, three are kept.
CREATE TABLE ${schema}.request (
    day date NOT NULL,
    id text COLLATE "C" NOT NULL,
    digest uuid NOT NULL,
    answer bytea NOT NULL,
    PRIMARY KEY (id, day)
) PARTITION BY RANGE (day);

REVOKE ALL ON ALL TABLES IN SCHEMA ${schema} FROM PUBLIC;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA ${schema} FROM PUBLIC;
