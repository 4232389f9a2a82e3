//! Devices without the agent: names over HTTPS, by curl, and over TLS, from the networks that a DNS location names.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use adit_testbed::api::Api;
use adit_testbed::chain::{CONNECTIONS, Chain};
use adit_testbed::dns_over_tls::DnsOverTls;
use adit_testbed::nameserver::{NameServer, addresses, extended_error, query};
use adit_testbed::net::{API_V4, EDGE_INNER_V4, EDGE_V4, Namespace, PRIVATE_V4};
use adit_testbed::pki::API_NAME;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{RData, RecordType};
use http::Method;
use serde_json::{Value, json};

use crate::accounts;
use crate::gateway::{ENFORCED, soon};
use crate::records::record;

const DOMAIN: &str = "dns.adit.example";
/// Of the installation: what a public resolver is elsewhere.
const PUBLIC: SocketAddr = SocketAddr::new(IpAddr::V4(EDGE_INNER_V4), 53);
/// In the private network.
const PRIVATE: SocketAddr = SocketAddr::new(IpAddr::V4(API_V4), 53);
/// What stands for the name outside.
const WWW: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 80);
const NOWHERE: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
/// The laptop's network, and not the cluster's.
const OFFICE: &str = "192.0.2.0/24";

/// An edge with resolvers outside and, behind a tunnel, inside. Nobody has an agent.
struct Network {
    chain: Chain,
    _outside: NameServer,
    _inside: NameServer,
}

/// What a request brought.
#[derive(Debug)]
struct Got {
    status: u16,
    version: String,
    kind: String,
    cache: String,
    body: Vec<u8>,
}

impl Got {
    fn answer(&self) -> Message {
        assert_eq!((self.status, self.kind.as_str()), (200, "application/dns-message"), "{}", self.text());
        Message::from_vec(&self.body).unwrap()
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Network {
    async fn start() -> Self {
        let mut chain = Chain::new().unwrap();
        let outside = vec![("www.example.com", RData::from(WWW))];
        let outside = NameServer::start(&chain.world.edge, &[PUBLIC], outside).unwrap();
        let inside = vec![(API_NAME, RData::from(API_V4))];
        let inside = NameServer::start(&chain.world.cluster, &[PRIVATE], inside).unwrap();
        let flags = ["--dns-upstream", &PUBLIC.to_string(), "--dot", "[::]:853", "--dns-domain", DOMAIN];
        chain.edge_flags = flags.map(str::to_owned).to_vec();
        chain.start_edge().await.unwrap();
        Self { chain, _outside: outside, _inside: inside }
    }

    async fn connect_cluster(&mut self) {
        let chain = &mut self.chain;
        let tunnel = chain.create_tunnel("api-zt").await.unwrap();
        chain.create_route(&tunnel, PRIVATE_V4).await.unwrap();
        chain.start_connector(&tunnel).unwrap();
        chain.wait_for_connections(&tunnel, CONNECTIONS).await.unwrap();
    }

    fn laptop(&self) -> &Namespace {
        &self.chain.world.laptop
    }

    fn elsewhere(&self) -> &Namespace {
        &self.chain.world.cluster
    }

    fn ca(&self) -> PathBuf {
        self.chain.data().join("ca.pem")
    }

    async fn make(&self, path: &str, body: Value) -> Value {
        self.chain.call(Method::POST, path, Some(&body)).await.unwrap()
    }

    async fn location(&self, body: Value) -> Location {
        Location::of(&self.make("gateway/locations", body).await)
    }

    async fn block(&self, traffic: &str) -> String {
        let rule = json!({ "name": "no", "action": "block", "filters": ["dns"], "enabled": true, "traffic": traffic });
        self.make("gateway/rules", rule).await["id"].as_str().unwrap().to_owned()
    }

    async fn remove(&self, path: &str) {
        self.chain.call(Method::DELETE, path, None).await.unwrap();
    }

    /// curl on a host of the world, as it is told nothing but where the location's host is and whom to trust.
    fn curl(&self, host: &Namespace, location: &Location, arguments: &[&str]) -> std::process::Output {
        let edge = if std::ptr::eq(host, self.elsewhere()) { EDGE_INNER_V4 } else { EDGE_V4 };
        let mut command = host.command("curl");
        command
            .args(["--silent", "--show-error", "--max-time", "10", "--noproxy", "*", "--cacert"])
            .arg(self.ca());
        command.args(["--resolve", &format!("{}:443:{edge}", location.host)]).args(arguments);
        command.output().unwrap()
    }

    fn get(&self, host: &Namespace, location: &Location, path: &str, arguments: &[&str]) -> Got {
        const SHOWN: &str =
            "%{stderr}%{http_code}\n%{http_version}\n%{content_type}\n%header{cache-control}\n";
        let url = format!("https://{}{path}", location.host);
        let output = self.curl(host, location, &[&["--write-out", SHOWN, &url], arguments].concat());
        let shown = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{shown}");
        let [status, version, kind, cache] =
            shown.lines().map(str::to_owned).collect::<Vec<_>>().try_into().unwrap();
        Got { status: status.parse().unwrap(), version, kind, cache, body: output.stdout }
    }

    /// Asks by the URL, as curl does it over HTTP/2.
    fn ask(&self, host: &Namespace, location: &Location, name: &str, record_type: RecordType) -> Got {
        let path = format!("/dns-query?dns={}", URL_SAFE_NO_PAD.encode(bytes(name, record_type)));
        self.get(host, location, &path, &[])
    }

    fn answered(&self, location: &Location, name: &str) -> Vec<IpAddr> {
        addresses(&self.ask(self.laptop(), location, name, RecordType::A).answer())
    }

    async fn connect(
        &self,
        host: &Namespace,
        name: &str,
        protocol: Option<&str>,
    ) -> anyhow::Result<DnsOverTls> {
        let edge = if std::ptr::eq(host, self.elsewhere()) { EDGE_INNER_V4 } else { EDGE_V4 };
        DnsOverTls::connect(host, (edge, 853).into(), name, &self.ca(), protocol).await
    }
}

struct Location {
    id: String,
    host: String,
    label: String,
}

impl Location {
    fn of(made: &Value) -> Self {
        let text = |key: &str| made[key].as_str().unwrap().to_owned();
        let (id, host, label) = (text("id"), text("x_hostname"), text("doh_subdomain"));
        assert_eq!(host, format!("{label}.{DOMAIN}"));
        Self { id, host, label }
    }
}

/// A query as RFC 8484 wants it: with the number 0.
fn bytes(name: &str, record_type: RecordType) -> Vec<u8> {
    let mut query = query(name, record_type).unwrap();
    query.metadata.id = 0;
    query.to_vec().unwrap()
}

fn office(name: &str) -> Value {
    json!({ "name": name, "networks": [{ "network": OFFICE }] })
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_answered_over_https_to_a_named_network_by_rules_and_through_the_tunnel() {
    let mut network = Network::start().await;
    network.connect_cluster().await;
    let location = network.location(office("office")).await;
    soon("answered", async || {
        network.ask(network.laptop(), &location, "www.example.com", RecordType::A).status == 200
    })
    .await;
    let got = network.ask(network.laptop(), &location, "www.example.com", RecordType::A);
    assert_eq!(addresses(&got.answer()), [WWW]);
    let age = got.cache.strip_prefix("private, max-age=").unwrap().parse::<u32>().unwrap();
    assert!((1..=30).contains(&age) && got.version == "2", "{got:?}");

    // As a body, and over HTTP/1.1.
    let file = network.chain.dir().join("query");
    std::fs::write(&file, bytes("www.example.com", RecordType::A)).unwrap();
    let (body, kind) = (format!("@{}", file.display()), "content-type: application/dns-message");
    for (version, flag) in [("2", "--http2"), ("1.1", "--http1.1")] {
        let arguments = [flag, "--data-binary", &body, "--header", kind];
        let got = network.get(network.laptop(), &location, "/dns-query", &arguments);
        assert_eq!((addresses(&got.answer()), got.version.as_str()), (vec![WWW.into()], version));
    }

    // curl's own resolver, which is what a user would use.
    let doh = format!("https://{}/dns-query", location.host);
    let arguments = ["--verbose", "--connect-timeout", "2", "--doh-url", &doh, "http://www.example.com/"];
    let output = network.curl(network.laptop(), &location, &arguments);
    let shown = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(shown.contains(&format!("Trying {WWW}:80")), "{shown}");

    // From elsewhere nobody is answered, and told why.
    let got = network.ask(network.elsewhere(), &location, "www.example.com", RecordType::A);
    assert_eq!(got.status, 403);
    assert!(got.text().contains("is in none of the networks of this DNS location"), "{}", got.text());

    // A private name, by a resolver behind the tunnel.
    let resolver = json!({ "ip": API_V4, "route_through_private_network": true });
    network
        .make(
            "gateway/rules",
            json!({
                "name": "cluster names", "action": "resolve", "filters": ["dns_resolver"], "enabled": true,
                "traffic": "any(dns.domains[*] == \"cluster.internal\")",
                "rule_settings": { "dns_resolvers": { "ipv4": [resolver] } },
            }),
        )
        .await;
    soon("resolved inside", async || network.answered(&location, API_NAME) == [API_V4]).await;

    // A rule that names the location blocks there, and nowhere else; its record names both.
    let other = network.location(office("another office")).await;
    let edge = network.chain.edge.as_ref().unwrap();
    let mark = edge.mark();
    let rule = network.block(&format!("dns.location == \"{}\"", location.id.replace('-', ""))).await;
    soon("blocked", async || network.answered(&location, API_NAME) == [NOWHERE]).await;
    let blocked = network.ask(network.laptop(), &location, API_NAME, RecordType::A);
    assert_eq!(extended_error(&blocked.answer()), Some(17));
    assert_eq!(blocked.cache, "private, max-age=60");
    assert_eq!(network.answered(&other, API_NAME), [API_V4]);
    let line = edge.wait_for_line_after(mark, "decision=\"blocked-by-query\"", ENFORCED).await.unwrap();
    assert!(line.contains(&location.id) && line.contains("protocol=\"https\""), "{line}");
    let record = record(&network.chain, "gateway_dns", &format!("policy_id={rule}")).await;
    for (field, expected) in [
        ("LocationID", location.id.as_str()),
        ("Location", "office"),
        ("DoHSubdomain", &location.label),
        ("DoTSubdomain", ""),
        ("Protocol", "https"),
        ("SrcIP", "192.0.2.2"),
        ("PolicyID", &rule),
        ("DeviceID", ""),
    ] {
        assert_eq!(record[field].as_str().unwrap_or_default(), expected, "{field}: {record}");
    }
    network.remove(&format!("gateway/rules/{rule}")).await;
    let rule = network.block(&format!("dns.doh_subdomain == \"{}\"", other.label)).await;
    soon("blocked by its label", async || network.answered(&other, API_NAME) == [NOWHERE]).await;
    network.remove(&format!("gateway/rules/{rule}")).await;

    // A location that is gone has no host.
    network.remove(&format!("gateway/locations/{}", location.id)).await;
    let gone = async || {
        let output = network.curl(network.laptop(), &location, &[&doh]);
        !output.status.success()
    };
    soon("gone", gone).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_query_over_https_is_told_what_was_expected() {
    let network = Network::start().await;
    let location = network.location(office("office")).await;
    let get = |path: &str, arguments: &[&str]| network.get(network.laptop(), &location, path, arguments);
    soon("there", async || get("/", &[]).status == 404).await;
    let file = network.chain.dir().join("long");
    std::fs::write(&file, [0; 5000]).unwrap();
    let long = format!("@{}", file.display());
    let kind = "content-type: application/dns-message";
    let check = |path: &str, arguments: &[&str], status: u16, part: &str| {
        let got = get(path, arguments);
        assert!(
            got.status == status && got.text().contains(part),
            "{path} {arguments:?}: {got:?} {}",
            got.text()
        );
    };
    check("/other", &[], 404, "/dns-query");
    check("/dns-query", &[], 400, "?dns=");
    check("/dns-query?name=www.example.com&type=A", &[], 400, "?dns=");
    check("/dns-query?dns=AA==", &[], 400, "base64url");
    check("/dns-query?dns=AAAA", &[], 400, "expected a DNS query");
    check(&format!("/dns-query?dns={}", "A".repeat(6000)), &[], 414, "longer than 4096");
    check("/dns-query", &["--data-binary", &long, "--header", kind], 413, "longer than 4096");
    check("/dns-query", &["--data", "x"], 415, "application/dns-message");
    check("/dns-query", &["--request", "PUT"], 405, "GET or POST");
    check("/dns-query", &["--header", "host: other.example"], 421, "another host name");
    // What is a query and cannot be resolved is answered as the protocol says.
    let answer = network.ask(network.laptop(), &location, "example.com", RecordType::AXFR).answer();
    assert_eq!(answer.metadata.response_code, ResponseCode::Refused);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_location_that_asks_for_a_token_answers_its_holder_from_everywhere_and_nobody_else() {
    let network = Network::start().await;
    let endpoints = json!({ "doh": { "enabled": true, "require_token": true }, "dot": { "enabled": false } });
    let mut body = office("travellers");
    body["endpoints"] = endpoints;
    let location = network.location(body).await;
    let made = network.make("access/service_tokens", json!({ "name": "traveller" })).await;
    let text = |key: &str| made[key].as_str().unwrap().to_owned();
    let (id, secret) = (text("client_id"), text("client_secret"));
    let path = format!("/dns-query?dns={}", URL_SAFE_NO_PAD.encode(bytes("www.example.com", RecordType::A)));
    let ask = |host: &Namespace, arguments: &[&str]| network.get(host, &location, &path, arguments);
    let (user, wrong) = (format!("{id}:{secret}"), format!("{id}:{secret}x"));
    soon("answered", async || ask(network.elsewhere(), &["--user", &user]).status == 200).await;
    assert_eq!(addresses(&ask(network.elsewhere(), &["--user", &user]).answer()), [WWW]);
    let headers = [format!("CF-Access-Client-Id: {id}"), format!("CF-Access-Client-Secret: {secret}")];
    let headers = ["--header", &headers[0], "--header", &headers[1]];
    assert_eq!(addresses(&ask(network.laptop(), &headers).answer()), [WWW]);
    // The network alone is not enough, nor is another secret, nor another account's token.
    let none = ask(network.laptop(), &[]);
    assert!(none.status == 403 && none.text().contains("CF-Access-Client-Id"), "{}", none.text());
    assert_eq!(ask(network.laptop(), &["--user", &wrong]).status, 403);
    let another = accounts::create(&network.chain, "another");
    let api = accounts::api_of(&network.chain, &another);
    let foreign = token(&network, &api).await;
    assert_eq!(ask(network.laptop(), &["--user", &foreign]).status, 403);
    let record = record(&network.chain, "gateway_dns", "").await;
    assert_eq!(record["Email"], format!("non_identity@{}", network.chain.api().unwrap().account()));
    // It is off over TLS, whoever asks, and a token that is deleted is good for nothing.
    network.connect(network.laptop(), &location.host, Some("dot")).await.unwrap_err();
    network.remove(&format!("access/service_tokens/{}", text("id"))).await;
    soon("refused", async || ask(network.elsewhere(), &["--user", &user]).status == 403).await;
}

async fn token(network: &Network, api: &Api) -> String {
    let body = json!({ "name": "x" });
    let made =
        api.result(&network.chain.world.edge, Method::POST, "access/service_tokens", Some(&body)).await;
    let made = made.unwrap();
    format!("{}:{}", made["client_id"].as_str().unwrap(), made["client_secret"].as_str().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_answered_over_tls_in_any_order_and_to_nobody_from_elsewhere() {
    let mut network = Network::start().await;
    network.connect_cluster().await;
    let location = network.location(office("office")).await;
    let laptop = || network.laptop();
    soon("connected", async || network.connect(laptop(), &location.host, Some("dot")).await.is_ok()).await;
    let mut stream = network.connect(laptop(), &location.host, Some("dot")).await.unwrap();
    assert_eq!(addresses(&stream.ask("www.example.com", RecordType::A).await.unwrap()), [WWW]);
    // Who offers no protocol is served; who speaks another one is not.
    network.connect(laptop(), &location.host, None).await.unwrap();
    network.connect(laptop(), &location.host, Some("h2")).await.unwrap_err();

    // A silent resolver holds up its own query and no other.
    let silent = json!({ "ip": "198.51.100.66", "route_through_private_network": true });
    network
        .make(
            "gateway/rules",
            json!({
                "name": "slow names", "action": "resolve", "filters": ["dns_resolver"], "enabled": true,
                "traffic": "any(dns.domains[*] == \"slow.internal\")",
                "rule_settings": { "dns_resolvers": { "ipv4": [silent] } },
            }),
        )
        .await;
    let rule = network.block("dns.fqdn == \"blocked.example.com\"").await;
    soon("blocked", async || {
        let answer = network.connect(laptop(), &location.host, Some("dot")).await.unwrap();
        let mut answer = answer;
        addresses(&answer.ask("blocked.example.com", RecordType::A).await.unwrap()) == [NOWHERE]
    })
    .await;
    let queries = [
        ("a.slow.internal", RecordType::A),
        ("www.example.com", RecordType::A),
        ("blocked.example.com", RecordType::A),
    ];
    stream.send(&queries).await.unwrap();
    let mut order = Vec::new();
    for _ in &queries {
        let answer = stream.receive().await.unwrap();
        let expected = match answer.metadata.id {
            1 => ResponseCode::ServFail,
            _ => ResponseCode::NoError,
        };
        assert_eq!(answer.metadata.response_code, expected, "{answer}");
        order.push(answer.metadata.id);
    }
    assert_eq!(order.last(), Some(&1), "{order:?}");
    let record = record(&network.chain, "gateway_dns", &format!("policy_id={rule}")).await;
    assert_eq!(record["PolicyID"], rule);
    assert_eq!(
        [&record["Protocol"], &record["DoTSubdomain"], &record["LocationID"]],
        [&json!("tls"), &json!(location.label), &json!(location.id)]
    );

    // A name that is no location's, no name, and a network that is not named: no handshake.
    for name in [format!("other.{DOMAIN}"), DOMAIN.to_owned(), EDGE_V4.to_string()] {
        network.connect(laptop(), &name, Some("dot")).await.unwrap_err();
    }
    network.connect(network.elsewhere(), &location.host, Some("dot")).await.unwrap_err();

    // Who is connected when the network is taken away is told so.
    let path = format!("gateway/locations/{}", location.id);
    let moved = json!({ "name": "office", "networks": [{ "network": "198.51.100.0/24" }] });
    network.chain.call(Method::PUT, &path, Some(&moved)).await.unwrap();
    let mut last = None;
    soon("refused", async || {
        let answer = stream.ask("www.example.com", RecordType::A).await.unwrap();
        let refused = answer.metadata.response_code == ResponseCode::Refused;
        last = Some(answer);
        refused
    })
    .await;
    assert_eq!(extended_error(&last.unwrap()), Some(18));
    network.connect(laptop(), &location.host, Some("dot")).await.unwrap_err();
    network.remove(&path).await;
    soon("cut", async || stream.ask("www.example.com", RecordType::A).await.is_err()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_location_knows_the_rules_of_its_own_account_only() {
    let network = Network::start().await;
    let own = network.location(office("office")).await;
    let another = accounts::create(&network.chain, "another");
    let api = accounts::api_of(&network.chain, &another);
    let made = api
        .result(&network.chain.world.edge, Method::POST, "gateway/locations", Some(&office("office")))
        .await
        .unwrap();
    let theirs = Location::of(&made);
    assert_ne!(own.label, theirs.label);
    network.block("dns.fqdn == \"www.example.com\"").await;
    soon("blocked", async || network.answered(&own, "www.example.com") == [NOWHERE]).await;
    assert_eq!(network.answered(&theirs, "www.example.com"), [WWW]);
    let found = api.result(&network.chain.world.edge, Method::GET, "gateway/locations", None).await.unwrap();
    assert!(!found.to_string().contains(&own.label), "{found}");
}
