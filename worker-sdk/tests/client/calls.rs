//! The client against a scripted job service, over a real connection.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use cabbage_worker::{
    Batch, Client, Error, JobFilter, LockMode, NewJob, QueueingConflict, RetryPolicy,
    v1::{
        self,
        job_service_server::{JobService, JobServiceServer},
        job_spec::Due,
    },
};
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
    task::AbortHandle,
    time::timeout,
};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Code, Request, Response, Status, transport::Server};
use tonic_types::{ErrorDetails, StatusExt as _};

/// One call that waits for its answer.
enum Call {
    Defer(Box<v1::DeferJobRequest>, Reply<v1::DeferJobResponse>),
    Batch(v1::BatchDeferJobsRequest, Reply<v1::BatchDeferJobsResponse>),
    List(v1::ListJobsRequest, Reply<v1::ListJobsResponse>),
    Wait(v1::WaitJobRequest, Reply<v1::WaitJobResponse>),
    Cancel(v1::CancelJobRequest, Reply<v1::CancelJobResponse>),
}

type Reply<T> = oneshot::Sender<Result<T, Status>>;

struct Broker {
    address: SocketAddr,
    calls: mpsc::Receiver<Call>,
    server: AbortHandle,
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Broker {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (to, calls) = mpsc::channel(16);
        let server = Server::builder().add_service(JobServiceServer::new(Service(to)));
        let serve = server.serve_with_incoming(TcpListenerStream::new(listener));
        let server = tokio::spawn(async move { serve.await.expect("no error") }).abort_handle();
        Self { address, calls, server }
    }

    async fn call(&mut self) -> Call {
        timeout(Duration::from_secs(20), self.calls.recv()).await.expect("a call in time").expect("a server")
    }

    async fn defer(&mut self) -> (v1::DeferJobRequest, Reply<v1::DeferJobResponse>) {
        match self.call().await {
            Call::Defer(request, reply) => (*request, reply),
            _ => panic!("another call"),
        }
    }

    fn client(&self) -> Client {
        Client::new(self.address.to_string()).expect("a client")
    }
}

struct Service(mpsc::Sender<Call>);

impl Service {
    async fn ask<T>(&self, call: impl FnOnce(Reply<T>) -> Call) -> Result<Response<T>, Status> {
        let (to, from) = oneshot::channel();
        let _ = self.0.send(call(to)).await;
        from.await.unwrap_or_else(|_| Err(Status::internal("the test is over"))).map(Response::new)
    }
}

#[tonic::async_trait]
impl JobService for Service {
    async fn defer_job(&self, it: Request<v1::DeferJobRequest>) -> Result<Response<v1::DeferJobResponse>, Status> {
        self.ask(|reply| Call::Defer(Box::new(it.into_inner()), reply)).await
    }
    async fn batch_defer_jobs(
        &self,
        it: Request<v1::BatchDeferJobsRequest>,
    ) -> Result<Response<v1::BatchDeferJobsResponse>, Status> {
        self.ask(|reply| Call::Batch(it.into_inner(), reply)).await
    }
    async fn get_job(&self, _: Request<v1::GetJobRequest>) -> Result<Response<v1::GetJobResponse>, Status> {
        Err(Status::not_found("no such job"))
    }
    async fn list_jobs(&self, it: Request<v1::ListJobsRequest>) -> Result<Response<v1::ListJobsResponse>, Status> {
        self.ask(|reply| Call::List(it.into_inner(), reply)).await
    }
    async fn wait_job(&self, it: Request<v1::WaitJobRequest>) -> Result<Response<v1::WaitJobResponse>, Status> {
        self.ask(|reply| Call::Wait(it.into_inner(), reply)).await
    }
    async fn cancel_job(&self, it: Request<v1::CancelJobRequest>) -> Result<Response<v1::CancelJobResponse>, Status> {
        self.ask(|reply| Call::Cancel(it.into_inner(), reply)).await
    }
    async fn retry_job(&self, _: Request<v1::RetryJobRequest>) -> Result<Response<v1::RetryJobResponse>, Status> {
        Err(Status::unimplemented(""))
    }
    async fn reschedule_job(
        &self,
        _: Request<v1::RescheduleJobRequest>,
    ) -> Result<Response<v1::RescheduleJobResponse>, Status> {
        Err(Status::unimplemented(""))
    }
    async fn delete_job(&self, _: Request<v1::DeleteJobRequest>) -> Result<Response<v1::DeleteJobResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}

fn deferred(job_id: i64) -> v1::DeferJobResponse {
    v1::DeferJobResponse { job_id, repeated_call: false }
}

fn refusal(code: Code, reason: &str) -> Status {
    let details = ErrorDetails::with_error_info(reason, "cabbage", [("job_id".to_owned(), "7".to_owned())]);
    Status::with_error_details(code, "no", details)
}

#[tokio::test]
async fn every_option_of_a_job_reaches_the_broker() {
    let mut broker = Broker::start().await;
    let defer = broker
        .client()
        .defer_named("t", [1, 2])
        .queue("q")
        .priority(-3)
        .lock("l")
        .lock_mode(LockMode::Strict)
        .queueing_lock("ql")
        .on_queueing_conflict(QueueingConflict::Replace)
        .schedule_in(Duration::from_millis(1_500))
        .attempt_timeout(Duration::from_secs(9))
        .retry(RetryPolicy::attempts(4).wait(Duration::from_secs(2)).never_kind("panic"))
        .metadata("k", "v")
        .traceparent("tp");
    let call = tokio::spawn(defer.send());
    let (request, reply) = broker.defer().await;
    assert!(!request.request_id.is_empty());
    let spec = request.job.expect("a job");
    assert_eq!((spec.task.as_str(), spec.queue.as_str(), &spec.args[..]), ("t", "q", &b"[1,2]"[..]));
    assert_eq!((spec.priority, spec.lock.as_str(), spec.lock_mode()), (-3, "l", v1::LockMode::Strict));
    assert_eq!((spec.queueing_lock.as_str(), spec.queueing_conflict()), ("ql", v1::QueueingConflict::Replace));
    assert!(matches!(spec.due, Some(Due::ScheduleIn(wait)) if (wait.seconds, wait.nanos) == (1, 500_000_000)));
    assert_eq!(spec.attempt_timeout.map(|time| time.seconds), Some(9));
    let retry = spec.retry.expect("a policy");
    assert_eq!((retry.max_attempts, retry.never_kinds), (4, vec!["panic".to_owned()]));
    assert_eq!((spec.metadata["k"].as_str(), spec.traceparent.as_str()), ("v", "tp"));
    reply.send(Ok(deferred(5))).expect("it waits");
    assert_eq!(call.await.expect("no panic").expect("a job").job_id, 5);
}

#[tokio::test]
async fn a_call_of_unknown_outcome_is_repeated_with_the_same_request_id() {
    let mut broker = Broker::start().await;
    let call = tokio::spawn(broker.client().defer_named("t", ()).send());
    let (first, reply) = broker.defer().await;
    reply.send(Err(Status::unknown("h2 protocol error"))).expect("it waits");
    let (second, reply) = broker.defer().await;
    assert_eq!(first, second);
    assert!(first.job.is_some_and(|job| job.args == Bytes::new()));
    reply.send(Ok(v1::DeferJobResponse { job_id: 5, repeated_call: true })).expect("it waits");
    assert!(call.await.expect("no panic").expect("a job").repeated_call);
}

#[tokio::test]
async fn an_outcome_that_stays_unknown_is_told_as_such() {
    let mut broker = Broker::start().await;
    let client = Client::builder(broker.address.to_string()).timeout(Duration::from_millis(1)).build();
    let call = tokio::spawn(client.expect("a client").defer_named("t", ()).send());
    let answer = tokio::spawn(async move {
        while let Some(Call::Defer(_, reply)) = broker.calls.recv().await {
            let _ = reply.send(Err(Status::unknown("cut")));
        }
    });
    let error = call.await.expect("no panic").expect_err("no job");
    assert!(matches!(error, Error::OutcomeUnknown(_)), "{error}");
    assert!(error.is_retryable() && !error.has_no_side_effects());
    answer.abort();
}

#[tokio::test]
async fn a_broker_that_is_not_the_owner_is_left_for_the_next() {
    let (mut one, mut other) = (Broker::start().await, Broker::start().await);
    let client = Client::new([one.address.to_string(), other.address.to_string()]).expect("a client");
    let call = tokio::spawn(client.defer_named("t", ()).send());
    let (first, reply) = one.defer().await;
    reply.send(Err(refusal(Code::Unavailable, "NOT_OWNER"))).expect("it waits");
    let (second, reply) = other.defer().await;
    assert_eq!(first.request_id, second.request_id);
    reply.send(Ok(deferred(1))).expect("it waits");
    assert!(call.await.expect("no panic").is_ok());
    // The next call goes where the last one was served.
    let call = tokio::spawn(client.defer_named("t", ()).send());
    other.defer().await.1.send(Ok(deferred(2))).expect("it waits");
    assert!(call.await.expect("no panic").is_ok());
}

#[tokio::test]
async fn a_refusal_is_told_at_once_with_its_reason() {
    let mut broker = Broker::start().await;
    let call = tokio::spawn(broker.client().defer_named("t", ()).queueing_lock("l").send());
    broker.defer().await.1.send(Err(refusal(Code::AlreadyExists, "QUEUEING_LOCK_TAKEN"))).expect("it waits");
    let error = call.await.expect("no panic").expect_err("no job");
    assert!(matches!(error, Error::AlreadyExists(_)), "{error}");
    assert_eq!((error.reason(), error.job_id()), (Some("QUEUEING_LOCK_TAKEN"), Some(7)));
    assert!(matches!(broker.client().get(3).await, Err(Error::NotFound(_))));
}

#[tokio::test]
async fn no_broker_at_all_changed_nothing() {
    let client = Client::builder("127.0.0.1:1").timeout(Duration::from_millis(50)).build().expect("a client");
    let error = client.defer_named("t", ()).await.expect_err("nobody is there");
    assert!(matches!(error, Error::Unavailable(_)), "{error}");
    assert!(error.is_retryable() && error.has_no_side_effects());
}

#[tokio::test]
async fn a_batch_is_all_or_nothing_or_each_by_itself() {
    let mut broker = Broker::start().await;
    let client = broker.client();
    let batch: Batch = ["a", "b"].map(NewJob::named).into_iter().collect();
    let call = tokio::spawn({
        let client = client.clone();
        async move { client.defer_all(batch).await }
    });
    let Call::Batch(request, reply) = broker.call().await else { panic!("another call") };
    assert!(!request.independent && !request.request_id.is_empty());
    assert!(request.items.iter().all(|item| item.request_id.is_empty()));
    let answer = v1::BatchDeferJobsResponse { job_ids: vec![1, 2], ..Default::default() };
    reply.send(Ok(answer)).expect("it waits");
    assert_eq!(call.await.expect("no panic").expect("jobs"), [1, 2]);

    let mut batch = Batch::new();
    batch.push(NewJob::named("a").request_id("mine"));
    batch.push(NewJob::named("b"));
    let call = tokio::spawn(async move { client.defer_each(batch).await });
    let Call::Batch(request, reply) = broker.call().await else { panic!("another call") };
    assert!(request.independent && request.request_id.is_empty());
    assert_eq!(request.items[0].request_id, "mine");
    assert!(!request.items[1].request_id.is_empty());
    let refused = tonic_types::Status { code: Code::InvalidArgument as i32, message: "no".to_owned(), details: vec![] };
    let results = [v1::batch_item_result::Result::JobId(3), v1::batch_item_result::Result::Error(refused)];
    let results = results.map(|result| v1::BatchItemResult { result: Some(result) }).to_vec();
    reply.send(Ok(v1::BatchDeferJobsResponse { results, ..Default::default() })).expect("it waits");
    let outcomes = call.await.expect("no panic").expect("answers");
    assert_eq!(outcomes[0].as_ref().expect("a job").job_id, 3);
    assert!(matches!(outcomes[1], Err(Error::Refused(_))));
}

#[tokio::test]
async fn a_list_walks_over_all_pages() {
    let mut broker = Broker::start().await;
    let client = broker.client();
    let walk = tokio::spawn(async move {
        let mut ids = Vec::new();
        let mut page = client.list(JobFilter::new().queue("q").state(v1::JobState::Failed));
        while let Some(job) = page.next().await? {
            ids.push(job.id);
        }
        Ok::<_, Error>(ids)
    });
    for (token, ids, next) in [("", vec![9, 8], "t1"), ("t1", vec![], "t2"), ("t2", vec![3], "")] {
        let Call::List(request, reply) = broker.call().await else { panic!("another call") };
        assert_eq!((request.page_token.as_str(), request.queue.as_str()), (token, "q"));
        let jobs = ids.into_iter().map(|id| v1::Job { id, ..Default::default() }).collect();
        let answer = v1::ListJobsResponse { jobs, next_page_token: next.to_owned(), ..Default::default() };
        reply.send(Ok(answer)).expect("it waits");
    }
    assert_eq!(walk.await.expect("no panic").expect("ids"), [9, 8, 3]);
}

#[tokio::test]
async fn a_result_is_waited_for_as_long_as_it_takes() {
    let mut broker = Broker::start().await;
    let client = broker.client();
    let call = tokio::spawn(async move { client.result_as::<u32>(4).await });
    for is_final in [false, true] {
        let Call::Wait(request, reply) = broker.call().await else { panic!("another call") };
        assert!(request.max_wait.is_some_and(|wait| wait.seconds > 0));
        let last_attempt = Some(v1::Attempt { result: "17".into(), ..Default::default() });
        let state = v1::JobState::Succeeded.into();
        let job = Some(v1::Job { id: 4, state, last_attempt, ..Default::default() });
        reply.send(Ok(v1::WaitJobResponse { job, is_final })).expect("it waits");
    }
    assert_eq!(call.await.expect("no panic").expect("a result"), 17);
}

#[tokio::test]
async fn a_cancel_answers_with_the_state() {
    let mut broker = Broker::start().await;
    let client = broker.client();
    let call = tokio::spawn(async move { client.cancel(4, "enough").await });
    let Call::Cancel(request, reply) = broker.call().await else { panic!("another call") };
    assert_eq!((request.job_id, request.reason.as_str()), (4, "enough"));
    assert!(!request.request_id.is_empty());
    reply.send(Ok(v1::CancelJobResponse { state: v1::JobState::Running.into() })).expect("it waits");
    assert_eq!(call.await.expect("no panic").expect("a state"), v1::JobState::Running);
}
