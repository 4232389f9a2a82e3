//! Streams of an HTTP/2 connection: the edge's request and the connector's response (contract, 5.2 to 5.6).

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use adit_model::{Protocol, Refusal};
use adit_transport::datagram::DatagramFlow;
use adit_transport::http2::{self, Http2Reader, Http2Writer};
use adit_transport::{Duplex, WriteChunk};
use adit_wire::device::{PROTOCOL_HEADER, REFUSAL_HEADER};
use adit_wire::http2::{
    ConfigurationAnswer, ConfigurationPush, MAX_PUSH_BYTES, RESPONSE_HEADERS_HEADER, RESPONSE_META_HEADER,
    RequestKind, ResponseMeta, SOURCE_HEADER,
};
use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::request::Parts;
use http::{HeaderName, HeaderValue, Response, StatusCode};

use super::{Opened, Request};
use crate::dial::NotDialled;
use crate::http2_request::{self, Http2Answer};
use crate::ingress;
use crate::process::Process;

/// How long a pushed configuration may take to arrive.
const PUSH_DEADLINE: Duration = Duration::from_secs(10);

/// Serves a stream from its request to its end.
pub(crate) async fn serve(
    process: Arc<Process>,
    kind: RequestKind,
    request: http::Request<RecvStream>,
    respond: SendResponse<Bytes>,
) {
    let (head, receive) = request.into_parts();
    let stream = Http2Stream { respond, receive };
    match kind {
        RequestKind::Tcp => match protocol(&head) {
            Ok(protocol) => {
                let destination = head.uri.authority().map_or("", |authority| authority.as_str()).to_owned();
                // Any value will do (contract, 5.2): our edge tells the flow's id by it.
                let flow = text(&head, SOURCE_HEADER).unwrap_or_default().to_owned();
                super::serve(&process, Request { protocol, destination, flow }, stream).await;
            }
            Err(why) => stream.refuse(why).await,
        },
        RequestKind::Http | RequestKind::WebSocket => {
            serve_request(&process, head, kind == RequestKind::WebSocket, stream).await;
        }
        RequestKind::Configuration => configure(&process, stream).await,
        // Whoever accepts streams has taken it, and there is no second.
        RequestKind::ControlStream => stream.end(StatusCode::CONFLICT, ResponseMeta::Connector, None),
    }
}

/// Serves HTTP and WebSocket.
async fn serve_request(process: &Arc<Process>, head: Parts, websocket: bool, stream: Http2Stream) {
    let _guard = match super::begin(process, "http") {
        Ok(guard) => guard,
        Err(why) => return stream.refuse(why).await,
    };
    let request = http2_request::read(head, websocket, stream.receive.is_end_stream());
    let answer = Http2Answer::new(stream.respond);
    ingress::serve(process, request, http2::reader(stream.receive), answer).await;
}

/// Applies a configuration (contract, 5.4).
async fn configure(process: &Process, mut stream: Http2Stream) {
    let body = tokio::time::timeout(PUSH_DEADLINE, read_push(&mut stream.receive)).await;
    let Some(push) = body.ok().flatten() else {
        return stream.end(StatusCode::BAD_REQUEST, ResponseMeta::Connector, None);
    };
    let config = push.config.to_string();
    let (last_applied_version, error) = process.apply_configuration(push.version, config.as_bytes());
    let answer = ConfigurationAnswer { last_applied_version, err: error.map(serde_json::Value::String) };
    let head = response(StatusCode::OK, ResponseMeta::Connector);
    if let Ok(send) = stream.respond.send_response(head, false) {
        let mut writer = http2::writer(send);
        // An edge that has gone needs no answer.
        if writer.write_chunk(Bytes::from(answer.to_json())).await.is_ok() {
            let _ = writer.finish().await;
        }
    }
}

async fn read_push(receive: &mut RecvStream) -> Option<ConfigurationPush> {
    let mut body = Vec::new();
    while let Some(chunk) = receive.data().await {
        let chunk = chunk.ok()?;
        if body.len() + chunk.len() > MAX_PUSH_BYTES {
            return None;
        }
        body.extend_from_slice(&chunk);
        // Fails only for a stream that has ended.
        let _ = receive.flow_control().release_capacity(chunk.len());
    }
    ConfigurationPush::from_json(&body)
}

/// What the flow is: TCP, if nothing else is said.
fn protocol(head: &Parts) -> Result<Protocol, NotDialled> {
    text(head, PROTOCOL_HEADER).map_or(Ok(Protocol::Tcp), super::protocol)
}

fn text<'a>(head: &'a Parts, name: &str) -> Option<&'a str> {
    head.headers.get(name).and_then(|value| value.to_str().ok())
}

/// A stream behind its request.
struct Http2Stream {
    respond: SendResponse<Bytes>,
    receive: RecvStream,
}

impl Opened for Http2Stream {
    type Reader = Http2Reader;
    type Writer = Http2Writer;

    async fn accept(mut self) -> Option<Duplex<Http2Reader, Http2Writer>> {
        let head = response(StatusCode::OK, ResponseMeta::Origin);
        let send = self.respond.send_response(head, false).ok()?;
        Some(http2::duplex(send, self.receive))
    }

    async fn accept_datagrams(self) -> Option<DatagramFlow<Http2Reader, Http2Writer>> {
        self.accept().await.map(DatagramFlow::on_stream)
    }

    async fn refuse(self, why: NotDialled) {
        let limited = why.refusal == Refusal::TooManyFlows;
        let meta = if limited { ResponseMeta::RateLimited } else { ResponseMeta::Connector };
        self.end(StatusCode::BAD_GATEWAY, meta, Some(why.refusal));
    }

    async fn withdrawn(&mut self) {
        // Reset or lost: either way nobody waits for the answer.
        let _ = poll_fn(|context| self.respond.poll_reset(context)).await;
    }

    async fn delivered(_: &mut Http2Writer) -> bool {
        // The connection sends what was written before it is closed.
        true
    }
}

impl Http2Stream {
    /// Answers, and ends the stream. The words of a refusal are not sent (contract, 5.6), its name is, to an edge of ours.
    fn end(mut self, status: StatusCode, meta: ResponseMeta, refusal: Option<Refusal>) {
        let mut head = response(status, meta);
        if let Some(refusal) = refusal {
            let name = HeaderName::from_static(REFUSAL_HEADER);
            head.headers_mut().insert(name, HeaderValue::from_static(refusal.as_str()));
        }
        // An edge that has gone needs no answer.
        let _ = self.respond.send_response(head, true);
    }
}

/// A response's head, without headers of an origin.
pub(crate) fn response(status: StatusCode, meta: ResponseMeta) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(HeaderName::from_static(RESPONSE_META_HEADER), HeaderValue::from_static(meta.as_str()));
    headers.insert(HeaderName::from_static(RESPONSE_HEADERS_HEADER), HeaderValue::from_static(""));
    response
}
