//! The device protocol over HTTP/2: enrolment, the event stream, and one `CONNECT` for each flow.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use adit_model::{FlowFacts, PresentedKey, Protocol, Record, Refusal, Registration, RegistrationSeen};
use adit_transport::http2::{self, Http2Reader, Http2Writer};
use adit_transport::{Duplex, WriteChunk};
use adit_wire::device::{
    DeviceState, ENROLL_PATH, EVENTS_PATH, Event, INSTANCE_HEADER, MAX_ENROLL_BYTES, PING_SECONDS,
    REFUSAL_HEADER, VERSION_HEADER, destination, refusal_status,
};
use axum::Router;
use axum::body::Body;
use bytes::{Bytes, BytesMut};
use h2::server::{Connection, SendResponse};
use h2::{Ping, Reason, RecvStream};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tower::ServiceExt;
use uuid::Uuid;

use crate::Shared;
use crate::flow::{Asked, Flow, carry};
use crate::limits::{DEVICE_PING, DEVICE_PONG_DEADLINE, FAREWELL, HANDSHAKE_DEADLINE, MAX_FLOWS_PER_DEVICE};
use crate::sessions::{Cut, Session};

type Requests = Connection<TlsStream<TcpStream>, Bytes>;

/// One device's connection: who it is, and what it has open.
struct Device {
    shared: Arc<Shared>,
    registration: Arc<Registration>,
    user: Arc<str>,
    session: Arc<Session>,
    open_flows: Arc<AtomicUsize>,
    peer: SocketAddr,
}

/// Serves a connection whose peer has proved `key`.
pub(crate) async fn serve(
    shared: Arc<Shared>,
    enrolment: Router,
    stream: TlsStream<TcpStream>,
    peer: SocketAddr,
    key: PresentedKey,
) {
    let handshake = tokio::time::timeout(HANDSHAKE_DEADLINE, http2::server().handshake(stream)).await;
    let Ok(Ok(mut requests)) = handshake else {
        shared.metrics.handshake_failed();
        return;
    };
    let known = shared.snapshots.current().registration_of(key.key).cloned();
    match known {
        Some(registration) if !registration.revoked => {
            serve_device(shared, enrolment, requests, registration, (peer, key)).await;
        }
        Some(_) | None => serve_stranger(&shared, &enrolment, &mut requests, (peer, key)).await,
    }
}

/// A key that is not registered may enrol, and nothing else.
async fn serve_stranger(
    shared: &Arc<Shared>,
    enrolment: &Router,
    requests: &mut Requests,
    who: (SocketAddr, PresentedKey),
) {
    let deadline = tokio::time::sleep(STRANGER_DEADLINE);
    tokio::pin!(deadline);
    loop {
        let accepted = tokio::select! {
            accepted = requests.accept() => accepted,
            () = &mut deadline => break,
            () = shared.stopping.cancelled() => break,
        };
        let Some(Ok((request, respond))) = accepted else { return };
        if request.method() == Method::POST && request.uri().path() == ENROLL_PATH {
            shared.tasks.spawn(enroll(enrolment.clone(), request, respond, who.clone()));
        } else {
            tracing::info!(key = %who.1.key, "a device that is not registered, or no more");
            refuse(respond, Refusal::Revoked, "this device's key is not registered");
        }
    }
    requests.graceful_shutdown();
    let _ = tokio::time::timeout(FAREWELL, poll_fn(|context| requests.poll_closed(context))).await;
}

async fn serve_device(
    shared: Arc<Shared>,
    enrolment: Router,
    mut requests: Requests,
    registration: Arc<Registration>,
    who: (SocketAddr, PresentedKey),
) {
    let Ok(session) = shared.sessions.begin(registration.id, &shared.stopping) else {
        requests.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
        let _ = tokio::time::timeout(FAREWELL, poll_fn(|context| requests.poll_closed(context))).await;
        return;
    };
    shared.metrics.devices(shared.sessions.count());
    tracing::info!(device = %registration.device, registration = %registration.id, "device connected");
    let device = Arc::new(Device {
        user: registration.user.as_str().into(),
        session: Arc::clone(&session),
        open_flows: Arc::default(),
        peer: who.0,
        shared: Arc::clone(&shared),
        registration,
    });
    let why = serve_requests(&device, &enrolment, &mut requests, &who).await;
    shared.sessions.end(&session);
    shared.metrics.devices(shared.sessions.count());
    tracing::info!(device = %device.registration.device, why, "device disconnected");
}

async fn serve_requests(
    device: &Arc<Device>,
    enrolment: &Router,
    requests: &mut Requests,
    who: &(SocketAddr, PresentedKey),
) -> &'static str {
    let pings = requests.ping_pong();
    let alive = async {
        match pings {
            Some(pings) => until_silent(pings).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(alive);
    loop {
        tokio::select! {
            accepted = requests.accept() => match accepted {
                Some(Ok((request, respond))) => device.handle(enrolment, request, respond, who),
                Some(Err(_)) => return "connection lost",
                None => return "closed by the device",
            },
            () = &mut alive => return "no answer to a probe",
            cut = device.session.cut() => {
                farewell(requests).await;
                return match cut {
                    Cut::Revoked => "registration revoked",
                    Cut::Superseded => "superseded by a newer process",
                    Cut::EdgeStopping => "edge stopping",
                };
            }
        }
    }
}

/// Lets the last frames out, then closes.
async fn farewell(requests: &mut Requests) {
    let _ = tokio::time::timeout(FAREWELL, async { while requests.accept().await.is_some() {} }).await;
    requests.abrupt_shutdown(Reason::NO_ERROR);
    let _ = tokio::time::timeout(FAREWELL, poll_fn(|context| requests.poll_closed(context))).await;
}

async fn until_silent(mut pings: h2::PingPong) {
    loop {
        tokio::time::sleep(DEVICE_PING).await;
        if tokio::time::timeout(DEVICE_PONG_DEADLINE, pings.ping(Ping::opaque())).await.is_err() {
            return;
        }
    }
}

impl Device {
    fn handle(
        self: &Arc<Self>,
        enrolment: &Router,
        request: Request<RecvStream>,
        respond: SendResponse<Bytes>,
        who: &(SocketAddr, PresentedKey),
    ) {
        let tasks = &self.shared.tasks;
        match (request.method(), request.uri().path()) {
            (&Method::CONNECT, _) => self.connect(request, respond),
            (&Method::GET, EVENTS_PATH) => drop(tasks.spawn(Arc::clone(self).events(request, respond))),
            (&Method::POST, ENROLL_PATH) => {
                drop(tasks.spawn(enroll(enrolment.clone(), request, respond, who.clone())));
            }
            _ => respond_with(respond, StatusCode::NOT_FOUND),
        }
    }

    fn connect(self: &Arc<Self>, request: Request<RecvStream>, respond: SendResponse<Bytes>) {
        let Some(destination) =
            request.uri().authority().and_then(|authority| destination(authority.as_str()))
        else {
            return refuse(respond, Refusal::Unroutable, "expected CONNECT with an address and a port");
        };
        let account = self.registration.account;
        let Some(virtual_network) = self.shared.snapshots.current().default_network(account) else {
            return refuse(respond, Refusal::Unroutable, "the account has no virtual network");
        };
        if self.open_flows.fetch_add(1, Ordering::Relaxed) >= MAX_FLOWS_PER_DEVICE {
            self.open_flows.fetch_sub(1, Ordering::Relaxed);
            return refuse(respond, Refusal::TooManyFlows, "the device has as many flows open as it may");
        }
        let flow = Flow {
            facts: FlowFacts {
                account,
                registration: self.registration.id,
                device: self.registration.device,
                virtual_network,
                protocol: Protocol::Tcp,
                destination,
            },
            user: Arc::clone(&self.user),
            session: Arc::clone(&self.session),
            asked: AskedConnect { respond, body: request.into_body() },
        };
        let (shared, open_flows) = (Arc::clone(&self.shared), Arc::clone(&self.open_flows));
        self.shared.tasks.spawn(async move {
            carry(shared, flow).await;
            open_flows.fetch_sub(1, Ordering::Relaxed);
        });
    }

    /// Tells the device its state, then what changes, for as long as it listens.
    async fn events(self: Arc<Self>, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
        let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
        let Some(instance) = header(INSTANCE_HEADER).and_then(|text| Uuid::try_parse(text).ok()) else {
            return respond_with(respond, StatusCode::BAD_REQUEST);
        };
        if self.shared.sessions.identify(&self.session, instance) {
            tracing::warn!(device = %self.registration.device, "a second process uses this device's key; the older one is cut");
        }
        let version: String = header(VERSION_HEADER).unwrap_or("").chars().take(MAX_VERSION_CHARS).collect();
        let seen = RegistrationSeen {
            registration: self.registration.id,
            source: self.peer.ip(),
            agent_version: version,
            at: SystemTime::now(),
        };
        self.shared.records.report(Record::RegistrationSeen(seen)).await;
        let response =
            Response::builder().header(http::header::CONTENT_TYPE, "application/x-ndjson").body(());
        let Ok(stream) = respond.send_response(response.unwrap_or_default(), false) else { return };
        let mut writer = http2::duplex(stream, request.into_body()).writer;
        self.tell(&mut writer).await;
        if writer.finish().await.is_err() {
            tracing::trace!("the device listens no more");
        }
    }

    async fn tell(&self, writer: &mut Http2Writer) {
        let mut changed = self.shared.snapshots.watch();
        let mut networks = self.networks();
        let state = DeviceState {
            registration_id: self.registration.id,
            device_id: self.registration.device,
            user: self.user.to_string(),
            addresses: Vec::new(),
            networks: networks.clone(),
        };
        let mut event = Event::State(state);
        let mut ping = tokio::time::interval(Duration::from_secs(PING_SECONDS));
        ping.reset();
        loop {
            if writer.write_chunk(event.to_line().into()).await.is_err() {
                return;
            }
            event = tokio::select! {
                biased;
                cut = self.session.cut() => {
                    let last = match cut {
                        Cut::Revoked => Event::Revoked,
                        Cut::Superseded => Event::Superseded,
                        Cut::EdgeStopping => return,
                    };
                    if writer.write_chunk(last.to_line().into()).await.is_err() {
                        tracing::trace!("the device left before it was told");
                    }
                    return;
                }
                changed = changed.changed() => {
                    let now = self.networks();
                    if changed.is_err() || now == networks {
                        continue_with_ping()
                    } else {
                        networks.clone_from(&now);
                        Event::Networks { networks: now }
                    }
                }
                _ = ping.tick() => Event::Ping,
            };
        }
    }

    fn networks(&self) -> Vec<adit_model::Cidr> {
        let snapshot = self.shared.snapshots.current();
        let network = snapshot.default_network(self.registration.account);
        network.map(|network| snapshot.networks(network)).unwrap_or_default()
    }
}

/// A change that does not concern the device is a sign of life all the same.
fn continue_with_ping() -> Event {
    Event::Ping
}

/// A `CONNECT` that waits for its answer.
struct AskedConnect {
    respond: SendResponse<Bytes>,
    body: RecvStream,
}

impl Asked for AskedConnect {
    type Reader = Http2Reader;
    type Writer = Http2Writer;

    fn accept(mut self) -> Option<Duplex<Http2Reader, Http2Writer>> {
        let stream = self.respond.send_response(Response::new(()), false).ok()?;
        Some(http2::duplex(stream, self.body))
    }

    fn refuse(self, refusal: Refusal, detail: &str) {
        refuse(self.respond, refusal, detail);
    }
}

fn refuse(mut respond: SendResponse<Bytes>, refusal: Refusal, detail: &str) {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(refusal_status(refusal)).unwrap_or(StatusCode::BAD_GATEWAY);
    let headers = response.headers_mut();
    headers.insert(REFUSAL_HEADER, HeaderValue::from_static(refusal.as_str()));
    let detail: String =
        detail.chars().filter(|c| c.is_ascii_graphic() || *c == ' ').take(MAX_DETAIL_CHARS).collect();
    if let Ok(detail) = HeaderValue::try_from(detail)
        && !detail.is_empty()
    {
        headers.insert("adit-detail", detail);
    }
    if respond.send_response(response, true).is_err() {
        tracing::trace!("the device gave up before it was refused");
    }
}

fn respond_with(mut respond: SendResponse<Bytes>, status: StatusCode) {
    let mut response = Response::new(());
    *response.status_mut() = status;
    if respond.send_response(response, true).is_err() {
        tracing::trace!("the device gave up before it was answered");
    }
}

/// Hands an enrolment to the control plane's router, with the key that was proved.
async fn enroll(
    enrolment: Router,
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
    (peer, key): (SocketAddr, PresentedKey),
) {
    let (parts, body) = request.into_parts();
    let Some(body) = read_body(body).await else {
        return respond_with(respond, StatusCode::PAYLOAD_TOO_LARGE);
    };
    let mut request = Request::from_parts(parts, Body::from(body));
    request.extensions_mut().insert(key);
    request.extensions_mut().insert(peer);
    let response = match enrolment.oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    };
    answer(respond, response).await;
}

async fn read_body(mut body: RecvStream) -> Option<Bytes> {
    let mut bytes = BytesMut::new();
    let read = async {
        while let Some(chunk) = body.data().await {
            let chunk = chunk.ok()?;
            body.flow_control().release_capacity(chunk.len()).ok()?;
            bytes.extend_from_slice(&chunk);
            if bytes.len() > MAX_ENROLL_BYTES {
                return None;
            }
        }
        Some(())
    };
    tokio::time::timeout(HANDSHAKE_DEADLINE, read).await.ok()??;
    Some(bytes.freeze())
}

async fn answer(mut respond: SendResponse<Bytes>, response: Response<Body>) {
    let (mut parts, body) = response.into_parts();
    parts.headers.remove(http::header::TRANSFER_ENCODING);
    let Ok(body) = Limited::new(body, MAX_ANSWER_BYTES).collect().await else {
        return respond_with(respond, StatusCode::BAD_GATEWAY);
    };
    if let Ok(mut stream) = respond.send_response(Response::from_parts(parts, ()), false)
        && stream.send_data(body.to_bytes(), true).is_err()
    {
        tracing::trace!("the device gave up before it was answered");
    }
}

/// How long an unregistered key may stay connected.
const STRANGER_DEADLINE: Duration = Duration::from_mins(1);
/// Largest answer to an enrolment, in bytes.
const MAX_ANSWER_BYTES: usize = 64 << 10;
/// Longest version of an agent that is noted.
const MAX_VERSION_CHARS: usize = 64;
/// Longest detail of a refusal that a device is told.
const MAX_DETAIL_CHARS: usize = 200;
