//! The agent's two carriers, HTTP/2 and QUIC: what each carries, and how the agent chooses between them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use adit_testbed::chain::Chain;
use adit_testbed::net::{LAPTOP_LINK, api_address};
use adit_testbed::origin::{self, Origin};
use tokio::net::TcpStream;

const PORT: u16 = 9000;
const LIMIT: Duration = Duration::from_secs(20);
/// Within which the agent changes over.
const CHANGE_LIMIT: Duration = Duration::from_secs(2);
/// What the edge drops when one of the carriers is blocked.
const TCP: &str = "tcp dport 443";
const UDP: &str = "udp dport 443";
/// One packet in twenty.
const LOSS: &str = "numgen random mod 100 < 5";

/// A chain whose agent is started with these flags.
async fn start(flags: &[&str]) -> (Chain, Origin) {
    let mut chain = Chain::with_connectors(1).await.unwrap();
    let origin = Origin::start(&chain.world.cluster, &api_address(PORT)).unwrap();
    chain.start_agent_with(flags).await.unwrap();
    (chain, origin)
}

async fn connect(chain: &Chain, address: SocketAddr) -> TcpStream {
    chain
        .world
        .laptop
        .connect_within(address, LIMIT)
        .await
        .unwrap_or_else(|error| panic!("{address}: {error}"))
}

async fn echo(chain: &Chain) {
    for address in api_address(PORT) {
        let mut stream = origin::open_echo(connect(chain, address).await).await.unwrap();
        origin::check_echo(&mut stream, b"anybody there?").await.unwrap();
    }
}

async fn wait_for_transport(chain: &Chain, transport: &str, limit: Duration) {
    let start = Instant::now();
    loop {
        let status = chain.agent_status().await.unwrap();
        if status["transport"] == transport {
            return;
        }
        assert!(start.elapsed() < limit, "not over {transport} within {limit:?}: {status}");
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn either_carrier_carries_all_that_flows_need() {
    for transport in ["h2", "quic"] {
        let (mut chain, mut origin) = start(&["--transport", transport]).await;
        chain.enroll().await.unwrap();
        let status = chain.wait_for_agent("connected").await.unwrap();
        assert_eq!(status["transport"], transport);
        echo(&chain).await;
        for address in api_address(PORT) {
            // Needs a half-closed flow, and the flow's end at the service.
            origin::check_upload(connect(&chain, address).await, 10_000_000).await.unwrap();
            origin::check_download(connect(&chain, address).await, 10_000_000).await.unwrap();
            // A reset at one end is one at the other.
            let stream = origin::open_echo(connect(&chain, address).await).await.unwrap();
            stream.set_zero_linger().unwrap();
            drop(stream);
            let reset = async {
                while origin.ended.recv().await.unwrap().error != Some(std::io::ErrorKind::ConnectionReset) {}
            };
            tokio::time::timeout(LIMIT, reset).await.expect("the reset at the service");
            let closed = SocketAddr::new(address.ip(), PORT + 1);
            let refused = chain.world.laptop.connect_within(closed, LIMIT).await.unwrap_err();
            assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn either_carrier_carries_datagrams_of_every_size() {
    for transport in ["h2", "quic"] {
        let (mut chain, _origin) = start(&["--transport", transport]).await;
        chain.enroll().await.unwrap();
        chain.wait_for_agent("connected").await.unwrap();
        for address in api_address(PORT) {
            let server = chain.world.cluster.udp(address).unwrap();
            let answering = tokio::spawn(async move {
                let mut buffer = vec![0; 65_536];
                while let Ok((length, from)) = server.recv_from(&mut buffer).await {
                    if server.send_to(&buffer[..length], from).await.is_err() {
                        return;
                    }
                }
            });
            let any: IpAddr =
                if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
            let client = chain.world.laptop.udp(SocketAddr::new(any, 0)).unwrap();
            client.connect(address).await.unwrap();
            let mut buffer = vec![0; 65_536];
            for size in [1, 0, 1000, 1200, 1500, 9000, 65_000] {
                let sent = vec![7; size];
                client.send(&sent).await.unwrap();
                let received = tokio::time::timeout(LIMIT, client.recv(&mut buffer)).await;
                let length = received.unwrap_or_else(|_| panic!("{size} bytes over {transport}")).unwrap();
                assert!(buffer[..length] == sent, "{size} bytes over {transport} came back as {length}");
            }
            answering.abort();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_udp_is_blocked_the_agent_uses_http2() {
    let (mut chain, _origin) = start(&[]).await;
    chain.world.edge.drop_incoming(&[UDP]).unwrap();
    chain.enroll().await.unwrap();
    assert_eq!(chain.wait_for_agent("connected").await.unwrap()["transport"], "h2");
    echo(&chain).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_tcp_stops_new_flows_go_over_quic_within_two_seconds() {
    let (mut chain, _origin) = start(&[]).await;
    chain.enroll().await.unwrap();
    assert_eq!(chain.wait_for_agent("connected").await.unwrap()["transport"], "h2");
    wait_for_both(&chain).await;
    let address = api_address(PORT)[0];
    let mut before = origin::open_echo(connect(&chain, address).await).await.unwrap();
    chain.world.edge.drop_incoming(&[TCP]).unwrap();
    let stopped = Instant::now();
    let mut after = origin::open_echo(connect(&chain, address).await).await.unwrap();
    origin::check_echo(&mut after, b"still there?").await.unwrap();
    let took = stopped.elapsed();
    eprintln!("a flow over QUIC {took:?} after TCP stopped");
    assert!(took < CHANGE_LIMIT, "{took:?}");
    wait_for_transport(&chain, "quic", CHANGE_LIMIT).await;
    // What was open on the carrier that stopped is ended, and its program told.
    let told = tokio::time::timeout(LIMIT, origin::check_echo(&mut before, b"and you?")).await;
    assert!(told.expect("the older flow ends").is_err());
    // And with nothing but QUIC, the agent starts too.
    let mut agent = chain.agent.take().unwrap();
    agent.stop().await.unwrap();
    chain.start_agent().await.unwrap();
    assert_eq!(chain.wait_for_agent("connected").await.unwrap()["transport"], "quic");
    echo(&chain).await;
}

/// Waits until the edge has both carriers of the device.
async fn wait_for_both(chain: &Chain) {
    let start = Instant::now();
    let connected = |carrier: &str| {
        let lines = chain.edge.as_ref().unwrap().output();
        lines.iter().any(|line| line.contains("device connected") && line.contains(carrier))
    };
    while !(connected("h2") && connected("quic")) {
        assert!(start.elapsed() < LIMIT, "the device does not connect both carriers");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn when_udp_stops_new_flows_go_over_http2_within_two_seconds() {
    let (mut chain, _origin) = start(&[]).await;
    // TCP is lossy, so that QUIC is chosen.
    chain.world.edge.drop_incoming(&[LOSS]).unwrap();
    chain.world.laptop.drop_incoming(&[&format!("iifname {LAPTOP_LINK} {LOSS}")]).unwrap();
    chain.enroll().await.unwrap();
    chain.wait_for_agent("connected").await.unwrap();
    wait_for_transport(&chain, "quic", LIMIT).await;
    echo(&chain).await;
    chain.world.laptop.drop_incoming(&[]).unwrap();
    chain.world.edge.drop_incoming(&[UDP]).unwrap();
    let stopped = Instant::now();
    let address = api_address(PORT)[0];
    origin::open_echo(connect(&chain, address).await).await.unwrap();
    let took = stopped.elapsed();
    eprintln!("a flow over HTTP/2 {took:?} after UDP stopped");
    assert!(took < CHANGE_LIMIT, "{took:?}");
    wait_for_transport(&chain, "h2", CHANGE_LIMIT).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lossy_network_is_given_quic_and_remembered() {
    let (mut chain, _origin) = start(&[]).await;
    chain.world.edge.drop_incoming(&[LOSS]).unwrap();
    chain.world.laptop.drop_incoming(&[&format!("iifname {LAPTOP_LINK} {LOSS}")]).unwrap();
    chain.enroll().await.unwrap();
    chain.wait_for_agent("connected").await.unwrap();
    wait_for_transport(&chain, "quic", LIMIT).await;
    echo(&chain).await;
    // Written once the choice has proved itself.
    let file = chain.agent_state().join("networks.json");
    let remembered = tokio::time::timeout(LIMIT, async {
        loop {
            let networks = std::fs::read_to_string(&file).unwrap_or_default();
            if networks.contains("192.0.2.2") && networks.contains("quic") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    });
    remembered.await.unwrap();
    // Known now, and clean: it begins with QUIC, and would measure before it changed its mind.
    chain.world.edge.drop_incoming(&[]).unwrap();
    chain.world.laptop.drop_incoming(&[]).unwrap();
    let mut agent = chain.agent.take().unwrap();
    agent.stop().await.unwrap();
    chain.start_agent().await.unwrap();
    chain.wait_for_agent("connected").await.unwrap();
    wait_for_transport(&chain, "quic", LIMIT).await;
}
