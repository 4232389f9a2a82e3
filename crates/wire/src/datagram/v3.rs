//! The third generation: sessions are registered by datagram, and the type is the first byte (contract, 4.4).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{DEFAULT_IDLE, DatagramError, MAX_PAYLOAD_BYTES, SessionId, check_payload};

/// A datagram of the third generation. Integers are big endian.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum V3 {
    /// The edge wants a session.
    Registration(Registration),
    /// A UDP payload of a session.
    Payload {
        /// The session.
        session: SessionId,
        /// The payload, perhaps empty.
        payload: Bytes,
    },
    /// A whole IP packet, with ICMP in it; never empty.
    Icmp(Bytes),
    /// The connector's answer to a registration.
    Response(Response),
}

/// What the edge says of the session that it wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// The session's id, chosen by the edge.
    pub session: SessionId,
    /// Where to.
    pub destination: SocketAddr,
    /// How long the session lives without traffic, in seconds; 0 stands for [`DEFAULT_IDLE`].
    pub idle_seconds: u16,
    /// Somebody traces it.
    pub traced: bool,
    /// A first payload. Unmodified connectors lose it: send it in a datagram of its own.
    pub bundled: Option<Bytes>,
}

impl Registration {
    /// How long the session lives without traffic.
    pub fn idle(&self) -> Duration {
        if self.idle_seconds == 0 { DEFAULT_IDLE } else { Duration::from_secs(self.idle_seconds.into()) }
    }
}

/// The connector's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The session's id, as in the registration.
    pub session: SessionId,
    /// What became of it.
    pub code: ResponseCode,
    /// Words, if there are any.
    pub text: String,
}

/// What became of a registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResponseCode {
    /// The session is there, or was there already.
    Ok,
    /// The destination cannot be reached.
    DestinationUnreachable,
    /// No socket could be had, or something else went wrong.
    UnableToBindSocket,
    /// The connector has as many flows as it takes.
    TooManyActiveFlows,
    /// The text says what.
    ErrorWithMessage,
}

impl ResponseCode {
    fn to_byte(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::DestinationUnreachable => 1,
            Self::UnableToBindSocket => 2,
            Self::TooManyActiveFlows => 3,
            Self::ErrorWithMessage => 0xff,
        }
    }

    fn from_byte(byte: u8) -> Result<Self, DatagramError> {
        match byte {
            0 => Ok(Self::Ok),
            1 => Ok(Self::DestinationUnreachable),
            2 => Ok(Self::UnableToBindSocket),
            3 => Ok(Self::TooManyActiveFlows),
            0xff => Ok(Self::ErrorWithMessage),
            other => Err(DatagramError::UnknownCode(other)),
        }
    }
}

impl V3 {
    /// Appends the datagram.
    ///
    /// # Errors
    /// Its payload or text is too large, or its packet is empty; `out` is as before.
    pub fn encode(&self, out: &mut BytesMut) -> Result<(), DatagramError> {
        match self {
            Self::Registration(registration) => registration.encode(out)?,
            Self::Payload { session, payload } => {
                check_payload(payload)?;
                out.reserve(1 + SessionId::BYTES + payload.len());
                out.put_u8(PAYLOAD);
                out.put_slice(&session.to_bytes());
                out.put_slice(payload);
            }
            Self::Icmp(packet) => {
                check_packet(packet)?;
                out.reserve(1 + packet.len());
                out.put_u8(ICMP);
                out.put_slice(packet);
            }
            Self::Response(Response { session, code, text }) => {
                check_payload(text.as_bytes())?;
                let length = u16::try_from(text.len()).map_err(|_| DatagramError::TooLarge)?;
                out.put_u8(RESPONSE);
                out.put_u8(code.to_byte());
                out.put_slice(&session.to_bytes());
                out.put_u16(length);
                out.put_slice(text.as_bytes());
            }
        }
        Ok(())
    }

    /// Reads a datagram.
    ///
    /// # Errors
    /// Of an unknown type, or shorter or longer than its type allows.
    pub fn decode(mut datagram: Bytes) -> Result<Self, DatagramError> {
        match take_u8(&mut datagram)? {
            REGISTRATION => Registration::decode(datagram).map(Self::Registration),
            PAYLOAD => {
                let session = take_session(&mut datagram)?;
                check_payload(&datagram)?;
                Ok(Self::Payload { session, payload: datagram })
            }
            ICMP => {
                check_packet(&datagram)?;
                Ok(Self::Icmp(datagram))
            }
            RESPONSE => {
                let code = ResponseCode::from_byte(take_u8(&mut datagram)?)?;
                let session = take_session(&mut datagram)?;
                let length = usize::from(take_u16(&mut datagram)?);
                let text = datagram.get(..length).ok_or(DatagramError::TooShort)?;
                let text = String::from_utf8_lossy(text).into_owned();
                // Bytes that are no UTF-8 grow when they are replaced.
                check_payload(text.as_bytes())?;
                Ok(Self::Response(Response { session, code, text }))
            }
            other => Err(DatagramError::UnknownType(other)),
        }
    }
}

impl Registration {
    fn encode(&self, out: &mut BytesMut) -> Result<(), DatagramError> {
        let bundled = self.bundled.as_deref().unwrap_or_default();
        check_payload(bundled)?;
        let mut flags = 0;
        for (set, flag) in [
            (self.destination.is_ipv6(), FLAG_IPV6),
            (self.traced, FLAG_TRACED),
            (self.bundled.is_some(), FLAG_BUNDLED),
        ] {
            flags |= if set { flag } else { 0 };
        }
        out.reserve(MAX_REGISTRATION_HEAD_BYTES + bundled.len());
        out.put_u8(REGISTRATION);
        out.put_u8(flags);
        out.put_u16(self.destination.port());
        out.put_u16(self.idle_seconds);
        out.put_slice(&self.session.to_bytes());
        match self.destination.ip() {
            IpAddr::V4(address) => out.put_slice(&address.octets()),
            IpAddr::V6(address) => out.put_slice(&address.octets()),
        }
        out.put_slice(bundled);
        Ok(())
    }

    /// Reads what follows the type. A payload that no flag announces is passed over.
    fn decode(mut datagram: Bytes) -> Result<Self, DatagramError> {
        let flags = take_u8(&mut datagram)?;
        let port = take_u16(&mut datagram)?;
        let idle_seconds = take_u16(&mut datagram)?;
        let session = take_session(&mut datagram)?;
        let ip: IpAddr = if flags & FLAG_IPV6 == 0 {
            Ipv4Addr::from(take(&mut datagram)?).into()
        } else {
            Ipv6Addr::from(take(&mut datagram)?).into()
        };
        check_payload(&datagram)?;
        Ok(Self {
            session,
            destination: SocketAddr::new(ip, port),
            idle_seconds,
            traced: flags & FLAG_TRACED != 0,
            bundled: (flags & FLAG_BUNDLED != 0).then_some(datagram),
        })
    }
}

/// Takes the first `N` bytes.
fn take<const N: usize>(datagram: &mut Bytes) -> Result<[u8; N], DatagramError> {
    let head = *datagram.first_chunk::<N>().ok_or(DatagramError::TooShort)?;
    datagram.advance(N);
    Ok(head)
}

fn take_u8(datagram: &mut Bytes) -> Result<u8, DatagramError> {
    take(datagram).map(|[byte]| byte)
}

fn take_u16(datagram: &mut Bytes) -> Result<u16, DatagramError> {
    take(datagram).map(u16::from_be_bytes)
}

fn take_session(datagram: &mut Bytes) -> Result<SessionId, DatagramError> {
    take(datagram).map(SessionId::from_bytes)
}

fn check_packet(packet: &[u8]) -> Result<(), DatagramError> {
    match packet.len() {
        0 => Err(DatagramError::TooShort),
        1..=MAX_PAYLOAD_BYTES => Ok(()),
        _ => Err(DatagramError::TooLarge),
    }
}

const REGISTRATION: u8 = 0;
const PAYLOAD: u8 = 1;
const ICMP: u8 = 2;
const RESPONSE: u8 = 3;

const FLAG_IPV6: u8 = 1;
const FLAG_TRACED: u8 = 2;
const FLAG_BUNDLED: u8 = 4;

/// Type, flags, port, idle time, id, IPv6 address.
const MAX_REGISTRATION_HEAD_BYTES: usize = 38;

#[cfg(test)]
mod tests {
    use super::*;

    const SESSION: SessionId = SessionId([1; 16]);

    fn check(datagram: &V3, expected: &[u8]) {
        let mut out = BytesMut::new();
        datagram.encode(&mut out).unwrap();
        assert_eq!(&out[..], expected);
        assert_eq!(V3::decode(out.freeze()).as_ref(), Ok(datagram));
    }

    fn registration(destination: &str, bundled: Option<&'static [u8]>) -> V3 {
        V3::Registration(Registration {
            session: SESSION,
            destination: destination.parse().unwrap(),
            idle_seconds: 210,
            traced: false,
            bundled: bundled.map(Bytes::from_static),
        })
    }

    #[test]
    fn registrations_are_these_bytes() {
        let ids = [1; 16];
        let v4 = [&[0, 0, 0, 53, 0, 210][..], &ids, &[198, 51, 100, 53]].concat();
        assert_eq!(v4.len(), 26);
        check(&registration("198.51.100.53:53", None), &v4);
        let v6 = [&[0, 1, 0, 53, 0, 210][..], &ids, &[0x20, 1, 0xd, 0xb8], &[0; 11], &[0x53]].concat();
        assert_eq!(v6.len(), 38);
        check(&registration("[2001:db8::53]:53", None), &v6);
        let bundled = [&[0, 4, 0, 53, 0, 210][..], &ids, &[198, 51, 100, 53], b"query"].concat();
        check(&registration("198.51.100.53:53", Some(b"query")), &bundled);
    }

    #[test]
    fn payloads_packets_and_responses_are_these_bytes() {
        let payload = V3::Payload { session: SESSION, payload: Bytes::from_static(b"answer") };
        check(&payload, &[&[1][..], &[1; 16], b"answer"].concat());
        check(&V3::Icmp(Bytes::from_static(b"packet")), b"\x02packet");
        for (code, byte) in [
            (ResponseCode::Ok, 0),
            (ResponseCode::DestinationUnreachable, 1),
            (ResponseCode::UnableToBindSocket, 2),
            (ResponseCode::TooManyActiveFlows, 3),
            (ResponseCode::ErrorWithMessage, 0xff),
        ] {
            let response = V3::Response(Response { session: SESSION, code, text: "why".into() });
            check(&response, &[&[3, byte][..], &[1; 16], &[0, 3], b"why"].concat());
        }
    }

    #[test]
    fn a_short_registration_is_refused_at_every_length() {
        for destination in ["198.51.100.53:53", "[2001:db8::53]:53"] {
            let mut out = BytesMut::new();
            registration(destination, None).encode(&mut out).unwrap();
            let whole = out.freeze();
            for length in 0..whole.len() {
                assert_eq!(V3::decode(whole.slice(..length)), Err(DatagramError::TooShort), "{length}");
            }
        }
    }

    #[test]
    fn what_claims_more_than_there_is_and_what_is_too_large_is_refused() {
        let claims = [&[3, 0xff][..], &[1; 16], &[0xff, 0xff], b"why"].concat();
        assert_eq!(V3::decode(claims.into()), Err(DatagramError::TooShort));
        let unknown = [&[3, 9][..], &[1; 16], &[0, 0]].concat();
        assert_eq!(V3::decode(unknown.into()), Err(DatagramError::UnknownCode(9)));
        assert_eq!(V3::decode(Bytes::from_static(&[2])), Err(DatagramError::TooShort));
        assert_eq!(V3::decode(Bytes::from_static(&[4, 0])), Err(DatagramError::UnknownType(4)));
        let large = [&[1][..], &[1; 16], &[0; MAX_PAYLOAD_BYTES + 1]].concat();
        assert_eq!(V3::decode(large.into()), Err(DatagramError::TooLarge));
    }

    #[test]
    fn no_idle_time_stands_for_the_usual_one() {
        let V3::Registration(mut registration) = registration("198.51.100.53:53", None) else {
            panic!("a registration")
        };
        assert_eq!(registration.idle(), Duration::from_secs(210));
        registration.idle_seconds = 0;
        assert_eq!(registration.idle(), DEFAULT_IDLE);
        registration.idle_seconds = 2;
        assert_eq!(registration.idle(), Duration::from_secs(2));
    }
}
