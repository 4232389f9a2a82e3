//! Just enough of IPv4, IPv6, TCP, UDP and ICMP to sort packets, and to make those that answer them.
//!
//! Everything is read at fixed offsets after the lengths were checked once, in [`Packet::parse`] and in the parser of the
//! protocol inside. Checksums are not verified: packets come from the local kernel, which leaves them half done.

pub(crate) mod datagram;
pub(crate) mod icmp;
pub(crate) mod tcp;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// IPv4 header without options, in bytes. *RFC 791 § 3.1*.
pub(crate) const IPV4_HEADER: usize = 20;
/// IPv6 header, in bytes. *RFC 8200 § 3*.
pub(crate) const IPV6_HEADER: usize = 40;
/// The header of an IPv6 fragment, in bytes. *RFC 8200 § 4.5*.
const IPV6_FRAGMENT_HEADER: usize = 8;

pub(crate) const PROTOCOL_ICMP: u8 = 1;
pub(crate) const PROTOCOL_TCP: u8 = 6;
pub(crate) const PROTOCOL_UDP: u8 = 17;
const PROTOCOL_IPV6_FRAGMENT: u8 = 44;
pub(crate) const PROTOCOL_ICMPV6: u8 = 58;
/// Hop limit of packets that we make ourselves.
const HOP_LIMIT: u8 = 64;

/// Why a packet is none that we can use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unusable {
    /// Lengths, version or offsets do not add up.
    Malformed,
    /// Another transport protocol, or another ICMP message than an echo request.
    OtherProtocol,
    /// An address that cannot be an end of a flow: multicast, broadcast, unspecified; or port 0.
    Address,
}

/// An IP packet whose lengths were checked, and which is no fragment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Packet<'a> {
    /// The packet, cut to the length that its header claims.
    pub(crate) bytes: &'a [u8],
    pub(crate) header_len: usize,
    pub(crate) protocol: u8,
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
}

/// One piece of an IP packet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fragment<'a> {
    pub(crate) id: FragmentId,
    /// The IP header, without that of the fragment.
    pub(crate) header: &'a [u8],
    /// Where the piece goes in the packet's payload, in bytes.
    pub(crate) offset: usize,
    /// It is not the last piece.
    pub(crate) more: bool,
    pub(crate) payload: &'a [u8],
}

/// What the pieces of one packet have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FragmentId {
    source: IpAddr,
    destination: IpAddr,
    pub(crate) protocol: u8,
    identification: u32,
}

/// What an IP packet is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Parsed<'a> {
    Whole(Packet<'a>),
    Fragment(Fragment<'a>),
}

impl<'a> Packet<'a> {
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Parsed<'a>, Unusable> {
        match bytes.first().map(|byte| byte >> 4) {
            Some(4) => parse_ipv4(bytes),
            Some(6) => parse_ipv6(bytes),
            _ => Err(Unusable::Malformed),
        }
    }

    /// A packet that is no fragment.
    pub(crate) fn whole(bytes: &'a [u8]) -> Result<Self, Unusable> {
        match Self::parse(bytes)? {
            Parsed::Whole(packet) => Ok(packet),
            Parsed::Fragment(_) => Err(Unusable::Malformed),
        }
    }

    pub(crate) fn payload(&self) -> &'a [u8] {
        &self.bytes[self.header_len..]
    }

    /// Both ends can be those of a flow.
    pub(crate) fn check_addresses(&self) -> Result<(), Unusable> {
        if usable(self.source) && usable(self.destination) { Ok(()) } else { Err(Unusable::Address) }
    }
}

fn parse_ipv4(packet: &[u8]) -> Result<Parsed<'_>, Unusable> {
    if packet.len() < IPV4_HEADER {
        return Err(Unusable::Malformed);
    }
    let header_len = usize::from(packet[0] & 0x0f) * 4;
    let total = usize::from(be16(packet, 2));
    if header_len < IPV4_HEADER || total < header_len || total > packet.len() {
        return Err(Unusable::Malformed);
    }
    let bytes = &packet[..total];
    let source = Ipv4Addr::from(be32(bytes, 12)).into();
    let destination = Ipv4Addr::from(be32(bytes, 16)).into();
    let protocol = bytes[9];
    let (more, offset) = (bytes[6] & 0x20 != 0, usize::from(be16(bytes, 6) & 0x1fff) * 8);
    if !more && offset == 0 {
        return Ok(Parsed::Whole(Packet { bytes, header_len, protocol, source, destination }));
    }
    let (header, payload) = bytes.split_at(header_len);
    let identification = u32::from(be16(bytes, 4));
    let id = FragmentId { source, destination, protocol, identification };
    Ok(Parsed::Fragment(Fragment { id, header, offset, more, payload }))
}

fn parse_ipv6(packet: &[u8]) -> Result<Parsed<'_>, Unusable> {
    if packet.len() < IPV6_HEADER {
        return Err(Unusable::Malformed);
    }
    let total = IPV6_HEADER + usize::from(be16(packet, 4));
    if total > packet.len() {
        return Err(Unusable::Malformed);
    }
    let bytes = &packet[..total];
    let (source, destination) = (ipv6_address(bytes, 8), ipv6_address(bytes, 24));
    let protocol = bytes[6];
    // Other extension headers count as another protocol: no system puts them there by itself.
    if protocol != PROTOCOL_IPV6_FRAGMENT {
        return Ok(Parsed::Whole(Packet { bytes, header_len: IPV6_HEADER, protocol, source, destination }));
    }
    let (header, rest) = bytes.split_at(IPV6_HEADER);
    if rest.len() < IPV6_FRAGMENT_HEADER {
        return Err(Unusable::Malformed);
    }
    let id = FragmentId { source, destination, protocol: rest[0], identification: be32(rest, 4) };
    let (more, offset) = (rest[3] & 1 != 0, usize::from(be16(rest, 2) & 0xfff8));
    let payload = &rest[IPV6_FRAGMENT_HEADER..];
    Ok(Parsed::Fragment(Fragment { id, header, offset, more, payload }))
}

fn ipv6_address(bytes: &[u8], at: usize) -> IpAddr {
    let mut octets = [0; 16];
    octets.copy_from_slice(&bytes[at..at + 16]);
    IpAddr::V6(Ipv6Addr::from(octets))
}

fn usable(address: IpAddr) -> bool {
    !address.is_unspecified()
        && !address.is_multicast()
        && match address {
            IpAddr::V4(address) => !address.is_broadcast(),
            IpAddr::V6(_) => true,
        }
}

/// Length of the IP header that [`write_header`] makes for this family.
pub(crate) fn header_len(address: IpAddr) -> usize {
    if address.is_ipv4() { IPV4_HEADER } else { IPV6_HEADER }
}

/// Longest payload that one IP packet of this family can have, in bytes.
pub(crate) fn max_payload(address: IpAddr) -> usize {
    if address.is_ipv4() { usize::from(u16::MAX) - IPV4_HEADER } else { usize::from(u16::MAX) }
}

/// Writes the IP header of a packet with `payload_len` bytes behind it, and tells its own length. Both addresses are of
/// one family, and the payload is at most [`max_payload`] long.
pub(crate) fn write_header(
    buffer: &mut [u8],
    (from, to): (IpAddr, IpAddr),
    protocol: u8,
    payload_len: usize,
) -> usize {
    let length =
        |header: usize| u16::try_from(header + payload_len).expect("at most max_payload").to_be_bytes();
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let header = &mut buffer[..IPV4_HEADER];
            let [high, low] = length(IPV4_HEADER);
            // No identification; do not fragment.
            header[..12].copy_from_slice(&[0x45, 0, high, low, 0, 0, 0x40, 0, HOP_LIMIT, protocol, 0, 0]);
            header[12..16].copy_from_slice(&from.octets());
            header[16..20].copy_from_slice(&to.octets());
            let checksum = !fold(sum(header));
            header[10..12].copy_from_slice(&checksum.to_be_bytes());
            IPV4_HEADER
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let header = &mut buffer[..IPV6_HEADER];
            let [high, low] = length(0);
            header[..8].copy_from_slice(&[0x60, 0, 0, 0, high, low, protocol, HOP_LIMIT]);
            header[8..24].copy_from_slice(&from.octets());
            header[24..40].copy_from_slice(&to.octets());
            IPV6_HEADER
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {
            unreachable!("both addresses come from one packet")
        }
    }
}

/// A whole packet.
fn ip_packet(addresses: (IpAddr, IpAddr), protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; header_len(addresses.0)];
    write_header(&mut packet, addresses, protocol, payload.len());
    packet.extend_from_slice(payload);
    packet
}

/// *RFC 9293 § 3.1* and *RFC 8200 § 8.1*.
pub(crate) fn pseudo_header_sum((from, to): (IpAddr, IpAddr), protocol: u8, length: usize) -> u64 {
    let address = |address: IpAddr| match address {
        IpAddr::V4(address) => sum(&address.octets()),
        IpAddr::V6(address) => sum(&address.octets()),
    };
    address(from) + address(to) + u64::from(protocol) + length as u64
}

/// Sum of 16-bit words, not yet folded. *RFC 1071*.
pub(crate) fn sum(bytes: &[u8]) -> u64 {
    let mut words = bytes.chunks_exact(2);
    let whole: u64 = words.by_ref().map(|word| u64::from(be16(word, 0))).sum();
    whole + words.remainder().first().map_or(0, |&last| u64::from(last) << 8)
}

pub(crate) fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).expect("folded below 2^16")
}

fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fragments_tell_where_they_belong() {
        let addresses = ("10.0.0.2".parse().unwrap(), "198.51.100.101".parse().unwrap());
        let mut packet = ip_packet(addresses, PROTOCOL_UDP, &[7; 24]);
        packet[4..8].copy_from_slice(&[0x12, 0x34, 0x20, 3]);
        let Ok(Parsed::Fragment(fragment)) = Packet::parse(&packet) else { panic!("a fragment") };
        assert_eq!((fragment.offset, fragment.more, fragment.payload), (24, true, &[7; 24][..]));
        assert_eq!((fragment.id.identification, fragment.id.protocol), (0x1234, PROTOCOL_UDP));
        assert_eq!(Packet::whole(&packet).unwrap_err(), Unusable::Malformed);

        let addresses = ("fd00:ad17::2".parse().unwrap(), "2001:db8::101".parse().unwrap());
        let piece = [PROTOCOL_UDP, 0, 0, 24, 0, 0, 0x12, 0x34, 7, 7, 7];
        let packet = ip_packet(addresses, PROTOCOL_IPV6_FRAGMENT, &piece);
        let Ok(Parsed::Fragment(fragment)) = Packet::parse(&packet) else { panic!("a fragment") };
        assert_eq!((fragment.offset, fragment.more, fragment.payload), (24, false, &[7; 3][..]));
        assert_eq!((fragment.id.identification, fragment.id.protocol), (0x1234, PROTOCOL_UDP));
        assert_eq!(fragment.header.len(), IPV6_HEADER);
        assert_eq!(Packet::parse(&packet[..46]).unwrap_err(), Unusable::Malformed);
    }
}
