//! What the broker tells clients and workers, and what they note of it.

use std::hash::Hash;

use cabbage_broker::{
    core::{
        ask::Verb,
        batch::Answer,
        effect::{CallId, Created, Effect, LinkId, Refusal, Reply, SettleCode},
        event::End,
        job::Verdict,
        types::{JobId, Lease},
        verbs,
    },
    store::AuditEntry,
};

use crate::{
    people::{self, Worker},
    world::{Call, World},
};

impl World {
    pub(crate) fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            if self.verbose {
                println!("{:>9}     {effect:?}", self.now.mono.as_millis());
            }
            match effect {
                Effect::Reply(call, reply) => self.reply(call, reply),
                Effect::Welcome { link, session, secret, resumed, lost, .. } => {
                    if let Some(worker) = self.worker(link) {
                        worker.welcomed = true;
                        worker.session = Some((session, secret));
                        // What was not acknowledged is sent again, whatever became of its lease.
                        worker.held.retain(|held| !lost.contains(held));
                        let again: Vec<_> = worker.outbox.drain(..).map(|(_, lease, _)| lease).collect();
                        worker.held.extend(again);
                    }
                    if resumed {
                        self.reached.note("resumed");
                    }
                }
                Effect::Refuse { link, error: _ } | Effect::Close { link, error: _ } => {
                    if let Some(worker) = self.worker(link) {
                        worker.link = None;
                    }
                }
                Effect::Deliver { link, deliveries } => {
                    for delivery in &deliveries {
                        delivery.lease.hash(&mut self.trace);
                        let outcome = self.tables.outcomes().get(&(delivery.lease.job, delivery.lease.delivery));
                        assert_eq!(outcome, None, "C4: a delivery that is handed out is open");
                        let ended = self.ledger.cancelled.contains(&delivery.lease.job);
                        assert!(!ended, "C11: job {} was cancelled", delivery.lease.job);
                    }
                    if let Some(worker) = self.worker(link) {
                        assert!(worker.welcomed, "nothing goes before a welcome");
                        assert!(!worker.drained, "nothing follows a drain");
                        worker.wire.extend(deliveries.iter().map(|delivery| delivery.lease));
                    }
                }
                Effect::SettleAck { link, through, exceptions, retried } => {
                    self.ledger.retried.extend(retried);
                    self.acknowledged(link, through, &exceptions);
                }
                Effect::Cancel { link, lease, .. } => {
                    if let Some(worker) = self.worker(link) {
                        worker.cancelled.push(lease.job);
                    }
                }
                Effect::DrainAck { link } => {
                    if let Some(worker) = self.worker(link) {
                        worker.drained = true;
                    }
                }
                Effect::CaughtUp { .. } => self.reached.note("caught up"),
            }
        }
    }

    pub(crate) fn worker(&mut self, link: LinkId) -> Option<&mut Worker> {
        self.workers.iter_mut().find(|worker| worker.link == Some(link))
    }

    pub(crate) fn acknowledged(&mut self, link: LinkId, through: Option<u64>, exceptions: &[(Lease, SettleCode)]) {
        let Some(index) = self.workers.iter().position(|worker| worker.link == Some(link)) else { return };
        let outbox = std::mem::take(&mut self.workers[index].outbox);
        for (frame, lease, end) in outbox {
            let exception = exceptions.iter().find(|(other, _)| *other == lease).map(|(_, code)| *code);
            let code = exception.or_else(|| through.filter(|through| frame <= *through).map(|_| SettleCode::Recorded));
            match code {
                None => self.workers[index].outbox.push((frame, lease, end)),
                Some(code) => {
                    if matches!(code, SettleCode::Recorded | SettleCode::AlreadyRecorded) {
                        self.ledger.told_of_retry(lease, &end, &self.tables);
                    }
                    self.settled(lease, code, &end);
                }
            }
        }
    }

    pub(crate) fn settled(&mut self, lease: Lease, code: SettleCode, end: &End) {
        match code {
            SettleCode::LeaseLost => self.reached.note("lease lost"),
            SettleCode::AlreadyRecorded => self.reached.note("already recorded"),
            _ => {}
        }
        self.ledger.settled(lease, code, people::verdicts(end), &self.tables);
    }

    pub(crate) fn reply(&mut self, call: CallId, reply: Reply) {
        let Some(what) = self.calls.remove(&call) else { return };
        match (what, reply) {
            (Call::Defer { request }, Reply::Done { answer, .. }) => self.ledger.answered(request.as_ref(), &answer),
            (Call::Defer { .. }, Reply::Items(items)) => {
                for item in items {
                    match item {
                        Ok(Created { job, .. }) => {
                            assert!(self.ledger.exists(job, &self.tables), "C1: job {job} was acknowledged");
                        }
                        Err(refusal) => self.refusal(&refusal),
                    }
                }
            }
            (Call::Ask { request, verb }, Reply::Done { answer, repeated }) => {
                // What was answered before may have been overtaken since.
                if !repeated {
                    self.obeyed(&verb, &answer);
                }
                self.ledger.answered(request.as_ref(), &answer);
            }
            (Call::Settle(results), Reply::Settled(codes)) => {
                for (lease, code) in codes {
                    if let Some((_, end)) = results.iter().find(|(other, _)| *other == lease) {
                        self.settled(lease, code, end);
                    }
                    for worker in &mut self.workers {
                        worker.outbox.retain(|(_, other, _)| *other != lease);
                    }
                }
            }
            (_, Reply::Refused(refusal)) => self.refusal(&refusal),
            (_, other) => panic!("no answer to that call: {other:?}"),
        }
    }

    /// A verb was obeyed, and the batch that says so is the last that was committed.
    fn obeyed(&mut self, verb: &Verb, answer: &Answer) {
        let outcomes =
            |job: JobId| self.tables.outcomes().range((job, 0)..=(job, u32::MAX)).map(|(_, outcome)| outcome);
        match (verb, answer) {
            (Verb::Cancel(job), Answer::Cancelled { state }) => {
                // Somebody may have opened it again in the same batch.
                let is_cancelled = outcomes(*job).next_back().is_some_and(|last| last.verdict == Verdict::Cancelled);
                if *state == verbs::final_state(Verdict::Cancelled) && is_cancelled {
                    self.ledger.cancelled.insert(*job);
                }
            }
            (Verb::Retry { job, .. }, Answer::Moved { .. }) => {
                let is_open = outcomes(*job).any(|outcome| outcome.verdict == Verdict::Reopened);
                assert!(is_open, "C17: job {job} was opened again");
            }
            (Verb::Delete(job), Answer::Deleted) => {
                assert!(!self.tables.jobs().contains_key(job), "C17: job {job} is erased");
                assert_eq!(outcomes(*job).count(), 0, "C17: job {job} is erased with its outcomes");
            }
            (Verb::Reschedule { .. }, Answer::Moved { .. })
            | (Verb::Pause(_), Answer::Paused(_))
            | (Verb::Resume(_), Answer::Resumed)
            | (Verb::DeleteSchedule(_) | Verb::PauseSchedule(_) | Verb::ResumeSchedule(_), Answer::ScheduleChanged)
            | (Verb::RunSchedule(_), Answer::Deferred { .. })
            | (Verb::HandOver, Answer::Recorded) => {}
            // To put what is there already is nothing to record.
            (Verb::PutSchedule { .. }, Answer::ScheduleChanged) => return,
            other => panic!("no answer to that verb: {other:?}"),
        }
        let is_it = |entry: &AuditEntry| {
            let about = (entry.job, entry.queue.as_ref(), entry.schedule.as_ref());
            (&*entry.verb, &*entry.by.who) == (verb.name(), "operator")
                && about == (verb.job(), verb.queue(), verb.schedule())
        };
        assert!(self.tables.audit().values().rev().any(is_it), "C17: every verb is recorded with who asked: {verb:?}");
    }

    pub(crate) fn refusal(&mut self, refusal: &Refusal) {
        match refusal {
            Refusal::QueueingLockTaken { by, .. } => {
                self.reached.note("queueing lock taken");
                assert!(self.ledger.exists(*by, &self.tables), "C10: the job that is named exists");
            }
            Refusal::JobNotFinal => self.reached.note("not final"),
            Refusal::JobFinal => self.reached.note("final already"),
            Refusal::JobRunning => self.reached.note("no due time while it runs"),
            Refusal::RequestIdReused { .. } => panic!("C2: no request id was used for two calls"),
            _ => {}
        }
    }
}
