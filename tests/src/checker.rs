//! Whether a history keeps the contract.
//!
//! The log of the database is folded once, in its order, into the lives of the jobs: that shows whether what was decided
//! is legal. Then the tables, the clients and the workers are held against those lives: that shows whether what was
//! decided is also what was told and what was done. The fold is the checker's own and shares nothing with the broker's
//! but the decoded facts, so that a mistake of the one is not repeated by the other.
//!
//! It takes O(n log n) for n events, and keeps a few hundred bytes per job.

mod calls;
mod counts;
mod executions;
mod ledger;
mod life;
mod locks;
mod report;
mod settles;
#[cfg(test)]
mod story;
mod tables;
mod terms;
#[cfg(test)]
mod tests;
mod ticks;
mod verbs;
mod violation;
mod waits;

pub use counts::{Counts, Sometimes};
pub use report::Report;
pub use violation::{Clause, Violation};

use std::time::Duration;

use crate::{history::History, load::WINDOW_JOBS};
use violation::Findings;

/// What the checker may assume of a run.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// After how many crashes a job is failed (C8).
    pub max_crashes: u16,
    /// All processes and the database share one clock, as on one machine: their times can be compared.
    pub one_clock: bool,
    /// Every session serves every task, so a waiting job of a queue that is not paused is startable (C9).
    pub everything_served: bool,
    /// No handler overrules its job's retry policy (C8).
    pub policy_decides: bool,
    /// The run was drained: every accepted job must be final by now (C3).
    pub drained: bool,
    /// How many jobs a worker may hold.
    pub window: usize,
    /// How late a tick may be whose schedule skips missed ones (C12).
    pub tick_grace: Duration,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            max_crashes: 3,
            one_clock: true,
            everything_served: true,
            policy_decides: true,
            drained: true,
            window: WINDOW_JOBS,
            tick_grace: Duration::from_mins(1),
        }
    }
}

/// Checks a history.
pub fn check(history: &History, rules: Rules) -> Report {
    let mut findings = Findings::default();
    let mut counts = Counts::default();
    let mut terms = terms::Terms::default();
    let mut ledger = ledger::Ledger::new(rules);
    for row in &history.database.log {
        if terms.follow(row, &mut findings) && ledger.running > 0 {
            counts.takeovers_with_jobs_in_flight += 1;
        }
        ledger.fold(row, &mut findings);
    }
    counts.takeovers = terms.takeovers();
    ledger.count(&mut counts);
    tables::check(&history.database, &ledger, rules, &mut findings, &mut counts);
    verbs::check(&history.clients, &ledger, rules, &mut findings);
    calls::check(&history.clients, &history.database, &ledger, rules, &mut findings, &mut counts);
    settles::check(&history.workers, &history.database, &ledger, rules, &mut findings, &mut counts);
    executions::check(&history.workers, &ledger, rules, &mut findings, &mut counts);
    ticks::check(history, &ledger, rules, &mut findings, &mut counts);
    Report::new(counts, findings)
}
