-- Schedules (C12): for people, and to build the owner's memory anew. The owner itself never reads them on its way.
-- Rows are changed as ticks are decided, so they keep room for that, and no index has what changes.
CREATE TABLE ${schema}.schedule (
    name text COLLATE "C" PRIMARY KEY,
    cron text NOT NULL,
    time_zone text NOT NULL,
    missed_ticks text NOT NULL,
    task text NOT NULL,
    queue text NOT NULL,
    args text NOT NULL,
    paused boolean NOT NULL,
    -- Every tick up to this instant is decided.
    decided_until timestamptz NOT NULL,
    -- The last tick that was decided; what came of it; the job that it deferred, or that held the queueing lock.
    last_tick timestamptz,
    last_outcome text,
    last_outcome_job bigint,
    -- The last tick that was deferred, and its job.
    deferred_tick timestamptz,
    deferred_job bigint,
    -- The whole schedule, in the format of the log, as it was put.
    definition bytea NOT NULL
) WITH (fillfactor = 50);

-- Writes schedules, then ticks; called by write_rare_1 only. Of several changes of one row the last counts. A tick that was decided before its schedule was put anew says nothing new of it.
CREATE FUNCTION ${schema}.write_schedules_1(p_rare jsonb) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_row jsonb;
BEGIN
    FOR v_row IN
        SELECT r.value FROM jsonb_array_elements(p_rare->'schedules') WITH ORDINALITY r (value, place) ORDER BY r.place
    LOOP
        DELETE FROM ${schema}.schedule s WHERE s.name = v_row->>'name';
        IF v_row ? 'cron' THEN
            INSERT INTO ${schema}.schedule (name, cron, time_zone, missed_ticks, task, queue, args, paused, decided_until,
                    last_tick, last_outcome, last_outcome_job, deferred_tick, deferred_job, definition)
                VALUES (v_row->>'name', v_row->>'cron', v_row->>'time_zone', v_row->>'missed_ticks', v_row->>'task',
                    v_row->>'queue', v_row->>'args', (v_row->>'paused')::boolean,
                    ${schema}.from_micros((v_row->>'decided')::bigint),
                    ${schema}.from_micros((v_row->>'last_tick')::bigint), v_row->>'last_outcome',
                    (v_row->>'last_outcome_job')::bigint, ${schema}.from_micros((v_row->>'deferred_tick')::bigint),
                    (v_row->>'deferred_job')::bigint, decode(v_row->>'definition', 'hex'));
        END IF;
    END LOOP;
    UPDATE ${schema}.schedule s SET decided_until = t.decided, last_tick = t.last_tick, last_outcome = t.last_outcome,
            last_outcome_job = t.last_outcome_job, deferred_tick = t.deferred_tick, deferred_job = t.deferred_job
        FROM (
            SELECT DISTINCT ON (r.value->>'name') r.value->>'name' AS name,
                ${schema}.from_micros((r.value->>'decided')::bigint) AS decided,
                ${schema}.from_micros((r.value->>'last_tick')::bigint) AS last_tick,
                r.value->>'last_outcome' AS last_outcome,
                (r.value->>'last_outcome_job')::bigint AS last_outcome_job,
                ${schema}.from_micros((r.value->>'deferred_tick')::bigint) AS deferred_tick,
                (r.value->>'deferred_job')::bigint AS deferred_job
            FROM jsonb_array_elements(p_rare->'ticks') WITH ORDINALITY r (value, place)
            ORDER BY r.value->>'name', r.place DESC
        ) t
        WHERE s.name = t.name AND s.decided_until < t.decided;
END
$$;

REVOKE ALL ON ${schema}.schedule FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA ${schema} FROM PUBLIC;
