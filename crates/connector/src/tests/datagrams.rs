//! UDP and ICMP: on streams of our own edge, and in sessions and packets of another.

use std::net::IpAddr;

use adit_model::Protocol;
use adit_transport::datagram::{DatagramFlow, DatagramRouter, Packet};
use adit_transport::quic::{QuicReader, QuicWriter};
use adit_wire::datagram::{Registration, Response, ResponseCode, SessionId, V2, V3, V3_FEATURE};
use adit_wire::device::PROTOCOL_HEADER;
use adit_wire::http2::SOURCE_HEADER;
use adit_wire::icmp::{self, Echo, Family};
use adit_wire::rpc::{RegisterUdpSession, ServiceAnswer, ServiceClient, ServiceEvent, ServiceServer};
use adit_wire::tunnel::{Metadata, RPC_SIGNATURE};
use tokio::net::UdpSocket;

use super::*;

type Flow = DatagramFlow<QuicReader, QuicWriter>;

/// Opens a flow of datagrams as our edge does.
async fn open_datagrams(
    connection: &Connection,
    router: &DatagramRouter,
    protocol: Protocol,
    dest: &str,
) -> Result<Flow, ConnectResponse> {
    let (mut send, mut receive) = within(connection.open_bi()).await.unwrap();
    let (id, registered) = (send.id(), router.register(send.id()));
    let metadata = vec![Metadata::new(PROTOCOL_HEADER, protocol.as_str())];
    let request = ConnectRequest { dest: dest.to_owned(), kind: ConnectionType::Tcp, metadata };
    let mut bytes = BytesMut::new();
    request.encode(&mut bytes).unwrap();
    send.write_chunk(bytes.split().freeze()).await.unwrap();
    loop {
        if let Some((response, consumed)) = ConnectResponse::decode(&bytes).unwrap() {
            let ahead = bytes.split_off(consumed).freeze();
            let stream = quic::duplex(send, receive, ahead);
            let is_open = response.error.is_empty();
            return if is_open { Ok(Flow::with_frames(stream, id, registered)) } else { Err(response) };
        }
        assert_ne!(within(receive.read_buf(&mut bytes)).await.unwrap(), 0, "the stream ended");
    }
}

/// A UDP socket that sends back what it gets.
async fn echoing() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = vec![0; 65_536];
        loop {
            let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
            socket.send_to(&buffer[..length], from).await.unwrap();
        }
    });
    address
}

fn routed(connection: &Connection) -> DatagramRouter {
    let router = DatagramRouter::new(connection.clone());
    tokio::spawn(router.clone().run());
    router
}

fn datagram(length: usize) -> Packet {
    Packet::Datagram((0..=250).cycle().take(length).collect::<Vec<u8>>().into())
}

#[tokio::test]
async fn udp_of_every_size_crosses_and_comes_back() {
    let (_edge, running, connection) = connected(true).await;
    let router = routed(&connection);
    let address = echoing().await.to_string();
    let mut flow = open_datagrams(&connection, &router, Protocol::Udp, &address).await.unwrap();
    for length in [0, 1, 1_000, 1_300, 1_500, 9_000, 65_507] {
        flow.send(datagram(length)).await.unwrap();
        assert_eq!(within(flow.receive()).await.unwrap(), Some(datagram(length)), "{length}");
    }
    flow.send(datagram(65_508)).await.unwrap();
    assert_eq!(within(flow.receive()).await.unwrap(), Some(Packet::Refusal("too-large".into())));
    flow.send(datagram(7)).await.unwrap();
    assert_eq!(within(flow.receive()).await.unwrap(), Some(datagram(7)), "the flow goes on");
    let (_, metrics) = running.page("/metrics").await;
    assert!(metrics.contains("\ncloudflared_udp_active_sessions 1\n"), "{metrics}");
    flow.reset();
    running.load(|load| load.flows == 0).await;
    running.stop().await;
}

#[tokio::test]
async fn a_udp_port_where_nobody_listens_is_said_and_the_flow_goes_on() {
    let (_edge, running, connection) = connected(true).await;
    let router = routed(&connection);
    let free = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
    let mut flow = open_datagrams(&connection, &router, Protocol::Udp, &free).await.unwrap();
    for _ in 0..2 {
        flow.send(datagram(10)).await.unwrap();
        assert_eq!(within(flow.receive()).await.unwrap(), Some(Packet::Refusal("refused".into())));
    }
    flow.reset();
    running.stop().await;
}

#[tokio::test]
async fn what_is_never_dialled_is_not_over_udp_and_icmp_either() {
    let (_edge, running, connection) = connected(false).await;
    let router = routed(&connection);
    for (protocol, dest) in [(Protocol::Udp, "127.0.0.1:53"), (Protocol::Icmp, "169.254.169.254:0")] {
        let response = open_datagrams(&connection, &router, protocol, dest).await.unwrap_err();
        assert_eq!(response.metadata(REFUSAL_METADATA), Some("never-dialled"), "{dest}");
    }
    running.stop().await;
}

#[tokio::test]
async fn over_http2_datagrams_cross_on_the_stream() {
    let (mut edge, _silent) = Edge::start_both(false).await;
    let config = ConnectorConfig { transports: Transports::Http2, ..edge.config() };
    let running = Running::start(config, true).await;
    let (_, client) = edge.http2_registration().await;
    let address = echoing().await;
    let request = http::Request::get(format!("http://{address}/"))
        .header(SOURCE_HEADER, "7")
        .header(PROTOCOL_HEADER, "udp")
        .body(())
        .unwrap();
    let (response, send) = client.clone().send_request(request, false).unwrap();
    let response = within(response).await.unwrap();
    assert_eq!(response.status(), 200);
    let mut flow = DatagramFlow::on_stream(http2::duplex(send, response.into_body()));
    for length in [0, 100, 65_507] {
        flow.send(datagram(length)).await.unwrap();
        assert_eq!(within(flow.receive()).await.unwrap(), Some(datagram(length)), "{length}");
    }
    flow.reset();
    running.stop().await;
}

fn request(id: u16, family: Family) -> Bytes {
    let data = Bytes::from_static(b"how far is it");
    Echo { is_reply: false, id, sequence: 1, data }.message(family).freeze()
}

#[tokio::test]
async fn echo_requests_are_answered_with_their_own_identifier() {
    let (_edge, running, connection) = connected(true).await;
    let router = routed(&connection);
    for (dest, family) in [("127.0.0.1:0", Family::V4), ("[::1]:0", Family::V6)] {
        let mut flow = match open_datagrams(&connection, &router, Protocol::Icmp, dest).await {
            Ok(flow) => flow,
            Err(response) => {
                assert_eq!(response.error, "this connector's host lets it send no ICMP echo");
                tracing::info!("SKIPPED {dest}: no ping sockets and no CAP_NET_RAW here");
                continue;
            }
        };
        for id in [1, 0xfffe, 1] {
            flow.send(Packet::Datagram(request(id, family))).await.unwrap();
            let Some(Packet::Datagram(reply)) = within(flow.receive()).await.unwrap() else {
                panic!("a reply")
            };
            let reply = Echo::reply(family, &reply).unwrap();
            assert_eq!((reply.id, reply.sequence, &reply.data[..]), (id, 1, &b"how far is it"[..]));
        }
    }
    running.stop().await;
}

/// One call on a stream of its own.
async fn call(connection: &Connection, mut client: ServiceClient) -> ServiceAnswer {
    let (send, receive) = connection.open_bi().await.unwrap();
    let mut stream = quic::duplex(send, receive, Bytes::new());
    stream.writer.write_chunk(Bytes::from_static(&RPC_SIGNATURE)).await.unwrap();
    loop {
        while let Some(bytes) = client.poll_transmit() {
            stream.writer.write_chunk(bytes).await.unwrap();
        }
        if let Some(answer) = client.poll_answer() {
            return answer;
        }
        let chunk = within(stream.reader.read_chunk()).await.unwrap().expect("an answer");
        client.handle_input(&chunk).unwrap();
    }
}

const SESSION: u128 = 9;

fn session() -> SessionId {
    SessionId::from_bytes(SESSION.to_be_bytes())
}

fn register(destination: SocketAddr, idle: Duration) -> ServiceClient {
    ServiceClient::register_udp_session(&RegisterUdpSession {
        session: Uuid::from_u128(SESSION),
        destination,
        close_after_idle: idle,
        trace_context: String::new(),
    })
    .unwrap()
}

async fn exchange_v2(connection: &Connection, sent: V2) -> V2 {
    let mut frame = BytesMut::new();
    sent.encode(&mut frame).unwrap();
    connection.send_datagram(frame.freeze()).unwrap();
    V2::decode(within(connection.read_datagram()).await.unwrap()).unwrap()
}

#[tokio::test]
async fn an_edge_that_knows_sessions_only_has_them_until_they_are_idle() {
    let (_edge, running, connection) = connected(true).await;
    let answer = call(&connection, register(echoing().await, Duration::from_millis(700))).await;
    assert_eq!(answer, ServiceAnswer::UdpSession(Ok(())));
    let sent = V2::Udp { session: session(), payload: Bytes::from_static(b"query") };
    assert_eq!(exchange_v2(&connection, sent.clone()).await, sent);
    // The connector tells the end, on a stream of its own.
    let (send, receive) = within(connection.accept_bi()).await.unwrap();
    let mut stream = quic::duplex(send, receive, Bytes::new());
    let mut server = ServiceServer::edge();
    let mut begun = BytesMut::new();
    let request = 'said: loop {
        let chunk = within(stream.reader.read_chunk()).await.unwrap().unwrap();
        begun.extend_from_slice(&chunk);
        if begun.len() < RPC_SIGNATURE.len() {
            continue;
        }
        let input = begun.split();
        server.handle_input(input.strip_prefix(&RPC_SIGNATURE[..]).unwrap_or(&input)).unwrap();
        while let Some(event) = server.poll_event() {
            if let ServiceEvent::UnregisterUdpSession { token, request } = event {
                server.answer_unregister_udp_session(token);
                break 'said request;
            }
        }
        while let Some(bytes) = server.poll_transmit() {
            stream.writer.write_chunk(bytes).await.unwrap();
        }
    };
    assert_eq!(
        (request.session, request.message.as_str()),
        (Uuid::from_u128(SESSION), "session idle for 0s")
    );
    running.load(|load| load.flows == 0).await;
    running.stop().await;
}

#[tokio::test]
async fn a_session_to_what_is_never_dialled_is_refused_in_words() {
    let (_edge, running, connection) = connected(false).await;
    let answer = call(&connection, register(SocketAddr::from(([127, 0, 0, 1], 53)), Duration::ZERO)).await;
    let ServiceAnswer::UdpSession(Err(error)) = answer else { panic!("{answer:?}") };
    assert!(error.ends_with("addresses are never dialled"), "{error}");
    running.stop().await;
}

#[tokio::test]
async fn sessions_of_the_third_generation_are_registered_by_datagram_and_short_ones_are_dropped() {
    let mut edge = Edge::start();
    let config = ConnectorConfig { features: vec![V3_FEATURE.into()], ha_connections: 1, ..edge.config() };
    let running = Running::start(config, true).await;
    let (request, connection) = edge.registration().await;
    assert!(request.options.client.features.contains(&V3_FEATURE.to_owned()));
    let answer = call(&connection, register(echoing().await, Duration::ZERO)).await;
    let expected = "datagram v3 does not support RegisterUdpSession RPC".to_owned();
    assert_eq!(answer, ServiceAnswer::UdpSession(Err(expected)));

    for length in 0..26 {
        connection.send_datagram(Bytes::from(vec![0; length])).unwrap();
    }
    let registration = V3::Registration(Registration {
        session: session(),
        destination: echoing().await,
        idle_seconds: 1,
        traced: false,
        bundled: None,
    });
    let ok = V3::Response(Response { session: session(), code: ResponseCode::Ok, text: String::new() });
    for _ in 0..2 {
        assert_eq!(exchange_v3(&connection, &registration).await, ok, "as often as it is asked for");
    }
    let sent = V3::Payload { session: session(), payload: Bytes::from_static(b"query") };
    assert_eq!(exchange_v3(&connection, &sent).await, sent);
    running.stop().await;
}

async fn exchange_v3(connection: &Connection, sent: &V3) -> V3 {
    let mut frame = BytesMut::new();
    sent.encode(&mut frame).unwrap();
    connection.send_datagram(frame.freeze()).unwrap();
    V3::decode(within(connection.read_datagram()).await.unwrap()).unwrap()
}

#[tokio::test]
async fn an_echo_request_in_a_packet_is_answered_in_a_packet() {
    let (_edge, running, connection) = connected(true).await;
    if running.process.echoes.flow(IpAddr::from([127, 0, 0, 1])).is_none() {
        tracing::info!("SKIPPED: no ping sockets and no CAP_NET_RAW here");
        return running.stop().await;
    }
    let packet = |hops| icmp::Packet {
        source: IpAddr::from([192, 0, 2, 1]),
        destination: IpAddr::from([127, 0, 0, 1]),
        hops,
        message: request(77, Family::V4),
    };
    let sent = |hops| V2::Ip { packet: packet(hops).write().unwrap(), traced: None };
    let V2::Ip { packet: reply, .. } = exchange_v2(&connection, sent(64)).await else { panic!("a packet") };
    let reply = icmp::Packet::read(&reply).unwrap();
    assert_eq!((reply.source, reply.destination, reply.hops), (packet(1).destination, packet(1).source, 255));
    assert_eq!(Echo::reply(Family::V4, &reply.message).unwrap().id, 77);
    let V2::Ip { packet: exceeded, .. } = exchange_v2(&connection, sent(1)).await else { panic!("a packet") };
    assert_eq!(icmp::Packet::read(&exceeded).unwrap().message[0], 11);
    running.stop().await;
}

#[tokio::test]
async fn a_configuration_is_pushed_over_either_transport() {
    let (mut edge, _) = Edge::start_both(true).await;
    let config = ConnectorConfig { transports: Transports::Both, ha_connections: 2, ..edge.config() };
    let running = Running::start(config, false).await;
    let (_, connection) = edge.registration().await;
    let config = br#"{"ingress":[{"service":"http_status:418"}]}"#;
    let push = |version| ServiceClient::update_configuration(version, config).unwrap();
    let answer = call(&connection, push(3)).await;
    assert_eq!(answer, ServiceAnswer::Configuration { latest_applied_version: 3, error: None });
    let (_, client) = edge.http2_registration().await;
    let body = r#"{"version":4,"config":{"ingress":[{"service":"http_status:204"}]}}"#;
    let request = http::Request::post("http://localhost/")
        .header(adit_wire::http2::UPGRADE_HEADER, adit_wire::http2::UPGRADE_CONFIGURATION)
        .body(())
        .unwrap();
    let (response, mut send) = client.clone().send_request(request, false).unwrap();
    send.send_data(Bytes::from(body), true).unwrap();
    let mut answer = http2::reader(within(response).await.unwrap().into_body());
    let answer = within(answer.read_chunk()).await.unwrap().unwrap();
    assert_eq!(&answer[..], br#"{"lastAppliedVersion":4,"err":null}"#);
    running.stop().await;
}

#[tokio::test]
async fn beyond_the_allowed_networks_nothing_is_dialled_whatever_an_edge_asks() {
    let mut edge = Edge::start();
    let allow = "allow-networks: 127.0.0.1/32:7,127.0.0.2/32\n";
    let file = ConfigFile::parse(std::path::Path::new("config.yml"), allow).unwrap();
    let allow_networks = file.allow_networks.unwrap();
    let running = Running::start(ConnectorConfig { allow_networks, ..edge.config() }, true).await;
    let (_, connection) = edge.registration().await;
    let router = routed(&connection);
    for (protocol, dest, blocked) in [
        (Protocol::Udp, "127.0.0.1:8", true),
        (Protocol::Udp, "127.0.0.1:7", false),
        (Protocol::Udp, "127.0.0.2:8", false),
        (Protocol::Icmp, "127.0.0.1:0", true),
        (Protocol::Icmp, "127.0.0.3:0", true),
    ] {
        match open_datagrams(&connection, &router, protocol, dest).await {
            Ok(mut flow) => {
                assert!(!blocked, "{dest}");
                flow.reset();
            }
            Err(response) => {
                assert!(blocked, "{dest}: {}", response.error);
                assert_eq!(response.metadata(REFUSAL_METADATA), Some("blocked"), "{dest}");
            }
        }
    }
    let (_, _, response) = open(&connection, ConnectionType::Tcp, "127.0.0.1:8").await;
    let expected =
        "unable to dial tcp to origin 127.0.0.1:8: it is not among this connector's allow-networks";
    assert_eq!(response.error, expected);
    running.stop().await;
}
