//! The authorities of accounts by which TLS is opened, in memory while an edge runs here.
//!
//! An edge asks for certificates in the middle of a handshake, so that keys are read from the store before it is told that
//! an account's TLS is to be opened, or opened by another authority. An account whose key is not here gets no certificate,
//! and its TLS does not pass.

mod node;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use adit_control::inspection::{authority, describe};
use adit_edge::InspectionAuthorities;
use adit_model::{AccountId, CertificateId, Change, ChangeBatch};
use adit_store::Store;
use adit_transport::tls::{self, Identity};
use anyhow::Context;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use time::{Duration, OffsetDateTime};

pub(crate) use self::node::NodeAuthorities;

/// The authorities that are known here.
pub(crate) struct Authorities {
    store: Store,
    roots: Arc<RootCertStore>,
    known: Mutex<Known>,
    /// What could not be read when it was needed.
    missing: Mutex<BTreeMap<AccountId, CertificateId>>,
}

/// Of each account the authority in use, first, and the one before, for flows that were decided before it changed.
type Known = HashMap<AccountId, Vec<(CertificateId, Arc<Signer>)>>;
/// How many of an account's authorities are kept in memory.
const KEPT: usize = 2;

/// Who signs certificates.
struct Signer {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    /// Its end: nothing that it signs is good for longer.
    not_after: OffsetDateTime,
}

impl Authorities {
    /// Authorities of the accounts of this store; origins are trusted by the system's roots and those in `roots`, as PEM.
    pub(crate) fn new(store: Store, roots: &[Vec<u8>]) -> anyhow::Result<Self> {
        let mut trusted = system_roots();
        for pem in roots {
            let added = tls::roots_from_pem(pem).context("--origin-roots")?;
            trusted.extend(added.roots);
        }
        Ok(Self { store, roots: Arc::new(trusted), known: Mutex::default(), missing: Mutex::default() })
    }

    /// Reads the keys of accounts whose TLS is to be opened from this batch on. What cannot be read is said, and left to
    /// [`Self::again`].
    pub(crate) async fn prepare(&self, batch: &ChangeBatch) {
        for change in &batch.changes {
            let Change::GatewaySettingsPut(settings) = change else { continue };
            let (account, certificate) = (settings.account, settings.certificate);
            self.missing().remove(&account);
            if !settings.tls_decrypt || self.is_known(account, certificate) {
                continue;
            }
            if let Err(error) = self.read(account, certificate).await {
                tracing::error!(%account, %certificate, error = format!("{error:#}"), "TLS cannot be opened");
                self.missing().insert(account, certificate);
            }
        }
    }

    /// Tries again to read what could not be read.
    pub(crate) async fn again(&self) {
        let missing = self.missing().clone();
        for (account, certificate) in missing {
            if self.read(account, certificate).await.is_ok() {
                tracing::info!(%account, %certificate, "TLS can be opened");
                self.missing().remove(&account);
            }
        }
    }

    /// Whether an authority, which is in use from now on, is known.
    fn is_known(&self, account: AccountId, id: CertificateId) -> bool {
        let mut known = self.lock();
        let Some(of_account) = known.get_mut(&account) else { return false };
        let Some(at) = of_account.iter().position(|(known, _)| *known == id) else { return false };
        of_account[..=at].rotate_right(1);
        true
    }

    async fn read(&self, account: AccountId, id: CertificateId) -> anyhow::Result<()> {
        let authority = authority(&self.store, account, id).await?;
        let signer = Signer::new(&authority.certificate, &authority.key)?;
        let mut known = self.lock();
        let of_account = known.entry(account).or_default();
        of_account.insert(0, (id, Arc::new(signer)));
        of_account.truncate(KEPT);
        Ok(())
    }

    fn find(&self, account: AccountId, id: CertificateId) -> Option<Arc<Signer>> {
        let known = self.lock();
        let of_account = known.get(&account)?;
        of_account.iter().find(|(known, _)| *known == id).map(|(_, signer)| Arc::clone(signer))
    }

    fn missing(&self) -> std::sync::MutexGuard<'_, BTreeMap<AccountId, CertificateId>> {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl InspectionAuthorities for Authorities {
    fn leaf(&self, account: AccountId, authority: CertificateId, name: &str) -> Option<Identity> {
        self.find(account, authority)?.leaf(account, name)
    }

    fn roots(&self) -> Arc<RootCertStore> {
        Arc::clone(&self.roots)
    }
}

/// The roots of the system, by which origins are trusted.
fn system_roots() -> RootCertStore {
    tls::system_roots().unwrap_or_else(|error| {
        tracing::warn!(%error, "origins are trusted by no root of the system");
        RootCertStore::empty()
    })
}

impl Signer {
    /// Of an authority's certificate and key, both as PEM.
    fn new(certificate: &str, key: &str) -> anyhow::Result<Self> {
        let described = describe(certificate).context("the authority's certificate is damaged")?;
        let key = KeyPair::from_pem(key).context("the authority's key is damaged")?;
        let certificate = CertificateDer::from(described.der().to_vec());
        let issuer = Issuer::from_ca_cert_der(&certificate, key)?;
        Ok(Self { issuer, certificate, not_after: described.not_after })
    }

    /// A certificate; why there is none is logged.
    fn leaf(&self, account: AccountId, name: &str) -> Option<Identity> {
        let say = |error: &anyhow::Error| {
            tracing::warn!(%account, name, error = format!("{error:#}"), "no certificate");
        };
        self.sign(name).inspect_err(say).ok()
    }

    fn sign(&self, name: &str) -> anyhow::Result<Identity> {
        let now = OffsetDateTime::now_utc();
        anyhow::ensure!(now < self.not_after, "the authority is past its end: choose another");
        let mut params = CertificateParams::new([name.to_owned()])?;
        params
            .distinguished_name
            .push(DnType::CommonName, name.chars().take(MAX_COMMON_NAME).collect::<String>());
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        (params.not_before, params.not_after) = (now - Duration::hours(1), (now + LEAF).min(self.not_after));
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        Ok(Identity::new(vec![certificate.der().clone(), self.certificate.clone()], key))
    }
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
