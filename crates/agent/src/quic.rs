//! The QUIC carrier: one stream per flow on one connection, and DATAGRAM frames for datagrams that fit.
//!
//! A stream begins with the tunnel protocol's request. The first one carries the event stream. The connection outlives a
//! change of the device's address, since its socket is bound to none.

use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use adit_model::{Protocol, Refusal};
use adit_transport::datagram::{DatagramFlow, DatagramReceiver, DatagramRouter};
use adit_transport::quic::{self, Limits, NO_ERROR, QuicReader, QuicWriter};
use adit_transport::{Duplex, ReadChunk, StreamError, WriteChunk};
use adit_wire::device;
use adit_wire::tunnel::{ConnectRequest, ConnectResponse, ConnectionType, Metadata};
use bytes::{Bytes, BytesMut};
use quinn::{Connection, ConnectionError, Endpoint, RecvStream, SendStream, StreamId};
use tokio::io::AsyncReadExt;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use crate::carrier::{Carrier, OpenError};
use crate::dialer::{ConnectError, DIAL_DEADLINE, Dialer, HANDSHAKE_DEADLINE};
use crate::events::Events;
use crate::path::{Measured, Reading};
use crate::status::Transport;

/// The edge is the one that waits longer; a NAT keeps UDP's ports for half a minute at least.
const LIMITS: Limits = Limits {
    idle_timeout: Duration::from_secs(15),
    keep_alive: Some(Duration::from_secs(5)),
    incoming_streams: 0,
    ..Limits::CONNECTOR
};
/// Largest answer to a request, in bytes: a few names.
const MAX_RESPONSE_BYTES: usize = 64 << 10;
/// For the last bytes of the last flow to arrive, before the connection is closed.
const LINGER: Duration = Duration::from_secs(2);
/// A datagram of the event stream, which has none: the edge drops it, and acknowledges its packet.
const QUESTION: &[u8] = &[0];

impl Dialer {
    /// A carrier and the edge's events on it, from the first of `addresses` that answers.
    pub(crate) async fn quic_carrier(
        self,
        addresses: Vec<SocketAddr>,
        instance: Uuid,
    ) -> Result<(Rc<QuicCarrier>, Events<FlowReader>), ConnectError> {
        let mut failure = ConnectError::NoAddress { edge: self.edge.to_string() };
        for address in addresses {
            let dialled = timeout(DIAL_DEADLINE, self.dial_quic(address)).await;
            let carrier = match dialled.unwrap_or(Err(ConnectError::Slow)) {
                Ok(carrier) => carrier,
                Err(error) => {
                    failure = error;
                    continue;
                }
            };
            let events = timeout(HANDSHAKE_DEADLINE, carrier.events(instance)).await;
            return match events.unwrap_or(Err(ConnectError::Slow)) {
                Ok(events) => Ok((carrier, events)),
                Err(error) => Err(carrier.closed_by_edge().unwrap_or(error)),
            };
        }
        Err(failure)
    }

    async fn dial_quic(&self, address: SocketAddr) -> Result<Rc<QuicCarrier>, ConnectError> {
        let any: IpAddr = match address {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let tls = rustls::ClientConfig::clone(&self.tls);
        let config = quic::client_config_with(tls, LIMITS).map_err(ConnectError::Endpoint)?;
        let endpoint = quic::dialer(SocketAddr::new(any, 0)).map_err(ConnectError::Endpoint)?;
        let name = self.edge.server_name().to_str().into_owned();
        let connecting = endpoint.connect_with(config, address, &name);
        let connecting = connecting.map_err(|error| ConnectError::Refused(error.to_string()))?;
        let connection = connecting.await.map_err(|source| ConnectError::Quic { address, source })?;
        let router = DatagramRouter::new(connection.clone());
        let routing = AbortOnDropHandle::new(tokio::spawn(router.clone().run()));
        Ok(Rc::new(QuicCarrier {
            connection,
            router,
            moved: Cell::new(0),
            heard: Cell::new((0, Instant::now())),
            endpoint,
            _routing: routing,
        }))
    }
}

/// One connection to an edge.
#[derive(Debug)]
pub(crate) struct QuicCarrier {
    connection: Connection,
    router: DatagramRouter,
    /// Bytes moved by flows so far, both ways, without datagrams.
    moved: Cell<u64>,
    /// Acknowledgements received when that was looked at last, and when they had become more.
    heard: Cell<(u64, Instant)>,
    endpoint: Endpoint,
    _routing: AbortOnDropHandle<()>,
}

impl QuicCarrier {
    async fn events(self: &Rc<Self>, instance: Uuid) -> Result<Events<FlowReader>, ConnectError> {
        let metadata = vec![
            Metadata::new(device::INSTANCE_HEADER, instance.to_string()),
            Metadata::new(device::VERSION_HEADER, env!("CARGO_PKG_VERSION")),
        ];
        let request =
            ConnectRequest { dest: device::EVENTS_PATH.to_owned(), kind: ConnectionType::Http, metadata };
        match self.ask_for(&request).await {
            Ok(stream) => Ok(Events::new(self.flow(stream.accept()).reader)),
            Err(OpenError::Refused(Refusal::Revoked)) => Err(ConnectError::Unauthorized),
            Err(OpenError::Refused(refusal)) => Err(ConnectError::Refused(refusal.to_string())),
            Err(OpenError::Lost) => Err(ConnectError::Slow),
        }
    }

    /// Why the edge has closed the connection, if it has and that is for people to know.
    fn closed_by_edge(&self) -> Option<ConnectError> {
        match self.connection.close_reason()? {
            ConnectionError::ApplicationClosed(close) if close.error_code == device::CLOSE_UNKNOWN.into() => {
                Some(ConnectError::Unauthorized)
            }
            ConnectionError::ApplicationClosed(close) => {
                Some(ConnectError::Refused(String::from_utf8_lossy(&close.reason).into_owned()))
            }
            ConnectionError::VersionMismatch
            | ConnectionError::TransportError(_)
            | ConnectionError::ConnectionClosed(_)
            | ConnectionError::Reset
            | ConnectionError::TimedOut
            | ConnectionError::LocallyClosed
            | ConnectionError::CidsExhausted => None,
        }
    }

    /// A stream on which the edge has said yes.
    async fn ask_for(&self, request: &ConnectRequest) -> Result<Asked, OpenError> {
        let (send, receive) = self.connection.open_bi().await.map_err(|_| OpenError::Lost)?;
        let mut stream = Asked::new(send, receive);
        // Before the request, which the edge may answer with datagrams.
        let protocol = request.metadata(device::PROTOCOL_HEADER);
        stream.registered = protocol.map(|_| self.router.register(stream.id));
        stream.ask(request).await?;
        Ok(stream)
    }

    fn flow(self: &Rc<Self>, stream: Duplex<QuicReader, QuicWriter>) -> Duplex<FlowReader, FlowWriter> {
        let Duplex { reader, writer } = stream;
        Duplex::new(
            FlowReader { reader, carrier: Rc::clone(self) },
            FlowWriter { writer, carrier: Rc::clone(self) },
        )
    }

    fn count(&self, bytes: usize) {
        self.moved.set(self.moved.get() + bytes as u64);
    }
}

impl Drop for QuicCarrier {
    fn drop(&mut self) {
        // Without a runtime everything ends here anyway.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (connection, endpoint) = (self.connection.clone(), self.endpoint.clone());
        runtime.spawn(async move {
            let _ = timeout(LINGER, connection.closed()).await;
            connection.close(NO_ERROR, b"");
            let _ = timeout(LINGER, endpoint.wait_idle()).await;
        });
    }
}

/// A stream that waits for the edge's answer, or has it. Dropped before it is accepted, it is reset.
struct Asked {
    id: StreamId,
    stream: Option<(SendStream, RecvStream)>,
    registered: Option<DatagramReceiver>,
    /// Read already, behind the answer.
    ahead: Bytes,
}

impl Asked {
    fn new(send: SendStream, receive: RecvStream) -> Self {
        Self { id: send.id(), stream: Some((send, receive)), registered: None, ahead: Bytes::new() }
    }

    /// Asks, and waits for a yes.
    async fn ask(&mut self, request: &ConnectRequest) -> Result<(), OpenError> {
        let Some((send, receive)) = &mut self.stream else { return Err(OpenError::Lost) };
        let mut bytes = BytesMut::new();
        request.encode(&mut bytes).map_err(|_| OpenError::Refused(Refusal::Unroutable))?;
        send.write_chunk(bytes.freeze()).await.map_err(|_| OpenError::Lost)?;
        let mut bytes = BytesMut::with_capacity(512);
        let failed = OpenError::Refused(Refusal::ConnectorError);
        let response = loop {
            match ConnectResponse::decode(&bytes) {
                Ok(Some((response, consumed))) => {
                    self.ahead = bytes.split_off(consumed).freeze();
                    break response;
                }
                Ok(None) if bytes.len() < MAX_RESPONSE_BYTES => {}
                Ok(None) | Err(_) => return Err(failed),
            }
            match receive.read_buf(&mut bytes).await {
                Ok(0) => return Err(failed),
                Ok(_) => {}
                Err(error) => {
                    let error = error.get_ref().and_then(|error| error.downcast_ref::<quinn::ReadError>());
                    let lost = matches!(error, Some(quinn::ReadError::ConnectionLost(_)));
                    return Err(if lost { OpenError::Lost } else { failed });
                }
            }
        };
        if response.error.is_empty() {
            return Ok(());
        }
        let named = response.metadata(device::REFUSAL_METADATA).and_then(|name| name.parse().ok());
        Err(OpenError::Refused(named.unwrap_or(Refusal::ConnectorError)))
    }

    fn accept(mut self) -> Duplex<QuicReader, QuicWriter> {
        let (send, receive) = self.stream.take().expect("it is taken once, here, where self ends");
        quic::duplex(send, receive, std::mem::take(&mut self.ahead))
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        if let Some((send, receive)) = &mut self.stream {
            // Fail only for streams that have ended.
            let _ = send.reset(NO_ERROR);
            let _ = receive.stop(NO_ERROR);
        }
    }
}

impl Carrier for Rc<QuicCarrier> {
    type Reader = FlowReader;
    type Writer = FlowWriter;

    fn transport(&self) -> Transport {
        Transport::Quic
    }

    async fn open(&self, destination: SocketAddr) -> Result<Duplex<FlowReader, FlowWriter>, OpenError> {
        let request = request(destination, Vec::new());
        Ok(self.flow(self.ask_for(&request).await?.accept()))
    }

    async fn open_datagrams(
        &self,
        protocol: Protocol,
        destination: SocketAddr,
    ) -> Result<DatagramFlow<FlowReader, FlowWriter>, OpenError> {
        let metadata = vec![Metadata::new(device::PROTOCOL_HEADER, protocol.as_str())];
        let mut stream = self.ask_for(&request(destination, metadata)).await?;
        let (id, registered) = (stream.id, stream.registered.take());
        let stream = self.flow(stream.accept());
        Ok(match registered {
            Some(registered) => DatagramFlow::with_frames(stream, id, registered),
            None => DatagramFlow::on_stream(stream),
        })
    }
}

fn request(destination: SocketAddr, metadata: Vec<Metadata>) -> ConnectRequest {
    ConnectRequest { dest: destination.to_string(), kind: ConnectionType::Tcp, metadata }
}

impl Measured for QuicCarrier {
    fn reading(&self) -> Reading {
        let stats = self.connection.stats();
        let (acknowledgements, now) = (stats.frame_rx.acks, Instant::now());
        if acknowledgements != self.heard.get().0 {
            self.heard.set((acknowledgements, now));
        }
        Reading {
            silent_for: now - self.heard.get().1,
            sent: stats.path.sent_packets,
            lost: stats.path.lost_packets,
            round_trip: stats.path.min_rtt,
            moved: self.moved.get() + stats.frame_tx.datagram + stats.frame_rx.datagram,
        }
    }

    fn ask(&self) {
        // A connection that is lost says so elsewhere; a full queue is being asked already.
        let _ = self.connection.send_datagram(Bytes::from_static(QUESTION));
    }

    fn is_lost(&self) -> bool {
        self.connection.close_reason().is_some()
    }

    fn cut(&self) {
        self.connection.close(NO_ERROR, b"silent for too long");
    }
}

/// The reading half of a flow.
#[derive(Debug)]
pub(crate) struct FlowReader {
    reader: QuicReader,
    carrier: Rc<QuicCarrier>,
}

/// The writing half of a flow.
#[derive(Debug)]
pub(crate) struct FlowWriter {
    writer: QuicWriter,
    carrier: Rc<QuicCarrier>,
}

impl ReadChunk for FlowReader {
    async fn read_chunk(&mut self) -> Result<Option<Bytes>, StreamError> {
        let chunk = self.reader.read_chunk().await?;
        self.carrier.count(chunk.as_ref().map_or(0, Bytes::len));
        Ok(chunk)
    }

    fn stop(&mut self) {
        self.reader.stop();
    }
}

impl WriteChunk for FlowWriter {
    async fn write_chunk(&mut self, chunk: Bytes) -> Result<(), StreamError> {
        self.carrier.count(chunk.len());
        self.writer.write_chunk(chunk).await
    }

    async fn finish(&mut self) -> Result<(), StreamError> {
        self.writer.finish().await
    }

    fn reset(&mut self) {
        self.writer.reset();
    }
}
