//! Who gets which job (C7, C8, C15).

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
};

use super::{
    decide::Core,
    effect::{Delivery, Effect, LinkId},
    fact::Fact,
    ids::JobIds,
    index::{LaneKey, lane_of},
    job::Verdict,
    place::Place,
    record::reason,
    types::{JobId, Lease, Now, SessionNo, Stream},
};

/// Jobs of a stream that are passed over for one that is due, while the database's clock stands before their due time.
const EARLY_JOBS_MAX: usize = 1_000;

/// A stream that could give out a job: higher priority first, then the lower id.
type Turn = (i8, Reverse<JobId>, Stream, Heads);

/// Which of a stream's heads a turn is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Heads {
    /// No session may take one more job with a crash behind it.
    Plain,
    Both,
}

impl Core {
    /// Starts what can start: in the order of the contract, as far as sessions have credit.
    pub(super) fn dispatch(&mut self, now: Now) {
        if !self.sessions.by_no.values().any(|session| session.link.is_some() && !session.draining) {
            return;
        }
        let mut turns: BinaryHeap<Turn> = self
            .index
            .with_ready
            .iter()
            .filter(|stream| self.index.is_startable(lane_of(**stream)))
            .filter_map(|stream| self.turn(*stream, Heads::Both))
            .collect();
        let mut deliveries: BTreeMap<LinkId, Vec<Delivery>> = BTreeMap::new();
        while let Some((priority, Reverse(id), stream, heads)) = turns.pop() {
            if self.is_full() {
                break;
            }
            let is_tainted = self.index.streams[&stream].tainted.contains(id);
            let Some((no, credit)) = self.session_for(stream, id, is_tainted) else {
                // No session has room for this job. If that is for its crashes, the others need not wait for it.
                if is_tainted && heads == Heads::Both {
                    turns.extend(self.turn(stream, Heads::Plain));
                }
                continue;
            };
            // Runs of one stream go to one session at a time, as long as no other stream comes first.
            let before = turns.peek().map(|(priority, Reverse(id), ..)| (*priority, *id));
            let run = if is_tainted { 1 } else { credit };
            self.start_run(now, stream, heads, (no, run), |next| {
                before.is_none_or(|(other, first)| (other, Reverse(first)) < (priority, Reverse(next)))
            })
            .into_iter()
            .for_each(|(link, delivery)| deliveries.entry(link).or_default().push(delivery));
            turns.extend(self.turn(stream, heads));
        }
        for (link, deliveries) in deliveries {
            self.effect(Effect::Deliver { link, deliveries });
        }
    }

    /// Starts up to so many jobs of a stream for a session, while they go before those of other streams.
    fn start_run(
        &mut self,
        now: Now,
        stream: Stream,
        heads: Heads,
        (no, run): (SessionNo, u32),
        goes_first: impl Fn(JobId) -> bool,
    ) -> Vec<(LinkId, Delivery)> {
        let mut started = Vec::new();
        let link = self.sessions.by_no[&no].link.expect("a session with credit has a stream");
        for count in 0..run {
            let Some((_, Reverse(id), ..)) = self.turn(stream, heads) else { break };
            let record = self.state.jobs.get(id).expect("a ready job is in memory");
            if count > 0
                && (!goes_first(id)
                    || record.crashes > 0
                    || !self.sessions.by_no[&no].has_room_for(record.args_bytes)
                    || self.is_full())
            {
                break;
            }
            if record.deadline().is_some_and(|deadline| deadline <= now.db) {
                self.finish(now, id, Verdict::Failed, Some(reason("DEADLINE")));
                continue;
            }
            let (due, lock) = (record.due, record.lock());
            self.record(Fact::Started { id, session: no, at: now.db, nonce: self.term.nonce });
            let latest = &mut self.draft.batch.not_before;
            *latest = (*latest).max(Some(due));
            if let Some(jobs) = self.index.streams.get_mut(&stream) {
                jobs.given[0] += 1;
            }
            if let Some(session) = self.sessions.by_no.get_mut(&no) {
                session.note_sent(id);
                session.told_caught_up = false;
            }
            let record = self.state.jobs.get(id).expect("a started job is in memory").clone();
            let lease = Lease { job: id, delivery: record.deliveries, nonce: self.term.nonce };
            started.push((link, Delivery { lease, record }));
            if lock.is_some() {
                // The next of the lock is no candidate while this one runs.
                self.find_candidates();
            }
        }
        started
    }

    /// The head of a stream's ready jobs.
    fn turn(&self, stream: Stream, heads: Heads) -> Option<Turn> {
        let jobs = self.index.streams.get(&stream)?;
        let plain = self.first_due(&jobs.ready);
        let tainted = if heads == Heads::Both { self.first_due(&jobs.tainted) } else { None };
        let first = match (plain, tainted) {
            (Some(plain), Some(tainted)) => plain.min(tainted),
            (plain, tainted) => plain.or(tainted)?,
        };
        Some((stream.priority, Reverse(first), stream, heads))
    }

    /// The first of these waiting jobs that is due. All are, but for a database whose clock was set back: there a start
    /// would be refused until the clock has come that far again (C7), and with it everything else in its batch.
    fn first_due(&self, ids: &JobIds) -> Option<JobId> {
        let now = self.last_now.db;
        if self.latest_due <= now {
            return ids.first();
        }
        let is_due = |id: &JobId| self.state.jobs.get(*id).is_some_and(|record| record.due <= now);
        ids.iter().take(EARLY_JOBS_MAX).find(is_due)
    }

    /// The session with most room for this job, and how many of its stream it should get in a row.
    fn session_for(&self, stream: Stream, id: JobId, is_tainted: bool) -> Option<(SessionNo, u32)> {
        let lane = self.index.lanes.get(&lane_of(stream))?;
        let bytes = self.state.jobs.get(id)?.args_bytes;
        let (no, credit) = lane
            .servers
            .iter()
            .filter_map(|no| {
                let session = self.sessions.by_no.get(no)?;
                let credit = session.credit(stream.task);
                let fits = credit > 0 && session.has_room_for(bytes) && !(is_tainted && session.tainted > 0);
                fits.then_some((*no, credit))
            })
            .max_by_key(|(no, credit)| (*credit, Reverse(*no)))?;
        // A quarter at a time, so that sessions share what there is.
        let run = if lane.servers.len() == 1 { credit } else { credit.div_ceil(4) };
        Some((no, run))
    }

    /// Tells sessions that asked that nothing startable is left for them.
    pub(super) fn tell_caught_up(&mut self) {
        let quiet: Vec<(SessionNo, LinkId)> = self
            .sessions
            .by_no
            .iter()
            .filter(|(_, session)| {
                session.wants_caught_up && !session.told_caught_up && session.leases.is_empty() && !session.draining
            })
            .filter_map(|(no, session)| Some((*no, session.link?)))
            .filter(|(no, _)| !self.is_work_left_for(*no))
            .collect();
        for (no, link) in quiet {
            if let Some(session) = self.sessions.by_no.get_mut(&no) {
                session.told_caught_up = true;
            }
            self.effect(Effect::CaughtUp { link });
        }
    }

    fn is_work_left_for(&self, no: SessionNo) -> bool {
        let session = &self.sessions.by_no[&no];
        let is_served = |lane: LaneKey| session.serves(lane) && self.index.is_startable(lane);
        self.index.with_ready.iter().any(|stream| is_served(lane_of(*stream)))
            || self.index.lanes.iter().any(|(key, lane)| !lane.heads.is_empty() && is_served(*key))
            || self.state.places.range(..Place::first_lock()).any(|(place, state)| match place {
                Place::Stream(stream) => is_served(lane_of(*stream)),
                Place::Due(stream) => state.low.sort <= self.last_now.db.0 && is_served(lane_of(*stream)),
                Place::Lock(..) | Place::Strict(..) => false,
            })
    }

    /// How many jobs run.
    pub fn running_jobs(&self) -> usize {
        self.state.runs.len()
    }
}
