//! A state from the tables alone, for a cell whose log cannot be folded.
//!
//! What only the log knows is lost: open deliveries become releases, and sessions begin anew.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::{
    batch::Outcome,
    job::{JobSpec, Phase, Rare, Record, Verdict},
    place::{ParkedJob, PlaceState},
    schedule::ScheduleRecord,
    state::{Pause, State},
    types::{Format, JobId, LockId, Now, QueueNo, Stream, TaskNo, Timestamp},
};

/// Builds a state, job by job.
#[derive(Debug)]
pub struct Rebuild {
    state: State,
    now: Now,
    /// The queueing locks of parked jobs, which never started.
    parked: HashSet<Arc<str>>,
}

/// The row of a job.
#[derive(Clone, Copy, Debug)]
pub struct JobRow<'a> {
    /// Its id.
    pub id: JobId,
    /// Its queue.
    pub queue: QueueNo,
    /// Its task.
    pub task: TaskNo,
    /// When it was first due.
    pub due: Timestamp,
    /// What was asked for.
    pub spec: &'a JobSpec,
}

impl Rebuild {
    /// Begins with the names of queues and tasks, by number.
    pub fn new(queues: Vec<Arc<str>>, tasks: Vec<Arc<str>>, now: Now) -> Self {
        let mut state = State::default();
        (state.queues, state.tasks) = (queues, tasks);
        state.number_names();
        Self { state, now, parked: HashSet::new() }
    }

    /// Takes in that a queue is paused.
    pub fn pause(&mut self, queue: QueueNo, pause: Pause) {
        self.state.paused.insert(queue, pause);
    }

    /// The bounds of retention, as the tables have them.
    #[must_use]
    pub fn bounds(mut self, kept_below: JobId, moved_below: JobId) -> Self {
        (self.state.kept_below, self.state.moved_below) = (kept_below, moved_below);
        self
    }

    /// The highest format that was found in the tables: what is written from now on has no lower one.
    #[must_use]
    pub fn format(mut self, format: Format) -> Self {
        self.state.format = format;
        self
    }

    /// Takes in that retention has erased so many jobs that ended in this queue with this verdict, of which the log
    /// knows so many.
    pub fn forgotten(&mut self, queue: QueueNo, verdict: Verdict, erased: u64, known: u64) {
        *self.state.finished.entry((queue, verdict)).or_default() += erased;
        if known > 0 {
            self.state.forgotten.insert((queue, verdict), known);
        }
    }

    /// Takes in a job, by ascending ids, with its outcomes in their order, and its row if it is parked.
    pub fn job(&mut self, row: JobRow<'_>, outcomes: &[Outcome], parked: Option<&ParkedJob>) {
        let stream = Stream { queue: row.queue, task: row.task, priority: row.spec.priority };
        let never_started = outcomes.iter().all(|outcome| outcome.started.is_none());
        let rare = Rare {
            lock: row.spec.lock.as_deref().map(LockId::of),
            strict: row.spec.strict,
            queueing_lock: row.spec.queueing_lock.clone().filter(|_| never_started),
            deadline: row.spec.deadline,
            attempt_timeout: row.spec.attempt_timeout,
            retry: row.spec.retry.clone(),
        };
        let mut record = Record {
            stream,
            phase: Phase::Scheduled,
            due: row.due,
            attempts: 0,
            deliveries: 0,
            crashes: 0,
            args_bytes: row.spec.args.len() as u32,
            rare: None,
        };
        let mut rare = rare;
        for outcome in outcomes {
            self.outcome(outcome, &mut record, &mut rare);
        }
        if let Some(last) = outcomes.last().filter(|last| last.verdict.is_final()) {
            *self.state.finished.entry((record.stream.queue, last.verdict)).or_default() += 1;
            return;
        }
        if let Some(parked) = parked {
            let place = self.state.places.entry(parked.place).or_insert(PlaceState { count: 0, low: parked.key });
            place.count += 1;
            place.low = place.low.min(parked.key);
            if let Some(lock) = parked.record.lock() {
                *self.state.parked_with_lock.entry(lock).or_default() += 1;
            }
            self.parked.extend(parked.record.queueing_lock().cloned());
            self.state.parked_with_queueing_lock += u64::from(parked.record.queueing_lock().is_some());
            return;
        }
        record.rare = rare.boxed();
        record.phase = if record.due <= self.now.db { Phase::Waiting } else { Phase::Scheduled };
        self.state.jobs.insert(row.id, record);
    }

    fn outcome(&mut self, outcome: &Outcome, record: &mut Record, rare: &mut Rare) {
        record.deliveries = outcome.delivery;
        record.attempts = outcome.attempt;
        record.crashes += u16::from(outcome.verdict == Verdict::Crashed);
        let more = outcome.more.as_deref();
        record.due = more.and_then(|more| more.next_due).unwrap_or(outcome.finished);
        if outcome.verdict == Verdict::Reopened {
            record.crashes = 0;
            rare.deadline = rare.deadline.filter(|deadline| *deadline > outcome.finished);
        }
        if let Some(changed) = more.and_then(|more| more.changed.as_ref()) {
            self.state.change(changed, &mut record.stream, rare);
        }
    }

    /// Takes in a schedule, as its row has it.
    pub fn schedule(&mut self, record: ScheduleRecord) {
        self.state.schedules.insert(record.schedule.name.clone(), record);
    }

    /// The state. Of the unfinished jobs that seem never to have started and carry one queueing lock, a parked one has
    /// it, else the latest: the others must have started, or it could not have been deferred (C10).
    pub fn finish(mut self) -> State {
        let mut carriers = HashMap::new();
        for (id, record) in self.state.jobs.iter() {
            if let Some(value) = record.queueing_lock() {
                carriers.insert(value.clone(), id);
            }
        }
        let freed: Vec<JobId> = self
            .state
            .jobs
            .iter()
            .filter(|(id, record)| {
                record
                    .queueing_lock()
                    .is_some_and(|value| carriers.get(value) != Some(id) || self.parked.contains(value))
            })
            .map(|(id, _)| id)
            .collect();
        for id in freed {
            if let Some(rare) = self.state.jobs.get_mut(id).and_then(|record| record.rare.as_mut()) {
                rare.queueing_lock = None;
            }
        }
        self.state
    }
}
