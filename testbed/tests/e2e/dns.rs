//! Names: a kubeconfig that names its server by host name, and what rules do about names.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Instant;

use adit_testbed::chain::Chain;
use adit_testbed::cluster::{API_PORT, Cluster, Family};
use adit_testbed::kubectl::{Kubectl, Session};
use adit_testbed::nameserver::{NameServer, Zone, addresses, ask, extended_error};
use adit_testbed::net::{API_V4, API_V6, EDGE_INNER_V4, NO_RESOLVER};
use adit_testbed::pki::API_NAME;
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{RData, RecordType};
use http::Method;
use serde_json::{Value, json};

use crate::gateway::{ENFORCED, namespaces, soon};

/// The agent's resolver.
const RESOLVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(100, 80, 0, 53)), 53);
const RESOLVER_V6: SocketAddr =
    SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0xfd61, 0x6469, 0x7400, 0, 0, 0, 0, 0x53)), 53);
/// Of the installation: what a public resolver is elsewhere.
const PUBLIC: SocketAddr = SocketAddr::new(IpAddr::V4(EDGE_INNER_V4), 53);
/// In the private network.
const PRIVATE: SocketAddr = SocketAddr::new(IpAddr::V4(API_V4), 53);

/// What stands for the name outside: an address that nothing here may lead to.
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 99);

fn public_zone() -> Zone {
    vec![
        (API_NAME, RData::from(OUTSIDE)),
        ("www.example.com", RData::from(Ipv4Addr::new(203, 0, 113, 80))),
        ("late.cluster.internal", RData::from(OUTSIDE)),
    ]
}

fn private_zone() -> Zone {
    let mut zone = vec![(API_NAME, RData::from(API_V4)), (API_NAME, RData::from(API_V6))];
    zone.extend(
        (1..=100).map(|last| ("many.cluster.internal", RData::from(Ipv4Addr::new(198, 51, 100, last)))),
    );
    zone
}

/// Everything, with resolvers outside and inside.
struct Network {
    chain: Chain,
    outside: NameServer,
    inside: Option<NameServer>,
}

impl Network {
    async fn start() -> Self {
        let mut chain = Chain::new().unwrap();
        let outside = NameServer::start(&chain.world.edge, &[PUBLIC], public_zone()).unwrap();
        let inside = NameServer::start(&chain.world.cluster, &[PRIVATE], private_zone()).unwrap();
        chain.edge_flags = vec!["--dns-upstream".into(), PUBLIC.to_string()];
        chain.start_all().await.unwrap();
        Self { chain, outside, inside: Some(inside) }
    }

    async fn ask(&self, name: &str, record_type: RecordType) -> Message {
        ask(&self.chain.world.laptop, RESOLVER, name, record_type).await.unwrap()
    }

    async fn rule(&self, body: Value) -> String {
        let made = self.chain.call(Method::POST, "gateway/rules", Some(&body)).await.unwrap();
        assert_eq!(made["warning_status"], Value::Null, "{made}");
        made["id"].as_str().unwrap().to_owned()
    }

    async fn dns_rule(&self, name: &str, action: &str, traffic: &str) -> String {
        let body = json!({ "name": name, "action": action, "filters": ["dns"], "enabled": true, "traffic": traffic });
        self.rule(body).await
    }

    /// Has the names of the cluster resolved inside.
    async fn resolve_inside(&self) -> String {
        let resolver = json!({ "ip": API_V4, "route_through_private_network": true });
        self.rule(json!({
            "name": "cluster names", "action": "resolve", "filters": ["dns_resolver"], "enabled": true,
            "traffic": "any(dns.domains[*] == \"cluster.internal\")",
            "rule_settings": { "dns_resolvers": { "ipv4": [resolver] } },
        }))
        .await
    }

    async fn remove(&self, rule: &str) {
        self.chain.call(Method::DELETE, &format!("gateway/rules/{rule}"), None).await.unwrap();
    }
}

/// An engineer whose kubeconfig has the server's name.
fn by_name<'a>(network: &'a Network, cluster: &Cluster) -> Session<'a> {
    let path = network.chain.dir().join("kubeconfig-by-name");
    let server = format!("https://{API_NAME}:{API_PORT}");
    let laptop = &network.chain.world.laptop;
    Session::new(Kubectl::main().unwrap(), Some(laptop), &path, &server, cluster.pki()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_kubectl_reaches_a_server_by_its_private_name_unless_a_rule_blocks_the_name() {
    let network = Network::start().await;
    let chain = &network.chain;
    let cluster = Cluster::start(&chain.world, chain.dir()).await.unwrap();
    let session = by_name(&network, &cluster);
    assert_eq!(addresses(&network.ask(API_NAME, RecordType::A).await), [OUTSIDE], "by no rule it is public");
    network.resolve_inside().await;
    soon("resolved inside", async || addresses(&network.ask(API_NAME, RecordType::A).await) == [API_V4])
        .await;
    assert_eq!(addresses(&network.ask(API_NAME, RecordType::AAAA).await), [API_V6]);
    namespaces(&session, &[]).await.unwrap();
    let asked = network.inside.as_ref().unwrap().asked();
    assert!(asked.contains(&format!("{API_NAME} AAAA")), "{asked:?}");

    // Worked case 8 of the Gateway semantics: a name is blocked, its address is not.
    let edge = chain.edge.as_ref().unwrap();
    let (mark, began) = (edge.mark(), Instant::now());
    let block = network.dns_rule("no cluster", "block", &format!("dns.fqdn == \"{API_NAME}\"")).await;
    soon("blocked", async || namespaces(&session, &[]).await.is_err()).await;
    eprintln!("kubectl by name is blocked {} ms after the rule was asked for", began.elapsed().as_millis());
    let line = edge.wait_for_line_after(mark, "decision=\"blocked-by-query\"", ENFORCED).await.unwrap();
    assert!(line.contains(&block), "the record names the rule: {line}");
    let by_address = cluster.session(&chain.world.laptop, Kubectl::main().unwrap(), Family::V4).unwrap();
    namespaces(&by_address, &[]).await.unwrap();
    for (record_type, expected) in [
        (RecordType::A, vec![IpAddr::from([0; 4])]),
        (RecordType::AAAA, vec![IpAddr::from([0; 16])]),
        (RecordType::HTTPS, vec![]),
    ] {
        let answer = network.ask(API_NAME, record_type).await;
        assert_eq!(addresses(&answer), expected, "{record_type}");
        assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
        assert_eq!(extended_error(&answer), Some(17));
    }
    network.remove(&block).await;
    soon("free", async || namespaces(&session, &[]).await.is_ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_private_resolver_does_not_answer_nobody_answers() {
    let mut network = Network::start().await;
    network.resolve_inside().await;
    soon("resolved inside", async || addresses(&network.ask(API_NAME, RecordType::A).await) == [API_V4])
        .await;
    // What does not fit into a datagram is asked for again on a stream, all the way.
    assert_eq!(addresses(&network.ask("many.cluster.internal", RecordType::A).await).len(), 100);
    // Both addresses of the agent's resolver answer.
    let laptop = &network.chain.world.laptop;
    let answer = ask(laptop, RESOLVER_V6, "www.example.com", RecordType::A).await.unwrap();
    assert_eq!(addresses(&answer), [Ipv4Addr::new(203, 0, 113, 80)]);

    // Worked case 12: the resolver is down.
    network.inside.take().unwrap().stop().await;
    let edge = network.chain.edge.as_ref().unwrap();
    let mark = edge.mark();
    let began = Instant::now();
    let answer = network.ask("late.cluster.internal", RecordType::A).await;
    eprintln!("a resolver that is down is told after {} ms", began.elapsed().as_millis());
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(addresses(&answer), [] as [IpAddr; 0]);
    assert!(matches!(extended_error(&answer), Some(22 | 23)), "{answer}");
    let line = edge.wait_for_line_after(mark, "name=\"late.cluster.internal\"", ENFORCED).await.unwrap();
    assert!(line.contains("resolver_rule=") && line.contains(&PRIVATE.to_string()), "{line}");
    let asked = network.outside.asked();
    assert!(!asked.iter().any(|asked| asked.starts_with("late.")), "nobody else was asked: {asked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_on_types_answers_and_names_are_told_apart() {
    let network = Network::start().await;
    network.resolve_inside().await;
    soon("resolved inside", async || addresses(&network.ask(API_NAME, RecordType::A).await) == [API_V4])
        .await;
    // Worked case 11.
    let rule = network.dns_rule("no IPv6", "block", "dns.query_rtype == \"AAAA\"").await;
    let nowhere = [IpAddr::from([0; 16])];
    soon("no AAAA", async || addresses(&network.ask(API_NAME, RecordType::AAAA).await) == nowhere).await;
    assert_eq!(addresses(&network.ask(API_NAME, RecordType::A).await), [API_V4]);
    network.remove(&rule).await;
    // Worked cases 9 and 10: what the answer holds is asked later than what was asked.
    let inside = "any(dns.resolved_ips[*] in {198.51.100.0/24})";
    let block = network.dns_rule("nothing private", "block", inside).await;
    let blocked = [IpAddr::from([0; 4])];
    soon("blocked by its address", async || {
        addresses(&network.ask(API_NAME, RecordType::A).await) == blocked
    })
    .await;
    let allow = network.dns_rule("but this", "allow", &format!("dns.fqdn == \"{API_NAME}\"")).await;
    soon("allowed by its name", async || addresses(&network.ask(API_NAME, RecordType::A).await) == [API_V4])
        .await;
    network.remove(&block).await;
    network.remove(&allow).await;
    let elsewhere = network
        .rule(json!({
            "name": "elsewhere", "action": "override", "enabled": true, "traffic": "dns.fqdn == \"www.example.com\"",
            "rule_settings": { "override_host": API_NAME },
        }))
        .await;
    soon("another name", async || {
        let answer = network.ask("www.example.com", RecordType::A).await;
        addresses(&answer) == [API_V4] && answer.answers.len() == 2
    })
    .await;
    network.remove(&elsewhere).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_systems_resolvers_come_back_and_answer_only_what_is_left_to_them() {
    let mut chain = Chain::new().unwrap();
    let outside = NameServer::start(&chain.world.edge, &[PUBLIC], public_zone()).unwrap();
    // On the laptop's network: what its system has asked before.
    let lan: SocketAddr = "192.0.2.2:53".parse().unwrap();
    let zone = vec![
        ("printer.lan", RData::from(Ipv4Addr::new(192, 0, 2, 77))),
        ("www.example.com", RData::from(OUTSIDE)),
    ];
    let local = NameServer::start(&chain.world.laptop, &[lan], zone).unwrap();
    let before = format!("# a network's\nnameserver {}\nsearch lan\n", lan.ip());
    std::fs::write(chain.world.laptop.resolv_conf(), &before).unwrap();
    chain.edge_flags = vec!["--dns-upstream".into(), PUBLIC.to_string()];
    chain.start_edge().await.unwrap();
    let flags = ["--dns-fallback", "lan"];
    chain.start_agent_with(&flags).await.unwrap();
    let now = |chain: &Chain| std::fs::read_to_string(chain.world.laptop.resolv_conf()).unwrap();
    assert_eq!(now(&chain), before, "nothing is changed before the device is connected");
    chain.enroll().await.unwrap();
    let ours = |chain: &Chain| {
        now(chain).contains("nameserver 100.80.0.53\nnameserver fd61:6469:7400::53\nsearch lan\n")
    };
    soon("pointed to the agent", async || ours(&chain)).await;

    let laptop = &chain.world.laptop;
    let printer = ask(laptop, RESOLVER, "printer.lan", RecordType::A).await.unwrap();
    assert_eq!(addresses(&printer), [Ipv4Addr::new(192, 0, 2, 77)]);
    let public = ask(laptop, RESOLVER, "www.example.com", RecordType::A).await.unwrap();
    assert_eq!(addresses(&public), [Ipv4Addr::new(203, 0, 113, 80)], "by the edge");
    assert_eq!(outside.asked(), ["www.example.com A"]);
    assert_eq!(local.asked(), ["printer.lan A"]);

    // Killed, it leaves the system pointed to nobody; the next start puts that right before anything else.
    chain.agent.as_mut().unwrap().kill().await.unwrap();
    assert!(ours(&chain));
    chain.start_agent_with(&flags).await.unwrap();
    soon("pointed again", async || ours(&chain)).await;

    // Without the edge nobody answers in its place, and soon.
    chain.edge.as_mut().unwrap().kill().await.unwrap();
    let laptop = &chain.world.laptop;
    let answered = async |name| ask(laptop, RESOLVER, name, RecordType::A).await.unwrap();
    let began = Instant::now();
    assert_eq!(answered("www.example.com").await.metadata.response_code, ResponseCode::ServFail);
    eprintln!("without the edge a name fails after {} ms", began.elapsed().as_millis());
    assert_eq!(addresses(&answered("printer.lan").await), [Ipv4Addr::new(192, 0, 2, 77)]);
    assert!(!local.asked().contains(&"www.example.com A".to_owned()));

    // Somebody else's file is what comes back.
    let other = format!("# another network's\nnameserver {}\n", lan.ip());
    std::fs::write(chain.world.laptop.resolv_conf(), &other).unwrap();
    soon("pointed once more", async || now(&chain).contains("nameserver 100.80.0.53\n")).await;
    chain.agent.as_mut().unwrap().stop().await.unwrap();
    assert_eq!(now(&chain), other);
    assert!(!chain.agent_state().join("resolv-conf.json").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_accounts_fallback_domains_are_asked_past_the_edge_and_its_rules() {
    let mut chain = Chain::new().unwrap();
    let outside = NameServer::start(&chain.world.edge, &[PUBLIC], public_zone()).unwrap();
    let lan: SocketAddr = "192.0.2.2:53".parse().unwrap();
    let zone = vec![("printer.corp.example", RData::from(Ipv4Addr::new(192, 0, 2, 77)))];
    let local = NameServer::start(&chain.world.laptop, &[lan], zone).unwrap();
    chain.edge_flags = vec!["--dns-upstream".into(), PUBLIC.to_string()];
    chain.start_edge().await.unwrap();
    chain.start_agent().await.unwrap();
    chain.enroll().await.unwrap();
    let path = "devices/policy/fallback_domains";
    let put = async |domains: Value| {
        let call = chain.call(Method::PUT, path, Some(&domains)).await.unwrap();
        assert_eq!(call.as_array().unwrap().len(), domains.as_array().unwrap().len(), "{call}");
    };
    let everything = json!({
        "name": "nothing", "action": "block", "filters": ["dns"], "enabled": true,
        "traffic": "any(dns.domains[*] == \"corp.example\")",
    });
    chain.call(Method::POST, "gateway/rules", Some(&everything)).await.unwrap();
    let laptop = &chain.world.laptop;
    let answered =
        async || addresses(&ask(laptop, RESOLVER, "printer.corp.example", RecordType::A).await.unwrap());
    soon("blocked", async || answered().await == [Ipv4Addr::UNSPECIFIED]).await;
    assert!(local.asked().is_empty());
    // A connected agent is told, and one that connects later too.
    put(json!([{ "suffix": "corp.example", "dns_server": [lan.ip()] }])).await;
    soon("asked past the edge", async || answered().await == [Ipv4Addr::new(192, 0, 2, 77)]).await;
    chain.agent.as_mut().unwrap().stop().await.unwrap();
    chain.start_agent().await.unwrap();
    let laptop = &chain.world.laptop;
    let answered = async || {
        let answer = ask(laptop, RESOLVER, "printer.corp.example", RecordType::A).await;
        answer.map(|answer| addresses(&answer)).unwrap_or_default()
    };
    soon("asked past the edge again", async || answered().await == [Ipv4Addr::new(192, 0, 2, 77)]).await;
    assert!(!outside.asked().iter().any(|asked| asked.contains("corp.example")), "{:?}", outside.asked());
    chain.call(Method::PUT, path, Some(&json!([]))).await.unwrap();
    soon("blocked again", async || answered().await == [Ipv4Addr::UNSPECIFIED]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_told_not_to_leaves_the_systems_resolvers_alone() {
    let mut chain = Chain::new().unwrap();
    let _outside = NameServer::start(&chain.world.edge, &[PUBLIC], public_zone()).unwrap();
    chain.edge_flags = vec!["--dns-upstream".into(), PUBLIC.to_string()];
    chain.start_edge().await.unwrap();
    chain.start_agent_with(&["--dns", "off"]).await.unwrap();
    chain.enroll().await.unwrap();
    let laptop = &chain.world.laptop;
    let answer = ask(laptop, RESOLVER, "www.example.com", RecordType::A).await.unwrap();
    assert_eq!(addresses(&answer), [Ipv4Addr::new(203, 0, 113, 80)], "who asks is answered");
    assert_eq!(std::fs::read_to_string(laptop.resolv_conf()).unwrap(), NO_RESOLVER);
}
