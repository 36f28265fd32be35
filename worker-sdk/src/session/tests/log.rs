//! What a test logs.

use std::{cell::RefCell, io, sync::Once};

thread_local! {
    static TEXT: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Starts to keep what this thread logs.
///
/// There is one subscriber for all threads: with one of each thread, another thread may be the first to come to an
/// event, and find that nobody listens.
pub(super) fn keep() {
    static START: Once = Once::new();
    START.call_once(|| tracing_subscriber::fmt().with_ansi(false).with_writer(|| Log).init());
    take();
}

/// What this thread logged since the last look.
pub(super) fn take() -> String {
    String::from_utf8(TEXT.take()).expect("text")
}

struct Log;

impl io::Write for Log {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        TEXT.with_borrow_mut(|kept| kept.extend(text));
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
