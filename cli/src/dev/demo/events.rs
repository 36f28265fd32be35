//! One readable line for each thing that happens, and counts of all of them.

use std::{
    fmt::Write as _,
    io::stdout,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use cabbage_worker::{Attempt, JobInfo, Middleware, Next, Outcome};
use tokio::sync::RwLock;

use crate::output::{colour, print_line};

/// How often the counts are printed.
const STATUS_INTERVAL: Duration = Duration::from_secs(5);

/// What happened so far.
#[derive(Debug, Default)]
pub(crate) struct Events {
    deferred: AtomicU64,
    running: AtomicU64,
    succeeded: AtomicU64,
    retried: AtomicU64,
    failed: AtomicU64,
    /// Held for writing while a job is being deferred.
    order: RwLock<()>,
}

impl Events {
    /// Defers a job and tells of it, before anybody tells that it starts: a worker often hears of a job before the
    /// one who deferred it has his answer.
    pub(crate) async fn defer<E>(&self, deferred: impl Future<Output = Result<i64, E>>, what: &str) -> Result<(), E> {
        let _told = self.order.write().await;
        let job = deferred.await?;
        self.deferred.fetch_add(1, Ordering::Relaxed);
        self.event(job, "defer", "34", what);
        Ok(())
    }

    /// The counts in one line.
    pub(crate) fn status(&self) -> String {
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        format!(
            "-- {} deferred by the demo; {} running, {} succeeded, {} attempts tried again, {} failed for good",
            count(&self.deferred),
            count(&self.running),
            count(&self.succeeded),
            count(&self.retried),
            count(&self.failed)
        )
    }

    /// Prints a line. Whoever closes our output stops the program by a signal anyway.
    #[expect(clippy::unused_self, reason = "lines come from here alone, so that they keep one form")]
    pub(crate) fn line(&self, text: &str) {
        let _ = print_line(text);
    }

    fn event(&self, job: i64, what: &str, ansi: &str, about: &str) {
        let what = format!("{what:<7}");
        let what = if colour(&stdout()) { format!("\x1b[{ansi}m{what}\x1b[0m") } else { what };
        self.line(&format!("{:>6}  {what} {about}", format!("#{job}")));
    }
}

/// Prints the counts now and then.
pub(crate) async fn status_lines(events: Arc<Events>) {
    let mut interval = tokio::time::interval(STATUS_INTERVAL);
    interval.tick().await;
    loop {
        interval.tick().await;
        events.line(&events.status());
    }
}

/// Tells of each attempt as it starts and ends.
pub(crate) struct Tell(pub(crate) Arc<Events>);

impl Middleware for Tell {
    async fn around(&self, attempt: Attempt, next: Next) -> Outcome {
        let (events, job) = (&self.0, Arc::clone(attempt.job()));
        let about = about(&job);
        drop(events.order.read().await);
        events.event(job.id(), "start", "36", &about);
        events.running.fetch_add(1, Ordering::Relaxed);
        let start = Instant::now();
        let outcome = next.run(attempt).await;
        let took = start.elapsed().as_millis();
        events.running.fetch_sub(1, Ordering::Relaxed);
        match &outcome {
            Ok(result) => {
                events.succeeded.fetch_add(1, Ordering::Relaxed);
                let result = String::from_utf8_lossy(result);
                let result = if result.is_empty() { String::new() } else { format!(": {result}") };
                events.event(job.id(), "done", "32", &format!("{about} in {took} ms{result}"));
            }
            Err(error) if job.is_last_attempt() => {
                events.failed.fetch_add(1, Ordering::Relaxed);
                events.event(job.id(), "failed", "31", &format!("{about} in {took} ms: {}", error.message()));
            }
            Err(error) => {
                events.retried.fetch_add(1, Ordering::Relaxed);
                let about = format!("{about} in {took} ms: {}; it is tried again", error.message());
                events.event(job.id(), "error", "33", &about);
            }
        }
        outcome
    }
}

/// The task, with what makes this run special.
fn about(job: &JobInfo) -> String {
    let mut about = job.task().to_owned();
    if job.attempt() > 1 {
        let _ = write!(about, " (attempt {})", job.attempt());
    }
    if let Some(lock) = job.lock() {
        let _ = write!(about, " (lock {lock})");
    }
    about
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_said_in_one_line() {
        let events = Events::default();
        events.succeeded.store(3, Ordering::Relaxed);
        let status = events.status();
        assert!(status.contains("3 succeeded") && status.lines().count() == 1, "{status}");
    }
}
