//! Owners that are gone, stopped, or late.

use std::time::Duration;

use cabbage_broker::{
    core::batch::Batch,
    store::{CommitError, LogPosition, Store, Tenure, postgres::PgStore},
};
use sqlx::{PgConnection, Row};

use crate::cell::{TAKE_TERM, TestCell, batch, first_batch};

/// Takes the term as soon as it is to be had.
async fn take_over(store: &PgStore) -> Tenure {
    loop {
        if let Some(tenure) = store.take_term("there:1").await.expect("the database answers") {
            return tenure;
        }
        tokio::task::yield_now().await;
    }
}

/// Asks until the answer is yes.
pub(crate) async fn until(connection: &mut PgConnection, sql: &'static str) {
    while !sqlx::query(sql).fetch_one(&mut *connection).await.expect("an answer").get::<bool, _>(0) {
        tokio::task::yield_now().await;
    }
}

async fn term_is_over(owner: &mut Tenure, batch: &Batch) {
    let error = owner.writer.commit(batch).await.expect_err("somebody else owns the cell");
    assert!(matches!(error, CommitError::TermOver(_)), "{error}");
}

#[tokio::test]
async fn killed_owner_is_followed_at_once() {
    let cell = TestCell::in_postgres().await;
    let owner = cell.own().await;
    let number = owner.term.number;
    drop(owner);
    let next = tokio::time::timeout(Duration::from_secs(4), take_over(&cell.other(Duration::from_mins(1)))).await;
    assert_eq!(next.expect("long before any timeout").term.number, number + 1);
}

#[tokio::test]
async fn owner_that_is_silent_between_statements_loses_its_term() {
    let cell = TestCell::in_postgres().await;
    let stopped = cell.other(Duration::from_millis(300));
    let mut owner = take_over(&stopped).await;
    owner.writer.commit(&batch(1)).await.expect("committed");
    let mut next = take_over(&cell.other(Duration::from_mins(1))).await;
    term_is_over(&mut owner, &batch(2)).await;
    next.writer.commit(&batch(2)).await.expect("committed");
}

#[tokio::test]
async fn owner_that_beats_keeps_its_term() {
    let cell = TestCell::in_postgres().await;
    let mut owner = take_over(&cell.other(Duration::from_millis(400))).await;
    let standby = cell.other(Duration::from_millis(400));
    let begin = std::time::Instant::now();
    while begin.elapsed() < Duration::from_millis(1_200) {
        owner.writer.tick().await.expect("the term goes on");
        owner.duties.tick().await.expect("the term goes on");
        assert!(standby.take_term("there:1").await.expect("the database answers").is_none());
    }
}

#[tokio::test]
async fn owner_that_is_stopped_in_the_middle_of_a_message_is_ended() {
    let cell = TestCell::in_postgres().await;
    // A connection that holds the lock of the cell as an owner's does, and stops while the server waits for the rest
    // of what it has to say: no timeout of the server ends that.
    let owner = cell.own().await;
    let mut stopped = cell.connection().await;
    sqlx::query("CREATE TABLE dump (x text)").execute(&mut stopped).await.expect("created");
    sqlx::query(
        "SELECT pg_try_advisory_lock_shared((l.classid::bigint << 32) | l.objid::bigint) FROM pg_locks l
        WHERE l.locktype = 'advisory' AND l.mode = 'ShareLock' LIMIT 1",
    )
    .fetch_one(&mut stopped)
    .await
    .expect("locked");
    drop(owner);
    let copying = stopped.copy_in_raw("COPY dump FROM STDIN").await.expect("it begins to copy");
    let standby = cell.other(Duration::from_millis(500));
    let begin = std::time::Instant::now();
    take_over(&standby).await;
    assert!(begin.elapsed() > Duration::from_millis(400), "not before its time");
    copying.finish().await.expect_err("its connection was ended");
}

#[tokio::test]
async fn takeover_waits_for_a_write_that_is_past_the_fence() {
    let cell = TestCell::in_postgres().await;
    let owner = cell.own().await;
    let mut late = cell.connection().await;
    sqlx::query("BEGIN").execute(&mut late).await.expect("begun");
    sqlx::query("SELECT fenced(1::smallint, $1, $2)")
        .bind(owner.term.number as i64)
        .bind(owner.term.nonce as i64)
        .execute(&mut late)
        .await
        .expect("it is past the fence");
    owner.writer.release().await;
    owner.duties.release().await;
    // It gives up after a second instead of waiting for ever, and leaves nothing behind.
    assert!(cell.store.take_term("there:1").await.expect("the database answers").is_none());
    sqlx::query("ROLLBACK").execute(&mut late).await.expect("ended");
    take_over(&cell.other(Duration::from_secs(5))).await;
}

#[tokio::test]
async fn late_write_that_waits_at_the_fence_is_refused_after_the_takeover() {
    let cell = TestCell::in_postgres().await;
    let mut owner = cell.own().await;
    owner.writer.commit(&first_batch([1])).await.expect("committed");
    let mut taker = cell.connection().await;
    sqlx::query("BEGIN").execute(&mut taker).await.expect("begun");
    sqlx::query(TAKE_TERM).execute(&mut taker).await.expect("taken, and not yet committed");
    let late = tokio::spawn(async move {
        let result = owner.writer.commit(&Batch { reserve_ids: 1, ..batch(2) }).await;
        (owner, result)
    });
    let waits = "SELECT EXISTS (SELECT FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '-- cabbage:commit%')";
    until(&mut cell.connection().await, waits).await;
    sqlx::query("COMMIT").execute(&mut taker).await.expect("taken");
    let (_owner, result) = late.await.expect("no panic");
    assert!(matches!(result, Err(CommitError::TermOver(_))), "{result:?}");
    assert_eq!(cell.store.follow(LogPosition::default(), 10).await.expect("read").len(), 1);
}

#[tokio::test]
async fn waiting_for_the_fence_is_no_unknown_effect() {
    let cell = TestCell::in_postgres().await;
    let mut owner = cell.own().await;
    let mut blocker = cell.connection().await;
    for sql in ["BEGIN", "SELECT FROM fence FOR UPDATE"] {
        sqlx::query(sql).execute(&mut blocker).await.expect("locked");
    }
    let error = owner.writer.commit(&batch(1)).await.expect_err("lock_timeout");
    assert!(matches!(error, CommitError::Again(_)), "{error}");
    sqlx::query("ROLLBACK").execute(&mut blocker).await.expect("ended");
    owner.writer.commit(&batch(1)).await.expect("the same batch, written");
}

#[tokio::test]
async fn commit_whose_caller_goes_away_ends_the_term() {
    let cell = TestCell::in_postgres().await;
    let mut owner = cell.own().await;
    owner.writer.commit(&batch(1)).await.expect("committed");
    let mut blocker = cell.connection().await;
    for sql in ["BEGIN", "SELECT FROM fence FOR UPDATE"] {
        sqlx::query(sql).execute(&mut blocker).await.expect("locked");
    }
    let next = batch(2);
    let dropped = tokio::time::timeout(Duration::from_millis(50), owner.writer.commit(&next)).await;
    assert!(dropped.is_err(), "it waits for the fence");
    sqlx::query("ROLLBACK").execute(&mut blocker).await.expect("ended");
    term_is_over(&mut owner, &next).await;
}
