//! The record of verbs, by pages.

use sqlx::{PgConnection, Row, postgres::PgRow};

use super::{error::ReadError, time::PgTime};
use crate::{
    core::{ask::By, types::JobId},
    store::{AuditEntry, AuditList},
};

const AUDIT: &str = "-- cabbage:audit
SELECT a.number, a.at, a.verb, a.job, a.queue, a.schedule, a.who, a.why, a.refused FROM audit a
WHERE a.number < $1 ORDER BY a.number DESC LIMIT $2";

const AUDIT_OF_JOB: &str = "-- cabbage:audit_of_job
SELECT a.number, a.at, a.verb, a.job, a.queue, a.schedule, a.who, a.why, a.refused FROM audit a
WHERE a.job = $3 AND a.number < $1 ORDER BY a.number DESC LIMIT $2";

/// A page of verbs, newest first.
pub(super) async fn audit(connection: &mut PgConnection, list: AuditList) -> Result<Vec<AuditEntry>, ReadError> {
    let query = sqlx::query(if list.job.is_some() { AUDIT_OF_JOB } else { AUDIT });
    let query = query.bind(list.below.unwrap_or(i64::MAX)).bind(i64::from(list.limit));
    let query = match list.job {
        Some(job) => query.bind(job.0),
        None => query,
    };
    query.fetch_all(connection).await?.iter().map(entry).collect()
}

fn entry(row: &PgRow) -> Result<AuditEntry, ReadError> {
    Ok(AuditEntry {
        number: row.try_get(0)?,
        at: row.try_get::<PgTime, _>(1)?.0,
        verb: row.try_get::<&str, _>(2)?.into(),
        job: row.try_get::<Option<i64>, _>(3)?.map(JobId),
        queue: row.try_get::<Option<&str>, _>(4)?.map(Into::into),
        schedule: row.try_get::<Option<&str>, _>(5)?.map(Into::into),
        by: By { who: row.try_get::<&str, _>(6)?.into(), why: row.try_get::<&str, _>(7)?.into() },
        refused: row.try_get::<Option<&str>, _>(8)?.map(Into::into),
    })
}
