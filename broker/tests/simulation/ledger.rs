//! What the outside was told: it must hold for ever.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use cabbage_broker::{
    core::{
        batch::Answer,
        effect::SettleCode,
        event::End,
        job::Verdict,
        types::{JobId, Lease, Timestamp},
    },
    store::memory::Tables,
};

/// Promises that were made.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// Jobs whose defer was acknowledged.
    pub(crate) acknowledged: BTreeSet<JobId>,
    /// Answers by request id.
    pub(crate) answers: HashMap<Arc<str>, Answer>,
    /// Jobs whose cancel was acknowledged as final.
    pub(crate) cancelled: BTreeSet<JobId>,
    /// Results that were acknowledged.
    pub(crate) settled: BTreeMap<Lease, SettleCode>,
    /// Failed attempts of which workers were told that their jobs will be tried again.
    pub(crate) retried: BTreeSet<Lease>,
    /// Jobs that were erased, and what was promised of them with them.
    pub(crate) deleted: BTreeSet<JobId>,
    /// How many of them retention erased, since their time was over.
    pub(crate) erased: u64,
    /// Outcomes that were seen; they never change.
    seen: BTreeMap<(JobId, u32), Verdict>,
    /// Ticks that were deferred, by schedule; forgotten with it.
    pub(crate) ticks: BTreeSet<(Arc<str>, Timestamp)>,
}

impl Ledger {
    /// A call with this id was answered. The same id gives the same answer (C2).
    pub(crate) fn answered(&mut self, request: Option<&Arc<str>>, answer: &Answer) {
        if let Some(id) = request {
            let first = self.answers.entry(id.clone()).or_insert_with(|| answer.clone());
            assert_eq!(first, answer, "C2: one request id, one answer");
        }
        match answer {
            Answer::Deferred { first, count } => {
                self.acknowledged.extend((first.0..first.0 + i64::from(*count)).map(JobId));
            }
            Answer::DeferredIds(ids) => self.acknowledged.extend(ids),
            Answer::Cancelled { .. }
            | Answer::Moved { .. }
            | Answer::Deleted
            | Answer::Paused(_)
            | Answer::Resumed
            | Answer::ScheduleChanged
            | Answer::Recorded => {}
        }
    }

    /// A job was erased, with its outcomes (C17).
    pub(crate) fn deleted(&mut self, job: JobId) {
        self.deleted.insert(job);
        self.cancelled.remove(&job);
        self.seen.retain(|(other, _), _| *other != job);
    }

    /// A job was erased since its time was over: it had ended.
    pub(crate) fn erase(&mut self, job: JobId) {
        let newest = self.seen.range((job, 0)..=(job, u32::MAX)).next_back();
        assert!(newest.is_some_and(|(_, verdict)| verdict.is_final()), "C3: job {job} was erased before its end");
        self.deleted(job);
        self.erased += 1;
    }

    /// Whether a job is there, or was for as long as it had to be.
    pub(crate) fn exists(&self, job: JobId, tables: &Tables) -> bool {
        tables.jobs().contains_key(&job) || self.deleted.contains(&job)
    }

    /// A worker was told what became of its result.
    pub(crate) fn settled(&mut self, lease: Lease, code: SettleCode, said: &[Verdict], tables: &Tables) {
        let kept = tables.outcomes().get(&(lease.job, lease.delivery)).map(|outcome| outcome.verdict);
        match code {
            // It was recorded before it was erased, and nobody can tell any more.
            _ if self.deleted.contains(&lease.job) => {}
            SettleCode::Recorded => {
                assert!(
                    kept.is_some_and(|kept| said.contains(&kept)),
                    "C6: what is acknowledged is recorded: {lease:?}, {said:?}, {kept:?}"
                );
            }
            SettleCode::AlreadyRecorded | SettleCode::VerdictConflict => {
                assert!(kept.is_some(), "C6: what is recorded already is there: {lease:?}");
            }
            SettleCode::Unrecordable => assert_eq!(kept, Some(Verdict::Failed), "it failed: {lease:?}"),
            SettleCode::NotFound => panic!("every job of this world exists: {lease:?}"),
            SettleCode::LeaseLost => {
                let before = self.settled.get(&lease).copied();
                assert_ne!(before, Some(SettleCode::Recorded), "C6: recorded once is recorded for ever: {lease:?}");
            }
        }
        self.settled.entry(lease).or_insert(code);
    }

    /// By the time that an end is acknowledged, its worker knows whether the job will be tried again.
    pub(crate) fn told_of_retry(&self, lease: Lease, end: &End, tables: &Tables) {
        let kept = tables.outcomes().get(&(lease.job, lease.delivery)).map(|outcome| outcome.verdict);
        if let (Some(kept), End::Failed(_) | End::Unrecordable(_)) = (kept, end) {
            let told = self.retried.contains(&lease);
            assert_eq!(told, kept == Verdict::Retried, "what became of the job is told: {lease:?}, {kept:?}");
        }
    }

    /// What was promised is still true.
    pub(crate) fn check(&mut self, tables: &Tables) {
        for id in &self.acknowledged {
            let is_there = tables.jobs().contains_key(id);
            assert_ne!(is_there, self.deleted.contains(id), "C1: job {id} was acknowledged");
        }
        for (key, outcome) in tables.outcomes() {
            let first = *self.seen.entry(*key).or_insert(outcome.verdict);
            assert_eq!(first, outcome.verdict, "C6: an outcome never changes: {key:?}");
        }
        for ((job, delivery), verdict) in &self.seen {
            assert!(tables.outcomes().contains_key(&(*job, *delivery)), "an outcome never goes: {job} {verdict:?}");
        }
    }
}
