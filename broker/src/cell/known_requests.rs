//! Which request ids may have been used, so that a new one need not be looked up (C2).
//!
//! Nearly every request id is new, and to ask the database whether it is cost a round trip before each decision. A Bloom
//! filter says "never seen" for certain, and "perhaps" where it was seen, or by chance once in a thousand; only then the
//! database is asked. It holds what earlier owners recorded once it is loaded, and what this one hands to the writer,
//! from the moment when it does.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use fastbloom::BloomFilter;
use tokio::time::sleep;

use crate::{core::types::Timestamp, store::Store};

/// How many request ids are remembered at most, in 1.8 bytes each: 28 MiB. Beyond, each is looked up, until days are
/// forgotten.
const IDS_MAX: usize = 16_000_000;
/// What the first filter of a day has room for. Each that follows has twice as much.
const FIRST_IDS: usize = 65_536;
/// How often a new id is taken for one that may have been used.
const FALSE_POSITIVES: f64 = 0.001;
/// How long an id is remembered, in days: the tables keep three, and clocks may differ about midnight.
const DAYS_KEPT: i64 = 4;
/// How many ids are loaded at a time.
const PAGE_IDS: u32 = 10_000;
/// How long after a failed page it is asked for again.
const LOAD_RETRY_WAIT: Duration = Duration::from_secs(1);

const DAY_MICROS: i64 = 24 * 60 * 60 * 1_000_000;

/// The request ids that may have been used. Shared with the task that loads it.
#[derive(Default)]
pub(super) struct KnownRequests {
    filters: Mutex<Filters>,
}

#[derive(Default)]
struct Filters {
    parts: Vec<Part>,
    /// Whether the ids of earlier owners are in.
    is_loaded: bool,
    /// The last day of which one did not fit.
    missing: Option<i64>,
}

/// A filter of one day.
struct Part {
    day: i64,
    ids: usize,
    ids_max: usize,
    filter: BloomFilter,
}

impl KnownRequests {
    /// These are recorded by a batch that is about to be written.
    pub(super) fn note<'a>(&self, now: Timestamp, ids: impl Iterator<Item = &'a str>) {
        self.lock().add(day_of(now), ids);
    }

    /// Whether none of these was ever recorded, for certain.
    pub(super) fn are_new<'a>(&self, mut ids: impl Iterator<Item = &'a str>) -> bool {
        let filters = self.lock();
        filters.is_loaded && filters.missing.is_none() && ids.all(|id| !filters.may_have(id))
    }

    fn lock(&self) -> MutexGuard<'_, Filters> {
        self.filters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Filters {
    fn add<'a>(&mut self, day: i64, ids: impl Iterator<Item = &'a str>) {
        for id in ids {
            if self.part(day).is_none_or(|part| part.ids == part.ids_max) {
                self.forget_before(day - DAYS_KEPT);
                if !self.grow(day) {
                    self.missing = Some(day);
                    return;
                }
            }
            if let Some(part) = self.part(day) {
                part.filter.insert(id);
                part.ids += 1;
            }
        }
    }

    /// The filter of a day that still grows.
    fn part(&mut self, day: i64) -> Option<&mut Part> {
        // About midnight two days grow: what is loaded counts as of the day when that began.
        self.parts.iter_mut().rfind(|part| part.day == day)
    }

    /// Another filter for a day; `false`: there is no room.
    fn grow(&mut self, day: i64) -> bool {
        let ids_max = self.part(day).map_or(FIRST_IDS, |part| 2 * part.ids_max);
        let room: usize = self.parts.iter().map(|part| part.ids_max).sum();
        if room + ids_max > IDS_MAX {
            return false;
        }
        let filter = BloomFilter::with_false_pos(FALSE_POSITIVES).expected_items(ids_max);
        self.parts.push(Part { day, ids: 0, ids_max, filter });
        true
    }

    fn forget_before(&mut self, day: i64) {
        self.parts.retain(|part| part.day >= day);
        self.missing.take_if(|missing| *missing < day);
    }

    fn may_have(&self, id: &str) -> bool {
        self.parts.iter().any(|part| part.filter.contains(id))
    }
}

/// Loads what earlier owners recorded. It ends with the term: nobody else holds `known` then.
pub(super) async fn load(known: Weak<KnownRequests>, store: Arc<dyn Store>, now: Timestamp) {
    // Whatever their day was, they are kept as long as what is new today.
    let day = day_of(now);
    let (mut after, mut count) = (Arc::from(""), 0);
    loop {
        let page = store.request_ids(&after, PAGE_IDS).await;
        let Some(known) = known.upgrade() else { return };
        match page {
            Ok(ids) => {
                count += ids.len();
                known.lock().add(day, ids.iter().map(AsRef::as_ref));
                let Some(last) = ids.last() else {
                    known.lock().is_loaded = true;
                    break;
                };
                after = Arc::clone(last);
            }
            Err(error) => {
                tracing::warn!(%error, "request ids cannot be loaded yet; each is looked up");
                drop(known);
                sleep(LOAD_RETRY_WAIT).await;
            }
        }
    }
    tracing::debug!(count, "knows the request ids of earlier owners");
}

fn day_of(now: Timestamp) -> i64 {
    now.0.div_euclid(DAY_MICROS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on_day(day: i64) -> Timestamp {
        Timestamp(day * DAY_MICROS + 5)
    }

    fn loaded() -> KnownRequests {
        let known = KnownRequests::default();
        known.lock().is_loaded = true;
        known
    }

    fn names(range: std::ops::Range<usize>) -> Vec<String> {
        range.map(|n| format!("call {n}")).collect()
    }

    #[test]
    fn nothing_is_new_before_all_is_loaded() {
        let known = KnownRequests::default();
        assert!(!known.are_new(["a"].into_iter()));
        known.lock().is_loaded = true;
        assert!(known.are_new(["a"].into_iter()));
    }

    #[test]
    fn what_was_noted_is_never_new_and_nearly_all_else_is() {
        let known = loaded();
        let noted = names(0..200_000);
        known.note(on_day(7), noted.iter().map(String::as_str));
        assert!(noted.iter().all(|id| !known.are_new([id.as_str()].into_iter())));
        let others = names(200_000..300_000);
        let taken = others.iter().filter(|id| !known.are_new([id.as_str()].into_iter())).count();
        // Two filters, each right in all but one of a thousand.
        assert!(taken < 400, "{taken} of {}", others.len());
        assert!(!known.are_new(["never", "call 3"].into_iter()), "all of a call must be new");
    }

    #[test]
    fn days_are_forgotten_after_their_time_only() {
        let known = loaded();
        known.note(on_day(7), ["old"].into_iter());
        known.note(on_day(11), ["new"].into_iter());
        assert!(!known.are_new(["old"].into_iter()));
        known.note(on_day(12), ["newer"].into_iter());
        assert!(known.are_new(["old"].into_iter()));
        assert!(!known.are_new(["new"].into_iter()));
    }

    #[test]
    fn two_days_that_grow_in_turns_have_a_filter_each() {
        let known = loaded();
        for id in names(0..100) {
            known.note(on_day(7), [id.as_str()].into_iter());
            known.note(on_day(8), [id.as_str()].into_iter());
        }
        assert_eq!(known.lock().parts.len(), 2);
    }

    #[test]
    fn what_does_not_fit_makes_nothing_new_until_its_day_is_forgotten() {
        let known = loaded();
        let full = BloomFilter::with_num_bits(64).expected_items(1);
        known.lock().parts.push(Part { day: 7, ids: IDS_MAX, ids_max: IDS_MAX, filter: full });
        known.note(on_day(8), ["lost"].into_iter());
        assert!(!known.are_new(["another"].into_iter()));
        known.note(on_day(12), ["later"].into_iter());
        assert!(!known.are_new(["another"].into_iter()), "day 8 counts still");
        known.note(on_day(13), ["later"].into_iter());
        assert!(known.are_new(["another"].into_iter()));
    }
}
