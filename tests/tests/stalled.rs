//! A worker that does not read its stream does not fill its broker's memory, however much credit it gave (C14).
//!
//! One test alone in its process, since what is measured is the process.

#[path = "broker/postgres.rs"]
mod postgres;

use std::{fs, time::Duration};

use bytes::Bytes;
use cabbage_proto::v1::{
    self, job_service_client::JobServiceClient, work_request::Frame as Up, worker_service_client::WorkerServiceClient,
};
use tokio::{sync::mpsc, time::Instant};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

/// Jobs, and the bytes of each one's arguments: 100 MiB.
const JOBS: usize = 1_600;
const ARGS_BYTES: usize = 64 << 10;

/// Jobs of one call.
const BATCH: usize = 50;

/// What the broker may keep of arguments while they wait.
const ARGUMENTS_MIB: usize = 8;

/// By how much the process may grow: windows of both ends of the connection, records of jobs, a commit's own buffers.
const GROWTH_MIB_MAX: u64 = 60;

const PATIENCE: Duration = Duration::from_mins(1);

/// The memory of this process, in MiB; `None` where the system does not tell.
fn memory_mib() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib >> 10)
}

async fn defer(jobs: &mut JobServiceClient<Channel>) -> i64 {
    let args = Bytes::from(format!("\"{}\"", "x".repeat(ARGS_BYTES - 2)));
    let spec = v1::JobSpec { task: "stalled".into(), args, ..v1::JobSpec::default() };
    let items = vec![v1::BatchItem { job: Some(spec), request_id: String::new() }; BATCH];
    let batch = v1::BatchDeferJobsRequest { items, ..Default::default() };
    let ids = jobs.batch_defer_jobs(batch).await.expect("a valid batch").into_inner().job_ids;
    ids.last().copied().expect("jobs")
}

/// Waits until a job runs, which its worker is not asked about.
async fn runs(jobs: &mut JobServiceClient<Channel>, job_id: i64) {
    let began = Instant::now();
    loop {
        let request = v1::GetJobRequest { job_id, ..Default::default() };
        let job = jobs.get_job(request).await.expect("the job exists").into_inner().job.expect("a job");
        if job.state() == v1::JobState::Running {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "{job:?}");
    }
}

#[tokio::test]
async fn a_worker_that_does_not_read_does_not_fill_the_memory_of_its_broker() {
    let (broker, _database) = postgres::start(|args| args.memory.memory_arguments_mib = ARGUMENTS_MIB).await;
    let endpoint = Channel::from_shared(format!("http://{}", broker.grpc_address())).expect("an address");
    let (channel, stalled) =
        (endpoint.connect().await.expect("it answers"), endpoint.connect().await.expect("it answers"));
    let mut jobs = JobServiceClient::new(channel);
    // Half of the jobs wait before the worker comes, and the other half come when it is there.
    let mut last = 0;
    for _ in 0..JOBS / 2 / BATCH {
        last = defer(&mut jobs).await;
    }
    let Some(before) = memory_mib() else { return println!("not run: this system does not tell a process its memory") };

    let (sender, requests) = mpsc::channel(4);
    let mut worker = WorkerServiceClient::new(stalled);
    let unread = worker.work(ReceiverStream::new(requests)).await.expect("the owner takes streams");
    let hello = v1::Hello {
        min_protocol: 1,
        max_protocol: 1,
        instance_id: "stalled".into(),
        tasks: vec![v1::TaskRegistration { task: "stalled".into(), max_concurrent: 0 }],
        capacity: Some(v1::Capacity { revision: 1, max_jobs: 100_000, max_bytes: 0, paused: false }),
        ..v1::Hello::default()
    };
    let hello = v1::WorkRequest { received_seq: 0, frame: Some(Up::Hello(hello)) };
    sender.send(hello).await.expect("the stream is open");
    runs(&mut jobs, last).await;
    let backlog = memory_mib().expect("as before").saturating_sub(before);
    for _ in 0..JOBS / 2 / BATCH {
        last = defer(&mut jobs).await;
    }
    runs(&mut jobs, last).await;
    let grown = memory_mib().expect("as before").saturating_sub(before);
    println!("{before} MiB; {backlog} MiB more with what had waited, {grown} MiB more with what came");
    assert!(grown < GROWTH_MIB_MAX, "the process grew by {grown} MiB");
    drop((sender, unread));
}
