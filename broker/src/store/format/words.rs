//! Small words that many messages share: streams, places, uuids, durations, answers.

use std::time::Duration;

use uuid::Uuid;

use super::{HIGHEST, corrupt, open, seal};
use crate::{
    core::{
        ask::By,
        batch::Answer,
        place::Place,
        state::Pause,
        types::{Format, JobId, LockId, QueueNo, Stream, TaskNo, Timestamp},
    },
    store::StoreError,
};

/// A stream: queue, task and priority.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct StreamMessage {
    #[prost(uint32, tag = "1")]
    queue: u32,
    #[prost(uint32, tag = "2")]
    task: u32,
    #[prost(sint32, tag = "3")]
    priority: i32,
}

impl From<Stream> for StreamMessage {
    fn from(stream: Stream) -> Self {
        Self { queue: stream.queue.0, task: stream.task.0, priority: i32::from(stream.priority) }
    }
}

impl TryFrom<StreamMessage> for Stream {
    type Error = StoreError;

    fn try_from(message: StreamMessage) -> Result<Self, StoreError> {
        stream(message.queue, message.task, message.priority)
    }
}

/// A stream of its parts.
pub(super) fn stream(queue: u32, task: u32, priority: i32) -> Result<Stream, StoreError> {
    let priority = i8::try_from(priority).map_err(|_| corrupt("a priority out of range"))?;
    Ok(Stream { queue: QueueNo(queue), task: TaskNo(task), priority })
}

const PLACE_STREAM: u8 = 1;
const PLACE_DUE: u8 = 2;
const PLACE_LOCK: u8 = 3;
const PLACE_STRICT: u8 = 4;

/// The bytes of a place, of which only equality matters. They have no format in front, since they are keys.
pub fn encode_place(place: Place) -> Vec<u8> {
    let of_stream = |kind, stream: Stream| {
        let mut bytes = Vec::with_capacity(10);
        bytes.push(kind);
        bytes.extend(stream.queue.0.to_be_bytes());
        bytes.extend(stream.task.0.to_be_bytes());
        bytes.extend(stream.priority.to_be_bytes());
        bytes
    };
    let of_lock = |kind, lock: LockId, queue: QueueNo, task: TaskNo| {
        let mut bytes = Vec::with_capacity(25);
        bytes.push(kind);
        bytes.extend(lock.0.as_bytes());
        bytes.extend(queue.0.to_be_bytes());
        bytes.extend(task.0.to_be_bytes());
        bytes
    };
    match place {
        Place::Stream(stream) => of_stream(PLACE_STREAM, stream),
        Place::Due(stream) => of_stream(PLACE_DUE, stream),
        Place::Lock(lock, queue, task) => of_lock(PLACE_LOCK, lock, queue, task),
        Place::Strict(lock, queue, task) => of_lock(PLACE_STRICT, lock, queue, task),
    }
}

/// Reads a place.
pub fn decode_place(bytes: &[u8]) -> Result<Place, StoreError> {
    let number = |at: usize| -> Option<u32> { Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?)) };
    let parse = || match (bytes.first()?, bytes.len()) {
        (&kind @ (PLACE_STREAM | PLACE_DUE), 10) => {
            let priority = i8::from_be_bytes([bytes[9]]);
            let stream = Stream { queue: QueueNo(number(1)?), task: TaskNo(number(5)?), priority };
            Some(if kind == PLACE_STREAM { Place::Stream(stream) } else { Place::Due(stream) })
        }
        (&kind @ (PLACE_LOCK | PLACE_STRICT), 25) => {
            let lock = LockId(Uuid::from_slice(&bytes[1..17]).ok()?);
            let (queue, task) = (QueueNo(number(17)?), TaskNo(number(21)?));
            Some(if kind == PLACE_LOCK { Place::Lock(lock, queue, task) } else { Place::Strict(lock, queue, task) })
        }
        _ => None,
    };
    parse().ok_or_else(|| corrupt("a malformed place"))
}

/// A UUID's bytes.
pub(super) fn uuid(bytes: &[u8]) -> Result<Uuid, StoreError> {
    Uuid::from_slice(bytes).map_err(|_| corrupt("a malformed uuid"))
}

/// A duration, to the nanosecond.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(super) struct DurationMessage {
    #[prost(uint64, tag = "1")]
    seconds: u64,
    #[prost(uint32, tag = "2")]
    nanos: u32,
}

impl From<Duration> for DurationMessage {
    fn from(duration: Duration) -> Self {
        Self { seconds: duration.as_secs(), nanos: duration.subsec_nanos() }
    }
}

impl From<DurationMessage> for Duration {
    fn from(message: DurationMessage) -> Self {
        // More nanoseconds than a second has are no panic: they are cut.
        Self::new(message.seconds, message.nanos.min(999_999_999))
    }
}

/// Since when a queue is paused, by whom, and why.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct PauseMessage {
    #[prost(sint64, tag = "1")]
    since: i64,
    #[prost(string, tag = "2")]
    who: String,
    #[prost(string, tag = "3")]
    why: String,
}

impl From<&Pause> for PauseMessage {
    fn from(pause: &Pause) -> Self {
        let By { who, why } = &pause.by;
        Self { since: pause.since.0, who: who.as_ref().to_owned(), why: why.as_ref().to_owned() }
    }
}

impl From<PauseMessage> for Pause {
    fn from(message: PauseMessage) -> Self {
        let by = By { who: message.who.into(), why: message.why.into() };
        Self { since: Timestamp(message.since), by }
    }
}

/// The answer to a call that is remembered.
#[derive(Clone, PartialEq, prost::Message)]
struct AnswerMessage {
    #[prost(oneof = "AnswerKind", tags = "1, 2, 3, 4, 5, 6, 7, 10, 11")]
    kind: Option<AnswerKind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum AnswerKind {
    #[prost(message, tag = "1")]
    Deferred(DeferredMessage),
    #[prost(message, tag = "2")]
    DeferredIds(DeferredIdsMessage),
    #[prost(uint32, tag = "3")]
    Cancelled(u32),
    #[prost(uint32, tag = "4")]
    Moved(u32),
    #[prost(message, tag = "5")]
    Deleted(()),
    #[prost(message, tag = "6")]
    Paused(PauseMessage),
    #[prost(message, tag = "7")]
    Resumed(()),
    #[prost(bool, tag = "10")]
    ScheduleChanged(bool),
    #[prost(bool, tag = "11")]
    Recorded(bool),
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct DeferredMessage {
    #[prost(int64, tag = "1")]
    first: i64,
    #[prost(uint32, tag = "2")]
    count: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct DeferredIdsMessage {
    #[prost(int64, repeated, tag = "1")]
    ids: Vec<i64>,
}

/// The bytes of an answer, in this format.
pub fn encode_answer(answer: &Answer, format: Format) -> Vec<u8> {
    let kind = match answer {
        Answer::Deferred { first, count } => AnswerKind::Deferred(DeferredMessage { first: first.0, count: *count }),
        Answer::DeferredIds(ids) => {
            AnswerKind::DeferredIds(DeferredIdsMessage { ids: ids.iter().map(|id| id.0).collect() })
        }
        Answer::Cancelled { state } => AnswerKind::Cancelled(u32::from(*state)),
        Answer::Moved { state } => AnswerKind::Moved(u32::from(*state)),
        Answer::Deleted => AnswerKind::Deleted(()),
        Answer::Paused(pause) => AnswerKind::Paused(pause.into()),
        Answer::Resumed => AnswerKind::Resumed(()),
        Answer::ScheduleChanged => AnswerKind::ScheduleChanged(true),
        Answer::Recorded => AnswerKind::Recorded(true),
    };
    seal(&AnswerMessage { kind: Some(kind) }, format)
}

/// Reads an answer.
pub fn decode_answer(bytes: &[u8]) -> Result<Answer, StoreError> {
    match open::<AnswerMessage>(bytes, HIGHEST)?.1.kind {
        Some(AnswerKind::Deferred(DeferredMessage { first, count })) => {
            Ok(Answer::Deferred { first: JobId(first), count })
        }
        Some(AnswerKind::DeferredIds(message)) => Ok(Answer::DeferredIds(message.ids.into_iter().map(JobId).collect())),
        Some(AnswerKind::Cancelled(state)) => Ok(Answer::Cancelled { state: job_state(state)? }),
        Some(AnswerKind::Moved(state)) => Ok(Answer::Moved { state: job_state(state)? }),
        Some(AnswerKind::Deleted(())) => Ok(Answer::Deleted),
        Some(AnswerKind::Paused(pause)) => Ok(Answer::Paused(pause.into())),
        Some(AnswerKind::Resumed(())) => Ok(Answer::Resumed),
        Some(AnswerKind::ScheduleChanged(_)) => Ok(Answer::ScheduleChanged),
        Some(AnswerKind::Recorded(_)) => Ok(Answer::Recorded),
        None => Err(corrupt("an answer of an unknown kind")),
    }
}

fn job_state(number: u32) -> Result<u8, StoreError> {
    u8::try_from(number).map_err(|_| corrupt("a malformed state"))
}
