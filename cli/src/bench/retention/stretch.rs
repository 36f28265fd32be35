//! One stretch of time: how long defers waited in it, and what it cost.

use std::time::Duration;

use serde::Serialize;

use crate::{
    bench::cell::Costs,
    output::{self, lines},
};

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
}

impl Stretch {
    pub(super) fn new(name: &'static str, took: Duration, defers_ms: Waits, before: &Costs, after: &Costs) -> Self {
        let cpu =
            |before: Option<Duration>, after: Option<Duration>| Some(after?.saturating_sub(before?).as_secs_f64());
        Self {
            name,
            seconds: took.as_secs_f64(),
            defers_ms,
            commits: before.reading.zip(after.reading).map(|(before, after)| after.log - before.log),
            statements: before.statements.zip(after.statements).map(|(before, after)| after.saturating_sub(before)),
            wal_bytes: before.reading.zip(after.reading).map(|(before, after)| after.wal - before.wal),
            postgresql_cpu_seconds: cpu(before.postgresql, after.postgresql),
            broker_cpu_seconds: cpu(before.broker, after.broker),
        }
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
