//! One DNS query: what rules are asked about it, and what is recorded of it (Gateway semantics, 4 and 8).

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::gateway::Blocks;
use crate::id::{AccountId, DeviceId, FlowId, LocationId, RegistrationId, RuleId};
use crate::location::Location;

/// All that is known of a query before it is resolved, in the spelling in which rules are asked (policy language, 7.1, D0).
#[derive(Debug, Clone, Copy)]
pub struct QueryFacts<'a> {
    /// The account on whose behalf.
    pub account: AccountId,
    /// The name, in lower case and without a trailing dot; empty for the root.
    pub name: &'a str,
    /// The type's mnemonic: `A`, `AAAA`, `HTTPS`, …
    pub record_type: &'a str,
    /// Who asks, as the edge sees it.
    pub source: IpAddr,
    /// The address that was asked.
    pub resolver: Option<IpAddr>,
    /// The location that the query came to.
    pub location: Option<LocationId>,
    /// The first label of the host that a query over HTTPS came to.
    pub subdomain: Option<&'a str>,
    /// When it came, in microseconds since 1970.
    pub at_micros: i64,
}

/// What an answer holds (policy language, 7.1, D2).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AnswerFacts {
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// The names that the name stands for, in the chain's order.
    pub cnames: Vec<String>,
    /// The mail servers.
    pub mx: Vec<String>,
    /// The names of an address.
    pub ptr: Vec<String>,
    /// The texts.
    pub txt: Vec<String>,
}

/// How a query came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DnsProtocol {
    /// From a device with the agent.
    Device,
    /// Over HTTPS (RFC 8484).
    Https,
    /// Over TLS (RFC 7858).
    Tls,
}

impl DnsProtocol {
    /// The name in records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::Https => "https",
            Self::Tls => "tls",
        }
    }
}

/// What became of a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DnsDecision {
    /// No rule matched: it was resolved.
    Unmatched,
    /// A rule allowed it, and it was resolved.
    Allowed,
    /// A rule blocked it by what was asked.
    BlockedByQuery,
    /// A rule blocked it by what was answered.
    BlockedByAnswer,
    /// A rule answered it.
    Overridden,
    /// It was not decided: the edge does not know enough, the query is not one that is served, or there are too many.
    Refused,
}

impl DnsDecision {
    /// Whether it refuses the query.
    pub fn blocks(self) -> Blocks {
        match self {
            Self::BlockedByQuery | Self::BlockedByAnswer | Self::Refused => Blocks::Yes,
            Self::Unmatched | Self::Allowed | Self::Overridden => Blocks::No,
        }
    }

    /// As the published dataset has it (Gateway semantics, 8: `ResolverDecision`).
    pub fn published(self) -> &'static str {
        match self {
            Self::Unmatched => "allowedOnNoPolicyMatch",
            Self::Allowed => "allowedRule",
            Self::BlockedByQuery | Self::BlockedByAnswer => "blockedRule",
            Self::Overridden => "overrideApplied",
            Self::Refused => "refused",
        }
    }

    /// The name in records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unmatched => "unmatched",
            Self::Allowed => "allowed",
            Self::BlockedByQuery => "blocked-by-query",
            Self::BlockedByAnswer => "blocked-by-answer",
            Self::Overridden => "overridden",
            Self::Refused => "refused",
        }
    }
}

/// A rule that decided something of a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecidingRule {
    /// Which.
    pub id: RuleId,
    /// What it was called then.
    pub name: String,
}

/// Who asked what, what was decided by which rule, and what was answered (Gateway semantics, 8, `gateway_dns`).
#[derive(Debug, Clone)]
pub struct DnsRecord {
    /// The query.
    pub id: FlowId,
    /// The account.
    pub account: AccountId,
    /// The registration, if a device with the agent asked.
    pub registration: Option<RegistrationId>,
    /// Its device.
    pub device: Option<DeviceId>,
    /// The device's name.
    pub device_name: String,
    /// The person or service token behind it; empty if nobody is known.
    pub user: String,
    /// Where the query came from, as the edge saw it.
    pub source: SocketAddr,
    /// How it came.
    pub protocol: DnsProtocol,
    /// The location that it came to.
    pub location: Option<Arc<Location>>,
    /// The name, in lower case and without a trailing dot.
    pub name: String,
    /// The type's number.
    pub record_type: u16,
    /// The type's mnemonic.
    pub record_type_name: String,
    /// The query's length in bytes.
    pub query_bytes: usize,
    /// The code of the answer (RFC 1035, 4.1.1).
    pub response_code: u16,
    /// What became of it.
    pub decision: DnsDecision,
    /// The rule that decided, if one did.
    pub rule: Option<DecidingRule>,
    /// The rule that chose the resolver, if one did.
    pub resolver_rule: Option<DecidingRule>,
    /// The resolver of that rule that answered, or was asked last.
    pub custom_resolver: Option<SocketAddr>,
    /// How long that took.
    pub custom_resolver_took: Option<Duration>,
    /// The addresses that the name has.
    pub addresses: Vec<IpAddr>,
    /// What the answer held in their place, if the name is one of a hostname route.
    pub synthetic: Vec<IpAddr>,
    /// The names that the name stands for.
    pub cnames: Vec<String>,
    /// How long each record of the resolver's answer may be kept, in seconds.
    pub upstream_ttls: Vec<u32>,
    /// What that was limited to, if it was.
    pub max_ttl: Option<u32>,
    /// Whether the answer was kept from an earlier query.
    pub cached: bool,
    /// The extended error (RFC 8914) that the answer told.
    pub extended_error: Option<u16>,
    /// Whether records are to leave out who asked.
    pub redact: bool,
    /// The number of the snapshot that decided.
    pub snapshot: u64,
    /// When it came.
    pub began: SystemTime,
    /// How long it took.
    pub lasted: Duration,
}
