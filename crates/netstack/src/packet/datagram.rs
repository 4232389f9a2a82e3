//! UDP datagrams and ICMP echo requests, which are flows of datagrams alike.

use std::net::{IpAddr, SocketAddr};

use adit_model::Protocol;

use super::{
    PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_UDP, Packet, Unusable, be16, fold, icmp, max_payload,
    pseudo_header_sum, write_header,
};

/// UDP header, in bytes. *RFC 768*.
pub(crate) const UDP_HEADER: usize = 8;
/// Where the UDP header keeps its checksum.
pub(crate) const UDP_CHECKSUM_OFFSET: usize = 6;

/// A datagram inside an IP packet whose lengths were checked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Datagram<'a> {
    /// The IP packet.
    pub(crate) packet: &'a [u8],
    pub(crate) protocol: Protocol,
    /// The port of an echo request is its identifier.
    pub(crate) source: SocketAddr,
    /// The port of an echo request is 0.
    pub(crate) destination: SocketAddr,
    /// What UDP carries; the whole of an ICMP message.
    pub(crate) payload: &'a [u8],
}

impl<'a> Datagram<'a> {
    pub(crate) fn parse(packet: &Packet<'a>) -> Result<Self, Unusable> {
        match (packet.protocol, packet.source) {
            (PROTOCOL_UDP, _) => Self::parse_udp(packet),
            (PROTOCOL_ICMP, IpAddr::V4(_)) | (PROTOCOL_ICMPV6, IpAddr::V6(_)) => Self::parse_echo(packet),
            _ => Err(Unusable::OtherProtocol),
        }
    }

    fn parse_udp(packet: &Packet<'a>) -> Result<Self, Unusable> {
        let udp = packet.payload();
        if udp.len() < UDP_HEADER {
            return Err(Unusable::Malformed);
        }
        let length = usize::from(be16(udp, 4));
        if length < UDP_HEADER || length > udp.len() {
            return Err(Unusable::Malformed);
        }
        let (source_port, destination_port) = (be16(udp, 0), be16(udp, 2));
        packet.check_addresses()?;
        if source_port == 0 || destination_port == 0 {
            return Err(Unusable::Address);
        }
        Ok(Self {
            packet: packet.bytes,
            protocol: Protocol::Udp,
            source: SocketAddr::new(packet.source, source_port),
            destination: SocketAddr::new(packet.destination, destination_port),
            payload: &udp[UDP_HEADER..length],
        })
    }

    fn parse_echo(packet: &Packet<'a>) -> Result<Self, Unusable> {
        let message = packet.payload();
        let identifier = icmp::echo_request(packet.source, message).ok_or(Unusable::OtherProtocol)?;
        packet.check_addresses()?;
        Ok(Self {
            packet: packet.bytes,
            protocol: Protocol::Icmp,
            source: SocketAddr::new(packet.source, identifier),
            destination: SocketAddr::new(packet.destination, 0),
            payload: message,
        })
    }
}

/// Longest datagram that one IP packet of this family can have, in bytes.
pub(crate) fn max_datagram(protocol: Protocol, address: IpAddr) -> usize {
    max_payload(address) - if protocol == Protocol::Udp { UDP_HEADER } else { 0 }
}

/// Writes a UDP packet whose checksum field holds the pseudo-header's sum, and tells its length.
pub(crate) fn write_udp(buffer: &mut [u8], from: SocketAddr, to: SocketAddr, payload: &[u8]) -> usize {
    let addresses = (from.ip(), to.ip());
    let length = UDP_HEADER + payload.len();
    let header = write_header(buffer, addresses, PROTOCOL_UDP, length);
    let udp = &mut buffer[header..header + length];
    let pseudo = fold(pseudo_header_sum(addresses, PROTOCOL_UDP, length));
    let length_field = u16::try_from(length).expect("at most max_payload");
    udp[0..2].copy_from_slice(&from.port().to_be_bytes());
    udp[2..4].copy_from_slice(&to.port().to_be_bytes());
    udp[4..6].copy_from_slice(&length_field.to_be_bytes());
    udp[6..8].copy_from_slice(&pseudo.to_be_bytes());
    udp[UDP_HEADER..].copy_from_slice(payload);
    header + length
}

#[cfg(test)]
mod tests {
    use super::super::ip_packet;
    use super::*;

    /// A query of 100.96.0.2:40000 to 198.51.100.53:53.
    fn query() -> Vec<u8> {
        let addresses = ("100.96.0.2".parse().unwrap(), "198.51.100.53".parse().unwrap());
        let udp = [0x9c, 0x40, 0, 53, 0, 11, 0, 0, 1, 2, 3];
        ip_packet(addresses, PROTOCOL_UDP, &udp)
    }

    fn parse(packet: &[u8]) -> Result<Datagram<'_>, Unusable> {
        Datagram::parse(&Packet::whole(packet)?)
    }

    #[test]
    fn a_udp_datagram_is_read_at_its_offsets() {
        let packet = query();
        let datagram = parse(&packet).unwrap();
        assert_eq!(datagram.protocol, Protocol::Udp);
        assert_eq!(datagram.source, "100.96.0.2:40000".parse().unwrap());
        assert_eq!(datagram.destination, "198.51.100.53:53".parse().unwrap());
        assert_eq!(datagram.payload, [1, 2, 3]);
    }

    #[test]
    fn an_echo_request_is_read_at_its_offsets() {
        for (source, destination, protocol, kind) in [
            ("100.96.0.2", "198.51.100.101", PROTOCOL_ICMP, 8),
            ("fd00:ad17::2", "2001:db8::101", PROTOCOL_ICMPV6, 128),
        ] {
            let addresses = (source.parse().unwrap(), destination.parse().unwrap());
            let message = [kind, 0, 0xaa, 0xbb, 0x12, 0x34, 0, 1, b'x'];
            let packet = ip_packet(addresses, protocol, &message);
            let datagram = parse(&packet).unwrap();
            assert_eq!(datagram.protocol, Protocol::Icmp);
            assert_eq!(datagram.source, SocketAddr::new(addresses.0, 0x1234));
            assert_eq!(datagram.destination, SocketAddr::new(addresses.1, 0));
            assert_eq!(datagram.payload, message);
        }
    }

    #[test]
    fn what_is_not_a_datagram_says_why() {
        #[track_caller]
        fn check(change: impl Fn(&mut Vec<u8>), expected: Unusable) {
            let mut packet = query();
            change(&mut packet);
            assert_eq!(parse(&packet).unwrap_err(), expected);
        }
        check(|packet| packet[2..4].copy_from_slice(&[0, 27]), Unusable::Malformed);
        check(|packet| packet[24..26].copy_from_slice(&[0, 12]), Unusable::Malformed);
        check(|packet| packet[24..26].copy_from_slice(&[0, 7]), Unusable::Malformed);
        check(|packet| packet[9] = 132, Unusable::OtherProtocol);
        check(|packet| packet[9] = PROTOCOL_ICMP, Unusable::OtherProtocol);
        check(|packet| packet[9] = PROTOCOL_ICMPV6, Unusable::OtherProtocol);
        check(|packet| packet[16] = 224, Unusable::Address);
        check(|packet| packet[20..22].fill(0), Unusable::Address);
        check(|packet| packet[22..24].fill(0), Unusable::Address);
    }

    #[test]
    fn a_written_udp_packet_is_golden() {
        let mut buffer = [0; 64];
        let from = "198.51.100.53:53".parse().unwrap();
        let len = write_udp(&mut buffer, from, "100.96.0.2:40000".parse().unwrap(), &[1, 2, 3]);
        assert_eq!(
            buffer[..len],
            [
                0x45, 0, 0, 31, 0, 0, 0x40, 0, 64, 17, 0xac, 0x03, 198, 51, 100, 53, 100, 96, 0,
                2, // IPv4
                0, 53, 0x9c, 0x40, 0, 11, 0x8e, 0xe7, 1, 2, 3, // UDP, and the sum of its pseudo-header
            ]
        );
        assert_eq!(parse(&buffer[..len]).unwrap().payload, [1, 2, 3]);
    }
}
