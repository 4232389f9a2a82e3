//! Authorities by which an account's own origins are trusted where TLS is opened (Gateway semantics, 3.2; not of the
//! published API): `A/x/gateway/origin_roots`.
//!
//! What holds: each certificate is an authority's; one that is limited to virtual networks and to names counts only where
//! both are so. They are used for nothing but to verify origins.

use adit_model::{OriginRootId, PublicHostname, VirtualNetworkId};
use adit_store::{FindError, MAX_ORIGIN_ROOTS, OriginRootContent, OriginRootError, OriginRootRow};
use http::StatusCode;
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::answer::{EMPTY, Kind, object};
use super::body::{Family, Fields};
use super::body_shape::{Field, Shape};
use super::envelope::{ApiError, Reply};
use super::operation::{Operation, Style};
use super::{Call, shape};
use crate::inspection::{describe_all, pem_of};
use crate::permission::{Area, Level};

/// Longest name, in characters.
const MAX_NAME: usize = 256;
/// Longest text of certificates, in characters, and how many may be in it.
const MAX_PEM: usize = 64 << 10;
const MAX_CERTIFICATES: usize = 16;
/// Virtual networks, and names, that one may be limited to.
const MAX_SCOPES: usize = 100;
/// Longest name of a host (RFC 1035, section 2.3.4).
const MAX_HOST: usize = 253;

const NAME: &str = "1 to 256 printable characters";
const CERTIFICATE: &str = "1 to 16 certificates of authorities as PEM";
const NETWORKS: &str = "an array of up to 100 ids of virtual networks";
const SUFFIXES: &str = "an array of up to 100 host names";

const BODY: &[Field] = &[
    Field::required("name", NAME, Shape::Name(MAX_NAME)),
    Field::required("certificate", CERTIFICATE, Shape::Comment(MAX_PEM)),
    Field::optional("virtual_networks", Shape::List(&Shape::Uuid, MAX_SCOPES, NETWORKS)),
    Field::optional("host_suffixes", Shape::List(&Shape::Comment(MAX_HOST), MAX_SCOPES, SUFFIXES)),
];

pub(super) const OPERATIONS: &[Operation] = &[
    Operation::post(
        "/accounts/{account}/x/gateway/origin_roots",
        "Trust origins by authorities of one's own",
        |call| Box::pin(create(call)),
    )
    .needs(Area::ZeroTrust, Level::Write)
    .body(Family::Gateway, BODY)
    .answers(ORIGIN_ROOT),
    Operation::get(
        "/accounts/{account}/x/gateway/origin_roots",
        "List the authorities by which origins are trusted",
        |call| Box::pin(list(call)),
    )
    .needs(Area::ZeroTrust, Level::Read)
    .list(Style::Single, ORIGIN_ROOT, &[]),
    Operation::get(
        "/accounts/{account}/x/gateway/origin_roots/{origin_root}",
        "Get authorities by which origins are trusted",
        |call| Box::pin(fetch(call, call.parameter("origin_root"))),
    )
    .needs(Area::ZeroTrust, Level::Read)
    .answers(ORIGIN_ROOT),
    Operation::put(
        "/accounts/{account}/x/gateway/origin_roots/{origin_root}",
        "Replace authorities by which origins are trusted",
        |call| Box::pin(replace(call, call.parameter("origin_root"))),
    )
    .needs(Area::ZeroTrust, Level::Write)
    .body(Family::Gateway, BODY)
    .answers(ORIGIN_ROOT),
    Operation::delete(
        "/accounts/{account}/x/gateway/origin_roots/{origin_root}",
        "Trust origins no more by these authorities",
        |call| Box::pin(delete(call, call.parameter("origin_root"))),
    )
    .needs(Area::ZeroTrust, Level::Write)
    .answers(EMPTY),
];

const ORIGIN_ROOT: Kind = Kind::Object("OriginRoot", FIELDS, &[]);

object! {
    FIELDS = object(root: &OriginRootRow) with {
        let all = describe_all(&root.content.certificate, MAX_CERTIFICATES).unwrap_or_default();
        let end = all.iter().map(|described| described.not_after).min();
    } [
        "id": Kind::Uuid => root.id,
        "name": Kind::Text => root.content.name,
        "certificate": Kind::Text => root.content.certificate,
        "fingerprints": Kind::Many(&Kind::Text) =>
            all.iter().map(|described| described.fingerprint.as_str()).collect::<Vec<_>>(),
        "expires_on": Kind::Maybe(&Kind::Time) => shape::maybe_time(end),
        "virtual_networks": Kind::Many(&Kind::Uuid) => root.content.virtual_networks,
        "host_suffixes": Kind::Many(&Kind::Text) => root.content.host_suffixes,
        "created_at": Kind::Time => shape::time(root.created_at),
        "updated_at": Kind::Time => shape::time(root.updated_at),
    ]
}

async fn create(call: &Call<'_>) -> Result<Reply, ApiError> {
    let content = content(&call.fields(Family::Gateway)?)?;
    let made = call.control.0.store.origin_root_create(&call.actor, call.account, content).await;
    Ok(Reply::One(object(&made.map_err(refused)?.value)))
}

async fn list(call: &Call<'_>) -> Result<Reply, ApiError> {
    let rows = call.control.0.store.origin_root_list(call.account).await?;
    Ok(Reply::single(rows.iter().map(object).collect()))
}

async fn fetch(call: &Call<'_>, id: &str) -> Result<Reply, ApiError> {
    let row = call.control.0.store.origin_root_fetch(call.account, parse(id)?).await;
    Ok(Reply::One(object(&row.map_err(missing)?)))
}

async fn replace(call: &Call<'_>, id: &str) -> Result<Reply, ApiError> {
    let (id, content) = (parse(id)?, content(&call.fields(Family::Gateway)?)?);
    let done = call.control.0.store.origin_root_replace(&call.actor, call.account, id, content).await;
    Ok(Reply::One(object(&done.map_err(refused)?.value)))
}

async fn delete(call: &Call<'_>, id: &str) -> Result<Reply, ApiError> {
    let done = call.control.0.store.origin_root_delete(&call.actor, call.account, parse(id)?).await;
    done.map_err(missing)?;
    Ok(Reply::One(json!({})))
}

fn content(fields: &Fields) -> Result<OriginRootContent, ApiError> {
    let name = fields.required("name", NAME, fields.name("name", MAX_NAME)?)?;
    let pem = fields.required("certificate", CERTIFICATE, fields.comment("certificate", MAX_PEM)?)?;
    let all = describe_all(&pem, MAX_CERTIFICATES).ok().filter(|all| !all.is_empty());
    let all = all.ok_or_else(|| fields.wrong("certificate", CERTIFICATE))?;
    if !all.iter().all(|described| described.may_sign) {
        return Err(fields.wrong("certificate", "authorities, which may sign others (CA:TRUE, keyCertSign)"));
    }
    if all.iter().any(|described| described.not_after <= OffsetDateTime::now_utc()) {
        return Err(fields.wrong("certificate", "authorities that are not past their end"));
    }
    let networks = texts(fields, "virtual_networks").into_iter().enumerate().map(|(at, text)| {
        let pointer = format!("/virtual_networks/{at}");
        text.parse().map_err(|_| Family::Gateway.invalid("virtual_networks: expected a UUID").at(pointer))
    });
    let mut virtual_networks = networks.collect::<Result<Vec<VirtualNetworkId>, ApiError>>()?;
    virtual_networks.dedup();
    let suffixes = texts(fields, "host_suffixes").into_iter().enumerate().map(|(at, text)| {
        let pointer = format!("/host_suffixes/{at}");
        let wrong = || {
            Family::Gateway.invalid("host_suffixes: expected a host name such as corp.example").at(pointer)
        };
        // `.corp.example` and `*.corp.example` are how others write it.
        let bare = text.trim_start_matches('*').trim_start_matches('.');
        // A domain may be of one label, as names of the world are not.
        let below: PublicHostname = format!("{BELOW}{bare}").parse().map_err(|_| wrong())?;
        Ok(below.as_str().strip_prefix(BELOW).unwrap_or_default().to_owned())
    });
    let host_suffixes = suffixes.collect::<Result<Vec<String>, ApiError>>()?;
    let certificate = all.iter().map(|described| pem_of(described.der())).collect();
    Ok(OriginRootContent { name, certificate, virtual_networks, host_suffixes })
}

/// A name below the one that is looked at.
const BELOW: &str = "x.";

/// The texts of an array whose shape was checked.
fn texts<'f>(fields: &'f Fields, name: &str) -> Vec<&'f str> {
    let items = fields.value(name).and_then(Value::as_array);
    items.into_iter().flatten().filter_map(Value::as_str).collect()
}

fn parse(id: &str) -> Result<OriginRootId, ApiError> {
    id.parse().map_err(|_| not_found())
}

fn not_found() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, 2100, "origin root not found")
}

fn missing(error: FindError) -> ApiError {
    match error {
        FindError::NotFound => not_found(),
        FindError::Fault(fault) => fault.into(),
    }
}

fn refused(error: OriginRootError) -> ApiError {
    let conflict = |message: String| ApiError::new(StatusCode::CONFLICT, 2101, message);
    match error {
        OriginRootError::NotFound => not_found(),
        OriginRootError::NameTaken => conflict("there is an origin root with that name".into()).at("/name"),
        OriginRootError::TooMany => {
            conflict(format!("there are {MAX_ORIGIN_ROOTS} origin roots already: delete one first"))
        }
        OriginRootError::NoNetwork(id) => {
            Family::Gateway.invalid(&format!("virtual network {id} not found")).at("/virtual_networks")
        }
        OriginRootError::Fault(fault) => fault.into(),
    }
}
