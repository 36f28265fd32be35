//! Where jobs lie that are not in memory.

use super::{
    job::Record,
    types::{JobId, LockId, QueueNo, Stream, TaskNo, Timestamp},
};

/// A row of parked jobs, in an order of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// What could start but has no room in memory, by id.
    Stream(Stream),
    /// What is due beyond the memory's horizon, by due time.
    Due(Stream),
    /// What waits behind a lock in its ordinary mode, by id.
    Lock(LockId, QueueNo, TaskNo),
    /// What waits behind a lock in mode `strict`, by id.
    Strict(LockId, QueueNo, TaskNo),
}

impl Place {
    /// The first place behind a lock, in the order of places: all others come before it.
    pub const fn first_lock() -> Self {
        Self::Lock(LockId(uuid::Uuid::nil()), QueueNo(0), TaskNo(0))
    }
}

/// The position of a job within its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PlaceKey {
    /// The due time in a [`Place::Due`], else 0.
    pub sort: i64,
    /// The job.
    pub id: JobId,
}

impl PlaceKey {
    /// The key of this job in this place.
    pub fn of(place: Place, id: JobId, due: Timestamp) -> Self {
        Self { sort: if matches!(place, Place::Due(_)) { due.0 } else { 0 }, id }
    }

    /// The lowest key after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self { sort: self.sort, id: JobId(self.id.0 + 1) }
    }
}

/// What memory knows of a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlaceState {
    /// How many jobs lie there; never 0.
    pub count: u64,
    /// No job there has a lower key. Fetching begins here, so that dead entries are not walked twice.
    pub low: PlaceKey,
}

/// A parked job, as its row holds it.
#[derive(Clone, Debug, PartialEq)]
pub struct ParkedJob {
    /// The job.
    pub id: JobId,
    /// Where it lies.
    pub place: Place,
    /// At which position.
    pub key: PlaceKey,
    /// What the core remembers of it.
    pub record: Record,
}
