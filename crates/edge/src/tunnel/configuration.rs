//! The configuration of a remotely managed tunnel, pushed to its connectors (tunnel protocol, 4.2 and 5.4).
//!
//! Every connection is told: a connector takes what it has already for what it is. What always holds: a later version is
//! never followed by an earlier one, and a connector that cannot apply one is told again only when there is a newer.

use std::sync::Arc;
use std::time::Duration;

use adit_transport::{ReadChunk, WriteChunk, http2};
use adit_wire::http2::{ConfigurationAnswer, ConfigurationPush, UPGRADE_CONFIGURATION, UPGRADE_HEADER};
use adit_wire::rpc::{ServiceAnswer, ServiceClient};
use bytes::BytesMut;
use http::Request;

use super::calls::{CallError, call};
use crate::Shared;
use crate::carrier::{Carrier, Http2Carrier};
use crate::connections::Connection;

/// What a connector said to a configuration.
#[derive(Debug, PartialEq, Eq)]
struct Applied {
    version: i32,
    error: Option<String>,
}

/// Keeps a connection's connector up to date, for as long as it answers.
pub(super) async fn push(shared: Arc<Shared>, connection: Arc<Connection>) {
    let mut changed = shared.snapshots.watch();
    let mut told = None;
    let work = async {
        loop {
            let due = {
                let snapshot = shared.snapshots.current();
                let configuration = snapshot.tunnel_configuration(connection.tunnel);
                configuration
                    .filter(|(version, _)| told.is_none_or(|told| told < *version))
                    .map(|(version, config)| (version, config.to_owned()))
            };
            if let Some((version, config)) = due {
                match tell(&connection, version, &config).await {
                    Ok(applied) => {
                        report(&connection, version, &applied);
                        told = Some(version);
                    }
                    Err(error) => {
                        tracing::debug!(connection = %connection.id, error = %error, "configuration not pushed");
                        tokio::time::sleep(RETRY).await;
                    }
                }
            } else if changed.changed().await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = work => {}
        () = connection.ended() => {}
        () = shared.stopping.cancelled() => {}
    }
}

fn report(connection: &Connection, version: i32, applied: &Applied) {
    let (tunnel, connector) = (connection.tunnel, connection.connector);
    match &applied.error {
        Some(error) => {
            tracing::warn!(tunnel = %tunnel, connector = %connector, version, error, "a connector does not apply a configuration");
        }
        None if applied.version == version => {
            tracing::info!(tunnel = %tunnel, connector = %connector, version, "configuration applied");
        }
        None => {
            let applied = applied.version;
            tracing::warn!(tunnel = %tunnel, connector = %connector, version, applied, "a connector stays at another configuration");
        }
    }
}

async fn tell(connection: &Connection, version: i32, config: &str) -> Result<Applied, CallError> {
    match &connection.carrier {
        Carrier::Quic(carrier) => {
            let client = ServiceClient::update_configuration(version, config.as_bytes())
                .map_err(|_| CallError::Ended)?;
            Ok(match call(&carrier.connection, client).await? {
                ServiceAnswer::Configuration { latest_applied_version, error } => {
                    Applied { version: latest_applied_version, error }
                }
                ServiceAnswer::Failed { reason } => Applied { version: -1, error: Some(reason) },
                ServiceAnswer::UdpSession(_) | ServiceAnswer::UdpSessionEnded => {
                    return Err(CallError::Ended);
                }
            })
        }
        Carrier::Http2(carrier) => {
            let told = tell_over_http2(carrier, version, config);
            tokio::time::timeout(HTTP2_DEADLINE, told).await.unwrap_or(Err(CallError::TimedOut))
        }
    }
}

async fn tell_over_http2(carrier: &Http2Carrier, version: i32, config: &str) -> Result<Applied, CallError> {
    let config = serde_json::from_str(config).map_err(|_| CallError::Ended)?;
    let push = ConfigurationPush { version, config }.to_json();
    let request = Request::put("https://localhost/")
        .header(UPGRADE_HEADER, UPGRADE_CONFIGURATION)
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(())
        .map_err(|_| CallError::Ended)?;
    let requests = carrier.requests().ok_or(CallError::Lost)?;
    let mut requests = requests.ready().await.map_err(|_| CallError::Lost)?;
    let (response, send) = requests.send_request(request, false).map_err(|_| CallError::Lost)?;
    let mut writer = http2::writer(send);
    writer.write_chunk(push.into()).await.map_err(|_| CallError::Ended)?;
    writer.finish().await.map_err(|_| CallError::Ended)?;
    let response = response.await.map_err(|_| CallError::Ended)?;
    let mut reader = http2::reader(response.into_body());
    let mut body = BytesMut::new();
    while let Some(chunk) = reader.read_chunk().await.map_err(|_| CallError::Ended)? {
        if body.len() + chunk.len() > MAX_ANSWER_BYTES {
            return Err(CallError::Ended);
        }
        body.extend_from_slice(&chunk);
    }
    let answer = ConfigurationAnswer::from_json(&body).ok_or(CallError::Ended)?;
    let error =
        answer.err.map(|error| error.as_str().map_or_else(|| "no reason given".to_owned(), str::to_owned));
    Ok(Applied { version: answer.last_applied_version, error })
}

/// Between two tries to push to a connection that did not answer.
const RETRY: Duration = Duration::from_secs(5);
/// For a push over HTTP/2: as for a call over QUIC.
const HTTP2_DEADLINE: Duration = Duration::from_secs(5);
/// Longest answer to a push, in bytes.
const MAX_ANSWER_BYTES: usize = 64 << 10;
