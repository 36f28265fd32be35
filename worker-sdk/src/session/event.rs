//! What goes into the session and what comes out of it.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use cabbage_proto::v1;

use super::lease::Slot;
use crate::failure::TaskError;

/// One try to have a stream: a fresh channel and the one stream on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct LinkId(pub(crate) u64);

/// What the session is told.
#[derive(Debug)]
pub(crate) enum Event {
    /// A link reached its broker; `next_frame` has its `Hello` now.
    Connected(LinkId),
    /// A frame came.
    Frame(LinkId, Box<v1::WorkResponse>),
    /// A link ended, or was never there.
    Ended(LinkId, LinkEnd),
    /// A handler's task ended.
    Finished(Slot, Finish),
    /// The retry strategy of a task has said what a timeout of this attempt amounts to.
    TimeoutJudged(Slot, Box<TaskError>),
    /// Take no new jobs, or take them again.
    Pause(bool),
    /// Finish what runs within this time, give back the rest, and end.
    Stop(Duration),
    /// Give everything back and end.
    StopNow,
    /// A timer went off.
    Tick,
}

/// Why a link ended, as far as it matters.
#[derive(Clone, Debug, Default)]
pub(crate) struct LinkEnd {
    /// The broker cannot serve, or cannot be reached: another one may, so try it at once.
    pub(crate) try_next: bool,
    /// The broker asks for this wait.
    pub(crate) retry_after: Option<Duration>,
    /// For people.
    pub(crate) detail: String,
}

/// How a handler's task ended.
#[derive(Debug)]
pub(crate) enum Finish {
    /// It succeeded; the result is JSON text, or empty for none.
    Succeeded(Bytes),
    /// It did not.
    Error(TaskError),
    /// Its task went away without an answer: it was aborted.
    Aborted,
}

/// What the shell has to do.
#[derive(Debug)]
pub(crate) enum Action {
    /// Open a fresh channel to the broker of this number, and a stream on it.
    Connect { link: LinkId, address: usize },
    /// Drop the channel.
    Close(LinkId),
    /// Say that nothing more comes, and let the broker end the stream.
    HalfClose(LinkId),
    /// Run a job.
    Start(Box<Start>),
    /// Tell a handler to stop.
    Cancel(Slot, CancelCause),
    /// Stop a handler's task.
    Abort(Slot),
    /// Everything is done.
    Stopped,
}

/// A job to run.
#[derive(Debug)]
pub(crate) struct Start {
    pub(crate) slot: Slot,
    /// The number of the task in [`Config::tasks`].
    pub(crate) task: usize,
    pub(crate) task_name: Arc<str>,
    pub(crate) queue_name: Arc<str>,
    pub(crate) delivery: v1::Delivery,
}

/// Why a handler was told to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CancelCause {
    /// Somebody cancelled the job (C11). The handler decides; a result that it still gives is recorded.
    Requested,
    /// The attempt took longer than it may (C8). It will be recorded as failed, whatever the handler answers.
    Timeout,
    /// The lease is lost: another delivery may run already, and the result would change nothing (C5).
    LeaseLost,
    /// The worker stops and its time to finish is over. The job goes back without using up an attempt.
    Stopping,
}

/// A task that has a handler, as the session needs to know it.
#[derive(Clone, Debug, Default)]
pub(crate) struct TaskLimits {
    pub(crate) name: String,
    /// Other names of it.
    pub(crate) aliases: Vec<String>,
    /// At most so many at once in this worker, under all its names. 0: no limit of its own.
    pub(crate) max_concurrent: u32,
    /// Cancel its handlers once the session must have ended without us.
    pub(crate) cancel_when_orphaned: bool,
    /// Its handlers cannot be aborted.
    pub(crate) blocking: bool,
}

impl TaskLimits {
    /// Its name, and the others that it has.
    pub(crate) fn names(&self) -> impl Iterator<Item = &String> + Clone {
        std::iter::once(&self.name).chain(&self.aliases)
    }
}

/// What does not change while a worker lives.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) instance_id: String,
    pub(crate) worker_name: String,
    pub(crate) queues: Vec<String>,
    pub(crate) tasks: Vec<TaskLimits>,
    pub(crate) labels: HashMap<String, String>,
    /// How many handlers run at once.
    pub(crate) concurrency: usize,
    /// How many jobs may wait here beyond those that run.
    pub(crate) prefetch: usize,
    /// How many bytes of arguments may be outstanding. 0: no limit.
    pub(crate) max_bytes: u64,
    /// How many brokers there are to try in turn.
    pub(crate) addresses: usize,
    /// Stop once nothing is left to do.
    pub(crate) until_caught_up: bool,
    pub(crate) seed: u64,
}

/// What happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Deliveries that came.
    pub received: u64,
    /// Handlers that were started.
    pub started: u64,
    /// Attempts that succeeded.
    pub succeeded: u64,
    /// Attempts that failed, timeouts and panics among them.
    pub failed: u64,
    /// Jobs given back without an attempt, snoozed or cancelled.
    pub other_ends: u64,
    /// Results that a broker has recorded.
    pub recorded: u64,
    /// Results or leases that were lost: another delivery took over (C5).
    pub lost: u64,
    /// Results that were refused for another reason than a lost lease.
    pub refused: u64,
    /// Streams that were welcomed.
    pub welcomed: u64,
    /// Frames of another term, or of an unknown kind, that were dropped.
    pub dropped_frames: u64,
    /// Frames of results that were sent.
    pub result_frames: u64,
}
