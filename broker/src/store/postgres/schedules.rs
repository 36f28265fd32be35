//! The rows of schedules: as `write_schedules_1` wants them, and as people read them.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};
use sqlx::{PgConnection, Row, postgres::PgRow};

use super::{error::ReadError, time::PgTime};
use crate::{
    core::{
        schedule::{ScheduleRecord, TickOutcome},
        types::{Format, JobId},
    },
    store::{
        ScheduleRange, SchedulesAt, StoreError,
        format::{decode_schedule, encode_schedule},
    },
};

/// Schedules by name, with the clock of the same moment. There is a row without a schedule if none fits.
macro_rules! schedules_query {
    ($name:literal, $condition:literal) => {
        concat!(
            "-- cabbage:",
            $name,
            "\nSELECT clock_timestamp(), s.definition, s.paused, s.decided_until, s.last_tick, s.last_outcome,
                s.last_outcome_job, s.deferred_tick, s.deferred_job
            FROM (VALUES (0)) nothing LEFT JOIN LATERAL (
                SELECT * FROM schedule r WHERE ",
            $condition,
            " ORDER BY r.name LIMIT $2) s ON true"
        )
    };
}

const SCHEDULE: &str = schedules_query!("schedule", "r.name = $1");
const SCHEDULES: &str = schedules_query!("schedules", "r.name > $1");

/// Schedules in the order of their names.
pub(super) async fn schedules(
    connection: &mut PgConnection,
    range: &ScheduleRange,
    limit: u32,
) -> Result<SchedulesAt, ReadError> {
    let (statement, name) = match range {
        ScheduleRange::Named(name) => (SCHEDULE, name),
        ScheduleRange::After(name) => (SCHEDULES, name),
    };
    let rows = sqlx::query(statement).bind(&**name).bind(i64::from(limit)).fetch_all(connection).await?;
    let mut schedules = SchedulesAt::default();
    for row in &rows {
        schedules.now = row.try_get::<PgTime, _>(0)?.0;
        if let Some(definition) = row.try_get::<Option<&[u8]>, _>(1)? {
            schedules.records.push(record(row, definition)?);
        }
    }
    Ok(schedules)
}

fn record(row: &PgRow, definition: &[u8]) -> Result<ScheduleRecord, ReadError> {
    let time = |column: usize| Ok::<_, sqlx::Error>(row.try_get::<Option<PgTime>, _>(column)?.map(|time| time.0));
    let job = |column: usize| Ok::<_, sqlx::Error>(row.try_get::<Option<i64>, _>(column)?.map(JobId));
    let mut record = decode_schedule(definition)?;
    record.paused = row.try_get(2)?;
    record.decided = row.try_get::<PgTime, _>(3)?.0;
    record.last = match (time(4)?, row.try_get::<Option<&str>, _>(5)?) {
        (Some(tick), Some(word)) => {
            let outcome = TickOutcome::of_word(word, job(6)?);
            Some((tick, outcome.ok_or_else(|| StoreError::Corrupt(format!("no outcome of a tick: {word}")))?))
        }
        _ => None,
    };
    record.deferred = time(7)?.zip(job(8)?);
    Ok(record)
}

/// The whole row.
pub(super) fn row_json(record: &ScheduleRecord, format: Format) -> Result<Value, std::str::Utf8Error> {
    let schedule = &record.schedule;
    let mut row = ticks(record);
    row.extend([
        ("cron".to_owned(), json!(&**schedule.cron.text())),
        ("time_zone".to_owned(), json!(schedule.cron.zone().name())),
        ("missed_ticks".to_owned(), json!(schedule.missed.word())),
        ("task".to_owned(), json!(&*schedule.job.task)),
        ("queue".to_owned(), json!(&*schedule.job.queue)),
        ("args".to_owned(), json!(std::str::from_utf8(&schedule.job.args)?)),
        ("paused".to_owned(), json!(record.paused)),
        ("definition".to_owned(), json!(hex(&encode_schedule(record, format)))),
    ]);
    Ok(Value::Object(row))
}

/// What changes of a row with its ticks.
pub(super) fn tick_json(record: &ScheduleRecord) -> Value {
    Value::Object(ticks(record))
}

/// A row that is to go.
pub(super) fn gone_json(name: &str) -> Value {
    json!({ "name": name })
}

fn ticks(record: &ScheduleRecord) -> Map<String, Value> {
    let (last, deferred) = (record.last, record.deferred);
    let mut row = Map::new();
    row.extend([
        ("name".to_owned(), json!(&*record.schedule.name)),
        ("decided".to_owned(), json!(record.decided.0)),
        ("last_tick".to_owned(), json!(last.map(|(tick, _)| tick.0))),
        ("last_outcome".to_owned(), json!(last.map(|(_, outcome)| outcome.word()))),
        ("last_outcome_job".to_owned(), json!(last.and_then(|(_, outcome)| outcome.job()).map(|job| job.0))),
        ("deferred_tick".to_owned(), json!(deferred.map(|(tick, _)| tick.0))),
        ("deferred_job".to_owned(), json!(deferred.map(|(_, job)| job.0))),
    ]);
    row
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // A string takes whatever is written to it.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
