//! A job as JSON for programs.
//!
//! The fields are those of `cabbage.v1` by their names there. Ids are strings (they may exceed what a JSON number
//! holds), instants RFC 3339, durations as protobuf writes them, states their words in the contract. Arguments and
//! results are embedded as they are, byte for byte. What is not set is left out.

use std::collections::BTreeMap;

use cabbage_proto::v1::{Attempt, Job, JobSpec, RetryPolicy, job_spec::Due};
use serde::Serialize;
use serde_json::value::RawValue;

use super::state;
use crate::time::{duration_for_machines, duration_from_wire, for_machines, from_wire};

#[derive(Debug, Serialize)]
pub(crate) struct JobView<'a> {
    id: String,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    waiting_for: Option<&'static str>,
    spec: SpecView<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    due_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    started_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    finished_at: Option<String>,
    attempts: u32,
    deliveries: u32,
    crashes: u32,
    cancel_requested: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_attempt: Option<AttemptView<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    history: Vec<AttemptView<'a>>,
}

#[derive(Debug, Serialize)]
pub(crate) struct SpecView<'a> {
    task: &'a str,
    queue: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    args: Option<&'a RawValue>,
    priority: i32,
    #[serde(skip_serializing_if = "str::is_empty")]
    lock: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    lock_mode: Option<&'static str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    queueing_lock: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    queueing_conflict: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    schedule_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    schedule_in: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deadline: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempt_timeout: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry: Option<RetryView<'a>>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    metadata: BTreeMap<&'a str, &'a str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    traceparent: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    tracestate: &'a str,
}

#[derive(Debug, Serialize)]
struct RetryView<'a> {
    max_attempts: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    wait: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    linear_wait: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exponential_wait: Option<String>,
    exponential_factor: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_wait: Option<String>,
    jitter: f64,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    only_kinds: &'a [String],
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    never_kinds: &'a [String],
}

#[derive(Debug, Serialize)]
struct AttemptView<'a> {
    delivery: u32,
    attempt: u32,
    verdict: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    started_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    finished_at: Option<String>,
    #[serde(skip_serializing_if = "str::is_empty")]
    session_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<FailureView<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_due: Option<String>,
}

#[derive(Debug, Serialize)]
struct FailureView<'a> {
    kind: &'a str,
    message: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    trace: &'a str,
}

impl<'a> JobView<'a> {
    pub(crate) fn of(job: &'a Job) -> Self {
        Self {
            id: job.id.to_string(),
            state: state::word(job.state()),
            waiting_for: state::waiting_word(job.waiting_for()),
            spec: job.spec.as_ref().map_or_else(|| SpecView::of(empty_spec()), SpecView::of),
            created_at: instant(job.created_at),
            due_at: instant(job.due_at),
            started_at: instant(job.started_at),
            finished_at: instant(job.finished_at),
            attempts: job.attempts,
            deliveries: job.deliveries,
            crashes: job.crashes,
            cancel_requested: job.cancel_requested,
            last_attempt: job.last_attempt.as_ref().map(AttemptView::of),
            history: job.history.iter().map(AttemptView::of).collect(),
        }
    }
}

/// No broker leaves the spec out; if one does, the job is shown with empty fields.
fn empty_spec() -> &'static JobSpec {
    static EMPTY: std::sync::LazyLock<JobSpec> = std::sync::LazyLock::new(JobSpec::default);
    &EMPTY
}

impl<'a> SpecView<'a> {
    pub(crate) fn of(spec: &'a JobSpec) -> Self {
        let (schedule_at, schedule_in) = match spec.due {
            Some(Due::ScheduleAt(at)) => (instant(Some(at)), None),
            Some(Due::ScheduleIn(after)) => (None, duration(Some(after))),
            None => (None, None),
        };
        Self {
            task: &spec.task,
            queue: &spec.queue,
            args: raw(&spec.args),
            priority: spec.priority,
            lock: &spec.lock,
            lock_mode: (!spec.lock.is_empty()).then(|| state::lock_mode_word(spec.lock_mode())),
            queueing_lock: &spec.queueing_lock,
            queueing_conflict: (!spec.queueing_lock.is_empty()).then(|| state::conflict_word(spec.queueing_conflict())),
            schedule_at,
            schedule_in,
            deadline: instant(spec.deadline),
            attempt_timeout: duration(spec.attempt_timeout),
            retry: spec.retry.as_ref().map(RetryView::of),
            metadata: spec.metadata.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect(),
            traceparent: &spec.traceparent,
            tracestate: &spec.tracestate,
        }
    }
}

impl<'a> RetryView<'a> {
    fn of(retry: &'a RetryPolicy) -> Self {
        Self {
            max_attempts: retry.max_attempts,
            wait: duration(retry.wait),
            linear_wait: duration(retry.linear_wait),
            exponential_wait: duration(retry.exponential_wait),
            exponential_factor: retry.exponential_factor,
            max_wait: duration(retry.max_wait),
            jitter: retry.jitter,
            only_kinds: &retry.only_kinds,
            never_kinds: &retry.never_kinds,
        }
    }
}

impl<'a> AttemptView<'a> {
    fn of(attempt: &'a Attempt) -> Self {
        Self {
            delivery: attempt.delivery,
            attempt: attempt.attempt,
            verdict: state::verdict_word(attempt.verdict()),
            reason: &attempt.reason,
            started_at: instant(attempt.started_at),
            finished_at: instant(attempt.finished_at),
            session_id: &attempt.session_id,
            failure: attempt.failure.as_ref().map(|failure| FailureView {
                kind: &failure.kind,
                message: &failure.message,
                trace: &failure.trace,
            }),
            result: raw(&attempt.result),
            next_due: instant(attempt.next_due),
        }
    }
}

/// JSON text as it is; `None`: there is none. (The broker has checked that it is JSON.)
pub(crate) fn raw(text: &[u8]) -> Option<&RawValue> {
    serde_json::from_slice(text).ok()
}

fn instant(timestamp: Option<prost_types::Timestamp>) -> Option<String> {
    from_wire(timestamp?).map(for_machines)
}

fn duration(duration: Option<prost_types::Duration>) -> Option<String> {
    duration_from_wire(duration?).map(duration_for_machines)
}

#[cfg(test)]
mod tests {
    use cabbage_proto::v1::{Failure, JobState, Verdict, WaitingFor};

    use super::*;

    fn job() -> Job {
        let at = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
        Job {
            id: i64::MAX,
            spec: Some(JobSpec {
                task: "mail".into(),
                queue: "default".into(),
                args: br#"{"big":123456789012345678901234567890,"a":  1.0}"#.to_vec().into(),
                ..JobSpec::default()
            }),
            state: JobState::Waiting as i32,
            waiting_for: WaitingFor::Unserved as i32,
            created_at: at(0),
            attempts: 1,
            deliveries: 2,
            history: vec![Attempt {
                delivery: 1,
                attempt: 1,
                verdict: Verdict::Retried as i32,
                failure: Some(Failure { kind: "E".into(), message: "m".into(), trace: String::new() }),
                next_due: at(60),
                ..Attempt::default()
            }],
            ..Job::default()
        }
    }

    #[test]
    fn ids_are_strings_and_arguments_are_kept_byte_for_byte() {
        let text = serde_json::to_string(&JobView::of(&job())).unwrap();
        assert!(text.contains(r#""id":"9223372036854775807""#), "{text}");
        assert!(text.contains(r#""args":{"big":123456789012345678901234567890,"a":  1.0}"#), "{text}");
    }

    #[test]
    fn words_are_those_of_the_contract_and_what_is_not_set_is_left_out() {
        let value: serde_json::Value = serde_json::to_value(JobView::of(&job())).unwrap();
        assert_eq!((&value["state"], &value["waiting_for"]), (&"waiting".into(), &"unserved".into()));
        assert_eq!(value["created_at"], "1970-01-01T00:00:00.000000Z");
        assert_eq!(value["history"][0]["verdict"], "retried");
        assert_eq!(value["history"][0]["next_due"], "1970-01-01T00:01:00.000000Z");
        for absent in ["started_at", "last_attempt"] {
            assert!(value.get(absent).is_none(), "{absent}");
        }
        assert!(value["spec"].get("lock").is_none() && value["spec"].get("retry").is_none());
    }
}
