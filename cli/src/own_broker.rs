//! A broker inside of this process.

use std::time::Duration;

use cabbage_broker::{Broker, BrokerArgs, BrokerError, cell::Role};
use tokio::time::timeout;

use crate::exit::{Exit, Failure, Outcome};

/// How long a broker may take to own a cell that nobody else wants.
const OWN_TIMEOUT: Duration = Duration::from_mins(1);

/// Starts a broker, and waits until it owns its cell.
pub(crate) async fn start(args: &BrokerArgs) -> Outcome<Broker> {
    start_as(args, |role| matches!(role, Role::Owning(_))).await
}

/// Starts a broker, and waits until it owns its cell or follows the one that does.
pub(crate) async fn start_beside(args: &BrokerArgs) -> Outcome<Broker> {
    start_as(args, |role| matches!(role, Role::Owning(_) | Role::Following(_))).await
}

async fn start_as(args: &BrokerArgs, is_wanted: impl Fn(&Role) -> bool) -> Outcome<Broker> {
    let mut broker = Broker::start(args).await.map_err(|error| failure(&error))?;
    let mut role = broker.cell().watch();
    let owns = async {
        tokio::select! {
            // The watch ends only with the cell, and then the other arm says why.
            Ok(_) = role.wait_for(is_wanted) => Ok(()),
            error = broker.ended() => Err(failure(&error)),
        }
    };
    if let Ok(owns) = timeout(OWN_TIMEOUT, owns).await {
        return owns.map(|()| broker);
    }
    let why = match broker.cell().role() {
        Role::Starting(why) => why.to_string(),
        Role::Following(Some(owner)) => format!("the broker at {} owns the cell", owner.address),
        Role::Following(None) => "another broker owns the cell".to_owned(),
        Role::Owning(_) | Role::Stopped => "it stopped".to_owned(),
    };
    Err(Failure::new(Exit::Unavailable, format!("the broker was not ready within {OWN_TIMEOUT:?}: {why}")))
}

pub(crate) fn failure(error: &BrokerError) -> Failure {
    let doing = "cannot run the broker";
    match error {
        BrokerError::Args(_) | BrokerError::Log(_) | BrokerError::Database(_) => {
            Failure::from_error(Exit::Usage, doing, error)
        }
        BrokerError::Listen { address, source } if source.kind() == std::io::ErrorKind::AddrInUse => {
            Failure::new(Exit::Conflict, format!("{address} is taken: another program listens there"))
                .remedy("choose another address with --listen or --admin-listen; port 0 takes any that is free")
        }
        BrokerError::Store(_) => Failure::from_error(Exit::Unavailable, doing, error),
        BrokerError::Listen { .. }
        | BrokerError::Metrics(_)
        | BrokerError::Routes(_)
        | BrokerError::Ended(_)
        | BrokerError::StopTimeout(_) => Failure::from_error(Exit::Failure, doing, error),
    }
}
