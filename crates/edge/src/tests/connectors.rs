//! What an edge does with connectors that are made here: the contract's rules, and what no real one can be made to do.

use std::sync::Arc;
use std::time::{Duration, Instant};

use adit_model::{Protocol, Refusal};
use adit_transport::datagram::{Packet, ReceivePacket as _};
use adit_transport::{ReadChunk as _, WriteChunk as _};
use adit_wire::device::DATAGRAMS_FEATURE;
use adit_wire::rpc::ServiceAnswer;
use bytes::Bytes;
use uuid::Uuid;

use super::peer::{Http2Peer, Identity, QuicPeer};
use super::relay::Relay;
use super::{Bench, echo, exchange, tcp_echo, udp_echo, within};

/// A vanished connector is out of the rotation by then.
const VANISHED: Duration = Duration::from_secs(5);

async fn quic_peer(bench: &mut Bench, identity: &Identity) -> QuicPeer {
    let before = bench.edge.connections();
    let peer = QuicPeer::connect(bench.edge.tunnel(), &bench.authority, identity).await.unwrap();
    bench.connections(before + 1).await;
    peer
}

async fn http2_peer(bench: &mut Bench, identity: &Identity) -> Http2Peer {
    let registered = Http2Peer::register(bench.edge.tunnel(), &bench.authority, identity).await;
    registered.unwrap_or_else(|(cause, _)| panic!("{cause}"))
}

#[tokio::test]
async fn flows_go_over_http2_and_refusals_come_by_name() {
    let mut bench = Bench::start().await;
    let _peer = http2_peer(&mut bench, &Identity::default()).await;
    let mut dialled = bench.dial(tcp_echo().await).await.unwrap();
    assert_eq!(echo(&mut dialled, b"over the tunnel").await, "over the tunnel");
    dialled.stream.writer.finish().await.unwrap();
    assert_eq!(within(dialled.stream.reader.read_chunk()).await.unwrap(), None);
    let refused = bench.dial("127.0.0.1:9".parse().unwrap()).await.unwrap_err();
    assert_eq!(refused.refusal, Refusal::Refused);
    let udp = bench.datagrams(Protocol::Udp, "127.0.0.1:9".parse().unwrap()).await.unwrap_err();
    assert_eq!(udp.refusal, Refusal::NoConnection, "it cannot carry datagrams");
}

#[tokio::test]
async fn a_refused_registration_over_http2_is_told_and_the_connection_closed() {
    let bench = Bench::start().await;
    let wrong = Identity { secret: b"guess", ..Identity::default() };
    let refused = Http2Peer::register(bench.edge.tunnel(), &bench.authority, &wrong).await;
    let Err((cause, peer)) = refused else { panic!("it was let in") };
    assert_eq!(cause, "Unauthorized: Invalid tunnel secret");
    drop(peer.calls);
    // With a farewell, which is no error.
    within(peer.ended).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_control_stream_that_ends_without_a_farewell_ends_the_connection() {
    let mut bench = Bench::start().await;
    let mut peer = http2_peer(&mut bench, &Identity::default()).await;
    peer.calls.end().await;
    bench.connections(0).await;
    drop(peer.calls);
    within(peer.ended).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_connector_that_leaves_over_http2_keeps_its_flows() {
    let mut bench = Bench::start().await;
    let mut peer = http2_peer(&mut bench, &Identity::default()).await;
    let origin = tcp_echo().await;
    let mut dialled = bench.dial(origin).await.unwrap();
    peer.calls.unregister().await;
    bench.connections(0).await;
    assert_eq!(bench.dial(origin).await.unwrap_err().refusal, Refusal::NoConnection);
    peer.calls.end().await;
    assert_eq!(echo(&mut dialled, b"still here").await, "still here");
}

#[tokio::test]
async fn an_edge_that_stops_ends_its_connections_over_http2_at_once() {
    let mut bench = Bench::start().await;
    let peer = http2_peer(&mut bench, &Identity::default()).await;
    let began = Instant::now();
    bench.edge.stop().await;
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    // Whether it hears the farewell first, or fails to answer it, is chance.
    let ended = within(peer.ended).await.unwrap();
    assert!(ended.is_ok() || ended.is_err_and(|error| error.is_io()));
}

#[tokio::test]
async fn the_newer_connection_of_an_index_replaces_the_older_over_either_transport() {
    let mut bench = Bench::start().await;
    let old = http2_peer(&mut bench, &Identity::default()).await;
    let _new = QuicPeer::connect(bench.edge.tunnel(), &bench.authority, &Identity::default()).await.unwrap();
    let Http2Peer { calls, ended } = old;
    drop(calls);
    within(ended).await.unwrap().unwrap();
    bench.connections(1).await;
    let mut dialled = bench.dial(tcp_echo().await).await.unwrap();
    assert_eq!(echo(&mut dialled, b"new").await, "new");
}

#[tokio::test]
async fn a_vanished_host_is_out_of_the_rotation_in_time_over_quic() {
    let bench = Bench::start().await;
    let relay = Relay::to(bench.edge.tunnel()).await;
    let _peer = QuicPeer::connect(relay.udp, &bench.authority, &Identity::default()).await.unwrap();
    let origin = tcp_echo().await;
    assert!(bench.dial(origin).await.is_ok());
    relay.cut();
    let cut = Instant::now();
    assert_eq!(bench.dial(origin).await.unwrap_err().refusal, Refusal::NoConnection);
    assert!(cut.elapsed() < VANISHED, "{:?}", cut.elapsed());
}

#[tokio::test]
async fn a_vanished_host_is_out_of_the_rotation_in_time_over_http2_and_its_connection_ends() {
    let mut bench = Bench::start().await;
    let relay = Relay::to(bench.edge.tunnel()).await;
    let registered = Http2Peer::register(relay.tcp, &bench.authority, &Identity::default()).await;
    let _peer = registered.unwrap_or_else(|(cause, _)| panic!("{cause}"));
    let origin = tcp_echo().await;
    assert!(bench.dial(origin).await.is_ok());
    relay.cut();
    let cut = Instant::now();
    assert_eq!(bench.dial(origin).await.unwrap_err().refusal, Refusal::NoConnection);
    assert!(cut.elapsed() < VANISHED, "{:?}", cut.elapsed());
    bench.connections(0).await;
}

#[tokio::test]
async fn flows_dialled_through_a_vanished_host_are_dialled_through_another() {
    let bench = Bench::start().await;
    let relay = Relay::to(bench.edge.tunnel()).await;
    let _vanishes = QuicPeer::connect(relay.udp, &bench.authority, &Identity::default()).await.unwrap();
    let other = Identity { connector: 2, ..Identity::default() };
    let _stays = QuicPeer::connect(bench.edge.tunnel(), &bench.authority, &other).await.unwrap();
    let origin = tcp_echo().await;
    relay.cut();
    // Two at once: whichever goes first, one goes to each.
    let (first, second) = tokio::join!(bench.dial(origin), bench.dial(origin));
    for dialled in [first, second] {
        assert_eq!(echo(&mut dialled.unwrap(), b"served").await, "served");
    }
}

#[tokio::test]
async fn a_connection_with_all_its_streams_open_gets_no_more_and_the_flow_is_refused_at_once() {
    let mut bench = Bench::start().await;
    let _peer = http2_peer(&mut bench, &Identity { streams: Some(4), ..Identity::default() }).await;
    let origin = tcp_echo().await;
    let mut dialled = Vec::new();
    for _ in 0..2 {
        dialled.push(bench.dial(origin).await.unwrap());
    }
    let refused = bench.dial(origin).await.unwrap_err();
    assert_eq!(refused.refusal, Refusal::TooManyFlows);
    // Another connection has room.
    let _second = quic_peer(&mut bench, &Identity { index: 1, ..Identity::default() }).await;
    assert_eq!(bench.dial(origin).await.unwrap().via.own().index, 1);
}

#[tokio::test]
async fn flows_go_where_fewer_are() {
    let mut bench = Bench::start().await;
    let _first = quic_peer(&mut bench, &Identity::default()).await;
    let _second = quic_peer(&mut bench, &Identity { index: 1, ..Identity::default() }).await;
    let origin = tcp_echo().await;
    let mut dialled = Vec::new();
    for _ in 0..8 {
        dialled.push(bench.dial(origin).await.unwrap());
    }
    let of_first = dialled.iter().filter(|flow| flow.via.own().index == 0).count();
    assert_eq!(of_first, 4);
    // What ended counts no more.
    dialled.retain(|flow| flow.via.own().index == 0);
    for _ in 0..4 {
        let flow = bench.dial(origin).await.unwrap();
        assert_eq!(flow.via.own().index, 1);
        dialled.push(flow);
    }
}

#[tokio::test]
async fn a_connector_of_2022_carries_tcp_and_udp() {
    let mut bench = Bench::start().await;
    let _peer = quic_peer(&mut bench, &Identity::of_2022()).await;
    let mut dialled = bench.dial(tcp_echo().await).await.unwrap();
    assert_eq!(echo(&mut dialled, b"over the tunnel").await, "over the tunnel");
    // It ends a stream whose destination cannot be dialled without an answer.
    let refused = bench.dial("127.0.0.1:9".parse().unwrap()).await.unwrap_err();
    assert_eq!(refused.refusal, Refusal::ConnectorError);
    let mut flow = bench.datagrams(Protocol::Udp, udp_echo("127.0.0.1:0").await).await.unwrap();
    let payload = Bytes::from_static(b"a question");
    assert_eq!(exchange(&mut flow.far, &payload).await, Packet::Datagram(payload));
    let large = Bytes::from(vec![0; 1400]);
    assert_eq!(exchange(&mut flow.far, &large).await, Packet::Refusal("too-large".into()));
    let echo = bench.datagrams(Protocol::Icmp, "127.0.0.1:0".parse().unwrap()).await.unwrap_err();
    assert_eq!(echo.refusal, Refusal::NoConnection, "it knows no ICMP");
}

#[tokio::test]
async fn our_own_connector_gets_datagrams_as_streams_over_either_transport() {
    for over_quic in [true, false] {
        let mut bench = Bench::start().await;
        let ours = Identity { features: &[DATAGRAMS_FEATURE], ..Identity::default() };
        let mut peers = (None, None);
        if over_quic {
            peers.0 = Some(quic_peer(&mut bench, &ours).await);
        } else {
            peers.1 = Some(http2_peer(&mut bench, &ours).await);
        }
        for protocol in [Protocol::Udp, Protocol::Icmp] {
            let mut flow = bench.datagrams(protocol, "192.0.2.1:53".parse().unwrap()).await.unwrap();
            for size in [0, 1, 1000, 65_507] {
                let payload = Bytes::from(vec![7; size]);
                assert_eq!(exchange(&mut flow.far, &payload).await, Packet::Datagram(payload));
            }
        }
    }
}

#[tokio::test]
async fn a_connector_ends_sessions_by_a_call_and_others_go_on() {
    let mut bench = Bench::start().await;
    let peer = quic_peer(&mut bench, &Identity::of_2022()).await;
    let origin = udp_echo("127.0.0.1:0").await;
    let mut ends = bench.datagrams(Protocol::Udp, origin).await.unwrap();
    let mut goes_on = bench.datagrams(Protocol::Udp, origin).await.unwrap();
    let session = ends.far.session_id().unwrap();
    assert_eq!(peer.end_session(Uuid::from_bytes(session.to_bytes())).await, ServiceAnswer::UdpSessionEnded);
    assert_eq!(within(ends.far.receiver.receive()).await.unwrap(), None);
    assert_eq!(peer.end_session(Uuid::from_u128(0)).await, ServiceAnswer::UdpSessionEnded);
    let payload = Bytes::from_static(b"on");
    assert_eq!(exchange(&mut goes_on.far, &payload).await, Packet::Datagram(payload));
}

#[tokio::test]
async fn a_configuration_is_pushed_at_once_and_then_only_when_it_is_newer() {
    let mut bench = Bench::with_tunnel(true).await;
    bench.configure(1, r#"{"ingress":[]}"#).await;
    let peer = quic_peer(&mut bench, &Identity::of_2022()).await;
    let _over_http2 = http2_peer(&mut bench, &Identity { index: 1, ..Identity::of_2022() }).await;
    let pushed = async |count: usize| {
        let configurations = Arc::clone(&peer.configurations);
        within(async move {
            while configurations.lock().unwrap().len() < count {
                tokio::task::yield_now().await;
            }
        })
        .await;
    };
    pushed(1).await;
    bench.configure(1, r#"{"ingress":[]}"#).await;
    bench.configure(2, r#"{"ingress":[{"service":"http_status:404"}]}"#).await;
    pushed(2).await;
    let versions: Vec<_> = peer.configurations.lock().unwrap().iter().map(|(version, _)| *version).collect();
    assert_eq!(versions, [1, 2]);
}
