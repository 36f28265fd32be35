//! What the checker says.

use std::{collections::BTreeMap, fmt};

use serde::Serialize;

use super::{
    counts::{Counts, Sometimes},
    violation::{Clause, Findings, Violation},
};

/// The checker's judgement of a history.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What happened how often.
    pub counts: Counts,
    /// How often each clause is broken.
    pub broken: BTreeMap<Clause, u64>,
    /// The first violations of each clause.
    pub violations: Vec<Violation>,
    /// How often each event was reached that a run must reach sometimes.
    pub sometimes: BTreeMap<Sometimes, u64>,
}

impl Report {
    pub(super) fn new(counts: Counts, findings: Findings) -> Self {
        let sometimes = Sometimes::ALL.into_iter().map(|event| (event, counts.of(event))).collect();
        Self { counts, broken: findings.counts, violations: findings.told, sometimes }
    }

    /// Whether the history keeps every clause.
    pub fn is_clean(&self) -> bool {
        self.broken.is_empty()
    }

    /// What was never reached, of what had to be. A run without it has tested nothing.
    pub fn missed(&self, required: &[Sometimes]) -> Vec<Sometimes> {
        required.iter().copied().filter(|event| self.counts.of(*event) == 0).collect()
    }

    /// Whether this clause is broken.
    pub fn breaks(&self, clause: Clause) -> bool {
        self.broken.contains_key(&clause)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let c = &self.counts;
        writeln!(
            f,
            "asked for {} jobs: {} acknowledged, {} refused, {} unknown ({} of them there); {} calls repeated, {} of them \
             done before",
            c.attempted, c.acknowledged, c.refused, c.unknown, c.unknown_and_there, c.asked_again, c.done_before
        )?;
        writeln!(
            f,
            "{} jobs: {} succeeded, {} failed, {} cancelled, {} unfinished",
            c.jobs, c.succeeded, c.failed, c.cancelled, c.unfinished
        )?;
        writeln!(
            f,
            "{} deliveries, {} executions; ended by {} retries, {} crashes, {} releases; {} duplicate executions, {} of \
             them explained by an ended lease",
            c.deliveries, c.executions, c.retried, c.crashed, c.released, c.duplicates, c.duplicates_explained
        )?;
        writeln!(
            f,
            "{} results recorded, {} recorded before, {} answered LEASE_LOST; {} takeovers, {} of them with jobs in flight; jobs left \
             memory {} times, one of them {} times",
            c.settled,
            c.settled_again,
            c.lease_lost,
            c.takeovers,
            c.takeovers_with_jobs_in_flight,
            c.parkings,
            c.parkings_of_one_job
        )?;
        writeln!(
            f,
            "{} ticks deferred, {} skipped by their rule; {} finals opened again, {} erased; {} calls refused by the database",
            c.ticks, c.ticks_skipped, c.reopened, c.erased, c.unrecordable
        )?;
        let reached = self.sometimes.iter().map(|(event, count)| format!("{event:?} {count}"));
        writeln!(f, "sometimes: {}", reached.collect::<Vec<_>>().join(", "))?;
        if self.is_clean() {
            return writeln!(f, "every clause is kept");
        }
        for (clause, count) in &self.broken {
            writeln!(f, "BROKEN {clause} ({}): {count} times", clause.promise())?;
            for violation in self.violations.iter().filter(|violation| violation.clause == *clause) {
                writeln!(f, "  {violation}")?;
            }
        }
        Ok(())
    }
}
