//! What flows did is found afterwards: through the API, on standard output and in a file; also after the edge was killed.

use std::net::SocketAddr;

use adit_testbed::chain::Chain;
use adit_testbed::net::api_address;
use adit_testbed::origin::{self, Origin};
use http::Method;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::gateway::soon;

const PORT: u16 = 9000;
const BLOCKED: u16 = 9001;
/// Between two looks for a record that is not there yet.
const POLL: std::time::Duration = std::time::Duration::from_millis(100);

/// The records of a dataset that a query finds, the newest first.
pub(crate) async fn records(chain: &Chain, dataset: &str, query: &str) -> Vec<Value> {
    let found = chain.call(Method::GET, &format!("x/logs/{dataset}?{query}"), None).await.unwrap();
    let found = found.as_array().unwrap().clone();
    if found.is_empty() {
        // They are written a few times a second, and whoever asks all the time is refused.
        tokio::time::sleep(POLL).await;
    }
    found
}

/// The newest such record, once there is one.
pub(crate) async fn record(chain: &Chain, dataset: &str, query: &str) -> Value {
    soon(dataset, async || !records(chain, dataset, query).await.is_empty()).await;
    records(chain, dataset, query).await.swap_remove(0)
}

async fn chain_with_a_file() -> Chain {
    let mut chain = Chain::new().unwrap();
    let file = chain.dir().join("records.jsonl");
    chain.edge_flags = vec!["--record-file".into(), file.display().to_string()];
    chain.start_all().await.unwrap();
    chain
}

async fn block(chain: &Chain) -> String {
    let rule = json!({
        "name": "not this port", "action": "block", "filters": ["l4"], "precedence": 10, "enabled": true,
        "traffic": format!("net.dst.port == {BLOCKED}"),
    });
    let made = chain.call(Method::POST, "gateway/rules", Some(&rule)).await.unwrap();
    made["id"].as_str().unwrap().to_owned()
}

/// Opens flows there until the rule blocks one, and that is recorded: nobody listens there, so that they fail before too.
async fn refused(chain: &Chain, address: SocketAddr, rule: &str) {
    let query = format!("policy_id={rule}&action=block");
    soon("blocked", async || {
        chain.world.laptop.connect(address).await.unwrap_err();
        !records(chain, "gateway_network", &query).await.is_empty()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_allowed_and_a_blocked_flow_are_found_with_rule_destination_bytes_and_reason() {
    let chain = chain_with_a_file().await;
    let [v4, v6] = api_address(PORT);
    let _origin = Origin::start(&chain.world.cluster, &[v4, v6]).unwrap();
    drop(origin::open_echo(chain.world.laptop.connect(v4).await.unwrap()).await.unwrap());
    let session = record(&chain, "zero_trust_network_sessions", &format!("destination_ip={}", v4.ip())).await;
    assert_eq!(
        (&session["EndReason"], &session["ConnectionCloseReason"]),
        (&json!("finished"), &json!("CLIENT_CLOSED")),
        "{session}"
    );
    assert_eq!((&session["DestinationPort"], &session["Offramp"]), (&json!(PORT), &json!("CFD_TUNNEL")));
    assert!(
        session["BytesSent"].as_u64() > Some(0) && session["BytesReceived"].as_u64() > Some(0),
        "{session}"
    );
    let tunnels = chain.call(Method::GET, "cfd_tunnel", None).await.unwrap();
    assert_eq!(session["DestinationTunnelID"], tunnels[0]["id"]);
    let id = session["SessionID"].as_str().unwrap();
    let network = record(&chain, "gateway_network", &format!("session_id={id}")).await;
    assert_eq!((&network["Action"], &network["PolicyID"]), (&json!("allow"), &json!("")), "{network}");
    let status = chain.agent_status().await.unwrap();
    assert_eq!(network["DeviceID"], status["device_id"]);

    let rule = block(&chain).await;
    let blocked = SocketAddr::new(v6.ip(), BLOCKED);
    refused(&chain, blocked, &rule).await;
    let network = record(&chain, "gateway_network", &format!("policy_id={rule}&action=block")).await;
    assert_eq!(network["PolicyName"], "not this port");
    assert_eq!(network["DestinationIP"], v6.ip().to_string());
    let session = record(&chain, "zero_trust_network_sessions", &format!("policy_id={rule}")).await;
    assert_eq!(
        (&session["EndReason"], &session["ConnectionCloseReason"]),
        (&json!("blocked"), &json!("PROXY_CONN_REFUSED"))
    );
    assert_eq!(session["SessionID"], network["SessionID"]);
    // What is not there is in the session alone, with its reason.
    chain.world.laptop.connect((v4.ip(), 9002).into()).await.unwrap_err();
    let query = format!("destination_ip={}", v4.ip());
    let newest = async || records(&chain, "zero_trust_network_sessions", &query).await.swap_remove(0);
    soon("refused is recorded", async || newest().await["EndReason"] == "refused").await;
    assert_eq!(newest().await["ConnectionCloseReason"], "ORIGIN_UNREACHABLE");

    // The same lines went to standard output and to the file.
    let edge = chain.edge.as_ref().unwrap();
    let line = edge
        .output()
        .into_iter()
        .find(|line| line.starts_with("{\"Dataset\":\"gateway_network\"") && line.contains(&rule));
    let line: Value = serde_json::from_str(&line.expect("a line on standard output")).unwrap();
    assert_eq!(line["PolicyName"], "not this port");
    let file = std::fs::read_to_string(chain.dir().join("records.jsonl")).unwrap();
    let lines: Vec<Value> = file.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines.iter().any(|line| line["EndReason"] == "refused"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_to_be_recorded_is_not_and_what_is_personal_can_be_left_out() {
    let chain = Chain::start().await.unwrap();
    let [v4, _] = api_address(PORT);
    let _origin = Origin::start(&chain.world.cluster, &[v4]).unwrap();
    let rule = block(&chain).await;
    let logging = json!({
        "redact_pii": true,
        "settings_by_rule_type": { "l4": { "log_all": false, "log_blocks": true } },
    });
    chain.call(Method::PUT, "gateway/logging", Some(&logging)).await.unwrap();
    let edge = chain.edge.as_ref().unwrap();
    // The line of a flow that is decided by the new settings names no device.
    soon("redacted", async || {
        let mark = edge.mark();
        drop(origin::open_echo(chain.world.laptop.connect(v4).await.unwrap()).await.unwrap());
        let line =
            edge.wait_for_line_after(mark, "end=\"finished\"", crate::gateway::ENFORCED).await.unwrap();
        !line.contains("device=")
    })
    .await;
    drop(origin::open_echo(chain.world.laptop.connect(v4).await.unwrap()).await.unwrap());
    refused(&chain, SocketAddr::new(v4.ip(), BLOCKED), &rule).await;
    let network = record(&chain, "gateway_network", &format!("policy_id={rule}")).await;
    for field in ["SourceIP", "Email", "UserID", "DeviceID", "DeviceName"] {
        assert_eq!(network[field], "", "{field} of {network}");
    }
    // What is recorded comes in order: by now those of before are there, with who it was, and none of after.
    let allowed = records(&chain, "gateway_network", "action=allow").await;
    assert!(allowed.iter().all(|row| row["Email"] != ""), "only blocks are recorded: {allowed:?}");
    // Nothing at all.
    let off = json!({ "settings": { "activity_log": { "enabled": false } } });
    chain.call(Method::PATCH, "gateway/configuration", Some(&off)).await.unwrap();
    soon("silent", async || {
        let mark = edge.mark();
        drop(origin::open_echo(chain.world.laptop.connect(v4).await.unwrap()).await.unwrap());
        chain.world.laptop.connect(SocketAddr::new(v4.ip(), BLOCKED)).await.unwrap_err();
        let short = std::time::Duration::from_millis(500);
        edge.wait_for_line_after(mark, "end=\"", short).await.is_err()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_survive_an_edge_that_is_killed() {
    let mut chain = chain_with_a_file().await;
    let [v4, v6] = api_address(PORT);
    let _origin = Origin::start(&chain.world.cluster, &[v4, v6]).unwrap();
    drop(origin::open_echo(chain.world.laptop.connect(v4).await.unwrap()).await.unwrap());
    let query = format!("destination_ip={}", v4.ip());
    let first = record(&chain, "zero_trust_network_sessions", &query).await;
    // In the middle of many.
    for _ in 0..50 {
        drop(origin::open_echo(chain.world.laptop.connect(v6).await.unwrap()).await.unwrap());
    }
    let mut edge = chain.edge.take().unwrap();
    edge.signal(Signal::SIGKILL).unwrap();
    edge.wait(std::time::Duration::from_secs(10)).await.unwrap();
    drop(edge);
    chain.start_edge().await.unwrap();
    let again = record(&chain, "zero_trust_network_sessions", &query).await;
    assert_eq!(again["SessionID"], first["SessionID"], "what was stored is there");
    chain.wait_for_agent("connected").await.unwrap();
    soon("carried again", async || match chain.world.laptop.connect(v4).await {
        Ok(stream) => origin::open_echo(stream).await.is_ok(),
        Err(_) => false,
    })
    .await;
    soon("recorded again", async || {
        let newest = records(&chain, "zero_trust_network_sessions", &format!("{query}&action=allow")).await;
        newest
            .iter()
            .any(|record| record["SessionID"] != first["SessionID"] && record["EndReason"] == "finished")
    })
    .await;
    let file = std::fs::read_to_string(chain.dir().join("records.jsonl")).unwrap();
    let torn = file.lines().filter(|line| serde_json::from_str::<Value>(line).is_err()).count();
    assert!(torn <= 1, "{torn} lines are torn");
}
