//! `bench retention`: what it costs that old jobs go, and what it costs whoever defers meanwhile.

mod blame;
mod disk;
mod history;
mod load;
mod pressure;
mod server_log;
mod stretch;
mod witness;

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use cabbage_migrations::Schema;
use cabbage_worker::{Batch, Client, NewJob};
use clap::Args;
use serde::Serialize;
use tokio::time::{sleep, timeout};

pub(super) use self::history::History;
use self::{
    history::{Bounds, Past},
    load::Load,
    server_log::ServerLog,
    stretch::{Seen, Stretch, Waits},
    witness::{Processes, Witness},
};
use super::{cell::Cell, unless_stopped};
use crate::{
    exit::Outcome,
    output::{OutputArgs, say},
};

/// How often the tables are asked how far retention has come.
const ASK_EVERY: Duration = Duration::from_millis(200);
/// How long a step of retention may take to come: the broker looks each minute, and then has work to do.
const PATIENCE: Duration = Duration::from_mins(40);
/// Jobs of one call.
const BATCH_JOBS: usize = 1_000;
/// The queue and task of the jobs that lie in front, for which there is no worker.
const STRAGGLER: &str = "bench_straggler";

/// Let finished jobs of long ago go, under load and with a reader's transaction open
///
/// The finished jobs are written by SQL, as a broker would have written them eight days ago; the jobs in front of them
/// that are not finished are deferred. Then a worker process and four callers work all the time, first without
/// anything to retain, then while the partition of the old jobs is frozen and indexed, then while they go, by the
/// broker's own settings. What commits wait for is looked at 300 times a second, and the server logs each lock that is
/// waited for: so each defer that took longer than 20 ms is put down to something. Before all that, the disk is measured
/// alone.
#[derive(Args, Debug)]
pub(crate) struct RetentionArgs {
    /// How many finished jobs
    #[arg(long, value_name = "N", default_value_t = 200_000, value_parser = clap::value_parser!(i64).range(1_000..=16_000_000))]
    finished: i64,
    /// How many unfinished jobs lie in front of them
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    stragglers: u32,
    /// How many jobs are deferred a second meanwhile, by single calls
    #[arg(long, value_name = "N", default_value_t = 400, value_parser = clap::value_parser!(u32).range(4..=4_000))]
    rate: u32,
    /// How long to measure without retention, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 20)]
    quiet_seconds: u64,
    /// The major version of PostgreSQL to measure on
    #[arg(long, value_name = "MAJOR", value_parser = clap::value_parser!(u32).range(15..=18))]
    postgres_version: Option<u32>,
    #[command(flatten)]
    output: OutputArgs,
}

/// Everything that one run found.
#[derive(Debug, Serialize)]
struct Report {
    version: &'static str,
    /// Figures of a debug build say nothing about speed.
    optimized: bool,
    finished: i64,
    stragglers: u32,
    rate: u32,
    /// A page written and kept on the disk of the database, with nothing else under way.
    disk_ms: Waits,
    stretches: Vec<Stretch>,
    /// Jobs that were copied out of the partition.
    moved: i64,
    /// Bytes of tables and indexes that came back.
    freed_bytes: i64,
    /// Jobs that must be there still, and are.
    found: i64,
}

impl RetentionArgs {
    pub(crate) async fn run(&self) -> Outcome {
        let report = unless_stopped(self.measure()).await?;
        self.output.print(|| report.page(), &report)
    }

    async fn measure(&self) -> anyhow::Result<Report> {
        say("starting PostgreSQL and a broker of our own");
        let schema = Schema::default();
        let mut cell = Cell::private(self.postgres_version, &schema).await?;
        let url = cell.database_url().context("a database of our own")?;
        let log = cell.database_log().context("a server of our own")?;
        let folder = log.parent().context("a log lies in a folder")?.to_owned();
        let time = Duration::from_secs(self.quiet_seconds);
        say(format_args!("measuring the disk alone for {} s", self.quiet_seconds));
        let disk_ms = Waits::of(tokio::task::spawn_blocking(move || disk::syncs(&folder, time)).await??);
        say(format_args!("deferring {} jobs that nobody runs", self.stragglers));
        defer_stragglers(cell.address(), self.stragglers).await?;
        say(format_args!("writing {} finished jobs by SQL, eight days old", self.finished));
        let mut history = History::connect(&url, &schema).await?;
        let past = history.write(self.finished).await?;
        let processes = Processes { broker: cell.owner_pid(), writer: history.log_locks().await? };
        let mut measured = Measured {
            load: Load::start(cell.address(), self.rate, past.boundary).await?,
            witness: Witness::start(&url, processes).await?,
            log: ServerLog::new(log, processes.writer),
        };
        let mut stretches = Vec::new();
        say(format_args!("measuring {} s without retention", self.quiet_seconds));
        let quiet = async {
            sleep(Duration::from_secs(self.quiet_seconds)).await;
            Ok(())
        };
        cell.checkpoint().await?;
        stretches.push(measured.stretch("nothing to retain", &mut cell, quiet).await?);

        say("the partition is closed; waiting until it is frozen and indexed");
        cell.checkpoint().await?;
        history.want_upkeep().await?;
        let keeping = async {
            while !history.is_kept_up().await? {
                sleep(ASK_EVERY).await;
            }
            Ok(())
        };
        stretches.push(measured.stretch("freezing and indexing", &mut cell, keeping).await?);

        let mut reader = History::connect(&url, &schema).await?;
        reader.begin_to_read().await?;
        cell.checkpoint().await?;
        history.age().await?;
        say("a reader's transaction is open; waiting until the old jobs have gone");
        let boundary = past.boundary;
        let moving = async {
            let mut bounds = history.bounds().await?;
            while bounds.kept_below < boundary {
                bounds = wait(&mut history).await?;
            }
            Ok(())
        };
        stretches.push(measured.stretch("waiting for its minute", &mut cell, moving).await?);
        let moving = async {
            while wait(&mut history).await?.moved_below < boundary {}
            Ok(())
        };
        stretches.push(measured.stretch("moving", &mut cell, moving).await?);
        let refused = async {
            sleep(Duration::from_secs(65)).await;
            Ok(())
        };
        cell.checkpoint().await?;
        stretches.push(measured.stretch("drop refused, a reader is open", &mut cell, refused).await?);
        ensure!(!history.is_dropped().await?, "a table was dropped under an open transaction");
        cell.checkpoint().await?;
        reader.end_to_read().await?;
        say("the reader's transaction is over; waiting for the drop");
        let dropping = async {
            while !history.is_dropped().await? {
                sleep(ASK_EVERY).await;
            }
            Ok(())
        };
        stretches.push(measured.stretch("drop", &mut cell, dropping).await?);

        measured.stop().await?;
        let Past { failed, freed_bytes, .. } = past;
        let (moved, found) = history.left(boundary).await?;
        ensure!(
            found == failed + i64::from(self.stragglers),
            "{found} old jobs are left, and should be {failed} that failed and {} that are not finished",
            self.stragglers
        );
        cell.close().await?;
        Ok(Report {
            version: env!("CARGO_PKG_VERSION"),
            optimized: !cfg!(debug_assertions),
            finished: self.finished,
            stragglers: self.stragglers,
            rate: self.rate,
            disk_ms,
            stretches,
            moved,
            freed_bytes,
            found,
        })
    }
}

/// What goes on while something is measured, and who looks on.
struct Measured {
    load: Load,
    witness: Witness,
    log: ServerLog,
}

impl Measured {
    /// Measures while something is waited for.
    async fn stretch(
        &mut self,
        name: &'static str,
        cell: &mut Cell,
        until: impl Future<Output = anyhow::Result<()>>,
    ) -> anyhow::Result<Stretch> {
        let before = cell.costs().await?;
        self.load.take();
        self.witness.take();
        self.log.longest_wait()?;
        let began = Instant::now();
        timeout(PATIENCE, until).await.context("it did not come in time")??;
        let seen = Seen {
            began,
            took: began.elapsed(),
            defers: self.load.take(),
            looks: self.witness.take(),
            logged_lock: self.log.longest_wait()?,
        };
        let after = cell.costs().await?;
        Ok(Stretch::new(name, &seen, &before, &after))
    }

    async fn stop(self) -> anyhow::Result<()> {
        self.load.stop().await?;
        self.witness.stop().await
    }
}

impl Report {
    fn page(&self) -> String {
        let Self { version, finished, stragglers, rate, moved, freed_bytes, found, .. } = self;
        let build = if self.optimized { "" } else { " (a debug build: the figures mean nothing)" };
        let mib = freed_bytes >> 20;
        [
            format!(
                "cabbage {version}{build}; {finished} finished jobs, {stragglers} unfinished ones in front, \
                 {rate} defers a second"
            ),
            format!("the disk alone, 8 KiB written and synced: {}", self.disk_ms.line()),
            String::new(),
            stretch::table(&self.stretches),
            String::new(),
            self.stretches.iter().map(Stretch::causes).collect::<Vec<_>>().join("\n"),
            String::new(),
            format!("{moved} jobs were copied, {mib} MiB of tables and indexes came back"),
            format!("{found} old jobs had to stay, and are there"),
        ]
        .join("\n")
    }
}

async fn wait(history: &mut History) -> anyhow::Result<Bounds> {
    sleep(ASK_EVERY).await;
    history.bounds().await
}

async fn defer_stragglers(address: &str, count: u32) -> anyhow::Result<()> {
    let client = Client::builder(address).timeout(Duration::from_mins(2)).build()?;
    let mut left = count as usize;
    while left > 0 {
        let some = left.min(BATCH_JOBS);
        left -= some;
        let batch: Batch = (0..some).map(|_| NewJob::named(STRAGGLER).queue(STRAGGLER)).collect();
        client.defer_all(batch).await?;
    }
    Ok(())
}
