//! The server's name in a ClientHello (RFC 8446, section 4.1.2; RFC 6066, section 3), whatever else stands in it.
//!
//! A hello that a server would refuse for other reasons is read all the same: what the client asks for decides, not
//! whether it will get it. A hello may be cut into several records (RFC 8446, section 5.1).

use crate::first_bytes::{Seen, seen};

/// A hello, as far as it matters here.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ClientHello {
    /// The name as it was sent.
    pub(crate) server_name: Option<String>,
    /// The application protocols that are offered; what is no text is none that is known here.
    pub(crate) application_protocols: Vec<String>,
}

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const APPLICATION_PROTOCOLS: u16 = 16;
const HOST_NAME: u8 = 0;
/// Longest record (RFC 8446, section 5.1).
const MAX_RECORD: usize = 1 << 14;

/// Reads the hello at the start of `bytes`.
pub(crate) fn read(bytes: &[u8]) -> Seen<ClientHello> {
    let mut message = Vec::new();
    let mut rest = bytes;
    loop {
        if let Some(length) = message_length(&message) {
            match length {
                Ok(length) if message.len() >= length => return seen(parse(&message[4..length])),
                Ok(_) => {}
                Err(NotAHello) => return Seen::No,
            }
        }
        let fragment = match record(rest) {
            Seen::Yes((fragment, after)) => {
                rest = after;
                fragment
            }
            Seen::More => return Seen::More,
            Seen::No => return Seen::No,
        };
        message.extend_from_slice(fragment);
    }
}

/// Reads a hello that is not in records, as QUIC carries it (RFC 9001, section 4).
pub(crate) fn read_message(message: &[u8]) -> Seen<ClientHello> {
    match message_length(message) {
        None => Seen::More,
        Some(Err(NotAHello)) => Seen::No,
        Some(Ok(length)) => match message.get(4..length) {
            Some(body) => seen(parse(body)),
            None => Seen::More,
        },
    }
}

struct NotAHello;

/// The length of a handshake message with its header, once the header is there.
fn message_length(message: &[u8]) -> Option<Result<usize, NotAHello>> {
    let [kind, a, b, c] = *message.first_chunk()?;
    let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
    Some(if kind == CLIENT_HELLO { Ok(4 + length) } else { Err(NotAHello) })
}

/// A handshake record, and what stands behind it. What cannot become one is known by its first bytes.
fn record(bytes: &[u8]) -> Seen<(&[u8], &[u8])> {
    match (bytes.first(), bytes.get(1)) {
        (Some(kind), _) if *kind != HANDSHAKE => return Seen::No,
        (_, Some(major)) if *major != 3 => return Seen::No,
        _ => {}
    }
    let Some((header, after)) = bytes.split_first_chunk::<5>() else { return Seen::More };
    let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
    match length {
        0 => Seen::No,
        _ if length > MAX_RECORD => Seen::No,
        _ => after.split_at_checked(length).map_or(Seen::More, Seen::Yes),
    }
}

/// Reads the body of a hello; `None` if it is none.
fn parse(body: &[u8]) -> Option<ClientHello> {
    let mut reader = Reader(body);
    reader.take(2 + 32)?;
    let _session = reader.vector_u8()?;
    let _suites = reader.vector_u16()?;
    let _compression = reader.vector_u8()?;
    let mut hello = ClientHello { server_name: None, application_protocols: Vec::new() };
    if reader.0.is_empty() {
        // Extensions may be missing altogether (RFC 5246, section 7.4.1.2).
        return Some(hello);
    }
    let mut extensions = Reader(reader.vector_u16()?);
    while !extensions.0.is_empty() {
        let kind = extensions.u16()?;
        let content = extensions.vector_u16()?;
        match kind {
            SERVER_NAME if hello.server_name.is_none() => hello.server_name = host_name(content),
            APPLICATION_PROTOCOLS => {
                hello.application_protocols = application_protocols(content).unwrap_or_default();
            }
            _ => {}
        }
    }
    Some(hello)
}

/// The offered protocols (RFC 7301, section 3.1).
fn application_protocols(content: &[u8]) -> Option<Vec<String>> {
    let mut list = Reader(Reader(content).vector_u16()?);
    let mut protocols = Vec::new();
    while !list.0.is_empty() {
        let id = list.vector_u8()?;
        protocols.push(String::from_utf8_lossy(id).into_owned());
    }
    Some(protocols)
}

/// The first host name of the list; a list that has none, or is none, names nobody.
fn host_name(content: &[u8]) -> Option<String> {
    let mut names = Reader(Reader(content).vector_u16()?);
    while !names.0.is_empty() {
        let kind = names.take(1)?[0];
        let name = names.vector_u16()?;
        if kind == HOST_NAME {
            let text = std::str::from_utf8(name).ok()?;
            return (!text.is_empty()).then(|| text.to_owned());
        }
    }
    None
}

/// Reads from the front; `None` where there is too little.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn vector_u8(&mut self) -> Option<&'a [u8]> {
        let length = self.take(1)?[0];
        self.take(length.into())
    }

    fn vector_u16(&mut self) -> Option<&'a [u8]> {
        let length = self.u16()?;
        self.take(length.into())
    }
}
