//! How deliveries end (C5, C6, C8).

use std::sync::Arc;

use super::{
    batch::OutcomeMore,
    decide::Core,
    effect::{CancelReason, Effect, JobFound, Reply, SettleCode},
    event::{End, Event, Failed, RetryDecision, Settle, SettleFrom},
    job::{Failure, Record, Verdict},
    questions::{Keys, Known, Waiting},
    record::reason,
    types::{JobId, Lease, LockId, Now, Stream},
};

/// What became of one result.
#[derive(Clone, Copy)]
struct Settled {
    code: SettleCode,
    /// It was a failure, and the job will be tried again.
    retried: bool,
}

impl Core {
    /// Takes results in. What belongs to an open delivery is decided at once; the rest waits for a look-up.
    /// `false`: some of it waits, and comes again.
    pub(super) fn settle(&mut self, now: Now, settle: Settle, known: Option<&Known>) -> bool {
        let Settle { from, results } = settle;
        if let SettleFrom::Link(link, Some(seq)) = from
            && let Some((_, session)) = self.sessions.of_link(link)
        {
            session.frames.entry(seq).or_insert(false);
        }
        // A repeated answer of a call must hold every result, so a call is decided as a whole.
        let whole = matches!(from, SettleFrom::Call(_));
        let mut keys = Keys::default();
        for (lease, _) in &results {
            if !self.is_open(*lease) && !knows_end(*lease, known) {
                keys.jobs.insert(lease.job);
                keys.deliveries.insert((lease.job, lease.delivery));
            }
        }
        let (now_decided, later): (Vec<_>, Vec<_>) = if keys.is_empty() {
            (results, Vec::new())
        } else if whole {
            for (lease, _) in &results {
                keys.jobs.insert(lease.job);
                keys.deliveries.insert((lease.job, lease.delivery));
            }
            (Vec::new(), results)
        } else {
            results.into_iter().partition(|(lease, _)| self.is_open(*lease))
        };
        if let (SettleFrom::Link(link, _), false, false) = (from, later.is_empty(), now_decided.is_empty()) {
            // Should the batch be refused, this part is decided again with it, and the rest when its answer comes.
            let part = Settle { from: SettleFrom::Link(link, None), results: now_decided.clone() };
            self.draft.events.push(Event::Settle(part));
        }
        let (mut answers, mut retried) = (Vec::new(), Vec::new());
        for (lease, end) in now_decided {
            let settled =
                if self.is_open(lease) { self.end(now, lease.job, end) } else { self.late(lease, &end, known) };
            if whole || settled.code != SettleCode::Recorded {
                answers.push((lease, settled.code));
            }
            if settled.retried {
                retried.push(lease);
            }
        }
        if later.is_empty() {
            self.acknowledge(from, answers, retried);
            return true;
        }
        if let SettleFrom::Link(link, _) = from
            && !(answers.is_empty() && retried.is_empty())
        {
            self.effect(Effect::SettleAck { link, through: None, exceptions: answers, retried });
        }
        self.questions.look_up(keys, Waiting::Event(Event::Settle(Settle { from, results: later })));
        false
    }

    fn acknowledge(&mut self, from: SettleFrom, answers: Vec<(Lease, SettleCode)>, retried: Vec<Lease>) {
        match from {
            SettleFrom::Call(call) => self.effect(Effect::Reply(call, Reply::Settled(answers))),
            SettleFrom::Link(link, seq) => {
                let through = seq.and_then(|seq| self.sessions.of_link(link)?.1.frame_decided(seq));
                if through.is_some() || !answers.is_empty() || !retried.is_empty() {
                    self.effect(Effect::SettleAck { link, through, exceptions: answers, retried });
                }
            }
        }
    }

    /// Whether this very delivery has no end.
    pub(super) fn is_open(&self, lease: Lease) -> bool {
        self.state.run(lease.job).is_some_and(|run| run.nonce == lease.nonce)
            && self.state.jobs.get(lease.job).is_some_and(|record| record.deliveries == lease.delivery)
    }

    /// A result of a delivery that is not open: nothing changes.
    fn late(&self, lease: Lease, end: &End, known: Option<&Known>) -> Settled {
        let key = (lease.job, lease.delivery);
        // It may have ended a moment ago, by the same message.
        let ended_now = || {
            let outcomes = self.draft.batch.outcomes.iter().rev();
            outcomes.map(|outcome| ((outcome.job, outcome.delivery), outcome.verdict)).find(|(other, _)| *other == key)
        };
        let found = known.and_then(|known| known.deliveries.get(&key).copied().flatten());
        let found = found.or_else(|| ended_now().map(|(_, verdict)| verdict));
        let code = match found {
            Some(verdict) => match (verdict, end) {
                (Verdict::Succeeded, End::Succeeded(_))
                | (Verdict::Failed | Verdict::Retried, End::Failed(_) | End::Unrecordable(_))
                | (Verdict::Cancelled, End::Cancelled(_) | End::Failed(_))
                | (Verdict::Released, End::Released { .. })
                | (Verdict::Snoozed, End::Snoozed(_)) => SettleCode::AlreadyRecorded,
                // The owner ended it without the worker.
                (Verdict::Crashed | Verdict::Reopened | Verdict::Released, _) => SettleCode::LeaseLost,
                _ => SettleCode::VerdictConflict,
            },
            None => match known.and_then(|known| known.jobs.get(&lease.job)) {
                Some(JobFound::Unknown) if self.state.jobs.get(lease.job).is_none() => SettleCode::NotFound,
                _ => SettleCode::LeaseLost,
            },
        };
        Settled { code, retried: code == SettleCode::AlreadyRecorded && found == Some(Verdict::Retried) }
    }

    /// An open delivery ends as its worker says.
    fn end(&mut self, now: Now, job: JobId, end: End) -> Settled {
        let record = self.state.jobs.get(job).expect("an open delivery's job is in memory");
        let run = self.state.run(job).expect("an open delivery runs");
        let (stream, lock) = (record.stream, record.lock());
        match end {
            End::Succeeded(result) => {
                let more = result.map(|result| OutcomeMore { result: Some(result), ..OutcomeMore::default() });
                self.finish(now, job, Verdict::Succeeded, more);
            }
            End::Cancelled(message) => {
                let more = (!message.is_empty()).then(|| OutcomeMore {
                    failure: Some(Failure { message, ..Failure::default() }),
                    ..OutcomeMore::default()
                });
                self.finish(now, job, Verdict::Cancelled, more);
            }
            End::Unrecordable(message) => {
                let failure = Failure { kind: "UNRECORDABLE".into(), message, trace: String::new() };
                let more = OutcomeMore { failure: Some(failure), ..reason("UNRECORDABLE") };
                self.finish(now, job, Verdict::Failed, Some(more));
                return Settled { code: SettleCode::Unrecordable, retried: false };
            }
            End::Failed(failed) => {
                let Failed { failure, never_retry, retry } = *failed;
                // A job that somebody asked to cancel is not tried again.
                let retry = if never_retry || run.cancel_requested {
                    None
                } else {
                    retry.filter(|_| has_attempt_left(record)).or_else(|| policy_decision(job, record, &failure.kind))
                };
                let mut more = OutcomeMore { failure: Some(failure), ..OutcomeMore::default() };
                match retry {
                    None => self.finish(now, job, Verdict::Failed, Some(more)),
                    Some(RetryDecision { delay, changed }) => {
                        let to = (
                            Stream {
                                queue: match &changed.queue {
                                    Some(queue) => self.name_queue(queue),
                                    None => stream.queue,
                                },
                                priority: changed.priority.unwrap_or(stream.priority),
                                ..stream
                            },
                            match changed.lock.as_deref() {
                                None => lock,
                                Some("") => None,
                                Some(name) => Some(LockId::of(name)),
                            },
                        );
                        more.changed = (changed != super::batch::Changed::default()).then_some(changed);
                        self.give_back(now, job, Verdict::Retried, delay, more, Some(to));
                        return Settled { code: SettleCode::Recorded, retried: true };
                    }
                }
            }
            // What was to be cancelled, and does not run any more, is cancelled.
            End::Released { .. } | End::Snoozed(_) if run.cancel_requested => {
                self.finish(now, job, Verdict::Cancelled, None);
            }
            End::Released { reason: why, delay } => {
                let more = OutcomeMore {
                    failure: (!why.is_empty()).then(|| Failure { message: why, ..Failure::default() }),
                    ..OutcomeMore::default()
                };
                self.give_back(now, job, Verdict::Released, delay, more, None);
            }
            End::Snoozed(delay) => self.give_back(now, job, Verdict::Snoozed, delay, OutcomeMore::default(), None),
        }
        Settled { code: SettleCode::Recorded, retried: false }
    }

    /// A worker died while it ran the job (C8).
    pub(super) fn crash(&mut self, now: Now, job: JobId) {
        let record = self.state.jobs.get(job).expect("the job of a lease is in memory");
        let run = self.state.run(job).expect("the job of a lease runs");
        if run.cancel_requested {
            self.finish(now, job, Verdict::Cancelled, None);
        } else if record.crashes + 1 >= self.limits.max_crashes {
            self.finish(now, job, Verdict::Failed, Some(reason("CRASHED")));
        } else {
            self.give_back(now, job, Verdict::Crashed, std::time::Duration::ZERO, OutcomeMore::default(), None);
        }
    }

    /// A delivery that its worker never received, or gave back by not naming it.
    pub(super) fn release(&mut self, now: Now, job: JobId) {
        let end = End::Released { reason: String::new(), delay: std::time::Duration::ZERO };
        self.end(now, job, end);
    }

    /// The worker did not end an attempt whose time was over; now the owner does (C8).
    pub(super) fn attempt_timed_out(&mut self, now: Now, job: JobId) {
        let record = self.state.jobs.get(job).expect("a job with a timer is in memory");
        let run = self.state.run(job).expect("an attempt that timed out runs");
        let lease = Lease { job, delivery: record.deliveries, nonce: run.nonce };
        let retry = if run.cancel_requested { None } else { policy_decision(job, record, "Timeout") };
        let failure = Failure {
            kind: "Timeout".into(),
            message: "the worker did not end the attempt in time".into(),
            trace: String::new(),
        };
        let more = OutcomeMore { failure: Some(failure), reason: Some(Arc::from("TIMEOUT")), ..OutcomeMore::default() };
        match retry {
            None => self.finish(now, job, Verdict::Failed, Some(more)),
            Some(retry) => self.give_back(now, job, Verdict::Retried, retry.delay, more, None),
        }
        if let Some(link) = self.sessions.by_no.get(&run.session).and_then(|session| session.link) {
            self.effect(Effect::Cancel { link, lease, reason: CancelReason::Timeout });
        }
    }
}

/// Whether the answer tells how a delivery ended that is not open.
fn knows_end(lease: Lease, known: Option<&Known>) -> bool {
    known.is_some_and(|known| match known.deliveries.get(&(lease.job, lease.delivery)) {
        Some(Some(_)) => true,
        Some(None) => known.is_complete(),
        None => false,
    })
}

/// Whether the job may be tried again at all. A worker's own decision overrules the policy but for this (C8).
fn has_attempt_left(record: &Record) -> bool {
    let policy = record.rare.as_ref().and_then(|rare| rare.retry.as_ref());
    policy.is_none_or(|policy| policy.max_attempts == 0 || record.attempts + 1 < policy.max_attempts)
}

/// What the job's policy says after a failed attempt.
fn policy_decision(job: JobId, record: &Record, kind: &str) -> Option<RetryDecision> {
    let policy = record.rare.as_ref()?.retry.as_ref()?;
    let attempts = record.attempts + 1;
    policy.allows(attempts, kind).then(|| RetryDecision {
        delay: policy.wait_after(attempts, dice(job, attempts)),
        changed: super::batch::Changed::default(),
    })
}

/// A number from 0 to 1 that looks random: the core has no randomness of its own.
fn dice(job: JobId, attempts: u32) -> f64 {
    let mut mixed = (job.0 as u64) ^ (u64::from(attempts) << 48) ^ 0x9E37_79B9_7F4A_7C15;
    for _ in 0..2 {
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^= mixed >> 31;
    }
    (mixed >> 11) as f64 / (1_u64 << 53) as f64
}
