//! Whether owners followed one another, each with all of the log before it.

use std::collections::HashSet;

use super::violation::{Clause, Findings};
use crate::history::LogRow;

/// What is known of the log up to a row.
#[derive(Debug, Default)]
pub(super) struct Terms {
    last: Option<Last>,
    /// Terms that wrote something, by their nonces.
    nonces: HashSet<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Last {
    number: u64,
    term: u64,
    nonce: u64,
    at: i64,
}

impl Terms {
    /// Takes in the next row; answers whether a new term begins with it, after another.
    pub(super) fn follow(&mut self, row: &LogRow, findings: &mut Findings) -> bool {
        let now = Last { number: row.number, term: row.term, nonce: row.nonce, at: row.at.0 };
        self.nonces.insert(row.nonce);
        let Some(last) = self.last.replace(now) else {
            if (row.number, row.after_nonce) != (1, 0) {
                findings.add(Clause::Terms, None, || format!("the log begins with row {}", row.number));
            }
            return false;
        };
        let number = row.number;
        if number != last.number + 1 {
            findings.add(Clause::Terms, None, || format!("row {number} follows row {}", last.number));
        }
        if row.term < last.term {
            findings.add(Clause::Terms, None, || {
                format!("row {number} of term {} comes after a row of term {}: a lost owner wrote", row.term, last.term)
            });
        }
        if row.after_nonce != last.nonce {
            findings
                .add(Clause::Terms, None, || format!("row {number} was written after another row than the one before"));
        }
        if (row.term == last.term) != (row.nonce == last.nonce) {
            findings.add(Clause::Terms, None, || format!("row {number} has term {} with a wrong nonce", row.term));
        }
        if row.at.0 < last.at {
            let back = last.at - row.at.0;
            findings
                .add(Clause::Terms, None, || format!("row {number} was written {back} us before the one before it"));
        }
        row.term > last.term
    }

    /// How often the owner changed.
    pub(super) fn takeovers(&self) -> u64 {
        (self.nonces.len() as u64).saturating_sub(1)
    }
}
