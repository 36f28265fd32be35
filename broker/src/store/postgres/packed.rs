//! Plain successes, many to a row of `success`: most jobs end in one, and a row of `outcome` for each, with its entry in
//! an index, would be most of what PostgreSQL writes when a job ends.
//!
//! One row has those of one commit among 128 ids, which is what it is found by again. Fewer than eight are not worth a
//! row, and however jobs end, no more than sixteen rows have to be looked through for one of them.

use uuid::Uuid;

use super::time::PgTime;
use crate::core::{batch::Outcome, job::Verdict};

/// Ids of one row agree in all but their lowest seven bits. The SQL says 127 and -128.
const BLOCK_BITS: u32 = 7;
/// So many are worth a row.
const PACKED_MIN: usize = 8;

/// Rows of `success`, as the parallel arrays of `commit_1`: what all rows hold, one after the other.
#[derive(Default)]
pub(super) struct Packed {
    /// The lowest id of each row.
    pub(super) firsts: Vec<i64>,
    /// When the last of each row ended.
    pub(super) finished: Vec<PgTime>,
    /// Where each row ends in `places`, `took`, and, unless they are empty, `earlier` and `session_of`.
    pub(super) ends: Vec<i32>,
    /// Ids, less that of their block.
    pub(super) places: Vec<i16>,
    /// How long each took, in microseconds.
    pub(super) took: Vec<i32>,
    /// How long before the last of its row each ended, in microseconds. Empty: none before.
    pub(super) earlier: Vec<i32>,
    /// Where each row ends in `sessions`.
    pub(super) session_ends: Vec<i32>,
    /// The sessions of each row.
    pub(super) sessions: Vec<Uuid>,
    /// Whose each was, among the sessions of its row, from 1. Empty: every row has but one.
    pub(super) session_of: Vec<i16>,
}

/// What a row says of one of its jobs.
struct Success<'b> {
    outcome: &'b Outcome,
    took: i32,
    session: Uuid,
}

impl<'b> Success<'b> {
    /// `None`: it is not plain, and needs a row of its own.
    fn of(outcome: &'b Outcome) -> Option<Self> {
        let Outcome { delivery: 1, attempt: 1, verdict: Verdict::Succeeded, more: None, .. } = outcome else {
            return None;
        };
        let took = outcome.finished.0.checked_sub(outcome.started?.0).filter(|took| *took >= 0)?;
        Some(Self { outcome, took: i32::try_from(took).ok()?, session: outcome.session? })
    }

    fn block(&self) -> i64 {
        self.outcome.job.0 >> BLOCK_BITS
    }
}

/// Packs what can be, and gives the outcomes that cannot.
pub(super) fn pack(outcomes: Vec<&Outcome>) -> (Packed, Vec<&Outcome>) {
    let (mut packed, mut plain, mut others) = (Packed::default(), Vec::new(), Vec::new());
    for outcome in outcomes {
        match Success::of(outcome) {
            Some(success) => plain.push(success),
            None => others.push(outcome),
        }
    }
    plain.sort_unstable_by_key(|success| success.outcome.job);
    for row in plain.chunk_by(|one, other| one.block() == other.block()) {
        if row.len() < PACKED_MIN || !packed.push(row) {
            others.extend(row.iter().map(|success| success.outcome));
        }
    }
    if packed.earlier.iter().all(|earlier| *earlier == 0) {
        packed.earlier.clear();
    }
    if packed.sessions.len() == packed.firsts.len() {
        packed.session_of.clear();
    }
    (packed, others)
}

impl Packed {
    /// `false`: what the row would say does not fit.
    fn push(&mut self, row: &[Success<'_>]) -> bool {
        let Some(last) = row.iter().map(|success| success.outcome.finished).max() else { return false };
        // Events of one commit lie seconds apart at most; else each keeps a row of its own.
        let earlier: Option<Vec<_>> =
            row.iter().map(|success| i32::try_from(last.0.checked_sub(success.outcome.finished.0)?).ok()).collect();
        let Some(earlier) = earlier else { return false };
        self.earlier.extend(earlier);
        let first_session = self.sessions.len();
        self.firsts.push(row[0].outcome.job.0);
        self.finished.push(PgTime(last));
        for success in row {
            let sessions = &self.sessions[first_session..];
            let session = sessions.iter().position(|session| *session == success.session).unwrap_or(sessions.len());
            if session == sessions.len() {
                self.sessions.push(success.session);
            }
            self.places.push((success.outcome.job.0 & ((1 << BLOCK_BITS) - 1)) as i16);
            self.took.push(success.took);
            self.session_of.push(session as i16 + 1);
        }
        self.ends.push(self.places.len() as i32);
        self.session_ends.push(self.sessions.len() as i32);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::types::{JobId, Timestamp};

    fn success(job: i64, session: u128, finished: i64) -> Outcome {
        Outcome {
            job: JobId(job),
            delivery: 1,
            attempt: 1,
            verdict: Verdict::Succeeded,
            started: Some(Timestamp(1_000)),
            finished: Timestamp(finished),
            session: Some(Uuid::from_u128(session)),
            more: None,
        }
    }

    #[test]
    fn a_row_holds_what_one_commit_has_of_a_block() {
        let all: Vec<_> = (120..140).rev().map(|job| success(job, 1, 5_000)).collect();
        let (packed, left) = pack(all.iter().collect());
        assert!(left.is_empty());
        assert_eq!(packed.firsts, [120, 128]);
        assert_eq!(packed.ends, [8, 20]);
        assert_eq!(packed.places, (120..128).chain(0..12).collect::<Vec<_>>());
        assert_eq!(packed.took, [4_000; 20]);
        assert_eq!((packed.session_ends, packed.sessions.len()), (vec![1, 2], 2));
        assert!(packed.earlier.is_empty() && packed.session_of.is_empty());
    }

    #[test]
    fn sessions_and_times_are_kept_of_each() {
        let all: Vec<_> = (0..8).map(|job| success(job, 1 + job as u128 % 2, 5_000 + job)).collect();
        let (packed, _) = pack(all.iter().collect());
        assert_eq!(packed.finished.iter().map(|at| at.0).collect::<Vec<_>>(), [Timestamp(5_007)]);
        assert_eq!(packed.earlier, [7, 6, 5, 4, 3, 2, 1, 0]);
        assert_eq!(packed.took, [4_000, 4_001, 4_002, 4_003, 4_004, 4_005, 4_006, 4_007]);
        assert_eq!(packed.sessions, [Uuid::from_u128(1), Uuid::from_u128(2)]);
        assert_eq!(packed.session_of, [1, 2, 1, 2, 1, 2, 1, 2]);
    }

    #[test]
    fn what_is_few_or_not_plain_keeps_a_row_of_its_own() {
        let mut all: Vec<_> = (0..15).map(|job| success(job, 1, 5_000)).collect();
        all[0].delivery = 2;
        all[1].attempt = 2;
        all[2].verdict = Verdict::Failed;
        all[3].started = None;
        all[4].session = None;
        all[5].more = Some(Box::default());
        all[6].finished = Timestamp(1_000 + i64::from(i32::MAX) + 1);
        all.extend((128..135).map(|job| success(job, 1, 5_000)));
        // Each short, and further apart than a row can say.
        all.extend((256..264).map(|job| {
            let finished = 5_000 + (job - 256) * 1_000_000_000;
            Outcome { started: Some(Timestamp(finished - 1)), ..success(job, 1, finished) }
        }));
        let (packed, left) = pack(all.iter().collect());
        assert_eq!(packed.places, (7..15).collect::<Vec<_>>());
        let left: Vec<_> = left.iter().map(|outcome| outcome.job.0).collect();
        assert_eq!(left, (0..7).chain(128..135).chain(256..264).collect::<Vec<_>>());
    }
}
