//! What can be derived from the state: who could start, in which order; which lock has which candidate; what is due.
//!
//! A job is taken out before each fact that concerns it, and put in again after it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use super::{
    ids::JobIds,
    job::{Phase, Record, Run},
    place::Place,
    types::{JobId, LockId, QueueNo, SessionNo, Stream, TaskNo, Timestamp},
};

/// A queue and a task: what a session serves or does not.
pub(super) type LaneKey = (QueueNo, TaskNo);

/// The derived tables.
#[derive(Debug, Default)]
pub(super) struct Index {
    pub(super) streams: BTreeMap<Stream, StreamJobs>,
    /// Streams with something in `ready` or `tainted`.
    pub(super) with_ready: BTreeSet<Stream>,
    pub(super) lanes: BTreeMap<LaneKey, Lane>,
    pub(super) locks: HashMap<LockId, Lock>,
    /// Locks whose candidate must be found again.
    pub(super) dirty_locks: BTreeSet<LockId>,
    pub(super) timers: BTreeSet<(Timestamp, JobId, Timer)>,
    /// Who carries a queueing lock, of the jobs in memory.
    pub(super) queueing_locks: HashMap<Arc<str>, JobId>,
    /// The next tick of each schedule that is not paused. One whose tick waits for a look-up is not among them.
    pub(super) ticks: BTreeSet<(Timestamp, Arc<str>)>,
    /// The same by schedule.
    pub(super) tick_of: HashMap<Arc<str>, Timestamp>,
}

/// The jobs of a stream that are in memory and do not run.
#[derive(Debug, Default)]
pub(super) struct StreamJobs {
    /// May start as far as locks are concerned.
    pub(super) ready: JobIds,
    /// The same, with a crash behind them: one at a time per session (C8).
    pub(super) tainted: JobIds,
    /// Wait behind their lock.
    pub(super) blocked: JobIds,
    /// Not due.
    pub(super) scheduled: BTreeSet<(Timestamp, JobId)>,
    /// Started in this second and in the one before: how much the stream gives out.
    pub(super) given: [u32; 2],
}

impl StreamJobs {
    pub(super) fn len(&self) -> usize {
        self.ready.len() + self.tainted.len() + self.blocked.len() + self.scheduled.len()
    }

    pub(super) fn has_ready(&self) -> bool {
        !self.ready.is_empty() || !self.tainted.is_empty()
    }
}

/// What is known of a queue and task.
#[derive(Debug, Default)]
pub(super) struct Lane {
    /// The sessions that serve it, those in their grace too.
    pub(super) servers: Vec<SessionNo>,
    pub(super) paused: bool,
    /// Locks that have jobs waiting in this lane, in memory or parked.
    pub(super) locks: BTreeSet<LockId>,
    /// How many jobs are parked behind locks.
    pub(super) parked_behind_locks: u64,
    /// Parked jobs that go before every candidate of their lock, by the lowest id that they can have.
    pub(super) heads: BTreeSet<(JobId, Place)>,
}

impl Lane {
    pub(super) fn is_startable(&self) -> bool {
        !self.paused && !self.servers.is_empty()
    }
}

/// What is known of a lock.
#[derive(Debug, Default)]
pub(super) struct Lock {
    /// The job that runs.
    pub(super) holder: Option<JobId>,
    /// The job that starts next; it is among its stream's ready ones.
    pub(super) candidate: Option<JobId>,
    /// Waiting jobs in memory.
    pub(super) lines: BTreeMap<LaneKey, Line>,
    /// Unfinished jobs in memory, whatever their phase.
    pub(super) members: BTreeSet<JobId>,
    /// What is known of parked jobs before a strict one.
    pub(super) strict: StrictCheck,
    /// The entries of this lock in `Lane::heads`.
    pub(super) heads: Vec<(JobId, Place)>,
    /// The lanes that name this lock in `Lane::locks`.
    pub(super) lanes: BTreeSet<LaneKey>,
}

/// Whether a strict job has parked jobs of its lock before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum StrictCheck {
    /// Not asked.
    #[default]
    Unknown,
    /// Asked for this job, by the question of this number: what an earlier one answers holds no longer.
    Asked(JobId, u64),
    /// There are some, until a job of the lock ends.
    Blocked(JobId),
    /// There are none.
    Clear(JobId),
}

/// The waiting jobs of a lock in one lane, in memory.
#[derive(Debug, Default)]
pub(super) struct Line {
    pub(super) plain: BTreeSet<JobId>,
    pub(super) strict: BTreeSet<JobId>,
}

/// Why a job is looked at at some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    Due,
    Deadline,
    AttemptTimeout,
}

impl Index {
    /// Puts a job in that is in memory as `record` says, and `run` if it runs. Running jobs count for their lock and
    /// their timeout only; the sessions keep their own tables.
    pub(super) fn add(&mut self, id: JobId, record: &Record, run: Option<Run>, timeout_slack: Duration) {
        match record.phase {
            Phase::Scheduled => {
                self.streams.entry(record.stream).or_default().scheduled.insert((record.due, id));
                self.timers.insert((record.due, id, Timer::Due));
            }
            Phase::Waiting => match record.lock() {
                None => {
                    let jobs = self.streams.entry(record.stream).or_default();
                    if record.crashes > 0 { &mut jobs.tainted } else { &mut jobs.ready }.insert(id);
                    self.with_ready.insert(record.stream);
                }
                Some(lock) => {
                    self.streams.entry(record.stream).or_default().blocked.insert(id);
                    let lane = lane_of(record.stream);
                    self.join_lane(lock, lane);
                    let line = self.locks.entry(lock).or_default().lines.entry(lane).or_default();
                    if record.is_strict() { &mut line.strict } else { &mut line.plain }.insert(id);
                }
            },
            Phase::Running => {
                if let Some(lock) = record.lock() {
                    self.locks.entry(lock).or_default().holder = Some(id);
                    self.dirty_locks.insert(lock);
                }
                if let Some(at) = timeout_at(record, run, timeout_slack) {
                    self.timers.insert((at, id, Timer::AttemptTimeout));
                }
            }
        }
        if let Some(lock) = record.lock() {
            self.locks.entry(lock).or_default().members.insert(id);
            // A strict candidate may have to wait for it.
            self.dirty_locks.insert(lock);
        }
        if record.phase != Phase::Running
            && let Some(deadline) = record.deadline()
        {
            self.timers.insert((deadline, id, Timer::Deadline));
        }
        if let Some(value) = record.queueing_lock() {
            self.queueing_locks.insert(value.clone(), id);
        }
    }

    /// Takes a job out that is in as `record` and `run` say.
    pub(super) fn remove(&mut self, id: JobId, record: &Record, run: Option<Run>, timeout_slack: Duration) {
        match record.phase {
            Phase::Scheduled => {
                if let Some(jobs) = self.streams.get_mut(&record.stream) {
                    jobs.scheduled.remove(&(record.due, id));
                }
                self.timers.remove(&(record.due, id, Timer::Due));
            }
            Phase::Waiting => {
                if let Some(lock) = record.lock() {
                    self.withdraw(lock, id, record);
                }
                if let Some(jobs) = self.streams.get_mut(&record.stream) {
                    let _ = jobs.ready.remove(id) || jobs.tainted.remove(id) || jobs.blocked.remove(id);
                    if !jobs.has_ready() {
                        self.with_ready.remove(&record.stream);
                    }
                }
            }
            Phase::Running => {
                if let Some(lock) = record.lock() {
                    if let Some(entry) = self.locks.get_mut(&lock) {
                        entry.holder = None;
                    }
                    self.dirty_locks.insert(lock);
                }
                if let Some(at) = timeout_at(record, run, timeout_slack) {
                    self.timers.remove(&(at, id, Timer::AttemptTimeout));
                }
            }
        }
        if let Some(lock) = record.lock() {
            if let Some(entry) = self.locks.get_mut(&lock) {
                entry.members.remove(&id);
            }
            self.dirty_locks.insert(lock);
        }
        if let Some(deadline) = record.deadline() {
            self.timers.remove(&(deadline, id, Timer::Deadline));
        }
        if let Some(value) = record.queueing_lock()
            && self.queueing_locks.get(value) == Some(&id)
        {
            self.queueing_locks.remove(value);
        }
    }

    /// A waiting job leaves the line of its lock.
    fn withdraw(&mut self, lock: LockId, id: JobId, record: &Record) {
        self.dirty_locks.insert(lock);
        let Some(entry) = self.locks.get_mut(&lock) else { return };
        if entry.candidate == Some(id) {
            entry.candidate = None;
        }
        let lane = lane_of(record.stream);
        if let Some(line) = entry.lines.get_mut(&lane) {
            line.plain.remove(&id);
            line.strict.remove(&id);
            if line.plain.is_empty() && line.strict.is_empty() {
                entry.lines.remove(&lane);
            }
        }
    }

    /// Makes `next` the candidate of a lock: it joins its stream's ready jobs, and the one before goes back.
    pub(super) fn elect(&mut self, lock: LockId, next: Option<(JobId, &Record)>, before: Option<(JobId, &Record)>) {
        if let Some((id, record)) = before {
            let jobs = self.streams.entry(record.stream).or_default();
            let _ = jobs.ready.remove(id) || jobs.tainted.remove(id);
            jobs.blocked.insert(id);
            if !jobs.has_ready() {
                self.with_ready.remove(&record.stream);
            }
        }
        if let Some((id, record)) = next {
            let jobs = self.streams.entry(record.stream).or_default();
            jobs.blocked.remove(id);
            if record.crashes > 0 { &mut jobs.tainted } else { &mut jobs.ready }.insert(id);
            self.with_ready.insert(record.stream);
        }
        if let Some(entry) = self.locks.get_mut(&lock) {
            entry.candidate = next.map(|(id, _)| id);
        }
    }

    /// A lock has jobs waiting in this lane, in memory or parked.
    pub(super) fn join_lane(&mut self, lock: LockId, lane: LaneKey) {
        self.lanes.entry(lane).or_default().locks.insert(lock);
        self.locks.entry(lock).or_default().lanes.insert(lane);
        self.dirty_locks.insert(lock);
    }

    /// The next tick of a schedule is this; `None`: it has none, or waits for a look-up.
    pub(super) fn expect_tick(&mut self, name: &Arc<str>, next: Option<Timestamp>) {
        if let Some(before) = self.tick_of.remove(name) {
            self.ticks.remove(&(before, name.clone()));
        }
        if let Some(next) = next {
            self.ticks.insert((next, name.clone()));
            self.tick_of.insert(name.clone(), next);
        }
    }

    pub(super) fn is_startable(&self, lane: LaneKey) -> bool {
        self.lanes.get(&lane).is_some_and(Lane::is_startable)
    }

    /// The candidates of every lock with jobs in this lane must be found again.
    pub(super) fn lane_changed(&mut self, lane: LaneKey) {
        if let Some(lane) = self.lanes.get(&lane) {
            self.dirty_locks.extend(lane.locks.iter().copied());
        }
    }
}

/// The lane of a stream.
pub(super) fn lane_of(stream: Stream) -> LaneKey {
    (stream.queue, stream.task)
}

/// When the owner ends the attempt, if it has a timeout.
fn timeout_at(record: &Record, run: Option<Run>, slack: Duration) -> Option<Timestamp> {
    let timeout = record.rare.as_ref()?.attempt_timeout?;
    Some(run?.started.plus(timeout).plus(slack))
}
