//! A broker to talk to, and a worker that does exactly what a test says.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use cabbage_broker::{Broker, BrokerArgs, args::StoreKind, store::memory::MemoryStore};
use cabbage_dev_postgres::TestDatabase;
use cabbage_proto::v1::{
    self, job_service_client::JobServiceClient, work_request, work_response::Frame,
    worker_service_client::WorkerServiceClient,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::mpsc,
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming, transport::Channel};

/// Nothing here takes this long unless it is broken.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// A broker on a store of its own.
pub(crate) struct Peer {
    pub(crate) broker: Broker,
    pub(crate) channel: Channel,
    /// Its own, where it has one; it goes last.
    pub(crate) database: Option<TestDatabase>,
}

impl Peer {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub(crate) async fn start_with(change: impl FnOnce(&mut BrokerArgs)) -> Self {
        let any = "127.0.0.1:0".parse().expect("an address");
        let mut args = BrokerArgs { listen: any, admin_listen: any, store: StoreKind::Memory, ..BrokerArgs::default() };
        change(&mut args);
        let broker = Broker::start(&args).await.expect("the broker starts");
        let peer = Self::of(broker).await;
        assert!(timeout(PATIENCE, peer.broker.owns()).await.expect("in time"), "nobody else owns the cell");
        peer
    }

    /// A broker on a store in memory, with the store, for what applications write into it by themselves.
    pub(crate) async fn start_in_memory() -> (Self, MemoryStore) {
        let store = MemoryStore::on_wall_clock();
        let any = "127.0.0.1:0".parse().expect("an address");
        let args = BrokerArgs { listen: any, admin_listen: any, ..BrokerArgs::default() };
        let broker = Broker::start_on(&args, Arc::new(store.clone())).await.expect("the broker starts");
        let peer = Self::of(broker).await;
        assert!(timeout(PATIENCE, peer.broker.owns()).await.expect("in time"), "nobody else owns the cell");
        (peer, store)
    }

    /// A broker that may own the cell or not.
    pub(crate) async fn of(broker: Broker) -> Self {
        let endpoint = Channel::from_shared(format!("http://{}", broker.grpc_address())).expect("a URL");
        let channel = endpoint.connect().await.expect("the broker answers");
        Self { broker, channel, database: None }
    }

    pub(crate) fn jobs(&self) -> JobServiceClient<Channel> {
        JobServiceClient::new(self.channel.clone())
    }

    pub(crate) fn workers(&self) -> WorkerServiceClient<Channel> {
        WorkerServiceClient::new(self.channel.clone())
    }

    pub(crate) async fn defer(&self, job: v1::JobSpec) -> i64 {
        let request = v1::DeferJobRequest { job: Some(job), request_id: String::new() };
        self.jobs().defer_job(request).await.expect("a valid job").into_inner().job_id
    }

    pub(crate) async fn job(&self, job_id: i64) -> v1::Job {
        let request = v1::GetJobRequest { job_id, include_args: true, include_history: true };
        self.jobs().get_job(request).await.expect("the job exists").into_inner().job.expect("a job")
    }

    /// What the second port answers.
    pub(crate) async fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.broker.admin_address()).await.expect("it listens");
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("text");
        answer
    }

    /// A worker's stream, before it said anything.
    pub(crate) async fn stream(&self) -> Worker {
        let (sender, requests) = mpsc::channel(64);
        let responses = self.workers().work(ReceiverStream::new(requests)).await.expect("the owner").into_inner();
        Worker { sender, responses, names: vec![String::new()], received_seq: 0 }
    }

    /// A worker that was welcomed.
    pub(crate) async fn worker(&self, hello: v1::Hello) -> (Worker, v1::Welcome) {
        let mut worker = self.stream().await;
        worker.say(work_request::Frame::Hello(hello)).await;
        let Frame::Welcome(welcome) = worker.hear().await else { panic!("a welcome comes first") };
        (worker, welcome)
    }
}

/// One stream of a worker.
pub(crate) struct Worker {
    sender: mpsc::Sender<v1::WorkRequest>,
    responses: Streaming<v1::WorkResponse>,
    names: Vec<String>,
    received_seq: u64,
}

impl Worker {
    pub(crate) async fn say(&self, frame: work_request::Frame) {
        let request = v1::WorkRequest { received_seq: self.received_seq, frame: Some(frame) };
        self.sender.send(request).await.expect("the stream is open");
    }

    /// The next frame but beats.
    pub(crate) async fn hear(&mut self) -> Frame {
        match self.next().await {
            Ok(Some(frame)) => frame,
            other => panic!("a frame was expected: {other:?}"),
        }
    }

    /// The next frame but beats; or the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Frame>, Status> {
        loop {
            match timeout(PATIENCE, self.responses.message()).await.expect("in time")? {
                None => return Ok(None),
                Some(v1::WorkResponse { frame: Some(Frame::BeatAck(beat)), .. }) if beat.number == 0 => {}
                Some(response) => return Ok(Some(response.frame.expect("a known frame"))),
            }
        }
    }

    /// Jobs, until there are so many: with the names of their tasks.
    pub(crate) async fn jobs(&mut self, count: usize) -> Vec<(String, v1::Delivery)> {
        let mut jobs = Vec::new();
        while jobs.len() < count {
            let Frame::Jobs(frame) = self.hear().await else { panic!("jobs were expected") };
            assert_eq!(frame.seq, self.received_seq + 1);
            self.received_seq = frame.seq;
            for entry in frame.dictionary {
                assert_eq!(entry.number as usize, self.names.len());
                self.names.push(entry.name);
            }
            let name = |delivery: &v1::Delivery| self.names[delivery.task as usize].clone();
            jobs.extend(frame.deliveries.into_iter().map(|delivery| (name(&delivery), delivery)));
        }
        jobs
    }

    /// The next jobs, while it shows that it lives.
    pub(crate) async fn jobs_with_beats(&mut self) -> Vec<(String, v1::Delivery)> {
        let sender = self.sender.clone();
        let beats = async {
            let mut ticks = tokio::time::interval(Duration::from_millis(50));
            loop {
                ticks.tick().await;
                let frame = Some(work_request::Frame::Beat(v1::Beat { number: 0, in_flight: 0 }));
                if sender.send(v1::WorkRequest { received_seq: 0, frame }).await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        tokio::select! {
            jobs = self.jobs(1) => jobs,
            () = beats => unreachable!("beats do not end"),
        }
    }

    /// Reports plain successes, and waits for their acknowledgement.
    pub(crate) async fn succeed(&mut self, results_seq: u64, succeeded: Vec<Bytes>) -> v1::SettleAck {
        self.say(work_request::Frame::Results(v1::JobResults { results_seq, succeeded, results: Vec::new() })).await;
        self.ack().await
    }

    /// Reports a failed attempt, and waits for its acknowledgement.
    pub(crate) async fn fail(&mut self, results_seq: u64, lease_token: Bytes, retry: Option<v1::RetryDecision>) {
        let failure = Some(v1::Failure { kind: "Error".into(), message: "no".into(), trace: String::new() });
        let failed = v1::Failed { failure, never_retry: false, retry };
        let result = v1::JobResult { lease_token, outcome: Some(v1::job_result::Outcome::Failed(failed)) };
        let results = v1::JobResults { results_seq, succeeded: Vec::new(), results: vec![result] };
        self.say(work_request::Frame::Results(results)).await;
        self.ack().await;
    }

    pub(crate) async fn ack(&mut self) -> v1::SettleAck {
        match self.hear().await {
            Frame::SettleAck(ack) => ack,
            other => panic!("an acknowledgement was expected: {other:?}"),
        }
    }

    /// The goodbye and the status that the stream ends with.
    pub(crate) async fn end(&mut self) -> (tonic_types::Status, Result<(), Status>) {
        loop {
            match self.next().await {
                Ok(Some(Frame::Goodbye(goodbye))) => {
                    let end = self.next().await.map(|frame| assert!(frame.is_none(), "nothing follows a goodbye"));
                    return (goodbye.status.expect("a status"), end);
                }
                Ok(Some(_)) => {}
                other => panic!("a goodbye was expected: {other:?}"),
            }
        }
    }

    /// Closes the worker's side.
    pub(crate) async fn close(self) -> Result<Option<Frame>, Status> {
        let Self { sender, mut responses, .. } = self;
        drop(sender);
        timeout(PATIENCE, responses.message()).await.expect("in time").map(|response| response?.frame)
    }
}

pub(crate) fn job(task: &str, args: &str) -> v1::JobSpec {
    v1::JobSpec { task: task.into(), args: Bytes::copy_from_slice(args.as_bytes()), ..v1::JobSpec::default() }
}

pub(crate) fn hello(task: &str, max_jobs: u32) -> v1::Hello {
    v1::Hello {
        min_protocol: 1,
        max_protocol: 1,
        instance_id: "test".into(),
        tasks: vec![v1::TaskRegistration { task: task.into(), max_concurrent: 0 }],
        capacity: Some(v1::Capacity { revision: 1, max_jobs, max_bytes: 0, paused: false }),
        ..v1::Hello::default()
    }
}
