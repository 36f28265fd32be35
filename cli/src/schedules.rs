//! `schedule put`, `list`, `show`, `pause`, `resume`, `run`, `delete`.

mod pause;
mod put;
mod view;

use cabbage_proto::v1::{
    AuditEntry, DeleteScheduleRequest, GetScheduleRequest, ListSchedulesRequest, PauseScheduleRequest,
    ResumeScheduleRequest, RunScheduleRequest, Schedule, schedule_service_client::ScheduleServiceClient,
};
use clap::{Args, Subcommand, builder::NonEmptyStringValueParser};
use serde::Serialize;
use tonic::transport::Channel;
use uuid::Uuid;

use crate::{
    brokers::BrokerArgs,
    exit::{Exit, Failure, Outcome},
    output::{Format, OutputArgs, say},
    refusal::Effect,
};
use view::ScheduleView;

/// Run jobs by the clock.
#[derive(Debug, Subcommand)]
pub(crate) enum ScheduleCommand {
    /// Create a schedule, or change the one of that name
    Put(Box<put::PutArgs>),
    /// List schedules, with their next runs
    List(ListArgs),
    /// Show a schedule, with its next runs in its own zone and in UTC
    Show(ShowArgs),
    /// Defer no tick any more
    Pause(NamedArgs),
    /// Defer ticks again, from now on
    Resume(NamedArgs),
    /// Defer the schedule's job now, beside its ticks, and print its id
    Run(NamedArgs),
    /// Take a schedule away; its jobs stay
    Delete(NamedArgs),
}

#[derive(Args, Debug)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    brokers: BrokerArgs,
}

#[derive(Args, Debug)]
pub(crate) struct ShowArgs {
    /// The name of the schedule
    name: String,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    brokers: BrokerArgs,
}

#[derive(Args, Debug)]
pub(crate) struct NamedArgs {
    /// The name of the schedule
    name: String,
    #[command(flatten)]
    call: CallArgs,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    brokers: BrokerArgs,
}

/// What every call that changes something can carry.
#[derive(Args, Debug)]
pub(crate) struct CallArgs {
    /// Why, for the record
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    reason: String,
    /// Names this call: to repeat it within 24 h gives the same answer. Made up if left out
    #[arg(long, value_name = "ID", value_parser = NonEmptyStringValueParser::new())]
    request_id: Option<String>,
}

impl CallArgs {
    fn request_id(&self) -> String {
        self.request_id.clone().unwrap_or_else(|| Uuid::new_v4().to_string())
    }
}

/// Every schedule as JSON.
#[derive(Debug, Serialize)]
struct Listed<'a> {
    schedules: Vec<ScheduleView<'a>>,
}

/// The answer to a run as JSON.
#[derive(Debug, Serialize)]
struct Started {
    job_id: String,
}

/// The answer to a deletion as JSON.
#[derive(Debug, Serialize)]
struct Deleted<'a> {
    deleted: &'a str,
}

impl ScheduleCommand {
    pub(crate) async fn run(&self) -> Outcome {
        match self {
            Self::Put(args) => args.run().await,
            Self::List(args) => args.run().await,
            Self::Show(args) => args.run().await,
            Self::Pause(args) => args.pause().await,
            Self::Resume(args) => args.resume().await,
            Self::Run(args) => args.start().await,
            Self::Delete(args) => args.delete().await,
        }
    }
}

impl ListArgs {
    async fn run(&self) -> Outcome {
        let mut schedules: Vec<Schedule> = Vec::new();
        let mut request = ListSchedulesRequest::default();
        loop {
            let page = self
                .brokers
                .call("cannot list schedules", Effect::Reads, async |channel| {
                    service(channel).list_schedules(request.clone()).await
                })
                .await?;
            schedules.extend(page.schedules);
            request.page_token = page.next_page_token;
            if request.page_token.is_empty() {
                break;
            }
        }
        let listed = Listed { schedules: schedules.iter().map(ScheduleView::of).collect() };
        self.output.print(|| view::rows(&schedules), &listed)?;
        if self.output.format == Format::Table && schedules.is_empty() {
            say("no schedules");
        }
        Ok(())
    }
}

impl ShowArgs {
    async fn run(&self) -> Outcome {
        let request = GetScheduleRequest { name: self.name.clone() };
        let doing = format!("cannot show schedule {:?}", self.name);
        let call = async |channel| service(channel).get_schedule(request.clone()).await;
        let schedule = shown(&doing, self.brokers.call(&doing, Effect::Reads, call).await?.schedule)?;
        let pause = pause::cause(&self.brokers, &schedule).await?;
        print(self.output, &schedule, pause.as_ref())
    }
}

impl NamedArgs {
    async fn pause(&self) -> Outcome {
        let (name, request_id, reason) = self.parts();
        let request = PauseScheduleRequest { name, request_id, reason };
        let doing = format!("cannot pause schedule {:?}", self.name);
        let call = async |channel| service(channel).pause_schedule(self.brokers.signed(request.clone())).await;
        let schedule = shown(&doing, self.brokers.call(&doing, Effect::Changes, call).await?.schedule)?;
        // It is paused, whether or not it can be read who did it first.
        let pause = pause::cause(&self.brokers, &schedule).await.unwrap_or_default();
        print(self.output, &schedule, pause.as_ref())
    }

    async fn resume(&self) -> Outcome {
        let (name, request_id, reason) = self.parts();
        let request = ResumeScheduleRequest { name, request_id, reason };
        let doing = format!("cannot resume schedule {:?}", self.name);
        let call = async |channel| service(channel).resume_schedule(self.brokers.signed(request.clone())).await;
        let schedule = shown(&doing, self.brokers.call(&doing, Effect::Changes, call).await?.schedule)?;
        print(self.output, &schedule, None)
    }

    async fn start(&self) -> Outcome {
        let (name, request_id, reason) = self.parts();
        let request = RunScheduleRequest { name, request_id, reason };
        let doing = format!("cannot run schedule {:?}", self.name);
        let call = async |channel| service(channel).run_schedule(self.brokers.signed(request.clone())).await;
        let job_id = self.brokers.call(&doing, Effect::Changes, call).await?.job_id;
        self.output.print(|| job_id.to_string(), &Started { job_id: job_id.to_string() })
    }

    async fn delete(&self) -> Outcome {
        let (name, request_id, reason) = self.parts();
        let request = DeleteScheduleRequest { name, request_id, reason };
        let doing = format!("cannot delete schedule {:?}", self.name);
        let call = async |channel| service(channel).delete_schedule(self.brokers.signed(request.clone())).await;
        self.brokers.call(&doing, Effect::Changes, call).await?;
        self.output.print(|| format!("{} deleted", self.name), &Deleted { deleted: &self.name })
    }

    fn parts(&self) -> (String, String, String) {
        (self.name.clone(), self.call.request_id(), self.call.reason.clone())
    }
}

fn service(channel: Channel) -> ScheduleServiceClient<Channel> {
    ScheduleServiceClient::new(channel)
}

/// The schedule of an answer.
fn shown(doing: &str, schedule: Option<Schedule>) -> Outcome<Schedule> {
    schedule.ok_or_else(|| Failure::new(Exit::Failure, format!("{doing}: the answer has no schedule")))
}

/// Prints a schedule, and what paused it where that is known.
fn print(output: OutputArgs, schedule: &Schedule, pause: Option<&AuditEntry>) -> Outcome {
    output.print(|| view::page(schedule, pause), &ScheduleView::of(schedule).paused_by(pause))
}
