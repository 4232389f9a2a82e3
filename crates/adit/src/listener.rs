//! The listener for `/metrics`, `/ready` and `/healthz` of `adit up`.

use std::net::SocketAddr;
use std::sync::Arc;

use adit_edge::Edge;
use anyhow::Context;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

struct Shown {
    registry: Registry,
    edge: Arc<Edge>,
}

/// Binds the listener, so that a port in use is known before anything is served.
pub(crate) async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen on {address} (metrics); choose another address with --metrics")
    })
}

/// Serves until stopped.
pub(crate) async fn serve(listener: TcpListener, edge: Arc<Edge>, stop: CancellationToken) {
    let mut registry = Registry::default();
    edge.metrics().register(&mut registry);
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/ready", get(ready))
        .route("/healthz", get(async || "OK\n"))
        .with_state(Arc::new(Shown { registry, edge }));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        let Ok((stream, _)) = accepted else { continue };
        let service = TowerToHyperService::new(router.clone());
        let stop = stop.clone();
        tokio::spawn(async move {
            let builder = auto::Builder::new(TokioExecutor::new());
            let connection = builder.serve_connection(TokioIo::new(stream), service);
            tokio::select! {
                ended = connection => if let Err(error) = ended {
                    tracing::debug!(error = %error, "metrics connection ended");
                },
                () = stop.cancelled() => {}
            }
        });
    }
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
    let body = serde_json::json!({
        "status": 200,
        "snapshot": shown.edge.snapshot_number(),
        "connections": shown.edge.connections(),
    });
    ([(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}
