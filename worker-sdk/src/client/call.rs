//! One call: over all brokers, until its deadline, with the same request id.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use cabbage_proto::v1::{
    self, admin_service_client::AdminServiceClient, job_service_client::JobServiceClient,
    queue_service_client::QueueServiceClient, schedule_service_client::ScheduleServiceClient,
};
use tokio::time::{Instant, sleep, timeout_at};
use tonic::{
    Code, Request, Response, Status,
    metadata::{Ascii, MetadataValue},
    transport::{Channel, Endpoint},
};

use super::{
    Deferred,
    channels::{Channels, came_from_afar, timed_out},
    fold::{self, Lane},
};
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
    lanes: Vec<Lane>,
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
        let lanes = endpoints.iter().map(|_| Lane::default()).collect();
        Self { channels: Channels::new(endpoints), lanes, bearer, actor, timeout, preferred: AtomicUsize::new(0) }
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
        let attempt = |broker, patience: Patience| self.attempt(broker, patience.of_try, request.clone(), &rpc);
        self.until_answered(held, attempt).await
    }

    /// Creates one job, in one call with those that are deferred at the same time.
    pub(super) async fn defer(self: &Arc<Self>, item: v1::BatchItem) -> Result<Deferred, Error> {
        let item = &item;
        self.until_answered(Duration::ZERO, |broker, patience| fold::defer(self, broker, item, patience)).await
    }

    /// One try, at one broker.
    pub(super) async fn attempt<S, Req, Resp, Fut>(
        &self,
        broker: usize,
        until: Instant,
        request: Req,
        rpc: impl FnOnce(S, Request<Req>) -> Fut,
    ) -> Result<Resp, Answer>
    where
        S: Stub,
        Fut: Future<Output = Result<Response<Resp>, Status>>,
    {
        let sent = Instant::now();
        let service = S::over(self.channels.to(broker));
        match timeout_at(until, rpc(service, self.request(request, until))).await {
            Ok(Ok(response)) => {
                self.channels.heard(broker);
                Ok(response.into_inner())
            }
            Ok(Err(status)) => {
                if came_from_afar(&status) {
                    self.channels.heard(broker);
                } else if timed_out(&status) {
                    self.channels.unheard(broker, sent);
                }
                Err(Answer::of(&status))
            }
            Err(_) => {
                self.channels.unheard(broker, sent);
                Err(no_answer_in_time())
            }
        }
    }

    /// Tries until there is an answer that will not change, or the deadline has passed.
    async fn until_answered<T, Fut>(&self, held: Duration, attempt: impl Fn(usize, Patience) -> Fut) -> Result<T, Error>
    where
        Fut: Future<Output = Result<T, Answer>>,
    {
        let deadline = Instant::now() + self.timeout + held;
        let mut backoff: Option<Backoff> = None;
        let mut hops = 0;
        let mut unknown = false;
        loop {
            let broker = self.preferred.load(Ordering::Relaxed) % self.channels.count();
            let patience = Patience { of_try: deadline.min(Instant::now() + TRY_TIMEOUT + held), of_call: deadline };
            // Boxed, since it holds the request: callers' futures would be large.
            let answer = match Box::pin(attempt(broker, patience)).await {
                Ok(answer) => return Ok(answer),
                Err(answer) => answer,
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

    /// A try was given up that was sent then; if its time was over, nothing has come from the broker.
    pub(super) fn given_up(&self, broker: usize, sent: Instant, until: Instant) {
        if Instant::now() >= until {
            self.channels.unheard(broker, sent);
        }
    }

    /// The defers to one broker.
    pub(super) fn lane(&self, broker: usize) -> &Lane {
        &self.lanes[broker]
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

/// Until when is waited.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// For this try, at one broker.
    pub(super) of_try: Instant,
    /// For all of them.
    pub(super) of_call: Instant,
}

/// What a call that nobody answered comes to.
pub(super) fn no_answer_in_time() -> Answer {
    Answer::of(&Status::new(Code::DeadlineExceeded, "no answer in time"))
}
