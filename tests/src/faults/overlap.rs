//! How long a recovery may take while other faults are not recovered from.

use std::time::Duration;

use super::{Fault, Injection, Recovery};

/// The time that a fault takes, in microseconds since 1970.
struct Span {
    fault: Fault,
    began: i64,
    /// When all of it was recovered from, or had to be if it never was.
    recovered: i64,
    /// When all of it has to be recovered from.
    due: i64,
}

/// Judges faults of one run by their own bounds where they do not overlap. A recovery that another fault overlaps is due
/// once that one is, if that is later.
pub(super) fn beside_each_other(alone: Vec<(&Injection, Vec<Recovery>)>) -> Vec<Recovery> {
    let spans: Vec<Span> = alone.iter().map(|(injection, recoveries)| Span::of(injection, recoveries)).collect();
    let mut judged = Vec::new();
    for (number, (injection, recoveries)) in alone.into_iter().enumerate() {
        for recovery in recoveries {
            let others = spans.iter().enumerate().filter(|(other, _)| *other != number).map(|(_, span)| span);
            let (bound, beside) = beside(injection, &recovery, &others.collect::<Vec<_>>());
            judged.push(Recovery { bound, beside, ..recovery });
        }
    }
    judged
}

impl Span {
    fn of(injection: &Injection, recoveries: &[Recovery]) -> Self {
        let last = |ends: &dyn Fn(&Recovery) -> Duration| {
            injection.at.saturating_add(micros(recoveries.iter().map(ends).max().unwrap_or_default()))
        };
        Self {
            fault: injection.fault,
            began: injection.began,
            recovered: last(&|recovery| recovery.took.unwrap_or(recovery.bound).min(recovery.bound)),
            due: last(&|recovery| recovery.bound),
        }
    }
}

/// Extends the bound by all faults that strike before the recovery is due, those included that strike while it is
/// extended: if it is not over by then. Answers the bound, and those faults.
fn beside(injection: &Injection, recovery: &Recovery, others: &[&Span]) -> (Duration, Vec<Fault>) {
    let over = recovery.took.map_or(i64::MAX, |took| injection.at.saturating_add(micros(took)));
    let mut due = injection.at.saturating_add(micros(recovery.bound));
    loop {
        let until = due.min(over);
        let overlapping = others.iter().filter(|other| other.began < until && other.recovered > injection.began);
        let (faults, ends): (Vec<Fault>, Vec<i64>) = overlapping.map(|other| (other.fault, other.due)).unzip();
        match ends.into_iter().max() {
            Some(later) if later > due => due = later,
            _ => {
                let bound = u64::try_from(due - injection.at).map_or(recovery.bound, Duration::from_micros);
                return (bound, faults);
            }
        }
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A fault that begins and is done at this second, and recovers in so many of at most so many.
    fn judged(faults: &[(i64, u64, u64)]) -> Vec<(u64, usize, bool)> {
        let injections: Vec<Injection> = faults.iter().map(|(at, ..)| injection(*at * 1_000_000)).collect();
        let alone = injections.iter().zip(faults).map(|(injection, (_, took, bound))| {
            let (took, bound) = (Some(Duration::from_secs(*took)), Duration::from_secs(*bound));
            (injection, vec![Recovery { fault: Fault::CutClient, what: "it", took, bound, beside: Vec::new() }])
        });
        let judged = beside_each_other(alone.collect()).into_iter();
        judged.map(|one| (one.bound.as_secs(), one.beside.len(), one.is_in_time())).collect()
    }

    fn injection(at: i64) -> Injection {
        Injection {
            fault: Fault::CutClient,
            began: at,
            at,
            term: 1,
            under_slow_cables: false,
            process: String::new(),
            workers: Vec::new(),
            session: None,
            leaderless: None,
        }
    }

    #[test]
    fn faults_that_do_not_overlap_keep_their_own_bounds() {
        assert_eq!(judged(&[(0, 2, 5), (3, 4, 3)]), [(5, 0, true), (3, 0, false)]);
    }

    #[test]
    fn a_recovery_that_was_late_before_the_next_fault_is_not_excused() {
        assert_eq!(judged(&[(0, 9, 5), (6, 1, 10)])[0], (5, 0, false));
    }

    #[test]
    fn a_recovery_beside_another_fault_is_due_when_that_one_is() {
        assert_eq!(judged(&[(0, 9, 5), (4, 2, 10)]), [(14, 1, true), (10, 1, true)]);
        // It struck while the earlier one was not recovered from, and is due when that one is.
        assert_eq!(judged(&[(0, 8, 20), (4, 10, 3)])[1], (16, 1, true));
    }

    #[test]
    fn what_strikes_while_a_bound_is_extended_extends_it_further() {
        assert_eq!(judged(&[(0, 16, 5), (4, 9, 10), (12, 5, 6)])[0], (18, 2, true));
    }
}
