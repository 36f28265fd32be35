//! How decisions are recorded: into the draft of the next batch, the state, and the indexes.

use std::time::Duration;

use super::{
    batch::{Outcome, OutcomeMore, Unparked},
    decide::Core,
    effect::Effect,
    fact::Fact,
    index::{Lane, StrictCheck, lane_of},
    job::{Phase, Verdict},
    place::{ParkedJob, Place, PlaceKey},
    sessions::Held,
    types::{JobId, LockId, Now, Stream},
};

impl Core {
    /// Records a decision: into the draft, the state and the indexes.
    pub(super) fn record(&mut self, fact: Fact) {
        let slack = self.limits.timeout_slack;
        let job = match &fact {
            Fact::Created { id, .. }
            | Fact::Due { id }
            | Fact::Started { id, .. }
            | Fact::CancelRequested { id }
            | Fact::Finished { id, .. }
            | Fact::Returned { id, .. }
            | Fact::Parked { id, .. }
            | Fact::Unparked { id, .. }
            | Fact::Reopened { id, .. }
            | Fact::Rescheduled { id, .. }
            | Fact::Replaced { id, .. } => Some(*id),
            Fact::QueueNamed { .. }
            | Fact::TaskNamed { .. }
            | Fact::PlaceMoved { .. }
            | Fact::SessionOpened { .. }
            | Fact::SessionClosed { .. }
            | Fact::QueuePaused { .. }
            | Fact::Deleted { .. }
            | Fact::SchedulePut { .. }
            | Fact::ScheduleDeleted { .. }
            | Fact::ScheduleTicked { .. }
            | Fact::KeptBelow { .. }
            | Fact::MovedBelow { .. }
            | Fact::Forgotten { .. }
            | Fact::FormatRaised { .. } => None,
        };
        if let Some(id) = job
            && let Some(record) = self.state.jobs.get(id)
        {
            let run = self.state.run(id);
            self.index.remove(id, record, run, slack);
            if let Some(run) = run
                && let Some(session) = self.sessions.by_no.get_mut(&run.session)
            {
                session.let_go(id);
            }
        }
        self.state.apply(&fact);
        if let Some(id) = job
            && let Some(record) = self.state.jobs.get(id)
        {
            let run = self.state.run(id);
            self.index.add(id, record, run, slack);
            if let Some(run) = run {
                let held = Held { task: record.stream.task, bytes: record.args_bytes, tainted: record.crashes > 0 };
                if let Some(session) = self.sessions.by_no.get_mut(&run.session) {
                    session.hold(id, held);
                }
            }
        }
        match &fact {
            Fact::SchedulePut { schedule, .. } => self.expect_tick(&schedule.name),
            Fact::ScheduleDeleted { name } | Fact::ScheduleTicked { name, .. } => self.expect_tick(name),
            _ => {}
        }
        self.draft.facts.push(fact);
    }

    /// The row that the draft will be.
    pub(super) fn draft_row(&self) -> u64 {
        self.taken_row + 1
    }

    /// A job leaves memory for a place.
    pub(super) fn park(&mut self, id: JobId, place: Place) {
        let record = self.state.jobs.get(id).expect("a job that is parked is in memory").clone();
        let key = PlaceKey::of(place, id, record.due);
        if let Some(value) = record.queueing_lock() {
            self.recent.parked(value.clone(), id, self.draft_row());
        }
        if let Some(lock) = record.lock() {
            self.recent.parked_with_lock(lock, self.draft_row());
            // What is known of parked jobs before a strict one holds no longer. An answer to come is judged by its row.
            let strict = &mut self.index.locks.entry(lock).or_default().strict;
            if !matches!(strict, StrictCheck::Asked(..)) {
                *strict = StrictCheck::Unknown;
            }
            self.index.dirty_locks.insert(lock);
            if let Place::Lock(_, queue, task) | Place::Strict(_, queue, task) = place {
                self.index.join_lane(lock, (queue, task));
                self.index.lanes.entry((queue, task)).or_default().parked_behind_locks += 1;
            }
        }
        self.record(Fact::Parked { id, place, key });
        self.moved(id, place, key);
        self.draft.batch.parked.push(ParkedJob { id, place, key, record });
    }

    /// A job comes back into memory. Its row must be there.
    pub(super) fn unpark(&mut self, job: ParkedJob) {
        let ParkedJob { id, place, key, record } = job;
        if let Some(lock) = record.lock() {
            self.index.dirty_locks.insert(lock);
        }
        if let Some(value) = record.queueing_lock() {
            self.recent.unparked(value);
        }
        if matches!(record.phase, Phase::Waiting) {
            self.latest_due = self.latest_due.max(record.due);
        }
        self.ensure_lane(record.stream);
        if let Place::Lock(_, queue, task) | Place::Strict(_, queue, task) = place
            && let Some(lane) = self.index.lanes.get_mut(&(queue, task))
        {
            lane.parked_behind_locks -= 1;
        }
        self.record(Fact::Unparked { id, place, key, record });
        self.moved(id, place, key);
        self.unpark_row(Unparked { id, place, key });
    }

    /// A job that was parked by this very draft has no row yet: it is taken out of the draft instead.
    fn unpark_row(&mut self, row: Unparked) {
        let parked = &mut self.draft.batch.parked;
        if let Some(at) = parked.iter().rposition(|parked| parked.id == row.id) {
            parked.remove(at);
        } else {
            self.draft.batch.unparked.push(row);
        }
    }

    fn moved(&mut self, id: JobId, place: Place, key: PlaceKey) {
        let row = self.draft_row();
        self.recent.moved(id, row);
        self.questions.touched(place, key, row);
    }

    /// A job becomes final.
    pub(super) fn finish(&mut self, now: Now, id: JobId, verdict: Verdict, more: Option<OutcomeMore>) {
        let record = self.state.jobs.get(id).expect("a job that ends is in memory");
        let (run, lock) = (self.state.run(id), record.lock());
        let is_attempt = run.is_some() && more.as_ref().is_none_or(|more| !no_attempt(more));
        let outcome = Outcome {
            job: id,
            delivery: record.deliveries + u32::from(run.is_none()),
            attempt: record.attempts + u32::from(is_attempt),
            verdict,
            started: run.map(|run| run.started),
            finished: now.db,
            session: run.and_then(|run| self.state.sessions.get(&run.session)).map(|session| session.id),
            more: more.map(Box::new),
        };
        self.draft.bytes += outcome_bytes(&outcome);
        self.draft.batch.outcomes.push(outcome);
        self.record(Fact::Finished { id, verdict });
        if let Some(lock) = lock {
            self.lock_member_ended(lock);
        }
    }

    /// A delivery ends and the job goes on.
    pub(super) fn give_back(
        &mut self,
        now: Now,
        id: JobId,
        verdict: Verdict,
        wait: Duration,
        more: OutcomeMore,
        to: Option<(Stream, Option<LockId>)>,
    ) {
        let record = self.state.jobs.get(id).expect("a job that goes on is in memory");
        let run = self.state.run(id).expect("a job that goes on was running");
        let due = if wait.is_zero() { now.db } else { now.db_latest.plus(wait) };
        let (stream, lock) = to.unwrap_or((record.stream, record.lock()));
        let more = OutcomeMore { next_due: (!wait.is_zero()).then_some(due), ..more };
        let old_lock = record.lock();
        let outcome = Outcome {
            job: id,
            delivery: record.deliveries,
            attempt: record.attempts + u32::from(verdict == Verdict::Retried),
            verdict,
            started: Some(run.started),
            finished: now.db,
            session: self.state.sessions.get(&run.session).map(|session| session.id),
            more: (more != OutcomeMore::default()).then(|| Box::new(more)),
        };
        self.draft.bytes += outcome_bytes(&outcome);
        self.draft.batch.outcomes.push(outcome);
        self.ensure_lane(stream);
        // The order of a lock's jobs is by id, so a job that comes back takes its old place (C9).
        self.record(Fact::Returned { id, verdict, due, waiting: wait.is_zero(), stream, lock });
        if old_lock != lock
            && let Some(lock) = old_lock
        {
            self.lock_member_ended(lock);
        }
        self.settle_in(now, id);
    }

    /// A job of the lock became final, or left the lock: a strict one may be next.
    fn lock_member_ended(&mut self, lock: LockId) {
        if let Some(entry) = self.index.locks.get_mut(&lock) {
            entry.strict = StrictCheck::Unknown;
        }
        self.index.dirty_locks.insert(lock);
    }

    /// Makes sure that the lane of a stream is known, with the sessions that serve it.
    pub(super) fn ensure_lane(&mut self, stream: Stream) {
        let key = lane_of(stream);
        let paused = self.state.is_paused(stream.queue);
        let sessions = &self.sessions.by_no;
        self.index.lanes.entry(key).or_insert_with(|| Lane {
            servers: sessions.iter().filter(|(_, session)| session.serves(key)).map(|(no, _)| *no).collect(),
            paused,
            ..Default::default()
        });
    }

    pub(super) fn effect(&mut self, effect: Effect) {
        self.draft.batch.effects.push(effect);
    }
}

/// An outcome that has only a reason.
pub(super) fn reason(word: &str) -> OutcomeMore {
    OutcomeMore { reason: Some(word.into()), ..OutcomeMore::default() }
}

/// Whether a final end of a run is none that its worker reported.
fn no_attempt(more: &OutcomeMore) -> bool {
    more.reason.as_deref() == Some("CRASHED")
}

fn outcome_bytes(outcome: &Outcome) -> usize {
    outcome.more.as_ref().map_or(0, |more| {
        more.result.as_ref().map_or(0, bytes::Bytes::len)
            + more.failure.as_ref().map_or(0, |failure| failure.message.len() + failure.trace.len())
    })
}
