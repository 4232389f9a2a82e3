//! Connections are opened between a client and an origin that are made here, over pipes of the process.

#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

mod ends;

use std::sync::Arc;
use std::time::Duration;

use adit_inspect::{Action, Report, Setup, Verdict};
use adit_model::{
    BlockPage, CustomPage, FirstBytes, OwnPage, Redirect, UntrustedAction, UntrustedCertificate,
};
use bytes::Bytes;
use ends::{Client, Origin, Rules, authority, rule};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// A client, the origin behind, and what the gate says, joined by an opened connection.
struct World {
    client: Client,
    rules: Arc<Rules>,
    report: tokio::task::JoinHandle<Report>,
}

async fn world(origin: Origin, rules: Rules, protocols: &[&str]) -> World {
    let (near, rules, report) = opened(origin, rules, protocols);
    World { client: Client::connect(near, protocols).await, rules, report }
}

/// The client's end of a connection that is opened.
fn opened(
    origin: Origin,
    rules: Rules,
    protocols: &[&str],
) -> (tokio::io::DuplexStream, Arc<Rules>, tokio::task::JoinHandle<Report>) {
    let rules = Arc::new(rules);
    let (near, inside) = tokio::io::duplex(64 << 10);
    let (outside, far) = tokio::io::duplex(64 << 10);
    let first = FirstBytes {
        server_name: Some("app.example.com".into()),
        protocol: Some("tls"),
        application_protocols: protocols.iter().map(|id| (*id).to_owned()).collect(),
    };
    let setup = Setup {
        trust: ends::trust(),
        destination: "198.51.100.7:443".parse().unwrap(),
        tasks: tokio_util::task::TaskTracker::new(),
    };
    tokio::spawn(origin.serve(far));
    let gate = Arc::clone(&rules);
    let report =
        tokio::spawn(async move { adit_inspect::open_tls(inside, outside, &first, setup, gate).await });
    (near, rules, report)
}

#[tokio::test]
async fn a_request_passes_with_its_body_and_is_recorded_over_both_versions() {
    for (protocols, version) in
        [(vec!["h2", "http/1.1"], "HTTP/2"), (vec!["http/1.1"], "HTTP/1.1"), (vec![], "HTTP/1.1")]
    {
        let mut world = world(Origin::good(), Rules::default(), &protocols).await;
        for _ in 0..2 {
            let body = Bytes::from(vec![7; 300_000]);
            let request =
                Request::post("https://app.example.com/echo?x=1").body(Full::new(body.clone())).unwrap();
            let response = world.client.send(request).await.unwrap();
            assert_eq!(response.status(), 200);
            assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), body);
        }
        let record = world.rules.last();
        assert_eq!((record.version, record.status, record.action), (version, 200, Action::Allow));
        assert_eq!(record.uri, "https://app.example.com/echo?x=1");
        assert_eq!(record.validation, Some("VALID"));
    }
}

#[tokio::test]
async fn a_blocked_request_gets_a_page_and_the_connection_goes_on() {
    let mut rules = Rules::default();
    rules
        .paths
        .push(("/admin", Verdict::Block(rule(|rule| rule.settings.block_reason = "Not <here>.".into()))));
    let mut world = world(Origin::good(), rules, &["http/1.1"]).await;
    let page =
        Request::get("https://app.example.com/admin").header("accept", "text/html").body(Full::default());
    let response = world.client.send(page.unwrap()).await.unwrap();
    assert_eq!(response.status(), StatusCode::FORBIDDEN);
    assert_eq!(response.headers()["cache-control"], "no-store");
    assert_eq!(response.headers()["x-gateway-reason"], "blocked");
    let page = String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap();
    assert!(page.contains("Not &lt;here&gt;.") && page.contains("203.0.113.9"), "{page}");
    assert!(world.rules.last().rule.is_some());
    let program = Request::get("https://app.example.com/admin").body(Full::default()).unwrap();
    let response = world.client.send(program).await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/plain; charset=utf-8");
    let line = String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap();
    assert!(line.starts_with("Not <here>. [blocked; site app.example.com; rule "), "{line}");
    assert!(line.ends_with("; device laptop, 203.0.113.9]\n"), "{line}");
    let other = Request::get("https://app.example.com/echo").body(Full::default()).unwrap();
    assert_eq!(world.client.send(other).await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_person_sees_the_accounts_page_or_is_sent_to_the_rules_and_a_program_gets_a_line() {
    let mut rules = Rules::default();
    let mut to = BlockPage { target_uri: "https://block.example.com/?mine=1".into(), include_context: None };
    rules.paths.push(("/rule", Verdict::Block(rule(|rule| rule.settings.block_page = Some(to.clone())))));
    to.include_context = Some(true);
    rules.paths.push(("/told", Verdict::Block(rule(|rule| rule.settings.block_page = Some(to)))));
    rules.paths.push(("/plain", Verdict::Block(rule(|_| {}))));
    let custom = CustomPage {
        header_text: "Ask <IT> first".into(),
        mailto_address: "it@example.com".into(),
        mailto_subject: "let me in".into(),
        ..CustomPage::default()
    };
    rules.page = Some(Arc::new(OwnPage::CustomizedBlockPage(Box::new(custom))));
    let mut world = world(Origin::good(), rules, &["http/1.1"]).await;
    let mut ask = async |path: &str, header: &str, value: &str, method: Method| {
        let request = Request::builder().uri(format!("https://app.example.com{path}")).method(method);
        let request = request.header(header, value).header("access-control-request-method", "GET");
        let response = world.client.send(request.body(Full::default()).unwrap()).await.unwrap();
        assert_eq!(response.headers()["cache-control"], "no-store");
        let location = response.headers().get("location").map(|to| to.to_str().unwrap().to_owned());
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, location.unwrap_or_default(), String::from_utf8(body.to_vec()).unwrap())
    };
    let (status, _, page) = ask("/plain", "accept", "text/html", Method::GET).await;
    assert!(status == 403 && page.contains("Ask &lt;IT&gt; first"), "{page}");
    assert!(
        page.contains("mailto:it@example.com?subject=let%20me%20in") && page.contains("2026-01-02"),
        "{page}"
    );
    let (status, location, _) = ask("/rule", "sec-fetch-dest", "document", Method::GET).await;
    assert_eq!((status, location.as_str()), (302, "https://block.example.com/?mine=1"));
    let (_, location, _) = ask("/told", "accept", "text/html", Method::GET).await;
    let expected = "https://block.example.com/?mine=1&cf_user_email=jo%40example.com&cf_account_id=0123456789abcdef\
                    0123456789abcdef&cf_device_id=laptop&cf_source_ip=203.0.113.9&cf_rule_id=00000000-0000-0000-0000-\
                    000000000009&cf_policy_name=rule&cf_filter=http&cf_site_uri=https%3A%2F%2Fapp.example.com%2Ftold";
    assert_eq!(location, expected);
    // A script and a program are told in a line, and a preflight in nothing.
    let (status, _, line) = ask("/told", "sec-fetch-dest", "empty", Method::GET).await;
    assert!(status == 403 && line.contains("[blocked; "), "{line}");
    assert_eq!(
        ask("/told", "accept", "text/html", Method::OPTIONS).await,
        (403, String::new(), String::new())
    );
}

#[tokio::test]
async fn an_account_sends_people_to_its_own_page_unless_a_rule_has_one() {
    let mut rules = Rules::default();
    rules.paths.push(("/plain", Verdict::Block(rule(|_| {}))));
    let to =
        BlockPage { target_uri: "https://help.example.com/#blocked".into(), include_context: Some(true) };
    rules.page = Some(Arc::new(OwnPage::RedirectUri(to)));
    let mut world = world(Origin::good(), rules, &["h2"]).await;
    let request = Request::get("https://app.example.com/plain?secret=1").header("accept", "text/html");
    let response = world.client.send(request.body(Full::default()).unwrap()).await.unwrap();
    let location = response.headers()["location"].to_str().unwrap();
    assert!(
        location.starts_with("https://help.example.com/?cf_user_email=") && location.ends_with("#blocked")
    );
    assert!(!location.contains("secret"), "{location}");
    assert_eq!((world.rules.last().status, world.rules.last().action), (302, Action::Block));
}

#[tokio::test]
async fn a_redirection_leads_elsewhere() {
    let mut rules = Rules::default();
    let to = Redirect {
        target_uri: "https://new.example.com/base".into(),
        include_context: None,
        preserve_path_and_query: Some(true),
    };
    rules.paths.push(("/old", Verdict::Redirect(rule(|rule| rule.settings.redirect = Some(to)))));
    let mut world = world(Origin::good(), rules, &["h2"]).await;
    let request = Request::get("https://app.example.com/old?a=1").body(Full::default()).unwrap();
    let response = world.client.send(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::FOUND);
    assert_eq!(response.headers()["location"], "https://new.example.com/base/old?a=1");
}

#[tokio::test]
async fn a_rule_on_the_answer_refuses_it() {
    let mut rules = Rules::default();
    rules.paths.push(("/echo", Verdict::Later));
    rules.answered = Some(Verdict::Block(rule(|_| {})));
    let mut world = world(Origin::good(), rules, &["http/1.1"]).await;
    let request = Request::get("https://app.example.com/echo").body(Full::default()).unwrap();
    assert_eq!(world.client.send(request).await.unwrap().status(), StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn an_origin_whose_certificate_is_not_good_is_an_error_unless_a_rule_says_otherwise() {
    for (origin, reason) in [
        (Origin::expired(), "certificate_expired"),
        (Origin::named("other.example.com"), "certificate_hostname"),
        (Origin::unknown(), "certificate_unknown"),
    ] {
        let mut world = world(origin, Rules::default(), &["http/1.1"]).await;
        let request = Request::get("https://app.example.com/echo").body(Full::default()).unwrap();
        let response = world.client.send(request).await.unwrap();
        assert_eq!(response.status().as_u16(), 526);
        assert_eq!(response.headers()["x-gateway-reason"], reason);
    }
    for (action, status) in [(UntrustedAction::PassThrough, 200), (UntrustedAction::Block, 403)] {
        let mut rules = Rules::default();
        let allow = rule(|rule| rule.settings.untrusted_cert = Some(UntrustedCertificate { action }));
        rules.paths.push(("/echo", Verdict::Allow(Some(allow))));
        let mut world = world(Origin::expired(), rules, &["http/1.1"]).await;
        let request = Request::get("https://app.example.com/echo").body(Full::default()).unwrap();
        assert_eq!(world.client.send(request).await.unwrap().status().as_u16(), status);
    }
}

#[tokio::test]
async fn an_origin_that_asks_for_a_client_certificate_is_noticed() {
    let mut asking = world(Origin::asking(), Rules::default(), &["http/1.1"]).await;
    let request = || Request::get("https://app.example.com/echo").body(Full::default()).unwrap();
    assert_eq!(asking.client.send(request()).await.unwrap().status(), 200, "it asks, and serves anonymously");
    assert!(asking.rules.last().wants_certificate);
    for protocols in [["http/1.1"], ["h2"]] {
        let mut requiring = world(Origin::requiring(), Rules::default(), &protocols).await;
        for _ in 0..2 {
            let answer = tokio::time::timeout(Duration::from_secs(10), requiring.client.send(request()));
            let response = answer.await.expect("an answer, and no silence").unwrap();
            assert_eq!(response.status().as_u16(), 526, "{protocols:?}");
            assert_eq!(response.headers()["x-gateway-reason"], "mtls_required");
        }
    }
}

#[tokio::test]
async fn the_host_that_is_judged_is_the_host_that_the_origin_is_asked_for() {
    for (protocols, target) in
        [("http/1.1", "https://judged.example.com/host"), ("h2", "https://judged.example.com/host")]
    {
        let mut world = world(Origin::good(), Rules::default(), &[protocols]).await;
        let request = Request::get(target).header("host", "asked.example.com").body(Full::default()).unwrap();
        let response = world.client.send_as_it_is(request).await.unwrap();
        assert_eq!(
            response.into_body().collect().await.unwrap().to_bytes(),
            "judged.example.com",
            "{protocols}"
        );
        assert_eq!(world.rules.last().uri, target);
    }
    let mut world = world(Origin::good(), Rules::default(), &["http/1.1"]).await;
    let request = Request::get("/host").header("host", "one.example.com").header("host", "two.example.com");
    let response = world.client.send_as_it_is(request.body(Full::default()).unwrap()).await.unwrap();
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_client_that_does_not_trust_us_is_reported_with_what_the_origin_asked_for() {
    let rules = Rules { leaf: authority("somebody else's").leaf("app.example.com"), ..Rules::default() };
    let world = world(Origin::asking(), rules, &["http/1.1"]).await;
    let report = world.report.await.unwrap();
    assert!(report.wants_certificate);
    assert!(report.client_error.unwrap().contains("UnknownCA"), "the client says why");
}

#[tokio::test]
async fn an_upgrade_passes_both_ways() {
    let world = world(Origin::good(), Rules::default(), &["http/1.1"]).await;
    let mut stream = world.client.upgrade("/upgrade", "SPDY/3.1").await;
    for word in ["to", "and", "fro"] {
        stream.write_all(word.as_bytes()).await.unwrap();
        let mut back = vec![0; word.len()];
        stream.read_exact(&mut back).await.unwrap();
        assert_eq!(back, word.as_bytes());
    }
    assert_eq!(world.rules.last().status, 101);
    drop(stream);
}

#[tokio::test]
async fn what_an_origin_sent_before_it_broke_off_arrives_after_an_upgrade() {
    let world = world(Origin::good(), Rules::default(), &["http/1.1"]).await;
    let mut stream = world.client.upgrade("/farewell", "SPDY/3.1").await;
    let mut received = Vec::new();
    let ended = stream.read_to_end(&mut received).await;
    assert_eq!(received.len(), ends::FAREWELL, "{ended:?}");
    assert!(ended.is_err(), "an end that TLS does not tell is none");
}

#[tokio::test]
async fn trailers_and_streams_pass_as_they_come() {
    let mut world = world(Origin::good(), Rules::default(), &["h2"]).await;
    let request = Request::get("https://app.example.com/trailers").body(Full::default()).unwrap();
    let mut body = world.client.send(request).await.unwrap().into_body();
    let mut trailers = None;
    while let Some(frame) = tokio::time::timeout(Duration::from_secs(10), body.frame()).await.unwrap() {
        if let Ok(found) = frame.unwrap().into_trailers() {
            trailers = Some(found);
        }
    }
    assert_eq!(trailers.unwrap()["grpc-status"], "0");
}

#[tokio::test]
async fn a_request_on_a_shared_connection_for_a_host_that_passes_unopened_is_misdirected() {
    let rules = Rules { unopened: Some("private.example.com"), ..Rules::default() };
    let mut world = world(Origin::good(), rules, &["h2"]).await;
    let request = Request::get("https://private.example.com/echo").body(Full::default()).unwrap();
    assert_eq!(world.client.send(request).await.unwrap().status().as_u16(), 421);
}

#[tokio::test]
async fn what_is_no_http_is_told_apart_from_a_request() {
    let (near, rules, report) = opened(Origin::good(), Rules::default(), &[]);
    let mut stream = Client::handshake(near, &[]).await.unwrap();
    stream.write_all(b"\x00\x01 no method\r\n\r\n").await.unwrap();
    let mut rest = Vec::new();
    // However it ends.
    let _ended = stream.read_to_end(&mut rest).await;
    drop(stream);
    assert!(report.await.unwrap().not_http);
    assert!(rules.records.lock().unwrap().is_empty());
}
