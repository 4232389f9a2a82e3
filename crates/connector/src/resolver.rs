//! The resolver of this host, which an edge asks what the names of hostname routes stand for (tunnel protocol, 6.2).
//!
//! Flows to one reserved address, over TCP and UDP, are dialled to the resolver instead: the first one that
//! `dns-resolver-addrs` names, or that this host has. It may be the host's own, on the loopback address, where nothing else
//! is dialled; and `allow-networks` does not speak of it, since it says where names lead and carries nobody there.

use std::net::SocketAddr;
use std::path::Path;

use adit_model::{Protocol, Refusal};
use adit_wire::dns::{CONNECTOR_RESOLVER, PORT, nameservers};

use crate::dial::NotDialled;
use crate::process::Process;

/// Where a host lists its resolvers.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// What is dialled for a destination: itself, if it is permitted, or in the resolver's place the resolver of this host.
pub(crate) fn dialled(
    process: &Process,
    protocol: Protocol,
    destination: SocketAddr,
) -> Result<SocketAddr, NotDialled> {
    if destination != SocketAddr::from((CONNECTOR_RESOLVER, PORT)) || protocol == Protocol::Icmp {
        return process.check(protocol, destination).map(|()| destination);
    }
    // Read anew for each query: a host that moves to another network has other resolvers.
    let own = || nameservers(&std::fs::read_to_string(Path::new(RESOLV_CONF)).unwrap_or_default()).next();
    process.config.resolvers.first().copied().or_else(own).ok_or_else(|| NotDialled {
        refusal: Refusal::HostUnreachable,
        text: format!(
            "unable to dial {} to origin {destination}: this host has no resolver: {RESOLV_CONF} names none",
            protocol.as_str()
        ),
    })
}
