//! QUIC connections of connectors, from handshake to farewell (tunnel protocol, 2).

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use adit_transport::datagram::DatagramRouter;
use adit_transport::quic::{self, NO_ERROR};
use adit_transport::tls::Identity;
use bytes::Bytes;
use quinn::crypto::rustls::HandshakeData;
use quinn::{Endpoint, Incoming};
use tokio_util::sync::CancellationToken;

use super::control::{Control, Registered};
use super::handshakes::Handshakes;
use crate::Shared;
use crate::carrier::{Carrier, Datagrams, Features, QuicCarrier};
use crate::config::{PeerIdentity, StartError};
use crate::datagram::SessionTable;
use crate::limits::{
    HANDSHAKE_DEADLINE, MAX_QUIC_HANDSHAKES, PULSE, REGISTRATION_DEADLINE, RETRY_ABOVE_HANDSHAKES,
};
use crate::peer;
use crate::pulse::Pulse;

/// The protocol's name in TLS (tunnel protocol, 1.3).
const ALPN: &[u8] = b"argotunnel";

pub(super) fn bind(
    address: SocketAddr,
    identity: &Identity,
    peer: Option<&PeerIdentity>,
) -> Result<Endpoint, StartError> {
    let mut config = peer::server(identity, &[ALPN], peer)?;
    config.max_early_data_size = 0;
    Ok(quic::listen(address, config)?)
}

/// What is done with a handshake that begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Admission {
    Accept,
    /// Its client has to prove its address first (RFC 9000, 8.1.2).
    Prove,
    /// No answer: whoever is answered by a refusal may dial again at once.
    Ignore,
    /// There is no room.
    Refuse,
}

/// Who may begin a handshake.
#[derive(Debug, Default)]
struct Door {
    /// By addresses that anybody may have written.
    claimed: Handshakes,
    /// By addresses that were proved.
    proved: Handshakes,
    under_way: AtomicUsize,
}

impl Door {
    /// An address that anybody may have written costs the one who has it nothing: then it only has to be proved.
    fn admit(&self, source: SocketAddr, proved: bool, now: Instant) -> Admission {
        let under_way = self.under_way.load(Ordering::Relaxed);
        if proved {
            if !self.proved.admit(source.ip(), now) {
                Admission::Ignore
            } else if under_way >= MAX_QUIC_HANDSHAKES {
                Admission::Refuse
            } else {
                Admission::Accept
            }
        } else if !self.claimed.admit(source.ip(), now) || under_way >= RETRY_ABOVE_HANDSHAKES {
            Admission::Prove
        } else {
            Admission::Accept
        }
    }
}

/// Accepts connections until the edge stops.
pub(super) async fn serve(shared: Arc<Shared>, endpoint: Endpoint) {
    let door = Arc::new(Door::default());
    loop {
        let incoming = tokio::select! {
            incoming = endpoint.accept() => incoming,
            () = shared.stopping.cancelled() => break,
        };
        let Some(incoming) = incoming else { break };
        let source = incoming.remote_address();
        match door.admit(source, incoming.remote_address_validated(), Instant::now()) {
            Admission::Accept => {
                door.under_way.fetch_add(1, Ordering::Relaxed);
                shared.tasks.spawn(serve_connection(Arc::clone(&shared), incoming, Arc::clone(&door)));
            }
            Admission::Prove => {
                // Fails only for an address that is validated already.
                let _ = incoming.retry();
            }
            Admission::Ignore => {
                shared.metrics.handshake_refused();
                incoming.ignore();
            }
            Admission::Refuse => {
                shared.metrics.handshake_refused();
                incoming.refuse();
            }
        }
    }
    endpoint.close(NO_ERROR, b"edge stopping");
    let _ = tokio::time::timeout(CLOSE_DEADLINE, endpoint.wait_idle()).await;
}

async fn serve_connection(shared: Arc<Shared>, incoming: Incoming, door: Arc<Door>) {
    let peer = incoming.remote_address();
    let connected = tokio::time::timeout(HANDSHAKE_DEADLINE, incoming).await;
    door.under_way.fetch_sub(1, Ordering::Relaxed);
    let Ok(Ok(quic)) = connected else {
        shared.metrics.handshake_failed();
        tracing::debug!(peer = %peer, "QUIC handshake failed");
        return;
    };
    if is_peer(&quic) {
        return peer::serve(shared, quic).await;
    }
    // A probe opens no stream and closes (tunnel protocol, 1.5): that is no error.
    let Ok(Ok((send, receive))) = tokio::time::timeout(REGISTRATION_DEADLINE, quic.accept_bi()).await else {
        quic.close(NO_ERROR, b"no control stream");
        return;
    };
    let pulse = Pulse::new();
    let registered = Registered::new();
    let control = Control::new(
        Arc::clone(&shared),
        quic::duplex(send, receive, Bytes::new()),
        (peer, Arc::clone(&pulse)),
        registered.clone(),
        |features| Carrier::Quic(carrier(&quic, features)),
    );
    let ended = quic.closed();
    tokio::select! {
        () = control.serve(ended, CancellationToken::new()) => {}
        () = watch(&quic, &pulse) => {}
        () = serve_registered(&shared, &quic, &registered) => {}
    }
    registered.leave(&shared).await;
    pulse.stop();
    quic.close(NO_ERROR, b"");
}

/// Whether it is another edge node, by the protocol that it asked for.
fn is_peer(quic: &quinn::Connection) -> bool {
    let data = quic.handshake_data().and_then(|data| data.downcast::<HandshakeData>().ok());
    data.and_then(|data| data.protocol).is_some_and(|protocol| protocol == adit_wire::peer::ALPN)
}

/// Takes what a connector that is registered sends beside its control stream.
async fn serve_registered(shared: &Arc<Shared>, quic: &quinn::Connection, registered: &Registered) {
    let connection = registered.wait().await;
    let Carrier::Quic(carrier) = &connection.carrier else { return std::future::pending().await };
    match &carrier.datagrams {
        Datagrams::Streams(router) => {
            tokio::join!(router.clone().run(), super::calls::serve(shared, quic, None));
        }
        Datagrams::Sessions(table) => {
            tokio::join!(table.run(quic), super::calls::serve(shared, quic, Some(table)));
        }
    }
    // The connection has ended, as the control stream will find.
    std::future::pending::<()>().await;
}

fn carrier(quic: &quinn::Connection, features: Features) -> QuicCarrier {
    let datagrams = if features.datagram_streams {
        Datagrams::Streams(DatagramRouter::new(quic.clone()))
    } else {
        Datagrams::Sessions(Arc::new(SessionTable::new(features.generation)))
    };
    QuicCarrier { connection: quic.clone(), datagrams }
}

/// Follows whether the connector answers: it shows that it lives once a second or so (tunnel protocol, 2.1).
pub(crate) async fn watch(quic: &quinn::Connection, pulse: &Pulse) {
    let mut before = 0;
    let mut tick = tokio::time::interval(PULSE);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let heard = quic.stats().udp_rx.datagrams;
        if std::mem::replace(&mut before, heard) != heard {
            pulse.hear();
        }
        pulse.measured(quic.rtt());
        pulse.judge();
    }
}

/// For close frames to arrive when the edge stops.
const CLOSE_DEADLINE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_under_a_borrowed_address_only_has_its_owner_prove_it() {
        let door = Door::default();
        let (source, now) = ("192.0.2.1:1".parse().unwrap(), Instant::now());
        let flood: Vec<_> = (0..5000).map(|_| door.admit(source, false, now)).collect();
        assert_eq!(flood[0], Admission::Accept);
        assert_eq!(flood[4999], Admission::Prove);
        assert_eq!(door.admit(source, true, now), Admission::Accept);
    }

    #[test]
    fn a_busy_loop_is_not_answered() {
        let door = Door::default();
        let (source, now) = ("192.0.2.1:1".parse().unwrap(), Instant::now());
        let looped = (0..5000).map(|_| door.admit(source, true, now));
        assert_eq!(looped.last(), Some(Admission::Ignore));
        assert_eq!(door.admit("192.0.2.2:1".parse().unwrap(), true, now), Admission::Accept);
    }
}
