//! Gateway rules decide what an engineer reaches, from the moment at which they are written.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use adit_testbed::chain::Chain;
use adit_testbed::cluster::{Cluster, Family};
use adit_testbed::kubectl::{Kubectl, Session};
use adit_testbed::net::api_address;
use adit_testbed::origin::{self, Origin};
use http::Method;
use serde_json::{Value, json};

use crate::records::records;

const PORT: u16 = 9000;
/// A change is enforced on every node within two seconds (design, section 6); this is for a slow machine.
pub(crate) const ENFORCED: Duration = Duration::from_secs(10);

/// Writes a rule; its id.
async fn rule(chain: &Chain, body: &Value) -> String {
    let made = chain.call(Method::POST, "gateway/rules", Some(body)).await.unwrap();
    assert_eq!(made["warning_status"], Value::Null, "{made}");
    made["id"].as_str().unwrap().to_owned()
}

fn l4(name: &str, action: &str, precedence: u64, traffic: &str) -> Value {
    json!({
        "name": name, "action": action, "filters": ["l4"], "enabled": true, "precedence": precedence, "traffic": traffic,
    })
}

async fn remove(chain: &Chain, rule: &str) {
    chain.call(Method::DELETE, &format!("gateway/rules/{rule}"), None).await.unwrap();
}

/// Asks again until it is so, since a change takes its time.
pub(crate) async fn soon(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !is_so().await {
        assert!(began.elapsed() < ENFORCED, "{what} is not so after {ENFORCED:?}");
    }
    eprintln!("{what}: after {} ms", began.elapsed().as_millis());
}

/// Whether the API server lists its namespaces to this session; what it prints if not.
pub(crate) async fn namespaces(session: &Session<'_>, args: &[&str]) -> Result<(), String> {
    let args = [&["get", "namespaces", "--request-timeout=5s"], args].concat();
    let output = session.output(&args, "").await.unwrap();
    let printed = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(()) } else { Err(printed) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_on_addresses_blocks_kubectl_at_once_and_lets_it_through_when_it_is_gone() {
    let chain = Chain::start().await.unwrap();
    let cluster = Cluster::start(&chain.world, chain.dir()).await.unwrap();
    let sessions = [Family::V4, Family::V6]
        .map(|family| cluster.session(&chain.world.laptop, Kubectl::main().unwrap(), family).unwrap());
    for session in &sessions {
        namespaces(session, &[]).await.unwrap();
    }
    let items: Vec<Value> =
        api_address(0).iter().map(|address| json!({ "value": address.ip().to_string() })).collect();
    let list = json!({ "name": "api servers", "type": "IP", "items": items });
    let list = chain.call(Method::POST, "gateway/lists", Some(&list)).await.unwrap();
    let traffic = format!("net.dst.ip in ${}", list["id"].as_str().unwrap().replace('-', ""));
    let edge = chain.edge.as_ref().unwrap();
    let mark = edge.mark();
    let block = rule(&chain, &l4("no clusters", "block", 1000, &traffic)).await;
    for session in &sessions {
        soon("blocked", async || namespaces(session, &[]).await.is_err()).await;
        let printed = namespaces(session, &[]).await.unwrap_err();
        assert!(printed.contains("refused"), "a person is told at once, in the words of TCP: {printed}");
    }
    let line = edge.wait_for_line_after(mark, "end=\"blocked\"", ENFORCED).await.unwrap();
    assert!(line.contains(&block), "the record names the rule: {line}");
    // What stands before it decides first.
    let allow = rule(&chain, &l4("but these", "allow", 500, &traffic)).await;
    for session in &sessions {
        soon("allowed", async || namespaces(session, &[]).await.is_ok()).await;
    }
    remove(&chain, &allow).await;
    soon("blocked again", async || namespaces(&sessions[0], &[]).await.is_err()).await;
    remove(&chain, &block).await;
    for session in &sessions {
        soon("free", async || namespaces(session, &[]).await.is_ok()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_on_the_server_name_resets_who_names_it_and_holds_nobody_else_up() {
    let chain = Chain::start().await.unwrap();
    let cluster = Cluster::start(&chain.world, chain.dir()).await.unwrap();
    let _origin = Origin::start(&chain.world.cluster, &api_address(PORT)).unwrap();
    let session = cluster.session(&chain.world.laptop, Kubectl::main().unwrap(), Family::V6).unwrap();
    let named = ["--tls-server-name=kubernetes.default.svc"];
    namespaces(&session, &named).await.unwrap();
    rule(&chain, &l4("no names", "block", 1000, "any(net.sni.domains[*] == \"default.svc\")")).await;
    soon("blocked by name", async || namespaces(&session, &named).await.is_err()).await;
    namespaces(&session, &[]).await.unwrap();
    // An origin whose client says little, and one that is not there.
    for address in api_address(PORT) {
        origin::open_echo(chain.world.laptop.connect(address).await.unwrap()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_override_leads_a_flow_to_another_address_and_port() {
    let chain = Chain::start().await.unwrap();
    let _origin = Origin::start(&chain.world.cluster, &api_address(PORT)).unwrap();
    let [v4, v6] = api_address(PORT);
    let mut body = l4("elsewhere", "l4_override", 1000, "net.dst.port == 9001");
    body["rule_settings"] = json!({ "l4override": { "ip": v6.ip().to_string(), "port": PORT } });
    let refused = chain.world.laptop.connect((v4.ip(), 9001).into()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    let edge = chain.edge.as_ref().unwrap();
    let mark = edge.mark();
    let rule = rule(&chain, &body).await;
    let connect = async || chain.world.laptop.connect((v4.ip(), 9001).into()).await;
    soon("led elsewhere", async || connect().await.is_ok()).await;
    drop(origin::open_echo(connect().await.unwrap()).await.unwrap());
    let line = edge.wait_for_line_after(mark, "overridden_by=", ENFORCED).await.unwrap();
    assert!(line.contains(&rule) && line.contains(&v6.to_string()), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_rule_cuts_what_is_open_within_seconds_unless_the_account_leaves_it() {
    let chain = Chain::start().await.unwrap();
    let _origin = Origin::start(&chain.world.cluster, &api_address(PORT)).unwrap();
    let [v4, v6] = api_address(PORT);
    let connect =
        async |address| origin::open_echo(chain.world.laptop.connect(address).await.unwrap()).await.unwrap();
    let (mut cut, mut stays) = (connect(v4).await, connect(v6).await);
    let edge = chain.edge.as_ref().unwrap();
    let mark = edge.mark();
    let began = Instant::now();
    let v4_only = format!("net.dst.ip == {}", v4.ip());
    let id = rule(&chain, &l4("no more", "block", 1000, &v4_only)).await;
    let line = edge.wait_for_line_after(mark, "end=\"cut-by-rule\"", ENFORCED).await.unwrap();
    eprintln!("cut after {} ms", began.elapsed().as_millis());
    assert!(line.contains(&id), "the record names the rule: {line}");
    assert!(origin::check_echo(&mut cut, b"no more").await.is_err());
    let query = format!("destination_ip={}&policy_id={id}", v4.ip());
    soon("recorded", async || {
        let found = records(&chain, "zero_trust_network_sessions", &query).await;
        found.iter().any(|row| row["EndReason"] == "cut-by-rule" && row["Action"] == "block")
    })
    .await;
    origin::check_echo(&mut stays, b"still here").await.unwrap();

    let leave = json!({ "settings": { "x_reevaluate_on_change": false } });
    chain.call(Method::PATCH, "gateway/configuration", Some(&leave)).await.unwrap();
    rule(&chain, &l4("nothing new", "block", 2000, &format!("net.dst.ip == {}", v6.ip()))).await;
    soon("refused", async || chain.world.laptop.connect(v6).await.is_err()).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    origin::check_echo(&mut stays, b"still here").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_is_told_what_a_rule_has_blocked_if_the_rule_says_so() {
    let chain = Chain::start().await.unwrap();
    let address = api_address(PORT)[0];
    let _origin = Origin::start(&chain.world.cluster, &[address]).unwrap();
    let told = async || {
        let status = chain.agent_status().await.unwrap();
        status["blocked"].as_array().cloned().unwrap_or_default()
    };
    // A rule that says nothing of it is silent.
    let silent = rule(&chain, &l4("silent", "block", 10, &format!("net.dst.ip == {}", address.ip()))).await;
    soon("blocked", async || chain.world.laptop.connect(address).await.is_err()).await;
    assert_eq!(told().await, [] as [Value; 0]);
    remove(&chain, &silent).await;

    let mut loud = l4("Not for you", "block", 10, &format!("net.dst.port == {PORT}"));
    loud["rule_settings"] = json!({
        "notification_settings": { "enabled": true, "msg": "Ask Ada.", "support_url": "https://help.example.com/" }
    });
    let id = rule(&chain, &loud).await;
    soon("told", async || {
        let _ = chain.world.laptop.connect(address).await;
        !told().await.is_empty()
    })
    .await;
    let block = told().await.swap_remove(0);
    assert_eq!((&block["rule"], &block["layer"]), (&json!(id), &json!("l4")), "{block}");
    assert_eq!(block["destination"], address.to_string());
    assert_eq!(block["message"], "Ask Ada.");
    // Again and again the same is told of once.
    for _ in 0..3 {
        chain.world.laptop.connect(address).await.unwrap_err();
    }
    assert_eq!(told().await.len(), 1);
    let printed = chain.agent_command(&["status"]).await.unwrap();
    let line =
        format!("Blocked: {address} by the rule \"Not for you\"; Ask Ada.; https://help.example.com/\n");
    assert!(printed.contains(&line), "{printed}");
}
