//! The tasks of the example worker.

use std::time::Duration;

use cabbage_worker::{Context, TaskError, WorkerBuilder};
use serde::Deserialize;
use tokio::time::sleep;

/// The task for people: they defer it from another terminal.
pub(crate) const GREET: &str = "greet";
pub(crate) const QUICK: &str = "quick";
pub(crate) const SLOW: &str = "slow";
pub(crate) const FLAKY: &str = "flaky";
pub(crate) const STEP: &str = "step";
pub(crate) const REMIND: &str = "remind";

pub(crate) fn register(worker: WorkerBuilder) -> WorkerBuilder {
    worker
        .function(GREET, greet)
        .function(QUICK, quick)
        .function(SLOW, slow)
        .function(FLAKY, flaky)
        .function(STEP, step)
        .function(REMIND, remind)
}

#[derive(Deserialize)]
struct Greet {
    #[serde(default = "world")]
    name: String,
}

fn world() -> String {
    "world".to_owned()
}

async fn greet(args: Greet, _: Context) -> Result<String, TaskError> {
    Ok(format!("Hello, {}!", args.name))
}

async fn quick(_: serde::de::IgnoredAny, _: Context) -> Result<(), TaskError> {
    sleep(Duration::from_millis(20)).await;
    Ok(())
}

async fn slow(_: serde::de::IgnoredAny, ctx: Context) -> Result<(), TaskError> {
    tokio::select! {
        () = sleep(Duration::from_secs(3)) => Ok(()),
        _ = ctx.cancelled() => Err(TaskError::cancelled("told to stop")),
    }
}

/// Fails the first time, as calls to other systems do.
async fn flaky(_: serde::de::IgnoredAny, ctx: Context) -> Result<(), TaskError> {
    sleep(Duration::from_millis(200)).await;
    if ctx.attempt() == 1 {
        return Err(TaskError::new("Unreachable", "the other system did not answer"));
    }
    Ok(())
}

/// One of several that carry the same lock: never two at once, and in order.
async fn step(_: serde::de::IgnoredAny, _: Context) -> Result<(), TaskError> {
    sleep(Duration::from_millis(700)).await;
    Ok(())
}

async fn remind(_: serde::de::IgnoredAny, _: Context) -> Result<(), TaskError> {
    Ok(())
}
