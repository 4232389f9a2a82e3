//! The authority that signs the names of edges and nothing else, and the certificates that it signs.
//!
//! Its key is a sealed secret of the store; its certificate is `ca.pem` in the data directory. Edge certificates are made
//! anew at every start and live in memory only.

use std::path::Path;

use adit_store::{Actor, Store};
use adit_transport::tls::Identity;
use anyhow::Context;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime};

/// The certificate authority of an installation's edges.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// What is kept of it.
#[derive(Serialize, Deserialize)]
struct Kept {
    key: String,
    certificate: String,
}

impl Authority {
    /// The installation's authority, made the first time.
    pub(crate) async fn open(store: &Store) -> anyhow::Result<Self> {
        let kept = match store.secret_fetch(NAME).await? {
            Some(kept) => kept,
            None => store.secret_create(&Actor::system(), NAME, &serde_json::to_vec(&make()?)?).await?,
        };
        let kept: Kept =
            serde_json::from_slice(&kept).context("the edge authority in the database is damaged")?;
        let key =
            KeyPair::from_pem(&kept.key).context("the edge authority's key in the database is damaged")?;
        Ok(Self { issuer: Issuer::new(params(), key), pem: kept.certificate })
    }

    /// Writes `ca.pem`, if it is not there as it should be.
    pub(crate) fn write_pem(&self, directory: &Path) -> anyhow::Result<()> {
        let path = directory.join("ca.pem");
        if std::fs::read_to_string(&path).is_ok_and(|there| there == self.pem) {
            return Ok(());
        }
        let part = directory.join("ca.pem.new");
        std::fs::write(&part, &self.pem)
            .and_then(|()| std::fs::rename(&part, &path))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// A certificate of these names and addresses.
    pub(crate) fn identity(&self, names: &[String]) -> anyhow::Result<Identity> {
        let key = KeyPair::generate()?;
        let certificate = leaf(names)?.signed_by(&key, &self.issuer)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        Ok(Identity::new(vec![certificate.der().clone()], key))
    }

    /// A certificate of these names for a key that somebody else holds, PEM.
    pub(crate) fn sign(&self, names: &[String], key: &impl rcgen::PublicKeyData) -> anyhow::Result<String> {
        Ok(leaf(names)?.signed_by(key, &self.issuer)?.pem())
    }
}

fn leaf(names: &[String]) -> anyhow::Result<CertificateParams> {
    let mut params =
        CertificateParams::new(names).context("a public host is neither a DNS name nor an address")?;
    params.distinguished_name.push(DnType::CommonName, "adit edge");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    (params.not_before, params.not_after) = validity(Duration::days(LEAF_DAYS));
    Ok(params)
}

fn make() -> anyhow::Result<Kept> {
    let key = KeyPair::generate()?;
    let mut params = params();
    (params.not_before, params.not_after) = validity(Duration::days(AUTHORITY_DAYS));
    let certificate = params.self_signed(&key)?.pem();
    Ok(Kept { key: key.serialize_pem(), certificate })
}

/// The same at every start, since the issuer of a certificate is known by its name and key.
fn params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "adit edge authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// From an hour ago, so that a client whose clock is behind is served too.
fn validity(lasts: Duration) -> (OffsetDateTime, OffsetDateTime) {
    let now = OffsetDateTime::now_utc();
    (now - Duration::hours(1), now + lasts)
}

/// The name of the secret.
const NAME: &str = "edge-authority";
/// As long as browsers accept.
pub(crate) const LEAF_DAYS: i64 = 397;
/// Devices and connectors hold `ca.pem` in files that people put there.
const AUTHORITY_DAYS: i64 = 3650;
