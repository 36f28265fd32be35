//! Tasks: named handlers.

use std::future::Future;

use serde::{Serialize, de::DeserializeOwned};

use crate::{BoxError, Context, NewJob};

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

    /// Runs one attempt.
    fn run(
        args: Self::Args,
        ctx: Context<Self::State>,
    ) -> impl Future<Output = Result<Self::Output, Self::Error>> + Send;
}

/// How a worker treats the jobs of one task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct TaskOptions {
    pub(crate) max_concurrent: u32,
    pub(crate) cancel_when_orphaned: bool,
}

impl TaskOptions {
    /// No limit of its own, and handlers go on whatever happens to the session.
    pub fn new() -> Self {
        Self::default()
    }

    /// At most so many of its jobs are with this worker at once. 0: no limit of its own.
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
}
