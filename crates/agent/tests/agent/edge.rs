//! An edge as small as can be: it speaks the device protocol on loopback and dials what it is asked for itself.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use adit_agent::EdgeAddress;
use adit_model::{DeviceId, Protocol, Refusal, RegistrationId};
use adit_transport::datagram::{DatagramFlow, Packet};
use adit_transport::splice::{HalfClose, Passed, splice};
use adit_transport::tls::{Identity, device_server_config, presented_public_key};
use adit_transport::{Duplex, http2, tcp};
use adit_wire::device::{self, DeviceState, EnrollReply, Event};
use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{Method, Request, Response};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::broadcast;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub(crate) const TOKEN: (&str, &str) = ("robot.access", "hunter2");
/// Destinations at this address are dialled on loopback, at the same port.
pub(crate) const SERVER_V4: &str = "198.51.100.7";
pub(crate) const SERVER_V6: &str = "2001:db8::7";
/// Destinations at these are refused.
pub(crate) const BLOCKED: &str = "198.51.100.13";
pub(crate) const UNROUTABLE_V6: &str = "2001:db8::13";
/// Datagrams to here are carried as to the servers, if they are no longer than [`NARROW_BYTES`].
pub(crate) const NARROW: &str = "198.51.100.15";
pub(crate) const NARROW_BYTES: usize = 1000;
/// Destinations here are never answered.
pub(crate) const SLOW: &str = "198.51.100.99";

pub(crate) struct Edge {
    pub(crate) address: EdgeAddress,
    pub(crate) ca_pem: String,
    state: Rc<State>,
    socket: SocketAddr,
    tls: Arc<rustls::ServerConfig>,
    running: Option<CancellationToken>,
}

struct State {
    known_keys: RefCell<HashSet<Vec<u8>>>,
    networks: RefCell<Vec<adit_model::Cidr>>,
    connections: Cell<usize>,
    /// How many times a device is turned away yet: its enrolment has not reached this edge.
    unaware: Cell<usize>,
    events: broadcast::Sender<Event>,
}

impl Edge {
    pub(crate) async fn start() -> Self {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
        let identity = Identity::new(vec![cert.der().clone()], key);
        let tls = Arc::new(device_server_config(&identity, device::ALPN).unwrap());
        let networks = ["198.51.100.0/24", "2001:db8::/64", "127.0.0.1/32"];
        let networks = networks.iter().filter_map(|network| network.parse().ok()).collect();
        let state = Rc::new(State {
            known_keys: RefCell::default(),
            networks: RefCell::new(networks),
            connections: Cell::new(0),
            unaware: Cell::new(0),
            events: broadcast::Sender::new(16),
        });
        let mut edge = Self {
            address: "127.0.0.1:1".parse().unwrap(),
            ca_pem: cert.pem(),
            state,
            socket: "127.0.0.1:0".parse().unwrap(),
            tls,
            running: None,
        };
        edge.resume().await;
        edge
    }

    /// Ends every connection at once, and listens no more.
    pub(crate) fn stop(&mut self) {
        self.running.take().unwrap().cancel();
    }

    /// Listens again, at the same port.
    pub(crate) async fn resume(&mut self) {
        let listener = loop {
            match TcpListener::bind(self.socket).await {
                Ok(listener) => break listener,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        self.socket = listener.local_addr().unwrap();
        self.address = self.socket.to_string().parse().unwrap();
        let running = CancellationToken::new();
        tokio::task::spawn_local(listen(
            listener,
            TlsAcceptor::from(Arc::clone(&self.tls)),
            Rc::clone(&self.state),
            running.clone(),
        ));
        self.running = Some(running);
    }

    pub(crate) fn send(&self, event: Event) {
        self.state.events.send(event).unwrap();
    }

    /// Does not know any device the next few times.
    pub(crate) fn is_unaware(&self, times: usize) {
        self.state.unaware.set(times);
    }

    /// Forgets every device.
    pub(crate) fn forget_devices(&self) {
        self.state.known_keys.borrow_mut().clear();
    }

    /// Connections that any device has made so far.
    pub(crate) fn connections(&self) -> usize {
        self.state.connections.get()
    }

    pub(crate) fn registrations(&self) -> usize {
        self.state.known_keys.borrow().len()
    }
}

async fn listen(listener: TcpListener, acceptor: TlsAcceptor, state: Rc<State>, running: CancellationToken) {
    loop {
        let (stream, _) = tokio::select! {
            accepted = listener.accept() => accepted.unwrap(),
            () = running.cancelled() => return,
        };
        let (acceptor, state, running) = (acceptor.clone(), Rc::clone(&state), running.clone());
        tokio::task::spawn_local(async move {
            tokio::select! {
                () = serve(stream, acceptor, state) => {}
                () = running.cancelled() => {}
            }
        });
    }
}

async fn serve(stream: TcpStream, acceptor: TlsAcceptor, state: Rc<State>) {
    stream.set_nodelay(true).unwrap();
    let Ok(tls) = acceptor.accept(stream).await else { return };
    state.connections.set(state.connections.get() + 1);
    let key = presented_public_key(tls.get_ref().1).unwrap().to_vec();
    let Ok(mut connection) = http2::server().handshake::<_, Bytes>(tls).await else { return };
    while let Some(Ok((request, respond))) = connection.accept().await {
        tokio::task::spawn_local(answer(request, respond, key.clone(), Rc::clone(&state)));
    }
}

async fn answer(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    key: Vec<u8>,
    state: Rc<State>,
) {
    let known = state.known_keys.borrow().contains(&key);
    match (request.method(), request.uri().path()) {
        (&Method::POST, device::ENROLL_PATH) => {
            let header = |name| request.headers().get(name).unwrap().to_str().unwrap();
            if (header(device::CLIENT_ID_HEADER), header(device::CLIENT_SECRET_HEADER)) == TOKEN {
                state.known_keys.borrow_mut().insert(key);
                let reply = EnrollReply {
                    registration_id: RegistrationId::from_uuid(Uuid::new_v4()),
                    device_id: DeviceId::from_uuid(Uuid::from_u128(7)),
                    user: "robot".to_owned(),
                };
                reply_with(&mut respond, 200, serde_json::to_vec(&reply).unwrap());
            } else {
                let envelope =
                    br#"{"success":false,"errors":[{"code":1,"message":"unknown service token"}]}"#;
                reply_with(&mut respond, 403, envelope.to_vec());
            }
        }
        (&Method::GET, device::EVENTS_PATH) if state.unaware.get() > 0 => {
            state.unaware.set(state.unaware.get() - 1);
            reply_with(&mut respond, 403, Vec::new());
        }
        (&Method::GET, device::EVENTS_PATH) if known => events(&mut respond, &state).await,
        (&Method::CONNECT, _) if known => connect(request, respond).await,
        _ => reply_with(&mut respond, 401, Vec::new()),
    }
}

fn reply_with(respond: &mut SendResponse<Bytes>, status: u16, body: Vec<u8>) {
    let response = Response::builder().status(status).body(()).unwrap();
    respond.send_response(response, false).unwrap().send_data(body.into(), true).unwrap();
}

async fn events(respond: &mut SendResponse<Bytes>, state: &State) {
    let mut events = state.events.subscribe();
    let mut stream = respond.send_response(Response::new(()), false).unwrap();
    let first = Event::State(DeviceState {
        registration_id: RegistrationId::from_uuid(Uuid::from_u128(1)),
        device_id: DeviceId::from_uuid(Uuid::from_u128(7)),
        user: "robot".to_owned(),
        addresses: Vec::new(),
        networks: state.networks.borrow().clone(),
        edges: Vec::new(),
        fallback_domains: Vec::new(),
    });
    stream.send_data(first.to_line().into(), false).unwrap();
    loop {
        let event = tokio::select! {
            event = events.recv() => event.unwrap(),
            () = tokio::time::sleep(Duration::from_secs(device::PING_SECONDS)) => Event::Ping,
        };
        if stream.send_data(event.to_line().into(), false).is_err() {
            return;
        }
    }
}

async fn connect(request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    let protocol = request.headers().get(device::PROTOCOL_HEADER);
    let protocol: Protocol = protocol.map_or(Protocol::Tcp, |name| name.to_str().unwrap().parse().unwrap());
    let destination = device::destination(protocol, request.uri().authority().unwrap().as_str()).unwrap();
    if protocol != Protocol::Tcp {
        return datagrams(protocol, destination, request, respond).await;
    }
    let is = |address: &str| destination.ip() == address.parse::<IpAddr>().unwrap();
    if is(SLOW) {
        std::future::poll_fn(|context| respond.poll_reset(context)).await.ok();
        return;
    }
    let dialled = if is(BLOCKED) {
        Err(Refusal::Blocked)
    } else if is(SERVER_V4) || is(SERVER_V6) {
        TcpStream::connect(("127.0.0.1", destination.port())).await.map_err(|_| Refusal::Refused)
    } else {
        Err(Refusal::Unroutable)
    };
    match dialled {
        Ok(stream) => {
            let send = respond.send_response(Response::new(()), false).unwrap();
            let mut near: Duplex<_, _> = http2::duplex(send, request.into_body());
            let mut far = tcp::duplex(stream);
            splice(&mut near, &mut far, HalfClose::Kept, &mut Passed::default()).await;
        }
        Err(refusal) => refuse(&mut respond, refusal),
    }
}

fn refuse(respond: &mut SendResponse<Bytes>, refusal: Refusal) {
    let response = Response::builder()
        .status(device::refusal_status(refusal))
        .header(device::REFUSAL_HEADER, refusal.as_str())
        .body(())
        .unwrap();
    respond.send_response(response, true).unwrap();
}

/// Carries UDP as the connector would, and answers pings itself.
async fn datagrams(
    protocol: Protocol,
    destination: SocketAddr,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) {
    let is = |address: &str| destination.ip() == address.parse::<IpAddr>().unwrap();
    if !(is(SERVER_V4) || is(SERVER_V6) || is(NARROW)) {
        return refuse(&mut respond, if is(BLOCKED) { Refusal::Blocked } else { Refusal::Unroutable });
    }
    let limit = if is(NARROW) { NARROW_BYTES } else { usize::MAX };
    let send = respond.send_response(Response::new(()), false).unwrap();
    let mut flow = DatagramFlow::on_stream(http2::duplex(send, request.into_body()));
    if protocol == Protocol::Icmp {
        while let Ok(Some(Packet::Datagram(echo))) = flow.receive().await {
            let kind = if destination.is_ipv4() { 0 } else { 129 };
            // As a kernel's ping socket gives it: the identifier and the checksum are its own.
            let reply = [&[kind, 0, 0, 0, 0x77, 0x77], &echo[6..]].concat();
            flow.send(Packet::Datagram(reply.into())).await.unwrap();
        }
        return;
    }
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(("127.0.0.1", destination.port())).await.unwrap();
    let mut buffer = vec![0; 65536];
    loop {
        let answer = tokio::select! {
            packet = flow.receive() => match packet {
                Ok(Some(Packet::Datagram(datagram))) if datagram.len() <= limit => {
                    // What was sent before may have been refused; that is told when it is read.
                    let _ = socket.send(&datagram).await;
                    continue;
                }
                Ok(Some(Packet::Datagram(_))) => Packet::Refusal("too-large".to_owned()),
                Ok(Some(Packet::Refusal(_)) | None) | Err(_) => return,
            },
            received = socket.recv(&mut buffer) => match received {
                Ok(received) => Packet::Datagram(Bytes::copy_from_slice(&buffer[..received])),
                Err(_) => Packet::Refusal("refused".to_owned()),
            },
        };
        flow.send(answer).await.unwrap();
    }
}
