//! The settings of `adit up`: what was typed, over the file's keys, over the defaults, checked once.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use adit_model::GoDuration;
use adit_store::Retention;
use anyhow::{Context, bail};
use serde::Deserialize;

use crate::command_line::{DatabaseUrl, UpFlags, listen_address};
use crate::dns_upstreams;
use crate::records::{Outputs, RecordFlags, RetentionKeys};

/// The checked settings: nothing in them is left to be defaulted.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) data: PathBuf,
    /// PostgreSQL's, if it is not SQLite in the directory.
    pub(crate) database: Option<DatabaseUrl>,
    pub(crate) public_hosts: Vec<String>,
    pub(crate) https: SocketAddr,
    pub(crate) tunnel: SocketAddr,
    pub(crate) metrics: SocketAddr,
    /// Where the API is served in the clear, if it is: a loopback address.
    pub(crate) http: Option<SocketAddr>,
    pub(crate) node: String,
    /// For how long flows are decided by a state that nobody confirms.
    pub(crate) max_staleness: Duration,
    /// Certificates and their keys, for public host names.
    pub(crate) certificates: Vec<(PathBuf, PathBuf)>,
    /// Files of roots that origins are trusted by, beside the system's.
    pub(crate) origin_roots: Vec<PathBuf>,
    /// Where log records go, beside the store.
    pub(crate) records: Outputs,
    /// How long the store keeps them, if it gets any.
    pub(crate) retention: Option<Retention>,
    /// The resolvers that are asked for names where no rule says otherwise.
    pub(crate) dns_upstreams: Vec<SocketAddr>,
    /// Where DNS over TLS is served, if it is.
    pub(crate) dot: Option<SocketAddr>,
    /// The domain whose hosts are DNS locations.
    pub(crate) dns_domain: String,
}

/// The file's keys: the flags by their long names.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct File {
    data: Option<PathBuf>,
    database: Option<DatabaseUrl>,
    public_host: Option<OneOrMany<String>>,
    https: Option<String>,
    tunnel: Option<String>,
    metrics: Option<String>,
    http: Option<String>,
    node: Option<String>,
    max_staleness: Option<String>,
    certificate: Option<OneOrMany<PathBuf>>,
    certificate_key: Option<OneOrMany<PathBuf>>,
    origin_roots: Option<OneOrMany<PathBuf>>,
    record_stdout: Option<bool>,
    #[serde(rename = "record-file")]
    records_into: Option<PathBuf>,
    record_file_size: Option<u32>,
    record_files: Option<u32>,
    record_age: Option<String>,
    record_rows: Option<u64>,
    dns_upstream: Option<OneOrMany<String>>,
    dot: Option<String>,
    dns_domain: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    /// What was typed, or what the file has, if it has any.
    pub(crate) fn under(typed: Vec<T>, file: Option<Self>) -> Vec<T> {
        match (typed, file) {
            (typed, Some(Self::One(one))) if typed.is_empty() => vec![one],
            (typed, Some(Self::Many(many))) if typed.is_empty() => many,
            (typed, _) => typed,
        }
    }
}

impl Settings {
    pub(crate) fn check(flags: UpFlags) -> anyhow::Result<Self> {
        let file: File = flags.config.as_deref().map(read).transpose()?.unwrap_or_default();
        let mut hosts = OneOrMany::under(flags.public_host, file.public_host);
        if hosts.is_empty() {
            hosts.push("localhost".to_owned());
        }
        let certificates = OneOrMany::under(flags.certificate, file.certificate);
        let keys = OneOrMany::under(flags.certificate_key, file.certificate_key);
        if certificates.len() != keys.len() {
            bail!("certificate-key: expected one key for each certificate, in the same order");
        }
        let address = |key: &str, typed: Option<String>, in_file: Option<String>, default: &str| {
            listen_address(key, typed.or(in_file).as_deref().unwrap_or(default))
        };
        let node = flags.node.or(file.node).unwrap_or_else(|| "edge01".to_owned());
        let public_hosts: Vec<String> =
            hosts.iter().map(|host| check_host(host)).collect::<Result<_, _>>()?;
        let dns_domain = dns_domain(flags.dns_domain.or(file.dns_domain).as_deref(), &public_hosts)?;
        Ok(Self {
            data: flags.data.or(file.data).unwrap_or_else(|| PathBuf::from("./adit-data")),
            database: flags.database.or(file.database).map(check_database).transpose()?,
            public_hosts,
            https: address("https", flags.https, file.https, "[::]:443")?,
            tunnel: address("tunnel", flags.tunnel, file.tunnel, "[::]:7844")?,
            metrics: address("metrics", flags.metrics, file.metrics, "127.0.0.1:9090")?,
            http: flags.http.or(file.http).as_deref().map(loopback).transpose()?,
            node: check_node(node)?,
            max_staleness: staleness(flags.max_staleness.or(file.max_staleness).as_deref())?,
            certificates: certificates.into_iter().zip(keys).collect(),
            origin_roots: OneOrMany::under(flags.origin_roots, file.origin_roots),
            records: flags.records.over(RecordFlags {
                stdout: file.record_stdout,
                file: file.records_into,
                size: file.record_file_size,
                files: file.record_files,
            })?,
            retention: flags
                .retention
                .over(RetentionKeys { record_age: file.record_age, record_rows: file.record_rows })?,
            dns_upstreams: dns_upstreams::of(&OneOrMany::under(flags.dns_upstream, file.dns_upstream))?,
            dot: dot(flags.dot.or(file.dot).as_deref())?,
            dns_domain,
        })
    }

    /// The names and addresses by which the HTTPS listener is asked for; this machine's own among them, for its commands.
    pub(crate) fn served_names(&self) -> Vec<String> {
        with(&self.public_hosts, &["localhost", "127.0.0.1", "::1"])
    }

    /// The names by which connectors ask for the tunnel listener (tunnel protocol, 1.3).
    pub(crate) fn connector_names(&self) -> Vec<String> {
        connector_names(&self.public_hosts)
    }

    /// Where connectors find this edge, as flags of theirs have it.
    pub(crate) fn connector_edges(&self) -> Vec<String> {
        self.public_hosts.iter().map(|host| at_port(host, self.tunnel.port())).collect()
    }

    /// Where other machines find the control plane.
    pub(crate) fn url(&self) -> String {
        let place = at_port(self.first_host(), self.https.port());
        format!("https://{}", place.strip_suffix(":443").unwrap_or(&place))
    }

    /// The first of the names by which this machine is reached.
    pub(crate) fn first_host(&self) -> &str {
        self.public_hosts.first().map_or("localhost", String::as_str)
    }
}

/// `HOST:PORT`.
pub(crate) fn at_port(host: &str, port: u16) -> String {
    match host.parse() {
        Ok(IpAddr::V6(address)) => format!("[{address}]:{port}"),
        Ok(IpAddr::V4(_)) | Err(_) => format!("{host}:{port}"),
    }
}

/// The names by which connectors ask for an edge that is also reached by these hosts (tunnel protocol, 1.3).
pub(crate) fn connector_names(hosts: &[String]) -> Vec<String> {
    let names = ["quic.cftunnel.com", "h2.cftunnel.com", "probe.cftunnel.com", "cftunnel.com"];
    with(&names.map(str::to_owned), &hosts.iter().map(String::as_str).collect::<Vec<_>>())
}

/// The rest of the URL is its driver's to check.
pub(crate) fn check_database(url: DatabaseUrl) -> anyhow::Result<DatabaseUrl> {
    if !["postgres://", "postgresql://"].iter().any(|scheme| url.reveal().starts_with(scheme)) {
        bail!(
            "database: expected a URL such as postgres://adit:PASSWORD@db.example/adit; without one, SQLite in the \
             data directory is used"
        );
    }
    Ok(url)
}

/// Tokens in the clear stay on this machine; a bare port is one of its loopback address.
fn loopback(text: &str) -> anyhow::Result<SocketAddr> {
    let address = match text.trim_start_matches(':').parse::<u16>() {
        Ok(port) => SocketAddr::from(([127, 0, 0, 1], port)),
        Err(_) => listen_address("http", text)?,
    };
    if !address.ip().is_loopback() {
        bail!(
            "http: expected a loopback address such as 127.0.0.1:8080, since it is without TLS, not {text:?}"
        );
    }
    Ok(address)
}

pub(crate) fn with(first: &[String], more: &[&str]) -> Vec<String> {
    let mut names = first.to_vec();
    names.extend(
        more.iter().filter(|name| !first.iter().any(|there| there == *name)).map(|&name| name.to_owned()),
    );
    names
}

/// Reads a configuration file, in which every key may be left out.
pub(crate) fn read<T: Default + serde::de::DeserializeOwned>(path: &Path) -> anyhow::Result<T> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the configuration {}", path.display()))?;
    if text.trim().is_empty() {
        return Ok(T::default());
    }
    serde_saphyr::from_str(&text)
        .map_err(|error| anyhow::anyhow!("{}: {}", path.display(), first_line(&error.to_string())))
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

/// Where DNS over TLS is served; `none` is nowhere, as is nothing.
pub(crate) fn dot(text: Option<&str>) -> anyhow::Result<Option<SocketAddr>> {
    text.filter(|text| *text != "none").map(|text| listen_address("dot", text)).transpose()
}

/// The domain of DNS locations: the one given, or one below the first host that is a name.
pub(crate) fn dns_domain(given: Option<&str>, hosts: &[String]) -> anyhow::Result<String> {
    let is_name = |host: &str| host.parse::<IpAddr>().is_err();
    match given {
        None => {
            let host = hosts.iter().find(|host| is_name(host)).map_or("localhost", String::as_str);
            Ok(format!("dns.{host}"))
        }
        Some(given) => {
            let name = check_host(given.trim_end_matches('.')).ok().filter(|name| is_name(name));
            name.with_context(|| {
                format!("dns-domain: expected a DNS name such as dns.example.com, not {given:?}")
            })
        }
    }
}

pub(crate) fn check_host(host: &str) -> anyhow::Result<String> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(address) = bare.parse::<IpAddr>() {
        return Ok(address.to_string());
    }
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
    };
    if host.len() <= 253 && host.split('.').all(label) {
        return Ok(host.to_ascii_lowercase());
    }
    bail!(
        "public-host: expected a DNS name or an address without a port, such as adit.example.com, not {host:?}"
    )
}

/// For how long an edge may decide by what it last knew.
pub(crate) fn staleness(text: Option<&str>) -> anyhow::Result<Duration> {
    let Some(text) = text else { return Ok(adit_edge::DEFAULT_MAX_STALENESS) };
    let given = text.parse::<GoDuration>().ok().map(GoDuration::get);
    given.filter(|given| *given >= MIN_STALENESS).with_context(|| {
        format!(
            "max-staleness: expected a duration of five seconds or more, such as 24h or 90m, not {text:?}"
        )
    })
}

/// The change log is read every second; less than a few of them would let a slow answer refuse flows.
const MIN_STALENESS: Duration = Duration::from_secs(5);

pub(crate) fn check_node(node: String) -> anyhow::Result<String> {
    let good = (1..=32).contains(&node.len())
        && node.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if good { Ok(node) } else { bail!("node: expected 1 to 32 letters, digits and dashes, not {node:?}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command_line::{AditCommand, CommandLine};
    use clap::Parser;

    fn check(arguments: &[&str], file: &str) -> Result<Settings, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("up.yaml");
        std::fs::write(&path, file).unwrap();
        let config = path.to_str().unwrap();
        let parsed = CommandLine::parse_from([&["adit", "up", "--config", config], arguments].concat());
        let AditCommand::Up(flags) = parsed.command else { panic!("up was typed") };
        Settings::check(*flags).map_err(|error| format!("{error:#}").replace(config, "up.yaml"))
    }

    #[test]
    fn a_flag_goes_before_the_file_and_the_file_before_the_default() {
        let settings =
            check(&["--https", "192.0.2.1:8443"], "https: 443\npublic-host: Adit.example.com\n").unwrap();
        assert_eq!(settings.https.to_string(), "192.0.2.1:8443");
        assert_eq!(settings.tunnel.to_string(), "[::]:7844");
        assert_eq!(settings.http, None);
        assert_eq!(settings.max_staleness, Duration::from_hours(24));
        assert_eq!(check(&[], "max-staleness: 1h30m\n").unwrap().max_staleness, Duration::from_mins(90));
        assert_eq!(check(&["--http", "8080"], "").unwrap().http.unwrap().to_string(), "127.0.0.1:8080");
        assert_eq!(settings.connector_edges(), ["adit.example.com:7844"]);
        assert_eq!(settings.url(), "https://adit.example.com:8443");
        assert_eq!(check(&["--public-host", "::1"], "").unwrap().url(), "https://[::1]");
        assert_eq!((settings.dot, settings.dns_domain.as_str()), (None, "dns.adit.example.com"));
        let settings =
            check(&["--dot", "853"], "public-host: 192.0.2.1\ndns-domain: Names.example.\n").unwrap();
        assert_eq!(settings.dot.unwrap().to_string(), "[::]:853");
        assert_eq!(settings.dns_domain, "names.example");
        let settings = check(&["--public-host", "192.0.2.1"], "dot: none\n").unwrap();
        assert_eq!((settings.dot, settings.dns_domain.as_str()), (None, "dns.localhost"));
        let settings = check(&[], "public-host: Adit.example.com\n").unwrap();
        assert_eq!(settings.served_names(), ["adit.example.com", "localhost", "127.0.0.1", "::1"]);
    }

    #[test]
    fn what_is_wrong_is_named_with_what_was_expected() {
        let wrong = |arguments: &[&str], file: &str, parts: &[&str]| {
            let error = check(arguments, file).unwrap_err();
            assert!(parts.iter().all(|part| error.contains(part)) && !error.contains('\n'), "{error}");
        };
        wrong(&[], "htps: 443\n", &["up.yaml", "htps"]);
        wrong(&[], "https: [1, 2]\n", &["up.yaml"]);
        wrong(&["--tunnel", "here"], "", &["tunnel: expected ADDRESS:PORT", "here"]);
        wrong(&["--public-host", "https://x"], "", &["public-host: expected a DNS name"]);
        wrong(&["--http", "192.0.2.1:80"], "", &["http: expected a loopback address", "192.0.2.1"]);
        wrong(&[], "http: 0.0.0.0:80\n", &["http: expected a loopback address"]);
        wrong(&["--node", "a b"], "", &["node: expected"]);
        wrong(&["--max-staleness", "soon"], "", &["max-staleness: expected a duration", "soon"]);
        wrong(&[], "max-staleness: 4s\n", &["max-staleness: expected a duration of five seconds or more"]);
        wrong(&["--dns-upstream", "dns.example"], "", &["dns-upstream: expected ADDRESS", "dns.example"]);
        wrong(&["--dot", "here"], "", &["dot: expected ADDRESS:PORT", "here"]);
        wrong(&["--dns-domain", "192.0.2.1"], "", &["dns-domain: expected a DNS name"]);
        wrong(&["--certificate", "a.pem"], "", &["certificate-key: expected one key for each certificate"]);
    }
}
