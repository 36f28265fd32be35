//! Schedules: their rows.

use std::{sync::Arc, time::Duration};

use cabbage_broker::{
    core::{
        ask::{AuditRow, By},
        batch::{Batch, RareRow},
        cron::Cron,
        job::{JobSpec, RetryPolicy},
        schedule::{MissedTicks, Schedule, ScheduleRecord, TickOutcome},
        types::{JobId, Timestamp},
    },
    store::ScheduleRange,
};

use crate::{
    both::on_both_stores,
    cell::{TestCell, batch, first_batch, spec},
};

on_both_stores!(
    schedule_comes_back_as_it_was_put,
    ticks_move_their_schedule_and_a_new_put_begins_anew,
    schedules_are_listed_by_name_from_any_of_them_on,
);

pub(crate) fn record(name: &str) -> ScheduleRecord {
    let job = JobSpec {
        metadata: vec![("a\"".to_owned(), "\u{1}\u{1F96C}".to_owned())],
        queueing_lock: Some("q".into()),
        attempt_timeout: Some(Duration::from_millis(1_500)),
        retry: Some(Arc::new(RetryPolicy {
            max_attempts: 5,
            wait: Duration::from_nanos(1),
            linear_wait: Duration::ZERO,
            exponential_wait: Duration::from_secs(1),
            exponential_factor: 1.5,
            max_wait: Duration::MAX,
            jitter: 0.25,
            only_kinds: vec!["Timeout".to_owned()],
            never_kinds: Vec::new(),
        })),
        ..spec()
    };
    let zone = Cron::zone_of("Australia/Lord_Howe").expect("a zone");
    let cron = Cron::parse("*/7 30 2 * * mon-fri", zone).expect("an expression");
    let schedule = Schedule { name: name.into(), cron, missed: MissedTicks::All, job: Arc::new(job) };
    let decided = Timestamp(1_700_000_000_123_456);
    ScheduleRecord { schedule: Arc::new(schedule), paused: false, decided, last: None, deferred: None }
}

fn ticked(record: &ScheduleRecord, seconds: i64, outcome: TickOutcome) -> ScheduleRecord {
    let tick = Timestamp(1_700_000_000_000_000 + seconds * 1_000_000);
    let deferred = match outcome {
        TickOutcome::Deferred(job) => Some((tick, job)),
        _ => record.deferred,
    };
    ScheduleRecord { decided: tick, last: Some((tick, outcome)), deferred, ..record.clone() }
}

fn rows(number: u64, rare_rows: Vec<RareRow>) -> Batch {
    Batch { rare_rows, ..batch(number) }
}

async fn found(cell: &TestCell, name: &str) -> Vec<ScheduleRecord> {
    cell.store.schedules(ScheduleRange::Named(name.into()), 1).await.expect("the database answers").records
}

async fn schedule_comes_back_as_it_was_put(cell: TestCell) {
    let mut owner = cell.own().await;
    owner.writer.commit(&first_batch([])).await.expect("a right batch");
    let record = ScheduleRecord { paused: true, ..record("nightly größe") };
    let audit = AuditRow {
        at: record.decided,
        verb: "put schedule",
        job: None,
        queue: None,
        schedule: Some(record.schedule.name.clone()),
        by: By { who: "me".into(), why: "why not".into() },
        refused: None,
    };
    let batch = rows(2, vec![RareRow::Schedule(record.clone()), RareRow::Audit(audit)]);
    owner.writer.commit(&batch).await.expect("a right batch");
    assert_eq!(found(&cell, "nightly größe").await, [record]);
    assert_eq!(found(&cell, "nightly").await, []);
}

async fn ticks_move_their_schedule_and_a_new_put_begins_anew(cell: TestCell) {
    let mut owner = cell.own().await;
    owner.writer.commit(&first_batch([])).await.expect("a right batch");
    let put = record("s");
    // All in one batch: put, and three ticks, of which the last one counts.
    let ticks = [ticked(&put, 1, TickOutcome::Deferred(JobId(7))), ticked(&put, 2, TickOutcome::Missed)];
    let last = ticked(&ticks[0], 3, TickOutcome::QueueingLockTaken(JobId(7)));
    let mut batch = rows(2, vec![RareRow::Schedule(put.clone())]);
    batch.rare_rows.extend(ticks.into_iter().chain([last.clone()]).map(RareRow::Ticked));
    owner.writer.commit(&batch).await.expect("a right batch");
    assert_eq!(found(&cell, "s").await, std::slice::from_ref(&last));

    let limited = ticked(&last, 4, TickOutcome::LimitReached);
    owner.writer.commit(&rows(3, vec![RareRow::Ticked(limited.clone())])).await.expect("a right batch");
    assert_eq!(found(&cell, "s").await, std::slice::from_ref(&limited));

    // A tick, then the schedule goes and comes again.
    let anew = ScheduleRecord { decided: Timestamp(1_700_000_009_000_000), ..put };
    let gone = RareRow::ScheduleDeleted(anew.schedule.name.clone());
    let late = ticked(&limited, 5, TickOutcome::Missed);
    let batch = rows(4, vec![RareRow::Ticked(late), gone.clone(), RareRow::Schedule(anew.clone())]);
    owner.writer.commit(&batch).await.expect("a right batch");
    assert_eq!(found(&cell, "s").await, [anew]);
    owner.writer.commit(&rows(5, vec![gone])).await.expect("a right batch");
    assert_eq!(found(&cell, "s").await, []);
}

async fn schedules_are_listed_by_name_from_any_of_them_on(cell: TestCell) {
    let mut owner = cell.own().await;
    owner.writer.commit(&first_batch([])).await.expect("a right batch");
    // By bytes, whatever the database's language says.
    let names = ["B", "a", "a b", "b", "Ä"];
    let batch = rows(2, names.iter().rev().map(|name| RareRow::Schedule(record(name))).collect());
    owner.writer.commit(&batch).await.expect("a right batch");
    for (after, limit, expected) in [("", 9, &names[..]), ("a", 2, &names[2..4]), ("Ä", 9, &[])] {
        let found = cell.store.schedules(ScheduleRange::After(after.into()), limit).await.expect("an answer");
        let found: Vec<_> = found.records.iter().map(|record| record.schedule.name.to_string()).collect();
        assert_eq!(found, expected, "after {after:?}");
    }
}
