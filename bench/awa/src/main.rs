//! awa: one workload, one line of JSON. Arguments: workload, jobs, URL of an empty database.
//!
//! At its best: 2,048 workers, as many jobs of one claim, `COPY` for batches. What it reads from its environment about
//! completions, `bench/run` sets.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use awa::{
    Client, InsertOpts, InsertParams, JobArgs, JobError, JobResult, QueueConfig, QueueStorage, QueueStorageConfig,
    insert_with, migrations, model::admin::state_counts,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::{PgPool, postgres::PgPoolOptions};
use tokio::time::sleep;

type Error = Box<dyn std::error::Error + Send + Sync>;

const QUEUE: &str = "bench";
const WORKERS: u32 = 2_048;
const CLAIM_JOBS: usize = 2_048;
/// States that end a job.
const FINALS: [&str; 3] = ["completed", "failed", "cancelled"];

#[derive(Clone, Serialize, Deserialize, JobArgs)]
struct Noop {
    pad: String,
}

/// When each job started, and how often one started again.
#[derive(Default)]
struct Runs {
    started: Mutex<HashMap<i64, Instant>>,
    doubled: AtomicU64,
}

impl Runs {
    fn note(&self, id: i64) {
        if self.started.lock().expect("no panic").insert(id, Instant::now()).is_some() {
            self.doubled.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn count(&self) -> usize {
        self.started.lock().expect("no panic").len()
    }
}

fn noop() -> Noop {
    Noop { pad: "x".repeat(90) }
}

fn opts() -> InsertOpts {
    InsertOpts { queue: QUEUE.into(), ..Default::default() }
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let args: Vec<String> = std::env::args().collect();
    let (workload, jobs, url) = (args[1].as_str(), args[2].parse::<usize>()?, args[3].as_str());
    let pool = PgPoolOptions::new().max_connections(20).connect(url).await?;
    migrations::run(&pool).await?;
    // Its newer, faster engine, as the first worker on an empty database chooses it.
    let schema = QueueStorageConfig::default().schema;
    sqlx::query("SELECT awa.storage_auto_finalize_if_fresh($1)").bind(schema).execute(&pool).await?;
    let mut figures = match workload {
        "drain" => drain(&pool, jobs).await?,
        "single" => single(&pool, jobs).await?,
        "batch" => batch(&pool, jobs).await?,
        "latency" => latency(&pool, jobs).await?,
        other => return Err(format!("no such workload: {other}").into()),
    };
    figures["peer"] = json!("awa");
    figures["workload"] = json!(workload);
    figures["jobs"] = json!(jobs);
    println!("{figures}");
    Ok(())
}

fn worker(pool: &PgPool, runs: &Arc<Runs>) -> Result<Client, Error> {
    let runs = Arc::clone(runs);
    let config = QueueConfig {
        max_workers: WORKERS,
        poll_interval: Duration::from_millis(50),
        deadline_duration: Duration::ZERO,
        claim_batch_size: CLAIM_JOBS,
        ..Default::default()
    };
    let client = Client::builder(pool.clone()).queue(QUEUE, config).register::<Noop, _, _>(move |_, ctx| {
        runs.note(ctx.job.id);
        async { Ok::<_, JobError>(JobResult::Completed) }
    });
    Ok(client.build()?)
}

async fn fill(pool: &PgPool, jobs: usize) -> Result<(), Error> {
    let args = serde_json::to_value(noop())?;
    let store = QueueStorage::new(QueueStorageConfig::default())?;
    let mut inserted = 0;
    while inserted < jobs {
        let params = || InsertParams { kind: Noop::kind().to_owned(), args: args.clone(), opts: opts() };
        let batch: Vec<InsertParams> = (0..(jobs - inserted).min(1_000)).map(|_| params()).collect();
        inserted += store.enqueue_params_copy(pool, &batch).await?;
    }
    Ok(())
}

async fn settle(pool: &PgPool) -> Result<(), Error> {
    sqlx::query("VACUUM ANALYZE").execute(pool).await?;
    sqlx::query("CHECKPOINT").execute(pool).await?;
    Ok(())
}

/// How many jobs have not ended.
async fn left(pool: &PgPool) -> Result<i64, Error> {
    let counts = state_counts(pool).await?;
    Ok(counts.iter().filter(|(state, _)| !FINALS.contains(&state.to_string().as_str())).map(|(_, count)| count).sum())
}

async fn drain(pool: &PgPool, jobs: usize) -> Result<Value, Error> {
    fill(pool, jobs).await?;
    settle(pool).await?;
    let runs = Arc::new(Runs::default());
    let client = worker(pool, &runs)?;
    let begin = Instant::now();
    client.start().await?;
    while runs.count() < jobs {
        sleep(Duration::from_millis(1)).await;
    }
    while left(pool).await? > 0 {
        sleep(Duration::from_millis(1)).await;
    }
    let rate = jobs as f64 / begin.elapsed().as_secs_f64();
    client.shutdown(Duration::from_secs(10)).await;
    let doubled = runs.doubled.load(Ordering::Relaxed);
    Ok(json!({ "jobs_per_second": rate, "lost": jobs - runs.count(), "doubled": doubled }))
}

async fn single(pool: &PgPool, jobs: usize) -> Result<Value, Error> {
    settle(pool).await?;
    let next = Arc::new(AtomicU64::new(0));
    let begin = Instant::now();
    let callers: Vec<_> = (0..64)
        .map(|_| {
            let (pool, next) = (pool.clone(), Arc::clone(&next));
            tokio::spawn(async move {
                while next.fetch_add(1, Ordering::Relaxed) < jobs as u64 {
                    insert_with(&pool, &noop(), opts()).await?;
                }
                Ok::<_, Error>(())
            })
        })
        .collect();
    for caller in callers {
        caller.await??;
    }
    let rate = jobs as f64 / begin.elapsed().as_secs_f64();
    Ok(json!({ "jobs_per_second": rate, "lost": jobs as i64 - left(pool).await?, "doubled": 0 }))
}

async fn batch(pool: &PgPool, jobs: usize) -> Result<Value, Error> {
    settle(pool).await?;
    let begin = Instant::now();
    fill(pool, jobs).await?;
    let rate = jobs as f64 / begin.elapsed().as_secs_f64();
    Ok(json!({ "jobs_per_second": rate, "lost": jobs as i64 - left(pool).await?, "doubled": 0 }))
}

/// Open loop: a job's time counts from the moment when it was to be sent.
async fn latency(pool: &PgPool, jobs: usize) -> Result<Value, Error> {
    let runs = Arc::new(Runs::default());
    let client = worker(pool, &runs)?;
    client.start().await?;
    let begin = Instant::now() + Duration::from_millis(200);
    let mut calls = Vec::new();
    // A timer of the runtime is late by up to a millisecond, which is not the queue's fault.
    let (sender, mut times) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for number in 0..jobs {
            let due = begin + Duration::from_millis(10) * number as u32;
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            if sender.send(due).is_err() {
                break;
            }
        }
    });
    while let Some(due) = times.recv().await {
        let pool = pool.clone();
        calls.push(tokio::spawn(async move { Ok::<_, Error>((insert_with(&pool, &noop(), opts()).await?.id, due)) }));
    }
    let mut sent = Vec::new();
    for call in calls {
        sent.push(call.await??);
    }
    while runs.count() < jobs {
        sleep(Duration::from_millis(5)).await;
    }
    client.shutdown(Duration::from_secs(10)).await;
    let started = runs.started.lock().expect("no panic");
    let mut times: Vec<f64> =
        sent.iter().skip(200.min(jobs / 10)).map(|(id, due)| (started[id] - *due).as_secs_f64() * 1e3).collect();
    times.sort_unstable_by(f64::total_cmp);
    let at = |q: f64| times[(times.len() - 1).min((q * times.len() as f64) as usize)];
    let doubled = runs.doubled.load(Ordering::Relaxed);
    Ok(json!({ "p50_ms": at(0.5), "p99_ms": at(0.99), "lost": jobs - started.len(), "doubled": doubled }))
}
