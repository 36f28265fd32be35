//! A world of one cell: tables, an owner's core, clients, workers, and what can go wrong between them.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use cabbage_broker::{
    core::{
        batch::Batch,
        decide::Core,
        effect::{CallId, Effect, LinkId, Question, Refusal, Reply, SettleCode},
        event::{Capacity, Defer, DeferItem, End, Event, Request, Settle, SettleFrom},
        fact::Fact,
        job::Verdict,
        limits::Limits,
        rebuild::{JobRow, Rebuild},
        state::State,
        types::{JobId, Lease, Now, Term, Timestamp},
        verbs,
    },
    store::{CommitError, LogPosition, memory::Tables},
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use uuid::Uuid;

use crate::{
    contract,
    ledger::Ledger,
    people::{self, Worker},
};

const WORKERS: usize = 3;
/// How many rounds everybody has to finish what is left, once nothing goes wrong any more (C3).
const DRAIN_ROUNDS: u32 = 4_000;

/// How a run went.
pub(crate) struct Run {
    pub(crate) reached: Reached,
    pub(crate) trace: u64,
}

/// How often something was reached that a run of the simulation must reach.
#[derive(Debug, Default)]
pub(crate) struct Reached(BTreeMap<&'static str, u64>);

impl Reached {
    fn note(&mut self, what: &'static str) {
        *self.0.entry(what).or_default() += 1;
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (what, times) in &other.0 {
            *self.0.entry(what).or_default() += times;
        }
    }

    /// A simulation that never came to one of these has tested nothing.
    pub(crate) fn assert_all(&self) {
        for what in [
            "parked",
            "fetched",
            "refused",
            "singled out",
            "lease lost",
            "already recorded",
            "crashed",
            "crashed for good",
            "released",
            "retried",
            "takeover",
            "takeover with jobs in flight",
            "rebuilt from the tables",
            "unknown outcome asked again",
            "cancelled while running",
            "cancelled while parked",
            "queueing lock taken",
            "resumed",
            "caught up",
            "deadline passed",
            "timed out",
        ] {
            assert!(self.0.contains_key(what), "never reached: {what}");
        }
    }
}

/// What a client waits for.
enum Call {
    Defer { request: Option<Arc<str>> },
    Cancel { request: Option<Arc<str>>, job: JobId },
    Settle(Vec<(Lease, End)>),
}

pub(crate) struct World {
    rng: StdRng,
    verbose: bool,
    now: Now,
    limits: Limits,
    tables: Tables,
    term: Term,
    core: Core,
    /// The fold of what is committed, and an earlier one.
    follower: State,
    checkpoint: (State, LogPosition),
    in_flight: Option<Batch>,
    questions: VecDeque<Question>,
    workers: Vec<Worker>,
    calls: HashMap<CallId, Call>,
    /// Calls with a request id whose outcome nobody knows.
    unknown: Vec<Event>,
    asked: Vec<Event>,
    ledger: Ledger,
    next: u64,
    reached: Reached,
    trace: DefaultHasher,
    calm: bool,
}

impl World {
    pub(crate) fn new(seed: u64, verbose: bool) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let limits = Limits {
            memory_jobs_max: rng.random_range(10..60),
            stream_floor_jobs: rng.random_range(1..6),
            park_step_jobs: rng.random_range(1..12),
            due_horizon: Duration::from_secs(rng.random_range(2..10)),
            batch_facts_max: rng.random_range(10..60),
            reserve_ids_min: rng.random_range(1..8),
            hash_every_rows: 5,
            ..Limits::default()
        };
        let now = Now {
            db: Timestamp(1_700_000_000_000_000),
            db_latest: Timestamp(1_700_000_000_005_000),
            mono: Duration::from_secs(1_000),
        };
        let mut tables = Tables::new();
        let term = tables.take_term(rng.random());
        let core = Core::new(State::default(), 0, term, limits.clone(), now);
        Self {
            rng,
            verbose,
            now,
            limits,
            tables,
            term,
            core,
            follower: State::default(),
            checkpoint: (State::default(), LogPosition::default()),
            in_flight: None,
            questions: VecDeque::new(),
            workers: (0..WORKERS).map(|_| Worker::default()).collect(),
            calls: HashMap::new(),
            unknown: Vec::new(),
            asked: Vec::new(),
            ledger: Ledger::default(),
            next: 0,
            reached: Reached::default(),
            trace: DefaultHasher::new(),
            calm: false,
        }
    }

    /// So many random steps; then nothing goes wrong any more, and everything must end.
    pub(crate) fn run(mut self, steps: u32) -> Run {
        for _ in 0..steps {
            self.step();
        }
        self.drain();
        Run { trace: self.trace.finish(), reached: self.reached }
    }

    fn step(&mut self) {
        match self.rng.random_range(0..1_000) {
            0..=179 => self.client_defers(),
            180..=209 => self.client_asks_again(),
            210..=259 => self.client_cancels(),
            260..=529 => {
                let worker = self.rng.random_range(0..WORKERS);
                self.worker_acts(worker);
            }
            530..=789 => self.broker_acts(),
            790..=909 => self.answer(),
            910..=974 => {
                let millis = self.rng.random_range(0..2_000);
                self.pass(Duration::from_millis(millis));
                for worker in 0..WORKERS {
                    self.beat(worker);
                }
            }
            975..=989 => {
                let seconds = self.rng.random_range(2..70);
                self.pass(Duration::from_secs(seconds));
            }
            990..=996 => self.take_over(false),
            _ => self.take_over(true),
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now.mono += time;
        self.now.db = self.now.db.plus(time);
        self.now.db_latest = self.now.db_latest.plus(time);
        self.core.handle(self.now, Event::Tick);
    }

    fn tell(&mut self, event: Event) {
        if self.verbose {
            println!("{:>9} {event:?}", self.now.mono.as_millis());
        }
        self.core.handle(self.now, event);
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    // ---- clients ----------------------------------------------------------------------------------------------------

    fn client_defers(&mut self) {
        let call = CallId(self.number());
        let request = self.rng.random_bool(0.5).then(|| self.request());
        let independent = self.rng.random_bool(0.2);
        let count = if self.rng.random_bool(0.7) { 1 } else { self.rng.random_range(1..6) };
        let items =
            (0..count).map(|_| DeferItem { request: None, spec: people::spec(&mut self.rng, self.now.db) }).collect();
        let defer = Event::Defer(Defer { call, request: request.filter(|_| !independent), items, independent });
        self.ask(defer);
    }

    fn request(&mut self) -> Request {
        let number = self.number();
        Request { id: format!("r{number}").into(), digest: Uuid::from_u128(u128::from(number)) }
    }

    /// Repeats a call whose outcome is unknown, or one that was answered long ago.
    fn client_asks_again(&mut self) {
        let again = if self.unknown.is_empty() {
            let Some(index) = (!self.asked.is_empty()).then(|| self.rng.random_range(0..self.asked.len())) else {
                return;
            };
            self.asked[index].clone()
        } else {
            self.reached.note("unknown outcome asked again");
            self.unknown.remove(0)
        };
        let call = CallId(self.number());
        self.ask(match again {
            Event::Defer(defer) => Event::Defer(Defer { call, ..defer }),
            Event::Cancel { request, job, .. } => Event::Cancel { call, request, job },
            other => other,
        });
    }

    fn client_cancels(&mut self) {
        let Some(id) = self.tables.jobs().keys().next_back().map(|id| id.0) else { return };
        let job = JobId(self.rng.random_range(id.saturating_sub(20)..=id).max(1));
        let call = CallId(self.number());
        let request = self.rng.random_bool(0.5).then(|| self.request());
        self.ask(Event::Cancel { call, request, job });
    }

    fn ask(&mut self, event: Event) {
        let (id, call) = match &event {
            Event::Defer(Defer { call, request, .. }) => {
                (*call, Call::Defer { request: request.as_ref().map(|request| request.id.clone()) })
            }
            Event::Cancel { call, request, job } => {
                (*call, Call::Cancel { request: request.as_ref().map(|request| request.id.clone()), job: *job })
            }
            _ => return,
        };
        self.calls.insert(id, call);
        if matches!(&event, Event::Defer(Defer { request: Some(_), .. }) | Event::Cancel { request: Some(_), .. }) {
            self.asked.push(event.clone());
        }
        self.tell(event);
    }

    // ---- workers ----------------------------------------------------------------------------------------------------

    fn worker_acts(&mut self, index: usize) {
        let Some(link) = self.workers[index].link else {
            let link = LinkId(self.number());
            let hello = self.workers[index].hello(&mut self.rng, link, self.calm);
            self.tell(Event::Hello(Box::new(hello)));
            return;
        };
        if !self.workers[index].welcomed {
            return;
        }
        match self.rng.random_range(0..100) {
            0..=39 => self.receive(index),
            40..=79 => self.settle(index),
            80..=83 => self.settle_by_call(index),
            84..=87 => {
                self.workers[index].revision += 1;
                let revision = self.workers[index].revision;
                let max_jobs = if self.calm { 8 } else { self.rng.random_range(0..8) };
                let capacity = Capacity { revision, max_jobs, max_bytes: 0, paused: false };
                self.tell(Event::Capacity { link, capacity });
            }
            _ if self.calm => self.beat(index),
            88..=90 => {
                // The stream breaks; everybody notices.
                self.workers[index].link = None;
                self.tell(Event::LinkLost { link, reported: true });
            }
            91 | 92 => {
                // The worker leaves its stream, and the broker does not notice.
                self.workers[index].link = None;
            }
            93 | 94 => {
                self.workers[index].die();
                self.tell(Event::LinkLost { link, reported: true });
            }
            95 => {
                self.workers[index].die();
            }
            96 => {
                self.tell(Event::Drain { link });
            }
            97 => {
                // A token of nobody.
                let lease = Lease { job: JobId(1), delivery: 1, nonce: 7 };
                let frame = &mut self.workers[index].frame;
                *frame += 1;
                let from = SettleFrom::Link(link, Some(*frame));
                self.tell(Event::Settle(Settle { from, results: vec![(lease, End::Succeeded(None))] }));
            }
            _ => self.beat(index),
        }
    }

    fn receive(&mut self, index: usize) {
        let worker = &mut self.workers[index];
        let Some(link) = worker.link else { return };
        for _ in 0..self.rng.random_range(1..5) {
            if let Some(lease) = worker.wire.pop_front() {
                worker.held.push(lease);
                worker.received += 1;
            }
        }
        let received = worker.received;
        self.tell(Event::Heard { link, received });
    }

    fn beat(&mut self, index: usize) {
        let worker = &self.workers[index];
        if let (Some(link), true) = (worker.link, worker.welcomed) {
            let received = worker.received;
            self.core.handle(self.now, Event::Heard { link, received });
        }
    }

    fn settle(&mut self, index: usize) {
        let calm = self.calm;
        let worker = &mut self.workers[index];
        let Some(link) = worker.link else { return };
        let mut results = Vec::new();
        worker.frame += 1;
        let frame = worker.frame;
        for _ in 0..self.rng.random_range(1..4) {
            if worker.held.is_empty() {
                break;
            }
            let lease = worker.held.remove(self.rng.random_range(0..worker.held.len()));
            let cancelled = worker.cancelled.contains(&lease.job);
            let end = if calm { End::Succeeded(None) } else { people::end(&mut self.rng, cancelled) };
            worker.outbox.push((frame, lease, end.clone()));
            results.push((lease, end));
        }
        if !results.is_empty() {
            self.tell(Event::Settle(Settle { from: SettleFrom::Link(link, Some(frame)), results }));
        }
    }

    /// What is not acknowledged is sent again, by another way.
    fn settle_by_call(&mut self, index: usize) {
        let results: Vec<(Lease, End)> =
            self.workers[index].outbox.iter().map(|(_, lease, end)| (*lease, end.clone())).collect();
        if results.is_empty() {
            return;
        }
        let call = CallId(self.number());
        self.calls.insert(call, Call::Settle(results.clone()));
        self.tell(Event::Settle(Settle { from: SettleFrom::Call(call), results }));
    }

    // ---- the broker and its database --------------------------------------------------------------------------------

    fn broker_acts(&mut self) {
        self.questions.extend(self.core.questions());
        if self.in_flight.is_some() {
            self.commit();
            return;
        }
        let before = self.core.state().clone();
        let Some(batch) = self.core.take_batch(self.now) else { return };
        // The draft held decisions before the batch was taken, so the fold begins at what is committed.
        drop(before);
        contract::check_batch(&self.core, &self.follower, &self.tables, &batch);
        self.questions.extend(self.core.questions());
        if batch.writes() {
            self.in_flight = Some(batch);
        } else {
            self.carry_out(batch.effects);
        }
    }

    fn commit(&mut self) {
        let Some(batch) = self.in_flight.take() else { return };
        let dice = self.rng.random_range(0..1_000);
        let spurious = !self.calm && dice < 8;
        let result = if spurious {
            Err(CommitError::Refused { sqlstate: "54000".into(), message: "at random".into() })
        } else {
            self.tables.commit(self.now.db, self.term, &batch)
        };
        match result {
            Ok(committed) => {
                (batch.number, batch.facts.len()).hash(&mut self.trace);
                self.note_facts(&batch);
                for fact in batch.facts.iter() {
                    self.follower.apply(fact);
                }
                if let Some(hash) = batch.state_hash {
                    assert_eq!(hash, self.follower.hash_at(batch.number), "the follower has the owner's hash");
                }
                contract::check_state(&self.follower, &self.tables, self.limits.memory_jobs_max);
                if self.rng.random_bool(0.05) {
                    self.checkpoint = (self.follower.clone(), self.tables.position());
                }
                if !self.calm && dice > 990 {
                    // It was done, and nobody was told.
                    self.take_over(false);
                    return;
                }
                self.core.committed(batch.number, committed.at);
                if !committed.ids.is_empty() {
                    let (first, end) = (JobId(committed.ids.start), JobId(committed.ids.end));
                    self.tell(Event::IdsReserved { first, end });
                }
                self.carry_out(batch.effects);
                self.ledger.check(&self.tables);
            }
            Err(CommitError::Refused { message, .. }) => {
                self.reached.note("refused");
                if !self.core.refused(self.now, self.follower.clone(), &message) {
                    assert!(spurious, "a refused batch has a culprit");
                    self.take_over(false);
                }
            }
            Err(CommitError::Again(_)) => self.in_flight = Some(batch),
            Err(CommitError::TermOver(why)) => panic!("a bug: {why}"),
        }
    }

    fn note_facts(&mut self, batch: &Batch) {
        for fact in batch.facts.iter() {
            match fact {
                Fact::Parked { .. } => self.reached.note("parked"),
                Fact::Unparked { .. } => self.reached.note("fetched"),
                Fact::Returned { verdict: Verdict::Crashed, .. } => self.reached.note("crashed"),
                Fact::Returned { verdict: Verdict::Released, .. } => self.reached.note("released"),
                Fact::Returned { verdict: Verdict::Retried, .. } => self.reached.note("retried"),
                Fact::CancelRequested { .. } => self.reached.note("cancelled while running"),
                _ => {}
            }
        }
        for outcome in &batch.outcomes {
            match outcome.more.as_ref().and_then(|more| more.reason.as_deref()) {
                Some("CRASHED") => self.reached.note("crashed for good"),
                Some("DEADLINE") => self.reached.note("deadline passed"),
                Some("TIMEOUT") => self.reached.note("timed out"),
                Some("UNRECORDABLE") => self.reached.note("singled out"),
                _ => {}
            }
            if outcome.verdict == Verdict::Cancelled && batch.unparked.iter().any(|row| row.id == outcome.job) {
                self.reached.note("cancelled while parked");
            }
        }
    }

    /// A question is answered, late or never.
    fn answer(&mut self) {
        if self.questions.is_empty() {
            return;
        }
        let index = if self.calm { 0 } else { self.rng.random_range(0..self.questions.len()) };
        let Some(question) = self.questions.remove(index) else { return };
        let fails = !self.calm && self.rng.random_bool(0.05);
        let event = match question {
            Question::LookUp(keys) if fails => Event::QuestionFailed { id: keys.id },
            Question::Fetch(fetch) if fails => Event::QuestionFailed { id: fetch.id },
            Question::LookUp(keys) => Event::Found(self.tables.look_up(&keys)),
            Question::Fetch(fetch) => Event::Fetched(self.tables.fetch(&fetch)),
        };
        // An answer is a snapshot: it may come after more was committed.
        if !self.calm && self.rng.random_bool(0.2) && self.in_flight.is_some() {
            self.commit();
        }
        self.tell(event);
    }

    /// The owner dies; another takes the term, and knows only what is written.
    fn take_over(&mut self, rebuild: bool) {
        self.reached.note("takeover");
        if self.in_flight.is_some() && self.rng.random_bool(0.5) {
            // Its last statement was done all the same, or was not.
            if let Some(batch) = self.in_flight.take()
                && self.tables.commit(self.now.db, self.term, &batch).is_ok()
            {
                for fact in batch.facts.iter() {
                    self.follower.apply(fact);
                }
            }
        }
        self.in_flight = None;
        if self.core.running_jobs() > 0 {
            self.reached.note("takeover with jobs in flight");
        }
        let nonce = self.rng.random();
        let old = self.term;
        self.term = self.tables.take_term(nonce);
        let late = Batch { number: self.tables.position().number + 1, ..Batch::default() };
        assert!(self.tables.commit(self.now.db, old, &late).is_err(), "the owner before writes nothing any more");
        let state = if rebuild { self.rebuilt() } else { self.folded() };
        let row = self.tables.position();
        self.follower = state.clone();
        self.checkpoint = (state.clone(), row);
        self.core = Core::new(state, row.number, self.term, self.limits.clone(), self.now);
        self.questions.clear();
        // Nobody was answered: those who gave a request id may ask again.
        for (call, what) in std::mem::take(&mut self.calls) {
            let has_request = match what {
                Call::Defer { request } | Call::Cancel { request, .. } => request.is_some(),
                Call::Settle(_) => false,
            };
            if has_request {
                let again = self.asked.iter().find(|event| {
                    matches!(event, Event::Defer(Defer { call: id, .. }) | Event::Cancel { call: id, .. } if *id == call)
                });
                self.unknown.extend(again.cloned());
            }
        }
        self.unknown.sort_by_key(|event| match event {
            Event::Defer(Defer { call, .. }) | Event::Cancel { call, .. } => *call,
            _ => CallId(0),
        });
        for worker in &mut self.workers {
            worker.link = None;
            worker.wire.clear();
        }
    }

    /// A checkpoint and the log after it give the state of the owner that was.
    fn folded(&self) -> State {
        let (mut state, from) = self.checkpoint.clone();
        let rows = self.tables.follow(from, u32::MAX).expect("the log is what it was");
        for fact in rows.iter().flat_map(|row| row.facts.iter()) {
            state.apply(fact);
        }
        assert_eq!(state.difference(&self.follower), None, "checkpoint and log give the state");
        state
    }

    /// The tables alone give a state that can go on.
    fn rebuilt(&mut self) -> State {
        self.reached.note("rebuilt from the tables");
        let names = |names: Vec<&Arc<str>>| names.into_iter().cloned().collect();
        let mut rebuild = Rebuild::new(
            names(self.tables.queues().values().collect()),
            names(self.tables.tasks().values().collect()),
            self.now,
        );
        for (id, row) in self.tables.jobs() {
            let outcomes: Vec<_> =
                self.tables.outcomes().range((*id, 0)..=(*id, u32::MAX)).map(|(_, outcome)| outcome.clone()).collect();
            let parked = self.tables.parked_at(*id).map(|at| &self.tables.parked()[&at]);
            let job = &row.job;
            let row = JobRow { id: *id, queue: job.queue, task: job.task, due: job.due, spec: &job.spec };
            rebuild.job(row, &outcomes, parked);
        }
        rebuild.finish()
    }

    // ---- effects ----------------------------------------------------------------------------------------------------

    fn carry_out(&mut self, effects: Vec<Effect>) {
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
                        for lease in lost {
                            worker.forget(lease);
                        }
                        // What was not acknowledged is sent again.
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
                        assert!(!worker.drained, "nothing follows a drain");
                        worker.wire.extend(deliveries.iter().map(|delivery| delivery.lease));
                    }
                }
                Effect::SettleAck { link, through, exceptions } => self.acknowledged(link, through, &exceptions),
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

    fn worker(&mut self, link: LinkId) -> Option<&mut Worker> {
        self.workers.iter_mut().find(|worker| worker.link == Some(link))
    }

    fn acknowledged(&mut self, link: LinkId, through: Option<u64>, exceptions: &[(Lease, SettleCode)]) {
        let Some(index) = self.workers.iter().position(|worker| worker.link == Some(link)) else { return };
        let outbox = std::mem::take(&mut self.workers[index].outbox);
        for (frame, lease, end) in outbox {
            let exception = exceptions.iter().find(|(other, _)| *other == lease).map(|(_, code)| *code);
            let code = exception.or_else(|| through.filter(|through| frame <= *through).map(|_| SettleCode::Recorded));
            match code {
                None => self.workers[index].outbox.push((frame, lease, end)),
                Some(code) => self.settled(lease, code, &end),
            }
        }
    }

    fn settled(&mut self, lease: Lease, code: SettleCode, end: &End) {
        match code {
            SettleCode::LeaseLost => self.reached.note("lease lost"),
            SettleCode::AlreadyRecorded => self.reached.note("already recorded"),
            _ => {}
        }
        self.ledger.settled(lease, code, people::verdicts(end), &self.tables);
    }

    fn reply(&mut self, call: CallId, reply: Reply) {
        let Some(what) = self.calls.remove(&call) else { return };
        match (what, reply) {
            (Call::Defer { request }, Reply::Done { answer, .. }) => self.ledger.answered(request.as_ref(), &answer),
            (Call::Defer { .. }, Reply::Items(items)) => {
                for item in items {
                    match item {
                        Ok(id) => assert!(self.tables.jobs().contains_key(&id), "C1: job {id} was acknowledged"),
                        Err(refusal) => self.refusal(&refusal),
                    }
                }
            }
            (Call::Cancel { request, job }, Reply::Done { answer, .. }) => {
                if answer
                    == (cabbage_broker::core::batch::Answer::Cancelled {
                        state: verbs::final_state(Verdict::Cancelled),
                    })
                {
                    self.ledger.cancelled.insert(job);
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

    fn refusal(&mut self, refusal: &Refusal) {
        match refusal {
            Refusal::QueueingLockTaken { by, .. } => {
                self.reached.note("queueing lock taken");
                assert!(self.tables.jobs().contains_key(by), "C10: the job that is named exists");
            }
            Refusal::RequestIdReused { .. } => panic!("C2: no request id was used for two calls"),
            _ => {}
        }
    }

    // ---- the end ----------------------------------------------------------------------------------------------------

    /// Nothing goes wrong any more, and every job must reach its end (C3).
    fn drain(&mut self) {
        self.calm = true;
        for worker in &mut self.workers {
            worker.die();
        }
        self.pass(Duration::from_mins(2));
        for round in 0..DRAIN_ROUNDS {
            for worker in 0..WORKERS {
                self.worker_acts(worker);
                self.beat(worker);
            }
            self.answer();
            self.answer();
            self.broker_acts();
            self.broker_acts();
            if round % 4 == 0 {
                self.pass(Duration::from_millis(500));
            }
            let open = self.follower.jobs.len() + self.tables.parked().len();
            if open == 0 && self.in_flight.is_none() && round > 100 {
                return;
            }
        }
        if self.verbose {
            println!("{:#?}", self.core);
        }
        let jobs: Vec<_> = self.follower.jobs.iter().take(3).map(|(id, _)| (id, self.core.live(id))).collect();
        let parked: Vec<_> = self.tables.parked().values().take(3).collect();
        panic!(
            "C3: every job reaches its end; in memory {jobs:?}, parked {parked:?}, in flight {}, questions {:?}, workers {:?}",
            self.in_flight.is_some(),
            self.questions,
            self.workers
        );
    }
}
