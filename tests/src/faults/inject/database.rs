//! What is done to PostgreSQL.

use std::time::Duration;

use anyhow::Context as _;
use rand::seq::IndexedRandom as _;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tokio::time::{Instant, sleep};

use super::{Injector, connect, now};
use crate::{
    cluster::{Cluster, Intervals},
    faults::{Fault, Injection},
};

/// How many sessions are ended, and the time between two.
const ENDED_SESSIONS: usize = 6;
const BETWEEN_ENDS: std::ops::Range<Duration> = Duration::from_millis(20)..Duration::from_millis(800);

/// How long no connection is left, and how often it is looked whether one is.
const USED_UP_FOR: std::ops::Range<Duration> = Duration::from_secs(1)..Duration::from_secs(5);
const GRAB_EVERY: Duration = Duration::from_millis(20);

/// How long the disk is full.
const FULL_FOR: std::ops::Range<Duration> = Duration::from_secs(2)..Duration::from_secs(8);

/// How long a server may take to answer that has room again, before it is started anew.
const REVIVES_WITHIN: Duration = Duration::from_secs(5);

/// How long all tables are locked.
const LOCKED_FOR: Duration = Duration::from_secs(30);
const LOCKED_FOR_SHORT: Duration = Duration::from_secs(5);

/// Sessions of brokers.
const OF_BROKERS: &str = "application_name = 'cabbage-broker' AND pid <> pg_backend_pid()";

impl Injector<'_> {
    pub(super) async fn restart_postgres(&mut self) -> anyhow::Result<Injection> {
        let (_, term) = self.cluster.owner().await?;
        if self.step.fault == Fault::RestartPostgres {
            self.cluster.restart_postgres().await?;
        } else {
            self.cluster.crash_postgres().await?;
        }
        // What counts is the time from when the database is back.
        let at = now();
        self.cluster.owner_after(term).await?;
        Ok(self.injection(at, "postgres"))
    }

    /// Ends sessions of brokers, one here and one there.
    pub(super) async fn end_sessions(&mut self) -> anyhow::Result<Injection> {
        let mut connection = connect(self.cluster).await?;
        let list = format!("-- cabbage:fault_sessions\nSELECT pid FROM pg_stat_activity WHERE {OF_BROKERS}");
        for _ in 0..ENDED_SESSIONS {
            let sessions: Vec<i32> = sqlx::query_scalar(AssertSqlSafe(list.clone())).fetch_all(&mut connection).await?;
            if let Some(pid) = sessions.choose(self.random) {
                let end = "-- cabbage:fault_end\nSELECT pg_terminate_backend($1)";
                sqlx::query(end).bind(pid).execute(&mut connection).await?;
            }
            sleep(self.some(BETWEEN_ENDS)).await;
        }
        connection.close().await?;
        let at = now();
        self.cluster.owner().await?;
        Ok(self.injection(at, "postgres"))
    }

    /// Takes all connections, then the brokers' too.
    pub(super) async fn use_up_connections(&mut self) -> anyhow::Result<Injection> {
        let (_, term) = self.cluster.owner().await?;
        let mut taken: Vec<PgConnection> = Vec::new();
        // The last that is refused shows that all are taken.
        while let Ok(connection) = connect(self.cluster).await {
            taken.push(connection);
        }
        let first = taken.first_mut().context("one connection at least was free")?;
        let end = format!(
            "-- cabbage:fault_end_all\nSELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE {OF_BROKERS}"
        );
        sqlx::query(AssertSqlSafe(end)).execute(first).await?;
        let until = Instant::now() + self.some(USED_UP_FOR);
        while Instant::now() < until {
            match connect(self.cluster).await {
                Ok(connection) => taken.push(connection),
                Err(_) => sleep(GRAB_EVERY).await,
            }
        }
        for connection in taken {
            connection.close().await?;
        }
        let at = now();
        self.cluster.owner_after(term).await?;
        Ok(self.injection(at, "postgres"))
    }

    pub(super) async fn fill_disk(&mut self) -> anyhow::Result<Injection> {
        let disk = self.cluster.disk.as_ref().context("PostgreSQL has a disk of its own")?;
        disk.fill()?;
        sleep(self.some(FULL_FOR)).await;
        let disk = self.cluster.disk.as_ref().context("it still has it")?;
        disk.empty()?;
        // A server that could not even write its log has ended, and whoever runs it starts it again.
        if !answers(self.cluster).await {
            self.cluster.crash_postgres().await?;
        }
        let at = now();
        self.cluster.owner().await?;
        Ok(self.injection(at, "postgres"))
    }

    /// Locks every table of the cell, as somebody does who changes them by hand.
    pub(super) async fn lock_tables(&mut self) -> anyhow::Result<Injection> {
        let mut connection = connect(self.cluster).await?;
        let schema = Cluster::schema().quoted();
        let tables: Vec<String> = sqlx::query_scalar(
            "-- cabbage:fault_tables\nSELECT format('%I.%I', schemaname, tablename) FROM pg_tables \
             WHERE format('%I', schemaname) = $1 ORDER BY tablename",
        )
        .bind(&schema)
        .fetch_all(&mut connection)
        .await?;
        let mut locking = connection.begin().await?;
        for table in tables {
            let lock = format!("-- cabbage:fault_lock\nLOCK TABLE {table} IN ACCESS EXCLUSIVE MODE");
            sqlx::query(AssertSqlSafe(lock)).execute(&mut *locking).await?;
        }
        let is_short = self.cluster.intervals() == Intervals::SHORT;
        sleep(if is_short { LOCKED_FOR_SHORT } else { LOCKED_FOR }).await;
        locking.rollback().await?;
        let at = now();
        connection.close().await?;
        self.cluster.owner().await?;
        Ok(self.injection(at, "postgres"))
    }
}

/// Whether the server answers within some seconds.
async fn answers(cluster: &Cluster) -> bool {
    let until = Instant::now() + REVIVES_WITHIN;
    while Instant::now() < until {
        if let Ok(connection) = connect(cluster).await {
            return connection.close().await.is_ok();
        }
        sleep(GRAB_EVERY).await;
    }
    false
}
