//! Several edge nodes on one database: an agent lands on any of them, a flow is relayed to the one that holds its tunnel's
//! connections, and a node that is lost costs its own flows only.

use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use adit_testbed::chain::{CONNECTIONS, Chain};
use adit_testbed::net::{EDGE_INNER_V4, EDGE_V4, PRIVATE_V4, PRIVATE_V6, api_address};
use adit_testbed::origin::{self, Origin};
use adit_testbed::pki::{API_NAME, Pki};
use adit_testbed::postgres::Postgres;
use adit_testbed::process::Process;
use adit_testbed::website::{self, Browser};
use anyhow::{Context as _, Result, ensure};
use http::{Method, StatusCode, Version};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::gateway::soon;
use crate::records::records;

const PORT: u16 = 9300;
/// By when anything that happens by itself has happened; the figures themselves are printed.
const LIMIT: Duration = Duration::from_secs(30);
/// What one request may take while something is wrong.
const REQUEST_LIMIT: Duration = Duration::from_secs(5);

/// An edge node beside the one of `adit up`, on the same host with ports of its own.
struct Node {
    name: &'static str,
    https: u16,
    tunnel: u16,
    metrics: u16,
    process: Option<Process>,
}

impl Node {
    fn new(name: &'static str, n: u16) -> Self {
        Self { name, https: 8440 + n, tunnel: 7850 + n, metrics: 9100 + n, process: None }
    }

    /// Makes it with `adit node create`, whose output is its configuration.
    fn create(&self, chain: &Chain) {
        let hosts = format!("{EDGE_V4},{EDGE_INNER_V4}");
        let made = node(chain, &["create", self.name, "--public-host", &hosts]);
        assert!(made.contains("code: ") && made.contains("BEGIN CERTIFICATE"), "{made}");
        fs::write(chain.dir().join(format!("{}.yaml", self.name)), made).unwrap();
    }

    async fn start(&mut self, chain: &Chain) {
        let mut command = chain.adit(&chain.world.edge);
        command.args(["edge", "--config"]).arg(chain.dir().join(format!("{}.yaml", self.name)));
        command.arg("--data").arg(chain.dir().join(self.name));
        for (flag, port) in [("--https", self.https), ("--tunnel", self.tunnel)] {
            command.args([flag, &format!("[::]:{port}")]);
        }
        command.args(["--metrics", &format!("127.0.0.1:{}", self.metrics)]);
        let process = Process::spawn(self.name, chain.dir(), command).unwrap();
        process.wait_for_line("this edge node is up", LIMIT).await.unwrap();
        self.process = Some(process);
    }

    async fn kill(&mut self) {
        self.process.take().unwrap().kill().await.unwrap();
    }

    /// Where connectors find it.
    fn for_connectors(&self) -> String {
        format!("{EDGE_INNER_V4}:{}", self.tunnel)
    }

    /// As an agent's status names it.
    fn for_devices(&self) -> String {
        format!("{EDGE_V4}:{}", self.https)
    }
}

/// `adit node ARGS` on the edge's host; what it prints.
fn node(chain: &Chain, arguments: &[&str]) -> String {
    let mut command = chain.adit(&chain.world.edge);
    command.arg("node").arg("--data").arg(chain.data()).args(arguments).stdin(Stdio::null());
    let done = command.output().unwrap();
    assert!(done.status.success(), "{done:?}");
    String::from_utf8(done.stdout).unwrap()
}

/// A page of a metrics listener on the edge's host.
async fn page(chain: &Chain, port: u16, path: &str) -> String {
    let mut stream = chain.world.edge.connect(([127, 0, 0, 1], port).into()).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

/// Flows that a node relayed in this direction.
async fn relayed(chain: &Chain, port: u16, direction: &str) -> u64 {
    let line = format!("adit_edge_relayed_flows_total{{direction=\"{direction}\"}} ");
    let page = page(chain, port, "/metrics").await;
    page.lines().find_map(|text| text.strip_prefix(&line)?.trim().parse().ok()).unwrap_or(0)
}

async fn echo(chain: &Chain, n: usize) -> Result<TcpStream> {
    let stream = chain.world.laptop.connect_within(api_address(PORT)[n], REQUEST_LIMIT).await?;
    tokio::time::timeout(REQUEST_LIMIT, origin::open_echo(stream)).await.context("no echo")?
}

/// How long it takes until a request to each of these addresses goes through.
async fn wait_for_requests(chain: &Chain, addresses: &[usize]) -> Duration {
    let start = Instant::now();
    for &n in addresses {
        while let Err(error) = echo(chain, n).await {
            assert!(start.elapsed() < LIMIT, "nothing goes through again: {error:#}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    start.elapsed()
}

/// Connections of a tunnel at a node, and everywhere.
async fn count_at(chain: &Chain, tunnel: &str, node: &str) -> Result<(usize, usize)> {
    let connectors = chain.call(Method::GET, &format!("cfd_tunnel/{tunnel}/connections"), None).await?;
    let connectors = connectors.as_array().context("a list of connectors")?;
    let all = connectors.iter().flat_map(|c| c["conns"].as_array().into_iter().flatten());
    let places: Vec<&str> = all.filter_map(|connection| connection["colo_name"].as_str()).collect();
    Ok((places.iter().filter(|place| **place == node).count(), places.len()))
}

/// Waits until the tunnel has these connections and no others, by the nodes that hold them.
async fn wait_for_places(chain: &Chain, tunnel: &str, want: &[(&str, usize)]) -> Result<()> {
    let start = Instant::now();
    let total: usize = want.iter().map(|(_, count)| count).sum();
    for &(node, count) in want {
        while count_at(chain, tunnel, node).await? != (count, total) {
            ensure!(start.elapsed() < LIMIT, "connections are not at {want:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    Ok(())
}

/// Waits until the agent is connected to another edge than this one; that one, and how long it took.
async fn wait_for_other_edge(chain: &Chain, left: &str) -> (String, Duration) {
    let start = Instant::now();
    loop {
        let status = chain.agent_status().await.unwrap();
        let edge = edge_of(&status);
        if status["state"] == "connected" && edge != left {
            return (edge, start.elapsed());
        }
        assert!(start.elapsed() < LIMIT, "the agent does not leave {left}: {status}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn edge_of(status: &Value) -> String {
    status["edge"].as_str().unwrap_or_default().trim_start_matches("https://").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn flows_are_relayed_between_nodes_and_a_lost_node_costs_only_its_own() {
    let server = match Postgres::shared() {
        Ok(server) => server,
        Err(reason) => return eprintln!("SKIPPED: {reason}"),
    };
    let mut chain = Chain::new().unwrap();
    chain.edge_flags = vec!["--database".into(), server.url()];
    chain.start_edge().await.unwrap();
    let (mut a, mut b) = (Node::new("node-a", 1), Node::new("node-b", 2));
    for node in [&mut a, &mut b] {
        node.create(&chain);
        node.start(&chain).await;
    }
    // A node is up before its first heartbeat is in the database.
    let begun = Instant::now();
    loop {
        let list = node(&chain, &["list"]);
        if list.matches("live").count() == 3 {
            break;
        }
        assert!(begun.elapsed() < LIMIT, "{list}");
    }
    let ready = page(&chain, a.metrics, "/ready").await;
    assert!(ready.contains("\"database\":\"connected\""), "{ready}");

    // One tunnel has its connections on one node, another on the other; a third is spread over both.
    let (one, two) = (chain.create_tunnel("one").await.unwrap(), chain.create_tunnel("two").await.unwrap());
    let spread = chain.create_tunnel("spread").await.unwrap();
    chain.create_route(&one, PRIVATE_V4).await.unwrap();
    chain.create_route(&two, PRIVATE_V6).await.unwrap();
    chain.start_connector_to(&[a.for_connectors()], &one).unwrap();
    chain.start_connector_to(&[b.for_connectors()], &two).unwrap();
    chain.start_connector_to(&[a.for_connectors(), b.for_connectors()], &spread).unwrap();
    wait_for_places(&chain, &one.id, &[("node-a", CONNECTIONS)]).await.unwrap();
    wait_for_places(&chain, &two.id, &[("node-b", CONNECTIONS)]).await.unwrap();
    let half = CONNECTIONS / 2;
    wait_for_places(&chain, &spread.id, &[("node-a", half), ("node-b", half)]).await.unwrap();

    // The agent is at the control plane's own node, which holds no connection.
    let _origin = Origin::start(&chain.world.cluster, &api_address(PORT)).unwrap();
    chain.start_agent().await.unwrap();
    chain.enroll().await.unwrap();
    let first = edge_of(&chain.wait_for_agent("connected").await.unwrap());
    assert_eq!(first, EDGE_V4.to_string());
    wait_for_requests(&chain, &[0, 1]).await;
    assert!(relayed(&chain, 9090, "to_peer").await >= 2);
    assert!(relayed(&chain, a.metrics, "from_peer").await >= 1);
    assert!(relayed(&chain, b.metrics, "from_peer").await >= 1);

    // A node that is lost: its connector's connections go to the other one, and other nodes' flows do not notice.
    let mut through_a = echo(&chain, 0).await.unwrap();
    b.kill().await;
    let start = Instant::now();
    while count_at(&chain, &spread.id, "node-a").await.unwrap().0 < CONNECTIONS {
        assert!(start.elapsed() < LIMIT, "a lost node's connections are not made elsewhere");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    eprintln!(
        "after SIGKILL of a node: its connector's connections were on another {:?} later",
        start.elapsed()
    );
    origin::check_echo(&mut through_a, b"not noticed").await.unwrap();
    // What the lost node held is shown no more when its lease has ended.
    wait_for_places(&chain, &spread.id, &[("node-a", CONNECTIONS)]).await.unwrap();
    b.start(&chain).await;
    let back = wait_for_requests(&chain, &[1]).await;
    eprintln!("a node that came back was relayed to {back:?} after it was up");

    // Without the control plane nodes go on, and the agent goes to one of them.
    let carried =
        async |chain: &Chain| records(chain, "zero_trust_network_sessions", "limit=1000").await.len();
    soon("recorded", async || carried(&chain).await > 0).await;
    let before = carried(&chain).await;
    chain.edge.take().unwrap().kill().await.unwrap();
    let (second, moved) = wait_for_other_edge(&chain, &first).await;
    eprintln!("after SIGKILL of the agent's node: it was at another {moved:?} later");
    wait_for_requests(&chain, &[0, 1]).await;
    let (mut here, mut there) = if second == a.for_devices() { (a, b) } else { (b, a) };
    assert_eq!(second, here.for_devices());
    let own = usize::from(here.name == "node-b");

    // A flow that stays on its node goes on when the other one is lost.
    let mut stays = echo(&chain, own).await.unwrap();
    there.kill().await;
    for _ in 0..10 {
        origin::check_echo(&mut stays, b"still here").await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    there.start(&chain).await;
    wait_for_requests(&chain, &[1 - own]).await;
    here.kill().await;
    let (third, moved) = wait_for_other_edge(&chain, &second).await;
    eprintln!("after SIGKILL of the agent's next node: it was at another {moved:?} later");
    assert_eq!(third, there.for_devices());
    wait_for_requests(&chain, &[1 - own]).await;

    // What nodes carried meanwhile is found by the API, too.
    chain.start_edge().await.unwrap();
    soon("what nodes carried is recorded", async || carried(&chain).await > before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_starts_without_its_database_by_the_snapshot_that_it_kept() {
    let files = tempfile::Builder::new()
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .tempdir()
        .unwrap();
    let server = match Postgres::own(files.path()) {
        Ok(server) => server,
        Err(reason) => return eprintln!("SKIPPED: {reason}"),
    };
    let mut chain = Chain::new().unwrap();
    chain.edge_flags = vec!["--database".into(), server.url()];
    chain.start_edge().await.unwrap();
    let mut alone = Node::new("node-a", 1);
    alone.create(&chain);
    alone.start(&chain).await;
    let tunnel = chain.create_tunnel("one").await.unwrap();
    chain.create_route(&tunnel, PRIVATE_V4).await.unwrap();
    chain.start_connector_to(&[alone.for_connectors()], &tunnel).unwrap();
    wait_for_places(&chain, &tunnel.id, &[("node-a", CONNECTIONS)]).await.unwrap();
    let _origin = Origin::start(&chain.world.cluster, &api_address(PORT)).unwrap();
    chain.start_agent().await.unwrap();
    chain.enroll().await.unwrap();
    wait_for_requests(&chain, &[0]).await;
    let kept = chain.dir().join("node-a").join("snapshot");
    let begun = Instant::now();
    while !fs::read_to_string(&kept).is_ok_and(|kept| kept.contains(&tunnel.id)) {
        assert!(begun.elapsed() < LIMIT, "the snapshot is not kept");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    // Nothing is left but the connector, the agent and the node's own files.
    alone.kill().await;
    chain.edge.take().unwrap().kill().await.unwrap();
    server.stop().unwrap();
    alone.start(&chain).await;
    let (edge, _) = wait_for_other_edge(&chain, &EDGE_V4.to_string()).await;
    assert_eq!(edge, alone.for_devices());
    wait_for_requests(&chain, &[0]).await;
    let ready = page(&chain, alone.metrics, "/ready").await;
    assert!(ready.contains("\"database\":\"unreachable\""), "{ready}");

    // What was changed by then counts from when the database is there again.
    server.start().unwrap();
    chain.start_edge().await.unwrap();
    chain.create_route(&tunnel, PRIVATE_V6).await.unwrap();
    wait_for_requests(&chain, &[1]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_opened_on_a_node_by_what_the_accounts_authority_signed_for_it() {
    let server = match Postgres::shared() {
        Ok(server) => server,
        Err(reason) => return eprintln!("SKIPPED: {reason}"),
    };
    let mut chain = Chain::new().unwrap();
    chain.edge_flags = vec!["--database".into(), server.url()];
    chain.start_edge().await.unwrap();
    let mut one = Node::new("node-a", 1);
    one.create(&chain);
    one.start(&chain).await;
    let tunnel = chain.create_tunnel("one").await.unwrap();
    chain.create_route(&tunnel, PRIVATE_V4).await.unwrap();
    chain.start_connector_to(&[one.for_connectors()], &tunnel).unwrap();
    wait_for_places(&chain, &tunnel.id, &[("node-a", CONNECTIONS)]).await.unwrap();
    let pki = Pki::open(&chain.dir().join("certificates")).unwrap();
    let origin = &api_address(PORT)[..1];
    website::start_tls(&chain.world.cluster, origin, &pki.server()).unwrap();
    let roots = json!({ "name": "origins", "certificate": fs::read_to_string(pki.ca()).unwrap() });
    chain.call(Method::POST, "x/gateway/origin_roots", Some(&roots)).await.unwrap();
    let made = chain.call(Method::POST, "gateway/certificates", Some(&json!({}))).await.unwrap();
    let path = format!("gateway/certificates/{}/activate", made["id"].as_str().unwrap());
    chain.call(Method::POST, &path, Some(&json!({}))).await.unwrap();
    let ca = chain.dir().join("inspection.pem");
    fs::write(&ca, made["certificate"].as_str().unwrap()).unwrap();
    let edge = chain.edge.as_ref().unwrap();
    let mark = edge.mark();
    let on =
        json!({ "settings": { "tls_decrypt": { "enabled": true }, "certificate": { "id": made["id"] } } });
    chain.call(Method::PATCH, "gateway/configuration", Some(&on)).await.unwrap();
    edge.wait_for_line_after(mark, "a node may open this account's TLS", LIMIT).await.unwrap();
    chain.start_agent().await.unwrap();
    chain.enroll().await.unwrap();
    let first = edge_of(&chain.wait_for_agent("connected").await.unwrap());

    // On the node, without the control plane: what signs is there.
    chain.edge.take().unwrap().kill().await.unwrap();
    let (second, _) = wait_for_other_edge(&chain, &first).await;
    assert_eq!(second, one.for_devices());
    let browser = Browser::new(&chain.world.laptop, origin[0], API_NAME, &ca);
    let answers = async || {
        let begun = Instant::now();
        while !matches!(browser.get(Version::HTTP_2, "/status/204").await, Ok((StatusCode::NO_CONTENT, _))) {
            assert!(begun.elapsed() < LIMIT, "TLS is not opened on the node");
        }
    };
    answers().await;
    let opened = one.process.as_ref().unwrap().wait_for_line("inspection=\"opened\"", LIMIT).await;
    opened.unwrap();
    // And after a start without it, too.
    one.kill().await;
    one.start(&chain).await;
    wait_for_other_edge(&chain, "").await;
    answers().await;
}
