//! What goes wrong, as `google.rpc.Status`.
//!
//! Every status carries one `ErrorInfo` with a [`Reason`] and the domain `cabbage`. Whoever handles errors in code looks
//! at the reason, never at the text.

use std::{collections::HashMap, time::Duration};

use prost::Message as _;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::{cell::CallError, core::effect::Refusal, store::StoreError};

use super::{MESSAGE_BYTES_MAX, check::Invalid};

/// The domain of every `ErrorInfo`.
pub const DOMAIN: &str = "cabbage";

/// When to try again what was too much.
const RETRY_SOON: Duration = Duration::from_millis(200);

/// When to try again what needs another broker, or a database.
const RETRY_LATER: Duration = Duration::from_secs(1);

/// The documented list of reasons. Words are added, and never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// A field of the request breaks a limit or makes no sense. `BadRequest` says which, and what to do.
    InvalidField,
    /// There is no such job.
    JobNotFound,
    /// The job is not final, so it cannot be opened again or erased.
    JobNotFinal,
    /// The job is final, so it has no due time.
    JobFinal,
    /// The job runs, so it has no due time.
    JobRunning,
    /// There is no such queue.
    QueueNotFound,
    /// There is no schedule of this name.
    ScheduleNotFound,
    /// Retention moves the finished jobs around it just now: try again (C17).
    JobMoving,
    /// Another job that never started carries the queueing lock; `job_id` names it (C10).
    QueueingLockTaken,
    /// Two jobs of one batch carry the same queueing lock.
    QueueingLockTwice,
    /// The request id was used within 24 h for another request (C2).
    RequestIdReused,
    /// PostgreSQL refuses what was asked.
    Unrecordable,
    /// A named limit of the broker is reached (C14).
    LimitReached,
    /// Too much waits for its commit; try again.
    TooBusy,
    /// This broker does not own the cell; `owner` names the one that does, if it is known.
    NotOwner,
    /// The broker lost the cell before the answer: repeat the call with the same request id.
    OutcomeUnknown,
    /// The database does not answer.
    StorageUnavailable,
    /// What the database says makes no sense.
    StorageCorrupt,
    /// The broker does not serve this call.
    NotImplemented,
    /// The first frame of a worker's stream must be `Hello`.
    HelloExpected,
    /// `Hello` did not come in time.
    HelloTimeout,
    /// `Hello` came twice.
    HelloTwice,
    /// The broker does not speak any of the worker's protocol versions.
    ProtocolUnsupported,
    /// The session is not known, or its resume token is another.
    SessionNotFound,
    /// The session goes on over another stream.
    SessionMoved,
    /// Nothing was heard of the worker in time.
    SessionSilent,
    /// The worker does not read its stream.
    NotReading,
    /// Frames came out of order.
    FrameOutOfOrder,
    /// The broker stops.
    Draining,
    /// Who asks for a link between brokers is no broker of this cell.
    RelayRefused,
    /// There is no broker that the cell could be handed over to.
    NoFollower,
    /// A bug in the broker.
    Internal,
}

impl Reason {
    /// The word on the wire.
    pub fn word(self) -> &'static str {
        match self {
            Self::InvalidField => "INVALID_FIELD",
            Self::JobNotFound => "JOB_NOT_FOUND",
            Self::JobNotFinal => "JOB_NOT_FINAL",
            Self::JobFinal => "JOB_FINAL",
            Self::JobRunning => "JOB_RUNNING",
            Self::QueueNotFound => "QUEUE_NOT_FOUND",
            Self::ScheduleNotFound => "SCHEDULE_NOT_FOUND",
            Self::JobMoving => "JOB_MOVING",
            Self::QueueingLockTaken => "QUEUEING_LOCK_TAKEN",
            Self::QueueingLockTwice => "QUEUEING_LOCK_TWICE",
            Self::RequestIdReused => "REQUEST_ID_REUSED",
            Self::Unrecordable => "UNRECORDABLE",
            Self::LimitReached => "LIMIT_REACHED",
            Self::TooBusy => "TOO_BUSY",
            Self::NotOwner => "NOT_OWNER",
            Self::OutcomeUnknown => "OUTCOME_UNKNOWN",
            Self::StorageUnavailable => "STORAGE_UNAVAILABLE",
            Self::StorageCorrupt => "STORAGE_CORRUPT",
            Self::NotImplemented => "NOT_IMPLEMENTED",
            Self::HelloExpected => "HELLO_EXPECTED",
            Self::HelloTimeout => "HELLO_TIMEOUT",
            Self::HelloTwice => "HELLO_TWICE",
            Self::ProtocolUnsupported => "PROTOCOL_UNSUPPORTED",
            Self::SessionNotFound => "SESSION_NOT_FOUND",
            Self::SessionMoved => "SESSION_MOVED",
            Self::SessionSilent => "SESSION_SILENT",
            Self::NotReading => "NOT_READING",
            Self::FrameOutOfOrder => "FRAME_OUT_OF_ORDER",
            Self::Draining => "DRAINING",
            Self::RelayRefused => "RELAY_REFUSED",
            Self::NoFollower => "NO_FOLLOWER",
            Self::Internal => "INTERNAL",
        }
    }

    fn code(self) -> Code {
        match self {
            Self::InvalidField
            | Self::QueueingLockTwice
            | Self::Unrecordable
            | Self::HelloExpected
            | Self::HelloTwice
            | Self::FrameOutOfOrder => Code::InvalidArgument,
            Self::JobNotFound | Self::QueueNotFound | Self::ScheduleNotFound | Self::SessionNotFound => Code::NotFound,
            Self::QueueingLockTaken | Self::RequestIdReused => Code::AlreadyExists,
            Self::LimitReached | Self::TooBusy | Self::NotReading => Code::ResourceExhausted,
            Self::NotOwner | Self::OutcomeUnknown | Self::StorageUnavailable | Self::JobMoving => Code::Unavailable,
            Self::NotImplemented => Code::Unimplemented,
            Self::HelloTimeout | Self::SessionSilent => Code::DeadlineExceeded,
            Self::ProtocolUnsupported | Self::JobNotFinal | Self::JobFinal | Self::JobRunning | Self::NoFollower => {
                Code::FailedPrecondition
            }
            Self::RelayRefused => Code::PermissionDenied,
            // Planned ends of streams.
            Self::SessionMoved | Self::Draining => Code::Ok,
            Self::StorageCorrupt | Self::Internal => Code::Internal,
        }
    }

    /// When to try again, for reasons that pass.
    fn retry_after(self) -> Option<Duration> {
        match self {
            Self::LimitReached | Self::TooBusy => Some(RETRY_SOON),
            Self::NotOwner | Self::OutcomeUnknown | Self::StorageUnavailable | Self::JobMoving => Some(RETRY_LATER),
            _ => None,
        }
    }

    /// A status with this reason.
    pub fn status(self, message: impl Into<String>) -> Status {
        self.status_with(message, [])
    }

    /// A status with this reason and facts about it.
    pub fn status_with<const N: usize>(
        self,
        message: impl Into<String>,
        metadata: [(&'static str, String); N],
    ) -> Status {
        let metadata: HashMap<String, String> =
            metadata.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        let mut details = ErrorDetails::new();
        details.set_error_info(self.word(), DOMAIN, metadata);
        if let Some(wait) = self.retry_after() {
            details.set_retry_info(Some(wait));
        }
        Status::with_error_details(self.code(), message, details)
    }
}

/// Fields that break limits.
impl From<Invalid> for Status {
    fn from(invalid: Invalid) -> Self {
        let mut details = ErrorDetails::new();
        details.set_error_info(Reason::InvalidField.word(), DOMAIN, HashMap::new());
        details.add_bad_request_violation(&invalid.field, &invalid.problem);
        Self::with_error_details(Code::InvalidArgument, format!("{}: {}", invalid.field, invalid.problem), details)
    }
}

/// An error that the transport found before any of our code saw the call, in our words; `None` if it is none of those.
/// Ours carry details, which tells them apart.
pub fn explained(status: &Status) -> Option<Status> {
    if !status.details().is_empty() {
        return None;
    }
    match status.code() {
        Code::OutOfRange | Code::ResourceExhausted | Code::Internal | Code::InvalidArgument => Some(unreadable(status)),
        Code::Unimplemented if status.message().is_empty() => {
            Some(Reason::NotImplemented.status("this broker does not serve this call"))
        }
        Code::Unimplemented => Some(Reason::NotImplemented.status(status.message())),
        _ => None,
    }
}

/// A message that is larger than any may be.
pub fn message_too_large() -> Status {
    unreadable(&Status::out_of_range("of a call"))
}

/// The reason, if this is the answer of a broker that no longer owns the cell: [`Reason::NotOwner`], where nothing was
/// done, or [`Reason::OutcomeUnknown`].
pub fn lost_cell(headers: &axum::http::HeaderMap) -> Option<Reason> {
    // Most answers are no errors, and need no second look.
    headers.get("grpc-status").filter(|code| **code == *"14")?;
    let info = Status::from_header_map(headers)?.get_details_error_info()?;
    let reasons = [Reason::NotOwner, Reason::OutcomeUnknown];
    reasons.into_iter().find(|reason| info.domain == DOMAIN && info.reason == reason.word())
}

/// A message that could not be read: too large, or no protobuf of its kind.
pub(crate) fn unreadable(status: &Status) -> Status {
    let text = status.message();
    if matches!(status.code(), Code::OutOfRange | Code::ResourceExhausted) {
        let limit = [("limit", "bytes of a message".to_owned()), ("value", MESSAGE_BYTES_MAX.to_string())];
        let text = format!("a message has more than {MESSAGE_BYTES_MAX} bytes; send less at once ({text})");
        return Reason::InvalidField.status_with(text, limit);
    }
    Reason::InvalidField.status(format!("a message cannot be read: {text}"))
}

/// A call that this broker does not serve.
pub(super) fn not_implemented(call: &str) -> Status {
    Reason::NotImplemented.status(format!("this broker does not serve {call} yet"))
}

/// What the core refuses.
pub fn refusal(refusal: &Refusal) -> Status {
    let item = |item: &Option<u32>| item.map(|item| item.to_string()).unwrap_or_default();
    let text = refusal.to_string();
    match refusal {
        Refusal::QueueingLockTaken { by, item: at } => {
            Reason::QueueingLockTaken.status_with(text, [("job_id", by.to_string()), ("item", item(at))])
        }
        Refusal::QueueingLockTwice { first, item } => {
            Reason::QueueingLockTwice.status_with(text, [("first_item", first.to_string()), ("item", item.to_string())])
        }
        Refusal::RequestIdReused { item: at } => Reason::RequestIdReused.status_with(text, [("item", item(at))]),
        Refusal::JobNotFound => Reason::JobNotFound.status(text),
        Refusal::JobNotFinal => Reason::JobNotFinal.status(text),
        Refusal::JobFinal => Reason::JobFinal.status(text),
        Refusal::JobRunning => Reason::JobRunning.status(text),
        Refusal::QueueNotFound => Reason::QueueNotFound.status(text),
        Refusal::ScheduleNotFound => Reason::ScheduleNotFound.status(text),
        Refusal::Moving { job } => Reason::JobMoving.status_with(text, [("job_id", job.to_string())]),
        Refusal::Unrecordable { .. } => Reason::Unrecordable.status(text),
        Refusal::LimitReached { limit, value } => {
            Reason::LimitReached.status_with(text, [("limit", (*limit).to_owned()), ("value", value.to_string())])
        }
        Refusal::SessionNotFound => Reason::SessionNotFound.status(text),
        Refusal::SessionMoved => Reason::SessionMoved.status(text),
        Refusal::Silent => Reason::SessionSilent.status(text),
    }
}

/// The status as a message, with its details.
pub fn to_message(status: &Status) -> tonic_types::Status {
    tonic_types::Status::decode(status.details()).ok().filter(|message| !message.details.is_empty()).unwrap_or_else(
        || tonic_types::Status {
            code: status.code().into(),
            message: status.message().to_owned(),
            details: Vec::new(),
        },
    )
}

/// The owner did not answer.
impl From<CallError> for Status {
    fn from(error: CallError) -> Self {
        let text = error.to_string();
        match error {
            CallError::NotOwner { owner: Some(owner) } => {
                Reason::NotOwner.status_with(text, [("owner", owner.to_string())])
            }
            CallError::NotOwner { owner: None } => Reason::NotOwner.status(text),
            CallError::Busy { limit, value } => {
                Reason::TooBusy.status_with(text, [("limit", limit.to_owned()), ("value", value.to_string())])
            }
            CallError::OutcomeUnknown => Reason::OutcomeUnknown.status(text),
        }
    }
}

/// A read failed.
impl From<StoreError> for Status {
    fn from(error: StoreError) -> Self {
        match &error {
            StoreError::Unavailable(_) | StoreError::LogChanged => {
                tracing::warn!(%error, "a read failed");
                Reason::StorageUnavailable.status("the database does not answer; try again")
            }
            StoreError::FormatTooNew { .. } | StoreError::Unsuitable(_) | StoreError::Denied(_) => {
                tracing::error!(%error, "a read failed");
                Reason::StorageUnavailable
                    .status("the database cannot serve; its operator finds why in the broker's log")
            }
            StoreError::Corrupt(_) => {
                tracing::error!(%error, "a read failed");
                Reason::StorageCorrupt.status("the database contradicts itself; its operator finds more in the log")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::types::JobId;

    fn info(status: &Status) -> (Code, String, HashMap<String, String>) {
        let info = status.get_details_error_info().expect("every status has an ErrorInfo");
        assert_eq!(info.domain, DOMAIN);
        (status.code(), info.reason, info.metadata)
    }

    #[test]
    fn a_taken_queueing_lock_names_the_job() {
        let (code, reason, metadata) = info(&refusal(&Refusal::QueueingLockTaken { by: JobId(42), item: Some(3) }));
        assert_eq!((code, reason.as_str()), (Code::AlreadyExists, "QUEUEING_LOCK_TAKEN"));
        assert_eq!((metadata["job_id"].as_str(), metadata["item"].as_str()), ("42", "3"));
    }

    #[test]
    fn overload_is_resource_exhausted_and_says_when_to_try_again() {
        let status = Status::from(CallError::Busy { limit: "waiting calls", value: 7 });
        assert_eq!(info(&status).0, Code::ResourceExhausted);
        assert!(status.get_details_retry_info().expect("a RetryInfo").retry_delay.is_some());
    }

    #[test]
    fn another_owner_is_named() {
        let status = Status::from(CallError::NotOwner { owner: Some("10.0.0.7:7733".into()) });
        let (code, reason, metadata) = info(&status);
        assert_eq!((code, reason.as_str()), (Code::Unavailable, "NOT_OWNER"));
        assert_eq!(metadata["owner"], "10.0.0.7:7733");
    }

    #[test]
    fn an_invalid_field_is_named() {
        let invalid = Invalid { field: "job.task".into(), problem: "is empty".into() };
        let status = Status::from(invalid);
        let request = status.get_details_bad_request().expect("a BadRequest");
        assert_eq!(request.field_violations[0].field, "job.task");
        assert_eq!(info(&status).1, "INVALID_FIELD");
    }
}
