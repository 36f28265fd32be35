//! Which job of a lock starts next (C9).

use std::collections::BTreeSet;

use super::{
    decide::Core,
    index::{LaneKey, StrictCheck},
    place::Place,
    questions::{Keys, Waiting},
    types::{JobId, LockId, QueueNo, TaskNo},
};

impl Core {
    /// Finds the candidate of every lock that something happened to.
    pub(super) fn find_candidates(&mut self) {
        while let Some(lock) = self.index.dirty_locks.pop_first() {
            self.find_candidate(lock);
        }
    }

    /// Among the startable jobs of the lock, the one created first goes first, whatever its priority. A strict job goes
    /// only when nothing of its lock that came before is unfinished.
    fn find_candidate(&mut self, lock: LockId) {
        let Some(entry) = self.index.locks.get_mut(&lock) else { return };
        for (id, place) in std::mem::take(&mut entry.heads) {
            if let Some(lane) = self.index.lanes.get_mut(&lane_of_place(place)) {
                lane.heads.remove(&(id, place));
            }
        }
        let entry = &self.index.locks[&lock];
        let before = entry.candidate;
        let mut next = None;
        let mut heads: Vec<(JobId, Place)> = Vec::new();
        let mut ask = None;
        if entry.holder.is_none() {
            let lines = || entry.lines.iter().filter(|(lane, _)| self.index.is_startable(**lane));
            let plain = lines().filter_map(|(_, line)| line.plain.first().copied()).min();
            let strict = lines().filter_map(|(_, line)| line.strict.first().copied()).min();
            let parked = |from, to| {
                self.state
                    .places
                    .range(from..=to)
                    .filter(|(place, _)| self.index.is_startable(lane_of_place(**place)))
                    .map(|(place, state)| (state.low.id, *place))
            };
            let [plain_from, plain_to, strict_from, strict_to] = ends(lock);
            heads.extend(parked(plain_from, plain_to).filter(|(low, _)| plain.is_none_or(|plain| *low < plain)));
            if heads.is_empty() {
                next = plain;
            }
            // A strict job goes before all others if it is the first of its lock that is unfinished. As long as that is
            // not known of one that may be, the others wait to be told.
            let first_member = entry.members.first().copied();
            let may_be_first = |id: JobId| first_member.is_none_or(|first| id <= first);
            let strict_parked = parked(strict_from, strict_to)
                .filter(|(low, _)| may_be_first(*low) && strict.is_none_or(|strict| *low < strict))
                .min();
            if let Some((low, _)) = strict_parked {
                next = next.filter(|next| *next < low);
                heads.extend(parked(strict_from, strict_to).filter(|(low, _)| may_be_first(*low)));
            } else if let Some(strict) = strict.filter(|strict| first_member == Some(*strict)) {
                let others_parked = self.state.parked_with_lock.contains_key(&lock);
                let is_first = !others_parked || entry.strict == StrictCheck::Clear(strict);
                let is_blocked = entry.strict == StrictCheck::Blocked(strict);
                let is_asked = matches!(entry.strict, StrictCheck::Asked(job, _) if job == strict);
                if !is_first && !is_blocked && !is_asked {
                    ask = Some(strict);
                }
                if is_first {
                    next = Some(strict);
                } else if !is_blocked {
                    next = next.filter(|next| *next < strict);
                }
            }
        }
        if next != before {
            let record = |id: JobId| (id, self.state.jobs.get(id).expect("a waiting job is in memory"));
            self.index.elect(lock, next.map(record), before.map(record));
        }
        for (id, place) in &heads {
            if let Some(lane) = self.index.lanes.get_mut(&lane_of_place(*place)) {
                lane.heads.insert((*id, *place));
            }
        }
        let has_parked = self.state.parked_with_lock.contains_key(&lock);
        let entry = self.index.locks.get_mut(&lock).expect("looked at above");
        entry.heads = heads;
        if let Some(job) = ask {
            let number = self.questions.number_strict();
            entry.strict = StrictCheck::Asked(job, number);
            let keys = Keys { locks_before: BTreeSet::from([(lock, job)]), ..Keys::default() };
            self.questions.look_up(keys, Waiting::Strict { lock, job, number });
        }
        if entry.members.is_empty()
            && entry.holder.is_none()
            && !has_parked
            && let Some(entry) = self.index.locks.remove(&lock)
        {
            for lane in entry.lanes {
                if let Some(lane) = self.index.lanes.get_mut(&lane) {
                    lane.locks.remove(&lock);
                }
            }
        }
    }

    /// The answer whether a strict job has parked jobs of its lock before it. `None`: it must be asked again.
    pub(super) fn strict_answer(&mut self, lock: LockId, (job, number): (JobId, u64), before: Option<bool>) {
        let Some(entry) = self.index.locks.get_mut(&lock) else { return };
        if entry.strict != StrictCheck::Asked(job, number) {
            return;
        }
        entry.strict = match before {
            Some(true) => StrictCheck::Blocked(job),
            Some(false) => StrictCheck::Clear(job),
            None => StrictCheck::Unknown,
        };
        self.index.dirty_locks.insert(lock);
    }
}

/// The lane of a line of parked jobs.
pub(super) fn lane_of_place(place: Place) -> LaneKey {
    match place {
        Place::Stream(stream) | Place::Due(stream) => (stream.queue, stream.task),
        Place::Lock(_, queue, task) | Place::Strict(_, queue, task) => (queue, task),
    }
}

/// The first and last places of a lock: its plain lines, and its strict ones.
fn ends(lock: LockId) -> [Place; 4] {
    let (first, last) = ((QueueNo(0), TaskNo(0)), (QueueNo(u32::MAX), TaskNo(u32::MAX)));
    [
        Place::Lock(lock, first.0, first.1),
        Place::Lock(lock, last.0, last.1),
        Place::Strict(lock, first.0, first.1),
        Place::Strict(lock, last.0, last.1),
    ]
}
