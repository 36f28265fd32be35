//! What figures were made by, and on.

use std::{collections::BTreeMap, fmt, thread};

use serde::Serialize;

use super::cell::Cell;

/// Without this no figure means anything.
#[derive(Debug, Serialize)]
pub(super) struct About {
    version: &'static str,
    /// Figures of a debug build say nothing about speed.
    optimized: bool,
    cores: usize,
    /// The database's version, how durable it is, and what else decides; empty where it could not be asked.
    settings: BTreeMap<String, String>,
}

impl About {
    pub(super) async fn of(cell: &mut Cell) -> anyhow::Result<Self> {
        Ok(Self {
            version: env!("CARGO_PKG_VERSION"),
            optimized: !cfg!(debug_assertions),
            cores: thread::available_parallelism().map_or(0, usize::from),
            settings: cell.settings().await?,
        })
    }

    /// The first line of a page.
    pub(super) fn head(&self, what: impl fmt::Display) -> String {
        let Self { version, cores, .. } = self;
        let build = if self.optimized { "" } else { " (a debug build: the figures mean nothing)" };
        format!("cabbage {version}{build}, {cores} cores; {what}")
    }

    /// The last line of a page.
    pub(super) fn settings(&self) -> Option<String> {
        let settings: Vec<_> = self.settings.iter().map(|(name, value)| format!("{name}={value}")).collect();
        (!settings.is_empty()).then(|| settings.join(" "))
    }

    #[cfg(test)]
    pub(super) fn for_test() -> Self {
        let settings = BTreeMap::from([("fsync".to_owned(), "on".to_owned())]);
        Self { version: "0", optimized: true, cores: 2, settings }
    }
}
