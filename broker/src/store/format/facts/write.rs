//! From facts to columns.

use super::message::{
    CreatedMessage, DeletedMessage, FactsMessage, FinishedMessage, ForgottenMessage, KIND_BITS, Kind, NamesMessage,
    PausedMessage, PlacesMessage, QueuePausedMessage, ReopenedMessage, ReplacedMessage, RescheduledMessage,
    ReturnedMessage, SessionsMessage, StartedMessage, StreamsMessage,
};
use crate::{
    core::{
        fact::Fact,
        place::{Place, PlaceKey},
        types::{JobId, Stream},
    },
    store::format::{
        column::{pack, pack_deltas},
        record::{RareMessage, RecordMessage},
        schedule::{ScheduleMessage, TickMessage},
        words::{PauseMessage, encode_place},
    },
};

/// Gathers the columns of a row, fact by fact.
#[derive(Default)]
pub(super) struct FactsWriter {
    order: Vec<u64>,
    names: NamesMessage,
    created: CreatedMessage,
    created_streams: StreamsMessage,
    due_ids: Vec<i64>,
    started: StartedMessage,
    cancel_requested_ids: Vec<i64>,
    finished: FinishedMessage,
    returned: ReturnedMessage,
    returned_streams: StreamsMessage,
    parked: PlacesWriter,
    unparked: PlacesWriter,
    unparked_records: Vec<RecordMessage>,
    places_moved: PlacesWriter,
    sessions: SessionsMessage,
    paused: PausedMessage,
    reopened: ReopenedMessage,
    rescheduled: RescheduledMessage,
    replaced: ReplacedMessage,
    deleted: DeletedMessage,
    schedules_put: Vec<ScheduleMessage>,
    schedules_deleted: Vec<String>,
    schedules_ticked: Vec<TickMessage>,
    kept_below: Vec<i64>,
    moved_below: Vec<i64>,
    forgotten: Vec<ForgottenMessage>,
    formats: Vec<u32>,
}

impl FactsWriter {
    /// Takes in the next fact.
    pub(super) fn add(&mut self, fact: &Fact) {
        match fact {
            Fact::QueueNamed { no, name } => {
                self.run(Kind::QueueNamed);
                self.names.queue_numbers.push(no.0);
                self.names.queue_names.push(name.as_ref().to_owned());
            }
            Fact::TaskNamed { no, name } => {
                self.run(Kind::TaskNamed);
                self.names.task_numbers.push(no.0);
                self.names.task_names.push(name.as_ref().to_owned());
            }
            Fact::Created { id, stream, waiting, due, args_bytes, rare } => {
                self.run(Kind::Created);
                if let Some(rare) = rare {
                    self.created.rare_at.push(self.created.ids.len() as u32);
                    self.created.rare.push(RareMessage::from(rare.as_ref()));
                }
                self.created.ids.push(id.0);
                self.created_streams.push(*stream);
                self.created.scheduled.push(!*waiting);
                self.created.dues.push(due.0);
                self.created.args_bytes.push(*args_bytes);
            }
            Fact::Due { id } => {
                self.run(Kind::Due);
                self.due_ids.push(id.0);
            }
            Fact::Started { id, session, at, nonce } => {
                self.run(Kind::Started);
                self.started.ids.push(id.0);
                self.started.sessions.push(session.0);
                self.started.at.push(at.0);
                self.started.nonces.push(*nonce);
            }
            Fact::CancelRequested { id } => {
                self.run(Kind::CancelRequested);
                self.cancel_requested_ids.push(id.0);
            }
            Fact::Finished { id, verdict } => {
                self.run(Kind::Finished);
                self.finished.ids.push(id.0);
                self.finished.verdicts.push(*verdict as u32);
            }
            Fact::Returned { id, verdict, due, waiting, stream, lock } => {
                self.run(Kind::Returned);
                if let Some(lock) = lock {
                    self.returned.lock_at.push(self.returned.ids.len() as u32);
                    self.returned.locks.push(lock.0.as_bytes().to_vec());
                }
                self.returned.ids.push(id.0);
                self.returned.verdicts.push(*verdict as u32);
                self.returned.dues.push(due.0);
                self.returned.waiting.push(*waiting);
                self.returned_streams.push(*stream);
            }
            Fact::Parked { id, place, key } => {
                self.run(Kind::Parked);
                self.parked.push(*id, *place, *key);
            }
            Fact::Unparked { id, place, key, record } => {
                self.run(Kind::Unparked);
                self.unparked.push(*id, *place, *key);
                self.unparked_records.push(record.into());
            }
            Fact::PlaceMoved { place, low } => {
                self.run(Kind::PlaceMoved);
                self.places_moved.push(low.id, *place, *low);
            }
            Fact::SessionOpened { no, id, secret } => {
                self.run(Kind::SessionOpened);
                self.sessions.opened.push(no.0);
                self.sessions.ids.push(id.as_bytes().to_vec());
                self.sessions.secrets.push(secret.as_bytes().to_vec());
            }
            Fact::SessionClosed { no } => {
                self.run(Kind::SessionClosed);
                self.sessions.closed.push(no.0);
            }
            Fact::QueuePaused { no, pause } => {
                self.run(Kind::QueuePaused);
                let pause = pause.as_ref().map(PauseMessage::from);
                self.paused.queues.push(QueuePausedMessage { queue: no.0, pause });
            }
            Fact::Reopened { id, verdict, record } => {
                self.run(Kind::Reopened);
                self.reopened.ids.push(id.0);
                self.reopened.verdicts.push(*verdict as u32);
                self.reopened.records.push(record.into());
            }
            Fact::Rescheduled { id, due, waiting } => {
                self.run(Kind::Rescheduled);
                self.rescheduled.ids.push(id.0);
                self.rescheduled.dues.push(due.0);
                self.rescheduled.waiting.push(*waiting);
            }
            Fact::Replaced { id, args_bytes } => {
                self.run(Kind::Replaced);
                self.replaced.ids.push(id.0);
                self.replaced.args_bytes.push(*args_bytes);
            }
            Fact::Deleted { id, queue, verdict } => {
                self.run(Kind::Deleted);
                self.deleted.ids.push(id.0);
                self.deleted.queues.push(queue.0);
                self.deleted.verdicts.push(*verdict as u32);
            }
            Fact::SchedulePut { schedule, paused, decided } => {
                self.run(Kind::SchedulePut);
                self.schedules_put.push(ScheduleMessage::of(schedule, *paused, *decided));
            }
            Fact::ScheduleDeleted { name } => {
                self.run(Kind::ScheduleDeleted);
                self.schedules_deleted.push(name.as_ref().to_owned());
            }
            Fact::ScheduleTicked { name, tick, outcome } => {
                self.run(Kind::ScheduleTicked);
                self.schedules_ticked.push(TickMessage::of(name, *tick, *outcome));
            }
            Fact::KeptBelow { id } => {
                self.run(Kind::KeptBelow);
                self.kept_below.push(id.0);
            }
            Fact::MovedBelow { id } => {
                self.run(Kind::MovedBelow);
                self.moved_below.push(id.0);
            }
            Fact::FormatRaised { format } => {
                self.run(Kind::FormatRaised);
                self.formats.push(u32::from(format.0));
            }
            Fact::Forgotten { queue, verdict, jobs } => {
                self.run(Kind::Forgotten);
                self.forgotten.push(ForgottenMessage { queue: queue.0, verdict: *verdict as u32, jobs: *jobs });
            }
        }
    }

    fn run(&mut self, kind: Kind) {
        match self.order.last_mut() {
            Some(run) if *run & ((1 << KIND_BITS) - 1) == kind as u64 => *run += 1 << KIND_BITS,
            _ => self.order.push(kind as u64),
        }
    }

    /// The columns, each as short as it can be.
    pub(super) fn finish(self) -> FactsMessage {
        let Self { created, started, finished, returned, reopened, rescheduled, replaced, deleted, .. } = self;
        FactsMessage {
            order: self.order,
            names: given(self.names),
            created: given(CreatedMessage {
                ids: pack_deltas(created.ids),
                streams: given(self.created_streams.packed()),
                scheduled: pack(created.scheduled),
                dues: pack_deltas(created.dues),
                args_bytes: pack(created.args_bytes),
                rare_at: created.rare_at,
                rare: created.rare,
            }),
            due_ids: pack_deltas(self.due_ids),
            started: given(StartedMessage {
                ids: pack_deltas(started.ids),
                sessions: pack(started.sessions),
                at: pack_deltas(started.at),
                nonces: pack(started.nonces),
            }),
            cancel_requested_ids: pack_deltas(self.cancel_requested_ids),
            finished: given(FinishedMessage { ids: pack_deltas(finished.ids), verdicts: pack(finished.verdicts) }),
            returned: given(ReturnedMessage {
                ids: pack_deltas(returned.ids),
                verdicts: pack(returned.verdicts),
                dues: pack_deltas(returned.dues),
                waiting: pack(returned.waiting),
                streams: given(self.returned_streams.packed()),
                lock_at: returned.lock_at,
                locks: returned.locks,
            }),
            parked: given(self.parked.finish()),
            unparked: given(self.unparked.finish()),
            unparked_records: self.unparked_records,
            places_moved: given(self.places_moved.finish()),
            sessions: given(self.sessions),
            paused: given(self.paused),
            reopened: given(ReopenedMessage {
                ids: pack_deltas(reopened.ids),
                verdicts: pack(reopened.verdicts),
                records: reopened.records,
            }),
            rescheduled: given(RescheduledMessage {
                ids: pack_deltas(rescheduled.ids),
                dues: pack_deltas(rescheduled.dues),
                waiting: pack(rescheduled.waiting),
            }),
            replaced: given(ReplacedMessage { ids: pack_deltas(replaced.ids), args_bytes: pack(replaced.args_bytes) }),
            deleted: given(DeletedMessage {
                ids: pack_deltas(deleted.ids),
                queues: pack(deleted.queues),
                verdicts: pack(deleted.verdicts),
            }),
            schedules_put: self.schedules_put,
            schedules_deleted: self.schedules_deleted,
            schedules_ticked: self.schedules_ticked,
            kept_below: self.kept_below,
            moved_below: self.moved_below,
            forgotten: self.forgotten,
            formats: self.formats,
        }
    }
}

/// Leaves out what holds nothing.
fn given<M: Default + PartialEq>(message: M) -> Option<M> {
    (message != M::default()).then_some(message)
}

impl StreamsMessage {
    fn push(&mut self, stream: Stream) {
        self.queues.push(stream.queue.0);
        self.tasks.push(stream.task.0);
        self.priorities.push(i32::from(stream.priority));
    }

    fn packed(self) -> Self {
        Self { queues: pack(self.queues), tasks: pack(self.tasks), priorities: pack(self.priorities) }
    }
}

#[derive(Default)]
struct PlacesWriter {
    message: PlacesMessage,
    last: Option<Place>,
    ids: Vec<i64>,
    ids_differ: bool,
}

impl PlacesWriter {
    fn push(&mut self, id: JobId, place: Place, key: PlaceKey) {
        if self.last == Some(place) {
            *self.message.runs.last_mut().expect("a place has a run") += 1;
        } else {
            self.message.places.push(encode_place(place));
            self.message.runs.push(1);
            self.last = Some(place);
        }
        self.message.sorts.push(key.sort);
        self.message.key_ids.push(key.id.0);
        self.ids.push(id.0);
        self.ids_differ |= id != key.id;
    }

    fn finish(mut self) -> PlacesMessage {
        self.message.sorts = pack_deltas(self.message.sorts);
        self.message.key_ids = pack_deltas(self.message.key_ids);
        if self.ids_differ {
            self.message.ids = pack_deltas(self.ids);
        }
        self.message
    }
}
