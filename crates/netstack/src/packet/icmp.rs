//! ICMP and ICMPv6 messages: the errors that tell a program why its packet went no further, and echo replies.

use std::net::IpAddr;

use super::{PROTOCOL_ICMP, PROTOCOL_ICMPV6, fold, ip_packet, pseudo_header_sum, sum, write_header};

/// Header of every ICMP message, in bytes. *RFC 792*, *RFC 4443 § 2.1*.
pub(crate) const ICMP_HEADER: usize = 8;
/// How much of the packet that it is about an error quotes, in bytes: as much as fits into what every host takes (IPv4: 576
/// bytes, *RFC 1812 § 4.3.2.3*; an ICMPv6 error must fit the minimum MTU, *RFC 4443 § 2.4 (c)*).
pub(crate) const MAX_QUOTE: usize = 512;

const ECHO_REQUEST: u8 = 8;
const ECHO_REPLY: u8 = 0;
const ECHO_REQUEST_V6: u8 = 128;
const ECHO_REPLY_V6: u8 = 129;

/// What is wrong with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unreachable {
    Port,
    Host,
    Prohibited,
    /// Longer than what the path carries, which is this many bytes.
    TooBig {
        mtu: u16,
    },
}

impl Unreachable {
    /// Type, code, and the last four bytes of the header.
    fn header(self, v4: bool) -> [u8; ICMP_HEADER] {
        let (kind, code, mtu) = match (self, v4) {
            // RFC 792; RFC 1812 § 5.2.7.1 for the code of a filter; RFC 1191 § 4 for the MTU.
            (Self::Port, true) => (3, 3, 0),
            (Self::Host, true) => (3, 1, 0),
            (Self::Prohibited, true) => (3, 13, 0),
            (Self::TooBig { mtu }, true) => (3, 4, mtu),
            // RFC 4443 § 3.1 and § 3.2.
            (Self::Port, false) => (1, 4, 0),
            (Self::Host, false) => (1, 3, 0),
            (Self::Prohibited, false) => (1, 1, 0),
            (Self::TooBig { mtu }, false) => (2, 0, mtu),
        };
        let [high, low] = mtu.to_be_bytes();
        [kind, code, 0, 0, 0, 0, high, low]
    }
}

/// The error about a packet that went between `addresses` (source, destination), of which `quote` is the beginning.
///
/// It comes from the destination's own address: that is the one source that the device's route to the TUN certainly
/// covers.
pub(crate) fn error((source, destination): (IpAddr, IpAddr), quote: &[u8], reason: Unreachable) -> Vec<u8> {
    let mut message = reason.header(source.is_ipv4()).to_vec();
    message.extend_from_slice(&quote[..quote.len().min(MAX_QUOTE)]);
    let addresses = (destination, source);
    set_checksum(addresses, &mut message);
    ip_packet(addresses, protocol(source), &message)
}

/// Whether `message` begins like an echo request, and its identifier.
pub(crate) fn echo_request(address: IpAddr, message: &[u8]) -> Option<u16> {
    let kind = if address.is_ipv4() { ECHO_REQUEST } else { ECHO_REQUEST_V6 };
    (message.len() >= ICMP_HEADER && message[..2] == [kind, 0])
        .then(|| u16::from_be_bytes([message[4], message[5]]))
}

/// Whether `message` begins like an echo reply.
pub(crate) fn is_echo_reply(address: IpAddr, message: &[u8]) -> bool {
    let kind = if address.is_ipv4() { ECHO_REPLY } else { ECHO_REPLY_V6 };
    message.len() >= ICMP_HEADER && message[..2] == [kind, 0]
}

/// Writes the packet that brings an echo reply, made to carry `identifier`, and tells its length.
pub(crate) fn write_echo_reply(
    buffer: &mut [u8],
    addresses: (IpAddr, IpAddr),
    identifier: u16,
    message: &[u8],
) -> usize {
    let header = write_header(buffer, addresses, protocol(addresses.0), message.len());
    let end = header + message.len();
    let written = &mut buffer[header..end];
    written.copy_from_slice(message);
    written[4..6].copy_from_slice(&identifier.to_be_bytes());
    set_checksum(addresses, written);
    end
}

fn set_checksum(addresses: (IpAddr, IpAddr), message: &mut [u8]) {
    message[2..4].fill(0);
    let pseudo = match addresses.0 {
        IpAddr::V4(_) => 0,
        IpAddr::V6(_) => pseudo_header_sum(addresses, PROTOCOL_ICMPV6, message.len()),
    };
    let checksum = !fold(pseudo + sum(message));
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
}

fn protocol(address: IpAddr) -> u8 {
    if address.is_ipv4() { PROTOCOL_ICMP } else { PROTOCOL_ICMPV6 }
}

#[cfg(test)]
mod tests {
    use super::super::{IPV4_HEADER, IPV6_HEADER, PROTOCOL_UDP};
    use super::*;

    const V4: (&str, &str) = ("100.96.0.2", "198.51.100.101");
    const V6: (&str, &str) = ("fd00:ad17::2", "2001:db8::101");

    fn addresses((source, destination): (&str, &str)) -> (IpAddr, IpAddr) {
        (source.parse().unwrap(), destination.parse().unwrap())
    }

    #[track_caller]
    fn check_sums(packet: &[u8], (from, to): (IpAddr, IpAddr)) {
        let header = super::super::header_len(from);
        let message = &packet[header..];
        let pseudo =
            if from.is_ipv4() { 0 } else { pseudo_header_sum((from, to), PROTOCOL_ICMPV6, message.len()) };
        assert_eq!(fold(pseudo + sum(message)), 0xffff);
        if from.is_ipv4() {
            assert_eq!(fold(sum(&packet[..IPV4_HEADER])), 0xffff);
        }
    }

    #[test]
    fn errors_name_the_reason_quote_the_packet_and_carry_right_checksums() {
        for (reason, v4, v6) in [
            (Unreachable::Port, [3, 3, 0, 0, 0, 0], [1, 4, 0, 0, 0, 0]),
            (Unreachable::Host, [3, 1, 0, 0, 0, 0], [1, 3, 0, 0, 0, 0]),
            (Unreachable::Prohibited, [3, 13, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0]),
            (Unreachable::TooBig { mtu: 1280 }, [3, 4, 0, 0, 5, 0], [2, 0, 0, 0, 5, 0]),
        ] {
            for (ends, expected, header) in [(V4, v4, IPV4_HEADER), (V6, v6, IPV6_HEADER)] {
                let (source, destination) = addresses(ends);
                let about = ip_packet((source, destination), PROTOCOL_UDP, &[9; 1400]);
                let error = error((source, destination), &about, reason);
                let message = &error[header..];
                assert_eq!([&message[..2], &message[4..8]].concat(), expected, "{reason:?}");
                assert_eq!(&message[8..], &about[..MAX_QUOTE]);
                check_sums(&error, (destination, source));
            }
        }
    }

    #[test]
    fn an_echo_reply_carries_the_flows_identifier_and_a_right_checksum() {
        for (ends, kind) in [(V4, ECHO_REPLY), (V6, ECHO_REPLY_V6)] {
            let (to, from) = addresses(ends);
            let message = [kind, 0, 0xde, 0xad, 0xff, 0xff, 0, 7, b'p', b'i', b'n', b'g', b'!'];
            assert!(is_echo_reply(from, &message));
            assert_eq!(echo_request(from, &message), None);
            let mut buffer = [0; 100];
            let len = write_echo_reply(&mut buffer, (from, to), 0x1234, &message);
            let header = super::super::header_len(from);
            assert_eq!(buffer[header + 4..len], [0x12, 0x34, 0, 7, b'p', b'i', b'n', b'g', b'!']);
            check_sums(&buffer[..len], (from, to));
        }
    }
}
