//! `from-procrastinate.md`: a task that was ported, and jobs that move over.

use std::time::Duration;

use cabbage_worker::{Client, Context, JobFilter, Task, TaskError, Worker, testing::TestBroker, v1::JobState};
use serde::{Deserialize, Serialize};
use sqlx::{Connection as _, PgConnection, raw_sql};
use tokio::{sync::mpsc, time::timeout};

use crate::{
    page::Page,
    postgres,
    scene::{Serving, states},
};

const PATIENCE: Duration = Duration::from_mins(1);

/// What the move reads and writes of Procrastinate's table, and jobs: two that wait, one for later, one that is done.
const THEIRS: &str = r#"
    CREATE TYPE procrastinate_job_status AS ENUM ('todo', 'doing', 'succeeded', 'failed', 'cancelled', 'aborted');
    CREATE TABLE procrastinate_jobs (
        id bigserial PRIMARY KEY,
        queue_name character varying(128) NOT NULL,
        task_name character varying(128) NOT NULL,
        priority integer DEFAULT 0 NOT NULL,
        lock text,
        queueing_lock text,
        args jsonb DEFAULT '{}' NOT NULL,
        status procrastinate_job_status DEFAULT 'todo' NOT NULL,
        scheduled_at timestamp with time zone,
        attempts integer DEFAULT 0 NOT NULL
    );
    INSERT INTO procrastinate_jobs (queue_name, task_name, priority, lock, args, status, scheduled_at) VALUES
        ('mail', 'mailing.tasks.send_mail', 1000, 'ada', '{"to": "ada", "subject": "a"}', 'todo', NULL),
        ('mail', 'mailing.tasks.send_mail', 0, 'ada', '{"to": "ada", "subject": "b"}', 'todo', NULL),
        ('mail', 'mailing.tasks.send_mail', 0, NULL, '{"to": "bob", "subject": "c"}', 'todo', '2099-01-01'),
        ('mail', 'mailing.tasks.send_mail', 0, NULL, '{"to": "eve", "subject": "d"}', 'succeeded', NULL);
"#;

#[derive(Serialize, Deserialize)]
struct SendMail {
    to: String,
    subject: String,
}

impl Task for SendMail {
    const NAME: &'static str = "mailing.tasks.send_mail";
    type Args = Self;
    type Output = ();
    type Error = TaskError;
    type State = ();

    async fn run(mail: Self, ctx: Context) -> Result<(), TaskError> {
        println!("job {}: {} to {}", ctx.id(), mail.subject, mail.to);
        Ok(())
    }
}

#[tokio::test]
async fn a_ported_task_reads_the_old_arguments() -> anyhow::Result<()> {
    let broker = TestBroker::start().await;
    let old = serde_json::json!({ "to": "ada@example.com", "subject": "hello" });
    broker.client().defer_named("mailing.tasks.send_mail", old).await?;
    broker.run(broker.worker().task::<SendMail>()).await?;
    assert_eq!(states(&broker).await, [JobState::Succeeded]);
    Ok(())
}

#[test]
fn what_the_page_for_people_from_procrastinate_shows_is_what_runs_here() {
    let _page = Page::at("from-procrastinate.md").code_is_in(include_str!("from_procrastinate.rs"));
}

#[tokio::test]
async fn waiting_jobs_move_over_in_one_transaction() -> anyhow::Result<()> {
    let (broker, kept) = postgres::start(|_| {}).await;
    let (address, mut database) = (broker.grpc_address().to_string(), PgConnection::connect(kept.url()).await?);
    raw_sql(THEIRS).execute(&mut database).await?;
    let (sent, mut mails) = mpsc::unbounded_channel::<String>();
    let send =
        |mail: SendMail, ctx: Context<mpsc::UnboundedSender<String>>| async move { ctx.state().send(mail.subject) };
    let worker = Serving::start(Worker::builder(&address).state(sent).function(SendMail::NAME, send));

    let moving = Page::at("from-procrastinate.md").sql().remove(0);
    raw_sql(sqlx::AssertSqlSafe(moving)).execute(&mut database).await?;
    for subject in ["a", "b"] {
        assert_eq!(timeout(PATIENCE, mails.recv()).await?.as_deref(), Some(subject));
    }
    let mut scheduled = Client::new(&address)?.list(JobFilter::new().state(JobState::Scheduled));
    let spec = scheduled.next().await?.and_then(|job| job.spec).expect("the third job");
    assert_eq!((spec.queue.as_str(), spec.task.as_str()), ("mail", SendMail::NAME));
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM procrastinate_jobs WHERE status = 'todo'")
        .fetch_one(&mut database)
        .await?;
    assert_eq!(left, 0);
    worker.stop().await;
    broker.shutdown().await?;
    Ok(())
}
