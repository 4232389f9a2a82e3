//! HTTP and WebSocket requests to what a tunnel's ingress rules name (tunnel protocol, 3.2, 3.3 and 5.5).
//!
//! What always holds: no header of a client that means something to a connector is passed on (5.2); an answer's headers are
//! the origin's, as the connector tells them, and nothing that was added on the way.

use std::sync::Arc;

use adit_model::{ConnectionId, FlowId, NodeId, Refusal};
use adit_transport::{http2, quic};
use adit_wire::http2::{
    RESPONSE_HEADERS_HEADER, RESPONSE_META_HEADER, ResponseMeta, UPGRADE_HEADER, UPGRADE_WEBSOCKET,
    decode_headers, is_control_header, is_control_response_header,
};
use adit_wire::tunnel::{
    ConnectRequest, ConnectResponse, ConnectionType, METADATA_FLOW_ID, METADATA_HTTP_STATUS, Metadata,
};
use h2::RecvStream;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header};

use super::{Failure, NotDialled, Order, Reach, Via, attempts, refusal_of, relay, stream};
use crate::Shared;
use crate::carrier::Carrier;
use crate::connections::Connection;
use crate::far::{FarReader, FarWriter};
use crate::peer::Link;

/// A request for a tunnel's ingress rules.
#[derive(Debug, Clone)]
pub(crate) struct OriginRequest {
    pub(crate) method: Method,
    /// Path and query are taken from it.
    pub(crate) uri: Uri,
    /// What the rules match, and the origin's `Host`.
    pub(crate) host: String,
    /// The client's. A body whose length they do not tell has `Transfer-Encoding: chunked`, else no body is sent on (3.2).
    pub(crate) headers: HeaderMap,
    /// Whether the client asks for a WebSocket.
    pub(crate) websocket: bool,
}

/// A request that was sent.
#[derive(Debug)]
pub(crate) struct OriginExchange {
    /// What carries it.
    pub(crate) via: Via,
    /// For the body, or for what the client says on its WebSocket. `finish` is the end of the body; that of a WebSocket is
    /// the end of the whole (3.4).
    pub(crate) writer: FarWriter,
    /// The answer, which may come before the body was sent.
    pub(crate) answer: PendingAnswer,
}

/// The origin's answer.
#[derive(Debug)]
pub(crate) struct OriginAnswer {
    /// 101 for a WebSocket that was accepted: what follows on both sides is the WebSocket's own.
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) reader: FarReader,
}

/// An answer that will come.
#[derive(Debug)]
pub(crate) struct PendingAnswer {
    asked: Asked,
    websocket: bool,
    connection: Option<ConnectionId>,
    relayed_to: Option<NodeId>,
}

#[derive(Debug)]
enum Asked {
    Quic(quinn::RecvStream),
    Http2(h2::client::ResponseFuture),
}

/// Sends a request through the tunnel's best connection, and through another if that one is lost before it was sent.
pub(crate) async fn request(
    shared: &Shared,
    order: Order,
    request: OriginRequest,
) -> Result<OriginExchange, NotDialled> {
    let (request, flow) = (&request, order.flow.flow);
    let own = |connection: Arc<Connection>| async move {
        match &connection.carrier {
            Carrier::Quic(carrier) => ask_over_quic(&carrier.connection, &for_quic(flow, request)).await,
            Carrier::Http2(carrier) => {
                let head = for_http2(request).map_err(|error| Failure::connector(error.to_string()))?;
                let (response, send) = stream::ask(carrier, head, false).await?;
                Ok((FarWriter::Http2(http2::writer(send)), Asked::Http2(response)))
            }
        }
    };
    let (via, (writer, asked)) = match attempts(shared, &order, own).await {
        Err(not) if not.refusal == Refusal::NoConnection && order.reach == Reach::AnyNode => {
            let peer = |link: Arc<Link>| async move {
                let mut head = for_quic(flow, request);
                order.flow.write(&mut head);
                ask_over_quic(&link.quic, &head).await
            };
            let (guard, asked) = relay(shared, &order, not, peer).await?;
            (Via::Peer(guard, None), asked)
        }
        outcome => outcome.map(|(guard, asked)| (Via::Connection(guard), asked))?,
    };
    let (connection, relayed_to) = (via.connection(), via.relayed_to());
    let answer = PendingAnswer { asked, websocket: request.websocket, connection, relayed_to };
    Ok(OriginExchange { via, writer, answer })
}

async fn ask_over_quic(
    connection: &quinn::Connection,
    request: &ConnectRequest,
) -> Result<(FarWriter, Asked), Failure> {
    let (mut send, receive) = connection.open_bi().await.map_err(|_| Failure::Lost)?;
    stream::send_request(&mut send, request).await?;
    Ok((FarWriter::Quic(quic::writer(send)), Asked::Quic(receive)))
}

impl OriginRequest {
    /// The request that a peer node relays; `None` if it is none.
    pub(crate) fn of_relayed(relayed: &ConnectRequest) -> Option<Self> {
        let websocket = match relayed.kind {
            ConnectionType::Http => false,
            ConnectionType::WebSocket => true,
            ConnectionType::Tcp => return None,
        };
        let mut headers = HeaderMap::with_capacity(relayed.metadata.len());
        for entry in &relayed.metadata {
            let Some(name) = entry.key.strip_prefix(METADATA_HTTP_HEADER) else { continue };
            let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
            headers.try_append(name, HeaderValue::from_bytes(&entry.val).ok()?).ok()?;
        }
        Some(Self {
            method: relayed.metadata(METADATA_HTTP_METHOD)?.parse().ok()?,
            uri: relayed.dest.parse().ok()?,
            host: relayed.metadata(METADATA_HTTP_HOST)?.to_owned(),
            headers,
            websocket,
        })
    }
}

impl OriginAnswer {
    /// The answer as the peer node is told it that relayed the request.
    pub(crate) fn for_peer(&self) -> ConnectResponse {
        let mut metadata = vec![Metadata::new(METADATA_HTTP_STATUS, self.status.as_str().to_owned())];
        metadata.extend(self.headers.iter().map(|(name, value)| {
            Metadata::new(format!("{METADATA_HTTP_HEADER}{name}"), value.as_bytes().to_vec())
        }));
        ConnectResponse { error: String::new(), metadata }
    }
}

impl PendingAnswer {
    /// Waits for the answer; for how long is the caller's to say.
    ///
    /// # Errors
    /// The connector could not ask the origin, or is gone.
    pub(crate) async fn wait(self) -> Result<OriginAnswer, NotDialled> {
        let Self { asked, websocket, connection, relayed_to } = self;
        read_answer(asked, websocket).await.map_err(|failure| {
            let (refusal, detail) = match failure {
                Failure::Answered(refusal, detail) => (refusal, detail),
                Failure::Lost => {
                    let words = "the connection was lost before the origin answered";
                    (Refusal::NoConnection, words.to_owned())
                }
            };
            NotDialled { refusal, connection, relayed_to, detail }
        })
    }
}

async fn read_answer(asked: Asked, websocket: bool) -> Result<OriginAnswer, Failure> {
    match asked {
        Asked::Quic(mut receive) => {
            let (response, ahead) = stream::read_response(&mut receive).await?;
            let (status, headers) = of_quic(response)?;
            Ok(OriginAnswer { status, headers, reader: FarReader::Quic(quic::reader(receive, ahead)) })
        }
        Asked::Http2(response) => {
            let response = stream::answer(response).await?;
            let (status, headers) = of_http2(&response, websocket)?;
            let reader = FarReader::Http2(http2::reader(response.into_body()));
            Ok(OriginAnswer { status, headers, reader })
        }
    }
}

/// The client's headers that are passed on.
fn passed_on(headers: &HeaderMap) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
    headers.iter().filter(|(name, _)| !is_control_header(name.as_str()) && **name != header::HOST)
}

fn for_quic(flow: FlowId, request: &OriginRequest) -> ConnectRequest {
    let mut metadata = vec![
        Metadata::new(METADATA_HTTP_METHOD, request.method.as_str().to_owned()),
        Metadata::new(METADATA_HTTP_HOST, request.host.clone()),
        Metadata::new(METADATA_FLOW_ID, flow.to_string()),
    ];
    metadata.extend(passed_on(&request.headers).map(|(name, value)| {
        Metadata::new(format!("{METADATA_HTTP_HEADER}{name}"), value.as_bytes().to_vec())
    }));
    let path = request.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    ConnectRequest {
        dest: format!("http://{}{path}", request.host),
        kind: if request.websocket { ConnectionType::WebSocket } else { ConnectionType::Http },
        metadata,
    }
}

fn for_http2(request: &OriginRequest) -> Result<Request<()>, http::Error> {
    let path = request.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let uri = Uri::builder().scheme("http").authority(request.host.as_str()).path_and_query(path).build()?;
    let mut head = Request::builder().method(request.method.clone()).uri(uri).body(())?;
    let headers = head.headers_mut();
    for (name, value) in passed_on(&request.headers) {
        // They are of HTTP/1.1 and its connections (RFC 9113, 8.2.2); the kind of request says what an upgrade said.
        if !CONNECTION_HEADERS.contains(name) {
            headers.append(name.clone(), value.clone());
        }
    }
    if request.websocket {
        headers.insert(UPGRADE_HEADER, HeaderValue::from_static(UPGRADE_WEBSOCKET));
    }
    Ok(head)
}

fn of_quic(response: ConnectResponse) -> Result<(StatusCode, HeaderMap), Failure> {
    if !response.error.is_empty() {
        return Err(refusal_of(response));
    }
    let status = response.metadata(METADATA_HTTP_STATUS).and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| Failure::connector("an answer without a status"))?;
    let headers = response.metadata.iter().filter_map(|entry| {
        let name = entry.key.strip_prefix(METADATA_HTTP_HEADER)?;
        Some((name, &entry.val[..]))
    });
    Ok((status, origin_headers(headers)))
}

fn of_http2(response: &Response<RecvStream>, websocket: bool) -> Result<(StatusCode, HeaderMap), Failure> {
    let header = |name: &str| response.headers().get(name).map(HeaderValue::as_bytes);
    if header(RESPONSE_META_HEADER).and_then(ResponseMeta::parse) != Some(ResponseMeta::Origin) {
        return Err(stream::http2_refusal(response));
    }
    let list = decode_headers(header(RESPONSE_HEADERS_HEADER).unwrap_or_default())
        .map_err(|error| Failure::connector(error.to_string()))?;
    let headers = origin_headers(list.iter().map(|(name, value)| (name.as_str(), value.as_slice())));
    // 101 comes as 200 (tunnel protocol, 5.5): only the origin's headers tell which it was.
    let accepted = websocket
        && response.status() == StatusCode::OK
        && (headers.contains_key(header::SEC_WEBSOCKET_ACCEPT) || headers.contains_key(header::UPGRADE));
    Ok((if accepted { StatusCode::SWITCHING_PROTOCOLS } else { response.status() }, headers))
}

/// What an origin sent, without what HTTP does not allow and what would mean something to an edge.
fn origin_headers<'a>(list: impl Iterator<Item = (&'a str, &'a [u8])>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in list.filter(|(name, _)| !is_control_response_header(name)) {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_bytes(value)) {
            headers.append(name, value);
        }
    }
    headers
}

/// Keys of a request's and an answer's metadata (tunnel protocol, 3.2).
const METADATA_HTTP_METHOD: &str = "HttpMethod";
const METADATA_HTTP_HOST: &str = "HttpHost";
const METADATA_HTTP_HEADER: &str = "HttpHeader:";

const CONNECTION_HEADERS: [HeaderName; 6] = [
    header::CONNECTION,
    header::UPGRADE,
    header::TRANSFER_ENCODING,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("http2-settings"),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn websocket() -> OriginRequest {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("host", "app.example.com"),
            ("upgrade", "websocket"),
            ("connection", "upgrade"),
            ("sec-websocket-key", "a"),
            ("x-of-the-client", "1"),
            ("x-of-the-client", "2"),
            ("cf-cloudflared-proxy-src", "evil"),
            ("cf_cloudflared_proxy_connection_upgrade", "update-configuration"),
            ("cf-int-cloudflared-tracing", "evil"),
            ("cf-warp-tag-id", "evil"),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        OriginRequest {
            method: Method::GET,
            uri: "https://elsewhere.example.com/path?query=1".parse().unwrap(),
            host: "app.example.com".into(),
            headers,
            websocket: true,
        }
    }

    #[test]
    fn a_request_over_quic_has_the_clients_headers_and_no_control_header() {
        let sent = for_quic(FlowId::from_uuid(uuid::Uuid::nil()), &websocket());
        assert_eq!(sent.dest, "http://app.example.com/path?query=1");
        assert_eq!(sent.kind, ConnectionType::WebSocket);
        let entries = sent.metadata.iter().map(|entry| format!("{}={:?}", entry.key, entry.val));
        let expected = [
            r#"HttpMethod=b"GET""#,
            r#"HttpHost=b"app.example.com""#,
            r#"FlowID=b"00000000-0000-0000-0000-000000000000""#,
            r#"HttpHeader:upgrade=b"websocket""#,
            r#"HttpHeader:connection=b"upgrade""#,
            r#"HttpHeader:sec-websocket-key=b"a""#,
            r#"HttpHeader:x-of-the-client=b"1""#,
            r#"HttpHeader:x-of-the-client=b"2""#,
        ];
        assert_eq!(entries.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_request_over_http2_is_a_websocket_by_our_header_alone() {
        let sent = for_http2(&websocket()).unwrap();
        assert_eq!(sent.uri(), "http://app.example.com/path?query=1");
        let headers: Vec<_> =
            sent.headers().iter().map(|(name, value)| format!("{name}={value:?}")).collect();
        let expected = [
            r#"sec-websocket-key="a""#,
            r#"x-of-the-client="1""#,
            r#"x-of-the-client="2""#,
            r#"cf-cloudflared-proxy-connection-upgrade="websocket""#,
        ];
        assert_eq!(headers, expected);
        let mut plain = websocket();
        plain.websocket = false;
        assert!(!for_http2(&plain).unwrap().headers().contains_key(UPGRADE_HEADER));
    }

    #[test]
    fn an_answers_headers_are_the_origins() {
        let answer = ConnectResponse {
            error: String::new(),
            metadata: vec![
                Metadata::new("HttpStatus", "404"),
                Metadata::new("HttpHeader:Set-Cookie", "a"),
                Metadata::new("HttpHeader:Set-Cookie", "b"),
                Metadata::new("HttpHeader:cf-cloudflared-response-meta", "evil"),
                Metadata::new("HttpHeader:no name", "x"),
            ],
        };
        let (status, headers) = of_quic(answer).unwrap();
        assert_eq!(status, 404);
        assert_eq!(headers.get_all("set-cookie").iter().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(headers.len(), 2);
        assert!(of_quic(ConnectResponse::default()).is_err(), "an answer has a status");
    }
}
