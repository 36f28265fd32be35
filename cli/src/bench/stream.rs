//! `bench stream`: what workers that have nothing to do cost the broker.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use cabbage_migrations::Schema;
use cabbage_worker::{Client, NewJob};
use clap::Args;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::Serialize;
use tokio::time::sleep;

use super::{
    about::About,
    batches::FILLING,
    cell::{Cell, Costs},
    child::Child,
    drain::{check, new_queue},
    fleet::{FleetArgs, Work},
    report::Check,
    runs::Tally,
    unless_stopped,
    worker::TASK,
};
use crate::{
    exit::{Exit, Failure, Outcome},
    output::{OutputArgs, lines, say, table},
};

/// Jobs that are run before anything is measured, and for each stream at the end.
const WARM_UP_JOBS: u32 = 10_000;
const JOBS_PER_STREAM: u32 = 10;
/// Files that a process needs beside its streams.
const SPARE_FILES: u64 = 200;

/// Let workers wait for jobs over a stream each, and see what memory and CPU that takes
///
/// At the end the streams get jobs, which must all run once.
#[derive(Args, Debug)]
pub(crate) struct StreamArgs {
    /// How many workers
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    streams: u32,
    /// How long to watch them, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// The major version of PostgreSQL to measure on
    #[arg(long, value_name = "MAJOR", value_parser = clap::value_parser!(u32).range(15..=18))]
    postgres_version: Option<u32>,
    #[command(flatten)]
    output: OutputArgs,
}

/// What came of it.
#[derive(Debug, Serialize)]
struct Report {
    #[serde(flatten)]
    about: About,
    seconds: u32,
    rows: Vec<Row>,
    /// Memory of the broker for each stream beyond those of the first row.
    kib_per_stream: f64,
    check: Check,
}

/// The broker while nobody asks it for anything.
#[derive(Debug, Serialize)]
struct Row {
    streams: u32,
    broker_mib: f64,
    /// CPU, in thousandths of a core.
    broker_millicores: Option<f64>,
    postgresql_millicores: Option<f64>,
    statements_per_second: Option<f64>,
}

impl StreamArgs {
    pub(crate) async fn run(&self) -> Outcome {
        let report = unless_stopped(self.measure()).await?;
        self.output.print(|| report.page(), &report)?;
        if report.check.is_clean() {
            return Ok(());
        }
        Err(Failure::new(Exit::Failure, "not every job ran and succeeded exactly once"))
    }

    async fn measure(&self) -> anyhow::Result<Report> {
        raise_limit_of_files(u64::from(self.streams) + SPARE_FILES)?;
        say("starting PostgreSQL and a broker of our own");
        let mut cell = Cell::private(self.postgres_version, &Schema::default()).await?;
        let queue = new_queue();
        let client = Client::builder(cell.address()).timeout(Duration::from_mins(2)).build()?;
        let job = |_| NewJob::named(TASK).queue(&queue);
        let jobs = WARM_UP_JOBS + self.streams * JOBS_PER_STREAM;
        // A broker that has never done anything would seem small.
        let mut ids = FILLING.defer(&client, 0..WARM_UP_JOBS, job).await?;
        let base = *ids.iter().min().context("no job")?;
        let span = i64::from(jobs) * 2 + (1 << 20);
        let one = FleetArgs { workers: 1, concurrency: 10, prefetch: 10 };
        let mut first = one.start(Work { address: cell.address(), queue: &queue, base, span }).await?.go();
        first.recorded(ids.len() as u64).await.ok().context("the first worker is stuck")?;
        let mut reports = first.stop().await?;
        let mut rows = vec![self.watch(&mut cell, 0).await?];

        let mut streams = Child::start("workers", &self.args(&one, cell.address(), &queue, base, span))?;
        streams.expect("ready").await?;
        streams.tell("go").await?;
        streams.expect("connected").await?;
        rows.push(self.watch(&mut cell, self.streams).await?);

        say("running jobs over the streams");
        ids.extend(FILLING.defer(&client, 0..self.streams * JOBS_PER_STREAM, job).await?);
        streams.expect(&format!("recorded {}", self.streams * JOBS_PER_STREAM)).await?;
        streams.tell("stop").await?;
        reports.push(serde_json::from_str(&streams.expect("report").await?)?);
        streams.stop().await?;
        let tally = Tally::of(&ids, &reports).context("a worker's report is malformed")?;
        let check = check(&mut cell, &queue, &ids, Some(tally)).await?;
        let about = About::of(&mut cell).await?;
        cell.close().await?;
        let kib_per_stream = (rows[1].broker_mib - rows[0].broker_mib) * 1_024.0 / f64::from(self.streams);
        Ok(Report { about, seconds: self.seconds, rows, kib_per_stream, check })
    }

    fn args(&self, worker: &FleetArgs, address: &str, queue: &str, base: i64, span: i64) -> Vec<String> {
        let mut args = worker.args(Work { address, queue, base, span });
        args.extend(["--streams".to_owned(), self.streams.to_string()]);
        args
    }

    async fn watch(&self, cell: &mut Cell, streams: u32) -> anyhow::Result<Row> {
        say(format_args!("watching {streams} idle streams for {} s", self.seconds));
        let before = cell.costs().await?;
        sleep(Duration::from_secs(u64::from(self.seconds))).await;
        let after = cell.costs().await?;
        let seconds = f64::from(self.seconds);
        let millicores = |of: fn(&Costs) -> Option<Duration>| {
            Some(of(&after)?.saturating_sub(of(&before)?).as_secs_f64() * 1e3 / seconds)
        };
        Ok(Row {
            streams,
            broker_mib: cell.owner_memory().context("this system does not tell memory")? as f64 / f64::from(1 << 20),
            broker_millicores: millicores(|costs| costs.broker),
            postgresql_millicores: millicores(|costs| costs.postgresql),
            statements_per_second: after
                .statements
                .zip(before.statements)
                .map(|(after, before)| after.saturating_sub(before) as f64 / seconds),
        })
    }
}

/// Each stream is an open file at both ends. What children are allowed they have from us.
fn raise_limit_of_files(wanted: u64) -> anyhow::Result<()> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_none_or(|current| current >= wanted) {
        return Ok(());
    }
    ensure!(
        maximum.is_none_or(|maximum| maximum >= wanted),
        "this system allows no {wanted} open files; see ulimit -n"
    );
    setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum })?;
    Ok(())
}

impl Report {
    fn page(&self) -> String {
        let mut figures = table(&["streams", "broker MiB", "broker mcores", "postgresql mcores", "statements/s"]);
        for row in &self.rows {
            let or_dash = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.1}"));
            figures.add_row([
                row.streams.to_string(),
                format!("{:.1}", row.broker_mib),
                or_dash(row.broker_millicores),
                or_dash(row.postgresql_millicores),
                or_dash(row.statements_per_second),
            ]);
        }
        let head = self.about.head(format_args!("idle streams, watched for {} s", self.seconds));
        let per_stream = format!("each stream takes {:.1} KiB of the broker's memory", self.kib_per_stream);
        let mut page = vec![head, String::new(), lines(figures), String::new(), per_stream];
        page.extend(self.check.lines());
        page.extend(self.about.settings());
        page.join("\n")
    }
}
