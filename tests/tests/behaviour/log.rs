//! What a worker logs.

use std::{cell::RefCell, io, sync::Once, sync::mpsc};

thread_local! {
    static LINES: RefCell<Option<mpsc::Sender<String>>> = const { RefCell::new(None) };
}

/// Keeps what this thread logs from now on, an event each.
///
/// There is one subscriber for all threads: with one of each thread, another thread may be the first to come to an
/// event, and find that nobody listens.
pub(crate) fn keep() -> mpsc::Receiver<String> {
    static START: Once = Once::new();
    START.call_once(|| tracing_subscriber::fmt().with_ansi(false).with_writer(|| Line).init());
    let (to, lines) = mpsc::channel();
    LINES.set(Some(to));
    lines
}

/// Each event is written at once.
struct Line;

impl io::Write for Line {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        LINES.with_borrow(|lines| {
            if let Some(to) = lines {
                // Nobody looks any more: the test is over.
                let _ = to.send(String::from_utf8_lossy(text).into_owned());
            }
        });
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
