//! When silence, and an attempt that does not end, are over: at their time, and not a moment before.

use std::time::Duration;

use cabbage_broker::core::{
    batch::{Batch, Changed},
    effect::{CallId, Effect, Refusal},
    event::{End, Event, Failed, RetryDecision, Settle, SettleFrom},
    job::{Failure, JobSpec, Verdict},
    limits::Limits,
    types::{JobId, Lease},
};
use uuid::Uuid;

use crate::rig::{FIRST, Rig, spec, verdicts};

const MOMENT: Duration = Duration::from_millis(1);

/// Commits whatever this time brings.
fn just_before(time: Duration) -> Duration {
    time.saturating_sub(MOMENT)
}

fn after(rig: &mut Rig, time: Duration) -> Vec<Batch> {
    rig.passes(time);
    rig.settle_down("poison")
}

fn closes(batches: &[Batch]) -> bool {
    let closed = Effect::Close { link: FIRST, error: Refusal::Silent };
    batches.iter().any(|batch| batch.effects.contains(&closed))
}

#[test]
fn a_silent_worker_loses_its_stream_and_then_its_jobs_at_their_times_and_not_before() {
    let Limits { watchdog, session, .. } = Limits::default();
    let mut rig = Rig::with_running_job();
    assert!(!closes(&after(&mut rig, just_before(watchdog))));
    assert!(closes(&after(&mut rig, MOMENT)));
    assert_eq!(verdicts(&after(&mut rig, just_before(session.saturating_sub(watchdog)))), []);
    assert_eq!(verdicts(&after(&mut rig, MOMENT)), [Verdict::Crashed]);
}

#[test]
fn a_worker_that_says_at_the_last_moment_that_it_lives_has_all_of_its_time_anew() {
    let Limits { watchdog, session, .. } = Limits::default();
    let mut rig = Rig::with_running_job();
    after(&mut rig, watchdog);
    after(&mut rig, just_before(session.saturating_sub(watchdog)));
    let id = Uuid::from_u128(FIRST.0.into());
    rig.handle(Event::Extend { call: CallId(2), session: id, secret: id });
    assert_eq!(verdicts(&after(&mut rig, just_before(session))), []);
    assert_eq!(verdicts(&after(&mut rig, MOMENT)), [Verdict::Crashed]);
}

#[test]
fn a_worker_whose_stream_broke_loses_its_jobs_after_the_grace_and_not_before() {
    let mut rig = Rig::with_running_job();
    rig.handle(Event::LinkLost { link: FIRST, reported: true });
    assert_eq!(verdicts(&after(&mut rig, just_before(Limits::default().grace))), []);
    assert_eq!(verdicts(&after(&mut rig, MOMENT)), [Verdict::Crashed]);
}

/// So much time, in which the worker is heard again and again.
fn alive(rig: &mut Rig, time: Duration) -> Vec<Batch> {
    let beat = Limits::default().watchdog / 2;
    let mut batches = Vec::new();
    let mut left = time;
    while !left.is_zero() {
        rig.handle(Event::Heard { link: FIRST, received: 2 });
        let step = left.min(beat);
        batches.extend(after(rig, step));
        left = left.saturating_sub(step);
    }
    batches
}

#[test]
fn an_attempt_is_over_by_its_own_start_and_not_by_that_of_an_earlier_one() {
    let attempt_timeout = Duration::from_secs(30);
    let whole = attempt_timeout + Limits::default().timeout_slack;
    let mut rig = Rig::new();
    rig.hello(FIRST);
    rig.defer_job(JobSpec { attempt_timeout: Some(attempt_timeout), ..spec("good") });
    rig.settle_down("poison");
    assert_eq!(verdicts(&alive(&mut rig, just_before(whole))), []);
    // The first attempt fails at the last moment; the second one starts at once.
    let failed = Failed {
        failure: Failure { kind: "Wrong".into(), message: String::new(), trace: String::new() },
        never_retry: false,
        retry: Some(RetryDecision { delay: Duration::ZERO, changed: Changed::default() }),
    };
    let lease = Lease { job: JobId(1), delivery: 1, nonce: 1 };
    let results = vec![(lease, End::Failed(Box::new(failed)))];
    rig.handle(Event::Settle(Settle { from: SettleFrom::Call(CallId(2)), results }));
    assert_eq!(verdicts(&rig.settle_down("poison")), [Verdict::Retried]);

    assert_eq!(verdicts(&alive(&mut rig, just_before(whole))), []);
    let batches = after(&mut rig, MOMENT);
    let ends: Vec<_> = batches.iter().flat_map(|batch| &batch.outcomes).collect();
    assert_eq!(ends.len(), 1);
    let reason = ends[0].more.as_ref().and_then(|more| more.reason.clone());
    assert_eq!((ends[0].delivery, ends[0].verdict, reason.as_deref()), (2, Verdict::Failed, Some("TIMEOUT")));
}
