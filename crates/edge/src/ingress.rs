//! The HTTPS listener: TLS, and by its ALPN the device protocol or the management hosts.

use std::net::SocketAddr;
use std::sync::Arc;

use adit_model::PresentedKey;
use adit_transport::tls::{self, Identity};
use adit_wire::device;
use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::server::TlsStream;
use tokio_rustls::{LazyConfigAcceptor, StartHandshake};

use crate::Shared;
use crate::config::StartError;
use crate::hostname::{Hostnames, Served};
use crate::limits::{HANDSHAKE_DEADLINE, MAX_TLS_HANDSHAKES};

/// The bound listener.
pub(crate) struct Ingress {
    listener: TcpListener,
    address: SocketAddr,
    doors: Arc<Doors>,
}

/// What a connection may become.
struct Doors {
    names: Vec<String>,
    devices: Arc<rustls::ServerConfig>,
    web: Arc<rustls::ServerConfig>,
    public: Arc<rustls::ServerConfig>,
    management: Router,
    enrolment: Router,
    handshakes: Arc<Semaphore>,
}

impl Ingress {
    pub(crate) fn bind(
        address: SocketAddr,
        identity: &Identity,
        names: Vec<String>,
        hostnames: Arc<Hostnames>,
        management: Router,
        enrolment: Router,
    ) -> Result<Self, StartError> {
        let failed = |source| StartError::Listen { listener: "https", address, source };
        let doors = Doors {
            names,
            devices: Arc::new(tls::device_server_config(identity, device::ALPN)?),
            web: Arc::new(tls::server_config(identity, &[b"h2", b"http/1.1"])?),
            public: Arc::new(tls::named_server_config(hostnames, &[b"h2", b"http/1.1"])?),
            management,
            enrolment,
            handshakes: Arc::new(Semaphore::new(MAX_TLS_HANDSHAKES)),
        };
        let listener = std::net::TcpListener::bind(address).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let listener = TcpListener::from_std(listener).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, address, doors: Arc::new(doors) })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) async fn serve(self, shared: Arc<Shared>) {
        loop {
            let permit = tokio::select! {
                permit = Arc::clone(&self.doors.handshakes).acquire_owned() => permit,
                () = shared.stopping.cancelled() => return,
            };
            let Ok(permit) = permit else { return };
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = shared.stopping.cancelled() => return,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let (shared, doors) = (Arc::clone(&shared), Arc::clone(&self.doors));
                    shared.tasks.clone().spawn(serve_connection(shared, doors, stream, peer, permit));
                }
                Err(error) => {
                    // Mostly out of file descriptors: open flows will give some back.
                    tracing::warn!(error = %error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

async fn serve_connection(
    shared: Arc<Shared>,
    doors: Arc<Doors>,
    stream: TcpStream,
    peer: SocketAddr,
    permit: OwnedSemaphorePermit,
) {
    // Frames and answers are written whole: nothing is gained by waiting for more.
    let _ = stream.set_nodelay(true);
    let handshake = tokio::time::timeout(HANDSHAKE_DEADLINE, handshake(&shared, &doors, stream)).await;
    drop(permit);
    match handshake {
        Ok(Ok(Some(Door::Device(stream)))) => {
            let Some(key) = tls::presented_public_key(stream.get_ref().1).map(<[u8]>::to_vec) else { return };
            let key = PresentedKey::new(key);
            crate::device::serve_http2(shared, doors.enrolment.clone(), *stream, peer, key).await;
        }
        Ok(Ok(Some(Door::Web(stream)))) => serve_web(&shared, &doors, *stream, peer).await,
        Ok(Ok(Some(Door::Public(served, stream)))) => {
            crate::hostname::serve(shared, served, *stream, peer).await;
        }
        Ok(Ok(None)) => tracing::debug!(peer = %peer, "asked for a name that is not served"),
        Ok(Err(error)) => {
            shared.metrics.handshake_failed();
            tracing::debug!(peer = %peer, error = %error, "TLS handshake failed");
        }
        Err(_) => shared.metrics.handshake_failed(),
    }
}

/// What a connection became.
enum Door {
    Device(Box<TlsStream<TcpStream>>),
    Web(Box<TlsStream<TcpStream>>),
    Public(Arc<Served>, Box<TlsStream<TcpStream>>),
}

async fn handshake(shared: &Shared, doors: &Doors, stream: TcpStream) -> std::io::Result<Option<Door>> {
    let start = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream).await?;
    if !names_match(&start, &doors.names) {
        let snapshot = shared.snapshots.current();
        let asked =
            start.client_hello().server_name().and_then(|name| shared.hostnames.find(&snapshot, name));
        let Some(served) = asked else { return Ok(None) };
        let stream = start.into_stream(Arc::clone(&doors.public)).await?;
        return Ok(Some(Door::Public(served, Box::new(stream))));
    }
    let is_device =
        start.client_hello().alpn().into_iter().flatten().any(|protocol| protocol == device::ALPN);
    if is_device {
        let mut stream = start.into_stream(Arc::clone(&doors.devices)).await?;
        stream.get_mut().1.set_buffer_limit(Some(TLS_BUFFER_BYTES));
        Ok(Some(Door::Device(Box::new(stream))))
    } else {
        let stream = start.into_stream(Arc::clone(&doors.web)).await?;
        Ok(Some(Door::Web(Box::new(stream))))
    }
}

/// A client that dialled an address names no server (RFC 6066, section 3).
fn names_match(start: &StartHandshake<TcpStream>, names: &[String]) -> bool {
    match start.client_hello().server_name() {
        None => true,
        Some(asked) => names.iter().any(|name| name.eq_ignore_ascii_case(asked.trim_end_matches('.'))),
    }
}

async fn serve_web(shared: &Shared, doors: &Doors, stream: TlsStream<TcpStream>, peer: SocketAddr) {
    let router = doors.management.clone().layer(axum::Extension(peer));
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HANDSHAKE_DEADLINE);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_concurrent_streams(MAX_WEB_STREAMS);
    let connection =
        builder.serve_connection_with_upgrades(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shared.stopping.cancelled() => {
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(crate::limits::FAREWELL, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(peer = %peer, error = %error, "connection ended");
    }
}

/// What rustls may hold of encrypted bytes before it waits for the socket. Its default of 64 KiB makes four times as many
/// system calls on a bulk flow.
const TLS_BUFFER_BYTES: usize = 256 << 10;
/// After a failed accept, before the next.
const ACCEPT_PAUSE: std::time::Duration = std::time::Duration::from_millis(100);
/// How often an idle HTTP/2 client of the management hosts is probed.
const KEEP_ALIVE: std::time::Duration = std::time::Duration::from_secs(30);
/// Requests of one client at once.
const MAX_WEB_STREAMS: u32 = 256;
