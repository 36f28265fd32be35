//! What tests of the core need.

use std::{sync::Arc, time::Duration};

use cabbage_broker::core::{
    batch::Batch,
    decide::Core,
    effect::{CallId, LinkId, LookUp, Question},
    event::{Capacity, Defer, DeferItem, Event, Hello, OnConflict, Resume},
    job::{JobSpec, Verdict},
    limits::Limits,
    state::State,
    types::{JobId, Lease, Now, Term, Timestamp},
};
use uuid::Uuid;

pub(crate) const NOW: Timestamp = Timestamp(1_700_000_000_000_000);

/// The time of tests that need no other.
pub(crate) fn now() -> Now {
    Now { db: NOW, db_latest: NOW, mono: Duration::from_secs(100) }
}

/// A plain job of the task `t`.
pub(crate) fn spec(queue: &str) -> JobSpec {
    JobSpec::plain("t", queue)
}

/// What the core wants to have looked up.
pub(crate) fn look_up(core: &mut Core) -> LookUp {
    let look_up = |question| match question {
        Question::LookUp(keys) => Some(keys),
        Question::Fetch(_) | Question::Look(_) => None,
    };
    core.questions().into_iter().find_map(look_up).expect("something is looked up")
}

/// Streams of two workers.
pub(crate) const FIRST: LinkId = LinkId(1);
pub(crate) const SECOND: LinkId = LinkId(2);

/// A core, and the state as of what is committed.
pub(crate) struct Rig {
    core: Core,
    committed: State,
    now: Now,
}

impl Rig {
    pub(crate) fn new() -> Self {
        let term = Term { number: 1, nonce: 1 };
        let mut core = Core::new(State::default(), 0, term, Limits::default(), now());
        core.handle(now(), Event::IdsReserved { first: JobId(1), end: JobId(1_000) });
        Self { core, committed: State::default(), now: now() }
    }

    pub(crate) fn handle(&mut self, event: Event) {
        self.core.handle(self.now, event);
    }

    pub(crate) fn hello(&mut self, link: LinkId) {
        self.introduce(link, None);
    }

    /// A worker comes back with what it holds.
    pub(crate) fn resume(&mut self, link: LinkId, of: LinkId, leases: Vec<Lease>) {
        let id = Uuid::from_u128(of.0.into());
        self.introduce(link, Some(Resume { session: id, secret: id, leases }));
    }

    fn introduce(&mut self, link: LinkId, resume: Option<Resume>) {
        let id = Uuid::from_u128(link.0.into());
        self.handle(Event::Hello(Box::new(Hello {
            link,
            new_session: id,
            new_secret: id,
            queues: Vec::new(),
            tasks: vec![("t".into(), 0)],
            capacity: Capacity { revision: 1, max_jobs: 10, max_bytes: 0, paused: false },
            wants_caught_up: false,
            resume,
        })));
    }

    /// A job; its queue is its name.
    pub(crate) fn defer(&mut self, queue: &str) {
        self.defer_job(spec(queue));
    }

    pub(crate) fn defer_job(&mut self, spec: JobSpec) {
        let item = DeferItem { request: None, spec: Arc::new(spec), on_conflict: OnConflict::Reject };
        self.handle(Event::Defer(Defer { call: CallId(1), request: None, items: vec![item], independent: false }));
    }

    pub(crate) fn passes(&mut self, time: Duration) {
        self.now.mono += time;
        self.now.db = self.now.db.plus(time);
        self.now.db_latest = self.now.db;
    }

    pub(crate) fn take(&mut self) -> Batch {
        self.core.take_batch(self.now).expect("a batch")
    }

    fn commit(&mut self, batch: &Batch) {
        for fact in batch.facts.iter() {
            self.committed.apply(fact);
        }
        if batch.writes() {
            self.core.committed(batch.number, self.now.db);
        }
    }

    pub(crate) fn refuse(&mut self) {
        assert!(self.core.refused(self.now, self.committed.clone(), "no"), "an event is to blame");
    }

    /// Commits whatever is decided, but refuses each batch with a job of this queue.
    pub(crate) fn settle_down(&mut self, poison: &str) -> Vec<Batch> {
        let mut batches = Vec::new();
        while let Some(batch) = self.core.take_batch(self.now) {
            if batch.jobs.iter().any(|job| *job.spec.queue == *poison) {
                self.refuse();
            } else {
                self.commit(&batch);
                batches.push(batch);
            }
        }
        batches
    }

    /// A worker that runs a job, and has said that it received it.
    pub(crate) fn with_running_job() -> Self {
        let mut rig = Self::new();
        rig.hello(FIRST);
        rig.defer("good");
        rig.settle_down("poison");
        rig.handle(Event::Heard { link: FIRST, received: 1 });
        rig
    }
}

/// How the deliveries ended that these batches end.
pub(crate) fn verdicts(batches: &[Batch]) -> Vec<Verdict> {
    batches.iter().flat_map(|batch| &batch.outcomes).map(|outcome| outcome.verdict).collect()
}
