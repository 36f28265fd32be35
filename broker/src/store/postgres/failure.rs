//! Why no connection was made, and what can be done about it.

use std::io;

use cabbage_migrations::Schema;
use rustls::{AlertDescription, CertificateError, Error as TlsError};
use sqlx::Error;

use super::{
    hosts::Host,
    settings::SettingsError,
    target::{PasswordSource, Target},
    tls::SslMode,
};
use crate::store::StoreError;

/// The kinds of reasons; the later, the worse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Why {
    /// Nobody answers, or not now.
    Away,
    /// It answers, and is no server that takes writes.
    NotPrimary,
    /// It answers, and cannot serve as it is, or as we ask.
    Unsuitable,
    /// It does not let this role in.
    Denied,
}

/// Why no connection was made. The text names each host and the remedy, and never a password.
#[derive(Debug)]
pub(super) struct DialError {
    why: Why,
    text: String,
    /// Another try with, or without, encryption may help.
    about_encryption: bool,
}

impl From<SettingsError> for DialError {
    /// A file that was there at the start cannot be read now.
    fn from(error: SettingsError) -> Self {
        Self::new(Why::Unsuitable, error.to_string())
    }
}

impl From<DialError> for StoreError {
    fn from(error: DialError) -> Self {
        match error.why {
            Why::Away | Why::NotPrimary => Self::Unavailable(error.text),
            Why::Unsuitable => Self::Unsuitable(error.text),
            Why::Denied => Self::Denied(error.text),
        }
    }
}

impl DialError {
    pub(super) fn new(why: Why, text: String) -> Self {
        Self { why, text, about_encryption: false }
    }

    /// What happened at one host.
    pub(super) fn of_host(host: &Host, target: &Target, password: &PasswordSource, error: &Error) -> Self {
        let (why, text) = match error {
            Error::Database(error) => {
                let code = error.code().unwrap_or_default();
                let (why, remedy) = refusal(&code, error.message(), host, target, password);
                (why, format!("{host} answers: {} ({code}){remedy}", error.message()))
            }
            Error::Io(error) => match tls_error(error) {
                Some(tls) => (Why::Unsuitable, untrusted(host, tls)),
                None => unreached(host, error),
            },
            Error::Tls(error) if error.to_string().contains("does not support TLS") => {
                let mode = match target.tls.mode() {
                    SslMode::VerifyCa => "verify-ca",
                    SslMode::VerifyFull => "verify-full",
                    SslMode::Require | SslMode::Disable | SslMode::Allow | SslMode::Prefer => "require",
                };
                let remedy = "turn on ssl in the server, or use sslmode prefer where the network is safe";
                (Why::Unsuitable, format!("{host} does not encrypt, and sslmode {mode} needs it: {remedy}"))
            }
            Error::Tls(error) => (Why::Unsuitable, format!("{host}: the connection cannot be encrypted: {error}")),
            Error::Configuration(error) => (Why::Unsuitable, format!("{host}: {error}")),
            Error::Protocol(text) if text.contains("unsupported authentication method") => (
                Why::Denied,
                format!(
                    "{host} asks for a way to log in that cabbage does not know: use scram-sha-256 or a certificate"
                ),
            ),
            Error::Protocol(text) => {
                (Why::Unsuitable, format!("{host} does not speak as PostgreSQL does: is it another program? ({text})"))
            }
            error => (Why::Away, format!("{host}: {error}")),
        };
        let about_encryption = match error {
            Error::Database(error) => error.code().as_deref() == Some("28000"),
            Error::Io(error) => tls_error(error).is_some(),
            Error::Tls(_) => true,
            _ => false,
        };
        Self { why, text, about_encryption }
    }

    /// What happened at all of them. One that may come back is worth waiting for.
    pub(super) fn of_all(failures: &[Self]) -> Self {
        let why = failures.iter().map(|failure| failure.why).min().unwrap_or(Why::Away);
        let texts = failures.iter().map(|failure| failure.text.as_str()).collect::<Vec<_>>().join("; ");
        let text = match (why, failures.len()) {
            (Why::NotPrimary, _) => format!(
                "no host takes writes: {texts}; name the primary, or all hosts of which one is (target_session_attrs)"
            ),
            (Why::Away | Why::Unsuitable | Why::Denied, 1) => texts,
            (Why::Away | Why::Unsuitable | Why::Denied, _) => format!("no host will do: {texts}"),
        };
        Self::new(why, text)
    }

    /// Both tries at one host failed.
    #[must_use]
    pub(super) fn and(self, other: &Self) -> Self {
        if self.text == other.text {
            return self;
        }
        let why = self.why.min(other.why);
        let about_encryption = other.about_encryption;
        Self { why, text: format!("{}; then {}", self.text, other.text), about_encryption }
    }

    /// Whether the same host may let us in with, or without, encryption.
    pub(super) fn is_about_encryption(&self) -> bool {
        self.about_encryption
    }
}

/// What the server's own refusal means, and what to do.
fn refusal(code: &str, message: &str, host: &Host, target: &Target, password: &PasswordSource) -> (Why, String) {
    let Target { user, dbname, .. } = target;
    match code {
        "28P01" => (Why::Denied, format!(": {}", wrong_password(host, target, password))),
        "28000" if message.contains("pg_hba.conf") => {
            (Why::Denied, format!(": let {user} in by a line in the server's pg_hba.conf"))
        }
        "28000" if message.contains("does not exist") => {
            (Why::Denied, format!(": make the role, or name another than {user}"))
        }
        "28000" if message.contains("certificate") => {
            (Why::Denied, ": name a certificate for the role with sslcert and sslkey".to_owned())
        }
        "28000" => (Why::Denied, format!(": is {user} the right role?")),
        "3D000" => (Why::Unsuitable, format!(": make it with createdb {dbname}, or name another")),
        "42501" => (Why::Denied, format!(": GRANT what is missing to {user}")),
        "08P01" if message.contains("startup parameter") => {
            (Why::Unsuitable, ": this is a pooler; name the server itself".to_owned())
        }
        "42704" | "22023" => (Why::Unsuitable, ": correct the options of the session (PGOPTIONS)".to_owned()),
        "53300" if message.contains("for database") => {
            (Why::Away, format!(": ALTER DATABASE {dbname:?} CONNECTION LIMIT with more, or close some"))
        }
        "53300" if message.contains("for role") => {
            (Why::Away, format!(": ALTER ROLE {user:?} CONNECTION LIMIT with more, or close some"))
        }
        "53300" => (Why::Away, ": raise max_connections, or close some".to_owned()),
        _ => (Why::Away, String::new()),
    }
}

/// What the server refuses to a role that it has let in, and what to do; `None`: it is not about the role.
pub(super) fn withheld(host: &Host, target: &Target, schema: &Schema, error: &Error) -> Option<StoreError> {
    let Error::Database(error) = error else { return None };
    let Target { user, dbname, .. } = target;
    let (code, message) = (error.code()?, error.message());
    let said = format!("{host} answers: {message} ({code})");
    match code.as_ref() {
        "42501" if message.contains("for database") => Some(StoreError::Denied(format!(
            "{said}: GRANT CREATE ON DATABASE {dbname:?} TO {user:?}, or let a role that may create schemas run \
             cabbage-cli migrate before"
        ))),
        "42501" => Some(StoreError::Denied(format!(
            "{said}: let the owner of the schema {schema} run cabbage-cli migrate, and GRANT to {user:?} what is missing"
        ))),
        // Also a server that became a standby meanwhile, which is worth waiting for.
        "25006" => Some(StoreError::Unavailable(format!(
            "{said}: ALTER ROLE {user:?} or ALTER DATABASE {dbname:?} RESET default_transaction_read_only, or name the \
             primary"
        ))),
        _ => None,
    }
}

fn wrong_password(host: &Host, target: &Target, password: &PasswordSource) -> String {
    let Target { user, dbname, .. } = target;
    let line = format!("{}:{}:{dbname}:{user}:<password>", host.name.replace(':', "\\:"), host.port);
    match password {
        PasswordSource::Field(field) => format!("correct {field}"),
        PasswordSource::Passfile(path) => format!("correct the first line for it in {}", path.display()),
        PasswordSource::PassedOver(why) => format!("no password was given, for {why}"),
        PasswordSource::Nowhere(Some(path)) => {
            format!("no password was given: set PGPASSWORD, or write {line} into {}", path.display())
        }
        PasswordSource::Nowhere(None) => "no password was given: set PGPASSWORD, or name a PGPASSFILE".to_owned(),
    }
}

/// Nobody answered, or the answer broke off.
fn unreached(host: &Host, error: &io::Error) -> (Why, String) {
    let said = error.to_string();
    let text = match error.kind() {
        io::ErrorKind::ConnectionRefused => format!(
            "{host} refuses connections: does PostgreSQL run there, and listen on this port? (listen_addresses, port)"
        ),
        io::ErrorKind::NotFound if host.is_socket() => {
            format!("there is no socket {host}: does PostgreSQL run, and is this its folder? (unix_socket_directories)")
        }
        io::ErrorKind::PermissionDenied if host.is_socket() => {
            return (Why::Denied, format!("{host} may not be opened by this user: look at the modes of its folder"));
        }
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => {
            format!("{host} closed the connection before it let us in: is it PostgreSQL, and does it run well?")
        }
        _ if said.contains("lookup address") || said.contains("resolve") => {
            format!("the host {} is unknown: is the name right? ({said})", host.name)
        }
        _ => format!("{host} cannot be reached: {said}"),
    };
    (Why::Away, text)
}

/// The error of TLS that an error of the socket stands for.
fn tls_error(error: &io::Error) -> Option<&TlsError> {
    error.get_ref()?.downcast_ref::<TlsError>()
}

fn untrusted(host: &Host, error: &TlsError) -> String {
    match error {
        TlsError::InvalidCertificate(
            error @ (CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }),
        ) => format!(
            "{host} has a certificate for another name ({error}): use a name that it holds, or sslmode verify-ca with \
             the file of an authority that certifies nobody else"
        ),
        TlsError::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            format!("{host} has a certificate that has expired: renew it")
        }
        TlsError::InvalidCertificate(error) => format!(
            "{host} has a certificate that is not trusted ({error}): name the file of the authority that signed it with \
             sslrootcert"
        ),
        TlsError::AlertReceived(
            alert @ (AlertDescription::CertificateRequired
            | AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::DecryptError),
        ) => format!("{host} does not take our certificate ({alert:?}): name another with sslcert and sslkey"),
        error => format!("{host}: the connection cannot be encrypted: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_may_come_back_is_worth_waiting_for() {
        let all = |whys: &[Why]| {
            let failures: Vec<_> = whys.iter().map(|why| DialError::new(*why, format!("{why:?}"))).collect();
            StoreError::from(DialError::of_all(&failures))
        };
        assert!(matches!(all(&[Why::Denied, Why::Away]), StoreError::Unavailable(_)));
        assert!(matches!(all(&[Why::Denied, Why::Unsuitable]), StoreError::Unsuitable(_)));
        assert!(matches!(all(&[Why::Denied]), StoreError::Denied(text) if text == "Denied"));
        assert!(matches!(all(&[Why::NotPrimary, Why::NotPrimary]),
            StoreError::Unavailable(text) if text.starts_with("no host takes writes: NotPrimary; NotPrimary")));
    }

    #[test]
    fn the_remedy_for_a_wrong_password_names_where_it_came_from() {
        let settings = super::super::PgSettings::from_url("postgres://me:secret@[::1]/app");
        let target = Target::of(&settings).expect("well-formed");
        let remedy = |source| {
            let (why, remedy) = refusal("28P01", "no", &target.hosts[0], &target, &source);
            assert_eq!(why, Why::Denied);
            remedy
        };
        assert_eq!(remedy(PasswordSource::Field("PGPASSWORD".to_owned())), ": correct PGPASSWORD");
        let nowhere = remedy(PasswordSource::Nowhere(Some("/home/me/.pgpass".into())));
        assert!(nowhere.contains(r"\:\:1:5432:app:me:<password> into /home/me/.pgpass"), "{nowhere}");
        assert!(!nowhere.contains("secret"));
    }

    #[test]
    fn poolers_and_full_servers_are_told_apart() {
        let target = Target::of(&super::super::PgSettings::from_url("host=a user=me")).expect("well-formed");
        let why = |code, message| refusal(code, message, &target.hosts[0], &target, &PasswordSource::Nowhere(None)).0;
        assert_eq!(why("08P01", "unsupported startup parameter: options"), Why::Unsuitable);
        assert_eq!(why("08P01", "no more connections allowed (max_client_conn)"), Why::Away);
        assert_eq!(why("53300", "sorry, too many clients already"), Why::Away);
        assert_eq!(why("57P03", "the database system is starting up"), Why::Away);
    }

    #[test]
    fn who_sets_a_limit_of_connections_is_told_apart() {
        let target = Target::of(&super::super::PgSettings::from_url("host=a user=me dbname=app")).expect("well-formed");
        let remedy = |message| refusal("53300", message, &target.hosts[0], &target, &PasswordSource::Nowhere(None)).1;
        assert!(remedy("sorry, too many clients already").contains("max_connections"));
        assert!(remedy("remaining connection slots are reserved").contains("max_connections"));
        assert!(
            remedy("too many connections for database \"app\"").contains("ALTER DATABASE \"app\" CONNECTION LIMIT")
        );
        assert!(remedy("too many connections for role \"me\"").contains("ALTER ROLE \"me\" CONNECTION LIMIT"));
    }
}
