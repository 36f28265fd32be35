//! A job: what was asked for, and what the core remembers of it until it is final.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use super::types::{LockId, SessionNo, Stream, Timestamp};

/// What stands for no arguments.
pub const NO_ARGS: Bytes = Bytes::from_static(b"{}");

/// What somebody asked for, checked against the limits.
#[derive(Clone, Debug, PartialEq)]
pub struct JobSpec {
    /// The task's name.
    pub task: Arc<str>,
    /// The queue's name.
    pub queue: Arc<str>,
    /// JSON text, byte for byte.
    pub args: Bytes,
    /// -100 to 100.
    pub priority: i8,
    /// The lock (C9).
    pub lock: Option<Arc<str>>,
    /// The lock's mode `strict`.
    pub strict: bool,
    /// The queueing lock (C10).
    pub queueing_lock: Option<Arc<str>>,
    /// When it becomes due.
    pub due: DueAt,
    /// Not started by then: failed (C17).
    pub deadline: Option<Timestamp>,
    /// How long an attempt may take.
    pub attempt_timeout: Option<Duration>,
    /// What follows a failed attempt. `None`: nothing.
    pub retry: Option<Arc<RetryPolicy>>,
    /// Free labels.
    pub metadata: Vec<(String, String)>,
    /// The W3C trace context of the defer.
    pub traceparent: Option<Arc<str>>,
    /// The W3C trace state.
    pub tracestate: Option<Arc<str>>,
}

impl JobSpec {
    /// Whether it asks for nothing but a task in a queue, with arguments: what [`Self::plain`] makes.
    pub fn is_plain(&self) -> bool {
        let Self {
            task: _,
            queue: _,
            args: _,
            priority: 0,
            lock: None,
            strict: false,
            queueing_lock: None,
            due: DueAt::Once,
            deadline: None,
            attempt_timeout: None,
            retry: None,
            metadata,
            traceparent: None,
            tracestate: None,
        } = self
        else {
            return false;
        };
        metadata.is_empty()
    }

    /// What asks for nothing but a task in a queue: no arguments (`{}`), at once, one attempt.
    pub fn plain(task: impl Into<Arc<str>>, queue: impl Into<Arc<str>>) -> Self {
        Self {
            task: task.into(),
            queue: queue.into(),
            args: NO_ARGS,
            priority: 0,
            lock: None,
            strict: false,
            queueing_lock: None,
            due: DueAt::Once,
            deadline: None,
            attempt_timeout: None,
            retry: None,
            metadata: Vec::new(),
            traceparent: None,
            tracestate: None,
        }
    }
}

/// When a job becomes due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DueAt {
    /// At its creation.
    Once,
    /// At an instant.
    At(Timestamp),
    /// After a delay from its creation.
    In(Duration),
}

/// When and how often a failed attempt is tried again (C8).
#[derive(Clone, Debug, PartialEq)]
pub struct RetryPolicy {
    /// Attempts in all. 0: without a limit.
    pub max_attempts: u32,
    /// The constant part of the wait.
    pub wait: Duration,
    /// The part that is multiplied by the number of attempts so far.
    pub linear_wait: Duration,
    /// The part that grows by the factor with each attempt.
    pub exponential_wait: Duration,
    /// The factor of growth, at least 1.
    pub exponential_factor: f64,
    /// The longest wait.
    pub max_wait: Duration,
    /// A random addition, as a fraction of the wait, 0 to 1.
    pub jitter: f64,
    /// If not empty: only errors of these kinds are tried again.
    pub only_kinds: Vec<String>,
    /// Errors of these kinds are never tried again.
    pub never_kinds: Vec<String>,
}

impl RetryPolicy {
    /// Whether another attempt follows the `attempts`-th one, which failed with an error of this kind.
    pub fn allows(&self, attempts: u32, kind: &str) -> bool {
        (self.max_attempts == 0 || attempts < self.max_attempts)
            && (self.only_kinds.is_empty() || self.only_kinds.iter().any(|only| only == kind))
            && !self.never_kinds.iter().any(|never| never == kind)
    }

    /// The wait after the `attempts`-th attempt. `dice` (0 to 1) chooses the jitter.
    pub fn wait_after(&self, attempts: u32, dice: f64) -> Duration {
        let max = self.max_wait.as_secs_f64();
        let power = self.exponential_factor.powi(i32::try_from(attempts.saturating_sub(1)).unwrap_or(i32::MAX));
        let seconds = self.wait.as_secs_f64()
            + self.linear_wait.as_secs_f64() * f64::from(attempts)
            + if self.exponential_wait.is_zero() { 0.0 } else { self.exponential_wait.as_secs_f64() * power };
        let seconds = if seconds.is_finite() { seconds.min(max) } else { max };
        let whole = Duration::try_from_secs_f64(seconds).unwrap_or(self.max_wait);
        // Rounding may only ever lengthen the wait.
        let whole = if attempts <= 1 && self.linear_wait.is_zero() && self.exponential_wait.is_zero() {
            self.wait.min(self.max_wait)
        } else {
            whole
        };
        whole + whole.mul_f64((self.jitter * dice).clamp(0.0, 1.0))
    }
}

/// What the core remembers of an unfinished job. Small, since there may be a million, and a follower holds as many. What
/// is open of a job that runs is remembered beside it ([`Run`]).
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Its stream now; a retry may have changed it.
    pub stream: Stream,
    /// Scheduled, waiting or running.
    pub phase: Phase,
    /// When it became due, or becomes due.
    pub due: Timestamp,
    /// Ended attempts.
    pub attempts: u32,
    /// Begun deliveries.
    pub deliveries: u32,
    /// Workers that died while they ran it.
    pub crashes: u16,
    /// The length of its arguments.
    pub args_bytes: u32,
    /// What few jobs have.
    pub rare: Option<Box<Rare>>,
}

impl Record {
    /// The lock, if it has one.
    pub fn lock(&self) -> Option<LockId> {
        self.rare.as_ref().and_then(|rare| rare.lock)
    }

    /// Whether its lock is strict for it.
    pub fn is_strict(&self) -> bool {
        self.rare.as_ref().is_some_and(|rare| rare.strict)
    }

    /// The queueing lock, if it has one and never started.
    pub fn queueing_lock(&self) -> Option<&Arc<str>> {
        self.rare.as_ref().and_then(|rare| rare.queueing_lock.as_ref())
    }

    /// The deadline, if it has one.
    pub fn deadline(&self) -> Option<Timestamp> {
        self.rare.as_ref().and_then(|rare| rare.deadline)
    }
}

/// What few jobs have, so that the others need not pay for it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rare {
    /// The lock.
    pub lock: Option<LockId>,
    /// The lock's mode `strict`.
    pub strict: bool,
    /// The queueing lock; the first start takes it away.
    pub queueing_lock: Option<Arc<str>>,
    /// Not started by then: failed.
    pub deadline: Option<Timestamp>,
    /// How long an attempt may take.
    pub attempt_timeout: Option<Duration>,
    /// What follows a failed attempt.
    pub retry: Option<Arc<RetryPolicy>>,
}

impl Rare {
    /// Itself in a box, or `None` if it holds nothing.
    pub fn boxed(self) -> Option<Box<Self>> {
        (self != Self::default()).then(|| Box::new(self))
    }
}

/// Where an unfinished job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Its time has not come.
    Scheduled,
    /// The owner has recorded that its time came.
    Waiting,
    /// A delivery has no recorded end.
    Running,
}

/// An open delivery: what is remembered of a job while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Who runs it.
    pub session: SessionNo,
    /// The nonce of the term that recorded the start.
    pub nonce: u64,
    /// When the start was recorded.
    pub started: Timestamp,
    /// Somebody asked to cancel it.
    pub cancel_requested: bool,
}

/// How a delivery ended, as it is kept for people and for repeated settles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Verdict {
    /// Final.
    Succeeded = 1,
    /// Final.
    Failed = 2,
    /// Final.
    Cancelled = 3,
    /// Another attempt follows.
    Retried = 4,
    /// Put off by the handler.
    Snoozed = 5,
    /// Came back unstarted.
    Released = 6,
    /// The worker died.
    Crashed = 7,
    /// An operator opened it again.
    Reopened = 8,
}

impl Verdict {
    /// Whether the job is over.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }

    /// The verdict of this number.
    pub fn from_number(number: u8) -> Option<Self> {
        [
            Self::Succeeded,
            Self::Failed,
            Self::Cancelled,
            Self::Retried,
            Self::Snoozed,
            Self::Released,
            Self::Crashed,
            Self::Reopened,
        ]
        .into_iter()
        .find(|verdict| *verdict as u8 == number)
    }
}

/// What went wrong in an attempt, cut to the limits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failure {
    /// The kind of the error.
    pub kind: String,
    /// For people.
    pub message: String,
    /// The stack or the causes.
    pub trace: String,
}
