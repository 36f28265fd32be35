//! What operators ask for, from the wire to the owner (C17).

use tonic::Status;
use uuid::Uuid;

use crate::{
    cell::Cell,
    core::{
        ask::{Ask, Verb},
        batch::Answer,
        event::{Event, Request},
        types::Timestamp,
    },
};

use super::{
    actor::by,
    answer::done,
    check::{self, Invalid},
    digest::Digest,
};

/// What a verb weighs while it waits, in bytes, about.
const VERB_BYTES: usize = 512;

/// How somebody asks for a verb.
#[derive(Debug)]
pub(super) struct Asked<'a> {
    /// The name of the call.
    pub(super) call: &'static str,
    /// Who asks.
    pub(super) actor: String,
    /// Why.
    pub(super) reason: &'a str,
    /// The caller's id of the call.
    pub(super) request_id: &'a str,
}

/// Asks the owner for a verb, and gives its answer after the commit.
pub(super) async fn obey(cell: &Cell, asked: Asked<'_>, verb: Verb) -> Result<Answer, Status> {
    let by = by(asked.actor, asked.reason)?;
    let request = check::request_id(asked.request_id)?
        .map(|id| Request { id: id.into(), digest: digest(asked.call, &verb, asked.reason) });
    let reply = cell.call(VERB_BYTES, |call| Event::Ask(Ask { call, request, by, verb })).await?;
    done(reply).map(|(answer, _)| answer)
}

/// When a job is to become due; `None`: now.
pub(super) fn schedule_at(at: Option<&prost_types::Timestamp>) -> Result<Option<Timestamp>, Invalid> {
    at.map(|at| check::timestamp("schedule_at", at)).transpose()
}

fn digest(call: &str, verb: &Verb, reason: &str) -> Uuid {
    let mut digest = Digest::of(call);
    if let Some(job) = verb.job() {
        digest.number(job.0);
    }
    if let Some(queue) = verb.queue() {
        digest.text(queue);
    }
    if let Verb::Retry { due: Some(due), .. } | Verb::Reschedule { due: Some(due), .. } = verb {
        digest.number(due.0);
    }
    digest.text(reason);
    digest.finish()
}
