//! Retention: what may go goes, what must stay is found in every phase, and nobody waits for it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use cabbage_broker::{
    core::{
        batch::{Answer, Batch, Changed, Outcome, OutcomeMore, RareRow, RequestRow},
        effect::{JobFound, LookUp},
        fact::Fact,
        job::Verdict,
        place::Place,
        retention::Milestone,
        types::{JobId, QueueNo, Timestamp},
    },
    store::{Checkpoint, CommitError, Keep, List, LogPosition, RetainAsk, Retained, Tenure, kind},
};
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use crate::{
    both::on_both_stores,
    cell::{STREAM, TestCell, batch, first_batch, leaving, new_job, outcome, parked, record, spec},
};

on_both_stores!(
    finished_jobs_go_by_state_and_age,
    kept_for_ever_nothing_goes,
    opening_an_erased_job_is_refused,
    what_goes_is_counted_once_by_queue_and_verdict,
);

const ALL: RetainAsk = RetainAsk { spared: Vec::new(), erase_after: None };
const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);

/// What is kept, where only states matter.
fn keep(succeeded: Duration, failed: Duration) -> Keep {
    Keep { succeeded: Some(succeeded), failed: Some(failed), cancelled: Some(failed), ..Keep::default() }
}

/// A cell, its owner, and the row of the log that comes next.
struct Owned {
    cell: TestCell,
    owner: Option<Tenure>,
    next: u64,
    kept_below: JobId,
}

impl Owned {
    async fn new(cell: TestCell) -> Self {
        let owner = Some(cell.own().await);
        Self { cell, owner, next: 1, kept_below: JobId(0) }
    }

    fn owner(&mut self) -> &mut Tenure {
        self.owner.as_mut().expect("somebody owns the cell")
    }

    async fn commit(&mut self, batch: Batch) -> Result<(), CommitError> {
        let batch = Batch { number: self.next, kept_below: self.kept_below, ..batch };
        self.owner().writer.commit(&batch).await?;
        self.next += 1;
        Ok(())
    }

    /// What the core does with a milestone.
    async fn record(&mut self, milestone: Milestone) {
        let fact = match milestone {
            Milestone::KeptBelow(id) => {
                self.kept_below = id;
                Fact::KeptBelow { id }
            }
            Milestone::MovedBelow(id) => Fact::MovedBelow { id },
            Milestone::Forgotten { queue, verdict, jobs } => Fact::Forgotten { queue, verdict, jobs },
        };
        let rare_rows = vec![RareRow::Milestone(milestone)];
        self.commit(Batch { facts: Arc::new(vec![fact]), rare_rows, ..Batch::default() }).await.expect("committed");
    }

    async fn step(&mut self, keep: &Keep, ask: &RetainAsk) -> Retained {
        self.owner().duties.retain(keep, ask).await.expect("it can be done")
    }

    /// Takes steps until nothing is left to do. Tables that are in use are left alone.
    async fn retain(&mut self, keep: &Keep) -> Vec<Retained> {
        let mut ask = RetainAsk { erase_after: Some(JobId(0)), ..ALL };
        let mut done = Vec::new();
        loop {
            let did = self.step(keep, &ask).await;
            match &did {
                Retained::Nothing => return done,
                Retained::Blocked(table) => ask.spared.push(kind(table).to_owned()),
                Retained::Erased { after, .. } => ask.erase_after = Some(*after),
                Retained::Record(milestone, _) => self.record(*milestone).await,
                Retained::Closed(_) | Retained::Moved(_) | Retained::Dropped(_) => {}
            }
            done.push(did);
        }
    }

    /// The owner is killed, and another one takes over.
    async fn take_over(&mut self) {
        self.owner = None;
        while self.owner.is_none() {
            self.owner = self.cell.store.take_term("there:1").await.expect("the database answers");
        }
    }

    /// An outcome of just now, or of some time ago.
    async fn ended(&self, job: i64, delivery: u32, verdict: Verdict, ago: Duration) -> Outcome {
        let finished = Timestamp(self.cell.now().await.0 - i64::try_from(ago.as_micros()).expect("not that long"));
        Outcome { finished, ..outcome(job, delivery, verdict) }
    }

    async fn listed(&self) -> Vec<i64> {
        let (mut ids, mut below) = (Vec::new(), None);
        loop {
            // Small pages, so that they end in the middle of everything.
            let page = self.cell.store.list(List { below, limit: 3, ..List::default() }).await.expect("read");
            ids.extend(page.jobs.iter().map(|view| view.job.id.0));
            below = page.next;
            if below.is_none() {
                return ids;
            }
        }
    }
}

async fn finished_jobs_go_by_state_and_age(cell: TestCell) {
    let mut owned = Owned::new(cell).await;
    let outcomes = vec![
        owned.ended(1, 1, Verdict::Succeeded, HOUR).await,
        owned.ended(2, 1, Verdict::Failed, HOUR).await,
        owned.ended(3, 1, Verdict::Failed, 40 * DAY).await,
        owned.ended(4, 1, Verdict::Cancelled, HOUR).await,
        owned.ended(5, 1, Verdict::Retried, 40 * DAY).await,
        owned.ended(6, 1, Verdict::Retried, 40 * DAY).await,
        owned.ended(6, 2, Verdict::Succeeded, 40 * DAY).await,
        owned.ended(7, 1, Verdict::Failed, 40 * DAY).await,
        owned.ended(7, 2, Verdict::Reopened, 40 * DAY).await,
    ];
    let first = Batch { outcomes, parked: vec![parked(8, Place::Stream(STREAM), 0, record())], ..first_batch(1..=9) };
    owned.commit(first).await.expect("committed");
    owned.retain(&keep(Duration::ZERO, 30 * DAY)).await;
    assert_eq!(owned.listed().await, [9, 8, 7, 5, 4, 2]);
    for gone in [1, 3, 6] {
        assert!(owned.cell.store.job(JobId(gone)).await.expect("read").is_none(), "job {gone}");
    }
    let kept = owned.cell.store.job(JobId(7)).await.expect("read").expect("it is not final");
    assert_eq!(kept.outcomes.len(), 2);
    // What was kept for longer goes in its time.
    owned.retain(&keep(Duration::ZERO, Duration::ZERO)).await;
    assert_eq!(owned.listed().await, [9, 8, 7, 5]);
}

async fn kept_for_ever_nothing_goes(cell: TestCell) {
    let mut owned = Owned::new(cell).await;
    let outcomes = vec![
        owned.ended(1, 1, Verdict::Succeeded, 900 * DAY).await,
        owned.ended(2, 1, Verdict::Failed, 900 * DAY).await,
    ];
    owned.commit(Batch { outcomes, ..first_batch(1..=3) }).await.expect("committed");
    owned.retain(&Keep { succeeded: None, ..keep(DAY, DAY) }).await;
    assert_eq!(owned.listed().await, [3, 2, 1]);
}

/// How many jobs the log is told that went, in the end.
fn forgotten(done: &[Retained]) -> BTreeMap<(QueueNo, Verdict), u64> {
    let told = |did: &Retained| match did {
        Retained::Record(Milestone::Forgotten { queue, verdict, jobs }, _) => Some(((*queue, *verdict), *jobs)),
        _ => None,
    };
    done.iter().filter_map(told).collect()
}

async fn what_goes_is_counted_once_by_queue_and_verdict(cell: TestCell) {
    let mut owned = Owned::new(cell).await;
    let mut moved = owned.ended(4, 1, Verdict::Retried, 40 * DAY).await;
    let changed = Changed { queue: Some("bulk".into()), ..Changed::default() };
    moved.more = Some(Box::new(OutcomeMore { changed: Some(changed), ..OutcomeMore::default() }));
    let outcomes = vec![
        owned.ended(1, 1, Verdict::Succeeded, DAY).await,
        owned.ended(2, 1, Verdict::Succeeded, DAY).await,
        owned.ended(3, 1, Verdict::Failed, 20 * DAY).await,
        moved,
        owned.ended(4, 2, Verdict::Succeeded, DAY).await,
        owned.ended(5, 1, Verdict::Cancelled, 40 * DAY).await,
        owned.ended(6, 1, Verdict::Failed, 10 * DAY).await,
    ];
    owned.commit(Batch { outcomes, ..first_batch(1..=7) }).await.expect("committed");
    let mut counts = forgotten(&owned.retain(&keep(Duration::ZERO, 30 * DAY)).await);
    let (mail, bulk) = (QueueNo(0), QueueNo(1));
    let first = [((mail, Verdict::Succeeded), 2), ((mail, Verdict::Cancelled), 1), ((bulk, Verdict::Succeeded), 1)];
    assert_eq!(counts, BTreeMap::from(first));
    owned.take_over().await;
    assert_eq!(forgotten(&owned.retain(&keep(Duration::ZERO, 30 * DAY)).await), BTreeMap::new(), "the log knows");
    // What is kept for longer is counted in its time.
    counts.extend(forgotten(&owned.retain(&keep(Duration::ZERO, 15 * DAY)).await));
    assert_eq!(counts.insert((mail, Verdict::Failed), 0), Some(1));
    counts.extend(forgotten(&owned.retain(&keep(Duration::ZERO, Duration::ZERO)).await));
    assert_eq!(counts.get(&(mail, Verdict::Failed)), Some(&2), "all that ever went");
    assert_eq!(owned.listed().await, [7]);
}

async fn opening_an_erased_job_is_refused(cell: TestCell) {
    let mut owned = Owned::new(cell).await;
    let outcomes =
        vec![owned.ended(1, 1, Verdict::Succeeded, DAY).await, owned.ended(2, 1, Verdict::Failed, DAY).await];
    owned.commit(Batch { outcomes, ..first_batch(1..=2) }).await.expect("committed");
    owned.retain(&keep(Duration::ZERO, 30 * DAY)).await;
    let opened = |job| Batch { outcomes: vec![outcome(job, 2, Verdict::Reopened)], ..batch(0) };
    let error = owned.commit(opened(1)).await.expect_err("it is gone");
    assert!(matches!(error, CommitError::Refused { .. }), "{error}");
    owned.commit(opened(2)).await.expect("it is there");
    // And it is not erased any more, whatever its time.
    owned.retain(&keep(Duration::ZERO, Duration::ZERO)).await;
    assert_eq!(owned.listed().await, [2]);
}

#[tokio::test]
async fn packed_successes_go_by_age_and_stay_with_all_they_said() {
    let mut owned = Owned::new(TestCell::in_postgres().await).await;
    let mut ended = Vec::new();
    for job in 1..=40 {
        let ago = if job <= 20 { 9 * DAY } else { HOUR };
        let session = Some(Uuid::from_u128(1 + job as u128 % 2));
        let outcome = owned.ended(job, 1, Verdict::Succeeded, ago).await;
        ended.push(Outcome { started: Some(Timestamp(outcome.finished.0 - 700 - job)), session, ..outcome });
    }
    owned.commit(first_batch(1..=40)).await.expect("committed");
    // Each half in a commit of its own.
    for half in ended.chunks(20) {
        owned.commit(Batch { outcomes: half.to_vec(), ..batch(0) }).await.expect("committed");
    }
    let mut connection = owned.cell.connection().await;
    for sql in ["UPDATE job SET created_at = now() - interval '9 days'", "SELECT setval('job_id', 40)"] {
        sqlx::query(sql).execute(&mut connection).await.expect("aged");
    }
    let keep = keep(7 * DAY, 30 * DAY);
    assert_eq!(owned.step(&keep, &ALL).await, Retained::Closed(JobId(1 << 24)));
    let aged = "UPDATE closed_partition SET closed_at = closed_at - interval '8 days'";
    sqlx::query(aged).execute(&mut connection).await.expect("aged");
    let packed = "SELECT (SELECT count(*) FROM outcome), (SELECT count(*) FROM success)";
    let row = sqlx::query(packed).fetch_one(&mut connection).await.expect("read");
    assert_eq!((row.get::<i64, _>(0), row.get::<i64, _>(1)), (0, 2));

    let done = owned.retain(&keep).await;
    assert!(done.contains(&Retained::Dropped("success_0".to_owned())), "{done:?}");
    assert_eq!(forgotten(&done), BTreeMap::from([((QueueNo(0), Verdict::Succeeded), 20)]));
    assert_eq!(owned.listed().await, (21..=40).rev().collect::<Vec<_>>());
    for outcome in &ended[20..] {
        let view = owned.cell.store.job(outcome.job).await.expect("read").expect("it stays");
        assert_eq!(view.outcomes, std::slice::from_ref(outcome));
    }
}

/// What readers must say of the jobs of [`stragglers`].
async fn assert_found(owned: &Owned, phase: &str, erased: bool, expected: &[(i64, usize, bool)]) {
    let store = &owned.cell.store;
    let there: Vec<i64> = expected.iter().map(|(id, ..)| *id).collect();
    let ids: Vec<JobId> = there.iter().copied().map(JobId).collect();
    let mut stored: Vec<i64> = store.specs(&ids).await.expect("read").iter().map(|job| job.id.0).collect();
    stored.sort_unstable();
    assert_eq!(stored, there, "{phase}: their rows");
    let listed: Vec<i64> = owned.listed().await.into_iter().filter(|id| there.contains(id)).rev().collect();
    assert_eq!(listed, there, "{phase}: each is listed once, in order");
    let keys = LookUp {
        jobs: ids.clone(),
        deliveries: expected.iter().map(|(id, count, _)| (JobId(*id), (*count).max(1) as u32)).collect(),
        ..LookUp::default()
    };
    let found = store.look_up(keys).await.expect("read");
    for ((id, outcomes, is_final), (known, ended)) in expected.iter().zip(found.jobs.iter().zip(found.deliveries)) {
        let view = store.job(JobId(*id)).await.expect("read").expect("it is there");
        let deliveries: Vec<u32> = view.outcomes.iter().map(|outcome| outcome.delivery).collect();
        assert_eq!(deliveries, (1..=*outcomes as u32).collect::<Vec<_>>(), "{phase}: outcomes of job {id}");
        assert_eq!(matches!(known, JobFound::Final { .. }), *is_final, "{phase}: job {id} is {known:?}");
        assert_ne!(*known, JobFound::Unknown, "{phase}: job {id}");
        assert_eq!(ended.is_some(), *outcomes > 0, "{phase}: the last delivery of job {id}");
    }
    let mut connection = owned.cell.connection().await;
    let sql = "SELECT count(*), count(*) FILTER (WHERE state IN ('succeeded', 'failed', 'cancelled')) FROM jobs
        WHERE id = ANY ($1)";
    let row = sqlx::query(sql).bind(&there).fetch_one(&mut connection).await.expect("read");
    let finals = expected.iter().filter(|(.., is_final)| *is_final).count() as i64;
    assert_eq!((row.get::<i64, _>(0), row.get::<i64, _>(1)), (there.len() as i64, finals), "{phase}: the view");
    for gone in [1, 2] {
        assert_eq!(store.job(JobId(gone)).await.expect("read").is_none(), erased, "{phase}: job {gone}");
        assert_eq!(owned.listed().await.contains(&gone), !erased, "{phase}: job {gone} in lists");
    }
}

#[tokio::test]
async fn stragglers_are_found_in_every_phase_over_a_takeover_after_each() {
    let mut owned = Owned::new(TestCell::in_postgres().await).await;
    let outcomes = vec![
        owned.ended(1, 1, Verdict::Succeeded, 9 * DAY).await,
        owned.ended(2, 1, Verdict::Failed, 40 * DAY).await,
        // Kept for longer, with all of its history.
        owned.ended(3, 1, Verdict::Retried, 40 * DAY).await,
        owned.ended(3, 2, Verdict::Failed, 9 * DAY).await,
        // Ended late.
        owned.ended(4, 1, Verdict::Succeeded, HOUR).await,
        // Not ended.
        owned.ended(5, 1, Verdict::Retried, 40 * DAY).await,
    ];
    let first = Batch { outcomes, parked: vec![parked(6, Place::Stream(STREAM), 0, record())], ..first_batch(1..=7) };
    owned.commit(first).await.expect("committed");
    let mut connection = owned.cell.connection().await;
    for sql in ["UPDATE job SET created_at = now() - interval '9 days'", "SELECT setval('job_id', 7)"] {
        sqlx::query(sql).execute(&mut connection).await.expect("aged");
    }
    let keep = keep(7 * DAY, 30 * DAY);
    let mut expected = vec![(3, 2, true), (4, 1, true), (5, 1, false), (6, 0, false), (7, 0, false)];
    assert_found(&owned, "before", false, &expected).await;

    let boundary = JobId(1 << 24);
    assert_eq!(owned.step(&keep, &ALL).await, Retained::Closed(boundary));
    owned.take_over().await;
    assert_eq!(owned.step(&keep, &ALL).await, Retained::Nothing, "it is not its time");
    // An id that was drawn before still goes to its partition.
    owned.commit(Batch { jobs: vec![new_job(8, spec())], ..batch(0) }).await.expect("committed");
    expected.push((8, 0, false));
    assert_found(&owned, "closed", false, &expected).await;
    let aged = "UPDATE closed_partition SET closed_at = closed_at - interval '8 days'";
    sqlx::query(aged).execute(&mut connection).await.expect("aged");

    assert_eq!(owned.step(&keep, &ALL).await, Retained::Record(Milestone::KeptBelow(boundary), 0));
    owned.take_over().await;
    assert_eq!(owned.step(&keep, &ALL).await, Retained::Record(Milestone::KeptBelow(boundary), 0), "asked again");
    owned.record(Milestone::KeptBelow(boundary)).await;
    // From now on, what is written of these jobs does not go to the partition.
    let ended = vec![owned.ended(5, 2, Verdict::Succeeded, Duration::ZERO).await];
    let unparked = vec![leaving(&parked(6, Place::Stream(STREAM), 0, record()))];
    let next = Batch { outcomes: ended, unparked, jobs: vec![new_job(9, spec())], ..batch(0) };
    owned.commit(next).await.expect("committed");
    expected[2] = (5, 2, true);
    expected.push((9, 0, false));
    assert_found(&owned, "kept_below", false, &expected).await;

    owned.take_over().await;
    let Retained::Moved(moved) = owned.step(&keep, &ALL).await else { panic!("it moves") };
    assert_eq!(moved, 6);
    let ended = vec![owned.ended(6, 1, Verdict::Retried, Duration::ZERO).await];
    owned.commit(Batch { outcomes: ended, ..batch(0) }).await.expect("committed");
    expected[3] = (6, 1, false);
    assert_found(&owned, "copied", false, &expected).await;
    // As if it had been killed before it noted how far it came: nothing is copied twice.
    sqlx::query("UPDATE closed_partition SET moved_to = 0").execute(&mut connection).await.expect("forgotten");
    owned.take_over().await;
    assert_eq!(owned.step(&keep, &ALL).await, Retained::Moved(6));
    assert_eq!(owned.step(&keep, &ALL).await, Retained::Record(Milestone::MovedBelow(boundary), 0));
    assert_found(&owned, "copied twice", false, &expected).await;

    owned.record(Milestone::MovedBelow(boundary)).await;
    owned.take_over().await;
    assert_found(&owned, "moved_below", true, &expected).await;
    let ended = vec![owned.ended(6, 2, Verdict::Failed, Duration::ZERO).await];
    owned.commit(Batch { outcomes: ended, ..batch(0) }).await.expect("committed");
    expected[3] = (6, 2, true);

    // What goes is counted once, though it was looked through twice; and told again until it is recorded.
    for verdict in [Verdict::Succeeded, Verdict::Failed] {
        let gone = Milestone::Forgotten { queue: QueueNo(0), verdict, jobs: 1 };
        assert_eq!(owned.step(&keep, &ALL).await, Retained::Record(gone, 0));
        owned.take_over().await;
        assert_eq!(owned.step(&keep, &ALL).await, Retained::Record(gone, 0));
        owned.record(gone).await;
    }
    for table in ["success_0", "outcome_0"] {
        assert_eq!(owned.step(&keep, &ALL).await, Retained::Dropped(table.to_owned()));
        owned.take_over().await;
    }
    assert_found(&owned, "half dropped", true, &expected).await;
    assert_eq!(owned.step(&keep, &ALL).await, Retained::Dropped("job_0".to_owned()));
    owned.take_over().await;
    owned.commit(Batch { jobs: vec![new_job(10, spec())], ..batch(0) }).await.expect("no partition is missed");
    expected.push((10, 0, false));
    assert_found(&owned, "dropped", true, &expected).await;
    // Partitions are made ahead, and the one that is gone does not come back.
    owned.owner().duties.partitions(JobId(11), 1).await.expect("made");
    assert_eq!(owned.step(&keep, &ALL).await, Retained::Nothing);

    // What verbs change of them is found where they lie.
    let due = Timestamp(2_000_000_000_000_000);
    let rare_rows = vec![
        RareRow::Due { job: JobId(7), delivery: 0, due },
        RareRow::Args { job: JobId(7), args: "[7]".into() },
        RareRow::Deleted(JobId(4)),
    ];
    owned.commit(Batch { rare_rows, ..batch(0) }).await.expect("committed");
    let [changed] = owned.cell.store.specs(&[JobId(7)]).await.expect("read").try_into().expect("one job");
    assert_eq!((changed.due, &*changed.spec.args), (due, &b"[7]"[..]));
    assert!(owned.cell.store.job(JobId(4)).await.expect("read").is_none());
    let keys = LookUp { finished: vec![JobId(3), JobId(4), JobId(7)], ..LookUp::default() };
    let finished = owned.cell.store.look_up(keys).await.expect("read").finished;
    let known = finished.iter().map(|job| job.as_ref().map(|job| (job.delivery, job.has_started)));
    assert_eq!(known.collect::<Vec<_>>(), [Some((2, true)), None, None]);

    // In their time the others go too, by key.
    let all = RetainAsk { erase_after: Some(JobId(0)), ..ALL };
    assert_eq!(owned.step(&keep, &all).await, Retained::Erased { jobs: 0, after: JobId(10) });
    let now = Keep { succeeded: Some(Duration::ZERO), ..keep };
    assert_eq!(owned.step(&now, &all).await, Retained::Erased { jobs: 1, after: JobId(10) });
    assert_eq!(owned.listed().await, [10, 9, 8, 7, 6, 3]);
}

/// Makes two closed partitions with old jobs in each, a succeeded one and one that is not final.
async fn two_old_partitions(owned: &mut Owned) -> PgConnection {
    let second = 1 << 24;
    let outcomes = vec![
        owned.ended(1, 1, Verdict::Succeeded, 9 * DAY).await,
        owned.ended(second + 1, 1, Verdict::Succeeded, 9 * DAY).await,
    ];
    owned
        .commit(Batch { outcomes, ..first_batch([1, 2, second + 1, second + 2]) })
        .await
        .expect("both are there from the start");
    let mut connection = owned.cell.connection().await;
    sqlx::query("SELECT setval('job_id', 2 << 24)").execute(&mut connection).await.expect("moved");
    let keep = keep(7 * DAY, 30 * DAY);
    assert_eq!(owned.step(&keep, &ALL).await, Retained::Nothing, "they are noted as closed");
    let aged = "UPDATE closed_partition SET closed_at = closed_at - interval '8 days'";
    sqlx::query(aged).execute(&mut connection).await.expect("aged");
    connection
}

#[tokio::test]
async fn a_reader_keeps_tables_from_being_dropped_and_nothing_else() {
    let mut owned = Owned::new(TestCell::in_postgres().await).await;
    let mut connection = two_old_partitions(&mut owned).await;
    let mut reader = owned.cell.connection().await;
    for sql in ["BEGIN ISOLATION LEVEL REPEATABLE READ", "SELECT count(*) FROM job, outcome, success"] {
        sqlx::query(sql).execute(&mut reader).await.expect("read");
    }
    let keep = keep(7 * DAY, 30 * DAY);
    let done = owned.retain(&keep).await;
    for table in ["success_0", "outcome_0"] {
        assert!(done.contains(&Retained::Blocked(table.to_owned())), "{done:?}");
    }
    assert!(!done.iter().any(|did| matches!(did, Retained::Dropped(_))), "{done:?}");
    // Both partitions have gone as far as they can, and jobs come and go.
    assert_eq!(owned.listed().await, [(1 << 24) + 2, 2]);
    owned.commit(Batch { jobs: vec![new_job((2 << 24) + 1, spec())], ..batch(0) }).await.expect("nobody waits");
    // The reader still sees what it saw.
    let seen: i64 = sqlx::query("SELECT count(*) FROM job").fetch_one(&mut reader).await.expect("read").get(0);
    assert_eq!(seen, 4);
    sqlx::query("ROLLBACK").execute(&mut reader).await.expect("ended");
    let done = owned.retain(&keep).await;
    let dropped: Vec<_> =
        done.iter().filter_map(|did| if let Retained::Dropped(table) = did { Some(table) } else { None }).collect();
    assert_eq!(dropped, ["success_0", "outcome_0", "job_0", "success_1", "outcome_1", "job_1"]);
    let left = "SELECT count(*) FROM pg_class WHERE relname ~ '^(job|outcome|success)_[01]$'";
    assert_eq!(sqlx::query(left).fetch_one(&mut connection).await.expect("read").get::<i64, _>(0), 0);
    assert_eq!(owned.listed().await, [(2 << 24) + 1, (1 << 24) + 2, 2]);
}

#[tokio::test]
async fn a_partition_is_closed_when_it_is_half_full_or_old_and_the_sequence_only_goes_up() {
    let mut owned = Owned::new(TestCell::in_postgres().await).await;
    let mut connection = owned.cell.connection().await;
    let keep = Keep::default();
    assert_eq!(owned.step(&keep, &ALL).await, Retained::Nothing, "it is empty");
    owned.commit(first_batch([1])).await.expect("committed");
    assert_eq!(owned.step(&keep, &ALL).await, Retained::Nothing, "it is young");
    // Nearly at its end it is left by itself; whoever draws ids meanwhile must never get one twice.
    for (last, closes) in [((1_i64 << 24) - 2, false), ((1 << 23) - 1, false), (1 << 23, true)] {
        sqlx::query("SELECT setval('job_id', $1)").bind(last).execute(&mut connection).await.expect("moved");
        let did = owned.step(&keep, &ALL).await;
        assert_eq!(did == Retained::Closed(JobId(1 << 24)), closes, "at {last}: {did:?}");
    }
    let ids = owned.owner().writer.reserve(3).await.expect("drawn");
    assert_eq!(ids, (1 << 24)..(1 << 24) + 3);
    let tables = "SELECT count(*) FROM pg_class WHERE relname IN ('job_1', 'job_2', 'job_3') AND relkind = 'r'";
    assert_eq!(sqlx::query(tables).fetch_one(&mut connection).await.expect("read").get::<i64, _>(0), 3);
    // A day later, but only if there is something in it.
    assert_eq!(owned.step(&keep, &ALL).await, Retained::Nothing);
    owned.commit(Batch { jobs: vec![new_job(1 << 24, spec())], ..batch(0) }).await.expect("committed");
    let aged = "UPDATE job SET created_at = created_at - interval '25 hours'";
    sqlx::query(aged).execute(&mut connection).await.expect("aged");
    assert_eq!(owned.step(&keep, &ALL).await, Retained::Closed(JobId(2 << 24)));
    // Kept for ever, it is closed for its size only.
    owned.commit(Batch { jobs: vec![new_job(2 << 24, spec())], ..batch(0) }).await.expect("committed");
    sqlx::query(aged).execute(&mut connection).await.expect("aged");
    assert_eq!(owned.step(&Keep { succeeded: None, ..keep }, &ALL).await, Retained::Nothing);
}

#[tokio::test]
async fn the_log_goes_only_where_neither_checkpoint_needs_it() {
    let mut owned = Owned::new(TestCell::in_postgres().await).await;
    let mut connection = owned.cell.connection().await;
    let old = "INSERT INTO log (number, term, nonce, after_nonce, committed_at, facts)
        SELECT n, 0, 0, 0, now() - interval '2 days', '\\x01' FROM unnest(ARRAY[1, 1048576, 2097152, 2097153]) n";
    owned.owner().duties.partitions(JobId(1), 1 << 20).await.expect("made");
    sqlx::query(old).execute(&mut connection).await.expect("inserted");
    let keep = Keep::default();
    let position = |number| LogPosition { number, nonce: 0 };
    assert_eq!(owned.step(&keep, &ALL).await, Retained::Nothing, "there is no checkpoint");
    for (number, drops) in [(1 << 21, None), ((1 << 21) + 1, Some("log_0")), ((1 << 21) + 1, Some("log_1"))] {
        let checkpoint = Checkpoint { position: position(number), data: vec![1].into() };
        owned.owner().duties.checkpoint(&checkpoint).await.expect("written");
        let expected = drops.map_or(Retained::Nothing, |name| Retained::Dropped(name.to_owned()));
        assert_eq!(owned.step(&keep, &ALL).await, expected, "after a checkpoint of row {number}");
    }
    assert_eq!(owned.step(&keep, &ALL).await, Retained::Nothing);
    assert_eq!(owned.cell.store.follow(position(1 << 21), 9).await.expect("still there").len(), 1);
    // Young rows stay, unless all of them together are too much.
    let young = "INSERT INTO log (number, term, nonce, after_nonce, committed_at, facts)
        VALUES (3145728, 0, 0, 0, now(), '\\x01'), (3145729, 0, 0, 0, now(), '\\x01')";
    owned.owner().duties.partitions(JobId(1), 3 << 20).await.expect("made");
    sqlx::query(young).execute(&mut connection).await.expect("inserted");
    for number in [3 << 20, (3 << 20) + 1] {
        let checkpoint = Checkpoint { position: position(number), data: vec![1].into() };
        owned.owner().duties.checkpoint(&checkpoint).await.expect("written");
    }
    let recent = "UPDATE log SET committed_at = now() WHERE number >= 2097152";
    sqlx::query(recent).execute(&mut connection).await.expect("young");
    assert_eq!(owned.step(&keep, &ALL).await, Retained::Nothing);
    let small = Keep { log_bytes: 1, ..keep };
    assert_eq!(owned.step(&small, &ALL).await, Retained::Dropped("log_2".to_owned()));
}

#[tokio::test]
async fn days_of_remembered_calls_go_though_a_reader_keeps_other_tables() {
    let mut owned = Owned::new(TestCell::in_postgres().await).await;
    let mut connection = two_old_partitions(&mut owned).await;
    let day = "SELECT add_partition('request', 'request_20260101', 'day', '2026-01-01', '2026-01-02')";
    sqlx::query(day).execute(&mut connection).await.expect("made");
    let call =
        |id: &str| RequestRow { id: id.into(), digest: Uuid::from_u128(9), answer: Answer::Cancelled { state: 6 } };
    let called = |id: &str| Batch { requests: vec![call(id)], ..batch(0) };
    owned.commit(called("one")).await.expect("committed");
    let (mut of_jobs, mut of_calls) = (owned.cell.connection().await, owned.cell.connection().await);
    let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ";
    for sql in [begin, "SELECT count(*) FROM job"] {
        sqlx::query(sql).execute(&mut of_jobs).await.expect("read");
    }
    let dropped = |done: &[Retained]| {
        let table = |did: &Retained| if let Retained::Dropped(table) = did { Some(table.clone()) } else { None };
        done.iter().filter_map(table).collect::<Vec<_>>()
    };
    let keep = keep(7 * DAY, 30 * DAY);
    let done = owned.retain(&keep).await;
    assert_eq!(dropped(&done), ["request_20260101", "success_0", "outcome_0", "success_1", "outcome_1"], "{done:?}");
    // And while somebody reads them, a day stays, and no call waits.
    sqlx::query(day).execute(&mut connection).await.expect("made");
    for sql in [begin, "SELECT count(*) FROM request"] {
        sqlx::query(sql).execute(&mut of_calls).await.expect("read");
    }
    let done = owned.retain(&keep).await;
    assert_eq!(dropped(&done), Vec::<String>::new(), "{done:?}");
    assert!(done.contains(&Retained::Blocked("request_20260101".to_owned())), "{done:?}");
    owned.commit(called("two")).await.expect("nobody waits");
    for reader in [&mut of_jobs, &mut of_calls] {
        sqlx::query("ROLLBACK").execute(reader).await.expect("ended");
    }
    let done = owned.retain(&keep).await;
    assert_eq!(dropped(&done), ["job_0", "job_1", "request_20260101"], "{done:?}");
    let keys = LookUp { requests: vec!["one".into(), "two".into()], ..LookUp::default() };
    let found = owned.cell.store.look_up(keys).await.expect("read").requests;
    assert!(found.iter().all(Option::is_some), "today's are there: {found:?}");
}

#[tokio::test]
async fn the_record_of_verbs_goes_by_its_age() {
    let mut owned = Owned::new(TestCell::in_postgres().await).await;
    let mut connection = owned.cell.connection().await;
    let rows = "INSERT INTO audit (at, verb, who, why)
        SELECT now() - n * interval '100 days', 'cancel', 'me', '' FROM unnest(ARRAY[5, 4, 3, 0]) n";
    sqlx::query(rows).execute(&mut connection).await.expect("inserted");
    owned.retain(&Keep::default()).await;
    let left = "SELECT count(*) FROM audit";
    assert_eq!(sqlx::query(left).fetch_one(&mut connection).await.expect("read").get::<i64, _>(0), 2);
    owned.retain(&Keep { audit: None, ..Keep::default() }).await;
    assert_eq!(sqlx::query(left).fetch_one(&mut connection).await.expect("read").get::<i64, _>(0), 2);
}
