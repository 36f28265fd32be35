//! `JobService`: deferring jobs, looking at them, and acting on single ones.

use std::{sync::Arc, time::Duration};

use cabbage_proto::v1::{self, job_service_server::JobService};
use prost::Message as _;
use tokio::time::{Instant, sleep, timeout_at};
use tonic::{Request, Response, Status};

use crate::{
    cell::Cell,
    core::{
        ask::Verb,
        batch::Answer,
        effect::{Created, Reply},
        event::{Defer, DeferItem, Event, Request as CallerRequest},
        job::Verdict,
        types::JobId,
    },
    store::{JobView, List, ListStates},
};

use super::{
    MESSAGE_BYTES_MAX,
    actor::actor,
    answer::{done, internal, job_ids, other_kind},
    check::{self, Invalid},
    defer::{Specs, add_to_digest},
    digest::Digest,
    page,
    show::{self, Detail},
    status::{Reason, refusal},
    verbs::{Asked, obey, schedule_at},
};

/// Jobs of one batch defer.
const BATCH_JOBS_MAX: usize = 1_000;

/// How long a wait for the end of a job may be, and is if it is not said.
const WAIT_MAX: Duration = Duration::from_mins(1);
const WAIT_DEFAULT: Duration = Duration::from_secs(20);

/// A job that is neither in the tables nor in memory is on its way between both: it is read again after a commit or so.
const REREADS_MAX: u32 = 8;
const FIRST_REREAD: Duration = Duration::from_millis(2);

/// What a page takes besides its jobs, and each job besides itself, in bytes, at most.
const PAGE_FRAME_BYTES: usize = 1 << 10;
const JOB_FRAME_BYTES: usize = 8;

/// What a small call weighs while it waits, in bytes, about.
const CALL_BYTES: usize = 256;

/// The calls of `JobService` on one cell.
pub struct JobCalls {
    cell: Cell,
}

impl JobCalls {
    /// Serves the jobs of this cell.
    pub fn new(cell: Cell) -> Self {
        Self { cell }
    }

    /// One job as the store knows it.
    async fn stored(&self, job: JobId) -> Result<JobView, Status> {
        self.cell.store().job(job).await?.ok_or_else(|| Reason::JobNotFound.status("no such job"))
    }

    /// One job as store and owner know it together.
    async fn view(&self, job: JobId, detail: Detail) -> Result<(v1::Job, bool), Status> {
        let mut wait = FIRST_REREAD;
        for last in (0..REREADS_MAX).rev() {
            let view = self.stored(job).await?;
            let place = view.parked.map(|(place, _)| place);
            let now = self.cell.look(vec![(job, place)]).await?;
            let Some(now) = now.into_iter().next() else { return Err(internal("no answer for the job")) };
            if show::is_whole(&view, &now) || last == 0 {
                let is_final = show::final_verdict(&view).is_some();
                return Ok((show::job(&view, &now, detail), is_final));
            }
            sleep(wait).await;
            wait *= 2;
        }
        Err(internal("no answer for the job"))
    }

    /// The jobs of a page, each under what the owner knows.
    async fn views(&self, jobs: Vec<JobView>, detail: Detail) -> Result<Vec<v1::Job>, Status> {
        let places = jobs.iter().map(|view| (view.job.id, view.parked.map(|(place, _)| place))).collect();
        let now = self.cell.look(places).await?;
        let mut shown = Vec::with_capacity(jobs.len());
        for (view, now) in jobs.into_iter().zip(now) {
            if show::is_whole(&view, &now) {
                shown.push(show::job(&view, &now, detail));
            } else {
                // It moved between both reads. Its own call sorts that out; if it is gone now, so is its line.
                match self.view(view.job.id, detail).await {
                    Ok((job, _)) => shown.push(job),
                    Err(status) if status.code() == tonic::Code::NotFound => {}
                    Err(status) => return Err(status),
                }
            }
        }
        Ok(shown)
    }
}

#[tonic::async_trait]
impl JobService for JobCalls {
    async fn defer_job(&self, request: Request<v1::DeferJobRequest>) -> Result<Response<v1::DeferJobResponse>, Status> {
        let v1::DeferJobRequest { job, request_id } = request.into_inner();
        let mut specs = Specs::default();
        let item = specs.item("DeferJob", job, &request_id)?;
        let (request, items) = (item.request.clone(), vec![DeferItem { request: None, ..item }]);
        let defer = |call| Event::Defer(Defer { call, request, items, independent: false });
        let (answer, repeated_call) = done(self.cell.call(CALL_BYTES + specs.bytes, defer).await?)?;
        match job_ids(&answer).as_deref() {
            Some([id]) => {
                let existing_job = matches!(answer, Answer::DeferredIds(_));
                Ok(Response::new(v1::DeferJobResponse { job_id: *id, repeated_call, existing_job }))
            }
            _ => Err(internal("the answer to a defer holds no single job")),
        }
    }

    async fn batch_defer_jobs(
        &self,
        request: Request<v1::BatchDeferJobsRequest>,
    ) -> Result<Response<v1::BatchDeferJobsResponse>, Status> {
        let v1::BatchDeferJobsRequest { items, request_id, independent } = request.into_inner();
        check::count("items", items.len(), BATCH_JOBS_MAX)?;
        if items.is_empty() {
            return Ok(Response::new(v1::BatchDeferJobsResponse::default()));
        }
        if independent {
            if !request_id.is_empty() {
                let problem = "cannot be combined with `independent`; give each item its own request id";
                return Err(Invalid::new("request_id", problem).into());
            }
            self.defer_independent(items).await
        } else {
            self.defer_together(items, &request_id).await
        }
    }

    async fn get_job(&self, request: Request<v1::GetJobRequest>) -> Result<Response<v1::GetJobResponse>, Status> {
        let request = request.into_inner();
        let detail = Detail { args: request.include_args, history: request.include_history };
        let (job, _) = self.view(check::job_id(request.job_id)?, detail).await?;
        Ok(Response::new(v1::GetJobResponse { job: Some(job) }))
    }

    async fn list_jobs(&self, request: Request<v1::ListJobsRequest>) -> Result<Response<v1::ListJobsResponse>, Status> {
        let request = request.into_inner();
        let detail = Detail { args: request.include_args, history: false };
        let filters = filters_of(&request);
        let below = page::parse(&request.page_token, filters)?.map(JobId);
        let (list, states) = list_of(&request, below)?;
        let listed = self.cell.store().list(list).await?;
        let mut jobs = self.views(listed.jobs, detail).await?;
        if !states.is_empty() {
            jobs.retain(|job| states.contains(&job.state()));
        }
        // What does not fit comes with the next page.
        let next = cut_to_message(&mut jobs).or(listed.next);
        Ok(Response::new(v1::ListJobsResponse {
            jobs,
            next_page_token: next.map(|next| page::token(next.0, filters)).unwrap_or_default(),
            looked_at: listed.looked_at,
            looked_down_to: next.map_or(1, |next| next.0),
        }))
    }

    async fn wait_job(&self, request: Request<v1::WaitJobRequest>) -> Result<Response<v1::WaitJobResponse>, Status> {
        let request = request.into_inner();
        let job = check::job_id(request.job_id)?;
        let wait = request.max_wait.as_ref().map_or(Ok(WAIT_DEFAULT), |wait| check::duration("max_wait", wait))?;
        if wait > WAIT_MAX {
            let problem = format!("is longer than {} s; wait again instead", WAIT_MAX.as_secs());
            return Err(Invalid::new("max_wait", problem).into());
        }
        let until = Instant::now() + wait;
        loop {
            // First the waiter, then the look, so that an end between both is not missed.
            let woken = self.cell.wait(job).await?;
            if Instant::now() >= until {
                let (shown, is_final) = self.view(job, Detail::default()).await?;
                return Ok(Response::new(v1::WaitJobResponse { job: Some(shown), is_final }));
            }
            // What the owner holds is not final, and need not be read before it is. What it no longer holds may be final by
            // a commit that is under way: that wakes us too.
            let now = self.cell.look(vec![(job, None)]).await?.into_iter().next();
            if let Some(now) = now.filter(|now| now.live.is_none()) {
                let view = self.stored(job).await?;
                if show::final_verdict(&view).is_some() {
                    let shown = show::job(&view, &now, Detail::default());
                    return Ok(Response::new(v1::WaitJobResponse { job: Some(shown), is_final: true }));
                }
            }
            match timeout_at(until, woken).await {
                Ok(Ok(())) | Err(_) => {}
                // Nobody will wake us: the term ended, or too many wait already.
                Ok(Err(_)) => {
                    self.cell.owned()?;
                    return Err(Reason::TooBusy.status("too many calls wait for ends of jobs; ask again later"));
                }
            }
        }
    }

    async fn cancel_job(
        &self,
        request: Request<v1::CancelJobRequest>,
    ) -> Result<Response<v1::CancelJobResponse>, Status> {
        let actor = actor(&request)?;
        let v1::CancelJobRequest { job_id, request_id, reason } = request.into_inner();
        let asked = Asked { call: "CancelJob", actor, reason: &reason, request_id: &request_id };
        match obey(&self.cell, asked, Verb::Cancel(check::job_id(job_id)?)).await? {
            Answer::Cancelled { state } => Ok(Response::new(v1::CancelJobResponse { state: state.into() })),
            _ => Err(other_kind()),
        }
    }

    async fn retry_job(&self, request: Request<v1::RetryJobRequest>) -> Result<Response<v1::RetryJobResponse>, Status> {
        let actor = actor(&request)?;
        let v1::RetryJobRequest { job_id, request_id, reason, schedule_at: at } = request.into_inner();
        let verb = Verb::Retry { job: check::job_id(job_id)?, due: schedule_at(at.as_ref())? };
        let asked = Asked { call: "RetryJob", actor, reason: &reason, request_id: &request_id };
        match obey(&self.cell, asked, verb).await? {
            Answer::Moved { state } => Ok(Response::new(v1::RetryJobResponse { state: state.into() })),
            _ => Err(other_kind()),
        }
    }

    async fn reschedule_job(
        &self,
        request: Request<v1::RescheduleJobRequest>,
    ) -> Result<Response<v1::RescheduleJobResponse>, Status> {
        let actor = actor(&request)?;
        let v1::RescheduleJobRequest { job_id, request_id, reason, schedule_at: at } = request.into_inner();
        let verb = Verb::Reschedule { job: check::job_id(job_id)?, due: schedule_at(at.as_ref())? };
        let asked = Asked { call: "RescheduleJob", actor, reason: &reason, request_id: &request_id };
        match obey(&self.cell, asked, verb).await? {
            Answer::Moved { state } => Ok(Response::new(v1::RescheduleJobResponse { state: state.into() })),
            _ => Err(other_kind()),
        }
    }

    async fn delete_job(
        &self,
        request: Request<v1::DeleteJobRequest>,
    ) -> Result<Response<v1::DeleteJobResponse>, Status> {
        let actor = actor(&request)?;
        let v1::DeleteJobRequest { job_id, request_id, reason } = request.into_inner();
        let asked = Asked { call: "DeleteJob", actor, reason: &reason, request_id: &request_id };
        match obey(&self.cell, asked, Verb::Delete(check::job_id(job_id)?)).await? {
            Answer::Deleted => Ok(Response::new(v1::DeleteJobResponse {})),
            _ => Err(other_kind()),
        }
    }
}

impl JobCalls {
    /// All jobs of the batch or none.
    async fn defer_together(
        &self,
        items: Vec<v1::BatchItem>,
        request_id: &str,
    ) -> Result<Response<v1::BatchDeferJobsResponse>, Status> {
        let id = check::request_id(request_id)?;
        let mut digest = id.map(|_| Digest::of("BatchDeferJobs"));
        let mut specs = Specs::default();
        let mut checked = Vec::with_capacity(items.len());
        for (number, mut item) in items.into_iter().enumerate() {
            if !item.request_id.is_empty() {
                let field = format!("items[{number}].request_id");
                return Err(Invalid::new(field, "is for independent batches; name the whole call instead").into());
            }
            if let (Some(digest), Some(job)) = (&mut digest, &mut item.job) {
                add_to_digest(digest, job);
            }
            let item = specs.item("", item.job, "").map_err(|invalid| of_item(invalid, number))?;
            checked.push(item);
        }
        let request = id.zip(digest).map(|(id, digest)| CallerRequest { id: id.into(), digest: digest.finish() });
        let defer = |call| Event::Defer(Defer { call, request, items: checked, independent: false });
        let (answer, repeated_call) = done(self.cell.call(CALL_BYTES + specs.bytes, defer).await?)?;
        let Some(job_ids) = job_ids(&answer) else { return Err(internal("the answer to a defer holds no jobs")) };
        Ok(Response::new(v1::BatchDeferJobsResponse { results: Vec::new(), job_ids, repeated_call }))
    }

    /// Each job by itself. What is not taken here does not stop the others.
    async fn defer_independent(
        &self,
        items: Vec<v1::BatchItem>,
    ) -> Result<Response<v1::BatchDeferJobsResponse>, Status> {
        let mut specs = Specs::default();
        let mut results: Vec<Option<v1::BatchItemResult>> = Vec::with_capacity(items.len());
        let mut checked = Vec::with_capacity(items.len());
        for (number, item) in items.into_iter().enumerate() {
            match specs.item("DeferJob", item.job, &item.request_id) {
                Ok(item) => {
                    checked.push(item);
                    results.push(None);
                }
                Err(invalid) => results.push(Some(error_of(&of_item(invalid, number).into()))),
            }
        }
        if !checked.is_empty() {
            let defer = |call| Event::Defer(Defer { call, request: None, items: checked, independent: true });
            let answers = match self.cell.call(CALL_BYTES + specs.bytes, defer).await? {
                Reply::Items(items) => items,
                Reply::Refused(refused) => return Err(refusal(&refused)),
                Reply::Done { .. } | Reply::Settled(_) | Reply::Extended(_) => {
                    return Err(internal("an independent batch was answered as a whole"));
                }
            };
            let mut answers = answers.into_iter();
            for result in results.iter_mut().filter(|result| result.is_none()) {
                *result = answers.next().map(|answer| match answer {
                    Ok(Created { job, repeated, existing }) => v1::BatchItemResult {
                        result: Some(v1::batch_item_result::Result::JobId(job.0)),
                        repeated_call: repeated,
                        existing_job: existing,
                    },
                    Err(refused) => error_of(&refusal(&refused)),
                });
            }
        }
        let results: Vec<_> = results.into_iter().map(Option::unwrap_or_default).collect();
        let ids = results.iter().map(|result| match result.result {
            Some(v1::batch_item_result::Result::JobId(id)) => Some(id),
            _ => None,
        });
        let job_ids = ids.collect::<Option<Vec<_>>>().unwrap_or_default();
        // The ids say it all where every job is new.
        let says_more = job_ids.is_empty() || results.iter().any(|result| result.repeated_call || result.existing_job);
        let results = if says_more { results } else { Vec::new() };
        Ok(Response::new(v1::BatchDeferJobsResponse { results, job_ids, repeated_call: false }))
    }
}

/// The same, of an item of a batch.
fn of_item(invalid: Invalid, number: usize) -> Invalid {
    invalid.within(format_args!("items[{number}]"))
}

fn error_of(status: &Status) -> v1::BatchItemResult {
    let error = v1::batch_item_result::Result::Error(super::status::to_message(status));
    v1::BatchItemResult { result: Some(error), ..Default::default() }
}

/// Takes away the jobs that one message has no room for; gives the last that it has, if some were taken away.
fn cut_to_message(jobs: &mut Vec<v1::Job>) -> Option<JobId> {
    let mut bytes = 0;
    let fits = jobs.iter().take_while(|job| {
        bytes += job.encoded_len() + JOB_FRAME_BYTES;
        bytes <= MESSAGE_BYTES_MAX - PAGE_FRAME_BYTES
    });
    // One always fits: each of its parts has a limit.
    let fits = fits.count().max(1);
    if fits >= jobs.len() {
        return None;
    }
    jobs.truncate(fits);
    jobs.last().map(|job| JobId(job.id))
}

/// A digest of what is listed, so that a page token cannot be used with other filters.
fn filters_of(request: &v1::ListJobsRequest) -> uuid::Uuid {
    let mut digest = Digest::of("ListJobs");
    let filters =
        v1::ListJobsRequest { page_size: 0, page_token: String::new(), include_args: false, ..request.clone() };
    digest.message(&filters);
    digest.finish()
}

/// What the store is to list, and which states are to be shown of it (empty: all).
fn list_of(request: &v1::ListJobsRequest, below: Option<JobId>) -> Result<(List, Vec<v1::JobState>), Invalid> {
    let mut states = Vec::new();
    let mut wanted = ListStates { finals: Vec::new(), unfinished: false };
    for state in &request.states {
        let state = v1::JobState::try_from(*state).ok().filter(|state| *state != v1::JobState::Unspecified);
        let Some(state) = state else { return Err(Invalid::new("states", "has what is no state; leave it out")) };
        match state {
            v1::JobState::Succeeded => wanted.finals.push(Verdict::Succeeded),
            v1::JobState::Failed => wanted.finals.push(Verdict::Failed),
            v1::JobState::Cancelled => wanted.finals.push(Verdict::Cancelled),
            v1::JobState::Unspecified | v1::JobState::Scheduled | v1::JobState::Waiting | v1::JobState::Running => {
                wanted.unfinished = true;
            }
        }
        states.push(state);
    }
    let optional = |field: &str, text: &str, max| -> Result<Option<Arc<str>>, Invalid> {
        check::text(field, text, max)?;
        Ok((!text.is_empty()).then(|| text.into()))
    };
    let from = request.created_from.as_ref().map(|at| check::timestamp("created_from", at)).transpose()?;
    let until = request.created_until.as_ref().map(|at| check::timestamp("created_until", at)).transpose()?;
    let list = List {
        below,
        limit: page::size(request.page_size)?,
        states: if states.is_empty() { ListStates::default() } else { wanted },
        queue: optional("queue", &request.queue, check::NAME_BYTES_MAX)?,
        task: optional("task", &request.task, check::NAME_BYTES_MAX)?,
        lock: optional("lock", &request.lock, check::LOCK_BYTES_MAX)?,
        queueing_lock: optional("queueing_lock", &request.queueing_lock, check::LOCK_BYTES_MAX)?,
        created_from: from,
        created_until: until,
    };
    Ok((list, states))
}
