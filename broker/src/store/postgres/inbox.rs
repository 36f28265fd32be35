//! The connection that looks into the inbox, and is rung.
//!
//! A look reads what is of transactions that the last one did not see: those that had not begun, by a range of `x`, and
//! those that were under way and have ended, one by one. So a transaction that stays open for long costs nothing, and
//! one that commits late is found. What a capped look leaves is read on by `(x, number)`, as the first one saw it, to
//! the end, before the position moves.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use sqlx::{
    PgConnection, Row,
    postgres::{PgListener, PgPoolOptions, PgRow},
};

use super::{
    connect::Role,
    dial::Dialer,
    error::ReadError,
    inbox_rows::{inbox_columns, inbox_row, waiting_columns, waiting_job},
    time::PgTime,
};
use crate::{
    core::{
        inbox::{InboxRow, Intake, Look},
        types::JobId,
    },
    store::{INBOX_ROWS_MAX, Inbox, JobView, List, StoreError},
};

/// $1: transactions that were under way; $2, $3: where to begin among them; $4, $5: where the range begins; $6: the
/// snapshot that a capped look goes on in; $7: how many.
const LOOK: &str = concat!(
    "-- cabbage:look_into_inbox
SELECT pg_current_snapshot()::text, (SELECT l.number FROM log l ORDER BY l.number DESC LIMIT 1), i.*
FROM (VALUES (0)) nothing LEFT JOIN LATERAL (
    SELECT ",
    inbox_columns!(),
    " FROM (
        (
            -- Those that have ended, key by key.
            SELECT r.* FROM unnest($1::text[]) k (x) CROSS JOIN LATERAL (
                SELECT * FROM inbox q
                WHERE q.x = k.x::xid8 AND (q.x, q.number) >= ($2::text::xid8, $3) ORDER BY q.number LIMIT $7) r
            WHERE pg_visible_in_snapshot(k.x::xid8, coalesce($6::text::pg_snapshot, pg_current_snapshot()))
        )
        UNION ALL
        (
            -- Those that had not begun.
            SELECT q.* FROM inbox q
            WHERE (q.x, q.number) >= ($4::text::xid8, $5)
                AND pg_visible_in_snapshot(q.x, coalesce($6::text::pg_snapshot, pg_current_snapshot()))
            ORDER BY q.x, q.number LIMIT $7
        )
    ) i ORDER BY i.x, i.number LIMIT $7
) i ON true"
);

/// The way into the inbox.
pub(super) struct PgInbox {
    dialer: Dialer,
    deadline: Duration,
    statements: Arc<AtomicU64>,
    bell: Option<Bell>,
    position: Position,
}

/// The connection.
struct Bell {
    listener: PgListener,
    /// The lock that says that nobody need ring.
    lock: i64,
    attended: bool,
}

/// A snapshot, of which all is read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Snapshot {
    /// No transaction from here on is seen.
    next: u64,
    /// Nor one of these.
    under_way: Vec<u64>,
}

/// What has been read.
#[derive(Debug, Default)]
struct Position {
    /// All of this one.
    read: Snapshot,
    /// And of what this one saw, all before this transaction and number.
    part: Option<(String, u64, u64)>,
}

impl PgInbox {
    pub(super) fn new(dialer: Dialer, deadline: Duration, statements: Arc<AtomicU64>) -> Self {
        Self { dialer, deadline, statements, bell: None, position: Position::default() }
    }

    async fn connected(&mut self) -> Result<&mut Bell, ReadError> {
        if self.bell.is_none() {
            let pool = PgPoolOptions::new().max_connections(1).max_lifetime(None).idle_timeout(None);
            let pool = pool.connect_with(self.dialer.dial_options(Role::Reader).await?).await?;
            let mut listener = PgListener::connect_with(&pool).await?;
            listener.ignore_pool_close_event(true);
            self.statements.fetch_add(1, Ordering::Relaxed);
            let row = sqlx::query("-- cabbage:inbox_bell\nSELECT b.channel, b.attended FROM inbox_bell() b")
                .fetch_one(&mut listener)
                .await?;
            let (channel, lock): (&str, i64) = (row.try_get(0)?, row.try_get(1)?);
            listener.listen(channel).await?;
            self.bell = Some(Bell { listener, lock, attended: false });
        }
        Ok(self.bell.as_mut().expect("connected above"))
    }

    async fn read(&mut self, look: Look) -> Result<Intake, ReadError> {
        if look.whole {
            self.position = Position::default();
        }
        let statements = Arc::clone(&self.statements);
        let Position { read, part } = &self.position;
        let read = read.clone();
        let part = part.clone();
        let bell = self.connected().await?;
        bell.attend(look.attended, &statements).await?;

        let (snapshot, from) = match &part {
            Some((snapshot, x, number)) => (Some(snapshot.as_str()), (*x, *number)),
            None => (None, (0, 0)),
        };
        let under_way = read.under_way.iter().filter(|x| **x >= from.0);
        let range = from.max((read.next, 0));
        statements.fetch_add(1, Ordering::Relaxed);
        let rows = sqlx::query(LOOK)
            .bind(under_way.map(ToString::to_string).collect::<Vec<_>>())
            .bind(from.0.to_string())
            .bind(from.1 as i64)
            .bind(range.0.to_string())
            .bind(range.1 as i64)
            .bind(snapshot)
            .bind(i64::from(INBOX_ROWS_MAX))
            .fetch_all(&mut bell.listener)
            .await?;
        let mut intake = Intake { id: look.id, ..Intake::default() };
        let mut last = None;
        let mut seen = String::new();
        for row in &rows {
            if last.is_none() {
                row.try_get::<&str, _>(0)?.clone_into(&mut seen);
                intake.snapshot = row.try_get::<Option<i64>, _>(1)?.unwrap_or(0) as u64;
            }
            let Some(x) = row.try_get::<Option<&str>, _>(3)? else { break };
            let found = inbox_row(row, 2)?;
            last = Some((parse(x)?, found.number));
            intake.rows.push(Arc::new(found));
        }
        let first_seen = part.map_or(seen, |(snapshot, ..)| snapshot);
        intake.more = rows.len() == INBOX_ROWS_MAX as usize;
        self.position = match last.filter(|_| intake.more) {
            Some((x, number)) => Position { read, part: Some((first_seen, x, number + 1)) },
            None => Position { read: first_seen.parse()?, part: None },
        };
        Ok(intake)
    }
}

impl Bell {
    /// Says whether the inbox is looked into so often that nobody need ring.
    async fn attend(&mut self, attended: bool, statements: &AtomicU64) -> Result<(), sqlx::Error> {
        if attended == self.attended {
            return Ok(());
        }
        statements.fetch_add(1, Ordering::Relaxed);
        let sql = if attended {
            "-- cabbage:attend_inbox\nSELECT pg_try_advisory_lock($1)"
        } else {
            "-- cabbage:leave_inbox\nSELECT NOT pg_advisory_unlock($1)"
        };
        // Somebody may be trying the bell at this moment: then it is tried again with the next look.
        self.attended = sqlx::query(sql).bind(self.lock).fetch_one(&mut self.listener).await?.try_get(0)?;
        Ok(())
    }
}

#[async_trait]
impl Inbox for PgInbox {
    async fn look(&mut self, look: Look) -> Result<Intake, StoreError> {
        let looked = match tokio::time::timeout(self.deadline, self.read(look)).await {
            Ok(looked) => looked.map_err(StoreError::from),
            Err(_) => Err(StoreError::Unavailable("no answer in time".to_owned())),
        };
        if looked.is_err() {
            // It could be in the middle of something.
            self.bell = None;
        }
        looked
    }

    async fn rung(&mut self) {
        match &mut self.bell {
            // A connection that was lost and made again may have missed some.
            Some(bell) => match bell.listener.try_recv().await {
                Ok(_) => while bell.listener.next_buffered().is_some() {},
                Err(error) => {
                    tracing::warn!(%error, "nobody can ring until the inbox is looked into again");
                    self.bell = None;
                }
            },
            None => std::future::pending().await,
        }
    }
}

impl std::str::FromStr for Snapshot {
    type Err = StoreError;

    /// Reads `xmin:xmax:xip,xip,…`.
    fn from_str(text: &str) -> Result<Self, StoreError> {
        let corrupt = || StoreError::Corrupt(format!("a snapshot {text:?}"));
        let mut parts = text.split(':').skip(1);
        let next = parse(parts.next().ok_or_else(corrupt)?)?;
        let under_way = parts.next().ok_or_else(corrupt)?.split(',').filter(|x| !x.is_empty()).map(parse);
        Ok(Self { next, under_way: under_way.collect::<Result<_, _>>()? })
    }
}

fn parse(x: &str) -> Result<u64, StoreError> {
    x.parse().map_err(|_| StoreError::Corrupt(format!("a transaction {x:?}")))
}

const ROWS: &str = concat!(
    "-- cabbage:inbox_rows\nSELECT ",
    inbox_columns!(),
    " FROM unnest($1::bigint[]) k (number) CROSS JOIN LATERAL (
        SELECT * FROM inbox q WHERE q.number = k.number LIMIT 1) i"
);

/// Rows by number; one that is not there any more is left out.
pub(super) async fn rows(connection: &mut PgConnection, numbers: Vec<i64>) -> Result<Vec<InboxRow>, ReadError> {
    let rows = sqlx::query(ROWS).bind(numbers).fetch_all(connection).await?;
    rows.iter().map(|row| inbox_row(row, 0)).collect()
}

const JOB: &str =
    concat!("-- cabbage:inbox_job\nSELECT ", waiting_columns!(), " FROM inbox i WHERE i.job = $1 AND i.verb = 'defer'");

/// A job that is not taken in.
pub(super) async fn job(connection: &mut PgConnection, job: JobId) -> Result<Option<JobView>, ReadError> {
    let row: Option<PgRow> = sqlx::query(JOB).bind(job.0).fetch_optional(connection).await?;
    row.as_ref().map(waiting_job).transpose()
}

const LIST: &str = concat!(
    "-- cabbage:inbox_list\nSELECT ",
    waiting_columns!(),
    " FROM inbox i
    WHERE i.verb = 'defer' AND i.job < $1
        AND ($2::text IS NULL OR i.queue = $2)
        AND ($3::text IS NULL OR i.task = $3)
        AND ($4::text IS NULL OR i.lock = $4)
        AND ($5::text IS NULL OR i.queueing_lock = $5)
        AND ($6::timestamptz IS NULL OR i.written_at >= $6)
        AND ($7::timestamptz IS NULL OR i.written_at < $7)
    ORDER BY i.job DESC LIMIT $8"
);

/// Jobs that are not taken in, newest first, as far as one page goes.
pub(super) async fn list(connection: &mut PgConnection, list: &List) -> Result<Vec<JobView>, ReadError> {
    if !list.states.unfinished {
        return Ok(Vec::new());
    }
    let rows = sqlx::query(LIST)
        .bind(list.below.map_or(i64::MAX, |below| below.0))
        .bind(list.queue.as_deref())
        .bind(list.task.as_deref())
        .bind(list.lock.as_deref())
        .bind(list.queueing_lock.as_deref())
        .bind(list.created_from.map(PgTime))
        .bind(list.created_until.map(PgTime))
        .bind(i64::from(list.limit))
        .fetch_all(connection)
        .await?;
    rows.iter().map(waiting_job).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshots_are_read_as_postgresql_writes_them() {
        let snapshot = |next, under_way: &[u64]| Snapshot { next, under_way: under_way.to_vec() };
        assert_eq!("10:20:10,14,15".parse::<Snapshot>().expect("well-formed"), snapshot(20, &[10, 14, 15]));
        assert_eq!("20:20:".parse::<Snapshot>().expect("well-formed"), snapshot(20, &[]));
        assert!("20".parse::<Snapshot>().is_err() && "1:2:x".parse::<Snapshot>().is_err());
    }
}
