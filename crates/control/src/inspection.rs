//! The authority of an account by which its devices' TLS is opened: made when it is first needed, kept sealed.
//!
//! It signs certificates for inspection and nothing else, and no other account's: to trust an edge is not to trust its
//! inspection.

use adit_model::AccountId;
use adit_store::{Actor, Fault, InspectionAuthorityRow, Store};
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyPair, KeyUsagePurpose};
use time::{Duration, OffsetDateTime};

/// An authority could not be made or found.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The cryptography failed.
    #[error("a certificate cannot be made")]
    Certificate(#[from] rcgen::Error),
    /// The store failed.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// The account's authority, made the first time.
pub async fn authority(store: &Store, account: AccountId) -> Result<InspectionAuthorityRow, AuthorityError> {
    if let Some(row) = store.inspection_authority_fetch(account).await? {
        return Ok(row);
    }
    let key = KeyPair::generate()?;
    let mut params = authority_params(account);
    let now = OffsetDateTime::now_utc();
    // From an hour ago, so that a device whose clock is behind is served too.
    (params.not_before, params.not_after) = (now - Duration::hours(1), now + VALIDITY);
    let certificate = params.self_signed(&key)?.pem();
    Ok(store
        .inspection_authority_create(&Actor::system(), account, &certificate, &key.serialize_pem())
        .await?)
}

/// What the authority's certificate says, the same whenever it signs: an issuer is known by its name and key.
pub fn authority_params(account: AccountId) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, format!("adit account {account}"));
    params.distinguished_name.push(DnType::CommonName, "adit inspection authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// How long an authority is good: devices trust it because somebody has put it there.
pub const VALIDITY: Duration = Duration::days(1825);
