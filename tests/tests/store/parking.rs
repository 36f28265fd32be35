//! Parked jobs, fetched by range.

use cabbage_broker::core::{
    batch::Batch,
    effect::Fetch,
    place::{Place, PlaceKey},
    types::{JobId, LockId, Stream, Timestamp},
};

use crate::{
    both::on_both_stores,
    cell::{QUEUE, STREAM, TASK, TestCell, first_batch, parked, record},
};

on_both_stores!(place_is_fetched_in_its_order, due_place_is_fetched_up_to_a_time, places_are_told_apart);

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
