//! Databases of a server, created and dropped without `psql`: what is
//! downloaded holds none.

use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor};

use crate::error::ServerError;

/// Creates an empty database on the server that `url` leads to.
pub(crate) async fn create(url: &str, name: &str) -> Result<(), ServerError> {
    // Nobody can be connected to template0, so it can always be copied.
    let statement = format!("CREATE DATABASE {} TEMPLATE template0", quote(name));
    execute(url, statement).await
}

/// Drops a database if it exists, and whoever is connected to it.
pub(crate) async fn drop(url: &str, name: &str) -> Result<(), ServerError> {
    let statement = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", quote(name));
    execute(url, statement).await
}

async fn execute(url: &str, statement: String) -> Result<(), ServerError> {
    let options: PgConnectOptions = url.parse()?;
    let mut connection = options.connect().await?;
    // Names cannot be parameters; they are quoted.
    connection.execute(sqlx::raw_sql(AssertSqlSafe(statement))).await?;
    connection.close().await?;
    Ok(())
}

fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted() {
        assert_eq!(quote("a\"b"), "\"a\"\"b\"");
    }
}
