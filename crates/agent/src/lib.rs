//! The device's program: it captures flows to the account's private networks and carries them to an edge.
//!
//! In the order of a flow's life: [`tun`](crate::tun) and [`routes`](crate::routes) bring the packets of routed networks
//! here, and the system's queries for names with them ([`names`](crate::names)); [`capture`](crate::capture) makes flows of them with `adit-netstack`, asks the [`carrier`](crate::carrier) for
//! each, and answers the application only when the far side has dialled; where there may be no interface, programs come to a
//! [`proxy`](crate::proxy) instead; [`session`](crate::session) keeps the
//! device connected, follows its networks and notices when it is revoked; [`control_socket`] is how people and programs
//! on the device talk to the agent.
//!
//! What always holds:
//!
//! - Addresses and routes hang on a TUN interface that exists as long as the process: whatever happens to the agent,
//!   the host's network is as it was before. The system's list of resolvers comes back when the agent stops, or at its
//!   next start if it was killed.
//! - Only the account's networks are captured, never the addresses of the edge.
//! - One thread does everything, so that flows, packets and carriers share state without locks.
//!
//! It decides nothing: what a device may reach, the edge says.

mod blocks;
mod capture;
mod carrier;
mod choice;
pub mod control_socket;
mod dialer;
mod edge_address;
mod edges;
mod enroll;
mod events;
mod exclude;
mod explain;
mod http2;
mod memory;
mod names;
mod network;
mod path;
mod proxy;
mod quic;
mod routes;
mod service;
mod session;
mod slot;
mod state;
mod status;
mod tun;

pub use choice::{TransportSetting, UnknownTransport};
pub use control_socket::fuzz_request;
pub use edge_address::{EdgeAddress, EdgeAddressError};
pub use memory::tune_allocator;
pub use names::{Fallback, FallbackError, SystemDns, UnknownSystemDns};
pub use proxy::{ProxyAddress, ProxyAddressError, ProxyError, fuzz_proxy};
pub use service::{AgentConfig, RunError, run};
pub use state::StateError;
pub use status::{ConnectionState, Status, Transport};
pub use tun::TunError;
