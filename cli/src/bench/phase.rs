//! One stretch of a measurement, and a table of several.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::Serialize;

use super::times::Times;
use crate::output::{lines, table};

/// One stretch of work.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Phase {
    pub(crate) name: &'static str,
    pub(crate) jobs: usize,
    pub(crate) seconds: f64,
    pub(crate) jobs_per_second: f64,
    /// Commits of the owner; each is one statement.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) commits: Option<i64>,
    /// Statements of the broker of any kind, by its own count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) statements: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) jobs_per_commit: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) wal_bytes_per_job: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) fact_bytes_per_job: Option<f64>,
    /// The speed of the last fifth of its jobs, as a share of that of the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) last_fifth_to_first: Option<f64>,
    /// How long its calls took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) calls: Option<Times>,
    /// Memory of the owner at its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) owner_mib: Option<f64>,
    /// CPU time by process.
    pub(crate) cpu: BTreeMap<&'static str, Cpu>,
}

/// CPU time of one process or server.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Cpu {
    pub(crate) seconds: f64,
    pub(crate) us_per_job: f64,
}

impl Phase {
    pub(crate) fn new(name: &'static str, jobs: usize, took: Duration) -> Self {
        let seconds = took.as_secs_f64();
        Self { name, jobs, seconds, jobs_per_second: jobs as f64 / seconds, ..Self::default() }
    }

    pub(crate) fn cpu(&mut self, who: &'static str, before: Option<Duration>, after: Option<Duration>) {
        if let (Some(before), Some(after)) = (before, after) {
            let seconds = after.saturating_sub(before).as_secs_f64();
            self.cpu.insert(who, Cpu { seconds, us_per_job: seconds * 1e6 / self.jobs as f64 });
        }
    }

    pub(crate) fn per_job(&self, amount: i64) -> f64 {
        amount as f64 / self.jobs as f64
    }
}

/// A column for each phase, a row for each figure that any of them has.
pub(super) fn figures(phases: &[Phase]) -> String {
    let mut header = vec![""];
    header.extend(phases.iter().map(|phase| phase.name));
    let mut table = table(&header);
    let mut row = |name: &str, figure: &dyn Fn(&Phase) -> Option<String>| {
        let figures: Vec<_> = phases.iter().map(figure).collect();
        if figures.iter().any(Option::is_some) {
            let figures = figures.into_iter().map(|figure| figure.unwrap_or_else(|| "-".to_owned()));
            table.add_row(std::iter::once(name.to_owned()).chain(figures));
        }
    };
    row("jobs/s", &|phase| Some(format!("{:.0}", phase.jobs_per_second)));
    row("seconds", &|phase| Some(format!("{:.3}", phase.seconds)));
    row("last fifth to first", &|phase| phase.last_fifth_to_first.map(|share| format!("{share:.2}")));
    row("commits", &|phase| phase.commits.map(|commits| commits.to_string()));
    row("jobs per commit", &|phase| phase.jobs_per_commit.map(|jobs| format!("{jobs:.0}")));
    row("statements", &|phase| phase.statements.map(|statements| statements.to_string()));
    row("WAL bytes per job", &|phase| phase.wal_bytes_per_job.map(|bytes| format!("{bytes:.0}")));
    row("log bytes per job", &|phase| phase.fact_bytes_per_job.map(|bytes| format!("{bytes:.1}")));
    for (name, figure) in [
        ("p50", (|times| times.p50_ms) as fn(&Times) -> f64),
        ("p99", |times| times.p99_ms),
        ("p99.9", |times| times.p999_ms),
    ] {
        row(&format!("calls, {name}, ms"), &|phase| phase.calls.as_ref().map(|times| format!("{:.2}", figure(times))));
    }
    row("owner's memory, MiB", &|phase| phase.owner_mib.map(|mib| format!("{mib:.0}")));
    let everybody: BTreeSet<_> = phases.iter().flat_map(|phase| phase.cpu.keys()).collect();
    for who in everybody {
        row(&format!("CPU of {who}, s"), &|phase| phase.cpu.get(who).map(|cpu| format!("{:.2}", cpu.seconds)));
        row(&format!("CPU of {who}, us per job"), &|phase| {
            phase.cpu.get(who).map(|cpu| format!("{:.2}", cpu.us_per_job))
        });
    }
    lines(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_phase_has_a_column_and_missing_figures_a_dash() {
        let mut drain = Phase::new("drain", 1_000, Duration::from_millis(500));
        drain.cpu("broker", Some(Duration::from_secs(1)), Some(Duration::from_millis(1_002)));
        let bare = Phase { commits: Some(3), ..Phase::new("bare", 1_000, Duration::from_millis(250)) };
        let page = figures(&[drain, bare]);
        let row = |name: &str| page.lines().find(|line| line.trim_start().starts_with(name)).unwrap().to_owned();
        assert!(row("jobs/s").contains("2000") && row("jobs/s").contains("4000"), "{page}");
        assert!(row("commits").contains('-') && row("commits").contains('3'), "{page}");
        assert!(row("CPU of broker, us per job").contains("2.00"), "{page}");
        assert!(!page.contains("owner's memory"), "{page}");
    }
}
