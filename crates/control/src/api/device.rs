//! Devices and registrations (contract D, 11.1 to 11.4): `A/devices`.

use adit_model::{DeviceId, RegistrationId, ServiceTokenId};
use adit_store::{DeviceRow, FindError, RegistrationFilter, RegistrationRow, RegistrationStatus, Window};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::StatusCode;
use serde_json::{Value, json};
use std::str::FromStr;
use time::OffsetDateTime;
use uuid::Uuid;

use super::answer::{Kind, object};
use super::body::{self, Family};
use super::envelope::{ApiError, Reply};
use super::operation::{Operation, Style};
use super::{Call, shape};
use crate::permission::{Area, Level};

const PER_PAGE: u64 = 50;
const MAX_PER_PAGE: u64 = 200;
/// How many ids one request may name (contract D, 11.4).
const MAX_IDS: usize = 200;

pub(super) const OPERATIONS: &[Operation] = &[
    Operation::get("/accounts/{account}/devices", "List registrations as older clients have them", |call| {
        Box::pin(legacy_list(call))
    })
    .needs(Area::ZeroTrust, Level::Read)
    .list(Style::Single, LEGACY_DEVICE, &[]),
    Operation::post(
        "/accounts/{account}/devices/revoke",
        "Revoke registrations or devices by an array of ids",
        |call| Box::pin(legacy_mark(call, Mark::Revoke)),
    )
    .needs(Area::ZeroTrust, Level::Write)
    .ids(),
    Operation::post(
        "/accounts/{account}/devices/unrevoke",
        "Take back revocations by an array of ids",
        |call| Box::pin(legacy_mark(call, Mark::Unrevoke)),
    )
    .needs(Area::ZeroTrust, Level::Write)
    .ids(),
    Operation::get(
        "/accounts/{account}/devices/{id}",
        "Get a registration as older clients have it",
        |call| Box::pin(legacy_fetch(call, call.parameter("id"))),
    )
    .needs(Area::ZeroTrust, Level::Read)
    .answers(LEGACY_DEVICE),
    Operation::get("/accounts/{account}/devices/registrations", "List registrations", |call| {
        Box::pin(registration_list(call))
    })
    .needs(Area::ZeroTrust, Level::Read)
    .list(
        Style::Cursor,
        REGISTRATION,
        &[
            ("id", Kind::Uuid),
            ("device.id", Kind::Uuid),
            ("user.id", Kind::Uuid),
            ("search", Kind::Text),
            ("status", Kind::OneOf(&["active", "all", "revoked"])),
        ],
    ),
    Operation::delete("/accounts/{account}/devices/registrations", "Delete registrations", |call| {
        Box::pin(mark_named(call, Mark::Delete))
    })
    .needs(Area::ZeroTrust, Level::Write)
    .query(&[("id", Kind::Uuid)]),
    Operation::post("/accounts/{account}/devices/registrations/revoke", "Revoke registrations", |call| {
        Box::pin(mark_named(call, Mark::Revoke))
    })
    .needs(Area::ZeroTrust, Level::Write)
    .query(&[("id", Kind::Uuid)]),
    Operation::post("/accounts/{account}/devices/registrations/unrevoke", "Take back revocations", |call| {
        Box::pin(mark_named(call, Mark::Unrevoke))
    })
    .needs(Area::ZeroTrust, Level::Write)
    .query(&[("id", Kind::Uuid)]),
    Operation::get(
        "/accounts/{account}/devices/registrations/{registration}",
        "Get a registration",
        |call| Box::pin(registration_fetch(call, call.parameter("registration"))),
    )
    .needs(Area::ZeroTrust, Level::Read)
    .answers(REGISTRATION),
    Operation::delete(
        "/accounts/{account}/devices/registrations/{registration}",
        "Delete a registration",
        |call| Box::pin(registration_delete(call, call.parameter("registration"))),
    )
    .needs(Area::ZeroTrust, Level::Write),
    Operation::get("/accounts/{account}/devices/physical-devices", "List devices", |call| {
        Box::pin(device_list(call))
    })
    .needs(Area::ZeroTrust, Level::Read)
    .list(Style::Cursor, DEVICE, &[]),
    Operation::get("/accounts/{account}/devices/physical-devices/{device}", "Get a device", |call| {
        Box::pin(device_fetch(call, call.parameter("device")))
    })
    .needs(Area::ZeroTrust, Level::Read)
    .answers(DEVICE),
    Operation::delete("/accounts/{account}/devices/physical-devices/{device}", "Delete a device", |call| {
        Box::pin(device_delete(call, call.parameter("device")))
    })
    .needs(Area::ZeroTrust, Level::Write),
    Operation::post(
        "/accounts/{account}/devices/physical-devices/{device}/revoke",
        "Revoke all registrations of a device",
        |call| Box::pin(device_revoke(call, call.parameter("device"))),
    )
    .needs(Area::ZeroTrust, Level::Write),
];

/// What is done to registrations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    Revoke,
    Unrevoke,
    Delete,
}

async fn mark_named(call: &Call<'_>, what: Mark) -> Result<Reply, ApiError> {
    mark(call, &ids(call)?, what).await
}

async fn registration_delete(call: &Call<'_>, id: &str) -> Result<Reply, ApiError> {
    mark(call, &[parse(id)?], Mark::Delete).await
}

async fn mark(call: &Call<'_>, ids: &[RegistrationId], mark: Mark) -> Result<Reply, ApiError> {
    let store = &call.control.0.store;
    let done = match mark {
        Mark::Revoke => store.registration_revoke(&call.actor, call.account, ids).await,
        Mark::Unrevoke => store.registration_unrevoke(&call.actor, call.account, ids).await,
        Mark::Delete => store.registration_delete(&call.actor, call.account, ids).await,
    };
    done.map_err(missing)?;
    Ok(Reply::One(Value::Null))
}

/// The registrations that a query names: `id` repeated, or with commas.
fn ids(call: &Call<'_>) -> Result<Vec<RegistrationId>, ApiError> {
    let ids = call.query.all("id");
    if ids.is_empty() || ids.len() > MAX_IDS {
        let message = format!("id: expected 1 to {MAX_IDS} registration ids in the query");
        return Err(Family::Device.invalid(&message));
    }
    ids.into_iter().map(parse).collect()
}

/// The legacy form: a JSON array of ids, each of a registration or of a device with all its registrations.
async fn legacy_mark(call: &Call<'_>, what: Mark) -> Result<Reply, ApiError> {
    let wrong = || {
        let message = format!("the body: expected an array of 1 to {MAX_IDS} ids");
        Family::Device.invalid(&message).at("")
    };
    let body = body::value(&call.body, Family::Device)?;
    let listed = body.as_array().filter(|ids| (1..=MAX_IDS).contains(&ids.len())).ok_or_else(wrong)?;
    let mut ids = Vec::with_capacity(listed.len());
    for id in listed {
        let id: Uuid = id.as_str().and_then(|id| Uuid::try_parse(id).ok()).ok_or_else(wrong)?;
        let registration = RegistrationId::from_uuid(id);
        match call.control.0.store.registration_fetch(call.account, registration).await {
            Ok(_) => ids.push(registration),
            Err(FindError::NotFound) => ids.extend(of_device(call, DeviceId::from_uuid(id)).await?),
            Err(FindError::Fault(fault)) => return Err(fault.into()),
        }
    }
    mark(call, &ids, what).await
}

/// The registrations of a device; an unknown device is an error.
async fn of_device(call: &Call<'_>, device: DeviceId) -> Result<Vec<RegistrationId>, ApiError> {
    let store = &call.control.0.store;
    store.device_fetch(call.account, device).await.map_err(missing)?;
    let filter = RegistrationFilter { devices: vec![device], ..RegistrationFilter::default() };
    let page = store.registration_list(call.account, &filter, Window::ALL).await?;
    Ok(page.rows.iter().map(|row| row.id).collect())
}

async fn registration_list(call: &Call<'_>) -> Result<Reply, ApiError> {
    let query = &call.query;
    let paging = query.paging(PER_PAGE, MAX_PER_PAGE)?;
    let filter = RegistrationFilter {
        ids: query.parsed_all("id")?,
        devices: query.parsed_all("device.id")?,
        service_token: query.parsed("user.id")?,
        search: query.text("search").map(str::to_owned),
        status: match query.text("status") {
            None | Some("all") => RegistrationStatus::All,
            Some("active") => RegistrationStatus::Active,
            Some("revoked") => RegistrationStatus::Revoked,
            Some(_) => return Err(Family::Device.invalid("status: expected active, all or revoked")),
        },
        after: query.text("cursor").map(cursor).transpose()?,
    };
    let window = Window { offset: 0, limit: paging.per_page() };
    let page = call.control.0.store.registration_list(call.account, &filter, window).await?;
    let rows: Vec<Value> = page.rows.iter().map(registration_object).collect();
    let full = rows.len() as u64 == paging.per_page();
    let next = page.rows.last().filter(|_| full).map(|row| cursor_text(row.created_at, row.id.uuid()));
    let info = cursor_info(rows.len(), paging.per_page(), page.total, next.as_deref());
    Ok(Reply::Many { rows, info })
}

async fn registration_fetch(call: &Call<'_>, id: &str) -> Result<Reply, ApiError> {
    let row = call.control.0.store.registration_fetch(call.account, parse(id)?).await.map_err(missing)?;
    Ok(Reply::One(registration_object(&row)))
}

async fn device_list(call: &Call<'_>) -> Result<Reply, ApiError> {
    let paging = call.query.paging(PER_PAGE, MAX_PER_PAGE)?;
    let after = call.query.text("cursor").map(cursor).transpose()?;
    let window = Window { offset: 0, limit: paging.per_page() };
    let page = call.control.0.store.device_list(call.account, after, window).await?;
    let rows: Vec<Value> = page.rows.iter().map(device_object).collect();
    let full = rows.len() as u64 == paging.per_page();
    let next = page.rows.last().filter(|_| full).map(|row| cursor_text(row.created_at, row.id.uuid()));
    let info = cursor_info(rows.len(), paging.per_page(), page.total, next.as_deref());
    Ok(Reply::Many { rows, info })
}

async fn device_fetch(call: &Call<'_>, id: &str) -> Result<Reply, ApiError> {
    let row = call.control.0.store.device_fetch(call.account, parse(id)?).await.map_err(missing)?;
    Ok(Reply::One(device_object(&row)))
}

async fn device_delete(call: &Call<'_>, id: &str) -> Result<Reply, ApiError> {
    let done = call.control.0.store.device_delete(&call.actor, call.account, parse(id)?).await;
    done.map_err(missing)?;
    Ok(Reply::One(Value::Null))
}

async fn device_revoke(call: &Call<'_>, id: &str) -> Result<Reply, ApiError> {
    let ids = of_device(call, parse(id)?).await?;
    mark(call, &ids, Mark::Revoke).await
}

async fn legacy_list(call: &Call<'_>) -> Result<Reply, ApiError> {
    let filter = RegistrationFilter::default();
    let page = call.control.0.store.registration_list(call.account, &filter, Window::ALL).await?;
    Ok(Reply::single(page.rows.iter().map(legacy_object).collect()))
}

async fn legacy_fetch(call: &Call<'_>, id: &str) -> Result<Reply, ApiError> {
    let row = call.control.0.store.registration_fetch(call.account, parse(id)?).await.map_err(missing)?;
    Ok(Reply::One(legacy_object(&row)))
}

/// Where the next page begins: the last row's time in microseconds and its id.
fn cursor_text(at: OffsetDateTime, id: Uuid) -> String {
    let micros = at.unix_timestamp_nanos() / 1000;
    URL_SAFE_NO_PAD.encode(format!("{micros}:{id}"))
}

fn cursor<T: FromStr>(text: &str) -> Result<(OffsetDateTime, T), ApiError> {
    let read = || {
        let text = String::from_utf8(URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
        let (micros, id) = text.split_once(':')?;
        let nanoseconds = i128::from(micros.parse::<i64>().ok()?) * 1000;
        Some((OffsetDateTime::from_unix_timestamp_nanos(nanoseconds).ok()?, id.parse().ok()?))
    };
    read().ok_or_else(|| Family::Device.invalid("cursor: expected the cursor of an earlier page"))
}

fn cursor_info(count: usize, per_page: u64, total: u64, next: Option<&str>) -> Value {
    json!({ "count": count, "per_page": per_page, "total_count": total, "cursor": next })
}

object! {
    USER_FIELDS = user_object(id: Option<ServiceTokenId>, email: &str) [
        "id": Kind::Maybe(&Kind::Uuid) => id,
        "email": Kind::Text => email,
        "name": Kind::Null => Value::Null,
    ]
}

object! {
    DEVICE_OF_FIELDS = device_of(row: &RegistrationRow) [
        "id": Kind::Uuid => row.device,
        "name": Kind::Text => row.device_name,
        "client_version": TOLD => row.client_version,
    ]
}

object! {
    REGISTRATION_FIELDS = registration_object(row: &RegistrationRow) [
        "id": Kind::Uuid => row.id,
        "created_at": Kind::Time => shape::time(row.created_at),
        "updated_at": Kind::Time => shape::time(row.updated_at),
        "last_seen_at": Kind::Time => shape::time(row.last_seen_at),
        "key": Kind::Text => row.public_key,
        "key_type": Kind::OneOf(&["secp256r1"]) => "secp256r1",
        "tunnel_type": Kind::Null => Value::Null,
        "registration_type": Kind::OneOf(&["warp"]) => "warp",
        "device": Kind::Object("RegistrationDevice", DEVICE_OF_FIELDS, &[]) => device_of(row),
        "user": USER => user_object(row.service_token, &row.user),
        "policy": Kind::Null => Value::Null,
        "revoked_at": Kind::Maybe(&Kind::Time) => shape::maybe_time(row.revoked_at),
        "deleted_at": Kind::Null => Value::Null,
        "virtual_ipv4": Kind::Null => Value::Null,
        "virtual_ipv6": Kind::Null => Value::Null,
    ]
}

object! {
    DEVICE_FIELDS = device_object(row: &DeviceRow) [
        "id": Kind::Uuid => row.id,
        "name": Kind::Text => row.name,
        "created_at": Kind::Time => shape::time(row.created_at),
        "updated_at": Kind::Time => shape::time(row.updated_at),
        "last_seen_at": Kind::Time => shape::time(row.last_seen_at),
        "active_registrations": Kind::Number => row.active_registrations,
        "tags": Kind::Map(&Kind::Text) => serde_json::Map::new(),
        "device_type": TOLD => row.device_type,
        "os_version": TOLD => row.os_version,
        "client_version": TOLD => row.client_version,
        "serial_number": Kind::Null => Value::Null,
        "hardware_id": Kind::Null => Value::Null,
        "model": Kind::Null => Value::Null,
        "manufacturer": Kind::Null => Value::Null,
        "mac_address": Kind::Null => Value::Null,
        "public_ip": Kind::Maybe(&Kind::Text) => row.public_ip,
        "deleted_at": Kind::Null => Value::Null,
        "last_seen_user": Kind::Maybe(&USER) => row.last_seen_user.as_ref().map(|user| user_object(None, user)),
        "last_seen_registration": Kind::Null => Value::Null,
    ]
}

object! {
    /// A registration as the legacy list shows it: one device each.
    LEGACY_FIELDS = legacy_object(row: &RegistrationRow) [
        "id": Kind::Uuid => row.id,
        "name": Kind::Text => row.device_name,
        "device_type": TOLD => row.device_type,
        "version": TOLD => row.client_version,
        "os_version": TOLD => row.os_version,
        "os_version_extra": Kind::Null => Value::Null,
        "os_distro_name": Kind::Null => Value::Null,
        "os_distro_revision": Kind::Null => Value::Null,
        "model": Kind::Null => Value::Null,
        "manufacturer": Kind::Null => Value::Null,
        "mac_address": Kind::Null => Value::Null,
        "serial_number": Kind::Null => Value::Null,
        "ip": Kind::Maybe(&Kind::Text) => row.public_ip,
        "key": Kind::Text => row.public_key,
        "created": Kind::Time => shape::time(row.created_at),
        "updated": Kind::Time => shape::time(row.updated_at),
        "last_seen": Kind::Time => shape::time(row.last_seen_at),
        "deleted": Kind::Flag => false,
        "revoked_at": Kind::Maybe(&Kind::Time) => shape::maybe_time(row.revoked_at),
        "user": USER => user_object(row.service_token, &row.user),
    ]
}

/// What a device has told of itself.
const TOLD: Kind = Kind::Text;
const USER: Kind = Kind::Object("DeviceUser", USER_FIELDS, &[]);
const REGISTRATION: Kind = Kind::Object("Registration", REGISTRATION_FIELDS, &[]);
const DEVICE: Kind = Kind::Object("Device", DEVICE_FIELDS, &[]);
const LEGACY_DEVICE: Kind = Kind::Object("LegacyDevice", LEGACY_FIELDS, &[]);

fn parse<T: FromStr>(id: &str) -> Result<T, ApiError> {
    id.parse().map_err(|_| not_found())
}

fn not_found() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, 1100, "Device or registration not found")
}

pub(super) fn missing(error: FindError) -> ApiError {
    match error {
        FindError::NotFound => not_found(),
        FindError::Fault(fault) => fault.into(),
    }
}
