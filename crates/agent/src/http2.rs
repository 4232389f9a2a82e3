//! The HTTP/2 carrier: one `CONNECT` stream per flow, with capsules on it for datagrams, on one to four TLS connections.
//!
//! The first connection carries the event stream. A flow goes to the connection that moves the least; when even that one
//! is busy, another is opened for the flows to come, so that a bulk transfer does not stall the others.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use adit_model::{Protocol, Refusal};
use adit_transport::datagram::DatagramFlow;
use adit_transport::http2::{self, Http2Reader, Http2Writer};
use adit_transport::tcp_path::tcp_path;
use adit_transport::{Duplex, ReadChunk, StreamError, WriteChunk};
use adit_wire::device;
use bytes::Bytes;
use h2::client::SendRequest;
use http::{Method, Request, StatusCode};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use crate::carrier::{Carrier, OpenError};
use crate::dialer::{ConnectError, DIAL_DEADLINE, Dialer, HANDSHAKE_DEADLINE};
use crate::events::Events;
use crate::path::{Measured, Reading};
use crate::status::Transport;

/// How often each connection is asked whether it lives, and how long it may take to answer.
const PING_INTERVAL: Duration = Duration::from_secs(5);
const PING_DEADLINE: Duration = Duration::from_secs(10);
/// Connections of one carrier.
const MAX_CONNECTIONS: usize = 4;
/// A connection that moves more than this in a second, either way, is busy: a bulk flow of a slow line.
const BUSY_BYTES_PER_SECOND: u64 = 2 << 20;
/// A connection with more flows than this is busy.
const BUSY_FLOWS: usize = 128;
/// How often the speed of a connection is looked at.
const LOAD_WINDOW: Duration = Duration::from_millis(250);
/// What rustls may hold of encrypted bytes before it waits for the socket. Its default of 64 KiB makes four times as
/// many system calls.
const TLS_BUFFER_BYTES: usize = 256 << 10;

impl Dialer {
    /// One connection, to the first of `addresses` that answers.
    pub(crate) async fn connect(&self, addresses: &[SocketAddr]) -> Result<Connection, ConnectError> {
        let mut failure = ConnectError::NoAddress { edge: self.edge.to_string() };
        for &address in addresses {
            let dialled = timeout(DIAL_DEADLINE, TcpStream::connect(address)).await;
            let tcp = match dialled.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok(tcp) => tcp,
                Err(source) => {
                    failure = ConnectError::Dial { address, source };
                    continue;
                }
            };
            // Without them the connection works as well, only slower to send and to notice its end.
            let _ = tcp.set_nodelay(true);
            let _ = adit_transport::tcp::keep_alive(&tcp, PING_INTERVAL);
            return timeout(HANDSHAKE_DEADLINE, self.handshake(tcp)).await.unwrap_or(Err(ConnectError::Slow));
        }
        Err(failure)
    }

    async fn handshake(&self, tcp: TcpStream) -> Result<Connection, ConnectError> {
        // Asked what it knows of the path, while the connection lives.
        let socket = tcp.as_fd().try_clone_to_owned().ok();
        let connector = TlsConnector::from(Arc::clone(&self.tls));
        let tls = connector.connect(self.edge.server_name().clone(), tcp).await;
        let mut tls = tls.map_err(|source| ConnectError::Tls { edge: self.edge.to_string(), source })?;
        tls.get_mut().1.set_buffer_limit(Some(TLS_BUFFER_BYTES));
        let (requests, connection) = http2::client().handshake(tls).await.map_err(ConnectError::Http2)?;
        let load = Rc::new(Load { socket: RefCell::new(socket), ..Load::default() });
        let alive = Rc::clone(&load);
        let task = tokio::task::spawn_local(async move {
            drive(connection, &alive.asked).await;
            alive.lost.set(true);
            alive.socket.take();
        });
        Ok(Connection {
            requests,
            authority: self.edge.authority(),
            load,
            task: Rc::new(AbortOnDropHandle::new(task)),
        })
    }

    /// A carrier and the edge's events on it.
    pub(crate) async fn http2_carrier(
        self,
        addresses: Vec<SocketAddr>,
        instance: Uuid,
    ) -> Result<(Rc<Http2Carrier>, Events<EventReader>), ConnectError> {
        let connection = self.connect(&addresses).await?;
        let events = timeout(HANDSHAKE_DEADLINE, connection.events(instance));
        let events = events.await.unwrap_or(Err(ConnectError::Slow))?;
        let carrier = Rc::new(Http2Carrier {
            dialer: self,
            addresses,
            connections: RefCell::new(vec![connection]),
            opening: Cell::new(false),
        });
        Ok((carrier, events))
    }
}

/// Runs a connection until it ends or does not answer any more.
async fn drive(
    mut connection: h2::client::Connection<tokio_rustls::client::TlsStream<TcpStream>, Bytes>,
    asked: &Notify,
) {
    let Some(mut pings) = connection.ping_pong() else { unreachable!("the handle is taken once, here") };
    let silent = async {
        loop {
            // Now, if somebody asks.
            let _ = timeout(PING_INTERVAL, asked.notified()).await;
            match timeout(PING_DEADLINE, pings.ping(h2::Ping::opaque())).await {
                Ok(Ok(_)) => {}
                // Its end is the connection's own to report.
                Ok(Err(_)) => std::future::pending::<()>().await,
                Err(_) => return,
            }
        }
    };
    tokio::select! {
        ended = connection => {
            if let Err(error) = ended {
                tracing::debug!(%error, "connection ended");
            }
        }
        () = silent => tracing::debug!("connection does not answer"),
    }
}

/// One HTTP/2 connection; its last holder closes it.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    requests: SendRequest<Bytes>,
    authority: String,
    load: Rc<Load>,
    task: Rc<AbortOnDropHandle<()>>,
}

/// What goes on in a connection.
#[derive(Debug, Default)]
struct Load {
    lost: Cell<bool>,
    /// Somebody wants a sign of life.
    asked: Notify,
    /// Bytes that the edge has acknowledged when that was looked at last, and when they had become more.
    heard: Cell<Option<(u64, Instant)>>,
    /// The connection's own, for as long as it is not lost.
    socket: RefCell<Option<OwnedFd>>,
    flows: Cell<usize>,
    /// Bytes moved so far, both ways.
    moved: Cell<u64>,
    /// When the speed was looked at last, what was moved by then, and the speed in bytes per second.
    measured: Cell<Option<(Instant, u64, u64)>>,
}

impl Load {
    fn bytes_per_second(&self) -> u64 {
        let (now, moved) = (Instant::now(), self.moved.get());
        match self.measured.get() {
            Some((then, _, speed)) if now - then < LOAD_WINDOW => speed,
            Some((then, before, _)) => {
                let millis = u64::try_from((now - then).as_millis()).unwrap_or(u64::MAX).max(1);
                let speed = (moved - before).saturating_mul(1000) / millis;
                self.measured.set(Some((now, moved, speed)));
                speed
            }
            None => {
                self.measured.set(Some((now, moved, 0)));
                0
            }
        }
    }

    fn is_busy(&self) -> bool {
        self.bytes_per_second() > BUSY_BYTES_PER_SECOND || self.flows.get() > BUSY_FLOWS
    }
}

impl Connection {
    /// A request to the edge itself.
    pub(crate) fn request(&self, method: Method, path: &str) -> http::request::Builder {
        Request::builder()
            .method(method)
            .uri(format!("https://{}{path}", self.authority))
            .header(device::VERSION_HEADER, env!("CARGO_PKG_VERSION"))
    }

    /// Sends a request with its whole body, and returns the answer's status and the stream of its body.
    pub(crate) async fn send(
        &self,
        request: Request<()>,
        body: Bytes,
    ) -> Result<(StatusCode, Http2Reader), h2::Error> {
        let mut requests = self.requests.clone().ready().await?;
        let (response, mut stream) = requests.send_request(request, body.is_empty())?;
        if !body.is_empty() {
            stream.send_data(body, true)?;
        }
        let (head, body) = response.await?.into_parts();
        Ok((head.status, http2::duplex(stream, body).reader))
    }

    async fn events(&self, instance: Uuid) -> Result<Events<EventReader>, ConnectError> {
        let request = self
            .request(Method::GET, device::EVENTS_PATH)
            .header(device::INSTANCE_HEADER, instance.to_string())
            .body(())
            .expect("the edge's address and a UUID fit into a request");
        match self.send(request, Bytes::new()).await.map_err(ConnectError::Http2)? {
            (StatusCode::OK, reader) => Ok(Events::new(EventReader { reader, _connection: self.clone() })),
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) => Err(ConnectError::Unauthorized),
            (status, _) => Err(ConnectError::Status(status)),
        }
    }

    async fn open(
        &self,
        protocol: Protocol,
        destination: SocketAddr,
    ) -> Result<Duplex<FlowReader, FlowWriter>, OpenError> {
        let mut requests = self.requests.clone().ready().await.map_err(|_| OpenError::Lost)?;
        let request = Request::builder().method(Method::CONNECT).uri(destination.to_string());
        let request = match protocol {
            Protocol::Tcp => request,
            Protocol::Udp | Protocol::Icmp => request.header(device::PROTOCOL_HEADER, protocol.as_str()),
        };
        let request = request.body(()).expect("an address and a port are an authority");
        let (response, send) = requests.send_request(request, false).map_err(|_| OpenError::Lost)?;
        let response = response.await.map_err(|error| {
            if error.is_reset() { OpenError::Refused(Refusal::ConnectorError) } else { OpenError::Lost }
        })?;
        if response.status() != StatusCode::OK {
            return Err(OpenError::Refused(refusal(&response)));
        }
        let Duplex { reader, writer } = http2::duplex(send, response.into_body());
        self.load.flows.set(self.load.flows.get() + 1);
        let flow = Rc::new(Flow(self.clone()));
        Ok(Duplex::new(FlowReader { reader, flow: Rc::clone(&flow) }, FlowWriter { writer, flow }))
    }
}

fn refusal<T>(response: &http::Response<T>) -> Refusal {
    let named = response.headers().get(device::REFUSAL_HEADER).and_then(|value| value.to_str().ok());
    named.and_then(|name| name.parse().ok()).unwrap_or(match response.status() {
        StatusCode::FORBIDDEN => Refusal::Blocked,
        StatusCode::UNAUTHORIZED => Refusal::Revoked,
        StatusCode::GATEWAY_TIMEOUT => Refusal::TimedOut,
        _ => Refusal::ConnectorError,
    })
}

/// Connections to one edge.
#[derive(Debug)]
pub(crate) struct Http2Carrier {
    dialer: Dialer,
    addresses: Vec<SocketAddr>,
    /// Never empty; the first one carries the events.
    connections: RefCell<Vec<Connection>>,
    opening: Cell<bool>,
}

impl Http2Carrier {
    fn choose(&self) -> Option<Connection> {
        let mut connections = self.connections.borrow_mut();
        connections.retain(|connection| !connection.load.lost.get());
        let load = |connection: &&Connection| (connection.load.is_busy(), connection.load.flows.get());
        connections.iter().min_by_key(load).cloned()
    }

    /// Opens another connection in the background, unless there are enough.
    fn grow(self: &Rc<Self>) {
        if self.opening.get() || self.connections.borrow().len() >= MAX_CONNECTIONS {
            return;
        }
        self.opening.set(true);
        let carrier = Rc::downgrade(self);
        let (dialer, addresses) = (self.dialer.clone(), self.addresses.clone());
        tokio::task::spawn_local(async move {
            let connected = dialer.connect(&addresses).await;
            let Some(carrier) = carrier.upgrade() else { return };
            carrier.opening.set(false);
            match connected {
                Ok(connection) => carrier.connections.borrow_mut().push(connection),
                Err(error) => tracing::debug!(%error, "no further connection"),
            }
        });
    }
}

impl Http2Carrier {
    async fn open_stream(
        self: &Rc<Self>,
        protocol: Protocol,
        destination: SocketAddr,
    ) -> Result<Duplex<FlowReader, FlowWriter>, OpenError> {
        // A connection may turn out to be lost only when it is used.
        for _ in 0..MAX_CONNECTIONS {
            let connection = self.choose().ok_or(OpenError::Lost)?;
            if connection.load.is_busy() {
                self.grow();
            }
            match connection.open(protocol, destination).await {
                Err(OpenError::Lost) => connection.load.lost.set(true),
                opened => return opened,
            }
        }
        Err(OpenError::Lost)
    }
}

impl Measured for Http2Carrier {
    fn reading(&self) -> Reading {
        let connections = self.connections.borrow();
        let mut reading = Reading { silent_for: Duration::MAX, ..Reading::default() };
        for load in connections.iter().map(|connection| &connection.load) {
            reading.moved += load.moved.get();
            let path = load.socket.borrow().as_ref().and_then(|socket| tcp_path(socket.as_fd()).ok());
            // Without an answer of the kernel the carrier's own pings have to do.
            let Some(path) = path.filter(|path| path.acknowledged > 0) else {
                reading.silent_for = Duration::ZERO;
                continue;
            };
            let now = Instant::now();
            let heard = match load.heard.get() {
                Some((acknowledged, then)) if acknowledged == path.acknowledged => then,
                Some(_) | None => now,
            };
            load.heard.set(Some((path.acknowledged, heard)));
            reading.silent_for = reading.silent_for.min(now - heard);
            reading.sent += path.sent;
            reading.lost += path.resent;
            if reading.round_trip.is_zero() || path.round_trip < reading.round_trip {
                reading.round_trip = path.round_trip;
            }
        }
        reading
    }

    fn ask(&self) {
        for connection in self.connections.borrow().iter() {
            connection.load.asked.notify_one();
        }
    }

    fn is_lost(&self) -> bool {
        self.connections.borrow().iter().all(|connection| connection.load.lost.get())
    }

    fn cut(&self) {
        for connection in self.connections.borrow().iter() {
            connection.load.lost.set(true);
            connection.task.abort();
        }
    }
}

impl Carrier for Rc<Http2Carrier> {
    type Reader = FlowReader;
    type Writer = FlowWriter;

    fn transport(&self) -> Transport {
        Transport::H2
    }

    async fn open(&self, destination: SocketAddr) -> Result<Duplex<FlowReader, FlowWriter>, OpenError> {
        self.open_stream(Protocol::Tcp, destination).await
    }

    async fn open_datagrams(
        &self,
        protocol: Protocol,
        destination: SocketAddr,
    ) -> Result<DatagramFlow<FlowReader, FlowWriter>, OpenError> {
        self.open_stream(protocol, destination).await.map(DatagramFlow::on_stream)
    }
}

/// A flow's share of its connection.
#[derive(Debug)]
struct Flow(Connection);

impl Flow {
    fn count(&self, bytes: usize) {
        let load = &self.0.load;
        load.moved.set(load.moved.get() + bytes as u64);
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        let load = &self.0.load;
        load.flows.set(load.flows.get() - 1);
    }
}

/// The reading half of a flow.
#[derive(Debug)]
pub(crate) struct FlowReader {
    reader: Http2Reader,
    flow: Rc<Flow>,
}

/// The writing half of a flow.
#[derive(Debug)]
pub(crate) struct FlowWriter {
    writer: Http2Writer,
    flow: Rc<Flow>,
}

impl ReadChunk for FlowReader {
    async fn read_chunk(&mut self) -> Result<Option<Bytes>, StreamError> {
        let chunk = self.reader.read_chunk().await?;
        self.flow.count(chunk.as_ref().map_or(0, Bytes::len));
        Ok(chunk)
    }

    fn stop(&mut self) {
        self.reader.stop();
    }
}

impl WriteChunk for FlowWriter {
    async fn write_chunk(&mut self, chunk: Bytes) -> Result<(), StreamError> {
        self.flow.count(chunk.len());
        self.writer.write_chunk(chunk).await
    }

    async fn finish(&mut self) -> Result<(), StreamError> {
        self.writer.finish().await
    }

    fn reset(&mut self) {
        self.writer.reset();
    }
}

/// The reader of the event stream, which holds its connection open.
#[derive(Debug)]
pub(crate) struct EventReader {
    reader: Http2Reader,
    _connection: Connection,
}

impl ReadChunk for EventReader {
    async fn read_chunk(&mut self) -> Result<Option<Bytes>, StreamError> {
        self.reader.read_chunk().await
    }

    fn stop(&mut self) {
        self.reader.stop();
    }
}
