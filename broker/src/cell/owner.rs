//! The owner's task: the only one that touches the core.
//!
//! It takes in whatever waits, asks the store what the core wants to know, gives the writer the next batch as soon as
//! the last one is committed, and carries out effects after their commits, never before. There is no timer to fill a
//! batch: what comes in during one commit is the next batch.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{sleep, sleep_until},
};
use tokio_util::sync::DropGuard;

use crate::{
    clock::{DatabaseClock, Monotonic},
    core::{
        ask::AuditRow,
        batch::{Batch, NewJob, RareRow},
        decide::{Core, WaitingFor},
        effect::{CallId, Effect, Found, LinkId, LookUp, Question, Reply},
        event::Event,
        fact::Fact,
        inbox::Look,
        place::Place,
        types::{JobId, LockId, Now},
    },
    duties::Horizon,
    store::Store,
    telemetry::Metrics,
};

use super::{
    arguments::Arguments,
    follower::Follow,
    handle::JobNow,
    input::{Handout, Input, LinkMessage},
    known_requests::KnownRequests,
    names::Names,
    tick_log,
    waiters::Waiters,
    writer::Report,
};

/// Inputs that are taken in before the reports of the writer are looked at again.
const INPUTS_PER_TURN: usize = 1_024;

/// The core is not ticked more often than this, whatever it asks for.
const TICK_MIN: Duration = Duration::from_millis(1);

/// How long after a failed question it is asked again.
const QUESTION_RETRY_WAIT: Duration = Duration::from_millis(200);

/// Rounds of batches that a stop waits for: what was taken in, its look-ups, and what follows from them.
const STOP_ROUNDS_MAX: u32 = 16;

/// Everything of one term. Dropped with it.
pub(super) struct Owner {
    /// Tells streams that the term is over; before they miss the way to the owner, so it is dropped first.
    pub(super) _over: DropGuard,
    pub(super) core: Core,
    pub(super) clock: DatabaseClock,
    pub(super) mono: Monotonic,
    pub(super) store: Arc<dyn Store>,
    pub(super) inputs: mpsc::Receiver<Input>,
    pub(super) orders: mpsc::Sender<Batch>,
    pub(super) reports: mpsc::Receiver<Report>,
    pub(super) answers: mpsc::Receiver<Event>,
    /// For the tasks that ask the store.
    pub(super) answering: mpsc::Sender<Event>,
    /// For the task that looks into the inbox.
    pub(super) looks: mpsc::Sender<Look>,
    pub(super) follower: mpsc::Sender<Follow>,
    pub(super) horizon: watch::Sender<Horizon>,
    pub(super) arguments: Arguments,
    pub(super) names: Arc<Names>,
    pub(super) metrics: Metrics,
    pub(super) calls: HashMap<CallId, oneshot::Sender<Reply>>,
    pub(super) links: HashMap<LinkId, mpsc::Sender<LinkMessage>>,
    pub(super) waiters: Waiters,
    pub(super) known_requests: Arc<KnownRequests>,
    pub(super) committing: bool,
    pub(super) ticked: Duration,
}

/// How a term ended.
#[derive(Debug)]
pub(super) enum End {
    /// It was told to stop, and everything that it had taken in is committed.
    Stopped,
    /// The term is over.
    Over(String),
}

impl Owner {
    /// Serves until the term ends.
    pub(super) async fn serve(mut self) -> End {
        loop {
            for _ in 0..INPUTS_PER_TURN {
                if self.core.is_full() {
                    break;
                }
                match self.inputs.try_recv() {
                    Ok(Input::Stop) => return self.stop().await,
                    Ok(input) => self.take_in(input),
                    Err(_) => break,
                }
            }
            if let Err(why) = self.decide().await {
                return End::Over(why);
            }
            let wake = self.wake();
            tokio::select! {
                biased;
                report = self.reports.recv() => {
                    if let Err(why) = self.reported(report).await {
                        return End::Over(why);
                    }
                }
                // One answer may bring thousands of jobs: a batch of very many would miss the deadline of its commit.
                Some(answer) = self.answers.recv(), if !self.core.is_full() => {
                    let now = self.now();
                    self.core.handle(now, answer);
                }
                Some(input) = self.inputs.recv(), if !self.core.is_full() => match input {
                    Input::Stop => return self.stop().await,
                    input => self.take_in(input),
                },
                () = sleep_until(self.mono.instant(wake.unwrap_or_default())), if wake.is_some() => {
                    let now = self.now();
                    self.ticked = now.mono;
                    self.metrics.woke("timer");
                    self.core.handle(now, Event::Tick);
                }
            }
        }
    }

    /// Finishes what was taken in: commits it, and answers.
    async fn stop(&mut self) -> End {
        self.inputs.close();
        while let Ok(input) = self.inputs.try_recv() {
            if !matches!(input, Input::Stop) {
                self.take_in(input);
            }
        }
        for _ in 0..STOP_ROUNDS_MAX {
            if let Err(why) = self.decide().await {
                return End::Over(why);
            }
            if !self.committing && self.answering.strong_count() == 1 && self.answers.is_empty() {
                break;
            }
            tokio::select! {
                biased;
                report = self.reports.recv() => {
                    if let Err(why) = self.reported(report).await {
                        return End::Over(why);
                    }
                }
                Some(answer) = self.answers.recv() => {
                    let now = self.now();
                    self.core.handle(now, answer);
                }
            }
        }
        // The rounds may have ended with one more batch on its way.
        while self.committing {
            let report = self.reports.recv().await;
            if let Err(why) = self.reported(report).await {
                return End::Over(why);
            }
        }
        End::Stopped
    }

    fn now(&mut self) -> Now {
        self.clock.now(self.mono.now())
    }

    /// When the core is to be ticked.
    fn wake(&self) -> Option<Duration> {
        let wake = self.core.wake_at();
        let db = wake.db.map(|at| self.clock.when(at));
        let at = match (db, wake.mono) {
            (Some(db), Some(mono)) => db.min(mono),
            (db, mono) => db.or(mono)?,
        };
        // While a commit is under way its end wakes us anyway, and timers may wait for it.
        if self.committing { None } else { Some(at.max(self.ticked + TICK_MIN)) }
    }

    fn take_in(&mut self, input: Input) {
        let now = self.now();
        match input {
            Input::Call { call, event, answer } => {
                self.calls.insert(call, answer);
                self.core.handle(now, event);
            }
            Input::Opened { hello, outbox } => {
                self.links.insert(hello.link, outbox);
                self.core.handle(now, Event::Hello(hello));
            }
            Input::Frame(events) => {
                for event in events {
                    self.core.handle(now, event);
                }
            }
            Input::Ended { link, reported } => {
                // A stream that the core itself ended is no news to it.
                if self.links.remove(&link).is_some() {
                    self.core.handle(now, Event::LinkLost { link, reported });
                }
            }
            Input::Look { jobs, answer } => {
                let found = jobs.into_iter().map(|(job, place)| self.look(now, job, place)).collect();
                // Whoever asked may have gone.
                let _ = answer.send(found);
            }
            Input::Queues { queues, answer } => {
                let _ = answer.send(self.core.queues(&queues));
            }
            Input::Wait { job, waiter } => self.waiters.add(job, waiter),
            Input::Stop => {}
        }
    }

    fn look(&self, now: Now, job: JobId, place: Option<Place>) -> JobNow {
        let live = self.core.live(job);
        let state = self.core.state();
        let (queue, waiting_for) = match (&live, place) {
            (Some(live), _) => (Some(live.record.stream.queue), live.waiting_for),
            (None, Some(Place::Stream(stream) | Place::Due(stream))) => {
                (Some(stream.queue), Some(self.core.stream_waits_for(stream)))
            }
            (None, Some(Place::Lock(_, queue, _) | Place::Strict(_, queue, _))) => {
                (Some(queue), Some(if state.is_paused(queue) { WaitingFor::Paused } else { WaitingFor::Blocked }))
            }
            (None, None) => (None, None),
        };
        let queue = queue.map(|no| state.queue_name(no).clone());
        JobNow { live, queue, waiting_for, now: now.db }
    }

    /// Asks what the core wants to know, and gives the writer the next batch if it is free.
    async fn decide(&mut self) -> Result<(), String> {
        self.ask();
        while !self.committing {
            let now = self.now();
            let Some(mut batch) = self.core.take_batch(now) else { break };
            if batch.writes() {
                self.committing = true;
                self.known_requests.note(now.db, batch.requests.iter().map(|request| &*request.id));
                self.orders.send(batch).await.map_err(|_| "the writer is gone".to_owned())?;
            } else {
                self.carry_out(std::mem::take(&mut batch.effects), &[]);
            }
        }
        // What was decided may need to know more.
        self.ask();
        Ok(())
    }

    fn ask(&mut self) {
        for question in self.core.questions() {
            if let Question::LookUp(keys) = &question
                && let Some(found) = self.all_new(keys)
                && self.answering.try_send(Event::Found(found)).is_ok()
            {
                continue;
            }
            let (store, answering, looks) = (Arc::clone(&self.store), self.answering.clone(), self.looks.clone());
            tokio::spawn(async move {
                let (id, answer) = match question {
                    Question::LookUp(keys) => (keys.id, store.look_up(keys).await.map(Event::Found)),
                    Question::Fetch(fetch) => (fetch.id, store.fetch(fetch).await.map(Event::Fetched)),
                    Question::Look(look) => {
                        // Gone only with its task, which ends with the term.
                        let _ = looks.send(look).await;
                        return;
                    }
                };
                let answer = answer.unwrap_or_else(|error| {
                    tracing::warn!(%error, "a question to the database failed; it is asked again");
                    Event::QuestionFailed { id }
                });
                if matches!(answer, Event::QuestionFailed { .. }) {
                    sleep(QUESTION_RETRY_WAIT).await;
                }
                // The owner may have ended with its term.
                let _ = answering.send(answer).await;
            });
        }
    }

    /// The answer to a look-up of request ids of which none was ever used; `None`: the store must be asked.
    fn all_new(&self, keys: &LookUp) -> Option<Found> {
        let LookUp { id, requests, queueing_locks, jobs, deliveries, locks_before, finished } = keys;
        let has_others = !(queueing_locks.is_empty()
            && jobs.is_empty()
            && deliveries.is_empty()
            && locks_before.is_empty()
            && finished.is_empty());
        if has_others || !self.known_requests.are_new(requests.iter().map(AsRef::as_ref)) {
            return None;
        }
        // What is committed is noted. What is decided and is not, the core knows.
        let snapshot = self.horizon.borrow().next_log - 1;
        Some(Found { id: *id, snapshot, requests: vec![None; requests.len()], ..Found::default() })
    }

    async fn reported(&mut self, report: Option<Report>) -> Result<(), String> {
        match report {
            Some(Report::Committed { batch, committed, sample }) => {
                self.committing = false;
                self.clock.observe(sample);
                self.core.committed(batch.number, committed.at);
                if !committed.ids.is_empty() {
                    let (first, end) = (JobId(committed.ids.start), JobId(committed.ids.end));
                    let now = self.now();
                    self.core.handle(now, Event::IdsReserved { first, end });
                }
                self.committed(*batch);
                Ok(())
            }
            Some(Report::Refused { sqlstate, message }) => {
                self.committing = false;
                tracing::warn!(sqlstate, message, "the database refused a batch; it is decided again in halves");
                self.metrics.refused();
                let (answer, state) = oneshot::channel();
                let gone = || "the follower has no state to return to".to_owned();
                self.follower.send(Follow::State(answer)).await.map_err(|_| gone())?;
                let (_, state) = state.await.map_err(|_| gone())?;
                let now = self.now();
                if self.core.refused(now, state, &message) {
                    Ok(())
                } else {
                    Err(format!("the database refused what nobody asked for ({sqlstate}): {message}"))
                }
            }
            Some(Report::Ticked(sample)) => {
                self.clock.observe(sample);
                Ok(())
            }
            Some(Report::Over(why)) => Err(why),
            None => Err("the writer is gone".to_owned()),
        }
    }

    /// What follows from a commit, outside of the core.
    fn committed(&mut self, mut batch: Batch) {
        self.names.extend(&batch.queues, &batch.tasks);
        let mono = self.mono.now();
        let mut started = 0;
        for fact in batch.facts.iter() {
            match fact {
                Fact::Started { .. } => started += 1,
                Fact::Finished { id, .. } => {
                    self.arguments.remove(*id);
                    if !self.waiters.is_empty() {
                        self.waiters.wake(*id);
                    }
                }
                Fact::Parked { id, .. } | Fact::Replaced { id, .. } => self.arguments.remove(*id),
                Fact::QueueNamed { .. }
                | Fact::TaskNamed { .. }
                | Fact::Created { .. }
                | Fact::Due { .. }
                | Fact::CancelRequested { .. }
                | Fact::Returned { .. }
                | Fact::Unparked { .. }
                | Fact::PlaceMoved { .. }
                | Fact::SessionOpened { .. }
                | Fact::SessionClosed { .. }
                | Fact::QueuePaused { .. }
                | Fact::Reopened { .. }
                | Fact::Rescheduled { .. }
                | Fact::Deleted { .. }
                | Fact::SchedulePut { .. }
                | Fact::ScheduleDeleted { .. }
                | Fact::KeptBelow { .. }
                | Fact::MovedBelow { .. }
                | Fact::Forgotten { .. } => {}
                Fact::FormatRaised { format } => {
                    tracing::info!(%format, row = batch.number, "the log's format is raised: older brokers stay out");
                }
                Fact::ScheduleTicked { name, tick, outcome } => tick_log::say(name, *tick, *outcome),
            }
        }
        let taken_in = batch.inbox.iter().filter_map(|taken| taken.job.as_ref());
        self.metrics.decided(batch.jobs.len() + taken_in.clone().count(), started, &batch.outcomes);
        for row in &batch.rare_rows {
            if let RareRow::Audit(AuditRow { verb, refused: Some(_), .. }) = row {
                self.metrics.verb_refused(verb);
            }
        }
        self.metrics.sessions(self.core.sessions());
        self.carry_out(std::mem::take(&mut batch.effects), &batch.jobs);
        let last_id = batch.jobs.iter().map(|job| job.id).chain(taken_in.map(|job| job.id)).max();
        // After the effects: what starts at once needs no place in the cache, but for a retry.
        for job in batch.jobs.drain(..) {
            if self.core.state().jobs.get(job.id).is_some() {
                self.arguments.insert(job.id, job.spec, self.core.can_start(job.id), mono);
            }
        }
        self.horizon.send_modify(|horizon| {
            horizon.next_id = last_id.map_or(horizon.next_id, |last| horizon.next_id.max(JobId(last.0 + 1)));
            horizon.next_log = batch.number + 1;
            horizon.format = batch.format;
        });
    }

    fn carry_out(&mut self, effects: Vec<Effect>, new: &[NewJob]) {
        for effect in effects {
            match effect {
                Effect::Reply(call, reply) => {
                    if let Some(answer) = self.calls.remove(&call) {
                        // The caller may have gone; what it asked for is done all the same.
                        let _ = answer.send(reply);
                    }
                }
                Effect::Welcome { link, session, no: _, secret, resumed, lost } => {
                    self.tell(link, LinkMessage::Welcome { session, secret, resumed, lost });
                }
                Effect::Refuse { link, error } | Effect::Close { link, error } => {
                    self.tell(link, LinkMessage::Refused(error));
                    self.links.remove(&link);
                }
                Effect::Deliver { link, deliveries } => {
                    let handouts = deliveries.into_iter().map(|delivery| {
                        let job = delivery.lease.job;
                        let spec = self.arguments.get(job).or_else(|| {
                            let at = new.binary_search_by_key(&job, |new| new.id).ok()?;
                            Some(Arc::clone(&new[at].spec))
                        });
                        // The name of a lock that a retry gave it is known to the store alone.
                        let spec = spec.filter(|spec| {
                            let lock = delivery.record.lock();
                            lock.is_none() || lock == spec.lock.as_deref().map(LockId::of)
                        });
                        Handout { delivery, spec }
                    });
                    let handouts = handouts.collect();
                    self.tell(link, LinkMessage::Jobs(handouts));
                }
                Effect::SettleAck { link, through, exceptions, retried } => {
                    self.tell(link, LinkMessage::SettleAck { through, exceptions, retried });
                }
                Effect::Cancel { link, lease, reason } => self.tell(link, LinkMessage::Cancel { lease, reason }),
                Effect::DrainAck { link } => self.tell(link, LinkMessage::DrainAck),
                Effect::CaughtUp { link } => self.tell(link, LinkMessage::CaughtUp),
            }
        }
    }

    /// A worker whose outbox is full does not read: its stream is cut, by dropping the way to it. The session goes the
    /// way of silence.
    fn tell(&mut self, link: LinkId, message: LinkMessage) {
        let Some(outbox) = self.links.get(&link) else { return };
        // One whose tasks have ended is about to say so.
        if let Err(mpsc::error::TrySendError::Full(_)) = outbox.try_send(message) {
            tracing::warn!(link = link.0, "a worker does not read its stream; it is cut");
            self.links.remove(&link);
            let now = self.now();
            self.core.handle(now, Event::LinkLost { link, reported: false });
        }
    }
}
