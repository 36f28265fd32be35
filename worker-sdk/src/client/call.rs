//! One call: over all brokers, until its deadline, with the same request id.

use std::{
    future::Future,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use cabbage_proto::v1::{
    admin_service_client::AdminServiceClient, job_service_client::JobServiceClient,
    queue_service_client::QueueServiceClient, schedule_service_client::ScheduleServiceClient,
};
use tokio::time::{Instant, sleep, timeout_at};
use tonic::{
    Code, Request, Response, Status,
    metadata::{Ascii, MetadataValue},
    transport::{Channel, Endpoint},
};

use super::channels::{Channels, came_from_afar, timed_out};
use crate::{Error, backoff::Backoff, error::Answer, random};

/// The metadata key by which a caller says who it is, for the record (C17).
const ACTOR_KEY: &str = "cabbage-actor";
/// The longest wait between two tries.
const MAX_WAIT: Duration = Duration::from_secs(2);
/// One broker may take so long before the call is tried at the next. Where there is only one, the same holds: its
/// connection may be dead without anybody having noticed.
const TRY_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest answer: a page of 1,000 jobs with their arguments.
const MAX_ANSWER_BYTES: usize = 64 << 20;

pub(super) type Service = JobServiceClient<Channel>;
pub(super) type Queues = QueueServiceClient<Channel>;
pub(super) type Admin = AdminServiceClient<Channel>;
pub(super) type Schedules = ScheduleServiceClient<Channel>;

/// A service of the brokers, over a channel to one of them.
pub(super) trait Stub {
    fn over(channel: Channel) -> Self;
}

impl Stub for Service {
    fn over(channel: Channel) -> Self {
        Self::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES)
    }
}

impl Stub for Queues {
    fn over(channel: Channel) -> Self {
        Self::new(channel)
    }
}

impl Stub for Schedules {
    fn over(channel: Channel) -> Self {
        Self::new(channel)
    }
}

impl Stub for Admin {
    fn over(channel: Channel) -> Self {
        Self::new(channel)
    }
}

/// The channels to all brokers, and where the last call went well.
pub(super) struct Calls {
    channels: Channels,
    bearer: Option<MetadataValue<Ascii>>,
    actor: Option<MetadataValue<Ascii>>,
    timeout: Duration,
    preferred: AtomicUsize,
}

impl Calls {
    pub(super) fn new(
        endpoints: Vec<Endpoint>,
        bearer: Option<MetadataValue<Ascii>>,
        actor: Option<MetadataValue<Ascii>>,
        timeout: Duration,
    ) -> Self {
        Self { channels: Channels::new(endpoints), bearer, actor, timeout, preferred: AtomicUsize::new(0) }
    }

    /// Calls until there is an answer that will not change, or the deadline has passed.
    ///
    /// The request must bear to be repeated: it only reads, or it carries a request id.
    pub(super) async fn call<Req, Resp, Fut>(
        &self,
        request: Req,
        rpc: impl Fn(Service, Request<Req>) -> Fut,
    ) -> Result<Resp, Error>
    where
        Req: Clone,
        Fut: Future<Output = Result<Response<Resp>, Status>>,
    {
        self.call_on(request, rpc).await
    }

    /// The same, of any service.
    pub(super) async fn call_on<S, Req, Resp, Fut>(
        &self,
        request: Req,
        rpc: impl Fn(S, Request<Req>) -> Fut,
    ) -> Result<Resp, Error>
    where
        S: Stub,
        Req: Clone,
        Fut: Future<Output = Result<Response<Resp>, Status>>,
    {
        self.call_for(Duration::ZERO, request, rpc).await
    }

    /// A call that the broker holds for a time.
    pub(super) async fn call_held<Req, Resp, Fut>(
        &self,
        held: Duration,
        request: Req,
        rpc: impl Fn(Service, Request<Req>) -> Fut,
    ) -> Result<Resp, Error>
    where
        Req: Clone,
        Fut: Future<Output = Result<Response<Resp>, Status>>,
    {
        self.call_for(held, request, rpc).await
    }

    async fn call_for<S, Req, Resp, Fut>(
        &self,
        held: Duration,
        request: Req,
        rpc: impl Fn(S, Request<Req>) -> Fut,
    ) -> Result<Resp, Error>
    where
        S: Stub,
        Req: Clone,
        Fut: Future<Output = Result<Response<Resp>, Status>>,
    {
        let deadline = Instant::now() + self.timeout + held;
        let mut backoff: Option<Backoff> = None;
        let mut hops = 0;
        let mut unknown = false;
        loop {
            let broker = self.preferred.load(Ordering::Relaxed) % self.channels.count();
            let sent = Instant::now();
            let until = deadline.min(sent + TRY_TIMEOUT + held);
            let service = S::over(self.channels.to(broker));
            let answer = match timeout_at(until, rpc(service, self.request(request.clone(), until))).await {
                Ok(Ok(response)) => {
                    self.channels.heard(broker);
                    return Ok(response.into_inner());
                }
                Ok(Err(status)) => {
                    if came_from_afar(&status) {
                        self.channels.heard(broker);
                    } else if timed_out(&status) {
                        self.channels.unheard(broker, sent);
                    }
                    Answer::of(&status)
                }
                Err(_) => {
                    self.channels.unheard(broker, sent);
                    Answer::of(&Status::new(Code::DeadlineExceeded, "no answer in time"))
                }
            };
            let (try_again, maybe_done) = answer.next_step();
            if !try_again {
                return Err(Error::of_answer(answer, unknown));
            }
            unknown |= maybe_done;
            tracing::debug!(%answer, "a call is tried again");
            let backoff = backoff.get_or_insert_with(|| Backoff::new(random::seed()));
            let wait = if answer.code == Code::ResourceExhausted {
                // It is the owner that has too much to do; all brokers lead to it.
                backoff.next_wait_of(MAX_WAIT, answer.retry_after)
            } else {
                // Others may have moved on meanwhile; then this one follows them.
                let next = (broker + 1) % self.channels.count();
                let _ = self.preferred.compare_exchange(broker, next, Ordering::Relaxed, Ordering::Relaxed);
                hops += 1;
                if hops % self.channels.count() == 0 {
                    backoff.next_wait_of(MAX_WAIT, answer.retry_after)
                } else {
                    Duration::ZERO
                }
            };
            if Instant::now() + wait >= deadline {
                return Err(Error::of_answer(answer, unknown));
            }
            sleep(wait).await;
        }
    }

    fn request<Req>(&self, message: Req, until: Instant) -> Request<Req> {
        let mut request = Request::new(message);
        request.set_timeout(until.saturating_duration_since(Instant::now()));
        if let Some(bearer) = &self.bearer {
            request.metadata_mut().insert("authorization", bearer.clone());
        }
        if let Some(actor) = &self.actor {
            request.metadata_mut().insert(ACTOR_KEY, actor.clone());
        }
        request
    }
}
