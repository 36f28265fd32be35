//! How soon a cluster recovered, read from the history afterwards.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
    time::Duration,
};

use cabbage_broker::core::fact::Fact;
use serde::Serialize;
use uuid::Uuid;

use super::Fault;
use crate::{
    cluster::Intervals,
    history::{History, WorkerStep},
};

/// How late a sweep may be.
const SWEEP: Duration = Duration::from_secs(1);

/// One fault that was done.
#[derive(Clone, Debug, Serialize)]
pub struct Injection {
    /// Which.
    pub fault: Fault,
    /// When, in microseconds since 1970. Of a crash of the database: when it was back.
    pub at: i64,
    /// To whom.
    pub process: String,
    /// The workers that were not harmed.
    pub workers: Vec<String>,
    /// The session of a worker that was harmed.
    pub session: Option<Uuid>,
}

/// One recovery, and how soon it must be.
#[derive(Clone, Debug, Serialize)]
pub struct Recovery {
    /// The fault.
    pub fault: Fault,
    /// What recovered.
    pub what: &'static str,
    /// How long it took; `None`: it never did.
    pub took: Option<Duration>,
    /// How long it may take (C13).
    pub bound: Duration,
}

impl Recovery {
    /// Whether it was soon enough.
    pub fn is_in_time(&self) -> bool {
        self.took.is_some_and(|took| took <= self.bound)
    }
}

impl fmt::Display for Recovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let took = self.took.map_or_else(|| "never".to_owned(), |took| format!("{:.3} s", took.as_secs_f64()));
        let mark = if self.is_in_time() { "" } else { "  TOO LATE" };
        write!(f, "{:<28}{:<34}{took:>10}  (at most {:.1} s){mark}", self.fault, self.what, self.bound.as_secs_f64())
    }
}

/// Measures the recoveries of one fault.
pub(super) fn measure(injection: &Injection, history: &History, intervals: Intervals) -> Vec<Recovery> {
    let seconds = Duration::from_secs;
    let recovery = |what, took, bound| Recovery { fault: injection.fault, what, took, bound };
    let (owned, started, resumed) = match injection.fault {
        Fault::KillBrokerRestart | Fault::KillBrokerStandby => (seconds(3), seconds(5), seconds(5)),
        Fault::StopBroker => (seconds(10), seconds(15), seconds(15)),
        // C13 names no time for the streams of workers; they had none to go to until the cell was owned again.
        Fault::RestartPostgresImmediate => (seconds(5), seconds(5), seconds(10)),
        Fault::KillWorker => return given_back(injection, history, intervals.grace + SWEEP),
        Fault::StopWorker => return given_back(injection, history, intervals.session + SWEEP),
    };
    let takeover = Takeover::after(injection.at, history);
    vec![
        recovery("first write of the next term", takeover.first_write, owned),
        recovery("first start of the next term", takeover.first_start, started),
        recovery("last worker welcome again", takeover.resumed(injection, history), resumed),
    ]
}

/// The term after a fault.
struct Takeover {
    term: Option<u64>,
    first_write: Option<Duration>,
    first_start: Option<Duration>,
}

impl Takeover {
    fn after(at: i64, history: &History) -> Self {
        let log = &history.database.log;
        let before = log.iter().rev().find(|row| row.at.0 <= at).map_or(0, |row| row.term);
        let mut rows = log.iter().filter(|row| row.at.0 > at && row.term > before);
        let first = rows.clone().next();
        let start = rows.find(|row| row.facts.iter().any(|fact| matches!(fact, Fact::Started { .. })));
        Self {
            term: first.map(|row| row.term),
            first_write: first.and_then(|row| since(row.at.0, at)),
            first_start: start.and_then(|row| since(row.at.0, at)),
        }
    }

    /// When the last of the unharmed workers had a stream to the new owner.
    fn resumed(&self, injection: &Injection, history: &History) -> Option<Duration> {
        let term = self.term?;
        let mut welcomes: BTreeMap<&str, i64> = BTreeMap::new();
        for event in &history.workers {
            if let WorkerStep::Welcome { term: of, .. } = event.step
                && of >= term
                && event.stamp.wall > injection.at
            {
                welcomes.entry(&event.stamp.process).or_insert(event.stamp.wall);
            }
        }
        let last = injection.workers.iter().map(|worker| welcomes.get(worker.as_str()).copied()).max_by_key(|at| {
            // Whoever never came back is the last.
            at.unwrap_or(i64::MAX)
        });
        since(last??, injection.at)
    }
}

/// When the jobs of a lost worker had their end, and when they ran again.
fn given_back(injection: &Injection, history: &History, bound: Duration) -> Vec<Recovery> {
    let mut number = None;
    let mut open: HashSet<i64> = HashSet::new();
    let mut ends: HashMap<i64, i64> = HashMap::new();
    let mut again: HashMap<i64, i64> = HashMap::new();
    for row in &history.database.log {
        for fact in &row.facts {
            match fact {
                Fact::SessionOpened { no, id, .. } if Some(*id) == injection.session => number = Some(*no),
                Fact::Started { id, session, .. } => {
                    if Some(*session) == number {
                        open.insert(id.0);
                    } else if ends.contains_key(&id.0) {
                        again.entry(id.0).or_insert(row.at.0);
                    }
                }
                Fact::Finished { id, .. } | Fact::Returned { id, .. } => {
                    let was_open = open.remove(&id.0);
                    if was_open && row.at.0 > injection.at {
                        ends.insert(id.0, row.at.0);
                    }
                }
                _ => {}
            }
        }
    }
    let last = |times: &HashMap<i64, i64>| times.values().copied().max().and_then(|at| since(at, injection.at));
    let recovery = |what, took, bound| Recovery { fault: injection.fault, what, took, bound };
    vec![
        recovery("last lost delivery ended", if open.is_empty() { last(&ends) } else { None }, bound),
        recovery(
            "first lost job given out again",
            again.values().copied().min().and_then(|at| since(at, injection.at)),
            bound + SWEEP,
        ),
    ]
}

fn since(at: i64, earlier: i64) -> Option<Duration> {
    u64::try_from(at - earlier).ok().map(Duration::from_micros)
}
