//! A schedule: which job is deferred when, and what is remembered of it (C12).

use std::sync::Arc;

use super::{
    cron::Cron,
    job::JobSpec,
    types::{JobId, Timestamp},
};

/// Of missed ticks that are all to be deferred, so many at most: the newest.
pub const MISSED_TICKS_MAX: usize = 1_000;

/// The label of a job that names the schedule that it comes from.
pub const SCHEDULE_LABEL: &str = "cabbage.schedule";
/// The label of a job that says which tick it was deferred for, as RFC 3339 in UTC.
pub const TICK_LABEL: &str = "cabbage.tick";

/// What somebody asked for, checked against the limits.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    /// Its name.
    pub name: Arc<str>,
    /// When.
    pub cron: Cron,
    /// What happens to ticks that were not decided in time.
    pub missed: MissedTicks,
    /// What to defer; due at its creation.
    pub job: Arc<JobSpec>,
}

/// What happens to ticks that were not decided in time.
///
/// A tick is decided once the database's clock has passed it. Is nobody there to do so, several may have come until
/// somebody is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum MissedTicks {
    /// Of those that have come, the latest is deferred, however late.
    Latest = 1,
    /// Of those that have come, the latest is deferred, if it is no later than the grace of the settings.
    Skip = 2,
    /// Each is deferred, the newest 1,000 at most.
    All = 3,
}

impl MissedTicks {
    /// The rule of this number.
    pub fn from_number(number: u32) -> Option<Self> {
        [Self::Latest, Self::Skip, Self::All].into_iter().find(|rule| *rule as u32 == number)
    }

    /// Its name in the tables.
    pub fn word(self) -> &'static str {
        match self {
            Self::Latest => "latest",
            Self::Skip => "skip",
            Self::All => "all",
        }
    }
}

/// What is remembered of a schedule.
#[derive(Clone, Debug, PartialEq)]
pub struct ScheduleRecord {
    /// What was asked for.
    pub schedule: Arc<Schedule>,
    /// Whether it is paused.
    pub paused: bool,
    /// Every tick up to this instant is decided, or was before its time.
    pub decided: Timestamp,
    /// The last tick that was decided, and what came of it.
    pub last: Option<(Timestamp, TickOutcome)>,
    /// The last tick that was deferred, and its job.
    pub deferred: Option<(Timestamp, JobId)>,
}

/// What came of a tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TickOutcome {
    /// This job was deferred.
    Deferred(JobId),
    /// It was missed, and the schedule's rule skips it.
    Missed,
    /// This job carries the queueing lock and never started; the tick is skipped (C10).
    QueueingLockTaken(JobId),
    /// A named limit did not allow the job; the tick is skipped (C14).
    LimitReached,
}

impl TickOutcome {
    /// Its name in the tables.
    pub fn word(self) -> &'static str {
        match self {
            Self::Deferred(_) => "deferred",
            Self::Missed => "missed",
            Self::QueueingLockTaken(_) => "queueing lock taken",
            Self::LimitReached => "limit reached",
        }
    }

    /// The job that was deferred, or that carries the queueing lock.
    pub fn job(self) -> Option<JobId> {
        match self {
            Self::Deferred(job) | Self::QueueingLockTaken(job) => Some(job),
            Self::Missed | Self::LimitReached => None,
        }
    }

    /// The outcome of this name and job.
    pub fn of_word(word: &str, job: Option<JobId>) -> Option<Self> {
        let outcomes =
            [job.map(Self::Deferred), Some(Self::Missed), job.map(Self::QueueingLockTaken), Some(Self::LimitReached)];
        outcomes.into_iter().flatten().find(|outcome| outcome.word() == word)
    }
}

impl Schedule {
    /// The job of a tick, or of a run by hand.
    pub(super) fn job_of(&self, tick: Option<Timestamp>) -> Arc<JobSpec> {
        let mut job = JobSpec::clone(&self.job);
        job.metadata.push((SCHEDULE_LABEL.to_owned(), self.name.to_string()));
        job.metadata.extend(tick.map(|tick| (TICK_LABEL.to_owned(), tick.to_rfc3339())));
        job.metadata.sort_unstable();
        Arc::new(job)
    }
}

impl ScheduleRecord {
    /// The next tick that is to be decided; `None`: there is none.
    pub fn next_tick(&self) -> Option<Timestamp> {
        if self.paused { None } else { self.schedule.cron.next_after(self.decided) }
    }

    /// The ticks that follow, as seen from `now`; none while it is paused.
    pub fn next_ticks(&self, now: Timestamp, count: usize) -> Vec<Timestamp> {
        if self.paused { Vec::new() } else { self.schedule.cron.following(self.decided.max(now), count) }
    }

    /// A tick was decided, and all before it.
    pub(super) fn ticked(&mut self, tick: Timestamp, outcome: TickOutcome) {
        self.decided = tick;
        self.last = Some((tick, outcome));
        if let TickOutcome::Deferred(job) = outcome {
            self.deferred = Some((tick, job));
        }
    }
}
