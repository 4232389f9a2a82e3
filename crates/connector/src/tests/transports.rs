//! HTTP/2, and the choice between it and QUIC.

use adit_wire::device::REFUSAL_HEADER;
use adit_wire::http2::{
    RESPONSE_HEADERS_HEADER, RESPONSE_META_HEADER, SOURCE_HEADER, UPGRADE_CONTROL_STREAM, UPGRADE_HEADER,
};
use h2::client::SendRequest;
use http::{Request, Response};
use std::net::UdpSocket;

use super::*;

impl Edge {
    /// With TCP on the same port as UDP, and QUIC or a UDP socket that answers nothing.
    pub(super) async fn start_both(answers_udp: bool) -> (Self, Option<UdpSocket>) {
        for _ in 0..20 {
            let mut edge = Self::start();
            let Ok(listener) = TcpListener::bind(edge.address).await else { continue };
            let silent = if answers_udp { None } else { Some(edge.silence_udp().await) };
            edge.listen_http2(listener);
            return (edge, silent);
        }
        panic!("no port is free for both");
    }

    /// Ends QUIC, and holds its port.
    async fn silence_udp(&mut self) -> UdpSocket {
        self.tasks.shutdown().await;
        loop {
            // The endpoint goes with its last task.
            match UdpSocket::bind(self.address) {
                Ok(socket) => return socket,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    }

    fn listen_http2(&mut self, listener: TcpListener) {
        let config = tls::server_config(&self.identity, &[]).unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let sender = self.sender.clone();
        self.tasks.spawn(async move {
            // They end with the listener.
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, sender) = (acceptor.clone(), sender.clone());
                connections.spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else {
                        drop(sender.send(Seen::FailedHandshake).await);
                        return;
                    };
                    assert_eq!(stream.get_ref().1.server_name(), Some("h2.cftunnel.com"));
                    assert_eq!(stream.get_ref().1.alpn_protocol(), None);
                    Self::converse_http2(stream, sender).await;
                });
            }
        });
    }

    async fn converse_http2(stream: tokio_rustls::server::TlsStream<TcpStream>, sender: mpsc::Sender<Seen>) {
        let (client, connection) = http2::client().handshake::<_, Bytes>(stream).await.unwrap();
        let mut driver = JoinSet::new();
        driver.spawn(connection);
        let mut client = client.ready().await.unwrap();
        let request = Request::get("http://localhost/")
            .header(UPGRADE_HEADER, UPGRADE_CONTROL_STREAM)
            .body(())
            .unwrap();
        let (response, send) = client.send_request(request, false).unwrap();
        let Ok(response) = response.await else { return };
        assert_eq!(response.status(), 200);
        let link = Link::Http2(client);
        Self::converse(http2::duplex(send, response.into_body()), &link, sender).await;
        driver.join_next().await;
    }

    /// The next registration over HTTP/2.
    pub(super) async fn http2_registration(&mut self) -> (Box<RegisterRequest>, SendRequest<Bytes>) {
        loop {
            if let Seen::Register(request, Link::Http2(client)) = self.next().await {
                return (request, client);
            }
        }
    }
}

fn config(edge: &Edge, transports: Transports) -> ConnectorConfig {
    ConnectorConfig { transports, ..edge.config() }
}

/// Asks for a flow as the edge does.
async fn ask(
    client: &SendRequest<Bytes>,
    authority: &str,
) -> (Response<h2::RecvStream>, h2::SendStream<Bytes>) {
    let request = Request::get(format!("http://{authority}/")).header(SOURCE_HEADER, "7").body(()).unwrap();
    let mut client = client.clone().ready().await.unwrap();
    let (response, send) = client.send_request(request, false).unwrap();
    (within(response).await.unwrap(), send)
}

/// A flow over HTTP/2 to an origin, and the origin's end of it.
async fn http2_flow(
    client: &SendRequest<Bytes>,
) -> (Duplex<http2::Http2Reader, http2::Http2Writer>, TcpStream) {
    let origin = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = origin.local_addr().unwrap().to_string();
    let ((response, send), accepted) = tokio::join!(ask(client, &address), within(origin.accept()));
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()[RESPONSE_META_HEADER], r#"{"src":"origin"}"#);
    assert_eq!(response.headers()[RESPONSE_HEADERS_HEADER], "");
    (http2::duplex(send, response.into_body()), accepted.unwrap().0)
}

async fn read_all(reader: &mut http2::Http2Reader) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(chunk) = within(reader.read_chunk()).await.unwrap() {
        all.extend_from_slice(&chunk);
    }
    all
}

#[tokio::test]
async fn over_http2_four_connections_register_and_carry_tcp() {
    let (mut edge, _) = Edge::start_both(false).await;
    let running = Running::start(config(&edge, Transports::Http2), true).await;
    let mut clients = Vec::new();
    let mut indices = BTreeSet::new();
    while indices.len() < 4 {
        let (request, client) = edge.http2_registration().await;
        indices.insert(request.connection_index);
        clients.push(client);
    }
    assert_eq!(indices, BTreeSet::from([0, 1, 2, 3]));
    for client in &clients {
        let (mut flow, mut origin) = http2_flow(client).await;
        let sent: Vec<u8> = (0..300_000_u32).map(|i| (i % 251) as u8).collect();
        let writing = async {
            flow.writer.write_chunk(Bytes::from(sent.clone())).await.unwrap();
            flow.writer.finish().await.unwrap();
        };
        let mut got = Vec::new();
        let (read, ()) = tokio::join!(within(origin.read_to_end(&mut got)), writing);
        read.unwrap();
        assert!(got == sent, "the request arrives unchanged");
        // The edge has ended its direction; the origin's goes on.
        let answering = tokio::spawn(async move { origin.write_all(&got).await.unwrap() });
        assert!(read_all(&mut flow.reader).await == sent, "the answer arrives unchanged");
        answering.await.unwrap();
    }
    running.load(|load| load.flows == 0).await;
    assert_eq!(running.page("/ready").await.0, 200);
    running.stop().await;
}

#[tokio::test]
async fn over_http2_a_refusal_has_a_name_and_no_words() {
    let (mut edge, _) = Edge::start_both(false).await;
    let running = Running::start(config(&edge, Transports::Http2), false).await;
    let (_, client) = edge.http2_registration().await;
    let (response, _send) = ask(&client, "127.0.0.1:1").await;
    assert_eq!(response.status(), 502);
    assert_eq!(response.headers()[RESPONSE_META_HEADER], r#"{"src":"cloudflared"}"#);
    assert_eq!(response.headers()[REFUSAL_HEADER], "never-dialled");
    running.stop().await;
}

#[tokio::test]
async fn over_http2_a_stop_unregisters_and_lets_flows_end() {
    let (mut edge, _) = Edge::start_both(false).await;
    let running = Running::start(config(&edge, Transports::Http2), true).await;
    let (_, client) = edge.http2_registration().await;
    running.load(|load| load.registered == 4).await;
    let (mut flow, mut origin) = http2_flow(&client).await;
    running.process.stopping.cancel();
    let mut unregistered = BTreeSet::new();
    while unregistered.len() < 4 {
        if let Seen::Unregister(index) = edge.next().await {
            unregistered.insert(index);
        }
    }
    assert_eq!(running.page("/ready").await.0, 503);
    // A flow that was on its way is served.
    drop(http2_flow(&client).await);
    origin.write_all(b"the last bytes").await.unwrap();
    drop(origin);
    flow.writer.finish().await.unwrap();
    assert_eq!(read_all(&mut flow.reader).await, b"the last bytes");
    within(running.task).await.unwrap().unwrap();
}

#[tokio::test]
async fn over_http2_a_wrong_secret_is_tried_again_with_pauses() {
    let (mut edge, _) = Edge::start_both(false).await;
    let secret = TunnelSecret::new(vec![8; 32]);
    let running = Running::start(ConnectorConfig { secret, ..config(&edge, Transports::Http2) }, true).await;
    let begun = Instant::now();
    for attempt in 0..3 {
        let (request, _) = edge.http2_registration().await;
        assert_eq!((request.connection_index, request.options.num_previous_attempts), (0, attempt));
    }
    assert!(begun.elapsed() >= 2 * backoff::SHORTEST);
    running.stop().await;
}

#[tokio::test]
async fn where_udp_does_not_pass_http2_is_used_until_it_does_and_no_flow_is_lost() {
    let (mut edge, silent) = Edge::start_both(false).await;
    let begun = Instant::now();
    let one = ConnectorConfig { ha_connections: 2, ..config(&edge, Transports::Auto) };
    let running = Running::start(one, true).await;
    let (_, client) = edge.http2_registration().await;
    edge.http2_registration().await;
    assert!(begun.elapsed() < Duration::from_secs(5), "falling back takes seconds: {:?}", begun.elapsed());
    let (mut flow, mut origin) = http2_flow(&client).await;

    drop(silent);
    edge.listen_quic();
    let mut moved = BTreeSet::new();
    let mut connections = Vec::new();
    while moved.len() < 2 {
        let (request, connection) = edge.registration().await;
        moved.insert(request.connection_index);
        connections.push(connection);
    }
    assert_eq!(moved, BTreeSet::from([0, 1]));
    super::flow(&connections[0]).await;
    // What began on HTTP/2 ends there.
    origin.write_all(b"still here").await.unwrap();
    drop(origin);
    flow.writer.finish().await.unwrap();
    assert_eq!(read_all(&mut flow.reader).await, b"still here");
    running.load(|load| load.registered == 2).await;
    running.stop().await;
}

#[tokio::test]
async fn both_holds_connections_of_either_kind() {
    let (mut edge, _) = Edge::start_both(true).await;
    let running = Running::start(config(&edge, Transports::Both), true).await;
    let (mut quic, mut http2) = (BTreeSet::new(), BTreeSet::new());
    while quic.len() + http2.len() < 4 {
        if let Seen::Register(request, link) = edge.next().await {
            match link {
                Link::Quic(_) => quic.insert(request.connection_index),
                Link::Http2(_) => http2.insert(request.connection_index),
            };
        }
    }
    assert_eq!((quic, http2), (BTreeSet::from([0, 2]), BTreeSet::from([1, 3])));
    running.load(|load| load.registered == 4).await;
    let (_, metrics) = running.page("/metrics").await;
    assert!(metrics.contains("\ncloudflared_tunnel_ha_connections 4\n"), "{metrics}");
    running.stop().await;
}

#[tokio::test]
async fn an_edge_that_is_lost_over_http2_is_dialled_again() {
    let (mut edge, _) = Edge::start_both(false).await;
    let one = ConnectorConfig { ha_connections: 1, ..config(&edge, Transports::Http2) };
    let running = Running::start(one, true).await;
    let (_, client) = edge.http2_registration().await;
    let (_flow, mut origin) = http2_flow(&client).await;
    edge.tasks.shutdown().await;
    let error = within(origin.read(&mut [0; 1])).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "a flow that is cut looks cut");
    edge.listen_http2(TcpListener::bind(edge.address).await.unwrap());
    let (_, client) = edge.http2_registration().await;
    http2_flow(&client).await;
    running.stop().await;
}
