//! Schedules: jobs by the clock (C12).

use cabbage_proto::v1;

use super::{Client, Deferred, NewJob, call::Schedules};
use crate::{Error, random};

/// Schedules that one call asks for.
const PAGE_SCHEDULES: u32 = 1_000;

/// What happens to ticks that nobody was there to defer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MissedTicks {
    /// Of those that have come, the latest is deferred, however late.
    #[default]
    Latest,
    /// Of those that have come, the latest is deferred, if it is no later than the broker's grace (60 s).
    Skip,
    /// Each is deferred, the newest 1,000 at most.
    All,
}

/// A schedule to put: a name, a cron expression, and the job to defer at each tick.
///
/// ```
/// use cabbage_worker::{MissedTicks, NewJob, NewSchedule};
///
/// let nightly = NewSchedule::new("clean_up", "30 2 * * *", NewJob::named("clean_up"))
///     .time_zone("Europe/Berlin")
///     .missed_ticks(MissedTicks::Skip);
/// ```
#[derive(Debug)]
#[must_use = "a schedule is there only when it is put"]
pub struct NewSchedule {
    schedule: v1::Schedule,
    job: NewJob,
}

impl NewSchedule {
    /// A schedule of this name (1 to 128 bytes). The expression has 5 fields, or 6 with seconds first; the broker
    /// checks it. The job must have no time and no deadline of its own.
    pub fn new(name: impl Into<String>, cron: impl Into<String>, job: impl Into<NewJob>) -> Self {
        let schedule = v1::Schedule { name: name.into(), cron: cron.into(), ..v1::Schedule::default() };
        Self { schedule, job: job.into() }
    }

    /// The time zone of the expression, by its IANA name. Default: UTC.
    pub fn time_zone(mut self, zone: impl Into<String>) -> Self {
        self.schedule.time_zone = zone.into();
        self
    }

    /// What happens to ticks that nobody was there to defer. Default: the latest is deferred.
    pub fn missed_ticks(mut self, missed: MissedTicks) -> Self {
        let missed = match missed {
            MissedTicks::Latest => v1::MissedTicks::Latest,
            MissedTicks::Skip => v1::MissedTicks::Skip,
            MissedTicks::All => v1::MissedTicks::All,
        };
        self.schedule.set_missed_ticks(missed);
        self
    }

    /// It begins paused, if it is new.
    pub fn paused(mut self) -> Self {
        self.schedule.paused = true;
        self
    }

    /// What will be sent, if the arguments could be written.
    pub fn into_schedule(self) -> Result<v1::Schedule, Error> {
        let job = self.job.into_spec()?;
        Ok(v1::Schedule { job: Some(job), ..self.schedule })
    }
}

impl Client {
    /// Creates a schedule, or changes the one of that name. To put the same again changes nothing: it keeps its last
    /// tick, and stays paused if it was.
    pub async fn put_schedule(&self, schedule: NewSchedule) -> Result<v1::Schedule, Error> {
        self.put_checked(schedule.into_schedule()?).await
    }

    pub(crate) async fn put_checked(&self, schedule: v1::Schedule) -> Result<v1::Schedule, Error> {
        let request = v1::PutScheduleRequest {
            schedule: Some(schedule),
            request_id: random::unique_name(),
            reason: String::new(),
        };
        let call = self
            .calls
            .call_on(request, |mut service: Schedules, request| async move { service.put_schedule(request).await });
        call.await?.schedule.ok_or(NO_SCHEDULE)
    }

    /// Shows one schedule with its next ticks.
    pub async fn get_schedule(&self, name: impl Into<String>) -> Result<v1::Schedule, Error> {
        let request = v1::GetScheduleRequest { name: name.into() };
        let call = self
            .calls
            .call_on(request, |mut service: Schedules, request| async move { service.get_schedule(request).await });
        call.await?.schedule.ok_or(NO_SCHEDULE)
    }

    /// All schedules, by name.
    pub async fn list_schedules(&self) -> Result<Vec<v1::Schedule>, Error> {
        let mut schedules = Vec::new();
        let mut request = v1::ListSchedulesRequest { page_size: PAGE_SCHEDULES, page_token: String::new() };
        loop {
            let call = self.calls.call_on(request.clone(), |mut service: Schedules, request| async move {
                service.list_schedules(request).await
            });
            let page = call.await?;
            schedules.extend(page.schedules);
            if page.next_page_token.is_empty() {
                return Ok(schedules);
            }
            request.page_token = page.next_page_token;
        }
    }

    /// Takes a schedule away. Its jobs stay.
    pub async fn delete_schedule(&self, name: impl Into<String>, reason: impl Into<String>) -> Result<(), Error> {
        let (name, request_id, reason) = (name.into(), random::unique_name(), reason.into());
        let request = v1::DeleteScheduleRequest { name, request_id, reason };
        let call = self
            .calls
            .call_on(request, |mut service: Schedules, request| async move { service.delete_schedule(request).await });
        call.await.map(drop)
    }

    /// No tick of the schedule is deferred any more.
    pub async fn pause_schedule(
        &self,
        name: impl Into<String>,
        reason: impl Into<String>,
    ) -> Result<v1::Schedule, Error> {
        let (name, request_id, reason) = (name.into(), random::unique_name(), reason.into());
        let request = v1::PauseScheduleRequest { name, request_id, reason };
        let call = self
            .calls
            .call_on(request, |mut service: Schedules, request| async move { service.pause_schedule(request).await });
        call.await?.schedule.ok_or(NO_SCHEDULE)
    }

    /// Its ticks are deferred again, from now on.
    pub async fn resume_schedule(
        &self,
        name: impl Into<String>,
        reason: impl Into<String>,
    ) -> Result<v1::Schedule, Error> {
        let (name, request_id, reason) = (name.into(), random::unique_name(), reason.into());
        let request = v1::ResumeScheduleRequest { name, request_id, reason };
        let call = self
            .calls
            .call_on(request, |mut service: Schedules, request| async move { service.resume_schedule(request).await });
        call.await?.schedule.ok_or(NO_SCHEDULE)
    }

    /// Defers the schedule's job now, beside its ticks. The job has no [`JobInfo::tick`](crate::JobInfo::tick).
    pub async fn run_schedule(&self, name: impl Into<String>, reason: impl Into<String>) -> Result<Deferred, Error> {
        let (name, request_id, reason) = (name.into(), random::unique_name(), reason.into());
        let request = v1::RunScheduleRequest { name, request_id, reason };
        let call = self
            .calls
            .call_on(request, |mut service: Schedules, request| async move { service.run_schedule(request).await });
        Ok(Deferred { job_id: call.await?.job_id, repeated_call: false, existing_job: false })
    }
}

const NO_SCHEDULE: Error = Error::Malformed("no schedule");
