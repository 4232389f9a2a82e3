//! The certificates that are shown to clients whose TLS is opened, made on demand and kept for a day.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use adit_model::{AccountId, CertificateId};
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;

use crate::config::InspectionAuthorities;

/// Certificates by account, authority and name: what another authority has signed is not shown any more.
#[derive(Debug)]
pub(crate) struct Leaves {
    authorities: Arc<dyn InspectionAuthorities>,
    provider: Arc<CryptoProvider>,
    kept: Mutex<HashMap<Key, Kept>>,
}

type Key = (AccountId, CertificateId, String);

#[derive(Debug)]
struct Kept {
    leaf: Arc<CertifiedKey>,
    made: Instant,
}

impl Leaves {
    pub(crate) fn new(authorities: Arc<dyn InspectionAuthorities>) -> Self {
        Self { authorities, provider: adit_transport::tls::provider(), kept: Mutex::default() }
    }

    pub(crate) fn provider(&self) -> Arc<CryptoProvider> {
        Arc::clone(&self.provider)
    }

    /// Whom origins are trusted by.
    pub(crate) fn roots(&self) -> Arc<RootCertStore> {
        self.authorities.roots()
    }

    /// The certificate for a name or an address, on behalf of an account.
    pub(crate) fn leaf(
        &self,
        account: AccountId,
        authority: CertificateId,
        name: &str,
    ) -> Option<Arc<CertifiedKey>> {
        let key = (account, authority, name.to_owned());
        let known = self
            .lock()
            .get(&key)
            .filter(|kept| kept.made.elapsed() < KEPT)
            .map(|kept| Arc::clone(&kept.leaf));
        if known.is_some() {
            return known;
        }
        let identity = self.authorities.leaf(account, authority, name)?;
        let leaf = identity
            .certified()
            .inspect_err(
                |error| tracing::warn!(%account, name, error = %error, "no certificate for inspection"),
            )
            .ok()?;
        let leaf = Arc::new(leaf);
        let mut kept = self.lock();
        if kept.len() >= MAX_KEPT {
            // Whoever asks for names without end pays with a signature each, not with our memory.
            kept.clear();
        }
        kept.insert(key, Kept { leaf: Arc::clone(&leaf), made: Instant::now() });
        Some(leaf)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long a certificate is shown: it is valid for longer.
const KEPT: Duration = Duration::from_hours(24);
/// Certificates kept at once, each of about 2 KiB.
const MAX_KEPT: usize = 10_000;
