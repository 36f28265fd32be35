//! The options of a job, and the job that they ask for.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read},
    time::Duration,
};

use cabbage_proto::v1::{JobSpec, LockMode, QueueingConflict, RetryPolicy, job_spec::Due};
use chrono::{DateTime, Utc};
use clap::{Args, ValueEnum, builder::NonEmptyStringValueParser};
use serde_json::value::RawValue;

use crate::{
    exit::{Failure, Outcome},
    time::{duration_to_wire, parse_duration, parse_instant, to_wire},
};

/// How much is read from a file or from standard input: what a call can carry at most.
const ARGS_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// The range of priorities, both ways: what does not even fit into a call is refused by the same words as what does.
const PRIORITY_MAX: i32 = 100;
/// Over the options of retries in the help. Given to each, since a heading of the whole would hold for what follows.
const RETRIES: &str = "Retries";

/// What to run.
#[derive(Args, Debug)]
pub(crate) struct JobOptions {
    /// The name of the task
    task: String,
    /// The arguments as JSON; `@FILE` reads them from a file, `-` from standard input
    #[arg(value_name = "JSON", default_value = "{}", hide_default_value = true)]
    args: String,
    /// The queue
    #[arg(long, value_name = "NAME", default_value = "default", value_parser = NonEmptyStringValueParser::new())]
    queue: String,
    /// Higher first, -100 to 100
    #[arg(long, value_name = "N", default_value_t = 0, allow_hyphen_values = true, value_parser = parse_priority)]
    priority: i32,
    /// Jobs with the same lock never run at the same time
    #[arg(long, value_name = "LOCK", value_parser = NonEmptyStringValueParser::new())]
    lock: Option<String>,
    /// How the lock orders its jobs: the first that can start, or strictly one after the other
    #[arg(long, value_name = "MODE", value_enum, requires = "lock")]
    lock_mode: Option<LockModeArg>,
    /// At most one job that never started carries the same value
    #[arg(long, value_name = "LOCK", value_parser = NonEmptyStringValueParser::new())]
    queueing_lock: Option<String>,
    /// What to do where the queueing lock is taken
    #[arg(long, value_name = "WHAT", value_enum, requires = "queueing_lock")]
    on_conflict: Option<ConflictArg>,
    /// Due at this instant, as RFC 3339 with a zone: 2031-05-09T17:30:00Z
    #[arg(long, value_name = "TIME", value_parser = parse_instant, conflicts_with = "due_in")]
    at: Option<DateTime<Utc>>,
    /// Due after this time, such as 1h30m
    #[arg(long = "in", id = "due_in", value_name = "DURATION", value_parser = parse_duration, allow_hyphen_values = true)]
    due_in: Option<Duration>,
    /// Fails if it has not started by this instant
    #[arg(long, value_name = "TIME", value_parser = parse_instant)]
    deadline: Option<DateTime<Utc>>,
    /// How long one attempt may take
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, allow_hyphen_values = true)]
    timeout: Option<Duration>,
    #[command(flatten)]
    retry: RetryOptions,
    /// A free label, KEY=VALUE; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_label)]
    metadata: Vec<(String, String)>,
    /// The W3C trace context to link the run to
    #[arg(long, value_name = "TRACEPARENT")]
    traceparent: Option<String>,
    /// The W3C trace state that belongs to it
    #[arg(long, value_name = "TRACESTATE", requires = "traceparent")]
    tracestate: Option<String>,
}

/// When and how often to try again: `wait + linear * n + exponential * factor^(n - 1)` after attempt n.
#[derive(Args, Debug)]
struct RetryOptions {
    /// How many attempts in all, the first included
    #[arg(long, help_heading = RETRIES, value_name = "N", value_parser = parse_attempts,
          allow_hyphen_values = true, group = "attempts")]
    max_attempts: Option<u32>,
    /// Try again without a limit
    #[arg(long, help_heading = RETRIES, group = "attempts")]
    retry_forever: bool,
    /// The constant part of the wait before the next attempt; to wait for the end of the job, see --await
    #[arg(long, help_heading = RETRIES, value_name = "DURATION", value_parser = parse_duration,
          allow_hyphen_values = true, requires = "attempts")]
    wait: Option<Duration>,
    /// The part of the wait that is multiplied by the number of attempts so far
    #[arg(long, help_heading = RETRIES, value_name = "DURATION", value_parser = parse_duration,
          allow_hyphen_values = true, requires = "attempts")]
    linear: Option<Duration>,
    /// The part of the wait that grows by the factor with each attempt
    #[arg(long, help_heading = RETRIES, value_name = "DURATION", value_parser = parse_duration,
          allow_hyphen_values = true, requires = "attempts")]
    exponential: Option<Duration>,
    /// The factor of growth, 1 to 100; 2 if it is left out
    #[arg(long, help_heading = RETRIES, value_name = "X", allow_negative_numbers = true, requires = "exponential")]
    factor: Option<f64>,
    /// The longest wait
    #[arg(long, help_heading = RETRIES, value_name = "DURATION", value_parser = parse_duration,
          allow_hyphen_values = true, requires = "attempts")]
    max_wait: Option<Duration>,
    /// A random addition, as a fraction of the wait, 0 to 1
    #[arg(long, help_heading = RETRIES, value_name = "X", allow_negative_numbers = true, requires = "attempts")]
    jitter: Option<f64>,
    /// Try again only after errors of this kind; may be repeated
    #[arg(long, help_heading = RETRIES, value_name = "KIND", requires = "attempts")]
    only_kind: Vec<String>,
    /// Never try again after errors of this kind; may be repeated
    #[arg(long, help_heading = RETRIES, value_name = "KIND", requires = "attempts")]
    never_kind: Vec<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LockModeArg {
    /// The first that can start
    FirstStartable,
    /// Only when every earlier job of the lock is final
    Strict,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ConflictArg {
    /// Refuse the second job, naming the first
    Reject,
    /// Move the first job to the new due time
    Reschedule,
    /// Give the first job the new arguments and the new due time
    Replace,
}

impl JobOptions {
    pub(crate) fn queueing_lock(&self) -> Option<&str> {
        self.queueing_lock.as_deref()
    }

    /// The job that is asked for. Reads the arguments; whatever else has a limit is checked by the broker.
    pub(crate) fn spec(&self) -> Outcome<JobSpec> {
        let wire = |option: &str, duration: Option<Duration>| {
            let wire = duration.map(duration_to_wire).transpose();
            wire.map_err(|error| Failure::usage(format!("{option}: {error}")))
        };
        let due = match (self.at, wire("--in", self.due_in)?) {
            (Some(at), _) => Some(Due::ScheduleAt(to_wire(at))),
            (None, after) => after.map(Due::ScheduleIn),
        };
        let retry = &self.retry;
        let wants_retries = retry.max_attempts.is_some() || retry.retry_forever;
        let policy = RetryPolicy {
            max_attempts: retry.max_attempts.unwrap_or(0),
            wait: wire("--wait", retry.wait)?,
            linear_wait: wire("--linear", retry.linear)?,
            exponential_wait: wire("--exponential", retry.exponential)?,
            exponential_factor: retry.factor.unwrap_or(0.0),
            max_wait: wire("--max-wait", retry.max_wait)?,
            jitter: retry.jitter.unwrap_or(0.0),
            only_kinds: retry.only_kind.clone(),
            never_kinds: retry.never_kind.clone(),
        };
        Ok(JobSpec {
            task: self.task.clone(),
            queue: self.queue.clone(),
            args: read_args(&self.args, io::stdin().lock())?.into(),
            priority: self.priority,
            lock: self.lock.clone().unwrap_or_default(),
            lock_mode: match self.lock_mode {
                None => LockMode::Unspecified,
                Some(LockModeArg::FirstStartable) => LockMode::FirstStartable,
                Some(LockModeArg::Strict) => LockMode::Strict,
            } as i32,
            queueing_lock: self.queueing_lock.clone().unwrap_or_default(),
            queueing_conflict: match self.on_conflict {
                None => QueueingConflict::Unspecified,
                Some(ConflictArg::Reject) => QueueingConflict::Reject,
                Some(ConflictArg::Reschedule) => QueueingConflict::Reschedule,
                Some(ConflictArg::Replace) => QueueingConflict::Replace,
            } as i32,
            due,
            deadline: self.deadline.map(to_wire),
            attempt_timeout: wire("--timeout", self.timeout)?,
            retry: wants_retries.then_some(policy),
            metadata: self.labels()?,
            traceparent: self.traceparent.clone().unwrap_or_default(),
            tracestate: self.tracestate.clone().unwrap_or_default(),
        })
    }

    fn labels(&self) -> Outcome<HashMap<String, String>> {
        let mut labels = HashMap::new();
        for (key, value) in &self.metadata {
            if labels.insert(key.clone(), value.clone()).is_some() {
                return Err(Failure::usage(format!("--metadata has the key {key:?} twice; give each key once")));
            }
        }
        Ok(labels)
    }
}

fn parse_priority(text: &str) -> Result<i32, String> {
    let priority = text.parse().ok().filter(|priority| (-PRIORITY_MAX..=PRIORITY_MAX).contains(priority));
    priority.ok_or_else(|| format!("priorities are whole numbers from -{PRIORITY_MAX} to {PRIORITY_MAX}"))
}

fn parse_attempts(text: &str) -> Result<u32, String> {
    let attempts = text.parse().ok().filter(|attempts| *attempts > 0);
    attempts.ok_or_else(|| {
        let most = u32::MAX;
        format!("it is a whole number from 1 (no second attempt) to {most}; for no limit, use --retry-forever")
    })
}

fn parse_label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("a label has a key and a value: write it as KEY=VALUE".to_owned()),
    }
}

/// The text of the arguments, which is sent as it is: only whether it is JSON is checked.
fn read_args(given: &str, stdin: impl Read) -> Outcome<Vec<u8>> {
    let (from, text) = if given == "-" {
        ("standard input".to_owned(), read(stdin, "standard input")?)
    } else if let Some(path) = given.strip_prefix('@') {
        let file = File::open(path).map_err(|error| Failure::usage(format!("cannot read {path}: {error}")))?;
        (path.to_owned(), read(file, path)?)
    } else {
        ("JSON".to_owned(), given.as_bytes().to_vec())
    };
    match serde_json::from_slice::<&RawValue>(&text) {
        // What a file or a pipe has around the value, such as its last line break, is no part of it.
        Ok(value) => Ok(value.get().as_bytes().to_vec()),
        Err(error) => Err(Failure::usage(format!("the arguments ({from}) are not valid JSON: {error}"))
            .remedy("quote them for the shell, as in '{\"name\": \"Ada\"}', or use @FILE")),
    }
}

fn read(source: impl Read, name: &str) -> Outcome<Vec<u8>> {
    let mut text = Vec::new();
    let read = source.take(ARGS_BYTES_MAX + 1).read_to_end(&mut text);
    read.map_err(|error| Failure::usage(format!("cannot read {name}: {error}")))?;
    if text.len() as u64 > ARGS_BYTES_MAX {
        return Err(Failure::usage(format!(
            "the arguments ({name}) are longer than a call can carry ({ARGS_BYTES_MAX} bytes); pass a reference to them"
        )));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::exit::Exit;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        job: JobOptions,
    }

    fn spec(line: &str) -> JobSpec {
        let line = std::iter::once("test").chain(line.split_whitespace());
        Line::try_parse_from(line).unwrap_or_else(|error| panic!("{error}")).job.spec().unwrap()
    }

    fn refusal(line: &str) -> String {
        let line = std::iter::once("test").chain(line.split_whitespace());
        Line::try_parse_from(line).err().expect("this line is not valid").to_string()
    }

    #[test]
    fn a_bare_task_has_no_options_and_empty_arguments() {
        let spec = spec("mail");
        assert_eq!((spec.task.as_str(), spec.queue.as_str(), &spec.args[..]), ("mail", "default", &b"{}"[..]));
        assert_eq!((spec.priority, spec.due, spec.retry), (0, None, None));
    }

    #[test]
    fn every_option_arrives_in_the_job() {
        let spec = spec(
            "mail [1] --queue q --priority -5 --lock l --lock-mode strict --queueing-lock ql --on-conflict replace \
             --in 1h30m --deadline 2031-01-01T00:00:00Z --timeout 30s --max-attempts 4 --wait 1s --linear 2s \
             --exponential 3s --factor 1.5 --max-wait 1h --jitter 0.1 --only-kind A --never-kind B \
             --metadata a=b=c --metadata d= --traceparent tp --tracestate ts",
        );
        let seconds = |n| Some(prost_types::Duration { seconds: n, nanos: 0 });
        assert_eq!(spec.priority, -5);
        assert_eq!(spec.lock_mode(), LockMode::Strict);
        assert_eq!(spec.queueing_conflict(), QueueingConflict::Replace);
        assert_eq!(spec.due, seconds(5_400).map(Due::ScheduleIn));
        assert_eq!(spec.attempt_timeout, seconds(30));
        assert_eq!((spec.metadata["a"].as_str(), spec.metadata["d"].as_str()), ("b=c", ""));
        assert_eq!((spec.traceparent.as_str(), spec.tracestate.as_str()), ("tp", "ts"));
        let retry = spec.retry.unwrap();
        assert_eq!((retry.max_attempts, retry.wait, retry.linear_wait), (4, seconds(1), seconds(2)));
        assert_eq!((retry.exponential_wait, retry.max_wait), (seconds(3), seconds(3_600)));
        assert_eq!((retry.only_kinds, retry.never_kinds), (vec!["A".to_owned()], vec!["B".to_owned()]));
    }

    #[test]
    fn to_retry_for_ever_is_no_limit() {
        assert_eq!(spec("mail --retry-forever --wait 1s").retry.unwrap().max_attempts, 0);
    }

    #[test]
    fn options_that_contradict_each_other_are_refused() {
        assert!(refusal("mail --in 1s --at 2031-01-01T00:00:00Z").contains("cannot be used with"));
        assert!(refusal("mail --max-attempts 2 --retry-forever").contains("cannot be used with"));
        assert!(refusal("mail --wait 1s").contains("--max-attempts"));
        assert!(refusal("mail --lock-mode strict").contains("--lock"));
        assert!(refusal("mail --max-attempts 0").contains("--retry-forever"));
        assert!(refusal("mail --at 2031-01-01T00:00:00").contains("no zone"));
        assert!(refusal("mail --metadata a").contains("KEY=VALUE"));
    }

    #[test]
    fn values_below_zero_and_beyond_a_limit_are_refused_by_option_limit_and_remedy() {
        for (line, option, says) in [
            ("mail --in -1s", "--in <DURATION>", "zero or more"),
            ("mail --in 1M", "--in <DURATION>", "write m for minutes"),
            ("mail --timeout -1s", "--timeout <DURATION>", "zero or more"),
            ("mail --max-attempts 2 --wait -1s", "--wait <DURATION>", "zero or more"),
            ("mail --max-attempts -1", "--max-attempts <N>", "for no limit, use --retry-forever"),
            ("mail --priority 3000000000", "--priority <N>", "from -100 to 100"),
            ("mail --priority -101", "--priority <N>", "from -100 to 100"),
        ] {
            let refusal = refusal(line);
            assert!(refusal.contains(option) && refusal.contains(says), "{refusal}");
        }
        // What fits into a call is judged by the broker.
        let retry = spec("mail --max-attempts 2 --jitter -1 --exponential 1s --factor -1").retry.unwrap();
        assert_eq!((retry.jitter, retry.exponential_factor), (-1.0, -1.0));
    }

    #[test]
    fn a_label_is_given_once() {
        let line = Line::try_parse_from(["test", "mail", "--metadata", "a=b", "--metadata", "a=c"]);
        let failure = line.unwrap_or_else(|error| panic!("{error}")).job.spec().unwrap_err();
        assert!(failure.to_string().contains("\"a\" twice"), "{failure}");
    }

    #[test]
    fn arguments_are_kept_byte_for_byte() {
        let text = r#"{"big": 123456789012345678901234567890, "a":  1.0}"#;
        assert_eq!(read_args(text, io::empty()).unwrap(), text.as_bytes());
        assert_eq!(read_args("-", &b" [1]\n"[..]).unwrap(), b"[1]");
    }

    #[test]
    fn arguments_that_are_no_json_are_refused_with_a_remedy() {
        let failure = read_args("{name: Ada}", io::empty()).unwrap_err();
        assert_eq!(failure.exit(), Exit::Usage);
        assert!(failure.to_string().contains("quote them"), "{failure}");
        assert_eq!(read_args("@/no/such/file", io::empty()).unwrap_err().exit(), Exit::Usage);
        let long = read_args("-", io::repeat(b' ')).unwrap_err();
        assert!(long.to_string().contains("4194304"), "{long}");
    }
}
