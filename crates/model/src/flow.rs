//! One flow: the facts that a decision reads, and the reasons for which a flow is refused.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::id::{AccountId, DeviceId, RegistrationId, VirtualNetworkId};

/// The transport protocol of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP, RFC 9293.
    Tcp,
    /// UDP, RFC 768.
    Udp,
    /// Echo of ICMP, RFC 792, or of ICMPv6, RFC 4443. Its destination's port is the echo identifier, or 0 where that does
    /// not matter.
    Icmp,
}

const PROTOCOLS: [(Protocol, &str); 3] =
    [(Protocol::Tcp, "tcp"), (Protocol::Udp, "udp"), (Protocol::Icmp, "icmp")];

impl Protocol {
    /// The protocol's name on the wire and in records.
    pub fn as_str(self) -> &'static str {
        PROTOCOLS.iter().find(|(protocol, _)| *protocol == self).map_or("tcp", |(_, name)| name)
    }

    /// Whether its destinations have ports: an echo has an identifier in the port's place.
    pub fn has_ports(self) -> bool {
        match self {
            Self::Tcp | Self::Udp => true,
            Self::Icmp => false,
        }
    }

    /// Every protocol, for tables of metrics.
    pub fn all() -> impl Iterator<Item = Self> {
        PROTOCOLS.iter().map(|(protocol, _)| *protocol)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that names no [`Protocol`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("unknown protocol")]
pub struct UnknownProtocol;

impl FromStr for Protocol {
    type Err = UnknownProtocol;

    fn from_str(text: &str) -> Result<Self, UnknownProtocol> {
        PROTOCOLS.iter().find(|(_, name)| *name == text).map(|(protocol, _)| *protocol).ok_or(UnknownProtocol)
    }
}

/// All that is known of a flow when it is decided.
#[derive(Debug, Clone)]
pub struct FlowFacts {
    /// The account on whose behalf.
    pub account: AccountId,
    /// The registration that proved itself on this carrier.
    pub registration: RegistrationId,
    /// The device of that registration.
    pub device: DeviceId,
    /// Where routes are looked up.
    pub virtual_network: VirtualNetworkId,
    /// The protocol.
    pub protocol: Protocol,
    /// Where the device is, as the edge sees it.
    pub source: IpAddr,
    /// Where to.
    pub destination: SocketAddr,
    /// The name that the device asked for, if its destination was given to it for a name.
    pub named: Option<Arc<Named>>,
}

/// A destination that stands for a name of a hostname route (Gateway semantics, 4.5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// The name, in lower case and without a trailing dot.
    pub name: String,
    /// What the device was told to be the name's address, and sends to.
    pub synthetic: IpAddr,
}

/// What the first bytes of a flow's client say, as far as rules may ask.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FirstBytes {
    /// The name in the ClientHello (RFC 6066, section 3), in lower case and without a trailing dot.
    pub server_name: Option<String>,
    /// The protocol, by its name in rules (policy language, 7.2): `tls`, `http`, `ssh`, …; `quic` of datagrams
    pub protocol: Option<&'static str>,
    /// The application protocols that the ClientHello offers (RFC 7301).
    pub application_protocols: Vec<String>,
}

impl FirstBytes {
    /// Whether the ClientHello offers this application protocol.
    pub fn offers(&self, protocol: &str) -> bool {
        self.application_protocols.iter().any(|offered| offered == protocol)
    }
}

/// Why a flow ended before it carried a byte. Every refusal reaches the program that asked, at once, as TCP would say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// No route holds the destination.
    Unroutable,
    /// The route's tunnel has no live connection.
    NoConnection,
    /// Loopback, link-local, multicast, unspecified or metadata: dialled for nobody.
    NeverDialled,
    /// The destination answered with a reset.
    Refused,
    /// The connector's host has no path to the destination's host.
    HostUnreachable,
    /// The connector's host has no route to the destination's network.
    NetworkUnreachable,
    /// The destination, or the connector, did not answer in time.
    TimedOut,
    /// A rule blocked it.
    Blocked,
    /// The device's registration is revoked or unknown.
    Revoked,
    /// A limit on flows is reached: ask again later.
    TooManyFlows,
    /// A datagram is longer than what the path to the destination carries; the flow goes on.
    TooLarge,
    /// The edge has not heard from its control plane for too long to decide anything.
    Stale,
    /// The connector failed in another way; the log has its words.
    ConnectorError,
}

const REFUSALS: [(Refusal, &str); 13] = [
    (Refusal::Unroutable, "unroutable"),
    (Refusal::NoConnection, "no-connection"),
    (Refusal::NeverDialled, "never-dialled"),
    (Refusal::Refused, "refused"),
    (Refusal::HostUnreachable, "host-unreachable"),
    (Refusal::NetworkUnreachable, "network-unreachable"),
    (Refusal::TimedOut, "timed-out"),
    (Refusal::Blocked, "blocked"),
    (Refusal::Revoked, "revoked"),
    (Refusal::TooManyFlows, "too-many-flows"),
    (Refusal::TooLarge, "too-large"),
    (Refusal::Stale, "stale"),
    (Refusal::ConnectorError, "connector-error"),
];

impl Refusal {
    /// The refusal's name on the wire and in records.
    pub fn as_str(self) -> &'static str {
        REFUSALS.iter().find(|(refusal, _)| *refusal == self).map_or("connector-error", |(_, name)| name)
    }

    /// Every refusal, for tables of metrics.
    pub fn all() -> impl Iterator<Item = Self> {
        REFUSALS.iter().map(|(refusal, _)| *refusal)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that names no [`Refusal`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("unknown refusal")]
pub struct UnknownRefusal;

impl FromStr for Refusal {
    type Err = UnknownRefusal;

    fn from_str(text: &str) -> Result<Self, UnknownRefusal> {
        REFUSALS.iter().find(|(_, name)| *name == text).map(|(refusal, _)| *refusal).ok_or(UnknownRefusal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_protocol_is_read_as_it_is_written() {
        for protocol in Protocol::all() {
            assert_eq!(protocol.as_str().parse(), Ok(protocol));
        }
        assert_eq!(Protocol::all().count(), 3);
        assert_eq!("sctp".parse::<Protocol>(), Err(UnknownProtocol));
    }

    #[test]
    fn every_refusal_is_read_as_it_is_written() {
        for refusal in Refusal::all() {
            assert_eq!(refusal.as_str().parse(), Ok(refusal));
        }
        assert_eq!("sulking".parse::<Refusal>(), Err(UnknownRefusal));
    }
}
