//! Data streams of the tunnel protocol: preamble, request and response (contract, section 3).
//!
//! The edge opens a stream for each flow and writes a [`ConnectRequest`]; the connector answers with a
//! [`ConnectResponse`]; what follows on either side is the flow's own bytes. What always holds: preamble and message are
//! encoded into one buffer, to be sent in one write (unmodified connectors read the version with a single read), and a
//! decoder takes no byte that it did not understand. Which streams there are and who may open them is not decided here.

use bytes::{BufMut, Bytes, BytesMut};

use crate::capnp::{Builder, EncodeError, Limits, Message, ReadError, StructReader};

/// Metadata key that an unmodified connector sets to `true` when its limit of flows is reached (contract, 3.5).
pub const METADATA_RATE_LIMITED: &str = "FlowConnectRateLimited";
/// Metadata key of an HTTP response's status (contract, 3.2).
pub const METADATA_HTTP_STATUS: &str = "HttpStatus";
/// Metadata key of a flow's id, for logs (contract, 3.4).
pub const METADATA_FLOW_ID: &str = "FlowID";

/// First bytes of a stream that carries a flow.
pub const DATA_SIGNATURE: [u8; 6] = [0x0a, 0x36, 0xcd, 0x12, 0xa1, 0x3e];
/// First bytes of a stream that carries RPC, other than the control stream, which has none.
pub const RPC_SIGNATURE: [u8; 6] = [0x52, 0xbb, 0x82, 0x5c, 0xdb, 0x65];
/// The version behind [`DATA_SIGNATURE`]; no reader checks it.
pub const DATA_VERSION: [u8; 2] = *b"01";

/// Largest request or response, in bytes without the preamble. Headers of HTTP requests travel in it, and no common
/// server takes more of those.
pub const MAX_STREAM_MESSAGE_BYTES: usize = 1 << 20;

/// Bytes of preamble and segment table, without which nothing can be said of a message.
const PREAMBLE_BYTES: usize = DATA_SIGNATURE.len() + DATA_VERSION.len();

const LIMITS: Limits = Limits {
    message_bytes: MAX_STREAM_MESSAGE_BYTES,
    // Go's writer doubles its segments: 1 MiB is reached with fewer.
    segments: 64,
    // Root, list, struct, text.
    depth: 8,
    traversal_words: 2 * (MAX_STREAM_MESSAGE_BYTES as u64) / 8,
    // Header fields of one request.
    list_elements: 4096,
};

/// What a stream that the other side opened carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamKind {
    /// A flow: preamble and [`ConnectRequest`] follow.
    Data,
    /// Cap'n Proto RPC follows, behind these six bytes.
    Rpc,
}

impl StreamKind {
    /// Tells the kind from the first bytes; `None` if there are too few yet.
    ///
    /// # Errors
    /// The bytes begin no stream of either kind. That is said at the first byte that cannot be.
    pub fn detect(input: &[u8]) -> Result<Option<Self>, DecodeError> {
        for (signature, kind) in [(DATA_SIGNATURE, Self::Data), (RPC_SIGNATURE, Self::Rpc)] {
            if input.starts_with(&signature) {
                return Ok(Some(kind));
            }
            if signature.starts_with(input) {
                return Ok(None);
            }
        }
        Err(DecodeError::Signature)
    }
}

/// Why the start of a stream is no request or response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The stream begins with no known signature, or with that of another kind of stream.
    #[error("the stream does not begin with the signature that was expected")]
    Signature,
    /// A connection type that the contract does not have.
    #[error("unknown connection type {0}")]
    UnknownType(u16),
    /// The message cannot be read.
    #[error("the message cannot be read")]
    Message(#[from] ReadError),
}

/// What a flow is (contract, 3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionType {
    /// One HTTP request and its response.
    Http,
    /// A WebSocket.
    WebSocket,
    /// A TCP connection.
    Tcp,
}

/// A key and a value beside a request or a response. Values are bytes, since header values are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    /// The key. Keys may repeat.
    pub key: String,
    /// The value.
    pub val: Bytes,
}

impl Metadata {
    /// A key and its value.
    pub fn new(key: impl Into<String>, val: impl Into<Bytes>) -> Self {
        Self { key: key.into(), val: val.into() }
    }
}

/// The first value of `key` that is a text.
fn metadata_text<'a>(metadata: &'a [Metadata], key: &str) -> Option<&'a str> {
    metadata.iter().find(|entry| entry.key == key).and_then(|entry| std::str::from_utf8(&entry.val).ok())
}

/// What the edge asks of the connector on a new stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectRequest {
    /// `IP:port` for TCP (IPv6 in brackets), else a URL.
    pub dest: String,
    /// What the flow is.
    pub kind: ConnectionType,
    /// What else is to be known.
    pub metadata: Vec<Metadata>,
}

impl ConnectRequest {
    /// The first value of `key`, if it is a text.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        metadata_text(&self.metadata, key)
    }

    /// Appends preamble and message.
    ///
    /// # Errors
    /// The message is larger than the other side accepts; `out` is as before.
    pub fn encode(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        encode_with_preamble(out, 1, |builder, root| {
            builder.text(root, 0, &self.dest);
            let kind: u16 = match self.kind {
                ConnectionType::Http => 0,
                ConnectionType::WebSocket => 1,
                ConnectionType::Tcp => 2,
            };
            builder.set(root, 0, kind.to_le_bytes());
            encode_metadata(builder, root, &self.metadata);
        })
    }

    /// Reads a request at the start of a stream; `None` if it is not there whole. Behind the bytes consumed, the flow's
    /// own begin.
    ///
    /// # Errors
    /// The stream carries no request.
    pub fn decode(input: &[u8]) -> Result<Option<(Self, usize)>, DecodeError> {
        decode_with_preamble(input, |root| {
            let kind = match root.u16(0) {
                0 => ConnectionType::Http,
                1 => ConnectionType::WebSocket,
                2 => ConnectionType::Tcp,
                other => return Err(DecodeError::UnknownType(other)),
            };
            Ok(Self { dest: root.text(0)?.to_owned(), kind, metadata: decode_metadata(root)? })
        })
    }
}

/// What the connector answers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ConnectResponse {
    /// Why there is no flow; empty if there is one.
    pub error: String,
    /// What else is to be known.
    pub metadata: Vec<Metadata>,
}

impl ConnectResponse {
    /// The first value of `key`, if it is a text.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        metadata_text(&self.metadata, key)
    }

    /// Appends preamble and message.
    ///
    /// # Errors
    /// The message is larger than the other side accepts; `out` is as before.
    pub fn encode(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        encode_with_preamble(out, 0, |builder, root| {
            if !self.error.is_empty() {
                builder.text(root, 0, &self.error);
            }
            encode_metadata(builder, root, &self.metadata);
        })
    }

    /// Reads a response at the start of a stream; `None` if it is not there whole.
    ///
    /// # Errors
    /// The stream carries no response.
    pub fn decode(input: &[u8]) -> Result<Option<(Self, usize)>, DecodeError> {
        decode_with_preamble(input, |root| {
            // Errors quote what origins said, which need not be UTF-8.
            let error = String::from_utf8_lossy(root.text_bytes(0)?).into_owned();
            Ok(Self { error, metadata: decode_metadata(root)? })
        })
    }
}

/// Request and response have the metadata in pointer 1, and two pointers in all.
fn encode_with_preamble(
    out: &mut BytesMut,
    data_words: u16,
    fill: impl FnOnce(&mut Builder<'_>, crate::capnp::StructAt),
) -> Result<(), EncodeError> {
    let start = out.len();
    out.put_slice(&DATA_SIGNATURE);
    out.put_slice(&DATA_VERSION);
    let (mut builder, root) = Builder::new(out, MAX_STREAM_MESSAGE_BYTES, data_words, 2);
    fill(&mut builder, root);
    let result = builder.finish();
    if result.is_err() {
        out.truncate(start);
    }
    result
}

fn decode_with_preamble<T>(
    input: &[u8],
    read: impl FnOnce(StructReader<'_, '_>) -> Result<T, DecodeError>,
) -> Result<Option<(T, usize)>, DecodeError> {
    match StreamKind::detect(input)? {
        None => return Ok(None),
        Some(StreamKind::Rpc) => return Err(DecodeError::Signature),
        Some(StreamKind::Data) => {}
    }
    let Some(body) = input.get(PREAMBLE_BYTES..) else { return Ok(None) };
    let Some(frame) = Message::frame(body, &LIMITS)? else { return Ok(None) };
    let value = read(frame.message.root()?)?;
    Ok(Some((value, PREAMBLE_BYTES + frame.consumed)))
}

fn encode_metadata(builder: &mut Builder<'_>, root: crate::capnp::StructAt, metadata: &[Metadata]) {
    if metadata.is_empty() {
        return;
    }
    let list = builder.structs(root, 1, metadata.len(), 0, 2);
    for (place, entry) in list.iter().zip(metadata) {
        builder.text(place, 0, &entry.key);
        builder.text(place, 1, &entry.val);
    }
}

fn decode_metadata(root: StructReader<'_, '_>) -> Result<Vec<Metadata>, DecodeError> {
    let list = root.structs(1)?;
    let mut metadata = Vec::with_capacity(list.len());
    for entry in list.iter() {
        let entry = entry?;
        let val = Bytes::copy_from_slice(entry.text_bytes(1)?);
        metadata.push(Metadata { key: entry.text(0)?.to_owned(), val });
    }
    Ok(metadata)
}

/// Fuzz body: whatever decodes encodes again to something that decodes to the same.
#[doc(hidden)]
pub fn fuzz_connect_request(input: &[u8]) {
    if let Ok(Some((request, consumed))) = ConnectRequest::decode(input) {
        assert!(consumed <= input.len(), "a decoder consumes what it was given");
        let mut again = BytesMut::new();
        if request.encode(&mut again).is_ok() {
            assert_eq!(ConnectRequest::decode(&again), Ok(Some((request, again.len()))));
        }
    }
}

/// Fuzz body: whatever decodes encodes again to something that decodes to the same.
#[doc(hidden)]
pub fn fuzz_connect_response(input: &[u8]) {
    if let Ok(Some((response, consumed))) = ConnectResponse::decode(input) {
        assert!(consumed <= input.len(), "a decoder consumes what it was given");
        let mut again = BytesMut::new();
        if response.encode(&mut again).is_ok() {
            assert_eq!(ConnectResponse::decode(&again), Ok(Some((response, again.len()))));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn request(dest: &str, kind: ConnectionType, metadata: &[(&str, &str)]) -> ConnectRequest {
        let metadata =
            metadata.iter().map(|(key, val)| Metadata::new(*key, val.as_bytes().to_vec())).collect();
        ConnectRequest { dest: dest.into(), kind, metadata }
    }

    #[test]
    fn a_tcp_request_is_these_bytes() {
        let mut out = BytesMut::new();
        request("198.51.100.101:6443", ConnectionType::Tcp, &[("FlowID", "7")]).encode(&mut out).unwrap();
        let expected: &[u8] = &[
            0x0a, 0x36, 0xcd, 0x12, 0xa1, 0x3e, b'0', b'1', // preamble
            0, 0, 0, 0, 12, 0, 0, 0, // one segment of 12 words
            0, 0, 0, 0, 1, 0, 2, 0, // root: 1 data word, 2 pointers
            2, 0, 0, 0, 0, 0, 0, 0, // type tcp
            5, 0, 0, 0, 0xa2, 0, 0, 0, // dest: 20 bytes
            0x0d, 0, 0, 0, 0x17, 0, 0, 0, // metadata: 2 words of structs
            b'1', b'9', b'8', b'.', b'5', b'1', b'.', b'1', //
            b'0', b'0', b'.', b'1', b'0', b'1', b':', b'6', //
            b'4', b'4', b'3', 0, 0, 0, 0, 0, //
            4, 0, 0, 0, 0, 0, 2, 0, // one struct of 2 pointers
            5, 0, 0, 0, 0x3a, 0, 0, 0, // key: 7 bytes
            5, 0, 0, 0, 0x12, 0, 0, 0, // val: 2 bytes
            b'F', b'l', b'o', b'w', b'I', b'D', 0, 0, //
            b'7', 0, 0, 0, 0, 0, 0, 0,
        ];
        assert_eq!(&out[..], expected);
    }

    #[test]
    fn an_empty_response_is_these_bytes() {
        let mut out = BytesMut::new();
        ConnectResponse::default().encode(&mut out).unwrap();
        let expected: &[u8] = &[
            0x0a, 0x36, 0xcd, 0x12, 0xa1, 0x3e, b'0', b'1', //
            0, 0, 0, 0, 3, 0, 0, 0, //
            0, 0, 0, 0, 0, 0, 2, 0, //
            0, 0, 0, 0, 0, 0, 0, 0, //
            0, 0, 0, 0, 0, 0, 0, 0,
        ];
        assert_eq!(&out[..], expected);
    }

    #[test]
    fn streams_are_told_apart_at_the_first_byte_that_differs() {
        assert_eq!(StreamKind::detect(&[]), Ok(None));
        assert_eq!(StreamKind::detect(&DATA_SIGNATURE[..5]), Ok(None));
        assert_eq!(StreamKind::detect(&DATA_SIGNATURE), Ok(Some(StreamKind::Data)));
        assert_eq!(StreamKind::detect(&RPC_SIGNATURE), Ok(Some(StreamKind::Rpc)));
        assert_eq!(StreamKind::detect(&[0x0a, 0x37]), Err(DecodeError::Signature));
        assert_eq!(ConnectRequest::decode(&RPC_SIGNATURE), Err(DecodeError::Signature));
    }

    #[test]
    fn a_message_that_claims_to_be_huge_is_refused_before_it_arrives() {
        let mut input = [&DATA_SIGNATURE[..], b"01", &[0, 0, 0, 0], &u32::MAX.to_le_bytes()].concat();
        assert_eq!(ConnectRequest::decode(&input), Err(DecodeError::Message(ReadError::TooLarge)));
        input[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(ConnectRequest::decode(&input), Err(DecodeError::Message(ReadError::TooManySegments)));
    }

    #[test]
    fn a_request_larger_than_the_limit_is_not_written() {
        let mut out = BytesMut::from(&b"before"[..]);
        let error =
            request(&"x".repeat(MAX_STREAM_MESSAGE_BYTES), ConnectionType::Http, &[]).encode(&mut out);
        assert_eq!(error, Err(EncodeError { limit: MAX_STREAM_MESSAGE_BYTES }));
        assert_eq!(&out[..], b"before");
    }

    /// A request in two segments: `dest` behind a far pointer, `metadata` behind a double one.
    fn two_segments() -> Vec<u8> {
        let words: &[[u8; 8]] = &[
            [1, 0, 0, 0, 4, 0, 0, 0], // two segments, of 4 and
            [9, 0, 0, 0, 0, 0, 0, 0], // 9 words
            [0, 0, 0, 0, 1, 0, 2, 0],
            [2, 0, 0, 0, 0, 0, 0, 0],
            [2, 0, 0, 0, 1, 0, 0, 0],    // far: segment 1, word 0
            [0x16, 0, 0, 0, 1, 0, 0, 0], // double far: segment 1, word 2
            // segment 1
            [1, 0, 0, 0, 0x22, 0, 0, 0], // landing pad: 4 bytes, right behind
            *b"a:1\0\0\0\0\0",
            [0x22, 0, 0, 0, 1, 0, 0, 0], // content of metadata: segment 1, word 4
            [1, 0, 0, 0, 0x17, 0, 0, 0], // its tag: a list of structs, 2 words
            [4, 0, 0, 0, 0, 0, 2, 0],
            [5, 0, 0, 0, 0x12, 0, 0, 0],
            [5, 0, 0, 0, 0x12, 0, 0, 0],
            *b"k\0\0\0\0\0\0\0",
            *b"v\0\0\0\0\0\0\0",
        ];
        [&DATA_SIGNATURE[..], b"01", &words.concat()].concat()
    }

    #[test]
    fn far_pointers_are_followed() {
        let input = two_segments();
        let expected = request("a:1", ConnectionType::Tcp, &[("k", "v")]);
        assert_eq!(ConnectRequest::decode(&input), Ok(Some((expected, input.len()))));
    }

    #[test]
    fn a_flipped_bit_is_an_answer_or_an_error() {
        let mut simple = BytesMut::new();
        request("198.51.100.101:6443", ConnectionType::Tcp, &[("FlowID", "7")]).encode(&mut simple).unwrap();
        for original in [simple.to_vec(), two_segments()] {
            for bit in 0..original.len() * 8 {
                let mut input = original.clone();
                input[bit / 8] ^= 1 << (bit % 8);
                fuzz_connect_request(&input);
                fuzz_connect_response(&input);
            }
        }
    }

    prop_compose! {
        fn any_metadata()(
            entries in prop::collection::vec((".{0,20}", prop::collection::vec(any::<u8>(), 0..40)), 0..8),
        ) -> Vec<Metadata> {
            entries.into_iter().map(|(key, val)| Metadata::new(key, val)).collect()
        }
    }

    fn any_kind() -> impl Strategy<Value = ConnectionType> {
        prop::sample::select(vec![ConnectionType::Http, ConnectionType::WebSocket, ConnectionType::Tcp])
    }

    proptest! {
        #[test]
        fn requests_round_trip_and_are_read_only_when_whole(
            dest in ".{0,80}", kind in any_kind(), metadata in any_metadata(), behind: Vec<u8>,
        ) {
            let request = ConnectRequest { dest, kind, metadata };
            let mut out = BytesMut::new();
            request.encode(&mut out).unwrap();
            let size = out.len();
            for part in 0..size {
                prop_assert_eq!(ConnectRequest::decode(&out[..part]), Ok(None));
            }
            out.put_slice(&behind);
            prop_assert_eq!(ConnectRequest::decode(&out), Ok(Some((request, size))));
        }

        #[test]
        fn responses_round_trip(error in ".{0,80}", metadata in any_metadata()) {
            let response = ConnectResponse { error, metadata };
            let mut out = BytesMut::new();
            response.encode(&mut out).unwrap();
            prop_assert_eq!(ConnectResponse::decode(&out), Ok(Some((response, out.len()))));
        }

        #[test]
        fn any_words_behind_a_preamble_are_an_answer_or_an_error(
            words in prop::collection::vec(prop_oneof![any::<u64>(), 0u64..64, Just(0x0002_0001_0000_0000)], 0..40),
        ) {
            let segment: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            let size = u32::try_from(words.len()).unwrap().to_le_bytes();
            let input = [&DATA_SIGNATURE[..], b"01", &[0; 4], &size, &segment].concat();
            fuzz_connect_request(&input);
            fuzz_connect_response(&input);
        }
    }
}
