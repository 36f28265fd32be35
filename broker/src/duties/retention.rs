//! When the next step of retention is taken. What it is, the tables say.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    core::types::JobId,
    store::{Keep, RetainAsk, Retained, kind},
};

/// How often it is looked at whether something is due, at most.
const LOOK_EVERY_MAX: Duration = Duration::from_mins(1);
const LOOK_EVERY_MIN: Duration = Duration::from_millis(50);

/// How often all jobs that outlived their partition are looked through, at most.
const ROUND_EVERY_MAX: Duration = Duration::from_hours(1);

/// How long the owner is given to record a milestone before the tables are read again.
const RECORD_WAIT: Duration = Duration::from_millis(100);

/// The timer of retention. Works at most half of the time, so that what runs beside it has the other half.
#[derive(Debug)]
pub(super) struct RetentionTimer {
    look_every: Duration,
    round_every: Duration,
    next: Instant,
    /// Kinds of tables of which somebody used one: none is dropped until then.
    spared: Vec<String>,
    spared_until: Instant,
    /// Where the present round of erasing goes on.
    round: Option<JobId>,
    next_round: Instant,
}

impl RetentionTimer {
    pub(super) fn new(keep: &Keep, now: Instant) -> Self {
        let shortest = [keep.succeeded, keep.audit, Some(keep.log)].into_iter().flatten().min().unwrap_or(keep.log);
        let look_every = (shortest / 60).clamp(LOOK_EVERY_MIN, LOOK_EVERY_MAX);
        let round_every = (shortest / 24).clamp(LOOK_EVERY_MIN, ROUND_EVERY_MAX);
        let (next, spared_until) = (now + look_every, now);
        Self { look_every, round_every, next, spared: Vec::new(), spared_until, round: None, next_round: now }
    }

    /// When the next step is due.
    pub(super) fn next(&self) -> Instant {
        self.next
    }

    /// What the step that begins now may do.
    pub(super) fn ask(&mut self, now: Instant) -> RetainAsk {
        if self.round.is_none() && now >= self.next_round {
            self.round = Some(JobId(0));
            self.next_round = now + self.round_every;
        }
        if now >= self.spared_until {
            self.spared.clear();
        }
        RetainAsk { spared: self.spared.clone(), erase_after: self.round }
    }

    /// A step was taken; `None`: it could not be.
    pub(super) fn took(&mut self, began: Instant, now: Instant, did: Option<&Retained>) {
        let pause = match did {
            None => self.look_every,
            Some(Retained::Nothing) => {
                self.round = None;
                self.look_every
            }
            Some(Retained::Blocked(table)) => {
                if self.spared.is_empty() {
                    self.spared_until = now + self.look_every;
                }
                self.spared.push(kind(table).to_owned());
                Duration::ZERO
            }
            Some(Retained::Record(..)) => RECORD_WAIT,
            Some(Retained::Erased { after, .. }) => {
                self.round = Some(*after);
                now - began
            }
            Some(Retained::Closed(_) | Retained::Moved(_) | Retained::Dropped(_)) => now - began,
        };
        self.next = now + pause;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_table_in_use_is_left_alone_for_a_while_and_the_rest_goes_on() {
        let start = Instant::now();
        let mut timer = RetentionTimer::new(&Keep::default(), start);
        assert!(timer.ask(start).spared.is_empty());
        for table in ["job_0", "request_20300101"] {
            timer.took(start, start, Some(&Retained::Blocked(table.to_owned())));
            assert_eq!(timer.next(), start);
        }
        assert_eq!(timer.ask(start).spared, ["job", "request"]);
        timer.took(start, start, Some(&Retained::Nothing));
        assert_eq!(timer.next(), start + LOOK_EVERY_MAX);
        assert!(timer.ask(timer.next()).spared.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_round_of_erasing_goes_on_to_its_end_and_begins_anew_after_an_hour() {
        let start = Instant::now();
        let mut timer = RetentionTimer::new(&Keep::default(), start);
        assert_eq!(timer.ask(start).erase_after, Some(JobId(0)));
        timer.took(start, start, Some(&Retained::Erased { jobs: 3, after: JobId(1_000) }));
        assert_eq!(timer.ask(start).erase_after, Some(JobId(1_000)));
        timer.took(start, start, Some(&Retained::Nothing));
        assert_eq!(timer.ask(start).erase_after, None);
        assert_eq!(timer.ask(start + ROUND_EVERY_MAX).erase_after, Some(JobId(0)));
    }

    #[tokio::test(start_paused = true)]
    async fn it_works_at_most_half_of_the_time() {
        let start = Instant::now();
        let mut timer = RetentionTimer::new(&Keep::default(), start);
        let took = Duration::from_millis(40);
        timer.took(start, start + took, Some(&Retained::Moved(7)));
        assert_eq!(timer.next(), start + 2 * took);
    }
}
