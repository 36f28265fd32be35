//! What is read from the maps.

use std::{collections::BTreeSet, ops::Bound};

use super::tables::{JobRow, Tables};
use crate::{
    core::{
        batch::{Changed, NewJob},
        effect::{Fetch, Fetched, FinishedJob, Found, JobFound, LookUp},
        inbox::InboxRow,
        job::{DueAt, JobSpec, Rare},
        place::Place,
        schedule::ScheduleRecord,
        types::{JobId, LockId, Stream, Timestamp},
    },
    store::{
        AuditEntry, AuditList, Checkpoint, JobView, LIST_ENTRIES_MAX, List, Listed, LogPosition, LogRow,
        OUTCOMES_SHOWN_MAX, ScheduleRange, StoreError, StoredJob, crashes_of,
    },
};

impl Tables {
    /// The newest checkpoint.
    pub fn load(&self) -> Option<Checkpoint> {
        self.checkpoints.last().cloned()
    }

    /// The rows of the log after `after`, at most `limit`.
    pub fn follow(&self, after: LogPosition, limit: u32) -> Result<Vec<LogRow>, StoreError> {
        let number = usize::try_from(after.number).map_err(|_| StoreError::LogChanged)?;
        let known = match number.checked_sub(1) {
            None => LogPosition::default(),
            Some(index) => self.log.get(index).ok_or(StoreError::LogChanged)?.position,
        };
        if known != after {
            return Err(StoreError::LogChanged);
        }
        Ok(self.log[number..].iter().take(limit as usize).cloned().collect())
    }

    /// Looks up keys.
    pub fn look_up(&self, keys: &LookUp) -> Found {
        Found {
            id: keys.id,
            snapshot: self.position().number,
            requests: keys.requests.iter().map(|id| self.requests.get(id).cloned()).collect(),
            queueing_locks: keys
                .queueing_locks
                .iter()
                .map(|value| {
                    let range = (value.clone(), JobId(i64::MIN))..=(value.clone(), JobId(i64::MAX));
                    self.parked_by_queueing_lock.range(range).next().map(|(_, job)| *job)
                })
                .collect(),
            jobs: keys.jobs.iter().map(|job| self.find(*job)).collect(),
            deliveries: keys
                .deliveries
                .iter()
                .map(|key| self.outcomes.get(key).map(|outcome| outcome.verdict))
                .collect(),
            locks_before: keys
                .locks_before
                .iter()
                .map(|(lock, job)| self.parked_by_lock.range((*lock, JobId(i64::MIN))..(*lock, *job)).next().is_some())
                .collect(),
            finished: keys.finished.iter().map(|job| self.finished(*job)).collect(),
        }
    }

    /// Fetches a range of a place.
    pub fn fetch(&self, fetch: &Fetch) -> Fetched {
        let due_until = if matches!(fetch.place, Place::Due(_)) { fetch.until.0 } else { i64::MAX };
        let mut rest =
            self.parked.range((fetch.place, fetch.from)..).take_while(|((place, _), _)| *place == fetch.place);
        let mut jobs = Vec::new();
        let mut next = None;
        for ((_, key), parked) in rest.by_ref() {
            if jobs.len() == fetch.limit as usize || key.sort > due_until {
                next = Some(*key);
                break;
            }
            jobs.push(parked.clone());
        }
        Fetched { id: fetch.id, snapshot: self.position().number, jobs, next }
    }

    /// What was asked for, of these jobs, by id.
    pub fn specs(&self, jobs: &[JobId]) -> Vec<StoredJob> {
        let wanted: BTreeSet<_> = jobs.iter().collect();
        wanted.into_iter().filter_map(|job| self.jobs.get(job).map(stored)).collect()
    }

    /// One job with its newest outcomes.
    pub fn job(&self, job: JobId) -> Option<JobView> {
        let Some(row) = self.jobs.get(&job) else { return self.inbox.job(job).and_then(|row| waiting(row)) };
        let outcomes = self.outcomes.range((job, 0)..=(job, u32::MAX)).map(|(_, outcome)| outcome.clone());
        let mut outcomes: Vec<_> = outcomes.rev().take(OUTCOMES_SHOWN_MAX as usize).collect();
        outcomes.reverse();
        Some(JobView {
            job: stored(row),
            outcomes,
            crashes: self.crashes(job),
            parked: self.parked_due(job),
            in_inbox: false,
        })
    }

    fn crashes(&self, job: JobId) -> u32 {
        let newest = self.outcomes.range((job, 0)..=(job, u32::MAX)).rev().take(OUTCOMES_SHOWN_MAX as usize);
        crashes_of(newest.map(|(_, outcome)| outcome.verdict))
    }

    /// A page of jobs, newest first.
    pub fn list(&self, list: &List) -> Listed {
        let below = list.below.unwrap_or(JobId(i64::MAX));
        let mut listed = Listed { jobs: Vec::new(), next: None, looked_at: 0 };
        let mut last = below;
        for (id, row) in self.jobs.range(..below).rev() {
            if listed.jobs.len() == list.limit as usize || listed.looked_at == LIST_ENTRIES_MAX {
                listed.next = Some(last);
                break;
            }
            listed.looked_at += 1;
            last = *id;
            if self.is_listed(*id, row, list) {
                listed.jobs.push(JobView {
                    job: stored(row),
                    outcomes: self.newest_outcome(*id).into_iter().cloned().collect(),
                    crashes: self.crashes(*id),
                    parked: self.parked_due(*id),
                    in_inbox: false,
                });
            }
        }
        let low = listed.next.unwrap_or(JobId(i64::MIN));
        let is_wanted = |view: &JobView| {
            let StoredJob { id, created, spec, .. } = &view.job;
            (low..below).contains(id) && list.states.unfinished && fits(spec, *created, list)
        };
        let waiting = self.inbox.jobs().filter_map(|row| waiting(row)).filter(is_wanted).take(list.limit as usize);
        listed.add_waiting(waiting.collect(), list.limit);
        listed
    }

    /// Schedules in the order of their names.
    pub(super) fn schedules_in(&self, range: &ScheduleRange, limit: u32) -> Vec<ScheduleRecord> {
        match range {
            ScheduleRange::Named(name) => self.schedules.get(name).cloned().into_iter().collect(),
            ScheduleRange::After(name) => {
                let after = (Bound::Excluded(name.clone()), Bound::Unbounded);
                self.schedules.range(after).map(|(_, record)| record.clone()).take(limit as usize).collect()
            }
        }
    }

    fn is_listed(&self, id: JobId, row: &JobRow, list: &List) -> bool {
        let state_fits = match self.newest_outcome(id).map(|outcome| outcome.verdict) {
            Some(verdict) if verdict.is_final() => list.states.finals.contains(&verdict),
            _ => list.states.unfinished,
        };
        state_fits && fits(&row.job.spec, row.created, list)
    }

    /// A page of the verbs that were obeyed, newest first.
    pub fn list_audit(&self, list: &AuditList) -> Vec<AuditEntry> {
        let entries = self.audit.range(..list.below.unwrap_or(i64::MAX)).rev().map(|(_, entry)| entry);
        let entries = entries.filter(|entry| list.job.is_none() || entry.job == list.job);
        entries.take(list.limit as usize).cloned().collect()
    }

    pub(super) fn finished(&self, job: JobId) -> Option<Box<FinishedJob>> {
        let last = self.newest_outcome(job).filter(|outcome| outcome.verdict.is_final())?;
        let JobRow { job: NewJob { queue, task, spec, .. }, .. } = self.jobs.get(&job)?;
        let outcomes = || self.outcomes.range((job, 0)..=(job, u32::MAX)).map(|(_, outcome)| outcome);
        let changes = || outcomes().rev().filter_map(|outcome| outcome.more.as_ref()?.changed.as_ref());
        Some(Box::new(FinishedJob {
            stream: Stream { queue: *queue, task: *task, priority: spec.priority },
            rare: Rare {
                lock: spec.lock.as_deref().map(LockId::of),
                strict: spec.strict,
                queueing_lock: spec.queueing_lock.clone(),
                deadline: spec.deadline,
                attempt_timeout: spec.attempt_timeout,
                retry: spec.retry.clone(),
            },
            args_bytes: spec.args.len() as u32,
            changed: Changed {
                queue: changes().find_map(|changed| changed.queue.clone()),
                priority: changes().find_map(|changed| changed.priority),
                lock: changes().find_map(|changed| changed.lock.clone()),
            },
            was_unlocked: changes().any(|changed| changed.lock.as_deref() == Some("")),
            verdict: last.verdict,
            delivery: last.delivery,
            has_started: outcomes().any(|outcome| outcome.started.is_some()),
        }))
    }

    fn find(&self, job: JobId) -> JobFound {
        if let Some(at) = self.parked_at.get(&job) {
            return JobFound::Parked(self.parked[at].clone());
        }
        match self.newest_outcome(job) {
            Some(outcome) if outcome.verdict.is_final() => {
                JobFound::Final { verdict: outcome.verdict, delivery: outcome.delivery }
            }
            _ if self.jobs.contains_key(&job) => JobFound::Active,
            _ => self.inbox.job(job).map_or(JobFound::Unknown, |row| JobFound::Inbox(row.clone())),
        }
    }

    fn parked_due(&self, job: JobId) -> Option<(Place, Timestamp)> {
        let at = self.parked_at.get(&job)?;
        Some((at.0, self.parked[at].record.due))
    }
}

/// Whether a job passes the filters of a list, but for its state.
fn fits(spec: &JobSpec, created: Timestamp, list: &List) -> bool {
    list.queue.as_ref().is_none_or(|queue| *queue == spec.queue)
        && list.task.as_ref().is_none_or(|task| *task == spec.task)
        && list.lock.as_ref().is_none_or(|lock| spec.lock.as_ref() == Some(lock))
        && list.queueing_lock.as_ref().is_none_or(|value| spec.queueing_lock.as_ref() == Some(value))
        && list.created_from.is_none_or(|from| created >= from)
        && list.created_until.is_none_or(|until| created < until)
}

/// A job that is not taken in.
fn waiting(row: &InboxRow) -> Option<JobView> {
    let job = row.job()?;
    let due = if let DueAt::At(at) = job.spec.due { at } else { row.written };
    let job = StoredJob { id: job.id, created: row.written, due, spec: JobSpec::clone(&job.spec) };
    Some(JobView { job, outcomes: Vec::new(), crashes: 0, parked: None, in_inbox: true })
}

/// A job as its row says it: the wish for a due time has become an instant.
fn stored(row: &JobRow) -> StoredJob {
    let spec = JobSpec::clone(&row.job.spec);
    let (due, wish) = match spec.due {
        DueAt::Once => (row.created, DueAt::Once),
        DueAt::At(_) | DueAt::In(_) => (row.job.due, DueAt::At(row.job.due)),
    };
    StoredJob { id: row.job.id, created: row.created, due, spec: JobSpec { due: wish, ..spec } }
}
