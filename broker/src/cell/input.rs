//! What goes into the owner's task, and what comes out of it for streams.

use std::{sync::Arc, time::Duration};

use tokio::sync::{mpsc, oneshot};
use tonic::Status;
use uuid::Uuid;

use crate::core::{
    effect::{CallId, CancelReason, Delivery, LinkId, Refusal, Reply, SettleCode},
    event::{Event, Hello},
    job::JobSpec,
    place::Place,
    queues::QueueNow,
    types::{JobId, Lease, QueueNo},
};

use super::handle::JobNow;

/// Inputs that may wait for the owner, in messages. Calls are bounded before ([`super::admission`]), so what fills it
/// up are streams, and they wait.
pub(super) const INPUTS_MAX: usize = 32_768;

/// Messages that may wait for the task that writes to a stream. Deliveries are bounded by credit; a worker that lets
/// this many messages pile up does not read, and is cut.
pub const LINK_MESSAGES_MAX: usize = 4_096;

/// What goes into the owner's task.
#[derive(Debug)]
pub(super) enum Input {
    /// A unary call.
    Call { call: CallId, event: Event, answer: oneshot::Sender<Reply> },
    /// A worker introduces itself.
    Opened { hello: Box<Hello>, outbox: mpsc::Sender<LinkMessage> },
    /// What came in one frame of a stream, in this order.
    Frame(Vec<Event>),
    /// A stream ended.
    Ended { link: LinkId, reported: bool },
    /// What is known of jobs now.
    Look { jobs: Vec<(JobId, Option<Place>)>, answer: oneshot::Sender<Vec<JobNow>> },
    /// What is in these queues now.
    Queues { queues: Vec<QueueNo>, answer: oneshot::Sender<Vec<QueueNow>> },
    /// Wake me when this job is final.
    Wait { job: JobId, waiter: oneshot::Sender<()> },
    /// Finish what was taken in, and end the term.
    Stop,
}

/// What goes to the task that writes to a stream.
#[derive(Debug)]
pub enum LinkMessage {
    /// The worker is welcome.
    Welcome {
        /// The session's id.
        session: Uuid,
        /// The secret to resume it with.
        secret: Uuid,
        /// Whether it went on.
        resumed: bool,
        /// Leases that it thought it had.
        lost: Vec<Lease>,
    },
    /// Jobs to hand out, in this order.
    Jobs(Vec<Handout>),
    /// Results are recorded.
    SettleAck {
        /// The frame; `None`: only the exceptions.
        through: Option<u64>,
        /// What is not plainly recorded.
        exceptions: Vec<(Lease, SettleCode)>,
        /// Failed attempts whose jobs will be tried again.
        retried: Vec<Lease>,
    },
    /// A handler should stop.
    Cancel {
        /// The delivery.
        lease: Lease,
        /// Why.
        reason: CancelReason,
    },
    /// The answer to a beat.
    Beat(u64),
    /// Nothing more follows.
    DrainAck,
    /// Nothing startable is left.
    CaughtUp,
    /// The core ends the stream.
    Refused(Refusal),
    /// The stream's reader ends it.
    End(Box<Status>),
}

/// A delivery, with what was asked for if the cache had it.
#[derive(Debug)]
pub struct Handout {
    /// The delivery.
    pub delivery: Delivery,
    /// What was asked for. `None`: read it from the store.
    pub spec: Option<Arc<JobSpec>>,
}

/// How long an input channel that is full may hold back a stream before that is worth a word in the log.
pub(super) const SLOW_INPUT: Duration = Duration::from_secs(5);
