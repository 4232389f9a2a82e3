//! A connection over HTTP/2 in TLS on TCP, for where UDP does not pass (contract, section 5).
//!
//! The connector dials, and is then the HTTP/2 server: the edge opens a stream for each flow, and one for the control
//! stream first.

use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use adit_transport::http2::{self, Http2Reader, Http2Writer};
use adit_transport::{Duplex, tcp};
use adit_wire::http2::{RequestKind, SOURCE_HEADER, UPGRADE_HEADER};
use bytes::Bytes;
use h2::server::{Connection, SendResponse};
use h2::{Ping, PingPong, RecvStream};
use http::{HeaderValue, Request, Response, StatusCode, header};
use rustls::pki_types::ServerName;
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::client::TlsStream;
use tokio_util::task::TaskTracker;

use super::conversation;
use super::{Attempt, ConnectionFailure, HANDSHAKE_DEADLINE, RECOVERY_HANDSHAKE_DEADLINE, local};
use crate::control::{ControlError, RPC_DEADLINE};
use crate::flow;
use crate::process::ShownLink;

/// The name that an edge's certificate has for HTTP/2 (contract, 1.3).
pub(super) const SERVER_NAME: &str = "h2.cftunnel.com";
/// How often the edge is asked for a sign of life, and after how long without one the connection is lost: as QUIC has it.
const PING_INTERVAL: Duration = Duration::from_secs(1);
const PING_DEADLINE: Duration = Duration::from_secs(5);
/// Idle time after which the kernel probes the edge's host: pings find more, and sooner.
const TCP_KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How long open streams may take to end when the connection is closed.
const CLOSE_DEADLINE: Duration = Duration::from_millis(500);

/// A connection whose handshake is done.
pub(super) struct Link {
    connection: Connection<TlsStream<TcpStream>, Bytes>,
    local: Option<IpAddr>,
}

/// Dials the edge.
pub(super) async fn dial(attempt: &Attempt) -> Result<Link, ConnectionFailure> {
    let deadline = if attempt.recovering { RECOVERY_HANDSHAKE_DEADLINE } else { HANDSHAKE_DEADLINE };
    tokio::time::timeout(deadline, connect(attempt)).await.map_err(|_| ConnectionFailure::TimedOut)?
}

async fn connect(attempt: &Attempt) -> Result<Link, ConnectionFailure> {
    let process = &attempt.process;
    let stream = tcp_connect(process.config.bind, attempt.edge).await.map_err(ConnectionFailure::Tcp)?;
    // A connection that cannot be probed, or waits for more, still works.
    if let Err(error) = tcp::keep_alive(&stream, TCP_KEEP_ALIVE).and(stream.set_nodelay(true)) {
        tracing::debug!(error = %error, "a socket option cannot be set");
    }
    let local = stream.local_addr().ok().map(|address| address.ip());
    let name = ServerName::try_from(SERVER_NAME).expect("a valid name");
    let tls = process.dialers.tls.connect(name, stream).await.map_err(ConnectionFailure::Tcp)?;
    let connection = process.dialers.http2.handshake(tls).await.map_err(ConnectionFailure::Http2)?;
    Ok(Link { connection, local })
}

async fn tcp_connect(bind: Option<IpAddr>, edge: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = if edge.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if bind.is_some() {
        socket.bind(SocketAddr::new(local(bind, edge), 0))?;
    }
    socket.connect(edge).await
}

impl Link {
    /// Registers and serves. `Ok` if the connector closes.
    pub(super) async fn serve(mut self, attempt: &Attempt) -> Result<(), ConnectionFailure> {
        let served = self.converse(attempt).await;
        // What was written still goes out, and the edge is told that the end is one.
        self.connection.graceful_shutdown();
        let closed = poll_fn(|context| self.connection.poll_closed(context));
        let _ = tokio::time::timeout(CLOSE_DEADLINE, closed).await;
        served
    }

    async fn converse(&mut self, attempt: &Attempt) -> Result<(), ConnectionFailure> {
        let flows = TaskTracker::new();
        let alive = alive(self.connection.ping_pong());
        let control = tokio::select! {
            control = tokio::time::timeout(RPC_DEADLINE, self.accept_control(attempt, &flows)) => {
                control.map_err(|_| ControlError::TimedOut)??
            }
            () = attempt.process.stopping.cancelled() => return Ok(()),
        };
        let local = self.local;
        tokio::select! {
            failure = self.accept(attempt, &flows) => Err(failure),
            failure = alive => Err(failure),
            ended = conversation::hold(attempt, ShownLink::Http2, local, control, &flows) => ended,
        }
    }

    /// Waits for the control stream, which the edge opens first (contract, 5.3).
    async fn accept_control(
        &mut self,
        attempt: &Attempt,
        flows: &TaskTracker,
    ) -> Result<Duplex<Http2Reader, Http2Writer>, ConnectionFailure> {
        loop {
            let (request, mut respond) = self.next().await?;
            if kind(&request) != RequestKind::ControlStream {
                serve_stream(attempt, flows, request, respond);
                continue;
            }
            let mut response = Response::new(());
            let content_type = HeaderValue::from_static("application/octet-stream");
            response.headers_mut().insert(header::CONTENT_TYPE, content_type);
            let send = respond.send_response(response, false).map_err(ConnectionFailure::Broken)?;
            return Ok(http2::duplex(send, request.into_body()));
        }
    }

    /// Serves the streams that the edge opens, until the connection is lost.
    async fn accept(&mut self, attempt: &Attempt, flows: &TaskTracker) -> ConnectionFailure {
        loop {
            match self.next().await {
                Ok((request, respond)) => serve_stream(attempt, flows, request, respond),
                Err(failure) => return failure,
            }
        }
    }

    async fn next(&mut self) -> Result<(Request<RecvStream>, SendResponse<Bytes>), ConnectionFailure> {
        match self.connection.accept().await {
            Some(Ok(accepted)) => Ok(accepted),
            Some(Err(error)) => Err(ConnectionFailure::Broken(error)),
            None => Err(ConnectionFailure::Closed),
        }
    }
}

fn serve_stream(
    attempt: &Attempt,
    flows: &TaskTracker,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) {
    let kind = kind(&request);
    if kind == RequestKind::ControlStream {
        // There is one already.
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::CONFLICT;
        // An edge that has gone needs no answer.
        let _ = respond.send_response(response, true);
        return;
    }
    let served = flow::http2::serve(Arc::clone(&attempt.process), kind, request, respond);
    attempt.process.flows.spawn(flows.track_future(served));
}

fn kind(request: &Request<RecvStream>) -> RequestKind {
    let value = |name| request.headers().get(name).map(HeaderValue::as_bytes);
    RequestKind::of(value(UPGRADE_HEADER), value(SOURCE_HEADER))
}

/// Waits until the edge answers no more.
async fn alive(ping: Option<PingPong>) -> ConnectionFailure {
    let Some(mut ping) = ping else { return std::future::pending().await };
    loop {
        tokio::time::sleep(PING_INTERVAL).await;
        match tokio::time::timeout(PING_DEADLINE, ping.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return ConnectionFailure::Broken(error),
            Err(_) => return ConnectionFailure::Silent,
        }
    }
}
