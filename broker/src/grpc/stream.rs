//! The stream of one worker: a task that reads, and a task that writes.
//!
//! The reader checks frames and hands them to the owner; it waits for nobody but the owner. The writer is the only one
//! that sends: control frames go ahead of jobs, and jobs keep their order while arguments are read from the store. What
//! both know of each other is [`Ledger`].

mod deliveries;
mod ledger;
mod reader;
mod settings;
mod writer;

pub(super) use reader::{Responses, open};
pub use settings::StreamSettings;
pub(super) use writer::{invalid_token, settle_code};

use ledger::Ledger;
