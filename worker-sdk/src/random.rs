//! The only place of this crate that asks the machine for randomness.

use uuid::Uuid;

/// A name that nobody else chooses: for a call (C2), or for a worker process. Those of one time are like each other,
/// so that the database finds the place of each in its index where it put the one before.
pub(crate) fn unique_name() -> String {
    Uuid::now_v7().to_string()
}

/// The start of a [`crate::backoff::Jitter`].
pub(crate) fn seed() -> u64 {
    Uuid::new_v4().as_u64_pair().0
}
