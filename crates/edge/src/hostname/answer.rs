//! Answers to clients: the origin's, streamed, and the edge's own pages of one line.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use adit_model::{Refusal, RequestEnd};
use adit_transport::{ReadChunk, StreamError};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::connection::Busy;
use super::headers::CF_RAY;
use super::recording::Recording;
use crate::dial::Via;
use crate::far::{FarReader, FarWriter};

/// The body of an answer.
pub(crate) type Body = UnsyncBoxBody<Bytes, BodyError>;

/// An answer's body ended before its end. The client's connection or stream is reset, so that it can tell.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    /// The origin's side failed.
    #[error("the origin's answer broke off")]
    Origin(#[source] StreamError),
    /// The host name is no more.
    #[error("the host name was removed")]
    Removed,
}

/// What lives as long as an answer's body does.
pub(super) struct Held {
    /// Told `true` at the end of the body; dropped without when the client goes away before.
    pub(super) over: Option<watch::Sender<bool>>,
    /// The way there, where nothing is sent on it: its end could end the way back too.
    pub(super) _writer: Option<FarWriter>,
    pub(super) _via: Via,
    pub(super) _busy: Busy,
}

struct Streaming {
    reader: FarReader,
    recording: Arc<Recording>,
    removed: CancellationToken,
    held: Held,
}

/// The origin's body, chunk by chunk, for as long as the host name is there.
pub(super) fn streamed(
    reader: FarReader,
    recording: Arc<Recording>,
    removed: CancellationToken,
    held: Held,
) -> Body {
    let streaming = Streaming { reader, recording, removed, held };
    let chunks = stream::unfold(Some(streaming), |streaming| async {
        let mut streaming = streaming?;
        let read = tokio::select! {
            read = streaming.reader.read_chunk() => read,
            () = streaming.removed.cancelled() => {
                streaming.recording.ended(RequestEnd::HostnameRemoved);
                return Some((Err(BodyError::Removed), None));
            }
        };
        match read {
            Ok(Some(chunk)) => {
                streaming.recording.down.fetch_add(chunk.len() as u64, Ordering::Relaxed);
                Some((Ok(Frame::data(chunk)), Some(streaming)))
            }
            Ok(None) => {
                streaming.recording.ended(RequestEnd::Finished);
                if let Some(over) = &streaming.held.over {
                    over.send_replace(true);
                }
                None
            }
            Err(error) => {
                streaming.recording.ended(RequestEnd::ResetByOrigin);
                Some((Err(BodyError::Origin(error)), None))
            }
        }
    });
    StreamBody::new(chunks).boxed_unsync()
}

/// A page of one line, which says nothing of what is behind the edge.
pub(crate) fn page(status: StatusCode, line: &str, ray: Option<&HeaderValue>) -> Response<Body> {
    let told = ray.and_then(|ray| ray.to_str().ok());
    let id = told.map(|ray| format!(" (ray {ray})")).unwrap_or_default();
    let text = format!("{status}: {line}{id}\n");
    let mut response = Response::new(whole(text.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(ray) = ray {
        headers.insert(CF_RAY, ray.clone());
    }
    if status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER.as_secs()));
    }
    response
}

/// A body that is there already.
pub(crate) fn whole(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never: Infallible| match never {}).boxed_unsync()
}

/// What a client is told of a refusal.
pub(super) fn of_refusal(refusal: Refusal) -> (StatusCode, &'static str) {
    match refusal {
        Refusal::NoConnection => (StatusCode::SERVICE_UNAVAILABLE, "no connector of the tunnel is connected"),
        Refusal::TooManyFlows => {
            (StatusCode::SERVICE_UNAVAILABLE, "the connector is at its limit of requests")
        }
        Refusal::Stale => {
            (StatusCode::SERVICE_UNAVAILABLE, "the edge has not heard from its control plane for too long")
        }
        Refusal::TimedOut => (StatusCode::GATEWAY_TIMEOUT, "the origin did not answer in time"),
        Refusal::Unroutable
        | Refusal::NeverDialled
        | Refusal::Refused
        | Refusal::HostUnreachable
        | Refusal::NetworkUnreachable
        | Refusal::Blocked
        | Refusal::TooLarge
        | Refusal::Revoked
        | Refusal::ConnectorError => (StatusCode::BAD_GATEWAY, "the connector could not reach the origin"),
    }
}

/// When a client that was told to come again may.
const RETRY_AFTER: Duration = Duration::from_secs(5);
