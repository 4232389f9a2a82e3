//! Why a flow is, or would be, allowed, blocked or unroutable: the question, and the answer step by step (design, section 5).
//!
//! An edge answers, by the code that decides flows; whoever asked prints it. The JSON of these types is what programs read.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::address::Cidr;
use crate::flow::Protocol;
use crate::id::{ConnectionId, DeviceId, NodeId, RuleId, TunnelId, VirtualNetworkId};
use crate::rule::Action;

/// Longest server name that is asked about, in bytes.
pub const MAX_SERVER_NAME_BYTES: usize = 253;

/// Which flow is asked about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainQuestion {
    /// Where to.
    pub destination: SocketAddr,
    /// The protocol.
    pub protocol: Protocol,
    /// What the client names in its TLS.
    #[serde(default)]
    pub server_name: Option<String>,
    /// Whether it is dialled, to see what the destination says.
    pub dial: bool,
}

/// Whose flow it would be, where nobody asks from the device itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExplainFor {
    /// The device.
    pub device: DeviceId,
    /// Where it was last seen.
    pub source: Option<IpAddr>,
}

/// What would become of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explained {
    /// Whether it is allowed, and dialled if that was asked for.
    pub allowed: bool,
    /// Why not, by the name that records have.
    pub refusal: Option<String>,
    /// The number of the snapshot that decided.
    pub generation: u64,
    /// Step by step.
    pub steps: Vec<ExplainStep>,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum ExplainStep {
    /// What the name stands for.
    Dns {
        /// The name, or the address that was given.
        name: String,
        /// Its addresses, the first of which is asked about.
        addresses: Vec<IpAddr>,
        /// Who was asked.
        by: String,
    },
    /// Whose flow it is.
    Device {
        /// The device.
        device: DeviceId,
        /// Its name.
        name: String,
        /// Who it stands for.
        user: String,
        /// Where it is, as rules see it; none if that is not known.
        source: Option<IpAddr>,
    },
    /// Where the destination is.
    Route {
        /// The virtual network in which it was looked up.
        virtual_network: VirtualNetworkId,
        /// The longest prefix that holds it, if one does and no name led there.
        network: Option<Cidr>,
        /// The name that led there instead, and the address that stood for it on the device.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        named: Option<(String, IpAddr)>,
        /// The tunnel that leads there.
        tunnel: Option<TunnelId>,
        /// The tunnel's name.
        tunnel_name: Option<String>,
    },
    /// A rule that was asked.
    Rule(Box<ExplainedRule>),
    /// Rules that were asked and are not told of one by one.
    Omitted {
        /// How many; all of them missed.
        rules: usize,
    },
    /// What the rules come to.
    Decision {
        /// `allow`, `block` or `l4_override`; or why it did not come to that.
        decision: String,
        /// The rule that decided; none: none matched.
        rule: Option<RuleId>,
        /// What is dialled instead, if the rule says so.
        overridden_by: Option<SocketAddr>,
        /// What was taken for granted.
        assumed: Option<String>,
    },
    /// Whether its content is looked into.
    Inspection {
        /// `inspected`, `bypassed`, `off`, `refused`, `not_tls`.
        verdict: String,
        /// The rule that lets it pass unopened.
        rule: Option<RuleId>,
        /// Whether the destination asked for a client certificate lately; none if that is not known.
        asks_for_certificate: Option<bool>,
        /// In words.
        text: String,
    },
    /// What carries it.
    Connection {
        /// The connection that would be chosen, or was.
        connection: Option<ConnectionId>,
        /// The other node that it was relayed to.
        relayed_to: Option<NodeId>,
    },
    /// What the destination says.
    Dial {
        /// What was dialled.
        destination: SocketAddr,
        /// `connected`, `not asked`, or why not, by the name that records have.
        outcome: String,
        /// How long it took.
        milliseconds: u64,
        /// The connector's words.
        detail: String,
    },
}

/// A rule that was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainedRule {
    /// Of which filter: `l4`, or `http` for one that decides about inspection.
    pub filter: String,
    /// Which.
    pub id: RuleId,
    /// What it is called.
    pub name: String,
    /// Its place.
    pub precedence: u64,
    /// What it does.
    pub action: Action,
    /// `matched`, `missed`, `disabled`, `waits` (for what the client says first), `unreadable`.
    pub outcome: String,
    /// The comparisons that decided that.
    pub because: Vec<ExplainedFinding>,
}

/// A comparison of a rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainedFinding {
    /// The comparison.
    pub condition: String,
    /// Whether it holds; none: it is not known.
    pub holds: Option<bool>,
    /// The values that it compares, by what they are called; none: there is no value.
    pub values: Vec<(String, Option<String>)>,
}

impl fmt::Display for ExplainedFinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let holds = match self.holds {
            Some(true) => "holds",
            Some(false) => "does not hold",
            None => "is not known",
        };
        write!(f, "{} {holds}", self.condition)?;
        for (at, (name, value)) in self.values.iter().enumerate() {
            f.write_str(if at == 0 { ": " } else { ", " })?;
            match value {
                Some(value) => write!(f, "{name} is {value}")?,
                None => write!(f, "{name} has no value")?,
            }
        }
        Ok(())
    }
}

/// One line for people.
impl fmt::Display for ExplainStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns { name, addresses, by } if addresses.is_empty() => {
                write!(f, "dns         {name}: {by}")
            }
            Self::Dns { name, addresses, by } => {
                let all: Vec<String> = addresses.iter().map(ToString::to_string).collect();
                write!(f, "dns         {name} is {} ({by})", all.join(", "))
            }
            Self::Device { device, name, user, source } => {
                write!(f, "device      {name} ({device}) of {user}")?;
                match source {
                    Some(source) => write!(f, ", at {source}"),
                    None => write!(f, "; where it is, is not known"),
                }
            }
            Self::Route { virtual_network, network: None, named: None, .. } => {
                write!(f, "route       none in the virtual network {virtual_network}")
            }
            Self::Route { virtual_network, network, named, tunnel, tunnel_name } => {
                match (named, network) {
                    (Some((name, synthetic)), _) => {
                        write!(f, "route       of the name {name}, for which {synthetic} stands, tunnel ")?;
                    }
                    (None, network) => {
                        let network = network.map(|network| network.to_string()).unwrap_or_default();
                        write!(f, "route       {network} in the virtual network {virtual_network}, tunnel ")?;
                    }
                }
                match (tunnel_name, tunnel) {
                    (Some(name), Some(tunnel)) => write!(f, "{name} ({tunnel})"),
                    (None, Some(tunnel)) => write!(f, "{tunnel}"),
                    (_, None) => f.write_str("none"),
                }
            }
            Self::Rule(rule) => {
                let ExplainedRule { filter, id, name, precedence, action, outcome, because } = &**rule;
                write!(f, "rule        {filter} {precedence} {name:?} ({id}), {action}: {outcome}")?;
                for (at, finding) in because.iter().enumerate() {
                    write!(f, "{}{finding}", if at == 0 { ", since " } else { "; " })?;
                }
                Ok(())
            }
            Self::Omitted { rules } => write!(f, "rule        {rules} others: missed"),
            Self::Decision { decision, rule, overridden_by, assumed } => {
                write!(f, "decision    {decision}")?;
                match rule {
                    Some(rule) => write!(f, " by the rule {rule}")?,
                    None => write!(f, "; no rule matched")?,
                }
                if let Some(instead) = overridden_by {
                    write!(f, ", {instead} is dialled instead")?;
                }
                match assumed {
                    Some(assumed) => write!(f, " ({assumed})"),
                    None => Ok(()),
                }
            }
            Self::Inspection { text, .. } => write!(f, "inspection  {text}"),
            Self::Connection { connection: Some(connection), relayed_to: None } => {
                write!(f, "connection  {connection}")
            }
            Self::Connection { connection, relayed_to: Some(node) } => {
                write!(f, "connection  relayed to the node {node}")?;
                match connection {
                    Some(connection) => write!(f, ", {connection} there"),
                    None => Ok(()),
                }
            }
            Self::Connection { connection: None, relayed_to: None } => {
                write!(f, "connection  none: no connector of the tunnel is connected")
            }
            Self::Dial { destination, outcome, milliseconds, detail } => {
                write!(f, "dial        {destination}: {outcome}")?;
                if outcome != NOT_DIALLED {
                    write!(f, " after {milliseconds} ms")?;
                }
                if detail.is_empty() { Ok(()) } else { write!(f, " ({detail})") }
            }
        }
    }
}

/// What is said of a destination that was not dialled.
pub const NOT_DIALLED: &str = "not asked";
