//! New jobs: what to run, how and when.

use std::{
    borrow::Borrow,
    future::{Future, IntoFuture},
    pin::Pin,
    time::{Duration, SystemTime},
};

use cabbage_proto::v1::{self, job_spec::Due};
use serde::Serialize;

use super::Client;
use crate::{Error, RetryPolicy, Task, random, tasks::in_namespace, wire};

/// How a lock orders its jobs (C9).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LockMode {
    /// Among the startable jobs of the lock, the one created first starts first.
    #[default]
    FirstStartable,
    /// The job starts only when every earlier job of its lock is final.
    Strict,
}

/// What a second defer with a taken queueing lock does (C10).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum QueueingConflict {
    /// It is refused with [`Error::AlreadyExists`], which names the first job.
    #[default]
    Reject,
    /// The waiting job is moved to the new due time (debounce).
    Reschedule,
    /// The waiting job takes the new arguments and the new due time; all else of it stays. One of another task is not
    /// replaced: that is refused as by [`Self::Reject`].
    Replace,
}

/// A job to create, with all its options. [`NewJob`] stands by itself, for a [`Batch`](super::Batch) or to be kept;
/// [`Defer`] knows its client and can be sent.
#[derive(Debug)]
#[must_use = "a job is created only when it is sent"]
pub struct JobBuilder<C = ()> {
    spec: v1::JobSpec,
    /// Named by the caller. A call of its own that has no name gets a random one.
    request_id: Option<String>,
    /// The arguments could not be written. Told when it is sent.
    broken: Option<serde_json::Error>,
    pub(crate) client: C,
}

/// A job that is not sent yet.
pub type NewJob = JobBuilder<()>;

/// A job that will be sent by its client: `.await` it, or call [`Defer::send`].
pub type Defer = JobBuilder<Client>;

/// A job that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Deferred {
    /// The id of the job.
    pub job_id: i64,
    /// The answer is that of an earlier call with the same request id (C2).
    pub repeated_call: bool,
    /// No job was created: this one carried the queueing lock, and was moved or replaced (C10).
    pub existing_job: bool,
}

impl NewJob {
    /// A job of a task, with the options of [`Task::configure`].
    pub fn of<T: Task>(args: impl Borrow<T::Args>) -> Self {
        let args = args.borrow();
        T::configure(Self::named(T::NAME).args(args), args)
    }

    /// A job of the task of this name, without arguments.
    pub fn named(task: impl Into<String>) -> Self {
        let spec = v1::JobSpec { task: task.into(), ..v1::JobSpec::default() };
        Self { spec, request_id: None, broken: None, client: () }
    }

    pub(crate) fn with<C>(self, client: C) -> JobBuilder<C> {
        let Self { spec, request_id, broken, client: () } = self;
        JobBuilder { spec, request_id, broken, client }
    }

    /// What will be sent, if the arguments could be written.
    pub fn into_spec(self) -> Result<v1::JobSpec, Error> {
        match self.broken {
            Some(error) => Err(Error::InvalidArguments(error)),
            None => Ok(self.spec),
        }
    }
}

impl From<v1::JobSpec> for NewJob {
    fn from(spec: v1::JobSpec) -> Self {
        Self { spec, ..Self::named(String::new()) }
    }
}

impl<C> JobBuilder<C> {
    /// The job by itself, and who would have sent it.
    #[cfg(feature = "sqlx")]
    pub(crate) fn without_client(self) -> (NewJob, C) {
        let Self { spec, request_id, broken, client } = self;
        (JobBuilder { spec, request_id, broken, client: () }, client)
    }

    /// The arguments: anything that serde writes as JSON, up to 256 KiB. `()` stands for none.
    pub fn args(mut self, args: impl Serialize) -> Self {
        match serde_json::to_vec(&args) {
            Ok(text) if text == b"null" => self.spec.args = bytes::Bytes::new(),
            Ok(text) => self.spec.args = text.into(),
            Err(error) => self.broken = Some(error),
        }
        self
    }

    /// The arguments, as JSON text. It is kept byte for byte; the broker checks it.
    pub fn args_json(mut self, text: impl Into<bytes::Bytes>) -> Self {
        self.spec.args = text.into();
        self
    }

    /// Puts the task's name into a namespace: `namespace:name`, as a worker registers it with
    /// [`WorkerBuilder::namespace`](crate::WorkerBuilder::namespace). Of nested ones, name the innermost first.
    pub fn namespace(mut self, namespace: impl AsRef<str>) -> Self {
        self.spec.task = in_namespace(namespace.as_ref(), &self.spec.task);
        self
    }

    /// The queue. Default: `default`.
    pub fn queue(mut self, queue: impl Into<String>) -> Self {
        self.spec.queue = queue.into();
        self
    }

    /// The priority, -100 to 100, higher first (C15). Default: 0.
    pub fn priority(mut self, priority: i32) -> Self {
        self.spec.priority = priority;
        self
    }

    /// Jobs that carry the same lock never run at the same time, in the whole cell (C9). Up to 255 bytes.
    pub fn lock(mut self, lock: impl Into<String>) -> Self {
        self.spec.lock = lock.into();
        self
    }

    /// How the lock orders its jobs.
    pub fn lock_mode(mut self, mode: LockMode) -> Self {
        let mode = match mode {
            LockMode::FirstStartable => v1::LockMode::FirstStartable,
            LockMode::Strict => v1::LockMode::Strict,
        };
        self.spec.set_lock_mode(mode);
        self
    }

    /// At most one job that never started carries the same value (C10). Up to 255 bytes.
    pub fn queueing_lock(mut self, lock: impl Into<String>) -> Self {
        self.spec.queueing_lock = lock.into();
        self
    }

    /// What to do where the queueing lock is taken. Without a queueing lock the broker takes nothing but
    /// [`QueueingConflict::Reject`], and answers [`Error::Refused`] to the rest.
    pub fn on_queueing_conflict(mut self, conflict: QueueingConflict) -> Self {
        let conflict = match conflict {
            QueueingConflict::Reject => v1::QueueingConflict::Reject,
            QueueingConflict::Reschedule => v1::QueueingConflict::Reschedule,
            QueueingConflict::Replace => v1::QueueingConflict::Replace,
        };
        self.spec.set_queueing_conflict(conflict);
        self
    }

    /// Due at this instant by the database's clock, and never before (C7). A `chrono::DateTime` will do.
    pub fn schedule_at(mut self, at: impl Into<SystemTime>) -> Self {
        self.spec.due = Some(Due::ScheduleAt(wire::timestamp(at.into())));
        self
    }

    /// Due so long after its creation.
    pub fn schedule_in(mut self, delay: Duration) -> Self {
        self.spec.due = Some(Due::ScheduleIn(wire::duration(delay)));
        self
    }

    /// If it has not started by then, it fails with the reason `DEADLINE` (C17).
    pub fn deadline(mut self, at: impl Into<SystemTime>) -> Self {
        self.spec.deadline = Some(wire::timestamp(at.into()));
        self
    }

    /// The time that one attempt may take (C8). Default: no limit.
    pub fn attempt_timeout(mut self, timeout: Duration) -> Self {
        self.spec.attempt_timeout = Some(wire::duration(timeout));
        self
    }

    /// What follows a failed attempt: a policy, or a number of attempts, the first included. Default: nothing, unless
    /// the worker has a strategy for the task. 0 counts as 1, and never as "without a limit", which is
    /// [`RetryPolicy::forever`].
    pub fn retry(mut self, policy: impl Into<RetryPolicy>) -> Self {
        self.spec.retry = Some(policy.into().into());
        self
    }

    /// A free label that is kept with the job. At most 32; keys up to 128 bytes, values up to 1 KiB.
    pub fn metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.spec.metadata.insert(key.into(), value.into());
        self
    }

    /// The W3C trace context of the defer, for the attempt's span to link to.
    pub fn traceparent(mut self, traceparent: impl Into<String>) -> Self {
        self.spec.traceparent = traceparent.into();
        self
    }

    /// The W3C trace state that belongs to the trace context.
    pub fn tracestate(mut self, tracestate: impl Into<String>) -> Self {
        self.spec.tracestate = tracestate.into();
        self
    }

    /// Names the call (C2): the same id within 24 h creates no second job, and answers as the first. 1 to 64 bytes.
    /// Default: a random one, so that the client can repeat the call.
    pub fn request_id(mut self, id: impl Into<String>) -> Self {
        self.request_id = Some(id.into());
        self
    }

    /// What will be sent in a call of its own, and who sends it.
    pub(super) fn into_item(self) -> Result<(v1::BatchItem, C), Error> {
        let Self { spec, request_id, broken, client } = self;
        if let Some(error) = broken {
            return Err(Error::InvalidArguments(error));
        }
        let request_id = request_id.unwrap_or_else(random::unique_name);
        Ok((v1::BatchItem { job: Some(spec), request_id }, client))
    }
}

impl Defer {
    /// Creates the job. Once this is `Ok`, it is committed (C1).
    pub async fn send(self) -> Result<Deferred, Error> {
        let (item, client) = self.into_item()?;
        client.calls.defer(item).await
    }
}

impl IntoFuture for Defer {
    type Output = Result<Deferred, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.send())
    }
}

impl Client {
    /// A job of a task; send it with `.await`.
    ///
    /// ```no_run
    /// # use cabbage_worker::{Client, Context, Task, TaskError};
    /// # struct Greet;
    /// # impl Task for Greet {
    /// #     const NAME: &'static str = "greet";
    /// #     type Args = String;
    /// #     type Output = ();
    /// #     type Error = TaskError;
    /// #     type State = ();
    /// #     async fn run(_: String, _: Context) -> Result<(), TaskError> { Ok(()) }
    /// # }
    /// # async fn run(client: Client) -> Result<(), cabbage_worker::Error> {
    /// let job = client.defer::<Greet>("world".to_owned()).queue("mail").priority(5).await?;
    /// println!("job {}", job.job_id);
    /// # Ok(())
    /// # }
    /// ```
    pub fn defer<T: Task>(&self, args: impl Borrow<T::Args>) -> Defer {
        NewJob::of::<T>(args).with(self.clone())
    }

    /// A job of the task of this name, with anything that serde writes as JSON for arguments.
    pub fn defer_named(&self, task: impl Into<String>, args: impl Serialize) -> Defer {
        NewJob::named(task).args(args).with(self.clone())
    }

    /// A job that was described before.
    pub fn defer_job(&self, job: impl Into<NewJob>) -> Defer {
        job.into().with(self.clone())
    }
}
