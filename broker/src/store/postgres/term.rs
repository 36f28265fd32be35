//! Taking the term of the cell (architecture.md, Ownership).

use std::time::Duration;

use sqlx::{PgConnection, Row};
use tokio::time::Instant;
use uuid::Uuid;

use super::{
    PgStore,
    checkpoint::PgDuties,
    commit::PgWriter,
    connect::{self, Role},
    dial::Dialed,
    error::{ReadError, read_error},
    notices::Notices,
    primary::{LOOK_FOR_PRIMARY, PrimaryWatch},
    session::{DUTIES, Fence, Session, WRITER},
    time::PgTime,
};
use crate::{
    core::types::Term,
    store::{Owner, RelayKey, StoreError, Tenure},
};

/// How long the server waits for a connection to end that it was told to end.
const TERMINATE_MILLISECONDS: i64 = 1_000;

/// Who tries for the term while somebody else has it.
#[derive(Default)]
pub(super) struct Candidate {
    /// Becomes the writer's connection.
    dialed: Option<Dialed>,
    /// When all hosts were looked at last.
    looked: Option<Instant>,
}

/// Tries once. The connection that tries is kept for the next time; if it wins, it becomes the writer's.
pub(super) async fn take(store: &PgStore, address: &str) -> Result<Option<Tenure>, StoreError> {
    let mut candidate = store.candidate.lock().await;
    let mut kept = candidate.dialed.take();
    // Whoever holds the cell on a former primary holds nothing.
    if kept.is_none() || candidate.looked.is_none_or(|at| at.elapsed() >= LOOK_FOR_PRIMARY) {
        candidate.looked = Some(Instant::now());
        if store.dialer.look_for_primary().await {
            kept = None;
        }
    }
    let had_one = kept.is_some();
    let attempted = match attempt(store, kept, address).await {
        // The server ends connections that were idle for too long, or restarted.
        Err(error) if had_one && error.is_broken_connection() => attempt(store, None, address).await,
        attempted => attempted,
    };
    match attempted? {
        Attempt::Won(tenure) => Ok(Some(tenure)),
        Attempt::Held(dialed) => {
            candidate.dialed = dialed;
            Ok(None)
        }
    }
}

enum Attempt {
    Won(Tenure),
    /// Somebody else has it; the connection may try again.
    Held(Option<Dialed>),
}

/// To connect has limits of its own, and may go through several hosts; what is asked then is answered in time, or a
/// connection to a host that is gone would hold up the takeover on another.
async fn attempt(store: &PgStore, kept: Option<Dialed>, address: &str) -> Result<Attempt, ReadError> {
    let mut candidate = match kept {
        Some(candidate) => candidate,
        None => store.dialer.dial(Role::Owner).await?,
    };
    // One that was kept may lead to a server that was the primary when it was made.
    store.sent();
    in_time(store, store.dialer.trust(&mut candidate)).await?;
    let key = cell_key(store.settings.schema.name());
    if !in_time(store, lock(store, &mut candidate.connection, key)).await? {
        return Ok(Attempt::Held(Some(candidate)));
    }
    let duties = store.dialer.dial_host(&candidate.host, Role::Owner).await?;
    in_time(store, raise(store, candidate, duties, key, address)).await
}

async fn in_time<T>(store: &PgStore, asking: impl Future<Output = Result<T, ReadError>>) -> Result<T, ReadError> {
    let within = store.settings.deadline + Duration::from_millis(TERMINATE_MILLISECONDS as u64);
    match tokio::time::timeout(within, asking).await {
        Ok(answered) => answered,
        Err(_) => Err(StoreError::Unavailable("no answer in time".to_owned()).into()),
    }
}

/// Whether the lock of the cell is ours, if need be after an owner that was stopped lost its connections.
async fn lock(store: &PgStore, candidate: &mut PgConnection, key: i64) -> Result<bool, ReadError> {
    let locked = try_lock(store, candidate, key).await?;
    if !locked && end_stopped_owner(store, candidate, key).await? {
        return Ok(try_lock(store, candidate, key).await?);
    }
    Ok(locked)
}

/// Takes the term, with the lock held by the candidate.
async fn raise(
    store: &PgStore,
    candidate: Dialed,
    mut duties: PgConnection,
    key: i64,
    address: &str,
) -> Result<Attempt, ReadError> {
    let Dialed { connection: mut candidate, host } = candidate;
    store.sent();
    let first = connect::set_up(&mut candidate).await?;
    store.sent();
    let second = connect::set_up(&mut duties).await?;
    store.sent();
    // One name may lead to several servers, and the fence is on one of them.
    if !connect::sees(&mut duties, &first).await? {
        return Err(StoreError::Unavailable(format!("{host} leads to two servers")).into());
    }
    if first.in_recovery || second.in_recovery {
        return Err(StoreError::Unavailable("the server is a replica".to_owned()).into());
    }

    // The fence: from its commit on, the owner before can write nothing.
    let nonce: u64 = rand::random();
    let notices = Notices::new();
    store.sent();
    let raising = sqlx::query("-- cabbage:take_term\nSELECT take_term_1($1, $2, $3, $4)")
        .bind(nonce as i64)
        .bind(vec![first.pid, second.pid])
        .bind(vec![first.start, second.start])
        .bind(address)
        .fetch_one(&mut candidate);
    let number = match notices.watch(raising).await {
        // What the term before committed may be here alone then, and is not to be answered for: a commit that is
        // replicated has all before it with it.
        Ok(_) if notices.take() => {
            return Err(StoreError::Unavailable("the server warned: perhaps not replicated".to_owned()).into());
        }
        Ok(row) => row.try_get::<i64, _>(0)?,
        // A write of the owner before is still under way on the server; dropping the connections frees the lock.
        Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("55P03") => {
            return Ok(Attempt::Held(None));
        }
        Err(error) => return Err(error.into()),
    };
    let term = Term { number: number as u64, nonce };

    // The exclusive lock becomes a shared one of both connections, without a moment in between.
    store.sent();
    let row = sqlx::query(
        "-- cabbage:share_lock
        SELECT CASE WHEN NOT pg_is_in_recovery() AND pg_try_advisory_lock_shared($1)
            THEN pg_advisory_unlock($1) ELSE false END",
    )
    .bind(key)
    .fetch_one(&mut candidate)
    .await?;
    store.sent();
    let second_row = sqlx::query("-- cabbage:share_lock_too\nSELECT pg_try_advisory_lock_shared($1)")
        .bind(key)
        .fetch_one(&mut duties)
        .await?;
    if !(row.try_get::<bool, _>(0)? && second_row.try_get::<bool, _>(0)?) {
        return Err(StoreError::Unavailable("the lock of the cell was lost on the way".to_owned()).into());
    }

    let session = |connection, writer| {
        let fence = Fence { writer, term };
        Session::new(connection, fence, store.settings.deadline, store.statements.clone())
    };
    let mut writer = PgWriter::new(session(candidate, WRITER));
    writer.first_partitions().await.map_err(|error| StoreError::Unavailable(error.to_string()))?;
    let duties = PgDuties::new(session(duties, DUTIES), PrimaryWatch::new(store.dialer.clone(), host.clone()));
    tracing::info!(%host, term = term.number, "the database of this term");
    // What reads from now on must not come from the server of an earlier term, nor first ask one that says nothing.
    store.dialer.prefer_host(&host);
    store.readers.forget();
    Ok(Attempt::Won(Tenure { term, writer: Box::new(writer), duties: Box::new(duties) }))
}

async fn try_lock(store: &PgStore, candidate: &mut PgConnection, key: i64) -> Result<bool, sqlx::Error> {
    store.sent();
    let row =
        sqlx::query("-- cabbage:try_lock\nSELECT pg_try_advisory_lock($1)").bind(key).fetch_one(candidate).await?;
    row.try_get(0)
}

/// Ends the connections of an owner that was stopped in the middle of a message: the server waits for its client, and
/// no timeout of its own ends that. An owner that waits for the disk, a lock or a replica is left alone.
async fn end_stopped_owner(store: &PgStore, candidate: &mut PgConnection, key: i64) -> Result<bool, sqlx::Error> {
    store.sent();
    let silence = store.settings.silence.as_secs_f64();
    let stopped = sqlx::query(
        "-- cabbage:find_stopped_owner
        SELECT a.pid, a.backend_start
        FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
        WHERE l.locktype = 'advisory' AND l.granted
            AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
            AND l.classid::bigint = $1 AND l.objid::bigint = $2 AND l.objsubid = 1
            AND a.wait_event_type = 'Client' AND a.state_change < clock_timestamp() - make_interval(secs => $3)",
    )
    .bind((key as u64 >> 32) as i64)
    .bind((key as u64 & 0xffff_ffff) as i64)
    .bind(silence)
    .fetch_all(&mut *candidate)
    .await?;
    let mut ended = false;
    for row in stopped {
        store.sent();
        let (pid, start): (i32, PgTime) = (row.try_get(0)?, row.try_get(1)?);
        tracing::warn!(pid, "the owner of the cell is silent: its connection is ended");
        // Compared again, since numbers of processes come back.
        let row = sqlx::query(
            "-- cabbage:end_stopped_owner
            SELECT count(*) FILTER (WHERE pg_terminate_backend(a.pid, $4)) > 0
            FROM pg_stat_get_activity($1) a
            WHERE a.backend_start = $2 AND a.wait_event_type = 'Client'
                AND a.state_change < clock_timestamp() - make_interval(secs => $3)",
        )
        .bind(pid)
        .bind(start)
        .bind(silence)
        .bind(TERMINATE_MILLISECONDS)
        .fetch_one(&mut *candidate)
        .await?;
        ended |= row.try_get::<bool, _>(0)?;
    }
    Ok(ended)
}

/// Who took the term last.
pub(super) async fn owner(connection: &mut PgConnection) -> Result<Option<Owner>, ReadError> {
    let asked = "-- cabbage:owner
        SELECT f.term, f.nonce, f.address, f.since, f.relay_key FROM fence f WHERE f.writer = 1";
    let row = sqlx::query(asked).fetch_one(connection).await.map_err(read_error)?;
    let term = Term { number: row.try_get::<i64, _>(0)? as u64, nonce: row.try_get::<i64, _>(1)? as u64 };
    let address: &str = row.try_get(2)?;
    let (since, key) = (row.try_get::<PgTime, _>(3)?, RelayKey(row.try_get(4)?));
    Ok((term.number > 0).then(|| Owner { term, address: address.into(), since: since.0, key }))
}

/// The advisory lock of a cell. Locks are per database already, so the schema's name is all it takes.
fn cell_key(schema: &str) -> i64 {
    let namespace = Uuid::from_u128(0x6361_6262_6167_6520_6365_6c6c_0000_0001);
    Uuid::new_v5(&namespace, schema.as_bytes()).as_u64_pair().0 as i64
}
