//! One stream that the edge opened: its request, the dial, the answer, and the splice (contract, section 3).

use std::sync::Arc;
use std::time::{Duration, Instant};

use adit_model::Refusal;
use adit_transport::quic::{self, NO_ERROR};
use adit_transport::splice::{HalfClose, Passed, SpliceEnd, splice};
use adit_transport::stream::Duplex;
use adit_transport::tcp;
use adit_wire::device::REFUSAL_METADATA;
use adit_wire::tunnel::{
    ConnectRequest, ConnectResponse, ConnectionType, METADATA_FLOW_ID, METADATA_RATE_LIMITED, Metadata,
};
use bytes::{Bytes, BytesMut};
use quinn::{RecvStream, SendStream};
use tokio::io::AsyncReadExt;

use crate::dial::{self, NotDialled};
use crate::ingress::{self, Answer};
use crate::process::{FlowGuard, Process};
use crate::quic_request::{self, QuicAnswer};

/// How long a request may take to arrive. The edge writes it at once.
const REQUEST_DEADLINE: Duration = Duration::from_secs(10);
/// How long an answer may wait for the edge to take it.
const RESPONSE_DEADLINE: Duration = Duration::from_secs(10);

/// Serves a stream from its first byte to its end.
pub(crate) async fn serve(process: Arc<Process>, send: SendStream, receive: RecvStream) {
    let Some(guard) = process.begin_flow() else {
        process.metrics.request_failed();
        let error = "failed to start tcp flow due to rate limiting: too many active flows".to_owned();
        let metadata = vec![
            Metadata::new(METADATA_RATE_LIMITED, "true"),
            Metadata::new(REFUSAL_METADATA, Refusal::TooManyFlows.as_str()),
        ];
        answer_and_end(send, receive, &ConnectResponse { error, metadata }).await;
        return;
    };
    serve_counted(&process, send, receive, &guard).await;
}

async fn serve_counted(
    process: &Arc<Process>,
    mut send: SendStream,
    mut receive: RecvStream,
    guard: &FlowGuard<'_>,
) {
    let read = tokio::time::timeout(REQUEST_DEADLINE, read_request(&mut receive)).await;
    let (request, ahead) = match read {
        Ok(Ok(read)) => read,
        // Unknown to us, or none at all: reset (contract, 3.1).
        Ok(Err(reason)) => {
            tracing::debug!(reason, "stream without a request");
            reset(&mut send, &mut receive);
            return;
        }
        Err(_) => {
            tracing::debug!("stream whose request did not arrive");
            reset(&mut send, &mut receive);
            return;
        }
    };
    process.metrics.request(guard.concurrent());
    match request.kind {
        ConnectionType::Tcp => serve_tcp(process, &request, send, receive, ahead).await,
        ConnectionType::Http | ConnectionType::WebSocket => {
            serve_request(process, &request, send, receive, ahead).await;
        }
    }
}

async fn serve_request(
    process: &Arc<Process>,
    request: &ConnectRequest,
    send: SendStream,
    receive: RecvStream,
    ahead: Bytes,
) {
    let Duplex { reader, writer } = quic::duplex(send, receive, ahead);
    let answer = QuicAnswer::new(writer);
    match quic_request::read(request) {
        Ok(request) => ingress::serve(process, request, reader, answer).await,
        Err(problem) => {
            process.metrics.request_failed();
            answer.fail(problem).await;
        }
    }
}

async fn serve_tcp(
    process: &Process,
    request: &ConnectRequest,
    mut send: SendStream,
    receive: RecvStream,
    ahead: Bytes,
) {
    let flow = request.metadata(METADATA_FLOW_ID).unwrap_or_default();
    let begun = Instant::now();
    let dialled = tokio::select! {
        dialled = dial::dial(process, &request.dest) => dialled,
        // The edge no longer wants it.
        _ = send.stopped() => return,
    };
    let stream = match dialled {
        Ok(stream) => stream,
        Err(NotDialled { refusal, text }) => {
            process.metrics.request_failed();
            tracing::info!(flow, dst = %request.dest, refusal = %refusal, error = text, "flow refused");
            let metadata = vec![Metadata::new(REFUSAL_METADATA, refusal.as_str())];
            answer_and_end(send, receive, &ConnectResponse { error: text, metadata }).await;
            return;
        }
    };
    let _session = process.metrics.dialled(begun.elapsed());
    tracing::debug!(flow, dst = %request.dest, "flow dialled");
    if !answer(&mut send, &ConnectResponse::default()).await {
        return;
    }
    let mut edge = quic::duplex(send, receive, ahead);
    let mut origin = tcp::duplex(stream);
    let mut passed = Passed::default();
    // A token of the flow's own, so that flows share no lock while they carry.
    let closing = process.closing.child_token();
    // An edge that does not know about half-closes holds its own end back (contract, 3.4), so that keeping them is right
    // towards every edge.
    let spliced = splice(&mut edge, &mut origin, HalfClose::Kept, &mut passed);
    let end = closing.run_until_cancelled(spliced).await;
    match &end {
        Some(SpliceEnd::Finished) => {
            // Finished here is not arrived there: a connection that is closed now would cut the end off.
            let delivered = closing.run_until_cancelled(edge.writer.delivered()).await;
            tracing::trace!(flow, delivered, "flow delivered");
        }
        Some(SpliceEnd::NearFailed(_) | SpliceEnd::FarFailed(_)) => {}
        None => {
            // Dropped halves would look like an end.
            edge.reset();
            origin.reset();
        }
    }
    tracing::debug!(flow, up = passed.up, down = passed.down, end = ?end, "flow ended");
}

async fn read_request(receive: &mut RecvStream) -> Result<(ConnectRequest, Bytes), String> {
    let mut bytes = BytesMut::with_capacity(REQUEST_BYTES);
    loop {
        if let Some((request, consumed)) =
            ConnectRequest::decode(&bytes).map_err(|error| error.to_string())?
        {
            let ahead = bytes.split_off(consumed).freeze();
            return Ok((request, ahead));
        }
        // Bounded: the decoder refuses a message that would be larger than its limit.
        match receive.read_buf(&mut bytes).await {
            Ok(0) => return Err("the stream ended".into()),
            Ok(_) => {}
            Err(error) => return Err(error.to_string()),
        }
    }
}

/// Sends an answer; `false` if the edge no longer takes it.
async fn answer(send: &mut SendStream, response: &ConnectResponse) -> bool {
    let mut bytes = BytesMut::new();
    if response.encode(&mut bytes).is_err() {
        return false;
    }
    let sent = tokio::time::timeout(RESPONSE_DEADLINE, send.write_chunk(bytes.freeze())).await;
    matches!(sent, Ok(Ok(())))
}

async fn answer_and_end(mut send: SendStream, mut receive: RecvStream, response: &ConnectResponse) {
    // Whatever the edge sends behind its request has nowhere to go.
    let _ = receive.stop(NO_ERROR);
    if answer(&mut send, response).await && send.finish().is_ok() {
        // Until it has arrived, or the connection is gone.
        let _ = tokio::time::timeout(RESPONSE_DEADLINE, send.stopped()).await;
    }
}

fn reset(send: &mut SendStream, receive: &mut RecvStream) {
    // Either may have ended already.
    let _ = send.reset(NO_ERROR);
    let _ = receive.stop(NO_ERROR);
}

/// Room for a usual request.
const REQUEST_BYTES: usize = 512;
