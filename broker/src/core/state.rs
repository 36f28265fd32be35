//! What the log says: the fold of all facts. The owner decides by it, a follower repeats it.
//!
//! Whatever can be derived from it (who may start, which lock has which candidate) lies in the core's indexes.

use std::{
    collections::{BTreeMap, HashMap},
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use uuid::Uuid;

use super::{
    ask::By,
    batch::Changed,
    fact::Fact,
    job::{Phase, Rare, Record, Run, Verdict},
    pages::Pages,
    place::{Place, PlaceKey, PlaceState},
    schedule::ScheduleRecord,
    types::{Format, JobId, LockId, QueueNo, SessionNo, Stream, TaskNo, Timestamp},
};

/// The fold of the log up to a row.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// The names of queues, by number.
    pub queues: Vec<Arc<str>>,
    /// The names of tasks, by number.
    pub tasks: Vec<Arc<str>>,
    queue_numbers: HashMap<Arc<str>, QueueNo>,
    task_numbers: HashMap<Arc<str>, TaskNo>,
    /// Unfinished jobs in memory.
    pub jobs: Pages<Record>,
    /// The open delivery of each of them that runs.
    pub runs: BTreeMap<JobId, Run>,
    /// Places with parked jobs.
    pub places: BTreeMap<Place, PlaceState>,
    /// How many parked jobs carry a lock, whatever their place.
    pub parked_with_lock: BTreeMap<LockId, u64>,
    /// How many parked jobs carry a queueing lock.
    pub parked_with_queueing_lock: u64,
    /// Sessions that may hold leases.
    pub sessions: BTreeMap<SessionNo, SessionRecord>,
    /// The number of the next session.
    pub next_session: u32,
    /// Paused queues (C11).
    pub paused: BTreeMap<QueueNo, Pause>,
    /// How many jobs became final, by queue and verdict, but for those that were opened again or erased by hand.
    pub finished: BTreeMap<(QueueNo, Verdict), u64>,
    /// How many of them retention has erased.
    pub forgotten: BTreeMap<(QueueNo, Verdict), u64>,
    /// Schedules, by name.
    pub schedules: BTreeMap<Arc<str>, ScheduleRecord>,
    /// Rows of lower ids go to the tables of what outlives its partition.
    pub kept_below: JobId,
    /// Of lower ids, only what lies in those tables counts.
    pub moved_below: JobId,
    /// What is written as bytes has this format.
    pub format: Format,
}

/// Since when a queue is paused, by whom, and why.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pause {
    /// Since when.
    pub since: Timestamp,
    /// Who paused it, and why.
    pub by: By,
}

/// What is recorded of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionRecord {
    /// Its id.
    pub id: Uuid,
    /// What its resume token must be.
    pub secret: Uuid,
}

impl State {
    /// The number of a queue, if it has one.
    pub fn queue_no(&self, name: &str) -> Option<QueueNo> {
        self.queue_numbers.get(name).copied()
    }

    /// The number of a task, if it has one.
    pub fn task_no(&self, name: &str) -> Option<TaskNo> {
        self.task_numbers.get(name).copied()
    }

    /// The name of a queue.
    pub fn queue_name(&self, no: QueueNo) -> &Arc<str> {
        &self.queues[no.0 as usize]
    }

    /// The name of a task.
    pub fn task_name(&self, no: TaskNo) -> &Arc<str> {
        &self.tasks[no.0 as usize]
    }

    /// Whether a queue is paused.
    pub fn is_paused(&self, no: QueueNo) -> bool {
        self.paused.contains_key(&no)
    }

    /// The open delivery of a job, if it runs.
    pub fn run(&self, job: JobId) -> Option<Run> {
        self.runs.get(&job).copied()
    }

    /// Folds one fact in.
    ///
    /// # Panics
    /// If the fact contradicts the state: a bug, or a log that is not this state's.
    pub fn apply(&mut self, fact: &Fact) {
        match fact {
            Fact::QueueNamed { no, name } => {
                assert_eq!(no.0 as usize, self.queues.len(), "queue numbers have no gap");
                self.queues.push(name.clone());
                self.queue_numbers.insert(name.clone(), *no);
            }
            Fact::TaskNamed { no, name } => {
                assert_eq!(no.0 as usize, self.tasks.len(), "task numbers have no gap");
                self.tasks.push(name.clone());
                self.task_numbers.insert(name.clone(), *no);
            }
            Fact::Created { id, stream, waiting, due, args_bytes, rare } => {
                let record = Record {
                    stream: *stream,
                    phase: if *waiting { Phase::Waiting } else { Phase::Scheduled },
                    due: *due,
                    attempts: 0,
                    deliveries: 0,
                    crashes: 0,
                    args_bytes: *args_bytes,
                    rare: rare.clone(),
                };
                assert!(self.jobs.insert(*id, record).is_none(), "job {id} is created once");
            }
            Fact::Due { id } => {
                let record = self.job_mut(*id);
                assert_eq!(record.phase, Phase::Scheduled, "job {id} was scheduled");
                record.phase = Phase::Waiting;
            }
            Fact::Started { id, session, at, nonce } => {
                let record = self.job_mut(*id);
                assert_eq!(record.phase, Phase::Waiting, "job {id} was waiting");
                record.phase = Phase::Running;
                record.deliveries += 1;
                // The first start frees the queueing lock for good (C10).
                if let Some(rare) = &mut record.rare {
                    rare.queueing_lock = None;
                }
                let run = Run { session: *session, nonce: *nonce, started: *at, cancel_requested: false };
                self.runs.insert(*id, run);
            }
            Fact::CancelRequested { id } => {
                let run = self.runs.get_mut(id).unwrap_or_else(|| panic!("job {id} was running"));
                run.cancel_requested = true;
            }
            Fact::Finished { id, verdict } => {
                let record = self.jobs.remove(*id).unwrap_or_else(|| panic!("job {id} is in memory"));
                assert!(verdict.is_final(), "a final verdict");
                self.runs.remove(id);
                *self.finished.entry((record.stream.queue, *verdict)).or_default() += 1;
            }
            Fact::Returned { id, verdict, due, waiting, stream, lock } => {
                assert!(self.runs.remove(id).is_some(), "job {id} was running");
                let record = self.job_mut(*id);
                record.phase = if *waiting { Phase::Waiting } else { Phase::Scheduled };
                record.due = *due;
                record.stream = *stream;
                match verdict {
                    Verdict::Retried => record.attempts += 1,
                    Verdict::Crashed => record.crashes += 1,
                    _ => {}
                }
                if record.lock() != *lock {
                    let mut rare = record.rare.take().map_or_else(Default::default, |rare| *rare);
                    rare.lock = *lock;
                    rare.strict &= lock.is_some();
                    record.rare = rare.boxed();
                }
            }
            Fact::Parked { id, place, key } => {
                let record = self.jobs.remove(*id).unwrap_or_else(|| panic!("job {id} is in memory"));
                let state = self.places.entry(*place).or_insert(PlaceState { count: 0, low: *key });
                state.count += 1;
                state.low = state.low.min(*key);
                if let Some(lock) = record.lock() {
                    *self.parked_with_lock.entry(lock).or_default() += 1;
                }
                self.parked_with_queueing_lock += u64::from(record.queueing_lock().is_some());
            }
            Fact::Unparked { id, place, record, .. } => {
                let state = self.places.get_mut(place).unwrap_or_else(|| panic!("the place of job {id} is known"));
                state.count -= 1;
                if state.count == 0 {
                    self.places.remove(place);
                }
                if let Some(lock) = record.lock() {
                    let count = self.parked_with_lock.get_mut(&lock).expect("parked jobs of a lock are counted");
                    *count -= 1;
                    if *count == 0 {
                        self.parked_with_lock.remove(&lock);
                    }
                }
                self.parked_with_queueing_lock -= u64::from(record.queueing_lock().is_some());
                assert!(self.jobs.insert(*id, record.clone()).is_none(), "job {id} is in one place");
            }
            Fact::PlaceMoved { place, low } => {
                if let Some(state) = self.places.get_mut(place) {
                    state.low = state.low.max(*low);
                }
            }
            Fact::SessionOpened { no, id, secret } => {
                assert_eq!(no.0, self.next_session, "session numbers have no gap");
                self.next_session += 1;
                self.sessions.insert(*no, SessionRecord { id: *id, secret: *secret });
            }
            Fact::SessionClosed { no } => {
                self.sessions.remove(no);
            }
            Fact::QueuePaused { no, pause: Some(pause) } => {
                self.paused.insert(*no, pause.clone());
            }
            Fact::QueuePaused { no, pause: None } => {
                self.paused.remove(no);
            }
            Fact::Reopened { id, verdict, record } => {
                assert!(record.phase != Phase::Running, "job {id} is opened to wait");
                self.no_longer_finished(record.stream.queue, *verdict);
                assert!(self.jobs.insert(*id, record.clone()).is_none(), "job {id} was final");
            }
            Fact::Rescheduled { id, due, waiting } => {
                let record = self.job_mut(*id);
                assert!(record.phase != Phase::Running, "job {id} does not run");
                record.phase = if *waiting { Phase::Waiting } else { Phase::Scheduled };
                record.due = *due;
            }
            Fact::Replaced { id, args_bytes } => self.job_mut(*id).args_bytes = *args_bytes,
            Fact::Deleted { id, queue, verdict } => {
                assert!(self.jobs.get(*id).is_none(), "job {id} was final");
                self.no_longer_finished(*queue, *verdict);
            }
            Fact::SchedulePut { schedule, paused, decided } => {
                let (last, deferred) =
                    self.schedules.get(&schedule.name).map_or((None, None), |record| (record.last, record.deferred));
                let schedule = schedule.clone();
                let record = ScheduleRecord { schedule, paused: *paused, decided: *decided, last, deferred };
                self.schedules.insert(record.schedule.name.clone(), record);
            }
            Fact::ScheduleDeleted { name } => {
                assert!(self.schedules.remove(name).is_some(), "schedule {name} is there");
            }
            Fact::ScheduleTicked { name, tick, outcome } => {
                let record = self.schedules.get_mut(name).unwrap_or_else(|| panic!("schedule {name} is there"));
                assert!(record.decided < *tick, "a tick of schedule {name} is decided once");
                record.ticked(*tick, *outcome);
            }
            Fact::KeptBelow { id } => {
                assert!(*id > self.kept_below, "bounds rise");
                self.kept_below = *id;
            }
            Fact::MovedBelow { id } => {
                assert!(*id > self.moved_below && *id <= self.kept_below, "bounds rise, this one behind the other");
                self.moved_below = *id;
            }
            Fact::Forgotten { queue, verdict, jobs } => {
                assert!(*jobs > self.forgotten(*queue, *verdict), "what is forgotten stays so");
                self.forgotten.insert((*queue, *verdict), *jobs);
            }
            Fact::FormatRaised { format } => {
                assert!(*format > self.format, "formats rise");
                self.format = *format;
            }
        }
    }

    /// Restores the maps from names to numbers, after `queues` and `tasks` were filled from a checkpoint.
    pub fn number_names(&mut self) {
        self.queue_numbers = (0..).map(QueueNo).zip(&self.queues).map(|(no, name)| (name.clone(), no)).collect();
        self.task_numbers = (0..).map(TaskNo).zip(&self.tasks).map(|(no, name)| (name.clone(), no)).collect();
    }

    /// A hash of all small tables and of one page of jobs, chosen by the number of the log row: what an owner and
    /// its followers compare, at a cost that does not grow with the state.
    pub fn hash_at(&self, row: u64) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.queues.len(), self.tasks.len(), self.jobs.len(), self.places.len()).hash(&mut hasher);
        (&self.sessions, self.next_session, &self.paused, &self.finished, &self.forgotten).hash(&mut hasher);
        (self.parked_with_queueing_lock, self.kept_below, self.moved_below, self.format).hash(&mut hasher);
        for (name, record) in self.schedules.iter().skip(row as usize / 7 % self.schedules.len().max(1)).take(1) {
            (self.schedules.len(), name, record.paused, record.decided, record.last, record.deferred).hash(&mut hasher);
        }
        for (id, record) in self.jobs.sample(row / 7) {
            (id, record.stream, record.due, record.attempts, record.deliveries, record.crashes).hash(&mut hasher);
            match record.phase {
                Phase::Scheduled => 0_u64.hash(&mut hasher),
                Phase::Waiting => 1_u64.hash(&mut hasher),
                Phase::Running => {
                    let run = self.run(id).expect("what runs has an open delivery");
                    (2_u64, run.session, run.nonce).hash(&mut hasher);
                }
            }
        }
        hasher.finish()
    }

    /// The first difference to another state, in words; `None`: they are equal.
    pub fn difference(&self, other: &Self) -> Option<String> {
        macro_rules! compare {
            ($($field:ident),*) => {$(
                if self.$field != other.$field {
                    return Some(format!("{}: {:?} != {:?}", stringify!($field), self.$field, other.$field));
                }
            )*};
        }
        compare!(
            queues,
            tasks,
            runs,
            places,
            parked_with_lock,
            parked_with_queueing_lock,
            sessions,
            next_session,
            paused,
            finished,
            forgotten,
            schedules,
            kept_below,
            moved_below,
            format
        );
        let (mut left, mut right) = (self.jobs.iter(), other.jobs.iter());
        loop {
            match (left.next(), right.next()) {
                (None, None) => return None,
                (left, right) if left == right => {}
                (left, right) => return Some(format!("job: {left:?} != {right:?}")),
            }
        }
    }

    /// What memory knows of a place.
    pub fn place(&self, place: Place) -> Option<PlaceState> {
        self.places.get(&place).copied()
    }

    /// Whether anything lies in the place below this key.
    pub fn has_parked_below(&self, place: Place, key: PlaceKey) -> bool {
        self.place(place).is_some_and(|state| state.low < key)
    }

    /// Puts what a retry changed into a stream and into what few jobs have.
    pub fn change(&self, changed: &Changed, stream: &mut Stream, rare: &mut Rare) {
        if let Some(queue) = changed.queue.as_deref().and_then(|name| self.queue_no(name)) {
            stream.queue = queue;
        }
        stream.priority = changed.priority.unwrap_or(stream.priority);
        if let Some(lock) = changed.lock.as_deref() {
            rare.lock = (!lock.is_empty()).then(|| LockId::of(lock));
            rare.strict &= rare.lock.is_some();
        }
    }

    fn no_longer_finished(&mut self, queue: QueueNo, verdict: Verdict) {
        let count = self.finished.get_mut(&(queue, verdict)).expect("final jobs are counted");
        *count -= 1;
        if *count == 0 {
            self.finished.remove(&(queue, verdict));
        }
    }

    fn job_mut(&mut self, id: JobId) -> &mut Record {
        self.jobs.get_mut(id).unwrap_or_else(|| panic!("job {id} is in memory"))
    }
}
