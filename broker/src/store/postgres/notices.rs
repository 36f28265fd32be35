//! Warnings of the server during a commit.
//!
//! A commit whose wait for a standby was cancelled ends well, with a warning: "committed locally, but might not have
//! been replicated" (storage.md, rule 14). `sqlx` shows warnings to the log only, so the commit is watched by a
//! subscriber of its own, which passes everything on. The text may come in any language: each warning counts, and our
//! functions raise none.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tracing::{
    Dispatch, Event, Level, Metadata, Subscriber,
    dispatcher::get_default,
    instrument::{WithDispatch, WithSubscriber},
    level_filters::LevelFilter,
    span::{Attributes, Id, Record},
    subscriber::Interest,
};

/// Where `sqlx` logs what the server says.
const TARGET: &str = "sqlx::postgres::notice";

/// Watches for warnings.
pub(super) struct Notices {
    dispatch: Dispatch,
    warned: Arc<AtomicBool>,
}

impl Notices {
    pub(super) fn new() -> Self {
        let warned = Arc::new(AtomicBool::new(false));
        let watch = Watch { inner: get_default(Clone::clone), warned: warned.clone() };
        Self { dispatch: Dispatch::new(watch), warned }
    }

    /// Watches this future.
    pub(super) fn watch<F: Future>(&self, future: F) -> WithDispatch<F> {
        future.with_subscriber(self.dispatch.clone())
    }

    /// Whether there was a warning since the last time.
    pub(super) fn take(&self) -> bool {
        self.warned.swap(false, Ordering::Relaxed)
    }
}

struct Watch {
    inner: Dispatch,
    warned: Arc<AtomicBool>,
}

fn is_warning(metadata: &Metadata<'_>) -> bool {
    metadata.target() == TARGET && *metadata.level() <= Level::WARN
}

impl Subscriber for Watch {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if is_warning(metadata) { Interest::always() } else { self.inner.register_callsite(metadata) }
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        is_warning(metadata) || self.inner.enabled(metadata)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        // The highest hint of all subscribers counts, and the one that we pass on to gives its own.
        Some(LevelFilter::WARN)
    }

    fn event(&self, event: &Event<'_>) {
        if is_warning(event.metadata()) {
            self.warned.store(true, Ordering::Relaxed);
        }
        if self.inner.enabled(event.metadata()) {
            self.inner.event(event);
        }
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        self.inner.new_span(span)
    }

    fn record(&self, span: &Id, values: &Record<'_>) {
        self.inner.record(span, values);
    }

    fn record_follows_from(&self, span: &Id, follows: &Id) {
        self.inner.record_follows_from(span, follows);
    }

    fn enter(&self, span: &Id) {
        self.inner.enter(span);
    }

    fn exit(&self, span: &Id) {
        self.inner.exit(span);
    }

    fn clone_span(&self, id: &Id) -> Id {
        self.inner.clone_span(id)
    }

    fn try_close(&self, id: Id) -> bool {
        self.inner.try_close(id)
    }
}
