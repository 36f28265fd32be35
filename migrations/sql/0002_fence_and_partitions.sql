-- Raises unless this connection still owns the cell, and holds off a takeover until the transaction ends.
-- Every function that writes begins with it: the abort is what guards. What writes a single row asks the same in its own
-- statement (broker/src/store/postgres/one_row.rs), and so writes nothing.
CREATE FUNCTION ${schema}.fenced(p_writer smallint, p_term bigint, p_nonce bigint) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM FROM ${schema}.fence f
        WHERE f.writer = p_writer AND f.term = p_term AND f.nonce = p_nonce FOR SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'term % is over', p_term USING ERRCODE = 'CB001';
    END IF;
    -- Where the owner asked for it: nothing is acknowledged that is on this server alone. `--require-synchronous`.
    IF current_setting('cabbage.synchronous', true) = 'required'
        AND current_setting('synchronous_standby_names') = '' THEN
        RAISE EXCEPTION 'no replica is waited for: synchronous_standby_names is empty' USING ERRCODE = 'CB001';
    END IF;
END
$$;

-- Takes the term for two connections that hold the cell's lock; answers its number.
CREATE FUNCTION ${schema}.take_term_1(p_nonce bigint, p_pids integer[], p_backend_starts timestamptz[], p_address text)
RETURNS bigint
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_term bigint;
BEGIN
    -- First the rows' locks: a write of the owner before us ends here, or we give up after lock_timeout.
    PERFORM FROM ${schema}.fence f ORDER BY f.writer FOR UPDATE;
    SELECT max(f.term) + 1 INTO v_term FROM ${schema}.fence f;
    UPDATE ${schema}.fence f SET
        term = v_term,
        nonce = p_nonce,
        pid = p_pids[f.writer],
        backend_start = p_backend_starts[f.writer],
        address = p_address,
        since = clock_timestamp(),
        relay_key = gen_random_uuid();
    -- The first write of the term, with what every other begins with.
    PERFORM ${schema}.fenced(1::smallint, v_term, p_nonce);
    RETURN v_term;
END
$$;

-- Makes one partition, unless it is there. Created as a plain table and then attached: neither waits for a
-- transaction that has touched the parent, and nobody waits for us.
CREATE FUNCTION ${schema}.add_partition(p_parent text, p_name text, p_key text, p_from text, p_to text) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    IF to_regclass(format('%I.%I', '${schema_name}', p_name)) IS NOT NULL THEN
        RETURN;
    END IF;
    EXECUTE format('CREATE TABLE %1$I.%2$I (LIKE %1$I.%3$I INCLUDING ALL)', '${schema_name}', p_name, p_parent);
    EXECUTE format('ALTER TABLE %1$I.%2$I ADD CONSTRAINT bounds CHECK (%3$I >= %4$L AND %3$I < %5$L)',
        '${schema_name}', p_name, p_key, p_from, p_to);
    EXECUTE format('ALTER TABLE %1$I.%2$I ATTACH PARTITION %1$I.%3$I FOR VALUES FROM (%4$L) TO (%5$L)',
        '${schema_name}', p_parent, p_name, p_from, p_to);
    -- The partition's own bounds say the same from now on; a row need not be checked twice.
    EXECUTE format('ALTER TABLE %I.%I DROP CONSTRAINT bounds', '${schema_name}', p_name);
END
$$;

-- Makes the partitions of these ids, of this number of the log and of today, and `p_ahead` more of each.
CREATE FUNCTION ${schema}.add_partitions_1(
    p_writer smallint, p_term bigint, p_nonce bigint, p_ids bigint[], p_log_number bigint, p_ahead integer)
RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_part bigint;
    v_day date;
BEGIN
    PERFORM ${schema}.fenced(p_writer, p_term, p_nonce);
    -- Two connections of one owner may come here at once: never wait, it is tried again.
    IF NOT pg_try_advisory_xact_lock(hashtextextended('cabbage partitions ${schema_name}', 0)) THEN
        RAISE EXCEPTION 'partitions are being made' USING ERRCODE = 'lock_not_available';
    END IF;
    FOR v_part IN
        SELECT DISTINCT (i.id >> 24) + a.ahead FROM unnest(p_ids) i (id), generate_series(0, p_ahead) a (ahead)
        -- What retention has dropped does not come back.
        WHERE (i.id >> 24) + a.ahead >= (SELECT r.kept_below >> 24 FROM ${schema}.retention r)
    LOOP
        PERFORM ${schema}.add_partition('job', 'job_' || v_part, 'id',
            (v_part << 24)::text, ((v_part + 1) << 24)::text);
        PERFORM ${schema}.add_partition('outcome', 'outcome_' || v_part, 'job',
            (v_part << 24)::text, ((v_part + 1) << 24)::text);
        PERFORM ${schema}.add_partition('success', 'success_' || v_part, 'first',
            (v_part << 24)::text, ((v_part + 1) << 24)::text);
    END LOOP;
    FOR v_part IN SELECT (p_log_number >> 20) + a.ahead FROM generate_series(0, p_ahead) a (ahead) LOOP
        PERFORM ${schema}.add_partition('log', 'log_' || v_part, 'number',
            (v_part << 20)::text, ((v_part + 1) << 20)::text);
    END LOOP;
    FOR v_day IN
        SELECT (clock_timestamp() AT TIME ZONE 'UTC')::date + a.ahead FROM generate_series(0, p_ahead) a (ahead)
    LOOP
        PERFORM ${schema}.add_partition('request', 'request_' || to_char(v_day, 'YYYYMMDD'), 'day',
            v_day::text, (v_day + 1)::text);
    END LOOP;
END
$$;
