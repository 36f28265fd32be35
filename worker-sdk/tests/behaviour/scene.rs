//! What several suites need.

use std::{future::Future, time::Duration};

use cabbage_worker::{
    Context, Status, TaskError, WorkerBuilder, WorkerHandle,
    testing::TestBroker,
    v1::{self, JobState},
};
use serde::de::DeserializeOwned;
use tokio::{task::JoinHandle, time::timeout};

/// Nothing is waited for longer than this; a test that gets here has failed.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

pub(crate) async fn noop((): (), _: Context) -> Result<(), TaskError> {
    Ok(())
}

/// Fails if it takes far too long.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(PATIENCE, what).await.expect("in time")
}

/// Runs what is there.
pub(crate) async fn run(broker: &TestBroker, worker: WorkerBuilder) -> Status {
    soon(broker.run(worker)).await.expect("a worker")
}

/// The result of a job, once it has one.
pub(crate) async fn result<O: DeserializeOwned>(broker: &TestBroker, job_id: i64) -> O {
    soon(broker.client().result_as(job_id)).await.expect("a result")
}

/// Defers a job of this task, without arguments.
pub(crate) async fn defer(broker: &TestBroker, task: &str) -> i64 {
    broker.client().defer_named(task, ()).await.expect("a job").job_id
}

/// The states of all jobs.
pub(crate) async fn states(broker: &TestBroker) -> Vec<JobState> {
    broker.jobs().await.iter().map(v1::Job::state).collect()
}

/// The only job.
pub(crate) async fn only_job(broker: &TestBroker) -> v1::Job {
    let mut jobs = broker.jobs().await;
    assert_eq!(jobs.len(), 1, "{jobs:?}");
    jobs.remove(0)
}

/// The job, once it is final.
pub(crate) async fn end_of(broker: &TestBroker, job_id: i64) -> v1::Job {
    broker.client().wait_at_most(job_id, PATIENCE).await.expect("a final job");
    broker.client().get_full(job_id).await.expect("a job")
}

/// What went wrong in the last attempt of a job.
pub(crate) fn failure(job: &v1::Job) -> v1::Failure {
    job.last_attempt.clone().and_then(|attempt| attempt.failure).unwrap_or_default()
}

/// A worker that runs beside the test.
pub(crate) struct Running {
    pub(crate) handle: WorkerHandle,
    task: JoinHandle<Status>,
}

impl Running {
    pub(crate) fn start(worker: WorkerBuilder) -> Self {
        let worker = worker.build().expect("a worker");
        Self { handle: worker.handle(), task: tokio::spawn(worker.run()) }
    }

    /// Waits for its end.
    pub(crate) async fn ends(self) -> Status {
        soon(self.task).await.expect("no panic")
    }

    pub(crate) async fn stop(self) -> Status {
        self.handle.stop();
        self.ends().await
    }
}
