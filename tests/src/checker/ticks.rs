//! Whether each tick of each schedule was decided once, as its rule has it (C12).
//!
//! Which instants are ticks is computed here again, for schedules that tick each second or every few: of others only
//! the order is known.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use cabbage_broker::core::{
    fact::Fact,
    schedule::{MissedTicks, Schedule, TickOutcome},
    types::Timestamp,
};

use super::{
    Rules,
    counts::Counts,
    ledger::Ledger,
    violation::{Clause, Findings},
};
use crate::history::{Asked, ClientEvent, ClientStep, Database, History, LogRow};

const SECOND_MICROS: i64 = 1_000_000;

/// Of missed ticks that are all to be deferred, so many at most (C12).
const MISSED_MAX: i64 = 1_000;

/// A tick that has come is decided within so many rows of the log: more than it takes to find a culprit in a batch that
/// was refused, a half at a time.
const ROWS_MAX: u64 = 400;

pub(super) fn check(history: &History, ledger: &Ledger, rules: Rules, findings: &mut Findings, counts: &mut Counts) {
    let log = &history.database.log;
    let mut ticks = Ticks { rules, ledger, log, lines: HashMap::new(), deferred: HashMap::new() };
    for (place, row) in log.iter().enumerate() {
        for fact in &row.facts {
            ticks.fold(place, row, fact, findings, counts);
        }
    }
    if let Some(last) = log.len().checked_sub(1) {
        for (name, line) in ticks.lines.iter().filter(|(_, line)| !line.paused && !line.deleted) {
            ticks.check_waited(name, line, last, findings);
        }
    }
    check_jobs(&history.database, ledger, &ticks.deferred, findings);
    check_told(&history.clients, log, &ticks.lines, rules, findings);
}

/// The fold of all schedules.
struct Ticks<'a> {
    rules: Rules,
    ledger: &'a Ledger,
    log: &'a [LogRow],
    lines: HashMap<Arc<str>, Line>,
    /// The jobs of ticks.
    deferred: HashMap<i64, (Arc<str>, Timestamp)>,
}

/// One schedule.
struct Line {
    schedule: Arc<Schedule>,
    /// Between two ticks, if it is known.
    period: Option<i64>,
    paused: bool,
    deleted: bool,
    /// All ticks up to here are decided.
    decided: i64,
}

impl Line {
    /// The first tick after an instant.
    fn next_after(&self, after: i64) -> Option<i64> {
        self.period.map(|period| (after.div_euclid(period) + 1) * period)
    }
}

impl Ticks<'_> {
    fn fold(&mut self, place: usize, row: &LogRow, fact: &Fact, findings: &mut Findings, counts: &mut Counts) {
        match fact {
            Fact::SchedulePut { schedule, paused, decided } => {
                let line = Line {
                    schedule: schedule.clone(),
                    period: period_of(schedule.cron.text()),
                    paused: *paused,
                    deleted: false,
                    decided: decided.0,
                };
                // The ticks of a new schedule count from the moment at which it was put.
                if decided.0 > row.at.0 {
                    let name = &schedule.name;
                    findings.add(Clause::C12, None, || format!("row {} puts {name} for a later time", row.number));
                }
                let before = self.lines.insert(schedule.name.clone(), line).filter(|before| !before.deleted);
                if before.is_some_and(|before| decided.0 < before.decided) {
                    let name = &schedule.name;
                    findings.add(Clause::C12, None, || format!("row {} lets {name} tick again", row.number));
                }
            }
            Fact::ScheduleDeleted { name } => {
                if let Some(line) = self.lines.get(name).filter(|line| !line.paused) {
                    self.check_waited(name, line, place, findings);
                }
                match self.lines.get_mut(name).filter(|line| !line.deleted) {
                    Some(line) => line.deleted = true,
                    None => findings.add(Clause::C12, None, || format!("row {} deletes no {name}", row.number)),
                }
            }
            Fact::ScheduleTicked { name, tick, outcome } => {
                self.ticked(place, row, (name, *tick), *outcome, findings, counts);
                if let Some(line) = self.lines.get_mut(name) {
                    line.decided = line.decided.max(tick.0);
                }
            }
            _ => {}
        }
    }

    fn ticked(
        &mut self,
        place: usize,
        row: &LogRow,
        (name, tick): (&Arc<str>, Timestamp),
        outcome: TickOutcome,
        findings: &mut Findings,
        counts: &mut Counts,
    ) {
        let at = || format!("row {}: tick {} of {name}", row.number, tick.0);
        let Some(line) = self.lines.get(name).filter(|line| !line.deleted && !line.paused) else {
            findings.add(Clause::C12, None, || format!("{}, and there is no such schedule", at()));
            return;
        };
        if tick.0 > row.at.0 {
            findings.add(Clause::C12, None, || format!("{} is decided {} us early", at(), tick.0 - row.at.0));
        }
        if tick.0 <= line.decided {
            findings.add(Clause::C12, None, || format!("{} is decided again, up to {} it was", at(), line.decided));
        }
        self.check_skipped(line, place, row, tick, findings, counts);
        self.check_waited(name, line, place, findings);
        let late = row.at.0 - tick.0;
        let grace = self.rules.tick_grace.as_micros() as i64;
        let may_be_missed = line.schedule.missed == MissedTicks::Skip && late > grace;
        // What it was decided at is no earlier than the row before the one that was on its way.
        let must_be_missed = line.schedule.missed == MissedTicks::Skip && self.known_at(place) - tick.0 > grace;
        match outcome {
            TickOutcome::Deferred(job) => {
                counts.ticks += 1;
                if must_be_missed {
                    findings.add(Clause::C12, job.0, || format!("{} is deferred, and was to be skipped", at()));
                }
                if self.ledger.jobs.get(&job.0).is_none_or(|life| life.created != row.at) {
                    findings.add(Clause::C12, job.0, || format!("{} defers a job that its row does not create", at()));
                }
                if self.deferred.insert(job.0, (name.clone(), tick)).is_some() {
                    findings.add(Clause::C12, job.0, || format!("{} defers a job of another tick", at()));
                }
            }
            TickOutcome::Missed => {
                counts.ticks_skipped += 1;
                if !may_be_missed {
                    findings.add(Clause::C12, None, || format!("{} is skipped {late} us late", at()));
                }
            }
            TickOutcome::QueueingLockTaken(by) => {
                counts.ticks_skipped += 1;
                let value = line.schedule.job.queueing_lock.as_ref();
                let holder = self.ledger.jobs.get(&by.0);
                let holds = holder.is_some_and(|life| {
                    let started = life.deliveries.first().map_or(u64::MAX, |delivery| delivery.started_row);
                    life.first_queueing_lock.as_ref() == value && started >= row.number
                });
                if value.is_none() || !holds {
                    findings.add(Clause::C12, by.0, || format!("{} is skipped because of it", at()));
                }
            }
            TickOutcome::LimitReached => {
                findings.add(Clause::C12, None, || format!("{} is skipped because of a limit", at()));
            }
        }
    }

    /// Whether the ticks before this one may be left out.
    fn check_skipped(
        &self,
        line: &Line,
        place: usize,
        row: &LogRow,
        tick: Timestamp,
        findings: &mut Findings,
        counts: &mut Counts,
    ) {
        let (Some(next), Some(period)) = (line.next_after(line.decided), line.period) else { return };
        let name = &line.schedule.name;
        if tick.0.rem_euclid(period) != 0 {
            findings.add(Clause::C12, None, || format!("row {}: {} is no tick of {name}", row.number, tick.0));
            return;
        }
        let left_out = ((tick.0 - next) / period).max(0);
        counts.ticks_skipped += left_out as u64;
        match line.schedule.missed {
            MissedTicks::All => {
                let come = (row.at.0 - next) / period + 1;
                if left_out > 0 && come <= MISSED_MAX {
                    findings.add(Clause::C12, None, || {
                        format!("row {}: {left_out} ticks of {name} before {} were never deferred", row.number, tick.0)
                    });
                }
            }
            // The newest that has come is decided.
            MissedTicks::Latest | MissedTicks::Skip => {
                if tick.0 + period <= self.known_at(place) {
                    findings.add(Clause::C12, None, || {
                        format!("row {}: {} is not the newest tick of {name}", row.number, tick.0)
                    });
                }
            }
        }
    }

    /// Whether the first undecided tick came long ago, though rows were written all the time.
    fn check_waited(&self, name: &str, line: &Line, place: usize, findings: &mut Findings) {
        let Some(next) = line.next_after(line.decided) else { return };
        let first = self.log.partition_point(|row| row.at.0 < next);
        let waited = place.saturating_sub(first) as u64;
        if waited > ROWS_MAX {
            let row = self.log[place].number;
            findings.add(Clause::C12, None, || {
                format!("at row {row} the tick {next} of {name} has waited for {waited} rows")
            });
        }
    }

    /// What the owner knew of the time when it decided this row: it had heard of the row before the one that was on
    /// its way.
    fn known_at(&self, place: usize) -> i64 {
        place.checked_sub(2).map_or(0, |before| self.log[before].at.0)
    }
}

/// The time between two ticks of an expression that ticks each second, or every few.
fn period_of(cron: &str) -> Option<i64> {
    let seconds = cron.strip_suffix(" * * * * *")?;
    let every = match seconds.strip_prefix("*/") {
        Some(every) => every.parse().ok().filter(|every| *every > 0 && 60 % every == 0)?,
        None if seconds == "*" => 1,
        None => return None,
    };
    Some(every * SECOND_MICROS)
}

/// The jobs say the same as the log.
fn check_jobs(
    database: &Database,
    ledger: &Ledger,
    deferred: &HashMap<i64, (Arc<str>, Timestamp)>,
    findings: &mut Findings,
) {
    let mut ticks: HashSet<(&str, i64)> = HashSet::new();
    let mut rows: HashSet<i64> = HashSet::new();
    for row in &database.jobs {
        let Some((name, tick)) = &row.tick else { continue };
        rows.insert(row.id);
        if !ticks.insert((name, tick.0)) {
            findings.add(Clause::C12, row.id, || format!("another job is of tick {} of {name} too", tick.0));
        }
        if deferred.get(&row.id).is_none_or(|(of, at)| **of != **name || at != tick) {
            findings.add(Clause::C12, row.id, || format!("its labels say tick {} of {name}, the log does not", tick.0));
        }
    }
    for (job, (name, tick)) in deferred {
        let is_erased = ledger.jobs.get(job).is_some_and(|life| life.erased.is_some());
        if !is_erased && !rows.contains(job) {
            findings
                .add(Clause::C12, *job, || format!("it was deferred for tick {} of {name}, and is not there", tick.0));
        }
    }
}

/// Whoever was told that a schedule is put, or gone, was told the truth.
fn check_told(
    events: &[ClientEvent],
    log: &[LogRow],
    lines: &HashMap<Arc<str>, Line>,
    rules: Rules,
    findings: &mut Findings,
) {
    let mut asked: HashMap<&str, &Asked> = HashMap::new();
    let mut put: HashSet<&str> = HashSet::new();
    for event in events {
        if let ClientStep::Invoke { asked: now } = &event.step {
            asked.insert(&event.request, now);
            if let Asked::PutSchedule { name } = now {
                put.insert(name);
            }
        }
        if event.step != ClientStep::ScheduleChanged {
            continue;
        }
        let told = if rules.one_clock { event.stamp.wall } else { i64::MAX };
        let facts = log.iter().take_while(|row| row.at.0 <= told).flat_map(|row| &row.facts);
        let is_there = |name: &str| {
            facts.clone().fold(false, |there, fact| match fact {
                Fact::SchedulePut { schedule, .. } if *schedule.name == *name => true,
                Fact::ScheduleDeleted { name: of } if **of == *name => false,
                _ => there,
            })
        };
        let agrees = match asked.get(event.request.as_str()) {
            Some(Asked::PutSchedule { name }) => is_there(name),
            Some(Asked::DeleteSchedule { name }) => !is_there(name),
            _ => true,
        };
        if !agrees {
            findings.add(Clause::C12, None, || format!("request {} was told otherwise than it is", event.request));
        }
    }
    for name in lines.keys().filter(|name| !put.contains(&***name)) {
        findings.add(Clause::Unexpected, None, || format!("nobody asked for the schedule {name}"));
    }
}
