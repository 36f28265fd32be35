-- What operators change of jobs and queues, by key: it is asked for one by one, and not on a job's way.

-- Whether a queue is paused, for whoever looks, and for a cell whose log cannot be folded.
ALTER TABLE ${schema}.queue ADD COLUMN paused_at timestamptz;
ALTER TABLE ${schema}.queue ADD COLUMN paused_by text;
ALTER TABLE ${schema}.queue ADD COLUMN pause_reason text;

-- Takes one job out of the row that its plain success is packed in, if it is in one.
CREATE FUNCTION ${schema}.unpack_success(p_job bigint) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_row ${schema}.success;
    v_at integer;
BEGIN
    FOR v_row IN SELECT * FROM ${schema}.success s WHERE s.first BETWEEN (p_job & -128) AND p_job FOR UPDATE LOOP
        v_at := array_position(v_row.places, (p_job & 127)::smallint);
        CONTINUE WHEN v_at IS NULL;
        IF cardinality(v_row.places) = 1 THEN
            DELETE FROM ${schema}.success s WHERE s.first = v_row.first;
        ELSE
            UPDATE ${schema}.success s SET
                places = s.places[:v_at - 1] || s.places[v_at + 1:],
                took = s.took[:v_at - 1] || s.took[v_at + 1:],
                earlier = s.earlier[:v_at - 1] || s.earlier[v_at + 1:],
                session_of = s.session_of[:v_at - 1] || s.session_of[v_at + 1:]
                WHERE s.first = v_row.first;
        END IF;
    END LOOP;
END
$$;

-- Writes what verbs, and defers that met a taken queueing lock, change; called by write_rare_1 only. What is changed
-- must be there. A job may be named twice: the last word counts.
CREATE FUNCTION ${schema}.write_verbs_1(p_rare jsonb) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_row jsonb;
    v_found boolean;
BEGIN
    -- What outlives its partition is in two places while that is looked through.
    -- A due time stands in the job's row, or in that of its last ended delivery.
    FOR v_row IN SELECT r.value FROM jsonb_array_elements(p_rare->'due') WITH ORDINALITY r (value, place) ORDER BY r.place
    LOOP
        IF (v_row->>'delivery')::integer = 0 THEN
            UPDATE ${schema}.job SET due_at = ${schema}.from_micros((v_row->>'due')::bigint)
                WHERE id = (v_row->>'job')::bigint;
            v_found := FOUND;
            UPDATE ${schema}.job_kept SET due_at = ${schema}.from_micros((v_row->>'due')::bigint)
                WHERE id = (v_row->>'job')::bigint;
        ELSE
            UPDATE ${schema}.outcome SET next_due_at = ${schema}.from_micros((v_row->>'due')::bigint)
                WHERE job = (v_row->>'job')::bigint AND delivery = (v_row->>'delivery')::integer;
            v_found := FOUND;
            UPDATE ${schema}.outcome_kept SET next_due_at = ${schema}.from_micros((v_row->>'due')::bigint)
                WHERE job = (v_row->>'job')::bigint AND delivery = (v_row->>'delivery')::integer;
        END IF;
        IF NOT (v_found OR FOUND) THEN
            RAISE EXCEPTION 'job % has no due time to change', v_row->>'job' USING ERRCODE = 'CB004';
        END IF;
    END LOOP;
    FOR v_row IN SELECT r.value FROM jsonb_array_elements(p_rare->'args') WITH ORDINALITY r (value, place) ORDER BY r.place
    LOOP
        UPDATE ${schema}.job SET args = v_row->>'args' WHERE id = (v_row->>'job')::bigint;
        v_found := FOUND;
        UPDATE ${schema}.job_kept SET args = v_row->>'args' WHERE id = (v_row->>'job')::bigint;
        IF NOT (v_found OR FOUND) THEN
            RAISE EXCEPTION 'job % has no arguments to change', v_row->>'job' USING ERRCODE = 'CB004';
        END IF;
    END LOOP;
    FOR v_row IN SELECT r.value FROM jsonb_array_elements(p_rare->'deleted') r (value)
    LOOP
        DELETE FROM ${schema}.outcome WHERE job = (v_row->>'job')::bigint;
        DELETE FROM ${schema}.outcome_kept WHERE job = (v_row->>'job')::bigint;
        PERFORM ${schema}.unpack_success((v_row->>'job')::bigint);
        DELETE FROM ${schema}.job WHERE id = (v_row->>'job')::bigint;
        v_found := FOUND;
        DELETE FROM ${schema}.job_kept WHERE id = (v_row->>'job')::bigint;
        -- Retention may have been faster, since the job was looked up.
        IF NOT (v_found OR FOUND) THEN
            RAISE EXCEPTION 'job % was erased meanwhile, since its time was over', v_row->>'job'
                USING ERRCODE = '23503';
        END IF;
    END LOOP;
    FOR v_row IN SELECT r.value FROM jsonb_array_elements(p_rare->'pause') WITH ORDINALITY r (value, place)
        ORDER BY r.place
    LOOP
        UPDATE ${schema}.queue SET
            paused_at = ${schema}.from_micros((v_row->>'since')::bigint),
            paused_by = v_row->>'who',
            pause_reason = v_row->>'why'
            WHERE number = (v_row->>'queue')::integer;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'queue % has no name', v_row->>'queue' USING ERRCODE = 'CB004';
        END IF;
    END LOOP;
END
$$;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA ${schema} FROM PUBLIC;
