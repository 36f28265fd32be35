//! Callers that defer as fast as they are answered, by the SDK's client or by the generated stub.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context as _;
use cabbage_proto::v1::{self, job_service_client::JobServiceClient};
use cabbage_worker::{Batch, Client, NewJob};
use clap::Args;
use hdrhistogram::Histogram;
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};
use uuid::Uuid;

use super::{progress::Progress, times::Times, worker::TASK};

/// How long a call may take.
const PATIENCE: Duration = Duration::from_mins(2);

/// Who defers, and how.
#[derive(Args, Clone, Copy, Debug)]
pub(super) struct CallerArgs {
    /// How many callers defer at once, over one connection
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(super) callers: u32,
    /// How many jobs each call has. One: single calls
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(super) batch: u32,
    /// Call the generated stub instead of the SDK's client
    #[arg(long)]
    pub(super) stock: bool,
    /// Give the calls of the stub no request ids, so that they must not be repeated (C2)
    #[arg(long, requires = "stock")]
    pub(super) no_request_ids: bool,
}

/// What all of them did.
pub(super) struct Called {
    pub(super) ids: Vec<i64>,
    pub(super) took: Duration,
    pub(super) times: Times,
}

/// One of them.
#[derive(Clone)]
enum Caller {
    Sdk(Client),
    Stock { stub: JobServiceClient<Channel>, request_ids: bool },
}

impl CallerArgs {
    /// Defers so many jobs in this queue, with these arguments.
    pub(super) async fn defer(&self, address: &str, queue: &str, args: &str, jobs: u32) -> anyhow::Result<Called> {
        let caller = self.caller(address).await?;
        let progress = Arc::new(Progress::of("deferring", u64::from(jobs)));
        let next = Arc::new(AtomicU32::new(0));
        let start = Instant::now();
        let mut callers: JoinSet<anyhow::Result<(Vec<i64>, Histogram<u64>)>> = JoinSet::new();
        for _ in 0..self.callers {
            let (caller, next, progress, batch) =
                (caller.clone(), Arc::clone(&next), Arc::clone(&progress), self.batch);
            let job = NewJob::named(TASK).queue(queue).args_json(args.to_owned()).into_spec()?;
            callers.spawn(async move {
                let (mut ids, mut times) = (Vec::new(), Histogram::new(3)?);
                loop {
                    let first = next.fetch_add(batch, Ordering::Relaxed);
                    let count = jobs.saturating_sub(first).min(batch);
                    if count == 0 {
                        return Ok((ids, times));
                    }
                    let begin = Instant::now();
                    caller.call(&job, count, &mut ids).await?;
                    times.record(u64::try_from(begin.elapsed().as_nanos())?)?;
                    progress.more(u64::from(count));
                }
            });
        }
        let (mut ids, mut times) = (Vec::with_capacity(jobs as usize), Histogram::<u64>::new(3)?);
        while let Some(caller) = callers.join_next().await {
            let (more, took) = caller??;
            ids.extend(more);
            times.add(took)?;
        }
        Ok(Called { ids, took: start.elapsed(), times: Times::of(&times) })
    }

    async fn caller(&self, address: &str) -> anyhow::Result<Caller> {
        if self.stock {
            let first = address.split(',').next().unwrap_or(address).to_owned();
            let channel = Endpoint::from_shared(first)?.connect().await.context("cannot connect to the broker")?;
            return Ok(Caller::Stock { stub: JobServiceClient::new(channel), request_ids: !self.no_request_ids });
        }
        Ok(Caller::Sdk(Client::builder(address).timeout(PATIENCE).build()?))
    }

    /// What they do, for people.
    pub(super) fn describe(&self, jobs: u32, args_bytes: usize) -> String {
        let Self { callers, batch, stock, no_request_ids } = self;
        let calls = if *batch == 1 { "single calls".to_owned() } else { format!("batches of {batch}") };
        let by = match (stock, no_request_ids) {
            (false, _) => "the SDK's client",
            (true, false) => "the generated stub",
            (true, true) => "the generated stub without request ids",
        };
        format!("{jobs} jobs of {args_bytes} bytes in {calls} of {callers} callers on one channel, by {by}")
    }
}

impl Caller {
    /// One call with so many jobs.
    async fn call(&self, job: &v1::JobSpec, count: u32, ids: &mut Vec<i64>) -> anyhow::Result<()> {
        let before = ids.len();
        match self {
            Self::Sdk(client) if count == 1 => ids.push(client.defer_job(NewJob::from(job.clone())).await?.job_id),
            Self::Sdk(client) => {
                let batch: Batch = (0..count).map(|_| NewJob::from(job.clone())).collect();
                ids.extend(client.defer_all(batch).await?);
            }
            Self::Stock { stub, request_ids } => {
                let mut stub = stub.clone();
                let request_id = if *request_ids { Uuid::new_v4().to_string() } else { String::new() };
                if count == 1 {
                    let request = v1::DeferJobRequest { job: Some(job.clone()), request_id };
                    ids.push(stub.defer_job(request).await?.into_inner().job_id);
                } else {
                    let item = || v1::BatchItem { job: Some(job.clone()), request_id: String::new() };
                    let items = (0..count).map(|_| item()).collect();
                    let request = v1::BatchDeferJobsRequest { items, request_id, independent: false };
                    ids.extend(stub.batch_defer_jobs(request).await?.into_inner().job_ids);
                }
            }
        }
        anyhow::ensure!(ids.len() - before == count as usize, "a call for {count} jobs was answered with fewer");
        Ok(())
    }
}
