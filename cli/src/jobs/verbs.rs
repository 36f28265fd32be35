//! `job cancel`, `retry`, `reschedule`, `run-now` and `delete`: verbs on one job or several.

use std::time::Duration;

use cabbage_proto::v1::{CancelJobRequest, DeleteJobRequest, JobState, RescheduleJobRequest, RetryJobRequest};
use chrono::{DateTime, Utc};
use clap::{ArgGroup, Args, builder::NonEmptyStringValueParser};
use prost_types::Timestamp;
use serde::Serialize;
use uuid::Uuid;

use super::{parse_id, state};
use crate::{
    brokers::{BrokerArgs, job_service},
    exit::{Exit, Failure, Outcome},
    output::{Format, OutputArgs, print_line, say},
    refusal::Effect,
    time::{from_now, parse_duration, parse_instant, to_wire},
};

/// Which jobs, and why.
#[derive(Args, Debug)]
pub(crate) struct VerbArgs {
    /// The ids of the jobs
    #[arg(value_name = "ID", value_parser = parse_id, required = true)]
    ids: Vec<i64>,
    /// Why, for the record
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    reason: String,
    /// Names this call: to repeat it within 24 h gives the same answer. For one job alone; made up if left out
    #[arg(long, value_name = "ID", value_parser = NonEmptyStringValueParser::new())]
    request_id: Option<String>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    brokers: BrokerArgs,
}

/// When a job becomes due again.
#[derive(Args, Debug)]
pub(crate) struct RetryArgs {
    #[command(flatten)]
    verb: VerbArgs,
    /// Due at this instant, as RFC 3339 with a zone: 2031-05-09T17:30:00Z. Left out: now
    #[arg(long, value_name = "TIME", value_parser = parse_instant, conflicts_with = "due_in")]
    at: Option<DateTime<Utc>>,
    /// Due after this time, such as 1h30m, by this machine's clock
    #[arg(long = "in", id = "due_in", value_name = "DURATION", value_parser = parse_duration,
          allow_hyphen_values = true)]
    due_in: Option<Duration>,
}

/// When a job becomes due.
#[derive(Args, Debug)]
#[command(group = ArgGroup::new("due").args(["at", "due_in"]).required(true))]
pub(crate) struct RescheduleArgs {
    #[command(flatten)]
    verb: VerbArgs,
    /// Due at this instant, as RFC 3339 with a zone: 2031-05-09T17:30:00Z
    #[arg(long, value_name = "TIME", value_parser = parse_instant)]
    at: Option<DateTime<Utc>>,
    /// Due after this time, such as 1h30m, by this machine's clock
    #[arg(long = "in", id = "due_in", value_name = "DURATION", value_parser = parse_duration,
          allow_hyphen_values = true)]
    due_in: Option<Duration>,
}

/// What to do with each job.
#[derive(Clone, Copy, Debug)]
enum Act {
    Cancel,
    Retry(Option<Timestamp>),
    Reschedule(Option<Timestamp>),
    Delete,
}

/// What became of each job, as JSON.
#[derive(Debug, Serialize)]
struct Acted {
    jobs: Vec<ActedJob>,
}

#[derive(Debug, Serialize)]
struct ActedJob {
    job_id: String,
    /// The state that it has now, or `deleted`; left out where it was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl RetryArgs {
    pub(crate) async fn run(&self) -> Outcome {
        self.verb.act(Act::Retry(due(self.at, self.due_in)?)).await
    }
}

impl RescheduleArgs {
    pub(crate) async fn run(&self) -> Outcome {
        self.verb.act(Act::Reschedule(due(self.at, self.due_in)?)).await
    }
}

impl VerbArgs {
    pub(crate) async fn cancel(&self) -> Outcome {
        self.act(Act::Cancel).await
    }

    pub(crate) async fn run_now(&self) -> Outcome {
        self.act(Act::Reschedule(None)).await
    }

    pub(crate) async fn delete(&self) -> Outcome {
        self.act(Act::Delete).await
    }

    /// Each job by itself: what one of them is refused does not stop the others.
    async fn act(&self, act: Act) -> Outcome {
        if self.request_id.is_some() && self.ids.len() > 1 {
            return Err(Failure::usage("--request-id names one call: give one job, or leave it out"));
        }
        let is_table = self.output.format == Format::Table;
        let mut jobs = Vec::with_capacity(self.ids.len());
        let mut failures = Vec::new();
        for id in &self.ids {
            let acted = self.act_on(act, *id).await;
            let job_id = id.to_string();
            match acted {
                Ok(state) => {
                    if is_table {
                        print_line(&format!("{id} {}", said(state)))?;
                    }
                    jobs.push(ActedJob { job_id, state: Some(state), error: None });
                }
                Err(failure) => {
                    jobs.push(ActedJob { job_id, state: None, error: Some(failure.to_string()) });
                    failures.push(failure);
                }
            }
        }
        if !is_table {
            self.output.print(String::new, &Acted { jobs })?;
        }
        if failures.len() == 1 && self.ids.len() == 1 {
            return failures.pop().map_or(Ok(()), Err);
        }
        for failure in &failures {
            say(format_args!("cabbage-cli: {failure}"));
        }
        let Some(first) = failures.first() else { return Ok(()) };
        // One code for all of them, if they failed alike.
        let alike = failures.iter().all(|failure| failure.exit() == first.exit());
        let exit = if alike { first.exit() } else { Exit::Failure };
        Err(Failure::new(exit, format!("{} of {} jobs: not done", failures.len(), self.ids.len())))
    }

    /// Gives the word for what the job is now.
    async fn act_on(&self, act: Act, job_id: i64) -> Outcome<&'static str> {
        let request_id = self.request_id.clone().unwrap_or_else(|| Uuid::new_v4().to_string());
        let doing = format!("cannot {} job {job_id}", act.word());
        let (reason, brokers) = (self.reason.clone(), &self.brokers);
        let explained = |failure: Failure| match failure.exit() {
            Exit::Unknown => failure.remedy(format!("to repeat it with --request-id {request_id} is safe")),
            _ => failure,
        };
        match act {
            Act::Cancel => {
                let request = CancelJobRequest { job_id, request_id: request_id.clone(), reason };
                let call = async |channel| job_service(channel).cancel_job(brokers.signed(request.clone())).await;
                let state = brokers.call(&doing, Effect::Changes, call).await.map_err(explained)?.state();
                match state {
                    JobState::Succeeded | JobState::Failed => {
                        let word = state::word(state);
                        Err(Failure::new(
                            Exit::Conflict,
                            format!("{doing}: it had {word} already; nothing was changed"),
                        ))
                    }
                    _ => Ok(state::word(state)),
                }
            }
            Act::Retry(schedule_at) => {
                let request = RetryJobRequest { job_id, request_id: request_id.clone(), reason, schedule_at };
                let call = async |channel| job_service(channel).retry_job(brokers.signed(request.clone())).await;
                let answer = brokers.call(&doing, Effect::Changes, call).await.map_err(explained)?;
                Ok(state::word(answer.state()))
            }
            Act::Reschedule(schedule_at) => {
                let request = RescheduleJobRequest { job_id, request_id: request_id.clone(), reason, schedule_at };
                let call = async |channel| job_service(channel).reschedule_job(brokers.signed(request.clone())).await;
                let answer = brokers.call(&doing, Effect::Changes, call).await.map_err(explained)?;
                Ok(state::word(answer.state()))
            }
            Act::Delete => {
                let request = DeleteJobRequest { job_id, request_id: request_id.clone(), reason };
                let call = async |channel| job_service(channel).delete_job(brokers.signed(request.clone())).await;
                brokers.call(&doing, Effect::Changes, call).await.map_err(explained)?;
                Ok("deleted")
            }
        }
    }
}

impl Act {
    fn word(self) -> &'static str {
        match self {
            Self::Cancel => "cancel",
            Self::Retry(_) => "retry",
            Self::Reschedule(_) => "reschedule",
            Self::Delete => "delete",
        }
    }
}

/// The instant that was named, or the one after so long.
fn due(at: Option<DateTime<Utc>>, due_in: Option<Duration>) -> Outcome<Option<Timestamp>> {
    let after = due_in.map(from_now).transpose().map_err(|error| Failure::usage(format!("--in: {error}")))?;
    Ok(at.or(after).map(to_wire))
}

/// What a job is now, for people.
fn said(state: &str) -> &str {
    // Of all verbs only a cancel leaves a job running.
    if state == state::word(JobState::Running) { "is running; its handler was told to stop" } else { state }
}
