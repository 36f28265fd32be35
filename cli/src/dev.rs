//! `dev`: a whole cell in one process, to try things with.

mod banner;
mod database;
mod demo;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use cabbage_broker::{
    BrokerArgs,
    args::{ADMIN_DEFAULT, DatabaseArgs, LISTEN_DEFAULT, LogFormat, StoreKind},
    telemetry,
};
use clap::{Args, ValueEnum};
use tokio::time::sleep;

use crate::{
    exit::{Exit, Failure, Outcome},
    output::{print_line, say},
    own_broker, signals,
    time::parse_duration,
};
use banner::Banner;
use database::DevDatabase;
use demo::Demo;

/// Only what is wrong, but for what the broker says at its start: the banner says that better.
const LOG_DEFAULT: &str = "warn,cabbage_broker::run=error";

/// Run a broker with a database of its own, to try things with; not for production
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  cabbage-cli dev --demo                 watch jobs being done
  cabbage-cli dev --data ./cabbage       keep the jobs for the next time
  cabbage-cli dev --store memory         no database at all")]
pub(crate) struct DevArgs {
    /// Address for clients and workers (gRPC); port 0 takes any that is free
    #[arg(long, value_name = "ADDRESS", default_value_t = LISTEN_DEFAULT)]
    listen: SocketAddr,
    /// Address for operators (HTTP): /livez, /readyz and /metrics
    #[arg(long, value_name = "ADDRESS", default_value_t = ADMIN_DEFAULT)]
    admin_listen: SocketAddr,
    /// Where the jobs are kept
    #[arg(long, value_enum, default_value_t = StoreArg::Postgres)]
    store: StoreArg,
    /// Keep the data in this folder; without it everything is thrown away at the end
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The major version of PostgreSQL to run, 15 to 18; downloaded where this machine has none
    #[arg(long, value_name = "MAJOR", value_parser = clap::value_parser!(u32).range(15..=18))]
    postgres_version: Option<u32>,
    /// Run an example worker, and keep giving it jobs
    #[arg(long)]
    demo: bool,
    /// End by itself after this time, such as 20s
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    stop_after: Option<Duration>,
    /// What is logged: error, warn, info, debug or trace, also by module; without it, only what is wrong
    #[arg(long, value_name = "LEVEL")]
    log: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum StoreArg {
    /// In a PostgreSQL of its own
    Postgres,
    /// In memory
    Memory,
}

impl DevArgs {
    pub(crate) async fn run(&self) -> Outcome {
        self.check()?;
        telemetry::start_log(LogFormat::Text, self.log())
            .map_err(|error| Failure::from_error(Exit::Usage, "--log", &error))?;
        // Watched from here on, so that Ctrl-C during the start stops what has started, too.
        let stop = signals::stop();
        tokio::pin!(stop);
        let database = match self.store {
            StoreArg::Memory => None,
            StoreArg::Postgres => {
                say("starting PostgreSQL ...");
                tokio::select! {
                    database = DevDatabase::start(self.data.as_deref(), self.postgres_version) => Some(database?),
                    signal = &mut stop => {
                        say_early(signal);
                        return Ok(());
                    }
                }
            }
        };
        let served = tokio::select! {
            served = self.serve(database.as_ref()) => served,
            signal = &mut stop => {
                if let Some(database) = database {
                    database.stop().await;
                }
                say_early(signal);
                return Ok(());
            }
        };
        let outcome = match served {
            Ok(cell) => cell.run_until(stop, self.stop_after).await,
            Err(failure) => Err(failure),
        };
        if let Some(database) = database {
            database.stop().await;
        }
        if outcome.is_ok() {
            say("stopped");
        }
        outcome
    }

    fn log(&self) -> &str {
        self.log.as_deref().unwrap_or(LOG_DEFAULT)
    }

    /// What single options cannot check.
    fn check(&self) -> Outcome {
        if self.store == StoreArg::Memory && (self.data.is_some() || self.postgres_version.is_some()) {
            return Err(Failure::usage("--store memory has no database")
                .remedy("leave --data and --postgres-version out, or leave --store out"));
        }
        for (option, address) in [("--listen", self.listen), ("--admin-listen", self.admin_listen)] {
            if !address.ip().is_loopback() {
                let text =
                    format!("{option} {address} can be reached from other machines, and `dev` lets everybody in");
                return Err(
                    Failure::usage(text).remedy("use a loopback address such as 127.0.0.1, or run cabbage-broker")
                );
            }
        }
        Ok(())
    }

    async fn serve(&self, database: Option<&DevDatabase>) -> Outcome<DevCell> {
        let args = BrokerArgs {
            listen: self.listen,
            admin_listen: self.admin_listen,
            reflection: true,
            store: if database.is_some() { StoreKind::Postgres } else { StoreKind::Memory },
            database: database.map_or_else(DatabaseArgs::default, DevDatabase::args),
            log: self.log().to_owned(),
            ..BrokerArgs::default()
        };
        let broker = own_broker::start(&args).await?;
        let banner = Banner {
            program: program(),
            broker: broker.grpc_address(),
            is_default_broker: broker.grpc_address() == LISTEN_DEFAULT,
            admin: broker.admin_address(),
            database: database.map(DevDatabase::lines),
            demo: self.demo,
        };
        print_line(&banner.to_string())?;
        let demo = if self.demo { Some(Demo::start(broker.grpc_address())?) } else { None };
        Ok(DevCell { demo, broker })
    }
}

/// What runs until it is told to stop, in the order in which it stops.
struct DevCell {
    demo: Option<Demo>,
    broker: cabbage_broker::Broker,
}

impl DevCell {
    async fn run_until(mut self, stop: impl Future<Output = &'static str>, after: Option<Duration>) -> Outcome {
        let time_is_up = async {
            match after {
                Some(after) => sleep(after).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            signal = stop => say(format_args!("{signal}: stopping ...")),
            () = time_is_up => say("the time is up: stopping ..."),
            error = self.broker.ended() => return Err(own_broker::failure(&error)),
        }
        let stopping = async {
            if let Some(demo) = self.demo {
                demo.stop().await;
            }
            self.broker.shutdown().await.map_err(|error| own_broker::failure(&error))
        };
        tokio::select! {
            stopped = stopping => stopped,
            // Whoever asks twice does not want to wait; the database still stops in order.
            signal = signals::stop() => {
                say(format_args!("{signal} again: not waiting any longer"));
                Ok(())
            }
        }
    }
}

/// The first word of the command line, where it can be typed again as it is.
fn program() -> String {
    let called = std::env::args_os()
        .next()
        .and_then(|name| name.into_string().ok())
        .filter(|name| !name.is_empty() && !name.contains(char::is_whitespace));
    called.unwrap_or_else(|| "cabbage-cli".to_owned())
}

fn say_early(signal: &str) {
    say(format_args!("{signal}: stopped before it was ready"));
}
