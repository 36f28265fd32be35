//! Jobs that applications defer in their own transactions, from the commit to the handler.

#[path = "broker/postgres.rs"]
mod postgres;

use std::{collections::BTreeSet, time::Duration};

use cabbage_broker::{
    Broker, BrokerArgs,
    args::{DatabaseArgs, Secret},
};
use cabbage_worker::{
    Batch, Client, Context, JobFilter, NewJob, RetryPolicy, TaskError, Worker, transaction,
    v1::{JobState, WaitingFor},
};
use sqlx::{
    AssertSqlSafe, ConnectOptions as _, Connection as _, PgConnection, Postgres, Transaction,
    postgres::PgConnectOptions,
};
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
    let (broker, kept) = postgres::start(|_| {}).await;
    let (tell, mut ran) = mpsc::unbounded_channel();
    let worker = Worker::builder(broker.grpc_address().to_string()).state(tell).function("run", run);
    let worker = tokio::spawn(worker.build().expect("a worker").run());
    let mut application = connect(kept.url()).await;

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
    let (broker, kept) = postgres::start(|_| {}).await;
    let client = client(&broker);
    let mut application = connect(kept.url()).await;
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
    let (broker, kept) = postgres::start(|_| {}).await;
    let client = client(&broker);
    let mut application = connect(kept.url()).await;
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
async fn every_retry_policy_that_sql_takes_is_one_that_the_owner_reads() {
    let (broker, kept) = postgres::start(|_| {}).await;
    let client = client(&broker);
    let mut application = connect(kept.url()).await;
    let policies = [
        ("4294967295", u32::MAX, 0),
        (r#"{"max_attempts": 4294967295, "wait": "100 years"}"#, u32::MAX, 36_500 * 86_400),
        (r#"{"max_attempts": 3, "wait": null, "only_kinds": null}"#, 3, 0),
        (r#"{"max_attempts": 0, "wait": "1 year", "exponential_factor": 2.5e1, "jitter": 1}"#, 0, 365 * 86_400),
    ];
    for (policy, max_attempts, wait) in policies {
        let sql = "SELECT cabbage.defer('unserved', retry => $1::text::jsonb)";
        let job: i64 = sqlx::query_scalar(sql).bind(policy).fetch_one(&mut application).await.expect("deferred");
        until(&client, job, JobState::Waiting, WaitingFor::Unserved).await;
        let retry = client.get(job).await.expect("shown").spec.and_then(|spec| spec.retry).expect("a policy");
        assert_eq!(retry.max_attempts, max_attempts, "{policy}");
        assert_eq!(retry.wait.map_or(0, |wait| wait.seconds), wait, "{policy}");
    }
    broker.shutdown().await.expect("it ends in order");
}

#[tokio::test]
async fn view_tells_when_a_job_is_due_that_waits_for_its_retry_or_was_moved() {
    let (broker, kept) = postgres::start(|_| {}).await;
    let client = client(&broker);
    let mut application = connect(kept.url()).await;
    let shown = async |application: &mut PgConnection, job: i64| {
        let sql = "SELECT state, extract(epoch FROM due_at - now())::bigint, cabbage.state(id)
            FROM cabbage.jobs WHERE id = $1";
        let row: (String, i64, String) =
            sqlx::query_as(sql).bind(job).fetch_one(application).await.expect("the view of jobs");
        assert_eq!(row.0, row.2, "the function says the same");
        // Between half an hour and an hour from now, or not in the future at all.
        (row.0, (1_800..=3_600).contains(&row.1))
    };
    let hour = Duration::from_hours(1);
    let retried = client.defer_job(NewJob::named("fail").retry(RetryPolicy::attempts(2).wait(hour))).await;
    let retried = retried.expect("deferred").job_id;
    let fail = async |_: serde_json::Value, _: Context| Err::<(), _>(TaskError::new("Wrong", "wrong"));
    let worker = Worker::builder(broker.grpc_address().to_string()).function("fail", fail);
    worker.build().expect("a worker").run_until_caught_up().await;
    until(&client, retried, JobState::Scheduled, WaitingFor::Unspecified).await;
    assert_eq!(shown(&mut application, retried).await, ("scheduled".to_owned(), true));

    let moved = client.defer_job(NewJob::named("unserved")).await.expect("deferred").job_id;
    assert_eq!(shown(&mut application, moved).await, ("active".to_owned(), false));
    for call in ["reschedule", "retry"] {
        let sql = format!("SELECT cabbage.{call}({moved}, schedule_in => '1 hour')");
        say(&mut application, &sql).await;
        until(&client, moved, JobState::Scheduled, WaitingFor::Unspecified).await;
        assert_eq!(shown(&mut application, moved).await, ("scheduled".to_owned(), true), "{call}");
        client.cancel(moved, "").await.expect("cancelled");
        assert_eq!(shown(&mut application, moved).await.0, "cancelled");
    }
    broker.shutdown().await.expect("it ends in order");
}

#[tokio::test]
async fn job_that_is_not_taken_in_is_shown_as_it_will_be() {
    let (broker, kept) = postgres::start(|_| {}).await;
    let client = client(&broker);
    let mut application = connect(kept.url()).await;
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

/// A part of a transaction that is kept, and one that is undone.
async fn savepoints(tx: &mut Transaction<'_, Postgres>, committed: &mut Vec<i64>) {
    let mut undone = tx.begin().await.expect("a savepoint");
    transaction::defer_job(&mut undone, NewJob::named("run")).await.expect("deferred");
    undone.rollback().await.expect("undone");
    let mut kept = tx.begin().await.expect("a savepoint");
    committed.push(transaction::defer_job(&mut kept, NewJob::named("run")).await.expect("deferred"));
    kept.commit().await.expect("released");
}

/// Says this as the application.
async fn say(application: &mut PgConnection, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(application).await.expect(sql);
}

/// One session: pairs of transactions that commit in the other order, some with savepoints, and some that are rolled
/// back, or prepared where the server does that.
async fn session(url: String, rounds: usize, prepares: bool) -> Vec<i64> {
    let (mut first, mut second) = (connect(&url).await, connect(&url).await);
    let mut committed = Vec::new();
    for round in 0..rounds {
        let mut early = first.begin().await.expect("begun");
        committed.push(transaction::defer_job(&mut early, NewJob::named("run")).await.expect("deferred"));
        if round % 3 == 0 {
            savepoints(&mut early, &mut committed).await;
        }
        let prepared = uuid::Uuid::new_v4();
        if round % 4 == 1 && prepares {
            // Its jobs are there once it is committed, whatever became of the session that prepared it.
            say(&mut second, "BEGIN; SET LOCAL cabbage.ring = off").await;
            committed.push(transaction::defer_job(&mut second, NewJob::named("run")).await.expect("deferred"));
            say(&mut second, &format!("PREPARE TRANSACTION '{prepared}'")).await;
            early.commit().await.expect("committed");
            say(&mut second, &format!("COMMIT PREPARED '{prepared}'")).await;
            continue;
        }
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
    let (broker, kept) = postgres::start(|_| {}).await;
    let any = "127.0.0.1:0".parse().expect("an address");
    let Ok(secret) = kept.url().parse::<Secret>();
    let database = DatabaseArgs { database_url: Some(secret), ..DatabaseArgs::default() };
    let args = BrokerArgs { listen: any, admin_listen: any, database, ..BrokerArgs::default() };
    let standby = Broker::start(&args).await.expect("it stands by");

    // One that stays open all the while.
    let mut open = connect(kept.url()).await;
    let mut tx = open.begin().await.expect("begun");
    let last = transaction::defer_job(&mut tx, NewJob::named("run")).await.expect("deferred");

    let most: String = sqlx::query_scalar("SELECT current_setting('max_prepared_transactions')")
        .fetch_one(&mut connect(kept.url()).await)
        .await
        .expect("read");
    let session = || tokio::spawn(session(kept.url().to_owned(), ROUNDS, most != "0"));
    let sessions: Vec<_> = (0..SESSIONS).map(|_| session()).collect();
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
    let mut watcher = connect(kept.url()).await;
    let rows: Vec<(i64, String)> =
        sqlx::query_as("SELECT id, state FROM cabbage.jobs ORDER BY id").fetch_all(&mut watcher).await.expect("read");
    let ids: Vec<i64> = rows.iter().map(|(id, _)| *id).collect();
    assert_eq!(ids, committed.into_iter().collect::<Vec<_>>(), "each is there once");
    assert!(rows.iter().all(|(_, state)| state == "succeeded"), "{rows:?}");
    worker.abort();
    standby.shutdown().await.expect("it ends in order");
}

/// Waits until a job says this of itself.
async fn until(client: &Client, job_id: i64, state: JobState, waiting_for: WaitingFor) {
    let reached = timeout(PATIENCE, async {
        loop {
            let job = client.get(job_id).await.expect("shown");
            if (job.state(), job.waiting_for()) == (state, waiting_for) {
                return;
            }
        }
    });
    reached.await.expect("in time");
}

#[tokio::test]
async fn role_of_an_operator_defers_and_asks_and_looks_and_touches_no_table() {
    let (broker, kept) = postgres::start(|_| {}).await;
    let client = client(&broker);
    let (mut owner, mut operator) = (connect(kept.url()).await, connect(kept.url()).await);
    // Roles belong to the whole server.
    let role = format!("operator_{}", uuid::Uuid::new_v4().simple());
    let sql = format!("CREATE ROLE {role}; SELECT cabbage.grant_operator('{role}')");
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut owner).await.expect("granted");
    // As that role from the log-in on, so that it is who asks.
    let sql = format!("SET SESSION AUTHORIZATION {role}");
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut operator).await.expect("it is that role");

    let new = NewJob::named("unserved").queue("mail");
    let job = transaction::defer_job(&mut operator, new).await.expect("deferred");
    until(&client, job, JobState::Waiting, WaitingFor::Unserved).await;
    for (call, state, waiting_for) in [
        ("pause('mail', 'too much')", JobState::Waiting, WaitingFor::Paused),
        ("resume('mail', 'enough')", JobState::Waiting, WaitingFor::Unserved),
        ("reschedule($1, schedule_in => '1 hour')", JobState::Scheduled, WaitingFor::Unspecified),
        ("cancel($1)", JobState::Cancelled, WaitingFor::Unspecified),
        ("retry($1)", JobState::Waiting, WaitingFor::Unserved),
    ] {
        let call = call.replace("$1", &job.to_string());
        let sql = format!("SELECT cabbage.{call}");
        sqlx::raw_sql(AssertSqlSafe(sql))
            .execute(&mut operator)
            .await
            .unwrap_or_else(|error| panic!("{call}: {error}"));
        until(&client, job, state, waiting_for).await;
    }
    let shown: (String, String) = sqlx::query_as("SELECT queue, state FROM cabbage.jobs WHERE id = $1")
        .bind(job)
        .fetch_one(&mut operator)
        .await
        .expect("the view of jobs");
    assert_eq!(shown, ("mail".to_owned(), "active".to_owned()));
    let verbs: Vec<(String, String, String)> =
        sqlx::query_as("SELECT verb, who, why FROM cabbage.verbs WHERE refused IS NULL ORDER BY number")
            .fetch_all(&mut operator)
            .await
            .expect("the view of verbs");
    let asked: Vec<&str> = verbs.iter().map(|(verb, ..)| verb.as_str()).collect();
    assert_eq!(asked, ["pause", "resume", "reschedule", "cancel", "retry"]);
    assert!(verbs.iter().all(|(_, who, _)| *who == role) && verbs[0].2 == "too much", "{verbs:?}");

    for sql in [
        "SELECT FROM cabbage.inbox",
        "INSERT INTO cabbage.inbox (x) VALUES ('1')",
        "SELECT FROM cabbage.job",
        "DELETE FROM cabbage.outcome",
        "SELECT FROM cabbage.success",
        "SELECT FROM cabbage.outcome_now",
        "SELECT FROM cabbage.log",
        "UPDATE cabbage.fence SET term = 7",
        "SELECT FROM cabbage.audit",
        "DELETE FROM cabbage.verbs",
        "SELECT nextval('cabbage.job_id')",
        "SELECT cabbage.ring()",
        "SELECT cabbage.write_verb('pause', NULL, 'mail', NULL, '')",
        "SELECT cabbage.grant_operator('pg_monitor')",
    ] {
        let error = sqlx::raw_sql(sql).execute(&mut operator).await.expect_err(sql);
        let error = error.into_database_error().expect("the server refuses it");
        assert_eq!(error.code().as_deref(), Some("42501"), "{sql}: {error}");
    }
    operator.close().await.expect("it ends");
    let sql = format!("DROP OWNED BY {role}; DROP ROLE {role}");
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut owner).await.expect("the role goes");
    broker.shutdown().await.expect("it ends in order");
}
