//! Streams of a QUIC connection: preamble, request, answer (contract, 3.1 and 3.5).

use std::sync::Arc;
use std::time::Duration;

use adit_model::{Protocol, Refusal};
use adit_transport::Duplex;
use adit_transport::datagram::DatagramFlow;
use adit_transport::quic::{self, NO_ERROR, QuicReader, QuicWriter};
use adit_wire::device::{PROTOCOL_HEADER, REFUSAL_METADATA};
use adit_wire::tunnel::{
    ConnectRequest, ConnectResponse, ConnectionType, METADATA_FLOW_ID, METADATA_RATE_LIMITED, Metadata,
    RPC_SIGNATURE, StreamKind,
};
use bytes::{Bytes, BytesMut};
use quinn::{RecvStream, SendStream};
use tokio::io::AsyncReadExt;

use super::{Opened, Request, rpc};
use crate::connection::QuicLink;
use crate::dial::NotDialled;
use crate::ingress::{self, Answer};
use crate::process::Process;
use crate::quic_request::{self, QuicAnswer};

/// How long a request may take to arrive. The edge writes it at once.
const REQUEST_DEADLINE: Duration = Duration::from_secs(10);
/// How long an answer may wait for the edge to take it.
const RESPONSE_DEADLINE: Duration = Duration::from_secs(10);

/// Serves a stream from its first byte to its end.
pub(crate) async fn serve(
    process: Arc<Process>,
    link: QuicLink,
    mut send: SendStream,
    mut receive: RecvStream,
) {
    let read = tokio::time::timeout(REQUEST_DEADLINE, read_request(&mut receive)).await;
    let (request, ahead) = match read.unwrap_or_else(|_| Err("the request did not arrive".into())) {
        Ok(Read::Request(request, ahead)) => (request, ahead),
        Ok(Read::Rpc(ahead)) => return rpc::serve(&process, &link, quic::duplex(send, receive, ahead)).await,
        // Unknown to us, or none at all: reset (contract, 3.1).
        Err(reason) => {
            tracing::debug!(reason, "stream without a request");
            // Either may have ended already.
            let _ = send.reset(NO_ERROR);
            let _ = receive.stop(NO_ERROR);
            return;
        }
    };
    let stream = QuicStream { link, send, receive, ahead };
    match request.kind {
        ConnectionType::Tcp => match protocol(&request) {
            Ok(protocol) => {
                let flow = request.metadata(METADATA_FLOW_ID).unwrap_or_default().to_owned();
                let request = Request { protocol, destination: request.dest, flow };
                super::serve(&process, request, stream).await;
            }
            Err(why) => stream.refuse(why).await,
        },
        ConnectionType::Http | ConnectionType::WebSocket => serve_request(&process, &request, stream).await,
    }
}

/// Serves HTTP and WebSocket.
async fn serve_request(process: &Arc<Process>, request: &ConnectRequest, stream: QuicStream) {
    let _guard = match super::begin(process, "http") {
        Ok(guard) => guard,
        Err(why) => return stream.refuse(why).await,
    };
    let Duplex { reader, writer } = quic::duplex(stream.send, stream.receive, stream.ahead);
    let answer = QuicAnswer::new(writer);
    match quic_request::read(request) {
        Ok(request) => ingress::serve(process, request, reader, answer).await,
        Err(problem) => {
            process.metrics.request_failed();
            answer.fail(problem).await;
        }
    }
}

/// What the flow is: TCP, if nothing else is said.
fn protocol(request: &ConnectRequest) -> Result<Protocol, NotDialled> {
    let Some(name) = request.metadata(PROTOCOL_HEADER) else { return Ok(Protocol::Tcp) };
    super::protocol(name)
}

/// How a stream begins, and what was read behind that.
enum Read {
    Request(ConnectRequest, Bytes),
    Rpc(Bytes),
}

async fn read_request(receive: &mut RecvStream) -> Result<Read, String> {
    let mut bytes = BytesMut::with_capacity(REQUEST_BYTES);
    loop {
        if StreamKind::detect(&bytes) == Ok(Some(StreamKind::Rpc)) {
            return Ok(Read::Rpc(bytes.split_off(RPC_SIGNATURE.len()).freeze()));
        }
        if let Some((request, consumed)) =
            ConnectRequest::decode(&bytes).map_err(|error| error.to_string())?
        {
            let ahead = bytes.split_off(consumed).freeze();
            return Ok(Read::Request(request, ahead));
        }
        // Bounded: the decoder refuses a message that would be larger than its limit.
        match receive.read_buf(&mut bytes).await {
            Ok(0) => return Err("the stream ended".into()),
            Ok(_) => {}
            Err(error) => return Err(error.to_string()),
        }
    }
}

/// A stream behind its request.
struct QuicStream {
    link: QuicLink,
    send: SendStream,
    receive: RecvStream,
    ahead: Bytes,
}

impl Opened for QuicStream {
    type Reader = QuicReader;
    type Writer = QuicWriter;

    async fn accept(mut self) -> Option<Duplex<QuicReader, QuicWriter>> {
        let answered = answer(&mut self.send, &ConnectResponse::default()).await;
        answered.then(|| quic::duplex(self.send, self.receive, self.ahead))
    }

    async fn accept_datagrams(self) -> Option<DatagramFlow<QuicReader, QuicWriter>> {
        let id = self.send.id();
        // Before the answer, behind which datagrams may come at once.
        let registered = self.link.register(id);
        let stream = self.accept().await?;
        Some(DatagramFlow::with_frames(stream, id, registered))
    }

    async fn refuse(self, why: NotDialled) {
        let mut metadata = vec![Metadata::new(REFUSAL_METADATA, why.refusal.as_str())];
        if why.refusal == Refusal::TooManyFlows {
            metadata.push(Metadata::new(METADATA_RATE_LIMITED, "true"));
        }
        self.end(&ConnectResponse { error: why.text, metadata }).await;
    }

    async fn withdrawn(&mut self) {
        // Stopped or lost: either way nobody waits for the answer.
        let _ = self.send.stopped().await;
    }

    async fn delivered(writer: &mut QuicWriter) -> bool {
        writer.delivered().await
    }
}

impl QuicStream {
    /// Answers, and ends the stream.
    async fn end(mut self, response: &ConnectResponse) {
        // Whatever the edge sends behind its request has nowhere to go.
        let _ = self.receive.stop(NO_ERROR);
        if answer(&mut self.send, response).await && self.send.finish().is_ok() {
            // Until it has arrived, or the connection is gone.
            let _ = tokio::time::timeout(RESPONSE_DEADLINE, self.send.stopped()).await;
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

/// Room for a usual request.
const REQUEST_BYTES: usize = 512;
