//! The authorities of accounts by which TLS is opened, in memory while an edge runs here.
//!
//! An edge asks for certificates in the middle of a handshake, so that keys are read from the store before it is told that
//! an account's TLS is to be opened. An account whose key is not here gets no certificate, and its TLS does not pass.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use adit_control::inspection::{authority, authority_params};
use adit_edge::InspectionAuthorities;
use adit_model::{AccountId, Change, ChangeBatch};
use adit_store::Store;
use adit_transport::tls::{self, Identity};
use anyhow::Context;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use time::{Duration, OffsetDateTime};

/// The authorities that are known here.
pub(crate) struct Authorities {
    store: Store,
    roots: Arc<RootCertStore>,
    known: Mutex<HashMap<AccountId, Arc<AccountAuthority>>>,
}

struct AccountAuthority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

impl Authorities {
    /// Authorities of the accounts of this store; origins are trusted by the system's roots and those in `roots`, as PEM.
    pub(crate) fn new(store: Store, roots: &[Vec<u8>]) -> anyhow::Result<Self> {
        let mut trusted = tls::system_roots().unwrap_or_else(|error| {
            tracing::warn!(%error, "origins are trusted by no root of the system");
            RootCertStore::empty()
        });
        for pem in roots {
            let added = tls::roots_from_pem(pem).context("--origin-roots")?;
            trusted.extend(added.roots);
        }
        Ok(Self { store, roots: Arc::new(trusted), known: Mutex::default() })
    }

    /// Reads the keys of accounts whose TLS is to be opened from this batch on. What cannot be read is said, and tried
    /// again with the account's next change.
    pub(crate) async fn prepare(&self, batch: &ChangeBatch) {
        for change in &batch.changes {
            let Change::GatewaySettingsPut(settings) = change else { continue };
            if !settings.tls_decrypt || self.lock().contains_key(&settings.account) {
                continue;
            }
            if let Err(error) = self.read(settings.account).await {
                tracing::error!(account = %settings.account, error = format!("{error:#}"), "TLS cannot be opened");
            }
        }
    }

    async fn read(&self, account: AccountId) -> anyhow::Result<()> {
        let row = authority(&self.store, account).await?;
        let key = KeyPair::from_pem(&row.key).context("the authority's key in the database is damaged")?;
        let certificate = CertificateDer::from_pem_slice(row.certificate.as_bytes())
            .context("the authority's certificate in the database is damaged")?;
        let issuer = Issuer::new(authority_params(account), key);
        self.lock().insert(account, Arc::new(AccountAuthority { issuer, certificate }));
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<AccountId, Arc<AccountAuthority>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl InspectionAuthorities for Authorities {
    fn leaf(&self, account: AccountId, name: &str) -> Option<Identity> {
        let authority = self.lock().get(&account).map(Arc::clone)?;
        sign(&authority, name)
            .inspect_err(
                |error| tracing::warn!(%account, name, error = format!("{error:#}"), "no certificate"),
            )
            .ok()
    }

    fn roots(&self) -> Arc<RootCertStore> {
        Arc::clone(&self.roots)
    }
}

/// No account's keys: a node of its own gets none yet. What would be opened does not pass there.
#[derive(Debug)]
pub(crate) struct NoAuthorities;

impl InspectionAuthorities for NoAuthorities {
    fn leaf(&self, account: AccountId, _name: &str) -> Option<Identity> {
        tracing::warn!(%account, "TLS cannot be opened on this node, and does not pass");
        None
    }

    fn roots(&self) -> Arc<RootCertStore> {
        Arc::new(RootCertStore::empty())
    }
}

fn sign(authority: &AccountAuthority, name: &str) -> anyhow::Result<Identity> {
    let mut params = CertificateParams::new([name.to_owned()])?;
    params
        .distinguished_name
        .push(DnType::CommonName, name.chars().take(MAX_COMMON_NAME).collect::<String>());
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    let now = OffsetDateTime::now_utc();
    (params.not_before, params.not_after) = (now - Duration::hours(1), now + LEAF);
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, &authority.issuer)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    Ok(Identity::new(vec![certificate.der().clone(), authority.certificate.clone()], key))
}

impl fmt::Debug for Authorities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authorities").field("known", &self.lock().len()).finish_non_exhaustive()
    }
}

/// How long a certificate is good (Gateway semantics, 3.2).
const LEAF: Duration = Duration::days(7);
/// Longest common name (X.520); clients look at the alternative names.
const MAX_COMMON_NAME: usize = 64;
