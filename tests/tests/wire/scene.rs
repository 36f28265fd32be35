//! A broker, and a worker and a client that keep the rules while somebody else does not.

use std::time::Duration;

use cabbage_broker::{Broker, BrokerArgs};
use cabbage_proto::v1::{
    self, job_service_client::JobServiceClient, work_request::Frame as Up, work_response::Frame as Down,
    worker_service_client::WorkerServiceClient,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::oneshot,
    task::JoinHandle,
    time::{MissedTickBehavior, interval, timeout},
};
use tonic::{Status, transport::Channel};

use crate::{
    memory,
    worker::{PATIENCE, Worker, hello, job},
};

/// What those do who keep the rules; nobody else uses it.
const RULES_KEPT: &str = "keeps the rules";

/// How often the client that keeps the rules asks for something.
const PACE: Duration = Duration::from_millis(10);

/// How often its worker shows that it lives.
const BEAT: Duration = Duration::from_millis(100);

/// A broker, and those who keep the rules.
pub(crate) struct Scene {
    pub(crate) broker: Broker,
    /// The connection of whoever breaks the rules.
    pub(crate) channel: Channel,
    client: JoinHandle<u64>,
    worker: JoinHandle<u64>,
    stop: oneshot::Sender<()>,
}

impl Scene {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// With other settings of the broker.
    pub(crate) async fn start_with(change: impl FnOnce(&mut BrokerArgs)) -> Self {
        let broker = memory::start(change).await;
        let channel = connect(&broker).await;
        let quiet = connect(&broker).await;
        let (stop, stopped) = oneshot::channel();
        let hello = v1::Hello { queues: vec![RULES_KEPT.into()], ..hello(RULES_KEPT, 10) };
        let (worker, _) = Worker::welcomed(&quiet, hello).await;
        let (done, over) = oneshot::channel();
        let client = tokio::spawn(ask(JobServiceClient::new(quiet), stopped, done));
        let worker = tokio::spawn(serve(worker, over));
        Self { broker, channel, client, worker, stop }
    }

    /// Those who keep the rules were served all the time, and still are.
    pub(crate) async fn stays_well(self) {
        // The client has gone away only if something was wrong, which joining it shows.
        let _ = self.stop.send(());
        let asked = timeout(PATIENCE, self.client).await.expect("in time").expect("the client was served");
        let ran = timeout(PATIENCE, self.worker).await.expect("in time").expect("the worker was served");
        assert!(asked > 0);
        assert_eq!(asked, ran);
    }

    pub(crate) fn jobs(&self) -> JobServiceClient<Channel> {
        JobServiceClient::new(self.channel.clone())
    }

    pub(crate) fn workers(&self) -> WorkerServiceClient<Channel> {
        WorkerServiceClient::new(self.channel.clone())
    }

    /// Defers a job, or does not.
    pub(crate) async fn try_defer(&self, job: v1::JobSpec) -> Result<i64, Status> {
        let request = v1::DeferJobRequest { job: Some(job), request_id: String::new() };
        self.jobs().defer_job(request).await.map(|answer| answer.into_inner().job_id)
    }

    pub(crate) async fn defer(&self, job: v1::JobSpec) -> i64 {
        self.try_defer(job).await.expect("a valid job")
    }

    pub(crate) async fn shown(&self, job_id: i64) -> v1::Job {
        let request = v1::GetJobRequest { job_id, include_args: true, include_history: true };
        self.jobs().get_job(request).await.expect("the job exists").into_inner().job.expect("a job")
    }

    /// A worker of one task, that was welcomed.
    pub(crate) async fn worker(&self, task: &str, max_jobs: u32) -> Worker {
        Worker::welcomed(&self.channel, hello(task, max_jobs)).await.0
    }

    /// What a number of `/metrics` is, all its lines together.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let mut stream = TcpStream::connect(self.broker.admin_address()).await.expect("the admin port is open");
        let request = b"GET /metrics HTTP/1.1\r\nHost: broker\r\nConnection: close\r\n\r\n";
        stream.write_all(request).await.expect("it listens");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("it answers");
        let values =
            answer.lines().filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{'])));
        values.map(|line| line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok()).expect("a number")).sum()
    }
}

pub(crate) async fn connect(broker: &Broker) -> Channel {
    let endpoint = Channel::from_shared(format!("http://{}", broker.grpc_address())).expect("an address");
    endpoint.connect().await.expect("the broker answers")
}

/// Defers jobs and waits for their ends; once more after it is told to stop. Gives how many.
async fn ask(
    mut jobs: JobServiceClient<Channel>,
    mut stopped: oneshot::Receiver<()>,
    done: oneshot::Sender<()>,
) -> u64 {
    let mut pace = interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut asked = 0;
    loop {
        let last = stopped.try_recv().is_ok();
        let spec = v1::JobSpec { queue: RULES_KEPT.into(), ..job(RULES_KEPT) };
        let request = v1::DeferJobRequest { job: Some(spec), request_id: uuid::Uuid::new_v4().to_string() };
        let job_id = jobs.defer_job(request).await.expect("a job of somebody else").into_inner().job_id;
        let request = v1::WaitJobRequest { job_id, max_wait: None };
        let ended = jobs.wait_job(request).await.expect("a wait of somebody else").into_inner();
        assert!(ended.is_final);
        let ended = ended.job.expect("a job");
        assert_eq!((ended.state(), ended.deliveries), (v1::JobState::Succeeded, 1));
        asked += 1;
        if last {
            // The worker waits for this, unless something was wrong with it.
            let _ = done.send(());
            return asked;
        }
        pace.tick().await;
    }
}

/// Runs jobs on one stream, and drains when it is told to stop. Gives how many.
async fn serve(mut worker: Worker, mut over: oneshot::Receiver<()>) -> u64 {
    let (mut beat, mut ran) = (interval(BEAT), 0);
    loop {
        tokio::select! {
            frame = worker.next() => match frame.expect("a stream of somebody else").expect("it does not end") {
                Down::Jobs(jobs) => {
                    worker.took(jobs);
                    let tokens = worker.drain_taken();
                    ran += tokens.len() as u64;
                    worker.send_results(tokens, Vec::new()).await;
                }
                Down::SettleAck(ack) => assert_eq!(ack.exceptions, []),
                Down::BeatAck(_) => {}
                Down::DrainAck(_) => {
                    worker.close().await;
                    return ran;
                }
                other => panic!("nothing else was to be said: {other:?}"),
            },
            _ = beat.tick() => worker.say(Up::Beat(v1::Beat { number: 1, in_flight: 0 })).await,
            _ = &mut over, if !over.is_terminated() => worker.say(Up::Drain(v1::Drain::default())).await,
        }
    }
}
