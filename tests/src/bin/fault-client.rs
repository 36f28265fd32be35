//! A client of a fault run: defers its share of the load, and writes down what it asks for and what it is answered.
//!
//! It ends when its input does. A call whose outcome is unknown is repeated with the same request id until it is known (C1, C2). For every 100 jobs
//! that are answered for, a line with their number goes to stdout.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use cabbage_tests::{
    history::{Asked, ClientEvent, ClientStep, Journal},
    lifeline,
    load::{Mixture, Wish},
};
use cabbage_worker::{Batch, Client, Error, v1::JobSpec};
use clap::Parser;
use tokio::{
    sync::Semaphore,
    time::{Instant, MissedTickBehavior, interval},
};

/// A call is given up by the client after this time, and repeated by this program: so that what is unknown is seen.
const CALL_TIMEOUT: Duration = Duration::from_secs(1);
/// Between two tries of a call.
const PAUSE: Duration = Duration::from_millis(20);
/// How often jobs are let go, by the rate.
const STRIDE: Duration = Duration::from_millis(20);
/// How many answered jobs make a line.
const TOLD_EVERY: u64 = 100;

#[derive(Parser)]
struct Line {
    /// The brokers, with commas.
    #[arg(long)]
    brokers: String,
    /// The name of this process in its log, and in the keys of its jobs.
    #[arg(long)]
    name: String,
    /// The log.
    #[arg(long)]
    journal: PathBuf,
    /// How many jobs to ask for.
    #[arg(long)]
    jobs: u64,
    /// Draws the jobs.
    #[arg(long)]
    seed: u64,
    /// Jobs per second at most.
    #[arg(long)]
    rate: u64,
    /// Calls under way at most.
    #[arg(long, default_value_t = 64)]
    in_flight: usize,
    /// Scheduled jobs are due at most so much later.
    #[arg(long)]
    latest_ms: u64,
    /// Give up on a call after this time: the run has failed.
    #[arg(long, default_value_t = 300)]
    patience_seconds: u64,
}

struct Load {
    client: Client,
    journal: Journal,
    patience: Duration,
    answered: AtomicU64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let line = Line::parse();
    lifeline::end_with_stdin();
    let load = Arc::new(Load {
        client: Client::builder(line.brokers).timeout(CALL_TIMEOUT).build()?,
        journal: Journal::open(&line.journal, &line.name)?,
        patience: Duration::from_secs(line.patience_seconds),
        answered: AtomicU64::new(0),
    });
    let mut mixture = Mixture::new(&line.name, line.seed, Duration::from_millis(line.latest_ms));
    let permits = Arc::new(Semaphore::new(line.in_flight));
    let (mut asked, mut allowed) = (0, 0);
    let mut strides = interval(STRIDE);
    // After a standstill the rate is not made up for.
    strides.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let per_stride = (line.rate * STRIDE.as_millis() as u64 / 1_000).max(1);
    while asked < line.jobs {
        while asked >= allowed {
            strides.tick().await;
            allowed = asked + per_stride;
        }
        let batch = mixture.batch().min((line.jobs - asked) as usize);
        let wishes: Vec<Wish> = (0..batch).map(|_| mixture.draw(batch == 1)).collect();
        asked += wishes.len() as u64;
        let permit = permits.clone().acquire_owned().await?;
        let load = load.clone();
        tokio::spawn(async move {
            load.defer(wishes).await;
            drop(permit);
        });
    }
    // Whoever holds all permits is alone.
    let _all = permits.acquire_many(u32::try_from(line.in_flight)?).await?;
    println!("answered {}", load.answered.load(Ordering::Relaxed));
    Ok(())
}

impl Load {
    async fn defer(&self, wishes: Vec<Wish>) {
        let (mut keys, mut specs, mut cancels) = (Vec::new(), Vec::new(), Vec::new());
        for wish in wishes {
            keys.push(wish.key);
            specs.push(wish.job.into_spec().expect("arguments are JSON"));
            cancels.push(wish.cancel);
        }
        let request = format!("defer-{}", keys[0]);
        let asked = Asked::Defer { keys: keys.clone() };
        if let ClientStep::Deferred { jobs, .. } = self.ask(&request, asked, &specs).await {
            for job in jobs.into_iter().zip(cancels).filter_map(|(job, cancel)| cancel.then_some(job)) {
                self.ask(&format!("cancel-{job}"), Asked::Cancel { job }, &[]).await;
            }
        }
        let before = self.answered.fetch_add(keys.len() as u64, Ordering::Relaxed);
        let now = before + keys.len() as u64;
        if now / TOLD_EVERY > before / TOLD_EVERY {
            println!("answered {now}");
        }
    }

    /// Asks until there is an answer.
    async fn ask(&self, request: &str, asked: Asked, specs: &[JobSpec]) -> ClientStep {
        let until = Instant::now() + self.patience;
        loop {
            self.write(request, ClientStep::Invoke { asked: asked.clone() });
            let (step, is_answer) = match self.call(request, &asked, specs).await {
                Ok(step) => (step, true),
                Err(Error::AlreadyExists(answer)) => {
                    (ClientStep::Refused { reason: answer.reason.clone(), by: answer.job_id() }, true)
                }
                Err(error) if error.is_retryable() && !error.has_no_side_effects() => {
                    (ClientStep::Unknown { detail: error.to_string() }, false)
                }
                Err(error) => {
                    let reason = error.reason().unwrap_or_default().to_owned();
                    let is_answer = !error.is_retryable();
                    if is_answer {
                        eprintln!("{request}: {error}");
                    }
                    (ClientStep::Refused { reason, by: None }, is_answer)
                }
            };
            self.write(request, step.clone());
            if is_answer {
                return step;
            }
            if Instant::now() >= until {
                eprintln!("{request}: no answer within {:?}: {step:?}", self.patience);
                std::process::exit(3);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn call(&self, request: &str, asked: &Asked, specs: &[JobSpec]) -> Result<ClientStep, Error> {
        Ok(match (asked, specs) {
            (Asked::Cancel { job }, _) => {
                let state = self.client.cancel(*job, "the load says so").await?;
                ClientStep::Cancelled { state: state.into() }
            }
            (Asked::Defer { .. }, [spec]) => {
                let deferred = self.client.defer_job(spec.clone()).request_id(request).await?;
                ClientStep::Deferred { jobs: vec![deferred.job_id], repeated: deferred.repeated_call }
            }
            (Asked::Defer { .. }, specs) => {
                let batch = specs.iter().cloned().collect::<Batch>().request_id(request);
                ClientStep::Deferred { jobs: self.client.defer_all(batch).await?, repeated: false }
            }
        })
    }

    fn write(&self, request: &str, step: ClientStep) {
        self.journal.write([ClientEvent { stamp: self.journal.stamp(), request: request.to_owned(), step }]);
    }
}
