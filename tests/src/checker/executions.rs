//! Whether handlers ran only under their leases.

use std::collections::HashMap;

use cabbage_broker::core::job::Verdict;

use super::{
    Rules,
    counts::Counts,
    ledger::Ledger,
    life::Life,
    violation::{Clause, Findings},
    waits::least_wait_micros,
};
use crate::history::{LeaseName, WorkerEvent, WorkerStep};

/// One run of a handler.
struct Execution {
    delivery: u32,
    attempt: u32,
    started_wall: i64,
    started_mono: i64,
    ended_mono: Option<i64>,
}

pub(super) fn check(
    events: &[WorkerEvent],
    ledger: &Ledger,
    rules: Rules,
    findings: &mut Findings,
    counts: &mut Counts,
) {
    let mut executions: HashMap<i64, Vec<Execution>> = HashMap::new();
    let mut seen: HashMap<LeaseName, usize> = HashMap::new();
    for event in events {
        match event.step {
            WorkerStep::Start { lease, attempt } => {
                counts.executions += 1;
                let runs = executions.entry(lease.job).or_default();
                if seen.insert(lease, runs.len()).is_some() {
                    findings.add(Clause::C4, lease.job, || format!("{lease:?} was run twice"));
                }
                runs.push(Execution {
                    delivery: lease.delivery,
                    attempt,
                    started_wall: event.stamp.wall,
                    started_mono: event.stamp.mono,
                    ended_mono: None,
                });
                check_leased(lease, event.stamp.wall, ledger, rules, findings);
            }
            WorkerStep::End { lease, .. } => {
                let run = seen.get(&lease).and_then(|place| executions.get_mut(&lease.job)?.get_mut(*place));
                match run {
                    Some(run) => run.ended_mono = Some(event.stamp.mono),
                    None => findings.add(Clause::C4, lease.job, || format!("{lease:?} ended and was never started")),
                }
            }
            WorkerStep::Welcome { .. } | WorkerStep::Acknowledged { .. } => {}
        }
    }
    for (job, runs) in &mut executions {
        runs.sort_by_key(|run| run.delivery);
        let Some(life) = ledger.jobs.get(job) else { continue };
        check_attempts(*job, runs, life, findings);
        for pair in runs.windows(2) {
            check_pair(*job, &pair[0], &pair[1], life, rules, findings, counts);
        }
    }
}

/// A handler starts only after the start of its delivery was committed.
fn check_leased(lease: LeaseName, wall: i64, ledger: &Ledger, rules: Rules, findings: &mut Findings) {
    let delivery = ledger.jobs.get(&lease.job).and_then(|life| life.delivery(lease.delivery));
    let Some(delivery) = delivery.filter(|delivery| delivery.nonce == lease.nonce) else {
        findings.add(Clause::C4, lease.job, || format!("{lease:?} was run and never leased"));
        return;
    };
    if rules.one_clock && wall < delivery.started.0 {
        findings.add(Clause::C4, lease.job, || format!("{lease:?} was run before its start was committed"));
    }
}

fn check_attempts(job: i64, runs: &[Execution], life: &Life, findings: &mut Findings) {
    for run in runs {
        let opened = life.openings().map(|(number, _)| number).filter(|number| *number < run.delivery).max();
        let since = opened.unwrap_or_default() + 1..run.delivery;
        let before = life.deliveries.iter().filter(|delivery| since.contains(&delivery.number));
        let retried = before.filter(|delivery| delivery.end.is_some_and(|end| end.verdict == Verdict::Retried));
        let expected = retried.count() as u32 + 1;
        if run.attempt != expected {
            findings.add(Clause::C8, job, || format!("its worker was told attempt {}, not {expected}", run.attempt));
        }
    }
}

/// Two runs of one job, one after the other.
fn check_pair(
    job: i64,
    first: &Execution,
    second: &Execution,
    life: &Life,
    rules: Rules,
    findings: &mut Findings,
    counts: &mut Counts,
) {
    let (Some(next), Some(end)) = (life.delivery(second.delivery), life.end(first.delivery)) else {
        counts.duplicates += 1;
        findings.add(Clause::C4, job, || format!("it was run again and delivery {} had no end", first.delivery));
        return;
    };
    // The handler may have done its work, and nobody heard of it.
    if matches!(end.verdict, Verdict::Crashed | Verdict::Released) {
        counts.duplicates += 1;
        if end.row <= next.started_row && (!rules.one_clock || end.at.0 <= second.started_wall) {
            counts.duplicates_explained += 1;
        } else {
            findings.add(Clause::C4, job, || format!("it was run again before delivery {} had ended", first.delivery));
        }
    }
    if end.verdict == Verdict::Retried
        && rules.policy_decides
        && second.delivery == first.delivery + 1
        && let (Some(policy), Some(ended)) = (&life.retry, first.ended_mono)
    {
        let least = least_wait_micros(policy, first.attempt);
        let waited = second.started_mono - ended;
        if rules.one_clock && waited < least {
            findings.add(Clause::C8, job, || format!("its workers saw a wait of {waited} us, not {least} us"));
        }
    }
}
