//! What each kind of connection is set to.

use std::{fmt::Display, time::Duration};

use sqlx::{ConnectOptions as _, PgConnection, Row, postgres::PgConnectOptions};

use super::{error::ReadError, settings::PgSettings, time::PgTime};
use crate::core::types::Timestamp;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// One of an owner's two.
    Owner,
    /// Reads only.
    Reader,
    /// Keeps closed partitions in order.
    Upkeep,
    /// Changes the schema.
    Migration,
}

impl Role {
    /// What the server is told, so that it can be seen whether our settings arrived.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Reader => "reader",
            Self::Upkeep => "upkeep",
            Self::Migration => "migration",
        }
    }
}

/// Only plans by index: a plan that was cached while a table was empty must not read all of it later.
const PLANS: [(&str, &str); 7] = [
    ("enable_seqscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    ("enable_bitmapscan", "off"),
    ("jit", "off"),
    // With so many partitions that a page of a list seems dear, all of them would be read and sorted by several at once.
    ("max_parallel_workers_per_gather", "0"),
    // Arrays of 4,000 values are parameters, and nothing to plan by.
    ("plan_cache_mode", "force_generic_plan"),
];

/// How long one statement of the upkeep may take: to freeze a big partition, or to wait for a reader. It is put off
/// then, and a table that it was at can be dropped.
const UPKEEP_MAX: Duration = Duration::from_hours(1);

/// The settings of a connection. They are sent with the first message, so none is ever without them.
pub(super) fn options(base: PgConnectOptions, settings: &PgSettings, role: Role) -> PgConnectOptions {
    let milliseconds = |duration: Duration| duration.as_millis().max(1).to_string();
    let with = |options: PgConnectOptions, key: &str, value: &dyn Display| options.options([(key, value)]);
    // Statements are counted, not logged: some have 4,000 rows as parameters.
    let mut options = with(base.disable_statement_logging(), "client_min_messages", &"warning");
    options = with(options, "cabbage.role", &role.name());
    if role != Role::Migration {
        options = with(options, "search_path", &settings.schema.quoted());
        options = PLANS.iter().fold(options, |options, (key, value)| with(options, key, value));
    }
    match role {
        Role::Owner => {
            // No timeout may cancel a statement of the owner: its effect would be known to nobody.
            options = with(options, "statement_timeout", &"0");
            options = with(options, "lock_timeout", &"1000");
            options = with(options, "idle_session_timeout", &milliseconds(settings.silence));
            options = with(options, "idle_in_transaction_session_timeout", &milliseconds(settings.silence));
            if settings.require_synchronous {
                // Heard by what every write begins with (`fenced`).
                options = with(options, "cabbage.synchronous", &"required");
            }
            // The server notices a host that is gone. Without meaning on a socket of the same machine.
            options = with(options, "tcp_keepalives_idle", &"2");
            options = with(options, "tcp_keepalives_interval", &"1");
            options = with(options, "tcp_keepalives_count", &"3");
            with(options, "tcp_user_timeout", &"5000")
        }
        Role::Reader => {
            // It is made read-only once it is known whether the server is: see `dial`.
            options = with(options, "lock_timeout", &"2000");
            options = with(options, "idle_in_transaction_session_timeout", &milliseconds(settings.read_deadline));
            with(options, "statement_timeout", &milliseconds(settings.read_deadline))
        }
        Role::Upkeep => {
            // Ends soon after we have gone, and does not stand in the way of a DROP for ever.
            options = with(options, "client_connection_check_interval", &"500");
            options = with(options, "statement_timeout", &milliseconds(UPKEEP_MAX));
            options = with(options, "lock_timeout", &"0");
            // To freeze a page writes it to the WAL as a whole: some 4 MB/s of that, so that commits find the disk free.
            options = with(options, "vacuum_cost_delay", &"20");
            with(options, "vacuum_cost_limit", &"200")
        }
        Role::Migration => options,
    }
}

/// What is known of an owner's connection once it is set up.
pub(super) struct Backend {
    pub(super) pid: i32,
    pub(super) start: PgTime,
    pub(super) in_recovery: bool,
}

/// Makes commits of this connection at least as safe as `synchronous_commit = on`, and asks who it is.
pub(super) async fn set_up(connection: &mut PgConnection) -> Result<Backend, sqlx::Error> {
    let row = sqlx::query(
        "-- cabbage:set_up
        SELECT a.pid, a.backend_start, pg_is_in_recovery(), set_config('synchronous_commit',
            CASE current_setting('synchronous_commit') WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END, false)
        FROM pg_stat_get_activity(pg_backend_pid()) a",
    )
    .fetch_one(connection)
    .await?;
    Ok(Backend { pid: row.try_get(0)?, start: row.try_get(1)?, in_recovery: row.try_get(2)? })
}

/// Whether this connection leads to the server that the other one leads to.
pub(super) async fn sees(connection: &mut PgConnection, other: &Backend) -> Result<bool, sqlx::Error> {
    let row = sqlx::query(
        "-- cabbage:same_server
        SELECT EXISTS (SELECT FROM pg_stat_get_activity($1) a WHERE a.backend_start = $2)",
    )
    .bind(other.pid)
    .bind(other.start)
    .fetch_one(connection)
    .await?;
    row.try_get(0)
}

/// The database's clock.
pub(super) async fn clock(connection: &mut PgConnection) -> Result<Timestamp, ReadError> {
    let row = sqlx::query("-- cabbage:clock\nSELECT clock_timestamp()").fetch_one(connection).await?;
    Ok(row.try_get::<PgTime, _>(0)?.0)
}
