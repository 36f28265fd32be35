//! Retry strategies as code: a worker decides what follows a failed attempt.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::RetryPolicy;
use crate::{JobInfo, RetryDecision, TaskError, backoff::Jitter};

/// Decides, in the worker, what follows a failed attempt.
///
/// Register one for a task with [`TaskOptions::retry`](crate::TaskOptions::retry), or for all tasks of a worker with
/// [`WorkerBuilder::retry`](crate::WorkerBuilder::retry). A [`RetryPolicy`] is one too.
///
/// ```
/// use std::time::Duration;
/// use cabbage_worker::{JobInfo, Retry, RetryDecision, RetryStrategy, TaskError, TaskOptions};
///
/// /// Longer and longer waits; what still fails after three attempts goes on in a queue for slow work.
/// struct Patient { wait: Duration }
///
/// impl RetryStrategy for Patient {
///     fn decide(&self, error: &TaskError, job: &JobInfo) -> Retry {
///         if error.kind() == Some("NoSuchAccount") {
///             return Retry::Never;
///         }
///         let decision = RetryDecision::after(self.wait * job.attempt());
///         if job.attempt() < 3 { decision.into() } else { decision.queue("slow").priority(-10).into() }
///     }
///
///     fn max_attempts(&self, _: &JobInfo) -> Option<u32> {
///         Some(10)
///     }
/// }
///
/// let options = TaskOptions::new().retry(Patient { wait: Duration::from_secs(5) });
/// # let _ = options;
/// ```
///
/// The decision goes to the broker with the failure, and is recorded with it: a job that waits to be tried again is in
/// the database, and outlives every restart.
///
/// Who decides, in this order:
/// 1. The handler's error, if it says so itself ([`TaskError::never_retry`], [`TaskError::retry`]).
/// 2. The strategy of the task, or of the worker if the task has none. It is asked for panics and timeouts as well.
/// 3. The policy that the job was deferred with: where there is no strategy, where it says [`Retry::ByPolicy`], and
///    where no worker was there to ask: after a crash, or a timeout that the worker did not report in time (C8).
///
/// Whoever decides, a job is never tried more often than its own policy says (C8), nor after somebody cancelled it
/// (C11).
pub trait RetryStrategy: Send + Sync + 'static {
    /// Says what follows. It is not asked after the last attempt. It should be quick, and not block: it is also asked
    /// on the task that keeps the worker's stream.
    ///
    /// If it panics, that is logged, and the job's policy decides.
    fn decide(&self, error: &TaskError, job: &JobInfo) -> Retry;

    /// How many attempts of this job there may be, the first included. `None`, the default: no limit but that of the
    /// job's own policy. Handlers see it in [`JobInfo::max_attempts`] and [`JobInfo::is_last_attempt`], so say it here
    /// rather than in [`Self::decide`].
    fn max_attempts(&self, job: &JobInfo) -> Option<u32> {
        let _ = job;
        None
    }
}

/// What follows a failed attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Retry {
    /// What the policy says that the job was deferred with. Without one, the job is failed.
    ByPolicy,
    /// Nothing: the job is failed.
    Never,
    /// Another attempt.
    Again(RetryDecision),
}

impl From<RetryDecision> for Retry {
    fn from(decision: RetryDecision) -> Self {
        Self::Again(decision)
    }
}

impl From<Option<RetryDecision>> for Retry {
    /// `None`: nothing follows.
    fn from(decision: Option<RetryDecision>) -> Self {
        decision.map_or(Self::Never, Self::Again)
    }
}

/// For jobs that were deferred without a policy of their own; that of a job comes first.
impl RetryStrategy for RetryPolicy {
    fn decide(&self, error: &TaskError, job: &JobInfo) -> Retry {
        if job.has_retry_policy() {
            return Retry::ByPolicy;
        }
        if !self.allows_kind(error.kind().unwrap_or_default()) {
            return Retry::Never;
        }
        let wait = self.wait_after(job.attempt());
        let seed = (job.id() as u64) ^ (u64::from(job.attempt()) << 48);
        let more = Jitter::new(seed).up_to(wait.mul_f64(self.jitter_fraction()));
        RetryDecision::after(wait.saturating_add(more)).into()
    }

    fn max_attempts(&self, job: &JobInfo) -> Option<u32> {
        if job.has_retry_policy() { None } else { self.limit() }
    }
}

/// Adds the strategy's decision to a failure, unless that says already what follows.
pub(crate) fn judge(error: TaskError, job: &JobInfo) -> TaskError {
    let Some(strategy) = job.site().retry.as_ref().filter(|_| error.is_undecided()) else {
        return error;
    };
    let decide = || if job.is_last_attempt() { Retry::Never } else { strategy.decide(&error, job) };
    match catch_unwind(AssertUnwindSafe(decide)) {
        Ok(Retry::ByPolicy) => error,
        Ok(Retry::Never) => error.never_retry(),
        Ok(Retry::Again(decision)) => error.retry(decision),
        Err(panic) => {
            let panic = TaskError::of_panic(&*panic);
            tracing::error!(job = job.id(), %panic, "a retry strategy panicked; the job's policy decides");
            error
        }
    }
}

/// What a timeout of this attempt amounts to; `None` where no strategy has a say.
pub(crate) fn judge_timeout(job: &JobInfo) -> Option<TaskError> {
    job.site().retry.as_ref()?;
    Some(judge(TaskError::timeout(), job))
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use cabbage_proto::v1;

    use super::*;
    use crate::site::Site;

    fn job(strategy: impl RetryStrategy, attempts_before: u32, max_attempts: u32) -> JobInfo {
        let site = Site { retry: Some(Arc::new(strategy)), ..Site::of_no_worker() };
        let delivery = v1::Delivery { job_id: 3, attempts_before, max_attempts, ..v1::Delivery::default() };
        JobInfo::new(delivery, "t".into(), "q".into(), Arc::new(site))
    }

    fn judged(job: &JobInfo, error: TaskError) -> v1::Failed {
        match judge(error, job).into_outcome() {
            v1::job_result::Outcome::Failed(failed) => failed,
            other => panic!("{other:?}"),
        }
    }

    fn error() -> TaskError {
        TaskError::new("Busy", "busy")
    }

    struct Fixed(Retry, Option<u32>);

    impl RetryStrategy for Fixed {
        fn decide(&self, _: &TaskError, _: &JobInfo) -> Retry {
            self.0.clone()
        }

        fn max_attempts(&self, _: &JobInfo) -> Option<u32> {
            self.1
        }
    }

    #[test]
    fn a_strategy_decides_unless_the_error_has() {
        let again = RetryDecision::after(Duration::from_secs(7)).queue("slow").priority(-3).lock("");
        let job = job(Fixed(again.into(), None), 0, 0);
        let decided = judged(&job, error()).retry.expect("another attempt");
        assert_eq!((decided.queue.as_str(), decided.priority, decided.lock.as_deref()), ("slow", Some(-3), Some("")));
        assert_eq!(decided.delay.map(|delay| delay.seconds), Some(7));
        assert!(judged(&job, error().never_retry()).retry.is_none());
        let own = judged(&job, error().retry_after(Duration::from_secs(1)));
        assert_eq!(own.retry.and_then(|own| own.delay).map(|delay| delay.seconds), Some(1));
    }

    #[test]
    fn never_is_never_and_by_policy_leaves_it_to_the_broker() {
        assert!(judged(&job(Fixed(Retry::Never, None), 0, u32::MAX), error()).never_retry);
        let left = judged(&job(Fixed(Retry::ByPolicy, None), 0, 5), error());
        assert!(!left.never_retry && left.retry.is_none());
    }

    #[test]
    fn the_last_attempt_is_that_of_the_smaller_limit() {
        let again = || Retry::Again(RetryDecision::now());
        for (before, policy, strategy, max, last) in [
            (0, 0, None, None, false),
            (1, 0, Some(2), Some(2), true),
            (1, 5, Some(9), Some(5), false),
            (4, 5, None, Some(5), true),
            (1, u32::MAX, Some(2), Some(2), true),
            (8, u32::MAX, None, None, false),
            (0, 1, None, Some(1), true),
            (0, 0, Some(0), Some(1), true),
        ] {
            let job = job(Fixed(again(), strategy), before, policy);
            assert_eq!((job.max_attempts(), job.is_last_attempt()), (max, last), "{before} {policy} {strategy:?}");
            assert_eq!(judged(&job, error()).never_retry, last, "{before} {policy} {strategy:?}");
        }
    }

    #[test]
    fn a_strategy_that_panics_leaves_it_to_the_policy() {
        struct Broken;
        impl RetryStrategy for Broken {
            fn decide(&self, error: &TaskError, _: &JobInfo) -> Retry {
                panic!("no idea what {error} means")
            }
        }
        let left = judged(&job(Broken, 0, 5), error());
        assert!(!left.never_retry && left.retry.is_none());
    }

    #[test]
    fn a_policy_of_a_task_is_for_jobs_that_have_none() {
        let policy = RetryPolicy::attempts(3).linear(Duration::from_secs(10)).never_kind("Gone");
        let first = judged(&job(policy.clone(), 0, 0), error());
        assert_eq!(first.retry.and_then(|retry| retry.delay).map(|delay| delay.seconds), Some(10));
        let second = judged(&job(policy.clone(), 1, 0), error());
        assert_eq!(second.retry.and_then(|retry| retry.delay).map(|delay| delay.seconds), Some(20));
        assert!(judged(&job(policy.clone(), 2, 0), error()).never_retry);
        assert!(judged(&job(policy.clone(), 0, 0), TaskError::new("Gone", "")).never_retry);
        let own = job(policy, 4, 9);
        assert_eq!(own.max_attempts(), Some(9));
        assert!(judged(&own, error()).retry.is_none());
    }

    #[test]
    fn jitter_only_lengthens_a_wait() {
        let policy = RetryPolicy::forever().wait(Duration::from_secs(10)).jitter(0.5);
        for attempts in 0..100 {
            let retry = judged(&job(policy.clone(), attempts, 0), error()).retry.expect("another attempt");
            let wait = Duration::try_from(retry.delay.expect("a delay")).expect("a positive one");
            assert!((Duration::from_secs(10)..=Duration::from_secs(15)).contains(&wait), "{wait:?}");
        }
    }
}
