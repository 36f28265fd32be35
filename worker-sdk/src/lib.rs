#![doc = include_str!("../README.md")]

mod address;
mod backoff;
mod client;
mod clock;
mod context;
mod error;
mod extensions;
mod failure;
mod handler;
mod middleware;
mod random;
mod retry;
mod session;
mod site;
mod task;
mod tasks;
#[cfg(feature = "testing")]
pub mod testing;
#[cfg(feature = "sqlx")]
pub mod transaction;
mod wire;
mod worker;

pub use cabbage_proto::v1;

pub use self::{
    address::Addresses,
    client::{
        Batch, BatchOutcome, Client, ClientBuilder, Defer, Deferred, JobBuilder, JobFilter, JobPage, LockMode,
        MissedTicks, NewJob, NewSchedule, QueueingConflict,
    },
    context::{Context, JobInfo},
    error::{Answer, ERROR_DOMAIN, Error},
    extensions::Extensions,
    failure::{BoxError, RetryDecision, TaskError, kind_of},
    middleware::{Attempt, Middleware, Next, Outcome},
    retry::{Retry, RetryPolicy, RetryStrategy},
    session::{CancelCause, Counters},
    task::{Task, TaskOptions},
    tasks::Tasks,
    worker::{BuildError, Status, Worker, WorkerBuilder, WorkerHandle},
};
