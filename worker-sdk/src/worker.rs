//! The worker: registers tasks, keeps a stream to a broker, and runs what comes.

mod builder;
mod driver;
mod schedules;
mod signals;
mod stream;

use std::time::Duration;

use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

pub use self::builder::{BuildError, WorkerBuilder};
use self::{driver::Driver, schedules::Schedules};
use crate::{address::Addresses, session::Counters, wire};

/// One worker process, as the brokers know it.
///
/// It keeps one stream to one broker at a time, reconnects for ever, and ends only when it is told to here: by its
/// [`WorkerHandle`], by a token, or by a signal. See [`Worker::builder`].
#[derive(Debug)]
pub struct Worker {
    driver: Driver,
    handle: WorkerHandle,
    /// What it puts once it is connected.
    schedules: Option<Schedules>,
}

impl Worker {
    /// Starts to describe a worker for the brokers at these addresses.
    pub fn builder(addresses: impl Addresses) -> WorkerBuilder {
        WorkerBuilder::new(addresses.into_addresses())
    }

    /// Steers the worker from elsewhere.
    pub fn handle(&self) -> WorkerHandle {
        self.handle.clone()
    }

    /// Runs until a local stop. Dropping the future aborts all handlers; their leases end by the broker's rules (C13).
    ///
    /// A stop drains: no more jobs, running handlers finish for at most the drain timeout, unstarted jobs go back,
    /// and every result is acknowledged, before this returns.
    pub async fn run(self) -> Status {
        let _put = self.schedules.map(|schedules| AbortOnDropHandle::new(tokio::spawn(schedules.put(self.handle))));
        self.driver.run().await
    }

    /// Runs what is there, and stops when the broker says that nothing startable is left for this worker. Jobs that
    /// are due later are not waited for.
    pub async fn run_until_caught_up(mut self) -> Status {
        self.driver.stop_when_caught_up();
        self.run().await
    }
}

/// What a worker is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Status {
    /// A broker has welcomed its stream, and the stream lives.
    pub connected: bool,
    /// It was told to stop.
    pub stopping: bool,
    /// How many leases it holds: queued, running, and ended but not acknowledged.
    pub held: usize,
    /// How many handlers run.
    pub running: usize,
    /// What happened so far.
    pub counters: Counters,
}

/// What a worker was told to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Wishes {
    paused: bool,
    stop: Option<Drain>,
    stop_now: bool,
}

/// How long running handlers may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Drain {
    /// The worker's own time.
    Default,
    Within(Duration),
}

/// Steers a worker, and tells how it does. Cheap to clone.
#[derive(Clone, Debug)]
pub struct WorkerHandle {
    wishes: watch::Sender<Wishes>,
    status: watch::Receiver<Status>,
}

impl WorkerHandle {
    /// Steers nothing.
    pub(crate) fn of_no_worker() -> Self {
        Self { wishes: watch::Sender::default(), status: watch::channel(Status::default()).1 }
    }

    /// Takes no more jobs, finishes what runs within the worker's drain timeout, gives back the rest, and ends.
    pub fn stop(&self) {
        self.wishes.send_modify(|wishes| wishes.stop = wishes.stop.or(Some(Drain::Default)));
    }

    /// The same, within this time. The first stop counts.
    pub fn stop_within(&self, drain: Duration) {
        self.wishes.send_modify(|wishes| {
            wishes.stop = wishes.stop.or(Some(Drain::Within(wire::bounded(drain))));
        });
    }

    /// Aborts all handlers, gives everything back, and ends within about a second. A blocking handler cannot be
    /// aborted: it is told to stop, and its job may run elsewhere before it does.
    pub fn stop_now(&self) {
        self.wishes.send_modify(|wishes| wishes.stop_now = true);
    }

    /// Takes no new jobs for now. What is here already runs.
    pub fn pause(&self) {
        self.wishes.send_modify(|wishes| wishes.paused = true);
    }

    /// Takes jobs again.
    pub fn resume(&self) {
        self.wishes.send_modify(|wishes| wishes.paused = false);
    }

    /// What the worker is doing now.
    pub fn status(&self) -> Status {
        *self.status.borrow()
    }

    /// Waits until its status is as asked; `None` if the worker ended before.
    pub async fn wait_for(&self, condition: impl FnMut(&Status) -> bool) -> Option<Status> {
        let mut status = self.status.clone();
        let reached = status.wait_for(condition).await.ok()?;
        Some(*reached)
    }
}
