//! What the bytes of a flow say, and what becomes of the HTTP in them.
//!
//! [`first_bytes`] recognises the protocol that a client speaks, and the server that it names, by what it sends first;
//! [`quic`] does so for datagrams.
//! [`open_tls`] opens the TLS between a client and its origin and serves what is inside, request by request, as a [`Gate`]
//! says; [`read_http`] does so where there is no TLS. Byte streams come from somewhere else and go somewhere else: no
//! sockets, no rules, nothing of the edge.

mod client_hello;
pub mod first_bytes;
mod gate;
mod head;
mod open;
mod origin;
mod page;
pub mod quic;
mod session;
mod upgrade;

#[doc(hidden)]
pub use first_bytes::fuzz_first_bytes;
pub use gate::{Action, Exchange, Gate, PageContext, Verdict};
pub use open::{Report, Setup, Stream, open_tls, read_http};
pub use origin::{Trust, Validation};
#[doc(hidden)]
pub use quic::fuzz_quic;
