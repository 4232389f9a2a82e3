//! What a connector is told, in two steps (contract, 6.1).
//!
//! First what was typed: a YAML file ([`ConfigFile`]) and what flags and variables say ([`Overrides`], in which a flag
//! has won over its variable already). Then one checked [`ConnectorConfig`], in which nothing is missing: flags and
//! variables win over the file, the file over defaults. Every error is one line that names the file, the place in it and
//! the key, or the flag, and says what was expected. A key that no connector knows is an error, other than in cloudflared,
//! which ignores it: a misspelled key has cost people more than an old one. The environment is not read here.

mod allow;
mod at;
mod credentials;
mod error;
mod file;
mod flags;
mod live;
mod origin;
mod single;
mod yaml;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use adit_model::{GoDuration, TunnelId};
use adit_transport::tls;
use adit_wire::rpc::TunnelSecret;
use http::{HeaderName, HeaderValue};
use rustls::RootCertStore;
use serde_json::{Map, Value, json};

use crate::ingress::Rules;
use crate::selection::{CHOICES, Transports};

pub use allow::AllowNetworks;
use credentials::Credentials;
pub use credentials::fuzz_token;
pub use error::{ConfigError, Origin};
pub use file::{ConfigFile, fuzz_config_file};
use flags::Said;
pub use flags::{FLAGS, Flag, Kind};
pub(crate) use live::{Configuration, Live};
pub use live::{WarpRouting, fuzz_pushed_configuration};
pub(crate) use origin::{IpRule, IpRuleError, OriginOptions, OriginSettings, TypedRule};

/// What flags and variables say. Where nothing was said, the file speaks.
#[derive(Default)]
pub struct Overrides {
    /// `--tunnel`, or the argument of `run`: a tunnel's id or name.
    pub tunnel: Option<String>,
    /// `--edge`: `HOST:PORT` each; empty if not given.
    pub edge: Vec<String>,
    /// `--cacert`.
    pub cacert: Option<PathBuf>,
    /// `--credentials-file`.
    pub credentials_file: Option<PathBuf>,
    /// `--credentials-contents`: the JSON itself; wins over any file.
    pub credentials_contents: Option<String>,
    /// Where `TUNNEL.json` is looked for when nothing names a credentials file, in order.
    pub credentials_directories: Vec<PathBuf>,
    /// `--metrics`.
    pub metrics: Option<String>,
    /// `--grace-period`.
    pub grace_period: Option<String>,
    /// `--retries`.
    pub retries: Option<u32>,
    /// `--protocol`.
    pub protocol: Option<String>,
    /// `--ha-connections`.
    pub ha_connections: Option<u8>,
    /// `--edge-bind-address`.
    pub edge_bind_address: Option<String>,
    /// `--max-active-flows`.
    pub max_active_flows: Option<u32>,
    /// `--pidfile`.
    pub pidfile: Option<PathBuf>,
    /// `--loglevel`, for the report to the edge.
    pub loglevel: Option<String>,
    /// What flags of [`FLAGS`] and their variables say, by their name.
    pub settings: BTreeMap<&'static str, Vec<String>>,
}

impl std::fmt::Debug for Overrides {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Not all fields: one is a secret.
        f.debug_struct("Overrides")
            .field("tunnel", &self.tunnel)
            .field("edge", &self.edge)
            .field("metrics", &self.metrics)
            .finish_non_exhaustive()
    }
}

/// An edge's address as it was given: the name is resolved before every dial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// Name or address.
    pub host: String,
    /// Port.
    pub port: u16,
}

impl std::fmt::Display for HostPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Where the local metrics are served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MetricsAddress {
    /// The first free port of 20241 to 20245 on the loopback address, else any (contract, 6.1).
    Default,
    /// Here.
    At(HostPort),
}

/// What a running connector goes by; everything in it was checked.
#[derive(Debug, Clone)]
pub struct ConnectorConfig {
    /// The tunnel.
    pub tunnel: TunnelId,
    /// The account's tag.
    pub account_tag: String,
    /// The tunnel's secret.
    pub secret: TunnelSecret,
    /// Edges, at least one.
    pub edges: Vec<HostPort>,
    /// What edges are trusted by: the certificates of `cacert` and no others, or the system's.
    pub roots: RootCertStore,
    /// For messages: where [`ConnectorConfig::roots`] are from.
    pub roots_origin: String,
    /// For messages: where the secret is from.
    pub credentials_origin: String,
    /// Local address of connections to the edge.
    pub bind: Option<IpAddr>,
    /// What connections are dialled over.
    pub transports: Transports,
    /// Connections to edges use post-quantum key exchange or are not made.
    pub post_quantum: bool,
    /// Features that are announced beside those that a connector always has: `support_datagram_v3_2` chooses the third
    /// generation of datagrams.
    pub features: Vec<String>,
    /// Connections to keep, 1 to 4.
    pub ha_connections: u8,
    /// The local metrics listener.
    pub metrics: MetricsAddress,
    /// How long flows may go on after a stop was asked for.
    pub grace_period: Duration,
    /// Number of failed attempts after which the pause between them grows no more.
    pub retries: u32,
    /// How private networks are reached, until an edge pushes something else.
    pub warp_routing: WarpRouting,
    /// Flows at once, if a flag or the file said it: it then holds whatever an edge pushes.
    pub own_max_active_flows: Option<u32>,
    /// What this connector may dial at all.
    pub allow_networks: AllowNetworks,
    /// Who is asked what names stand for; none are this host's own resolvers.
    pub resolvers: Vec<SocketAddr>,
    /// Headers that every request to an origin gets beside the connector's id.
    pub tags: Vec<(HeaderName, HeaderValue)>,
    /// The connector's name, for people.
    pub label: Option<String>,
    /// Rules for HTTP and WebSocket requests, until an edge pushes others.
    pub ingress: Arc<Rules>,
    /// File that gets the process id after the first registration.
    pub pidfile: Option<PathBuf>,
    /// The local configuration as it is reported to the edge, for display (contract, 4.2).
    pub report: Value,
}

/// Longest grace period (contract, 6.1).
pub const MAX_GRACE_PERIOD: Duration = Duration::from_mins(3);
/// Grace period when nothing else is said.
pub const DEFAULT_GRACE_PERIOD: Duration = Duration::from_secs(30);
/// Flows at once when nothing else is said: each may hold two sockets' buffers and a file descriptor.
pub const DEFAULT_MAX_ACTIVE_FLOWS: usize = 10_000;

impl ConnectorConfig {
    /// Whether a connection may be made at another edge than the one that it was made at; one may be named several times.
    pub fn has_several_edges(&self) -> bool {
        self.edges.iter().any(|edge| Some(edge) != self.edges.first())
    }

    /// Checks what was typed, and reads the credentials and certificates that it names.
    ///
    /// # Errors
    /// The first thing that is missing or wrong.
    pub fn new(file: &ConfigFile, overrides: &Overrides) -> Result<Self, ConfigError> {
        let transports = transports(file, overrides)?;
        let credentials = credentials(file, overrides)?;
        let edges = edges(file, overrides)?;
        let (roots, roots_origin) = roots(file, overrides)?;
        let retries = overrides.retries.or(file.retries).unwrap_or(DEFAULT_RETRIES);
        let ha_connections = overrides.ha_connections.or(file.ha_connections).unwrap_or(DEFAULT_CONNECTIONS);
        if !(1..=MAX_CONNECTIONS).contains(&ha_connections) {
            let origin = file.origin("ha-connections", overrides.ha_connections.is_some());
            return Err(ConfigError::new(
                origin,
                format!("expected 1 to {MAX_CONNECTIONS}, found {ha_connections}"),
            ));
        }
        let grace_period =
            Setting::of(file, "grace-period", overrides.grace_period.as_ref(), file.grace_period.as_ref());
        let metrics = Setting::of(file, "metrics", overrides.metrics.as_ref(), file.metrics.as_ref());
        let bind = Setting::of(
            file,
            "edge-bind-address",
            overrides.edge_bind_address.as_ref(),
            file.edge_bind_address.as_ref(),
        );
        let own_max_active_flows = overrides.max_active_flows.or(file.max_active_flows);
        let warp_routing = WarpRouting::new(&file.warp_routing, own_max_active_flows);
        let said = Said { file, overrides };
        let ingress = Arc::new(single::rules(said)?);
        let report = report(file, overrides, &ingress, &warp_routing);
        Ok(Self {
            tunnel: credentials.tunnel,
            account_tag: credentials.account_tag,
            secret: credentials.secret,
            credentials_origin: credentials.origin,
            edges,
            roots,
            roots_origin,
            bind: bind.map(Setting::address).transpose()?,
            transports,
            post_quantum: said.switch("post-quantum")?.unwrap_or_default(),
            features: said.texts("features").map(|(features, _)| features.to_vec()).unwrap_or_default(),
            ha_connections,
            metrics: metrics.map_or(Ok(MetricsAddress::Default), Setting::metrics)?,
            grace_period: grace_period.map_or(Ok(DEFAULT_GRACE_PERIOD), Setting::grace_period)?,
            retries: retries.min(MAX_RETRIES),
            warp_routing,
            own_max_active_flows,
            allow_networks: allow_networks(said)?,
            resolvers: resolvers(said)?,
            tags: tags(said)?,
            label: said.owned("label"),
            ingress,
            pidfile: overrides.pidfile.clone().or_else(|| file.pidfile.clone().map(PathBuf::from)),
            report,
        })
    }
}

/// A text that was given, and by whom.
struct Setting<'a> {
    text: &'a str,
    origin: Origin,
}

impl<'a> Setting<'a> {
    fn of(
        file: &'a ConfigFile,
        key: &'static str,
        typed: Option<&'a String>,
        in_file: Option<&'a String>,
    ) -> Option<Self> {
        let origin = file.origin(key, typed.is_some());
        typed.or(in_file).map(|text| Self { text, origin })
    }

    fn wrong(self, expected: &str) -> ConfigError {
        ConfigError::new(self.origin, format!("expected {expected}, found {:?}", error::shortened(self.text)))
    }

    fn grace_period(self) -> Result<Duration, ConfigError> {
        match self.text.parse().map(GoDuration::get) {
            Ok(duration) if duration <= MAX_GRACE_PERIOD => Ok(duration),
            Ok(_) => Err(self.wrong("at most 3m")),
            Err(_) => Err(self.wrong(DURATION)),
        }
    }

    fn metrics(self) -> Result<MetricsAddress, ConfigError> {
        // As in Go, no host means every address, and no port any port.
        let parts = self.text.rsplit_once(':').and_then(|(host, port)| {
            let port = if port.is_empty() { Some(0) } else { port.parse().ok() }?;
            let host = if host.is_empty() { "::" } else { bare_host(host)? };
            Some(HostPort { host: host.to_owned(), port })
        });
        parts
            .map(MetricsAddress::At)
            .ok_or_else(|| self.wrong("HOST:PORT, such as 127.0.0.1:8081 or 0.0.0.0:8081"))
    }

    fn address(self) -> Result<IpAddr, ConfigError> {
        self.text.parse().map_err(|_| self.wrong("an address of this host, such as 192.0.2.7"))
    }

    fn edge(self) -> Result<HostPort, ConfigError> {
        let parts = self.text.rsplit_once(':').and_then(|(host, port)| {
            let port = port.parse::<u16>().ok().filter(|port| *port != 0)?;
            Some(HostPort { host: bare_host(host)?.to_owned(), port })
        });
        parts.ok_or_else(|| self.wrong("HOST:PORT, such as edge.example.com:7844 or [2001:db8::1]:7844"))
    }
}

/// The host of a `HOST:PORT` without its brackets; `None` if it is none.
fn bare_host(host: &str) -> Option<&str> {
    match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').filter(|inner| inner.parse::<std::net::Ipv6Addr>().is_ok()),
        None => Some(host).filter(|host| {
            !host.is_empty()
                && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
        }),
    }
}

fn transports(file: &ConfigFile, overrides: &Overrides) -> Result<Transports, ConfigError> {
    let setting = Setting::of(file, "protocol", overrides.protocol.as_ref(), file.protocol.as_ref());
    let Some(setting) = setting else { return Ok(Transports::default()) };
    setting.text.parse().map_err(|()| setting.wrong(CHOICES))
}

fn edges(file: &ConfigFile, overrides: &Overrides) -> Result<Vec<HostPort>, ConfigError> {
    let typed = !overrides.edge.is_empty();
    let given = if typed { &overrides.edge } else { &file.edge };
    if given.is_empty() {
        return Err(ConfigError::new(
            file.missing(),
            "no edge is named: expected the key edge, or --edge, with HOST:PORT".into(),
        ));
    }
    given.iter().map(|text| Setting { text, origin: file.origin("edge", typed) }.edge()).collect()
}

fn roots(file: &ConfigFile, overrides: &Overrides) -> Result<(RootCertStore, String), ConfigError> {
    let path = overrides.cacert.as_deref().or(file.cacert.as_deref().map(Path::new));
    let Some(path) = path else {
        return tls::system_roots().map(|roots| (roots, "the system's certificates".to_owned())).map_err(
            |error| {
                let advice = "name the edge's certificate with the key cacert, or --cacert";
                ConfigError::new(file.missing(), format!("{error} among the system's certificates: {advice}"))
            },
        );
    };
    let origin = || file.origin("cacert", overrides.cacert.is_some());
    let pem = std::fs::read(path).map_err(|source| ConfigError::unreadable(origin(), path, &source))?;
    let roots = tls::roots_from_pem(&pem).map_err(|error| {
        ConfigError::new(origin(), format!("{}: {}", path.display(), crate::error_chain(&error)))
    })?;
    Ok((roots, path.display().to_string()))
}

fn allow_networks(said: Said<'_>) -> Result<AllowNetworks, ConfigError> {
    let typed = said.overrides.settings.get("allow-networks").filter(|texts| !texts.is_empty());
    match (typed, &said.file.allow_networks) {
        (Some(texts), _) => AllowNetworks::parse(texts, &Origin::Flag("allow-networks")),
        (None, Some(of_file)) => Ok(of_file.clone()),
        (None, None) => Ok(AllowNetworks::default()),
    }
}

/// `ADDRESS:PORT` each, or an address on the port of DNS.
fn resolvers(said: Said<'_>) -> Result<Vec<SocketAddr>, ConfigError> {
    let Some((texts, origin)) = said.texts("dns-resolver-addrs") else { return Ok(Vec::new()) };
    let resolver = |text: &String| {
        adit_wire::dns::resolver(text).ok_or_else(|| {
            let found = error::shortened(text);
            ConfigError::new(
                origin.clone(),
                format!("expected ADDRESS:PORT of a resolver, such as 192.0.2.53:53, found {found:?}"),
            )
        })
    };
    texts.iter().map(resolver).collect()
}

/// `KEY=VALUE` each, as headers (contract, 3.2).
fn tags(said: Said<'_>) -> Result<Vec<(HeaderName, HeaderValue)>, ConfigError> {
    let Some((texts, origin)) = said.texts("tag") else { return Ok(Vec::new()) };
    let header = |text: &String| {
        let (key, value) = text.split_once('=').filter(|(key, _)| !key.is_empty())?;
        Some((HeaderName::try_from(format!("cf-warp-tag-{key}")).ok()?, HeaderValue::try_from(value).ok()?))
    };
    texts
        .iter()
        .map(|text| {
            let problem = || format!("expected KEY=VALUE, found {:?}", error::shortened(text));
            header(text).ok_or_else(|| ConfigError::new(origin.clone(), problem()))
        })
        .collect()
}

/// The token, wherever it was said: it goes before credentials (contract, 6.1).
fn token(said: Said<'_>) -> Result<Option<Credentials>, ConfigError> {
    if let Some((token, origin)) = said.text("token").filter(|(token, _)| !token.is_empty()) {
        return Credentials::from_token(token, &origin).map(Some);
    }
    let Some((path, origin)) = said.text("token-file").filter(|(path, _)| !path.is_empty()) else {
        return Ok(None);
    };
    let path = Path::new(path);
    let token = credentials::read_file(path)
        .map_err(|source| ConfigError::unreadable(origin.clone(), path, &source))?;
    Credentials::from_token(&token, &origin).map(Some)
}

fn credentials(file: &ConfigFile, overrides: &Overrides) -> Result<Credentials, ConfigError> {
    if let Some(credentials) = token(Said { file, overrides })? {
        return Ok(credentials);
    }
    let tunnel = Setting::of(file, "tunnel", overrides.tunnel.as_ref(), file.tunnel.as_ref());
    let tunnel = tunnel.map(|setting| (setting.text, setting.origin));
    if let Some(contents) = &overrides.credentials_contents {
        return Credentials::read(contents, "--credentials-contents", tunnel);
    }
    let named =
        overrides.credentials_file.clone().or_else(|| file.credentials_file.clone().map(PathBuf::from));
    let path = match (named, &tunnel) {
        (Some(path), _) => path,
        (None, Some((tunnel, _))) => {
            let found = overrides
                .credentials_directories
                .iter()
                .map(|directory| directory.join(format!("{tunnel}.json")))
                .find(|path| path.is_file());
            found.ok_or_else(|| {
                let problem = "no credentials: expected the key credentials-file, or --credentials-file";
                ConfigError::new(file.missing(), problem.into())
            })?
        }
        (None, None) => {
            let problem = "no tunnel is named: expected the keys tunnel and credentials-file, or --token";
            return Err(ConfigError::usage(file.missing(), problem));
        }
    };
    let origin = || file.origin("credentials-file", overrides.credentials_file.is_some());
    let contents =
        credentials::read_file(&path).map_err(|source| ConfigError::unreadable(origin(), &path, &source))?;
    Credentials::read(&contents, &path.display().to_string(), tunnel)
}

/// `updateLocalConfiguration`'s body (contract, 4.2): only what was set.
fn report(file: &ConfigFile, overrides: &Overrides, ingress: &Rules, warp_routing: &WarpRouting) -> Value {
    let said = Said { file, overrides };
    let mut flags = Map::new();
    let texts = [
        ("grace-period", overrides.grace_period.as_ref().or(file.grace_period.as_ref()).cloned()),
        ("loglevel", overrides.loglevel.as_ref().or(file.loglevel.as_ref()).cloned()),
        ("metrics", overrides.metrics.as_ref().or(file.metrics.as_ref()).cloned()),
        ("no-autoupdate", said.owned("no-autoupdate")),
        ("transport-loglevel", said.owned("transport-loglevel")),
        ("metrics-update-freq", said.owned("metrics-update-freq")),
        ("edge-ip-version", said.owned("edge-ip-version")),
        ("max-active-flows", overrides.max_active_flows.or(file.max_active_flows).map(|n| n.to_string())),
        (
            "edge-bind-address",
            overrides.edge_bind_address.as_ref().or(file.edge_bind_address.as_ref()).cloned(),
        ),
        ("protocol", overrides.protocol.as_ref().or(file.protocol.as_ref()).cloned()),
        ("retries", overrides.retries.or(file.retries).map(|value| value.to_string())),
    ];
    for (key, value) in texts {
        if let Some(value) = value {
            flags.insert(key.to_owned(), Value::String(value));
        }
    }
    json!({
        "__configuration_flags": flags,
        "ingress": ingress.json_of_what_was_set(),
        "warp-routing": warp_routing.json(),
    })
}

impl MetricsAddress {
    /// The addresses to try, in order.
    pub(crate) fn candidates(&self) -> Vec<HostPort> {
        match self {
            Self::At(address) => vec![address.clone()],
            Self::Default => (20241..=20245)
                .chain([0])
                .map(|port| HostPort { host: SocketAddr::from(([127, 0, 0, 1], 0)).ip().to_string(), port })
                .collect(),
        }
    }
}

const DURATION: &str = "a duration such as 30s or 1m30s";
const DEFAULT_RETRIES: u32 = 5;
/// Above it, doubling means nothing any more: 2^16 seconds are 18 hours.
const MAX_RETRIES: u32 = 16;
const DEFAULT_CONNECTIONS: u8 = 4;
/// Connections of one process (contract, Vocabulary).
const MAX_CONNECTIONS: u8 = 4;
const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const DEFAULT_TCP_KEEP_ALIVE: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests;
