//! Jobs that do not run get another due time: by an operator, or by a defer with the same queueing lock (C10).

use std::sync::Arc;

use super::{
    batch::{Answer, RareRow},
    decide::Core,
    defer::due_of,
    effect::Refusal,
    event::{DeferItem, OnConflict},
    fact::Fact,
    questions::Known,
    types::{JobId, Now, Timestamp},
    verbs::{Whereabouts, waiting_state},
};

impl Core {
    /// Moves a job that does not run in time.
    pub(super) fn reschedule(
        &mut self,
        now: Now,
        job: JobId,
        due: Option<Timestamp>,
        found: Whereabouts,
    ) -> Result<Answer, Refusal> {
        match found {
            Whereabouts::Nowhere => return Err(Refusal::JobNotFound),
            Whereabouts::Final { .. } => return Err(Refusal::JobFinal),
            Whereabouts::Parked(parked) => self.unpark(*parked),
            Whereabouts::Memory => {
                if self.state.run(job).is_some() {
                    return Err(Refusal::JobRunning);
                }
            }
        }
        let state = self.move_in_time(now, job, due.unwrap_or(now.db));
        Ok(Answer::Moved { state })
    }

    /// The job that carries the queueing lock of a new one takes its due time, and its arguments if it is told so.
    pub(super) fn debounce(
        &mut self,
        now: Now,
        item: &DeferItem,
        by: JobId,
        known: Option<&Known>,
    ) -> Result<JobId, Refusal> {
        let taken = Refusal::QueueingLockTaken { by, item: None };
        let refuses = match item.on_conflict {
            OnConflict::Reject => true,
            OnConflict::Reschedule => false,
            // Another task would not understand the arguments.
            OnConflict::Replace => !self.is_of_task(by, &item.spec.task, known),
        };
        if refuses {
            return Err(taken);
        }
        match self.whereabouts(by, known) {
            Some(Whereabouts::Memory) => {}
            Some(Whereabouts::Parked(parked)) => self.unpark(*parked),
            // Whoever carries it is not final, and was looked up.
            Some(Whereabouts::Final { .. } | Whereabouts::Nowhere) | None => return Err(taken),
        }
        if item.on_conflict == OnConflict::Replace {
            let args = item.spec.args.clone();
            self.draft.bytes += args.len();
            self.record(Fact::Replaced { id: by, args_bytes: args.len() as u32 });
            let new = &mut self.draft.batch.jobs;
            match new.binary_search_by_key(&by, |new| new.id) {
                // It comes into being with this very batch.
                Ok(at) => Arc::make_mut(&mut new[at].spec).args = args,
                Err(_) => self.draft.batch.rare_rows.push(RareRow::Args { job: by, args }),
            }
        }
        let due = due_of(now, &item.spec);
        self.move_in_time(now, by, due);
        Ok(by)
    }

    /// A job in memory that does not run gets another due time, and the place that belongs to it. Gives its state.
    fn move_in_time(&mut self, now: Now, job: JobId, due: Timestamp) -> u8 {
        let record = self.state.jobs.get(job).expect("a job that moves is in memory");
        self.draft.batch.rare_rows.push(RareRow::Due { job, delivery: record.deliveries, due });
        self.record(Fact::Rescheduled { id: job, due, waiting: due <= now.db });
        let state = waiting_state(self.state.jobs.get(job).expect("it still is").phase);
        self.place_in(now, job);
        state
    }
}
