//! The named limits and intervals of the core (C13, C14). Each is a setting.

use std::time::Duration;

/// Limits and intervals that the core decides by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Unfinished jobs in memory. Above four fifths of it, jobs are parked for want of room.
    pub memory_jobs_max: usize,
    /// What a stream keeps in memory however full it is.
    pub stream_floor_jobs: usize,
    /// How many jobs are parked or fetched in one step.
    pub park_step_jobs: usize,
    /// Lines of parked jobs behind locks. Beyond it, defers that would make a new one are refused.
    pub lock_lines_max: usize,
    /// Names of queues, and of tasks.
    pub names_max: usize,
    /// Schedules of the cell.
    pub schedules_max: usize,
    /// A tick that is decided later than this is missed under [`super::schedule::MissedTicks::Skip`].
    pub tick_grace: Duration,
    /// Jobs due later than this from now are parked.
    pub due_horizon: Duration,
    /// Facts of one batch, about.
    pub batch_facts_max: usize,
    /// Bytes of one batch, about.
    pub batch_bytes_max: usize,
    /// Crashes after which a job is failed (C8).
    pub max_crashes: u16,
    /// How long after its timeout the owner ends an attempt (C8).
    pub timeout_slack: Duration,
    /// Silence after which a stream is closed.
    pub watchdog: Duration,
    /// How long a broken stream may be away.
    pub grace: Duration,
    /// How long a silent session lives.
    pub session: Duration,
    /// On each such row of the log the hash of part of the state is written.
    pub hash_every_rows: u64,
    /// How many ids are reserved at least.
    pub reserve_ids_min: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_jobs_max: 2_000_000,
            stream_floor_jobs: 64,
            park_step_jobs: 2_000,
            lock_lines_max: 2_000_000,
            names_max: 100_000,
            schedules_max: 10_000,
            tick_grace: Duration::from_mins(1),
            due_horizon: Duration::from_secs(30),
            batch_facts_max: 4_000,
            batch_bytes_max: 8 << 20,
            max_crashes: 3,
            timeout_slack: Duration::from_secs(10),
            watchdog: Duration::from_secs(8),
            grace: Duration::from_secs(20),
            session: Duration::from_mins(1),
            hash_every_rows: 1_000,
            reserve_ids_min: 256,
        }
    }
}
