//! The runtime that a broker is fastest on.

use std::num::NonZero;

use tokio::runtime::Builder;

/// A runtime for a broker with so many threads, still to be enabled and built.
///
/// One thread gets tokio's runtime for one thread, where tasks run in the order in which they were woken. On one for
/// many threads, what a task wakes runs right after it: so each answer of a commit would wake its connection, and be
/// written by a call of its own to the system, where now all of them are written by one.
#[must_use]
pub fn runtime(threads: NonZero<u16>) -> Builder {
    if threads.get() == 1 {
        return Builder::new_current_thread();
    }
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(threads.get().into());
    builder
}
