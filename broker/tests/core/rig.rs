//! What tests of the core need.

use std::time::Duration;

use cabbage_broker::core::{
    decide::Core,
    effect::{LookUp, Question},
    job::JobSpec,
    types::{Now, Timestamp},
};

pub(crate) const NOW: Timestamp = Timestamp(1_700_000_000_000_000);

/// The time of tests that need no other.
pub(crate) fn now() -> Now {
    Now { db: NOW, db_latest: NOW, mono: Duration::from_secs(100) }
}

/// A plain job of the task `t`.
pub(crate) fn spec(queue: &str) -> JobSpec {
    JobSpec::plain("t", queue)
}

/// What the core wants to have looked up.
pub(crate) fn look_up(core: &mut Core) -> LookUp {
    let look_up = |question| match question {
        Question::LookUp(keys) => Some(keys),
        Question::Fetch(_) | Question::Look(_) => None,
    };
    core.questions().into_iter().find_map(look_up).expect("something is looked up")
}
