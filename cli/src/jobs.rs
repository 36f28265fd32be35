//! `job`: looking at jobs, and verbs on single ones.

mod list;
pub(crate) mod options;
mod show;
pub(crate) mod state;
mod verbs;
pub(crate) mod view;
pub(crate) mod wait;

use cabbage_proto::v1::GetJobRequest;
use clap::{Args, Subcommand};
use serde::Serialize;

use crate::{
    audit::{self, EntryView},
    brokers::{BrokerArgs, job_service},
    exit::{Exit, Failure, Outcome},
    output::OutputArgs,
    refusal::Effect,
};
use verbs::{RescheduleArgs, RetryArgs, VerbArgs};
use view::JobView;

/// How much of what was asked of a job is shown with it.
const AUDIT_SHOWN_MAX: u32 = 20;

/// Look at jobs, and act on single ones.
#[derive(Debug, Subcommand)]
pub(crate) enum JobCommand {
    /// Show a job with its arguments, its attempts, and what was asked of it
    #[command(visible_alias = "show")]
    Get(GetArgs),
    /// List jobs, newest first
    List(list::ListArgs),
    /// Cancel jobs; one that runs is told to stop
    Cancel(VerbArgs),
    /// Run final jobs again, with a new budget of attempts
    Retry(RetryArgs),
    /// Move jobs that do not run to another due time
    Reschedule(RescheduleArgs),
    /// Make jobs due now that are scheduled for later
    RunNow(VerbArgs),
    /// Erase final jobs with their outcomes
    Delete(VerbArgs),
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

/// A job as JSON, with what was asked of it.
#[derive(Debug, Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    job: JobView<'a>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    audit: Vec<EntryView<'a>>,
}

impl JobCommand {
    pub(crate) async fn run(&self) -> Outcome {
        match self {
            Self::Get(args) => args.run().await,
            Self::List(args) => args.run().await,
            Self::Cancel(args) => args.cancel().await,
            Self::Retry(args) => args.run().await,
            Self::Reschedule(args) => args.run().await,
            Self::RunNow(args) => args.run_now().await,
            Self::Delete(args) => args.delete().await,
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
        let (entries, _) = audit::page(&self.brokers, self.id, AUDIT_SHOWN_MAX, String::new()).await?;
        let shown = Shown { job: JobView::of(&job), audit: entries.iter().map(EntryView::of).collect() };
        self.output.print(|| show::page(&job, &entries), &shown)
    }
}

fn parse_id(text: &str) -> Result<i64, String> {
    match text.parse::<i64>() {
        Ok(id) if id > 0 => Ok(id),
        _ => Err("the id of a job is a whole number from 1, as `defer` and `job list` print it".to_owned()),
    }
}
