//! Whether the workers' results became what the workers were told.

use std::collections::{HashMap, HashSet};

use cabbage_broker::core::job::Verdict;
use cabbage_proto::v1::SettleCode;

use super::{
    Rules,
    counts::Counts,
    ledger::Ledger,
    violation::{Clause, Findings},
};
use crate::history::{Database, End, LeaseName, OutcomeRow, WorkerEvent, WorkerStep};

pub(super) fn check(
    events: &[WorkerEvent],
    database: &Database,
    ledger: &Ledger,
    rules: Rules,
    findings: &mut Findings,
    counts: &mut Counts,
) {
    let outcomes: HashMap<(i64, u32), &OutcomeRow> =
        database.outcomes.iter().map(|outcome| ((outcome.job, outcome.delivery), outcome)).collect();
    let mut recorded: HashSet<LeaseName> = HashSet::new();
    let mut ends: HashMap<LeaseName, End> = HashMap::new();
    for event in events {
        match event.step {
            WorkerStep::End { lease, end } => {
                ends.insert(lease, end);
            }
            WorkerStep::Acknowledged { lease, end, code, probe } => {
                let answer = Answer { lease, end, probe, at: event.stamp.wall };
                let code = SettleCode::try_from(code).unwrap_or_default();
                match code {
                    SettleCode::Recorded => {
                        counts.settled += 1;
                        if !recorded.insert(lease) {
                            findings.add(Clause::C6, lease.job, || format!("{lease:?} was recorded twice"));
                        }
                    }
                    SettleCode::AlreadyRecorded => counts.settled_again += 1,
                    SettleCode::LeaseLost => counts.lease_lost += 1,
                    _ => {}
                }
                let outcome = outcomes.get(&(lease.job, lease.delivery)).copied();
                answer.check(code, outcome, ledger, rules, findings);
            }
            WorkerStep::Welcome { .. } | WorkerStep::Start { .. } => {}
        }
    }
    for outcome in &database.outcomes {
        check_backed(outcome, ledger, &ends, findings);
    }
}

/// What a worker was answered for a result.
struct Answer {
    lease: LeaseName,
    end: End,
    probe: bool,
    at: i64,
}

impl Answer {
    fn check(
        &self,
        code: SettleCode,
        outcome: Option<&OutcomeRow>,
        ledger: &Ledger,
        rules: Rules,
        findings: &mut Findings,
    ) {
        let Self { lease, end, probe, at } = *self;
        let job = lease.job;
        let delivery = ledger.jobs.get(&job).and_then(|life| life.delivery(lease.delivery));
        let Some(delivery) = delivery.filter(|delivery| delivery.nonce == lease.nonce) else {
            findings.add(Clause::C4, job, || format!("{lease:?} was answered {code:?} and was never leased"));
            return;
        };
        // An erased job has no outcomes any more; the log still says how it ended.
        let erased = ledger.jobs.get(&job).and_then(|life| life.erased);
        let verdict =
            outcome.map(|outcome| outcome.verdict).or_else(|| erased.and(delivery.end).map(|end| end.verdict));
        let says_same = verdict.is_some_and(|verdict| is_of(end, verdict, code));
        match code {
            SettleCode::Recorded | SettleCode::AlreadyRecorded => {
                if probe && code == SettleCode::Recorded {
                    findings
                        .add(Clause::C5, job, || format!("{lease:?} was called lost, and its late result was taken"));
                }
                if !says_same {
                    findings.add(Clause::C6, job, || format!("{lease:?} {end:?} was acknowledged, and is {verdict:?}"));
                }
                if rules.one_clock && delivery.end.is_none_or(|end| end.at.0 > at) {
                    findings.add(Clause::C6, job, || format!("{lease:?} was acknowledged before it was committed"));
                }
            }
            SettleCode::LeaseLost => {
                let owner_ended = matches!(verdict, Some(Verdict::Crashed | Verdict::Released | Verdict::Cancelled))
                    || outcome.map_or(erased.is_some(), |outcome| outcome.reason.is_some());
                if says_same && !owner_ended {
                    findings
                        .add(Clause::C5, job, || format!("{lease:?} {end:?} was answered LEASE_LOST and is recorded"));
                }
                if delivery.end.is_none_or(|end| rules.one_clock && end.at.0 > at) {
                    findings.add(Clause::C5, job, || format!("{lease:?} was answered LEASE_LOST before it had ended"));
                }
            }
            SettleCode::VerdictConflict if says_same || verdict.is_none() => {
                findings.add(Clause::C6, job, || format!("{lease:?} {end:?} conflicts with itself"));
            }
            SettleCode::NotFound if erased.is_some_and(|erased| erased.0 <= at) => {}
            SettleCode::NotFound | SettleCode::InvalidToken | SettleCode::Unspecified => {
                findings.add(Clause::C6, job, || format!("{lease:?} was answered {code:?}"));
            }
            SettleCode::VerdictConflict | SettleCode::RetryLater | SettleCode::Unrecordable => {}
        }
    }
}

/// Whether this verdict is how such an end is recorded.
fn is_of(end: End, verdict: Verdict, code: SettleCode) -> bool {
    match end {
        End::Succeeded => verdict == Verdict::Succeeded,
        End::Failed => {
            matches!(verdict, Verdict::Failed | Verdict::Retried)
                || (verdict == Verdict::Cancelled && code == SettleCode::AlreadyRecorded)
        }
        End::Cancelled => verdict == Verdict::Cancelled,
        End::Released => matches!(verdict, Verdict::Released | Verdict::Cancelled),
        End::Snoozed => matches!(verdict, Verdict::Snoozed | Verdict::Cancelled),
    }
}

/// What is recorded as a worker's word is what a worker said.
fn check_backed(outcome: &OutcomeRow, ledger: &Ledger, ends: &HashMap<LeaseName, End>, findings: &mut Findings) {
    let is_workers_word = matches!(outcome.verdict, Verdict::Succeeded | Verdict::Retried | Verdict::Snoozed)
        || (outcome.verdict == Verdict::Failed && outcome.reason.is_none());
    let delivery = ledger.jobs.get(&outcome.job).and_then(|life| life.delivery(outcome.delivery));
    let (true, Some(delivery)) = (is_workers_word && outcome.reason.is_none(), delivery) else { return };
    let lease = LeaseName { job: outcome.job, delivery: outcome.delivery, nonce: delivery.nonce };
    let said = ends.get(&lease);
    if said.is_none_or(|end| !is_of(*end, outcome.verdict, SettleCode::Recorded)) {
        findings.add(Clause::C6, outcome.job, || {
            format!("{lease:?} is {:?}, and its worker said {said:?}", outcome.verdict)
        });
    }
}
