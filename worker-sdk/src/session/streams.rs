//! Opening streams, keeping one, and what is said on it.

use std::time::Duration;

use cabbage_proto::v1;

use super::{Action, LinkEnd, LinkId, MAX_CREDIT_JOBS, MAX_RECEIVE_BYTES, Phase, Session, link::Opening};

/// The version of the protocol that this SDK speaks.
pub(super) const PROTOCOL: u32 = 1;
/// From the first packet to `Welcome`, which a broker may hold back while another one takes the cell over.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// The longest wait between two tries.
const RECONNECT_CAP: Duration = Duration::from_secs(20);
/// The same while the grace of a broken stream lasts: leases are at stake, and workers resume within 5 s (C13).
const RECONNECT_CAP_IN_GRACE: Duration = Duration::from_secs(1);
/// A stream that was welcome for so long proves that things are well.
const STABLE: Duration = Duration::from_secs(30);

impl Session {
    pub(super) fn open(&mut self, now: Duration) {
        let id = LinkId(self.next_link);
        self.next_link += 1;
        self.reconnect_at = None;
        self.opening = Some(Opening { id, deadline: now + HANDSHAKE, connected: false, hello: None });
        self.actions.push_back(Action::Connect { link: id, address: self.address });
    }

    pub(super) fn on_link_end(&mut self, now: Duration, id: LinkId, end: &LinkEnd) {
        if let Some(link) = self.active.take_if(|link| link.id == id) {
            tracing::info!(link = id.0, detail = end.detail, "the stream ended");
            self.last_heard = link.last_heard;
            self.disconnected_since = Some(now);
            self.orphans_cancelled = false;
            if now.saturating_sub(link.welcomed_at) >= STABLE {
                self.backoff.reset();
            }
            // A migration that is under way becomes the reconnect.
            if self.opening.is_none() {
                self.migrating = false;
                self.reconnect(now, end);
            }
        } else if self.opening.take_if(|opening| opening.id == id).is_some() {
            if end.try_next {
                tracing::info!(link = id.0, detail = end.detail, "no stream");
            } else {
                // Perhaps for good, such as a name that the broker refuses; somebody should see it.
                tracing::warn!(link = id.0, detail = end.detail, "no stream");
            }
            self.reconnect(now, end);
        }
    }

    /// Another broker owns the cell, and the stream goes on under it, as if it were a new one.
    pub(super) fn introduce_again(&mut self, now: Duration) {
        let Some(link) = self.active.take() else { return };
        tracing::info!(link = link.id.0, "the cell has another owner");
        self.last_heard = link.last_heard;
        self.disconnected_since = Some(now);
        self.orphans_cancelled = false;
        // A stream to another broker that is being opened leads to the new owner as well.
        if self.opening.is_some() {
            self.actions.push_back(Action::HalfClose(link.id));
            return;
        }
        self.opening = Some(Opening { id: link.id, deadline: now + HANDSHAKE, connected: true, hello: None });
    }

    pub(super) fn reconnect(&mut self, now: Duration, end: &LinkEnd) {
        self.address = (self.address + 1) % self.config.addresses.max(1);
        self.hops += 1;
        let wait = if end.try_next && self.hops < self.config.addresses {
            Duration::ZERO
        } else {
            self.hops = 0;
            let in_grace = self.disconnected_since.is_none_or(|since| now.saturating_sub(since) < self.terms.grace);
            let cap = if in_grace { RECONNECT_CAP_IN_GRACE } else { RECONNECT_CAP };
            self.backoff.next_wait_of(cap, end.retry_after)
        };
        self.reconnect_at = Some(now + wait);
    }

    /// Drops a link whose peer says nothing, with its channel: it may be half open.
    pub(super) fn give_up(&mut self, now: Duration, id: LinkId, detail: &str) {
        self.actions.push_back(Action::Close(id));
        let end = LinkEnd { try_next: true, retry_after: None, detail: detail.to_owned() };
        self.on_link_end(now, id, &end);
    }

    pub(super) fn hello(&mut self) -> Option<v1::WorkRequest> {
        let capacity = self.capacity();
        let opening = self.opening.as_mut().filter(|opening| opening.connected && opening.hello.is_none())?;
        opening.hello = Some(capacity.revision);
        if let Some(old) = &mut self.active {
            old.discards_jobs = true;
        }
        let resume = self.identity.as_ref().map(|(session_id, resume_token)| v1::Resume {
            session_id: session_id.clone(),
            resume_token: resume_token.clone(),
            lease_tokens: self.leases.iter_owed().map(|(_, held)| held.token.clone()).collect(),
        });
        let mut capabilities = vec!["owner-changed".to_owned()];
        if self.config.until_caught_up {
            capabilities.push("caught-up".to_owned());
        }
        let hello = v1::Hello {
            min_protocol: PROTOCOL,
            max_protocol: PROTOCOL,
            capabilities,
            instance_id: self.config.instance_id.clone(),
            worker_name: self.config.worker_name.clone(),
            sdk: concat!("cabbage-worker/", env!("CARGO_PKG_VERSION")).to_owned(),
            language: "rust".to_owned(),
            queues: self.config.queues.clone(),
            tasks: self
                .config
                .tasks
                .iter()
                .flat_map(|task| task.names().map(|name| (name.clone(), task.max_concurrent)))
                .map(|(task, max_concurrent)| v1::TaskRegistration { task, max_concurrent })
                .collect(),
            labels: self.config.labels.clone(),
            capacity: Some(capacity),
            max_receive_bytes: MAX_RECEIVE_BYTES,
            resume,
        };
        Some(v1::WorkRequest { received_seq: 0, frame: Some(v1::work_request::Frame::Hello(hello)) })
    }

    pub(super) fn capacity(&self) -> v1::Capacity {
        v1::Capacity {
            revision: self.capacity_revision,
            max_jobs: (self.config.concurrency + self.config.prefetch).min(MAX_CREDIT_JOBS) as u32,
            max_bytes: self.config.max_bytes,
            paused: self.paused || self.phase != Phase::Serving,
        }
    }

    /// Control goes first, results last.
    pub(super) fn active_frame(&mut self, now: Duration, id: LinkId) -> Option<v1::work_request::Frame> {
        use v1::work_request::Frame;
        let wants_drain = self.phase != Phase::Serving;
        let capacity = self.capacity();
        let in_flight = self.leases.owed() as u32;
        let link = self.active.as_mut().filter(|link| link.id == id)?;
        if wants_drain && !link.drain_sent {
            link.drain_sent = true;
            return Some(Frame::Drain(v1::Drain { reason: "the worker stops".to_owned() }));
        }
        if link.capacity_sent != capacity.revision {
            link.capacity_sent = capacity.revision;
            return Some(Frame::Capacity(capacity));
        }
        if now >= link.next_beat {
            link.next_beat = now + self.terms.beat;
            link.beats += 1;
            return Some(Frame::Beat(v1::Beat { number: link.beats, in_flight }));
        }
        let results =
            self.outbox.next_frame(&mut self.leases, self.terms.max_unacknowledged, self.terms.max_frame_bytes)?;
        self.counters.result_frames += 1;
        Some(Frame::Results(results))
    }
}
