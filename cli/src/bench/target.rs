//! Which cell to measure.

use cabbage_migrations::Schema;
use clap::Args;

use super::cell::Cell;
use crate::{brokers::Address, output::say};

#[derive(Args, Debug)]
pub(super) struct TargetArgs {
    /// Measure this broker instead of one of our own. It gets a queue that nobody else has
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    broker: Vec<Address>,
    /// The database under that broker, to count commits and WAL and to check the jobs in
    #[arg(long, value_name = "URL", requires = "broker")]
    database_url: Option<String>,
    /// The schema of the cell
    #[arg(long, value_name = "NAME", default_value = "cabbage")]
    schema: Schema,
    /// The major version of PostgreSQL to measure on
    #[arg(long, value_name = "MAJOR", conflicts_with = "broker",
          value_parser = clap::value_parser!(u32).range(15..=18))]
    postgres_version: Option<u32>,
}

impl TargetArgs {
    /// The cell that was asked for, started if it is to be one of our own.
    pub(super) async fn cell(&self) -> anyhow::Result<Cell> {
        if self.broker.is_empty() {
            say("starting PostgreSQL and a broker of our own");
            return Cell::private(self.postgres_version, &self.schema).await;
        }
        Cell::given(&self.broker, self.database_url.as_deref(), &self.schema).await
    }
}
