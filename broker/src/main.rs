//! The broker as a program.

use std::{num::NonZero, process::ExitCode};

use cabbage_broker::{Broker, BrokerArgs, BrokerError, telemetry};
use clap::Parser;
use mimalloc::MiMalloc;
use tokio::signal::unix::{SignalKind, signal};

/// Most of what is made for a call is freed by another thread or in another order, which costs the C library's more.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// The most threads that may be asked for.
const THREADS_MAX: i64 = 1_024;

/// The broker of cabbage: owns the jobs of a cell in PostgreSQL, and pushes them to workers.
///
/// Several brokers may serve one cell: one owns it, the others stand by and take over within seconds.
#[derive(Parser)]
#[command(name = "cabbage-broker", version)]
struct Line {
    #[command(flatten)]
    args: BrokerArgs,

    /// Threads. One serves some 300,000 jobs a second; more help only where many connections are encrypted.
    #[arg(long, env = "CABBAGE_THREADS", value_name = "COUNT", default_value_t = 1,
          value_parser = clap::value_parser!(u16).range(1..=THREADS_MAX))]
    threads: u16,
}

fn main() -> ExitCode {
    let line = Line::parse();
    if let Err(error) = telemetry::start_log(line.args.log_format, &line.args.log) {
        eprintln!("cabbage-broker: the log level cannot be read: {error}");
        return ExitCode::from(2);
    }
    let threads = NonZero::new(line.threads).unwrap_or(NonZero::<u16>::MIN);
    let runtime = match cabbage_broker::runtime(threads).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("cabbage-broker: no threads: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(&line.args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the broker ends");
            eprintln!("cabbage-broker: {error}");
            match error {
                BrokerError::Args(_) | BrokerError::Log(_) | BrokerError::Database(_) => ExitCode::from(2),
                BrokerError::Store(_)
                | BrokerError::Listen { .. }
                | BrokerError::Metrics(_)
                | BrokerError::Routes(_)
                | BrokerError::Ended(_)
                | BrokerError::StopTimeout(_) => ExitCode::FAILURE,
            }
        }
    }
}

async fn run(args: &BrokerArgs) -> Result<(), BrokerError> {
    let signals = |kind| signal(kind).map_err(|error| BrokerError::Ended(format!("no signals: {error}")));
    let (mut terminate, mut interrupt) = (signals(SignalKind::terminate())?, signals(SignalKind::interrupt())?);
    let mut broker = Broker::start(args).await?;
    tokio::select! {
        error = broker.ended() => return Err(error),
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tokio::select! {
        stopped = broker.shutdown() => stopped,
        // Whoever asks twice does not want to wait.
        _ = terminate.recv() => Err(BrokerError::StopTimeout("it was interrupted again")),
        _ = interrupt.recv() => Err(BrokerError::StopTimeout("it was interrupted again")),
    }
}
