//! The server's end of a WebSocket (RFC 6455), without I/O: clients' frames to bytes, bytes to frames.
//!
//! Messages are of no interest: whatever text or binary frames carry is one stream of bytes. A frame is passed on as it
//! comes and never held as a whole, so that its length needs no limit; control frames have theirs (125 bytes).

use std::collections::VecDeque;

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, Bytes, BytesMut};

/// `Sec-WebSocket-Accept` for a `Sec-WebSocket-Key` (RFC 6455, 4.2.2).
pub(super) fn accept_key(key: &[u8]) -> String {
    let mut context = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    context.update(key);
    context.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(context.finish())
}

/// What a client said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event {
    /// Bytes of a text or binary frame.
    Data(Bytes),
    /// To be answered with [`pong`].
    Ping(Bytes),
    /// It sends no more.
    Close,
}

/// The client does not speak WebSocket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum WebSocketError {
    /// Bits for extensions that were not agreed on.
    #[error("reserved bits are set")]
    Reserved,
    /// An opcode that there is not.
    #[error("unknown opcode {0}")]
    Opcode(u8),
    /// A client masks what it sends (RFC 6455, 5.1).
    #[error("a frame is not masked")]
    Unmasked,
    /// A control frame in pieces, or too long.
    #[error("a control frame is longer than 125 bytes, or fragmented")]
    Control,
    /// A continuation of nothing, or something in the middle of a message.
    #[error("frames in a wrong order")]
    Order,
    /// More than 63 bits of length.
    #[error("a frame is too long")]
    Length,
}

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// Longest header: two bytes, eight of length, four of mask.
const MAX_HEADER_BYTES: usize = 14;
/// Longest payload of a control frame.
const MAX_CONTROL_BYTES: u64 = 125;

/// Reads clients' frames.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    header: Vec<u8>,
    frame: Option<Frame>,
    /// In the middle of a fragmented message.
    in_message: bool,
    control: BytesMut,
    closed: bool,
}

#[derive(Debug, Clone, Copy)]
struct Frame {
    opcode: u8,
    mask: [u8; 4],
    left: u64,
    /// Bytes of the payload that were unmasked already, modulo 4.
    turn: usize,
}

impl Decoder {
    /// Takes bytes from the client.
    pub(super) fn handle_input(
        &mut self,
        mut input: Bytes,
        events: &mut VecDeque<Event>,
    ) -> Result<(), WebSocketError> {
        // After a close frame nothing counts any more (RFC 6455, 5.5.1).
        while !input.is_empty() && !self.closed {
            let Some(frame) = &mut self.frame else {
                self.take_header(&mut input)?;
                self.end_frame(events);
                continue;
            };
            let here = usize::try_from(frame.left).unwrap_or(usize::MAX).min(input.len());
            let piece = input.split_to(here);
            let mut piece = piece.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
            unmask(&mut piece, frame.mask, frame.turn);
            frame.turn = (frame.turn + here) % 4;
            frame.left -= here as u64;
            if frame.opcode < CLOSE {
                events.push_back(Event::Data(piece.freeze()));
            } else {
                self.control.extend_from_slice(&piece);
            }
            self.end_frame(events);
        }
        Ok(())
    }

    /// Collects a header; when it is complete, the frame begins.
    fn take_header(&mut self, input: &mut Bytes) -> Result<(), WebSocketError> {
        while !input.is_empty() && self.header.len() < MAX_HEADER_BYTES {
            let byte = input.split_to(1)[0];
            self.header.push(byte);
            if let Some(frame) = self.parse_header()? {
                self.frame = Some(frame);
                self.header.clear();
                return Ok(());
            }
        }
        Ok(())
    }

    fn parse_header(&mut self) -> Result<Option<Frame>, WebSocketError> {
        let [first, second, rest @ ..] = &self.header[..] else { return Ok(None) };
        let (last, opcode) = (first & 0x80 != 0, first & 0x0f);
        if first & 0x70 != 0 {
            return Err(WebSocketError::Reserved);
        }
        if second & 0x80 == 0 {
            return Err(WebSocketError::Unmasked);
        }
        let (extra, short) = match second & 0x7f {
            126 => (2, 0),
            127 => (8, 0),
            short => (0, u64::from(short)),
        };
        let (Some(length), Some(mask)) = (rest.get(..extra), rest.get(extra..extra + 4)) else {
            return Ok(None);
        };
        let left = length.iter().fold(short, |length, byte| length << 8 | u64::from(*byte));
        if left >> 63 != 0 {
            return Err(WebSocketError::Length);
        }
        match opcode {
            CONTINUATION if !self.in_message => return Err(WebSocketError::Order),
            TEXT | BINARY if self.in_message => return Err(WebSocketError::Order),
            CONTINUATION | TEXT | BINARY => self.in_message = !last,
            CLOSE | PING | PONG if last && left <= MAX_CONTROL_BYTES => {}
            CLOSE | PING | PONG => return Err(WebSocketError::Control),
            opcode => return Err(WebSocketError::Opcode(opcode)),
        }
        let mask = [mask[0], mask[1], mask[2], mask[3]];
        Ok(Some(Frame { opcode, mask, left, turn: 0 }))
    }

    fn end_frame(&mut self, events: &mut VecDeque<Event>) {
        let Some(frame) = self.frame.filter(|frame| frame.left == 0) else { return };
        self.frame = None;
        let control = self.control.split().freeze();
        match frame.opcode {
            CLOSE => {
                self.closed = true;
                events.push_back(Event::Close);
            }
            PING => events.push_back(Event::Ping(control)),
            // A pong is the answer to a ping of ours, which asks nothing.
            _ => {}
        }
    }
}

/// Takes the mask off, or puts it on; `turn` bytes of the payload came before.
fn unmask(bytes: &mut [u8], mut mask: [u8; 4], turn: usize) {
    mask.rotate_left(turn % 4);
    let wide = u64::from(u32::from_ne_bytes(mask));
    let wide = wide << 32 | wide;
    let mut words = bytes.chunks_exact_mut(8);
    for word in &mut words {
        let mut value = [0; 8];
        value.copy_from_slice(word);
        word.copy_from_slice(&(u64::from_ne_bytes(value) ^ wide).to_ne_bytes());
    }
    for (byte, mask) in words.into_remainder().iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
}

/// A binary frame's header; its payload follows.
pub(super) fn binary_header(length: usize) -> Bytes {
    header(BINARY, length)
}

/// A ping without content.
pub(super) fn ping() -> Bytes {
    header(PING, 0)
}

/// The answer to a ping.
pub(super) fn pong(payload: &Bytes) -> Bytes {
    control(PONG, payload)
}

/// A normal end (RFC 6455, 7.4.1).
pub(super) fn close() -> Bytes {
    control(CLOSE, &1000_u16.to_be_bytes())
}

fn control(opcode: u8, payload: &[u8]) -> Bytes {
    let mut frame = BytesMut::from(&header(opcode, payload.len())[..]);
    frame.extend_from_slice(payload);
    frame.freeze()
}

fn header(opcode: u8, length: usize) -> Bytes {
    let mut header = BytesMut::with_capacity(10);
    header.put_u8(0x80 | opcode);
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short), _) if short < 126 => header.put_u8(short),
        (_, Ok(middle)) => {
            header.put_u8(126);
            header.put_u16(middle);
        }
        _ => {
            header.put_u8(127);
            header.put_u64(length as u64);
        }
    }
    header.freeze()
}

/// Fuzz body: any bytes are events or an error, and cut anywhere they are the same.
#[doc(hidden)]
pub fn fuzz_websocket(input: &[u8]) {
    let read = |pieces: &[&[u8]]| {
        let (mut decoder, mut events) = (Decoder::default(), VecDeque::new());
        for piece in pieces {
            decoder.handle_input(Bytes::copy_from_slice(piece), &mut events)?;
        }
        // Where the bytes were cut shows only in how data is cut.
        let data: Vec<u8> = events
            .iter()
            .flat_map(|event| if let Event::Data(data) = event { data.to_vec() } else { Vec::new() })
            .collect();
        let others: Vec<Event> =
            events.into_iter().filter(|event| !matches!(event, Event::Data(_))).collect();
        Ok::<_, WebSocketError>((data, others))
    };
    let whole = read(&[input]);
    let (head, tail) = input.split_at(input.len() / 2);
    assert_eq!(whole, read(&[head, tail]));
    let bytes: Vec<&[u8]> = input.chunks(1).collect();
    assert_eq!(whole, read(&bytes));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A client's frame.
    fn masked(first: u8, payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
        let header = header(first & 0x0f, payload.len());
        let mut frame = header.to_vec();
        frame[0] = first;
        frame[1] |= 0x80;
        frame.extend_from_slice(&mask);
        let mut payload = payload.to_vec();
        unmask(&mut payload, mask, 0);
        frame.extend_from_slice(&payload);
        frame
    }

    fn events(input: &[u8]) -> Result<Vec<Event>, WebSocketError> {
        let (mut decoder, mut events) = (Decoder::default(), VecDeque::new());
        decoder.handle_input(Bytes::copy_from_slice(input), &mut events)?;
        Ok(events.into())
    }

    #[test]
    fn the_key_of_the_specification_is_accepted_as_it_says() {
        assert_eq!(accept_key(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn the_frames_of_the_specification_are_read() {
        // RFC 6455, 5.7: "Hello", masked.
        let hello = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
        assert_eq!(events(&hello), Ok(vec![Event::Data("Hello".into())]));
        let ping = [0x89, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
        assert_eq!(events(&ping), Ok(vec![Event::Ping("Hello".into())]));
        assert_eq!(pong(&Bytes::from("Hello"))[..], *b"\x8a\x05Hello");
        assert_eq!(binary_header(256)[..], [0x82, 0x7e, 0x01, 0x00]);
        assert_eq!(binary_header(65536)[..], [0x82, 0x7f, 0, 0, 0, 0, 0, 1, 0, 0]);
        assert_eq!(close()[..], [0x88, 0x02, 0x03, 0xe8]);
    }

    #[test]
    fn fragments_make_one_stream_with_control_frames_between() {
        let mut input = masked(TEXT, b"a", [1, 2, 3, 4]);
        input.extend(masked(0x80 | PING, b"?", [0; 4]));
        input.extend(masked(0x80, b"b", [9, 9, 9, 9]));
        input.extend(masked(0x80 | CLOSE, &[3, 0xe8], [0; 4]));
        input.extend(b"whatever");
        let expected =
            vec![Event::Data("a".into()), Event::Ping("?".into()), Event::Data("b".into()), Event::Close];
        assert_eq!(events(&input), Ok(expected));
    }

    #[test]
    fn what_breaks_the_rules_is_refused() {
        for (input, error) in [
            (vec![0xc1, 0x80], WebSocketError::Reserved),
            (vec![0x81, 0x00], WebSocketError::Unmasked),
            (masked(0x83, b"", [0; 4]), WebSocketError::Opcode(3)),
            (masked(0x09, b"", [0; 4]), WebSocketError::Control),
            (masked(0x89, &[0; 126], [0; 4]), WebSocketError::Control),
            (masked(0x80, b"", [0; 4]), WebSocketError::Order),
            ([masked(0x01, b"a", [0; 4]), masked(0x81, b"b", [0; 4])].concat(), WebSocketError::Order),
            (vec![0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], WebSocketError::Length),
        ] {
            assert_eq!(events(&input), Err(error), "{input:?}");
        }
    }

    proptest! {
        #[test]
        fn what_a_client_sends_arrives(payload: Vec<u8>, mask: [u8; 4], cut: usize) {
            let frame = masked(0x80 | BINARY, &payload, mask);
            let (mut decoder, mut events) = (Decoder::default(), VecDeque::new());
            let (head, tail) = frame.split_at(cut % (frame.len() + 1));
            for piece in [head, tail] {
                decoder.handle_input(Bytes::copy_from_slice(piece), &mut events).unwrap();
            }
            let got: Vec<u8> = events
                .iter()
                .flat_map(|event| if let Event::Data(data) = event { data.to_vec() } else { panic!("{event:?}") })
                .collect();
            prop_assert_eq!(got, payload);
        }

        #[test]
        fn any_bytes_are_events_or_an_error(input: Vec<u8>) {
            fuzz_websocket(&input);
        }
    }
}
