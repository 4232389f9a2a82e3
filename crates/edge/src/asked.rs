//! A QUIC stream on which a device or a peer node asks for a flow: it begins with a request, and waits for its answer.

use adit_model::Refusal;
use adit_transport::Duplex;
use adit_transport::datagram::{DatagramFlow, DatagramRouter};
use adit_transport::quic::{self, NO_ERROR, QuicReader, QuicWriter};
use adit_wire::device::REFUSAL_METADATA;
use adit_wire::tunnel::{ConnectRequest, ConnectResponse, Metadata};
use bytes::{Bytes, BytesMut};
use quinn::{RecvStream, SendStream};
use tokio::io::AsyncReadExt;

use crate::flow::Asked;

/// The stream, of which `ahead` is read already.
pub(crate) struct QuicAsked {
    send: SendStream,
    receive: RecvStream,
    ahead: Bytes,
    router: DatagramRouter,
    /// What an answer that accepts says beside that.
    pub(crate) told: Vec<Metadata>,
}

impl QuicAsked {
    pub(crate) fn new(send: SendStream, receive: RecvStream, router: DatagramRouter) -> Self {
        Self { send, receive, ahead: Bytes::new(), router, told: Vec::new() }
    }

    /// The request at the start; `None` if there is none, or one of more than `limit` bytes.
    pub(crate) async fn request(&mut self, limit: usize) -> Option<ConnectRequest> {
        let mut bytes = BytesMut::with_capacity(512);
        loop {
            if let Some((request, consumed)) = ConnectRequest::decode(&bytes).ok()? {
                self.ahead = bytes.split_off(consumed).freeze();
                return Some(request);
            }
            let read = (&mut self.receive).take(limit as u64).read_buf(&mut bytes).await.ok()?;
            if read == 0 || bytes.len() > limit {
                return None;
            }
        }
    }

    async fn answer(&mut self, response: &ConnectResponse) -> Option<()> {
        let mut bytes = BytesMut::new();
        response.encode(&mut bytes).ok()?;
        self.send.write_chunk(bytes.freeze()).await.ok()
    }

    /// The stream without an answer, which is the caller's to write.
    pub(crate) fn unanswered(self) -> Duplex<QuicReader, QuicWriter> {
        quic::duplex(self.send, self.receive, self.ahead)
    }
}

/// The answer that refuses a flow.
pub(crate) fn refusing(refusal: Refusal, detail: &str) -> ConnectResponse {
    let detail = detail_of(detail);
    let error = if detail.is_empty() { refusal.as_str().to_owned() } else { detail };
    ConnectResponse { error, metadata: vec![Metadata::new(REFUSAL_METADATA, refusal.as_str())] }
}

impl Asked for QuicAsked {
    type Reader = QuicReader;
    type Writer = QuicWriter;

    async fn accept(mut self) -> Option<Duplex<QuicReader, QuicWriter>> {
        let metadata = std::mem::take(&mut self.told);
        self.answer(&ConnectResponse { error: String::new(), metadata }).await?;
        Some(quic::duplex(self.send, self.receive, self.ahead))
    }

    async fn accept_datagrams(mut self) -> Option<DatagramFlow<QuicReader, QuicWriter>> {
        let id = self.send.id();
        // Before the answer, which may be answered by datagrams at once.
        let registered = self.router.register(id);
        let metadata = std::mem::take(&mut self.told);
        self.answer(&ConnectResponse { error: String::new(), metadata }).await?;
        let stream = quic::duplex(self.send, self.receive, self.ahead);
        Some(DatagramFlow::with_frames(stream, id, registered))
    }

    async fn refuse(mut self, refusal: Refusal, detail: &str) {
        if self.answer(&refusing(refusal, detail)).await.is_none() {
            tracing::trace!("whoever asked gave up before it was refused");
        }
        // Fail only for streams that have ended.
        let _ = self.send.finish();
        let _ = self.receive.stop(NO_ERROR);
    }
}

/// A refusal's detail as it is told: printable and short.
pub(crate) fn detail_of(detail: &str) -> String {
    detail.chars().filter(|c| c.is_ascii_graphic() || *c == ' ').take(MAX_DETAIL_CHARS).collect()
}

/// Longest detail of a refusal that is told.
const MAX_DETAIL_CHARS: usize = 200;
