//! The whole worker against a scripted broker, over a real connection. Nothing here waits for time to pass, but for
//! what is said.

mod broker;

use std::{sync::Arc, time::Duration};

use broker::{Broker, TERM};
use bytes::Bytes;
use cabbage_worker::{
    CancelCause, Context, Status, TaskError, Worker, WorkerBuilder, WorkerHandle,
    v1::{self, job_result::Outcome, work_request::Frame as Up, work_response::Frame as Down},
};
use tokio::{sync::mpsc, task::JoinHandle};
use tonic_types::StatusExt as _;

/// What handlers tell the test, and wait for.
struct Desk {
    said: mpsc::UnboundedSender<String>,
    gate: Arc<tokio::sync::Semaphore>,
}

struct Office {
    said: mpsc::UnboundedReceiver<String>,
    gate: Arc<tokio::sync::Semaphore>,
}

impl Office {
    async fn hears(&mut self, text: &str) {
        assert_eq!(self.said.recv().await.as_deref(), Some(text));
    }
}

async fn noop((): (), _: Context) -> Result<(), TaskError> {
    Ok(())
}

async fn bang((): (), _: Context) -> Result<(), TaskError> {
    let nothing: Vec<u32> = Vec::new();
    assert_eq!(nothing.len(), 1, "bang");
    Ok(())
}

/// Says that it runs, and waits until it is let through or told to stop.
async fn hold((): (), ctx: Context<Desk>) -> Result<(), TaskError> {
    let _ = ctx.state().said.send("runs".to_owned());
    tokio::select! {
        permit = ctx.state().gate.acquire() => {
            permit?.forget();
            Ok(())
        }
        cause = ctx.cancelled() => {
            let _ = ctx.state().said.send(format!("{cause:?}"));
            Err(TaskError::cancelled("told to"))
        }
    }
}

/// Listens to nobody.
async fn stubborn((): (), ctx: Context<Desk>) -> Result<(), TaskError> {
    let _ = ctx.state().said.send("runs".to_owned());
    std::future::pending().await
}

fn builder(addresses: &[&Broker]) -> (WorkerBuilder, Office) {
    let (said, hears) = mpsc::unbounded_channel();
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let addresses: Vec<_> = addresses.iter().map(|broker| broker.address.to_string()).collect();
    let builder = Worker::builder(addresses)
        .state(Desk { said, gate: gate.clone() })
        .function("noop", noop)
        .function("bang", bang)
        .function("hold", hold)
        .function("stubborn", stubborn)
        .blocking("block", |number: u32, _: Context| Ok::<_, TaskError>(number + 1));
    (builder, Office { said: hears, gate })
}

struct Running {
    handle: WorkerHandle,
    task: JoinHandle<Status>,
    office: Office,
}

fn start(addresses: &[&Broker]) -> Running {
    let (builder, office) = builder(addresses);
    run(builder, office)
}

fn run(builder: WorkerBuilder, office: Office) -> Running {
    let worker = builder.build().expect("a worker");
    Running { handle: worker.handle(), task: tokio::spawn(worker.run()), office }
}

fn failure(result: v1::JobResult) -> v1::Failure {
    match result.outcome {
        Some(Outcome::Failed(v1::Failed { failure: Some(failure), .. })) => failure,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn jobs_run_and_their_results_come_back() {
    let mut broker = Broker::start().await;
    let worker = start(&[&broker]);
    let (mut stream, hello) = broker.welcome(v1::Welcome::default()).await;
    assert_eq!(hello.tasks.len(), 5);
    stream.jobs(&[("a", "noop")]).await;
    let results = stream.results().await;
    assert_eq!((results.results_seq, results.succeeded), (1, vec![Bytes::from_static(b"a")]));
    let mut jobs = stream.jobs_frame(&[("b", "block"), ("c", "block")]);
    jobs.deliveries[0].args = Bytes::from_static(b"41");
    jobs.deliveries[1].args = Bytes::from_static(b"\"no number\"");
    stream.send(Down::Jobs(jobs)).await;
    let mut results = Vec::new();
    while results.len() < 2 {
        results.extend(stream.results().await.results);
    }
    results.sort_by_key(|result| result.lease_token.clone());
    assert_eq!(failure(results.remove(1)).kind, "InvalidArguments");
    assert!(matches!(&results[0].outcome, Some(Outcome::Succeeded(end)) if end.result == "42"));
    stream.ack(9).await;
    let status = worker.handle.wait_for(|status| status.counters.recorded == 3).await.expect("a worker");
    assert_eq!((status.held, status.running), (0, 0));
}

#[tokio::test]
async fn a_panic_becomes_a_failure() {
    let mut broker = Broker::start().await;
    let _worker = start(&[&broker]);
    let (mut stream, _) = broker.welcome(v1::Welcome::default()).await;
    stream.jobs(&[("a", "bang")]).await;
    let failure = failure(stream.result().await);
    assert_eq!(failure.kind, "panic");
    assert!(failure.message.contains("bang"), "{failure:?}");
}

#[tokio::test]
async fn a_reconnect_sends_unacknowledged_results_again() {
    let mut broker = Broker::start().await;
    let mut worker = start(&[&broker]);
    let (mut stream, hello) = broker.welcome(v1::Welcome::default()).await;
    assert!(hello.resume.is_none());
    stream.jobs(&[("ended", "noop"), ("runs", "hold")]).await;
    worker.office.hears("runs").await;
    assert_eq!(stream.results().await.succeeded, ["ended"]);
    stream.fail(tonic::Status::unknown("h2 protocol error")).await;
    let (mut stream, hello) = broker.welcome(v1::Welcome { resumed: true, ..v1::Welcome::default() }).await;
    let resume = hello.resume.expect("a resume");
    assert_eq!((resume.session_id.as_str(), &resume.resume_token[..]), ("s", &b"r"[..]));
    let mut tokens = resume.lease_tokens;
    tokens.sort();
    assert_eq!(tokens, ["ended", "runs"]);
    let results = stream.results().await;
    assert_eq!((results.results_seq, results.succeeded), (1, vec![Bytes::from_static(b"ended")]));
    stream.ack(1).await;
    worker.office.gate.add_permits(1);
    assert_eq!(stream.results().await.succeeded, ["runs"]);
}

#[tokio::test]
async fn a_lost_lease_cancels_its_handler_and_its_result_is_dropped() {
    let mut broker = Broker::start().await;
    let mut worker = start(&[&broker]);
    let (mut stream, _) = broker.welcome(v1::Welcome::default()).await;
    stream.jobs(&[("a", "hold")]).await;
    worker.office.hears("runs").await;
    let reason = v1::CancelReason::LeaseLost.into();
    stream.send(Down::CancelJob(v1::CancelJob { lease_token: "a".into(), reason })).await;
    worker.office.hears(&format!("{:?}", CancelCause::LeaseLost)).await;
    worker.handle.wait_for(|status| status.running == 0).await.expect("a worker");
    // Only what comes after it is answered for.
    stream.jobs(&[("b", "noop")]).await;
    let results = stream.results().await;
    assert_eq!((results.succeeded, results.results.len()), (vec![Bytes::from_static(b"b")], 0));
}

#[tokio::test]
async fn a_cancelled_job_is_told_and_answers() {
    let mut broker = Broker::start().await;
    let mut worker = start(&[&broker]);
    let (mut stream, _) = broker.welcome(v1::Welcome::default()).await;
    stream.jobs(&[("a", "hold")]).await;
    worker.office.hears("runs").await;
    let reason = v1::CancelReason::Requested.into();
    stream.send(Down::CancelJob(v1::CancelJob { lease_token: "a".into(), reason })).await;
    assert!(matches!(stream.result().await.outcome, Some(Outcome::Cancelled(end)) if end.message == "told to"));
}

#[tokio::test]
async fn an_attempt_that_takes_too_long_is_aborted_and_fails() {
    let mut broker = Broker::start().await;
    let mut worker = start(&[&broker]);
    let (mut stream, _) = broker.welcome(v1::Welcome::default()).await;
    let mut jobs = stream.jobs_frame(&[("a", "stubborn")]);
    jobs.deliveries[0].attempt_timeout = Some(prost_types::Duration { seconds: 0, nanos: 10_000_000 });
    stream.send(Down::Jobs(jobs)).await;
    worker.office.hears("runs").await;
    assert_eq!(failure(stream.result().await).kind, "Timeout");
    worker.handle.wait_for(|status| status.running == 0).await.expect("a worker");
}

#[tokio::test]
async fn a_stop_drains_finishes_gives_back_and_half_closes() {
    let mut broker = Broker::start().await;
    let (builder, office) = builder(&[&broker]);
    let mut worker = run(builder.concurrency(1).prefetch(5), office);
    let (mut stream, hello) = broker.welcome(v1::Welcome::default()).await;
    assert_eq!(hello.capacity.map(|capacity| capacity.max_jobs), Some(6));
    stream.jobs(&[("runs", "hold"), ("queued", "noop")]).await;
    worker.office.hears("runs").await;
    worker.handle.stop();
    assert!(matches!(stream.frame().await, Some(Up::Drain(_))));
    assert!(matches!(stream.frame().await, Some(Up::Capacity(capacity)) if capacity.paused));
    let result = stream.result().await;
    assert_eq!(result.lease_token, "queued");
    assert!(matches!(result.outcome, Some(Outcome::Released(_))));
    // One more was on its way before the broker knew.
    stream.jobs(&[("late", "noop")]).await;
    stream.send(Down::DrainAck(v1::DrainAck { last_seq: 2 })).await;
    assert_eq!(stream.result().await.lease_token, "late");
    worker.office.gate.add_permits(1);
    let results = stream.results().await;
    assert_eq!((results.results_seq, results.succeeded), (3, vec![Bytes::from_static(b"runs")]));
    stream.ack(3).await;
    assert!(stream.next().await.is_none(), "the worker half-closes after the last acknowledgement");
    drop(stream);
    let status = worker.task.await.expect("no panic");
    assert_eq!((status.held, status.counters.recorded), (0, 3));
}

#[tokio::test]
async fn a_second_stop_gives_everything_back_at_once() {
    let mut broker = Broker::start().await;
    let mut worker = start(&[&broker]);
    let (mut stream, _) = broker.welcome(v1::Welcome::default()).await;
    stream.jobs(&[("a", "stubborn")]).await;
    worker.office.hears("runs").await;
    worker.handle.stop();
    assert!(matches!(stream.frame().await, Some(Up::Drain(_))));
    worker.handle.stop_now();
    assert!(matches!(stream.frame().await, Some(Up::Capacity(_))));
    assert!(matches!(stream.result().await.outcome, Some(Outcome::Released(_))));
    stream.send(Down::DrainAck(v1::DrainAck { last_seq: 1 })).await;
    stream.ack(1).await;
    assert!(stream.next().await.is_none());
    drop(stream);
    assert_eq!(worker.task.await.expect("no panic").counters.other_ends, 1);
}

#[tokio::test]
async fn silence_makes_the_worker_open_another_stream() {
    let mut broker = Broker::start().await;
    let _worker = start(&[&broker]);
    let quick = |millis: i32| Some(prost_types::Duration { seconds: 0, nanos: millis * 1_000_000 });
    let welcome = v1::Welcome { beat: quick(50), watchdog: quick(200), ..v1::Welcome::default() };
    // This stream stays open, and says nothing.
    let (_silent, _) = broker.welcome(welcome).await;
    let (_stream, hello) = broker.welcome(v1::Welcome::default()).await;
    assert!(hello.resume.is_some());
}

#[tokio::test]
async fn frames_of_another_nonce_are_dropped() {
    let mut broker = Broker::start().await;
    let worker = start(&[&broker]);
    let (mut stream, _) = broker.welcome(v1::Welcome::default()).await;
    let jobs = stream.jobs_frame(&[("stale", "noop")]);
    stream.send_as((TERM.0, TERM.1 + 1), Down::Jobs(jobs)).await;
    stream.jobs(&[("a", "noop")]).await;
    assert_eq!(stream.results().await.succeeded, ["a"]);
    assert_eq!(worker.handle.status().counters.dropped_frames, 1);
}

#[tokio::test]
async fn a_broker_that_is_not_the_owner_is_left_for_the_next() {
    let (mut one, mut other) = (Broker::start().await, Broker::start().await);
    let _worker = start(&[&one, &other]);
    let details = tonic_types::ErrorDetails::with_error_info("NOT_OWNER", "cabbage", []);
    let refusal = tonic::Status::with_error_details(tonic::Code::Unavailable, "not the owner", details);
    // Which one comes first is up to the worker.
    let (_stream, _) = tokio::select! {
        stream = one.stream() => {
            stream.fail(refusal).await;
            other.welcome(v1::Welcome::default()).await
        }
        stream = other.stream() => {
            stream.fail(refusal).await;
            one.welcome(v1::Welcome::default()).await
        }
    };
}

#[tokio::test]
async fn a_leaving_broker_is_left_without_losing_a_job() {
    let (mut one, mut other) = (Broker::start().await, Broker::start().await);
    let mut worker = start(&[&one, &other]);
    let (mut old, mut next_broker) = tokio::select! {
        (stream, _) = one.welcome(v1::Welcome::default()) => (stream, other),
        (stream, _) = other.welcome(v1::Welcome::default()) => (stream, one),
    };
    old.jobs(&[("a", "hold")]).await;
    worker.office.hears("runs").await;
    old.send(Down::BrokerDrain(v1::BrokerDrain::default())).await;
    let (mut new, hello) = next_broker.welcome(v1::Welcome { resumed: true, ..v1::Welcome::default() }).await;
    assert_eq!(hello.resume.expect("a resume").lease_tokens, ["a"]);
    assert!(old.frame().await.is_none(), "the old stream is half-closed");
    worker.office.gate.add_permits(1);
    assert_eq!(new.results().await.succeeded, ["a"]);
}

#[tokio::test]
async fn a_worker_stops_when_it_has_caught_up() {
    let mut broker = Broker::start().await;
    let (builder, _office) = builder(&[&broker]);
    let worker = tokio::spawn(builder.build().expect("a worker").run_until_caught_up());
    let (mut stream, hello) = broker.welcome(v1::Welcome::default()).await;
    assert_eq!(hello.capabilities, ["owner-changed", "caught-up"]);
    stream.jobs(&[("a", "noop")]).await;
    assert_eq!(stream.results().await.succeeded, ["a"]);
    stream.ack(1).await;
    stream.send(Down::CaughtUp(v1::CaughtUp { last_seq: 1 })).await;
    assert!(matches!(stream.frame().await, Some(Up::Drain(_))));
    stream.send(Down::DrainAck(v1::DrainAck { last_seq: 1 })).await;
    while stream.next().await.is_some() {}
    drop(stream);
    assert_eq!(worker.await.expect("no panic").counters.recorded, 1);
}

#[tokio::test]
async fn many_jobs_share_few_frames() {
    const JOBS: usize = 2_000;
    let mut broker = Broker::start().await;
    let (builder, office) = builder(&[&broker]);
    let _worker = run(builder.concurrency(JOBS), office);
    let (mut stream, _) = broker.welcome(v1::Welcome::default()).await;
    let mut jobs = stream.jobs_frame(&[("a", "noop")]);
    let model = jobs.deliveries.remove(0);
    jobs.deliveries = (0..JOBS as u32)
        .map(|number| v1::Delivery { lease_token: number.to_be_bytes().to_vec().into(), ..model.clone() })
        .collect();
    stream.send(Down::Jobs(jobs)).await;
    let (mut results, mut frames) = (0, 0);
    while results < JOBS {
        results += stream.results().await.succeeded.len();
        frames += 1;
    }
    assert!(frames <= JOBS / 20, "{frames} frames");
}

#[tokio::test]
async fn a_token_stops_a_worker_and_results_wait_for_the_next_broker() {
    let mut broker = Broker::start().await;
    let token = tokio_util::sync::CancellationToken::new();
    let (builder, office) = builder(&[&broker]);
    let mut worker = run(builder.stop_on(token.clone()).drain_timeout(Duration::from_secs(10)), office);
    let (mut stream, _) = broker.welcome(v1::Welcome::default()).await;
    stream.jobs(&[("a", "hold")]).await;
    worker.office.hears("runs").await;
    token.cancel();
    assert!(matches!(stream.frame().await, Some(Up::Drain(_))));
    drop(stream);
    worker.office.gate.add_permits(1);
    let (mut stream, hello) = broker.welcome(v1::Welcome { resumed: true, ..v1::Welcome::default() }).await;
    assert!(hello.capacity.is_some_and(|capacity| capacity.paused));
    assert!(matches!(stream.frame().await, Some(Up::Drain(_))));
    assert_eq!(stream.results().await.succeeded, ["a"]);
    stream.send(Down::DrainAck(v1::DrainAck::default())).await;
    stream.ack(1).await;
    assert!(stream.next().await.is_none());
    drop(stream);
    assert_eq!(worker.task.await.expect("no panic").counters.recorded, 1);
}
