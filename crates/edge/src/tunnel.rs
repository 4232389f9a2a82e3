//! The tunnel listener: connections of connectors over QUIC and over HTTP/2, on one port of UDP and TCP.
//!
//! [`quic`] and [`http2`] make a connection of a socket, each in its way; [`control`] is what both then have in common: the
//! registration, the configuration that is pushed, the farewell. What always holds: nothing of a connector's words becomes
//! a route or a name; a handshake costs its source before it costs us; and a connection that is refused is closed.

mod calls;
mod configuration;
mod control;
mod handshakes;
mod http2;
mod quic;

use std::net::SocketAddr;
use std::sync::Arc;

use adit_model::Command;
use adit_transport::tls::Identity;
use tokio::sync::mpsc;

pub(crate) use calls::{CallError, call};
pub(crate) use quic::watch as watch_quic;

use crate::Shared;
use crate::config::{PeerIdentity, StartError};

/// The two sockets, bound.
pub(crate) struct Listener {
    quic: quinn::Endpoint,
    http2: http2::Listener,
    address: SocketAddr,
}

/// Ports tried until one is free for both protocols, when any will do.
const PORT_ATTEMPTS: usize = 16;

impl Listener {
    /// Binds UDP and TCP at one port (tunnel protocol, 1.2).
    pub(crate) fn bind(
        address: SocketAddr,
        identity: &Identity,
        peer: Option<&PeerIdentity>,
    ) -> Result<Self, StartError> {
        let mut attempts = if address.port() == 0 { PORT_ATTEMPTS } else { 1 };
        loop {
            attempts -= 1;
            let failed = |source| StartError::Listen { listener: "tunnel", address, source };
            let quic = quic::bind(address, identity, peer)?;
            let bound = quic.local_addr().map_err(failed)?;
            match http2::Listener::bind(bound, identity) {
                Ok(http2) => return Ok(Self { quic, http2, address: bound }),
                Err(StartError::Listen { .. }) if attempts > 0 => {}
                Err(error) => return Err(error),
            }
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The UDP socket, from which other nodes are dialled too.
    pub(crate) fn endpoint(&self) -> quinn::Endpoint {
        self.quic.clone()
    }

    /// Accepts connections until the edge stops.
    pub(crate) async fn serve(self, shared: Arc<Shared>) {
        let http2 = self.http2.serve(Arc::clone(&shared));
        tokio::join!(quic::serve(Arc::clone(&shared), self.quic), http2);
    }
}

/// Does what the control plane asks for once.
pub(crate) async fn obey(shared: Arc<Shared>, mut commands: mpsc::Receiver<Command>) {
    loop {
        let command = tokio::select! {
            command = commands.recv() => command,
            () = shared.stopping.cancelled() => return,
        };
        match command {
            Some(Command::CloseConnections { tunnel, connector }) => {
                shared.connections.close_tunnel(tunnel, connector, "asked to reconnect");
            }
            None => return,
        }
    }
}
