//! One stretch of time: how long defers waited in it, and what it cost.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::{
    blame::{self, Defer, Slow},
    witness::Look,
};
use crate::{
    bench::cell::Costs,
    output::{self, lines},
};

/// How many stalls of a stretch are shown one by one.
const STALLS_SHOWN: usize = 4;

/// How long defers took, in milliseconds.
#[derive(Debug, Default, Serialize)]
pub(super) struct Waits {
    count: usize,
    p50: f64,
    p99: f64,
    p999: f64,
    max: f64,
}

/// One stretch of time.
#[derive(Debug, Serialize)]
pub(super) struct Stretch {
    name: &'static str,
    seconds: f64,
    defers_ms: Waits,
    /// Defers that took longer than 20 ms, the slowest first.
    slow: Vec<Slow>,
    /// The longest time on end that commits waited for a lock of retention, as far as looks each 3 ms can tell.
    retention_lock_ms: f64,
    /// The longest time that commits waited for any lock, if it was 10 ms or more: by the server's log.
    logged_lock_ms: Option<f64>,
    /// How often it was looked.
    looks: usize,
    commits: Option<i64>,
    statements: Option<u64>,
    wal_bytes: Option<i64>,
    postgresql_cpu_seconds: Option<f64>,
    broker_cpu_seconds: Option<f64>,
}

impl Waits {
    pub(super) fn of(mut waits: Vec<Duration>) -> Self {
        waits.sort_unstable();
        let at = |part: f64| {
            let place = ((waits.len() as f64 * part) as usize).min(waits.len().saturating_sub(1));
            waits.get(place).map_or(0.0, |wait| wait.as_secs_f64() * 1e3)
        };
        Self { count: waits.len(), p50: at(0.5), p99: at(0.99), p999: at(0.999), max: at(1.0) }
    }

    /// All of it in a line.
    pub(super) fn line(&self) -> String {
        let Self { count, p50, p99, p999, max } = self;
        format!("{count} times, p50 {p50:.1}, p99 {p99:.1}, p99.9 {p999:.1}, max {max:.1} ms")
    }
}

/// What was seen in a stretch of time.
pub(super) struct Seen {
    pub(super) began: Instant,
    pub(super) took: Duration,
    pub(super) defers: Vec<Defer>,
    pub(super) looks: Vec<Look>,
    pub(super) logged_lock: Option<Duration>,
}

impl Stretch {
    pub(super) fn new(name: &'static str, seen: &Seen, before: &Costs, after: &Costs) -> Self {
        let cpu =
            |before: Option<Duration>, after: Option<Duration>| Some(after?.saturating_sub(before?).as_secs_f64());
        let Seen { began, took, defers, looks, logged_lock } = seen;
        Self {
            name,
            seconds: took.as_secs_f64(),
            defers_ms: Waits::of(defers.iter().map(|defer| defer.took).collect()),
            slow: blame::slow(*began, defers, looks),
            retention_lock_ms: blame::longest_lock(looks).as_secs_f64() * 1e3,
            logged_lock_ms: logged_lock.map(|wait| wait.as_secs_f64() * 1e3),
            looks: looks.len(),
            commits: before.reading.zip(after.reading).map(|(before, after)| after.log - before.log),
            statements: before.statements.zip(after.statements).map(|(before, after)| after.saturating_sub(before)),
            wal_bytes: before.reading.zip(after.reading).map(|(before, after)| after.wal - before.wal),
            postgresql_cpu_seconds: cpu(before.postgresql, after.postgresql),
            broker_cpu_seconds: cpu(before.broker, after.broker),
        }
    }

    /// What was waited for, for people.
    pub(super) fn causes(&self) -> String {
        let logged = self.logged_lock_ms.map_or("none of 10 ms or more".to_owned(), |ms| format!("{ms:.0} ms"));
        let mut lines = vec![format!(
            "{}: commits waited {:.0} ms at most for a lock of retention ({} looks), and for any lock by the server's \
             log: {logged}",
            self.name, self.retention_lock_ms, self.looks,
        )];
        if !self.slow.is_empty() {
            let causes = blame::by_cause(&self.slow).into_iter().map(|(cause, count)| format!("{count} {cause}"));
            let causes = causes.collect::<Vec<_>>().join("; ");
            lines.push(format!("  {} defers took longer than 20 ms: {causes}", self.slow.len()));
        }
        lines.extend(blame::stalls(&self.slow).into_iter().take(STALLS_SHOWN).map(|slow| {
            let beside = if slow.beside.is_empty() { "nothing".to_owned() } else { slow.beside.join(", ") };
            format!(
                "  {:.0} ms at {:.1} s: {}; beside it {beside}; somebody waited for a core {:.0} % of the time, for a \
                 disk {:.0} %",
                slow.ms, slow.at, slow.cause, slow.cpu_pressure, slow.disk_pressure
            )
        }));
        lines.join("\n")
    }
}

/// A row for each stretch.
pub(super) fn table(stretches: &[Stretch]) -> String {
    let mut table = output::table(&[
        "",
        "seconds",
        "defers",
        "p50 ms",
        "p99 ms",
        "p99.9 ms",
        "max ms",
        "> 20 ms",
        "retention's locks, ms",
        "commits",
        "statements",
        "WAL MiB",
        "CPU of postgresql, s",
        "of broker, s",
    ]);
    let known = |figure: Option<String>| figure.unwrap_or_else(|| "-".to_owned());
    for stretch in stretches {
        let Waits { count, p50, p99, p999, max } = &stretch.defers_ms;
        table.add_row([
            stretch.name.to_owned(),
            format!("{:.1}", stretch.seconds),
            count.to_string(),
            format!("{p50:.1}"),
            format!("{p99:.1}"),
            format!("{p999:.1}"),
            format!("{max:.1}"),
            stretch.slow.len().to_string(),
            format!("{:.0}", stretch.retention_lock_ms),
            known(stretch.commits.map(|commits| commits.to_string())),
            known(stretch.statements.map(|statements| statements.to_string())),
            known(stretch.wal_bytes.map(|bytes| format!("{:.1}", bytes as f64 / f64::from(1 << 20)))),
            known(stretch.postgresql_cpu_seconds.map(|seconds| format!("{seconds:.1}"))),
            known(stretch.broker_cpu_seconds.map(|seconds| format!("{seconds:.1}"))),
        ]);
    }
    lines(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_summed_up_by_their_order() {
        let waits = Waits::of((1..=1_000).rev().map(Duration::from_millis).collect());
        assert_eq!(waits.count, 1_000);
        let close = |found: f64, wanted: f64| (found - wanted).abs() < 1.5;
        assert!(close(waits.p50, 500.0) && close(waits.p99, 990.0) && close(waits.p999, 999.0), "{waits:?}");
        assert!(close(waits.max, 1_000.0), "{waits:?}");
        assert_eq!(Waits::of(Vec::new()).count, 0);
    }
}
