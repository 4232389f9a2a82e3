//! The listeners in the clear of `adit up`: `/metrics`, `/ready` and `/healthz`; and, if it is asked for, the API on a
//! loopback address.

use std::net::SocketAddr;
use std::sync::Arc;

use adit_edge::Edge;
use anyhow::Context;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::nodes::Health;
use crate::records::Metrics;

/// Connections at once of the metrics listener: a scraper or two, and a person.
const MAX_METRICS_CONNECTIONS: usize = 64;
/// Connections at once of the API's plain listener: the programs of one machine.
const MAX_API_CONNECTIONS: usize = 1024;
/// How long a client may take to send a request's head.
const HEAD_DEADLINE: std::time::Duration = std::time::Duration::from_secs(10);
/// After a failed accept, before the next.
const ACCEPT_PAUSE: std::time::Duration = std::time::Duration::from_millis(100);

struct Shown {
    registry: Registry,
    edge: Arc<Edge>,
    /// The database, where several nodes share it.
    health: Option<Arc<Health>>,
}

/// Binds a listener, named by its flag, so that a port in use is known before anything is served.
pub(crate) async fn bind(flag: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address} ({flag}); choose another address with --{flag}"))
}

/// Serves metrics until stopped.
pub(crate) async fn serve(
    listener: TcpListener,
    edge: Arc<Edge>,
    health: Option<Arc<Health>>,
    records: Metrics,
    stop: CancellationToken,
) {
    let mut registry = Registry::default();
    edge.metrics().register(&mut registry);
    records.register(&mut registry);
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/ready", get(ready))
        .route("/healthz", get(async || "OK\n"))
        .with_state(Arc::new(Shown { registry, edge, health }));
    serve_router(listener, router, MAX_METRICS_CONNECTIONS, stop).await;
}

/// Serves the API in the clear until stopped: to this machine, since the address is loopback.
pub(crate) async fn serve_api(listener: TcpListener, router: Router, stop: CancellationToken) {
    serve_router(listener, router, MAX_API_CONNECTIONS, stop).await;
}

async fn serve_router(listener: TcpListener, router: Router, most: usize, stop: CancellationToken) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Mostly out of file descriptors: flows will give some back.
                tracing::warn!(error = %error, "cannot accept a connection of metrics or the plain API");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        while connections.try_join_next().is_some() {}
        if connections.len() >= most {
            continue;
        }
        // Answers are written whole: nothing is gained by waiting for more.
        let _ = stream.set_nodelay(true);
        let service = TowerToHyperService::new(router.clone().layer(axum::Extension(peer)));
        let stop = stop.clone();
        connections.spawn(async move {
            let mut builder = auto::Builder::new(TokioExecutor::new());
            builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_DEADLINE);
            let connection = builder.serve_connection(TokioIo::new(stream), service);
            tokio::select! {
                ended = connection => if let Err(error) = ended {
                    tracing::debug!(error = %error, "connection ended");
                },
                () = stop.cancelled() => {}
            }
        });
    }
    while connections.join_next().await.is_some() {}
}

async fn metrics(State(shown): State<Arc<Shown>>) -> Response {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &shown.registry) {
        Ok(()) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn ready(State(shown): State<Arc<Shown>>) -> Response {
    let freshness = shown.edge.freshness();
    let (age, limit) = (freshness.age(), freshness.limit());
    // Without its database an edge goes on deciding by what it has: it is ready, until that is too old.
    let status = if age > limit { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    let mut body = serde_json::json!({
        "status": status.as_u16(),
        "snapshot": shown.edge.snapshot_number(),
        "x_generation": shown.edge.snapshot_number(),
        "connections": shown.edge.connections(),
        "change_log": {
            "reached": freshness.is_reached(),
            "snapshot_age_seconds": age.as_secs(),
            "refuses_flows_in_seconds": limit.saturating_sub(age).as_secs(),
        },
    });
    if let Some(health) = &shown.health {
        let silent_for = health.silent_for();
        body["database"] = if silent_for.is_some() { "unreachable" } else { "connected" }.into();
        body["database_unreachable_seconds"] = silent_for.unwrap_or_default().as_secs().into();
    }
    (status, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}
