//! `job list`: pages of jobs, newest first.

use std::time::Duration;

use cabbage_proto::v1::{Job, JobState, ListJobsRequest};
use chrono::{DateTime, Utc};
use clap::Args;
use serde::Serialize;

use super::{show, state, state::StateArg, view::JobView};
use crate::{
    brokers::{BrokerArgs, job_service},
    exit::Outcome,
    output::{Format, OutputArgs, lines, say, table},
    refusal::Effect,
    time::{for_people, from_wire, parse_duration, parse_instant, to_wire},
};

/// What one call asks for at most.
const PAGE_JOBS_MAX: u32 = 1_000;
/// How many jobs a list looks at before it stops and says so: a filter that nothing meets must not read everything.
const LOOK_AT_MAX: u64 = 1_000_000;

#[derive(Args, Debug)]
pub(crate) struct ListArgs {
    /// Only this state; several may be given, separated by commas
    #[arg(long, value_name = "STATE", value_enum, value_delimiter = ',')]
    state: Vec<StateArg>,
    /// Only this queue
    #[arg(long, value_name = "NAME")]
    queue: Option<String>,
    /// Only this task
    #[arg(long, value_name = "NAME")]
    task: Option<String>,
    /// Only this lock
    #[arg(long, value_name = "LOCK")]
    lock: Option<String>,
    /// Only this queueing lock
    #[arg(long, value_name = "LOCK")]
    queueing_lock: Option<String>,
    /// Only jobs created at this time or later
    #[arg(long, value_name = "TIME", value_parser = parse_instant)]
    from: Option<DateTime<Utc>>,
    /// Only jobs created before this time
    #[arg(long, value_name = "TIME", value_parser = parse_instant)]
    until: Option<DateTime<Utc>>,
    /// Only jobs created within this time, such as 2h, by this machine's clock
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, allow_hyphen_values = true,
          conflicts_with = "from")]
    since: Option<Duration>,
    /// How many jobs to show at most
    #[arg(short = 'n', long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// Go on where another list ended
    #[arg(long, value_name = "TOKEN")]
    page_token: Option<String>,
    /// Show the arguments too
    #[arg(long)]
    args: bool,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    brokers: BrokerArgs,
}

/// The answer as JSON.
#[derive(Debug, Serialize)]
struct Page<'a> {
    jobs: Vec<JobView<'a>>,
    next_page_token: &'a str,
}

impl ListArgs {
    pub(crate) async fn run(&self) -> Outcome {
        let mut request = self.request();
        let mut jobs: Vec<Job> = Vec::new();
        let mut looked_at = 0;
        let token = loop {
            request.page_size = (self.limit - jobs.len() as u32).min(PAGE_JOBS_MAX);
            let page = self
                .brokers
                .call("cannot list jobs", Effect::Reads, async |channel| {
                    job_service(channel).list_jobs(request.clone()).await
                })
                .await?;
            looked_at += u64::from(page.looked_at);
            jobs.extend(page.jobs);
            request.page_token = page.next_page_token;
            if request.page_token.is_empty() || jobs.len() as u32 >= self.limit || looked_at >= LOOK_AT_MAX {
                break request.page_token;
            }
        };
        let page = Page { jobs: jobs.iter().map(JobView::of).collect(), next_page_token: &token };
        self.output.print(|| rows(&jobs, self.args), &page)?;
        if self.output.format == Format::Table {
            self.say_more(&jobs, looked_at, &token);
        }
        Ok(())
    }

    fn request(&self) -> ListJobsRequest {
        let from = self.from.or_else(|| self.since.map(ago));
        ListJobsRequest {
            page_size: 0,
            page_token: self.page_token.clone().unwrap_or_default(),
            states: self.state.iter().map(|state| JobState::from(*state) as i32).collect(),
            queue: self.queue.clone().unwrap_or_default(),
            task: self.task.clone().unwrap_or_default(),
            lock: self.lock.clone().unwrap_or_default(),
            queueing_lock: self.queueing_lock.clone().unwrap_or_default(),
            created_from: from.map(to_wire),
            created_until: self.until.map(to_wire),
            include_args: self.args,
        }
    }

    fn say_more(&self, jobs: &[Job], looked_at: u64, token: &str) {
        if token.is_empty() {
            if jobs.is_empty() {
                say("no jobs");
            }
        } else if (jobs.len() as u32) < self.limit {
            say(format_args!("stopped after {looked_at} jobs; go on with --page-token {token}"));
        } else {
            say(format_args!("there is more: --page-token {token}"));
        }
    }
}

fn ago(duration: Duration) -> DateTime<Utc> {
    // Longer ago than the calendar reaches means: from the beginning.
    chrono::Duration::from_std(duration)
        .ok()
        .and_then(|duration| Utc::now().checked_sub_signed(duration))
        .unwrap_or(DateTime::UNIX_EPOCH)
}

fn rows(jobs: &[Job], with_args: bool) -> String {
    let mut header = vec!["ID", "STATE", "QUEUE", "TASK", "CREATED", "ATTEMPTS", "WHY"];
    if with_args {
        header.push("ARGS");
    }
    let mut table = table(&header);
    for job in jobs {
        let spec = job.spec.clone().unwrap_or_default();
        let mut row = vec![
            job.id.to_string(),
            state::word(job.state()).to_owned(),
            spec.queue,
            spec.task,
            job.created_at.and_then(from_wire).map(for_people).unwrap_or_default(),
            job.attempts.to_string(),
            why(job),
        ];
        if with_args {
            row.push(String::from_utf8_lossy(&spec.args).into_owned());
        }
        table.add_row(row);
    }
    lines(table)
}

/// Why the job is where it is, in a few words.
fn why(job: &Job) -> String {
    match job.state() {
        JobState::Waiting => state::waiting_word(job.waiting_for()).unwrap_or_default().to_owned(),
        JobState::Scheduled => {
            let due = job.due_at.and_then(from_wire).map(for_people).unwrap_or_default();
            format!("due {due}")
        }
        JobState::Failed | JobState::Cancelled => job.last_attempt.as_ref().map(show::why).unwrap_or_default(),
        JobState::Running if job.cancel_requested => "told to stop".to_owned(),
        JobState::Running | JobState::Succeeded | JobState::Unspecified => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use cabbage_proto::v1::{JobSpec, WaitingFor};

    use super::*;

    #[test]
    fn rows_can_be_cut_and_grepped() {
        let job = |id, state: JobState, waiting: WaitingFor| Job {
            id,
            spec: Some(JobSpec { task: "mail".into(), queue: "default".into(), ..JobSpec::default() }),
            state: state as i32,
            waiting_for: waiting as i32,
            created_at: Some(prost_types::Timestamp { seconds: 0, nanos: 0 }),
            ..Job::default()
        };
        let jobs =
            [job(12, JobState::Waiting, WaitingFor::Blocked), job(3, JobState::Succeeded, WaitingFor::Unspecified)];
        let text = rows(&jobs, false);
        let fields: Vec<Vec<_>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(fields[0], ["ID", "STATE", "QUEUE", "TASK", "CREATED", "ATTEMPTS", "WHY"]);
        assert_eq!(fields[1], ["12", "waiting", "default", "mail", "1970-01-01T00:00:00Z", "0", "blocked"]);
        assert_eq!(fields[2], ["3", "succeeded", "default", "mail", "1970-01-01T00:00:00Z", "0"]);
    }
}
