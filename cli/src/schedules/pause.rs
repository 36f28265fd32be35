//! By whom a schedule was paused, and why: what the record of verbs says of it.

use cabbage_proto::v1::{AuditEntry, Schedule};

use crate::{audit, brokers::BrokerArgs, exit::Outcome};

/// How many entries of the record are read at once.
const PAGE_ENTRIES: u32 = 1_000;
/// How many pages are read: a record that long takes a second to read.
const PAGES_MAX: usize = 100;

/// What paused it; `None`: it is not paused, or that is further back than the newest 100,000 entries of the record.
pub(super) async fn cause(brokers: &BrokerArgs, schedule: &Schedule) -> Outcome<Option<AuditEntry>> {
    if !schedule.paused {
        return Ok(None);
    }
    let (mut of_it, mut token) = (Vec::new(), String::new());
    for _ in 0..PAGES_MAX {
        let (entries, next) = audit::page(brokers, 0, PAGE_ENTRIES, token).await?;
        of_it.extend(entries.into_iter().filter(|entry| entry.schedule == schedule.name && entry.refused.is_empty()));
        token = next;
        if token.is_empty() || of_it.iter().any(ends_a_pause) {
            break;
        }
    }
    Ok(first_since_it_ran(&of_it).cloned())
}

/// Whether it was not paused any more from this entry on.
fn ends_a_pause(entry: &AuditEntry) -> bool {
    matches!(entry.verb.as_str(), "resume schedule" | "delete schedule")
}

/// Of entries of one schedule, newest first: the first pause since the schedule was last resumed or taken away, since who pauses what is
/// paused changes nothing. Without any, it was put as a paused one.
fn first_since_it_ran(of_it: &[AuditEntry]) -> Option<&AuditEntry> {
    let since: Vec<_> = of_it.iter().take_while(|entry| !ends_a_pause(entry)).collect();
    let first = |verb: &str| since.iter().rfind(|entry| entry.verb == verb).copied();
    first("pause schedule").or_else(|| first("put schedule"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_pause_since_it_last_ran_counts() {
        let entry =
            |verb: &str, reason: &str| AuditEntry { verb: verb.into(), reason: reason.into(), ..AuditEntry::default() };
        let entries = [
            entry("pause schedule", "again"),
            entry("pause schedule", "too loud"),
            entry("resume schedule", ""),
            entry("pause schedule", "long ago"),
            entry("put schedule", "as paused"),
        ];
        let why = |entries| first_since_it_ran(entries).map(|entry| entry.reason.as_str());
        assert_eq!(why(&entries), Some("too loud"));
        assert_eq!(why(&entries[2..]), None);
        assert_eq!(why(&entries[4..]), Some("as paused"));
    }
}
