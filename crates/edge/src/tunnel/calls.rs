//! Calls on streams of their own: the edge's of connectors, and connectors' of the edge (tunnel protocol, 4.1 and 4.3).

use std::sync::Arc;
use std::time::Duration;

use adit_transport::quic::NO_ERROR;
use adit_wire::datagram::SessionId;
use adit_wire::rpc::{RpcError, ServiceAnswer, ServiceClient, ServiceEvent, ServiceServer};
use adit_wire::tunnel::{RPC_SIGNATURE, StreamKind};
use bytes::Bytes;
use quinn::{RecvStream, SendStream};

use crate::Shared;
use crate::datagram::SessionTable;

/// A call has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// The connection ended first.
    #[error("the connection is lost")]
    Lost,
    /// The connector did not answer in time.
    #[error("no answer in time")]
    TimedOut,
    /// The connector broke the protocol or ended the stream.
    #[error("the connector ended the call")]
    Ended,
    /// What it said cannot be understood.
    #[error(transparent)]
    Protocol(#[from] RpcError),
}

/// Makes one call on a stream of its own. Dropped before the answer, it resets the stream.
pub(crate) async fn call(
    quic: &quinn::Connection,
    mut client: ServiceClient,
) -> Result<ServiceAnswer, CallError> {
    let conversation = async {
        let (mut send, mut receive) = quic.open_bi().await.map_err(|_| CallError::Lost)?;
        let mut first = Some(Bytes::from_static(&RPC_SIGNATURE));
        loop {
            while let Some(bytes) = first.take().or_else(|| client.poll_transmit()) {
                send.write_chunk(bytes).await.map_err(|error| write_error(&error))?;
            }
            if let Some(answer) = client.poll_answer() {
                client.shutdown();
                while let Some(bytes) = client.poll_transmit() {
                    // It has answered: what is still said is a courtesy.
                    let _ = send.write_chunk(bytes).await;
                }
                let _ = send.finish();
                let _ = receive.stop(NO_ERROR);
                return Ok(answer);
            }
            let chunk = receive.read_chunk(MAX_READ_BYTES, true).await.map_err(|error| read_error(&error))?;
            client.handle_input(&chunk.ok_or(CallError::Ended)?.bytes)?;
        }
    };
    tokio::time::timeout(CALL_DEADLINE, conversation).await.unwrap_or(Err(CallError::TimedOut))
}

fn write_error(error: &quinn::WriteError) -> CallError {
    if matches!(error, quinn::WriteError::ConnectionLost(_)) { CallError::Lost } else { CallError::Ended }
}

fn read_error(error: &quinn::ReadError) -> CallError {
    if matches!(error, quinn::ReadError::ConnectionLost(_)) { CallError::Lost } else { CallError::Ended }
}

/// Answers the calls of a connector until the connection ends. There are as many at once as it may have streams.
pub(super) async fn serve(
    shared: &Arc<Shared>,
    quic: &quinn::Connection,
    sessions: Option<&Arc<SessionTable>>,
) {
    while let Ok((send, receive)) = quic.accept_bi().await {
        let sessions = sessions.map(Arc::clone);
        shared.tasks.spawn(async move {
            let served = serve_stream(send, receive, sessions.as_deref());
            if tokio::time::timeout(CALL_DEADLINE, served).await.is_err() {
                tracing::debug!("a connector's call did not end in time");
            }
        });
    }
}

async fn serve_stream(mut send: SendStream, mut receive: RecvStream, sessions: Option<&SessionTable>) {
    let mut signature = [0; RPC_SIGNATURE.len()];
    let read = receive.read_exact(&mut signature).await;
    if read.is_err() || StreamKind::detect(&signature) != Ok(Some(StreamKind::Rpc)) {
        let _ = send.reset(NO_ERROR);
        let _ = receive.stop(NO_ERROR);
        return;
    }
    let mut server = ServiceServer::edge();
    while let Ok(Some(chunk)) = receive.read_chunk(MAX_READ_BYTES, true).await {
        if let Err(error) = server.handle_input(&chunk.bytes) {
            tracing::debug!(error = %error, "a connector's call cannot be understood");
        }
        while let Some(event) = server.poll_event() {
            if let ServiceEvent::UnregisterUdpSession { token, request } = event {
                tracing::debug!(session = %request.session, message = request.message, "session ended");
                if let Some(sessions) = sessions {
                    sessions.end(SessionId::from_bytes(request.session.into_bytes()));
                }
                server.answer_unregister_udp_session(token);
            }
        }
        while let Some(bytes) = server.poll_transmit() {
            if send.write_chunk(bytes).await.is_err() {
                return;
            }
        }
        if server.is_closed() {
            break;
        }
    }
    let _ = send.finish();
}

/// Read at once, in bytes.
const MAX_READ_BYTES: usize = 64 << 10;
/// For one call: connectors end it after as long (tunnel protocol, 4.1).
const CALL_DEADLINE: Duration = Duration::from_secs(5);
