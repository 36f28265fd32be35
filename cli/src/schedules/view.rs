//! Schedules, for people and for programs.

use cabbage_proto::v1::{AuditEntry, MissedTicks, Schedule, TickOutcome};
use chrono::{DateTime, SecondsFormat, Utc};
use chrono_tz::Tz;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::{
    jobs::{
        options,
        view::{SpecView, raw},
    },
    output::{lines, table},
    time::{for_machines, for_people, from_wire},
};

/// A schedule as JSON.
#[derive(Debug, Serialize)]
pub(super) struct ScheduleView<'a> {
    name: &'a str,
    cron: &'a str,
    time_zone: &'a str,
    missed_ticks: &'static str,
    paused: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    paused_at: Option<String>,
    #[serde(skip_serializing_if = "str::is_empty")]
    paused_by: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pause_reason: &'a str,
    task: &'a str,
    queue: &'a str,
    args: Option<&'a RawValue>,
    /// All of what is deferred, as a job shows it; the three above are of it too.
    #[serde(skip_serializing_if = "Option::is_none")]
    job: Option<SpecView<'a>>,
    last_tick: Option<String>,
    last_job_id: Option<String>,
    decided_tick: Option<String>,
    decided_outcome: Option<&'static str>,
    next_ticks: Vec<String>,
}

impl<'a> ScheduleView<'a> {
    pub(super) fn of(schedule: &'a Schedule) -> Self {
        let job = schedule.job.as_ref();
        let time = |at: &Option<prost_types::Timestamp>| at.and_then(from_wire).map(for_machines);
        Self {
            name: &schedule.name,
            cron: &schedule.cron,
            time_zone: &schedule.time_zone,
            missed_ticks: missed(schedule.missed_ticks()),
            paused: schedule.paused,
            paused_at: None,
            paused_by: "",
            pause_reason: "",
            task: job.map_or("", |job| &job.task),
            queue: job.map_or("", |job| &job.queue),
            args: job.and_then(|job| raw(&job.args)),
            job: job.map(SpecView::of),
            last_tick: time(&schedule.last_tick),
            last_job_id: (schedule.last_job_id > 0).then(|| schedule.last_job_id.to_string()),
            decided_tick: time(&schedule.decided_tick),
            decided_outcome: outcome(schedule.decided_outcome()),
            next_ticks: ticks(schedule).into_iter().map(for_machines).collect(),
        }
    }

    /// The same with what paused it, where that is known.
    pub(super) fn paused_by(self, pause: Option<&'a AuditEntry>) -> Self {
        let Some(pause) = pause else { return self };
        let paused_at = pause.at.and_then(from_wire).map(for_machines);
        Self { paused_at, paused_by: &pause.actor, pause_reason: &pause.reason, ..self }
    }
}

/// A line for each schedule.
pub(super) fn rows(schedules: &[Schedule]) -> String {
    let mut table = table(&["NAME", "CRON", "ZONE", "TASK", "STATE", "LAST", "NEXT"]);
    for schedule in schedules {
        let next = ticks(schedule).first().map(|tick| local(*tick, &schedule.time_zone));
        table.add_row(vec![
            schedule.name.clone(),
            schedule.cron.clone(),
            schedule.time_zone.clone(),
            schedule.job.as_ref().map(|job| job.task.clone()).unwrap_or_default(),
            if schedule.paused { "paused" } else { "active" }.to_owned(),
            schedule.last_tick.and_then(from_wire).map(for_people).unwrap_or_default(),
            next.unwrap_or_default(),
        ]);
    }
    lines(table)
}

/// All of one schedule, and what paused it where that is known.
pub(super) fn page(schedule: &Schedule, pause: Option<&AuditEntry>) -> String {
    let job = schedule.job.clone().unwrap_or_default();
    let state = match pause {
        Some(pause) => {
            let since = pause.at.and_then(from_wire).map(for_people).unwrap_or_default();
            format!("paused since {since} by {}", pause.actor)
        }
        None => if schedule.paused { "paused" } else { "active" }.to_owned(),
    };
    let mut page = vec![format!("schedule  {}", schedule.name), format!("state     {state}")];
    if let Some(pause) = pause.filter(|pause| !pause.reason.is_empty()) {
        page.push(format!("why       {}", pause.reason));
    }
    page.extend([
        format!("cron      {}  in {}", schedule.cron, schedule.time_zone),
        format!("missed    {}", missed(schedule.missed_ticks())),
        format!("job       {} {}  in queue {}", job.task, String::from_utf8_lossy(&job.args), job.queue),
    ]);
    page.extend(options::lines(&job).into_iter().map(|(name, value)| format!("{:<10}{name} {value}", "")));
    if let Some(tick) = schedule.last_tick.and_then(from_wire) {
        page.push(format!("last      {}  job {}", for_people(tick), schedule.last_job_id));
    }
    if let (Some(tick), Some(word)) = (schedule.decided_tick.and_then(from_wire), outcome(schedule.decided_outcome()))
        && schedule.decided_tick != schedule.last_tick
    {
        page.push(format!("skipped   {}  {word}", for_people(tick)));
    }
    for (tick, title) in ticks(schedule).into_iter().zip(std::iter::once("next").chain(std::iter::repeat(""))) {
        page.push(format!("{title:<10}{}  {}", local(tick, &schedule.time_zone), for_people(tick)));
    }
    page.join("\n")
}

fn ticks(schedule: &Schedule) -> Vec<DateTime<Utc>> {
    schedule.next_ticks.iter().copied().filter_map(from_wire).collect()
}

/// An instant by the clocks of a zone; in UTC if this program does not know the zone.
fn local(tick: DateTime<Utc>, zone: &str) -> String {
    match zone.parse::<Tz>() {
        Ok(zone) => tick.with_timezone(&zone).to_rfc3339_opts(SecondsFormat::Secs, true),
        Err(_) => for_people(tick),
    }
}

fn missed(rule: MissedTicks) -> &'static str {
    match rule {
        MissedTicks::Unspecified | MissedTicks::Latest => "latest",
        MissedTicks::Skip => "skip",
        MissedTicks::All => "all",
    }
}

fn outcome(outcome: TickOutcome) -> Option<&'static str> {
    match outcome {
        TickOutcome::Unspecified => None,
        TickOutcome::Deferred => Some("deferred"),
        TickOutcome::Missed => Some("missed"),
        TickOutcome::QueueingLockTaken => Some("queueing lock taken"),
        TickOutcome::LimitReached => Some("limit reached"),
    }
}

#[cfg(test)]
mod tests {
    use cabbage_proto::v1::JobSpec;

    use super::*;

    #[test]
    fn next_runs_are_shown_by_the_clocks_of_the_zone_and_in_utc() {
        let schedule = Schedule {
            name: "nightly".into(),
            cron: "30 2 * * *".into(),
            time_zone: "Europe/Berlin".into(),
            job: Some(JobSpec { task: "clean".into(), queue: "default".into(), ..JobSpec::default() }),
            next_ticks: vec![prost_types::Timestamp { seconds: 1_774_746_000, nanos: 0 }],
            ..Schedule::default()
        };
        let next = page(&schedule, None).lines().last().expect("a line").to_owned();
        assert_eq!(next, "next      2026-03-29T03:00:00+02:00  2026-03-29T01:00:00Z");
        assert!(rows(&[schedule]).lines().nth(1).expect("a row").ends_with("2026-03-29T03:00:00+02:00"));
    }
}
