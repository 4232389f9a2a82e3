//! The tunnel side of an edge alone: connectors that are made here, or an unmodified one, and what is dialled through them.

mod cloudflared;
mod connectors;
mod peer;
mod relay;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use adit_model::{
    AccountId, Change, ChangeBatch, Command, FlowId, Protocol, PublicHostname, Record, SecretHash, Tunnel,
    TunnelConfiguration, TunnelId,
};
use adit_transport::datagram::{Packet, ReceivePacket as _, SendPacket as _};
use adit_transport::tls::Identity;
use adit_transport::{ReadChunk as _, WriteChunk as _};
use bytes::{Bytes, BytesMut};
use http::{HeaderName, HeaderValue, Method};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::datagram::FarDatagrams;
use crate::dial::{self, Dialled, DialledDatagrams, NotDialled, OriginExchange, OriginRequest};
use crate::far::FarReader;
use crate::{Certificates, Edge, EdgeConfig, Ends};

/// Longest that anything may take that is waited for.
const LIMIT: Duration = Duration::from_secs(15);
const SECRET: &[u8] = b"a secret of at least thirty-two bytes";
const ACCOUNT: AccountId = AccountId::from_bytes([7; 16]);

fn tunnel_id() -> TunnelId {
    TunnelId::from_uuid(Uuid::from_u128(2))
}

fn flow_id() -> FlowId {
    FlowId::from_uuid(Uuid::new_v4())
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, future).await.expect("it takes too long")
}

/// There are no public host names here.
#[derive(Debug)]
struct NoCertificates;

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
        let names = ["quic.cftunnel.com", "h2.cftunnel.com", "probe.cftunnel.com", "edge.test"];
        let made = rcgen::generate_simple_self_signed(names.map(str::to_owned)).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let identity = || Identity::new(vec![made.cert.der().clone()], key.clone_key());
        let (changes, changes_out) = mpsc::channel(16);
        let (commands, commands_out) = mpsc::channel(16);
        let (records_in, records) = mpsc::channel(1024);
        let tunnel = Tunnel {
            id: tunnel_id(),
            account: ACCOUNT,
            name: "bench".into(),
            secret: SecretHash::of(SECRET),
            remotely_managed,
        };
        changes.send(ChangeBatch { number: 1, changes: vec![Change::TunnelPut(tunnel)] }).await.unwrap();
        let loopback: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let config = EdgeConfig {
            node: "node01".into(),
            https: loopback,
            tunnel: loopback,
            identity: identity(),
            tunnel_identity: identity(),
            names: vec!["edge.test".into()],
            certificates: Arc::new(NoCertificates),
            management: axum::Router::new(),
            enrolment: axum::Router::new(),
        };
        let ends = Ends { changes: changes_out, commands: commands_out, records: records_in };
        let edge = Edge::start(config, ends).await.unwrap();
        Self { edge, authority: made.cert.pem(), changes, _commands: commands, records, number: 1 }
    }

    async fn configure(&mut self, version: i32, config: &str) {
        self.number += 1;
        let configuration = TunnelConfiguration { tunnel: tunnel_id(), version, config: config.into() };
        let changes = vec![Change::TunnelConfigurationPut(configuration)];
        self.changes.send(ChangeBatch { number: self.number, changes }).await.unwrap();
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
        within(dial::dial(&self.edge.shared, tunnel_id(), flow_id(), destination)).await
    }

    async fn datagrams(
        &self,
        protocol: Protocol,
        destination: SocketAddr,
    ) -> Result<DialledDatagrams, NotDialled> {
        let source: IpAddr = "198.51.100.7".parse().unwrap();
        let (shared, tunnel) = (&self.edge.shared, tunnel_id());
        within(dial::dial_datagrams(shared, tunnel, flow_id(), protocol, destination, source)).await
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
        within(dial::request(&self.edge.shared, tunnel_id(), flow_id(), request)).await.unwrap()
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
