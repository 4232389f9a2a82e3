//! An unmodified cloudflared as the connector, when `CLOUDFLARED` names one.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use adit_model::{Protocol, Record, Refusal};
use adit_transport::WriteChunk as _;
use adit_transport::datagram::{Packet, ReceivePacket as _, SendPacket as _};
use base64::Engine as _;
use bytes::Bytes;
use http::StatusCode;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, UdpSocket};
use tokio::process::{Child, Command};

use super::{
    ACCOUNT, Bench, SECRET, echo, exchange, read_all, read_some, tcp_echo, tunnel_id, udp_echo, within,
};

/// One that runs, and its files.
struct Cloudflared {
    child: Child,
    dir: tempfile::TempDir,
}

/// Where it is; `None`, said aloud, if there is none.
fn program() -> Option<std::ffi::OsString> {
    let program = std::env::var_os("CLOUDFLARED");
    if program.is_none() {
        eprintln!("SKIPPED: CLOUDFLARED names no cloudflared");
    }
    program
}

impl Cloudflared {
    fn start(bench: &Bench, protocol: &str, ingress: &str, args: &[&str]) -> Option<Self> {
        Self::start_with(bench, protocol, ingress, args, SECRET)
    }

    fn start_with(
        bench: &Bench,
        protocol: &str,
        ingress: &str,
        args: &[&str],
        secret: &[u8],
    ) -> Option<Self> {
        let program = program()?;
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            std::fs::write(dir.path().join(name), text).unwrap();
            dir.path().join(name).display().to_string()
        };
        let secret = base64::engine::general_purpose::STANDARD.encode(secret);
        let credentials = file(
            "creds.json",
            &format!(
                r#"{{"AccountTag":"{ACCOUNT}","TunnelSecret":"{secret}","TunnelID":"{}"}}"#,
                tunnel_id()
            ),
        );
        let ca = file("ca.pem", &bench.authority);
        let edge = bench.edge.tunnel();
        let config = file(
            "config.yaml",
            &format!(
                "tunnel: {}\ncredentials-file: {credentials}\nmetrics: 127.0.0.1:0\nedge: ['{edge}', '{edge}']\n\
                 cacert: {ca}\nprotocol: {protocol}\nno-autoupdate: true\nno-prechecks: true\n\
                 grace-period: 1s\nwarp-routing:\n  enabled: true\n{ingress}",
                tunnel_id()
            ),
        );
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        let child = Command::new(program)
            .args(["tunnel", "--loglevel", "debug", "--config", &config, "run"])
            .args(args)
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Some(Self { child, dir })
    }

    /// A 2022.5.3, when `CLOUDFLARED_OLD` names one. Where no names can be looked up it takes QUIC only with a token
    /// (tunnel protocol, section 9).
    fn start_old(bench: &Bench) -> Option<Self> {
        let Some(program) = std::env::var_os("CLOUDFLARED_OLD") else {
            eprintln!(
                "SKIPPED: CLOUDFLARED_OLD names no cloudflared; a peer made from the contract takes its place"
            );
            return None;
        };
        let dir = tempfile::tempdir().unwrap();
        let (config, ca) = (dir.path().join("config.yaml"), dir.path().join("ca.pem"));
        std::fs::write(&config, "warp-routing:\n  enabled: true\n").unwrap();
        std::fs::write(&ca, &bench.authority).unwrap();
        let base64 = base64::engine::general_purpose::STANDARD;
        let secret = base64.encode(SECRET);
        let token = base64.encode(format!(r#"{{"a":"{ACCOUNT}","t":"{}","s":"{secret}"}}"#, tunnel_id()));
        let edge = bench.edge.tunnel().to_string();
        let child = Command::new(program)
            .args(["tunnel", "--no-autoupdate", "--metrics", "127.0.0.1:0", "--edge", &edge, "--edge", &edge])
            .arg("--cacert")
            .arg(ca)
            .arg("--config")
            .arg(config)
            .arg("run")
            .env("TUNNEL_TOKEN", token)
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(dir.path().join("log")).unwrap())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Some(Self { child, dir })
    }

    /// As an operator would, once: a second signal would end it at once.
    fn terminate(&self) {
        let id = self.child.id().unwrap().to_string();
        assert!(std::process::Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    }

    fn log(path: &Path) -> String {
        std::fs::read_to_string(path.join("log")).unwrap_or_default()
    }
}

impl Drop for Cloudflared {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- cloudflared\n{}", Self::log(self.dir.path()));
        }
    }
}

/// An HTTP origin that answers each connection once: the head of the request as the body.
async fn http_origin() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut stream = BufReader::new(stream);
                let (mut head, mut line) = (String::new(), String::new());
                while stream.read_line(&mut line).await.unwrap_or(0) > 2 {
                    head.push_str(&line);
                    line.clear();
                }
                let answer = if head.to_lowercase().contains("upgrade: websocket") {
                    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                     Sec-WebSocket-Accept: a\r\n\r\n"
                        .to_owned()
                } else {
                    format!(
                        "HTTP/1.1 201 Created\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nContent-Length: {}\r\n\r\n{head}",
                        head.len()
                    )
                };
                let mut stream = stream.into_inner();
                let _ = stream.write_all(answer.as_bytes()).await;
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    address
}

async fn tcp_flows(protocol: &str, args: &[&str]) {
    let mut bench = Bench::start().await;
    let Some(mut connector) = Cloudflared::start(&bench, protocol, "", args) else { return };
    bench.connections(2).await;
    let destination = tcp_echo().await;
    let mut dialled = bench.dial(destination).await.unwrap();
    assert_eq!(echo(&mut dialled, b"over the tunnel").await, "over the tunnel");
    let closed = "127.0.0.1:9".parse().unwrap();
    let refused = bench.dial(closed).await.unwrap_err();
    let expected = if protocol == "quic" { Refusal::Refused } else { Refusal::ConnectorError };
    assert_eq!(refused.refusal, expected, "{}", refused.detail);

    // It leaves: no new flows, and the one that is open goes on for the grace period.
    connector.terminate();
    bench.connections(0).await;
    assert_eq!(bench.dial(destination).await.unwrap_err().refusal, Refusal::NoConnection);
    assert_eq!(echo(&mut dialled, b"still here").await, "still here");
    // Over HTTP/2 it waits for its last flow to end.
    dialled.stream.reset();
    drop(dialled);
    assert!(within(connector.child.wait()).await.unwrap().success());
}

#[tokio::test]
async fn tcp_flows_go_through_cloudflared_over_quic() {
    tcp_flows("quic", &[]).await;
}

#[tokio::test]
async fn tcp_flows_go_through_cloudflared_over_http2() {
    tcp_flows("http2", &[]).await;
}

#[tokio::test]
async fn tcp_flows_go_through_cloudflared_with_post_quantum_keys_only() {
    tcp_flows("quic", &["--post-quantum"]).await;
}

async fn udp_flows(args: &[&str]) {
    let mut bench = Bench::start().await;
    let Some(_connector) = Cloudflared::start(&bench, "quic", "", args) else { return };
    bench.connections(2).await;
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let destination = udp_echo(address).await;
        let mut dialled = bench.datagrams(Protocol::Udp, destination).await.unwrap();
        let payload = Bytes::from_static(b"a question");
        assert_eq!(exchange(&mut dialled.far, &payload).await, Packet::Datagram(payload));
        let empty = Bytes::new();
        assert_eq!(exchange(&mut dialled.far, &empty).await, Packet::Datagram(empty));
        let large = Bytes::from(vec![1; 1400]);
        assert_eq!(exchange(&mut dialled.far, &large).await, Packet::Refusal("too-large".into()));
    }
}

#[tokio::test]
async fn udp_goes_through_cloudflared_in_datagrams_of_the_second_generation() {
    udp_flows(&[]).await;
}

#[tokio::test]
async fn udp_goes_through_cloudflared_in_datagrams_of_the_third_generation() {
    udp_flows(&["--features", "support_datagram_v3_2"]).await;
}

#[tokio::test]
async fn tcp_and_udp_go_through_a_cloudflared_of_2022() {
    let mut bench = Bench::start().await;
    let Some(_connector) = Cloudflared::start_old(&bench) else { return };
    bench.connections(2).await;
    let mut dialled = bench.dial(tcp_echo().await).await.unwrap();
    assert_eq!(echo(&mut dialled, b"over the tunnel").await, "over the tunnel");
    let mut flow = bench.datagrams(Protocol::Udp, udp_echo("127.0.0.1:0").await).await.unwrap();
    let payload = Bytes::from_static(b"a question");
    assert_eq!(exchange(&mut flow.far, &payload).await, Packet::Datagram(payload));
}

async fn echoes(args: &[&str]) {
    let mut bench = Bench::start().await;
    let Some(connector) = Cloudflared::start(&bench, "quic", "", args) else { return };
    bench.connections(2).await;
    if Cloudflared::log(connector.dir.path()).contains("ICMP proxy feature is disabled") {
        eprintln!("SKIPPED: net.ipv4.ping_group_range keeps cloudflared from sending echo requests");
        return;
    }
    let destination = "127.0.0.1:0".parse().unwrap();
    let mut first = bench.datagrams(Protocol::Icmp, destination).await.unwrap();
    let mut second = bench.datagrams(Protocol::Icmp, destination).await.unwrap();
    // Two devices, the same id: each gets its own reply.
    for (far, text) in [(&mut first.far, b"first "), (&mut second.far, b"second")] {
        let request = [&[8, 0, 0, 0, 0x12, 0x34, 0, 1], &text[..]].concat();
        let Packet::Datagram(reply) = exchange(far, &request.into()).await else { panic!("a reply") };
        assert_eq!((reply[0], &reply[4..8], &reply[8..]), (0, &[0x12, 0x34, 0, 1][..], &text[..]));
    }
}

#[tokio::test]
async fn echo_requests_go_through_cloudflared_in_datagrams_of_the_second_generation() {
    echoes(&[]).await;
}

#[tokio::test]
async fn echo_requests_go_through_cloudflared_in_datagrams_of_the_third_generation() {
    echoes(&["--features", "support_datagram_v3_2"]).await;
}

/// A session that cloudflared ends, here since its socket hears that the port is closed, is said to the edge by a call.
#[tokio::test]
async fn a_session_that_cloudflared_ends_ends_the_flow() {
    let mut bench = Bench::start().await;
    let Some(_connector) = Cloudflared::start(&bench, "quic", "", &[]) else { return };
    bench.connections(2).await;
    let closed = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let mut dialled = bench.datagrams(Protocol::Udp, closed).await.unwrap();
    let ended = async {
        loop {
            dialled.far.sender.send(Packet::Datagram(Bytes::from_static(b"x"))).await.unwrap();
            let received =
                tokio::time::timeout(Duration::from_millis(100), dialled.far.receiver.receive()).await;
            if let Ok(received) = received {
                assert_eq!(received.unwrap(), None);
                return;
            }
        }
    };
    within(ended).await;
}

async fn requests(protocol: &str) {
    let mut bench = Bench::start().await;
    let origin = http_origin().await;
    let ingress = format!(
        "ingress:\n- hostname: app.example.com\n  service: http://{origin}\n- service: http_status:404\n"
    );
    let Some(_connector) = Cloudflared::start(&bench, protocol, &ingress, &[]) else { return };
    bench.connections(2).await;
    let sent = [("x-of-the-client", "1"), ("cf-cloudflared-proxy-src", "evil"), ("cf-warp-tag-id", "evil")];
    let mut exchange = bench.request("/path?query=1", &sent, false).await;
    exchange.writer.finish().await.unwrap();
    let mut answer = within(exchange.answer.wait()).await.unwrap();
    assert_eq!(answer.status, StatusCode::CREATED);
    assert_eq!(answer.headers.get_all("set-cookie").iter().collect::<Vec<_>>(), ["a=1", "b=2"]);
    let seen = String::from_utf8(read_all(&mut answer.reader).await).unwrap().to_lowercase();
    assert!(seen.starts_with("get /path?query=1 http/1.1\r\nhost: app.example.com\r\n"), "{seen}");
    assert!(seen.contains("x-of-the-client: 1") && !seen.contains("evil"), "{seen}");

    let upgrade = [("upgrade", "websocket"), ("connection", "upgrade"), ("sec-websocket-key", "a")];
    let mut exchange = bench.request("/socket", &upgrade, true).await;
    let mut answer = within(exchange.answer.wait()).await.unwrap();
    assert_eq!(answer.status, StatusCode::SWITCHING_PROTOCOLS);
    exchange.writer.write_chunk(Bytes::from_static(b"frames")).await.unwrap();
    assert_eq!(read_some(&mut answer.reader).await, "frames");
}

#[tokio::test]
async fn requests_go_through_cloudflared_over_quic() {
    requests("quic").await;
}

#[tokio::test]
async fn requests_go_through_cloudflared_over_http2() {
    requests("http2").await;
}

async fn configuration(protocol: &str) {
    let mut bench = Bench::with_tunnel(true).await;
    let origin = http_origin().await;
    let Some(_connector) = Cloudflared::start(&bench, protocol, "", &[]) else { return };
    bench.connections(2).await;
    bench
        .configure(1, &format!(r#"{{"ingress":[{{"service":"http://{origin}"}}],"warp-routing":{{}}}}"#))
        .await;
    let answered = async {
        loop {
            let mut exchange = bench.request("/", &[], false).await;
            exchange.writer.finish().await.unwrap();
            if within(exchange.answer.wait()).await.unwrap().status == StatusCode::CREATED {
                return;
            }
        }
    };
    within(answered).await;
}

#[tokio::test]
async fn cloudflared_takes_a_configuration_over_quic() {
    configuration("quic").await;
}

#[tokio::test]
async fn cloudflared_takes_a_configuration_over_http2() {
    configuration("http2").await;
}

#[tokio::test]
async fn cloudflared_reports_its_own_configuration() {
    let mut bench = Bench::start().await;
    let Some(_connector) = Cloudflared::start(&bench, "quic", "", &[]) else { return };
    loop {
        if let Record::LocalConfiguration(report) = bench.record().await {
            assert_eq!(report.tunnel, tunnel_id());
            assert!(report.config.contains("__configuration_flags"), "{}", report.config);
            return;
        }
    }
}

#[tokio::test]
async fn a_wrong_secret_is_refused_and_cloudflared_tries_again() {
    for protocol in ["quic", "http2"] {
        let bench = Bench::start().await;
        let Some(mut connector) = Cloudflared::start_with(&bench, protocol, "", &[], b"guess") else {
            return;
        };
        let twice = async {
            while Cloudflared::log(connector.dir.path()).matches("Retrying connection").count() < 2 {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        within(twice).await;
        assert!(connector.child.try_wait().unwrap().is_none(), "it goes on trying");
        assert_eq!(bench.edge.connections(), 0);
    }
}

#[tokio::test]
async fn cloudflared_comes_back_after_its_connections_were_closed() {
    for protocol in ["quic", "http2"] {
        let mut bench = Bench::start().await;
        let Some(_connector) = Cloudflared::start(&bench, protocol, "", &[]) else { return };
        bench.connections(2).await;
        bench.edge.shared.connections.close_tunnel(tunnel_id(), None, "test");
        bench.connections(0).await;
        // One of them, or both at once.
        while bench.edge.connections() == 0 {
            bench.record().await;
        }
        let destination = tcp_echo().await;
        let mut dialled = bench.dial(destination).await.unwrap();
        assert_eq!(echo(&mut dialled, b"again").await, "again");
    }
}
