//! What applications write in their own transactions is found once each, whenever they commit.

use std::collections::BTreeSet;

use cabbage_broker::{
    core::{
        ask::Verb,
        batch::Batch,
        effect::{JobFound, LookUp},
        inbox::{InboxRow, Intake, Look, TakenJob, TakenRow, Wish},
        job::DueAt,
        types::{JobId, Timestamp},
    },
    store::{CommitError, INBOX_ROWS_MAX, Inbox, List},
};
use sqlx::{PgConnection, Row};
use tokio::time::{Duration, timeout};

use crate::cell::{QUEUE, TASK, TestCell, batch, first_batch};

async fn run(connection: &mut PgConnection, sql: &str) {
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned())).execute(connection).await.expect("it succeeds");
}

async fn defer(connection: &mut PgConnection, args: &str) -> i64 {
    let row = sqlx::query("SELECT defer('send', $1, queue => 'mail')").bind(args).fetch_one(connection).await;
    row.expect("deferred").get(0)
}

/// Looks until there is nothing more.
async fn look(inbox: &mut dyn Inbox) -> Vec<InboxRow> {
    let mut rows = Vec::new();
    loop {
        let Intake { rows: new, more, .. } =
            inbox.look(Look { id: 1, whole: false, attended: false }).await.expect("the database answers");
        rows.extend(new.iter().map(|row| InboxRow::clone(row)));
        if !more {
            return rows;
        }
    }
}

async fn ids(inbox: &mut dyn Inbox) -> Vec<i64> {
    look(inbox).await.iter().filter_map(|row| row.job()).map(|job| job.id.0).collect()
}

#[tokio::test]
async fn rows_are_found_when_their_transactions_commit_in_whatever_order() {
    let cell = TestCell::in_postgres().await;
    let mut inbox = cell.store.inbox();
    let (mut first, mut second, mut third) =
        (cell.connection().await, cell.connection().await, cell.connection().await);
    run(&mut first, "BEGIN").await;
    let a = defer(&mut first, "1").await;
    run(&mut second, "BEGIN").await;
    let b = defer(&mut second, "2").await;
    assert!(ids(&mut *inbox).await.is_empty(), "nothing is committed");
    let c = defer(&mut third, "3").await;
    assert_eq!(ids(&mut *inbox).await, [c]);
    run(&mut second, "COMMIT").await;
    assert_eq!(ids(&mut *inbox).await, [b]);
    let d = defer(&mut first, "4").await;
    assert!(ids(&mut *inbox).await.is_empty());
    run(&mut first, "COMMIT").await;
    assert_eq!(ids(&mut *inbox).await, [a, d], "in the order of their numbers");
    assert!(ids(&mut *inbox).await.is_empty(), "each once");
    let whole = inbox.look(Look { id: 1, whole: true, attended: false }).await.expect("the database answers");
    assert_eq!(whole.rows.len(), 4, "a new owner finds all");
}

#[tokio::test]
async fn rolled_back_rows_and_savepoints_are_never_found() {
    let cell = TestCell::in_postgres().await;
    let mut inbox = cell.store.inbox();
    let mut application = cell.connection().await;
    run(&mut application, "BEGIN").await;
    let kept = defer(&mut application, "1").await;
    run(&mut application, "SAVEPOINT s").await;
    defer(&mut application, "2").await;
    run(&mut application, "ROLLBACK TO s").await;
    run(&mut application, "SAVEPOINT t").await;
    let released = defer(&mut application, "3").await;
    run(&mut application, "RELEASE t").await;
    // A position in the middle of it.
    assert!(ids(&mut *inbox).await.is_empty());
    run(&mut application, "COMMIT").await;
    assert_eq!(ids(&mut *inbox).await, [kept, released]);
    run(&mut application, "BEGIN").await;
    defer(&mut application, "4").await;
    run(&mut application, "ROLLBACK").await;
    assert!(ids(&mut *inbox).await.is_empty());
}

#[tokio::test]
async fn prepared_transactions_are_found_when_they_commit() {
    let cell = TestCell::in_postgres().await;
    let mut inbox = cell.store.inbox();
    let mut application = cell.connection().await;
    let row = sqlx::query("SELECT current_setting('max_prepared_transactions')::integer, current_database()");
    let row = row.fetch_one(&mut application).await.expect("read");
    let (most, name): (i32, String) = (row.get(0), row.get(1));
    if most == 0 {
        println!("this server prepares no transactions");
        return;
    }
    run(&mut application, "BEGIN; SET LOCAL cabbage.ring = off").await;
    let id = defer(&mut application, "1").await;
    run(&mut application, &format!("PREPARE TRANSACTION '{name}'")).await;
    assert!(ids(&mut *inbox).await.is_empty());
    // Others go on, and do not move it out of sight.
    let other = defer(&mut application, "2").await;
    assert_eq!(ids(&mut *inbox).await, [other]);
    run(&mut application, &format!("COMMIT PREPARED '{name}'")).await;
    assert_eq!(ids(&mut *inbox).await, [id]);
}

#[tokio::test]
async fn capped_looks_find_each_row_once_while_others_commit() {
    let cell = TestCell::in_postgres().await;
    let mut inbox = cell.store.inbox();
    let (mut early, mut bulk) = (cell.connection().await, cell.connection().await);
    run(&mut early, "BEGIN").await;
    let late = defer(&mut early, "1").await;
    assert!(ids(&mut *inbox).await.is_empty());
    let many = i64::from(INBOX_ROWS_MAX) + 2_000;
    let fill = "SELECT count(defer('send', '{}')) FROM generate_series(1, $1)";
    sqlx::query(fill).bind(many).execute(&mut bulk).await.expect("deferred");
    let look = |whole| Look { id: 1, whole, attended: false };
    let first = inbox.look(look(false)).await.expect("the database answers");
    assert!(first.more && first.rows.len() == INBOX_ROWS_MAX as usize);
    // Between two parts: one that the first part could not see, before and behind where it stands.
    run(&mut early, "COMMIT").await;
    let behind = defer(&mut bulk, "2").await;
    let mut numbers: BTreeSet<u64> = first.rows.iter().map(|row| row.number).collect();
    let mut count = numbers.len();
    let mut found = Vec::new();
    loop {
        let next = inbox.look(look(false)).await.expect("the database answers");
        count += next.rows.len();
        numbers.extend(next.rows.iter().map(|row| row.number));
        found.extend(next.rows.iter().filter_map(|row| row.job()).map(|job| job.id.0));
        if !next.more && next.rows.is_empty() {
            break;
        }
    }
    assert_eq!((numbers.len() as i64, count as i64), (many + 2, many + 2), "each once");
    assert!(found.contains(&late) && found.contains(&behind));
}

#[tokio::test]
async fn looks_do_not_walk_through_what_an_open_transaction_wrote() {
    const OPEN_ROWS: i64 = 5_000;
    const LOOKS: i64 = 30;
    let cell = TestCell::in_postgres().await;
    let (mut open, mut application) = (cell.connection().await, cell.connection().await);
    let mut inbox = cell.store.inbox();
    assert!(look(&mut *inbox).await.is_empty());
    run(&mut open, "BEGIN").await;
    let fill = "SELECT count(defer('send', '{}')) FROM generate_series(1, $1)";
    sqlx::query(fill).bind(OPEN_ROWS).execute(&mut open).await.expect("deferred");
    for _ in 0..LOOKS {
        let id = defer(&mut application, "1").await;
        assert_eq!(ids(&mut *inbox).await, [id]);
    }
    drop(inbox);
    let quiet = "SELECT NOT EXISTS (SELECT FROM pg_stat_activity
        WHERE datname = current_database() AND application_name = 'cabbage-broker')";
    while !sqlx::query(quiet).fetch_one(&mut application).await.expect("read").get::<bool, _>(0) {
        tokio::task::yield_now().await;
    }
    let read = "SELECT sum(i.idx_tup_read)::bigint, max(t.seq_tup_read)::bigint
        FROM pg_stat_user_tables t JOIN pg_stat_user_indexes i USING (relid)
        WHERE t.relname = 'inbox' AND i.indexrelname = 'inbox_new'";
    let row = sqlx::query(read).fetch_one(&mut application).await.expect("read");
    let (entries, rows): (i64, i64) = (row.get(0), row.get(1));
    println!("{LOOKS} looks read {entries} entries beside {OPEN_ROWS} of an open transaction");
    assert_eq!(rows, 0, "the table is never read as a whole");
    assert!(entries >= LOOKS, "the looks were counted");
    // Once as the range is passed, and not again with each look.
    assert!(entries < 2 * OPEN_ROWS + 100 * LOOKS, "{entries} entries were read");
}

#[tokio::test]
async fn row_leaves_the_inbox_as_its_job_is_written_with_its_arguments_byte_for_byte() {
    let cell = TestCell::in_postgres().await;
    let mut owner = cell.own().await;
    let mut inbox = cell.store.inbox();
    let mut application = cell.connection().await;
    let args = " {\"n\": 12345678901234567890, \"n\": 1.0, \"ü\": \"\\u0000\"} ";
    let due = Timestamp(4_000_000_000_000_000);
    let sql = "SELECT defer('send', $1::json, 'mail', 7, lock => 'l', strict => true, queueing_lock => 'q',
        schedule_at => timestamptz 'epoch' + $2 * interval '1 microsecond', attempt_timeout => '90 s',
        retry => '{\"max_attempts\": 5, \"wait\": \"1 s\", \"max_wait\": \"10 min\", \"never_kinds\": [\"a\"]}',
        metadata => '{\"k\": \"v\"}', traceparent => 'tp', tracestate => 'ts')";
    let id = JobId(sqlx::query(sql).bind(args).bind(due.0).fetch_one(&mut application).await.expect("deferred").get(0));
    let rows = look(&mut *inbox).await;
    let job = rows[0].job().expect("a job").clone();
    assert_eq!((job.id, job.args_bytes, job.spec.args.len()), (id, args.len() as u32, 0), "arguments stay there");
    assert_eq!((job.spec.priority, job.spec.strict, job.spec.due), (7, true, DueAt::At(due)));

    let before = cell.store.job(id).await.expect("read").expect("it is shown");
    assert!(before.in_inbox && before.job.spec.args == args.as_bytes());
    let keys = LookUp { jobs: vec![id], ..LookUp::default() };
    assert!(matches!(cell.store.look_up(keys.clone()).await.expect("read").jobs[0], JobFound::Inbox(_)));

    let taken = TakenJob { id, queue: QUEUE, task: TASK, due, spec: job.spec.clone() };
    let taken = TakenRow { number: rows[0].number, job: Some(taken) };
    let first = Batch { inbox: vec![taken.clone()], ..first_batch([]) };
    owner.writer.commit(&first).await.expect("committed");
    let after = cell.store.job(id).await.expect("read").expect("it is shown");
    assert!(!after.in_inbox);
    assert_eq!(after.job.spec, before.job.spec, "the row says what was asked for");
    assert_eq!((after.job.created, after.job.due), (before.job.created, before.job.due));
    assert!(matches!(cell.store.look_up(keys).await.expect("read").jobs[0], JobFound::Active));

    let again = Batch { inbox: vec![taken], ..batch(2) };
    let error = owner.writer.commit(&again).await.expect_err("it is gone");
    assert!(matches!(error, CommitError::TermOver(_)), "{error}");
}

#[tokio::test]
async fn verbs_come_with_who_and_why_and_only_for_jobs_that_exist() {
    let cell = TestCell::in_postgres().await;
    let mut inbox = cell.store.inbox();
    let mut application = cell.connection().await;
    let error = sqlx::query("SELECT cancel(77)").execute(&mut application).await.expect_err("there is no such job");
    assert!(error.to_string().contains("no job 77"), "{error}");
    run(&mut application, "BEGIN").await;
    let id = defer(&mut application, "1").await;
    sqlx::query("SELECT cancel($1, reason => 'a mistake')").bind(id).execute(&mut application).await.expect("asked");
    run(&mut application, "COMMIT").await;
    let error = sqlx::query("SELECT cancel(NULL)").execute(&mut application).await.expect_err("it names no job");
    assert!(error.to_string().contains("give the id of a job"), "{error}");
    let rows = look(&mut *inbox).await;
    let Wish::Ask { verb, by, .. } = &rows[1].wish else { panic!("a verb: {rows:?}") };
    assert_eq!(*verb, Verb::Cancel(JobId(id)));
    let row = sqlx::query("SELECT session_user::text").fetch_one(&mut application).await.expect("read");
    assert_eq!((&*by.who, &*by.why), (row.get::<&str, _>(0), "a mistake"));
}

#[tokio::test]
async fn verbs_that_move_a_job_in_time_come_with_their_instant() {
    let cell = TestCell::in_postgres().await;
    let mut inbox = cell.store.inbox();
    let mut application = cell.connection().await;
    let id = defer(&mut application, "1").await;
    let job = JobId(id);
    for (call, due) in [
        ("reschedule($1)", None),
        ("reschedule($1, schedule_at => timestamptz '2096-10-02 07:06:40+00')", Some(4_000_000_000_000_000)),
        ("retry($1, schedule_at => timestamptz '2096-10-02 07:06:40+00')", Some(4_000_000_000_000_000)),
    ] {
        let sql = format!("SELECT {call}");
        sqlx::query(sqlx::AssertSqlSafe(sql)).bind(id).execute(&mut application).await.expect("asked");
        let asked = look(&mut *inbox).await.pop().expect("a row").wish;
        let due = due.map(Timestamp);
        let verb = if call.starts_with("retry") { Verb::Retry { job, due } } else { Verb::Reschedule { job, due } };
        assert!(matches!(&asked, Wish::Ask { verb: found, .. } if *found == verb), "{call}: {asked:?}");
    }
    // A delay counts from the call.
    let before = cell.now().await;
    sqlx::query("SELECT reschedule($1, schedule_in => '1 hour')")
        .bind(id)
        .execute(&mut application)
        .await
        .expect("asked");
    let asked = look(&mut *inbox).await.pop().expect("a row").wish;
    let after = cell.now().await;
    let hour = Duration::from_hours(1);
    let Wish::Ask { verb: Verb::Reschedule { due: Some(due), .. }, .. } = asked else { panic!("{asked:?}") };
    assert!(before.plus(hour) <= due && due <= after.plus(hour), "{before:?} {due:?} {after:?}");
    for (call, why) in [
        ("reschedule($1, schedule_at => now(), schedule_in => '1 s')", "schedule_at and schedule_in are both given"),
        ("reschedule($1, schedule_in => '-1 s')", "schedule_in is negative"),
        ("reschedule($1, schedule_at => 'infinity')", "schedule_at is not within the years"),
    ] {
        let sql = format!("SELECT {call}");
        let refused = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(id).execute(&mut application).await;
        let error = refused.expect_err("it is refused");
        assert!(error.to_string().contains(why), "{call}: {error}");
    }
}

#[tokio::test]
async fn commit_rings_unless_the_owner_looks_all_the_time() {
    let cell = TestCell::in_postgres().await;
    let mut inbox = cell.store.inbox();
    assert!(look(&mut *inbox).await.is_empty());
    let mut application = cell.connection().await;
    run(&mut application, "BEGIN").await;
    defer(&mut application, "1").await;
    let mut rung = has_rung(&mut *inbox).await;
    assert!(!rung, "not before the commit");
    run(&mut application, "COMMIT").await;
    timeout(Duration::from_secs(30), inbox.rung()).await.expect("the bell rings");
    // Nobody rings while the lock is held, which the looks say.
    let attended = Look { id: 1, whole: false, attended: true };
    inbox.look(attended).await.expect("the database answers");
    let held = "SELECT NOT pg_try_advisory_lock_shared(attended) FROM inbox_bell()";
    let row = sqlx::query(held).fetch_one(&mut application).await.expect("read");
    assert!(row.get::<bool, _>(0), "the lock is held");
    defer(&mut application, "2").await;
    assert_eq!(ids(&mut *inbox).await.len(), 1);
    rung = has_rung(&mut *inbox).await;
    assert!(!rung, "and nobody rang");
}

/// Whether somebody has rung: what was sent before a statement of this connection is there when that is answered.
async fn has_rung(inbox: &mut dyn Inbox) -> bool {
    look(inbox).await;
    futures::poll!(std::pin::pin!(inbox.rung())).is_ready()
}

#[tokio::test]
async fn list_shows_jobs_that_are_not_taken_in_among_the_others() {
    let cell = TestCell::in_postgres().await;
    let mut owner = cell.own().await;
    let mut application = cell.connection().await;
    owner.writer.reserve(1).await.expect("drawn");
    let early = defer(&mut application, "1").await;
    let taken: Vec<i64> = owner.writer.reserve(3).await.expect("drawn").collect();
    let late = defer(&mut application, "2").await;
    owner.writer.commit(&first_batch(taken.clone())).await.expect("committed");
    let mut all = vec![late];
    all.extend(taken.iter().rev());
    all.push(early);
    for limit in [1, 2, 3, 5, 100] {
        let (mut shown, mut below) = (Vec::new(), None);
        loop {
            let list = List { limit, below, queue: Some("mail".into()), ..List::default() };
            let page = cell.store.list(list).await.expect("read");
            assert!(page.jobs.len() <= limit as usize);
            shown.extend(page.jobs.iter().map(|view| view.job.id.0));
            match page.next {
                Some(next) => below = Some(next),
                None => break,
            }
        }
        assert_eq!(shown, all, "limit {limit}");
    }
    let other = List { limit: 10, queue: Some("bulk".into()), ..List::default() };
    assert!(cell.store.list(other).await.expect("read").jobs.is_empty());
}
