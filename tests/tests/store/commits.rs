//! Commits: whole or not at all.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use cabbage_broker::{
    core::{
        batch::{Answer, Batch, Changed, Outcome, OutcomeMore, RequestRow},
        effect::{JobFound, LookUp},
        job::{DueAt, Failure, JobSpec, RetryPolicy, Verdict},
        place::Place,
        types::{JobId, Timestamp},
    },
    store::{CommitError, LogPosition, Writer},
};
use uuid::Uuid;

use crate::{
    both::on_both_stores,
    cell::{STREAM, TestCell, batch, failed_with, first_batch, leaving, new_job, outcome, parked, record, spec},
};

on_both_stores!(
    everything_of_a_job_comes_back,
    everything_of_an_outcome_comes_back,
    refused_batch_leaves_nothing_and_the_term_goes_on,
    log_number_that_does_not_follow_ends_the_term,
    key_that_exists_ends_the_term,
    parked_row_that_is_missing_ends_the_term,
    start_long_before_its_due_time_is_put_off,
    ids_are_reserved_once,
    job_changes_its_place_in_one_batch,
    call_is_remembered_once,
);

/// A job with everything that can be asked for, due at 1900000000.123456.
pub(crate) fn rich_spec() -> JobSpec {
    JobSpec {
        priority: -100,
        lock: Some("löck".into()),
        strict: true,
        queueing_lock: Some("q".into()),
        due: DueAt::At(Timestamp(1_900_000_000_123_456)),
        deadline: Some(Timestamp::MAX),
        attempt_timeout: Some(Duration::from_millis(1_500)),
        retry: Some(Arc::new(RetryPolicy {
            max_attempts: 5,
            wait: Duration::from_nanos(1),
            linear_wait: Duration::ZERO,
            exponential_wait: Duration::from_secs(1),
            exponential_factor: 1.5,
            max_wait: Duration::MAX,
            jitter: 0.25,
            only_kinds: vec!["Timeout".to_owned()],
            never_kinds: vec![String::new()],
        })),
        metadata: vec![("z".to_owned(), "1".to_owned()), ("a\"".to_owned(), "\u{1}\u{1F96C}".to_owned())],
        traceparent: Some("00-1-2-01".into()),
        tracestate: Some("x=y".into()),
        queue: "bulk".into(),
        task: "sweep".into(),
        ..spec()
    }
}

async fn everything_of_a_job_comes_back(cell: TestCell) {
    let mut owner = cell.own().await;
    let rich = rich_spec();
    let jobs = vec![new_job(5, spec()), new_job(7, rich.clone())];
    let committed = owner.writer.commit(&Batch { jobs, ..first_batch([]) }).await.expect("committed");
    let ids = [7, 6, 5, 7].map(JobId);
    let mut stored = cell.store.specs(&ids).await.expect("read");
    stored.sort_by_key(|job| job.id);
    let [plain, full] = stored.try_into().expect("two jobs, each once");
    assert_eq!((plain.id, plain.created, plain.due), (JobId(5), committed.at, committed.at));
    assert_eq!(plain.spec, spec());
    assert_eq!((full.id, full.created, full.due), (JobId(7), committed.at, Timestamp(1_900_000_000_123_456)));
    assert_eq!(full.spec, rich);
}

async fn everything_of_an_outcome_comes_back(cell: TestCell) {
    let mut owner = cell.own().await;
    let full = OutcomeMore {
        reason: Some("TIMEOUT".into()),
        failure: Some(Failure { kind: String::new(), message: "m\n".to_owned(), trace: "t".to_owned() }),
        result: Some(Bytes::from_static(b"[1,  2]")),
        next_due: Some(Timestamp(1_900_000_000_000_001)),
        changed: Some(Changed { queue: Some("bulk".into()), priority: Some(-3), lock: Some("".into()) }),
    };
    let outcomes = vec![
        Outcome { session: Some(Uuid::from_u128(1)), more: Some(Box::new(full)), ..outcome(5, 1, Verdict::Retried) },
        Outcome { started: None, attempt: 1, ..outcome(5, 2, Verdict::Cancelled) },
    ];
    let batch = Batch { outcomes: outcomes.clone(), ..first_batch([5]) };
    owner.writer.commit(&batch).await.expect("committed");
    let view = cell.store.job(JobId(5)).await.expect("read").expect("it is there");
    assert_eq!(view.outcomes, outcomes);
    assert_eq!(view.parked, None);
    assert!(cell.store.job(JobId(6)).await.expect("read").is_none());
}

async fn refused_batch_leaves_nothing_and_the_term_goes_on(cell: TestCell) {
    let mut owner = cell.own().await;
    owner.writer.commit(&first_batch([1])).await.expect("committed");
    let unreadable = JobSpec { args: Bytes::from_static(b"\"\xff\""), ..spec() };
    let with_nul = JobSpec { lock: Some("a\0b".into()), ..spec() };
    let bad = [
        Batch { outcomes: vec![outcome(1, 1, Verdict::Retried), failed_with(1, 2, "a\0b")], ..batch(2) },
        Batch { jobs: vec![new_job(2, spec()), new_job(3, unreadable)], ..batch(2) },
        Batch { jobs: vec![new_job(2, spec()), new_job(3, with_nul)], ..batch(2) },
    ];
    for batch in bad {
        let error = owner.writer.commit(&batch).await.expect_err("PostgreSQL has no NUL in text");
        assert!(matches!(&error, CommitError::Refused { sqlstate, .. } if sqlstate.starts_with("22")), "{error}");
    }
    let follows = cell.store.follow(LogPosition::default(), 10).await.expect("read");
    assert_eq!(follows.len(), 1);
    assert!(cell.store.specs(&[JobId(2)]).await.expect("read").is_empty());
    assert!(cell.store.job(JobId(1)).await.expect("read").expect("it is there").outcomes.is_empty());
    owner.writer.commit(&Batch { jobs: vec![new_job(2, spec())], ..batch(2) }).await.expect("the term goes on");
}

async fn term_ends(writer: &mut dyn Writer, batch: &Batch) {
    let error = writer.commit(batch).await.expect_err("a bug");
    assert!(matches!(error, CommitError::TermOver(_)), "{error}");
}

async fn log_number_that_does_not_follow_ends_the_term(cell: TestCell) {
    let mut owner = cell.own().await;
    term_ends(&mut *owner.writer, &batch(2)).await;
    drop(owner);
    let mut owner = next_owner(&cell).await;
    owner.writer.commit(&batch(1)).await.expect("committed");
    term_ends(&mut *owner.writer, &batch(3)).await;
    drop(owner);
    let mut owner = next_owner(&cell).await;
    term_ends(&mut *owner.writer, &batch(1)).await;
    assert_eq!(cell.store.follow(LogPosition::default(), 10).await.expect("read").len(), 1);
}

/// The term, as soon as the locks of the owner before are gone.
pub(crate) async fn next_owner(cell: &TestCell) -> cabbage_broker::store::Tenure {
    loop {
        if let Some(tenure) = cell.store.take_term("here:2").await.expect("the database answers") {
            return tenure;
        }
    }
}

async fn key_that_exists_ends_the_term(cell: TestCell) {
    let place = Place::Stream(STREAM);
    let row = |id| parked(id, place, 0, record());
    let mut owner = cell.own().await;
    let first =
        Batch { outcomes: vec![outcome(1, 1, Verdict::Succeeded)], parked: vec![row(2)], ..first_batch([1, 2]) };
    owner.writer.commit(&first).await.expect("committed");
    let elsewhere = parked(2, Place::Due(STREAM), 9, record());
    for bad in [
        Batch { jobs: vec![new_job(3, spec()), new_job(1, spec())], ..batch(2) },
        Batch { outcomes: vec![outcome(1, 1, Verdict::Failed)], ..batch(2) },
        Batch { parked: vec![row(2)], ..batch(2) },
        Batch { parked: vec![elsewhere], ..batch(2) },
    ] {
        term_ends(&mut *owner.writer, &bad).await;
        drop(owner);
        owner = next_owner(&cell).await;
    }
    assert!(cell.store.specs(&[JobId(3)]).await.expect("read").is_empty());
    owner.writer.commit(&batch(2)).await.expect("nothing was written");
}

async fn parked_row_that_is_missing_ends_the_term(cell: TestCell) {
    let place = Place::Stream(STREAM);
    let (there, not_there) = (parked(1, place, 0, record()), parked(2, place, 0, record()));
    let mut owner = cell.own().await;
    owner.writer.commit(&Batch { parked: vec![there.clone()], ..first_batch([1, 2]) }).await.expect("committed");
    let bad = Batch { unparked: vec![leaving(&there), leaving(&not_there)], ..batch(2) };
    term_ends(&mut *owner.writer, &bad).await;
    drop(owner);
    let mut owner = next_owner(&cell).await;
    let good = Batch { unparked: vec![leaving(&there)], ..batch(2) };
    owner.writer.commit(&good).await.expect("nothing was written, so it is still there");
}

async fn start_long_before_its_due_time_is_put_off(cell: TestCell) {
    let mut owner = cell.own().await;
    let due = cell.now().await.plus(Duration::from_hours(1));
    let early = Batch { not_before: Some(due), ..first_batch([1]) };
    let error = owner.writer.commit(&early).await.expect_err("it is not due");
    assert!(matches!(error, CommitError::Again(_)), "{error}");
    owner.writer.commit(&first_batch([1])).await.expect("nothing was written");
}

async fn ids_are_reserved_once(cell: TestCell) {
    let mut owner = cell.own().await;
    let mut seen = Vec::new();
    seen.extend(owner.writer.reserve(3).await.expect("reserved"));
    let committed = owner.writer.commit(&Batch { reserve_ids: 1_000, ..batch(1) }).await.expect("committed");
    assert_eq!(committed.ids.end - committed.ids.start, 1_000);
    seen.extend(committed.ids);
    let committed = owner.writer.commit(&batch(2)).await.expect("committed");
    assert!(committed.ids.is_empty());
    seen.extend(owner.writer.reserve(1).await.expect("reserved"));
    assert_eq!(seen.len(), 1_004);
    assert!(seen.is_sorted() && seen.windows(2).all(|pair| pair[0] < pair[1]) && seen[0] > 0);
}

async fn job_changes_its_place_in_one_batch(cell: TestCell) {
    let before = parked(1, Place::Due(STREAM), 5, record());
    let after = parked(1, Place::Stream(STREAM), 0, record());
    let mut owner = cell.own().await;
    owner.writer.commit(&Batch { parked: vec![before.clone()], ..first_batch([1]) }).await.expect("committed");
    let moves = Batch { unparked: vec![leaving(&before)], parked: vec![after.clone()], ..batch(2) };
    owner.writer.commit(&moves).await.expect("committed");
    let keys = LookUp { jobs: vec![JobId(1)], ..LookUp::default() };
    assert_eq!(cell.store.look_up(keys).await.expect("read").jobs, [JobFound::Parked(after)]);
}

async fn call_is_remembered_once(cell: TestCell) {
    let call = |id: &str, answer| RequestRow { id: id.into(), digest: Uuid::from_u128(9), answer };
    let calls = vec![
        call("a", Answer::Deferred { first: JobId(4), count: 2 }),
        call("b", Answer::DeferredIds(vec![JobId(9), JobId(1)])),
        call("c", Answer::Cancelled { state: 6 }),
    ];
    let mut owner = cell.own().await;
    owner.writer.commit(&Batch { requests: calls.clone(), ..batch(1) }).await.expect("committed");
    let requests = ["c", "x", "a", "b"].map(Into::into).to_vec();
    let found = cell.store.look_up(LookUp { requests, ..LookUp::default() }).await.expect("read");
    let expected = [Some(&calls[2]), None, Some(&calls[0]), Some(&calls[1])].map(Option::<&RequestRow>::cloned);
    assert_eq!(found.requests, expected);
    term_ends(&mut *owner.writer, &Batch { requests: vec![calls[0].clone()], ..batch(2) }).await;
}
