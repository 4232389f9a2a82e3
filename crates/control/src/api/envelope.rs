//! What every answer looks like (contract D, 2): `success`, `errors`, `messages` and `result`, always all four.

use std::error::Error;

use adit_store::Fault;
use axum::body::Body;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use serde::Serialize;
use serde_json::Value;
use tracing::error;

/// Tells typed clients whether to send a failed request again (contract D, 4).
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// What a request brought about.
#[derive(Debug)]
pub(crate) enum Reply {
    /// One object, a text or `null`.
    One(Value),
    /// A list with its `result_info`.
    Many {
        /// The rows of this page.
        rows: Vec<Value>,
        /// Which page it is.
        info: Value,
    },
    /// A document that is no envelope: the API's own description.
    Document(Value),
}

impl Reply {
    /// A list that has one page only (contract D, 4, style "single").
    pub(crate) fn single(rows: Vec<Value>) -> Self {
        let count = rows.len();
        let info = serde_json::json!({
            "page": 1, "per_page": count, "count": count, "total_count": count,
            "total_pages": u8::from(count > 0),
        });
        Self::Many { rows, info }
    }
}

/// A request that failed, as its sender is told.
#[derive(Debug)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    pub(crate) code: u32,
    pub(crate) message: String,
    pub(crate) pointer: Option<String>,
    pub(crate) chain: Vec<(u32, &'static str)>,
    pub(crate) retry_after_seconds: Option<u64>,
    /// What else is wrong with the same request.
    pub(crate) also: Vec<ApiError>,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, code: u32, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
            pointer: None,
            chain: Vec::new(),
            retry_after_seconds: None,
            also: Vec::new(),
        }
    }

    /// The same, pointing into the request's body.
    pub(crate) fn at(self, pointer: impl Into<String>) -> Self {
        Self { pointer: Some(pointer.into()), ..self }
    }

    /// An unknown path or method (contract D, 3.2: 405 is not used).
    pub(crate) fn no_route() -> Self {
        Self::new(StatusCode::NOT_FOUND, 7003, "No route for that URI")
    }

    /// A part of the path that cannot be what stands there.
    pub(crate) fn unroutable(path: &str) -> Self {
        let path: String = path.chars().take(256).collect();
        let message = format!("Could not route to {path}, perhaps your object identifier is invalid?");
        Self::new(StatusCode::BAD_REQUEST, 7003, message)
    }

    /// Too many requests or refused credentials.
    pub(crate) fn too_many(retry_after_seconds: u64) -> Self {
        let message = "Please wait and consider throttling your request speed";
        let error = Self::new(StatusCode::TOO_MANY_REQUESTS, 971, message);
        Self { retry_after_seconds: Some(retry_after_seconds.max(1)), ..error }
    }

    /// Our own failure: the client learns that it was, the log learns why.
    pub(crate) fn internal(cause: &(dyn Error + 'static)) -> Self {
        error!(error = cause, "a request failed");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, 1001, "Internal error")
    }
}

impl From<Fault> for ApiError {
    fn from(fault: Fault) -> Self {
        let error = Self::internal(&fault);
        match fault {
            // Nothing of the request was done, and it may be sent again as it is.
            Fault::Unavailable(_) => Self {
                status: StatusCode::SERVICE_UNAVAILABLE,
                message: "The database cannot be reached at the moment. Please try again".into(),
                retry_after_seconds: Some(DATABASE_RETRY_SECONDS),
                ..error
            },
            Fault::Full(_) => Self {
                status: StatusCode::SERVICE_UNAVAILABLE,
                message: "The disk of the database is full: nothing was stored. Please try again when there is room"
                    .into(),
                retry_after_seconds: Some(FULL_RETRY_SECONDS),
                ..error
            },
            Fault::Database(_) | Fault::Damaged { .. } | Fault::Ended => error,
        }
    }
}

/// When to ask again while the database is away, and while its disk is full.
const DATABASE_RETRY_SECONDS: u64 = 2;
const FULL_RETRY_SECONDS: u64 = 30;

#[derive(Serialize)]
struct Envelope<'a> {
    success: bool,
    errors: &'a [Failure<'a>],
    /// Always empty: the connector reads it as texts, other clients as objects (contract D, 2.3).
    messages: [(); 0],
    result: &'a Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    result_info: Option<&'a Value>,
}

#[derive(Serialize)]
struct Failure<'a> {
    code: u32,
    message: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    error_chain: Vec<Link<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<Source<'a>>,
}

impl<'a> Failure<'a> {
    fn of(error: &'a ApiError) -> Self {
        Self {
            code: error.code,
            message: &error.message,
            error_chain: error.chain.iter().map(|(code, message)| Link { code: *code, message }).collect(),
            source: error.pointer.as_deref().map(|pointer| Source { pointer }),
        }
    }
}

#[derive(Serialize)]
struct Link<'a> {
    code: u32,
    message: &'a str,
}

#[derive(Serialize)]
struct Source<'a> {
    pointer: &'a str,
}

/// The answer as HTTP: 200 for every success (contract D, 1.6), and exactly `application/json` (1.5).
pub(crate) fn response(outcome: Result<Reply, ApiError>) -> Response<Body> {
    match outcome {
        Ok(Reply::One(result)) => success(&result, None),
        Ok(Reply::Many { rows, info }) => success(&Value::Array(rows), Some(&info)),
        Ok(Reply::Document(document)) => json(StatusCode::OK, &document),
        Err(error) => failure(&error),
    }
}

fn success(result: &Value, result_info: Option<&Value>) -> Response<Body> {
    json(StatusCode::OK, &Envelope { success: true, errors: &[], messages: [], result, result_info })
}

fn failure(error: &ApiError) -> Response<Body> {
    let failures: Vec<Failure<'_>> = std::iter::once(error).chain(&error.also).map(Failure::of).collect();
    let envelope =
        Envelope { success: false, errors: &failures, messages: [], result: &Value::Null, result_info: None };
    let mut response = json(error.status, &envelope);
    let headers = response.headers_mut();
    let again = matches!(error.status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS);
    if error.status.is_client_error() && !again {
        headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
    }
    if let Some(seconds) = error.retry_after_seconds {
        headers.insert(RETRY_AFTER, seconds.into());
    }
    response
}

fn json(status: StatusCode, value: &impl Serialize) -> Response<Body> {
    let body = serde_json::to_vec(value).expect("an envelope has text keys only");
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
