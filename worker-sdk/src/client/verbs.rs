//! What operators do with single jobs: run them again, move them in time, erase them (C17).

use std::time::SystemTime;

use cabbage_proto::v1;

use super::{Client, call::Admin};
use crate::{Error, random, wire};

impl Client {
    /// Gives a final job a new budget of attempts, now: same id, same place in the order. A job that never started takes
    /// its queueing lock again, or it is [`Error::AlreadyExists`]. One that is not final is [`Error::Refused`], reason
    /// `JOB_NOT_FINAL`. The answer is the state that it has then.
    pub async fn retry(&self, job_id: i64, reason: impl Into<String>) -> Result<v1::JobState, Error> {
        self.reopen(job_id, reason.into(), None).await
    }

    /// The same, due at this instant by the database's clock.
    pub async fn retry_at(
        &self,
        job_id: i64,
        at: impl Into<SystemTime>,
        reason: impl Into<String>,
    ) -> Result<v1::JobState, Error> {
        self.reopen(job_id, reason.into(), Some(wire::timestamp(at.into()))).await
    }

    async fn reopen(
        &self,
        job_id: i64,
        reason: String,
        schedule_at: Option<prost_types::Timestamp>,
    ) -> Result<v1::JobState, Error> {
        let request = v1::RetryJobRequest { job_id, request_id: random::unique_name(), reason, schedule_at };
        let answer = self.calls.call(request, |mut service, request| async move { service.retry_job(request).await });
        Ok(answer.await?.state())
    }

    /// Moves a job that does not run to this instant by the database's clock. One that runs or is final is
    /// [`Error::Refused`], reason `JOB_RUNNING` or `JOB_FINAL`. The answer is the state that it has then.
    pub async fn reschedule(
        &self,
        job_id: i64,
        at: impl Into<SystemTime>,
        reason: impl Into<String>,
    ) -> Result<v1::JobState, Error> {
        self.move_to(job_id, reason.into(), Some(wire::timestamp(at.into()))).await
    }

    /// Makes a job due now that is scheduled for later. As [`Self::reschedule`].
    pub async fn run_now(&self, job_id: i64, reason: impl Into<String>) -> Result<v1::JobState, Error> {
        self.move_to(job_id, reason.into(), None).await
    }

    async fn move_to(
        &self,
        job_id: i64,
        reason: String,
        schedule_at: Option<prost_types::Timestamp>,
    ) -> Result<v1::JobState, Error> {
        let request = v1::RescheduleJobRequest { job_id, request_id: random::unique_name(), reason, schedule_at };
        let answer =
            self.calls.call(request, |mut service, request| async move { service.reschedule_job(request).await });
        Ok(answer.await?.state())
    }

    /// Erases a final job with its outcomes. One that is not final is [`Error::Refused`], reason `JOB_NOT_FINAL`.
    pub async fn delete(&self, job_id: i64, reason: impl Into<String>) -> Result<(), Error> {
        let request = v1::DeleteJobRequest { job_id, request_id: random::unique_name(), reason: reason.into() };
        let answer = self.calls.call(request, |mut service, request| async move { service.delete_job(request).await });
        answer.await.map(drop)
    }

    /// A page of what was asked of jobs and queues, newest first: who, and why. Empty `page_token`: from the newest;
    /// `job_id` 0: of everything. Empty `next_page_token`: there is nothing more.
    pub async fn audit(&self, job_id: i64, page_token: impl Into<String>) -> Result<v1::ListAuditResponse, Error> {
        let request = v1::ListAuditRequest { page_size: 0, page_token: page_token.into(), job_id };
        self.calls
            .call_on(request, |mut service: Admin, request| async move { service.list_audit(request).await })
            .await
    }
}
