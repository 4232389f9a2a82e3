//! Just enough of IPv4, IPv6, TCP and ICMP to sort packets before TCP sees them and to refuse a connection.
//!
//! Everything is read at fixed offsets after the lengths were checked once, in [`Segment::parse`]. TCP checksums are
//! not verified: packets come from the local kernel, which leaves them half done.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// IPv4 header without options, in bytes. *RFC 791 § 3.1*.
pub(crate) const IPV4_HEADER: usize = 20;
/// IPv6 header, in bytes. *RFC 8200 § 3*.
pub(crate) const IPV6_HEADER: usize = 40;
/// TCP header without options, in bytes. *RFC 9293 § 3.1*.
pub(crate) const TCP_HEADER: usize = 20;
/// Where the TCP header keeps its checksum.
pub(crate) const TCP_CHECKSUM_OFFSET: usize = 16;

const PROTOCOL_ICMP: u8 = 1;
const PROTOCOL_TCP: u8 = 6;
const PROTOCOL_ICMPV6: u8 = 58;
/// Hop limit of packets that we make ourselves.
const HOP_LIMIT: u8 = 64;
/// An ICMPv6 error must fit the minimum MTU (*RFC 4443 § 2.4 (c)*); a SYN is far below either limit.
const MAX_ICMP_QUOTE: usize = 512;

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// Why a packet is not a TCP segment that we can use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotASegment {
    /// Lengths, version or offsets do not add up.
    Malformed,
    /// An IP fragment.
    Fragment,
    /// Another transport protocol.
    OtherProtocol,
    /// An address that cannot be an end of a TCP connection: multicast, broadcast, unspecified; or port 0.
    Address,
}

/// A TCP segment inside an IP packet whose lengths were checked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Segment<'a> {
    /// The IP packet, cut to the length that its header claims.
    pub(crate) packet: &'a [u8],
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
    ip_header: usize,
    tcp_header: usize,
}

impl<'a> Segment<'a> {
    pub(crate) fn parse(packet: &'a [u8]) -> Result<Self, NotASegment> {
        let (packet, ip_header, protocol, source, destination) = match packet.first().map(|byte| byte >> 4) {
            Some(4) => parse_ipv4(packet)?,
            Some(6) => parse_ipv6(packet)?,
            _ => return Err(NotASegment::Malformed),
        };
        if protocol != PROTOCOL_TCP {
            return Err(NotASegment::OtherProtocol);
        }
        let tcp = &packet[ip_header..];
        if tcp.len() < TCP_HEADER {
            return Err(NotASegment::Malformed);
        }
        let tcp_header = usize::from(tcp[12] >> 4) * 4;
        if tcp_header < TCP_HEADER || tcp_header > tcp.len() {
            return Err(NotASegment::Malformed);
        }
        let (source_port, destination_port) = (be16(tcp, 0), be16(tcp, 2));
        if !usable(source) || !usable(destination) || source_port == 0 || destination_port == 0 {
            return Err(NotASegment::Address);
        }
        Ok(Self {
            packet,
            source: SocketAddr::new(source, source_port),
            destination: SocketAddr::new(destination, destination_port),
            ip_header,
            tcp_header,
        })
    }

    fn tcp(&self) -> &'a [u8] {
        &self.packet[self.ip_header..]
    }

    fn flags(&self) -> u8 {
        self.tcp()[13]
    }

    fn sequence(&self) -> u32 {
        be32(self.tcp(), 4)
    }

    fn acknowledgement(&self) -> u32 {
        be32(self.tcp(), 8)
    }

    /// A SYN that asks for a new connection.
    pub(crate) fn opens(&self) -> bool {
        self.flags() & (SYN | ACK | RST | FIN) == SYN
    }

    pub(crate) fn resets(&self) -> bool {
        self.flags() & RST != 0
    }

    /// Length of the IP and TCP headers together.
    pub(crate) fn header_len(&self) -> usize {
        self.ip_header + self.tcp_header
    }

    pub(crate) fn payload_len(&self) -> usize {
        self.packet.len() - self.header_len()
    }

    /// The maximum segment size option of a SYN, or the protocol's default. *RFC 9293 § 3.7.1*.
    pub(crate) fn max_segment_size(&self) -> u16 {
        let mut options = &self.tcp()[TCP_HEADER..self.tcp_header];
        while let Some((&kind, rest)) = options.split_first() {
            match kind {
                0 => break,
                1 => options = rest,
                _ => {
                    let Some(&len) = rest.first() else { break };
                    let len = usize::from(len);
                    if len < 2 || len > options.len() {
                        break;
                    }
                    if kind == 2 && len == 4 {
                        return be16(options, 2);
                    }
                    options = &options[len..];
                }
            }
        }
        if self.source.is_ipv4() { 536 } else { 1220 }
    }

    /// The reset that answers this segment, with its TCP checksum still missing. *RFC 9293 § 3.5.2*.
    pub(crate) fn reset(&self) -> Vec<u8> {
        let (sequence, acknowledgement, flags) = if self.flags() & ACK == 0 {
            let length = self.payload_len()
                + usize::from(self.flags() & SYN != 0)
                + usize::from(self.flags() & FIN != 0);
            let length = u32::try_from(length).expect("an IP packet is shorter than 4 GiB");
            (0, self.sequence().wrapping_add(length), RST | ACK)
        } else {
            (self.acknowledgement(), 0, RST)
        };
        let mut tcp = [0; TCP_HEADER];
        tcp[0..2].copy_from_slice(&self.destination.port().to_be_bytes());
        tcp[2..4].copy_from_slice(&self.source.port().to_be_bytes());
        tcp[4..8].copy_from_slice(&sequence.to_be_bytes());
        tcp[8..12].copy_from_slice(&acknowledgement.to_be_bytes());
        tcp[12] = 5 << 4;
        tcp[13] = flags;
        ip_packet(self.destination.ip(), self.source.ip(), PROTOCOL_TCP, &tcp)
    }

    /// The ICMP or ICMPv6 destination unreachable that answers this segment, from the destination's own address: that
    /// is the one source that the device's route to the TUN certainly covers.
    pub(crate) fn unreachable(&self, reason: Unreachable) -> Vec<u8> {
        let quote = &self.packet[..self.packet.len().min(MAX_ICMP_QUOTE)];
        let mut icmp = Vec::with_capacity(8 + quote.len());
        let (from, to) = (self.destination.ip(), self.source.ip());
        let (kind, code) = match (from, reason) {
            // RFC 792; RFC 1812 § 5.2.7.1 for the code of a filter.
            (IpAddr::V4(_), Unreachable::Host) => (3, 1),
            (IpAddr::V4(_), Unreachable::Prohibited) => (3, 13),
            // RFC 4443 § 3.1.
            (IpAddr::V6(_), Unreachable::Host) => (1, 3),
            (IpAddr::V6(_), Unreachable::Prohibited) => (1, 1),
        };
        icmp.extend_from_slice(&[kind, code, 0, 0, 0, 0, 0, 0]);
        icmp.extend_from_slice(quote);
        let (protocol, pseudo) = match from {
            IpAddr::V4(_) => (PROTOCOL_ICMP, 0),
            IpAddr::V6(_) => (PROTOCOL_ICMPV6, pseudo_header_sum(from, to, PROTOCOL_ICMPV6, icmp.len())),
        };
        let checksum = !fold(pseudo + sum(&icmp));
        icmp[2..4].copy_from_slice(&checksum.to_be_bytes());
        ip_packet(from, to, protocol, &icmp)
    }
}

/// Which kind of destination unreachable a refused connection is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unreachable {
    Host,
    Prohibited,
}

/// Puts the pseudo-header's sum into the checksum field of an outgoing TCP packet, which is where a device with
/// checksum offload starts from. False if it is not TCP: then its checksums are whole already.
pub(crate) fn start_tcp_checksum(packet: &mut [u8]) -> Option<(usize, usize)> {
    let (ip_header, header_len, pseudo) = {
        let segment = Segment::parse(packet).ok()?;
        let length = segment.packet.len() - segment.ip_header;
        (
            segment.ip_header,
            segment.header_len(),
            pseudo_header_sum(segment.source.ip(), segment.destination.ip(), PROTOCOL_TCP, length),
        )
    };
    let at = ip_header + TCP_CHECKSUM_OFFSET;
    packet[at..at + 2].copy_from_slice(&fold(pseudo).to_be_bytes());
    Some((ip_header, header_len))
}

type Parsed<'a> = (&'a [u8], usize, u8, IpAddr, IpAddr);

fn parse_ipv4(packet: &[u8]) -> Result<Parsed<'_>, NotASegment> {
    if packet.len() < IPV4_HEADER {
        return Err(NotASegment::Malformed);
    }
    let header = usize::from(packet[0] & 0x0f) * 4;
    let total = usize::from(be16(packet, 2));
    if header < IPV4_HEADER || total < header || total > packet.len() {
        return Err(NotASegment::Malformed);
    }
    // More fragments, or an offset.
    if be16(packet, 6) & 0x3fff != 0 {
        return Err(NotASegment::Fragment);
    }
    let source = Ipv4Addr::from(be32(packet, 12));
    let destination = Ipv4Addr::from(be32(packet, 16));
    Ok((&packet[..total], header, packet[9], source.into(), destination.into()))
}

fn parse_ipv6(packet: &[u8]) -> Result<Parsed<'_>, NotASegment> {
    if packet.len() < IPV6_HEADER {
        return Err(NotASegment::Malformed);
    }
    let total = IPV6_HEADER + usize::from(be16(packet, 4));
    if total > packet.len() {
        return Err(NotASegment::Malformed);
    }
    let address = |at: usize| {
        let mut octets = [0; 16];
        octets.copy_from_slice(&packet[at..at + 16]);
        IpAddr::V6(Ipv6Addr::from(octets))
    };
    // Extension headers count as another protocol: no system puts them in front of TCP by itself.
    Ok((&packet[..total], IPV6_HEADER, packet[6], address(8), address(24)))
}

fn usable(address: IpAddr) -> bool {
    !address.is_unspecified()
        && !address.is_multicast()
        && match address {
            IpAddr::V4(address) => !address.is_broadcast(),
            IpAddr::V6(_) => true,
        }
}

fn ip_packet(from: IpAddr, to: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = |header: usize| u16::try_from(header + payload.len()).expect("we make only small packets");
    let mut packet = Vec::with_capacity(IPV6_HEADER + payload.len());
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            packet.extend_from_slice(&[0x45, 0]);
            packet.extend_from_slice(&length(IPV4_HEADER).to_be_bytes());
            // No identification; do not fragment.
            packet.extend_from_slice(&[0, 0, 0x40, 0, HOP_LIMIT, protocol, 0, 0]);
            packet.extend_from_slice(&from.octets());
            packet.extend_from_slice(&to.octets());
            let checksum = !fold(sum(&packet));
            packet[10..12].copy_from_slice(&checksum.to_be_bytes());
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            packet.extend_from_slice(&[0x60, 0, 0, 0]);
            packet.extend_from_slice(&length(0).to_be_bytes());
            packet.extend_from_slice(&[protocol, HOP_LIMIT]);
            packet.extend_from_slice(&from.octets());
            packet.extend_from_slice(&to.octets());
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {
            unreachable!("both addresses come from one packet")
        }
    }
    packet.extend_from_slice(payload);
    packet
}

/// *RFC 9293 § 3.1* and *RFC 8200 § 8.1*.
pub(crate) fn pseudo_header_sum(from: IpAddr, to: IpAddr, protocol: u8, length: usize) -> u64 {
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

    /// SYN of 10.0.0.2:40000 to 198.51.100.101:6443, sequence 1000, MSS 65480.
    fn syn_v4() -> Vec<u8> {
        let mut tcp =
            vec![0x9c, 0x40, 0x19, 0x2b, 0, 0, 3, 0xe8, 0, 0, 0, 0, 0x60, 0x02, 0xff, 0xff, 0, 0, 0, 0];
        tcp.extend_from_slice(&[2, 4, 0xff, 0xc8]);
        ip_packet("10.0.0.2".parse().unwrap(), "198.51.100.101".parse().unwrap(), PROTOCOL_TCP, &tcp)
    }

    fn syn_v6() -> Vec<u8> {
        let mut tcp =
            vec![0x9c, 0x40, 0x19, 0x2b, 0, 0, 3, 0xe8, 0, 0, 0, 0, 0x60, 0x02, 0xff, 0xff, 0, 0, 0, 0];
        tcp.extend_from_slice(&[2, 4, 0xff, 0xb4]);
        ip_packet("fd00:ad17::2".parse().unwrap(), "2001:db8::101".parse().unwrap(), PROTOCOL_TCP, &tcp)
    }

    #[test]
    fn a_syn_is_read_at_its_offsets() {
        let packet = syn_v4();
        let segment = Segment::parse(&packet).unwrap();
        assert!(segment.opens() && !segment.resets());
        assert_eq!(segment.source, "10.0.0.2:40000".parse().unwrap());
        assert_eq!(segment.destination, "198.51.100.101:6443".parse().unwrap());
        assert_eq!(segment.max_segment_size(), 65480);
        assert_eq!(segment.payload_len(), 0);
    }

    #[test]
    fn a_refusal_by_reset_acknowledges_the_syn() {
        let packet = syn_v4();
        let reset = Segment::parse(&packet).unwrap().reset();
        // Golden: IPv4 header with checksum, RST+ACK of sequence 1001.
        assert_eq!(
            reset,
            [
                0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0x06, 0x36, 198, 51, 100, 101, 10, 0, 0,
                2, // IPv4
                0x19, 0x2b, 0x9c, 0x40, 0, 0, 0, 0, 0, 0, 3, 0xe9, 0x50, 0x14, 0, 0, 0, 0, 0, 0, // TCP
            ]
        );
    }

    #[test]
    fn icmp_errors_quote_the_syn_and_carry_right_checksums() {
        for (packet, code) in [(syn_v4(), [3, 1]), (syn_v6(), [1, 3])] {
            let segment = Segment::parse(&packet).unwrap();
            let error = segment.unreachable(Unreachable::Host);
            let header = if segment.source.is_ipv4() { IPV4_HEADER } else { IPV6_HEADER };
            let icmp = &error[header..];
            assert_eq!(icmp[..2], code);
            assert_eq!(&icmp[8..], &packet[..]);
            let pseudo = match segment.source.ip() {
                IpAddr::V4(_) => 0,
                IpAddr::V6(_) => pseudo_header_sum(
                    segment.destination.ip(),
                    segment.source.ip(),
                    PROTOCOL_ICMPV6,
                    icmp.len(),
                ),
            };
            assert_eq!(fold(pseudo + sum(icmp)), 0xffff);
            if segment.source.is_ipv4() {
                assert_eq!(fold(sum(&error[..IPV4_HEADER])), 0xffff);
            }
        }
    }

    #[test]
    fn what_is_not_a_segment_says_why() {
        #[track_caller]
        fn check(change: impl Fn(&mut Vec<u8>), expected: NotASegment) {
            let mut packet = syn_v4();
            change(&mut packet);
            assert_eq!(Segment::parse(&packet).unwrap_err(), expected);
        }
        check(Vec::clear, NotASegment::Malformed);
        check(|packet| packet.truncate(30), NotASegment::Malformed);
        check(|packet| packet[0] = 0x4f, NotASegment::Malformed);
        check(|packet| packet[2] = 0xff, NotASegment::Malformed);
        check(|packet| packet[32] = 0xf0, NotASegment::Malformed);
        check(|packet| packet[32] = 0x10, NotASegment::Malformed);
        check(|packet| packet[6] = 0x20, NotASegment::Fragment);
        check(|packet| packet[9] = 17, NotASegment::OtherProtocol);
        check(|packet| packet[16] = 224, NotASegment::Address);
        check(|packet| packet[12..16].fill(0), NotASegment::Address);
        check(|packet| packet[22..24].fill(0), NotASegment::Address);
    }
}
