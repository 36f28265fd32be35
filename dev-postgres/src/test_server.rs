//! One server for all tests of a process.

use std::collections::BTreeMap;
use std::env;

use sqlx::{ConnectOptions, Connection, postgres::PgConnectOptions};
use tokio::sync::Mutex;
use uuid::Uuid;

use crate::binaries::VersionWish;
use crate::database;
use crate::error::ServerError;
use crate::options::Options;
use crate::server::{MAINTENANCE_DATABASE, Server};
use crate::test_database::TestDatabase;
use crate::url;

/// Names a running server to use instead of one of our own.
const URL_VARIABLE: &str = "CABBAGE_TEST_DATABASE_URL";
/// The major version for tests that demand none.
const MAJOR_VARIABLE: &str = "CABBAGE_TEST_POSTGRES";

/// What the names of the databases start with, for whoever cleans up a server
/// of their own.
const DATABASE_PREFIX: &str = "cabbage_test_";

/// The servers of this process by what was asked for. They live as long as the
/// process; the watchdog stops them and removes their data afterwards.
static SERVERS: Mutex<BTreeMap<Option<u32>, &'static TestServer>> = Mutex::const_new(BTreeMap::new());

/// A server shared by the tests of one process, without durability.
#[derive(Debug)]
pub struct TestServer {
    source: Source,
}

#[derive(Debug)]
enum Source {
    Own(Box<Server>),
    External { url: String },
}

/// Why there is no server for tests.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TestServerError {
    /// Ours did not start.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// The one named does not answer.
    #[error("CABBAGE_TEST_DATABASE_URL names a server that cannot be used: {0}; correct or unset it")]
    External(sqlx::Error),
    /// `CABBAGE_TEST_POSTGRES` is no major version.
    #[error("CABBAGE_TEST_POSTGRES is {0:?}, which is no major version such as 18")]
    Major(String),
}

impl TestServer {
    /// The server of this process with this major version, started at first
    /// use. Without one, `CABBAGE_TEST_POSTGRES` decides, else any will do.
    ///
    /// The server named by `CABBAGE_TEST_DATABASE_URL` is used instead if it
    /// is of the version asked for.
    pub async fn shared(major: Option<u32>) -> Result<&'static Self, TestServerError> {
        let major = match major {
            Some(major) => Some(major),
            None => major_from_environment(env::var(MAJOR_VARIABLE).ok())?,
        };
        let mut servers = SERVERS.lock().await;
        if let Some(server) = servers.get(&major) {
            return Ok(server);
        }
        let source = match external(major).await? {
            Some(external) => external,
            None => Source::Own(Box::new(start(major).await?)),
        };
        let server: &'static Self = Box::leak(Box::new(Self { source }));
        servers.insert(major, server);
        Ok(server)
    }

    /// Creates an empty database, which lasts as long as the answer is kept.
    pub async fn database(&self) -> Result<TestDatabase, TestServerError> {
        let name = format!("{DATABASE_PREFIX}{}", Uuid::new_v4().simple());
        match &self.source {
            Source::Own(server) => {
                server.create_database(&name).await?;
                Ok(TestDatabase::new(server.url(&name), server.url(MAINTENANCE_DATABASE), name))
            }
            Source::External { url } => {
                database::create(url, &name).await?;
                Ok(TestDatabase::new(url::with_database(url, &name), url.clone(), name))
            }
        }
    }

    /// The server itself, unless it is one named from outside.
    pub fn server(&self) -> Option<&Server> {
        match &self.source {
            Source::Own(server) => Some(server),
            Source::External { .. } => None,
        }
    }
}

async fn start(major: Option<u32>) -> Result<Server, ServerError> {
    Server::start(Options { version: major.map_or(VersionWish::Any, VersionWish::Major), ..Options::for_tests() }).await
}

async fn external(major: Option<u32>) -> Result<Option<Source>, TestServerError> {
    let Some(url) = env::var(URL_VARIABLE).ok().filter(|url| !url.is_empty()) else {
        return Ok(None);
    };
    let found = major_of(&url).await.map_err(TestServerError::External)?;
    let fits = major.is_none_or(|wanted| wanted == found);
    Ok(fits.then_some(Source::External { url }))
}

async fn major_of(url: &str) -> Result<u32, sqlx::Error> {
    let options: PgConnectOptions = url.parse()?;
    let mut connection = options.connect().await?;
    let number: i32 = sqlx::query_scalar("SELECT current_setting('server_version_num')::integer / 10000")
        .fetch_one(&mut connection)
        .await?;
    connection.close().await?;
    Ok(number as u32)
}

fn major_from_environment(value: Option<String>) -> Result<Option<u32>, TestServerError> {
    match value {
        Some(text) if !text.is_empty() => match text.parse() {
            Ok(major) => Ok(Some(major)),
            Err(_) => Err(TestServerError::Major(text)),
        },
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn major_version_from_the_environment_is_checked() {
        assert!(matches!(major_from_environment(None), Ok(None)));
        assert!(matches!(major_from_environment(Some("18".into())), Ok(Some(18))));
        assert!(major_from_environment(Some("newest".into())).is_err());
    }
}
