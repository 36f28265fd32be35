//! How much of one stream may be under way on a link, so that a worker that does not read stops nobody else.

use std::sync::atomic::{AtomicI64, Ordering};

use tokio::sync::Notify;

/// Bytes of frames that may be under way, in each direction. The last frame may exceed it.
pub(super) const WINDOW_BYTES: u32 = 1 << 20;

/// The sender's side.
#[derive(Debug)]
pub(super) struct Window {
    left: AtomicI64,
    more: Notify,
}

impl Default for Window {
    fn default() -> Self {
        Self { left: AtomicI64::new(i64::from(WINDOW_BYTES)), more: Notify::new() }
    }
}

impl Window {
    /// Waits until something may be sent.
    pub(super) async fn room(&self) {
        loop {
            let more = self.more.notified();
            if self.left.load(Ordering::Acquire) > 0 {
                return;
            }
            more.await;
        }
    }

    /// So many bytes were sent.
    pub(super) fn sent(&self, bytes: usize) {
        self.left.fetch_sub(bytes as i64, Ordering::AcqRel);
    }

    /// So many were taken in.
    pub(super) fn credit(&self, bytes: u32) {
        self.left.fetch_add(i64::from(bytes), Ordering::AcqRel);
        // One task sends; a permit that nobody waits for is found by its next look.
        self.more.notify_one();
    }
}

/// The receiver's side: what was taken in and not told yet.
#[derive(Debug, Default)]
pub(super) struct Taken(u32);

impl Taken {
    /// So many bytes were taken in; gives what the sender is to be told, if that is worth a word by now.
    pub(super) fn take(&mut self, bytes: usize) -> Option<u32> {
        self.0 = self.0.saturating_add(bytes as u32);
        (self.0 >= WINDOW_BYTES / 4).then(|| std::mem::take(&mut self.0))
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[test]
    fn a_full_window_waits_for_credit() {
        let window = Window::default();
        assert!(window.room().now_or_never().is_some());
        window.sent(WINDOW_BYTES as usize + 5);
        assert!(window.room().now_or_never().is_none());
        window.credit(5);
        assert!(window.room().now_or_never().is_none());
        window.credit(1);
        assert!(window.room().now_or_never().is_some());
    }

    #[test]
    fn credit_is_told_before_the_window_can_run_dry() {
        let mut taken = Taken::default();
        assert_eq!(taken.take(10), None);
        assert_eq!(taken.take(WINDOW_BYTES as usize / 4), Some(WINDOW_BYTES / 4 + 10));
        assert_eq!(taken.take(1), None);
    }
}
