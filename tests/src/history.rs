//! A history: three logs of one run that were written by parties who know nothing of each other.
//!
//! The clients say what they asked for and what they were answered, the workers what they ran and what became of their
//! results, and the database holds what was decided. None of them is believed more than the others: the checker
//! compares them.

mod client;
mod database;
mod journal;
mod load;
mod worker;

pub use client::{Asked, ClientEvent, ClientStep};
pub use database::{Database, JobRow, LogRow, OutcomeRow};
pub use journal::{Journal, JournalReader, Stamp, read_journals};
pub use load::load_database;
pub use worker::{End, LeaseName, WorkerEvent, WorkerStep};

/// Everything that is known of a run. The clients' and workers' events need no order between processes.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// What the clients wrote, each client's in its own order.
    pub clients: Vec<ClientEvent>,
    /// What the workers wrote, each worker's in its own order.
    pub workers: Vec<WorkerEvent>,
    /// What the database holds at the end.
    pub database: Database,
}
