//! Pages of jobs, for people.

use cabbage_broker::{
    core::{
        batch::Batch,
        job::{JobSpec, Verdict},
        place::Place,
        types::JobId,
    },
    store::{JobView, List, ListStates, Store},
};

use crate::{
    both::on_both_stores,
    cell::{STREAM, TestCell, batch, first_batch, new_job, outcome, parked, record, spec},
};

on_both_stores!(
    pages_together_show_every_job_once_newest_first,
    every_filter_must_hold,
    page_looks_at_10_000_entries_at_most,
    job_that_was_opened_again_is_listed_by_its_newest_outcome,
);

/// All pages of a list, and how many there were.
async fn pages(store: &dyn Store, list: List) -> (Vec<JobView>, u32) {
    let (mut views, mut count) = (Vec::new(), 0);
    let mut below = list.below;
    loop {
        let page = store.list(List { below, ..list.clone() }).await.expect("read");
        assert!(page.jobs.len() <= list.limit as usize && page.looked_at <= 10_000);
        count += 1;
        views.extend(page.jobs);
        let Some(next) = page.next else { return (views, count) };
        assert!(below.is_none_or(|below| next < below), "it comes to an end");
        below = Some(next);
    }
}

fn ids(views: &[JobView]) -> Vec<i64> {
    views.iter().map(|view| view.job.id.0).collect()
}

async fn pages_together_show_every_job_once_newest_first(cell: TestCell) {
    let mut owner = cell.own().await;
    owner.writer.commit(&first_batch(1..=300)).await.expect("committed");
    for limit in [1, 7, 100, 300, 1_000] {
        let (views, _) = pages(&*cell.store, List { limit, ..List::default() }).await;
        assert_eq!(ids(&views), (1..=300).rev().collect::<Vec<_>>(), "limit {limit}");
    }
    let (views, count) = pages(&*cell.store, List { limit: 10, below: Some(JobId(4)), ..List::default() }).await;
    assert_eq!((ids(&views), count), (vec![3, 2, 1], 1));
}

async fn every_filter_must_hold(cell: TestCell) {
    let mut owner = cell.own().await;
    let first = Batch {
        outcomes: vec![
            outcome(1, 1, Verdict::Succeeded),
            outcome(2, 1, Verdict::Failed),
            outcome(3, 1, Verdict::Cancelled),
            outcome(4, 1, Verdict::Retried),
        ],
        parked: vec![parked(5, Place::Stream(STREAM), 0, record())],
        ..first_batch([1, 2, 3, 4, 5])
    };
    let early = owner.writer.commit(&first).await.expect("committed").at;
    let special = JobSpec {
        queue: "bulk".into(),
        task: "sweep".into(),
        lock: Some("l".into()),
        queueing_lock: Some("q".into()),
        ..spec()
    };
    let second = Batch { jobs: vec![new_job(6, special)], ..batch(2) };
    let late = owner.writer.commit(&second).await.expect("committed").at;

    let all = List { limit: 10, ..List::default() };
    let states = |finals: &[Verdict], unfinished| ListStates { finals: finals.to_vec(), unfinished };
    let (succeeded, failed) = (Verdict::Succeeded, Verdict::Failed);
    let cases: Vec<(List, &[i64])> = vec![
        (all.clone(), &[6, 5, 4, 3, 2, 1]),
        (List { states: states(&[], true), ..all.clone() }, &[6, 5, 4]),
        (List { states: states(&[succeeded], false), ..all.clone() }, &[1]),
        (List { states: states(&[failed, Verdict::Cancelled], false), ..all.clone() }, &[3, 2]),
        (List { states: states(&[failed], false), ..all.clone() }, &[2]),
        (List { states: states(&[failed], true), ..all.clone() }, &[6, 5, 4, 2]),
        (List { states: states(&[], false), ..all.clone() }, &[]),
        (List { queue: Some("mail".into()), ..all.clone() }, &[5, 4, 3, 2, 1]),
        (List { queue: Some("bulk".into()), ..all.clone() }, &[6]),
        (List { queue: Some("none".into()), ..all.clone() }, &[]),
        (List { task: Some("sweep".into()), ..all.clone() }, &[6]),
        (List { task: Some("sweep".into()), queue: Some("mail".into()), ..all.clone() }, &[]),
        (List { lock: Some("l".into()), ..all.clone() }, &[6]),
        (List { queueing_lock: Some("q".into()), ..all.clone() }, &[6]),
        (List { created_from: Some(late), ..all.clone() }, &[6]),
        (List { created_until: Some(late), ..all.clone() }, &[5, 4, 3, 2, 1]),
        (List { created_until: Some(early), ..all }, &[]),
    ];
    for (list, expected) in cases {
        let (views, _) = pages(&*cell.store, list.clone()).await;
        assert_eq!(ids(&views), expected, "{list:?}");
        for view in views {
            let newest = view.outcomes.last().map(|outcome| outcome.verdict);
            assert_eq!(newest.is_some(), view.job.id.0 < 5);
            assert_eq!(view.parked.map(|(place, _)| place), (view.job.id.0 == 5).then_some(Place::Stream(STREAM)));
        }
    }
}

async fn page_looks_at_10_000_entries_at_most(cell: TestCell) {
    let mut owner = cell.own().await;
    let rare = JobSpec { lock: Some("rare".into()), ..spec() };
    let mut first = first_batch(2..=12_000);
    first.jobs.insert(0, new_job(1, rare));
    owner.writer.commit(&first).await.expect("committed");
    let list = List { limit: 5, lock: Some("rare".into()), ..List::default() };
    let page = cell.store.list(list.clone()).await.expect("read");
    assert_eq!((page.jobs.len(), page.looked_at, page.next), (0, 10_000, Some(JobId(2_001))));
    let page = cell.store.list(List { below: page.next, ..list }).await.expect("read");
    assert_eq!((ids(&page.jobs), page.looked_at, page.next), (vec![1], 2_000, None));
}

async fn job_that_was_opened_again_is_listed_by_its_newest_outcome(cell: TestCell) {
    let mut owner = cell.own().await;
    let outcomes = vec![
        outcome(1, 1, Verdict::Failed),
        outcome(1, 2, Verdict::Reopened),
        outcome(1, 3, Verdict::Failed),
        outcome(2, 1, Verdict::Failed),
        outcome(2, 2, Verdict::Reopened),
        outcome(3, 1, Verdict::Failed),
    ];
    owner.writer.commit(&Batch { outcomes, ..first_batch([1, 2, 3]) }).await.expect("committed");
    let failed = ListStates { finals: vec![Verdict::Failed], unfinished: false };
    for limit in [1, 10] {
        let (views, _) = pages(&*cell.store, List { limit, states: failed.clone(), ..List::default() }).await;
        assert_eq!(ids(&views), [3, 1]);
        assert_eq!(views[1].outcomes[0].delivery, 3);
    }
}
