//! The client: defers jobs, looks at them, and waits for their results.

mod batch;
mod call;
mod channels;
mod fold;
mod job;
mod query;
mod queues;
mod schedule;
mod verbs;

use std::{fmt, sync::Arc, time::Duration};

use tonic::{
    metadata::{Ascii, MetadataValue},
    transport::Endpoint,
};

pub use self::{
    batch::{Batch, BatchOutcome},
    job::{Defer, Deferred, JobBuilder, LockMode, NewJob, QueueingConflict},
    query::{JobFilter, JobPage},
    schedule::{MissedTicks, NewSchedule},
};
use crate::{
    Error,
    address::{Addresses, actor, bearer, endpoints},
    wire,
};

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

/// A producer's and an operator's way to the brokers of a cell. Cheap to clone; all clones share their connections.
///
/// It connects when it is first used. A broker that cannot serve is left for the next address. A call whose outcome
/// is unknown is repeated with the same request id, which changes nothing twice (C2), until the deadline of the call;
/// only then the caller hears of it, as [`Error::OutcomeUnknown`].
///
/// Single defers that are made at the same time, through clones of one client, travel together: while one is on its
/// way, those that come wait for it, and are the next call. Each keeps its own request id, deadline and answer.
#[derive(Clone)]
pub struct Client {
    calls: Arc<call::Calls>,
}

impl Client {
    /// A client for the brokers at these addresses, with a deadline of 30 s for each call.
    pub fn new(addresses: impl Addresses) -> Result<Self, Error> {
        Self::builder(addresses).build()
    }

    /// Starts to describe a client.
    pub fn builder(addresses: impl Addresses) -> ClientBuilder {
        ClientBuilder { addresses: addresses.into_addresses(), timeout: DEFAULT_TIMEOUT, bearer: None, actor: None }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

/// Describes a [`Client`].
#[derive(Clone)]
#[must_use]
pub struct ClientBuilder {
    addresses: Vec<String>,
    timeout: Duration,
    bearer: Option<String>,
    actor: Option<String>,
}

impl ClientBuilder {
    /// The deadline of each call, repetitions included. Default: 30 s.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = wire::bounded(timeout);
        self
    }

    /// Shows this token to the brokers.
    pub fn bearer_token(mut self, token: impl Into<String>) -> Self {
        self.bearer = Some(token.into());
        self
    }

    /// Who asks, for the record of operators' verbs (C17): a plain name of up to 128 bytes. Default: the address that the
    /// brokers see.
    pub fn actor(mut self, name: impl Into<String>) -> Self {
        self.actor = Some(name.into());
        self
    }

    /// Checks everything. It connects only when it is used.
    pub fn build(self) -> Result<Client, Error> {
        let endpoints: Vec<Endpoint> = endpoints(&self.addresses)?;
        let bearer: Option<MetadataValue<Ascii>> = self.bearer.as_deref().map(bearer).transpose()?;
        let actor = self.actor.as_deref().map(actor).transpose()?;
        Ok(Client { calls: Arc::new(call::Calls::new(endpoints, bearer, actor, self.timeout)) })
    }
}

impl fmt::Debug for ClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientBuilder").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}
