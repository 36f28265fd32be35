//! What the session does with each frame of a broker.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use cabbage_proto::v1::{self, work_response::Frame};
use tonic_types::RpcStatusExt;

use super::{
    Action, CancelCause, LinkEnd, LinkId, Place, Session, Start,
    lease::Held,
    link::{Link, Terms},
    report,
    running::{TimeoutStage, full, released},
    streams::PROTOCOL,
};
use crate::{error::Answer, wire};

/// How long to wait before a result is sent again, if the broker names no time.
const SETTLE_RETRY: Duration = Duration::from_millis(500);
/// How long a job is put off for which there is no handler here. (The broker should not have sent it.)
const UNKNOWN_TASK_DELAY: Duration = Duration::from_secs(5);

impl Session {
    pub(super) fn on_frame(&mut self, now: Duration, id: LinkId, response: v1::WorkResponse) {
        let v1::WorkResponse { term, nonce, frame } = response;
        if self.opening.as_ref().is_some_and(|opening| opening.id == id) {
            match frame {
                Some(Frame::Welcome(welcome)) => self.on_welcome(now, (term, nonce), welcome),
                Some(Frame::Goodbye(goodbye)) => self.on_goodbye(now, id, goodbye),
                _ => self.counters.dropped_frames += 1,
            }
            return;
        }
        let Some(link) = self.active.as_mut().filter(|link| link.id == id) else {
            // A stream that was left: everything on it was asked for again on the next one.
            self.counters.dropped_frames += 1;
            return;
        };
        if (link.term, link.nonce) != (term, nonce) {
            self.counters.dropped_frames += 1;
            return;
        }
        link.last_heard = now;
        match frame {
            Some(Frame::Jobs(jobs)) => self.on_jobs(jobs),
            Some(Frame::SettleAck(ack)) => self.on_settle_ack(now, ack),
            Some(Frame::CancelJob(cancel)) => self.on_cancel(now, &cancel),
            Some(Frame::BeatAck(_)) => {}
            Some(Frame::DrainAck(_)) => link.drain_acked = true,
            Some(Frame::BrokerDrain(drain)) => self.on_broker_drain(now, &drain),
            Some(Frame::CaughtUp(caught_up)) => {
                link.caught_up = caught_up.last_seq == link.received_seq;
            }
            Some(Frame::Goodbye(goodbye)) => self.on_goodbye(now, id, goodbye),
            Some(Frame::OwnerChanged(_)) => self.introduce_again(now),
            Some(Frame::Welcome(_)) | None => self.counters.dropped_frames += 1,
        }
    }

    fn on_welcome(&mut self, now: Duration, (term, nonce): (u64, u64), welcome: v1::Welcome) {
        let Some(opening) = self.opening.take_if(|opening| opening.hello.is_some()) else {
            return;
        };
        if welcome.protocol != PROTOCOL {
            let end = LinkEnd { detail: format!("protocol {} was chosen", welcome.protocol), ..LinkEnd::default() };
            self.actions.push_back(Action::Close(opening.id));
            self.reconnect(now, &end);
            return;
        }
        self.terms = Terms::of(&welcome);
        let link = Link::new(&opening, now, term, nonce, self.terms.beat);
        if let Some(old) = self.active.replace(link) {
            self.actions.push_back(Action::HalfClose(old.id));
        }
        if self.identity.is_some() && !welcome.resumed {
            tracing::warn!(session = welcome.session_id, "the session could not go on; this is a new one");
        }
        self.identity = Some((welcome.session_id, welcome.resume_token));
        self.counters.welcomed += 1;
        (self.hops, self.reconnect_at, self.disconnected_since) = (0, None, None);
        (self.last_heard, self.migrating, self.orphans_cancelled) = (now, false, false);
        // One whose result was sent may be recorded, with the acknowledgement lost on the way: the result is sent again,
        // and its answer says which (C6).
        let lost = welcome.lost_lease_tokens.iter().filter_map(|token| self.leases.by_token(token));
        let lost = lost.filter(|slot| self.leases.get(*slot).is_some_and(|held| !matches!(held.place, Place::Sent(_))));
        let lost: Vec<_> = lost.collect();
        if !lost.is_empty() {
            tracing::warn!(leases = lost.len(), "leases were lost");
        }
        for slot in lost {
            self.lose(slot);
        }
        self.outbox.restart(&mut self.leases);
    }

    fn on_jobs(&mut self, jobs: v1::Jobs) {
        let Some(link) = &mut self.active else { return };
        if link.discards_jobs {
            // Not acknowledged either: these go back, since our inventory does not list them.
            self.counters.dropped_frames += 1;
            return;
        }
        link.received_seq = link.received_seq.max(jobs.seq);
        link.caught_up = false;
        for entry in jobs.dictionary {
            link.dictionary.announce(entry, &self.config.tasks);
        }
        self.counters.received += jobs.deliveries.len() as u64;
        let mut tokens = compact_tokens(&jobs.deliveries);
        for mut delivery in jobs.deliveries {
            let token = tokens.split_to(delivery.lease_token.len());
            let Some(link) = &self.active else { return };
            let task = link.dictionary.name(delivery.task).cloned();
            let queue = link.dictionary.name(delivery.queue).map(|name| name.text.clone());
            let number = task.as_ref().and_then(|task| task.task);
            // A token that is held already names the same delivery: it runs, or its result is on its way.
            let Some(slot) = self.leases.insert(token.clone(), &delivery, number.unwrap_or(usize::MAX)) else {
                continue;
            };
            delivery.lease_token = token;
            match (task, queue, number) {
                _ if self.is_stopping() => self.end(slot, released("the worker stops", None)),
                (Some(name), Some(queue_name), Some(task)) => {
                    let start = Start { slot, task, task_name: name.text, queue_name, delivery };
                    self.queue.push_back(Box::new(start));
                }
                // C16: nothing unknown is lost.
                _ => self.end(slot, released("this worker has no handler for the task", Some(UNKNOWN_TASK_DELAY))),
            }
        }
    }

    fn on_settle_ack(&mut self, now: Duration, ack: v1::SettleAck) {
        for token in &ack.retried {
            if let Some(held) = self.leases.by_token(token).and_then(|slot| self.leases.get_mut(slot)) {
                held.retried = true;
            }
        }
        for result in ack.exceptions {
            let Some(slot) = self.leases.by_token(&result.lease_token) else {
                continue;
            };
            let code = result.code();
            match code {
                v1::SettleCode::RetryLater => {
                    let wait = result.detail.as_ref().and_then(RpcStatusExt::get_details_retry_info);
                    let wait = wait.and_then(|info| info.retry_delay).map_or(SETTLE_RETRY, wire::bounded);
                    self.outbox.send_later(&mut self.leases, slot, now + wait);
                    continue;
                }
                v1::SettleCode::Recorded | v1::SettleCode::AlreadyRecorded => {
                    self.counters.recorded += 1;
                    if let Some(held) = self.leases.get(slot) {
                        report::recorded(held, &self.config.tasks);
                    }
                }
                v1::SettleCode::LeaseLost => {
                    self.lose(slot);
                    continue;
                }
                v1::SettleCode::VerdictConflict
                | v1::SettleCode::NotFound
                | v1::SettleCode::Unrecordable
                | v1::SettleCode::InvalidToken
                | v1::SettleCode::Unspecified => {
                    self.counters.refused += 1;
                    let job = self.leases.get(slot).map(|held| held.job_id);
                    let detail = result.detail.as_ref().map_or("", |detail| detail.message.as_str());
                    tracing::warn!(job, code = code.as_str_name(), detail, "a result was not recorded");
                }
            }
            self.outbox.remove(&mut self.leases, slot);
        }
        let tasks = &self.config.tasks;
        let report = |held: &Held| report::recorded(held, tasks);
        self.counters.recorded += self.outbox.recorded_through(&mut self.leases, ack.recorded_through, report);
    }

    fn on_cancel(&mut self, now: Duration, cancel: &v1::CancelJob) {
        let Some(slot) = self.leases.by_token(&cancel.lease_token) else {
            return;
        };
        let Some(held) = self.leases.get(slot).filter(|held| held.place == Place::Unended) else {
            if cancel.reason() == v1::CancelReason::LeaseLost {
                self.lose(slot);
            }
            return;
        };
        match (cancel.reason(), held.handler) {
            (v1::CancelReason::LeaseLost, _) => self.lose(slot),
            (v1::CancelReason::Timeout, true) => self.on_timeout(now, slot, TimeoutStage::Cancel),
            (v1::CancelReason::Requested | v1::CancelReason::Unspecified, true) => {
                self.actions.push_back(Action::Cancel(slot, CancelCause::Requested));
            }
            (_, false) => {
                let message = "cancelled before its handler was started".to_owned();
                self.end(slot, full(v1::job_result::Outcome::Cancelled(v1::Cancelled { message })));
                self.forget_start();
            }
        }
    }

    fn on_broker_drain(&mut self, now: Duration, drain: &v1::BrokerDrain) {
        if self.migrating {
            return;
        }
        self.migrating = true;
        self.address = (self.address + 1) % self.config.addresses.max(1);
        if self.opening.is_none() {
            let wait = drain.start_after.and_then(wire::to_duration).unwrap_or_default();
            self.reconnect_at = Some(now + wait);
        }
    }

    fn on_goodbye(&mut self, now: Duration, id: LinkId, goodbye: v1::Goodbye) {
        let answer = Answer::of_status(&goodbye.status.unwrap_or_default());
        self.actions.push_back(Action::Close(id));
        let end = LinkEnd {
            try_next: answer.names_another_broker(),
            retry_after: answer.retry_after,
            detail: answer.to_string(),
        };
        self.on_link_end(now, id, &end);
    }
}

/// The tokens of a frame in a buffer of their own, so that a long job does not keep the whole frame in memory.
fn compact_tokens(deliveries: &[v1::Delivery]) -> Bytes {
    let mut tokens = BytesMut::with_capacity(deliveries.iter().map(|delivery| delivery.lease_token.len()).sum());
    for delivery in deliveries {
        tokens.extend_from_slice(&delivery.lease_token);
    }
    tokens.freeze()
}
