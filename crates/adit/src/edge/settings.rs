//! The settings of `adit edge`: what was typed, over the file's keys, over the defaults, checked once.

use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use serde::Deserialize;

use super::EdgeFlags;
use crate::command_line::{DatabaseUrl, listen_address};
use crate::dns_upstreams;
use crate::records::{Outputs, RecordFlags};
use crate::up::settings::{OneOrMany, check_database, dot, read, staleness};

/// The checked settings: nothing in them is left to be defaulted.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) data: PathBuf,
    pub(super) control: String,
    /// The control plane's `ca.pem`.
    pub(super) ca: Vec<u8>,
    pub(super) code: Option<Code>,
    /// Where this node reaches the database, if that is not where the control plane does.
    pub(super) database: Option<DatabaseUrl>,
    pub(super) https: SocketAddr,
    pub(super) tunnel: SocketAddr,
    pub(super) metrics: SocketAddr,
    pub(super) max_staleness: Duration,
    pub(super) certificates: Vec<(PathBuf, PathBuf)>,
    /// Where log records go, beside the database.
    pub(super) records: Outputs,
    pub(super) dns_upstreams: Vec<SocketAddr>,
    /// Where DNS over TLS is served, if it is.
    pub(super) dot: Option<SocketAddr>,
    /// The domain of DNS locations, if it is not made of the node's host.
    pub(super) dns_domain: Option<String>,
}

/// A one-time code, which is not shown.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
pub(super) struct Code(String);

impl Code {
    /// For the control plane.
    pub(super) fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Code {
    fn from(code: &str) -> Self {
        Self(code.to_owned())
    }
}

impl std::fmt::Debug for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Code(..)")
    }
}

/// The file's keys: the flags by their long names.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct File {
    data: Option<PathBuf>,
    control: Option<String>,
    ca: Option<String>,
    code: Option<Code>,
    database: Option<DatabaseUrl>,
    https: Option<String>,
    tunnel: Option<String>,
    metrics: Option<String>,
    max_staleness: Option<String>,
    certificate: Option<OneOrMany<PathBuf>>,
    certificate_key: Option<OneOrMany<PathBuf>>,
    record_stdout: Option<bool>,
    #[serde(rename = "record-file")]
    records_into: Option<PathBuf>,
    record_file_size: Option<u32>,
    record_files: Option<u32>,
    dns_upstream: Option<OneOrMany<String>>,
    dot: Option<String>,
    dns_domain: Option<String>,
}

impl Settings {
    pub(super) fn check(flags: EdgeFlags) -> anyhow::Result<Self> {
        let file: File = flags.config.as_deref().map(read).transpose()?.unwrap_or_default();
        let certificates = OneOrMany::under(flags.certificate, file.certificate);
        let keys = OneOrMany::under(flags.certificate_key, file.certificate_key);
        if certificates.len() != keys.len() {
            bail!("certificate-key: expected one key for each certificate, in the same order");
        }
        let address = |key: &str, typed: Option<String>, in_file: Option<String>, default: &str| {
            listen_address(key, typed.or(in_file).as_deref().unwrap_or(default))
        };
        let control = needed("control", flags.control.or(file.control))?;
        let ca = authority(&needed("ca", flags.ca.or(file.ca))?)?;
        let database = flags.database.or(file.database).map(check_database).transpose()?;
        let (https, tunnel) = (
            address("https", flags.https, file.https, "[::]:443")?,
            address("tunnel", flags.tunnel, file.tunnel, "[::]:7844")?,
        );
        let metrics = address("metrics", flags.metrics, file.metrics, "127.0.0.1:9090")?;
        let data = flags.data.or(file.data).unwrap_or_else(|| PathBuf::from("./adit-edge"));
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&data);
        made.with_context(|| format!("data: cannot make the directory {}", data.display()))?;
        let code = flags.code.or(file.code);
        let max_staleness = staleness(flags.max_staleness.or(file.max_staleness).as_deref())?;
        let certificates = certificates.into_iter().zip(keys).collect();
        let in_file = RecordFlags {
            stdout: file.record_stdout,
            file: file.records_into,
            size: file.record_file_size,
            files: file.record_files,
        };
        let records = flags.records.over(in_file)?;
        let dns_upstreams = dns_upstreams::of(&OneOrMany::under(flags.dns_upstream, file.dns_upstream))?;
        let dot = dot(flags.dot.or(file.dot).as_deref())?;
        let dns_domain = flags.dns_domain.or(file.dns_domain);
        Ok(Self {
            data,
            control,
            ca,
            code,
            database,
            https,
            tunnel,
            metrics,
            max_staleness,
            certificates,
            records,
            dns_upstreams,
            dot,
            dns_domain,
        })
    }
}

/// PEM, or the file that has it.
fn authority(text: &str) -> anyhow::Result<Vec<u8>> {
    if text.trim_start().starts_with("-----BEGIN") {
        return Ok(text.as_bytes().to_vec());
    }
    std::fs::read(text).with_context(|| format!("ca: cannot read {text}"))
}

fn needed<T>(key: &str, value: Option<T>) -> anyhow::Result<T> {
    value.with_context(|| {
        format!("{key}: expected in the file, as --{key} or in the environment; `adit node create` prints it")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command_line::{AditCommand, CommandLine};
    use clap::Parser;

    fn check(file: &str) -> Result<Settings, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("edge.yaml");
        let file = file.replace("DIR", directory.path().to_str().unwrap());
        std::fs::write(&path, file).unwrap();
        let parsed = CommandLine::parse_from(["adit", "edge", "--config", path.to_str().unwrap()]);
        let AditCommand::Edge(flags) = parsed.command else { panic!("edge was typed") };
        Settings::check(*flags).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn the_file_that_node_create_prints_is_enough_and_its_code_is_not_shown() {
        let file = "control: https://adit.example.com\ncode: sesame\ndata: DIR/edge\n\
                    ca: |\n  -----BEGIN CERTIFICATE-----\n  AAAA\n  -----END CERTIFICATE-----\n";
        let settings = check(file).unwrap();
        assert_eq!(settings.code.as_ref().unwrap().reveal(), "sesame");
        assert!(settings.ca.starts_with(b"-----BEGIN") && !format!("{settings:?}").contains("sesame"));
        assert_eq!(settings.tunnel.to_string(), "[::]:7844");
        assert_eq!(settings.max_staleness, Duration::from_hours(24));
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        let wrong = |file: &str, part: &str| {
            let error = check(file).unwrap_err();
            assert!(error.contains(part), "{error}");
        };
        wrong("ca: x", "control: expected in the file");
        wrong("control: https://x\n", "ca: expected in the file");
        wrong("control: https://x\nca: /nowhere/ca.pem\n", "ca: cannot read /nowhere/ca.pem");
        wrong("contrl: https://x\n", "contrl");
        wrong("control: https://x\nca: '-----BEGIN'\ndatabase: mysql://x\n", "database: expected a URL");
        wrong(
            "control: https://x\nca: '-----BEGIN'\nmax-staleness: soon\n",
            "max-staleness: expected a duration",
        );
        wrong("control: https://x\nca: '-----BEGIN'\nhttps: here\n", "https: expected ADDRESS:PORT");
    }
}
