//! Programs that stop, are killed, and come back.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use adit_testbed::chain::{CONNECTIONS, Chain};
use adit_testbed::net::api_address;
use adit_testbed::origin::{self, Origin};
use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;
use tokio::task::JoinSet;

const PORT: u16 = 9000;
/// Within which everything returns by itself.
const RETURN_LIMIT: Duration = Duration::from_secs(10);
/// What one request may take while nothing is wrong.
const REQUEST_LIMIT: Duration = Duration::from_secs(5);

/// One request as a client makes it: a new connection, a few bytes there and back.
async fn request(chain: &Chain, n: usize) -> Result<()> {
    let address = api_address(PORT)[n % 2];
    let stream = chain.world.laptop.connect_within(address, REQUEST_LIMIT).await?;
    tokio::time::timeout(REQUEST_LIMIT, origin::open_echo(stream)).await.context("no echo")?.map(drop)
}

async fn wait_for_requests(chain: &Chain, limit: Duration) -> Duration {
    let start = Instant::now();
    for n in 0..2 {
        while let Err(error) = request(chain, n).await {
            assert!(start.elapsed() < limit, "nothing goes through again within {limit:?}: {error:#}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    start.elapsed()
}

/// Clients that make one request after another, from before something happens until after it.
struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    clients: JoinSet<Vec<String>>,
}

impl Load {
    fn start(chain: &Arc<Chain>) -> Self {
        let (stop, done, mut clients) =
            (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default(), JoinSet::new());
        for client in 0..4 {
            let (chain, stop, done) = (chain.clone(), stop.clone(), done.clone());
            clients.spawn(async move {
                let mut failures = Vec::new();
                let mut n = client;
                while !stop.load(Ordering::Relaxed) {
                    if let Err(error) = request(&chain, n).await {
                        failures.push(format!("client {client}, request {n}: {error:#}"));
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                    n += 1;
                }
                failures
            });
        }
        Self { stop, done, clients }
    }

    /// Waits until `count` more requests are done.
    async fn go_on(&self, count: usize) {
        let until = self.done.load(Ordering::Relaxed) + count;
        while self.done.load(Ordering::Relaxed) < until {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn failures(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.clients.join_all().await.concat()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connectors_stop_one_at_a_time_under_load_and_no_new_request_fails() {
    let mut chain = Chain::start().await.unwrap();
    let _origin = Origin::start(&chain.world.cluster, &api_address(PORT)).unwrap();
    let mut connectors: Vec<_> = chain.connectors.drain(..).collect();
    let chain = Arc::new(chain);
    let load = Load::start(&chain);
    load.go_on(50).await;
    for connector in connectors.iter_mut().take(2) {
        let status = connector.process.stop().await.unwrap();
        assert!(status.success(), "{}: {status}", connector.process.name());
        load.go_on(50).await;
    }
    assert_eq!(load.failures().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_connector_takes_only_its_own_flows() {
    let mut chain = Chain::start().await.unwrap();
    let _origin = Origin::start(&chain.world.cluster, &api_address(PORT)).unwrap();
    // Spread over all connections of all connectors.
    let mut streams = Vec::new();
    for n in 0..3 * CONNECTIONS * 2 {
        let stream = chain.world.laptop.connect(api_address(PORT)[n % 2]).await.unwrap();
        streams.push(origin::open_echo(stream).await.unwrap());
    }
    chain.connectors[0].process.kill().await.unwrap();
    wait_for_requests(&chain, RETURN_LIMIT).await;
    let mut alive = 0;
    for stream in &mut streams {
        let echo = tokio::time::timeout(RETURN_LIMIT, origin::check_echo(stream, b"still there?")).await;
        alive += usize::from(echo.expect("a flow of a killed connector ends").is_ok());
    }
    assert!(alive > 0 && alive < streams.len(), "{alive} of {} flows are alive", streams.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn after_an_edge_restart_agent_and_connectors_return_by_themselves() {
    let mut chain = Chain::start().await.unwrap();
    let _origin = Origin::start(&chain.world.cluster, &api_address(PORT)).unwrap();
    wait_for_requests(&chain, RETURN_LIMIT).await;
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let mut edge = chain.edge.take().unwrap();
        edge.signal(signal).unwrap();
        edge.wait(Duration::from_secs(40)).await.unwrap();
        let files = |chain: &Chain| {
            ["ca.pem", "admin-token", "account-id"].map(|f| fs::read(chain.data().join(f)).unwrap())
        };
        let before = files(&chain);
        chain.start_edge().await.unwrap();
        assert!(files(&chain) == before, "a second start changes nothing");
        let took = wait_for_requests(&chain, RETURN_LIMIT).await;
        eprintln!("after {signal} of the edge: requests again {took:?} after it answered");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn disconnecting_stopping_and_killing_the_agent_leave_the_machine_as_it_was() {
    let mut chain = Chain::with_connectors(1).await.unwrap();
    let _origin = Origin::start(&chain.world.cluster, &api_address(PORT)).unwrap();
    let machine =
        |chain: &Chain| (chain.world.laptop.routes().unwrap(), fs::read_to_string("/etc/resolv.conf").ok());
    let before = machine(&chain);
    chain.start_agent().await.unwrap();
    chain.enroll().await.unwrap();
    chain.wait_for_agent("connected").await.unwrap();
    wait_for_requests(&chain, RETURN_LIMIT).await;
    assert_ne!(machine(&chain), before);

    chain.agent_command(&["disconnect"]).await.unwrap();
    assert_eq!(machine(&chain), before, "after disconnect");
    chain.agent_command(&["connect"]).await.unwrap();
    chain.wait_for_agent("connected").await.unwrap();
    wait_for_requests(&chain, RETURN_LIMIT).await;

    for signal in [Signal::SIGKILL, Signal::SIGTERM] {
        let mut agent = chain.agent.take().unwrap();
        agent.signal(signal).unwrap();
        agent.wait(RETURN_LIMIT).await.unwrap();
        assert_eq!(machine(&chain), before, "after {signal}");
        // It was connected: it is again, without being told.
        chain.start_agent().await.unwrap();
        chain.wait_for_agent("connected").await.unwrap();
        wait_for_requests(&chain, RETURN_LIMIT).await;
    }
}
