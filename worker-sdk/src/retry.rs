//! When and how often a failed attempt is tried again.

use std::time::Duration;

use cabbage_proto::v1;

use crate::{failure::kind_of, wire};

/// What follows a failed attempt of a job. Without one, nothing does: a job has one attempt.
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
    /// 0 counts as 1.
    pub fn attempts(attempts: u32) -> Self {
        Self(v1::RetryPolicy { max_attempts: attempts.max(1), ..v1::RetryPolicy::default() })
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
