//! The whole path: agent on the laptop, `adit up` on the edge, connectors in pods of the cluster.
//!
//! Made of the real programs, started and configured as a person would: through the command line, the files and the v4
//! API. Each step is a method, so that the demo can tell what it does and a test can leave one out; [`Chain::start`]
//! takes them all. A chain that is dropped while its test fails prints the end of every log.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use base64::Engine as _;
use http::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::Instant;

use crate::api::Api;
use crate::net::{
    EDGE_INNER_V4, EDGE_INNER_V6, EDGE_V4, EDGE_V6, Host, Namespace, PRIVATE_V4, PRIVATE_V6, World,
};
use crate::process::{Process, built};

/// Longest wait for a program to come up, or for its peers to see it.
const START_LIMIT: Duration = Duration::from_secs(20);
/// Between two looks at a state that has no event.
const POLL: Duration = Duration::from_millis(25);
/// Lines of each log that a failed test prints.
const LOG_TAIL: usize = 60;
/// Connections that one connector makes.
pub const CONNECTIONS: usize = 4;
/// What a connector serves `/ready` and `/metrics` on, inside its pod.
pub const CONNECTOR_METRICS_PORT: u16 = 8081;

/// The configuration of the issue, unchanged but for the tunnel's id.
const CONNECTOR_CONFIG: &str = "\
tunnel: TUNNEL_ID
credentials-file: /opt/zt/creds/creds.json
metrics: 0.0.0.0:8081
warp-routing:
    enabled: true
";

/// A tunnel and what its connectors need.
#[derive(Clone)]
pub struct Tunnel {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The credentials file's content.
    pub credentials: Value,
}

impl std::fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tunnel").field("id", &self.id).field("name", &self.name).finish_non_exhaustive()
    }
}

/// One replica of the connector's Deployment: a pod and the program in it.
#[derive(Debug)]
pub struct Connector {
    /// The program.
    pub process: Process,
    /// Where it runs.
    pub pod: Host,
}

/// The programs and hosts of one test. What is dropped first is declared first: programs, then hosts, then files.
#[derive(Debug)]
pub struct Chain {
    /// `adit agent run`, when started.
    pub agent: Option<Process>,
    /// The connectors, in the order of their start.
    pub connectors: Vec<Connector>,
    /// `adit up`, when started.
    pub edge: Option<Process>,
    /// What `adit up` is started with besides.
    pub edge_flags: Vec<String>,
    /// The hosts.
    pub world: World,
    adit: PathBuf,
    dir: TempDir,
    pods: u8,
    enrollments: u32,
}

impl Chain {
    /// The hosts, and no program yet.
    pub fn new() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("adit-chain-").tempdir()?;
        Ok(Self {
            agent: None,
            connectors: Vec::new(),
            edge: None,
            edge_flags: Vec::new(),
            world: World::new()?,
            adit: built("adit")?,
            dir,
            pods: 0,
            enrollments: 0,
        })
    }

    /// Everything: an edge, a tunnel with the private networks and three connectors, and an enrolled, connected agent.
    pub async fn start() -> Result<Self> {
        let mut chain = Self::new()?;
        chain.start_all().await?;
        Ok(chain)
    }

    /// Everything but the agent.
    pub async fn with_connectors(count: usize) -> Result<Self> {
        let mut chain = Self::new()?;
        chain.start_with_connectors(count).await?;
        Ok(chain)
    }

    /// Starts everything on these hosts.
    pub async fn start_all(&mut self) -> Result<()> {
        self.start_with_connectors(3).await?;
        self.start_agent().await?;
        self.enroll().await?;
        self.wait_for_agent("connected").await?;
        Ok(())
    }

    async fn start_with_connectors(&mut self, count: usize) -> Result<()> {
        let chain = self;
        chain.start_edge().await?;
        let tunnel = chain.create_tunnel("api-zt").await?;
        chain.create_route(&tunnel, PRIVATE_V4).await?;
        chain.create_route(&tunnel, PRIVATE_V6).await?;
        for _ in 0..count {
            chain.start_connector(&tunnel)?;
        }
        chain.wait_for_connections(&tunnel, count * CONNECTIONS).await?;
        Ok(())
    }

    /// The `adit` that the chain runs.
    pub fn program(&self) -> PathBuf {
        self.adit.clone()
    }

    /// Where logs, and everything else, are.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The edge's data directory.
    pub fn data(&self) -> PathBuf {
        self.dir().join("edge")
    }

    /// The agent's state directory.
    pub fn agent_state(&self) -> PathBuf {
        self.dir().join("agent")
    }

    /// `adit` on a host, configured by nothing but its arguments.
    pub fn adit(&self, host: &Host) -> Command {
        let mut command = host.command(&self.adit);
        for (variable, _) in std::env::vars_os() {
            if variable.to_str().is_some_and(|name| name.starts_with("ADIT_") || name.starts_with("TUNNEL_"))
            {
                command.env_remove(variable);
            }
        }
        command
    }

    // The edge and its API.

    /// Starts `adit up`, again if it ran before, and waits until it answers.
    pub async fn start_edge(&mut self) -> Result<()> {
        let mut command = self.adit(&self.world.edge);
        command.arg("up").arg("--data").arg(self.data()).args(&self.edge_flags);
        let addresses: [IpAddr; 4] =
            [EDGE_V4.into(), EDGE_V6.into(), EDGE_INNER_V4.into(), EDGE_INNER_V6.into()];
        for address in addresses {
            command.args(["--public-host", &address.to_string()]);
        }
        let mut edge = Process::spawn("edge", self.dir(), command)?;
        let deadline = Instant::now() + START_LIMIT;
        loop {
            let answer =
                async { self.api()?.result(&self.world.edge, Method::GET, "cfd_tunnel", None).await };
            match answer.await {
                Ok(_) => break,
                Err(error) if Instant::now() > deadline => {
                    return Err(error).context("the edge does not answer");
                }
                Err(_) if !edge.is_running() => bail!("the edge ended:\n{}", edge.output().join("\n")),
                Err(_) => tokio::time::sleep(POLL).await,
            }
        }
        self.edge = Some(edge);
        Ok(())
    }

    /// The edge's API, as the laptop reaches it.
    pub fn api(&self) -> Result<Api> {
        Api::new(SocketAddr::from((EDGE_V4, 443)), &self.data())
    }

    /// Calls the API from the edge's host.
    pub async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
        self.api()?.result(&self.world.edge, method, path, body).await
    }

    /// Creates a tunnel with a secret of our choice.
    pub async fn create_tunnel(&self, name: &str) -> Result<Tunnel> {
        let secret = base64::engine::general_purpose::STANDARD
            .encode([uuid::Uuid::new_v4(); 2].map(|id| *id.as_bytes()).concat());
        let body = json!({"name": name, "tunnel_secret": secret});
        let tunnel = self.call(Method::POST, "cfd_tunnel", Some(&body)).await?;
        let id = tunnel["id"].as_str().context("a new tunnel has an id")?.to_owned();
        let credentials = json!({
            "AccountTag": self.api()?.account(), "TunnelID": id, "TunnelName": name, "TunnelSecret": secret,
        });
        Ok(Tunnel { id, name: name.to_owned(), credentials })
    }

    /// Routes `network` to a tunnel; gives the route's id.
    pub async fn create_route(&self, tunnel: &Tunnel, network: &str) -> Result<String> {
        let body = json!({"network": network, "tunnel_id": tunnel.id, "comment": "testbed"});
        let route = self.call(Method::POST, "teamnet/routes", Some(&body)).await?;
        Ok(route["id"].as_str().context("a new route has an id")?.to_owned())
    }

    /// Makes a public host name lead to a tunnel's ingress, as `tunnel route dns` does.
    pub async fn route_hostname(&self, tunnel: &Tunnel, hostname: &str) -> Result<()> {
        let path = format!("/zones/{}/tunnels/{}/routes", self.api()?.account(), tunnel.id);
        let body = json!({"type": "dns", "user_hostname": hostname, "overwrite_existing": false});
        self.call(Method::PUT, &path, Some(&body)).await.map(drop)
    }

    /// What `adit tunnel list` prints on the edge's host.
    pub async fn tunnel_list(&self) -> Result<String> {
        let mut command = tokio::process::Command::from(self.adit(&self.world.edge));
        command.args(["tunnel", "--data"]).arg(self.data()).arg("list");
        let output = tokio::time::timeout(START_LIMIT, command.kill_on_drop(true).output());
        let output = output.await.context("adit tunnel list does not end")??;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "adit tunnel list: {}: {}", output.status, stderr.trim());
        Ok(String::from_utf8(output.stdout)?)
    }

    // Connectors.

    /// Starts another replica with the issue's configuration; gives its index.
    pub fn start_connector(&mut self, tunnel: &Tunnel) -> Result<usize> {
        self.start_connector_to(&[format!("{EDGE_INNER_V4}:7844")], tunnel)
    }

    /// The same, to these edges.
    pub fn start_connector_to(&mut self, edges: &[String], tunnel: &Tunnel) -> Result<usize> {
        let config = CONNECTOR_CONFIG.replace("TUNNEL_ID", &tunnel.id);
        let ca = self.data().join("ca.pem");
        let connector = self.spawn_connector_to(edges, &config, &tunnel.credentials, &ca)?;
        self.connectors.push(connector);
        Ok(self.connectors.len() - 1)
    }

    /// Starts a connector in a pod of its own, with `config` and `credentials` where a Deployment mounts them.
    pub fn spawn_connector(&mut self, config: &str, credentials: &Value, ca: &Path) -> Result<Connector> {
        self.spawn_connector_to(&[format!("{EDGE_INNER_V4}:7844")], config, credentials, ca)
    }

    /// The same, to these edges.
    pub fn spawn_connector_to(
        &mut self,
        edges: &[String],
        config: &str,
        credentials: &Value,
        ca: &Path,
    ) -> Result<Connector> {
        let index = self.pods;
        self.pods += 1;
        let pod = self.world.pod(index)?;
        let name = format!("connector{index}");
        let files = self.dir().join(&name);
        fs::create_dir_all(&files)?;
        fs::write(files.join("config.yaml"), config)?;
        fs::write(files.join("creds.json"), credentials.to_string())?;
        let mut command = pod.command("sh");
        // The namespace has mounts of its own: /opt there is the pod's, not the machine's.
        command.args(["-ec", MOUNT_AND_RUN, "sh"]).arg(&files).arg(&self.adit).arg(ca);
        command.args(edges);
        Ok(Connector { process: Process::spawn(&name, self.dir(), command)?, pod })
    }

    /// Starts an unmodified cloudflared as a connector in a pod of its own; `config` is what its file has besides the edge.
    pub fn spawn_cloudflared(
        &mut self,
        cloudflared: &Path,
        config: &str,
        credentials: &Value,
    ) -> Result<Connector> {
        let index = self.pods;
        self.pods += 1;
        let pod = self.world.pod(index)?;
        let name = format!("cloudflared{index}");
        let command = self.cloudflared(&pod, &name, cloudflared, config, credentials)?;
        Ok(Connector { process: Process::spawn(&name, self.dir(), command)?, pod })
    }

    /// An unmodified cloudflared as a connector on `host`; see [`Self::spawn_cloudflared`].
    pub fn cloudflared(
        &self,
        host: &Namespace,
        name: &str,
        cloudflared: &Path,
        config: &str,
        credentials: &Value,
    ) -> Result<Command> {
        let file = |suffix: &str| self.dir().join(format!("{name}.{suffix}"));
        let (config_file, credentials_file, resolver) = (file("yaml"), file("json"), file("resolv.conf"));
        fs::write(&credentials_file, credentials.to_string())?;
        // It makes a connection to each address, and with a single one would redial without a pause (tunnel protocol, 1.2).
        let edges = vec![format!("'{EDGE_INNER_V4}:7844'"); CONNECTIONS].join(", ");
        let fixed = format!(
            "credentials-file: {}\ncacert: {}\nedge: [{edges}]\nno-autoupdate: true\nno-prechecks: true\n",
            credentials_file.display(),
            self.data().join("ca.pem").display(),
        );
        fs::write(&config_file, fixed + config)?;
        // It looks names up before its first dial, and waits long for a resolver that does not answer: here one refuses at
        // once. The command's namespace has mounts of its own.
        fs::write(&resolver, "nameserver 127.0.0.1\n")?;
        let mut command = host.command("sh");
        let script = r#"mount --bind "$1" /etc/resolv.conf; exec "$2" tunnel --config "$3" run"#;
        command.args(["-ec", script, "sh"]).arg(&resolver).arg(cloudflared).arg(&config_file);
        Ok(command)
    }

    /// Waits until the edge shows `count` connections of a tunnel.
    pub async fn wait_for_connections(&self, tunnel: &Tunnel, count: usize) -> Result<()> {
        let path = format!("cfd_tunnel/{}/connections", tunnel.id);
        let deadline = Instant::now() + START_LIMIT;
        loop {
            let connectors = self.call(Method::GET, &path, None).await?;
            let connectors = connectors.as_array().context("a list of connectors")?;
            let got: usize = connectors.iter().map(|c| c["conns"].as_array().map_or(0, Vec::len)).sum();
            if got == count {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "the tunnel has {got} connections, not {count}");
            tokio::time::sleep(POLL).await;
        }
    }

    // Clients of public host names.

    /// `program` on the laptop, to which `names` are addresses of the edge.
    pub fn on_laptop_with_names(&self, names: &[&str], program: &Path) -> Result<Command> {
        let hosts = self.dir().join(format!("hosts-{}", names.join("-")));
        fs::write(&hosts, format!("127.0.0.1 localhost\n{EDGE_V4} {}\n", names.join(" ")))?;
        let mut command = self.world.laptop.command("sh");
        // The namespace has mounts of its own.
        command
            .args(["-ec", r#"mount --bind "$1" /etc/hosts; shift; exec "$@""#, "sh"])
            .arg(hosts)
            .arg(program);
        Ok(command)
    }

    /// Starts `adit access tcp` on the laptop for `name`, listening on `port` of its loopback address.
    pub async fn start_access(&self, name: &str, port: u16) -> Result<Process> {
        let mut command = self.on_laptop_with_names(&[name], &self.adit)?;
        command.args(["access", "tcp", "--hostname", name, "--url", &format!("127.0.0.1:{port}"), "--ca"]);
        command.arg(self.data().join("ca.pem"));
        let access = Process::spawn(&format!("access-{name}"), self.dir(), command)?;
        access.wait_for_line("listening", START_LIMIT).await?;
        Ok(access)
    }

    // The agent.

    /// Starts `adit agent run` and waits until its socket answers.
    pub async fn start_agent(&mut self) -> Result<()> {
        self.start_agent_with(&[]).await
    }

    /// The same, with these flags besides.
    pub async fn start_agent_with(&mut self, flags: &[&str]) -> Result<()> {
        let mut command = self.adit(&self.world.laptop);
        command.args(["agent", "run", "--state"]).arg(self.agent_state()).args(flags);
        let mut agent = Process::spawn("agent", self.dir(), command)?;
        let deadline = Instant::now() + START_LIMIT;
        loop {
            match self.agent_status().await {
                Ok(_) => break,
                Err(error) if Instant::now() > deadline => {
                    return Err(error).context("the agent does not answer");
                }
                Err(_) if !agent.is_running() => bail!("the agent ended:\n{}", agent.output().join("\n")),
                Err(_) => tokio::time::sleep(POLL).await,
            }
        }
        self.agent = Some(agent);
        Ok(())
    }

    /// Enrols the device with a new service token.
    pub async fn enroll(&mut self) -> Result<()> {
        let token = self.create_service_token().await?;
        self.agent_command(&self.enroll_args(&token, &self.data().join("ca.pem"))).await.map(drop)
    }

    /// A new service token, as `ID:SECRET`.
    pub async fn create_service_token(&mut self) -> Result<String> {
        self.enrollments += 1;
        let body = json!({"name": format!("laptop-{}", self.enrollments)});
        let token = self.call(Method::POST, "access/service_tokens", Some(&body)).await?;
        let field =
            |name: &str| token[name].as_str().with_context(|| format!("a new service token has {name}"));
        Ok(format!("{}:{}", field("client_id")?, field("client_secret")?))
    }

    /// The arguments of `adit agent` that enrol.
    pub fn enroll_args(&self, token: &str, ca: &Path) -> Vec<String> {
        let ca = ca.display().to_string();
        ["enroll", &format!("https://{EDGE_V4}"), "--ca", &ca, "--service-token", token]
            .map(ToOwned::to_owned)
            .into()
    }

    /// Runs `adit agent ARGS` on the laptop to its end; gives its output, or its words when it fails.
    pub async fn agent_command(&self, args: &[impl AsRef<str>]) -> Result<String> {
        let mut command = tokio::process::Command::from(self.adit(&self.world.laptop));
        command.arg("agent").args(args.iter().map(AsRef::as_ref)).arg("--state").arg(self.agent_state());
        let output = tokio::time::timeout(START_LIMIT, command.kill_on_drop(true).output());
        let output = output.await.context("adit agent does not end")??;
        let stderr = String::from_utf8_lossy(&output.stderr);
        // The arguments may hold a secret: only the subcommand is named.
        let name = args.first().map_or("", AsRef::as_ref);
        ensure!(output.status.success(), "adit agent {name}: {}: {}", output.status, stderr.trim());
        Ok(String::from_utf8(output.stdout)?)
    }

    /// `adit agent status --json`.
    pub async fn agent_status(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.agent_command(&["status", "--json"]).await?)?)
    }

    /// Waits until the agent's `state` is `want`; when it is `connected`, also until it has the networks.
    pub async fn wait_for_agent(&self, want: &str) -> Result<Value> {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            let status = self.agent_status().await?;
            let routed =
                want != "connected" || status["routes"].as_array().is_some_and(|routes| !routes.is_empty());
            if status["state"] == want && routed {
                return Ok(status);
            }
            ensure!(Instant::now() < deadline, "the agent is not {want}: {status}");
            tokio::time::sleep(POLL).await;
        }
    }

    /// The agent's interface on the laptop.
    pub fn agent_interface(&self) -> Result<String> {
        let links = self.world.laptop.output("ip", &["-brief", "link", "show", "type", "tun"])?;
        Ok(links.split_whitespace().next().context("the laptop has no TUN interface")?.to_owned())
    }
}

/// Puts the files where the configuration says, and becomes the connector. `$1` files, `$2` adit, `$3` CA, the rest edges.
const MOUNT_AND_RUN: &str = r#"
case $2 in
    # The program itself would be hidden.
    /opt/*) mkdir -p /opt/zt; mount -t tmpfs tmpfs /opt/zt ;;
    *) mount -t tmpfs tmpfs /opt ;;
esac
mkdir -p /opt/zt/creds /opt/zt/config
cp "$1/creds.json" /opt/zt/creds/
cp "$1/config.yaml" /opt/zt/config/
adit=$2 ca=$3
shift 3
for edge; do
    set -- "$@" --edge "$edge"
    shift
done
exec "$adit" tunnel --config /opt/zt/config/config.yaml "$@" --cacert "$ca" run
"#;

impl Chain {
    /// Prints the end of every log, for whoever must find out what went wrong.
    #[expect(clippy::print_stderr, reason = "what the programs said is what explains a failed test")]
    pub fn print_logs(&self) {
        let connectors = self.connectors.iter().map(|connector| &connector.process);
        for process in self.edge.iter().chain(connectors).chain(&self.agent) {
            let lines = process.output();
            eprintln!("--- {}: last {LOG_TAIL} of {} lines", process.name(), lines.len());
            for line in &lines[lines.len().saturating_sub(LOG_TAIL)..] {
                eprintln!("{line}");
            }
        }
    }
}

impl Drop for Chain {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.print_logs();
        }
    }
}
