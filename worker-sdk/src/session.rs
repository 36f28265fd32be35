//! The state machine of one worker process: everything that is decided about streams, leases and results.
//!
//! It is synchronous. Events and the time go in through [`Session::handle`]; what has to be done comes out of
//! [`Session::next_action`], frames to send out of [`Session::next_frame`], and the time of the next look out of
//! [`Session::next_wakeup`]. It never awaits, reads no clock and asks for no randomness but its seed, so the same
//! seed and the same events give the same run, and tests drive it by hand.
//!
//! The rules that it keeps:
//! - A result leaves the outbox only when a broker has answered for it (C6). A new stream gets all the others again.
//! - `Resume` lists every lease whose end is owed: queued, running, ended but not acknowledged.
//! - A frame of another term or nonce than the stream's `Welcome` changes nothing.
//! - Nothing but a local stop ends it.

mod event;
mod lease;
mod link;
mod outbox;
mod reception;
mod stopping;
#[cfg(test)]
mod tests;

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    time::Duration,
};

use bytes::Bytes;
use cabbage_proto::v1;

pub use self::event::{CancelCause, Counters};
pub(crate) use self::{
    event::{Action, Config, Event, Finish, LinkEnd, LinkId, Start, TaskLimits},
    lease::Slot,
};
use self::{
    lease::{Ending, Leases, Place},
    link::{Link, Opening, Terms},
    outbox::Outbox,
    stopping::Phase,
};
use crate::{backoff::Backoff, failure::TaskError, wire};

/// The version of the protocol that this SDK speaks.
const PROTOCOL: u32 = 1;
/// The largest frame that this SDK receives.
pub(crate) const MAX_RECEIVE_BYTES: u32 = 4 << 20;
/// The most credit that the protocol knows.
pub(crate) const MAX_CREDIT_JOBS: usize = 100_000;
/// From the first packet to `Welcome`.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// The longest wait between two tries.
const RECONNECT_CAP: Duration = Duration::from_secs(20);
/// The same while the grace of a broken stream lasts: leases are at stake, and workers resume within 5 s (C13).
const RECONNECT_CAP_IN_GRACE: Duration = Duration::from_secs(1);
/// A stream that was welcome for so long proves that things are well.
const STABLE: Duration = Duration::from_secs(30);
/// How long a handler may clean up after its timeout, before its task is aborted.
const TIMEOUT_CLEANUP: Duration = Duration::from_secs(1);
/// When a timeout is reported although the handler still runs: before the owner's own end, 10 s after it (C8).
const TIMEOUT_REPORT: Duration = Duration::from_secs(5);
/// How long to wait before a result is sent again, if the broker names no time.
const SETTLE_RETRY: Duration = Duration::from_millis(500);
/// How long a job is put off for which there is no handler here. (The broker should not have sent it.)
const UNKNOWN_TASK_DELAY: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(crate) struct Session {
    config: Config,
    backoff: Backoff,
    terms: Terms,
    /// From the last `Welcome`: names the session and proves that it is ours.
    identity: Option<(String, Bytes)>,

    active: Option<Link>,
    opening: Option<Opening>,
    next_link: u64,
    address: usize,
    /// Tries since the last wait: each broker is tried once before the next wait.
    hops: usize,
    reconnect_at: Option<Duration>,
    /// The stream is to be replaced while it lives.
    migrating: bool,
    last_heard: Duration,
    disconnected_since: Option<Duration>,
    orphans_cancelled: bool,

    leases: Leases,
    outbox: Outbox,
    queue: VecDeque<Box<Start>>,
    /// Jobs whose task has as many handlers running as it may, by task.
    crowded: Vec<VecDeque<Box<Start>>>,
    running: usize,
    running_by_task: Vec<u32>,
    timeouts: BinaryHeap<Reverse<(Duration, Slot, TimeoutStage)>>,

    paused: bool,
    capacity_revision: u64,
    phase: Phase,
    counters: Counters,
    actions: VecDeque<Action>,
}

/// What a job's timer stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum TimeoutStage {
    Cancel,
    Abort,
    Report,
}

impl Session {
    /// A session that wants its first stream at once.
    pub(crate) fn new(config: Config, now: Duration) -> Self {
        let tasks = config.tasks.len();
        let mut session = Self {
            backoff: Backoff::new(config.seed),
            address: (config.seed % config.addresses.max(1) as u64) as usize,
            config,
            terms: Terms::default(),
            identity: None,
            active: None,
            opening: None,
            next_link: 1,
            hops: 0,
            reconnect_at: None,
            migrating: false,
            last_heard: now,
            disconnected_since: Some(now),
            orphans_cancelled: false,
            leases: Leases::default(),
            outbox: Outbox::default(),
            queue: VecDeque::new(),
            crowded: (0..tasks).map(|_| VecDeque::new()).collect(),
            running: 0,
            running_by_task: vec![0; tasks],
            timeouts: BinaryHeap::new(),
            paused: false,
            capacity_revision: 1,
            phase: Phase::Serving,
            counters: Counters::default(),
            actions: VecDeque::new(),
        };
        session.open(now);
        session
    }

    /// Takes in what happened.
    pub(crate) fn handle(&mut self, now: Duration, event: Event) {
        match event {
            Event::Connected(link) => {
                if let Some(opening) = self.opening.as_mut().filter(|opening| opening.id == link) {
                    opening.connected = true;
                }
            }
            Event::Frame(link, frame) => self.on_frame(now, link, *frame),
            Event::Ended(link, end) => self.on_link_end(now, link, &end),
            Event::Finished(slot, finish) => self.on_finished(slot, finish),
            Event::Pause(paused) => {
                if self.paused != paused {
                    self.paused = paused;
                    self.capacity_revision += 1;
                }
            }
            Event::Stop(drain) => self.stop(now, drain),
            Event::StopNow => self.stop_now(now),
            Event::Tick => {}
        }
        self.advance(now);
    }

    /// What the shell has to do next.
    pub(crate) fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// The next frame for this link, if there is something to say and now is the time. Whatever is ready when the
    /// writer is free forms one frame: there is no timer.
    pub(crate) fn next_frame(&mut self, now: Duration, link: LinkId) -> Option<v1::WorkRequest> {
        if self
            .opening
            .as_ref()
            .is_some_and(|opening| opening.id == link)
        {
            return self.hello();
        }
        let frame = self.active_frame(now, link)?;
        let active = self.active.as_mut()?;
        Some(v1::WorkRequest {
            received_seq: active.received_seq,
            frame: Some(frame),
        })
    }

    /// When to call [`Self::handle`] with [`Event::Tick`] if nothing else happens.
    ///
    /// A beat that is overdue already waits for room to be written, and not for time.
    pub(crate) fn next_wakeup(&self, now: Duration) -> Option<Duration> {
        let beat = self
            .active
            .as_ref()
            .map(|link| link.next_beat)
            .filter(|at| *at > now);
        let orphaned =
            (self.disconnected_since.is_some() && !self.orphans_cancelled && self.running > 0)
                .then(|| self.last_heard + self.terms.session);
        [
            self.reconnect_at,
            self.opening.as_ref().map(|opening| opening.deadline),
            beat,
            self.active
                .as_ref()
                .map(|link| link.last_heard + self.terms.watchdog),
            self.outbox.later_at,
            self.timeouts.peek().map(|Reverse((at, ..))| *at),
            orphaned,
            self.phase.next_wakeup(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    pub(crate) fn counters(&self) -> Counters {
        self.counters
    }

    pub(crate) fn is_welcome(&self) -> bool {
        self.active.is_some()
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.phase != Phase::Serving
    }

    /// How many leases are held, and how many handlers run.
    pub(crate) fn load(&self) -> (usize, usize) {
        (self.leases.owed(), self.running)
    }

    // ---- streams ----

    fn open(&mut self, now: Duration) {
        let id = LinkId(self.next_link);
        self.next_link += 1;
        self.reconnect_at = None;
        self.opening = Some(Opening {
            id,
            deadline: now + HANDSHAKE,
            connected: false,
            hello: None,
        });
        self.actions.push_back(Action::Connect {
            link: id,
            address: self.address,
        });
    }

    fn on_link_end(&mut self, now: Duration, id: LinkId, end: &LinkEnd) {
        if let Some(link) = self.active.take_if(|link| link.id == id) {
            tracing::debug!(link = id.0, detail = end.detail, "stream ended");
            self.last_heard = link.last_heard;
            self.disconnected_since = Some(now);
            self.orphans_cancelled = false;
            if now.saturating_sub(link.welcomed_at) >= STABLE {
                self.backoff.reset();
            }
            // A migration that is under way becomes the reconnect.
            if self.opening.is_none() {
                self.migrating = false;
                self.reconnect(now, end);
            }
        } else if self.opening.take_if(|opening| opening.id == id).is_some() {
            tracing::debug!(link = id.0, detail = end.detail, "no stream");
            self.reconnect(now, end);
        }
    }

    fn reconnect(&mut self, now: Duration, end: &LinkEnd) {
        self.address = (self.address + 1) % self.config.addresses.max(1);
        self.hops += 1;
        let wait = if end.try_next && self.hops < self.config.addresses {
            Duration::ZERO
        } else {
            self.hops = 0;
            let in_grace = self
                .disconnected_since
                .is_none_or(|since| now.saturating_sub(since) < self.terms.grace);
            self.backoff.next_wait(if in_grace {
                RECONNECT_CAP_IN_GRACE
            } else {
                RECONNECT_CAP
            })
        };
        self.reconnect_at =
            Some(now + wait.max(end.retry_after.unwrap_or_default().min(RECONNECT_CAP)));
    }

    /// Drops a link whose peer says nothing, with its channel: it may be half open.
    fn give_up(&mut self, now: Duration, id: LinkId, detail: &str) {
        self.actions.push_back(Action::Close(id));
        let end = LinkEnd {
            try_next: true,
            retry_after: None,
            detail: detail.to_owned(),
        };
        self.on_link_end(now, id, &end);
    }

    fn hello(&mut self) -> Option<v1::WorkRequest> {
        let capacity = self.capacity();
        let opening = self
            .opening
            .as_mut()
            .filter(|opening| opening.connected && opening.hello.is_none())?;
        opening.hello = Some(capacity.revision);
        if let Some(old) = &mut self.active {
            old.discards_jobs = true;
        }
        let resume = self
            .identity
            .as_ref()
            .map(|(session_id, resume_token)| v1::Resume {
                session_id: session_id.clone(),
                resume_token: resume_token.clone(),
                lease_tokens: self
                    .leases
                    .iter_owed()
                    .map(|(_, held)| held.token.clone())
                    .collect(),
            });
        let hello = v1::Hello {
            min_protocol: PROTOCOL,
            max_protocol: PROTOCOL,
            capabilities: if self.config.until_caught_up {
                vec!["caught-up".to_owned()]
            } else {
                Vec::new()
            },
            instance_id: self.config.instance_id.clone(),
            worker_name: self.config.worker_name.clone(),
            sdk: concat!("cabbage-worker/", env!("CARGO_PKG_VERSION")).to_owned(),
            language: "rust".to_owned(),
            queues: self.config.queues.clone(),
            tasks: self
                .config
                .tasks
                .iter()
                .map(|task| v1::TaskRegistration {
                    task: task.name.clone(),
                    max_concurrent: task.max_concurrent,
                })
                .collect(),
            labels: self.config.labels.clone(),
            capacity: Some(capacity),
            max_receive_bytes: MAX_RECEIVE_BYTES,
            resume,
        };
        Some(v1::WorkRequest {
            received_seq: 0,
            frame: Some(v1::work_request::Frame::Hello(hello)),
        })
    }

    fn capacity(&self) -> v1::Capacity {
        v1::Capacity {
            revision: self.capacity_revision,
            max_jobs: (self.config.concurrency + self.config.prefetch).min(MAX_CREDIT_JOBS) as u32,
            max_bytes: self.config.max_bytes,
            paused: self.paused || self.phase != Phase::Serving,
        }
    }

    /// Control goes first, results last.
    fn active_frame(&mut self, now: Duration, id: LinkId) -> Option<v1::work_request::Frame> {
        use v1::work_request::Frame;
        let wants_drain = self.phase != Phase::Serving;
        let capacity = self.capacity();
        let in_flight = self.leases.owed() as u32;
        let link = self.active.as_mut().filter(|link| link.id == id)?;
        if wants_drain && !link.drain_sent {
            link.drain_sent = true;
            return Some(Frame::Drain(v1::Drain {
                reason: "the worker stops".to_owned(),
            }));
        }
        if link.capacity_sent != capacity.revision {
            link.capacity_sent = capacity.revision;
            return Some(Frame::Capacity(capacity));
        }
        if now >= link.next_beat {
            link.next_beat = now + self.terms.beat;
            link.beats += 1;
            return Some(Frame::Beat(v1::Beat {
                number: link.beats,
                in_flight,
            }));
        }
        let results = self.outbox.next_frame(
            &mut self.leases,
            self.terms.max_unacknowledged,
            self.terms.max_frame_bytes,
        )?;
        self.counters.result_frames += 1;
        Some(Frame::Results(results))
    }

    // ---- jobs ----

    /// Starts what may start, in the order in which it came (C15).
    fn start_jobs(&mut self, now: Duration) {
        // A lease may have been given to another worker by then; starting would only run the job twice.
        let too_late = self
            .disconnected_since
            .is_some_and(|since| now >= since + self.terms.grace);
        while self.running < self.config.concurrency && self.phase == Phase::Serving && !too_late {
            let Some(start) = self.queue.pop_front() else {
                break;
            };
            let limit = self.config.tasks[start.task].max_concurrent;
            let full = limit > 0 && self.running_by_task[start.task] >= limit;
            let Some(held) = self
                .leases
                .get_mut(start.slot)
                .filter(|held| held.place == Place::Unended)
            else {
                // Cancelled, lost or given back since; its turn goes to the next of its task.
                if !full && let Some(next) = self.crowded[start.task].pop_front() {
                    self.queue.push_front(next);
                }
                continue;
            };
            if full {
                self.crowded[start.task].push_back(start);
                continue;
            }
            held.handler = true;
            self.running += 1;
            self.running_by_task[start.task] += 1;
            if let Some(timeout) = start.delivery.attempt_timeout.and_then(wire::to_duration) {
                self.timeouts
                    .push(Reverse((now + timeout, start.slot, TimeoutStage::Cancel)));
            }
            self.counters.started += 1;
            self.actions.push_back(Action::Start(start));
        }
    }

    fn on_finished(&mut self, slot: Slot, finish: Finish) {
        let stopping = self.phase != Phase::Serving;
        let Some(held) = self.leases.get_mut(slot).filter(|held| held.handler) else {
            return;
        };
        held.handler = false;
        let (task, timed_out, place) = (held.task, held.timed_out, held.place);
        self.running -= 1;
        self.running_by_task[task] -= 1;
        if let Some(start) = self.crowded[task].pop_front() {
            self.queue.push_front(start);
        }
        match place {
            Place::Unended => {
                let ending = if timed_out {
                    timeout_ending()
                } else {
                    self.ending(finish, stopping)
                };
                self.end(slot, ending);
            }
            Place::Done => self.leases.done(slot),
            // Reported before the handler came back; the outbox still has it.
            Place::Ready | Place::Sent(_) | Place::Later => {}
        }
    }

    /// Puts the end of a delivery into the outbox.
    fn end(&mut self, slot: Slot, ending: Ending) {
        use v1::job_result::Outcome;
        match &ending {
            Ending::Plain => self.counters.succeeded += 1,
            Ending::Full(outcome) => match **outcome {
                Outcome::Succeeded(_) => self.counters.succeeded += 1,
                Outcome::Failed(_) => self.counters.failed += 1,
                Outcome::Cancelled(_) | Outcome::Released(_) | Outcome::Snoozed(_) => {
                    self.counters.other_ends += 1
                }
            },
        }
        if let Some(held) = self.leases.get_mut(slot) {
            held.ending = Some(ending);
            self.outbox.push(&mut self.leases, slot);
        }
    }

    fn ending(&self, finish: Finish, stopping: bool) -> Ending {
        match finish {
            Finish::Succeeded(result) if result.is_empty() => Ending::Plain,
            Finish::Succeeded(result) if result.len() > self.terms.max_result_bytes => {
                let message = format!(
                    "the result has {} bytes; the limit is {}",
                    result.len(),
                    self.terms.max_result_bytes
                );
                full(
                    TaskError::new("ResultTooLarge", message)
                        .never_retry()
                        .into_outcome(),
                )
            }
            Finish::Succeeded(result) => {
                full(v1::job_result::Outcome::Succeeded(v1::Succeeded { result }))
            }
            Finish::Error(error) => full(error.into_outcome()),
            Finish::Aborted if stopping => {
                released("the worker stopped before the handler was done", None)
            }
            Finish::Aborted => released("the handler's task was aborted", None),
        }
    }

    fn on_timeout(&mut self, now: Duration, slot: Slot, stage: TimeoutStage) {
        let Some(held) = self.leases.get_mut(slot) else {
            return;
        };
        if !held.handler {
            return;
        }
        match stage {
            TimeoutStage::Cancel => {
                held.timed_out = true;
                self.actions
                    .push_back(Action::Cancel(slot, CancelCause::Timeout));
                self.timeouts
                    .push(Reverse((now + TIMEOUT_CLEANUP, slot, TimeoutStage::Abort)));
            }
            TimeoutStage::Abort => {
                if !self.config.tasks[held.task].blocking {
                    self.actions.push_back(Action::Abort(slot));
                }
                self.timeouts.push(Reverse((
                    now + TIMEOUT_REPORT - TIMEOUT_CLEANUP,
                    slot,
                    TimeoutStage::Report,
                )));
            }
            TimeoutStage::Report => {
                if held.place == Place::Unended {
                    tracing::warn!(
                        job = held.job_id,
                        "a handler goes on after its timeout and cannot be stopped"
                    );
                    self.end(slot, timeout_ending());
                }
            }
        }
    }

    /// The lease is gone: the handler should stop, and what it answers is dropped (C5).
    fn lose(&mut self, slot: Slot) {
        let Some(held) = self.leases.get(slot) else {
            return;
        };
        tracing::warn!(job = held.job_id, "lease lost");
        self.counters.lost += 1;
        if held.handler {
            self.actions
                .push_back(Action::Cancel(slot, CancelCause::LeaseLost));
        }
        self.outbox.remove(&mut self.leases, slot);
    }

    /// Handlers that asked for it are told, once the session must have ended without us.
    fn cancel_orphans(&mut self) {
        self.orphans_cancelled = true;
        for (slot, held) in self.leases.iter() {
            if held.handler && self.config.tasks[held.task].cancel_when_orphaned {
                self.actions
                    .push_back(Action::Cancel(slot, CancelCause::LeaseLost));
            }
        }
    }

    /// Whatever is due by now.
    fn advance(&mut self, now: Duration) {
        if self
            .opening
            .as_ref()
            .is_some_and(|opening| now >= opening.deadline)
            && let Some(id) = self.opening.as_ref().map(|opening| opening.id)
        {
            self.give_up(now, id, "no answer to the handshake");
        }
        if let Some(link) = &self.active
            && now >= link.last_heard + self.terms.watchdog
        {
            let id = link.id;
            self.give_up(now, id, "silence");
        }
        if self.disconnected_since.is_some()
            && !self.orphans_cancelled
            && now >= self.last_heard + self.terms.session
        {
            self.cancel_orphans();
        }
        if self.outbox.later_at.is_some_and(|at| now >= at) {
            self.outbox.wake_later(&mut self.leases);
        }
        while let Some(&Reverse((at, slot, stage))) = self.timeouts.peek()
            && at <= now
        {
            self.timeouts.pop();
            self.on_timeout(now, slot, stage);
        }
        self.start_jobs(now);
        self.advance_stop(now);
        if self.reconnect_at.is_some_and(|at| now >= at) {
            self.reconnect_at = None;
            let wanted = self.active.is_none() || self.migrating;
            if wanted && self.opening.is_none() && self.phase.wants_link() {
                self.open(now);
            }
        }
    }
}

fn full(outcome: v1::job_result::Outcome) -> Ending {
    Ending::Full(Box::new(outcome))
}

fn released(reason: &str, delay: Option<Duration>) -> Ending {
    full(v1::job_result::Outcome::Released(v1::Released {
        reason: reason.to_owned(),
        delay: delay.map(wire::duration),
    }))
}

fn timeout_ending() -> Ending {
    full(TaskError::new("Timeout", "the attempt took longer than it may").into_outcome())
}
