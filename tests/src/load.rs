//! The load of a fault run: which jobs and schedules its clients ask for, and how they do.

mod agenda;
mod caller;
mod mixture;
mod pace;

pub use agenda::{AGENDA, Entry};
pub use caller::Caller;
pub use mixture::{Mixture, TASKS, Then, Wish, Work};
pub use pace::Pace;

/// Handlers that a worker runs at once.
pub const CONCURRENCY: usize = 32;
/// Jobs that may wait in a worker.
pub const PREFETCH: usize = 32;
/// So many a worker holds at most.
pub const WINDOW_JOBS: usize = CONCURRENCY + PREFETCH;
