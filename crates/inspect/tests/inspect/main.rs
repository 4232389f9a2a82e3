//! Connections are opened between a client and an origin that are made here, over pipes of the process.

#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

mod ends;

use std::sync::Arc;
use std::time::Duration;

use adit_inspect::{Action, Report, Setup, Verdict};
use adit_model::{FirstBytes, Redirect, UntrustedAction, UntrustedCertificate};
use bytes::Bytes;
use ends::{Client, Origin, Rules, authority, rule};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// A client, the origin behind, and what the gate says, joined by an opened connection.
struct World {
    client: Client,
    rules: Arc<Rules>,
    report: tokio::task::JoinHandle<Report>,
}

async fn world(origin: Origin, rules: Rules, protocols: &[&str]) -> World {
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
    World { client: Client::connect(near, protocols).await, rules, report }
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
