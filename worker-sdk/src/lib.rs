#![doc = include_str!("../README.md")]

mod address;
mod backoff;
mod client;
mod clock;
mod context;
mod error;
mod failure;
mod handler;
mod random;
mod retry;
mod session;
mod task;
mod wire;
mod worker;

pub use cabbage_proto::v1;

pub use self::{
    address::Addresses,
    client::{
        Batch, BatchOutcome, Client, ClientBuilder, Defer, Deferred, JobBuilder, JobFilter, JobPage, LockMode, NewJob,
        QueueingConflict,
    },
    context::{Context, JobInfo},
    error::{Answer, ERROR_DOMAIN, Error},
    failure::{BoxError, RetryDecision, TaskError, kind_of},
    handler::{Middleware, Outcome},
    retry::RetryPolicy,
    session::{CancelCause, Counters},
    task::{Task, TaskOptions},
    worker::{BuildError, Status, Worker, WorkerBuilder, WorkerHandle},
};
