//! Whoever asks brokers for something, until there is an answer, and writes down what was asked and answered.

use std::time::Duration;

use cabbage_worker::{Batch, Client, Error, v1::JobSpec};
use tokio::time::{Instant, sleep};

use super::AGENDA;
use crate::history::{Asked, ClientEvent, ClientStep, Journal};

/// Between two tries of a call.
const PAUSE: Duration = Duration::from_millis(20);
/// How long one call waits for the end of a job.
const WAIT: Duration = Duration::from_secs(5);

/// A client with its log.
#[derive(Debug)]
pub struct Caller {
    client: Client,
    journal: Journal,
    patience: Duration,
}

impl Caller {
    /// Asks by this client. A call that has no answer within `patience` ends the process: its run has failed.
    pub fn new(client: Client, journal: Journal, patience: Duration) -> Self {
        Self { client, journal, patience }
    }

    /// Asks until there is an answer. What is asked for is repeated with the same request id, but for verbs and
    /// schedules, which the SDK gives an id of their own: to ask for those again is another call.
    pub async fn ask(&self, request: &str, asked: Asked, specs: &[JobSpec]) -> ClientStep {
        let until = Instant::now() + self.patience;
        loop {
            self.write(request, ClientStep::Invoke { asked: asked.clone() });
            let (step, is_answer) = match self.call(request, &asked, specs).await {
                Ok(step) => (step, true),
                Err(Error::AlreadyExists(answer)) => {
                    (ClientStep::Refused { reason: answer.reason.clone(), by: answer.job_id() }, true)
                }
                Err(error) if error.is_retryable() && !error.has_no_side_effects() => {
                    (ClientStep::Unknown { detail: error.to_string() }, false)
                }
                Err(error) => {
                    let reason = error.reason().unwrap_or_default().to_owned();
                    let is_answer = !error.is_retryable();
                    if is_answer {
                        eprintln!("{request}: {error}");
                    }
                    (ClientStep::Refused { reason, by: None }, is_answer)
                }
            };
            self.write(request, step.clone());
            if is_answer {
                return step;
            }
            if Instant::now() >= until {
                eprintln!("{request}: no answer within {:?}: {step:?}", self.patience);
                std::process::exit(3);
            }
            sleep(PAUSE).await;
        }
    }

    /// Waits until a job is final; answers whether it is within the patience.
    pub async fn is_final(&self, job: i64) -> bool {
        let until = Instant::now() + self.patience;
        while Instant::now() < until {
            match self.client.wait_at_most(job, WAIT).await {
                Ok(_) => return true,
                Err(error) if error.is_retryable() => sleep(PAUSE).await,
                Err(error) => {
                    eprintln!("job {job} cannot be waited for: {error}");
                    return false;
                }
            }
        }
        false
    }

    async fn call(&self, request: &str, asked: &Asked, specs: &[JobSpec]) -> Result<ClientStep, Error> {
        const WHY: &str = "the load says so";
        let client = &self.client;
        Ok(match (asked, specs) {
            (Asked::Cancel { job }, _) => ClientStep::Cancelled { state: client.cancel(*job, WHY).await?.into() },
            (Asked::Reopen { job }, _) => ClientStep::Reopened { state: client.retry(*job, WHY).await?.into() },
            (Asked::Erase { job }, _) => {
                client.delete(*job, WHY).await?;
                ClientStep::Erased
            }
            (Asked::PutSchedule { name }, _) => {
                let entry = AGENDA.iter().find(|entry| entry.name == *name).expect("it is on the agenda");
                client.put_schedule(entry.schedule()).await?;
                ClientStep::ScheduleChanged
            }
            (Asked::DeleteSchedule { name }, _) => match client.delete_schedule(name, WHY).await {
                // An earlier try may have done it.
                Ok(()) | Err(Error::NotFound(_)) => ClientStep::ScheduleChanged,
                Err(error) => return Err(error),
            },
            (Asked::Defer { .. }, [spec]) => {
                let deferred = client.defer_job(spec.clone()).request_id(request).await?;
                ClientStep::Deferred { jobs: vec![deferred.job_id], repeated: deferred.repeated_call }
            }
            (Asked::Defer { .. }, specs) => {
                let batch = specs.iter().cloned().collect::<Batch>().request_id(request);
                ClientStep::Deferred { jobs: client.defer_all(batch).await?, repeated: false }
            }
        })
    }

    fn write(&self, request: &str, step: ClientStep) {
        self.journal.write([ClientEvent { stamp: self.journal.stamp(), request: request.to_owned(), step }]);
    }
}
