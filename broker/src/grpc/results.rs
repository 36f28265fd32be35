//! Results of deliveries, from the wire to ends that can be recorded.
//!
//! A result never stops its neighbours (C14): a token that is malformed is answered `INVALID_TOKEN`; what cannot be
//! recorded as it is (a result over 256 KiB or that is no JSON, a delay out of range) fails its job, with the reason
//! `UNRECORDABLE`; texts for people are cut, with a mark.

use bytes::Bytes;
use cabbage_proto::v1;

use crate::core::{
    batch::Changed,
    event::{End, Failed, RetryDecision},
    job::Failure,
    types::Lease,
};

use super::{
    check::{self, Invalid},
    json,
    text::{TEXT_BYTES_MAX, recordable},
};

/// What became of the results of one message on their way in.
#[derive(Debug, Default)]
pub(super) struct Results {
    /// In the order of the message: plain successes first.
    pub(super) ends: Vec<(Lease, End)>,
    /// Tokens that are none.
    pub(super) invalid_tokens: Vec<Bytes>,
}

impl Results {
    /// Reads a frame of a stream.
    pub(super) fn of_frame(frame: v1::JobResults) -> Self {
        let mut results =
            Self { ends: Vec::with_capacity(frame.succeeded.len() + frame.results.len()), invalid_tokens: Vec::new() };
        for token in frame.succeeded {
            match lease(&token) {
                Some(lease) => results.ends.push((lease, End::Succeeded(None))),
                None => results.invalid_tokens.push(token),
            }
        }
        for result in frame.results {
            match lease(&result.lease_token) {
                Some(lease) => results.ends.push((lease, end(result.outcome))),
                None => results.invalid_tokens.push(result.lease_token),
            }
        }
        results
    }
}

/// The lease of a token; `None` if it is malformed.
pub(super) fn lease(token: &[u8]) -> Option<Lease> {
    Lease::parse(token).filter(|lease| lease.job.0 > 0 && lease.delivery > 0)
}

/// How a delivery ended, in a form that can be recorded.
pub(super) fn end(outcome: Option<v1::job_result::Outcome>) -> End {
    checked(outcome).unwrap_or_else(|invalid| End::Unrecordable(format!("{}: {}", invalid.field, invalid.problem)))
}

fn checked(outcome: Option<v1::job_result::Outcome>) -> Result<End, Invalid> {
    use v1::job_result::Outcome;
    Ok(match outcome {
        None => return Err(Invalid::new("outcome", "is missing, or of a kind that this broker does not know")),
        Some(Outcome::Succeeded(v1::Succeeded { result })) if result.is_empty() => End::Succeeded(None),
        Some(Outcome::Succeeded(v1::Succeeded { result })) => {
            check::at_most("succeeded.result", result.len(), check::RESULT_BYTES_MAX)?;
            json::check(&result).map_err(|error| Invalid::new("succeeded.result", error.to_string()))?;
            End::Succeeded(Some(result))
        }
        Some(Outcome::Failed(failed)) => {
            let v1::Failure { kind, message, trace } = failed.failure.unwrap_or_default();
            let failure = Failure {
                kind: recordable(kind, check::NAME_BYTES_MAX),
                message: recordable(message, TEXT_BYTES_MAX),
                trace: recordable(trace, TEXT_BYTES_MAX),
            };
            let retry = failed.retry.map(retry_decision).transpose()?;
            End::Failed(Box::new(Failed { failure, never_retry: failed.never_retry, retry }))
        }
        Some(Outcome::Cancelled(cancelled)) => End::Cancelled(recordable(cancelled.message, TEXT_BYTES_MAX)),
        Some(Outcome::Released(released)) => End::Released {
            reason: recordable(released.reason, TEXT_BYTES_MAX),
            delay: check::delay("released.delay", released.delay.as_ref())?,
        },
        Some(Outcome::Snoozed(snoozed)) => End::Snoozed(check::delay("snoozed.delay", snoozed.delay.as_ref())?),
    })
}

fn retry_decision(decision: v1::RetryDecision) -> Result<RetryDecision, Invalid> {
    check::text("failed.retry.queue", &decision.queue, check::NAME_BYTES_MAX)?;
    if let Some(lock) = &decision.lock {
        check::text("failed.retry.lock", lock, check::LOCK_BYTES_MAX)?;
    }
    let priority = decision.priority.map(|priority| check::priority("failed.retry.priority", priority)).transpose()?;
    Ok(RetryDecision {
        delay: check::delay("failed.retry.delay", decision.delay.as_ref())?,
        changed: Changed {
            queue: (!decision.queue.is_empty()).then(|| decision.queue.into()),
            priority,
            lock: decision.lock.map(Into::into),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::types::JobId;
    use v1::job_result::Outcome;

    fn succeeded(result: impl Into<Bytes>) -> End {
        end(Some(Outcome::Succeeded(v1::Succeeded { result: result.into() })))
    }

    #[test]
    fn a_result_passes_at_the_limit_and_is_unrecordable_one_over() {
        let result = |bytes: usize| format!("\"{}\"", "x".repeat(bytes - 2));
        assert!(matches!(succeeded(result(check::RESULT_BYTES_MAX)), End::Succeeded(Some(_))));
        assert!(matches!(succeeded(result(check::RESULT_BYTES_MAX + 1)), End::Unrecordable(_)));
        assert!(matches!(succeeded("not json"), End::Unrecordable(_)));
        assert_eq!(succeeded(""), End::Succeeded(None));
        assert!(matches!(end(None), End::Unrecordable(_)));
    }

    #[test]
    fn an_error_text_is_cut_and_freed_of_nul_instead_of_refused() {
        let failure = v1::Failure { kind: "E".into(), message: "x\0".repeat(20_000), trace: String::new() };
        let failed = v1::Failed { failure: Some(failure), ..v1::Failed::default() };
        let End::Failed(failed) = end(Some(Outcome::Failed(failed))) else { panic!("it failed") };
        assert!(failed.failure.message.len() <= TEXT_BYTES_MAX && !failed.failure.message.contains('\0'));
    }

    #[test]
    fn a_malformed_token_does_not_stop_its_neighbours() {
        let token = Bytes::copy_from_slice(&Lease { job: JobId(7), delivery: 1, nonce: 9 }.token());
        let zero = Bytes::from_static(&[0; Lease::TOKEN_BYTES]);
        let frame = v1::JobResults {
            results_seq: 1,
            succeeded: vec![token, Bytes::from_static(b"bad"), zero],
            results: Vec::new(),
        };
        let results = Results::of_frame(frame);
        assert_eq!((results.ends.len(), results.invalid_tokens.len()), (1, 2));
    }
}
