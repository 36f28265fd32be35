//! How many handlers run at once, and when a worker has run all there is.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use cabbage_worker::{Batch, Context, NewJob, TaskError, v1::JobState};
use tokio::sync::Barrier;

use crate::{
    both::on_both_stores,
    scene::{On, Scene, noop, run, states},
};

on_both_stores! {
    as_many_handlers_run_at_once_as_allowed_and_never_more,
    two_blocking_tasks_overlap,
    a_worker_that_runs_what_is_there_stops_when_nothing_is_left,
    a_worker_that_runs_what_is_there_runs_what_its_jobs_defer,
}

async fn defer_many(broker: &Scene, task: &str, jobs: usize) {
    let batch: Batch = (0..jobs).map(|_| NewJob::named(task)).collect();
    broker.client().defer_all(batch).await.expect("jobs");
}

async fn as_many_handlers_run_at_once_as_allowed_and_never_more(on: On) {
    const CONCURRENCY: usize = 5;
    struct Crowd {
        now: AtomicUsize,
        most: AtomicUsize,
        full: Barrier,
    }
    async fn meet((): (), ctx: Context<Crowd>) -> Result<(), TaskError> {
        let crowd = ctx.state();
        let now = crowd.now.fetch_add(1, Ordering::SeqCst) + 1;
        crowd.most.fetch_max(now, Ordering::SeqCst);
        // Nobody leaves before the room is full.
        crowd.full.wait().await;
        crowd.now.fetch_sub(1, Ordering::SeqCst);
        Ok(())
    }
    let broker = Scene::start(on).await;
    defer_many(&broker, "meet", CONCURRENCY * 8).await;
    let crowd = Crowd { now: AtomicUsize::new(0), most: AtomicUsize::new(0), full: Barrier::new(CONCURRENCY) };
    let crowd = Arc::new(crowd);
    let worker = broker.worker().shared_state(crowd.clone()).function("meet", meet);
    let status = run(worker.concurrency(CONCURRENCY).prefetch(7)).await;
    assert_eq!(status.counters.succeeded, 40);
    assert_eq!(crowd.most.load(Ordering::SeqCst), CONCURRENCY);
}

async fn two_blocking_tasks_overlap(on: On) {
    let broker = Scene::start(on).await;
    defer_many(&broker, "meet", 2).await;
    let meet = |(): (), ctx: Context<std::sync::Barrier>| {
        ctx.state().wait();
        Ok::<_, TaskError>(())
    };
    let worker = broker.worker().state(std::sync::Barrier::new(2)).blocking("meet", meet);
    run(worker.concurrency(2)).await;
    assert_eq!(states(&broker).await, [JobState::Succeeded; 2]);
}

async fn a_worker_that_runs_what_is_there_stops_when_nothing_is_left(on: On) {
    let broker = Scene::start(on).await;
    for concurrency in [1, 2] {
        for jobs in [0, 1, 2, 4] {
            defer_many(&broker, "noop", jobs).await;
            let worker = broker.worker().function("noop", noop).concurrency(concurrency);
            let status = run(worker).await;
            assert_eq!((status.counters.recorded, status.held), (jobs as u64, 0), "concurrency {concurrency}");
        }
    }
    assert_eq!(states(&broker).await, [JobState::Succeeded; 14]);
}

async fn a_worker_that_runs_what_is_there_runs_what_its_jobs_defer(on: On) {
    let broker = Scene::start(on).await;
    let countdown = |left: u32, ctx: Context<cabbage_worker::Client>| async move {
        if left > 0 {
            ctx.state().defer_named("countdown", left - 1).await?;
        }
        Ok::<_, TaskError>(())
    };
    broker.client().defer_named("countdown", 3).await.expect("a job");
    let worker = broker.worker().state(broker.client().clone()).function("countdown", countdown);
    run(worker).await;
    assert_eq!(states(&broker).await, [JobState::Succeeded; 4]);
}
