//! Parked jobs, fetched by range. Where many lie at one place, PostgreSQL keeps them many to a row: nobody who fetches
//! them, or asks for one, can tell.

use cabbage_broker::{
    core::{
        batch::Batch,
        effect::{Fetch, JobFound, LookUp},
        job::{Rare, Record},
        place::{ParkedJob, Place, PlaceKey},
        types::{JobId, LockId, Stream, Timestamp},
    },
    store::{CommitError, Tenure},
};
use sqlx::Row;

use crate::{
    both::on_both_stores,
    cell::{QUEUE, STREAM, TASK, TestCell, batch, first_batch, leaving, parked, record, record_with},
};

on_both_stores!(
    place_is_fetched_in_its_order,
    due_place_is_fetched_up_to_a_time,
    places_are_told_apart,
    crowd_is_fetched_in_its_order_however_many_at_once,
    each_of_a_crowd_is_found_and_leaves_by_itself,
    one_that_has_left_its_crowd_does_not_leave_again,
);

fn fetch(place: Place) -> Fetch {
    Fetch { id: 77, place, from: PlaceKey::default(), until: Timestamp::default(), limit: 100 }
}

async fn place_is_fetched_in_its_order(cell: TestCell) {
    let place = Place::Stream(STREAM);
    let rows: Vec<_> = [9, 2, 30, 4, 5].map(|id| parked(id, place, 0, record())).to_vec();
    let mut owner = cell.own().await;
    owner.writer.commit(&Batch { parked: rows, ..first_batch([2, 4, 5, 9, 30]) }).await.expect("committed");

    let first = cell.store.fetch(Fetch { limit: 2, ..fetch(place) }).await.expect("read");
    assert_eq!((first.id, first.snapshot), (77, 1));
    assert_eq!(first.jobs.iter().map(|job| job.id.0).collect::<Vec<_>>(), [2, 4]);
    assert_eq!(first.next, Some(PlaceKey { sort: 0, id: JobId(5) }));
    let rest = cell.store.fetch(Fetch { from: first.next.expect("more"), ..fetch(place) }).await.expect("read");
    assert_eq!(rest.jobs.iter().map(|job| job.id.0).collect::<Vec<_>>(), [5, 9, 30]);
    assert_eq!(rest.jobs[0], parked(5, place, 0, record()));
    assert_eq!(rest.next, None);
    let none = cell.store.fetch(Fetch { from: PlaceKey { sort: 0, id: JobId(31) }, ..fetch(place) }).await;
    let none = none.expect("read");
    assert!(none.jobs.is_empty() && none.next.is_none() && none.snapshot == 1);
}

async fn due_place_is_fetched_up_to_a_time(cell: TestCell) {
    let place = Place::Due(STREAM);
    let rows: Vec<_> = [(1, 50), (2, 40), (3, 60), (4, 50)].map(|(id, due)| parked(id, place, due, record())).into();
    let mut owner = cell.own().await;
    owner.writer.commit(&Batch { parked: rows, ..first_batch([1, 2, 3, 4]) }).await.expect("committed");

    let due = cell.store.fetch(Fetch { until: Timestamp(50), ..fetch(place) }).await.expect("read");
    assert_eq!(due.jobs.iter().map(|job| job.id.0).collect::<Vec<_>>(), [2, 1, 4]);
    assert_eq!(due.next, Some(PlaceKey { sort: 60, id: JobId(3) }));
    let from = PlaceKey { sort: 50, id: JobId(2) };
    let due = cell.store.fetch(Fetch { from, until: Timestamp(60), ..fetch(place) }).await.expect("read");
    assert_eq!(due.jobs.iter().map(|job| job.id.0).collect::<Vec<_>>(), [4, 3]);
    assert_eq!(due.next, None);
}

async fn places_are_told_apart(cell: TestCell) {
    let lock = LockId::of("a");
    let places = [
        Place::Stream(STREAM),
        Place::Due(STREAM),
        Place::Stream(Stream { priority: -1, ..STREAM }),
        Place::Lock(lock, QUEUE, TASK),
        Place::Strict(lock, QUEUE, TASK),
        Place::Lock(LockId::of("b"), QUEUE, TASK),
    ];
    let rows: Vec<_> = (1..).zip(places).map(|(id, place)| parked(id, place, 0, record())).collect();
    let mut owner = cell.own().await;
    let ids = rows.iter().map(|row| row.id.0).collect::<Vec<_>>();
    owner.writer.commit(&Batch { parked: rows.clone(), ..first_batch(ids) }).await.expect("committed");
    for row in rows {
        assert_eq!(cell.store.fetch(fetch(row.place)).await.expect("read").jobs, [row]);
    }
}

/// The lock that half of the crowd waits for.
const LOCK: &str = "crowd";

/// A job of a crowd: at one of two places, by commits and with records that differ.
fn of_crowd(id: i64) -> ParkedJob {
    let lock = LockId::of(LOCK);
    if id % 2 == 0 {
        let record = Record { due: Timestamp(if id < 300 { 7 } else { id }), ..record() };
        return parked(id, Place::Stream(STREAM), 0, record);
    }
    let rare = Rare { lock: Some(lock), ..Rare::default() };
    parked(id, Place::Lock(lock, QUEUE, TASK), 0, record_with(rare))
}

/// A crowd at two places, parked by four commits. Few of the last ones, so that they are alone in their rows; and one
/// that is looked for by its queueing lock among the others.
async fn crowd(cell: &TestCell) -> (Tenure, Vec<ParkedJob>) {
    let mut owner = cell.own().await;
    owner.writer.commit(&first_batch(100..=700)).await.expect("committed");
    let mut crowd: Vec<_> = (100..=700).map(of_crowd).collect();
    let rare = Rare { queueing_lock: Some("q".into()), ..Rare::default() };
    crowd[150].record = record_with(rare);
    for number in 2..=4 {
        let parked =
            crowd.iter().filter(|job| job.id.0 <= 600 && job.id.0 / 2 % 3 == number as i64 - 2).cloned().collect();
        owner.writer.commit(&Batch { parked, ..batch(number) }).await.expect("committed");
    }
    for (number, few) in (5..).zip(crowd[501..].chunks(3)) {
        owner.writer.commit(&Batch { parked: few.to_vec(), ..batch(number) }).await.expect("committed");
    }
    (owner, crowd)
}

/// All that is parked at a place from a key on, so many at a time.
async fn fetched(cell: &TestCell, place: Place, from: i64, limit: u32) -> Vec<ParkedJob> {
    let mut all = Vec::new();
    let mut next = Some(PlaceKey { sort: 0, id: JobId(from) });
    while let Some(from) = next {
        let some = cell.store.fetch(Fetch { from, limit, ..fetch(place) }).await.expect("read");
        assert!(some.jobs.len() <= limit as usize);
        assert!(some.next.is_none_or(|next| next > from && some.jobs.iter().all(|job| job.key < next)));
        all.extend(some.jobs);
        next = some.next;
    }
    all
}

fn at(crowd: &[ParkedJob], place: Place) -> Vec<ParkedJob> {
    crowd.iter().filter(|job| job.place == place).cloned().collect()
}

async fn crowd_is_fetched_in_its_order_however_many_at_once(cell: TestCell) {
    let (_owner, crowd) = crowd(&cell).await;
    for place in [Place::Stream(STREAM), Place::Lock(LockId::of(LOCK), QUEUE, TASK)] {
        let there = at(&crowd, place);
        for limit in [1, 4, 30, 64, 100, 1_000] {
            assert_eq!(fetched(&cell, place, 0, limit).await, there, "{limit} at a time");
        }
        let rest: Vec<_> = there.into_iter().filter(|job| job.id.0 >= 333).collect();
        assert_eq!(fetched(&cell, place, 333, 50).await, rest);
    }
}

async fn each_of_a_crowd_is_found_and_leaves_by_itself(cell: TestCell) {
    let (mut owner, mut crowd) = crowd(&cell).await;
    let ids: Vec<_> = (100..=701).map(JobId).collect();
    let lock = LockId::of(LOCK);
    let whole_block = |job: &ParkedJob| (256..320).contains(&job.id.0);
    let steps: [&dyn Fn(&ParkedJob) -> bool; 4] =
        [&|_| false, &|job| job.id.0 % 7 == 0 || whole_block(job), &|job| job.id.0 < 500, &|_| true];
    for (number, step) in (5 + 34..).zip(steps) {
        let (gone, left): (Vec<_>, Vec<_>) = crowd.into_iter().partition(step);
        crowd = left;
        let unparked = gone.iter().map(leaving).collect();
        owner.writer.commit(&Batch { unparked, ..batch(number) }).await.expect("committed");

        let locks_before = ids.iter().map(|job| (lock, *job)).collect();
        let queueing_locks = vec!["q".into()];
        let keys = LookUp { jobs: ids.clone(), locks_before, queueing_locks, ..LookUp::default() };
        let found = cell.store.look_up(keys).await.expect("read");
        for (job, found) in ids.iter().zip(found.jobs) {
            let expected = match crowd.iter().find(|parked| parked.id == *job) {
                Some(parked) => JobFound::Parked(parked.clone()),
                None if job.0 > 700 => JobFound::Unknown,
                None => JobFound::Active,
            };
            assert_eq!(found, expected, "job {job:?}");
        }
        let first = crowd.iter().find(|parked| parked.record.lock() == Some(lock)).map(|parked| parked.id);
        let before: Vec<_> = ids.iter().map(|job| first.is_some_and(|first| first < *job)).collect();
        assert_eq!(found.locks_before, before);
        assert_eq!(found.queueing_locks, [crowd.iter().map(|job| job.id).find(|job| job.0 == 250)]);

        for place in [Place::Stream(STREAM), Place::Lock(lock, QUEUE, TASK)] {
            assert_eq!(fetched(&cell, place, 0, 40).await, at(&crowd, place));
        }
        for job in [101, 140, 251, 300, 700].map(JobId) {
            let shown = cell.store.job(job).await.expect("read").expect("it is there").parked;
            let parked = crowd.iter().find(|parked| parked.id == job);
            assert_eq!(shown, parked.map(|parked| (parked.place, parked.record.due)));
        }
        let list = cabbage_broker::store::List { limit: 1_000, ..Default::default() };
        let listed = cell.store.list(list).await.expect("read").jobs;
        let listed: Vec<_> = listed.iter().rev().filter_map(|view| Some((view.job.id, view.parked?.0))).collect();
        assert_eq!(listed, crowd.iter().map(|parked| (parked.id, parked.place)).collect::<Vec<_>>());
    }
}

async fn one_that_has_left_its_crowd_does_not_leave_again(cell: TestCell) {
    let (mut owner, crowd) = crowd(&cell).await;
    let of = |ids: &[i64]| ids.iter().map(|id| leaving(&crowd[(id - 100) as usize])).collect::<Vec<_>>();
    owner.writer.commit(&Batch { unparked: of(&[200, 203]), ..batch(39) }).await.expect("committed");
    let again = owner.writer.commit(&Batch { unparked: of(&[202, 203, 204]), ..batch(40) }).await;
    assert!(matches!(again, Err(CommitError::TermOver(_))), "{again:?}");
}

#[tokio::test]
async fn crowd_is_few_rows_and_the_view_shows_each() {
    let cell = TestCell::in_postgres().await;
    let (mut owner, crowd) = crowd(&cell).await;
    let unparked = crowd.iter().filter(|job| job.id.0 % 5 == 0).map(leaving).collect();
    owner.writer.commit(&Batch { unparked, ..batch(39) }).await.expect("committed");
    let mut connection = cell.connection().await;
    let rows = "SELECT (SELECT count(*) FROM parked), (SELECT count(*) FROM parked_block)";
    let rows = sqlx::query(rows).fetch_one(&mut connection).await.expect("read");
    // Three commits and two places for each block up to 600, the first and the last of which are short; the last hundred
    // have a row each, and so has the one with a queueing lock, unless they have left.
    assert!(rows.get::<i64, _>(0) <= 120 && rows.get::<i64, _>(1) <= 6 * 9, "{rows:?}");
    let waiting = "SELECT id FROM jobs WHERE state = 'waiting' ORDER BY id";
    let waiting: Vec<i64> = sqlx::query_scalar(waiting).fetch_all(&mut connection).await.expect("read");
    let expected: Vec<_> = crowd.iter().map(|job| job.id.0).filter(|id| id % 5 != 0).collect();
    assert_eq!(waiting, expected);
}
