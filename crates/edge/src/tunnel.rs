//! The tunnel listener: QUIC connections of connectors, from handshake to farewell.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use adit_model::{Command, ConnectionClosed, ConnectionId, ConnectionOpened, Record};
use adit_transport::quic::{self, NO_ERROR};
use adit_transport::splice::HalfClose;
use adit_transport::tls::{self, Identity};
use adit_wire::device::HALF_CLOSE_FEATURE;
use adit_wire::rpc::{
    CallToken, ConnectionDetails, ConnectionError, RegisterRequest, RegistrationServer, ServerEvent,
};
use quinn::{Endpoint, Incoming, RecvStream, SendStream};
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::Shared;
use crate::config::StartError;
use crate::connections::Connection;
use crate::limits::{HANDSHAKE_DEADLINE, MAX_QUIC_HANDSHAKES, REGISTRATION_DEADLINE, RETRY_ABOVE_HANDSHAKES};

/// The protocol's name in TLS (tunnel protocol, 1.3).
const ALPN: &[u8] = b"argotunnel";

pub(crate) fn bind(address: SocketAddr, identity: &Identity) -> Result<Endpoint, StartError> {
    let mut config = tls::server_config(identity, &[ALPN])?;
    config.max_early_data_size = 0;
    Ok(quic::listen(address, config)?)
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

/// Accepts connections until the edge stops.
pub(crate) async fn serve(shared: Arc<Shared>, endpoint: Endpoint) {
    let handshakes = Arc::new(AtomicUsize::new(0));
    loop {
        let incoming = tokio::select! {
            incoming = endpoint.accept() => incoming,
            () = shared.stopping.cancelled() => break,
        };
        let Some(incoming) = incoming else { break };
        let under_way = handshakes.load(Ordering::Relaxed);
        if under_way >= MAX_QUIC_HANDSHAKES {
            incoming.refuse();
        } else if under_way >= RETRY_ABOVE_HANDSHAKES && !incoming.remote_address_validated() {
            // Fails only for an address that is validated already.
            let _ = incoming.retry();
        } else {
            handshakes.fetch_add(1, Ordering::Relaxed);
            shared.tasks.spawn(serve_connection(Arc::clone(&shared), incoming, Arc::clone(&handshakes)));
        }
    }
    endpoint.close(NO_ERROR, b"edge stopping");
    let _ = tokio::time::timeout(CLOSE_DEADLINE, endpoint.wait_idle()).await;
}

async fn serve_connection(shared: Arc<Shared>, incoming: Incoming, handshakes: Arc<AtomicUsize>) {
    let peer = incoming.remote_address();
    let connected = tokio::time::timeout(HANDSHAKE_DEADLINE, incoming).await;
    handshakes.fetch_sub(1, Ordering::Relaxed);
    let Ok(Ok(quic)) = connected else {
        shared.metrics.handshake_failed();
        tracing::debug!(peer = %peer, "QUIC handshake failed");
        return;
    };
    // A probe opens no stream and closes (tunnel protocol, 1.5): that is no error.
    let Ok(Ok((send, receive))) = tokio::time::timeout(REGISTRATION_DEADLINE, quic.accept_bi()).await else {
        quic.close(NO_ERROR, b"no control stream");
        return;
    };
    let mut control = Control {
        shared,
        quic: quic.clone(),
        send,
        receive,
        server: RegistrationServer::new(),
        registered: None,
    };
    let why = control.converse().await;
    if let Some(connection) = control.registered.take() {
        control.leave(&connection).await;
        tracing::info!(connection = %connection.id, tunnel = %connection.tunnel, why, "connection ended");
    }
    quic.close(NO_ERROR, b"");
}

/// The control stream of one connection.
struct Control {
    shared: Arc<Shared>,
    quic: quinn::Connection,
    send: SendStream,
    receive: RecvStream,
    server: RegistrationServer,
    registered: Option<Arc<Connection>>,
}

impl Control {
    /// Serves calls until the connection has ended.
    async fn converse(&mut self) -> &'static str {
        let deadline = tokio::time::sleep(REGISTRATION_DEADLINE);
        tokio::pin!(deadline);
        loop {
            let read = tokio::select! {
                read = self.receive.read_chunk(MAX_READ_BYTES, true) => read,
                () = &mut deadline, if self.registered.is_none() => return "not registered in time",
                () = self.shared.stopping.cancelled() => return "edge stopping",
            };
            // The control stream of a connector that leaves ends first: its flows may go on (tunnel protocol, 2.5).
            let Ok(Some(chunk)) = read else { return self.control_ended().await };
            if let Err(error) = self.server.handle_input(&chunk.bytes) {
                tracing::info!(error = %error, "a connector broke the protocol");
                self.flush().await;
                return "protocol error";
            }
            self.handle_events().await;
            if !self.flush().await {
                return "connection lost";
            }
            if self.server.is_closed() && self.registered.is_none() {
                return "closed without a registration";
            }
        }
    }

    /// An end without a farewell is the connection's end: the connector does not notice by itself (tunnel protocol, 2.4).
    async fn control_ended(&self) -> &'static str {
        match &self.registered {
            Some(connection) if self.shared.connections.remove(connection) => "control stream lost",
            Some(_) | None => self.linger().await,
        }
    }

    /// Waits for the connection of a connector that has said farewell to end.
    async fn linger(&self) -> &'static str {
        tokio::select! {
            _ = self.quic.closed() => "left",
            () = self.shared.stopping.cancelled() => "edge stopping",
        }
    }

    async fn handle_events(&mut self) {
        while let Some(event) = self.server.poll_event() {
            match event {
                ServerEvent::Register { token, request } => self.register(token, &request).await,
                ServerEvent::Unregister { token } => {
                    if let Some(connection) = self.registered.clone() {
                        self.leave(&connection).await;
                        tracing::info!(connection = %connection.id, tunnel = %connection.tunnel, "connection is leaving");
                    }
                    self.server.answer_unregister(token);
                }
                // A report for display, never turned into a route or a name (design, section 4).
                ServerEvent::LocalConfiguration { token, config: _ } => {
                    self.server.answer_local_configuration(token);
                }
                ServerEvent::Aborted { reason } => tracing::debug!(reason, "the connector ended its calls"),
            }
        }
    }

    async fn register(&mut self, token: CallToken, request: &RegisterRequest) {
        let answer = match self.admit(request) {
            Ok((connection, details)) => {
                self.opened(request, &connection).await;
                self.registered = Some(connection);
                Ok(details)
            }
            Err(cause) => {
                self.shared.metrics.registration_refused();
                tracing::warn!(tunnel = %request.tunnel, peer = %self.quic.remote_address(), cause, "registration refused");
                Err(ConnectionError { cause, retry_after: Duration::ZERO, should_retry: true })
            }
        };
        self.server.answer_register(token, answer);
    }

    fn admit(&self, request: &RegisterRequest) -> Result<(Arc<Connection>, ConnectionDetails), String> {
        if self.registered.is_some() {
            return Err("this connection is registered already".to_owned());
        }
        let snapshot = self.shared.snapshots.current();
        let secret = request.auth.secret.expose();
        let tunnel = snapshot
            .admit_connector(&request.auth.account_tag, request.tunnel, secret)
            .map_err(|refusal| refusal.to_string())?;
        let client = &request.options.client;
        let keeps = client.features.iter().any(|feature| feature == HALF_CLOSE_FEATURE);
        let connection = Arc::new(Connection::new(
            ConnectionId::from_uuid(Uuid::new_v4()),
            request.tunnel,
            (client.client_id, request.connection_index),
            if keeps { HalfClose::Kept } else { HalfClose::Held },
            self.quic.clone(),
        ));
        self.shared
            .connections
            .insert(Arc::clone(&connection))
            .map_err(|error| format!("Unauthorized: {error}"))?;
        let details = ConnectionDetails {
            uuid: connection.id,
            location_name: self.shared.node.clone(),
            tunnel_is_remotely_managed: tunnel.remotely_managed,
        };
        Ok((connection, details))
    }

    async fn opened(&self, request: &RegisterRequest, connection: &Connection) {
        self.shared.metrics.connections(self.shared.connections.count());
        let client = &request.options.client;
        tracing::info!(
            connection = %connection.id,
            tunnel = %connection.tunnel,
            connector = %connection.connector,
            index = connection.index,
            "connection registered"
        );
        let opened = ConnectionOpened {
            tunnel: connection.tunnel,
            connection: connection.id,
            connector: connection.connector,
            index: connection.index,
            version: client.version.clone(),
            architecture: client.arch.clone(),
            features: client.features.clone(),
            origin: self.quic.remote_address().ip().to_canonical(),
            node: self.shared.node.clone(),
            at: SystemTime::now(),
        };
        self.shared.records.report(Record::ConnectionOpened(opened)).await;
    }

    /// Takes the connection out of the rotation and reports it, once.
    async fn leave(&self, connection: &Arc<Connection>) {
        if self.shared.connections.remove(connection) {
            self.shared.metrics.connections(self.shared.connections.count());
        }
        if !connection.report_end() {
            return;
        }
        let closed =
            ConnectionClosed { tunnel: connection.tunnel, connection: connection.id, at: SystemTime::now() };
        self.shared.records.report(Record::ConnectionClosed(closed)).await;
    }

    async fn flush(&mut self) -> bool {
        while let Some(bytes) = self.server.poll_transmit() {
            if self.send.write_chunk(bytes).await.is_err() {
                return false;
            }
        }
        true
    }
}

/// Read at once from a control stream, in bytes.
const MAX_READ_BYTES: usize = 64 << 10;
/// For close frames to arrive when the edge stops.
const CLOSE_DEADLINE: Duration = Duration::from_secs(1);
