//! A database of one test, and the thread that drops what tests are done with.

use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::{fmt, thread};

use crate::database;

/// Takes what is to be dropped. A thread of its own drops it, so that no test waits, and none needs a runtime.
static DONE_WITH: OnceLock<Sender<DoneWith>> = OnceLock::new();

/// A database of one test. Dropping it drops the database too, soon and whoever is still connected: the databases of
/// a whole suite together would fill a small disk.
///
/// Keep it for as long as anything uses its URL.
#[must_use = "the database goes as soon as this is dropped"]
pub struct TestDatabase {
    url: String,
    done_with: Option<DoneWith>,
}

struct DoneWith {
    /// Another database of the server.
    maintenance: String,
    name: String,
}

impl TestDatabase {
    pub(crate) fn new(url: String, maintenance: String, name: String) -> Self {
        Self { url, done_with: Some(DoneWith { maintenance, name }) }
    }

    /// Its URL.
    pub fn url(&self) -> &str {
        &self.url
    }
}

/// Its URL, as with [`url`](TestDatabase::url).
impl fmt::Display for TestDatabase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)
    }
}

/// Without the password that a URL may have.
impl fmt::Debug for TestDatabase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestDatabase").finish_non_exhaustive()
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let sender = DONE_WITH.get_or_init(|| {
            let (sender, receiver) = channel();
            thread::spawn(move || sweep(&receiver));
            sender
        });
        if let Some(done_with) = self.done_with.take() {
            // Without the thread the database stays, until its server goes.
            sender.send(done_with).ok();
        }
    }
}

fn sweep(receiver: &Receiver<DoneWith>) {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
    while let Ok(DoneWith { maintenance, name }) = receiver.recv() {
        if let Err(error) = runtime.block_on(database::drop(&maintenance, &name)) {
            tracing::debug!(name, %error, "the database of a test stays");
        }
    }
}
