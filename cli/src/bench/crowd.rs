//! Crowds: jobs that cannot start or are over, in front of others that can start.

use std::time::Duration;

use anyhow::Context as _;
use cabbage_migrations::Schema;
use cabbage_worker::{Client, Context, NewJob, TaskError, Worker, WorkerHandle};
use clap::ValueEnum;
use serde::Serialize;
use tokio::{task::JoinHandle, time::timeout};

use super::{batches::FILLING, cell::Cell, retention::History};

/// The task of the jobs that hold locks.
const HOLD_TASK: &str = "bench_hold";
/// The task of the jobs of a crowd. Somebody serves it, but for the crowd that waits for just that.
const CROWD_TASK: &str = "bench_crowd";
/// The task that nobody serves.
const UNSERVED_TASK: &str = "bench_unserved";
/// How long a call may take, and the holders to start.
const PATIENCE: Duration = Duration::from_mins(2);
/// When scheduled jobs become due: not while anything is measured.
const LATER: Duration = Duration::from_hours(24 * 365);

/// What the jobs of a crowd wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Kind {
    /// Their locks
    Locked,
    /// Their time, in a year
    Scheduled,
    /// A worker that has registered their task
    Unserved,
    /// Their queue, which is paused
    Paused,
    /// Nothing: they have ended. They are written by plain SQL, so only in a cell of our own
    Finished,
}

/// A crowd, and those that keep it waiting.
pub(super) struct Crowd {
    kind: Kind,
    /// How many different locks.
    locks: u32,
    client: Client,
    queue: String,
    /// The way to write finished jobs.
    history: Option<History>,
    jobs: u32,
    holder: WorkerHandle,
    running: JoinHandle<cabbage_worker::Status>,
}

impl Crowd {
    /// Nobody yet, but whoever holds the locks.
    pub(super) async fn gather(cell: &Cell, queue: String, kind: Kind, locks: u32) -> anyhow::Result<Self> {
        let address = cell.address();
        let client = Client::builder(address).timeout(PATIENCE).build()?;
        let history = match (kind, cell.database_url()) {
            (Kind::Finished, Some(url)) => Some(History::connect(&url, &Schema::default()).await?),
            _ => None,
        };
        let worker = Worker::builder(address)
            .name("bench holder")
            .queues([queue.as_str()])
            .concurrency(locks as usize + 1)
            .function(HOLD_TASK, hold)
            .function(CROWD_TASK, escape)
            .build()?;
        let (holder, running) = (worker.handle(), tokio::spawn(worker.run()));
        let crowd = Self { kind, locks, client, queue, history, jobs: 0, holder, running };
        if kind == Kind::Paused {
            crowd.client.pause_queue(&crowd.queue, "a measurement").await?;
        }
        if kind == Kind::Locked {
            let job = |crowd: &Self, number| NewJob::named(HOLD_TASK).queue(&crowd.queue).lock(lock(number));
            crowd.defer(0..locks, job).await?;
            let all = crowd.holder.wait_for(|status| status.running >= locks as usize);
            timeout(PATIENCE, all).await.context("not every lock was taken in time")?.context("the holder stopped")?;
        }
        Ok(crowd)
    }

    /// Lets the crowd grow to so many jobs.
    pub(super) async fn grow(&mut self, jobs: u32) -> anyhow::Result<()> {
        let numbers = self.jobs..jobs.max(self.jobs);
        self.jobs = numbers.end;
        if let Some(history) = &mut self.history {
            return match numbers.len() {
                0 => Ok(()),
                more => history.write(more as i64).await.map(drop),
            };
        }
        self.defer(numbers, |crowd, number| {
            let job = |task| NewJob::named(task).queue(&crowd.queue);
            match crowd.kind {
                Kind::Locked => job(CROWD_TASK).lock(lock(number % crowd.locks)),
                // Finished ones have returned before.
                Kind::Paused | Kind::Finished => job(CROWD_TASK),
                Kind::Scheduled => job(CROWD_TASK).schedule_in(LATER),
                Kind::Unserved => job(UNSERVED_TASK),
            }
        })
        .await
    }

    /// How many of the crowd ran, which must be none.
    pub(super) fn escaped(&self) -> u64 {
        self.holder.status().counters.recorded
    }

    /// Lets go of everybody.
    pub(super) async fn scatter(self) -> anyhow::Result<()> {
        self.holder.stop_now();
        self.running.await.map(drop).context("the holder panicked")
    }

    async fn defer(&self, numbers: std::ops::Range<u32>, job: impl Fn(&Self, u32) -> NewJob) -> anyhow::Result<()> {
        FILLING.defer(&self.client, numbers, |number| job(self, number)).await.map(drop)
    }
}

fn lock(number: u32) -> String {
    format!("bench lock {number}")
}

/// Holds its lock until it is told to stop.
async fn hold((): (), ctx: Context) -> Result<(), TaskError> {
    ctx.cancelled().await;
    Err(TaskError::cancelled("the measurement is over"))
}

/// A job of the crowd that starts has escaped: its result is counted.
async fn escape((): (), _: Context) -> Result<(), TaskError> {
    Ok(())
}
