//! DNS over TLS (RFC 7858): a listener of its own, where the name that a client asks for says which location it means.
//!
//! A client that the location does not answer is left before the handshake is through. One that is connected when the
//! location's networks change is told so, query by query. What always holds: connections, queries at once and waits are
//! bounded, and no account's clients take the others' place.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use adit_model::{Admission, DnsProtocol, Location, LocationId};
use adit_transport::messages::{self, Limits};
use adit_transport::{io, tls};
use adit_wire::dns::hickory_proto::op::{Message, ResponseCode};
use adit_wire::dns::{ExtendedError, MAX_MESSAGE_BYTES, MAX_QUERY_BYTES, NotResolvable, encode, failure};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::server::TlsStream;
use tokio_rustls::{LazyConfigAcceptor, StartHandshake};

use super::{Asker, query};
use crate::Shared;
use crate::config::StartError;
use crate::hostname::{Hostnames, Served};
use crate::limits::{HANDSHAKE_DEADLINE, MAX_TLS_HANDSHAKES};

/// The bound listener.
pub(crate) struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    config: Arc<rustls::ServerConfig>,
    handshakes: Arc<Semaphore>,
    /// Those that are through.
    connections: Arc<Semaphore>,
}

impl Listener {
    pub(crate) fn bind(address: SocketAddr, hostnames: Arc<Hostnames>) -> Result<Self, StartError> {
        let failed = |source| StartError::Listen { listener: "dot", address, source };
        // A client that speaks another protocol is told in the handshake; one that names none is served (RFC 7858, 3.1).
        let config = Arc::new(tls::named_server_config(hostnames, &[b"dot"])?);
        let socket = std::net::TcpListener::bind(address).map_err(failed)?;
        socket.set_nonblocking(true).map_err(failed)?;
        let socket = TcpListener::from_std(socket).map_err(failed)?;
        let address = socket.local_addr().map_err(failed)?;
        let (handshakes, connections) =
            (Arc::new(Semaphore::new(MAX_TLS_HANDSHAKES)), Arc::new(Semaphore::new(MAX_CONNECTIONS)));
        Ok(Self { socket, address, config, handshakes, connections })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) async fn serve(self, shared: Arc<Shared>) {
        loop {
            let permit = tokio::select! {
                permit = Arc::clone(&self.handshakes).acquire_owned() => permit,
                () = shared.stopping.cancelled() => return,
            };
            let Ok(permit) = permit else { return };
            let accepted = tokio::select! {
                accepted = self.socket.accept() => accepted,
                () = shared.stopping.cancelled() => return,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let (shared, config) = (Arc::clone(&shared), Arc::clone(&self.config));
                    let permits = (permit, Arc::clone(&self.connections));
                    shared.tasks.clone().spawn(serve_connection(shared, config, stream, peer, permits));
                }
                Err(error) => {
                    // Mostly out of file descriptors: open connections will give some back.
                    tracing::warn!(%error, "cannot accept a connection of DNS over TLS");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

async fn serve_connection(
    shared: Arc<Shared>,
    config: Arc<rustls::ServerConfig>,
    stream: TcpStream,
    peer: SocketAddr,
    (permit, connections): (OwnedSemaphorePermit, Arc<Semaphore>),
) {
    // Answers are written whole: nothing is gained by waiting for more.
    let _ = stream.set_nodelay(true);
    let handshake = tokio::time::timeout(HANDSHAKE_DEADLINE, handshake(&shared, config, stream, peer)).await;
    drop(permit);
    match handshake {
        Ok(Ok(Some((served, location, stream)))) => {
            let places = (shared.dns.connections.take(location.account), connections.try_acquire());
            let (Some(_of_account), Ok(_of_all)) = places else {
                return tracing::debug!(location = %location.id, "too many connections of DNS over TLS");
            };
            let serving = answer(&shared, location.id, *stream, peer);
            tokio::select! {
                () = serving => {}
                () = served.removed().cancelled() => {}
                () = shared.stopping.cancelled() => {}
            }
        }
        Ok(Ok(None)) => {}
        Ok(Err(error)) => {
            shared.metrics.handshake_failed();
            tracing::debug!(%peer, %error, "TLS handshake failed");
        }
        Err(_) => shared.metrics.handshake_failed(),
    }
}

/// A connection to a location that answers who made it.
type Admitted = (Arc<Served>, Arc<Location>, Box<TlsStream<TcpStream>>);

async fn handshake(
    shared: &Shared,
    config: Arc<rustls::ServerConfig>,
    stream: TcpStream,
    peer: SocketAddr,
) -> std::io::Result<Option<Admitted>> {
    let start = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream).await?;
    let Some((served, location)) = meant(shared, &start) else {
        tracing::debug!(%peer, "DNS over TLS was asked of a name that is no location's");
        return Ok(None);
    };
    let admission = location.admits_tls(peer.ip());
    if admission != Admission::Admitted {
        shared.metrics.dns_refused(DnsProtocol::Tls);
        tracing::debug!(%peer, location = %location.id, ?admission, "a client of DNS over TLS is refused");
        return Ok(None);
    }
    let stream = start.into_stream(config).await?;
    Ok(Some((served, location, Box::new(stream))))
}

/// The location whose host a client asks for.
fn meant(shared: &Shared, start: &StartHandshake<TcpStream>) -> Option<(Arc<Served>, Arc<Location>)> {
    let snapshot = shared.snapshots.current();
    let hello = start.client_hello();
    let served = shared.hostnames.find(&snapshot, hello.server_name()?)?;
    let location = snapshot.location(served.location()?)?;
    Some((served, Arc::clone(location)))
}

/// Answers what is asked until the client ends, misbehaves, or asks nothing for so long.
async fn answer(shared: &Shared, location: LocationId, stream: TlsStream<TcpStream>, peer: SocketAddr) {
    let limits =
        Limits { message_bytes: MAX_QUERY_BYTES, under_way: super::MAX_QUERIES_OF_ONE, idle: Some(IDLE) };
    let answered = |message: bytes::Bytes| async move {
        let snapshot = shared.snapshots.current();
        let location = snapshot.location(location)?;
        if location.admits_tls(peer.ip()) != Admission::Admitted {
            shared.metrics.dns_refused(DnsProtocol::Tls);
            return refused(&message).map(|refused| encode(&refused, MAX_MESSAGE_BYTES));
        }
        let asker = Asker {
            account: location.account,
            registration: None,
            source: peer,
            resolver: None,
            protocol: DnsProtocol::Tls,
            location: Some(Arc::clone(location)),
            user: None,
        };
        drop(snapshot);
        let answer = query::answer(shared, &asker, &message).await?;
        Some(encode(&answer, MAX_MESSAGE_BYTES))
    };
    if let Err(error) = messages::serve(&mut io::duplex(stream), limits, answered).await {
        tracing::debug!(%peer, %error, "a connection of DNS over TLS ends");
    }
}

/// The answer to a query from where nobody is answered any more.
fn refused(query: &[u8]) -> Option<Message> {
    match adit_wire::dns::query(query) {
        Ok(query) => {
            let words = "this address is in none of the networks of the DNS location";
            Some(failure(&query, ResponseCode::Refused, Some((ExtendedError::Prohibited, words))))
        }
        Err(NotResolvable::Answer(answer)) => Some(*answer),
        Err(NotResolvable::NoQuery) => None,
    }
}

/// After a failed accept, before the next.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Connections at once, of all accounts: each holds some 30 KiB and a file descriptor.
const MAX_CONNECTIONS: usize = 8192;
/// For how long a client may ask nothing while nothing is under way, and take no answer (RFC 7766, 6.2.3).
const IDLE: Duration = Duration::from_secs(30);
