//! The mixture of jobs that the clients ask for, drawn from a seed.

use std::time::Duration;

use cabbage_worker::{LockMode, NewJob, RetryPolicy};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use serde::{Deserialize, Serialize};

/// The tasks that every worker of a fault run serves.
pub const TASKS: [&str; 4] = ["quick", "slow", "flaky", "ordered"];

/// How many values of locks there are: few, so that jobs wait behind them.
const LOCKS: u32 = 40;
/// How many values of queueing locks there are.
const QUEUEING_LOCKS: u32 = 8;
/// How long a slow handler takes.
const SLOW_MILLIS: std::ops::Range<u64> = 200..2_000;
/// The wait after a failed attempt.
const RETRY_WAIT: Duration = Duration::from_millis(150);

/// One job of so many is one that the database is told to refuse.
const POISON_EVERY: u64 = 700;

/// The arguments of every job: what its handler does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// Names the job, over clients and runs.
    pub key: String,
    /// How long the handler takes.
    pub millis: u64,
    /// How many attempts fail.
    pub fails: u32,
    /// The database refuses it, if it was told to.
    #[serde(default)]
    pub poison: bool,
}

/// One job to ask for.
#[derive(Debug)]
pub struct Wish {
    /// Its key.
    pub key: String,
    /// The job.
    pub job: NewJob,
    /// What follows.
    pub then: Then,
}

/// What is done to a job once it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// It is left alone.
    Nothing,
    /// It is cancelled at once.
    Cancel,
    /// It is opened again when it is final (C17).
    Reopen,
    /// It is erased when it is final (C17).
    Erase,
}

/// Draws jobs: the same for the same seed.
#[derive(Debug)]
pub struct Mixture {
    random: StdRng,
    name: String,
    latest: Duration,
    next: u64,
}

impl Mixture {
    /// The jobs of this client. Scheduled ones are due at most so much later.
    pub fn new(name: &str, seed: u64, latest: Duration) -> Self {
        Self { random: StdRng::seed_from_u64(seed), name: name.to_owned(), latest, next: 0 }
    }

    /// How many jobs the next call asks for: mostly one.
    pub fn batch(&mut self) -> usize {
        if self.random.random_bool(0.05) { self.random.random_range(2..=50) } else { 1 }
    }

    /// The next job. A call with others asks for hardly any queueing lock, since one that is taken refuses all of them.
    pub fn draw(&mut self, is_alone: bool) -> Wish {
        let key = format!("{}-{}", self.name, self.next);
        self.next += 1;
        let random = &mut self.random;
        let poison = self.next % POISON_EVERY == POISON_EVERY / 2;
        let mut work = Work { key: key.clone(), poison, ..Work::default() };
        let kind = random.random_range(0..100);
        let (task, cancel) = match kind {
            0..=3 => {
                work.millis = random.random_range(SLOW_MILLIS);
                ("slow", random.random_bool(0.1))
            }
            4..=11 => {
                work.fails = random.random_range(1..=3);
                ("flaky", false)
            }
            12..=26 => {
                work.millis = random.random_range(0..5);
                ("ordered", false)
            }
            _ => ("quick", false),
        };
        let mut job = NewJob::named(task).args(&work).queue(format!("queue-{}", random.random_range(0..3)));
        if task == "flaky" {
            // One in ten uses up its attempts.
            let attempts = if random.random_bool(0.1) { work.fails } else { work.fails + 1 };
            let policy = RetryPolicy::attempts(attempts).wait(RETRY_WAIT).linear(RETRY_WAIT / 2).jitter(0.5);
            job = job.retry(policy);
        }
        if task == "ordered" || (task == "flaky" && random.random_bool(0.3)) {
            job = job.lock(format!("lock-{}", random.random_range(0..LOCKS)));
            if random.random_bool(0.15) {
                job = job.lock_mode(LockMode::Strict);
            }
        }
        if random.random_bool(0.2) {
            job = job.priority(random.random_range(-5..=5));
        }
        let mut then = if cancel { Then::Cancel } else { Then::Nothing };
        if random.random_bool(0.1) {
            let millis = random.random_range(10..=self.latest.as_millis() as u64);
            job = job.schedule_in(Duration::from_millis(millis));
            if random.random_bool(0.1) {
                then = Then::Cancel;
            }
        } else if then == Then::Nothing {
            then = match random.random_range(0..100) {
                0 => Then::Reopen,
                1 => Then::Erase,
                _ => Then::Nothing,
            };
        }
        if random.random_bool(if is_alone { 0.04 } else { 0.002 }) {
            job = job.queueing_lock(format!("value-{}", random.random_range(0..QUEUEING_LOCKS)));
        }
        Wish { key, job, then }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_draws_the_same_jobs() {
        let draw = |seed| {
            let mut mixture = Mixture::new("c", seed, Duration::from_secs(1));
            let jobs = (0..200).map(|number| mixture.draw(number % 2 == 0));
            jobs.map(|wish| (wish.key, wish.job.into_spec().expect("arguments"), wish.then)).collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }
}
