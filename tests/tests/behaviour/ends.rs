//! Ends of deliveries that come twice, or too late (C5, C6).

use std::time::Duration;

use bytes::Bytes;
use cabbage_proto::v1::{self, SettleCode, job_result::Outcome, worker_service_client::WorkerServiceClient};
use cabbage_worker::{Context, TaskError, WorkerBuilder, v1::JobState};
use tokio::sync::{Semaphore, mpsc};

use crate::{
    both::on_both_stores,
    scene::{On, Running, Scene, defer, end_of, only_job, soon},
};

on_both_stores! {
    an_end_that_is_told_again_is_known_and_another_one_is_a_conflict,
    a_late_end_of_a_lease_that_is_over_changes_nothing,
}

/// Where handlers leave their lease tokens, and what they wait for.
struct Desk {
    tokens: mpsc::UnboundedSender<Bytes>,
    gate: Semaphore,
}

async fn leave_token((): (), ctx: Context<Desk>) -> Result<(), TaskError> {
    ctx.state().tokens.send(ctx.lease_token().clone())?;
    ctx.state().gate.acquire().await?.forget();
    Ok(())
}

/// A worker that lets so many jobs end.
fn worker(broker: &Scene, permits: usize) -> (WorkerBuilder, mpsc::UnboundedReceiver<Bytes>) {
    let (tokens, left) = mpsc::unbounded_channel();
    let desk = Desk { tokens, gate: Semaphore::new(permits) };
    (broker.worker().state(desk).function("leave token", leave_token), left)
}

/// Tells an end outside of any stream.
async fn settle(broker: &Scene, token: &Bytes, outcome: Outcome) -> SettleCode {
    let address = format!("http://{}", broker.address());
    let mut service = WorkerServiceClient::connect(address).await.expect("the broker answers");
    let result = v1::JobResult { lease_token: token.clone(), outcome: Some(outcome) };
    let answer = service.settle_jobs(v1::SettleJobsRequest { results: vec![result] }).await.expect("an answer");
    answer.into_inner().results[0].code()
}

fn succeeded() -> Outcome {
    Outcome::Succeeded(v1::Succeeded::default())
}

async fn an_end_that_is_told_again_is_known_and_another_one_is_a_conflict(on: On) {
    let broker = Scene::start(on).await;
    let job = defer(&broker, "leave token").await;
    let (worker, mut left) = worker(&broker, 1);
    let worker = Running::start(worker);
    let token = soon(left.recv()).await.expect("a token");
    end_of(&broker, job).await;
    worker.stop().await;
    assert_eq!(settle(&broker, &token, succeeded()).await, SettleCode::AlreadyRecorded);
    assert_eq!(settle(&broker, &token, Outcome::Failed(v1::Failed::default())).await, SettleCode::VerdictConflict);
    let job = only_job(&broker).await;
    assert_eq!((job.state(), job.attempts, job.history.len()), (JobState::Succeeded, 1, 1));
}

async fn a_late_end_of_a_lease_that_is_over_changes_nothing(on: On) {
    let broker = Scene::start(on).await;
    let job = defer(&broker, "leave token").await;
    let (first, mut left) = worker(&broker, 0);
    let first = Running::start(first);
    let old = soon(left.recv()).await.expect("a token");
    first.handle.stop_within(Duration::ZERO);
    first.ends().await;
    // Another worker runs the job by now.
    let (second, mut left) = worker(&broker, 0);
    let second = Running::start(second);
    let new = soon(left.recv()).await.expect("a token");
    assert_ne!(old, new);
    assert_eq!(settle(&broker, &old, succeeded()).await, SettleCode::LeaseLost);
    assert_eq!(broker.client().get(job).await.expect("a job").state(), JobState::Running);
    assert_eq!(settle(&broker, &new, succeeded()).await, SettleCode::Recorded);
    second.handle.stop_now();
    second.ends().await;
    let job = only_job(&broker).await;
    assert_eq!((job.state(), job.attempts, job.deliveries), (JobState::Succeeded, 1, 2));
}
