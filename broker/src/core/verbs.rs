//! What people ask of single jobs (C11, C17).

use super::{
    ask::{Ask, AuditRow, Verb},
    batch::{Answer, RareRow},
    decide::Core,
    defer::Before,
    effect::{CallId, CancelReason, Effect, JobFound, Refusal, Reply},
    event::Event,
    fact::Fact,
    job::Verdict,
    place::ParkedJob,
    questions::{Keys, Known, Waiting},
    record::running,
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
        let mut keys = Keys::default();
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
        let whereabouts = ask.verb.job().map(|job| (job, self.whereabouts(job, known)));
        if let Some((job, None)) = whereabouts {
            keys.jobs.insert(job);
        }
        if !keys.is_empty() {
            // All are asked again together, so that one snapshot answers for the whole call.
            if let Some(request) = &ask.request {
                keys.requests.insert(request.id.clone());
            }
            self.questions.look_up(keys, Waiting::Event(Event::Ask(ask)));
            return false;
        }
        let decided = match (ask.verb, whereabouts.and_then(|(_, found)| found)) {
            (Verb::Cancel(job), Some(found)) => self.cancel(now, job, found),
            (Verb::Cancel(_), None) => Err(Refusal::JobNotFound),
        };
        match decided {
            Err(refusal) => self.refuse_call(ask.call, refusal),
            Ok(answer) => {
                if let Some(request) = &ask.request {
                    self.remember(request, answer.clone());
                }
                let row = AuditRow { at: now.db, verb: ask.verb.name(), job: ask.verb.job(), by: ask.by };
                self.draft.bytes += row.by.who.len() + row.by.why.len();
                self.draft.batch.rare_rows.push(RareRow::Audit(row));
                self.effect(Effect::Reply(ask.call, Reply::Done { answer, repeated: false }));
            }
        }
        true
    }

    fn refuse_call(&mut self, call: CallId, refusal: Refusal) {
        self.effect(Effect::Reply(call, Reply::Refused(refusal)));
    }

    /// Where a job is; `None`: it must be looked up.
    pub(super) fn whereabouts(&self, job: JobId, known: Option<&Known>) -> Option<Whereabouts> {
        if self.state.jobs.get(job).is_some() {
            return Some(Whereabouts::Memory);
        }
        let known = known?;
        match known.jobs.get(&job)? {
            JobFound::Unknown if known.is_complete() => Some(Whereabouts::Nowhere),
            // It was in memory when the snapshot was taken, and is no more: the next snapshot knows how it ended.
            JobFound::Unknown | JobFound::Active => None,
            JobFound::Parked(_) if self.recent.moved_after(job, known.snapshot) => None,
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
        let Some(run) = running(record) else {
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
