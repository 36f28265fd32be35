//! What a worker says.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Stamp;

/// One line of a worker's log. A start is written before the handler does anything, an end before it is reported.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkerEvent {
    /// When and by whom.
    #[serde(flatten)]
    pub stamp: Stamp,
    /// What happened.
    #[serde(flatten)]
    pub step: WorkerStep,
}

/// What happened in a worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum WorkerStep {
    /// A broker welcomed the worker.
    Welcome {
        /// The session.
        session: Uuid,
        /// An older session went on.
        resumed: bool,
        /// The owner's term.
        term: u64,
    },
    /// A handler starts.
    Start {
        /// The delivery.
        #[serde(flatten)]
        lease: LeaseName,
        /// The number of the attempt, from 1, as the worker was told.
        attempt: u32,
    },
    /// A handler ended.
    End {
        /// The delivery.
        #[serde(flatten)]
        lease: LeaseName,
        /// How.
        end: End,
    },
    /// A broker answered for a result.
    Acknowledged {
        /// The delivery.
        #[serde(flatten)]
        lease: LeaseName,
        /// How the handler had ended, as the result said.
        end: End,
        /// The wire's number of the code.
        code: i32,
        /// It was sent late on purpose: the worker had been told that the lease is lost.
        probe: bool,
    },
}

/// One delivery, as its lease token names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LeaseName {
    /// The job.
    pub job: i64,
    /// The number of the delivery, from 1.
    pub delivery: u32,
    /// The nonce of the term that recorded the start.
    pub nonce: u64,
}

/// How a handler ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// It succeeded.
    Succeeded,
    /// It failed.
    Failed,
    /// It stopped because it was told to.
    Cancelled,
    /// It was given back unstarted.
    Released,
    /// It put the job off.
    Snoozed,
}
