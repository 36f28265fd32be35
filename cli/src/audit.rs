//! `audit`: what was asked of jobs, queues, schedules and the cell, by whom and why.

use cabbage_proto::v1::{AuditEntry, ListAuditRequest};
use clap::Args;
use serde::Serialize;

use crate::{
    brokers::{BrokerArgs, admin_service},
    exit::Outcome,
    output::{Format, OutputArgs, lines, say, table},
    refusal::Effect,
    time::{for_machines, for_people, from_wire},
};

/// What one call asks for at most.
const PAGE_ENTRIES_MAX: u32 = 1_000;

/// List what was asked of jobs, queues, schedules and the cell, newest first: who, and why; of SQL also what was refused
#[derive(Args, Debug)]
pub(crate) struct AuditArgs {
    /// Only what was asked of this job
    #[arg(long, value_name = "ID", value_parser = clap::value_parser!(i64).range(1..))]
    job: Option<i64>,
    /// How many entries to show at most
    #[arg(short = 'n', long, value_name = "N", default_value_t = 20,
          value_parser = clap::value_parser!(u32).range(1..=i64::from(PAGE_ENTRIES_MAX)))]
    limit: u32,
    /// Go on where another list ended
    #[arg(long, value_name = "TOKEN")]
    page_token: Option<String>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    brokers: BrokerArgs,
}

/// A page as JSON.
#[derive(Debug, Serialize)]
struct Page<'a> {
    entries: Vec<EntryView<'a>>,
    next_page_token: &'a str,
}

/// An entry as JSON.
#[derive(Debug, Serialize)]
pub(crate) struct EntryView<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<String>,
    verb: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    job_id: Option<String>,
    #[serde(skip_serializing_if = "str::is_empty")]
    queue: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    schedule: &'a str,
    actor: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    reason: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    refused: &'a str,
}

impl AuditArgs {
    pub(crate) async fn run(&self) -> Outcome {
        let token = self.page_token.clone().unwrap_or_default();
        let (entries, next) = page(&self.brokers, self.job.unwrap_or(0), self.limit, token).await?;
        let view = Page { entries: entries.iter().map(EntryView::of).collect(), next_page_token: &next };
        self.output.print(|| rows(&entries), &view)?;
        if self.output.format == Format::Table && !next.is_empty() {
            say(format_args!("there may be more: --page-token {next}"));
        }
        Ok(())
    }
}

/// A page of the record, of one job or (0) of all; and where it goes on.
pub(crate) async fn page(
    brokers: &BrokerArgs,
    job_id: i64,
    page_size: u32,
    page_token: String,
) -> Outcome<(Vec<AuditEntry>, String)> {
    let request = ListAuditRequest { page_size, page_token, job_id };
    let call = async |channel| admin_service(channel).list_audit(request.clone()).await;
    let page = brokers.call("cannot list the audit", Effect::Reads, call).await?;
    Ok((page.entries, page.next_page_token))
}

impl<'a> EntryView<'a> {
    pub(crate) fn of(entry: &'a AuditEntry) -> Self {
        Self {
            at: entry.at.and_then(from_wire).map(for_machines),
            verb: &entry.verb,
            job_id: (entry.job_id != 0).then(|| entry.job_id.to_string()),
            queue: &entry.queue,
            schedule: &entry.schedule,
            actor: &entry.actor,
            reason: &entry.reason,
            refused: &entry.refused,
        }
    }
}

/// Why it was asked for, and if it was refused, why that was.
fn why(entry: &AuditEntry) -> String {
    match (entry.reason.as_str(), entry.refused.as_str()) {
        (reason, "") => reason.to_owned(),
        ("", refused) => format!("refused: {refused}"),
        (reason, refused) => format!("{reason} (refused: {refused})"),
    }
}

/// Entries as a table for people.
pub(crate) fn rows(entries: &[AuditEntry]) -> String {
    let mut table = table(&["AT", "VERB", "JOB", "OF", "WHO", "WHY"]);
    for entry in entries {
        table.add_row([
            entry.at.and_then(from_wire).map(for_people).unwrap_or_default(),
            entry.verb.clone(),
            if entry.job_id == 0 { String::new() } else { entry.job_id.to_string() },
            // One is about a queue, or about a schedule.
            if entry.queue.is_empty() { entry.schedule.clone() } else { entry.queue.clone() },
            entry.actor.clone(),
            why(entry),
        ]);
    }
    lines(table)
}
