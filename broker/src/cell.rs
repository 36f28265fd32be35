//! The shell of one cell: whatever of it must wait, send or ask, around the core that decides.
//!
//! A [`Cell`] is a handle; behind it runs one task for as long as the broker lives. It stands by (follows the log, tries
//! to take the term), then owns the cell until the term ends, and stands by again. While it owns the cell:
//!
//! - [`owner`]: the one task that holds the core. Inputs come through one bounded channel.
//! - [`writer`]: the task of the one connection that commits. No client can cancel it.
//! - [`follower`]: a thread that folds what was committed a second time, for checkpoints and as the state to return to.
//! - [`inbox`]: the task that looks for what applications wrote in their own transactions.
//! - `duties`: the task of the other connection (see [`crate::duties`]).
//!
//! Nothing here is global: a broker may hold several cells.

mod admission;
mod arguments;
mod follower;
mod handle;
mod inbox;
mod input;
mod known_requests;
mod names;
mod owner;
mod standby;
mod term;
mod tick_log;
mod vigil;
mod waiters;
mod writer;

pub(crate) use admission::{Admission, Admitted};
pub use handle::{CallError, Cell, CellSettings, JobNow, Owned, Role};
pub use input::{Handout, LINK_MESSAGES_MAX, LinkMessage};
pub use names::Names;
pub use vigil::Standby;
