//! What operators change, by key: due times, arguments, erased jobs, paused queues, and the record of it all.

use bytes::Bytes;
use cabbage_broker::{
    core::{
        ask::{AuditRow, By},
        batch::{Batch, Changed, Outcome, OutcomeMore, RareRow},
        effect::{FinishedJob, LookUp},
        job::{DueAt, JobSpec, Rare, Verdict},
        types::{JobId, LockId, Timestamp},
    },
    store::{AuditList, CommitError},
};

use crate::{
    both::on_both_stores,
    cell::{STREAM, TestCell, batch, first_batch, new_job, outcome, spec},
};

on_both_stores!(
    final_job_is_found_with_the_latest_of_what_retries_changed,
    due_time_is_changed_where_the_tables_have_it,
    replaced_arguments_come_back_byte_for_byte,
    erased_job_leaves_nothing,
    what_is_not_there_cannot_be_changed,
    erasing_what_retention_has_erased_is_refused_and_no_bug,
    audit_is_listed_newest_first,
);

async fn finished(cell: &TestCell, job: i64) -> Option<FinishedJob> {
    let keys = LookUp { finished: vec![JobId(job)], ..LookUp::default() };
    cell.store.look_up(keys).await.expect("read").finished.remove(0).map(|job| *job)
}

fn changed(job: i64, delivery: u32, changed: Changed) -> Outcome {
    let more = OutcomeMore { changed: Some(changed), ..OutcomeMore::default() };
    Outcome { more: Some(Box::new(more)), ..outcome(job, delivery, Verdict::Retried) }
}

async fn final_job_is_found_with_the_latest_of_what_retries_changed(cell: TestCell) {
    let rich = JobSpec {
        lock: Some("a".into()),
        strict: true,
        queueing_lock: Some("q".into()),
        deadline: Some(Timestamp::MAX),
        ..spec()
    };
    let mut owner = cell.own().await;
    let unstarted = Outcome { started: None, ..outcome(2, 1, Verdict::Cancelled) };
    let first = Batch {
        jobs: vec![new_job(1, rich.clone()), new_job(2, rich.clone()), new_job(3, rich.clone())],
        outcomes: vec![
            changed(1, 1, Changed { queue: Some("bulk".into()), priority: Some(3), lock: Some("".into()) }),
            changed(1, 2, Changed { priority: Some(-4), lock: Some("b".into()), ..Changed::default() }),
            outcome(1, 3, Verdict::Failed),
            unstarted,
            outcome(3, 1, Verdict::Retried),
        ],
        ..first_batch([])
    };
    owner.writer.commit(&first).await.expect("committed");
    let one = finished(&cell, 1).await.expect("it is final");
    let rare = Rare {
        lock: Some(LockId::of("a")),
        strict: true,
        queueing_lock: Some("q".into()),
        deadline: Some(Timestamp::MAX),
        ..Rare::default()
    };
    let expected = FinishedJob {
        stream: STREAM,
        rare: rare.clone(),
        args_bytes: rich.args.len() as u32,
        changed: Changed { queue: Some("bulk".into()), priority: Some(-4), lock: Some("b".into()) },
        was_unlocked: true,
        verdict: Verdict::Failed,
        delivery: 3,
        has_started: true,
    };
    assert_eq!(one, expected);
    let two = finished(&cell, 2).await.expect("it is final");
    assert_eq!((two.verdict, two.delivery, two.has_started), (Verdict::Cancelled, 1, false));
    assert_eq!((finished(&cell, 3).await, finished(&cell, 4).await), (None, None));
}

async fn due_time_is_changed_where_the_tables_have_it(cell: TestCell) {
    let mut owner = cell.own().await;
    let first = Batch { outcomes: vec![outcome(2, 1, Verdict::Retried)], ..first_batch([1, 2]) };
    owner.writer.commit(&first).await.expect("committed");
    let due = |job, delivery, micros| RareRow::Due { job: JobId(job), delivery, due: Timestamp(micros) };
    // The last word of a batch counts.
    let moves =
        vec![due(1, 0, 1_800_000_000_000_000), due(2, 1, 1_800_000_000_000_002), due(1, 0, 1_800_000_000_000_001)];
    owner.writer.commit(&Batch { rare_rows: moves, ..batch(2) }).await.expect("committed");
    let one = cell.store.job(JobId(1)).await.expect("read").expect("it exists");
    let at = Timestamp(1_800_000_000_000_001);
    assert_eq!((one.job.due, one.job.spec.due), (at, DueAt::At(at)));
    let two = cell.store.job(JobId(2)).await.expect("read").expect("it exists");
    let next_due = two.outcomes[0].more.as_ref().and_then(|more| more.next_due);
    assert_eq!(next_due, Some(Timestamp(1_800_000_000_000_002)));
    assert_ne!(two.job.due, Timestamp(1_800_000_000_000_002));
}

async fn replaced_arguments_come_back_byte_for_byte(cell: TestCell) {
    let args = Bytes::from_static(br#" {"n": 12345678901234567890, "n":  1.0, "t": "\u0000 \" \\ "} "#);
    let mut owner = cell.own().await;
    owner.writer.commit(&first_batch([1, 2])).await.expect("committed");
    let replaced = vec![RareRow::Args { job: JobId(1), args: args.clone() }];
    owner.writer.commit(&Batch { rare_rows: replaced, ..batch(2) }).await.expect("committed");
    let specs = cell.store.specs(&[JobId(1), JobId(2)]).await.expect("read");
    assert_eq!((&specs[0].spec.args, &specs[1].spec.args), (&args, &spec().args));
    // What PostgreSQL refuses leaves nothing, and the term goes on.
    let bad = vec![RareRow::Args { job: JobId(1), args: Bytes::from_static(b"\0") }];
    let error = owner.writer.commit(&Batch { rare_rows: bad, ..batch(3) }).await.expect_err("no text");
    assert!(matches!(error, CommitError::Refused { .. }), "{error}");
    owner.writer.commit(&batch(3)).await.expect("the term goes on");
}

async fn erased_job_leaves_nothing(cell: TestCell) {
    let mut owner = cell.own().await;
    let outcomes =
        vec![outcome(1, 1, Verdict::Retried), outcome(1, 2, Verdict::Failed), outcome(2, 1, Verdict::Failed)];
    owner.writer.commit(&Batch { outcomes, ..first_batch([1, 2]) }).await.expect("committed");
    let erased = vec![RareRow::Deleted(JobId(1))];
    owner.writer.commit(&Batch { rare_rows: erased, ..batch(2) }).await.expect("committed");
    assert!(cell.store.job(JobId(1)).await.expect("read").is_none());
    let keys = LookUp { deliveries: vec![(JobId(1), 1), (JobId(1), 2), (JobId(2), 1)], ..LookUp::default() };
    let found = cell.store.look_up(keys).await.expect("read");
    assert_eq!(found.deliveries, [None, None, Some(Verdict::Failed)]);
}

async fn what_is_not_there_cannot_be_changed(cell: TestCell) {
    let missing = JobId(9);
    for row in [
        RareRow::Due { job: missing, delivery: 0, due: Timestamp(1) },
        RareRow::Due { job: JobId(1), delivery: 7, due: Timestamp(1) },
        RareRow::Args { job: missing, args: Bytes::from_static(b"{}") },
    ] {
        let mut owner = loop {
            if let Some(owner) = cell.store.take_term("here:1").await.expect("the database answers") {
                break owner;
            }
        };
        let change = Batch { rare_rows: vec![row.clone()], ..first_batch([1]) };
        let error = owner.writer.commit(&change).await.expect_err("it is not there");
        assert!(matches!(error, CommitError::TermOver(_)), "{row:?}: {error}");
    }
}

async fn erasing_what_retention_has_erased_is_refused_and_no_bug(cell: TestCell) {
    let mut owner = cell.own().await;
    let erased = Batch { rare_rows: vec![RareRow::Deleted(JobId(9))], ..first_batch([1]) };
    let error = owner.writer.commit(&erased).await.expect_err("it is not there");
    assert!(matches!(&error, CommitError::Refused { .. }), "{error}");
    owner.writer.commit(&first_batch([1])).await.expect("the term goes on");
}

async fn audit_is_listed_newest_first(cell: TestCell) {
    let row = |at: i64, job: Option<i64>| {
        RareRow::Audit(AuditRow {
            at: Timestamp(at),
            verb: if job.is_some() { "cancel" } else { "pause" },
            job: job.map(JobId),
            queue: job.is_none().then(|| "mail".into()),
            schedule: None,
            by: By { who: "ada".into(), why: "be\"cause".into() },
            refused: (at == 20).then(|| "not \"now\"".into()),
        })
    };
    let mut owner = cell.own().await;
    let rows = vec![row(10, Some(1)), row(20, None), row(30, Some(2)), row(40, Some(1))];
    owner.writer.commit(&Batch { rare_rows: rows, ..batch(1) }).await.expect("committed");
    let list = |below, limit, job: Option<i64>| AuditList { below, limit, job: job.map(JobId) };
    let times = async |list| {
        let entries = cell.store.audit(list).await.expect("read");
        entries.iter().map(|entry| entry.at.0).collect::<Vec<_>>()
    };
    let newest = cell.store.audit(list(None, 2, None)).await.expect("read");
    assert_eq!(newest.iter().map(|entry| entry.at.0).collect::<Vec<_>>(), [40, 30]);
    assert_eq!(
        (&*newest[0].verb, newest[0].job, &*newest[0].by.who, &*newest[0].by.why),
        ("cancel", Some(JobId(1)), "ada", "be\"cause")
    );
    let rest = cell.store.audit(list(Some(newest[1].number), 9, None)).await.expect("read");
    assert_eq!(
        rest.iter().map(|entry| (entry.at.0, entry.queue.as_deref(), entry.refused.as_deref())).collect::<Vec<_>>(),
        [(20, Some("mail"), Some("not \"now\"")), (10, None, None)]
    );
    assert_eq!(times(list(None, 9, Some(1))).await, [40, 10]);
}
