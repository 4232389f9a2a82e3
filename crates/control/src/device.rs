//! Enrolment (design, section 4): binds the key that a device proved in TLS to the service token that it shows.
//!
//! The listener leaves the key as `adit_model::PresentedKey` and the client's `std::net::SocketAddr` in the request's
//! extensions. A fresh install has one enrolment rule, and it is this one: the account's service tokens may enrol.

use adit_model::{AccountId, PresentedKey, SecretHash};
use adit_store::{Actor, EnrollError, NewRegistration, ServiceTokenRow};
use adit_wire::device::{
    CLIENT_ID_HEADER, CLIENT_SECRET_HEADER, ENROLL_PATH, EnrollReply, EnrollRequest, MAX_ENROLL_BYTES,
};
use axum::Router;
use axum::body::Body;
use axum::routing::post;
use http::request::Parts;
use http::{HeaderMap, Request, Response, StatusCode};
use time::OffsetDateTime;

use crate::Control;
use crate::api::envelope::{self, ApiError, Reply};
use crate::api::{BodyFields, RequestId, client_address, collect_limited, raw_call, refused};

/// Longest name of a device, in characters.
const MAX_NAME: usize = 256;
/// Longest of the other texts, in characters.
const MAX_TEXT: usize = 128;

/// Enrolment, to be served to clients that speak the device protocol.
pub fn router(control: Control) -> Router {
    let serve = post(move |request: Request<Body>| {
        let control = control.clone();
        async move { answer(&control, request).await }
    });
    Router::new().route(ENROLL_PATH, serve)
}

async fn answer(control: &Control, request: Request<Body>) -> Response<Body> {
    let id = RequestId::new();
    let outcome = enroll(control, request, &id).await;
    let mut response = match outcome {
        Ok(reply) => plain(&reply),
        Err(error) => envelope::response(Err::<Reply, _>(error)),
    };
    id.put(&control.0.settings.node, &mut response);
    response
}

fn plain(reply: &EnrollReply) -> Response<Body> {
    let body = serde_json::to_vec(reply).expect("a reply has text keys only");
    let mut response = Response::new(Body::from(body));
    let json = http::HeaderValue::from_static("application/json");
    response.headers_mut().insert(http::header::CONTENT_TYPE, json);
    response
}

async fn enroll(control: &Control, request: Request<Body>, id: &RequestId) -> Result<EnrollReply, ApiError> {
    let (parts, body) = request.into_parts();
    let address = client_address(&parts);
    let mut actor = Actor { who: "unknown".into(), address, request: id.text(), call: raw_call(&parts) };
    let token = match service_token(control, &parts.headers).await? {
        Ok(token) => token,
        Err((account, why)) => {
            let error =
                ApiError::new(StatusCode::UNAUTHORIZED, 10000, format!("Authentication error: {why}"));
            return Err(refused(control, &actor, account, error).await);
        }
    };
    actor.who = format!("service_token:{}", token.id);
    let key = presented(&parts)?;
    let wanted = read(&collect_limited(&parts, body, MAX_ENROLL_BYTES).await?)?;
    let new = NewRegistration {
        public_key_der: key.public_key_der.clone(),
        device_name: wanted.name,
        device_type: wanted.device_type,
        os_version: wanted.os_version,
        client_version: wanted.client_version,
        public_ip: address,
        user: format!("non_identity@{}", token.account),
        service_token: token.id,
    };
    let made = control.0.store.registration_create(&actor, token.account, new).await.map_err(enroll_error)?;
    let row = made.value;
    Ok(EnrollReply { registration_id: row.id, device_id: row.device, user: row.user })
}

/// The key of the TLS client.
fn presented(parts: &Parts) -> Result<&PresentedKey, ApiError> {
    parts.extensions.get::<PresentedKey>().ok_or_else(|| {
        let message = "Enrolment needs a device key: connect with a client key in TLS";
        ApiError::new(StatusCode::BAD_REQUEST, 1102, message)
    })
}

/// Whose service token was refused, if it is anyone's, and why.
type RefusedToken = (Option<AccountId>, &'static str);

/// The service token of the request, or why it is refused.
async fn service_token(
    control: &Control,
    headers: &HeaderMap,
) -> Result<Result<ServiceTokenRow, RefusedToken>, ApiError> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let Some((client_id, secret)) = text(CLIENT_ID_HEADER).zip(text(CLIENT_SECRET_HEADER)) else {
        return Ok(Err((None, "send a service token as Cf-Access-Client-Id and Cf-Access-Client-Secret")));
    };
    let now = OffsetDateTime::now_utc();
    let found = control.0.store.service_token_by_client_id(client_id).await?;
    let Some(token) = found else {
        // As much work as for a token that exists.
        let _work = SecretHash::of(secret.as_bytes());
        return Ok(Err((None, "the service token's id or secret is wrong")));
    };
    let refused = |why| Err((Some(token.account), why));
    Ok(if !token.has_secret(secret.as_bytes(), now) {
        refused("the service token's id or secret is wrong")
    } else if !token.enabled {
        refused("the service token is switched off")
    } else if !token.is_good(now) {
        refused("the service token has expired")
    } else {
        Ok(token)
    })
}

/// The body, field by field, so that an error names the one that is wrong.
fn read(body: &[u8]) -> Result<EnrollRequest, ApiError> {
    let fields = BodyFields::device(body)?;
    let name = fields.name("name", MAX_NAME)?;
    let kind = fields.name("device_type", MAX_TEXT)?;
    Ok(EnrollRequest {
        name: fields.required("name", "1 to 256 printable characters", name)?,
        device_type: fields.required("device_type", "linux, mac or windows", kind)?,
        os_version: fields.comment("os_version", MAX_TEXT)?.unwrap_or_default(),
        client_version: fields.comment("client_version", MAX_TEXT)?.unwrap_or_default(),
    })
}

fn enroll_error(error: EnrollError) -> ApiError {
    match error {
        EnrollError::KeyTaken => {
            let message = "This device key is registered already: go on with that registration, or delete it \
                           (A/devices/registrations) or enrol with a new state directory";
            ApiError::new(StatusCode::CONFLICT, 1101, message)
        }
        EnrollError::KeyRevoked => {
            let message = "This device key's registration is revoked: an administrator can unrevoke it, or the device \
                           can enrol with a new state directory";
            ApiError::new(StatusCode::FORBIDDEN, 1101, message)
        }
        EnrollError::ServiceTokenRefused => ApiError::new(
            StatusCode::UNAUTHORIZED,
            10000,
            "Authentication error: the service token has ended",
        ),
        EnrollError::Fault(fault) => fault.into(),
    }
}
