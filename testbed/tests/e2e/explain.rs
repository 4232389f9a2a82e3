//! `adit explain` says what flows do, from the device and for an admin.

use std::net::SocketAddr;
use std::time::Duration;

use adit_testbed::chain::Chain;
use adit_testbed::net::api_address;
use adit_testbed::origin::{self, Origin};
use http::Method;
use serde_json::{Value, json};

use crate::gateway::soon;
use crate::records::records;

const PORT: u16 = 9000;
const BLOCKED: u16 = 9001;
const NOBODY: u16 = 9002;
const LIMIT: Duration = Duration::from_secs(30);

/// What a run of `adit explain` printed, and whether it said that the flow is allowed.
async fn run(mut command: std::process::Command, args: &[&str]) -> (bool, String) {
    command.arg("explain").args(args);
    let output = tokio::process::Command::from(command).kill_on_drop(true).output();
    let output = tokio::time::timeout(LIMIT, output).await.unwrap().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code().is_some_and(|code| code < 2), "{args:?}: {}: {errors}", output.status);
    (output.status.success(), printed)
}

/// From the device.
async fn explain(chain: &Chain, args: &[&str]) -> (bool, String) {
    let state = chain.agent_state().display().to_string();
    run(chain.adit(&chain.world.laptop), &[args, &["--state", &state]].concat()).await
}

pub(crate) async fn explained(chain: &Chain, args: &[&str]) -> Value {
    let (allowed, printed) = explain(chain, &[args, &["--output", "json"]].concat()).await;
    let explained: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(explained["allowed"], allowed, "the exit code says the same: {explained}");
    explained
}

/// For an admin, on the edge's host.
async fn explained_to_admin(chain: &Chain, device: &str, args: &[&str]) -> Value {
    let data = chain.data().display().to_string();
    let args = [args, &["--device", device, "--data", &data, "--output", "json"]].concat();
    let (_, printed) = run(chain.adit(&chain.world.edge), &args).await;
    serde_json::from_str(&printed).unwrap()
}

fn steps<'a>(explained: &'a Value, kind: &str) -> Vec<&'a Value> {
    explained["steps"].as_array().unwrap().iter().filter(|step| step["step"] == kind).collect()
}

/// How the newest flow there ended, by its record; opens one.
async fn flow(chain: &Chain, address: SocketAddr) -> String {
    let query = format!("destination_ip={}", address.ip());
    let there = async || {
        let found = records(chain, "zero_trust_network_sessions", &query).await;
        found.into_iter().filter(|record| record["DestinationPort"] == address.port()).collect::<Vec<_>>()
    };
    let before = there().await.len();
    if let Ok(stream) = chain.world.laptop.connect(address).await {
        drop(origin::open_echo(stream).await);
    }
    soon("recorded", async || there().await.len() > before).await;
    there().await[0]["EndReason"].as_str().unwrap().to_owned()
}

/// Whether explain, asked from the device and by an admin, says what a flow does.
async fn agrees(chain: &Chain, device: &str, address: SocketAddr, expected: &str) -> Value {
    let found = flow(chain, address).await;
    assert_eq!(found, expected, "{address}");
    let target = address.to_string();
    let own = explained(chain, &[&target]).await;
    let refusal = own["refusal"].as_str().map_or("finished", |refusal| refusal);
    assert_eq!(refusal, expected, "{own:#}");
    let admins = explained_to_admin(chain, device, &[&target]).await;
    assert_eq!((&admins["allowed"], &admins["refusal"]), (&own["allowed"], &own["refusal"]), "{admins:#}");
    own
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_says_what_a_flow_does_and_why() {
    let mut chain = Chain::start().await.unwrap();
    let [v4, v6] = api_address(PORT);
    let _origin = Origin::start(&chain.world.cluster, &[v4, v6]).unwrap();
    let rules = [
        ("not this port", "block", 20, format!("net.dst.port in {{22 {BLOCKED}}}")),
        ("no telnet", "block", 10, "net.dst.port == 23 and net.protocol == \"tcp\"".to_owned()),
    ];
    for (name, action, precedence, traffic) in &rules {
        let rule = json!({
            "name": name, "action": action, "filters": ["l4"], "precedence": precedence, "enabled": true, "traffic": traffic,
        });
        chain.call(Method::POST, "gateway/rules", Some(&rule)).await.unwrap();
    }
    let blocked = SocketAddr::new(v4.ip(), BLOCKED);
    soon("blocked", async || explained(&chain, &[&blocked.to_string()]).await["refusal"] == "blocked").await;
    let status = chain.agent_status().await.unwrap();
    let device = status["device_id"].as_str().unwrap().to_owned();

    let allowed = agrees(&chain, &device, v4, "finished").await;
    assert_eq!(steps(&allowed, "dial")[0]["outcome"], "connected", "{allowed:#}");
    assert!(steps(&allowed, "connection")[0]["connection"].is_string());
    assert_eq!(steps(&allowed, "rule").len(), 2, "both were asked");
    assert_eq!(steps(&allowed, "route")[0]["tunnel_name"], "api-zt");
    assert_eq!(steps(&allowed, "device")[0]["device"], device.as_str());

    let explained_block = agrees(&chain, &device, blocked, "blocked").await;
    let asked = steps(&explained_block, "rule");
    assert_eq!((&asked[0]["name"], &asked[0]["outcome"]), (&json!("no telnet"), &json!("missed")));
    assert_eq!(asked[0]["because"][0]["condition"], "net.dst.port == 23");
    assert_eq!(asked[0]["because"][0]["values"], json!([["net.dst.port", "9001"]]));
    assert_eq!((&asked[1]["name"], &asked[1]["outcome"]), (&json!("not this port"), &json!("matched")));
    assert!(steps(&explained_block, "dial").is_empty(), "what is blocked is not dialled");

    agrees(&chain, &device, SocketAddr::new(v6.ip(), NOBODY), "refused").await;
    // The agent captures what has a route: what has none never comes to it.
    let unroutable = explained(&chain, &["192.0.2.250:80"]).await;
    assert_eq!(
        (&unroutable["refusal"], &steps(&unroutable, "route")[0]["network"]),
        (&json!("unroutable"), &Value::Null)
    );
    let loopback = explained(&chain, &["127.0.0.1:80"]).await;
    assert_eq!(loopback["refusal"], "never-dialled");

    // In words, without a dial.
    let (is_allowed, printed) = explain(&chain, &[&v4.to_string(), "--no-dial"]).await;
    assert!(is_allowed && printed.ends_with("allowed\n"), "{printed}");
    for line in [
        "not asked: it is an address",
        "no telnet",
        "net.dst.port == 23 does not hold: net.dst.port is 9000",
        "not asked",
    ] {
        assert!(printed.contains(line), "{line} in {printed}");
    }
    for connector in &mut chain.connectors {
        connector.process.stop().await.unwrap();
    }
    chain.connectors.clear();
    let gone = async || explained(&chain, &[&v4.to_string()]).await["refusal"] == "no-connection";
    soon("without a connector", gone).await;
    agrees(&chain, &device, v4, "no-connection").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_says_that_a_server_asks_for_a_certificate_where_tls_is_opened() {
    use adit_testbed::cluster::{API_PORT, Cluster, Family};
    use adit_testbed::kubectl::Kubectl;

    let chain = Chain::start().await.unwrap();
    let cluster = Cluster::start(&chain.world, chain.dir()).await.unwrap();
    let session = cluster.session(&chain.world.laptop, Kubectl::main().unwrap(), Family::V4).unwrap();
    let on = json!({ "settings": { "tls_decrypt": { "enabled": true } } });
    chain.call(Method::PATCH, "gateway/configuration", Some(&on)).await.unwrap();
    soon("opened", async || crate::gateway::namespaces(&session, &[]).await.is_err()).await;
    let server = api_address(API_PORT)[0].to_string();
    // It is known when the flow has ended.
    soon("seen to ask", async || {
        let explained = explained(&chain, &[&server, "--no-dial"]).await;
        steps(&explained, "inspection")[0]["asks_for_certificate"] == true
    })
    .await;
    let explained = explained(&chain, &[&server]).await;
    let inspection = steps(&explained, "inspection")[0];
    assert_eq!(
        (&inspection["verdict"], &inspection["asks_for_certificate"]),
        (&json!("inspected"), &json!(true))
    );
    assert!(inspection["text"].as_str().unwrap().contains("action off"), "{inspection}");
}
