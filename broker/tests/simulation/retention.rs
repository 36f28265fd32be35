//! Retention at random: bounds rise, and finished jobs are erased.

use std::time::Duration;

use cabbage_broker::{
    core::{event::Event, retention::Milestone, types::JobId},
    store::{Keep, RetainAsk, Retained},
};
use rand::Rng;

use crate::world::World;

impl World {
    /// The duty asks the owner for the next bound, be it a second time, or erases some of what is old.
    pub(crate) fn retention_acts(&mut self) {
        if self.rng.random_bool(0.5) {
            let (kept_below, moved_below) = self.tables.bounds();
            let bound = if moved_below < kept_below {
                Milestone::MovedBelow(kept_below)
            } else {
                Milestone::KeptBelow(JobId(kept_below.0 + self.rng.random_range(1..10)))
            };
            self.tell(Event::Retain(bound));
            return;
        }
        let keep = Duration::from_secs(self.rng.random_range(0..60));
        let keep = Keep { succeeded: Some(keep), failed: Some(keep), cancelled: Some(keep), ..Keep::default() };
        // What a commit wrote whose owner died before it was told is seen now, or never.
        self.ledger.check(&self.tables);
        let before: Vec<JobId> = self.tables.jobs().keys().copied().collect();
        let did =
            self.tables.retain(self.now.db, &keep, &RetainAsk { erase_after: Some(JobId(0)), ..RetainAsk::default() });
        if let Retained::Record(milestone, _) = did {
            self.reached.note("counts to be forgotten");
            self.tell(Event::Retain(milestone));
        }
        for id in before {
            if !self.tables.jobs().contains_key(&id) {
                self.reached.note("erased");
                self.ledger.erase(id);
            }
        }
    }
}
