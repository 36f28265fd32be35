//! What was decided in rows that a look-up's snapshot may not have seen.

use std::{collections::HashMap, sync::Arc};

use super::{
    batch::RequestRow,
    types::{JobId, LockId},
};

/// Decisions by key, with the row that they belong to. Forgotten once every answer to come has seen their row.
#[derive(Debug, Default)]
pub(super) struct Recent {
    requests: HashMap<Arc<str>, (u64, RequestRow)>,
    parked_queueing_locks: HashMap<Arc<str>, (u64, JobId)>,
    moved: HashMap<JobId, u64>,
    parked_locks: HashMap<LockId, u64>,
    taken_in: HashMap<u64, u64>,
}

impl Recent {
    pub(super) fn remember(&mut self, call: RequestRow, row: u64) {
        self.requests.insert(call.id.clone(), (row, call));
    }

    pub(super) fn request(&self, id: &str) -> Option<&RequestRow> {
        self.requests.get(id).map(|(_, call)| call)
    }

    pub(super) fn parked(&mut self, queueing_lock: Arc<str>, id: JobId, row: u64) {
        self.parked_queueing_locks.insert(queueing_lock, (row, id));
    }

    /// The job that was parked with this queueing lock, if that was lately.
    pub(super) fn parked_with(&self, queueing_lock: &str) -> Option<JobId> {
        self.parked_queueing_locks.get(queueing_lock).map(|(_, id)| *id)
    }

    /// The job that carried it is parked no longer.
    pub(super) fn unparked(&mut self, queueing_lock: &str) {
        self.parked_queueing_locks.remove(queueing_lock);
    }

    /// A job with this lock was parked.
    pub(super) fn parked_with_lock(&mut self, lock: LockId, row: u64) {
        self.parked_locks.insert(lock, row);
    }

    pub(super) fn lock_parked_after(&self, lock: LockId, snapshot: u64) -> bool {
        self.parked_locks.get(&lock).is_some_and(|row| *row > snapshot)
    }

    /// A job was parked or unparked, opened again or erased.
    pub(super) fn moved(&mut self, id: JobId, row: u64) {
        self.moved.insert(id, row);
    }

    pub(super) fn moved_after(&self, id: JobId, snapshot: u64) -> bool {
        self.moved_in(id).is_some_and(|row| row > snapshot)
    }

    /// The row in which it moved last.
    pub(super) fn moved_in(&self, id: JobId) -> Option<u64> {
        self.moved.get(&id).copied()
    }

    /// A row of the inbox was taken in.
    pub(super) fn took_in(&mut self, number: u64, row: u64) {
        self.taken_in.insert(number, row);
    }

    pub(super) fn is_taken_in(&self, number: u64) -> bool {
        self.taken_in.contains_key(&number)
    }

    /// Forgets rows up to this one.
    pub(super) fn forget(&mut self, floor: u64) {
        self.keep(|row| row > floor);
    }

    /// Rows after this one were never written.
    pub(super) fn roll_back(&mut self, committed: u64) {
        self.keep(|row| row <= committed);
    }

    fn keep(&mut self, keep: impl Fn(u64) -> bool) {
        self.requests.retain(|_, (row, _)| keep(*row));
        self.parked_queueing_locks.retain(|_, (row, _)| keep(*row));
        self.moved.retain(|_, row| keep(*row));
        self.parked_locks.retain(|_, row| keep(*row));
        self.taken_in.retain(|_, row| keep(*row));
    }
}
