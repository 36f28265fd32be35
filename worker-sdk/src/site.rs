//! Where attempts run: what all attempts of one task in one worker have in common.

use std::{fmt, sync::Arc};

use crate::{Extensions, RetryStrategy, WorkerHandle, middleware::Layer};

/// Made once for each task of a worker.
pub(crate) struct Site {
    /// The worker's name, for people.
    pub(crate) worker_name: Arc<str>,
    pub(crate) worker: WorkerHandle,
    /// The worker's own values.
    pub(crate) extensions: Extensions,
    /// The outermost first.
    pub(crate) layers: Vec<Arc<dyn Layer>>,
    /// Decides what follows a failed attempt, before the job's policy does.
    pub(crate) retry: Option<Arc<dyn RetryStrategy>>,
}

impl Site {
    /// Outside of any worker, for tests of a handler.
    pub(crate) fn of_no_worker() -> Self {
        Self {
            worker_name: "test".into(),
            worker: WorkerHandle::of_no_worker(),
            extensions: Extensions::default(),
            layers: Vec::new(),
            retry: None,
        }
    }
}

impl fmt::Debug for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Site").field("worker_name", &self.worker_name).finish_non_exhaustive()
    }
}
