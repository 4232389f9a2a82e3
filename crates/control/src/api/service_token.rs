//! Service tokens (contract D, 10.9): `A/access/service_tokens`. The secret is shown when it is made, never after.

use adit_model::{GoDuration, SecretHash, ServiceTokenId};
use adit_store::{FindError, NewServiceToken, ServiceTokenEdit, ServiceTokenRow};
use http::StatusCode;
use serde_json::Value;
use time::OffsetDateTime;

use super::answer::{Kind, object};
use super::body::{Family, Fields};
use super::body_shape::{Field, Shape};
use super::envelope::{ApiError, Reply};
use super::operation::{Operation, Style};
use super::{Call, shape};
use crate::install::random;
use crate::permission::{Area, Level};

/// Longest name, in characters.
const MAX_NAME: usize = 256;
const PER_PAGE: u64 = 50;
const MAX_PER_PAGE: u64 = 1000;
/// A year, as the contract's default writes it.
const DEFAULT_DURATION: &str = "8760h";
/// The duration that never ends.
const FOREVER: &str = "forever";

const CREATE: &[Field] = &[
    Field::required("name", "1 to 256 printable characters", Shape::Name(MAX_NAME)),
    Field::optional("duration", Shape::Text),
    Field::optional("client_secret_version", Shape::Count),
    Field::optional("enabled", Shape::Flag),
];

const CHANGE: &[Field] = &[
    Field::optional("name", Shape::Name(MAX_NAME)),
    Field::optional("duration", Shape::Text),
    Field::optional("client_secret_version", Shape::Count),
    Field::optional("previous_client_secret_expires_at", Shape::Time),
    Field::optional("enabled", Shape::Flag),
];

const ROTATE: &[Field] = &[Field::optional("previous_client_secret_expires_at", Shape::Time)];

pub(super) const OPERATIONS: &[Operation] = &[
    Operation::post("/accounts/{account}/access/service_tokens", "Create a service token", |call| {
        Box::pin(create(call))
    })
    .needs(Area::ServiceTokens, Level::Write)
    .body(Family::Access, CREATE)
    .answers(WITH_SECRET),
    Operation::get("/accounts/{account}/access/service_tokens", "List service tokens", |call| {
        Box::pin(list(call))
    })
    .needs(Area::ServiceTokens, Level::Read)
    .list(Style::Page, SERVICE_TOKEN, &[("name", Kind::Text)]),
    Operation::get(
        "/accounts/{account}/access/service_tokens/{service_token}",
        "Get a service token",
        |call| Box::pin(fetch(call, call.parameter("service_token"))),
    )
    .needs(Area::ServiceTokens, Level::Read)
    .answers(SERVICE_TOKEN),
    Operation::put(
        "/accounts/{account}/access/service_tokens/{service_token}",
        "Change a service token",
        |call| Box::pin(update(call, call.parameter("service_token"))),
    )
    .needs(Area::ServiceTokens, Level::Write)
    .body(Family::Access, CHANGE)
    .answers(CHANGED),
    Operation::delete(
        "/accounts/{account}/access/service_tokens/{service_token}",
        "Delete a service token",
        |call| Box::pin(delete(call, call.parameter("service_token"))),
    )
    .needs(Area::ServiceTokens, Level::Write)
    .answers(SERVICE_TOKEN),
    Operation::post("/zones/{zone}/access/service_tokens", "Create a service token", |call| {
        Box::pin(create(call))
    })
    .needs(Area::ServiceTokens, Level::Write)
    .body(Family::Access, CREATE)
    .answers(WITH_SECRET),
    Operation::get("/zones/{zone}/access/service_tokens", "List service tokens", |call| Box::pin(list(call)))
        .needs(Area::ServiceTokens, Level::Read)
        .list(Style::Page, SERVICE_TOKEN, &[("name", Kind::Text)]),
    Operation::get("/zones/{zone}/access/service_tokens/{service_token}", "Get a service token", |call| {
        Box::pin(fetch(call, call.parameter("service_token")))
    })
    .needs(Area::ServiceTokens, Level::Read)
    .answers(SERVICE_TOKEN),
    Operation::put("/zones/{zone}/access/service_tokens/{service_token}", "Change a service token", |call| {
        Box::pin(update(call, call.parameter("service_token")))
    })
    .needs(Area::ServiceTokens, Level::Write)
    .body(Family::Access, CHANGE)
    .answers(CHANGED),
    Operation::delete(
        "/zones/{zone}/access/service_tokens/{service_token}",
        "Delete a service token",
        |call| Box::pin(delete(call, call.parameter("service_token"))),
    )
    .needs(Area::ServiceTokens, Level::Write)
    .answers(SERVICE_TOKEN),
    Operation::post(
        "/accounts/{account}/access/service_tokens/{service_token}/rotate",
        "Make a new secret for a service token",
        |call| Box::pin(rotate(call, call.parameter("service_token"))),
    )
    .needs(Area::ServiceTokens, Level::Write)
    .body(Family::Access, ROTATE)
    .answers(WITH_SECRET),
    Operation::post(
        "/accounts/{account}/access/service_tokens/{service_token}/refresh",
        "Make a service token good for its duration again",
        |call| Box::pin(refresh(call, call.parameter("service_token"))),
    )
    .needs(Area::ServiceTokens, Level::Write)
    .answers(SERVICE_TOKEN),
];

async fn create(call: &Call<'_>) -> Result<Reply, ApiError> {
    let fields = call.fields(Family::Access)?;
    let name = fields.required("name", "1 to 256 printable characters", fields.name("name", MAX_NAME)?)?;
    let (duration, expires_at) = match duration(&fields)? {
        Some(duration) => duration,
        None => expiry(DEFAULT_DURATION).ok_or_else(|| fields.wrong("duration", "a duration"))?,
    };
    let (secret, secret_hash) = new_secret()?;
    let new = NewServiceToken {
        name,
        client_id: format!("{}.access", hex(&random::<16>().ok_or_else(no_random)?)),
        secret_hash,
        secret_version: fields.count("client_secret_version")?.unwrap_or(1),
        duration,
        enabled: fields.flag("enabled")?.unwrap_or(true),
        expires_at,
    };
    let made = call.control.0.store.service_token_create(&call.actor, call.account, new).await?;
    Ok(Reply::One(with_secret(object(&made.value), secret)))
}

async fn list(call: &Call<'_>) -> Result<Reply, ApiError> {
    let paging = call.query.paging(PER_PAGE, MAX_PER_PAGE)?;
    let name = call.query.text("name");
    let page = call.control.0.store.service_token_list(call.account, name, paging.window()).await?;
    let rows: Vec<Value> = page.rows.iter().map(object).collect();
    let info = paging.info(rows.len(), page.total);
    Ok(Reply::Many { rows, info })
}

async fn fetch(call: &Call<'_>, id: &str) -> Result<Reply, ApiError> {
    let row = call.control.0.store.service_token_fetch(call.account, parse(id)?).await.map_err(missing)?;
    Ok(Reply::One(object(&row)))
}

/// Changes fields; a higher `client_secret_version` makes a new secret too.
async fn update(call: &Call<'_>, id: &str) -> Result<Reply, ApiError> {
    let id = parse(id)?;
    let fields = call.fields(Family::Access)?;
    let store = &call.control.0.store;
    let old = store.service_token_fetch(call.account, id).await.map_err(missing)?;
    let version = fields.count("client_secret_version")?.unwrap_or(old.secret_version);
    if version < old.secret_version {
        let expected = format!("{} or more", old.secret_version);
        return Err(fields.wrong("client_secret_version", &expected));
    }
    let fresh = if version > old.secret_version { Some(new_secret()?) } else { None };
    let previous_until = fields.time("previous_client_secret_expires_at")?;
    let edit = ServiceTokenEdit {
        name: fields.name("name", MAX_NAME)?,
        // The same text again does not make it good for longer: `refresh` does.
        duration: duration(&fields)?.filter(|(text, _)| *text != old.duration),
        enabled: fields.flag("enabled")?,
        secret: fresh.as_ref().map(|(_, hash)| (*hash, previous_until)),
        secret_version: Some(version),
    };
    let done = store.service_token_update(&call.actor, call.account, id, edit).await.map_err(missing)?;
    let object = object(&done.value);
    Ok(Reply::One(match fresh {
        Some((secret, _)) => with_secret(object, secret),
        None => object,
    }))
}

async fn rotate(call: &Call<'_>, id: &str) -> Result<Reply, ApiError> {
    let id = parse(id)?;
    let fields = call.fields(Family::Access)?;
    let (secret, hash) = new_secret()?;
    let previous_until = fields.time("previous_client_secret_expires_at")?;
    let edit = ServiceTokenEdit { secret: Some((hash, previous_until)), ..ServiceTokenEdit::default() };
    let done = call.control.0.store.service_token_update(&call.actor, call.account, id, edit).await;
    Ok(Reply::One(with_secret(object(&done.map_err(missing)?.value), secret)))
}

/// Makes a token good for its duration from now on.
async fn refresh(call: &Call<'_>, id: &str) -> Result<Reply, ApiError> {
    let id = parse(id)?;
    let store = &call.control.0.store;
    let old = store.service_token_fetch(call.account, id).await.map_err(missing)?;
    let edit = ServiceTokenEdit { duration: expiry(&old.duration), ..ServiceTokenEdit::default() };
    let done = store.service_token_update(&call.actor, call.account, id, edit).await;
    Ok(Reply::One(object(&done.map_err(missing)?.value)))
}

async fn delete(call: &Call<'_>, id: &str) -> Result<Reply, ApiError> {
    let done = call.control.0.store.service_token_delete(&call.actor, call.account, parse(id)?).await;
    Ok(Reply::One(object(&done.map_err(missing)?.value)))
}

/// The duration as it was written, and until when it then lasts.
fn duration(fields: &Fields) -> Result<Option<(String, Option<OffsetDateTime>)>, ApiError> {
    let Some(text) = fields.text("duration")? else { return Ok(None) };
    let expected = "a duration such as \"8760h\", or \"forever\"";
    expiry(text).map(Some).ok_or_else(|| fields.wrong("duration", expected))
}

fn expiry(text: &str) -> Option<(String, Option<OffsetDateTime>)> {
    if text == FOREVER {
        return Some((text.to_owned(), None));
    }
    let duration = text.parse::<GoDuration>().ok()?.get();
    let until = OffsetDateTime::now_utc().checked_add(duration.try_into().ok()?)?;
    Some((text.to_owned(), Some(until)))
}

/// A new secret and its hash: 32 random bytes in hexadecimal.
fn new_secret() -> Result<(String, SecretHash), ApiError> {
    let secret = hex(&random::<32>().ok_or_else(no_random)?);
    let hash = SecretHash::of(secret.as_bytes());
    Ok((secret, hash))
}

fn no_random() -> ApiError {
    ApiError::internal(&aws_lc_rs::error::Unspecified)
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}

fn with_secret(mut object: Value, secret: String) -> Value {
    object["client_secret"] = secret.into();
    object
}

object! {
    FIELDS = object(token: &ServiceTokenRow) [
        "id": Kind::Uuid => token.id,
        "name": Kind::Text => token.name,
        "client_id": Kind::Text => token.client_id,
        "client_secret_version": Kind::Number => token.secret_version,
        "previous_client_secret_expires_at": Kind::Maybe(&Kind::Time) =>
            shape::maybe_time(token.previous.map(|(_, until)| until)),
        "duration": Kind::Text => token.duration,
        "enabled": Kind::Flag => token.enabled,
        "expires_at": Kind::Maybe(&Kind::Time) => shape::maybe_time(token.expires_at),
        "created_at": Kind::Time => shape::time(token.created_at),
        "updated_at": Kind::Time => shape::time(token.updated_at),
    ]
}

const SERVICE_TOKEN: Kind = Kind::Object("ServiceToken", FIELDS, &[]);
const WITH_SECRET: Kind = Kind::Object("ServiceTokenWithSecret", FIELDS, &[("client_secret", Kind::Text)]);
/// The secret is there if a new one was made.
const CHANGED: Kind =
    Kind::Object("ServiceTokenChanged", FIELDS, &[("client_secret", Kind::Sometimes(&Kind::Text))]);

fn parse(id: &str) -> Result<ServiceTokenId, ApiError> {
    id.parse().map_err(|_| not_found())
}

fn not_found() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, 12021, "access.api.error.unknown_service_token")
}

fn missing(error: FindError) -> ApiError {
    match error {
        FindError::NotFound => not_found(),
        FindError::Fault(fault) => fault.into(),
    }
}
