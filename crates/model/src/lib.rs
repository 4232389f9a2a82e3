//! The words of the design as types: ids, addresses, stored objects, changes, flow facts and records.
//!
//! Every other crate speaks in these types; bytes from outside become one of them once, at a door, with limits.
//! What always holds here: a value that exists is valid (a [`Cidr`] has no host bits, a [`Refusal`] is a known one),
//! and nothing reads a clock, a file, a socket, the environment or a source of randomness.

mod address;
mod change;
mod duration;
mod flow;
mod hostname;
mod id;
mod record;
mod secret;

pub use address::{Cidr, CidrError, NeverDialled, never_dialled};
pub use change::{
    Change, ChangeBatch, Command, Hostname, Lease, Node, Registration, Route, Tunnel, TunnelConfiguration,
    VirtualNetwork,
};
pub use duration::{GoDuration, NotADuration};
pub use flow::{FlowFacts, Protocol, Refusal, UnknownProtocol, UnknownRefusal};
pub use hostname::{HostnameError, PublicHostname};
pub use id::{
    AccountId, ConnectionId, ConnectorId, DeviceId, FlowId, HostnameId, IdError, NodeId, RegistrationId,
    RouteId, RuleId, ServiceTokenId, TokenId, TunnelId, VirtualNetworkId,
};
pub use record::{
    ConnectionClosed, ConnectionOpened, FlowEnd, FlowRecord, LocalConfiguration, Record, RegistrationSeen,
    RequestEnd, RequestRecord,
};
pub use secret::{DeviceKey, NodeKey, PresentedKey, SecretHash};
