//! Workers that are told to stop.

use std::time::Duration;

use cabbage_worker::{
    RetryPolicy, WorkerHandle,
    v1::{self, JobState, Verdict},
};
use tokio_util::sync::CancellationToken;

use crate::{
    both::on_both_stores,
    office::Office,
    scene::{On, Running, Scene, defer, end_of, noop, only_job, run, soon, states},
};

on_both_stores! {
    a_stop_waits_for_running_jobs_and_starts_no_others,
    a_job_that_a_stop_aborts_goes_back_without_an_attempt,
    a_job_that_a_user_cancelled_does_not_go_back_when_a_stop_aborts_it,
    a_second_stop_ends_at_once_although_a_handler_runs,
    a_blocking_handler_that_a_stop_cannot_wait_for_goes_back_as_well,
    what_ended_before_a_stop_stays_ended,
    a_token_stops_an_idle_worker,
    a_stop_before_the_run_is_not_lost,
    a_stop_after_the_end_does_nothing,
}

async fn is_stopping(handle: &WorkerHandle) {
    soon(handle.wait_for(|status| status.stopping)).await.expect("a worker");
}

async fn a_stop_waits_for_running_jobs_and_starts_no_others(on: On) {
    let broker = Scene::start(on).await;
    let job = defer(&broker, "hold").await;
    let mut office = Office::new();
    let worker = office.at_work(&broker, job).await;
    worker.handle.stop();
    is_stopping(&worker.handle).await;
    let later = defer(&broker, "noop").await;
    office.open();
    let status = worker.ends().await;
    assert_eq!((status.counters.succeeded, status.held), (1, 0));
    assert_eq!(end_of(&broker, job).await.state(), JobState::Succeeded);
    assert_eq!(broker.client().get(later).await.expect("a job").state(), JobState::Waiting);
}

async fn a_job_that_a_stop_aborts_goes_back_without_an_attempt(on: On) {
    let broker = Scene::start(on).await;
    // One attempt only, which this is not.
    let job = broker.client().defer_named("hold", ()).retry(RetryPolicy::none()).await.expect("a job").job_id;
    let mut office = Office::new();
    let worker = office.at_work(&broker, job).await;
    worker.handle.stop_within(Duration::ZERO);
    worker.ends().await;
    let back = only_job(&broker).await;
    assert_eq!((back.state(), back.attempts, back.deliveries), (JobState::Waiting, 0, 1));
    assert_eq!(back.history.last().map(v1::Attempt::verdict), Some(Verdict::Released));
    // Another worker runs it.
    office.open();
    run(office.worker(&broker)).await;
    assert_eq!(end_of(&broker, job).await.state(), JobState::Succeeded);
}

async fn a_job_that_a_user_cancelled_does_not_go_back_when_a_stop_aborts_it(on: On) {
    let broker = Scene::start(on).await;
    let job = broker.client().defer_named("hold", ()).retry(RetryPolicy::forever()).await.expect("a job").job_id;
    let mut office = Office::new();
    let worker = office.at_work(&broker, job).await;
    broker.client().cancel(job, "").await.expect("the broker takes it");
    worker.handle.stop_within(Duration::ZERO);
    worker.ends().await;
    assert_eq!(end_of(&broker, job).await.state(), JobState::Cancelled);
}

async fn a_second_stop_ends_at_once_although_a_handler_runs(on: On) {
    let broker = Scene::start(on).await;
    let job = defer(&broker, "hold").await;
    let mut office = Office::new();
    let worker = office.at_work(&broker, job).await;
    worker.handle.stop_within(Duration::from_hours(1));
    is_stopping(&worker.handle).await;
    worker.handle.stop_now();
    let status = worker.ends().await;
    assert_eq!((status.running, status.counters.other_ends), (0, 1));
    assert_eq!(only_job(&broker).await.state(), JobState::Waiting);
}

async fn a_blocking_handler_that_a_stop_cannot_wait_for_goes_back_as_well(on: On) {
    let broker = Scene::start(on).await;
    let job = defer(&broker, "block").await;
    let mut office = Office::new();
    let worker = office.at_work(&broker, job).await;
    worker.handle.stop_within(Duration::ZERO);
    worker.ends().await;
    let back = only_job(&broker).await;
    assert_eq!((back.state(), back.attempts), (JobState::Waiting, 0));
}

async fn what_ended_before_a_stop_stays_ended(on: On) {
    let broker = Scene::start(on).await;
    let done = defer(&broker, "noop").await;
    let job = defer(&broker, "hold").await;
    let mut office = Office::new();
    let worker = office.at_work(&broker, job).await;
    assert_eq!(end_of(&broker, done).await.state(), JobState::Succeeded);
    worker.handle.stop_within(Duration::ZERO);
    worker.ends().await;
    assert_eq!(states(&broker).await, [JobState::Succeeded, JobState::Waiting]);
}

async fn a_token_stops_an_idle_worker(on: On) {
    let broker = Scene::start(on).await;
    let token = CancellationToken::new();
    let worker = Running::start(broker.worker().function("noop", noop).stop_on(token.clone()));
    soon(worker.handle.wait_for(|status| status.connected)).await.expect("a worker");
    token.cancel();
    assert!(worker.ends().await.stopping);
}

async fn a_stop_before_the_run_is_not_lost(on: On) {
    let broker = Scene::start(on).await;
    defer(&broker, "noop").await;
    let worker = broker.worker().function("noop", noop).build().expect("a worker");
    worker.handle().stop();
    let status = soon(worker.run()).await;
    assert_eq!(status.counters.started, 0);
    assert_eq!(only_job(&broker).await.state(), JobState::Waiting);
}

async fn a_stop_after_the_end_does_nothing(on: On) {
    let broker = Scene::start(on).await;
    let worker = Running::start(broker.worker().function("noop", noop));
    let handle = worker.handle.clone();
    worker.stop().await;
    handle.stop();
    handle.stop_now();
    assert!(handle.wait_for(|status| status.connected).await.is_none());
}
