//! Whether the clients were told the truth.

use std::collections::{HashMap, HashSet};

use cabbage_broker::core::job::Verdict;

use super::{
    Rules,
    counts::Counts,
    ledger::Ledger,
    violation::{Clause, Findings},
};
use crate::history::{Asked, ClientEvent, ClientStep, Database, JobRow};

/// The wire's numbers of the states that a cancel answers.
const STATE_RUNNING: i32 = 3;
const STATE_SUCCEEDED: i32 = 4;
const STATE_FAILED: i32 = 5;
const STATE_CANCELLED: i32 = 6;

/// One request id, over all its repetitions.
#[derive(Default)]
struct Call<'a> {
    asked: Option<&'a Asked>,
    deferred: Option<&'a [i64]>,
    refused: bool,
    unknown: bool,
    answered: bool,
}

pub(super) fn check(
    events: &[ClientEvent],
    database: &Database,
    ledger: &Ledger,
    rules: Rules,
    findings: &mut Findings,
    counts: &mut Counts,
) {
    let rows: HashMap<i64, &JobRow> = database.jobs.iter().map(|row| (row.id, row)).collect();
    let mut calls: HashMap<&str, Call<'_>> = HashMap::new();
    for event in events {
        let request = event.request.as_str();
        let call = calls.entry(request).or_default();
        match &event.step {
            ClientStep::Invoke { asked } => {
                counts.asked_again += u64::from(std::mem::take(&mut call.unknown));
                call.asked = Some(asked);
            }
            ClientStep::Deferred { jobs, repeated } => {
                counts.done_before += u64::from(*repeated && call.deferred.is_none());
                if let Some(before) = call.deferred.filter(|before| *before != jobs.as_slice()) {
                    findings.add(Clause::C2, None, || format!("request {request} gave {before:?}, then {jobs:?}"));
                }
                check_deferred(event, call.asked, jobs, &rows, ledger, rules, findings);
                call.deferred = Some(jobs);
                call.answered = true;
            }
            ClientStep::Cancelled { state } => {
                counts.cancels += 1;
                call.answered = true;
                if let Some(Asked::Cancel { job }) = call.asked {
                    check_cancelled(event, *job, *state, ledger, rules, findings);
                }
            }
            // Their own file.
            ClientStep::Reopened { .. } | ClientStep::Erased | ClientStep::ScheduleChanged => call.answered = true,
            ClientStep::Refused { reason, by } => {
                (call.refused, call.answered) = (true, true);
                counts.unrecordable += u64::from(reason == "UNRECORDABLE");
                if reason == "QUEUEING_LOCK_TAKEN" {
                    counts.queueing_locks_taken += 1;
                    if by.and_then(|by| ledger.jobs.get(&by)).is_none_or(|life| life.first_queueing_lock.is_none()) {
                        findings.add(Clause::C10, *by, || format!("request {request} was refused because of it"));
                    }
                }
            }
            ClientStep::Unknown { .. } => call.unknown = true,
        }
    }
    check_keys(&calls, database, findings, counts);
}

/// A client was promised these jobs.
fn check_deferred(
    event: &ClientEvent,
    asked: Option<&Asked>,
    jobs: &[i64],
    rows: &HashMap<i64, &JobRow>,
    ledger: &Ledger,
    rules: Rules,
    findings: &mut Findings,
) {
    let request = &event.request;
    let keys: &[String] = match asked {
        Some(Asked::Defer { keys }) => keys,
        Some(_) | None => &[],
    };
    if keys.len() != jobs.len() {
        findings.add(Clause::C2, None, || format!("request {request}: {} jobs for {} keys", jobs.len(), keys.len()));
    }
    for (job, key) in jobs.iter().zip(keys) {
        let life = ledger.jobs.get(job);
        let Some(row) = rows.get(job) else {
            if life.is_none_or(|life| life.erased.is_none()) {
                findings.add(Clause::C1, *job, || format!("request {request} was told of it, and it is not there"));
            }
            continue;
        };
        if row.key.as_ref() != Some(key) {
            findings.add(Clause::C2, *job, || format!("request {request} asked for {key} and got {:?}", row.key));
        }
        let created = life.map(|life| life.created.0);
        if rules.one_clock && created.is_some_and(|created| event.stamp.wall < created) {
            findings.add(Clause::C1, *job, || format!("request {request} was told of it before it was committed"));
        }
    }
}

/// A client was told that its job does not start any more (C11).
fn check_cancelled(event: &ClientEvent, job: i64, state: i32, ledger: &Ledger, rules: Rules, findings: &mut Findings) {
    let Some(life) = ledger.jobs.get(&job) else {
        findings.add(Clause::C11, job, || "its cancel was answered OK, and there is no such job".into());
        return;
    };
    let told = event.stamp.wall;
    // Once it is opened again it may start again.
    let opened = life.openings().map(|(_, opened)| opened.at.0).find(|at| *at > told).unwrap_or(i64::MAX);
    let late = |at: i64| at > told && at < opened;
    if rules.one_clock
        && let Some(late) = life.deliveries.iter().find(|delivery| late(delivery.started.0))
    {
        let after = late.started.0 - told;
        findings.add(Clause::C11, job, || format!("row {} starts it {after} us after its cancel", late.started_row));
    }
    let ended = |verdict| life.ends().any(|end| end.verdict == verdict);
    let agrees = match state {
        STATE_RUNNING => !life.deliveries.is_empty(),
        STATE_SUCCEEDED => ended(Verdict::Succeeded),
        STATE_FAILED => ended(Verdict::Failed),
        STATE_CANCELLED => ended(Verdict::Cancelled),
        _ => false,
    };
    if !agrees {
        findings.add(Clause::C11, job, || format!("its cancel was answered {state}, and it is {:?}", life.phase));
    }
}

/// Each key has one job at most, and each job a key that somebody asked for.
fn check_keys(calls: &HashMap<&str, Call<'_>>, database: &Database, findings: &mut Findings, counts: &mut Counts) {
    let mut by_key: HashMap<&str, i64> = HashMap::with_capacity(database.jobs.len());
    // The jobs of one schedule share its key.
    for row in database.jobs.iter().filter(|row| row.tick.is_none()) {
        let Some(key) = row.key.as_deref() else {
            findings.add(Clause::Unexpected, row.id, || "it carries no client's key".into());
            continue;
        };
        if let Some(first) = by_key.insert(key, row.id) {
            findings.add(Clause::C2, row.id, || format!("{key} was asked for once, and is job {first} too"));
        }
    }
    let mut attempted: HashSet<&str> = HashSet::with_capacity(by_key.len());
    for (request, call) in calls {
        let Some(Asked::Defer { keys }) = call.asked else { continue };
        for key in keys {
            attempted.insert(key);
            let there = by_key.get(key.as_str()).copied();
            counts.attempted += 1;
            if call.deferred.is_some() {
                counts.acknowledged += 1;
            } else if call.refused {
                counts.refused += 1;
                if let Some(job) = there {
                    findings
                        .add(Clause::C2, job, || format!("request {request} was refused, and made it all the same"));
                }
            } else if !call.answered {
                counts.unknown += 1;
                counts.unknown_and_there += u64::from(there.is_some());
            }
        }
    }
    for (key, job) in by_key.iter().filter(|(key, _)| !attempted.contains(*key)) {
        findings.add(Clause::Unexpected, *job, || format!("nobody asked for {key}"));
    }
}
