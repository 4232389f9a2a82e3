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

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use adit_model::{AccountId, DnsProtocol, LocationId, Registration};
use adit_wire::dns::{PORT, RESOLVER_V4, RESOLVER_V6};
use tokio::sync::Semaphore;

pub(crate) use stream::serve;

use cache::Cache;

/// What the resolver keeps.
#[derive(Debug)]
pub(crate) struct Dns {
    /// The installation's own resolvers, in the order in which they are asked.
    upstreams: Vec<SocketAddr>,
    cache: Mutex<Cache>,
    in_flight: Semaphore,
}

impl Dns {
    pub(crate) fn new(upstreams: Vec<SocketAddr>) -> Self {
        Self { upstreams, cache: Mutex::default(), in_flight: Semaphore::new(MAX_QUERIES) }
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

/// Queries that are resolved at once: each holds a few KiB, and perhaps a socket.
const MAX_QUERIES: usize = 4096;
