//! `backup.md`: a dump of a cell that serves, and what comes of it.

use std::{path::PathBuf, process::Stdio, time::Duration};

use cabbage_broker::{
    Broker, BrokerArgs,
    args::{DatabaseArgs, IntervalArgs, Secret},
};
use cabbage_dev_postgres::{Binaries, Server, TestServer};
use cabbage_worker::{Client, Context, TaskError, Worker, v1::JobState};
use tokio::{process::Command, time::timeout};

use crate::{
    page::Page,
    scene::{Serving, noop},
    tool::not_run,
};

const PATIENCE: Duration = Duration::from_mins(1);

/// Where this is 1, the machine must have `pg_dump`.
const DEMANDED_BY: &str = "CABBAGE_TESTS_REQUIRE_PG_DUMP";

/// `pg_dump` and `pg_restore` for this server; `None`, said aloud, where the machine has none that are new enough.
async fn tools(server: &TestServer) -> Option<[PathBuf; 2]> {
    let binaries = server.server().map(Server::binaries);
    let beside = binaries.map(|binaries| ["pg_dump", "pg_restore"].map(|name| binaries.program(name)));
    if let Some(tools) = beside.filter(|tools| tools.iter().all(|tool| tool.is_file())) {
        return Some(tools);
    }
    let said = Command::new("pg_dump").arg("--version").stdin(Stdio::null()).output().await.ok();
    let said = said.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let major = said.split_whitespace().nth(2).and_then(|version| version.split('.').next()?.parse::<u32>().ok());
    if major >= Some(binaries.map_or(18, Binaries::major)) {
        return Some(["pg_dump", "pg_restore"].map(PathBuf::from));
    }
    not_run("pg_dump is missing, or older than the server", DEMANDED_BY);
    None
}

#[tokio::test]
async fn what_the_page_on_backups_says_can_be_typed() {
    let server = TestServer::shared(None).await.expect("a server");
    let Some([dump, restore]) = tools(server).await else { return };
    let (app, restored) = (server.database().await.expect("a database"), server.database().await.expect("a database"));
    // To the shell, the `&` of a URL would mean something.
    let page = Page::at("backup.md")
        .stand_in("postgres://queue@db.example.com/app", format!("'{app}'"))
        .stand_in("postgres://queue@db.example.com/restored", format!("'{restored}'"))
        .stand_in("pg_dump --format", format!("{} --format", dump.display()))
        .stand_in("pg_restore --no-owner", format!("{} --no-owner", restore.display()));
    page.run().await;
}

/// A broker that gives up on workers soon.
async fn broker_on(url: &str) -> Broker {
    let any = "127.0.0.1:0".parse().expect("an address");
    let Ok(secret) = url.parse::<Secret>();
    let database = DatabaseArgs { database_url: Some(secret), ..DatabaseArgs::default() };
    let intervals =
        IntervalArgs { beat_ms: 100, watchdog_ms: 400, grace_ms: 1_000, session_ms: 2_000, ..IntervalArgs::default() };
    let args = BrokerArgs { listen: any, admin_listen: any, database, intervals, ..BrokerArgs::default() };
    let broker = Broker::start(&args).await.expect("the broker starts");
    assert!(timeout(PATIENCE, broker.owns()).await.expect("in time"), "nobody else owns the cell");
    broker
}

async fn run(program: &PathBuf, args: &[&str]) {
    let mut command = Command::new(program);
    let output = command.args(args).stdin(Stdio::null()).kill_on_drop(true).output();
    let output = timeout(PATIENCE, output).await.expect("in time").expect("the program runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn what_ran_at_the_time_of_the_backup_is_given_out_again() {
    let server = TestServer::shared(None).await.expect("a server");
    let Some([dump, restore]) = tools(server).await else { return };
    let (old, new) = (server.database().await.expect("a database"), server.database().await.expect("a database"));
    let folder = tempfile::TempDir::new().expect("a folder");
    let file = folder.path().join("cabbage.dump").display().to_string();

    let broker = broker_on(old.url()).await;
    let address = broker.grpc_address().to_string();
    let for_ever = |(): (), _: Context| async { std::future::pending::<Result<(), TaskError>>().await };
    let worker = Worker::builder(&address).function("work", for_ever).build().expect("a worker");
    let handle = worker.handle();
    let running = tokio::spawn(worker.run());
    let job = Client::new(&address).expect("an address").defer_named("work", ()).await.expect("a job").job_id;
    let runs = timeout(PATIENCE, handle.wait_for(|status| status.running == 1));
    runs.await.expect("in time").expect("the worker runs");
    run(&dump, &["--format=custom", "--schema=cabbage", "--file", &file, old.url()]).await;
    broker.shutdown().await.expect("it stops");
    handle.stop_now();
    timeout(PATIENCE, running).await.expect("in time").expect("the worker ends");

    run(&restore, &["--no-owner", "--exit-on-error", "--dbname", new.url(), &file]).await;
    let broker = broker_on(new.url()).await;
    let address = broker.grpc_address().to_string();
    let worker = Serving::start(Worker::builder(&address).function("work", noop));
    let job = Client::new(&address).expect("an address").wait_at_most(job, PATIENCE).await.expect("its end");
    assert_eq!((job.state(), job.deliveries), (JobState::Succeeded, 2));
    worker.stop().await;
    broker.shutdown().await.expect("it stops");
}
