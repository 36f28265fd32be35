//! What holds for a whole run.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tokio::{select, task::JoinHandle, time::sleep};
use tokio_util::sync::CancellationToken;

use super::inject::connect;
use crate::{
    cluster::{Cluster, wait_until},
    history::{Asked, ClientEvent, ClientStep, Journal},
    load::Work,
};

/// The name of whoever defers by SQL, in its log and in the keys of its jobs.
const NAME: &str = "client-sql";

/// How often it is looked whether the transactions are still there.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How long a job that was committed may take until it is taken in.
const TAKEN_IN_WITHIN: Duration = Duration::from_mins(2);

/// Lets the database refuse what the load calls poison: the broker cannot know that, and must find the culprit in each
/// batch.
pub(super) async fn refuse_poison(cluster: &Cluster) -> anyhow::Result<()> {
    let mut connection = connect(cluster).await?;
    let sql = format!(
        "-- cabbage:fault_poison\nALTER TABLE {}.job ADD CONSTRAINT fault_poison CHECK (args NOT LIKE '%\"poison\":true%')",
        Cluster::schema().quoted()
    );
    sqlx::query(AssertSqlSafe(sql)).execute(&mut connection).await?;
    connection.close().await?;
    Ok(())
}

/// A snapshot of all tables, and a transaction that has deferred a job: both stay open until they are released. If the
/// database drops them, others follow.
pub(super) struct OldTransactions {
    release: CancellationToken,
    journal: Arc<Journal>,
    holding: JoinHandle<Pair>,
}

impl OldTransactions {
    pub(super) async fn hold(cluster: &Cluster) -> anyhow::Result<Self> {
        let journal = Arc::new(Journal::open(&cluster.journal(NAME), NAME)?);
        let release = CancellationToken::new();
        let mut pair = Pair::open(cluster.database_url(), 0, &journal).await?;
        let (token, url, log) = (release.clone(), cluster.database_url(), journal.clone());
        let holding = tokio::spawn(async move {
            for number in 1.. {
                select! {
                    () = token.cancelled() => break,
                    () = pair.lost() => {}
                }
                pair.given_up(&log);
                // As long as it takes: the database may be away.
                pair = loop {
                    match Pair::open(url.clone(), number, &log).await {
                        Ok(pair) => break pair,
                        Err(_) => sleep(LOOK_EVERY).await,
                    }
                };
            }
            pair
        });
        Ok(Self { release, journal, holding })
    }

    /// Ends both, and waits until the job was taken in.
    pub(super) async fn release(self) -> anyhow::Result<()> {
        self.release.cancel();
        self.holding.await?.release(&self.journal).await
    }
}

struct Pair {
    reader: PgConnection,
    writer: PgConnection,
    job: i64,
    key: String,
}

impl Pair {
    async fn open(url: String, number: u32, journal: &Journal) -> anyhow::Result<Self> {
        let schema = Cluster::schema().quoted();
        let (mut reader, mut writer) = (PgConnection::connect(&url).await?, PgConnection::connect(&url).await?);
        sqlx::raw_sql("BEGIN ISOLATION LEVEL REPEATABLE READ").execute(&mut reader).await?;
        let look = format!(
            "-- cabbage:fault_snapshot\nSELECT (SELECT count(*) FROM {schema}.job) + (SELECT count(*) FROM \
             {schema}.outcome) + (SELECT count(*) FROM {schema}.success) + (SELECT count(*) FROM {schema}.log) + \
             (SELECT count(*) FROM {schema}.parked) + (SELECT count(*) FROM {schema}.parked_block)"
        );
        sqlx::query(AssertSqlSafe(look)).execute(&mut reader).await?;
        sqlx::raw_sql("BEGIN").execute(&mut writer).await?;
        let key = format!("{NAME}-{number}");
        let args = serde_json::to_string(&Work { key: key.clone(), ..Work::default() })?;
        write(journal, &key, ClientStep::Invoke { asked: Asked::Defer { keys: vec![key.clone()] } });
        let defer = format!("-- cabbage:fault_defer\nSELECT {schema}.defer('quick', $1::text)");
        let job = sqlx::query_scalar(AssertSqlSafe(defer)).bind(args).fetch_one(&mut writer).await?;
        Ok(Self { reader, writer, job, key })
    }

    /// Waits until one of them is gone.
    async fn lost(&mut self) {
        loop {
            sleep(LOOK_EVERY).await;
            for connection in [&mut self.reader, &mut self.writer] {
                if sqlx::raw_sql("SELECT 1").execute(connection).await.is_err() {
                    return;
                }
            }
        }
    }

    fn given_up(&self, journal: &Journal) {
        write(journal, &self.key, ClientStep::Unknown { detail: "its transaction was lost".to_owned() });
    }

    async fn release(mut self, journal: &Journal) -> anyhow::Result<()> {
        sqlx::raw_sql("COMMIT").execute(&mut self.writer).await.context("commit the transaction that was held open")?;
        sqlx::raw_sql("COMMIT").execute(&mut self.reader).await?;
        self.reader.close().await?;
        let sql = format!(
            "-- cabbage:fault_taken_in\nSELECT EXISTS (SELECT FROM {}.job WHERE id = $1)",
            Cluster::schema().quoted()
        );
        let (job, writer) = (self.job, tokio::sync::Mutex::new(self.writer));
        wait_until("the job from SQL is taken in", TAKEN_IN_WITHIN, async || {
            let query = sqlx::query_scalar(AssertSqlSafe(sql.clone())).bind(job);
            Ok(query.fetch_one(&mut *writer.lock().await).await?)
        })
        .await?;
        write(journal, &self.key, ClientStep::Deferred { jobs: vec![job], repeated: false });
        writer.into_inner().close().await?;
        Ok(())
    }
}

fn write(journal: &Journal, request: &str, step: ClientStep) {
    journal.write([ClientEvent { stamp: journal.stamp(), request: request.to_owned(), step }]);
}
