//! `schedule put`.

use cabbage_proto::v1::{MissedTicks, PutScheduleRequest, Schedule};
use clap::{Args, ValueEnum};

use super::{CallArgs, print, service, shown};
use crate::{brokers::BrokerArgs, defer::spec::JobOptions, exit::Outcome, output::OutputArgs, refusal::Effect};

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  cabbage-cli schedule put nightly '30 2 * * *' clean_up --time-zone Europe/Berlin
  cabbage-cli schedule put poll '*/10 * * * * *' poll '{\"feed\": 7}' --queueing-lock poll --missed skip")]
pub(crate) struct PutArgs {
    /// The name of the schedule
    name: String,
    /// When: minute, hour, day of month, month, day of week; with seconds first if there are six fields
    cron: String,
    #[command(flatten)]
    job: JobOptions,
    /// The time zone of the expression, by its IANA name
    #[arg(long, value_name = "ZONE", default_value = "UTC")]
    time_zone: String,
    /// What to do about ticks that nobody was there to defer
    #[arg(long, value_name = "RULE", value_enum, default_value_t = MissedArg::Latest)]
    missed: MissedArg,
    /// Begin paused, if the schedule is new
    #[arg(long)]
    paused: bool,
    #[command(flatten)]
    call: CallArgs,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    brokers: BrokerArgs,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum MissedArg {
    /// Defer the latest, however late
    Latest,
    /// Defer the latest if it is no later than a minute
    Skip,
    /// Defer each, the newest 1,000 at most
    All,
}

impl PutArgs {
    pub(super) async fn run(&self) -> Outcome {
        let missed = match self.missed {
            MissedArg::Latest => MissedTicks::Latest,
            MissedArg::Skip => MissedTicks::Skip,
            MissedArg::All => MissedTicks::All,
        };
        let schedule = Schedule {
            name: self.name.clone(),
            cron: self.cron.clone(),
            time_zone: self.time_zone.clone(),
            job: Some(self.job.spec()?),
            missed_ticks: missed.into(),
            paused: self.paused,
            ..Schedule::default()
        };
        let request = PutScheduleRequest {
            schedule: Some(schedule),
            request_id: self.call.request_id(),
            reason: self.call.reason.clone(),
        };
        let doing = format!("cannot put schedule {:?}", self.name);
        let call = async |channel| service(channel).put_schedule(self.brokers.signed(request.clone())).await;
        let schedule = shown(&doing, self.brokers.call(&doing, Effect::Changes, call).await?.schedule)?;
        print(self.output, &schedule, None)
    }
}
