//! The authorities of an account by which its devices' TLS is opened: the built-in one, made when it is first needed, and
//! those that the account made or uploaded beside it (Gateway semantics, 3.2). Their keys are kept sealed.
//!
//! Each signs certificates for inspection and nothing else, and no other account's: to trust an edge is not to trust its
//! inspection.

mod node;
mod upload;

use adit_model::{AccountId, CertificateId};
use adit_store::{Actor, Fault, FindError, InspectionAuthorityRow, Store};
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyPair, KeyUsagePurpose};
use time::{Duration, OffsetDateTime};
use zeroize::Zeroizing;

pub use self::node::{EndorsedKey, NodeAuthorityError, RENEWED_BEFORE, endorse, endorsed, sign_node};
pub use self::upload::{Described, Unusable, check, describe};
pub(crate) use self::upload::{describe_all, fuzz, pem_of};

/// An authority could not be made or found.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The cryptography failed.
    #[error("a certificate cannot be made")]
    Certificate(#[from] rcgen::Error),
    /// The account has none with that id.
    #[error("the account has no such certificate")]
    NotFound,
    /// The store failed.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// An authority: who signs.
#[derive(Debug)]
pub struct Authority {
    /// Its certificate, as PEM: what devices are to trust.
    pub certificate: String,
    /// Its key, as PEM.
    pub key: Zeroizing<String>,
}

/// One of the account's authorities, with its key.
///
/// # Errors
/// There is none with that id, or it cannot be read.
pub async fn authority(
    store: &Store,
    account: AccountId,
    id: CertificateId,
) -> Result<Authority, AuthorityError> {
    if id == CertificateId::BUILT_IN {
        let InspectionAuthorityRow { certificate, key, .. } = built_in(store, account).await?;
        return Ok(Authority { certificate, key });
    }
    match store.certificate_key(account, id).await {
        Ok((certificate, key)) => Ok(Authority { certificate, key }),
        Err(FindError::NotFound) => Err(AuthorityError::NotFound),
        Err(FindError::Fault(fault)) => Err(fault.into()),
    }
}

/// The account's built-in authority, made the first time.
///
/// # Errors
/// It cannot be made or read.
pub async fn built_in(store: &Store, account: AccountId) -> Result<InspectionAuthorityRow, AuthorityError> {
    if let Some(row) = store.inspection_authority_fetch(account).await? {
        return Ok(row);
    }
    let made = make(account, VALIDITY_DAYS)?;
    Ok(store.inspection_authority_create(&Actor::system(), account, &made.certificate, &made.key).await?)
}

/// Makes an authority that is good for so many days.
///
/// # Errors
/// The cryptography failed.
pub fn make(account: AccountId, validity_days: u16) -> Result<Authority, rcgen::Error> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, format!("adit account {account}"));
    params.distinguished_name.push(DnType::CommonName, "adit inspection authority");
    // One below it: what an edge node signs with.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let now = OffsetDateTime::now_utc();
    // From an hour ago, so that a device whose clock is behind is served too.
    (params.not_before, params.not_after) =
        (now - Duration::hours(1), now + Duration::days(validity_days.into()));
    let certificate = params.self_signed(&key)?.pem();
    Ok(Authority { certificate, key: Zeroizing::new(key.serialize_pem()) })
}

/// How long an authority is good if nothing else is said, in days: devices trust it because somebody has put it there.
pub const VALIDITY_DAYS: u16 = 1825;
