//! A request for HTTP or WebSocket as an HTTP/2 stream carries it, and the way of its answer back (contract, 5.5).

use std::future::poll_fn;

use adit_transport::StreamError;
use adit_transport::http2::{self, Http2Writer};
use adit_wire::http2::{
    RESPONSE_HEADERS_HEADER, ResponseMeta, SOURCE_HEADER, UPGRADE_HEADER, encode_headers,
    is_control_response_header,
};
use bytes::Bytes;
use h2::server::SendResponse;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use crate::flow::http2::response;
use crate::ingress::{Answer, AnswerWriter, OriginRequest};
use crate::quic_request::title_case;

/// Reads what the edge asks for.
pub(crate) fn read(head: Parts, websocket: bool, is_whole: bool) -> OriginRequest {
    let Parts { method, uri, mut headers, .. } = head;
    headers.remove(UPGRADE_HEADER);
    headers.remove(SOURCE_HEADER);
    let host = match (uri.authority(), headers.remove(header::HOST)) {
        (Some(authority), _) => authority.to_string(),
        (None, Some(host)) => host.to_str().unwrap_or_default().to_owned(),
        (None, None) => String::new(),
    };
    if !is_whole && !websocket && !headers.contains_key(header::CONTENT_LENGTH) {
        // In HTTP/2 a body needs no header.
        headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    OriginRequest { method, uri, host, headers, websocket }
}

/// The way back of a request, before anything was written.
#[derive(Debug)]
pub(crate) struct Http2Answer {
    respond: SendResponse<Bytes>,
}

impl Http2Answer {
    pub(crate) fn new(respond: SendResponse<Bytes>) -> Self {
        Self { respond }
    }
}

impl Answer for Http2Answer {
    type Writer = Http2Writer;

    async fn abandoned(&mut self) {
        // Reset or lost: either way nobody waits for the answer.
        let _ = poll_fn(|context| self.respond.poll_reset(context)).await;
    }

    async fn respond(mut self, status: StatusCode, headers: &HeaderMap) -> Result<Http2Writer, StreamError> {
        // There is no switching of protocols in HTTP/2.
        let status = if status == StatusCode::SWITCHING_PROTOCOLS { StatusCode::OK } else { status };
        let mut head = response(status, ResponseMeta::Origin);
        let has_body = ![StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED].contains(&status);
        if let Some(length) = headers.get(header::CONTENT_LENGTH).filter(|_| has_body) {
            head.headers_mut().insert(header::CONTENT_LENGTH, length.clone());
        }
        let names: Vec<(String, &[u8])> = headers
            .iter()
            .filter(|(name, _)| !is_control_response_header(name.as_str()))
            .map(|(name, value)| (title_case(name), value.as_bytes()))
            .collect();
        let list = encode_headers(names.iter().map(|(name, value)| (name.as_str(), *value)));
        let list = HeaderValue::from_maybe_shared(Bytes::from(list))
            .map_err(|error| StreamError::Io(std::io::Error::other(error)))?;
        head.headers_mut().insert(HeaderName::from_static(RESPONSE_HEADERS_HEADER), list);
        let send = self
            .respond
            .send_response(head, false)
            .map_err(|error| StreamError::ConnectionLost(Box::new(error)))?;
        Ok(http2::writer(send))
    }

    async fn fail(mut self, error: String) {
        // The words are not sent (contract, 5.6).
        tracing::debug!(error, "request failed");
        // An edge that has gone needs no answer.
        let _ = self.respond.send_response(response(StatusCode::BAD_GATEWAY, ResponseMeta::Connector), true);
    }
}

impl AnswerWriter for Http2Writer {
    async fn abandoned(&mut self) {
        Http2Writer::abandoned(self).await;
    }

    async fn finish_with(&mut self, trailers: &HeaderMap) -> Result<(), StreamError> {
        Http2Writer::finish_with(self, trailers.clone())
    }

    async fn delivered(&mut self) {
        // The connection sends what was written before it is closed.
    }
}
