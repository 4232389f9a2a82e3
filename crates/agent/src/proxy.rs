//! The agent without an interface: programs that know proxies come to a port of this host instead.
//!
//! SOCKS5 and HTTP `CONNECT` on one port, told apart by the first byte. What they ask for goes the same way as captured
//! flows: the same identity, the same rules, the same refusals, in the words of the program's protocol. It needs no right
//! that an ordinary program does not have.
//!
//! What always holds: it listens on a loopback address only, since whoever reaches it acts as this device. What it does not
//! do: authentication, and going around the edge; what the edge does not route is refused.

mod associate;
mod http;
mod socks;
mod target;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use adit_model::Refusal;
use adit_transport::splice::{HalfClose, Passed, splice};
use adit_transport::{Duplex, WriteChunk as _, tcp};
use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::carrier::{Carrier, OpenError};
use crate::slot;
use crate::status::{ConnectionState, Status};
use socks::{Greeting, Request};
use target::Target;

/// How long a program may take to say what it wants.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// Connections at once; more wait to be accepted.
const MAX_CONNECTIONS: usize = 4096;
/// How often a connection that carries nothing is asked whether its program is still there.
const KEEP_ALIVE: Duration = Duration::from_mins(1);
/// After an accept that failed, for want of descriptors for example.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where the proxy listens: an address that only this host's programs reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProxyAddress(SocketAddr);

/// An address that the proxy does not listen on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProxyAddressError {
    /// Other hosts could reach it.
    #[error(
        "not a loopback address: whoever reaches the proxy acts as this device; use 127.0.0.1:PORT or [::1]:PORT"
    )]
    NotLoopback,
    /// No address.
    #[error("expected a loopback address and a port, such as 127.0.0.1:1080")]
    Malformed,
}

impl ProxyAddress {
    /// The address.
    pub fn get(self) -> SocketAddr {
        self.0
    }
}

impl FromStr for ProxyAddress {
    type Err = ProxyAddressError;

    fn from_str(text: &str) -> Result<Self, ProxyAddressError> {
        let address: SocketAddr = text.parse().map_err(|_| ProxyAddressError::Malformed)?;
        if address.ip().is_loopback() { Ok(Self(address)) } else { Err(ProxyAddressError::NotLoopback) }
    }
}

impl fmt::Display for ProxyAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The port cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}")]
pub struct ProxyError {
    address: SocketAddr,
    #[source]
    source: io::Error,
}

/// The open port.
#[derive(Debug)]
pub(crate) struct Proxy {
    listener: TcpListener,
}

impl Proxy {
    pub(crate) async fn bind(address: ProxyAddress) -> Result<Self, ProxyError> {
        let failed = |source| ProxyError { address: address.get(), source };
        Ok(Self { listener: TcpListener::bind(address.get()).await.map_err(failed)? })
    }

    /// The port in use, if the system chose it.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        self.listener.local_addr().ok()
    }

    /// Serves programs until it is cancelled. Everything they have open ends when the device is no longer to be connected.
    pub(crate) async fn serve<C: Carrier + Clone>(
        self,
        carrier: watch::Receiver<Option<C>>,
        mut status: watch::Receiver<Status>,
    ) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = self.listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                    Ok((stream, _)) => {
                        let door = Door { carrier: carrier.clone(), status: status.clone() };
                        connections.spawn_local(serve(stream, door));
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(_) = connections.join_next() => {}
                Ok(()) = status.changed() => {
                    if !to_be_connected(&status.borrow_and_update()) {
                        connections.abort_all();
                    }
                }
            }
        }
    }
}

fn to_be_connected(status: &Status) -> bool {
    match status.state {
        ConnectionState::Connecting | ConnectionState::Connected => true,
        ConnectionState::NotEnrolled | ConnectionState::Disconnected | ConnectionState::ReauthRequired => {
            false
        }
    }
}

/// Why a program does not get what it asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failure {
    /// The edge said why.
    Refused(Refusal),
    /// There is no edge to ask.
    NotConnected,
    /// The name has no address.
    Unresolved,
}

/// The way to the edge.
struct Door<C> {
    carrier: watch::Receiver<Option<C>>,
    status: watch::Receiver<Status>,
}

impl<C> Clone for Door<C> {
    fn clone(&self) -> Self {
        Self { carrier: self.carrier.clone(), status: self.status.clone() }
    }
}

impl<C: Carrier + Clone> Door<C> {
    /// Opens a flow to the first of the target's addresses to which there is one.
    async fn open<F>(
        &mut self,
        target: &Target,
        open: impl AsyncFn(&C, SocketAddr) -> Result<F, OpenError>,
    ) -> Result<F, Failure> {
        if !to_be_connected(&self.status.borrow()) {
            return Err(Failure::NotConnected);
        }
        let addresses = target.resolve().await.map_err(|_| Failure::Unresolved)?;
        let mut failure = Failure::Unresolved;
        for address in addresses {
            let carrier = slot::present(&mut self.carrier).await.map_err(|_| Failure::NotConnected)?;
            match open(&carrier, address).await {
                Ok(flow) => return Ok(flow),
                Err(OpenError::Refused(refusal)) => failure = Failure::Refused(refusal),
                Err(OpenError::Lost) => return Err(Failure::NotConnected),
            }
        }
        Err(failure)
    }
}

/// What a program has asked for, and in which language it wants the answer.
enum Asked {
    Socks(Request),
    Http(Target),
}

async fn serve<C: Carrier + Clone>(mut stream: TcpStream, door: Door<C>) {
    // Without it the connection works as well, only a vanished program goes unnoticed.
    let _ = tcp::keep_alive(&stream, KEEP_ALIVE);
    let mut early = BytesMut::new();
    let served = match timeout(HANDSHAKE_LIMIT, asked(&mut stream, &mut early)).await {
        Ok(Ok(Some(Asked::Socks(Request::Associate)))) => associate::serve(stream, door).await,
        Ok(Ok(Some(Asked::Socks(Request::Connect(target))))) => {
            let failed = |failure| socks::failure(failure).to_vec();
            connect(stream, door, &target, early.freeze(), (socks::success(None), failed)).await
        }
        Ok(Ok(Some(Asked::Http(target)))) => {
            let failed = |failure| http::failure(failure).into_bytes();
            connect(stream, door, &target, early.freeze(), (http::SUCCESS.to_vec(), failed)).await
        }
        Ok(Ok(None)) | Err(_) => Ok(()),
        Ok(Err(error)) => Err(error),
    };
    if let Err(error) = served {
        tracing::debug!(%error, "connection to the proxy ended");
    }
}

/// Reads until it is clear what the program wants; nothing if it is nothing that is served, which it was told then. What
/// it has sent beyond that stays in `buffer`.
async fn asked(stream: &mut TcpStream, buffer: &mut BytesMut) -> io::Result<Option<Asked>> {
    let mut greeted = false;
    loop {
        match buffer.first() {
            Some(&socks::VERSION) if !greeted => {
                if let Some((greeting, length)) = socks::greeting(buffer) {
                    buffer.advance(length);
                    stream.write_all(&greeting.answer()).await?;
                    if greeting == Greeting::NoMethod {
                        return Ok(None);
                    }
                    greeted = true;
                    continue;
                }
            }
            Some(_) if greeted => match socks::request(buffer) {
                Ok(None) => {}
                Ok(Some((request, length))) => {
                    buffer.advance(length);
                    return Ok(Some(Asked::Socks(request)));
                }
                Err(unserved) => {
                    stream.write_all(&unserved.reply()).await?;
                    return Ok(None);
                }
            },
            Some(byte) if byte.is_ascii_alphabetic() => match http::request(buffer) {
                Ok(None) => {}
                Ok(Some((target, length))) => {
                    buffer.advance(length);
                    return Ok(Some(Asked::Http(target)));
                }
                Err(unserved) => {
                    stream.write_all(unserved.answer().as_bytes()).await?;
                    return Ok(None);
                }
            },
            Some(_) => return Ok(None),
            None => {}
        }
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
}

/// Carries a TCP flow to `target`. `early` is what the program sent before it was answered.
async fn connect<C: Carrier + Clone>(
    mut stream: TcpStream,
    mut door: Door<C>,
    target: &Target,
    early: Bytes,
    (success, failed): (Vec<u8>, impl Fn(Failure) -> Vec<u8>),
) -> io::Result<()> {
    let opened = door.open(target, async |carrier, address| carrier.open(address).await).await;
    let mut far: Duplex<C::Reader, C::Writer> = match opened {
        Ok(far) => far,
        Err(failure) => {
            tracing::debug!(%target, ?failure, "flow refused");
            return stream.write_all(&failed(failure)).await;
        }
    };
    stream.write_all(&success).await?;
    if !early.is_empty() && far.writer.write_chunk(early).await.is_err() {
        far.reset();
        return Ok(());
    }
    let mut near = tcp::duplex(stream);
    let mut passed = Passed::default();
    let end = splice(&mut near, &mut far, HalfClose::Kept, &mut passed).await;
    tracing::debug!(%target, up = passed.up, down = passed.down, ?end, "flow ended");
    Ok(())
}

/// Feeds any bytes to the parsers of the proxy.
#[doc(hidden)]
pub fn fuzz_proxy(data: &[u8]) {
    if let Some((_, length)) = socks::greeting(data) {
        assert!(length <= data.len());
    }
    if let Ok(Some((request, length))) = socks::request(data) {
        assert!(length <= data.len());
        if let Request::Connect(Target::Address(address)) = request {
            assert_ne!(address.port(), 0);
        }
    }
    if let Some((Target::Address(address), header)) = socks::datagram(data) {
        let again = socks::encode_datagram(address, &data[header..]);
        assert_eq!(socks::datagram(&again).map(|(target, _)| target), Some(Target::Address(address)));
    }
    if let Ok(Some((target, length))) = http::request(data) {
        assert!(length <= data.len());
        assert_eq!(Target::from_authority(&target.to_string()), Some(target));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_proxy_listens_on_loopback_only() {
        for right in ["127.0.0.1:1080", "127.0.0.53:0", "[::1]:1080"] {
            assert_eq!(right.parse::<ProxyAddress>().unwrap().to_string(), right);
        }
        for (wrong, error) in [
            ("0.0.0.0:1080", ProxyAddressError::NotLoopback),
            ("[::]:1080", ProxyAddressError::NotLoopback),
            ("192.0.2.1:1080", ProxyAddressError::NotLoopback),
            ("1080", ProxyAddressError::Malformed),
            ("localhost:1080", ProxyAddressError::Malformed),
        ] {
            assert_eq!(wrong.parse::<ProxyAddress>(), Err(error), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn bytes_from_anywhere_do_no_harm(data in proptest::collection::vec(any::<u8>(), 0..300)) {
            fuzz_proxy(&data);
        }
    }
}
