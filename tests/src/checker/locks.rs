//! Who may start among the jobs of a lock (C9), and who carries a queueing lock (C10).

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use cabbage_broker::core::types::{LockId, QueueNo};

use super::{
    life::{Life, Phase},
    violation::{Clause, Findings},
};

/// Every lock that a job ever carried.
#[derive(Default)]
pub(super) struct Locks {
    lines: HashMap<LockId, Line>,
}

/// The jobs of a lock that are not final.
#[derive(Default)]
struct Line {
    running: BTreeSet<i64>,
    /// Waiting jobs in the ordinary mode, by queue.
    waiting: BTreeMap<QueueNo, BTreeSet<i64>>,
    /// Waiting jobs in mode `strict`.
    strict: BTreeMap<i64, QueueNo>,
    /// All of them.
    unfinished: BTreeSet<i64>,
}

impl Line {
    fn forget_waiting(&mut self, job: i64) {
        self.strict.remove(&job);
        for jobs in self.waiting.values_mut() {
            jobs.remove(&job);
        }
    }
}

impl Locks {
    /// A job came to the lock, or stays with it and does not run any more.
    pub(super) fn joined(&mut self, job: i64, life: &Life) {
        let Some(lock) = life.lock else { return };
        self.lines.entry(lock).or_default().unfinished.insert(job);
        if life.phase == Phase::Waiting {
            self.waits(job, life);
        }
    }

    /// A job of the lock waits.
    pub(super) fn waits(&mut self, job: i64, life: &Life) {
        let Some(lock) = life.lock else { return };
        let line = self.lines.entry(lock).or_default();
        if life.strict {
            line.strict.insert(job, life.queue);
        } else {
            line.waiting.entry(life.queue).or_default().insert(job);
        }
    }

    /// A job starts: whether it may, and that it runs from now on.
    pub(super) fn started(
        &mut self,
        job: i64,
        life: &Life,
        paused: &HashSet<QueueNo>,
        everything_served: bool,
        findings: &mut Findings,
    ) {
        let Some(lock) = life.lock else { return };
        let line = self.lines.entry(lock).or_default();
        if let Some(other) = line.running.iter().find(|other| **other != job) {
            findings.add(Clause::C9, job, || format!("it starts while job {other} of its lock runs"));
        }
        let first = line.unfinished.first().copied();
        if life.strict && first != Some(job) {
            findings.add(Clause::C9, job, || format!("it is strict and starts before job {first:?} is final"));
        }
        if everything_served {
            let waiting = line.waiting.iter().filter(|(queue, _)| !paused.contains(queue));
            let earlier = waiting.filter_map(|(_, jobs)| jobs.first().copied()).min();
            // A strict job is startable only as the first of all.
            let strict = first.filter(|first| line.strict.get(first).is_some_and(|queue| !paused.contains(queue)));
            if let Some(other) = [earlier, strict].into_iter().flatten().min().filter(|other| *other < job) {
                findings.add(Clause::C9, job, || format!("it starts before job {other}, which waits for its lock too"));
            }
        }
        line.forget_waiting(job);
        line.running.insert(job);
    }

    /// A job does not run any more.
    pub(super) fn stopped(&mut self, job: i64, lock: Option<LockId>) {
        if let Some(line) = lock.and_then(|lock| self.lines.get_mut(&lock)) {
            line.running.remove(&job);
        }
    }

    /// A job is final, or has another lock.
    pub(super) fn left(&mut self, job: i64, lock: Option<LockId>) {
        let Some(lock) = lock else { return };
        let Some(line) = self.lines.get_mut(&lock) else { return };
        line.running.remove(&job);
        line.forget_waiting(job);
        line.unfinished.remove(&job);
        if line.unfinished.is_empty() {
            self.lines.remove(&lock);
        }
    }
}

/// Who carries which queueing lock.
#[derive(Default)]
pub(super) struct QueueingLocks {
    holders: HashMap<Arc<str>, i64>,
}

impl QueueingLocks {
    /// A job is created with this value.
    pub(super) fn taken(&mut self, value: &Arc<str>, job: i64, findings: &mut Findings) {
        if let Some(first) = self.holders.insert(value.clone(), job) {
            findings.add(Clause::C10, job, || format!("job {first} carries {value:?} and never started"));
        }
    }

    /// The job started, or ended before.
    pub(super) fn freed(&mut self, value: &Arc<str>, job: i64) {
        if self.holders.get(value) == Some(&job) {
            self.holders.remove(value);
        }
    }
}
