//! What runs around every attempt.

use std::{fmt, future::Future, ops::Deref, sync::Arc};

use bytes::Bytes;
use futures::future::BoxFuture;

use crate::{Extensions, JobInfo, TaskError, WorkerHandle, handler::Handler};

/// How an attempt ended: a result as JSON text (empty for none), or why there is none.
pub type Outcome = Result<Bytes, TaskError>;

/// Runs around every attempt: to measure, to open spans, to set up and clear away, to refuse.
///
/// An async function of an [`Attempt`] and a [`Next`] is one, and so is every type that implements this:
///
/// ```
/// use cabbage_worker::{Attempt, Middleware, Next, Outcome, TaskError};
///
/// /// A function around each attempt.
/// async fn log(attempt: Attempt, next: Next) -> Outcome {
///     let id = attempt.id();
///     println!("job {id} starts");
///     let outcome = next.run(attempt).await;
///     println!("job {id} ended well: {}", outcome.is_ok());
///     outcome
/// }
///
/// /// Who the job is for; the handler reads it with `ctx.extension::<Tenant>()`.
/// struct Tenant(String);
///
/// /// A type around each attempt: jobs of tenants that are not known here do not reach their handler.
/// struct Tenants(Vec<String>);
///
/// impl Middleware for Tenants {
///     async fn around(&self, mut attempt: Attempt, next: Next) -> Outcome {
///         match attempt.metadata().get("tenant") {
///             Some(tenant) if self.0.contains(tenant) => {
///                 let tenant = Tenant(tenant.clone());
///                 attempt.insert(tenant);
///                 next.run(attempt).await
///             }
///             _ => Err(TaskError::new("UnknownTenant", "the job names no tenant of ours").never_retry()),
///         }
///     }
/// }
/// # use cabbage_worker::Worker;
/// # async fn noop((): (), _: cabbage_worker::Context) -> Result<(), TaskError> { Ok(()) }
/// Worker::builder("127.0.0.1:7733").middleware(log).middleware(Tenants(vec!["acme".to_owned()])).function("noop", noop);
/// ```
///
/// The order: what is given to the worker ([`WorkerBuilder::middleware`](crate::WorkerBuilder::middleware)) is around
/// what is given to a task ([`TaskOptions::middleware`](crate::TaskOptions::middleware)), and of either, what is given
/// first is around what is given later. The retry strategy sees what comes out of the outermost one.
///
/// A panic of the handler comes out of [`Next::run`] as an error of kind `panic`; a panic of a middleware is one of the
/// attempt. When an attempt is aborted (after its timeout, or when the worker stops and its time is over), the future
/// of every middleware is dropped with it. A worker without middleware pays nothing for it.
pub trait Middleware: Send + Sync + 'static {
    /// Runs one attempt. What this answers is the attempt's outcome: an error that is swallowed here makes it a
    /// success, and without a call of `next` the handler never runs.
    fn around(&self, attempt: Attempt, next: Next) -> impl Future<Output = Outcome> + Send;
}

impl<F, Fut> Middleware for F
where
    F: Fn(Attempt, Next) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Outcome> + Send,
{
    fn around(&self, attempt: Attempt, next: Next) -> impl Future<Output = Outcome> + Send {
        self(attempt, next)
    }
}

/// A middleware of any type.
pub(crate) trait Layer: Send + Sync {
    fn around(&self, attempt: Attempt, next: Next) -> BoxFuture<'_, Outcome>;
}

impl<M: Middleware> Layer for M {
    fn around(&self, attempt: Attempt, next: Next) -> BoxFuture<'_, Outcome> {
        Box::pin(Middleware::around(self, attempt, next))
    }
}

/// One attempt on its way to the handler. Dereferences to its [`JobInfo`].
pub struct Attempt {
    pub(crate) job: Arc<JobInfo>,
    pub(crate) args: Bytes,
    pub(crate) extensions: Extensions,
}

impl Attempt {
    pub(crate) fn new(job: Arc<JobInfo>, args: Bytes) -> Self {
        let extensions = job.site().extensions.clone();
        Self { job, args, extensions }
    }

    /// What is known of the job, to keep or to hand on.
    pub fn job(&self) -> &Arc<JobInfo> {
        &self.job
    }

    /// The arguments, as JSON text. Empty: none.
    pub fn args(&self) -> &Bytes {
        &self.args
    }

    /// Gives the handler other arguments, as JSON text, in this attempt.
    pub fn set_args(&mut self, json: impl Into<Bytes>) {
        self.args = json.into();
    }

    /// Gives the handler, and the middleware further in, a value of this type, in this attempt.
    pub fn insert<T: Send + Sync + 'static>(&mut self, value: T) {
        self.extensions.insert(value);
    }

    /// The value of this type that the worker has, or a middleware further out gave.
    pub fn get<T: Send + Sync + 'static>(&self) -> Option<&T> {
        self.extensions.get()
    }

    /// The worker that runs the attempt: to stop it, for example. A stop waits for this attempt as for all others.
    pub fn worker(&self) -> &WorkerHandle {
        &self.job.site().worker
    }
}

impl Deref for Attempt {
    type Target = JobInfo;

    fn deref(&self) -> &JobInfo {
        &self.job
    }
}

impl fmt::Debug for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attempt").field("job", &self.job).finish_non_exhaustive()
    }
}

/// What lies further in: more middleware, and in the middle the handler.
pub struct Next {
    handler: Arc<dyn Handler>,
    passed: usize,
}

impl Next {
    /// Everything, from the outermost middleware on.
    pub(crate) fn all(handler: Arc<dyn Handler>) -> Self {
        Self { handler, passed: 0 }
    }

    /// Runs it.
    pub async fn run(mut self, attempt: Attempt) -> Outcome {
        let job = attempt.job.clone();
        match job.site().layers.get(self.passed) {
            Some(layer) => {
                self.passed += 1;
                layer.around(attempt, self).await
            }
            None => self.handler.run(attempt).await,
        }
    }
}

impl fmt::Debug for Next {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Next").field("passed", &self.passed).finish_non_exhaustive()
    }
}
