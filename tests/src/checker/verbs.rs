//! Whether operators' verbs were done as asked (C17): what they were told is recorded, and nothing else is.

use std::collections::HashMap;

use super::{
    Rules,
    ledger::Ledger,
    life::Life,
    violation::{Clause, Findings},
};
use crate::history::{Asked, ClientEvent, ClientStep};

/// What was asked about one job, over all calls.
#[derive(Default)]
struct Verbs {
    /// Calls to open it again, each counted as often as it was sent: whoever repeats one whose outcome is unknown may
    /// open it a second time.
    reopens_sent: u64,
    /// Those that were answered OK, and when.
    reopened: Vec<i64>,
    erases_sent: u64,
    erased: Option<i64>,
}

pub(super) fn check(events: &[ClientEvent], ledger: &Ledger, rules: Rules, findings: &mut Findings) {
    let mut jobs: HashMap<i64, Verbs> = HashMap::new();
    let mut asked: HashMap<&str, &Asked> = HashMap::new();
    for event in events {
        if let ClientStep::Invoke { asked: now } = &event.step {
            asked.insert(&event.request, now);
        }
        match (asked.get(event.request.as_str()), &event.step) {
            (Some(Asked::Reopen { job }), ClientStep::Invoke { .. }) => jobs.entry(*job).or_default().reopens_sent += 1,
            (Some(Asked::Erase { job }), ClientStep::Invoke { .. }) => jobs.entry(*job).or_default().erases_sent += 1,
            (Some(Asked::Reopen { job }), ClientStep::Reopened { .. }) => {
                jobs.entry(*job).or_default().reopened.push(event.stamp.wall);
            }
            (Some(Asked::Erase { job }), ClientStep::Erased) => {
                jobs.entry(*job).or_default().erased = Some(event.stamp.wall);
            }
            _ => {}
        }
    }
    for (job, verbs) in &jobs {
        match ledger.jobs.get(job) {
            Some(life) => verbs.check(*job, life, rules, findings),
            None if verbs.reopened.is_empty() && verbs.erased.is_none() => {}
            None => findings.add(Clause::C17, *job, || "a verb was answered OK, and there is no such job".into()),
        }
    }
    for (job, life) in &ledger.jobs {
        if !jobs.contains_key(job) {
            Verbs::default().check(*job, life, rules, findings);
        }
    }
}

impl Verbs {
    fn check(&self, job: i64, life: &Life, rules: Rules, findings: &mut Findings) {
        let openings: Vec<i64> = life.openings().map(|(_, opened)| opened.at.0).collect();
        let (told, done) = (self.reopened.len(), openings.len());
        if done < told {
            findings
                .add(Clause::C17, job, || format!("{told} calls were told that it is open again, and {done} did it"));
        }
        if done as u64 > self.reopens_sent {
            let sent = self.reopens_sent;
            findings.add(Clause::C17, job, || format!("it was opened again {done} times, and asked for {sent} times"));
        }
        let early = self.reopened.iter().find(|told| openings.first().is_none_or(|first| first > told));
        if rules.one_clock && done >= told && early.is_some() {
            findings.add(Clause::C17, job, || "a call was told that it is open again before that was committed".into());
        }
        match (self.erased, life.erased) {
            (Some(_), None) => {
                findings.add(Clause::C17, job, || "its erasure was answered OK, and it is there".into());
            }
            (Some(told), Some(at)) if rules.one_clock && told < at.0 => {
                findings.add(Clause::C17, job, || "its erasure was answered OK before it was committed".into());
            }
            (None, Some(_)) if self.erases_sent == 0 => {
                findings.add(Clause::C17, job, || "it is erased, and nobody asked for that".into());
            }
            _ => {}
        }
    }
}
