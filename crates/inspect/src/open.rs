//! Opening TLS between a client and its origin, and serving the HTTP inside.
//!
//! The origin comes first: what it speaks is what the client is offered, and whether it asks for a client certificate is
//! known also when the client does not accept ours. Nothing of a request reaches the origin before it is judged.

use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use adit_model::{FirstBytes, TlsHandshake};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::server::conn::{http1 as serve1, http2 as serve2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use rustls::pki_types::ServerName;
use rustls::server::{Acceptor, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Mutex;
use tokio::sync::watch;
use tokio_rustls::LazyConfigAcceptor;
use tokio_util::task::TaskTracker;

use crate::gate::Gate;
use crate::origin::{self, Seen, Trust, Validation};
use crate::page::Body;
use crate::session::{Ended, Sender, Session};

/// What a connection is opened with.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Whom origins are trusted by.
    pub trust: Trust,
    /// Where the flow goes.
    pub destination: SocketAddr,
    /// Where tasks are joined.
    pub tasks: TaskTracker,
}

/// What became of a connection whose TLS was opened.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Why the client ended its handshake, if it did: most often it does not trust our authority.
    pub client_error: Option<String>,
    /// Why the handshake with the origin failed, if it did.
    pub origin_error: Option<String>,
    /// What was found of the origin's certificate.
    pub validation: Option<Validation>,
    /// Whether the origin asked for a certificate of the client.
    pub wants_certificate: bool,
    /// Whether something else than HTTP came out.
    pub not_http: bool,
    /// What was agreed on with the client.
    pub client: Option<TlsHandshake>,
    /// What was agreed on with the origin.
    pub origin: Option<TlsHandshake>,
}

/// A byte stream of either side.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Stream for S {}

/// Opens the TLS of a connection and serves it to its end. `client` begins with the ClientHello that `first` was read of.
pub async fn open_tls<C: Stream, O: Stream, G: Gate>(
    client: C,
    origin: O,
    first: &FirstBytes,
    setup: Setup,
    gate: Arc<G>,
) -> Report {
    let offered: Vec<Vec<u8>> =
        HTTP.iter().filter(|id| first.offers(id)).map(|id| id.as_bytes().to_vec()).collect();
    let seen = Arc::new(Seen::default());
    let name = first.server_name.clone().and_then(|name| ServerName::try_from(name).ok());
    let name = name.unwrap_or_else(|| ServerName::IpAddress(setup.destination.ip().into()));
    let began = Instant::now();
    let connecting = origin::connect(origin, name, offered.clone(), &setup.trust, Arc::clone(&seen));
    let origin = match tokio::time::timeout(HANDSHAKE_DEADLINE, connecting).await {
        Ok(connected) => connected.map_err(|error| error.to_string()),
        Err(_) => Err("the origin did not finish its handshake in time".to_owned()),
    };
    let protocol = match &origin {
        Ok(origin) => origin.get_ref().1.alpn_protocol().map(<[u8]>::to_vec),
        Err(_) => offered.last().cloned(),
    };
    let mut report = Report {
        origin_error: origin.as_ref().err().cloned(),
        validation: Some(seen.validation()),
        wants_certificate: seen.wants_certificate(),
        origin: origin.as_ref().ok().and_then(|origin| agreed(origin.get_ref().1, began.elapsed())),
        ..Report::default()
    };
    let Some(leaf) = gate.leaf(first.server_name.as_deref()) else {
        report.client_error = Some("there is no certificate to show".to_owned());
        return report;
    };
    let began = Instant::now();
    let client = match accept(client, leaf, protocol.clone(), &setup.trust).await {
        Ok(client) => client,
        Err(error) => {
            report.client_error = Some(error.to_string());
            return report;
        }
    };
    report.client = agreed(client.get_ref().1, began.elapsed());
    let http2 = protocol.as_deref() == Some(b"h2");
    let origin = origin.ok();
    let shared = Shared {
        gate,
        seen: Some(seen),
        named: first.server_name.clone(),
        tasks: setup.tasks,
        scheme: "https",
    };
    report.not_http = serve(client, origin, http2, shared).await;
    report
}

/// What a handshake that is through came to.
fn agreed(connection: &rustls::CommonState, took: Duration) -> Option<TlsHandshake> {
    // No other is spoken here.
    let is_latest = connection.protocol_version()? == rustls::ProtocolVersion::TLSv1_3;
    let version = if is_latest { "TLSv1.3" } else { "TLSv1.2" };
    let cipher = match connection.negotiated_cipher_suite()?.suite().as_str()? {
        // By their names in the registry.
        "TLS13_AES_128_GCM_SHA256" => "TLS_AES_128_GCM_SHA256",
        "TLS13_AES_256_GCM_SHA384" => "TLS_AES_256_GCM_SHA384",
        "TLS13_CHACHA20_POLY1305_SHA256" => "TLS_CHACHA20_POLY1305_SHA256",
        other => other,
    };
    Some(TlsHandshake { version, cipher, took })
}

/// Serves plain HTTP to its end.
pub async fn read_http<C: Stream, O: Stream, G: Gate>(
    client: C,
    origin: O,
    first: &FirstBytes,
    setup: Setup,
    gate: Arc<G>,
) -> Report {
    let http2 = first.protocol == Some("http2");
    let shared = Shared { gate, seen: None, named: None, tasks: setup.tasks, scheme: "http" };
    serve(client, Some(origin), http2, shared).await;
    Report::default()
}

/// The protocols of HTTP, the better first.
const HTTP: [&str; 2] = ["h2", "http/1.1"];

async fn accept<C: Stream>(
    client: C,
    leaf: Arc<CertifiedKey>,
    protocol: Option<Vec<u8>>,
    trust: &Trust,
) -> std::io::Result<tokio_rustls::server::TlsStream<C>> {
    let mut config = ServerConfig::builder_with_provider(Arc::clone(&trust.provider))
        .with_safe_default_protocol_versions()
        .map_err(std::io::Error::other)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(One(leaf)));
    config.alpn_protocols = protocol.into_iter().collect();
    // A session that is resumed would have been judged by another hello.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    let accepting = async {
        let start = LazyConfigAcceptor::new(Acceptor::default(), client).await?;
        start.into_stream(Arc::new(config)).await
    };
    let late = || {
        std::io::Error::new(std::io::ErrorKind::TimedOut, "the client did not finish its handshake in time")
    };
    tokio::time::timeout(HANDSHAKE_DEADLINE, accepting).await.map_err(|_| late())?
}

/// Shows one certificate, whatever the client asks for: the name was chosen already.
#[derive(Debug)]
struct One(Arc<CertifiedKey>);

impl ResolvesServerCert for One {
    fn resolve(&self, _hello: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

struct Shared<G> {
    gate: Arc<G>,
    seen: Option<Arc<Seen>>,
    named: Option<String>,
    tasks: TaskTracker,
    scheme: &'static str,
}

impl<G> Shared<G> {
    fn session(self, sender: Sender) -> Arc<Session<G>> {
        let Self { gate, seen, named, tasks, scheme } = self;
        Arc::new(Session {
            gate,
            sender,
            scheme,
            seen,
            named,
            tasks,
            answered: AtomicBool::new(false),
            upgraded: AtomicBool::new(false),
            waiting: watch::Sender::new(0),
            asked: AtomicBool::new(false),
            something_else: AtomicBool::new(false),
        })
    }
}

/// Whether something else than HTTP came, of either side.
async fn serve<C: Stream, O: Stream, G: Gate>(
    client: C,
    origin: Option<O>,
    http2: bool,
    shared: Shared<G>,
) -> bool {
    let tasks = shared.tasks.clone();
    let (sender, origin) = ask(origin, http2, tasks.clone()).await;
    let session = shared.session(sender);
    let ended = if http2 {
        serve_http2(client, origin, Arc::clone(&session), tasks).await
    } else {
        serve_http1(client, origin, Arc::clone(&session)).await
    };
    if let Err(error) = ended {
        tracing::debug!(error = %error, "an inspected connection broke off");
        if error.is_parse() {
            session.spoke_something_else();
        }
    }
    session.is_something_else()
}

/// What carries the requests to the origin, until its connection ends.
type Carrying = Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>;

/// Begins to speak HTTP with the origin. Where that fails, requests are answered all the same, with why.
async fn ask<O: Stream>(origin: Option<O>, http2: bool, tasks: TaskTracker) -> (Sender, Carrying) {
    let asked = match origin {
        None => return nobody(),
        Some(origin) if http2 => {
            let mut builder = http2::Builder::new(Tracked(tasks));
            builder
                .timer(TokioTimer::new())
                .initial_stream_window_size(WINDOW)
                .initial_connection_window_size(2 * WINDOW);
            let asked = builder.handshake(TokioIo::new(origin)).await;
            asked.map(|(sender, connection)| (Sender::Http2(sender), Box::pin(connection) as Carrying))
        }
        Some(origin) => {
            let asked =
                http1::Builder::new().preserve_header_case(true).handshake(TokioIo::new(origin)).await;
            asked.map(|(sender, connection)| {
                (Sender::Http1(Mutex::new(sender)), Box::pin(connection.with_upgrades()) as Carrying)
            })
        }
    };
    asked.unwrap_or_else(|error| {
        tracing::debug!(error = %error, "the origin does not speak HTTP");
        nobody()
    })
}

/// No connection to the origin.
fn nobody() -> (Sender, Carrying) {
    (Sender::None, Box::pin(std::future::pending()))
}

async fn serve_http1<C: Stream, G: Gate>(
    client: C,
    origin: Carrying,
    session: Arc<Session<G>>,
) -> hyper::Result<()> {
    let mut builder = serve1::Builder::new();
    builder
        .preserve_header_case(true)
        .half_close(true)
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_DEADLINE)
        .max_buf_size(MAX_HEADER_BYTES);
    let serving = Arc::clone(&session);
    let service = service_fn(move |request: Request<Incoming>| {
        let session = Arc::clone(&serving);
        async move { answer(&session, request).await }
    });
    let connection = pin!(builder.serve_connection(TokioIo::new(client), service).with_upgrades());
    beside(connection, origin, &session, serve1::UpgradeableConnection::graceful_shutdown).await
}

async fn serve_http2<C: Stream, G: Gate>(
    client: C,
    origin: Carrying,
    session: Arc<Session<G>>,
    tasks: TaskTracker,
) -> hyper::Result<()> {
    let mut builder = serve2::Builder::new(Tracked(tasks));
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_REQUESTS)
        .max_header_list_size(MAX_HEADER_LIST_BYTES)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(2 * WINDOW);
    let serving = Arc::clone(&session);
    let service = service_fn(move |request: Request<Incoming>| {
        let session = Arc::clone(&serving);
        async move { answer(&session, request).await }
    });
    let connection = pin!(builder.serve_connection(TokioIo::new(client), service));
    beside(connection, origin, &session, serve2::Connection::graceful_shutdown).await
}

/// Serves the client's connection while the origin's carries its requests, and on to its end when the origin's has ended.
async fn beside<C: Future<Output = hyper::Result<()>>, G: Gate>(
    mut connection: Pin<&mut C>,
    origin: Carrying,
    session: &Session<G>,
    finish: impl FnOnce(Pin<&mut C>),
) -> hyper::Result<()> {
    // The origin's connection is dropped as soon as it has ended: requests that wait for it learn of that only then.
    tokio::select! {
        ended = connection.as_mut() => return ended,
        ended = origin => {
            if let Err(error) = ended {
                tracing::debug!(error = %error, "the origin's connection broke off");
                if is_unasked(&error) {
                    session.spoke_something_else();
                }
            }
        }
    }
    // What it has answered last is still on its way through the session; whether the client's connection ends with it or is
    // one of something else from then on, is known when it has been looked at.
    let mut waiting = session.waiting.subscribe();
    tokio::select! {
        ended = connection.as_mut() => return ended,
        _ = waiting.wait_for(|waiting| *waiting == 0) => {}
    }
    // Whatever it has answered is passed on; there will be no more. Who has not been told why is told.
    if !session.insists_on_certificate() && !session.upgraded.load(Ordering::Relaxed) {
        finish(connection.as_mut());
    }
    connection.await
}

/// Whether the origin spoke before it was asked anything, as servers of HTTP do not.
fn is_unasked(error: &hyper::Error) -> bool {
    let ended =
        error.is_incomplete_message() || error.is_closed() || error.is_canceled() || error.is_timeout();
    error.is_parse() || !ended && std::error::Error::source(error).is_none()
}

async fn answer<G: Gate>(session: &Session<G>, request: Request<Incoming>) -> Result<Response<Body>, Ended> {
    let _waiting = session.wait();
    session.serve(request).await
}

/// Starts hyper's tasks where they are joined.
#[derive(Clone)]
struct Tracked(TaskTracker);

impl<F> hyper::rt::Executor<F> for Tracked
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.spawn(future);
    }
}

/// A handshake of either side: generous for a bad path.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);
/// For a client to send the head of a request, the time between two requests included.
const HEADER_DEADLINE: Duration = Duration::from_mins(5);
/// Head of an HTTP/1.1 request, and largest read of a body, in bytes.
const MAX_HEADER_BYTES: usize = 256 << 10;
/// Headers of an HTTP/2 request, in bytes.
const MAX_HEADER_LIST_BYTES: u32 = 64 << 10;
/// Requests of one connection at once.
const MAX_REQUESTS: u32 = 256;
/// What may be on its way in one body, in bytes.
const WINDOW: u32 = 1 << 20;
