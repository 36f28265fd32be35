//! A broker on a database of its own.

use std::time::Duration;

use cabbage_broker::{
    Broker, BrokerArgs,
    args::{DatabaseArgs, Secret},
};
use cabbage_dev_postgres::{TestDatabase, TestServer};
use tokio::time::timeout;

/// A broker on free ports, once it owns its cell; and its database. The settings can be changed first.
pub(crate) async fn start(change: impl FnOnce(&mut BrokerArgs)) -> (Broker, TestDatabase) {
    let server = TestServer::shared(None).await.expect("a server for tests");
    let kept = server.database().await.expect("a database");
    let any = "127.0.0.1:0".parse().expect("an address");
    let Ok(secret) = kept.url().parse::<Secret>();
    let database = DatabaseArgs { database_url: Some(secret), ..DatabaseArgs::default() };
    let mut args = BrokerArgs { listen: any, admin_listen: any, database, ..BrokerArgs::default() };
    change(&mut args);
    let broker = Broker::start(&args).await.expect("the broker starts");
    assert!(timeout(Duration::from_secs(30), broker.owns()).await.expect("in time"), "nobody else owns the cell");
    (broker, kept)
}
