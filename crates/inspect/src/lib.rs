//! What the bytes of a flow say.
//!
//! [`first_bytes`] recognises the protocol that a client speaks, and the server that it names, by what it sends first. The
//! bytes come from somewhere else and go somewhere else: no sockets, no clock, nothing of the edge.

mod client_hello;
pub mod first_bytes;

#[doc(hidden)]
pub use first_bytes::fuzz_first_bytes;
