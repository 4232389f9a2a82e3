//! The YAML file as it was typed: keys known, kinds checked, values not yet.

#![expect(clippy::wildcard_enum_match_arm, reason = "whatever is not of the kind that was expected is wrong")]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use adit_model::GoDuration;
use serde_saphyr::{Location, Spanned};

use super::error::{ConfigError, Origin, shortened};
use super::yaml::Node;

/// What a file says; empty if there is none.
#[derive(Debug, Clone, Default)]
pub struct ConfigFile {
    path: Option<PathBuf>,
    places: BTreeMap<String, (u64, u64)>,
    /// `tunnel`: id or name.
    pub tunnel: Option<String>,
    /// `credentials-file`.
    pub credentials_file: Option<String>,
    /// `metrics`.
    pub metrics: Option<String>,
    /// `edge`.
    pub edge: Vec<String>,
    /// `edge-bind-address`.
    pub edge_bind_address: Option<String>,
    /// `cacert`.
    pub cacert: Option<String>,
    /// `grace-period`.
    pub grace_period: Option<String>,
    /// `retries`.
    pub retries: Option<u32>,
    /// `protocol`.
    pub protocol: Option<String>,
    /// `ha-connections`.
    pub ha_connections: Option<u8>,
    /// `max-active-flows`, or `maxActiveFlows` of `warp-routing`.
    pub max_active_flows: Option<u32>,
    /// `connectTimeout` of `warp-routing`.
    pub connect_timeout: Option<Duration>,
    /// `tcpKeepAlive` of `warp-routing`.
    pub tcp_keep_alive: Option<Duration>,
    /// `no-autoupdate`; there are no updates.
    pub no_autoupdate: Option<bool>,
    /// `loglevel`, for the program's log.
    pub loglevel: Option<String>,
    /// `logfile`, for the program's log.
    pub logfile: Option<String>,
    /// `output`, the log's format.
    pub output: Option<String>,
    /// `pidfile`.
    pub pidfile: Option<String>,
}

/// Largest file, in bytes. Real ones have a few hundred.
const MAX_FILE_BYTES: u64 = 4 << 20;

impl ConfigFile {
    /// Reads a file.
    ///
    /// # Errors
    /// It cannot be read, is no YAML, or says something that is not understood.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let whole = || Origin::File { path: path.to_owned(), line: 0, column: 0, key: String::new() };
        let mut text = String::new();
        let opened =
            File::open(path).and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text));
        opened.map_err(|source| {
            ConfigError::new(
                whole(),
                format!("cannot read the configuration: {source}: name a file with --config"),
            )
        })?;
        if text.len() as u64 > MAX_FILE_BYTES {
            return Err(ConfigError::new(
                whole(),
                "larger than 4 MiB: expected a connector's configuration".into(),
            ));
        }
        Self::parse(path, &text)
    }

    /// Reads a file's text; `path` is for errors.
    ///
    /// # Errors
    /// It is no YAML, or says something that is not understood.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let mut file = Self { path: Some(path.to_owned()), ..Self::default() };
        // An empty file says nothing, and that is allowed.
        if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
            return Ok(file);
        }
        let options = serde_saphyr::options! { with_snippet: false };
        let document: Spanned<Node> =
            serde_saphyr::from_str_with_options(text, options).map_err(|error| {
                let (line, column) =
                    error.location().map_or((0, 0), |location| (location.line(), location.column()));
                let origin = Origin::File { path: path.to_owned(), line, column, key: String::new() };
                ConfigError::new(origin, format!("expected YAML: {}", shortened_error(&error.to_string())))
            })?;
        match document.value {
            Node::Null => {}
            Node::Map(entries) => {
                for (key, value) in &entries {
                    file.take(key, value)?;
                }
            }
            other => {
                let place = document.defined;
                let origin = Origin::File {
                    path: path.to_owned(),
                    line: place.line(),
                    column: place.column(),
                    key: String::new(),
                };
                let kind = other.kind();
                return Err(ConfigError::new(
                    origin,
                    format!("expected keys such as `tunnel: ID`, found {kind}"),
                ));
            }
        }
        Ok(file)
    }

    /// Where a key was said: by a flag, or in the file.
    pub(super) fn origin(&self, key: &'static str, typed: bool) -> Origin {
        match (&self.path, self.places.get(key)) {
            (Some(path), Some((line, column))) if !typed => {
                Origin::File { path: path.clone(), line: *line, column: *column, key: key.to_owned() }
            }
            _ => Origin::Flag(key),
        }
    }

    /// Where a key would have been said.
    pub(super) fn missing(&self) -> Origin {
        self.path.clone().map_or(Origin::Nowhere, |path| Origin::File {
            path,
            line: 0,
            column: 0,
            key: String::new(),
        })
    }

    fn take(&mut self, key: &Spanned<String>, value: &Spanned<Node>) -> Result<(), ConfigError> {
        let at = At { path: self.path.clone().unwrap_or_default(), key: key.value.clone(), value };
        self.places.insert(key.value.clone(), (value.defined.line(), value.defined.column()));
        match key.value.as_str() {
            "tunnel" => self.tunnel = at.text("a tunnel's id")?,
            "credentials-file" | "cred-file" => {
                self.credentials_file = at.text("a file")?;
                let place = self.places.get(&key.value).copied().unwrap_or_default();
                self.places.insert("credentials-file".into(), place);
            }
            "metrics" => self.metrics = at.text("HOST:PORT, such as 0.0.0.0:8081")?,
            "edge" => self.edge = at.texts("HOST:PORT, or a list of such")?,
            "edge-bind-address" => self.edge_bind_address = at.text("an address")?,
            "edge-ip-version" => at.one_of(&["auto", "4", "6"])?,
            "cacert" => self.cacert = at.text("a file")?,
            "grace-period" => self.grace_period = at.duration()?.map(|(text, _)| text),
            "retries" => self.retries = at.number(u32::MAX)?,
            "protocol" => self.protocol = at.text("auto or quic")?,
            "ha-connections" => {
                self.ha_connections = at.number(u8::MAX.into())?.and_then(|n| u8::try_from(n).ok());
            }
            "max-active-flows" => self.max_active_flows = at.number(u32::MAX)?,
            "pidfile" => self.pidfile = at.text("a file")?,
            "loglevel" => self.loglevel = at.text("debug, info, warn or error")?,
            "logfile" => self.logfile = at.text("a file")?,
            "output" => self.output = at.text("default or json")?,
            "no-autoupdate" => self.no_autoupdate = at.boolean()?,
            "warp-routing" => self.take_warp_routing(&at)?,
            // Said, and of no consequence: there are no updates, no pre-checks and no other loggers.
            "no-prechecks" => at.boolean().map(drop)?,
            "autoupdate-freq" | "metrics-update-freq" => at.duration().map(drop)?,
            "transport-loglevel" | "label" => at.text("a text").map(drop)?,
            "tag" => at.texts("KEY=VALUE, or a list of such").map(drop)?,
            key if NOT_YET.contains(&key) => {
                return Err(
                    at.wrong("is not supported yet: remove it, or keep cloudflared for this tunnel".into())
                );
            }
            _ => {
                return Err(
                    at.wrong("is no key of a connector's configuration: remove it, or correct it".into())
                );
            }
        }
        Ok(())
    }

    fn take_warp_routing(&mut self, at: &At<'_>) -> Result<(), ConfigError> {
        let entries = match &at.value.value {
            Node::Null => return Ok(()),
            Node::Map(entries) => entries,
            other => {
                let kind = other.kind();
                return Err(at.wrong(format!("expected keys such as `enabled: true`, found {kind}")));
            }
        };
        for (key, value) in entries {
            let at = At { path: at.path.clone(), key: format!("{}.{}", at.key, key.value), value };
            match key.value.as_str() {
                // Flows to private networks are what a connector is for: `false` would leave nothing to do.
                "enabled" => {
                    if at.boolean()? == Some(false) {
                        return Err(
                            at.wrong("expected true: this connector carries private networks only".into())
                        );
                    }
                }
                "connectTimeout" => self.connect_timeout = at.duration()?.map(|(_, duration)| duration),
                "tcpKeepAlive" => self.tcp_keep_alive = at.duration()?.map(|(_, duration)| duration),
                "maxActiveFlows" => self.max_active_flows = self.max_active_flows.or(at.number(u32::MAX)?),
                _ => {
                    let keys = "enabled, connectTimeout, maxActiveFlows or tcpKeepAlive";
                    return Err(at.wrong(format!("expected {keys}")));
                }
            }
        }
        Ok(())
    }
}

/// A parser's words without what they repeat.
fn shortened_error(error: &str) -> String {
    let first = error.lines().next().unwrap_or_default();
    let without_place = first.split_once(" at line ").map_or(first, |(what, _)| what);
    // Advice to a programmer, not to who wrote the file.
    let without_advice =
        without_place.split_once(", set DuplicateKeyPolicy").map_or(without_place, |(what, _)| what);
    without_advice.chars().take(MAX_QUOTED_ERROR_CHARS).collect()
}

const MAX_QUOTED_ERROR_CHARS: usize = 160;

/// Keys that cloudflared has and we do not yet.
const NOT_YET: [&str; 21] = [
    "ingress",
    "originRequest",
    "url",
    "hello-world",
    "unix-socket",
    "bastion",
    "socks5",
    "proxy-address",
    "proxy-port",
    "proxy-dns",
    "token",
    "token-file",
    "region",
    "post-quantum",
    "features",
    "origincert",
    "log-directory",
    "origin-ca-pool",
    "dns-resolver-addrs",
    "icmpv4-src",
    "icmpv6-src",
];

/// A value, where it is, and under which key.
struct At<'a> {
    path: PathBuf,
    key: String,
    value: &'a Spanned<Node>,
}

impl At<'_> {
    fn wrong(&self, problem: String) -> ConfigError {
        self.wrong_at(self.value.defined, problem)
    }

    fn wrong_at(&self, place: Location, problem: String) -> ConfigError {
        let (line, column) = (place.line(), place.column());
        ConfigError::new(
            Origin::File { path: self.path.clone(), line, column, key: shortened(&self.key) },
            problem,
        )
    }

    fn expected(&self, what: &str, found: &Node) -> ConfigError {
        self.wrong(format!("expected {what}, found {}", found.kind()))
    }

    fn text(&self, what: &str) -> Result<Option<String>, ConfigError> {
        match &self.value.value {
            Node::Null => Ok(None),
            Node::Text(text) => Ok(Some(text.clone())),
            other => Err(self.expected(what, other)),
        }
    }

    fn texts(&self, what: &str) -> Result<Vec<String>, ConfigError> {
        match &self.value.value {
            Node::Null => Ok(Vec::new()),
            // Commas separate in one text, as in the variable.
            Node::Text(text) => Ok(text.split(',').map(|part| part.trim().to_owned()).collect()),
            Node::List(list) => list
                .iter()
                .map(|item| match &item.value {
                    Node::Text(text) => Ok(text.clone()),
                    other => {
                        Err(self.wrong_at(item.defined, format!("expected {what}, found {}", other.kind())))
                    }
                })
                .collect(),
            other => Err(self.expected(what, other)),
        }
    }

    fn boolean(&self) -> Result<Option<bool>, ConfigError> {
        match &self.value.value {
            Node::Null => Ok(None),
            Node::Bool(value) => Ok(Some(*value)),
            other => Err(self.expected("true or false", other)),
        }
    }

    fn number(&self, most: u32) -> Result<Option<u32>, ConfigError> {
        match &self.value.value {
            Node::Null => Ok(None),
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "just compared")]
            Node::Number(value) if value.fract() == 0.0 && *value >= 0.0 && *value <= f64::from(most) => {
                Ok(Some(*value as u32))
            }
            other => Err(self.expected(&format!("a whole number from 0 to {most}"), other)),
        }
    }

    fn duration(&self) -> Result<Option<(String, Duration)>, ConfigError> {
        let Some(text) = self.text(super::DURATION)? else { return Ok(None) };
        match text.parse::<GoDuration>() {
            Ok(duration) => Ok(Some((text, duration.get()))),
            Err(_) => Err(self.expected(super::DURATION, &self.value.value)),
        }
    }

    fn one_of(&self, choices: &[&str]) -> Result<(), ConfigError> {
        let found = match &self.value.value {
            Node::Number(number) => number.to_string(),
            Node::Text(text) => text.clone(),
            Node::Null => return Ok(()),
            other => return Err(self.expected(&choices.join(", "), other)),
        };
        if choices.contains(&found.as_str()) {
            return Ok(());
        }
        Err(self.expected(&choices.join(", "), &self.value.value))
    }
}

/// Fuzz body: any text is a configuration or an error of one line.
#[doc(hidden)]
pub fn fuzz_config_file(input: &[u8]) {
    if let Ok(text) = std::str::from_utf8(input)
        && let Err(error) = ConfigFile::parse(Path::new("config.yml"), text)
    {
        assert_eq!(error.to_string().lines().count(), 1, "one line: {error}");
    }
}
