//! `ScheduleService`: jobs by the clock (C12).

use std::{fmt::Write as _, sync::Arc};

use cabbage_proto::v1::{self, schedule_service_server::ScheduleService};
use prost::Message as _;
use tonic::{Request, Response, Status};

use crate::{
    cell::Cell,
    core::{
        ask::{Ask, By, Verb},
        batch::Answer,
        event::{Event, Request as CallerRequest},
    },
    store::ScheduleRange,
};

use super::{
    MESSAGE_BYTES_MAX,
    actor::{actor, by},
    answer::{done, other_kind},
    check::{self, Invalid},
    defer::add_to_digest,
    digest::Digest,
    schedule,
    status::Reason,
};

/// Schedules of a page, and what an unnamed size means.
const PAGE_SCHEDULES_MAX: u32 = 1_000;
const PAGE_SCHEDULES_DEFAULT: u32 = 100;

/// Schedules that are read at once: with the longest arguments they are about as large as four messages.
const READ_SCHEDULES: u32 = 64;

/// What a page takes besides its schedules, and each schedule besides itself, in bytes, at most.
const PAGE_FRAME_BYTES: usize = 1 << 10;
const SCHEDULE_FRAME_BYTES: usize = 8;

/// What a small call weighs while it waits, in bytes, about.
const CALL_BYTES: usize = 256;

/// The calls of `ScheduleService` on one cell.
pub struct ScheduleCalls {
    cell: Cell,
}

impl ScheduleCalls {
    /// Serves the schedules of this cell.
    pub fn new(cell: Cell) -> Self {
        Self { cell }
    }

    /// Asks the owner for something. The answer comes after its commit.
    async fn ask(&self, bytes: usize, request: Option<CallerRequest>, by: By, verb: Verb) -> Result<Answer, Status> {
        let ask = |call| Event::Ask(Ask { call, request, by, verb });
        done(self.cell.call(CALL_BYTES + bytes, ask).await?).map(|(answer, _)| answer)
    }

    /// Asks for something of the schedule of this name.
    async fn ask_of(&self, call: &str, asked: Named, verb: impl FnOnce(Arc<str>) -> Verb) -> Result<Answer, Status> {
        check::name("name", &asked.name)?;
        let by = by(asked.actor, &asked.reason)?;
        let request = check::request_id(&asked.request_id)?.map(|id| {
            let mut digest = Digest::of(call);
            digest.text(&asked.name);
            digest.text(&asked.reason);
            CallerRequest { id: id.into(), digest: digest.finish() }
        });
        self.ask(asked.name.len(), request, by, verb(asked.name.into())).await
    }

    /// The schedule of this name, as it is recorded; `None`: there is none.
    async fn find(&self, name: &str) -> Result<Option<v1::Schedule>, Status> {
        let found = self.cell.store().schedules(ScheduleRange::Named(name.into()), 1).await?;
        Ok(found.records.first().map(|record| schedule::shown(record, found.now)))
    }

    async fn get(&self, name: &str) -> Result<v1::Schedule, Status> {
        let not_found = || Reason::ScheduleNotFound.status(format!("there is no schedule {name:?}"));
        self.find(name).await?.ok_or_else(not_found)
    }
}

/// A call about one schedule.
struct Named {
    actor: String,
    name: String,
    request_id: String,
    reason: String,
}

#[tonic::async_trait]
impl ScheduleService for ScheduleCalls {
    async fn put_schedule(
        &self,
        request: Request<v1::PutScheduleRequest>,
    ) -> Result<Response<v1::PutScheduleResponse>, Status> {
        let actor = actor(&request)?;
        let v1::PutScheduleRequest { schedule, request_id, reason } = request.into_inner();
        let Some(mut asked) = schedule else {
            return Err(Invalid::new("schedule", "is missing; say what to defer, and when").into());
        };
        let by = by(actor, &reason)?;
        let request = check::request_id(&request_id)?.map(|id| {
            let mut digest = Digest::of("PutSchedule");
            for text in [&asked.name, &asked.cron, &asked.time_zone, &reason] {
                digest.text(text);
            }
            digest.number(asked.missed_ticks.into());
            digest.number(asked.paused.into());
            if let Some(job) = &mut asked.job {
                add_to_digest(&mut digest, job);
            }
            CallerRequest { id: id.into(), digest: digest.finish() }
        });
        let paused = asked.paused;
        let (checked, bytes) = schedule::checked(asked.clone())?;
        let name = Arc::clone(&checked.name);
        let verb = Verb::PutSchedule { schedule: Arc::new(checked), paused };
        self.ask(bytes, request, by, verb).await?;
        // Somebody may have taken it away in between.
        let schedule = self.find(&name).await?.unwrap_or(asked);
        Ok(Response::new(v1::PutScheduleResponse { schedule: Some(schedule) }))
    }

    async fn get_schedule(
        &self,
        request: Request<v1::GetScheduleRequest>,
    ) -> Result<Response<v1::GetScheduleResponse>, Status> {
        let name = request.into_inner().name;
        check::name("name", &name)?;
        Ok(Response::new(v1::GetScheduleResponse { schedule: Some(self.get(&name).await?) }))
    }

    async fn list_schedules(
        &self,
        request: Request<v1::ListSchedulesRequest>,
    ) -> Result<Response<v1::ListSchedulesResponse>, Status> {
        let v1::ListSchedulesRequest { page_size, page_token } = request.into_inner();
        if page_size > PAGE_SCHEDULES_MAX {
            let problem = format!("is {page_size}; the limit is {PAGE_SCHEDULES_MAX}");
            return Err(Invalid::new("page_size", problem).into());
        }
        let wanted = if page_size == 0 { PAGE_SCHEDULES_DEFAULT } else { page_size };
        let mut after: Arc<str> = name_of(&page_token)?.into();
        let mut schedules: Vec<v1::Schedule> = Vec::new();
        let mut bytes = 0;
        let is_last = 'page: loop {
            // One more than is wanted says whether there is more.
            let limit = (wanted - schedules.len() as u32 + 1).min(READ_SCHEDULES);
            let found = self.cell.store().schedules(ScheduleRange::After(Arc::clone(&after)), limit).await?;
            let read = found.records.len() as u32;
            for record in &found.records {
                let shown = schedule::shown(record, found.now);
                bytes += shown.encoded_len() + SCHEDULE_FRAME_BYTES;
                // What does not fit into a message comes with the next page. One always fits.
                let is_full = bytes > MESSAGE_BYTES_MAX - PAGE_FRAME_BYTES && !schedules.is_empty();
                if is_full || schedules.len() as u32 == wanted {
                    break 'page false;
                }
                after = Arc::clone(&record.schedule.name);
                schedules.push(shown);
            }
            if read < limit {
                break true;
            }
        };
        let next_page_token = if is_last { String::new() } else { token_of(&after) };
        Ok(Response::new(v1::ListSchedulesResponse { schedules, next_page_token }))
    }

    async fn delete_schedule(
        &self,
        request: Request<v1::DeleteScheduleRequest>,
    ) -> Result<Response<v1::DeleteScheduleResponse>, Status> {
        let actor = actor(&request)?;
        let v1::DeleteScheduleRequest { name, request_id, reason } = request.into_inner();
        self.ask_of("DeleteSchedule", Named { actor, name, request_id, reason }, Verb::DeleteSchedule).await?;
        Ok(Response::new(v1::DeleteScheduleResponse {}))
    }

    async fn pause_schedule(
        &self,
        request: Request<v1::PauseScheduleRequest>,
    ) -> Result<Response<v1::PauseScheduleResponse>, Status> {
        let actor = actor(&request)?;
        let v1::PauseScheduleRequest { name, request_id, reason } = request.into_inner();
        let asked = Named { actor, name: name.clone(), request_id, reason };
        self.ask_of("PauseSchedule", asked, Verb::PauseSchedule).await?;
        Ok(Response::new(v1::PauseScheduleResponse { schedule: Some(self.get(&name).await?) }))
    }

    async fn resume_schedule(
        &self,
        request: Request<v1::ResumeScheduleRequest>,
    ) -> Result<Response<v1::ResumeScheduleResponse>, Status> {
        let actor = actor(&request)?;
        let v1::ResumeScheduleRequest { name, request_id, reason } = request.into_inner();
        let asked = Named { actor, name: name.clone(), request_id, reason };
        self.ask_of("ResumeSchedule", asked, Verb::ResumeSchedule).await?;
        Ok(Response::new(v1::ResumeScheduleResponse { schedule: Some(self.get(&name).await?) }))
    }

    async fn run_schedule(
        &self,
        request: Request<v1::RunScheduleRequest>,
    ) -> Result<Response<v1::RunScheduleResponse>, Status> {
        let actor = actor(&request)?;
        let v1::RunScheduleRequest { name, request_id, reason } = request.into_inner();
        match self.ask_of("RunSchedule", Named { actor, name, request_id, reason }, Verb::RunSchedule).await? {
            Answer::Deferred { first, .. } => Ok(Response::new(v1::RunScheduleResponse { job_id: first.0 })),
            _ => Err(other_kind()),
        }
    }
}

/// The token of the page that goes on after this name.
fn token_of(name: &str) -> String {
    name.bytes().fold(String::with_capacity(2 * name.len()), |mut token, byte| {
        // A string takes whatever is written to it.
        let _ = write!(token, "{byte:02x}");
        token
    })
}

/// The name in a token; the empty one for the first page.
fn name_of(token: &str) -> Result<String, Invalid> {
    let malformed = || Invalid::new("page_token", "is no token of this list; give it back as it came");
    if !token.len().is_multiple_of(2) || token.len() > 2 * check::NAME_BYTES_MAX || !token.is_ascii() {
        return Err(malformed());
    }
    let bytes = (0..token.len()).step_by(2).map(|at| u8::from_str_radix(&token[at..at + 2], 16));
    let bytes = bytes.collect::<Result<Vec<u8>, _>>().map_err(|_| malformed())?;
    String::from_utf8(bytes).ok().filter(|name| !name.contains('\0')).ok_or_else(malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_holds_the_last_name_of_its_page() {
        for name in ["nightly", "größe: 日本", ""] {
            assert_eq!(name_of(&token_of(name)), Ok(name.to_owned()));
        }
        for token in ["x", "zz", "ff", "00", &"61".repeat(129), "ä"] {
            assert_eq!(name_of(token).expect_err(token).field, "page_token");
        }
    }
}
