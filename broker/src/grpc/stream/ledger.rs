//! What the reader and the writer of a stream know of each other. Locked once for each frame, never for each job.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use tokio::sync::Notify;

/// Shared by both tasks of a stream.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pages: Mutex<Pages>,
    /// Woken when results were acknowledged.
    acknowledged: Notify,
}

#[derive(Debug, Default)]
struct Pages {
    /// Frames of jobs that were sent and not acknowledged: the number, and the deliveries up to it.
    sent: VecDeque<(u64, u64)>,
    /// Deliveries that are known to be received.
    received: u64,
    /// Frames of results that are not acknowledged: the number, how many results, and tokens that are none.
    results: VecDeque<(u64, usize, Vec<Bytes>)>,
    unacknowledged: usize,
}

impl Ledger {
    /// A frame of jobs goes out, the last of so many deliveries of this stream.
    pub(super) fn sent(&self, seq: u64, deliveries: u64) {
        self.pages().sent.push_back((seq, deliveries));
    }

    /// The worker received all frames up to this one. Gives how many deliveries that makes in all; a number that was
    /// never sent counts as the last that was.
    pub(super) fn received(&self, seq: u64) -> u64 {
        let mut pages = self.pages();
        while let Some((first, deliveries)) = pages.sent.front().copied() {
            if first > seq {
                break;
            }
            pages.received = deliveries;
            pages.sent.pop_front();
        }
        pages.received
    }

    /// A frame of results came.
    pub(super) fn results(&self, seq: u64, count: usize, invalid_tokens: Vec<Bytes>) {
        let mut pages = self.pages();
        pages.unacknowledged += count;
        pages.results.push_back((seq, count, invalid_tokens));
    }

    /// All frames of results up to this one are recorded. Gives their tokens that are none.
    pub(super) fn recorded(&self, through: u64) -> Vec<Bytes> {
        let mut invalid = Vec::new();
        let mut pages = self.pages();
        while pages.results.front().is_some_and(|(seq, ..)| *seq <= through) {
            let Some((_, count, tokens)) = pages.results.pop_front() else { break };
            pages.unacknowledged -= count;
            invalid.extend(tokens);
        }
        drop(pages);
        self.acknowledged.notify_one();
        invalid
    }

    /// Waits until no more than `max` results are unacknowledged.
    pub(super) async fn room(&self, max: usize) {
        while self.pages().unacknowledged > max {
            self.acknowledged.notified().await;
        }
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_become_counts_of_deliveries() {
        let ledger = Ledger::default();
        ledger.sent(1, 10);
        ledger.sent(2, 14);
        assert_eq!(ledger.received(0), 0);
        assert_eq!(ledger.received(1), 10);
        assert_eq!(ledger.received(99), 14);
        ledger.sent(3, 15);
        assert_eq!(ledger.received(1), 14);
        assert_eq!(ledger.received(3), 15);
    }

    #[tokio::test]
    async fn a_stream_with_too_many_results_waits_for_their_acknowledgement() {
        let ledger = Ledger::default();
        ledger.results(1, 3, vec![Bytes::from_static(b"bad")]);
        ledger.results(2, 3, Vec::new());
        ledger.room(6).await;
        let (mut waits, mut woken) = (false, false);
        tokio::join!(
            biased;
            async {
                waits = true;
                ledger.room(3).await;
                woken = true;
            },
            async { assert_eq!(ledger.recorded(1), vec![Bytes::from_static(b"bad")]) }
        );
        assert!(waits && woken);
    }
}
