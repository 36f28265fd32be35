//! Every statement on a job's way goes by index, however the tables have grown.
//!
//! The tables grow from empty under plans that were cached then, in many partitions, while an old snapshot stays
//! open. PostgreSQL's own counters say what was read: no whole table, and no more rows than asked for.

use std::{ops::Range, sync::Arc};

use cabbage_broker::{
    core::{
        batch::{Answer, Batch, Outcome, RareRow, RequestRow},
        effect::{Fetch, JobFound, LookUp},
        job::{Rare, Verdict},
        place::{ParkedJob, Place, PlaceKey},
        types::{JobId, LockId, Stream, Timestamp},
    },
    store::{CommitError, Keep, LogPosition, RetainAsk, Retained, Store, Tenure, postgres::PgStore},
};
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use crate::cell::{
    QUEUE, STREAM, TASK, TestCell, batch, first_batch, leaving, new_job, outcome, parked, record_with, spec,
};

/// How many rows each measured step handles.
const STEP_ROWS: i64 = 500;
const PARTITIONS: i64 = 64;
/// How many jobs of each of them are packed, 128 to a row.
const PACKED_JOBS: i64 = 128 * 12;
/// How many of each are parked, 64 to a row.
const CROWD_JOBS: i64 = 64 * 8;
/// How many of them are to go.
const OUTLIVED: i64 = 20;

/// Rows read in reading whole tables, and rows read at all.
///
/// To make an index reads all of a table too: of one that is empty, so it counts no rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Counters {
    whole_reads: i64,
    rows: i64,
}

impl Counters {
    /// All counters, once every backend but ours has told of its own.
    async fn read(connection: &mut PgConnection) -> Self {
        let quiet = "SELECT NOT EXISTS (SELECT FROM pg_stat_activity
            WHERE datname = current_database() AND application_name = 'cabbage-broker')";
        while !sqlx::query(quiet).fetch_one(&mut *connection).await.expect("read").get::<bool, _>(0) {
            tokio::task::yield_now().await;
        }
        // Of big tables only: whoever reads all of a table with two rows does no harm. A row of packed ones is big.
        let counters = "SELECT coalesce(sum(seq_tup_read), 0)::bigint,
                coalesce(sum(coalesce(idx_tup_fetch, 0) + seq_tup_read), 0)::bigint
            FROM pg_stat_user_tables WHERE relname ~ '^(job|outcome|success|log|parked|request)' 
                AND n_live_tup > CASE WHEN relname ~ '^success' THEN 10 ELSE 100 END";
        let row = sqlx::query(counters).fetch_one(connection).await.expect("read");
        Self { whole_reads: row.get(0), rows: row.get(1) }
    }
}

/// Commits, and again if a partition had to be made.
async fn commit(owner: &mut Tenure, batch: &Batch) {
    match owner.writer.commit(batch).await {
        Err(CommitError::Again(_)) => drop(owner.writer.commit(batch).await.expect("committed")),
        result => drop(result.expect("committed")),
    }
}

fn row(id: i64) -> ParkedJob {
    let lock = LockId::of(&format!("lock {}", id % 50));
    let rare = Rare { lock: Some(lock), queueing_lock: Some(format!("value {id}").into()), ..Rare::default() };
    let place = if id % 2 == 0 { Place::Stream(STREAM) } else { Place::Lock(lock, QUEUE, TASK) };
    parked(id, place, 0, record_with(rare))
}

fn call(id: i64) -> RequestRow {
    let answer = Answer::Deferred { first: JobId(id), count: 1 };
    RequestRow { id: format!("call {id}").into(), digest: Uuid::from_u128(id as u128), answer }
}

/// Ids of the `part`-th partition.
fn ids(part: i64, count: i64) -> impl Iterator<Item = i64> + Clone {
    (part << 24) + 1..=(part << 24) + count
}

/// Ids of a partition that succeeded in one commit, and are packed: whole blocks.
fn packed_ids(part: i64) -> Range<i64> {
    let first = (part << 24) + 1_024;
    first..first + PACKED_JOBS
}

/// Jobs of a partition that are parked in one commit at one place, and share rows: whole blocks. Half of the partitions
/// have them behind a lock.
fn crowd(part: i64) -> impl Iterator<Item = ParkedJob> {
    let first = (part << 24) + 4_096;
    let lock = LockId::of("crowd");
    let (place, rare) = if part % 2 == 0 {
        (Place::Stream(Stream { priority: 1, ..STREAM }), Rare::default())
    } else {
        (Place::Lock(lock, QUEUE, TASK), Rare { lock: Some(lock), ..Rare::default() })
    };
    (first..first + CROWD_JOBS).map(move |id| parked(id, place, 0, record_with(rare.clone())))
}

/// The counters, with the planner told of what there is.
async fn analyzed(watcher: &mut PgConnection) -> Counters {
    sqlx::query("ANALYZE").execute(&mut *watcher).await.expect("analyzed");
    Counters::read(watcher).await
}

async fn owned_again(cell: &TestCell) -> Tenure {
    loop {
        if let Some(owner) = cell.store.take_term("here:1").await.expect("the database answers") {
            return owner;
        }
    }
}

/// Moves what is in the first partitions out of them, as an owner does; nothing is dropped, since an old snapshot is
/// open. Gives the number of the last row of the log.
async fn outlive(owner: &mut Tenure, watcher: &mut PgConnection, mut number: u64) -> u64 {
    let keep = Keep::default();
    let ask = RetainAsk { spared: ["job", "outcome", "success"].map(str::to_owned).to_vec(), erase_after: None };
    let kept = "INSERT INTO closed_partition (part, closed_at, moved_to)
        SELECT n, now() - interval '8 days', n << 24 FROM generate_series(0::bigint, $1 - 1) n";
    sqlx::query(kept).bind(OUTLIVED).execute(&mut *watcher).await.expect("old partitions");
    loop {
        match owner.duties.retain(&keep, &ask).await.expect("it can be done") {
            Retained::Nothing => return number,
            Retained::Record(milestone, _) => {
                number += 1;
                commit(owner, &Batch { rare_rows: vec![RareRow::Milestone(milestone)], ..batch(number) }).await;
            }
            Retained::Moved(_) => {}
            other => panic!("nothing else is due: {other:?}"),
        }
    }
}

#[tokio::test]
async fn no_statement_reads_more_than_it_is_asked_for() {
    let cell = TestCell::in_postgres().await;
    let mut watcher = cell.connection().await;
    let mut old_snapshot = cell.connection().await;
    for sql in ["BEGIN ISOLATION LEVEL REPEATABLE READ", "SELECT count(*) FROM fence"] {
        sqlx::query(sql).execute(&mut old_snapshot).await.expect("an old snapshot");
    }

    // One connection, from empty tables to full ones: its plans are those of empty tables.
    let mut owner = cell.own().await;
    commit(&mut owner, &first_batch([])).await;
    let mut number = 1;
    for part in 0..PARTITIONS {
        number += 1;
        let some = ids(part, STEP_ROWS);
        let session = Some(Uuid::from_u128(1));
        let plain = packed_ids(part).map(|id| Outcome { session, ..outcome(id, 1, Verdict::Succeeded) });
        let next = Batch {
            jobs: some
                .clone()
                .chain(packed_ids(part))
                .chain(crowd(part).map(|job| job.id.0))
                .map(|id| new_job(id, spec()))
                .collect(),
            outcomes: some.clone().map(|id| outcome(id, 1, Verdict::Retried)).chain(plain).collect(),
            parked: some.clone().map(row).chain(crowd(part)).collect(),
            requests: some.clone().map(call).collect(),
            ..batch(number)
        };
        commit(&mut owner, &next).await;
        // Churn, so that there are dead entries that the old snapshot keeps.
        number += 1;
        // Of the crowd some rows as a whole, and some but in part.
        let crowd_leaving = crowd(part).filter(|job| job.id.0 / 64 % 2 == 0 || job.id.0 % 64 == 0);
        let leaving = some.filter(|id| id % 3 != 0).map(row).chain(crowd_leaving).map(|job| leaving(&job)).collect();
        commit(&mut owner, &Batch { unparked: leaving, ..batch(number) }).await;
    }
    let nonce = owner.term.nonce;
    owner.writer.release().await;
    owner.duties.release().await;
    let counters = analyzed(&mut watcher).await;
    assert_eq!(counters.whole_reads, 0, "nothing was read as a whole while the tables grew");
    let left = PARTITIONS * (STEP_ROWS - STEP_ROWS / 3 + 2 * CROWD_JOBS / 64);
    assert!(counters.rows <= left + 1_000, "{} rows were read so that {left} could leave", counters.rows);

    // A third of the partitions is to go, with jobs in them that are not final: from here on those are kept elsewhere.
    let before = counters;
    let mut owner = owned_again(&cell).await;
    let number = outlive(&mut owner, &mut watcher, number).await;
    owner.writer.release().await;
    owner.duties.release().await;
    let counters = analyzed(&mut watcher).await;
    assert_eq!(counters.whole_reads, before.whole_reads, "nothing was read as a whole while rows were kept elsewhere");
    let rows = counters.rows - before.rows;
    // Each job's row and outcome, to see whether it stays, to copy it, and to count those that go.
    let jobs = OUTLIVED * (STEP_ROWS + PACKED_JOBS + CROWD_JOBS);
    assert!(rows <= 7 * jobs + 1_000, "{rows} rows were read to keep {jobs} jobs");

    // Reads, each by a store of its own, so that its counters are told when it goes.
    let wanted: Vec<_> = (0..PARTITIONS).flat_map(|part| ids(part, 8)).map(JobId).collect();
    let keys = LookUp {
        id: 1,
        requests: vec!["none".into(); 50],
        queueing_locks: (0..50).map(|at| format!("value {}", 3 * at).into()).collect(),
        jobs: wanted.clone(),
        deliveries: wanted.iter().map(|job| (*job, 1)).collect(),
        locks_before: (0..50).map(|at| (LockId::of(&format!("lock {at}")), JobId(i64::MAX))).collect(),
        finished: wanted.clone(),
    };
    let middle = PlaceKey { sort: 0, id: JobId(40 << 24) };
    let place = Place::Stream(STREAM);
    let fetch = Fetch { id: 1, place, from: middle, until: Timestamp::MAX, limit: 100 };
    let after = LogPosition { number: 100, nonce };

    let mut before = counters;
    for step in [
        "specs",
        "look_up",
        "packed",
        "crowd",
        "crowd_fetch",
        "requests",
        "request_ids",
        "fetch",
        "follow",
        "job",
        "list",
    ] {
        let store = Arc::new(PgStore::new(cell.settings()).expect("a well-formed address"));
        let allowed = match step {
            "specs" => {
                assert_eq!(store.specs(&wanted).await.expect("read").len(), wanted.len());
                // Their rows; the names are in small tables.
                wanted.len()
            }
            "look_up" => {
                let found = store.look_up(keys.clone()).await.expect("read");
                assert_eq!(found.jobs.len(), wanted.len());
                assert!(found.deliveries.iter().all(Option::is_some));
                // A row and an outcome or a parked row per job, an outcome per delivery, one per key; and of what may be
                // final, its row and its newest outcome.
                6 * wanted.len() + 150
            }
            "packed" => {
                let jobs: Vec<_> =
                    (OUTLIVED..PARTITIONS).flat_map(|part| packed_ids(part).take(8)).map(JobId).collect();
                let deliveries = jobs.iter().map(|job| (*job, 1)).collect();
                let keys = LookUp { jobs: jobs.clone(), deliveries, ..LookUp::default() };
                let found = store.look_up(keys).await.expect("read");
                assert!(found.deliveries.iter().all(|verdict| *verdict == Some(Verdict::Succeeded)));
                assert!(store.job(jobs[77]).await.expect("read").is_some());
                // A job's row, and the one row of its block, for each of the two.
                3 * jobs.len() + 10
            }
            "crowd" => {
                let jobs: Vec<_> = (OUTLIVED..PARTITIONS).flat_map(|part| crowd(part).skip(66).take(8)).collect();
                let locks_before = (0..50).map(|at| (LockId::of("crowd"), JobId(at << 24))).collect();
                let keys = LookUp { jobs: jobs.iter().map(|job| job.id).collect(), locks_before, ..LookUp::default() };
                let found = store.look_up(keys).await.expect("read");
                assert!(found.jobs.iter().zip(&jobs).all(|(found, job)| *found == JobFound::Parked(job.clone())));
                assert!(found.locks_before[2..].iter().all(|found| *found));
                assert!(store.job(jobs[77].id).await.expect("read").is_some_and(|view| view.parked.is_some()));
                // A job's row and that of its block; one for each of the locks.
                2 * jobs.len() + 60
            }
            "crowd_fetch" => {
                for part in [40, 41] {
                    let place = crowd(part).next().map(|job| job.place).expect("there are some");
                    let fetch = Fetch { place, limit: 128, ..fetch };
                    let found = store.fetch(fetch).await.expect("read").jobs;
                    assert_eq!(found.len(), 2 * 63);
                }
                // Eight rows each, to the end of a block, the first of which are looked at twice.
                2 * 2 * 9
            }
            "requests" => {
                let requests = ids(3, 100).map(|id| if id % 2 == 0 { call(id).id } else { "none".into() });
                let keys = LookUp { requests: requests.collect(), ..LookUp::default() };
                let found = store.look_up(keys).await.expect("read").requests;
                assert_eq!(found.iter().flatten().count(), 50);
                // One each, and the last row of the log.
                60
            }
            "request_ids" => {
                assert_eq!(store.request_ids("call 9", 100).await.expect("read").len(), 100);
                // One more where two days meet.
                110
            }
            "fetch" => {
                assert_eq!(store.fetch(fetch).await.expect("read").jobs.len(), 100);
                110
            }
            "follow" => {
                assert_eq!(store.follow(after, 10).await.expect("read").len(), 10);
                20
            }
            "job" => {
                assert!(store.job(wanted[77]).await.expect("read").is_some());
                5
            }
            _ => {
                let list = cabbage_broker::store::List { limit: 10, ..Default::default() };
                assert_eq!(store.list(list).await.expect("read").jobs.len(), 10);
                // The first look reads 128 entries, with a row and an outcome each.
                3 * 128 + 60
            }
        };
        drop(store);
        let now = Counters::read(&mut watcher).await;
        assert_eq!(now.whole_reads, before.whole_reads, "{step} read a whole table");
        let rows = now.rows - before.rows;
        assert!(rows <= allowed as i64, "{step} read {rows} rows instead of {allowed}");
        before = now;
    }

    // And a commit of every kind over full tables.
    let mut owner = owned_again(&cell).await;
    // Some of them are kept elsewhere.
    let in_part = |job: &ParkedJob| job.id.0 / 64 % 2 != 0 && job.id.0 % 64 > 32;
    let old = ids(3, STEP_ROWS).chain(ids(40, STEP_ROWS)).filter(|id| id % 3 == 0);
    let next = Batch {
        jobs: ids(70, STEP_ROWS).map(|id| new_job(id, spec())).collect(),
        outcomes: old.clone().map(|id| outcome(id, 2, Verdict::Succeeded)).collect(),
        unparked: old.clone().map(row).chain(crowd(41).filter(in_part)).map(|job| leaving(&job)).collect(),
        kept_below: JobId(OUTLIVED << 24),
        ..batch(number + 1)
    };
    commit(&mut owner, &next).await;
    let rows = old.clone().flat_map(|id| {
        let due = |delivery| RareRow::Due { job: JobId(id), delivery, due: Timestamp(1) };
        [due(0), due(2), RareRow::Args { job: JobId(id), args: "[]".into() }, RareRow::Deleted(JobId(id))]
    });
    commit(&mut owner, &Batch { rare_rows: rows.collect(), ..batch(number + 2) }).await;
    owner.writer.release().await;
    owner.duties.release().await;
    let now = Counters::read(&mut watcher).await;
    assert_eq!(now.whole_reads, before.whole_reads, "a commit read a whole table");
    let rows = now.rows - before.rows;
    // What left its place; and three rows to change, two outcomes and a row to erase, some of which lie in two places.
    assert!(rows <= 10 * old.count() as i64 + 20, "a commit read {rows} rows");
}
