//! Workers that are told to stop.

use std::time::Duration;

use cabbage_worker::{
    Context, RetryPolicy, TaskError, WorkerBuilder, WorkerHandle,
    testing::TestBroker,
    v1::{self, JobState, Verdict},
};
use tokio::sync::{mpsc, watch};

use crate::scene::{Running, defer, end_of, noop, only_job, run, soon};

/// Where handlers say that they run, and what they wait for.
struct Desk {
    runs: mpsc::UnboundedSender<i64>,
    gate: watch::Receiver<bool>,
}

struct Office {
    runs: mpsc::UnboundedReceiver<i64>,
    gate: watch::Sender<bool>,
}

/// Waits at the gate, and listens to nobody.
async fn hold((): (), ctx: Context<Desk>) -> Result<(), TaskError> {
    ctx.state().runs.send(ctx.id())?;
    ctx.state().gate.clone().wait_for(|open| *open).await?;
    Ok(())
}

fn worker(broker: &TestBroker) -> (WorkerBuilder, Office) {
    let (runs, hears) = mpsc::unbounded_channel();
    let gate = watch::Sender::new(false);
    let desk = Desk { runs, gate: gate.subscribe() };
    (broker.worker().state(desk).function("hold", hold).function("noop", noop), Office { runs: hears, gate })
}

/// A worker that has started the job.
async fn at_work(broker: &TestBroker, job: i64) -> (Running, Office) {
    let (worker, mut office) = worker(broker);
    let running = Running::start(worker);
    assert_eq!(soon(office.runs.recv()).await, Some(job));
    (running, office)
}

async fn is_stopping(handle: &WorkerHandle) {
    soon(handle.wait_for(|status| status.stopping)).await.expect("a worker");
}

#[tokio::test]
async fn a_stop_waits_for_running_jobs_and_starts_no_others() {
    let broker = TestBroker::start().await;
    let job = defer(&broker, "hold").await;
    let (worker, office) = at_work(&broker, job).await;
    worker.handle.stop();
    is_stopping(&worker.handle).await;
    let later = defer(&broker, "noop").await;
    office.gate.send_replace(true);
    let status = worker.ends().await;
    assert_eq!((status.counters.succeeded, status.held), (1, 0));
    assert_eq!(end_of(&broker, job).await.state(), JobState::Succeeded);
    assert_eq!(broker.client().get(later).await.expect("a job").state(), JobState::Waiting);
}

#[tokio::test]
async fn a_job_that_a_stop_aborts_goes_back_without_an_attempt() {
    let broker = TestBroker::start().await;
    // One attempt only, which this is not.
    let job = broker.client().defer_named("hold", ()).retry(RetryPolicy::none()).await.expect("a job").job_id;
    let (worker, _office) = at_work(&broker, job).await;
    worker.handle.stop_within(Duration::ZERO);
    worker.ends().await;
    let back = only_job(&broker).await;
    assert_eq!((back.state(), back.attempts, back.deliveries), (JobState::Waiting, 0, 1));
    assert_eq!(back.history.last().map(v1::Attempt::verdict), Some(Verdict::Released));
    // Another worker runs it.
    let (worker, office) = worker_with_open_gate(&broker);
    run(&broker, worker).await;
    drop(office);
    assert_eq!(end_of(&broker, job).await.state(), JobState::Succeeded);
}

fn worker_with_open_gate(broker: &TestBroker) -> (WorkerBuilder, Office) {
    let (worker, office) = worker(broker);
    office.gate.send_replace(true);
    (worker, office)
}

#[tokio::test]
async fn a_job_that_a_user_cancelled_does_not_go_back_when_a_stop_aborts_it() {
    let broker = TestBroker::start().await;
    let job = broker.client().defer_named("hold", ()).retry(RetryPolicy::forever()).await.expect("a job").job_id;
    let (worker, _office) = at_work(&broker, job).await;
    broker.client().cancel(job, "").await.expect("the broker takes it");
    worker.handle.stop_within(Duration::ZERO);
    worker.ends().await;
    assert_eq!(end_of(&broker, job).await.state(), JobState::Cancelled);
}

#[tokio::test]
async fn a_second_stop_ends_at_once_although_a_handler_runs() {
    let broker = TestBroker::start().await;
    let job = defer(&broker, "hold").await;
    let (worker, _office) = at_work(&broker, job).await;
    worker.handle.stop_within(Duration::from_hours(1));
    is_stopping(&worker.handle).await;
    worker.handle.stop_now();
    let status = worker.ends().await;
    assert_eq!((status.running, status.counters.other_ends), (0, 1));
    assert_eq!(only_job(&broker).await.state(), JobState::Waiting);
}

#[tokio::test]
async fn a_stop_before_the_run_is_not_lost() {
    let broker = TestBroker::start().await;
    defer(&broker, "noop").await;
    let worker = broker.worker().function("noop", noop).build().expect("a worker");
    worker.handle().stop();
    let status = soon(worker.run()).await;
    assert_eq!(status.counters.started, 0);
    assert_eq!(only_job(&broker).await.state(), JobState::Waiting);
}

#[tokio::test]
async fn a_stop_after_the_end_does_nothing() {
    let broker = TestBroker::start().await;
    let worker = Running::start(broker.worker().function("noop", noop));
    let handle = worker.handle.clone();
    worker.stop().await;
    handle.stop();
    handle.stop_now();
    assert!(handle.wait_for(|status| status.connected).await.is_none());
}
