//! Middleware that opens a span for every attempt, linked to the trace that deferred the job. What the handler logs
//! stands in that span. Needs a broker on 127.0.0.1:7733, or at `CABBAGE_BROKER`.
//!
//! With OpenTelemetry, the span would get the context of [`JobInfo::traceparent`](cabbage_worker::JobInfo::traceparent)
//! as a link, and not as its parent: an attempt may come hours after the defer, and once more after every failure.

use cabbage_worker::{Attempt, Client, Context, Next, Outcome, RetryPolicy, TaskError, Worker};
use tracing::{Instrument as _, field};

async fn traced(attempt: Attempt, next: Next) -> Outcome {
    let span = tracing::info_span!(
        "attempt",
        job = attempt.id(),
        task = attempt.task(),
        number = attempt.attempt(),
        worker = attempt.worker_name(),
        linked_trace = attempt.traceparent().and_then(trace_id),
        error = field::Empty,
    );
    async move {
        let outcome = next.run(attempt).await;
        match &outcome {
            Ok(_) => tracing::info!("succeeded"),
            Err(error) => {
                tracing::Span::current().record("error", error.kind());
                tracing::warn!(%error, "did not succeed");
            }
        }
        outcome
    }
    .instrument(span)
    .await
}

/// The trace in a W3C `traceparent`: version, trace, span, flags.
fn trace_id(traceparent: &str) -> Option<&str> {
    traceparent.split('-').nth(1)
}

async fn charge(cents: u32, ctx: Context) -> Result<(), TaskError> {
    tracing::info!(cents, "asks the bank");
    if ctx.attempt() == 1 { Err(TaskError::new("BankClosed", "the bank does not answer")) } else { Ok(()) }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt().with_max_level(tracing::Level::INFO).with_target(false).init();
    let address = std::env::var("CABBAGE_BROKER").unwrap_or_else(|_| "127.0.0.1:7733".to_owned());
    // In a web service, this is the trace of the request that is being served.
    let traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let job = Client::new(&address)?.defer_named("charge", 995).queue("bank").traceparent(traceparent);
    job.retry(RetryPolicy::attempts(2)).await?;
    let worker = Worker::builder(&address).queues(["bank"]).function("charge", charge).middleware(traced);
    worker.build()?.run_until_caught_up().await;
    Ok(())
}
