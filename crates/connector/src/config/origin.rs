//! `ingress`, `originRequest` and `warp-routing` as they are typed, in a file or in what an edge pushes (contract, 4.2
//! and 6.2). Kinds are checked here; what a rule means, by [`crate::ingress`].

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use serde_json::{Map, Value, json};

use super::at::At;
use super::error::{ConfigError, Origin};

/// Rules of one configuration: each costs a look at every request.
const MAX_RULES: usize = 4096;
/// Rules of one `ipRules`.
const MAX_IP_RULES: usize = 1024;

/// A rule of `ingress` as it was typed.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TypedRule {
    pub(crate) hostname: String,
    pub(crate) path: String,
    pub(crate) service: String,
    pub(crate) origin_request: OriginOptions,
    /// Where it stands.
    pub(crate) origin: Origin,
}

impl TypedRule {
    pub(super) fn list(at: &At<'_>) -> Result<Vec<Self>, ConfigError> {
        let items = at.items("a list of rules, each with a service")?;
        if items.len() > MAX_RULES {
            return Err(at.wrong(format!("expected at most {MAX_RULES} rules, found {}", items.len())));
        }
        items.iter().map(Self::read).collect()
    }

    fn read(at: &At<'_>) -> Result<Self, ConfigError> {
        let mut rule = Self {
            hostname: String::new(),
            path: String::new(),
            service: String::new(),
            origin_request: OriginOptions::default(),
            origin: at.origin(),
        };
        for (key, at) in at.entries(&["hostname", "path", "service", "originRequest"])? {
            match key {
                "hostname" => rule.hostname = at.text("a host name")?.unwrap_or_default(),
                "path" => rule.path = at.text("a regular expression")?.unwrap_or_default(),
                "service" => {
                    rule.service = at.text("a service such as http://localhost:80")?.unwrap_or_default();
                }
                _ => rule.origin_request = OriginOptions::read(&at)?,
            }
        }
        Ok(rule)
    }
}

/// One of `ipRules` as it was typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TypedIpRule {
    prefix: String,
    /// Empty: every port.
    ports: Vec<u32>,
    allow: bool,
}

impl TypedIpRule {
    fn read(at: &At<'_>) -> Result<Self, ConfigError> {
        let mut rule = Self { prefix: String::new(), ports: Vec::new(), allow: false };
        for (key, at) in at.entries(&["prefix", "ports", "allow"])? {
            match key {
                "prefix" => rule.prefix = at.text("a network such as 10.0.0.0/8")?.unwrap_or_default(),
                "ports" => {
                    for item in at.items("a list of ports")? {
                        rule.ports.push(item.number(u32::MAX)?.unwrap_or_default());
                    }
                }
                _ => rule.allow = at.boolean()?.unwrap_or_default(),
            }
        }
        Ok(rule)
    }

    fn json(&self) -> Value {
        json!({"prefix": self.prefix, "ports": self.ports, "allow": self.allow})
    }
}

/// One of `ipRules`, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IpRule {
    network: IpNet,
    ports: Vec<u16>,
    allow: bool,
}

/// A rule cannot be used. The words are cloudflared's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum IpRuleError {
    /// There is no network.
    #[error("no prefix provided")]
    NoPrefix,
    /// The network is none.
    #[error("unable to parse cidr: {0}")]
    Prefix(String),
    /// A port is none.
    #[error("invalid port {0}, needs to be between 1 and 65535")]
    Port(u32),
}

impl IpRule {
    pub(crate) fn new(typed: &TypedIpRule) -> Result<Self, IpRuleError> {
        if typed.prefix.is_empty() {
            return Err(IpRuleError::NoPrefix);
        }
        let network: IpNet = typed.prefix.parse().map_err(|_| IpRuleError::Prefix(typed.prefix.clone()))?;
        let port =
            |port: &u32| u16::try_from(*port).ok().filter(|port| *port != 0).ok_or(IpRuleError::Port(*port));
        let ports = typed.ports.iter().map(port).collect::<Result<_, _>>()?;
        Ok(Self { network: network.trunc(), ports, allow: typed.allow })
    }

    /// Whether the first rule that matches allows it; nothing is allowed by none (contract, 8.1).
    pub(crate) fn permits(rules: &[Self], address: IpAddr, port: u16) -> bool {
        let address = address.to_canonical();
        let matches = |rule: &&Self| {
            rule.network.contains(&address) && (rule.ports.is_empty() || rule.ports.contains(&port))
        };
        rules.iter().find(matches).is_some_and(|rule| rule.allow)
    }
}

/// `originRequest` as it was typed: what was not is `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct OriginOptions {
    pub(crate) connect_timeout: Option<Duration>,
    pub(crate) tls_timeout: Option<Duration>,
    pub(crate) tcp_keep_alive: Option<Duration>,
    pub(crate) no_happy_eyeballs: Option<bool>,
    pub(crate) keep_alive_connections: Option<u32>,
    pub(crate) keep_alive_timeout: Option<Duration>,
    pub(crate) http_host_header: Option<String>,
    pub(crate) origin_server_name: Option<String>,
    pub(crate) match_sni_to_host: Option<bool>,
    pub(crate) ca_pool: Option<String>,
    pub(crate) no_tls_verify: Option<bool>,
    pub(crate) disable_chunked_encoding: Option<bool>,
    pub(crate) bastion_mode: Option<bool>,
    pub(crate) proxy_address: Option<String>,
    pub(crate) proxy_port: Option<u32>,
    pub(crate) proxy_type: Option<String>,
    pub(crate) ip_rules: Option<Vec<TypedIpRule>>,
    pub(crate) http2_origin: Option<bool>,
}

const ORIGIN_KEYS: [&str; 19] = [
    "connectTimeout",
    "tlsTimeout",
    "tcpKeepAlive",
    "noHappyEyeballs",
    "keepAliveConnections",
    "keepAliveTimeout",
    "httpHostHeader",
    "originServerName",
    "matchSNItoHost",
    "caPool",
    "noTLSVerify",
    "disableChunkedEncoding",
    "bastionMode",
    "proxyAddress",
    "proxyPort",
    "proxyType",
    "ipRules",
    "http2Origin",
    "access",
];

impl OriginOptions {
    pub(super) fn read(at: &At<'_>) -> Result<Self, ConfigError> {
        let mut options = Self::default();
        for (key, at) in at.entries(&ORIGIN_KEYS)? {
            options.take(key, &at)?;
        }
        Ok(options)
    }

    fn take(&mut self, key: &str, at: &At<'_>) -> Result<(), ConfigError> {
        match key {
            "connectTimeout" => self.connect_timeout = at.duration()?,
            "tlsTimeout" => self.tls_timeout = at.duration()?,
            "tcpKeepAlive" => self.tcp_keep_alive = at.duration()?,
            "noHappyEyeballs" => self.no_happy_eyeballs = at.boolean()?,
            "keepAliveConnections" => self.keep_alive_connections = at.number(MAX_KEEP_ALIVE_CONNECTIONS)?,
            "keepAliveTimeout" => self.keep_alive_timeout = at.duration()?,
            "httpHostHeader" => {
                self.http_host_header = at.text("a host name")?;
                let valid = |text: &String| http::HeaderValue::from_str(text).is_ok();
                if !self.http_host_header.as_ref().is_none_or(valid) {
                    return Err(at.expected("a host name"));
                }
            }
            "originServerName" => self.origin_server_name = at.text("a name in the origin's certificate")?,
            "matchSNItoHost" => self.match_sni_to_host = at.boolean()?,
            "caPool" => self.ca_pool = at.text("a file with certificates")?,
            "noTLSVerify" => self.no_tls_verify = at.boolean()?,
            "disableChunkedEncoding" => self.disable_chunked_encoding = at.boolean()?,
            "bastionMode" => self.bastion_mode = at.boolean()?,
            "proxyAddress" => self.proxy_address = at.text("an address")?,
            "proxyPort" => self.proxy_port = at.number(u16::MAX.into())?,
            "proxyType" => self.proxy_type = at.one_of(&["", "socks"])?,
            "ipRules" => {
                let items = at.items("a list of rules with prefix, ports and allow")?;
                if items.len() > MAX_IP_RULES {
                    return Err(at.wrong(format!("expected at most {MAX_IP_RULES} rules")));
                }
                let rules = items.iter().map(TypedIpRule::read).collect::<Result<Vec<_>, _>>()?;
                self.ip_rules = Some(rules).filter(|rules| !rules.is_empty());
            }
            "http2Origin" => self.http2_origin = at.boolean()?,
            _ => refuse_access(at)?,
        }
        Ok(())
    }

    /// These options, and where nothing was said those of `defaults`.
    pub(crate) fn over(&self, defaults: &Self) -> Self {
        let text = |own: &Option<String>, other: &Option<String>| own.clone().or_else(|| other.clone());
        Self {
            connect_timeout: self.connect_timeout.or(defaults.connect_timeout),
            tls_timeout: self.tls_timeout.or(defaults.tls_timeout),
            tcp_keep_alive: self.tcp_keep_alive.or(defaults.tcp_keep_alive),
            no_happy_eyeballs: self.no_happy_eyeballs.or(defaults.no_happy_eyeballs),
            keep_alive_connections: self.keep_alive_connections.or(defaults.keep_alive_connections),
            keep_alive_timeout: self.keep_alive_timeout.or(defaults.keep_alive_timeout),
            http_host_header: text(&self.http_host_header, &defaults.http_host_header),
            origin_server_name: text(&self.origin_server_name, &defaults.origin_server_name),
            match_sni_to_host: self.match_sni_to_host.or(defaults.match_sni_to_host),
            ca_pool: text(&self.ca_pool, &defaults.ca_pool),
            no_tls_verify: self.no_tls_verify.or(defaults.no_tls_verify),
            disable_chunked_encoding: self.disable_chunked_encoding.or(defaults.disable_chunked_encoding),
            bastion_mode: self.bastion_mode.or(defaults.bastion_mode),
            proxy_address: text(&self.proxy_address, &defaults.proxy_address),
            proxy_port: self.proxy_port.or(defaults.proxy_port),
            proxy_type: text(&self.proxy_type, &defaults.proxy_type),
            ip_rules: self.ip_rules.clone().or_else(|| defaults.ip_rules.clone()),
            http2_origin: self.http2_origin.or(defaults.http2_origin),
        }
    }
}

/// Who may reach a service is decided at the edge, by the account's access policies; a connector that was told to check
/// for itself and does not would let everyone in.
fn refuse_access(at: &At<'_>) -> Result<(), ConfigError> {
    for (key, at) in at.entries(&["required", "teamName", "audTag", "environment"])? {
        match key {
            "required" if at.boolean()? == Some(true) => {
                return Err(at.wrong(
                    "is not supported: remove it, and give the host name an access policy at the edge".into(),
                ));
            }
            "required" => {}
            "audTag" => drop(at.texts("a list of tags")?),
            _ => drop(at.text("a text")?),
        }
    }
    Ok(())
}

/// How one service is reached: nothing in it is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "they are the contract's, each by itself")]
pub(crate) struct OriginSettings {
    pub(crate) connect_timeout: Duration,
    pub(crate) tls_timeout: Duration,
    pub(crate) tcp_keep_alive: Duration,
    pub(crate) no_happy_eyeballs: bool,
    pub(crate) keep_alive_connections: u32,
    pub(crate) keep_alive_timeout: Duration,
    pub(crate) http_host_header: String,
    pub(crate) origin_server_name: String,
    pub(crate) match_sni_to_host: bool,
    pub(crate) ca_pool: String,
    pub(crate) no_tls_verify: bool,
    pub(crate) disable_chunked_encoding: bool,
    pub(crate) bastion_mode: bool,
    pub(crate) proxy_address: String,
    pub(crate) proxy_port: u32,
    pub(crate) proxy_type: String,
    pub(crate) ip_rules: Vec<TypedIpRule>,
    pub(crate) http2_origin: bool,
}

impl OriginSettings {
    /// The options with cloudflared's defaults (contract, 4.2).
    pub(crate) fn new(options: &OriginOptions) -> Self {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        Self {
            connect_timeout: options.connect_timeout.unwrap_or(Duration::from_secs(30)),
            tls_timeout: options.tls_timeout.unwrap_or(Duration::from_secs(10)),
            tcp_keep_alive: options.tcp_keep_alive.unwrap_or(Duration::from_secs(30)),
            no_happy_eyeballs: options.no_happy_eyeballs.unwrap_or_default(),
            keep_alive_connections: options.keep_alive_connections.unwrap_or(100),
            keep_alive_timeout: options.keep_alive_timeout.unwrap_or(Duration::from_secs(90)),
            http_host_header: text(&options.http_host_header),
            origin_server_name: text(&options.origin_server_name),
            match_sni_to_host: options.match_sni_to_host.unwrap_or_default(),
            ca_pool: text(&options.ca_pool),
            no_tls_verify: options.no_tls_verify.unwrap_or_default(),
            disable_chunked_encoding: options.disable_chunked_encoding.unwrap_or_default(),
            bastion_mode: options.bastion_mode.unwrap_or_default(),
            proxy_address: options.proxy_address.clone().unwrap_or_else(|| "127.0.0.1".into()),
            proxy_port: options.proxy_port.unwrap_or_default(),
            proxy_type: text(&options.proxy_type),
            ip_rules: options.ip_rules.clone().unwrap_or_default(),
            http2_origin: options.http2_origin.unwrap_or_default(),
        }
    }

    /// Every member, as `/config` shows it.
    pub(crate) fn json(&self) -> Value {
        let rules: Vec<Value> = self.ip_rules.iter().map(TypedIpRule::json).collect();
        json!({
            "connectTimeout": self.connect_timeout.as_secs(),
            "tlsTimeout": self.tls_timeout.as_secs(),
            "tcpKeepAlive": self.tcp_keep_alive.as_secs(),
            "noHappyEyeballs": self.no_happy_eyeballs,
            "keepAliveTimeout": self.keep_alive_timeout.as_secs(),
            "keepAliveConnections": self.keep_alive_connections,
            "httpHostHeader": self.http_host_header,
            "originServerName": self.origin_server_name,
            "matchSNItoHost": self.match_sni_to_host,
            "caPool": self.ca_pool,
            "noTLSVerify": self.no_tls_verify,
            "disableChunkedEncoding": self.disable_chunked_encoding,
            "bastionMode": self.bastion_mode,
            "proxyAddress": self.proxy_address,
            "proxyPort": self.proxy_port,
            "proxyType": self.proxy_type,
            "ipRules": if rules.is_empty() { Value::Null } else { Value::Array(rules) },
            "http2Origin": self.http2_origin,
            "access": {"teamName": "", "audTag": null},
        })
    }

    /// The members that are not as by default, as they are reported to the edge (contract, 4.2).
    pub(crate) fn json_of_what_was_set(&self) -> Value {
        let (own, defaults) = (self.json(), Self::new(&OriginOptions::default()).json());
        let (Value::Object(own), Value::Object(defaults)) = (own, defaults) else { return json!({}) };
        let set = own.into_iter().filter(|(key, value)| defaults.get(key) != Some(value));
        Value::Object(set.collect::<Map<_, _>>())
    }
}

/// `warp-routing` as it was typed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct WarpRoutingOptions {
    pub(crate) connect_timeout: Option<Duration>,
    pub(crate) tcp_keep_alive: Option<Duration>,
    pub(crate) max_active_flows: Option<u32>,
}

impl WarpRoutingOptions {
    pub(super) fn read(at: &At<'_>) -> Result<Self, ConfigError> {
        let mut options = Self::default();
        for (key, at) in at.entries(&["enabled", "connectTimeout", "maxActiveFlows", "tcpKeepAlive"])? {
            match key {
                "connectTimeout" => options.connect_timeout = at.duration()?,
                "maxActiveFlows" => options.max_active_flows = at.number(u32::MAX)?,
                "tcpKeepAlive" => options.tcp_keep_alive = at.duration()?,
                // Older cloudflareds need it; newer ones, and adit, carry private networks in any case (contract, 6.1).
                _ => drop(at.boolean()?),
            }
        }
        Ok(options)
    }
}

/// Above it a pool holds more sockets than a process may open.
pub(super) const MAX_KEEP_ALIVE_CONNECTIONS: u32 = 65_536;
