//! A flow of UDP whose client's first datagrams are looked at, for the server that a QUIC client names (policy language,
//! section 8: N1).
//!
//! As with bytes ([`crate::first_bytes`]) the client is told first that it may send. What was looked at is put back, so that
//! whoever carries the flow passes it on. Other protocols are known not to be QUIC by one datagram, and wait for nothing.

use std::time::Duration;

use adit_inspect::first_bytes::Seen;
use adit_inspect::quic::Reader;
use adit_model::{FirstBytes, Refusal};
use adit_transport::datagram::{DatagramFlow, Packet, PacketReceiver, ReceivePacket as _, SendPacket as _};
use adit_transport::{Duplex, ReadChunk, WriteChunk};
use tokio::time::{Instant, timeout_at};

use crate::flow::Asked;
use crate::limits::FIRST_BYTES_DEADLINE;

/// Datagrams that are looked at: a hello needs two or three.
const MAX_DATAGRAMS: usize = 16;

/// For a device to take the reason why its flow ends.
const TELL_DEADLINE: Duration = Duration::from_secs(1);

/// The device's side of a flow that was told that it may send.
pub(crate) struct HeldDatagrams<R, W> {
    near: DatagramFlow<R, W>,
}

/// Accepts a flow and looks at what its client sends first. `None` if the device has gone.
pub(crate) async fn hold_datagrams<A: Asked>(
    asked: A,
) -> Option<(FirstBytes, HeldDatagrams<A::Reader, A::Writer>)> {
    let mut near = asked.accept_datagrams().await?;
    let first = look_ahead(&mut near.receiver).await?;
    Some((first, HeldDatagrams { near }))
}

/// Looks at what a client sends first. `None` if it has gone.
pub(crate) async fn look_ahead<R: ReadChunk>(receiver: &mut PacketReceiver<R>) -> Option<FirstBytes> {
    let deadline = Instant::now() + FIRST_BYTES_DEADLINE;
    let (mut reader, mut packets) = (Reader::default(), Vec::new());
    let first = loop {
        let packet = match timeout_at(deadline, receiver.receive()).await {
            Ok(received) => received.ok()?,
            Err(_) => None,
        };
        let Some(packet) = packet else { break reader.so_far() };
        let seen = match &packet {
            Packet::Datagram(datagram) => reader.read(datagram),
            Packet::Refusal(_) => Seen::More,
        };
        packets.push(packet);
        match seen {
            Seen::Yes(first) => break first,
            Seen::No => break FirstBytes::default(),
            Seen::More if packets.len() >= MAX_DATAGRAMS => break reader.so_far(),
            Seen::More => {}
        }
    };
    receiver.put_back(packets);
    Some(first)
}

/// Tells a device that may send why it may not go on, and ends the flow.
pub(crate) async fn turn_away<R: ReadChunk, W: WriteChunk>(near: &mut DatagramFlow<R, W>, refusal: Refusal) {
    let telling = async {
        near.sender.send(Packet::Refusal(refusal.as_str().to_owned())).await?;
        near.sender.finish().await
    };
    // A device that takes nothing is not waited for.
    if !matches!(tokio::time::timeout(TELL_DEADLINE, telling).await, Ok(Ok(()))) {
        near.sender.reset();
    }
    near.receiver.stop();
}

impl<R: ReadChunk, W: WriteChunk> Asked for HeldDatagrams<R, W> {
    type Reader = R;
    type Writer = W;

    /// There is no stream of bytes in it.
    async fn accept(mut self) -> Option<Duplex<R, W>> {
        self.near.reset();
        None
    }

    async fn accept_datagrams(self) -> Option<DatagramFlow<R, W>> {
        Some(self.near)
    }

    async fn refuse(mut self, refusal: Refusal, _detail: &str) {
        turn_away(&mut self.near, refusal).await;
    }
}
