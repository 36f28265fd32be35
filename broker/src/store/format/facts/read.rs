//! From columns to facts. Columns that do not fit together are [`StoreError::Corrupt`].

use std::sync::Arc;

use super::message::{
    Counts, CreatedMessage, FactsMessage, ForgottenMessage, Kind, PlacesMessage, QueuePausedMessage, ReturnedMessage,
    StreamsMessage,
};
use crate::{
    core::{
        fact::Fact,
        job::{Rare, Record, Verdict},
        place::{Place, PlaceKey},
        types::{Format, JobId, LockId, QueueNo, SessionNo, Stream, TaskNo, Timestamp},
    },
    store::{
        StoreError,
        format::{
            column::{Column, Deltas},
            corrupt,
            record::{RareMessage, RecordMessage},
            schedule::{ScheduleMessage, TickMessage},
            words::{decode_place, stream, uuid},
        },
    },
};

/// A session: its number, its id, its secret.
type Opened = ((u32, Vec<u8>), Vec<u8>);

/// Gives the facts of a row again, one by one.
pub(super) struct FactsReader {
    queue_names: std::vec::IntoIter<(u32, String)>,
    task_names: std::vec::IntoIter<(u32, String)>,
    created: CreatedReader,
    due_ids: Deltas,
    started_ids: Deltas,
    started_sessions: Column<u32>,
    started_at: Deltas,
    started_nonces: Column<u64>,
    cancel_requested_ids: Deltas,
    finished_ids: Deltas,
    finished_verdicts: Column<u32>,
    returned: ReturnedReader,
    parked: PlacesReader,
    unparked: PlacesReader,
    unparked_records: std::vec::IntoIter<RecordMessage>,
    places_moved: PlacesReader,
    opened: std::vec::IntoIter<Opened>,
    closed: std::vec::IntoIter<u32>,
    paused: std::vec::IntoIter<QueuePausedMessage>,
    reopened_ids: Deltas,
    reopened_verdicts: Column<u32>,
    reopened_records: std::vec::IntoIter<RecordMessage>,
    rescheduled_ids: Deltas,
    rescheduled_dues: Deltas,
    rescheduled_waiting: Column<bool>,
    replaced_ids: Deltas,
    replaced_args_bytes: Column<u32>,
    deleted_ids: Deltas,
    deleted_queues: Column<u32>,
    deleted_verdicts: Column<u32>,
    schedules_put: std::vec::IntoIter<ScheduleMessage>,
    schedules_deleted: std::vec::IntoIter<String>,
    schedules_ticked: std::vec::IntoIter<TickMessage>,
    kept_below: std::vec::IntoIter<i64>,
    moved_below: std::vec::IntoIter<i64>,
    forgotten: std::vec::IntoIter<ForgottenMessage>,
    formats: std::vec::IntoIter<u32>,
}

impl FactsReader {
    /// `counts` is how many facts there are of each kind.
    pub(super) fn new(message: FactsMessage, counts: &Counts) -> Result<Self, StoreError> {
        let count = |kind: Kind| counts[kind as usize];
        let names = message.names.unwrap_or_default();
        let started = message.started.unwrap_or_default();
        let finished = message.finished.unwrap_or_default();
        let sessions = message.sessions.unwrap_or_default();
        let reopened = message.reopened.unwrap_or_default();
        let rescheduled = message.rescheduled.unwrap_or_default();
        let replaced = message.replaced.unwrap_or_default();
        let deleted = message.deleted.unwrap_or_default();
        let zip_names = |numbers: Vec<u32>, names: Vec<String>| numbers.into_iter().zip(names).collect::<Vec<_>>();
        let opened: Vec<_> = sessions.opened.into_iter().zip(sessions.ids).zip(sessions.secrets).collect();
        Ok(Self {
            queue_names: zip_names(names.queue_numbers, names.queue_names).into_iter(),
            task_names: zip_names(names.task_numbers, names.task_names).into_iter(),
            created: CreatedReader::new(message.created.unwrap_or_default(), count(Kind::Created))?,
            due_ids: Deltas::new(message.due_ids, count(Kind::Due))?,
            started_ids: Deltas::new(started.ids, count(Kind::Started))?,
            started_sessions: Column::new(started.sessions, count(Kind::Started))?,
            started_at: Deltas::new(started.at, count(Kind::Started))?,
            started_nonces: Column::new(started.nonces, count(Kind::Started))?,
            cancel_requested_ids: Deltas::new(message.cancel_requested_ids, count(Kind::CancelRequested))?,
            finished_ids: Deltas::new(finished.ids, count(Kind::Finished))?,
            finished_verdicts: Column::new(finished.verdicts, count(Kind::Finished))?,
            returned: ReturnedReader::new(message.returned.unwrap_or_default(), count(Kind::Returned))?,
            parked: PlacesReader::new(message.parked.unwrap_or_default(), count(Kind::Parked))?,
            unparked: PlacesReader::new(message.unparked.unwrap_or_default(), count(Kind::Unparked))?,
            unparked_records: message.unparked_records.into_iter(),
            places_moved: PlacesReader::new(message.places_moved.unwrap_or_default(), count(Kind::PlaceMoved))?,
            opened: opened.into_iter(),
            closed: sessions.closed.into_iter(),
            paused: message.paused.unwrap_or_default().queues.into_iter(),
            reopened_ids: Deltas::new(reopened.ids, count(Kind::Reopened))?,
            reopened_verdicts: Column::new(reopened.verdicts, count(Kind::Reopened))?,
            reopened_records: reopened.records.into_iter(),
            rescheduled_ids: Deltas::new(rescheduled.ids, count(Kind::Rescheduled))?,
            rescheduled_dues: Deltas::new(rescheduled.dues, count(Kind::Rescheduled))?,
            rescheduled_waiting: Column::new(rescheduled.waiting, count(Kind::Rescheduled))?,
            replaced_ids: Deltas::new(replaced.ids, count(Kind::Replaced))?,
            replaced_args_bytes: Column::new(replaced.args_bytes, count(Kind::Replaced))?,
            deleted_ids: Deltas::new(deleted.ids, count(Kind::Deleted))?,
            deleted_queues: Column::new(deleted.queues, count(Kind::Deleted))?,
            deleted_verdicts: Column::new(deleted.verdicts, count(Kind::Deleted))?,
            schedules_put: message.schedules_put.into_iter(),
            schedules_deleted: message.schedules_deleted.into_iter(),
            schedules_ticked: message.schedules_ticked.into_iter(),
            kept_below: message.kept_below.into_iter(),
            moved_below: message.moved_below.into_iter(),
            forgotten: message.forgotten.into_iter(),
            formats: message.formats.into_iter(),
        })
    }

    /// The next fact of this kind.
    pub(super) fn next(&mut self, kind: Kind) -> Result<Fact, StoreError> {
        Ok(match kind {
            Kind::QueueNamed => {
                let (no, name) = self.queue_names.next().ok_or_else(too_short)?;
                Fact::QueueNamed { no: QueueNo(no), name: Arc::from(name) }
            }
            Kind::TaskNamed => {
                let (no, name) = self.task_names.next().ok_or_else(too_short)?;
                Fact::TaskNamed { no: TaskNo(no), name: Arc::from(name) }
            }
            Kind::Created => self.created.next()?,
            Kind::Due => Fact::Due { id: JobId(self.due_ids.next()) },
            Kind::Started => Fact::Started {
                id: JobId(self.started_ids.next()),
                session: SessionNo(self.started_sessions.next()),
                at: Timestamp(self.started_at.next()),
                nonce: self.started_nonces.next(),
            },
            Kind::CancelRequested => Fact::CancelRequested { id: JobId(self.cancel_requested_ids.next()) },
            Kind::Finished => {
                Fact::Finished { id: JobId(self.finished_ids.next()), verdict: verdict(self.finished_verdicts.next())? }
            }
            Kind::Returned => self.returned.next()?,
            Kind::Parked => {
                let (id, place, key) = self.parked.next()?;
                Fact::Parked { id, place, key }
            }
            Kind::Unparked => {
                let (id, place, key) = self.unparked.next()?;
                let record = Record::try_from(self.unparked_records.next().ok_or_else(too_short)?)?;
                Fact::Unparked { id, place, key, record }
            }
            Kind::PlaceMoved => {
                let (_, place, low) = self.places_moved.next()?;
                Fact::PlaceMoved { place, low }
            }
            Kind::SessionOpened => {
                let ((no, id), secret) = self.opened.next().ok_or_else(too_short)?;
                Fact::SessionOpened { no: SessionNo(no), id: uuid(&id)?, secret: uuid(&secret)? }
            }
            Kind::SessionClosed => Fact::SessionClosed { no: SessionNo(self.closed.next().ok_or_else(too_short)?) },
            Kind::QueuePaused => {
                let QueuePausedMessage { queue, pause } = self.paused.next().ok_or_else(too_short)?;
                Fact::QueuePaused { no: QueueNo(queue), pause: pause.map(Into::into) }
            }
            Kind::Reopened => Fact::Reopened {
                id: JobId(self.reopened_ids.next()),
                verdict: verdict(self.reopened_verdicts.next())?,
                record: self.reopened_records.next().ok_or_else(too_short)?.try_into()?,
            },
            Kind::Rescheduled => Fact::Rescheduled {
                id: JobId(self.rescheduled_ids.next()),
                due: Timestamp(self.rescheduled_dues.next()),
                waiting: self.rescheduled_waiting.next(),
            },
            Kind::Replaced => {
                Fact::Replaced { id: JobId(self.replaced_ids.next()), args_bytes: self.replaced_args_bytes.next() }
            }
            Kind::Deleted => Fact::Deleted {
                id: JobId(self.deleted_ids.next()),
                queue: QueueNo(self.deleted_queues.next()),
                verdict: verdict(self.deleted_verdicts.next())?,
            },
            Kind::SchedulePut => {
                let record = self.schedules_put.next().ok_or_else(too_short)?.record()?;
                Fact::SchedulePut { schedule: record.schedule, paused: record.paused, decided: record.decided }
            }
            Kind::ScheduleDeleted => {
                Fact::ScheduleDeleted { name: Arc::from(self.schedules_deleted.next().ok_or_else(too_short)?) }
            }
            Kind::ScheduleTicked => {
                let (name, tick, outcome) = self.schedules_ticked.next().ok_or_else(too_short)?.parts()?;
                Fact::ScheduleTicked { name, tick, outcome }
            }
            Kind::KeptBelow => Fact::KeptBelow { id: JobId(self.kept_below.next().ok_or_else(too_short)?) },
            Kind::MovedBelow => Fact::MovedBelow { id: JobId(self.moved_below.next().ok_or_else(too_short)?) },
            Kind::FormatRaised => {
                let format = u8::try_from(self.formats.next().ok_or_else(too_short)?);
                Fact::FormatRaised { format: Format(format.map_err(|_| corrupt("a format out of range"))?) }
            }
            Kind::Forgotten => {
                let message = self.forgotten.next().ok_or_else(too_short)?;
                Fact::Forgotten {
                    queue: QueueNo(message.queue),
                    verdict: verdict(message.verdict)?,
                    jobs: message.jobs,
                }
            }
        })
    }
}

struct StreamsReader {
    queues: Column<u32>,
    tasks: Column<u32>,
    priorities: Column<i32>,
}

impl StreamsReader {
    fn new(message: Option<StreamsMessage>, len: usize) -> Result<Self, StoreError> {
        let message = message.unwrap_or_default();
        Ok(Self {
            queues: Column::new(message.queues, len)?,
            tasks: Column::new(message.tasks, len)?,
            priorities: Column::new(message.priorities, len)?,
        })
    }

    fn next(&mut self) -> Result<Stream, StoreError> {
        stream(self.queues.next(), self.tasks.next(), self.priorities.next())
    }
}

struct CreatedReader {
    ids: Deltas,
    streams: StreamsReader,
    scheduled: Column<bool>,
    dues: Deltas,
    args_bytes: Column<u32>,
    rare: std::iter::Peekable<std::vec::IntoIter<(u32, RareMessage)>>,
    at: u32,
}

impl CreatedReader {
    fn new(message: CreatedMessage, len: usize) -> Result<Self, StoreError> {
        let rare: Vec<_> = message.rare_at.into_iter().zip(message.rare).collect();
        Ok(Self {
            ids: Deltas::new(message.ids, len)?,
            streams: StreamsReader::new(message.streams, len)?,
            scheduled: Column::new(message.scheduled, len)?,
            dues: Deltas::new(message.dues, len)?,
            args_bytes: Column::new(message.args_bytes, len)?,
            rare: rare.into_iter().peekable(),
            at: 0,
        })
    }

    fn next(&mut self) -> Result<Fact, StoreError> {
        let rare = self.rare.next_if(|(at, _)| *at == self.at).map(|(_, rare)| Rare::try_from(rare)).transpose()?;
        self.at += 1;
        Ok(Fact::Created {
            id: JobId(self.ids.next()),
            stream: self.streams.next()?,
            waiting: !self.scheduled.next(),
            due: Timestamp(self.dues.next()),
            args_bytes: self.args_bytes.next(),
            rare: rare.map(Box::new),
        })
    }
}

struct ReturnedReader {
    ids: Deltas,
    verdicts: Column<u32>,
    dues: Deltas,
    waiting: Column<bool>,
    streams: StreamsReader,
    locks: std::iter::Peekable<std::vec::IntoIter<(u32, Vec<u8>)>>,
    at: u32,
}

impl ReturnedReader {
    fn new(message: ReturnedMessage, len: usize) -> Result<Self, StoreError> {
        let locks: Vec<_> = message.lock_at.into_iter().zip(message.locks).collect();
        Ok(Self {
            ids: Deltas::new(message.ids, len)?,
            verdicts: Column::new(message.verdicts, len)?,
            dues: Deltas::new(message.dues, len)?,
            waiting: Column::new(message.waiting, len)?,
            streams: StreamsReader::new(message.streams, len)?,
            locks: locks.into_iter().peekable(),
            at: 0,
        })
    }

    fn next(&mut self) -> Result<Fact, StoreError> {
        let lock = self.locks.next_if(|(at, _)| *at == self.at).map(|(_, lock)| uuid(&lock)).transpose()?;
        self.at += 1;
        Ok(Fact::Returned {
            id: JobId(self.ids.next()),
            verdict: verdict(self.verdicts.next())?,
            due: Timestamp(self.dues.next()),
            waiting: self.waiting.next(),
            stream: self.streams.next()?,
            lock: lock.map(LockId),
        })
    }
}

struct PlacesReader {
    runs: std::vec::IntoIter<(Vec<u8>, u32)>,
    place: Option<Place>,
    left: u32,
    sorts: Deltas,
    key_ids: Deltas,
    ids: Option<Deltas>,
}

impl PlacesReader {
    fn new(message: PlacesMessage, len: usize) -> Result<Self, StoreError> {
        let runs: Vec<_> = message.places.into_iter().zip(message.runs).collect();
        let ids = (!message.ids.is_empty()).then(|| Deltas::new(message.ids, len)).transpose()?;
        Ok(Self {
            runs: runs.into_iter(),
            place: None,
            left: 0,
            sorts: Deltas::new(message.sorts, len)?,
            key_ids: Deltas::new(message.key_ids, len)?,
            ids,
        })
    }

    fn next(&mut self) -> Result<(JobId, Place, PlaceKey), StoreError> {
        while self.left == 0 {
            let (place, run) = self.runs.next().ok_or_else(too_short)?;
            self.place = Some(decode_place(&place)?);
            self.left = run;
        }
        self.left -= 1;
        let key = PlaceKey { sort: self.sorts.next(), id: JobId(self.key_ids.next()) };
        let id = self.ids.as_mut().map_or(key.id, |ids| JobId(ids.next()));
        Ok((id, self.place.ok_or_else(too_short)?, key))
    }
}

fn verdict(number: u32) -> Result<Verdict, StoreError> {
    u8::try_from(number).ok().and_then(Verdict::from_number).ok_or_else(|| corrupt("an unknown verdict"))
}

fn too_short() -> StoreError {
    corrupt("a column is shorter than its facts")
}
