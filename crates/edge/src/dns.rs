//! The edge's resolver: who asks is known, rules decide, and somebody answers (Gateway semantics, 4).
//!
//! [`query`] is the life of one query in the design's order: decide by what is asked, resolve, decide by what is answered,
//! record. [`upstream`] asks resolvers: the installation's own, or those of a rule, which are reached through a tunnel where a
//! route leads to them. [`cache`] keeps answers, never decisions. The ways in are [`stream`] of a device's flow, and, for
//! devices without the agent, the hosts of DNS locations: [`https`] and [`tls`].
//!
//! What always holds: nobody is answered who is not known; a rule's resolvers stand alone, whatever becomes of them; no
//! resolver that an account names makes this edge itself reach private addresses; messages, queries at once and waits have
//! limits.

mod cache;
mod content;
pub(crate) mod https;
mod query;
mod stream;
pub(crate) mod tls;
mod upstream;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use adit_model::{AccountId, DnsProtocol, Location, Registration};
use adit_wire::dns::{PORT, RESOLVER_V4, RESOLVER_V6};

pub(crate) use query::address_of;
pub(crate) use stream::serve;

use cache::Cache;

/// What the resolver keeps.
#[derive(Debug)]
pub(crate) struct Dns {
    /// The installation's own resolvers, in the order in which they are asked.
    upstreams: Vec<SocketAddr>,
    cache: Mutex<Cache>,
    /// Queries under way.
    under_way: Places,
    /// Connections of DNS over TLS.
    connections: Places,
}

/// What of something each account holds. No account takes more than its part.
#[derive(Debug)]
struct Places {
    most: usize,
    held: Mutex<HashMap<AccountId, usize>>,
}

/// A place that is held until this is dropped.
#[derive(Debug)]
struct Held<'p> {
    places: &'p Places,
    account: AccountId,
}

impl Dns {
    pub(crate) fn new(upstreams: Vec<SocketAddr>) -> Self {
        Self {
            upstreams,
            cache: Mutex::default(),
            under_way: Places::new(MAX_QUERIES_OF_ACCOUNT),
            connections: Places::new(MAX_CONNECTIONS_OF_ACCOUNT),
        }
    }
}

impl Places {
    fn new(most: usize) -> Self {
        Self { most, held: Mutex::default() }
    }

    /// Takes a place, if the account does not hold as many as it may.
    fn take(&self, account: AccountId) -> Option<Held<'_>> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let count = held.entry(account).or_default();
        (*count < self.most).then(|| {
            *count += 1;
            Held { places: self, account }
        })
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let mut held = self.places.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = held.get_mut(&self.account) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.account);
            }
        }
    }
}

/// Who asks, and how.
#[derive(Debug, Clone)]
pub(crate) struct Asker {
    pub(crate) account: AccountId,
    /// The device, if it has the agent.
    pub(crate) registration: Option<Arc<Registration>>,
    /// As the edge sees it.
    pub(crate) source: SocketAddr,
    /// What was asked.
    pub(crate) resolver: Option<SocketAddr>,
    pub(crate) protocol: DnsProtocol,
    /// The location that was asked.
    pub(crate) location: Option<Arc<Location>>,
    /// Whose token was shown, if there is no device.
    pub(crate) user: Option<String>,
}

/// Whether a device's flow goes to the resolver, which no route carries.
pub(crate) fn is_resolver(destination: SocketAddr) -> bool {
    let address = destination.ip().to_canonical();
    destination.port() == PORT && (address == RESOLVER_V4 || address == RESOLVER_V6)
}

/// Queries of one account that are resolved at once: each holds a few KiB, and perhaps a socket.
const MAX_QUERIES_OF_ACCOUNT: usize = 2048;
/// Connections of DNS over TLS of one account at once: each holds some 30 KiB.
const MAX_CONNECTIONS_OF_ACCOUNT: usize = 2048;
/// Queries of one stream that are under way at once.
const MAX_QUERIES_OF_ONE: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_has_so_many_places_and_takes_none_of_another() {
        let places = Places::new(3);
        let [one, other] = [1, 2].map(|byte| AccountId::from_bytes([byte; 16]));
        let mut held: Vec<_> = (0..3).map(|_| places.take(one).unwrap()).collect();
        assert!(places.take(one).is_none() && places.take(other).is_some());
        held.pop();
        assert!(places.take(one).is_some());
        drop(held);
        assert!(places.held.lock().unwrap().is_empty());
    }

    #[test]
    fn the_resolver_is_told_from_every_other_destination() {
        assert!(is_resolver("[::ffff:100.80.0.53]:53".parse().unwrap()));
        assert!(!is_resolver("100.80.0.53:853".parse().unwrap()));
    }
}
