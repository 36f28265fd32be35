//! `defer`: creates a job.

pub(crate) mod spec;

use std::time::Duration;

use cabbage_proto::v1::{DeferJobRequest, DeferJobResponse};
use clap::{Args, builder::NonEmptyStringValueParser};
use serde::Serialize;
use tonic::Code;
use uuid::Uuid;

use crate::{
    brokers::{BrokerArgs, job_service},
    exit::{Exit, Failure, Outcome},
    jobs::wait,
    output::{Format, OutputArgs, say},
    refusal::{self, Effect},
    time::parse_duration,
};
use spec::JobOptions;

/// What was tried, for errors.
const DOING: &str = "cannot defer the job";

/// Create a job, and print its id
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  cabbage-cli defer greet '{\"name\": \"Ada\"}'
  cabbage-cli defer report @args.json --in 1h30m --max-attempts 5 --exponential 10s
  cabbage-cli defer sync --queueing-lock sync --ignore-duplicate --await=1m
  cabbage-cli defer index '{\"page\": 7}' --in 10s --queueing-lock page-7 --on-conflict replace")]
pub(crate) struct DeferArgs {
    #[command(flatten)]
    job: JobOptions,
    /// Take it for a success if the queueing lock is taken; the id printed is that of the job that carries it
    #[arg(long, requires = "queueing_lock", visible_alias = "ignore-already-enqueued")]
    ignore_duplicate: bool,
    /// Names this call: to repeat it within 24 h changes nothing and gives the same id. Made up if left out
    #[arg(long, value_name = "ID", value_parser = NonEmptyStringValueParser::new())]
    request_id: Option<String>,
    /// Wait until the job is final, at most this long, and print its result; exit code 1 if it did not succeed, 7 if it
    /// was not final in time: the id is printed even so
    #[arg(long = "await", value_name = "DURATION", value_parser = parse_duration, num_args = 0..=1,
          require_equals = true, default_missing_value = "365d")]
    await_limit: Option<Duration>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    brokers: BrokerArgs,
}

/// The answer as JSON.
#[derive(Debug, Serialize)]
struct Deferred<'a> {
    job_id: String,
    request_id: &'a str,
    already_enqueued: bool,
    repeated_call: bool,
    existing_job: bool,
}

impl DeferArgs {
    pub(crate) async fn run(&self) -> Outcome {
        let request_id = self.request_id.clone().unwrap_or_else(|| Uuid::new_v4().to_string());
        let request = DeferJobRequest { job: Some(self.job.spec()?), request_id: request_id.clone() };
        let answer = self
            .brokers
            .ask(DOING, Effect::Changes, async |channel| job_service(channel).defer_job(request.clone()).await)
            .await?;
        let (answer, already_enqueued) = match answer {
            Ok(answer) => (answer, false),
            Err(status) => match self.first_job(&status) {
                Some(job_id) => (DeferJobResponse { job_id, repeated_call: false, existing_job: true }, true),
                None => return Err(explain(&status, &request_id)),
            },
        };
        let job_id = answer.job_id;
        if already_enqueued {
            let lock = self.job.queueing_lock().unwrap_or_default();
            say(format_args!(
                "already enqueued: job {job_id} carries the queueing lock {lock:?}; nothing was created (ignored)"
            ));
        } else if answer.repeated_call {
            say(format_args!("this call was made before; job {job_id} is its answer, nothing was created"));
        } else if answer.existing_job {
            let lock = self.job.queueing_lock().unwrap_or_default();
            say(format_args!(
                "job {job_id} carries the queueing lock {lock:?}, and was moved or replaced; nothing was created"
            ));
        }
        let deferred = Deferred {
            job_id: job_id.to_string(),
            request_id: &request_id,
            already_enqueued,
            repeated_call: answer.repeated_call,
            existing_job: answer.existing_job,
        };
        let print = || self.output.print(|| job_id.to_string(), &deferred);
        // Programs get one document: the job at its end, or, where that is not seen, the answer.
        let is_table = self.output.format == Format::Table;
        if self.await_limit.is_none() || is_table {
            print()?;
        }
        let Some(limit) = self.await_limit else { return Ok(()) };
        let job = match wait::until_final(&self.brokers, job_id, limit).await {
            Ok(job) => job,
            Err(failure) if is_table => return Err(failure),
            Err(failure) => {
                print()?;
                return Err(failure);
            }
        };
        wait::report(self.output, &job)
    }

    /// The job that carries the queueing lock, where that is no failure.
    fn first_job(&self, status: &tonic::Status) -> Option<i64> {
        let taken = refusal::reason(status).as_deref() == Some("QUEUEING_LOCK_TAKEN");
        if !(self.ignore_duplicate && taken) {
            return None;
        }
        refusal::detail(status, "job_id")?.parse().ok()
    }
}

fn explain(status: &tonic::Status, request_id: &str) -> Failure {
    let failure = refusal::failure(DOING, status, Effect::Changes);
    if failure.exit() == Exit::Unknown {
        return failure.remedy(format!(
            "nobody knows whether the job exists; to repeat the command with --request-id {request_id} is safe"
        ));
    }
    match (status.code(), refusal::reason(status).as_deref()) {
        (Code::AlreadyExists, Some("QUEUEING_LOCK_TAKEN")) => failure.remedy(
            "if that is fine, say so with --ignore-duplicate; to move the waiting job instead, see --on-conflict",
        ),
        (Code::AlreadyExists, Some("REQUEST_ID_REUSED")) => {
            failure.remedy("leave --request-id out, and the call gets an id of its own")
        }
        _ => failure,
    }
}
