//! How a connection is encrypted, and whom it trusts.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use sqlx::postgres::{PgConnectOptions, PgSslMode};

use super::{
    keywords::{Keywords, Word},
    settings::SettingsError,
};

/// The word for the authorities that everybody trusts, as an `sslrootcert`.
const SYSTEM: &str = "system";

/// What is asked of encryption.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SslMode {
    /// Never.
    Disable,
    /// Only if the server insists.
    Allow,
    /// If the server can.
    Prefer,
    /// Always, with whomever it is.
    Require,
    /// With a certificate of somebody who is trusted.
    VerifyCa,
    /// With a certificate for this very name.
    VerifyFull,
}

/// All of it together.
#[derive(Clone, Debug)]
pub(super) struct Tls {
    mode: SslMode,
    root: Option<Word>,
    /// Certificate and key.
    client: Option<(Word, Word)>,
}

impl Tls {
    /// Checks that the words fit together, and that the files can be read.
    pub(super) fn of(said: &Keywords) -> Result<Self, SettingsError> {
        let mut root = said.get("sslrootcert").cloned();
        let system = root.take_if(|root| root.value == SYSTEM);
        let mode = match said.get("sslmode") {
            Some(word) => match (mode(word)?, &root) {
                // As libpq does it: who names an authority wants it to be asked.
                (SslMode::Require, Some(_)) => SslMode::VerifyCa,
                (SslMode::VerifyCa, None) => {
                    return Err(word.malformed("verify-full, unless sslrootcert names your own authority"));
                }
                (mode, _) => mode,
            },
            None if system.is_some() => SslMode::VerifyFull,
            None => SslMode::Prefer,
        };
        // With anybody as an authority, only the name tells one server from another.
        if let Some(system) = system
            && mode != SslMode::VerifyFull
        {
            return Err(system.malformed("the file of an authority of your own, or sslmode must be verify-full"));
        }
        let client = match (said.get("sslcert"), said.get("sslkey")) {
            (Some(certificate), Some(key)) => Some((certificate.clone(), key.clone())),
            (None, None) => None,
            (Some(word), None) => {
                let remedy = "name the file of its key";
                return Err(SettingsError::Alone { field: word.field.clone(), missing: "sslkey", remedy });
            }
            (None, Some(word)) => {
                let remedy = "name the file of its certificate";
                return Err(SettingsError::Alone { field: word.field.clone(), missing: "sslcert", remedy });
            }
        };
        let tls = Self { mode, root, client };
        tls.files()?;
        Ok(tls)
    }

    /// What is asked for.
    pub(super) fn mode(&self) -> SslMode {
        self.mode
    }

    /// What is tried in turn, each once the one before was refused for want, or for too much, of encryption.
    pub(super) fn tries(&self) -> &'static [PgSslMode] {
        match self.mode {
            SslMode::Disable => &[PgSslMode::Disable],
            SslMode::Allow => &[PgSslMode::Disable, PgSslMode::Require],
            SslMode::Prefer => &[PgSslMode::Prefer, PgSslMode::Disable],
            SslMode::Require => &[PgSslMode::Require],
            SslMode::VerifyCa => &[PgSslMode::VerifyCa],
            SslMode::VerifyFull => &[PgSslMode::VerifyFull],
        }
    }

    /// Sets the files as they are now: certificates are renewed while brokers run.
    pub(super) fn apply(&self, mut options: PgConnectOptions) -> Result<PgConnectOptions, SettingsError> {
        let files = self.files()?;
        // None at all instead of what sqlx would take from the environment.
        options = options.ssl_root_cert_from_pem(files.root.unwrap_or_default());
        if let Some((certificate, key)) = files.client {
            options = options.ssl_client_cert_from_pem(certificate).ssl_client_key_from_pem(key);
        }
        Ok(options)
    }

    fn files(&self) -> Result<Files, SettingsError> {
        let root = self.root.as_ref().map(certificates).transpose()?;
        let client = match &self.client {
            Some((certificate, key)) => Some((certificates(certificate)?, private_key(key)?)),
            None => None,
        };
        Ok(Files { root, client })
    }
}

/// What the files hold.
struct Files {
    root: Option<Vec<u8>>,
    client: Option<(Vec<u8>, Vec<u8>)>,
}

fn mode(word: &Word) -> Result<SslMode, SettingsError> {
    Ok(match word.value.as_str() {
        "disable" => SslMode::Disable,
        "allow" => SslMode::Allow,
        "prefer" => SslMode::Prefer,
        "require" => SslMode::Require,
        "verify-ca" => SslMode::VerifyCa,
        "verify-full" => SslMode::VerifyFull,
        _ => return Err(word.malformed("disable, allow, prefer, require, verify-ca or verify-full")),
    })
}

fn certificates(word: &Word) -> Result<Vec<u8>, SettingsError> {
    let pem = read(word)?;
    let mut found = CertificateDer::pem_slice_iter(&pem).peekable();
    if found.peek().is_none() || found.any(|certificate| certificate.is_err()) {
        return Err(no_pem(word, "certificate"));
    }
    Ok(pem)
}

fn private_key(word: &Word) -> Result<Vec<u8>, SettingsError> {
    let pem = read(word)?;
    match PrivateKeyDer::from_pem_slice(&pem) {
        Ok(_) => Ok(pem),
        Err(_) => Err(no_pem(word, "private key without a passphrase")),
    }
}

fn read(word: &Word) -> Result<Vec<u8>, SettingsError> {
    let path = Path::new(&word.value);
    fs::read(path).map_err(|source| SettingsError::File { field: word.field.clone(), path: path.to_owned(), source })
}

fn no_pem(word: &Word, expected: &'static str) -> SettingsError {
    SettingsError::Pem { field: word.field.clone(), path: PathBuf::from(&word.value), expected }
}
