//! Where the database is, and as whom to log in: the settings, checked and complete.

use std::{env, path::PathBuf, time::Duration};

use sqlx::postgres::PgConnectOptions;

use super::{
    hosts::{self, Host},
    keywords::{Keywords, Word},
    passfile::{self, PassfileError, Wanted},
    settings::{PgSettings, SettingsError},
    tls::{SslMode, Tls},
};

/// How long a host may take to let us in.
const CONNECT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);
/// The longest time that may be asked for.
const CONNECT_TIMEOUT_MAX_SECONDS: u64 = 600;
/// Which of several servers will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SessionAttrs {
    /// Any, for looking at what is there. To own a cell takes a primary even so.
    Any,
    /// One that takes writes as a matter of course.
    ReadWrite,
    /// One that is no standby.
    Primary,
}

/// Where the database is, and as whom to log in.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) hosts: Vec<Host>,
    pub(super) user: String,
    pub(super) dbname: String,
    pub(super) tls: Tls,
    pub(super) attrs: SessionAttrs,
    pub(super) connect_timeout: Duration,
    password: Option<Word>,
    passfile: Option<PathBuf>,
    /// Further settings of each session.
    options: Vec<(String, String)>,
    application_name: String,
}

/// Where a password came from, or why there is none: what to correct when it is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PasswordSource {
    /// From this setting.
    Field(String),
    /// From this file.
    Passfile(PathBuf),
    /// The file has none for us.
    Nowhere(Option<PathBuf>),
    /// The file was passed over; why.
    PassedOver(String),
}

impl Target {
    /// Completes the settings from the environment of this process, and checks them. Reads the files they name.
    pub(super) fn of(settings: &PgSettings) -> Result<Self, SettingsError> {
        Self::with_environment(settings, &|name| env::var(name).ok())
    }

    fn with_environment(
        settings: &PgSettings,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, SettingsError> {
        let said = Keywords::of(settings, variable)?;
        let text = |key: &str| said.get(key).map(|word| word.value.clone());
        let tls = Tls::of(&said)?;
        let hosts = hosts::of(&said)?;
        if tls.mode() == SslMode::VerifyFull
            && let Some(word) = said.get("hostaddr")
            && hosts.iter().any(|host| host.address.is_some_and(|address| address.to_string() != host.name))
        {
            let expected = "left out with sslmode verify-full: the name is taken from host, and looked up";
            return Err(word.malformed(expected));
        }
        // The name of the user who runs this process, if nothing else was said.
        let user = text("user").unwrap_or_else(|| PgConnectOptions::new_without_pgpass().get_username().to_owned());
        Ok(Self {
            dbname: text("dbname").unwrap_or_else(|| user.clone()),
            user,
            tls,
            attrs: said.get("target_session_attrs").map_or(Ok(SessionAttrs::ReadWrite), session_attrs)?,
            connect_timeout: said.get("connect_timeout").map_or(Ok(CONNECT_TIMEOUT_DEFAULT), connect_timeout)?,
            password: said.get("password").cloned(),
            passfile: text("passfile").map(PathBuf::from).or_else(passfile::default_path),
            options: said.get("options").map_or_else(|| Ok(Vec::new()), session_options)?,
            application_name: text("application_name").unwrap_or_else(|| settings.application_name.clone()),
            hosts,
        })
    }

    /// What `sqlx` needs for this host, but for what depends on the role of the connection. Reads certificates and
    /// passwords anew, since both change while brokers run.
    pub(super) fn options(&self, host: &Host) -> Result<(PgConnectOptions, PasswordSource), SettingsError> {
        let (password, source) = self.password(host);
        let address = host.address.map_or_else(|| host.name.clone(), |address| address.to_string());
        let mut options = PgConnectOptions::new_without_pgpass()
            .port(host.port)
            .username(&self.user)
            .database(&self.dbname)
            .application_name(&self.application_name)
            // Never the one of the environment, where another was meant; an empty one is none.
            .password(password.as_deref().unwrap_or_default())
            .options(self.options.iter().map(|(name, value)| (name, value)));
        options = if host.is_socket() { options.socket(&host.name) } else { options.host(&address) };
        Ok((self.tls.apply(options)?, source))
    }

    /// What stands in the way of the password file, to be said once at the start.
    pub(super) fn passfile_trouble(&self) -> Option<PassfileError> {
        let host = self.hosts.first()?;
        match (&self.password, &self.passfile) {
            (None, Some(path)) => passfile::look_up(path, self.wanted(host)).err(),
            _ => None,
        }
    }

    fn password(&self, host: &Host) -> (Option<String>, PasswordSource) {
        match (&self.password, &self.passfile) {
            (Some(word), _) => (Some(word.value.clone()), PasswordSource::Field(word.field.clone())),
            (None, None) => (None, PasswordSource::Nowhere(None)),
            (None, Some(path)) => match passfile::look_up(path, self.wanted(host)) {
                Ok(Some(password)) => (Some(password), PasswordSource::Passfile(path.clone())),
                Ok(None) => (None, PasswordSource::Nowhere(Some(path.clone()))),
                Err(error) => (None, PasswordSource::PassedOver(error.to_string())),
            },
        }
    }

    fn wanted<'a>(&'a self, host: &'a Host) -> Wanted<'a> {
        Wanted { host: host.in_passfile(), port: host.port, database: &self.dbname, user: &self.user }
    }
}

fn session_attrs(word: &Word) -> Result<SessionAttrs, SettingsError> {
    match word.value.as_str() {
        "any" => Ok(SessionAttrs::Any),
        "read-write" => Ok(SessionAttrs::ReadWrite),
        "primary" => Ok(SessionAttrs::Primary),
        "read-only" | "standby" | "prefer-standby" => {
            Err(word.malformed("read-write, primary or any, since cabbage writes: leave it out for read-write"))
        }
        _ => Err(word.malformed("read-write, primary or any")),
    }
}

fn connect_timeout(word: &Word) -> Result<Duration, SettingsError> {
    match word.value.trim().parse() {
        Ok(seconds @ 1..=CONNECT_TIMEOUT_MAX_SECONDS) => Ok(Duration::from_secs(seconds)),
        _ => Err(word.malformed("a number of seconds from 1 to 600")),
    }
}

/// `-c name=value --name=value`, with `\` before a space that belongs to a value.
fn session_options(word: &Word) -> Result<Vec<(String, String)>, SettingsError> {
    let expected = "settings of the session as in \"-c name=value -c name=value\"";
    let mut options = Vec::new();
    let mut words = split_words(&word.value).into_iter();
    while let Some(option) = words.next() {
        let setting = match option.strip_prefix("-c").or_else(|| option.strip_prefix("--")) {
            Some("") => words.next(),
            setting => setting.map(str::to_owned),
        };
        let setting = setting.as_deref().and_then(|setting| setting.split_once('='));
        let (name, value) = setting.ok_or_else(|| word.malformed(expected))?;
        options.push((name.replace('-', "_"), value.to_owned()));
    }
    Ok(options)
}

fn split_words(text: &str) -> Vec<String> {
    let mut words = vec![];
    let mut current: Option<String> = None;
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match letter {
            letter if letter.is_whitespace() => words.extend(current.take()),
            '\\' => current.get_or_insert_default().extend(letters.next()),
            letter => current.get_or_insert_default().push(letter),
        }
    }
    words.extend(current);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target_in(settings: &PgSettings, environment: &[(&str, &str)]) -> Result<Target, SettingsError> {
        Target::with_environment(settings, &|name| {
            environment.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    }

    fn target(dsn: &str) -> Result<Target, SettingsError> {
        target_in(&PgSettings::from_url(dsn), &[])
    }

    fn complaint(dsn: &str) -> String {
        target(dsn).err().unwrap_or_else(|| panic!("{dsn} is accepted")).to_string()
    }

    #[test]
    fn single_settings_reach_sqlx_before_the_url_does() {
        let settings = PgSettings {
            port: Some("6000".to_owned()),
            user: Some("a&b=c".to_owned()),
            dbname: Some("über/db".to_owned()),
            ..PgSettings::from_url("postgres://somebody:secret@db.example:5433/other?application_name=x")
        };
        let target = target_in(&settings, &[]).expect("well-formed");
        let (options, password) = target.options(&target.hosts[0]).expect("no files");
        assert_eq!((options.get_host(), options.get_port()), ("db.example", 6_000));
        assert_eq!((options.get_username(), options.get_database()), ("a&b=c", Some("über/db")));
        assert_eq!(options.get_application_name(), Some("x"));
        assert_eq!(password, PasswordSource::Field("password in the address of the database".to_owned()));
    }

    #[test]
    fn every_variable_of_the_environment_is_heard() {
        let environment = [
            ("PGHOST", "a,b"),
            ("PGPORT", "1,2"),
            ("PGUSER", "me"),
            ("PGPASSWORD", "secret"),
            ("PGSSLMODE", "require"),
            ("PGTARGETSESSIONATTRS", "primary"),
            ("PGCONNECT_TIMEOUT", "7"),
            ("PGAPPNAME", "mine"),
            ("PGOPTIONS", r"-c work_mem=8MB --search-path=a\ b"),
        ];
        let target = target_in(&PgSettings::default(), &environment).expect("well-formed");
        assert_eq!(target.hosts.iter().map(Host::to_string).collect::<Vec<_>>(), ["a:1", "b:2"]);
        // As in libpq, the database has the name of the role.
        assert_eq!((target.user.as_str(), target.dbname.as_str()), ("me", "me"));
        assert_eq!((target.tls.mode(), target.attrs), (SslMode::Require, SessionAttrs::Primary));
        assert_eq!((target.connect_timeout, target.application_name.as_str()), (Duration::from_secs(7), "mine"));
        let options = [("work_mem", "8MB"), ("search_path", "a b")].map(|(a, b)| (a.to_owned(), b.to_owned()));
        assert_eq!(target.options, options);
        assert_eq!(target.password(&target.hosts[0]).0.as_deref(), Some("secret"));
    }

    #[test]
    fn values_that_make_no_sense_are_refused_by_field_and_remedy() {
        for (dsn, said) in [
            ("host=a port=http", "port in the address of the database is \"http\"; it must be a port from 1 to 65535"),
            ("host=a port=0", "1 to 65535"),
            ("host=a port=70000", "1 to 65535"),
            ("host=a sslmode=on", "disable, allow, prefer, require, verify-ca or verify-full"),
            ("host=a sslmode=verify-ca", "sslrootcert"),
            ("host=a sslmode=require sslrootcert=system", "verify-full"),
            ("host=a sslrootcert=/no/such/file", "/no/such/file, which cannot be read"),
            ("host=a sslcert=/no/such/file", "sslkey"),
            ("host=a target_session_attrs=standby", "read-write, primary or any"),
            ("host=a target_session_attrs=best", "read-write, primary or any"),
            ("host=a connect_timeout=0", "1 to 600"),
            ("host=a hostaddr=db", "an IP address"),
            ("host=a options='-d 3'", "-c name=value"),
            ("host=db hostaddr=10.0.0.1 sslmode=verify-full", "hostaddr"),
        ] {
            let complaint = complaint(dsn);
            assert!(complaint.contains(said), "{dsn}: {complaint}");
        }
        let error = target_in(&PgSettings::default(), &[("PGPORT", "x")]).err().expect("no port");
        assert!(error.to_string().starts_with("PGPORT is \"x\""), "{error}");
    }

    #[test]
    fn the_password_file_is_asked_under_the_name_of_the_host() {
        let settings = PgSettings { passfile: Some("/no/such/file".to_owned()), ..PgSettings::default() };
        let target = target_in(&settings, &[("PGHOST", "a")]).expect("well-formed");
        let (password, source) = target.password(&target.hosts[0]);
        assert_eq!((password, source), (None, PasswordSource::Nowhere(Some("/no/such/file".into()))));
    }
}
