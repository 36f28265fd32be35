//! The tables as maps, and the commit that changes them: all of a batch, or nothing.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::Range,
    sync::Arc,
};

use super::inbox::{self, InboxTable};
use crate::{
    core::{
        ask::AuditRow,
        batch::{Batch, NewJob, Outcome, RareRow, RequestRow},
        inbox::TakenJob,
        job::{DueAt, Verdict},
        place::{ParkedJob, Place, PlaceKey},
        retention::Milestone,
        schedule::ScheduleRecord,
        state::Pause,
        types::{JobId, LockId, QueueNo, TaskNo, Term, Timestamp},
    },
    store::{AuditEntry, Checkpoint, CommitError, Committed, LogPosition, LogRow},
};

/// How many checkpoints are kept.
const CHECKPOINTS_KEPT: usize = 2;

/// The tables of one cell. Synchronous, and without a clock: the simulation uses them as they are.
#[derive(Clone, Debug)]
pub struct Tables {
    pub(super) term: Term,
    pub(super) log: Vec<LogRow>,
    pub(super) checkpoints: Vec<Checkpoint>,
    pub(super) jobs: BTreeMap<JobId, JobRow>,
    pub(super) outcomes: BTreeMap<(JobId, u32), Outcome>,
    pub(super) parked: BTreeMap<(Place, PlaceKey), ParkedJob>,
    pub(super) parked_at: HashMap<JobId, (Place, PlaceKey)>,
    pub(super) parked_by_lock: BTreeSet<(LockId, JobId)>,
    pub(super) parked_by_queueing_lock: BTreeSet<(Arc<str>, JobId)>,
    pub(super) requests: HashMap<Arc<str>, RequestRow>,
    pub(super) inbox: InboxTable,
    pub(super) audit: BTreeMap<i64, AuditEntry>,
    next_audit: i64,
    pauses: BTreeMap<QueueNo, Pause>,
    pub(super) schedules: BTreeMap<Arc<str>, ScheduleRecord>,
    queues: BTreeMap<QueueNo, Arc<str>>,
    tasks: BTreeMap<TaskNo, Arc<str>>,
    bounds: (JobId, JobId),
    /// How many final jobs were erased since their time was over, and of how many the log knows.
    pub(super) erased: BTreeMap<(QueueNo, Verdict), u64>,
    pub(super) forgotten: BTreeMap<(QueueNo, Verdict), u64>,
    next_id: i64,
}

/// The row of a job.
#[derive(Clone, Debug)]
pub struct JobRow {
    /// When it was taken in.
    pub created: Timestamp,
    /// What was written.
    pub job: NewJob,
}

impl Default for Tables {
    fn default() -> Self {
        Self::new()
    }
}

impl Tables {
    /// An empty cell.
    pub fn new() -> Self {
        Self {
            term: Term { number: 0, nonce: 0 },
            log: Vec::new(),
            checkpoints: Vec::new(),
            jobs: BTreeMap::new(),
            outcomes: BTreeMap::new(),
            parked: BTreeMap::new(),
            parked_at: HashMap::new(),
            parked_by_lock: BTreeSet::new(),
            parked_by_queueing_lock: BTreeSet::new(),
            requests: HashMap::new(),
            inbox: InboxTable::default(),
            audit: BTreeMap::new(),
            next_audit: 1,
            pauses: BTreeMap::new(),
            schedules: BTreeMap::new(),
            queues: BTreeMap::new(),
            tasks: BTreeMap::new(),
            bounds: Default::default(),
            erased: BTreeMap::new(),
            forgotten: BTreeMap::new(),
            next_id: 1,
        }
    }

    /// An empty cell whose next term comes after this one.
    pub fn after_term(number: u64) -> Self {
        Self { term: Term { number, nonce: 0 }, ..Self::new() }
    }

    /// Takes the term, whoever has it: the one before can write nothing any more.
    pub fn take_term(&mut self, nonce: u64) -> Term {
        self.term = Term { number: self.term.number + 1, nonce };
        self.term
    }

    /// The present term.
    pub fn term(&self) -> Term {
        self.term
    }

    /// Commits a batch at `now`.
    pub fn commit(&mut self, now: Timestamp, term: Term, batch: &Batch) -> Result<Committed, CommitError> {
        self.fenced(term)?;
        if batch.not_before.is_some_and(|due| now < due) {
            return Err(CommitError::Again("the clock stands before a due time".to_owned()));
        }
        self.check_order(batch)?;
        check_content(batch)?;
        for taken in batch.inbox.iter().filter(|taken| taken.job.is_some()) {
            let row = self.inbox.row(taken.number);
            row.map_or_else(Vec::new, |row| inbox::texts(row)).into_iter().try_for_each(check_text)?;
        }
        self.check_keys(batch)?;

        for unparked in &batch.unparked {
            self.unpark(unparked.id);
        }
        let created = batch.taken_in.map_or(now, |taken_in| taken_in.min(now));
        for job in &batch.jobs {
            self.jobs.insert(job.id, JobRow { created, job: job.clone() });
        }
        for taken in &batch.inbox {
            let row = self.inbox.remove(taken.number).expect("checked before");
            if let (Some(taken), Some(asked)) = (&taken.job, row.job()) {
                let TakenJob { id, queue, task, due, .. } = *taken;
                let job = NewJob { id, queue, task, due, spec: asked.spec.clone() };
                self.jobs.insert(id, JobRow { created: row.written, job });
            }
        }
        for outcome in &batch.outcomes {
            self.outcomes.insert((outcome.job, outcome.delivery), outcome.clone());
        }
        for parked in &batch.parked {
            self.park(parked.clone());
        }
        for request in &batch.requests {
            self.requests.insert(request.id.clone(), request.clone());
        }
        for row in &batch.rare_rows {
            self.write_rare(row);
        }
        self.queues.extend(batch.queues.iter().cloned());
        self.tasks.extend(batch.tasks.iter().cloned());
        self.log.push(LogRow {
            position: LogPosition { number: batch.number, nonce: term.nonce },
            term: term.number,
            format: batch.format,
            facts: batch.facts.clone(),
            state_hash: batch.state_hash,
        });
        Ok(Committed { at: now, ids: self.draw(batch.reserve_ids) })
    }

    fn write_rare(&mut self, row: &RareRow) {
        match row {
            RareRow::Audit(AuditRow { at, verb, job, queue, schedule, by, refused }) => {
                let (number, verb) = (self.next_audit, Arc::from(*verb));
                self.next_audit += 1;
                let entry = AuditEntry {
                    number,
                    at: *at,
                    verb,
                    job: *job,
                    queue: queue.clone(),
                    schedule: schedule.clone(),
                    by: by.clone(),
                    refused: refused.clone(),
                };
                self.audit.insert(number, entry);
            }
            RareRow::Due { job, delivery: 0, due } => {
                let row = &mut self.jobs.get_mut(job).expect("checked before").job;
                row.due = *due;
                Arc::make_mut(&mut row.spec).due = DueAt::At(*due);
            }
            RareRow::Due { job, delivery, due } => {
                let outcome = self.outcomes.get_mut(&(*job, *delivery)).expect("checked before");
                outcome.more.get_or_insert_default().next_due = Some(*due);
            }
            RareRow::Args { job, args } => {
                let row = &mut self.jobs.get_mut(job).expect("checked before").job;
                Arc::make_mut(&mut row.spec).args = args.clone();
            }
            // They are kept, and mean nothing: here jobs are erased one by one, and nothing moves.
            RareRow::Milestone(Milestone::KeptBelow(id)) => self.bounds.0 = *id,
            RareRow::Milestone(Milestone::MovedBelow(id)) => self.bounds.1 = *id,
            RareRow::Milestone(Milestone::Forgotten { queue, verdict, jobs }) => {
                self.forgotten.insert((*queue, *verdict), *jobs);
            }
            RareRow::Deleted(job) => {
                self.jobs.remove(job);
                let outcomes = self.outcomes.range((*job, 0)..=(*job, u32::MAX)).map(|(key, _)| *key);
                for key in outcomes.collect::<Vec<_>>() {
                    self.outcomes.remove(&key);
                }
            }
            RareRow::Pause { queue, pause: Some(pause) } => {
                self.pauses.insert(*queue, pause.clone());
            }
            RareRow::Pause { queue, pause: None } => {
                self.pauses.remove(queue);
            }
            RareRow::Schedule(record) | RareRow::Ticked(record) => {
                self.schedules.insert(record.schedule.name.clone(), record.clone());
            }
            RareRow::ScheduleDeleted(name) => {
                self.schedules.remove(name);
            }
        }
    }

    /// Reserves ids without a batch.
    pub fn reserve(&mut self, term: Term, ids: u32) -> Result<Range<i64>, CommitError> {
        self.fenced(term)?;
        Ok(self.draw(ids))
    }

    /// Keeps a checkpoint, and the one before.
    pub fn checkpoint(&mut self, checkpoint: Checkpoint) {
        self.checkpoints.retain(|kept| kept.position.number < checkpoint.position.number);
        self.checkpoints.push(checkpoint);
        let surplus = self.checkpoints.len().saturating_sub(CHECKPOINTS_KEPT);
        self.checkpoints.drain(..surplus);
    }

    /// Fails unless this term is the present one.
    pub fn fenced(&self, term: Term) -> Result<(), CommitError> {
        if term == self.term {
            Ok(())
        } else {
            Err(CommitError::TermOver(format!("term {} is fenced off by term {}", term.number, self.term.number)))
        }
    }

    /// The rows of jobs, by id.
    pub fn jobs(&self) -> &BTreeMap<JobId, JobRow> {
        &self.jobs
    }

    /// The rows of outcomes, by job and delivery.
    pub fn outcomes(&self) -> &BTreeMap<(JobId, u32), Outcome> {
        &self.outcomes
    }

    /// The rows of parked jobs, by place and position.
    pub fn parked(&self) -> &BTreeMap<(Place, PlaceKey), ParkedJob> {
        &self.parked
    }

    /// Where a job is parked.
    pub fn parked_at(&self, job: JobId) -> Option<(Place, PlaceKey)> {
        self.parked_at.get(&job).copied()
    }

    /// The calls that are remembered.
    pub fn requests(&self) -> &HashMap<Arc<str>, RequestRow> {
        &self.requests
    }

    /// The request ids after this one, in their order.
    pub(super) fn request_ids(&self, after: &str, limit: u32) -> Vec<Arc<str>> {
        let mut ids: Vec<_> = self.requests.keys().filter(|id| ***id > *after).cloned().collect();
        ids.sort_unstable();
        ids.truncate(limit as usize);
        ids
    }

    /// The verbs that were obeyed, by their number.
    pub fn audit(&self) -> &BTreeMap<i64, AuditEntry> {
        &self.audit
    }

    /// Paused queues.
    pub fn pauses(&self) -> &BTreeMap<QueueNo, Pause> {
        &self.pauses
    }

    /// The schedules, by name.
    pub fn schedules(&self) -> &BTreeMap<Arc<str>, ScheduleRecord> {
        &self.schedules
    }

    /// The bounds of retention: `kept_below` and `moved_below`.
    pub fn bounds(&self) -> (JobId, JobId) {
        self.bounds
    }

    /// The number of a queue.
    pub(super) fn queue_no(&self, name: &str) -> Option<QueueNo> {
        self.queues.iter().find(|(_, known)| &***known == name).map(|(no, _)| *no)
    }

    /// Of each queue and verdict, how many final jobs were erased since their time was over, and of how many of them the
    /// log knows.
    pub fn erased(&self) -> impl Iterator<Item = (QueueNo, Verdict, u64, u64)> {
        self.erased.iter().map(|((queue, verdict), erased)| {
            (*queue, *verdict, *erased, self.forgotten.get(&(*queue, *verdict)).copied().unwrap_or_default())
        })
    }

    /// The log, from row 1.
    pub fn log(&self) -> &[LogRow] {
        &self.log
    }

    /// The position of the newest row of the log.
    pub fn position(&self) -> LogPosition {
        self.log.last().map_or_else(LogPosition::default, |row| row.position)
    }

    /// The names of queues, by number.
    pub fn queues(&self) -> &BTreeMap<QueueNo, Arc<str>> {
        &self.queues
    }

    /// The names of tasks, by number.
    pub fn tasks(&self) -> &BTreeMap<TaskNo, Arc<str>> {
        &self.tasks
    }

    /// What no sequence of right batches leaves behind; `None`: the tables agree with each other.
    pub fn contradiction(&self) -> Option<String> {
        for ((place, key), parked) in &self.parked {
            if (*place, *key) != (parked.place, parked.key) || self.parked_at.get(&parked.id) != Some(&(*place, *key)) {
                return Some(format!("parked job {} is not where it should be", parked.id));
            }
            if !self.jobs.contains_key(&parked.id) {
                return Some(format!("job {} is parked and was never created", parked.id));
            }
            if self.newest_outcome(parked.id).is_some_and(|outcome| outcome.verdict.is_final()) {
                return Some(format!("job {} is parked and final", parked.id));
            }
        }
        for (job, delivery) in self.outcomes.keys() {
            if !self.jobs.contains_key(job) {
                return Some(format!("delivery {delivery} of job {job} ended, and the job was never created"));
            }
        }
        None
    }

    pub(super) fn newest_outcome(&self, job: JobId) -> Option<&Outcome> {
        self.outcomes.range((job, 0)..=(job, u32::MAX)).next_back().map(|(_, outcome)| outcome)
    }

    /// The row's number follows its predecessor.
    fn check_order(&self, batch: &Batch) -> Result<(), CommitError> {
        let expected = self.position().number + 1;
        if batch.number == expected {
            Ok(())
        } else {
            Err(CommitError::TermOver(format!("log row {} does not follow row {}", batch.number, expected - 1)))
        }
    }

    /// Keys that must be new are, keys that must be there are.
    fn check_keys(&self, batch: &Batch) -> Result<(), CommitError> {
        let bug = |what: String| Err(CommitError::TermOver(what));
        let mut new = BTreeSet::new();
        let taken = batch.inbox.iter().filter_map(|taken| taken.job.as_ref()).map(|job| job.id);
        for id in batch.jobs.iter().map(|job| job.id).chain(taken) {
            if !new.insert(id) || self.jobs.contains_key(&id) {
                return bug(format!("job {id} exists"));
            }
        }
        self.inbox.check(&batch.inbox)?;
        let mut new = BTreeSet::new();
        for outcome in &batch.outcomes {
            let key = (outcome.job, outcome.delivery);
            if !new.insert(key) || self.outcomes.contains_key(&key) {
                return bug(format!("delivery {} of job {} has ended", outcome.delivery, outcome.job));
            }
        }
        let mut leaving = BTreeSet::new();
        for unparked in &batch.unparked {
            if !leaving.insert(unparked.id) || self.parked_at.get(&unparked.id) != Some(&(unparked.place, unparked.key))
            {
                return bug(format!("job {} is not parked where it should be", unparked.id));
            }
        }
        let mut new = BTreeSet::new();
        for parked in &batch.parked {
            let stays = self.parked_at.contains_key(&parked.id) && !leaving.contains(&parked.id);
            if !new.insert(parked.id) || stays || parked.key.id != parked.id {
                return bug(format!("job {} is parked already", parked.id));
            }
        }
        let mut new = BTreeSet::new();
        for request in &batch.requests {
            if !new.insert(&request.id) || self.requests.contains_key(&request.id) {
                return bug(format!("request {} is remembered already", request.id));
            }
        }
        for (no, name) in &batch.queues {
            if self.queues.contains_key(no) || self.queues.values().any(|known| known == name) {
                return bug(format!("queue {name} has a number"));
            }
        }
        for (no, name) in &batch.tasks {
            if self.tasks.contains_key(no) || self.tasks.values().any(|known| known == name) {
                return bug(format!("task {name} has a number"));
            }
        }
        let taken = || batch.inbox.iter().filter_map(|taken| taken.job.as_ref()).map(|job| job.id);
        let exists = |job: &JobId| {
            self.jobs.contains_key(job) || batch.jobs.iter().map(|new| new.id).chain(taken()).any(|new| new == *job)
        };
        if batch.outcomes.iter().any(|outcome| outcome.verdict == Verdict::Reopened && !exists(&outcome.job)) {
            return Err(erased_before());
        }
        let has_ended = |job: &JobId, delivery: u32| {
            let new = || batch.outcomes.iter().any(|new| (new.job, new.delivery) == (*job, delivery));
            self.outcomes.contains_key(&(*job, delivery)) || new()
        };
        for row in &batch.rare_rows {
            match row {
                RareRow::Deleted(job) if !exists(job) => return Err(erased_before()),
                RareRow::Due { job, delivery: 0, .. } | RareRow::Args { job, .. } if !exists(job) => {
                    return bug(format!("job {job} is not there to be changed"));
                }
                RareRow::Due { job, delivery: delivery @ 1.., .. } if !has_ended(job, *delivery) => {
                    return bug(format!("delivery {delivery} of job {job} has not ended"));
                }
                RareRow::Audit(_)
                | RareRow::Due { .. }
                | RareRow::Args { .. }
                | RareRow::Deleted(_)
                | RareRow::Pause { .. }
                | RareRow::Schedule(_)
                | RareRow::ScheduleDeleted(_)
                | RareRow::Ticked(_)
                | RareRow::Milestone(_) => {}
            }
        }
        Ok(())
    }

    fn park(&mut self, parked: ParkedJob) {
        if let Some(lock) = parked.record.lock() {
            self.parked_by_lock.insert((lock, parked.id));
        }
        if let Some(value) = parked.record.queueing_lock() {
            self.parked_by_queueing_lock.insert((value.clone(), parked.id));
        }
        self.parked_at.insert(parked.id, (parked.place, parked.key));
        self.parked.insert((parked.place, parked.key), parked);
    }

    fn unpark(&mut self, id: JobId) {
        let at = self.parked_at.remove(&id).expect("checked before");
        let parked = self.parked.remove(&at).expect("both maps change together");
        if let Some(lock) = parked.record.lock() {
            self.parked_by_lock.remove(&(lock, id));
        }
        if let Some(value) = parked.record.queueing_lock() {
            self.parked_by_queueing_lock.remove(&(value.clone(), id));
        }
    }

    pub(super) fn draw(&mut self, ids: u32) -> Range<i64> {
        let first = self.next_id;
        self.next_id += i64::from(ids);
        first..self.next_id
    }
}

/// A job was looked up, and its time was over before it was written of.
fn erased_before() -> CommitError {
    CommitError::Refused {
        sqlstate: "23503".to_owned(),
        message: "the job was erased meanwhile, since its time was over".to_owned(),
    }
}

/// Refuses what PostgreSQL refuses: NUL in text, and text that is not UTF-8.
fn check_content(batch: &Batch) -> Result<(), CommitError> {
    let names = batch.queues.iter().map(|(_, name)| name).chain(batch.tasks.iter().map(|(_, name)| name));
    names.map(|name| name.as_bytes()).try_for_each(check_text)?;
    for job in &batch.jobs {
        let spec = &job.spec;
        check_text(&spec.args)?;
        let texts = [&spec.lock, &spec.queueing_lock, &spec.traceparent, &spec.tracestate];
        texts.into_iter().flatten().map(|text| text.as_bytes()).try_for_each(check_text)?;
    }
    for more in batch.outcomes.iter().filter_map(|outcome| outcome.more.as_ref()) {
        more.result.iter().try_for_each(|result| check_text(result))?;
        more.reason.iter().try_for_each(|reason| check_text(reason.as_bytes()))?;
        if let Some(failure) = &more.failure {
            [&failure.kind, &failure.message, &failure.trace]
                .into_iter()
                .try_for_each(|text| check_text(text.as_bytes()))?;
        }
    }
    let locks = batch.parked.iter().filter_map(|parked| parked.record.queueing_lock());
    locks.map(|value| value.as_bytes()).try_for_each(check_text)?;
    for row in &batch.rare_rows {
        match row {
            RareRow::Audit(AuditRow { by, .. }) | RareRow::Pause { pause: Some(Pause { by, .. }), .. } => {
                [&by.who, &by.why].into_iter().try_for_each(|text| check_text(text.as_bytes()))?;
            }
            RareRow::Args { args, .. } => check_text(args)?,
            RareRow::Schedule(record) => check_text(&record.schedule.job.args)?,
            // What names a schedule was checked when it was put.
            RareRow::Due { .. }
            | RareRow::Deleted(_)
            | RareRow::Pause { pause: None, .. }
            | RareRow::ScheduleDeleted(_)
            | RareRow::Ticked(_)
            | RareRow::Milestone(_) => {}
        }
    }
    batch.requests.iter().try_for_each(|request| check_text(request.id.as_bytes()))
}

fn check_text(text: &[u8]) -> Result<(), CommitError> {
    if text.contains(&0) || std::str::from_utf8(text).is_err() {
        Err(CommitError::Refused {
            sqlstate: "22021".to_owned(),
            message: "invalid byte sequence for encoding \"UTF8\"".to_owned(),
        })
    } else {
        Ok(())
    }
}
