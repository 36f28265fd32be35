//! The long table: how soon a cluster recovers from each fault, of many times.

use std::{
    collections::BTreeMap,
    fmt,
    fs::File,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{Recovery, Verdict};
use crate::checker::Clause;

/// So many recoveries of each kind make a row.
pub const RECOVERIES_MIN: usize = 10;

/// One line of the file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "line", rename_all = "kebab-case")]
enum Line {
    Recovery(Measured),
    Run(Judged),
}

/// A recovery that no other fault overlapped.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Measured {
    fault: String,
    seed: u64,
    what: String,
    /// Seconds; `None`: never.
    took: Option<f64>,
    /// Seconds.
    bound: f64,
}

/// What the checker found in a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Judged {
    fault: String,
    seed: u64,
    /// Jobs that exist.
    jobs: u64,
    /// Acknowledged jobs that are not there, and jobs that never became final.
    lost: u64,
    /// Executions of a job that an earlier one might have done.
    doubles: u64,
    /// Of those, executions that no lease that had ended explains.
    unexplained_doubles: u64,
    /// Whether everything was kept, reached, and in time.
    good: bool,
}

impl Judged {
    fn of(verdict: &Verdict) -> Self {
        let counts = &verdict.report.counts;
        let broken = |clause| verdict.report.broken.get(&clause).copied().unwrap_or_default();
        Self {
            fault: verdict.name.clone(),
            seed: verdict.seed,
            jobs: counts.jobs,
            lost: broken(Clause::C1) + broken(Clause::C3),
            doubles: counts.duplicates,
            unexplained_doubles: counts.duplicates.saturating_sub(counts.duplicates_explained),
            good: verdict.is_good(),
        }
    }
}

/// All recoveries so far, in a file of JSON lines that outlives the process.
#[derive(Debug)]
pub struct Table {
    file: File,
    recoveries: Vec<Measured>,
    runs: Vec<Judged>,
}

impl Table {
    /// Opens the file. If it is not to be resumed, what stands in it is forgotten.
    pub fn open(path: &Path, resume: bool) -> anyhow::Result<Self> {
        let file = File::options().create(true).append(true).read(true).open(path)?;
        if !resume {
            file.set_len(0)?;
        }
        let (mut recoveries, mut runs) = (Vec::new(), Vec::new());
        for line in BufReader::new(&file).lines() {
            match serde_json::from_str(&line?)? {
                Line::Recovery(recovery) => recoveries.push(recovery),
                Line::Run(run) => runs.push(run),
            }
        }
        Ok(Self { file, recoveries, runs })
    }

    /// How many recoveries of this fault there are; of each kind so many at least.
    pub fn recoveries(&self, fault: &str) -> usize {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for line in self.recoveries.iter().filter(|line| line.fault == fault) {
            *counts.entry(&line.what).or_default() += 1;
        }
        counts.values().copied().min().unwrap_or_default()
    }

    /// The seed for the next run: none is used twice.
    pub fn next_seed(&self, first: u64) -> u64 {
        self.runs.iter().map(|run| run.seed + 1).max().map_or(first, |next| next.max(first))
    }

    /// Writes down what came of a run. The recoveries of one that broke the contract, or did not heal, measure nothing.
    pub fn add(&mut self, verdict: &Verdict) -> anyhow::Result<()> {
        let counts = verdict.report.is_clean() && verdict.troubles.is_empty();
        let recoveries = verdict.recoveries.iter().filter(|recovery| counts && recovery.beside.is_empty());
        for Recovery { fault, what, took, bound, beside: _ } in recoveries {
            let recovery = Measured {
                fault: fault.name(),
                seed: verdict.seed,
                what: (*what).to_owned(),
                took: took.map(|took| took.as_secs_f64()),
                bound: bound.as_secs_f64(),
            };
            self.write(&Line::Recovery(recovery.clone()))?;
            self.recoveries.push(recovery);
        }
        let run = Judged::of(verdict);
        self.write(&Line::Run(run.clone()))?;
        self.runs.push(run);
        Ok(())
    }

    fn write(&mut self, line: &Line) -> anyhow::Result<()> {
        Ok(writeln!(self.file, "{}", serde_json::to_string(line)?)?)
    }
}

/// As Markdown.
impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rows: BTreeMap<(&str, &str), (Vec<f64>, f64)> = BTreeMap::new();
        for line in &self.recoveries {
            let row = rows.entry((&line.fault, &line.what)).or_default();
            row.0.push(line.took.unwrap_or(f64::INFINITY));
            row.1 = line.bound;
        }
        writeln!(f, "| fault | what is measured | n | median | worst | bound of C13 |\n|---|---|---|---|---|---|")?;
        for ((fault, what), (mut took, bound)) in rows {
            took.sort_by(f64::total_cmp);
            let (times, median, worst) = (took.len(), took[took.len() / 2], took[took.len() - 1]);
            let bound = Duration::from_secs_f64(bound);
            writeln!(f, "| `{fault}` | {what} | {times} | {median:.2} s | {worst:.2} s | {bound:?} |")?;
        }
        writeln!(
            f,
            "\n| fault | runs | good | jobs | lost | doubles | unexplained doubles |\n|---|---|---|---|---|---|---|"
        )?;
        let mut faults: BTreeMap<&str, Vec<&Judged>> = BTreeMap::new();
        for run in &self.runs {
            faults.entry(&run.fault).or_default().push(run);
        }
        for (fault, runs) in faults {
            let sum = |of: fn(&Judged) -> u64| runs.iter().map(|run| of(run)).sum::<u64>();
            let good = runs.iter().filter(|run| run.good).count();
            let (jobs, lost) = (sum(|run| run.jobs), sum(|run| run.lost));
            let (doubles, unexplained) = (sum(|run| run.doubles), sum(|run| run.unexplained_doubles));
            let runs = runs.len();
            writeln!(f, "| `{fault}` | {runs} | {good} | {jobs} | {lost} | {doubles} | {unexplained} |")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_that_is_resumed_goes_on_where_it_ended() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("table.jsonl");
        let fault = || "kill-worker".to_owned();
        let line = |what: &str, seed, took| {
            Line::Recovery(Measured { fault: fault(), seed, what: what.into(), took: Some(took), bound: 21.0 })
        };
        let run =
            Judged { fault: fault(), seed: 9, jobs: 100, lost: 1, doubles: 5, unexplained_doubles: 2, good: false };
        let lines = [line("a", 7, 1.0), line("b", 7, 4.0), line("a", 8, 3.0), line("a", 9, 2.0), Line::Run(run)];
        let text: Vec<String> = lines.iter().map(|line| serde_json::to_string(line).expect("JSON")).collect();
        std::fs::write(&path, text.join("\n") + "\n").expect("a file");
        let table = Table::open(&path, true).expect("a table");
        assert_eq!((table.recoveries("kill-worker"), table.recoveries("other")), (1, 0));
        assert_eq!((table.next_seed(1), table.next_seed(20)), (10, 20));
        assert!(table.to_string().contains("| `kill-worker` | a | 3 | 2.00 s | 3.00 s | 21s |"), "{table}");
        assert!(table.to_string().contains("| `kill-worker` | 1 | 0 | 100 | 1 | 5 | 2 |"), "{table}");
        let table = Table::open(&path, false).expect("a table");
        assert_eq!(table.recoveries("kill-worker"), 0);
    }
}
