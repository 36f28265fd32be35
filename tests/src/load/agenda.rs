//! The schedules of a run: each rule for missed ticks, and both kinds of locks.

use cabbage_worker::{MissedTicks, NewJob, NewSchedule};

use super::Work;

/// One schedule.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Its name; the jobs of its ticks have it for a key.
    pub name: &'static str,
    cron: &'static str,
    missed: MissedTicks,
    lock: Option<&'static str>,
    queueing_lock: Option<&'static str>,
}

/// All of them.
pub const AGENDA: [Entry; 5] = [
    Entry::new("each-second-all", "* * * * * *", MissedTicks::All),
    Entry::new("each-second-latest", "* * * * * *", MissedTicks::Latest),
    Entry::new("each-second-skip", "* * * * * *", MissedTicks::Skip),
    Entry { lock: Some("lock-0"), ..Entry::new("every-two-seconds-locked", "*/2 * * * * *", MissedTicks::All) },
    Entry {
        queueing_lock: Some("value-of-ticks"),
        ..Entry::new("each-second-one-waiting", "* * * * * *", MissedTicks::Latest)
    },
];

impl Entry {
    const fn new(name: &'static str, cron: &'static str, missed: MissedTicks) -> Self {
        Self { name, cron, missed, lock: None, queueing_lock: None }
    }

    /// What is put.
    pub fn schedule(&self) -> NewSchedule {
        let work = Work { key: self.name.to_owned(), ..Work::default() };
        let mut job = NewJob::named("quick").args(&work).queue("queue-0");
        if let Some(lock) = self.lock {
            job = job.lock(lock);
        }
        if let Some(lock) = self.queueing_lock {
            job = job.queueing_lock(lock);
        }
        NewSchedule::new(self.name, self.cron, job).missed_ticks(self.missed)
    }
}
