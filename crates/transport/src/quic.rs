//! QUIC (RFC 9000) by quinn: endpoints tuned for bulk flows, and its streams as chunks.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quinn::{ConnectionError, Endpoint, EndpointConfig, RecvStream, SendStream, TokioRuntime, VarInt};
use rustls::{ClientConfig, ServerConfig};
use socket2::{Domain, Socket, Type};
use tokio::io::AsyncReadExt;

use crate::buffer::ReadBuffer;
use crate::stream::{Duplex, ReadChunk, StreamError, WriteChunk};

/// How long a peer may be silent before its connection is dead (tunnel protocol, 2.1).
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(5);
/// How often the side that dialled shows that it lives (tunnel protocol, 2.1).
pub const KEEP_ALIVE: Duration = Duration::from_secs(1);
/// The application error code of every reset and close (tunnel protocol, 2.5 and 3.5).
pub const NO_ERROR: VarInt = VarInt::from_u32(0);

/// What connections of one kind may do, and for how long they live without a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// How long the peer may be silent before its connection is dead. The shorter one of both sides counts.
    pub idle_timeout: Duration,
    /// How often we show that we live, when there is nothing else to say.
    pub keep_alive: Option<Duration>,
    /// Bidirectional streams that the peer may have open at once. quinn keeps a slot for each from the start, some 24 bytes.
    pub incoming_streams: u32,
    /// What the peer may have on its way on one stream, in bytes.
    pub stream_window: u32,
    /// What the peer may have on its way on the connection, and what we hold unacknowledged, in bytes each.
    pub connection_window: u32,
}

impl Limits {
    /// The side of the tunnel protocol that dials, keeps alive, and lets the peer open as many streams as it likes.
    pub const CONNECTOR: Self = Self {
        idle_timeout: IDLE_TIMEOUT,
        keep_alive: Some(KEEP_ALIVE),
        incoming_streams: MAX_INCOMING_STREAMS,
        stream_window: STREAM_WINDOW,
        connection_window: CONNECTION_WINDOW,
    };
    /// The side of the tunnel protocol that listens, and opens the streams.
    pub const EDGE: Self = Self {
        idle_timeout: IDLE_TIMEOUT,
        keep_alive: None,
        incoming_streams: MAX_CONNECTOR_STREAMS,
        stream_window: STREAM_WINDOW,
        connection_window: CONNECTION_WINDOW,
    };
}

/// An endpoint could not be made.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// The address cannot be bound.
    #[error("cannot listen on UDP {address}")]
    Bind {
        /// Which.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The TLS configuration cannot be used for QUIC.
    #[error("TLS 1.3 with AES-128-GCM is needed for QUIC")]
    Tls(#[source] quinn::crypto::rustls::NoInitialCipherSuite),
}

/// An endpoint that listens for connectors at `address`.
///
/// # Errors
/// The address is in use or not this host's, or `tls` lacks what QUIC needs.
pub fn listen(address: SocketAddr, tls: ServerConfig) -> Result<Endpoint, EndpointError> {
    listen_with(address, tls, Limits::EDGE)
}

/// An endpoint that listens at `address`, with these limits.
///
/// # Errors
/// The address is in use or not this host's, or `tls` lacks what QUIC needs.
pub fn listen_with(
    address: SocketAddr,
    tls: ServerConfig,
    limits: Limits,
) -> Result<Endpoint, EndpointError> {
    let crypto = quinn::crypto::rustls::QuicServerConfig::try_from(tls).map_err(EndpointError::Tls)?;
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    config.transport_config(Arc::new(transport_config(limits))).migration(true);
    config.max_incoming(MAX_HANDSHAKES).incoming_buffer_size_total(MAX_HANDSHAKES as u64 * (16 << 10));
    endpoint(address, Some(config))
}

/// An endpoint that dials from `address`, or from any of the family when its port is 0 and its address unspecified.
///
/// # Errors
/// The address cannot be bound.
pub fn dialer(address: SocketAddr) -> Result<Endpoint, EndpointError> {
    endpoint(address, None)
}

/// What a dialling endpoint needs to know for one connection of a connector.
///
/// # Errors
/// `tls` lacks what QUIC needs.
pub fn client_config(tls: ClientConfig) -> Result<quinn::ClientConfig, EndpointError> {
    client_config_with(tls, Limits::CONNECTOR)
}

/// What a dialling endpoint needs to know for one connection, with these limits.
///
/// # Errors
/// `tls` lacks what QUIC needs.
pub fn client_config_with(tls: ClientConfig, limits: Limits) -> Result<quinn::ClientConfig, EndpointError> {
    let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(tls).map_err(EndpointError::Tls)?;
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    config.transport_config(Arc::new(transport_config(limits)));
    Ok(config)
}

fn transport_config(limits: Limits) -> quinn::TransportConfig {
    let mut config = quinn::TransportConfig::default();
    config
        .max_idle_timeout(limits.idle_timeout.try_into().ok())
        .stream_receive_window(limits.stream_window.into())
        .receive_window(limits.connection_window.into())
        .send_window(u64::from(limits.connection_window))
        .datagram_receive_buffer_size(Some(1 << 20))
        .initial_rtt(Duration::from_millis(50))
        .keep_alive_interval(limits.keep_alive)
        .max_concurrent_bidi_streams(limits.incoming_streams.into())
        .max_concurrent_uni_streams(0_u8.into())
        .ack_frequency_config(Some(ack_frequency()))
        .mtu_discovery_config(Some(mtu_discovery()));
    config
}

/// One ACK for many packets: on a bulk flow acknowledgements are half of all packets otherwise. Peers without the
/// extension (draft-ietf-quic-ack-frequency) are not concerned.
fn ack_frequency() -> quinn::AckFrequencyConfig {
    let mut config = quinn::AckFrequencyConfig::default();
    config.ack_eliciting_threshold(30_u8.into()).max_ack_delay(Some(Duration::from_millis(10)));
    config
}

fn mtu_discovery() -> quinn::MtuDiscoveryConfig {
    let mut config = quinn::MtuDiscoveryConfig::default();
    config.upper_bound(ETHERNET_PAYLOAD_BYTES);
    config
}

fn endpoint(address: SocketAddr, server: Option<quinn::ServerConfig>) -> Result<Endpoint, EndpointError> {
    let socket = udp_socket(address).map_err(|source| EndpointError::Bind { address, source })?;
    let mut config = EndpointConfig::default();
    // Larger than any packet of ours, so that a peer's discovery may find an Ethernet's full size.
    config.max_udp_payload_size(u16::MAX - 28).expect("below the largest UDP payload");
    Endpoint::new(config, server, socket, Arc::new(TokioRuntime))
        .map_err(|source| EndpointError::Bind { address, source })
}

fn udp_socket(address: SocketAddr) -> io::Result<std::net::UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None)?;
    if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
        socket.set_only_v6(false)?;
    }
    // The kernel may give less (net.core.rmem_max), which costs speed on long paths and nothing else.
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER_BYTES);
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// The reading half of a QUIC stream.
#[derive(Debug)]
pub struct QuicReader {
    stream: RecvStream,
    buffer: ReadBuffer,
    /// Read already, behind a message at the start of the stream.
    ahead: Bytes,
}

/// The writing half of a QUIC stream.
#[derive(Debug)]
pub struct QuicWriter {
    stream: SendStream,
}

/// A QUIC stream as chunks, the first of which is `ahead`: what was read already behind a message at the start.
pub fn duplex(send: SendStream, receive: RecvStream, ahead: Bytes) -> Duplex<QuicReader, QuicWriter> {
    Duplex::new(reader(receive, ahead), writer(send))
}

/// The reading half of a stream as chunks, the first of which is `ahead`.
pub fn reader(receive: RecvStream, ahead: Bytes) -> QuicReader {
    QuicReader { stream: receive, buffer: ReadBuffer::default(), ahead }
}

/// The writing half of a stream as chunks.
pub fn writer(send: SendStream) -> QuicWriter {
    QuicWriter { stream: send }
}

impl QuicWriter {
    /// After [`WriteChunk::finish`]: waits until the peer has all that was written. `false` if it stopped reading, or
    /// the connection is lost.
    pub async fn delivered(&mut self) -> bool {
        matches!(self.stream.stopped().await, Ok(None))
    }
}

impl ReadChunk for QuicReader {
    async fn read_chunk(&mut self) -> Result<Option<Bytes>, StreamError> {
        if !self.ahead.is_empty() {
            return Ok(Some(std::mem::take(&mut self.ahead)));
        }
        match self.stream.read_buf(self.buffer.space()).await {
            Ok(0) => Ok(None),
            Ok(_) => Ok(Some(self.buffer.take())),
            Err(error) => Err(read_error(error)),
        }
    }

    fn stop(&mut self) {
        // Already ended: nothing to stop.
        let _ = self.stream.stop(NO_ERROR);
    }
}

impl WriteChunk for QuicWriter {
    async fn write_chunk(&mut self, chunk: Bytes) -> Result<(), StreamError> {
        self.stream.write_chunk(chunk).await.map_err(|error| match error {
            quinn::WriteError::ConnectionLost(lost) => connection_lost(lost),
            quinn::WriteError::Stopped(_)
            | quinn::WriteError::ClosedStream
            | quinn::WriteError::ZeroRttRejected => StreamError::Reset,
        })
    }

    async fn finish(&mut self) -> Result<(), StreamError> {
        self.stream.finish().map_err(|_| StreamError::Reset)
    }

    fn reset(&mut self) {
        // Already ended: nothing to reset.
        let _ = self.stream.reset(NO_ERROR);
    }
}

fn read_error(error: io::Error) -> StreamError {
    match error.downcast::<quinn::ReadError>() {
        Ok(quinn::ReadError::ConnectionLost(lost)) => connection_lost(lost),
        Ok(
            quinn::ReadError::Reset(_)
            | quinn::ReadError::ClosedStream
            | quinn::ReadError::IllegalOrderedRead
            | quinn::ReadError::ZeroRttRejected,
        ) => StreamError::Reset,
        Err(error) => error.into(),
    }
}

fn connection_lost(error: ConnectionError) -> StreamError {
    StreamError::ConnectionLost(Box::new(error))
}

/// Largest UDP payload in an Ethernet frame of 1500 bytes over IPv4; discovery finds less where there is less.
const ETHERNET_PAYLOAD_BYTES: u16 = 1472;
/// What a peer may have on its way on one stream: 16 MiB is 1 Gbit/s at 130 ms.
const STREAM_WINDOW: u32 = 16 << 20;
/// What a peer may have on its way on one connection, and what we hold unacknowledged.
const CONNECTION_WINDOW: u32 = 32 << 20;
/// Streams that an edge may have open at once on one connection. A cloudflared offers 2^60 (tunnel protocol, 2.1); quinn
/// keeps a slot for each from the start, some 24 bytes, and an edge waits or takes another connection when all are taken.
const MAX_INCOMING_STREAMS: u32 = 4096;
/// Streams that a connector may open at once: its control stream and short calls.
const MAX_CONNECTOR_STREAMS: u32 = 128;
/// Handshakes under way at once on one endpoint; more are dropped, and their clients try again.
const MAX_HANDSHAKES: usize = 1024;
/// Socket buffers that hold a burst of one congestion window.
const SOCKET_BUFFER_BYTES: usize = 8 << 20;
