//! What `dev` says once it is ready: where everything is, and what to type next.

use std::{fmt, net::SocketAddr};

use super::database::DatabaseLines;

pub(crate) struct Banner {
    /// How this program was called: what is to be typed must work in the next terminal, too.
    pub(crate) program: String,
    pub(crate) broker: SocketAddr,
    /// Commands need not name it.
    pub(crate) is_default_broker: bool,
    pub(crate) admin: SocketAddr,
    pub(crate) database: Option<DatabaseLines>,
    pub(crate) demo: bool,
}

impl fmt::Display for Banner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { program, broker, admin, .. } = self;
        writeln!(f, "cabbage {} for development; not for production\n", env!("CARGO_PKG_VERSION"))?;
        writeln!(f, "  broker     http://{broker}")?;
        writeln!(f, "  metrics    http://{admin}/metrics")?;
        match &self.database {
            Some(database) => {
                writeln!(f, "  database   PostgreSQL {}, {}", database.version, database.url)?;
                writeln!(f, "  data       {}", database.data)?;
            }
            None => writeln!(f, "  jobs       in memory, gone at the end")?,
        }
        let option = if self.is_default_broker { String::new() } else { format!(" --broker http://{broker}") };
        writeln!(f, "\nIn another terminal:\n")?;
        writeln!(f, "  {program} defer greet '{{\"name\": \"Ada\"}}'{option}")?;
        writeln!(f, "  {program} job list{option}")?;
        if let Some(psql) = self.database.as_ref().and_then(|database| database.psql.as_ref()) {
            writeln!(f, "  {psql}")?;
        }
        if !self.demo {
            writeln!(f, "\nNo worker runs yet, so jobs wait. `{program} dev --demo` has one.")?;
        }
        // The last line says that everything before it holds now.
        write!(f, "\nready; Ctrl-C stops everything")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn banner() -> Banner {
        Banner {
            program: "target/debug/cabbage-cli".to_owned(),
            broker: "127.0.0.1:1".parse().unwrap(),
            is_default_broker: false,
            admin: "127.0.0.1:2".parse().unwrap(),
            database: None,
            demo: false,
        }
    }

    #[test]
    fn commands_name_the_broker_unless_it_is_the_default_one() {
        assert!(banner().to_string().contains("  target/debug/cabbage-cli job list --broker http://127.0.0.1:1\n"));
        let default = Banner { is_default_broker: true, ..banner() };
        assert!(default.to_string().contains("job list\n"));
    }

    #[test]
    fn the_last_line_is_the_sign_of_readiness() {
        assert!(banner().to_string().lines().last().unwrap().starts_with("ready;"));
    }
}
