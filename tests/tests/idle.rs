//! A cell that has nothing to do leaves its database alone.

#[path = "broker/metrics.rs"]
mod metrics;
#[path = "broker/postgres.rs"]
mod postgres;

use std::time::Duration;

use cabbage_proto::v1::{
    self, work_request::Frame as Up, work_response::Frame as Down, worker_service_client::WorkerServiceClient,
};
use sqlx::{ConnectOptions as _, Connection as _, PgConnection, postgres::PgConnectOptions};
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use metrics::metric;

const WORKERS: usize = 100;

/// Statements, and transactions, of a second.
const RATE_MAX: f64 = 5.0;

/// How long is measured. That time passes is what is tested here, so this waits for nothing else.
const MEASURED: Duration = Duration::from_secs(10);

/// What comes right after the workers (their sessions, the first partitions) is no idleness.
const SETTLED: Duration = Duration::from_secs(3);

/// A worker with room for many jobs, that does nothing but beat.
async fn idle_worker(channel: Channel, number: usize) -> JoinHandle<()> {
    let (sender, requests) = mpsc::channel(4);
    let mut client = WorkerServiceClient::new(channel);
    let answer = client.work(ReceiverStream::new(requests)).await.expect("the owner takes streams");
    let mut responses = answer.into_inner();
    let hello = v1::Hello {
        min_protocol: 1,
        max_protocol: 1,
        instance_id: format!("idle {number}"),
        tasks: vec![v1::TaskRegistration { task: "idle".into(), max_concurrent: 0 }],
        capacity: Some(v1::Capacity { revision: 1, max_jobs: 1_000, max_bytes: 0, paused: false }),
        ..v1::Hello::default()
    };
    let say = |frame| v1::WorkRequest { received_seq: 0, frame: Some(frame) };
    sender.send(say(Up::Hello(hello))).await.expect("the stream is open");
    let first = responses.message().await.expect("no error").expect("a frame").frame;
    let Some(Down::Welcome(welcome)) = first else { panic!("a welcome comes first: {first:?}") };
    let beat = welcome.beat.and_then(|beat| Duration::try_from(beat).ok()).expect("an interval");
    tokio::spawn(async move {
        let mut beats = tokio::time::interval(beat);
        loop {
            tokio::select! {
                _ = beats.tick() => {
                    let beat = say(Up::Beat(v1::Beat { number: 1, in_flight: 0 }));
                    sender.send(beat).await.expect("the stream is open");
                }
                frame = responses.message() => {
                    let frame = frame.expect("no error").expect("it does not end").frame;
                    assert!(matches!(frame, Some(Down::BeatAck(_))), "nothing happens: {frame:?}");
                }
            }
        }
    })
}

/// How many transactions ended in the broker's database, by its own count, seen from another one.
async fn transactions(observer: &mut PgConnection, database: &str) -> i64 {
    let sql = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = $1";
    sqlx::query_scalar(sql).bind(database).fetch_one(observer).await.expect("statistics")
}

#[tokio::test]
async fn a_hundred_idle_workers_cost_less_than_five_statements_a_second() {
    let (broker, kept) = postgres::start(|_| {}).await;
    let options: PgConnectOptions = kept.url().parse().expect("an address");
    let database = options.get_database().expect("a name").to_owned();
    // A session's counts appear when it ends or has been idle for a while; what watches must not count itself.
    let mut observer = options.database("postgres").connect().await.expect("a connection");

    let endpoint = Channel::from_shared(format!("http://{}", broker.grpc_address())).expect("an address");
    let channel = endpoint.connect().await.expect("the broker answers");
    let mut workers = Vec::new();
    for number in 0..WORKERS {
        let worker = timeout(Duration::from_secs(30), idle_worker(channel.clone(), number)).await;
        workers.push(worker.expect("in time"));
    }
    assert!((metric(&broker, "cabbage_streams").await - WORKERS as f64).abs() < 0.5);

    sleep(SETTLED).await;
    let statements = metric(&broker, "cabbage_statements_total").await;
    let ended = transactions(&mut observer, &database).await;
    sleep(MEASURED).await;
    let statements = metric(&broker, "cabbage_statements_total").await - statements;
    let ended = (transactions(&mut observer, &database).await - ended) as f64;

    let (statements, ended) = (statements / MEASURED.as_secs_f64(), ended / MEASURED.as_secs_f64());
    println!("{statements} statements and {ended} transactions a second");
    assert!(statements < RATE_MAX, "{statements} statements a second, as the broker counts");
    assert!(ended < RATE_MAX, "{ended} transactions a second, as PostgreSQL counts");
    assert!(statements > 0.0 && ended > 0.0, "both count: the owner shows that it lives");
    for worker in &workers {
        assert!(!worker.is_finished(), "its stream lasts");
    }
    observer.close().await.expect("it ends");
}
