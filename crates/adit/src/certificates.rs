//! The certificates of public host names: supplied ones where they name the host, else the authority's.
//!
//! Files are read again whenever a certificate is asked for, which edges do once a day, so that a renewed one needs no
//! restart. One that has become unreadable costs a warning, and the one from before is shown.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use adit_edge::Certificates;
use adit_model::PublicHostname;
use adit_transport::tls::Identity;
use anyhow::{Context, bail};

use crate::authority::Authority;

/// Gives certificates to the edge.
pub(crate) struct HostCertificates {
    authority: Arc<Authority>,
    supplied: Vec<Supplied>,
}

/// A certificate of somebody else's authority, in files.
#[derive(Debug)]
pub(crate) struct Supplied {
    certificate: PathBuf,
    key: PathBuf,
    /// The texts as they were last read, and could be used.
    last: Mutex<(Vec<u8>, Vec<u8>)>,
}

impl HostCertificates {
    pub(crate) fn new(authority: Arc<Authority>, supplied: Vec<Supplied>) -> Self {
        Self { authority, supplied }
    }
}

impl Certificates for HostCertificates {
    fn certificate(&self, hostname: &PublicHostname) -> Option<Identity> {
        if let Some(identity) =
            self.supplied.iter().map(Supplied::identity).find(|identity| identity.is_for(hostname.as_str()))
        {
            return Some(identity);
        }
        self.authority
            .identity(&[hostname.to_string()])
            .inspect_err(|error| {
                tracing::warn!(hostname = %hostname, error = format!("{error:#}"), "no certificate can be made");
            })
            .ok()
    }
}

impl fmt::Debug for HostCertificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostCertificates").field("supplied", &self.supplied.len()).finish_non_exhaustive()
    }
}

impl Supplied {
    /// Reads a certificate and its key once, so that what is wrong with them is known at the start.
    pub(crate) fn open((certificate, key): (PathBuf, PathBuf)) -> anyhow::Result<Self> {
        let last = Mutex::new(read(&certificate, &key)?);
        Ok(Self { certificate, key, last })
    }

    /// The certificate as the files have it now.
    pub(crate) fn identity(&self) -> Identity {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match read(&self.certificate, &self.key) {
            Ok(texts) => *last = texts,
            Err(error) => tracing::warn!(error = format!("{error:#}"), "showing the certificate from before"),
        }
        Identity::from_pem(&last.0, &last.1).expect("read() has made one of the same texts")
    }
}

/// The texts of a certificate and its key that belong together.
fn read(certificate: &Path, key: &Path) -> anyhow::Result<(Vec<u8>, Vec<u8>)> {
    let text = |name: &str, path: &Path| {
        std::fs::read(path).with_context(|| format!("{name}: cannot read {}", path.display()))
    };
    let texts = (text("certificate", certificate)?, text("certificate-key", key)?);
    let usable = Identity::from_pem(&texts.0, &texts.1).and_then(|identity| identity.certified());
    match usable {
        Ok(_) => Ok(texts),
        Err(error) => {
            let cause =
                std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
            bail!("certificate: {} with {}: {error}{cause}", certificate.display(), key.display())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(names: &[&str]) -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let names = names.iter().map(ToString::to_string).collect::<Vec<_>>();
        let certificate = rcgen::CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    fn write(directory: &Path, name: &str, (certificate, key): &(String, String)) -> (PathBuf, PathBuf) {
        let paths = (directory.join(format!("{name}.pem")), directory.join(format!("{name}-key.pem")));
        std::fs::write(&paths.0, certificate).unwrap();
        std::fs::write(&paths.1, key).unwrap();
        paths
    }

    #[test]
    fn a_supplied_certificate_is_shown_for_the_names_that_it_names_and_no_others() {
        let directory = tempfile::tempdir().unwrap();
        let paths = write(directory.path(), "wild", &made(&["*.example.com", "example.org"]));
        let supplied = Supplied::open(paths).unwrap();
        for name in ["app.example.com", "example.org"] {
            assert!(supplied.identity().is_for(name), "{name}");
        }
        for name in ["example.com", "a.b.example.com", "app.example.org"] {
            assert!(!supplied.identity().is_for(name), "{name}");
        }
    }

    #[test]
    fn a_renewed_certificate_is_shown_and_a_broken_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let supplied = Supplied::open(write(directory.path(), "a", &made(&["a.example.com"]))).unwrap();
        write(directory.path(), "a", &made(&["b.example.com"]));
        assert!(supplied.identity().is_for("b.example.com"));
        // A certificate whose key is still the old one.
        std::fs::write(&supplied.certificate, made(&["c.example.com"]).0).unwrap();
        assert!(supplied.identity().is_for("b.example.com"));
        std::fs::remove_file(&supplied.key).unwrap();
        assert!(supplied.identity().is_for("b.example.com"));
    }

    #[test]
    fn what_is_wrong_with_a_file_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let (certificate, key) = write(directory.path(), "a", &made(&["a.example.com"]));
        let error = |certificate: &Path, key: &Path| format!("{:#}", read(certificate, key).unwrap_err());
        let absent = directory.path().join("absent.pem");
        assert!(error(&absent, &key).starts_with("certificate: cannot read"));
        assert!(error(&certificate, &absent).starts_with("certificate-key: cannot read"));
        assert!(error(&key, &key).contains("expected PEM with CERTIFICATE blocks"));
        assert!(error(&certificate, &certificate).contains("expected PEM with a PRIVATE KEY block"));
    }
}
