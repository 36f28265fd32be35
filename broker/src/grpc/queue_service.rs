//! `QueueService`: what is in the queues, and pausing them.

use std::{collections::HashMap, sync::Arc};

use cabbage_proto::v1::{self, queue_service_server::QueueService};
use tonic::{Request, Response, Status};

use crate::{
    cell::Cell,
    core::{
        ask::Verb,
        batch::Answer,
        queues::QueueNow,
        state::Pause,
        types::{JobId, QueueNo, Timestamp},
    },
};

use super::{
    actor::actor,
    answer::other_kind,
    check,
    digest::Digest,
    page,
    show::{final_state, timestamp, waits_for},
    status::Reason,
    verbs::{Asked, obey},
};

/// The calls of `QueueService` on one cell.
pub struct QueueCalls {
    cell: Cell,
}

impl QueueCalls {
    /// Serves the queues of this cell.
    pub fn new(cell: Cell) -> Self {
        Self { cell }
    }

    /// One queue as the owner knows it now.
    async fn one(&self, name: &str) -> Result<v1::Queue, Status> {
        let unknown = || Reason::QueueNotFound.status("no such queue; a queue exists from its first job or pause on");
        let no = self.cell.owned()?.names.queue_no(name).ok_or_else(unknown)?;
        let queues = self.shown(vec![(no, name.into())]).await?;
        queues.into_iter().next().ok_or_else(unknown)
    }

    /// These queues, under what the owner knows.
    async fn shown(&self, queues: Vec<(QueueNo, Arc<str>)>) -> Result<Vec<v1::Queue>, Status> {
        let now = self.cell.queues(queues.iter().map(|(no, _)| *no).collect()).await?;
        let oldest: Vec<JobId> = now.iter().filter_map(|now| now.oldest_startable).collect();
        let specs = self.cell.store().specs(&oldest).await?;
        let created: HashMap<JobId, Timestamp> = specs.into_iter().map(|job| (job.id, job.created)).collect();
        let shown = queues.iter().zip(&now).map(|((_, name), now)| {
            let oldest = now.oldest_startable.and_then(|job| created.get(&job).copied());
            queue(name, now, oldest)
        });
        Ok(shown.collect())
    }
}

#[tonic::async_trait]
impl QueueService for QueueCalls {
    async fn get_queue(&self, request: Request<v1::GetQueueRequest>) -> Result<Response<v1::GetQueueResponse>, Status> {
        let v1::GetQueueRequest { queue } = request.into_inner();
        check::name("queue", &queue)?;
        Ok(Response::new(v1::GetQueueResponse { queue: Some(self.one(&queue).await?) }))
    }

    async fn list_queues(
        &self,
        request: Request<v1::ListQueuesRequest>,
    ) -> Result<Response<v1::ListQueuesResponse>, Status> {
        let request = request.into_inner();
        let size = page::size(request.page_size)?;
        let filters = Digest::of("ListQueues").finish();
        let names = self.cell.owned()?.names;
        // The token names the last queue of the page before by its number, which lasts as long as the cell.
        let last = page::parse(&request.page_token, filters)?.map(|no| names.queue(QueueNo((no - 1) as u32)));
        let (queues, more) = names.queues_after(last.as_deref().unwrap_or_default(), size as usize);
        let next = queues.last().filter(|_| more).map(|(no, _)| page::token(i64::from(no.0) + 1, filters));
        let queues = self.shown(queues).await?;
        Ok(Response::new(v1::ListQueuesResponse { queues, next_page_token: next.unwrap_or_default() }))
    }

    async fn pause_queue(
        &self,
        request: Request<v1::PauseQueueRequest>,
    ) -> Result<Response<v1::PauseQueueResponse>, Status> {
        let actor = actor(&request)?;
        let v1::PauseQueueRequest { queue, request_id, reason } = request.into_inner();
        check::name("queue", &queue)?;
        let asked = Asked { call: "PauseQueue", actor, reason: &reason, request_id: &request_id };
        let Answer::Paused(pause) = obey(&self.cell, asked, Verb::Pause(queue.as_str().into())).await? else {
            return Err(other_kind());
        };
        // The counts are those of now; that it is paused is what was answered, also to a call that is repeated.
        let mut queue = self.one(&queue).await?;
        show_pause(&mut queue, Some(&pause));
        Ok(Response::new(v1::PauseQueueResponse { queue: Some(queue) }))
    }

    async fn resume_queue(
        &self,
        request: Request<v1::ResumeQueueRequest>,
    ) -> Result<Response<v1::ResumeQueueResponse>, Status> {
        let actor = actor(&request)?;
        let v1::ResumeQueueRequest { queue, request_id, reason } = request.into_inner();
        check::name("queue", &queue)?;
        let asked = Asked { call: "ResumeQueue", actor, reason: &reason, request_id: &request_id };
        let Answer::Resumed = obey(&self.cell, asked, Verb::Resume(queue.as_str().into())).await? else {
            return Err(other_kind());
        };
        let mut queue = self.one(&queue).await?;
        show_pause(&mut queue, None);
        Ok(Response::new(v1::ResumeQueueResponse { queue: Some(queue) }))
    }
}

fn queue(name: &str, now: &QueueNow, oldest_startable: Option<Timestamp>) -> v1::Queue {
    let unspecified = v1::WaitingFor::Unspecified;
    let mut counts =
        vec![(v1::JobState::Scheduled, unspecified, now.scheduled), (v1::JobState::Running, unspecified, now.running)];
    counts.extend(now.waiting.iter().map(|(what, count)| (v1::JobState::Waiting, waits_for(*what), *count)));
    counts.extend(now.finished.iter().map(|(verdict, count)| (final_state(*verdict), unspecified, *count)));
    counts.retain(|(_, _, count)| *count > 0);
    counts.sort_unstable_by_key(|(state, what, _)| (*state as i32, *what as i32));
    let count = |(state, what, count): (v1::JobState, v1::WaitingFor, u64)| v1::StateCount {
        state: state.into(),
        waiting_for: what.into(),
        count,
    };
    let mut queue = v1::Queue {
        name: name.to_owned(),
        counts: counts.into_iter().map(count).collect(),
        oldest_startable_at: oldest_startable.map(timestamp),
        sessions: now.sessions,
        ..v1::Queue::default()
    };
    show_pause(&mut queue, now.pause.as_ref());
    queue
}

fn show_pause(queue: &mut v1::Queue, pause: Option<&Pause>) {
    queue.paused = pause.is_some();
    queue.paused_at = pause.map(|pause| timestamp(pause.since));
    queue.paused_by = pause.map(|pause| pause.by.who.to_string()).unwrap_or_default();
    queue.pause_reason = pause.map(|pause| pause.by.why.to_string()).unwrap_or_default();
}
