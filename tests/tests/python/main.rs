//! Another language, with nothing but stock tools, can do all that a client and a worker do: the programs of
//! `clients/python` against a real broker. And it defers jobs in transactions of its own.

#[path = "../broker/memory.rs"]
mod memory;
#[path = "../broker/postgres.rs"]
mod postgres;
mod room;
#[path = "../optional/tool.rs"]
mod tool;
mod transactions;

use std::{
    process::{ExitStatus, Output, Stdio},
    time::Duration,
};

use cabbage_broker::Broker;
use room::Room;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Child,
    time::timeout,
};

/// Nothing here takes this long unless it is broken.
const PATIENCE: Duration = Duration::from_mins(1);

/// The programs, and the broker that they talk to.
struct Scene {
    room: Room,
    broker: Broker,
}

impl Scene {
    /// Runs the client to its end.
    async fn client(&self, args: &[&str]) -> Output {
        let mut client = self.room.program("client.py");
        client.arg(self.broker.grpc_address().to_string()).args(args);
        timeout(PATIENCE, client.output()).await.expect("in time").expect("the client runs")
    }

    /// What a client that ends well prints.
    async fn told(&self, args: &[&str]) -> String {
        let output = self.client(args).await;
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    }

    async fn defer(&self, task: &str, args: &Value) -> String {
        self.told(&["defer", task, &args.to_string()]).await.trim().to_owned()
    }

    /// How a job ended, and whether the client calls that a success.
    async fn wait(&self, job: &str) -> (Value, bool) {
        let output = self.client(&["wait", job]).await;
        let told = serde_json::from_slice(&output.stdout);
        let told = told.unwrap_or_else(|_| panic!("wait: {}", String::from_utf8_lossy(&output.stderr)));
        (told, output.status.success())
    }

    /// The state of a job of a task, as the list shows it.
    async fn listed(&self, task: &str, job: &str) -> String {
        let lines = self.told(&["list", task]).await;
        let job: i64 = job.parse().expect("an id");
        let mut jobs = lines.lines().map(|line| serde_json::from_str::<Value>(line).expect("a line of JSON"));
        let found = jobs.find(|listed| listed["id"] == job).expect("the job is listed");
        assert_eq!(found["task"], task);
        found["state"].as_str().expect("a state").to_owned()
    }

    /// A worker that was welcomed.
    async fn worker(&self) -> Child {
        let mut worker = self.room.program("worker.py");
        worker.arg(self.broker.grpc_address().to_string()).stdout(Stdio::piped());
        let mut worker = worker.spawn().expect("the worker runs");
        let mut lines = BufReader::new(worker.stdout.take().expect("a pipe")).lines();
        let first = timeout(PATIENCE, lines.next_line()).await.expect("in time").expect("text");
        assert_eq!(first.as_deref(), Some("ready"));
        worker
    }

    async fn client_and_worker_do_it_all(&self) {
        let sum = self.defer("python.add", &json!({"a": 2, "b": 3})).await;
        assert_eq!(self.listed("python.add", &sum).await, "JOB_STATE_WAITING");
        let worker = self.worker().await;
        let succeeded = json!({"state": "JOB_STATE_SUCCEEDED", "attempts": 1, "result": 5});
        assert_eq!(self.wait(&sum).await, (succeeded, true));
        assert_eq!(self.listed("python.add", &sum).await, "JOB_STATE_SUCCEEDED");

        let bad = self.defer("python.add", &json!({"a": 2})).await;
        let failure = json!({"kind": "KeyError", "message": "'b'"});
        let failed = json!({"state": "JOB_STATE_FAILED", "attempts": 1, "failure": failure});
        assert_eq!(self.wait(&bad).await, (failed, false));

        let unknown = self.client(&["wait", "987654321"]).await;
        assert!(!unknown.status.success());
        let why = String::from_utf8_lossy(&unknown.stderr);
        assert!(why.starts_with("JOB_NOT_FOUND: "), "{why}");

        // What runs when the worker is told to stop is finished, and recorded.
        let nap = self.defer("python.nap", &json!({"seconds": 2})).await;
        while self.listed("python.nap", &nap).await != "JOB_STATE_RUNNING" {}
        assert_eq!(terminate(worker).await.code(), Some(0));
        assert_eq!(self.wait(&nap).await, (json!({"state": "JOB_STATE_SUCCEEDED", "attempts": 1}), true));
    }
}

async fn terminate(mut worker: Child) -> ExitStatus {
    let pid = worker.id().and_then(|id| Pid::from_raw(id.cast_signed())).expect("it runs");
    kill_process(pid, Signal::TERM).expect("it is told");
    timeout(PATIENCE, worker.wait()).await.expect("in time").expect("it ends")
}

#[tokio::test]
async fn python_defers_runs_and_waits_on_postgresql() {
    let Some(room) = Room::open() else { return };
    let (broker, _database) = postgres::start(|_| {}).await;
    let scene = Scene { room, broker };
    timeout(2 * PATIENCE, scene.client_and_worker_do_it_all()).await.expect("in time");
    scene.broker.shutdown().await.expect("it stops in order");
}

#[tokio::test]
async fn python_defers_runs_and_waits_in_memory() {
    let Some(room) = Room::open() else { return };
    let scene = Scene { room, broker: memory::start(|_| {}).await };
    timeout(2 * PATIENCE, scene.client_and_worker_do_it_all()).await.expect("in time");
    scene.broker.shutdown().await.expect("it stops in order");
}
