//! How fast a client asks.

use std::time::Duration;

use tokio::time::{Interval, MissedTickBehavior, interval};

/// How often calls are let go.
const STRIDE: Duration = Duration::from_millis(20);

/// Lets a client ask for so many jobs per second, however many each call asks for.
#[derive(Debug)]
pub struct Pace {
    strides: Interval,
    /// Thousandths of jobs.
    per_stride: u64,
    allowed: u64,
    asked: u64,
}

impl Pace {
    /// This many jobs per second, one at least.
    pub fn new(rate: u64) -> Self {
        let mut strides = interval(STRIDE);
        // After a standstill the rate is not made up for.
        strides.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { strides, per_stride: rate.max(1) * STRIDE.as_millis() as u64, allowed: 0, asked: 0 }
    }

    /// Waits until the next call may be made.
    pub async fn next(&mut self) {
        while self.asked >= self.allowed {
            self.strides.tick().await;
            self.allowed += self.per_stride;
        }
    }

    /// A call asks for this many jobs. What is more than was allowed, the next ones wait for.
    pub fn asks(&mut self, jobs: usize) {
        self.asked += jobs as u64 * 1_000;
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::load::Mixture;

    #[tokio::test(start_paused = true)]
    async fn calls_for_many_jobs_do_not_make_a_client_faster() {
        for rate in [7, 75, 500] {
            let (mut pace, mut mixture) = (Pace::new(rate), Mixture::new("c", 1, Duration::from_secs(1)));
            let (began, mut asked) = (Instant::now(), 0);
            while asked < 100 * rate {
                pace.next().await;
                let batch = mixture.batch();
                pace.asks(batch);
                asked += batch as u64;
            }
            let took = began.elapsed().as_secs();
            assert!((90..=101).contains(&took), "{asked} jobs at {rate}/s took {took} s");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_standstill_is_not_made_up_for() {
        let mut pace = Pace::new(500);
        tokio::time::advance(Duration::from_secs(10)).await;
        let began = Instant::now();
        for _ in 0..1_000 {
            pace.next().await;
            pace.asks(1);
        }
        assert!(began.elapsed() >= Duration::from_millis(1_900));
    }
}
