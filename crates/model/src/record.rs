//! What edges report: connections that come and go, devices seen, and one record for every flow that ended.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::dns::DnsRecord;
use crate::flow::{FirstBytes, Named, Protocol, Refusal};
use crate::gateway::Blocks;
use crate::hostname::PublicHostname;
use crate::id::{
    AccountId, ConnectionId, ConnectorId, DeviceId, FlowId, NodeId, RegistrationId, RouteId, RuleId,
    TunnelId, VirtualNetworkId,
};
use crate::rule::{Action, UntrustedAction};

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
    /// The rules decided a flow.
    Decision(Box<DecisionRecord>),
    /// A request inside of a flow was judged, or a flow's TLS passed unopened because a rule says so.
    Http(Box<HttpRecord>),
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

/// Whose flow it is, and where it goes: what all records of a flow have in common.
#[derive(Debug, Clone)]
pub struct Party {
    /// The flow.
    pub flow: FlowId,
    /// The account.
    pub account: AccountId,
    /// The registration.
    pub registration: RegistrationId,
    /// The device.
    pub device: DeviceId,
    /// The device's name.
    pub device_name: String,
    /// The person or service token behind it.
    pub user: String,
    /// Where the device is, as the edge sees it.
    pub source: IpAddr,
    /// Where its route was looked up.
    pub virtual_network: VirtualNetworkId,
    /// The protocol.
    pub protocol: Protocol,
    /// Where to.
    pub destination: SocketAddr,
    /// The name that stands for it, if the device asked for one of a hostname route.
    pub named: Option<Arc<Named>>,
    /// Whether records leave out what is personal.
    pub redact: bool,
}

/// A rule, as records name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleName {
    /// Which.
    pub id: RuleId,
    /// What it is called.
    pub name: String,
    /// What it does.
    pub action: Action,
}

/// When a flow was decided (policy language, 8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecisionPhase {
    /// By its first packet.
    Opening,
    /// By the client's first bytes.
    FirstBytes,
}

impl DecisionPhase {
    /// The name in records.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Opening => "N0",
            Self::FirstBytes => "N1",
        }
    }
}

/// What the rules of the filter `l4` decided of a flow.
#[derive(Debug, Clone)]
pub struct DecisionRecord {
    /// Whose flow.
    pub party: Arc<Party>,
    /// When.
    pub at: SystemTime,
    /// Whether it was refused.
    pub blocks: Blocks,
    /// The rule that decided, if one did.
    pub rule: Option<RuleName>,
    /// What is dialled instead of the destination, if the rule says so.
    pub overridden_by: Option<SocketAddr>,
    /// By what was known of it.
    pub phase: DecisionPhase,
    /// The number of the snapshot that decided.
    pub snapshot: u64,
    /// What the client said first, if it was waited for.
    pub first: FirstBytes,
}

/// What became of a request inside of a flow; or, without one, that the flow's TLS passed unopened.
#[derive(Debug, Clone)]
pub struct HttpRecord {
    /// Whose flow.
    pub party: Arc<Party>,
    /// When.
    pub at: SystemTime,
    /// What was done, by the names of the HTTP log.
    pub action: &'static str,
    /// The rule that decided, if one did.
    pub rule: Option<RuleName>,
    /// The number of the snapshot that decided.
    pub snapshot: u64,
    /// The host that was asked for.
    pub host: String,
    /// The method.
    pub method: String,
    /// The URL, without its query unless the account wants it.
    pub url: String,
    /// `HTTP/1.1` or `HTTP/2`.
    pub version: &'static str,
    /// The status that the client was told; 0 if it was told none.
    pub status: u16,
    /// What led the client here, if it said so.
    pub referer: String,
    /// The client's program, if it said so.
    pub user_agent: String,
    /// Where the client was sent, if it was.
    pub redirected_to: String,
    /// Why the edge itself answered, if it did.
    pub reason: Option<&'static str>,
    /// What was found of the origin's certificate.
    pub validation: Option<&'static str>,
    /// What was done about an origin whose certificate is not good.
    pub untrusted: Option<UntrustedAction>,
    /// Why it passed unopened, if it did.
    pub bypass: Option<&'static str>,
    /// The name of what would help, if something is known to.
    pub hint: Option<&'static str>,
}

/// Who, what, which rule, which route, how much, and why it ended (design, section 1, step 8).
#[derive(Debug, Clone)]
pub struct FlowRecord {
    /// Whose flow.
    pub party: Arc<Party>,
    /// What was dialled instead of the destination, if a rule said so.
    pub overridden_by: Option<SocketAddr>,
    /// The number of the snapshot that decided.
    pub snapshot: u64,
    /// The rule that decided, if one did.
    pub rule: Option<RuleName>,
    /// By what was known of it, if it was decided.
    pub phase: Option<DecisionPhase>,
    /// How long rules were asked.
    pub evaluated_for: Duration,
    /// What the client said first, if a rule waited for it.
    pub first: FirstBytes,
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
    /// Who closed it, if it ended with all its bytes.
    pub closed_by: Option<ClosedBy>,
}

/// Who closed a flow that ended with all its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClosedBy {
    /// The device's side ended first.
    Client,
    /// The destination's side ended first.
    Origin,
    /// Nobody: it carries datagrams, and carried none for long.
    Idle,
}

/// What was found in a flow that was looked into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InspectionRecord {
    /// What was done: `opened` and `read` were judged; `bypassed` by a rule, `not-http` (by what the hello
    /// offers), `not-http-before` (by what came out of the last one) and `passed` were not; `refused` might have been neither.
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
    /// What was agreed on with the client.
    pub client: Option<TlsHandshake>,
    /// What was agreed on with the origin.
    pub origin: Option<TlsHandshake>,
}

/// What a TLS handshake came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TlsHandshake {
    /// The version, such as `TLSv1.3`.
    pub version: &'static str,
    /// The cipher suite, by its name in the registry.
    pub cipher: &'static str,
    /// How long it took.
    pub took: Duration,
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
    /// A block rule that was written while it was open matches it.
    CutByRule,
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
            Self::CutByRule => "cut-by-rule",
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

/// What would help a client that has to show a certificate.
pub const CERTIFICATE_HINT: &str = "the server asks for a client certificate, which cannot be shown while TLS is opened: \
    a rule of the http filter with action off for this destination lets it pass unopened";
