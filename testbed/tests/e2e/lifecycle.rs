//! Connectors that are replaced one by one, or vanish, while requests and long streams go on.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use adit_testbed::chain::{CONNECTIONS, Chain, Connector, Tunnel};
use adit_testbed::net::{Namespace, PRIVATE_V4, PRIVATE_V6, api_address};
use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

const PORT: u16 = 9100;
const CONNECTORS: usize = 3;
const STREAMS: usize = 50;
/// Between two requests: 200 of them a second.
const PACE: Duration = Duration::from_millis(5);
/// Within which a vanished connector gets no more flows.
const OUT_LIMIT: Duration = Duration::from_secs(5);
/// What a request waits for once the connector is out, at the most, on a machine that is not busy with other things.
const USUAL_LIMIT: Duration = Duration::from_secs(2);
const LIMIT: Duration = Duration::from_secs(20);

/// A service that says from where it was reached, which is the pod of the connector that dialled, and then echoes.
fn start_service(cluster: &Namespace) -> Result<()> {
    for address in api_address(PORT) {
        tokio::spawn(accept(cluster.listen(address)?));
    }
    Ok(())
}

async fn accept(listener: TcpListener) {
    while let Ok((mut stream, peer)) = listener.accept().await {
        tokio::spawn(async move {
            if stream.write_u8(pod_number(peer.ip())).await.is_ok() {
                let (mut read, mut write) = stream.split();
                // Whoever asked has seen what there was to see.
                let _ = tokio::io::copy(&mut read, &mut write).await;
            }
        });
    }
}

/// The number in a pod's address, of either family.
fn pod_number(address: IpAddr) -> u8 {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.octets()[2],
        IpAddr::V6(v6) => v6.octets()[7],
    }
}

/// A connection to the service, and the pod through which it goes.
struct Open {
    stream: TcpStream,
    pod: u8,
}

impl Open {
    async fn new(laptop: &Namespace, n: usize) -> Result<Self> {
        let mut stream = laptop.connect_within(api_address(PORT)[n % 2], LIMIT).await?;
        let pod = stream.read_u8().await?;
        Ok(Self { stream, pod })
    }

    async fn echo(&mut self) -> Result<()> {
        self.stream.write_all(b"echo").await?;
        let mut echo = [0; 4];
        let read = tokio::time::timeout(LIMIT, self.stream.read_exact(&mut echo)).await;
        read.context("no echo in time")??;
        ensure!(&echo == b"echo", "the echo is {echo:?}");
        Ok(())
    }
}

/// One request: when it was made, how long it took, and through which pod it went.
struct Done {
    at: Instant,
    took: Duration,
    result: Result<u8>,
}

/// Requests at a fixed pace, however long each takes.
struct Load {
    stop: Arc<AtomicBool>,
    clients: tokio::task::JoinHandle<Vec<Done>>,
}

impl Load {
    fn start(laptop: &Namespace) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let (laptop, stopped) = (laptop.clone(), Arc::clone(&stop));
        let clients = tokio::spawn(async move {
            let mut pace = tokio::time::interval(PACE);
            let (mut requests, mut done) = (JoinSet::new(), Vec::new());
            for n in 0.. {
                pace.tick().await;
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                while let Some(request) = requests.try_join_next() {
                    done.push(request.unwrap());
                }
                let laptop = laptop.clone();
                requests.spawn(async move {
                    let at = Instant::now();
                    let result = tokio::time::timeout(LIMIT, request(&laptop, n)).await;
                    let result = result.unwrap_or_else(|_| Err(anyhow::anyhow!("no answer in time")));
                    Done { at, took: at.elapsed(), result }
                });
            }
            done.extend(requests.join_all().await);
            done
        });
        Self { stop, clients }
    }

    async fn stop(self) -> Vec<Done> {
        self.stop.store(true, Ordering::Relaxed);
        self.clients.await.unwrap()
    }
}

async fn request(laptop: &Namespace, n: usize) -> Result<u8> {
    let mut open = Open::new(laptop, n).await?;
    open.echo().await?;
    Ok(open.pod)
}

fn failures(done: &[Done]) -> Vec<String> {
    let failed = |done: &Done| done.result.as_ref().err().map(|error| format!("{:?}: {error:#}", done.took));
    done.iter().filter_map(failed).collect()
}

/// Everything of a chain but its connectors; then those, in order, each with the same configuration.
struct Replicas {
    chain: Chain,
    tunnel: Tunnel,
    config: String,
    connectors: Vec<(Connector, u8)>,
    started: u8,
}

impl Replicas {
    async fn start(protocol: &str, grace: Duration) -> Self {
        let mut chain = Chain::new().unwrap();
        chain.start_edge().await.unwrap();
        let tunnel = chain.create_tunnel("api-zt").await.unwrap();
        chain.create_route(&tunnel, PRIVATE_V4).await.unwrap();
        chain.create_route(&tunnel, PRIVATE_V6).await.unwrap();
        start_service(&chain.world.cluster).unwrap();
        let config = format!(
            "tunnel: {}\ncredentials-file: /opt/zt/creds/creds.json\nmetrics: 0.0.0.0:8081\nprotocol: {protocol}\n\
             grace-period: {}s\nwarp-routing:\n    enabled: true\n",
            tunnel.id,
            grace.as_secs()
        );
        let mut replicas = Self { chain, tunnel, config, connectors: Vec::new(), started: 0 };
        for _ in 0..CONNECTORS {
            replicas.add();
        }
        replicas.wait_for(CONNECTORS).await;
        replicas.chain.start_agent().await.unwrap();
        replicas.chain.enroll().await.unwrap();
        replicas.chain.wait_for_agent("connected").await.unwrap();
        replicas
    }

    fn add(&mut self) {
        let ca = self.chain.data().join("ca.pem");
        let connector =
            self.chain.spawn_connector(&self.config, &self.tunnel.credentials, Path::new(&ca)).unwrap();
        // Pods are numbered in the order of their start.
        self.connectors.push((connector, self.started));
        self.started += 1;
    }

    async fn wait_for(&self, connectors: usize) {
        self.chain.wait_for_connections(&self.tunnel, connectors * CONNECTIONS).await.unwrap();
    }

    async fn open_streams(&self) -> Vec<Open> {
        let mut streams = Vec::new();
        for n in 0..STREAMS {
            streams.push(Open::new(&self.chain.world.laptop, n).await.unwrap());
        }
        streams
    }

    /// Stops the oldest connector and starts another. Streams that went through it are opened anew when it is gone; gives
    /// since when it was to get no new flows, and its pod.
    async fn replace_oldest(&mut self, streams: &mut Vec<Open>) -> (Instant, u8) {
        let (mut connector, pod) = self.connectors.remove(0);
        connector.process.signal(Signal::SIGTERM).unwrap();
        self.wait_for(self.connectors.len()).await;
        let left = Instant::now();
        // Within the grace period nothing that is open ends, wherever it goes.
        for stream in &mut *streams {
            stream
                .echo()
                .await
                .with_context(|| format!("a stream through pod {} while {pod} drains", stream.pod))
                .unwrap();
        }
        let status = connector.process.wait(LIMIT).await.unwrap();
        assert!(status.success(), "{pod}: {status}");
        let laptop = &self.chain.world.laptop;
        for (n, stream) in streams.iter_mut().enumerate() {
            if stream.pod == pod {
                *stream = Open::new(laptop, n).await.unwrap();
            } else {
                stream
                    .echo()
                    .await
                    .with_context(|| format!("a stream through pod {} after {pod}", stream.pod))
                    .unwrap();
            }
        }
        self.add();
        self.wait_for(self.connectors.len()).await;
        (left, pod)
    }
}

/// Every connector is replaced, `rounds` times; `pause` between two of them.
async fn check_rolling_restart(protocol: &str, grace: Duration, rounds: usize, pause: Duration) {
    let mut replicas = Replicas::start(protocol, grace).await;
    let mut streams = replicas.open_streams().await;
    let mut pods: Vec<_> = streams.iter().map(|stream| stream.pod).collect();
    pods.sort_unstable();
    pods.dedup();
    assert_eq!(pods.len(), CONNECTORS, "streams go through every connector: {pods:?}");
    let load = Load::start(&replicas.chain.world.laptop);
    let mut left = Vec::new();
    for _ in 0..rounds * CONNECTORS {
        tokio::time::sleep(pause).await;
        left.push(replicas.replace_oldest(&mut streams).await);
    }
    let done = load.stop().await;
    assert_eq!(failures(&done), Vec::<String>::new(), "of {} requests", done.len());
    for (since, gone) in left {
        let late =
            done.iter().filter(|done| done.at > since && done.result.as_ref().is_ok_and(|pod| *pod == gone));
        assert_eq!(late.count(), 0, "new flows went to {gone} after it had left");
    }
    eprintln!("{} requests, none failed", done.len());
}

/// The link of a connector's host goes down, and nobody is told.
async fn check_vanished_host(protocol: &str) {
    let replicas = Replicas::start(protocol, Duration::from_secs(2)).await;
    let load = Load::start(&replicas.chain.world.laptop);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (connector, pod) = &replicas.connectors[0];
    connector.pod.batch(&["link set dev eth0 down".to_owned()]).unwrap();
    let vanished = Instant::now();
    tokio::time::sleep(OUT_LIMIT + Duration::from_secs(2)).await;
    let done = load.stop().await;
    let through = |done: &&Done| done.result.as_ref().is_ok_and(|through| through == pod);
    assert!(
        done.iter().any(|done| done.at < vanished && through(&done)),
        "nothing went through {pod} before"
    );
    // What was being dialled through it is dialled through another; what was open through it is lost with it.
    let lost = done.iter().filter(|done| done.at < vanished && done.at + done.took > vanished).count();
    let failed = failures(&done);
    assert!(failed.len() <= lost, "{} failed, {lost} were under way: {failed:?}", failed.len());
    let before = done.iter().filter(|done| done.at + done.took < vanished).map(|done| done.took).max();
    let usual = USUAL_LIMIT.max(before.unwrap_or_default() * 2);
    let slow = done.iter().filter(|done| done.at > vanished + OUT_LIMIT && done.took > usual).count();
    assert_eq!(slow, 0, "requests still wait for pod {pod}, {OUT_LIMIT:?} after it vanished");
    let longest = done.iter().filter(|done| done.at > vanished).map(|done| done.took).max();
    eprintln!("{protocol}: {} requests, the longest took {longest:?}", done.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn connectors_are_replaced_one_by_one_and_nothing_is_lost() {
    check_rolling_restart("auto", Duration::from_secs(2), 1, Duration::from_millis(200)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connector_whose_host_vanishes_is_out_of_the_rotation_within_five_seconds() {
    check_vanished_host("quic").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_http2_too_a_vanished_host_is_out_of_the_rotation_within_five_seconds() {
    check_vanished_host("http2").await;
}

/// Run by `make test-long`.
mod long {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn connectors_are_replaced_again_and_again_with_a_long_grace_period() {
        for protocol in ["quic", "http2"] {
            check_rolling_restart(protocol, Duration::from_secs(15), 2, Duration::from_secs(2)).await;
        }
    }
}
