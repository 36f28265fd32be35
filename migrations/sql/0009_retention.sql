-- Retention: space comes back by dropping partitions of `job`, `outcome` and `success`, oldest first.
--
-- Of a partition that is to go, what must outlive it is copied to `job_kept` and `outcome_kept`: unfinished jobs, and
-- finished ones whose time is not over. Two bounds say where readers look, each also a fact of the log:
-- from `kept_below` down, new rows go to the `_kept` tables, so the partitions below it do not change any more;
-- from `moved_below` down, only the `_kept` tables count, and the partitions wait for their DROP.
-- A copied row counts only below `moved_below`, so that no row is seen twice while a partition is copied.

CREATE TABLE ${schema}.retention (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    kept_below bigint NOT NULL,
    moved_below bigint NOT NULL
);
INSERT INTO ${schema}.retention (kept_below, moved_below) VALUES (0, 0);

CREATE TABLE ${schema}.job_kept (
    LIKE ${schema}.job,
    copied boolean NOT NULL,
    PRIMARY KEY (id)
);
CREATE INDEX job_kept_by_queue ON ${schema}.job_kept (queue, id);
CREATE TABLE ${schema}.outcome_kept (
    LIKE ${schema}.outcome,
    copied boolean NOT NULL,
    PRIMARY KEY (job, delivery)
);
CREATE INDEX outcome_kept_unsuccessful ON ${schema}.outcome_kept (job) WHERE verdict IN (2, 3);
CREATE INDEX outcome_kept_changed ON ${schema}.outcome_kept (job, delivery)
    WHERE changed_queue IS NOT NULL OR changed_priority IS NOT NULL OR changed_lock IS NOT NULL;

-- Partitions that get no new ids any more, and how far retention has come with each.
CREATE TABLE ${schema}.closed_partition (
    part bigint PRIMARY KEY,
    closed_at timestamptz NOT NULL,
    -- Every id below was looked at for copying.
    moved_to bigint NOT NULL,
    moved_jobs bigint NOT NULL DEFAULT 0,
    moved_at timestamptz,
    dropped_at timestamptz,
    -- Since when its rows are frozen, and its jobs can be listed by queue: see `upkeep_due`.
    frozen_at timestamptz,
    indexed_at timestamptz
);

-- How many final jobs go, or went, by the queue that they ended in and how they ended: of a partition while it is looked
-- through, and, as partition -1, of all that is gone. Written by the duties' connection only.
CREATE TABLE ${schema}.gone (
    part bigint NOT NULL,
    queue integer NOT NULL,
    verdict smallint NOT NULL,
    jobs bigint NOT NULL,
    PRIMARY KEY (part, queue, verdict)
);
-- Of how many of them the log knows. Written by the writer's connection only, so that neither waits for the other.
CREATE TABLE ${schema}.forgotten (
    queue integer NOT NULL,
    verdict smallint NOT NULL,
    jobs bigint NOT NULL,
    PRIMARY KEY (queue, verdict)
);

-- Every job that there is, wherever its row lies. For looking up ids: it has no order of its own.
CREATE VIEW ${schema}.job_now AS
SELECT j.id, j.created_at, j.due_at, j.queue, j.task, j.priority, j.args, j.lock, j.queueing_lock, j.options,
    j.metadata, j.traceparent, j.tracestate
FROM ${schema}.job j
WHERE j.id >= (SELECT r.moved_below FROM ${schema}.retention r)
UNION ALL
SELECT k.id, k.created_at, k.due_at, k.queue, k.task, k.priority, k.args, k.lock, k.queueing_lock, k.options,
    k.metadata, k.traceparent, k.tracestate
FROM ${schema}.job_kept k
WHERE k.id < (SELECT r.kept_below FROM ${schema}.retention r)
    AND (k.id < (SELECT r.moved_below FROM ${schema}.retention r) OR NOT k.copied);

-- Every outcome that there is, wherever it lies, packed or not: for whoever looks at all of them.
CREATE VIEW ${schema}.outcome_now AS
SELECT o.job, o.started_at, o.finished_at, o.delivery, o.attempt, o.verdict, o.session, o.reason, o.error_kind,
    o.error_message, o.error_trace, o.result, o.next_due_at, o.changed_queue, o.changed_priority, o.changed_lock
FROM ${schema}.outcome o
WHERE o.job >= (SELECT r.moved_below FROM ${schema}.retention r)
UNION ALL
SELECT (s.first & -128) + u.place, e.finished_at - u.took * interval '1 microsecond', e.finished_at, 1, 1, 1::smallint,
    s.sessions[coalesce(u.session, 1)], NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
FROM ${schema}.success s
CROSS JOIN LATERAL unnest(s.places, s.took, s.earlier, s.session_of) u (place, took, earlier, session)
CROSS JOIN LATERAL (
    SELECT s.finished_at - coalesce(u.earlier, 0) * interval '1 microsecond' AS finished_at) e
WHERE s.first >= (SELECT r.moved_below FROM ${schema}.retention r)
UNION ALL
SELECT k.job, k.started_at, k.finished_at, k.delivery, k.attempt, k.verdict, k.session, k.reason, k.error_kind,
    k.error_message, k.error_trace, k.result, k.next_due_at, k.changed_queue, k.changed_priority, k.changed_lock
FROM ${schema}.outcome_kept k
WHERE k.job < (SELECT r.kept_below FROM ${schema}.retention r)
    AND (k.job < (SELECT r.moved_below FROM ${schema}.retention r) OR NOT k.copied);

-- The rows of a batch whose ids are below `kept_below`, and the bounds themselves; called by write_rare_1 only.
CREATE FUNCTION ${schema}.write_kept_1(p_rare jsonb) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_rows bigint;
BEGIN
    IF p_rare ? 'kept_jobs' THEN
        INSERT INTO ${schema}.job_kept (id, created_at, due_at, queue, task, priority, args, lock, queueing_lock,
                options, metadata, traceparent, tracestate, copied)
            SELECT r.id, least(clock_timestamp(), ${schema}.from_micros(r.taken_in)), ${schema}.from_micros(r.due),
                r.queue, r.task, r.priority, r.args, r.lock, r.queueing_lock, decode(r.options, 'hex'), r.metadata::json, r.traceparent, r.tracestate, false
            FROM jsonb_to_recordset(p_rare->'kept_jobs') r (id bigint, taken_in bigint, due bigint, queue integer,
                task integer, priority smallint, args text, lock text, queueing_lock text, options text,
                metadata text, traceparent text, tracestate text);
    END IF;
    IF p_rare ? 'kept_outcomes' THEN
        INSERT INTO ${schema}.outcome_kept (job, started_at, finished_at, delivery, attempt, verdict, session, reason,
                error_kind, error_message, error_trace, result, next_due_at, changed_queue, changed_priority,
                changed_lock, copied)
            SELECT r.job, ${schema}.from_micros(r.started), ${schema}.from_micros(r.finished), r.delivery, r.attempt,
                r.verdict, r.session, r.reason, r.error_kind, r.error_message, r.error_trace, r.result,
                ${schema}.from_micros(r.next_due), r.changed_queue, r.changed_priority, r.changed_lock, false
            FROM jsonb_to_recordset(p_rare->'kept_outcomes') r (job bigint, started bigint, finished bigint,
                delivery integer, attempt integer, verdict smallint, session uuid, reason text, error_kind text,
                error_message text, error_trace text, result text, next_due bigint, changed_queue text,
                changed_priority smallint, changed_lock text);
        -- A job that is opened again (8) must still be there: it may have been erased since it was looked up.
        SELECT count(*) INTO v_rows
            FROM jsonb_to_recordset(p_rare->'kept_outcomes') r (job bigint, verdict smallint)
            WHERE r.verdict = 8;
        IF v_rows > 0 THEN
            PERFORM FROM ${schema}.job_kept k
                WHERE k.id = ANY (ARRAY(
                    SELECT r.job FROM jsonb_to_recordset(p_rare->'kept_outcomes') r (job bigint, verdict smallint)
                    WHERE r.verdict = 8))
                FOR KEY SHARE;
            GET DIAGNOSTICS v_rows = ROW_COUNT;
            IF v_rows < (SELECT count(DISTINCT r.job)
                    FROM jsonb_to_recordset(p_rare->'kept_outcomes') r (job bigint, verdict smallint)
                    WHERE r.verdict = 8) THEN
                RAISE EXCEPTION 'the job was erased meanwhile, since its time was over' USING ERRCODE = '23503';
            END IF;
        END IF;
    END IF;
    IF p_rare ? 'bounds' THEN
        UPDATE ${schema}.retention t SET
            kept_below = greatest(t.kept_below, b.kept_below),
            moved_below = greatest(t.moved_below, b.moved_below)
            FROM (SELECT max(r.kept_below) AS kept_below, max(r.moved_below) AS moved_below
                FROM jsonb_to_recordset(p_rare->'bounds') r (kept_below bigint, moved_below bigint)) b;
        UPDATE ${schema}.closed_partition c SET moved_at = clock_timestamp()
            WHERE c.moved_at IS NULL AND c.part < (SELECT r.moved_below >> 24 FROM ${schema}.retention r);
    END IF;
    IF p_rare ? 'forgotten' THEN
        INSERT INTO ${schema}.forgotten (queue, verdict, jobs)
            SELECT r.queue, r.verdict, max(r.jobs)
            FROM jsonb_to_recordset(p_rare->'forgotten') r (queue integer, verdict smallint, jobs bigint)
            GROUP BY r.queue, r.verdict
            ON CONFLICT (queue, verdict) DO UPDATE SET jobs = excluded.jobs;
    END IF;
END
$$;

-- The number of a partition, by its name; null: it is none. Whatever order a plan looks at names in.
CREATE FUNCTION ${schema}.part_of(p_name text) RETURNS bigint
LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN p_name ~ '^[a-z]+_[0-9]{1,18}$' THEN substr(p_name, strpos(p_name, '_') + 1)::bigint END
$$;

-- Notes the partitions that the sequence has left, and leaves the present one early: when it is half full, or when its
-- first job is older than `p_after`, so that a partition holds jobs of about one age. Answers the first id of the next
-- one, or null. Ids of the old one that somebody has drawn already work as before.
CREATE FUNCTION ${schema}.rotate(
    p_writer smallint, p_term bigint, p_nonce bigint, p_after interval, OUT next_id bigint)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_part bigint;
    v_used bigint;
    v_first timestamptz;
BEGIN
    SELECT s.last_value >> 24, s.last_value & 16777215 INTO v_part, v_used FROM ${schema}.job_id s;
    INSERT INTO ${schema}.closed_partition (part, closed_at, moved_to)
        SELECT ${schema}.part_of(c.relname), clock_timestamp(), ${schema}.part_of(c.relname) << 24
        FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = '${schema_name}.job'::regclass AND ${schema}.part_of(c.relname) < v_part
        ON CONFLICT DO NOTHING;
    -- Others draw from the sequence meanwhile. Near its end it is left alone, so that it can only ever be moved up.
    IF v_used > 16777216 - 2097152 THEN
        RETURN;
    END IF;
    EXECUTE format('SELECT min(j.created_at) FROM (SELECT created_at FROM %I.%I ORDER BY id LIMIT 1) j',
        '${schema_name}', 'job_' || v_part) INTO v_first;
    IF v_first IS NULL OR (v_used < 8388608 AND coalesce(v_first > clock_timestamp() - p_after, true)) THEN
        RETURN;
    END IF;
    next_id := (v_part + 1) << 24;
    PERFORM ${schema}.add_partitions_1(p_writer, p_term, p_nonce, ARRAY[next_id], coalesce(
        (SELECT l.number FROM ${schema}.log l ORDER BY l.number DESC LIMIT 1), 0), 2);
    PERFORM setval('${schema_name}.job_id', next_id, false);
    INSERT INTO ${schema}.closed_partition (part, closed_at, moved_to)
        VALUES (v_part, clock_timestamp(), v_part << 24) ON CONFLICT DO NOTHING;
END
$$;

-- Copies the next jobs of a partition that stay, with all their outcomes: those that are not final, and those that
-- ended at or after the time of their verdict. What was copied before is not copied again. `done`: none is left.
CREATE FUNCTION ${schema}.move_jobs(p_part bigint, p_ended_since timestamptz[], OUT done boolean, OUT moved bigint)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_from bigint;
    v_to bigint;
    v_end bigint := (p_part + 1) << 24;
    v_ids bigint[];
    v_changed boolean;
    -- How a job (j) ended. Of packed successes, the last one's time is that of all: they are of one commit.
    v_ended text := 'SELECT u.verdict, u.finished_at FROM (
            (SELECT o.delivery, o.verdict, o.finished_at FROM %1$I.%3$I o WHERE o.job = j.id
            ORDER BY o.delivery DESC LIMIT 1)
            UNION ALL
            (SELECT 1, 1::smallint, s.finished_at FROM %1$I.%4$I s
            WHERE s.first BETWEEN (j.id & -128) AND j.id AND (j.id & 127)::smallint = ANY (s.places) LIMIT 1)
        ) u ORDER BY u.delivery DESC LIMIT 1';
BEGIN
    SELECT c.moved_to INTO v_from FROM ${schema}.closed_partition c WHERE c.part = p_part;
    IF v_from = p_part << 24 THEN
        -- It begins, whatever was counted before.
        DELETE FROM ${schema}.gone g WHERE g.part = p_part;
    END IF;
    EXECUTE format('SELECT j.id FROM %I.%I j WHERE j.id >= $1 ORDER BY j.id LIMIT 1',
        '${schema_name}', 'job_' || p_part) INTO v_from USING v_from;
    moved := 0;
    IF v_from IS NULL THEN
        UPDATE ${schema}.closed_partition c SET moved_to = v_end WHERE c.part = p_part;
        done := true;
        RETURN;
    END IF;
    v_to := least(v_from + 16384, v_end);
    EXECUTE format('SELECT array_agg(s.id ORDER BY s.id) FROM (
            SELECT j.id FROM %1$I.%2$I j
            LEFT JOIN LATERAL (' || v_ended || ') o ON true
            WHERE j.id >= $1 AND j.id < $2
                AND (o.verdict IS NULL OR o.verdict > 3 OR o.finished_at >= ($3)[o.verdict])
            ORDER BY j.id LIMIT 500) s',
        '${schema_name}', 'job_' || p_part, 'outcome_' || p_part, 'success_' || p_part)
        INTO v_ids USING v_from, v_to, p_ended_since;
    moved := coalesce(cardinality(v_ids), 0);
    -- Locked, so that whoever changes one of these rows by key comes before the copy is made, or changes it too.
    IF moved > 0 THEN
        EXECUTE format('INSERT INTO %1$I.job_kept SELECT j.*, true FROM unnest($1) k (id)
                CROSS JOIN LATERAL (SELECT * FROM %1$I.%2$I n WHERE n.id = k.id LIMIT 1 FOR SHARE) j
                ON CONFLICT DO NOTHING',
            '${schema_name}', 'job_' || p_part) USING v_ids;
        EXECUTE format('INSERT INTO %1$I.outcome_kept SELECT o.*, true FROM unnest($1) k (id)
                CROSS JOIN LATERAL (SELECT * FROM %1$I.%2$I n WHERE n.job = k.id OFFSET 0 FOR SHARE) o
                ON CONFLICT DO NOTHING',
            '${schema_name}', 'outcome_' || p_part) USING v_ids;
        EXECUTE format('INSERT INTO %1$I.outcome_kept (job, started_at, finished_at, delivery, attempt, verdict, session,
                    copied)
                SELECT k.id, e.finished_at - s.took[a.at] * interval ''1 microsecond'', e.finished_at, 1, 1, 1,
                    s.sessions[coalesce(s.session_of[a.at], 1)], true
                FROM unnest($1) k (id)
                CROSS JOIN LATERAL (SELECT * FROM %1$I.%2$I n WHERE n.first BETWEEN (k.id & -128) AND k.id
                    OFFSET 0 FOR SHARE) s
                CROSS JOIN LATERAL (SELECT array_position(s.places, (k.id & 127)::smallint) AS at) a
                CROSS JOIN LATERAL (SELECT
                    s.finished_at - coalesce(s.earlier[a.at], 0) * interval ''1 microsecond'' AS finished_at) e
                WHERE a.at IS NOT NULL ON CONFLICT DO NOTHING',
            '${schema_name}', 'success_' || p_part) USING v_ids;
    END IF;
    IF moved = 500 THEN
        v_to := v_ids[500] + 1;
    END IF;
    -- And those that go are counted, by the queue that they ended in: few were ever moved to another.
    EXECUTE format('SELECT EXISTS (SELECT FROM %I.%I o
            WHERE o.job >= $1 AND o.job < $2 AND o.changed_queue IS NOT NULL)',
        '${schema_name}', 'outcome_' || p_part) INTO v_changed USING v_from, v_to;
    EXECUTE format('INSERT INTO %1$I.gone AS g (part, queue, verdict, jobs)
            SELECT $4, CASE WHEN $5 THEN coalesce((
                    SELECT (SELECT q.number FROM %1$I.queue q WHERE q.name = x.changed_queue)
                    FROM %1$I.%3$I x WHERE x.job = j.id AND x.changed_queue IS NOT NULL
                    ORDER BY x.delivery DESC LIMIT 1), j.queue) ELSE j.queue END, o.verdict, count(*)
            FROM %1$I.%2$I j
            CROSS JOIN LATERAL (' || v_ended || ') o
            WHERE j.id >= $1 AND j.id < $2 AND o.verdict <= 3 AND o.finished_at < ($3)[o.verdict]
            GROUP BY 2, 3
            ON CONFLICT (part, queue, verdict) DO UPDATE SET jobs = g.jobs + excluded.jobs',
        '${schema_name}', 'job_' || p_part, 'outcome_' || p_part, 'success_' || p_part)
        USING v_from, v_to, p_ended_since, p_part, v_changed;
    UPDATE ${schema}.closed_partition c SET moved_to = v_to, moved_jobs = c.moved_jobs + moved WHERE c.part = p_part;
    done := v_to >= v_end;
END
$$;

-- Drops a table for good that hangs on no parent any more, or answers false: somebody still reads it. Nobody waits
-- behind this, and it waits for nobody.
CREATE FUNCTION ${schema}.drop_unless_used(p_name text) RETURNS boolean
LANGUAGE plpgsql VOLATILE SET lock_timeout = '5ms' AS $$
BEGIN
    EXECUTE format('DROP TABLE %I.%I', '${schema_name}', p_name);
    RETURN true;
EXCEPTION WHEN lock_not_available THEN
    RETURN false;
END
$$;

-- The oldest table of `job`, `outcome` or `success` that lies below `moved_below`, jobs last, attached or not.
CREATE FUNCTION ${schema}.moved_partition(p_spared text[], OUT name text, OUT part bigint)
LANGUAGE sql STABLE AS $$
    SELECT c.relname, ${schema}.part_of(c.relname) FROM pg_class c
    WHERE c.relnamespace = '${schema_name}'::regnamespace AND c.relkind = 'r' AND c.relname ~ '^(job|outcome|success)_[0-9]+$'
        AND split_part(c.relname, '_', 1) <> ALL (p_spared)
        AND ${schema}.part_of(c.relname) < (SELECT r.moved_below >> 24 FROM ${schema}.retention r)
    ORDER BY 2, c.relname DESC LIMIT 1
$$;

-- The oldest day of remembered calls that is not one of the last three, attached or not. Null: none.
CREATE FUNCTION ${schema}.spent_request_partition() RETURNS text
LANGUAGE sql STABLE AS $$
    SELECT min(c.relname::text) FROM pg_class c
    WHERE c.relnamespace = '${schema_name}'::regnamespace AND c.relkind = 'r' AND c.relname ~ '^request_[0-9]{8}$'
        AND c.relname < 'request_' || to_char((clock_timestamp() AT TIME ZONE 'UTC')::date - 2, 'YYYYMMDD')
$$;

-- The oldest partition of the log that may go: the older of the two checkpoints needs none of its rows, and its newest
-- row is older than `p_before`, or all such partitions together have more than `p_bytes`. Null: none.
CREATE FUNCTION ${schema}.spent_log_partition(p_before timestamptz, p_bytes bigint) RETURNS text
LANGUAGE plpgsql STABLE AS $$
DECLARE
    v_needed bigint;
    v_oldest text;
    v_bytes bigint;
    v_newest timestamptz;
BEGIN
    SELECT c.number INTO v_needed FROM ${schema}.checkpoint c WHERE c.is_last ORDER BY c.number DESC OFFSET 1 LIMIT 1;
    SELECT (array_agg(c.relname::text ORDER BY ${schema}.part_of(c.relname)))[1], sum(pg_total_relation_size(c.oid))
        INTO v_oldest, v_bytes
        FROM pg_class c
        WHERE c.relnamespace = '${schema_name}'::regnamespace AND c.relkind = 'r' AND c.relname ~ '^log_[0-9]+$'
            AND (${schema}.part_of(c.relname) + 1) << 20 <= v_needed;
    IF v_oldest IS NULL THEN
        RETURN NULL;
    END IF;
    EXECUTE format('SELECT max(l.committed_at) FROM (
            SELECT committed_at FROM %I.%I ORDER BY number DESC LIMIT 1) l', '${schema_name}', v_oldest) INTO v_newest;
    IF v_newest >= p_before AND v_bytes <= p_bytes THEN
        RETURN NULL;
    END IF;
    RETURN v_oldest;
END
$$;

-- Erases kept jobs that ended before the time of their verdict, looking at the next 1,000 after this id. Null: there
-- are no more.
CREATE FUNCTION ${schema}.erase_kept(p_after bigint, p_ended_since timestamptz[], OUT looked_to bigint, OUT erased bigint)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_ids bigint[];
BEGIN
    erased := 0;
    v_ids := ARRAY(SELECT k.id FROM ${schema}.job_kept k
        WHERE k.id > p_after AND k.id < (SELECT r.moved_below FROM ${schema}.retention r)
        ORDER BY k.id LIMIT 1000);
    looked_to := v_ids[cardinality(v_ids)];
    v_ids := ARRAY(SELECT u.id FROM unnest(v_ids) u (id)
        CROSS JOIN LATERAL (
            SELECT o.verdict, o.finished_at FROM ${schema}.outcome_kept o WHERE o.job = u.id
            ORDER BY o.delivery DESC LIMIT 1) o
        WHERE o.verdict <= 3 AND o.finished_at < p_ended_since[o.verdict]);
    IF cardinality(v_ids) = 0 THEN
        RETURN;
    END IF;
    -- Nobody opens one of them again from here on. Those that somebody has opened since are left out: the next
    -- statement sees that.
    v_ids := ARRAY(SELECT k.id FROM ${schema}.job_kept k WHERE k.id = ANY (v_ids) FOR UPDATE SKIP LOCKED);
    v_ids := ARRAY(SELECT u.id FROM unnest(v_ids) u (id)
        CROSS JOIN LATERAL (
            SELECT o.verdict, o.finished_at FROM ${schema}.outcome_kept o WHERE o.job = u.id
            ORDER BY o.delivery DESC LIMIT 1) o
        WHERE o.verdict <= 3 AND o.finished_at < p_ended_since[o.verdict]);
    INSERT INTO ${schema}.gone AS g (part, queue, verdict, jobs)
        SELECT -1, coalesce((
                SELECT (SELECT q.number FROM ${schema}.queue q WHERE q.name = x.changed_queue)
                FROM ${schema}.outcome_kept x WHERE x.job = u.id AND x.changed_queue IS NOT NULL
                ORDER BY x.delivery DESC LIMIT 1), k.queue), o.verdict, count(*)
        FROM unnest(v_ids) u (id)
        CROSS JOIN LATERAL (SELECT * FROM ${schema}.job_kept k WHERE k.id = u.id LIMIT 1) k
        CROSS JOIN LATERAL (
            SELECT o.verdict FROM ${schema}.outcome_kept o WHERE o.job = u.id ORDER BY o.delivery DESC LIMIT 1) o
        GROUP BY 2, 3
        ON CONFLICT (part, queue, verdict) DO UPDATE SET jobs = g.jobs + excluded.jobs;
    DELETE FROM ${schema}.outcome_kept o WHERE o.job = ANY (v_ids);
    DELETE FROM ${schema}.job_kept k WHERE k.id = ANY (v_ids);
    GET DIAGNOSTICS erased = ROW_COUNT;
END
$$;

-- Does the next small part of retention that is due, and says what it was. All that matters is in the tables, so another
-- owner goes on where this one ended.
-- `p_keep`: for succeeded, failed, cancelled jobs, and for the audit; null: for ever. `p_rotate_after` null: never.
-- `p_spared`: kinds of tables of which none is dropped this time, since somebody uses the one whose turn it is.
CREATE FUNCTION ${schema}.retain_1(
    p_writer smallint, p_term bigint, p_nonce bigint,
    p_keep interval[], p_rotate_after interval, p_keep_log interval, p_log_bytes bigint,
    p_spared text[], p_erase_after bigint,
    OUT step text, OUT at bigint, OUT jobs bigint, OUT name text, OUT parent text, OUT queue integer,
    OUT verdict smallint)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_now timestamptz := clock_timestamp();
    v_ended_since timestamptz[] := ARRAY(
        SELECT coalesce(v_now - k.keep, '-infinity') FROM unnest(p_keep) WITH ORDINALITY k (keep, place)
        ORDER BY k.place);
    v_kept_below bigint;
    v_moved_below bigint;
    v_part bigint;
    v_done boolean;
BEGIN
    PERFORM ${schema}.fenced(p_writer, p_term, p_nonce);
    step := 'idle';
    at := 0;
    jobs := 0;
    name := '';
    SELECT r.kept_below, r.moved_below INTO v_kept_below, v_moved_below FROM ${schema}.retention r;

    IF v_moved_below < v_kept_below THEN
        v_part := (v_kept_below >> 24) - 1;
        SELECT m.done, m.moved INTO v_done, jobs FROM ${schema}.move_jobs(v_part, v_ended_since) m;
        step := CASE WHEN v_done THEN 'moved_below' ELSE 'moved' END;
        at := v_kept_below;
        RETURN;
    END IF;

    -- What was counted of partitions that do not count any more is gone, and the log is to know of it.
    IF EXISTS (SELECT FROM ${schema}.gone g WHERE g.part >= 0 AND g.part < v_moved_below >> 24) THEN
        WITH moved AS (
            DELETE FROM ${schema}.gone g WHERE g.part >= 0 AND g.part < v_moved_below >> 24 RETURNING *)
        INSERT INTO ${schema}.gone AS g (part, queue, verdict, jobs)
            SELECT -1, m.queue, m.verdict, sum(m.jobs) FROM moved m GROUP BY m.queue, m.verdict
            ON CONFLICT ON CONSTRAINT gone_pkey DO UPDATE SET jobs = g.jobs + excluded.jobs;
    END IF;
    SELECT g.queue, g.verdict, g.jobs INTO queue, verdict, jobs FROM ${schema}.gone g
        LEFT JOIN LATERAL (
            SELECT f.jobs FROM ${schema}.forgotten f WHERE f.queue = g.queue AND f.verdict = g.verdict LIMIT 1) f ON true
        WHERE g.part = -1 AND g.jobs > coalesce(f.jobs, 0) ORDER BY g.queue, g.verdict LIMIT 1;
    IF FOUND THEN
        step := 'forgotten';
        RETURN;
    END IF;
    jobs := 0;

    SELECT p.name, p.part INTO name, v_part FROM ${schema}.moved_partition(p_spared) p;
    IF name IS NULL AND 'log' <> ALL (p_spared) THEN
        name := ${schema}.spent_log_partition(v_now - p_keep_log, p_log_bytes);
    END IF;
    IF name IS NULL AND 'request' <> ALL (p_spared) THEN
        name := ${schema}.spent_request_partition();
    END IF;
    IF name IS NOT NULL THEN
        -- A DROP of what is attached would lock the parent, and commits would wait. So it is detached before, in a way
        -- that locks nobody out, and that cannot be done in a function.
        SELECT CASE WHEN i.inhdetachpending THEN 'finalize' ELSE 'detach' END, p.relname INTO step, parent
            FROM pg_inherits i JOIN pg_class p ON p.oid = i.inhparent
            WHERE i.inhrelid = to_regclass(format('%I.%I', '${schema_name}', name));
        IF FOUND THEN
            RETURN;
        END IF;
        IF NOT ${schema}.drop_unless_used(name) THEN
            step := 'blocked';
            RETURN;
        END IF;
        UPDATE ${schema}.closed_partition c SET dropped_at = clock_timestamp() WHERE c.part = v_part;
        step := 'dropped';
        RETURN;
    END IF;
    name := '';

    at := (SELECT r.next_id FROM ${schema}.rotate(p_writer, p_term, p_nonce, p_rotate_after) r);
    IF at IS NOT NULL THEN
        step := 'closed';
        RETURN;
    END IF;

    SELECT c.part INTO v_part FROM ${schema}.closed_partition c
        WHERE c.part >= v_kept_below >> 24 AND c.closed_at < v_ended_since[1] ORDER BY c.part LIMIT 1;
    IF v_part IS NOT NULL THEN
        step := 'kept_below';
        at := (v_part + 1) << 24;
        RETURN;
    END IF;

    IF p_erase_after IS NOT NULL THEN
        SELECT e.looked_to, e.erased INTO at, jobs FROM ${schema}.erase_kept(p_erase_after, v_ended_since) e;
        IF at IS NOT NULL THEN
            step := 'erased';
            RETURN;
        END IF;
        DELETE FROM ${schema}.audit a
            WHERE a.number IN (SELECT b.number FROM ${schema}.audit b ORDER BY b.number LIMIT 1000)
                AND a.at < v_ended_since[4];
        DELETE FROM ${schema}.closed_partition c WHERE c.dropped_at < v_now - interval '90 days';
    END IF;
    at := 0;
END
$$;

-- What the oldest closed partition that lacks something lacks, where its time is not over: its rows frozen, so that no
-- vacuum ever comes back to them; and an index by queue, which a list goes by, and which is made and unmade in ways that
-- lock nobody out. All of it outside of transactions, so not here. An index that is there and good is only noted.
CREATE FUNCTION ${schema}.upkeep_due(OUT part bigint, OUT work text)
LANGUAGE sql STABLE AS $$
    SELECT c.part, CASE
        WHEN c.frozen_at IS NULL THEN 'freeze'
        WHEN i.indexrelid IS NULL THEN 'index'
        WHEN i.indisvalid THEN 'note'
        ELSE 'unindex'
    END
    FROM ${schema}.closed_partition c
    LEFT JOIN pg_index i ON i.indexrelid =
        to_regclass(format('%I.%I', '${schema_name}', 'job_' || c.part || '_by_queue'))
    WHERE (c.frozen_at IS NULL OR c.indexed_at IS NULL) AND c.dropped_at IS NULL
        AND c.part >= (SELECT r.kept_below >> 24 FROM ${schema}.retention r)
    -- An index may have to wait for a reader; to freeze need not.
    ORDER BY c.frozen_at IS NOT NULL, c.part LIMIT 1
$$;

-- Below this id, every partition of `job` that counts has an index by queue.
CREATE FUNCTION ${schema}.indexed_below() RETURNS bigint
LANGUAGE sql STABLE AS $$
    SELECT coalesce(min(c.part) FILTER (WHERE c.indexed_at IS NULL), max(c.part) + 1, 0) << 24
    FROM ${schema}.closed_partition c
    WHERE c.part >= (SELECT r.moved_below >> 24 FROM ${schema}.retention r)
$$;

-- The highest ids of jobs of one queue below `p_below`, at most `p_limit`, highest first, of the partitions that have an
-- index by queue. Each is named, and asked by its queue and id together, which leaves no plan but by that index.
CREATE FUNCTION ${schema}.ids_of_queue(p_queue integer, p_below bigint, p_limit bigint) RETURNS SETOF bigint
LANGUAGE plpgsql STABLE AS $$
DECLARE
    v_part bigint;
    v_left bigint := p_limit;
    v_rows bigint;
BEGIN
    FOR v_part IN
        SELECT c.part FROM ${schema}.closed_partition c
        WHERE c.part << 24 < least(p_below, ${schema}.indexed_below())
            AND c.part >= (SELECT r.moved_below >> 24 FROM ${schema}.retention r)
            AND to_regclass(format('%I.%I', '${schema_name}', 'job_' || c.part)) IS NOT NULL
        ORDER BY c.part DESC
    LOOP
        EXIT WHEN v_left <= 0;
        RETURN QUERY EXECUTE format('SELECT j.id FROM %I.%I j WHERE j.queue >= $1 AND (j.queue, j.id) < ($1, $2)
                ORDER BY j.queue DESC, j.id DESC LIMIT $3',
            '${schema_name}', 'job_' || v_part) USING p_queue, p_below, v_left;
        GET DIAGNOSTICS v_rows = ROW_COUNT;
        v_left := v_left - v_rows;
    END LOOP;
END
$$;

-- The partitions that there are, for people.
CREATE VIEW ${schema}.partitions AS
SELECT
    p.part,
    p.part << 24 AS first_id,
    (p.part + 1) << 24 AS end_id,
    CASE
        WHEN p.part < r.moved_below >> 24 THEN 'dropping'
        WHEN p.part < r.kept_below >> 24 THEN 'moving'
        WHEN c.part IS NOT NULL THEN 'closed'
        WHEN p.part <= (SELECT s.last_value >> 24 FROM ${schema}.job_id s) THEN 'open'
        ELSE 'ahead'
    END AS state,
    p.bytes,
    c.closed_at,
    c.frozen_at,
    c.indexed_at,
    coalesce(c.moved_jobs, 0) AS moved_jobs,
    p.tables
FROM (
    SELECT ${schema}.part_of(t.relname) AS part, sum(pg_total_relation_size(t.oid))::bigint AS bytes,
        array_agg(t.oid) AS tables
    FROM pg_class t
    WHERE t.relnamespace = '${schema_name}'::regnamespace AND t.relkind = 'r' AND t.relname ~ '^(job|outcome|success)_[0-9]+$'
    GROUP BY 1
) p
CROSS JOIN ${schema}.retention r
LEFT JOIN ${schema}.closed_partition c ON c.part = p.part;

-- The transactions that drops wait for: those that have used one of the tables or its parent, and, once a table is half
-- detached, all that may still look at it as it was.
CREATE VIEW ${schema}.drop_waits_for AS
SELECT p.part, a.pid, a.usename, a.application_name, a.xact_start
FROM ${schema}.partitions p
CROSS JOIN pg_stat_activity a
WHERE p.state = 'dropping' AND a.datname = current_database() AND a.pid <> pg_backend_pid()
    AND a.xact_start < clock_timestamp() - interval '1 second' AND (
    EXISTS (SELECT FROM pg_locks l WHERE l.pid = a.pid AND l.granted AND l.locktype = 'relation'
        AND (l.relation = ANY (p.tables)
            OR l.relation IN ('${schema_name}.job'::regclass, '${schema_name}.outcome'::regclass,
                '${schema_name}.success'::regclass)))
    OR a.backend_xmin IS NOT NULL AND EXISTS (
        SELECT FROM pg_inherits i WHERE i.inhrelid = ANY (p.tables) AND i.inhdetachpending));

-- The jobs, for people, wherever their rows lie. What is due later is `scheduled`, since none starts before (C7). What
-- is due and parked is `waiting`; what is due and in memory waits or runs, and only the owner knows: here it is
-- `active`. What a delivery has is that of the last one that ended.
CREATE OR REPLACE VIEW ${schema}.jobs AS
SELECT
    j.id,
    q.name AS queue,
    t.name AS task,
    CASE
        WHEN o.verdict = 1 THEN 'succeeded'
        WHEN o.verdict = 2 THEN 'failed'
        WHEN o.verdict = 3 THEN 'cancelled'
        WHEN d.due_at > clock_timestamp() THEN 'scheduled'
        WHEN p.job IS NOT NULL OR EXISTS (
            SELECT FROM ${schema}.parked_block b
            WHERE b.block = j.id >> 6 AND (b.present >> (j.id & 63)::integer & 1) = 1) THEN 'waiting'
        ELSE 'active'
    END AS state,
    j.priority,
    j.args,
    j.lock,
    j.queueing_lock,
    j.created_at,
    d.due_at,
    o.delivery AS last_delivery,
    o.attempt AS attempts,
    o.reason,
    o.error_kind,
    o.error_message,
    o.started_at,
    o.finished_at,
    j.metadata
FROM ${schema}.job_now j
CROSS JOIN ${schema}.retention r
JOIN ${schema}.queue q ON q.number = j.queue
JOIN ${schema}.task t ON t.number = j.task
LEFT JOIN ${schema}.parked p ON p.job = j.id
LEFT JOIN LATERAL (
    SELECT * FROM (
        (SELECT n.delivery, n.attempt, n.verdict, n.reason, n.error_kind, n.error_message, n.started_at,
            n.finished_at, n.next_due_at
        FROM ${schema}.outcome n WHERE n.job = j.id AND j.id >= r.moved_below ORDER BY n.delivery DESC LIMIT 1)
        UNION ALL
        (SELECT 1, 1, 1::smallint, NULL, NULL, NULL, e.finished_at - s.took[a.at] * interval '1 microsecond',
            e.finished_at, NULL
        FROM ${schema}.success s
        CROSS JOIN LATERAL (SELECT array_position(s.places, (j.id & 127)::smallint) AS at) a
        CROSS JOIN LATERAL (
            SELECT s.finished_at - coalesce(s.earlier[a.at], 0) * interval '1 microsecond' AS finished_at) e
        WHERE s.first BETWEEN (j.id & -128) AND j.id AND j.id >= r.moved_below AND a.at IS NOT NULL LIMIT 1)
        UNION ALL
        (SELECT n.delivery, n.attempt, n.verdict, n.reason, n.error_kind, n.error_message, n.started_at,
            n.finished_at, n.next_due_at
        FROM ${schema}.outcome_kept n
        WHERE n.job = j.id AND j.id < r.kept_below AND (j.id < r.moved_below OR NOT n.copied)
        ORDER BY n.delivery DESC LIMIT 1)
    ) u ORDER BY u.delivery DESC LIMIT 1
) o ON true
CROSS JOIN LATERAL (
    -- What came back without a time of its own was due at once.
    SELECT coalesce(o.next_due_at, CASE WHEN o.verdict > 3 THEN o.finished_at END, j.due_at, j.created_at) AS due_at
) d
UNION ALL
-- Not taken in yet.
SELECT
    i.job,
    i.queue,
    i.task,
    CASE WHEN i.due_at > clock_timestamp() THEN 'scheduled' ELSE 'waiting' END,
    i.priority,
    i.args,
    i.lock,
    i.queueing_lock,
    i.written_at,
    coalesce(i.due_at, i.written_at),
    NULL, NULL, NULL, NULL, NULL, NULL, NULL,
    i.metadata
FROM ${schema}.inbox i
WHERE i.verb = 'defer';

-- The state of one job, as the view has it, also of one that this very transaction deferred; null: there is none.
CREATE FUNCTION ${schema}.state(job bigint) RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT v.state FROM ${schema}.jobs v WHERE v.id = job
$$;

REVOKE ALL ON ALL TABLES IN SCHEMA ${schema} FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA ${schema} FROM PUBLIC;
