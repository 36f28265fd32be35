//! Whether the tables say the same as the log.

use std::collections::HashSet;

use cabbage_broker::core::job::Verdict;

use super::{
    Rules,
    counts::Counts,
    ledger::Ledger,
    life::{Life, Phase},
    violation::{Clause, Findings},
    waits::least_wait_micros,
};
use crate::history::{Database, OutcomeRow};

pub(super) fn check(database: &Database, ledger: &Ledger, rules: Rules, findings: &mut Findings, counts: &mut Counts) {
    check_jobs(database, ledger, findings);
    check_outcomes(database, ledger, rules, findings);
    check_places(database, ledger, findings);
    if rules.drained {
        for (job, life) in ledger.jobs.iter().filter(|(_, life)| !life.is_final()) {
            findings.add(Clause::C3, *job, || format!("it is {:?} after the drain", life.phase));
        }
    }
    counts.jobs = database.jobs.len() as u64;
}

fn check_jobs(database: &Database, ledger: &Ledger, findings: &mut Findings) {
    let rows: HashSet<i64> = database.jobs.iter().map(|row| row.id).collect();
    for (job, life) in &ledger.jobs {
        match (rows.contains(job), life.erased) {
            (true, None) | (false, Some(_)) => {}
            (false, None) => findings.add(Clause::C1, *job, || "the log creates it, and it has no row".into()),
            (true, Some(_)) => findings.add(Clause::C17, *job, || "it is erased, and still has a row".into()),
        }
    }
    for job in rows.iter().filter(|job| !ledger.jobs.contains_key(job)) {
        findings.add(Clause::Unexpected, *job, || "it has a row, and the log does not create it".into());
    }
}

fn check_outcomes(database: &Database, ledger: &Ledger, rules: Rules, findings: &mut Findings) {
    let mut seen: HashSet<(i64, u32)> = HashSet::with_capacity(database.outcomes.len());
    let mut attempts_before = 0;
    let mut last_job = None;
    let mut outcomes: Vec<&OutcomeRow> = database.outcomes.iter().collect();
    outcomes.sort_by_key(|outcome| (outcome.job, outcome.delivery));
    for outcome in outcomes {
        let (job, delivery) = (outcome.job, outcome.delivery);
        if !seen.insert((job, delivery)) {
            findings.add(Clause::C6, job, || format!("delivery {delivery} has two outcomes"));
            continue;
        }
        if last_job.replace(job) != Some(job) {
            attempts_before = 0;
        }
        let Some(life) = ledger.jobs.get(&job) else {
            findings.add(Clause::Unexpected, job, || format!("delivery {delivery} ended, and nothing created the job"));
            continue;
        };
        if life.erased.is_some() {
            findings.add(Clause::C17, job, || format!("it is erased, and delivery {delivery} still has an outcome"));
        }
        match life.end(delivery) {
            None => findings.add(Clause::C6, job, || format!("delivery {delivery} has an outcome and no recorded end")),
            Some(end) if end.verdict != outcome.verdict => findings.add(Clause::C6, job, || {
                format!(
                    "delivery {delivery} ended {:?} in the log and {:?} in its outcome",
                    end.verdict, outcome.verdict
                )
            }),
            Some(_) => {}
        }
        check_attempts(outcome, attempts_before, life, rules, findings);
        attempts_before = outcome.attempt;
    }
    for (job, life) in ledger.jobs.iter().filter(|(_, life)| life.erased.is_none()) {
        let numbers = 1..=life.last_number();
        for number in numbers.filter(|number| life.end(*number).is_some() && !seen.contains(&(*job, *number))) {
            findings.add(Clause::C6, *job, || format!("delivery {number} ended, and has no outcome"));
        }
    }
}

fn check_attempts(outcome: &OutcomeRow, before: u32, life: &Life, rules: Rules, findings: &mut Findings) {
    let no_attempt = matches!(outcome.reason.as_deref(), Some("CRASHED" | "DEADLINE" | "DUPLICATE"));
    let expected = match outcome.verdict {
        Verdict::Succeeded | Verdict::Retried => before + 1..=before + 1,
        Verdict::Failed if !no_attempt => before + 1..=before + 1,
        // It may have been cancelled in the middle of one.
        Verdict::Cancelled => before..=before + 1,
        Verdict::Failed | Verdict::Snoozed | Verdict::Released | Verdict::Crashed => before..=before,
        // It has a new budget.
        Verdict::Reopened => 0..=0,
    };
    let (job, attempt) = (outcome.job, outcome.attempt);
    if !expected.contains(&attempt) {
        findings.add(Clause::C8, job, || format!("attempt {attempt} follows {before} as {:?}", outcome.verdict));
    }
    if !rules.policy_decides {
        return;
    }
    if let Some(max) = life.max_attempts().filter(|max| attempt > *max) {
        findings.add(Clause::C8, job, || format!("attempt {attempt} of at most {max}"));
    }
    if outcome.verdict == Verdict::Retried
        && let Some(policy) = &life.retry
    {
        let wait = outcome.next_due.map_or(0, |due| due.0 - outcome.finished.0);
        let least = least_wait_micros(policy, attempt);
        if wait < least {
            findings.add(Clause::C8, job, || format!("it waits {wait} us after attempt {attempt}, not {least} us"));
        }
    }
}

fn check_places(database: &Database, ledger: &Ledger, findings: &mut Findings) {
    let mut rows = HashSet::with_capacity(database.parked.len());
    for job in &database.parked {
        if !rows.insert(*job) {
            findings.add(Clause::OnePlace, *job, || "two rows of parked jobs have it".to_owned());
        }
    }
    for (job, life) in &ledger.jobs {
        let should = life.parked.is_some() && !matches!(life.phase, Phase::Final(_));
        if should != rows.contains(job) {
            let is = if should { "is not" } else { "is" };
            findings
                .add(Clause::OnePlace, *job, || format!("it {is} in a row of parked jobs, and the log says otherwise"));
        }
    }
}
