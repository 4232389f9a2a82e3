//! Private names without a route for their addresses: a hostname route leads there (contract D, 6.6; Gateway semantics, 4.5).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use adit_testbed::chain::{Chain, Tunnel};
use adit_testbed::cluster::{API_PORT, Cluster};
use adit_testbed::kubectl::{Kubectl, Session};
use adit_testbed::nameserver::{NameServer, addresses, ask};
use adit_testbed::net::{API_V4, API_V6, EDGE_INNER_V4, Host};
use adit_testbed::origin::{self, Origin};
use adit_testbed::pki::API_NAME;
use adit_testbed::process::Process;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{RData, RecordType};
use http::Method;
use serde_json::json;

use crate::explain::explained;
use crate::gateway::{namespaces, soon};
use crate::records::records;

const RESOLVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(100, 80, 0, 53)), 53);
const PUBLIC: SocketAddr = SocketAddr::new(IpAddr::V4(EDGE_INNER_V4), 53);
/// Whom the connectors' hosts ask.
const PRIVATE: SocketAddr = SocketAddr::new(IpAddr::V4(API_V4), 53);
/// What the world says of the name.
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 99);
const OTHER_NAME: &str = "wiki.cluster.internal";
const PORT: u16 = 9000;

/// An installation whose private network has names, and no route for its addresses.
struct Network {
    chain: Chain,
    tunnel: Tunnel,
    _outside: NameServer,
    inside: NameServer,
}

impl Network {
    async fn without_connectors() -> Self {
        let mut chain = Chain::new().unwrap();
        let outside =
            NameServer::start(&chain.world.edge, &[PUBLIC], vec![(API_NAME, RData::from(OUTSIDE))]).unwrap();
        let zone = vec![
            (API_NAME, RData::from(API_V4)),
            (API_NAME, RData::from(API_V6)),
            (OTHER_NAME, RData::from(API_V4)),
        ];
        let inside = NameServer::start(&chain.world.cluster, &[PRIVATE], zone).unwrap();
        chain.edge_flags = vec!["--dns-upstream".into(), PUBLIC.to_string()];
        chain.start_edge().await.unwrap();
        let tunnel = chain.create_tunnel("api-zt").await.unwrap();
        chain.start_agent().await.unwrap();
        chain.enroll().await.unwrap();
        Self { chain, tunnel, _outside: outside, inside }
    }

    async fn start() -> Self {
        let mut network = Self::without_connectors().await;
        let tunnel = network.tunnel.clone();
        let connector = network.chain.start_connector(&tunnel).unwrap();
        // The connector's host has a resolver like any other host's.
        let pod = &network.chain.connectors[connector].pod;
        std::fs::write(pod.resolv_conf(), format!("nameserver {}\n", PRIVATE.ip())).unwrap();
        network.chain.wait_for_connections(&tunnel, 4).await.unwrap();
        network
    }

    fn laptop(&self) -> &Host {
        &self.chain.world.laptop
    }

    async fn route(&self, hostname: &str) -> String {
        let body = json!({ "hostname": hostname, "tunnel_id": self.tunnel.id });
        let made = self.chain.call(Method::POST, "zerotrust/routes/hostname", Some(&body)).await.unwrap();
        made["id"].as_str().unwrap().to_owned()
    }

    async fn resolved(&self, name: &str, record_type: RecordType) -> Vec<IpAddr> {
        addresses(&ask(self.laptop(), RESOLVER, name, record_type).await.unwrap())
    }

    /// The address that stands for a name, once one does.
    async fn synthetic(&self, name: &str, record_type: RecordType) -> IpAddr {
        let network = if record_type == RecordType::A { "100.80." } else { "fd61:6469:7400:4000:" };
        let stands = async || {
            let found = self.resolved(name, record_type).await;
            found.len() == 1 && found[0].to_string().starts_with(network)
        };
        soon("a name has an address that stands for it", stands).await;
        self.resolved(name, record_type).await[0]
    }
}

/// A whole exchange with the origin there.
async fn reaches(laptop: &Host, address: SocketAddr) {
    let stream = laptop.connect(address).await.unwrap();
    origin::check_download(stream, 100_000).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_kubectl_reaches_a_server_whose_name_alone_has_a_route() {
    let network = Network::start().await;
    let chain = &network.chain;
    let cluster = Cluster::start(&chain.world, chain.dir()).await.unwrap();
    let server = format!("https://{API_NAME}:{API_PORT}");
    let file = chain.dir().join("kubeconfig-by-name");
    let session =
        Session::new(Kubectl::main().unwrap(), Some(network.laptop()), &file, &server, cluster.pki())
            .unwrap();
    assert_eq!(network.resolved(API_NAME, RecordType::A).await, [OUTSIDE]);
    namespaces(&session, &[]).await.unwrap_err();

    let route = network.route(API_NAME).await;
    let v4 = network.synthetic(API_NAME, RecordType::A).await;
    let v6 = network.synthetic(API_NAME, RecordType::AAAA).await;
    soon("kubectl by a name", async || namespaces(&session, &[]).await.is_ok()).await;
    assert!(network.inside.asked().contains(&format!("{API_NAME} A")), "{:?}", network.inside.asked());
    // Nothing of another type leads around it, and what the name is not, it is told not to be.
    assert!(network.resolved(API_NAME, RecordType::HTTPS).await.is_empty());
    let none = ask(network.laptop(), RESOLVER, "nobody.cluster.internal", RecordType::A).await.unwrap();
    assert_eq!(none.metadata.response_code, ResponseCode::NXDomain);

    // Records say both, what stood for the name and what it was.
    let _origin =
        Origin::start(&chain.world.cluster, &[(API_V4, PORT).into(), (API_V6, PORT).into()]).unwrap();
    for (synthetic, real) in [(v4, IpAddr::from(API_V4)), (v6, IpAddr::from(API_V6))] {
        reaches(network.laptop(), (synthetic, PORT).into()).await;
        let query = format!("destination_ip={real}");
        let ended = async || {
            let found = records(chain, "zero_trust_network_sessions", &query).await;
            found.into_iter().find(|record| record["DestinationPort"] == PORT)
        };
        soon("recorded", async || ended().await.is_some()).await;
        let record = ended().await.unwrap();
        assert_eq!(record["ResolvedFQDN"], API_NAME, "{record:#}");
        assert_eq!(record["InitialOriginIP"], synthetic.to_string());
        assert_eq!(record["OriginIP"], real.to_string());
    }
    let dns = records(chain, "gateway_dns", "").await;
    let told = dns.iter().find(|record| record["InitialResolvedIPs"] == json!([v4.to_string()]));
    assert_eq!(told.unwrap()["ResolvedIPs"], json!([API_V4.to_string()]));

    let told = explained(chain, &[&format!("{API_NAME}:{PORT}")]).await;
    assert_eq!(told["allowed"], true, "{told:#}");
    let steps = told["steps"].as_array().unwrap();
    let named = steps.iter().find(|step| step["step"] == "route").unwrap();
    assert_eq!(named["named"][0], API_NAME);
    assert_eq!(named["tunnel_name"], "api-zt");

    // Rules see the address that the name has.
    let body = json!({
        "name": "not there", "action": "block", "filters": ["l4"], "enabled": true,
        "traffic": format!("net.dst.ip in {{{API_V4} {API_V6}}}"),
    });
    let rule = chain.call(Method::POST, "gateway/rules", Some(&body)).await.unwrap();
    soon("blocked", async || namespaces(&session, &[]).await.is_err()).await;
    let rule = rule["id"].as_str().unwrap();
    chain.call(Method::DELETE, &format!("gateway/rules/{rule}"), None).await.unwrap();
    soon("free", async || namespaces(&session, &[]).await.is_ok()).await;

    // Without the route the name is the world's again, and what stood for it leads nowhere.
    chain.call(Method::DELETE, &format!("zerotrust/routes/hostname/{route}"), None).await.unwrap();
    soon("gone", async || network.resolved(API_NAME, RecordType::A).await == [OUTSIDE]).await;
    network.laptop().connect((v4, PORT).into()).await.unwrap_err();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_keeps_its_address_when_the_edge_starts_anew_and_a_wildcard_holds_every_name_below() {
    let mut network = Network::start().await;
    let _origin = Origin::start(&network.chain.world.cluster, &[(API_V4, PORT).into()]).unwrap();
    network.route(API_NAME).await;
    let address = network.synthetic(API_NAME, RecordType::A).await;
    reaches(network.laptop(), (address, PORT).into()).await;
    network.chain.edge.as_mut().unwrap().kill().await.unwrap();
    network.chain.start_edge().await.unwrap();
    network.chain.wait_for_agent("connected").await.unwrap();
    network.chain.wait_for_connections(&network.tunnel, 4).await.unwrap();
    // A program that asked before goes on using what it was told.
    reaches(network.laptop(), (address, PORT).into()).await;
    assert_eq!(network.synthetic(API_NAME, RecordType::A).await, address);

    network.route("*.cluster.internal").await;
    let other = network.synthetic(OTHER_NAME, RecordType::A).await;
    assert_ne!(other, address);
    reaches(network.laptop(), (other, PORT).into()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unmodified_cloudflared_serves_hostname_routes() {
    let Some(cloudflared) = std::env::var_os("CLOUDFLARED") else {
        return eprintln!("SKIPPED: CLOUDFLARED names no cloudflared");
    };
    for protocol in ["quic", "http2"] {
        let mut network = Network::without_connectors().await;
        let _origin = Origin::start(&network.chain.world.cluster, &[(API_V4, PORT).into()]).unwrap();
        let config = format!("tunnel: {}\nprotocol: {protocol}\n", network.tunnel.id);
        let chain = &mut network.chain;
        let pod = chain.world.pod(0).unwrap();
        let program = Path::new(&cloudflared);
        let mut command =
            chain.cloudflared(&pod, "cloudflared", program, &config, &network.tunnel.credentials).unwrap();
        command.env("TUNNEL_DNS_RESOLVER_ADDRS", PRIVATE.to_string());
        let connector = Process::spawn("cloudflared", chain.dir(), command).unwrap();
        network.chain.wait_for_connections(&network.tunnel, 4).await.unwrap();
        network.route(API_NAME).await;
        let address = network.synthetic(API_NAME, RecordType::A).await;
        reaches(network.laptop(), (address, PORT).into()).await;
        assert!(network.inside.asked().contains(&format!("{API_NAME} A")), "{protocol}");
        drop((connector, pod));
    }
}
