//! One request to a public host name: where it goes, its body there, its answer back.
//!
//! The body is on its way while the answer is waited for, and neither is held in memory. Nothing is looked up but in the
//! snapshot; a name that leads to another tunnel since the connection was made goes there.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use adit_model::{FlowId, Refusal, RequestEnd};
use adit_transport::WriteChunk;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode, Uri, Version};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use hyper::ext::Protocol;
use tokio::sync::watch;
use uuid::Uuid;

use super::answer::{Body, Held, of_refusal, page, streamed};
use super::connection::Client;
use super::recording::{Asked, Recording};
use super::{Served, headers, upgrade};
use crate::dial::{self, NotDialled, OriginAnswer, OriginRequest, PendingAnswer};
use crate::far::FarWriter;

/// Answers one request, whatever becomes of it.
pub(super) async fn serve(client: Arc<Client>, request: Request<Incoming>) -> Response<Body> {
    let authority = match host(&request, &client.served) {
        Ok(authority) => authority,
        Err((status, line)) => return page(status, line, None),
    };
    let snapshot = client.shared.snapshots.current();
    let found = snapshot.hostname(client.served.name.as_str());
    let Some(hostname) = found.filter(|hostname| hostname.account == client.served.account).cloned() else {
        return page(StatusCode::NOT_FOUND, "there is no such host name", None);
    };
    let id = Uuid::new_v4();
    let asked = Asked {
        flow: FlowId::from_uuid(id),
        account: hostname.account,
        hostname: hostname.hostname.clone(),
        tunnel: hostname.tunnel,
        source: client.peer.ip().to_canonical(),
        method: request.method().to_string(),
        path: request.uri().path().to_owned(),
        snapshot: snapshot.number(),
    };
    drop(snapshot);
    let ray = ray(id, &client.shared.node);
    let recording = Recording::new(Arc::clone(&client.shared), asked);
    let exchange = Exchange { client, authority, ray, recording };
    if exchange.client.shared.freshness.is_stale() {
        return exchange.not_dialled(&NotDialled::nowhere(Refusal::Stale, String::new()));
    }
    match websocket(&request) {
        Some(kind) => upgrade::serve(exchange, request, kind).await,
        None => exchange.serve(request).await,
    }
}

/// A request that has been routed.
pub(super) struct Exchange {
    pub(super) client: Arc<Client>,
    /// The host, and its port where the client named one.
    authority: String,
    pub(super) ray: HeaderValue,
    pub(super) recording: Arc<Recording>,
}

/// How a client asks for a WebSocket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Handshake {
    /// By `Upgrade` (RFC 6455).
    Upgrade,
    /// By `CONNECT` over HTTP/2 (RFC 8441).
    ExtendedConnect,
}

impl Exchange {
    async fn serve(self, request: Request<Incoming>) -> Response<Body> {
        let busy = self.client.busy();
        let (parts, body) = request.into_parts();
        if parts.method == Method::CONNECT {
            return self.refuse(StatusCode::METHOD_NOT_ALLOWED, "CONNECT is for WebSockets only");
        }
        let mut headers = parts.headers;
        headers::for_origin(&mut headers, self.client.peer.ip(), &self.ray);
        if !body.is_end_stream() && !headers.contains_key(header::CONTENT_LENGTH) {
            // By it a connector knows that there is a body (tunnel protocol, 3.2).
            headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        let Some(origin) = self.origin_request(parts.method, &parts.uri, headers, false) else {
            return self.refuse(StatusCode::BAD_REQUEST, "the URL cannot be read");
        };
        let dialled = dial::request(&self.client.shared, self.recording.order(), origin).await;
        let exchange = match dialled {
            Ok(exchange) => exchange,
            Err(not) => return self.not_dialled(&not),
        };
        self.recording.carried_by(exchange.via.connection(), exchange.via.relayed_to());
        let (over, is_over) = watch::channel(false);
        let pump = send_body(body, exchange.writer, Arc::clone(&self.recording), is_over);
        self.client.shared.tasks.spawn(pump);
        let OriginAnswer { status, headers, reader } = match self.wait(exchange.answer).await {
            Ok(answer) => answer,
            Err(not) => return self.not_dialled(&not),
        };
        self.recording.answered(status);
        let removed = self.client.served.removed.child_token();
        let recording = Arc::clone(&self.recording);
        let held = Held { over: Some(over), _writer: None, _via: exchange.via, _busy: busy };
        let body = streamed(reader, recording, removed, held);
        let mut response = Response::new(body);
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        headers::for_client(response.headers_mut(), &self.ray);
        response
    }

    /// What the tunnel's connector is asked. `None`: no URL can be made of it.
    pub(super) fn origin_request(
        &self,
        method: Method,
        uri: &Uri,
        headers: HeaderMap,
        websocket: bool,
    ) -> Option<OriginRequest> {
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        // `OPTIONS *` is about the server as a whole, which is not the connector's to be asked.
        let path = if path.starts_with('/') { path } else { "/" };
        let uri = Uri::builder().scheme("https").authority(self.authority.as_str()).path_and_query(path);
        let uri = uri.build().ok()?;
        Some(OriginRequest { method, uri, host: self.authority.clone(), headers, websocket })
    }

    /// Waits for the head of the answer for as long as the body moves, and [`ANSWER_DEADLINE`] after that.
    pub(super) async fn wait(&self, answer: PendingAnswer) -> Result<OriginAnswer, NotDialled> {
        let mut answer = std::pin::pin!(answer.wait());
        loop {
            let before = self.recording.up.load(Ordering::Relaxed);
            if let Ok(answered) = tokio::time::timeout(ANSWER_DEADLINE, answer.as_mut()).await {
                return answered;
            }
            if self.recording.up.load(Ordering::Relaxed) == before {
                let detail = "no answer from the origin".to_owned();
                return Err(NotDialled::nowhere(Refusal::TimedOut, detail));
            }
        }
    }

    /// The page for a request that the origin has not answered. The connector's words are for the log.
    pub(super) fn not_dialled(&self, not: &NotDialled) -> Response<Body> {
        if not.connection.is_some() || not.relayed_to.is_some() {
            self.recording.carried_by(not.connection, not.relayed_to);
        }
        tracing::info!(
            flow = %self.recording.flow(),
            refusal = not.refusal.as_str(),
            detail = not.detail,
            "request failed"
        );
        self.recording.ended(RequestEnd::Refused(not.refusal));
        let (status, line) = of_refusal(not.refusal);
        self.recording.answered(status);
        page(status, line, Some(&self.ray))
    }

    /// The page for a request that is not passed on.
    pub(super) fn refuse(&self, status: StatusCode, line: &'static str) -> Response<Body> {
        self.recording.ended(RequestEnd::Refused(Refusal::Blocked));
        self.recording.answered(status);
        page(status, line, Some(&self.ray))
    }
}

/// Whether and how a WebSocket is asked for.
fn websocket(request: &Request<Incoming>) -> Option<Handshake> {
    let protocol = request.extensions().get::<Protocol>();
    if request.method() == Method::CONNECT {
        return protocol.filter(|name| name.as_str() == "websocket").map(|_| Handshake::ExtendedConnect);
    }
    let upgrades = request.method() == Method::GET
        && request.version() == Version::HTTP_11
        && headers::asks_for_websocket(request.headers());
    upgrades.then_some(Handshake::Upgrade)
}

/// A request that names another host: its status, and a line.
pub(super) type Misdirected = (StatusCode, &'static str);

/// The host that a request names, and its port where it names one; it has to be the one that its connection was made for.
pub(super) fn host(request: &Request<Incoming>, served: &Served) -> Result<String, Misdirected> {
    let authority = authority(request)?;
    if is_host(&authority, served.name.as_str()) {
        return Ok(authority);
    }
    Err((StatusCode::MISDIRECTED_REQUEST, "this connection is for another host name"))
}

/// The one authority that a request names. With HTTP/1.1 that is the URL's, if it has one (RFC 9112, 3.2.2); with HTTP/2
/// a `Host` beside it must say the same (RFC 9113, 8.3.1).
fn authority(request: &Request<Incoming>) -> Result<String, Misdirected> {
    let wrong = (StatusCode::BAD_REQUEST, "the request names no host, or more than one");
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let host = hosts.next().map(|host| host.to_str().map_err(|_| wrong)).transpose()?;
    if hosts.next().is_some() {
        return Err(wrong);
    }
    match (request.uri().authority(), host) {
        (Some(authority), Some(host)) if !authority.as_str().eq_ignore_ascii_case(host) => Err(wrong),
        (Some(authority), _) => Ok(authority.to_string()),
        (None, Some(host)) => Ok(host.to_owned()),
        (None, None) => Err(wrong),
    }
}

/// Whether an authority is this host name, with whatever port.
fn is_host(authority: &str, name: &str) -> bool {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        Some(_) => return false,
        None => authority,
    };
    host.strip_suffix('.').unwrap_or(host).eq_ignore_ascii_case(name)
}

/// Sixteen hexadecimal digits and the node, as clients and origins expect of a `Cf-Ray`.
fn ray(id: Uuid, node: &str) -> HeaderValue {
    let digits = id.as_u64_pair().0;
    HeaderValue::try_from(format!("{digits:016x}-{node}")).unwrap_or(HeaderValue::from_static("0"))
}

/// Sends a request's body. A client that goes away before its end resets it, so that the origin does not take it for whole.
async fn send_body(
    mut body: Incoming,
    mut writer: FarWriter,
    recording: Arc<Recording>,
    over: watch::Receiver<bool>,
) {
    let sent = tokio::select! {
        sent = pump(&mut body, &mut writer, &recording) => sent,
        () = abandoned(over) => false,
    };
    if !sent {
        writer.reset();
    }
}

/// Whether all of it was sent.
async fn pump(body: &mut Incoming, writer: &mut FarWriter, recording: &Recording) -> bool {
    while let Some(frame) = body.frame().await {
        // Trailers have no place in the tunnel protocol.
        let Ok(frame) = frame else { return false };
        let Ok(chunk) = frame.into_data() else { continue };
        let length = chunk.len() as u64;
        if !chunk.is_empty() && writer.write_chunk(chunk).await.is_err() {
            return false;
        }
        recording.up.fetch_add(length, Ordering::Relaxed);
    }
    writer.finish().await.is_ok()
}

/// Resolves when nobody waits for the answer any more, and a while after its end.
async fn abandoned(mut over: watch::Receiver<bool>) {
    if over.wait_for(|over| *over).await.is_ok() {
        tokio::time::sleep(BODY_AFTER_ANSWER).await;
    }
}

/// From the last of the body that was taken to the head of the answer: as long as browsers and others like us wait.
const ANSWER_DEADLINE: Duration = Duration::from_secs(100);
/// How long a body may go on after its answer has ended.
const BODY_AFTER_ANSWER: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_for_one_host_name_whatever_the_port() {
        for same in ["app.example.com", "APP.example.com", "app.example.com.", "app.example.com:8443"] {
            assert!(is_host(same, "app.example.com"), "{same}");
        }
        for other in [
            "",
            "example.com",
            "app.example.com.evil",
            "app.example.com:x",
            "evil:1@app.example.com",
            "[::1]",
        ] {
            assert!(!is_host(other, "app.example.com"), "{other}");
        }
    }

    #[test]
    fn a_ray_is_the_first_half_of_the_requests_id_and_the_node() {
        let id = Uuid::from_u128(0x0123_4567_89ab_cdef_0011_2233_4455_6677);
        assert_eq!(ray(id, "edge01"), "0123456789abcdef-edge01");
    }
}
