//! The private PostgreSQL under `dev`.

use std::path::Path;

use cabbage_broker::args::DatabaseArgs;
use cabbage_dev_postgres::{Data, Mode, Options, Server, ServerError, VersionWish};
use sqlx::{Connection as _, PgConnection, Row as _};

use crate::exit::{Exit, Failure, Outcome};

/// The name of the database.
const DATABASE: &str = "cabbage";

pub(crate) struct DevDatabase {
    server: Server,
    kept: bool,
}

/// What is printed of it.
pub(crate) struct DatabaseLines {
    pub(crate) version: String,
    pub(crate) data: String,
    pub(crate) url: String,
    /// How to look inside; `None` where there is no psql.
    pub(crate) psql: Option<String>,
}

impl DevDatabase {
    pub(crate) async fn start(data: Option<&Path>, major: Option<u32>) -> Outcome<Self> {
        let options = Options {
            version: major.map_or(VersionWish::Any, VersionWish::Major),
            data: match data {
                Some(folder) => Data::Keep(absolute(folder)?),
                None => Data::Temporary,
            },
            ..Options::default()
        };
        let server = Server::start(options).await.map_err(|error| failure(&error))?;
        if !exists(&server).await? {
            server.create_database(DATABASE).await.map_err(|error| failure(&error))?;
        }
        Ok(Self { server, kept: data.is_some() })
    }

    /// How the broker reaches it. Variables of the environment that name other databases play no part.
    pub(crate) fn args(&self) -> DatabaseArgs {
        let Ok(url) = self.server.url(DATABASE).parse();
        DatabaseArgs { database_url: Some(url), ..DatabaseArgs::default() }
    }

    pub(crate) fn lines(&self) -> DatabaseLines {
        let data = self.server.data_dir().display().to_string();
        let socket = self.server.socket_dir();
        let psql = psql(self.server.binaries().folder()).map(|psql| {
            format!(
                "{psql} -h {} -p {} -U {} -d {DATABASE} -c 'SELECT id, task, state, attempts FROM cabbage.jobs ORDER BY id DESC LIMIT 10'",
                socket.display(),
                self.server.port(),
                self.server.user()
            )
        });
        DatabaseLines {
            version: self.server.binaries().full_version().to_owned(),
            data: if self.kept { data } else { format!("{data} (thrown away at the end; --data DIR keeps it)") },
            url: self.server.url(DATABASE),
            psql,
        }
    }

    pub(crate) async fn stop(mut self) {
        // What is kept is written out; what is thrown away need not be.
        self.server.stop(if self.kept { Mode::Fast } else { Mode::Immediate }).await;
    }
}

/// A server that runs as another user does not share our working folder.
fn absolute(folder: &Path) -> Outcome<std::path::PathBuf> {
    std::path::absolute(folder).map_err(|error| Failure::usage(format!("--data {}: {error}", folder.display())))
}

async fn exists(server: &Server) -> Outcome<bool> {
    let ask = async {
        let mut connection = PgConnection::connect(&server.url("postgres")).await?;
        let row = sqlx::query("-- cabbage:dev_exists\nSELECT count(*) FROM pg_database WHERE datname = $1")
            .bind(DATABASE)
            .fetch_one(&mut connection)
            .await?;
        connection.close().await?;
        row.try_get::<i64, _>(0)
    };
    let count =
        ask.await.map_err(|error| Failure::from_error(Exit::Failure, "cannot look into the database", &error))?;
    Ok(count > 0)
}

/// The psql of the server's own folder, else the one in `PATH`.
fn psql(folder: &Path) -> Option<String> {
    let own = folder.join("psql");
    let in_path = || std::env::split_paths(&std::env::var_os("PATH")?).find(|folder| folder.join("psql").is_file());
    if in_path().is_some() { Some("psql".to_owned()) } else { own.is_file().then(|| own.display().to_string()) }
}

fn failure(error: &ServerError) -> Failure {
    let exit = match error {
        ServerError::AlreadyRunning { .. } | ServerError::VersionMismatch { .. } | ServerError::PortTaken { .. } => {
            Exit::Conflict
        }
        _ => Exit::Failure,
    };
    Failure::from_error(exit, "cannot start PostgreSQL", error).remedy("`--store memory` needs no database")
}
