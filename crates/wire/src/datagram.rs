//! What QUIC DATAGRAM frames of the tunnel protocol carry (contract, 4.3, 4.4 and 9).
//!
//! There are three generations, and a connection has one of them for its whole life: [`encode_v1`] and [`decode_v1`]
//! (2022's connectors), [`V2`] and [`V3`]. Which one follows from the features that the connector registered with, see
//! [`Generation::of`]. What always holds: every length is compared before it is used, since one datagram that was believed
//! has crashed connectors; decoding copies nothing; and no encoder makes what a decoder here refuses. Sessions, their idle
//! times and the network's largest datagram are the caller's business.

mod v3;

use std::fmt;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};

pub use v3::{Registration, Response, ResponseCode, V3};

/// Feature of a connector that takes datagrams of the second generation.
pub const V2_FEATURE: &str = "support_datagram_v2";
/// Feature of a connector that takes datagrams of the third generation, and then of no other.
pub const V3_FEATURE: &str = "support_datagram_v3_2";

/// Largest UDP payload and largest IP packet in a datagram, in bytes.
pub const MAX_PAYLOAD_BYTES: usize = 1280;
/// How long a session lives without traffic when its registration does not say.
pub const DEFAULT_IDLE: Duration = Duration::from_secs(210);

/// The form of the datagrams of one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Generation {
    /// UDP only: payload and session.
    V1,
    /// Sessions by RPC; UDP, ICMP and tracing.
    V2,
    /// Sessions by datagram.
    V3,
}

impl Generation {
    /// What a connector with these features takes.
    pub fn of<'a>(features: impl IntoIterator<Item = &'a str>) -> Self {
        features.into_iter().fold(Self::V1, |best, feature| match (best, feature) {
            (_, V3_FEATURE) => Self::V3,
            (Self::V1, V2_FEATURE) => Self::V2,
            (best, _) => best,
        })
    }
}

/// Names a UDP session, in every generation (a UUID; in the third, the request's id).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId([u8; SessionId::BYTES]);

impl SessionId {
    /// Bytes of an id.
    pub const BYTES: usize = 16;

    /// The id with these bytes.
    pub fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        self.0
    }

    /// Reads an id that is all of `data`, as in an RPC.
    pub fn from_data(data: &[u8]) -> Option<Self> {
        data.try_into().ok().map(Self)
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        uuid::Uuid::from_bytes(self.0).fmt(f)
    }
}

/// Why bytes are no datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DatagramError {
    /// Shorter than its type says.
    #[error("a datagram that ends too early")]
    TooShort,
    /// More than [`MAX_PAYLOAD_BYTES`] of payload.
    #[error("a payload of over {MAX_PAYLOAD_BYTES} bytes")]
    TooLarge,
    /// A type that the generation does not have.
    #[error("unknown datagram type {0}")]
    UnknownType(u8),
    /// A response code that the generation does not have.
    #[error("unknown response code {0}")]
    UnknownCode(u8),
}

/// Appends a datagram of the first generation: `payload | session(16)`.
///
/// # Errors
/// The payload is too large; `out` is as before.
pub fn encode_v1(session: SessionId, payload: &[u8], out: &mut BytesMut) -> Result<(), DatagramError> {
    check_payload(payload)?;
    out.reserve(payload.len() + SessionId::BYTES);
    out.put_slice(payload);
    out.put_slice(&session.0);
    Ok(())
}

/// Reads a datagram of the first generation.
///
/// # Errors
/// It has no session id, or too large a payload.
pub fn decode_v1(mut datagram: Bytes) -> Result<(SessionId, Bytes), DatagramError> {
    let session = SessionId(take_suffix(&mut datagram)?);
    check_payload(&datagram)?;
    Ok((session, datagram))
}

/// Who traces a packet: trace id, span id, flags, as 25 bytes that only tracing looks into.
pub type TraceIdentity = [u8; 25];

/// A datagram of the second generation. Its type is its last byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum V2 {
    /// A UDP payload of a session.
    Udp {
        /// The session.
        session: SessionId,
        /// The payload, perhaps empty.
        payload: Bytes,
    },
    /// A whole IP packet; only ICMP is sent.
    Ip {
        /// The packet.
        packet: Bytes,
        /// Who traces it, if anybody does.
        traced: Option<TraceIdentity>,
    },
    /// Spans of a traced packet, from the connector.
    Spans {
        /// Protocol buffers, not looked into.
        spans: Bytes,
        /// Whose.
        identity: TraceIdentity,
    },
}

impl V2 {
    /// Appends the datagram.
    ///
    /// # Errors
    /// Its payload is too large; `out` is as before.
    pub fn encode(&self, out: &mut BytesMut) -> Result<(), DatagramError> {
        let (body, suffix, kind): (&[u8], &[u8], u8) = match self {
            Self::Udp { session, payload } => (payload, &session.0, V2_UDP),
            Self::Ip { packet, traced: None } => (packet, &[], V2_IP),
            Self::Ip { packet, traced: Some(identity) } => (packet, identity, V2_IP_TRACED),
            Self::Spans { spans, identity } => (spans, identity, V2_SPANS),
        };
        check_payload(body)?;
        out.reserve(body.len() + suffix.len() + 1);
        out.put_slice(body);
        out.put_slice(suffix);
        out.put_u8(kind);
        Ok(())
    }

    /// Reads a datagram.
    ///
    /// # Errors
    /// Of an unknown type, or shorter or longer than its type allows.
    pub fn decode(mut datagram: Bytes) -> Result<Self, DatagramError> {
        let [kind] = take_suffix(&mut datagram)?;
        let decoded = match kind {
            V2_UDP => {
                let session = SessionId(take_suffix(&mut datagram)?);
                Self::Udp { session, payload: datagram.clone() }
            }
            V2_IP => Self::Ip { packet: datagram.clone(), traced: None },
            V2_IP_TRACED => {
                let identity = take_suffix(&mut datagram)?;
                Self::Ip { packet: datagram.clone(), traced: Some(identity) }
            }
            V2_SPANS => {
                let identity = take_suffix(&mut datagram)?;
                Self::Spans { spans: datagram.clone(), identity }
            }
            other => return Err(DatagramError::UnknownType(other)),
        };
        check_payload(&datagram)?;
        Ok(decoded)
    }
}

/// Cuts the last `N` bytes off.
fn take_suffix<const N: usize>(datagram: &mut Bytes) -> Result<[u8; N], DatagramError> {
    let suffix = *datagram.last_chunk::<N>().ok_or(DatagramError::TooShort)?;
    datagram.truncate(datagram.len() - N);
    Ok(suffix)
}

fn check_payload(payload: &[u8]) -> Result<(), DatagramError> {
    if payload.len() > MAX_PAYLOAD_BYTES { Err(DatagramError::TooLarge) } else { Ok(()) }
}

const V2_UDP: u8 = 0;
const V2_IP: u8 = 1;
const V2_IP_TRACED: u8 = 2;
const V2_SPANS: u8 = 3;

/// Fuzz body: whatever decodes, in any generation, encodes to the same bytes again.
#[doc(hidden)]
pub fn fuzz_datagram(data: &[u8]) {
    let input = Bytes::copy_from_slice(data);
    let mut again = BytesMut::new();
    if let Ok((session, payload)) = decode_v1(input.clone()) {
        assert_eq!(encode_v1(session, &payload, &mut again), Ok(()));
        assert_eq!(again.split(), input);
    }
    if let Ok(datagram) = V2::decode(input.clone()) {
        assert_eq!(datagram.encode(&mut again), Ok(()));
        assert_eq!(again.split(), input);
    }
    if let Ok(datagram) = V3::decode(input) {
        // Flags that mean nothing are not kept: compare what was understood.
        assert_eq!(datagram.encode(&mut again), Ok(()));
        assert_eq!(V3::decode(again.split().freeze()), Ok(datagram));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SESSION: SessionId = SessionId([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
    const SESSION_BYTES: &[u8] = b"\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f";

    fn check_v2(datagram: &V2, expected: &[u8]) {
        let mut out = BytesMut::new();
        datagram.encode(&mut out).unwrap();
        assert_eq!(&out[..], expected);
        assert_eq!(V2::decode(out.freeze()).as_ref(), Ok(datagram));
    }

    #[test]
    fn a_datagram_of_the_first_generation_is_payload_and_session() {
        let mut out = BytesMut::new();
        encode_v1(SESSION, b"ping", &mut out).unwrap();
        assert_eq!(&out[..], [b"ping", SESSION_BYTES].concat());
        assert_eq!(decode_v1(out.freeze()), Ok((SESSION, Bytes::from_static(b"ping"))));
        assert_eq!(decode_v1(Bytes::from_static(&[0; 15])), Err(DatagramError::TooShort));
    }

    #[test]
    fn datagrams_of_the_second_generation_are_these_bytes() {
        let payload = Bytes::from_static(b"ping");
        let udp = V2::Udp { session: SESSION, payload: payload.clone() };
        check_v2(&udp, &[b"ping", SESSION_BYTES, &[0]].concat());
        check_v2(&V2::Udp { session: SESSION, payload: Bytes::new() }, &[SESSION_BYTES, &[0]].concat());
        check_v2(&V2::Ip { packet: payload.clone(), traced: None }, b"ping\x01");
        let traced = V2::Ip { packet: payload.clone(), traced: Some([7; 25]) };
        check_v2(&traced, &[&b"ping"[..], &[7; 25], &[2]].concat());
        check_v2(&V2::Spans { spans: payload, identity: [7; 25] }, &[&b"ping"[..], &[7; 25], &[3]].concat());
    }

    #[test]
    fn what_is_too_short_too_long_or_unknown_is_refused() {
        for (input, expected) in [
            (vec![], DatagramError::TooShort),
            (vec![0], DatagramError::TooShort),
            ([SESSION_BYTES, &[0]].concat()[1..].to_vec(), DatagramError::TooShort),
            ([&[1; 24][..], &[2]].concat(), DatagramError::TooShort),
            ([&[1; 24][..], &[3]].concat(), DatagramError::TooShort),
            (vec![9], DatagramError::UnknownType(9)),
            ([&[0; MAX_PAYLOAD_BYTES + 1][..], &[1]].concat(), DatagramError::TooLarge),
        ] {
            assert_eq!(V2::decode(input.clone().into()), Err(expected), "{input:?}");
        }
        let mut out = BytesMut::from(&b"before"[..]);
        let large = V2::Ip { packet: Bytes::from(vec![0; MAX_PAYLOAD_BYTES + 1]), traced: None };
        assert_eq!(large.encode(&mut out), Err(DatagramError::TooLarge));
        assert_eq!(encode_v1(SESSION, &[0; MAX_PAYLOAD_BYTES + 1], &mut out), Err(DatagramError::TooLarge));
        assert_eq!(&out[..], b"before");
    }

    #[test]
    fn the_newest_generation_that_a_connector_announces_is_used() {
        for (features, expected) in [
            (&["allow_remote_config", "serialized_headers"][..], Generation::V1),
            (&["support_datagram_v2", "support_quic_eof"], Generation::V2),
            (&["support_datagram_v3_2", "support_datagram_v2"], Generation::V3),
            (&["support_datagram_v2", "support_datagram_v3_2"], Generation::V3),
        ] {
            assert_eq!(Generation::of(features.iter().copied()), expected, "{features:?}");
        }
    }

    #[test]
    fn a_session_reads_as_a_uuid() {
        assert_eq!(SESSION.to_string(), "00010203-0405-0607-0809-0a0b0c0d0e0f");
        assert_eq!(SessionId::from_data(SESSION_BYTES), Some(SESSION));
        assert_eq!(SessionId::from_data(&SESSION_BYTES[1..]), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_datagram_or_an_error(data in prop::collection::vec(any::<u8>(), 0..1500)) {
            fuzz_datagram(&data);
        }

        #[test]
        fn any_bytes_behind_a_type_are_a_datagram_or_an_error(
            kind in 0u8..5,
            data in prop::collection::vec(any::<u8>(), 0..80),
        ) {
            fuzz_datagram(&[&[kind], &data[..]].concat());
            fuzz_datagram(&[&data[..], &[kind]].concat());
        }
    }
}
