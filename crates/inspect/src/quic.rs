//! The server that a QUIC client names, by its first datagrams (RFC 9000, section 17.2.2; RFC 9001, section 5; RFC 9369).
//!
//! A client's Initial packets are protected with keys that everybody on the path can make, so that the hello in them can be
//! read. It may be cut into frames in any order and into several datagrams. Nothing that a client sends makes this hold more
//! than a hello of [`LIMIT`] bytes in [`MAX_PIECES`] pieces.

use std::collections::BTreeMap;

use adit_model::FirstBytes;
use rustls::Side;
use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
use rustls::quic::{DirectionalKeys, Version};

use crate::client_hello;
use crate::first_bytes::{LIMIT, Seen, told};

/// The name of the protocol in rules.
pub const QUIC: &str = "quic";

/// A client's first datagram is at least so long (RFC 9000, section 14.1).
const MIN_DATAGRAM: usize = 1200;
/// Longest connection id (RFC 9000, section 17.2).
const MAX_CONNECTION_ID: usize = 20;
/// Pieces of a hello that are put together.
const MAX_PIECES: usize = 64;

/// Reads a client's datagrams until its hello is whole.
#[derive(Default)]
pub struct Reader {
    /// What the client's packets are protected with; none before the first.
    keys: Option<DirectionalKeys>,
    pieces: BTreeMap<usize, Vec<u8>>,
}

impl Reader {
    /// Takes the client's next datagram. That it speaks QUIC is known by the first; of a version that nobody here knows it is
    /// known that it is QUIC, and nothing else.
    pub fn read(&mut self, datagram: &[u8]) -> Seen<FirstBytes> {
        let is_first = self.keys.is_none();
        if is_first && !begins(datagram) {
            return Seen::No;
        }
        let mut rest = datagram;
        while let Some(packet) = long_header(rest) {
            if packet.is_initial {
                let keys = match &mut self.keys {
                    Some(keys) => keys,
                    none => match keys_of(&packet) {
                        Some(keys) => none.insert(keys),
                        None => break,
                    },
                };
                if let Some(frames) = opened(keys, &packet) {
                    take_pieces(&mut self.pieces, &frames);
                }
            }
            rest = packet.after;
        }
        if self.keys.is_none() {
            return Seen::Yes(unknown());
        }
        match client_hello::read_message(&self.message()) {
            Seen::Yes(hello) => Seen::Yes(told(QUIC, hello)),
            Seen::No => Seen::Yes(unknown()),
            Seen::More if self.pieces.len() >= MAX_PIECES => Seen::Yes(unknown()),
            Seen::More => Seen::More,
        }
    }

    /// What is known when no more datagrams are waited for.
    pub fn so_far(&self) -> FirstBytes {
        if self.keys.is_some() { unknown() } else { FirstBytes::default() }
    }

    /// What is there of the hello from its beginning on.
    fn message(&self) -> Vec<u8> {
        let mut message = Vec::new();
        for (at, piece) in &self.pieces {
            match message.len().checked_sub(*at) {
                Some(known) => message.extend_from_slice(piece.get(known..).unwrap_or_default()),
                None => break,
            }
        }
        message
    }
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("pieces", &self.pieces.len()).finish_non_exhaustive()
    }
}

/// A client of QUIC of which nothing else is known.
fn unknown() -> FirstBytes {
    FirstBytes { protocol: Some(QUIC), ..FirstBytes::default() }
}

/// Whether a client's first datagram is one of QUIC, of whatever version (RFC 8999, section 5.1).
fn begins(datagram: &[u8]) -> bool {
    let [first, version @ ..] = datagram.first_chunk::<5>().copied().unwrap_or_default();
    datagram.len() >= MIN_DATAGRAM && first & 0xc0 == 0xc0 && version != [0; 4]
}

/// A packet with a long header, still protected.
struct Packet<'a> {
    version: u32,
    is_initial: bool,
    destination: &'a [u8],
    /// From its first byte to its last.
    bytes: &'a [u8],
    /// Where its packet number begins.
    number_at: usize,
    /// What follows in the datagram.
    after: &'a [u8],
}

const VERSION_1: u32 = 1;
const VERSION_2: u32 = 0x6b33_43cf;

/// Reads the header at the front; `None` where there is none of a known version.
fn long_header(bytes: &[u8]) -> Option<Packet<'_>> {
    let mut cursor = Cursor(bytes);
    let first = cursor.take(1)?[0];
    let version = u32::from_be_bytes(*cursor.take(4)?.first_chunk()?);
    let kind = first >> 4 & 3;
    let (is_initial, is_retry) = match version {
        VERSION_1 => (kind == 0, kind == 3),
        VERSION_2 => (kind == 1, kind == 0),
        _ => return None,
    };
    if first & 0x80 == 0 || is_retry {
        return None;
    }
    let destination = cursor.connection_id()?;
    cursor.connection_id()?;
    if is_initial {
        let token = cursor.number()?;
        cursor.take(token)?;
    }
    let length = cursor.number()?;
    let number_at = bytes.len() - cursor.0.len();
    cursor.take(length)?;
    let end = bytes.len() - cursor.0.len();
    Some(Packet { version, is_initial, destination, bytes: &bytes[..end], number_at, after: cursor.0 })
}

fn keys_of(packet: &Packet<'_>) -> Option<DirectionalKeys> {
    let version = if packet.version == VERSION_2 { Version::V2 } else { Version::V1 };
    let suite = TLS13_AES_128_GCM_SHA256.tls13()?.quic_suite()?;
    Some(suite.keys(packet.destination, Side::Server, version).remote)
}

/// Takes the protection away (RFC 9001, sections 5.4 and 5.3): the frames, or nothing if it is not theirs.
fn opened(keys: &DirectionalKeys, packet: &Packet<'_>) -> Option<Vec<u8>> {
    let mut bytes = packet.bytes.to_vec();
    // The sample begins where the packet number would end if it had four bytes.
    let sample = bytes.get(packet.number_at + 4..packet.number_at + 4 + keys.header.sample_len())?.to_vec();
    let (head, tail) = bytes.split_at_mut(packet.number_at);
    let first = head.first_mut()?;
    keys.header.decrypt_in_place(&sample, first, tail.get_mut(..4)?).ok()?;
    let length = usize::from(*first & 3) + 1;
    let number = tail.get(..length)?.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
    // A client that has sent only its hello has sent few packets: the number is whole.
    let (header, payload) = bytes.split_at_mut(packet.number_at + length);
    keys.packet.decrypt_in_place(number, header, payload).ok().map(<[u8]>::to_vec)
}

/// Takes the pieces of the hello from the frames of an Initial packet (RFC 9000, section 12.4); what follows a frame that may
/// not stand there is not read.
fn take_pieces(pieces: &mut BTreeMap<usize, Vec<u8>>, frames: &[u8]) {
    let mut cursor = Cursor(frames);
    while let Some(kind) = cursor.take(1) {
        let read = match kind[0] {
            0 | 1 => Some(()),
            kind @ (2 | 3) => cursor.acknowledgement(kind == 3),
            6 => cursor.piece().map(|(at, piece)| {
                if at + piece.len() <= LIMIT && (pieces.len() < MAX_PIECES || pieces.contains_key(&at)) {
                    let longer = pieces.get(&at).is_none_or(|known| known.len() < piece.len());
                    if longer {
                        pieces.insert(at, piece.to_vec());
                    }
                }
            }),
            _ => None,
        };
        if read.is_none() {
            return;
        }
    }
}

/// Reads from the front; `None` where there is too little.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn connection_id(&mut self) -> Option<&'a [u8]> {
        let length = usize::from(self.take(1)?[0]);
        if length > MAX_CONNECTION_ID { None } else { self.take(length) }
    }

    /// A number of variable length (RFC 9000, section 16).
    fn number(&mut self) -> Option<usize> {
        let length = 1 << (self.0.first()? >> 6);
        let bytes = self.take(length)?;
        let first = u64::from(bytes[0] & 0x3f);
        let number = bytes[1..].iter().fold(first, |number, byte| number << 8 | u64::from(*byte));
        usize::try_from(number).ok()
    }

    /// An ACK frame, with counts of ECN (RFC 9000, section 19.3).
    fn acknowledgement(&mut self, has_counts: bool) -> Option<()> {
        self.number()?;
        self.number()?;
        let ranges = self.number()?;
        self.number()?;
        for _ in 0..ranges {
            self.number()?;
            self.number()?;
        }
        for _ in 0..if has_counts { 3 } else { 0 } {
            self.number()?;
        }
        Some(())
    }

    /// A CRYPTO frame (RFC 9000, section 19.6): where it stands, and what.
    fn piece(&mut self) -> Option<(usize, &'a [u8])> {
        let at = self.number()?;
        let length = self.number()?;
        let piece = self.take(length)?;
        at.checked_add(length)?;
        Some((at, piece))
    }
}

/// Whatever the datagrams are, reading them ends; also behind the protection, which random bytes do not pass.
#[doc(hidden)]
pub fn fuzz_quic(bytes: &[u8]) {
    let mut reader = Reader::default();
    let half = bytes.len() / 2;
    let _ = reader.read(bytes);
    let _ = reader.read(&bytes[half..]);
    let mut padded = bytes.to_vec();
    padded.resize(bytes.len().max(MIN_DATAGRAM), 0);
    if let Some(first) = padded.first_mut() {
        *first |= 0xc0;
    }
    let _ = Reader::default().read(&padded);
    let mut reader = Reader::default();
    take_pieces(&mut reader.pieces, bytes);
    take_pieces(&mut reader.pieces, &bytes[half..]);
    assert!(reader.pieces.len() <= MAX_PIECES && reader.message().len() <= LIMIT);
}

#[cfg(test)]
mod tests;
