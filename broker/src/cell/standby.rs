//! The life of a cell in this broker: stand by, own it, stand by again.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, time::Instant};

use crate::{
    core::types::Term,
    store::{Owner, Store, StoreError, Tenure},
    telemetry::Metrics,
};

use super::{
    follower::{CatchUpError, Fold},
    handle::{CellSettings, Role},
    term::{self, TermEnd},
    vigil::{Standby, Vigil},
};

/// The wait after something that trying again soon does not mend.
const LONG_WAIT: Duration = Duration::from_secs(5);

/// How often a broker that stands by looks who owns the cell, as long as it reaches whom it knows. One that does not, or
/// that watches closely, looks at every step.
const LOOK_FOR_OWNER: Duration = Duration::from_secs(5);

/// Runs until it is stopped; or ends with what stands in the way from the start, and does not mend by itself.
pub(super) async fn run(
    store: Arc<dyn Store>,
    settings: CellSettings,
    metrics: Metrics,
    role: watch::Sender<Role>,
    vigil: Arc<Vigil>,
) -> Result<(), StoreError> {
    let mut standby = Follower::new(Arc::clone(&store), Arc::clone(&vigil));
    while !vigil.stop.is_cancelled() {
        let wait = match standby.step(&settings, &role).await {
            Ok(None) => settings.standby_poll,
            Ok(Some((tenure, fold))) => {
                let store = Arc::clone(&store);
                match term::serve(store, &settings, &metrics, tenure, fold, &role, &vigil).await {
                    Ok(TermEnd::Stopped) => break,
                    Ok(TermEnd::HandedOver) => {
                        vigil.watch_closely(Standby::Yield);
                        settings.standby_poll
                    }
                    Err(why) => {
                        tracing::error!(why, "the term is over; this broker stands by");
                        metrics.term_over();
                        starting(&role, format!("the term ended: {why}"));
                        settings.standby_poll
                    }
                }
            }
            Err(CatchUpError::Store(error)) if !standby.prepared && is_lasting(&error) => {
                role.send_replace(Role::Stopped);
                return Err(error);
            }
            Err(error) => standby.failed(error, &settings, &role),
        };
        tokio::select! {
            () = vigil.next_look(wait) => {}
            () = vigil.stop.cancelled() => {}
        }
    }
    role.send_replace(Role::Stopped);
    Ok(())
}

/// Whether only somebody can mend it. A broker that has served, or stood by, waits for that; one that starts had better
/// say so and end, while whoever starts it looks.
fn is_lasting(error: &StoreError) -> bool {
    match error {
        StoreError::Unsuitable(_) | StoreError::Denied(_) => true,
        StoreError::Unavailable(_)
        | StoreError::LogChanged
        | StoreError::FormatTooNew { .. }
        | StoreError::Corrupt(_) => false,
    }
}

fn starting(role: &watch::Sender<Role>, why: String) {
    role.send_replace(Role::Starting(why.into()));
}

/// This owner is followed; whoever watches is not woken for what it knows.
fn follow(role: &watch::Sender<Role>, owner: Option<Owner>) {
    role.send_if_modified(|role| match role {
        Role::Following(known) if *known == owner => false,
        role => {
            *role = Role::Following(owner);
            true
        }
    });
}

struct Follower {
    store: Arc<dyn Store>,
    vigil: Arc<Vigil>,
    /// What was followed so far.
    fold: Option<Fold>,
    prepared: bool,
    /// When it was last looked who owns the cell.
    looked: Option<Instant>,
    /// The log cannot be followed.
    refused: Option<Refused>,
}

/// The log has a higher format than this broker reads.
struct Refused {
    /// The last term of the cell when that was found.
    in_term: Option<Term>,
}

impl Follower {
    fn new(store: Arc<dyn Store>, vigil: Arc<Vigil>) -> Self {
        Self { store, vigil, fold: None, prepared: false, looked: None, refused: None }
    }

    /// Follows the log, and tries once to take the term. Gives the term with the state that it begins with.
    async fn step(
        &mut self,
        settings: &CellSettings,
        role: &watch::Sender<Role>,
    ) -> Result<Option<(Tenure, Fold)>, CatchUpError> {
        if !self.prepared {
            self.store.prepare().await?;
            self.prepared = true;
        }
        if self.stays_refused(role).await? {
            return Ok(None);
        }
        match self.follow_and_take(settings, role).await {
            Err(CatchUpError::Store(error @ StoreError::FormatTooNew { .. })) => {
                self.refuse(&error, role).await?;
                Ok(None)
            }
            stepped => stepped,
        }
    }

    async fn follow_and_take(
        &mut self,
        settings: &CellSettings,
        role: &watch::Sender<Role>,
    ) -> Result<Option<(Tenure, Fold)>, CatchUpError> {
        if self.fold.is_none() && !self.looks_first(settings, role).await? {
            return Ok(None);
        }
        let mut fold = match self.fold.take() {
            Some(fold) => fold,
            None => Fold::load(&*self.store, settings.highest_format).await?,
        };
        fold.catch_up(&*self.store).await?;
        self.vigil.refuse(None);
        self.vigil.has_folded(fold.position().number);
        let taken = if self.vigil.may_take() { self.store.take_term(&settings.address).await? } else { None };
        let Some(tenure) = taken else {
            self.follows(role).await?;
            self.fold = Some(fold);
            return Ok(None);
        };
        self.looked = None;
        // Only a statement after the takeover is sure to see all that the last owner committed.
        if let Err(error) = fold.catch_up(&*self.store).await {
            let Tenure { writer, duties, .. } = tenure;
            duties.release().await;
            writer.release().await;
            return Err(error);
        }
        Ok(Some((tenure, fold)))
    }

    /// The log has a format that this broker does not read. It neither follows nor takes the term from now on, and says
    /// so once; what comes to it still goes to whoever owns the cell.
    async fn refuse(&mut self, error: &StoreError, role: &watch::Sender<Role>) -> Result<(), StoreError> {
        let owner = self.store.owner().await?;
        tracing::error!(%error, "this broker cannot follow the log, and takes no cell over");
        self.refused = Some(Refused { in_term: owner.as_ref().map(|owner| owner.term) });
        self.vigil.refuse(Some(error.to_string().into()));
        follow(role, owner);
        self.looked = Some(Instant::now());
        Ok(())
    }

    /// Whether the log is as this broker cannot read it. A log is written in a lower format again only where a restore or
    /// a failover took rows away, and there is a term for that: so it is not read again under the same one.
    async fn stays_refused(&mut self, role: &watch::Sender<Role>) -> Result<bool, StoreError> {
        let Some(Refused { in_term }) = self.refused else { return Ok(false) };
        if self.is_time_to_look() {
            let owner = self.store.owner().await?;
            self.looked = Some(Instant::now());
            if owner.as_ref().map(|owner| owner.term) != in_term {
                self.refused = None;
                return Ok(false);
            }
            follow(role, owner);
        }
        Ok(true)
    }

    /// To load may take long. Who owns the cell is looked for before, since calls and streams go there meanwhile. Gives
    /// whether to load now: whoever leaves the term to others first waits for one that takes it.
    async fn looks_first(&mut self, settings: &CellSettings, role: &watch::Sender<Role>) -> Result<bool, StoreError> {
        let another = self.store.owner().await?.filter(|owner| *owner.address != *settings.address);
        let found = another.is_some();
        if found {
            follow(role, another);
        }
        Ok(self.vigil.may_take() || (found && !self.vigil.leaving().is_cancelled()))
    }

    async fn follows(&mut self, role: &watch::Sender<Role>) -> Result<(), StoreError> {
        if self.is_time_to_look() {
            follow(role, self.store.owner().await?);
            self.looked = Some(Instant::now());
        }
        Ok(())
    }

    fn is_time_to_look(&self) -> bool {
        let is_urgent = self.vigil.is_close() || !self.vigil.reaches_owner();
        is_urgent || self.looked.is_none_or(|at| at.elapsed() >= LOOK_FOR_OWNER)
    }

    /// Says why, and gives how long to wait.
    fn failed(&mut self, error: CatchUpError, settings: &CellSettings, role: &watch::Sender<Role>) -> Duration {
        starting(role, error.to_string());
        self.looked = None;
        match error {
            CatchUpError::Store(StoreError::Unavailable(why)) => {
                tracing::warn!(why, "the database does not answer");
                settings.standby_poll
            }
            CatchUpError::Store(StoreError::LogChanged) => {
                tracing::warn!("the log is not what it was; it is loaded again");
                settings.standby_poll
            }
            CatchUpError::Store(
                error @ (StoreError::FormatTooNew { .. }
                | StoreError::Unsuitable(_)
                | StoreError::Denied(_)
                | StoreError::Corrupt(_)),
            ) => {
                tracing::error!(%error, "this broker cannot serve the cell");
                LONG_WAIT
            }
            CatchUpError::Divergence(difference) => {
                tracing::error!(%difference, "the log cannot be folded as it is; it is loaded again");
                LONG_WAIT
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        core::limits::Limits,
        store::{Keep, format::HIGHEST, memory::MemoryStore},
    };

    fn owner_of(role: &watch::Sender<Role>) -> Option<String> {
        match &*role.borrow() {
            Role::Following(owner) => owner.as_ref().map(|owner| owner.address.to_string()),
            Role::Starting(_) | Role::Owning(_) | Role::Stopped => None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_owner_that_is_not_reached_is_looked_up_again_at_every_step() {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::on_wall_clock());
        store.prepare().await.unwrap();
        let vigil = Arc::new(Vigil::default());
        let settings = CellSettings {
            address: "c".into(),
            limits: Limits::default(),
            arguments_bytes_max: 1 << 20,
            standby_poll: Duration::from_secs(1),
            keep: Keep::default(),
            highest_format: HIGHEST,
        };
        let role = watch::Sender::new(Role::Starting("test".into()));
        let mut follower = Follower::new(Arc::clone(&store), Arc::clone(&vigil));
        let mut tenure = store.take_term("a").await.unwrap().expect("the term is free");
        let mut seen = Vec::new();
        for next in ["b", "c"] {
            assert!(follower.step(&settings, &role).await.is_ok_and(|taken| taken.is_none()));
            seen.push(owner_of(&role));
            tenure.duties.release().await;
            tenure.writer.release().await;
            tenure = store.take_term(next).await.unwrap().expect("it was released");
        }
        // With a way to the one that is known, the next look is not due yet.
        vigil.reach_owner(true);
        assert!(follower.step(&settings, &role).await.is_ok_and(|taken| taken.is_none()));
        seen.push(owner_of(&role));
        assert_eq!(seen, [Some("a".to_owned()), Some("b".to_owned()), Some("b".to_owned())]);
    }
}
