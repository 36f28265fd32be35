//! The schema: made once, by whoever comes first.

use std::sync::Arc;

use cabbage_broker::{
    core::types::JobId,
    store::{
        CommitError, Store, StoreError,
        postgres::{PgSettings, PgStore},
    },
};
use cabbage_migrations::{STEPS, Schema, Status, prepare_until};
use sqlx::{AssertSqlSafe, PgConnection, Row};

use crate::cell::{TestCell, batch, first_batch, new_job, spec};

async fn number(connection: &mut PgConnection, sql: &'static str) -> i64 {
    sqlx::query(sql).fetch_one(connection).await.expect("a number").get(0)
}

#[tokio::test]
async fn eight_brokers_may_make_the_schema_at_once() {
    let cell = TestCell::in_empty_postgres().await;
    let making: Vec<_> = (0..8)
        .map(|_| {
            let store = Arc::new(PgStore::new(cell.settings()).expect("a well-formed address"));
            tokio::spawn(async move { store.prepare().await })
        })
        .collect();
    for made in making {
        made.await.expect("no panic").expect("made, or found made");
    }
    let mut connection = cell.connection().await;
    assert_eq!(number(&mut connection, "SELECT count(*) FROM migration").await, STEPS.len() as i64);
    let store = PgStore::new(cell.settings()).expect("a well-formed address");
    assert_eq!(store.schema_status().await.expect("read"), Status::Current);
    // Nobody is left waiting with a snapshot.
    let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'advisory'";
    assert_eq!(number(&mut connection, waiting).await, 0);
}

#[tokio::test]
async fn schema_of_another_version_is_refused_in_words() {
    let cell = TestCell::in_empty_postgres().await;
    let store = PgStore::new(cell.settings()).expect("a well-formed address");
    assert_eq!(store.schema_status().await.expect("read"), Status::Behind(0));
    store.prepare().await.expect("made");
    let mut connection = cell.connection().await;
    let newer = "INSERT INTO migration VALUES (1000, 'future', '00000000-0000-0000-0000-000000000000')";
    sqlx::query(newer).execute(&mut connection).await.expect("inserted");
    let error = store.prepare().await.expect_err("it is ahead");
    assert!(matches!(&error, StoreError::Unsuitable(text) if text.contains("1000")), "{error}");
    let changed = "UPDATE migration SET checksum = '00000000-0000-0000-0000-000000000000' WHERE version = 1";
    sqlx::query(changed).execute(&mut connection).await.expect("updated");
    let error = store.prepare().await.expect_err("it was changed");
    assert!(matches!(&error, StoreError::Unsuitable(text) if text.contains("step 1")), "{error}");
}

#[tokio::test]
async fn a_program_of_the_release_before_works_with_a_newer_schema() {
    let cell = TestCell::in_postgres().await;
    let store = PgStore::new(cell.settings()).expect("a well-formed address");
    let mut connection = cell.connection().await;
    let known = STEPS.len() as i32;
    let newer = "INSERT INTO migration (version, name, checksum, serves_from) VALUES ($1, 'future', $2, $3)";
    let insert = sqlx::query(newer).bind(known + 1).bind(uuid::Uuid::nil()).bind(known);
    insert.execute(&mut connection).await.expect("a step of the next release");
    assert_eq!(store.schema_status().await.expect("read"), Status::Ahead(known + 1));
    store.prepare().await.expect("nothing is to be done");
    let mut owner = cell.own().await;
    owner.writer.commit(&first_batch([1])).await.expect("committed");
    // The release after that gives up what this program needs.
    let insert = sqlx::query(newer).bind(known + 2).bind(uuid::Uuid::nil()).bind(known + 1);
    insert.execute(&mut connection).await.expect("a step of the release after the next");
    let error = store.prepare().await.expect_err("it does not serve us any more");
    let says = |text: &str| text.contains(&format!("know version {}", known + 1)) && text.contains("newer");
    assert!(matches!(&error, StoreError::Unsuitable(text) if says(text)), "{error}");
}

#[tokio::test]
async fn a_table_of_steps_from_before_there_was_a_next_release_goes_on() {
    let cell = TestCell::in_empty_postgres().await;
    let store = PgStore::new(cell.settings()).expect("a well-formed address");
    let schema: Schema = "cabbage".parse().expect("a name");
    prepare_until(cell.connection().await, &schema, 8).await.expect("an older schema");
    let mut connection = cell.connection().await;
    sqlx::query("ALTER TABLE migration DROP COLUMN serves_from").execute(&mut connection).await.expect("as it was");
    assert_eq!(store.schema_status().await.expect("read"), Status::Behind(8));
    store.prepare().await.expect("brought up to date");
    assert_eq!(store.schema_status().await.expect("read"), Status::Current);
}

#[tokio::test]
async fn a_step_that_finds_its_table_in_use_lets_others_pass_and_tries_again() {
    let cell = TestCell::in_empty_postgres().await;
    let store = Arc::new(PgStore::new(cell.settings()).expect("a well-formed address"));
    let schema: Schema = "cabbage".parse().expect("a name");
    // Step 6 adds columns to the table of queues.
    prepare_until(cell.connection().await, &schema, 5).await.expect("an older schema");
    let mut reader = cell.connection().await;
    sqlx::raw_sql("BEGIN; SELECT FROM queue").execute(&mut reader).await.expect("a reader that stays");
    let preparing = tokio::spawn({
        let store = Arc::clone(&store);
        async move { store.prepare().await }
    });
    let mut writer = cell.connection().await;
    let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'queue'::regclass";
    while number(&mut writer, waits).await == 0 {}
    // It queues up behind the step, which gives up long before this does.
    let insert = "SET lock_timeout = '2s'; INSERT INTO queue (number, name) VALUES (1, 'q')";
    sqlx::raw_sql(insert).execute(&mut writer).await.expect("nobody is held up");
    assert!(!preparing.is_finished(), "the reader still holds the table");
    sqlx::raw_sql("COMMIT").execute(&mut reader).await.expect("it goes");
    preparing.await.expect("no panic").expect("the schema is up to date");
    assert_eq!(store.schema_status().await.expect("read"), Status::Current);
}

#[tokio::test]
async fn database_that_is_not_utf8_is_refused() {
    let cell = TestCell::in_empty_postgres().await;
    let mut connection = cell.connection().await;
    let name = format!("cabbage_test_ascii_{}", uuid::Uuid::new_v4().simple());
    let create = format!("CREATE DATABASE {name} TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C'");
    sqlx::query(AssertSqlSafe(create)).execute(&mut connection).await.expect("created");
    let settings = PgSettings { dbname: Some(name), ..cell.settings() };
    let error = PgStore::new(settings).expect("a well-formed address").prepare().await.expect_err("not UTF-8");
    assert!(matches!(&error, StoreError::Unsuitable(text) if text.contains("UTF8")), "{error}");
}

#[tokio::test]
async fn two_cells_live_in_one_database() {
    let cell = TestCell::in_postgres().await;
    let settings = PgSettings { schema: "select".parse().expect("a name"), ..cell.settings() };
    let other = PgStore::new(settings).expect("a well-formed address");
    other.prepare().await.expect("made");
    let mut first = cell.own().await;
    let mut second = other.take_term("here:2").await.expect("the database answers").expect("a term of its own");
    first.writer.commit(&first_batch([1])).await.expect("committed");
    second.writer.commit(&first_batch([1, 2])).await.expect("committed");
    assert_eq!(cell.store.specs(&[JobId(1), JobId(2)]).await.expect("read").len(), 1);
}

#[tokio::test]
async fn missing_partition_is_made_and_the_batch_goes_on() {
    let cell = TestCell::in_postgres().await;
    let mut owner = cell.own().await;
    owner.writer.commit(&first_batch([1])).await.expect("committed");
    let far = 40 << 24;
    let mut next = batch(2);
    next.jobs = vec![new_job(far - 1, spec()), new_job(far, spec())];
    let error = owner.writer.commit(&next).await.expect_err("there is no partition");
    assert!(matches!(error, CommitError::Again(_)), "{error}");
    owner.writer.commit(&next).await.expect("now there is");
    let ids = [far - 1, far].map(JobId);
    assert_eq!(cell.store.specs(&ids).await.expect("read").len(), 2);
}

#[tokio::test]
async fn partitions_are_made_ahead_while_readers_keep_the_tables_open() {
    let cell = TestCell::in_postgres().await;
    let mut owner = cell.own().await;
    owner.writer.commit(&first_batch([1])).await.expect("committed");
    let mut reader = cell.connection().await;
    for sql in ["BEGIN", "SELECT count(*) FROM job, outcome, success, log, request"] {
        sqlx::query(sql).execute(&mut reader).await.expect("read");
    }
    let count = "SELECT count(*) FROM pg_inherits";
    let mut connection = cell.connection().await;
    let before = number(&mut connection, count).await;
    owner.duties.partitions(JobId(3 << 24), 5 << 20).await.expect("nobody is in the way");
    owner.duties.partitions(JobId(3 << 24), 5 << 20).await.expect("nothing to be done");
    // Three more of job, outcome, success and log, each with an index or two; the days were there.
    let tables = "SELECT count(*) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE c.relkind = 'r'";
    assert_eq!(number(&mut connection, tables).await, 5 * 3 + 4 * 3);
    assert!(number(&mut connection, count).await > before);
}

#[tokio::test]
async fn strangers_see_nothing() {
    let cell = TestCell::in_postgres().await;
    let mut connection = cell.connection().await;
    let granted = "SELECT count(*) FROM pg_class c, aclexplode(c.relacl) a
        WHERE c.relnamespace = 'cabbage'::regnamespace AND a.grantee = 0";
    assert_eq!(number(&mut connection, granted).await, 0);
    let callable = "SELECT count(*) FROM pg_proc p
        WHERE p.pronamespace = 'cabbage'::regnamespace
            AND (p.proacl IS NULL OR EXISTS (SELECT FROM aclexplode(p.proacl) a WHERE a.grantee = 0))";
    assert_eq!(number(&mut connection, callable).await, 0);
}

#[tokio::test]
async fn view_of_the_jobs_shows_their_states_and_when_they_are_due() {
    use cabbage_broker::core::{
        batch::{Batch, Outcome, OutcomeMore},
        job::{DueAt, JobSpec, Verdict},
        place::Place,
        types::{LockId, Timestamp},
    };

    use crate::cell::{QUEUE, STREAM, TASK, failed_with, outcome, parked, record};

    let cell = TestCell::in_postgres().await;
    let mut owner = cell.own().await;
    let later = 4_000_000_000;
    let again = |job, verdict| {
        let more = OutcomeMore { next_due: Some(Timestamp(later * 1_000_000)), ..OutcomeMore::default() };
        Outcome { more: Some(Box::new(more)), ..outcome(job, 1, verdict) }
    };
    let of_later = JobSpec { due: DueAt::At(Timestamp(later * 1_000_000)), ..spec() };
    let mut first = Batch {
        outcomes: vec![
            outcome(1, 1, Verdict::Retried),
            outcome(1, 2, Verdict::Succeeded),
            failed_with(2, 1, "no"),
            outcome(3, 1, Verdict::Cancelled),
            // It was put off, cancelled, and opened again for at once.
            outcome(4, 1, Verdict::Reopened),
            again(5, Verdict::Retried),
            again(6, Verdict::Snoozed),
            again(7, Verdict::Reopened),
        ],
        parked: vec![
            parked(6, Place::Due(STREAM), later * 1_000_000, record()),
            parked(8, Place::Due(STREAM), later * 1_000_000, record()),
            parked(9, Place::Due(STREAM), record().due.0, record()),
            parked(10, Place::Stream(STREAM), 0, record()),
            parked(11, Place::Lock(LockId(uuid::Uuid::nil()), QUEUE, TASK), 0, record()),
        ],
        ..first_batch([1, 2, 3, 5, 6, 7, 9, 10, 11])
    };
    first.jobs.extend([4, 8].map(|id| new_job(id, of_later.clone())));
    owner.writer.commit(&first).await.expect("committed");
    let sql = "SELECT state, extract(epoch FROM due_at) = 4000000000, queue, task, error_message FROM jobs ORDER BY id";
    let rows = sqlx::query(sql).fetch_all(&mut cell.connection().await).await.expect("read");
    let shown: Vec<(&str, bool)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let expected = [
        ("succeeded", false),
        ("failed", false),
        ("cancelled", false),
        ("active", false),
        ("scheduled", true),
        ("scheduled", true),
        ("scheduled", true),
        ("scheduled", true),
        ("waiting", false),
        ("waiting", false),
        ("waiting", false),
    ];
    assert_eq!(shown, expected);
    assert_eq!((rows[0].get::<&str, _>(2), rows[0].get::<&str, _>(3)), ("mail", "send"));
    assert_eq!(rows[1].get::<Option<&str>, _>(4), Some("no"));
}
