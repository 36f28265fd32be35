//! Raises the format of the log, once every broker of the cell reads the next one (storage.md, rule 12).

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::{
    cell::{Cell, Owned, Role},
    core::{event::Event, types::Format},
};

use super::guests::Guests;

/// How often it is looked who follows, as long as the format could be higher.
const LOOK: Duration = Duration::from_millis(100);

/// While this broker owns the cell, raises the format of the log to the lowest of those that the brokers of the cell
/// read: this one's, and those of all that follow. What is lower must have been away for `patience`, counted in this
/// term. Ends with the cell.
pub(crate) async fn raise_formats(cell: Cell, guests: Guests, patience: Duration) {
    let mut role = cell.watch();
    loop {
        let owned = match &*role.borrow_and_update() {
            Role::Owning(owned) => Some(owned.clone()),
            Role::Stopped => return,
            Role::Starting(_) | Role::Following(_) => None,
        };
        if let Some(owned) = owned {
            let raising = raise(&owned, &guests, cell.highest_format(), patience);
            owned.over.run_until_cancelled(raising).await;
        }
        if role.changed().await.is_err() {
            return;
        }
    }
}

/// Raises the format as often as it can be; returns once it is this broker's highest.
async fn raise(owned: &Owned, guests: &Guests, highest: Format, patience: Duration) {
    let (mut common, mut since) = (owned.format(), Instant::now());
    let mut told = None;
    while owned.format() < highest {
        // Whoever cannot follow already loses nothing more.
        let follow = guests.all().into_iter().filter(|guest| guest.highest_format >= owned.format());
        let lowest = follow.min_by_key(|guest| guest.highest_format).filter(|guest| guest.highest_format < highest);
        let readable = lowest.as_ref().map_or(highest, |guest| guest.highest_format);
        if readable != common {
            (common, since) = (readable, Instant::now());
        }
        if let Some(guest) = lowest.filter(|guest| told.as_ref() != Some(&guest.address)) {
            tracing::info!(
                address = %guest.address, version = %guest.version, reads = %guest.highest_format, format = %owned.format(),
                "the log's format stays as this broker reads it"
            );
            told = Some(guest.address);
        }
        if common > owned.format() && since.elapsed() >= patience {
            // An owner that has ended meanwhile raises nothing; the next one counts anew.
            let _ = owned.frame(vec![Event::RaiseFormat(common)]).await;
        }
        sleep(LOOK).await;
    }
}
