//! The WebSocket to an edge (RFC 6455, by tungstenite) and the bytes that it carries.
//!
//! Every read of the local side is one binary frame, and every binary or text frame is written to it. A WebSocket has no
//! half-close: when the local side ends, the other is given a while to say its last before the WebSocket is closed.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use adit_transport::{tcp, tls};
use anyhow::{Context, anyhow, bail};
use bytes::{Bytes, BytesMut};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use http::{HeaderMap, HeaderValue, StatusCode};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use super::flags::{Target, TcpFlags};
use super::roots;

/// An open WebSocket.
pub(super) type Stream = WebSocketStream<TlsStream<TcpStream>>;

/// All that opening a WebSocket needs.
pub(super) struct Client {
    target: Target,
    dialled: (String, u16),
    server_name: ServerName<'static>,
    headers: HeaderMap,
    tls: TlsConnector,
}

impl Client {
    pub(super) fn new(flags: TcpFlags) -> anyhow::Result<Self> {
        let tls = Arc::new(tls::client_config(roots(&flags)?, &[])?);
        let server_name = ServerName::try_from(flags.hostname.host.clone())
            .map_err(|_| anyhow!("--hostname: {:?} is no host name", flags.hostname.host))?;
        let mut headers = HeaderMap::new();
        for header in flags.headers {
            headers.append(header.name, header.value);
        }
        let ours = [
            ("cf-access-jump-destination", flags.destination),
            ("cf-access-client-id", flags.service_token_id),
            ("cf-access-client-secret", flags.service_token_secret),
            ("user-agent", Some(HeaderValue::from_static(concat!("adit/", env!("CARGO_PKG_VERSION"))))),
        ];
        for (name, value) in ours {
            if let Some(value) = value
                && !headers.contains_key(name)
            {
                headers.insert(name, value);
            }
        }
        let target = flags.hostname;
        let dialled = match flags.connect_to {
            Some(other) => (other.host, other.port.unwrap_or(target.port)),
            None => (target.host.clone(), target.port),
        };
        Ok(Self { target, dialled, server_name, headers, tls: TlsConnector::from(tls) })
    }

    /// The host name that is asked for, with its port.
    pub(super) fn hostname(&self) -> &str {
        &self.target.authority
    }

    /// A new WebSocket, on a connection of its own.
    pub(super) async fn connect(&self) -> anyhow::Result<Stream> {
        let opened = tokio::time::timeout(CONNECT_DEADLINE, self.open()).await;
        opened.unwrap_or_else(|_| Err(anyhow!("{} did not answer within 30 s", self.hostname())))
    }

    async fn open(&self) -> anyhow::Result<Stream> {
        let (host, port) = (self.dialled.0.as_str(), self.dialled.1);
        let stream =
            TcpStream::connect((host, port)).await.with_context(|| format!("cannot reach {host}:{port}"))?;
        stream.set_nodelay(true)?;
        tcp::keep_alive(&stream, KEEP_ALIVE)?;
        let stream = self
            .tls
            .connect(self.server_name.clone(), stream)
            .await
            .with_context(|| format!("TLS with {} failed", self.hostname()))?;
        let url = format!("wss://{}{}", self.target.authority, self.target.path);
        let mut request = url.into_client_request().context("--hostname: no URL can be made of it")?;
        request.headers_mut().extend(self.headers.clone());
        let config = WebSocketConfig::default()
            .max_message_size(Some(MAX_MESSAGE_BYTES))
            .max_frame_size(Some(MAX_MESSAGE_BYTES))
            .max_write_buffer_size(MAX_MESSAGE_BYTES);
        match client_async_with_config(request, stream, Some(config)).await {
            Ok((websocket, _)) => Ok(websocket),
            Err(Error::Http(response)) => Err(self.refused(response.status(), response.headers())),
            Err(error) => Err(error).with_context(|| format!("no WebSocket with {}", self.hostname())),
        }
    }

    /// What an answer other than 101 means (tunnel protocol, 8.1).
    fn refused(&self, status: StatusCode, headers: &HeaderMap) -> anyhow::Error {
        let location = headers.get(http::header::LOCATION).and_then(|location| location.to_str().ok());
        if status == StatusCode::FOUND && location.is_some_and(|location| location.contains(LOGIN_PATH)) {
            return anyhow!(
                "{} asks for a sign-in: give a service token with --service-token-id and --service-token-secret",
                self.hostname()
            );
        }
        anyhow!("{} answered {status} instead of opening a WebSocket", self.hostname())
    }
}

/// Carries bytes both ways until the WebSocket is closed, or the local side has ended and nothing more comes.
pub(super) async fn carry(
    websocket: Stream,
    mut reader: impl AsyncRead + Unpin,
    mut writer: impl AsyncWrite + Unpin,
) -> anyhow::Result<()> {
    let (mut sink, mut stream) = websocket.split();
    let received = AtomicU64::new(0);
    let carried = {
        let mut down = pin!(receive(&mut stream, &mut writer, &received));
        tokio::select! {
            ended = &mut down => ended,
            sent = send(&mut reader, &mut sink) => match sent {
                Ok(()) => linger(down, &received).await,
                Err(error) => Err(error),
            },
        }
    };
    // Whoever is gone need not be told.
    let _ = tokio::time::timeout(FAREWELL, sink.close()).await;
    carried
}

/// After the local side's end: what still comes is carried until nothing has come for a while.
async fn linger(
    mut down: impl Future<Output = anyhow::Result<()>> + Unpin,
    received: &AtomicU64,
) -> anyhow::Result<()> {
    loop {
        let before = received.load(Ordering::Relaxed);
        match tokio::time::timeout(LAST_WORDS, &mut down).await {
            Ok(ended) => return ended,
            Err(_) if received.load(Ordering::Relaxed) == before => return Ok(()),
            Err(_) => {}
        }
    }
}

async fn send(
    reader: &mut (impl AsyncRead + Unpin),
    sink: &mut SplitSink<Stream, Message>,
) -> anyhow::Result<()> {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(FRAME_BYTES);
        let mut read = (&mut *reader).take(FRAME_BYTES as u64);
        if read.read_buf(&mut buffer).await.context("the local side failed")? == 0 {
            return Ok(());
        }
        sink.send(Message::Binary(buffer.split().freeze())).await.context("the WebSocket failed")?;
    }
}

async fn receive(
    stream: &mut SplitStream<Stream>,
    writer: &mut (impl AsyncWrite + Unpin),
    received: &AtomicU64,
) -> anyhow::Result<()> {
    while let Some(message) = stream.next().await {
        let bytes = match message {
            Ok(Message::Binary(bytes)) => bytes,
            Ok(Message::Text(text)) => Bytes::from(text),
            Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => continue,
            Ok(Message::Close(_)) => break,
            Err(error) if ended(&error) => break,
            Err(error) => return Err(error).context("the WebSocket failed"),
        };
        received.fetch_add(1, Ordering::Relaxed);
        writer.write_all(&bytes).await.context("the local side failed")?;
        writer.flush().await.context("the local side failed")?;
    }
    match writer.shutdown().await {
        Err(error) if error.kind() != std::io::ErrorKind::NotConnected => {
            bail!("the local side failed: {error}")
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Connectors end a WebSocket without a closing handshake when their side of TCP has ended.
fn ended(error: &Error) -> bool {
    if let Error::Io(error) = error {
        return error.kind() == std::io::ErrorKind::UnexpectedEof;
    }
    let reset = ProtocolError::ResetWithoutClosingHandshake;
    matches!(error, Error::ConnectionClosed | Error::AlreadyClosed)
        || matches!(error, Error::Protocol(error) if *error == reset)
}

/// Name lookup, TCP, TLS and the handshake together, the connector's own dial of up to 30 s included.
const CONNECT_DEADLINE: Duration = Duration::from_secs(30);
/// How often a silent edge is probed.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// Largest message taken, in bytes: connectors send what one read gave them.
const MAX_MESSAGE_BYTES: usize = 16 << 20;
/// Largest frame sent, in bytes: unmodified connectors read a frame into a buffer of this size, and lose what does not fit.
const FRAME_BYTES: usize = 16 << 10;
/// How long the other side may be silent after the local side has ended. Whether that has gone or only has no more to say
/// cannot be told.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// For the closing handshake.
const FAREWELL: Duration = Duration::from_millis(500);
/// Where edges send people to sign in.
const LOGIN_PATH: &str = "/cdn-cgi/access/login";
