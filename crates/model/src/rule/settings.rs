//! How a rule does what it does (contract D, 8.7). The keys are those of the API, so that what is stored is what is
//! answered: a setting that was not set is not there.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Not;

use serde::{Deserialize, Serialize};

use crate::id::VirtualNetworkId;

/// Every setting that a rule may carry.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[expect(clippy::struct_excessive_bools, reason = "the API's keys, most of which are switches")]
pub struct RuleSettings {
    /// Shows the block page.
    #[serde(skip_serializing_if = "Not::not")]
    pub block_page_enabled: bool,
    /// What the block page says.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub block_reason: String,
    /// Where a blocked request is sent instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block_page: Option<BlockPage>,
    /// What the device shows of a block.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub notification_settings: Option<Notification>,
    /// The addresses that a query is answered with.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub override_ips: Vec<IpAddr>,
    /// The name that a query is answered with.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub override_host: String,
    /// Takes an answer whose signatures are wrong.
    #[serde(skip_serializing_if = "Not::not")]
    pub insecure_disable_dnssec_validation: bool,
    /// Counts the categories of resolved addresses.
    #[serde(skip_serializing_if = "Not::not")]
    pub ip_categories: bool,
    /// Counts the feeds of resolved addresses.
    #[serde(skip_serializing_if = "Not::not")]
    pub ip_indicator_feeds: bool,
    /// Does not count the categories of the names that a name stands for.
    #[serde(skip_serializing_if = "Not::not")]
    pub ignore_cname_category_matches: bool,
    /// Stored, without effect.
    #[serde(skip_serializing_if = "Not::not")]
    pub allow_child_bypass: bool,
    /// Stored, without effect.
    #[serde(skip_serializing_if = "Not::not")]
    pub bypass_parent_rule: bool,
    /// What is dialled instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub l4override: Option<OverrideTarget>,
    /// How long ago the person may have signed in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub check_session: Option<CheckSession>,
    /// Headers that the request gets besides its own.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub add_headers: BTreeMap<String, Vec<String>>,
    /// Headers that the request gets instead of its own.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub set_headers: BTreeMap<String, Vec<String>>,
    /// Headers that the request loses.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub delete_headers: Vec<String>,
    /// What is done where the origin's certificate is not trusted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub untrusted_cert: Option<UntrustedCertificate>,
    /// Keeps what made a profile match.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload_log: Option<Switch>,
    /// Keeps a copy of the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forensic_copy: Option<Switch>,
    /// Where the client is sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redirect: Option<Redirect>,
    /// The source addresses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress: Option<Egress>,
    /// The resolvers that are asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns_resolvers: Option<DnsResolvers>,
    /// Resolves as if there were no rule.
    #[serde(skip_serializing_if = "Not::not")]
    pub resolve_dns_through_cloudflare: bool,
}

/// Whether the target of a redirection is told who was sent there; `None` is not.
pub type Context = Option<bool>;

/// Where a blocked request is sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockPage {
    /// The URL.
    pub target_uri: String,
    /// Whether it is told who and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub include_context: Context,
}

/// What the device shows of a block.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Notification {
    /// Whether it shows anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// The text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub msg: Option<String>,
    /// Where help is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub support_url: Option<String>,
    /// Whether that place is told who and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub include_context: Context,
}

/// What is dialled instead: at least one of the two.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OverrideTarget {
    /// The address; without one, the flow's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip: Option<IpAddr>,
    /// The port; without one, the flow's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

/// How long ago the person may have signed in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CheckSession {
    /// Whether it is asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enforce: Option<bool>,
    /// The duration as Go prints it: `1h0m0s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration: Option<String>,
}

/// What is done where the origin's certificate is not trusted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UntrustedCertificate {
    /// What.
    pub action: UntrustedAction,
}

/// What is done with an origin whose certificate is not trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UntrustedAction {
    /// The request goes on.
    PassThrough,
    /// The block page.
    Block,
    /// An error page.
    Error,
}

/// Something that is on or off.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Switch {
    /// Whether it is on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
}

/// Where the client is sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redirect {
    /// The URL.
    pub target_uri: String,
    /// Whether it is told who and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub include_context: Context,
    /// Whether the request's path and query go along.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preserve_path_and_query: Option<bool>,
}

/// The source addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Egress {
    /// The IPv4 address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv4: Option<String>,
    /// The IPv4 address where the first cannot be used; `0.0.0.0` is the node's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv4_fallback: Option<String>,
    /// The IPv6 range.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<String>,
}

/// The resolvers that are asked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DnsResolvers {
    /// Those with IPv4 addresses.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ipv4: Vec<DnsResolver>,
    /// Those with IPv6 addresses.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ipv6: Vec<DnsResolver>,
}

/// A resolver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsResolver {
    /// Its address.
    pub ip: IpAddr,
    /// Its port; without one, 53.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The virtual network in which it is reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vnet_id: Option<VirtualNetworkId>,
    /// Whether it is reached through a tunnel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route_through_private_network: Option<bool>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_set_is_not_there() {
        assert_eq!(serde_json::to_string(&RuleSettings::default()).unwrap(), "{}");
        let text = r#"{"block_page":{"target_uri":"https://a.example","include_context":false},"check_session":{"enforce":true,"duration":"5m0s"}}"#;
        let settings: RuleSettings = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&settings).unwrap(), text);
    }
}
