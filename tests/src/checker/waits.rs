//! How long a job must wait between two attempts (C8). Computed here again, so that the broker's own sum is checked.

use cabbage_broker::core::job::RetryPolicy;

/// The shortest wait after the `attempt`-th attempt, in microseconds. Jitter only ever adds to it.
pub(super) fn least_wait_micros(policy: &RetryPolicy, attempt: u32) -> i64 {
    let micros = |wait: std::time::Duration| wait.as_micros() as f64;
    let growth = policy.exponential_factor.powf(f64::from(attempt) - 1.0);
    let exponential = if policy.exponential_wait.is_zero() { 0.0 } else { micros(policy.exponential_wait) * growth };
    let sum = micros(policy.wait) + micros(policy.linear_wait) * f64::from(attempt) + exponential;
    let wait = sum.min(micros(policy.max_wait));
    // A microsecond is granted to rounding.
    (wait as i64 - 1).max(0)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_wait_grows_as_the_policy_says_and_ends_at_its_maximum() {
        let policy = RetryPolicy {
            max_attempts: 9,
            wait: Duration::from_secs(1),
            linear_wait: Duration::from_secs(2),
            exponential_wait: Duration::from_secs(3),
            exponential_factor: 2.0,
            max_wait: Duration::from_secs(18),
            jitter: 0.5,
            only_kinds: Vec::new(),
            never_kinds: Vec::new(),
        };
        let waits: Vec<i64> = (1..5).map(|attempt| least_wait_micros(&policy, attempt) + 1).collect();
        assert_eq!(waits, [6_000_000, 11_000_000, 18_000_000, 18_000_000]);
    }
}
