//! What the broker tells about itself: the log, and the metrics.
//!
//! Metrics go through OpenTelemetry, and are read by Prometheus from the second port. Their names are a promise.
//! Nothing is registered globally: a process may hold several brokers.

use std::{
    io::IsTerminal as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use opentelemetry::{
    KeyValue,
    metrics::{Counter, Histogram, Meter, MeterProvider as _},
};
use opentelemetry_sdk::metrics::SdkMeterProvider;
use prometheus::{Encoder as _, IntGaugeVec, Opts, Registry, TextEncoder, core::Collector as _};
use tracing_subscriber::EnvFilter;

use crate::{
    args::LogFormat,
    core::{batch::Outcome, job::Verdict},
    unfinished::Unfinished,
};

/// Starts to write the log to standard error. Does nothing where a subscriber is there already, as in tests.
pub fn start_log(format: LogFormat, filter: &str) -> Result<(), tracing_subscriber::filter::ParseError> {
    let filter = EnvFilter::try_new(filter)?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // Refused only where there is one already, and that one then is the one that is wanted.
    let _ = match format {
        LogFormat::Text => {
            log.with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none()).try_init()
        }
        LogFormat::Json => log.json().try_init(),
    };
    Ok(())
}

/// Every number that the broker counts. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    inner: Arc<Inner>,
}

struct Inner {
    registry: Registry,
    /// Holds the instruments alive.
    provider: SdkMeterProvider,
    deferred: Counter<u64>,
    started: Counter<u64>,
    settled: Counter<u64>,
    /// The attributes of `settled`, made once.
    outcomes: [(Verdict, [KeyValue; 1]); 8],
    commit_seconds: Histogram<f64>,
    commit_facts: Histogram<u64>,
    refused: Counter<u64>,
    verbs_refused: Counter<u64>,
    terms_over: Counter<u64>,
    wakeups: Counter<u64>,
    follower_differences: Counter<u64>,
    checkpoints: Counter<u64>,
    checkpoint_bytes: Histogram<u64>,
    unknown_frames: Counter<u64>,
    streams_ended: Counter<u64>,
    arguments_read: Counter<u64>,
    jobs_moved: Counter<u64>,
    jobs_erased: Counter<u64>,
    partitions_dropped: Counter<u64>,
    drops_blocked: Counter<u64>,
    gauges: Arc<Gauges>,
}

/// What is shown as it is now.
#[derive(Default)]
struct Gauges {
    sessions: AtomicU64,
    streams: AtomicU64,
    leader: AtomicU64,
    relayed_streams: AtomicU64,
    held_calls: AtomicU64,
}

/// The metrics could not be set up.
#[derive(Debug, thiserror::Error)]
#[error("metrics cannot be set up: {0}")]
pub struct MetricsError(String);

impl Metrics {
    /// A set of metrics of its own.
    pub fn new() -> Result<Self, MetricsError> {
        let registry = Registry::new();
        let exporter =
            opentelemetry_prometheus::exporter().with_registry(registry.clone()).without_target_info().build();
        let exporter = exporter.map_err(|error| MetricsError(error.to_string()))?;
        let provider = SdkMeterProvider::builder().with_reader(exporter).build();
        let meter = provider.meter("cabbage");
        let gauges = Arc::new(Gauges::default());
        observe(&meter, "cabbage_sessions", "Live sessions of workers, as the owner knows them.", &gauges, |gauges| {
            &gauges.sessions
        });
        observe(&meter, "cabbage_streams", "Open streams of workers on this broker.", &gauges, |gauges| {
            &gauges.streams
        });
        observe(&meter, "cabbage_leader", "1 while this broker owns the cell.", &gauges, |gauges| &gauges.leader);
        let about = "Streams of workers that this broker passes on to the owner of the cell.";
        observe(&meter, "cabbage_relayed_streams", about, &gauges, |gauges| &gauges.relayed_streams);
        let about = "Calls and streams that wait for somebody to own the cell.";
        observe(&meter, "cabbage_held_calls", about, &gauges, |gauges| &gauges.held_calls);
        let version = KeyValue::new("version", env!("CARGO_PKG_VERSION"));
        meter
            .u64_observable_gauge("cabbage_build_info")
            .with_description("1, with the version of this broker.")
            .with_callback(move |gauge| gauge.observe(1, std::slice::from_ref(&version)))
            .build();
        let count = |name: &'static str, about: &'static str| meter.u64_counter(name).with_description(about).build();
        let inner = Inner {
            deferred: count("cabbage_jobs_deferred", "Jobs that were created."),
            started: count("cabbage_jobs_started", "Deliveries that began."),
            settled: count("cabbage_jobs_settled", "Deliveries that ended, and finals without one."),
            outcomes: verdicts().map(|verdict| (verdict, [KeyValue::new("outcome", word(verdict))])),
            commit_seconds: meter
                .f64_histogram("cabbage_commit_seconds")
                .with_description("How long commits took.")
                .with_boundaries(vec![0.000_5, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 1.0, 4.0])
                .build(),
            commit_facts: meter
                .u64_histogram("cabbage_commit_facts")
                .with_description("How many facts commits held.")
                .with_boundaries(vec![1.0, 4.0, 16.0, 64.0, 256.0, 1_024.0, 4_096.0, 16_384.0])
                .build(),
            refused: count(
                "cabbage_commits_refused",
                "Batches that the database refused, to be decided again in halves.",
            ),
            verbs_refused: count(
                "cabbage_sql_verbs_refused",
                "Verbs that came from SQL and could not be obeyed, by verb.",
            ),
            terms_over: count("cabbage_terms_over", "Terms that ended otherwise than by a stop."),
            wakeups: count("cabbage_wakeups", "What woke the owner besides inputs and commits."),
            follower_differences: count(
                "cabbage_follower_differences",
                "How often the follower differed: always a bug.",
            ),
            checkpoints: count("cabbage_checkpoints", "Checkpoints that were written."),
            checkpoint_bytes: meter
                .u64_histogram("cabbage_checkpoint_bytes")
                .with_description("The sizes of checkpoints.")
                .with_boundaries(vec![1e4, 1e5, 1e6, 1e7, 1e8, 1e9])
                .build(),
            unknown_frames: count(
                "cabbage_unknown_frames",
                "Frames of workers of a kind that this broker does not know.",
            ),
            streams_ended: count("cabbage_streams_ended", "Streams of workers that ended, by reason."),
            arguments_read: count("cabbage_arguments_read", "Jobs whose arguments were read from the store again."),
            jobs_moved: count(
                "cabbage_retention_jobs_moved",
                "Jobs that were copied out of partitions that were to go.",
            ),
            jobs_erased: count("cabbage_retention_jobs_erased", "Finished jobs that were erased one by one."),
            partitions_dropped: count("cabbage_partitions_dropped", "Partitions that were dropped, by table."),
            drops_blocked: count(
                "cabbage_partition_drops_blocked",
                "Drops that were put off, since a table was in use.",
            ),
            registry,
            provider,
            gauges,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Shows how many statements the store has sent, whenever somebody looks.
    pub fn show_statements(&self, statements: impl Fn() -> u64 + Send + Sync + 'static) {
        let meter = self.inner.provider.meter("cabbage");
        meter
            .u64_observable_counter("cabbage_statements")
            .with_description("Statements that were sent to the database.")
            .with_callback(move |counter| counter.observe(statements(), &[]))
            .build();
    }

    /// Shows the term that this broker owns or follows, and how far behind each broker is that follows it, by its address,
    /// whenever somebody looks.
    pub fn show_brokers(
        &self,
        term: impl Fn() -> u64 + Send + Sync + 'static,
        lags: impl Fn() -> Vec<(Arc<str>, u64)> + Send + Sync + 'static,
    ) {
        let meter = self.inner.provider.meter("cabbage");
        meter
            .u64_observable_gauge("cabbage_term")
            .with_description("The term of the cell that this broker owns or follows.")
            .with_callback(move |gauge| gauge.observe(term(), &[]))
            .build();
        meter
            .u64_observable_gauge("cabbage_follower_lag")
            .with_description("Rows of the log that a broker which follows this one has yet to fold.")
            .with_callback(move |gauge| {
                for (address, lag) in lags() {
                    gauge.observe(lag, &[KeyValue::new("broker", address)]);
                }
            })
            .build();
    }

    /// Everything, as Prometheus reads it, with the jobs of each queue that are unfinished now.
    pub fn render(&self, unfinished: &[Unfinished]) -> Result<Vec<u8>, MetricsError> {
        let mut text = Vec::with_capacity(16 << 10);
        let mut families = self.inner.registry.gather();
        if !unfinished.is_empty() {
            families.extend(jobs_unfinished(unfinished)?.collect());
        }
        TextEncoder::new().encode(&families, &mut text).map_err(|error| MetricsError(error.to_string()))?;
        Ok(text)
    }

    pub(crate) fn relayed_streams(&self, streams: u64) {
        self.inner.gauges.relayed_streams.store(streams, Ordering::Relaxed);
    }

    pub(crate) fn held_calls(&self, calls: u64) {
        self.inner.gauges.held_calls.store(calls, Ordering::Relaxed);
    }

    pub(crate) fn committed(&self, took: Duration, facts: usize) {
        self.inner.commit_seconds.record(took.as_secs_f64(), &[]);
        self.inner.commit_facts.record(facts as u64, &[]);
    }

    /// What a commit held, counted once for the whole of it.
    pub(crate) fn decided(&self, deferred: usize, started: u64, outcomes: &[Outcome]) {
        if deferred > 0 {
            self.inner.deferred.add(deferred as u64, &[]);
        }
        if started > 0 {
            self.inner.started.add(started, &[]);
        }
        let mut counts = [0_u64; 8];
        for outcome in outcomes {
            counts[outcome.verdict as usize - 1] += 1;
        }
        for (count, (_, attributes)) in counts.iter().zip(&self.inner.outcomes) {
            if *count > 0 {
                self.inner.settled.add(*count, attributes);
            }
        }
    }

    pub(crate) fn refused(&self) {
        self.inner.refused.add(1, &[]);
    }

    /// A verb from SQL could not be obeyed, and nobody waits for its answer.
    pub(crate) fn verb_refused(&self, verb: &'static str) {
        self.inner.verbs_refused.add(1, &[KeyValue::new("verb", verb)]);
    }

    pub(crate) fn term_over(&self) {
        self.inner.terms_over.add(1, &[]);
    }

    pub(crate) fn woke(&self, source: &'static str) {
        self.inner.wakeups.add(1, &[KeyValue::new("source", source)]);
    }

    pub(crate) fn follower_differs(&self) {
        self.inner.follower_differences.add(1, &[]);
    }

    pub(crate) fn checkpointed(&self, bytes: usize) {
        self.inner.checkpoints.add(1, &[]);
        self.inner.checkpoint_bytes.record(bytes as u64, &[]);
    }

    pub(crate) fn unknown_frame(&self) {
        self.inner.unknown_frames.add(1, &[]);
    }

    pub(crate) fn arguments_read(&self, jobs: usize) {
        self.inner.arguments_read.add(jobs as u64, &[]);
    }

    pub(crate) fn moved(&self, jobs: u64) {
        self.inner.jobs_moved.add(jobs, &[]);
    }

    pub(crate) fn erased(&self, jobs: u64) {
        self.inner.jobs_erased.add(jobs, &[]);
    }

    /// By the table that the partition was of: its name without the number.
    pub(crate) fn dropped(&self, partition: &str) {
        let table = partition.trim_end_matches(|digit: char| digit.is_ascii_digit()).trim_end_matches('_');
        self.inner.partitions_dropped.add(1, &[KeyValue::new("table", table.to_owned())]);
    }

    pub(crate) fn drop_blocked(&self) {
        self.inner.drops_blocked.add(1, &[]);
    }

    pub(crate) fn sessions(&self, count: usize) {
        self.inner.gauges.sessions.store(count as u64, Ordering::Relaxed);
    }

    pub(crate) fn leads(&self, leads: bool) {
        self.inner.gauges.leader.store(u64::from(leads), Ordering::Relaxed);
    }

    pub(crate) fn stream_opened(&self) {
        self.inner.gauges.streams.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn stream_ended(&self, reason: &'static str) {
        self.inner.gauges.streams.fetch_sub(1, Ordering::Relaxed);
        self.inner.streams_ended.add(1, &[KeyValue::new("reason", reason)]);
    }
}

fn observe(
    meter: &Meter,
    name: &'static str,
    about: &'static str,
    gauges: &Arc<Gauges>,
    value: fn(&Gauges) -> &AtomicU64,
) {
    let gauges = Arc::clone(gauges);
    meter
        .u64_observable_gauge(name)
        .with_description(about)
        .with_callback(move |gauge| gauge.observe(value(&gauges).load(Ordering::Relaxed), &[]))
        .build();
}

/// Made anew for each look, so that no series outlives its queue, or the broker's ownership of the cell.
fn jobs_unfinished(unfinished: &[Unfinished]) -> Result<IntGaugeVec, MetricsError> {
    let about =
        Opts::new("cabbage_jobs_unfinished", "Jobs that have not ended, by queue and what they do or wait for.");
    let gauge = IntGaugeVec::new(about, &["queue", "state"]).map_err(|error| MetricsError(error.to_string()))?;
    for Unfinished { queue, states } in unfinished {
        for (state, count) in states {
            gauge.with_label_values(&[&**queue, *state]).set(i64::try_from(*count).unwrap_or(i64::MAX));
        }
    }
    Ok(gauge)
}

/// In the order of their numbers, from 1.
fn verdicts() -> [Verdict; 8] {
    [
        Verdict::Succeeded,
        Verdict::Failed,
        Verdict::Cancelled,
        Verdict::Retried,
        Verdict::Snoozed,
        Verdict::Released,
        Verdict::Crashed,
        Verdict::Reopened,
    ]
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Succeeded => "succeeded",
        Verdict::Failed => "failed",
        Verdict::Cancelled => "cancelled",
        Verdict::Retried => "retried",
        Verdict::Snoozed => "snoozed",
        Verdict::Released => "released",
        Verdict::Crashed => "crashed",
        Verdict::Reopened => "reopened",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::types::{JobId, Timestamp};

    #[test]
    fn metrics_have_the_promised_names() {
        let metrics = Metrics::new().expect("metrics");
        metrics.show_statements(|| 7);
        metrics.leads(true);
        let outcome = Outcome {
            job: JobId(1),
            delivery: 1,
            attempt: 1,
            verdict: Verdict::Failed,
            started: None,
            finished: Timestamp(1),
            session: None,
            more: None,
        };
        metrics.decided(3, 2, &[outcome]);
        metrics.committed(Duration::from_millis(1), 5);
        metrics.verb_refused("retry");
        let unfinished = [Unfinished { queue: "ma\"il".into(), states: [("running", 4); 7] }];
        let text = String::from_utf8(metrics.render(&unfinished).expect("text")).expect("UTF-8");
        for (name, label, value) in [
            ("cabbage_jobs_deferred_total", "", "3"),
            ("cabbage_jobs_started_total", "", "2"),
            ("cabbage_jobs_settled_total", "outcome=\"failed\"", "1"),
            ("cabbage_jobs_unfinished", "queue=\"ma\\\"il\",state=\"running\"", "4"),
            ("cabbage_sql_verbs_refused_total", "verb=\"retry\"", "1"),
            ("cabbage_leader", "", "1"),
            ("cabbage_statements_total", "", "7"),
            ("cabbage_commit_facts_count", "", "1"),
        ] {
            let is_it = |line: &&str| line.starts_with(name) && line.contains(label) && line.ends_with(value);
            assert!(text.lines().any(|line| is_it(&line)), "{name} {label} {value} is missing in:\n{text}");
        }
    }
}
