//! Steps of retention (storage.md, rules 11 and 12). What is due is decided in `migrations/sql/0009_retention.sql`, by the
//! tables alone, so that any owner goes on where the one before ended.

use std::time::Duration;

use sqlx::{Row, postgres::types::PgInterval};

use super::{error::commit_error, session::Session};
use crate::{
    core::{job::Verdict, retention::Bound, types::JobId},
    store::{CommitError, Keep, RetainAsk, Retained},
};

/// Does the next part that is due.
pub(super) async fn retain(session: &mut Session, keep: &Keep, ask: RetainAsk) -> Result<Retained, CommitError> {
    let of = |verdict| keep.of(verdict).map(interval);
    let keeps = vec![of(Verdict::Succeeded), of(Verdict::Failed), of(Verdict::Cancelled), keep.audit.map(interval)];
    let query =
        sqlx::query("-- cabbage:retain\nSELECT step, at, jobs, name FROM retain_1($1, $2, $3, $4, $5, $6, $7, $8, $9)");
    let query = session
        .fence
        .bind(query)
        .bind(keeps)
        .bind(keep.rotate_after().map(interval))
        .bind(interval(keep.log))
        .bind(i64::try_from(keep.log_bytes).unwrap_or(i64::MAX))
        .bind(ask.drop)
        .bind(ask.erase_after.map(|after| after.0));
    let row = session.run(query).await.map_err(commit_error)?;
    let unreadable = |error: sqlx::Error| CommitError::TermOver(error.to_string());
    let at = JobId(row.try_get(1).map_err(unreadable)?);
    let jobs = row.try_get::<i64, _>(2).map_err(unreadable)? as u64;
    let name = row.try_get::<String, _>(3).map_err(unreadable)?;
    Ok(match row.try_get::<&str, _>(0).map_err(unreadable)? {
        "idle" => Retained::Nothing,
        "closed" => Retained::Closed(at),
        "kept_below" => Retained::Record(Bound::KeptBelow(at), 0),
        "moved" => Retained::Moved(jobs),
        "moved_below" => Retained::Record(Bound::MovedBelow(at), jobs),
        "dropped" => Retained::Dropped(name),
        "blocked" => Retained::Blocked(name),
        "erased" => Retained::Erased { jobs, after: at },
        other => return Err(CommitError::TermOver(format!("retention answered {other}"))),
    })
}

fn interval(duration: Duration) -> PgInterval {
    PgInterval { months: 0, days: 0, microseconds: i64::try_from(duration.as_micros()).unwrap_or(i64::MAX) }
}
