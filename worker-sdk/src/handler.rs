//! Handlers, once their types are erased: what runs in a job's task.

use std::{any::TypeId, future::Future, marker::PhantomData, panic::AssertUnwindSafe, sync::Arc};

use bytes::Bytes;
use futures::{FutureExt as _, future::BoxFuture};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{sync::mpsc::UnboundedSender, task::AbortHandle};
use tracing::Instrument as _;

use crate::{
    Attempt, BoxError, Context, Next, Outcome, TaskError, retry,
    session::{Finish, Slot},
};

/// A handler of any type.
pub(crate) trait Handler: Send + Sync {
    /// Starts a task for one attempt, with the task's middleware around it.
    fn start(self: Arc<Self>, attempt: Attempt, report: Report) -> AbortHandle;

    /// Runs one attempt without its middleware. A panic becomes an error.
    fn run(self: Arc<Self>, attempt: Attempt) -> BoxFuture<'static, Outcome>;
}

/// Where the end of an attempt goes. If it is dropped before, the task was aborted, and that is told.
pub(crate) struct Report {
    slot: Slot,
    to: Option<UnboundedSender<(Slot, Finish)>>,
}

impl Report {
    /// The channel has no limit of its own: it holds one message for each lease at most, and credit bounds those.
    pub(crate) fn new(slot: Slot, to: UnboundedSender<(Slot, Finish)>) -> Self {
        Self { slot, to: Some(to) }
    }

    fn finish(mut self, outcome: Outcome) {
        let finish = match outcome {
            Ok(result) => Finish::Succeeded(result),
            Err(error) => Finish::Error(error),
        };
        if let Some(to) = self.to.take() {
            // Nobody listens any more: the worker has stopped.
            let _ = to.send((self.slot, finish));
        }
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        if let Some(to) = self.to.take() {
            let _ = to.send((self.slot, Finish::Aborted));
        }
    }
}

/// A function and the state that it wants.
pub(crate) struct TypedHandler<F, A, S> {
    function: F,
    state: Arc<S>,
    args: PhantomData<fn(A)>,
}

impl<F, A, S> TypedHandler<F, A, S> {
    pub(crate) fn new(function: F, state: Arc<S>) -> Self {
        Self { function, state, args: PhantomData }
    }
}

impl<F, A, S, Fut, O, E> Handler for TypedHandler<F, A, S>
where
    F: Fn(A, Context<S>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<O, E>> + Send,
    A: DeserializeOwned + Send + 'static,
    S: Send + Sync + 'static,
    O: Serialize + Send + 'static,
    E: Into<BoxError> + Send + 'static,
{
    fn start(self: Arc<Self>, attempt: Attempt, report: Report) -> AbortHandle {
        let job = &attempt.job;
        // At debug level, since even a span of its own is much for a job that does nothing.
        let span = tracing::debug_span!(
            "job",
            id = job.id(),
            task = job.task(),
            attempt = job.attempt(),
            traceparent = job.traceparent(),
        );
        let run = async move {
            let judged = attempt.job.site().retry.is_some().then(|| attempt.job.clone());
            let outcome = if attempt.job.site().layers.is_empty() {
                caught(self.call(attempt)).await
            } else {
                caught(Next::all(self).run(attempt)).await
            };
            report.finish(match (outcome, judged) {
                (Err(error), Some(job)) => Err(retry::judge(error, &job)),
                (outcome, _) => outcome,
            });
        };
        if span.is_disabled() { tokio::spawn(run) } else { tokio::spawn(run.instrument(span)) }.abort_handle()
    }

    fn run(self: Arc<Self>, attempt: Attempt) -> BoxFuture<'static, Outcome> {
        Box::pin(async move { caught(self.call(attempt)).await })
    }
}

impl<F, A, S, Fut, O, E> TypedHandler<F, A, S>
where
    F: Fn(A, Context<S>) -> Fut,
    Fut: Future<Output = Result<O, E>>,
    A: DeserializeOwned + 'static,
    O: Serialize + 'static,
    E: Into<BoxError> + 'static,
{
    async fn call(self: Arc<Self>, attempt: Attempt) -> Outcome {
        let Attempt { job, args, extensions } = attempt;
        let decoded = decode(&args)?;
        drop(args);
        let output = (self.function)(decoded, Context::new(job, self.state.clone(), extensions)).await;
        output.map_err(TaskError::of_handler).and_then(|output| encode(&output))
    }
}

/// A panic is a failed attempt of kind `panic`. Nothing of the handler is used afterwards, so nothing broken is seen.
async fn caught(run: impl Future<Output = Outcome>) -> Outcome {
    AssertUnwindSafe(run).catch_unwind().await.unwrap_or_else(|panic| Err(TaskError::of_panic(&*panic)))
}

/// Arguments that a handler cannot read fail the attempt (C16).
fn decode<A: DeserializeOwned + 'static>(args: &[u8]) -> Result<A, TaskError> {
    // `()` is written as `null`; here it stands for "whatever they are".
    let text = if TypeId::of::<A>() == TypeId::of::<()>() {
        b"null"
    } else if args.is_empty() {
        b"{}"
    } else {
        args
    };
    serde_json::from_slice(text).map_err(|error| TaskError::new("InvalidArguments", error.to_string()))
}

fn encode<O: Serialize + 'static>(output: &O) -> Outcome {
    if TypeId::of::<O>() == TypeId::of::<()>() {
        return Ok(Bytes::new());
    }
    match serde_json::to_vec(output) {
        Ok(text) if text == b"null" => Ok(Bytes::new()),
        Ok(text) => Ok(text.into()),
        Err(error) => Err(TaskError::new("InvalidResult", error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use cabbage_proto::v1;
    use tokio::sync::mpsc;

    use super::*;
    use crate::JobInfo;

    async fn run<F, A, Fut, O, E>(function: F, args: &str) -> Finish
    where
        F: Fn(A, Context<u32>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<O, E>> + Send + 'static,
        A: DeserializeOwned + Send + 'static,
        O: Serialize + Send + 'static,
        E: Into<BoxError> + Send + 'static,
    {
        let (to, mut from) = mpsc::unbounded_channel();
        let job = Arc::new(JobInfo::for_test(v1::Delivery { job_id: 1, ..Default::default() }));
        let attempt = Attempt::new(job, Bytes::copy_from_slice(args.as_bytes()));
        let handler = Arc::new(TypedHandler::new(function, Arc::new(7_u32)));
        let _abort = handler.start(attempt, Report::new(Slot::first(), to));
        let (_, finish) = from.recv().await.expect("an end");
        finish
    }

    fn failed(finish: Finish) -> TaskError {
        match finish {
            Finish::Error(error) => error,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_result_is_json_and_null_is_none() {
        let sum = |(a, b): (u32, u32), ctx: Context<u32>| async move { Ok::<_, TaskError>(a + b + *ctx.state()) };
        assert!(matches!(run(sum, "[1, 2]").await, Finish::Succeeded(text) if text == "10"));
        let unit = |(): (), _: Context<u32>| async { Ok::<_, TaskError>(()) };
        assert!(matches!(run(unit, r#"{"ignored": 1}"#).await, Finish::Succeeded(text) if text.is_empty()));
        let none = |_: serde_json::Value, _: Context<u32>| async { Ok::<_, TaskError>(None::<u32>) };
        assert!(matches!(run(none, "").await, Finish::Succeeded(text) if text.is_empty()));
    }

    #[tokio::test]
    async fn unreadable_arguments_fail_the_attempt() {
        let never = |_: u32, _: Context<u32>| async { Ok::<_, TaskError>(()) };
        assert_eq!(failed(run(never, r#""text""#).await).kind(), Some("InvalidArguments"));
    }

    #[tokio::test]
    async fn a_panic_is_a_failure_of_its_own_kind() {
        let bang = |(): (), _: Context<u32>| async {
            let nothing: [u8; 0] = [];
            assert!(!nothing.is_empty(), "bang {}", 1);
            Ok::<_, TaskError>(())
        };
        let error = failed(run(bang, "{}").await);
        assert_eq!((error.kind(), &*error.message()), (Some("panic"), "bang 1"));
    }

    #[tokio::test]
    async fn an_aborted_task_reports_itself() {
        let (to, mut from) = mpsc::unbounded_channel();
        drop(Report::new(Slot::first(), to));
        assert!(matches!(from.recv().await, Some((_, Finish::Aborted))));
    }
}
