//! The tunnel side of an edge alone: connectors that are made here, or an unmodified one, and what is dialled through them.

mod cloudflared;
mod connectors;
mod kept;
mod nodes;
mod peer;
mod relay;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use adit_model::{
    AccountId, CertificateId, Change, ChangeBatch, Command, FlowId, Protocol, PublicHostname, Record,
    SecretHash, Tunnel, TunnelConfiguration, TunnelId,
};
use adit_transport::datagram::{Packet, ReceivePacket as _, SendPacket as _};
use adit_transport::tls::Identity;
use adit_transport::{ReadChunk as _, WriteChunk as _};
use adit_wire::peer::RelayedFlow;
use bytes::{Bytes, BytesMut};
use http::{HeaderName, HeaderValue, Method};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::datagram::FarDatagrams;
use crate::dial::{self, Dialled, DialledDatagrams, NotDialled, Order, OriginExchange, OriginRequest, Reach};
use crate::far::FarReader;
use crate::{Certificates, Edge, EdgeConfig, Ends, InspectionAuthorities, PeerIdentity};

/// Longest that anything may take that is waited for.
const LIMIT: Duration = Duration::from_secs(30);
const SECRET: &[u8] = b"a secret of at least thirty-two bytes";
const ACCOUNT: AccountId = AccountId::from_bytes([7; 16]);

fn tunnel_id() -> TunnelId {
    TunnelId::from_uuid(Uuid::from_u128(2))
}

/// A flow of the tunnel's own account, as this node has decided it.
fn order(protocol: Protocol) -> Order {
    let flow = RelayedFlow {
        flow: FlowId::from_uuid(Uuid::new_v4()),
        account: ACCOUNT,
        tunnel: tunnel_id(),
        protocol,
        rule: None,
        snapshot: 1,
        source: Some("198.51.100.7".parse().unwrap()),
    };
    Order { flow, reach: Reach::AnyNode }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, future).await.expect("it takes too long")
}

/// There are no public host names here.
#[derive(Debug)]
struct NoCertificates;

impl InspectionAuthorities for NoCertificates {
    fn leaf(&self, _account: AccountId, _authority: CertificateId, _name: &str) -> Option<Identity> {
        None
    }

    fn roots(&self) -> Arc<rustls::RootCertStore> {
        Arc::new(rustls::RootCertStore::empty())
    }
}

impl Certificates for NoCertificates {
    fn certificate(&self, _: &PublicHostname) -> Option<Identity> {
        None
    }
}

/// An edge, and the ends by which a control plane would hold it.
struct Bench {
    edge: Edge,
    /// The edge's authority, PEM.
    authority: String,
    changes: mpsc::Sender<ChangeBatch>,
    _commands: mpsc::Sender<Command>,
    records: mpsc::Receiver<Record>,
    number: u64,
}

impl Bench {
    async fn start() -> Self {
        Self::with_tunnel(false).await
    }

    async fn with_tunnel(remotely_managed: bool) -> Self {
        let tunnel = Tunnel {
            id: tunnel_id(),
            account: ACCOUNT,
            name: "bench".into(),
            secret: SecretHash::of(SECRET),
            remotely_managed,
        };
        Self::with(vec![Change::TunnelPut(tunnel)], None).await
    }

    async fn with(first: Vec<Change>, peer: Option<PeerIdentity>) -> Self {
        let names = ["quic.cftunnel.com", "h2.cftunnel.com", "probe.cftunnel.com", "edge.test"];
        let made = rcgen::generate_simple_self_signed(names.map(str::to_owned)).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let identity = || Identity::new(vec![made.cert.der().clone()], key.clone_key());
        let (changes, changes_out) = mpsc::channel(16);
        let (commands, commands_out) = mpsc::channel(16);
        let (records_in, records) = mpsc::channel(1024);
        changes.send(ChangeBatch { number: 1, changes: first }).await.unwrap();
        let loopback: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let config = EdgeConfig {
            node: "node01".into(),
            https: loopback,
            tunnel: loopback,
            identity: identity(),
            tunnel_identity: identity(),
            names: vec!["edge.test".into()],
            certificates: Arc::new(NoCertificates),
            inspection: Arc::new(NoCertificates),
            management: axum::Router::new(),
            enrolment: axum::Router::new(),
            dns_upstreams: Vec::new(),
            dns_domain: "dns.localhost".into(),
            dot: None,
            peer,
        };
        let ends = Ends { changes: changes_out, commands: commands_out, records: records_in };
        let edge = Edge::start(config, ends).await.unwrap();
        Self { edge, authority: made.cert.pem(), changes, _commands: commands, records, number: 1 }
    }

    async fn configure(&mut self, version: i32, config: &str) {
        let configuration = TunnelConfiguration { tunnel: tunnel_id(), version, config: config.into() };
        self.change(vec![Change::TunnelConfigurationPut(configuration)]).await;
    }

    /// Changes the state, and waits until the edge decides by it.
    async fn change(&mut self, changes: Vec<Change>) {
        self.number += 1;
        let mut number = self.edge.shared.snapshots.watch();
        self.changes.send(ChangeBatch { number: self.number, changes }).await.unwrap();
        within(number.wait_for(|number| *number >= self.number)).await.unwrap();
    }

    async fn record(&mut self) -> Record {
        within(self.records.recv()).await.unwrap()
    }

    /// Waits until so many connections are in the rotation.
    async fn connections(&mut self, count: usize) {
        while self.edge.connections() != count {
            self.record().await;
        }
    }

    async fn dial(&self, destination: SocketAddr) -> Result<Dialled, NotDialled> {
        within(dial::dial(&self.edge.shared, order(Protocol::Tcp), destination)).await
    }

    async fn datagrams(
        &self,
        protocol: Protocol,
        destination: SocketAddr,
    ) -> Result<DialledDatagrams, NotDialled> {
        within(dial::dial_datagrams(&self.edge.shared, order(protocol), destination)).await
    }

    async fn request(&self, path: &str, headers: &[(&'static str, &str)], websocket: bool) -> OriginExchange {
        let headers = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap()));
        let request = OriginRequest {
            method: Method::GET,
            uri: format!("http://app.example.com{path}").parse().unwrap(),
            host: "app.example.com".into(),
            headers: headers.collect(),
            websocket,
        };
        within(dial::request(&self.edge.shared, order(Protocol::Tcp), request)).await.unwrap()
    }
}

async fn read_some(reader: &mut FarReader) -> Bytes {
    within(reader.read_chunk()).await.unwrap().expect("more is to come")
}

async fn read_all(reader: &mut FarReader) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(chunk) = within(reader.read_chunk()).await.unwrap() {
        all.extend_from_slice(&chunk);
    }
    all
}

/// What an echo of `text` over a dialled TCP flow gives.
async fn echo(dialled: &mut Dialled, text: &'static [u8]) -> Bytes {
    dialled.stream.writer.write_chunk(Bytes::from_static(text)).await.unwrap();
    let mut all = BytesMut::new();
    while all.len() < text.len() {
        all.extend_from_slice(&read_some(&mut dialled.stream.reader).await);
    }
    all.freeze()
}

/// Sends a datagram until its echo comes: datagrams may be lost.
async fn exchange(far: &mut FarDatagrams, payload: &Bytes) -> Packet {
    let attempts = async {
        loop {
            far.sender.send(Packet::Datagram(payload.clone())).await.unwrap();
            let answer = tokio::time::timeout(Duration::from_millis(500), far.receiver.receive()).await;
            if let Ok(answer) = answer {
                return answer.unwrap().expect("the flow goes on");
            }
        }
    };
    within(attempts).await
}

/// A TCP origin that sends back what it gets.
async fn tcp_echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    address
}

/// A UDP origin that sends back what it gets.
async fn udp_echo(address: &str) -> SocketAddr {
    let socket = UdpSocket::bind(address).await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = vec![0; 65_536];
        while let Ok((length, peer)) = socket.recv_from(&mut buffer).await {
            let _ = socket.send_to(&buffer[..length], peer).await;
        }
    });
    address
}
