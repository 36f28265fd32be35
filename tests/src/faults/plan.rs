//! What a fault run does.

use std::{fmt, time::Duration};

use clap::ValueEnum;
use serde::Serialize;

use crate::{
    checker::Sometimes,
    cluster::{Intervals, Shape},
};

/// What is done to a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// `kill -9` of the only broker, which is started again.
    KillBrokerRestart,
    /// `kill -9` of the owner; the standby takes over.
    KillBrokerStandby,
    /// `kill -9` of a worker.
    KillWorker,
    /// `pg_ctl restart -m immediate`.
    RestartPostgresImmediate,
    /// `SIGSTOP` of a worker for longer than its session, then `SIGCONT`.
    StopWorker,
    /// `SIGSTOP` of the owner; the standby takes over; then `SIGCONT`.
    StopBroker,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.to_possible_value().map(|value| value.get_name().to_owned());
        f.pad(&name.unwrap_or_default())
    }
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::KillBrokerRestart,
        Self::KillBrokerStandby,
        Self::KillWorker,
        Self::RestartPostgresImmediate,
        Self::StopWorker,
        Self::StopBroker,
    ];

    /// How many brokers it needs.
    pub(super) fn brokers(self) -> usize {
        if self == Self::KillBrokerRestart { 1 } else { 2 }
    }

    /// How often a long run does it: random moments are few.
    fn rounds(self) -> u32 {
        match self {
            Self::KillBrokerRestart | Self::KillBrokerStandby | Self::StopBroker => 3,
            Self::KillWorker | Self::RestartPostgresImmediate => 2,
            Self::StopWorker => 1,
        }
    }

    /// What a run with this fault must reach, or it has tested nothing.
    pub fn required(self) -> Vec<Sometimes> {
        let mut required = vec![
            Sometimes::Retry,
            Sometimes::Scheduled,
            Sometimes::Locked,
            Sometimes::Strict,
            Sometimes::QueueingLockTaken,
            Sometimes::Cancelled,
            Sometimes::Tick,
            Sometimes::Reopened,
            Sometimes::Erased,
        ];
        required.extend(match self {
            Self::KillBrokerRestart | Self::KillBrokerStandby | Self::RestartPostgresImmediate | Self::StopBroker => {
                [Sometimes::TakeoverWithJobsInFlight, Sometimes::UnknownOutcomeAskedAgain].as_slice()
            }
            Self::KillWorker => &[Sometimes::CrashedDelivery, Sometimes::ExplainedDuplicate],
            Self::StopWorker => {
                &[Sometimes::CrashedDelivery, Sometimes::ExplainedDuplicate, Sometimes::RefusedLateWrite]
            }
        });
        required
    }
}

/// One run: a fault, under a load.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// The fault.
    pub fault: Fault,
    /// How often.
    pub rounds: u32,
    /// Jobs to ask for, in all.
    pub jobs: u64,
    /// Jobs per second, in all.
    pub rate: u64,
    /// Draws the jobs and the moments.
    pub seed: u64,
    /// Clients.
    pub clients: u64,
    /// Workers.
    pub workers: usize,
    /// What the brokers are told.
    pub intervals: Intervals,
    /// Scheduled jobs are due at most so much later.
    pub latest: Duration,
    /// How many jobs a broker keeps in memory.
    pub memory_jobs: usize,
    /// Whether commits survive a crash of the machine.
    pub fsync: bool,
    /// How long the drain may take.
    pub drain: Duration,
}

impl Plan {
    /// What the run must reach, or it has tested nothing. A single instant may fall between two calls, so only a run
    /// that kills more than once must have met a call whose outcome nobody knew.
    pub fn required(&self) -> Vec<Sometimes> {
        let mut required = self.fault.required();
        if self.rounds == 1 && self.fault != Fault::StopBroker {
            required.retain(|event| *event != Sometimes::UnknownOutcomeAskedAgain);
        }
        required
    }

    /// The contract's intervals.
    pub fn of(fault: Fault, jobs: u64, seed: u64) -> Self {
        Self {
            fault,
            rounds: fault.rounds(),
            jobs,
            rate: 1_000,
            seed,
            clients: 2,
            workers: 4,
            intervals: Intervals::CONTRACT,
            latest: Duration::from_secs(35),
            memory_jobs: 2_000,
            fsync: true,
            drain: Duration::from_mins(4),
        }
    }

    /// Short intervals, for a run of some seconds.
    pub fn quick(fault: Fault, jobs: u64, seed: u64) -> Self {
        Self {
            intervals: Intervals::SHORT,
            latest: Duration::from_secs(3),
            memory_jobs: 1_000,
            rounds: 1,
            drain: Duration::from_mins(1),
            ..Self::of(fault, jobs, seed)
        }
    }

    pub(super) fn shape(&self) -> Shape {
        Shape {
            brokers: self.fault.brokers(),
            workers: self.workers,
            intervals: self.intervals,
            memory_jobs: self.memory_jobs,
            fsync: self.fsync,
        }
    }
}
