//! `migrate`: brings the schema of a cell up to date, or says whether it is.

use cabbage_broker::{
    args::DatabaseArgs,
    store::{
        Store as _, StoreError,
        postgres::{PgSettings, PgStore},
    },
};
use cabbage_migrations::{STEPS, Status};
use clap::Args;
use serde::Serialize;

use crate::{
    exit::{Exit, Failure, Outcome},
    output::OutputArgs,
};

/// Bring the schema of a cell up to date
///
/// A broker does the same when it starts. Do it before, with a role that may create tables, where the broker's may not.
#[derive(Args, Debug)]
pub(crate) struct MigrateArgs {
    /// Change nothing, and say whether it is up to date; exit code 4 if it is not
    #[arg(long)]
    status: bool,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    database: DatabaseArgs,
}

/// The answer as JSON.
#[derive(Debug, Serialize)]
struct Migrated<'a> {
    schema: &'a str,
    /// The version that was found.
    found: i32,
    /// The newest that this program knows.
    newest: i32,
    /// The steps that were applied.
    applied: Vec<&'a str>,
}

impl MigrateArgs {
    pub(crate) async fn run(&self) -> Outcome {
        let schema = &self.database.schema;
        let doing = if self.status { "cannot look at the schema" } else { "cannot bring the schema up to date" };
        let settings = PgSettings { application_name: "cabbage-cli".to_owned(), ..self.database.settings() };
        // Nothing was asked yet: it is the settings that make no sense.
        let store = PgStore::new(settings).map_err(|error| Failure::from_error(Exit::Usage, doing, &error))?;
        let newest = STEPS.last().map_or(0, |step| step.version);
        let found = match store.schema_status().await.map_err(|error| failure(doing, &error))? {
            Status::Current => newest,
            Status::Behind(version) | Status::Ahead(version) => version,
        };
        let missing = STEPS.iter().filter(|step| step.version > found);
        let mut migrated = Migrated { schema: schema.name(), found, newest, applied: Vec::new() };
        if self.status {
            let behind = missing.count();
            let text = match behind {
                0 if found > newest => format!("schema {schema} {}", ahead(found, newest)),
                0 => format!("schema {schema} is up to date (version {newest})"),
                _ => format!("schema {schema} is at version {found} of {newest}"),
            };
            self.output.print(|| text, &migrated)?;
            return match behind {
                0 => Ok(()),
                _ => Err(Failure::new(Exit::Conflict, format!("schema {schema} is not up to date"))
                    .remedy("bring it up to date with: cabbage-cli migrate")),
            };
        }
        migrated.applied = missing.map(|step| step.name).collect();
        store.prepare().await.map_err(|error| failure(doing, &error))?;
        self.output.print(|| text(&migrated), &migrated)
    }
}

fn text(migrated: &Migrated<'_>) -> String {
    let Migrated { schema, found, newest, applied } = migrated;
    match applied.as_slice() {
        [] if found > newest => format!("schema {schema} {}; nothing was done", ahead(*found, *newest)),
        [] => format!("schema {schema} was up to date (version {newest}); nothing was done"),
        names => format!("schema {schema} went from version {found} to {newest}: {}", names.join(", ")),
    }
}

fn ahead(found: i32, newest: i32) -> String {
    format!("is at version {found}; this program knows {newest}, and works with it")
}

fn failure(doing: &str, error: &StoreError) -> Failure {
    let exit = match error {
        StoreError::Denied(_) => Exit::Denied,
        StoreError::Unavailable(_) => Exit::Unavailable,
        StoreError::Unsuitable(_) | StoreError::FormatTooNew { .. } => Exit::Conflict,
        StoreError::LogChanged | StoreError::Corrupt(_) => Exit::Failure,
    };
    Failure::from_error(exit, doing, error)
        .remedy("the database is named by --database-url, CABBAGE_DATABASE_URL, or as for psql (PGHOST, PGUSER, ...)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_refused_is_told_apart_from_a_database_that_is_away() {
        let exit = |error: StoreError| failure("cannot", &error).exit();
        assert_eq!(exit(StoreError::Denied("password authentication failed".to_owned())), Exit::Denied);
        assert_eq!(exit(StoreError::Unavailable("connection refused".to_owned())), Exit::Unavailable);
        assert_eq!(exit(StoreError::Unsuitable("no such database".to_owned())), Exit::Conflict);
    }

    #[test]
    fn what_was_done_is_said_by_name() {
        let migrated = Migrated { schema: "cabbage", found: 0, newest: 2, applied: vec!["tables", "commit"] };
        assert_eq!(text(&migrated), "schema cabbage went from version 0 to 2: tables, commit");
        let migrated = Migrated { found: 2, applied: vec![], ..migrated };
        assert_eq!(text(&migrated), "schema cabbage was up to date (version 2); nothing was done");
    }
}
