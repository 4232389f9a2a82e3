//! The device protocol: what an agent and an edge say to each other on TLS with ALPN `adit-device/1`.
//!
//! The device proves itself with a raw public key (RFC 7250); the edge knows it by the key's hash. There are two carriers, and
//! a device may have both open: HTTP/2 (RFC 9113) over TLS, and QUIC (RFC 9000) on the same port of UDP.
//!
//! | HTTP/2 request | on QUIC a stream that begins with a `ConnectRequest` | meaning |
//! | --- | --- | --- |
//! | `POST /adit/device/enroll` | | binds the key to a service token; body [`EnrollRequest`], answer [`EnrollReply`] |
//! | `GET /adit/device/events` | HTTP, [`EVENTS_PATH`] | a stream of [`Event`]s, a JSON object a line, for as long as the device is connected |
//! | `POST /adit/device/explain` | | what would become of a flow of this device; body an [`adit_model::ExplainQuestion`], answer an [`adit_model::Explained`] |
//! | `CONNECT address:port` | TCP, `address:port` | one flow; 200 when the connector has dialled, else a [`REFUSAL_HEADER`] |
//!
//! On QUIC request and answer are those of the tunnel protocol ([`ConnectRequest`](crate::tunnel::ConnectRequest)), what
//! is a header in HTTP/2 is metadata of the same name, and a key that is not registered has its connection closed with
//! [`CLOSE_UNKNOWN`]. Enrolment is HTTP/2's alone: it happens once, and TCP is never the slower one to be let through.
//!
//! A flow of another protocol than TCP says so by [`PROTOCOL_HEADER`], and carries capsules (RFC 9297) on its stream; on
//! QUIC its datagrams go as DATAGRAM frames where they fit.
//!
//! Here are the messages and their limits; the carriers are `transport`'s, and who may is the edge's to say.

use std::net::{IpAddr, SocketAddr};

use adit_model::{Cidr, DeviceId, FallbackDomain, Filter, Protocol, Refusal, RegistrationId, RuleId};
use serde::{Deserialize, Serialize};

/// The protocol's name in TLS (RFC 7301).
pub const ALPN: &[u8] = b"adit-device/1";
/// Path of enrolment.
pub const ENROLL_PATH: &str = "/adit/device/enroll";
/// Path of questions about flows.
pub const EXPLAIN_PATH: &str = "/adit/device/explain";
/// Longest question about a flow, in bytes.
pub const MAX_EXPLAIN_BYTES: usize = 4 << 10;
/// Longest answer to one, in bytes: hundreds of rules with their reasons.
pub const MAX_EXPLAINED_BYTES: usize = 4 << 20;
/// Path of the event stream.
pub const EVENTS_PATH: &str = "/adit/device/events";
/// Request header: the id that an agent process made for itself at its start, a UUID. Two processes with one device key
/// are told apart by it, and the newer one wins (design, section 4).
pub const INSTANCE_HEADER: &str = "adit-agent-instance";
/// Request header: the agent's version.
pub const VERSION_HEADER: &str = "adit-agent-version";
/// Response header of a refused flow: a [`Refusal`] by name.
pub const REFUSAL_HEADER: &str = "adit-refusal";
/// Code with which an edge closes the QUIC connection of a key that is not registered, or no more.
pub const CLOSE_UNKNOWN: u32 = 1;
/// Code with which an edge closes the QUIC connection of a device that has too many of them.
pub const CLOSE_TOO_MANY: u32 = 2;
/// Key of the metadata by which adit's connector says in a `ConnectResponse` why a dial failed; a [`Refusal`] by name.
pub const REFUSAL_METADATA: &str = "adit-refusal";
/// Feature by which a connector announces that a flow's directions end one by one (tunnel protocol, 3.4, is without).
pub const HALF_CLOSE_FEATURE: &str = "adit_half_close";
/// Feature by which a connector announces that it takes UDP and ICMP flows as streams of datagrams.
pub const DATAGRAMS_FEATURE: &str = "adit_datagrams";
/// Header of a request, and key of a `ConnectRequest`'s metadata: the flow's protocol, an [`adit_model::Protocol`] in lower
/// case. Without it a flow is TCP.
pub const PROTOCOL_HEADER: &str = "adit-protocol";
/// Header with a service token's id.
pub const CLIENT_ID_HEADER: &str = "cf-access-client-id";
/// Header with a service token's secret.
pub const CLIENT_SECRET_HEADER: &str = "cf-access-client-secret";
/// Longest line of the event stream, in bytes: 100,000 networks of some 20 bytes fit.
pub const MAX_EVENT_BYTES: usize = 4 << 20;
/// Longest body of an enrolment, in bytes.
pub const MAX_ENROLL_BYTES: usize = 16 << 10;
/// How often the edge sends [`Event::Ping`], in seconds.
pub const PING_SECONDS: u64 = 5;
/// After how many seconds without any event an agent takes the connection for dead.
pub const SILENCE_SECONDS: u64 = 12;

/// What a device says of itself when it enrols. Its key is in the TLS handshake.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrollRequest {
    /// The device's name, usually its host name.
    pub name: String,
    /// `linux`, `mac`, `windows`.
    pub device_type: String,
    /// The system's version.
    #[serde(default)]
    pub os_version: String,
    /// The agent's version.
    #[serde(default)]
    pub client_version: String,
}

/// The edge's answer to a successful enrolment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrollReply {
    /// The new registration.
    pub registration_id: RegistrationId,
    /// Its device.
    pub device_id: DeviceId,
    /// Who it stands for.
    pub user: String,
}

/// One line of the event stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Event {
    /// The first one: who the device is, and what it may reach.
    State(DeviceState),
    /// The networks to capture, all of them, after a change.
    Networks {
        /// Each once, in order.
        networks: Vec<Cidr>,
    },
    /// The edges that the device may go to, all of them, after a change.
    Edges {
        /// As in [`DeviceState::edges`].
        edges: Vec<String>,
    },
    /// A rule blocked something that the device asked for, and says that it is to be shown (Gateway semantics, 5.2).
    Blocked(Block),
    /// The domains whose names are not asked of the edge, all of them, after a change.
    FallbackDomains {
        /// As in [`DeviceState::fallback_domains`].
        domains: Vec<FallbackDomain>,
    },
    /// The registration was revoked: nothing more is carried.
    Revoked,
    /// A newer process uses the same device key: this one must stop (design, section 4).
    Superseded,
    /// The edge is stopping: open flows go on for its grace period, new ones belong on another connection.
    Draining,
    /// Nothing but a sign of life.
    Ping,
}

/// What a rule blocked, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// The rule.
    pub rule: RuleId,
    /// Its name.
    pub name: String,
    /// Of which layer it is.
    pub layer: Filter,
    /// The name that was asked for, or the address and port.
    pub destination: String,
    /// What the rule says to whoever it concerns; may be empty.
    #[serde(default)]
    pub message: String,
    /// Where help is, if anywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub support_url: Option<String>,
    /// When, in seconds since 1970.
    pub at: u64,
}

/// Who the device is, and what it may reach.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceState {
    /// The registration.
    pub registration_id: RegistrationId,
    /// The device.
    pub device_id: DeviceId,
    /// Who it stands for.
    pub user: String,
    /// The addresses of the device's interface, at most one of a family.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
    /// The networks to capture: the account's routes in the device's virtual network.
    pub networks: Vec<Cidr>,
    /// The edges that the device may go to, as `HOST:PORT`, of which each has a certificate of its own name. None where
    /// there is one edge only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub edges: Vec<String>,
    /// The domains whose names the device asks of somebody else than the edge.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fallback_domains: Vec<FallbackDomain>,
}

impl Event {
    /// The event as a line, its newline included.
    pub fn to_line(&self) -> String {
        // Fails only for maps whose keys are no strings, of which there are none.
        let mut line = serde_json::to_string(self).unwrap_or_default();
        line.push('\n');
        line
    }

    /// Reads a line; kinds of event that this version does not know are `None`.
    ///
    /// # Errors
    /// A line that is no JSON object with a `type`, or a known type with wrong fields.
    pub fn from_line(line: &[u8]) -> Result<Option<Self>, EventError> {
        if line.len() > MAX_EVENT_BYTES {
            return Err(EventError::TooLong);
        }
        let kind: Kind<'_> = serde_json::from_slice(line).map_err(EventError::Malformed)?;
        let known = [
            "state",
            "networks",
            "edges",
            "blocked",
            "fallback_domains",
            "revoked",
            "superseded",
            "draining",
            "ping",
        ]
        .contains(&kind.kind.as_ref());
        if known { serde_json::from_slice(line).map(Some).map_err(EventError::Malformed) } else { Ok(None) }
    }
}

/// An event of any kind.
#[derive(Deserialize)]
struct Kind<'a> {
    #[serde(borrow, rename = "type")]
    kind: std::borrow::Cow<'a, str>,
}

/// A line of the event stream could not be read.
#[derive(Debug, thiserror::Error)]
pub enum EventError {
    /// Longer than [`MAX_EVENT_BYTES`].
    #[error("an event of over {MAX_EVENT_BYTES} bytes")]
    TooLong,
    /// Not the JSON that it should be.
    #[error("a malformed event")]
    Malformed(#[source] serde_json::Error),
}

/// The HTTP status that goes with a refusal, for those who look at no header.
pub fn refusal_status(refusal: Refusal) -> u16 {
    match refusal {
        Refusal::Blocked | Refusal::Revoked | Refusal::NeverDialled => 403,
        Refusal::Refused
        | Refusal::HostUnreachable
        | Refusal::NetworkUnreachable
        | Refusal::ConnectorError
        | Refusal::Unroutable => 502,
        Refusal::NoConnection | Refusal::TooManyFlows | Refusal::Stale => 503,
        Refusal::TimedOut => 504,
        Refusal::TooLarge => 413,
    }
}

/// Reads the destination of a flow: an address and a port, IPv6 in brackets, no host name. ICMP has no ports: 0 will do.
pub fn destination(protocol: Protocol, authority: &str) -> Option<SocketAddr> {
    let destination: SocketAddr = authority.parse().ok()?;
    (destination.port() != 0 || protocol == Protocol::Icmp).then_some(destination)
}

/// Reads the [`PROTOCOL_HEADER`] of a flow, or its absence; `None` for a protocol that is not known.
pub fn protocol(name: Option<&str>) -> Option<Protocol> {
    name.map_or(Some(Protocol::Tcp), |name| name.parse().ok())
}

/// Feeds any bytes to the parsers of this module.
#[doc(hidden)]
pub fn fuzz_event(data: &[u8]) {
    if let Ok(Some(event)) = Event::from_line(data) {
        let again = Event::from_line(event.to_line().trim_end().as_bytes());
        assert!(again.is_ok_and(|again| again == Some(event)), "an event reads as it was written");
    }
    if let Ok(text) = std::str::from_utf8(data) {
        let found = destination(Protocol::Icmp, text);
        assert!(found.is_none_or(|found| destination(Protocol::Icmp, &found.to_string()) == Some(found)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_lines_of_json() {
        let event = Event::Networks { networks: vec!["198.51.100.101".parse().unwrap()] };
        assert_eq!(event.to_line(), "{\"type\":\"networks\",\"networks\":[\"198.51.100.101/32\"]}\n");
        assert_eq!(Event::from_line(event.to_line().trim_end().as_bytes()).unwrap(), Some(event));
    }

    #[test]
    fn an_unknown_kind_of_event_is_passed_over_and_a_broken_one_is_not() {
        assert_eq!(Event::from_line(br#"{"type":"weather","rain":true}"#).unwrap(), None);
        assert!(Event::from_line(br#"{"type":"networks","networks":["10.0.0.1/8"]}"#).is_err());
        assert!(Event::from_line(b"ping").is_err());
    }

    #[test]
    fn a_destination_is_an_address_with_a_port() {
        assert_eq!(destination(Protocol::Tcp, "[2001:db8::101]:6443").unwrap().port(), 6443);
        assert_eq!(destination(Protocol::Icmp, "198.51.100.101:0").unwrap().port(), 0);
        for wrong in ["example.com:443", "198.51.100.101", "198.51.100.101:0", "2001:db8::101:6443", ""] {
            assert_eq!(destination(Protocol::Udp, wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_flow_without_a_protocol_is_tcp() {
        assert_eq!(protocol(None), Some(Protocol::Tcp));
        assert_eq!(protocol(Some("udp")), Some(Protocol::Udp));
        assert_eq!(protocol(Some("sctp")), None);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_an_event_or_an_error(data: Vec<u8>) {
            fuzz_event(&data);
        }
    }
}
