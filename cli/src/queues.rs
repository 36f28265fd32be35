//! `queue list`, `show`, `pause`, `resume`.

use cabbage_proto::v1::{
    GetQueueRequest, JobState, ListQueuesRequest, PauseQueueRequest, Queue, ResumeQueueRequest, StateCount,
};
use clap::{Args, Subcommand, builder::NonEmptyStringValueParser};
use serde::Serialize;
use uuid::Uuid;

use crate::{
    brokers::{BrokerArgs, queue_service},
    exit::{Exit, Failure, Outcome},
    jobs::state,
    output::{Format, OutputArgs, lines, say, table},
    refusal::Effect,
    time::{for_machines, for_people, from_wire},
};

/// What one call asks for at most.
const PAGE_QUEUES_MAX: u32 = 1_000;
/// How wide the column of names is.
const NAME_WIDTH: usize = 14;

/// Look at queues, pause and resume them.
#[derive(Debug, Subcommand)]
pub(crate) enum QueueCommand {
    /// List the queues that ever had a job, by name, with how many jobs are in which state
    List(ListArgs),
    /// Show one queue
    Show(ShowArgs),
    /// Start no job of a queue any more; those that run go on
    Pause(PauseArgs),
    /// Start the jobs of a queue again
    Resume(PauseArgs),
}

#[derive(Args, Debug)]
pub(crate) struct ListArgs {
    /// Go on where another list ended
    #[arg(long, value_name = "TOKEN")]
    page_token: Option<String>,
    /// How many queues to show at most
    #[arg(short = 'n', long, value_name = "N", default_value_t = 100,
          value_parser = clap::value_parser!(u32).range(1..=i64::from(PAGE_QUEUES_MAX)))]
    limit: u32,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    brokers: BrokerArgs,
}

#[derive(Args, Debug)]
pub(crate) struct ShowArgs {
    /// The name of the queue
    queue: String,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    brokers: BrokerArgs,
}

#[derive(Args, Debug)]
pub(crate) struct PauseArgs {
    /// The name of the queue
    queue: String,
    /// Why, for the record
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    reason: String,
    /// Names this call: to repeat it within 24 h gives the same answer. Made up if left out
    #[arg(long, value_name = "ID", value_parser = NonEmptyStringValueParser::new())]
    request_id: Option<String>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    brokers: BrokerArgs,
}

/// A page as JSON.
#[derive(Debug, Serialize)]
struct Page<'a> {
    queues: Vec<QueueView<'a>>,
    next_page_token: &'a str,
}

/// A queue as JSON.
#[derive(Debug, Serialize)]
struct QueueView<'a> {
    name: &'a str,
    paused: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    paused_at: Option<String>,
    #[serde(skip_serializing_if = "str::is_empty")]
    paused_by: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pause_reason: &'a str,
    counts: Vec<CountView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    oldest_startable_at: Option<String>,
    sessions: u32,
}

#[derive(Debug, Serialize)]
struct CountView {
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    waiting_for: Option<&'static str>,
    count: u64,
}

impl QueueCommand {
    pub(crate) async fn run(&self) -> Outcome {
        match self {
            Self::List(args) => args.run().await,
            Self::Show(args) => args.run().await,
            Self::Pause(args) => args.pause().await,
            Self::Resume(args) => args.resume().await,
        }
    }
}

impl ListArgs {
    async fn run(&self) -> Outcome {
        let page_token = self.page_token.clone().unwrap_or_default();
        let request = ListQueuesRequest { page_size: self.limit, page_token };
        let page = self
            .brokers
            .call("cannot list queues", Effect::Reads, async |channel| {
                queue_service(channel).list_queues(request.clone()).await
            })
            .await?;
        let token = page.next_page_token;
        let view = Page { queues: page.queues.iter().map(QueueView::of).collect(), next_page_token: &token };
        self.output.print(|| rows(&page.queues), &view)?;
        if self.output.format == Format::Table && !token.is_empty() {
            say(format_args!("there is more: --page-token {token}"));
        }
        Ok(())
    }
}

impl ShowArgs {
    async fn run(&self) -> Outcome {
        let doing = format!("cannot show queue {:?}", self.queue);
        let request = GetQueueRequest { queue: self.queue.clone() };
        let call = async |channel| queue_service(channel).get_queue(request.clone()).await;
        let answer = self.brokers.call(&doing, Effect::Reads, call).await?;
        print(self.output, &doing, answer.queue)
    }
}

impl PauseArgs {
    fn request_id(&self) -> String {
        self.request_id.clone().unwrap_or_else(|| Uuid::new_v4().to_string())
    }

    async fn pause(&self) -> Outcome {
        let doing = format!("cannot pause queue {:?}", self.queue);
        let (queue, request_id, reason) = (self.queue.clone(), self.request_id(), self.reason.clone());
        let request = PauseQueueRequest { queue, request_id, reason };
        let call = async |channel| queue_service(channel).pause_queue(self.brokers.signed(request.clone())).await;
        let answer = self.brokers.call(&doing, Effect::Changes, call).await?;
        if let Some(queue) = &answer.queue {
            self.say_if_paused_before(queue);
        }
        print(self.output, &doing, answer.queue)
    }

    /// A queue that is paused already stays as it is: who paused it first, and why, is not what was said now.
    fn say_if_paused_before(&self, queue: &Queue) {
        let is_ours = self.brokers.actor().is_none_or(|actor| actor == queue.paused_by);
        if is_ours && queue.pause_reason == self.reason {
            return;
        }
        let Queue { name, paused_by, pause_reason, .. } = queue;
        let since = queue.paused_at.and_then(from_wire).map(for_people).unwrap_or_default();
        let why = if pause_reason.is_empty() { String::new() } else { format!(" ({pause_reason})") };
        say(format_args!(
            "queue {name:?} was paused already, since {since} by {paused_by}{why}; that stays on record, \
             resume it first to give another reason"
        ));
    }

    async fn resume(&self) -> Outcome {
        let doing = format!("cannot resume queue {:?}", self.queue);
        let (queue, request_id, reason) = (self.queue.clone(), self.request_id(), self.reason.clone());
        let request = ResumeQueueRequest { queue, request_id, reason };
        let call = async |channel| queue_service(channel).resume_queue(self.brokers.signed(request.clone())).await;
        let answer = self.brokers.call(&doing, Effect::Changes, call).await?;
        print(self.output, &doing, answer.queue)
    }
}

fn print(output: OutputArgs, doing: &str, queue: Option<Queue>) -> Outcome {
    let queue = queue.ok_or_else(|| Failure::new(Exit::Failure, format!("{doing}: the answer has no queue")))?;
    output.print(|| page(&queue), &QueueView::of(&queue))
}

impl<'a> QueueView<'a> {
    fn of(queue: &'a Queue) -> Self {
        let instant = |at: Option<prost_types::Timestamp>| at.and_then(from_wire).map(for_machines);
        Self {
            name: &queue.name,
            paused: queue.paused,
            paused_at: instant(queue.paused_at),
            paused_by: &queue.paused_by,
            pause_reason: &queue.pause_reason,
            counts: queue.counts.iter().map(CountView::of).collect(),
            oldest_startable_at: instant(queue.oldest_startable_at),
            sessions: queue.sessions,
        }
    }
}

impl CountView {
    fn of(count: &StateCount) -> Self {
        Self {
            state: state::word(count.state()),
            waiting_for: state::waiting_word(count.waiting_for()),
            count: count.count,
        }
    }
}

fn rows(queues: &[Queue]) -> String {
    let states = [
        JobState::Scheduled,
        JobState::Waiting,
        JobState::Running,
        JobState::Succeeded,
        JobState::Failed,
        JobState::Cancelled,
    ];
    let mut header = vec!["QUEUE".to_owned(), "PAUSED".to_owned()];
    header.extend(states.iter().map(|state| state::word(*state).to_uppercase()));
    header.push("SESSIONS".to_owned());
    let mut table = table(&header.iter().map(String::as_str).collect::<Vec<_>>());
    for queue in queues {
        let mut row = vec![queue.name.clone(), if queue.paused { "yes" } else { "no" }.to_owned()];
        let count = |state: JobState| {
            queue.counts.iter().filter(|count| count.state() == state).map(|count| count.count).sum::<u64>().to_string()
        };
        row.extend(states.iter().map(|state| count(*state)));
        row.push(queue.sessions.to_string());
        table.add_row(row);
    }
    lines(table)
}

fn page(queue: &Queue) -> String {
    let mut page = Vec::new();
    let mut line = |name: &str, value: String| {
        if !value.is_empty() {
            page.push(format!("{name:<NAME_WIDTH$}{value}"));
        }
    };
    let instant = |at: Option<prost_types::Timestamp>| at.and_then(from_wire).map(for_people).unwrap_or_default();
    line("queue", queue.name.clone());
    if queue.paused {
        line("paused", format!("since {} by {}", instant(queue.paused_at), queue.paused_by));
        line("why", queue.pause_reason.clone());
    }
    for count in &queue.counts {
        let what = state::waiting_word(count.waiting_for()).map(|what| format!(" ({what})")).unwrap_or_default();
        line(state::word(count.state()), format!("{}{what}", count.count));
    }
    line("oldest", instant(queue.oldest_startable_at));
    line("sessions", queue.sessions.to_string());
    page.join("\n")
}

#[cfg(test)]
mod tests {
    use cabbage_proto::v1::WaitingFor;

    use super::*;

    #[test]
    fn a_queue_is_a_row_that_can_be_cut_and_a_page_that_says_what_is_waited_for() {
        let count = |state: JobState, what: WaitingFor, count| StateCount {
            state: state.into(),
            waiting_for: what.into(),
            count,
        };
        let queue = Queue {
            name: "mail".into(),
            paused: true,
            paused_by: "ada".into(),
            pause_reason: "the provider is down".into(),
            counts: vec![
                count(JobState::Waiting, WaitingFor::Paused, 3),
                count(JobState::Waiting, WaitingFor::Blocked, 2),
                count(JobState::Failed, WaitingFor::Unspecified, 7),
            ],
            ..Queue::default()
        };
        let rows = rows(std::slice::from_ref(&queue));
        let fields: Vec<_> = rows.lines().nth(1).expect("a row").split_whitespace().collect();
        assert_eq!(fields, ["mail", "yes", "0", "5", "0", "0", "7", "0", "0"]);
        let page = page(&queue);
        assert!(page.contains("waiting       3 (paused)") && page.contains("the provider is down"), "{page}");
    }
}
