//! What edges report: connections that come and go, devices seen, and one record for every flow that ended.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::dns::DnsRecord;
use crate::flow::{Protocol, Refusal};
use crate::hostname::PublicHostname;
use crate::id::{
    AccountId, ConnectionId, ConnectorId, DeviceId, FlowId, NodeId, RegistrationId, RouteId, RuleId, TunnelId,
};

/// One report of an edge.
#[derive(Debug, Clone)]
pub enum Record {
    /// A connector registered a connection.
    ConnectionOpened(ConnectionOpened),
    /// A connection ended or said that it is leaving.
    ConnectionClosed(ConnectionClosed),
    /// A connector told its own configuration.
    LocalConfiguration(LocalConfiguration),
    /// A device connected.
    RegistrationSeen(RegistrationSeen),
    /// A flow ended.
    Flow(Box<FlowRecord>),
    /// A request to a public host name ended.
    Request(Box<RequestRecord>),
    /// A DNS query was answered.
    Dns(Box<DnsRecord>),
}

/// A connector registered a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionOpened {
    /// Its tunnel.
    pub tunnel: TunnelId,
    /// Its id, made by the edge.
    pub connection: ConnectionId,
    /// The connector process.
    pub connector: ConnectorId,
    /// The connector's number for it, 0 to 3.
    pub index: u8,
    /// What the connector calls its version.
    pub version: String,
    /// What the connector calls its platform, such as `linux_amd64`.
    pub architecture: String,
    /// The features that it announced.
    pub features: Vec<String>,
    /// Where the connection comes from.
    pub origin: IpAddr,
    /// The edge node that holds it.
    pub node: String,
    /// When.
    pub at: SystemTime,
}

/// A connection is out of the rotation.
#[derive(Debug, Clone)]
pub struct ConnectionClosed {
    /// Its tunnel.
    pub tunnel: TunnelId,
    /// Which.
    pub connection: ConnectionId,
    /// When.
    pub at: SystemTime,
}

/// A connector told its own configuration (tunnel protocol, 2.4). For display only: nothing is decided by it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalConfiguration {
    /// Its tunnel.
    pub tunnel: TunnelId,
    /// The connector process.
    pub connector: ConnectorId,
    /// The text as it came, JSON by the contract.
    pub config: String,
}

/// A device connected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistrationSeen {
    /// Which registration.
    pub registration: RegistrationId,
    /// Where from.
    pub source: IpAddr,
    /// The version of its agent.
    pub agent_version: String,
    /// When.
    pub at: SystemTime,
}

/// Who, what, which rule, which route, how much, and why it ended (design, section 1, step 8).
#[derive(Debug, Clone)]
pub struct FlowRecord {
    /// The flow.
    pub flow: FlowId,
    /// The account.
    pub account: AccountId,
    /// The registration.
    pub registration: RegistrationId,
    /// The device.
    pub device: DeviceId,
    /// The person or service token behind it.
    pub user: String,
    /// The protocol.
    pub protocol: Protocol,
    /// Where to.
    pub destination: SocketAddr,
    /// What was dialled instead of it, if a rule said so.
    pub overridden_by: Option<SocketAddr>,
    /// The number of the snapshot that decided.
    pub snapshot: u64,
    /// The rule that decided, if one did.
    pub rule: Option<RuleId>,
    /// The route, if there was one.
    pub route: Option<RouteId>,
    /// The tunnel, if there was one.
    pub tunnel: Option<TunnelId>,
    /// The connection that carried it.
    pub connection: Option<ConnectionId>,
    /// The node that holds the connection, if that is another one: the flow was relayed to it.
    pub relayed_to: Option<NodeId>,
    /// Bytes from the device to the destination.
    pub bytes_up: u64,
    /// Bytes from the destination to the device.
    pub bytes_down: u64,
    /// Datagrams from the device to the destination; none in TCP.
    pub datagrams_up: u64,
    /// Datagrams from the destination to the device; none in TCP.
    pub datagrams_down: u64,
    /// When it began.
    pub began: SystemTime,
    /// How long it lasted.
    pub lasted: Duration,
    /// What was found in it, if it was looked into.
    pub inspection: Option<InspectionRecord>,
    /// Why it ended.
    pub end: FlowEnd,
}

/// What was found in a flow that was looked into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InspectionRecord {
    /// What was done: `opened` and `read` were judged; `bypassed` by a rule, `not-http` and `passed` were not; `refused`
    /// might have been neither.
    pub treatment: &'static str,
    /// The rule that let it pass unopened.
    pub rule: Option<RuleId>,
    /// The name in the client's hello.
    pub server_name: Option<String>,
    /// The protocol that the client speaks.
    pub protocol: Option<&'static str>,
    /// What was found of the origin's certificate.
    pub validation: Option<&'static str>,
    /// Whether the origin asked for a certificate of the client.
    pub wants_certificate: bool,
    /// Why a handshake failed, if one did.
    pub error: Option<String>,
}

/// Why a flow ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlowEnd {
    /// Both directions ended with all their bytes.
    Finished,
    /// A flow of datagrams, which has no end of its own, carried nothing for long.
    Idle,
    /// The device's side was reset.
    ResetByDevice,
    /// The destination's side, or its connector, was reset.
    ResetByDestination,
    /// The registration was revoked while it was open.
    Revoked,
    /// The edge is stopping.
    EdgeStopping,
    /// The client did not finish its TLS with the edge: most often it does not trust the account's authority.
    ClientTlsError,
    /// It never began.
    Refused(Refusal),
}

impl FlowEnd {
    /// The name in records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::Idle => "idle",
            Self::ResetByDevice => "reset-by-device",
            Self::ResetByDestination => "reset-by-destination",
            Self::Revoked => "registration-revoked",
            Self::EdgeStopping => "edge-stopping",
            Self::ClientTlsError => "client-tls-error",
            Self::Refused(refusal) => refusal.as_str(),
        }
    }
}

/// Who asked for what, where it went, what was answered and why it ended: one for each request to a public host name.
#[derive(Debug, Clone)]
pub struct RequestRecord {
    /// The request, as a flow. Its first half is the `Cf-Ray` that client and origin are told.
    pub flow: FlowId,
    /// The account of the host name.
    pub account: AccountId,
    /// The host name.
    pub hostname: PublicHostname,
    /// The tunnel that the host name leads to.
    pub tunnel: TunnelId,
    /// The connection that carried it.
    pub connection: Option<ConnectionId>,
    /// The node that holds the connection, if that is another one: the flow was relayed to it.
    pub relayed_to: Option<NodeId>,
    /// Where the client is.
    pub source: IpAddr,
    /// The method.
    pub method: String,
    /// The path, without the query, which may hold secrets.
    pub path: String,
    /// The status that the client was told; 0 if it was told none.
    pub status: u16,
    /// The number of the snapshot that it was routed by.
    pub snapshot: u64,
    /// Bytes of the request's body.
    pub bytes_up: u64,
    /// Bytes of the answer's body.
    pub bytes_down: u64,
    /// When it began.
    pub began: SystemTime,
    /// How long it lasted.
    pub lasted: Duration,
    /// Why it ended.
    pub end: RequestEnd,
}

/// Why a request to a public host name ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestEnd {
    /// The answer was passed on whole.
    Finished,
    /// The client went away.
    ResetByClient,
    /// The origin's side, or its connector, was reset.
    ResetByOrigin,
    /// The host name was removed meanwhile.
    HostnameRemoved,
    /// The edge is stopping.
    EdgeStopping,
    /// It never reached the origin, or was not answered.
    Refused(Refusal),
}

impl RequestEnd {
    /// The name in records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::ResetByClient => "reset-by-client",
            Self::ResetByOrigin => "reset-by-origin",
            Self::HostnameRemoved => "hostname-removed",
            Self::EdgeStopping => "edge-stopping",
            Self::Refused(refusal) => refusal.as_str(),
        }
    }
}
