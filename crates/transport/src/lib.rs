//! QUIC and HTTP/2 endpoints, TLS set-up, and the splice. Knows bytes and keys, never who may do what.
//!
//! A flow crosses the network as chunks of [`bytes::Bytes`]: [`ReadChunk`] and [`WriteChunk`] are the two halves of any
//! stream, implemented here for QUIC ([`quic`]), HTTP/2 ([`http2`]) and TCP ([`tcp`]), and by the agent for its
//! user-space TCP. [`splice`](splice::splice) joins two of them and keeps half-closes and resets.
//!
//! A flow of datagrams is such a stream too, of [`capsule`]s; [`datagram`] has its packets, which where they can go beside
//! the stream, and joins two of those.
//!
//! What always holds: a reader gives at most [`CHUNK_BYTES`] at once, a writer is waited for before more is read, and
//! nothing here is unbounded.

pub mod buffer;
pub mod capsule;
pub mod datagram;
pub mod http2;
pub mod io;
pub mod messages;
pub mod quic;
pub mod splice;
pub mod stream;
pub mod tcp;
pub mod tcp_path;
pub mod tls;

pub use stream::{Duplex, ReadChunk, StreamError, WriteChunk};

/// Largest chunk that a reader of this crate makes, in bytes: large enough that system calls, frames and wake-ups cost
/// little beside the cipher (device path, 7.1), small enough for a flow's share of memory.
pub const CHUNK_BYTES: usize = 256 << 10;
