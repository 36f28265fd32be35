//! Steps of retention (storage.md, rules 11 and 12). What is due is decided in `migrations/sql/0009_retention.sql`, by the
//! tables alone, so that any owner goes on where the one before ended.

use std::time::Duration;

use sqlx::{
    Row,
    postgres::{PgRow, types::PgInterval},
};

use super::{
    error::{WriteError, commit_error},
    session::Session,
};
use crate::{
    core::{
        job::Verdict,
        retention::Milestone,
        types::{JobId, QueueNo},
    },
    store::{CommitError, Keep, RetainAsk, Retained},
};

/// Does the next part that is due.
pub(super) async fn retain(session: &mut Session, keep: &Keep, ask: &RetainAsk) -> Result<Retained, CommitError> {
    loop {
        match step(session, keep, ask).await? {
            Step::Done(did) => return Ok(did),
            Step::Detach { table, parent, how } => {
                // Outside of any transaction, so it cannot be fenced. A broker that has lost its term does no harm by it:
                // what lies below the bound does not count any more, whoever is the owner.
                let sql = format!("-- cabbage:detach\nALTER TABLE {parent} DETACH PARTITION {table} {how}");
                match session.execute(sql).await {
                    Ok(()) => {}
                    // Somebody has read the parent, and his transaction is open. It is finished another time.
                    Err(WriteError::Commit(CommitError::Again(_))) => return Ok(Retained::Blocked(table)),
                    Err(error) => return Err(commit_error(error)),
                }
            }
        }
    }
}

enum Step {
    Done(Retained),
    /// A table is to be detached from its parent before it can be dropped.
    Detach {
        table: String,
        parent: String,
        how: &'static str,
    },
}

async fn step(session: &mut Session, keep: &Keep, ask: &RetainAsk) -> Result<Step, CommitError> {
    let of = |verdict| keep.of(verdict).map(interval);
    let keeps = vec![of(Verdict::Succeeded), of(Verdict::Failed), of(Verdict::Cancelled), keep.audit.map(interval)];
    let query = sqlx::query(
        "-- cabbage:retain\nSELECT step, at, jobs, name, parent, queue, verdict FROM retain_1($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    );
    let query = session
        .fence
        .bind(query)
        .bind(keeps)
        .bind(keep.rotate_after().map(interval))
        .bind(interval(keep.log))
        .bind(i64::try_from(keep.log_bytes).unwrap_or(i64::MAX))
        .bind(&ask.spared)
        .bind(ask.erase_after.map(|after| after.0));
    let row = session.run(query).await.map_err(commit_error)?;
    read(&row).map_err(|error| CommitError::TermOver(error.to_string()))
}

fn read(row: &PgRow) -> Result<Step, sqlx::Error> {
    let at = JobId(row.try_get(1)?);
    let jobs = row.try_get::<i64, _>(2)? as u64;
    let table = row.try_get::<String, _>(3)?;
    let detach = |table, how| Ok(Step::Detach { table, parent: row.try_get(4)?, how });
    Ok(Step::Done(match row.try_get::<&str, _>(0)? {
        "detach" => return detach(table, "CONCURRENTLY"),
        "finalize" => return detach(table, "FINALIZE"),
        "idle" => Retained::Nothing,
        "closed" => Retained::Closed(at),
        "kept_below" => Retained::Record(Milestone::KeptBelow(at), 0),
        "moved" => Retained::Moved(jobs),
        "moved_below" => Retained::Record(Milestone::MovedBelow(at), jobs),
        "forgotten" => {
            let (queue, verdict) = (QueueNo(row.try_get::<i32, _>(5)? as u32), row.try_get::<i16, _>(6)?);
            let verdict = verdict_of(verdict).ok_or_else(|| sqlx::Error::Protocol(format!("verdict {verdict}")))?;
            Retained::Record(Milestone::Forgotten { queue, verdict, jobs }, 0)
        }
        "dropped" => Retained::Dropped(table),
        "blocked" => Retained::Blocked(table),
        "erased" => Retained::Erased { jobs, after: at },
        other => return Err(sqlx::Error::Protocol(format!("retention answered {other}"))),
    }))
}

fn verdict_of(number: i16) -> Option<Verdict> {
    Verdict::from_number(u8::try_from(number).ok()?)
}

fn interval(duration: Duration) -> PgInterval {
    PgInterval { months: 0, days: 0, microseconds: i64::try_from(duration.as_micros()).unwrap_or(i64::MAX) }
}
