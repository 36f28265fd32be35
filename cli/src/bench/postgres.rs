//! `bench postgres`: a database like those that are measured, for somebody else's measurement.

use cabbage_dev_postgres::{Mode, Options, Server, VersionWish};
use clap::Args;

use super::cell::DATABASE;
use crate::{
    exit::Outcome,
    output::{print_line, say},
    signals,
};

/// Run an empty PostgreSQL that is set like those under the other measurements, until it is told to stop
///
/// It says its URL on standard output. Other queues are measured on it.
#[derive(Args, Debug)]
pub(crate) struct PostgresArgs {
    /// The major version
    #[arg(long, value_name = "MAJOR", value_parser = clap::value_parser!(u32).range(15..=18))]
    postgres_version: Option<u32>,
}

impl PostgresArgs {
    pub(crate) async fn run(&self) -> Outcome {
        let version = self.postgres_version.map_or(VersionWish::Any, VersionWish::Major);
        let options = Options { version, ..Options::default() };
        let mut server = Server::start(options).await.map_err(anyhow::Error::from)?;
        server.create_database(DATABASE).await.map_err(anyhow::Error::from)?;
        print_line(&server.url(DATABASE))?;
        let signal = signals::stop().await;
        say(format_args!("stopped by {signal}"));
        server.stop(Mode::Immediate).await;
        Ok(())
    }
}
