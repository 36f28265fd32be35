//! Retention as clients see it: what is over goes, what is not over stays and can still be run.

#[path = "broker/memory.rs"]
mod memory;
#[path = "broker/postgres.rs"]
mod postgres;

use std::time::Duration;

use cabbage_broker::{
    Broker, BrokerArgs,
    args::{KeepFor, RetentionArgs},
};
use cabbage_worker::{Client, Context, NewJob, TaskError, Worker, WorkerHandle, v1::JobState};
use sqlx::{ConnectOptions as _, postgres::PgConnectOptions};
use tokio::{task::JoinHandle, time::timeout};

const PATIENCE: Duration = Duration::from_mins(1);

/// Successes go within a second or so, failures do not.
fn short(args: &mut BrokerArgs) {
    let hours = KeepFor::Time(Duration::from_hours(1));
    args.retention = RetentionArgs {
        keep_succeeded: KeepFor::Time(Duration::from_millis(400)),
        keep_failed: hours,
        keep_cancelled: hours,
        ..RetentionArgs::default()
    };
}

/// A worker of one task, which succeeds or fails as its arguments say.
fn work(broker: &Broker, task: &str) -> (WorkerHandle, JoinHandle<()>) {
    let worker = Worker::builder(broker.grpc_address().to_string()).function(task, run).build().expect("a worker");
    let handle = worker.handle();
    let running = tokio::spawn(async move {
        worker.run().await;
    });
    (handle, running)
}

async fn run(fails: bool, _: Context) -> Result<String, TaskError> {
    if fails { Err(TaskError::new("Told", "it was told to fail")) } else { Ok("done".to_owned()) }
}

async fn is_gone(client: &Client, job: i64) -> bool {
    match client.get(job).await {
        Ok(_) => false,
        Err(error) if error.reason() == Some("JOB_NOT_FOUND") => true,
        Err(error) => panic!("it is there or not: {error}"),
    }
}

/// Jobs of all kinds; then time passes.
async fn what_is_over_goes_and_what_is_not_stays(broker: &Broker) -> Client {
    let client = Client::new(broker.grpc_address().to_string()).expect("an address");
    let defer = async |task: &str, fails: bool| {
        client.defer_job(NewJob::named(task).args(fails)).send().await.expect("deferred").job_id
    };
    let (waits, fails, succeeds) = (defer("later", false).await, defer("now", true).await, defer("now", false).await);
    let (handle, running) = work(broker, "now");
    assert_eq!(client.wait(succeeds).await.expect("it ends").state(), JobState::Succeeded);
    assert_eq!(client.wait(fails).await.expect("it ends").state(), JobState::Failed);
    let gone = async { while !is_gone(&client, succeeds).await {} };
    timeout(PATIENCE, gone).await.expect("its time is over");

    let failed = client.get_full(fails).await.expect("it is kept for longer");
    assert_eq!((failed.state(), failed.attempts), (JobState::Failed, 1));
    assert_eq!(client.get(waits).await.expect("it is not over").state(), JobState::Waiting);
    let (late, later) = work(broker, "later");
    let ended = client.wait(waits).await.expect("it runs, however old it is");
    assert_eq!((ended.state(), ended.attempts), (JobState::Succeeded, 1));
    let gone = async { while !is_gone(&client, waits).await {} };
    timeout(PATIENCE, gone).await.expect("its time comes too");
    assert!(!is_gone(&client, fails).await);
    for (handle, running) in [(handle, running), (late, later)] {
        handle.stop();
        running.await.expect("it ends");
    }
    client
}

#[tokio::test]
async fn in_memory_what_is_over_goes_and_what_is_not_stays() {
    let broker = memory::start(short).await;
    what_is_over_goes_and_what_is_not_stays(&broker).await;
}

#[tokio::test]
async fn on_postgresql_whole_partitions_go() {
    let (broker, kept) = postgres::start(short).await;
    let client = what_is_over_goes_and_what_is_not_stays(&broker).await;
    let options: PgConnectOptions = kept.url().parse().expect("an address");
    let mut connection = options.options([("search_path", "cabbage")]).connect().await.expect("a connection");
    let left = "SELECT count(*) FROM pg_class WHERE relname IN ('job_0', 'outcome_0')";
    let dropped =
        async { while sqlx::query_scalar::<_, i64>(left).fetch_one(&mut connection).await.expect("read") > 0 {} };
    timeout(PATIENCE, dropped).await.expect("nobody uses it");
    // And jobs come and go as before.
    let (handle, running) = work(&broker, "now");
    let job = client.defer_job(NewJob::named("now").args(false)).send().await.expect("deferred").job_id;
    assert_eq!(client.wait(job).await.expect("it ends").state(), JobState::Succeeded);
    assert!(job >= 1 << 24, "its id is one of a later partition: {job}");
    handle.stop();
    running.await.expect("it ends");
}
