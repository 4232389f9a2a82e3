//! Other edge nodes: a flow whose tunnel has no live connection here goes through one that holds some.
//!
//! There is one QUIC connection in each direction between two nodes, made before it is needed ([`link`]); what the other
//! nodes ask of this one is in [`serve`]. What always holds: a node is known by its key, as the snapshot has it, and is told
//! nothing before it has proved it; a flow is relayed once; a node that does not answer gets no flows. Which node holds
//! connections of which tunnel the snapshot says: a lease that is out of date costs one try.

mod link;
mod serve;

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use adit_model::{Node, NodeId};
use adit_transport::datagram::DatagramRouter;
use adit_transport::quic;
use adit_transport::tls::{self, Identity, TlsError};
use quinn::Endpoint;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

pub(crate) use serve::serve;

use crate::Shared;
use crate::config::{PeerIdentity, StartError};
use crate::limits::PEER_WAIT;
use crate::pulse::Pulse;

/// The peers of this node.
#[derive(Debug)]
pub(crate) struct Peers {
    own: Option<NodeId>,
    kept: RwLock<HashMap<NodeId, Kept>>,
    /// Counted up when a link is made or lost, for those who wait for one.
    changed: watch::Sender<u64>,
}

/// A peer that is kept connected for as long as this lives.
#[derive(Debug)]
struct Kept {
    node: Arc<Node>,
    link: Option<Arc<Link>>,
    _keeping: DropGuard,
}

/// A live connection to a peer, on which this node opens the streams.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) node: NodeId,
    pub(crate) quic: quinn::Connection,
    pub(crate) router: DatagramRouter,
    pulse: Arc<Pulse>,
    flows: AtomicUsize,
}

impl Link {
    /// Waits until the peer does not answer any more, or the connection has ended.
    pub(crate) async fn lost(&self) {
        self.pulse.lost().await;
    }

    /// Counts a flow for as long as the guard lives.
    pub(crate) fn begin_flow(self: &Arc<Self>) -> LinkGuard {
        self.flows.fetch_add(1, Ordering::Relaxed);
        LinkGuard(Arc::clone(self))
    }

    fn takes_flows(&self) -> bool {
        self.pulse.answers() && self.quic.close_reason().is_none()
    }

    /// What one more flow would wait for.
    fn cost(&self) -> Duration {
        let flows = u32::try_from(self.flows.load(Ordering::Relaxed)).unwrap_or(u32::MAX - 1);
        self.pulse.round_trip().max(NEAR).saturating_mul(flows.saturating_add(1))
    }
}

/// Round trips up to this are alike.
const NEAR: Duration = Duration::from_millis(5);

/// One open flow of a link.
#[derive(Debug)]
pub(crate) struct LinkGuard(Arc<Link>);

impl LinkGuard {
    /// The link.
    pub(crate) fn link(&self) -> &Link {
        &self.0
    }
}

impl Drop for LinkGuard {
    fn drop(&mut self) {
        self.0.flows.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Peers {
    pub(crate) fn new(own: Option<NodeId>) -> Self {
        Self { own, kept: RwLock::default(), changed: watch::Sender::new(0) }
    }

    /// Whether this is the node itself.
    pub(crate) fn is_own(&self, node: NodeId) -> bool {
        self.own == Some(node)
    }

    /// The best of these nodes that is connected, and not of those that were tried. If none is, the first one that will be,
    /// unless none of them is known or it takes too long.
    pub(crate) async fn choose(&self, holders: &[NodeId], tried: &[NodeId]) -> Option<Arc<Link>> {
        let may = |node: &NodeId| Some(*node) != self.own && !tried.contains(node);
        let nodes: Vec<NodeId> = holders.iter().copied().filter(may).collect();
        if nodes.is_empty() {
            return None;
        }
        let mut changed = self.changed.subscribe();
        let waiting = async {
            loop {
                changed.mark_unchanged();
                match self.best(&nodes) {
                    Best::Link(link) => return Some(link),
                    Best::Unknown => return None,
                    // Its sender lives as long as `self`.
                    Best::NotYet => changed.changed().await.ok()?,
                }
            }
        };
        tokio::time::timeout(PEER_WAIT, waiting).await.ok().flatten()
    }

    fn best(&self, nodes: &[NodeId]) -> Best {
        let kept = self.kept.read().unwrap_or_else(PoisonError::into_inner);
        let mut known = nodes.iter().filter_map(|node| kept.get(node)).peekable();
        if known.peek().is_none() {
            return Best::Unknown;
        }
        let links = known.filter_map(|kept| kept.link.as_ref()).filter(|link| link.takes_flows());
        links.min_by_key(|link| link.cost()).map_or(Best::NotYet, |link| Best::Link(Arc::clone(link)))
    }

    /// Links that are up.
    pub(crate) fn count(&self) -> usize {
        let kept = self.kept.read().unwrap_or_else(PoisonError::into_inner);
        kept.values().filter(|kept| kept.link.is_some()).count()
    }

    /// A link is made or lost. Whether the node is still the one that it was made to.
    fn set(&self, node: &Arc<Node>, link: Option<Arc<Link>>) -> bool {
        let mut kept = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        let Some(kept) = kept.get_mut(&node.id).filter(|kept| Arc::ptr_eq(&kept.node, node)) else {
            return false;
        };
        kept.link = link;
        self.changed.send_modify(|count| *count = count.wrapping_add(1));
        true
    }

    /// Brings the peers that are kept in line with the snapshot; those that are new, with what ends the keeping of them.
    fn reconcile(&self, snapshot: &adit_policy::Snapshot) -> Vec<(Arc<Node>, CancellationToken)> {
        let mut kept = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        // Where devices find it is of no interest here.
        let same = |kept: &Kept, now: &Node| (kept.node.key, &kept.node.address) == (now.key, &now.address);
        kept.retain(|id, kept| snapshot.node(*id).is_some_and(|node| same(kept, node)));
        let mut new = Vec::new();
        for node in snapshot.nodes().filter(|node| Some(node.id) != self.own) {
            if kept.contains_key(&node.id) {
                continue;
            }
            let ended = CancellationToken::new();
            let keeping = ended.clone().drop_guard();
            kept.insert(node.id, Kept { node: Arc::clone(node), link: None, _keeping: keeping });
            new.push((Arc::clone(node), ended));
        }
        new
    }
}

enum Best {
    Link(Arc<Link>),
    /// None of them is connected, but some are known.
    NotYet,
    Unknown,
}

/// Keeps this node connected to every other.
pub(crate) async fn follow(shared: Arc<Shared>, endpoint: Endpoint, client: quinn::ClientConfig) {
    let mut changed = shared.snapshots.watch();
    loop {
        changed.mark_unchanged();
        let snapshot = shared.snapshots.current();
        for (node, ended) in shared.peers.reconcile(&snapshot) {
            let keeping = link::keep(Arc::clone(&shared), endpoint.clone(), client.clone(), node);
            let stopping = shared.stopping.clone();
            shared.tasks.spawn(async move {
                tokio::select! {
                    () = keeping => {}
                    () = ended.cancelled() => {}
                    () = stopping.cancelled() => {}
                }
            });
        }
        drop(snapshot);
        tokio::select! {
            changed = changed.changed() => if changed.is_err() { return },
            () = shared.stopping.cancelled() => return,
        }
    }
}

/// What this node shows and accepts when it dials others.
pub(crate) fn client(peer: &PeerIdentity) -> Result<quinn::ClientConfig, StartError> {
    let tls = tls::peer_client_config(&peer.identity, adit_wire::peer::ALPN)?;
    Ok(quic::client_config_with(tls, quic::Limits::CONNECTOR)?)
}

/// What the tunnel listener shows and accepts, if it is a node's among others.
pub(crate) fn server(
    connectors: &Identity,
    protocols: &[&[u8]],
    peer: Option<&PeerIdentity>,
) -> Result<rustls::ServerConfig, TlsError> {
    match peer {
        Some(peer) => tls::peer_server_config(connectors, protocols, &peer.identity, adit_wire::peer::ALPN),
        None => tls::server_config(connectors, protocols),
    }
}
