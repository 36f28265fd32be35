-- Writes one batch: all of it, or an error. One call is one transaction.
-- Arrays of one kind of row are parallel. A shorter one means: its last values are the default, or (queue, task,
-- verdict, finished) its only value stands for all. So a plain job or outcome costs few bytes.
CREATE FUNCTION ${schema}.commit_1(
    p_writer smallint, p_term bigint, p_nonce bigint,
    p_number bigint, p_after_nonce bigint, p_facts bytea, p_state_hash bigint,
    p_not_before timestamptz, p_reserve integer,
    j_ids bigint[], j_queues integer[], j_tasks integer[], j_priorities smallint[], j_dues timestamptz[],
    j_args text[], j_locks text[], j_queueing_locks text[], j_options bytea[], j_metadata text[],
    j_traceparents text[], j_tracestates text[],
    o_jobs bigint[], o_deliveries integer[], o_attempts integer[], o_verdicts smallint[], o_started timestamptz[],
    o_finished timestamptz[], o_sessions uuid[], o_reasons text[], o_error_kinds text[], o_error_messages text[],
    o_error_traces text[], o_results text[], o_next_dues timestamptz[], o_changed_queues text[],
    o_changed_priorities smallint[], o_changed_locks text[],
    s_firsts bigint[], s_finished timestamptz[], s_ends integer[], s_places smallint[], s_took integer[],
    s_earlier integer[], s_session_ends integer[], s_sessions uuid[], s_session_of smallint[],
    p_jobs bigint[], p_places bytea[], p_sorts bigint[], p_locks uuid[], p_queueing_locks text[], p_records bytea[],
    b_places bytea[], b_blocks bigint[], b_present bigint[], b_locks uuid[], b_records bytea[],
    u_jobs bigint[], u_places bytea[], u_sorts bigint[],
    l_places bytea[], l_blocks bigint[], l_leaving bigint[],
    r_ids text[], r_digests uuid[], r_answers bytea[],
    q_numbers integer[], q_names text[], t_numbers integer[], t_names text[],
    p_decided timestamptz DEFAULT NULL, p_rare jsonb DEFAULT NULL,
    i_numbers bigint[] DEFAULT NULL, i_queues integer[] DEFAULT NULL, i_tasks integer[] DEFAULT NULL,
    i_options bytea[] DEFAULT NULL,
    OUT committed_at timestamptz, OUT first_id bigint, OUT end_id bigint)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_queue integer := j_queues[1];
    v_task integer := j_tasks[1];
    v_verdict smallint := o_verdicts[1];
    v_finished timestamptz := o_finished[1];
    v_succeeded timestamptz := s_finished[1];
    v_created timestamptz;
    v_rows bigint;
    v_emptied tid[];
    v_left tid[];
    v_left_present bigint[];
    v_alone bigint := cardinality(u_jobs);
BEGIN
    PERFORM ${schema}.fenced(p_writer, p_term, p_nonce);

    -- Never early (C7): what starts in this batch is due by now, by this clock.
    committed_at := clock_timestamp();
    IF committed_at < p_not_before THEN
        IF p_not_before - committed_at > interval '100 ms' THEN
            RAISE EXCEPTION 'the clock stands at %, before %', committed_at, p_not_before USING ERRCODE = 'CB002';
        END IF;
        PERFORM pg_sleep(extract(epoch FROM p_not_before - committed_at));
        committed_at := clock_timestamp();
        IF committed_at < p_not_before THEN
            RAISE EXCEPTION 'the clock stands at %, before %', committed_at, p_not_before USING ERRCODE = 'CB002';
        END IF;
    END IF;

    -- The row before is there as the owner saw it. Within a term this connection wrote it itself.
    IF p_after_nonce <> p_nonce AND p_number > 1 THEN
        PERFORM FROM ${schema}.log l WHERE l.number = p_number - 1 AND l.nonce = p_after_nonce;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'log row % does not follow', p_number USING ERRCODE = 'CB003';
        END IF;
    END IF;
    INSERT INTO ${schema}.log (number, term, nonce, after_nonce, committed_at, state_hash, facts)
        VALUES (p_number, p_term, p_nonce, p_after_nonce, committed_at, p_state_hash, p_facts);

    IF cardinality(q_numbers) > 0 THEN
        INSERT INTO ${schema}.queue (number, name) SELECT * FROM unnest(q_numbers, q_names);
    END IF;
    IF cardinality(t_numbers) > 0 THEN
        INSERT INTO ${schema}.task (number, name) SELECT * FROM unnest(t_numbers, t_names);
    END IF;

    IF cardinality(j_ids) > 0 THEN
        -- When they were taken in, so that none seems to have started before.
        v_created := least(committed_at, p_decided);
        IF cardinality(j_ids) = 1 THEN
            -- Alone it does not come here, but it often comes with an end or two. To set up so many functions takes
            -- longer than to insert it.
            INSERT INTO ${schema}.job (id, created_at, due_at, queue, task, priority, args, lock, queueing_lock,
                    options, metadata, traceparent, tracestate)
                VALUES (j_ids[1], v_created, j_dues[1], v_queue, v_task, coalesce(j_priorities[1], 0::smallint),
                    j_args[1], j_locks[1], j_queueing_locks[1], j_options[1], j_metadata[1]::json, j_traceparents[1],
                    j_tracestates[1]);
        ELSE
            INSERT INTO ${schema}.job (id, created_at, due_at, queue, task, priority, args, lock, queueing_lock,
                    options, metadata, traceparent, tracestate)
                SELECT u.id, v_created, u.due, coalesce(u.queue, v_queue), coalesce(u.task, v_task),
                    coalesce(u.priority, 0::smallint), u.args, u.lock, u.queueing_lock, u.options,
                    u.metadata::json, u.traceparent, u.tracestate
                FROM unnest(j_ids, j_queues, j_tasks, j_priorities, j_dues, j_args, j_locks, j_queueing_locks,
                        j_options, j_metadata, j_traceparents, j_tracestates)
                    u (id, queue, task, priority, due, args, lock, queueing_lock, options,
                        metadata, traceparent, tracestate);
        END IF;
    END IF;

    IF cardinality(i_numbers) > 0 THEN
        -- What comes from SQL leaves the inbox. What it says of a job is copied here, and travels nowhere.
        INSERT INTO ${schema}.job (id, created_at, due_at, queue, task, priority, args, lock, queueing_lock, options,
                metadata, traceparent, tracestate)
            SELECT i.job, i.written_at, i.due_at, u.queue, u.task, i.priority, i.args, i.lock, i.queueing_lock,
                u.options, i.metadata, i.traceparent, i.tracestate
            FROM unnest(i_numbers, i_queues, i_tasks, i_options) u (number, queue, task, options)
            CROSS JOIN LATERAL (SELECT * FROM ${schema}.inbox q WHERE q.number = u.number LIMIT 1) i
            WHERE u.queue IS NOT NULL AND i.job >= (SELECT r.kept_below FROM ${schema}.retention r);
        -- A transaction may have been open for so long that its ids' partition is to go.
        INSERT INTO ${schema}.job_kept (id, created_at, due_at, queue, task, priority, args, lock, queueing_lock,
                options, metadata, traceparent, tracestate, copied)
            SELECT i.job, i.written_at, i.due_at, u.queue, u.task, i.priority, i.args, i.lock, i.queueing_lock,
                u.options, i.metadata, i.traceparent, i.tracestate, false
            FROM unnest(i_numbers, i_queues, i_tasks, i_options) u (number, queue, task, options)
            CROSS JOIN LATERAL (SELECT * FROM ${schema}.inbox q WHERE q.number = u.number LIMIT 1) i
            WHERE u.queue IS NOT NULL AND i.job < (SELECT r.kept_below FROM ${schema}.retention r);
        -- Key by key, as below.
        DELETE FROM ${schema}.inbox WHERE ctid = ANY (ARRAY(
            SELECT i.ctid FROM unnest(i_numbers) u (number)
            CROSS JOIN LATERAL (SELECT q.ctid FROM ${schema}.inbox q WHERE q.number = u.number LIMIT 1) i));
        GET DIAGNOSTICS v_rows = ROW_COUNT;
        IF v_rows <> cardinality(i_numbers) THEN
            RAISE EXCEPTION '% of % rows were in the inbox', v_rows, cardinality(i_numbers) USING ERRCODE = 'CB004';
        END IF;
    END IF;

    IF cardinality(o_jobs) > 0 THEN
        INSERT INTO ${schema}.outcome (job, started_at, finished_at, delivery, attempt, verdict, session, reason,
                error_kind, error_message, error_trace, result, next_due_at, changed_queue, changed_priority,
                changed_lock)
            SELECT u.job, u.started, coalesce(u.finished, v_finished), coalesce(u.delivery, 1),
                coalesce(u.attempt, 1), coalesce(u.verdict, v_verdict), u.session, u.reason, u.error_kind,
                u.error_message, u.error_trace, u.result, u.next_due, u.changed_queue, u.changed_priority,
                u.changed_lock
            FROM unnest(o_jobs, o_deliveries, o_attempts, o_verdicts, o_started, o_finished, o_sessions, o_reasons,
                    o_error_kinds, o_error_messages, o_error_traces, o_results, o_next_dues, o_changed_queues,
                    o_changed_priorities, o_changed_locks)
                u (job, delivery, attempt, verdict, started, finished, session, reason,
                    error_kind, error_message, error_trace, result, next_due, changed_queue,
                    changed_priority, changed_lock);
    END IF;

    IF cardinality(s_firsts) > 0 THEN
        -- One row after the other: where each ends among what the rows hold, and among their sessions.
        INSERT INTO ${schema}.success (first, finished_at, places, took, earlier, sessions, session_of)
            SELECT u.first, coalesce(u.finished, v_succeeded), s_places[u.low:u.high], s_took[u.low:u.high],
                CASE WHEN cardinality(s_earlier) > 0 THEN s_earlier[u.low:u.high] END,
                s_sessions[u.low_session:u.high_session],
                CASE WHEN cardinality(s_session_of) > 0 THEN s_session_of[u.low:u.high] END
            FROM (
                SELECT r.first, r.finished, lag(r.high, 1, 0) OVER rows + 1 AS low, r.high,
                    lag(r.high_session, 1, 0) OVER rows + 1 AS low_session, r.high_session
                FROM unnest(s_firsts, s_finished, s_ends, s_session_ends) WITH ORDINALITY
                    r (first, finished, high, high_session, place)
                WINDOW rows AS (ORDER BY r.place)
            ) u;
    END IF;

    -- What leaves a place goes before what comes: a job may change its place in one batch. Key by key, whatever the
    -- plan was made from: LIMIT forbids one that begins with the table.
    IF cardinality(l_blocks) > 0 THEN
        -- Most often all jobs of a row leave together. A block has 64 rows at most, one for each of its ids.
        SELECT array_agg(r.ctid) FILTER (WHERE r.left_over = 0), array_agg(r.ctid) FILTER (WHERE r.left_over <> 0),
                array_agg(r.left_over) FILTER (WHERE r.left_over <> 0),
                cardinality(u_jobs) - coalesce(sum(bit_count((r.present & r.leaving)::bit(64))), 0)
            INTO v_emptied, v_left, v_left_present, v_alone
            FROM (
                SELECT p.ctid, p.present, u.leaving, p.present & (~u.leaving) AS left_over
                FROM unnest(l_places, l_blocks, l_leaving) u (place, block, leaving)
                CROSS JOIN LATERAL (
                    SELECT q.ctid, q.present FROM ${schema}.parked_block q
                    WHERE q.place = u.place AND q.block = u.block AND (q.present & u.leaving) <> 0 LIMIT 64) p
            ) r;
        DELETE FROM ${schema}.parked_block WHERE ctid = ANY (v_emptied);
        FOR v_row IN 1..coalesce(cardinality(v_left), 0) LOOP
            UPDATE ${schema}.parked_block SET present = v_left_present[v_row] WHERE ctid = v_left[v_row];
        END LOOP;
    END IF;
    IF v_alone <> 0 THEN
        DELETE FROM ${schema}.parked WHERE ctid = ANY (ARRAY(
            SELECT p.ctid FROM unnest(u_places, u_sorts, u_jobs) u (place, sort, job)
            CROSS JOIN LATERAL (
                SELECT q.ctid FROM ${schema}.parked q
                WHERE q.place = u.place AND q.sort = u.sort AND q.job = u.job LIMIT 1) p));
        GET DIAGNOSTICS v_rows = ROW_COUNT;
        IF v_rows <> v_alone THEN
            RAISE EXCEPTION '% of % jobs were parked where they should be', v_rows, v_alone USING ERRCODE = 'CB004';
        END IF;
    END IF;
    IF cardinality(p_jobs) > 0 THEN
        INSERT INTO ${schema}.parked (place, sort, job, lock, queueing_lock, record)
            SELECT u.place, coalesce(u.sort, 0), u.job, u.lock, u.queueing_lock, u.record
            FROM unnest(p_jobs, p_places, p_sorts, p_locks, p_queueing_locks, p_records)
                u (job, place, sort, lock, queueing_lock, record);
    END IF;
    IF cardinality(b_blocks) > 0 THEN
        INSERT INTO ${schema}.parked_block (block, present, number, place, lock, records)
            SELECT u.block, u.present, p_number, u.place, u.lock, u.records
            FROM unnest(b_places, b_blocks, b_present, b_locks, b_records) u (place, block, present, lock, records);
    END IF;

    IF cardinality(r_ids) > 0 THEN
        INSERT INTO ${schema}.request (day, id, digest, answer)
            SELECT (committed_at AT TIME ZONE 'UTC')::date, u.* FROM unnest(r_ids, r_digests, r_answers) u;
    END IF;

    IF p_rare IS NOT NULL THEN
        PERFORM ${schema}.write_rare_1(p_rare);
    END IF;

    first_id := 0;
    end_id := 0;
    IF p_reserve > 0 THEN
        SELECT r.first_id, r.end_id INTO first_id, end_id FROM ${schema}.reserve_ids(p_reserve) r;
    END IF;
END
$$;

-- Draws ids from the sequence: a run without a gap. Should others draw at the same time, it is the longest run of
-- those that were drawn, and may be shorter than asked for; the rest are ids that nobody gets.
CREATE FUNCTION ${schema}.reserve_ids(p_count integer, OUT first_id bigint, OUT end_id bigint)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_ids bigint[];
BEGIN
    IF p_count <= 0 THEN
        first_id := 0;
        end_id := 0;
        RETURN;
    END IF;
    v_ids := ARRAY(SELECT nextval('${schema_name}.job_id') FROM generate_series(1, p_count));
    first_id := v_ids[1];
    end_id := v_ids[p_count] + 1;
    IF end_id - first_id <> p_count THEN
        SELECT min(s.id), max(s.id) + 1 INTO first_id, end_id
            FROM (SELECT u.id, u.id - u.place AS run FROM unnest(v_ids) WITH ORDINALITY u (id, place)) s
            GROUP BY s.run ORDER BY count(*) DESC, s.run DESC LIMIT 1;
    END IF;
END
$$;

-- Reserves ids without a batch.
CREATE FUNCTION ${schema}.reserve_1(
    p_writer smallint, p_term bigint, p_nonce bigint, p_count integer, OUT first_id bigint, OUT end_id bigint)
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM ${schema}.fenced(p_writer, p_term, p_nonce);
    SELECT r.first_id, r.end_id INTO first_id, end_id FROM ${schema}.reserve_ids(p_count) r;
END
$$;

-- Writes one chunk of a checkpoint. The first one sweeps away what a broken attempt left at this number; the last one
-- makes the checkpoint exist, and drops all before the one before it.
CREATE FUNCTION ${schema}.checkpoint_1(
    p_writer smallint, p_term bigint, p_nonce bigint,
    p_number bigint, p_log_nonce bigint, p_chunk integer, p_is_last boolean, p_data bytea)
RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM ${schema}.fenced(p_writer, p_term, p_nonce);
    IF p_chunk = 0 THEN
        DELETE FROM ${schema}.checkpoint c WHERE c.number >= p_number;
    END IF;
    INSERT INTO ${schema}.checkpoint (number, chunk, nonce, is_last, written_at, data)
        VALUES (p_number, p_chunk, p_log_nonce, p_is_last, clock_timestamp(), p_data);
    IF p_is_last THEN
        DELETE FROM ${schema}.checkpoint c WHERE c.number < p_number AND c.number <> coalesce(
            (SELECT max(b.number) FROM ${schema}.checkpoint b WHERE b.is_last AND b.number < p_number), p_number);
    END IF;
END
$$;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA ${schema} FROM PUBLIC;
