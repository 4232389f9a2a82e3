//! A small Kubernetes API server: what the tests stand behind the network when there is no real one.
//!
//! What is real about it is what the network can break: TLS 1.2/1.3 with a client certificate demanded in the handshake,
//! HTTP/1.1 and HTTP/2 by ALPN, long watches and log streams, `exec` and `port-forward` over WebSocket as today's
//! kubectl speaks them. It holds namespaces, config maps and pods in memory; a pod runs at once ([`workload`]). Whoever
//! has a client certificate may do everything.

use std::sync::Arc;

use anyhow::Result;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

use crate::https::{self, Body};
use crate::pki::{ENGINEER_TOKEN, Pki};

pub use crate::https::Clients;

mod discovery;
mod patch;
mod rest;
mod store;
pub mod streams;
mod table;
pub mod workload;

use store::Store;

/// The server, before it listens.
#[derive(Clone)]
pub struct Server {
    tls: TlsAcceptor,
    clients: Clients,
    store: Arc<Store>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").finish_non_exhaustive()
    }
}

impl Server {
    /// A server with the namespaces `default` and `kube-system`, no pods, and the certificates of `pki`.
    pub fn new(pki: &Pki, clients: Clients) -> Result<Self> {
        let store = Arc::new(Store::default());
        for name in ["default", "kube-system"] {
            rest::create_namespace(&store, name);
        }
        Ok(Self { tls: https::acceptor(pki, clients)?, clients, store })
    }

    /// Serves what `listener` accepts, until dropped.
    pub async fn serve(self, listener: TcpListener) {
        let (store, clients) = (self.store, self.clients);
        https::serve(listener, self.tls, move |request| {
            let store = store.clone();
            async move {
                if clients == Clients::Token && !has_token(&request) {
                    return Failure::new(StatusCode::UNAUTHORIZED, "Unauthorized", "Unauthorized").response();
                }
                route(store, request).await.unwrap_or_else(|failure| failure.response())
            }
        })
        .await;
    }
}

fn has_token(request: &Request<Incoming>) -> bool {
    let wanted = format!("Bearer {ENGINEER_TOKEN}");
    request.headers().get(AUTHORIZATION).is_some_and(|found| found.as_bytes() == wanted.as_bytes())
}

async fn route(store: Arc<Store>, request: Request<Incoming>) -> Result<Response<Body>, Failure> {
    let path = request.uri().path().to_owned();
    let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    match segments.as_slice() {
        ["version"] => Ok(json_response(&discovery::version())),
        ["api"] => Ok(json_response(&discovery::api_versions())),
        ["apis"] => Ok(json_response(&discovery::api_groups())),
        ["api", "v1"] => Ok(json_response(&discovery::api_resources())),
        ["openapi", "v3"] => Ok(json_response(&discovery::openapi_index())),
        ["openapi", "v3", "api", "v1"] => Ok(json_response(&discovery::openapi())),
        ["healthz" | "livez" | "readyz"] => Ok(Response::new(whole("ok"))),
        ["api", "v1", "namespaces", namespace, "pods", pod, "log"] => {
            let pod = rest::pod(&store, namespace, pod)?;
            Ok(streams::log_response(&pod, request.uri().query().unwrap_or_default()))
        }
        ["api", "v1", "namespaces", namespace, "pods", pod, "exec"] => {
            rest::pod(&store, namespace, pod)?;
            streams::exec_websocket(request)
        }
        ["api", "v1", "namespaces", namespace, "pods", pod, "portforward"] => {
            let pod = rest::pod(&store, namespace, pod)?;
            streams::port_forward_websocket(request, pod)
        }
        ["api", "v1", rest @ ..] => rest::handle(store, rest, request).await,
        _ => Err(Failure::not_found("the server could not find the requested resource")),
    }
}

/// An answer that is not what was asked for, as a `Status` object.
#[derive(Debug)]
pub struct Failure {
    code: StatusCode,
    reason: &'static str,
    message: String,
}

impl Failure {
    fn new(code: StatusCode, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into() }
    }

    fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "NotFound", message)
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequest", message)
    }

    fn status(&self) -> Value {
        json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": self.message,
            "reason": self.reason, "code": self.code.as_u16(),
        })
    }

    pub(crate) fn response(&self) -> Response<Body> {
        let mut response = json_response(&self.status());
        *response.status_mut() = self.code;
        response
    }
}

fn json_response(value: &Value) -> Response<Body> {
    let mut response = Response::new(whole(value.to_string()));
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
}

pub(crate) fn whole(body: impl Into<Bytes>) -> Body {
    Full::new(body.into()).boxed_unsync()
}

/// A body of what comes through a channel, piece by piece.
pub(crate) fn streamed(receiver: mpsc::Receiver<Bytes>) -> Body {
    let pieces = futures_util::stream::unfold(receiver, |mut receiver| async move {
        let piece = receiver.recv().await?;
        Some((Ok(Frame::data(piece)), receiver))
    });
    StreamBody::new(pieces).boxed_unsync()
}

/// The parameters of a query, decoded, in their order.
pub(crate) fn query(text: &str) -> Vec<(String, String)> {
    text.split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (percent_decode(key), percent_decode(value))
        })
        .collect()
}

/// The first value of a parameter.
pub(crate) fn parameter<'a>(query: &'a [(String, String)], name: &str) -> Option<&'a str> {
    query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
}

fn percent_decode(text: &str) -> String {
    let mut bytes = text.bytes();
    let mut decoded = Vec::new();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'+' => b' ',
            b'%' => {
                let hex: String = bytes.by_ref().take(2).map(char::from).collect();
                u8::from_str_radix(&hex, 16).unwrap_or(b'?')
            }
            other => other,
        });
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_decoded() {
        let query = query("command=sh&command=-c&command=echo+a%26b&stdin=true&flag");
        let commands: Vec<_> =
            query.iter().filter(|(key, _)| key == "command").map(|(_, v)| v.as_str()).collect();
        assert_eq!(commands, ["sh", "-c", "echo a&b"]);
        assert_eq!(parameter(&query, "stdin"), Some("true"));
        assert_eq!(parameter(&query, "flag"), Some(""));
        assert_eq!(percent_decode("a%2"), "a\u{2}");
    }
}
