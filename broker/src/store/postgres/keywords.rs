//! What was said of a connection, by libpq's keywords: the environment first, then the URL or line of keywords, then
//! single settings. Of the same keyword, what was said last holds.

use std::collections::BTreeMap;

use super::{
    dsn,
    settings::{PgSettings, SettingsError},
};

/// What is understood, and the variable of the environment that says the same.
const KEYWORDS: [(&str, &str); 15] = [
    ("host", "PGHOST"),
    ("hostaddr", "PGHOSTADDR"),
    ("port", "PGPORT"),
    ("dbname", "PGDATABASE"),
    ("user", "PGUSER"),
    ("password", "PGPASSWORD"),
    ("passfile", "PGPASSFILE"),
    ("sslmode", "PGSSLMODE"),
    ("sslrootcert", "PGSSLROOTCERT"),
    ("sslcert", "PGSSLCERT"),
    ("sslkey", "PGSSLKEY"),
    ("target_session_attrs", "PGTARGETSESSIONATTRS"),
    ("connect_timeout", "PGCONNECT_TIMEOUT"),
    ("application_name", "PGAPPNAME"),
    ("options", "PGOPTIONS"),
];

/// What libpq has and cabbage has not: accepted with these values only, which ask for nothing.
const MEANINGLESS: [(&str, &str, &[&str]); 9] = [
    ("service", "PGSERVICE", &[]),
    ("servicefile", "PGSERVICEFILE", &[]),
    ("channel_binding", "PGCHANNELBINDING", &["disable", "prefer"]),
    ("gssencmode", "PGGSSENCMODE", &["disable", "prefer"]),
    ("load_balance_hosts", "PGLOADBALANCEHOSTS", &["disable"]),
    ("sslnegotiation", "PGSSLNEGOTIATION", &["postgres"]),
    ("sslcrl", "PGSSLCRL", &[]),
    ("require_auth", "PGREQUIREAUTH", &[]),
    ("replication", "PGREPLICATION", &["false"]),
];

/// A value, and where it comes from, for messages.
#[derive(Clone, Debug)]
pub(super) struct Word {
    pub(super) value: String,
    /// Such as `PGPORT` or `--database-port`.
    pub(super) field: String,
}

impl Word {
    /// It is not what it must be.
    pub(super) fn malformed(&self, expected: &'static str) -> SettingsError {
        SettingsError::Malformed { field: self.field.clone(), value: self.value.clone(), expected }
    }
}

/// All that was said.
pub(super) struct Keywords(BTreeMap<&'static str, Word>);

impl Keywords {
    /// Gathers what the settings and the environment say. `variable` reads the environment.
    pub(super) fn of(settings: &PgSettings, variable: &dyn Fn(&str) -> Option<String>) -> Result<Self, SettingsError> {
        let mut said = Self(BTreeMap::new());
        let variables = KEYWORDS.iter().map(|(key, name)| (*key, *name));
        for (key, name) in variables.chain(MEANINGLESS.iter().map(|(key, name, _)| (*key, *name))) {
            if let Some(value) = variable(name).filter(|value| !value.is_empty()) {
                said.say(key, value, name.to_owned())?;
            }
        }
        if let Some(url) = &settings.url {
            for (key, value) in dsn::parse(url)? {
                let field = format!("{key} in the address of the database");
                said.say(&key, value, field)?;
            }
        }
        for (key, option, value) in settings.single() {
            if let Some(value) = value {
                said.say(key, value.to_owned(), option.to_owned())?;
            }
        }
        Ok(said)
    }

    /// What was said by this keyword; nothing, if it was an empty text.
    pub(super) fn get(&self, key: &str) -> Option<&Word> {
        self.0.get(key).filter(|word| !word.value.is_empty())
    }

    fn say(&mut self, key: &str, value: String, field: String) -> Result<(), SettingsError> {
        if value.contains('\0') {
            return Err(SettingsError::Nul { field });
        }
        if let Some((key, _)) = KEYWORDS.iter().find(|(known, _)| *known == key) {
            self.0.insert(key, Word { value, field });
            return Ok(());
        }
        match MEANINGLESS.iter().find(|(known, ..)| *known == key) {
            Some((.., harmless)) if value.is_empty() || harmless.contains(&value.as_str()) => Ok(()),
            Some(_) => Err(SettingsError::Unsupported { field, value }),
            None => {
                let known = KEYWORDS.map(|(key, _)| key).join(", ");
                Err(SettingsError::UnknownKeyword { keyword: key.to_owned(), known })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(settings: &PgSettings, environment: &[(&str, &str)]) -> Result<Keywords, SettingsError> {
        let variable =
            |name: &str| environment.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        Keywords::of(settings, &variable)
    }

    #[test]
    fn single_settings_go_before_the_url_and_the_url_before_the_environment() {
        let environment =
            [("PGHOST", "env"), ("PGPORT", "1"), ("PGUSER", "env"), ("PGAPPNAME", "env"), ("PGDATABASE", "")];
        for url in ["postgres://url:2", "host=url port=2"] {
            let settings = PgSettings { port: Some("3".to_owned()), ..PgSettings::from_url(url) };
            let said = said(&settings, &environment).expect("well-formed");
            let value = |key| said.get(key).map(|word: &Word| word.value.as_str());
            assert_eq!((value("host"), value("port"), value("user")), (Some("url"), Some("3"), Some("env")));
            assert_eq!((value("application_name"), value("dbname")), (Some("env"), None));
            assert_eq!(said.get("port").map(|word| word.field.as_str()), Some("--database-port"));
        }
    }

    #[test]
    fn what_is_not_understood_is_refused_by_name() {
        let error = |url: &str| said(&PgSettings::from_url(url), &[]).err().map(|error| error.to_string());
        assert!(
            error("host=a pasword=secret").is_some_and(|text| text.contains("pasword") && !text.contains("secret"))
        );
        assert!(error("host=a channel_binding=require").is_some_and(|text| text.contains("channel_binding")));
        assert_eq!(error("host=a channel_binding=prefer gssencmode=disable"), None);
        assert!(matches!(
            said(&PgSettings::default(), &[("PGSERVICE", "mine")]),
            Err(SettingsError::Unsupported { field, .. }) if field == "PGSERVICE"
        ));
    }
}
