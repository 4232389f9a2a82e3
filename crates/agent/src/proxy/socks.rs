//! SOCKS5, *RFC 1928*: the messages. No authentication, since only this host's programs come here; no BIND.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use adit_model::Refusal;

use super::Failure;
use super::target::Target;

pub(super) const VERSION: u8 = 5;
const NO_AUTHENTICATION: u8 = 0;
const NO_ACCEPTABLE_METHOD: u8 = 0xff;

const CONNECT: u8 = 1;
const UDP_ASSOCIATE: u8 = 3;

const IPV4: u8 = 1;
const NAME: u8 = 3;
const IPV6: u8 = 4;

/// What a program may ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Request {
    /// A TCP connection.
    Connect(Target),
    /// Datagrams, for as long as the connection stays.
    Associate,
}

/// Why a message is none that is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unserved {
    Malformed,
    Command,
    AddressType,
}

impl Unserved {
    /// *RFC 1928 § 6*.
    pub(super) fn reply(self) -> [u8; 10] {
        reply(match self {
            Self::Malformed => 1,
            Self::Command => 7,
            Self::AddressType => 8,
        })
    }
}

/// The answer to the first message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Greeting {
    GoOn,
    /// The program wants to prove who it is, and nothing else.
    NoMethod,
}

impl Greeting {
    pub(super) fn answer(self) -> [u8; 2] {
        match self {
            Self::GoOn => [VERSION, NO_AUTHENTICATION],
            Self::NoMethod => [VERSION, NO_ACCEPTABLE_METHOD],
        }
    }
}

/// Reads the first message, and tells its length; nothing if it is not whole yet.
pub(super) fn greeting(bytes: &[u8]) -> Option<(Greeting, usize)> {
    let [_, count, rest @ ..] = bytes else { return None };
    let methods = rest.get(..usize::from(*count))?;
    let greeting = if methods.contains(&NO_AUTHENTICATION) { Greeting::GoOn } else { Greeting::NoMethod };
    Some((greeting, 2 + methods.len()))
}

/// Reads the second message, and tells its length; nothing if it is not whole yet.
pub(super) fn request(bytes: &[u8]) -> Result<Option<(Request, usize)>, Unserved> {
    let [version, command, _, rest @ ..] = bytes else { return Ok(None) };
    if *version != VERSION {
        return Err(Unserved::Malformed);
    }
    let Some((host, port, length)) = address(rest)? else { return Ok(None) };
    let request = match *command {
        CONNECT => Request::Connect(Target::new(&host, port).ok_or(Unserved::Malformed)?),
        UDP_ASSOCIATE => Request::Associate,
        _ => return Err(Unserved::Command),
    };
    Ok(Some((request, 3 + length)))
}

/// Reads the header of a datagram, and tells its length. Pieces of a datagram are not put together, which *§ 7* allows.
pub(super) fn datagram(bytes: &[u8]) -> Option<(Target, usize)> {
    let [_, _, 0, rest @ ..] = bytes else { return None };
    let (host, port, length) = address(rest).ok()??;
    Some((Target::new(&host, port)?, 3 + length))
}

/// A datagram from `from`, behind its header.
pub(super) fn encode_datagram(from: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 0];
    put_address(from, &mut bytes);
    bytes.extend_from_slice(payload);
    bytes
}

/// Type, address and port.
fn address(bytes: &[u8]) -> Result<Option<(String, u16, usize)>, Unserved> {
    let Some((&kind, rest)) = bytes.split_first() else { return Ok(None) };
    let (prefix, length) = match kind {
        IPV4 => (0, 4),
        IPV6 => (0, 16),
        NAME => match rest.first() {
            Some(&length) => (1, usize::from(length)),
            None => return Ok(None),
        },
        _ => return Err(Unserved::AddressType),
    };
    let (Some(host), Some(port)) =
        (rest.get(prefix..prefix + length), rest.get(prefix + length..prefix + length + 2))
    else {
        return Ok(None);
    };
    let host = match kind {
        NAME => std::str::from_utf8(host).map_err(|_| Unserved::Malformed)?.to_owned(),
        _ => match (<[u8; 4]>::try_from(host), <[u8; 16]>::try_from(host)) {
            (Ok(octets), _) => Ipv4Addr::from(octets).to_string(),
            (_, Ok(octets)) => Ipv6Addr::from(octets).to_string(),
            (Err(_), Err(_)) => return Err(Unserved::Malformed),
        },
    };
    Ok(Some((host, u16::from_be_bytes([port[0], port[1]]), 1 + prefix + length + 2)))
}

fn put_address(address: SocketAddr, bytes: &mut Vec<u8>) {
    match address.ip() {
        IpAddr::V4(ip) => {
            bytes.push(IPV4);
            bytes.extend_from_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            bytes.push(IPV6);
            bytes.extend_from_slice(&ip.octets());
        }
    }
    bytes.extend_from_slice(&address.port().to_be_bytes());
}

/// The answer to a request that is served. `bound` is where datagrams go; for a connection it says nothing.
pub(super) fn success(bound: Option<SocketAddr>) -> Vec<u8> {
    let mut bytes = vec![VERSION, 0, 0];
    put_address(bound.unwrap_or(SocketAddr::from(([0_u8; 4], 0))), &mut bytes);
    bytes
}

/// The answer to a request that failed.
pub(super) fn failure(failure: Failure) -> [u8; 10] {
    reply(match failure {
        Failure::Unresolved => 4,
        Failure::NotConnected => 1,
        Failure::Refused(refusal) => match refusal {
            Refusal::Blocked | Refusal::Revoked | Refusal::NeverDialled => 2,
            Refusal::NetworkUnreachable | Refusal::Unroutable => 3,
            Refusal::HostUnreachable => 4,
            Refusal::Refused => 5,
            Refusal::TimedOut => 6,
            Refusal::NoConnection
            | Refusal::TooManyFlows
            | Refusal::TooLarge
            | Refusal::Stale
            | Refusal::ConnectorError => 1,
        },
    })
}

fn reply(code: u8) -> [u8; 10] {
    [VERSION, code, 0, IPV4, 0, 0, 0, 0, 0, 0]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn address(text: &str) -> Target {
        Target::Address(text.parse().unwrap())
    }

    #[test]
    fn a_greeting_must_offer_to_go_without_authentication() {
        assert_eq!(greeting(&[5]), None);
        assert_eq!(greeting(&[5, 2, 0]), None);
        assert_eq!(greeting(&[5, 1, 0, 5]), Some((Greeting::GoOn, 3)));
        assert_eq!(greeting(&[5, 2, 2, 0]), Some((Greeting::GoOn, 4)));
        assert_eq!(greeting(&[5, 1, 2]), Some((Greeting::NoMethod, 3)));
        assert_eq!((Greeting::GoOn.answer(), Greeting::NoMethod.answer()), ([5, 0], [5, 0xff]));
        assert_eq!(greeting(&[5, 0]), Some((Greeting::NoMethod, 2)));
    }

    #[test]
    fn requests_are_golden() {
        #[track_caller]
        fn check(bytes: &[u8], expected: Request) {
            assert_eq!(request(bytes), Ok(Some((expected, bytes.len()))));
            for end in 0..bytes.len() {
                assert_eq!(request(&bytes[..end]), Ok(None), "{end} bytes");
            }
        }
        check(&[5, 1, 0, 1, 198, 51, 100, 101, 0x19, 0x2b], Request::Connect(address("198.51.100.101:6443")));
        let v6 = [5, 1, 0, 4, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 0xbb];
        check(&v6, Request::Connect(address("[2001:db8::101]:443")));
        let name = [&[5, 1, 0, 3, 8][..], b"api.corp", &[1, 0xbb]].concat();
        check(&name, Request::Connect(Target::Name("api.corp".to_owned(), 443)));
        check(&[5, 3, 0, 1, 0, 0, 0, 0, 0, 0], Request::Associate);
    }

    #[test]
    fn what_is_not_served_says_why() {
        for (bytes, expected) in [
            (&[5, 2, 0, 1, 192, 0, 2, 1, 0, 80][..], Unserved::Command),
            (&[5, 1, 0, 2, 192, 0, 2, 1, 0, 80], Unserved::AddressType),
            (&[4, 1, 0, 1, 192, 0, 2, 1, 0, 80], Unserved::Malformed),
            (&[5, 1, 0, 1, 192, 0, 2, 1, 0, 0], Unserved::Malformed),
            (&[5, 1, 0, 3, 2, b'a', b' ', 0, 80], Unserved::Malformed),
            (&[5, 1, 0, 3, 1, 0xff, 0, 80], Unserved::Malformed),
        ] {
            assert_eq!(request(bytes), Err(expected), "{bytes:?}");
        }
    }

    #[test]
    fn failures_have_the_codes_of_the_rfc() {
        for (refusal, code) in [
            (Refusal::Blocked, 2),
            (Refusal::Unroutable, 3),
            (Refusal::HostUnreachable, 4),
            (Refusal::Refused, 5),
        ] {
            assert_eq!(failure(Failure::Refused(refusal)), [5, code, 0, 1, 0, 0, 0, 0, 0, 0]);
        }
    }

    proptest! {
        #[test]
        fn datagrams_come_back_as_they_were(v6 in any::<bool>(), ip in any::<u128>(), port in 1_u16.., payload in any::<Vec<u8>>()) {
            let ip = if v6 { IpAddr::from(ip.to_be_bytes()) } else { IpAddr::V4(Ipv4Addr::from_bits((ip >> 96) as u32)) };
            let from = SocketAddr::new(ip, port);
            let bytes = encode_datagram(from, &payload);
            let (target, header) = datagram(&bytes).unwrap();
            prop_assert_eq!(target, Target::Address(from));
            prop_assert_eq!(&bytes[header..], &payload[..]);
        }
    }
}
