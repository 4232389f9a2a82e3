//! Flags that are keys of the file too, and variables: one table, from which the command line, the environment's names and
//! the file's keys are made (contract, 6.1).
//!
//! What a flag says is kept as text and checked where it is used, so that the same value is refused with the same words
//! wherever it was said.

use std::time::Duration;

use adit_model::GoDuration;

use super::at::At;
use super::error::{ConfigError, Origin, shortened};
use super::{ConfigFile, DURATION, Overrides};

/// What a flag takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One text.
    Text,
    /// Several, separated by commas or repeated.
    Texts,
    /// A whole number.
    Number,
    /// Nothing, or true or false.
    Switch,
    /// A duration as Go writes it.
    Duration,
}

/// A flag.
#[derive(Debug, Clone, Copy)]
pub struct Flag {
    /// Its long name, which is its key too.
    pub name: &'static str,
    /// Other long names.
    pub aliases: &'static [&'static str],
    /// Variables, the first of which wins.
    pub variables: &'static [&'static str],
    /// What it takes.
    pub kind: Kind,
    /// Help; empty for what need not be shown.
    pub help: &'static str,
}

const fn flag(
    name: &'static str,
    variables: &'static [&'static str],
    kind: Kind,
    help: &'static str,
) -> Flag {
    Flag { name, aliases: &[], variables, kind, help }
}

const fn aliased(flag: Flag, aliases: &'static [&'static str]) -> Flag {
    Flag { aliases, ..flag }
}

/// Flags that are told to nobody else than this table.
pub const FLAGS: &[Flag] = &[
    flag(
        "allow-networks",
        &["TUNNEL_ALLOW_NETWORKS"],
        Kind::Texts,
        "Networks, and ports, beyond which this connector dials nothing, whatever an edge asks: 10.0.0.0/8, 198.51.100.0/24:443,6443",
    ),
    flag(
        "dns-resolver-addrs",
        &["TUNNEL_DNS_RESOLVER_ADDRS"],
        Kind::Texts,
        "Resolvers, as ADDRESS:PORT, that say what names of hostname routes stand for, in the place of this host's own",
    ),
    flag("token", &["TUNNEL_TOKEN"], Kind::Text, "Token of the tunnel; goes before credentials"),
    flag("token-file", &["TUNNEL_TOKEN_FILE"], Kind::Text, "File with the token of the tunnel"),
    flag("label", &[], Kind::Text, "Name of this connector, for its log and its diagnosis"),
    flag("tag", &["TUNNEL_TAG"], Kind::Texts, "KEY=VALUE, sent to origins as the header Cf-Warp-Tag-KEY"),
    flag("logfile", &["TUNNEL_LOGFILE"], Kind::Text, "File to log to, beside standard error"),
    flag(
        "log-directory",
        &["TUNNEL_LOGDIRECTORY"],
        Kind::Text,
        "Directory for a log file, beside standard error",
    ),
    aliased(
        flag(
            "post-quantum",
            &["TUNNEL_POST_QUANTUM"],
            Kind::Switch,
            "Connect to edges with post-quantum key exchange only",
        ),
        &["pq"],
    ),
    flag("edge-ip-version", &["TUNNEL_EDGE_IP_VERSION"], Kind::Text, ""),
    flag("features", &["TUNNEL_FEATURES"], Kind::Texts, "Features to announce beside the usual ones"),
    flag("url", &["TUNNEL_URL"], Kind::Text, "Service for every request, if there are no ingress rules"),
    flag("hello-world", &["TUNNEL_HELLO_WORLD"], Kind::Switch, "Answer every request with a page of our own"),
    flag("unix-socket", &["TUNNEL_UNIX_SOCKET"], Kind::Text, "Unix socket as the service for every request"),
    flag("bastion", &["TUNNEL_BASTION"], Kind::Switch, "Dial where each request says"),
    flag("socks5", &["TUNNEL_SOCKS"], Kind::Switch, "Speak SOCKS5 before the service of --url"),
    flag("proxy-connect-timeout", &[], Kind::Duration, ""),
    flag("proxy-tls-timeout", &[], Kind::Duration, ""),
    flag("proxy-tcp-keepalive", &[], Kind::Duration, ""),
    flag("proxy-no-happy-eyeballs", &[], Kind::Switch, ""),
    flag("proxy-keepalive-connections", &[], Kind::Number, ""),
    flag("proxy-keepalive-timeout", &[], Kind::Duration, ""),
    flag("http-host-header", &["TUNNEL_HTTP_HOST_HEADER"], Kind::Text, ""),
    flag("origin-server-name", &["TUNNEL_ORIGIN_SERVER_NAME"], Kind::Text, ""),
    flag("match-sni-to-host", &[], Kind::Switch, ""),
    flag("origin-ca-pool", &["TUNNEL_ORIGIN_CA_POOL"], Kind::Text, ""),
    flag("no-tls-verify", &["NO_TLS_VERIFY"], Kind::Switch, ""),
    flag("no-chunked-encoding", &["TUNNEL_NO_CHUNKED_ENCODING"], Kind::Switch, ""),
    flag("http2-origin", &["TUNNEL_ORIGIN_ENABLE_HTTP2"], Kind::Switch, ""),
    // What follows is taken and changes nothing: there are no updates and no pre-checks here, and the limits are ours.
    flag("no-autoupdate", &["NO_AUTOUPDATE"], Kind::Switch, ""),
    flag("no-prechecks", &["TUNNEL_NO_PRECHECKS"], Kind::Switch, ""),
    flag("metrics-update-freq", &["TUNNEL_METRICS_UPDATE_FREQ"], Kind::Duration, ""),
    aliased(
        flag("transport-loglevel", &["TUNNEL_TRANSPORT_LOGLEVEL", "TUNNEL_PROTO_LOGLEVEL"], Kind::Text, ""),
        &["proto-loglevel"],
    ),
    flag("max-edge-addr-retries", &["TUNNEL_MAX_EDGE_ADDR_RETRIES"], Kind::Number, ""),
    flag("rpc-timeout", &[], Kind::Duration, ""),
    flag("dial-edge-timeout", &["DIAL_EDGE_TIMEOUT"], Kind::Duration, ""),
    flag("management-diagnostics", &["TUNNEL_MANAGEMENT_DIAGNOSTICS"], Kind::Switch, ""),
];

/// Keys of cloudflared that would mean something here if they were heard, and what to do instead.
pub(super) const REFUSED: &[(&str, &str)] = &[
    ("region", "name the edges themselves, with the key edge"),
    ("autoupdate-freq", "this connector never updates itself"),
    ("hostname", "give the tunnel a host name with `adit tunnel route dns`"),
    ("lb-pool", "an edge chooses among all connectors of a tunnel"),
    ("name", "create the tunnel with `adit tunnel create`"),
    ("proxy-dns", "run a resolver of its own"),
    ("management-hostname", "there is no management host here"),
    ("ssh-server", "use the host's own SSH server, with the service ssh://localhost:22"),
    ("write-stream-timeout", "a flow that is not read from is the edge's to end"),
    ("quic-disable-pmtu-discovery", "fix the path's MTU, or use protocol http2"),
    ("quic-connection-level-flow-control-limit", "windows are fixed"),
    ("quic-stream-level-flow-control-limit", "windows are fixed"),
    ("icmpv4-src", "the route to the destination chooses the source"),
    ("icmpv6-src", "the route to the destination chooses the source"),
    ("proxy-address", "nothing is listened on for a proxy"),
    ("proxy-port", "nothing is listened on for a proxy"),
    ("stdin-control", "connections come back by themselves"),
    ("use-reconnect-token", "the credentials are enough"),
    ("compression-quality", "compress at the origin"),
    ("trace-output", "use the metrics"),
    ("api-key", "name a certificate with origincert"),
    ("api-email", "name a certificate with origincert"),
    ("api-ca-key", "name a certificate with origincert"),
];

/// The flag of a key.
pub(super) fn of_key(key: &str) -> Option<&'static Flag> {
    FLAGS.iter().find(|flag| flag.name == key || flag.aliases.contains(&key))
}

/// Reads a key's value as the texts that the flag would have had.
pub(super) fn read(flag: &Flag, at: &At<'_>) -> Result<Option<Vec<String>>, ConfigError> {
    let one = |text: Option<String>| Ok(text.map(|text| vec![text]));
    match flag.kind {
        Kind::Text if flag.name == "edge-ip-version" => one(at.one_of(&["auto", "4", "6"])?),
        Kind::Text => one(at.text("a text")?),
        Kind::Texts => Ok(Some(at.texts("a text, or a list of such")?).filter(|texts| !texts.is_empty())),
        Kind::Number => one(at.number(u32::MAX)?.map(|number| number.to_string())),
        Kind::Switch => one(at.boolean()?.map(|value| value.to_string())),
        Kind::Duration => one(at.go_duration()?.map(|(text, _)| text)),
    }
}

/// What flags, variables and the file say together: the first of them that says anything.
#[derive(Clone, Copy)]
pub(super) struct Said<'a> {
    pub(super) file: &'a ConfigFile,
    pub(super) overrides: &'a Overrides,
}

impl<'a> Said<'a> {
    pub(super) fn texts(self, key: &'static str) -> Option<(&'a [String], Origin)> {
        let typed = self.overrides.settings.get(key);
        let texts = typed.or_else(|| self.file.settings.get(key))?;
        Some((texts, self.file.origin(key, typed.is_some())))
    }

    pub(super) fn text(self, key: &'static str) -> Option<(&'a str, Origin)> {
        let (texts, origin) = self.texts(key)?;
        texts.last().map(|text| (text.as_str(), origin))
    }

    pub(super) fn owned(self, key: &'static str) -> Option<String> {
        self.text(key).map(|(text, _)| text.to_owned())
    }

    pub(super) fn switch(self, key: &'static str) -> Result<Option<bool>, ConfigError> {
        self.parsed(key, "true or false", |text| match text {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
            "0" | "f" | "F" | "false" | "FALSE" | "False" | "" => Some(false),
            _ => None,
        })
    }

    pub(super) fn number(self, key: &'static str, most: u32) -> Result<Option<u32>, ConfigError> {
        let what = format!("a whole number from 0 to {most}");
        self.parsed(key, &what, |text| text.parse().ok().filter(|number| *number <= most))
    }

    pub(super) fn duration(self, key: &'static str) -> Result<Option<Duration>, ConfigError> {
        self.parsed(key, DURATION, |text| text.parse().ok().map(GoDuration::get))
    }

    pub(super) fn parsed<T>(
        self,
        key: &'static str,
        what: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, ConfigError> {
        let Some((text, origin)) = self.text(key) else { return Ok(None) };
        let wrong = || ConfigError::new(origin, format!("expected {what}, found {:?}", shortened(text)));
        parse(text).map(Some).ok_or_else(wrong)
    }
}
