//! How to reach the database.

use std::{fmt, io, path::PathBuf, time::Duration};

use cabbage_migrations::Schema;

use super::dsn::DsnError;

/// How to reach the database, and how patient to be with it.
///
/// A single setting goes before the same word in the URL; what neither says comes from the environment as `libpq`
/// knows it (`PGHOST`, `PGUSER`, … and the password file), then from PostgreSQL's defaults. Addresses must lead to the
/// server itself: a pooler in transaction mode cannot hold the locks of an owner.
#[derive(Clone)]
pub struct PgSettings {
    /// `postgres://user@host:port/database?sslmode=…`, or keywords as `host=… port=… dbname=…`.
    pub url: Option<String>,
    /// A name, an address, or the folder of a socket; several, separated by commas, are tried in turn.
    pub host: Option<String>,
    /// The port; or one for each host.
    pub port: Option<String>,
    /// The role.
    pub user: Option<String>,
    /// The role's password.
    pub password: Option<String>,
    /// A file of passwords, as `~/.pgpass`, which is the default.
    pub passfile: Option<String>,
    /// The database.
    pub dbname: Option<String>,
    /// `disable`, `allow`, `prefer`, `require`, `verify-ca` or `verify-full`.
    pub sslmode: Option<String>,
    /// A file of root certificates; `system` means those that everybody trusts.
    pub sslrootcert: Option<String>,
    /// A file with the client's certificate.
    pub sslcert: Option<String>,
    /// A file with the client's key.
    pub sslkey: Option<String>,
    /// Which server of several will do: `read-write` (the default), `primary` or `any`.
    pub target_session_attrs: Option<String>,
    /// Seconds that a host may take to let us in; 5 by default.
    pub connect_timeout: Option<String>,
    /// Whether a term holds only while the primary waits for a replica with each commit.
    pub require_synchronous: bool,
    /// The schema of the cell.
    pub schema: Schema,
    /// What `pg_stat_activity` shows, where neither URL nor environment say it.
    pub application_name: String,
    /// How many connections reads share, two at least: one is for no caller.
    pub readers_max: usize,
    /// How long a statement of the owner may take, until the term ends.
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
            passfile: None,
            dbname: None,
            sslmode: None,
            sslrootcert: None,
            sslcert: None,
            sslkey: None,
            target_session_attrs: None,
            connect_timeout: None,
            require_synchronous: false,
            schema: Schema::default(),
            application_name: "cabbage-broker".to_owned(),
            readers_max: 3,
            deadline: Duration::from_secs(5),
            read_deadline: Duration::from_secs(30),
            silence: Duration::from_secs(5),
        }
    }
}

/// The settings of a connection that cannot be used, whatever the database is like.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The URL or line of keywords is malformed. Its text is not repeated, since it may hold a password.
    #[error("the address of the database (--database-url, DATABASE_URL) cannot be read: {0}")]
    Dsn(#[from] DsnError),
    /// A keyword that nobody knows, such as one that is misspelt.
    #[error("the address of the database has the keyword {keyword:?}, which is unknown; known are {known}")]
    UnknownKeyword {
        /// The keyword.
        keyword: String,
        /// All that are known.
        known: String,
    },
    /// A keyword of libpq that means something which cabbage cannot do.
    #[error("{field} is {value:?}, which cabbage cannot do: leave it out")]
    Unsupported {
        /// Where it was said.
        field: String,
        /// What.
        value: String,
    },
    /// A value out of range, or a word that is none.
    #[error("{field} is {value:?}; it must be {expected}")]
    Malformed {
        /// Where it was said.
        field: String,
        /// The value.
        value: String,
        /// What would do.
        expected: &'static str,
    },
    /// A NUL ends texts in PostgreSQL.
    #[error("{field} holds a NUL")]
    Nul {
        /// Where it was said.
        field: String,
    },
    /// Lists that belong together and are of different lengths.
    #[error("{field} has {found} entries for {hosts} hosts: give one for each host, or a single one for all")]
    Counts {
        /// The shorter or longer list.
        field: String,
        /// Its length.
        found: usize,
        /// How many hosts there are.
        hosts: usize,
    },
    /// Two settings of which one says nothing without the other.
    #[error("{field} is given, and {missing} is not: {remedy}")]
    Alone {
        /// What was said.
        field: String,
        /// What was not.
        missing: &'static str,
        /// What to do.
        remedy: &'static str,
    },
    /// A file that cannot be read.
    #[error("{field} names {}, which cannot be read: {source}", path.display())]
    File {
        /// Where it was said.
        field: String,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file that does not hold what it should.
    #[error("{field} names {}, which holds no {expected} in PEM", path.display())]
    Pem {
        /// Where it was said.
        field: String,
        /// The file.
        path: PathBuf,
        /// What it should hold.
        expected: &'static str,
    },
    /// A certificate and a key that do not belong together.
    #[error(
        "{certificate} names {}, and {key} names {}, which is the key of another certificate: name the two that belong \
         together", certificate_path.display(), key_path.display()
    )]
    Pair {
        /// Where the certificate was named.
        certificate: String,
        /// The certificate.
        certificate_path: PathBuf,
        /// Where the key was named.
        key: String,
        /// The key.
        key_path: PathBuf,
    },
    /// A certificate or key that nobody can log in with.
    #[error("{field} names {}, which cannot be used: {problem}", path.display())]
    Unusable {
        /// Where it was said.
        field: String,
        /// The file.
        path: PathBuf,
        /// Why not, and what to do.
        problem: String,
    },
}

impl PgSettings {
    /// Settings with this URL or line of keywords, and defaults.
    pub fn from_url(url: impl Into<String>) -> Self {
        Self { url: Some(url.into()), ..Self::default() }
    }

    /// The single settings: libpq's keyword, the option of the command line that gives it, the value.
    pub(super) fn single(&self) -> [(&'static str, &'static str, Option<&str>); 12] {
        [
            ("host", "--database-host", self.host.as_deref()),
            ("port", "--database-port", self.port.as_deref()),
            ("user", "--database-user", self.user.as_deref()),
            ("password", "--database-password", self.password.as_deref()),
            ("passfile", "--database-passfile", self.passfile.as_deref()),
            ("dbname", "--database-name", self.dbname.as_deref()),
            ("sslmode", "--database-sslmode", self.sslmode.as_deref()),
            ("sslrootcert", "--database-sslrootcert", self.sslrootcert.as_deref()),
            ("sslcert", "--database-sslcert", self.sslcert.as_deref()),
            ("sslkey", "--database-sslkey", self.sslkey.as_deref()),
            ("target_session_attrs", "--database-target-session-attrs", self.target_session_attrs.as_deref()),
            ("connect_timeout", "--database-connect-timeout", self.connect_timeout.as_deref()),
        ]
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
    fn settings_are_shown_without_secrets() {
        let settings = PgSettings {
            password: Some("secret".to_owned()),
            ..PgSettings::from_url("postgres://somebody:secret@db.example/app")
        };
        assert!(!format!("{settings:?}").contains("secret"));
    }
}
