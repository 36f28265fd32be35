//! A witness on the wire: stands between a worker and a broker, passes every frame on, and writes down what the broker
//! answered for each result.
//!
//! It lives in the worker's process, so it is stopped and killed together with it. It also asks what a well-behaved
//! worker does not: it sends a result for each lease that the broker calls lost, to see that it is refused (C5).

use std::{
    collections::{BTreeMap, HashMap},
    net::{Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use cabbage_broker::core::types::Lease;
use cabbage_proto::v1::{
    self, JobResult, SettleCode,
    job_result::Outcome,
    work_request, work_response,
    worker_service_client::WorkerServiceClient,
    worker_service_server::{WorkerService, WorkerServiceServer},
};
use futures::{Stream, StreamExt as _, future::ready};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    Request, Response, Status, Streaming, async_trait,
    transport::{Channel, Endpoint, Server},
};
use uuid::Uuid;

use crate::history::{End, Journal, LeaseName, WorkerEvent, WorkerStep};

/// How long the broker may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// The most results of one unary call.
const RESULTS_PER_CALL: usize = 1_000;

/// Passes on what a worker and one broker say to each other.
#[derive(Clone, Debug)]
pub struct Witness {
    broker: Endpoint,
    journal: Arc<Journal>,
}

impl Witness {
    /// Listens for the worker; answers where.
    pub async fn start(broker: &str, journal: Arc<Journal>) -> anyhow::Result<SocketAddr> {
        let broker = Endpoint::from_shared(format!("http://{broker}"))?.connect_timeout(CONNECT_TIMEOUT);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let service = WorkerServiceServer::new(Self { broker, journal });
        tokio::spawn(Server::builder().add_service(service).serve_with_incoming(TcpListenerStream::new(listener)));
        Ok(address)
    }

    async fn broker(&self) -> Result<WorkerServiceClient<Channel>, Status> {
        let channel = self.broker.connect().await.map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(WorkerServiceClient::new(channel))
    }
}

#[async_trait]
impl WorkerService for Witness {
    type WorkStream = Pin<Box<dyn Stream<Item = Result<v1::WorkResponse, Status>> + Send>>;

    async fn work(&self, request: Request<Streaming<v1::WorkRequest>>) -> Result<Response<Self::WorkStream>, Status> {
        let mut broker = self.broker().await?;
        let stream = Arc::new(Record { journal: self.journal.clone(), told: Mutex::default() });
        let told = stream.clone();
        let frames = request.into_inner().take_while(|frame| ready(frame.is_ok())).filter_map(move |frame| {
            if let Ok(v1::WorkRequest { frame: Some(work_request::Frame::Results(results)), .. }) = &frame {
                told.results(results);
            }
            ready(frame.ok())
        });
        let answers = broker.work(frames).await?.into_inner();
        let answers = answers.inspect(move |answer| match answer {
            Ok(v1::WorkResponse { frame: Some(work_response::Frame::SettleAck(ack)), .. }) => stream.acknowledged(ack),
            Ok(v1::WorkResponse { frame: Some(work_response::Frame::Welcome(welcome)), term, .. }) => {
                stream.welcomed(*term, welcome);
                if !welcome.lost_lease_tokens.is_empty() {
                    tokio::spawn(probe(broker.clone(), stream.journal.clone(), welcome.lost_lease_tokens.clone()));
                }
            }
            _ => {}
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn settle_jobs(
        &self,
        request: Request<v1::SettleJobsRequest>,
    ) -> Result<Response<v1::SettleJobsResponse>, Status> {
        let ends: HashMap<Bytes, End> = request.get_ref().results.iter().map(end_of).collect();
        let answer = self.broker().await?.settle_jobs(request).await?;
        write(&self.journal, answer.get_ref().results.iter().map(|result| (result, &ends)), false);
        Ok(answer)
    }

    async fn extend_session(
        &self,
        request: Request<v1::ExtendSessionRequest>,
    ) -> Result<Response<v1::ExtendSessionResponse>, Status> {
        self.broker().await?.extend_session(request).await
    }

    async fn fetch_jobs(
        &self,
        request: Request<v1::FetchJobsRequest>,
    ) -> Result<Response<v1::FetchJobsResponse>, Status> {
        self.broker().await?.fetch_jobs(request).await
    }
}

/// Sends a late result for each lease that is lost.
async fn probe(mut broker: WorkerServiceClient<Channel>, journal: Arc<Journal>, tokens: Vec<Bytes>) {
    for tokens in tokens.chunks(RESULTS_PER_CALL) {
        let success = |token: &Bytes| JobResult {
            lease_token: token.clone(),
            outcome: Some(Outcome::Succeeded(v1::Succeeded::default())),
        };
        let results: Vec<JobResult> = tokens.iter().map(success).collect();
        let ends: HashMap<Bytes, End> = results.iter().map(end_of).collect();
        // A broker that goes away meanwhile answers nothing, and nothing is written down.
        if let Ok(answer) = broker.settle_jobs(v1::SettleJobsRequest { results }).await {
            write(&journal, answer.get_ref().results.iter().map(|result| (result, &ends)), true);
        }
    }
}

/// What was said on one stream.
struct Record {
    journal: Arc<Journal>,
    told: Mutex<Told>,
}

/// Results that are not answered yet.
#[derive(Default)]
struct Told {
    frames: BTreeMap<u64, Vec<Bytes>>,
    ends: HashMap<Bytes, End>,
}

impl Record {
    fn results(&self, results: &v1::JobResults) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let plain = results.succeeded.iter().map(|token| (token.clone(), End::Succeeded));
        let ends: Vec<(Bytes, End)> = plain.chain(results.results.iter().map(end_of)).collect();
        told.frames.insert(results.results_seq, ends.iter().map(|(token, _)| token.clone()).collect());
        told.ends.extend(ends);
    }

    fn acknowledged(&self, ack: &v1::SettleAck) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        write(&self.journal, ack.exceptions.iter().map(|result| (result, &told.ends)), false);
        for result in &ack.exceptions {
            told.ends.remove(&result.lease_token);
        }
        // What is left in a frame when the whole frame is answered for is plainly recorded.
        let later = told.frames.split_off(&(ack.recorded_through + 1));
        let frames = std::mem::replace(&mut told.frames, later);
        let recorded =
            frames.into_values().flatten().filter_map(|token| Some((name(&token)?, told.ends.remove(&token)?)));
        let step =
            |(lease, end)| WorkerStep::Acknowledged { lease, end, code: SettleCode::Recorded.into(), probe: false };
        let stamp = self.journal.stamp();
        self.journal.write(recorded.map(|it| WorkerEvent { stamp: stamp.clone(), step: step(it) }));
    }

    fn welcomed(&self, term: u64, welcome: &v1::Welcome) {
        let session = Uuid::try_parse(&welcome.session_id).unwrap_or_default();
        let step = WorkerStep::Welcome { session, resumed: welcome.resumed, term };
        self.journal.write([WorkerEvent { stamp: self.journal.stamp(), step }]);
    }
}

fn write<'a>(
    journal: &Journal,
    results: impl Iterator<Item = (&'a v1::SettleResult, &'a HashMap<Bytes, End>)>,
    probe: bool,
) {
    let stamp = journal.stamp();
    journal.write(results.filter_map(|(result, ends)| {
        let end = ends.get(&result.lease_token).copied()?;
        let step = WorkerStep::Acknowledged { lease: name(&result.lease_token)?, end, code: result.code, probe };
        Some(WorkerEvent { stamp: stamp.clone(), step })
    }));
}

/// The delivery that a token names.
pub fn name(token: &[u8]) -> Option<LeaseName> {
    let lease = Lease::parse(token)?;
    Some(LeaseName { job: lease.job.0, delivery: lease.delivery, nonce: lease.nonce })
}

fn end_of(result: &JobResult) -> (Bytes, End) {
    let end = match &result.outcome {
        Some(Outcome::Succeeded(_)) | None => End::Succeeded,
        Some(Outcome::Failed(_)) => End::Failed,
        Some(Outcome::Cancelled(_)) => End::Cancelled,
        Some(Outcome::Released(_)) => End::Released,
        Some(Outcome::Snoozed(_)) => End::Snoozed,
    };
    (result.lease_token.clone(), end)
}
