//! How much memory the core takes for each job that waits in it. A program of its own, since it counts what all of it
//! allocates.

use std::{alloc::System, sync::Arc, time::Duration};

use cabbage_broker::core::{
    decide::Core,
    effect::CallId,
    event::{Defer, DeferItem, Event, OnConflict},
    job::JobSpec,
    limits::Limits,
    state::State,
    types::{JobId, Now, Term, Timestamp},
};
use cap::Cap;

#[global_allocator]
static ALLOCATED: Cap<System> = Cap::new(System, usize::MAX);

/// What a plain waiting job may take: its slot in the pages, and its place in the order of its stream.
const BYTES_PER_JOB: usize = 60;
const JOBS: usize = 200_000;
/// As many as one call may defer.
const BATCH: usize = 1_000;
const NOW: Timestamp = Timestamp(1_700_000_000_000_000);

#[test]
fn a_plain_job_that_waits_takes_few_bytes_of_the_core() {
    let now = Now { db: NOW, db_latest: NOW, mono: Duration::from_secs(100) };
    let mut core = Core::new(State::default(), 1, Term { number: 2, nonce: 2 }, Limits::default(), now);
    core.handle(now, Event::IdsReserved { first: JobId(1), end: JobId(1 + 2 * JOBS as i64) });
    // What every core takes, however few jobs there are.
    defer(&mut core, now, 1);
    let before = ALLOCATED.allocated();
    for call in 2..2 + (JOBS / BATCH) as u64 {
        defer(&mut core, now, call);
    }
    let bytes = ALLOCATED.allocated() - before;
    assert_eq!(core.state().jobs.len(), JOBS + BATCH, "all wait in memory");
    println!("{} bytes for each of {JOBS} jobs", bytes / JOBS);
    assert!(bytes <= JOBS * BYTES_PER_JOB, "{} bytes for each of {JOBS} jobs", bytes / JOBS);
}

/// Defers a batch, which is committed and carried out.
fn defer(core: &mut Core, now: Now, call: u64) {
    let spec = Arc::new(JobSpec::plain("t", "q"));
    let item = |_| DeferItem { request: None, spec: spec.clone(), on_conflict: OnConflict::default() };
    let items = (0..BATCH).map(item).collect();
    core.handle(now, Event::Defer(Defer { call: CallId(call), request: None, items, independent: false }));
    let batch = core.take_batch(now).expect("a defer is written");
    core.committed(batch.number, NOW);
}
