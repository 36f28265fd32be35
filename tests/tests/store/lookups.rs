//! Keys, looked up together.

use std::time::Duration;

use bytes::Bytes;
use cabbage_broker::core::{
    batch::{Answer, Batch, RequestRow},
    effect::{Fetch, JobFound, LookUp},
    job::{DueAt, JobSpec, Rare, Verdict},
    place::{Place, PlaceKey},
    types::{JobId, LockId, Timestamp},
};

use uuid::Uuid;

use crate::{
    both::on_both_stores,
    cell::{QUEUE, STREAM, TASK, TestCell, batch, first_batch, new_job, outcome, parked, record_with},
};

on_both_stores!(
    every_spec_comes_back_as_it_was,
    keys_are_found_in_their_order,
    nothing_is_found_in_an_empty_cell,
    request_ids_come_by_pages,
);

async fn every_spec_comes_back_as_it_was(cell: TestCell) {
    let args = |bytes: usize| Bytes::from(format!("\"{}\"", "x".repeat(bytes - 2)));
    let plain = || JobSpec::plain("send", "mail");
    let specs = [
        plain(),
        JobSpec::plain("sweep", "bulk"),
        JobSpec { args: args(4_096), ..plain() },
        JobSpec { args: args(4_097), ..plain() },
        JobSpec { priority: -3, ..plain() },
        JobSpec { lock: Some("l".into()), ..plain() },
        JobSpec { queueing_lock: Some("q".into()), ..plain() },
        JobSpec { due: DueAt::At(Timestamp(1_900_000_000_123_456)), ..plain() },
        JobSpec { attempt_timeout: Some(Duration::from_secs(5)), ..plain() },
        JobSpec { metadata: vec![("k".to_owned(), "v".to_owned())], ..plain() },
        JobSpec { traceparent: Some("p".into()), ..plain() },
        JobSpec { traceparent: Some("p".into()), tracestate: Some("s".into()), ..plain() },
        plain(),
    ];
    let mut owner = cell.own().await;
    let jobs = (1..).zip(&specs).map(|(id, spec)| new_job(id, spec.clone())).collect();
    let taken_in = Some(Timestamp(1_650_000_000_000_000));
    owner.writer.commit(&Batch { jobs, taken_in, ..first_batch([]) }).await.expect("committed");

    let mut ids: Vec<JobId> = (1..=specs.len() as i64).map(JobId).collect();
    // In any order, more than once, and some that are not there.
    ids.reverse();
    ids.extend([JobId(3), JobId(99)]);
    let mut stored = cell.store.specs(&ids).await.expect("read");
    stored.sort_by_key(|job| job.id);
    stored.dedup_by_key(|job| job.id);
    assert_eq!(stored.len(), specs.len());
    for (stored, (id, spec)) in stored.iter().zip((1..).zip(&specs)) {
        assert_eq!((stored.id, &stored.spec), (JobId(id), spec));
        assert_eq!(Some(stored.created), taken_in);
        let due = if let DueAt::At(due) = spec.due { due } else { stored.created };
        assert_eq!(stored.due, due);
    }
    assert!(cell.store.specs(&[]).await.expect("read").is_empty());
}

async fn keys_are_found_in_their_order(cell: TestCell) {
    let lock = LockId::of("a");
    let locked = Rare { lock: Some(lock), queueing_lock: Some("q".into()), ..Rare::default() };
    let row = parked(3, Place::Lock(lock, QUEUE, TASK), 0, record_with(locked));
    let mut owner = cell.own().await;
    let first = Batch {
        outcomes: vec![
            outcome(1, 1, Verdict::Retried),
            outcome(1, 2, Verdict::Succeeded),
            outcome(2, 1, Verdict::Failed),
            outcome(2, 2, Verdict::Reopened),
        ],
        parked: vec![row.clone()],
        ..first_batch([1, 2, 3, 4])
    };
    owner.writer.commit(&first).await.expect("committed");
    owner.writer.commit(&batch(2)).await.expect("committed");

    let keys = LookUp {
        id: 42,
        requests: vec!["never".into()],
        queueing_locks: vec!["x".into(), "q".into()],
        jobs: [5, 4, 3, 2, 1].map(JobId).to_vec(),
        deliveries: vec![(JobId(1), 3), (JobId(1), 2), (JobId(1), 1), (JobId(9), 1)],
        locks_before: vec![(lock, JobId(3)), (lock, JobId(4)), (LockId::of("b"), JobId(4))],
        finished: Vec::new(),
    };
    let found = cell.store.look_up(keys).await.expect("read");
    assert_eq!((found.id, found.snapshot), (42, 2));
    assert_eq!(found.requests, [None]);
    assert_eq!(found.queueing_locks, [None, Some(JobId(3))]);
    let last = JobFound::Final { verdict: Verdict::Succeeded, delivery: 2 };
    assert_eq!(found.jobs, [JobFound::Unknown, JobFound::Active, JobFound::Parked(row), JobFound::Active, last]);
    assert_eq!(found.deliveries, [None, Some(Verdict::Succeeded), Some(Verdict::Retried), None]);
    assert_eq!(found.locks_before, [false, true, false]);
}

async fn nothing_is_found_in_an_empty_cell(cell: TestCell) {
    let keys = LookUp {
        id: 1,
        requests: vec!["a".into()],
        queueing_locks: vec!["a".into()],
        jobs: vec![JobId(1)],
        deliveries: vec![(JobId(1), 1)],
        locks_before: vec![(LockId::of("a"), JobId(1))],
        finished: vec![JobId(1)],
    };
    let found = cell.store.look_up(keys).await.expect("read");
    assert_eq!(found.snapshot, 0);
    assert_eq!(found.jobs, [JobFound::Unknown]);
    assert_eq!((found.requests, found.queueing_locks), (vec![None], vec![None]));
    assert_eq!((found.deliveries, found.locks_before), (vec![None], vec![false]));
    assert_eq!(found.finished, [None]);
    let fetch = Fetch {
        id: 1,
        place: Place::Stream(STREAM),
        from: PlaceKey::default(),
        until: Timestamp::default(),
        limit: 10,
    };
    assert_eq!(cell.store.fetch(fetch).await.expect("read").snapshot, 0);
}

async fn request_ids_come_by_pages(cell: TestCell) {
    let mut owner = cell.own().await;
    let call = |id: &str| RequestRow {
        id: id.into(),
        digest: Uuid::from_u128(1),
        answer: Answer::Deferred { first: JobId(1), count: 1 },
    };
    let first = Batch { requests: ["c", "a", "\u{e9}"].map(call).to_vec(), ..first_batch([1]) };
    owner.writer.commit(&first).await.expect("committed");
    owner.writer.commit(&Batch { requests: vec![call("b")], ..batch(2) }).await.expect("committed");
    let (mut ids, mut after) = (Vec::new(), std::sync::Arc::from(""));
    loop {
        let page = cell.store.request_ids(&after, 3).await.expect("read");
        assert!(page.len() <= 3);
        let Some(last) = page.last() else { break };
        after = last.clone();
        ids.extend(page);
    }
    // Each once; in which order is the database's affair.
    ids.sort_unstable();
    assert_eq!(ids.iter().map(AsRef::as_ref).collect::<Vec<&str>>(), ["a", "b", "c", "\u{e9}"]);
}
