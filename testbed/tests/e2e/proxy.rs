//! An agent without root and without an interface: kubectl and other programs come to its proxy.

use std::time::Duration;

use adit_testbed::chain::Chain;
use adit_testbed::cluster::{Cluster, Family};
use adit_testbed::kubectl::Kubectl;
use adit_testbed::net::api_address;
use adit_testbed::origin::{self, Origin};
use adit_testbed::process::{Process, built};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::kubectl::check_all;

const PROXY: &str = "127.0.0.1:1080";
const PORT: u16 = 9000;
const CLOSED_PORT: u16 = 9001;
const LIMIT: Duration = Duration::from_secs(20);

/// `adit agent run` on the laptop as a program that has no capability at all.
fn spawn_agent(chain: &Chain, proxy: &str) -> Process {
    let mut command = chain.world.laptop.command("setpriv");
    command.args(["--bounding-set=-all", "--inh-caps=-all"]).arg(built("adit").unwrap());
    command.args(["agent", "run", "--proxy", proxy, "--state"]).arg(chain.agent_state());
    Process::spawn("agent", chain.dir(), command).unwrap()
}

async fn start() -> Chain {
    let mut chain = Chain::with_connectors(1).await.unwrap();
    let mut agent = spawn_agent(&chain, PROXY);
    let deadline = Instant::now() + LIMIT;
    while let Err(error) = chain.agent_status().await {
        assert!(agent.is_running() && Instant::now() < deadline, "{error}: {:?}", agent.output());
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    chain.agent = Some(agent);
    chain.enroll().await.unwrap();
    chain.wait_for_agent("connected").await.unwrap();
    chain
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_works_through_socks_and_through_http_connect() {
    let chain = start().await;
    let before = chain.world.laptop.routes().unwrap();
    let cluster = Cluster::start(&chain.world, &chain.dir().join("cluster")).await.unwrap();
    let kubectl = Kubectl::main().unwrap();
    for scheme in ["socks5", "http"] {
        for family in Family::BOTH {
            let session = cluster.session(&chain.world.laptop, kubectl.clone(), family).unwrap();
            let direct = session.output(&["get", "--raw", "/version"], "").await.unwrap();
            assert!(!direct.status.success(), "there is no other way to the API server");
            let session = session.with_proxy(&format!("{scheme}://{PROXY}"));
            if family == Family::V4 {
                check_all(&session).await;
            } else {
                let namespaces = session.run(&["get", "namespaces", "-o", "name"], "").await.unwrap();
                assert!(namespaces.contains("namespace/default\n"), "{namespaces}");
            }
        }
    }
    assert_eq!(chain.world.laptop.routes().unwrap(), before, "nothing of the host's network is touched");
}

/// A SOCKS5 connection through the laptop's proxy, and the code of the answer.
async fn socks(chain: &Chain, address: std::net::SocketAddr) -> (TcpStream, u8) {
    let mut stream = chain.world.laptop.connect(PROXY.parse().unwrap()).await.unwrap();
    let mut request = vec![5, 1, 0, 5, 1, 0];
    match address.ip() {
        std::net::IpAddr::V4(ip) => request.extend([&[1][..], &ip.octets()].concat()),
        std::net::IpAddr::V6(ip) => request.extend([&[4][..], &ip.octets()].concat()),
    }
    request.extend(address.port().to_be_bytes());
    stream.write_all(&request).await.unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    (stream, answer[3])
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_carries_bytes_unchanged_and_tells_refusals_in_its_own_words() {
    let chain = start().await;
    let _origin = Origin::start(&chain.world.cluster, &api_address(PORT)).unwrap();
    let status = chain.agent_status().await.unwrap();
    assert_eq!((&status["proxy"], &status["interface"]), (&PROXY.into(), &serde_json::Value::Null));
    assert!(chain.agent_command(&["status"]).await.unwrap().contains("Mode:   proxy"));
    for address in api_address(PORT) {
        let (stream, code) = socks(&chain, address).await;
        assert_eq!(code, 0, "{address}");
        origin::check_upload(stream, 5_000_000).await.unwrap();
        let (stream, _) = socks(&chain, address).await;
        origin::check_download(stream, 5_000_000).await.unwrap();
    }
    for address in api_address(CLOSED_PORT) {
        assert_eq!(socks(&chain, address).await.1, 5, "{address}: connection refused");
    }
    assert_eq!(socks(&chain, "198.18.0.1:80".parse().unwrap()).await.1, 3, "network unreachable");
    let mut stream = chain.world.laptop.connect(PROXY.parse().unwrap()).await.unwrap();
    stream.write_all(b"CONNECT 198.18.0.1:80 HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 502 Bad Gateway\r\nadit-refusal: unroutable\r\n"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_others_could_reach_is_refused_on_one_line() {
    let chain = Chain::new().unwrap();
    for address in ["0.0.0.0:1080", "[::]:1080", "192.0.2.2:1080"] {
        let mut agent = spawn_agent(&chain, address);
        agent.wait_for_line("not a loopback address", LIMIT).await.unwrap();
        let status = agent.wait(LIMIT).await.unwrap();
        assert!(!status.success());
        assert_eq!(agent.output().len(), 1, "{:?}", agent.output());
    }
}
