//! Errors, as whoever handles them in code reads them.

use std::collections::HashMap;

use prost::Message as _;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// What an error says besides its text for people.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) code: Code,
    pub(crate) reason: String,
    pub(crate) metadata: HashMap<String, String>,
    /// Fields, and what is wrong with each.
    pub(crate) fields: Vec<(String, String)>,
}

impl Refused {
    /// Reads an error, which must be of the form that is promised for all of them.
    pub(crate) fn of(status: &Status) -> Self {
        let message = tonic_types::Status::decode(status.details()).expect("details are a google.rpc.Status");
        assert_eq!((message.code, message.message.as_str()), (i32::from(status.code()), status.message()));
        Self::of_message(&message)
    }

    /// Reads an error that is part of an answer.
    pub(crate) fn of_message(message: &tonic_types::Status) -> Self {
        let infos = message.details.iter().filter(|detail| detail.type_url.ends_with("google.rpc.ErrorInfo")).count();
        assert_eq!(infos, 1, "exactly one ErrorInfo: {message:?}");
        assert!(!message.message.is_empty(), "people are told too");
        let status = Status::with_details(message.code.into(), "", message.encode_to_vec().into());
        let info = status.get_details_error_info().expect("an ErrorInfo");
        assert_eq!(info.domain, "cabbage");
        assert!(!info.reason.is_empty());
        let violations = status.get_details_bad_request().map(|request| request.field_violations).unwrap_or_default();
        Self {
            code: status.code(),
            reason: info.reason,
            metadata: info.metadata,
            fields: violations.into_iter().map(|violation| (violation.field, violation.description)).collect(),
        }
    }

    /// It is this error.
    #[track_caller]
    pub(crate) fn is(&self, code: Code, reason: &str) {
        assert_eq!((self.code, self.reason.as_str()), (code, reason), "{self:?}");
    }

    /// It names this field, and says all of this about it: the limit, and what to do.
    #[track_caller]
    pub(crate) fn names(&self, field: &str, says: &[&str]) {
        self.is(Code::InvalidArgument, "INVALID_FIELD");
        assert_eq!(self.fields.len(), 1, "{self:?}");
        let (named, problem) = &self.fields[0];
        assert_eq!(named, field, "{problem}");
        for words in says {
            assert!(problem.contains(words), "{field}: {problem:?} does not say {words:?}");
        }
    }
}

/// The error of a call that must fail.
#[track_caller]
pub(crate) fn refused<T: std::fmt::Debug>(answer: Result<T, Status>) -> Refused {
    Refused::of(&answer.expect_err("it is refused"))
}
