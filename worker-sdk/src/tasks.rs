//! Collections of tasks, and what a worker makes of them.

use std::{
    any::{Any, TypeId, type_name},
    collections::HashMap,
    fmt,
    future::Future,
    sync::Arc,
};

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    BoxError, BuildError, Context, RetryStrategy, Task, TaskOptions,
    handler::{Handler, TypedHandler},
    middleware::Layer,
    session::TaskLimits,
};

/// What stands between a namespace and a name in it.
const SEPARATOR: char = ':';

/// The name of a task in a namespace.
pub(crate) fn in_namespace(namespace: &str, name: &str) -> String {
    format!("{namespace}{SEPARATOR}{name}")
}

/// The states of a worker, by their types.
pub(crate) type States = HashMap<TypeId, Arc<dyn Any + Send + Sync>>;

type MakeHandler = Box<dyn FnOnce(&States) -> Result<Arc<dyn Handler>, BuildError> + Send>;

/// A task with its handler, until the worker is built.
pub(crate) struct Registration {
    pub(crate) limits: TaskLimits,
    pub(crate) layers: Vec<Arc<dyn Layer>>,
    pub(crate) retry: Option<Arc<dyn RetryStrategy>>,
    make: MakeHandler,
}

impl Registration {
    pub(crate) fn handler(self, states: &States) -> Result<Arc<dyn Handler>, BuildError> {
        (self.make)(states)
    }
}

/// Tasks that belong together, such as those of one library, for workers to register at once, under a namespace or
/// without one.
///
/// ```
/// use cabbage_worker::{Client, Context, TaskError, Tasks, Worker};
///
/// async fn send(to: String, _: Context) -> Result<(), TaskError> {
///     println!("to {to}");
///     Ok(())
/// }
///
/// fn mail() -> Tasks {
///     Tasks::new().function("send", send)
/// }
///
/// # fn build() -> Result<Worker, cabbage_worker::BuildError> {
/// // The names are `mail:send` and `shop:mail:send`.
/// let shop = Tasks::new().namespace("mail", mail());
/// Worker::builder("127.0.0.1:7733").namespace("mail", mail()).namespace("shop", shop).build()
/// # }
/// # async fn defer(client: Client) -> Result<(), cabbage_worker::Error> {
/// client.defer_named("send", "ada@example.com").namespace("mail").await?;
/// # Ok(())
/// # }
/// ```
#[derive(Default)]
#[must_use]
pub struct Tasks {
    pub(crate) registrations: Vec<Registration>,
}

impl Tasks {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a task, with the options that it has itself ([`Task::options`]).
    pub fn task<T: Task>(self) -> Self {
        self.task_with::<T>(T::options())
    }

    /// Adds a task, with these options in place of its own.
    pub fn task_with<T: Task>(self, mut options: TaskOptions) -> Self {
        options.aliases.extend(T::ALIASES.iter().map(|alias| (*alias).to_owned()));
        self.function_with(T::NAME, options, T::run)
    }

    /// Adds an async function under a name. Its first argument is what the job's arguments are read into.
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

    /// Adds an async function under a name, with options.
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

    /// Adds a function that blocks its thread; it runs on the runtime's blocking pool. It cannot be aborted, so a long
    /// one should look at [`JobInfo::is_cancelled`](crate::JobInfo::is_cancelled) now and then.
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

    /// Adds a function that blocks its thread, with options.
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

    /// Adds all tasks of another collection as they are.
    pub fn tasks(mut self, tasks: Tasks) -> Self {
        self.registrations.extend(tasks.registrations);
        self
    }

    /// Adds all tasks of another collection under `namespace:name`, their aliases as well. Namespaces nest.
    pub fn namespace(self, namespace: impl AsRef<str>, mut tasks: Tasks) -> Self {
        let namespace = namespace.as_ref();
        for Registration { limits, .. } in &mut tasks.registrations {
            for name in limits.aliases.iter_mut().chain([&mut limits.name]) {
                *name = in_namespace(namespace, name);
            }
        }
        self.tasks(tasks)
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
        let TaskOptions { max_concurrent, cancel_when_orphaned, aliases, layers, retry } = options;
        let limits = TaskLimits { name, aliases, max_concurrent, cancel_when_orphaned, blocking };
        self.registrations.push(Registration { limits, layers, retry, make });
        self
    }
}

impl fmt::Debug for Tasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.registrations.iter().map(|task| &task.limits.name)).finish()
    }
}
