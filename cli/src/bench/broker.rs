//! The broker of a measurement, as a process of its own so that its CPU time can be told from the rest.

use std::net::{Ipv4Addr, SocketAddr};

use cabbage_broker::{
    BrokerArgs,
    args::{DatabaseArgs, MemoryArgs},
};
use cabbage_migrations::Schema;
use clap::Args;

use super::child::Parent;
use crate::{exit::Outcome, output::print_line, own_broker};

#[derive(Args, Debug)]
pub(crate) struct BrokerProcessArgs {
    #[arg(long)]
    database_url: String,
    #[arg(long)]
    schema: Schema,
    /// Another broker may own the cell
    #[arg(long)]
    standby: bool,
    /// From the environment, which is that of the bench
    #[command(flatten)]
    memory: MemoryArgs,
}

impl BrokerProcessArgs {
    pub(crate) async fn run(&self) -> Outcome {
        let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let Ok(database_url) = self.database_url.parse();
        let database =
            DatabaseArgs { database_url: Some(database_url), schema: self.schema.clone(), ..DatabaseArgs::default() };
        let memory = self.memory.clone();
        let args = BrokerArgs { listen: any_port, admin_listen: any_port, database, memory, ..BrokerArgs::default() };
        let mut broker =
            if self.standby { own_broker::start_beside(&args).await? } else { own_broker::start(&args).await? };
        let mut parent = Parent::listen();
        print_line(&format!("ready {} {}", broker.grpc_address(), broker.admin_address()))?;
        tokio::select! {
            _ = parent.waits_for("stop") => {}
            error = broker.ended() => return Err(own_broker::failure(&error)),
        }
        broker.shutdown().await.map_err(|error| own_broker::failure(&error))
    }
}
