//! The part of the Cap'n Proto encoding that the tunnel protocol uses: unpacked messages in stream framing.
//!
//! Why our own: a control stream is then a state machine without I/O, `Send`, and bounded in all that a peer can ask of
//! it. What always holds: the reader never panics and never reads outside a segment; the size of a message, its number
//! of segments, the depth of its pointers, the words that may be visited and the length of its lists are limited before
//! anything is allocated by them. Messages of several segments (far pointers) are read, since Go's writer makes them; the
//! builder writes one segment. Packing, groups of list upgrades other than struct lists, and the canonical form are not
//! here. Encoding: <https://capnproto.org/encoding.html>.

mod builder;
mod reader;

pub use builder::{Builder, EncodeError, StructAt, StructListAt};
pub use reader::{Frame, Limits, Message, ReadError, StructListReader, StructReader, TextListReader};

/// Bytes of a word, the unit of every size and offset.
pub(crate) const WORD: usize = 8;

/// Longest text, data or list, in elements, that the builder writes: what the 29 bits of a list pointer can say.
pub(crate) const MAX_LIST_BITS: usize = (1 << 29) - 1;
