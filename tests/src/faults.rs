//! Faults: what is done to a cluster under load, whether it keeps the contract, and how soon it recovers (C13).

mod conditions;
mod fault;
mod inject;
mod mixture;
mod overlap;
mod plan;
mod recovery;
mod run;
mod table;

pub use fault::Fault;
pub use plan::{Plan, Step};
pub use recovery::{Injection, Recovery};
pub use run::{Verdict, run};
pub use table::{RECOVERIES_MIN, Table};
