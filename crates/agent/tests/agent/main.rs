//! A whole agent, with its interface and routes, in a network namespace of its own; the edge is a small one in the test.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, and says when it is skipped"
)]

mod datagrams;
mod edge;
mod proxy;

use std::future::Future;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use adit_agent::control_socket::{self, ClientError, EnrollCommand, ServiceToken};
use adit_agent::{AgentConfig, ConnectionState, RunError, Status, Transport, run};
use adit_wire::device::Event;
use nix::sched::{CloneFlags, unshare};
use rtnetlink::LinkUnspec;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, LocalSet};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use edge::{BLOCKED, Edge, SERVER_V4, SERVER_V6, SLOW, TOKEN, UNROUTABLE_V6};

const PATIENCE: Duration = Duration::from_secs(20);

/// Runs `test` in a network namespace of its own, or says why that cannot be.
fn in_own_network<F: Future<Output = ()>>(test: impl FnOnce() -> F) {
    if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
        println!("SKIPPED: no network namespace of its own ({error}): needs CAP_SYS_ADMIN");
        return;
    }
    if !Path::new("/dev/net/tun").exists() {
        println!("SKIPPED: no /dev/net/tun");
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let (connection, handle, _) = rtnetlink::new_connection().unwrap();
        tokio::spawn(connection);
        handle.link().set(LinkUnspec::new_with_index(1).up().build()).execute().await.unwrap();
        timeout(PATIENCE * 3, test()).await.expect("the test ends in time");
    });
}

/// An agent and its edge.
struct Laptop {
    edge: Edge,
    config: AgentConfig,
    state: TempDir,
    stop: CancellationToken,
    agent: JoinHandle<Result<(), RunError>>,
}

impl Laptop {
    async fn new() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut AgentConfig)) -> Self {
        let state = tempfile::tempdir().unwrap();
        let mut config = AgentConfig::new(state.path().to_owned());
        change(&mut config);
        let (stop, agent) = start(&config).await;
        Self { edge: Edge::start().await, config, state, stop, agent }
    }

    async fn enrolled() -> Self {
        Self::new().await.and_enrolled().await
    }

    async fn and_enrolled(self) -> Self {
        let laptop = self;
        let status = laptop.enroll(TOKEN.1, false).await.unwrap();
        assert_eq!(status.state, ConnectionState::Connected, "{status:?}");
        laptop
    }

    async fn enroll(&self, secret: &str, force: bool) -> Result<Status, ClientError> {
        let command = EnrollCommand {
            edge: self.edge.address.clone(),
            ca_pem: Some(self.edge.ca_pem.clone()),
            service_token: ServiceToken::new(TOKEN.0.to_owned(), secret.to_owned()),
            force,
        };
        control_socket::enroll(self.state.path(), command).await
    }

    async fn status(&self) -> Status {
        control_socket::status(self.state.path()).await.unwrap()
    }

    async fn wait_for(&self, state: ConnectionState) -> Status {
        let reached = async {
            loop {
                let status = self.status().await;
                if status.state == state {
                    return status;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, reached).await.unwrap_or_else(|_| panic!("{state:?} is not reached"))
    }

    async fn stop_agent(&mut self) {
        self.stop.cancel();
        (&mut self.agent).await.unwrap().unwrap();
    }

    async fn restart_agent(&mut self) {
        self.stop_agent().await;
        (self.stop, self.agent) = start(&self.config).await;
    }
}

async fn start(config: &AgentConfig) -> (CancellationToken, JoinHandle<Result<(), RunError>>) {
    let stop = CancellationToken::new();
    let agent = tokio::task::spawn_local(run(config.clone(), stop.clone()));
    while control_socket::status(&config.state).await.is_err() {
        assert!(!agent.is_finished(), "{:?}", agent.await);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    (stop, agent)
}

/// What listens behind the edge, and its address as seen from the laptop.
async fn server(address: &str) -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, SocketAddr::new(address.parse().unwrap(), port))
}

async fn connect(address: SocketAddr) -> std::io::Result<TcpStream> {
    timeout(PATIENCE, TcpStream::connect(address)).await.expect("connect returns in time")
}

fn interfaces() -> String {
    std::fs::read_to_string("/proc/thread-self/net/dev").unwrap()
}

#[test]
fn flows_are_carried_over_both_families() {
    in_own_network(|| async {
        let laptop = Laptop::enrolled().await;
        let status = laptop.status().await;
        assert_eq!(status.transport, Some(Transport::H2));
        assert_eq!(status.user.as_deref(), Some("robot"));
        assert_eq!(status.interface.as_deref(), Some("adit0"));
        assert_eq!(status.routes, ["198.51.100.0/24", "2001:db8::/64"]);
        for address in [SERVER_V4, SERVER_V6] {
            let (listener, address) = server(address).await;
            let (client, accepted) = tokio::join!(connect(address), listener.accept());
            let (mut client, (mut origin, _)) = (client.unwrap(), accepted.unwrap());
            let sent: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
            let mut received = Vec::new();
            let (mut from, mut to) = client.split();
            let (mut origin_from, mut origin_to) = origin.split();
            let (up, echoed, down) = tokio::join!(
                async {
                    to.write_all(&sent).await?;
                    to.shutdown().await
                },
                async {
                    tokio::io::copy(&mut origin_from, &mut origin_to).await?;
                    origin_to.shutdown().await
                },
                from.read_to_end(&mut received),
            );
            up.unwrap();
            echoed.unwrap();
            down.unwrap();
            assert!(received == sent, "bytes differ");
        }
    });
}

#[test]
fn refusals_are_seen_as_from_a_real_network() {
    in_own_network(|| async {
        let _laptop = Laptop::enrolled().await;
        let (listener, closed) = server(SERVER_V4).await;
        drop(listener);
        assert_eq!(connect(closed).await.unwrap_err().kind(), ErrorKind::ConnectionRefused);
        for (address, errno) in [
            (BLOCKED, libc::ECONNREFUSED),
            ("198.51.100.14", libc::EHOSTUNREACH),
            (UNROUTABLE_V6, libc::EHOSTUNREACH),
        ] {
            let error = connect(SocketAddr::new(address.parse().unwrap(), 443)).await.unwrap_err();
            assert_eq!(error.raw_os_error(), Some(errno), "{address}: {error}");
        }
        // Not answered before the far side has: neither yes nor no.
        let slow = TcpStream::connect(SocketAddr::new(SLOW.parse().unwrap(), 443));
        assert!(timeout(Duration::from_millis(300), slow).await.is_err());
    });
}

#[test]
fn half_closes_and_resets_cross_the_path() {
    in_own_network(|| async {
        let _laptop = Laptop::enrolled().await;
        let (listener, address) = server(SERVER_V4).await;
        let pair = || async {
            let (client, accepted) = tokio::join!(connect(address), listener.accept());
            (client.unwrap(), accepted.unwrap().0)
        };
        let (mut client, mut origin) = pair().await;
        origin.write_all(b"bye").await.unwrap();
        origin.shutdown().await.unwrap();
        let mut text = String::new();
        client.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "bye");
        client.write_all(b"still here").await.unwrap();
        drop(client);
        text.clear();
        origin.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "still here");

        let (mut client, origin) = pair().await;
        origin.set_zero_linger().unwrap();
        drop(origin);
        assert_eq!(client.read_u8().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
        let (client, mut origin) = pair().await;
        client.set_zero_linger().unwrap();
        drop(client);
        assert_eq!(origin.read_u8().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    });
}

#[test]
fn flows_beside_a_bulk_flow_get_a_connection_of_their_own() {
    in_own_network(|| async {
        let laptop = Laptop::enrolled().await;
        let (listener, address) = server(SERVER_V4).await;
        let (bulk, accepted) = tokio::join!(connect(address), listener.accept());
        let (mut bulk, mut sink) = (bulk.unwrap(), accepted.unwrap().0);
        let sending =
            tokio::task::spawn_local(async move { while bulk.write_all(&[7; 10_000]).await.is_ok() {} });
        let receiving =
            tokio::task::spawn_local(async move { tokio::io::copy(&mut sink, &mut tokio::io::sink()).await });
        let before = laptop.edge.connections();
        assert!(before <= 2, "enrolment and one connection");
        let grown = async {
            while laptop.edge.connections() == before {
                let (small, accepted) = tokio::join!(connect(address), listener.accept());
                drop((small.unwrap(), accepted.unwrap()));
            }
        };
        timeout(PATIENCE, grown).await.expect("another connection");
        sending.abort();
        receiving.abort();
    });
}

#[test]
fn disconnecting_takes_everything_away_and_is_remembered() {
    in_own_network(|| async {
        let mut laptop = Laptop::enrolled().await;
        let (listener, address) = server(SERVER_V4).await;
        let (client, _accepted) = tokio::join!(connect(address), listener.accept());
        let mut client = client.unwrap();
        let status = control_socket::disconnect(laptop.state.path()).await.unwrap();
        assert_eq!((status.state, status.routes.len()), (ConnectionState::Disconnected, 0));
        assert_eq!(client.read_u8().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert!(!interfaces().contains("adit0"));
        assert_eq!(connect(address).await.unwrap_err().kind(), ErrorKind::NetworkUnreachable);

        laptop.restart_agent().await;
        assert_eq!(laptop.status().await.state, ConnectionState::Disconnected);
        let status = control_socket::connect(laptop.state.path()).await.unwrap();
        assert_eq!(status.state, ConnectionState::Connected);
        connect(address).await.unwrap();
        laptop.restart_agent().await;
        laptop.wait_for(ConnectionState::Connected).await;
    });
}

#[test]
fn an_edge_that_comes_back_is_found_again() {
    in_own_network(|| async {
        let mut laptop = Laptop::enrolled().await;
        let (listener, address) = server(SERVER_V4).await;
        let (client, _accepted) = tokio::join!(connect(address), listener.accept());
        laptop.edge.stop();
        assert_eq!(client.unwrap().read_u8().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
        let status = laptop.wait_for(ConnectionState::Connecting).await;
        assert_eq!(status.routes.len(), 2, "the routes stay: {status:?}");
        // Waits for the edge, within limits.
        let waiting = tokio::task::spawn_local(connect(address));
        laptop.edge.resume().await;
        waiting.await.unwrap().unwrap();
        laptop.wait_for(ConnectionState::Connected).await;
    });
}

#[test]
fn networks_follow_the_edge() {
    in_own_network(|| async {
        let laptop = Laptop::enrolled().await;
        let networks = ["127.0.0.0/8", "203.0.113.0/24", "126.0.0.0/7"];
        let networks = networks.iter().filter_map(|network| network.parse().ok()).collect();
        laptop.edge.send(Event::Networks { networks });
        let followed = async {
            loop {
                let status = laptop.status().await;
                if status.routes.contains(&"203.0.113.0/24".to_owned()) {
                    return status;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let status = timeout(PATIENCE, followed).await.unwrap();
        assert!(!status.routes.contains(&"198.51.100.0/24".to_owned()));
        // 126.0.0.0/7 without 127.0.0.1, where the edge is.
        assert_eq!(status.routes.len(), 1 + 25, "{:?}", status.routes);
        assert!(status.routes.contains(&"126.0.0.0/8".to_owned()));
        assert!(status.routes.contains(&"127.0.0.0/32".to_owned()));
        assert!(!status.routes.contains(&"127.0.0.1/32".to_owned()));
    });
}

#[test]
fn a_revoked_device_is_cut_off_and_may_enrol_again() {
    in_own_network(|| async {
        let mut laptop = Laptop::enrolled().await;
        let (listener, address) = server(SERVER_V4).await;
        let (client, _accepted) = tokio::join!(connect(address), listener.accept());
        laptop.edge.forget_devices();
        laptop.edge.send(Event::Revoked);
        assert_eq!(client.unwrap().read_u8().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
        let status = laptop.wait_for(ConnectionState::ReauthRequired).await;
        assert!(status.routes.is_empty() && status.last_error.is_some(), "{status:?}");
        assert!(!interfaces().contains("adit0"));
        laptop.restart_agent().await;
        laptop.wait_for(ConnectionState::ReauthRequired).await;
        let status = laptop.enroll(TOKEN.1, false).await.unwrap();
        assert_eq!((status.state, status.last_error), (ConnectionState::Connected, None));
    });
}

#[test]
fn another_process_with_the_key_wins() {
    in_own_network(|| async {
        let laptop = Laptop::enrolled().await;
        laptop.edge.send(Event::Superseded);
        let status = laptop.wait_for(ConnectionState::Disconnected).await;
        assert!(status.last_error.unwrap().contains("another process"));
    });
}

#[test]
fn enrolment_changes_nothing_unless_it_succeeds() {
    in_own_network(|| async {
        let laptop = Laptop::new().await;
        let files = || std::fs::read_dir(laptop.state.path()).unwrap().count();
        let before = files();
        assert_eq!(laptop.status().await, Status::default());
        let refused = control_socket::connect(laptop.state.path()).await.unwrap_err().to_string();
        assert!(refused.contains("not enrolled"), "{refused}");
        let refused = laptop.enroll("wrong", false).await.unwrap_err().to_string();
        assert!(refused.contains("unknown service token"), "{refused}");
        assert_eq!(files(), before);

        laptop.enroll(TOKEN.1, false).await.unwrap();
        let refused = laptop.enroll(TOKEN.1, false).await.unwrap_err().to_string();
        assert!(refused.contains("enrolled already") && refused.contains("--force"), "{refused}");
        assert_eq!(laptop.edge.registrations(), 1);
        let status = laptop.enroll(TOKEN.1, true).await.unwrap();
        assert_eq!(status.state, ConnectionState::Connected);
        assert_eq!(laptop.edge.registrations(), 2);
    });
}

#[test]
fn an_edge_may_learn_of_an_enrolment_late() {
    in_own_network(|| async {
        let laptop = Laptop::new().await;
        laptop.edge.is_unaware(2);
        let status = laptop.enroll(TOKEN.1, false).await.unwrap();
        assert_eq!((status.state, status.last_error), (ConnectionState::Connected, None));
    });
}

#[test]
fn an_unreachable_edge_is_told_on_one_line() {
    in_own_network(|| async {
        let mut laptop = Laptop::new().await;
        laptop.edge.stop();
        let refused = laptop.enroll(TOKEN.1, false).await.unwrap_err().to_string();
        assert!(refused.contains("cannot connect to 127.0.0.1") && refused.contains("refused"), "{refused}");
        assert_eq!(refused.lines().count(), 1);
    });
}

#[test]
fn a_second_agent_does_not_start() {
    in_own_network(|| async {
        let mut laptop = Laptop::new().await;
        let same = run(AgentConfig::new(laptop.state.path().to_owned()), CancellationToken::new()).await;
        assert!(same.unwrap_err().to_string().contains("another agent is running"));
        laptop.stop_agent().await;
        let gone = control_socket::status(laptop.state.path()).await.unwrap_err();
        assert!(matches!(gone, ClientError::NotRunning { .. }), "{gone}");

        let enrolled = Laptop::enrolled().await;
        let other = tempfile::tempdir().unwrap();
        let taken = run(AgentConfig::new(other.path().to_owned()), CancellationToken::new()).await;
        assert!(taken.unwrap_err().to_string().contains("adit0 exists already"));
        drop(enrolled);
    });
}
