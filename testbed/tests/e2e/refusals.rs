//! Every way in which a flow, a device or a connector is turned away: at once, and in TCP's own words.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use adit_testbed::chain::Chain;
use adit_testbed::net::{UNREACHABLE_V4, api_address};
use adit_testbed::origin::{self, Origin};
use adit_testbed::pki::Pki;
use http::Method;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;

const PORT: u16 = 9000;
const CLOSED_PORT: u16 = 9001;
/// "At once": far below any timeout of TCP or of a dial.
const AT_ONCE: Duration = Duration::from_secs(2);

async fn check_refused(chain: &Chain, address: SocketAddr, want: ErrorKind) {
    let Err(error) = chain.world.laptop.connect_within(address, AT_ONCE).await else {
        panic!("{address} answers")
    };
    assert_eq!(error.kind(), want, "{address}: {error}");
}

async fn check_reachable(chain: &Chain) {
    for address in api_address(PORT) {
        let stream = chain.world.laptop.connect_within(address, AT_ONCE).await;
        let stream = stream.unwrap_or_else(|error| panic!("{address}: {error}"));
        origin::open_echo(stream).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_reachable_without_a_connected_agent() {
    let mut chain = Chain::with_connectors(1).await.unwrap();
    let _origin = Origin::start(&chain.world.cluster, &api_address(PORT)).unwrap();
    let unreachable = async |chain: &Chain| {
        for address in api_address(PORT) {
            check_refused(chain, address, ErrorKind::NetworkUnreachable).await;
        }
    };
    unreachable(&chain).await;
    chain.start_agent().await.unwrap();
    unreachable(&chain).await;
    chain.enroll().await.unwrap();
    chain.wait_for_agent("connected").await.unwrap();
    check_reachable(&chain).await;
    let mut open =
        origin::open_echo(chain.world.laptop.connect(api_address(PORT)[0]).await.unwrap()).await.unwrap();
    chain.agent_command(&["disconnect"]).await.unwrap();
    let ended =
        tokio::time::timeout(AT_ONCE, open.read_u8()).await.expect("an open flow ends with the agent");
    assert_eq!(ended.unwrap_err().kind(), ErrorKind::ConnectionReset);
    unreachable(&chain).await;
    chain.agent_command(&["connect"]).await.unwrap();
    chain.wait_for_agent("connected").await.unwrap();
    check_reachable(&chain).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_that_cannot_be_reached_fails_at_once_in_tcps_words() {
    let chain = Chain::start().await.unwrap();
    let edge = chain.edge.as_ref().unwrap();

    for address in api_address(CLOSED_PORT) {
        let mark = edge.mark();
        check_refused(&chain, address, ErrorKind::ConnectionRefused).await;
        edge.wait_for_line_after(mark, "end=\"refused\"", AT_ONCE).await.unwrap();
    }

    let mark = edge.mark();
    check_refused(&chain, (UNREACHABLE_V4, PORT).into(), ErrorKind::HostUnreachable).await;
    edge.wait_for_line_after(mark, "host-unreachable", AT_ONCE).await.unwrap();

    // Captured by the agent, for once, though no route of the account holds it.
    let interface = chain.agent_interface().unwrap();
    let captured = ["198.18.0.0/24", "169.254.169.0/24"];
    chain
        .world
        .laptop
        .batch(&captured.map(|network| format!("route add {network} dev {interface}")))
        .unwrap();
    for (address, why) in [("198.18.0.1:80", "unroutable"), ("169.254.169.254:80", "never-dialled")] {
        let mark = edge.mark();
        check_refused(&chain, address.parse().unwrap(), ErrorKind::HostUnreachable).await;
        edge.wait_for_line_after(mark, why, AT_ONCE).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_without_connections_fails_at_once_and_a_never_dialled_network_is_no_route() {
    let chain = Chain::start().await.unwrap();
    let edge = chain.edge.as_ref().unwrap();
    let idle = chain.create_tunnel("idle").await.unwrap();
    chain.create_route(&idle, "10.99.0.0/16").await.unwrap();
    wait_for_route(&chain, "10.99.0.0/16").await;
    let mark = edge.mark();
    check_refused(&chain, (Ipv4Addr::new(10, 99, 0, 1), 80).into(), ErrorKind::HostUnreachable).await;
    edge.wait_for_line_after(mark, "no-connection", AT_ONCE).await.unwrap();

    for network in ["127.0.0.0/8", "169.254.0.0/16", "fe80::/10", "224.0.0.0/4", "::ffff:10.0.0.0/104"] {
        let error = chain.create_route(&idle, network).await.unwrap_err();
        assert!(error.to_string().contains("400"), "{network}: {error}");
    }
}

async fn wait_for_route(chain: &Chain, network: &str) {
    let deadline = Instant::now() + AT_ONCE;
    while !chain.world.laptop.routes().unwrap().contains(network) {
        assert!(Instant::now() < deadline, "the agent did not learn of {network}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_device_loses_its_flows_within_a_second_and_gets_no_new_one() {
    let chain = Chain::start().await.unwrap();
    let _origin = Origin::start(&chain.world.cluster, &api_address(PORT)).unwrap();
    let mut streams = Vec::new();
    for address in api_address(PORT) {
        streams.push(origin::open_echo(chain.world.laptop.connect(address).await.unwrap()).await.unwrap());
    }
    let registrations = chain.call(Method::GET, "devices/registrations", None).await.unwrap();
    let [registration] = registrations.as_array().unwrap().as_slice() else { panic!("{registrations}") };
    let id = registration["id"].as_str().unwrap();
    chain.call(Method::POST, &format!("devices/registrations/revoke?id={id}"), None).await.unwrap();
    for stream in &mut streams {
        let ended = tokio::time::timeout(Duration::from_secs(1), stream.read(&mut [0; 1])).await;
        assert!(!matches!(ended.expect("the flow ends within a second"), Ok(1..)));
    }
    for address in api_address(PORT) {
        let error = chain.world.laptop.connect_within(address, AT_ONCE).await.unwrap_err();
        assert_ne!(error.kind(), ErrorKind::TimedOut, "{address}");
    }
    let status = chain.agent_status().await.unwrap();
    assert_ne!(status["state"], "connected");
}

/// A connector that is turned away says `want`, and the edge never counts it.
async fn check_connector(chain: &mut Chain, config: &str, credentials: &Value, ca: &Path, want: &str) {
    let connector = chain.spawn_connector(config, credentials, ca).unwrap();
    connector.process.wait_for_line(want, Duration::from_secs(15)).await.unwrap();
    let tunnels = chain.call(Method::GET, "cfd_tunnel?is_deleted=false", None).await.unwrap();
    for tunnel in tunnels.as_array().unwrap() {
        assert_eq!(tunnel["connections"], json!([]), "{want}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connector_with_a_wrong_secret_tunnel_or_ca_never_registers_and_says_why() {
    let mut chain = Chain::new().unwrap();
    chain.start_edge().await.unwrap();
    let tunnel = chain.create_tunnel("api-zt").await.unwrap();
    let ca = chain.data().join("ca.pem");
    let config = |id: &str| {
        format!("tunnel: {id}\ncredentials-file: /opt/zt/creds/creds.json\nmetrics: 0.0.0.0:8081\n")
    };

    let mut wrong = tunnel.credentials.clone();
    wrong["TunnelSecret"] = json!("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=");
    check_connector(&mut chain, &config(&tunnel.id), &wrong, &ca, "Unauthorized").await;

    let unknown = uuid::Uuid::new_v4().to_string();
    let mut wrong = tunnel.credentials.clone();
    wrong["TunnelID"] = json!(unknown);
    check_connector(&mut chain, &config(&unknown), &wrong, &ca, "Unauthorized").await;

    let other_ca = Pki::open(&chain.dir().join("other")).unwrap().ca();
    check_connector(&mut chain, &config(&tunnel.id), &tunnel.credentials, &other_ca, "certificate").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_with_a_wrong_secret_or_ca_does_not_enrol() {
    let mut chain = Chain::new().unwrap();
    chain.start_edge().await.unwrap();
    chain.start_agent().await.unwrap();
    let token = chain.create_service_token().await.unwrap();
    let ca = chain.data().join("ca.pem");

    let (id, _) = token.split_once(':').unwrap();
    let wrong = chain.enroll_args(&format!("{id}:{}", "0".repeat(64)), &ca);
    let error = chain.agent_command(&wrong).await.unwrap_err();
    assert!(!error.to_string().contains(&"0".repeat(64)), "the secret is in {error}");

    let other_ca = Pki::open(&chain.dir().join("other")).unwrap().ca();
    let error = chain.agent_command(&chain.enroll_args(&token, &other_ca)).await.unwrap_err();
    assert!(error.to_string().contains("certificate"), "{error}");

    let registrations = chain.call(Method::GET, "devices/registrations", None).await.unwrap();
    assert_eq!(registrations, json!([]));
    // The right ones still do.
    chain.agent_command(&chain.enroll_args(&token, &ca)).await.unwrap();
    let registrations = chain.call(Method::GET, "devices/registrations", None).await.unwrap();
    assert_eq!(registrations.as_array().unwrap().len(), 1);
}
