//! Capsules (RFC 9297, section 3.2): typed messages on a stream, by which datagrams cross where nothing else carries them.
//!
//! What always holds: a value is at most [`MAX_VALUE_BYTES`] long, and no more than one capsule and one chunk is held.
//! Which types there are and what they mean is the reader's to say; it passes over those that it does not know.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::stream::{ReadChunk, StreamError};

/// Type of a capsule that holds one datagram (RFC 9297, section 3.5).
pub const DATAGRAM: u64 = 0x00;
/// Type of a capsule that says in a word why a datagram did not arrive. Of our own, in the range for such.
pub const REFUSAL: u64 = 0x2ad1_7001;
/// Longest value of a capsule, in bytes: any UDP payload or ICMP message fits.
pub const MAX_VALUE_BYTES: usize = 65_535;

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capsule {
    /// What it is.
    pub kind: u64,
    /// What it says.
    pub value: Bytes,
}

/// No further capsule can be read from the stream.
#[derive(Debug, thiserror::Error)]
pub enum CapsuleError {
    /// A value longer than [`MAX_VALUE_BYTES`].
    #[error("a capsule of {0} bytes")]
    TooLong(u64),
    /// The stream ended inside a capsule.
    #[error("the stream ended inside a capsule")]
    Truncated,
    /// The stream failed.
    #[error(transparent)]
    Stream(#[from] StreamError),
}

impl From<CapsuleError> for StreamError {
    fn from(error: CapsuleError) -> Self {
        match error {
            CapsuleError::Stream(error) => error,
            CapsuleError::TooLong(_) | CapsuleError::Truncated => {
                Self::Io(std::io::Error::new(std::io::ErrorKind::InvalidData, error))
            }
        }
    }
}

/// Appends a capsule. A value longer than [`MAX_VALUE_BYTES`] is one that no reader takes: the caller has looked.
pub fn encode(kind: u64, value: &[u8], out: &mut BytesMut) {
    debug_assert!(value.len() <= MAX_VALUE_BYTES, "a reader would refuse it");
    out.reserve(2 * MAX_VARINT_BYTES + value.len());
    put_varint(kind, out);
    put_varint(value.len() as u64, out);
    out.put_slice(value);
}

/// Takes the first capsule off `input`; `None` if it is not there whole, and nothing is taken.
///
/// # Errors
/// Its value is too long.
pub fn decode(input: &mut BytesMut) -> Result<Option<Capsule>, CapsuleError> {
    let Some((kind, kind_bytes)) = varint(input) else { return Ok(None) };
    let Some((length, length_bytes)) = varint(&input[kind_bytes..]) else { return Ok(None) };
    let value_bytes = usize::try_from(length).ok().filter(|length| *length <= MAX_VALUE_BYTES);
    let value_bytes = value_bytes.ok_or(CapsuleError::TooLong(length))?;
    let header = kind_bytes + length_bytes;
    if input.len() < header + value_bytes {
        return Ok(None);
    }
    input.advance(header);
    Ok(Some(Capsule { kind, value: input.split_to(value_bytes).freeze() }))
}

/// A stream read as capsules.
#[derive(Debug)]
pub struct CapsuleReader<R> {
    reader: R,
    buffer: BytesMut,
}

impl<R> CapsuleReader<R> {
    /// The same capsules of a stream that is held in something else.
    pub(crate) fn map<R2>(self, reader: impl FnOnce(R) -> R2) -> CapsuleReader<R2> {
        CapsuleReader { reader: reader(self.reader), buffer: self.buffer }
    }
}

impl<R: ReadChunk> CapsuleReader<R> {
    /// The capsules of this stream.
    pub fn new(reader: R) -> Self {
        Self { reader, buffer: BytesMut::new() }
    }

    /// The next capsule; `None` when the peer has ended its direction.
    ///
    /// May be cancelled: nothing is lost, what has come of a capsule is kept for the next call.
    ///
    /// # Errors
    /// The stream failed, or carries something else.
    pub async fn next(&mut self) -> Result<Option<Capsule>, CapsuleError> {
        loop {
            if let Some(capsule) = decode(&mut self.buffer)? {
                return Ok(Some(capsule));
            }
            match self.reader.read_chunk().await? {
                Some(chunk) => self.buffer.extend_from_slice(&chunk),
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(CapsuleError::Truncated),
            }
        }
    }

    /// Tells the peer to send no more.
    pub fn stop(&mut self) {
        self.reader.stop();
    }
}

/// Appends a variable-length integer (RFC 9000, section 16). Bits above the 62nd are not carried.
pub(crate) fn put_varint(value: u64, out: &mut BytesMut) {
    let value = value & MAX_VARINT;
    if let Ok(small) = u8::try_from(value)
        && small < 1 << 6
    {
        out.put_u8(small);
    } else if let Ok(small) = u16::try_from(value)
        && small < 1 << 14
    {
        out.put_u16(small | 0b01 << 14);
    } else if let Ok(small) = u32::try_from(value)
        && small < 1 << 30
    {
        out.put_u32(small | 0b10 << 30);
    } else {
        out.put_u64(value | 0b11 << 62);
    }
}

/// Reads a variable-length integer, and how many bytes it took.
pub(crate) fn varint(input: &[u8]) -> Option<(u64, usize)> {
    let length = 1 << (input.first()? >> 6);
    let bytes = input.get(..length)?;
    let value = bytes.iter().fold(0, |value, byte| value << 8 | u64::from(*byte));
    Some((value & (MAX_VARINT >> (62 - (8 * length - 2))), length))
}

/// Largest variable-length integer.
const MAX_VARINT: u64 = (1 << 62) - 1;
/// Longest variable-length integer, in bytes.
const MAX_VARINT_BYTES: usize = 8;

/// Fuzz body: whatever is read is written to something that reads the same, and nothing is taken of what is not whole.
#[doc(hidden)]
pub fn fuzz_capsule(data: &[u8]) {
    let mut input = BytesMut::from(data);
    loop {
        let before = input.len();
        let Ok(Some(capsule)) = decode(&mut input) else {
            assert_eq!(input.len(), before, "nothing is taken without a capsule");
            return;
        };
        let mut again = BytesMut::new();
        encode(capsule.kind, &capsule.value, &mut again);
        assert!(again.len() <= before - input.len(), "our form is the shortest");
        assert!(
            decode(&mut again).is_ok_and(|read| read == Some(capsule)),
            "a capsule reads as it was written"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use futures_util::FutureExt as _;
    use proptest::prelude::*;

    use super::*;

    /// Gives its chunks one by one, and between them a turn in which there is nothing.
    struct Chunks(VecDeque<Bytes>, bool);

    impl Chunks {
        fn of(bytes: &[u8], size: usize) -> Self {
            Self(bytes.chunks(size.max(1)).map(Bytes::copy_from_slice).collect(), false)
        }
    }

    impl ReadChunk for Chunks {
        async fn read_chunk(&mut self) -> Result<Option<Bytes>, StreamError> {
            self.1 = !self.1;
            if self.1 {
                tokio::task::yield_now().await;
            }
            Ok(self.0.pop_front())
        }

        fn stop(&mut self) {}
    }

    fn encoded(kind: u64, value: &[u8]) -> BytesMut {
        let mut out = BytesMut::new();
        encode(kind, value, &mut out);
        out
    }

    #[test]
    fn capsules_are_these_bytes() {
        assert_eq!(&encoded(DATAGRAM, b"dns")[..], b"\x00\x03dns");
        assert_eq!(&encoded(REFUSAL, b"refused")[..], b"\xaa\xd1\x70\x01\x07refused");
        assert_eq!(&encoded(DATAGRAM, &[7; 64])[..4], b"\x00\x40\x40\x07");
        assert_eq!(&encoded(DATAGRAM, &vec![7; MAX_VALUE_BYTES])[..6], b"\x00\x80\x00\xff\xff\x07");
    }

    #[test]
    fn integers_are_those_of_the_standard() {
        // RFC 9000, appendix A.1.
        for (bytes, value) in [
            (&b"\xc2\x19\x7c\x5e\xff\x14\xe8\x8c"[..], 151_288_809_941_952_652),
            (b"\x9d\x7f\x3e\x7d", 494_878_333),
            (b"\x7b\xbd", 15_293),
            (b"\x25", 37),
        ] {
            assert_eq!(varint(bytes), Some((value, bytes.len())));
            let mut out = BytesMut::new();
            put_varint(value, &mut out);
            assert_eq!(&out[..], bytes);
        }
        assert_eq!(varint(b"\x40\x25"), Some((37, 2)));
        assert_eq!(varint(b"\x40"), None);
        assert_eq!(varint(b""), None);
    }

    #[test]
    fn a_value_that_is_too_long_is_refused_before_it_is_there() {
        let mut input = BytesMut::from(&b"\x00\x80\x01\x00\x00"[..]);
        assert!(matches!(decode(&mut input), Err(CapsuleError::TooLong(65_536))));
    }

    #[tokio::test]
    async fn a_stream_that_ends_inside_a_capsule_is_no_orderly_end() {
        let mut reader = CapsuleReader::new(Chunks::of(b"\x00\x01a\x00\x03b", 2));
        assert_eq!(reader.next().await.unwrap().unwrap().value, b"a"[..]);
        assert!(matches!(reader.next().await, Err(CapsuleError::Truncated)));
        let mut reader = CapsuleReader::new(Chunks::of(b"", 1));
        assert_eq!(reader.next().await.unwrap(), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_capsules_or_an_error(data: Vec<u8>) {
            fuzz_capsule(&data);
        }

        #[test]
        fn capsules_read_as_they_were_written_however_they_are_cut_and_cancelled(
            capsules in prop::collection::vec((0..=MAX_VARINT, prop::collection::vec(any::<u8>(), 0..300)), 0..8),
            size in 1_usize..400,
        ) {
            let mut bytes = BytesMut::new();
            for (kind, value) in &capsules {
                encode(*kind, value, &mut bytes);
            }
            let mut reader = CapsuleReader::new(Chunks::of(&bytes, size));
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let read = runtime.block_on(async {
                let mut read = Vec::new();
                loop {
                    // Given up and asked again each time that there is nothing yet.
                    match reader.next().now_or_never() {
                        Some(Ok(Some(Capsule { kind, value }))) => read.push((kind, value.to_vec())),
                        Some(Ok(None)) => return read,
                        Some(Err(error)) => panic!("{error}"),
                        None => {}
                    }
                }
            });
            prop_assert_eq!(read, capsules);
        }
    }
}
