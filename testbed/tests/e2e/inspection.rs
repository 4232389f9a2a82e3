//! TLS that is opened, and the rule that lets the Kubernetes API pass unopened: the reference configuration.

use std::path::PathBuf;

use adit_testbed::apiserver::Clients;
use adit_testbed::chain::Chain;
use adit_testbed::cluster::{Cluster, Family};
use adit_testbed::kubectl::Kubectl;
use adit_testbed::net::api_address;
use adit_testbed::pki::{ENGINEER_TOKEN, Pki};
use http::Method;
use serde_json::{Value, json};

use crate::gateway::{ENFORCED, namespaces, soon};
use crate::records::records;

/// Everything, with an edge that trusts the cluster's authority as one of origins.
async fn start() -> (Chain, Cluster) {
    start_serving(Clients::Certificate).await
}

/// The account's certificate of inspection, as a file.
async fn account_ca(chain: &Chain) -> PathBuf {
    let certificates = chain.call(Method::GET, "gateway/certificates", None).await.unwrap();
    let ca = chain.dir().join("inspection.pem");
    std::fs::write(&ca, certificates[0]["certificate"].as_str().unwrap()).unwrap();
    ca
}

async fn start_serving(clients: Clients) -> (Chain, Cluster) {
    let mut chain = Chain::new().unwrap();
    let pki = Pki::open(&chain.dir().join("certificates")).unwrap();
    chain.edge_flags = vec!["--origin-roots".into(), pki.ca().display().to_string()];
    chain.start_all().await.unwrap();
    let cluster = Cluster::serving(&chain.world, chain.dir(), clients).await.unwrap();
    (chain, cluster)
}

async fn decrypt(chain: &Chain, on: bool) {
    let body = json!({ "settings": { "tls_decrypt": { "enabled": on } } });
    chain.call(Method::PATCH, "gateway/configuration", Some(&body)).await.unwrap();
}

/// The reference configuration: a list of the API servers' addresses, and the rule that leaves them alone.
async fn reference(chain: &Chain) -> (String, String) {
    let items: Vec<Value> =
        api_address(0).iter().map(|address| json!({ "value": address.ip().to_string() })).collect();
    let list = json!({ "name": "Kubernetes API IPs", "type": "IP", "items": items });
    let list = chain.call(Method::POST, "gateway/lists", Some(&list)).await.unwrap();
    let list = list["id"].as_str().unwrap().to_owned();
    let rule = json!({
        "name": "Don't inspect Kubernetes API", "action": "off", "filters": ["http"], "precedence": 10000, "enabled": true,
        "traffic": format!("any(http.conn.dst_ip[*] in ${})", list.replace('-', "")),
    });
    let rule = chain.call(Method::POST, "gateway/rules", Some(&rule)).await.unwrap();
    assert_eq!(rule["warning_status"], Value::Null, "{rule}");
    (list, rule["id"].as_str().unwrap().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reference_configuration_lets_kubectl_through_where_tls_is_opened() {
    let (chain, cluster) = start().await;
    let sessions = Family::BOTH
        .map(|family| cluster.session(&chain.world.laptop, Kubectl::main().unwrap(), family).unwrap());
    for session in &sessions {
        namespaces(session, &[]).await.unwrap();
    }
    let edge = chain.edge.as_ref().unwrap();
    decrypt(&chain, true).await;
    for session in &sessions {
        let mark = edge.mark();
        soon("opened", async || namespaces(session, &[]).await.is_err()).await;
        let printed = namespaces(session, &[]).await.unwrap_err();
        assert!(printed.contains("certificate signed by unknown authority"), "{printed}");
        let line = edge.wait_for_line_after(mark, "client-tls-error", ENFORCED).await.unwrap();
        assert!(line.contains("asks for a client certificate") && line.contains("action off"), "{line}");
    }
    // The record is found by whoever asks why.
    for address in api_address(0) {
        let query = format!("destination_ip={}", address.ip());
        soon("found with its hint", async || {
            let found = records(&chain, "zero_trust_network_sessions", &query).await;
            found.iter().any(|record| {
                record["ConnectionCloseReason"] == "CLIENT_TLS_ERROR"
                    && record["Hint"] == "mtls_requested"
                    && record["HintText"].as_str().unwrap().contains("action off")
            })
        })
        .await;
    }
    let (list, rule) = reference(&chain).await;
    for session in &sessions {
        let mark = edge.mark();
        soon("let through", async || namespaces(session, &[]).await.is_ok()).await;
        let line = edge.wait_for_line_after(mark, "inspection=\"bypassed\"", ENFORCED).await.unwrap();
        assert!(line.contains(&rule), "the record names the rule: {line}");
    }
    soon("recorded as passed by", async || {
        let found = records(&chain, "gateway_http", &format!("policy_id={rule}&action=bypass")).await;
        found.iter().any(|record| record["InspectionBypassReason"] == "off_rule")
    })
    .await;
    chain.call(Method::DELETE, &format!("gateway/rules/{rule}"), None).await.unwrap();
    chain.call(Method::DELETE, &format!("gateway/lists/{list}"), None).await.unwrap();
    for session in &sessions {
        soon("opened again", async || namespaces(session, &[]).await.is_err()).await;
    }
    decrypt(&chain, false).await;
    for session in &sessions {
        soon("left alone", async || namespaces(session, &[]).await.is_ok()).await;
    }
}

/// Worked case 20 of the Gateway semantics.
#[tokio::test(flavor = "multi_thread")]
async fn kubectl_with_a_token_does_everything_where_tls_is_opened() {
    let (chain, cluster) = start_serving(Clients::Token).await;
    decrypt(&chain, true).await;
    let ca = account_ca(&chain).await;
    let session = cluster.session(&chain.world.laptop, Kubectl::main().unwrap(), Family::V4).unwrap();
    let session = session.with_token(ENGINEER_TOKEN).unwrap().trusting(&ca).unwrap();
    soon("opened", async || namespaces(&session, &[]).await.is_ok()).await;
    crate::kubectl::check_all(&session).await;
    // The suite's own server speaks WebSockets alone.
    if std::env::var_os("KUBE_APISERVER").is_some() {
        crate::kubectl::check_all(&session.over_spdy()).await;
    }
    let of_upgrades = "limit=1000";
    soon("an upgrade is one record", async || {
        let found = records(&chain, "gateway_http", of_upgrades).await;
        found.iter().any(|record| {
            record["HTTPStatusCode"] == 101 && record["URL"].as_str().is_some_and(|url| url.contains("/exec"))
        })
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_trusts_the_account_reaches_the_origin_as_nobody_and_is_told_why() {
    let (chain, cluster) = start().await;
    decrypt(&chain, true).await;
    let ca = account_ca(&chain).await;
    let session = cluster.session(&chain.world.laptop, Kubectl::main().unwrap(), Family::V6).unwrap();
    let session = session.trusting(&ca).unwrap();
    let edge = chain.edge.as_ref().unwrap();
    let mark = edge.mark();
    let printed = namespaces(&session, &[]).await.unwrap_err();
    // The testbed's own API server insists on a certificate; a real one serves anonymous requests, and refuses this one.
    let as_nobody = ["Forbidden", "Unauthorized", "provide credentials", "asks for a client certificate"];
    assert!(as_nobody.iter().any(|words| printed.contains(words)), "{printed}");
    // The log's line, and not the record on standard output, which says the same in its own way.
    let line = edge.wait_for_line_after(mark, "hint=\"", ENFORCED).await.unwrap();
    assert!(line.contains("validation=\"VALID\"") && line.contains("client certificate"), "{line}");
    assert!(line.contains("action off"), "{line}");
    // Requests are judged by what is in them.
    let rule = json!({
        "name": "no discovery", "action": "block", "filters": ["http"], "precedence": 10, "enabled": true,
        "traffic": "starts_with(http.request.uri.path, \"/api\")",
        "rule_settings": { "block_reason": "Nobody discovers anything." },
    });
    let rule = chain.call(Method::POST, "gateway/rules", Some(&rule)).await.unwrap();
    let mark = edge.mark();
    let blocked = async || {
        let printed = namespaces(&session, &[]).await.unwrap_err();
        printed.contains("Nobody discovers anything.")
    };
    soon("blocked by path", blocked).await;
    let line = edge.wait_for_line_after(mark, "action=\"block\"", ENFORCED).await.unwrap();
    assert!(line.contains(rule["id"].as_str().unwrap()) && line.contains("status=403"), "{line}");
}
