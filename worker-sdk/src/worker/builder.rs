//! Describes a worker: its tasks, their state, its limits.

use std::{
    any::{Any, TypeId, type_name},
    collections::HashMap,
    future::Future,
    sync::Arc,
    time::Duration,
};

use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    Status, Wishes, Worker, WorkerHandle,
    driver::{Driver, Setup},
};
use crate::{
    BoxError, Context, Error, Middleware, Task, TaskOptions,
    address::{bearer, endpoints},
    handler::{Handler, TypedHandler},
    random,
    session::{Config, MAX_CREDIT_JOBS, TaskLimits},
    wire,
};

const DEFAULT_CONCURRENCY: usize = 100;
const DEFAULT_DRAIN: Duration = Duration::from_secs(30);
const MAX_NAME_BYTES: usize = 128;

/// Why a worker cannot be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// An address or a credential is malformed.
    #[error(transparent)]
    Address(#[from] Error),
    /// No task was registered.
    #[error("a worker without tasks would never be given a job")]
    NoTasks,
    /// A name has two handlers.
    #[error("task {0:?} was registered twice")]
    DuplicateTask(String),
    /// A name is empty, longer than 128 bytes, or has control characters.
    #[error("{0:?} is no name: it needs 1 to 128 bytes without control characters")]
    InvalidName(String),
    /// A handler wants a state that was not given.
    #[error("task {task:?} needs a state of type {state}, which was not given")]
    MissingState {
        /// The task.
        task: String,
        /// The type of the state.
        state: &'static str,
    },
}

type States = HashMap<TypeId, Arc<dyn Any + Send + Sync>>;
type MakeHandler = Box<dyn FnOnce(&States) -> Result<Arc<dyn Handler>, BuildError>>;

/// Describes a worker; see [`Worker::builder`](super::Worker::builder).
#[must_use]
pub struct WorkerBuilder {
    addresses: Vec<String>,
    name: String,
    queues: Vec<String>,
    labels: HashMap<String, String>,
    states: States,
    tasks: Vec<(TaskLimits, MakeHandler)>,
    middleware: Option<Arc<dyn Middleware>>,
    concurrency: usize,
    prefetch: usize,
    max_bytes: u64,
    drain: Duration,
    signals: bool,
    shutdown: Option<CancellationToken>,
    bearer: Option<String>,
}

impl WorkerBuilder {
    pub(super) fn new(addresses: Vec<String>) -> Self {
        let unit: Arc<dyn Any + Send + Sync> = Arc::new(());
        Self {
            addresses,
            name: format!("pid {}", std::process::id()),
            queues: Vec::new(),
            labels: HashMap::new(),
            states: HashMap::from([(TypeId::of::<()>(), unit)]),
            tasks: Vec::new(),
            middleware: None,
            concurrency: DEFAULT_CONCURRENCY,
            prefetch: 0,
            max_bytes: 0,
            drain: DEFAULT_DRAIN,
            signals: false,
            shutdown: None,
            bearer: None,
        }
    }

    /// A name for people. Default: the process id.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Serves only these queues. Default: every queue.
    pub fn queues<I: IntoIterator<Item: Into<String>>>(mut self, queues: I) -> Self {
        self.queues = queues.into_iter().map(Into::into).collect();
        self
    }

    /// A free label, shown to operators. At most 32, of 128 bytes each.
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(key.into(), value.into());
        self
    }

    /// A state that handlers share, found by its type: [`Task::State`], or the `S` of a function's `Context<S>`.
    pub fn state<S: Send + Sync + 'static>(self, state: S) -> Self {
        self.shared_state(Arc::new(state))
    }

    /// The same, of a state that is shared already.
    pub fn shared_state<S: Send + Sync + 'static>(mut self, state: Arc<S>) -> Self {
        self.states.insert(TypeId::of::<S>(), state);
        self
    }

    /// Registers a task.
    pub fn task<T: Task>(self) -> Self {
        self.task_with::<T>(TaskOptions::new())
    }

    /// Registers a task, with options.
    pub fn task_with<T: Task>(self, options: TaskOptions) -> Self {
        self.function_with(T::NAME, options, T::run)
    }

    /// Registers an async function under a name. Its first argument is what the job's arguments are read into.
    pub fn function<F, A, S, Fut, O, E>(self, name: impl Into<String>, function: F) -> Self
    where
        F: Fn(A, Context<S>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<O, E>> + Send,
        A: DeserializeOwned + Send + 'static,
        S: Send + Sync + 'static,
        O: Serialize + Send + 'static,
        E: Into<BoxError> + Send + 'static,
    {
        self.function_with(name, TaskOptions::new(), function)
    }

    /// Registers an async function under a name, with options.
    pub fn function_with<F, A, S, Fut, O, E>(self, name: impl Into<String>, options: TaskOptions, function: F) -> Self
    where
        F: Fn(A, Context<S>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<O, E>> + Send,
        A: DeserializeOwned + Send + 'static,
        S: Send + Sync + 'static,
        O: Serialize + Send + 'static,
        E: Into<BoxError> + Send + 'static,
    {
        self.register(name.into(), options, false, function)
    }

    /// Registers a function that blocks its thread; it runs on the runtime's blocking pool. It cannot be aborted, so
    /// a long one should look at [`JobInfo::is_cancelled`](crate::JobInfo::is_cancelled) now and then.
    pub fn blocking<F, A, S, O, E>(self, name: impl Into<String>, function: F) -> Self
    where
        F: Fn(A, Context<S>) -> Result<O, E> + Send + Sync + 'static,
        A: DeserializeOwned + Send + 'static,
        S: Send + Sync + 'static,
        O: Serialize + Send + 'static,
        E: Into<BoxError> + Send + 'static,
    {
        self.blocking_with(name, TaskOptions::new(), function)
    }

    /// Registers a function that blocks its thread, with options.
    pub fn blocking_with<F, A, S, O, E>(self, name: impl Into<String>, options: TaskOptions, function: F) -> Self
    where
        F: Fn(A, Context<S>) -> Result<O, E> + Send + Sync + 'static,
        A: DeserializeOwned + Send + 'static,
        S: Send + Sync + 'static,
        O: Serialize + Send + 'static,
        E: Into<BoxError> + Send + 'static,
    {
        let function = Arc::new(function);
        self.register(name.into(), options, true, move |args: A, ctx: Context<S>| {
            let function = function.clone();
            async move {
                match tokio::task::spawn_blocking(move || function(args, ctx)).await {
                    Ok(outcome) => outcome,
                    Err(error) => match error.try_into_panic() {
                        Ok(panic) => std::panic::resume_unwind(panic),
                        // The runtime is shutting down; whoever waited for this is gone as well.
                        Err(_) => std::future::pending().await,
                    },
                }
            }
        })
    }

    fn register<F, A, S, Fut, O, E>(mut self, name: String, options: TaskOptions, blocking: bool, function: F) -> Self
    where
        F: Fn(A, Context<S>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<O, E>> + Send,
        A: DeserializeOwned + Send + 'static,
        S: Send + Sync + 'static,
        O: Serialize + Send + 'static,
        E: Into<BoxError> + Send + 'static,
    {
        let task = name.clone();
        let make: MakeHandler = Box::new(move |states| {
            let state = states.get(&TypeId::of::<S>()).and_then(|state| state.clone().downcast::<S>().ok());
            let state = state.ok_or_else(|| BuildError::MissingState { task, state: type_name::<S>() })?;
            Ok(Arc::new(TypedHandler::new(function, state)))
        });
        let limits = TaskLimits {
            name,
            max_concurrent: options.max_concurrent,
            cancel_when_orphaned: options.cancel_when_orphaned,
            blocking,
        };
        self.tasks.push((limits, make));
        self
    }

    /// Runs around every attempt. The last one that is given is the outermost.
    pub fn middleware(mut self, middleware: impl Middleware) -> Self {
        self.middleware = Some(match self.middleware.take() {
            None => Arc::new(middleware),
            Some(inner) => Arc::new(Stack { outer: middleware, inner }),
        });
        self
    }

    /// At most so many handlers run at once. Default: 100.
    pub fn concurrency(mut self, handlers: usize) -> Self {
        self.concurrency = handlers.clamp(1, MAX_CREDIT_JOBS);
        self
    }

    /// So many jobs more may be here, unstarted, ready for the moment when a handler is done. For quick handlers:
    /// a commit's time of work, some 2,000, keeps them busy. For slow ones: 0, the default, since a job that waits
    /// here cannot run elsewhere.
    pub fn prefetch(mut self, jobs: usize) -> Self {
        self.prefetch = jobs.min(MAX_CREDIT_JOBS);
        self
    }

    /// At most so many bytes of arguments are here at once. 0, the default: no limit.
    pub fn max_outstanding_bytes(mut self, bytes: u64) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// How long running handlers may take to finish after a stop. Default: 30 s.
    pub fn drain_timeout(mut self, drain: Duration) -> Self {
        self.drain = wire::bounded(drain);
        self
    }

    /// Stops on SIGTERM and SIGINT; at once on the second one. Default: signals are left alone.
    pub fn handle_signals(mut self) -> Self {
        self.signals = true;
        self
    }

    /// Stops when this token is cancelled.
    pub fn stop_on(mut self, token: CancellationToken) -> Self {
        self.shutdown = Some(token);
        self
    }

    /// Shows this token to the brokers.
    pub fn bearer_token(mut self, token: impl Into<String>) -> Self {
        self.bearer = Some(token.into());
        self
    }

    /// Checks everything. It connects only when it runs.
    pub fn build(self) -> Result<Worker, BuildError> {
        let endpoints = endpoints(&self.addresses)?;
        let bearer = self.bearer.as_deref().map(bearer).transpose()?;
        if self.tasks.is_empty() {
            return Err(BuildError::NoTasks);
        }
        let mut tasks: Vec<TaskLimits> = Vec::with_capacity(self.tasks.len());
        let mut handlers = Vec::with_capacity(self.tasks.len());
        for (limits, make) in self.tasks {
            check_name(&limits.name)?;
            if tasks.iter().any(|known| known.name == limits.name) {
                return Err(BuildError::DuplicateTask(limits.name));
            }
            handlers.push(make(&self.states)?);
            tasks.push(limits);
        }
        for queue in &self.queues {
            check_name(queue)?;
        }
        let config = Config {
            instance_id: random::unique_name(),
            worker_name: self.name,
            queues: self.queues,
            tasks,
            labels: self.labels,
            concurrency: self.concurrency,
            prefetch: self.prefetch,
            max_bytes: self.max_bytes,
            addresses: endpoints.len(),
            until_caught_up: false,
            seed: random::seed(),
        };
        let (wishes, wished) = watch::channel(Wishes::default());
        let (told, status) = watch::channel(Status::default());
        let handle = WorkerHandle { wishes, status };
        let driver = Driver::new(Setup {
            config,
            endpoints,
            bearer,
            handlers,
            middleware: self.middleware,
            drain: self.drain,
            signals: self.signals,
            shutdown: self.shutdown,
            handle: handle.clone(),
            wished,
            told,
        });
        Ok(Worker { driver, handle })
    }
}

impl std::fmt::Debug for WorkerBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WorkerBuilder")
            .field("addresses", &self.addresses)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

fn check_name(name: &str) -> Result<(), BuildError> {
    if name.is_empty() || name.len() > MAX_NAME_BYTES || name.chars().any(char::is_control) {
        return Err(BuildError::InvalidName(name.to_owned()));
    }
    Ok(())
}

/// One middleware around another.
struct Stack<M> {
    outer: M,
    inner: Arc<dyn Middleware>,
}

impl<M: Middleware> Middleware for Stack<M> {
    fn around(
        &self,
        job: Arc<crate::JobInfo>,
        attempt: futures::future::BoxFuture<'static, crate::Outcome>,
    ) -> futures::future::BoxFuture<'static, crate::Outcome> {
        let inner = self.inner.around(job.clone(), attempt);
        self.outer.around(job, inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TaskError;

    async fn noop((): (), _: Context) -> Result<(), TaskError> {
        Ok(())
    }

    async fn counted((): (), ctx: Context<u64>) -> Result<u64, TaskError> {
        Ok(*ctx.state())
    }

    fn builder() -> WorkerBuilder {
        Worker::builder("127.0.0.1:1")
    }

    #[test]
    fn a_worker_needs_tasks_and_each_name_once() {
        assert!(matches!(builder().build(), Err(BuildError::NoTasks)));
        let twice = builder().function("a", noop).function("a", noop).build();
        assert!(matches!(twice, Err(BuildError::DuplicateTask(name)) if name == "a"));
        assert!(matches!(builder().function("a\n", noop).build(), Err(BuildError::InvalidName(_))));
        assert!(matches!(Worker::builder("").function("a", noop).build(), Err(BuildError::Address(_))));
    }

    #[test]
    fn a_state_that_a_handler_needs_must_be_given() {
        let missing = builder().function("c", counted).build();
        assert!(matches!(missing, Err(BuildError::MissingState { task, .. }) if task == "c"));
        assert!(builder().function("c", counted).state(7_u64).build().is_ok());
        let blocking = |(): (), ctx: Context<u64>| Ok::<_, TaskError>(*ctx.state());
        assert!(builder().blocking("b", blocking).shared_state(Arc::new(7_u64)).build().is_ok());
    }
}
