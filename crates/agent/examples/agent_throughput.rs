//! How fast the agent is: a bulk flow through interface, user-space TCP and HTTP/2 to a small edge on loopback.
//!
//! `cargo run -p adit-agent --example agent_throughput [STREAMS]` needs root: it makes a network namespace of its own. Everything shares
//! the machine's cores: the sender, the agent, the edge and the receiver. The baseline is the same transfer over
//! plain loopback.

#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a measurement that prints")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use adit_agent::control_socket::{self, EnrollCommand, ServiceToken};
use adit_agent::{AgentConfig, ConnectionState, run};
use nix::sched::{CloneFlags, unshare};
use rtnetlink::LinkUnspec;
use tokio::task::LocalSet;
use tokio_util::sync::CancellationToken;

#[path = "../tests/agent/edge.rs"]
#[expect(dead_code, reason = "the tests use more of it")]
mod edge;

use edge::{Edge, SERVER_V4, TOKEN};

const DURATION: Duration = Duration::from_secs(3);

fn main() {
    let streams = std::env::args().nth(1).map_or(1, |streams| streams.parse().unwrap());
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let (connection, handle, _) = rtnetlink::new_connection().unwrap();
        tokio::spawn(connection);
        handle.link().set(LinkUnspec::new_with_index(1).up().build()).execute().await.unwrap();
        let edge = Edge::start().await;
        let state = tempfile::tempdir().unwrap();
        let stop = CancellationToken::new();
        let agent = tokio::task::spawn_local(run(AgentConfig::new(state.path().to_owned()), stop.clone()));
        while control_socket::status(state.path()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let command = EnrollCommand {
            edge: edge.address.clone(),
            ca_pem: Some(edge.ca_pem.clone()),
            service_token: ServiceToken::new(TOKEN.0.to_owned(), TOKEN.1.to_owned()),
            force: false,
        };
        let status = control_socket::enroll(state.path(), command).await.unwrap();
        assert_eq!(status.state, ConnectionState::Connected);
        for address in ["127.0.0.1", SERVER_V4] {
            let up = tokio::task::spawn_blocking(move || measure(address, streams, true)).await.unwrap();
            let down = tokio::task::spawn_blocking(move || measure(address, streams, false)).await.unwrap();
            println!("{address}: {streams} streams, up {up:.2} Gbit/s, down {down:.2} Gbit/s");
        }
        stop.cancel();
        agent.await.unwrap().unwrap();
    });
}

#[expect(clippy::cast_precision_loss, reason = "a rate")]
fn measure(address: &str, streams: usize, up: bool) -> f64 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = SocketAddr::new(address.parse().unwrap(), listener.local_addr().unwrap().port());
    let mut receivers = Vec::new();
    for _ in 0..streams {
        let client = TcpStream::connect(target).unwrap();
        let (origin, _) = listener.accept().unwrap();
        let (sender, receiver) = if up { (client, origin) } else { (origin, client) };
        thread::spawn(move || send(sender));
        receivers.push(thread::spawn(move || receive(receiver)));
    }
    let bytes: u64 = receivers.into_iter().map(|receiver| receiver.join().unwrap()).sum();
    bytes as f64 * 8e-9 / DURATION.as_secs_f64()
}

fn send(mut stream: TcpStream) {
    let data = vec![7; 1 << 17];
    while stream.write_all(&data).is_ok() {}
}

fn receive(mut stream: TcpStream) -> u64 {
    let mut buffer = vec![0; 1 << 18];
    let (begin, mut bytes) = (Instant::now(), 0);
    while begin.elapsed() < DURATION {
        bytes += stream.read(&mut buffer).unwrap() as u64;
    }
    bytes
}
