//! The local HTTP listener: `/ready`, `/healthcheck` and `/metrics`, and nothing else (contract, section 7).

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::RunError;
use crate::config::MetricsAddress;
use crate::process::Process;

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
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) if connections.len() < MAX_CONNECTIONS => {
                    connections.spawn(serve_connection(stream, peer, Arc::clone(&process)));
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

async fn serve_connection(stream: TcpStream, peer: SocketAddr, process: Arc<Process>) {
    let service = service_fn(|request: Request<Incoming>| {
        let response = respond(&process, &request);
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

fn respond(process: &Process, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let known = matches!(request.uri().path(), "/ready" | "/healthcheck" | "/metrics");
    if known && !matches!(*request.method(), Method::GET | Method::HEAD) {
        return response(StatusCode::METHOD_NOT_ALLOWED, TEXT, "method not allowed\n".into());
    }
    match request.uri().path() {
        "/ready" => ready(process),
        "/healthcheck" => response(StatusCode::OK, TEXT, "OK\n".into()),
        "/metrics" => response(StatusCode::OK, PROMETHEUS, process.render_metrics()),
        _ => response(StatusCode::NOT_FOUND, TEXT, "404 page not found\n".into()),
    }
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
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";
