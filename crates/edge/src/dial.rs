//! Step 7 of a flow: a stream on a connection of the tunnel, the request, and the connector's answer.

use std::net::SocketAddr;
use std::sync::Arc;

use adit_model::{ConnectionId, FlowId, Refusal, TunnelId};
use adit_transport::Duplex;
use adit_transport::quic::{self, QuicReader, QuicWriter};
use adit_wire::device::REFUSAL_METADATA;
use adit_wire::tunnel::{
    ConnectRequest, ConnectResponse, ConnectionType, METADATA_FLOW_ID, METADATA_RATE_LIMITED, Metadata,
};
use bytes::{Bytes, BytesMut};
use tokio::io::AsyncReadExt;

use crate::Shared;
use crate::connections::{Connection, FlowGuard};
use crate::limits::{DIAL_ATTEMPTS, DIAL_DEADLINE, MAX_RESPONSE_BYTES};

/// A flow that the connector has dialled.
#[derive(Debug)]
pub(crate) struct Dialled {
    pub(crate) connection: Arc<Connection>,
    pub(crate) stream: Duplex<QuicReader, QuicWriter>,
    pub(crate) guard: FlowGuard,
}

/// A flow that could not be dialled.
#[derive(Debug)]
pub(crate) struct NotDialled {
    pub(crate) refusal: Refusal,
    pub(crate) connection: Option<ConnectionId>,
    /// The connector's words, for the log.
    pub(crate) detail: String,
}

/// Why one attempt failed.
enum Failure {
    /// The connection was lost before it answered: another may do.
    Lost,
    /// The connector answered, or did not in time.
    Answered(Refusal, String),
}

/// Dials through the tunnel's best connection, and through another if that one is lost before it answered.
pub(crate) async fn dial(
    shared: &Shared,
    tunnel: TunnelId,
    flow: FlowId,
    destination: SocketAddr,
) -> Result<Dialled, NotDialled> {
    let mut tried = Vec::with_capacity(DIAL_ATTEMPTS);
    while tried.len() < DIAL_ATTEMPTS {
        let Some(connection) = shared.connections.choose(tunnel, &tried) else { break };
        let guard = connection.begin_flow();
        let attempt = tokio::time::timeout(DIAL_DEADLINE, attempt(&connection, flow, destination)).await;
        match attempt.unwrap_or_else(|_| {
            Err(Failure::Answered(Refusal::TimedOut, "no answer from the connector".into()))
        }) {
            Ok(stream) => return Ok(Dialled { connection, stream, guard }),
            Err(Failure::Answered(refusal, detail)) => {
                return Err(NotDialled { refusal, connection: Some(connection.id), detail });
            }
            Err(Failure::Lost) => {
                tracing::debug!(flow = %flow, connection = %connection.id, "connection lost while dialling");
                shared.metrics.dial_retried();
                tried.push(connection.id);
            }
        }
    }
    let detail = if tried.is_empty() {
        "no live connection of the tunnel".to_owned()
    } else {
        format!("{} connections were lost while dialling", tried.len())
    };
    Err(NotDialled { refusal: Refusal::NoConnection, connection: tried.last().copied(), detail })
}

async fn attempt(
    connection: &Connection,
    flow: FlowId,
    destination: SocketAddr,
) -> Result<Duplex<QuicReader, QuicWriter>, Failure> {
    let (mut send, mut receive) = connection.quic.open_bi().await.map_err(|_| Failure::Lost)?;
    let request = ConnectRequest {
        dest: destination.to_string(),
        kind: ConnectionType::Tcp,
        metadata: vec![Metadata::new(METADATA_FLOW_ID, flow.to_string())],
    };
    let mut bytes = BytesMut::new();
    request
        .encode(&mut bytes)
        .map_err(|error| Failure::Answered(Refusal::ConnectorError, error.to_string()))?;
    // One write: an unmodified connector reads the version with a single call (tunnel protocol, 3.1).
    send.write_chunk(bytes.freeze()).await.map_err(|_| Failure::Lost)?;
    let (response, ahead) = read_response(&mut receive).await?;
    if response.error.is_empty() {
        return Ok(quic::duplex(send, receive, ahead));
    }
    Err(Failure::Answered(refusal_of(&response), response.error))
}

async fn read_response(receive: &mut quinn::RecvStream) -> Result<(ConnectResponse, Bytes), Failure> {
    let failed = |text: &str| Failure::Answered(Refusal::ConnectorError, text.to_owned());
    let mut bytes = BytesMut::with_capacity(512);
    loop {
        match ConnectResponse::decode(&bytes) {
            Ok(Some((response, consumed))) => {
                let ahead = bytes.split_off(consumed).freeze();
                return Ok((response, ahead));
            }
            Ok(None) if bytes.len() >= MAX_RESPONSE_BYTES => return Err(failed("the answer is too long")),
            Ok(None) => {}
            Err(error) => return Err(failed(&format!("the answer cannot be read: {error}"))),
        }
        match receive.read_buf(&mut bytes).await {
            // 2022.5.3 closes a failed dial without an answer (tunnel protocol, 3.5).
            Ok(0) => return Err(failed("the connector closed the stream without an answer")),
            Ok(_) => {}
            Err(error) if lost(&error) => return Err(Failure::Lost),
            Err(_) => return Err(failed("the connector reset the stream without an answer")),
        }
    }
}

fn lost(error: &std::io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<quinn::ReadError>());
    matches!(inner, Some(quinn::ReadError::ConnectionLost(_)))
}

/// adit's connector names the refusal; of an unmodified one there is only the text of Go's net package.
fn refusal_of(response: &ConnectResponse) -> Refusal {
    if let Some(refusal) = response.metadata(REFUSAL_METADATA).and_then(|name| name.parse().ok()) {
        return refusal;
    }
    if response.metadata(METADATA_RATE_LIMITED) == Some("true") {
        return Refusal::TooManyFlows;
    }
    let text = &response.error;
    let known = [
        ("connection refused", Refusal::Refused),
        ("no route to host", Refusal::HostUnreachable),
        ("network is unreachable", Refusal::NetworkUnreachable),
        ("i/o timeout", Refusal::TimedOut),
        ("deadline exceeded", Refusal::TimedOut),
    ];
    known
        .into_iter()
        .find(|(part, _)| text.contains(part))
        .map_or(Refusal::ConnectorError, |(_, refusal)| refusal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_an_unmodified_connector_name_the_refusal() {
        let of = |error: &str| refusal_of(&ConnectResponse { error: error.into(), metadata: Vec::new() });
        assert_eq!(
            of("unable to dial tcp to origin 10.0.0.1:1: dial tcp 10.0.0.1:1: connect: connection refused"),
            Refusal::Refused
        );
        assert_eq!(of("dial tcp 10.0.0.1:1: i/o timeout"), Refusal::TimedOut);
        assert_eq!(of("something else"), Refusal::ConnectorError);
    }

    #[test]
    fn the_name_that_our_connector_gives_goes_before_the_words() {
        let metadata = vec![Metadata::new(REFUSAL_METADATA, "never-dialled")];
        assert_eq!(
            refusal_of(&ConnectResponse { error: "connection refused".into(), metadata }),
            Refusal::NeverDialled
        );
    }
}
