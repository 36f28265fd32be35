//! `retention`: how long things are kept, how far retention has come, and what holds it up.

use cabbage_proto::v1::{GetRetentionRequest, GetRetentionResponse, Holder, Keep, Partition, PartitionState};
use clap::Args;
use serde::Serialize;

use crate::{
    brokers::{BrokerArgs, admin_service},
    exit::Outcome,
    output::{OutputArgs, lines, table},
    refusal::Effect,
    time::{duration_for_machines, duration_for_people, duration_from_wire, for_machines, for_people, from_wire},
};

/// Show how long jobs are kept, the partitions that they lie in, and what holds up the drop of one
#[derive(Args, Debug)]
pub(crate) struct RetentionArgs {
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    brokers: BrokerArgs,
}

/// All of it as JSON. Times that are not there stand for `forever`.
#[derive(Debug, Serialize)]
struct View {
    keep: KeepView,
    kept_below: String,
    moved_below: String,
    partitions: Vec<PartitionView>,
}

#[derive(Debug, Serialize)]
struct KeepView {
    #[serde(skip_serializing_if = "Option::is_none")]
    succeeded: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failed: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cancelled: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    audit: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    log: Option<String>,
    log_bytes: String,
}

#[derive(Debug, Serialize)]
struct PartitionView {
    first_id: String,
    end_id: String,
    state: &'static str,
    bytes: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    closed_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    frozen_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    indexed_at: Option<String>,
    moved_jobs: String,
    waits_for: Vec<HolderView>,
}

#[derive(Debug, Serialize)]
struct HolderView {
    pid: i32,
    user: String,
    application: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<String>,
}

impl RetentionArgs {
    pub(crate) async fn run(&self) -> Outcome {
        let call = async |channel| admin_service(channel).get_retention(GetRetentionRequest {}).await;
        let now = self.brokers.call("cannot show how jobs are kept", Effect::Reads, call).await?;
        self.output.print(|| page(&now), &View::of(&now))
    }
}

impl View {
    fn of(now: &GetRetentionResponse) -> Self {
        let instant = |at: Option<prost_types::Timestamp>| at.and_then(from_wire).map(for_machines);
        let holder = |holder: &Holder| HolderView {
            pid: holder.pid,
            user: holder.user.clone(),
            application: holder.application.clone(),
            since: instant(holder.since),
        };
        let partition = |partition: &Partition| PartitionView {
            first_id: partition.first_id.to_string(),
            end_id: partition.end_id.to_string(),
            state: state(partition),
            bytes: partition.bytes.to_string(),
            closed_at: instant(partition.closed_at),
            frozen_at: instant(partition.frozen_at),
            indexed_at: instant(partition.indexed_at),
            moved_jobs: partition.moved_jobs.to_string(),
            waits_for: partition.waits_for.iter().map(holder).collect(),
        };
        Self {
            keep: KeepView::of(&now.keep.unwrap_or_default()),
            kept_below: now.kept_below.to_string(),
            moved_below: now.moved_below.to_string(),
            partitions: now.partitions.iter().map(partition).collect(),
        }
    }
}

impl KeepView {
    fn of(keep: &Keep) -> Self {
        let time = |time: Option<prost_types::Duration>| time.and_then(duration_from_wire).map(duration_for_machines);
        Self {
            succeeded: time(keep.succeeded),
            failed: time(keep.failed),
            cancelled: time(keep.cancelled),
            audit: time(keep.audit),
            log: time(keep.log),
            log_bytes: keep.log_bytes.to_string(),
        }
    }
}

fn page(now: &GetRetentionResponse) -> String {
    let keep = now.keep.unwrap_or_default();
    let time = |time: Option<prost_types::Duration>| {
        time.and_then(duration_from_wire).map_or("forever".to_owned(), duration_for_people)
    };
    let mut kept = table(&["WHAT", "KEPT FOR"]);
    let log = format!("{}, {} at most", time(keep.log), size(keep.log_bytes));
    for (what, time) in [
        ("succeeded", time(keep.succeeded)),
        ("failed", time(keep.failed)),
        ("cancelled", time(keep.cancelled)),
        ("audit", time(keep.audit)),
        ("log", log),
    ] {
        kept.add_row([what.to_owned(), time]);
    }
    let bounds = format!("kept below {}, moved below {}", now.kept_below, now.moved_below);
    let mut blocks = vec![lines(kept), bounds];
    if !now.partitions.is_empty() {
        blocks.push(partitions(&now.partitions));
    }
    let held = now.partitions.iter().filter(|partition| !partition.waits_for.is_empty());
    blocks.extend(held.map(|partition| {
        let holders = partition.waits_for.iter().map(|holder| {
            let since = holder.since.and_then(from_wire).map(for_people).unwrap_or_default();
            format!(
                "  process {} ({}, {}), whose transaction is open since {since}",
                holder.pid, holder.user, holder.application
            )
        });
        let first = format!("the drop of {} waits for", partition.first_id);
        std::iter::once(first).chain(holders).collect::<Vec<_>>().join("\n")
    }));
    blocks.join("\n\n")
}

fn partitions(partitions: &[Partition]) -> String {
    let mut rows = table(&["FIRST ID", "STATE", "SIZE", "CLOSED", "FROZEN", "INDEXED", "COPIED"]);
    for partition in partitions {
        let yes = |at: Option<prost_types::Timestamp>| if at.is_some() { "yes" } else { "" }.to_owned();
        rows.add_row([
            partition.first_id.to_string(),
            state(partition).to_owned(),
            size(partition.bytes),
            partition.closed_at.and_then(from_wire).map(for_people).unwrap_or_default(),
            yes(partition.frozen_at),
            yes(partition.indexed_at),
            partition.moved_jobs.to_string(),
        ]);
    }
    lines(rows)
}

fn state(partition: &Partition) -> &'static str {
    match partition.state() {
        PartitionState::Unspecified => "unknown",
        PartitionState::Ahead => "ahead",
        PartitionState::Open => "open",
        PartitionState::Closed => "closed",
        PartitionState::Moving => "moving",
        PartitionState::Dropping => "waits for its drop",
    }
}

/// A size for people.
fn size(bytes: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    let unit = UNITS.into_iter().find(|(unit, _)| bytes >= *unit);
    unit.map_or(format!("{bytes} B"), |(unit, name)| format!("{:.0} {name}", bytes as f64 / unit as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_see_what_is_kept_and_what_a_drop_waits_for() {
        let holder = Holder { pid: 42, user: "ann".to_owned(), application: "report".to_owned(), since: None };
        let now = GetRetentionResponse {
            keep: Some(Keep {
                succeeded: Some(prost_types::Duration { seconds: 7 * 86_400, nanos: 0 }),
                audit: Some(prost_types::Duration { seconds: 365 * 86_400, nanos: 0 }),
                log_bytes: 10 << 30,
                ..Keep::default()
            }),
            kept_below: 1 << 24,
            moved_below: 1 << 24,
            partitions: vec![Partition {
                end_id: 1 << 24,
                state: PartitionState::Dropping.into(),
                bytes: 3 << 20,
                moved_jobs: 7,
                waits_for: vec![holder],
                ..Partition::default()
            }],
        };
        let page = page(&now);
        for part in [
            "succeeded  7days",
            "failed     forever",
            "audit      365days",
            "0         waits for its drop  3 MiB",
            "process 42 (ann, report)",
        ] {
            assert!(page.contains(part), "{part} in\n{page}");
        }
        let json = serde_json::to_value(View::of(&now)).unwrap();
        assert_eq!(json["keep"]["succeeded"], "604800s");
        assert_eq!(json["partitions"][0]["waits_for"][0]["pid"], 42);
        assert!(json["keep"].get("failed").is_none());
    }
}
