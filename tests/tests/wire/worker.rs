//! A worker that says exactly what a test tells it to.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;
use cabbage_proto::v1::{
    self, work_request::Frame as Up, work_response::Frame as Down, worker_service_client::WorkerServiceClient,
};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming, transport::Channel};

use crate::refused::Refused;

/// Nothing takes this long unless it is broken.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// One stream. It breaks when this is dropped.
pub(crate) struct Worker {
    sender: mpsc::Sender<v1::WorkRequest>,
    responses: Streaming<v1::WorkResponse>,
    received_seq: u64,
    results_seq: u64,
    deliveries: VecDeque<v1::Delivery>,
}

impl Worker {
    /// Opens a stream, and says nothing yet.
    pub(crate) async fn open(channel: &Channel) -> Self {
        let (sender, requests) = mpsc::channel(64);
        let mut client = WorkerServiceClient::new(channel.clone());
        let answer = timeout(PATIENCE, client.work(ReceiverStream::new(requests))).await.expect("in time");
        let responses = answer.expect("the owner takes streams").into_inner();
        Self { sender, responses, received_seq: 0, results_seq: 0, deliveries: VecDeque::new() }
    }

    /// Opens a stream, and is welcomed.
    pub(crate) async fn welcomed(channel: &Channel, hello: v1::Hello) -> (Self, v1::Welcome) {
        let mut worker = Self::open(channel).await;
        worker.say(Up::Hello(hello)).await;
        match worker.hear().await {
            Down::Welcome(welcome) => (worker, welcome),
            other => panic!("a welcome comes first: {other:?}"),
        }
    }

    pub(crate) async fn say(&self, frame: Up) {
        let request = v1::WorkRequest { received_seq: self.received_seq, frame: Some(frame) };
        self.say_request(request).await;
    }

    pub(crate) async fn say_request(&self, request: v1::WorkRequest) {
        timeout(PATIENCE, self.sender.send(request)).await.expect("in time").expect("the stream is open");
    }

    /// The next frame but beats.
    pub(crate) async fn hear(&mut self) -> Down {
        match self.next().await {
            Ok(Some(frame)) => frame,
            other => panic!("a frame was expected: {other:?}"),
        }
    }

    /// The next frame but beats of the broker's own; or the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Down>, Status> {
        loop {
            match timeout(PATIENCE, self.responses.message()).await.expect("in time")? {
                None => return Ok(None),
                Some(v1::WorkResponse { frame: Some(Down::BeatAck(beat)), .. }) if beat.number == 0 => {}
                Some(response) => return Ok(Some(response.frame.expect("a known frame"))),
            }
        }
    }

    /// The next job.
    pub(crate) async fn job(&mut self) -> v1::Delivery {
        loop {
            if let Some(delivery) = self.deliveries.pop_front() {
                return delivery;
            }
            match self.hear().await {
                Down::Jobs(jobs) => self.took(jobs),
                other => panic!("jobs were expected: {other:?}"),
            }
        }
    }

    /// Notes that jobs came.
    pub(crate) fn took(&mut self, jobs: v1::Jobs) {
        assert_eq!(jobs.seq, self.received_seq + 1);
        self.received_seq = jobs.seq;
        self.deliveries.extend(jobs.deliveries);
    }

    /// The jobs that came and were not looked at.
    pub(crate) fn drain_taken(&mut self) -> Vec<Bytes> {
        self.deliveries.drain(..).map(|delivery| delivery.lease_token).collect()
    }

    /// Sends results, in a frame of their own.
    pub(crate) async fn send_results(&mut self, succeeded: Vec<Bytes>, results: Vec<v1::JobResult>) {
        self.results_seq += 1;
        self.say(Up::Results(v1::JobResults { results_seq: self.results_seq, succeeded, results })).await;
    }

    /// Sends results, and waits until they are acknowledged; gives those that were not plainly recorded.
    pub(crate) async fn settle(
        &mut self,
        succeeded: Vec<Bytes>,
        results: Vec<v1::JobResult>,
    ) -> Vec<(Bytes, v1::SettleCode)> {
        self.send_results(succeeded, results).await;
        let mut exceptions = Vec::new();
        loop {
            match self.hear().await {
                Down::SettleAck(ack) => {
                    exceptions.extend(ack.exceptions.into_iter().map(|end| (end.lease_token.clone(), end.code())));
                    if ack.recorded_through == self.results_seq {
                        return exceptions;
                    }
                }
                Down::Jobs(jobs) => self.took(jobs),
                Down::BeatAck(_) => {}
                other => panic!("an acknowledgement was expected: {other:?}"),
            }
        }
    }

    /// Settles one delivery; gives what became of that.
    pub(crate) async fn settle_one(&mut self, token: &Bytes, outcome: v1::job_result::Outcome) -> v1::SettleCode {
        let result = v1::JobResult { lease_token: token.clone(), outcome: Some(outcome) };
        let exceptions = self.settle(Vec::new(), vec![result]).await;
        exceptions.first().map_or(v1::SettleCode::Recorded, |(_, code)| *code)
    }

    /// The stream ends with an error, and a goodbye says the same before.
    pub(crate) async fn refused(&mut self) -> Refused {
        loop {
            match self.next().await {
                Ok(Some(Down::Goodbye(goodbye))) => {
                    let end = self.next().await.expect_err("the stream ends with the status of the goodbye");
                    let told = goodbye.status.expect("a status");
                    assert_eq!((told.code, told.message.as_str()), (i32::from(end.code()), end.message()));
                    Refused::of_message(&told);
                    return Refused::of(&end);
                }
                Ok(Some(Down::Jobs(jobs))) => self.took(jobs),
                Ok(Some(_)) => {}
                other => panic!("a goodbye was expected: {other:?}"),
            }
        }
    }

    /// Closes its own side; the broker's must end with OK.
    pub(crate) async fn close(self) {
        let Self { sender, mut responses, .. } = self;
        drop(sender);
        while timeout(PATIENCE, responses.message()).await.expect("in time").expect("a planned end").is_some() {}
    }
}

/// An introduction: one task, of every queue.
pub(crate) fn hello(task: &str, max_jobs: u32) -> v1::Hello {
    v1::Hello {
        min_protocol: 1,
        max_protocol: 1,
        instance_id: "tests".into(),
        tasks: vec![v1::TaskRegistration { task: task.into(), max_concurrent: 0 }],
        capacity: Some(v1::Capacity { revision: 1, max_jobs, max_bytes: 0, paused: false }),
        ..v1::Hello::default()
    }
}

/// A job.
pub(crate) fn job(task: &str) -> v1::JobSpec {
    v1::JobSpec { task: task.into(), ..v1::JobSpec::default() }
}
