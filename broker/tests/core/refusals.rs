//! What a refused batch may not take with it: what time brings, and what is known of streams.

use std::{sync::Arc, time::Duration};

use cabbage_broker::core::{
    batch::Batch,
    decide::Core,
    effect::{CallId, Effect, LinkId, Refusal},
    event::{Capacity, Defer, DeferItem, Event, Hello, OnConflict, Resume},
    job::Verdict,
    limits::Limits,
    state::State,
    types::{JobId, Lease, Now, Term},
};
use uuid::Uuid;

use crate::rig::{now, spec};

const FIRST: LinkId = LinkId(1);
const SECOND: LinkId = LinkId(2);

/// A core, and the state as of what is committed.
struct Rig {
    core: Core,
    committed: State,
    now: Now,
}

impl Rig {
    fn new() -> Self {
        let term = Term { number: 1, nonce: 1 };
        let mut core = Core::new(State::default(), 0, term, Limits::default(), now());
        core.handle(now(), Event::IdsReserved { first: JobId(1), end: JobId(1_000) });
        Self { core, committed: State::default(), now: now() }
    }

    fn handle(&mut self, event: Event) {
        self.core.handle(self.now, event);
    }

    fn hello(&mut self, link: LinkId) {
        self.introduce(link, None);
    }

    /// A worker comes back with what it holds.
    fn resume(&mut self, link: LinkId, of: LinkId, leases: Vec<Lease>) {
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
    fn defer(&mut self, queue: &str) {
        let item = DeferItem { request: None, spec: Arc::new(spec(queue)), on_conflict: OnConflict::Reject };
        self.handle(Event::Defer(Defer { call: CallId(1), request: None, items: vec![item], independent: false }));
    }

    fn passes(&mut self, time: Duration) {
        self.now.mono += time;
        self.now.db = self.now.db.plus(time);
        self.now.db_latest = self.now.db;
    }

    fn take(&mut self) -> Batch {
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

    fn refuse(&mut self) {
        assert!(self.core.refused(self.now, self.committed.clone(), "no"), "an event is to blame");
    }

    /// Commits whatever is decided, but refuses each batch with a job of this queue.
    fn settle_down(&mut self, poison: &str) -> Vec<Batch> {
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
    fn with_running_job() -> Self {
        let mut rig = Self::new();
        rig.hello(FIRST);
        rig.defer("good");
        rig.settle_down("poison");
        rig.handle(Event::Heard { link: FIRST, received: 1 });
        rig
    }
}

fn verdicts(batches: &[Batch]) -> Vec<Verdict> {
    batches.iter().flat_map(|batch| &batch.outcomes).map(|outcome| outcome.verdict).collect()
}

fn started_on(batch: &Batch) -> Vec<LinkId> {
    let link = |effect: &Effect| match effect {
        Effect::Deliver { link, .. } => Some(*link),
        _ => None,
    };
    batch.effects.iter().filter_map(link).collect()
}

/// A worker is lost, and its time is over when so many jobs come that the database refuses, and another one meanwhile.
fn is_lost_among_refusals(refused: usize) {
    let mut rig = Rig::with_running_job();
    rig.handle(Event::LinkLost { link: FIRST, reported: true });
    rig.hello(SECOND);
    rig.settle_down("poison");
    rig.passes(Limits::default().grace);
    rig.handle(Event::Heard { link: SECOND, received: 0 });
    for _ in 0..refused {
        rig.defer("poison");
    }
    let batch = rig.take();
    let held = (batch.jobs.len(), batch.outcomes.len());
    assert_eq!(held, (refused, 1), "the end of the session is in the batch to refuse");
    rig.refuse();
    rig.defer("poison");
    // Answers may go first.
    let batch = std::iter::repeat_with(|| rig.take()).find(Batch::writes).expect("a batch that writes");
    assert_eq!(verdicts(std::slice::from_ref(&batch)), [Verdict::Crashed]);
    assert_eq!((batch.jobs.len(), started_on(&batch)), (0, vec![SECOND]));
}

#[test]
fn jobs_of_a_lost_worker_are_given_out_again_while_a_culprit_is_sought() {
    is_lost_among_refusals(2);
}

#[test]
fn jobs_of_a_lost_worker_are_given_out_again_while_culprit_follows_culprit() {
    is_lost_among_refusals(1);
}

#[test]
fn deliveries_that_a_refused_batch_undid_were_not_sent() {
    let mut rig = Rig::new();
    rig.hello(FIRST);
    rig.settle_down("poison");
    rig.defer("good");
    rig.defer("poison");
    let batches = rig.settle_down("poison");
    assert_eq!(batches.iter().flat_map(started_on).collect::<Vec<_>>(), [FIRST]);
    // It has received all that was sent to it, so that its end is a crash.
    rig.handle(Event::Heard { link: FIRST, received: 1 });
    rig.handle(Event::LinkLost { link: FIRST, reported: true });
    rig.passes(Limits::default().grace);
    assert_eq!(verdicts(&rig.settle_down("poison")), [Verdict::Crashed]);
}

#[test]
fn a_silent_stream_is_closed_by_a_refused_batch_too() {
    let mut rig = Rig::with_running_job();
    rig.settle_down("poison");
    rig.passes(Limits::default().watchdog);
    rig.defer("poison");
    let closed = Effect::Close { link: FIRST, error: Refusal::Silent };
    let batch = rig.take();
    assert!(batch.effects.contains(&closed), "the close is in the batch to refuse");
    rig.refuse();
    let batches = rig.settle_down("poison");
    assert!(batches.iter().any(|batch| batch.effects.contains(&closed)));
}

#[test]
fn jobs_that_a_lost_worker_never_received_are_released_by_a_refused_batch_too() {
    let mut rig = Rig::new();
    rig.hello(FIRST);
    rig.defer("good");
    rig.settle_down("poison");
    rig.handle(Event::LinkLost { link: FIRST, reported: true });
    rig.passes(Limits::default().grace);
    rig.defer("poison");
    assert_eq!(verdicts(&[rig.take()]), [Verdict::Released]);
    rig.refuse();
    assert_eq!(verdicts(&rig.settle_down("poison")), [Verdict::Released]);
}

#[test]
fn a_worker_that_is_heard_keeps_its_stream_while_a_culprit_is_sought() {
    let mut rig = Rig::with_running_job();
    rig.settle_down("poison");
    rig.defer("poison");
    rig.defer("poison");
    rig.take();
    rig.refuse();
    rig.passes(Limits::default().watchdog);
    rig.handle(Event::Heard { link: FIRST, received: 1 });
    let closed = Effect::Close { link: FIRST, error: Refusal::Silent };
    assert!(rig.settle_down("poison").iter().all(|batch| !batch.effects.contains(&closed)));
}

#[test]
fn a_worker_that_has_come_back_keeps_its_jobs_while_a_culprit_is_sought() {
    let mut rig = Rig::with_running_job();
    rig.handle(Event::LinkLost { link: FIRST, reported: true });
    rig.settle_down("poison");
    rig.defer("poison");
    rig.defer("poison");
    rig.take();
    rig.refuse();
    rig.resume(SECOND, FIRST, vec![Lease { job: JobId(1), delivery: 1, nonce: 1 }]);
    rig.passes(Limits::default().grace);
    assert_eq!(verdicts(&rig.settle_down("poison")), []);
}
