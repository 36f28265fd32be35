//! How a connection is encrypted, and whom it trusts.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rustls::{
    Error as TlsError,
    crypto::aws_lc_rs::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    sign::CertifiedKey,
};
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
            Some((certificate, key)) => {
                let (chain, secret) = (certificates(certificate)?, private_key(key)?);
                check_pair((certificate, &chain), (key, &secret))?;
                Some((chain, secret))
            }
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

/// Whether one can log in with this certificate and key. Without this, it would only be found when the first server asks
/// for them, and look like the server's fault.
fn check_pair(certificate: (&Word, &[u8]), key: (&Word, &[u8])) -> Result<(), SettingsError> {
    let ((certificate, chain), (key, secret)) = (certificate, key);
    let chain = CertificateDer::pem_slice_iter(chain).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|_| no_pem(certificate, "certificate"))?;
    let secret = PrivateKeyDer::from_pem_slice(secret).map_err(|_| no_pem(key, "private key"))?;
    let unusable = |word: &Word, problem: String| SettingsError::Unusable {
        field: word.field.clone(),
        path: PathBuf::from(&word.value),
        problem,
    };
    match CertifiedKey::from_der(chain, secret, &default_provider()) {
        Ok(_) => Ok(()),
        Err(TlsError::InconsistentKeys(_)) => Err(SettingsError::Pair {
            certificate: certificate.field.clone(),
            certificate_path: PathBuf::from(&certificate.value),
            key: key.field.clone(),
            key_path: PathBuf::from(&key.value),
        }),
        Err(TlsError::InvalidCertificate(error)) => {
            // It has no words of its own for the version, which is what old tools get wrong.
            let problem = if format!("{error:?}").contains("UnsupportedCertVersion") {
                "it is no X.509 certificate of version 3: make one with extensions (openssl x509 -extfile)".to_owned()
            } else {
                format!("{error}; make another")
            };
            Err(unusable(certificate, problem))
        }
        Err(error) => Err(unusable(key, format!("{error}; make another, such as of the kind ECDSA P-256"))),
    }
}

fn read(word: &Word) -> Result<Vec<u8>, SettingsError> {
    let path = Path::new(&word.value);
    fs::read(path).map_err(|source| SettingsError::File { field: word.field.clone(), path: path.to_owned(), source })
}

fn no_pem(word: &Word, expected: &'static str) -> SettingsError {
    SettingsError::Pem { field: word.field.clone(), path: PathBuf::from(&word.value), expected }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A certificate of version 1, as `openssl x509 -req` makes one without extensions, and its key. Nobody trusts it.
    const OLD_CERTIFICATE: &str = "\
-----BEGIN CERTIFICATE-----
MIIBHDCBwwIUapLZPmtpwEyzzOBRb7ZpJrX7K2wwCgYIKoZIzj0EAwIwEDEOMAwG
A1UEAwwFcXVldWUwIBcNMjYxMTI1MDk1MzQ5WhgPMjEyNjExMDEwOTUzNDlaMBAx
DjAMBgNVBAMMBXF1ZXVlMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE2YS3Jhyu
xjKkcOFxe1OzfYnhJGWVNyGcvU4cg0227tGk3cWbcsuwCnptz7UlZJI2ncC2KJxA
fA/ygr8GEN6QhjAKBggqhkjOPQQDAgNIADBFAiEA5KVej6zunXdPbU80yxfnHxVo
vmkfqeK/a8bvIP2KBegCIDH05ic1UCqozroG4HA2fFr6dUCXxlahk2wsLANgsKAk
-----END CERTIFICATE-----
";
    const OLD_KEY: &str = "\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgvDPcVtUNAFWPXgu1
L3s3guBDkI7ikDehzn8TctHlAvihRANCAATZhLcmHK7GMqRw4XF7U7N9ieEkZZU3
IZy9ThyDTbbu0aTdxZtyy7AKem3PtSVkkjadwLYonEB8D/KCvwYQ3pCG
-----END PRIVATE KEY-----
";

    #[test]
    fn a_certificate_that_is_too_old_to_log_in_with_is_named_with_its_remedy() {
        let word = |field: &str| Word { field: field.to_owned(), value: "file.pem".to_owned() };
        let (certificate, key) = (word("sslcert"), word("sslkey"));
        let error = check_pair((&certificate, OLD_CERTIFICATE.as_bytes()), (&key, OLD_KEY.as_bytes())).err();
        let said = error.expect("nobody can log in with it").to_string();
        assert!(said.starts_with("sslcert names file.pem") && said.contains("version 3"), "{said}");
    }
}
