//! What kind of cluster to start, and what its clients are to do.

use std::time::Duration;

use super::Way;

/// The intervals that the brokers are told (C13).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Intervals {
    /// Of beats.
    pub beat: Duration,
    /// Of silence until a stream is closed.
    pub watchdog: Duration,
    /// Of a broken stream.
    pub grace: Duration,
    /// Of silence until a session ends.
    pub session: Duration,
}

impl Intervals {
    /// Those of the contract.
    pub const CONTRACT: Self = Self {
        beat: Duration::from_secs(3),
        watchdog: Duration::from_secs(8),
        grace: Duration::from_secs(20),
        session: Duration::from_mins(1),
    };
    /// Short ones, for runs that must be quick.
    pub const SHORT: Self = Self {
        beat: Duration::from_millis(400),
        watchdog: Duration::from_millis(1_500),
        grace: Duration::from_secs(4),
        session: Duration::from_millis(6_500),
    };
}

/// What kind of cluster to start.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Brokers.
    pub brokers: usize,
    /// Workers.
    pub workers: usize,
    /// What the brokers are told.
    pub intervals: Intervals,
    /// How many jobs a broker keeps in memory: few, so that jobs are parked too.
    pub memory_jobs: usize,
    /// Whether commits survive a crash of the machine.
    pub fsync: bool,
    /// Lays cables that can fail between all parties; the seed draws how late things come. `None`: they reach each
    /// other without any.
    pub cables: Option<u64>,
    /// The clocks of brokers and workers are off by an hour, those with even numbers ahead and the others behind.
    pub wrong_clocks: bool,
    /// PostgreSQL lives on a disk of its own of so many MiB, which can be filled. Needs root.
    pub disk_mib: Option<u32>,
    /// PostgreSQL is three servers that Patroni keeps, and brokers reach the primary in this way. Needs root, and no
    /// cables.
    pub patroni: Option<Way>,
}

impl Shape {
    /// One broker with short intervals, and nothing more.
    pub const SMALL: Self = Self {
        brokers: 1,
        workers: 0,
        intervals: Intervals::SHORT,
        memory_jobs: 1_000,
        fsync: false,
        cables: None,
        wrong_clocks: false,
        disk_mib: None,
        patroni: None,
    };
}

/// The share of a client.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    /// Jobs to ask for.
    pub jobs: u64,
    /// Draws them.
    pub seed: u64,
    /// Jobs per second.
    pub rate: u64,
    /// Scheduled jobs are due at most so much later.
    pub latest: Duration,
    /// Whether it keeps the schedules while its load lasts.
    pub agenda: bool,
}
