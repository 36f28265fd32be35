//! From what a broker answered to what a person reads, and to an exit code.

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::exit::{Exit, Failure};

/// The domain of every reason that a broker gives.
const DOMAIN: &str = "cabbage";
/// How the transport begins to tell of an answer that has nothing of gRPC.
const NO_GRPC: &str = "grpc-status header missing";

/// Whether a call only reads. A broken connection leaves the outcome of any other unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    Reads,
    Changes,
}

/// The reason that a broker gave, from its documented list. `None`: it was no broker that answered.
pub(crate) fn reason(status: &Status) -> Option<String> {
    status.get_details_error_info().filter(|info| info.domain == DOMAIN).map(|info| info.reason)
}

/// One entry of what the broker says about its reason, such as `job_id`.
pub(crate) fn detail(status: &Status, key: &str) -> Option<String> {
    let info = status.get_details_error_info().filter(|info| info.domain == DOMAIN)?;
    info.metadata.get(key).cloned()
}

/// The exit code of an answer.
pub(crate) fn exit(status: &Status, effect: Effect) -> Exit {
    let told = reason(status);
    if told.as_deref() == Some("OUTCOME_UNKNOWN") {
        return Exit::Unknown;
    }
    match status.code() {
        Code::InvalidArgument | Code::OutOfRange => Exit::Usage,
        Code::NotFound => Exit::NotFound,
        Code::AlreadyExists | Code::FailedPrecondition | Code::Aborted => Exit::Conflict,
        Code::PermissionDenied | Code::Unauthenticated => Exit::Denied,
        Code::ResourceExhausted => Exit::Unavailable,
        Code::Unavailable if told.is_some() => Exit::Unavailable,
        // Without a reason it is the transport that speaks: a call that changes something may have been done.
        Code::Unavailable | Code::Cancelled | Code::Unknown => match effect {
            Effect::Reads => Exit::Unavailable,
            Effect::Changes => Exit::Unknown,
        },
        Code::DeadlineExceeded => Exit::Unknown,
        Code::Ok | Code::Internal | Code::DataLoss | Code::Unimplemented => Exit::Failure,
    }
}

/// The failure to show for an answer. `doing`: what was tried, such as "cannot defer the job".
pub(crate) fn failure(doing: &str, status: &Status, effect: Effect) -> Failure {
    let exit = exit(status, effect);
    let said = match (reason(status), std::error::Error::source(status)) {
        _ if said_by_no_broker(status) => "what answers there is no broker".to_owned(),
        (None, Some(source)) => format!("the connection broke: {}", root(source)),
        _ if status.message().is_empty() => status.code().description().to_owned(),
        _ => status.message().to_owned(),
    };
    let mut failure = Failure::new(exit, format!("{doing}: {said}"));
    for violation in status.get_details_bad_request().into_iter().flat_map(|bad| bad.field_violations) {
        // The message often is the one violation already.
        if !said.contains(&violation.description) || !said.contains(&violation.field) {
            failure = failure.remedy(format!("{}: {}", violation.field, violation.description));
        }
    }
    if said_by_no_broker(status) {
        failure = failure.remedy("--broker takes the address for clients and workers, not the one for operators");
    }
    if let Some(owner) = detail(status, "owner") {
        failure = failure.remedy(format!("the broker at {owner} owns it: name that one too, --broker {owner}"));
    } else if let Some(wait) = status.get_details_retry_info().and_then(|info| info.retry_delay) {
        failure = failure.remedy(format!("try again in {}", humantime::format_duration(wait)));
    }
    failure
}

/// Something that speaks HTTP, but not gRPC.
fn said_by_no_broker(status: &Status) -> bool {
    reason(status).is_none() && status.message().starts_with(NO_GRPC)
}

/// The last cause alone: what is before it says "transport error" in several ways.
pub(crate) fn root(error: &(dyn std::error::Error + 'static)) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

#[cfg(test)]
mod tests {
    use tonic_types::ErrorDetails;

    use super::*;

    fn told(code: Code, reason: &str) -> Status {
        let mut details = ErrorDetails::new();
        details.set_error_info(reason, DOMAIN, [("job_id".to_owned(), "7".to_owned())]);
        Status::with_error_details(code, "no", details)
    }

    #[test]
    fn a_broken_connection_leaves_only_the_outcome_of_changes_unknown() {
        let broken = Status::unavailable("broken pipe");
        assert_eq!(exit(&broken, Effect::Changes), Exit::Unknown);
        assert_eq!(exit(&broken, Effect::Reads), Exit::Unavailable);
        assert_eq!(exit(&told(Code::Unavailable, "NOT_OWNER"), Effect::Changes), Exit::Unavailable);
        assert_eq!(exit(&told(Code::Unavailable, "OUTCOME_UNKNOWN"), Effect::Changes), Exit::Unknown);
    }

    #[test]
    fn each_kind_of_answer_has_its_exit_code() {
        for (code, expected) in [
            (Code::InvalidArgument, Exit::Usage),
            (Code::NotFound, Exit::NotFound),
            (Code::AlreadyExists, Exit::Conflict),
            (Code::FailedPrecondition, Exit::Conflict),
            (Code::Unauthenticated, Exit::Denied),
            (Code::PermissionDenied, Exit::Denied),
            (Code::ResourceExhausted, Exit::Unavailable),
            (Code::DeadlineExceeded, Exit::Unknown),
            (Code::Internal, Exit::Failure),
        ] {
            assert_eq!(exit(&told(code, "SOME_REASON"), Effect::Changes), expected, "{code:?}");
        }
    }

    #[test]
    fn violations_name_their_field_once() {
        let mut details = ErrorDetails::new();
        details.add_bad_request_violation("job.priority", "is 101; it must be from -100 to 100");
        let status = Status::with_error_details(Code::InvalidArgument, "the request is not valid", details);
        let text = failure("cannot defer", &status, Effect::Changes).to_string();
        assert_eq!(text, "cannot defer: the request is not valid\n  job.priority: is 101; it must be from -100 to 100");
    }

    #[test]
    fn a_reason_carries_its_details() {
        let status = told(Code::AlreadyExists, "QUEUEING_LOCK_TAKEN");
        assert_eq!(reason(&status).as_deref(), Some("QUEUEING_LOCK_TAKEN"));
        assert_eq!(detail(&status, "job_id").as_deref(), Some("7"));
        assert_eq!(reason(&Status::already_exists("no")), None);
    }
}
