//! What happens to the core.

use std::sync::Arc;

use bytes::Bytes;
use uuid::Uuid;

use super::{
    ask::Ask,
    batch::Changed,
    effect::{CallId, Fetched, Found, LinkId},
    inbox::{InboxRow, Intake},
    job::{Failure, JobSpec},
    retention::Milestone,
    types::{Format, JobId, Lease},
};

/// One thing that happens. It can be decided again if its batch is refused.
#[derive(Clone, Debug)]
pub enum Event {
    /// Somebody defers jobs.
    Defer(Defer),
    /// Somebody asks for something to be done.
    Ask(Ask),
    /// Results of deliveries.
    Settle(Settle),
    /// A worker introduces itself on a new stream.
    Hello(Box<Hello>),
    /// A frame of any kind came: the worker lives, and has received this much.
    Heard {
        /// The stream.
        link: LinkId,
        /// How many deliveries of this stream it has received, counted over all of the stream's
        /// [`super::effect::Effect::Deliver`]s in their order. (The shell numbers frames and knows how many each held.)
        received: u64,
    },
    /// A new window of credit.
    Capacity {
        /// The stream.
        link: LinkId,
        /// The window.
        capacity: Capacity,
    },
    /// The worker wants no more jobs.
    Drain {
        /// The stream.
        link: LinkId,
    },
    /// A stream ended, or was closed for silence (then the session lives on until its time is over).
    LinkLost {
        /// The stream.
        link: LinkId,
        /// The transport reported the end; else it was mere silence.
        reported: bool,
    },
    /// A session asks for more time, without a stream.
    Extend {
        /// Where the answer goes.
        call: CallId,
        /// The session.
        session: Uuid,
        /// Its secret.
        secret: Uuid,
    },
    /// The store reserved ids, from the first to the one before the last.
    IdsReserved {
        /// The first.
        first: JobId,
        /// One after the last.
        end: JobId,
    },
    /// The answer to a look-up.
    Found(Found),
    /// The answer to a fetch.
    Fetched(Fetched),
    /// Rows of the inbox to take in, in this order. The core gives them to itself.
    Inbox(Vec<Arc<InboxRow>>),
    /// The answer to a look into the inbox.
    Intake(Intake),
    /// Somebody says that there is something in the inbox.
    Rung,
    /// A look-up, a fetch or a look failed, without effect: ask again.
    QuestionFailed {
        /// Its id.
        id: u64,
    },
    /// Retention has come this far.
    Retain(Milestone),
    /// Every broker of the cell reads this format.
    RaiseFormat(Format),
    /// Time passed.
    Tick,
}

/// A call's id by its client, and a digest of what it asks (C2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The id.
    pub id: Arc<str>,
    /// The digest.
    pub digest: Uuid,
}

/// Somebody defers jobs.
#[derive(Clone, Debug)]
pub struct Defer {
    /// Where the answer goes.
    pub call: CallId,
    /// The client's id of the whole call.
    pub request: Option<Request>,
    /// The jobs.
    pub items: Vec<DeferItem>,
    /// Each item gets its own answer. Else all or nothing.
    pub independent: bool,
}

/// One job to defer.
#[derive(Clone, Debug)]
pub struct DeferItem {
    /// The client's id of the item, in an independent batch.
    pub request: Option<Request>,
    /// What to run.
    pub spec: Arc<JobSpec>,
    /// What to do if a job that never started carries its queueing lock.
    pub on_conflict: OnConflict,
}

/// What a defer does that meets a taken queueing lock (C10).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnConflict {
    /// It is refused.
    #[default]
    Reject,
    /// The waiting job takes the new due time.
    Reschedule,
    /// The waiting job takes the new arguments and the new due time.
    Replace,
}

/// Results of deliveries, in one frame or call.
#[derive(Clone, Debug)]
pub struct Settle {
    /// Who asks.
    pub from: SettleFrom,
    /// The results.
    pub results: Vec<(Lease, End)>,
}

/// Where the acknowledgement goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SettleFrom {
    /// A frame of a stream. `None`: part of a frame, of which another part follows.
    Link(LinkId, Option<u64>),
    /// A unary call.
    Call(CallId),
}

/// How a delivery ended, as the worker says.
#[derive(Clone, Debug, PartialEq)]
pub enum End {
    /// The handler succeeded; JSON text if it gave a result.
    Succeeded(Option<Bytes>),
    /// The attempt failed.
    Failed(Box<Failed>),
    /// The handler stopped because it was told to.
    Cancelled(String),
    /// Given back without an attempt, for some time.
    Released {
        /// Why.
        reason: String,
        /// When it is due again.
        delay: std::time::Duration,
    },
    /// Put off without an attempt.
    Snoozed(std::time::Duration),
    /// What the worker said cannot be recorded as it is: the job fails, reason `UNRECORDABLE`, with this message.
    Unrecordable(String),
}

/// A failed attempt.
#[derive(Clone, Debug, PartialEq)]
pub struct Failed {
    /// What went wrong.
    pub failure: Failure,
    /// Another attempt is useless.
    pub never_retry: bool,
    /// The worker's own decision to try again.
    pub retry: Option<RetryDecision>,
}

/// The worker's own decision to try again.
#[derive(Clone, Debug, PartialEq)]
pub struct RetryDecision {
    /// After this time.
    pub delay: std::time::Duration,
    /// With these changes.
    pub changed: Changed,
}

/// A worker introduces itself.
#[derive(Clone, Debug)]
pub struct Hello {
    /// Its stream.
    pub link: LinkId,
    /// The id that a new session gets. From the shell, since the core has no randomness.
    pub new_session: Uuid,
    /// The secret that a new session gets.
    pub new_secret: Uuid,
    /// Its queues. Empty: every queue.
    pub queues: Vec<Arc<str>>,
    /// Its tasks, and how many of each may be outstanding (0: no limit of its own).
    pub tasks: Vec<(Arc<str>, u32)>,
    /// The first window of credit.
    pub capacity: Capacity,
    /// It wants to hear when nothing is left for it.
    pub wants_caught_up: bool,
    /// Goes on with a session.
    pub resume: Option<Resume>,
}

/// Goes on with a session.
#[derive(Clone, Debug)]
pub struct Resume {
    /// The session.
    pub session: Uuid,
    /// Its secret.
    pub secret: Uuid,
    /// Everything that the worker holds.
    pub leases: Vec<Lease>,
}

/// A window of credit, absolute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capacity {
    /// A lower one than the last is ignored.
    pub revision: u64,
    /// How many jobs may be outstanding.
    pub max_jobs: u32,
    /// How many bytes of arguments. 0: no limit.
    pub max_bytes: u64,
    /// Takes no new jobs.
    pub paused: bool,
}
