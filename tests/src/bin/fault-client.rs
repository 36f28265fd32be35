//! A client of a fault run: asks for its share of the load, and writes down what it asks for and what it is answered.
//!
//! It ends when its input does. A call whose outcome is unknown is repeated until it is known (C1, C2). For every 100 jobs
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
    history::{Asked, ClientStep, Journal},
    lifeline,
    load::{AGENDA, Caller, Mixture, Pace, Then, Wish},
};
use cabbage_worker::Client;
use clap::Parser;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

/// A call is given up by the client after this time, and repeated by this program: so that what is unknown is seen.
const CALL_TIMEOUT: Duration = Duration::from_secs(1);
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
    /// Keep the schedules of the agenda while the load lasts.
    #[arg(long)]
    agenda: bool,
    /// Give up on a call after this time: the run has failed.
    #[arg(long, default_value_t = 300)]
    patience_seconds: u64,
}

struct Load {
    caller: Caller,
    /// What goes on after the answer to a defer.
    sequels: TaskTracker,
    answered: AtomicU64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let line = Line::parse();
    lifeline::end_with_stdin();
    let client = Client::builder(line.brokers).timeout(CALL_TIMEOUT).build()?;
    let journal = Journal::open(&line.journal, &line.name)?;
    let load = Arc::new(Load {
        caller: Caller::new(client, journal, Duration::from_secs(line.patience_seconds)),
        sequels: TaskTracker::new(),
        answered: AtomicU64::new(0),
    });
    if line.agenda {
        for entry in AGENDA {
            let asked = Asked::PutSchedule { name: entry.name.to_owned() };
            load.caller.ask(&format!("put-{}", entry.name), asked, &[]).await;
        }
    }
    let mut mixture = Mixture::new(&line.name, line.seed, Duration::from_millis(line.latest_ms));
    let permits = Arc::new(Semaphore::new(line.in_flight));
    let mut pace = Pace::new(line.rate);
    let mut asked = 0;
    while asked < line.jobs {
        pace.next().await;
        let batch = mixture.batch().min((line.jobs - asked) as usize);
        let wishes: Vec<Wish> = (0..batch).map(|_| mixture.draw(batch == 1)).collect();
        asked += wishes.len() as u64;
        pace.asks(wishes.len());
        let permit = permits.clone().acquire_owned().await?;
        let load = load.clone();
        tokio::spawn(async move {
            load.defer(wishes).await;
            drop(permit);
        });
    }
    // Whoever holds all permits is alone.
    let _all = permits.acquire_many(u32::try_from(line.in_flight)?).await?;
    load.sequels.close();
    load.sequels.wait().await;
    if line.agenda {
        for entry in AGENDA {
            let asked = Asked::DeleteSchedule { name: entry.name.to_owned() };
            load.caller.ask(&format!("delete-{}", entry.name), asked, &[]).await;
        }
    }
    println!("answered {}", load.answered.load(Ordering::Relaxed));
    Ok(())
}

impl Load {
    async fn defer(self: &Arc<Self>, wishes: Vec<Wish>) {
        let (mut keys, mut specs, mut sequels) = (Vec::new(), Vec::new(), Vec::new());
        for wish in wishes {
            keys.push(wish.key);
            specs.push(wish.job.into_spec().expect("arguments are JSON"));
            sequels.push(wish.then);
        }
        let request = format!("defer-{}", keys[0]);
        let asked = Asked::Defer { keys: keys.clone() };
        if let ClientStep::Deferred { jobs, .. } = self.caller.ask(&request, asked, &specs).await {
            for (job, then) in jobs.into_iter().zip(sequels) {
                match then {
                    Then::Nothing => {}
                    Then::Cancel => drop(self.caller.ask(&format!("cancel-{job}"), Asked::Cancel { job }, &[]).await),
                    Then::Reopen | Then::Erase => {
                        let load = self.clone();
                        self.sequels.spawn(async move { load.go_on(job, then).await });
                    }
                }
            }
        }
        let before = self.answered.fetch_add(keys.len() as u64, Ordering::Relaxed);
        let now = before + keys.len() as u64;
        if now / TOLD_EVERY > before / TOLD_EVERY {
            println!("answered {now}");
        }
    }

    /// What is done to a final job, once it is one.
    async fn go_on(&self, job: i64, then: Then) {
        if !self.caller.is_final(job).await {
            return;
        }
        let (request, asked) = match then {
            Then::Erase => (format!("erase-{job}"), Asked::Erase { job }),
            _ => (format!("reopen-{job}"), Asked::Reopen { job }),
        };
        self.caller.ask(&request, asked, &[]).await;
    }
}
