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
mod report;
mod running;
mod stopping;
mod streams;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeSet, VecDeque},
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
    lease::{Leases, Place},
    link::{Link, Opening, Terms},
    outbox::Outbox,
    running::TimeoutStage,
    stopping::Phase,
};
use crate::backoff::Backoff;

/// The largest frame that this SDK receives.
pub(crate) const MAX_RECEIVE_BYTES: u32 = 4 << 20;
/// The most credit that the protocol knows.
pub(crate) const MAX_CREDIT_JOBS: usize = 100_000;

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
    /// How many of those that wait were ended meanwhile.
    stale_starts: usize,
    /// Jobs whose task has as many handlers running as it may, by task.
    crowded: Vec<VecDeque<Box<Start>>>,
    running: usize,
    running_by_task: Vec<u32>,
    /// The timers of those jobs that have one.
    timers: BTreeSet<(Duration, Slot, TimeoutStage)>,

    paused: bool,
    capacity_revision: u64,
    phase: Phase,
    counters: Counters,
    actions: VecDeque<Action>,
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
            stale_starts: 0,
            crowded: (0..tasks).map(|_| VecDeque::new()).collect(),
            running: 0,
            running_by_task: vec![0; tasks],
            timers: BTreeSet::new(),
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
            Event::TimeoutJudged(slot, error) => {
                if let Some(held) = self.leases.get_mut(slot) {
                    held.timeout = Some(error);
                }
            }
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
        if self.opening.as_ref().is_some_and(|opening| opening.id == link) {
            return self.hello();
        }
        let frame = self.active_frame(now, link)?;
        let active = self.active.as_mut()?;
        Some(v1::WorkRequest { received_seq: active.received_seq, frame: Some(frame) })
    }

    /// When to call [`Self::handle`] with [`Event::Tick`] if nothing else happens.
    ///
    /// A beat that is overdue already waits for room to be written, and not for time.
    pub(crate) fn next_wakeup(&self, now: Duration) -> Option<Duration> {
        let beat = self.active.as_ref().map(|link| link.next_beat).filter(|at| *at > now);
        let orphaned = (self.disconnected_since.is_some() && !self.orphans_cancelled && self.running > 0)
            .then(|| self.last_heard + self.terms.session);
        [
            self.reconnect_at,
            self.opening.as_ref().map(|opening| opening.deadline),
            beat,
            self.active.as_ref().map(|link| link.last_heard + self.terms.watchdog),
            self.outbox.later_at,
            self.timers.first().map(|(at, ..)| *at),
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

    /// Whatever is due by now.
    fn advance(&mut self, now: Duration) {
        if self.opening.as_ref().is_some_and(|opening| now >= opening.deadline)
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
        if self.disconnected_since.is_some() && !self.orphans_cancelled && now >= self.last_heard + self.terms.session {
            self.cancel_orphans();
        }
        if self.outbox.later_at.is_some_and(|at| now >= at) {
            self.outbox.wake_later(&mut self.leases);
        }
        while let Some(&(at, slot, stage)) = self.timers.first()
            && at <= now
        {
            self.timers.pop_first();
            self.set_timer(slot, None);
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
