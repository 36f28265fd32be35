//! A job service that says what a test tells it to, over a real connection.

use std::{net::SocketAddr, time::Duration};

use cabbage_worker::{
    Client,
    v1::{
        self,
        job_service_server::{JobService, JobServiceServer},
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
pub(crate) enum Call {
    Defer(Box<v1::DeferJobRequest>, Reply<v1::DeferJobResponse>),
    Batch(v1::BatchDeferJobsRequest, Reply<v1::BatchDeferJobsResponse>),
    List(v1::ListJobsRequest, Reply<v1::ListJobsResponse>),
    Wait(v1::WaitJobRequest, Reply<v1::WaitJobResponse>),
    Cancel(v1::CancelJobRequest, Reply<v1::CancelJobResponse>),
}

pub(crate) type Reply<T> = oneshot::Sender<Result<T, Status>>;

pub(crate) struct Broker {
    pub(crate) address: SocketAddr,
    pub(crate) calls: mpsc::Receiver<Call>,
    server: AbortHandle,
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Broker {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (to, calls) = mpsc::channel(16);
        let server = Server::builder().add_service(JobServiceServer::new(Service(to)));
        let serve = server.serve_with_incoming(TcpListenerStream::new(listener));
        let server = tokio::spawn(async move { serve.await.expect("no error") }).abort_handle();
        Self { address, calls, server }
    }

    pub(crate) async fn call(&mut self) -> Call {
        timeout(Duration::from_secs(20), self.calls.recv()).await.expect("a call in time").expect("a server")
    }

    pub(crate) async fn defer(&mut self) -> (v1::DeferJobRequest, Reply<v1::DeferJobResponse>) {
        match self.call().await {
            Call::Defer(request, reply) => (*request, reply),
            _ => panic!("another call"),
        }
    }

    pub(crate) async fn batch(&mut self) -> (v1::BatchDeferJobsRequest, Reply<v1::BatchDeferJobsResponse>) {
        match self.call().await {
            Call::Batch(request, reply) => (request, reply),
            _ => panic!("another call"),
        }
    }

    pub(crate) fn client(&self) -> Client {
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

pub(crate) fn deferred(job_id: i64) -> v1::DeferJobResponse {
    v1::DeferJobResponse { job_id, ..Default::default() }
}

pub(crate) fn refusal(code: Code, reason: &str) -> Status {
    let details = ErrorDetails::with_error_info(reason, "cabbage", [("job_id".to_owned(), "7".to_owned())]);
    Status::with_error_details(code, "no", details)
}
