//! Which of several hosts is the primary.
//!
//! More than one may say so: a primary that was demoted does not know it while nobody can tell it, and takes connections
//! as before. Each promotion begins a timeline with a higher number, so the highest is the one to trust, also while its
//! primary is away: what was acknowledged there is nowhere else.

use std::{sync::atomic::Ordering, time::Duration};

use futures::{StreamExt as _, stream::FuturesUnordered};
use sqlx::{Connection as _, PgConnection};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

use super::{
    connect::Role,
    dial::{Dialed, Dialer},
    error::ReadError,
    hosts::Host,
    target::SessionAttrs,
};
use crate::store::StoreError;

/// How often all hosts are looked at.
pub(super) const LOOK_FOR_PRIMARY: Duration = Duration::from_secs(5);

/// How often whoever waits for an answer looks again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// How long the other hosts may take to answer once one has: some may never do so.
const STRAGGLERS: Duration = Duration::from_secs(1);

impl Dialer {
    /// Looks at all hosts; the newest primary is tried first from now on. Answers whether that is another host than
    /// before. Where there is one host, or any will do, there is nothing to look for.
    pub(super) async fn look_for_primary(&self) -> bool {
        let before = self.first();
        let Some(newest) = newest_primary(self).await else { return false };
        self.prefer(newest);
        newest != before
    }

    /// Waits until another host is the primary. For whoever has a connection that says nothing: to a host that is gone,
    /// or stands still.
    pub(super) async fn primary_moved(&self) {
        let before = self.first();
        sleep(LOOK_FOR_PRIMARY).await;
        loop {
            // Somebody else may have found it meanwhile.
            self.look_for_primary().await;
            if self.first() != before {
                return;
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    /// Whether no primary of a higher timeline was seen than this one. If so, it is the newest from now on.
    fn is_newest(&self, timeline: i64) -> bool {
        self.timeline.fetch_max(timeline, Ordering::Relaxed) <= timeline
    }

    /// Refuses a primary that was demoted, by what is remembered since the start of the broker.
    pub(super) async fn trust(&self, dialed: &mut Dialed) -> Result<(), ReadError> {
        let timeline = timeline(&mut dialed.connection).await?;
        if timeline == 0 || self.is_newest(timeline) {
            return Ok(());
        }
        let newest = self.timeline.load(Ordering::Relaxed);
        let host = &dialed.host;
        let text = format!(
            "{host} is the primary of timeline {timeline}, and one of timeline {newest} has been seen, which it lacks: \
             bring that one back, or restart the broker if what was acknowledged there may be lost"
        );
        Err(StoreError::Unavailable(text).into())
    }
}

/// The number of the host that was promoted last.
async fn newest_primary(dialer: &Dialer) -> Option<usize> {
    let hosts = &dialer.target.hosts;
    if hosts.len() < 2 || dialer.target.attrs == SessionAttrs::Any {
        return None;
    }
    let asking = hosts.iter().enumerate().map(|(at, host)| async move {
        let asked = timeout(dialer.target.connect_timeout, timeline_of(dialer, host)).await;
        asked.ok().flatten().map(|timeline| (timeline, at))
    });
    let mut asking: FuturesUnordered<_> = asking.collect();
    let mut newest: Option<(i64, usize)> = None;
    let mut within = dialer.target.connect_timeout;
    while let Ok(Some(answer)) = timeout(within, asking.next()).await {
        within = STRAGGLERS;
        if let Some((timeline, at)) = answer
            && newest.is_none_or(|(known, _)| timeline > known)
        {
            newest = Some((timeline, at));
        }
    }
    newest.filter(|(timeline, _)| dialer.is_newest(*timeline)).map(|(_, at)| at)
}

/// The timeline of this host, if it is a primary.
async fn timeline_of(dialer: &Dialer, host: &Host) -> Option<i64> {
    let mut connection = dialer.dial_host(host, Role::Reader).await.ok()?;
    let timeline = timeline(&mut connection).await.ok()?;
    // It has answered, which is all that was asked of it.
    drop(connection.close().await);
    Some(timeline)
}

/// The timeline of a primary. A service that does not tell it has 0, and so has a standby.
async fn timeline(connection: &mut PgConnection) -> Result<i64, sqlx::Error> {
    let sql = "-- cabbage:timeline
        SELECT ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::bigint";
    match sqlx::query_scalar(sql).fetch_one(connection).await {
        Err(sqlx::Error::Database(_)) => Ok(0),
        told => told,
    }
}

/// Looks for an owner whether another host became the primary: its own may not know.
pub(super) struct PrimaryWatch {
    dialer: Dialer,
    host: Host,
    looked: Instant,
    /// The look that is under way. The owner's work never waits for it.
    look: Option<JoinHandle<Option<usize>>>,
}

impl PrimaryWatch {
    pub(super) fn new(dialer: Dialer, host: Host) -> Self {
        Self { dialer, host, looked: Instant::now(), look: None }
    }

    /// The host that took the place of the owner's, if the last look found one. Looks again when it is time.
    pub(super) async fn successor(&mut self) -> Option<Host> {
        match self.look.take() {
            Some(look) if look.is_finished() => {
                self.looked = Instant::now();
                let newest = look.await.ok()??;
                let host = &self.dialer.target.hosts[newest];
                (*host != self.host).then(|| {
                    self.dialer.prefer(newest);
                    host.clone()
                })
            }
            Some(look) => {
                self.look = Some(look);
                None
            }
            None if self.looked.elapsed() >= LOOK_FOR_PRIMARY => {
                let dialer = self.dialer.clone();
                self.look = Some(tokio::spawn(async move { newest_primary(&dialer).await }));
                None
            }
            None => None,
        }
    }
}
