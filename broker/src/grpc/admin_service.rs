//! `AdminService`: which brokers serve the cell, what was asked of it by whom, and how far retention has come.

use cabbage_proto::v1::{self, admin_service_server::AdminService};
use tonic::{Request, Response, Status};

use crate::{
    cell::Cell,
    relay::{Guest, Guests, HandOverError},
    store::{AuditEntry, AuditList},
};

use super::{
    actor::{actor, by},
    check,
    digest::Digest,
    page, retention,
    show::timestamp,
    status::{Reason, not_implemented, refusal},
};

/// The longest address of a broker, in bytes.
const ADDRESS_BYTES_MAX: usize = 512;

/// The calls of `AdminService` on one cell.
pub struct AdminCalls {
    cell: Cell,
    guests: Guests,
}

impl AdminCalls {
    /// Serves the record of this cell, and shows who follows.
    pub fn new(cell: Cell, guests: Guests) -> Self {
        Self { cell, guests }
    }
}

#[tonic::async_trait]
impl AdminService for AdminCalls {
    async fn list_brokers(
        &self,
        _: Request<v1::ListBrokersRequest>,
    ) -> Result<Response<v1::ListBrokersResponse>, Status> {
        let owned = self.cell.owned()?;
        let owner = self.cell.store().owner().await?.filter(|owner| owner.term == owned.term);
        let owner = owner.ok_or_else(|| Reason::NotOwner.status("this broker's term has ended"))?;
        let last = owned.last_log();
        let itself = v1::Broker {
            address: owner.address.to_string(),
            owner: true,
            term: owner.term.number,
            since: Some(timestamp(owner.since)),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            relayed_streams: 0,
            lag: 0,
            highest_format: u32::from(self.cell.highest_format().0),
        };
        let follows = |guest: Guest| v1::Broker {
            address: guest.address.to_string(),
            owner: false,
            term: owner.term.number,
            since: Some(timestamp(guest.since)),
            version: guest.version.to_string(),
            relayed_streams: guest.streams,
            lag: last.saturating_sub(guest.log_number),
            highest_format: u32::from(guest.highest_format.0),
        };
        let brokers = std::iter::once(itself).chain(self.guests.all().into_iter().map(follows)).collect();
        Ok(Response::new(v1::ListBrokersResponse { brokers, log_format: u32::from(owned.format().0) }))
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

    async fn hand_over(&self, request: Request<v1::HandOverRequest>) -> Result<Response<v1::HandOverResponse>, Status> {
        let actor = actor(&request)?;
        let v1::HandOverRequest { address, reason } = request.into_inner();
        check::text("address", &address, ADDRESS_BYTES_MAX)?;
        let by = by(actor, &reason)?;
        let to = Some(address.as_str()).filter(|address| !address.is_empty());
        // A task of its own: a caller that goes away does not leave the cell halfway.
        let (cell, guests, to) = (self.cell.clone(), self.guests.clone(), to.map(str::to_owned));
        let handing = tokio::spawn(async move { guests.hand_over(&cell, to.as_deref(), by).await });
        let handed = handing.await.map_err(|error| Reason::Internal.status(format!("a bug in the broker: {error}")))?;
        match handed {
            Ok(term) => Ok(Response::new(v1::HandOverResponse { term: term.number })),
            Err(error) => Err(match error {
                HandOverError::NotOwner => Reason::NotOwner.status(error.to_string()),
                HandOverError::NoFollower(_) => Reason::NoFollower.status(error.to_string()),
                HandOverError::NotRecorded(error) => error.into(),
                HandOverError::Refused(refused) => refusal(&refused),
                HandOverError::NotTaken => Reason::OutcomeUnknown.status(error.to_string()),
            }),
        }
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

    async fn get_retention(
        &self,
        _: Request<v1::GetRetentionRequest>,
    ) -> Result<Response<v1::GetRetentionResponse>, Status> {
        let now = self.cell.store().retention().await?;
        Ok(Response::new(retention::answer(self.cell.keep(), now)))
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
        refused: entry.refused.map(|why| why.to_string()).unwrap_or_default(),
    }
}
