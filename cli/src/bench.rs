//! `bench`: measures a cell, and checks while it measures.

mod bare;
mod batches;
mod broker;
mod cell;
mod child;
mod cpu;
mod crowd;
mod crowded;
mod database;
mod drain;
mod memory;
mod probe;
mod progress;
mod report;
mod retention;
mod runs;
mod schedule;
mod worker;

use clap::Subcommand;
use tokio::runtime;

use crate::exit::Outcome;

/// Measure a cell, and check that it loses and doubles nothing.
#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    Drain(drain::DrainArgs),
    Locked(crowded::LockedArgs),
    Crowd(crowded::CrowdArgs),
    Schedule(schedule::ScheduleArgs),
    Retention(retention::RetentionArgs),
    /// A worker process of a measurement
    #[command(hide = true)]
    Worker(worker::WorkerArgs),
    /// The broker process of a measurement
    #[command(hide = true)]
    Broker(broker::BrokerProcessArgs),
}

impl BenchCommand {
    /// The threads of each process. A worker whose handlers do nothing is faster on one; a broker has the threads that
    /// it has by default as a program.
    pub(crate) fn runtime(&self) -> runtime::Builder {
        match self {
            Self::Drain(_) | Self::Locked(_) | Self::Crowd(_) | Self::Schedule(_) | Self::Retention(_) => {
                runtime::Builder::new_multi_thread()
            }
            Self::Worker(_) => runtime::Builder::new_current_thread(),
            Self::Broker(_) => {
                let mut builder = runtime::Builder::new_multi_thread();
                builder.worker_threads(1);
                builder
            }
        }
    }

    pub(crate) async fn run(&self) -> Outcome {
        match self {
            Self::Drain(args) => args.run().await,
            Self::Locked(args) => args.run().await,
            Self::Crowd(args) => args.run().await,
            Self::Schedule(args) => args.run().await,
            Self::Retention(args) => args.run().await,
            Self::Worker(args) => args.run().await,
            Self::Broker(args) => args.run().await,
        }
    }
}
