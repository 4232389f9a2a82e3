//! A connection over QUIC (contract, section 2).

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use adit_transport::datagram::{DatagramReceiver, DatagramRouter};
use adit_transport::quic::{self, NO_ERROR};
use bytes::Bytes;
use tokio_util::task::TaskTracker;

use super::conversation;
use super::{Attempt, ConnectionFailure, RECOVERY_HANDSHAKE_DEADLINE, local};
use crate::process::{Process, ShownLink};
use crate::{flow, sessions};

/// The name that an edge's certificate has for QUIC (contract, 1.3).
pub(super) const SERVER_NAME: &str = "quic.cftunnel.com";
/// How long the last packet, which says that the connection is closed, is waited for.
const CLOSE_DEADLINE: Duration = Duration::from_millis(500);

/// A connection whose handshake is done.
pub(super) struct Link {
    endpoint: quinn::Endpoint,
    connection: quinn::Connection,
}

/// Dials the edge.
pub(super) async fn dial(attempt: &Attempt, deadline: Duration) -> Result<Link, ConnectionFailure> {
    let process = &attempt.process;
    let endpoint = quic::dialer(SocketAddr::new(local(process.config.bind, attempt.edge), 0))?;
    let connecting = endpoint.connect_with(process.dialers.quic.clone(), attempt.edge, SERVER_NAME)?;
    let deadline = if attempt.recovering { deadline.min(RECOVERY_HANDSHAKE_DEADLINE) } else { deadline };
    let connected = tokio::time::timeout(deadline, connecting).await;
    let connection =
        connected.map_err(|_| ConnectionFailure::TimedOut)?.map_err(ConnectionFailure::Handshake)?;
    Ok(Link { endpoint, connection })
}

impl Link {
    /// Registers and serves. `Ok` if the connector closes.
    pub(super) async fn serve(self, attempt: &Attempt) -> Result<(), ConnectionFailure> {
        attempt.process.metrics.quic_opened();
        let served = self.converse(attempt).await;
        self.connection.close(NO_ERROR, b"");
        // The endpoint sends until it is dropped.
        let _ = tokio::time::timeout(CLOSE_DEADLINE, self.endpoint.wait_idle()).await;
        attempt.process.metrics.quic_closed();
        served
    }

    async fn converse(&self, attempt: &Attempt) -> Result<(), ConnectionFailure> {
        let quic = &self.connection;
        // The first stream that a connector opens (contract, 2.2).
        let (send, receive) = quic.open_bi().await.map_err(ConnectionFailure::Lost)?;
        let control = quic::duplex(send, receive, Bytes::new());
        let flows = TaskTracker::new();
        let shown = ShownLink::Quic(quic.clone());
        let link = QuicLink::new(quic.clone());
        tokio::select! {
            failure = self.accept(attempt, &link, &flows) => Err(failure),
            failure = link.read_frames(&attempt.process) => Err(failure),
            ended = conversation::hold(attempt, shown, quic.local_ip(), control, &flows) => ended,
        }
    }

    /// Serves the streams that the edge opens, until the connection is lost.
    async fn accept(&self, attempt: &Attempt, link: &QuicLink, flows: &TaskTracker) -> ConnectionFailure {
        loop {
            match self.connection.accept_bi().await {
                Ok((send, receive)) => {
                    let served = flow::quic::serve(Arc::clone(&attempt.process), link.clone(), send, receive);
                    attempt.process.flows.spawn(flows.track_future(served));
                }
                Err(error) => return ConnectionFailure::Lost(error),
            }
        }
    }
}

/// What the streams of one connection share.
#[derive(Debug, Clone)]
pub(crate) struct QuicLink {
    pub(crate) connection: quinn::Connection,
    router: DatagramRouter,
    /// The edge has opened a flow of datagrams as ours do: its frames belong to such flows, and to no sessions.
    carries_flows: Arc<AtomicBool>,
}

impl QuicLink {
    fn new(connection: quinn::Connection) -> Self {
        let router = DatagramRouter::new(connection.clone());
        Self { connection, router, carries_flows: Arc::default() }
    }

    /// Has the frames of a stream's flow queued for it.
    pub(crate) fn register(&self, stream: quinn::StreamId) -> DatagramReceiver {
        self.carries_flows.store(true, Ordering::Relaxed);
        self.router.register(stream)
    }

    /// Takes DATAGRAM frames to where they belong, until the connection is lost.
    async fn read_frames(&self, process: &Arc<Process>) -> ConnectionFailure {
        loop {
            match self.connection.read_datagram().await {
                Ok(frame) if self.carries_flows.load(Ordering::Relaxed) => self.router.route(frame),
                Ok(frame) => sessions::handle_frame(process, &self.connection, frame),
                Err(error) => return ConnectionFailure::Lost(error),
            }
        }
    }
}
