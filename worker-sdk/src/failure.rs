//! How a handler says that it did not succeed.

use std::{any::type_name, borrow::Cow, error::Error as StdError, fmt, fmt::Write as _, time::Duration};

use cabbage_proto::v1::{self, job_result::Outcome};

use crate::wire;

/// Any error, as the standard library boxes it.
pub type BoxError = Box<dyn StdError + Send + Sync + 'static>;

/// The longest kind of an error.
const MAX_KIND_BYTES: usize = 128;
/// The longest message, and the longest chain of causes. The broker cuts there too.
const MAX_TEXT_BYTES: usize = 16 << 10;
/// How many causes of an error are told.
const MAX_CAUSES: usize = 32;
/// The longest delay that the broker takes: 100 years. A longer one counts as this, rather than to fail the job.
const LONGEST_DELAY: Duration = Duration::from_hours(24 * 36_500);
const CUT_MARK: &str = " [cut]";

/// How an attempt ended, if not with a success.
///
/// Every `std::error::Error` becomes one by `?`, and is then a failure whose kind is the name of the error's type.
/// The job's [`RetryPolicy`](crate::RetryPolicy) decides what follows, unless this says more:
///
/// ```
/// use std::time::Duration;
/// use cabbage_worker::TaskError;
///
/// fn parse(text: &str) -> Result<u32, TaskError> {
///     Ok(text.parse::<u32>()?)
/// }
/// # fn busy() -> bool { true }
/// fn call() -> Result<(), TaskError> {
///     if busy() {
///         return Err(TaskError::snooze(Duration::from_secs(30)));
///     }
///     Err(TaskError::new("NoSuchAccount", "account 7 is gone").never_retry())
/// }
/// # assert!(parse("x").is_err() && call().is_err());
/// ```
///
/// Like `anyhow::Error` it is itself no `std::error::Error`, which is what lets `?` take every error in.
pub struct TaskError(Box<End>);

#[derive(Debug, Clone, PartialEq)]
enum End {
    Failed { failure: v1::Failure, never_retry: bool, retry: Option<RetryDecision> },
    Snoozed(Duration),
    Cancelled(String),
}

/// A handler's own decision to try again; it overrules the job's policy, but never its number of attempts (C8).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use]
pub struct RetryDecision {
    delay: Option<Duration>,
    queue: String,
    priority: Option<i32>,
    lock: Option<String>,
}

impl RetryDecision {
    /// Tries again at once.
    pub fn now() -> Self {
        Self::default()
    }

    /// Tries again after this time.
    pub fn after(delay: Duration) -> Self {
        Self { delay: Some(delay), ..Self::default() }
    }

    /// In another queue.
    pub fn queue(mut self, queue: impl Into<String>) -> Self {
        self.queue = queue.into();
        self
    }

    /// With another priority, -100 to 100 (C15).
    pub fn priority(mut self, priority: i32) -> Self {
        self.priority = Some(priority);
        self
    }

    /// With another lock (C9); the empty string takes the lock away.
    pub fn lock(mut self, lock: impl Into<String>) -> Self {
        self.lock = Some(lock.into());
        self
    }

    fn into_wire(self) -> v1::RetryDecision {
        v1::RetryDecision { delay: self.delay.map(delay), queue: self.queue, priority: self.priority, lock: self.lock }
    }
}

impl TaskError {
    /// A failure of this kind (up to 128 bytes; retry policies name it) with a message for people (up to 16 KiB).
    /// What is longer is cut, with a mark.
    pub fn new(kind: impl Into<String>, message: impl Into<String>) -> Self {
        Self::failed(kind.into(), message.into(), String::new())
    }

    /// A failure of an error that is known only as a box, such as `anyhow::Error`.
    ///
    /// If a `TaskError` lies inside, it comes out again with all that it says.
    pub fn from_boxed(kind: impl Into<String>, error: impl Into<BoxError>) -> Self {
        match error.into().downcast::<Carrier>() {
            Ok(carrier) => carrier.0,
            Err(error) => Self::failed(kind.into(), error.to_string(), causes(error.source())),
        }
    }

    /// The job will not be tried again, whatever its policy says.
    #[must_use]
    pub fn never_retry(mut self) -> Self {
        if let End::Failed { never_retry, .. } = &mut *self.0 {
            *never_retry = true;
        }
        self
    }

    /// The job will be tried again as decided here, whatever its policy says, while it has attempts left (C8).
    #[must_use]
    pub fn retry(mut self, decision: RetryDecision) -> Self {
        if let End::Failed { retry, .. } = &mut *self.0 {
            *retry = Some(decision);
        }
        self
    }

    /// The job will be tried again after this time, whatever its policy says, while it has attempts left (C8).
    #[must_use]
    pub fn retry_after(self, delay: Duration) -> Self {
        self.retry(RetryDecision::after(delay))
    }

    /// Puts the job off for this time. That is no attempt, and no failure (C8).
    pub fn snooze(delay: Duration) -> Self {
        Self(Box::new(End::Snoozed(delay)))
    }

    /// The handler stopped because it was told to: the job is cancelled (C11). If it was told so because its worker
    /// stops, the job goes back instead, without using up an attempt (C8).
    pub fn cancelled(message: impl Into<String>) -> Self {
        Self(Box::new(End::Cancelled(cut(message.into(), MAX_TEXT_BYTES))))
    }

    /// The kind of a failure; `None` for a snooze and a cancellation.
    pub fn kind(&self) -> Option<&str> {
        match &*self.0 {
            End::Failed { failure, .. } => Some(&failure.kind),
            End::Snoozed(_) | End::Cancelled(_) => None,
        }
    }

    /// The message for people.
    pub fn message(&self) -> Cow<'_, str> {
        match &*self.0 {
            End::Failed { failure, .. } => Cow::Borrowed(&failure.message),
            End::Snoozed(delay) => Cow::Owned(format!("put off for {delay:?}")),
            End::Cancelled(message) => Cow::Borrowed(message),
        }
    }

    /// Whether this says that another attempt is useless.
    pub fn is_never_retry(&self) -> bool {
        matches!(&*self.0, End::Failed { never_retry: true, .. })
    }

    /// Whether this says that the handler stopped because it was told to.
    pub(crate) fn is_cancelled(&self) -> bool {
        matches!(&*self.0, End::Cancelled(_))
    }

    /// Whether this leaves open what follows: a failure that neither says "never" nor when.
    pub(crate) fn is_undecided(&self) -> bool {
        matches!(&*self.0, End::Failed { never_retry: false, retry: None, .. })
    }

    /// An attempt that took longer than it may (C8).
    pub(crate) fn timeout() -> Self {
        Self::new("Timeout", "the attempt took longer than it may")
    }

    fn failed(kind: String, message: String, trace: String) -> Self {
        let failure = v1::Failure {
            kind: cut(kind, MAX_KIND_BYTES),
            message: cut(message, MAX_TEXT_BYTES),
            trace: cut(trace, MAX_TEXT_BYTES),
        };
        Self(Box::new(End::Failed { failure, never_retry: false, retry: None }))
    }

    /// What a handler panicked with.
    pub(crate) fn of_panic(panic: &(dyn std::any::Any + Send)) -> Self {
        let message = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let message = message.or_else(|| panic.downcast_ref::<String>().cloned());
        Self::new("panic", message.unwrap_or_else(|| "the handler panicked".to_owned()))
    }

    /// What a handler returned, whatever its type.
    pub(crate) fn of_handler<E: Into<BoxError> + 'static>(error: E) -> Self {
        Self::from_boxed(kind_of::<E>(), error)
    }

    pub(crate) fn into_outcome(self) -> Outcome {
        match *self.0 {
            End::Failed { failure, never_retry, retry } => Outcome::Failed(v1::Failed {
                failure: Some(failure),
                never_retry,
                retry: retry.map(RetryDecision::into_wire),
            }),
            End::Snoozed(wait) => Outcome::Snoozed(v1::Snoozed { delay: Some(delay(wait)) }),
            End::Cancelled(message) => Outcome::Cancelled(v1::Cancelled { message }),
        }
    }
}

/// The kind that an error of this type gets: its full name, cut at 128 bytes.
///
/// For [`RetryPolicy::only`](crate::RetryPolicy::only) and [`RetryPolicy::never`](crate::RetryPolicy::never), which
/// take the type itself. The name of a type is stable only as long as nobody moves the type.
pub fn kind_of<E>() -> String {
    cut(type_name::<E>().to_owned(), MAX_KIND_BYTES)
}

impl<E: StdError + Send + Sync + 'static> From<E> for TaskError {
    fn from(error: E) -> Self {
        Self::failed(kind_of::<E>(), error.to_string(), causes(error.source()))
    }
}

impl From<TaskError> for BoxError {
    fn from(error: TaskError) -> Self {
        Box::new(Carrier(error))
    }
}

impl fmt::Debug for TaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for TaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message())
    }
}

/// Brings a `TaskError` through a box, since it is no `std::error::Error` itself.
#[derive(Debug)]
struct Carrier(TaskError);

impl fmt::Display for Carrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl StdError for Carrier {}

fn delay(delay: Duration) -> prost_types::Duration {
    wire::duration(delay.min(LONGEST_DELAY))
}

fn causes(mut cause: Option<&(dyn StdError + 'static)>) -> String {
    let mut text = String::new();
    for _ in 0..MAX_CAUSES {
        let Some(error) = cause else { break };
        let separator = if text.is_empty() { "" } else { "\n" };
        let _ = write!(text, "{separator}caused by: {error}");
        cause = error.source();
    }
    text
}

fn cut(mut text: String, max_bytes: usize) -> String {
    if text.len() > max_bytes {
        let mut end = max_bytes - CUT_MARK.len();
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push_str(CUT_MARK);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] std::num::ParseIntError);

    fn failure(error: TaskError) -> v1::Failed {
        match error.into_outcome() {
            Outcome::Failed(failed) => failed,
            other => panic!("{other:?}"),
        }
    }

    fn outer() -> Outer {
        Outer("x".parse::<i32>().expect_err("no number"))
    }

    #[test]
    fn an_error_keeps_its_type_name_and_its_causes() {
        let failed = failure(TaskError::from(outer()));
        let told = failed.failure.expect("a failure");
        assert_eq!(told.kind, kind_of::<Outer>());
        assert_eq!((told.message.as_str(), told.trace.as_str()), ("outer", "caused by: invalid digit found in string"));
        assert_eq!(TaskError::of_handler(outer()).kind(), Some(kind_of::<Outer>().as_str()));
    }

    #[test]
    fn a_task_error_survives_a_box() {
        let boxed: BoxError = TaskError::new("Gone", "it is gone").never_retry().into();
        let failed = failure(TaskError::of_handler(boxed));
        assert!(failed.never_retry);
        assert_eq!(failed.failure.expect("a failure").kind, "Gone");
    }

    #[test]
    fn anyhow_and_plain_text_are_failures() {
        let error = anyhow::Error::new(outer()).context("while trying");
        let told = failure(TaskError::of_handler(error)).failure.expect("a failure");
        assert_eq!(told.message, "while trying");
        assert!(told.trace.starts_with("caused by: outer"));
        assert_eq!(TaskError::of_handler("just text").message(), "just text");
    }

    #[test]
    fn long_texts_are_cut_at_a_character_with_a_mark() {
        let error = TaskError::new("k".repeat(500), "ä".repeat(MAX_TEXT_BYTES));
        assert_eq!(error.kind().map(str::len), Some(MAX_KIND_BYTES));
        assert!(error.message().len() <= MAX_TEXT_BYTES && error.message().ends_with(CUT_MARK));
    }
}
