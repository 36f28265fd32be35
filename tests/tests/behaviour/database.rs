//! A database of one test, whose clock can be set ahead.

use std::time::Duration;

use cabbage_broker::core::{ask::Verb, types::Timestamp};
use cabbage_dev_postgres::{TestDatabase, TestServer};
use sqlx::{AssertSqlSafe, ConnectOptions as _, PgConnection, postgres::PgConnectOptions};

/// Puts a clock of our own in the place of the server's, in this database only: the same time, and as much more as a
/// table says. Only a superuser can do that, which the owner of a private server is.
const CLOCK: &str = "
    CREATE TABLE public.clock (ahead interval NOT NULL);
    INSERT INTO public.clock VALUES (interval '0');
    ALTER FUNCTION pg_catalog.clock_timestamp() RENAME TO clock_timestamp_of_the_server;
    CREATE FUNCTION pg_catalog.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE
        AS 'SELECT pg_catalog.clock_timestamp_of_the_server() + c.ahead FROM public.clock c';";

/// An empty database on the server of this process.
pub(crate) struct Database(TestDatabase);

impl Database {
    pub(crate) async fn create() -> Self {
        let server = TestServer::shared(None).await.expect("a server for tests");
        let database = Self(server.database().await.expect("a database"));
        let set_up = sqlx::raw_sql(CLOCK).execute(&mut database.connection().await).await;
        set_up.expect("a clock that can be set, for which CABBAGE_TEST_DATABASE_URL must name a superuser");
        database
    }

    pub(crate) fn url(&self) -> &str {
        self.0.url()
    }

    /// A connection of the test's own, in the schema of the cell.
    pub(crate) async fn connection(&self) -> PgConnection {
        let options: PgConnectOptions = self.url().parse().expect("a well-formed address");
        options.options([("search_path", "cabbage")]).connect().await.expect("a connection")
    }

    /// Asks for something by one of the functions for applications.
    pub(crate) async fn ask(&self, verb: &Verb, why: &str) {
        let at = |due: &Option<Timestamp>| match due {
            Some(due) => format!("timestamptz 'epoch' + {} * interval '1 microsecond'", due.0),
            None => "NULL".to_owned(),
        };
        let call = match verb {
            Verb::Cancel(job) => format!("cancel({job}, $1)"),
            Verb::Retry { job, due } => format!("retry({job}, $1, {})", at(due)),
            Verb::Reschedule { job, due } => format!("reschedule({job}, $1, {})", at(due)),
            Verb::Pause(queue) => format!("pause('{queue}', $1)"),
            Verb::Resume(queue) => format!("resume('{queue}', $1)"),
            other => panic!("applications have no function to {}", other.name()),
        };
        let connection = &mut self.connection().await;
        let asked = sqlx::query(AssertSqlSafe(format!("SELECT {call}"))).bind(why).execute(connection);
        asked.await.expect("asked");
    }

    /// Sets the clock ahead. Gives the time that it shows then, in microseconds since 1970.
    pub(crate) async fn advance(&self, by: Duration) -> i64 {
        let set = "UPDATE public.clock SET ahead = ahead + make_interval(secs => $1)
            RETURNING (extract(epoch FROM pg_catalog.clock_timestamp_of_the_server() + ahead) * 1000000)::bigint";
        let connection = &mut self.connection().await;
        sqlx::query_scalar(set).bind(by.as_secs_f64()).fetch_one(connection).await.expect("the clock can be set")
    }
}
