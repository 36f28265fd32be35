//! `transactions.md`: an application's role that defers by SQL, and by the SDK.

use std::time::Duration;

use cabbage_worker::{Client, Context, Task, TaskError, Worker, transaction, v1::JobState};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, PgPool, raw_sql};

use crate::{page::Page, postgres, scene::Serving};

const PATIENCE: Duration = Duration::from_mins(1);

struct Greet;

impl Task for Greet {
    const NAME: &'static str = "greet";
    type Args = String;
    type Output = String;
    type Error = TaskError;
    type State = ();

    async fn run(name: String, _: Context) -> Result<String, TaskError> {
        Ok(format!("hello {name}"))
    }
}

#[tokio::test]
async fn what_the_page_on_transactions_shows_is_what_runs_here() -> anyhow::Result<()> {
    let (broker, kept) = postgres::start(|_| {}).await;
    let mut database = PgConnection::connect(kept.url()).await?;
    // Roles belong to the whole server.
    let role = format!("producer_{}", uuid::Uuid::new_v4().simple());
    raw_sql(AssertSqlSafe(format!("CREATE ROLE {role}"))).execute(&mut database).await?;
    let page = Page::open("transactions").stand_in("your_role", &role).code_is_in(include_str!("transactions.rs"));
    let mut blocks = page.sql().into_iter();
    let grant = blocks.next().expect("the first block grants");
    raw_sql(AssertSqlSafe(grant)).execute(&mut database).await?;
    raw_sql(AssertSqlSafe(format!("SET ROLE {role}"))).execute(&mut database).await?;
    for block in blocks {
        if block.contains("cabbage.verbs") {
            // That is for operators.
            let grant = format!("RESET ROLE; SELECT cabbage.grant_operator('{role}'); SET ROLE {role}");
            raw_sql(AssertSqlSafe(grant)).execute(&mut database).await?;
        }
        raw_sql(AssertSqlSafe(block)).execute(&mut database).await?;
    }

    let pool = PgPool::connect(kept.url()).await?;
    let mut tx = pool.begin().await?;
    let job_id = transaction::defer::<Greet>(&mut tx, "Ada".to_owned()).queue("mail").await?;
    tx.commit().await?;

    let address = broker.grpc_address().to_string();
    let worker = Serving::start(Worker::builder(&address).task::<Greet>());
    let job = Client::new(&address)?.wait_at_most(job_id, PATIENCE).await?;
    assert_eq!(job.state(), JobState::Succeeded);
    worker.stop().await;
    raw_sql("RESET ROLE").execute(&mut database).await?;
    let drop = format!("DROP OWNED BY {role}; DROP ROLE {role}");
    raw_sql(AssertSqlSafe(drop)).execute(&mut database).await?;
    broker.shutdown().await?;
    Ok(())
}
