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
        ("defer('t', metadata => '{\"a\": 1}')", "metadata has a value at a that is no string"),
        ("defer('t', metadata => '[]')", "metadata is no object"),
        ("defer_batch('[{\"task\": \"t\"}, {\"task\": \"t\", \"prio\": 1}]')", "jobs[1]: it has a field prio"),
        ("defer_batch('[{\"task\": \"t\", \"priority\": 101}]')", "jobs[0]: priority is 101"),
        ("defer_batch('{}')", "jobs is no array"),
    ];
    for (call, expected) in cases {
        let (code, message) = refused(&mut connection, &format!("SELECT {call}")).await;
        assert!(message.starts_with(expected), "{call}: {message}");
        assert_eq!(code, "22023", "{call}");
    }
    assert_eq!(text(&mut connection, "SELECT count(*)::text FROM inbox").await.as_deref(), Some("0"));
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
