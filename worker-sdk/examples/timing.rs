//! Middleware that measures: how long the attempts of each task take, and how many fail. Every job, panics included,
//! goes through it. Needs a broker on 127.0.0.1:7733, or at `CABBAGE_BROKER`.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use cabbage_worker::{Attempt, Batch, Client, Context, Middleware, NewJob, Next, Outcome, TaskError, Worker};

/// What is measured, by task.
#[derive(Clone, Default)]
struct Timing(Arc<Mutex<BTreeMap<String, Figures>>>);

#[derive(Default)]
struct Figures {
    attempts: u32,
    failures: u32,
    /// Of all attempts together.
    time: Duration,
}

impl Middleware for Timing {
    async fn around(&self, attempt: Attempt, next: Next) -> Outcome {
        let task = attempt.task().to_owned();
        let began = Instant::now();
        let outcome = next.run(attempt).await;
        let mut tasks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let figures = tasks.entry(task).or_default();
        figures.attempts += 1;
        figures.failures += u32::from(outcome.is_err());
        figures.time += began.elapsed();
        outcome
    }
}

async fn knead(minutes: u64, _: Context) -> Result<(), TaskError> {
    // A minute of dough is a millisecond here.
    tokio::time::sleep(Duration::from_millis(minutes)).await;
    Ok(())
}

async fn bake(bread: String, _: Context) -> Result<(), TaskError> {
    if bread == "rye" { Err(TaskError::new("Burnt", "black on both sides")) } else { Ok(()) }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::var("CABBAGE_BROKER").unwrap_or_else(|_| "127.0.0.1:7733".to_owned());
    let mut jobs = Batch::new();
    for minutes in [5, 10, 20] {
        jobs.push(NewJob::named("knead").args(minutes).queue("bakery"));
    }
    for bread in ["wheat", "rye"] {
        jobs.push(NewJob::named("bake").args(bread).queue("bakery"));
    }
    Client::new(&address)?.defer_all(jobs).await?;

    let timing = Timing::default();
    let worker = Worker::builder(&address).queues(["bakery"]).function("knead", knead).function("bake", bake);
    worker.middleware(timing.clone()).build()?.run_until_caught_up().await;
    for (task, Figures { attempts, failures, time }) in &*timing.0.lock().unwrap_or_else(PoisonError::into_inner) {
        println!("{task}: {attempts} attempts, {failures} failed, {time:.0?} in all");
    }
    Ok(())
}
