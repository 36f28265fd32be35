//! Schedules, from the wire to checked ones and back.

use std::sync::Arc;

use cabbage_proto::v1;

use crate::core::{
    cron::Cron,
    event::OnConflict,
    job::{DueAt, JobSpec},
    schedule::{MissedTicks, Schedule, ScheduleRecord, TickOutcome},
    types::Timestamp,
};

use super::{
    check::{self, Invalid},
    defer::Specs,
    show,
};

/// Labels of jobs that begin like this are the broker's.
const OWN_LABELS: &str = "cabbage.";

/// How many ticks to come are shown.
const NEXT_TICKS_SHOWN: usize = 10;

/// Checks what is put. Gives what it weighs too, in bytes, about.
pub(super) fn checked(schedule: v1::Schedule) -> Result<(Schedule, usize), Invalid> {
    let v1::Schedule { name, cron, time_zone, job, missed_ticks, .. } = schedule;
    let invalid = |field: &str, problem: String| Invalid::new(format_args!("schedule.{field}"), problem);
    check::name("schedule.name", &name)?;
    let zone = Cron::zone_of(&time_zone).map_err(|error| invalid("time_zone", error.to_string()))?;
    let cron = Cron::parse(&cron, zone).map_err(|error| invalid("cron", error.to_string()))?;
    let missed = match v1::MissedTicks::try_from(missed_ticks) {
        Ok(v1::MissedTicks::Unspecified | v1::MissedTicks::Latest) => MissedTicks::Latest,
        Ok(v1::MissedTicks::Skip) => MissedTicks::Skip,
        Ok(v1::MissedTicks::All) => MissedTicks::All,
        Err(_) => return Err(invalid("missed_ticks", "is no value of the enum".into())),
    };
    let mut specs = Specs::default();
    let item = specs.item("PutSchedule", job, "").map_err(|invalid| invalid.within("schedule"))?;
    if item.on_conflict != OnConflict::Reject {
        let problem = "is not for schedules: a tick that meets a taken queueing lock is skipped; leave it out";
        return Err(invalid("job.queueing_conflict", problem.into()));
    }
    check_job(&item.spec)?;
    Ok((Schedule { name: name.into(), cron, missed, job: item.spec }, specs.bytes))
}

/// A periodic job's own time is its tick.
fn check_job(job: &Arc<JobSpec>) -> Result<(), Invalid> {
    let due = match job.due {
        DueAt::Once => None,
        DueAt::At(_) => Some("schedule.job.schedule_at"),
        DueAt::In(_) => Some("schedule.job.schedule_in"),
    };
    if let Some(field) = due {
        return Err(Invalid::new(field, "is not for schedules, whose jobs are due at their ticks; leave it out"));
    }
    if job.deadline.is_some() {
        let problem =
            "is one instant, which later ticks come after; leave it out, or limit attempts by attempt_timeout";
        return Err(Invalid::new("schedule.job.deadline", problem));
    }
    if let Some((label, _)) = job.metadata.iter().find(|(label, _)| label.starts_with(OWN_LABELS)) {
        let problem = format!("has the label {label}; labels that begin with `{OWN_LABELS}` are the broker's");
        return Err(Invalid::new("schedule.job.metadata", problem));
    }
    Ok(())
}

/// A schedule as it is recorded, and its next ticks as seen from `now`.
pub(super) fn shown(record: &ScheduleRecord, now: Timestamp) -> v1::Schedule {
    let schedule = &record.schedule;
    v1::Schedule {
        name: schedule.name.to_string(),
        cron: schedule.cron.text().to_string(),
        time_zone: schedule.cron.zone().name().to_owned(),
        job: Some(show::wanted(&schedule.job)),
        missed_ticks: match schedule.missed {
            MissedTicks::Latest => v1::MissedTicks::Latest,
            MissedTicks::Skip => v1::MissedTicks::Skip,
            MissedTicks::All => v1::MissedTicks::All,
        }
        .into(),
        paused: record.paused,
        last_tick: record.deferred.map(|(tick, _)| show::timestamp(tick)),
        next_ticks: record.next_ticks(now, NEXT_TICKS_SHOWN).into_iter().map(show::timestamp).collect(),
        last_job_id: record.deferred.map_or(0, |(_, job)| job.0),
        decided_tick: record.last.map(|(tick, _)| show::timestamp(tick)),
        decided_outcome: match record.last.map(|(_, outcome)| outcome) {
            None => v1::TickOutcome::Unspecified,
            Some(TickOutcome::Deferred(_)) => v1::TickOutcome::Deferred,
            Some(TickOutcome::Missed) => v1::TickOutcome::Missed,
            Some(TickOutcome::QueueingLockTaken(_)) => v1::TickOutcome::QueueingLockTaken,
            Some(TickOutcome::LimitReached) => v1::TickOutcome::LimitReached,
        }
        .into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule() -> v1::Schedule {
        v1::Schedule {
            name: "nightly".into(),
            cron: "30 2 * * *".into(),
            time_zone: "Europe/Berlin".into(),
            job: Some(v1::JobSpec { task: "clean".into(), ..v1::JobSpec::default() }),
            ..v1::Schedule::default()
        }
    }

    #[track_caller]
    fn problem(change: impl FnOnce(&mut v1::Schedule, &mut v1::JobSpec)) -> (String, String) {
        let mut schedule = schedule();
        let mut job = schedule.job.take().expect("a job");
        change(&mut schedule, &mut job);
        match checked(v1::Schedule { job: Some(job), ..schedule }) {
            Err(Invalid { field, problem }) => (field, problem),
            Ok(taken) => panic!("{taken:?}"),
        }
    }

    #[test]
    fn each_error_names_its_field_and_what_to_do() {
        for (found, field, says) in [
            (problem(|schedule, _| schedule.name.clear()), "schedule.name", "give a name"),
            (problem(|schedule, _| schedule.name = "x".repeat(129)), "schedule.name", "the limit is 128"),
            (problem(|schedule, _| schedule.cron.clear()), "schedule.cron", "give 5"),
            (problem(|schedule, _| schedule.cron = "0 25 * * *".into()), "schedule.cron", "write it like"),
            (problem(|schedule, _| schedule.cron = "1,".repeat(129)), "schedule.cron", "the limit is 256"),
            (problem(|schedule, _| schedule.time_zone = "CEST+1".into()), "schedule.time_zone", "Europe/Berlin"),
            (problem(|schedule, _| schedule.missed_ticks = 9), "schedule.missed_ticks", "enum"),
            (problem(|_, job| job.task.clear()), "schedule.job.task", "give a name"),
            (
                problem(|_, job| {
                    job.queueing_lock = "q".into();
                    job.set_queueing_conflict(v1::QueueingConflict::Replace);
                }),
                "schedule.job.queueing_conflict",
                "leave it out",
            ),
            (problem(|_, job| job.deadline = Some(show::timestamp(Timestamp(1)))), "schedule.job.deadline", "leave it"),
            (
                problem(|_, job| job.due = Some(v1::job_spec::Due::ScheduleIn(prost_types::Duration::default()))),
                "schedule.job.schedule_in",
                "leave it out",
            ),
            (
                problem(|_, job| {
                    job.metadata.insert("cabbage.tick".into(), String::new());
                }),
                "schedule.job.metadata",
                "the broker's",
            ),
        ] {
            assert_eq!(found.0, field);
            assert!(found.1.contains(says), "{found:?}");
        }
    }

    #[test]
    fn what_is_put_is_shown_again_with_its_ticks_to_come() {
        let (checked, _) = checked(schedule()).expect("a schedule");
        let record = ScheduleRecord {
            schedule: Arc::new(checked),
            paused: false,
            decided: Timestamp(0),
            last: None,
            deferred: None,
        };
        let shown = shown(&record, Timestamp(1_774_700_000_000_000));
        assert_eq!((shown.cron.as_str(), shown.time_zone.as_str()), ("30 2 * * *", "Europe/Berlin"));
        assert_eq!(shown.next_ticks.len(), NEXT_TICKS_SHOWN);
        // 2026-03-29T01:00:00Z: the night in which 02:30 does not happen.
        assert_eq!(shown.next_ticks[0].seconds, 1_774_746_000);
    }
}
