//! When and how often a failed attempt is tried again.

mod strategy;

use std::time::Duration;

use cabbage_proto::v1;

pub use self::strategy::{Retry, RetryStrategy};
pub(crate) use self::strategy::{judge, judge_timeout};
use crate::{failure::kind_of, wire};

/// The longest wait, where a policy names none.
const LONGEST_WAIT: Duration = Duration::from_hours(24 * 365);

/// What follows a failed attempt of a job. Without one, nothing does: a job has one attempt.
///
/// Give it to one job ([`JobBuilder::retry`](crate::JobBuilder::retry)), to all jobs of a task as they are deferred
/// ([`Task::configure`](crate::Task::configure)), or to a task in the worker, for jobs that were deferred without one
/// ([`TaskOptions::retry`](crate::TaskOptions::retry)). A bare number will do: `job.retry(5)`. What no policy can say,
/// a [`RetryStrategy`] can.
///
/// The wait before attempt n + 1 is `wait + linear * n + exponential * factor^(n - 1)`, at most `max_wait`, plus a
/// random part of up to `jitter` of it. It is never shorter (C8).
///
/// ```
/// use std::time::Duration;
/// use cabbage_worker::RetryPolicy;
///
/// let policy = RetryPolicy::attempts(10)
///     .exponential(Duration::from_secs(1))
///     .max_wait(Duration::from_secs(600))
///     .jitter(0.2)
///     .never::<std::num::ParseIntError>();
/// ```
#[derive(Clone, Debug, PartialEq)]
#[must_use]
pub struct RetryPolicy(v1::RetryPolicy);

impl RetryPolicy {
    /// At most so many attempts, the first included (C8); without a wait, unless one is added.
    ///
    /// 0 counts as 1: a number that was computed, and came out too low, must not become a job that is tried for ever, as
    /// a 0 on the wire and in SQL is. That is said with [`Self::forever`].
    pub fn attempts(attempts: u32) -> Self {
        Self(v1::RetryPolicy { max_attempts: attempts.max(1), ..v1::RetryPolicy::default() })
    }

    /// One attempt, whatever the task or the worker says.
    pub fn none() -> Self {
        Self::attempts(1)
    }

    /// Until it succeeds.
    pub fn forever() -> Self {
        Self(v1::RetryPolicy::default())
    }

    /// The constant part of the wait.
    pub fn wait(mut self, wait: Duration) -> Self {
        self.0.wait = Some(wire::duration(wait));
        self
    }

    /// The part of the wait that is multiplied by the number of attempts so far.
    pub fn linear(mut self, wait: Duration) -> Self {
        self.0.linear_wait = Some(wire::duration(wait));
        self
    }

    /// The part of the wait that doubles with each attempt.
    pub fn exponential(mut self, wait: Duration) -> Self {
        self.0.exponential_wait = Some(wire::duration(wait));
        self
    }

    /// Another factor of growth than 2, from 1 to 100.
    pub fn factor(mut self, factor: f64) -> Self {
        self.0.exponential_factor = factor;
        self
    }

    /// The longest wait; 365 days without one.
    pub fn max_wait(mut self, wait: Duration) -> Self {
        self.0.max_wait = Some(wire::duration(wait));
        self
    }

    /// A random addition to each wait, as a fraction of it, from 0 to 1.
    pub fn jitter(mut self, fraction: f64) -> Self {
        self.0.jitter = fraction;
        self
    }

    /// Tries again only after errors of this type, or of another one that is named so.
    pub fn only<E>(self) -> Self {
        self.only_kind(kind_of::<E>())
    }

    /// Never tries again after an error of this type.
    pub fn never<E>(self) -> Self {
        self.never_kind(kind_of::<E>())
    }

    /// Tries again only after errors of this kind, or of another one that is named so. At most 16.
    pub fn only_kind(mut self, kind: impl Into<String>) -> Self {
        self.0.only_kinds.push(kind.into());
        self
    }

    /// Never tries again after an error of this kind, such as `panic`, `Timeout` or `InvalidArguments`. At most 16.
    pub fn never_kind(mut self, kind: impl Into<String>) -> Self {
        self.0.never_kinds.push(kind.into());
        self
    }
}

impl RetryPolicy {
    /// The wait after so many attempts (from 1), before its random part. Never more than [`Self::max_wait`] says, and
    /// 365 days without that.
    ///
    /// ```
    /// use std::time::Duration;
    /// use cabbage_worker::RetryPolicy;
    ///
    /// let policy = RetryPolicy::attempts(9).exponential(Duration::from_secs(3)).max_wait(Duration::from_secs(60));
    /// let waits: Vec<u64> = (1..=6).map(|attempts| policy.wait_after(attempts).as_secs()).collect();
    /// assert_eq!(waits, [3, 6, 12, 24, 48, 60]);
    /// ```
    pub fn wait_after(&self, attempts: u32) -> Duration {
        let part = |wait: &Option<prost_types::Duration>| wait.and_then(read).unwrap_or_default();
        let factor = if self.0.exponential_factor == 0.0 { 2.0 } else { self.0.exponential_factor };
        let power = factor.powi(i32::try_from(attempts.saturating_sub(1)).unwrap_or(i32::MAX));
        let exponential = part(&self.0.exponential_wait);
        let grown = if exponential.is_zero() { 0.0 } else { exponential.as_secs_f64() * power };
        let wait = part(&self.0.wait)
            .saturating_add(part(&self.0.linear_wait).saturating_mul(attempts))
            .saturating_add(Duration::try_from_secs_f64(grown).unwrap_or(Duration::MAX));
        wait.min(self.0.max_wait.and_then(read).unwrap_or(LONGEST_WAIT))
    }

    /// Attempts in all; `None` without a limit.
    fn limit(&self) -> Option<u32> {
        Some(self.0.max_attempts).filter(|attempts| *attempts != 0)
    }

    fn allows_kind(&self, kind: &str) -> bool {
        let named = |kinds: &[String]| kinds.iter().any(|named| named == kind);
        (self.0.only_kinds.is_empty() || named(&self.0.only_kinds)) && !named(&self.0.never_kinds)
    }

    /// What the broker would refuse counts as the nearest that it takes.
    fn jitter_fraction(&self) -> f64 {
        if self.0.jitter.is_nan() { 0.0 } else { self.0.jitter.clamp(0.0, 1.0) }
    }
}

/// `None` for a malformed one.
fn read(wait: prost_types::Duration) -> Option<Duration> {
    wait.try_into().ok()
}

impl From<u32> for RetryPolicy {
    /// So many attempts, the first included; 0 counts as 1.
    fn from(attempts: u32) -> Self {
        Self::attempts(attempts)
    }
}

impl From<RetryPolicy> for v1::RetryPolicy {
    fn from(policy: RetryPolicy) -> Self {
        policy.0
    }
}

impl From<v1::RetryPolicy> for RetryPolicy {
    fn from(policy: v1::RetryPolicy) -> Self {
        Self(policy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn the_wait_is_the_sum_of_its_parts() {
        let forever = RetryPolicy::forever;
        for (policy, waits) in [
            (forever(), [0, 0, 0, 0]),
            (forever().wait(secs(5)), [5, 5, 5, 5]),
            (forever().linear(secs(7)), [7, 14, 21, 28]),
            (forever().exponential(secs(5)), [5, 10, 20, 40]),
            (forever().exponential(secs(2)).factor(3.0), [2, 6, 18, 54]),
            (forever().wait(secs(3)).linear(secs(7)).exponential(secs(5)), [15, 27, 44, 71]),
            (forever().wait(secs(3)).linear(secs(7)).exponential(secs(5)).max_wait(secs(30)), [15, 27, 30, 30]),
        ] {
            let told = [1, 2, 3, 4].map(|attempts| policy.wait_after(attempts).as_secs());
            assert_eq!(told, waits, "{policy:?}");
        }
    }

    #[test]
    fn a_huge_wait_is_clamped_and_never_overflows() {
        let most = Duration::MAX;
        let policy = RetryPolicy::forever().wait(most).linear(most).exponential(most).factor(100.0);
        for attempts in [1, 2, 1_000, u32::MAX] {
            assert_eq!(policy.wait_after(attempts), LONGEST_WAIT);
            assert_eq!(policy.clone().max_wait(secs(9)).wait_after(attempts), secs(9));
        }
        let broken = RetryPolicy::forever().exponential(secs(1)).factor(f64::NAN);
        assert_eq!(broken.wait_after(7), LONGEST_WAIT);
    }

    #[test]
    fn a_bare_number_is_a_number_of_attempts() {
        let policy = |retry: RetryPolicy| v1::RetryPolicy::from(retry).max_attempts;
        assert_eq!([policy(5.into()), policy(0.into()), policy(RetryPolicy::none())], [5, 1, 1]);
        assert_eq!(policy(RetryPolicy::forever()), 0);
    }
}
