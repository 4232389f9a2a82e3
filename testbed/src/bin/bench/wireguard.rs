//! User-space WireGuard between laptop and cluster, through the edge as a plain router: what a user would set up.
//!
//! One encrypted leg, configured with `wg`, MTU 1420 as `wg-quick` would choose on this link.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use adit_testbed::net::{CLUSTER_V4, Host, World};
use adit_testbed::process::Process;
use anyhow::{Context, Result, bail, ensure};

use crate::path::{Daemon, START_LIMIT, TARGET};

/// The laptop's address inside the tunnel.
const LAPTOP_INSIDE: &str = "198.51.100.2";
/// `wg-quick`'s MTU on a link of 1500 bytes.
const MTU: u32 = 1420;
/// The cluster's UDP port.
const PORT: u16 = 51820;

/// The two ends of a tunnel.
#[derive(Debug)]
pub(crate) struct Pair {
    laptop: End,
    cluster: End,
}

#[derive(Debug)]
struct End {
    process: Process,
    interface: String,
    private_key: PathBuf,
    public_key: String,
}

impl Pair {
    /// Starts `program` on both hosts and configures them; the tunnel's first packet makes the handshake.
    pub(crate) fn start(world: &World, program: &Path, arguments: &[&str], logs: &Path) -> Result<Self> {
        let laptop = End::start(&world.laptop, program, arguments, logs)?;
        let cluster = End::start(&world.cluster, program, arguments, logs)?;
        laptop.configure(
            &world.laptop,
            &cluster,
            &TARGET.to_string(),
            Some(&format!("{CLUSTER_V4}:{PORT}")),
        )?;
        cluster.configure(&world.cluster, &laptop, LAPTOP_INSIDE, None)?;
        world.laptop.batch(&[format!("addr add {LAPTOP_INSIDE}/32 dev {}", laptop.interface)])?;
        for (host, end, destination) in [
            (&world.laptop, &laptop, TARGET.to_string()),
            (&world.cluster, &cluster, LAPTOP_INSIDE.to_owned()),
        ] {
            host.batch(&[
                format!("link set {} mtu {MTU} up", end.interface),
                format!("route add {destination}/32 dev {}", end.interface),
            ])?;
        }
        Ok(Self { laptop, cluster })
    }

    pub(crate) fn daemons(&self) -> Vec<Daemon> {
        vec![
            Daemon { role: "laptop", pid: self.laptop.process.id() },
            Daemon { role: "cluster", pid: self.cluster.process.id() },
        ]
    }
}

impl End {
    fn start(host: &Host, program: &Path, arguments: &[&str], logs: &Path) -> Result<Self> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        // The control socket's path is made of the interface's name and shared by all namespaces.
        let interface = format!("wg{}n{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed));
        let mut command = host.command(program);
        command.arg("--foreground").args(arguments).args([
            "--verbosity",
            "error",
            "--disable-drop-privileges",
            &interface,
        ]);
        let name = format!("wireguard-{}", host.role());
        let mut process = Process::spawn(&name, logs, command)?;
        wait_for_control_socket(&interface, &mut process)?;
        let private_key = logs.join(format!("{}.key", host.role()));
        let key = wg(&["genkey"], None)?;
        fs::write(&private_key, &key)?;
        let public_key = wg(&["pubkey"], Some(&key))?.trim().to_owned();
        Ok(Self { process, interface, private_key, public_key })
    }

    fn configure(&self, host: &Host, peer: &Self, allowed: &str, endpoint: Option<&str>) -> Result<()> {
        let key_file = self.private_key.to_str().context("the log directory's name is not UTF-8")?;
        let allowed = format!("{allowed}/32");
        let port = PORT.to_string();
        let mut arguments = vec!["set", &self.interface, "private-key", key_file, "listen-port", &port];
        arguments.extend(["peer", &peer.public_key, "allowed-ips", &allowed]);
        arguments.extend(endpoint.iter().flat_map(|endpoint| ["endpoint", *endpoint]));
        host.output("wg", &arguments).map(drop)
    }
}

fn wait_for_control_socket(interface: &str, process: &mut Process) -> Result<()> {
    let socket = PathBuf::from(format!("/var/run/wireguard/{interface}.sock"));
    let began = Instant::now();
    // These programs announce nothing that both print; their socket is what `wg` needs.
    while !socket.exists() {
        if !process.is_running() {
            bail!("{} ended at once: {}", process.name(), process.output().join("\n"));
        }
        ensure!(began.elapsed() < START_LIMIT, "{} made no {}", process.name(), socket.display());
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Runs `wg`, giving it `input`, and returns what it prints.
fn wg(arguments: &[&str], input: Option<&str>) -> Result<String> {
    use std::io::Write as _;
    let mut child = Command::new("wg")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("run wg (package wireguard-tools)")?;
    let mut stdin = child.stdin.take().context("wg has a standard input")?;
    stdin.write_all(input.unwrap_or_default().as_bytes())?;
    drop(stdin);
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "wg {arguments:?} failed: {}", output.status);
    Ok(String::from_utf8(output.stdout)?)
}
