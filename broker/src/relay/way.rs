//! Where calls and streams go: to this broker if it owns the cell, else over a link to the one that does.

use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::{
    cell::{Admission, Admitted, CallError, Cell, Owned, Role},
    core::types::Term,
    grpc::status::Reason,
    store::Owner,
    telemetry::Metrics,
};

use super::link::Link;

/// How long after a failed try the next link is opened.
const LINK_PAUSE: Duration = Duration::from_millis(50);

/// How long a broker that the database does not answer keeps the streams of workers.
const BLIND_HOLD: Duration = Duration::from_secs(3);

/// Calls that may be held back at once while nobody owns the cell (C14).
const HELD_MAX: usize = 16_384;

/// Where calls go now.
#[derive(Clone)]
pub enum Way {
    /// This broker owns the cell.
    Here(Owned),
    /// Over this link.
    There(Arc<Link>),
}

/// The handle: says where calls go, and holds them back while nobody knows. Cheap to clone.
#[derive(Clone)]
pub struct Relay {
    inner: Arc<Inner>,
}

struct Inner {
    cell: Cell,
    link: watch::Receiver<Linked>,
    /// How many streams of workers go over the link.
    streams: watch::Sender<u32>,
    /// How long a call is held back that has no deadline.
    hold: Duration,
    held: AtomicUsize,
    /// Room for calls that are held back, or passed on and not answered (C14).
    admission: Admission,
    /// Whether the cell was ever owned by anybody, as far as this broker knows. Before that, nothing is a takeover.
    served: AtomicBool,
    metrics: Metrics,
}

/// What the task that keeps the link has.
#[derive(Clone)]
enum Linked {
    /// There is none: why, and since when.
    Not(Arc<str>, Instant),
    To(Arc<Link>),
}

impl Linked {
    /// There is none, for another reason perhaps than a moment ago.
    fn lost(link: &watch::Sender<Self>, why: impl Into<Arc<str>>) {
        let why = why.into();
        link.send_modify(|link| {
            let since = match link {
                Self::Not(_, since) => *since,
                Self::To(_) => Instant::now(),
            };
            *link = Self::Not(why, since);
        });
    }
}

impl Relay {
    /// Starts to keep a link to whoever owns the cell, until the cell ends. Calls without a deadline are held back for
    /// `hold` at most.
    pub fn start(cell: &Cell, hold: Duration, metrics: Metrics) -> Self {
        let (link_sender, link) =
            watch::channel(Linked::Not("no owner of the cell is known yet".into(), Instant::now()));
        let streams = watch::Sender::new(0);
        tokio::spawn(keep(cell.clone(), link_sender, streams.subscribe()));
        let inner = Inner {
            cell: cell.clone(),
            link,
            streams,
            hold,
            held: AtomicUsize::new(0),
            admission: Admission::new(),
            served: AtomicBool::new(false),
            metrics,
        };
        Self { inner: Arc::new(inner) }
    }

    /// The cell.
    pub fn cell(&self) -> &Cell {
        &self.inner.cell
    }

    /// How long a call without a deadline is held back.
    pub fn hold(&self) -> Duration {
        self.inner.hold
    }

    /// Why this broker could never serve yet, or not for longer than it holds calls back, or cannot take the cell over:
    /// whoever balances load had better leave it out. `None`: it serves, or a takeover is under way.
    pub fn trouble(&self) -> Option<Arc<str>> {
        if let Some(why) = self.inner.cell.refusal() {
            return Some(why);
        }
        if self.now().is_some() {
            return None;
        }
        let long = match &*self.inner.link.borrow() {
            Linked::Not(_, since) => since.elapsed() > self.inner.hold,
            Linked::To(_) => false,
        };
        let never = !self.inner.served.load(Ordering::Relaxed);
        (matches!(self.inner.cell.role(), Role::Following(_)) && (long || never)).then(|| self.why())
    }

    /// Where calls go now.
    pub fn now(&self) -> Option<Way> {
        let way = match (self.inner.cell.owned(), &*self.inner.link.borrow()) {
            (Ok(owned), _) => Some(Way::Here(owned)),
            (_, Linked::To(link)) if !link.is_over() => Some(Way::There(Arc::clone(link))),
            (_, Linked::To(_) | Linked::Not(..)) => None,
        };
        if way.is_some() {
            self.inner.served.store(true, Ordering::Relaxed);
        }
        way
    }

    /// Waits until the cell is owned, here or there; not beyond `until`, and not at all where the cell was never owned,
    /// or this broker ends.
    pub async fn way(&self, until: Instant) -> Result<Way, Status> {
        if let Some(way) = self.now() {
            return Ok(way);
        }
        if !self.inner.served.load(Ordering::Relaxed) && !matches!(self.inner.cell.role(), Role::Following(_)) {
            return Err(self.nobody());
        }
        let _held = self.hold_back()?;
        let (mut role, mut link) = (self.inner.cell.watch(), self.inner.link.clone());
        loop {
            // Seen before it is looked, so that no change falls in between.
            let stopped = matches!(*role.borrow_and_update(), Role::Stopped);
            link.mark_unchanged();
            if let Some(way) = self.now() {
                return Ok(way);
            }
            let changed = async {
                tokio::select! {
                    changed = role.changed() => changed.is_ok(),
                    changed = link.changed() => changed.is_ok(),
                }
            };
            if stopped || !timeout_at(until, changed).await.unwrap_or(false) {
                return Err(self.nobody());
            }
        }
    }

    /// Where the stream of a worker goes, as [`Self::way`] says of calls; but a broker that the database does not answer
    /// sends it to the others after [`BLIND_HOLD`]: they may know who owns the cell, and this one cannot.
    pub async fn way_of_stream(&self, until: Instant) -> Result<Way, Status> {
        tokio::select! {
            way = self.way(until) => way,
            () = self.is_blind() => Err(self.nobody()),
        }
    }

    /// Resolves once this broker could not tell for so long who owns the cell.
    async fn is_blind(&self) {
        let is_starting = |role: &Role| matches!(role, Role::Starting(_));
        let mut role = self.inner.cell.watch();
        loop {
            if role.wait_for(is_starting).await.is_err() {
                // The cell has ended, and with it the wait for a way.
                return pending().await;
            }
            if timeout(BLIND_HOLD, role.wait_for(|role| !is_starting(role))).await.is_err() {
                return;
            }
        }
    }

    /// Room for a call of so many bytes that is held back or passed on.
    pub(super) fn room(&self, bytes: usize) -> Result<Admitted, CallError> {
        Ok(self.inner.admission.admit(bytes)?)
    }

    /// A worker's stream goes over the link for as long as this lives.
    pub(super) fn count_stream(&self) -> CountedStream {
        self.change_streams(|streams| streams + 1);
        CountedStream(self.clone())
    }

    /// The gauge is set in the same breath, so that it never stays behind.
    fn change_streams(&self, change: impl FnOnce(u32) -> u32) {
        self.inner.streams.send_modify(|streams| {
            *streams = change(*streams);
            self.inner.metrics.relayed_streams(u64::from(*streams));
        });
    }

    fn hold_back(&self) -> Result<Held<'_>, Status> {
        let held = self.inner.held.fetch_add(1, Ordering::AcqRel) + 1;
        let guard = Held(self);
        self.inner.metrics.held_calls(held as u64);
        if held > HELD_MAX {
            let text = format!("calls that wait for an owner of the cell ({HELD_MAX}) are too many; try again");
            let limit = [("limit", "calls held back".to_owned()), ("value", HELD_MAX.to_string())];
            return Err(Reason::TooBusy.status_with(text, limit));
        }
        Ok(guard)
    }

    /// The answer where nobody owns the cell.
    pub(crate) fn nobody(&self) -> Status {
        let text = format!("no broker that can be reached owns the cell now: {}", self.why());
        match self.inner.cell.role() {
            Role::Following(Some(owner)) => Reason::NotOwner.status_with(text, [("owner", owner.address.to_string())]),
            _ => Reason::NotOwner.status(text),
        }
    }

    fn why(&self) -> Arc<str> {
        if let Some(why) = self.inner.cell.refusal() {
            return why;
        }
        match (self.inner.cell.role(), &*self.inner.link.borrow()) {
            (Role::Stopped, _) => "this broker stops".into(),
            (Role::Starting(why), _) => why,
            (Role::Following(None), _) => "a takeover is under way".into(),
            (Role::Following(Some(_)) | Role::Owning(_), Linked::Not(why, _)) => Arc::clone(why),
            (Role::Following(Some(_)) | Role::Owning(_), Linked::To(_)) => "the term has just ended".into(),
        }
    }
}

/// A call that is held back.
struct Held<'a>(&'a Relay);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let held = self.0.inner.held.fetch_sub(1, Ordering::AcqRel) - 1;
        self.0.inner.metrics.held_calls(held as u64);
    }
}

/// A worker's stream that goes over the link.
pub(super) struct CountedStream(Relay);

impl Drop for CountedStream {
    fn drop(&mut self) {
        self.0.change_streams(|streams| streams - 1);
    }
}

/// Keeps a link to whoever owns the cell. Ends with the cell.
async fn keep(cell: Cell, link: watch::Sender<Linked>, streams: watch::Receiver<u32>) {
    let mut role = cell.watch();
    loop {
        let owner = match &*role.borrow_and_update() {
            Role::Following(Some(owner)) if owner.address == *cell.address() => Err(format!(
                "the last owner of the cell advertised this broker's own address, {}: a takeover is under way, or two \
                 brokers advertise the same (--advertise)",
                owner.address
            )),
            Role::Following(Some(owner)) => Ok(owner.clone()),
            Role::Stopped => return,
            Role::Starting(_) | Role::Following(None) | Role::Owning(_) => {
                Err("no owner of the cell is known".to_owned())
            }
        };
        match owner {
            Ok(owner) => {
                let (changed, mut watched, term) = (CancellationToken::new(), role.clone(), owner.term);
                let cancel = changed.clone();
                // The owner that is known may be gone for long; another one may be known before the next try has failed.
                let watcher = tokio::spawn(async move {
                    // Refused only once the cell has ended.
                    let _ = watched.wait_for(|role| names_another(role, term)).await;
                    cancel.cancel();
                });
                keep_to(&cell, &owner, &link, &streams, &changed).await;
                watcher.abort();
                if role.has_changed().is_err() {
                    return;
                }
            }
            Err(why) => {
                Linked::lost(&link, why);
                if role.changed().await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Whether the owner of this term is none any more, as far as is known. A broker that cannot ask the database for a while
/// knows nothing else, and its link is as good as before.
fn names_another(role: &Role, term: Term) -> bool {
    match role {
        Role::Starting(_) => false,
        Role::Following(owner) => owner.as_ref().is_none_or(|owner| owner.term != term),
        Role::Owning(_) | Role::Stopped => true,
    }
}

/// Opens a link to this owner, again and again, until another one is known, or an open link has ended.
async fn keep_to(
    cell: &Cell,
    owner: &Owner,
    link: &watch::Sender<Linked>,
    streams: &watch::Receiver<u32>,
    changed: &CancellationToken,
) {
    // What was said last of why there is no link: it is tried often.
    let mut said: Option<String> = None;
    loop {
        let opened = tokio::select! {
            opened = Link::open(cell, owner, streams.clone()) => opened,
            () = changed.cancelled() => return,
        };
        match opened {
            Ok(opened) => {
                tracing::info!(owner = %owner.address, term = opened.term().number, "relays to the owner of the cell");
                link.send_replace(Linked::To(Arc::clone(&opened)));
                cell.reach_owner(true);
                tokio::select! {
                    () = opened.over() => {}
                    () = changed.cancelled() => opened.leave(),
                }
                cell.reach_owner(false);
                Linked::lost(link, "the link to the owner ended");
            }
            Err(status) => {
                let why = format!("the owner's address {} does not serve: {}", owner.address, status.message());
                if said.as_ref() != Some(&why) {
                    tracing::warn!(why, "no link to the owner of the cell; it is tried again");
                    said = Some(why.clone());
                }
                Linked::lost(link, why);
            }
        }
        tokio::select! {
            () = sleep(LINK_PAUSE) => {}
            () = changed.cancelled() => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        BrokerArgs,
        cell::CellSettings,
        store::{RelayKey, memory::MemoryStore},
    };

    #[test]
    fn a_link_stays_until_another_owner_is_known() {
        let term = Term { number: 7, nonce: 1 };
        let key = RelayKey(uuid::Uuid::nil());
        let owner = |number| {
            let term = Term { number, ..term };
            Role::Following(Some(Owner { term, address: "a".into(), since: crate::core::types::Timestamp(0), key }))
        };
        assert!(!names_another(&owner(7), term));
        assert!(!names_another(&Role::Starting("the database does not answer".into()), term));
        assert!(names_another(&owner(8), term));
        assert!(names_another(&Role::Following(None), term));
        assert!(names_another(&Role::Stopped, term));
    }

    #[tokio::test]
    async fn calls_that_are_held_back_hold_no_more_bytes_than_they_may() {
        let args = BrokerArgs::default();
        let settings = CellSettings {
            address: "a".into(),
            limits: args.limits(),
            arguments_bytes_max: 1,
            standby_poll: Duration::from_millis(500),
            keep: args.retention.keep(),
            highest_format: crate::store::format::HIGHEST,
        };
        let metrics = Metrics::new().expect("metrics");
        let (cell, task) = Cell::start(Arc::new(MemoryStore::on_wall_clock()), settings, metrics.clone());
        let relay = Relay::start(&cell, Duration::from_secs(1), metrics);
        let Ok(large) = relay.room(256 << 20) else { panic!("there is room at first") };
        let status = Status::from(relay.room(1).expect_err("nothing is left"));
        assert_eq!(status.code(), tonic::Code::ResourceExhausted);
        drop(large);
        assert!(relay.room(1).is_ok());
        cell.stop();
        task.await.expect("no panic").expect("a store");
    }
}
