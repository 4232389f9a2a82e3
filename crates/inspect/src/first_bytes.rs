//! The protocol that a flow's client speaks, by the first bytes that it sends (policy language, section 8: N1).
//!
//! Bytes come in pieces: as long as they may still become one of the known protocols, more are asked for, and a piece
//! more never takes back what was recognised. Whoever reads them sets a limit to how many and how long.

use adit_model::FirstBytes;

use crate::client_hello::{self, ClientHello};

/// As many bytes are waited for (policy language, section 8).
pub const LIMIT: usize = 16 << 10;

/// What is to be made of bytes that came so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen<T> {
    /// This.
    Yes(T),
    /// Nothing of the kind, whatever comes.
    No,
    /// The bytes that come next decide.
    More,
}

pub(crate) fn seen<T>(read: Option<T>) -> Seen<T> {
    read.map_or(Seen::No, Seen::Yes)
}

/// Recognises what the client speaks. `None` as long as more bytes may say more; with `ended`, no more come.
pub fn recognise(bytes: &[u8], ended: bool) -> Option<FirstBytes> {
    let full = bytes.len() >= LIMIT;
    let bytes = &bytes[..bytes.len().min(LIMIT)];
    let last = ended || full;
    match client_hello::read(bytes) {
        Seen::Yes(hello) => return Some(told("tls", hello)),
        Seen::More if !last => return None,
        Seen::More | Seen::No => {}
    }
    for (protocol, speaks) in PROTOCOLS {
        match speaks(bytes) {
            Seen::Yes(()) => return Some(FirstBytes { protocol: Some(protocol), ..FirstBytes::default() }),
            Seen::More if !last => return None,
            Seen::More | Seen::No => {}
        }
    }
    Some(FirstBytes::default())
}

/// What a hello says.
pub(crate) fn told(protocol: &'static str, hello: ClientHello) -> FirstBytes {
    let server_name = hello.server_name.as_deref().and_then(canonical);
    FirstBytes { server_name, protocol: Some(protocol), application_protocols: hello.application_protocols }
}

/// A host name as rules are asked for it. What cannot be one names nobody.
fn canonical(name: &str) -> Option<String> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let is_name =
        !name.is_empty() && name.len() <= MAX_NAME && name.bytes().all(|byte| byte.is_ascii_graphic());
    is_name.then(|| name.to_ascii_lowercase())
}

/// Longest host name (RFC 1035, section 2.3.4).
const MAX_NAME: usize = 253;

/// How to recognise one protocol.
type Speaks = fn(&[u8]) -> Seen<()>;

/// The names are those of the contract. HTTP/2 stands before HTTP, as its preface begins like a request of HTTP/1.
const PROTOCOLS: [(&str, Speaks); 8] = [
    ("tls", |bytes| pattern(bytes, &[Some(22), Some(3), None, None, None, Some(1)])),
    ("http2", |bytes| text(bytes, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")),
    ("http", http),
    ("ssh", |bytes| text(bytes, b"SSH-")),
    // A bind of version 5.0 (C706, section 12.6.4.3).
    ("dcerpc", |bytes| pattern(bytes, &[Some(5), Some(0), Some(11)])),
    ("mqtt", mqtt),
    // A TPKT with a connection request (RFC 1006, section 6; X.224, 13.3): what RDP begins with.
    ("tpkt", |bytes| pattern(bytes, &[Some(3), Some(0), None, None, None, Some(0xe0)])),
    ("dnp3", |bytes| pattern(bytes, &[Some(0x05), Some(0x64)])),
];

fn text(bytes: &[u8], expected: &[u8]) -> Seen<()> {
    let same = bytes.iter().zip(expected).all(|(a, b)| a == b);
    match same {
        false => Seen::No,
        true if bytes.len() >= expected.len() => Seen::Yes(()),
        true => Seen::More,
    }
}

/// Bytes that are as given, where something is given.
fn pattern(bytes: &[u8], expected: &[Option<u8>]) -> Seen<()> {
    let same =
        bytes.iter().zip(expected).all(|(byte, expected)| expected.is_none_or(|expected| expected == *byte));
    match same {
        false => Seen::No,
        true if bytes.len() >= expected.len() => Seen::Yes(()),
        true => Seen::More,
    }
}

fn either(all: &[Seen<()>]) -> Seen<()> {
    if all.contains(&Seen::Yes(())) {
        Seen::Yes(())
    } else if all.contains(&Seen::More) {
        Seen::More
    } else {
        Seen::No
    }
}

/// A request of HTTP/1 (RFC 9112, section 3): a method in capital letters, a blank, and a target.
fn http(bytes: &[u8]) -> Seen<()> {
    let letters = bytes.iter().take_while(|byte| byte.is_ascii_uppercase() || **byte == b'-').count();
    match bytes.get(letters) {
        _ if letters > MAX_METHOD => Seen::No,
        None => Seen::More,
        Some(b' ') if letters >= MIN_METHOD => match &bytes[letters + 1..] {
            [] => Seen::More,
            [b'/' | b'*', ..] => Seen::Yes(()),
            _ if &bytes[..letters] == b"CONNECT" => Seen::Yes(()),
            target => text(target, b"http"),
        },
        Some(_) => Seen::No,
    }
}

/// The registered methods have from 3 (`GET`) to 17 letters (`UPDATEREDIRECTREF`).
const MIN_METHOD: usize = 3;
const MAX_METHOD: usize = 20;

/// A `CONNECT` packet (MQTT 3.1.1 and 5.0, section 3.1): a length of one to four bytes, then the protocol's name.
fn mqtt(bytes: &[u8]) -> Seen<()> {
    match bytes.first() {
        None => return Seen::More,
        Some(0x10) => {}
        Some(_) => return Seen::No,
    }
    let length = bytes[1..].iter().take(4).take_while(|byte| **byte & 0x80 != 0).count() + 1;
    match bytes.get(1 + length..) {
        _ if length > 4 => Seen::No,
        None => Seen::More,
        Some(name) => either(&[text(name, b"\x00\x04MQTT"), text(name, b"\x00\x06MQIsdp")]),
    }
}

/// Whatever the bytes are: reading ends, and what was recognised in some of them is recognised in all of them.
#[doc(hidden)]
pub fn fuzz_first_bytes(bytes: &[u8]) {
    let mut recognised = None;
    // Each prefix of a long input would take long and find nothing new.
    let steps = (0..=bytes.len()).filter(|at| *at < 64 || at % 61 == 0 || *at == bytes.len());
    for at in steps {
        let now = recognise(&bytes[..at], false);
        assert!(recognised.is_none() || now == recognised, "{recognised:?} became {now:?} with {at} bytes");
        recognised = now;
    }
    assert!(recognise(bytes, true).is_some(), "what has ended is known");
    if let Some(name) = recognised.and_then(|first| first.server_name) {
        assert!(!name.is_empty() && name.len() <= MAX_NAME);
        assert!(!name.bytes().any(|byte| byte.is_ascii_uppercase()));
    }
}

#[cfg(test)]
mod tests;
