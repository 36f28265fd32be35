//! Closed partitions are frozen and indexed once, nobody waits for it, and lists go by it.

use std::{sync::Arc, time::Duration};

use cabbage_broker::{
    core::{
        batch::{Batch, RareRow},
        fact::Fact,
        job::JobSpec,
        retention::Milestone,
        types::JobId,
    },
    store::{Keep, List, Partition, PartitionState, RetainAsk, Retained, Tenure, Upkept},
};
use sqlx::{PgConnection, Row};
use tokio::time::timeout;

use crate::cell::{TestCell, batch, first_batch, new_job, spec};

/// How long something that must come may take on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);
/// The first id of the partition that is in use.
const OPEN: i64 = 1 << 24;
/// Jobs of the queue that there is little of.
const FEW: [i64; 3] = [70, 1_400, 2_900];

/// A cell with a closed partition of 3,000 jobs, of which three are of a queue of their own, and an open one with three
/// more jobs, one of them of that queue.
async fn with_a_closed_partition() -> (TestCell, Tenure, PgConnection) {
    let cell = TestCell::in_postgres().await;
    let mut owner = cell.own().await;
    let of_queue = |id: i64| if FEW.contains(&id) || id == OPEN + 1 { "bulk" } else { "mail" };
    let job = |id| new_job(id, JobSpec { queue: of_queue(id).into(), ..spec() });
    let jobs = (1..=3_000).chain(OPEN..OPEN + 3).map(job).collect();
    owner.writer.commit(&Batch { jobs, ..first_batch([]) }).await.expect("committed");
    let mut connection = cell.connection().await;
    sqlx::query("SELECT setval('job_id', $1)").bind(OPEN + 3).execute(&mut connection).await.expect("moved");
    let did = owner.duties.retain(&Keep::default(), &RetainAsk::default()).await.expect("it can be done");
    assert_eq!(did, Retained::Nothing, "it is noted as closed");
    (cell, owner, connection)
}

/// Takes pieces of upkeep until nothing is due.
async fn keep_up(cell: &TestCell) -> Vec<Upkept> {
    let mut upkeep = cell.store.upkeep();
    let mut done = Vec::new();
    while let Some(did) = upkeep.next().await.expect("it can be done") {
        done.push(did);
    }
    done
}

async fn number(connection: &mut PgConnection, sql: &'static str) -> i64 {
    sqlx::query(sql).fetch_one(connection).await.expect("read").get(0)
}

#[tokio::test]
async fn a_closed_partition_is_frozen_and_indexed_once() {
    let (cell, _owner, mut connection) = with_a_closed_partition().await;
    assert_eq!(keep_up(&cell).await, [Upkept::Frozen(0), Upkept::Indexed(0)]);
    assert_eq!(keep_up(&cell).await, [], "once");
    let vacuumed = "SELECT sum(vacuum_count)::bigint FROM pg_stat_user_tables WHERE relname IN ('job_0', 'outcome_0')";
    assert_eq!(number(&mut connection, vacuumed).await, 2, "each table once");
    let gone = "SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND query ~ 'cabbage:(freeze|index|upkeep_done)'";
    while number(&mut connection, gone).await > 0 {}
    // Another owner notes an index that one before made, and makes anew what was left half made.
    let forget = "UPDATE closed_partition SET indexed_at = NULL";
    sqlx::query(forget).execute(&mut connection).await.expect("forgotten");
    assert_eq!(keep_up(&cell).await, [Upkept::Indexed(0)]);
    let broken = "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'job_0_by_queue'::regclass";
    for sql in [forget, broken] {
        sqlx::query(sql).execute(&mut connection).await.expect("broken");
    }
    assert_eq!(keep_up(&cell).await, [Upkept::Cleared(0), Upkept::Indexed(0)]);
    let valid = "SELECT count(*) FROM pg_index WHERE indexrelid = 'job_0_by_queue'::regclass AND indisvalid";
    assert_eq!(number(&mut connection, valid).await, 1);
}

#[tokio::test]
async fn a_list_by_queue_goes_by_the_index_where_there_is_one() {
    let (cell, owner, mut connection) = with_a_closed_partition().await;
    let all: Vec<_> = FEW.into_iter().chain([OPEN + 1]).rev().collect();
    let bulk = List { queue: Some("bulk".into()), limit: 10, ..List::default() };
    for (phase, looked_at) in [("before", 3_003), ("after", 6)] {
        let listed = cell.store.list(bulk.clone()).await.expect("read");
        assert_eq!(listed.jobs.iter().map(|view| view.job.id.0).collect::<Vec<_>>(), all, "{phase}");
        assert_eq!(listed.looked_at, looked_at, "{phase}");
        assert_eq!(listed.next, None, "{phase}");
        keep_up(&cell).await;
    }
    let first = cell.store.list(List { limit: 2, ..bulk.clone() }).await.expect("read");
    let rest = cell.store.list(List { below: first.next, ..bulk }).await.expect("read");
    let pages = first.jobs.iter().chain(&rest.jobs).map(|view| view.job.id.0);
    assert_eq!(pages.collect::<Vec<_>>(), all, "page by page");
    let none = List { queue: Some("unknown".into()), limit: 10, ..List::default() };
    assert_eq!(cell.store.list(none).await.expect("read").jobs.len(), 0);
    // What was read of the closed partition, its backends tell when they end.
    drop((cell.store, owner));
    let quiet = "SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND application_name = 'cabbage-broker'";
    while number(&mut connection, quiet).await > 0 {}
    let read = "SELECT idx_tup_read FROM pg_stat_user_indexes WHERE indexrelname = 'job_0_by_queue'";
    let read = number(&mut connection, read).await;
    assert!((1..=20).contains(&read), "{read} entries of the index were read");
}

#[tokio::test]
async fn upkeep_that_waits_makes_nobody_wait_and_ends_with_its_owner() {
    let (cell, mut owner, mut connection) = with_a_closed_partition().await;
    let mut writing = cell.connection().await;
    for sql in ["BEGIN", "LOCK TABLE job_0 IN ROW EXCLUSIVE MODE"] {
        sqlx::query(sql).execute(&mut writing).await.expect("as a commit that is under way");
    }
    let mut upkeep = cell.store.upkeep();
    assert_eq!(upkeep.next().await.expect("frozen"), Some(Upkept::Frozen(0)));
    let indexing = tokio::spawn(async move { upkeep.next().await });
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
        AND query LIKE '%cabbage:index%' AND wait_event_type = 'Lock' AND pid <> pg_backend_pid()";
    timeout(PATIENCE, async { while number(&mut connection, waits).await == 0 {} }).await.expect("it waits");
    // Late jobs of that partition come and go meanwhile, and partitions are made.
    let jobs = vec![new_job(3_001, spec()), new_job(OPEN + 5, spec())];
    owner.writer.commit(&Batch { jobs, ..batch(2) }).await.expect("nobody waits");
    owner.duties.partitions(JobId(OPEN << 2), 1).await.expect("nobody waits");
    indexing.abort();
    let runs = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
        AND query LIKE '%cabbage:index%' AND state = 'active' AND pid <> pg_backend_pid()";
    timeout(PATIENCE, async { while number(&mut connection, runs).await > 0 {} }).await.expect("the server notices");
    // What it left is no index yet; the next one makes it.
    sqlx::query("ROLLBACK").execute(&mut writing).await.expect("ended");
    assert_eq!(keep_up(&cell).await, [Upkept::Cleared(0), Upkept::Indexed(0)]);
}

#[tokio::test]
async fn upkeep_leaves_alone_what_is_to_go() {
    let (cell, mut owner, mut connection) = with_a_closed_partition().await;
    let bound = Milestone::KeptBelow(JobId(OPEN));
    let rare_rows = vec![RareRow::Milestone(bound)];
    let facts = Arc::new(vec![Fact::KeptBelow { id: JobId(OPEN) }]);
    owner.writer.commit(&Batch { rare_rows, facts, ..batch(2) }).await.expect("committed");
    assert_eq!(keep_up(&cell).await, []);
    assert_eq!(number(&mut connection, "SELECT count(frozen_at) FROM closed_partition").await, 0);
}

#[tokio::test]
async fn what_people_are_told_of_partitions_is_so() {
    let (cell, mut owner, _) = with_a_closed_partition().await;
    let states = async || {
        let now = cell.store.retention().await.expect("read");
        let state = |partition: &Partition| (partition.ids.start >> 24, partition.state);
        (now.partitions.iter().map(state).collect::<Vec<_>>(), now)
    };
    let (before, now) = states().await;
    let expected = [PartitionState::Closed, PartitionState::Open, PartitionState::Ahead];
    assert_eq!(before, (0..).zip(expected).collect::<Vec<_>>());
    assert!(now.partitions[0].bytes > now.partitions[2].bytes && now.partitions[0].closed.is_some());
    assert_eq!((now.partitions[0].frozen, now.partitions[0].indexed), (None, None));
    keep_up(&cell).await;
    let (_, now) = states().await;
    assert!(now.partitions[0].frozen.is_some() && now.partitions[0].indexed.is_some());

    let mut reader = cell.connection().await;
    for sql in ["SET application_name = 'a report'", "BEGIN", "SELECT count(*) FROM job"] {
        sqlx::query(sql).execute(&mut reader).await.expect("read");
    }
    let milestones = [Milestone::KeptBelow(JobId(OPEN)), Milestone::MovedBelow(JobId(OPEN))];
    for (number, milestone, state) in
        [(2, milestones[0], PartitionState::Moving), (3, milestones[1], PartitionState::Dropping)]
    {
        owner
            .writer
            .commit(&Batch { rare_rows: vec![RareRow::Milestone(milestone)], ..batch(number) })
            .await
            .expect("committed");
        assert_eq!(states().await.0[0], (0, state));
    }
    // Whoever has only just begun is not told of.
    let told = async {
        loop {
            let (_, now) = states().await;
            if let Some(holder) = now.partitions[0].waits_for.first() {
                return (now.moved_below, holder.application.clone());
            }
        }
    };
    let told = timeout(PATIENCE, told).await.expect("it is seen who holds it up");
    assert_eq!(told, (JobId(OPEN), "a report".to_owned()));
}
