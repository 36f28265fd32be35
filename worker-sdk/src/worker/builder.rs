//! Describes a worker: its tasks, their state, its limits.

use std::{
    any::{Any, TypeId},
    collections::{HashMap, HashSet},
    future::Future,
    sync::Arc,
    time::Duration,
};

use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    Status, Wishes, Worker, WorkerHandle,
    driver::{Driver, Setup, TaskSetup},
    schedules::Schedules,
};
use crate::{
    BoxError, Client, Context, Error, Extensions, Middleware, NewSchedule, RetryStrategy, Task, TaskOptions, Tasks,
    address::{bearer, endpoints},
    middleware::Layer,
    random,
    session::{Config, MAX_CREDIT_JOBS},
    site::Site,
    tasks::States,
    wire,
};

const DEFAULT_CONCURRENCY: usize = 100;
const DEFAULT_DRAIN: Duration = Duration::from_secs(30);
const MAX_NAME_BYTES: usize = 128;
/// How many tasks a worker may tell a broker of, aliases included: the protocol's limit.
const MAX_TASK_NAMES: usize = 1_000;

/// Why a worker cannot be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// An address or a credential is malformed, or the arguments of a schedule's job cannot be written.
    #[error(transparent)]
    Address(#[from] Error),
    /// No task was registered.
    #[error("a worker without tasks would never be given a job")]
    NoTasks,
    /// More names of tasks than one worker may serve.
    #[error(
        "{0} names of tasks and aliases are too many: a worker may serve {MAX_TASK_NAMES}; divide them among workers"
    )]
    TooManyTasks(usize),
    /// A name, or an alias, has two handlers.
    #[error("task {0:?} was registered twice, as a name or an alias; put one of them into another namespace")]
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

/// Describes a worker; see [`Worker::builder`](super::Worker::builder).
#[must_use]
pub struct WorkerBuilder {
    addresses: Vec<String>,
    name: String,
    queues: Vec<String>,
    labels: HashMap<String, String>,
    states: States,
    extensions: Extensions,
    tasks: Tasks,
    layers: Vec<Arc<dyn Layer>>,
    retry: Option<Arc<dyn RetryStrategy>>,
    concurrency: usize,
    prefetch: usize,
    max_bytes: u64,
    drain: Duration,
    signals: bool,
    shutdown: Option<CancellationToken>,
    bearer: Option<String>,
    schedules: Vec<NewSchedule>,
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
            extensions: Extensions::default(),
            tasks: Tasks::new(),
            layers: Vec::new(),
            retry: None,
            concurrency: DEFAULT_CONCURRENCY,
            prefetch: 0,
            max_bytes: 0,
            drain: DEFAULT_DRAIN,
            signals: false,
            shutdown: None,
            bearer: None,
            schedules: Vec::new(),
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

    /// A value that handlers and middleware read by its type, with [`Context::extension`] and
    /// [`Attempt::get`](crate::Attempt::get). Each attempt has its own set of values: what middleware puts in the place
    /// of this one is seen in that attempt only.
    pub fn extension<T: Send + Sync + 'static>(mut self, value: T) -> Self {
        self.extensions.insert(value);
        self
    }

    /// Registers a task, with the options that it has itself ([`Task::options`]).
    pub fn task<T: Task>(self) -> Self {
        self.tasks(Tasks::new().task::<T>())
    }

    /// Registers a task, with these options in place of its own.
    pub fn task_with<T: Task>(self, options: TaskOptions) -> Self {
        self.tasks(Tasks::new().task_with::<T>(options))
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
        self.tasks(Tasks::new().function(name, function))
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
        self.tasks(Tasks::new().function_with(name, options, function))
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
        self.tasks(Tasks::new().blocking(name, function))
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
        self.tasks(Tasks::new().blocking_with(name, options, function))
    }

    /// Registers all tasks of a collection as they are.
    pub fn tasks(mut self, tasks: Tasks) -> Self {
        self.tasks = self.tasks.tasks(tasks);
        self
    }

    /// Registers all tasks of a collection under `namespace:name`, their aliases as well.
    pub fn namespace(mut self, namespace: impl AsRef<str>, tasks: Tasks) -> Self {
        self.tasks = self.tasks.namespace(namespace, tasks);
        self
    }

    /// Puts this schedule once the worker is connected (C12). All workers of a service may bring the same: to put it
    /// again changes nothing. To leave it out later does not take it away; see [`Client::delete_schedule`].
    pub fn schedule(mut self, schedule: NewSchedule) -> Self {
        self.schedules.push(schedule);
        self
    }

    /// Runs around every attempt, and around the middleware of its task. What is given first is around what is given
    /// later.
    pub fn middleware(mut self, middleware: impl Middleware) -> Self {
        self.layers.push(Arc::new(middleware));
        self
    }

    /// Decides what follows a failed attempt of every task that has no strategy of its own.
    pub fn retry(mut self, strategy: impl RetryStrategy) -> Self {
        self.retry = Some(Arc::new(strategy));
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
        let schedules =
            match self.schedules.into_iter().map(NewSchedule::into_schedule).collect::<Result<Vec<_>, _>>()? {
                schedules if schedules.is_empty() => None,
                schedules => {
                    let client = Client::builder(self.addresses.as_slice());
                    let client = match &self.bearer {
                        Some(token) => client.bearer_token(token),
                        None => client,
                    };
                    Some(Schedules { client: client.build()?, schedules })
                }
            };
        let bearer = self.bearer.as_deref().map(bearer).transpose()?;
        let registrations = self.tasks.registrations;
        if registrations.is_empty() {
            return Err(BuildError::NoTasks);
        }
        check_tasks(registrations.iter().flat_map(|task| task.limits.names()))?;
        for queue in &self.queues {
            check_name(queue)?;
        }
        let (wishes, wished) = watch::channel(Wishes::default());
        let (told, status) = watch::channel(Status::default());
        let handle = WorkerHandle { wishes, status };
        let worker_name: Arc<str> = self.name.as_str().into();
        let mut limits = Vec::with_capacity(registrations.len());
        let mut tasks = Vec::with_capacity(registrations.len());
        for registration in registrations {
            limits.push(registration.limits.clone());
            let site = Arc::new(Site {
                worker_name: worker_name.clone(),
                worker: handle.clone(),
                extensions: self.extensions.clone(),
                layers: self.layers.iter().chain(&registration.layers).cloned().collect(),
                retry: registration.retry.clone().or_else(|| self.retry.clone()),
            });
            tasks.push(TaskSetup { site, handler: registration.handler(&self.states)? });
        }
        let config = Config {
            instance_id: random::unique_name(),
            worker_name: self.name,
            queues: self.queues,
            tasks: limits,
            labels: self.labels,
            concurrency: self.concurrency,
            prefetch: self.prefetch,
            max_bytes: self.max_bytes,
            addresses: endpoints.len(),
            until_caught_up: false,
            seed: random::seed(),
        };
        let driver = Driver::new(Setup {
            config,
            endpoints,
            bearer,
            tasks,
            drain: self.drain,
            signals: self.signals,
            shutdown: self.shutdown,
            handle: handle.clone(),
            wished,
            told,
        });
        Ok(Worker { driver, handle, schedules })
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

/// Every name is one, and has one handler.
fn check_tasks<'a>(names: impl Iterator<Item = &'a String> + Clone) -> Result<(), BuildError> {
    let count = names.clone().count();
    if count > MAX_TASK_NAMES {
        return Err(BuildError::TooManyTasks(count));
    }
    let mut known = HashSet::with_capacity(count);
    for name in names {
        check_name(name)?;
        if !known.insert(name) {
            return Err(BuildError::DuplicateTask(name.clone()));
        }
    }
    Ok(())
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
    fn a_clash_of_names_aliases_or_namespaces_is_refused() {
        let clash = |worker: WorkerBuilder| match worker.build() {
            Err(BuildError::DuplicateTask(name)) => name,
            other => panic!("{other:?}"),
        };
        let alias = |name: &str| TaskOptions::new().alias(name);
        assert_eq!(clash(builder().function("a", noop).function_with("b", alias("a"), noop)), "a");
        assert_eq!(clash(builder().function_with("a", alias("a"), noop)), "a");
        let tasks = || Tasks::new().function_with("a", alias("old"), noop);
        assert_eq!(clash(builder().namespace("n", tasks()).function("n:old", noop)), "n:old");
        let twice = Tasks::new().namespace("in", tasks()).namespace("in", Tasks::new().function("a", noop));
        assert_eq!(clash(builder().namespace("out", twice)), "out:in:a");
        assert!(builder().namespace("n", tasks()).namespace("m", tasks()).tasks(tasks()).build().is_ok());
        assert!(matches!(builder().namespace("n\n", tasks()).build(), Err(BuildError::InvalidName(_))));
    }

    #[test]
    fn a_worker_serves_a_thousand_names_and_not_one_more() {
        let many = |count| (0..count).fold(Tasks::new(), |tasks, number| tasks.function(format!("t{number}"), noop));
        assert!(builder().tasks(many(MAX_TASK_NAMES)).build().is_ok());
        let more = builder().tasks(many(MAX_TASK_NAMES - 1)).function_with("x", TaskOptions::new().alias("y"), noop);
        assert!(matches!(more.build(), Err(BuildError::TooManyTasks(1_001))));
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
