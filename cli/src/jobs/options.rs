//! What was asked for with a job, as lines for people.

use cabbage_proto::v1::{JobSpec, RetryPolicy};

use super::state;
use crate::time::{duration_for_people, duration_from_wire, for_people, from_wire};

/// The factor of growth, where a policy leaves it out.
const FACTOR_DEFAULT: f64 = 2.0;

/// The options that were given, each with its name.
pub(crate) fn lines(spec: &JobSpec) -> Vec<(&'static str, String)> {
    let mut lines = Vec::new();
    if spec.priority != 0 {
        lines.push(("priority", spec.priority.to_string()));
    }
    if !spec.lock.is_empty() {
        lines.push(("lock", format!("{} ({})", spec.lock, state::lock_mode_word(spec.lock_mode()))));
    }
    lines.push(("queueing lock", spec.queueing_lock.clone()));
    lines.push(("deadline", spec.deadline.and_then(from_wire).map(for_people).unwrap_or_default()));
    lines.push(("timeout", spec.attempt_timeout.map(duration).unwrap_or_default()));
    lines.push(("retries", spec.retry.as_ref().map(retries).unwrap_or_default()));
    let mut labels: Vec<_> = spec.metadata.iter().map(|(key, value)| format!("{key}={value}")).collect();
    labels.sort();
    lines.push(("metadata", labels.join(" ")));
    lines.push(("traceparent", spec.traceparent.clone()));
    lines.retain(|(_, value)| !value.is_empty());
    lines
}

/// A policy: how many attempts, and the wait after attempt n.
fn retries(policy: &RetryPolicy) -> String {
    let attempts = match policy.max_attempts {
        0 => "attempts without a limit".to_owned(),
        1 => "1 attempt".to_owned(),
        attempts => format!("{attempts} attempts"),
    };
    let factor = if policy.exponential_factor == 0.0 { FACTOR_DEFAULT } else { policy.exponential_factor };
    let parts = [
        policy.wait.map(duration),
        policy.linear_wait.map(|wait| format!("{} * n", duration(wait))),
        policy.exponential_wait.map(|wait| format!("{} * {factor}^(n-1)", duration(wait))),
    ];
    // A policy of the broker names all parts, also those that were left out.
    let parts: Vec<_> = parts.into_iter().flatten().filter(|part| !part.starts_with("0s")).collect();
    let mut said = vec![attempts];
    if !parts.is_empty() {
        let most = policy.max_wait.map(|wait| format!(", at most {}", duration(wait))).unwrap_or_default();
        said.push(format!("wait {}{most}", parts.join(" + ")));
    }
    if policy.jitter != 0.0 {
        said.push(format!("jitter {}", policy.jitter));
    }
    for (word, kinds) in [("only", &policy.only_kinds), ("never", &policy.never_kinds)] {
        if !kinds.is_empty() {
            said.push(format!("{word} after {}", kinds.join(", ")));
        }
    }
    said.join("; ")
}

fn duration(duration: prost_types::Duration) -> String {
    duration_from_wire(duration).map(duration_for_people).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: i64) -> prost_types::Duration {
        prost_types::Duration { seconds, nanos: 0 }
    }

    #[test]
    fn only_what_was_asked_for_is_told() {
        assert_eq!(lines(&JobSpec::default()), []);
        let spec = JobSpec {
            priority: 5,
            lock: "l".into(),
            queueing_lock: "q".into(),
            attempt_timeout: Some(seconds(10)),
            metadata: [("b".to_owned(), "2".to_owned()), ("a".to_owned(), "1".to_owned())].into(),
            ..JobSpec::default()
        };
        let expected = [
            ("priority", "5"),
            ("lock", "l (first-startable)"),
            ("queueing lock", "q"),
            ("timeout", "10s"),
            ("metadata", "a=1 b=2"),
        ];
        assert_eq!(lines(&spec), expected.map(|(name, value)| (name, value.to_owned())));
    }

    #[test]
    fn a_policy_says_its_attempts_and_its_waits() {
        let policy = RetryPolicy { max_attempts: 3, linear_wait: Some(seconds(0)), ..RetryPolicy::default() };
        assert_eq!(retries(&policy), "3 attempts");
        let policy = RetryPolicy {
            wait: Some(seconds(60)),
            exponential_wait: Some(seconds(1)),
            max_wait: Some(seconds(365 * 86_400)),
            jitter: 0.2,
            never_kinds: vec!["panic".into()],
            ..RetryPolicy::default()
        };
        let expected =
            "attempts without a limit; wait 1m + 1s * 2^(n-1), at most 365days; jitter 0.2; never after panic";
        assert_eq!(retries(&policy), expected);
    }
}
