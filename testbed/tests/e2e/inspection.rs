//! TLS that is opened, and the rule that lets the Kubernetes API pass unopened: the reference configuration.

use std::path::PathBuf;
use std::time::Duration;

use adit_testbed::apiserver::Clients;
use adit_testbed::chain::Chain;
use adit_testbed::cluster::{Cluster, Family};
use adit_testbed::kubectl::Kubectl;
use adit_testbed::net::api_address;
use adit_testbed::pki::{API_NAME, ENGINEER_TOKEN, Pki};
use adit_testbed::website::{self, Browser};
use http::{Method, StatusCode, Version};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

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

const PORT: u16 = 9443;

/// Everything, and a website behind TLS whose certificate the edge trusts.
async fn start_website() -> Chain {
    let mut chain = Chain::new().unwrap();
    let pki = Pki::open(&chain.dir().join("certificates")).unwrap();
    chain.edge_flags = vec!["--origin-roots".into(), pki.ca().display().to_string()];
    chain.start_all().await.unwrap();
    website::start_tls(&chain.world.cluster, &api_address(PORT), &pki.server()).unwrap();
    chain
}

/// A browser on the laptop that trusts these certificates and no others.
fn trusting(chain: &Chain, name: &str, certificates: &[&str]) -> Browser {
    let file = chain.dir().join(format!("{name}.pem"));
    std::fs::write(&file, certificates.concat()).unwrap();
    Browser::new(&chain.world.laptop, api_address(PORT)[0], API_NAME, &file)
}

/// Whether the website answers this browser.
async fn is_served(browser: &Browser) -> bool {
    matches!(browser.get(Version::HTTP_11, "/status/204").await, Ok((StatusCode::NO_CONTENT, _)))
}

/// Makes an authority and activates it; its id and its certificate.
async fn authority(chain: &Chain) -> (String, String) {
    let made = chain.call(Method::POST, "gateway/certificates", Some(&json!({}))).await.unwrap();
    let id = made["id"].as_str().unwrap().to_owned();
    assert_eq!(made["binding_status"], "inactive");
    let path = format!("gateway/certificates/{id}/activate");
    let active = chain.call(Method::POST, &path, Some(&json!({}))).await.unwrap();
    assert_eq!(active["binding_status"], "available");
    (id, active["certificate"].as_str().unwrap().to_owned())
}

async fn choose(chain: &Chain, id: &str) {
    let body = json!({ "settings": { "certificate": { "id": id }, "tls_decrypt": { "enabled": true } } });
    chain.call(Method::PATCH, "gateway/configuration", Some(&body)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_is_rotated_while_devices_trust_both_and_open_connections_stay() {
    let chain = start_website().await;
    let (old_id, old) = authority(&chain).await;
    choose(&chain, &old_id).await;
    let trusts_old = trusting(&chain, "old", &[&old]);
    soon("opened by the first authority", async || is_served(&trusts_old).await).await;
    let mut open = trusts_old.tls(b"http/1.1").await.unwrap();
    ask(&mut open).await;

    let (new_id, new) = authority(&chain).await;
    let (trusts_new, trusts_both) =
        (trusting(&chain, "new", &[&new]), trusting(&chain, "both", &[&old, &new]));
    assert!(!is_served(&trusts_new).await, "nothing is signed by it before it is chosen");
    choose(&chain, &new_id).await;
    soon("opened by the second authority", async || {
        assert!(is_served(&trusts_both).await, "who trusts both notices nothing");
        is_served(&trusts_new).await
    })
    .await;
    assert!(!is_served(&trusts_old).await);
    ask(&mut open).await;

    // What is in use stays; what is not goes.
    let refused = async |method, path: &str| {
        let refused = chain.call(method, path, Some(&json!({}))).await.unwrap_err();
        assert!(format!("{refused:#}").contains("in use"), "{refused:#}");
    };
    refused(Method::DELETE, &format!("gateway/certificates/{new_id}")).await;
    refused(Method::POST, &format!("gateway/certificates/{new_id}/deactivate")).await;
    let path = format!("gateway/certificates/{old_id}");
    chain.call(Method::POST, &format!("{path}/deactivate"), Some(&json!({}))).await.unwrap();
    chain.call(Method::DELETE, &path, None).await.unwrap();
    ask(&mut open).await;
    assert!(is_served(&trusts_new).await);
}

/// One request on a connection that stays open.
async fn ask(stream: &mut (impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin)) {
    let request = format!("GET /status/204 HTTP/1.1\r\nHost: {API_NAME}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await.unwrap());
    }
    assert!(answer.starts_with(b"HTTP/1.1 204"), "{}", String::from_utf8_lossy(&answer));
}

/// A browser on the laptop that asks for this name and trusts the account's built-in authority.
async fn browser(chain: &Chain, name: &str) -> Browser {
    let certificates = chain.call(Method::GET, "gateway/certificates", None).await.unwrap();
    let file = chain.dir().join("built-in.pem");
    std::fs::write(&file, certificates[0]["certificate"].as_str().unwrap()).unwrap();
    Browser::new(&chain.world.laptop, api_address(PORT)[1], name, &file)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_of_a_private_authority_is_trusted_where_the_account_says_so_and_nowhere_else() {
    let chain = Chain::start().await.unwrap();
    let pki = Pki::open(&chain.dir().join("certificates")).unwrap();
    website::start_tls(&chain.world.cluster, &api_address(PORT), &pki.server()).unwrap();
    decrypt(&chain, true).await;
    // The certificate of the origin is for both names.
    let (inside, outside) =
        (browser(&chain, API_NAME).await, browser(&chain, "kubernetes.default.svc").await);
    let status =
        async |browser: &Browser| browser.get(Version::HTTP_2, "/status/204").await.unwrap().0.as_u16();
    for browser in [&inside, &outside] {
        soon("opened, and not trusted", async || status(browser).await == 526).await;
    }
    let suffix = API_NAME.split_once('.').unwrap().1;
    let certificate = std::fs::read_to_string(pki.ca()).unwrap();
    let body = json!({ "name": "cluster CA", "certificate": certificate, "host_suffixes": [suffix] });
    let root = chain.call(Method::POST, "x/gateway/origin_roots", Some(&body)).await.unwrap();
    soon("trusted", async || status(&inside).await == 204).await;
    assert_eq!(status(&outside).await, 526, "the name is not below {suffix}");
    // In another virtual network it does not count.
    let lab =
        chain.call(Method::POST, "teamnet/virtual_networks", Some(&json!({ "name": "lab" }))).await.unwrap();
    let mut elsewhere = body.clone();
    elsewhere["virtual_networks"] = json!([lab["id"]]);
    let path = format!("x/gateway/origin_roots/{}", root["id"].as_str().unwrap());
    chain.call(Method::PUT, &path, Some(&elsewhere)).await.unwrap();
    soon("not trusted in another network", async || status(&inside).await == 526).await;
    chain.call(Method::PUT, &path, Some(&body)).await.unwrap();
    soon("trusted again", async || status(&inside).await == 204).await;
    chain.call(Method::DELETE, &path, None).await.unwrap();
    soon("not trusted any more", async || status(&inside).await == 526).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_person_sees_the_accounts_page_or_is_sent_there_with_who_and_why() {
    let chain = start_website().await;
    decrypt(&chain, true).await;
    let rule = json!({
        "name": "no downloads", "action": "block", "filters": ["http"], "precedence": 10, "enabled": true,
        "traffic": "starts_with(http.request.uri.path, \"/download\")",
    });
    let rule = chain.call(Method::POST, "gateway/rules", Some(&rule)).await.unwrap();
    let page = async |body: Value| {
        let body = json!({ "settings": { "block_page": body } });
        chain.call(Method::PATCH, "gateway/configuration", Some(&body)).await.unwrap();
    };
    page(json!({ "enabled": true, "mode": "customized_block_page", "header_text": "Ask <IT> first" })).await;
    let browser = browser(&chain, API_NAME).await;
    let ask = async || {
        let request =
            http::Request::get("/download/1").header("accept", "text/html").body(website::whole(""));
        browser.send(Version::HTTP_11, request.unwrap()).await.unwrap()
    };
    soon("in the account's words", async || {
        let answer = ask().await;
        let refused =
            answer.status() == StatusCode::FORBIDDEN && answer.headers()["cache-control"] == "no-store";
        let text = http_body_util::BodyExt::collect(answer.into_body()).await.unwrap().to_bytes();
        refused && String::from_utf8_lossy(&text).contains("Ask &lt;IT&gt; first")
    })
    .await;
    page(json!({
        "enabled": true, "mode": "redirect_uri", "target_uri": "https://help.example.com/", "include_context": true,
    }))
    .await;
    soon("sent there", async || {
        let answer = ask().await;
        let location =
            answer.headers().get("location").map(|to| to.to_str().unwrap().to_owned()).unwrap_or_default();
        location.starts_with("https://help.example.com/?cf_user_email=")
            && location.contains(&format!("cf_rule_id={}", rule["id"].as_str().unwrap()))
    })
    .await;
}

/// Case 22 of Gateway semantics, 9; and a protocol that no hello tells of.
#[tokio::test(flavor = "multi_thread")]
async fn tls_without_http_inside_is_closed_unless_the_account_lets_it_pass() {
    let chain = Chain::start().await.unwrap();
    let pki = Pki::open(&chain.dir().join("certificates")).unwrap();
    website::start_tls_echo(&chain.world.cluster, &api_address(PORT), &pki.server()).unwrap();
    decrypt(&chain, true).await;
    let certificates = chain.call(Method::GET, "gateway/certificates", None).await.unwrap();
    let both = chain.dir().join("both.pem");
    let pem = certificates[0]["certificate"].as_str().unwrap().to_owned();
    std::fs::write(&both, pem + &std::fs::read_to_string(pki.ca()).unwrap()).unwrap();
    let echoes = async |protocols: &[&str]| {
        let connected =
            website::connect_tls(&chain.world.laptop, api_address(PORT)[0], API_NAME, &both, protocols);
        let Ok(mut stream) = connected.await else { return false };
        let sent = b"\x01 no request\r\n\r\n";
        let mut back = vec![0; sent.len()];
        stream.write_all(sent).await.is_ok() && stream.read_exact(&mut back).await.is_ok() && back == sent
    };
    soon("closed by what the hello offers", async || !echoes(&["xmpp-client"]).await).await;
    assert!(!echoes(&[]).await, "closed by what came out");
    assert!(!echoes(&[]).await, "and again");
    let edge = chain.edge.as_ref().unwrap();
    let body = json!({ "settings": { "x_non_http_tls": "passthrough" } });
    chain.call(Method::PATCH, "gateway/configuration", Some(&body)).await.unwrap();
    let mark = edge.mark();
    soon("let through by what the hello offers", async || echoes(&["xmpp-client"]).await).await;
    edge.wait_for_line_after(mark, "inspection=\"not-http\"", ENFORCED).await.unwrap();
    soon("let through by what came out before", async || echoes(&[]).await).await;
    edge.wait_for_line_after(mark, "inspection=\"not-http-before\"", ENFORCED).await.unwrap();
    soon("recorded with why", async || {
        let found = records(&chain, "zero_trust_network_sessions", "limit=1000").await;
        let reasons = ["non_http_alpn", "non_http_before"];
        let there = |reason: &&str| found.iter().any(|record| record["InspectionBypassReason"] == **reason);
        let all = reasons.iter().all(there);
        // They are written a few times a second.
        tokio::time::sleep(Duration::from_millis(if all { 0 } else { 200 })).await;
        all
    })
    .await;
}
