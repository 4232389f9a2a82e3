//! The QUIC carrier of the device protocol: one bidirectional stream for the events and for each flow.
//!
//! Every stream begins with a request of the tunnel protocol and is answered by its response. Datagrams of UDP and ICMP
//! flows go as QUIC DATAGRAM frames where they fit.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use adit_model::{PresentedKey, Refusal};
use adit_transport::datagram::DatagramRouter;
use adit_transport::quic::{self, Limits, NO_ERROR};
use adit_transport::tls::{self, Identity};
use adit_transport::{Duplex, WriteChunk};
use adit_wire::device::{
    self, CLOSE_TOO_MANY, CLOSE_UNKNOWN, EVENTS_PATH, INSTANCE_HEADER, PROTOCOL_HEADER, VERSION_HEADER,
};
use adit_wire::tunnel::{ConnectRequest, ConnectionType};
use quinn::crypto::rustls::HandshakeData;
use quinn::{Connection, Endpoint, Incoming, VarInt};
use rustls::pki_types::CertificateDer;
use tokio::sync::Semaphore;
use uuid::Uuid;

use super::{Device, cut_words};
use crate::Shared;
use crate::asked::QuicAsked;
use crate::config::StartError;
use crate::flow::Asked;
use crate::limits::{
    FAREWELL, FIRST_STREAMS_PER_DEVICE, HANDSHAKE_DEADLINE, MAX_FLOWS_PER_DEVICE, MAX_QUIC_HANDSHAKES,
    MAX_REQUEST_BYTES, RETRY_ABOVE_HANDSHAKES,
};

/// The bound listener.
pub(crate) struct QuicListener {
    endpoint: Endpoint,
    /// What clients may call this edge.
    names: Vec<String>,
    handshakes: Arc<Semaphore>,
}

impl QuicListener {
    pub(crate) fn bind(
        address: SocketAddr,
        identity: &Identity,
        names: Vec<String>,
    ) -> Result<Self, StartError> {
        let tls = tls::device_server_config(identity, device::ALPN)?;
        let endpoint = quic::listen_with(address, tls, LIMITS)?;
        Ok(Self { endpoint, names, handshakes: Arc::new(Semaphore::new(MAX_QUIC_HANDSHAKES)) })
    }

    /// Accepts connections until the edge stops.
    pub(crate) async fn serve(self, shared: Arc<Shared>) {
        let names: Arc<[String]> = self.names.into();
        loop {
            let incoming = tokio::select! {
                incoming = self.endpoint.accept() => incoming,
                () = shared.stopping.cancelled() => break,
            };
            let Some(incoming) = incoming else { break };
            let Ok(permit) = Arc::clone(&self.handshakes).try_acquire_owned() else {
                incoming.refuse();
                continue;
            };
            let under_way = MAX_QUIC_HANDSHAKES - self.handshakes.available_permits();
            if under_way > RETRY_ABOVE_HANDSHAKES && !incoming.remote_address_validated() {
                // Fails only for an address that is validated already.
                let _ = incoming.retry();
                continue;
            }
            let (shared, names) = (Arc::clone(&shared), Arc::clone(&names));
            shared.tasks.clone().spawn(async move {
                let peer = incoming.remote_address();
                let connected = handshake(incoming, &names).await;
                drop(permit);
                match connected {
                    Some((quic, key)) => serve_connection(shared, quic, peer, key).await,
                    None => shared.metrics.handshake_failed(),
                }
            });
        }
        // Nobody new; those that are here tell their devices, and leave.
        self.endpoint.set_server_config(None);
        let _ = tokio::time::timeout(2 * FAREWELL, self.endpoint.wait_idle()).await;
        self.endpoint.close(NO_ERROR, b"edge stopping");
    }
}

/// A connection to a name of ours, and the key that its peer has proved.
async fn handshake(incoming: Incoming, names: &[String]) -> Option<(Connection, PresentedKey)> {
    let quic = tokio::time::timeout(HANDSHAKE_DEADLINE, incoming).await.ok()?.ok()?;
    let asked = quic.handshake_data()?.downcast::<HandshakeData>().ok()?.server_name;
    // A client that dialled an address names no server (RFC 6066, section 3).
    let served = asked
        .is_none_or(|asked| names.iter().any(|name| name.eq_ignore_ascii_case(asked.trim_end_matches('.'))));
    if !served {
        quic.close(NO_ERROR, b"this name is not served here");
        return None;
    }
    let chain = quic.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    let key = PresentedKey::new(chain.first()?.to_vec());
    Some((quic, key))
}

async fn serve_connection(shared: Arc<Shared>, quic: Connection, peer: SocketAddr, key: PresentedKey) {
    let known = shared.snapshots.current().registration_of(key.key).cloned();
    let Some(registration) = known.filter(|registration| !registration.revoked) else {
        tracing::info!(key = %key.key, "a device that is not registered, or no more");
        return quic.close(CLOSE_UNKNOWN.into(), b"this device's key is not registered");
    };
    let Ok(device) = Device::begin(Arc::clone(&shared), registration, peer, "quic") else {
        return quic.close(CLOSE_TOO_MANY.into(), b"the device has too many connections");
    };
    let router = DatagramRouter::new(quic.clone());
    shared.tasks.spawn(router.clone().run());
    let why = serve_streams(&device, &quic, &router).await;
    device.end(why);
    quic.close(NO_ERROR, why.as_bytes());
}

async fn serve_streams(device: &Arc<Device>, quic: &Connection, router: &DatagramRouter) -> &'static str {
    let mut allowed = FIRST_STREAMS_PER_DEVICE;
    loop {
        tokio::select! {
            accepted = quic.accept_bi() => {
                let Ok((send, receive)) = accepted else { return "connection lost" };
                if device.open_flows() >= allowed as usize / 2 && (allowed as usize) < MAX_FLOWS_PER_DEVICE {
                    allowed *= 2;
                    quic.set_max_concurrent_bi_streams(VarInt::from_u32(allowed));
                }
                let stream = QuicAsked::new(send, receive, router.clone());
                device.shared.tasks.spawn(serve_stream(Arc::clone(device), stream));
            }
            cut = device.session.cut() => {
                // For the last event and the resets to leave.
                let _ = tokio::time::timeout(FAREWELL, quic.closed()).await;
                return cut_words(cut);
            }
        }
    }
}

async fn serve_stream(device: Arc<Device>, mut stream: QuicAsked) {
    let request = tokio::time::timeout(HANDSHAKE_DEADLINE, stream.request(MAX_REQUEST_BYTES)).await;
    let Ok(Some(request)) = request else {
        return stream.refuse(Refusal::Unroutable, "expected a request").await;
    };
    match request.kind {
        ConnectionType::Tcp => {
            let protocol = request.metadata(PROTOCOL_HEADER);
            device.carry(protocol, &request.dest, stream).await;
        }
        ConnectionType::Http if request.dest == EVENTS_PATH => events(&device, &request, stream).await,
        ConnectionType::Http | ConnectionType::WebSocket => {
            stream.refuse(Refusal::Unroutable, "there is no such service").await;
        }
    }
}

/// Tells the device its state, then what changes, for as long as it listens.
async fn events(device: &Device, request: &ConnectRequest, stream: QuicAsked) {
    let instance = request.metadata(INSTANCE_HEADER).and_then(|text| Uuid::try_parse(text).ok());
    let Some(instance) = instance else {
        return stream.refuse(Refusal::Unroutable, "expected the process's instance").await;
    };
    device.identify(instance, request.metadata(VERSION_HEADER).unwrap_or("")).await;
    let Some(Duplex { mut writer, reader: _reader }) = stream.accept().await else { return };
    device.tell(&mut writer).await;
    if writer.finish().await.is_err() {
        tracing::trace!("the device listens no more");
    }
}

/// A device says itself that it lives, as often as its network needs it. Half a minute is the shortest that a NAT keeps
/// UDP's ports.
const LIMITS: Limits = Limits {
    idle_timeout: Duration::from_secs(30),
    keep_alive: None,
    incoming_streams: FIRST_STREAMS_PER_DEVICE,
    ..Limits::EDGE
};
