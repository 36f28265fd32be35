//! Which jobs ran: noted by each worker process in a bit per job, and put together by the parent.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

/// How many ids a report of doubled or foreign jobs names at most.
const NAMED_IDS_MAX: usize = 20;

/// The jobs that ran in one process.
#[derive(Debug)]
pub(crate) struct Runs {
    base: i64,
    bits: Vec<u64>,
    count: u64,
    again: Vec<i64>,
}

/// The same, to be sent through a pipe.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct RunsReport {
    /// How many handlers ran.
    pub(crate) count: u64,
    /// Runs of ids, relative to the base, each as `first+length`.
    ranges: String,
    /// Jobs that ran more than once in this process.
    again: Vec<i64>,
}

/// All processes together, against the ids that were deferred.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Tally {
    /// How many handlers ran.
    pub(crate) ran: u64,
    /// How many jobs never ran.
    pub(crate) lost: u64,
    /// How many runs were one too many.
    pub(crate) doubled: u64,
    /// How many runs were of jobs that nobody deferred.
    pub(crate) foreign: u64,
    /// Some of the ids that are wrong in any way.
    pub(crate) examples: Vec<i64>,
}

impl Runs {
    pub(crate) fn new(base: i64, span: usize) -> Self {
        Self { base, bits: vec![0; span.div_ceil(64)], count: 0, again: Vec::new() }
    }

    /// A handler runs this job.
    pub(crate) fn note(&mut self, id: i64) {
        self.count += 1;
        if !self.set(id) {
            self.again.push(id);
        }
    }

    /// Whether the bit was free, and is one of ours.
    fn set(&mut self, id: i64) -> bool {
        let Ok(place) = usize::try_from(id - self.base) else { return false };
        let Some(word) = self.bits.get_mut(place / 64) else { return false };
        let bit = 1_u64 << (place % 64);
        let free = *word & bit == 0;
        *word |= bit;
        free
    }

    fn has(&self, place: usize) -> bool {
        self.bits.get(place / 64).is_some_and(|word| word >> (place % 64) & 1 == 1)
    }

    pub(crate) fn report(&self) -> RunsReport {
        let mut ranges = String::new();
        let places = self.bits.len() * 64;
        let mut place = 0;
        while place < places {
            let first = place;
            while place < places && self.has(place) {
                place += 1;
            }
            if place > first {
                let comma = if ranges.is_empty() { "" } else { "," };
                let _ = write!(ranges, "{comma}{first}+{}", place - first);
            }
            place += 1;
        }
        RunsReport { count: self.count, ranges, again: self.again.clone() }
    }
}

impl Tally {
    /// Puts reports together. `None`: one of them is not a report.
    pub(crate) fn of(deferred: &[i64], reports: &[RunsReport]) -> Option<Self> {
        let base = deferred.iter().copied().min()?;
        let span = usize::try_from(deferred.iter().copied().max()? - base + 1).ok()?;
        let mut tally = Self::default();
        let mut wanted = Runs::new(base, span);
        for id in deferred {
            wanted.note(*id);
        }
        let mut seen = Runs::new(base, span);
        for report in reports {
            tally.ran += report.count;
            for id in &report.again {
                tally.doubled += 1;
                tally.example(*id);
            }
            for range in report.ranges.split(',').filter(|range| !range.is_empty()) {
                let (first, length) = range.split_once('+')?;
                let (first, length): (usize, usize) = (first.parse().ok()?, length.parse().ok()?);
                for place in first..first + length {
                    let id = base + place as i64;
                    if !wanted.has(place) {
                        tally.foreign += 1;
                        tally.example(id);
                    } else if !seen.set(id) {
                        tally.doubled += 1;
                        tally.example(id);
                    }
                }
            }
        }
        for id in deferred {
            if !seen.has((id - base) as usize) {
                tally.lost += 1;
                tally.example(*id);
            }
        }
        Some(tally)
    }

    pub(crate) fn is_clean(&self) -> bool {
        self.lost == 0 && self.doubled == 0 && self.foreign == 0
    }

    fn example(&mut self, id: i64) {
        if self.examples.len() < NAMED_IDS_MAX {
            self.examples.push(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(ids: &[i64]) -> RunsReport {
        let mut runs = Runs::new(100, 200);
        for id in ids {
            runs.note(*id);
        }
        let text = serde_json::to_string(&runs.report()).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    fn tally(deferred: &[i64], reports: &[RunsReport]) -> (u64, u64, u64, u64) {
        let tally = Tally::of(deferred, reports).unwrap();
        (tally.ran, tally.lost, tally.doubled, tally.foreign)
    }

    #[test]
    fn ranges_are_compact() {
        assert_eq!(report(&[100, 101, 102, 163, 164, 165, 299]).ranges, "0+3,63+3,199+1");
        assert_eq!(report(&[]).ranges, "");
    }

    #[test]
    fn all_jobs_once_is_clean() {
        let deferred: Vec<_> = (100..300).collect();
        let (left, right): (Vec<_>, Vec<_>) = deferred.iter().partition(|id| *id % 3 == 0);
        assert_eq!(tally(&deferred, &[report(&left), report(&right)]), (200, 0, 0, 0));
    }

    #[test]
    fn what_is_lost_doubled_and_foreign_is_counted() {
        let deferred = [100, 101, 102, 103, 105, 299];
        // 101 in both, 102 twice in one, 104 not ours, 299 and 103 in none.
        let reports = [report(&[100, 101, 102, 102]), report(&[101, 104, 105])];
        assert_eq!(tally(&deferred, &reports), (7, 2, 2, 1));
        assert!(!Tally::of(&deferred, &reports).unwrap().is_clean());
    }
}
