//! The v4 API (contract D): paths, credentials, bodies in; envelopes out.
//!
//! What holds: a request is authenticated before its path or its body is looked at closely, its body is read only then
//! and never beyond [`MAX_BODY_BYTES`], and every answer, also of an unknown path, is an envelope with `CF-Ray` and
//! `X-Request-Id`. The request's extensions may hold the client's `std::net::SocketAddr`, put there by the listener; without
//! it, a token that is limited to addresses is refused.

mod account;
mod answer;
mod audit_log;
mod auth;
mod batch;
mod block_page;
mod body;
mod body_shape;
mod certificate;
mod configuration;
mod connectivity;
mod device;
pub(crate) mod envelope;
mod explain;
mod fallback;
mod gateway;
mod hostname_route;
mod ingress;
mod list;
mod location;
mod logging;
mod management;
mod member;
mod openapi;
mod operation;
mod origin_root;
mod path;
mod plan;
mod route;
mod rule;
mod selection;
mod service_token;
mod shape;
mod token;
mod tunnel;
mod version;
mod virtual_network;
mod warp_connector;
mod zone;

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use adit_model::{AccountId, GoDuration, PublicHostname};
use adit_store::{Actor, RawCall};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::routing::any;
use http::request::Parts;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use uuid::Uuid;

use self::auth::{Principal, Standing};
use self::body::{Family, Fields};
use self::envelope::{ApiError, Reply};
use self::operation::{Access, Operation, Verb};
use self::path::Query;
use self::version::Condition;
use crate::Control;
use crate::limiter::{Allowance, MAX_REQUESTS, REQUEST_WINDOW};
use crate::permission::{Area, Level};

pub(crate) use self::auth::refused;
pub(crate) use self::body::Fields as BodyFields;

/// The number of the last entry of the change log, on every answer.
const GENERATION: HeaderName = HeaderName::from_static("x-generation");
/// Where the API is served.
const BASE: &str = "/client/v4";
/// Longest body of a request (contract D, 1.4).
const MAX_BODY_BYTES: usize = 8 << 20;
/// Longest text of a request's line in an audit record, in characters.
const MAX_RAW_CHARS: usize = 1024;
/// How long a client may take to send its body.
const BODY_DEADLINE: Duration = Duration::from_secs(30);

/// The OpenAPI 3.1 document of the API, as it is served.
pub fn document() -> &'static serde_json::Value {
    openapi::document()
}

/// The API, to be served on the management hosts over `http` or `https`. It answers under `/client/v4` only.
pub fn router(control: Control) -> Router {
    let serve = any(move |request: Request<Body>| {
        let control = control.clone();
        async move { answer(&control, request).await }
    });
    Router::new()
        .route(BASE, serve.clone())
        .route("/client/v4/", serve.clone())
        .route("/client/v4/{*path}", serve)
}

/// One request that is allowed in.
struct Call<'a> {
    control: &'a Control,
    principal: &'a Principal,
    actor: Actor,
    account: AccountId,
    parameters: Vec<(&'static str, String)>,
    query: Query,
    body: Bytes,
}

impl Call<'_> {
    /// Refuses a token that may not do this.
    fn need(&self, area: Area, level: Level) -> Result<(), ApiError> {
        if self.principal.may(self.account, area, level) {
            return Ok(());
        }
        Err(ApiError::new(StatusCode::FORBIDDEN, 10000, "Authentication error"))
    }

    /// Refuses a token that may not do what a row of the table does.
    fn allowed(&self, operation: &Operation) -> Result<(), ApiError> {
        match operation.access {
            Access::Anyone => Ok(()),
            Access::Needs(area, level) => self.need(area, level),
        }
    }

    /// Refuses a body that is not what a row of the table takes.
    fn well_formed(&self, operation: &Operation) -> Result<(), ApiError> {
        match &operation.body {
            None => Ok(()),
            Some((family, shape)) => shape.check(&body::value(&self.body, *family)?, *family),
        }
    }

    /// A parameter of the path; empty where its pattern has none of this name.
    fn parameter(&self, name: &str) -> &str {
        self.parameters.iter().find(|(known, _)| *known == name).map_or("", |(_, value)| value)
    }

    /// The body as an object.
    fn fields(&self, family: Family) -> Result<Fields, ApiError> {
        Fields::read(&self.body, family)
    }
}

/// The id of one request, for its answer's headers and the audit record.
#[derive(Debug)]
pub(crate) struct RequestId(Uuid);

impl RequestId {
    pub(crate) fn new() -> Self {
        Self(Uuid::new_v4())
    }

    pub(crate) fn text(&self) -> String {
        self.0.to_string()
    }

    /// Puts it on an answer (contract D, 1.7).
    pub(crate) fn put(&self, node: &str, response: &mut Response<Body>) {
        let ray = format!("{}-{node}", &self.0.simple().to_string()[..16]);
        for (name, value) in [("cf-ray", ray), ("x-request-id", self.text())] {
            if let Ok(value) = HeaderValue::from_str(&value) {
                response.headers_mut().insert(HeaderName::from_static(name), value);
            }
        }
    }
}

/// The client's address, if the listener has left it.
pub(crate) fn client_address(parts: &Parts) -> Option<IpAddr> {
    parts.extensions.get::<SocketAddr>().map(|address| address.ip().to_canonical())
}

/// A request's line, for its audit record: no longer than what people read.
pub(crate) fn raw_call(parts: &Parts) -> RawCall {
    let short = |text: &str| text.chars().filter(|letter| *letter != '\0').take(MAX_RAW_CHARS).collect();
    let agent = parts.headers.get(http::header::USER_AGENT).and_then(|value| value.to_str().ok());
    RawCall {
        method: short(parts.method.as_str()),
        uri: short(parts.uri.path_and_query().map_or("", |path| path.as_str())),
        user_agent: short(agent.unwrap_or_default()),
    }
}

async fn answer(control: &Control, request: Request<Body>) -> Response<Body> {
    let id = RequestId::new();
    let mut allowance = None;
    let outcome = outcome(control, request, &id, &mut allowance).await;
    let (outcome, version) = match outcome {
        Ok((reply, version)) => (Ok(reply), version),
        Err(error) => (Err(error), None),
    };
    let mut response = envelope::response(outcome);
    let version = version.and_then(|version| HeaderValue::from_str(&format!("\"{version}\"")).ok());
    if let Some(version) = version {
        response.headers_mut().insert(http::header::ETAG, version);
    }
    // How far edges have to be to know of everything that was written before this answer (contract D, 19).
    response.headers_mut().insert(GENERATION, control.0.store.generation().into());
    id.put(&control.0.settings.node, &mut response);
    let allowance = allowance
        .unwrap_or(Allowance { remaining: Some(MAX_REQUESTS), reset_seconds: REQUEST_WINDOW.as_secs() });
    for (name, value) in [
        (
            "ratelimit",
            format!("\"default\";r={};t={}", allowance.remaining.unwrap_or(0), allowance.reset_seconds),
        ),
        ("ratelimit-policy", format!("\"default\";q={MAX_REQUESTS};w={}", REQUEST_WINDOW.as_secs())),
    ] {
        if let Ok(value) = HeaderValue::from_str(&value) {
            response.headers_mut().insert(HeaderName::from_static(name), value);
        }
    }
    response
}

async fn outcome(
    control: &Control,
    request: Request<Body>,
    id: &RequestId,
    allowance: &mut Option<Allowance>,
) -> Result<(Reply, Option<String>), ApiError> {
    let (parts, body) = request.into_parts();
    let address = client_address(&parts);
    let mut actor = Actor { who: "unknown".into(), address, request: id.text(), call: raw_call(&parts) };
    let path = parts.uri.path().strip_prefix(BASE).unwrap_or_default();
    let segments = path::segments(path);
    let segments = segments.ok_or_else(|| ApiError::unroutable(parts.uri.path()))?;
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    let verifies =
        matches!(segments.as_slice(), ["user", "tokens", "verify"] | ["accounts", _, "tokens", "verify"]);

    let principal = auth::authenticate(control, &parts.headers, &actor).await.map_err(|error| {
        let unknown =
            verifies && error.status == StatusCode::UNAUTHORIZED && auth::shows_token(&parts.headers);
        if unknown { ApiError { code: 1000, message: "Invalid API Token".into(), ..error } } else { error }
    })?;
    let taken = control.requests().take(principal.token.id, Instant::now());
    *allowance = Some(taken);
    if taken.remaining.is_none() && address.is_some_and(|address| !address.is_loopback()) {
        return Err(ApiError::too_many(taken.reset_seconds));
    }
    if principal.standing != Standing::Active && !verifies {
        let error = ApiError::new(StatusCode::UNAUTHORIZED, 10000, "Authentication error");
        return Err(refused(control, &actor, Some(principal.token.account), error).await);
    }
    actor.who = format!("api_token:{}", principal.token.id);

    let verb = Verb::of(&parts.method).ok_or_else(ApiError::no_route)?;
    let account = account_of(&principal, &segments, parts.uri.path())?;
    let operation = operation::find(verb, &segments).ok_or_else(ApiError::no_route)?;
    let query = Query::parse(parts.uri.query().unwrap_or_default())?;
    let parameters = operation.parameters(&segments);
    let call = Call { control, principal: &principal, actor, account, parameters, query, body: Bytes::new() };
    call.allowed(operation)?;
    let body = if verb == Verb::Get { Bytes::new() } else { collect(&parts, body).await? };
    let call = Call { body, ..call };
    call.well_formed(operation)?;
    if verb == Verb::Get {
        let reply = (operation.run)(&call).await?;
        let version = version::of(&reply);
        return Ok((reply, version));
    }
    match Condition::read(&parts.headers)? {
        Some(condition) => version::change(call, operation, &segments, &condition).await,
        None => Ok(((operation.run)(&call).await?, None)),
    }
}

/// The account that a path is about: the one it names, which the credential has to see, else the credential's own. One
/// that is not there is answered like one that is not seen.
fn account_of(principal: &Principal, segments: &[&str], path: &str) -> Result<AccountId, ApiError> {
    let ["accounts" | "zones", tag, ..] = segments else { return Ok(principal.token.account) };
    let tag: AccountId = tag.parse().map_err(|_| ApiError::unroutable(path))?;
    if principal.sees(tag) {
        return Ok(tag);
    }
    Err(ApiError::new(StatusCode::FORBIDDEN, 9109, "Unauthorized to access requested resource"))
}

/// Reads a body whole.
async fn collect(parts: &Parts, body: Body) -> Result<Bytes, ApiError> {
    collect_limited(parts, body, MAX_BODY_BYTES).await
}

/// Reads a body whole, up to a length and a deadline.
pub(crate) async fn collect_limited(parts: &Parts, body: Body, most: usize) -> Result<Bytes, ApiError> {
    let too_large = || {
        let message = format!("Request body is larger than {most} bytes");
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, 6008, message)
    };
    let announced = parts.headers.get(http::header::CONTENT_LENGTH);
    let announced = announced.and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|length| length > most) {
        return Err(too_large());
    }
    let read = tokio::time::timeout(BODY_DEADLINE, Limited::new(body, most).collect()).await;
    match read {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.downcast_ref::<LengthLimitError>().is_some() => Err(too_large()),
        Ok(Err(_)) => Err(ApiError::new(StatusCode::BAD_REQUEST, 6007, "The request body ended early")),
        Err(_) => {
            Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, 6009, "The request body did not arrive in time"))
        }
    }
}

/// Feeds any bytes to the parsers that see them before or after a request is let in.
#[doc(hidden)]
pub fn fuzz_request(data: &[u8]) {
    if let Ok(fields) = Fields::read(data, Family::Network) {
        let read = fields.name("name", 100);
        assert!(
            read.is_err() || read.is_ok_and(|name| name.is_none_or(|name| !name.contains('\0'))),
            "no NUL"
        );
        if let Some(config) = fields.value("config") {
            ingress::fuzz(config);
        }
        if let Some(page) = fields.value("block_page").filter(|page| block_page::wrong(page).is_none()) {
            let _page = block_page::page(page);
        }
        for key in ["rule_settings", "schedule"] {
            fields.value(key).into_iter().for_each(rule::fuzz);
        }
        fields.value("location").into_iter().for_each(location::fuzz);
        let _read = (fields.secret("tunnel_secret", 32..=1024, ""), fields.time("expires_on"));
    }
    crate::inspection::fuzz(data);
    if let Ok(text) = std::str::from_utf8(data) {
        path::fuzz(text);
        list::item::fuzz(text);
        if let Ok(duration) = text.parse::<GoDuration>() {
            assert_eq!(duration.to_string().parse(), Ok(duration), "a duration reads as it prints");
        }
        if let Ok(hostname) = text.parse::<PublicHostname>() {
            assert_eq!(hostname.as_str().parse(), Ok(hostname), "a host name reads as it prints");
        }
    }
}
