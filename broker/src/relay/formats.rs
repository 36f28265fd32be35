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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        BrokerArgs,
        cell::CellSettings,
        core::types::Timestamp,
        relay::guests::Guest,
        store::{
            format::{HIGHEST, LOWEST},
            memory::MemoryStore,
        },
        telemetry::Metrics,
    };

    const PATIENCE: Duration = Duration::from_secs(30);

    fn guest(highest_format: Format) -> Guest {
        Guest {
            address: "b".into(),
            version: "0".into(),
            highest_format,
            since: Timestamp(0),
            log_number: 0,
            streams: 0,
            leaving: false,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_format_rises_once_no_older_broker_was_there_for_a_while() {
        let args = BrokerArgs::default();
        let settings = CellSettings {
            address: "a".into(),
            limits: args.limits(),
            arguments_bytes_max: 1,
            standby_poll: Duration::from_millis(500),
            keep: args.retention.keep(),
            highest_format: HIGHEST,
        };
        let metrics = Metrics::new().expect("metrics");
        let (cell, task) = Cell::start(Arc::new(MemoryStore::on_wall_clock()), settings, metrics);
        let guests = Guests::default();
        let older = guests.arrive(guest(LOWEST));
        let _newer = guests.arrive(guest(HIGHEST));
        tokio::spawn(raise_formats(cell.clone(), guests.clone(), PATIENCE));
        let mut role = cell.watch();
        let owned = role.wait_for(|role| matches!(role, Role::Owning(_))).await.expect("it runs").clone();
        let Role::Owning(owned) = owned else { unreachable!("it was waited for") };
        tokio::time::advance(PATIENCE * 2).await;
        for _ in 0..3 {
            sleep(LOOK).await;
            assert_eq!(owned.format(), LOWEST, "an older broker is there");
        }
        // One that is away for less than the patience is a broker that starts again.
        drop(older);
        sleep(PATIENCE / 2).await;
        let older = guests.arrive(guest(LOWEST));
        sleep(PATIENCE).await;
        assert_eq!(owned.format(), LOWEST, "it has come back");
        drop(older);
        let gone = Instant::now();
        while owned.format() < HIGHEST {
            sleep(LOOK).await;
        }
        assert!(gone.elapsed() >= PATIENCE, "after {:?}", gone.elapsed());
        cell.stop();
        task.await.expect("no panic").expect("a store");
    }
}
