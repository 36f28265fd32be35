//! Signals of the operating system. One test alone in its process, since a signal goes to all of it.
#![cfg(unix)]

use std::time::Duration;

use cabbage_worker::{Context, TaskError, testing::TestBroker, v1::JobState};
use rustix::process::{Signal, getpid, kill_process};
use tokio::{sync::mpsc, time::timeout};

const PATIENCE: Duration = Duration::from_mins(1);

#[tokio::test]
async fn a_signal_drains_and_a_second_one_ends_at_once() {
    let broker = TestBroker::start().await;
    let (runs, mut hears) = mpsc::unbounded_channel::<i64>();
    // Never ends, and listens to nobody.
    let stubborn = |(): (), ctx: Context<mpsc::UnboundedSender<i64>>| async move {
        ctx.state().send(ctx.id())?;
        std::future::pending::<Result<(), TaskError>>().await
    };
    let worker = broker.worker().state(runs).function("stubborn", stubborn).handle_signals();
    let worker = worker.drain_timeout(Duration::from_hours(1)).build().expect("a worker");
    let handle = worker.handle();
    let worker = tokio::spawn(worker.run());
    let job = broker.client().defer_named("stubborn", ()).await.expect("a job").job_id;
    assert_eq!(timeout(PATIENCE, hears.recv()).await.expect("in time"), Some(job));

    kill_process(getpid(), Signal::TERM).expect("a signal to this process");
    let status = timeout(PATIENCE, handle.wait_for(|status| status.stopping)).await.expect("in time");
    assert_eq!(status.expect("it drains, and has not ended").running, 1);

    kill_process(getpid(), Signal::INT).expect("a signal to this process");
    let status = timeout(PATIENCE, worker).await.expect("in time").expect("no panic");
    assert_eq!((status.running, status.counters.other_ends), (0, 1));
    assert_eq!(broker.client().get(job).await.expect("a job").state(), JobState::Waiting);
}
