//! An unmodified cloudflared as the connector, when `CLOUDFLARED` names one.

use std::fs;
use std::io::ErrorKind;
use std::time::Duration;

use adit_testbed::chain::Chain;
use adit_testbed::net::{EDGE_INNER_V4, PRIVATE_V4, PRIVATE_V6, api_address};
use adit_testbed::origin::{self, Origin};
use adit_testbed::process::Process;
use nix::sys::signal::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const PORT: u16 = 9000;
const CLOSED_PORT: u16 = 9;
const LIMIT: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn an_unmodified_cloudflared_carries_flows() {
    let Some(cloudflared) = std::env::var_os("CLOUDFLARED") else {
        eprintln!("SKIPPED: CLOUDFLARED names no cloudflared");
        return;
    };
    let mut chain = Chain::new().unwrap();
    chain.start_edge().await.unwrap();
    let tunnel = chain.create_tunnel("api-zt").await.unwrap();
    chain.create_route(&tunnel, PRIVATE_V4).await.unwrap();
    chain.create_route(&tunnel, PRIVATE_V6).await.unwrap();

    let credentials = chain.dir().join("creds.json");
    fs::write(&credentials, tunnel.credentials.to_string()).unwrap();
    let config = chain.dir().join("cloudflared.yaml");
    // With a single address it would redial without a pause (tunnel protocol, 1.2).
    let text = format!(
        "tunnel: {}\ncredentials-file: {}\nmetrics: 127.0.0.1:8081\nwarp-routing:\n    enabled: true\n\
         edge: ['{EDGE_INNER_V4}:7844', '{EDGE_INNER_V4}:7844']\ncacert: {}\nprotocol: quic\n\
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
    let pod = chain.world.pod(0).unwrap();
    let mut command = pod.command("sh");
    let script = r#"mount --bind "$1" /etc/resolv.conf; exec "$2" tunnel --config "$3" run"#;
    command.args(["-ec", script, "sh"]).arg(&resolver).arg(&cloudflared).arg(&config);
    let mut connector = Process::spawn("cloudflared", chain.dir(), command).unwrap();
    if let Err(error) = chain.wait_for_connections(&tunnel, 2).await {
        panic!("{error:#}\n{}", connector.output().join("\n"));
    }

    chain.start_agent().await.unwrap();
    chain.enroll().await.unwrap();
    chain.wait_for_agent("connected").await.unwrap();
    let _origin = Origin::start(&chain.world.cluster, &api_address(PORT)).unwrap();

    for address in api_address(PORT) {
        let stream = chain.world.laptop.connect_within(address, LIMIT).await.unwrap();
        origin::check_download(stream, 10_000_000).await.unwrap();
        // A cloudflared drops the flow at the first end: the edge holds the laptop's back, and the echo still arrives.
        let stream = chain.world.laptop.connect_within(address, LIMIT).await.unwrap();
        let mut stream = origin::open_echo(stream).await.unwrap();
        stream.write_all(b"the last words").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut echo = [0; 14];
        tokio::time::timeout(LIMIT, stream.read_exact(&mut echo)).await.unwrap().unwrap();
        assert_eq!(&echo, b"the last words");
    }
    for address in api_address(CLOSED_PORT) {
        let error = chain.world.laptop.connect_within(address, LIMIT).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{address}");
    }

    connector.signal(Signal::SIGTERM).unwrap();
    chain.wait_for_connections(&tunnel, 0).await.unwrap();
    assert!(connector.wait(LIMIT).await.unwrap().success(), "a graceful stop ends with 0");
}
