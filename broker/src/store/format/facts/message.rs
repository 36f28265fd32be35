//! The columns as they are written.

use crate::store::format::{
    record::{RareMessage, RecordMessage},
    schedule::{ScheduleMessage, TickMessage},
    words::PauseMessage,
};

/// The kind of a fact, as `order` names it. Numbers are for ever.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub(super) enum Kind {
    QueueNamed = 0,
    TaskNamed = 1,
    Created = 2,
    Due = 3,
    Started = 4,
    CancelRequested = 5,
    Finished = 6,
    Returned = 7,
    Parked = 8,
    Unparked = 9,
    PlaceMoved = 10,
    SessionOpened = 11,
    SessionClosed = 12,
    QueuePaused = 13,
    Reopened = 14,
    Rescheduled = 15,
    Replaced = 16,
    Deleted = 17,
    SchedulePut = 18,
    ScheduleDeleted = 19,
    ScheduleTicked = 20,
    KeptBelow = 23,
    MovedBelow = 24,
    Forgotten = 25,
    FormatRaised = 26,
}

const KINDS: [Kind; 25] = [
    Kind::QueueNamed,
    Kind::TaskNamed,
    Kind::Created,
    Kind::Due,
    Kind::Started,
    Kind::CancelRequested,
    Kind::Finished,
    Kind::Returned,
    Kind::Parked,
    Kind::Unparked,
    Kind::PlaceMoved,
    Kind::SessionOpened,
    Kind::SessionClosed,
    Kind::QueuePaused,
    Kind::Reopened,
    Kind::Rescheduled,
    Kind::Replaced,
    Kind::Deleted,
    Kind::SchedulePut,
    Kind::ScheduleDeleted,
    Kind::ScheduleTicked,
    Kind::KeptBelow,
    Kind::MovedBelow,
    Kind::Forgotten,
    Kind::FormatRaised,
];

impl Kind {
    /// The kind of this number.
    pub(super) fn from_number(number: u64) -> Option<Self> {
        KINDS.into_iter().find(|kind| *kind as u64 == number)
    }
}

/// How many facts of each kind a row has, by the number of the kind.
pub(super) type Counts = [usize; 1 << KIND_BITS];

/// A run in `order` is (its length - 1) << `KIND_BITS` | its kind: one byte for up to four facts.
pub(super) const KIND_BITS: u32 = 5;

/// [`KIND_BITS`] of format 1.
pub(super) const KIND_BITS_1: u32 = 4;

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct FactsMessage {
    #[prost(uint64, repeated, tag = "1")]
    pub(super) order: Vec<u64>,
    #[prost(message, optional, tag = "2")]
    pub(super) names: Option<NamesMessage>,
    #[prost(message, optional, tag = "3")]
    pub(super) created: Option<CreatedMessage>,
    #[prost(sint64, repeated, tag = "4")]
    pub(super) due_ids: Vec<i64>,
    #[prost(message, optional, tag = "5")]
    pub(super) started: Option<StartedMessage>,
    #[prost(sint64, repeated, tag = "6")]
    pub(super) cancel_requested_ids: Vec<i64>,
    #[prost(message, optional, tag = "7")]
    pub(super) finished: Option<FinishedMessage>,
    #[prost(message, optional, tag = "8")]
    pub(super) returned: Option<ReturnedMessage>,
    #[prost(message, optional, tag = "9")]
    pub(super) parked: Option<PlacesMessage>,
    #[prost(message, optional, tag = "10")]
    pub(super) unparked: Option<PlacesMessage>,
    #[prost(message, repeated, tag = "11")]
    pub(super) unparked_records: Vec<RecordMessage>,
    #[prost(message, optional, tag = "12")]
    pub(super) places_moved: Option<PlacesMessage>,
    #[prost(message, optional, tag = "13")]
    pub(super) sessions: Option<SessionsMessage>,
    #[prost(message, optional, tag = "14")]
    pub(super) paused: Option<PausedMessage>,
    #[prost(message, optional, tag = "15")]
    pub(super) reopened: Option<ReopenedMessage>,
    #[prost(message, optional, tag = "16")]
    pub(super) rescheduled: Option<RescheduledMessage>,
    #[prost(message, optional, tag = "17")]
    pub(super) replaced: Option<ReplacedMessage>,
    #[prost(message, optional, tag = "18")]
    pub(super) deleted: Option<DeletedMessage>,
    #[prost(message, repeated, tag = "19")]
    pub(super) schedules_put: Vec<ScheduleMessage>,
    #[prost(string, repeated, tag = "20")]
    pub(super) schedules_deleted: Vec<String>,
    #[prost(message, repeated, tag = "21")]
    pub(super) schedules_ticked: Vec<TickMessage>,
    #[prost(sint64, repeated, tag = "23")]
    pub(super) kept_below: Vec<i64>,
    #[prost(sint64, repeated, tag = "24")]
    pub(super) moved_below: Vec<i64>,
    #[prost(message, repeated, tag = "25")]
    pub(super) forgotten: Vec<ForgottenMessage>,
    #[prost(uint32, repeated, tag = "26")]
    pub(super) formats: Vec<u32>,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct ForgottenMessage {
    #[prost(uint32, tag = "1")]
    pub(super) queue: u32,
    #[prost(uint32, tag = "2")]
    pub(super) verdict: u32,
    #[prost(uint64, tag = "3")]
    pub(super) jobs: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct NamesMessage {
    #[prost(uint32, repeated, tag = "1")]
    pub(super) queue_numbers: Vec<u32>,
    #[prost(string, repeated, tag = "2")]
    pub(super) queue_names: Vec<String>,
    #[prost(uint32, repeated, tag = "3")]
    pub(super) task_numbers: Vec<u32>,
    #[prost(string, repeated, tag = "4")]
    pub(super) task_names: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct StreamsMessage {
    #[prost(uint32, repeated, tag = "1")]
    pub(super) queues: Vec<u32>,
    #[prost(uint32, repeated, tag = "2")]
    pub(super) tasks: Vec<u32>,
    #[prost(sint32, repeated, tag = "3")]
    pub(super) priorities: Vec<i32>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct CreatedMessage {
    #[prost(sint64, repeated, tag = "1")]
    pub(super) ids: Vec<i64>,
    #[prost(message, optional, tag = "2")]
    pub(super) streams: Option<StreamsMessage>,
    #[prost(bool, repeated, tag = "3")]
    pub(super) scheduled: Vec<bool>,
    #[prost(sint64, repeated, tag = "4")]
    pub(super) dues: Vec<i64>,
    #[prost(uint32, repeated, tag = "5")]
    pub(super) args_bytes: Vec<u32>,
    /// Which of the created jobs have something rare, counted from 0.
    #[prost(uint32, repeated, tag = "6")]
    pub(super) rare_at: Vec<u32>,
    #[prost(message, repeated, tag = "7")]
    pub(super) rare: Vec<RareMessage>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct StartedMessage {
    #[prost(sint64, repeated, tag = "1")]
    pub(super) ids: Vec<i64>,
    #[prost(uint32, repeated, tag = "2")]
    pub(super) sessions: Vec<u32>,
    #[prost(sint64, repeated, tag = "3")]
    pub(super) at: Vec<i64>,
    #[prost(fixed64, repeated, tag = "4")]
    pub(super) nonces: Vec<u64>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct FinishedMessage {
    #[prost(sint64, repeated, tag = "1")]
    pub(super) ids: Vec<i64>,
    #[prost(uint32, repeated, tag = "2")]
    pub(super) verdicts: Vec<u32>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ReturnedMessage {
    #[prost(sint64, repeated, tag = "1")]
    pub(super) ids: Vec<i64>,
    #[prost(uint32, repeated, tag = "2")]
    pub(super) verdicts: Vec<u32>,
    #[prost(sint64, repeated, tag = "3")]
    pub(super) dues: Vec<i64>,
    #[prost(bool, repeated, tag = "4")]
    pub(super) waiting: Vec<bool>,
    #[prost(message, optional, tag = "5")]
    pub(super) streams: Option<StreamsMessage>,
    /// Which of the returned jobs have a lock, counted from 0.
    #[prost(uint32, repeated, tag = "6")]
    pub(super) lock_at: Vec<u32>,
    #[prost(bytes = "vec", repeated, tag = "7")]
    pub(super) locks: Vec<Vec<u8>>,
}

/// Positions in places. A run in one place names it once.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct PlacesMessage {
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub(super) places: Vec<Vec<u8>>,
    /// How many positions in a row lie in each of them.
    #[prost(uint32, repeated, tag = "2")]
    pub(super) runs: Vec<u32>,
    #[prost(sint64, repeated, tag = "3")]
    pub(super) sorts: Vec<i64>,
    #[prost(sint64, repeated, tag = "4")]
    pub(super) key_ids: Vec<i64>,
    /// Where an id differs from its key's, which no core does: all ids.
    #[prost(sint64, repeated, tag = "5")]
    pub(super) ids: Vec<i64>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct SessionsMessage {
    #[prost(uint32, repeated, tag = "1")]
    pub(super) opened: Vec<u32>,
    #[prost(bytes = "vec", repeated, tag = "2")]
    pub(super) ids: Vec<Vec<u8>>,
    #[prost(bytes = "vec", repeated, tag = "3")]
    pub(super) secrets: Vec<Vec<u8>>,
    #[prost(uint32, repeated, tag = "4")]
    pub(super) closed: Vec<u32>,
}

/// Facts that people cause one by one are kept as they are.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct PausedMessage {
    #[prost(message, repeated, tag = "1")]
    pub(super) queues: Vec<QueuePausedMessage>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct QueuePausedMessage {
    #[prost(uint32, tag = "1")]
    pub(super) queue: u32,
    #[prost(message, optional, tag = "2")]
    pub(super) pause: Option<PauseMessage>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ReopenedMessage {
    #[prost(sint64, repeated, tag = "1")]
    pub(super) ids: Vec<i64>,
    #[prost(uint32, repeated, tag = "2")]
    pub(super) verdicts: Vec<u32>,
    #[prost(message, repeated, tag = "3")]
    pub(super) records: Vec<RecordMessage>,
}

/// Debounced defers make many of these.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct RescheduledMessage {
    #[prost(sint64, repeated, tag = "1")]
    pub(super) ids: Vec<i64>,
    #[prost(sint64, repeated, tag = "2")]
    pub(super) dues: Vec<i64>,
    #[prost(bool, repeated, tag = "3")]
    pub(super) waiting: Vec<bool>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ReplacedMessage {
    #[prost(sint64, repeated, tag = "1")]
    pub(super) ids: Vec<i64>,
    #[prost(uint32, repeated, tag = "2")]
    pub(super) args_bytes: Vec<u32>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct DeletedMessage {
    #[prost(sint64, repeated, tag = "1")]
    pub(super) ids: Vec<i64>,
    #[prost(uint32, repeated, tag = "2")]
    pub(super) queues: Vec<u32>,
    #[prost(uint32, repeated, tag = "3")]
    pub(super) verdicts: Vec<u32>,
}
