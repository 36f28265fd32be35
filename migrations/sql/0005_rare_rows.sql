-- Rows that few commits have. They come as one JSON object, a list for each kind of row, in the order of decision.

-- Verbs: who asked for what, when and why (C17). One from SQL that could not be obeyed says why it was not: nobody
-- waited for its answer.
CREATE TABLE ${schema}.audit (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL,
    verb text NOT NULL,
    job bigint,
    queue text,
    schedule text,
    who text NOT NULL,
    why text NOT NULL,
    refused text
);
CREATE INDEX audit_job ON ${schema}.audit (job, number) WHERE job IS NOT NULL;

-- A time of the owner: microseconds since 1970.
CREATE FUNCTION ${schema}.from_micros(p_micros bigint) RETURNS timestamptz
LANGUAGE sql IMMUTABLE AS $$
    -- Two steps, since an interval is multiplied as a float: exact in any year.
    SELECT timestamptz 'epoch' + p_micros / 1000000 * interval '1 second' + p_micros % 1000000 * interval '1 microsecond'
$$;

-- Writes them; called by commit_1 only.
CREATE FUNCTION ${schema}.write_rare_1(p_rare jsonb) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM ${schema}.write_verbs_1(p_rare);
    PERFORM ${schema}.write_schedules_1(p_rare);
    INSERT INTO ${schema}.audit (at, verb, job, queue, schedule, who, why, refused)
        SELECT ${schema}.from_micros((r.value->>'at')::bigint), r.value->>'verb', (r.value->>'job')::bigint,
            r.value->>'queue', r.value->>'schedule', r.value->>'who', r.value->>'why',
            r.value->>'refused'
        FROM jsonb_array_elements(p_rare->'audit') WITH ORDINALITY r (value, place)
        ORDER BY r.place;
    PERFORM ${schema}.write_kept_1(p_rare);
END
$$;

REVOKE ALL ON ALL TABLES IN SCHEMA ${schema} FROM PUBLIC;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA ${schema} FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA ${schema} FROM PUBLIC;
