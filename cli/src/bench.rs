//! `bench`: measures a cell, and checks while it measures.

mod about;
mod backlog;
mod bare;
mod batches;
mod broker;
mod caller;
mod cell;
mod child;
mod cpu;
mod crowd;
mod crowded;
mod database;
mod defer;
mod drain;
mod e2e;
mod fleet;
mod latency;
mod memory;
mod phase;
mod planned;
mod postgres;
mod probe;
mod progress;
mod report;
mod retention;
mod runs;
mod schedule;
mod stream;
mod takeover;
mod target;
mod times;
mod worker;

use std::num::NonZero;

use clap::Subcommand;
use tokio::runtime;

use crate::{
    exit::{Exit, Failure, Outcome},
    signals,
};

/// Measure a cell, and check that it loses and doubles nothing.
#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    Defer(defer::DeferArgs),
    Drain(drain::DrainArgs),
    E2e(e2e::E2eArgs),
    Latency(latency::LatencyArgs),
    Backlog(backlog::BacklogArgs),
    Locked(crowded::LockedArgs),
    Crowd(crowded::CrowdArgs),
    Schedule(schedule::ScheduleArgs),
    Retention(retention::RetentionArgs),
    Stream(stream::StreamArgs),
    Takeover(takeover::TakeoverArgs),
    Postgres(postgres::PostgresArgs),
    /// A worker process of a measurement
    #[command(hide = true)]
    Worker(worker::WorkerArgs),
    /// The broker process of a measurement
    #[command(hide = true)]
    Broker(broker::BrokerProcessArgs),
}

impl BenchCommand {
    /// The threads of each process. A worker whose handlers do nothing is faster on one, and so is a caller; a broker
    /// has the threads that it has by default as a program.
    pub(crate) fn runtime(&self) -> runtime::Builder {
        match self {
            Self::Drain(_)
            | Self::E2e(_)
            | Self::Backlog(_)
            | Self::Locked(_)
            | Self::Crowd(_)
            | Self::Schedule(_)
            | Self::Retention(_)
            | Self::Stream(_)
            | Self::Takeover(_)
            | Self::Postgres(_) => runtime::Builder::new_multi_thread(),
            Self::Defer(_) | Self::Latency(_) | Self::Worker(_) => runtime::Builder::new_current_thread(),
            Self::Broker(_) => cabbage_broker::runtime(NonZero::<u16>::MIN),
        }
    }

    pub(crate) async fn run(&self) -> Outcome {
        match self {
            Self::Defer(args) => args.run().await,
            Self::Drain(args) => args.run().await,
            Self::E2e(args) => args.run().await,
            Self::Latency(args) => args.run().await,
            Self::Backlog(args) => args.run().await,
            Self::Locked(args) => args.run().await,
            Self::Crowd(args) => args.run().await,
            Self::Schedule(args) => args.run().await,
            Self::Retention(args) => args.run().await,
            Self::Stream(args) => args.run().await,
            Self::Takeover(args) => args.run().await,
            Self::Postgres(args) => args.run().await,
            Self::Worker(args) => args.run().await,
            Self::Broker(args) => args.run().await,
        }
    }
}

/// What a measurement gives, unless somebody stops it by a signal.
async fn unless_stopped<T>(measuring: impl Future<Output = anyhow::Result<T>>) -> Outcome<T> {
    tokio::select! {
        measured = measuring => Ok(measured?),
        signal = signals::stop() => Err(Failure::new(Exit::Failure, format!("stopped by {signal}"))),
    }
}
