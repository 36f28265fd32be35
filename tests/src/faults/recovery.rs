//! How soon a cluster recovered, read from the history afterwards.

use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    time::Duration,
};

use cabbage_broker::core::{fact::Fact, job::Verdict};
use serde::Serialize;
use uuid::Uuid;

use super::{Fault, overlap::beside_each_other};
use crate::{
    cluster::Intervals,
    history::{ClientStep, History, LogRow, WorkerStep},
};

/// How late a sweep may be.
const SWEEP: Duration = Duration::from_secs(1);

/// How much longer a recovery may take while each message is late: a takeover takes dozens of them.
const SLOWER: Duration = Duration::from_secs(15);

/// How long Patroni may take to have another primary: the lease of the lost one is 20 s.
const PROMOTED: Duration = Duration::from_secs(40);

/// One fault that was done.
#[derive(Clone, Debug, Serialize)]
pub struct Injection {
    /// Which.
    pub fault: Fault,
    /// When it began, in microseconds since 1970.
    pub began: i64,
    /// From when its recovery counts, in microseconds since 1970: when it was done, or, where nothing can recover
    /// before it is undone, when that was.
    pub at: i64,
    /// The term in which it was done.
    pub term: u64,
    /// Meanwhile everything was late, so it may take longer.
    pub under_slow_cables: bool,
    /// To whom.
    pub process: String,
    /// The workers that were not harmed.
    pub workers: Vec<String>,
    /// The session of a worker that was harmed.
    pub session: Option<Uuid>,
    /// How long before that there was no primary, which is not for brokers to change.
    pub leaderless: Option<Duration>,
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
    /// How long it may take: by C13 for this fault alone, and until the last of those is recovered from that overlap it.
    pub bound: Duration,
    /// The faults that overlap it.
    pub beside: Vec<Fault>,
}

impl Recovery {
    fn alone(fault: Fault, what: &'static str, took: Option<Duration>, bound: Duration) -> Self {
        Self { fault, what, took, bound, beside: Vec::new() }
    }

    /// Whether it was soon enough.
    pub fn is_in_time(&self) -> bool {
        self.took.is_some_and(|took| took <= self.bound)
    }
}

impl fmt::Display for Recovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let took = self.took.map_or_else(|| "never".to_owned(), |took| format!("{:.3} s", took.as_secs_f64()));
        let mark = if self.is_in_time() { "" } else { "  TOO LATE" };
        write!(f, "{:<28}{:<34}{took:>10}  (at most {:.1} s){mark}", self.fault, self.what, self.bound.as_secs_f64())?;
        if !self.beside.is_empty() {
            let beside = self.beside.iter().map(|fault| fault.name());
            write!(f, "  beside {}", beside.collect::<Vec<_>>().join(", "))?;
        }
        Ok(())
    }
}

/// Measures the recoveries of all faults of a run. Each may take as long as C13 says for its fault, `times` as long where
/// the machine has other things to do; where others overlap it, it may take until they have to be recovered from.
pub(super) fn measure(injections: &[Injection], history: &History, intervals: Intervals, times: u32) -> Vec<Recovery> {
    let alone = injections.iter().map(|injection| {
        let slower = if injection.under_slow_cables { SLOWER } else { Duration::ZERO };
        let recoveries = measure_by_contract(injection, history, intervals).into_iter();
        let recoveries = recoveries.map(|recovery| Recovery { bound: recovery.bound * times + slower, ..recovery });
        (injection, recoveries.collect())
    });
    let promoted = injections.iter().filter_map(|injection| promoted(injection, times));
    promoted.chain(beside_each_other(alone.collect())).collect()
}

/// How soon another server was the primary. That is over when the recoveries of the brokers begin to count.
fn promoted(injection: &Injection, times: u32) -> Option<Recovery> {
    let took = injection.leaderless?;
    Some(Recovery::alone(injection.fault, "another server is the primary", Some(took), PROMOTED * times))
}

fn measure_by_contract(injection: &Injection, history: &History, intervals: Intervals) -> Vec<Recovery> {
    let seconds = Duration::from_secs;
    let recovery = |what, took, bound| Recovery::alone(injection.fault, what, took, bound);
    let (owned, started, resumed) = match injection.fault {
        Fault::KillBrokerRestart
        | Fault::KillBrokerStandby
        | Fault::OldTransactions
        | Fault::WrongClocks
        | Fault::CutDatabase
        | Fault::LoseRepliesDatabase => (seconds(3), seconds(5), seconds(5)),
        // Those of a primary count from when there is one again.
        Fault::StopBroker
        | Fault::HalfOpenDatabase
        | Fault::HoldDatabase
        | Fault::StopPrimary
        | Fault::AbandonPrimary => (seconds(10), seconds(15), seconds(15)),
        // C13 names no time for the streams of workers; they had none to go to until the cell was owned again.
        Fault::RestartPostgres | Fault::RestartPostgresImmediate | Fault::SwitchOver | Fault::KillPrimary => {
            (seconds(5), seconds(5), seconds(10))
        }
        Fault::KillWorker => return given_back(injection, history, intervals.grace + SWEEP),
        Fault::StopWorker => return given_back(injection, history, intervals.session + SWEEP),
        // C13 speaks of owners that were cut off; workers that were get the same times.
        Fault::CutWorker | Fault::LoseRepliesWorker => return vec![welcomed(injection, history, seconds(5))],
        Fault::HalfOpenWorker => return vec![welcomed(injection, history, seconds(15))],
        // C13 names neither links nor relays.
        Fault::CutLink | Fault::LoseRepliesLink | Fault::KillRelay => {
            return relayed(injection, history, seconds(5));
        }
        Fault::HalfOpenLink | Fault::StopRelay => return relayed(injection, history, seconds(15)),
        Fault::CutClient | Fault::LoseRepliesClient | Fault::CutRelayDatabase => {
            return vec![answered(injection, history, seconds(5))];
        }
        Fault::HalfOpenClient | Fault::SlowCables => return vec![answered(injection, history, seconds(15))],
        Fault::EndSessions | Fault::UseUpConnections | Fault::FillDisk | Fault::LockTables => {
            return written(injection, history, seconds(5));
        }
    };
    let takeover = Takeover::after(injection, history);
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
    fn after(injection: &Injection, history: &History) -> Self {
        let mut rows = history.database.log.iter().filter(|row| row.term > injection.term);
        let first = rows.clone().next();
        let start = rows.find(|row| starts(row));
        let took = |row: Option<&LogRow>| row.and_then(|row| since(row.at.0.max(injection.at), injection.at));
        Self { term: first.map(|row| row.term), first_write: took(first), first_start: took(start) }
    }

    /// When the last of the unharmed workers had a stream to the new owner.
    fn resumed(&self, injection: &Injection, history: &History) -> Option<Duration> {
        last_welcome(injection, history, self.term?)
    }
}

/// When the last of the unharmed workers had a stream again, to the owner of this term or of a later one.
fn last_welcome(injection: &Injection, history: &History, term: u64) -> Option<Duration> {
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

/// When whoever reached relays only was served again.
fn relayed(injection: &Injection, history: &History, bound: Duration) -> Vec<Recovery> {
    let welcome = last_welcome(injection, history, injection.term);
    vec![
        Recovery::alone(injection.fault, "last worker welcome again", welcome, bound),
        answered(injection, history, bound),
    ]
}

fn starts(row: &LogRow) -> bool {
    row.facts.iter().any(|fact| matches!(fact, Fact::Started { .. }))
}

/// When something was written again, by whatever term.
fn written(injection: &Injection, history: &History, bound: Duration) -> Vec<Recovery> {
    let mut rows = history.database.log.iter().filter(|row| row.at.0 > injection.at);
    let first = rows.clone().next().and_then(|row| since(row.at.0, injection.at));
    let start = rows.find(|row| starts(row)).and_then(|row| since(row.at.0, injection.at));
    let recovery = |what, took| Recovery::alone(injection.fault, what, took, bound);
    vec![recovery("first write", first), recovery("first start", start)]
}

/// When the harmed worker had a stream again.
fn welcomed(injection: &Injection, history: &History, bound: Duration) -> Recovery {
    let own = history.workers.iter().filter(|event| event.stamp.process == injection.process);
    let welcomes = own.filter(|event| matches!(event.step, WorkerStep::Welcome { .. })).map(|event| event.stamp.wall);
    let took = welcomes.filter(|at| *at > injection.at).min().and_then(|at| since(at, injection.at));
    Recovery::alone(injection.fault, "the worker welcome again", took, bound)
}

/// When the harmed client was answered again.
fn answered(injection: &Injection, history: &History, bound: Duration) -> Recovery {
    let own = history.clients.iter().filter(|event| event.stamp.process == injection.process);
    let answers = own.filter(|event| matches!(event.step, ClientStep::Deferred { .. })).map(|event| event.stamp.wall);
    let took = answers.filter(|at| *at > injection.at).min().and_then(|at| since(at, injection.at));
    Recovery::alone(injection.fault, "the client answered again", took, bound)
}

/// When the jobs of a lost worker had their end, however it came, and when those that go on were given out again.
fn given_back(injection: &Injection, history: &History, bound: Duration) -> Vec<Recovery> {
    let mut number = None;
    let mut open: HashSet<i64> = HashSet::new();
    let mut last_end = None;
    let mut lost: HashSet<i64> = HashSet::new();
    let mut first_again = None;
    for row in &history.database.log {
        for fact in &row.facts {
            match fact {
                Fact::SessionOpened { no, id, .. } if Some(*id) == injection.session => number = Some(*no),
                Fact::Started { id, session, .. } => {
                    if Some(*session) == number {
                        open.insert(id.0);
                    } else if lost.contains(&id.0) {
                        first_again.get_or_insert(row.at.0);
                    }
                }
                Fact::Finished { id, .. } if open.remove(&id.0) && row.at.0 > injection.at => {
                    last_end = Some(row.at.0);
                }
                Fact::Returned { id, verdict, .. } if open.remove(&id.0) && row.at.0 > injection.at => {
                    last_end = Some(row.at.0);
                    // What the worker itself sent back may wait for as long as its policy says.
                    if matches!(verdict, Verdict::Crashed | Verdict::Released) {
                        lost.insert(id.0);
                    }
                }
                _ => {}
            }
        }
    }
    let took = |at: Option<i64>| at.and_then(|at| since(at, injection.at));
    let ended = took(last_end.filter(|_| open.is_empty()));
    let mut recoveries = vec![Recovery::alone(injection.fault, "last lost delivery ended", ended, bound)];
    // Those that are cancelled, or have crashed too often, are over.
    if !lost.is_empty() {
        let what = "first lost job given out again";
        recoveries.push(Recovery::alone(injection.fault, what, took(first_again), bound + SWEEP));
    }
    recoveries
}

fn since(at: i64, earlier: i64) -> Option<Duration> {
    u64::try_from(at - earlier).ok().map(Duration::from_micros)
}
