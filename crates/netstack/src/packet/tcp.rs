//! TCP segments: what is read of them before TCP sees them, and the reset that refuses one.

use std::net::SocketAddr;

use super::icmp::{self, Unreachable};
use super::{PROTOCOL_TCP, Packet, Unusable, be16, be32, fold, ip_packet, pseudo_header_sum};

/// TCP header without options, in bytes. *RFC 9293 § 3.1*.
pub(crate) const TCP_HEADER: usize = 20;
/// Where the TCP header keeps its checksum.
pub(crate) const TCP_CHECKSUM_OFFSET: usize = 16;

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

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
    pub(crate) fn parse(packet: &Packet<'a>) -> Result<Self, Unusable> {
        if packet.protocol != PROTOCOL_TCP {
            return Err(Unusable::OtherProtocol);
        }
        let tcp = packet.payload();
        if tcp.len() < TCP_HEADER {
            return Err(Unusable::Malformed);
        }
        let tcp_header = usize::from(tcp[12] >> 4) * 4;
        if tcp_header < TCP_HEADER || tcp_header > tcp.len() {
            return Err(Unusable::Malformed);
        }
        let (source_port, destination_port) = (be16(tcp, 0), be16(tcp, 2));
        packet.check_addresses()?;
        if source_port == 0 || destination_port == 0 {
            return Err(Unusable::Address);
        }
        Ok(Self {
            packet: packet.bytes,
            source: SocketAddr::new(packet.source, source_port),
            destination: SocketAddr::new(packet.destination, destination_port),
            ip_header: packet.header_len,
            tcp_header,
        })
    }

    /// The segment of a packet that was kept.
    pub(crate) fn of(packet: &'a [u8]) -> Result<Self, Unusable> {
        Self::parse(&Packet::whole(packet)?)
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
        ip_packet((self.destination.ip(), self.source.ip()), PROTOCOL_TCP, &tcp)
    }

    /// The ICMP or ICMPv6 error that answers this segment.
    pub(crate) fn unreachable(&self, reason: Unreachable) -> Vec<u8> {
        icmp::error((self.source.ip(), self.destination.ip()), self.packet, reason)
    }
}

/// Puts the pseudo-header's sum into the checksum field of an outgoing TCP packet, which is where a device with
/// checksum offload starts from, and tells the lengths of its IP header and of all its headers. Nothing if it is not TCP:
/// then its checksums are whole already.
pub(crate) fn start_tcp_checksum(packet: &mut [u8]) -> Option<(usize, usize)> {
    let (ip_header, header_len, pseudo) = {
        let segment = Segment::of(packet).ok()?;
        let length = segment.packet.len() - segment.ip_header;
        (
            segment.ip_header,
            segment.header_len(),
            pseudo_header_sum((segment.source.ip(), segment.destination.ip()), PROTOCOL_TCP, length),
        )
    };
    let at = ip_header + TCP_CHECKSUM_OFFSET;
    packet[at..at + 2].copy_from_slice(&fold(pseudo).to_be_bytes());
    Some((ip_header, header_len))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SYN of 10.0.0.2:40000 to 198.51.100.101:6443, sequence 1000, MSS 65480.
    fn syn_v4() -> Vec<u8> {
        let mut tcp =
            vec![0x9c, 0x40, 0x19, 0x2b, 0, 0, 3, 0xe8, 0, 0, 0, 0, 0x60, 0x02, 0xff, 0xff, 0, 0, 0, 0];
        tcp.extend_from_slice(&[2, 4, 0xff, 0xc8]);
        ip_packet(("10.0.0.2".parse().unwrap(), "198.51.100.101".parse().unwrap()), PROTOCOL_TCP, &tcp)
    }

    #[test]
    fn a_syn_is_read_at_its_offsets() {
        let packet = syn_v4();
        let segment = Segment::of(&packet).unwrap();
        assert!(segment.opens() && !segment.resets());
        assert_eq!(segment.source, "10.0.0.2:40000".parse().unwrap());
        assert_eq!(segment.destination, "198.51.100.101:6443".parse().unwrap());
        assert_eq!(segment.max_segment_size(), 65480);
        assert_eq!(segment.payload_len(), 0);
    }

    #[test]
    fn a_refusal_by_reset_acknowledges_the_syn() {
        let packet = syn_v4();
        let reset = Segment::of(&packet).unwrap().reset();
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
    fn what_is_not_a_segment_says_why() {
        #[track_caller]
        fn check(change: impl Fn(&mut Vec<u8>), expected: Unusable) {
            let mut packet = syn_v4();
            change(&mut packet);
            assert_eq!(Segment::of(&packet).unwrap_err(), expected);
        }
        check(Vec::clear, Unusable::Malformed);
        check(|packet| packet.truncate(30), Unusable::Malformed);
        check(|packet| packet[0] = 0x4f, Unusable::Malformed);
        check(|packet| packet[2] = 0xff, Unusable::Malformed);
        check(|packet| packet[32] = 0xf0, Unusable::Malformed);
        check(|packet| packet[32] = 0x10, Unusable::Malformed);
        check(|packet| packet[6] = 0x20, Unusable::Malformed);
        check(|packet| packet[9] = 17, Unusable::OtherProtocol);
        check(|packet| packet[16] = 224, Unusable::Address);
        check(|packet| packet[12..16].fill(0), Unusable::Address);
        check(|packet| packet[22..24].fill(0), Unusable::Address);
    }
}
