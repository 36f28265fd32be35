//! Handlers that say when they run, and wait until they are let go.

use std::sync::Arc;

use cabbage_worker::{Context, JobInfo, TaskError, WorkerBuilder};
use tokio::sync::{Semaphore, mpsc};

use crate::scene::{Running, Scene, noop, soon};

/// More than there ever are jobs.
const EVERYBODY: usize = 10_000;

/// What handlers have of it.
pub(crate) struct Desk {
    runs: mpsc::UnboundedSender<i64>,
    gate: Semaphore,
}

/// What the test has of it.
pub(crate) struct Office {
    desk: Arc<Desk>,
    runs: mpsc::UnboundedReceiver<i64>,
}

impl Office {
    pub(crate) fn new() -> Self {
        let (runs, hears) = mpsc::unbounded_channel();
        Self { desk: Arc::new(Desk { runs, gate: Semaphore::new(0) }), runs: hears }
    }

    /// A worker of `hold`, of `block`, which does the same on a thread of its own, and of `noop`.
    pub(crate) fn worker(&self, broker: &Scene) -> WorkerBuilder {
        let worker = broker.worker().shared_state(self.desk.clone());
        let block = |(): (), ctx: Context<Desk>| block(ctx.state(), ctx.job());
        worker.function("hold", hold).blocking("block", block).function("noop", noop)
    }

    /// Starts such a worker, and waits until it runs this job.
    pub(crate) async fn at_work(&mut self, broker: &Scene, job: i64) -> Running {
        let worker = Running::start(self.worker(broker));
        assert_eq!(self.next().await, job);
        worker
    }

    /// The next job that says that it runs.
    pub(crate) async fn next(&mut self) -> i64 {
        soon(self.runs.recv()).await.expect("the test has a desk itself")
    }

    /// The jobs that said that they run and were not looked at.
    pub(crate) fn rest(&mut self) -> Vec<i64> {
        std::iter::from_fn(|| self.runs.try_recv().ok()).collect()
    }

    /// Lets one job end.
    pub(crate) fn let_one_go(&self) {
        self.desk.gate.add_permits(1);
    }

    /// Lets all jobs end, also those that come later.
    pub(crate) fn open(&self) {
        self.desk.gate.add_permits(EVERYBODY);
    }
}

/// Listens to nobody.
async fn hold((): (), ctx: Context<Desk>) -> Result<(), TaskError> {
    ctx.state().runs.send(ctx.id())?;
    ctx.state().gate.acquire().await?.forget();
    Ok(())
}

/// Listens to nobody but the end of its worker, which would wait for its thread.
fn block(desk: &Desk, job: &JobInfo) -> Result<(), TaskError> {
    desk.runs.send(job.id())?;
    loop {
        if let Ok(permit) = desk.gate.try_acquire() {
            permit.forget();
            return Ok(());
        }
        if job.is_cancelled() {
            return Err(TaskError::cancelled("told to"));
        }
        std::thread::yield_now();
    }
}
