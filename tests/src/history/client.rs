//! What a client says.

use serde::{Deserialize, Serialize};

use super::Stamp;

/// One line of a client's log. It is written before the call is sent (`Defer`, `Cancel`), and after its answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClientEvent {
    /// When and by whom.
    #[serde(flatten)]
    pub stamp: Stamp,
    /// The request id: one call, however often it is repeated (C2).
    pub request: String,
    /// What happened.
    #[serde(flatten)]
    pub step: ClientStep,
}

/// What happened to a call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum ClientStep {
    /// The call is about to be sent, maybe not for the first time.
    Invoke {
        /// What it asks for.
        #[serde(flatten)]
        asked: Asked,
    },
    /// A defer was answered OK.
    Deferred {
        /// The ids, in the order of the keys.
        jobs: Vec<i64>,
        /// It was the answer of an earlier call.
        repeated: bool,
    },
    /// A cancel was answered OK.
    Cancelled {
        /// The job's state then, as the wire's number.
        state: i32,
    },
    /// A final job was opened again.
    Reopened {
        /// The job's state then, as the wire's number.
        state: i32,
    },
    /// A final job was erased.
    Erased,
    /// A schedule was put or taken away.
    ScheduleChanged,
    /// The call was refused, and changed nothing.
    Refused {
        /// The reason, from the documented list.
        reason: String,
        /// The job that stands in the way (C10).
        by: Option<i64>,
    },
    /// Nobody knows whether the call was done (C1).
    Unknown {
        /// What the transport said.
        detail: String,
    },
}

/// What a call asks for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum Asked {
    /// Jobs. Each carries its key in its arguments, so that it is known again in the database.
    Defer {
        /// One key per job.
        keys: Vec<String>,
    },
    /// The end of a job.
    Cancel {
        /// The job.
        job: i64,
    },
    /// Another budget of attempts for a final job (C17).
    Reopen {
        /// The job.
        job: i64,
    },
    /// No trace of a final job (C17).
    Erase {
        /// The job.
        job: i64,
    },
    /// A schedule (C12).
    PutSchedule {
        /// Its name.
        name: String,
    },
    /// The end of a schedule.
    DeleteSchedule {
        /// Its name.
        name: String,
    },
}
