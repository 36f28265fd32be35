//! Who follows this broker while it owns the cell, how far each is, and the handover of the cell to one of them.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use cabbage_proto::relay::v1::Standing;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, timeout, timeout_at},
};

use crate::{
    cell::{CallError, Cell, Owned, Role},
    core::{
        ask::{Ask, By, Verb},
        effect::{Refusal, Reply},
        event::Event,
        types::{Format, Term, Timestamp},
    },
};

/// How long a broker may take to become level before a handover gives up waiting for it.
const LEVEL_TIMEOUT: Duration = Duration::from_secs(3);

/// How far a broker may be behind that is level: what is committed while it follows and says so. A time and no number of
/// rows, so that a busy owner finds one too.
const LEVEL_LAG: Duration = Duration::from_millis(50);

/// How long another broker may take to own the cell.
const TAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// What the record of a handover weighs while it waits, in bytes, about.
const RECORD_BYTES: usize = 512;

/// How often it is looked whether somebody is level.
const LOOK: Duration = Duration::from_millis(2);

/// A broker that follows.
#[derive(Clone, Debug)]
pub struct Guest {
    /// The address that it advertises.
    pub address: Arc<str>,
    /// Its version.
    pub version: Arc<str>,
    /// The highest format of the log that it reads. Below that of the log: it cannot follow.
    pub highest_format: Format,
    /// Since when it follows this term, by the database's clock.
    pub since: Timestamp,
    /// The number of the last row of the log that it has folded.
    pub log_number: u64,
    /// How many worker streams it relays.
    pub streams: u32,
    /// It stops, and takes no cell over.
    pub leaving: bool,
}

/// Why the cell was not handed over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandOverError {
    /// This broker does not own the cell.
    #[error("this broker does not own the cell")]
    NotOwner,
    /// Nobody follows, or not the one that was named.
    #[error("{0}")]
    NoFollower(String),
    /// Who wished it could not be recorded, and without that it is not done (C17).
    #[error("the handover was not recorded: {0}")]
    NotRecorded(CallError),
    /// The same: what was to be recorded was refused.
    #[error("the handover was not recorded: {0}")]
    Refused(Refusal),
    /// Nobody took the term in time.
    #[error("the term was given back, and within {TAKE_TIMEOUT:?} no other broker took it")]
    NotTaken,
}

/// All that follow. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Guests {
    list: Arc<Mutex<List>>,
}

#[derive(Debug, Default)]
struct List {
    next: u64,
    /// Whom the cell is to go to.
    heir: Option<u64>,
    guests: BTreeMap<u64, (Guest, mpsc::Sender<()>)>,
}

/// A guest that is here; it leaves when this is dropped.
pub(super) struct Seat {
    guests: Guests,
    number: u64,
}

impl Guests {
    /// Everybody who follows now.
    pub fn all(&self) -> Vec<Guest> {
        self.list().guests.values().map(|(guest, _)| guest.clone()).collect()
    }

    /// Takes one in. What comes out of the receiver is the wish that it follows closely.
    pub(super) fn arrive(&self, guest: Guest) -> (Seat, mpsc::Receiver<()>) {
        let (prepare, prepared) = mpsc::channel(1);
        let mut list = self.list();
        list.next += 1;
        let number = list.next;
        list.guests.insert(number, (guest, prepare));
        (Seat { guests: self.clone(), number }, prepared)
    }

    /// Hands the cell over: to the broker of this address, or to any. Recorded with who wishes it, and why (C17). What was
    /// taken in is committed before. Gives the term of the next owner.
    pub async fn hand_over(&self, cell: &Cell, to: Option<&str>, by: By) -> Result<Term, HandOverError> {
        let owned = cell.owned().map_err(|_| HandOverError::NotOwner)?;
        if self.fitting(&owned, to).is_empty() {
            return Err(HandOverError::NoFollower(self.nobody(to)));
        }
        self.prepare();
        let heir = timeout(LEVEL_TIMEOUT, self.level(&owned, to)).await;
        let heir = heir.map_err(|_| {
            HandOverError::NoFollower(format!("no broker that follows became level within {LEVEL_TIMEOUT:?}"))
        })?;
        // The others are told to leave it to the heir while there is a commit to go, so that none of them looks between
        // the end of the term and the word of it.
        self.list().heir = Some(heir);
        self.prepare();
        let taken = Self::leave(cell, owned.term, by).await;
        self.list().heir = None;
        taken
    }

    /// Tells everybody that follows that the term is about to end.
    fn prepare(&self) {
        for (_, prepare) in self.list().guests.values() {
            // One that is about to be told need not be told twice.
            let _ = prepare.try_send(());
        }
    }

    /// Leaves the term, once it is recorded who wished that and why. Gives the term of the next owner.
    async fn leave(cell: &Cell, term: Term, by: By) -> Result<Term, HandOverError> {
        // While this broker still can; the heir has seen it when it serves.
        let wish = |call| Event::Ask(Ask { call, request: None, by, verb: Verb::HandOver });
        match cell.call(RECORD_BYTES, wish).await {
            Ok(Reply::Refused(refusal)) => return Err(HandOverError::Refused(refusal)),
            Ok(Reply::Done { .. } | Reply::Items(_) | Reply::Settled(_) | Reply::Extended(_)) => {}
            Err(error) => return Err(HandOverError::NotRecorded(error)),
        }
        let mut role = cell.watch();
        cell.hand_over();
        tracing::info!(term = term.number, "the cell is handed over");
        let until = Instant::now() + TAKE_TIMEOUT;
        let taken = timeout_at(until, next_term(&mut role, term)).await;
        taken.ok().flatten().ok_or(HandOverError::NotTaken)
    }

    /// Waits until one that fits is level, and gives the one that is farthest.
    async fn level(&self, owned: &Owned, to: Option<&str>) -> u64 {
        let mut log = VecDeque::new();
        loop {
            let now = Instant::now();
            log.push_back((now, owned.last_log()));
            while log.get(1).is_some_and(|(at, _)| *at + LEVEL_LAG <= now) {
                log.pop_front();
            }
            let best = self.fitting(owned, to).into_iter().max();
            if let (Some((log_number, number)), Some((_, last))) = (best, log.front())
                && log_number >= *last
            {
                return number;
            }
            sleep(LOOK).await;
        }
    }

    /// Who could take the cell: how far each is, and its number.
    fn fitting(&self, owned: &Owned, to: Option<&str>) -> Vec<(u64, u64)> {
        let list = self.list();
        let format = owned.format();
        let follows = |guest: &Guest| !guest.leaving && guest.highest_format >= format;
        let fits = |guest: &Guest| follows(guest) && to.is_none_or(|to| *guest.address == *to);
        list.guests
            .iter()
            .filter(|(_, (guest, _))| fits(guest))
            .map(|(number, (guest, _))| (guest.log_number, *number))
            .collect()
    }

    fn nobody(&self, to: Option<&str>) -> String {
        let all: Vec<_> = self.all().into_iter().map(|guest| guest.address.to_string()).collect();
        match to {
            _ if all.is_empty() => {
                "no other broker follows this cell; start a second one on the same database".to_owned()
            }
            Some(to) if all.iter().any(|address| *address == to) => {
                format!("the broker {to} stops, or cannot read the format of the log")
            }
            Some(to) => format!("no broker that follows advertises {to}; there are: {}", all.join(", ")),
            None => format!(
                "every other broker of this cell stops, or cannot read the format of the log: {}",
                all.join(", ")
            ),
        }
    }

    fn list(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// How far it is.
    pub(super) fn stands(&self, standing: &Standing) {
        if let Some((guest, _)) = self.guests.list().guests.get_mut(&self.number) {
            let Standing { log_number, streams, leaving } = *standing;
            (guest.log_number, guest.streams, guest.leaving) = (log_number, streams, leaving);
        }
    }

    /// Whether another one is to take the cell.
    pub(super) fn yields(&self) -> bool {
        self.guests.list().heir.is_some_and(|heir| heir != self.number)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.guests.list().guests.remove(&self.number);
    }
}

/// The next term of the cell, whoever has it; `None` if this broker ends.
async fn next_term(role: &mut watch::Receiver<Role>, before: Term) -> Option<Term> {
    let next = |role: &Role| match role {
        Role::Owning(owned) if owned.term != before => Some(Some(owned.term)),
        Role::Following(Some(owner)) if owner.term != before => Some(Some(owner.term)),
        Role::Stopped => Some(None),
        Role::Starting(_) | Role::Following(_) | Role::Owning(_) => None,
    };
    let role = role.wait_for(|role| next(role).is_some()).await.ok()?;
    next(&role).flatten()
}
