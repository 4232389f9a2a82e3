//! The edge's resolver: who asks is known, rules decide, and somebody answers (Gateway semantics, 4).
//!
//! [`query`] is the life of one query in the design's order: decide by what is asked, resolve, decide by what is answered,
//! record. [`upstream`] asks resolvers: the installation's own, or those of a rule, which are reached through a tunnel where a
//! route leads to them. [`cache`] keeps answers, never decisions. [`stream`] is the way in: queries behind their lengths on
//! a stream, of a device's flow or of DNS over TLS.
//!
//! What always holds: nobody is answered who is not known; a rule's resolvers stand alone, whatever becomes of them; no
//! resolver that an account names makes this edge itself reach private addresses; messages, queries at once and waits have
//! limits.

mod cache;
mod content;
mod query;
mod stream;
mod upstream;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use adit_model::{AccountId, DnsProtocol, LocationId, Registration};
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
    /// Queries under way, for each account that has any.
    under_way: Mutex<HashMap<AccountId, usize>>,
}

/// A query under way, which is counted for its account.
#[derive(Debug)]
struct UnderWay<'d> {
    dns: &'d Dns,
    account: AccountId,
}

impl Dns {
    pub(crate) fn new(upstreams: Vec<SocketAddr>) -> Self {
        Self { upstreams, cache: Mutex::default(), under_way: Mutex::default() }
    }

    /// Counts a query, if its account has not as many under way as it may: no account's slow resolvers take the others' place.
    fn begin(&self, account: AccountId) -> Option<UnderWay<'_>> {
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        let count = under_way.entry(account).or_default();
        (*count < MAX_QUERIES_OF_ACCOUNT).then(|| {
            *count += 1;
            UnderWay { dns: self, account }
        })
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let mut under_way = self.dns.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = under_way.get_mut(&self.account) {
            *count -= 1;
            if *count == 0 {
                under_way.remove(&self.account);
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
    pub(crate) location: Option<LocationId>,
    /// The first label of the host that was asked over HTTPS.
    pub(crate) subdomain: Option<String>,
}

/// Whether a device's flow goes to the resolver, which no route carries.
pub(crate) fn is_resolver(destination: SocketAddr) -> bool {
    let address = destination.ip().to_canonical();
    destination.port() == PORT && (address == RESOLVER_V4 || address == RESOLVER_V6)
}

/// Queries of one account that are resolved at once: each holds a few KiB, and perhaps a socket.
const MAX_QUERIES_OF_ACCOUNT: usize = 2048;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_has_so_many_queries_under_way_and_takes_no_place_of_another() {
        let dns = Dns::new(Vec::new());
        let [one, other] = [1, 2].map(|byte| AccountId::from_bytes([byte; 16]));
        let mut held: Vec<_> = (0..MAX_QUERIES_OF_ACCOUNT).map(|_| dns.begin(one).unwrap()).collect();
        assert!(dns.begin(one).is_none() && dns.begin(other).is_some());
        held.pop();
        assert!(dns.begin(one).is_some());
        drop(held);
        assert!(dns.under_way.lock().unwrap().is_empty());
    }

    #[test]
    fn the_resolver_is_told_from_every_other_destination() {
        assert!(is_resolver("[::ffff:100.80.0.53]:53".parse().unwrap()));
        assert!(!is_resolver("100.80.0.53:853".parse().unwrap()));
    }
}
