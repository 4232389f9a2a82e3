//! Public host names on the HTTPS listener: a browser's way to a tunnel's ingress rules.
//!
//! A client that asks for a public host name in TLS is shown that name's certificate, and its requests go through the
//! name's tunnel ([`request`]): HTTP/1.1, HTTP/2, and WebSockets over either. [`Hostnames`] knows the names that have been
//! asked for, with their certificates, which it has made on demand.
//!
//! Beside them are the hosts of DNS locations, which the edge answers itself ([`crate::dns`]).
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

use adit_model::{AccountId, LocationId, PublicHostname};
use adit_policy::Snapshot;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio_util::sync::CancellationToken;

pub(crate) use answer::{Body, page, whole};
pub(crate) use connection::serve;

use crate::config::Certificates;

/// A public host name that is served.
#[derive(Debug)]
pub(crate) struct Served {
    name: PublicHostname,
    account: AccountId,
    /// The DNS location whose host it is; else it leads to a tunnel.
    location: Option<LocationId>,
    certificate: Arc<CertifiedKey>,
    made: Instant,
    /// Cancelled when the name is removed.
    removed: CancellationToken,
}

/// The public host names that have been asked for. Only registered names get in.
#[derive(Debug)]
pub(crate) struct Hostnames {
    certificates: Arc<dyn Certificates>,
    /// The domain whose hosts are DNS locations.
    dns_domain: String,
    served: Mutex<HashMap<PublicHostname, Arc<Served>>>,
}

/// Whose a host name is, and what it leads to.
#[derive(Debug, PartialEq, Eq)]
struct Known {
    name: PublicHostname,
    account: AccountId,
    location: Option<LocationId>,
}

impl Served {
    /// The DNS location whose host it is.
    pub(crate) fn location(&self) -> Option<LocationId> {
        self.location
    }

    /// Cancelled when the name is removed.
    pub(crate) fn removed(&self) -> &CancellationToken {
        &self.removed
    }

    fn is(&self, known: &Known) -> bool {
        (self.account, self.location) == (known.account, known.location)
    }
}

impl Hostnames {
    pub(crate) fn new(certificates: Arc<dyn Certificates>, dns_domain: String) -> Self {
        Self { certificates, dns_domain, served: Mutex::default() }
    }

    /// What a name is. In the domain of DNS locations there are no others.
    fn look(&self, snapshot: &Snapshot, asked: &str) -> Option<Known> {
        let name: PublicHostname = asked.parse().ok()?;
        let label =
            name.as_str().strip_suffix(self.dns_domain.as_str()).and_then(|rest| rest.strip_suffix('.'));
        if let Some(label) = label {
            let location = snapshot.location_of(label)?;
            return Some(Known { account: location.account, location: Some(location.id), name });
        }
        let hostname = snapshot.hostname(asked).filter(|found| !is_internal(&found.hostname))?;
        Some(Known { name, account: hostname.account, location: None })
    }

    /// The host name that a client asks for, if it is one.
    pub(crate) fn find(&self, snapshot: &Snapshot, asked: &str) -> Option<Arc<Served>> {
        let asked = self.look(snapshot, asked)?;
        let known = self.lock().get(&asked.name).cloned();
        let known = known.filter(|known| known.is(&asked));
        if let Some(known) = &known
            && known.made.elapsed() < CERTIFICATE_AGE
        {
            return Some(Arc::clone(known));
        }
        let certificate = self.certificates.certificate(&asked.name)?;
        let certificate = certificate
            .certified()
            .inspect_err(|error| tracing::warn!(hostname = %asked.name, error = %error, "no certificate"))
            .ok()?;
        let served = Arc::new(Served {
            name: asked.name,
            account: asked.account,
            location: asked.location,
            certificate: Arc::new(certificate),
            made: Instant::now(),
            removed: known.map(|known| known.removed.clone()).unwrap_or_default(),
        });
        self.keep(Arc::clone(&served)).then_some(served)
    }

    /// Ends what is open of names that are gone or another account's.
    pub(crate) fn cut_removed(&self, snapshot: &Snapshot) {
        self.lock().retain(|name, served| {
            let there = self.look(snapshot, name.as_str()).is_some_and(|found| served.is(&found));
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
    use adit_model::{
        Change, ChangeBatch, Hostname, Location, LocationEndpoint, LocationTtl, SecretHash, Tunnel, TunnelId,
    };
    use adit_policy::State;
    use adit_transport::tls::Identity;
    use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use uuid::Uuid;

    const DOMAIN: &str = "dns.example.org";

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
        changes.push(Change::LocationPut(location("place")));
        state.apply(ChangeBatch { number: 1, changes });
        (state, account)
    }

    fn location(subdomain: &str) -> Location {
        let endpoint = LocationEndpoint { enabled: true, require_token: false, networks: Vec::new() };
        Location {
            id: LocationId::from_uuid(Uuid::from_u128(3)),
            account: AccountId::from_bytes([1; 16]),
            name: "a place".into(),
            subdomain: subdomain.into(),
            networks: Vec::new(),
            https: endpoint.clone(),
            tls: endpoint,
            max_ttl: LocationTtl::Inherit,
        }
    }

    #[test]
    fn a_dns_location_has_a_host_in_its_domain_until_it_is_gone_or_another_one_is_there() {
        let hostnames = Hostnames::new(Arc::new(Made::default()), DOMAIN.into());
        let (mut state, _) = state(&["other.dns.example.org", "place.example.com"]);
        let served = hostnames.find(&state.snapshot(), "Place.dns.example.org").unwrap();
        assert_eq!(served.location(), Some(location("place").id));
        let tunnels = hostnames.find(&state.snapshot(), "place.example.com").unwrap();
        assert_eq!(tunnels.location(), None);
        for asked in
            ["other.dns.example.org", "dns.example.org", "a.place.dns.example.org", "placedns.example.org"]
        {
            assert!(hostnames.find(&state.snapshot(), asked).is_none(), "{asked}");
        }
        let another = Location { id: LocationId::from_uuid(Uuid::from_u128(4)), ..location("place") };
        state.apply(ChangeBatch { number: 2, changes: vec![Change::LocationPut(another)] });
        hostnames.cut_removed(&state.snapshot());
        assert!(served.removed.is_cancelled() && !tunnels.removed.is_cancelled());
    }

    #[test]
    fn a_certificate_is_made_once_for_a_registered_name_and_never_for_another() {
        let made = Arc::new(Made::default());
        let hostnames = Hostnames::new(Arc::<Made>::clone(&made), DOMAIN.into());
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
        let hostnames = Hostnames::new(Arc::new(Made::default()), DOMAIN.into());
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
