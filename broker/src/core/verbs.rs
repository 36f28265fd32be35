//! What people ask of single jobs (C11).

use super::{
    batch::Answer,
    decide::Core,
    effect::{CallId, CancelReason, Effect, JobFound, Refusal, Reply},
    event::{Event, Request},
    fact::Fact,
    job::Verdict,
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

impl Core {
    /// Cancels a job: at once if it does not run, else its handler is told. `false`: it waits for a look-up.
    pub(super) fn cancel(
        &mut self,
        now: Now,
        call: CallId,
        request: Option<Request>,
        job: JobId,
        known: Option<&Known>,
    ) -> bool {
        let reply = |answer, repeated| Effect::Reply(call, Reply::Done { answer, repeated });
        let in_memory = self.state.jobs.get(job).is_some();
        let mut keys = Keys::default();
        if let Some(request) = &request {
            let found = known.and_then(|known| known.requests.get(&request.id));
            match (self.recent.request(&request.id), found) {
                (Some(earlier), _) | (None, Some(Some(earlier))) => {
                    let effect = if earlier.digest == request.digest {
                        reply(earlier.answer.clone(), true)
                    } else {
                        Effect::Reply(call, Reply::Refused(Refusal::RequestIdReused { item: None }))
                    };
                    self.effect(effect);
                    return true;
                }
                (None, Some(None)) => {}
                (None, None) => {
                    keys.requests.insert(request.id.clone());
                }
            }
        }
        let found = known.and_then(|known| match known.jobs.get(&job)? {
            JobFound::Unknown | JobFound::Active if !known.is_complete() => None,
            // It was in memory when the snapshot was taken, and is no more: the next snapshot knows how it ended.
            JobFound::Active => None,
            JobFound::Parked(_) if self.recent.moved_after(job, known.snapshot) => None,
            found => Some(found.clone()),
        });
        if !in_memory && found.is_none() {
            keys.jobs.insert(job);
        }
        if !keys.is_empty() {
            if let Some(request) = &request {
                keys.requests.insert(request.id.clone());
            }
            self.questions.look_up(keys, Waiting::Event(Event::Cancel { call, request, job }));
            return false;
        }
        let state = match found {
            _ if in_memory => self.cancel_in_memory(now, job),
            Some(JobFound::Parked(parked)) => {
                self.unpark(parked);
                self.cancel_in_memory(now, job)
            }
            Some(JobFound::Final { verdict, .. }) => final_state(verdict),
            Some(JobFound::Unknown | JobFound::Active) | None => {
                self.effect(Effect::Reply(call, Reply::Refused(Refusal::JobNotFound)));
                return true;
            }
        };
        let answer = Answer::Cancelled { state };
        if let Some(request) = &request {
            self.remember(request, answer.clone());
        }
        self.effect(reply(answer, false));
        true
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
