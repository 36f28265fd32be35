//! How many jobs that do nothing one worker can take, with a broker that costs next to nothing. A measurement, not a
//! test: `cargo test --release -p cabbage-worker --test throughput -- --ignored --nocapture`.

use std::{net::SocketAddr, thread, time::Instant};

use cabbage_worker::{
    Context, TaskError, Worker,
    v1::{
        self,
        work_request::Frame as Up,
        work_response::Frame as Down,
        worker_service_server::{WorkerService, WorkerServiceServer},
    },
};
use tokio::{net::TcpListener, runtime, sync::mpsc};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming, transport::Server};

const JOBS: u64 = 1_000_000;
const CREDIT: u64 = 6_000;
const FRAME: u64 = 500;

struct Flood;

/// Keeps the credit of one worker used up, and acknowledges at once.
async fn flood(mut from: Streaming<v1::WorkRequest>, to: mpsc::Sender<Result<v1::WorkResponse, Status>>) {
    let (mut sent, mut done, mut seq) = (0_u64, 0_u64, 0_u64);
    while let Ok(Some(request)) = from.message().await {
        let answer = match request.frame {
            Some(Up::Hello(_)) => Down::Welcome(v1::Welcome { protocol: 1, ..v1::Welcome::default() }),
            Some(Up::Results(results)) => {
                done += results.succeeded.len() as u64;
                Down::SettleAck(v1::SettleAck { recorded_through: results.results_seq, exceptions: Vec::new() })
            }
            Some(Up::Beat(beat)) => Down::BeatAck(v1::BeatAck { number: beat.number }),
            Some(Up::Drain(_)) => Down::DrainAck(v1::DrainAck { last_seq: seq }),
            _ => continue,
        };
        let mut frames = vec![answer];
        while sent < JOBS && sent - done + FRAME <= CREDIT {
            seq += 1;
            let entry = |number, name: &str| v1::DictionaryEntry { number, name: name.to_owned() };
            let dictionary = if seq == 1 { vec![entry(1, "noop"), entry(2, "default")] } else { Vec::new() };
            let delivery = |job_id: u64| {
                let mut token = [0; 20];
                token[..8].copy_from_slice(&job_id.to_be_bytes());
                v1::Delivery {
                    job_id: job_id as i64,
                    lease_token: bytes::Bytes::copy_from_slice(&token),
                    task: 1,
                    queue: 2,
                    ..v1::Delivery::default()
                }
            };
            let deliveries = (sent..sent + FRAME).map(delivery).collect();
            sent += FRAME;
            frames.push(Down::Jobs(v1::Jobs { seq, dictionary, deliveries }));
        }
        for frame in frames {
            if to.send(Ok(v1::WorkResponse { term: 1, nonce: 1, frame: Some(frame) })).await.is_err() {
                return;
            }
        }
    }
}

#[tonic::async_trait]
impl WorkerService for Flood {
    type WorkStream = ReceiverStream<Result<v1::WorkResponse, Status>>;

    async fn work(&self, request: Request<Streaming<v1::WorkRequest>>) -> Result<Response<Self::WorkStream>, Status> {
        let (to, from) = mpsc::channel(64);
        tokio::spawn(flood(request.into_inner(), to));
        Ok(Response::new(ReceiverStream::new(from)))
    }

    async fn settle_jobs(&self, _: Request<v1::SettleJobsRequest>) -> Result<Response<v1::SettleJobsResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn extend_session(
        &self,
        _: Request<v1::ExtendSessionRequest>,
    ) -> Result<Response<v1::ExtendSessionResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn fetch_jobs(&self, _: Request<v1::FetchJobsRequest>) -> Result<Response<v1::FetchJobsResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}

/// The broker has a thread of its own.
fn broker() -> SocketAddr {
    let (to, from) = std::sync::mpsc::channel();
    thread::spawn(move || {
        let runtime = runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            to.send(listener.local_addr().expect("an address")).expect("the test waits");
            let server = Server::builder().add_service(WorkerServiceServer::new(Flood));
            server.serve_with_incoming(TcpListenerStream::new(listener)).await.expect("no error");
        });
    });
    from.recv().expect("an address")
}

fn measure(name: &str, runtime: &runtime::Runtime) {
    let address = broker();
    runtime.block_on(async {
        let worker = Worker::builder(address.to_string())
            .function("noop", |(): (), _: Context| async { Ok::<_, TaskError>(()) })
            .concurrency(2_000)
            .prefetch(4_000)
            .build()
            .expect("a worker");
        let handle = worker.handle();
        let begin = Instant::now();
        let run = tokio::spawn(worker.run());
        handle.wait_for(|status| status.counters.recorded >= JOBS).await.expect("a worker");
        let seconds = begin.elapsed().as_secs_f64();
        let frames = handle.status().counters.result_frames;
        println!("{name}: {:.0} jobs/s, {} results per frame", JOBS as f64 / seconds, JOBS / frames);
        handle.stop();
        run.await.expect("no panic");
    });
}

#[test]
#[ignore = "a measurement"]
fn jobs_per_second_of_one_worker() {
    let one = runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    measure("one thread", &one);
    let two = runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    measure("two threads", &two);
}
