//! Tasks: named handlers.

use std::{fmt, future::Future, sync::Arc};

use serde::{Serialize, de::DeserializeOwned};

use crate::{BoxError, Context, Middleware, NewJob, RetryStrategy, middleware::Layer};

/// A task that producers and workers share: its name, the types of its arguments and result, and its handler.
///
/// ```
/// use cabbage_worker::{Context, NewJob, RetryPolicy, Task, TaskError};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct SendMail { to: String }
///
/// impl Task for SendMail {
///     const NAME: &'static str = "send_mail";
///     type Args = Self;
///     type Output = ();
///     type Error = TaskError;
///     type State = ();
///
///     fn configure(job: NewJob, mail: &Self) -> NewJob {
///         job.queue("mail").lock(&mail.to).retry(RetryPolicy::attempts(5))
///     }
///
///     async fn run(mail: Self, ctx: Context) -> Result<(), TaskError> {
///         println!("{}: attempt {}", mail.to, ctx.attempt());
///         Ok(())
///     }
/// }
/// ```
///
/// Handlers run at least once (C3): they must bear to be run again after a crash.
pub trait Task: Send + Sync + 'static {
    /// The name of the task, 1 to 128 bytes. It names the task in the database, so it outlives the code.
    const NAME: &'static str;

    /// Names that the task had before. A worker runs jobs under these as well, so that what was deferred before a
    /// rename, and by producers that do not know of it yet, is not left waiting (C16).
    const ALIASES: &'static [&'static str] = &[];

    /// The arguments. They travel as JSON. `()` stands for none.
    type Args: Serialize + DeserializeOwned + Send + 'static;

    /// The result of a success. It travels as JSON, up to 256 KiB; `()` and what is written as `null` are no result.
    type Output: Serialize + Send + 'static;

    /// Why an attempt did not succeed: [`TaskError`](crate::TaskError), `anyhow::Error`, or any error of your own.
    /// The name of its type is the kind that retry policies see.
    type Error: Into<BoxError> + Send + 'static;

    /// The shared state that the handler needs; it must be given to the worker. `()` stands for none.
    type State: Send + Sync + 'static;

    /// The options of a job of this task, before the caller's own: its queue, its lock, its retry policy. They may
    /// depend on the arguments.
    fn configure(job: NewJob, args: &Self::Args) -> NewJob {
        let _ = args;
        job
    }

    /// How workers treat its jobs, unless they are told otherwise: its retry strategy, its middleware, its limits.
    fn options() -> TaskOptions {
        TaskOptions::new()
    }

    /// Runs one attempt.
    fn run(
        args: Self::Args,
        ctx: Context<Self::State>,
    ) -> impl Future<Output = Result<Self::Output, Self::Error>> + Send;
}

/// How a worker treats the jobs of one task.
#[derive(Clone, Default)]
#[must_use]
pub struct TaskOptions {
    pub(crate) max_concurrent: u32,
    pub(crate) cancel_when_orphaned: bool,
    pub(crate) aliases: Vec<String>,
    pub(crate) layers: Vec<Arc<dyn Layer>>,
    pub(crate) retry: Option<Arc<dyn RetryStrategy>>,
}

impl TaskOptions {
    /// No limit of its own, and handlers go on whatever happens to the session.
    pub fn new() -> Self {
        Self::default()
    }

    /// At most so many of its jobs run in this worker at once, under whichever of its names. 0: no limit of its own.
    pub fn max_concurrent(mut self, jobs: u32) -> Self {
        self.max_concurrent = jobs;
        self
    }

    /// Tells its handlers to stop ([`CancelCause::LeaseLost`](crate::CancelCause::LeaseLost)) once the worker has
    /// heard nothing of a broker for so long that its session must have ended: another worker may run the job then.
    pub fn cancel_when_orphaned(mut self) -> Self {
        self.cancel_when_orphaned = true;
        self
    }

    /// Another name of the task, such as the one that it had before. See [`Task::ALIASES`].
    pub fn alias(mut self, name: impl Into<String>) -> Self {
        self.aliases.push(name.into());
        self
    }

    /// Runs around every attempt of this task, inside of the worker's own middleware. What is given first is around
    /// what is given later.
    pub fn middleware(mut self, middleware: impl Middleware) -> Self {
        self.layers.push(Arc::new(middleware));
        self
    }

    /// Decides what follows a failed attempt of this task, in place of the worker's own strategy.
    pub fn retry(mut self, strategy: impl RetryStrategy) -> Self {
        self.retry = Some(Arc::new(strategy));
        self
    }
}

impl fmt::Debug for TaskOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskOptions")
            .field("max_concurrent", &self.max_concurrent)
            .field("cancel_when_orphaned", &self.cancel_when_orphaned)
            .field("aliases", &self.aliases)
            .finish_non_exhaustive()
    }
}
