//! By whom a schedule was paused, and why: what the record of verbs says of it.

use cabbage_proto::v1::{AuditEntry, Schedule};

use crate::{audit, brokers::BrokerArgs, exit::Outcome};

/// How far back the record is read.
const LOOK_BACK_ENTRIES: u32 = 1_000;

/// What paused it; `None`: it is not paused, or that is further back than the newest 1,000 entries of the record.
pub(super) async fn cause(brokers: &BrokerArgs, schedule: &Schedule) -> Outcome<Option<AuditEntry>> {
    if !schedule.paused {
        return Ok(None);
    }
    let (entries, _) = audit::page(brokers, 0, LOOK_BACK_ENTRIES, String::new()).await?;
    Ok(first_since_it_ran(&schedule.name, &entries).cloned())
}

/// Of entries, newest first: the first pause since the schedule was last resumed or taken away, since who pauses what is
/// paused changes nothing. Without any, it was put as a paused one.
fn first_since_it_ran<'a>(name: &str, entries: &'a [AuditEntry]) -> Option<&'a AuditEntry> {
    let of_it = entries.iter().filter(|entry| entry.schedule == name && entry.refused.is_empty());
    let since: Vec<_> =
        of_it.take_while(|entry| !matches!(entry.verb.as_str(), "resume schedule" | "delete schedule")).collect();
    let first = |verb: &str| since.iter().rfind(|entry| entry.verb == verb).copied();
    first("pause schedule").or_else(|| first("put schedule"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_pause_since_it_last_ran_counts() {
        let entry = |schedule: &str, verb: &str, reason: &str| AuditEntry {
            schedule: schedule.into(),
            verb: verb.into(),
            reason: reason.into(),
            ..AuditEntry::default()
        };
        let entries = [
            entry("nightly", "pause schedule", "again"),
            entry("hourly", "resume schedule", ""),
            entry("nightly", "pause schedule", "too loud"),
            entry("nightly", "resume schedule", ""),
            entry("nightly", "pause schedule", "long ago"),
            entry("hourly", "put schedule", "as paused"),
        ];
        let why = |name| first_since_it_ran(name, &entries).map(|entry| entry.reason.as_str());
        assert_eq!(why("nightly"), Some("too loud"));
        assert_eq!(why("hourly"), None);
        assert_eq!(first_since_it_ran("hourly", &entries[2..]).map(|entry| entry.reason.as_str()), Some("as paused"));
    }
}
