//! A broker that says what a test tells it to: a real gRPC server on a port of this machine, without any sense.

use std::{net::SocketAddr, time::Duration};

use cabbage_worker::v1::{
    self,
    work_request::Frame as Up,
    work_response::Frame as Down,
    worker_service_server::{WorkerService, WorkerServiceServer},
};
use tokio::{net::TcpListener, sync::mpsc, task::AbortHandle, time::timeout};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming, transport::Server};

/// Nothing is waited for longer than this; a test that gets here has failed.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) const TERM: (u64, u64) = (3, 33);

/// A running broker; it goes away when it is dropped, and all its streams with it.
pub(crate) struct Broker {
    pub(crate) address: SocketAddr,
    streams: mpsc::Receiver<Stream>,
    server: AbortHandle,
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Broker {
    pub(crate) async fn start() -> Self {
        Self::start_at("127.0.0.1:0".parse().expect("an address")).await
    }

    async fn start_at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (to, streams) = mpsc::channel(16);
        let service = WorkerServiceServer::new(Service { streams: to });
        let server = Server::builder().add_service(service).serve_with_incoming(TcpListenerStream::new(listener));
        let server = tokio::spawn(async move { server.await.expect("no error of the server") }).abort_handle();
        Self { address, streams, server }
    }

    /// The next stream that a worker opens.
    pub(crate) async fn stream(&mut self) -> Stream {
        timeout(PATIENCE, self.streams.recv()).await.expect("a stream in time").expect("a server")
    }

    /// The next stream, once it is greeted and welcomed. Gives its `Hello` too.
    pub(crate) async fn welcome(&mut self, welcome: v1::Welcome) -> (Stream, v1::Hello) {
        let mut stream = self.stream().await;
        let hello = stream.hello().await;
        let welcome = v1::Welcome { protocol: 1, session_id: "s".to_owned(), resume_token: "r".into(), ..welcome };
        stream.send(Down::Welcome(welcome)).await;
        (stream, hello)
    }
}

/// One stream of a worker. It ends when it is dropped.
pub(crate) struct Stream {
    from: Streaming<v1::WorkRequest>,
    to: mpsc::Sender<Result<v1::WorkResponse, Status>>,
    jobs_seq: u64,
}

impl Stream {
    pub(crate) async fn send(&self, frame: Down) {
        self.send_as(TERM, frame).await;
    }

    pub(crate) async fn send_as(&self, (term, nonce): (u64, u64), frame: Down) {
        let response = v1::WorkResponse { term, nonce, frame: Some(frame) };
        self.to.send(Ok(response)).await.expect("the worker listens");
    }

    /// Ends the stream with an error.
    pub(crate) async fn fail(self, status: Status) {
        self.to.send(Err(status)).await.expect("the worker listens");
    }

    /// The next frame; `None` if the worker has half-closed.
    pub(crate) async fn next(&mut self) -> Option<v1::WorkRequest> {
        timeout(PATIENCE, self.from.message()).await.expect("a frame in time").ok().flatten()
    }

    /// The next frame that a test may ask for; beats are answered on the way.
    pub(crate) async fn frame(&mut self) -> Option<Up> {
        loop {
            match self.next().await?.frame? {
                Up::Beat(beat) => {
                    let ack = v1::BeatAck { number: beat.number };
                    self.send(Down::BeatAck(ack)).await;
                }
                other => return Some(other),
            }
        }
    }

    async fn hello(&mut self) -> v1::Hello {
        match self.frame().await {
            Some(Up::Hello(hello)) => hello,
            other => panic!("no hello: {other:?}"),
        }
    }

    pub(crate) async fn results(&mut self) -> v1::JobResults {
        match self.frame().await {
            Some(Up::Results(results)) => results,
            other => panic!("no results: {other:?}"),
        }
    }

    /// The only result of the next frame of results.
    pub(crate) async fn result(&mut self) -> v1::JobResult {
        let results = self.results().await;
        assert_eq!((results.succeeded.len(), results.results.len()), (0, 1), "{results:?}");
        results.results.into_iter().next().expect("one")
    }

    pub(crate) async fn ack(&self, recorded_through: u64) {
        self.send(Down::SettleAck(v1::SettleAck { recorded_through, ..Default::default() })).await;
    }

    /// Jobs of tasks, by token. Names the tasks on the way.
    pub(crate) async fn jobs(&mut self, jobs: &[(&'static str, &str)]) {
        let frame = self.jobs_frame(jobs);
        self.send(Down::Jobs(frame)).await;
    }

    pub(crate) fn jobs_frame(&mut self, jobs: &[(&'static str, &str)]) -> v1::Jobs {
        self.jobs_seq += 1;
        // A number of its own for each name of each frame: the dictionary may be as long as a broker likes.
        let first = self.jobs_seq as u32 * 1_000;
        let entry = |number, name: &str| v1::DictionaryEntry { number, name: name.to_owned() };
        let mut dictionary = vec![entry(first, "default")];
        let mut deliveries = Vec::new();
        for (number, (token, task)) in (first + 1..).zip(jobs) {
            dictionary.push(entry(number, task));
            deliveries.push(v1::Delivery {
                job_id: i64::from(number),
                lease_token: (*token).into(),
                task: number,
                queue: first,
                ..v1::Delivery::default()
            });
        }
        v1::Jobs { seq: self.jobs_seq, dictionary, deliveries }
    }
}

struct Service {
    streams: mpsc::Sender<Stream>,
}

#[tonic::async_trait]
impl WorkerService for Service {
    type WorkStream = ReceiverStream<Result<v1::WorkResponse, Status>>;

    async fn work(&self, request: Request<Streaming<v1::WorkRequest>>) -> Result<Response<Self::WorkStream>, Status> {
        let (to, from) = mpsc::channel(16);
        let stream = Stream { from: request.into_inner(), to, jobs_seq: 0 };
        self.streams.send(stream).await.map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(ReceiverStream::new(from)))
    }

    async fn settle_jobs(&self, _: Request<v1::SettleJobsRequest>) -> Result<Response<v1::SettleJobsResponse>, Status> {
        Err(Status::unimplemented("no test needs it"))
    }

    async fn extend_session(
        &self,
        _: Request<v1::ExtendSessionRequest>,
    ) -> Result<Response<v1::ExtendSessionResponse>, Status> {
        Err(Status::unimplemented("no test needs it"))
    }

    async fn fetch_jobs(&self, _: Request<v1::FetchJobsRequest>) -> Result<Response<v1::FetchJobsResponse>, Status> {
        Err(Status::unimplemented("no test needs it"))
    }
}
