//! The connection to one peer, made anew for as long as the peer is known.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use adit_model::Node;
use adit_transport::datagram::DatagramRouter;
use adit_transport::quic::NO_ERROR;
use quinn::Endpoint;

use super::{Link, serve};
use crate::Shared;
use crate::limits::{HANDSHAKE_DEADLINE, PEER_RETRY};
use crate::pulse::Pulse;
use crate::tunnel;

/// Why there is no connection to a peer.
#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error("the peer's address cannot be resolved")]
    Resolve(#[source] std::io::Error),
    #[error("the peer's name has no address")]
    NoAddress,
    #[error("the peer cannot be dialled")]
    Dial(#[from] quinn::ConnectError),
    #[error("the peer did not take the connection")]
    Handshake(#[from] quinn::ConnectionError),
    #[error("the peer has another key than the one that is known")]
    WrongKey,
    #[error("no answer in time")]
    TimedOut,
}

/// Keeps the connection; ends when the peer is known no more, or otherwise.
pub(super) async fn keep(
    shared: Arc<Shared>,
    endpoint: Endpoint,
    client: quinn::ClientConfig,
    node: Arc<Node>,
) {
    let (first, longest) = PEER_RETRY;
    let mut pause = first;
    loop {
        let connecting = tokio::time::timeout(HANDSHAKE_DEADLINE, connect(&endpoint, &client, &node));
        match connecting.await.unwrap_or(Err(LinkError::TimedOut)) {
            Ok(quic) => {
                pause = first;
                if !hold(&shared, &node, quic).await {
                    return;
                }
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::debug!(peer = node.name, error, "no connection to a peer node");
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(longest);
    }
}

async fn connect(
    endpoint: &Endpoint,
    client: &quinn::ClientConfig,
    node: &Node,
) -> Result<quinn::Connection, LinkError> {
    let resolved = tokio::net::lookup_host(node.address.as_str()).await.map_err(LinkError::Resolve)?;
    let mut last = LinkError::NoAddress;
    for address in resolved.take(MAX_ADDRESSES) {
        // The name is not looked at: the key tells who it is.
        let connecting = match endpoint.connect_with(client.clone(), address, "peer.adit.invalid") {
            Ok(connecting) => connecting,
            Err(error) => {
                last = error.into();
                continue;
            }
        };
        match tokio::time::timeout(ADDRESS_DEADLINE, connecting).await {
            Ok(Ok(quic)) if serve::key_of(&quic) == Some(node.key) => return Ok(quic),
            Ok(Ok(quic)) => {
                quic.close(NO_ERROR, b"not the node that was dialled");
                last = LinkError::WrongKey;
            }
            Ok(Err(error)) => last = error.into(),
            Err(_) => last = LinkError::TimedOut,
        }
    }
    Err(last)
}

/// Shows the connection to flows until it is lost; whether the peer is still known.
async fn hold(shared: &Arc<Shared>, node: &Arc<Node>, quic: quinn::Connection) -> bool {
    let (router, pulse) = (DatagramRouter::new(quic.clone()), Pulse::new());
    let link = Arc::new(Link {
        node: node.id,
        quic: quic.clone(),
        router: router.clone(),
        pulse: Arc::clone(&pulse),
        flows: AtomicUsize::new(0),
    });
    if !shared.peers.set(node, Some(link)) {
        return false;
    }
    shared.metrics.peers(shared.peers.count());
    tracing::info!(peer = node.name, "connected to a peer node");
    // For whatever way this ends, also when it is dropped.
    let ending = Ending { shared: Arc::clone(shared), node: Arc::clone(node), quic: quic.clone(), pulse };
    tokio::select! {
        reason = quic.closed() => tracing::info!(peer = node.name, %reason, "connection to a peer node lost"),
        () = tunnel::watch_quic(&quic, &ending.pulse) => {}
        () = router.run() => {}
    }
    drop(ending);
    true
}

/// Takes the link back.
struct Ending {
    shared: Arc<Shared>,
    node: Arc<Node>,
    quic: quinn::Connection,
    pulse: Arc<Pulse>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.pulse.stop();
        self.shared.peers.set(&self.node, None);
        self.shared.metrics.peers(self.shared.peers.count());
        self.quic.close(NO_ERROR, b"");
    }
}

/// Addresses of one peer that are tried.
const MAX_ADDRESSES: usize = 4;
/// For a handshake with one of them.
const ADDRESS_DEADLINE: Duration = Duration::from_secs(2);
