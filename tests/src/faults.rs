//! Faults: what is done to a cluster under load, whether it keeps the contract, and how soon it recovers (C13).

mod inject;
mod plan;
mod recovery;
mod run;

pub use plan::{Fault, Plan};
pub use recovery::{Injection, Recovery};
pub use run::{Verdict, run};
