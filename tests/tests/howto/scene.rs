//! What several pages need.

use std::time::Duration;

use cabbage_worker::{
    Context, Status, TaskError, WorkerBuilder, WorkerHandle,
    testing::TestBroker,
    v1::{Job, JobState},
};
use serde::de::IgnoredAny;
use tokio::{task::JoinHandle, time::timeout};

/// Nothing is waited for longer than this.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// A handler that does nothing, whatever the arguments.
pub(crate) async fn noop(_: IgnoredAny, _: Context) -> Result<(), TaskError> {
    Ok(())
}

/// The states of all jobs.
pub(crate) async fn states(broker: &TestBroker) -> Vec<JobState> {
    broker.jobs().await.iter().map(Job::state).collect()
}

/// A worker that runs beside a page.
pub(crate) struct Serving {
    handle: WorkerHandle,
    task: JoinHandle<Status>,
}

impl Serving {
    pub(crate) fn start(worker: WorkerBuilder) -> Self {
        let worker = worker.build().expect("a worker");
        Self { handle: worker.handle(), task: tokio::spawn(worker.run()) }
    }

    pub(crate) async fn stop(self) {
        self.handle.stop();
        timeout(PATIENCE, self.task).await.expect("in time").expect("no panic");
    }
}
