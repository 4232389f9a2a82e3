//! The YAML file as it was typed: keys known, kinds checked, values not yet.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_saphyr::Spanned;

use super::allow::AllowNetworks;
use super::at::{At, Source};
use super::error::{ConfigError, Origin};
use super::flags;
use super::origin::{OriginOptions, TypedRule, WarpRoutingOptions};
use super::yaml::Node;

/// What a file says; empty if there is none.
#[derive(Debug, Clone, Default)]
pub struct ConfigFile {
    path: Option<PathBuf>,
    places: BTreeMap<String, (u64, u64)>,
    /// What keys of the table of flags say.
    pub(super) settings: BTreeMap<&'static str, Vec<String>>,
    /// `ingress`.
    pub(super) ingress: Vec<TypedRule>,
    /// `allow-networks`.
    pub(crate) allow_networks: Option<AllowNetworks>,
    /// `originRequest`.
    pub(super) origin_request: OriginOptions,
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
    /// `max-active-flows`.
    pub max_active_flows: Option<u32>,
    /// `warp-routing`.
    pub(super) warp_routing: WarpRoutingOptions,
    /// `loglevel`, for the program's log.
    pub loglevel: Option<String>,
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
                    file.take(&Source::File(path.to_owned()), key, value)?;
                }
            }
            other @ (Node::Bool(_) | Node::Number(_) | Node::Text(_) | Node::List(_)) => {
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

    fn take(
        &mut self,
        source: &Source,
        key: &Spanned<String>,
        value: &Spanned<Node>,
    ) -> Result<(), ConfigError> {
        let at = At { source, key: key.value.clone(), value };
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
            "cacert" => self.cacert = at.text("a file")?,
            "grace-period" => self.grace_period = at.go_duration()?.map(|(text, _)| text),
            "retries" => self.retries = at.number(u32::MAX)?,
            "protocol" => self.protocol = at.text("auto, quic, http2 or both")?,
            "ha-connections" => {
                self.ha_connections = at.number(u8::MAX.into())?.and_then(|n| u8::try_from(n).ok());
            }
            "max-active-flows" => self.max_active_flows = at.number(u32::MAX)?,
            "pidfile" => self.pidfile = at.text("a file")?,
            "loglevel" => self.loglevel = at.text("debug, info, warn or error")?,
            "output" => self.output = at.text("default or json")?,
            "warp-routing" => self.warp_routing = WarpRoutingOptions::read(&at)?,
            "allow-networks" => self.allow_networks = Some(AllowNetworks::read(&at)?),
            "ingress" => self.ingress = TypedRule::list(&at)?,
            "originRequest" => self.origin_request = OriginOptions::read(&at)?,
            // For commands that ask the API; a connector does not.
            "origincert" | "api-url" => at.text("a text").map(drop)?,
            key => self.take_flag(key, &at)?,
        }
        Ok(())
    }

    /// A key of the table of flags, or one that is refused.
    fn take_flag(&mut self, key: &str, at: &At<'_>) -> Result<(), ConfigError> {
        if let Some(flag) = flags::of_key(key) {
            let place = (at.value.defined.line(), at.value.defined.column());
            self.places.insert(flag.name.to_owned(), place);
            if let Some(texts) = flags::read(flag, at)? {
                self.settings.insert(flag.name, texts);
            }
            return Ok(());
        }
        let refused = flags::REFUSED.iter().find(|(name, _)| *name == key);
        Err(at.wrong(refused.map_or_else(
            || "is no key of a connector's configuration: remove it, or correct it".to_owned(),
            |(_, advice)| format!("is not supported: remove it; {advice}"),
        )))
    }

    /// What `allow-networks` says.
    #[cfg(test)]
    pub(crate) fn allow_networks(&self) -> Option<AllowNetworks> {
        self.allow_networks.clone()
    }

    /// Where the file is, if there is one.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// The text of a key of [`FLAGS`](super::FLAGS).
    pub fn setting(&self, key: &str) -> Option<&str> {
        self.settings.get(key).and_then(|texts| texts.last()).map(String::as_str)
    }

    /// The rules of `ingress`, as they were typed.
    pub(crate) fn ingress(&self) -> (&[TypedRule], &OriginOptions) {
        (&self.ingress, &self.origin_request)
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

/// Fuzz body: any text is a configuration or an error of one line.
#[doc(hidden)]
pub fn fuzz_config_file(input: &[u8]) {
    if let Ok(text) = std::str::from_utf8(input)
        && let Err(error) = ConfigFile::parse(Path::new("config.yml"), text)
    {
        assert_eq!(error.to_string().lines().count(), 1, "one line: {error}");
    }
}
