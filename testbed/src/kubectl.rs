//! The real kubectl, of a version that is named.
//!
//! An installed `kubectl` is never used: it may be a dispatcher that runs another one by the server's version.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::net::Host;
use crate::pki::Pki;
use crate::process::Process;

/// Longest run of a kubectl that is expected to end.
const RUN_LIMIT: Duration = Duration::from_mins(1);

/// Variables that would put a proxy, another configuration or another cache between kubectl and the server.
const CLEARED: [&str; 10] = [
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "KUBERNETES_SERVICE_HOST",
    "KUBECTL_PORT_FORWARD_WEBSOCKETS",
];

/// One kubectl binary.
#[derive(Clone, Debug)]
pub struct Kubectl {
    path: PathBuf,
    version: String,
}

impl Kubectl {
    /// The main one: the binary that `KUBECTL` names, or v1.33 as `testbed/setup.sh` provides it.
    pub fn main() -> Result<Self> {
        match std::env::var_os("KUBECTL") {
            Some(path) => Self::at(Path::new(&path)),
            None => Self::minor(33),
        }
    }

    /// The v1.`minor` that `testbed/setup.sh` provides.
    pub fn minor(minor: u32) -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        Self::at(&root.join(format!(".cache/kubectl/v{minor}/kubectl")))
    }

    fn at(path: &Path) -> Result<Self> {
        let path = fs::canonicalize(path)
            .with_context(|| format!("no kubectl at {}: run testbed/setup.sh", path.display()))?;
        let output = Command::new(&path).args(["version", "--client", "-o", "json"]).output()?;
        ensure!(output.status.success(), "{} version failed", path.display());
        let version: Value = serde_json::from_slice(&output.stdout)?;
        let version = version["clientVersion"]["gitVersion"].as_str().context("kubectl names its version")?;
        Ok(Self { version: version.to_owned(), path })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its version, such as `v1.33.0`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// kubectl on a host, or in the test's own namespace, with a kubeconfig and a home of its own beside that.
    pub fn command(&self, host: Option<&Host>, kubeconfig: &Path, args: &[&str]) -> Command {
        let mut command = match host {
            Some(host) => host.command(&self.path),
            None => Command::new(&self.path),
        };
        let home = kubeconfig.with_extension("home");
        for variable in CLEARED {
            command.env_remove(variable);
        }
        command
            .args(args)
            .env("KUBECONFIG", kubeconfig)
            .env("HOME", &home)
            .env("KUBECACHEDIR", home.join("cache"));
        command
    }
}

/// A person at a shell on one host, with one kubeconfig.
#[derive(Clone, Debug)]
pub struct Session<'a> {
    kubectl: Kubectl,
    host: Option<&'a Host>,
    kubeconfig: PathBuf,
    proxy: Option<String>,
    spdy: bool,
}

/// What kubectl says although nothing is wrong.
const HARMLESS: [&str; 2] = [
    // Versions that are far apart are the test's choice.
    "exceeds the supported minor version skew",
    // The API server opens each channel with an empty message, and kubectl may read one before it has made the stream for
    // it. A message with content that was lost so would be missed in what it prints.
    DISCARDED,
];

/// Kubectl's word for a message of a channel that it had made no stream for yet.
const DISCARDED: &str = "discarding message";

/// How often a command whose message was discarded is run again.
const DISCARD_RETRIES: usize = 5;

impl<'a> Session<'a> {
    /// On `host`, or in this process's own namespace; the kubeconfig is written to `path`.
    pub fn new(
        kubectl: Kubectl,
        host: Option<&'a Host>,
        path: &Path,
        server: &str,
        pki: &Pki,
    ) -> Result<Self> {
        write_kubeconfig(path, server, pki)?;
        Ok(Self { kubectl, host, kubeconfig: path.to_owned(), proxy: None, spdy: false })
    }

    /// The same, with `HTTPS_PROXY` set.
    #[must_use]
    pub fn with_proxy(mut self, url: &str) -> Self {
        self.proxy = Some(url.to_owned());
        self
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.kubectl.command(self.host, &self.kubeconfig, args);
        command.envs(self.proxy.iter().map(|url| ("HTTPS_PROXY", url)));
        if self.spdy {
            command.env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "false");
            command.env("KUBECTL_PORT_FORWARD_WEBSOCKETS", "false");
        }
        command
    }

    /// The same, with a proxy (`socks5://HOST:PORT`) in the kubeconfig.
    pub fn through_proxy(self, proxy: &str) -> Result<Self> {
        let mut config: Value = serde_json::from_slice(&fs::read(&self.kubeconfig)?)?;
        config["clusters"][0]["cluster"]["proxy-url"] = proxy.into();
        fs::write(&self.kubeconfig, serde_json::to_vec_pretty(&config)?)?;
        Ok(self)
    }

    /// The same, with a token in the place of the certificate.
    pub fn with_token(self, token: &str) -> Result<Self> {
        let mut config: Value = serde_json::from_slice(&fs::read(&self.kubeconfig)?)?;
        config["users"][0]["user"] = json!({ "token": token });
        fs::write(&self.kubeconfig, serde_json::to_vec_pretty(&config)?)?;
        Ok(self)
    }

    /// The same, with streams of SPDY, as older kubectls have them, and not over WebSockets.
    #[must_use]
    pub fn over_spdy(mut self) -> Self {
        self.spdy = true;
        self
    }

    /// The same, trusting another authority.
    pub fn trusting(self, ca: &Path) -> Result<Self> {
        let mut config: Value = serde_json::from_slice(&fs::read(&self.kubeconfig)?)?;
        config["clusters"][0]["cluster"]["certificate-authority"] = json!(ca);
        fs::write(&self.kubeconfig, serde_json::to_vec_pretty(&config)?)?;
        Ok(self)
    }

    /// The kubectl that it uses.
    pub fn kubectl(&self) -> &Kubectl {
        &self.kubectl
    }

    /// A connection as another program of this person would make it.
    pub async fn connect(&self, address: SocketAddr) -> io::Result<TcpStream> {
        match self.host {
            Some(host) => host.connect(address).await,
            None => TcpStream::connect(address).await,
        }
    }

    /// Runs kubectl to its end with `stdin` as its input.
    ///
    /// Kubectl reads a WebSocket before it has made the streams of its channels, and discards what arrives in between,
    /// whatever the server or the network. It says so, and is then asked again.
    pub async fn output(&self, args: &[&str], stdin: &str) -> Result<Output> {
        let mut output = self.output_once(args, stdin).await?;
        for _ in 0..DISCARD_RETRIES {
            if !String::from_utf8_lossy(&output.stderr).contains(DISCARDED) {
                break;
            }
            output = self.output_once(args, stdin).await?;
        }
        Ok(output)
    }

    async fn output_once(&self, args: &[&str], stdin: &str) -> Result<Output> {
        let mut command = tokio::process::Command::from(self.command(args));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn()?;
        let mut pipe = child.stdin.take().context("kubectl has a standard input")?;
        let feed = async {
            // A kubectl that fails does not read its input.
            let _ = pipe.write_all(stdin.as_bytes()).await;
            drop(pipe);
        };
        let run = async { tokio::join!(feed, child.wait_with_output()).1 };
        let output = tokio::time::timeout(RUN_LIMIT, run).await;
        Ok(output.with_context(|| format!("kubectl {} does not end", args.join(" ")))??)
    }

    /// What kubectl prints. An error when it fails, and when it warns: a fallback to another protocol would be a warning.
    pub async fn run(&self, args: &[&str], stdin: &str) -> Result<String> {
        let output = self.output(args, stdin).await?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "kubectl {}: {}: {}", args.join(" "), output.status, stderr.trim());
        if let Some(warning) = stderr.lines().find(|line| !HARMLESS.iter().any(|part| line.contains(part))) {
            bail!("kubectl {} warns: {warning}", args.join(" "));
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Starts a kubectl that goes on; its log is beside the kubeconfig.
    pub fn spawn(&self, name: &str, args: &[&str]) -> Result<Process> {
        let dir = self.kubeconfig.parent().context("the kubeconfig is in a directory")?;
        Process::spawn(name, dir, self.command(args))
    }
}

/// Writes a kubeconfig for `server` (`https://HOST:PORT`) with the engineer's client certificate and no proxy.
fn write_kubeconfig(path: &Path, server: &str, pki: &Pki) -> Result<()> {
    let (certificate, key) = pki.client();
    // JSON is YAML.
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "testbed",
        "clusters": [{"name": "testbed", "cluster": {"server": server, "certificate-authority": pki.ca()}}],
        "users": [{"name": "engineer", "user": {"client-certificate": certificate, "client-key": key}}],
        "contexts": [{"name": "testbed", "context": {"cluster": "testbed", "user": "engineer", "namespace": "default"}}],
    });
    fs::write(path, serde_json::to_vec_pretty(&config)?).with_context(|| format!("write {}", path.display()))
}
