//! `make demo`: an engineer's plain kubectl reaches a private API server that the laptop has no route to.
//!
//! Tells each step as it takes it, shows what kubectl printed, and exits with an error at the first thing that is not as
//! it should be. The same programs, hosts and commands as the end-to-end tests use.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "the demo talks to a person")]

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use adit_testbed::capture::{Capture, Traffic};
use adit_testbed::chain::{CONNECTIONS, Chain, Tunnel};
use adit_testbed::cluster::{API_PORT, Cluster, Family};
use adit_testbed::kubectl::{Kubectl, Session};
use adit_testbed::net::{
    API_V4, API_V6, EDGE_V4, EDGE_V6, LAPTOP_LINK, LAPTOP_V4, LAPTOP_V6, PRIVATE_V4, PRIVATE_V6, api_address,
};
use anyhow::{Context as _, Result, bail, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::watch;

/// How many connectors there are, as a Deployment of three replicas.
const CONNECTORS: usize = 3;
/// Longest wait for a line that must come.
const LIMIT: Duration = Duration::from_secs(20);
/// Lines of output shown per command.
const SHOWN_LINES: usize = 16;

const MANIFEST: &str = "\
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {colour: blue}
---
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  nodeName: worker
  containers:
    - {name: web, image: example/web:1}
";

#[tokio::main]
async fn main() -> ExitCode {
    let start = Instant::now();
    let outcome = async {
        let mut chain = lay_hosts()?;
        let outcome = run(&mut chain).await;
        if outcome.is_err() {
            chain.print_logs();
        }
        outcome
    };
    match outcome.await {
        Ok(()) => {
            println!("\nEverything was as it should be, in {:.1} s.", start.elapsed().as_secs_f64());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("\nFAILED: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn lay_hosts() -> Result<Chain> {
    title("Three hosts: laptop, edge, cluster");
    let chain = Chain::new()?;
    say("Network namespaces. The edge is between the other two and forwards no packet.");
    command("laptop$", "ip -brief address; ip route");
    show(&chain.world.laptop.output("ip", &["-brief", "address"])?);
    show(&chain.world.laptop.output("ip", &["route"])?);
    Ok(chain)
}

async fn run(chain: &mut Chain) -> Result<()> {
    let kubectl = Kubectl::main()?;
    let capture = Capture::start(&chain.world.laptop, LAPTOP_LINK)?;

    title("A Kubernetes API server in the cluster");
    let cluster = Cluster::start(&chain.world, chain.dir()).await?;
    say(&format!(
        "It is {}, at {API_V4} and {API_V6}, and demands client certificates.",
        cluster.description()
    ));
    say(&format!("kubectl is {}, {}.", kubectl.version(), kubectl.path().display()));
    check_unreachable(chain).await?;

    let tunnel = start_edge(chain).await?;
    start_connectors(chain, &tunnel).await?;
    start_agent(chain).await?;

    for family in Family::BOTH {
        let session = cluster.session(&chain.world.laptop, kubectl.clone(), family)?;
        kubectl_works(&session, family).await?;
    }
    let session = cluster.session(&chain.world.laptop, kubectl, Family::V4)?;
    drain(&mut chain.connectors, &session).await?;

    title("What the laptop's link carried");
    check_traffic(&capture.stop())?;

    title("Disconnect");
    command("laptop$", "adit agent disconnect");
    chain.agent_command(&["disconnect"]).await?;
    check_unreachable(chain).await
}

async fn check_unreachable(chain: &Chain) -> Result<()> {
    for address in api_address(API_PORT) {
        match chain.world.laptop.connect_within(address, LIMIT).await {
            Err(error) if error.kind() == ErrorKind::NetworkUnreachable => {
                ok(&format!("from the laptop, {address}: {error}"));
            }
            Err(error) => bail!("{address}: {error}, instead of having no route"),
            Ok(_) => bail!("the laptop reaches {address} without the agent"),
        }
    }
    Ok(())
}

async fn start_edge(chain: &mut Chain) -> Result<Tunnel> {
    title("The edge: `adit up`, a tunnel, two routes");
    command("edge$", &format!("adit up --data DIR --public-host {EDGE_V4} ..."));
    chain.start_edge().await?;
    let tunnel = chain.create_tunnel("api-zt").await?;
    ok(&format!("tunnel {} has id {}", tunnel.name, tunnel.id));
    for network in [PRIVATE_V4, PRIVATE_V6] {
        chain.create_route(&tunnel, network).await?;
        ok(&format!("{network} is routed to it"));
    }
    Ok(tunnel)
}

async fn start_connectors(chain: &mut Chain, tunnel: &Tunnel) -> Result<()> {
    title("Three connectors in pods of the cluster");
    say("Each with this file, as their Deployment mounts it, and --edge and --cacert:");
    for _ in 0..CONNECTORS {
        chain.start_connector(tunnel)?;
    }
    show(&fs::read_to_string(chain.dir().join("connector0/config.yaml"))?);
    chain.wait_for_connections(tunnel, CONNECTORS * CONNECTIONS).await?;
    command("edge$", "adit tunnel list");
    let list = chain.tunnel_list().await?;
    show(&list);
    ensure!(list.contains(&tunnel.id), "adit tunnel list does not show the tunnel");
    ok(&format!(
        "{CONNECTORS} connectors with {CONNECTIONS} connections each, and nothing listens in the cluster"
    ));
    Ok(())
}

async fn start_agent(chain: &mut Chain) -> Result<()> {
    title("The agent on the laptop");
    command("laptop$", "adit agent run --state DIR");
    chain.start_agent().await?;
    command("laptop$", &format!("adit agent enroll https://{EDGE_V4} --ca ca.pem --service-token ID:SECRET"));
    chain.enroll().await?;
    let status = chain.wait_for_agent("connected").await?;
    command("laptop$", "adit agent status --json");
    show(&serde_json::to_string_pretty(&status)?);
    let interface = chain.agent_interface()?;
    let routes = chain.world.laptop.routes()?;
    for network in [PRIVATE_V4, PRIVATE_V6] {
        let captured = routes.lines().any(|line| line.starts_with(network) && line.contains(&interface));
        ensure!(captured, "{network} is not routed to {interface}:\n{routes}");
        ok(&format!("{network} goes to {interface}"));
    }
    ensure!(
        !routes.lines().any(|line| line.starts_with("default")),
        "the agent took the default route:\n{routes}"
    );
    Ok(())
}

/// Runs kubectl, shows what it printed, and gives it.
async fn kubectl(session: &Session<'_>, args: &[&str], stdin: &str) -> Result<String> {
    command("laptop$", &format!("kubectl {}", args.join(" ")));
    let output = session.run(args, stdin).await?;
    show(&output);
    Ok(output)
}

async fn expect(session: &Session<'_>, args: &[&str], stdin: &str, want: &str) -> Result<()> {
    let output = kubectl(session, args, stdin).await?;
    ensure!(output.contains(want), "kubectl {} does not print {want:?}", args.join(" "));
    Ok(())
}

async fn kubectl_works(session: &Session<'_>, family: Family) -> Result<()> {
    title(&format!("Plain kubectl at {}: no proxy variable, no proxy in the kubeconfig", family.server()));
    expect(session, &["version"], "", "Server Version: v1.").await?;
    expect(session, &["get", "namespaces"], "", "kube-system").await?;

    let mut watch = session.spawn(&format!("watch-{family:?}"), &["get", "pods", "--watch"])?;
    expect(session, &["apply", "-f", "-"], MANIFEST, "pod/web created").await?;
    command("laptop$", "kubectl get pods --watch      (running since before)");
    show(&watch.wait_for_line("Running", LIMIT).await?);
    expect(session, &["get", "pods,configmaps"], "", "pod/web").await?;

    command("laptop$", "kubectl logs -f web");
    let mut logs = session.spawn(&format!("logs-{family:?}"), &["logs", "-f", "web"])?;
    logs.wait_for_line("web line 5", LIMIT).await?;
    show(&logs.output().join("\n"));
    ensure!(logs.is_running() && watch.is_running(), "logs -f or get --watch ended by itself");
    ok("logs -f and get --watch go on");

    expect(session, &["exec", "web", "--", "echo", "a word from the pod"], "", "a word from the pod").await?;
    expect(session, &["exec", "-i", "web", "--", "cat"], "to the pod and back\n", "to the pod and back")
        .await?;
    port_forward(session, family).await?;
    kubectl(session, &["delete", "pod/web", "configmap/settings", "--now"], "").await.map(drop)
}

async fn port_forward(session: &Session<'_>, family: Family) -> Result<()> {
    command("laptop$", "kubectl port-forward pod/web :80 &");
    let forward = session.spawn(&format!("port-forward-{family:?}"), &["port-forward", "pod/web", ":80"])?;
    let line = forward.wait_for_line("-> 80", LIMIT).await?;
    show(&line);
    let local: SocketAddr = line
        .strip_prefix("Forwarding from ")
        .and_then(|rest| rest.split(' ').next())
        .and_then(|address| address.parse().ok())
        .context("port-forward names its address")?;
    command("laptop$", &format!("curl http://{local}/"));
    let mut stream = session.connect(local).await?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await?;
    let mut answer = String::new();
    tokio::time::timeout(LIMIT, stream.read_to_string(&mut answer)).await.context("no answer")??;
    let body = answer.split("\r\n\r\n").nth(1).unwrap_or_default();
    show(body);
    ensure!(body == "hello from web\n", "another answer came through port-forward: {answer:?}");
    Ok(())
}

/// Stops connectors one at a time, as a node drain would, while kubectl is used.
async fn drain(connectors: &mut [adit_testbed::chain::Connector], session: &Session<'_>) -> Result<()> {
    title("Connectors stop one at a time while a client works");
    let (done, mut progress) = watch::channel(0);
    let stop = AtomicBool::new(false);
    let client = async {
        while !stop.load(Ordering::Relaxed) {
            session.run(&["get", "namespaces", "-o", "name"], "").await.context("a new request failed")?;
            done.send_modify(|requests| *requests += 1);
        }
        anyhow::Ok(())
    };
    let stopping = async {
        for connector in connectors.iter_mut().take(CONNECTORS - 1) {
            go_on(&mut progress).await?;
            command(
                "cluster$",
                &format!("kill -TERM {}      ({})", connector.process.id(), connector.process.name()),
            );
            let status = connector.process.stop().await?;
            ensure!(status.success(), "{} ended with {status}", connector.process.name());
            ok(&format!("{} has ended in order", connector.process.name()));
        }
        go_on(&mut progress).await?;
        stop.store(true, Ordering::Relaxed);
        anyhow::Ok(())
    };
    tokio::try_join!(client, stopping)?;
    let requests = *done.borrow();
    ok(&format!("{requests} runs of kubectl get meanwhile, and none failed"));
    Ok(())
}

/// Waits until some more requests have been made.
async fn go_on(progress: &mut watch::Receiver<usize>) -> Result<()> {
    let until = *progress.borrow() + 5;
    tokio::time::timeout(LIMIT, progress.wait_for(|requests| *requests >= until))
        .await
        .context("the client hangs")??;
    Ok(())
}

fn check_traffic(traffic: &Traffic) -> Result<()> {
    for (what, count) in traffic.by_service() {
        println!("      {:>9} bytes {:>7} packets  {what}", count.bytes, count.packets);
    }
    let laptop: [IpAddr; 2] = [LAPTOP_V4.into(), LAPTOP_V6.into()];
    let edge: [IpAddr; 2] = [EDGE_V4.into(), EDGE_V6.into()];
    // What is left of IPv6 on any link: neighbour discovery and group membership.
    let local = |address: &IpAddr| matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local() || v6.is_multicast() || v6.is_unspecified());
    let others: BTreeSet<IpAddr> = traffic
        .addresses()
        .into_iter()
        .filter(|address| !laptop.contains(address) && !edge.contains(address) && !local(address))
        .collect();
    ensure!(others.is_empty(), "the laptop's link saw {others:?}");
    let carried: u64 = traffic
        .pairs
        .iter()
        .filter(|(pair, _)| edge.contains(&pair.dst.ip()) && pair.dst.port() == 443)
        .map(|(_, count)| count.bytes)
        .sum();
    ensure!(carried > 0, "nothing went to the edge");
    ok("besides the link's own housekeeping, only the edge's address and port 443");
    Ok(())
}

fn title(text: &str) {
    println!("\n== {text}\n");
}

fn say(text: &str) {
    println!("   {text}");
}

fn command(prompt: &str, text: &str) {
    println!("   {prompt} {text}");
}

fn ok(text: &str) {
    println!("   ok: {text}");
}

fn show(text: &str) {
    for line in text.lines().take(SHOWN_LINES) {
        println!("      {line}");
    }
    if text.lines().count() > SHOWN_LINES {
        println!("      ...");
    }
}
