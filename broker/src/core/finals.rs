//! Jobs that are final, and what operators do with them (C17): they are opened again, or erased.

use std::sync::Arc;

use super::{
    batch::{Answer, Outcome, OutcomeMore, RareRow},
    decide::Core,
    effect::{FinishedJob, Refusal},
    fact::Fact,
    job::{Phase, Record, Verdict},
    questions::Known,
    state::State,
    types::{JobId, Now, Timestamp},
    verbs::{Whereabouts, waiting_state},
};

impl FinishedJob {
    /// The queueing lock that it takes again if it is opened: it never started, so nothing freed it for good (C10).
    pub(super) fn queueing_lock(&self) -> Option<&Arc<str>> {
        self.rare.queueing_lock.as_ref().filter(|_| !self.has_started)
    }

    /// What is remembered of it once it is opened again: a new budget of attempts, everything else as it was. A
    /// deadline that has passed does not count any more, else it would fail at once.
    fn reopened(&self, state: &State, now: Now, due: Timestamp) -> Record {
        let (mut stream, mut rare) = (self.stream, self.rare.clone());
        state.change(&self.changed, &mut stream, &mut rare);
        rare.strict &= !self.was_unlocked;
        rare.queueing_lock = self.queueing_lock().cloned();
        rare.deadline = rare.deadline.filter(|deadline| *deadline > now.db);
        Record {
            stream,
            phase: if due <= now.db { Phase::Waiting } else { Phase::Scheduled },
            due,
            attempts: 0,
            // That it was opened has a number of its own.
            deliveries: self.delivery + 1,
            crashes: 0,
            args_bytes: self.args_bytes,
            rare: rare.boxed(),
        }
    }
}

impl Core {
    /// Opens a final job again, at its old place in the order.
    pub(super) fn retry(
        &mut self,
        now: Now,
        job: JobId,
        due: Option<Timestamp>,
        found: &Whereabouts,
        known: Option<&Known>,
    ) -> Result<Answer, Refusal> {
        let finished = finished(job, found, known)?;
        if let Some(by) = finished.queueing_lock().and_then(|value| self.carrier(value, known)) {
            return Err(Refusal::QueueingLockTaken { by, item: None });
        }
        let record = finished.reopened(&self.state, now, due.unwrap_or(now.db));
        if record.lock().is_some() {
            self.refuse_line()?;
        }
        let (state, row) = (waiting_state(record.phase), self.draft_row());
        self.ensure_lane(record.stream);
        self.draft.batch.outcomes.push(Outcome {
            job,
            delivery: record.deliveries,
            attempt: 0,
            verdict: Verdict::Reopened,
            started: None,
            finished: now.db,
            session: None,
            more: due.map(|due| Box::new(OutcomeMore { next_due: Some(due), ..OutcomeMore::default() })),
        });
        self.record(Fact::Reopened { id: job, verdict: finished.verdict, record });
        self.recent.moved(job, row);
        self.place_in(now, job);
        Ok(Answer::Moved { state })
    }

    /// Erases a final job with its outcomes.
    pub(super) fn delete(&mut self, job: JobId, found: &Whereabouts, known: Option<&Known>) -> Result<Answer, Refusal> {
        let finished = finished(job, found, known)?;
        let (mut stream, mut rare) = (finished.stream, finished.rare.clone());
        self.state.change(&finished.changed, &mut stream, &mut rare);
        let row = self.draft_row();
        self.record(Fact::Deleted { id: job, queue: stream.queue, verdict: finished.verdict });
        self.draft.batch.rare_rows.push(RareRow::Deleted(job));
        self.recent.moved(job, row);
        Ok(Answer::Deleted)
    }
}

/// What the tables say of a final job.
fn finished<'a>(job: JobId, found: &Whereabouts, known: Option<&'a Known>) -> Result<&'a FinishedJob, Refusal> {
    match found {
        Whereabouts::Memory | Whereabouts::Parked(_) => Err(Refusal::JobNotFinal),
        Whereabouts::Nowhere => Err(Refusal::JobNotFound),
        Whereabouts::Final { .. } => Ok(known.and_then(|known| known.finished(job)).expect("looked up before")),
    }
}
