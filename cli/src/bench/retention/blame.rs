//! What a defer that took long waited for.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    time::{Duration, Instant},
};

use serde::Serialize;

use super::witness::{Doing, Look};

/// What a defer may take because of retention.
pub(super) const LONG: Duration = Duration::from_millis(20);

/// One defer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Defer {
    pub(super) start: Instant,
    pub(super) took: Duration,
}

/// A defer that took longer than [`LONG`], and what most of its time went by with.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Slow {
    /// When it was sent, in seconds since the stretch began.
    pub(super) at: f64,
    pub(super) ms: f64,
    pub(super) cause: String,
    /// Of that, in milliseconds, on the locks of retention.
    pub(super) locked_ms: f64,
    /// What else the server was at.
    pub(super) beside: Vec<String>,
    /// For how much of the time something on the machine waited for a core, and for a disk, in percent.
    pub(super) cpu_pressure: f64,
    pub(super) disk_pressure: f64,
}

/// The slow ones among these defers, the slowest first.
pub(super) fn slow(began: Instant, defers: &[Defer], looks: &[Look]) -> Vec<Slow> {
    let slow = defers.iter().filter(|defer| defer.took > LONG);
    let mut slow: Vec<_> = slow.map(|defer| judge(began, defer, looks)).collect();
    slow.sort_by(|one, other| other.ms.total_cmp(&one.ms));
    slow
}

/// How many were put down to each cause, the most frequent first.
pub(super) fn by_cause(slow: &[Slow]) -> Vec<(&str, usize)> {
    let mut causes: BTreeMap<&str, usize> = BTreeMap::new();
    for slow in slow {
        *causes.entry(&slow.cause).or_default() += 1;
    }
    let mut causes: Vec<_> = causes.into_iter().collect();
    causes.sort_by_key(|(_, count)| Reverse(*count));
    causes
}

/// The slowest of each stall: callers that waited at the same time waited for the same.
pub(super) fn stalls(slow: &[Slow]) -> Vec<&Slow> {
    let mut stalls: Vec<&Slow> = Vec::new();
    for slow in slow {
        let overlaps = |other: &Slow| slow.at < other.end() && other.at < slow.end();
        if !stalls.iter().any(|other| overlaps(other)) {
            stalls.push(slow);
        }
    }
    stalls
}

impl Slow {
    fn end(&self) -> f64 {
        self.at + self.ms / 1e3
    }
}

/// The longest time on end that commits waited for a lock that retention held, as far as looks can tell.
pub(super) fn longest_lock(looks: &[Look]) -> Duration {
    let (mut longest, mut since) = (Duration::ZERO, None);
    for look in looks {
        if matches!(look.doing, Doing::Locked { of_retention: true, .. }) {
            let since = *since.get_or_insert(look.at);
            longest = longest.max(look.at - since);
        } else if let Some(since) = since.take() {
            longest = longest.max(look.at - since);
        }
    }
    longest
}

/// Each look stands for the time since the one before. A gap as long as what is to be explained is one in which nobody
/// got to work, the looks neither.
fn judge(began: Instant, defer: &Defer, looks: &[Look]) -> Slow {
    let end = defer.start + defer.took;
    let first = looks.partition_point(|look| look.at <= defer.start);
    let last = looks.partition_point(|look| look.at < end);
    let mut causes: BTreeMap<String, Duration> = BTreeMap::new();
    let (mut beside, mut locked) = (Vec::new(), Duration::ZERO);
    let mut before = defer.start;
    let mut starved = first.checked_sub(1).map_or_else(Default::default, |at| looks[at].starved);
    for look in looks.iter().skip(first).take(last + 1 - first) {
        let time = look.at.min(end) - before;
        before = look.at.min(end);
        let without_core = |now: Duration, before: Duration| now.saturating_sub(before) >= time / 2 && !time.is_zero();
        let broker_starves = without_core(look.starved.broker, starved.broker);
        let caller_starves = without_core(look.starved.ours, starved.ours);
        let writer_starves = without_core(look.starved.writer, starved.writer);
        starved = look.starved;
        let cause = match &look.doing {
            Doing::Locked { by, of_retention } => {
                if *of_retention {
                    locked += time;
                }
                format!("a lock of {by}")
            }
            _ if time >= LONG => "nobody got to work".to_owned(),
            Doing::Waiting(event) => format!("PostgreSQL: {event}"),
            Doing::Working if writer_starves => "PostgreSQL waited for a core".to_owned(),
            Doing::Working => "PostgreSQL at work on a commit".to_owned(),
            Doing::Nothing if broker_starves => "the broker waited for a core".to_owned(),
            Doing::Nothing if caller_starves => "the caller waited for a core".to_owned(),
            Doing::Nothing => "no commit under way".to_owned(),
        };
        *causes.entry(cause).or_default() += time;
        beside.extend(look.beside.iter().filter(|name| !beside.contains(*name)).cloned().collect::<Vec<_>>());
    }
    let cause = causes.into_iter().max_by_key(|(_, time)| *time).map_or("not seen".to_owned(), |(cause, _)| cause);
    // From the look before to the one after, which is longer than the defer.
    let (from, to) = (looks.get(first.saturating_sub(1)), looks.get(last).or(looks.last()));
    let pressure = |of: fn(&Look) -> Duration| match (from, to) {
        (Some(from), Some(to)) if to.at > from.at => {
            let waited = of(to).saturating_sub(of(from));
            (100.0 * waited.as_secs_f64() / (to.at - from.at).as_secs_f64()).min(100.0)
        }
        _ => 0.0,
    };
    beside.sort_unstable();
    Slow {
        at: (defer.start - began).as_secs_f64(),
        ms: defer.took.as_secs_f64() * 1e3,
        cause,
        locked_ms: locked.as_secs_f64() * 1e3,
        beside,
        cpu_pressure: pressure(|look| look.pressure.cpu),
        disk_pressure: pressure(|look| look.pressure.disk),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::retention::{pressure::Pressure, witness::Starved};

    fn looks(doing: &[(u64, Doing)]) -> (Instant, Vec<Look>) {
        let start = Instant::now();
        let look = |(ms, doing): &(u64, Doing)| Look {
            at: start + Duration::from_millis(*ms),
            doing: doing.clone(),
            beside: vec!["checkpointer".to_owned()],
            starved: Starved {
                ours: Duration::ZERO,
                broker: Duration::from_millis(if *ms == 10 { 10 } else { 0 }),
                writer: Duration::ZERO,
            },
            pressure: Pressure { cpu: Duration::from_millis(ms / 2), disk: Duration::ZERO },
        };
        (start, doing.iter().map(look).collect())
    }

    #[test]
    fn a_slow_defer_is_put_down_to_what_most_of_its_time_went_by_with() {
        let lock = Doing::Locked { by: "detach".to_owned(), of_retention: true };
        let sync = Doing::Waiting("IO WALSync".to_owned());
        let (start, looks) = looks(&[
            (0, Doing::Nothing),
            (10, sync.clone()),
            (20, lock.clone()),
            (30, lock.clone()),
            (40, lock),
            (50, sync),
            (120, Doing::Working),
        ]);
        let at = |from, took| Defer { start: start + Duration::from_millis(from), took: Duration::from_millis(took) };
        let slow = slow(start, &[at(5, 15), at(5, 40), at(6, 38), at(55, 60)], &looks);
        let causes: Vec<_> = slow.iter().map(|slow| (slow.ms.round(), slow.cause.as_str())).collect();
        assert_eq!(causes, [(60.0, "nobody got to work"), (40.0, "a lock of detach"), (38.0, "a lock of detach")]);
        assert_eq!(by_cause(&slow), [("a lock of detach", 2), ("nobody got to work", 1)]);
        assert_eq!(stalls(&slow), [&slow[0], &slow[1]]);
        assert!((slow[1].locked_ms - 30.0).abs() < 0.1, "{slow:?}");
        assert!((slow[1].cpu_pressure - 50.0).abs() < 5.0 && slow[1].disk_pressure < 0.1, "{slow:?}");
        assert_eq!(slow[1].beside, ["checkpointer"]);
        assert_eq!(longest_lock(&looks), Duration::from_millis(30));
    }
}
