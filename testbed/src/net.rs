//! Three hosts as network namespaces, joined by veth pairs.
//!
//! ```text
//!  laptop 192.0.2.2 ------- 192.0.2.1 edge 203.0.113.1 ------- 203.0.113.2 cluster
//!         2001:db8:1::2     2001:db8:1::1  2001:db8:2::1       2001:db8:2::2    lo: 198.51.100.101, 2001:db8::101
//!                                                                   |
//!                                                   pods 10.42.N.2, fd42:N::2 (each with ports of its own)
//! ```
//!
//! What always holds: the edge forwards no packet and the laptop has no route but its link's own, so nothing reaches
//! the cluster from the laptop unless a program on the edge carries it. Namespaces are named after the process that
//! made them and its start time; those of a process that is gone are removed when the next world is made.

use std::fs;
use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::net::{TcpSocket, TcpStream};

/// The laptop's addresses on its only link.
pub const LAPTOP_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// The laptop's IPv6 address on its only link.
pub const LAPTOP_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 2);
/// The edge, as the laptop sees it.
pub const EDGE_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// The edge, as the laptop sees it over IPv6.
pub const EDGE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1);
/// The edge, as the cluster sees it.
pub const EDGE_INNER_V4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
/// The edge, as the cluster sees it over IPv6.
pub const EDGE_INNER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 1);
/// The cluster's address on its link to the edge.
pub const CLUSTER_V4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
/// The cluster's IPv6 address on its link to the edge.
pub const CLUSTER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 2);
/// The private address of the API server.
pub const API_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 101);
/// The private IPv6 address of the API server.
pub const API_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x101);
/// An address inside the private network to which the cluster's kernel answers "no route to host".
pub const UNREACHABLE_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 66);
/// The private IPv4 network that holds [`API_V4`] and [`UNREACHABLE_V4`].
pub const PRIVATE_V4: &str = "198.51.100.0/24";
/// The private IPv6 network that holds [`API_V6`].
pub const PRIVATE_V6: &str = "2001:db8::/64";

/// Where pods have their addresses.
const PODS_V4: &str = "10.42.0.0/16";
/// Where pods have their IPv6 addresses.
const PODS_V6: &str = "fd42::/48";

/// The laptop's link; the only way out that it has.
pub const LAPTOP_LINK: &str = "wan";

/// The list of resolvers of a host that has none: whoever asks is refused at once.
pub const NO_RESOLVER: &str = "# A host of the testbed: nobody resolves names here.\nnameserver 127.0.0.1\n";

/// All namespaces of this library begin so, and a name that does may be swept.
const PREFIX: &str = "adit";

/// The three hosts of one test. Dropping it ends every process in them and removes them.
#[derive(Debug)]
pub struct World {
    /// Where the person sits: kubectl and the agent.
    pub laptop: Host,
    /// Reached by both others, forwards nothing.
    pub edge: Host,
    /// The private network: API server and connectors.
    pub cluster: Host,
}

impl World {
    /// Makes the three hosts, after sweeping those of processes that are gone.
    pub fn new() -> Result<Self> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        ensure!(nix::unistd::geteuid().is_root(), "network namespaces need root: run this as root");
        sweep();
        let pid = std::process::id();
        let start = start_time(pid).context("read this process's start time")?;
        let n = COUNTER.fetch_add(1, Ordering::Relaxed);
        let host = |role: &str| Host::add(role, format!("{PREFIX}-{pid}-{start}-{n}-{role}"));
        let world = Self { laptop: host("laptop")?, edge: host("edge")?, cluster: host("cluster")? };
        world.join()?;
        Ok(world)
    }

    /// A host behind the cluster, as a pod has it: its own ports, the cluster as its router. `index` tells them apart.
    pub fn pod(&self, index: u8) -> Result<Host> {
        let pod = Host::add("pod", self.cluster.name.replace("cluster", &format!("pod{index}")))?;
        let link = format!("pod{index}");
        self.cluster.link(&link, &pod, "eth0")?;
        self.cluster.batch(&[
            format!("addr add 10.42.{index}.1/24 dev {link}"),
            format!("addr add fd42:0:0:{index:x}::1/64 dev {link} nodad"),
        ])?;
        pod.batch(&[
            format!("addr add 10.42.{index}.2/24 dev eth0"),
            format!("addr add fd42:0:0:{index:x}::2/64 dev eth0 nodad"),
            format!("route add default via 10.42.{index}.1"),
            format!("route add default via fd42:0:0:{index:x}::1"),
        ])?;
        Ok(pod)
    }

    fn join(&self) -> Result<()> {
        let (laptop, edge, cluster) = (&self.laptop, &self.edge, &self.cluster);
        laptop.link(LAPTOP_LINK, edge, "to-laptop")?;
        edge.link("to-cluster", cluster, "wan")?;
        laptop.batch(&[
            format!("addr add {LAPTOP_V4}/24 dev {LAPTOP_LINK}"),
            format!("addr add {LAPTOP_V6}/64 dev {LAPTOP_LINK} nodad"),
        ])?;
        edge.batch(&[
            format!("addr add {EDGE_V4}/24 dev to-laptop"),
            format!("addr add {EDGE_V6}/64 dev to-laptop nodad"),
            format!("addr add {EDGE_INNER_V4}/24 dev to-cluster"),
            format!("addr add {EDGE_INNER_V6}/64 dev to-cluster nodad"),
            format!("route add {PODS_V4} via {CLUSTER_V4}"),
            format!("route add {PODS_V6} via {CLUSTER_V6}"),
        ])?;
        cluster.batch(&[
            format!("addr add {CLUSTER_V4}/24 dev wan"),
            format!("addr add {CLUSTER_V6}/64 dev wan nodad"),
            format!("addr add {API_V4}/32 dev lo"),
            format!("addr add {API_V6}/128 dev lo nodad"),
            format!("route add unreachable {UNREACHABLE_V4}/32"),
        ])?;
        // The cluster is its pods' router.
        cluster.sysctl("ipv4/ip_forward", "1")?;
        cluster.sysctl("ipv6/conf/all/forwarding", "1")
    }
}

/// A network namespace that is removed, with all that runs in it, when this is dropped.
#[derive(Debug)]
pub struct Host(Namespace);

impl Host {
    fn add(role: &str, name: String) -> Result<Self> {
        ip(&["netns", "add", &name])?;
        let host = Self(Namespace { role: role.to_owned(), name });
        // Programs there see this in place of the machine's, also those that replace it.
        let resolv_conf = host.resolv_conf();
        fs::create_dir_all(resolv_conf.parent().context("a directory of its own")?)?;
        fs::write(&resolv_conf, NO_RESOLVER)?;
        // A new namespace starts with the machine's own setting, and the machine may be a router.
        for (key, value) in [
            ("ipv4/ip_forward", "0"),
            ("ipv6/conf/all/forwarding", "0"),
            ("ipv6/conf/default/accept_ra", "0"),
            // A link-local address that waits for duplicate detection holds up neighbour discovery for a second.
            ("ipv6/conf/all/accept_dad", "0"),
            ("ipv6/conf/default/accept_dad", "0"),
        ] {
            host.sysctl(key, value)?;
        }
        host.batch(&["link set lo up".to_owned()])?;
        Ok(host)
    }
}

impl std::ops::Deref for Host {
    type Target = Namespace;

    fn deref(&self) -> &Namespace {
        &self.0
    }
}

/// The way into a host. It does not keep the host.
#[derive(Clone, Debug)]
pub struct Namespace {
    role: String,
    name: String,
}

impl Namespace {
    /// `laptop`, `edge` or `cluster`.
    pub fn role(&self) -> &str {
        &self.role
    }

    /// The namespace's name, as `ip netns` lists it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The host's list of resolvers, which is `/etc/resolv.conf` to what runs on it.
    pub fn resolv_conf(&self) -> PathBuf {
        etc(&self.name).join("resolv.conf")
    }

    /// A veth pair between this host and another, both ends up.
    pub fn link(&self, here: &str, other: &Self, there: &str) -> Result<()> {
        ip(&[
            "link",
            "add",
            here,
            "netns",
            &self.name,
            "type",
            "veth",
            "peer",
            "name",
            there,
            "netns",
            &other.name,
        ])?;
        self.batch(&[format!("link set dev {here} up")])?;
        other.batch(&[format!("link set dev {there} up")])
    }

    /// Runs lines of `ip` commands on this host.
    pub fn batch(&self, lines: &[String]) -> Result<()> {
        let mut child = Command::new("ip")
            .args(["-netns", &self.name, "-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("run ip (package iproute2)")?;
        let mut stdin = child.stdin.take().context("ip has a standard input")?;
        stdin.write_all(format!("{}\n", lines.join("\n")).as_bytes())?;
        drop(stdin);
        let output = child.wait_with_output()?;
        ensure!(
            output.status.success(),
            "{}: ip {lines:?}: {}",
            self.role,
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(())
    }

    /// Sets a key below `/proc/sys/net` of this host.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = Path::new("/proc/sys/net").join(key);
        self.within(|| fs::write(&path, value)).with_context(|| format!("{}: set {key}={value}", self.role))
    }

    /// Drops the packets that come to this host and match one of these nftables expressions, and none that an earlier call
    /// named: `udp dport 443`, or `numgen random mod 100 < 5` for one packet in twenty.
    pub fn drop_incoming(&self, matches: &[&str]) -> Result<()> {
        let rules = matches.iter().fold(String::new(), |rules, rule| rules + "    " + rule + " drop\n");
        let table = format!(
            "table inet testbed\ndelete table inet testbed\ntable inet testbed {{\n  chain incoming {{\n    \
             type filter hook input priority 0;\n{rules}  }}\n}}\n"
        );
        let mut child = self
            .command("nft")
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("run nft (package nftables)")?;
        child.stdin.take().context("nft has a standard input")?.write_all(table.as_bytes())?;
        let output = child.wait_with_output()?;
        ensure!(
            output.status.success(),
            "{}: nft {matches:?}: {}",
            self.role,
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(())
    }

    /// A command that runs on this host once spawned.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program.as_ref());
        command
    }

    /// What a short program on this host prints; an error when it fails.
    pub fn output(&self, program: &str, args: &[&str]) -> Result<String> {
        let output = self.command(program).args(args).stdin(Stdio::null()).output()?;
        ensure!(
            output.status.success(),
            "{}: {program} {args:?}: {}",
            self.role,
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Every rule and route of this host, both families and all tables, as `ip` prints them: to compare before and
    /// after.
    pub fn routes(&self) -> Result<String> {
        let mut text = String::new();
        for args in [
            ["-4", "rule", "show"].as_slice(),
            &["-6", "rule", "show"],
            &["-4", "route", "show", "table", "all"],
            &["-6", "route", "show", "table", "all"],
            &["-brief", "link", "show"],
        ] {
            text.push_str(&self.output("ip", args)?);
        }
        Ok(text)
    }

    /// Runs `f` on a thread inside this namespace. A socket made there belongs to this host for good, whatever thread
    /// uses it later.
    pub fn within<T: Send>(&self, f: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        let namespace = fs::File::open(namespace_path(&self.name))?;
        std::thread::scope(|scope| {
            scope
                .spawn(move || {
                    setns(namespace, CloneFlags::CLONE_NEWNET)?;
                    f()
                })
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("the thread inside the namespace panicked")))
        })
    }

    /// A listener on this host, for tokio.
    pub fn listen(&self, addr: SocketAddr) -> Result<tokio::net::TcpListener> {
        let listener = self
            .within(|| TcpListener::bind(addr))
            .with_context(|| format!("{}: listen on {addr}", self.role))?;
        listener.set_nonblocking(true)?;
        Ok(tokio::net::TcpListener::from_std(listener)?)
    }

    /// A UDP socket bound on this host, for tokio.
    pub fn udp(&self, addr: SocketAddr) -> Result<tokio::net::UdpSocket> {
        let socket = self
            .within(|| UdpSocket::bind(addr))
            .with_context(|| format!("{}: bind UDP {addr}", self.role))?;
        socket.set_nonblocking(true)?;
        Ok(tokio::net::UdpSocket::from_std(socket)?)
    }

    /// Connects from this host.
    pub async fn connect(&self, addr: SocketAddr) -> io::Result<TcpStream> {
        let socket =
            self.within(|| if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() })?;
        socket.connect(addr).await
    }

    /// Connects from this host, and fails with `TimedOut` when that takes longer than `limit`.
    pub async fn connect_within(&self, addr: SocketAddr, limit: Duration) -> io::Result<TcpStream> {
        tokio::time::timeout(limit, self.connect(addr))
            .await
            .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "no answer to the SYN")))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Dropping must not fail; the next world's sweep retries what is left once this process is gone.
        let _ = remove(&self.name);
    }
}

/// The address of either family that a test names by its number: 4 or 6.
pub fn api_address(port: u16) -> [SocketAddr; 2] {
    [SocketAddr::new(IpAddr::V4(API_V4), port), SocketAddr::new(IpAddr::V6(API_V6), port)]
}

fn namespace_path(name: &str) -> PathBuf {
    Path::new("/run/netns").join(name)
}

/// Where `ip netns exec` finds a host's own files of `/etc`.
fn etc(name: &str) -> PathBuf {
    Path::new("/etc/netns").join(name)
}

fn ip(args: &[&str]) -> Result<String> {
    let output = Command::new("ip").args(args).output().context("run ip (package iproute2)")?;
    if !output.status.success() {
        bail!("ip {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Kills what runs in a namespace and removes it; its veth pairs go with it.
fn remove(name: &str) -> Result<()> {
    for pid in ip(&["netns", "pids", name])?.split_whitespace() {
        if let Ok(pid) = pid.parse::<i32>()
            && pid != std::process::id().cast_signed()
        {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
    let _ = fs::remove_dir_all(etc(name));
    ip(&["netns", "del", name]).map(drop)
}

/// Removes the namespaces of processes that are gone.
fn sweep() {
    let Ok(names) = fs::read_dir("/run/netns") else { return };
    for name in names.flatten() {
        let name = name.file_name().to_string_lossy().into_owned();
        let mut parts = name.split('-');
        let (Some(PREFIX), Some(pid), Some(start)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        let (Ok(pid), Ok(start)) = (pid.parse(), start.parse::<u64>()) else { continue };
        if start_time(pid).ok() != Some(start) {
            // Another process may sweep at the same time: gone is what we want.
            let _ = remove(&name);
        }
    }
}

/// When a process started, in clock ticks since boot: tells it from a later one with the same id. proc(5), field 22.
fn start_time(pid: u32) -> Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The second field is the program's name in brackets, which may hold spaces and brackets.
    let (_, fields) = stat.rsplit_once(')').context("/proc/PID/stat has a name in brackets")?;
    Ok(fields.split_whitespace().nth(19).context("/proc/PID/stat has 22 fields")?.parse()?)
}
