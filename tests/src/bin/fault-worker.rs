//! A worker of a fault run: runs the jobs of the load, and writes down what it does before it says so. It ends when
//! its input does.

use std::{path::PathBuf, sync::Arc, time::Duration};

use cabbage_tests::{
    history::{End, Journal, LeaseName, WorkerEvent, WorkerStep},
    lifeline,
    load::{CONCURRENCY, PREFETCH, TASKS, Work},
    witness::{self, Witness},
};
use cabbage_worker::{Context, TaskError, Worker};
use clap::Parser;

#[derive(Parser)]
struct Line {
    /// The brokers, with commas.
    #[arg(long)]
    brokers: String,
    /// The name of this process in its log.
    #[arg(long)]
    name: String,
    /// The log.
    #[arg(long)]
    journal: PathBuf,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let line = Line::parse();
    lifeline::end_with_stdin();
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let journal = Arc::new(Journal::open(&line.journal, &line.name)?);
    let mut addresses = Vec::new();
    for broker in line.brokers.split(',') {
        addresses.push(Witness::start(broker, journal.clone()).await?.to_string());
    }
    let mut builder = Worker::builder(addresses)
        .name(line.name)
        .shared_state(journal)
        .concurrency(CONCURRENCY)
        .prefetch(PREFETCH)
        .handle_signals();
    for task in TASKS {
        builder = builder.function(task, run);
    }
    let status = builder.build()?.run().await;
    tracing::info!(?status, "the worker ended");
    Ok(())
}

async fn run(work: Work, ctx: Context<Journal>) -> Result<(), TaskError> {
    let lease = witness::name(ctx.lease_token()).expect("a lease token of a cabbage broker");
    let write = |step| ctx.state().write([WorkerEvent { stamp: ctx.state().stamp(), step }]);
    write(WorkerStep::Start { lease, attempt: ctx.attempt() });
    let cancelled = if work.millis == 0 {
        false
    } else {
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(work.millis)) => false,
            cause = ctx.cancelled() => cause == cabbage_worker::CancelCause::Requested,
        }
    };
    let end = |end| write(WorkerStep::End { lease: LeaseName { ..lease }, end });
    if cancelled {
        end(End::Cancelled);
        return Err(TaskError::cancelled("told to"));
    }
    if ctx.attempt() <= work.fails {
        end(End::Failed);
        return Err(TaskError::new("Flaky", format!("attempt {} of {}", ctx.attempt(), work.fails)));
    }
    end(End::Succeeded);
    Ok(())
}
