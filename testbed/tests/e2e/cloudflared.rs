//! An unmodified cloudflared as the connector, when `CLOUDFLARED` names one.

use std::fs;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use adit_testbed::chain::{Chain, Tunnel};
use adit_testbed::net::{EDGE_INNER_V4, Host, PRIVATE_V4, PRIVATE_V6, api_address};
use adit_testbed::origin::{self, Origin};
use adit_testbed::process::Process;
use nix::sys::signal::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const PORT: u16 = 9000;
const CLOSED_PORT: u16 = 9;
const LIMIT: Duration = Duration::from_secs(20);
/// A datagram may be lost: it is sent again after so long.
const AGAIN: Duration = Duration::from_millis(300);

/// The whole path with a cloudflared in the place of our connectors.
struct Path {
    connector: Process,
    /// Where it runs.
    _pod: Host,
    tunnel: Tunnel,
    chain: Chain,
}

impl Path {
    /// `None`, said aloud, if there is no cloudflared.
    async fn start(protocol: &str, args: &str) -> Option<Self> {
        let Some(cloudflared) = std::env::var_os("CLOUDFLARED") else {
            eprintln!("SKIPPED: CLOUDFLARED names no cloudflared");
            return None;
        };
        let mut chain = Chain::new().unwrap();
        chain.start_edge().await.unwrap();
        let tunnel = chain.create_tunnel("api-zt").await.unwrap();
        chain.create_route(&tunnel, PRIVATE_V4).await.unwrap();
        chain.create_route(&tunnel, PRIVATE_V6).await.unwrap();
        let pod = chain.world.pod(0).unwrap();
        let connector = spawn(&chain, &pod, &tunnel, &cloudflared, protocol, args);
        if let Err(error) = chain.wait_for_connections(&tunnel, 2).await {
            panic!("{error:#}\n{}", connector.output().join("\n"));
        }
        chain.start_agent().await.unwrap();
        chain.enroll().await.unwrap();
        chain.wait_for_agent("connected").await.unwrap();
        Some(Self { connector, _pod: pod, tunnel, chain })
    }

    fn laptop(&self) -> &Host {
        &self.chain.world.laptop
    }

    async fn carries_tcp(&self, refused: ErrorKind) {
        let _origin = Origin::start(&self.chain.world.cluster, &api_address(PORT)).unwrap();
        for address in api_address(PORT) {
            let stream = self.laptop().connect_within(address, LIMIT).await.unwrap();
            origin::check_download(stream, 10_000_000).await.unwrap();
            // A cloudflared drops the flow at the first end: the edge holds the laptop's back, and the echo still arrives.
            let stream = self.laptop().connect_within(address, LIMIT).await.unwrap();
            let mut stream = origin::open_echo(stream).await.unwrap();
            stream.write_all(b"the last words").await.unwrap();
            stream.shutdown().await.unwrap();
            let mut echo = [0; 14];
            tokio::time::timeout(LIMIT, stream.read_exact(&mut echo)).await.unwrap().unwrap();
            assert_eq!(&echo, b"the last words");
        }
        for address in api_address(CLOSED_PORT) {
            let error = self.laptop().connect_within(address, LIMIT).await.unwrap_err();
            assert_eq!(error.kind(), refused, "{address}");
        }
    }

    async fn carries_udp(&self) {
        for address in api_address(PORT) {
            let origin = self.chain.world.cluster.udp(address).unwrap();
            tokio::spawn(async move {
                let mut buffer = vec![0; 65_536];
                while let Ok((length, peer)) = origin.recv_from(&mut buffer).await {
                    let _ = origin.send_to(&buffer[..length], peer).await;
                }
            });
            let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = self.laptop().udp(any.parse::<SocketAddr>().unwrap()).unwrap();
            socket.connect(address).await.unwrap();
            for size in [0, 1, 1000] {
                let question = vec![7; size];
                let answered = async {
                    let mut answer = vec![0; 2048];
                    loop {
                        socket.send(&question).await.unwrap();
                        let received = tokio::time::timeout(AGAIN, socket.recv(&mut answer)).await;
                        if let Ok(Ok(length)) = received
                            && answer[..length] == question
                        {
                            return;
                        }
                    }
                };
                tokio::time::timeout(LIMIT, answered).await.unwrap_or_else(|_| panic!("{address} {size}"));
            }
        }
    }

    fn carries_echoes(&self) {
        for address in api_address(0) {
            let ip = address.ip().to_string();
            let pinged = self.laptop().output("ping", &["-c", "5", "-i", "0.2", "-w", "10", &ip]);
            let output = pinged.unwrap_or_else(|error| panic!("{error:#}"));
            assert!(output.contains(" 0% packet loss"), "{output}");
        }
    }

    /// It says farewell when it is asked to stop.
    async fn leaves(&self) {
        self.connector.signal(Signal::SIGTERM).unwrap();
        self.chain.wait_for_connections(&self.tunnel, 0).await.unwrap();
    }

    async fn stops(mut self) {
        assert!(self.connector.wait(LIMIT).await.unwrap().success(), "a graceful stop ends with 0");
    }
}

fn spawn(
    chain: &Chain,
    pod: &Host,
    tunnel: &Tunnel,
    cloudflared: &std::ffi::OsStr,
    protocol: &str,
    args: &str,
) -> Process {
    let credentials = chain.dir().join("creds.json");
    fs::write(&credentials, tunnel.credentials.to_string()).unwrap();
    let config = chain.dir().join("cloudflared.yaml");
    // With a single address it would redial without a pause (tunnel protocol, 1.2).
    let text = format!(
        "tunnel: {}\ncredentials-file: {}\nmetrics: 127.0.0.1:8081\nwarp-routing:\n    enabled: true\n\
         edge: ['{EDGE_INNER_V4}:7844', '{EDGE_INNER_V4}:7844']\ncacert: {}\nprotocol: {protocol}\n\
         no-autoupdate: true\nno-prechecks: true\ngrace-period: 2s\n",
        tunnel.id,
        credentials.display(),
        chain.data().join("ca.pem").display(),
    );
    fs::write(&config, text).unwrap();
    // It looks names up before its first dial, and waits long for a resolver that does not answer: here one refuses at
    // once. The pod's namespace has mounts of its own.
    let resolver = chain.dir().join("resolv.conf");
    fs::write(&resolver, "nameserver 127.0.0.1\n").unwrap();
    // Who may send echo requests: every group, as on hosts where ping needs no privilege.
    pod.sysctl("ipv4/ping_group_range", "0 2147483647").unwrap();
    let mut command = pod.command("sh");
    let script = r#"mount --bind "$1" /etc/resolv.conf; exec "$2" tunnel --config "$3" run $4"#;
    command.args(["-ec", script, "sh"]).arg(&resolver).arg(cloudflared).arg(&config).arg(args);
    Process::spawn("cloudflared", chain.dir(), command).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unmodified_cloudflared_carries_flows_over_quic() {
    let Some(path) = Path::start("quic", "").await else { return };
    path.carries_tcp(ErrorKind::ConnectionRefused).await;
    path.carries_udp().await;
    path.carries_echoes();
    path.leaves().await;
    path.stops().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unmodified_cloudflared_carries_udp_and_ping_in_datagrams_of_the_third_generation() {
    let Some(path) = Path::start("quic", "--features support_datagram_v3_2").await else { return };
    path.carries_udp().await;
    path.carries_echoes();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unmodified_cloudflared_carries_flows_over_http2() {
    let Some(path) = Path::start("http2", "").await else { return };
    // What went wrong it does not say (tunnel protocol, 5.6).
    path.carries_tcp(ErrorKind::HostUnreachable).await;
    // Over HTTP/2 it then waits for its last flow, however long that takes.
    path.leaves().await;
}
