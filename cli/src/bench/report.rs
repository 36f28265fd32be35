//! What a measurement of stretches of work found, as a table or as JSON.

use serde::Serialize;

use super::{
    about::About,
    database::Finals,
    fleet::FleetArgs,
    phase::{Phase, figures},
    runs::Tally,
};
use crate::{
    exit::{Exit, Failure, Outcome},
    output::OutputArgs,
};

/// Everything that one run found.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    #[serde(flatten)]
    pub(super) about: About,
    /// What was done, for people.
    pub(super) workload: String,
    pub(super) args_bytes: usize,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub(super) fleet: Option<FleetArgs>,
    pub(super) phases: Vec<Phase>,
    pub(super) ratios: Vec<Ratio>,
    pub(super) checks: Vec<Check>,
}

/// How much of the speed of one phase another one reached, 0 to 1.
#[derive(Debug, Serialize)]
pub(super) struct Ratio {
    pub(super) of: &'static str,
    pub(super) to: &'static str,
    pub(super) share: f64,
}

/// What became of the jobs of one queue.
#[derive(Debug, Serialize)]
pub(super) struct Check {
    pub(super) jobs: usize,
    /// Whether they were to run.
    pub(super) drained: bool,
    /// What the workers ran.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tally: Option<Tally>,
    /// What the database says at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) finals: Option<Finals>,
    /// How many jobs the broker shows as it should, where the database could not be asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) listed: Option<usize>,
}

impl Ratio {
    /// Of two phases, both by their places.
    pub(super) fn of(phases: &[Phase], of: usize, to: usize) -> Self {
        let (of, to) = (&phases[of], &phases[to]);
        Self { of: of.name, to: to.name, share: of.jobs_per_second / to.jobs_per_second }
    }
}

impl Check {
    pub(super) fn is_clean(&self) -> bool {
        let wanted = self.jobs as i64;
        let finals = Finals { jobs: wanted, succeeded: if self.drained { wanted } else { 0 }, surplus: 0, returned: 0 };
        self.tally.as_ref().is_none_or(Tally::is_clean)
            && self.finals.is_none_or(|found| found == finals)
            && self.listed.is_none_or(|listed| listed == self.jobs)
    }

    pub(super) fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if let Some(Tally { ran, lost, doubled, foreign, .. }) = &self.tally {
            lines.push(format!("{ran} handlers ran: {lost} jobs lost, {doubled} doubled, {foreign} foreign"));
        }
        if let Some(Finals { jobs, succeeded, surplus, .. }) = self.finals {
            lines.push(format!(
                "the database has {jobs} of {} jobs, {succeeded} succeeded, {surplus} outcomes too many",
                self.jobs
            ));
        }
        if let Some(listed) = self.listed {
            let state = if self.drained { "succeeded" } else { "waiting" };
            lines.push(format!("the broker lists {listed} of {} jobs as {state}", self.jobs));
        }
        lines
    }
}

impl Report {
    /// Prints it. Jobs that are lost, doubled, or not there are a failure.
    pub(super) fn conclude(&self, output: OutputArgs) -> Outcome {
        output.print(|| self.page(), self)?;
        if self.checks.iter().all(Check::is_clean) {
            return Ok(());
        }
        Err(Failure::new(Exit::Failure, "not every job is there, and ran and succeeded exactly once"))
    }

    fn page(&self) -> String {
        let fleet = self.fleet.map_or(String::new(), |FleetArgs { workers, concurrency, prefetch }| {
            format!(", {workers} worker processes with {concurrency} handlers and {prefetch} jobs ahead each")
        });
        let mut page = vec![self.about.head(format_args!("{}{fleet}", self.workload))];
        page.extend([String::new(), figures(&self.phases), String::new()]);
        for Ratio { of, to, share } in &self.ratios {
            page.push(format!("{of} reached {:.0} % of the speed of {to}", share * 100.0));
        }
        page.extend(self.checks.iter().flat_map(Check::lines));
        page.extend(self.about.settings());
        page.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn check() -> Check {
        let finals = Finals { jobs: 1_000, succeeded: 1_000, surplus: 0, returned: 0 };
        let tally = Tally { ran: 1_000, ..Tally::default() };
        Check { jobs: 1_000, drained: true, tally: Some(tally), finals: Some(finals), listed: None }
    }

    #[test]
    fn the_page_has_ratios_checks_and_what_the_figures_were_made_on() {
        let phases = vec![
            Phase::new("drain", 1_000, Duration::from_millis(500)),
            Phase::new("bare", 1_000, Duration::from_millis(250)),
        ];
        let ratios = vec![Ratio::of(&phases, 0, 1)];
        let fleet = Some(FleetArgs { workers: 2, concurrency: 10, prefetch: 20 });
        let workload = "1000 jobs of 100 bytes".to_owned();
        let checks = vec![check()];
        let report = Report { about: About::for_test(), workload, args_bytes: 100, fleet, phases, ratios, checks };
        let page = report.page();
        for part in ["1000 jobs of 100 bytes, 2 worker", "drain reached 50 %", "0 jobs lost", "fsync=on"] {
            assert!(page.contains(part), "{part} in {page}");
        }
    }

    #[test]
    fn anything_lost_or_too_much_is_not_clean() {
        assert!(check().is_clean());
        let surplus = Some(Finals { jobs: 1_000, succeeded: 1_000, surplus: 1, returned: 0 });
        assert!(!Check { finals: surplus, ..check() }.is_clean());
        assert!(!Check { tally: Some(Tally { lost: 1, ..Tally::default() }), ..check() }.is_clean());
        assert!(!Check { listed: Some(999), ..check() }.is_clean());
        assert!(!Check { drained: false, ..check() }.is_clean(), "it ran, and was to wait");
    }
}
