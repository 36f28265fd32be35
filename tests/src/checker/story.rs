//! Histories made by hand: a run that is told step by step, in which all three logs agree.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use cabbage_broker::core::{
    cron::Cron,
    fact::Fact,
    job::{JobSpec, Phase, Rare, Record, RetryPolicy, Verdict},
    place::{Place, PlaceKey},
    schedule::{MissedTicks, Schedule, TickOutcome},
    types::{JobId, LockId, QueueNo, SessionNo, Stream, TaskNo, Timestamp},
};
use cabbage_proto::v1::SettleCode;
use uuid::Uuid;

use super::{Clause, Report, Rules, check};
use crate::history::{
    Asked, ClientEvent, ClientStep, End, History, JobRow, LeaseName, LogRow, OutcomeRow, Stamp, WorkerEvent, WorkerStep,
};

/// How far the clock goes on with each step, in microseconds.
const STEP_MICROS: i64 = 1_000;
/// When every story begins, at the beginning of a second.
const START: i64 = 1_000_000_000;
const SECOND: i64 = 1_000_000;

pub(super) const STREAM: Stream = Stream { queue: QueueNo(0), task: TaskNo(0), priority: 0 };

/// A run in the making.
#[derive(Clone)]
pub(super) struct Story {
    pub(super) history: History,
    pub(super) now: i64,
    term: u64,
    session: u32,
    next_job: i64,
    attempts: std::collections::HashMap<i64, u32>,
}

/// What is asked for, besides a plain job.
#[derive(Clone, Default)]
pub(super) struct Wish {
    pub(super) rare: Rare,
    pub(super) due_in: i64,
}

pub(super) fn plain() -> Wish {
    Wish::default()
}

pub(super) fn due_in(micros: i64) -> Wish {
    Wish { due_in: micros, ..Wish::default() }
}

pub(super) fn locked(name: &str) -> Wish {
    Wish { rare: Rare { lock: Some(LockId::of(name)), ..Rare::default() }, ..Wish::default() }
}

pub(super) fn strict(name: &str) -> Wish {
    Wish { rare: Rare { lock: Some(LockId::of(name)), strict: true, ..Rare::default() }, ..Wish::default() }
}

pub(super) fn queueing(value: &str) -> Wish {
    Wish { rare: Rare { queueing_lock: Some(Arc::from(value)), ..Rare::default() }, ..Wish::default() }
}

pub(super) fn retried(max_attempts: u32, wait: Duration) -> Wish {
    let policy = RetryPolicy {
        max_attempts,
        wait,
        linear_wait: Duration::ZERO,
        exponential_wait: Duration::ZERO,
        exponential_factor: 2.0,
        max_wait: Duration::from_hours(1),
        jitter: 0.0,
        only_kinds: Vec::new(),
        never_kinds: Vec::new(),
    };
    Wish { rare: Rare { retry: Some(Arc::new(policy)), ..Rare::default() }, ..Wish::default() }
}

impl Story {
    /// An owner, and a worker with a session.
    pub(super) fn new() -> Self {
        let mut story = Self {
            history: History::default(),
            now: START,
            term: 1,
            session: 0,
            next_job: 1,
            attempts: std::collections::HashMap::new(),
        };
        story.open_session();
        story
    }

    pub(super) fn check(&self) -> Report {
        check(&self.history, Rules::default())
    }

    /// Asserts that exactly this clause is broken.
    #[track_caller]
    pub(super) fn breaks(&self, clause: Clause) {
        let report = self.check();
        let broken: Vec<Clause> = report.broken.keys().copied().collect();
        assert_eq!(broken, [clause], "{report}");
        let text = report.to_string();
        assert!(text.contains(&format!("BROKEN {clause} (")), "{text}");
    }

    pub(super) fn pass(&mut self, micros: i64) -> i64 {
        self.now += micros;
        self.now
    }

    pub(super) fn tick(&mut self) -> i64 {
        self.pass(STEP_MICROS)
    }

    /// A row of the log.
    pub(super) fn row(&mut self, facts: Vec<Fact>) {
        let at = self.tick();
        let log = &mut self.history.database.log;
        let (number, after_nonce) = log.last().map_or((1, 0), |last| (last.number + 1, last.nonce));
        let nonce = nonce(self.term);
        log.push(LogRow { number, term: self.term, nonce, after_nonce, at: Timestamp(at), facts });
    }

    /// The facts of the last row that was written.
    pub(super) fn last_row(&mut self) -> &mut LogRow {
        self.history.database.log.last_mut().expect("a row")
    }

    pub(super) fn open_session(&mut self) {
        let (no, session) = (SessionNo(self.session), session_id(self.session));
        self.row(vec![Fact::SessionOpened { no, id: session, secret: Uuid::nil() }]);
        let term = self.term;
        self.worker(WorkerStep::Welcome { session, resumed: false, term });
    }

    /// The worker is gone, with these leases; another comes.
    pub(super) fn worker_dies(&mut self, leases: &[LeaseName]) {
        let mut facts: Vec<Fact> =
            leases.iter().map(|lease| self.returned(lease.job, Verdict::Crashed, Duration::ZERO)).collect();
        facts.push(Fact::SessionClosed { no: SessionNo(self.session) });
        for lease in leases {
            self.outcome(*lease, Verdict::Crashed, None);
        }
        self.row(facts);
        self.session += 1;
        self.open_session();
    }

    /// Another owner takes over.
    pub(super) fn takeover(&mut self) {
        self.term += 1;
        self.row(vec![Fact::PlaceMoved { place: Place::Stream(STREAM), low: PlaceKey::default() }]);
    }

    pub(super) fn client(&mut self, request: &str, step: ClientStep) {
        let stamp = self.stamp("client");
        self.history.clients.push(ClientEvent { stamp, request: request.to_owned(), step });
    }

    pub(super) fn worker(&mut self, step: WorkerStep) {
        let stamp = self.stamp("worker");
        self.history.workers.push(WorkerEvent { stamp, step });
    }

    fn stamp(&mut self, process: &str) -> Stamp {
        let wall = self.tick();
        Stamp { wall, mono: wall, process: process.to_owned() }
    }

    pub(super) fn invoke(&mut self, key: &str) {
        let asked = Asked::Defer { keys: vec![key.to_owned()] };
        self.client(key, ClientStep::Invoke { asked });
    }

    /// A job is created, and its client not told.
    pub(super) fn create(&mut self, key: &str, wish: Wish) -> i64 {
        let queueing_lock = wish.rare.queueing_lock.as_deref().map(str::to_owned);
        let (id, created) = self.created_fact(wish);
        self.row(vec![created]);
        self.history.database.jobs.push(JobRow { id, key: Some(key.to_owned()), queueing_lock, tick: None });
        id
    }

    fn created_fact(&mut self, wish: Wish) -> (i64, Fact) {
        let id = self.next_job;
        self.next_job += 1;
        let fact = Fact::Created {
            id: JobId(id),
            stream: STREAM,
            waiting: wish.due_in == 0,
            due: Timestamp(self.now + wish.due_in),
            args_bytes: 2,
            rare: wish.rare.boxed(),
        };
        (id, fact)
    }

    /// A schedule is put, for each second from now on.
    pub(super) fn put_schedule(&mut self, name: &str, missed: MissedTicks) {
        let asked = Asked::PutSchedule { name: name.to_owned() };
        self.client(&format!("put-{name}"), ClientStep::Invoke { asked });
        let job = JobSpec::plain("quick", "default");
        let zone = Cron::zone_of("").expect("UTC");
        let cron = Cron::parse("* * * * * *", zone).expect("an expression");
        let schedule = Arc::new(Schedule { name: name.into(), cron, missed, job: Arc::new(job) });
        self.row(vec![Fact::SchedulePut { schedule, paused: false, decided: Timestamp(self.now) }]);
        self.client(&format!("put-{name}"), ClientStep::ScheduleChanged);
    }

    /// The clock goes on to this second after the start of the story, and a bit; a tick of this second is deferred, and
    /// its job succeeds.
    pub(super) fn tick_of(&mut self, name: &str, second: i64) -> i64 {
        let tick = Timestamp((START / SECOND + second) * SECOND);
        self.now = self.now.max(tick.0 + 5 * STEP_MICROS);
        let (id, created) = self.created_fact(plain());
        let outcome = TickOutcome::Deferred(JobId(id));
        self.row(vec![created, Fact::ScheduleTicked { name: name.into(), tick, outcome }]);
        let tick = Some((name.to_owned(), tick));
        self.history.database.jobs.push(JobRow { id, key: Some(name.to_owned()), queueing_lock: None, tick });
        let lease = self.start(id);
        self.succeed(lease);
        id
    }

    pub(super) fn delete_schedule(&mut self, name: &str) {
        let asked = Asked::DeleteSchedule { name: name.to_owned() };
        self.client(&format!("delete-{name}"), ClientStep::Invoke { asked });
        self.row(vec![Fact::ScheduleDeleted { name: name.into() }]);
        self.client(&format!("delete-{name}"), ClientStep::ScheduleChanged);
    }

    /// A client asks for a final job to be opened again, and is not told.
    pub(super) fn reopen_unanswered(&mut self, job: i64, verdict: Verdict) {
        self.client(&format!("reopen-{job}"), ClientStep::Invoke { asked: Asked::Reopen { job } });
        let deliveries = self.history.database.outcomes.iter().filter(|outcome| outcome.job == job).count() as u32 + 1;
        let record = Record { deliveries, due: Timestamp(self.now), ..self.record(job) };
        self.attempts.insert(job, 0);
        self.outcome(LeaseName { job, delivery: deliveries, nonce: 0 }, Verdict::Reopened, None);
        self.row(vec![Fact::Reopened { id: JobId(job), verdict, record }]);
    }

    pub(super) fn reopen(&mut self, job: i64, verdict: Verdict) {
        self.reopen_unanswered(job, verdict);
        self.client(&format!("reopen-{job}"), ClientStep::Reopened { state: 2 });
    }

    /// A client asks for a final job to be erased.
    pub(super) fn erase(&mut self, job: i64, verdict: Verdict) {
        self.client(&format!("erase-{job}"), ClientStep::Invoke { asked: Asked::Erase { job } });
        self.history.database.jobs.retain(|row| row.id != job);
        self.history.database.outcomes.retain(|outcome| outcome.job != job);
        self.row(vec![Fact::Deleted { id: JobId(job), queue: STREAM.queue, verdict }]);
        self.client(&format!("erase-{job}"), ClientStep::Erased);
    }

    pub(super) fn deferred(&mut self, key: &str, job: i64) {
        self.client(key, ClientStep::Deferred { jobs: vec![job], repeated: false });
    }

    /// A job is deferred and acknowledged.
    pub(super) fn defer(&mut self, key: &str, wish: Wish) -> i64 {
        self.invoke(key);
        let job = self.create(key, wish);
        self.deferred(key, job);
        job
    }

    /// The job's time comes.
    pub(super) fn due(&mut self, job: i64, after: i64) {
        self.pass(after);
        self.row(vec![Fact::Due { id: JobId(job) }]);
    }

    pub(super) fn started_fact(&self, job: i64) -> Fact {
        let nonce = nonce(self.term);
        Fact::Started { id: JobId(job), session: SessionNo(self.session), at: Timestamp(self.now), nonce }
    }

    /// A delivery is recorded, and its handler starts.
    pub(super) fn start(&mut self, job: i64) -> LeaseName {
        let history = &self.history;
        let ended = history.database.outcomes.iter().filter(|outcome| outcome.job == job);
        let facts = history.database.log.iter().flat_map(|row| &row.facts);
        let began = facts.filter(|fact| matches!(fact, Fact::Started { id, .. } if id.0 == job)).count() as u32;
        // What was opened again has used up a number that was no delivery.
        let delivery = 1 + ended.map(|outcome| outcome.delivery).chain([began]).max().unwrap_or_default();
        self.row(vec![self.started_fact(job)]);
        let lease = LeaseName { job, delivery, nonce: nonce(self.term) };
        let attempt = self.attempts.get(&job).copied().unwrap_or_default() + 1;
        self.worker(WorkerStep::Start { lease, attempt });
        lease
    }

    pub(super) fn ended(&mut self, lease: LeaseName, end: End) {
        self.worker(WorkerStep::End { lease, end });
    }

    pub(super) fn answered(&mut self, lease: LeaseName, end: End, code: SettleCode, probe: bool) {
        self.worker(WorkerStep::Acknowledged { lease, end, code: code.into(), probe });
    }

    /// The handler succeeds, and its result is recorded and acknowledged.
    pub(super) fn succeed(&mut self, lease: LeaseName) {
        self.ended(lease, End::Succeeded);
        self.outcome(lease, Verdict::Succeeded, None);
        self.row(vec![Fact::Finished { id: JobId(lease.job), verdict: Verdict::Succeeded }]);
        self.answered(lease, End::Succeeded, SettleCode::Recorded, false);
    }

    /// The handler fails for good.
    pub(super) fn fail(&mut self, lease: LeaseName) {
        self.ended(lease, End::Failed);
        self.outcome(lease, Verdict::Failed, None);
        self.row(vec![Fact::Finished { id: JobId(lease.job), verdict: Verdict::Failed }]);
        self.answered(lease, End::Failed, SettleCode::Recorded, false);
    }

    /// The handler fails, and the job is to be tried again after this time.
    pub(super) fn fail_and_retry(&mut self, lease: LeaseName, wait: Duration) {
        self.ended(lease, End::Failed);
        self.outcome(lease, Verdict::Retried, Some(wait));
        let fact = self.returned(lease.job, Verdict::Retried, wait);
        self.row(vec![fact]);
        self.answered(lease, End::Failed, SettleCode::Recorded, false);
    }

    pub(super) fn returned(&self, job: i64, verdict: Verdict, wait: Duration) -> Fact {
        let lock = self.history.database.log.iter().flat_map(|row| &row.facts).find_map(|fact| match fact {
            Fact::Created { id, rare, .. } if id.0 == job => rare.as_ref().and_then(|rare| rare.lock),
            _ => None,
        });
        let due = Timestamp(self.now).plus(wait);
        Fact::Returned { id: JobId(job), verdict, due, waiting: wait.is_zero(), stream: STREAM, lock }
    }

    pub(super) fn outcome(&mut self, lease: LeaseName, verdict: Verdict, wait: Option<Duration>) {
        let attempts = self.attempts.entry(lease.job).or_default();
        *attempts += u32::from(matches!(verdict, Verdict::Succeeded | Verdict::Failed | Verdict::Retried));
        self.history.database.outcomes.push(OutcomeRow {
            job: lease.job,
            delivery: lease.delivery,
            attempt: *attempts,
            verdict,
            reason: None,
            finished: Timestamp(self.now),
            session: Some(session_id(self.session)),
            next_due: wait.map(|wait| Timestamp(self.now).plus(wait)),
        });
    }

    /// What a parked row remembers of a job that never started.
    pub(super) fn record(&self, job: i64) -> Record {
        let created = self.history.database.log.iter().flat_map(|row| &row.facts).find_map(|fact| match fact {
            Fact::Created { id, due, .. } if id.0 == job => Some(*due),
            _ => None,
        });
        Record {
            stream: STREAM,
            phase: Phase::Waiting,
            due: created.expect("it was created"),
            attempts: 0,
            deliveries: 0,
            crashes: 0,
            args_bytes: Bytes::new().len() as u32,
            rare: None,
        }
    }
}

pub(super) fn nonce(term: u64) -> u64 {
    0xABBA_0000 + term
}

pub(super) fn session_id(no: u32) -> Uuid {
    Uuid::from_u128(u128::from(no) + 1)
}
