//! An installation whose database goes away and comes back.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use adit_testbed::chain::{CONNECTIONS, Chain};
use adit_testbed::net::{PRIVATE_V4, PRIVATE_V6, api_address};
use adit_testbed::origin::{self, Origin};
use adit_testbed::postgres::Postgres;
use anyhow::{Context as _, Result};
use http::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const PORT: u16 = 9000;
const METRICS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9090);
/// Longest wait for anything.
const LIMIT: Duration = Duration::from_mins(1);
/// What one request may take.
const REQUEST_LIMIT: Duration = Duration::from_secs(5);
/// How old the snapshot may become in this test.
const MAX_STALENESS: &str = "20s";

/// A new flow: a few bytes there and back.
async fn flow(chain: &Chain, address: SocketAddr) -> Result<()> {
    let stream = chain.world.laptop.connect_within(address, REQUEST_LIMIT).await?;
    tokio::time::timeout(REQUEST_LIMIT, origin::open_echo(stream)).await.context("no echo")?.map(drop)
}

/// What the edge's metrics listener answers.
async fn shown(chain: &Chain, path: &str) -> Result<String> {
    let mut stream = chain.world.edge.connect_within(METRICS, REQUEST_LIMIT).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: edge\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

/// Waits until `/ready` says what is wanted.
async fn ready(chain: &Chain, wanted: impl Fn(&Value) -> bool) -> Value {
    let begun = Instant::now();
    loop {
        let answer = shown(chain, "/ready").await.unwrap();
        let body = answer.split("\r\n\r\n").nth(1).unwrap_or_default();
        let body: Value = serde_json::from_str(body).unwrap();
        if wanted(&body) {
            return body;
        }
        assert!(begun.elapsed() < LIMIT, "/ready still says {body}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Waits until a flow passes.
async fn passes(chain: &Chain, address: SocketAddr) {
    let begun = Instant::now();
    while let Err(error) = flow(chain, address).await {
        assert!(begun.elapsed() < LIMIT, "no flow to {address}: {error:#}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_database_an_edge_decides_until_its_snapshot_is_too_old_and_catches_up() {
    let files = tempfile::Builder::new()
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .tempdir()
        .unwrap();
    let server = match Postgres::own(files.path()) {
        Ok(server) => server,
        Err(reason) => {
            eprintln!("SKIPPED: {reason}");
            return;
        }
    };
    let mut chain = Chain::new().unwrap();
    chain.edge_flags =
        ["--database", &server.url(), "--max-staleness", MAX_STALENESS].map(String::from).into();
    chain.start_edge().await.unwrap();
    let tunnel = chain.create_tunnel("api-zt").await.unwrap();
    let v4 = chain.create_route(&tunnel, PRIVATE_V4).await.unwrap();
    chain.start_connector(&tunnel).unwrap();
    chain.wait_for_connections(&tunnel, CONNECTIONS).await.unwrap();
    chain.start_agent().await.unwrap();
    chain.enroll().await.unwrap();
    chain.wait_for_agent("connected").await.unwrap();
    let _origin = Origin::start(&chain.world.cluster, &api_address(PORT)).unwrap();
    let [first, second] = api_address(PORT);
    passes(&chain, first).await;
    let before = ready(&chain, |ready| ready["change_log"]["reached"] == true).await;
    assert_eq!(before["status"], 200);

    server.stop().unwrap();
    flow(&chain, first).await.unwrap();
    let lost = ready(&chain, |ready| ready["change_log"]["reached"] == false).await;
    assert_eq!((&lost["status"], &lost["snapshot"]), (&json!(200), &before["snapshot"]));
    assert!(lost["change_log"]["refuses_flows_in_seconds"].as_u64().unwrap() <= 20, "{lost}");
    flow(&chain, first).await.unwrap();
    let metrics = shown(&chain, "/metrics").await.unwrap();
    assert!(metrics.contains("adit_edge_change_log_reached 0"), "{metrics}");
    assert!(metrics.contains("adit_edge_snapshot_age_limit_seconds 20"), "{metrics}");
    let api = chain.api().unwrap();
    let (status, told) = api.call(&chain.world.edge, Method::GET, "cfd_tunnel", None).await.unwrap();
    assert_eq!((status, &told["errors"][0]["code"]), (503, &json!(1001)), "{told}");

    // Past its age no new flow is let through, and it is no longer ready.
    ready(&chain, |ready| ready["status"] == 503).await;
    flow(&chain, first).await.unwrap_err();

    server.start().unwrap();
    ready(&chain, |ready| ready["status"] == 200 && ready["change_log"]["reached"] == true).await;
    passes(&chain, first).await;
    // What is changed from now on reaches the edge that was without its database.
    let begun = Instant::now();
    while let Err(error) = chain.create_route(&tunnel, PRIVATE_V6).await {
        assert!(begun.elapsed() < LIMIT, "{error:#}");
    }
    passes(&chain, second).await;
    chain.call(Method::DELETE, &format!("teamnet/routes/{v4}"), None).await.unwrap();
    ready(&chain, |ready| ready["snapshot"].as_u64() >= before["snapshot"].as_u64().map(|number| number + 2))
        .await;
    flow(&chain, first).await.unwrap_err();
}
