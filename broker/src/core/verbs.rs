//! What people ask of jobs, queues and schedules (C11, C12, C17): what must be known for it, that it is recorded, and cancelling.

use std::sync::Arc;

use super::{
    ask::{Ask, AuditRow, By, Verb},
    batch::{Answer, RareRow},
    decide::Core,
    defer::Before,
    effect::{CallId, CancelReason, Effect, JobFound, Refusal, Reply},
    event::Event,
    fact::Fact,
    job::{Phase, Verdict},
    place::ParkedJob,
    questions::{Keys, Known, Waiting},
    schedules::Readiness,
    types::{JobId, Lease, Now},
};

/// The wire's number of the state `running`.
pub const STATE_RUNNING: u8 = 3;

/// The wire's number of a final state.
pub const fn final_state(verdict: Verdict) -> u8 {
    match verdict {
        Verdict::Failed => 5,
        Verdict::Cancelled => 6,
        _ => 4,
    }
}

/// The wire's number of the state of a job that is not final.
pub const fn waiting_state(phase: Phase) -> u8 {
    match phase {
        Phase::Scheduled => 1,
        Phase::Waiting => 2,
        Phase::Running => STATE_RUNNING,
    }
}

/// Where a job is that somebody asks about.
#[derive(Debug)]
pub(super) enum Whereabouts {
    Memory,
    Parked(Box<ParkedJob>),
    /// Its newest outcome is final.
    Final {
        verdict: Verdict,
    },
    Nowhere,
}

impl Core {
    /// Decides what somebody asks for. `false`: it waits for a look-up, and comes again.
    pub(super) fn ask(&mut self, now: Now, ask: Ask, known: Option<&Known>) -> bool {
        let taken_first = match ask.verb.job().map_or(Ok(false), |job| self.take_in_first(now, job, known)) {
            Ok(taken) => taken,
            Err(refusal) => {
                self.refuse_call(ask.call, refusal);
                return true;
            }
        };
        let mut keys = self.verb_keys(&ask.verb, known);
        if let Some(request) = &ask.request {
            if self.knows_request(request, known) {
                match self.before(request, known) {
                    Before::Never => {}
                    Before::Same(answer) => {
                        self.effect(Effect::Reply(ask.call, Reply::Done { answer, repeated: true }));
                        return true;
                    }
                    Before::Other => {
                        self.refuse_call(ask.call, Refusal::RequestIdReused { item: None });
                        return true;
                    }
                }
            } else {
                keys.requests.insert(request.id.clone());
            }
        }
        // With other keys open it would be asked again anyway.
        if keys.is_empty() {
            match self.ready_for_schedule(now, &ask, known) {
                Readiness::Ready => {}
                Readiness::Carrier(value) => {
                    keys.queueing_locks.insert(value);
                }
                Readiness::Starved => {
                    self.starved.push_back(Event::Ask(ask));
                    return false;
                }
            }
        }
        if !keys.is_empty() {
            // All are asked again together, so that one snapshot answers for the whole call.
            if let Some(request) = &ask.request {
                keys.requests.insert(request.id.clone());
            }
            keys.jobs.extend(ask.verb.job());
            self.questions.look_up(keys, Waiting::Event(Event::Ask(ask)));
            return false;
        }
        let obeyed = self.obey(now, &ask.verb, &ask.by, known);
        if taken_first && let Some(job) = ask.verb.job() {
            self.settle_in(now, job);
        }
        match obeyed {
            Err(refusal) => self.refuse_call(ask.call, refusal),
            Ok(answer) => {
                if let Some(request) = &ask.request {
                    self.remember(request, answer.clone());
                }
                self.effect(Effect::Reply(ask.call, Reply::Done { answer, repeated: false }));
            }
        }
        true
    }

    /// What must be looked up before the verb can be obeyed; empty: nothing.
    pub(super) fn verb_keys(&self, verb: &Verb, known: Option<&Known>) -> Keys {
        let Some(job) = verb.job() else { return Keys::default() };
        let mut keys = self.keys_to_take_in(job, known);
        let is_known = match self.whereabouts(job, known) {
            None => false,
            Some(Whereabouts::Final { .. }) if verb.wants_final() => {
                known.and_then(|known| known.finished(job)).is_some_and(|finished| {
                    // Only who opens a job again wants its queueing lock back.
                    let value = finished.queueing_lock().filter(|_| matches!(verb, Verb::Retry { .. }));
                    keys.queueing_locks.extend(value.filter(|value| !self.knows_carrier(value, known)).cloned());
                    keys.is_empty()
                })
            }
            Some(_) => true,
        };
        if !is_known {
            keys.jobs.insert(job);
            if verb.wants_final() {
                keys.finished.insert(job);
            }
        }
        keys
    }

    /// Obeys a verb, and records who asked for it, and why (C17). What it needs to know is known: see
    /// [`Self::verb_keys`].
    pub(super) fn obey(&mut self, now: Now, verb: &Verb, by: &By, known: Option<&Known>) -> Result<Answer, Refusal> {
        if let Some(job) = verb.job().filter(|job| verb.wants_final() && self.state.is_moving(*job)) {
            return Err(Refusal::Moving { job });
        }
        let whereabouts = |core: &Self, job| core.whereabouts(job, known).expect("looked up before");
        let decided = self.draft.facts.len();
        let answer = match verb {
            Verb::Cancel(job) => self.cancel(now, *job, whereabouts(self, *job)),
            Verb::Retry { job, due } => self.retry(now, *job, *due, &whereabouts(self, *job), known),
            Verb::Reschedule { job, due } => self.reschedule(now, *job, *due, whereabouts(self, *job)),
            Verb::Delete(job) => self.delete(*job, &whereabouts(self, *job), known),
            Verb::Pause(queue) => self.pause(now, queue, by),
            Verb::Resume(queue) => self.resume(queue),
            Verb::PutSchedule { schedule, paused } => self.put_schedule(now, schedule.clone(), *paused),
            Verb::DeleteSchedule(name) => self.delete_schedule(name),
            Verb::PauseSchedule(name) => self.pause_schedule(now, name, true),
            Verb::ResumeSchedule(name) => self.pause_schedule(now, name, false),
            Verb::RunSchedule(name) => self.run_schedule(now, name, known),
            Verb::HandOver => Ok(Answer::Recorded),
        }?;
        // To put what is there already, as each worker does that starts, is nothing to record.
        if matches!(verb, Verb::PutSchedule { .. }) && self.draft.facts.len() == decided {
            return Ok(answer);
        }
        self.note_verb(now, verb, by, None);
        Ok(answer)
    }

    /// Obeys a verb for which nobody waits, and records it also if it is refused: that is its answer (C17).
    pub(super) fn obey_unattended(
        &mut self,
        now: Now,
        wish: (&Verb, &By),
        why_not: Option<&Arc<str>>,
        known: Option<&Known>,
    ) {
        let (verb, by) = wish;
        let refusal = match why_not {
            Some(message) => Some(Refusal::Unrecordable { message: message.clone() }),
            None => self.obey(now, verb, by, known).err(),
        };
        if let Some(refusal) = refusal {
            self.note_verb(now, verb, by, Some(refusal.to_string().into()));
        }
    }

    /// For the record: who asked for what, and why; and if it was refused, why it was.
    fn note_verb(&mut self, now: Now, verb: &Verb, by: &By, refused: Option<Arc<str>>) {
        let (job, queue, schedule) = (verb.job(), verb.queue().cloned(), verb.schedule().cloned());
        self.draft.bytes += by.who.len() + by.why.len() + refused.as_ref().map_or(0, |why| why.len());
        let row = AuditRow { at: now.db, verb: verb.name(), job, queue, schedule, by: by.clone(), refused };
        self.draft.batch.rare_rows.push(RareRow::Audit(row));
    }

    fn refuse_call(&mut self, call: CallId, refusal: Refusal) {
        self.effect(Effect::Reply(call, Reply::Refused(refusal)));
    }

    /// Where a job is; `None`: it must be looked up.
    pub(super) fn whereabouts(&self, job: JobId, known: Option<&Known>) -> Option<Whereabouts> {
        if self.state.jobs.get(job).is_some() {
            return Some(Whereabouts::Memory);
        }
        if self.recent.moved_in(job) == Some(self.draft_row())
            && let Some(parked) = self.draft.batch.parked.iter().rfind(|parked| parked.id == job)
        {
            return Some(Whereabouts::Parked(Box::new(parked.clone())));
        }
        let known = known?;
        match known.jobs.get(&job)? {
            JobFound::Unknown if known.is_complete() => Some(Whereabouts::Nowhere),
            // It was in memory when the snapshot was taken, and is no more: the next snapshot knows how it ended.
            JobFound::Unknown | JobFound::Active | JobFound::Inbox(_) => None,
            JobFound::Parked(_) | JobFound::Final { .. } if self.recent.moved_after(job, known.snapshot) => None,
            JobFound::Parked(parked) => Some(Whereabouts::Parked(Box::new(parked.clone()))),
            JobFound::Final { verdict, .. } => Some(Whereabouts::Final { verdict: *verdict }),
        }
    }

    /// Cancels a job: at once if it does not run, else its handler is told.
    fn cancel(&mut self, now: Now, job: JobId, found: Whereabouts) -> Result<Answer, Refusal> {
        let state = match found {
            Whereabouts::Memory => self.cancel_in_memory(now, job),
            Whereabouts::Parked(parked) => {
                self.unpark(*parked);
                self.cancel_in_memory(now, job)
            }
            Whereabouts::Final { verdict } => final_state(verdict),
            Whereabouts::Nowhere => return Err(Refusal::JobNotFound),
        };
        Ok(Answer::Cancelled { state })
    }

    fn cancel_in_memory(&mut self, now: Now, job: JobId) -> u8 {
        let record = self.state.jobs.get(job).expect("the job is in memory");
        let Some(run) = self.state.run(job) else {
            self.finish(now, job, Verdict::Cancelled, None);
            return final_state(Verdict::Cancelled);
        };
        if !run.cancel_requested {
            let lease = Lease { job, delivery: record.deliveries, nonce: run.nonce };
            self.record(Fact::CancelRequested { id: job });
            if let Some(link) = self.sessions.by_no.get(&run.session).and_then(|session| session.link) {
                self.effect(Effect::Cancel { link, lease, reason: CancelReason::Requested });
            }
        }
        STATE_RUNNING
    }
}
