//! Echo requests through an unmodified connector, which takes and gives whole IP packets (tunnel protocol, 4.5).
//!
//! All flows of a connection share the connector's space of echo ids: each id of a device becomes one that no other flow
//! of the connection has. What always holds: only echo requests are sent; a reply is taken only from the address that was
//! asked; lengths and checksums are right or the packet is dropped.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use adit_model::Refusal;
use adit_transport::StreamError;
use adit_transport::datagram::{MAX_QUEUED_DATAGRAMS, Packet};
use adit_wire::datagram::{Generation, V2, V3};
use bytes::{BufMut, Bytes, BytesMut};
use tokio::sync::mpsc;

use super::table::Echo;
use super::{FarDatagrams, FarPacketReceiver, FarPacketSender, SessionTable, send_frame, too_large};
use crate::dial::Failure;

/// Opens a flow of echo requests to `destination`, from the device at `source`.
pub(crate) fn echoes(
    quic: &quinn::Connection,
    table: &Arc<SessionTable>,
    destination: IpAddr,
    source: IpAddr,
) -> Result<FarDatagrams, Failure> {
    if table.generation == Generation::V1 {
        return Err(Failure::Answered(Refusal::NoConnection, "the connector takes no ICMP".into()));
    }
    let (queue, receiver) = mpsc::channel(MAX_QUEUED_DATAGRAMS);
    let addresses = match (source.to_canonical(), destination.to_canonical()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => Addresses::V4 { source, destination },
        (IpAddr::V6(source), IpAddr::V6(destination)) => Addresses::V6 { source, destination },
        // The device has no address of the family; the connector only tells askers apart by it.
        (_, IpAddr::V4(destination)) => Addresses::V4 { source: UNNAMED_V4, destination },
        (_, IpAddr::V6(destination)) => Addresses::V6 { source: UNNAMED_V6, destination },
    };
    let sender =
        EchoSender { table: Arc::clone(table), quic: quic.clone(), addresses, queue, ids: HashMap::new() };
    Ok(FarDatagrams { receiver: FarPacketReceiver::Queue(receiver), sender: FarPacketSender::Echo(sender) })
}

/// The sending half of a flow of echoes.
#[derive(Debug)]
pub(crate) struct EchoSender {
    table: Arc<SessionTable>,
    quic: quinn::Connection,
    addresses: Addresses,
    /// Kept, so that the flow lasts as long as its sender.
    queue: mpsc::Sender<Packet>,
    /// The device's ids, and what they are on the way.
    ids: HashMap<u16, u16>,
}

impl EchoSender {
    /// Sends an echo request; anything else is dropped, as a connector would.
    pub(super) fn send(&mut self, message: &[u8]) -> Result<(), StreamError> {
        let Some(original) = self.addresses.request_id(message) else { return Ok(()) };
        let Some(id) = self.mapped(original) else { return Ok(()) };
        let packet = self.addresses.packet(message, id);
        let mut frame = BytesMut::new();
        let encoded = match self.table.generation {
            Generation::V3 => V3::Icmp(packet).encode(&mut frame),
            Generation::V1 | Generation::V2 => V2::Ip { packet, traced: None }.encode(&mut frame),
        };
        if encoded.is_err() || !send_frame(&self.quic, frame.freeze())? {
            too_large(&self.queue.downgrade());
        }
        Ok(())
    }

    fn mapped(&mut self, original: u16) -> Option<u16> {
        if let Some(id) = self.ids.get(&original) {
            return Some(*id);
        }
        if self.ids.len() >= MAX_IDS_PER_FLOW {
            return None;
        }
        let destination = self.addresses.destination();
        let id = self.table.begin_echo(Echo { queue: self.queue.downgrade(), original, destination })?;
        self.ids.insert(original, id);
        Some(id)
    }
}

impl Drop for EchoSender {
    fn drop(&mut self) {
        self.ids.values().for_each(|id| self.table.forget_echo(*id));
    }
}

/// Who asks whom.
#[derive(Debug, Clone, Copy)]
enum Addresses {
    V4 { source: Ipv4Addr, destination: Ipv4Addr },
    V6 { source: Ipv6Addr, destination: Ipv6Addr },
}

impl Addresses {
    fn destination(self) -> IpAddr {
        match self {
            Self::V4 { destination, .. } => destination.into(),
            Self::V6 { destination, .. } => destination.into(),
        }
    }

    /// The id of an echo request, if the message is one.
    fn request_id(self, message: &[u8]) -> Option<u16> {
        let kind = match self {
            Self::V4 { .. } => ECHO_REQUEST_V4,
            Self::V6 { .. } => ECHO_REQUEST_V6,
        };
        match message {
            [actual, 0, _, _, high, low, _, _, ..] if *actual == kind => {
                Some(u16::from_be_bytes([*high, *low]))
            }
            _ => None,
        }
    }

    /// The whole packet of a message, with another id.
    fn packet(self, message: &[u8], id: u16) -> Bytes {
        let length = u16::try_from(message.len()).unwrap_or(u16::MAX);
        let mut packet = BytesMut::with_capacity(V6_HEADER_BYTES + message.len());
        match self {
            Self::V4 { source, destination } => {
                packet.put_slice(&[0x45, 0]);
                packet.put_u16(length.saturating_add(V4_HEADER_LENGTH));
                packet.put_slice(&[0, 0, 0x40, 0, HOPS, PROTOCOL_ICMP, 0, 0]);
                packet.put_slice(&source.octets());
                packet.put_slice(&destination.octets());
                let sum = checksum(0, &packet);
                packet[10..12].copy_from_slice(&sum.to_be_bytes());
            }
            Self::V6 { source, destination } => {
                packet.put_slice(&[0x60, 0, 0, 0]);
                packet.put_u16(length);
                packet.put_slice(&[PROTOCOL_ICMPV6, HOPS]);
                packet.put_slice(&source.octets());
                packet.put_slice(&destination.octets());
            }
        }
        packet.put_slice(&self.message(message, id));
        packet.freeze()
    }

    /// A message with another id, and the checksum that belongs to it.
    fn message(self, message: &[u8], id: u16) -> BytesMut {
        let mut message = BytesMut::from(message);
        message[2..4].fill(0);
        message[4..6].copy_from_slice(&id.to_be_bytes());
        let sum = checksum(self.pseudo_header(message.len()), &message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        message
    }

    /// What ICMPv6 sums beside the message (RFC 4443, 2.3).
    fn pseudo_header(self, length: usize) -> u64 {
        match self {
            Self::V4 { .. } => 0,
            Self::V6 { source, destination } => {
                let addresses = sum(&source.octets()) + sum(&destination.octets());
                addresses + u64::try_from(length).unwrap_or(0) + u64::from(PROTOCOL_ICMPV6)
            }
        }
    }
}

/// An echo reply, as a connector gives it.
#[derive(Debug)]
pub(super) struct Reply<'p> {
    pub(super) source: IpAddr,
    pub(super) id: u16,
    addresses: Addresses,
    message: &'p [u8],
}

impl Reply<'_> {
    /// The message, with the device's own id.
    pub(super) fn with_id(&self, id: u16) -> Bytes {
        self.addresses.message(self.message, id).freeze()
    }
}

/// Reads an echo reply out of an IP packet; `None` if it is something else, or damaged.
pub(super) fn read_reply(packet: &[u8]) -> Option<Reply<'_>> {
    let (addresses, kind, message) = match packet.first()? >> 4 {
        4 => {
            let (addresses, message) = read_v4(packet)?;
            (addresses, ECHO_REPLY_V4, message)
        }
        6 => {
            let (addresses, message) = read_v6(packet)?;
            (addresses, ECHO_REPLY_V6, message)
        }
        _ => return None,
    };
    let [actual, 0, _, _, high, low, _, _, ..] = message else { return None };
    let valid = *actual == kind && checksum(addresses.pseudo_header(message.len()), message) == 0;
    let source = match addresses {
        Addresses::V4 { source, .. } => source.into(),
        Addresses::V6 { source, .. } => source.into(),
    };
    valid.then_some(Reply { source, id: u16::from_be_bytes([*high, *low]), addresses, message })
}

fn read_v4(packet: &[u8]) -> Option<(Addresses, &[u8])> {
    let header = usize::from(packet.first()? & 0x0f) * 4;
    let total = usize::from(u16::from_be_bytes(*packet.get(2..)?.first_chunk()?));
    let fragment = u16::from_be_bytes(*packet.get(6..)?.first_chunk()?) & 0x3fff;
    if header < V4_HEADER_BYTES || *packet.get(9)? != PROTOCOL_ICMP || fragment != 0 {
        return None;
    }
    let source = Ipv4Addr::from(*packet.get(12..)?.first_chunk::<4>()?);
    let destination = Ipv4Addr::from(*packet.get(16..)?.first_chunk::<4>()?);
    Some((Addresses::V4 { source, destination }, packet.get(header..total)?))
}

fn read_v6(packet: &[u8]) -> Option<(Addresses, &[u8])> {
    let length = usize::from(u16::from_be_bytes(*packet.get(4..)?.first_chunk()?));
    if *packet.get(6)? != PROTOCOL_ICMPV6 {
        return None;
    }
    let source = Ipv6Addr::from(*packet.get(8..)?.first_chunk::<16>()?);
    let destination = Ipv6Addr::from(*packet.get(24..)?.first_chunk::<16>()?);
    Some((Addresses::V6 { source, destination }, packet.get(V6_HEADER_BYTES..)?.get(..length)?))
}

/// The internet checksum (RFC 1071) of bytes and what was summed before.
fn checksum(before: u64, bytes: &[u8]) -> u16 {
    let mut total = before + sum(bytes);
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    !u16::try_from(total).unwrap_or(0)
}

fn sum(bytes: &[u8]) -> u64 {
    let (pairs, rest) = bytes.as_chunks::<2>();
    let pairs: u64 = pairs.iter().map(|pair| u64::from(u16::from_be_bytes(*pair))).sum();
    pairs + rest.first().map_or(0, |last| u64::from(*last) << 8)
}

/// Echo ids of one flow; a device has one for each program that pings.
const MAX_IDS_PER_FLOW: usize = 64;
/// Hops that an echo request may make behind the connector.
const HOPS: u8 = 64;
const V4_HEADER_BYTES: usize = 20;
const V4_HEADER_LENGTH: u16 = 20;
const V6_HEADER_BYTES: usize = 40;
const PROTOCOL_ICMP: u8 = 1;
const PROTOCOL_ICMPV6: u8 = 58;
const ECHO_REQUEST_V4: u8 = 8;
const ECHO_REPLY_V4: u8 = 0;
const ECHO_REQUEST_V6: u8 = 128;
const ECHO_REPLY_V6: u8 = 129;
/// Stand for a device without an address of the family. Nobody has these addresses (RFC 5737, RFC 3849).
const UNNAMED_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const UNNAMED_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

/// Fuzz body: whatever is read as a reply is written as it was.
#[doc(hidden)]
pub fn fuzz_echo_reply(packet: &[u8]) {
    if let Some(reply) = read_reply(packet) {
        let message = reply.with_id(reply.id);
        assert_eq!(message, reply.message, "the same id makes the same message");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const V4: Addresses =
        Addresses::V4 { source: Ipv4Addr::new(10, 0, 0, 2), destination: Ipv4Addr::new(10, 0, 0, 1) };

    #[test]
    fn a_request_is_these_bytes() {
        let request = [8, 0, 0, 0, 0, 7, 0, 1, b'p', b'i', b'n', b'g', b'!'];
        assert_eq!(V4.request_id(&request), Some(7));
        let packet = V4.packet(&request, 0x1234);
        let expected = [
            &[0x45, 0, 0, 33, 0, 0, 0x40, 0, 64, 1, 0x26, 0xda, 10, 0, 0, 2, 10, 0, 0, 1][..],
            &[8, 0, 0xe5, 0xf9, 0x12, 0x34, 0, 1, b'p', b'i', b'n', b'g', b'!'],
        ]
        .concat();
        assert_eq!(&packet[..], expected);
    }

    #[test]
    fn what_is_no_request_is_not_sent() {
        for message in [&[0; 8][..], &[8, 0, 0, 0, 0, 1, 0], &[8, 1, 0, 0, 0, 1, 0, 0], &[128; 8], &[]] {
            assert_eq!(V4.request_id(message), None, "{message:?}");
        }
    }

    /// A connector's answer to a packet.
    fn answer(addresses: Addresses, message: &[u8]) -> Vec<u8> {
        let (reversed, kind) = match addresses {
            Addresses::V4 { source, destination } => {
                (Addresses::V4 { source: destination, destination: source }, ECHO_REPLY_V4)
            }
            Addresses::V6 { source, destination } => {
                (Addresses::V6 { source: destination, destination: source }, ECHO_REPLY_V6)
            }
        };
        let mut message = message.to_vec();
        message[0] = kind;
        reversed.packet(&message, u16::from_be_bytes([message[4], message[5]])).to_vec()
    }

    #[test]
    fn a_reply_that_is_damaged_in_any_bit_is_dropped_or_another() {
        let mut message = vec![8, 0, 0, 0, 0x12, 0x34, 0, 1];
        message.extend(0..100);
        let whole = answer(V4, &message);
        let reply = read_reply(&whole).unwrap();
        assert_eq!((reply.source, reply.id), (V4.destination(), 0x1234));
        for bit in V4_HEADER_BYTES * 8..whole.len() * 8 {
            let mut damaged = whole.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(read_reply(&damaged).is_none(), "{bit}");
        }
        for length in 0..whole.len() {
            assert!(read_reply(&whole[..length]).is_none(), "{length}");
        }
    }

    proptest! {
        #[test]
        fn replies_come_back_with_the_id_of_the_device(
            v6: bool, original: u16, mapped: u16, data in prop::collection::vec(any::<u8>(), 0..1400),
        ) {
            let addresses = if v6 {
                Addresses::V6 { source: UNNAMED_V6, destination: "2001:db8::53".parse().unwrap() }
            } else {
                V4
            };
            let kind = if v6 { ECHO_REQUEST_V6 } else { ECHO_REQUEST_V4 };
            let mut request = vec![kind, 0, 0, 0, 0, 0, 0, 1];
            request[4..6].copy_from_slice(&original.to_be_bytes());
            request.extend(&data);
            let packet = addresses.packet(&request, mapped);
            let header = if v6 { V6_HEADER_BYTES } else { V4_HEADER_BYTES };
            let reply_packet = answer(addresses, &packet[header..]);
            let reply = read_reply(&reply_packet).unwrap();
            prop_assert_eq!(reply.id, mapped);
            let message = reply.with_id(original);
            prop_assert_eq!(&message[4..6], &original.to_be_bytes());
            prop_assert_eq!(&message[8..], &data[..]);
        }

        #[test]
        fn any_bytes_are_a_reply_or_nothing(packet in prop::collection::vec(any::<u8>(), 0..200)) {
            fuzz_echo_reply(&packet);
        }
    }
}
