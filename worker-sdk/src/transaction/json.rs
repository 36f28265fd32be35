//! Jobs as `defer_batch` wants them: a JSON array, with the arguments' text as it is.

use std::collections::BTreeMap;

use cabbage_proto::v1::{self, job_spec::Due};
use serde::Serialize;
use serde_json::value::RawValue;

use super::TransactionError;
use crate::Error;

/// One job; what is left out has its default.
#[derive(Serialize)]
struct Job<'a> {
    task: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    args: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "str::is_empty")]
    queue: &'a str,
    priority: i32,
    #[serde(skip_serializing_if = "str::is_empty")]
    lock: &'a str,
    strict: bool,
    #[serde(skip_serializing_if = "str::is_empty")]
    queueing_lock: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    schedule_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    schedule_in: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deadline: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempt_timeout: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry: Option<Retry<'a>>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    metadata: BTreeMap<&'a str, &'a str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    traceparent: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    tracestate: &'a str,
}

#[derive(Serialize)]
struct Retry<'a> {
    max_attempts: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    wait: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    linear_wait: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exponential_wait: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exponential_factor: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_wait: Option<String>,
    jitter: f64,
    only_kinds: &'a [String],
    never_kinds: &'a [String],
}

/// The text of the array.
pub(super) fn text(specs: &[v1::JobSpec]) -> Result<String, TransactionError> {
    let jobs = specs.iter().map(job).collect::<Result<Vec<_>, _>>()?;
    serde_json::to_string(&jobs).map_err(|error| Error::InvalidArguments(error).into())
}

fn job(spec: &v1::JobSpec) -> Result<Job<'_>, TransactionError> {
    match spec.queueing_conflict() {
        v1::QueueingConflict::Unspecified | v1::QueueingConflict::Reject => {}
        v1::QueueingConflict::Reschedule | v1::QueueingConflict::Replace => {
            return Err(TransactionError::Unsupported(
                "in a transaction a queueing lock that is taken cancels the job; defer it by a client instead",
            ));
        }
    }
    let args = if spec.args.is_empty() { None } else { Some(serde_json::from_slice(&spec.args)) };
    Ok(Job {
        task: &spec.task,
        args: args.transpose().map_err(Error::InvalidArguments)?,
        queue: &spec.queue,
        priority: spec.priority,
        lock: &spec.lock,
        strict: spec.lock_mode() == v1::LockMode::Strict,
        queueing_lock: &spec.queueing_lock,
        schedule_at: match &spec.due {
            Some(Due::ScheduleAt(at)) => Some(time(at)),
            Some(Due::ScheduleIn(_)) | None => None,
        },
        schedule_in: match &spec.due {
            Some(Due::ScheduleIn(wait)) => Some(interval(wait)),
            Some(Due::ScheduleAt(_)) | None => None,
        },
        deadline: spec.deadline.as_ref().map(time),
        attempt_timeout: spec.attempt_timeout.as_ref().map(interval),
        retry: spec.retry.as_ref().map(|retry| Retry {
            max_attempts: retry.max_attempts,
            wait: retry.wait.as_ref().map(interval),
            linear_wait: retry.linear_wait.as_ref().map(interval),
            exponential_wait: retry.exponential_wait.as_ref().map(interval),
            exponential_factor: (retry.exponential_factor != 0.0).then_some(retry.exponential_factor),
            max_wait: retry.max_wait.as_ref().map(interval),
            jitter: retry.jitter,
            only_kinds: &retry.only_kinds,
            never_kinds: &retry.never_kinds,
        }),
        metadata: spec.metadata.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect(),
        traceparent: &spec.traceparent,
        tracestate: &spec.tracestate,
    })
}

/// At the microseconds that PostgreSQL records, never earlier.
fn time(at: &prost_types::Timestamp) -> String {
    let micros = i64::from(at.nanos).div_euclid(1_000) + i64::from(at.nanos % 1_000 != 0);
    let seconds = at.seconds.saturating_add(micros / 1_000_000);
    prost_types::Timestamp { seconds, nanos: (micros % 1_000_000) as i32 * 1_000 }.to_string()
}

/// At the microseconds that PostgreSQL records, never shorter.
fn interval(wait: &prost_types::Duration) -> String {
    let micros = i64::from(wait.nanos).div_euclid(1_000) + i64::from(wait.nanos % 1_000 != 0);
    let (seconds, micros) = (wait.seconds.saturating_add(micros / 1_000_000), micros % 1_000_000);
    format!("{seconds}.{micros:06} seconds")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{NewJob, QueueingConflict, RetryPolicy};

    #[test]
    fn job_is_written_with_its_options_and_its_arguments_as_they_are() {
        let job = NewJob::named("send")
            .args_json(" {\"n\": 12345678901234567890} ")
            .queue("mail")
            .lock("l")
            .schedule_in(Duration::from_nanos(1_500_000_001))
            .retry(RetryPolicy::attempts(3).wait(Duration::from_secs(2)));
        let text = text(&[job.into_spec().expect("a job")]).expect("JSON");
        assert_eq!(
            text,
            "[{\"task\":\"send\",\"args\":{\"n\": 12345678901234567890},\"queue\":\"mail\",\"priority\":0,\
             \"lock\":\"l\",\"strict\":false,\"schedule_in\":\"1.500001 seconds\",\"retry\":{\"max_attempts\":3,\
             \"wait\":\"2.000000 seconds\",\"jitter\":0.0,\"only_kinds\":[],\"never_kinds\":[]}}]"
        );
    }

    #[test]
    fn times_are_never_earlier() {
        let at = prost_types::Timestamp { seconds: 1, nanos: 999_999_001 };
        assert_eq!(time(&at), "1970-01-01T00:00:02Z");
    }

    #[test]
    fn what_a_transaction_cannot_do_is_said() {
        let job = NewJob::named("send").queueing_lock("q").on_queueing_conflict(QueueingConflict::Replace);
        let refused = text(&[job.into_spec().expect("a job")]);
        assert!(matches!(refused, Err(TransactionError::Unsupported(_))));
    }
}
