//! Flows of datagrams: a stream of capsules each, and beside it the QUIC DATAGRAM frames that belong to it.
//!
//! A flow's datagrams go as DATAGRAM frames (RFC 9221) where they fit, each behind a quarter of its stream's id (RFC 9297,
//! section 2.1), and as capsules on the stream where they do not, or where the connection has no such frames. Receivers
//! take both. The stream's ends are the flow's ends.
//!
//! What always holds: a datagram that finds a full queue is dropped, as a network would; nothing waits for a slow flow but
//! that flow. Who opens a stream registers it before anything is sent that the other side could answer, so that no datagram
//! comes before its flow. All flows of one connection are opened by the same side: both sides' streams have the same quarters.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures_util::future::{Either, select};
use quinn::{Connection, SendDatagramError, StreamId, VarInt};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::capsule::{self, Capsule, CapsuleReader};
use crate::stream::{Duplex, ReadChunk, StreamError, WriteChunk};

/// Datagrams of one flow that wait to be taken; more are dropped. A burst of an Ethernet's packets, a third of a megabyte.
pub const MAX_QUEUED_DATAGRAMS: usize = 256;

/// What crosses in a flow of datagrams.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet {
    /// A UDP payload or an ICMP message.
    Datagram(Bytes),
    /// The name of the reason for which a datagram of the other direction did not arrive; the flow goes on.
    Refusal(String),
}

/// The receiving half of a flow of datagrams.
pub trait ReceivePacket {
    /// The next packet; `None` when the peer has ended the flow.
    ///
    /// May be cancelled: no packet is lost by it.
    fn receive(&mut self) -> impl Future<Output = Result<Option<Packet>, StreamError>>;

    /// Tells the peer to send no more.
    fn stop(&mut self);
}

/// The sending half of a flow of datagrams.
pub trait SendPacket {
    /// Sends one packet, or drops it where the network would. Not to be cancelled, but before a reset.
    fn send(&mut self, packet: Packet) -> impl Future<Output = Result<(), StreamError>>;

    /// Ends this direction; what was sent on the stream still arrives.
    fn finish(&mut self) -> impl Future<Output = Result<(), StreamError>>;

    /// Ends this direction at once.
    fn reset(&mut self);
}

/// Takes the DATAGRAM frames of one connection to the flows that they belong to.
#[derive(Debug, Clone)]
pub struct DatagramRouter(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    connection: Connection,
    /// By a quarter of the stream's id.
    flows: Mutex<HashMap<u64, mpsc::Sender<Bytes>>>,
    dropped: AtomicU64,
}

/// A datagram was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// It fits into no frame that the peer and the path take; maybe the peer takes none at all.
    #[error("the datagram does not fit")]
    TooLarge,
    /// The connection is lost.
    #[error("the connection is lost")]
    Lost,
}

impl DatagramRouter {
    /// The router of this connection. It carries nothing to flows before [`run`](Self::run) does.
    pub fn new(connection: Connection) -> Self {
        let inner = Inner { connection, flows: Mutex::default(), dropped: AtomicU64::new(0) };
        Self(Arc::new(inner))
    }

    /// Takes frames to their flows until the connection ends. To be run once, by a task of its own.
    pub async fn run(self) {
        while let Ok(frame) = self.0.connection.read_datagram().await {
            self.route(frame);
        }
        // Whoever waits for a datagram is told by its stream.
        self.flows().clear();
    }

    /// Has the frames of this stream's flow queued for it, until what is returned is dropped.
    pub fn register(&self, stream: StreamId) -> DatagramReceiver {
        let quarter = quarter(stream);
        let (sender, receiver) = mpsc::channel(MAX_QUEUED_DATAGRAMS);
        self.flows().insert(quarter, sender);
        DatagramReceiver { router: self.clone(), quarter, receiver }
    }

    /// Sends one datagram of this stream's flow as a frame. When the connection has too much to send, older ones go.
    ///
    /// # Errors
    /// It does not fit, and the stream may carry it instead; or the connection is lost.
    pub fn send(&self, stream: StreamId, payload: &[u8]) -> Result<(), SendError> {
        let mut frame = BytesMut::with_capacity(8 + payload.len());
        capsule::put_varint(quarter(stream), &mut frame);
        frame.extend_from_slice(payload);
        self.0.connection.send_datagram(frame.freeze()).map_err(|error| match error {
            SendDatagramError::TooLarge
            | SendDatagramError::UnsupportedByPeer
            | SendDatagramError::Disabled => SendError::TooLarge,
            SendDatagramError::ConnectionLost(_) => SendError::Lost,
        })
    }

    /// The longest payload that a frame of this stream's flow can have now, in bytes; `None` if the peer takes no frames.
    pub fn max_payload(&self, stream: StreamId) -> Option<usize> {
        let mut header = BytesMut::with_capacity(8);
        capsule::put_varint(quarter(stream), &mut header);
        self.0.connection.max_datagram_size()?.checked_sub(header.len())
    }

    /// Frames that were dropped: malformed, of no flow, or of one whose queue was full.
    pub fn dropped(&self) -> u64 {
        self.0.dropped.load(Ordering::Relaxed)
    }

    /// Takes one frame to its flow. For who reads frames by itself, since not all of them are flows'; else there is
    /// [`run`](Self::run).
    pub fn route(&self, mut frame: Bytes) {
        let routed = capsule::varint(&frame).is_some_and(|(quarter, header)| {
            frame.advance(header);
            self.flows().get(&quarter).is_some_and(|flow| flow.try_send(frame).is_ok())
        });
        if !routed {
            self.0.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn flows(&self) -> std::sync::MutexGuard<'_, HashMap<u64, mpsc::Sender<Bytes>>> {
        self.0.flows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A quarter of a stream's id: its number among the bidirectional streams of the side that opened it.
fn quarter(stream: StreamId) -> u64 {
    VarInt::from(stream).into_inner() / 4
}

/// The frames of one flow.
#[derive(Debug)]
pub struct DatagramReceiver {
    router: DatagramRouter,
    quarter: u64,
    receiver: mpsc::Receiver<Bytes>,
}

impl DatagramReceiver {
    /// The next datagram; `None` when the connection has ended.
    ///
    /// May be cancelled: no datagram is lost by it.
    pub async fn receive(&mut self) -> Option<Bytes> {
        self.receiver.recv().await
    }
}

impl Drop for DatagramReceiver {
    fn drop(&mut self) {
        self.router.flows().remove(&self.quarter);
    }
}

/// A flow of datagrams on a stream, and beside it where there are DATAGRAM frames.
#[derive(Debug)]
pub struct DatagramFlow<R, W> {
    /// From the peer.
    pub receiver: PacketReceiver<R>,
    /// To the peer.
    pub sender: PacketSender<W>,
}

impl<R: ReadChunk, W: WriteChunk> DatagramFlow<R, W> {
    /// A flow whose packets all go on the stream.
    pub fn on_stream(stream: Duplex<R, W>) -> Self {
        Self {
            receiver: PacketReceiver {
                ahead: VecDeque::new(),
                capsules: CapsuleReader::new(stream.reader),
                frames: None,
            },
            sender: PacketSender { writer: stream.writer, frames: None },
        }
    }

    /// A flow of a stream that is `registered`, which has the id `id`.
    pub fn with_frames(stream: Duplex<R, W>, id: StreamId, registered: DatagramReceiver) -> Self {
        let router = registered.router.clone();
        Self {
            receiver: PacketReceiver {
                ahead: VecDeque::new(),
                capsules: CapsuleReader::new(stream.reader),
                frames: Some(registered),
            },
            sender: PacketSender { writer: stream.writer, frames: Some((router, id)) },
        }
    }

    /// [`ReceivePacket::receive`] of the receiving half.
    ///
    /// # Errors
    /// The stream failed, or carries something else than capsules.
    pub async fn receive(&mut self) -> Result<Option<Packet>, StreamError> {
        self.receiver.receive().await
    }

    /// [`SendPacket::send`] of the sending half.
    ///
    /// # Errors
    /// The stream failed.
    pub async fn send(&mut self, packet: Packet) -> Result<(), StreamError> {
        self.sender.send(packet).await
    }

    /// Ends both directions at once.
    pub fn reset(&mut self) {
        self.sender.reset();
        self.receiver.stop();
    }

    /// The same flow on a stream whose halves are held in something else.
    pub fn map<R2, W2>(
        self,
        reader: impl FnOnce(R) -> R2,
        writer: impl FnOnce(W) -> W2,
    ) -> DatagramFlow<R2, W2> {
        let (receiver, sender) = (self.receiver, self.sender);
        DatagramFlow {
            receiver: PacketReceiver {
                ahead: receiver.ahead,
                capsules: receiver.capsules.map(reader),
                frames: receiver.frames,
            },
            sender: PacketSender { writer: writer(sender.writer), frames: sender.frames },
        }
    }

    /// The two halves, for a task each.
    pub fn split(self) -> (PacketReceiver<R>, PacketSender<W>) {
        (self.receiver, self.sender)
    }
}

/// The receiving half of a [`DatagramFlow`].
#[derive(Debug)]
pub struct PacketReceiver<R> {
    /// Received already, and put back.
    ahead: VecDeque<Packet>,
    capsules: CapsuleReader<R>,
    frames: Option<DatagramReceiver>,
}

impl<R> PacketReceiver<R> {
    /// Puts packets back that were looked at: they are received again, before all others.
    pub fn put_back(&mut self, packets: Vec<Packet>) {
        for packet in packets.into_iter().rev() {
            self.ahead.push_front(packet);
        }
    }
}

impl<R: ReadChunk> ReceivePacket for PacketReceiver<R> {
    async fn receive(&mut self) -> Result<Option<Packet>, StreamError> {
        if let Some(packet) = self.ahead.pop_front() {
            return Ok(Some(packet));
        }
        loop {
            let capsule = {
                let frame = async {
                    match &mut self.frames {
                        Some(frames) => match frames.receive().await {
                            Some(frame) => frame,
                            // The stream tells how the connection ended.
                            None => std::future::pending().await,
                        },
                        None => std::future::pending().await,
                    }
                };
                match select(pin!(frame), pin!(self.capsules.next())).await {
                    Either::Left((frame, _)) => return Ok(Some(Packet::Datagram(frame))),
                    Either::Right((capsule, _)) => capsule?,
                }
            };
            match capsule {
                None => return Ok(None),
                Some(Capsule { kind: capsule::DATAGRAM, value }) => return Ok(Some(Packet::Datagram(value))),
                Some(Capsule { kind: capsule::REFUSAL, value }) => {
                    let name = value.slice(..value.len().min(MAX_REFUSAL_BYTES));
                    return Ok(Some(Packet::Refusal(String::from_utf8_lossy(&name).into_owned())));
                }
                // RFC 9297, section 3.2: what is not known is passed over.
                Some(Capsule { .. }) => {}
            }
        }
    }

    fn stop(&mut self) {
        self.capsules.stop();
    }
}

/// The sending half of a [`DatagramFlow`].
#[derive(Debug)]
pub struct PacketSender<W> {
    writer: W,
    frames: Option<(DatagramRouter, StreamId)>,
}

impl<W: WriteChunk> SendPacket for PacketSender<W> {
    async fn send(&mut self, packet: Packet) -> Result<(), StreamError> {
        let (kind, value) = match &packet {
            Packet::Datagram(payload) => (capsule::DATAGRAM, &payload[..]),
            Packet::Refusal(name) => (capsule::REFUSAL, name.as_bytes()),
        };
        if kind == capsule::DATAGRAM
            && let Some((router, id)) = &self.frames
        {
            match router.send(*id, value) {
                Ok(()) => return Ok(()),
                Err(SendError::TooLarge) => {}
                Err(SendError::Lost) => {
                    return Err(StreamError::ConnectionLost(Box::new(SendError::Lost)));
                }
            }
        }
        let mut bytes = BytesMut::new();
        capsule::encode(kind, value, &mut bytes);
        self.writer.write_chunk(bytes.freeze()).await
    }

    async fn finish(&mut self) -> Result<(), StreamError> {
        self.writer.finish().await
    }

    fn reset(&mut self) {
        self.writer.reset();
    }
}

/// Datagrams and their bytes that were passed on so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Exchanged {
    /// From near to far.
    pub datagrams_up: u64,
    /// Their payloads, in bytes.
    pub bytes_up: u64,
    /// From far to near.
    pub datagrams_down: u64,
    /// Their payloads, in bytes.
    pub bytes_down: u64,
}

/// How an exchange of datagrams ended.
#[derive(Debug)]
pub enum ExchangeEnd {
    /// One side ended the flow, and so did we to the other.
    Finished,
    /// Nothing came from either side for the idle time.
    Idle,
    /// The near side was reset or lost.
    NearFailed(StreamError),
    /// The far side was reset or lost.
    FarFailed(StreamError),
}

/// Passes packets both ways until either side ends the flow or fails, or nothing comes for `idle`; then both are ended. A
/// flow of datagrams has no half that could go on alone.
///
/// May be cancelled: the caller then resets both flows.
pub async fn exchange<NR, NS, FR, FS>(
    near: (&mut NR, &mut NS),
    far: (&mut FR, &mut FS),
    idle: Duration,
    exchanged: &mut Exchanged,
) -> ExchangeEnd
where
    NR: ReceivePacket,
    NS: SendPacket,
    FR: ReceivePacket,
    FS: SendPacket,
{
    let activity = Activity::new();
    let Exchanged { datagrams_up, bytes_up, datagrams_down, bytes_down } = exchanged;
    let end = {
        let up = pin!(pass(near.0, far.1, (datagrams_up, bytes_up), &activity));
        let down = pin!(pass(far.0, near.1, (datagrams_down, bytes_down), &activity));
        let either = async {
            match select(up, down).await {
                Either::Left((ended, _)) => ended.map_err(failure_up),
                Either::Right((ended, _)) => ended.map_err(failure_down),
            }
        };
        match select(pin!(either), pin!(activity.ended(idle))).await {
            Either::Left((Ok(()), _)) => ExchangeEnd::Finished,
            Either::Left((Err(end), _)) => end,
            Either::Right(((), _)) => ExchangeEnd::Idle,
        }
    };
    match end {
        ExchangeEnd::Finished | ExchangeEnd::Idle => {
            // Both may have gone already, which is what they are told.
            let _ = near.1.finish().await;
            let _ = far.1.finish().await;
        }
        ExchangeEnd::NearFailed(_) | ExchangeEnd::FarFailed(_) => {
            near.1.reset();
            far.1.reset();
        }
    }
    near.0.stop();
    far.0.stop();
    end
}

/// Where one direction failed.
enum Failure {
    Receiving(StreamError),
    Sending(StreamError),
}

fn failure_up(failure: Failure) -> ExchangeEnd {
    match failure {
        Failure::Receiving(error) => ExchangeEnd::NearFailed(error),
        Failure::Sending(error) => ExchangeEnd::FarFailed(error),
    }
}

fn failure_down(failure: Failure) -> ExchangeEnd {
    match failure {
        Failure::Receiving(error) => ExchangeEnd::FarFailed(error),
        Failure::Sending(error) => ExchangeEnd::NearFailed(error),
    }
}

async fn pass<R: ReceivePacket, S: SendPacket>(
    receiver: &mut R,
    sender: &mut S,
    (datagrams, bytes): (&mut u64, &mut u64),
    activity: &Activity,
) -> Result<(), Failure> {
    while let Some(packet) = receiver.receive().await.map_err(Failure::Receiving)? {
        activity.note();
        let length = match &packet {
            Packet::Datagram(payload) => Some(payload.len() as u64),
            Packet::Refusal(_) => None,
        };
        sender.send(packet).await.map_err(Failure::Sending)?;
        if let Some(length) = length {
            *datagrams += 1;
            *bytes += length;
        }
    }
    Ok(())
}

/// When something was passed last.
struct Activity {
    began: Instant,
    /// Milliseconds after `began`.
    last: AtomicU64,
}

impl Activity {
    fn new() -> Self {
        Self { began: Instant::now(), last: AtomicU64::new(0) }
    }

    fn note(&self) {
        let elapsed = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(elapsed, Ordering::Relaxed);
    }

    /// Waits until nothing has been passed for `idle`.
    async fn ended(&self, idle: Duration) {
        loop {
            let last = self.last.load(Ordering::Relaxed);
            tokio::time::sleep_until(self.began + Duration::from_millis(last) + idle).await;
            if self.last.load(Ordering::Relaxed) == last {
                return;
            }
        }
    }
}

/// Longest name of a refusal that is read, in bytes.
const MAX_REFUSAL_BYTES: usize = 64;

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use futures_util::FutureExt as _;
    use quinn::Endpoint;
    use rustls::RootCertStore;
    use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

    use super::*;
    use crate::quic::{self, QuicReader, QuicWriter};
    use crate::tls::{self, Identity};

    const ALPN: &[u8] = b"test";

    /// Two ends of a connection, each with its router, and what keeps them.
    struct Pair {
        near: (Connection, DatagramRouter),
        far: (Connection, DatagramRouter),
        _endpoints: [Endpoint; 2],
    }

    type Flow = DatagramFlow<QuicReader, QuicWriter>;

    async fn pair() -> Pair {
        let certified = rcgen::generate_simple_self_signed(["edge.test".to_owned()]).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der()));
        let identity = Identity::new(vec![certified.cert.der().clone()], key);
        let mut roots = RootCertStore::empty();
        roots.add(certified.cert.der().clone()).unwrap();
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listener = quic::listen(any, tls::server_config(&identity, &[ALPN]).unwrap()).unwrap();
        let dialer = quic::dialer(any).unwrap();
        let config = quic::client_config(tls::client_config(roots, &[ALPN]).unwrap()).unwrap();
        let dialling = dialer.connect_with(config, listener.local_addr().unwrap(), "edge.test").unwrap();
        let accepting = async { listener.accept().await.unwrap().await.unwrap() };
        let (near, far) = tokio::join!(dialling, accepting);
        let routed = |connection: Connection| {
            let router = DatagramRouter::new(connection.clone());
            tokio::spawn(router.clone().run());
            (connection, router)
        };
        Pair { near: routed(near.unwrap()), far: routed(far), _endpoints: [listener, dialer] }
    }

    impl Pair {
        /// A flow whose stream the far side has seen.
        async fn open(&self) -> (Flow, Flow) {
            let (mut send, receive) = self.near.0.open_bi().await.unwrap();
            let near = flow(&self.near.1, send.id(), || {
                send.write_chunk(Bytes::from_static(b"\x00\x05hello")).now_or_never().unwrap().unwrap();
                quic::duplex(send, receive, Bytes::new())
            });
            let (send, receive) = self.far.0.accept_bi().await.unwrap();
            let mut far = flow(&self.far.1, send.id(), || quic::duplex(send, receive, Bytes::new()));
            assert_eq!(far.receive().await.unwrap(), Some(Packet::Datagram("hello".into())));
            (near, far)
        }
    }

    fn flow(
        router: &DatagramRouter,
        id: StreamId,
        stream: impl FnOnce() -> Duplex<QuicReader, QuicWriter>,
    ) -> Flow {
        let registered = router.register(id);
        DatagramFlow::with_frames(stream(), id, registered)
    }

    fn datagram(payload: impl Into<Bytes>) -> Packet {
        Packet::Datagram(payload.into())
    }

    #[tokio::test]
    async fn datagrams_of_every_size_arrive_at_their_flow() {
        let pair = pair().await;
        let (mut near, mut far) = pair.open().await;
        let (_other_near, mut other_far) = pair.open().await;
        for size in [0, 1, 1000, 1200, 1500, 9000, 65_507, 65_535] {
            let payload = Bytes::from(vec![7; size]);
            near.send(datagram(payload.clone())).await.unwrap();
            assert_eq!(far.receive().await.unwrap(), Some(datagram(payload.clone())), "{size} up");
            far.send(datagram(payload.clone())).await.unwrap();
            assert_eq!(near.receive().await.unwrap(), Some(datagram(payload)), "{size} down");
        }
        far.send(Packet::Refusal("refused".into())).await.unwrap();
        assert_eq!(near.receive().await.unwrap(), Some(Packet::Refusal("refused".into())));
        assert!(other_far.receive().now_or_never().is_none());
        near.sender.finish().await.unwrap();
        assert_eq!(far.receive().await.unwrap(), None);
    }

    #[tokio::test]
    async fn small_datagrams_go_as_frames_and_large_ones_on_the_stream() {
        let pair = pair().await;
        let (near, mut far) = pair.open().await;
        let id = near.sender.frames.as_ref().unwrap().1;
        let fits = pair.near.1.max_payload(id).unwrap();
        assert!(fits > 1100, "{fits}");
        let before = pair.near.0.stats().frame_tx.datagram;
        let (_receiver, mut sender) = near.split();
        sender.send(datagram(vec![1; 1100])).await.unwrap();
        assert_eq!(far.receive().await.unwrap(), Some(datagram(vec![1; 1100])));
        assert_eq!(pair.near.0.stats().frame_tx.datagram, before + 1);
        assert_eq!(pair.near.1.send(id, &[1; 2000]), Err(SendError::TooLarge));
        sender.send(datagram(vec![1; 2000])).await.unwrap();
        assert_eq!(far.receive().await.unwrap(), Some(datagram(vec![1; 2000])));
        assert_eq!(pair.near.0.stats().frame_tx.datagram, before + 1);
    }

    #[tokio::test]
    async fn frames_of_no_flow_and_of_a_full_queue_are_dropped_and_counted() {
        let pair = pair().await;
        let (near, far) = pair.open().await;
        let id = near.sender.frames.as_ref().unwrap().1;
        pair.far.1.route(Bytes::new());
        pair.far.1.route(Bytes::from_static(b"\x40"));
        pair.far.1.route(Bytes::from_static(b"\x3flost"));
        assert_eq!(pair.far.1.dropped(), 3);
        let frame = [u8::try_from(quarter(id)).unwrap(), 7];
        for _ in 0..MAX_QUEUED_DATAGRAMS + 5 {
            pair.far.1.route(Bytes::copy_from_slice(&frame));
        }
        assert_eq!(pair.far.1.dropped(), 8);
        drop(far);
        assert!(pair.far.1.flows().is_empty());
        pair.far.1.route(Bytes::copy_from_slice(&frame));
        assert_eq!(pair.far.1.dropped(), 9);
    }

    #[tokio::test]
    async fn a_receive_that_is_given_up_loses_nothing() {
        let pair = pair().await;
        let (mut near, mut far) = pair.open().await;
        for n in 0..20_u8 {
            // Every other one as a capsule of two packets' length.
            let size = if n % 2 == 0 { 10 } else { 3000 };
            near.send(datagram(vec![n; size])).await.unwrap();
            let received = loop {
                match far.receive().now_or_never() {
                    Some(received) => break received.unwrap(),
                    None => tokio::task::yield_now().await,
                }
            };
            assert_eq!(received, Some(datagram(vec![n; size])));
        }
    }

    #[tokio::test]
    async fn an_exchange_passes_both_ways_until_one_side_ends() {
        let (left, right) = (pair().await, pair().await);
        let ((mut client, near), (far, mut origin)) = (left.open().await, right.open().await);
        let joined = tokio::spawn(async move {
            let ((mut near_in, mut near_out), (mut far_in, mut far_out)) = (near.split(), far.split());
            let mut exchanged = Exchanged::default();
            let idle = Duration::from_mins(1);
            let end =
                exchange((&mut near_in, &mut near_out), (&mut far_in, &mut far_out), idle, &mut exchanged)
                    .await;
            (end, exchanged)
        });
        client.send(datagram("a question")).await.unwrap();
        assert_eq!(origin.receive().await.unwrap(), Some(datagram("a question")));
        origin.send(datagram("an answer")).await.unwrap();
        assert_eq!(client.receive().await.unwrap(), Some(datagram("an answer")));
        origin.send(Packet::Refusal("refused".into())).await.unwrap();
        assert_eq!(client.receive().await.unwrap(), Some(Packet::Refusal("refused".into())));
        client.sender.finish().await.unwrap();
        assert_eq!(origin.receive().await.unwrap(), None);
        let (end, exchanged) = joined.await.unwrap();
        assert!(matches!(end, ExchangeEnd::Finished), "{end:?}");
        let expected = Exchanged { datagrams_up: 1, bytes_up: 10, datagrams_down: 1, bytes_down: 9 };
        assert_eq!(exchanged, expected);
    }

    #[tokio::test]
    async fn an_exchange_ends_when_it_is_idle_and_when_a_side_is_lost() {
        for lost in [false, true] {
            let (left, right) = (pair().await, pair().await);
            let ((mut client, near), (far, _origin)) = (left.open().await, right.open().await);
            let ((mut near_in, mut near_out), (mut far_in, mut far_out)) = (near.split(), far.split());
            if lost {
                left.near.0.close(quic::NO_ERROR, b"");
            }
            let idle = if lost { Duration::from_mins(1) } else { Duration::from_millis(20) };
            let mut exchanged = Exchanged::default();
            let end =
                exchange((&mut near_in, &mut near_out), (&mut far_in, &mut far_out), idle, &mut exchanged)
                    .await;
            assert_eq!(matches!(end, ExchangeEnd::NearFailed(_)), lost, "{end:?}");
            assert_eq!(matches!(end, ExchangeEnd::Idle), !lost, "{end:?}");
            let ended = client.receive().await;
            assert_eq!(ended.is_err(), lost, "{ended:?}");
        }
    }
}
