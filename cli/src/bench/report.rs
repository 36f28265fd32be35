//! What a measurement found, as a table or as JSON.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

use super::{database::Finals, runs::Tally};
use crate::output::{lines, table};

/// Everything that one run found.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) version: &'static str,
    /// Figures of a debug build say nothing about speed.
    pub(crate) optimized: bool,
    pub(crate) cores: usize,
    pub(crate) jobs: usize,
    pub(crate) args_bytes: usize,
    pub(crate) workers: usize,
    pub(crate) concurrency: usize,
    pub(crate) prefetch: usize,
    pub(crate) phases: Vec<Phase>,
    /// How much of the speed of bare statements the drain reached, 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) drain_to_bare: Option<f64>,
    pub(crate) tally: Tally,
    /// What the database says of the jobs at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) finals: Option<Finals>,
    /// How many jobs were shown as succeeded, where the database could not be asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) listed_succeeded: Option<usize>,
    pub(crate) settings: BTreeMap<String, String>,
}

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

impl Report {
    pub(crate) fn is_clean(&self) -> bool {
        let wanted = self.jobs as i64;
        self.tally.is_clean()
            && self.finals.is_none_or(|finals| finals == Finals { jobs: wanted, succeeded: wanted, surplus: 0 })
            && self.listed_succeeded.is_none_or(|succeeded| succeeded == self.jobs)
    }

    pub(crate) fn page(&self) -> String {
        let mut page = vec![self.head(), String::new(), self.figures(), String::new()];
        if let Some(ratio) = self.drain_to_bare {
            page.push(format!("the drain reached {:.0} % of the speed of its bare statements", ratio * 100.0));
        }
        let Tally { ran, lost, doubled, foreign, .. } = &self.tally;
        page.push(format!("{ran} handlers ran: {lost} jobs lost, {doubled} doubled, {foreign} foreign"));
        if let Some(Finals { jobs, succeeded, surplus }) = self.finals {
            page.push(format!("the database has {jobs} jobs, {succeeded} succeeded, {surplus} outcomes too many"));
        }
        if let Some(succeeded) = self.listed_succeeded {
            page.push(format!("the broker lists {succeeded} of {} jobs as succeeded", self.jobs));
        }
        let settings: Vec<_> = self.settings.iter().map(|(name, value)| format!("{name}={value}")).collect();
        if !settings.is_empty() {
            page.push(settings.join(" "));
        }
        page.join("\n")
    }

    fn head(&self) -> String {
        let Self { version, cores, jobs, args_bytes, workers, concurrency, prefetch, .. } = self;
        let build = if self.optimized { "" } else { " (a debug build: the figures mean nothing)" };
        format!(
            "cabbage {version}{build}, {cores} cores; {jobs} jobs of {args_bytes} bytes, {workers} worker processes \
             with {concurrency} handlers and {prefetch} jobs ahead each"
        )
    }

    /// A column for each phase, a row for each figure that any of them has.
    fn figures(&self) -> String {
        let mut header = vec![""];
        header.extend(self.phases.iter().map(|phase| phase.name));
        let mut table = table(&header);
        let mut row = |name: &str, figure: &dyn Fn(&Phase) -> Option<String>| {
            let figures: Vec<_> = self.phases.iter().map(figure).collect();
            if figures.iter().any(Option::is_some) {
                let figures = figures.into_iter().map(|figure| figure.unwrap_or_else(|| "-".to_owned()));
                table.add_row(std::iter::once(name.to_owned()).chain(figures));
            }
        };
        row("jobs/s", &|phase| Some(format!("{:.0}", phase.jobs_per_second)));
        row("seconds", &|phase| Some(format!("{:.3}", phase.seconds)));
        row("commits", &|phase| phase.commits.map(|commits| commits.to_string()));
        row("jobs per commit", &|phase| phase.jobs_per_commit.map(|jobs| format!("{jobs:.0}")));
        row("statements", &|phase| phase.statements.map(|statements| statements.to_string()));
        row("WAL bytes per job", &|phase| phase.wal_bytes_per_job.map(|bytes| format!("{bytes:.0}")));
        row("log bytes per job", &|phase| phase.fact_bytes_per_job.map(|bytes| format!("{bytes:.1}")));
        let everybody: std::collections::BTreeSet<_> = self.phases.iter().flat_map(|phase| phase.cpu.keys()).collect();
        for who in everybody {
            row(&format!("CPU of {who}, s"), &|phase| phase.cpu.get(who).map(|cpu| format!("{:.2}", cpu.seconds)));
            row(&format!("CPU of {who}, us per job"), &|phase| {
                phase.cpu.get(who).map(|cpu| format!("{:.2}", cpu.us_per_job))
            });
        }
        lines(table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let mut drain = Phase::new("drain", 1_000, Duration::from_millis(500));
        drain.cpu("broker", Some(Duration::from_secs(1)), Some(Duration::from_millis(1_002)));
        let bare = Phase { commits: Some(3), ..Phase::new("bare", 1_000, Duration::from_millis(250)) };
        Report {
            version: "0",
            optimized: true,
            cores: 2,
            jobs: 1_000,
            args_bytes: 100,
            workers: 2,
            concurrency: 10,
            prefetch: 10,
            phases: vec![drain, bare],
            drain_to_bare: Some(0.5),
            tally: Tally { ran: 1_000, ..Tally::default() },
            finals: Some(Finals { jobs: 1_000, succeeded: 1_000, surplus: 0 }),
            listed_succeeded: None,
            settings: BTreeMap::from([("fsync".to_owned(), "on".to_owned())]),
        }
    }

    #[test]
    fn each_phase_has_a_column_and_missing_figures_a_dash() {
        let page = report().page();
        let row = |name: &str| page.lines().find(|line| line.trim_start().starts_with(name)).unwrap().to_owned();
        assert!(row("jobs/s").contains("2000") && row("jobs/s").contains("4000"), "{page}");
        assert!(row("commits").contains('-') && row("commits").contains('3'), "{page}");
        assert!(row("CPU of broker, us per job").contains("2.00"), "{page}");
        assert!(page.contains("50 %") && page.contains("fsync=on"), "{page}");
    }

    #[test]
    fn anything_lost_or_too_much_is_not_clean() {
        assert!(report().is_clean());
        let surplus = Some(Finals { jobs: 1_000, succeeded: 1_000, surplus: 1 });
        assert!(!Report { finals: surplus, ..report() }.is_clean());
        assert!(!Report { tally: Tally { lost: 1, ..Tally::default() }, ..report() }.is_clean());
        assert!(!Report { listed_succeeded: Some(999), ..report() }.is_clean());
    }
}
