//! What the broker's connections wait for, looked at all the time: so that a defer that took long can be told from one
//! that retention held up.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use sqlx::{Connection as _, PgConnection, Row as _};
use tokio::{
    task::JoinHandle,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use super::pressure::Pressure;
use crate::bench::cpu;

/// How often it is looked.
const LOOK_EVERY: Duration = Duration::from_millis(3);

/// Statements of retention, by the names that they open with.
const OF_RETENTION: [&str; 7] = ["retain", "detach", "freeze", "index", "unindex", "upkeep_done", "upkeep_due"];

/// The connection that commits, and what works beside it. `pg_blocking_pids` is asked only where somebody waits, since
/// it holds up the lock manager.
const LOOK: &str = r"-- cabbage:bench_look
SELECT substring(a.query FROM '^-- cabbage:(\w+)') AS name, a.backend_type, a.state = 'active' AS active,
    a.wait_event_type, a.wait_event,
    CASE WHEN a.wait_event_type = 'Lock' THEN (
        SELECT string_agg(coalesce(substring(b.query FROM '^-- cabbage:(\w+)'), b.backend_type), ' and ')
        FROM unnest(pg_blocking_pids(a.pid)) p (pid) CROSS JOIN pg_stat_get_activity(p.pid) b) END AS blockers
FROM pg_stat_get_activity(NULL) a
WHERE a.pid <> pg_backend_pid() AND (a.state = 'active' OR a.query LIKE '-- cabbage:commit%'
    OR a.backend_type = 'checkpointer' AND a.wait_event <> 'CheckpointerMain')";

/// What the connection that commits was at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Doing {
    /// Nothing: no commit was under way.
    Nothing,
    /// It worked.
    Working,
    /// It waited for this, as PostgreSQL calls it.
    Waiting(String),
    /// It waited for a lock that these statements held.
    Locked { by: String, of_retention: bool },
}

/// One look.
#[derive(Clone, Debug)]
pub(super) struct Look {
    pub(super) at: Instant,
    pub(super) doing: Doing,
    /// What else the server was at: statements of retention, a checkpoint, a vacuum of its own.
    pub(super) beside: Vec<String>,
    /// How long we, the broker, and the process that commits for it, have waited for a core until now.
    pub(super) starved: Starved,
    pub(super) pressure: Pressure,
}

/// Time without a core.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Starved {
    pub(super) ours: Duration,
    pub(super) broker: Duration,
    pub(super) writer: Duration,
}

/// The processes on the way of a defer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Processes {
    pub(super) broker: Option<u32>,
    pub(super) writer: u32,
}

impl Starved {
    fn read(of: Processes) -> Self {
        let waited = |pid| cpu::waited_by_process(pid).unwrap_or_default();
        Self {
            ours: waited(std::process::id()),
            broker: of.broker.map(waited).unwrap_or_default(),
            writer: waited(of.writer),
        }
    }
}

/// Looks until it is dropped.
pub(super) struct Witness {
    looks: Arc<Mutex<Vec<Look>>>,
    task: JoinHandle<anyhow::Result<()>>,
    stop: CancellationToken,
}

impl Witness {
    pub(super) async fn start(url: &str, of: Processes) -> anyhow::Result<Self> {
        let connection = PgConnection::connect(url).await.context("cannot connect to the database")?;
        let (looks, stop) = (Arc::new(Mutex::new(Vec::new())), CancellationToken::new());
        let task = tokio::spawn(look_on(connection, of, Arc::clone(&looks), stop.clone()));
        Ok(Self { looks, task, stop })
    }

    /// All looks since the last time.
    pub(super) fn take(&self) -> Vec<Look> {
        std::mem::take(&mut self.looks.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) async fn stop(self) -> anyhow::Result<()> {
        self.stop.cancel();
        self.task.await?
    }
}

async fn look_on(
    mut connection: PgConnection,
    of: Processes,
    looks: Arc<Mutex<Vec<Look>>>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut pace = interval(LOOK_EVERY);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !stop.is_cancelled() {
        pace.tick().await;
        let look = look(&mut connection, of).await?;
        looks.lock().unwrap_or_else(PoisonError::into_inner).push(look);
    }
    connection.close().await?;
    Ok(())
}

async fn look(connection: &mut PgConnection, of: Processes) -> anyhow::Result<Look> {
    let rows = sqlx::query(LOOK).fetch_all(connection).await?;
    let (mut doing, mut beside) = (Doing::Nothing, Vec::new());
    for row in &rows {
        let text = |column: &str| row.try_get::<Option<String>, _>(column);
        let (name, kind) = (text("name")?, text("backend_type")?.unwrap_or_default());
        match name.as_deref() {
            Some("commit") if row.try_get::<Option<bool>, _>("active")? == Some(true) => {
                doing = match (text("blockers")?, text("wait_event_type")?, text("wait_event")?) {
                    (Some(by), ..) => {
                        let of_retention = by.split(" and ").any(|name| OF_RETENTION.contains(&name));
                        Doing::Locked { by, of_retention }
                    }
                    (None, Some(kind), Some(event)) if kind != "Client" => Doing::Waiting(format!("{kind} {event}")),
                    (None, ..) => Doing::Working,
                };
            }
            Some(name) if OF_RETENTION.contains(&name) => beside.push(name.to_owned()),
            Some(_) => {}
            None if kind == "client backend" => {}
            None => beside.push(kind),
        }
    }
    Ok(Look { at: Instant::now(), doing, beside, starved: Starved::read(of), pressure: Pressure::read() })
}
