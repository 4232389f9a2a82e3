//! Bytes to messages and back: the tunnel protocol, the device protocol, and their state machines.
//!
//! Pure: no sockets, clock, randomness or tasks, so that every format and every machine is tested byte by byte in
//! memory, against its peer. What always holds: input from a network makes an error or a value, never a panic, and no
//! length that it claims is believed before it was compared with a limit. Who may connect, and what is done with a flow,
//! is decided elsewhere.

pub mod capnp;
pub mod datagram;
pub mod device;
pub mod dns;
pub mod http2;
pub mod icmp;
pub mod peer;
pub mod rpc;
pub mod tunnel;
