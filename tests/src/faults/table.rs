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

/// So many recoveries of each kind make a row.
pub const RECOVERIES_MIN: usize = 10;

/// One line of the file: a recovery of a run that was judged good in all else.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Line {
    fault: String,
    seed: u64,
    what: String,
    /// Seconds; `None`: never.
    took: Option<f64>,
    /// Seconds.
    bound: f64,
}

/// All recoveries so far, in a file of JSON lines that outlives the process.
#[derive(Debug)]
pub struct Table {
    file: File,
    lines: Vec<Line>,
}

impl Table {
    /// Opens the file. If it is not to be resumed, what stands in it is forgotten.
    pub fn open(path: &Path, resume: bool) -> anyhow::Result<Self> {
        let file = File::options().create(true).append(true).read(true).open(path)?;
        if !resume {
            file.set_len(0)?;
        }
        let mut lines = Vec::new();
        for line in BufReader::new(&file).lines() {
            lines.push(serde_json::from_str(&line?)?);
        }
        Ok(Self { file, lines })
    }

    /// How many recoveries of this fault there are; of each kind so many at least.
    pub fn recoveries(&self, fault: &str) -> usize {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for line in self.lines.iter().filter(|line| line.fault == fault) {
            *counts.entry(&line.what).or_default() += 1;
        }
        counts.values().copied().min().unwrap_or_default()
    }

    /// The seed for the next run: none is used twice.
    pub fn next_seed(&self, first: u64) -> u64 {
        self.lines.iter().map(|line| line.seed + 1).max().map_or(first, |next| next.max(first))
    }

    /// Writes down what came of a run.
    pub fn add(&mut self, verdict: &Verdict) -> anyhow::Result<()> {
        for recovery in &verdict.recoveries {
            let Recovery { fault, what, took, bound } = recovery;
            let line = Line {
                fault: fault.name(),
                seed: verdict.seed,
                what: (*what).to_owned(),
                took: took.map(|took| took.as_secs_f64()),
                bound: bound.as_secs_f64(),
            };
            writeln!(self.file, "{}", serde_json::to_string(&line)?)?;
            self.lines.push(line);
        }
        Ok(())
    }
}

/// As Markdown.
impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rows: BTreeMap<(&str, &str), (Vec<f64>, f64)> = BTreeMap::new();
        for line in &self.lines {
            let row = rows.entry((&line.fault, &line.what)).or_default();
            row.0.push(line.took.unwrap_or(f64::INFINITY));
            row.1 = line.bound;
        }
        writeln!(f, "| fault | what recovers | times | median | worst | allowed |\n|---|---|---|---|---|---|")?;
        for ((fault, what), (mut took, bound)) in rows {
            took.sort_by(f64::total_cmp);
            let (times, median, worst) = (took.len(), took[took.len() / 2], took[took.len() - 1]);
            let bound = Duration::from_secs_f64(bound);
            writeln!(f, "| `{fault}` | {what} | {times} | {median:.2} s | {worst:.2} s | {bound:?} |")?;
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
        let line = |what: &str, seed, took| Line {
            fault: "kill-worker".into(),
            seed,
            what: what.into(),
            took: Some(took),
            bound: 21.0,
        };
        let lines = [line("a", 7, 1.0), line("b", 7, 4.0), line("a", 8, 3.0), line("a", 9, 2.0)];
        let text: Vec<String> = lines.iter().map(|line| serde_json::to_string(line).expect("JSON")).collect();
        std::fs::write(&path, text.join("\n") + "\n").expect("a file");
        let table = Table::open(&path, true).expect("a table");
        assert_eq!((table.recoveries("kill-worker"), table.recoveries("other")), (1, 0));
        assert_eq!((table.next_seed(1), table.next_seed(20)), (10, 20));
        assert!(table.to_string().contains("| `kill-worker` | a | 3 | 2.00 s | 3.00 s | 21s |"), "{table}");
        let table = Table::open(&path, false).expect("a table");
        assert_eq!(table.recoveries("kill-worker"), 0);
    }
}
