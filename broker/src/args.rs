//! The settings of a broker, as options of a command line and variables of the environment.

mod formats;
mod retention;
mod schedules;

use std::{
    convert::Infallible,
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    str::FromStr,
    time::Duration,
};

use cabbage_migrations::Schema;
use clap::{Args, ValueEnum};

pub use self::{
    formats::{FormatArgs, FormatError},
    retention::{KeepFor, RetentionArgs, RetentionError},
    schedules::ScheduleArgs,
};
use crate::{core::limits::Limits, store::postgres::PgSettings};

/// Where clients and workers find a broker that was told nothing else.
pub const LISTEN_DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7733);

/// Where operators do.
pub const ADMIN_DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7734);

/// The options of a broker.
#[derive(Args, Clone, Debug)]
pub struct BrokerArgs {
    /// Address for clients and workers (gRPC).
    ///
    /// Port 0 takes any free port. Any address but loopback needs --insecure: this version speaks plain text, and lets
    /// everybody who reaches it defer and run jobs.
    #[arg(long, env = "CABBAGE_LISTEN", value_name = "ADDRESS", default_value_t = LISTEN_DEFAULT)]
    pub listen: SocketAddr,

    /// Address for operators (HTTP): /livez, /readyz and /metrics.
    #[arg(long, env = "CABBAGE_ADMIN_LISTEN", value_name = "ADDRESS", default_value_t = ADMIN_DEFAULT)]
    pub admin_listen: SocketAddr,

    /// Address under which other brokers, and clients that met the wrong broker, find this one.
    ///
    /// Without it: the address that it listens on.
    #[arg(long, env = "CABBAGE_ADVERTISE", value_name = "HOST:PORT")]
    pub advertise: Option<String>,

    /// Listen on other addresses than loopback, without encryption and without asking who calls.
    #[arg(long, env = "CABBAGE_INSECURE")]
    pub insecure: bool,

    /// Answer gRPC server reflection, so that tools can list the calls. For development.
    #[arg(long, env = "CABBAGE_REFLECTION")]
    pub reflection: bool,

    /// Where the jobs are kept.
    #[arg(long, env = "CABBAGE_STORE", value_enum, default_value_t = StoreKind::Postgres)]
    pub store: StoreKind,

    /// How to reach the database.
    #[command(flatten)]
    pub database: DatabaseArgs,

    /// Own the cell only while the primary waits for a replica with each commit (its synchronous_standby_names is set).
    ///
    /// Where it is empty, no term begins, and one that holds ends with its next write, of which nothing is kept.
    #[arg(long, env = "CABBAGE_REQUIRE_SYNCHRONOUS", help_heading = "Database")]
    pub require_synchronous: bool,

    /// Limits of memory.
    #[command(flatten)]
    pub memory: MemoryArgs,

    /// Intervals.
    #[command(flatten)]
    pub intervals: IntervalArgs,

    /// Schedules.
    #[command(flatten)]
    pub schedules: ScheduleArgs,

    /// How long things are kept.
    #[command(flatten)]
    pub retention: RetentionArgs,

    /// Versions side by side.
    #[command(flatten)]
    pub formats: FormatArgs,

    /// How the log is written.
    #[arg(long, env = "CABBAGE_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text, help_heading = "Log")]
    pub log_format: LogFormat,

    /// What the log holds: error, warn, info, debug or trace, also by module (`info,cabbage_broker::cell=debug`).
    #[arg(long, env = "CABBAGE_LOG", value_name = "LEVEL", default_value = "info", help_heading = "Log")]
    pub log: String,
}

/// How to reach the database.
///
/// A single option goes before the same word in the URL; what neither says comes from the environment as `psql` knows
/// it (`PGHOST`, `PGUSER`, the password file, …). The address must lead to the server itself, not to a pooler.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Database")]
pub struct DatabaseArgs {
    /// URL of the database, postgres://user@host:port/database?sslmode=verify-full, or keywords, "host=a dbname=b".
    ///
    /// Also from DATABASE_URL. The options below go before it. What nobody says comes from the environment as psql
    /// knows it: PGHOST, PGPORT, PGUSER, PGDATABASE, PGSSLMODE, ... Keep the password in a password file (~/.pgpass) or
    /// in PGPASSWORD.
    #[arg(long, env = "CABBAGE_DATABASE_URL", value_name = "URL", hide_env_values = true)]
    pub database_url: Option<Secret>,

    /// Host of the database, or the folder of its socket; several, separated by commas, are tried in turn.
    #[arg(long, env = "CABBAGE_DATABASE_HOST", value_name = "HOST")]
    pub database_host: Option<String>,

    /// Port of the database; or one for each host, separated by commas.
    #[arg(long, env = "CABBAGE_DATABASE_PORT", value_name = "PORT")]
    pub database_port: Option<String>,

    /// Role to log in as.
    #[arg(long, env = "CABBAGE_DATABASE_USER", value_name = "ROLE")]
    pub database_user: Option<String>,

    /// Password of the role. Rather in the environment, since every user of the machine can list command lines.
    #[arg(long, env = "CABBAGE_DATABASE_PASSWORD", value_name = "PASSWORD", hide_env_values = true)]
    pub database_password: Option<Secret>,

    /// File of passwords, with lines host:port:database:user:password. Without it: PGPASSFILE, then ~/.pgpass.
    #[arg(long, env = "CABBAGE_DATABASE_PASSFILE", value_name = "FILE")]
    pub database_passfile: Option<String>,

    /// Name of the database.
    #[arg(long, env = "CABBAGE_DATABASE_NAME", value_name = "NAME")]
    pub database_name: Option<String>,

    /// Encryption to the database: disable, allow, prefer, require, verify-ca or verify-full.
    #[arg(long, env = "CABBAGE_DATABASE_SSLMODE", value_name = "MODE")]
    pub database_sslmode: Option<String>,

    /// File with the root certificates to trust for the database; "system" for those that everybody trusts.
    #[arg(long, env = "CABBAGE_DATABASE_SSLROOTCERT", value_name = "FILE")]
    pub database_sslrootcert: Option<String>,

    /// File with a certificate to log in with.
    #[arg(long, env = "CABBAGE_DATABASE_SSLCERT", value_name = "FILE")]
    pub database_sslcert: Option<String>,

    /// File with the key of that certificate.
    #[arg(long, env = "CABBAGE_DATABASE_SSLKEY", value_name = "FILE")]
    pub database_sslkey: Option<String>,

    /// Which of several hosts will do: read-write, primary or any. Without it: read-write.
    #[arg(long, env = "CABBAGE_DATABASE_TARGET_SESSION_ATTRS", value_name = "WHICH")]
    pub database_target_session_attrs: Option<String>,

    /// Seconds that a host may take to let us in. Without it: 5.
    #[arg(long, env = "CABBAGE_DATABASE_CONNECT_TIMEOUT", value_name = "SECONDS")]
    pub database_connect_timeout: Option<String>,

    /// Schema of the cell. One schema is one cell, with one owner.
    #[arg(long, env = "CABBAGE_SCHEMA", value_name = "NAME", default_value_t)]
    pub schema: Schema,
}

/// Limits of memory.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Memory")]
pub struct MemoryArgs {
    /// Unfinished jobs in memory at most, some 100 bytes each, 340 with a lock. What does not fit is parked in the database.
    #[arg(long, env = "CABBAGE_MEMORY_JOBS", value_name = "JOBS", default_value_t = Limits::default().memory_jobs_max)]
    pub memory_jobs: usize,

    /// MiB of arguments of waiting jobs that are kept at most. What does not fit is read again from the database.
    #[arg(long, env = "CABBAGE_MEMORY_ARGUMENTS_MIB", value_name = "MIB", default_value_t = 256)]
    pub memory_arguments_mib: usize,
}

/// Intervals (C13). Each must be shorter than the next: beat, watchdog, grace, session.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Intervals")]
pub struct IntervalArgs {
    /// How often worker and broker send something at least, in milliseconds.
    #[arg(long, env = "CABBAGE_BEAT_MS", value_name = "MS", default_value_t = 3_000)]
    pub beat_ms: u64,

    /// Silence after which either side gives a stream up, in milliseconds.
    #[arg(long, env = "CABBAGE_WATCHDOG_MS", value_name = "MS", default_value_t = 8_000)]
    pub watchdog_ms: u64,

    /// How long a worker whose stream broke may be away before its jobs are given to others, in milliseconds.
    #[arg(long, env = "CABBAGE_GRACE_MS", value_name = "MS", default_value_t = 20_000)]
    pub grace_ms: u64,

    /// Silence after which a worker's jobs are given to others, in milliseconds.
    #[arg(long, env = "CABBAGE_SESSION_MS", value_name = "MS", default_value_t = 60_000)]
    pub session_ms: u64,

    /// How often a broker that stands by tries to take the cell over, in milliseconds.
    #[arg(long, env = "CABBAGE_STANDBY_POLL_MS", value_name = "MS", default_value_t = 500)]
    pub standby_poll_ms: u64,

    /// How long a broker that does not own the cell holds back a call, or a worker's stream, while nobody does, in
    /// milliseconds; a call that has a deadline, until then.
    #[arg(long, env = "CABBAGE_RELAY_HOLD_MS", value_name = "MS", default_value_t = 15_000)]
    pub relay_hold_ms: u64,

    /// How long a stop may take, in milliseconds.
    #[arg(long, env = "CABBAGE_STOP_GRACE_MS", value_name = "MS", default_value_t = 10_000)]
    pub stop_grace_ms: u64,
}

/// Where the jobs are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StoreKind {
    /// In a PostgreSQL database.
    Postgres,
    /// In memory: everything is lost when the broker ends. To try things out.
    Memory,
}

/// How the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// A JSON object for each line.
    Json,
}

/// A text that is not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl FromStr for Secret {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

impl Default for BrokerArgs {
    /// What no option and no variable changed.
    fn default() -> Self {
        Self {
            listen: LISTEN_DEFAULT,
            admin_listen: ADMIN_DEFAULT,
            advertise: None,
            insecure: false,
            reflection: false,
            store: StoreKind::Postgres,
            database: DatabaseArgs::default(),
            require_synchronous: false,
            memory: MemoryArgs { memory_jobs: Limits::default().memory_jobs_max, memory_arguments_mib: 256 },
            intervals: IntervalArgs::default(),
            schedules: ScheduleArgs::default(),
            retention: RetentionArgs::default(),
            formats: FormatArgs::default(),
            log_format: LogFormat::Text,
            log: "info".to_owned(),
        }
    }
}

impl Default for IntervalArgs {
    fn default() -> Self {
        Self {
            beat_ms: 3_000,
            watchdog_ms: 8_000,
            grace_ms: 20_000,
            session_ms: 60_000,
            standby_poll_ms: 500,
            relay_hold_ms: 15_000,
            stop_grace_ms: 10_000,
        }
    }
}

/// Settings that contradict each other, or that are not safe.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArgsError {
    /// A way in from other machines that was not said aloud.
    #[error(
        "{option} {address} can be reached from other machines, and this version neither encrypts nor asks who calls: \
         add --insecure if the network is safe, or listen on a loopback address"
    )]
    Exposed {
        /// Which option.
        option: &'static str,
        /// Its value.
        address: SocketAddr,
    },
    /// Intervals out of order.
    #[error(
        "intervals must rise: beat {beat_ms} ms < watchdog {watchdog_ms} ms < grace {grace_ms} ms < session {session_ms} ms"
    )]
    Intervals {
        /// The beat.
        beat_ms: u64,
        /// The watchdog.
        watchdog_ms: u64,
        /// The grace.
        grace_ms: u64,
        /// The session.
        session_ms: u64,
    },
    /// Times of retention that do not fit together.
    #[error(transparent)]
    Retention(#[from] RetentionError),
    /// A format that this version does not write.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// Too small to work with.
    #[error("{option} must be at least {min}")]
    TooSmall {
        /// Which option.
        option: &'static str,
        /// The least.
        min: u64,
    },
}

impl BrokerArgs {
    /// Checks what single options cannot: that they fit together, and are safe.
    pub fn check(&self) -> Result<(), ArgsError> {
        for (option, address) in [("--listen", self.listen), ("--admin-listen", self.admin_listen)] {
            if !address.ip().is_loopback() && !self.insecure {
                return Err(ArgsError::Exposed { option, address });
            }
        }
        let IntervalArgs {
            beat_ms,
            watchdog_ms,
            grace_ms,
            session_ms,
            standby_poll_ms,
            relay_hold_ms: _,
            stop_grace_ms: _,
        } = self.intervals;
        if !(beat_ms < watchdog_ms && watchdog_ms < grace_ms && grace_ms < session_ms) {
            return Err(ArgsError::Intervals { beat_ms, watchdog_ms, grace_ms, session_ms });
        }
        let floors = [
            ("--beat-ms", beat_ms, 10),
            ("--standby-poll-ms", standby_poll_ms, 10),
            ("--memory-jobs", self.memory.memory_jobs as u64, 1_000),
        ];
        for (option, value, min) in floors {
            if value < min {
                return Err(ArgsError::TooSmall { option, min });
            }
        }
        self.retention.check()?;
        self.formats.check()?;
        Ok(())
    }

    /// The core's limits by these settings.
    pub fn limits(&self) -> Limits {
        Limits {
            memory_jobs_max: self.memory.memory_jobs,
            schedules_max: self.schedules.schedules_max,
            tick_grace: self.schedules.tick_grace(),
            watchdog: Duration::from_millis(self.intervals.watchdog_ms),
            grace: Duration::from_millis(self.intervals.grace_ms),
            session: Duration::from_millis(self.intervals.session_ms),
            ..Limits::default()
        }
    }
}

impl DatabaseArgs {
    /// The settings of the store on PostgreSQL.
    pub fn settings(&self) -> PgSettings {
        // An empty variable is as good as none, and must not hide the next.
        let given = |url: &String| !url.is_empty();
        let url = self.database_url.as_ref().map(|url| url.reveal().to_owned()).filter(given);
        PgSettings {
            url: url.or_else(|| std::env::var("DATABASE_URL").ok().filter(given)),
            host: self.database_host.clone(),
            port: self.database_port.clone(),
            user: self.database_user.clone(),
            password: self.database_password.as_ref().map(|password| password.reveal().to_owned()),
            passfile: self.database_passfile.clone(),
            dbname: self.database_name.clone(),
            sslmode: self.database_sslmode.clone(),
            sslrootcert: self.database_sslrootcert.clone(),
            sslcert: self.database_sslcert.clone(),
            sslkey: self.database_sslkey.clone(),
            target_session_attrs: self.database_target_session_attrs.clone(),
            connect_timeout: self.database_connect_timeout.clone(),
            schema: self.schema.clone(),
            ..PgSettings::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser};

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: BrokerArgs,
    }

    fn parse(line: &[&str]) -> BrokerArgs {
        Line::try_parse_from(std::iter::once(&"broker").chain(line)).expect("a valid line").args
    }

    #[test]
    fn the_options_make_a_command() {
        Line::command().debug_assert();
        assert_eq!(parse(&[]).check(), Ok(()));
        assert_eq!(parse(&[]).limits(), Limits::default());
        assert_eq!(parse(&[]).limits(), BrokerArgs::default().limits());
    }

    #[test]
    fn limits_of_schedules_are_settings() {
        let limits = parse(&["--schedules-max", "7", "--tick-grace-ms", "1500"]).limits();
        let expected = Limits { schedules_max: 7, tick_grace: Duration::from_millis(1_500), ..Limits::default() };
        assert_eq!(limits, expected);
    }

    #[test]
    fn other_addresses_than_loopback_are_said_aloud() {
        assert!(matches!(
            parse(&["--listen", "0.0.0.0:1"]).check(),
            Err(ArgsError::Exposed { option: "--listen", .. })
        ));
        assert!(parse(&["--admin-listen", "[::]:1"]).check().is_err());
        assert_eq!(parse(&["--listen", "0.0.0.0:1", "--insecure"]).check(), Ok(()));
        assert_eq!(parse(&["--listen", "[::1]:1"]).check(), Ok(()));
    }

    #[test]
    fn intervals_must_rise() {
        assert!(matches!(parse(&["--watchdog-ms", "20000"]).check(), Err(ArgsError::Intervals { .. })));
        assert!(parse(&["--beat-ms", "1"]).check().is_err());
    }

    #[test]
    fn settings_are_shown_without_secrets() {
        let args = parse(&["--database-url", "postgres://me:hidden@host/db", "--database-password", "hidden"]);
        assert!(!format!("{args:?}").contains("hidden"));
        assert_eq!(args.database.settings().password.as_deref(), Some("hidden"));
    }
}
