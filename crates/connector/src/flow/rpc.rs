//! Calls on streams of their own: what the edge asks (contract, 4.1 to 4.3), and the one thing that a connector tells it.

use std::sync::Arc;
use std::time::Duration;

use adit_transport::quic::{self, QuicReader, QuicWriter};
use adit_transport::{Duplex, ReadChunk, StreamError, WriteChunk};
use adit_wire::datagram::{Generation, SessionId};
use adit_wire::rpc::{ServiceClient, ServiceEvent, ServiceServer, UnregisterUdpSession};
use adit_wire::tunnel::RPC_SIGNATURE;
use bytes::Bytes;

use crate::connection::QuicLink;
use crate::process::Process;
use crate::sessions;

/// How long such a stream is kept open (contract, 4.1).
const RPC_DEADLINE: Duration = Duration::from_secs(5);

/// Serves the edge's calls on a stream, behind its signature.
pub(super) async fn serve(
    process: &Arc<Process>,
    link: &QuicLink,
    mut stream: Duplex<QuicReader, QuicWriter>,
) {
    let served = tokio::time::timeout(RPC_DEADLINE, answer_all(process, link, &mut stream)).await;
    match served {
        Ok(Ok(())) => {
            // The edge may have ended already.
            let _ = stream.writer.finish().await;
        }
        Ok(Err(error)) => {
            tracing::debug!(error = %crate::error_chain(&error), "RPC stream ended early");
            stream.reset();
        }
        Err(_) => stream.reset(),
    }
}

async fn answer_all(
    process: &Arc<Process>,
    link: &QuicLink,
    stream: &mut Duplex<QuicReader, QuicWriter>,
) -> Result<(), StreamError> {
    let mut server = ServiceServer::connector();
    while let Some(chunk) = stream.reader.read_chunk().await? {
        // What is wrong is said to the edge by an `Abort`, which waits to be sent.
        let taken = server.handle_input(&chunk);
        while let Some(event) = server.poll_event() {
            answer(process, link, &mut server, event).await;
        }
        while let Some(bytes) = server.poll_transmit() {
            stream.writer.write_chunk(bytes).await?;
        }
        if taken.is_err() || server.is_closed() {
            break;
        }
    }
    Ok(())
}

async fn answer(process: &Arc<Process>, link: &QuicLink, server: &mut ServiceServer, event: ServiceEvent) {
    match event {
        ServiceEvent::RegisterUdpSession { token, request } => {
            let session = SessionId::from_bytes(request.session.into_bytes());
            let registered = if process.generation() == Generation::V3 {
                Err("datagram v3 does not support RegisterUdpSession RPC".to_owned())
            } else {
                let connection = link.connection.clone();
                sessions::register(
                    process,
                    connection,
                    session,
                    request.destination,
                    request.close_after_idle,
                )
                .await
                .map_err(|why| why.text)
            };
            server.answer_register_udp_session(token, registered.as_ref().copied().map_err(String::as_str));
        }
        ServiceEvent::UnregisterUdpSession { token, request } => {
            process.sessions.end(SessionId::from_bytes(request.session.into_bytes()));
            server.answer_unregister_udp_session(token);
        }
        ServiceEvent::UpdateConfiguration { token, version, config } => {
            let (latest, error) = process.apply_configuration(version, &config);
            server.answer_update_configuration(token, latest, error.as_deref());
        }
        ServiceEvent::Aborted { reason } => tracing::trace!(reason, "the edge ended an RPC stream"),
    }
}

/// Tells the edge that a session has ended. It is told once: an edge that does not hear it finds out by the silence.
pub(crate) async fn unregister(connection: &quinn::Connection, session: SessionId, message: String) {
    let request = UnregisterUdpSession { session: uuid::Uuid::from_bytes(session.to_bytes()), message };
    let Ok(mut client) = ServiceClient::unregister_udp_session(&request) else { return };
    let call = async {
        let (send, receive) = connection.open_bi().await.ok()?;
        let mut stream = quic::duplex(send, receive, Bytes::new());
        stream.writer.write_chunk(Bytes::from_static(&RPC_SIGNATURE)).await.ok()?;
        loop {
            while let Some(bytes) = client.poll_transmit() {
                stream.writer.write_chunk(bytes).await.ok()?;
            }
            if let Some(answer) = client.poll_answer() {
                tracing::trace!(session = %session, answer = ?answer, "the edge knows of the session's end");
                break;
            }
            let chunk = stream.reader.read_chunk().await.ok()??;
            client.handle_input(&chunk).ok()?;
        }
        client.shutdown();
        while let Some(bytes) = client.poll_transmit() {
            stream.writer.write_chunk(bytes).await.ok()?;
        }
        stream.writer.finish().await.ok()
    };
    if tokio::time::timeout(RPC_DEADLINE, call).await.ok().flatten().is_none() {
        tracing::debug!(session = %session, "the edge does not know of a session's end");
    }
}
