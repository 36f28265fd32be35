//! The stream of one worker.
//!
//! [`front`] holds it for as long as the worker is connected, whoever owns the cell: here, it is served by [`local`];
//! elsewhere, it goes over a link (`crate::relay`).
//!
//! Locally, there are a task that reads and a task that writes. The reader checks frames and hands them to the owner; it waits for nobody but the owner. The writer is the only one
//! that sends: control frames go ahead of jobs, and jobs keep their order while arguments are read from the store. What
//! both know of each other is [`Ledger`].

mod deliveries;
mod front;
mod incoming;
mod ledger;
mod local;
mod out;
mod reader;
mod settings;
mod writer;

pub(super) use front::open;
pub(crate) use front::open_relayed;
pub use incoming::Incoming;
pub(crate) use out::Out;
pub use out::Responses;
pub use settings::StreamSettings;
pub(crate) use writer::broker_drain;
pub(super) use writer::{invalid_token, settle_code};

use ledger::Ledger;
