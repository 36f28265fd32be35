//! One job as a page for people.

use cabbage_proto::v1::{Attempt, AuditEntry, Job, JobState};

use super::{options, state};
use crate::{
    audit,
    output::{lines, table},
    time::{for_people, from_wire},
};

/// How wide the column of names is.
const NAME_WIDTH: usize = 14;

pub(crate) fn page(job: &Job, audit: &[AuditEntry]) -> String {
    let spec = job.spec.clone().unwrap_or_default();
    let mut page = Vec::new();
    let mut line = |name: &str, value: String| {
        if !value.is_empty() {
            page.push(format!("{name:<NAME_WIDTH$}{value}"));
        }
    };
    line("job", job.id.to_string());
    line("task", spec.task.clone());
    line("queue", spec.queue.clone());
    line("state", state_line(job));
    line("args", String::from_utf8_lossy(&spec.args).into_owned());
    for (name, value) in options::lines(&spec) {
        line(name, value);
    }
    line("created", instant(job.created_at));
    line("due", instant(job.due_at));
    line("started", instant(job.started_at));
    line("finished", instant(job.finished_at));
    line("attempts", attempts(job));
    if job.crashes > 0 {
        line("crashes", job.crashes.to_string());
    }
    if let Some(last) = &job.last_attempt {
        line("result", String::from_utf8_lossy(&last.result).into_owned());
    }
    if !job.history.is_empty() {
        page.push(String::new());
        page.push(history(&job.history));
    }
    if !audit.is_empty() {
        page.push(String::new());
        page.push(audit::rows(audit));
    }
    page.join("\n")
}

fn state_line(job: &Job) -> String {
    let word = state::word(job.state());
    match (job.state(), state::waiting_word(job.waiting_for()), state::waiting_sentence(job.waiting_for())) {
        (JobState::Waiting, Some(waiting_for), Some(why)) => {
            format!("{word} ({waiting_for}: {why})")
        }
        _ if job.cancel_requested && !state::is_final(job.state()) => {
            format!("{word} (told to stop)")
        }
        _ => match job.last_attempt.as_ref().map(|last| last.reason.as_str()) {
            Some(reason) if !reason.is_empty() && state::is_final(job.state()) => {
                format!("{word} ({reason})")
            }
            _ => word.to_owned(),
        },
    }
}

fn attempts(job: &Job) -> String {
    let limit = match job.spec.as_ref().and_then(|spec| spec.retry.as_ref()).map(|retry| retry.max_attempts) {
        None => "of 1".to_owned(),
        Some(0) => "without a limit".to_owned(),
        Some(limit) => format!("of {limit}"),
    };
    format!("{} {limit}", job.attempts)
}

fn history(attempts: &[Attempt]) -> String {
    let mut table = table(&["DELIVERY", "ATTEMPT", "VERDICT", "STARTED", "FINISHED", "WHY"]);
    for attempt in attempts {
        table.add_row([
            attempt.delivery.to_string(),
            attempt.attempt.to_string(),
            state::verdict_word(attempt.verdict()).to_owned(),
            instant(attempt.started_at),
            instant(attempt.finished_at),
            why(attempt),
        ]);
    }
    lines(table)
}

/// The reason and the error of an attempt in one line.
pub(crate) fn why(attempt: &Attempt) -> String {
    let mut why = attempt.reason.clone();
    if let Some(failure) = &attempt.failure {
        let mut parts = vec![why.as_str(), failure.kind.as_str(), failure.message.as_str()];
        parts.retain(|part| !part.is_empty());
        // The broker's own failures have their reason for a kind.
        parts.dedup();
        why = parts.join(": ");
    }
    // What a handler wrote must not move the cursor or break the table.
    why.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn instant(timestamp: Option<prost_types::Timestamp>) -> String {
    timestamp.and_then(from_wire).map(for_people).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use cabbage_proto::v1::{Failure, JobSpec, Verdict, WaitingFor};

    use super::*;

    #[test]
    fn a_waiting_job_says_what_for_and_what_to_do() {
        let job = Job {
            id: 7,
            spec: Some(JobSpec { task: "mail".into(), ..JobSpec::default() }),
            state: JobState::Waiting as i32,
            waiting_for: WaitingFor::Unserved as i32,
            ..Job::default()
        };
        let page = page(&job, &[]);
        assert!(page.contains("state         waiting (unserved: no connected worker"), "{page}");
        assert!(page.contains("attempts      0 of 1"), "{page}");
        assert!(!page.contains("lock"), "{page}");
    }

    #[test]
    fn an_error_with_line_breaks_stays_in_its_row() {
        let attempt = Attempt {
            delivery: 1,
            attempt: 1,
            verdict: Verdict::Failed as i32,
            reason: "TIMEOUT".into(),
            failure: Some(Failure { kind: "Late".into(), message: "a\nb\u{1b}[2J".into(), trace: String::new() }),
            ..Attempt::default()
        };
        assert_eq!(why(&attempt), "TIMEOUT: Late: a b [2J");
    }

    #[test]
    fn a_reason_that_is_the_kind_too_is_said_once() {
        let failure = |kind: &str| Some(Failure { kind: kind.into(), message: "m".into(), trace: String::new() });
        let attempt = |kind| Attempt { reason: "DUPLICATE".into(), failure: failure(kind), ..Attempt::default() };
        assert_eq!(why(&attempt("DUPLICATE")), "DUPLICATE: m");
        assert_eq!(why(&attempt("Taken")), "DUPLICATE: Taken: m");
    }
}
