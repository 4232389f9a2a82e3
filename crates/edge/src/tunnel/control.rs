//! The control stream of one connection: registration, reports, farewell (tunnel protocol, 2.2 to 2.5).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use adit_model::{ConnectionClosed, ConnectionId, ConnectionOpened, LocalConfiguration, Record};
use adit_transport::{Duplex, ReadChunk, WriteChunk};
use adit_wire::rpc::{
    CallToken, ConnectionDetails, ConnectionError, RegisterRequest, RegistrationServer, ServerEvent,
};
use bytes::Bytes;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::configuration;
use crate::Shared;
use crate::carrier::{Carrier, Features};
use crate::connections::Connection;
use crate::limits::{LINGER, REFUSED_LINGER, REGISTRATION_DEADLINE};
use crate::pulse::Pulse;

/// The connection that a control stream has registered, for all that serve it.
#[derive(Debug, Clone)]
pub(super) struct Registered(Arc<watch::Sender<Option<Arc<Connection>>>>);

impl Registered {
    pub(super) fn new() -> Self {
        Self(Arc::new(watch::Sender::new(None)))
    }

    fn current(&self) -> Option<Arc<Connection>> {
        self.0.borrow().clone()
    }

    /// Waits for the registration.
    pub(super) async fn wait(&self) -> Arc<Connection> {
        let mut receiver = self.0.subscribe();
        let found = receiver.wait_for(Option::is_some).await.ok().and_then(|found| found.clone());
        match found {
            Some(connection) => connection,
            // The sender lives as long as `self`.
            None => std::future::pending().await,
        }
    }

    /// Takes the connection, if there is one, out of the rotation and reports it, once.
    pub(super) async fn leave(&self, shared: &Shared) -> Option<Arc<Connection>> {
        let connection = self.current()?;
        if shared.connections.remove(&connection) {
            shared.metrics.connections(shared.connections.count());
        }
        if connection.report_end() {
            let (tunnel, id) = (connection.tunnel, connection.id);
            let closed = ConnectionClosed { tunnel, connection: id, at: SystemTime::now() };
            shared.records.report(Record::ConnectionClosed(closed)).await;
        }
        Some(connection)
    }
}

/// A control stream.
pub(super) struct Control<R, W, C> {
    shared: Arc<Shared>,
    stream: Duplex<R, W>,
    peer: SocketAddr,
    pulse: Arc<Pulse>,
    server: RegistrationServer,
    registered: Registered,
    /// Makes the carrier of a connector with these features.
    carrier: C,
}

impl<R: ReadChunk, W: WriteChunk, C: Fn(Features) -> Carrier> Control<R, W, C> {
    pub(super) fn new(
        shared: Arc<Shared>,
        stream: Duplex<R, W>,
        (peer, pulse): (SocketAddr, Arc<Pulse>),
        registered: Registered,
        carrier: C,
    ) -> Self {
        Self { shared, stream, peer, pulse, server: RegistrationServer::new(), registered, carrier }
    }

    /// Serves calls until the connection has ended or is to. `ended`: the transport's own end.
    pub(super) async fn serve(mut self, ended: impl Future, closing: CancellationToken) {
        let why = self.converse(ended, &closing).await;
        if let Some(connection) = self.registered.leave(&self.shared).await {
            tracing::info!(
                connection = %connection.id,
                tunnel = %connection.tunnel,
                protocol = connection.carrier.name(),
                why,
                "connection ended"
            );
        }
        // For an answer that is a refusal, or an `Abort`, to leave before the connection does. Over HTTP/2 a cloudflared has
        // taken note of it when it ends the control stream: one whose connection is gone before that takes this for a lost
        // connection, and gives up (tunnel protocol, 2.7).
        if self.stream.writer.finish().await.is_ok() && why == REFUSED {
            let ended = async { while let Ok(Some(_)) = self.stream.reader.read_chunk().await {} };
            let _ = tokio::time::timeout(REFUSED_LINGER, ended).await;
        }
    }

    async fn converse(&mut self, ended: impl Future, closing: &CancellationToken) -> &'static str {
        let mut ended = std::pin::pin!(ended);
        let mut deadline = std::pin::pin!(tokio::time::sleep(REGISTRATION_DEADLINE));
        loop {
            let is_registered = self.registered.current().is_some();
            let read = tokio::select! {
                read = self.stream.reader.read_chunk() => read,
                () = &mut deadline, if !is_registered => return "not registered in time",
                () = closing.cancelled() => return "closed by the edge",
                () = self.shared.stopping.cancelled() => return "edge stopping",
            };
            // The control stream of a connector that leaves ends first: its flows may go on (tunnel protocol, 2.5).
            let Ok(Some(chunk)) = read else { return self.control_ended(ended.as_mut(), closing).await };
            if let Err(error) = self.server.handle_input(&chunk) {
                tracing::info!(error = %error, "a connector broke the protocol");
                self.flush().await;
                return "protocol error";
            }
            let refused = self.handle_events().await;
            if !self.flush().await {
                return "connection lost";
            }
            if refused {
                return REFUSED;
            }
            if self.server.is_closed() && self.registered.current().is_none() {
                return "closed without a registration";
            }
        }
    }

    /// An end without a farewell is the connection's end: the connector does not notice by itself (tunnel protocol, 2.4).
    async fn control_ended(&self, ended: impl Future, closing: &CancellationToken) -> &'static str {
        if let Some(connection) = self.registered.current()
            && self.shared.connections.remove(&connection)
        {
            return "control stream lost";
        }
        // Of a connector that has said farewell the connection lasts as long as its flows (tunnel protocol, 2.5).
        tokio::select! {
            _ = tokio::time::timeout(LINGER, ended) => "left",
            () = closing.cancelled() => "closed by the edge",
            () = self.shared.stopping.cancelled() => "edge stopping",
        }
    }

    /// Answers calls; whether one was a registration that is refused, after which the connection is of no use.
    async fn handle_events(&mut self) -> bool {
        let mut refused = false;
        while let Some(event) = self.server.poll_event() {
            match event {
                ServerEvent::Register { token, request } => {
                    refused |= !self.register(token, &request).await;
                }
                ServerEvent::Unregister { token } => {
                    if let Some(connection) = self.registered.leave(&self.shared).await {
                        tracing::info!(connection = %connection.id, tunnel = %connection.tunnel, "connection is leaving");
                    }
                    self.server.answer_unregister(token);
                }
                ServerEvent::LocalConfiguration { token, config } => {
                    self.report_configuration(&config).await;
                    self.server.answer_local_configuration(token);
                }
                ServerEvent::Aborted { reason } => tracing::debug!(reason, "the connector ended its calls"),
            }
        }
        refused
    }

    /// A report for display, never turned into a route or a name (design, section 4).
    async fn report_configuration(&self, config: &Bytes) {
        let Some(connection) = self.registered.current() else { return };
        let Ok(config) = std::str::from_utf8(config) else { return };
        let report = LocalConfiguration {
            tunnel: connection.tunnel,
            connector: connection.connector,
            config: config.to_owned(),
        };
        self.shared.records.report(Record::LocalConfiguration(report)).await;
    }

    async fn register(&mut self, token: CallToken, request: &RegisterRequest) -> bool {
        let answer = match self.admit(request) {
            Ok((connection, details)) => {
                self.opened(request, &connection).await;
                self.registered.0.send_replace(Some(Arc::clone(&connection)));
                if details.tunnel_is_remotely_managed {
                    let task = configuration::push(Arc::clone(&self.shared), connection);
                    self.shared.tasks.spawn(task);
                }
                Ok(details)
            }
            Err(cause) => {
                self.shared.metrics.registration_refused();
                tracing::warn!(tunnel = %request.tunnel, peer = %self.peer, cause, "registration refused");
                Err(ConnectionError { cause, retry_after: Duration::ZERO, should_retry: true })
            }
        };
        let admitted = answer.is_ok();
        self.server.answer_register(token, answer);
        admitted
    }

    fn admit(&self, request: &RegisterRequest) -> Result<(Arc<Connection>, ConnectionDetails), String> {
        if self.registered.current().is_some() {
            return Err("Unauthorized: this connection is registered already".to_owned());
        }
        let snapshot = self.shared.snapshots.current();
        let secret = request.auth.secret.expose();
        let tunnel = snapshot
            .admit_connector(&request.auth.account_tag, request.tunnel, secret)
            .map_err(|refusal| refusal.to_string())?;
        let client = &request.options.client;
        let features = Features::of(&client.features);
        let connection = Arc::new(Connection::new(
            ConnectionId::from_uuid(Uuid::new_v4()),
            request.tunnel,
            (client.client_id, request.connection_index),
            features,
            (self.carrier)(features),
            Arc::clone(&self.pulse),
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
            protocol = connection.carrier.name(),
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
            origin: self.peer.ip().to_canonical(),
            node: self.shared.node.clone(),
            at: SystemTime::now(),
        };
        self.shared.records.report(Record::ConnectionOpened(opened)).await;
    }

    async fn flush(&mut self) -> bool {
        while let Some(bytes) = self.server.poll_transmit() {
            if self.stream.writer.write_chunk(bytes).await.is_err() {
                return false;
            }
        }
        true
    }
}

/// Why a connection ends whose registration was refused.
const REFUSED: &str = "registration refused";
