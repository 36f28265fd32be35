//! The cables between the parties of a cluster.

use std::{collections::BTreeMap, io, net::SocketAddr};

use crate::proxy::Proxy;

/// The name of the database among the parties.
pub const DATABASE_PARTY: &str = "database";
/// The name of the brokers among the parties, as far as they call each other.
pub const PEERS_PARTY: &str = "peers";

/// One cable for each pair of parties, by their names: `worker-1` and `broker-0`, `broker-0` and `database`. Dropping it
/// resets all connections.
#[derive(Debug)]
pub struct Cables {
    seed: u64,
    laid: BTreeMap<(String, String), Proxy>,
}

impl Cables {
    pub(super) fn new(seed: u64) -> Self {
        Self { seed, laid: BTreeMap::new() }
    }

    /// Lays a cable, unless there is one; answers where its near end is.
    pub(super) fn lay(&mut self, from: &str, to: &str, server: SocketAddr) -> io::Result<SocketAddr> {
        let ends = (from.to_owned(), to.to_owned());
        if let Some(cable) = self.laid.get(&ends) {
            return Ok(cable.address());
        }
        let cable = Proxy::start(server, self.seed.wrapping_add(self.laid.len() as u64 * 1_000))?;
        let address = cable.address();
        self.laid.insert(ends, cable);
        Ok(address)
    }

    /// All cables of one party, from it and to it.
    pub fn of<'a>(&'a self, party: &'a str) -> impl Iterator<Item = &'a Proxy> {
        self.laid.iter().filter(move |((from, to), _)| from == party || to == party).map(|(_, cable)| cable)
    }

    /// The cable between two parties.
    pub fn between(&self, from: &str, to: &str) -> Option<&Proxy> {
        self.laid.get(&(from.to_owned(), to.to_owned()))
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = &Proxy> {
        self.laid.values()
    }
}
