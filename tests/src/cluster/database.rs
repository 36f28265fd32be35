//! The PostgreSQL of a cluster.

use cabbage_dev_postgres::{Mode, Server};

use super::{DATABASE, Patroni};

/// One server, or several.
#[derive(Debug)]
pub enum Database {
    /// One server that is started again where it was.
    Single(Box<Server>),
    /// Servers that take each other's place.
    Patroni(Box<Patroni>),
}

impl Database {
    pub(super) async fn create(&self) -> anyhow::Result<()> {
        match self {
            Self::Single(server) => Ok(server.create_database(DATABASE).await?),
            Self::Patroni(patroni) => patroni.create_database(DATABASE).await,
        }
    }

    /// The URL of the server that takes writes, as far as is known.
    pub(super) fn url(&self) -> String {
        match self {
            Self::Single(server) => server.url(DATABASE),
            Self::Patroni(patroni) => patroni.primary_url(DATABASE),
        }
    }

    /// The URL that brokers are told.
    pub(super) fn url_of_brokers(&self) -> String {
        match self {
            Self::Single(server) => server.url(DATABASE),
            Self::Patroni(patroni) => patroni.url(DATABASE),
        }
    }

    /// The one server.
    pub(super) fn single(&self) -> anyhow::Result<&Server> {
        match self {
            Self::Single(server) => Ok(server),
            Self::Patroni(_) => anyhow::bail!("there are several servers"),
        }
    }

    pub(super) async fn restart(&mut self, mode: Mode) -> anyhow::Result<()> {
        match self {
            Self::Single(server) => Ok(server.restart(mode).await?),
            Self::Patroni(_) => anyhow::bail!("Patroni restarts the servers"),
        }
    }

    /// The servers that take each other's place.
    pub fn patroni(&mut self) -> anyhow::Result<&mut Patroni> {
        match self {
            Self::Patroni(patroni) => Ok(patroni),
            Self::Single(_) => anyhow::bail!("there is one server only"),
        }
    }
}
