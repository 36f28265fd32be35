//! Why a schema could not be brought up to date.

use crate::Schema;

/// Why a schema could not be brought up to date, or looked at.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// Text could not be kept as it is.
    #[error("the database is encoded in {0}; cabbage needs UTF8")]
    NotUtf8(String),
    /// A newer version of cabbage was here.
    #[error(
        "the schema {schema} is at version {found}, which serves programs that know version {serves_from} or a newer one; \
         this one knows {known}: use a newer one"
    )]
    Ahead {
        /// The schema.
        schema: Schema,
        /// The version that was found.
        found: i32,
        /// What a program must know at least.
        serves_from: i32,
        /// The newest that is known.
        known: i32,
    },
    /// A step was applied with another text.
    #[error("step {version} of the schema {schema} was applied with another text")]
    Changed {
        /// The schema.
        schema: Schema,
        /// The step.
        version: i32,
    },
    /// Somebody else kept the lock of the migrations for too long.
    #[error("somebody else has been migrating the schema {0} for too long")]
    Busy(Schema),
    /// A table was in use for too long.
    #[error(
        "step {version} of the schema {schema} found its tables in use for minutes; end the transactions that hold them, and try again"
    )]
    InUse {
        /// The schema.
        schema: Schema,
        /// The step.
        version: i32,
    },
    /// The server is too old or too new to be known to work.
    #[error("the server's version is {0}; cabbage needs PostgreSQL 15 or newer")]
    TooOld(String),
    /// The database failed.
    #[error("the database failed")]
    Database(#[from] sqlx::Error),
}
