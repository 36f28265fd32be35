//! Jobs that applications defer in their own transactions, from the commit to the handler.

#[path = "broker/postgres.rs"]
mod postgres;

use std::{collections::BTreeSet, time::Duration};

use cabbage_broker::{
    Broker, BrokerArgs,
    args::{DatabaseArgs, Secret},
};
use cabbage_worker::{
    Batch, Client, Context, JobFilter, NewJob, TaskError, Worker, transaction,
    v1::{JobState, WaitingFor},
};
use sqlx::{ConnectOptions as _, Connection as _, PgConnection, postgres::PgConnectOptions};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};

/// Nothing is waited for longer than this; a test that gets here has failed.
const PATIENCE: Duration = Duration::from_mins(1);

async fn connect(url: &str) -> PgConnection {
    let options: PgConnectOptions = url.parse().expect("an address");
    options.connect().await.expect("a connection")
}

fn client(broker: &Broker) -> Client {
    Client::new(broker.grpc_address().to_string()).expect("an address")
}

/// Tells the ids of the jobs that it runs.
async fn run(_: serde_json::Value, ctx: Context<mpsc::UnboundedSender<i64>>) -> Result<(), TaskError> {
    ctx.state().send(ctx.id()).map_err(|_| TaskError::new("Gone", "the test has ended"))
}

async fn next(ran: &mut mpsc::UnboundedReceiver<i64>) -> i64 {
    timeout(PATIENCE, ran.recv()).await.expect("in time").expect("the worker lives")
}

#[tokio::test]
async fn job_of_a_transaction_runs_after_its_commit_and_never_after_a_rollback() {
    let (broker, url) = postgres::start(|_| {}).await;
    let (tell, mut ran) = mpsc::unbounded_channel();
    let worker = Worker::builder(broker.grpc_address().to_string()).state(tell).function("run", run);
    let worker = tokio::spawn(worker.build().expect("a worker").run());
    let mut application = connect(&url).await;

    let mut tx = application.begin().await.expect("begun");
    let gone = transaction::defer_job(&mut tx, NewJob::named("run")).await.expect("deferred");
    assert_eq!(transaction::state(&mut tx, gone).await.expect("read").as_deref(), Some("waiting"));
    tx.rollback().await.expect("rolled back");

    let mut tx = application.begin().await.expect("begun");
    let job = transaction::defer_job(&mut tx, NewJob::named("run")).queue("mail").await.expect("deferred");
    let jobs = (0..10).map(|_| NewJob::named("run"));
    let batch = transaction::defer_all(&mut tx, jobs.collect::<Batch>()).await.expect("deferred");
    let cancelled = transaction::defer_job(&mut tx, NewJob::named("run")).await.expect("deferred");
    transaction::cancel(&mut tx, cancelled, "a mistake").await.expect("asked");
    assert!(ran.try_recv().is_err(), "nothing runs before the commit");
    tx.commit().await.expect("committed");

    let expected: BTreeSet<i64> = [job].into_iter().chain(batch).collect();
    let mut seen = BTreeSet::new();
    while seen.len() < expected.len() {
        seen.insert(next(&mut ran).await);
    }
    assert_eq!(seen, expected);
    let shown = client(&broker).wait_at_most(cancelled, PATIENCE).await.expect("it ends");
    assert_eq!((shown.state(), shown.deliveries), (JobState::Cancelled, 0));
    assert!(client(&broker).get(gone).await.is_err(), "it never existed");

    // How long it takes from the commit to the handler, while the owner looks often.
    let mut times = Vec::new();
    for _ in 0..100 {
        let began = Instant::now();
        let id = transaction::defer_job(&mut application, NewJob::named("run")).await.expect("deferred");
        assert_eq!(next(&mut ran).await, id);
        times.push(began.elapsed());
    }
    times.sort_unstable();
    println!("from the defer to the handler: p50 {:?}, p99 {:?}", times[times.len() / 2], times[times.len() - 2]);
    worker.abort();
    broker.shutdown().await.expect("it ends in order");
}

#[tokio::test]
async fn taken_queueing_lock_cancels_a_job_of_a_transaction_and_names_the_first() {
    let (broker, url) = postgres::start(|_| {}).await;
    let client = client(&broker);
    let mut application = connect(&url).await;
    let one = || NewJob::named("unserved").queueing_lock("one");
    let first = client.defer_job(one()).await.expect("deferred").job_id;
    let second = transaction::defer_job(&mut application, one()).await.expect("it commits all the same");
    let shown = client.wait_at_most(second, PATIENCE).await.expect("it ends");
    assert_eq!(shown.state(), JobState::Cancelled);
    let last = shown.last_attempt.expect("an end");
    assert_eq!(last.reason, "DUPLICATE");
    assert!(last.failure.expect("why").message.ends_with(&format!("job {first}")));
    // And the other way around, once it is taken in.
    let free = || NewJob::named("unserved").queueing_lock("two");
    let first = transaction::defer_job(&mut application, free()).await.expect("deferred");
    client.cancel(first, "so that it is taken in").await.expect("a job of the inbox can be cancelled");
    assert_eq!(client.get(first).await.expect("shown").state(), JobState::Cancelled);
    client.defer_job(free()).await.expect("the value is free again");
    broker.shutdown().await.expect("it ends in order");
}

#[tokio::test]
async fn verbs_of_a_transaction_are_obeyed_after_its_commit() {
    let (broker, url) = postgres::start(|_| {}).await;
    let client = client(&broker);
    let mut application = connect(&url).await;
    let job =
        transaction::defer_job(&mut application, NewJob::named("unserved").queue("mail")).await.expect("deferred");
    client.cancel(job, "").await.expect("cancelled");
    let mut tx = application.begin().await.expect("begun");
    for sql in ["SELECT cabbage.retry($1, 'again')", "SELECT cabbage.pause('mail', 'too much') FROM (VALUES ($1)) job"]
    {
        sqlx::query(sql).bind(job).execute(&mut *tx).await.expect("asked");
    }
    assert_eq!(client.get(job).await.expect("shown").state(), JobState::Cancelled, "not before the commit");
    tx.commit().await.expect("committed");
    let began = Instant::now();
    loop {
        let shown = client.get(job).await.expect("shown");
        if shown.state() == JobState::Waiting && shown.waiting_for() == WaitingFor::Paused {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "{shown:?}");
    }
    broker.shutdown().await.expect("it ends in order");
}

#[tokio::test]
async fn job_that_is_not_taken_in_is_shown_as_it_will_be() {
    let (broker, url) = postgres::start(|_| {}).await;
    let client = client(&broker);
    let mut application = connect(&url).await;
    let waiting = transaction::defer_job(&mut application, NewJob::named("unserved")).await.expect("deferred");
    assert_eq!(client.get(waiting).await.expect("shown").state(), JobState::Waiting);
    let in_an_hour = NewJob::named("unserved").schedule_in(Duration::from_hours(1)).args_json("[12345678901234567890]");
    let scheduled = transaction::defer_job(&mut application, in_an_hour).await.expect("deferred");
    let shown = client.get_full(scheduled).await.expect("shown");
    assert_eq!(shown.state(), JobState::Scheduled);
    assert_eq!(&shown.spec.expect("a spec").args[..], b"[12345678901234567890]");
    let page = client.list_page(&JobFilter::default()).await.expect("listed");
    assert_eq!(page.jobs.iter().map(|job| job.id).collect::<Vec<_>>(), [scheduled, waiting]);
    broker.shutdown().await.expect("it ends in order");
}

/// One session: pairs of transactions that commit in the other order, and some that are rolled back.
async fn session(url: String, rounds: usize) -> Vec<i64> {
    let (mut first, mut second) = (connect(&url).await, connect(&url).await);
    let mut committed = Vec::new();
    for round in 0..rounds {
        let mut early = first.begin().await.expect("begun");
        committed.push(transaction::defer_job(&mut early, NewJob::named("run")).await.expect("deferred"));
        let mut late = second.begin().await.expect("begun");
        let id = transaction::defer_job(&mut late, NewJob::named("run").lock("l")).await.expect("deferred");
        committed.push(transaction::defer_job(&mut early, NewJob::named("run")).await.expect("deferred"));
        if round % 5 == 0 {
            late.rollback().await.expect("rolled back");
        } else {
            late.commit().await.expect("committed");
            committed.push(id);
        }
        early.commit().await.expect("committed");
    }
    committed
}

#[tokio::test]
async fn eight_sessions_that_commit_out_of_order_over_a_takeover_leave_each_job_exactly_once() {
    const SESSIONS: usize = 8;
    const ROUNDS: usize = 25;
    let (broker, url) = postgres::start(|_| {}).await;
    let any = "127.0.0.1:0".parse().expect("an address");
    let Ok(secret) = url.parse::<Secret>();
    let database = DatabaseArgs { database_url: Some(secret), ..DatabaseArgs::default() };
    let args = BrokerArgs { listen: any, admin_listen: any, database, ..BrokerArgs::default() };
    let standby = Broker::start(&args).await.expect("it stands by");

    // One that stays open all the while.
    let mut open = connect(&url).await;
    let mut tx = open.begin().await.expect("begun");
    let last = transaction::defer_job(&mut tx, NewJob::named("run")).await.expect("deferred");

    let sessions: Vec<_> = (0..SESSIONS).map(|_| tokio::spawn(session(url.clone(), ROUNDS))).collect();
    let (tell, mut ran) = mpsc::unbounded_channel();
    let addresses = [broker.grpc_address().to_string(), standby.grpc_address().to_string()];
    let worker = Worker::builder(addresses.to_vec()).state(tell).function("run", run);
    let worker = tokio::spawn(worker.build().expect("a worker").run());
    let mut seen = BTreeSet::from([next(&mut ran).await]);
    broker.shutdown().await.expect("the standby takes over");
    assert!(timeout(PATIENCE, standby.owns()).await.expect("in time"));

    let mut committed = BTreeSet::new();
    for session in sessions {
        committed.extend(session.await.expect("no panic"));
    }
    tx.commit().await.expect("committed");
    committed.insert(last);
    while seen.len() < committed.len() {
        seen.insert(next(&mut ran).await);
    }
    assert_eq!(seen, committed, "each that was committed ran, and no other");
    let client = client(&standby);
    for id in &committed {
        client.wait_at_most(*id, PATIENCE).await.expect("it ends");
    }
    let mut watcher = connect(&url).await;
    let rows: Vec<(i64, String)> =
        sqlx::query_as("SELECT id, state FROM cabbage.jobs ORDER BY id").fetch_all(&mut watcher).await.expect("read");
    let ids: Vec<i64> = rows.iter().map(|(id, _)| *id).collect();
    assert_eq!(ids, committed.into_iter().collect::<Vec<_>>(), "each is there once");
    assert!(rows.iter().all(|(_, state)| state == "succeeded"), "{rows:?}");
    worker.abort();
    standby.shutdown().await.expect("it ends in order");
}
