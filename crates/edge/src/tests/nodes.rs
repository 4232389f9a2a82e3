//! Several edge nodes: who relays what to whom.

use adit_model::{AccountId, Lease, Node, NodeId, NodeKey, Refusal};
use adit_wire::device::{DATAGRAMS_FEATURE, HALF_CLOSE_FEATURE};
use rcgen::PublicKeyData as _;

use super::peer::{Identity as Connector, QuicPeer};
use super::relay::Relay;
use super::*;

/// What is needed to start a node, and what others know of it.
struct Made {
    id: NodeId,
    key: NodeKey,
    identity: Identity,
}

fn made(number: u128) -> Made {
    let made = rcgen::generate_simple_self_signed(vec!["node.test".to_owned()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    Made {
        id: NodeId::from_uuid(Uuid::from_u128(number)),
        key: NodeKey::of_public_key(&made.signing_key.subject_public_key_info()),
        identity: Identity::new(vec![made.cert.der().clone()], key),
    }
}

fn tunnel_of(account: AccountId) -> Change {
    let secret = SecretHash::of(SECRET);
    Change::TunnelPut(Tunnel {
        id: tunnel_id(),
        account,
        name: "bench".into(),
        secret,
        remotely_managed: false,
    })
}

/// An edge that is one of several.
struct NodeBench {
    bench: Bench,
    id: NodeId,
    key: NodeKey,
}

impl NodeBench {
    async fn start(number: u128, account: AccountId) -> Self {
        let Made { id, key, identity } = made(number);
        let bench = Bench::with(vec![tunnel_of(account)], Some(PeerIdentity { node: id, identity })).await;
        Self { bench, id, key }
    }

    fn address(&self) -> SocketAddr {
        self.bench.edge.tunnel()
    }

    /// This node as others know it, at this address.
    fn at(&self, address: SocketAddr) -> Change {
        let (name, devices) = (format!("node{}", self.id.uuid().as_u128()), String::new());
        Change::NodePut(Node { id: self.id, name, key: self.key, address: address.to_string(), devices })
    }

    fn lease(&self) -> Change {
        Change::LeasePut(Lease { node: self.id, tunnel: tunnel_id() })
    }

    async fn connector(&mut self, features: &'static [&'static str]) -> QuicPeer {
        let identity = Connector { features, ..Connector::default() };
        let peer = QuicPeer::connect(self.address(), &self.bench.authority, &identity).await.unwrap();
        self.bench.connections(1).await;
        peer
    }

    /// Flows that were relayed, by direction.
    fn relayed(&self, direction: &str) -> u64 {
        let mut registry = prometheus_client::registry::Registry::default();
        self.bench.edge.metrics().register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let line = format!("adit_edge_relayed_flows_total{{direction=\"{direction}\"}} ");
        text.lines().find_map(|found| found.strip_prefix(&line)).map_or(0, |count| count.parse().unwrap())
    }
}

/// Two nodes that know each other. The second one holds the tunnel's connections.
async fn two(holder_account: AccountId) -> (NodeBench, NodeBench) {
    let (mut near, mut far) = (NodeBench::start(1, ACCOUNT).await, NodeBench::start(2, holder_account).await);
    let known = vec![near.at(near.address()), far.at(far.address()), far.lease()];
    far.bench.change(known.clone()).await;
    near.bench.change(known).await;
    (near, far)
}

/// An address of an origin here, as a peer node may be asked for it.
fn elsewhere(origin: SocketAddr) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], origin.port()))
}

#[tokio::test]
async fn a_flow_without_a_connection_here_goes_through_the_node_that_holds_one() {
    let (near, mut far) = two(ACCOUNT).await;
    let _connector = far.connector(&[]).await;
    let origin = elsewhere(tcp_echo().await);
    let mut dialled = near.bench.dial(origin).await.unwrap();
    assert_eq!(echo(&mut dialled, b"relayed").await, "relayed");
    assert_eq!(dialled.via.relayed_to(), Some(far.id));
    let own = far.bench.dial(origin).await.unwrap();
    assert_eq!(dialled.via.connection(), own.via.connection(), "the answer names the connection");
    // The node that holds the connection sees to it that a connector without half-close does not end both directions.
    dialled.stream.writer.write_chunk(Bytes::from_static(b"last")).await.unwrap();
    dialled.stream.writer.finish().await.unwrap();
    assert_eq!(read_some(&mut dialled.stream.reader).await, "last");
    assert_eq!((near.relayed("to_peer"), far.relayed("from_peer"), far.relayed("to_peer")), (1, 1, 0));
}

#[tokio::test]
async fn datagrams_are_relayed_and_keep_their_bounds() {
    let (near, mut far) = two(ACCOUNT).await;
    let _connector = far.connector(&[HALF_CLOSE_FEATURE, DATAGRAMS_FEATURE]).await;
    let mut flow = near.bench.datagrams(Protocol::Udp, "192.0.2.1:53".parse().unwrap()).await.unwrap();
    assert_eq!(flow.via.relayed_to(), Some(far.id));
    for length in [1, 1200, 9000] {
        let payload = Bytes::from(vec![7; length]);
        assert_eq!(exchange(&mut flow.far, &payload).await, Packet::Datagram(payload));
    }
    let ping = near.bench.datagrams(Protocol::Icmp, "192.0.2.1:0".parse().unwrap()).await.unwrap();
    assert_eq!(ping.via.relayed_to(), Some(far.id));
}

#[tokio::test]
async fn a_request_to_a_public_host_name_is_relayed_with_its_headers_and_body() {
    let (near, mut far) = two(ACCOUNT).await;
    let _connector = far.connector(&[]).await;
    let mut exchange = near.bench.request("/path?query=1", &[("x-of-the-client", "1")], false).await;
    exchange.writer.write_chunk(Bytes::from_static(b" body")).await.unwrap();
    exchange.writer.finish().await.unwrap();
    let mut answer = within(exchange.answer.wait()).await.unwrap();
    assert_eq!(answer.status, 201);
    assert_eq!(answer.headers["x-of-the-client"], "1");
    assert_eq!(read_all(&mut answer.reader).await, b"http://app.example.com/path?query=1 body");
    assert_eq!(exchange.via.relayed_to(), Some(far.id));
}

#[tokio::test]
async fn a_refusal_comes_back_by_its_name() {
    let (near, mut far) = two(ACCOUNT).await;
    let not = near.bench.dial("192.0.2.1:9".parse().unwrap()).await.unwrap_err();
    assert_eq!((not.refusal, not.relayed_to), (Refusal::NoConnection, Some(far.id)));
    let _connector = far.connector(&[]).await;
    // As 2022.5.3: a failed dial ends without an answer.
    let not = near.bench.dial("192.0.2.1:9".parse().unwrap()).await.unwrap_err();
    assert_eq!((not.refusal, not.relayed_to), (Refusal::ConnectorError, Some(far.id)));
    let not = near.bench.dial("127.0.0.1:9".parse().unwrap()).await.unwrap_err();
    assert_eq!(not.refusal, Refusal::NeverDialled, "whatever the node that decided says");
}

#[tokio::test]
async fn a_tunnel_serves_its_own_account_whatever_a_peer_says() {
    let (near, mut far) = two(AccountId::from_bytes([8; 16])).await;
    far.bench.change(vec![tunnel_of(ACCOUNT)]).await;
    let _connector = far.connector(&[]).await;
    let origin = elsewhere(tcp_echo().await);
    assert!(near.bench.dial(origin).await.is_ok());
    far.bench.change(vec![tunnel_of(AccountId::from_bytes([8; 16]))]).await;
    let not = near.bench.dial(origin).await.unwrap_err();
    assert_eq!((not.refusal, far.relayed("from_peer")), (Refusal::Unroutable, 1));
}

#[tokio::test]
async fn a_node_that_is_not_known_or_no_more_is_served_nothing() {
    let (near, mut far) = two(ACCOUNT).await;
    let _connector = far.connector(&[]).await;
    let origin = elsewhere(tcp_echo().await);
    let mut dialled = near.bench.dial(origin).await.unwrap();
    assert_eq!(echo(&mut dialled, b"known").await, "known");
    far.bench.change(vec![Change::NodeRemoved { id: near.id }]).await;
    assert!(within(dialled.stream.reader.read_chunk()).await.is_err(), "what it had open is cut");
    let not = near.bench.dial(origin).await.unwrap_err();
    assert_eq!(not.refusal, Refusal::NoConnection);
    assert_eq!(far.relayed("from_peer"), 1);
}

#[tokio::test]
async fn a_node_under_another_ones_key_is_told_nothing() {
    let (mut near, mut far) = (NodeBench::start(1, ACCOUNT).await, NodeBench::start(2, ACCOUNT).await);
    let _connector = far.connector(&[]).await;
    let imposter = NodeBench { key: made(2).key, ..far };
    let known = vec![near.at(near.address()), imposter.at(imposter.address()), imposter.lease()];
    near.bench.change(known).await;
    let not = near.bench.dial(elsewhere(tcp_echo().await)).await.unwrap_err();
    assert_eq!((not.refusal, imposter.relayed("from_peer")), (Refusal::NoConnection, 0));
}

#[tokio::test]
async fn a_flow_is_relayed_once() {
    let (near, mut far) = two(ACCOUNT).await;
    let mut third = NodeBench::start(3, ACCOUNT).await;
    let _connector = third.connector(&[]).await;
    let known = vec![far.at(far.address()), third.at(third.address()), third.lease()];
    third.bench.change(known.clone()).await;
    // The second node knows who holds the tunnel; the first one believes that the second does.
    far.bench.change(known).await;
    let origin = elsewhere(tcp_echo().await);
    assert!(far.bench.dial(origin).await.is_ok());
    let not = near.bench.dial(origin).await.unwrap_err();
    assert_eq!(not.refusal, Refusal::NoConnection);
    assert_eq!((far.relayed("to_peer"), third.relayed("from_peer")), (1, 1), "its own flow only");
}

#[tokio::test]
async fn a_node_that_vanishes_is_noticed_and_another_holder_is_asked() {
    let (mut near, mut far) = (NodeBench::start(1, ACCOUNT).await, NodeBench::start(2, ACCOUNT).await);
    let mut third = NodeBench::start(3, ACCOUNT).await;
    let (_of_far, _of_third) = (far.connector(&[]).await, third.connector(&[]).await);
    let way = Relay::to(far.address()).await;
    let known =
        vec![near.at(near.address()), far.at(way.udp), far.lease(), third.at(third.address()), third.lease()];
    far.bench.change(known.clone()).await;
    third.bench.change(known.clone()).await;
    near.bench.change(known[..3].to_vec()).await;
    let origin = elsewhere(tcp_echo().await);
    let first = near.bench.dial(origin).await.unwrap();
    assert_eq!(first.via.relayed_to(), Some(far.id));
    near.bench.change(known[3..].to_vec()).await;
    way.cut();
    let second = near.bench.dial(origin).await.unwrap();
    assert_eq!(second.via.relayed_to(), Some(third.id));
}
