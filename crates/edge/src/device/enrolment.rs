//! Enrolment over HTTP/2: handed to the control plane's router, with the key that the handshake proved.

use std::net::SocketAddr;

use adit_model::PresentedKey;
use adit_wire::device::MAX_ENROLL_BYTES;
use axum::Router;
use axum::body::Body;
use bytes::{Bytes, BytesMut};
use h2::RecvStream;
use h2::server::SendResponse;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use tower::ServiceExt;

use super::http2::respond_with;
use crate::limits::HANDSHAKE_DEADLINE;

/// Hands an enrolment to the control plane's router, with the key that was proved.
pub(super) async fn enroll(
    enrolment: Router,
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
    (peer, key): (SocketAddr, PresentedKey),
) {
    let (parts, body) = request.into_parts();
    let Some(body) = read_body(body).await else {
        return respond_with(respond, StatusCode::PAYLOAD_TOO_LARGE);
    };
    let mut request = Request::from_parts(parts, Body::from(body));
    request.extensions_mut().insert(key);
    request.extensions_mut().insert(peer);
    let response = match enrolment.oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    };
    answer(respond, response).await;
}

async fn read_body(mut body: RecvStream) -> Option<Bytes> {
    let mut bytes = BytesMut::new();
    let read = async {
        while let Some(chunk) = body.data().await {
            let chunk = chunk.ok()?;
            body.flow_control().release_capacity(chunk.len()).ok()?;
            bytes.extend_from_slice(&chunk);
            if bytes.len() > MAX_ENROLL_BYTES {
                return None;
            }
        }
        Some(())
    };
    tokio::time::timeout(HANDSHAKE_DEADLINE, read).await.ok()??;
    Some(bytes.freeze())
}

async fn answer(mut respond: SendResponse<Bytes>, response: Response<Body>) {
    let (mut parts, body) = response.into_parts();
    parts.headers.remove(http::header::TRANSFER_ENCODING);
    let Ok(body) = Limited::new(body, MAX_ANSWER_BYTES).collect().await else {
        return respond_with(respond, StatusCode::BAD_GATEWAY);
    };
    if let Ok(mut stream) = respond.send_response(Response::from_parts(parts, ()), false)
        && stream.send_data(body.to_bytes(), true).is_err()
    {
        tracing::trace!("the device gave up before it was answered");
    }
}

/// Largest answer to an enrolment, in bytes.
const MAX_ANSWER_BYTES: usize = 64 << 10;
