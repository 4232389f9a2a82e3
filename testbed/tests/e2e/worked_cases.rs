//! The worked cases of the Gateway semantics (section 9) on whole flows, by their numbers.
//!
//! Cases 6, 7, 20 and 22 are in [`crate::inspection`], 8 to 12 in [`crate::dns`]; what asks who somebody is (13 to 16) waits for
//! identities.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use adit_testbed::chain::Chain;
use adit_testbed::net::{API_V4, API_V6};
use adit_testbed::website::{self, Browser};
use http::{Method, Version};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::gateway::soon;
use crate::records::records;

/// A name for which the origin has a good certificate, and one for which its certificate has expired.
const X: &str = "x.cluster.internal";
const EXPIRED: &str = "expired.cluster.internal";
const HTTPS: u16 = 443;
const OTHER_HTTPS: u16 = 8443;
const EXPIRED_HTTPS: u16 = 9443;
const LIMIT: Duration = Duration::from_secs(10);

/// Everything, with TLS opened, and origins whose authority the edge knows.
struct Case {
    chain: Chain,
    origin_ca: PathBuf,
    account_ca: PathBuf,
}

/// An authority in this directory: its certificate, and the files of what it signed for each of the names, of which the second
/// has expired.
fn authority(dir: &Path) -> (PathBuf, [(PathBuf, PathBuf); 2]) {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let path = dir.join("origin-ca.pem");
    std::fs::write(&path, ca.self_signed(&ca_key).unwrap().pem()).unwrap();
    let issuer = Issuer::new(ca, ca_key);
    let sign = |name: &str, until: i32| {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(until, 1, 1);
        let key = KeyPair::generate().unwrap();
        let files = (dir.join(format!("{name}.pem")), dir.join(format!("{name}-key.pem")));
        std::fs::write(&files.0, params.signed_by(&key, &issuer).unwrap().pem()).unwrap();
        std::fs::write(&files.1, key.serialize_pem()).unwrap();
        files
    };
    (path, [sign(X, 2100), sign(EXPIRED, 2021)])
}

fn at(port: u16) -> SocketAddr {
    (API_V4, port).into()
}

impl Case {
    async fn start() -> Self {
        let mut chain = Chain::new().unwrap();
        let (origin_ca, [good, expired]) = authority(chain.dir());
        chain.edge_flags = vec!["--origin-roots".into(), origin_ca.display().to_string()];
        chain.start_all().await.unwrap();
        let cluster = &chain.world.cluster;
        website::start(cluster, &[at(80)]).unwrap();
        website::start_tls(cluster, &[at(HTTPS), at(OTHER_HTTPS)], &good).unwrap();
        website::start_tls(cluster, &[at(EXPIRED_HTTPS)], &expired).unwrap();
        let account_ca = chain.dir().join("account-ca.pem");
        let case = Self { chain, origin_ca, account_ca };
        case.settings(json!({ "tls_decrypt": { "enabled": true } })).await;
        let found = case.chain.call(Method::GET, "gateway/certificates", None).await.unwrap();
        std::fs::write(&case.account_ca, found[0]["certificate"].as_str().unwrap()).unwrap();
        case
    }

    async fn settings(&self, settings: Value) {
        let body = json!({ "settings": settings });
        self.chain.call(Method::PATCH, "gateway/configuration", Some(&body)).await.unwrap();
    }

    async fn rules(&self, rules: &[Value]) -> Vec<String> {
        let mut ids = Vec::new();
        for rule in rules {
            let made = self.chain.call(Method::POST, "gateway/rules", Some(rule)).await.unwrap();
            ids.push(made["id"].as_str().unwrap().to_owned());
        }
        ids
    }

    async fn remove(&self, rules: Vec<String>) {
        for rule in rules {
            self.chain.call(Method::DELETE, &format!("gateway/rules/{rule}"), None).await.unwrap();
        }
    }

    /// A client that trusts the account, so that it gets what is opened and nothing else.
    fn inspected(&self, port: u16, name: &str) -> Browser {
        Browser::new(&self.chain.world.laptop, at(port), name, &self.account_ca)
    }

    /// A client that trusts the origin, so that it gets what passes unopened and nothing else.
    fn unopened(&self, port: u16, name: &str) -> Browser {
        Browser::new(&self.chain.world.laptop, at(port), name, &self.origin_ca)
    }

    /// What plain HTTP gets.
    async fn plain(&self, name: &str) -> String {
        let mut stream = self.chain.world.laptop.connect_within(at(80), LIMIT).await.unwrap();
        let request = format!("GET /status/200 HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        tokio::time::timeout(LIMIT, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
        answer
    }
}

async fn status(browser: &Browser) -> Option<u16> {
    browser.get(Version::HTTP_11, "/status/200").await.ok().map(|(status, _)| status.as_u16())
}

fn rule(filter: &str, action: &str, precedence: u64, traffic: &str) -> Value {
    json!({
        "name": format!("{filter} {action} {precedence}"), "action": action, "filters": [filter],
        "precedence": precedence, "enabled": true, "traffic": traffic,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn network_rules_come_before_http_rules_and_do_not_inspect_before_both_of_these() {
    let case = Case::start().await;
    let (inspected, unopened) = (case.inspected(HTTPS, X), case.unopened(HTTPS, X));
    soon("opened", async || status(&inspected).await == Some(200)).await;
    let (sni, host) = (format!("net.sni.host == \"{X}\""), format!("http.request.host == \"{X}\""));
    let block_http = rule("http", "block", 1, &host);

    // 1 and 3: a network rule blocks, and no page is shown, whatever HTTP rules say.
    for http in [block_http.clone(), rule("http", "allow", 1, &host)] {
        let rules = case.rules(&[rule("l4", "block", 1, &sni), http]).await;
        soon("closed", async || status(&inspected).await.is_none()).await;
        soon("recorded as blocked by the network rule", async || {
            let query = format!("policy_id={}&action=block", rules[0]);
            !records(&case.chain, "gateway_network", &query).await.is_empty()
        })
        .await;
        case.remove(rules).await;
        soon("open again", async || status(&inspected).await == Some(200)).await;
    }

    soon("what was agreed on with either side is recorded", async || {
        let found = records(&case.chain, "zero_trust_network_sessions", "limit=1000").await;
        found.iter().any(|record| {
            ["ClientTLSVersion", "OriginTLSVersion"].iter().all(|side| record[*side] == "TLSv1.3")
                && record["OriginTLSCipher"].as_str().is_some_and(|cipher| cipher.starts_with("TLS_AES_"))
        })
    })
    .await;

    // 2: a network rule allows, an HTTP rule blocks.
    let rules = case.rules(&[rule("l4", "allow", 1, &sni), block_http.clone()]).await;
    soon("a block page", async || status(&inspected).await == Some(403)).await;
    case.remove(rules).await;

    // 4 and 5: what is not to be inspected is not, though a rule before would block it; plain HTTP is judged.
    let rules = case.rules(&[block_http, rule("http", "off", 2, &host)]).await;
    soon("tunnelled as it is", async || status(&unopened).await == Some(200)).await;
    assert_eq!(status(&inspected).await, None, "the certificate is the origin's");
    let answer = case.plain(X).await;
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    case.remove(rules).await;

    // 19: the answer to an upgrade is judged like another.
    soon("opened again", async || status(&inspected).await == Some(200)).await;
    inspected.websocket("/websocket").await.unwrap();
    let rules = case.rules(&[rule("http", "block", 1, "http.response.status_code == 101")]).await;
    soon("no WebSocket", async || inspected.websocket("/websocket").await.is_err()).await;
    assert_eq!(status(&inspected).await, Some(200));
    case.remove(rules).await;

    // 24 and 25: the last rule is for all that no other let through; somebody unknown is nobody who is named.
    let rules = case
        .rules(&[
            json!({
                "name": "one person", "action": "allow", "filters": ["l4"], "precedence": 10, "enabled": true,
                "identity": "identity.email == \"ada@example.com\"",
            }),
            rule("l4", "block", 20, ""),
        ])
        .await;
    soon("nothing passes", async || case.chain.world.laptop.connect(at(HTTPS)).await.is_err()).await;
    case.remove(rules).await;
    soon("all passes", async || status(&inspected).await == Some(200)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origins_expired_certificate_is_an_error_unless_a_rule_says_that_it_does_not_matter() {
    let case = Case::start().await;
    let expired = case.inspected(EXPIRED_HTTPS, EXPIRED);
    // 18.
    soon("an error page", async || status(&expired).await == Some(526)).await;
    // 17.
    let mut pass = rule("http", "allow", 1, &format!("http.request.host == \"{EXPIRED}\""));
    pass["rule_settings"] = json!({ "untrusted_cert": { "action": "pass_through" } });
    let rules = case.rules(&[pass]).await;
    soon("passes", async || status(&expired).await == Some(200)).await;
    soon("recorded", async || {
        let found = records(&case.chain, "gateway_http", &format!("policy_id={}", rules[0])).await;
        found.iter().any(|record| {
            record["UntrustedCertificateAction"] == "passThrough"
                && record["OriginTLSCertificateValidationResult"] == "EXPIRED"
        })
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_http_passes_and_names_are_seen_where_they_are_looked_for() {
    let case = Case::start().await;
    let inspected = case.inspected(HTTPS, X);
    soon("opened", async || status(&inspected).await == Some(200)).await;

    // 21: something else on the port of HTTPS passes, and is known for what it is.
    let ssh = SocketAddr::from((API_V6, HTTPS));
    let listener = case.chain.world.cluster.listen(ssh).unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut hello = [0; 12];
            let _ = stream.read_exact(&mut hello).await;
            let _ = stream.write_all(&hello).await;
        }
    });
    let mut stream = case.chain.world.laptop.connect_within(ssh, LIMIT).await.unwrap();
    stream.write_all(b"SSH-2.0-abc\n").await.unwrap();
    let mut back = [0; 12];
    tokio::time::timeout(LIMIT, stream.read_exact(&mut back)).await.unwrap().unwrap();
    drop(stream);
    soon("known as SSH", async || {
        let found = records(&case.chain, "zero_trust_network_sessions", "").await;
        found
            .iter()
            .any(|record| record["OriginIP"] == API_V6.to_string() && record["DetectedProtocol"] == "ssh")
    })
    .await;

    // 23: names are seen on every port only where every port is looked at.
    let rules = case.rules(&[rule("l4", "block", 1, &format!("net.sni.host == \"{X}\""))]).await;
    let (other, as_it_is) = (case.inspected(OTHER_HTTPS, X), case.unopened(OTHER_HTTPS, X));
    soon("blocked by its name", async || status(&other).await.is_none()).await;
    case.settings(json!({ "inspection": { "mode": "static" } })).await;
    soon("not looked at", async || status(&as_it_is).await == Some(200)).await;
    assert_eq!(status(&inspected).await, None, "but on its own port");
    case.remove(rules).await;
}
