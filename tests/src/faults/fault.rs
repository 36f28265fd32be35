//! What is done to a cluster, and what a run with it must reach.

use std::{fmt, time::Duration};

use clap::ValueEnum;
use serde::Serialize;

use crate::checker::Sometimes;

/// What is done to a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// `kill -9` of the only broker, which is started again.
    KillBrokerRestart,
    /// `kill -9` of the owner; a standby takes over.
    KillBrokerStandby,
    /// `SIGSTOP` of the owner; a standby takes over; then `SIGCONT`.
    StopBroker,
    /// `kill -9` of a worker.
    KillWorker,
    /// `SIGSTOP` of a worker for longer than its session, then `SIGCONT`.
    StopWorker,
    /// All connections of a worker are reset, and it gets no other for some seconds.
    CutWorker,
    /// All connections of a worker fall silent for ever, and it gets no other until both sides have given up.
    HalfOpenWorker,
    /// What brokers answer to a worker gets lost after the work was done, and the connection with it.
    LoseRepliesWorker,
    /// As `cut-worker`, of a client.
    CutClient,
    /// As `half-open-worker`, of a client.
    HalfOpenClient,
    /// As `lose-replies-worker`, of a client.
    LoseRepliesClient,
    /// The links of all relays to the owner are reset, and they get no other for some seconds, while whoever calls
    /// reaches nobody but relays.
    CutLink,
    /// As `cut-link`, but the links fall silent, and stay so for ever.
    HalfOpenLink,
    /// As `cut-link`, but what the owner answers to the relays gets lost after the work was done, and the links with it.
    LoseRepliesLink,
    /// `kill -9` of a relay that had every worker and every client.
    KillRelay,
    /// `SIGSTOP` of such a relay, until all are served by another; then `SIGCONT`.
    StopRelay,
    /// The connections of such a relay to the database are reset, and it gets no other for some seconds; the owner keeps
    /// its own.
    CutRelayDatabase,
    /// The owner's connections to the database are reset, and it gets no other for some seconds; a standby takes over.
    CutDatabase,
    /// The owner's connections to the database fall silent for ever; a standby takes over.
    HalfOpenDatabase,
    /// What the owner and the database say to each other is held back until a standby has taken over; then all of it
    /// arrives.
    HoldDatabase,
    /// What the database answers to the owner gets lost after the commit, and the connection with it.
    LoseRepliesDatabase,
    /// Everything between all parties is late for some seconds.
    SlowCables,
    /// PostgreSQL is restarted in order.
    RestartPostgres,
    /// `pg_ctl restart -m immediate`.
    RestartPostgresImmediate,
    /// Patroni makes another server the primary, in order.
    SwitchOver,
    /// `kill -9` of the primary and of its Patroni; another server is promoted.
    KillPrimary,
    /// `SIGSTOP` of the primary and of its Patroni; another server is promoted; then `SIGCONT` of a primary that does
    /// not know yet that it is none.
    StopPrimary,
    /// `kill -9` of the primary's Patroni only: another server is promoted, and the former primary goes on to take
    /// connections and to believe that it is one.
    AbandonPrimary,
    /// Sessions of brokers are terminated at random.
    EndSessions,
    /// All connections of PostgreSQL are used up, and the brokers lose theirs.
    UseUpConnections,
    /// PostgreSQL's disk is full. Needs root.
    FillDisk,
    /// Every table is locked, for 30 s by the contract's intervals.
    LockTables,
    /// An old snapshot and an open writing transaction are held for the whole run; the owner is killed.
    OldTransactions,
    /// The clocks of brokers and workers are off by an hour, in both directions; the owner is killed.
    WrongClocks,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.name())
    }
}

impl Fault {
    /// All of them.
    pub fn all() -> Vec<Self> {
        Self::value_variants().to_vec()
    }

    /// Its name on the command line.
    pub fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// Whether it needs root.
    pub fn needs_root(self) -> bool {
        self == Self::FillDisk
    }

    /// Whether it needs several servers, which Patroni keeps. Needs root too.
    pub fn needs_patroni(self) -> bool {
        matches!(self, Self::SwitchOver | Self::KillPrimary | Self::StopPrimary | Self::AbandonPrimary)
    }

    /// Whether it needs cables that can fail.
    pub(super) fn needs_cables(self) -> bool {
        matches!(
            self,
            Self::CutWorker
                | Self::HalfOpenWorker
                | Self::LoseRepliesWorker
                | Self::CutClient
                | Self::HalfOpenClient
                | Self::LoseRepliesClient
                | Self::CutLink
                | Self::HalfOpenLink
                | Self::LoseRepliesLink
                | Self::KillRelay
                | Self::StopRelay
                | Self::CutRelayDatabase
                | Self::CutDatabase
                | Self::HalfOpenDatabase
                | Self::HoldDatabase
                | Self::LoseRepliesDatabase
                | Self::SlowCables
        )
    }

    /// How often a long run does it: random moments are few.
    pub(super) fn rounds(self) -> u32 {
        match self {
            Self::StopWorker | Self::LockTables => 1,
            Self::KillWorker | Self::RestartPostgresImmediate | Self::FillDisk => 2,
            _ => 3,
        }
    }

    /// How long one takes with the contract's intervals until it is healed, about.
    pub(super) fn takes(self) -> Duration {
        Duration::from_secs(match self {
            Self::StopWorker => 65,
            // The lease of a lost primary, and how long the former one takes to follow.
            Self::KillPrimary | Self::StopPrimary | Self::AbandonPrimary => 45,
            Self::HalfOpenDatabase | Self::LockTables => 35,
            Self::SwitchOver => 15,
            Self::KillWorker => 22,
            Self::StopBroker | Self::HoldDatabase | Self::HalfOpenWorker | Self::HalfOpenLink | Self::StopRelay => 12,
            Self::FillDisk => 10,
            _ => 6,
        })
    }

    /// What a run with this fault must reach, or it has tested nothing.
    pub fn required(self) -> &'static [Sometimes] {
        match self {
            Self::KillBrokerRestart
            | Self::KillBrokerStandby
            | Self::StopBroker
            | Self::CutDatabase
            | Self::HalfOpenDatabase
            | Self::HoldDatabase
            | Self::LoseRepliesDatabase
            | Self::RestartPostgres
            | Self::RestartPostgresImmediate
            | Self::SwitchOver
            | Self::KillPrimary
            | Self::StopPrimary
            | Self::AbandonPrimary
            | Self::UseUpConnections
            | Self::OldTransactions
            | Self::WrongClocks => &[Sometimes::TakeoverWithJobsInFlight],
            Self::KillWorker => &[Sometimes::CrashedDelivery, Sometimes::ExplainedDuplicate],
            Self::StopWorker => {
                &[Sometimes::CrashedDelivery, Sometimes::ExplainedDuplicate, Sometimes::RefusedLateWrite]
            }
            Self::LoseRepliesClient | Self::HalfOpenClient => &[Sometimes::UnknownOutcomeAskedAgain],
            Self::CutWorker
            | Self::HalfOpenWorker
            | Self::LoseRepliesWorker
            | Self::CutClient
            | Self::CutLink
            | Self::HalfOpenLink
            | Self::LoseRepliesLink
            | Self::KillRelay
            | Self::StopRelay
            | Self::CutRelayDatabase
            | Self::SlowCables
            | Self::EndSessions
            | Self::FillDisk
            | Self::LockTables => &[],
        }
    }

    /// Whether several of it must have met a call whose outcome nobody knew. A single instant may fall between two.
    pub(super) fn breaks_calls(self) -> bool {
        matches!(
            self,
            Self::KillBrokerRestart
                | Self::KillBrokerStandby
                | Self::StopBroker
                | Self::HalfOpenLink
                | Self::LoseRepliesLink
                | Self::HalfOpenDatabase
                | Self::HoldDatabase
                | Self::RestartPostgresImmediate
        )
    }
}

/// What every load reaches, whatever is done.
pub(super) const OF_EVERY_LOAD: [Sometimes; 10] = [
    Sometimes::Retry,
    Sometimes::Scheduled,
    Sometimes::Locked,
    Sometimes::Strict,
    Sometimes::QueueingLockTaken,
    Sometimes::Cancelled,
    Sometimes::Tick,
    Sometimes::Reopened,
    Sometimes::Erased,
    Sometimes::RefusedBatch,
];
