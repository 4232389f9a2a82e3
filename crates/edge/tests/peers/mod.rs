//! A device and a connector, made of the wire formats alone, and the edge between them.

pub(crate) mod quic;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use adit_edge::{Certificates, Edge, EdgeConfig, Ends, InspectionAuthorities};
use adit_model::{
    AccountId, Action, CertificateId, Change, ChangeBatch, Cidr, ConnectorId, DeviceId, DeviceKey, Filter,
    FlowRecord, OverrideTarget, PublicHostname, Record, Refusal, Registration, RegistrationId, Route,
    RouteId, Rule, RuleId, RuleSettings, SecretHash, Tunnel, TunnelId, VirtualNetwork, VirtualNetworkId,
};
use adit_transport::tls::{self, Identity};
use adit_transport::{http2, quic as transport_quic};
use adit_wire::device::{self, Event};
use adit_wire::rpc::{
    ClientEvent, ClientInfo, ConnectionOptions, RegisterRequest, RegistrationClient, TunnelAuth, TunnelSecret,
};
use adit_wire::tunnel::{ConnectRequest, ConnectResponse};
use bytes::{Bytes, BytesMut};
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use http::{Method, Request, Response};
use rcgen::{KeyPair, PublicKeyData};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use uuid::Uuid;

pub(crate) const TARGET: &str = "198.51.100.101:6443";
pub(crate) const ELSEWHERE: &str = "203.0.113.1:443";
pub(crate) const SECRET: &[u8] = b"a secret of at least thirty-two bytes";
const ACCOUNT: AccountId = AccountId::from_bytes([7; 16]);
const NETWORK: VirtualNetworkId = VirtualNetworkId::from_uuid(Uuid::from_u128(1));
const DEADLINE: Duration = Duration::from_secs(10);

pub(crate) fn tunnel() -> Tunnel {
    Tunnel {
        id: TunnelId::from_uuid(Uuid::from_u128(2)),
        account: ACCOUNT,
        name: "k8s".into(),
        secret: SecretHash::of(SECRET),
        remotely_managed: false,
    }
}

pub(crate) fn route(number: u128, network: &str) -> Route {
    let network: Cidr = network.parse().unwrap();
    Route {
        id: RouteId::from_uuid(Uuid::from_u128(number)),
        account: ACCOUNT,
        virtual_network: NETWORK,
        network,
        tunnel: tunnel().id,
    }
}

pub(crate) const RULE: RuleId = RuleId::from_uuid(Uuid::from_u128(9));

/// The account's one rule on flows. An override leads to the port of [`TARGET`].
pub(crate) fn rule(action: Action, traffic: &str) -> Change {
    let settings = RuleSettings {
        l4override: (action == Action::L4Override).then_some(OverrideTarget { ip: None, port: Some(6443) }),
        ..RuleSettings::default()
    };
    Change::RulePut(Box::new(Rule {
        id: RULE,
        account: ACCOUNT,
        name: "rule".into(),
        version: 1,
        precedence: 1000,
        enabled: true,
        filter: Filter::L4,
        action,
        traffic: traffic.into(),
        identity: String::new(),
        device_posture: String::new(),
        settings,
        schedule: None,
        expires_at_micros: None,
    }))
}

thread_local! {
    static KEY: (DeviceKey, Vec<u8>) = {
        let key = KeyPair::generate().unwrap();
        (DeviceKey::of_public_key(&key.subject_public_key_info()), key.serialize_der())
    };
}

pub(crate) fn registration(revoked: bool) -> Registration {
    Registration {
        id: RegistrationId::from_uuid(Uuid::from_u128(4)),
        account: ACCOUNT,
        device: DeviceId::from_uuid(Uuid::from_u128(5)),
        device_name: "laptop".into(),
        key: KEY.with(|key| key.0),
        user: "non_identity@test".into(),
        service_token: None,
        revoked,
    }
}

/// An edge, and the ends by which a control plane would hold it.
pub(crate) struct Chain {
    edge: Edge,
    authority: Vec<u8>,
    changes: mpsc::Sender<ChangeBatch>,
    _commands: mpsc::Sender<adit_model::Command>,
    records: mpsc::Receiver<Record>,
    number: u64,
    index: AtomicU8,
}

/// No public host name is served.
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
    fn certificate(&self, _hostname: &PublicHostname) -> Option<Identity> {
        None
    }
}

impl Chain {
    pub(crate) async fn start() -> Self {
        let names = ["edge.test", "quic.cftunnel.com"].map(str::to_owned);
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let identity = || Identity::new(vec![made.cert.der().clone()], key.clone_key());
        let (changes, changes_out) = mpsc::channel(16);
        let (commands, commands_out) = mpsc::channel(16);
        let (records_in, records) = mpsc::channel(1024);
        let first = vec![
            Change::VirtualNetworkPut(VirtualNetwork { id: NETWORK, account: ACCOUNT, is_default: true }),
            Change::TunnelPut(tunnel()),
            Change::RoutePut(route(1, "198.51.100.101")),
            Change::RoutePut(route(2, "2001:db8::101")),
            Change::RegistrationPut(registration(false)),
        ];
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
            peer: None,
            enrolment: axum::Router::new(),
            dns_upstreams: Vec::new(),
            dns_domain: "dns.localhost".into(),
            dot: None,
        };
        let ends = Ends { changes: changes_out, commands: commands_out, records: records_in };
        let edge = Edge::start(config, ends).await.unwrap();
        let authority = made.cert.pem().into_bytes();
        Self { edge, authority, changes, _commands: commands, records, number: 1, index: AtomicU8::new(0) }
    }

    pub(crate) async fn change(&mut self, change: Change) {
        self.number += 1;
        self.changes.send(ChangeBatch { number: self.number, changes: vec![change] }).await.unwrap();
        while self.edge.snapshot_number() < self.number {
            tokio::task::yield_now().await;
        }
    }

    pub(crate) async fn stop(&self) {
        self.edge.stop().await;
    }

    pub(crate) async fn next_record(&mut self) -> Record {
        loop {
            let record = tokio::time::timeout(DEADLINE, self.records.recv()).await.unwrap().unwrap();
            if !matches!(record, Record::ConnectionOpened(_) | Record::RegistrationSeen(_)) {
                return record;
            }
        }
    }

    pub(crate) async fn flow_record(&mut self) -> FlowRecord {
        loop {
            if let Record::Flow(flow) = self.next_record().await {
                return *flow;
            }
        }
    }

    pub(crate) async fn connection_closed(&mut self) {
        while !matches!(self.next_record().await, Record::ConnectionClosed(_)) {}
    }

    pub(crate) async fn handshake(&self, name: &'static str) -> std::io::Result<()> {
        let config =
            tls::client_config(tls::roots_from_pem(&self.authority).unwrap(), &[b"http/1.1"]).unwrap();
        let stream = TcpStream::connect(self.edge.https()).await?;
        TlsConnector::from(Arc::new(config))
            .connect(ServerName::try_from(name).unwrap(), stream)
            .await
            .map(drop)
    }

    pub(crate) async fn device(&self) -> Device {
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(KEY.with(|key| key.1.clone())));
        let roots = tls::roots_from_pem(&self.authority).unwrap();
        let config = tls::device_client_config(roots, &key, device::ALPN).unwrap();
        let stream = TcpStream::connect(self.edge.https()).await.unwrap();
        let name = ServerName::try_from("edge.test").unwrap();
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
        let (requests, connection) = http2::client().handshake(stream).await.unwrap();
        tokio::spawn(connection);
        Device { requests, instance: Uuid::new_v4() }
    }

    pub(crate) async fn connector(&self, answer: Answer) -> Connector {
        let connector = self.try_connector(SECRET).await.unwrap();
        tokio::spawn(serve(connector.quic.clone(), answer));
        connector
    }

    pub(crate) async fn try_connector(&self, secret: &[u8]) -> Result<Connector, String> {
        let roots = tls::roots_from_pem(&self.authority).unwrap();
        let config =
            transport_quic::client_config(tls::client_config(roots, &[b"argotunnel"]).unwrap()).unwrap();
        let endpoint = transport_quic::dialer("127.0.0.1:0".parse().unwrap()).unwrap();
        let quic =
            endpoint.connect_with(config, self.edge.tunnel(), "quic.cftunnel.com").unwrap().await.unwrap();
        let (send, receive) = quic.open_bi().await.unwrap();
        let mut connector = Connector { quic, send, receive, calls: RegistrationClient::new() };
        let index = self.index.fetch_add(1, Ordering::Relaxed);
        connector.calls.register(&register_request(secret, index)).unwrap();
        match connector.next_event().await {
            ClientEvent::Registered(_) => Ok(connector),
            ClientEvent::Refused(error) => Err(error.cause),
            other @ (ClientEvent::Unregistered
            | ClientEvent::LocalConfigurationReceived
            | ClientEvent::CallFailed { .. }
            | ClientEvent::Aborted { .. }) => panic!("{other:?}"),
        }
    }
}

fn register_request(secret: &[u8], connection_index: u8) -> RegisterRequest {
    let client = ClientInfo {
        client_id: ConnectorId::from_uuid(Uuid::from_u128(6)),
        features: vec![device::HALF_CLOSE_FEATURE.into()],
        version: "test".into(),
        arch: "linux_amd64".into(),
    };
    RegisterRequest {
        auth: TunnelAuth { account_tag: ACCOUNT.to_string(), secret: TunnelSecret::new(secret.to_vec()) },
        tunnel: tunnel().id,
        connection_index,
        options: ConnectionOptions {
            client,
            origin_local_ip: None,
            replace_existing: false,
            compression_quality: 0,
            num_previous_attempts: 0,
        },
    }
}

/// A connection of a connector.
#[derive(Debug)]
pub(crate) struct Connector {
    pub(crate) quic: quinn::Connection,
    send: quinn::SendStream,
    receive: quinn::RecvStream,
    calls: RegistrationClient,
}

impl Connector {
    async fn next_event(&mut self) -> ClientEvent {
        loop {
            while let Some(bytes) = self.calls.poll_transmit() {
                self.send.write_chunk(bytes).await.unwrap();
            }
            if let Some(event) = self.calls.poll_event() {
                return event;
            }
            let chunk = tokio::time::timeout(DEADLINE, self.receive.read_chunk(65536, true)).await.unwrap();
            self.calls.handle_input(&chunk.unwrap().unwrap().bytes).unwrap();
        }
    }

    pub(crate) async fn unregister(&mut self) {
        self.calls.unregister();
        assert!(matches!(self.next_event().await, ClientEvent::Unregistered));
    }
}

/// What a connector does with a flow.
#[derive(Clone, Copy)]
pub(crate) enum Answer {
    /// Reads all, then sends it back.
    EchoAfterEnd,
    /// Says that it could not dial.
    Refuse(&'static str),
    /// Accepts, then resets at the first byte.
    Reset,
    /// Closes the whole connection.
    CloseConnection,
}

async fn serve(quic: quinn::Connection, answer: Answer) {
    while let Ok((send, receive)) = quic.accept_bi().await {
        tokio::spawn(serve_flow(quic.clone(), send, receive, answer));
    }
}

async fn serve_flow(
    quic: quinn::Connection,
    mut send: quinn::SendStream,
    mut receive: quinn::RecvStream,
    answer: Answer,
) {
    let mut bytes = BytesMut::new();
    let consumed = loop {
        if let Some((request, consumed)) = ConnectRequest::decode(&bytes).unwrap() {
            assert_eq!(request.dest, TARGET);
            break consumed;
        }
        assert!(receive.read_buf(&mut bytes).await.unwrap() > 0, "the request comes whole");
    };
    let error = match answer {
        Answer::Refuse(error) => error,
        Answer::CloseConnection => return quic.close(0_u8.into(), b""),
        Answer::EchoAfterEnd | Answer::Reset => "",
    };
    let mut head = BytesMut::new();
    ConnectResponse { error: error.into(), metadata: Vec::new() }.encode(&mut head).unwrap();
    send.write_chunk(head.freeze()).await.unwrap();
    match answer {
        Answer::EchoAfterEnd => {
            let mut all = bytes.split_off(consumed).to_vec();
            // An edge that cuts the flow resets it; then there is nothing to send back.
            if let Ok(rest) = receive.read_to_end(1 << 20).await {
                all.extend(rest);
                send.write_all(&all).await.unwrap();
            }
        }
        Answer::Reset => {
            if bytes.len() == consumed {
                receive.read_buf(&mut bytes).await.unwrap();
            }
            send.reset(0_u8.into()).unwrap();
        }
        Answer::Refuse(_) | Answer::CloseConnection => {}
    }
    let _ = send.finish();
    let _ = send.stopped().await;
}

/// A device's connection.
pub(crate) struct Device {
    requests: SendRequest<Bytes>,
    pub(crate) instance: Uuid,
}

impl Device {
    pub(crate) async fn connect(&self, destination: &str) -> (SendStream<Bytes>, Response<RecvStream>) {
        let request = Request::builder().method(Method::CONNECT).uri(destination).body(()).unwrap();
        let mut requests = self.requests.clone().ready().await.unwrap();
        let (response, send) = requests.send_request(request, false).unwrap();
        (send, tokio::time::timeout(DEADLINE, response).await.unwrap().unwrap())
    }

    pub(crate) async fn refusal(&self, destination: &str) -> Option<Refusal> {
        let (_, response) = self.connect(destination).await;
        let name = response.headers().get(device::REFUSAL_HEADER)?;
        Some(name.to_str().unwrap().parse().unwrap())
    }

    pub(crate) async fn events(&self) -> Events {
        let request = Request::builder()
            .uri(format!("https://edge.test{}", device::EVENTS_PATH))
            .header(device::INSTANCE_HEADER, self.instance.to_string())
            .body(())
            .unwrap();
        let mut requests = self.requests.clone().ready().await.unwrap();
        let (response, _) = requests.send_request(request, true).unwrap();
        let body = tokio::time::timeout(DEADLINE, response).await.unwrap().unwrap().into_body();
        Events { body, line: BytesMut::new() }
    }
}

/// A device's event stream.
pub(crate) struct Events {
    body: RecvStream,
    line: BytesMut,
}

impl Events {
    /// The next event that is no ping.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        loop {
            while let Some(end) = self.line.iter().position(|byte| *byte == b'\n') {
                let line = self.line.split_to(end + 1);
                match Event::from_line(&line[..end]).unwrap() {
                    Some(Event::Ping) | None => {}
                    Some(event) => return Some(event),
                }
            }
            let chunk = tokio::time::timeout(DEADLINE, self.body.data()).await.unwrap()?;
            self.line.extend_from_slice(&chunk.ok()?);
        }
    }
}

pub(crate) async fn read_all(mut body: RecvStream) -> Result<Vec<u8>, h2::Error> {
    let mut all = Vec::new();
    while let Some(chunk) = tokio::time::timeout(DEADLINE, body.data()).await.unwrap() {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
        all.extend_from_slice(&chunk);
    }
    Ok(all)
}
