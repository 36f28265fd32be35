//! `WorkerService`: the stream of a worker, and what of it also exists as calls that may be repeated on any broker.

use cabbage_proto::v1::{self, worker_service_server::WorkerService};
use tonic::{Request, Response, Status, Streaming};

use crate::{
    cell::Cell,
    core::{
        effect::Reply,
        event::{Event, Settle, SettleFrom},
    },
    relay::Relay,
};

use super::{
    actor::address,
    check,
    results::{end, lease},
    show::duration,
    status::{Reason, refusal},
    stream::{self, Incoming, StreamSettings, invalid_token, settle_code},
};

/// Results of one call.
const RESULTS_MAX: usize = 1_000;

/// What a result weighs while it waits, besides its bytes, about.
const RESULT_BYTES: usize = 64;

/// The calls of `WorkerService` on one cell.
pub struct WorkerCalls {
    cell: Cell,
    relay: Relay,
    settings: StreamSettings,
}

impl WorkerCalls {
    /// Serves the workers of this cell, whoever owns it.
    pub fn new(relay: Relay, settings: StreamSettings) -> Self {
        Self { cell: relay.cell().clone(), relay, settings }
    }
}

#[tonic::async_trait]
impl WorkerService for WorkerCalls {
    type WorkStream = stream::Responses;

    async fn work(&self, request: Request<Streaming<v1::WorkRequest>>) -> Result<Response<Self::WorkStream>, Status> {
        if self.settings.draining.is_cancelled() {
            return Err(Reason::NotOwner.status("the broker stops; connect to another one"));
        }
        let address = address(&request);
        let incoming = Incoming::Socket(Box::new(request.into_inner()));
        Ok(Response::new(stream::open(&self.relay, self.settings.clone(), address, incoming)))
    }

    async fn settle_jobs(
        &self,
        request: Request<v1::SettleJobsRequest>,
    ) -> Result<Response<v1::SettleJobsResponse>, Status> {
        let results = request.into_inner().results;
        check::count("results", results.len(), RESULTS_MAX)?;
        let mut answers = Vec::with_capacity(results.len());
        let mut ends = Vec::with_capacity(results.len());
        let mut bytes = 0;
        for result in results {
            match lease(&result.lease_token) {
                Some(lease) => {
                    bytes += RESULT_BYTES + result_bytes(&result);
                    ends.push((lease, end(result.outcome)));
                    answers.push(v1::SettleResult { lease_token: result.lease_token, ..Default::default() });
                }
                None => answers.push(invalid_token(result.lease_token)),
            }
        }
        if !ends.is_empty() {
            let settle = |call| Event::Settle(Settle { from: SettleFrom::Call(call), results: ends });
            let mut codes = match self.cell.call(bytes, settle).await? {
                Reply::Settled(codes) => codes.into_iter(),
                Reply::Refused(refused) => return Err(refusal(&refused)),
                Reply::Done { .. } | Reply::Items(_) | Reply::Extended(_) => {
                    return Err(Reason::Internal.status("a bug in the broker: an answer of another kind of call"));
                }
            };
            for answer in answers.iter_mut().filter(|answer| answer.code() == v1::SettleCode::Unspecified) {
                let code = codes.next().map_or(v1::SettleCode::RetryLater, |(_, code)| settle_code(code));
                answer.set_code(code);
            }
        }
        Ok(Response::new(v1::SettleJobsResponse { results: answers }))
    }

    async fn extend_session(
        &self,
        request: Request<v1::ExtendSessionRequest>,
    ) -> Result<Response<v1::ExtendSessionResponse>, Status> {
        let request = request.into_inner();
        let session = check::uuid("session_id", &request.session_id)?;
        let secret = check::resume_token("resume_token", &request.resume_token)?;
        match self.cell.call(RESULT_BYTES, |call| Event::Extend { call, session, secret }).await? {
            Reply::Extended(remaining) => {
                Ok(Response::new(v1::ExtendSessionResponse { remaining: Some(duration(remaining)) }))
            }
            Reply::Refused(refused) => Err(refusal(&refused)),
            Reply::Done { .. } | Reply::Items(_) | Reply::Settled(_) => {
                Err(Reason::Internal.status("a bug in the broker: an answer of another kind of call"))
            }
        }
    }

    async fn fetch_jobs(&self, _: Request<v1::FetchJobsRequest>) -> Result<Response<v1::FetchJobsResponse>, Status> {
        Err(Reason::NotImplemented.status("this broker does not serve FetchJobs yet; use the stream"))
    }
}

fn result_bytes(result: &v1::JobResult) -> usize {
    use v1::job_result::Outcome;
    match &result.outcome {
        Some(Outcome::Succeeded(succeeded)) => succeeded.result.len(),
        Some(Outcome::Failed(failed)) => {
            failed.failure.as_ref().map_or(0, |failure| failure.message.len() + failure.trace.len())
        }
        Some(Outcome::Cancelled(_) | Outcome::Released(_) | Outcome::Snoozed(_)) | None => 0,
    }
}
