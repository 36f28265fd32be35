//! Certificates, made anew for each run.

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

/// An authority that signs whatever is asked.
pub(super) struct Authority {
    pub(super) certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, in PEM.
pub(super) struct Signed {
    pub(super) certificate: String,
    pub(super) key: String,
}

impl Authority {
    pub(super) fn new(name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = named(name, &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).expect("a certificate").pem();
        Self { certificate, issuer: Issuer::new(params, key) }
    }

    /// Certifies that somebody has this name, and is found under these addresses.
    pub(super) fn sign(&self, name: &str, addresses: &[&str]) -> Signed {
        let key = KeyPair::generate().expect("a key");
        let certificate = named(name, addresses).signed_by(&key, &self.issuer).expect("a certificate");
        Signed { certificate: certificate.pem(), key: key.serialize_pem() }
    }
}

fn named(name: &str, addresses: &[&str]) -> CertificateParams {
    let addresses: Vec<_> = addresses.iter().map(|address| (*address).to_owned()).collect();
    let mut params = CertificateParams::new(addresses).expect("addresses");
    params.distinguished_name.push(DnType::CommonName, name);
    params
}
