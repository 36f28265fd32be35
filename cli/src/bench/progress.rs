//! How far a measurement has come, on a terminal.

use indicatif::{ProgressBar, ProgressStyle};

/// A line that grows. It is drawn on standard error, a few times a second, where that is a terminal; it is gone when
/// this is dropped.
pub(super) struct Progress(ProgressBar);

impl Progress {
    /// Nothing yet of so many jobs.
    pub(super) fn of(doing: &'static str, jobs: u64) -> Self {
        let style = ProgressStyle::with_template("{msg} {bar:40} {human_pos}/{human_len} jobs, {per_sec}");
        let bar = ProgressBar::new(jobs).with_message(doing);
        Self(style.map_or(bar.clone(), |style| bar.with_style(style)))
    }

    /// So many jobs more.
    pub(super) fn more(&self, jobs: u64) {
        self.0.inc(jobs);
    }

    /// So many jobs in all.
    pub(super) fn at(&self, jobs: u64) {
        self.0.set_position(jobs);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
