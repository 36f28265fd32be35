//! `AdminService`: what was asked of the cell by whom.

use cabbage_proto::v1::{self, admin_service_server::AdminService};
use tonic::{Request, Response, Status};

use crate::{
    cell::Cell,
    store::{AuditEntry, AuditList},
};

use super::{check, digest::Digest, page, show::timestamp, status::not_implemented};

/// The calls of `AdminService` on one cell.
pub struct AdminCalls {
    cell: Cell,
}

impl AdminCalls {
    /// Serves the record of this cell.
    pub fn new(cell: Cell) -> Self {
        Self { cell }
    }
}

#[tonic::async_trait]
impl AdminService for AdminCalls {
    async fn list_brokers(
        &self,
        _: Request<v1::ListBrokersRequest>,
    ) -> Result<Response<v1::ListBrokersResponse>, Status> {
        Err(not_implemented("ListBrokers"))
    }

    async fn list_sessions(
        &self,
        _: Request<v1::ListSessionsRequest>,
    ) -> Result<Response<v1::ListSessionsResponse>, Status> {
        Err(not_implemented("ListSessions"))
    }

    async fn drain_session(
        &self,
        _: Request<v1::DrainSessionRequest>,
    ) -> Result<Response<v1::DrainSessionResponse>, Status> {
        Err(not_implemented("DrainSession"))
    }

    async fn hand_over(&self, _: Request<v1::HandOverRequest>) -> Result<Response<v1::HandOverResponse>, Status> {
        Err(not_implemented("HandOver"))
    }

    async fn list_audit(
        &self,
        request: Request<v1::ListAuditRequest>,
    ) -> Result<Response<v1::ListAuditResponse>, Status> {
        let v1::ListAuditRequest { page_size, page_token, job_id } = request.into_inner();
        let limit = page::size(page_size)?;
        let job = if job_id == 0 { None } else { Some(check::job_id(job_id)?) };
        let mut filters = Digest::of("ListAudit");
        filters.number(job_id);
        let filters = filters.finish();
        let below = page::parse(&page_token, filters)?;
        let entries = self.cell.store().audit(AuditList { below, limit, job }).await?;
        let next = entries.last().filter(|_| entries.len() == limit as usize);
        let next_page_token = next.map(|last| page::token(last.number, filters)).unwrap_or_default();
        let entries = entries.into_iter().map(entry).collect();
        Ok(Response::new(v1::ListAuditResponse { entries, next_page_token }))
    }
}

fn entry(entry: AuditEntry) -> v1::AuditEntry {
    v1::AuditEntry {
        number: entry.number,
        at: Some(timestamp(entry.at)),
        verb: entry.verb.to_string(),
        job_id: entry.job.map_or(0, |job| job.0),
        queue: entry.queue.map(|queue| queue.to_string()).unwrap_or_default(),
        schedule: entry.schedule.map(|schedule| schedule.to_string()).unwrap_or_default(),
        actor: entry.by.who.to_string(),
        reason: entry.by.why.to_string(),
    }
}
