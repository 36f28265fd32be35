//! What a history can break.

use std::fmt;

use serde::Serialize;

/// A promise of `docs/`' contract, or of the architecture behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Clause {
    /// Durable defer: an acknowledged job is there.
    C1,
    /// Idempotent calls: one request id, one answer.
    C2,
    /// At least once: every accepted job becomes final.
    C3,
    /// One live lease.
    C4,
    /// Fencing: LEASE_LOST changed nothing.
    C5,
    /// Settled once.
    C6,
    /// Never early.
    C7,
    /// Attempts, crashes, waits.
    C8,
    /// Lock.
    C9,
    /// Queueing lock.
    C10,
    /// Cancel.
    C11,
    /// Periodic.
    C12,
    /// Operators' verbs.
    C17,
    /// The table of transitions.
    Transitions,
    /// The terms of owners do not interleave: whoever lost the cell writes nothing.
    Terms,
    /// Nobody asked for it.
    Unexpected,
    /// An unfinished job is in exactly one place (invariant 4).
    OnePlace,
}

impl Clause {
    /// What it promises, in a few words.
    pub fn promise(self) -> &'static str {
        match self {
            Self::C1 => "an acknowledged job is in the database",
            Self::C2 => "one request id names one call with one answer",
            Self::C3 => "every accepted job becomes final",
            Self::C4 => "a job has at most one delivery without its end",
            Self::C5 => "a late result is answered LEASE_LOST and changes nothing",
            Self::C6 => "each delivery is settled once, and finals stay final",
            Self::C7 => "no start before the due time",
            Self::C8 => "attempts, crashes and waits keep to the policy",
            Self::C9 => "one running job per lock, the first startable one first",
            Self::C10 => "at most one never-started job per queueing lock",
            Self::C11 => "no start after the OK of a cancel",
            Self::C12 => "each tick is deferred exactly once, and missed by its rule only",
            Self::C17 => "finals are opened again and erased as asked, and not otherwise",
            Self::Transitions => "no transition but those of the table",
            Self::Terms => "terms do not interleave",
            Self::Unexpected => "nothing is there that nobody asked for",
            Self::OnePlace => "an unfinished job is in exactly one place",
        }
    }
}

impl fmt::Display for Clause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Transitions => f.write_str("transitions"),
            Self::Terms => f.write_str("terms"),
            Self::Unexpected => f.write_str("unexpected"),
            Self::OnePlace => f.write_str("one place"),
            clause => write!(f, "{clause:?}"),
        }
    }
}

/// A place where a history breaks a clause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// The clause.
    pub clause: Clause,
    /// The job, if it is about one.
    pub job: Option<i64>,
    /// What is wrong.
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.job {
            Some(job) => write!(f, "{}: job {job}: {}", self.clause, self.detail),
            None => write!(f, "{}: {}", self.clause, self.detail),
        }
    }
}

/// How many violations of one clause are told in words; the others are counted.
const TOLD_PER_CLAUSE_MAX: usize = 20;

/// What was found so far.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) told: Vec<Violation>,
    pub(super) counts: std::collections::BTreeMap<Clause, u64>,
}

impl Findings {
    pub(super) fn add(&mut self, clause: Clause, job: impl Into<Option<i64>>, detail: impl FnOnce() -> String) {
        let count = self.counts.entry(clause).or_default();
        *count += 1;
        if *count <= TOLD_PER_CLAUSE_MAX as u64 {
            self.told.push(Violation { clause, job: job.into(), detail: detail() });
        }
    }
}
