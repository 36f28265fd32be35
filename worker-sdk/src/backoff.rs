//! How long to wait before the next try: exponential, with full jitter, so that thousands of peers do not come back
//! in step.

use std::time::Duration;

/// The first ceiling of a wait.
const FIRST: Duration = Duration::from_millis(250);

/// The longest wait that a peer may ask for.
const LONGEST_ASKED: Duration = Duration::from_mins(1);

/// A small generator (SplitMix64): the same seed gives the same run.
#[derive(Clone, Debug)]
pub(crate) struct Jitter(u64);

impl Jitter {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Evenly from 0 to `ceiling`.
    pub(crate) fn up_to(&mut self, ceiling: Duration) -> Duration {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        ceiling.mul_f64(z as f64 / u64::MAX as f64)
    }
}

/// Counts the tries.
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    jitter: Jitter,
    tries: u32,
}

impl Backoff {
    pub(crate) fn new(seed: u64) -> Self {
        Self { jitter: Jitter::new(seed), tries: 0 }
    }

    /// The wait before the next try: up to 0.25 s, 0.5 s, 1 s, and so on, never more than `cap`.
    pub(crate) fn next_wait(&mut self, cap: Duration) -> Duration {
        let ceiling = FIRST.saturating_mul(1 << self.tries.min(16)).min(cap);
        self.tries = self.tries.saturating_add(1);
        self.jitter.up_to(ceiling)
    }

    /// The same, but no shorter than a peer asks for. What is asked of all gets jitter too, since all would come back
    /// in step.
    pub(crate) fn next_wait_of(&mut self, cap: Duration, asked: Option<Duration>) -> Duration {
        let wait = self.next_wait(cap);
        let Some(asked) = asked.map(|asked| asked.min(LONGEST_ASKED)) else { return wait };
        wait.max(asked + self.jitter.up_to(asked / 4))
    }

    /// Things went well for long enough.
    pub(crate) fn reset(&mut self) {
        self.tries = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_cap_and_start_within_a_quarter_of_a_second() {
        for seed in 0..200 {
            let mut backoff = Backoff::new(seed);
            let cap = Duration::from_secs(20);
            assert!(backoff.next_wait(cap) <= FIRST);
            for tries in 1..40 {
                let ceiling = Duration::from_millis(250).saturating_mul(1 << tries.min(16)).min(cap);
                assert!(backoff.next_wait(cap) <= ceiling);
            }
            backoff.reset();
            assert!(backoff.next_wait(cap) <= FIRST);
        }
    }
}
