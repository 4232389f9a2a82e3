//! The paths that are compared: hosts, the programs on them that carry traffic, and the servers at the far end.
//!
//! Every path has hosts of its own, laid out alike, and all of them exist during the whole run, so that rounds can go
//! from path to path: what disturbs the machine for a minute then disturbs every path a little, instead of one path much.

use std::net::{IpAddr, SocketAddr};
use std::path::Path as FilePath;
use std::process::Command;
use std::time::Duration;

use adit_testbed::net::{API_V4, CLUSTER_V4, EDGE_INNER_V4, EDGE_V4, Host, LAPTOP_V4, World};
use adit_testbed::process::Process;
use anyhow::{Context, Result};

use crate::options::{PathName, Programs};
use crate::{chain, wireguard};

/// Where the measured servers listen, on every path alike.
pub(crate) const TARGET: IpAddr = IpAddr::V4(API_V4);
/// The echo that latency is measured with.
pub(crate) const ECHO: SocketAddr = SocketAddr::new(TARGET, 7007);
/// The echo that takes many flows.
pub(crate) const FLOWS: SocketAddr = SocketAddr::new(TARGET, 7008);

/// How long a program may take to say that it is ready.
pub(crate) const START_LIMIT: Duration = Duration::from_secs(20);

/// One path, ready to be measured. Dropping it ends its programs, then removes its hosts.
#[derive(Debug)]
pub(crate) struct Path {
    pub(crate) name: PathName,
    /// What carries the traffic; empty for the bare path.
    pub(crate) daemons: Vec<Daemon>,
    /// The server of the bulk runs, on the cluster.
    pub(crate) iperf: Process,
    /// Held so that it runs until the path is dropped.
    _echo: Process,
    carrier: Carrier,
}

/// A program of the path under test.
#[derive(Debug, Clone)]
pub(crate) struct Daemon {
    /// What it is on this path, such as `edge`.
    pub(crate) role: &'static str,
    pub(crate) pid: u32,
}

#[derive(Debug)]
enum Carrier {
    Routed(World),
    WireGuard(Box<wireguard::Pair>, World),
    Adit(Box<chain::Laid>),
}

impl Path {
    /// Makes the hosts, starts everything on them, and returns when the servers can be reached from the laptop.
    pub(crate) async fn lay(name: PathName, programs: &Programs, logs: &FilePath) -> Result<Self> {
        let logs = logs.join(format!("{name:?}"));
        std::fs::create_dir(&logs).with_context(|| format!("cannot make {}", logs.display()))?;
        let carrier = match name {
            PathName::Bare => Carrier::Routed(routed_to_target()?),
            PathName::Boringtun1 => wireguard(&programs.boringtun, &["--threads", "1"], &logs)?,
            PathName::Boringtun4 => wireguard(&programs.boringtun, &[], &logs)?,
            PathName::Gotatun => wireguard(&programs.gotatun, &[], &logs)?,
            PathName::Adit | PathName::Cloudflared => {
                let cloudflared =
                    if name == PathName::Cloudflared { programs.cloudflared.as_deref() } else { None };
                let connector = chain::Connector { cloudflared, protocol: &programs.protocol };
                Carrier::Adit(Box::new(chain::Laid::start(&connector, &logs).await?))
            }
        };
        let daemons = match &carrier {
            Carrier::Routed(_) => Vec::new(),
            Carrier::WireGuard(pair, _) => pair.daemons(),
            Carrier::Adit(laid) => laid.daemons()?,
        };
        let world = carrier.world();
        for host in [&world.laptop, &world.edge, &world.cluster] {
            allow_many_flows(host)?;
        }
        let iperf = start_iperf(&world.cluster, &logs).await?;
        let echo = start_echo(&world.cluster, &logs).await?;
        Ok(Self { name, daemons, iperf, _echo: echo, carrier })
    }

    /// Laptop, edge, cluster.
    pub(crate) fn hosts(&self) -> [&Host; 3] {
        let world = self.carrier.world();
        [&world.laptop, &world.edge, &world.cluster]
    }

    /// A command on the laptop.
    pub(crate) fn on_laptop(&self, program: impl AsRef<FilePath>) -> Command {
        self.carrier.world().laptop.command(program)
    }
}

impl Carrier {
    fn world(&self) -> &World {
        match self {
            Self::Routed(world) | Self::WireGuard(_, world) => world,
            Self::Adit(laid) => laid.world(),
        }
    }
}

/// So that the client's ports are not what is measured: a port of a closed connection may be used again after a second.
fn allow_many_flows(host: &Host) -> Result<()> {
    host.sysctl("ipv4/ip_local_port_range", "10000 65000")?;
    host.sysctl("ipv4/tcp_tw_reuse", "1")
}

/// Hosts between which the edge forwards packets.
fn routed() -> Result<World> {
    let world = World::new()?;
    world.edge.sysctl("ipv4/ip_forward", "1")?;
    world.laptop.batch(&[format!("route add {CLUSTER_V4}/32 via {EDGE_V4}")])?;
    world.cluster.batch(&[format!("route add {LAPTOP_V4}/32 via {EDGE_INNER_V4}")])?;
    Ok(world)
}

/// The same, with the target's address routed as well.
fn routed_to_target() -> Result<World> {
    let world = routed()?;
    world.laptop.batch(&[format!("route add {TARGET}/32 via {EDGE_V4}")])?;
    world.edge.batch(&[format!("route add {TARGET}/32 via {CLUSTER_V4}")])?;
    Ok(world)
}

fn wireguard(program: &FilePath, arguments: &[&str], logs: &FilePath) -> Result<Carrier> {
    let world = routed()?;
    let pair = wireguard::Pair::start(&world, program, arguments, logs)?;
    Ok(Carrier::WireGuard(Box::new(pair), world))
}

/// What an `iperf3` server prints when it can take the next client.
pub(crate) const IPERF_READY: &str = "Server listening";

async fn start_iperf(cluster: &Host, logs: &FilePath) -> Result<Process> {
    let mut command = cluster.command("iperf3");
    command.args(["--server", "--forceflush", "--bind", &TARGET.to_string()]);
    let iperf = Process::spawn("iperf3-server", logs, command)?;
    iperf.wait_for_line(IPERF_READY, START_LIMIT).await?;
    Ok(iperf)
}

async fn start_echo(cluster: &Host, logs: &FilePath) -> Result<Process> {
    let mut command = cluster.command(std::env::current_exe()?);
    command.args(["worker", "serve", &ECHO.to_string(), &FLOWS.to_string()]);
    let echo = Process::spawn("echo-server", logs, command)?;
    echo.wait_for_line("serving", START_LIMIT).await?;
    Ok(echo)
}
