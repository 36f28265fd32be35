//! The sessions of workers: their streams, their credit, what they hold, and when they end.
//!
//! Which sessions exist is recorded; everything here lasts only as long as the owner's term.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    time::Duration,
};

use super::{
    effect::LinkId,
    event::{Capacity, Hello},
    index::LaneKey,
    types::{JobId, QueueNo, SessionNo, TaskNo},
};

/// How many deliveries may be unreceived beyond twice the open ones, before those that ended are forgotten.
const UNRECEIVED_SPARE: usize = 1_024;

/// Every live session.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    pub(super) by_no: BTreeMap<SessionNo, Session>,
    pub(super) by_link: HashMap<LinkId, SessionNo>,
    /// When to look at a session; it may prove too early.
    pub(super) timers: BTreeSet<(Duration, SessionNo)>,
}

/// One worker process.
#[derive(Debug)]
pub(super) struct Session {
    /// Its stream, if it has one.
    pub(super) link: Option<LinkId>,
    /// The queues it serves; `None`: every queue.
    pub(super) queues: Option<BTreeSet<QueueNo>>,
    /// The tasks it serves. Empty until a worker resumes it after a takeover.
    pub(super) tasks: BTreeMap<TaskNo, TaskLoad>,
    pub(super) capacity: Capacity,
    pub(super) draining: bool,
    pub(super) wants_caught_up: bool,
    pub(super) told_caught_up: bool,
    /// When something was heard of it.
    pub(super) heard: Duration,
    /// When the transport reported the end of its stream.
    pub(super) lost: Option<Duration>,
    /// What it holds: no result was received yet.
    pub(super) leases: BTreeMap<JobId, Held>,
    pub(super) held_bytes: u64,
    /// How many of its leases have a crash behind them.
    pub(super) tainted: u32,
    /// Sent on this stream, and not known to be received: each with its number on the stream, from 1.
    pub(super) unreceived: VecDeque<(u64, JobId)>,
    /// How many deliveries were sent on this stream.
    pub(super) sent: u64,
    /// Frames of results whose acknowledgement is not complete, and whether they are decided.
    pub(super) frames: BTreeMap<u64, bool>,
}

/// What a session's lease costs it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    pub(super) task: TaskNo,
    pub(super) bytes: u32,
    pub(super) tainted: bool,
}

/// How much of a task a session runs.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct TaskLoad {
    /// 0: no limit of its own.
    pub(super) max: u32,
    pub(super) held: u32,
}

impl Session {
    /// A session without a stream, as a new owner finds it.
    pub(super) fn orphan(now: Duration) -> Self {
        Self {
            link: None,
            queues: Some(BTreeSet::new()),
            tasks: BTreeMap::new(),
            capacity: Capacity::default(),
            draining: false,
            wants_caught_up: false,
            told_caught_up: false,
            heard: now,
            lost: Some(now),
            leases: BTreeMap::new(),
            held_bytes: 0,
            tainted: 0,
            unreceived: VecDeque::new(),
            sent: 0,
            frames: BTreeMap::new(),
        }
    }

    /// The worker is here, on this stream, and serves this.
    pub(super) fn attach(
        &mut self,
        now: Duration,
        hello: &Hello,
        queues: Option<BTreeSet<QueueNo>>,
        tasks: BTreeMap<TaskNo, TaskLoad>,
    ) {
        self.link = Some(hello.link);
        self.queues = queues;
        self.tasks = tasks;
        for held in self.leases.values() {
            if let Some(load) = self.tasks.get_mut(&held.task) {
                load.held += 1;
            }
        }
        self.capacity = hello.capacity;
        self.draining = false;
        self.wants_caught_up = hello.wants_caught_up;
        self.told_caught_up = false;
        self.heard = now;
        self.lost = None;
        self.unreceived.clear();
        self.sent = 0;
        self.frames.clear();
    }

    /// The worker has no stream any more; if its transport reported that, since when.
    pub(super) fn detach(&mut self, lost: Option<Duration>) {
        self.link = None;
        self.lost = lost;
        self.frames.clear();
    }

    pub(super) fn serves(&self, lane: LaneKey) -> bool {
        self.tasks.contains_key(&lane.1) && self.queues.as_ref().is_none_or(|queues| queues.contains(&lane.0))
    }

    /// How many more jobs of this task it may get now.
    pub(super) fn credit(&self, task: TaskNo) -> u32 {
        if self.link.is_none() || self.draining || self.capacity.paused {
            return 0;
        }
        let held = u32::try_from(self.leases.len()).unwrap_or(u32::MAX);
        let free = self.capacity.max_jobs.saturating_sub(held);
        match self.tasks.get(&task) {
            None => 0,
            Some(load) if load.max == 0 => free,
            Some(load) => free.min(load.max.saturating_sub(load.held)),
        }
    }

    /// Whether its window of bytes has room for so many more. What is larger than the window goes alone.
    pub(super) fn has_room_for(&self, bytes: u32) -> bool {
        self.capacity.max_bytes == 0
            || self.leases.is_empty()
            || self.held_bytes + u64::from(bytes) <= self.capacity.max_bytes
    }

    pub(super) fn hold(&mut self, job: JobId, held: Held) {
        if self.leases.insert(job, held).is_none() {
            self.held_bytes += u64::from(held.bytes);
            self.tainted += u32::from(held.tainted);
            if let Some(load) = self.tasks.get_mut(&held.task) {
                load.held += 1;
            }
        }
    }

    pub(super) fn let_go(&mut self, job: JobId) {
        if let Some(held) = self.leases.remove(&job) {
            self.held_bytes -= u64::from(held.bytes);
            self.tainted -= u32::from(held.tainted);
            if let Some(load) = self.tasks.get_mut(&held.task) {
                load.held -= 1;
            }
        }
    }

    /// A delivery goes out on this stream.
    pub(super) fn note_sent(&mut self, job: JobId) {
        self.sent += 1;
        self.unreceived.push_back((self.sent, job));
        // A result says as well that a delivery was received, so that a worker that never says it costs no memory.
        if self.unreceived.len() > 2 * self.leases.len() + UNRECEIVED_SPARE {
            let leases = &self.leases;
            self.unreceived.retain(|(_, job)| leases.contains_key(job));
        }
    }

    /// So many of the last deliveries did not go out.
    pub(super) fn unsend(&mut self, count: u64) {
        self.sent -= count;
        let sent = self.sent;
        while self.unreceived.pop_back_if(|(number, _)| *number > sent).is_some() {}
    }

    /// The worker says how many deliveries of its stream it has received.
    pub(super) fn note_received(&mut self, received: u64) {
        while self.unreceived.pop_front_if(|(number, _)| *number <= received).is_some() {}
    }

    /// When it ends, or its stream is closed, if nothing is heard.
    pub(super) fn deadline(&self, watchdog: Duration, grace: Duration, session: Duration) -> Duration {
        match (self.link, self.lost) {
            (Some(_), _) => self.heard + watchdog,
            (None, Some(lost)) => lost + grace,
            (None, None) => self.heard + session,
        }
    }

    /// Marks a frame of results as decided; gives the frame up to which all are.
    pub(super) fn frame_decided(&mut self, seq: u64) -> Option<u64> {
        self.frames.insert(seq, true);
        let mut through = None;
        while let Some(first) = self.frames.first_entry() {
            if !*first.get() {
                break;
            }
            through = Some(*first.key());
            first.remove();
        }
        through
    }
}

impl Sessions {
    pub(super) fn of_link(&mut self, link: LinkId) -> Option<(SessionNo, &mut Session)> {
        let no = *self.by_link.get(&link)?;
        let session = self.by_no.get_mut(&no)?;
        (session.link == Some(link)).then_some((no, session))
    }
}
