//! Many jobs in one call.

use cabbage_proto::v1;
use tonic::{Code, Status};

use super::{Client, Deferred, NewJob};
use crate::{Error, error::Answer, random};

/// Many new jobs, at most 1,000, in the order in which they get their ids.
#[derive(Debug, Default)]
#[must_use = "jobs are created only when the batch is sent"]
pub struct Batch {
    jobs: Vec<NewJob>,
    request_id: Option<String>,
}

/// The answer to one job of an independent batch.
pub type BatchOutcome = Result<Deferred, Error>;

impl Batch {
    /// A batch without jobs.
    pub fn new() -> Self {
        Self::default()
    }

    /// One more job.
    pub fn push(&mut self, job: impl Into<NewJob>) {
        self.jobs.push(job.into());
    }

    /// Names the call as a whole, for all or nothing (C2). Default: a random name.
    pub fn request_id(mut self, id: impl Into<String>) -> Self {
        self.request_id = Some(id.into());
        self
    }

    #[cfg(feature = "sqlx")]
    pub(crate) fn into_jobs(self) -> Vec<NewJob> {
        self.jobs
    }

    /// How many jobs it has.
    pub fn len(&self) -> usize {
        self.jobs.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }
}

impl<J: Into<NewJob>> FromIterator<J> for Batch {
    fn from_iter<I: IntoIterator<Item = J>>(jobs: I) -> Self {
        Self { jobs: jobs.into_iter().map(Into::into).collect(), request_id: None }
    }
}

impl<J: Into<NewJob>> Extend<J> for Batch {
    fn extend<I: IntoIterator<Item = J>>(&mut self, jobs: I) {
        self.jobs.extend(jobs.into_iter().map(Into::into));
    }
}

impl Client {
    /// Creates all jobs of a batch, or none (C2). An error names the item. The ids are in the order of the batch.
    pub async fn defer_all(&self, batch: Batch) -> Result<Vec<i64>, Error> {
        if batch.jobs.is_empty() {
            return Ok(Vec::new());
        }
        let count = batch.jobs.len();
        let items = batch.jobs.into_iter().map(|job| {
            let job = Some(job.into_spec()?);
            Ok(v1::BatchItem { job, request_id: String::new() })
        });
        let request = v1::BatchDeferJobsRequest {
            items: items.collect::<Result<_, Error>>()?,
            request_id: batch.request_id.unwrap_or_else(random::unique_name),
            independent: false,
        };
        let answer = self.batch(request).await?;
        let job_ids = if answer.job_ids.is_empty() {
            answer.results.iter().filter_map(created).collect()
        } else {
            answer.job_ids
        };
        if job_ids.len() == count { Ok(job_ids) } else { Err(Error::Malformed("a batch with too few answers")) }
    }

    /// Creates each job of a batch by itself, and answers for each one (C2), in the order of the batch.
    ///
    /// An error of the call as a whole leaves the outcome of each item as the error says.
    pub async fn defer_each(&self, batch: Batch) -> Result<Vec<BatchOutcome>, Error> {
        if batch.jobs.is_empty() {
            return Ok(Vec::new());
        }
        let count = batch.jobs.len();
        let items = batch.jobs.into_iter().map(|job| job.into_item().map(|(item, ())| item));
        let request = v1::BatchDeferJobsRequest {
            items: items.collect::<Result<_, Error>>()?,
            request_id: String::new(),
            independent: true,
        };
        let answer = self.batch(request).await?;
        let outcomes: Vec<BatchOutcome> = answers(answer)
            .into_iter()
            .map(|answer| answer.map_err(|answer| Error::of_answer(answer, false)))
            .collect();
        if outcomes.len() == count { Ok(outcomes) } else { Err(Error::Malformed("a batch with too few answers")) }
    }

    async fn batch(&self, request: v1::BatchDeferJobsRequest) -> Result<v1::BatchDeferJobsResponse, Error> {
        self.calls.call(request, |mut service, request| async move { service.batch_defer_jobs(request).await }).await
    }
}

fn created(result: &v1::BatchItemResult) -> Option<i64> {
    match result.result {
        Some(v1::batch_item_result::Result::JobId(job_id)) => Some(job_id),
        Some(v1::batch_item_result::Result::Error(_)) | None => None,
    }
}

/// The answer to each item of an independent batch.
pub(super) fn answers(response: v1::BatchDeferJobsResponse) -> Vec<Result<Deferred, Answer>> {
    if response.results.is_empty() {
        let repeated_call = response.repeated_call;
        let deferred = |job_id| Ok(Deferred { job_id, repeated_call, existing_job: false });
        return response.job_ids.into_iter().map(deferred).collect();
    }
    let answer = |result: v1::BatchItemResult| match result.result {
        Some(v1::batch_item_result::Result::JobId(job_id)) => {
            Ok(Deferred { job_id, repeated_call: result.repeated_call, existing_job: result.existing_job })
        }
        Some(v1::batch_item_result::Result::Error(status)) if status.code != Code::Ok as i32 => {
            Err(Answer::of_status(&status))
        }
        // As a broken call would be: nobody knows.
        Some(v1::batch_item_result::Result::Error(_)) | None => {
            Err(Answer::of(&Status::unknown("an item without an answer")))
        }
    };
    response.results.into_iter().map(answer).collect()
}
