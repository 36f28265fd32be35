//! What a handler knows about its job.

use std::{
    collections::HashMap,
    fmt,
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use cabbage_proto::v1;
use tokio::sync::Notify;

use crate::{Extensions, session::CancelCause, site::Site, wire};

/// The labels of jobs that come from a schedule.
const SCHEDULE_LABEL: &str = "cabbage.schedule";
const TICK_LABEL: &str = "cabbage.tick";

/// What the protocol calls "no limit" of attempts.
const NO_LIMIT: u32 = u32::MAX;

/// A job, as its handler sees it, and the state that the worker shares with its handlers.
///
/// Everything about the job is in [`JobInfo`], which this dereferences to: `ctx.id()`, `ctx.cancelled().await`.
pub struct Context<S = ()> {
    job: Arc<JobInfo>,
    state: Arc<S>,
    extensions: Extensions,
}

impl<S> Context<S> {
    pub(crate) fn new(job: Arc<JobInfo>, state: Arc<S>, extensions: Extensions) -> Self {
        Self { job, state, extensions }
    }

    /// The shared state that was given to the worker with [`WorkerBuilder::state`](crate::WorkerBuilder::state).
    pub fn state(&self) -> &S {
        &self.state
    }

    /// The value of this type that the worker was given with
    /// [`WorkerBuilder::extension`](crate::WorkerBuilder::extension), or this attempt by its middleware.
    ///
    /// Each attempt has its own set of values: what middleware changes in one is not seen in another.
    pub fn extension<T: Send + Sync + 'static>(&self) -> Option<&T> {
        self.extensions.get()
    }

    /// What is known of the job, to keep or to hand on.
    pub fn job(&self) -> &Arc<JobInfo> {
        &self.job
    }

    /// A context outside of any worker, for tests of a handler: job 1, first attempt of one, never cancelled.
    pub fn for_test(task: &str, state: S) -> Self {
        let delivery = v1::Delivery { job_id: 1, ..v1::Delivery::default() };
        let site = Arc::new(Site::of_no_worker());
        let job = Arc::new(JobInfo::new(delivery, task.into(), "default".into(), site));
        Self { job, state: Arc::new(state), extensions: Extensions::default() }
    }

    /// The same context with one more value, for tests of a handler that reads it.
    #[must_use]
    pub fn with_extension<T: Send + Sync + 'static>(mut self, value: T) -> Self {
        self.extensions.insert(value);
        self
    }
}

impl<S> Deref for Context<S> {
    type Target = JobInfo;

    fn deref(&self) -> &JobInfo {
        &self.job
    }
}

impl<S> Clone for Context<S> {
    fn clone(&self) -> Self {
        Self { job: self.job.clone(), state: self.state.clone(), extensions: self.extensions.clone() }
    }
}

impl<S> fmt::Debug for Context<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("job", &self.job).finish_non_exhaustive()
    }
}

/// One delivery of a job.
pub struct JobInfo {
    delivery: v1::Delivery,
    task: Arc<str>,
    queue: Arc<str>,
    site: Arc<Site>,
    /// 0, or one more than the place of the cause in `CAUSES`.
    cancelled: AtomicU8,
    notify: Notify,
}

const CAUSES: [CancelCause; 4] =
    [CancelCause::Requested, CancelCause::Timeout, CancelCause::Stopping, CancelCause::LeaseLost];

impl JobInfo {
    pub(crate) fn new(delivery: v1::Delivery, task: Arc<str>, queue: Arc<str>, site: Arc<Site>) -> Self {
        Self { delivery, task, queue, site, cancelled: AtomicU8::new(0), notify: Notify::new() }
    }

    #[cfg(test)]
    pub(crate) fn for_test(delivery: v1::Delivery) -> Self {
        Self::new(delivery, "t".into(), "q".into(), Arc::new(Site::of_no_worker()))
    }

    pub(crate) fn site(&self) -> &Site {
        &self.site
    }

    /// The id of the job.
    pub fn id(&self) -> i64 {
        self.delivery.job_id
    }

    /// The name of the task, as the job has it: an alias where it was deferred by one, with its namespace.
    pub fn task(&self) -> &str {
        &self.task
    }

    /// The queue.
    pub fn queue(&self) -> &str {
        &self.queue
    }

    /// The number of this attempt, from 1. Deliveries that came back unstarted do not count (C8).
    pub fn attempt(&self) -> u32 {
        self.delivery.attempts_before.saturating_add(1)
    }

    /// How many attempts there may be; `None` without a limit. That is the smaller one of the limits of the job's own
    /// policy and of the task's retry strategy; a job with neither has one attempt.
    pub fn max_attempts(&self) -> Option<u32> {
        let policy = match self.delivery.max_attempts {
            // Without a policy, a strategy decides alone.
            0 if self.site.retry.is_some() => None,
            NO_LIMIT => None,
            attempts => Some(attempts.max(1)),
        };
        let strategy = self.site.retry.as_ref().and_then(|strategy| strategy.max_attempts(self));
        [policy, strategy.map(|attempts| attempts.max(1))].into_iter().flatten().min()
    }

    /// Whether no other attempt follows if this one fails, by the number of attempts.
    ///
    /// If this is true, it is so. If it is false, the kind of the error may still end the job, or a strategy of your
    /// own that says [`Retry::Never`](crate::Retry::Never).
    pub fn is_last_attempt(&self) -> bool {
        self.max_attempts().is_some_and(|attempts| self.attempt() >= attempts)
    }

    /// Whether the job was deferred with a retry policy of its own.
    pub fn has_retry_policy(&self) -> bool {
        self.delivery.max_attempts != 0
    }

    /// The name of the worker that runs the attempt, for people.
    pub fn worker_name(&self) -> &str {
        &self.site.worker_name
    }

    /// The number of this delivery, from 1: how often the job was handed out.
    pub fn delivery(&self) -> u32 {
        self.delivery.delivery.max(1)
    }

    /// The priority, -100 to 100 (C15).
    pub fn priority(&self) -> i32 {
        self.delivery.priority
    }

    /// The lock that the job carries (C9).
    pub fn lock(&self) -> Option<&str> {
        Some(self.delivery.lock.as_str()).filter(|lock| !lock.is_empty())
    }

    /// The labels of whoever deferred the job.
    pub fn metadata(&self) -> &HashMap<String, String> {
        &self.delivery.metadata
    }

    /// The schedule that the job comes from, if it comes from one (C12).
    pub fn schedule(&self) -> Option<&str> {
        self.metadata().get(SCHEDULE_LABEL).map(String::as_str)
    }

    /// The time of the tick that the job was deferred for: that of its schedule's expression, however late the job
    /// starts. `None`: it comes from no schedule, or from a run by hand.
    pub fn tick(&self) -> Option<SystemTime> {
        self.metadata().get(TICK_LABEL)?.parse().ok().and_then(wire::to_time)
    }

    /// The deadline of the job, by the database's clock (C17).
    pub fn deadline(&self) -> Option<SystemTime> {
        self.delivery.deadline.and_then(wire::to_time)
    }

    /// The time that this attempt may take (C8).
    pub fn attempt_timeout(&self) -> Option<Duration> {
        self.delivery.attempt_timeout.and_then(wire::to_duration)
    }

    /// The right to run this delivery, opaque (C5). No other delivery ever has the same, so it serves as a fencing
    /// token towards other systems.
    pub fn lease_token(&self) -> &Bytes {
        &self.delivery.lease_token
    }

    /// The W3C trace context of the defer, for the attempt's span to link to.
    pub fn traceparent(&self) -> Option<&str> {
        Some(self.delivery.traceparent.as_str()).filter(|text| !text.is_empty())
    }

    /// The W3C trace state that belongs to [`Self::traceparent`].
    pub fn tracestate(&self) -> Option<&str> {
        Some(self.delivery.tracestate.as_str()).filter(|text| !text.is_empty())
    }

    /// What an earlier attempt left to go on from. Empty: nothing.
    pub fn checkpoint(&self) -> &Bytes {
        &self.delivery.checkpoint
    }

    /// Whether the handler should stop.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire) != 0
    }

    /// Why the handler should stop, if it should. A later cause takes the place of a milder one.
    pub fn cancel_cause(&self) -> Option<CancelCause> {
        let mark = self.cancelled.load(Ordering::Acquire);
        CAUSES.get(usize::from(mark).checked_sub(1)?).copied()
    }

    /// Resolves once the handler should stop, with the reason. The handler decides what it makes of it.
    pub async fn cancelled(&self) -> CancelCause {
        loop {
            // Made before the look, so that a mark between the two is not missed.
            let notified = self.notify.notified();
            if let Some(cause) = self.cancel_cause() {
                return cause;
            }
            notified.await;
        }
    }

    pub(crate) fn cancel(&self, cause: CancelCause) {
        let mark = CAUSES.iter().position(|known| *known == cause).map_or(0, |place| place as u8 + 1);
        self.cancelled.fetch_max(mark, Ordering::AcqRel);
        self.notify.notify_waiters();
    }
}

impl fmt::Debug for JobInfo {
    /// Without arguments, labels and lease token: those do not belong into logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobInfo")
            .field("id", &self.id())
            .field("task", &self.task)
            .field("queue", &self.queue)
            .field("attempt", &self.attempt())
            .field("delivery", &self.delivery())
            .field("cancelled", &self.cancel_cause())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_count_from_one_and_know_the_last() {
        let job = |attempts_before, max_attempts| {
            let delivery = v1::Delivery { attempts_before, max_attempts, ..v1::Delivery::default() };
            JobInfo::for_test(delivery)
        };
        assert_eq!((job(0, 0).attempt(), job(0, 0).max_attempts(), job(0, 0).is_last_attempt()), (1, Some(1), true));
        assert!(!job(1, 3).is_last_attempt() && job(2, 3).is_last_attempt());
        assert_eq!((job(9, NO_LIMIT).max_attempts(), job(9, NO_LIMIT).is_last_attempt()), (None, false));
    }

    #[test]
    fn a_job_knows_the_tick_of_its_schedule() {
        let metadata = [(SCHEDULE_LABEL, "nightly"), (TICK_LABEL, "2026-03-29T01:00:00Z")];
        let metadata = metadata.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let delivery = v1::Delivery { metadata, ..v1::Delivery::default() };
        let job = JobInfo::new(delivery, "t".into(), "q".into(), Arc::new(Site::of_no_worker()));
        assert_eq!(job.schedule(), Some("nightly"));
        assert_eq!(job.tick(), Some(SystemTime::UNIX_EPOCH + Duration::from_hours(492_985)));
        assert_eq!(Context::for_test("t", ()).tick(), None);
    }

    #[tokio::test]
    async fn a_cancellation_wakes_those_who_wait_and_those_who_ask_later() {
        let ctx = Context::for_test("t", ());
        let waiter = tokio::spawn({
            let ctx = ctx.clone();
            async move { ctx.cancelled().await }
        });
        tokio::task::yield_now().await;
        assert!(!ctx.is_cancelled());
        ctx.job().cancel(CancelCause::Requested);
        assert_eq!(waiter.await.expect("no panic"), CancelCause::Requested);
        ctx.job().cancel(CancelCause::LeaseLost);
        ctx.job().cancel(CancelCause::Requested);
        assert_eq!(ctx.cancelled().await, CancelCause::LeaseLost);
    }
}
