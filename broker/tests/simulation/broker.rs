//! What the broker does next, what its database answers, and who takes over from it.

use std::{hash::Hash, sync::Arc};

use cabbage_broker::{
    core::{
        ask::Ask,
        batch::Batch,
        decide::Core,
        effect::{CallId, Question},
        event::{Defer, Event},
        fact::Fact,
        job::{Phase, Verdict},
        rebuild::{JobRow, Rebuild},
        state::State,
        types::JobId,
    },
    store::{CommitError, format, memory::InboxPosition},
};
use rand::Rng;

use crate::{
    contract, ticks,
    world::{Call, World},
};

impl World {
    pub(crate) fn broker_acts(&mut self) {
        self.questions.extend(self.core.questions());
        if self.in_flight.is_some() {
            self.commit();
            return;
        }
        let before = self.core.state().clone();
        let Some(batch) = self.core.take_batch(self.now) else { return };
        // The draft held decisions before the batch was taken, so the fold begins at what is committed.
        drop(before);
        contract::check_batch(&self.core, &self.follower, &self.tables, &batch, &self.ended);
        ticks::check_batch(&self.follower, &batch, self.now.db);
        self.questions.extend(self.core.questions());
        if batch.writes() {
            self.in_flight = Some(batch);
        } else {
            self.carry_out(batch.effects);
        }
    }

    pub(crate) fn commit(&mut self) {
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
                self.note_ticks(&batch);
                self.fold(&batch);
                if let Some(hash) = batch.state_hash {
                    assert_eq!(hash, self.follower.hash_at(batch.number), "the follower has the owner's hash");
                }
                contract::check_state(&self.follower, &self.tables, self.ledger.erased, &self.limits);
                assert_eq!(self.follower.schedules, *self.tables.schedules(), "the rows of schedules are the state's");
                if self.rng.random_bool(0.05) {
                    self.checkpoint = (format::encode_state(&self.follower), self.tables.position());
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
                self.check_applications();
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

    /// A batch is committed: the follower folds it, and what was promised before may have been taken back by it.
    fn fold(&mut self, batch: &Batch) {
        for fact in batch.facts.iter() {
            match fact {
                Fact::Finished { id, .. } => {
                    let record = self.follower.jobs.get(*id).expect("a job that ends is in memory");
                    self.ended.insert(*id, record.clone());
                }
                Fact::Reopened { id, .. } => {
                    self.ledger.cancelled.remove(id);
                }
                Fact::Deleted { id, .. } => self.ledger.deleted(*id),
                _ => {}
            }
            self.follower.apply(fact);
        }
        self.check_format(batch);
    }

    pub(crate) fn note_facts(&mut self, batch: &Batch) {
        self.note_taken_in(batch);
        for fact in batch.facts.iter() {
            match fact {
                Fact::Parked { .. } => self.reached.note("parked"),
                Fact::Unparked { .. } => self.reached.note("fetched"),
                Fact::Returned { verdict: Verdict::Crashed, .. } => self.reached.note("crashed"),
                Fact::Returned { verdict: Verdict::Released, .. } => self.reached.note("released"),
                Fact::Returned { verdict: Verdict::Retried, .. } => self.reached.note("retried"),
                Fact::CancelRequested { .. } => self.reached.note("cancelled while running"),
                Fact::Reopened { id, record, .. } => {
                    self.reached.note("retried by hand");
                    if record.queueing_lock().is_some() {
                        self.reached.note("its queueing lock taken again");
                    }
                    if batch.parked.iter().any(|row| row.id == *id) {
                        self.reached.note("retried, and parked at once");
                    }
                }
                Fact::Rescheduled { id, .. } => {
                    self.reached.note("rescheduled");
                    if batch.unparked.iter().any(|row| row.id == *id) {
                        self.reached.note("rescheduled while parked");
                    }
                }
                Fact::Replaced { id, .. } => {
                    self.reached.note("replaced");
                    if batch.unparked.iter().any(|row| row.id == *id) {
                        self.reached.note("replaced while parked");
                    }
                }
                Fact::Deleted { .. } => self.reached.note("deleted"),
                Fact::QueuePaused { pause: Some(_), .. } => self.reached.note("paused"),
                Fact::QueuePaused { pause: None, .. } => self.reached.note("resumed again"),
                Fact::MovedBelow { .. } => self.reached.note("bound recorded"),
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
    pub(crate) fn answer(&mut self) {
        if self.questions.is_empty() {
            return;
        }
        let index = if self.calm { 0 } else { self.rng.random_range(0..self.questions.len()) };
        let Some(question) = self.questions.remove(index) else { return };
        let fails = !self.calm && self.rng.random_bool(0.05);
        let event = match question {
            Question::LookUp(keys) if fails => Event::QuestionFailed { id: keys.id },
            Question::Fetch(fetch) if fails => Event::QuestionFailed { id: fetch.id },
            Question::Look(look) if fails => {
                if look.whole {
                    self.position = InboxPosition::default();
                }
                Event::QuestionFailed { id: look.id }
            }
            Question::LookUp(keys) => Event::Found(self.tables.look_up(&keys)),
            Question::Fetch(fetch) => Event::Fetched(self.tables.fetch(&fetch)),
            Question::Look(look) => {
                let intake = self.tables.look(&mut self.position, &look);
                self.sql.seen.extend(intake.rows.iter().map(|row| row.number));
                Event::Intake(intake)
            }
        };
        // An answer is a snapshot: it may come after more was committed.
        if !self.calm && self.rng.random_bool(0.2) && self.in_flight.is_some() {
            self.commit();
        }
        self.tell(event);
    }

    /// The owner dies; another takes the term, and knows only what is written.
    pub(crate) fn take_over(&mut self, rebuild: bool) {
        self.reached.note("takeover");
        if self.in_flight.is_some() && self.rng.random_bool(0.5) {
            // Its last statement was done all the same, or was not.
            if let Some(batch) = self.in_flight.take()
                && self.tables.commit(self.now.db, self.term, &batch).is_ok()
            {
                self.fold(&batch);
                self.note_ticks(&batch);
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
        self.known = self.successor();
        let state = if rebuild { self.rebuilt() } else { self.folded() };
        let row = self.tables.position();
        self.follower = state.clone();
        self.checkpoint = (format::encode_state(&state), row);
        self.core = Core::new(state, row.number, self.term, self.limits.clone(), self.now);
        self.questions.clear();
        // Nobody was answered: those who gave a request id may ask again.
        for (call, what) in std::mem::take(&mut self.calls) {
            let has_request = match what {
                Call::Defer { request } | Call::Ask { request, .. } => request.is_some(),
                Call::Settle(_) => false,
            };
            if has_request {
                let again = self.asked.iter().find(|event| {
                    matches!(event, Event::Defer(Defer { call: id, .. }) | Event::Ask(Ask { call: id, .. }) if *id == call)
                });
                self.unknown.extend(again.cloned());
            }
        }
        self.unknown.sort_by_key(|event| match event {
            Event::Defer(Defer { call, .. }) | Event::Ask(Ask { call, .. }) => *call,
            _ => CallId(0),
        });
        for worker in &mut self.workers {
            worker.link = None;
            worker.wire.clear();
        }
    }

    /// A checkpoint and the log after it give the state of the owner that was.
    pub(crate) fn folded(&self) -> State {
        let state = self.read_by(self.known).expect("the owner reads what is written");
        assert_eq!(state.difference(&self.follower), None, "checkpoint and log give the state");
        state
    }

    /// The tables alone give a state that can go on.
    pub(crate) fn rebuilt(&mut self) -> State {
        self.reached.note("rebuilt from the tables");
        let names = |names: Vec<&Arc<str>>| names.into_iter().cloned().collect();
        let mut rebuild = Rebuild::new(
            names(self.tables.queues().values().collect()),
            names(self.tables.tasks().values().collect()),
            self.now,
        );
        let (kept_below, moved_below) = self.tables.bounds();
        rebuild = rebuild.bounds(kept_below, moved_below).format(self.follower.format);
        for (id, row) in self.tables.jobs() {
            let outcomes: Vec<_> =
                self.tables.outcomes().range((*id, 0)..=(*id, u32::MAX)).map(|(_, outcome)| outcome.clone()).collect();
            let parked = self.tables.parked_at(*id).map(|at| &self.tables.parked()[&at]);
            let job = &row.job;
            let row = JobRow { id: *id, queue: job.queue, task: job.task, due: job.due, spec: &job.spec };
            rebuild.job(row, &outcomes, parked);
        }
        for record in self.tables.schedules().values() {
            rebuild.schedule(record.clone());
        }
        for (queue, pause) in self.tables.pauses() {
            self.reached.note("rebuilt with a paused queue");
            rebuild.pause(*queue, pause.clone());
        }
        for (queue, verdict, erased, known) in self.tables.erased() {
            rebuild.forgotten(queue, verdict, erased, known);
        }
        let state = rebuild.finish();
        assert_eq!(state.paused, self.follower.paused, "the tables know which queues are paused");
        assert_eq!(state.finished, self.follower.finished, "the tables know how many jobs became final");
        assert_eq!(state.forgotten, self.follower.forgotten, "and how many of them are gone");
        for (id, record) in self.follower.jobs.iter().filter(|(_, record)| record.phase != Phase::Running) {
            let rebuilt = state.jobs.get(id).expect("the tables know it");
            assert_eq!(rebuilt.due, record.due, "the tables know when job {id} is due");
        }
        state
    }
}
