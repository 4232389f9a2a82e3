//! One client's connection: HTTP/1.1 or HTTP/2 by hyper, its requests counted, its idleness bounded.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use adit_transport::tcp;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tokio_util::task::TaskTracker;

use super::answer::page;
use super::{Served, request};
use crate::Shared;
use crate::dns::https;
use crate::limits::{FAREWELL, HANDSHAKE_DEADLINE};

/// What the requests of one connection share.
pub(super) struct Client {
    pub(super) shared: Arc<Shared>,
    pub(super) served: Arc<Served>,
    pub(super) peer: SocketAddr,
    open: AtomicUsize,
    last: Mutex<Instant>,
}

/// A request that keeps its connection from being idle.
pub(super) struct Busy(Arc<Client>);

impl Client {
    /// Counts a request, or a WebSocket, until the guard is dropped.
    pub(super) fn busy(self: &Arc<Self>) -> Busy {
        self.open.fetch_add(1, Ordering::Relaxed);
        Busy(Arc::clone(self))
    }

    /// Resolves when nothing has been asked for [`IDLE`].
    async fn idle(&self) {
        loop {
            tokio::time::sleep(IDLE / 4).await;
            let quiet = self.last.lock().unwrap_or_else(PoisonError::into_inner).elapsed();
            if self.open.load(Ordering::Relaxed) == 0 && quiet >= IDLE {
                return;
            }
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        *self.0.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Serves a connection that asked for a public host name, until it ends, is idle, or the name is removed.
pub(crate) async fn serve(
    shared: Arc<Shared>,
    served: Arc<Served>,
    stream: TlsStream<TcpStream>,
    peer: SocketAddr,
) {
    // A client that vanished is noticed all the same, only later.
    let _ = tcp::keep_alive(stream.get_ref().0, KEEP_ALIVE);
    let client = Arc::new(Client {
        shared: Arc::clone(&shared),
        served,
        peer,
        open: AtomicUsize::new(0),
        last: Mutex::new(Instant::now()),
    });
    let service = service_fn({
        let client = Arc::clone(&client);
        move |asked| {
            let client = Arc::clone(&client);
            async move {
                Ok::<_, Infallible>(match client.served.location() {
                    Some(location) => {
                        let _busy = client.busy();
                        let place = https::Place { location, peer: client.peer };
                        match request::host(&asked, &client.served) {
                            Ok(_) => https::serve(&client.shared, place, asked).await,
                            Err((status, line)) => page(status, line, None),
                        }
                    }
                    None => request::serve(client, asked).await,
                })
            }
        }
    });
    let builder = builder(&shared.tasks);
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = client.idle() => {
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(HANDSHAKE_DEADLINE, connection).await.unwrap_or(Ok(()))
        }
        () = client.served.removed.cancelled() => {
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(FAREWELL, connection).await.unwrap_or(Ok(()))
        }
        () = shared.stopping.cancelled() => {
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(FAREWELL, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(peer = %peer, error = %error, "connection ended");
    }
}

fn builder(tasks: &TaskTracker) -> auto::Builder<Tracked> {
    let mut builder = auto::Builder::new(Tracked(tasks.clone()));
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_DEADLINE)
        .max_buf_size(MAX_HEADER_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Some(KEEP_ALIVE))
        .keep_alive_timeout(KEEP_ALIVE)
        .max_concurrent_streams(MAX_REQUESTS)
        .max_header_list_size(MAX_HEADER_LIST_BYTES)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .enable_connect_protocol();
    builder
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

/// For a client to send the head of a request, the time between two requests of HTTP/1.1 included.
const HEADER_DEADLINE: Duration = Duration::from_secs(75);
/// How often a silent client is probed.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// A connection without a request is closed after this.
const IDLE: Duration = Duration::from_mins(3);
/// Requests of one connection at once.
const MAX_REQUESTS: u32 = 128;
/// Head of an HTTP/1.1 request, and largest read of a body, in bytes.
const MAX_HEADER_BYTES: usize = 128 << 10;
/// Headers of an HTTP/2 request, in bytes.
const MAX_HEADER_LIST_BYTES: u32 = 64 << 10;
/// What a client may have on its way in one request's body, in bytes.
const STREAM_WINDOW: u32 = 1 << 20;
/// What a client may have on its way in all of them, in bytes: what one connection may cost in memory.
const CONNECTION_WINDOW: u32 = 2 << 20;
