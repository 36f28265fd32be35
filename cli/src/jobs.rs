//! `job get`, `job list`, `job cancel`.

mod list;
mod show;
pub(crate) mod state;
pub(crate) mod view;
pub(crate) mod wait;

use cabbage_proto::v1::{CancelJobRequest, GetJobRequest, JobState};
use clap::{Args, Subcommand, builder::NonEmptyStringValueParser};
use serde::Serialize;
use uuid::Uuid;

use crate::{
    brokers::{BrokerArgs, job_service},
    exit::{Exit, Failure, Outcome},
    output::OutputArgs,
    refusal::Effect,
};
use view::JobView;

/// Look at jobs, and act on single ones.
#[derive(Debug, Subcommand)]
pub(crate) enum JobCommand {
    /// Show a job with its arguments and its attempts
    Get(GetArgs),
    /// List jobs, newest first
    List(list::ListArgs),
    /// Cancel a job; one that runs is told to stop
    Cancel(CancelArgs),
}

#[derive(Args, Debug)]
pub(crate) struct GetArgs {
    /// The id of the job
    #[arg(value_parser = parse_id)]
    id: i64,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    brokers: BrokerArgs,
}

#[derive(Args, Debug)]
pub(crate) struct CancelArgs {
    /// The id of the job
    #[arg(value_parser = parse_id)]
    id: i64,
    /// Why, for the record
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Names this call: to repeat it within 24 h gives the same answer. Made up if left out
    #[arg(long, value_name = "ID", value_parser = NonEmptyStringValueParser::new())]
    request_id: Option<String>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    brokers: BrokerArgs,
}

/// The answer to a cancel as JSON.
#[derive(Debug, Serialize)]
struct Cancelled {
    job_id: String,
    state: &'static str,
}

impl JobCommand {
    pub(crate) async fn run(&self) -> Outcome {
        match self {
            Self::Get(args) => args.run().await,
            Self::List(args) => args.run().await,
            Self::Cancel(args) => args.run().await,
        }
    }
}

impl GetArgs {
    async fn run(&self) -> Outcome {
        let request = GetJobRequest { job_id: self.id, include_args: true, include_history: true };
        let doing = format!("cannot show job {}", self.id);
        let answer = self
            .brokers
            .call(&doing, Effect::Reads, async |channel| job_service(channel).get_job(request).await)
            .await?;
        let job = answer.job.ok_or_else(|| Failure::new(Exit::Failure, format!("{doing}: the answer has no job")))?;
        self.output.print(|| show::page(&job), &JobView::of(&job))
    }
}

impl CancelArgs {
    async fn run(&self) -> Outcome {
        let request_id = self.request_id.clone().unwrap_or_else(|| Uuid::new_v4().to_string());
        let request = CancelJobRequest { job_id: self.id, request_id, reason: self.reason.clone().unwrap_or_default() };
        let doing = format!("cannot cancel job {}", self.id);
        let answer = self
            .brokers
            .call(&doing, Effect::Changes, async |channel| job_service(channel).cancel_job(request.clone()).await)
            .await?;
        let state = answer.state();
        let word = state::word(state);
        let said = match state {
            JobState::Running => "is running; its handler was told to stop".to_owned(),
            _ => word.to_owned(),
        };
        let cancelled = Cancelled { job_id: self.id.to_string(), state: word };
        self.output.print(|| format!("{} {said}", self.id), &cancelled)?;
        match state {
            JobState::Succeeded | JobState::Failed => {
                Err(Failure::new(Exit::Conflict, format!("{doing}: it had {word} already; nothing was changed")))
            }
            _ => Ok(()),
        }
    }
}

fn parse_id(text: &str) -> Result<i64, String> {
    match text.parse::<i64>() {
        Ok(id) if id > 0 => Ok(id),
        _ => Err("the id of a job is a whole number from 1, as `defer` and `job list` print it".to_owned()),
    }
}
