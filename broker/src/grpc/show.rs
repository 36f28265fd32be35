//! A job for people: what the store has of it, under what the owner knows at this moment.

use cabbage_proto::v1;

use crate::{
    cell::JobNow,
    core::{
        batch::Outcome,
        decide::WaitingFor,
        job::{DueAt, JobSpec, Phase, RetryPolicy, Verdict},
        place::Place,
        types::Timestamp,
    },
    store::JobView,
};

/// What to show of it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Detail {
    pub(super) args: bool,
    pub(super) history: bool,
}

/// Whether the newest outcome of a job is final.
pub(super) fn final_verdict(view: &JobView) -> Option<Verdict> {
    view.outcomes.last().map(|outcome| outcome.verdict).filter(|verdict| verdict.is_final())
}

/// Whether store and owner together know where the job is. If not, it was between both, and is to be read again.
pub(super) fn is_whole(view: &JobView, now: &JobNow) -> bool {
    now.live.is_some() || view.parked.is_some() || view.in_inbox || final_verdict(view).is_some()
}

/// The job as it is now.
pub(super) fn job(view: &JobView, now: &JobNow, detail: Detail) -> v1::Job {
    let finished = final_verdict(view);
    // What is final in the tables is final, whatever the owner has not heard yet.
    let live = now.live.as_ref().filter(|_| finished.is_none());
    let run = live.and_then(|live| live.run);
    let last = view.outcomes.last();
    let due = match (live, view.parked) {
        (Some(live), _) => live.record.due,
        (None, Some((_, due))) => due,
        (None, None) => last.and_then(|last| last.more.as_ref()?.next_due).unwrap_or(view.job.due),
    };
    let state = match (finished, live.map(|live| live.record.phase), view.parked) {
        (Some(verdict), ..) => final_state(verdict),
        (None, Some(Phase::Running), _) => v1::JobState::Running,
        (None, Some(Phase::Scheduled), _) => v1::JobState::Scheduled,
        (None, None, Some((Place::Due(_), due))) if due > now.now => v1::JobState::Scheduled,
        (None, None, None) if view.in_inbox && due > now.now => v1::JobState::Scheduled,
        (None, Some(Phase::Waiting) | None, _) => v1::JobState::Waiting,
    };
    let waiting_for = now.waiting_for.filter(|_| state == v1::JobState::Waiting);
    let started = run.map(|run| run.started).or_else(|| view.outcomes.iter().rev().find_map(|outcome| outcome.started));
    let spec = spec(view, now, live.map(|live| live.record.stream.priority), detail.args);
    v1::Job {
        id: view.job.id.0,
        state: state.into(),
        waiting_for: waiting_for.map_or(v1::WaitingFor::Unspecified, waits_for).into(),
        created_at: Some(timestamp(view.job.created)),
        due_at: Some(timestamp(due)),
        started_at: started.map(timestamp),
        finished_at: finished.and(last).map(|last| timestamp(last.finished)),
        attempts: live.map_or_else(|| last.map_or(0, |last| last.attempt), |live| live.record.attempts),
        deliveries: deliveries(view, live.map(|live| live.record.deliveries)),
        crashes: live.map_or(view.crashes, |live| u32::from(live.record.crashes)),
        cancel_requested: run.is_some_and(|run| run.cancel_requested),
        last_attempt: last.map(attempt),
        history: if detail.history { view.outcomes.iter().map(attempt).collect() } else { Vec::new() },
        spec: Some(spec),
    }
}

/// The state on the wire of a final verdict; of any other, what is waited for next is not known here.
pub(super) fn final_state(verdict: Verdict) -> v1::JobState {
    match verdict {
        Verdict::Succeeded => v1::JobState::Succeeded,
        Verdict::Failed => v1::JobState::Failed,
        Verdict::Cancelled => v1::JobState::Cancelled,
        Verdict::Retried | Verdict::Snoozed | Verdict::Released | Verdict::Crashed | Verdict::Reopened => {
            v1::JobState::Unspecified
        }
    }
}

pub(super) fn timestamp(at: Timestamp) -> prost_types::Timestamp {
    let nanos = at.0.rem_euclid(1_000_000) as i32 * 1_000;
    prost_types::Timestamp { seconds: at.0.div_euclid(1_000_000), nanos }
}

pub(super) fn duration(duration: std::time::Duration) -> prost_types::Duration {
    prost_types::Duration { seconds: duration.as_secs() as i64, nanos: duration.subsec_nanos() as i32 }
}

/// How many deliveries began, given the number of the last one if the owner knows it.
fn deliveries(view: &JobView, live: Option<u32>) -> u32 {
    let last = live.or_else(|| view.outcomes.last().map(|outcome| outcome.delivery)).unwrap_or(0);
    // A final without a delivery, and an operator's retry, have a number but began nothing.
    let unstarted = view.outcomes.iter().filter(|outcome| outcome.started.is_none()).count() as u32;
    last.saturating_sub(unstarted)
}

/// What somebody asked for, as it is.
pub(super) fn wanted(spec: &JobSpec) -> v1::JobSpec {
    v1::JobSpec {
        task: spec.task.to_string(),
        queue: spec.queue.to_string(),
        args: spec.args.clone(),
        priority: spec.priority.into(),
        lock: spec.lock.as_deref().unwrap_or_default().to_owned(),
        lock_mode: if spec.strict { v1::LockMode::Strict } else { v1::LockMode::FirstStartable }.into(),
        queueing_lock: spec.queueing_lock.as_ref().map(ToString::to_string).unwrap_or_default(),
        queueing_conflict: v1::QueueingConflict::Reject.into(),
        due: match spec.due {
            DueAt::Once => None,
            DueAt::At(at) => Some(v1::job_spec::Due::ScheduleAt(timestamp(at))),
            DueAt::In(wait) => Some(v1::job_spec::Due::ScheduleIn(duration(wait))),
        },
        deadline: spec.deadline.map(timestamp),
        attempt_timeout: spec.attempt_timeout.map(duration),
        retry: spec.retry.as_deref().map(retry_policy),
        metadata: spec.metadata.iter().cloned().collect(),
        traceparent: spec.traceparent.as_ref().map(ToString::to_string).unwrap_or_default(),
        tracestate: spec.tracestate.as_ref().map(ToString::to_string).unwrap_or_default(),
    }
}

/// What was asked for, with what retries changed of it.
fn spec(view: &JobView, now: &JobNow, live_priority: Option<i8>, show_args: bool) -> v1::JobSpec {
    let spec: &JobSpec = &view.job.spec;
    let (mut queue, mut priority, mut lock) = (spec.queue.clone(), spec.priority, spec.lock.clone());
    let changes = view.outcomes.iter().filter_map(|outcome| outcome.more.as_ref()?.changed.as_ref());
    for changed in changes {
        queue = changed.queue.clone().unwrap_or(queue);
        priority = changed.priority.unwrap_or(priority);
        lock = changed.lock.clone().map_or(lock, |lock| (!lock.is_empty()).then_some(lock));
    }
    v1::JobSpec {
        queue: now.queue.as_ref().unwrap_or(&queue).to_string(),
        args: if show_args { spec.args.clone() } else { bytes::Bytes::new() },
        priority: live_priority.unwrap_or(priority).into(),
        lock: lock.map(|lock| lock.to_string()).unwrap_or_default(),
        ..wanted(spec)
    }
}

fn retry_policy(policy: &RetryPolicy) -> v1::RetryPolicy {
    v1::RetryPolicy {
        max_attempts: policy.max_attempts,
        wait: Some(duration(policy.wait)),
        linear_wait: Some(duration(policy.linear_wait)),
        exponential_wait: Some(duration(policy.exponential_wait)),
        exponential_factor: policy.exponential_factor,
        max_wait: Some(duration(policy.max_wait)),
        jitter: policy.jitter,
        only_kinds: policy.only_kinds.clone(),
        never_kinds: policy.never_kinds.clone(),
    }
}

fn attempt(outcome: &Outcome) -> v1::Attempt {
    let more = outcome.more.as_deref();
    let failure = more.and_then(|more| more.failure.as_ref());
    v1::Attempt {
        delivery: outcome.delivery,
        attempt: outcome.attempt,
        verdict: verdict(outcome.verdict).into(),
        reason: more.and_then(|more| more.reason.as_deref()).unwrap_or_default().to_owned(),
        started_at: outcome.started.map(timestamp),
        finished_at: Some(timestamp(outcome.finished)),
        session_id: outcome.session.map(|session| session.to_string()).unwrap_or_default(),
        failure: failure.map(|failure| v1::Failure {
            kind: failure.kind.clone(),
            message: failure.message.clone(),
            trace: failure.trace.clone(),
        }),
        result: more.and_then(|more| more.result.clone()).unwrap_or_default(),
        next_due: more.and_then(|more| more.next_due).map(timestamp),
    }
}

fn verdict(verdict: Verdict) -> v1::Verdict {
    match verdict {
        Verdict::Succeeded => v1::Verdict::Succeeded,
        Verdict::Failed => v1::Verdict::Failed,
        Verdict::Cancelled => v1::Verdict::Cancelled,
        Verdict::Retried => v1::Verdict::Retried,
        Verdict::Snoozed => v1::Verdict::Snoozed,
        Verdict::Released => v1::Verdict::Released,
        Verdict::Crashed => v1::Verdict::Crashed,
        Verdict::Reopened => v1::Verdict::Reopened,
    }
}

pub(super) fn waits_for(waiting_for: WaitingFor) -> v1::WaitingFor {
    match waiting_for {
        WaitingFor::Ready => v1::WaitingFor::Ready,
        WaitingFor::Blocked => v1::WaitingFor::Blocked,
        WaitingFor::Paused => v1::WaitingFor::Paused,
        WaitingFor::Unserved => v1::WaitingFor::Unserved,
        WaitingFor::Limited => v1::WaitingFor::Limited,
    }
}
