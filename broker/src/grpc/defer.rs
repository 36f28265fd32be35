//! What somebody asks to defer, from the wire to checked specs.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use cabbage_proto::v1;

use crate::core::{
    event::{DeferItem, OnConflict, Request},
    job::{DueAt, JobSpec, NO_ARGS, RetryPolicy},
};

use super::{
    check::{self, Invalid},
    digest::Digest,
    json,
};

/// The queue of a job that names none.
const DEFAULT_QUEUE: &str = "default";

/// Kinds of errors that a retry policy may name, each way.
const KINDS_MAX: usize = 16;

/// The longest wait of a retry policy that names none.
const MAX_WAIT: Duration = Duration::from_hours(365 * 24);

/// What one spec weighs besides its arguments while it waits, about.
const SPEC_BYTES: usize = 512;

/// Turns specs of one call into checked ones. Shares what they have in common.
#[derive(Debug, Default)]
pub(super) struct Specs {
    queue: Option<Arc<str>>,
    task: Option<Arc<str>>,
    /// What the checked specs hold, in bytes, about.
    pub(super) bytes: usize,
}

impl Specs {
    /// Checks a job with its request id. The digest is made only where there is one.
    pub(super) fn item(
        &mut self,
        call: &str,
        job: Option<v1::JobSpec>,
        request_id: &str,
    ) -> Result<DeferItem, Invalid> {
        let mut job = job.ok_or_else(|| Invalid::new("job", "is missing; say what to run"))?;
        let request = check::request_id(request_id)?.map(|id| {
            let mut digest = Digest::of(call);
            add_to_digest(&mut digest, &mut job);
            Request { id: id.into(), digest: digest.finish() }
        });
        let on_conflict = on_conflict(&job).map_err(|invalid| invalid.within("job"))?;
        let spec = self.spec(job).map_err(|invalid| invalid.within("job"))?;
        Ok(DeferItem { request, spec: Arc::new(spec), on_conflict })
    }

    fn spec(&mut self, job: v1::JobSpec) -> Result<JobSpec, Invalid> {
        check::name("task", &job.task)?;
        check::text("queue", &job.queue, check::NAME_BYTES_MAX)?;
        let queue = if job.queue.is_empty() { DEFAULT_QUEUE } else { &job.queue };
        check::at_most("args", job.args.len(), check::ARGS_BYTES_MAX)?;
        // A copy: as they came they are a slice of what was read from the connection, a whole message or 8 KiB at least,
        // which would stay in memory, uncounted, for as long as one of its jobs waits (C14).
        let args = if job.args.is_empty() { NO_ARGS } else { Bytes::copy_from_slice(&job.args) };
        json::check(&args).map_err(|error| Invalid::new("args", error.to_string()))?;
        let strict = match v1::LockMode::try_from(job.lock_mode) {
            Ok(v1::LockMode::Unspecified | v1::LockMode::FirstStartable) => false,
            Ok(v1::LockMode::Strict) => true,
            Err(_) => return Err(Invalid::new("lock_mode", "is no value of the enum")),
        };
        if strict && job.lock.is_empty() {
            return Err(Invalid::new("lock_mode", "is STRICT without a lock; name the lock"));
        }
        let due = match &job.due {
            None => DueAt::Once,
            Some(v1::job_spec::Due::ScheduleAt(at)) => DueAt::At(check::timestamp("schedule_at", at)?),
            Some(v1::job_spec::Due::ScheduleIn(wait)) => DueAt::In(check::duration("schedule_in", wait)?),
        };
        let deadline = job.deadline.as_ref().map(|at| check::timestamp("deadline", at)).transpose()?;
        let timeout = job.attempt_timeout.as_ref().map(|timeout| check::duration("attempt_timeout", timeout));
        let attempt_timeout = timeout.transpose()?;
        if attempt_timeout.is_some_and(|timeout| timeout.is_zero()) {
            return Err(Invalid::new("attempt_timeout", "is zero; leave it out for no limit"));
        }
        let retry = job.retry.map(retry_policy).transpose().map_err(|invalid| invalid.within("retry"))?;
        let metadata = labels(job.metadata)?;
        let spec = JobSpec {
            task: shared(&mut self.task, &job.task),
            queue: shared(&mut self.queue, queue),
            args,
            priority: check::priority("priority", job.priority)?,
            lock: optional("lock", &job.lock, check::LOCK_BYTES_MAX)?,
            strict,
            queueing_lock: optional("queueing_lock", &job.queueing_lock, check::LOCK_BYTES_MAX)?,
            due,
            deadline,
            attempt_timeout,
            retry: retry.map(Arc::new),
            metadata,
            traceparent: optional("traceparent", &job.traceparent, check::TRACE_BYTES_MAX)?,
            tracestate: optional("tracestate", &job.tracestate, check::TRACE_BYTES_MAX)?,
        };
        self.bytes += SPEC_BYTES + spec.args.len();
        Ok(spec)
    }
}

fn on_conflict(job: &v1::JobSpec) -> Result<OnConflict, Invalid> {
    let on_conflict = match v1::QueueingConflict::try_from(job.queueing_conflict) {
        Ok(v1::QueueingConflict::Unspecified | v1::QueueingConflict::Reject) => OnConflict::Reject,
        Ok(v1::QueueingConflict::Reschedule) => OnConflict::Reschedule,
        Ok(v1::QueueingConflict::Replace) => OnConflict::Replace,
        Err(_) => return Err(Invalid::new("queueing_conflict", "is no value of the enum")),
    };
    if on_conflict != OnConflict::Reject && job.queueing_lock.is_empty() {
        let problem = "says what a taken queueing lock does, and there is none; name the queueing lock";
        return Err(Invalid::new("queueing_conflict", problem));
    }
    Ok(on_conflict)
}

/// Takes a job into a digest: its labels in an order of their own, all else as it is encoded.
pub(super) fn add_to_digest(digest: &mut Digest, job: &mut v1::JobSpec) {
    let labels = std::mem::take(&mut job.metadata);
    digest.message(job);
    digest.labels(&labels);
    job.metadata = labels;
}

/// The same name again, as it is most of the time in a batch.
fn shared(last: &mut Option<Arc<str>>, name: &str) -> Arc<str> {
    match last {
        Some(last) if **last == *name => Arc::clone(last),
        last => Arc::clone(last.insert(name.into())),
    }
}

fn optional(field: &str, text: &str, max: usize) -> Result<Option<Arc<str>>, Invalid> {
    check::text(field, text, max)?;
    Ok((!text.is_empty()).then(|| text.into()))
}

fn labels(labels: HashMap<String, String>) -> Result<Vec<(String, String)>, Invalid> {
    check::count("metadata", labels.len(), check::LABELS_MAX)?;
    for (key, value) in &labels {
        check::text("metadata", key, check::LABEL_KEY_BYTES_MAX)?;
        check::at_most("metadata", value.len(), check::LABEL_VALUE_BYTES_MAX)?;
        if key.is_empty() || value.contains('\0') {
            return Err(Invalid::new("metadata", "has an empty key, or a value with NUL; leave it out"));
        }
    }
    let mut sorted: Vec<_> = labels.into_iter().collect();
    sorted.sort_unstable();
    Ok(sorted)
}

fn retry_policy(policy: v1::RetryPolicy) -> Result<RetryPolicy, Invalid> {
    let factor = if policy.exponential_factor == 0.0 { 2.0 } else { policy.exponential_factor };
    if !(1.0..=100.0).contains(&factor) {
        return Err(Invalid::new("exponential_factor", format!("is {factor}; it goes from 1 to 100")));
    }
    if !(0.0..=1.0).contains(&policy.jitter) {
        return Err(Invalid::new("jitter", format!("is {}; it goes from 0 to 1", policy.jitter)));
    }
    for (field, kinds) in [("only_kinds", &policy.only_kinds), ("never_kinds", &policy.never_kinds)] {
        check::count(field, kinds.len(), KINDS_MAX)?;
        kinds.iter().try_for_each(|kind| check::name(field, kind))?;
    }
    Ok(RetryPolicy {
        max_attempts: policy.max_attempts,
        wait: check::delay("wait", policy.wait.as_ref())?,
        linear_wait: check::delay("linear_wait", policy.linear_wait.as_ref())?,
        exponential_wait: check::delay("exponential_wait", policy.exponential_wait.as_ref())?,
        exponential_factor: factor,
        max_wait: policy.max_wait.as_ref().map_or(Ok(MAX_WAIT), |wait| check::duration("max_wait", wait))?,
        jitter: policy.jitter,
        only_kinds: policy.only_kinds,
        never_kinds: policy.never_kinds,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job() -> v1::JobSpec {
        v1::JobSpec { task: "send".into(), ..v1::JobSpec::default() }
    }

    fn field(change: impl FnOnce(&mut v1::JobSpec)) -> String {
        let mut job = job();
        change(&mut job);
        match Specs::default().item("DeferJob", Some(job), "") {
            Err(invalid) => invalid.field,
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn what_is_left_out_gets_its_default() {
        let item = Specs::default().item("DeferJob", Some(job()), "").expect("a plain job");
        assert_eq!((&*item.spec.queue, &item.spec.args[..]), ("default", &b"{}"[..]));
        assert_eq!(item.spec.due, DueAt::Once);
        assert!(item.request.is_none());
    }

    #[test]
    fn arguments_are_kept_byte_for_byte() {
        let args = Bytes::from_static(b" {\"n\": 12345678901234567890, \"n\": 1.0} ");
        let job = v1::JobSpec { args: args.clone(), ..job() };
        let item = Specs::default().item("DeferJob", Some(job), "").expect("a plain job");
        assert_eq!(item.spec.args, args);
    }

    #[test]
    fn arguments_do_not_keep_their_message_in_memory() {
        let message = Bytes::from(vec![b'1'; 4_096]);
        let job = v1::JobSpec { args: message.slice(..8), ..job() };
        let item = Specs::default().item("DeferJob", Some(job), "").expect("a plain job");
        assert_eq!(item.spec.args.len(), 8);
        assert!(message.is_unique());
    }

    #[test]
    fn each_limit_names_its_field() {
        assert_eq!(field(|job| job.task.clear()), "job.task");
        assert_eq!(field(|job| job.queue = "a\0".into()), "job.queue");
        assert_eq!(field(|job| job.args = Bytes::from_static(b"{")), "job.args");
        assert_eq!(field(|job| job.priority = 101), "job.priority");
        assert_eq!(field(|job| job.lock = "x".repeat(256)), "job.lock");
        assert_eq!(field(|job| job.lock_mode = 2), "job.lock_mode");
        assert_eq!(field(|job| job.queueing_lock = "\n".into()), "job.queueing_lock");
        assert_eq!(field(|job| job.set_queueing_conflict(v1::QueueingConflict::Replace)), "job.queueing_conflict");
        assert!(field(|job| job.set_queueing_conflict(v1::QueueingConflict::Reject)).contains("Ok"));
        let long = v1::RetryPolicy { jitter: 1.5, ..v1::RetryPolicy::default() };
        assert_eq!(field(|job| job.retry = Some(long)), "job.retry.jitter");
        let nan = v1::RetryPolicy { exponential_factor: f64::NAN, ..v1::RetryPolicy::default() };
        assert_eq!(field(|job| job.retry = Some(nan)), "job.retry.exponential_factor");
        let many = (0..33).map(|number| (number.to_string(), String::new())).collect();
        assert_eq!(field(|job| job.metadata = many), "job.metadata");
    }

    #[test]
    fn arguments_pass_at_the_limit_and_fail_one_over() {
        let args = |bytes: usize| Bytes::from(format!("\"{}\"", "x".repeat(bytes - 2)));
        assert!(field(|job| job.args = args(check::ARGS_BYTES_MAX)).contains("Ok"));
        assert_eq!(field(|job| job.args = args(check::ARGS_BYTES_MAX + 1)), "job.args");
    }

    #[test]
    fn the_request_id_is_no_part_of_what_was_asked() {
        let digest = |id: &str, task: &str| {
            let job = v1::JobSpec { task: task.into(), ..job() };
            Specs::default().item("DeferJob", Some(job), id).expect("a plain job").request.expect("an id").digest
        };
        assert_eq!(digest("one", "send"), digest("two", "send"));
        assert_ne!(digest("one", "send"), digest("one", "other"));
    }
}
