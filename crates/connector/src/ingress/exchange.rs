//! One HTTP request to an origin, and its answer back: bodies in both directions at once, an upgrade passed through.

use std::pin::{Pin, pin};
use std::sync::Arc;

use adit_transport::splice::{HalfClose, Passed, splice};
use adit_transport::stream::{Duplex, ReadChunk, StreamError, WriteChunk};
use bytes::{Bytes, BytesMut};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::origin::{Cut, Lease, Origin, OriginError, RequestBody};
use super::{Answer, AnswerWriter, OriginRequest, bare_host, io};
use crate::config::OriginSettings;
use crate::process::Process;

/// Pieces of a request's body on their way to the origin.
const PIECES_AHEAD: usize = 2;
/// Largest body that `disableChunkedEncoding` collects because nobody said its length, in bytes.
const MAX_COLLECTED_BYTES: usize = 16 << 20;
/// What is said before an origin's failure (contract, 3.5).
const UNREACHABLE: &str = "Unable to reach the origin service. The service may be down or it may not be responding to traffic from cloudflared";

/// What the edge said of a request's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BodyLength {
    None,
    Known(u64),
    Unknown,
}

/// An exchange ended early.
#[derive(Debug, thiserror::Error)]
pub(super) enum ExchangeError {
    /// The edge's side.
    #[error("the edge's stream ended")]
    Edge(#[from] StreamError),
    /// The origin's side.
    #[error("the origin failed")]
    Origin(#[from] OriginError),
    /// The origin's answer broke off.
    #[error("the origin's answer broke off")]
    Body(#[source] hyper::Error),
    /// Nobody waits any more.
    #[error("nobody waits for the answer")]
    Abandoned,
    /// The connector stops.
    #[error("the connector is stopping")]
    Stopping,
    /// The request cannot be sent as it is.
    #[error("{0}")]
    Request(&'static str),
}

/// Serves a request by an origin.
pub(super) async fn serve<R: ReadChunk, A: Answer>(
    process: &Arc<Process>,
    origin: &Origin,
    settings: &OriginSettings,
    request: OriginRequest,
    body: R,
    answer: A,
) -> Result<(), ExchangeError> {
    let websocket = request.websocket;
    let length = body_length(&request.headers);
    let server_name = server_name(origin, settings, &request.host);
    let head = match head(settings, request) {
        Ok(head) => head,
        Err(problem) => {
            answer.fail(problem.to_owned()).await;
            return Err(ExchangeError::Request(problem));
        }
    };
    let exchange = Exchange { process, origin, server_name, closing: process.closing.child_token() };
    match length {
        _ if websocket => exchange.websocket(head, body, answer).await,
        BodyLength::None => exchange.plain(head.map(|()| RequestBody::Empty), answer).await,
        BodyLength::Unknown if settings.disable_chunked_encoding => {
            exchange.collected(head, body, answer).await
        }
        BodyLength::Unknown => exchange.with_body(head, body, None, answer).await,
        BodyLength::Known(length) => exchange.with_body(head, body, Some(length), answer).await,
    }
}

struct Exchange<'a> {
    process: &'a Arc<Process>,
    origin: &'a Origin,
    server_name: String,
    closing: CancellationToken,
}

impl Exchange<'_> {
    /// Waits for the head of the answer; an origin that gives none is told to the edge.
    async fn answered<A: Answer>(
        &self,
        request: Request<RequestBody>,
        mut answer: A,
    ) -> Result<(Response<Incoming>, Lease, A), ExchangeError> {
        let answered = tokio::select! {
            answered = self.origin.send(request, &self.server_name) => answered.map_err(ExchangeError::Origin),
            () = answer.abandoned() => return Err(ExchangeError::Abandoned),
            () = self.closing.cancelled() => Err(ExchangeError::Stopping),
        };
        match answered {
            Ok((response, lease)) => {
                self.process.metrics.response(response.status());
                Ok((response, lease, answer))
            }
            Err(error) => {
                let cause = crate::error_chain(&error);
                let cause = cause.strip_prefix("the origin failed: ").unwrap_or(&cause);
                answer.fail(format!("{UNREACHABLE}: {cause}")).await;
                Err(error)
            }
        }
    }

    async fn plain<A: Answer>(&self, request: Request<RequestBody>, answer: A) -> Result<(), ExchangeError> {
        let (response, lease, answer) = self.answered(request, answer).await?;
        self.pass(response, lease, answer).await
    }

    async fn with_body<R: ReadChunk, A: Answer>(
        &self,
        head: Request<()>,
        mut body: R,
        length: Option<u64>,
        answer: A,
    ) -> Result<(), ExchangeError> {
        let (feed, pieces) = mpsc::channel(PIECES_AHEAD);
        let request = head.map(|()| RequestBody::Pieces(pieces, length));
        let feeding = pin!(feed_body(&mut body, feed, length));
        alongside(feeding, self.plain(request, answer)).await
    }

    /// The body as a whole, with its length, for servers that take no chunks.
    async fn collected<R: ReadChunk, A: Answer>(
        &self,
        head: Request<()>,
        mut body: R,
        mut answer: A,
    ) -> Result<(), ExchangeError> {
        let mut whole = BytesMut::new();
        loop {
            let chunk = tokio::select! {
                chunk = body.read_chunk() => chunk?,
                () = answer.abandoned() => return Err(ExchangeError::Abandoned),
                () = self.closing.cancelled() => return Err(ExchangeError::Stopping),
            };
            let Some(chunk) = chunk else { break };
            if whole.len() + chunk.len() > MAX_COLLECTED_BYTES {
                let problem = "disableChunkedEncoding: a body without Content-Length is larger than 16 MiB";
                answer.fail(problem.to_owned()).await;
                return Err(ExchangeError::Request(problem));
            }
            whole.extend_from_slice(&chunk);
        }
        let (feed, pieces) = mpsc::channel(1);
        let length = whole.len() as u64;
        // The channel has room for one.
        let _ = feed.try_send(Ok(whole.freeze()));
        drop(feed);
        self.plain(head.map(|()| RequestBody::Pieces(pieces, Some(length))), answer).await
    }

    async fn websocket<R: ReadChunk, A: Answer>(
        &self,
        head: Request<()>,
        body: R,
        answer: A,
    ) -> Result<(), ExchangeError> {
        let (response, lease, answer) = self.answered(head.map(|()| RequestBody::Empty), answer).await?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            self.upgraded(response, body, answer).await
        } else {
            self.pass(response, lease, answer).await
        }
    }

    /// Passes the answer on to its end.
    async fn pass<A: Answer>(
        &self,
        response: Response<Incoming>,
        lease: Lease,
        answer: A,
    ) -> Result<(), ExchangeError> {
        let (head, mut body) = response.into_parts();
        let mut writer = answer.respond(head.status, &for_edge(head.headers)).await?;
        let mut trailers = HeaderMap::new();
        loop {
            let frame = tokio::select! {
                frame = body.frame() => frame,
                () = writer.abandoned() => {
                    writer.reset();
                    return Err(ExchangeError::Abandoned);
                }
                () = self.closing.cancelled() => {
                    writer.reset();
                    return Err(ExchangeError::Stopping);
                }
            };
            match frame.map(|frame| frame.map(hyper::body::Frame::into_data)) {
                None => break,
                Some(Ok(Ok(data))) if data.is_empty() => {}
                Some(Ok(Ok(data))) => writer.write_chunk(data).await?,
                Some(Ok(Err(frame))) => trailers = frame.into_trailers().unwrap_or_default(),
                Some(Err(error)) => {
                    writer.reset();
                    return Err(ExchangeError::Body(error));
                }
            }
        }
        lease.give_back();
        writer.finish_with(&trailers).await?;
        writer.delivered().await;
        Ok(())
    }

    /// 101: from here on the bytes are nobody's business but the two ends'.
    async fn upgraded<R: ReadChunk, A: Answer>(
        &self,
        mut response: Response<Incoming>,
        body: R,
        answer: A,
    ) -> Result<(), ExchangeError> {
        let upgrade = hyper::upgrade::on(&mut response);
        let writer =
            answer.respond(response.status(), &for_edge(std::mem::take(response.headers_mut()))).await?;
        let mut edge = Duplex::new(body, writer);
        let upgraded = match upgrade.await {
            Ok(upgraded) => upgraded,
            Err(error) => {
                edge.reset();
                return Err(ExchangeError::Body(error));
            }
        };
        let mut origin = io::duplex(TokioIo::new(upgraded));
        let mut passed = Passed::default();
        let spliced = splice(&mut edge, &mut origin, HalfClose::Kept, &mut passed);
        let end = self.closing.run_until_cancelled(spliced).await;
        if end.is_none() {
            edge.reset();
            origin.reset();
            return Err(ExchangeError::Stopping);
        }
        edge.writer.delivered().await;
        tracing::debug!(up = passed.up, down = passed.down, end = ?end, "upgraded request ended");
        Ok(())
    }
}

/// Runs `side` while `main` runs.
async fn alongside<T>(mut side: Pin<&mut impl Future<Output = ()>>, main: impl Future<Output = T>) -> T {
    let mut main = pin!(main);
    tokio::select! {
        value = &mut main => return value,
        () = side.as_mut() => {}
    }
    main.await
}

/// Passes a body on until it ends, is as long as was said, or nobody takes it.
async fn feed_body<R: ReadChunk>(body: &mut R, feed: mpsc::Sender<Result<Bytes, Cut>>, length: Option<u64>) {
    let mut left = length;
    while left != Some(0) {
        let piece = match body.read_chunk().await {
            Ok(Some(mut chunk)) => {
                if let Some(left) = &mut left {
                    chunk.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
                    *left -= chunk.len() as u64;
                }
                Ok(chunk)
            }
            Ok(None) if left.is_none() => return,
            Ok(None) | Err(_) => Err(Cut),
        };
        let is_cut = piece.is_err();
        if feed.send(piece).await.is_err() || is_cut {
            return;
        }
    }
}

/// Whether there is a body (contract, 3.2).
fn body_length(headers: &HeaderMap) -> BodyLength {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(length) = text(header::CONTENT_LENGTH).and_then(|text| text.trim().parse::<u64>().ok()) {
        return if length == 0 { BodyLength::None } else { BodyLength::Known(length) };
    }
    let chunked = |text: &str| text.to_ascii_lowercase().contains("chunked");
    if text(header::TRANSFER_ENCODING).is_some_and(chunked) { BodyLength::Unknown } else { BodyLength::None }
}

/// The request as the origin gets it.
fn head(settings: &OriginSettings, request: OriginRequest) -> Result<Request<()>, &'static str> {
    let OriginRequest { method, uri, host, mut headers, websocket } = request;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let path = path.parse().map_err(|_| "the request's path is malformed")?;
    let host = HeaderValue::try_from(host).map_err(|_| "the request's host is malformed")?;
    // What frames the body is made anew.
    for name in [header::HOST, header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::TRAILER] {
        headers.remove(name);
    }
    if settings.http_host_header.is_empty() {
        headers.insert(header::HOST, host);
    } else {
        let own = HeaderValue::try_from(&settings.http_host_header);
        headers.insert(header::HOST, own.map_err(|_| "httpHostHeader is no host name")?);
        headers.insert(HeaderName::from_static("x-forwarded-host"), host);
    }
    if websocket {
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    } else {
        headers.insert(header::CONNECTION, HeaderValue::from_static("keep-alive"));
    }
    let mut head = Request::new(());
    *head.method_mut() = method;
    *head.uri_mut() = path;
    *head.headers_mut() = headers;
    Ok(head)
}

/// The name that the origin's certificate is to have (contract, 6.2).
fn server_name(origin: &Origin, settings: &OriginSettings, host: &str) -> String {
    if !origin.is_tls() {
        return String::new();
    }
    let sent = if settings.http_host_header.is_empty() { host } else { &settings.http_host_header };
    if settings.match_sni_to_host {
        return bare_host(sent).to_owned();
    }
    if settings.origin_server_name.is_empty() {
        origin.host().unwrap_or_else(|| bare_host(sent)).to_owned()
    } else {
        settings.origin_server_name.clone()
    }
}

/// An answer's headers without those that framed its body on the way here.
fn for_edge(mut headers: HeaderMap) -> HeaderMap {
    headers.remove(header::TRANSFER_ENCODING);
    headers.remove(header::TRAILER);
    headers
}
