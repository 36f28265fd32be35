//! How many unary calls may wait for their commits, in number and in bytes (C14).

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Unary calls that may wait for their answers.
pub(super) const CALLS_MAX: usize = 16_384;

/// What unary calls that wait may hold together, in KiB.
const CALLS_KIB_MAX: usize = 256 * 1_024;

/// Guards the way into the cell for unary calls, and to the owner elsewhere. Streams are bounded by their credit instead.
#[derive(Clone, Debug)]
pub(crate) struct Admission {
    calls: Arc<Semaphore>,
    kib: Arc<Semaphore>,
}

/// Room for one call, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Admitted {
    _call: OwnedSemaphorePermit,
    _kib: OwnedSemaphorePermit,
}

/// There is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full {
    pub(super) limit: &'static str,
    pub(super) value: u64,
}

impl Admission {
    pub(crate) fn new() -> Self {
        Self { calls: Arc::new(Semaphore::new(CALLS_MAX)), kib: Arc::new(Semaphore::new(CALLS_KIB_MAX)) }
    }

    /// Room for a call that holds so many bytes.
    pub(crate) fn admit(&self, bytes: usize) -> Result<Admitted, Full> {
        let kib = u32::try_from(bytes.div_ceil(1_024).max(1)).unwrap_or(u32::MAX);
        let call = Arc::clone(&self.calls).try_acquire_owned();
        let call = call.map_err(|_| Full { limit: "waiting calls", value: CALLS_MAX as u64 })?;
        let room = Arc::clone(&self.kib).try_acquire_many_owned(kib);
        let room = room.map_err(|_| Full { limit: "KiB of waiting calls", value: CALLS_KIB_MAX as u64 })?;
        Ok(Admitted { _call: call, _kib: room })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_given_up_to_the_limit_and_comes_back() {
        let admission = Admission::new();
        let all = admission.admit(CALLS_KIB_MAX * 1_024).expect("there is room at first");
        assert_eq!(admission.admit(1).expect_err("nothing is left").limit, "KiB of waiting calls");
        drop(all);
        assert!(admission.admit(1).is_ok());
    }
}
