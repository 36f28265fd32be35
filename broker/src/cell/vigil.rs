//! How closely a broker that stands by watches, and what others ask of its task.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

/// How often a broker looks that watches closely.
const CLOSE_LOOK: Duration = Duration::from_millis(10);

/// How long one watches closely. A term that nobody could take by then is taken at the usual pace.
const CLOSE_WATCH: Duration = Duration::from_secs(2);

/// How long a broker leaves the term to others that it has handed over, or that was promised to another one.
const YIELD: Duration = Duration::from_secs(1);

/// How a broker is to stand by for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standby {
    /// Follow the log closely: the owner is about to hand over.
    Follow,
    /// Take the term as soon as it is free.
    Take,
    /// Watch who takes the term, and leave it to others for a moment.
    Yield,
}

/// Shared by the task of the cell and those who know more than it does.
#[derive(Debug, Default)]
pub(super) struct Vigil {
    watch: Mutex<Watch>,
    woken: Notify,
    handing_over: Notify,
    folded: watch::Sender<u64>,
    /// This broker has a way to the owner that it knows.
    reaches_owner: AtomicBool,
    /// Why this broker cannot follow the log.
    refusal: Mutex<Option<Arc<str>>>,
    /// Cancelled when the cell is to end.
    pub(super) stop: CancellationToken,
    /// Cancelled when the term is not to be taken any more.
    leaving: CancellationToken,
}

#[derive(Clone, Copy, Debug, Default)]
struct Watch {
    closely_until: Option<Instant>,
    takes_from: Option<Instant>,
}

impl Vigil {
    /// Asks the owner's task to give the term back. A wish that comes while this broker does not own the cell is void.
    pub(super) fn hand_over(&self) {
        self.handing_over.notify_waiters();
    }

    /// Resolves when somebody wishes that the term is given back.
    pub(super) async fn handing_over(&self) {
        self.handing_over.notified().await;
    }

    pub(super) fn watch_closely(&self, how: Standby) {
        let now = Instant::now();
        let mut watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        watch.closely_until = Some(now + CLOSE_WATCH);
        match how {
            Standby::Follow => {}
            Standby::Take => watch.takes_from = None,
            Standby::Yield => watch.takes_from = Some(now + YIELD),
        }
        drop(watch);
        self.woken.notify_one();
    }

    /// The term is left to others from now on, for good.
    pub(super) fn leave(&self) {
        self.leaving.cancel();
    }

    /// Cancelled when the term is left to others for good.
    pub(super) fn leaving(&self) -> &CancellationToken {
        &self.leaving
    }

    /// Whether the term may be tried to be taken now.
    pub(super) fn may_take(&self) -> bool {
        !self.leaving.is_cancelled() && self.now().takes_from.is_none_or(|from| Instant::now() >= from)
    }

    /// Whether it is looked closely now.
    pub(super) fn is_close(&self) -> bool {
        self.now().closely_until.is_some_and(|until| Instant::now() < until)
    }

    /// Says whether there is a way to the owner that is known.
    pub(super) fn reach_owner(&self, is_reached: bool) {
        self.reaches_owner.store(is_reached, Ordering::Relaxed);
    }

    /// Whether there is one. Who cannot be reached may own the cell no more.
    pub(super) fn reaches_owner(&self) -> bool {
        self.reaches_owner.load(Ordering::Relaxed)
    }

    /// The log is written in a way that this broker does not read (why); or `None`: it follows.
    pub(super) fn refuse(&self, why: Option<Arc<str>>) {
        *self.refusal.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }

    /// Why this broker does not follow the log, although it could ask for it.
    pub(super) fn refusal(&self) -> Option<Arc<str>> {
        self.refusal.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until it is time for the next look: for `usual`, or less.
    pub(super) async fn next_look(&self, usual: Duration) {
        let wait = if self.is_close() { usual.min(CLOSE_LOOK) } else { usual };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = self.woken.notified() => {}
        }
    }

    /// Says how far the log is folded.
    pub(super) fn has_folded(&self, number: u64) {
        self.folded.send_if_modified(|folded| std::mem::replace(folded, number) != number);
    }

    pub(super) fn folded(&self) -> watch::Receiver<u64> {
        self.folded.subscribe()
    }

    fn now(&self) -> Watch {
        *self.watch.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_broker_that_yields_looks_closely_and_takes_nothing_for_a_moment() {
        let vigil = Vigil::default();
        assert!(vigil.may_take() && !vigil.is_close());
        vigil.watch_closely(Standby::Yield);
        assert!(!vigil.may_take() && vigil.is_close());
        // The wish itself wakes; then each look is soon.
        vigil.next_look(Duration::from_secs(5)).await;
        let began = Instant::now();
        vigil.next_look(Duration::from_secs(5)).await;
        assert_eq!(began.elapsed(), CLOSE_LOOK);
        tokio::time::advance(YIELD).await;
        assert!(vigil.may_take() && vigil.is_close());
        tokio::time::advance(CLOSE_WATCH).await;
        assert!(!vigil.is_close());
    }

    #[tokio::test(start_paused = true)]
    async fn a_broker_that_leaves_takes_nothing_whoever_asks_it_to() {
        let vigil = Vigil::default();
        vigil.leave();
        vigil.watch_closely(Standby::Take);
        assert!(!vigil.may_take() && vigil.is_close());
        tokio::time::advance(CLOSE_WATCH).await;
        assert!(!vigil.may_take());
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_is_to_take_the_term_no_longer_yields() {
        let vigil = Vigil::default();
        vigil.watch_closely(Standby::Yield);
        vigil.watch_closely(Standby::Take);
        assert!(vigil.may_take() && vigil.is_close());
    }
}
