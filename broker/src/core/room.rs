//! Memory has a limit: what has no room is parked, and fetched when its time comes (C14).

use std::time::Duration;

use super::{
    decide::Core,
    effect::Fetched,
    fact::Fact,
    index::{StreamJobs, lane_of},
    locks::lane_of_place,
    place::{Place, PlaceKey},
    types::{JobId, Now, Stream, Timestamp},
};

/// How many places behind locks are fetched at the same time.
const LOCK_FETCHES_MAX: usize = 64;
/// How long before they are due parked jobs are fetched where memory is short.
const DUE_LEAD_SHORT: Duration = Duration::from_secs(1);
/// How many jobs of such a place are fetched at once.
const LOCK_FETCH_JOBS: usize = 64;
/// The same, where memory is short.
const LOCK_FETCH_JOBS_SHORT: usize = 4;

/// Why jobs of a stream are parked before those of others: the later, the sooner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Victim {
    Longest,
    BehindLocks,
    CannotStart,
}

impl Core {
    /// Above this, jobs are parked for want of room. The last fifth is for running jobs and the streams' floors.
    fn high_water(&self) -> usize {
        self.limits.memory_jobs_max / 5 * 4
    }

    /// What a stream keeps in memory in any case: the named floor, or what it gave out in the last second.
    fn floor(&self, stream: Stream) -> usize {
        let given = self.index.streams.get(&stream).map_or(0, |jobs| jobs.given[0].max(jobs.given[1]));
        self.limits.stream_floor_jobs.max(given as usize)
    }

    fn stream_len(&self, stream: Stream) -> usize {
        self.index.streams.get(&stream).map_or(0, StreamJobs::len)
    }

    /// Whether a job of the stream that has come into memory has no room there, beside all others. One that can start
    /// at once takes the place of one that cannot, as long as there are such; three quarters of what lies above the high
    /// water are for that.
    pub(super) fn memory_is_short(&mut self, stream: Stream, can_start: bool) -> bool {
        let (others, high, max) = (self.state.jobs.len() - 1, self.high_water(), self.limits.memory_jobs_max);
        if others < high {
            return false;
        }
        if can_start && self.displaceable > 0 && others < high + (max - high) / 4 * 3 {
            self.displaceable -= 1;
            return false;
        }
        others >= max || self.stream_len(stream) > self.floor(stream)
    }

    /// How many jobs in memory cannot start now, whoever has room: those of streams that cannot, and those that wait
    /// behind a lock.
    fn count_displaceable(&self) -> usize {
        let count = |(stream, jobs): (&Stream, &StreamJobs)| {
            if self.index.is_startable(lane_of(*stream)) { jobs.blocked.len() } else { jobs.len() }
        };
        self.index.streams.iter().map(count).sum()
    }

    /// Parks a step of jobs if memory is short: those of streams that cannot start first, then those behind locks, then
    /// the longest streams' youngest.
    pub(super) fn make_room(&mut self) {
        self.park_step();
        // Counted a little before it is needed, and not where memory is far from full.
        let high = self.high_water();
        let is_near = self.state.jobs.len() >= high - high / 8;
        self.displaceable = if is_near { self.count_displaceable() } else { 0 };
    }

    fn park_step(&mut self) {
        let (len, high, max) = (self.state.jobs.len(), self.high_water(), self.limits.memory_jobs_max);
        // What only passes through, since it can start, leaves by itself: for a quarter of what lies above the high water
        // nothing is parked. Once that is used up, parking goes on until there is room for as much again.
        self.parks = if self.parks { len > high } else { len > high + (max - high) / 4 };
        if !self.parks {
            return;
        }
        let mut excess = len.saturating_sub(high).min(self.limits.park_step_jobs);
        while excess > 0 && !self.is_full() {
            let victim = self
                .index
                .streams
                .iter()
                .map(|(stream, jobs)| {
                    let startable = self.index.is_startable(lane_of(*stream));
                    let keep = if startable { self.floor(*stream) } else { 0 };
                    let over = jobs.len().saturating_sub(keep);
                    let behind_locks = over.min(jobs.blocked.len());
                    match (startable, behind_locks) {
                        (false, _) => (Victim::CannotStart, over, *stream),
                        (true, 1..) => (Victim::BehindLocks, behind_locks, *stream),
                        (true, 0) => (Victim::Longest, over, *stream),
                    }
                })
                .filter(|(_, over, _)| *over > 0)
                .max();
            let Some((_, over, stream)) = victim else { return };
            // Not more than makes it as long as the next one, so that no stream pays for all.
            let step = over.min(excess).min((over / 2).max(64));
            for _ in 0..step {
                let Some(id) = self.youngest(stream) else { break };
                let place = self.place_of(id);
                self.park(id, place);
                excess -= 1;
            }
        }
    }

    /// The job of the stream that will start last.
    fn youngest(&self, stream: Stream) -> Option<JobId> {
        let jobs = self.index.streams.get(&stream)?;
        // What is due in a moment would be fetched again at once.
        let soon = self.last_now.db.plus(2 * DUE_LEAD_SHORT);
        if let Some((_, id)) = jobs.scheduled.last().filter(|(due, _)| *due > soon) {
            return Some(*id);
        }
        // What could start stays, whatever waits for a lock before it: it would be fetched again at once.
        let ready = || [jobs.ready.last(), jobs.tainted.last()].into_iter().flatten().max();
        let waiting = jobs.blocked.last().or_else(ready);
        waiting.or_else(|| jobs.scheduled.last().map(|(_, id)| *id))
    }

    /// Asks for parked jobs that have room now, or whose time comes.
    pub(super) fn fetch_parked(&mut self, now: Now) {
        // What was asked for and is not there yet has its room already.
        let expected = self.state.jobs.len() + self.questions.fetching_jobs();
        let mut room = self.high_water().saturating_sub(expected);
        let mut next_due: Option<Timestamp> = None;
        // With room, parked jobs come long before they are due; without, just in time.
        let horizon = self.limits.due_horizon;
        let (lead, ahead) = if room > 0 {
            (horizon / 2, horizon)
        } else {
            (DUE_LEAD_SHORT.min(horizon / 2), (DUE_LEAD_SHORT * 3 / 2).min(horizon))
        };
        let mut asks: Vec<(Place, PlaceKey, usize)> = Vec::new();
        for (place, state) in self.state.places.range(..Place::first_lock()) {
            let (Place::Stream(stream) | Place::Due(stream)) = *place else { continue };
            if !self.index.is_startable(lane_of(stream)) || self.questions.is_fetching(*place) {
                continue;
            }
            // What waits for a lock does not keep away what could start.
            let jobs = self.index.streams.get(&stream);
            let count = |count: fn(&StreamJobs) -> usize| jobs.map_or(0, count);
            let crashed = if room > 0 { 0 } else { count(|jobs| jobs.tainted.len()) };
            let ready = count(|jobs| jobs.ready.len()) + crashed;
            let len = count(|jobs| jobs.len() - jobs.blocked.len());
            let floor = self.floor(stream);
            match place {
                Place::Stream(_) if ready <= floor / 2 => {
                    let limit = room.max(floor - ready).min(self.limits.park_step_jobs);
                    room = room.saturating_sub(limit);
                    asks.push((*place, state.low, limit));
                }
                Place::Due(_) if room > 0 || len < floor => {
                    // Early enough to be exact.
                    let from = Timestamp(state.low.sort - lead.as_micros() as i64);
                    if from <= now.db {
                        let limit = room.max(floor.saturating_sub(len)).min(self.limits.park_step_jobs);
                        room = room.saturating_sub(limit);
                        asks.push((*place, state.low, limit));
                    } else {
                        next_due = Some(next_due.map_or(from, |next| next.min(from)));
                    }
                }
                _ => {}
            }
        }
        let mut free = LOCK_FETCHES_MAX.saturating_sub(self.questions.lock_fetches());
        for lane in self.index.lanes.values().filter(|lane| lane.is_startable() && !lane.heads.is_empty()) {
            for (low, place) in &lane.heads {
                if free == 0 {
                    break;
                }
                let lane = lane_of_place(*place);
                if room == 0 && self.lane_ready(lane) >= self.limits.stream_floor_jobs {
                    break;
                }
                if !self.questions.is_fetching(*place) {
                    free -= 1;
                    // Without room only the next few: the others would be parked again at once.
                    let limit = if room > 0 { LOCK_FETCH_JOBS } else { LOCK_FETCH_JOBS_SHORT };
                    asks.push((*place, PlaceKey { sort: 0, id: *low }, limit));
                }
            }
        }
        let until = now.db.plus(ahead);
        for (place, from, limit) in asks {
            self.questions.fetch(place, from, until, u32::try_from(limit.max(1)).unwrap_or(u32::MAX));
        }
        self.next_due_fetch = next_due;
    }

    fn lane_ready(&self, (queue, task): super::index::LaneKey) -> usize {
        let from = Stream { queue, task, priority: i8::MIN };
        let to = Stream { queue, task, priority: i8::MAX };
        self.index.streams.range(from..=to).map(|(_, jobs)| jobs.ready.len() + jobs.tainted.len()).sum()
    }

    /// Parked jobs come back, if the answer still holds.
    pub(super) fn fetched(&mut self, answer: &Fetched) {
        let Some(fetch) = self.questions.fetched(answer) else { return };
        let lane = lane_of_place(fetch.place);
        for job in &answer.jobs {
            self.unpark(job.clone());
        }
        if let Some(next) = answer.next
            && self.state.place(fetch.place).is_some_and(|state| state.low < next)
        {
            self.record(Fact::PlaceMoved { place: fetch.place, low: next });
        }
        if let Place::Lock(lock, ..) | Place::Strict(lock, ..) = fetch.place {
            self.index.dirty_locks.insert(lock);
        }
        debug_assert!(answer.jobs.iter().all(|job| lane_of(job.record.stream) == lane));
    }
}
