//! Connectors made of the wire formats alone, among them one that behaves like 2022.5.3 (tunnel protocol, section 9).

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use adit_model::{ConnectorId, Refusal};
use adit_transport::tls;
use adit_transport::{Duplex, ReadChunk, WriteChunk, http2, quic};
use adit_wire::datagram::{SessionId, decode_v1, encode_v1};
use adit_wire::device::{DATAGRAMS_FEATURE, PROTOCOL_HEADER, REFUSAL_HEADER};
use adit_wire::http2::{
    ConfigurationAnswer, ConfigurationPush, RESPONSE_HEADERS_HEADER, RESPONSE_META_HEADER, RequestKind,
    ResponseMeta, SOURCE_HEADER, UPGRADE_HEADER,
};
use adit_wire::rpc::{
    ClientEvent, ClientInfo, ConnectionOptions, RegisterRequest, RegistrationClient, ServiceAnswer,
    ServiceClient, ServiceEvent, ServiceServer, TunnelAuth, TunnelSecret, UnregisterUdpSession,
};
use adit_wire::tunnel::{
    ConnectRequest, ConnectResponse, ConnectionType, DATA_SIGNATURE, Metadata, RPC_SIGNATURE, StreamKind,
};
use bytes::{Bytes, BytesMut};
use http::{Request, Response, StatusCode};
use rustls::crypto::aws_lc_rs::kx_group;
use rustls::pki_types::ServerName;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpStream, UdpSocket};
use uuid::Uuid;

use super::{ACCOUNT, SECRET, tunnel_id, within};

/// What a connector tells of itself.
#[derive(Clone)]
pub(super) struct Identity {
    pub(super) connector: u128,
    pub(super) index: u8,
    pub(super) secret: &'static [u8],
    pub(super) features: &'static [&'static str],
    /// What 2022.5.3 offers: P-256 only.
    pub(super) p256_only: bool,
    /// How many streams an HTTP/2 connection takes, the control stream counted; else as many as ours.
    pub(super) streams: Option<u32>,
}

impl Default for Identity {
    fn default() -> Self {
        Self { connector: 1, index: 0, secret: SECRET, features: &[], p256_only: false, streams: None }
    }
}

impl Identity {
    /// As 2022.5.3 (tunnel protocol, section 9).
    pub(super) fn of_2022() -> Self {
        Self { features: &["allow_remote_config", "serialized_headers"], p256_only: true, ..Self::default() }
    }

    fn request(&self) -> RegisterRequest {
        RegisterRequest {
            auth: TunnelAuth {
                account_tag: ACCOUNT.to_string(),
                secret: TunnelSecret::new(self.secret.to_vec()),
            },
            tunnel: tunnel_id(),
            connection_index: self.index,
            options: ConnectionOptions {
                client: ClientInfo {
                    client_id: ConnectorId::from_uuid(Uuid::from_u128(self.connector)),
                    features: self.features.iter().map(ToString::to_string).collect(),
                    version: "test".into(),
                    arch: "linux_amd64".into(),
                },
                origin_local_ip: None,
                replace_existing: false,
                compression_quality: 0,
                num_previous_attempts: 0,
            },
        }
    }

    fn tls(&self, authority: &str, protocols: &[&[u8]]) -> rustls::ClientConfig {
        let roots = tls::roots_from_pem(authority.as_bytes()).unwrap();
        if !self.p256_only {
            return tls::client_config(roots, protocols).unwrap();
        }
        let provider = rustls::crypto::CryptoProvider {
            kx_groups: vec![kx_group::SECP256R1],
            ..(*tls::provider()).clone()
        };
        let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        config
    }
}

/// A control stream.
pub(super) struct Calls<R, W> {
    stream: Duplex<R, W>,
    client: RegistrationClient,
}

impl<R: ReadChunk, W: WriteChunk> Calls<R, W> {
    fn new(stream: Duplex<R, W>) -> Self {
        Self { stream, client: RegistrationClient::new() }
    }

    async fn register(&mut self, identity: &Identity) -> Result<(), String> {
        self.client.register(&identity.request()).unwrap();
        match self.event().await {
            ClientEvent::Registered(_) => Ok(()),
            ClientEvent::Refused(error) => Err(error.cause),
            other @ (ClientEvent::Unregistered
            | ClientEvent::LocalConfigurationReceived
            | ClientEvent::CallFailed { .. }
            | ClientEvent::Aborted { .. }) => panic!("{other:?}"),
        }
    }

    pub(super) async fn unregister(&mut self) {
        self.client.unregister();
        assert!(matches!(self.event().await, ClientEvent::Unregistered));
    }

    /// Ends the control stream and nothing else.
    pub(super) async fn end(&mut self) {
        self.stream.writer.finish().await.unwrap();
    }

    async fn event(&mut self) -> ClientEvent {
        loop {
            while let Some(bytes) = self.client.poll_transmit() {
                self.stream.writer.write_chunk(bytes).await.unwrap();
            }
            if let Some(event) = self.client.poll_event() {
                return event;
            }
            let chunk = within(self.stream.reader.read_chunk()).await.unwrap().expect("the edge says more");
            self.client.handle_input(&chunk).unwrap();
        }
    }
}

/// A connection over QUIC.
pub(super) struct QuicPeer {
    pub(super) quic: quinn::Connection,
    _calls: Calls<quic::QuicReader, quic::QuicWriter>,
    /// Versions and texts of configurations that were pushed.
    pub(super) configurations: Arc<Mutex<Vec<(i32, String)>>>,
    _endpoint: quinn::Endpoint,
}

type Sockets = Arc<Mutex<HashMap<SessionId, Arc<UdpSocket>>>>;

impl QuicPeer {
    pub(super) async fn connect(
        edge: SocketAddr,
        authority: &str,
        identity: &Identity,
    ) -> Result<Self, String> {
        let config = quic::client_config(identity.tls(authority, &[b"argotunnel"])).unwrap();
        let endpoint = quic::dialer("127.0.0.1:0".parse().unwrap()).unwrap();
        let connecting = endpoint.connect_with(config, edge, "quic.cftunnel.com").unwrap();
        let quic = within(connecting).await.map_err(|error| error.to_string())?;
        let (send, receive) = quic.open_bi().await.unwrap();
        let mut calls = Calls::new(quic::duplex(send, receive, Bytes::new()));
        calls.register(identity).await?;
        let configurations = Arc::default();
        let sockets = Sockets::default();
        tokio::spawn(serve_quic(quic.clone(), Arc::clone(&sockets), Arc::clone(&configurations)));
        if identity.features.contains(&DATAGRAMS_FEATURE) {
            tokio::spawn(echo_frames(quic.clone()));
        } else {
            tokio::spawn(serve_datagrams(quic.clone(), sockets));
        }
        Ok(Self { quic, _calls: calls, configurations, _endpoint: endpoint })
    }

    /// Says by a call that a session has ended.
    pub(super) async fn end_session(&self, session: Uuid) -> ServiceAnswer {
        let request = UnregisterUdpSession { session, message: "session idle for 2s".into() };
        let mut client = ServiceClient::unregister_udp_session(&request).unwrap();
        let (mut send, mut receive) = self.quic.open_bi().await.unwrap();
        send.write_all(&RPC_SIGNATURE).await.unwrap();
        loop {
            while let Some(bytes) = client.poll_transmit() {
                send.write_all(&bytes).await.unwrap();
            }
            if let Some(answer) = client.poll_answer() {
                return answer;
            }
            let chunk = within(receive.read_chunk(65_536, true)).await.unwrap().unwrap();
            client.handle_input(&chunk.bytes).unwrap();
        }
    }
}

async fn serve_quic(
    quic: quinn::Connection,
    sockets: Sockets,
    configurations: Arc<Mutex<Vec<(i32, String)>>>,
) {
    while let Ok((send, mut receive)) = quic.accept_bi().await {
        let mut signature = [0; 6];
        if receive.read_exact(&mut signature).await.is_err() {
            continue;
        }
        match StreamKind::detect(&signature).unwrap().unwrap() {
            StreamKind::Data => drop(tokio::spawn(serve_flow(send, receive))),
            StreamKind::Rpc => {
                let (quic, sockets) = (quic.clone(), Arc::clone(&sockets));
                tokio::spawn(serve_call(quic, send, receive, sockets, Arc::clone(&configurations)));
            }
        }
    }
}

/// As 2022.5.3: a destination that cannot be dialled ends the stream without an answer, and so does the end of either
/// direction end the whole flow.
async fn serve_flow(mut send: quinn::SendStream, mut receive: quinn::RecvStream) {
    let mut bytes = BytesMut::from(&DATA_SIGNATURE[..]);
    let (request, consumed) = loop {
        if let Some(read) = ConnectRequest::decode(&bytes).unwrap() {
            break read;
        }
        if receive.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
            return;
        }
    };
    if request.metadata(PROTOCOL_HEADER).is_some() {
        return echo_capsules(send, receive, &bytes[consumed..]).await;
    }
    if request.kind == ConnectionType::Http {
        return echo_request(send, receive, &request, &bytes[consumed..]).await;
    }
    // A peer node is asked for no loopback address: these stand for ours.
    let destination = request.dest.replace("192.0.2.1:", "127.0.0.1:");
    let Ok(stream) = TcpStream::connect(destination).await else {
        let _ = send.finish();
        return;
    };
    let mut head = BytesMut::new();
    ConnectResponse::default().encode(&mut head).unwrap();
    send.write_chunk(head.freeze()).await.unwrap();
    let (mut read, mut write) = stream.into_split();
    tokio::io::AsyncWriteExt::write_all(&mut write, &bytes[consumed..]).await.unwrap();
    tokio::select! {
        _ = tokio::io::copy(&mut receive, &mut write) => {}
        _ = tokio::io::copy(&mut read, &mut send) => {}
    }
    let _ = send.finish();
    let _ = send.stopped().await;
}

/// An origin that answers with what it was asked.
async fn echo_request(
    mut send: quinn::SendStream,
    mut receive: quinn::RecvStream,
    request: &ConnectRequest,
    ahead: &[u8],
) {
    let mut metadata = vec![Metadata::new("HttpStatus", "201")];
    metadata.extend(request.metadata.iter().filter(|entry| entry.key.starts_with("HttpHeader:x-")).cloned());
    let mut head = BytesMut::new();
    ConnectResponse { error: String::new(), metadata }.encode(&mut head).unwrap();
    head.extend_from_slice(request.dest.as_bytes());
    head.extend_from_slice(ahead);
    send.write_chunk(head.freeze()).await.unwrap();
    let _ = tokio::io::copy(&mut receive, &mut send).await;
    let _ = send.finish();
    let _ = send.stopped().await;
}

/// A flow of datagrams with our own connector: what comes on the stream goes back.
async fn echo_capsules(mut send: quinn::SendStream, mut receive: quinn::RecvStream, ahead: &[u8]) {
    let mut head = BytesMut::new();
    ConnectResponse::default().encode(&mut head).unwrap();
    send.write_chunk(head.freeze()).await.unwrap();
    send.write_all(ahead).await.unwrap();
    let _ = tokio::io::copy(&mut receive, &mut send).await;
    let _ = send.finish();
}

/// And what comes beside the streams.
async fn echo_frames(quic: quinn::Connection) {
    while let Ok(frame) = quic.read_datagram().await {
        if quic.send_datagram(frame).is_err() {
            return;
        }
    }
}

async fn serve_call(
    quic: quinn::Connection,
    mut send: quinn::SendStream,
    mut receive: quinn::RecvStream,
    sockets: Sockets,
    configurations: Arc<Mutex<Vec<(i32, String)>>>,
) {
    let mut server = ServiceServer::connector();
    while let Ok(Some(chunk)) = receive.read_chunk(65_536, true).await {
        server.handle_input(&chunk.bytes).unwrap();
        while let Some(event) = server.poll_event() {
            match event {
                ServiceEvent::RegisterUdpSession { token, request } => {
                    let session = SessionId::from_bytes(request.session.into_bytes());
                    let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
                    socket.connect(request.destination).await.unwrap();
                    sockets.lock().unwrap().insert(session, Arc::clone(&socket));
                    tokio::spawn(serve_session(quic.clone(), session, socket));
                    server.answer_register_udp_session(token, Ok(()));
                }
                ServiceEvent::UnregisterUdpSession { token, request } => {
                    sockets.lock().unwrap().remove(&SessionId::from_bytes(request.session.into_bytes()));
                    server.answer_unregister_udp_session(token);
                }
                ServiceEvent::UpdateConfiguration { token, version, config } => {
                    let config = String::from_utf8(config.to_vec()).unwrap();
                    configurations.lock().unwrap().push((version, config));
                    server.answer_update_configuration(token, version, None);
                }
                ServiceEvent::Aborted { .. } => {}
            }
        }
        while let Some(bytes) = server.poll_transmit() {
            if send.write_chunk(bytes).await.is_err() {
                return;
            }
        }
    }
    let _ = send.finish();
}

/// Datagrams of the first generation, from the socket to the edge.
async fn serve_session(quic: quinn::Connection, session: SessionId, socket: Arc<UdpSocket>) {
    let mut buffer = vec![0; 2048];
    while let Ok(length) = socket.recv(&mut buffer).await {
        let mut datagram = BytesMut::new();
        encode_v1(session, &buffer[..length], &mut datagram).unwrap();
        if quic.send_datagram(datagram.freeze()).is_err() {
            return;
        }
    }
}

async fn serve_datagrams(quic: quinn::Connection, sockets: Sockets) {
    while let Ok(datagram) = quic.read_datagram().await {
        let (session, payload) = decode_v1(datagram).unwrap();
        let socket = sockets.lock().unwrap().get(&session).cloned();
        if let Some(socket) = socket {
            let _ = socket.send(&payload).await;
        }
    }
}

/// A connection over HTTP/2.
pub(super) struct Http2Peer {
    pub(super) calls: Calls<http2::Http2Reader, http2::Http2Writer>,
    /// How the connection ended: with a farewell or without.
    pub(super) ended: tokio::task::JoinHandle<Result<(), h2::Error>>,
}

impl Http2Peer {
    /// Connects and waits for the control stream.
    pub(super) async fn connect(edge: SocketAddr, authority: &str, identity: &Identity) -> Self {
        let tls = tokio_rustls::TlsConnector::from(Arc::new(identity.tls(authority, &[])));
        let stream = TcpStream::connect(edge).await.unwrap();
        let name = ServerName::try_from("h2.cftunnel.com").unwrap();
        let stream = within(tls.connect(name, stream)).await.unwrap();
        let mut server = http2::server();
        if let Some(streams) = identity.streams {
            server.max_concurrent_streams(streams);
        }
        let mut requests = within(server.handshake(stream)).await.unwrap();
        let (request, mut respond) = within(requests.accept()).await.unwrap().unwrap();
        assert_eq!(kind(&request), RequestKind::ControlStream, "the control stream comes first");
        let send = respond.send_response(Response::new(()), false).unwrap();
        let calls = Calls::new(http2::duplex(send, request.into_body()));
        let ended = tokio::spawn(async move {
            while let Some(accepted) = requests.accept().await {
                let (request, respond) = accepted?;
                tokio::spawn(serve_request(request, respond));
            }
            Ok(())
        });
        Self { calls, ended }
    }

    pub(super) async fn register(
        edge: SocketAddr,
        authority: &str,
        identity: &Identity,
    ) -> Result<Self, (String, Self)> {
        let mut peer = Self::connect(edge, authority, identity).await;
        match peer.calls.register(identity).await {
            Ok(()) => Ok(peer),
            Err(cause) => Err((cause, peer)),
        }
    }
}

fn kind(request: &Request<h2::RecvStream>) -> RequestKind {
    let header = |name: &str| request.headers().get(name).map(http::HeaderValue::as_bytes);
    RequestKind::of(header(UPGRADE_HEADER), header(SOURCE_HEADER))
}

async fn serve_request(request: Request<h2::RecvStream>, mut respond: h2::server::SendResponse<Bytes>) {
    let meta = |status: StatusCode, meta: ResponseMeta| {
        let response = Response::builder().status(status).header(RESPONSE_META_HEADER, meta.as_str());
        response.header(RESPONSE_HEADERS_HEADER, "")
    };
    match kind(&request) {
        RequestKind::Tcp if request.headers().contains_key(PROTOCOL_HEADER) => {
            let accepted = meta(StatusCode::OK, ResponseMeta::Origin).body(()).unwrap();
            let send = respond.send_response(accepted, false).unwrap();
            let Duplex { mut reader, mut writer } = http2::duplex(send, request.into_body());
            while let Ok(Some(chunk)) = reader.read_chunk().await {
                writer.write_chunk(chunk).await.unwrap();
            }
        }
        RequestKind::Tcp => {
            let destination = request.uri().authority().unwrap().to_string();
            let Ok(stream) = TcpStream::connect(destination).await else {
                let refused = meta(StatusCode::BAD_GATEWAY, ResponseMeta::Connector);
                let refused = refused.header(REFUSAL_HEADER, Refusal::Refused.as_str()).body(()).unwrap();
                respond.send_response(refused, true).unwrap();
                return;
            };
            let accepted = meta(StatusCode::OK, ResponseMeta::Origin).body(()).unwrap();
            let send = respond.send_response(accepted, false).unwrap();
            let mut near = http2::duplex(send, request.into_body());
            let mut far = adit_transport::tcp::duplex(stream);
            let kept = adit_transport::splice::HalfClose::Kept;
            let mut passed = adit_transport::splice::Passed::default();
            adit_transport::splice::splice(&mut near, &mut far, kept, &mut passed).await;
        }
        RequestKind::Configuration => {
            let mut reader = http2::reader(request.into_body());
            let mut body = BytesMut::new();
            while let Some(chunk) = reader.read_chunk().await.unwrap() {
                body.extend_from_slice(&chunk);
            }
            let push = ConfigurationPush::from_json(&body).unwrap();
            let answer = ConfigurationAnswer { last_applied_version: push.version, err: None }.to_json();
            let mut send = respond.send_response(Response::new(()), false).unwrap();
            send.send_data(answer.into(), true).unwrap();
        }
        kind @ (RequestKind::WebSocket | RequestKind::ControlStream | RequestKind::Http) => {
            panic!("{kind:?} was not to come")
        }
    }
}
