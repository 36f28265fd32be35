//! Looking at jobs, waiting for them, and cancelling them.

use std::{
    collections::VecDeque,
    time::{Duration, SystemTime},
};

use cabbage_proto::v1;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::Client;
use crate::{Error, Task, random, wire};

/// How long one `WaitJob` is held at most. The broker allows 60 s; less keeps proxies calm.
const WAIT_SLICE: Duration = Duration::from_secs(20);

/// Which jobs to list. Every filter that is given must hold.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct JobFilter {
    request: v1::ListJobsRequest,
}

impl JobFilter {
    /// All jobs, newest first.
    pub fn new() -> Self {
        Self::default()
    }

    /// Jobs in this state, or in another one that is named so.
    pub fn state(mut self, state: v1::JobState) -> Self {
        self.request.states.push(state.into());
        self
    }

    /// Jobs of this queue.
    pub fn queue(mut self, queue: impl Into<String>) -> Self {
        self.request.queue = queue.into();
        self
    }

    /// Jobs of this task.
    pub fn task(mut self, task: impl Into<String>) -> Self {
        self.request.task = task.into();
        self
    }

    /// Jobs that carry this lock.
    pub fn lock(mut self, lock: impl Into<String>) -> Self {
        self.request.lock = lock.into();
        self
    }

    /// Jobs that were deferred with this queueing lock.
    pub fn queueing_lock(mut self, lock: impl Into<String>) -> Self {
        self.request.queueing_lock = lock.into();
        self
    }

    /// Jobs created at this time or later.
    pub fn created_from(mut self, at: impl Into<SystemTime>) -> Self {
        self.request.created_from = Some(wire::timestamp(at.into()));
        self
    }

    /// Jobs created before this time.
    pub fn created_until(mut self, at: impl Into<SystemTime>) -> Self {
        self.request.created_until = Some(wire::timestamp(at.into()));
        self
    }

    /// Show the arguments too.
    pub fn with_args(mut self) -> Self {
        self.request.include_args = true;
        self
    }

    /// How many jobs a page has at most, 1 to 1,000. Default: 100.
    pub fn page_size(mut self, jobs: u32) -> Self {
        self.request.page_size = jobs;
        self
    }

    /// Goes on after the page that gave this token.
    pub fn page_token(mut self, token: impl Into<String>) -> Self {
        self.request.page_token = token.into();
        self
    }
}

/// A walk over the pages of a list.
#[derive(Debug)]
pub struct JobPage {
    client: Client,
    filter: JobFilter,
    jobs: VecDeque<v1::Job>,
    done: bool,
}

impl JobPage {
    /// The next job; `None` after the last one. Asks for the next page where it must.
    pub async fn next(&mut self) -> Result<Option<v1::Job>, Error> {
        loop {
            if let Some(job) = self.jobs.pop_front() {
                return Ok(Some(job));
            }
            if self.done {
                return Ok(None);
            }
            let page = self.client.list_page(&self.filter).await?;
            self.done = page.next_page_token.is_empty();
            self.filter.request.page_token = page.next_page_token;
            self.jobs = page.jobs.into();
        }
    }
}

impl Client {
    /// Shows one job, without its arguments and history.
    pub async fn get(&self, job_id: i64) -> Result<v1::Job, Error> {
        self.get_with(v1::GetJobRequest { job_id, ..v1::GetJobRequest::default() }).await
    }

    /// Shows one job, with its arguments and every ended delivery.
    pub async fn get_full(&self, job_id: i64) -> Result<v1::Job, Error> {
        self.get_with(v1::GetJobRequest { job_id, include_args: true, include_history: true }).await
    }

    async fn get_with(&self, request: v1::GetJobRequest) -> Result<v1::Job, Error> {
        let answer = self.calls.call(request, |mut service, request| async move { service.get_job(request).await });
        answer.await?.job.ok_or(Error::Malformed("no job"))
    }

    /// One page of jobs. It may be empty although more follow.
    pub async fn list_page(&self, filter: &JobFilter) -> Result<v1::ListJobsResponse, Error> {
        let request = filter.request.clone();
        self.calls.call(request, |mut service, request| async move { service.list_jobs(request).await }).await
    }

    /// All jobs that match, newest first, page by page.
    pub fn list(&self, filter: JobFilter) -> JobPage {
        JobPage { client: self.clone(), filter, jobs: VecDeque::new(), done: false }
    }

    /// Cancels a job (C11). The answer is `CANCELLED`, or `RUNNING` where its handler was told to stop, or the final
    /// state that it had.
    pub async fn cancel(&self, job_id: i64, reason: impl Into<String>) -> Result<v1::JobState, Error> {
        let request = v1::CancelJobRequest { job_id, request_id: random::unique_name(), reason: reason.into() };
        let answer = self.calls.call(request, |mut service, request| async move { service.cancel_job(request).await });
        Ok(answer.await?.state())
    }

    /// Waits until a job is final, without an end.
    pub async fn wait(&self, job_id: i64) -> Result<v1::Job, Error> {
        loop {
            if let Some(job) = self.wait_slice(job_id, WAIT_SLICE).await? {
                return Ok(job);
            }
        }
    }

    /// Waits until a job is final, for so long at most; then it is [`Error::NotFinal`].
    pub async fn wait_at_most(&self, job_id: i64, wait: Duration) -> Result<v1::Job, Error> {
        let deadline = Instant::now() + wire::bounded(wait);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if let Some(job) = self.wait_slice(job_id, left.min(WAIT_SLICE)).await? {
                return Ok(job);
            }
            if Instant::now() >= deadline {
                return Err(Error::NotFinal { job_id });
            }
        }
    }

    async fn wait_slice(&self, job_id: i64, wait: Duration) -> Result<Option<v1::Job>, Error> {
        let request = v1::WaitJobRequest { job_id, max_wait: Some(wire::duration(wait)) };
        let call =
            self.calls.call_held(wait, request, |mut service, request| async move { service.wait_job(request).await });
        let answer = call.await?;
        let job = answer.job.ok_or(Error::Malformed("no job"))?;
        Ok(answer.is_final.then_some(job))
    }

    /// Waits for the result of a job of a task: [`Error::JobFailed`] or [`Error::JobCancelled`] where there is none.
    pub async fn result<T: Task<Output: DeserializeOwned>>(&self, job_id: i64) -> Result<T::Output, Error> {
        self.result_as(job_id).await
    }

    /// Waits for the result of a job, whatever its task.
    pub async fn result_as<O: DeserializeOwned>(&self, job_id: i64) -> Result<O, Error> {
        result_of(self.wait(job_id).await?)
    }
}

fn result_of<O: DeserializeOwned>(job: v1::Job) -> Result<O, Error> {
    match job.state() {
        v1::JobState::Succeeded => {
            let result = job.last_attempt.as_ref().map(|attempt| &attempt.result[..]).unwrap_or_default();
            // No result stands for `null`, as it did when it was recorded.
            let text = if result.is_empty() { b"null" } else { result };
            serde_json::from_slice(text).map_err(Error::InvalidResult)
        }
        v1::JobState::Failed => Err(Error::JobFailed(Box::new(job))),
        v1::JobState::Cancelled => Err(Error::JobCancelled(Box::new(job))),
        v1::JobState::Unspecified | v1::JobState::Scheduled | v1::JobState::Waiting | v1::JobState::Running => {
            Err(Error::NotFinal { job_id: job.id })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(state: v1::JobState, result: &'static str) -> v1::Job {
        let last_attempt = Some(v1::Attempt { result: result.into(), ..v1::Attempt::default() });
        v1::Job { id: 3, state: state.into(), last_attempt, ..v1::Job::default() }
    }

    #[test]
    fn a_result_is_read_and_its_absence_is_null() {
        assert_eq!(result_of::<u32>(job(v1::JobState::Succeeded, "7")).expect("a result"), 7);
        assert!(result_of::<()>(job(v1::JobState::Succeeded, "")).is_ok());
        assert!(matches!(result_of::<u32>(job(v1::JobState::Succeeded, "")), Err(Error::InvalidResult(_))));
        assert!(matches!(result_of::<u32>(job(v1::JobState::Failed, "")), Err(Error::JobFailed(_))));
        assert!(matches!(result_of::<u32>(job(v1::JobState::Cancelled, "")), Err(Error::JobCancelled(_))));
    }
}
