//! The command line as a whole.

use clap::{Parser, Subcommand};
use tokio::runtime;

use crate::{
    audit::AuditArgs,
    bench::BenchCommand,
    broker::BrokerCommand,
    defer::DeferArgs,
    dev::DevArgs,
    exit::{Exit, Failure, Outcome},
    health::HealthArgs,
    jobs::JobCommand,
    migrate::MigrateArgs,
    queues::QueueCommand,
    retention::RetentionArgs,
    schedules::ScheduleCommand,
};

/// Defer jobs, look at them and act on them, run a cell of your own, and measure it
#[derive(Debug, Parser)]
#[command(
    name = "cabbage-cli",
    version,
    arg_required_else_help = true,
    after_help = "\
Exit codes: 0 ok, 1 failure, 2 usage, 3 not found, 4 conflict, 5 denied, 6 unavailable, 7 unknown outcome.
Try it without anything: cabbage-cli dev --demo"
)]
pub(crate) struct Command {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Defer(Box<DeferArgs>),
    #[command(subcommand)]
    Job(JobCommand),
    #[command(subcommand)]
    Queue(QueueCommand),
    #[command(subcommand)]
    Schedule(ScheduleCommand),
    Audit(AuditArgs),
    #[command(subcommand)]
    Broker(BrokerCommand),
    Retention(RetentionArgs),
    Migrate(MigrateArgs),
    Health(HealthArgs),
    #[command(subcommand)]
    Bench(BenchCommand),
    Dev(Box<DevArgs>),
}

impl Command {
    pub(crate) fn run(self) -> Outcome {
        let mut runtime = match &self.verb {
            Verb::Bench(command) => command.runtime(),
            _ => runtime::Builder::new_multi_thread(),
        };
        let runtime = runtime.enable_all().build();
        let runtime = runtime.map_err(|error| Failure::from_error(Exit::Failure, "cannot start", &error))?;
        let outcome = runtime.block_on(async {
            match self.verb {
                Verb::Defer(args) => args.run().await,
                Verb::Job(command) => command.run().await,
                Verb::Queue(command) => command.run().await,
                Verb::Audit(args) => args.run().await,
                Verb::Broker(command) => command.run().await,
                Verb::Retention(args) => args.run().await,
                Verb::Schedule(command) => command.run().await,
                Verb::Migrate(args) => args.run().await,
                Verb::Health(args) => args.run().await,
                Verb::Bench(command) => command.run().await,
                Verb::Dev(args) => args.run().await,
            }
        });
        // A thread that still waits for standard input must not hold us up.
        runtime.shutdown_background();
        outcome
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_contradicts_itself_nowhere() {
        Command::command().debug_assert();
    }
}
