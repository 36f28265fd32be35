//! What can go wrong with a call, and what a caller may conclude from it.

use std::{collections::HashMap, error::Error as StdError, fmt, time::Duration};

use cabbage_proto::v1;
use tonic::{Code, Status};
use tonic_types::{ErrorInfo, RpcStatusExt as _, StatusExt as _};

use crate::wire;

/// The domain of every reason that a broker gives.
pub const ERROR_DOMAIN: &str = "cabbage";

/// What a broker answered, or the transport in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Answer {
    /// The gRPC code.
    pub code: Code,
    /// The reason, from the documented list (`NOT_OWNER`, `LEASE_LOST`, ...). Empty if it was no broker that answered.
    pub reason: String,
    /// The message for people.
    pub message: String,
    /// More about the reason, such as `job_id`.
    pub metadata: HashMap<String, String>,
    /// How long the broker asks to wait before the next try.
    pub retry_after: Option<Duration>,
    /// The connection could not be opened: nothing was sent.
    pub never_sent: bool,
}

impl Answer {
    pub(crate) fn of(status: &Status) -> Self {
        let (info, retry) = (status.get_details_error_info(), status.get_details_retry_info());
        let mut answer = Self::new(status.code(), status.message(), info, retry.and_then(|info| info.retry_delay));
        answer.never_sent = never_sent(status);
        // The other side gave the connection up (`ENHANCE_YOUR_CALM`), and our transport has a word for it that
        // sounds like an answer. Nobody knows what became of the call.
        if status.source().is_some() && matches!(answer.code, Code::ResourceExhausted | Code::PermissionDenied) {
            answer.code = Code::Unavailable;
        }
        if answer.message.is_empty() {
            answer.message = status.source().map(ToString::to_string).unwrap_or_default();
        }
        answer
    }

    pub(crate) fn of_status(status: &tonic_types::Status) -> Self {
        let (info, retry) = (status.get_details_error_info(), status.get_details_retry_info());
        Self::new(Code::from(status.code), &status.message, info, retry.and_then(|info| info.retry_delay))
    }

    fn new(code: Code, message: &str, info: Option<ErrorInfo>, retry_after: Option<Duration>) -> Self {
        let info = info.filter(|info| info.domain == ERROR_DOMAIN);
        let (reason, metadata) = info.map(|info| (info.reason, info.metadata)).unwrap_or_default();
        Self {
            code,
            reason,
            message: message.to_owned(),
            metadata,
            retry_after: retry_after.map(wire::bounded),
            never_sent: false,
        }
    }

    /// The job that the answer is about, such as the holder of a queueing lock (C10).
    pub fn job_id(&self) -> Option<i64> {
        self.metadata.get("job_id")?.parse().ok()
    }

    /// The answer to an item of a batch, as if its job had been deferred by itself.
    pub(crate) fn of_its_own(mut self, item: usize) -> Self {
        if let Some(message) = self.message.strip_prefix(&format!("items[{item}].")) {
            self.message = message.to_owned();
        }
        if let Some(item) = self.metadata.get_mut("item") {
            item.clear();
        }
        self
    }

    /// Another broker of the cell may serve where this one cannot.
    pub(crate) fn names_another_broker(&self) -> bool {
        self.code == Code::Unavailable || matches!(self.reason.as_str(), "NOT_OWNER" | "UNAVAILABLE")
    }

    /// The call may be repeated with the same request id, and may then do better.
    fn may_pass(&self) -> bool {
        self.names_another_broker()
            || match self.code {
                // A peer's GOAWAY or a cut connection surfaces as CANCELLED or UNKNOWN, without a reason.
                Code::Cancelled | Code::Unknown | Code::Internal => self.reason.is_empty() || self.is_unknown_outcome(),
                Code::DeadlineExceeded | Code::Aborted | Code::ResourceExhausted => {
                    self.code != Code::ResourceExhausted || self.retry_after.is_some()
                }
                _ => self.is_unknown_outcome(),
            }
    }

    fn is_unknown_outcome(&self) -> bool {
        self.reason == "OUTCOME_UNKNOWN"
    }

    /// The call certainly changed nothing.
    fn changed_nothing(&self) -> bool {
        let broken = matches!(self.code, Code::Internal | Code::Unknown | Code::DataLoss | Code::DeadlineExceeded);
        let refused_by_broker = !self.reason.is_empty() && !self.is_unknown_outcome() && !broken;
        let definite = !matches!(
            self.code,
            Code::Ok
                | Code::Cancelled
                | Code::Unknown
                | Code::DeadlineExceeded
                | Code::Internal
                | Code::Unavailable
                | Code::Aborted
                | Code::DataLoss
        );
        self.never_sent || refused_by_broker || definite
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.reason.is_empty() {
            write!(f, "{:?}: {}", self.code, self.message)
        } else {
            write!(f, "{:?} ({}): {}", self.code, self.reason, self.message)
        }
    }
}

/// An error of the [`Client`](crate::Client).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An address is no address, or there is none.
    #[error("invalid broker address {address:?}: {detail}")]
    InvalidAddress {
        /// What was given.
        address: String,
        /// What is wrong with it.
        detail: String,
    },
    /// The arguments cannot be written as JSON.
    #[error("the arguments cannot be written as JSON")]
    InvalidArguments(#[source] serde_json::Error),
    /// The result of a job is not what was asked for.
    #[error("the result of the job cannot be read")]
    InvalidResult(#[source] serde_json::Error),
    /// Something of this kind exists: a job with the same queueing lock (C10; see [`Answer::job_id`]), or a call with
    /// the same request id and other content (C2).
    #[error("already exists: {0}")]
    AlreadyExists(Box<Answer>),
    /// No such job.
    #[error("not found: {0}")]
    NotFound(Box<Answer>),
    /// The broker refused the call, and would again.
    #[error("refused: {0}")]
    Refused(Box<Answer>),
    /// The broker is too busy, or a limit is reached (C14).
    #[error("resource exhausted: {0}")]
    Exhausted(Box<Answer>),
    /// No broker served the call within its deadline; nothing was changed.
    #[error("no broker serves: {0}")]
    Unavailable(Box<Answer>),
    /// Nobody knows whether the call was done (C1). To repeat it with the same request id is safe.
    #[error("the outcome is unknown: {0}")]
    OutcomeUnknown(Box<Answer>),
    /// The job failed for good.
    #[error("job {} failed: {}", .0.id, failure_message(.0))]
    JobFailed(Box<v1::Job>),
    /// The job was cancelled.
    #[error("job {} was cancelled", .0.id)]
    JobCancelled(Box<v1::Job>),
    /// The job was not final within the time.
    #[error("job {job_id} is not final yet")]
    NotFinal {
        /// The job that was waited for.
        job_id: i64,
    },
    /// The broker answered what no broker should.
    #[error("a malformed answer: {0}")]
    Malformed(&'static str),
}

impl Error {
    /// Whether the same call may do better later. For a call that changes something: with the same request id.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unavailable(_) | Self::OutcomeUnknown(_) | Self::NotFinal { .. } => true,
            Self::Exhausted(answer) => answer.retry_after.is_some(),
            Self::InvalidAddress { .. }
            | Self::InvalidArguments(_)
            | Self::InvalidResult(_)
            | Self::AlreadyExists(_)
            | Self::NotFound(_)
            | Self::Refused(_)
            | Self::JobFailed(_)
            | Self::JobCancelled(_)
            | Self::Malformed(_) => false,
        }
    }

    /// Whether the call has certainly changed nothing.
    pub fn has_no_side_effects(&self) -> bool {
        match self {
            Self::OutcomeUnknown(_) | Self::Malformed(_) => false,
            Self::InvalidAddress { .. }
            | Self::InvalidArguments(_)
            | Self::InvalidResult(_)
            | Self::AlreadyExists(_)
            | Self::NotFound(_)
            | Self::Refused(_)
            | Self::Exhausted(_)
            | Self::Unavailable(_)
            | Self::JobFailed(_)
            | Self::JobCancelled(_)
            | Self::NotFinal { .. } => true,
        }
    }

    /// What the broker answered, if it did.
    pub fn answer(&self) -> Option<&Answer> {
        match self {
            Self::AlreadyExists(answer)
            | Self::NotFound(answer)
            | Self::Refused(answer)
            | Self::Exhausted(answer)
            | Self::Unavailable(answer)
            | Self::OutcomeUnknown(answer) => Some(answer),
            Self::InvalidAddress { .. }
            | Self::InvalidArguments(_)
            | Self::InvalidResult(_)
            | Self::JobFailed(_)
            | Self::JobCancelled(_)
            | Self::NotFinal { .. }
            | Self::Malformed(_) => None,
        }
    }

    /// The reason that the broker gave, from the documented list.
    pub fn reason(&self) -> Option<&str> {
        self.answer().map(|answer| answer.reason.as_str()).filter(|reason| !reason.is_empty())
    }

    /// The job that stands in the way, for [`Error::AlreadyExists`] (C10).
    pub fn job_id(&self) -> Option<i64> {
        self.answer()?.job_id()
    }

    /// What an answer means, if an earlier try of the same call may have been done (`unknown`) or not.
    pub(crate) fn of_answer(answer: Answer, unknown: bool) -> Self {
        let answer = Box::new(answer);
        if answer.may_pass() {
            return if unknown || !answer.changed_nothing() {
                Self::OutcomeUnknown(answer)
            } else if answer.code == Code::ResourceExhausted {
                Self::Exhausted(answer)
            } else {
                Self::Unavailable(answer)
            };
        }
        match answer.code {
            Code::AlreadyExists => Self::AlreadyExists(answer),
            Code::NotFound => Self::NotFound(answer),
            Code::ResourceExhausted if !unknown => Self::Exhausted(answer),
            _ if answer.changed_nothing() => Self::Refused(answer),
            _ => Self::OutcomeUnknown(answer),
        }
    }
}

impl Answer {
    /// Whether to try again before the caller hears of it, and whether this try may have been done.
    pub(crate) fn next_step(&self) -> (bool, bool) {
        (self.may_pass(), !self.changed_nothing())
    }
}

fn failure_message(job: &v1::Job) -> String {
    let attempt = job.last_attempt.as_ref();
    let failure = attempt.and_then(|attempt| attempt.failure.as_ref());
    let reason = attempt.map(|attempt| attempt.reason.clone()).unwrap_or_default();
    failure.map_or(reason, |failure| format!("{}: {}", failure.kind, failure.message))
}

fn never_sent(status: &Status) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(code: Code, reason: &str) -> Answer {
        let mut details = tonic_types::ErrorDetails::new();
        if !reason.is_empty() {
            details.set_error_info(reason, ERROR_DOMAIN, [("job_id".to_owned(), "7".to_owned())]);
        }
        Answer::of(&Status::with_error_details(code, "no", details))
    }

    #[test]
    fn a_taken_queueing_lock_names_the_first_job() {
        let error = Error::of_answer(answer(Code::AlreadyExists, "QUEUEING_LOCK_TAKEN"), false);
        assert!(matches!(error, Error::AlreadyExists(_)));
        assert_eq!((error.job_id(), error.reason()), (Some(7), Some("QUEUEING_LOCK_TAKEN")));
        assert!(!error.is_retryable() && error.has_no_side_effects());
    }

    #[test]
    fn an_item_of_a_folded_call_is_told_like_a_call_of_its_own() {
        let mut answer = answer(Code::InvalidArgument, "INVALID_FIELD");
        answer.message = "items[12].job.task: is empty".to_owned();
        answer.metadata.insert("item".to_owned(), "12".to_owned());
        let answer = answer.of_its_own(12);
        assert_eq!((answer.message.as_str(), answer.metadata["item"].as_str()), ("job.task: is empty", ""));
        assert_eq!(answer.metadata["job_id"], "7");
    }

    #[test]
    fn a_broken_connection_leaves_the_outcome_unknown() {
        for code in [Code::Unavailable, Code::Unknown, Code::Cancelled, Code::DeadlineExceeded] {
            let error = Error::of_answer(answer(code, ""), false);
            assert!(matches!(error, Error::OutcomeUnknown(_)), "{code:?}");
            assert!(error.is_retryable() && !error.has_no_side_effects());
        }
    }

    #[test]
    fn a_connection_that_the_broker_gave_up_leaves_the_outcome_unknown_whatever_the_transport_calls_it() {
        for code in [Code::ResourceExhausted, Code::PermissionDenied] {
            let mut status = Status::new(code, "h2 protocol error: http2 error");
            let refused = Error::of_answer(Answer::of(&status), false);
            assert!(!matches!(refused, Error::OutcomeUnknown(_)), "a broker may say {code:?}: {refused}");
            status.set_source(std::sync::Arc::new(std::io::Error::other("ENHANCE_YOUR_CALM")));
            let error = Error::of_answer(Answer::of(&status), false);
            assert!(matches!(error, Error::OutcomeUnknown(_)) && error.is_retryable(), "{error}");
        }
    }

    #[test]
    fn a_broker_that_cannot_serve_changed_nothing_unless_an_earlier_try_might_have() {
        let error = Error::of_answer(answer(Code::Unavailable, "NOT_OWNER"), false);
        assert!(matches!(error, Error::Unavailable(_)) && error.has_no_side_effects());
        let error = Error::of_answer(answer(Code::Unavailable, "NOT_OWNER"), true);
        assert!(matches!(error, Error::OutcomeUnknown(_)));
    }
}
