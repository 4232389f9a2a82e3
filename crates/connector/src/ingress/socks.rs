//! The server's end of a SOCKS5 negotiation (RFC 1928), without I/O: CONNECT only, without authentication (contract, 8.1).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::{Buf, Bytes, BytesMut};

/// Where a client wants to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Destination {
    pub(super) host: Host,
    pub(super) port: u16,
}

/// An address, or a name to be resolved here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Host {
    Address(IpAddr),
    Name(String),
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// The outcome of a request, as the client is told (RFC 1928, 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reply {
    Succeeded = 0,
    GeneralFailure = 1,
    NotAllowed = 2,
    NetworkUnreachable = 3,
    HostUnreachable = 4,
    Refused = 5,
    CommandNotSupported = 7,
    AddressTypeNotSupported = 8,
}

/// What is to be done now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// More bytes are needed.
    Read,
    /// Send this, and go on.
    Send(Bytes),
    /// Dial, then send [`reply`]; the client's further bytes are for the destination.
    Connect(Destination),
    /// Send this, and end: the client wants what there is not, or speaks something else.
    Refuse(Bytes),
}

/// A negotiation, from the first byte to [`Step::Connect`].
#[derive(Debug, Default)]
pub(super) struct Negotiation {
    buffer: BytesMut,
    greeted: bool,
}

const VERSION: u8 = 5;
const NO_AUTHENTICATION: u8 = 0;
const NOT_ACCEPTABLE: u8 = 0xff;
const CONNECT: u8 = 1;

impl Negotiation {
    /// Takes bytes from the client. What comes behind the request is kept: its length is the caller's to bound.
    pub(super) fn handle_input(&mut self, input: &[u8]) {
        self.buffer.extend_from_slice(input);
    }

    /// What came behind the request.
    pub(super) fn into_rest(self) -> Bytes {
        self.buffer.freeze()
    }

    /// What is to be done; asked until it is [`Step::Read`].
    pub(super) fn step(&mut self) -> Step {
        if self.greeted { self.request() } else { self.greeting() }
    }

    fn greeting(&mut self) -> Step {
        match self.buffer.first() {
            None => return Step::Read,
            // Another protocol: it would not understand an answer.
            Some(version) if *version != VERSION => return Step::Refuse(Bytes::new()),
            Some(_) => {}
        }
        let Some(methods) = self.buffer.get(1).map(|count| usize::from(*count)) else { return Step::Read };
        let Some(offered) = self.buffer.get(2..2 + methods) else { return Step::Read };
        if !offered.contains(&NO_AUTHENTICATION) {
            return Step::Refuse(Bytes::from_static(&[VERSION, NOT_ACCEPTABLE]));
        }
        self.buffer.advance(2 + methods);
        self.greeted = true;
        Step::Send(Bytes::from_static(&[VERSION, NO_AUTHENTICATION]))
    }

    fn request(&mut self) -> Step {
        let refuse = |reply| Step::Refuse(self::reply(reply, None));
        let [version, command, _, kind, rest @ ..] = &self.buffer[..] else {
            let begins = self.buffer.first().is_none_or(|version| *version == VERSION);
            return if begins { Step::Read } else { refuse(Reply::GeneralFailure) };
        };
        if *version != VERSION {
            return refuse(Reply::GeneralFailure);
        }
        let (address, length) = match kind {
            1 => (rest.get(..4), 4),
            4 => (rest.get(..16), 16),
            3 => match rest.first().map(|length| usize::from(*length)) {
                None => return Step::Read,
                Some(length) => (rest.get(1..=length), length + 1),
            },
            _ => return refuse(Reply::AddressTypeNotSupported),
        };
        let (Some(address), Some(port)) = (address, rest.get(length..length + 2)) else { return Step::Read };
        if *command != CONNECT {
            return refuse(Reply::CommandNotSupported);
        }
        let Some(host) = host(address, *kind) else { return refuse(Reply::HostUnreachable) };
        let port = u16::from_be_bytes([port[0], port[1]]);
        self.buffer.advance(4 + length + 2);
        Step::Connect(Destination { host, port })
    }
}

fn host(address: &[u8], kind: u8) -> Option<Host> {
    if kind == 3 {
        let name = std::str::from_utf8(address).ok().filter(|name| !name.is_empty())?;
        // Some clients write addresses as names.
        return Some(name.parse().map_or_else(|_| Host::Name(name.to_owned()), Host::Address));
    }
    let v4 = <[u8; 4]>::try_from(address).map(|octets| IpAddr::V4(Ipv4Addr::from(octets)));
    let v6 = <[u8; 16]>::try_from(address).map(|octets| IpAddr::V6(Ipv6Addr::from(octets)));
    v4.or(v6).ok().map(Host::Address)
}

/// An answer to a request; `bound` is our end of the connection.
pub(super) fn reply(reply: Reply, bound: Option<SocketAddr>) -> Bytes {
    let bound = bound.unwrap_or(SocketAddr::from(([0, 0, 0, 0], 0)));
    let mut bytes = vec![VERSION, reply as u8, 0];
    match bound.ip().to_canonical() {
        IpAddr::V4(address) => {
            bytes.push(1);
            bytes.extend(address.octets());
        }
        IpAddr::V6(address) => {
            bytes.push(4);
            bytes.extend(address.octets());
        }
    }
    bytes.extend(bound.port().to_be_bytes());
    bytes.into()
}

/// Fuzz body: any bytes lead to a destination, a refusal or a wait, and cut anywhere to the same.
#[doc(hidden)]
pub fn fuzz_socks(input: &[u8]) {
    let run = |pieces: &[&[u8]]| {
        let (mut negotiation, mut steps) = (Negotiation::default(), Vec::new());
        for piece in pieces {
            negotiation.handle_input(piece);
            loop {
                match negotiation.step() {
                    Step::Read => break,
                    Step::Send(bytes) => steps.push(Step::Send(bytes)),
                    end @ (Step::Connect(_) | Step::Refuse(_)) => {
                        steps.push(end);
                        return steps;
                    }
                }
            }
        }
        steps
    };
    let whole = run(&[input]);
    let bytes: Vec<&[u8]> = input.chunks(1).collect();
    // What is refused may be refused a byte earlier, with the same words.
    assert_eq!(whole, run(&bytes));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn destination(host: Host, port: u16) -> Step {
        Step::Connect(Destination { host, port })
    }

    #[track_caller]
    fn check(request: &[u8], expected: &Step) {
        let mut negotiation = Negotiation::default();
        negotiation.handle_input(&[5, 1, 0]);
        assert_eq!(negotiation.step(), Step::Send(Bytes::from_static(&[5, 0])));
        assert_eq!(negotiation.step(), Step::Read);
        negotiation.handle_input(request);
        assert_eq!(negotiation.step(), *expected);
    }

    #[test]
    fn a_destination_is_an_address_or_a_name() {
        check(&[5, 1, 0, 1, 192, 0, 2, 1, 0, 80], &destination(Host::Address([192, 0, 2, 1].into()), 80));
        let v6: IpAddr = "2001:db8::1".parse().unwrap();
        let IpAddr::V6(octets) = v6 else { unreachable!() };
        check(
            &[&[5, 1, 0, 4][..], &octets.octets(), &[1, 187]].concat(),
            &destination(Host::Address(v6), 443),
        );
        check(b"\x05\x01\x00\x03\x04host\x19\x2b", &destination(Host::Name("host".into()), 6443));
        check(
            b"\x05\x01\x00\x03\x09192.0.2.1\x00\x50",
            &destination(Host::Address([192, 0, 2, 1].into()), 80),
        );
    }

    #[test]
    fn what_there_is_not_is_refused_by_number() {
        check(&[5, 2, 0, 1, 192, 0, 2, 1, 0, 80], &Step::Refuse(reply(Reply::CommandNotSupported, None)));
        check(&[5, 3, 0, 1, 192, 0, 2, 1, 0, 80], &Step::Refuse(reply(Reply::CommandNotSupported, None)));
        check(&[5, 1, 0, 9, 0], &Step::Refuse(reply(Reply::AddressTypeNotSupported, None)));
        check(&[4, 1, 0, 1], &Step::Refuse(reply(Reply::GeneralFailure, None)));
        check(b"\x05\x01\x00\x03\x00\x00\x50", &Step::Refuse(reply(Reply::HostUnreachable, None)));
        let mut negotiation = Negotiation::default();
        negotiation.handle_input(&[5, 1, 2]);
        assert_eq!(negotiation.step(), Step::Refuse(Bytes::from_static(&[5, 0xff])));
        let mut negotiation = Negotiation::default();
        negotiation.handle_input(b"GET / HTTP/1.1");
        assert_eq!(negotiation.step(), Step::Refuse(Bytes::new()));
    }

    #[test]
    fn what_comes_behind_the_request_is_kept() {
        let mut negotiation = Negotiation::default();
        negotiation.handle_input(b"\x05\x01\x00\x05\x01\x00\x01\x01\x02\x03\x04\x00\x05early");
        assert!(matches!(negotiation.step(), Step::Send(_)));
        assert!(matches!(negotiation.step(), Step::Connect(_)));
        assert_eq!(negotiation.into_rest(), "early");
    }

    #[test]
    fn a_reply_is_as_the_specification_has_it() {
        assert_eq!(reply(Reply::Refused, None)[..], [5, 5, 0, 1, 0, 0, 0, 0, 0, 0]);
        let bound = Some("[::ffff:192.0.2.1]:258".parse().unwrap());
        assert_eq!(reply(Reply::Succeeded, bound)[..], [5, 0, 0, 1, 192, 0, 2, 1, 1, 2]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_step(input in proptest::collection::vec(0u8..10, 0..40)) {
            fuzz_socks(&input);
        }
    }
}
