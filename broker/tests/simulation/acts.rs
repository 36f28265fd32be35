//! What clients and workers do next.

use std::sync::Arc;

use cabbage_broker::core::{
    ask::{Ask, By, Verb},
    effect::{CallId, LinkId},
    event::{Capacity, Defer, DeferItem, End, Event, Request, Settle, SettleFrom},
    types::{JobId, Lease, Timestamp},
};
use rand::Rng;
use uuid::Uuid;

use crate::{
    people,
    world::{Call, World},
};

impl World {
    pub(crate) fn client_defers(&mut self) {
        let call = CallId(self.number());
        let request = self.rng.random_bool(0.5).then(|| self.request());
        let independent = self.rng.random_bool(0.2);
        let count = if self.rng.random_bool(0.7) { 1 } else { self.rng.random_range(1..6) };
        let mut item = || DeferItem {
            request: None,
            spec: people::spec(&mut self.rng, self.now.db),
            on_conflict: people::on_conflict(&mut self.rng),
        };
        let items = (0..count).map(|_| item()).collect();
        let defer = Event::Defer(Defer { call, request: request.filter(|_| !independent), items, independent });
        self.ask(defer);
    }

    pub(crate) fn request(&mut self) -> Request {
        let number = self.number();
        Request { id: format!("r{number}").into(), digest: Uuid::from_u128(u128::from(number)) }
    }

    /// Repeats a call whose outcome is unknown, or one that was answered long ago.
    pub(crate) fn client_asks_again(&mut self) {
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
            Event::Ask(ask) => Event::Ask(Ask { call, ..ask }),
            other => other,
        });
    }

    pub(crate) fn client_cancels(&mut self) {
        let Some(job) = self.some_job() else { return };
        self.asks_for(Verb::Cancel(job));
    }

    /// An operator asks for anything but a cancel.
    pub(crate) fn operator_acts(&mut self) {
        let Some(job) = self.some_job() else { return };
        let verb = if self.rng.random_bool(0.05) { Verb::HandOver } else { self.some_verb(job) };
        self.asks_for(verb);
    }

    pub(crate) fn some_verb(&mut self, job: JobId) -> Verb {
        let due = self.rng.random_bool(0.6).then(|| {
            let millis = self.rng.random_range(0..40_000);
            // Now and then in the past.
            Timestamp(self.now.db.0 + millis * 1_000 - 2_000_000)
        });
        let queue: Arc<str> = Arc::from(if self.rng.random_bool(0.5) { "q0" } else { "q1" });
        match self.rng.random_range(0..20) {
            0..=6 => Verb::Retry { job, due },
            7..=12 => Verb::Reschedule { job, due },
            13 | 14 => Verb::Delete(job),
            15 | 16 => Verb::Pause(queue),
            _ => Verb::Resume(queue),
        }
    }

    pub(crate) fn asks_for(&mut self, verb: Verb) {
        let call = CallId(self.number());
        let request = self.rng.random_bool(0.5).then(|| self.request());
        // What PostgreSQL refuses, now and then.
        let why: Arc<str> = Arc::from(if !self.calm && self.rng.random_bool(0.03) { "\0" } else { "why" });
        self.ask(Event::Ask(Ask { call, request, by: By { who: "operator".into(), why }, verb }));
    }

    pub(crate) fn ask(&mut self, event: Event) {
        let (id, call) = match &event {
            Event::Defer(Defer { call, request, .. }) => {
                (*call, Call::Defer { request: request.as_ref().map(|request| request.id.clone()) })
            }
            Event::Ask(Ask { call, request, verb, .. }) => {
                (*call, Call::Ask { request: request.as_ref().map(|request| request.id.clone()), verb: verb.clone() })
            }
            _ => return,
        };
        self.calls.insert(id, call);
        if matches!(&event, Event::Defer(Defer { request: Some(_), .. }) | Event::Ask(Ask { request: Some(_), .. })) {
            self.asked.push(event.clone());
        }
        self.tell(event);
    }

    pub(crate) fn worker_acts(&mut self, index: usize) {
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

    pub(crate) fn receive(&mut self, index: usize) {
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

    pub(crate) fn beat(&mut self, index: usize) {
        let worker = &self.workers[index];
        if let (Some(link), true) = (worker.link, worker.welcomed) {
            let received = worker.received;
            self.core.handle(self.now, Event::Heard { link, received });
        }
    }

    pub(crate) fn settle(&mut self, index: usize) {
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
    pub(crate) fn settle_by_call(&mut self, index: usize) {
        let results: Vec<(Lease, End)> =
            self.workers[index].outbox.iter().map(|(_, lease, end)| (*lease, end.clone())).collect();
        if results.is_empty() {
            return;
        }
        let call = CallId(self.number());
        self.calls.insert(call, Call::Settle(results.clone()));
        self.tell(Event::Settle(Settle { from: SettleFrom::Call(call), results }));
    }
}
