//! What a peer node asks of this one: flows of tunnels whose connections are here.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use adit_model::{FlowEnd, Node, NodeKey, Refusal, never_dialled};
use adit_transport::datagram::DatagramRouter;
use adit_transport::quic::{NO_ERROR, QuicWriter};
use adit_transport::{Duplex, ReadChunk, StreamError, WriteChunk, tls};
use adit_wire::device;
use adit_wire::peer::{CLOSE_UNKNOWN, RelayedFlow, carried_by};
use adit_wire::tunnel::{ConnectRequest, ConnectResponse, ConnectionType};
use bytes::BytesMut;
use quinn::{Connection, VarInt};
use rustls::pki_types::CertificateDer;
use tokio_util::sync::CancellationToken;

use crate::Shared;
use crate::asked::{QuicAsked, refusing};
use crate::dial::{self, NotDialled, Order, OriginExchange, OriginRequest, PendingAnswer, Reach};
use crate::flow::{self, Asked as _, Outcome};
use crate::limits::{
    HANDSHAKE_DEADLINE, MAX_RELAYED_REQUEST_BYTES, RELAYED_ANSWER_DEADLINE, STREAMS_PER_PEER,
};

/// The key that the other end proved.
pub(super) fn key_of(quic: &Connection) -> Option<NodeKey> {
    let chain = quic.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    tls::public_key_of(chain.first()?).map(|key| NodeKey::of_public_key(&key))
}

/// Serves a peer until its connection ends, or it is known no more.
pub(crate) async fn serve(shared: Arc<Shared>, quic: Connection) {
    let known = key_of(&quic).and_then(|key| shared.snapshots.current().node_of(key).cloned());
    let Some(node) = known else {
        tracing::warn!(peer = %quic.remote_address(), "a peer node that is not known");
        return quic.close(CLOSE_UNKNOWN.into(), b"this node's key is not known");
    };
    tracing::info!(peer = node.name, "a peer node connected");
    let ended = CancellationToken::new();
    let _ended = ended.clone().drop_guard();
    let router = DatagramRouter::new(quic.clone());
    tokio::select! {
        () = serve_streams(&shared, &quic, &router, &ended) => {}
        () = router.clone().run() => {}
        () = unknown(&shared, &node) => {
            quic.close(CLOSE_UNKNOWN.into(), b"this node's key is known no more");
        }
        () = shared.stopping.cancelled() => {}
    }
    tracing::info!(peer = node.name, "a peer node left");
    quic.close(NO_ERROR, b"");
}

/// Waits until the node is removed, or has another key.
async fn unknown(shared: &Shared, node: &Node) {
    let mut changed = shared.snapshots.watch();
    loop {
        changed.mark_unchanged();
        if shared.snapshots.current().node(node.id).is_none_or(|now| now.key != node.key) {
            return;
        }
        if changed.changed().await.is_err() {
            // No more snapshots will come: the last one stands.
            std::future::pending::<()>().await;
        }
    }
}

async fn serve_streams(
    shared: &Arc<Shared>,
    quic: &Connection,
    router: &DatagramRouter,
    ended: &CancellationToken,
) {
    let (mut allowed, most) = STREAMS_PER_PEER;
    quic.set_max_concurrent_bi_streams(VarInt::from_u32(allowed));
    let open = Arc::new(AtomicUsize::new(0));
    while let Ok((send, receive)) = quic.accept_bi().await {
        if open.fetch_add(1, Ordering::Relaxed) >= allowed as usize / 2 && allowed < most {
            allowed *= 2;
            quic.set_max_concurrent_bi_streams(VarInt::from_u32(allowed));
        }
        let stream = QuicAsked::new(send, receive, router.clone());
        let (shared, ended, open) = (Arc::clone(shared), ended.clone(), Arc::clone(&open));
        shared.tasks.clone().spawn(async move {
            serve_stream(&shared, stream, &ended).await;
            open.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

async fn serve_stream(shared: &Shared, mut stream: QuicAsked, ended: &CancellationToken) {
    let reading = tokio::time::timeout(HANDSHAKE_DEADLINE, stream.request(MAX_RELAYED_REQUEST_BYTES));
    let Ok(Some(request)) = reading.await else {
        return stream.refuse(Refusal::Unroutable, "expected a request").await;
    };
    let relayed = match RelayedFlow::read(&request) {
        Ok(relayed) => relayed,
        Err(error) => return stream.refuse(Refusal::Unroutable, &error.to_string()).await,
    };
    // Whatever a peer has decided by: here a tunnel serves its own account only.
    if !shared.snapshots.current().serves(relayed.tunnel, relayed.account) {
        return stream.refuse(Refusal::Unroutable, "the account has no such tunnel").await;
    }
    let order = Order { flow: relayed, reach: Reach::ThisNode };
    shared.metrics.relayed_from_peer();
    tracing::debug!(
        flow = %relayed.flow,
        tunnel = %relayed.tunnel,
        rule = relayed.rule.map(tracing::field::display),
        snapshot = relayed.snapshot,
        "a peer node relays a flow"
    );
    match request.kind {
        ConnectionType::Tcp => serve_flow(shared, order, &request, stream, ended).await,
        ConnectionType::Http | ConnectionType::WebSocket => {
            let served = serve_request(shared, order, &request, stream);
            // What is dropped is reset.
            ended.run_until_cancelled(served).await;
        }
    }
}

async fn serve_flow(
    shared: &Shared,
    order: Order,
    request: &ConnectRequest,
    mut stream: QuicAsked,
    ended: &CancellationToken,
) {
    let Some(destination) = device::destination(order.flow.protocol, &request.dest) else {
        return stream.refuse(Refusal::Unroutable, "expected an address and a port").await;
    };
    if never_dialled(destination.ip()).is_some() {
        return stream.refuse(Refusal::NeverDialled, "").await;
    }
    let mut outcome = Outcome::default();
    let is_stream = order.flow.protocol == adit_model::Protocol::Tcp;
    let end = if is_stream {
        match ended.run_until_cancelled(dial::dial(shared, order, destination)).await {
            Some(Ok(dialled)) => {
                stream.told.extend(dialled.via.connection().map(carried_by));
                flow::stream(dialled, stream, ended, &mut outcome).await
            }
            Some(Err(not)) => return refuse(stream, &order, not).await,
            None => return,
        }
    } else {
        match ended.run_until_cancelled(dial::dial_datagrams(shared, order, destination)).await {
            Some(Ok(dialled)) => {
                stream.told.extend(dialled.via.connection().map(carried_by));
                flow::datagrams(dialled, stream, ended, &mut outcome).await
            }
            Some(Err(not)) => return refuse(stream, &order, not).await,
            None => return,
        }
    };
    tracing::debug!(
        flow = %order.flow.flow,
        end = end.map_or("peer-lost", FlowEnd::as_str),
        bytes_up = outcome.carried.bytes_up,
        bytes_down = outcome.carried.bytes_down,
        "a relayed flow ended"
    );
}

async fn refuse(stream: QuicAsked, order: &Order, not: NotDialled) {
    let NotDialled { refusal, detail, .. } = not;
    tracing::info!(flow = %order.flow.flow, refusal = refusal.as_str(), detail, "dial for a peer node failed");
    stream.refuse(refusal, &detail).await;
}

/// A request to a public host name, and what comes back.
async fn serve_request(shared: &Shared, order: Order, request: &ConnectRequest, stream: QuicAsked) {
    let Some(origin) = OriginRequest::of_relayed(request) else {
        return stream.refuse(Refusal::Unroutable, "expected a request of HTTP").await;
    };
    let exchange = match dial::request(shared, order, origin).await {
        Ok(exchange) => exchange,
        Err(not) => return refuse(stream, &order, not).await,
    };
    let OriginExchange { via: _via, mut writer, answer } = exchange;
    let Duplex { reader: mut near_reader, writer: mut near_writer } = stream.unanswered();
    let sent = AtomicU64::new(0);
    let outcome = {
        let up = pump(&mut near_reader, &mut writer, &sent);
        let down = answer_and_pump(answer, &mut near_writer, &sent);
        let (mut up, mut down) = (std::pin::pin!(up), std::pin::pin!(down));
        tokio::select! {
            down = &mut down => down,
            up = &mut up => match up {
                Ok(()) => down.await,
                Err(error) => Err(error),
            },
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(flow = %order.flow.flow, %error, "a relayed request broke off");
        near_writer.reset();
        writer.reset();
    }
    near_reader.stop();
}

/// Passes one direction on, to its end.
async fn pump<R: ReadChunk, W: WriteChunk>(
    reader: &mut R,
    writer: &mut W,
    passed: &AtomicU64,
) -> Result<(), StreamError> {
    while let Some(chunk) = reader.read_chunk().await? {
        passed.fetch_add(chunk.len() as u64, Ordering::Relaxed);
        writer.write_chunk(chunk).await?;
    }
    writer.finish().await
}

/// Waits for the origin's answer for as long as the body moves, and a while after that, and passes it on.
async fn answer_and_pump(
    answer: PendingAnswer,
    near: &mut QuicWriter,
    sent: &AtomicU64,
) -> Result<(), StreamError> {
    let mut waiting = std::pin::pin!(answer.wait());
    let answered = loop {
        let before = sent.load(Ordering::Relaxed);
        if let Ok(answered) = tokio::time::timeout(RELAYED_ANSWER_DEADLINE, waiting.as_mut()).await {
            break answered;
        }
        if sent.load(Ordering::Relaxed) == before {
            let detail = "no answer from the origin".to_owned();
            break Err(NotDialled::nowhere(Refusal::TimedOut, detail));
        }
    };
    match answered {
        Ok(mut answer) => {
            write_head(near, &answer.for_peer()).await?;
            pump(&mut answer.reader, near, &AtomicU64::new(0)).await
        }
        Err(not) => {
            write_head(near, &refusing(not.refusal, &not.detail)).await?;
            near.finish().await
        }
    }
}

async fn write_head(near: &mut QuicWriter, response: &ConnectResponse) -> Result<(), StreamError> {
    let mut bytes = BytesMut::new();
    if response.encode(&mut bytes).is_err() {
        // An answer whose header lines are larger than the peer reads.
        bytes.clear();
        let refused = refusing(Refusal::ConnectorError, "the answer's head is too long");
        // A short text always fits.
        let _ = refused.encode(&mut bytes);
    }
    near.write_chunk(bytes.freeze()).await
}
