//! `migrate`: brings the schema of a cell up to date, or says whether it is.

use cabbage_migrations::{MigrateError, STEPS, Schema, Status, prepare, status};
use clap::Args;
use serde::Serialize;
use sqlx::{Connection, PgConnection};

use crate::{
    exit::{Exit, Failure, Outcome},
    output::OutputArgs,
};

/// Which database, and which schema in it.
#[derive(Args, Clone, Debug)]
pub(crate) struct DatabaseArgs {
    /// The database, as postgres://USER:PASSWORD@HOST/NAME
    #[arg(
        long,
        env = "CABBAGE_DATABASE_URL",
        value_name = "URL",
        hide_env_values = true,
        help_heading = "Database"
    )]
    database_url: String,
    /// The schema that holds the cell
    #[arg(
        long,
        env = "CABBAGE_SCHEMA",
        value_name = "NAME",
        default_value = "cabbage",
        help_heading = "Database"
    )]
    schema: Schema,
}

/// Bring the schema of a cell up to date
#[derive(Args, Debug)]
pub(crate) struct MigrateArgs {
    #[command(flatten)]
    database: DatabaseArgs,
    /// Change nothing, and say whether it is up to date; exit code 4 if it is not
    #[arg(long)]
    status: bool,
    #[command(flatten)]
    output: OutputArgs,
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
        let mut connection = connect(&self.database.database_url).await?;
        let newest = STEPS.last().map_or(0, |step| step.version);
        let found = match status(&mut connection, schema)
            .await
            .map_err(|error| failure(&error))?
        {
            Status::Current => newest,
            Status::Behind(version) => version,
        };
        let missing = STEPS.iter().filter(|step| step.version > found);
        let mut migrated = Migrated {
            schema: schema.name(),
            found,
            newest,
            applied: Vec::new(),
        };
        if self.status {
            let behind = missing.count();
            let text = match behind {
                0 => format!("schema {schema} is up to date (version {newest})"),
                _ => format!("schema {schema} is at version {found} of {newest}"),
            };
            self.output.print(|| text, &migrated)?;
            return match behind {
                0 => Ok(()),
                _ => Err(Failure::new(
                    Exit::Conflict,
                    format!("schema {schema} is not up to date"),
                )
                .remedy("bring it up to date with: cabbage-cli migrate")),
            };
        }
        migrated.applied = missing.map(|step| step.name).collect();
        prepare(connection, schema)
            .await
            .map_err(|error| failure(&error))?;
        self.output.print(|| text(&migrated), &migrated)
    }
}

fn text(migrated: &Migrated<'_>) -> String {
    let Migrated {
        schema,
        found,
        newest,
        applied,
    } = migrated;
    match applied.as_slice() {
        [] => format!("schema {schema} was up to date (version {newest}); nothing was done"),
        names => format!(
            "schema {schema} went from version {found} to {newest}: {}",
            names.join(", ")
        ),
    }
}

async fn connect(url: &str) -> Outcome<PgConnection> {
    PgConnection::connect(url).await.map_err(|error| {
        let exit = match &error {
            sqlx::Error::Configuration(_) => Exit::Usage,
            // 28: the server does not let this user in. 3D: no such database.
            sqlx::Error::Database(error) => match error.code().as_deref() {
                Some(code) if code.starts_with("28") => Exit::Denied,
                Some("3D000") => Exit::NotFound,
                _ => Exit::Unavailable,
            },
            _ => Exit::Unavailable,
        };
        Failure::from_error(exit, "cannot connect to the database", &error).remedy(
            "name it with --database-url or CABBAGE_DATABASE_URL: postgres://USER@HOST/NAME",
        )
    })
}

fn failure(error: &MigrateError) -> Failure {
    let exit = match error {
        MigrateError::NotUtf8(_)
        | MigrateError::TooOld(_)
        | MigrateError::Ahead { .. }
        | MigrateError::Changed { .. } => Exit::Conflict,
        MigrateError::Busy(_) => Exit::Unavailable,
        MigrateError::Database(sqlx::Error::Database(error)) => match error.code().as_deref() {
            Some("42501") => Exit::Denied,
            _ => Exit::Failure,
        },
        MigrateError::Database(_) => Exit::Unknown,
    };
    Failure::from_error(exit, "cannot bring the schema up to date", error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_done_is_said_by_name() {
        let migrated = Migrated {
            schema: "cabbage",
            found: 0,
            newest: 2,
            applied: vec!["tables", "commit"],
        };
        assert_eq!(
            text(&migrated),
            "schema cabbage went from version 0 to 2: tables, commit"
        );
        let migrated = Migrated {
            found: 2,
            applied: vec![],
            ..migrated
        };
        assert_eq!(
            text(&migrated),
            "schema cabbage was up to date (version 2); nothing was done"
        );
    }

    #[tokio::test]
    async fn a_malformed_url_is_a_fault_of_usage() {
        assert_eq!(connect("nonsense").await.unwrap_err().exit(), Exit::Usage);
    }
}
