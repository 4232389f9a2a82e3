//! The local HTTP listener (contract, section 7).
//!
//! `/ready`, `/healthcheck` and `/metrics` are for probes and scrapers wherever they are. All else shows the
//! configuration: it is served on a loopback address only, and there only to requests that name this host by a loopback
//! name or address, so that no web page reads it through a name of its own.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Map, Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::RunError;
use crate::config::MetricsAddress;
use crate::process::{Process, ShownLink};

/// Connections at once: scrapers and probes are few.
const MAX_CONNECTIONS: usize = 64;
/// How long a request's head may take, and a connection be idle.
const HEAD_DEADLINE: Duration = Duration::from_secs(10);
/// Pause after the system had no socket for us.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Listens at the first of the addresses that is free.
pub(crate) async fn bind(address: &MetricsAddress) -> Result<TcpListener, RunError> {
    let mut last = None;
    for candidate in address.candidates() {
        let failed = |source| RunError::Metrics { address: candidate.to_string(), source };
        match tokio::net::lookup_host((candidate.host.as_str(), candidate.port)).await {
            Err(source) => last = Some(failed(source)),
            Ok(addresses) => {
                for address in addresses {
                    match TcpListener::bind(address).await {
                        Ok(listener) => return Ok(listener),
                        Err(source) => last = Some(failed(source)),
                    }
                }
            }
        }
    }
    let none = || RunError::Metrics {
        address: format!("{address:?}"),
        source: std::io::Error::new(std::io::ErrorKind::AddrNotAvailable, "the name has no address"),
    };
    Err(last.unwrap_or_else(none))
}

/// Serves until it is dropped.
pub(crate) async fn serve(listener: TcpListener, process: Arc<Process>) {
    let audience = match listener.local_addr() {
        Ok(address) if address.ip().to_canonical().is_loopback() => Audience::Host,
        Ok(_) | Err(_) => Audience::Network,
    };
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) if connections.len() < MAX_CONNECTIONS => {
                    connections.spawn(serve_connection(stream, peer, Arc::clone(&process), audience));
                }
                Ok((_, peer)) => tracing::debug!(peer = %peer, "too many connections to the metrics server"),
                Err(error) => {
                    tracing::warn!(error = %error, "metrics server cannot accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Who can reach the listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Audience {
    /// Programs of this host.
    Host,
    /// Others too.
    Network,
}

async fn serve_connection(stream: TcpStream, peer: SocketAddr, process: Arc<Process>, audience: Audience) {
    let service = service_fn(|request: Request<Incoming>| {
        let response = respond(&process, &request, audience);
        async move { Ok::<_, Infallible>(response) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::trace!(peer = %peer, error = %error, "metrics connection ended");
    }
}

fn respond(process: &Process, request: &Request<Incoming>, audience: Audience) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    let known = matches!(path, "/ready" | "/healthcheck" | "/metrics")
        || audience == Audience::Host && LOCAL_PAGES.contains(&path) && is_for_this_host(request);
    if !known {
        return response(StatusCode::NOT_FOUND, TEXT, "404 page not found\n".into());
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return response(StatusCode::METHOD_NOT_ALLOWED, TEXT, "method not allowed\n".into());
    }
    match request.uri().path() {
        "/ready" => ready(process),
        "/healthcheck" => response(StatusCode::OK, TEXT, "OK\n".into()),
        "/metrics" => response(StatusCode::OK, PROMETHEUS, process.render_metrics()),
        "/config" => json(&process.configuration().json()),
        "/quicktunnel" => json(&json!({"hostname": ""})),
        "/diag/tunnel" => json(&tunnel(process)),
        "/diag/configuration" => json(&flags(process)),
        "/diag/system" => json(&system()),
        _ => response(StatusCode::NOT_FOUND, TEXT, "404 page not found\n".into()),
    }
}

/// Pages for this host only.
const LOCAL_PAGES: [&str; 5] =
    ["/config", "/quicktunnel", "/diag/tunnel", "/diag/configuration", "/diag/system"];

/// Whether the request names a loopback name or address.
fn is_for_this_host(request: &Request<Incoming>) -> bool {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let host = crate::ingress::bare_host(host);
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

/// The tunnel and its connections.
fn tunnel(process: &Process) -> Value {
    let connections: Vec<Value> = process
        .connections()
        .into_iter()
        .map(|connection| {
            let protocol = match connection.link {
                ShownLink::Http2 => 0,
                ShownLink::Quic(_) => 1,
            };
            json!({
                "isConnected": true,
                "protocol": protocol,
                "edgeAddress": connection.edge.ip().to_string(),
                "index": connection.index,
            })
        })
        .collect();
    json!({
        "tunnelID": process.config.tunnel.to_string(),
        "connectorID": process.connector.to_string(),
        "connections": connections,
        "icmp_sources": [],
    })
}

/// The flags that were set.
fn flags(process: &Process) -> Value {
    let mut flags = match process.config.report.get("__configuration_flags") {
        Some(Value::Object(flags)) => flags.clone(),
        Some(_) | None => Map::new(),
    };
    if let Some(label) = &process.config.label {
        flags.insert("label".into(), label.clone().into());
    }
    flags.insert("uid".into(), user_id().into());
    Value::Object(flags)
}

/// The user that this process runs as, as the system shows it.
fn user_id() -> String {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").map(|process| process.uid().to_string()).unwrap_or_default()
}

fn system() -> Value {
    json!({
        "info": {
            "osSystem": std::env::consts::OS,
            "architecture": std::env::consts::ARCH,
            "cloudflaredVersion": concat!("adit-", env!("CARGO_PKG_VERSION")),
        },
        "errors": null,
    })
}

fn json(value: &Value) -> Response<Full<Bytes>> {
    response(StatusCode::OK, JSON, value.to_string())
}

/// Ready is a connector with a connection that is not being stopped.
fn ready(process: &Process) -> Response<Full<Bytes>> {
    let connections = process.live_connections();
    let stopping = process.stopping.is_cancelled();
    let status = if connections > 0 && !stopping { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = format!(
        r#"{{"status":{},"readyConnections":{connections},"connectorId":"{}"}}"#,
        status.as_u16(),
        process.connector
    );
    response(status, TEXT, body)
}

fn response(status: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let content_type = header::HeaderValue::from_static(content_type);
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";
