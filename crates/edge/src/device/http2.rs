//! The HTTP/2 carrier of the device protocol: enrolment, the event stream, and one `CONNECT` for each flow.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use adit_model::{PresentedKey, Refusal};
use adit_transport::datagram::DatagramFlow;
use adit_transport::http2::{self, Http2Reader, Http2Writer};
use adit_transport::{Duplex, WriteChunk};
use adit_wire::device::{
    ENROLL_PATH, EVENTS_PATH, EXPLAIN_PATH, INSTANCE_HEADER, PROTOCOL_HEADER, REFUSAL_HEADER, VERSION_HEADER,
    refusal_status,
};
use axum::Router;
use bytes::Bytes;
use h2::server::{Connection, SendResponse};
use h2::{Ping, Reason, RecvStream};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use uuid::Uuid;

use super::enrolment::enroll;
use super::explaining::answer;
use super::{Device, cut_words};
use crate::Shared;
use crate::asked::detail_of;
use crate::flow::Asked;
use crate::limits::{DEVICE_PING, DEVICE_PONG_DEADLINE, FAREWELL, HANDSHAKE_DEADLINE};

type Requests = Connection<TlsStream<TcpStream>, Bytes>;

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
    let Some(registration) = known.filter(|registration| !registration.revoked) else {
        return serve_stranger(&shared, &enrolment, &mut requests, (peer, key)).await;
    };
    let Ok(device) = Device::begin(shared, registration, peer, "h2") else {
        requests.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
        let _ = tokio::time::timeout(FAREWELL, poll_fn(|context| requests.poll_closed(context))).await;
        return;
    };
    let why = serve_requests(&device, &enrolment, &mut requests, &(peer, key)).await;
    device.end(why);
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
                Some(Ok((request, respond))) => handle(device, enrolment, request, respond, who),
                Some(Err(_)) => return "connection lost",
                None => return "closed by the device",
            },
            () = &mut alive => return "no answer to a probe",
            cut = device.session.cut() => {
                farewell(requests).await;
                return cut_words(cut);
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

fn handle(
    device: &Arc<Device>,
    enrolment: &Router,
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
    who: &(SocketAddr, PresentedKey),
) {
    let tasks = &device.shared.tasks;
    match (request.method(), request.uri().path()) {
        (&Method::CONNECT, _) => {
            let protocol = header(&request, PROTOCOL_HEADER).map(ToOwned::to_owned);
            let authority = request.uri().authority().map(|authority| authority.as_str().to_owned());
            let asked = AskedConnect { respond, body: request.into_body() };
            let device = Arc::clone(device);
            drop(tasks.spawn(async move {
                device.carry(protocol.as_deref(), authority.as_deref().unwrap_or(""), asked).await;
            }));
        }
        (&Method::GET, EVENTS_PATH) => drop(tasks.spawn(events(Arc::clone(device), request, respond))),
        (&Method::POST, EXPLAIN_PATH) => drop(tasks.spawn(answer(Arc::clone(device), request, respond))),
        (&Method::POST, ENROLL_PATH) => {
            drop(tasks.spawn(enroll(enrolment.clone(), request, respond, who.clone())));
        }
        _ => respond_with(respond, StatusCode::NOT_FOUND),
    }
}

fn header<'a>(request: &'a Request<RecvStream>, name: &str) -> Option<&'a str> {
    request.headers().get(name).and_then(|value| value.to_str().ok())
}

/// Tells the device its state, then what changes, for as long as it listens.
async fn events(device: Arc<Device>, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    let instance = header(&request, INSTANCE_HEADER).and_then(|text| Uuid::try_parse(text).ok());
    let Some(instance) = instance else {
        return respond_with(respond, StatusCode::BAD_REQUEST);
    };
    device.identify(instance, header(&request, VERSION_HEADER).unwrap_or("")).await;
    let response = Response::builder().header(http::header::CONTENT_TYPE, "application/x-ndjson").body(());
    let Ok(stream) = respond.send_response(response.unwrap_or_default(), false) else { return };
    let mut writer = http2::duplex(stream, request.into_body()).writer;
    device.tell(&mut writer).await;
    if writer.finish().await.is_err() {
        tracing::trace!("the device listens no more");
    }
}

/// A `CONNECT` that waits for its answer.
struct AskedConnect {
    respond: SendResponse<Bytes>,
    body: RecvStream,
}

impl Asked for AskedConnect {
    type Reader = Http2Reader;
    type Writer = Http2Writer;

    async fn accept(mut self) -> Option<Duplex<Http2Reader, Http2Writer>> {
        let stream = self.respond.send_response(Response::new(()), false).ok()?;
        Some(http2::duplex(stream, self.body))
    }

    async fn accept_datagrams(self) -> Option<DatagramFlow<Http2Reader, Http2Writer>> {
        self.accept().await.map(DatagramFlow::on_stream)
    }

    async fn refuse(self, refusal: Refusal, detail: &str) {
        refuse(self.respond, refusal, detail);
    }
}

fn refuse(mut respond: SendResponse<Bytes>, refusal: Refusal, detail: &str) {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(refusal_status(refusal)).unwrap_or(StatusCode::BAD_GATEWAY);
    let headers = response.headers_mut();
    headers.insert(REFUSAL_HEADER, HeaderValue::from_static(refusal.as_str()));
    if let Ok(detail) = HeaderValue::try_from(detail_of(detail))
        && !detail.is_empty()
    {
        headers.insert("adit-detail", detail);
    }
    if respond.send_response(response, true).is_err() {
        tracing::trace!("the device gave up before it was refused");
    }
}

pub(super) fn respond_with(mut respond: SendResponse<Bytes>, status: StatusCode) {
    let mut response = Response::new(());
    *response.status_mut() = status;
    if respond.send_response(response, true).is_err() {
        tracing::trace!("the device gave up before it was answered");
    }
}

/// How long an unregistered key may stay connected.
const STRANGER_DEADLINE: Duration = Duration::from_mins(1);
