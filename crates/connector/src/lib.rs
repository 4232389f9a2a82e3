//! The connector: dials out from the private network to the edge, and there dials what the edge asks for.
//!
//! [`config`] turns files and flags into a [`ConnectorConfig`]; [`run`] keeps up to four connections to the edge
//! (`connection`), over QUIC or HTTP/2 (`selection`), registers each over its control stream (`control`), and serves the
//! streams that the edge opens (`flow`, `dial`). A local listener shows whether all is well (`local`, `metrics`).
//!
//! What always holds: nothing listens but the metrics server; nothing is dialled that is never dialled (design, section
//! 4), whatever an edge asks; the number of flows is bounded; a lost connection is tried again for ever, but never
//! without a pause. The connector announces nothing: what it reports of its configuration is for display.

mod backoff;
pub mod config;
mod connection;
mod control;
mod dial;
mod echo;
mod flow;
mod http2_request;
pub mod ingress;
mod local;
mod metrics;
mod process;
mod quic_request;
mod resolver;
mod selection;
mod sessions;
mod udp;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use adit_model::ConnectorId;
use adit_transport::quic::Limits;
use adit_transport::tls::{self, KeyExchange};
use adit_transport::{http2, quic};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub use config::{ConfigError, ConfigFile, ConnectorConfig, Overrides};
pub use ingress::Rules;
use process::{Dialers, Load, Process};
pub use selection::Transports;

/// The protocol's name in TLS (contract, 1.3).
const ALPN: &[u8] = b"argotunnel";
/// How long an edge may be silent where there are others to go to; an edge looks at connectors with the same measure.
const IDLE_WITH_OTHERS: Duration = Duration::from_millis(3500);
/// What all connections together may have on their way in one direction, in bytes. With as much in the other, and what
/// flows hold between their sockets, a connector under more load than its origins or its edge take stays below 100 MiB.
const WINDOWS_BYTES: u32 = 24 << 20;
/// Largest header list of a request over HTTP/2, in bytes: as large as common servers take.
const MAX_HEADER_BYTES: u32 = 256 << 10;
/// After the last flow, how long the edge may still open one that was on its way.
const SETTLE: Duration = Duration::from_millis(500);
/// How long the tasks may take to end after all is closed.
const CLOSE_DEADLINE: Duration = Duration::from_secs(3);

/// A connector cannot start, or not go on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The metrics server has no address.
    #[error("cannot listen on {address} for metrics: free that address, or choose another with --metrics")]
    Metrics {
        /// The address that was asked for.
        address: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// TLS cannot be set up.
    #[error("TLS cannot be set up")]
    Tls(#[from] tls::TlsError),
    /// QUIC cannot be set up.
    #[error("QUIC cannot be set up")]
    Quic(#[from] quic::EndpointError),
    /// A task ended that must not: a defect.
    #[error("a connection's task ended by itself")]
    TaskEnded,
}

/// Runs a connector until `shutdown` is cancelled, and then until its flows have ended or the grace period has.
///
/// # Errors
/// The connector cannot start. An edge that is not there, or refuses, is no error: it is tried again.
pub async fn run(config: ConnectorConfig, shutdown: CancellationToken) -> Result<(), RunError> {
    let dialers = dialers(&config)?;
    let connector = ConnectorId::from_uuid(Uuid::new_v4());
    let listener = local::bind(&config.metrics).await?;
    let process = Process::new(config, connector, dialers, shutdown);
    run_process(Arc::new(process), listener).await
}

fn dialers(config: &ConnectorConfig) -> Result<Dialers, RunError> {
    let exchange =
        if config.post_quantum { KeyExchange::PostQuantum } else { KeyExchange::PostQuantumOrP256 };
    let tls = |protocols: &[&[u8]]| tls::connector_client_config(config.roots.clone(), exchange, protocols);
    let window = WINDOWS_BYTES / u32::from(config.ha_connections.max(1));
    let idle_timeout =
        if config.has_several_edges() { IDLE_WITH_OTHERS } else { Limits::CONNECTOR.idle_timeout };
    let limits = Limits {
        idle_timeout,
        stream_window: window.min(Limits::CONNECTOR.stream_window),
        connection_window: window,
        ..Limits::CONNECTOR
    };
    let mut http2 = http2::server();
    http2
        .initial_window_size(limits.stream_window)
        .initial_connection_window_size(window)
        .max_header_list_size(MAX_HEADER_BYTES);
    Ok(Dialers {
        quic: quic::client_config_with(tls(&[ALPN])?, limits)?,
        // No ALPN: what is spoken follows from the server's name (contract, 1.3).
        tls: TlsConnector::from(Arc::new(tls(&[])?)),
        http2,
    })
}

async fn run_process(process: Arc<Process>, listener: tokio::net::TcpListener) -> Result<(), RunError> {
    tracing::info!(tunnelID = %process.config.tunnel, "Starting tunnel");
    tracing::info!("Generated Connector ID: {}", process.connector);
    if process.config.ingress.are_none() {
        tracing::warn!("{}", ingress::NO_RULES);
    }
    let initial = process.selection.kinds(0).first().copied().unwrap_or(selection::Kind::Quic);
    tracing::info!("Initial protocol {initial}");
    process.echoes.report();
    if let Ok(address) = listener.local_addr() {
        tracing::info!("Starting metrics server on {address}/metrics");
    }
    let mut server = JoinSet::new();
    server.spawn(local::serve(listener, Arc::clone(&process)));
    let mut connections = JoinSet::new();
    for index in 0..process.config.ha_connections {
        connections.spawn(connection::keep(Arc::clone(&process), index));
    }
    let stopped = tokio::select! {
        biased;
        () = process.stopping.cancelled() => Ok(()),
        _ = connections.join_next() => Err(RunError::TaskEnded),
        _ = server.join_next() => Err(RunError::TaskEnded),
    };
    // Also after an error: the edge is told, and flows are let go.
    process.stopping.cancel();
    let grace = process.config.grace_period;
    tracing::info!(gracePeriod = ?grace, "Initiating graceful shutdown");
    if tokio::time::timeout(grace, drained(&process)).await.is_err() {
        let Load { flows, registered } = *process.load().borrow();
        tracing::info!(flows, registered, "the grace period is over");
    }
    process.closing.cancel();
    process.flows.close();
    let closed = async {
        while connections.join_next().await.is_some() {}
        process.flows.wait().await;
    };
    if tokio::time::timeout(CLOSE_DEADLINE, closed).await.is_err() {
        tracing::warn!("some tasks did not end in time");
    }
    tracing::info!("Tunnel stopped");
    stopped
}

/// Waits until no connection is registered and no flow is under way, and that for a while: a flow that the edge opened
/// before it heard of the end may be on its way.
async fn drained(process: &Process) {
    let mut load = process.load();
    loop {
        // The sender is in `process`, and so lives.
        let _ = load.wait_for(Load::is_none).await;
        let busy = load.wait_for(|load| !load.is_none());
        if tokio::time::timeout(SETTLE, busy).await.is_err() {
            return;
        }
    }
}

/// An error and its causes in one line.
fn error_chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    let mut line = error.to_string();
    for cause in causes.map(ToString::to_string) {
        // Some libraries repeat their cause in their own words.
        if !line.contains(&cause) {
            line = format!("{line}: {cause}");
        }
    }
    line
}

#[cfg(test)]
mod tests;
