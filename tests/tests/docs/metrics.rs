//! `monitor.md`: every metric has its row, and no alert names one that is not there.

use std::collections::BTreeSet;

use crate::{read, rows};

/// What the source registers, in Prometheus' spelling: a counter ends with `_total`.
fn registered() -> BTreeSet<String> {
    let source = read("broker/src/telemetry.rs");
    let source = source.split("#[cfg(test)]").next().unwrap_or_default();
    let mut names = BTreeSet::new();
    for (before, name) in source.match_indices("\"cabbage_").map(|(at, _)| (&source[..at], &source[at + 1..])) {
        let name = name.split('"').next().unwrap_or_default();
        let opening = before.trim_end().trim_end_matches('(');
        let is_counter = opening.ends_with("count") || opening.ends_with("counter");
        names.insert(if is_counter { format!("{name}_total") } else { name.to_owned() });
    }
    names
}

#[test]
fn every_metric_has_a_row() {
    let names = registered();
    assert!(names.len() >= 19, "the source is read: {names:?}");
    let page = read("docs/how-to/monitor.md");
    let rows = rows(&page);
    for name in names {
        let has_row = rows.iter().any(|row| row[0] == format!("`{name}`"));
        assert!(has_row, "docs/how-to/monitor.md has no row for {name}");
    }
}

#[test]
fn no_metric_is_made_up() {
    let (names, page) = (registered(), read("docs/how-to/monitor.md"));
    let is_part = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    for word in page.match_indices("cabbage_").map(|(at, _)| &page[at..]) {
        let word = word.split(|letter| !is_part(letter)).next().unwrap_or_default();
        let metric = ["_bucket", "_sum", "_count"].iter().find_map(|part| word.strip_suffix(part)).unwrap_or(word);
        // A module in the log's filter.
        assert!(names.contains(metric) || metric == "cabbage_broker", "no broker has the metric {word}");
    }
}
