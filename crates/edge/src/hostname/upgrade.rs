//! WebSockets: the handshake goes to the origin, and what follows passes as it comes.
//!
//! Frames are not looked at. Neither side of a WebSocket has a half-close: when one has ended, the other gets a while.

use std::io::ErrorKind;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use adit_model::RequestEnd;
use adit_transport::splice::{HalfClose, Passed, SpliceEnd, splice};
use adit_transport::{Duplex, ReadChunk, StreamError, io};
use base64::Engine as _;
use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::sync::Notify;
use uuid::Uuid;

use super::answer::{Body, Held, streamed, whole};
use super::connection::Busy;
use super::headers;
use super::request::{Exchange, Handshake};
use crate::dial::{self, OriginAnswer, Via};
use crate::far::{FarReader, FarWriter};
use crate::limits::HANDSHAKE_DEADLINE;

/// Asks the origin for a WebSocket. An origin that does not want one answers as it would any request.
pub(super) async fn serve(
    exchange: Exchange,
    mut request: Request<Incoming>,
    kind: Handshake,
) -> Response<Body> {
    let busy = exchange.client.busy();
    let upgrade = hyper::upgrade::on(&mut request);
    let (parts, _) = request.into_parts();
    let mut headers = parts.headers;
    headers::for_origin(&mut headers, exchange.client.peer.ip(), &exchange.ray);
    if kind == Handshake::ExtendedConnect {
        // Over HTTP/2 there is none (RFC 8441, 5); origins of HTTP/1.1 want one.
        headers.insert(header::SEC_WEBSOCKET_KEY, key());
    }
    let Some(origin) = exchange.origin_request(Method::GET, &parts.uri, headers, true) else {
        return exchange.refuse(StatusCode::BAD_REQUEST, "the URL cannot be read");
    };
    let order = exchange.recording.order();
    let dialled = match dial::request(&exchange.client.shared, order, origin).await {
        Ok(dialled) => dialled,
        Err(not) => return exchange.not_dialled(&not),
    };
    exchange.recording.carried_by(dialled.via.connection(), dialled.via.relayed_to());
    let (via, writer) = (dialled.via, dialled.writer);
    let OriginAnswer { status, mut headers, reader } = match exchange.wait(dialled.answer).await {
        Ok(answer) => answer,
        Err(not) => return exchange.not_dialled(&not),
    };
    headers::for_client(&mut headers, &exchange.ray);
    if status != StatusCode::SWITCHING_PROTOCOLS {
        exchange.recording.answered(status);
        let removed = exchange.client.served.removed.child_token();
        let held = Held { over: None, _writer: Some(writer), _via: via, _busy: busy };
        let body = streamed(reader, Arc::clone(&exchange.recording), removed, held);
        return response(status, headers, body);
    }
    let far = Duplex::new(Noted::new(reader), writer);
    let carried = Carried { exchange, far, _via: via, _busy: busy };
    let told = carried.accept(kind, &mut headers);
    let tasks = carried.exchange.client.shared.tasks.clone();
    tasks.spawn(carried.carry(upgrade));
    response(told, headers, whole(Bytes::new()))
}

fn response(status: StatusCode, headers: HeaderMap, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// A WebSocket that the origin has accepted.
struct Carried {
    exchange: Exchange,
    far: Duplex<Noted<FarReader>, FarWriter>,
    _via: Via,
    _busy: Busy,
}

impl Carried {
    /// What the client is told.
    fn accept(&self, kind: Handshake, headers: &mut HeaderMap) -> StatusCode {
        headers.remove(header::CONTENT_LENGTH);
        let status = match kind {
            Handshake::Upgrade => {
                headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
                headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
                StatusCode::SWITCHING_PROTOCOLS
            }
            Handshake::ExtendedConnect => {
                headers.remove(header::SEC_WEBSOCKET_ACCEPT);
                StatusCode::OK
            }
        };
        self.exchange.recording.answered(status);
        status
    }

    async fn carry(mut self, upgrade: OnUpgrade) {
        let recording = Arc::clone(&self.exchange.recording);
        let Ok(Ok(upgraded)) = tokio::time::timeout(HANDSHAKE_DEADLINE, upgrade).await else {
            self.far.reset();
            return;
        };
        let near = io::duplex(TokioIo::new(upgraded));
        let mut near = Duplex::new(Noted::new(near.reader), near.writer);
        let (near_ended, far_ended) = (near.reader.ended(), self.far.reader.ended());
        let mut passed = Passed::default();
        let removed = self.exchange.client.served.removed.child_token();
        let stopping = self.exchange.client.shared.stopping.child_token();
        let end = {
            // A client that has ended its side has gone: nothing is held back from the connector.
            let spliced = pin!(splice(&mut near, &mut self.far, HalfClose::Kept, &mut passed));
            let lingered = async {
                tokio::select! { () = near_ended.notified() => {}, () = far_ended.notified() => {} }
                tokio::time::sleep(LAST_WORDS).await;
            };
            tokio::select! {
                end = spliced => match end {
                    SpliceEnd::Finished => RequestEnd::Finished,
                    SpliceEnd::NearFailed(_) => RequestEnd::ResetByClient,
                    SpliceEnd::FarFailed(_) => RequestEnd::ResetByOrigin,
                },
                () = lingered => RequestEnd::Finished,
                () = removed.cancelled() => RequestEnd::HostnameRemoved,
                () = stopping.cancelled() => RequestEnd::EdgeStopping,
            }
        };
        self.far.reset();
        recording.up.store(passed.up, Ordering::Relaxed);
        recording.down.store(passed.down, Ordering::Relaxed);
        recording.ended(end);
    }
}

/// A reader that tells of its end.
struct Noted<R> {
    reader: R,
    ended: Arc<Notify>,
}

impl<R> Noted<R> {
    fn new(reader: R) -> Self {
        Self { reader, ended: Arc::default() }
    }

    fn ended(&self) -> Arc<Notify> {
        Arc::clone(&self.ended)
    }
}

impl<R: ReadChunk> ReadChunk for Noted<R> {
    async fn read_chunk(&mut self) -> Result<Option<Bytes>, StreamError> {
        let read = match self.reader.read_chunk().await {
            // Many a client of TLS ends without a word; frames have ends of their own.
            Err(StreamError::Io(error)) if error.kind() == ErrorKind::UnexpectedEof => Ok(None),
            read => read,
        };
        if matches!(read, Ok(None)) {
            self.ended.notify_one();
        }
        read
    }

    fn stop(&mut self) {
        self.reader.stop();
    }
}

/// Sixteen bytes that nobody can foresee, base64 (RFC 6455, 4.1).
fn key() -> HeaderValue {
    let key = base64::engine::general_purpose::STANDARD.encode(Uuid::new_v4().as_bytes());
    HeaderValue::try_from(key).unwrap_or(HeaderValue::from_static("AAAAAAAAAAAAAAAAAAAAAA=="))
}

/// How long one side may go on after the other has ended.
const LAST_WORDS: Duration = Duration::from_secs(30);
