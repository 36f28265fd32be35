//! What else only a server can do: warn, restart, wait, and be used by others.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bytes::Bytes;
use cabbage_broker::{
    core::{batch::Batch, effect::LookUp, job::JobSpec, types::JobId},
    store::{Checkpoint, CommitError, JobView, LogPosition, Store as _, StoreError, postgres::PgStore},
};
use sqlx::{PgConnection, Row};
use tokio::{task::JoinHandle, time::timeout};

use crate::cell::{TestCell, batch, first_batch, new_job, spec};

const PATIENCE: Duration = Duration::from_mins(1);

#[tokio::test]
async fn start_shortly_before_its_due_time_waits_for_it() {
    let cell = TestCell::in_postgres().await;
    let mut owner = cell.own().await;
    let due = cell.now().await.plus(Duration::from_millis(60));
    let batch = Batch { not_before: Some(due), ..first_batch([1]) };
    let committed = owner.writer.commit(&batch).await.expect("it waited");
    assert!(committed.at >= due);
}

#[tokio::test]
async fn warning_during_a_commit_ends_the_term() {
    let cell = TestCell::in_postgres().await;
    let mut owner = cell.own().await;
    // A commit that was not replicated warns in just this way: after it has succeeded.
    let warn = "CREATE FUNCTION warn() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN RAISE WARNING 'committed locally'; RETURN NULL; END $$";
    let trigger = "CREATE TRIGGER warn AFTER INSERT ON queue EXECUTE FUNCTION warn()";
    let mut connection = cell.connection().await;
    for sql in [warn, trigger] {
        sqlx::query(sql).execute(&mut connection).await.expect("created");
    }
    let error = owner.writer.commit(&first_batch([1])).await.expect_err("a warning");
    assert!(matches!(error, CommitError::TermOver(_)), "{error}");
    let error = owner.writer.tick().await.expect_err("the term is over");
    assert!(matches!(error, CommitError::TermOver(_)), "{error}");
}

#[tokio::test]
async fn warning_while_a_term_is_taken_gives_no_term() {
    let cell = TestCell::in_postgres().await;
    let store = cell.other(Duration::from_mins(1));
    let warn = "CREATE FUNCTION warn() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN RAISE WARNING 'committed locally'; RETURN NULL; END $$";
    let trigger = "CREATE TRIGGER warn AFTER UPDATE ON fence EXECUTE FUNCTION warn()";
    let mut connection = cell.connection().await;
    for sql in [warn, trigger] {
        sqlx::query(sql).execute(&mut connection).await.expect("created");
    }
    let error = store.take_term("there:1").await.err().expect("a warning");
    assert!(matches!(&error, StoreError::Unavailable(why) if why.contains("perhaps not replicated")), "{error}");
    sqlx::query("DROP TRIGGER warn ON fence").execute(&mut connection).await.expect("dropped");
    // The connections of the first try may not have ended yet, and hold the lock until then.
    while store.take_term("there:1").await.expect("no warning").is_none() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn row_that_somebodys_own_check_forbids_is_refused_and_no_missing_partition() {
    let cell = TestCell::in_postgres().await;
    let mut owner = cell.own().await;
    let check = "ALTER TABLE job ADD CONSTRAINT mine CHECK (args <> '\"forbidden\"')";
    sqlx::query(check).execute(&mut cell.connection().await).await.expect("added");
    let forbidden = JobSpec { args: Bytes::from_static(b"\"forbidden\""), ..spec() };
    let batch = Batch { jobs: vec![new_job(1, spec()), new_job(2, forbidden)], ..first_batch([]) };
    let error = owner.writer.commit(&batch).await.expect_err("it is forbidden");
    assert!(
        matches!(&error, CommitError::Refused { sqlstate, message } if sqlstate == "23514" && message.contains("mine")),
        "{error}"
    );
    owner.writer.commit(&first_batch([1])).await.expect("the term goes on");
}

#[tokio::test]
async fn commits_are_synchronous_whatever_the_database_says() {
    let cell = TestCell::in_postgres().await;
    let mut connection = cell.connection().await;
    let check = "CREATE FUNCTION check_commit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF current_setting('synchronous_commit') <> 'on' THEN RAISE EXCEPTION 'not safe'; END IF;
        RETURN NULL; END $$";
    let trigger = "CREATE TRIGGER check_commit AFTER INSERT ON queue EXECUTE FUNCTION check_commit()";
    let unsafe_default = "DO $$ BEGIN
        EXECUTE format('ALTER DATABASE %I SET synchronous_commit = off', current_database()); END $$";
    for sql in [check, trigger, unsafe_default] {
        sqlx::query(sql).execute(&mut connection).await.expect("done");
    }
    let mut owner = cell.own().await;
    owner.writer.commit(&first_batch([1])).await.expect("safe");
}

#[tokio::test]
async fn ids_are_not_shared_with_others_who_draw_from_the_sequence() {
    let cell = TestCell::in_postgres().await;
    let mut owner = cell.own().await;
    let mut others = Vec::new();
    for _ in 0..3 {
        let mut connection = cell.connection().await;
        others.push(tokio::spawn(async move {
            let mut ids = Vec::new();
            for _ in 0..150 {
                let sql = "SELECT nextval('job_id') FROM generate_series(1, 20)";
                let rows = sqlx::query(sql).fetch_all(&mut connection).await.expect("drawn");
                ids.extend(rows.iter().map(|row| row.get::<i64, _>(0)));
            }
            ids
        }));
    }
    let mut ours = BTreeSet::new();
    for number in 1..=150 {
        let batch = Batch { reserve_ids: 50, ..batch(number) };
        let ids = owner.writer.commit(&batch).await.expect("committed").ids;
        assert!(!ids.is_empty() && ids.end - ids.start <= 50);
        for id in ids {
            assert!(ours.insert(id), "{id} was given twice");
        }
    }
    for other in others {
        for id in other.await.expect("no panic") {
            assert!(!ours.contains(&id), "{id} was given to two");
        }
    }
}

#[tokio::test]
async fn half_written_checkpoint_does_not_exist() {
    let cell = TestCell::in_postgres().await;
    let mut owner = cell.own().await;
    let checkpoint =
        |number, len| Checkpoint { position: LogPosition { number, nonce: 1 }, data: vec![number as u8; len].into() };
    owner.duties.checkpoint(&checkpoint(1, 300_000)).await.expect("written");
    let half = "SELECT checkpoint_1(2::smallint, $1, $2, $3, 1, $4, false, 'half')";
    let mut connection = cell.connection().await;
    for (number, chunk) in [(2_i64, 0), (2, 1), (3, 0)] {
        sqlx::query(half)
            .bind(owner.term.number as i64)
            .bind(owner.term.nonce as i64)
            .bind(number)
            .bind(chunk)
            .execute(&mut connection)
            .await
            .expect("written");
        assert_eq!(cell.store.load().await.expect("read"), Some(checkpoint(1, 300_000)));
    }
    // The next attempt sweeps it away; two whole ones are kept.
    for (number, len) in [(2, 10), (4, 600_000)] {
        owner.duties.checkpoint(&checkpoint(number, len)).await.expect("written");
        assert_eq!(cell.store.load().await.expect("read"), Some(checkpoint(number, len)));
    }
    let rows = sqlx::query("SELECT DISTINCT number FROM checkpoint ORDER BY number");
    let rows = rows.fetch_all(&mut connection).await.expect("read");
    assert_eq!(rows.iter().map(|row| row.get::<i64, _>(0)).collect::<Vec<_>>(), [2, 4]);
}

#[tokio::test]
async fn reads_survive_a_connection_that_the_server_ended() {
    let cell = TestCell::in_postgres().await;
    cell.store.ping().await.expect("the database answers");
    let end = "SELECT count(pg_terminate_backend(pid, 1000)) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid()";
    sqlx::query(end).execute(&mut cell.connection().await).await.expect("ended");
    cell.store.ping().await.expect("over another connection");
}

#[tokio::test]
async fn caller_who_goes_away_leaves_no_broken_connection() {
    let cell = TestCell::in_postgres().await;
    let mut owner = cell.own().await;
    owner.writer.commit(&first_batch(1..=100)).await.expect("committed");
    for round in 0..50 {
        // Each is dropped at another point: some before, some after it was sent.
        let gone = tokio::time::timeout(Duration::from_micros(40 * round), cell.store.job(JobId(7)));
        let _gone = gone.await;
        assert!(cell.store.job(JobId(7)).await.expect("read").is_some());
    }
    let open = "SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND state LIKE 'idle in transaction%'";
    let row = sqlx::query(open).fetch_one(&mut cell.connection().await).await.expect("read");
    assert_eq!(row.get::<i64, _>(0), 0);
}

#[tokio::test]
async fn server_that_is_not_there_is_unavailable() {
    let mut settings = TestCell::in_empty_postgres().await.settings();
    settings.host = Some("/no/such/folder".to_owned());
    let store = PgStore::new(settings).expect("a well-formed address");
    let error = store.ping().await.expect_err("there is none");
    assert!(matches!(&error, StoreError::Unavailable(text) if text.contains("/no/such/folder")), "{error}");
}

#[tokio::test]
async fn schema_that_is_not_there_is_named() {
    let cell = TestCell::in_empty_postgres().await;
    let error = cell.store.load().await.expect_err("there is none");
    assert!(matches!(&error, StoreError::Unsuitable(text) if text.contains("schema")), "{error}");
}

#[tokio::test]
async fn look_up_does_not_wait_for_what_callers_read() {
    let cell = TestCell::in_postgres().await;
    let mut owner = cell.own().await;
    owner.writer.commit(&first_batch([1])).await.expect("committed");
    let mut locking = with_locked_jobs(&cell).await;
    let reading: Vec<_> = (0..10).map(|_| read_job(&cell)).collect();
    two_wait(&cell).await;
    // It reads no job.
    let keys = LookUp { id: 1, requests: vec!["a".into()], ..LookUp::default() };
    let found = timeout(PATIENCE, cell.store.look_up(keys)).await.expect("it does not wait").expect("read");
    assert_eq!(found.snapshot, 1);
    sqlx::query("COMMIT").execute(&mut locking).await.expect("ended");
    for reading in reading {
        assert!(reading.await.expect("no panic").expect("read").is_some());
    }
}

#[tokio::test]
async fn caller_that_goes_away_leaves_the_line_for_reads() {
    let cell = TestCell::in_postgres().await;
    let mut owner = cell.own().await;
    owner.writer.commit(&first_batch([1])).await.expect("committed");
    let mut locking = with_locked_jobs(&cell).await;
    let reading = [read_job(&cell), read_job(&cell)];
    two_wait(&cell).await;
    let before = cell.store.statements();
    for gone in [read_job(&cell), read_job(&cell)] {
        tokio::task::yield_now().await;
        gone.abort();
        assert!(gone.await.is_err_and(|error| error.is_cancelled()));
    }
    sqlx::query("COMMIT").execute(&mut locking).await.expect("ended");
    for reading in reading {
        assert!(reading.await.expect("no panic").expect("read").is_some());
    }
    assert!(read_job(&cell).await.expect("no panic").expect("read").is_some());
    assert_eq!(cell.store.statements(), before + 1, "those that went away were not read for");
}

/// A transaction that lets nobody read jobs until it ends.
async fn with_locked_jobs(cell: &TestCell) -> PgConnection {
    let mut locking = cell.connection().await;
    for sql in ["BEGIN", "LOCK TABLE job IN ACCESS EXCLUSIVE MODE"] {
        sqlx::query(sql).execute(&mut locking).await.expect("locked");
    }
    locking
}

/// A caller that reads the first job.
fn read_job(cell: &TestCell) -> JoinHandle<Result<Option<JobView>, StoreError>> {
    let store = Arc::clone(&cell.store);
    tokio::spawn(async move { store.job(JobId(1)).await })
}

/// Waits until two reads of jobs wait for their lock.
async fn two_wait(cell: &TestCell) {
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
        AND query LIKE '%cabbage:job%' AND wait_event_type = 'Lock' AND pid <> pg_backend_pid()";
    let mut connection = cell.connection().await;
    let both =
        async { while sqlx::query_scalar::<_, i64>(waits).fetch_one(&mut connection).await.expect("counted") < 2 {} };
    timeout(PATIENCE, both).await.expect("they wait");
}
