//! ICMP echo (RFC 792, RFC 4443): messages, and the IP packets that carry them through a tunnel (contract, 4.5).
//!
//! What always holds: nothing is read beyond a length that was compared, and what is written has right checksums, but for
//! ICMPv6 messages without a packet, whose checksum needs addresses. Fragments are not put together: a tunnel's packet is
//! whole.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytes::{BufMut, Bytes, BytesMut};

/// IPv4 or IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// ICMP in IPv4.
    V4,
    /// ICMPv6.
    V6,
}

impl Family {
    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    fn request(self) -> u8 {
        match self {
            Self::V4 => 8,
            Self::V6 => 128,
        }
    }

    fn reply(self) -> u8 {
        match self {
            Self::V4 => 0,
            Self::V6 => 129,
        }
    }
}

/// An echo request or reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Echo {
    /// Whether it is the reply.
    pub is_reply: bool,
    /// Identifier.
    pub id: u16,
    /// Sequence number.
    pub sequence: u16,
    /// What is sent back.
    pub data: Bytes,
}

impl Echo {
    /// Reads an echo request; `None` if the message is none.
    pub fn request(family: Family, message: &Bytes) -> Option<Self> {
        Self::read(family.request(), false, message)
    }

    /// Reads an echo reply; `None` if the message is none.
    pub fn reply(family: Family, message: &Bytes) -> Option<Self> {
        Self::read(family.reply(), true, message)
    }

    fn read(kind: u8, is_reply: bool, message: &Bytes) -> Option<Self> {
        let [actual, code, _, _, id0, id1, sequence0, sequence1] = *message.first_chunk()?;
        let echo = Self {
            is_reply,
            id: u16::from_be_bytes([id0, id1]),
            sequence: u16::from_be_bytes([sequence0, sequence1]),
            data: message.slice(HEADER_BYTES..),
        };
        (actual == kind && code == 0).then_some(echo)
    }

    /// The same with another identifier.
    #[must_use]
    pub fn with_id(&self, id: u16) -> Self {
        Self { id, ..self.clone() }
    }

    /// The message. That of ICMPv6 has no checksum.
    pub fn message(&self, family: Family) -> BytesMut {
        let mut message = BytesMut::with_capacity(HEADER_BYTES + self.data.len());
        message.put_u8(if self.is_reply { family.reply() } else { family.request() });
        message.put_slice(&[0, 0, 0]);
        message.put_u16(self.id);
        message.put_u16(self.sequence);
        message.put_slice(&self.data);
        if family == Family::V4 {
            let sum = checksum(&message, 0);
            message[2..4].copy_from_slice(&sum.to_be_bytes());
        }
        message
    }
}

/// The message in an IPv4 packet that a raw socket gave; `None` if there is none.
pub fn behind_v4_header(packet: &Bytes) -> Option<Bytes> {
    let header = usize::from(packet.first()? & 0xf) * 4;
    (header >= V4_HEADER_BYTES && header <= packet.len()).then(|| packet.slice(header..))
}

/// An IP packet with an ICMP message in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// From.
    pub source: IpAddr,
    /// To, of the same family.
    pub destination: IpAddr,
    /// Routers that it may still pass.
    pub hops: u8,
    /// The ICMP message.
    pub message: Bytes,
}

impl Packet {
    /// Reads a packet; `None` if it is no whole IP packet with ICMP.
    pub fn read(packet: &Bytes) -> Option<Self> {
        match packet.first()? >> 4 {
            4 => Self::read_v4(packet),
            6 => Self::read_v6(packet),
            _ => None,
        }
    }

    fn read_v4(packet: &Bytes) -> Option<Self> {
        let head: &[u8; V4_HEADER_BYTES] = packet.first_chunk()?;
        let header = usize::from(head[0] & 0xf) * 4;
        let total = usize::from(u16::from_be_bytes([head[2], head[3]]));
        let is_fragment = u16::from_be_bytes([head[6], head[7]]) & 0x3fff != 0;
        if header < V4_HEADER_BYTES
            || total < header
            || total > packet.len()
            || is_fragment
            || head[9] != ICMP
        {
            return None;
        }
        let source = Ipv4Addr::from(*head[12..].first_chunk::<4>()?);
        let destination = Ipv4Addr::from(*head[16..].first_chunk::<4>()?);
        Some(Self {
            source: source.into(),
            destination: destination.into(),
            hops: head[8],
            message: packet.slice(header..total),
        })
    }

    fn read_v6(packet: &Bytes) -> Option<Self> {
        let head: &[u8; V6_HEADER_BYTES] = packet.first_chunk()?;
        let end = V6_HEADER_BYTES + usize::from(u16::from_be_bytes([head[4], head[5]]));
        if end > packet.len() || head[6] != ICMPV6 {
            return None;
        }
        let source = Ipv6Addr::from(*head[8..].first_chunk::<16>()?);
        let destination = Ipv6Addr::from(*head[24..].first_chunk::<16>()?);
        Some(Self {
            source: source.into(),
            destination: destination.into(),
            hops: head[7],
            message: packet.slice(V6_HEADER_BYTES..end),
        })
    }

    /// The packet with right checksums; `None` if its addresses are of two families, or its message is too long or no
    /// message.
    pub fn write(&self) -> Option<Bytes> {
        if self.message.len() < HEADER_BYTES {
            return None;
        }
        let mut packet = BytesMut::with_capacity(V6_HEADER_BYTES + self.message.len());
        let pseudo = match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let total = u16::try_from(V4_HEADER_BYTES + self.message.len()).ok()?;
                packet.put_slice(&[0x45, 0]);
                packet.put_u16(total);
                packet.put_slice(&[0, 0, 0x40, 0, self.hops, ICMP, 0, 0]);
                packet.put_slice(&source.octets());
                packet.put_slice(&destination.octets());
                let sum = checksum(&packet, 0);
                packet[10..12].copy_from_slice(&sum.to_be_bytes());
                0
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let length = u16::try_from(self.message.len()).ok()?;
                packet.put_slice(&[0x60, 0, 0, 0]);
                packet.put_u16(length);
                packet.put_slice(&[ICMPV6, self.hops]);
                packet.put_slice(&source.octets());
                packet.put_slice(&destination.octets());
                // RFC 8200, 8.1.
                sum(&packet[8..]) + u64::from(length) + u64::from(ICMPV6)
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return None,
        };
        let start = packet.len();
        packet.put_slice(&self.message);
        packet[start + 2..start + 4].copy_from_slice(&[0, 0]);
        let sum = checksum(&packet[start..], pseudo);
        packet[start + 2..start + 4].copy_from_slice(&sum.to_be_bytes());
        Some(packet.freeze())
    }

    /// What a router at `router` answers to `original`, a packet whose hops are used up: time exceeded.
    pub fn time_exceeded(router: IpAddr, original: &Bytes) -> Option<Self> {
        let asked = Self::read(original)?;
        let (kind, quoted) = match asked.source {
            // The header and 64 bits (RFC 792); as much as fits into 1280 bytes (RFC 4443, 3.3).
            IpAddr::V4(_) => (11, usize::from(original.first()? & 0xf) * 4 + 8),
            IpAddr::V6(_) => (3, MIN_V6_MTU - V6_HEADER_BYTES - HEADER_BYTES),
        };
        let mut message = BytesMut::new();
        message.put_slice(&[kind, 0, 0, 0, 0, 0, 0, 0]);
        message.put_slice(&original[..quoted.min(original.len())]);
        Some(Self { source: router, destination: asked.source, hops: MAX_HOPS, message: message.freeze() })
    }
}

/// The Internet checksum (RFC 1071) of `bytes` and what else is summed.
fn checksum(bytes: &[u8], more: u64) -> u16 {
    let mut total = sum(bytes) + more;
    while total > 0xffff {
        total = (total >> 16) + (total & 0xffff);
    }
    !u16::try_from(total).unwrap_or(u16::MAX)
}

fn sum(bytes: &[u8]) -> u64 {
    let (pairs, rest) = bytes.as_chunks::<2>();
    let last = rest.first().map_or(0, |last| u64::from(*last) << 8);
    pairs.iter().map(|pair| u64::from(u16::from_be_bytes(*pair))).sum::<u64>() + last
}

/// Hops of a packet that begins its way (contract, 4.5).
pub const MAX_HOPS: u8 = 255;
/// Type, code, checksum, identifier, sequence number.
const HEADER_BYTES: usize = 8;
const V4_HEADER_BYTES: usize = 20;
const V6_HEADER_BYTES: usize = 40;
const MIN_V6_MTU: usize = 1280;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// Fuzz body: what is read of a packet is written to one that reads the same.
#[doc(hidden)]
pub fn fuzz_icmp(data: &[u8]) {
    let input = Bytes::copy_from_slice(data);
    let _ = behind_v4_header(&input);
    if let Some(packet) = Packet::read(&input) {
        if let Some(written) = packet.write() {
            let again =
                Packet::read(&written).map(|again| Packet { message: again.message.slice(4..), ..again });
            // The checksum may have been wrong before.
            assert_eq!(again, Some(Packet { message: packet.message.slice(4..), ..packet }));
        }
        let _ = Packet::time_exceeded(packet.destination, &input).and_then(|answer| answer.write());
    }
    for family in [Family::V4, Family::V6] {
        if let Some(echo) = Echo::request(family, &input) {
            assert_eq!(Echo::request(family, &echo.message(family).freeze()), Some(echo));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn echo(is_reply: bool) -> Echo {
        Echo { is_reply, id: 0x0102, sequence: 3, data: Bytes::from_static(b"ping") }
    }

    #[test]
    fn messages_are_these_bytes() {
        let request = echo(false).message(Family::V4).freeze();
        assert_eq!(&request[..], b"\x08\x00\x18\x2a\x01\x02\x00\x03ping");
        assert_eq!(Echo::request(Family::V4, &request), Some(echo(false)));
        assert_eq!(Echo::reply(Family::V4, &request), None);
        let reply = echo(true).message(Family::V6).freeze();
        assert_eq!(&reply[..], b"\x81\x00\x00\x00\x01\x02\x00\x03ping");
        assert_eq!(Echo::reply(Family::V6, &reply), Some(echo(true)));
        assert_eq!(echo(true).with_id(9).id, 9);
        assert_eq!(Echo::request(Family::V4, &request.slice(..7)), None);
    }

    fn packet(source: &str, destination: &str, family: Family) -> Packet {
        Packet {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            hops: 64,
            message: echo(false).message(family).freeze(),
        }
    }

    #[test]
    fn packets_are_these_bytes() {
        let v4 = packet("192.0.2.1", "198.51.100.1", Family::V4).write().unwrap();
        let expected: &[u8] =
            b"\x45\x00\x00\x20\x00\x00\x40\x00\x40\x01\x50\x8b\xc0\x00\x02\x01\xc6\x33\x64\x01\x08\x00\x18\x2a\x01\x02\x00\x03ping";
        assert_eq!(checksum(&v4[..20], 0), 0, "the header's checksum is right");
        assert_eq!(&v4[..10], &expected[..10]);
        assert_eq!(&v4[12..], &expected[12..]);
        assert_eq!(Packet::read(&v4), Some(packet("192.0.2.1", "198.51.100.1", Family::V4)));
        let v6 = packet("2001:db8::1", "2001:db8::2", Family::V6).write().unwrap();
        assert_eq!(&v6[..8], b"\x60\x00\x00\x00\x00\x0c\x3a\x40");
        let pseudo = sum(&v6[8..40]) + 12 + 58;
        assert_eq!(checksum(&v6[40..], pseudo), 0, "the message's checksum is right");
        assert_eq!(packet("192.0.2.1", "2001:db8::2", Family::V6).write(), None);
    }

    #[test]
    fn what_is_cut_or_a_fragment_or_no_icmp_is_not_read() {
        for whole in [
            packet("192.0.2.1", "198.51.100.1", Family::V4).write().unwrap(),
            packet("2001:db8::1", "2001:db8::2", Family::V6).write().unwrap(),
        ] {
            for length in 0..whole.len() {
                assert_eq!(Packet::read(&whole.slice(..length)), None, "{length}");
            }
        }
        let whole = packet("192.0.2.1", "198.51.100.1", Family::V4).write().unwrap();
        for (at, byte) in [(6, 0x20), (7, 1), (9, 17), (0, 0x44), (0, 0x55)] {
            let mut changed = whole.to_vec();
            changed[at] = byte;
            assert_eq!(Packet::read(&Bytes::from(changed)), None, "{at} {byte}");
        }
    }

    #[test]
    fn used_up_hops_are_answered_with_the_packet_s_beginning() {
        let v4 = packet("192.0.2.1", "198.51.100.1", Family::V4).write().unwrap();
        let answer = Packet::time_exceeded("203.0.113.1".parse().unwrap(), &v4).unwrap();
        assert_eq!(answer.destination, "192.0.2.1".parse::<IpAddr>().unwrap());
        assert_eq!(answer.message[0], 11);
        assert_eq!(answer.message[8..], v4[..28]);
        let v6 = packet("2001:db8::1", "2001:db8::2", Family::V6).write().unwrap();
        let answer = Packet::time_exceeded("2001:db8::9".parse().unwrap(), &v6).unwrap();
        assert_eq!((answer.message[0], &answer.message[8..]), (3, &v6[..]));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_packet_or_none(data in prop::collection::vec(any::<u8>(), 0..100)) {
            fuzz_icmp(&data);
        }

        #[test]
        fn any_echo_is_read_as_it_was_written(id: u16, sequence: u16, data: Vec<u8>, v6: bool, is_reply: bool) {
            let family = if v6 { Family::V6 } else { Family::V4 };
            let echo = Echo { is_reply, id, sequence, data: data.into() };
            let message = echo.message(family).freeze();
            let read = if is_reply { Echo::reply(family, &message) } else { Echo::request(family, &message) };
            prop_assert_eq!(read, Some(echo));
        }
    }
}
