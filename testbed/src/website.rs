//! An HTTP origin in the private network that tells what it was asked, and a client of it as a browser is one.
//!
//! | path | answer |
//! | --- | --- |
//! | `/told` | the request as JSON: method, URL, headers, and the length and SHA-256 of its body |
//! | `/echo` | the request's body, chunk by chunk as it comes |
//! | `/download/N` | N bytes of [`origin::fill`](crate::origin::fill), without a length |
//! | `/status/NNN` | that status, with two cookies |
//! | `/silent` | none |
//! | `/websocket` | a WebSocket that echoes messages |

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _, stream};
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SET_COOKIE, UPGRADE};
use http::{HeaderValue, Request, Response, StatusCode, Version};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::ServerName;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::https;
use crate::net::Namespace;
use crate::origin;

/// A body of either direction.
pub type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Bytes per chunk of a download.
const CHUNK_BYTES: usize = 16 << 10;
/// What a client waits for a head, a handshake or a message.
const LIMIT: Duration = Duration::from_secs(20);

/// Serves each of `addresses` on `host`, until the runtime ends.
pub fn start(host: &Namespace, addresses: &[SocketAddr]) -> Result<()> {
    for address in addresses {
        tokio::spawn(accept(host.listen(*address)?));
    }
    Ok(())
}

/// The same over TLS, with this certificate and its key.
pub fn start_tls(
    host: &Namespace,
    addresses: &[SocketAddr],
    (certificate, key): &(PathBuf, PathBuf),
) -> Result<()> {
    for address in addresses {
        let tls = https::open_acceptor(certificate, key)?;
        tokio::spawn(https::serve(host.listen(*address)?, tls, answer));
    }
    Ok(())
}

/// Something else than a website behind TLS, with this certificate and its key: what it is sent comes back.
pub fn start_tls_echo(
    host: &Namespace,
    addresses: &[SocketAddr],
    (certificate, key): &(PathBuf, PathBuf),
) -> Result<()> {
    for address in addresses {
        let (tls, listener) = (https::open_acceptor_of(certificate, key, &[])?, host.listen(*address)?);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let tls = tls.clone();
                tokio::spawn(async move {
                    let Ok(stream) = tls.accept(stream).await else { return };
                    let (mut read, mut write) = tokio::io::split(stream);
                    // The client sees how it ended.
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                });
            }
        });
    }
    Ok(())
}

/// A TLS connection on `host` that asks for `name`, trusts `ca`, and offers these protocols.
pub async fn connect_tls(
    host: &Namespace,
    address: SocketAddr,
    name: &str,
    ca: &Path,
    protocols: &[&str],
) -> Result<TlsStream<TcpStream>> {
    let stream = host.connect_within(address, LIMIT).await?;
    let mut config = https::connector(ca, None)?.config().as_ref().clone();
    config.alpn_protocols = protocols.iter().map(|id| id.as_bytes().to_vec()).collect();
    let name = ServerName::try_from(name.to_owned())?;
    let connecting = TlsConnector::from(Arc::new(config)).connect(name, stream);
    Ok(tokio::time::timeout(LIMIT, connecting).await.context("no TLS handshake")??)
}

async fn accept(listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            let service =
                hyper::service::service_fn(async |request| Ok::<_, Infallible>(answer(request).await));
            let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            // The client saw what there was to see.
            let _ = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    match path.split('/').collect::<Vec<_>>()[..] {
        ["", "told"] => Response::new(whole(told(request).await.to_string())),
        ["", "echo"] => {
            let frames = request.into_body().into_data_stream();
            let frames = frames.take_while(|chunk| std::future::ready(chunk.is_ok()));
            let frames = frames.map(|chunk| Ok(Frame::data(chunk.unwrap_or_default())));
            Response::new(StreamBody::new(frames).boxed_unsync())
        }
        ["", "download", length] => Response::new(download(length.parse().unwrap_or(0))),
        ["", "status", status] => with_status(status.parse().unwrap_or(StatusCode::BAD_REQUEST)),
        ["", "silent"] => std::future::pending().await,
        ["", "websocket"] => websocket(request),
        _ => with_status(StatusCode::NOT_FOUND),
    }
}

async fn told(request: Request<Incoming>) -> Value {
    let (parts, body) = request.into_parts();
    let headers: Vec<_> = parts
        .headers
        .iter()
        .map(|(name, value)| json!([name.as_str(), String::from_utf8_lossy(value.as_bytes())]))
        .collect();
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    json!({
        "method": parts.method.as_str(),
        "url": parts.uri.to_string(),
        "headers": headers,
        "length": body.len(),
        "sha256": format!("{:x}", Sha256::digest(&body)),
    })
}

fn download(length: u64) -> Body {
    let chunks = stream::unfold((length, length), |(mut state, left)| async move {
        let size = usize::try_from(left).unwrap_or(usize::MAX).min(CHUNK_BYTES);
        let mut chunk = vec![0; size];
        origin::fill(&mut chunk, &mut state);
        (size > 0).then(|| (Ok(Frame::data(chunk.into())), (state, left - size as u64)))
    });
    StreamBody::new(chunks).boxed_unsync()
}

fn with_status(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(whole(format!("{status}\n")));
    *response.status_mut() = status;
    for cookie in ["a=1", "b=2"] {
        response.headers_mut().append(SET_COOKIE, HeaderValue::from_static(cookie));
    }
    response
}

fn websocket(mut request: Request<Incoming>) -> Response<Body> {
    let key = request.headers().get(SEC_WEBSOCKET_KEY).map(|key| derive_accept_key(key.as_bytes()));
    let accept = key.and_then(|key| HeaderValue::try_from(key).ok());
    let (Some(accept), true) = (accept, request.headers().contains_key(UPGRADE)) else {
        return with_status(StatusCode::UPGRADE_REQUIRED);
    };
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let Ok(upgraded) = upgrade.await else { return };
        let mut socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
        while let Some(Ok(message)) = socket.next().await {
            let echo = matches!(message, Message::Text(_) | Message::Binary(_));
            if echo && socket.send(message).await.is_err() {
                return;
            }
        }
    });
    let mut response = Response::new(whole(String::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    response
}

/// A body that is there already.
pub fn whole(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).boxed_unsync()
}

/// A client of one host name at one address.
#[derive(Clone)]
pub struct Browser {
    host: Namespace,
    edge: SocketAddr,
    name: String,
    ca: PathBuf,
}

impl std::fmt::Debug for Browser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Browser").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Browser {
    /// On `host`, asking `edge` for `name`, and trusting `ca`.
    pub fn new(host: &Namespace, edge: SocketAddr, name: &str, ca: &Path) -> Self {
        Self { host: host.clone(), edge, name: name.to_owned(), ca: ca.to_owned() }
    }

    /// One request on a new connection of HTTP/1.1 or HTTP/2; gives the answer with its body still to come.
    pub async fn send(&self, version: Version, mut request: Request<Body>) -> Result<Response<Incoming>> {
        let is_http2 = version == Version::HTTP_2;
        let stream = self.tls(if is_http2 { b"h2" } else { b"http/1.1" }).await?;
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str()).to_owned();
        let exchange = async {
            if is_http2 {
                *request.uri_mut() = format!("https://{}{path}", self.name).parse()?;
                let (mut sender, connection) =
                    hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
                tokio::spawn(connection);
                return Ok(sender.send_request(request).await?);
            }
            if !request.headers().contains_key(http::header::HOST) {
                request.headers_mut().insert(http::header::HOST, HeaderValue::try_from(&self.name)?);
            }
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            Ok(sender.send_request(request).await?)
        };
        tokio::time::timeout(LIMIT, exchange).await.context("no answer")?
    }

    /// As [`Self::send`], for a path, with the whole body.
    pub async fn get(&self, version: Version, path: &str) -> Result<(StatusCode, Bytes)> {
        let request = Request::builder().uri(path).body(whole(""))?;
        let response = self.send(version, request).await?;
        let status = response.status();
        let body = tokio::time::timeout(LIMIT, response.into_body().collect()).await.context("no end")??;
        Ok((status, body.to_bytes()))
    }

    /// A WebSocket over HTTP/1.1.
    pub async fn websocket(&self, path: &str) -> Result<WebSocketStream<TlsStream<TcpStream>>> {
        let stream = self.tls(b"http/1.1").await?;
        let request = format!("wss://{}{path}", self.name).into_client_request()?;
        let opened = tokio_tungstenite::client_async(request, stream);
        Ok(tokio::time::timeout(LIMIT, opened).await.context("no WebSocket")??.0)
    }

    /// A TLS connection that offers one protocol.
    pub async fn tls(&self, protocol: &[u8]) -> Result<TlsStream<TcpStream>> {
        let stream = self.host.connect_within(self.edge, LIMIT).await?;
        let mut config = https::connector(&self.ca, None)?.config().as_ref().clone();
        config.alpn_protocols = vec![protocol.to_vec()];
        let connecting =
            TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(self.name.clone())?, stream);
        let stream = tokio::time::timeout(LIMIT, connecting).await.context("no TLS handshake")??;
        let agreed = stream.get_ref().1.alpn_protocol();
        ensure!(agreed == Some(protocol), "the edge chose {agreed:?}");
        Ok(stream)
    }
}
