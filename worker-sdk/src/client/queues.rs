//! Queues: what is in them, and pausing them (C11).

use cabbage_proto::v1;

use super::{Client, call::Queues};
use crate::{Error, random};

impl Client {
    /// What is in a queue. [`Error::NotFound`] if it never had a job and was never paused.
    pub async fn queue(&self, queue: impl Into<String>) -> Result<v1::Queue, Error> {
        let request = v1::GetQueueRequest { queue: queue.into() };
        let answer = self
            .calls
            .call_on(request, |mut service: Queues, request| async move { service.get_queue(request).await })
            .await?;
        shown(answer.queue)
    }

    /// A page of queues, by name. Empty `page_token`: from the first; empty `next_page_token`: there is nothing more.
    pub async fn queues(&self, page_token: impl Into<String>) -> Result<v1::ListQueuesResponse, Error> {
        let request = v1::ListQueuesRequest { page_size: 0, page_token: page_token.into() };
        self.calls
            .call_on(request, |mut service: Queues, request| async move { service.list_queues(request).await })
            .await
    }

    /// No job of the queue starts any more once this is `Ok`; those that run go on. The queue need not exist yet.
    pub async fn pause_queue(&self, queue: impl Into<String>, reason: impl Into<String>) -> Result<v1::Queue, Error> {
        let request =
            v1::PauseQueueRequest { queue: queue.into(), request_id: random::unique_name(), reason: reason.into() };
        let answer = self
            .calls
            .call_on(request, |mut service: Queues, request| async move { service.pause_queue(request).await })
            .await?;
        shown(answer.queue)
    }

    /// Jobs of the queue start again.
    pub async fn resume_queue(&self, queue: impl Into<String>, reason: impl Into<String>) -> Result<v1::Queue, Error> {
        let request =
            v1::ResumeQueueRequest { queue: queue.into(), request_id: random::unique_name(), reason: reason.into() };
        let answer = self
            .calls
            .call_on(request, |mut service: Queues, request| async move { service.resume_queue(request).await })
            .await?;
        shown(answer.queue)
    }
}

fn shown(queue: Option<v1::Queue>) -> Result<v1::Queue, Error> {
    queue.ok_or(Error::Malformed("no queue"))
}
