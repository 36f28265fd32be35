//! A broker on a store in memory.

use std::time::Duration;

use cabbage_broker::{Broker, BrokerArgs, args::StoreKind};
use tokio::time::timeout;

/// A broker on free ports, once it owns its cell. The settings can be changed first.
pub(crate) async fn start(change: impl FnOnce(&mut BrokerArgs)) -> Broker {
    let any = "127.0.0.1:0".parse().expect("an address");
    let mut args = BrokerArgs { listen: any, admin_listen: any, store: StoreKind::Memory, ..BrokerArgs::default() };
    change(&mut args);
    let broker = Broker::start(&args).await.expect("the broker starts");
    assert!(timeout(Duration::from_secs(30), broker.owns()).await.expect("in time"), "nobody else owns the cell");
    broker
}
