//! The fold of the log: whether each decision was legal when it was made.

use std::collections::{HashMap, HashSet};

use cabbage_broker::core::{
    fact::Fact,
    job::{self, Record, Verdict},
    place::{Place, PlaceKey},
    types::{LockId, QueueNo, SessionNo, Timestamp},
};

use super::{
    Rules,
    counts::Counts,
    life::{Ended, Leased, Life, Phase},
    locks::{Locks, QueueingLocks},
    violation::{Clause, Findings},
};
use crate::history::LogRow;

/// Every job's life, and what is needed to follow it.
pub(super) struct Ledger {
    rules: Rules,
    pub(super) jobs: HashMap<i64, Life>,
    sessions: HashMap<SessionNo, SessionLife>,
    /// How many jobs run at this point of the log.
    pub(super) running: usize,
    locks: Locks,
    queueing_locks: QueueingLocks,
    paused: HashSet<QueueNo>,
    /// How often a session ran all that it may hold.
    full_windows: u64,
}

/// A session of a worker.
struct SessionLife {
    /// The jobs that it runs.
    open: HashSet<i64>,
    /// When it ended.
    closed: Option<Timestamp>,
}

/// The row that a fact stands in.
#[derive(Clone, Copy)]
struct Row {
    number: u64,
    at: Timestamp,
    nonce: u64,
}

/// The end of a delivery after which the job goes on.
struct GoingOn {
    due: Timestamp,
    waiting: bool,
    queue: QueueNo,
    lock: Option<LockId>,
}

impl Ledger {
    pub(super) fn new(rules: Rules) -> Self {
        Self {
            rules,
            jobs: HashMap::new(),
            sessions: HashMap::new(),
            running: 0,
            locks: Locks::default(),
            queueing_locks: QueueingLocks::default(),
            paused: HashSet::new(),
            full_windows: 0,
        }
    }

    /// Takes in the next row of the log.
    pub(super) fn fold(&mut self, row: &LogRow, findings: &mut Findings) {
        let stamp = Row { number: row.number, at: row.at, nonce: row.nonce };
        for fact in &row.facts {
            self.fold_fact(stamp, fact, findings);
        }
    }

    fn fold_fact(&mut self, row: Row, fact: &Fact, findings: &mut Findings) {
        match fact {
            Fact::Created { id, stream, waiting, due, rare, .. } => {
                let rare = rare.as_deref().cloned().unwrap_or_default();
                let life = Life {
                    created: row.at,
                    began_scheduled: !*waiting,
                    phase: if *waiting { Phase::Waiting } else { Phase::Scheduled },
                    due: *due,
                    queue: stream.queue,
                    lock: rare.lock,
                    strict: rare.strict,
                    first_queueing_lock: rare.queueing_lock.clone(),
                    queueing_lock: rare.queueing_lock,
                    retry: rare.retry,
                    retried: 0,
                    crashes: 0,
                    cancel_requested: false,
                    parked: None,
                    parkings: 0,
                    fetched: 0,
                    deliveries: Vec::new(),
                    notes: Vec::new(),
                    erased: None,
                };
                self.created(row, id.0, life, findings);
            }
            Fact::Due { id } => self.due(row, id.0, findings),
            Fact::Started { id, session, at, nonce } => {
                if *at > row.at {
                    let ahead = at.since(row.at);
                    findings
                        .add(Clause::C7, id.0, || format!("its owner's clock ran {ahead:?} ahead of the database's"));
                }
                self.started(row, id.0, *session, *nonce, findings);
            }
            Fact::CancelRequested { id } => match self.jobs.get_mut(&id.0) {
                Some(life) if life.phase == Phase::Running => life.cancel_requested = true,
                _ => findings.add(Clause::Transitions, id.0, || "it was told to stop and did not run".into()),
            },
            Fact::Finished { id, verdict } => self.finished(row, id.0, *verdict, findings),
            Fact::Returned { id, verdict, due, waiting, stream, lock } => {
                let going_on = GoingOn { due: *due, waiting: *waiting, queue: stream.queue, lock: *lock };
                self.returned(row, id.0, *verdict, &going_on, findings);
            }
            Fact::Parked { id, place, key } => self.parked(id.0, *place, *key, findings),
            Fact::Unparked { id, place, key, record } => self.unparked(id.0, (*place, *key), record, findings),
            Fact::SessionOpened { no, .. } => {
                self.sessions.insert(*no, SessionLife { open: HashSet::new(), closed: None });
            }
            Fact::SessionClosed { no } => self.session_closed(row, *no, findings),
            Fact::QueuePaused { no, pause: Some(_) } => {
                self.paused.insert(*no);
            }
            Fact::QueuePaused { no, pause: None } => {
                self.paused.remove(no);
            }
            Fact::Rescheduled { id, due, waiting } => self.rescheduled(row, id.0, (*due, *waiting), findings),
            Fact::Reopened { id, verdict, record } => self.reopened(row, id.0, *verdict, record, findings),
            Fact::Deleted { id, verdict, .. } => self.erased(row, id.0, *verdict, findings),
            // The jobs of ticks are jobs like others here; the ticks themselves have a fold of their own.
            Fact::Replaced { .. }
            | Fact::QueueNamed { .. }
            | Fact::TaskNamed { .. }
            | Fact::PlaceMoved { .. }
            | Fact::SchedulePut { .. }
            | Fact::ScheduleDeleted { .. }
            | Fact::ScheduleTicked { .. }
            | Fact::KeptBelow { .. }
            | Fact::MovedBelow { .. }
            | Fact::Forgotten { .. }
            | Fact::FormatRaised { .. } => {}
        }
    }

    fn created(&mut self, row: Row, id: i64, life: Life, findings: &mut Findings) {
        if self.jobs.contains_key(&id) {
            findings.add(Clause::Transitions, id, || format!("row {} creates it a second time", row.number));
            return;
        }
        if life.phase == Phase::Waiting && row.at < life.due {
            findings.add(Clause::C7, id, || format!("it waits at {} and is due at {}", row.at.0, life.due.0));
        }
        if let Some(value) = &life.queueing_lock {
            self.queueing_locks.taken(value, id, findings);
        }
        self.locks.joined(id, &life);
        self.jobs.insert(id, life);
    }

    fn due(&mut self, row: Row, id: i64, findings: &mut Findings) {
        let Some(life) = self.jobs.get_mut(&id).filter(|life| life.phase == Phase::Scheduled) else {
            findings
                .add(Clause::Transitions, id, || format!("row {} makes it due and it was not scheduled", row.number));
            return;
        };
        if row.at < life.due {
            findings.add(Clause::C7, id, || format!("called due at {} and due at {}", row.at.0, life.due.0));
        }
        life.phase = Phase::Waiting;
        self.locks.waits(id, life);
    }

    fn rescheduled(&mut self, row: Row, id: i64, (due, waiting): (Timestamp, bool), findings: &mut Findings) {
        match self.jobs.get_mut(&id) {
            Some(life) if life.parked.is_none() && matches!(life.phase, Phase::Scheduled | Phase::Waiting) => {
                if waiting && row.at < due {
                    findings.add(Clause::C7, id, || format!("row {} lets it wait before it is due", row.number));
                }
                life.due = due;
                life.phase = if waiting { Phase::Waiting } else { Phase::Scheduled };
                self.locks.left(id, life.lock);
                self.locks.joined(id, life);
            }
            _ => findings.add(Clause::Transitions, id, || format!("row {} moves it, and it did not wait", row.number)),
        }
    }

    fn started(&mut self, row: Row, id: i64, session: SessionNo, nonce: u64, findings: &mut Findings) {
        let Some(life) = self.jobs.get_mut(&id) else {
            findings.add(Clause::Unexpected, id, || format!("row {} starts it and nothing created it", row.number));
            return;
        };
        match life.phase {
            Phase::Waiting => {}
            Phase::Running => {
                findings.add(Clause::C4, id, || format!("row {} starts it while another delivery is open", row.number));
            }
            Phase::Final(verdict) => {
                findings.add(Clause::C6, id, || format!("row {} starts it after it was {verdict:?}", row.number));
            }
            Phase::Scheduled => {
                findings.add(Clause::Transitions, id, || format!("row {} starts it while it is scheduled", row.number));
            }
        }
        if nonce != row.nonce {
            findings.add(Clause::Terms, id, || format!("row {} starts it with the nonce of another term", row.number));
        }
        if life.parked.is_some() {
            findings.add(Clause::OnePlace, id, || format!("row {} starts it while it is parked", row.number));
        }
        if row.at < life.due {
            let early = life.due.since(row.at);
            findings.add(Clause::C7, id, || format!("row {} starts it {early:?} before it is due", row.number));
        }
        if self.rules.policy_decides && life.max_attempts().is_some_and(|max| life.retried >= max) {
            let max = life.max_attempts().unwrap_or_default();
            findings.add(Clause::C8, id, || format!("row {} starts it after all {max} attempts", row.number));
        }
        if life.cancel_requested {
            findings.add(Clause::C11, id, || format!("row {} starts it after it was told to stop", row.number));
        }
        self.locks.started(id, life, &self.paused, self.rules.everything_served, findings);
        if let Some(value) = life.queueing_lock.take() {
            self.queueing_locks.freed(&value, id);
        }
        life.phase = Phase::Running;
        let number = life.last_number() + 1;
        life.deliveries.push(Leased { number, nonce, session, started: row.at, started_row: row.number, end: None });
        self.running += 1;
        match self.sessions.get_mut(&session).filter(|session| session.closed.is_none()) {
            Some(session) => {
                session.open.insert(id);
                self.full_windows += u64::from(session.open.len() >= self.rules.window);
            }
            None => findings.add(Clause::C4, id, || format!("row {} leases it to a session that is over", row.number)),
        }
    }

    fn finished(&mut self, row: Row, id: i64, verdict: Verdict, findings: &mut Findings) {
        let ended = Ended { verdict, at: row.at, row: row.number };
        let Some(life) = self.jobs.get_mut(&id) else {
            findings.add(Clause::Unexpected, id, || format!("row {} ends it and nothing created it", row.number));
            return;
        };
        if !verdict.is_final() {
            findings.add(Clause::Transitions, id, || format!("row {} ends it as {verdict:?}", row.number));
        }
        match life.phase {
            Phase::Running => {
                self.running -= 1;
                if let Some(last) = life.deliveries.last_mut() {
                    last.end = Some(ended);
                    if let Some(session) = self.sessions.get_mut(&last.session) {
                        session.open.remove(&id);
                    }
                }
            }
            // Cancelled, or its deadline passed.
            Phase::Scheduled | Phase::Waiting if matches!(verdict, Verdict::Cancelled | Verdict::Failed) => {
                life.notes.push((life.last_number() + 1, ended));
            }
            Phase::Scheduled | Phase::Waiting => {
                findings
                    .add(Clause::Transitions, id, || format!("row {} ends it as {verdict:?} unstarted", row.number));
            }
            Phase::Final(before) => {
                findings
                    .add(Clause::C6, id, || format!("row {} ends it as {verdict:?}, it was {before:?}", row.number));
                return;
            }
        }
        if life.parked.is_some() {
            findings.add(Clause::OnePlace, id, || format!("row {} ends it while it is parked", row.number));
        }
        if let Some(value) = life.queueing_lock.take() {
            self.queueing_locks.freed(&value, id);
        }
        life.phase = Phase::Final(verdict);
        self.locks.left(id, life.lock);
    }

    fn returned(&mut self, row: Row, id: i64, verdict: Verdict, going_on: &GoingOn, findings: &mut Findings) {
        let Some(life) = self.jobs.get_mut(&id) else {
            findings.add(Clause::Unexpected, id, || format!("row {} gives it back and nothing created it", row.number));
            return;
        };
        if life.phase != Phase::Running {
            let phase = life.phase;
            let clause = if life.deliveries.is_empty() { Clause::Transitions } else { Clause::C6 };
            findings
                .add(clause, id, || format!("row {} gives it back ({verdict:?}) while it is {phase:?}", row.number));
            return;
        }
        match verdict {
            Verdict::Retried => life.retried += 1,
            Verdict::Crashed => life.crashes += 1,
            Verdict::Snoozed | Verdict::Released => {}
            Verdict::Succeeded | Verdict::Failed | Verdict::Cancelled | Verdict::Reopened => {
                findings.add(Clause::Transitions, id, || format!("row {} gives it back as {verdict:?}", row.number));
            }
        }
        if life.crashes >= self.rules.max_crashes {
            let crashes = life.crashes;
            findings.add(Clause::C8, id, || format!("row {} gives it back after {crashes} crashes", row.number));
        }
        if self.rules.policy_decides && life.max_attempts().is_some_and(|max| life.retried >= max) {
            let retried = life.retried;
            findings.add(Clause::C8, id, || format!("row {} tries it again after {retried} attempts", row.number));
        }
        if going_on.waiting && row.at < going_on.due {
            findings.add(Clause::C7, id, || format!("row {} lets it wait before it is due", row.number));
        }
        self.running -= 1;
        if let Some(last) = life.deliveries.last_mut() {
            last.end = Some(Ended { verdict, at: row.at, row: row.number });
            if let Some(session) = self.sessions.get_mut(&last.session) {
                session.open.remove(&id);
            }
        }
        if life.lock == going_on.lock {
            self.locks.stopped(id, life.lock);
        } else {
            self.locks.left(id, life.lock);
        }
        life.phase = if going_on.waiting { Phase::Waiting } else { Phase::Scheduled };
        life.due = going_on.due;
        life.queue = going_on.queue;
        life.lock = going_on.lock;
        self.locks.joined(id, life);
    }

    /// A final job gets another budget of attempts (C17).
    fn reopened(&mut self, row: Row, id: i64, verdict: Verdict, record: &Record, findings: &mut Findings) {
        let Some(life) = self.jobs.get_mut(&id) else {
            findings.add(Clause::Unexpected, id, || format!("row {} opens it and nothing created it", row.number));
            return;
        };
        if life.phase != Phase::Final(verdict) || life.erased.is_some() {
            let phase = life.phase;
            findings.add(Clause::C17, id, || format!("row {} opens it as {verdict:?} and it is {phase:?}", row.number));
            return;
        }
        let number = life.last_number() + 1;
        let fresh = (record.attempts, record.crashes, record.deliveries);
        if fresh != (0, 0, number) {
            findings
                .add(Clause::C17, id, || format!("row {} opens it with {fresh:?}, not (0, 0, {number})", row.number));
        }
        life.notes.push((number, Ended { verdict: Verdict::Reopened, at: row.at, row: row.number }));
        (life.retried, life.crashes, life.cancel_requested) = (0, 0, false);
        life.phase = if record.phase == job::Phase::Scheduled { Phase::Scheduled } else { Phase::Waiting };
        if life.phase == Phase::Waiting && row.at < record.due {
            findings.add(Clause::C7, id, || format!("row {} lets it wait before it is due", row.number));
        }
        (life.due, life.queue, life.lock) = (record.due, record.stream.queue, record.lock());
        life.strict = record.is_strict();
        let expected = life.first_queueing_lock.clone().filter(|_| life.deliveries.is_empty());
        if record.queueing_lock() != expected.as_ref() {
            let takes = record.queueing_lock();
            findings.add(Clause::C10, id, || format!("opened, it carries {takes:?} and not {expected:?}"));
        }
        life.queueing_lock = record.queueing_lock().cloned();
        if let Some(value) = &life.queueing_lock {
            self.queueing_locks.taken(value, id, findings);
        }
        self.locks.joined(id, life);
    }

    /// A final job is erased (C17).
    fn erased(&mut self, row: Row, id: i64, verdict: Verdict, findings: &mut Findings) {
        match self.jobs.get_mut(&id) {
            Some(life) if life.phase == Phase::Final(verdict) && life.erased.is_none() => life.erased = Some(row.at),
            _ => findings.add(Clause::C17, id, || format!("row {} erases it, and it was not {verdict:?}", row.number)),
        }
    }

    fn parked(&mut self, id: i64, place: Place, key: PlaceKey, findings: &mut Findings) {
        match self.jobs.get_mut(&id) {
            Some(life) if life.parked.is_none() && matches!(life.phase, Phase::Scheduled | Phase::Waiting) => {
                life.parked = Some((place, key));
                life.parkings += 1;
            }
            _ => findings.add(Clause::OnePlace, id, || "it is parked, and was not in memory and unstarted".into()),
        }
    }

    fn unparked(&mut self, id: i64, from: (Place, PlaceKey), record: &Record, findings: &mut Findings) {
        let Some(life) = self.jobs.get_mut(&id) else {
            findings.add(Clause::Unexpected, id, || "it comes out of a place and nothing created it".into());
            return;
        };
        life.fetched += 1;
        if life.parked.take() != Some(from) {
            findings.add(Clause::OnePlace, id, || "it comes out of a place where it was not".into());
        }
        let remembered = (record.attempts, record.deliveries, record.crashes, record.lock(), record.due);
        let known = (life.retried, life.last_number(), life.crashes, life.lock, life.due);
        if remembered != known {
            findings.add(Clause::OnePlace, id, || format!("its row remembers {remembered:?}, and it was {known:?}"));
        }
    }

    fn session_closed(&mut self, row: Row, no: SessionNo, findings: &mut Findings) {
        let Some(session) = self.sessions.get_mut(&no) else {
            findings.add(Clause::Transitions, None, || format!("row {} ends the unknown session {}", row.number, no.0));
            return;
        };
        session.closed = Some(row.at);
        for job in session.open.drain() {
            findings
                .add(Clause::C3, job, || format!("its session ended in row {} and its delivery did not", row.number));
        }
    }

    /// What the log alone can say.
    pub(super) fn count(&self, counts: &mut Counts) {
        counts.full_windows = self.full_windows;
        for life in self.jobs.values() {
            counts.deliveries += life.deliveries.len() as u64;
            counts.fetched += life.fetched;
            counts.erased += u64::from(life.erased.is_some());
            counts.scheduled += u64::from(life.began_scheduled);
            counts.parkings += life.parkings;
            counts.parkings_of_one_job = counts.parkings_of_one_job.max(life.parkings);
            counts.locked += u64::from(life.lock.is_some());
            counts.strict += u64::from(life.strict);
            for end in life.ends() {
                counts.retried += u64::from(end.verdict == Verdict::Retried);
                counts.crashed += u64::from(end.verdict == Verdict::Crashed);
                counts.released += u64::from(end.verdict == Verdict::Released);
                counts.reopened += u64::from(end.verdict == Verdict::Reopened);
            }
            match life.phase {
                Phase::Final(Verdict::Succeeded) => counts.succeeded += 1,
                Phase::Final(Verdict::Failed) => counts.failed += 1,
                Phase::Final(Verdict::Cancelled) => counts.cancelled += 1,
                _ => counts.unfinished += 1,
            }
        }
    }
}
