//! Waiting for the end of a job.

use std::time::Duration;

use cabbage_proto::v1::{Job, JobState, WaitJobRequest};
use tokio::time::Instant;

use super::{show, state, view::JobView};
use crate::{
    brokers::{BrokerArgs, job_service},
    exit::{Exit, Failure, Outcome},
    output::{Format, OutputArgs, print_line, say},
    refusal::Effect,
    time::{duration_for_people, duration_to_wire},
};

/// How long one call waits, well below what a broker allows.
const CALL_WAIT: Duration = Duration::from_secs(20);
/// What a call may take beyond its wait.
const CALL_SLACK: Duration = Duration::from_secs(10);

/// Waits until the job is final.
pub(crate) async fn until_final(brokers: &BrokerArgs, job_id: i64, limit: Duration) -> Outcome<Job> {
    let end = Instant::now() + limit;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let (job, is_final) = one_call(brokers, job_id, left.min(CALL_WAIT)).await?;
        if is_final {
            return Ok(job);
        }
        if Instant::now() >= end {
            let word = state::word(job.state());
            let limit = duration_for_people(limit);
            return Err(Failure::new(Exit::Unknown, format!("job {job_id} is not final after {limit}: it is {word}"))
                .remedy(format!("look again with: cabbage-cli job get {job_id}")));
        }
    }
}

/// Prints the result of a job that is final, and fails as the job did.
pub(crate) fn report(output: OutputArgs, job: &Job) -> Outcome {
    let job_id = job.id;
    match output.format {
        Format::Json => output.print(String::new, &JobView::of(job))?,
        Format::Table => {
            let result = job.last_attempt.as_ref().map(|last| String::from_utf8_lossy(&last.result).into_owned());
            match result.filter(|result| !result.is_empty()) {
                Some(result) => print_line(&result)?,
                None => say(format_args!("job {job_id} {}", state::word(job.state()))),
            }
        }
    }
    if job.state() == JobState::Succeeded {
        return Ok(());
    }
    let why = job.last_attempt.as_ref().map(show::why).unwrap_or_default();
    let word = state::word(job.state());
    let why = if why.is_empty() { String::new() } else { format!(": {why}") };
    Err(Failure::new(Exit::Failure, format!("job {job_id} {word}{why}")))
}

async fn one_call(brokers: &BrokerArgs, job_id: i64, wait: Duration) -> Outcome<(Job, bool)> {
    let max_wait = duration_to_wire(wait).map_err(Failure::usage)?;
    let request = WaitJobRequest { job_id, max_wait: Some(max_wait) };
    let doing = format!("cannot wait for job {job_id}");
    let answer = brokers
        .with_call_timeout(wait + CALL_SLACK)
        .call(&doing, Effect::Reads, async |channel| job_service(channel).wait_job(request).await)
        .await?;
    let job = answer.job.ok_or_else(|| Failure::new(Exit::Failure, format!("{doing}: the answer has no job")))?;
    Ok((job, answer.is_final))
}
