//! Handlers that take longer than a silent session lives.

use std::time::Duration;

use cabbage_worker::{Context, TaskError, v1::JobState};
use tokio::sync::mpsc;

use crate::{
    both::on_both_stores,
    scene::{On, Running, Scene, defer, soon},
};

on_both_stores! {
    long_handlers_keep_their_leases_also_during_a_drain,
}

/// Where handlers say that they run.
type Desk = mpsc::UnboundedSender<i64>;

/// Longer than a session without a sign of life. It is the work that takes so long; nothing is waited for.
const WORK: Duration = Duration::from_secs(6);

async fn long_handlers_keep_their_leases_also_during_a_drain(on: On) {
    let broker = Scene::start_with(on, |args| {
        args.intervals.beat_ms = 50;
        args.intervals.watchdog_ms = 1_000;
        args.intervals.grace_ms = 3_000;
        args.intervals.session_ms = 4_000;
    })
    .await;
    let (desk, mut runs) = mpsc::unbounded_channel::<i64>();
    let work = |(): (), ctx: Context<Desk>| async move {
        ctx.state().send(ctx.id())?;
        tokio::time::sleep(WORK).await;
        Ok::<_, TaskError>(())
    };
    let block = |(): (), ctx: Context<Desk>| {
        ctx.state().send(ctx.id())?;
        std::thread::sleep(WORK);
        Ok::<_, TaskError>(())
    };
    let worker = broker.worker().state(desk).function("work", work).blocking("block", block);
    let serving = Running::start(worker);
    for task in ["work", "block"] {
        defer(&broker, task).await;
        soon(runs.recv()).await.expect("it runs");
    }
    // Half of the time it serves, the other half it drains.
    tokio::time::sleep(WORK / 2).await;
    let status = serving.stop().await;
    assert_eq!((status.counters.recorded, status.counters.lost, status.counters.started), (2, 0, 2));
    for job in broker.jobs().await {
        assert_eq!((job.state(), job.attempts, job.deliveries), (JobState::Succeeded, 1, 1));
    }
}
