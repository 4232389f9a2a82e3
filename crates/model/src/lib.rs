//! The words of the design as types: ids, addresses, stored objects, changes, flow facts and records.
//!
//! Every other crate speaks in these types; bytes from outside become one of them once, at a door, with limits.
//! What always holds here: a value that exists is valid (a [`Cidr`] has no host bits, a [`Refusal`] is a known one),
//! and nothing reads a clock, a file, a socket, the environment or a source of randomness.

mod address;
mod change;
mod dns;
mod duration;
mod explain;
mod fallback;
mod flow;
mod gateway;
mod hostname;
mod http;
mod id;
mod list;
mod location;
mod log;
mod record;
mod rule;
mod secret;

pub use address::{Cidr, CidrError, NeverDialled, never_dialled};
pub use change::{
    Change, ChangeBatch, Command, Hostname, HostnameRoute, Lease, Node, Registration, Route, Tunnel,
    TunnelConfiguration, VirtualNetwork,
};
pub use dns::{AnswerFacts, DecidingRule, DnsDecision, DnsProtocol, DnsRecord, QueryFacts};
pub use duration::{GoDuration, NotADuration};
pub use explain::{
    ExplainFor, ExplainQuestion, ExplainStep, Explained, ExplainedFinding, ExplainedRule,
    MAX_SERVER_NAME_BYTES, NOT_DIALLED,
};
pub use fallback::{DomainSuffix, FallbackDomain, FallbackDomains, NoDomain};
pub use flow::{FirstBytes, FlowFacts, Named, Protocol, Refusal, UnknownProtocol, UnknownRefusal};
pub use gateway::{
    AccountBlockPage, Blocks, CustomPage, GatewaySettings, InspectionMode, Logging, NonHttpTls, OriginRoot,
    OwnPage, RuleLogging,
};
pub use hostname::{HostnameError, HostnamePattern, PublicHostname};
pub use http::{RequestFacts, ResponseFacts};
pub use id::{
    AccountId, CertificateId, ConnectionId, ConnectorId, DeviceId, FlowId, HostnameId, IdError, ListId,
    LocationId, MemberId, NodeId, OriginRootId, RegistrationId, RouteId, RuleId, ServiceTokenId, TokenId,
    TunnelId, VirtualNetworkId,
};
pub use list::{List, ListItemsChange, ListKind, UnknownListKind};
pub use location::{Admission, Location, LocationEndpoint, LocationTtl, ServiceToken};
pub use log::{Dataset, LogField, LogKeys, LogKind, LogRecord, LogValue, UnknownDataset, log_record};
pub use record::{
    CERTIFICATE_HINT, ClosedBy, ConnectionClosed, ConnectionOpened, DecisionPhase, DecisionRecord, FlowEnd,
    FlowRecord, HttpRecord, InspectionRecord, LocalConfiguration, Party, Record, RegistrationSeen,
    RequestEnd, RequestRecord, RuleName, TlsHandshake,
};
#[doc(hidden)]
pub use rule::fuzz_schedule;
pub use rule::{
    Action, BlockPage, CheckSession, Context, DAYS, DayTimes, DnsResolver, DnsResolvers, Egress, Filter,
    MAX_PRECEDENCE, MAX_TIMES_OF_DAY, Notification, OverrideTarget, Redirect, Rule, RuleSettings, Schedule,
    ScheduleError, Switch, UnknownAction, UnknownFilter, UntrustedAction, UntrustedCertificate,
};
pub use secret::{DeviceKey, NodeKey, PresentedKey, SecretHash};
