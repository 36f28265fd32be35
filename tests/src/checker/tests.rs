//! For each clause a history that keeps it, and histories broken by hand.

mod calls;
mod leases;
mod locks;
mod moments;
mod records;
mod ticks;
mod verbs;

use std::time::Duration;

use cabbage_broker::core::{
    fact::Fact,
    job::Verdict,
    place::{Place, PlaceKey},
    schedule::{MissedTicks, TickOutcome},
    types::{JobId, SessionNo, Timestamp},
};
use cabbage_proto::v1::SettleCode;

use super::{
    Clause, Rules, Sometimes, check,
    story::{STREAM, Story, due_in, locked, nonce, plain, queueing, retried, strict},
};
use crate::history::{Asked, ClientStep, End, JobRow, LeaseName, WorkerStep};

const SECOND: Duration = Duration::from_secs(1);
const SECOND_MICROS: i64 = 1_000_000;

/// One job that succeeded.
fn one_success() -> (Story, LeaseName) {
    let mut story = Story::new();
    let job = story.defer("a", plain());
    let lease = story.start(job);
    story.succeed(lease);
    (story, lease)
}

/// A delivery that ended with its worker; its job runs again and succeeds.
fn one_crash() -> (Story, LeaseName) {
    let mut story = Story::new();
    let job = story.defer("a", plain());
    let lost = story.start(job);
    story.worker_dies(&[lost]);
    let again = story.start(job);
    story.succeed(again);
    (story, lost)
}

#[track_caller]
fn is_clean(story: &Story) {
    let report = story.check();
    assert!(report.is_clean(), "{report}");
}

#[test]
fn a_run_with_everything_in_it_is_clean_and_counted() {
    let mut story = Story::new();
    let first = story.defer("first", locked("l"));
    let second = story.defer("second", locked("l"));
    let third = story.defer("third", strict("l"));
    let late = story.defer("late", due_in(SECOND_MICROS));
    let flaky = story.defer("flaky", retried(2, SECOND));
    let only = story.defer("only", queueing("q"));
    story.invoke("refused");
    story.client("refused", ClientStep::Refused { reason: "QUEUEING_LOCK_TAKEN".into(), by: Some(only) });
    story.invoke("unknown");
    let unknown = story.create("unknown", plain());
    story.client("unknown", ClientStep::Unknown { detail: "broken pipe".into() });
    story.invoke("unknown");
    story.client("unknown", ClientStep::Deferred { jobs: vec![unknown], repeated: true });

    let lease = story.start(flaky);
    story.fail_and_retry(lease, SECOND);
    let lost = story.start(first);
    story.takeover();
    story.worker_dies(&[lost]);
    story.ended(lost, End::Succeeded);
    story.answered(lost, End::Succeeded, SettleCode::LeaseLost, false);
    for job in [first, second, third, only, unknown] {
        let lease = story.start(job);
        story.succeed(lease);
    }
    story.due(late, SECOND_MICROS);
    story.due(flaky, SECOND_MICROS);
    for job in [late, flaky] {
        let lease = story.start(job);
        story.succeed(lease);
    }
    let dropped = story.defer("dropped", due_in(SECOND_MICROS));
    story.client("cancel", ClientStep::Invoke { asked: Asked::Cancel { job: dropped } });
    story.row(vec![Fact::Finished { id: JobId(dropped), verdict: Verdict::Cancelled }]);
    story.outcome(LeaseName { job: dropped, delivery: 1, nonce: 0 }, Verdict::Cancelled, None);
    story.client("cancel", ClientStep::Cancelled { state: 6 });

    story.reopen(dropped, Verdict::Cancelled);
    let lease = story.start(dropped);
    story.succeed(lease);
    story.erase(first, Verdict::Succeeded);
    story.invoke("poison");
    story.client("poison", ClientStep::Refused { reason: "UNRECORDABLE".into(), by: None });
    let parked = story.defer("parked", plain());
    let (id, place, key) = (JobId(parked), Place::Stream(STREAM), PlaceKey { sort: 0, id: JobId(parked) });
    let record = story.record(parked);
    story.row(vec![Fact::Parked { id, place, key }, Fact::Unparked { id, place, key, record }]);
    let lease = story.start(parked);
    story.succeed(lease);
    story.put_schedule("s", MissedTicks::All);
    let next = (story.now - 1_000_000_000) / SECOND_MICROS + 1;
    story.tick_of("s", next);
    story.delete_schedule("s");

    let report = check(&story.history, Rules { window: 1, ..Rules::default() });
    assert!(report.is_clean(), "{report}");
    assert_eq!(report.missed(&Sometimes::ALL), []);
    let counts = &report.counts;
    assert_eq!((counts.attempted, counts.acknowledged, counts.refused, counts.unknown), (11, 9, 2, 0));
    assert_eq!((counts.jobs, counts.succeeded, counts.cancelled, counts.unfinished), (9, 10, 0, 0));
    assert_eq!((counts.deliveries, counts.executions, counts.duplicates), (12, 12, 1));
    assert_eq!((counts.reopened, counts.erased, counts.ticks, counts.unrecordable), (1, 1, 1, 1));
    assert_eq!((counts.duplicates_explained, counts.takeovers_with_jobs_in_flight), (1, 1));
    assert_eq!(serde_json::to_value(&report).expect("JSON")["counts"]["lease_lost"], 1);
}

#[test]
fn an_event_that_was_never_reached_is_missed() {
    let (story, _) = one_success();
    assert_eq!(story.check().missed(&[Sometimes::Retry, Sometimes::Locked]), [Sometimes::Retry, Sometimes::Locked]);
}
