//! Batches of one row, which PostgreSQL writes by a statement of their own: what it says, and what it leaves to the
//! function that writes all others.

use std::time::Duration;

use cabbage_broker::{
    core::{
        batch::{Answer, Batch, Outcome, RequestRow},
        effect::LookUp,
        job::Verdict,
        types::{JobId, Timestamp},
    },
    store::{CommitError, LogPosition, Tenure},
};
use uuid::Uuid;

use crate::{
    both::on_both_stores,
    cell::{TAKE_TERM, TestCell, batch, failed_with, first_batch, new_job, outcome, spec},
    commits::{next_owner, rich_spec},
    takeover::until,
};

on_both_stores!(
    everything_of_a_job_that_is_alone_comes_back,
    end_that_is_alone_comes_back,
    deposed_owner_writes_no_row,
    row_long_before_its_due_time_is_put_off,
);

/// What this job says of a call.
fn call() -> RequestRow {
    let answer = Answer::Deferred { first: JobId(2), count: 1 };
    RequestRow { id: "call".into(), digest: Uuid::from_u128(9), answer }
}

fn one_job(number: u64, id: i64) -> Batch {
    Batch { jobs: vec![new_job(id, spec())], ..batch(number) }
}

fn one_outcome(number: u64, id: i64) -> Batch {
    let end = Outcome { session: Some(Uuid::from_u128(7)), ..outcome(id, 1, Verdict::Succeeded) };
    Batch { outcomes: vec![end], ..batch(number) }
}

/// An owner who has written a row of the log, with job 1 in it.
async fn owner(cell: &TestCell) -> Tenure {
    let mut owner = cell.own().await;
    owner.writer.commit(&first_batch([1])).await.expect("committed");
    owner
}

async fn rows_of_log(cell: &TestCell) -> usize {
    cell.store.follow(LogPosition::default(), 10).await.expect("read").len()
}

async fn everything_of_a_job_that_is_alone_comes_back(cell: TestCell) {
    let mut owner = owner(&cell).await;
    let taken_in = Timestamp(1_650_000_000_000_000);
    let jobs = [(2, spec()), (3, rich_spec())];
    for (number, (id, spec)) in (2..).zip(&jobs) {
        let requests = if *id == 2 { vec![call()] } else { Vec::new() };
        let hash = Some(u64::MAX - number);
        let alone =
            Batch { jobs: vec![new_job(*id, spec.clone())], taken_in: Some(taken_in), requests, ..batch(number) };
        owner.writer.commit(&Batch { state_hash: hash, ..alone }).await.expect("committed");
    }
    let mut stored = cell.store.specs(&[JobId(2), JobId(3)]).await.expect("read");
    stored.sort_by_key(|job| job.id);
    for (stored, (id, spec)) in stored.iter().zip(&jobs) {
        assert_eq!((stored.id, stored.created, &stored.spec), (JobId(*id), taken_in, spec));
    }
    let due = stored.iter().map(|job| job.due).collect::<Vec<_>>();
    assert_eq!(due, [taken_in, Timestamp(1_900_000_000_123_456)]);
    let asked = LookUp { requests: vec!["call".into()], ..LookUp::default() };
    assert_eq!(cell.store.look_up(asked).await.expect("read").requests, [Some(call())]);

    let rows = cell.store.follow(LogPosition::default(), 10).await.expect("read");
    assert_eq!(rows.len(), 3);
    for (row, number) in rows.iter().zip(1..).skip(1) {
        assert_eq!(row.position, LogPosition { number, nonce: owner.term.nonce });
        assert_eq!((row.term, row.state_hash), (owner.term.number, Some(u64::MAX - number)));
        assert_eq!(row.facts, batch(number).facts);
    }
}

async fn end_that_is_alone_comes_back(cell: TestCell) {
    let mut owner = owner(&cell).await;
    let plain = one_outcome(2, 1);
    let without_start =
        Batch { outcomes: vec![Outcome { started: None, ..outcome(1, 2, Verdict::Cancelled) }], ..batch(3) };
    // This one has more to say than the statement has room for.
    let failed = Batch { outcomes: vec![failed_with(1, 3, "why")], ..batch(4) };
    for batch in [&plain, &without_start, &failed] {
        owner.writer.commit(batch).await.expect("committed");
    }
    let view = cell.store.job(JobId(1)).await.expect("read").expect("it is there");
    let ends = [&plain, &without_start, &failed].map(|batch| batch.outcomes[0].clone());
    assert_eq!(view.outcomes, ends);
}

/// One of each statement; the first two create job 2, the last ends job 1.
fn one_of_each(number: u64) -> [Batch; 3] {
    [one_job(number, 2), Batch { requests: vec![call()], ..one_job(number, 2) }, one_outcome(number, 1)]
}

async fn deposed_owner_writes_no_row(cell: TestCell) {
    let mut owner = owner(&cell).await;
    for (number, kind) in (2..).zip(0..3) {
        // Only after a row of its own need an owner not look at the one before.
        owner.writer.commit(&batch(number)).await.expect("committed");
        cell.depose().await;
        let error = owner.writer.commit(&one_of_each(number + 1)[kind]).await.expect_err("the term is over");
        assert!(matches!(error, CommitError::TermOver(_)), "{error}");
        assert_eq!(rows_of_log(&cell).await, number as usize);
        owner.writer.release().await;
        owner.duties.release().await;
        owner = next_owner(&cell).await;
    }
    assert!(cell.store.specs(&[JobId(2)]).await.expect("read").is_empty());
    assert!(cell.store.job(JobId(1)).await.expect("read").expect("it is there").outcomes.is_empty());
    let asked = LookUp { requests: vec!["call".into()], ..LookUp::default() };
    assert_eq!(cell.store.look_up(asked).await.expect("read").requests, [None]);
}

async fn row_long_before_its_due_time_is_put_off(cell: TestCell) {
    let mut owner = owner(&cell).await;
    let due = cell.now().await.plus(Duration::from_hours(1));
    let error =
        owner.writer.commit(&Batch { not_before: Some(due), ..one_job(2, 2) }).await.expect_err("it is not due");
    assert!(matches!(error, CommitError::Again(_)), "{error}");
    assert_eq!(rows_of_log(&cell).await, 1);
    owner.writer.commit(&one_job(2, 2)).await.expect("nothing was written");
}

#[tokio::test]
async fn each_has_its_own_statement_and_all_others_the_function() {
    let cell = TestCell::in_postgres().await;
    let mut owner = owner(&cell).await;
    let mut connection = cell.connection().await;
    let mut number = 1;
    let mut name = async |batch: Batch| {
        number += 1;
        owner.writer.commit(&Batch { number, ..batch }).await.expect("committed");
        let last = "SELECT split_part(a.query, E'\\n', 1) FROM pg_stat_activity a
            WHERE a.datname = current_database() AND a.query LIKE '-- cabbage:commit%'";
        sqlx::query_scalar::<_, String>(last).fetch_one(&mut connection).await.expect("the writer's connection")
    };
    assert_eq!(name(one_job(0, 2)).await, "-- cabbage:commit_one_job");
    let of_request = Batch { requests: vec![call()], ..one_job(0, 3) };
    assert_eq!(name(of_request).await, "-- cabbage:commit_one_job_of_request");
    assert_eq!(name(one_outcome(0, 1)).await, "-- cabbage:commit_one_outcome");
    let two_jobs = Batch { jobs: vec![new_job(4, spec()), new_job(5, spec())], ..batch(0) };
    let with_end = Batch { outcomes: one_outcome(0, 2).outcomes, ..one_job(0, 6) };
    let with_ids = Batch { reserve_ids: 1, ..one_job(0, 7) };
    let failed = Batch { outcomes: vec![failed_with(3, 1, "why")], ..batch(0) };
    let below = Batch { kept_below: JobId(9), ..one_job(0, 8) };
    let late_end = Batch { kept_below: JobId(9), ..one_outcome(0, 4) };
    for others in [two_jobs, with_end, with_ids, failed, below, late_end, batch(0)] {
        assert_eq!(name(others).await, "-- cabbage:commit");
    }
}

#[tokio::test]
async fn row_shortly_before_its_due_time_waits_for_it() {
    let cell = TestCell::in_postgres().await;
    let mut owner = owner(&cell).await;
    let due = cell.now().await.plus(Duration::from_millis(60));
    let committed = owner.writer.commit(&Batch { not_before: Some(due), ..one_job(2, 2) }).await.expect("it waited");
    assert!(committed.at >= due);
}

#[tokio::test]
async fn row_without_a_partition_is_written_once_there_is_one() {
    let cell = TestCell::in_postgres().await;
    let mut owner = owner(&cell).await;
    let far = 99 << 24;
    for row in [one_job(2, far), one_outcome(3, far)] {
        if row.number == 2 {
            let error = owner.writer.commit(&row).await.expect_err("no partition");
            assert!(matches!(&error, CommitError::Again(why) if why.contains("partition")), "{error}");
        }
        owner.writer.commit(&row).await.expect("it has been made");
    }
    let view = cell.store.job(JobId(far)).await.expect("read").expect("it is there");
    assert_eq!(view.outcomes, one_outcome(3, far).outcomes);
}

#[tokio::test]
async fn row_that_waits_at_the_fence_is_refused_after_a_takeover_and_else_written() {
    let cell = TestCell::in_postgres().await;
    let mut owner = owner(&cell).await;
    let mut number = 1;
    for (kind, end) in (0..3).flat_map(|kind| [(kind, "ROLLBACK"), (kind, "COMMIT")]) {
        let mut taker = cell.connection().await;
        for sql in ["BEGIN", TAKE_TERM] {
            sqlx::query(sql).execute(&mut taker).await.expect("taken, and not yet committed");
        }
        // Each takes effect once.
        let late = match kind {
            0 => one_job(number + 1, 2),
            1 => Batch { requests: vec![call()], ..one_job(number + 1, 3) },
            _ => one_outcome(number + 1, 1),
        };
        let late = Batch { facts: batch(number + 1).facts, ..late };
        let mut late = tokio::spawn(async move {
            let result = owner.writer.commit(&late).await;
            (owner, result)
        });
        let waits = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database()
            AND wait_event_type = 'Lock' AND query LIKE '-- cabbage:commit_one_%')";
        let mut witness = cell.connection().await;
        tokio::select! {
            () = until(&mut witness, waits) => {}
            early = &mut late => panic!("it did not wait: {:?}", early.expect("no panic").1),
        }
        sqlx::query(end).execute(&mut taker).await.expect("ended");
        let result;
        (owner, result) = late.await.expect("no panic");
        if end == "ROLLBACK" {
            result.expect("the term goes on");
            number += 1;
        } else {
            assert!(matches!(result, Err(CommitError::TermOver(_))), "{result:?}");
            owner.writer.release().await;
            owner.duties.release().await;
            owner = next_owner(&cell).await;
            number += 1;
            owner.writer.commit(&batch(number)).await.expect("committed");
        }
        assert_eq!(rows_of_log(&cell).await, number as usize);
    }
}
