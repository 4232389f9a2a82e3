//! DNS over HTTPS (RFC 8484): the host of a location on the HTTPS listener.
//!
//! A location answers who comes from a network that it names, or who shows a service token of its account where it asks for
//! one, and nobody else; those are told so in one line. A query and an answer have limits, and a query's body a deadline.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use adit_model::{AccountId, Admission, DnsProtocol, LocationId};
use adit_policy::Snapshot;
use adit_wire::dns::{
    HTTPS_PATH, HTTPS_TYPE, MAX_MESSAGE_BYTES, MAX_QUERY_BYTES, ParameterError, encode, freshness_secs,
    of_parameter,
};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use http::header::{self, HeaderMap, HeaderValue};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::{Asker, query};
use crate::Shared;
use crate::hostname::{Body, page, whole};

/// Where a request came.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) location: LocationId,
    pub(crate) peer: SocketAddr,
}

/// A request that is not answered: its status, and a line for whoever looks.
type Refused = (StatusCode, String);

/// Answers one request to the host of a location, whatever becomes of it.
pub(crate) async fn serve(shared: &Arc<Shared>, place: Place, request: Request<Incoming>) -> Response<Body> {
    let (parts, mut body) = request.into_parts();
    match answered(shared, place, &parts, &mut body).await {
        Ok(response) => response,
        Err((status, line)) => {
            drain(body).await;
            if status == StatusCode::FORBIDDEN {
                shared.metrics.dns_refused(DnsProtocol::Https);
            }
            tracing::debug!(location = %place.location, %status, line, "a query over HTTPS is refused");
            let mut response = page(status, &line, None);
            if status == StatusCode::METHOD_NOT_ALLOWED {
                response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, POST"));
            }
            response
        }
    }
}

async fn answered(
    shared: &Arc<Shared>,
    place: Place,
    parts: &Parts,
    body: &mut Incoming,
) -> Result<Response<Body>, Refused> {
    let refuse = |status, line: &str| Err((status, line.to_owned()));
    if parts.uri.path() != HTTPS_PATH {
        return refuse(StatusCode::NOT_FOUND, "queries are answered at /dns-query");
    }
    let asker = admitted(&shared.snapshots.current(), place, &parts.headers)?;
    let bytes = match parts.method {
        Method::GET => in_url(parts.uri.query().unwrap_or_default())?,
        Method::POST => in_body(&parts.headers, body).await?,
        _ => return refuse(StatusCode::METHOD_NOT_ALLOWED, "expected GET or POST"),
    };
    let Some(answer) = query::answer(shared, &asker, &bytes).await else {
        return refuse(StatusCode::BAD_REQUEST, "expected a DNS query in wire format");
    };
    let mut response = Response::new(whole(encode(&answer, MAX_MESSAGE_BYTES).into()));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(HTTPS_TYPE));
    // Who may have it is decided each time: it is in nobody's cache but the asker's own.
    let fresh = format!("private, max-age={}", freshness_secs(&answer));
    headers.extend(HeaderValue::try_from(fresh).map(|fresh| (header::CACHE_CONTROL, fresh)));
    Ok(response)
}

/// Who asks, if the location answers them.
fn admitted(snapshot: &Snapshot, place: Place, headers: &HeaderMap) -> Result<Asker, Refused> {
    let gone = || (StatusCode::NOT_FOUND, "there is no such DNS location".to_owned());
    let location = snapshot.location(place.location).ok_or_else(gone)?;
    let source = place.peer.ip().to_canonical();
    let refuse = |line: String| Err((StatusCode::FORBIDDEN, line));
    let user = match location.admits_https(source) {
        Admission::Admitted => None,
        Admission::NeedsToken => match token_of(headers) {
            Some(shown) if is_token(snapshot, location.account, &shown) => {
                Some(format!("non_identity@{}", location.account))
            }
            Some(_) => {
                return refuse(
                    "the service token is not one of this DNS location's account, or has expired".into(),
                );
            }
            None => {
                let line = "this DNS location asks for a service token: in the headers CF-Access-Client-Id and \
                            CF-Access-Client-Secret, or as user and password of the URL";
                return refuse(line.into());
            }
        },
        Admission::Elsewhere => {
            return refuse(format!(
                "{source} is in none of the networks of this DNS location: have it added to them"
            ));
        }
        Admission::Disabled => return refuse("DNS over HTTPS is off for this DNS location".into()),
    };
    Ok(Asker {
        account: location.account,
        registration: None,
        source: place.peer,
        resolver: None,
        protocol: DnsProtocol::Https,
        location: Some(Arc::clone(location)),
        user,
    })
}

fn is_token(snapshot: &Snapshot, account: AccountId, (id, secret): &(String, String)) -> bool {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = i64::try_from(now.as_micros()).unwrap_or(i64::MAX);
    snapshot.service_token(account, (id, secret.as_bytes()), now).is_some()
}

/// Id and secret of the service token that a request shows: in headers of their own, or as user and password.
fn token_of(headers: &HeaderMap) -> Option<(String, String)> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if let (Some(id), Some(secret)) = (text("cf-access-client-id"), text("cf-access-client-secret")) {
        return Some((id.to_owned(), secret.to_owned()));
    }
    let (scheme, rest) = text("authorization")?.split_once(' ')?;
    let decoded = STANDARD.decode(rest.trim()).ok().filter(|_| scheme.eq_ignore_ascii_case("basic"))?;
    let (id, secret) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
    Some((id.to_owned(), secret.to_owned()))
}

fn in_url(parameters: &str) -> Result<Bytes, Refused> {
    of_parameter(parameters).map(Bytes::from).map_err(|error| {
        let status = match error {
            ParameterError::TooLong => StatusCode::URI_TOO_LONG,
            ParameterError::Missing | ParameterError::NotBase64 => StatusCode::BAD_REQUEST,
        };
        (status, error.to_string())
    })
}

async fn in_body(headers: &HeaderMap, body: &mut Incoming) -> Result<Bytes, Refused> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case(HTTPS_TYPE) {
        let line = format!("expected a body of the type {HTTPS_TYPE}");
        return Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, line));
    }
    let reading = async {
        let mut bytes = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| (StatusCode::BAD_REQUEST, "the query ended early".to_owned()))?;
            bytes.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
            if bytes.len() > MAX_QUERY_BYTES {
                return Err((StatusCode::PAYLOAD_TOO_LARGE, "the query is longer than 4096 bytes".into()));
            }
        }
        Ok(bytes.freeze())
    };
    match tokio::time::timeout(BODY_DEADLINE, reading).await {
        Ok(read) => read,
        Err(_) => Err((StatusCode::REQUEST_TIMEOUT, "the query did not arrive in time".into())),
    }
}

/// Reads what is still on its way of a request that is refused: who is told to stop sending may not look at the answer.
async fn drain(mut body: Incoming) {
    let draining = async {
        let mut read = 0;
        while let Some(Ok(frame)) = body.frame().await {
            read += frame.data_ref().map_or(0, Bytes::len);
            if read > MAX_DRAINED_BYTES {
                return;
            }
        }
    };
    if tokio::time::timeout(BODY_DEADLINE, draining).await.is_err() {
        tracing::trace!("a refused request does not end");
    }
}

/// What is read of a refused request.
const MAX_DRAINED_BYTES: usize = 64 << 10;
/// For a query to arrive: it fits into a few packets.
const BODY_DEADLINE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(headers: &[(&str, &str)], expected: Option<(&str, &str)>) {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(http::HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
        }
        let expected = expected.map(|(id, secret)| (id.to_owned(), secret.to_owned()));
        assert_eq!(token_of(&map), expected, "{headers:?}");
    }

    #[test]
    fn a_token_is_shown_in_headers_or_as_user_and_password() {
        let id = ("cf-access-client-id", "x.access");
        check(&[], None);
        check(&[id], None);
        check(&[id, ("cf-access-client-secret", "s")], Some(("x.access", "s")));
        check(&[("authorization", "Basic eC5hY2Nlc3M6czp0")], Some(("x.access", "s:t")));
        for other in ["Bearer eC5hY2Nlc3M6cw==", "Basic", "Basic ===", "Basic eA=="] {
            check(&[("authorization", other)], None);
        }
    }
}
