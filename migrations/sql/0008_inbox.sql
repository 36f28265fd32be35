-- What comes from SQL: jobs and verbs of applications, written in their own transactions by the functions below. The
-- owner takes committed rows in, in the order of their numbers, and deletes them as it does. Applications write
-- nothing else, so the owner never waits for one of their transactions.
CREATE TABLE ${schema}.inbox (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    x xid8 NOT NULL,
    written_at timestamptz NOT NULL,
    verb text NOT NULL,
    job bigint,
    who text NOT NULL,
    why text NOT NULL,
    queue text,
    task text,
    priority smallint,
    due_at timestamptz,
    args text,
    lock text,
    is_strict boolean,
    queueing_lock text,
    deadline timestamptz,
    attempt_timeout bigint,
    retry jsonb,
    metadata json,
    traceparent text,
    tracestate text
);
-- By transaction: what is new since a snapshot is what is of transactions that it did not see.
CREATE UNIQUE INDEX inbox_new ON ${schema}.inbox (x, number);
CREATE UNIQUE INDEX inbox_job ON ${schema}.inbox (job) WHERE verb = 'defer';

-- Where to ring, and the lock that the owner holds while it looks so often that nobody need ring.
CREATE FUNCTION ${schema}.inbox_bell(OUT channel text, OUT attended bigint)
LANGUAGE sql IMMUTABLE AS $$
    SELECT 'cabbage_inbox_' || md5('${schema_name}'), hashtextextended('cabbage inbox ${schema_name}', 0)
$$;

-- Wakes the owner at the commit. A transaction that is to be prepared must not notify: it says
-- SET LOCAL cabbage.ring = off, and its jobs are found within a second.
CREATE FUNCTION ${schema}.ring() RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_bell record;
BEGIN
    IF current_setting('cabbage.ring', true) = 'off' THEN
        RETURN;
    END IF;
    SELECT * INTO v_bell FROM ${schema}.inbox_bell();
    IF pg_try_advisory_lock_shared(v_bell.attended) THEN
        PERFORM pg_advisory_unlock_shared(v_bell.attended);
        PERFORM pg_notify(v_bell.channel, '');
    END IF;
END
$$;

-- A text of at most so many bytes without control characters; what is empty is null.
CREATE FUNCTION ${schema}.checked_text(p_field text, p_text text, p_bytes_max integer) RETURNS text
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF octet_length(p_text) > p_bytes_max THEN
        RAISE EXCEPTION '% has % bytes; the limit is %: make it shorter', p_field, octet_length(p_text), p_bytes_max
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF p_text ~ '[\u0001-\u001f\u007f-\u009f]' THEN
        RAISE EXCEPTION '% has a control character; use letters, digits, punctuation or spaces', p_field
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    RETURN nullif(p_text, '');
END
$$;

-- A duration from zero to a hundred years in microseconds, never shortened. A year counts as 365 days, a month as 30.
CREATE FUNCTION ${schema}.checked_micros(p_field text, p_duration interval) RETURNS bigint
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    -- Compared as intervals, a year would have 360 days; by its epoch it has 365 and a quarter.
    v_seconds numeric := extract(epoch FROM p_duration)::numeric
        - (extract(year FROM p_duration) * 21600)::numeric;
BEGIN
    IF v_seconds < 0 THEN
        RAISE EXCEPTION '% is negative; give zero or more', p_field USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF v_seconds > 36500 * 86400::numeric THEN
        RAISE EXCEPTION '% is longer than 100 years (36500 days); give less', p_field
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    RETURN ceil(v_seconds * 1000000);
END
$$;

-- An instant of the years 1970 to 9999.
CREATE FUNCTION ${schema}.checked_time(p_field text, p_time timestamptz) RETURNS timestamptz
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF p_time < timestamptz 'epoch' OR p_time > timestamptz '9999-12-31 23:59:59+00' THEN
        RAISE EXCEPTION '% is not within the years 1970 to 9999; give another time', p_field
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    RETURN p_time;
END
$$;

-- Arguments: JSON text of at most 256 KiB, nested at most 64 deep, kept byte for byte.
CREATE FUNCTION ${schema}.checked_args(p_args text) RETURNS text
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    v_brackets text;
BEGIN
    IF octet_length(p_args) > 262144 THEN
        RAISE EXCEPTION 'args has % bytes; the limit is 262144: make it shorter', octet_length(p_args)
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    BEGIN
        PERFORM p_args::json;
    EXCEPTION WHEN invalid_text_representation THEN
        RAISE EXCEPTION 'args is not JSON: %; give JSON text', SQLERRM USING ERRCODE = 'invalid_parameter_value';
    END;
    -- With so few brackets it is flat enough, wherever they are.
    IF length(p_args) - length(translate(p_args, '[{', '')) > 64 THEN
        v_brackets := regexp_replace(regexp_replace(p_args, '"([^"\\]|\\.)*"', '', 'g'), '[^][{}]', '', 'g');
        FOR level IN 1..64 LOOP
            -- The innermost ones go.
            v_brackets := regexp_replace(v_brackets, '\[\]|\{\}', '', 'g');
        END LOOP;
        IF v_brackets <> '' THEN
            RAISE EXCEPTION 'args is nested more than 64 deep; make it flatter'
                USING ERRCODE = 'invalid_parameter_value';
        END IF;
    END IF;
    RETURN coalesce(p_args, '{}');
END
$$;

-- Labels: at most 32 pairs of texts.
CREATE FUNCTION ${schema}.checked_metadata(p_metadata jsonb) RETURNS json
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    v_label record;
    v_count integer := 0;
BEGIN
    IF p_metadata IS NULL OR p_metadata IN ('null', '{}') THEN
        RETURN NULL;
    END IF;
    IF jsonb_typeof(p_metadata) <> 'object' THEN
        RAISE EXCEPTION 'metadata is no object; give an object of strings' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    FOR v_label IN SELECT m.key, m.value FROM jsonb_each(p_metadata) m LOOP
        v_count := v_count + 1;
        IF ${schema}.checked_text('metadata', v_label.key, 128) IS NULL THEN
            RAISE EXCEPTION 'metadata has an empty key; leave it out' USING ERRCODE = 'invalid_parameter_value';
        END IF;
        IF jsonb_typeof(v_label.value) <> 'string' THEN
            RAISE EXCEPTION 'metadata has a value at % that is no string; give strings', v_label.key
                USING ERRCODE = 'invalid_parameter_value';
        END IF;
        IF octet_length(v_label.value #>> '{}') > 1024 THEN
            RAISE EXCEPTION 'metadata has % bytes at %; the limit is 1024: make it shorter',
                octet_length(v_label.value #>> '{}'), v_label.key USING ERRCODE = 'invalid_parameter_value';
        END IF;
    END LOOP;
    IF v_count > 32 THEN
        RAISE EXCEPTION 'metadata has % elements; the limit is 32: give fewer', v_count
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    RETURN (SELECT json_object_agg(m.key, m.value ORDER BY m.key COLLATE "C") FROM jsonb_each_text(p_metadata) m);
END
$$;

-- A duration that is written in JSON.
CREATE FUNCTION ${schema}.read_interval(p_field text, p_text text) RETURNS interval
LANGUAGE plpgsql STABLE STRICT AS $$
BEGIN
    RETURN p_text::interval;
EXCEPTION WHEN data_exception THEN
    RAISE EXCEPTION '% is "%"; give an interval as PostgreSQL reads it, such as "10 minutes", up to 36500 days',
        p_field, left(p_text, 64) USING ERRCODE = 'invalid_parameter_value';
END
$$;

-- An instant that is written in JSON, the same whatever the session's time zone and style of dates.
CREATE FUNCTION ${schema}.read_instant(p_field text, p_text text) RETURNS timestamptz
LANGUAGE plpgsql STABLE STRICT AS $$
DECLARE
    v_zone text[] := regexp_match(p_text, '^[0-9]{4,6}-[0-9]{2}-[0-9]{2}[t ]'
        || '[0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:[.][0-9]+)?)?(z|[+-][0-9]{2}(?::?[0-9]{2})?)?$', 'i');
BEGIN
    IF v_zone IS NOT NULL AND v_zone[1] IS NULL THEN
        RAISE EXCEPTION '% is "%", without a time zone; put Z or an offset such as +02:00 behind it', p_field,
            left(p_text, 64) USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF v_zone IS NULL THEN
        RAISE invalid_datetime_format;
    END IF;
    RETURN p_text::timestamptz;
EXCEPTION WHEN invalid_datetime_format OR datetime_field_overflow OR invalid_time_zone_displacement_value THEN
    RAISE EXCEPTION '% is "%"; give an instant of the years 1970 to 9999 with its zone, such as 2031-05-09T17:30:00Z',
        p_field, left(p_text, 64) USING ERRCODE = 'invalid_parameter_value';
END
$$;

-- What follows a failed attempt: a number of attempts, or an object; as the owner reads it, with its waits in
-- microseconds. What is null is as if it were left out.
CREATE FUNCTION ${schema}.checked_retry(p_retry jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE AS $$
DECLARE
    v_retry jsonb := p_retry;
    v_pair record;
    v_checked jsonb := '{}';
BEGIN
    IF p_retry IS NULL OR p_retry = 'null' THEN
        RETURN NULL;
    END IF;
    IF jsonb_typeof(p_retry) = 'number' THEN
        v_retry := jsonb_build_object('max_attempts', p_retry);
    ELSIF jsonb_typeof(p_retry) <> 'object' THEN
        RAISE EXCEPTION 'retry is neither a number of attempts nor an object; give one of both'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    FOR v_pair IN
        SELECT r.key, r.value, jsonb_typeof(r.value) AS type, r.value #>> '{}' AS text, left(r.value::text, 64) AS shown
        FROM jsonb_each(v_retry) r
    LOOP
        CASE
            WHEN v_pair.key NOT IN ('max_attempts', 'wait', 'linear_wait', 'exponential_wait', 'max_wait',
                'exponential_factor', 'jitter', 'only_kinds', 'never_kinds') THEN
                RAISE EXCEPTION 'retry has no field %; leave it out', left(v_pair.key, 64)
                    USING ERRCODE = 'invalid_parameter_value';
            WHEN v_pair.type = 'null' THEN
                CONTINUE;
            WHEN v_pair.key = 'max_attempts' THEN
                IF v_pair.type <> 'number' OR v_pair.text !~ '^[0-9]{1,10}$' OR v_pair.text::bigint > 4294967295 THEN
                    RAISE EXCEPTION 'retry.max_attempts is %; give a whole number up to 4294967295, 0 for no limit',
                        v_pair.shown USING ERRCODE = 'invalid_parameter_value';
                END IF;
                v_checked := v_checked || jsonb_build_object(v_pair.key, v_pair.value);
            WHEN v_pair.key IN ('wait', 'linear_wait', 'exponential_wait', 'max_wait') THEN
                IF v_pair.type <> 'string' THEN
                    RAISE EXCEPTION 'retry.% is %; give a string with its unit, such as "10 seconds"', v_pair.key,
                        v_pair.shown USING ERRCODE = 'invalid_parameter_value';
                END IF;
                v_checked := v_checked || jsonb_build_object(v_pair.key, ${schema}.checked_micros(
                    'retry.' || v_pair.key, ${schema}.read_interval('retry.' || v_pair.key, v_pair.text)));
            WHEN v_pair.key IN ('exponential_factor', 'jitter') THEN
                IF v_pair.type <> 'number'
                    OR v_pair.key = 'exponential_factor' AND v_pair.text::numeric NOT BETWEEN 1 AND 100
                    OR v_pair.key = 'jitter' AND v_pair.text::numeric NOT BETWEEN 0 AND 1 THEN
                    RAISE EXCEPTION 'retry.% is %; give a number from %', v_pair.key, v_pair.shown,
                        CASE v_pair.key WHEN 'jitter' THEN '0 to 1' ELSE '1 to 100' END
                        USING ERRCODE = 'invalid_parameter_value';
                END IF;
                v_checked := v_checked || jsonb_build_object(v_pair.key, v_pair.value);
            ELSE
                IF v_pair.type <> 'array' OR jsonb_array_length(v_pair.value) > 16 THEN
                    RAISE EXCEPTION 'retry.% is no array of at most 16 names; give fewer', v_pair.key
                        USING ERRCODE = 'invalid_parameter_value';
                END IF;
                IF EXISTS (SELECT FROM jsonb_array_elements(v_pair.value) k (name)
                        WHERE jsonb_typeof(k.name) <> 'string') THEN
                    RAISE EXCEPTION 'retry.% has an element that is no string; give names', v_pair.key
                        USING ERRCODE = 'invalid_parameter_value';
                END IF;
                PERFORM ${schema}.checked_name('retry.' || v_pair.key, k.name)
                    FROM jsonb_array_elements_text(v_pair.value) k (name);
                v_checked := v_checked || jsonb_build_object(v_pair.key, v_pair.value);
        END CASE;
    END LOOP;
    RETURN v_checked;
END
$$;

-- A name of a queue, task or kind: 1 to 128 bytes without control characters.
CREATE FUNCTION ${schema}.checked_name(p_field text, p_name text) RETURNS text
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF coalesce(p_name, '') = '' THEN
        RAISE EXCEPTION '% is empty; give a name', p_field USING ERRCODE = 'invalid_parameter_value';
    END IF;
    RETURN ${schema}.checked_text(p_field, p_name, 128);
END
$$;

-- When something is due: at an instant, or after a delay that counts from now; null: neither is given.
CREATE FUNCTION ${schema}.checked_due(p_at timestamptz, p_in interval) RETURNS timestamptz
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    IF p_in IS NULL THEN
        RETURN ${schema}.checked_time('schedule_at', p_at);
    END IF;
    IF p_at IS NOT NULL THEN
        RAISE EXCEPTION 'schedule_at and schedule_in are both given; give one of both'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    RETURN least(
        clock_timestamp() + ${schema}.checked_micros('schedule_in', p_in) * interval '1 microsecond',
        timestamptz '9999-12-31 23:59:59+00');
END
$$;

-- A field of a job of a batch, as text; null: it is left out, or null.
CREATE FUNCTION ${schema}.field_of(p_job json, p_field text, p_type text) RETURNS text
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    v_type text := json_typeof(p_job->p_field);
BEGIN
    IF v_type NOT IN (p_type, 'null') THEN
        RAISE EXCEPTION '% is %; give a %', p_field, left((p_job->p_field)::text, 64), p_type
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    RETURN p_job->>p_field;
END
$$;

-- The priority of a job of a batch.
CREATE FUNCTION ${schema}.priority_of(p_job json) RETURNS integer
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    v_text text := ${schema}.field_of(p_job, 'priority', 'number');
BEGIN
    IF v_text !~ '^-?[0-9]{1,9}$' THEN
        RAISE EXCEPTION 'priority is %; priorities are whole numbers from -100 to 100', left(v_text, 64)
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    RETURN v_text::integer;
END
$$;

-- Writes one job; called by the functions for applications only.
CREATE FUNCTION ${schema}.write_job(
    p_task text, p_args text, p_queue text, p_priority integer, p_lock text, p_strict boolean, p_queueing_lock text,
    p_schedule_at timestamptz, p_schedule_in interval, p_deadline timestamptz, p_attempt_timeout interval,
    p_retry jsonb, p_metadata jsonb, p_traceparent text, p_tracestate text)
RETURNS bigint
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_now timestamptz := clock_timestamp();
    v_lock text := ${schema}.checked_text('lock', p_lock, 255);
    v_due timestamptz := ${schema}.checked_due(p_schedule_at, p_schedule_in);
    v_timeout bigint := ${schema}.checked_micros('attempt_timeout', p_attempt_timeout);
    v_id bigint;
BEGIN
    IF coalesce(p_priority, 0) NOT BETWEEN -100 AND 100 THEN
        RAISE EXCEPTION 'priority is %; priorities go from -100 to 100', p_priority
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF p_strict AND v_lock IS NULL THEN
        RAISE EXCEPTION 'strict is true without a lock; name the lock' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF v_timeout = 0 THEN
        RAISE EXCEPTION 'attempt_timeout is zero; leave it out for no limit' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    INSERT INTO ${schema}.inbox (x, written_at, verb, job, who, why, queue, task, priority, due_at, args, lock,
            is_strict, queueing_lock, deadline, attempt_timeout, retry, metadata, traceparent, tracestate)
        VALUES (pg_current_xact_id(), v_now, 'defer', nextval('${schema_name}.job_id'), session_user, '',
            coalesce(${schema}.checked_text('queue', p_queue, 128), 'default'),
            ${schema}.checked_name('task', p_task), coalesce(p_priority, 0), v_due, ${schema}.checked_args(p_args),
            v_lock, coalesce(p_strict, false), ${schema}.checked_text('queueing_lock', p_queueing_lock, 255),
            ${schema}.checked_time('deadline', p_deadline), v_timeout, ${schema}.checked_retry(p_retry),
            ${schema}.checked_metadata(p_metadata), ${schema}.checked_text('traceparent', p_traceparent, 512),
            ${schema}.checked_text('tracestate', p_tracestate, 512))
        RETURNING job INTO v_id;
    RETURN v_id;
END
$$;

-- Writes one verb; called by the functions for applications only.
CREATE FUNCTION ${schema}.write_verb(p_verb text, p_job bigint, p_queue text, p_due timestamptz, p_reason text)
RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    IF p_job IS NULL AND p_queue IS NULL THEN
        RAISE EXCEPTION 'job is null; give the id of a job' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF p_job IS NOT NULL AND NOT EXISTS (SELECT FROM ${schema}.job_now j WHERE j.id = p_job)
        AND NOT EXISTS (SELECT FROM ${schema}.inbox i WHERE i.job = p_job AND i.verb = 'defer') THEN
        RAISE EXCEPTION 'there is no job %; is it another cell''s?', p_job USING ERRCODE = 'no_data_found';
    END IF;
    INSERT INTO ${schema}.inbox (x, written_at, verb, job, who, why, queue, due_at)
        VALUES (pg_current_xact_id(), clock_timestamp(), p_verb, p_job, session_user,
            coalesce(${schema}.checked_text('reason', p_reason, 1024), ''), p_queue, p_due);
    PERFORM ${schema}.ring();
END
$$;

-- For applications, from here on. None of it is granted to everybody: see grant_producer and grant_operator.

-- Defers a job in the caller's transaction, and answers its id: it exists once that commits. `args` is JSON text.
CREATE FUNCTION ${schema}.defer(
    task text, args text DEFAULT '{}', queue text DEFAULT 'default', priority integer DEFAULT 0,
    lock text DEFAULT NULL, strict boolean DEFAULT false, queueing_lock text DEFAULT NULL,
    schedule_at timestamptz DEFAULT NULL, schedule_in interval DEFAULT NULL, deadline timestamptz DEFAULT NULL,
    attempt_timeout interval DEFAULT NULL, retry jsonb DEFAULT NULL, metadata jsonb DEFAULT NULL,
    traceparent text DEFAULT NULL, tracestate text DEFAULT NULL)
RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM ${schema}.ring();
    RETURN ${schema}.write_job(task, args, queue, priority, lock, strict, queueing_lock, schedule_at, schedule_in,
        deadline, attempt_timeout, retry, metadata, traceparent, tracestate);
END
$$;

-- The same, with arguments of type json: their text is kept byte for byte.
CREATE FUNCTION ${schema}.defer(
    task text, args json, queue text DEFAULT 'default', priority integer DEFAULT 0,
    lock text DEFAULT NULL, strict boolean DEFAULT false, queueing_lock text DEFAULT NULL,
    schedule_at timestamptz DEFAULT NULL, schedule_in interval DEFAULT NULL, deadline timestamptz DEFAULT NULL,
    attempt_timeout interval DEFAULT NULL, retry jsonb DEFAULT NULL, metadata jsonb DEFAULT NULL,
    traceparent text DEFAULT NULL, tracestate text DEFAULT NULL)
RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM ${schema}.ring();
    RETURN ${schema}.write_job(task, args::text, queue, priority, lock, strict, queueing_lock, schedule_at,
        schedule_in, deadline, attempt_timeout, retry, metadata, traceparent, tracestate);
END
$$;

-- The same, with arguments of type jsonb: their text is as PostgreSQL writes it.
CREATE FUNCTION ${schema}.defer(
    task text, args jsonb, queue text DEFAULT 'default', priority integer DEFAULT 0,
    lock text DEFAULT NULL, strict boolean DEFAULT false, queueing_lock text DEFAULT NULL,
    schedule_at timestamptz DEFAULT NULL, schedule_in interval DEFAULT NULL, deadline timestamptz DEFAULT NULL,
    attempt_timeout interval DEFAULT NULL, retry jsonb DEFAULT NULL, metadata jsonb DEFAULT NULL,
    traceparent text DEFAULT NULL, tracestate text DEFAULT NULL)
RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM ${schema}.ring();
    RETURN ${schema}.write_job(task, args::text, queue, priority, lock, strict, queueing_lock, schedule_at,
        schedule_in, deadline, attempt_timeout, retry, metadata, traceparent, tracestate);
END
$$;

-- Defers up to 1,000 jobs, each an object with the parameters of `defer`, and answers their ids in their order. Text
-- of arguments is kept byte for byte. One that is refused refuses all, and the error names it.
CREATE FUNCTION ${schema}.defer_batch(jobs json) RETURNS SETOF bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_item json;
    v_place integer := -1;
    v_unknown text;
BEGIN
    IF jobs IS NULL OR json_typeof(jobs) <> 'array' OR json_array_length(jobs) > 1000 THEN
        RAISE EXCEPTION 'jobs is no array of at most 1000 objects; give fewer at once'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM ${schema}.ring();
    FOR v_item IN SELECT e.value FROM json_array_elements(jobs) e LOOP
        v_place := v_place + 1;
        IF json_typeof(v_item) <> 'object' THEN
            RAISE EXCEPTION 'it is no object; give an object' USING ERRCODE = 'invalid_parameter_value';
        END IF;
        SELECT k.key INTO v_unknown FROM json_object_keys(v_item) k (key) WHERE k.key NOT IN ('task', 'args', 'queue',
            'priority', 'lock', 'strict', 'queueing_lock', 'schedule_at', 'schedule_in', 'deadline', 'attempt_timeout',
            'retry', 'metadata', 'traceparent', 'tracestate') LIMIT 1;
        IF FOUND THEN
            RAISE EXCEPTION 'it has a field % that is not known; leave it out', left(v_unknown, 64)
                USING ERRCODE = 'invalid_parameter_value';
        END IF;
        RETURN NEXT ${schema}.write_job(
            ${schema}.field_of(v_item, 'task', 'string'), (v_item->'args')::text,
            ${schema}.field_of(v_item, 'queue', 'string'), ${schema}.priority_of(v_item),
            ${schema}.field_of(v_item, 'lock', 'string'), ${schema}.field_of(v_item, 'strict', 'boolean')::boolean,
            ${schema}.field_of(v_item, 'queueing_lock', 'string'),
            ${schema}.read_instant('schedule_at', ${schema}.field_of(v_item, 'schedule_at', 'string')),
            ${schema}.read_interval('schedule_in', ${schema}.field_of(v_item, 'schedule_in', 'string')),
            ${schema}.read_instant('deadline', ${schema}.field_of(v_item, 'deadline', 'string')),
            ${schema}.read_interval('attempt_timeout', ${schema}.field_of(v_item, 'attempt_timeout', 'string')),
            (v_item->'retry')::jsonb, (v_item->'metadata')::jsonb,
            ${schema}.field_of(v_item, 'traceparent', 'string'), ${schema}.field_of(v_item, 'tracestate', 'string'));
    END LOOP;
EXCEPTION
    WHEN invalid_parameter_value THEN
        IF v_place < 0 THEN
            RAISE;
        END IF;
        RAISE EXCEPTION 'jobs[%]: %', v_place, SQLERRM USING ERRCODE = 'invalid_parameter_value';
    -- What is JSON but no text: NUL, or half of a character.
    WHEN data_exception THEN
        RAISE EXCEPTION 'jobs[%]: it has a string that is no text (%); mend the string', v_place, SQLERRM
            USING ERRCODE = 'invalid_parameter_value';
END
$$;

-- Cancels a job, once the caller's transaction has committed and the owner took it in: within a second (C11). What
-- cannot be obeyed by then is left alone; the view `verbs` says so, and why. The same holds for the verbs below.
CREATE FUNCTION ${schema}.cancel(job bigint, reason text DEFAULT '') RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM ${schema}.write_verb('cancel', job, NULL, NULL, reason);
END
$$;

-- Runs a final job again, with a new budget of attempts (C17). It is due now, unless told otherwise.
CREATE FUNCTION ${schema}.retry(
    job bigint, reason text DEFAULT '', schedule_at timestamptz DEFAULT NULL, schedule_in interval DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM ${schema}.write_verb('retry', job, NULL, ${schema}.checked_due(schedule_at, schedule_in), reason);
END
$$;

-- Moves a job that does not run in time. It is due now, unless told otherwise.
CREATE FUNCTION ${schema}.reschedule(
    job bigint, reason text DEFAULT '', schedule_at timestamptz DEFAULT NULL, schedule_in interval DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM ${schema}.write_verb('reschedule', job, NULL, ${schema}.checked_due(schedule_at, schedule_in), reason);
END
$$;

-- Starts no job of a queue any more (C11).
CREATE FUNCTION ${schema}.pause(queue text, reason text DEFAULT '') RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM ${schema}.write_verb('pause', NULL, ${schema}.checked_name('queue', queue), NULL, reason);
END
$$;

-- Starts the jobs of a queue again.
CREATE FUNCTION ${schema}.resume(queue text, reason text DEFAULT '') RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM ${schema}.write_verb('resume', NULL, ${schema}.checked_name('queue', queue), NULL, reason);
END
$$;

-- What was asked of jobs, queues and schedules, newest last: when, by whom and why, and what became of it (C17). One
-- from SQL is here once the owner has taken it in.
CREATE VIEW ${schema}.verbs AS
SELECT a.number, a.at, a.verb, a.job, a.queue, a.schedule, a.who, a.why, a.refused FROM ${schema}.audit a;

-- Grants these functions to a role; for the two functions below.
CREATE FUNCTION ${schema}.grant_functions(p_role name, p_names text[]) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_function regprocedure;
BEGIN
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO %I', '${schema_name}', p_role);
    FOR v_function IN
        SELECT p.oid FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
        WHERE n.nspname = '${schema_name}' AND p.proname = ANY (p_names)
    LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %I', v_function, p_role);
    END LOOP;
END
$$;

-- Lets a role defer jobs, cancel them, and ask for the state of one.
CREATE FUNCTION ${schema}.grant_producer(role name) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM ${schema}.grant_functions(role, ARRAY['defer', 'defer_batch', 'cancel', 'state']);
END
$$;

-- Lets a role do what producers do, and retry and reschedule jobs, pause and resume queues, and read the views of jobs
-- and of verbs.
CREATE FUNCTION ${schema}.grant_operator(role name) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM ${schema}.grant_producer(role);
    PERFORM ${schema}.grant_functions(role, ARRAY['retry', 'reschedule', 'pause', 'resume']);
    EXECUTE format('GRANT SELECT ON %1$I.jobs, %1$I.verbs TO %2$I', '${schema_name}', role);
END
$$;

REVOKE ALL ON ALL TABLES IN SCHEMA ${schema} FROM PUBLIC;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA ${schema} FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA ${schema} FROM PUBLIC;
