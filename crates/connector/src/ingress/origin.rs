//! An HTTP server behind a rule, and the connections to it that wait to be used again.
//!
//! Every connection belongs to one server name (TLS may differ by it). An HTTP/1.1 connection carries one exchange at a
//! time and then waits for `keepAliveTimeout`, `keepAliveConnections` of them at most; an HTTP/2 connection carries many
//! at once. All of them end with the configuration that named the server.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::connect::{self, ConnectError, Limits, Tls, TlsSetupError};
use super::io::Io;
use super::service::Service;
use crate::config::OriginSettings;

/// Where a service is, and what is connected to it.
#[derive(Debug)]
pub(crate) struct Origin {
    address: Address,
    tls: Option<Tls>,
    settings: OriginSettings,
    limits: Limits,
    pool: Arc<Pool>,
}

#[derive(Debug)]
enum Address {
    Tcp { host: String, port: u16 },
    Unix(String),
}

/// No answer came. Said in one line.
#[derive(Debug, thiserror::Error)]
pub(super) enum OriginError {
    /// There is no connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The exchange failed.
    #[error("{}", crate::error_chain(.0))]
    Exchange(hyper::Error),
}

/// A request's body.
#[derive(Debug)]
pub(super) enum RequestBody {
    Empty,
    /// As it comes; the length where it is known.
    Pieces(mpsc::Receiver<Result<Bytes, Cut>>, Option<u64>),
}

/// A request's body ended before its end.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the request's body was cut")]
pub(super) struct Cut;

/// A connection that an answer came on; given back when the answer has been read to its end.
#[derive(Debug)]
pub(super) struct Lease {
    sender: Option<http1::SendRequest<RequestBody>>,
    server_name: String,
    pool: Weak<Pool>,
}

#[derive(Debug)]
struct Pool {
    state: Mutex<PoolState>,
    keep: usize,
    timeout: Duration,
}

#[derive(Debug, Default)]
struct PoolState {
    idle: Vec<Idle>,
    shared: Vec<(String, http2::SendRequest<RequestBody>)>,
    /// Drives the connections; they end when the pool does.
    tasks: JoinSet<()>,
    /// Closes what has waited too long; runs while something waits.
    janitor: bool,
}

#[derive(Debug)]
struct Idle {
    sender: http1::SendRequest<RequestBody>,
    server_name: String,
    since: Instant,
}

enum Sender {
    Http1(http1::SendRequest<RequestBody>),
    Http2(http2::SendRequest<RequestBody>),
}

impl Origin {
    /// The origin of a service, if the service is an HTTP server.
    pub(super) fn of(
        service: &Service,
        settings: &OriginSettings,
        limits: &Limits,
    ) -> Result<Option<Self>, TlsSetupError> {
        let (address, tls) = match service {
            Service::Http(http) => (Address::Tcp { host: http.host.clone(), port: http.port }, http.tls),
            Service::Unix { path, tls } => (Address::Unix(path.clone()), *tls),
            Service::Stream(_)
            | Service::Bastion
            | Service::SocksProxy
            | Service::HelloWorld
            | Service::Status(_) => return Ok(None),
        };
        let tls = tls.then(|| Tls::new(settings)).transpose()?;
        let pool = Arc::new(Pool {
            state: Mutex::default(),
            keep: usize::try_from(settings.keep_alive_connections).unwrap_or(usize::MAX),
            timeout: settings.keep_alive_timeout,
        });
        Ok(Some(Self { address, tls, settings: settings.clone(), limits: limits.clone(), pool }))
    }

    /// Whether requests go over TLS.
    pub(super) fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// The service's own name or address, if it has one.
    pub(super) fn host(&self) -> Option<&str> {
        match &self.address {
            Address::Tcp { host, .. } => Some(host),
            Address::Unix(_) => None,
        }
    }

    /// Sends a request, and waits for the head of the answer. A connection that had waited and turns out to be closed is
    /// replaced; a request of which the origin may have seen something is not sent twice.
    pub(super) async fn send(
        &self,
        mut request: Request<RequestBody>,
        server_name: &str,
    ) -> Result<(Response<Incoming>, Lease), OriginError> {
        let lease =
            |sender| Lease { sender, server_name: server_name.to_owned(), pool: Arc::downgrade(&self.pool) };
        loop {
            let (sender, is_new) = match self.pool.take(server_name) {
                Some(sender) => (sender, false),
                None => (self.connect(server_name).await?, true),
            };
            let failed = match sender {
                Sender::Http1(mut sender) => match sender.try_send_request(request).await {
                    Ok(response) => return Ok((response, lease(Some(sender)))),
                    Err(failed) => failed,
                },
                Sender::Http2(mut sender) => match sender.try_send_request(for_http2(request)).await {
                    Ok(response) => return Ok((response, lease(None))),
                    Err(failed) => failed,
                },
            };
            let mut failed = failed;
            match failed.take_message() {
                Some(unsent) if !is_new => request = unsent,
                _ => return Err(OriginError::Exchange(failed.into_error())),
            }
        }
    }

    async fn connect(&self, server_name: &str) -> Result<Sender, OriginError> {
        match &self.address {
            Address::Tcp { host, port } => {
                let stream =
                    connect::tcp(host, *port, &self.settings, |address| self.limits.check(address)).await?;
                // Without it the connection works as well, only slower.
                let _ = stream.set_nodelay(true);
                self.secure(stream, server_name).await
            }
            Address::Unix(path) => self.secure(connect::unix(path, &self.settings).await?, server_name).await,
        }
    }

    async fn secure(&self, stream: impl Io + 'static, server_name: &str) -> Result<Sender, OriginError> {
        let (stream, http2) = match &self.tls {
            None => (Box::new(stream) as Box<dyn Io>, false),
            Some(tls) => tls.connect(stream, server_name).await?,
        };
        if http2 {
            let (sender, connection) = http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .adaptive_window(true)
                .handshake(TokioIo::new(stream))
                .await
                .map_err(OriginError::Exchange)?;
            self.pool.share(server_name, sender.clone(), async move {
                ended(connection.await);
            });
            return Ok(Sender::Http2(sender));
        }
        let (sender, connection) = http1::Builder::new()
            .title_case_headers(true)
            .max_headers(MAX_HEADERS)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(OriginError::Exchange)?;
        self.pool.drive(async move { ended(connection.with_upgrades().await) });
        Ok(Sender::Http1(sender))
    }
}

/// HTTP/2 has no headers about its connection (RFC 9113, 8.2.2), and the host in the URL.
fn for_http2(mut request: Request<RequestBody>) -> Request<RequestBody> {
    if let Some(host) = request.headers_mut().remove(http::header::HOST)
        && let Ok(host) = host.to_str()
    {
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        if let Ok(uri) = format!("https://{host}{path}").parse() {
            *request.uri_mut() = uri;
        }
    }
    for name in ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"] {
        request.headers_mut().remove(name);
    }
    request
}

fn ended(result: Result<(), hyper::Error>) {
    if let Err(error) = result {
        tracing::debug!(error = %crate::error_chain(&error), "connection to an origin ended");
    }
}

impl Pool {
    fn lock(&self) -> std::sync::MutexGuard<'_, PoolState> {
        // Every change is a single call: there is no half-made state to fear.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, server_name: &str) -> Option<Sender> {
        let mut state = self.lock();
        state.idle.retain(|idle| !idle.sender.is_closed());
        state.shared.retain(|(_, sender)| !sender.is_closed());
        if let Some((_, sender)) = state.shared.iter().find(|(name, _)| name == server_name) {
            return Some(Sender::Http2(sender.clone()));
        }
        // The one that was used last is the least likely to have been closed.
        let usable = |idle: &Idle| idle.server_name == server_name && idle.sender.is_ready();
        let found = state.idle.iter().rposition(usable)?;
        Some(Sender::Http1(state.idle.remove(found).sender))
    }

    fn drive(&self, connection: impl Future<Output = ()> + Send + 'static) {
        let mut state = self.lock();
        while state.tasks.try_join_next().is_some() {}
        state.tasks.spawn(connection);
    }

    fn share(
        &self,
        server_name: &str,
        sender: http2::SendRequest<RequestBody>,
        connection: impl Future<Output = ()> + Send + 'static,
    ) {
        self.drive(connection);
        self.lock().shared.push((server_name.to_owned(), sender));
    }

    fn put(self: &Arc<Self>, sender: http1::SendRequest<RequestBody>, server_name: String) {
        let mut state = self.lock();
        state.idle.retain(|idle| !idle.sender.is_closed());
        if sender.is_closed() || state.idle.len() >= self.keep {
            return;
        }
        state.idle.push(Idle { sender, server_name, since: Instant::now() });
        if !state.janitor {
            state.janitor = true;
            let (pool, timeout) = (Arc::downgrade(self), self.timeout.max(SHORTEST_TIMEOUT));
            state.tasks.spawn(sweep(pool, timeout));
        }
    }
}

/// Closes connections that have waited too long, until none waits.
async fn sweep(pool: Weak<Pool>, timeout: Duration) {
    let mut next = Instant::now() + timeout;
    loop {
        tokio::time::sleep_until(next).await;
        let Some(pool) = pool.upgrade() else { return };
        let mut state = pool.lock();
        let now = Instant::now();
        state.idle.retain(|idle| !idle.sender.is_closed() && now - idle.since < timeout);
        let Some(oldest) = state.idle.iter().map(|idle| idle.since).min() else {
            state.janitor = false;
            return;
        };
        next = oldest + timeout;
    }
}

impl Lease {
    /// The answer was read to its end: the connection may be used again.
    pub(super) fn give_back(self) {
        if let (Some(sender), Some(pool)) = (self.sender, self.pool.upgrade()) {
            pool.put(sender, self.server_name);
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Pieces(pieces, _) => {
                pieces.poll_recv(context).map(|piece| piece.map(|piece| piece.map(Frame::data)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Empty | Self::Pieces(_, Some(0)))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Pieces(_, Some(length)) => SizeHint::with_exact(*length),
            Self::Pieces(_, None) => SizeHint::default(),
        }
    }
}

/// Headers of one answer.
const MAX_HEADERS: usize = 256;
/// A keep-alive timeout of nothing would be a loop.
const SHORTEST_TIMEOUT: Duration = Duration::from_millis(100);
