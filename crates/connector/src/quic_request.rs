//! A request for HTTP or WebSocket as a QUIC stream carries it, and the way of its answer back (contract, 3.2 and 3.3).

use std::time::Duration;

use adit_transport::quic::QuicWriter;
use adit_transport::stream::{StreamError, WriteChunk};
use adit_wire::tunnel::{ConnectRequest, ConnectResponse, ConnectionType, METADATA_HTTP_STATUS, Metadata};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};

use crate::ingress::{Answer, AnswerWriter, OriginRequest};

const METHOD: &str = "HttpMethod";
const HOST: &str = "HttpHost";
/// Before a header's name.
const HEADER: &str = "HttpHeader:";
/// How long an answer's head may wait for the edge to take it.
const RESPONSE_DEADLINE: Duration = Duration::from_secs(10);

/// Reads what the edge asks for; the error is for it.
pub(crate) fn read(request: &ConnectRequest) -> Result<OriginRequest, String> {
    let method = request.metadata(METHOD).unwrap_or("GET");
    let method = Method::from_bytes(method.as_bytes()).map_err(|_| "the request's method is malformed")?;
    let mut headers = HeaderMap::new();
    for entry in &request.metadata {
        let Some(name) = entry.key.strip_prefix(HEADER) else { continue };
        let malformed = || format!("header Key: {} malformed", shortened(&entry.key));
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| malformed())?;
        let value = HeaderValue::from_maybe_shared(entry.val.clone()).map_err(|_| malformed())?;
        headers.append(name, value);
    }
    let uri: Uri = request.dest.parse().map_err(|_| "the request's URL is malformed")?;
    let host = request.metadata(HOST).map(str::to_owned);
    let host = host.or_else(|| uri.authority().map(ToString::to_string)).unwrap_or_default();
    let websocket = request.kind == ConnectionType::WebSocket;
    Ok(OriginRequest { method, uri, host, headers, websocket })
}

fn shortened(key: &str) -> String {
    key.chars().take(100).collect()
}

/// The writing half of the request's stream, before anything was written.
#[derive(Debug)]
pub(crate) struct QuicAnswer {
    writer: QuicWriter,
}

impl QuicAnswer {
    pub(crate) fn new(writer: QuicWriter) -> Self {
        Self { writer }
    }

    async fn send(&mut self, response: &ConnectResponse) -> Result<(), StreamError> {
        let mut bytes = BytesMut::new();
        response.encode(&mut bytes).map_err(|error| StreamError::Io(std::io::Error::other(error)))?;
        let sent = tokio::time::timeout(RESPONSE_DEADLINE, self.writer.write_chunk(bytes.freeze())).await;
        sent.unwrap_or_else(|_| Err(StreamError::Io(std::io::ErrorKind::TimedOut.into())))
    }
}

impl Answer for QuicAnswer {
    type Writer = QuicWriter;

    async fn abandoned(&mut self) {
        AnswerWriter::abandoned(&mut self.writer).await;
    }

    async fn respond(mut self, status: StatusCode, headers: &HeaderMap) -> Result<QuicWriter, StreamError> {
        let status = Metadata::new(METADATA_HTTP_STATUS, status.as_u16().to_string());
        let fields = headers.iter().map(|(name, value)| {
            Metadata::new(format!("{HEADER}{}", title_case(name)), Bytes::copy_from_slice(value.as_bytes()))
        });
        let metadata = std::iter::once(status).chain(fields).collect();
        self.send(&ConnectResponse { error: String::new(), metadata }).await?;
        Ok(self.writer)
    }

    async fn fail(mut self, error: String) {
        let sent = self.send(&ConnectResponse { error, metadata: Vec::new() }).await;
        if sent.is_ok() && self.writer.finish().await.is_ok() {
            // Until it has arrived, or the connection is gone.
            let _ = tokio::time::timeout(RESPONSE_DEADLINE, self.writer.delivered()).await;
        }
    }
}

impl AnswerWriter for QuicWriter {
    async fn abandoned(&mut self) {
        // Before our own end, only the peer's refusal or the connection's end ends this.
        QuicWriter::delivered(self).await;
    }

    async fn finish_with(&mut self, _trailers: &HeaderMap) -> Result<(), StreamError> {
        // There are no trailers over QUIC (contract, 3.2).
        self.finish().await
    }

    async fn delivered(&mut self) {
        QuicWriter::delivered(self).await;
    }
}

/// A header's name as Go writes it.
pub(crate) fn title_case(name: &HeaderName) -> String {
    let mut title = String::with_capacity(name.as_str().len());
    let mut begins = true;
    for c in name.as_str().chars() {
        title.push(if begins { c.to_ascii_uppercase() } else { c });
        begins = c == '-';
    }
    title
}
