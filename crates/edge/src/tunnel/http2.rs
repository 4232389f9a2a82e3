//! HTTP/2 connections of connectors (tunnel protocol, 5): they dial, and are then the servers.
//!
//! A connector that has never been registered gives up when its connection ends after TLS (2.7), so what is to be refused
//! for want of room is refused before.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use adit_transport::tls::{self, Identity};
use adit_transport::{Duplex, ReadChunk, StreamError, http2};
use adit_wire::http2::{UPGRADE_CONTROL_STREAM, UPGRADE_HEADER};
use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Ping, PingPong};
use http::Request;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::control::{Control, Registered};
use super::handshakes::Handshakes;
use crate::Shared;
use crate::carrier::{Carrier, Http2Carrier};
use crate::config::StartError;
use crate::limits::{
    FAREWELL, GONE_AFTER, HANDSHAKE_DEADLINE, HTTP2_PING, MAX_TLS_HANDSHAKES, PULSE, REGISTRATION_DEADLINE,
};
use crate::pulse::{Heard, Pulse};

/// The bound socket.
pub(super) struct Listener {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

impl Listener {
    pub(super) fn bind(address: SocketAddr, identity: &Identity) -> Result<Self, StartError> {
        let failed = |source| StartError::Listen { listener: "tunnel", address, source };
        // Connectors offer no protocol by name: it follows from the port (tunnel protocol, 1.3).
        let acceptor = TlsAcceptor::from(Arc::new(tls::server_config(identity, &[])?));
        let listener = std::net::TcpListener::bind(address).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        Ok(Self { listener: TcpListener::from_std(listener).map_err(failed)?, acceptor })
    }

    /// Accepts connections until the edge stops.
    pub(super) async fn serve(self, shared: Arc<Shared>) {
        let sources = Handshakes::default();
        let places = Arc::new(Semaphore::new(MAX_TLS_HANDSHAKES));
        let waiting_room = Arc::new(Semaphore::new(MAX_HELD));
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = shared.stopping.cancelled() => return,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Mostly out of file descriptors: open flows will give some back.
                    tracing::warn!(error = %error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let place = Arc::clone(&places).try_acquire_owned().ok();
            if let Some(place) = place.filter(|_| sources.admit(peer.ip(), Instant::now())) {
                let acceptor = self.acceptor.clone();
                shared.tasks.spawn(serve_connection(Arc::clone(&shared), acceptor, stream, peer, place));
            } else {
                shared.metrics.handshake_refused();
                hold(&shared, &waiting_room, stream);
            }
        }
    }
}

/// Refuses a connection, but not at once: whoever dials without a pause waits so long for each dial.
fn hold(shared: &Arc<Shared>, waiting_room: &Arc<Semaphore>, stream: TcpStream) {
    let Ok(place) = Arc::clone(waiting_room).try_acquire_owned() else { return };
    let stopping = shared.stopping.clone();
    shared.tasks.spawn(async move {
        // Either way the connection ends now.
        let _ = tokio::time::timeout(HOLD, stopping.cancelled()).await;
        drop((stream, place));
    });
}

async fn serve_connection(
    shared: Arc<Shared>,
    acceptor: TlsAcceptor,
    stream: TcpStream,
    peer: SocketAddr,
    place: OwnedSemaphorePermit,
) {
    // Frames are written whole: nothing is gained by waiting for more.
    let _ = stream.set_nodelay(true);
    let pulse = Pulse::new();
    let handshake = acceptor.accept(Heard::new(stream, Arc::clone(&pulse)));
    let handshake = tokio::select! {
        handshake = tokio::time::timeout(HANDSHAKE_DEADLINE, handshake) => handshake,
        () = shared.stopping.cancelled() => return,
    };
    drop(place);
    let Ok(Ok(mut stream)) = handshake else {
        shared.metrics.handshake_failed();
        tracing::debug!(peer = %peer, "TLS handshake failed");
        return;
    };
    stream.get_mut().1.set_buffer_limit(Some(TLS_BUFFER_BYTES));
    // A probe closes now (tunnel protocol, 1.5): that is no error.
    let handshake = tokio::time::timeout(HANDSHAKE_DEADLINE, http2::client().handshake(stream)).await;
    let Ok(Ok((requests, mut connection))) = handshake else { return };
    let pings = connection.ping_pong();
    let (closing, ended) = (CancellationToken::new(), CancellationToken::new());
    let driver = drive(connection, closing.clone(), ended.clone());
    shared.tasks.spawn(driver);
    serve(&shared, requests, pings, (peer, &pulse), (&closing, &ended)).await;
    pulse.stop();
    closing.cancel();
    // Until the last bytes are out.
    ended.cancelled().await;
}

/// Moves the connection's bytes; when it is to close, lets the last of them out.
async fn drive(
    connection: h2::client::Connection<impl AsyncRead + AsyncWrite + Unpin, Bytes>,
    closing: CancellationToken,
    ended: CancellationToken,
) {
    let _ended = ended.drop_guard();
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        result = connection.as_mut() => if let Err(error) = result {
            tracing::debug!(error = %error, "HTTP/2 connection ended");
        },
        () = closing.cancelled() => {
            // With its streams and our handle gone, it says GOAWAY and ends by itself.
            let _ = tokio::time::timeout(FAREWELL, connection).await;
        }
    }
}

async fn serve(
    shared: &Arc<Shared>,
    mut requests: SendRequest<Bytes>,
    pings: Option<PingPong>,
    (peer, pulse): (SocketAddr, &Arc<Pulse>),
    (closing, ended): (&CancellationToken, &CancellationToken),
) {
    // The edge opens the control stream, before any other (tunnel protocol, 5.3).
    let request = Request::get("https://localhost/").header(UPGRADE_HEADER, UPGRADE_CONTROL_STREAM).body(());
    let Ok(request) = request else { return };
    let Ok((response, send)) = requests.send_request(request, false) else { return };
    let stream =
        Duplex::new(ControlReader::Asked(Box::pin(response), REGISTRATION_DEADLINE), http2::writer(send));
    let registered = Registered::new();
    let control =
        Control::new(Arc::clone(shared), stream, (peer, Arc::clone(pulse)), registered.clone(), move |_| {
            Carrier::Http2(Http2Carrier::new(requests.clone(), closing.clone()))
        });
    tokio::select! {
        () = control.serve(ended.cancelled(), closing.clone()) => {}
        () = watch(pings, pulse) => tracing::debug!(peer = %peer, "no answer from a connector"),
    }
    if let Some(connection) = registered.leave(shared).await {
        connection.close("ended");
    }
}

/// The control stream's answers. The response comes with their first bytes (tunnel protocol, 5.3).
enum ControlReader {
    Asked(std::pin::Pin<Box<ResponseFuture>>, Duration),
    Answered(http2::Http2Reader),
}

impl ReadChunk for ControlReader {
    async fn read_chunk(&mut self) -> Result<Option<Bytes>, StreamError> {
        if let Self::Asked(response, deadline) = self {
            let lost = |error: Box<dyn std::error::Error + Send + Sync>| StreamError::ConnectionLost(error);
            let response = tokio::time::timeout(*deadline, response).await;
            let response = response.map_err(|late| lost(late.into()))?.map_err(|error| lost(error.into()))?;
            if !response.status().is_success() {
                return Err(StreamError::Reset);
            }
            *self = Self::Answered(http2::reader(response.into_body()));
        }
        match self {
            Self::Answered(reader) => reader.read_chunk().await,
            Self::Asked(..) => Ok(None),
        }
    }

    fn stop(&mut self) {
        if let Self::Answered(reader) = self {
            reader.stop();
        }
    }
}

/// Asks the connector for a sign of life, measures how far away it is, and ends when it does not answer any more.
async fn watch(pings: Option<PingPong>, pulse: &Pulse) {
    let probe = async {
        let Some(mut pings) = pings else { return std::future::pending().await };
        loop {
            let asked = Instant::now();
            if pings.ping(Ping::opaque()).await.is_err() {
                // The control stream will find that the connection has ended.
                return std::future::pending().await;
            }
            pulse.measured(asked.elapsed());
            tokio::time::sleep(HTTP2_PING).await;
        }
    };
    let judge = async {
        let mut tick = tokio::time::interval(PULSE);
        loop {
            tick.tick().await;
            pulse.judge();
            if pulse.silence() >= GONE_AFTER {
                return;
            }
        }
    };
    tokio::select! {
        () = probe => {}
        () = judge => {}
    }
}

/// Connections that are refused and held for a while; more are closed at once.
const MAX_HELD: usize = 256;
/// How long a refused connection is held.
const HOLD: Duration = Duration::from_secs(2);
/// After a failed accept, before the next.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// What rustls may hold of encrypted bytes before it waits for the socket.
const TLS_BUFFER_BYTES: usize = 256 << 10;

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    const PREFACE_BYTES: usize = 24;
    const HEADER_BYTES: usize = 9;
    const SETTINGS: u8 = 4;
    const GOAWAY: u8 = 7;

    /// Type and content of each frame behind the preface.
    fn frames(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
        let mut frames = Vec::new();
        bytes = &bytes[PREFACE_BYTES..];
        while let Some((header, rest)) = bytes.split_at_checked(HEADER_BYTES) {
            let length = usize::from(header[1]) << 8 | usize::from(header[2]);
            let (content, behind) = rest.split_at(length);
            frames.push((header[3], content.to_vec()));
            bytes = behind;
        }
        frames
    }

    #[tokio::test]
    async fn a_connection_that_is_to_close_says_goaway_and_ends() {
        let (ours, mut theirs) = tokio::io::duplex(64 << 10);
        let (mut requests, connection) = http2::client().handshake::<_, Bytes>(ours).await.unwrap();
        let (closing, ended) = (CancellationToken::new(), CancellationToken::new());
        tokio::spawn(drive(connection, closing.clone(), ended.clone()));
        theirs.write_all(&[0, 0, 0, SETTINGS, 0, 0, 0, 0, 0]).await.unwrap();
        let control = requests.send_request(Request::new(()), false).unwrap();
        let carrier = Carrier::Http2(Http2Carrier::new(requests, closing));
        assert!(carrier.is_open());
        carrier.close("test");
        assert!(!carrier.is_open());
        drop(control);
        let mut sent = Vec::new();
        theirs.read_to_end(&mut sent).await.unwrap();
        ended.cancelled().await;
        let (kind, content) = frames(&sent).pop().unwrap();
        assert_eq!((kind, &content[4..8]), (GOAWAY, &[0; 4][..]), "no error");
    }
}
