//! Makes connections: to the first host that lets us in and will do.

use std::sync::{
    Arc,
    atomic::{AtomicI64, AtomicUsize, Ordering},
};

use sqlx::{
    ConnectOptions as _, PgConnection, Row as _,
    postgres::{PgConnectOptions, PgRow, PgSslMode},
};
use tokio::time::timeout;

use super::{
    connect::{self, Role},
    failure::{self, DialError, Why},
    hosts::Host,
    settings::PgSettings,
    target::{SessionAttrs, Target},
};
use crate::store::StoreError;

/// Makes connections. Every one goes through all hosts anew, so that each follows a failover by itself.
#[derive(Clone)]
pub(super) struct Dialer {
    pub(super) target: Arc<Target>,
    settings: Arc<PgSettings>,
    /// The host that is tried first: that of the newest primary, as far as is known.
    first: Arc<AtomicUsize>,
    /// The highest timeline on which a primary was seen.
    pub(super) timeline: Arc<AtomicI64>,
}

/// A connection, and the host that it leads to.
pub(super) struct Dialed {
    pub(super) connection: PgConnection,
    pub(super) host: Host,
}

impl Dialer {
    pub(super) fn new(target: Target, settings: PgSettings) -> Self {
        Self { target: Arc::new(target), settings: Arc::new(settings), first: Arc::default(), timeline: Arc::default() }
    }

    /// All hosts, in the order in which they are tried: as they were given, but for one that is known to be better.
    fn hosts(&self) -> impl Iterator<Item = &Host> {
        let hosts = &self.target.hosts;
        let first = self.first();
        let others = hosts.iter().enumerate().filter(move |(at, _)| *at != first).map(|(_, host)| host);
        hosts.get(first).into_iter().chain(others)
    }

    /// The number of the host that is tried first.
    pub(super) fn first(&self) -> usize {
        self.first.load(Ordering::Relaxed)
    }

    /// From now on this host is tried first.
    pub(super) fn prefer(&self, number: usize) {
        self.first.store(number, Ordering::Relaxed);
    }

    /// The same, for one of the hosts that is known by itself.
    pub(super) fn prefer_host(&self, host: &Host) {
        if let Some(number) = self.target.hosts.iter().position(|known| known == host) {
            self.prefer(number);
        }
    }

    /// Connects to the first host that will do. Each has its own time to answer.
    pub(super) async fn dial(&self, role: Role) -> Result<Dialed, DialError> {
        let mut failures = Vec::new();
        for host in self.hosts() {
            match self.dial_host(host, role).await {
                Ok(connection) => return Ok(Dialed { connection, host: host.clone() }),
                Err(error) => failures.push(error),
            }
        }
        Err(DialError::of_all(&failures))
    }

    /// The options of a connection to the first host that will do: for what makes its connection by itself.
    pub(super) async fn dial_options(&self, role: Role) -> Result<PgConnectOptions, DialError> {
        let mut failures = Vec::new();
        for host in self.hosts() {
            match self.let_in(host, role).await {
                Ok((_, options)) => return Ok(options),
                Err(error) => failures.push(error),
            }
        }
        Err(DialError::of_all(&failures))
    }

    /// Connects to this host, with or without encryption as the mode has it.
    pub(super) async fn dial_host(&self, host: &Host, role: Role) -> Result<PgConnection, DialError> {
        Ok(self.let_in(host, role).await?.0)
    }

    /// What an error means that concerns what this role may do at this host; `None`: it is about something else.
    pub(super) fn withheld(&self, host: &Host, error: &sqlx::Error) -> Option<StoreError> {
        failure::withheld(host, &self.target, &self.settings.schema, error)
    }

    async fn let_in(&self, host: &Host, role: Role) -> Result<(PgConnection, PgConnectOptions), DialError> {
        let (base, password) = self.target.options(host)?;
        let options = connect::options(base, &self.settings, role);
        // A socket stays on this machine: there is nothing to encrypt, and the server would refuse.
        let plain = [PgSslMode::Disable];
        let tries = if host.is_socket() { &plain } else { self.target.tls.tries() };
        let mut refused: Option<DialError> = None;
        for mode in tries {
            let options = options.clone().ssl_mode(*mode);
            let letting_in = async {
                let mut connection = options.connect().await?;
                let row = greet(&mut connection, role).await?;
                Ok::<_, sqlx::Error>((connection, row))
            };
            let error = match timeout(self.target.connect_timeout, letting_in).await {
                Ok(Ok((connection, row))) => return self.judge(host, role, &row).map(|()| (connection, options)),
                Ok(Err(error)) => DialError::of_host(host, &self.target, &password, &error),
                Err(_) => DialError::new(
                    Why::Away,
                    format!(
                        "{host} does not answer within {} s (connect_timeout): is the address right, and does no \
                         firewall stand between?",
                        self.target.connect_timeout.as_secs()
                    ),
                ),
            };
            let goes_on = error.is_about_encryption();
            refused = Some(match refused {
                Some(first) => first.and(&error),
                None => error,
            });
            if !goes_on {
                break;
            }
        }
        Err(refused.unwrap_or_else(|| DialError::new(Why::Away, format!("{host} was not tried"))))
    }

    /// Whether this server will do.
    fn judge(&self, host: &Host, role: Role, row: &PgRow) -> Result<(), DialError> {
        let said = |at: usize| row.try_get::<Option<String>, _>(at).ok().flatten().unwrap_or_default();
        let (in_recovery, read_only, arrived) = (said(0) == "true", said(1) == "on", said(2));
        if arrived != role.name() {
            let text = format!(
                "{host} is a pooler: the settings of the session did not arrive; name the server itself, since the \
                 locks of an owner need a session of their own"
            );
            return Err(DialError::new(Why::Unsuitable, text));
        }
        match self.target.attrs {
            SessionAttrs::ReadWrite | SessionAttrs::Primary if in_recovery => {
                Err(DialError::new(Why::NotPrimary, format!("{host} is a standby")))
            }
            SessionAttrs::ReadWrite if read_only => {
                let text = format!("{host} is read-only (default_transaction_read_only)");
                Err(DialError::new(Why::NotPrimary, text))
            }
            SessionAttrs::Any | SessionAttrs::ReadWrite | SessionAttrs::Primary => Ok(()),
        }
    }
}

/// What the server is, and whether our settings reached it. A reader becomes one here: what the server itself is set to
/// must be read first.
async fn greet(connection: &mut PgConnection, role: Role) -> Result<PgRow, sqlx::Error> {
    let sql = match role {
        Role::Owner | Role::Upkeep | Role::Migration => {
            "-- cabbage:greet
            SELECT pg_is_in_recovery()::text, current_setting('default_transaction_read_only'),
                current_setting('cabbage.role', true)"
        }
        Role::Reader => {
            "-- cabbage:greet_reader
            SELECT pg_is_in_recovery()::text, s.read_only, current_setting('cabbage.role', true),
                set_config('default_transaction_read_only', 'on', false)
            FROM current_setting('default_transaction_read_only') s (read_only)"
        }
    };
    sqlx::raw_sql(sql).fetch_one(connection).await
}
