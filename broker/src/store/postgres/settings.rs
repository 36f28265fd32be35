//! How to reach the database.

use std::{fmt, str::FromStr, time::Duration};

use cabbage_migrations::Schema;
use sqlx::postgres::PgConnectOptions;

use crate::store::StoreError;

/// How to reach the database, and how patient to be with it.
///
/// What is not given here comes from the URL, then from the environment as `libpq` knows it (`PGHOST`, `PGUSER`, …
/// and the password file), then from PostgreSQL's defaults. Addresses must lead to the server itself: a pooler in
/// transaction mode cannot hold the locks of an owner.
#[derive(Clone)]
pub struct PgSettings {
    /// `postgres://user@host:port/database?sslmode=…`
    pub url: Option<String>,
    /// A name, an address, or the folder of a socket.
    pub host: Option<String>,
    /// The port.
    pub port: Option<u16>,
    /// The role.
    pub user: Option<String>,
    /// The role's password.
    pub password: Option<String>,
    /// The database.
    pub dbname: Option<String>,
    /// `disable`, `allow`, `prefer`, `require`, `verify-ca` or `verify-full`.
    pub sslmode: Option<String>,
    /// A file of root certificates.
    pub sslrootcert: Option<String>,
    /// A file with the client's certificate.
    pub sslcert: Option<String>,
    /// A file with the client's key.
    pub sslkey: Option<String>,
    /// The schema of the cell.
    pub schema: Schema,
    /// What `pg_stat_activity` shows.
    pub application_name: String,
    /// How many connections reads share.
    pub readers_max: usize,
    /// How long a statement of the owner may take, until the term ends; and a connection.
    pub deadline: Duration,
    /// How long a read may take.
    pub read_deadline: Duration,
    /// How long an owner may be silent in the middle of something, until a standby ends its connections. An owner
    /// that is silent between two statements loses them to `idle_session_timeout` after the same time.
    pub silence: Duration,
}

impl Default for PgSettings {
    fn default() -> Self {
        Self {
            url: None,
            host: None,
            port: None,
            user: None,
            password: None,
            dbname: None,
            sslmode: None,
            sslrootcert: None,
            sslcert: None,
            sslkey: None,
            schema: Schema::default(),
            application_name: "cabbage-broker".to_owned(),
            readers_max: 3,
            deadline: Duration::from_secs(5),
            read_deadline: Duration::from_secs(30),
            silence: Duration::from_secs(5),
        }
    }
}

impl PgSettings {
    /// Settings with this URL, and defaults.
    pub fn from_url(url: impl Into<String>) -> Self {
        Self { url: Some(url.into()), ..Self::default() }
    }

    /// All of them together, as `sqlx` wants them.
    pub(super) fn options(&self) -> Result<PgConnectOptions, StoreError> {
        let mut url = self.url.clone().unwrap_or_else(|| "postgres://".to_owned());
        let port = self.port.map(|port| port.to_string());
        let single = [
            ("host", &self.host),
            ("port", &port),
            ("user", &self.user),
            ("password", &self.password),
            ("dbname", &self.dbname),
            ("sslmode", &self.sslmode),
            ("sslrootcert", &self.sslrootcert),
            ("sslcert", &self.sslcert),
            ("sslkey", &self.sslkey),
        ];
        // As parameters of the URL, so that the password file is looked up for what is really meant.
        for (key, value) in single {
            if let Some(value) = value {
                url.push(if url.contains('?') { '&' } else { '?' });
                url.push_str(key);
                url.push('=');
                url.extend(value.bytes().map(|byte| format!("%{byte:02X}")));
            }
        }
        let options = PgConnectOptions::from_str(&url)
            .map_err(|error| StoreError::Unsuitable(format!("the database's address: {error}")))?;
        Ok(options.application_name(&self.application_name))
    }
}

impl fmt::Debug for PgSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The URL may hold a password too.
        f.debug_struct("PgSettings")
            .field("host", &self.host)
            .field("port", &self.port)
            .field("user", &self.user)
            .field("dbname", &self.dbname)
            .field("schema", &self.schema)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn single_settings_go_before_the_url() {
        let settings = PgSettings {
            port: Some(6_000),
            user: Some("a&b=c".to_owned()),
            dbname: Some("über/db".to_owned()),
            ..PgSettings::from_url("postgres://somebody:secret@db.example:5433/other?sslmode=disable")
        };
        let options = settings.options().expect("well-formed");
        assert_eq!(options.get_host(), "db.example");
        assert_eq!(options.get_port(), 6_000);
        assert_eq!(options.get_username(), "a&b=c");
        assert_eq!(options.get_database(), Some("über/db"));
        assert!(!format!("{settings:?}").contains("secret"));
    }
}
