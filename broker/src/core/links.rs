//! Workers come and go: their streams, and the sessions that outlive them (C13).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use uuid::Uuid;

use super::{
    decide::Core,
    effect::{CallId, CancelReason, Effect, LinkId, Refusal, Reply},
    event::{Capacity, Hello},
    fact::Fact,
    limits::Limits,
    sessions::{Session, TaskLoad},
    types::{JobId, Lease, Now, SessionNo},
};

/// How often a delivery that was never acknowledged may come back as never received. After that it counts as a crash:
/// else a job that kills its worker at once would be given out for ever.
const UNRECEIVED_MAX: u32 = 3;

impl Core {
    /// A worker introduces itself.
    pub(super) fn hello(&mut self, now: Now, hello: &Hello) -> bool {
        let names = self.limits.names_max;
        let new_tasks = hello.tasks.iter().filter(|(name, _)| self.state.task_no(name).is_none()).count();
        let new_queues = hello.queues.iter().filter(|name| self.state.queue_no(name).is_none()).count();
        if self.state.tasks.len() + new_tasks > names || self.state.queues.len() + new_queues > names {
            let error = Refusal::LimitReached { limit: "names of the cell", value: names as u64 };
            self.effect(Effect::Refuse { link: hello.link, error });
            return true;
        }
        let queues: Option<BTreeSet<_>> =
            (!hello.queues.is_empty()).then(|| hello.queues.iter().map(|name| self.name_queue(name)).collect());
        let tasks: BTreeMap<_, _> =
            hello.tasks.iter().map(|(name, max)| (self.name_task(name), TaskLoad { max: *max, held: 0 })).collect();
        let resumed = hello.resume.as_ref().and_then(|resume| {
            self.state
                .sessions
                .iter()
                .find(|(_, session)| session.id == resume.session && session.secret == resume.secret)
                .map(|(no, session)| (*no, session.id, session.secret))
        });
        let (no, id, secret) = resumed.unwrap_or_else(|| {
            let no = SessionNo(self.state.next_session);
            let (id, secret) = (hello.new_session, hello.new_secret);
            self.record(Fact::SessionOpened { no, id, secret });
            (no, id, secret)
        });
        self.unserve(no);
        let session = self.sessions.by_no.entry(no).or_insert_with(|| Session::orphan(now.mono));
        let old = session.link.filter(|old| *old != hello.link);
        session.attach(now.mono, hello, queues, tasks);
        if let Some(old) = old {
            self.sessions.by_link.remove(&old);
            self.effect(Effect::Close { link: old, error: Refusal::SessionMoved });
        }
        self.sessions.by_link.insert(hello.link, no);
        self.set_timer(no);
        self.serve(no);
        let named: &[Lease] = hello.resume.as_ref().map_or(&[], |resume| &resume.leases);
        let is_its = |core: &Self, lease: Lease| {
            core.is_open(lease) && core.state.run(lease.job).is_some_and(|run| run.session == no)
        };
        let lost: Vec<Lease> = named.iter().copied().filter(|lease| !is_its(self, *lease)).collect();
        let kept: BTreeSet<JobId> =
            named.iter().copied().filter(|lease| is_its(self, *lease)).map(|lease| lease.job).collect();
        let open: Vec<JobId> = self.sessions.by_no[&no].leases.keys().copied().collect();
        for job in open.iter().filter(|job| !kept.contains(job)) {
            // It was never received: back it goes, without an attempt.
            self.release(now, *job);
        }
        self.effect(Effect::Welcome { link: hello.link, session: id, no, secret, resumed: resumed.is_some(), lost });
        for job in kept {
            let Some(record) = self.state.jobs.get(job) else { continue };
            if let Some(run) = self.state.run(job).filter(|run| run.cancel_requested) {
                let lease = Lease { job, delivery: record.deliveries, nonce: run.nonce };
                self.effect(Effect::Cancel { link: hello.link, lease, reason: CancelReason::Requested });
            }
        }
        true
    }

    pub(super) fn heard(&mut self, now: Now, link: LinkId, received: u64) -> bool {
        if let Some((_, session)) = self.sessions.of_link(link) {
            session.heard = now.mono;
            session.note_received(received);
        }
        true
    }

    pub(super) fn capacity(&mut self, link: LinkId, capacity: Capacity) -> bool {
        if let Some((_, session)) = self.sessions.of_link(link)
            && capacity.revision >= session.capacity.revision
        {
            session.capacity = capacity;
            session.told_caught_up = false;
        }
        true
    }

    pub(super) fn drain(&mut self, link: LinkId) -> bool {
        if let Some((_, session)) = self.sessions.of_link(link) {
            session.draining = true;
            self.effect(Effect::DrainAck { link });
        }
        true
    }

    pub(super) fn link_lost(&mut self, now: Now, link: LinkId, reported: bool) -> bool {
        let Some((no, session)) = self.sessions.of_link(link) else { return true };
        session.detach(reported.then_some(now.mono));
        let is_over = session.draining && session.leases.is_empty() && reported;
        self.sessions.by_link.remove(&link);
        if is_over {
            self.end_session(now, no);
        } else {
            self.set_timer(no);
        }
        true
    }

    pub(super) fn extend(&mut self, now: Now, call: CallId, id: Uuid, secret: Uuid) -> bool {
        let no = self
            .state
            .sessions
            .iter()
            .find(|(_, session)| session.id == id && session.secret == secret)
            .map(|(no, _)| *no);
        let reply = match no.and_then(|no| self.sessions.by_no.get_mut(&no)) {
            None => Reply::Refused(Refusal::SessionNotFound),
            Some(session) => {
                session.heard = now.mono;
                if session.link.is_none() {
                    session.lost = None;
                }
                Reply::Extended(self.limits.session)
            }
        };
        self.effect(Effect::Reply(call, reply));
        true
    }

    /// Closes silent streams, and ends sessions whose time is over.
    pub(super) fn end_silent_sessions(&mut self, now: Now) {
        while let Some(&(at, no)) = self.sessions.timers.first() {
            if at > now.mono {
                break;
            }
            self.sessions.timers.remove(&(at, no));
            let Some(session) = self.sessions.by_no.get_mut(&no) else { continue };
            let Limits { watchdog, grace, session: whole, .. } = self.limits;
            if session.deadline(watchdog, grace, whole) > now.mono {
                self.set_timer(no);
            } else if let Some(link) = session.link {
                // Mere silence: the stream is closed, and the session lives on for its whole time.
                session.detach(None);
                self.sessions.by_link.remove(&link);
                self.effect(Effect::Close { link, error: Refusal::Silent });
                self.set_timer(no);
            } else {
                self.end_session(now, no);
            }
        }
    }

    /// A session ends: each of its deliveries gets its end.
    fn end_session(&mut self, now: Now, no: SessionNo) {
        let Some(session) = self.sessions.by_no.get(&no) else { return };
        let unreceived: BTreeSet<JobId> = session.unreceived.iter().map(|(_, job)| *job).collect();
        let leases: Vec<JobId> = session.leases.keys().copied().collect();
        for job in leases {
            let record = self.state.jobs.get(job).expect("the job of a lease is in memory");
            let came_back = record.deliveries - record.attempts - u32::from(record.crashes);
            if unreceived.contains(&job) && came_back <= UNRECEIVED_MAX {
                self.release(now, job);
            } else {
                self.crash(now, job);
            }
        }
        self.unserve(no);
        self.draft.ended.extend(self.sessions.by_no.remove(&no).map(|session| (no, session)));
        self.record(Fact::SessionClosed { no });
    }

    /// The session serves its lanes.
    fn serve(&mut self, no: SessionNo) {
        let session = &self.sessions.by_no[&no];
        let mut changed = Vec::new();
        for (key, lane) in &mut self.index.lanes {
            if session.serves(*key) {
                if lane.servers.is_empty() {
                    changed.push(*key);
                }
                lane.servers.push(no);
            }
        }
        for lane in changed {
            self.index.lane_changed(lane);
        }
    }

    /// The session serves no lane any more.
    fn unserve(&mut self, no: SessionNo) {
        let mut changed = Vec::new();
        for (key, lane) in &mut self.index.lanes {
            let before = lane.servers.len();
            lane.servers.retain(|server| *server != no);
            if before > 0 && lane.servers.is_empty() {
                changed.push(*key);
            }
        }
        for lane in changed {
            self.index.lane_changed(lane);
        }
    }

    fn set_timer(&mut self, no: SessionNo) {
        let Limits { watchdog, grace, session: whole, .. } = self.limits;
        if let Some(session) = self.sessions.by_no.get(&no) {
            let at: Duration = session.deadline(watchdog, grace, whole);
            self.sessions.timers.retain(|(_, other)| *other != no);
            self.sessions.timers.insert((at, no));
        }
    }
}
