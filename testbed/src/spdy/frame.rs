//! SPDY/3.1 frames (draft-mbelshe-httpbis-spdy-00 § 2.2, 2.6), without I/O.
//!
//! Header blocks share one compression state per direction, so frames must be decoded in the order of arrival.

use anyhow::{Context as _, Result, bail, ensure};
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

/// Names and values in the order of the block.
pub type Headers = Vec<(String, String)>;

/// RST_STREAM status: the receiver does not take the stream (§ 2.6.3).
pub const REFUSED_STREAM: u32 = 3;

/// The dictionary of § 2.6.10.1.
const DICTIONARY: &[u8] = include_bytes!("dictionary.bin");
/// Largest payload taken. The clients in question send at most 32 KiB; the format allows 16 MiB.
const MAX_FRAME_BYTES: usize = 1 << 20;
/// Largest header block, decompressed.
const MAX_HEADERS_BYTES: usize = 64 << 10;
const VERSION: u16 = 3;
const FLAG_FIN: u8 = 1;
const HEADER_BYTES: usize = 8;

/// What is told apart here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// The peer opens a stream.
    SynStream {
        /// Stream.
        id: u32,
        /// Nothing more will come on it.
        fin: bool,
        /// What it is for.
        headers: Headers,
    },
    /// The answer to one.
    SynReply {
        /// Stream.
        id: u32,
        /// Usually none.
        headers: Headers,
    },
    /// Bytes.
    Data {
        /// Stream.
        id: u32,
        /// Nothing more will come on it.
        fin: bool,
        /// The bytes.
        data: Bytes,
    },
    /// A stream ends abruptly.
    RstStream {
        /// Stream.
        id: u32,
        /// Why.
        status: u32,
    },
    /// To be sent back by whom it was not numbered by.
    Ping {
        /// Odd: from the client.
        id: u32,
    },
    /// The peer opens no more streams.
    GoAway,
    /// SETTINGS, HEADERS, WINDOW_UPDATE: not used.
    Other {
        /// Its control frame type.
        kind: u16,
    },
}

/// Bytes to frames.
#[derive(Debug)]
pub struct Decoder {
    inflate: Decompress,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { inflate: Decompress::new(true) }
    }
}

impl Decoder {
    /// Takes one frame from the front of `buffer`, or `None` when it is not whole yet.
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>> {
        let Some(&head) = buffer.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let word = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
        let flags = head[4];
        let length = usize::from(head[5]) << 16 | usize::from(head[6]) << 8 | usize::from(head[7]);
        ensure!(length <= MAX_FRAME_BYTES, "SPDY frame of {length} bytes");
        if buffer.len() < HEADER_BYTES + length {
            return Ok(None);
        }
        buffer.advance(HEADER_BYTES);
        let payload = buffer.split_to(length).freeze();
        let fin = flags & FLAG_FIN != 0;
        if word >> 31 == 0 {
            return Ok(Some(Frame::Data { id: word, fin, data: payload }));
        }
        let (version, kind) =
            (u16::from_be_bytes([head[0], head[1]]) & 0x7fff, u16::from_be_bytes([head[2], head[3]]));
        ensure!(version == VERSION, "SPDY version {version}");
        self.control(kind, fin, payload).map(Some)
    }

    fn control(&mut self, kind: u16, fin: bool, mut payload: Bytes) -> Result<Frame> {
        let mut word =
            || payload.try_get_u32().map(|word| word & 0x7fff_ffff).context("SPDY frame is too short");
        Ok(match kind {
            1 => {
                let (id, _associated) = (word()?, word()?);
                payload.try_get_u16().context("SYN_STREAM is too short")?;
                Frame::SynStream { id, fin, headers: self.headers(&payload)? }
            }
            2 => {
                let id = word()?;
                Frame::SynReply { id, headers: self.headers(&payload)? }
            }
            3 => Frame::RstStream { id: word()?, status: word()? },
            6 => Frame::Ping { id: payload.try_get_u32().context("PING is too short")? },
            7 => Frame::GoAway,
            8 => {
                // Not used, but it must pass the decompressor, whose state every later block needs.
                word()?;
                self.headers(&payload)?;
                Frame::Other { kind }
            }
            _ => Frame::Other { kind },
        })
    }

    fn headers(&mut self, block: &[u8]) -> Result<Headers> {
        let plain = self.inflate(block)?;
        let mut plain = plain.as_slice();
        let count = plain.try_get_u32().context("header block is empty")?;
        let mut headers = Vec::new();
        for _ in 0..count {
            headers.push((text(&mut plain)?, text(&mut plain)?));
        }
        Ok(headers)
    }

    fn inflate(&mut self, block: &[u8]) -> Result<Vec<u8>> {
        let mut plain = Vec::with_capacity(4096);
        let start = self.inflate.total_in();
        loop {
            let read = usize::try_from(self.inflate.total_in() - start)?;
            if read == block.len() && plain.len() < plain.capacity() {
                return Ok(plain);
            }
            if plain.len() == plain.capacity() {
                ensure!(plain.len() < MAX_HEADERS_BYTES, "header block over {MAX_HEADERS_BYTES} bytes");
                plain.reserve(plain.len());
            }
            let before = (read, plain.len());
            match self.inflate.decompress_vec(&block[read..], &mut plain, FlushDecompress::Sync) {
                Ok(Status::Ok | Status::BufError) => {}
                Ok(Status::StreamEnd) => bail!("header compression ended"),
                Err(error) if error.needs_dictionary().is_some() => {
                    self.inflate
                        .set_dictionary(DICTIONARY)
                        .context("header compression uses another dictionary")?;
                    continue;
                }
                Err(error) => return Err(error).context("header block does not decompress"),
            }
            let after = (usize::try_from(self.inflate.total_in() - start)?, plain.len());
            ensure!(after != before || after.0 == block.len(), "header block is cut short");
        }
    }
}

fn text(plain: &mut &[u8]) -> Result<String> {
    let length = plain.try_get_u32().context("header block is cut short")? as usize;
    ensure!(length <= plain.len(), "header block is cut short");
    let (text, rest) = plain.split_at(length);
    *plain = rest;
    Ok(String::from_utf8_lossy(text).into_owned())
}

/// Frames to bytes.
#[derive(Debug)]
pub struct Encoder {
    deflate: Compress,
}

impl Default for Encoder {
    fn default() -> Self {
        let mut deflate = Compress::new(Compression::default(), true);
        deflate.set_dictionary(DICTIONARY).expect("a fresh compressor takes any dictionary");
        Self { deflate }
    }
}

impl Encoder {
    /// Appends a frame to `out`.
    pub fn encode(&mut self, frame: &Frame, out: &mut BytesMut) {
        match frame {
            Frame::Data { id, fin, data } => {
                out.put_u32(*id);
                put_flags_and_length(u8::from(*fin), data.len(), out);
                out.put_slice(data);
            }
            Frame::SynStream { id, fin, headers } => {
                let block = self.headers(headers);
                put_control(1, u8::from(*fin), 10 + block.len(), out);
                out.put_u32(*id);
                out.put_u32(0);
                out.put_u16(0);
                out.put_slice(&block);
            }
            Frame::SynReply { id, headers } => {
                let block = self.headers(headers);
                put_control(2, 0, 4 + block.len(), out);
                out.put_u32(*id);
                out.put_slice(&block);
            }
            Frame::RstStream { id, status } => {
                put_control(3, 0, 8, out);
                out.put_u32(*id);
                out.put_u32(*status);
            }
            Frame::Ping { id } => {
                put_control(6, 0, 4, out);
                out.put_u32(*id);
            }
            Frame::GoAway => {
                put_control(7, 0, 8, out);
                out.put_u64(0);
            }
            Frame::Other { kind } => put_control(*kind, 0, 0, out),
        }
    }

    fn headers(&mut self, headers: &Headers) -> Vec<u8> {
        let mut plain = Vec::new();
        plain.put_u32(u32::try_from(headers.len()).expect("our own headers are few"));
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            plain.put_u32(u32::try_from(text.len()).expect("our own headers are short"));
            plain.put_slice(text.as_bytes());
        }
        // Deflate grows what it cannot shrink by a few bytes per 16 KiB; the rest is for the header and the sync marker.
        let mut block = Vec::with_capacity(plain.len() + plain.len() / 1024 + 64);
        self.deflate
            .compress_vec(&plain, &mut block, FlushCompress::Sync)
            .expect("the output buffer holds the block");
        block
    }
}

fn put_control(kind: u16, flags: u8, length: usize, out: &mut BytesMut) {
    out.put_u16(0x8000 | VERSION);
    out.put_u16(kind);
    put_flags_and_length(flags, length, out);
}

fn put_flags_and_length(flags: u8, length: usize, out: &mut BytesMut) {
    assert!(length < 1 << 24, "a frame's length has 24 bits");
    out.put_u32(u32::from(flags) << 24 | u32::try_from(length).expect("just checked"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<Frame> {
        let headers =
            vec![("streamtype".to_owned(), "data".to_owned()), ("port".to_owned(), "8080".to_owned())];
        vec![
            Frame::SynStream { id: 1, fin: true, headers: headers.clone() },
            Frame::SynReply { id: 1, headers: Vec::new() },
            Frame::SynStream { id: 3, fin: false, headers },
            Frame::Data { id: 3, fin: false, data: Bytes::from_static(b"hello") },
            Frame::Data { id: 3, fin: true, data: Bytes::new() },
            Frame::RstStream { id: 3, status: REFUSED_STREAM },
            Frame::Ping { id: 5 },
            Frame::GoAway,
        ]
    }

    #[test]
    fn frames_survive_the_round_trip_in_any_pieces() {
        for piece in [1, 7, usize::MAX] {
            let mut bytes = BytesMut::new();
            let mut encoder = Encoder::default();
            for frame in all() {
                encoder.encode(&frame, &mut bytes);
            }
            let (mut decoder, mut buffer, mut got) = (Decoder::default(), BytesMut::new(), Vec::new());
            for chunk in bytes.chunks(piece.min(bytes.len())) {
                buffer.put_slice(chunk);
                while let Some(frame) = decoder.decode(&mut buffer).unwrap() {
                    got.push(frame);
                }
            }
            assert_eq!(got, all(), "pieces of {piece}");
        }
    }

    /// The first frames of a port-forward, as kubectl v1.33.9 sends them: the streams of one connection to port 80.
    #[test]
    fn frames_of_kubectl_are_understood() {
        const GOLDEN: &str = "800300010000003d00000001000000000000\
            78f9e3c6a7c202253a703a2b294a4dcc851625aca9a0808614cb45a024cc6461c0c0c0c0590489c44c50e2663400000000ffff\
            800300010000001800000003000000000000c2aa15540a2512d209000000ffff";
        let bytes = GOLDEN
            .as_bytes()
            .chunks(2)
            .map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap());
        let (mut buffer, mut decoder) = (bytes.collect::<BytesMut>(), Decoder::default());
        for (id, kind) in [(1, "error"), (3, "data")] {
            let headers = [("port", "80"), ("requestid", "0"), ("streamtype", kind)];
            let mut headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
            let Some(Frame::SynStream { id: got_id, fin, headers: mut got }) =
                decoder.decode(&mut buffer).unwrap()
            else {
                panic!("no SYN_STREAM");
            };
            got.sort();
            headers.sort();
            assert_eq!((got_id, fin, got), (id, false, headers));
        }
        assert!(buffer.is_empty());
    }

    #[test]
    fn a_header_bomb_is_refused() {
        let mut deflate = Compress::new(Compression::default(), true);
        deflate.set_dictionary(DICTIONARY).unwrap();
        let mut block = Vec::with_capacity(1 << 16);
        deflate.compress_vec(&vec![0; 8 << 20], &mut block, FlushCompress::Sync).unwrap();
        let error = Decoder::default().headers(&block).unwrap_err();
        assert!(error.to_string().contains("header block over"), "{error:#}");
    }

    #[test]
    fn oversized_and_foreign_frames_are_errors() {
        for (bytes, want) in [
            ([0x80, 3, 0, 6, 0, 0xff, 0xff, 0xff], "SPDY frame of"),
            ([0x80, 2, 0, 7, 0, 0, 0, 0], "SPDY version 2"),
            ([0x80, 3, 0, 6, 0, 0, 0, 0], "PING is too short"),
            ([0x80, 3, 0, 1, 0, 0, 0, 0], "SPDY frame is too short"),
        ] {
            let error = Decoder::default().decode(&mut BytesMut::from(&bytes[..])).unwrap_err();
            assert!(error.to_string().contains(want), "{error:#} is not {want}");
        }
    }
}
