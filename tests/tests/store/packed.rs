//! Plain successes, of which PostgreSQL keeps many in one row: nobody who asks for one can tell.

use cabbage_broker::{
    core::{
        batch::{Batch, Outcome, RareRow},
        effect::{JobFound, LookUp},
        job::Verdict,
        types::{JobId, Timestamp},
    },
    store::{List, ListStates},
};
use sqlx::Row;
use uuid::Uuid;

use crate::{
    both::on_both_stores,
    cell::{TestCell, batch, first_batch, outcome},
};

on_both_stores!(
    each_of_many_successes_is_found_as_it_was,
    one_that_is_opened_again_goes_on_from_its_success,
    one_that_is_erased_leaves_the_others_as_they_were,
);

/// A first delivery that succeeded: by one of three sessions, each at a time of its own.
fn plain(job: i64) -> Outcome {
    Outcome {
        started: Some(Timestamp(1_700_000_000_000_000 + job)),
        finished: Timestamp(1_700_000_000_500_000 + 3 * job),
        session: Some(Uuid::from_u128(1 + job as u128 % 3)),
        ..outcome(job, 1, Verdict::Succeeded)
    }
}

/// Jobs of two blocks of ids and the edges of two more, most of which succeeded in one commit.
async fn ended(cell: &TestCell) -> (cabbage_broker::store::Tenure, Vec<Outcome>) {
    let mut owner = cell.own().await;
    owner.writer.commit(&first_batch(100..=400)).await.expect("committed");
    let outcomes: Vec<_> = (120..=395).filter(|job| job % 10 != 0).map(plain).collect();
    let others = [outcome(110, 1, Verdict::Failed), plain(400)];
    let all: Vec<_> = outcomes.into_iter().chain(others).collect();
    owner.writer.commit(&Batch { outcomes: all.clone(), ..batch(2) }).await.expect("committed");
    (owner, all)
}

async fn each_of_many_successes_is_found_as_it_was(cell: TestCell) {
    let (_owner, ended) = ended(&cell).await;
    for outcome in &ended {
        let view = cell.store.job(outcome.job).await.expect("read").expect("it is there");
        assert_eq!(view.outcomes, std::slice::from_ref(outcome));
    }
    let unfinished = cell.store.job(JobId(130)).await.expect("read").expect("it is there");
    assert_eq!(unfinished.outcomes, []);

    let jobs: Vec<_> = (100..=401).map(JobId).collect();
    let deliveries = jobs.iter().flat_map(|job| [(*job, 1), (*job, 2)]).collect();
    let keys = LookUp { jobs: jobs.clone(), deliveries, finished: jobs.clone(), ..LookUp::default() };
    let found = cell.store.look_up(keys).await.expect("read");
    for (at, job) in jobs.iter().enumerate() {
        let verdict = ended.iter().find(|outcome| outcome.job == *job).map(|outcome| outcome.verdict);
        let expected = match verdict {
            Some(verdict) => JobFound::Final { verdict, delivery: 1 },
            None if job.0 == 401 => JobFound::Unknown,
            None => JobFound::Active,
        };
        assert_eq!(found.jobs[at], expected, "job {job:?}");
        assert_eq!(found.deliveries[2 * at..2 * at + 2], [verdict, None], "job {job:?}");
        let finished = found.finished[at].as_deref();
        let told = finished.map(|finished| (finished.verdict, finished.delivery, finished.has_started));
        assert_eq!(told, verdict.map(|verdict| (verdict, 1, true)), "job {job:?}");
    }

    let succeeded = List {
        states: ListStates { unfinished: false, finals: vec![Verdict::Succeeded] },
        limit: 1_000,
        ..List::default()
    };
    let page = cell.store.list(succeeded).await.expect("read");
    let listed: Vec<_> = page.jobs.iter().flat_map(|view| view.outcomes.clone()).collect();
    let mut expected: Vec<_> =
        ended.into_iter().filter(|outcome| outcome.verdict == Verdict::Succeeded).rev().collect();
    expected.sort_by_key(|outcome| std::cmp::Reverse(outcome.job));
    assert_eq!(listed, expected);
}

async fn one_that_is_opened_again_goes_on_from_its_success(cell: TestCell) {
    let (mut owner, _) = ended(&cell).await;
    let found = async || {
        let keys = LookUp { jobs: vec![JobId(129), JobId(131)], ..LookUp::default() };
        cell.store.look_up(keys).await.expect("read").jobs
    };
    let packed = JobFound::Final { verdict: Verdict::Succeeded, delivery: 1 };
    let opened = Outcome { started: None, session: None, ..outcome(129, 2, Verdict::Reopened) };
    owner.writer.commit(&Batch { outcomes: vec![opened.clone()], ..batch(3) }).await.expect("committed");
    assert_eq!(found().await, [JobFound::Active, packed.clone()]);
    let last = Outcome { attempt: 1, ..outcome(129, 3, Verdict::Succeeded) };
    owner.writer.commit(&Batch { outcomes: vec![last.clone()], ..batch(4) }).await.expect("committed");
    assert_eq!(found().await, [JobFound::Final { verdict: Verdict::Succeeded, delivery: 3 }, packed]);
    let view = cell.store.job(JobId(129)).await.expect("read").expect("it is there");
    assert_eq!(view.outcomes, [plain(129), opened, last]);
}

async fn one_that_is_erased_leaves_the_others_as_they_were(cell: TestCell) {
    let (mut owner, ended) = ended(&cell).await;
    // The first of its block, one amid, and all of the last.
    let erased: Vec<i64> = [128, 200].into_iter().chain(384..=395).filter(|job| job % 10 != 0).collect();
    let erased: Vec<_> = erased.into_iter().chain([201, 255, 400]).map(JobId).collect();
    let rare_rows = erased.iter().map(|job| RareRow::Deleted(*job)).collect();
    owner.writer.commit(&Batch { rare_rows, ..batch(3) }).await.expect("committed");
    for outcome in &ended {
        let view = cell.store.job(outcome.job).await.expect("read");
        let left = (!erased.contains(&outcome.job)).then(|| vec![outcome.clone()]);
        assert_eq!(view.map(|view| view.outcomes), left, "job {:?}", outcome.job);
    }
    let keys = LookUp { deliveries: erased.iter().map(|job| (*job, 1)).collect(), ..LookUp::default() };
    assert!(cell.store.look_up(keys).await.expect("read").deliveries.iter().all(Option::is_none));
}

#[tokio::test]
async fn many_successes_are_few_rows_and_the_views_show_each() {
    let cell = TestCell::in_postgres().await;
    let (_owner, ended) = ended(&cell).await;
    let mut connection = cell.connection().await;
    let rows = "SELECT (SELECT count(*) FROM outcome), (SELECT count(*) FROM success)";
    let row = sqlx::query(rows).fetch_one(&mut connection).await.expect("read");
    // The failure, and the seven of the first block, which are too few.
    assert_eq!((row.get::<i64, _>(0), row.get::<i64, _>(1)), (1 + 7, 3));

    let micros = |column| format!("(extract(epoch FROM {column}) * 1000000)::bigint");
    let (started, finished) = (micros("started_at"), micros("finished_at"));
    for (view, job, delivery) in [("outcome_now", "job", "delivery"), ("jobs", "id", "last_delivery")] {
        let sql = format!(
            "SELECT {job}, {delivery}, {started}, {finished} FROM {view} WHERE {delivery} IS NOT NULL ORDER BY 1"
        );
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql)).fetch_all(&mut connection).await.expect("read");
        let mut shown: Vec<(i64, i32, i64, i64)> =
            rows.iter().map(|row| (row.get(0), row.get(1), row.get(2), row.get(3))).collect();
        shown.sort_unstable();
        let mut expected: Vec<_> = ended
            .iter()
            .map(|outcome| (outcome.job.0, 1, outcome.started.expect("it ran").0, outcome.finished.0))
            .collect();
        expected.sort_unstable();
        assert_eq!(shown, expected, "{view}");
    }
}
