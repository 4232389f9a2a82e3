//! A connector against an edge in the same process: real QUIC and TCP on the loopback address.

mod transports;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Instant;

use adit_model::{ConnectionId, Refusal, TunnelId};
use adit_transport::tls::{self, Identity};
use adit_transport::{Duplex, ReadChunk, WriteChunk};
use adit_wire::device::REFUSAL_METADATA;
use adit_wire::rpc::{
    ConnectionDetails, ConnectionError, RegisterRequest, RegistrationServer, ServerEvent, TunnelSecret,
};
use adit_wire::tunnel::{
    ConnectRequest, ConnectResponse, ConnectionType, METADATA_HTTP_STATUS, METADATA_RATE_LIMITED,
};
use bytes::{Bytes, BytesMut};
use quinn::{Connection, RecvStream, SendStream};
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::*;
use crate::config::{HostPort, MetricsAddress, WarpRouting};

mod datagrams;
mod origins;
mod requests;

/// Longest that anything here may take.
const DEADLINE: Duration = Duration::from_secs(30);
const SECRET: [u8; 32] = [7; 32];

/// What the edge saw.
enum Seen {
    Register(Box<RegisterRequest>, Link),
    Unregister(u8),
    Configuration(Vec<u8>),
    FailedHandshake,
}

/// A connection, as the edge has it.
#[derive(Clone)]
enum Link {
    Quic(Connection),
    Http2(h2::client::SendRequest<Bytes>),
}

/// An edge that lets the one secret in, over QUIC only or over both.
struct Edge {
    address: SocketAddr,
    identity: Arc<Identity>,
    roots: rustls::RootCertStore,
    sender: mpsc::Sender<Seen>,
    seen: mpsc::Receiver<Seen>,
    tasks: JoinSet<()>,
}

impl Edge {
    /// With QUIC, at any port.
    fn start() -> Self {
        let key =
            rcgen::generate_simple_self_signed(["quic.cftunnel.com", "h2.cftunnel.com"].map(str::to_owned))
                .unwrap();
        let roots = tls::roots_from_pem(key.cert.pem().as_bytes()).unwrap();
        let der = PrivateKeyDer::Pkcs8(key.signing_key.serialize_der().into());
        let identity = Arc::new(Identity::new(vec![key.cert.der().clone()], der));
        let (sender, seen) = mpsc::channel(64);
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut edge = Self { address, identity, roots, sender, seen, tasks: JoinSet::new() };
        edge.address = edge.listen_quic();
        edge
    }

    fn listen_quic(&mut self) -> SocketAddr {
        let config = tls::server_config(&self.identity, &[ALPN]).unwrap();
        let endpoint = quic::listen(self.address, config).unwrap();
        let address = endpoint.local_addr().unwrap();
        let sender = self.sender.clone();
        self.tasks.spawn(async move {
            while let Some(incoming) = endpoint.accept().await {
                let sender = sender.clone();
                tokio::spawn(async move {
                    match incoming.await {
                        Ok(connection) => Self::converse_quic(connection, sender).await,
                        Err(_) => drop(sender.send(Seen::FailedHandshake).await),
                    }
                });
            }
        });
        address
    }

    async fn converse_quic(connection: Connection, sender: mpsc::Sender<Seen>) {
        let Ok((send, receive)) = connection.accept_bi().await else { return };
        let stream = quic::duplex(send, receive, Bytes::new());
        Self::converse(stream, &Link::Quic(connection.clone()), sender).await;
        // Until the connector closes: an edge that drops the connection would.
        connection.closed().await;
    }

    async fn converse<R: ReadChunk, W: WriteChunk>(
        mut stream: Duplex<R, W>,
        link: &Link,
        sender: mpsc::Sender<Seen>,
    ) {
        let mut server = RegistrationServer::new();
        let mut index = 0;
        while let Ok(Some(chunk)) = stream.reader.read_chunk().await {
            server.handle_input(&chunk).unwrap();
            while let Some(event) = server.poll_event() {
                match event {
                    ServerEvent::Register { token, request } => {
                        index = request.connection_index;
                        let known = request.auth.secret.expose() == SECRET;
                        server.answer_register(token, if known { Ok(details()) } else { Err(refusal()) });
                        let _ = sender.send(Seen::Register(request, link.clone())).await;
                    }
                    ServerEvent::Unregister { token } => {
                        server.answer_unregister(token);
                        let _ = sender.send(Seen::Unregister(index)).await;
                    }
                    ServerEvent::LocalConfiguration { token, config } => {
                        server.answer_local_configuration(token);
                        let _ = sender.send(Seen::Configuration(config.to_vec())).await;
                    }
                    ServerEvent::Aborted { reason } => assert_eq!(reason, "rpc: shutdown"),
                }
            }
            while let Some(bytes) = server.poll_transmit() {
                if stream.writer.write_chunk(bytes).await.is_err() {
                    return;
                }
            }
        }
    }

    fn config(&self) -> ConnectorConfig {
        let address = self.address;
        ConnectorConfig {
            tunnel: TunnelId::from_uuid(Uuid::from_u128(1)),
            account_tag: "ab".repeat(16),
            secret: TunnelSecret::new(SECRET.to_vec()),
            edges: vec![HostPort { host: address.ip().to_string(), port: address.port() }],
            roots: self.roots.clone(),
            roots_origin: "ca.pem".into(),
            credentials_origin: "creds.json".into(),
            bind: None,
            transports: Transports::Quic,
            post_quantum: false,
            features: Vec::new(),
            ha_connections: 4,
            metrics: MetricsAddress::At(HostPort { host: "127.0.0.1".into(), port: 0 }),
            grace_period: DEADLINE,
            retries: 5,
            warp_routing: WarpRouting {
                connect_timeout: Duration::from_secs(5),
                tcp_keep_alive: Duration::from_secs(30),
                max_active_flows: 100,
            },
            own_max_active_flows: None,
            allow_networks: config::AllowNetworks::default(),
            resolvers: Vec::new(),
            tags: Vec::new(),
            label: None,
            ingress: Arc::new(ingress::Rules::none()),
            pidfile: None,
            report: serde_json::json!({"ingress": []}),
        }
    }

    async fn next(&mut self) -> Seen {
        within(self.seen.recv()).await.expect("the edge lives")
    }

    /// The next registration; other things that are seen are passed over.
    async fn registration(&mut self) -> (Box<RegisterRequest>, Connection) {
        loop {
            if let Seen::Register(request, Link::Quic(connection)) = self.next().await {
                return (request, connection);
            }
        }
    }

    /// Registrations of all four connections.
    async fn registrations(&mut self) -> Vec<Connection> {
        let mut indices = BTreeSet::new();
        let mut connections = Vec::new();
        while indices.len() < 4 {
            let (request, connection) = self.registration().await;
            assert!(indices.insert(request.connection_index), "a connection registered twice");
            connections.push(connection);
        }
        connections
    }
}

fn details() -> ConnectionDetails {
    ConnectionDetails {
        uuid: ConnectionId::from_uuid(Uuid::from_u128(4)),
        location_name: "edge1".into(),
        tunnel_is_remotely_managed: false,
    }
}

fn refusal() -> ConnectionError {
    ConnectionError {
        cause: "Unauthorized: Invalid tunnel secret".into(),
        retry_after: Duration::ZERO,
        should_retry: true,
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.expect("in time")
}

/// A connector under test.
struct Running {
    process: Arc<Process>,
    metrics: SocketAddr,
    task: JoinHandle<Result<(), RunError>>,
}

impl Running {
    async fn start(config: ConnectorConfig, dials_loopback: bool) -> Self {
        let dialers = dialers(&config).unwrap();
        let listener = local::bind(&config.metrics).await.unwrap();
        let metrics = listener.local_addr().unwrap();
        let connector = ConnectorId::from_uuid(Uuid::new_v4());
        let mut process = Process::new(config, connector, dialers, CancellationToken::new());
        if dials_loopback {
            process.dial_anything();
        }
        let process = Arc::new(process);
        let task = tokio::spawn(run_process(Arc::clone(&process), listener));
        Self { process, metrics, task }
    }

    async fn load(&self, wanted: impl FnMut(&Load) -> bool) {
        within(self.process.load().wait_for(wanted)).await.unwrap();
    }

    /// Status and body of a page of the metrics server.
    async fn page(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.metrics).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        within(stream.read_to_string(&mut answer)).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head[9..12].parse().unwrap(), body.to_owned())
    }

    async fn stop(self) {
        self.process.stopping.cancel();
        within(self.task).await.unwrap().unwrap();
    }
}

/// An edge, a connector with four connections, and one of these.
async fn connected(dials_loopback: bool) -> (Edge, Running, Connection) {
    let mut edge = Edge::start();
    let running = Running::start(edge.config(), dials_loopback).await;
    let connection = edge.registrations().await.remove(0);
    running.load(|load| load.registered == 4).await;
    (edge, running, connection)
}

/// Opens a flow as the edge does, and reads the answer.
async fn open(
    connection: &Connection,
    kind: ConnectionType,
    dest: &str,
) -> (SendStream, RecvStream, ConnectResponse) {
    let (mut send, mut receive) = within(connection.open_bi()).await.unwrap();
    let request = ConnectRequest { dest: dest.to_owned(), kind, metadata: Vec::new() };
    let mut bytes = BytesMut::new();
    request.encode(&mut bytes).unwrap();
    send.write_chunk(bytes.freeze()).await.unwrap();
    let mut bytes = BytesMut::new();
    loop {
        if let Some((response, consumed)) = ConnectResponse::decode(&bytes).unwrap() {
            assert_eq!(consumed, bytes.len(), "nothing follows an answer unasked");
            return (send, receive, response);
        }
        assert_ne!(within(receive.read_buf(&mut bytes)).await.unwrap(), 0, "the stream ended");
    }
}

/// A flow to an origin, and the origin's end of it.
async fn flow(connection: &Connection) -> (SendStream, RecvStream, TcpStream) {
    let origin = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = origin.local_addr().unwrap().to_string();
    let (opened, accepted) =
        tokio::join!(open(connection, ConnectionType::Tcp, &address), within(origin.accept()));
    let (send, receive, response) = opened;
    assert_eq!(response, ConnectResponse::default());
    (send, receive, accepted.unwrap().0)
}

#[tokio::test]
async fn four_connections_register_at_one_address() {
    let mut edge = Edge::start();
    let running = Running::start(edge.config(), false).await;
    let mut indices = BTreeSet::new();
    let mut reported = None;
    while indices.len() < 4 || reported.is_none() {
        match edge.next().await {
            Seen::Register(request, _) => {
                assert_eq!(request.tunnel, running.process.config.tunnel);
                assert_eq!(request.options.client.client_id, running.process.connector);
                let expected = "allow_remote_config serialized_headers support_datagram_v2 support_quic_eof \
                                adit_half_close adit_datagrams";
                assert_eq!(request.options.client.features.join(" "), expected);
                assert!(request.options.client.version.starts_with("adit-"));
                indices.insert(request.connection_index);
            }
            Seen::Configuration(config) => reported = Some(config),
            Seen::Unregister(_) | Seen::FailedHandshake => panic!("a connection was dropped"),
        }
    }
    assert_eq!(indices, BTreeSet::from([0, 1, 2, 3]));
    assert_eq!(reported.unwrap(), br#"{"ingress":[]}"#);
    running.load(|load| load.registered == 4).await;
    let expected =
        format!(r#"{{"status":200,"readyConnections":4,"connectorId":"{}"}}"#, running.process.connector);
    assert_eq!(running.page("/ready").await, (200, expected));
    assert_eq!(running.page("/healthcheck").await, (200, "OK\n".into()));
    assert_eq!(running.page("/config").await.0, 404, "the request named another host");
    let (status, metrics) = running.page("/metrics").await;
    assert_eq!(status, 200);
    assert!(metrics.contains("\ncloudflared_tunnel_ha_connections 4\n"), "{metrics}");
    assert!(metrics.contains("\nquic_client_mtu{conn_index=\"3\"} "), "{metrics}");
    running.stop().await;
}

#[tokio::test]
async fn bytes_cross_both_ways_and_each_direction_ends_by_itself() {
    let (_edge, running, connection) = connected(true).await;
    let (mut send, mut receive, mut origin) = flow(&connection).await;
    let request: Vec<u8> = (0..3_000_000_u32).map(|i| (i % 251) as u8).collect();
    let sent = request.clone();
    let sending = tokio::spawn(async move {
        send.write_all(&sent).await.unwrap();
        send.finish().unwrap();
    });
    let mut got = Vec::new();
    within(origin.read_to_end(&mut got)).await.unwrap();
    assert!(got == request, "the request arrives unchanged");
    sending.await.unwrap();
    // The edge has ended its direction; the origin's goes on.
    origin.write_all(&request).await.unwrap();
    drop(origin);
    let answer = within(receive.read_to_end(usize::MAX)).await.unwrap();
    assert!(answer == request, "the answer arrives unchanged");
    running.load(|load| load.flows == 0).await;
    let (_, metrics) = running.page("/metrics").await;
    assert!(metrics.contains("\ncloudflared_tcp_total_sessions 1\n"), "{metrics}");
    assert!(metrics.contains("\ncloudflared_tcp_active_sessions 0\n"), "{metrics}");
    running.stop().await;
}

#[tokio::test]
async fn a_reset_of_either_end_resets_the_other() {
    let (_edge, running, connection) = connected(true).await;
    let (_send, mut receive, origin) = flow(&connection).await;
    adit_transport::tcp::duplex(origin).reset();
    let error = within(receive.read(&mut [0; 1])).await.unwrap_err();
    assert!(matches!(error, quinn::ReadError::Reset(code) if code == 0_u32.into()), "{error}");

    let (mut send, mut receive, mut origin) = flow(&connection).await;
    send.reset(0_u32.into()).unwrap();
    receive.stop(0_u32.into()).unwrap();
    let error = within(origin.read(&mut [0; 1])).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    running.stop().await;
}

#[tokio::test]
async fn a_refused_dial_is_said_in_words_that_any_edge_knows() {
    let (_edge, running, connection) = connected(true).await;
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let (_, _, response) = open(&connection, ConnectionType::Tcp, &free.to_string()).await;
    let expected =
        format!("unable to dial tcp to origin {free}: dial tcp {free}: connect: connection refused");
    assert_eq!(response.error, expected);
    assert_eq!(response.metadata(REFUSAL_METADATA), Some(Refusal::Refused.as_str()));
    running.stop().await;
}

#[tokio::test]
async fn what_is_never_dialled_is_refused_whatever_an_edge_asks() {
    let (_edge, running, connection) = connected(false).await;
    let origin = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = origin.local_addr().unwrap().port();
    for host in ["127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "169.254.169.254", "[fd00:ec2::254]", "0.0.0.0"]
    {
        let (_, _, response) = open(&connection, ConnectionType::Tcp, &format!("{host}:{port}")).await;
        assert!(response.error.ends_with("addresses are never dialled"), "{host}: {}", response.error);
        assert_eq!(response.metadata(REFUSAL_METADATA), Some("never-dialled"), "{host}");
    }
    let (_, _, response) = open(&connection, ConnectionType::Tcp, "localhost:1").await;
    assert_eq!(response.error, "ParseAddr(\"localhost\"): unable to parse IP");
    running.stop().await;
}

#[tokio::test]
async fn http_gets_503_without_ingress_rules_and_an_unknown_stream_a_reset() {
    let (_edge, running, connection) = connected(true).await;
    let (_, mut receive, response) = open(&connection, ConnectionType::Http, "http://a/").await;
    assert_eq!(response.metadata(METADATA_HTTP_STATUS), Some("503"));
    assert_eq!(within(receive.read_to_end(1)).await.unwrap(), b"");
    let (mut send, mut receive) = connection.open_bi().await.unwrap();
    send.write_all(b"GET / HTTP/1.1").await.unwrap();
    let error = within(receive.read(&mut [0; 1])).await.unwrap_err();
    assert!(matches!(error, quinn::ReadError::Reset(_)), "{error}");
    running.stop().await;
}

#[tokio::test]
async fn flows_beyond_the_limit_are_refused() {
    let mut edge = Edge::start();
    let mut config = edge.config();
    config.warp_routing.max_active_flows = 1;
    let running = Running::start(config, true).await;
    let (_, connection) = edge.registration().await;
    let first = flow(&connection).await;
    let (_, _, response) = open(&connection, ConnectionType::Tcp, "127.0.0.1:1").await;
    assert!(response.error.contains("too many active flows"), "{}", response.error);
    assert_eq!(response.metadata(METADATA_RATE_LIMITED), Some("true"));
    assert_eq!(response.metadata(REFUSAL_METADATA), Some("too-many-flows"));
    drop(first);
    running.load(|load| load.flows == 0).await;
    flow(&connection).await;
    running.stop().await;
}

#[tokio::test]
async fn a_stop_unregisters_and_lets_flows_end() {
    let (mut edge, running, connection) = connected(true).await;
    let (mut send, mut receive, mut origin) = flow(&connection).await;
    let begun = Instant::now();
    running.process.stopping.cancel();
    let mut unregistered = BTreeSet::new();
    while unregistered.len() < 4 {
        if let Seen::Unregister(index) = edge.next().await {
            unregistered.insert(index);
        }
    }
    assert_eq!(running.page("/ready").await.0, 503);
    // Open flows go on, and a new one that was on its way is served.
    send.write_all(b"still").await.unwrap();
    let mut still = [0; 5];
    within(origin.read_exact(&mut still)).await.unwrap();
    drop(flow(&connection).await);
    origin.write_all(b"the last bytes").await.unwrap();
    drop(origin);
    send.finish().unwrap();
    assert_eq!(within(receive.read_to_end(100)).await.unwrap(), b"the last bytes");
    let closed = within(connection.closed()).await;
    assert!(
        matches!(closed, quinn::ConnectionError::ApplicationClosed(close) if close.error_code == 0_u32.into())
    );
    within(running.task).await.unwrap().unwrap();
    assert!(begun.elapsed() < DEADLINE / 2, "no flow is left: the grace period need not be waited for");
}

#[tokio::test]
async fn the_end_of_the_grace_period_cuts_flows_and_does_not_look_like_their_end() {
    let mut edge = Edge::start();
    let config = ConnectorConfig { grace_period: Duration::from_millis(300), ..edge.config() };
    let running = Running::start(config, true).await;
    let (_, connection) = edge.registration().await;
    let (_send, mut receive, mut origin) = flow(&connection).await;
    running.process.stopping.cancel();
    within(receive.read(&mut [0; 1])).await.expect_err("no end that looks like the origin's");
    let error = within(origin.read(&mut [0; 1])).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    within(running.task).await.unwrap().unwrap();
}

#[tokio::test]
async fn lost_connections_come_back() {
    let mut edge = Edge::start();
    let running = Running::start(edge.config(), true).await;
    let connections = edge.registrations().await;
    let begun = Instant::now();
    for connection in &connections {
        connection.close(0_u32.into(), b"edge restarts");
    }
    let connections = edge.registrations().await;
    assert!(begun.elapsed() < Duration::from_secs(5), "an edge that is there again is found at once");
    flow(&connections[0]).await;
    running.stop().await;
}

#[tokio::test]
async fn a_wrong_secret_is_tried_again_with_pauses() {
    let mut edge = Edge::start();
    let config = ConnectorConfig { secret: TunnelSecret::new(vec![8; 32]), ..edge.config() };
    let running = Running::start(config, true).await;
    let begun = Instant::now();
    for attempt in 0..3 {
        let (request, _) = edge.registration().await;
        assert_eq!((request.connection_index, request.options.num_previous_attempts), (0, attempt));
    }
    assert!(begun.elapsed() >= 2 * backoff::SHORTEST);
    assert_eq!(running.page("/ready").await.0, 503);
    let (_, metrics) = running.page("/metrics").await;
    let series =
        "cloudflared_tunnel_tunnel_register_fail{error=\"server_error\",rpcName=\"registerConnection\"} ";
    assert!(metrics.contains(series), "{metrics}");
    running.stop().await;
}

#[tokio::test]
async fn an_edge_of_another_authority_is_not_trusted() {
    let mut edge = Edge::start();
    let config = ConnectorConfig { roots: Edge::start().roots, ..edge.config() };
    let running = Running::start(config, true).await;
    assert!(
        matches!(edge.next().await, Seen::FailedHandshake),
        "nothing is said to an edge that is not trusted"
    );
    running.stop().await;
}

#[tokio::test]
async fn an_edge_that_is_not_there_is_waited_for_and_a_stop_still_stops() {
    let edge = Edge::start();
    let config = edge.config();
    drop(edge);
    let running = Running::start(config, true).await;
    assert_eq!(running.page("/ready").await.0, 503);
    running.stop().await;
}

#[tokio::test]
async fn a_metrics_port_in_use_is_said() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let edge = Edge::start();
    let port = taken.local_addr().unwrap().port();
    let config = ConnectorConfig {
        metrics: MetricsAddress::At(HostPort { host: "127.0.0.1".into(), port }),
        ..edge.config()
    };
    let error = run(config, CancellationToken::new()).await.unwrap_err();
    let expected = format!(
        "cannot listen on 127.0.0.1:{port} for metrics: free that address, or choose another with --metrics"
    );
    assert_eq!(error.to_string(), expected);
}

#[tokio::test]
async fn a_pidfile_is_written_after_the_first_registration() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("adit.pid");
    let edge = Edge::start();
    let config = ConnectorConfig { pidfile: Some(path.clone()), ..edge.config() };
    let running = Running::start(config, true).await;
    running.load(|load| load.registered == 4).await;
    assert_eq!(std::fs::read_to_string(&path).unwrap(), std::process::id().to_string());
    running.stop().await;
}
