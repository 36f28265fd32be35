//! The functions for applications: what they check, who may call them, and what the view says.

use sqlx::{AssertSqlSafe, PgConnection, Row};

use crate::cell::TestCell;

/// The error of a statement that must fail, as its code and text.
async fn refused(connection: &mut PgConnection, sql: &str) -> (String, String) {
    let error = sqlx::query(AssertSqlSafe(sql.to_owned())).execute(connection).await.expect_err(sql);
    let error = error.into_database_error().expect("the server refuses it");
    (error.code().unwrap_or_default().into_owned(), error.message().to_owned())
}

async fn passes(connection: &mut PgConnection, sql: &str) {
    sqlx::query(AssertSqlSafe(sql.to_owned())).execute(connection).await.expect(sql);
}

async fn text(connection: &mut PgConnection, sql: &str) -> Option<String> {
    sqlx::query(AssertSqlSafe(sql.to_owned())).fetch_one(connection).await.expect(sql).get(0)
}

#[tokio::test]
async fn each_limit_is_checked_at_the_edge_and_named_one_over() {
    let cell = TestCell::in_postgres().await;
    let mut connection = cell.connection().await;
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let labels = |count: usize| {
        let pairs: Vec<String> = (0..count).map(|number| format!("\"{number}\": \"\"")).collect();
        format!("{{{}}}", pairs.join(","))
    };
    let x = |count: usize| "x".repeat(count);
    let cases = [
        (format!("defer('{}')", x(128)), format!("defer('{}')", x(129)), "task", "128"),
        (format!("defer('t', queue => '{}')", x(128)), format!("defer('t', queue => '{}')", x(129)), "queue", "128"),
        (format!("defer('t', lock => '{}')", x(255)), format!("defer('t', lock => '{}')", x(256)), "lock", "255"),
        (
            format!("defer('t', queueing_lock => '{}')", x(255)),
            format!("defer('t', queueing_lock => '{}')", x(256)),
            "queueing_lock",
            "255",
        ),
        ("defer('t', priority => 100)".into(), "defer('t', priority => 101)".into(), "priority", "100"),
        ("defer('t', priority => -100)".into(), "defer('t', priority => -101)".into(), "priority", "-100"),
        (format!("defer('t', '\"{}\"')", x(262_142)), format!("defer('t', '\"{}\"')", x(262_143)), "args", "262144"),
        (format!("defer('t', '{}')", nested(64)), format!("defer('t', '{}')", nested(65)), "args", "64"),
        (
            format!("defer('t', metadata => '{}')", labels(32)),
            format!("defer('t', metadata => '{}')", labels(33)),
            "metadata",
            "32",
        ),
        (
            "defer('t', schedule_in => '36500 days')".into(),
            "defer('t', schedule_in => '36501 days')".into(),
            "schedule_in",
            "100 years",
        ),
        (
            "defer('t', schedule_in => '100 years')".into(),
            "defer('t', schedule_in => '100 years 1 microsecond')".into(),
            "schedule_in",
            "36500 days",
        ),
        (
            "defer('t', attempt_timeout => '1199 months')".into(),
            "defer('t', attempt_timeout => '101 years')".into(),
            "attempt_timeout",
            "36500 days",
        ),
        (
            "defer('t', retry => '{\"max_wait\": \"100 years\"}')".into(),
            "defer('t', retry => '{\"max_wait\": \"101 years\"}')".into(),
            "retry.max_wait",
            "36500 days",
        ),
        (
            "defer('t', retry => '4294967295')".into(),
            "defer('t', retry => '4294967296')".into(),
            "retry.max_attempts",
            "4294967295",
        ),
        (
            "defer('t', schedule_at => '9999-12-31 23:59:59Z')".into(),
            "defer('t', schedule_at => '10000-01-01Z')".into(),
            "schedule_at",
            "9999",
        ),
        (
            format!("count(*) FROM defer_batch('[{}]')", vec!["{\"task\": \"t\"}"; 1_000].join(",")),
            format!("count(*) FROM defer_batch('[{}]')", vec!["{\"task\": \"t\"}"; 1_001].join(",")),
            "jobs",
            "1000",
        ),
        (
            "defer('t', retry => '{\"jitter\": 1}')".into(),
            "defer('t', retry => '{\"jitter\": 1.1}')".into(),
            "retry.jitter",
            "1",
        ),
    ];
    for (good, bad, field, limit) in cases {
        passes(&mut connection, &format!("SELECT {good}")).await;
        let (code, message) = refused(&mut connection, &format!("SELECT {bad}")).await;
        assert_eq!(code, "22023", "{message}");
        assert!(message.starts_with(field) && message.contains(limit), "{field}: {message}");
    }
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_by_name() {
    let cell = TestCell::in_postgres().await;
    let mut connection = cell.connection().await;
    let cases = [
        ("defer('')", "task is empty"),
        ("defer(NULL)", "task is empty"),
        ("defer(E'a\\nb')", "task has a control character"),
        ("defer('t', queue => E'a\\u0085b')", "queue has a control character"),
        ("defer('t', '{')", "args is not JSON"),
        ("defer('t', strict => true)", "strict is true without a lock"),
        ("defer('t', schedule_at => now(), schedule_in => '1 s')", "schedule_at and schedule_in are both given"),
        ("defer('t', schedule_in => '-1 s')", "schedule_in is negative"),
        ("defer('t', schedule_at => 'infinity')", "schedule_at is not within"),
        ("defer('t', attempt_timeout => '0')", "attempt_timeout is zero"),
        ("defer('t', retry => '\"often\"')", "retry is neither"),
        ("defer('t', retry => '{\"attempts\": 3}')", "retry has no field attempts"),
        ("defer('t', retry => '{\"max_attempts\": -1}')", "retry.max_attempts is -1"),
        ("defer('t', retry => '{\"max_attempts\": 1.5}')", "retry.max_attempts is 1.5; give a whole number up to"),
        ("defer('t', retry => '{\"wait\": 5}')", "retry.wait is 5; give a string with its unit"),
        ("defer('t', retry => '{\"wait\": [\"1s\"]}')", "retry.wait is [\"1s\"]; give a string with its unit"),
        ("defer('t', retry => '{\"linear_wait\": {}}')", "retry.linear_wait is {}; give a string with its unit"),
        ("defer('t', retry => '{\"max_wait\": \"soon\"}')", "retry.max_wait is \"soon\"; give an interval"),
        ("defer('t', retry => '{\"jitter\": \"1\"}')", "retry.jitter is \"1\"; give a number from 0 to 1"),
        ("defer('t', retry => '{\"only_kinds\": [\"a\", 1]}')", "retry.only_kinds has an element that is no string"),
        ("defer('t', retry => '{\"never_kinds\": [null]}')", "retry.never_kinds has an element that is no string"),
        ("defer('t', retry => '{\"never_kinds\": [\"\"]}')", "retry.never_kinds is empty"),
        ("defer('t', metadata => '{\"a\": 1}')", "metadata has a value at a that is no string"),
        ("defer('t', metadata => '[]')", "metadata is no object"),
        ("defer_batch('[{\"task\": \"t\"}, {\"task\": \"t\", \"prio\": 1}]')", "jobs[1]: it has a field prio"),
        ("defer_batch('[{\"task\": \"t\", \"priority\": 101}]')", "jobs[0]: priority is 101"),
        ("defer_batch('{}')", "jobs is no array"),
        ("defer_batch(NULL)", "jobs is no array"),
    ];
    for (call, expected) in cases {
        let (code, message) = refused(&mut connection, &format!("SELECT {call}")).await;
        assert!(message.starts_with(expected), "{call}: {message}");
        assert_eq!(code, "22023", "{call}");
    }
    assert_eq!(text(&mut connection, "SELECT count(*)::text FROM inbox").await.as_deref(), Some("0"));
}

#[tokio::test]
async fn each_field_of_a_batch_is_of_its_type_and_refused_by_name() {
    let cell = TestCell::in_postgres().await;
    let mut connection = cell.connection().await;
    // Whatever the session says, an instant has its zone with it.
    passes(&mut connection, "SET TimeZone = 'Asia/Tokyo'").await;
    passes(&mut connection, "SET DateStyle = 'SQL, DMY'").await;
    let cases = [
        (r#""task": 5"#, "task is 5; give a string"),
        (r#""queue": {"a": 1}"#, r#"queue is {"a": 1}; give a string"#),
        (r#""lock": true"#, "lock is true; give a string"),
        (r#""queueing_lock": []"#, "queueing_lock is []; give a string"),
        (r#""traceparent": 0"#, "traceparent is 0; give a string"),
        (r#""strict": "yes""#, r#"strict is "yes"; give a boolean"#),
        (r#""priority": "x""#, r#"priority is "x"; give a number"#),
        (r#""priority": 1.5"#, "priority is 1.5; priorities are whole numbers from -100 to 100"),
        (r#""priority": 12345678901"#, "priority is 12345678901; priorities are whole numbers from -100 to 100"),
        (
            r#""schedule_at": "2031-01-01T00:00:00""#,
            r#"schedule_at is "2031-01-01T00:00:00", without a time zone; put Z"#,
        ),
        (r#""schedule_at": "2031-01-01""#, r#"schedule_at is "2031-01-01"; give an instant of the years 1970 to 9999"#),
        (r#""schedule_at": "tomorrow""#, r#"schedule_at is "tomorrow"; give an instant"#),
        (r#""schedule_at": "2031-02-30T00:00:00Z""#, r#"schedule_at is "2031-02-30T00:00:00Z"; give an instant"#),
        (r#""schedule_at": "10000-01-01T00:00:00Z""#, "schedule_at is not within the years 1970 to 9999"),
        (r#""schedule_at": 1924905600"#, "schedule_at is 1924905600; give a string"),
        (r#""deadline": "2031-01-01 00:00""#, r#"deadline is "2031-01-01 00:00", without a time zone"#),
        (r#""schedule_in": "soon""#, r#"schedule_in is "soon"; give an interval as PostgreSQL reads it"#),
        (
            r#""schedule_in": "999999999999999999 days""#,
            r#"schedule_in is "999999999999999999 days"; give an interval"#,
        ),
        (r#""attempt_timeout": 30"#, "attempt_timeout is 30; give a string"),
        (r#""attempt_timeout": "101 years""#, "attempt_timeout is longer than 100 years"),
        (r#""retry": {"wait": ["1s"]}"#, r#"retry.wait is ["1s"]; give a string"#),
        (r#""metadata": ["a"]"#, "metadata is no object"),
        (r#""lock": "a\u0000b""#, "it has a string that is no text"),
    ];
    for (field, expected) in cases {
        let task = if field.starts_with(r#""task""#) { "" } else { r#""task": "t", "# };
        let call = format!(r#"SELECT defer_batch('[{{"task": "t"}}, {{{task}{field}}}]')"#);
        let (code, message) = refused(&mut connection, &call).await;
        assert!(message.starts_with(&format!("jobs[1]: {expected}")), "{field}: {message}");
        assert_eq!(code, "22023", "{field}");
    }
    assert_eq!(text(&mut connection, "SELECT count(*)::text FROM inbox").await.as_deref(), Some("0"));
    let whole = r#"[{"task": "t", "schedule_at": "2031-01-01T09:00:00.5+09:00", "deadline": "2031-01-02 00:00z"}]"#;
    passes(&mut connection, &format!("SELECT defer_batch('{whole}')")).await;
    let times =
        "SELECT concat(extract(epoch FROM due_at)::float8, ' ', extract(epoch FROM deadline)::float8) FROM inbox";
    assert_eq!(text(&mut connection, times).await.as_deref(), Some("1924992000.5 1925078400"));
}

#[tokio::test]
async fn what_is_null_is_as_if_it_were_left_out() {
    let cell = TestCell::in_postgres().await;
    let mut connection = cell.connection().await;
    let nulls = r#""queue": null, "priority": null, "lock": null, "strict": null, "queueing_lock": null,
        "schedule_at": null, "schedule_in": null, "deadline": null, "attempt_timeout": null, "retry": null,
        "metadata": null, "traceparent": null, "tracestate": null"#;
    let policy = r#"{"max_attempts": 3, "wait": null, "linear_wait": null, "only_kinds": null, "jitter": null}"#;
    for sql in [
        "SELECT defer('t')".to_owned(),
        format!(r#"SELECT defer_batch('[{{"task": "t", {nulls}}}]')"#),
        "SELECT defer('t', retry => 'null', metadata => 'null')".to_owned(),
    ] {
        passes(&mut connection, &sql).await;
    }
    let kinds = "SELECT count(DISTINCT (to_jsonb(i) - 'number' - 'x' - 'job' - 'written_at'))::text FROM inbox i";
    assert_eq!(text(&mut connection, kinds).await.as_deref(), Some("1"), "all three are the same");
    for sql in [
        format!("SELECT defer('p', retry => '{policy}')"),
        format!(r#"SELECT defer_batch('[{{"task": "p", "retry": {policy}}}]')"#),
    ] {
        passes(&mut connection, &sql).await;
    }
    let policies = "SELECT string_agg(DISTINCT retry::text, '; ') FROM inbox WHERE task = 'p'";
    assert_eq!(text(&mut connection, policies).await.as_deref(), Some(r#"{"max_attempts": 3}"#));
    // But `null` can be what a job is given.
    passes(&mut connection, r#"SELECT defer_batch('[{"task": "n", "args": null}]')"#).await;
    passes(&mut connection, "SELECT defer('n', 'null')").await;
    passes(&mut connection, "SELECT defer('n', NULL::text)").await;
    let args = "SELECT string_agg(args, ' ' ORDER BY number) FROM inbox WHERE task = 'n'";
    assert_eq!(text(&mut connection, args).await.as_deref(), Some("null null {}"));
}

#[tokio::test]
async fn every_sql_block_of_the_how_to_page_runs() {
    let cell = TestCell::in_postgres().await;
    let mut connection = cell.connection().await;
    let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/how-to/transactions.md");
    let page = std::fs::read_to_string(page).expect("the page is there");
    let blocks: Vec<&str> = page.split("```sql\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert_eq!(blocks.len(), 6);
    let role = text(&mut connection, "SELECT quote_literal(current_user)").await.expect("a role");
    for block in blocks {
        let block = block.replace("'your_role'", &role);
        sqlx::raw_sql(AssertSqlSafe(block.clone())).execute(&mut connection).await.expect(&block);
    }
    let jobs = text(&mut connection, "SELECT count(*)::text FROM jobs").await;
    assert_eq!(jobs.as_deref(), Some("5"), "each call of the page defers what it says");
}

#[tokio::test]
async fn arguments_of_each_type_keep_their_text() {
    let cell = TestCell::in_postgres().await;
    let mut connection = cell.connection().await;
    let big = " {\"n\" : 12345678901234567890.10} ";
    for (call, kept) in [
        (format!("defer('t', '{big}')"), big),
        (format!("defer('t', '{big}'::text)"), big),
        (format!("defer('t', '{big}'::json)"), big),
        (format!("defer('t', '{big}'::jsonb)"), "{\"n\": 12345678901234567890.10}"),
        ("defer('t')".to_owned(), "{}"),
        (format!("defer_batch('[{{\"task\": \"t\", \"args\":{big}}}]')"), big.trim()),
    ] {
        let id = text(&mut connection, &format!("SELECT ({call})::text")).await.expect("an id");
        let args = text(&mut connection, &format!("SELECT args FROM jobs WHERE id = {id}")).await;
        assert_eq!(args.as_deref().map(str::trim), Some(kept.trim()), "{call}");
    }
}

#[tokio::test]
async fn batch_gives_ids_in_its_order_and_takes_each_option() {
    let cell = TestCell::in_postgres().await;
    let mut connection = cell.connection().await;
    let jobs = r#"[{"task": "a"}, {"task": "b", "queue": "q", "priority": 3, "lock": "l", "strict": true,
        "schedule_in": "1 hour", "retry": 3, "metadata": {"k": "v"}, "args": [1]}]"#;
    let ids =
        sqlx::query("SELECT defer_batch($1::json)").bind(jobs).fetch_all(&mut connection).await.expect("deferred");
    let ids: Vec<i64> = ids.iter().map(|row| row.get(0)).collect();
    let shown = sqlx::query("SELECT task, state, priority, id, lock FROM jobs ORDER BY id");
    let shown = shown.fetch_all(&mut connection).await.expect("read");
    let row = |at: usize| {
        let row = &shown[at];
        (row.get::<String, _>(0), row.get::<String, _>(1), row.get::<i16, _>(2), row.get::<i64, _>(3))
    };
    assert_eq!(row(0), ("a".into(), "waiting".into(), 0, ids[0]));
    assert_eq!(row(1), ("b".into(), "scheduled".into(), 3, ids[1]));
    assert_eq!(shown[1].get::<Option<String>, _>(4).as_deref(), Some("l"));
}

#[tokio::test]
async fn state_is_known_within_the_transaction_and_gone_with_it() {
    let cell = TestCell::in_postgres().await;
    let mut connection = cell.connection().await;
    passes(&mut connection, "BEGIN").await;
    let id = text(&mut connection, "SELECT defer('t')::text").await.expect("an id");
    let later = text(&mut connection, "SELECT defer('t', schedule_in => '1 hour')::text").await.expect("an id");
    let state = format!("SELECT state({id})");
    assert_eq!(text(&mut connection, &state).await.as_deref(), Some("waiting"));
    assert_eq!(text(&mut connection, &format!("SELECT state({later})")).await.as_deref(), Some("scheduled"));
    assert_eq!(text(&mut cell.connection().await, &state).await, None, "nobody else sees it");
    passes(&mut connection, "ROLLBACK").await;
    assert_eq!(text(&mut connection, &state).await, None);
}

#[tokio::test]
async fn only_roles_that_were_let_call_the_functions_and_none_touches_the_tables() {
    let cell = TestCell::in_postgres().await;
    let mut owner = cell.connection().await;
    // Roles belong to the whole server: this one bears the database's name.
    let name = text(&mut owner, "SELECT current_database() || '_app'").await.expect("a name");
    passes(&mut owner, &format!("CREATE ROLE {name}")).await;
    let mut application = cell.connection().await;
    passes(&mut application, &format!("SET SESSION AUTHORIZATION {name}")).await;
    let (code, _) = refused(&mut application, "SELECT cabbage.defer('t')").await;
    assert_eq!(code, "42501");
    passes(&mut owner, &format!("SELECT grant_producer('{name}')")).await;
    passes(&mut application, "SET search_path = public").await;
    let id = text(&mut application, "SELECT cabbage.defer('t', '{}'::jsonb)::text").await.expect("an id");
    passes(&mut application, &format!("SELECT cabbage.cancel({id}), cabbage.state({id})")).await;
    passes(&mut application, "SELECT cabbage.defer_batch('[{\"task\": \"t\"}]')").await;
    for sql in [
        "SELECT * FROM cabbage.inbox",
        "SELECT * FROM cabbage.jobs",
        "INSERT INTO cabbage.inbox (x) VALUES ('1')",
        "SELECT nextval('cabbage.job_id')",
        "SELECT cabbage.ring()",
        "SELECT cabbage.grant_producer('pg_monitor')",
    ] {
        let (code, message) = refused(&mut application, sql).await;
        assert_eq!(code, "42501", "{sql}: {message}");
    }
    passes(&mut application, "RESET SESSION AUTHORIZATION").await;
    for sql in [format!("DROP OWNED BY {name}"), format!("DROP ROLE {name}")] {
        passes(&mut owner, &sql).await;
    }
}
