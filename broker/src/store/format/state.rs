//! A checkpoint: the whole state of the core.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;

use super::{
    LOWEST, corrupt, open,
    record::RecordMessage,
    schedule::ScheduleMessage,
    seal,
    words::{PauseMessage, decode_place, encode_place, uuid},
};
use crate::{
    core::{
        job::Verdict,
        place::{PlaceKey, PlaceState},
        state::{SessionRecord, State},
        types::{Format, JobId, LockId, QueueNo, SessionNo},
    },
    store::StoreError,
};

#[derive(Clone, PartialEq, prost::Message)]
struct StateMessage {
    #[prost(string, repeated, tag = "1")]
    queues: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    tasks: Vec<String>,
    #[prost(message, repeated, tag = "3")]
    jobs: Vec<JobMessage>,
    #[prost(message, repeated, tag = "4")]
    places: Vec<PlaceMessage>,
    #[prost(message, repeated, tag = "5")]
    parked_with_lock: Vec<LockCountMessage>,
    #[prost(uint64, tag = "6")]
    parked_with_queueing_lock: u64,
    #[prost(message, repeated, tag = "7")]
    sessions: Vec<SessionMessage>,
    #[prost(uint32, tag = "8")]
    next_session: u32,
    #[prost(message, repeated, tag = "9")]
    paused: Vec<PausedQueueMessage>,
    #[prost(message, repeated, tag = "10")]
    finished: Vec<FinishedMessage>,
    #[prost(message, repeated, tag = "20")]
    schedules: Vec<ScheduleMessage>,
    #[prost(int64, tag = "23")]
    kept_below: i64,
    #[prost(int64, tag = "24")]
    moved_below: i64,
    #[prost(message, repeated, tag = "25")]
    forgotten: Vec<FinishedMessage>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct JobMessage {
    /// The difference to the id before.
    #[prost(sint64, tag = "1")]
    id_delta: i64,
    #[prost(message, optional, tag = "2")]
    record: Option<RecordMessage>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PlaceMessage {
    #[prost(bytes = "vec", tag = "1")]
    place: Vec<u8>,
    #[prost(uint64, tag = "2")]
    count: u64,
    #[prost(sint64, tag = "3")]
    low_sort: i64,
    #[prost(sint64, tag = "4")]
    low_id: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct LockCountMessage {
    #[prost(bytes = "vec", tag = "1")]
    lock: Vec<u8>,
    #[prost(uint64, tag = "2")]
    count: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct SessionMessage {
    #[prost(uint32, tag = "1")]
    no: u32,
    #[prost(bytes = "vec", tag = "2")]
    id: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    secret: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PausedQueueMessage {
    #[prost(uint32, tag = "1")]
    queue: u32,
    #[prost(message, optional, tag = "2")]
    pause: Option<PauseMessage>,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct FinishedMessage {
    #[prost(uint32, tag = "1")]
    queue: u32,
    #[prost(uint32, tag = "2")]
    verdict: u32,
    #[prost(uint64, tag = "3")]
    count: u64,
}

/// The bytes of a checkpoint, in the format that the state says.
pub fn encode_state(state: &State) -> Bytes {
    let mut before = 0;
    let jobs = state.jobs.iter().map(|(id, record)| {
        let id_delta = id.0.wrapping_sub(before);
        before = id.0;
        JobMessage { id_delta, record: Some(RecordMessage::with_run(record, state.run(id))) }
    });
    let message = StateMessage {
        jobs: jobs.collect(),
        queues: state.queues.iter().map(|name| name.as_ref().to_owned()).collect(),
        tasks: state.tasks.iter().map(|name| name.as_ref().to_owned()).collect(),
        places: state
            .places
            .iter()
            .map(|(place, known)| PlaceMessage {
                place: encode_place(*place),
                count: known.count,
                low_sort: known.low.sort,
                low_id: known.low.id.0,
            })
            .collect(),
        parked_with_lock: state
            .parked_with_lock
            .iter()
            .map(|(lock, count)| LockCountMessage { lock: lock.0.as_bytes().to_vec(), count: *count })
            .collect(),
        parked_with_queueing_lock: state.parked_with_queueing_lock,
        sessions: state
            .sessions
            .iter()
            .map(|(no, session)| SessionMessage {
                no: no.0,
                id: session.id.as_bytes().to_vec(),
                secret: session.secret.as_bytes().to_vec(),
            })
            .collect(),
        next_session: state.next_session,
        paused: state
            .paused
            .iter()
            .map(|(no, pause)| PausedQueueMessage { queue: no.0, pause: Some(pause.into()) })
            .collect(),
        finished: count_messages(&state.finished),
        forgotten: count_messages(&state.forgotten),
        schedules: state.schedules.values().map(ScheduleMessage::of_record).collect(),
        kept_below: state.kept_below.0,
        moved_below: state.moved_below.0,
    };
    seal(&message, state.format).into()
}

/// Reads a checkpoint whose format is `known` at most.
pub fn decode_state(bytes: &[u8], known: Format) -> Result<State, StoreError> {
    let (format, message): (_, StateMessage) = open(bytes, known)?;
    let mut state = State::default();
    state.format = format.max(LOWEST);
    state.queues.extend(message.queues.into_iter().map(Arc::from));
    state.tasks.extend(message.tasks.into_iter().map(Arc::from));
    state.parked_with_queueing_lock = message.parked_with_queueing_lock;
    state.next_session = message.next_session;
    state.kept_below = JobId(message.kept_below);
    state.moved_below = JobId(message.moved_below);
    for message in message.paused {
        let pause = message.pause.ok_or_else(|| corrupt("a pause that says nothing"))?;
        state.paused.insert(QueueNo(message.queue), pause.into());
    }
    let mut id = 0_i64;
    for job in message.jobs {
        id = id.wrapping_add(job.id_delta);
        let record = job.record.ok_or_else(|| corrupt("a job without its record"))?;
        if let Some(run) = record.run() {
            state.runs.insert(JobId(id), run);
        }
        if state.jobs.insert(JobId(id), record.try_into()?).is_some() {
            return Err(corrupt("a job is there twice"));
        }
    }
    for message in message.places {
        let low = PlaceKey { sort: message.low_sort, id: JobId(message.low_id) };
        state.places.insert(decode_place(&message.place)?, PlaceState { count: message.count, low });
    }
    for message in message.parked_with_lock {
        state.parked_with_lock.insert(LockId(uuid(&message.lock)?), message.count);
    }
    for message in message.sessions {
        let session = SessionRecord { id: uuid(&message.id)?, secret: uuid(&message.secret)? };
        state.sessions.insert(SessionNo(message.no), session);
    }
    state.finished = counts(message.finished)?;
    state.forgotten = counts(message.forgotten)?;
    for message in message.schedules {
        let record = message.record()?;
        state.schedules.insert(record.schedule.name.clone(), record);
    }
    state.number_names();
    Ok(state)
}

fn count_messages(counts: &BTreeMap<(QueueNo, Verdict), u64>) -> Vec<FinishedMessage> {
    let message = |((queue, verdict), count): (&(QueueNo, Verdict), &u64)| FinishedMessage {
        queue: queue.0,
        verdict: *verdict as u32,
        count: *count,
    };
    counts.iter().map(message).collect()
}

fn counts(messages: Vec<FinishedMessage>) -> Result<BTreeMap<(QueueNo, Verdict), u64>, StoreError> {
    let count = |message: FinishedMessage| {
        let verdict = u8::try_from(message.verdict).ok().and_then(Verdict::from_number);
        let verdict = verdict.ok_or_else(|| corrupt("an unknown verdict"))?;
        Ok(((QueueNo(message.queue), verdict), message.count))
    };
    messages.into_iter().map(count).collect()
}
