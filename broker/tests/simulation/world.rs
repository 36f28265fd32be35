//! A world of one cell: tables, an owner's core, clients, workers, and what can go wrong between them.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    hash::{DefaultHasher, Hasher},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use cabbage_broker::{
    core::{
        ask::Verb,
        batch::Batch,
        decide::Core,
        effect::{CallId, Question},
        event::{End, Event},
        job::Record,
        limits::Limits,
        state::State,
        types::{Format, JobId, Lease, Now, Term, Timestamp},
    },
    store::{
        LogPosition, format,
        memory::{InboxPosition, Tables},
    },
};
use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::{ledger::Ledger, people::Worker, sql::Sql};

pub(crate) const WORKERS: usize = 3;
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
    pub(crate) fn note(&mut self, what: &'static str) {
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
            "retried by hand",
            "retried, and parked at once",
            "its queueing lock taken again",
            "rescheduled",
            "rescheduled while parked",
            "replaced",
            "replaced while parked",
            "deleted",
            "paused",
            "resumed again",
            "rebuilt with a paused queue",
            "not final",
            "final already",
            "no due time while it runs",
            "taken in",
            "late commit",
            "duplicate from SQL",
            "cancelled as it was taken in",
            "unrecordable from SQL",
            "left in the inbox",
            "refused verb from SQL",
            "tick deferred",
            "tick missed",
            "tick met its queueing lock",
            "ticks caught up",
            "tick after the clock was set back",
            "erased",
            "bound recorded",
            "format raised",
            "takeover with a raise in flight",
            "older broker took over",
            "older broker refused",
        ] {
            assert!(self.0.contains_key(what), "never reached: {what}");
        }
    }
}

/// What a client waits for.
pub(crate) enum Call {
    Defer { request: Option<Arc<str>> },
    Ask { request: Option<Arc<str>>, verb: Verb },
    Settle(Vec<(Lease, End)>),
}

pub(crate) struct World {
    pub(crate) rng: StdRng,
    pub(crate) verbose: bool,
    pub(crate) now: Now,
    pub(crate) limits: Limits,
    pub(crate) tables: Tables,
    pub(crate) term: Term,
    pub(crate) core: Core,
    /// The highest format that the owner reads.
    pub(crate) known: Format,
    /// The fold of what is committed, and an earlier one.
    pub(crate) follower: State,
    pub(crate) checkpoint: (Bytes, LogPosition),
    pub(crate) in_flight: Option<Batch>,
    pub(crate) questions: VecDeque<Question>,
    pub(crate) workers: Vec<Worker>,
    pub(crate) calls: HashMap<CallId, Call>,
    /// Calls with a request id whose outcome nobody knows.
    pub(crate) unknown: Vec<Event>,
    pub(crate) asked: Vec<Event>,
    pub(crate) ledger: Ledger,
    /// What was remembered of final jobs as they ended.
    pub(crate) ended: BTreeMap<JobId, Record>,
    /// How far the owner has read the inbox.
    pub(crate) position: InboxPosition,
    pub(crate) sql: Sql,
    pub(crate) next: u64,
    pub(crate) reached: Reached,
    pub(crate) trace: DefaultHasher,
    pub(crate) calm: bool,
    /// The database's clock was set back before.
    pub(crate) clock_set_back: bool,
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
            lock_lines_max: if rng.random_bool(0.2) { 2 } else { Limits::default().lock_lines_max },
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
            known: format::HIGHEST,
            follower: State::default(),
            checkpoint: (format::encode_state(&State::default()), LogPosition::default()),
            in_flight: None,
            questions: VecDeque::new(),
            workers: (0..WORKERS).map(|_| Worker::default()).collect(),
            calls: HashMap::new(),
            unknown: Vec::new(),
            asked: Vec::new(),
            ledger: Ledger::default(),
            ended: BTreeMap::new(),
            position: InboxPosition::default(),
            sql: Sql::default(),
            next: 0,
            reached: Reached::default(),
            trace: DefaultHasher::new(),
            calm: false,
            clock_set_back: false,
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

    pub(crate) fn step(&mut self) {
        match self.rng.random_range(0..1_000) {
            0..=119 => self.client_defers(),
            120..=174 => self.application_acts(),
            175..=204 => self.client_asks_again(),
            205..=234 => self.client_cancels(),
            235..=259 => self.operator_acts(),
            260..=274 => self.client_schedules(),
            275..=529 => {
                let worker = self.rng.random_range(0..WORKERS);
                self.worker_acts(worker);
            }
            530..=779 => self.broker_acts(),
            780..=786 => self.retention_acts(),
            787..=789 => self.format_acts(),
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
            990..=993 => self.take_over(false),
            994..=996 => {
                self.set_clock();
                self.take_over(false);
            }
            _ => self.take_over(true),
        }
    }

    pub(crate) fn pass(&mut self, time: Duration) {
        self.now.mono += time;
        self.now.db = self.now.db.plus(time);
        self.now.db_latest = self.now.db_latest.plus(time);
        self.core.handle(self.now, Event::Tick);
    }

    pub(crate) fn tell(&mut self, event: Event) {
        if self.verbose {
            println!("{:>9} {event:?}", self.now.mono.as_millis());
        }
        self.core.handle(self.now, event);
    }

    pub(crate) fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Nothing goes wrong any more, and every job must reach its end (C3).
    fn drain(&mut self) {
        self.calm = true;
        for worker in &mut self.workers {
            worker.die();
        }
        self.applications_finish();
        // What the database refused whatever became of it is tried again by the next owner.
        self.take_over(false);
        self.pass(Duration::from_mins(2));
        for round in 0..DRAIN_ROUNDS {
            if round % 100 == 0 {
                // A paused queue ends nothing.
                for queue in
                    self.follower.paused.keys().map(|no| self.follower.queue_name(*no).clone()).collect::<Vec<_>>()
                {
                    self.asks_for(Verb::Resume(queue));
                }
            }
            // Once more now and then: a schedule that was being put may come after it was taken away.
            if round % 50 == 0 {
                self.end_schedules();
            }
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
            let is_quiet = self.follower.schedules.is_empty() && self.in_flight.is_none();
            if open == 0 && self.tables.inbox().next().is_none() && is_quiet && round > 100 {
                return;
            }
        }
        if self.verbose {
            println!("{:#?}", self.core);
        }
        let jobs: Vec<_> = self.follower.jobs.iter().take(3).map(|(id, _)| (id, self.core.live(id))).collect();
        let parked: Vec<_> = self.tables.parked().values().take(3).collect();
        panic!(
            "C3: every job reaches its end; in memory {jobs:?}, parked {parked:?}, in the inbox {}, in flight {}, questions {:?}, workers {:?}",
            self.tables.inbox().count(),
            self.in_flight.is_some(),
            self.questions,
            self.workers
        );
    }
}
