//! Public host names on the HTTPS listener: a browser's way to a tunnel's ingress rules.
//!
//! A client that asks for a public host name in TLS is shown that name's certificate, and its requests go through the
//! name's tunnel ([`request`]): HTTP/1.1, HTTP/2, and WebSockets over either. [`Hostnames`] knows the names that have been
//! asked for, with their certificates, which it has made on demand.
//!
//! What always holds: a connection serves the name that it was made for and no other; a name that nobody has registered
//! gets nothing; what a client says in headers that are the edge's is removed before anything else ([`headers`]); a name
//! that is removed loses what it has open. Who the client is, nobody asks here yet: a public host name is public.

mod answer;
mod connection;
mod headers;
mod recording;
mod request;
mod upgrade;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use adit_model::{AccountId, PublicHostname};
use adit_policy::Snapshot;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio_util::sync::CancellationToken;

pub(crate) use connection::serve;

use crate::config::Certificates;

/// A public host name that is served.
#[derive(Debug)]
pub(crate) struct Served {
    name: PublicHostname,
    account: AccountId,
    certificate: Arc<CertifiedKey>,
    made: Instant,
    /// Cancelled when the name is removed.
    removed: CancellationToken,
}

/// The public host names that have been asked for. Only registered names get in.
#[derive(Debug)]
pub(crate) struct Hostnames {
    certificates: Arc<dyn Certificates>,
    served: Mutex<HashMap<PublicHostname, Arc<Served>>>,
}

impl Hostnames {
    pub(crate) fn new(certificates: Arc<dyn Certificates>) -> Self {
        Self { certificates, served: Mutex::default() }
    }

    /// The host name that a client asks for, if it is one.
    pub(crate) fn find(&self, snapshot: &Snapshot, asked: &str) -> Option<Arc<Served>> {
        let hostname = snapshot.hostname(asked).filter(|found| !is_internal(&found.hostname))?;
        let known = self.lock().get(&hostname.hostname).cloned();
        let known = known.filter(|known| known.account == hostname.account);
        if let Some(known) = &known
            && known.made.elapsed() < CERTIFICATE_AGE
        {
            return Some(Arc::clone(known));
        }
        let certificate = self.certificates.certificate(&hostname.hostname)?;
        let certificate = certificate
            .certified()
            .inspect_err(
                |error| tracing::warn!(hostname = %hostname.hostname, error = %error, "no certificate"),
            )
            .ok()?;
        let served = Arc::new(Served {
            name: hostname.hostname.clone(),
            account: hostname.account,
            certificate: Arc::new(certificate),
            made: Instant::now(),
            removed: known.map(|known| known.removed.clone()).unwrap_or_default(),
        });
        self.keep(Arc::clone(&served)).then_some(served)
    }

    /// Ends what is open of names that are gone or another account's.
    pub(crate) fn cut_removed(&self, snapshot: &Snapshot) {
        self.lock().retain(|name, served| {
            let there = snapshot.hostname(name.as_str()).is_some_and(|found| found.account == served.account);
            if !there {
                served.removed.cancel();
            }
            there
        });
    }

    /// Makes room by forgetting a name that nobody is connected to. Whether there was room.
    fn keep(&self, served: Arc<Served>) -> bool {
        let mut names = self.lock();
        if names.len() >= MAX_NAMES && !names.contains_key(&served.name) {
            let idle = names.iter().find(|(_, served)| Arc::strong_count(served) == 1);
            let Some(idle) = idle.map(|(name, _)| name.clone()) else {
                tracing::warn!(hostname = %served.name, "too many public host names are in use at once");
                return false;
            };
            names.remove(&idle);
        }
        names.insert(served.name.clone(), served);
        true
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<PublicHostname, Arc<Served>>> {
        self.served.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The handshake shows what [`Hostnames::find`] has found before it.
impl ResolvesServerCert for Hostnames {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name: PublicHostname = hello.server_name()?.parse().ok()?;
        self.lock().get(&name).map(|served| Arc::clone(&served.certificate))
    }
}

/// Connectors answer this name themselves, and not to clients (tunnel protocol, 6.2).
fn is_internal(name: &PublicHostname) -> bool {
    name.as_str() == "management.argotunnel.com"
}

/// Names remembered at once, each with a certificate of about 2 KiB.
const MAX_NAMES: usize = 10_000;
/// After which a name's certificate is asked for anew: a supplied one may have been replaced, and made ones do not last
/// for ever.
const CERTIFICATE_AGE: Duration = Duration::from_hours(24);

#[cfg(test)]
mod tests {
    use super::*;
    use adit_model::{Change, ChangeBatch, Hostname, SecretHash, Tunnel, TunnelId};
    use adit_policy::State;
    use adit_transport::tls::Identity;
    use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use uuid::Uuid;

    /// Makes a certificate for every name, and counts them.
    #[derive(Debug, Default)]
    struct Made(AtomicUsize);

    impl Certificates for Made {
        fn certificate(&self, hostname: &PublicHostname) -> Option<Identity> {
            self.0.fetch_add(1, Ordering::Relaxed);
            let key = rcgen::KeyPair::generate().unwrap();
            let params = rcgen::CertificateParams::new([hostname.to_string()]).unwrap();
            let certificate = params.self_signed(&key).unwrap();
            let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
            Some(Identity::new(vec![certificate.der().clone()], key))
        }
    }

    fn state(names: &[&str]) -> (State, AccountId) {
        let account = AccountId::from_bytes([1; 16]);
        let tunnel = TunnelId::from_uuid(Uuid::from_u128(2));
        let secret = SecretHash::from_bytes([0; 32]);
        let tunnel_put = Tunnel { id: tunnel, account, name: "web".into(), secret, remotely_managed: false };
        let mut changes = vec![Change::TunnelPut(tunnel_put)];
        changes.extend(
            names.iter().map(|name| {
                Change::HostnamePut(Hostname { hostname: name.parse().unwrap(), account, tunnel })
            }),
        );
        let mut state = State::default();
        state.apply(ChangeBatch { number: 1, changes });
        (state, account)
    }

    #[test]
    fn a_certificate_is_made_once_for_a_registered_name_and_never_for_another() {
        let made = Arc::new(Made::default());
        let hostnames = Hostnames::new(Arc::<Made>::clone(&made));
        let snapshot = state(&["app.example.com", "management.argotunnel.com"]).0.snapshot();
        for asked in ["app.example.com", "APP.example.com.", "app.example.com"] {
            assert_eq!(hostnames.find(&snapshot, asked).unwrap().name.as_str(), "app.example.com");
        }
        for asked in ["other.example.com", "example.com", "", "management.argotunnel.com", "192.0.2.1"] {
            assert!(hostnames.find(&snapshot, asked).is_none(), "{asked}");
        }
        assert_eq!(made.0.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_removed_name_loses_what_it_has_open_and_others_do_not() {
        let hostnames = Hostnames::new(Arc::new(Made::default()));
        let (mut state, _) = state(&["a.example.com", "b.example.com"]);
        let [a, b] =
            ["a.example.com", "b.example.com"].map(|name| hostnames.find(&state.snapshot(), name).unwrap());
        let hostname = "a.example.com".parse().unwrap();
        state.apply(ChangeBatch { number: 2, changes: vec![Change::HostnameRemoved { hostname }] });
        hostnames.cut_removed(&state.snapshot());
        assert!(a.removed.is_cancelled() && !b.removed.is_cancelled());
        assert!(hostnames.find(&state.snapshot(), "a.example.com").is_none());
    }
}
