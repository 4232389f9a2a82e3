//! DNS locations (contract D, 9.5): `A/gateway/locations`, the places from which devices without the agent ask for names over
//! HTTPS or TLS.
//!
//! What was set comes back as it was written, and `null` for what was not. What this version does not do (plain DNS at
//! addresses of its own, client subnets) is refused by its name. So are networks so large that a location would answer
//! everybody: who comes from everywhere shows a token.

use std::cmp::Ordering;

use adit_model::{Cidr, LocationEndpoint, LocationId, LocationTtl};
use adit_store::{FindError, LocationContent, LocationEdge, LocationRow, LocationWriteError};
use http::StatusCode;
use serde_json::{Value, json};

use super::answer::{DIRECTION, EMPTY, Kind, object};
use super::body::{Family, Fields};
use super::body_shape::{Field, Shape};
use super::envelope::{ApiError, Reply};
use super::operation::{Operation, Style};
use super::selection::{Selected, select};
use super::{Call, shape};
use crate::permission::{Area, Level};

/// Longest name, in characters.
const MAX_NAME: usize = 256;
const NAME: &str = "1 to 256 printable characters";
const NETWORKS: Shape =
    Shape::List(&Shape::Object(&[Field::required("network", "a network", Shape::Network)]), 100, MANY);
const MANY: &str = "an array of up to 100 networks, each as {\"network\": \"192.0.2.0/24\"}";
const FILTERS: [&str; 3] = ["id", "name", "doh_subdomain"];
const ORDERS: [&str; 3] = ["name", "created_at", "updated_at"];
const MODES: [&str; 3] = ["inherit", "override", "disabled"];
/// Longest time to live, in seconds: a week, as of the account's setting.
const MAX_TTL_SECS: u64 = 604_800;
/// Shortest prefixes: a private or an own network is no larger, and less would be everybody.
const LEAST_V4: u8 = 8;
const LEAST_V6: u8 = 7;

const LOCATION: &[Field] = &[
    Field::required("name", NAME, Shape::Name(MAX_NAME)),
    Field::optional("client_default", Shape::Flag),
    Field::optional("ecs_support", Shape::Told(off)),
    Field::optional("dns_destination_ips_id", Shape::Told(none)),
    Field::optional("networks", NETWORKS),
    Field::optional(
        "endpoints",
        Shape::Object(&[
            Field::optional(
                "doh",
                Shape::Object(&[
                    Field::optional("enabled", Shape::Flag),
                    Field::optional("require_token", Shape::Flag),
                    Field::optional("networks", NETWORKS),
                ]),
            ),
            Field::optional(
                "dot",
                Shape::Object(&[
                    Field::optional("enabled", Shape::Flag),
                    Field::optional("networks", NETWORKS),
                ]),
            ),
            Field::optional("ipv4", Shape::Object(&[Field::optional("enabled", Shape::Told(off))])),
            Field::optional(
                "ipv6",
                Shape::Object(&[
                    Field::optional("enabled", Shape::Told(off)),
                    Field::optional("networks", Shape::Told(empty)),
                ]),
            ),
        ]),
    ),
    Field::optional(
        "max_ttl",
        Shape::Object(&[
            Field::required("mode", "inherit, override or disabled", Shape::OneOf(&MODES)),
            Field::optional("ttl_secs", Shape::Number(MAX_TTL_SECS)),
        ]),
    ),
];

fn off() -> Value {
    json!({ "enum": [false, null] })
}

fn none() -> Value {
    json!({ "enum": ["", null] })
}

fn empty() -> Value {
    json!({ "anyOf": [{ "type": "array", "maxItems": 0 }, { "type": "null" }] })
}

pub(super) const OPERATIONS: &[Operation] = &[
    Operation::post("/accounts/{account}/gateway/locations", "Create a DNS location", |call| {
        Box::pin(create(call))
    })
    .needs(Area::ZeroTrust, Level::Write)
    .body(Family::Gateway, LOCATION)
    .answers(GATEWAY_LOCATION),
    Operation::get("/accounts/{account}/gateway/locations", "List DNS locations", |call| {
        Box::pin(list(call))
    })
    .needs(Area::ZeroTrust, Level::Read)
    .list(
        Style::Single,
        GATEWAY_LOCATION,
        &[
            ("search", Kind::Text),
            ("filter", Kind::Text),
            ("order_by", Kind::OneOf(&ORDERS)),
            ("direction", DIRECTION),
        ],
    ),
    Operation::get("/accounts/{account}/gateway/locations/{location}", "Get a DNS location", |call| {
        Box::pin(fetch(call, call.parameter("location")))
    })
    .needs(Area::ZeroTrust, Level::Read)
    .answers(GATEWAY_LOCATION),
    Operation::put("/accounts/{account}/gateway/locations/{location}", "Replace a DNS location", |call| {
        Box::pin(replace(call, call.parameter("location")))
    })
    .needs(Area::ZeroTrust, Level::Write)
    .body(Family::Gateway, LOCATION)
    .answers(GATEWAY_LOCATION),
    Operation::delete("/accounts/{account}/gateway/locations/{location}", "Delete a DNS location", |call| {
        Box::pin(delete(call, call.parameter("location")))
    })
    .needs(Area::ZeroTrust, Level::Write)
    .answers(EMPTY),
];

async fn create(call: &Call<'_>) -> Result<Reply, ApiError> {
    let content = read(&call.fields(Family::Gateway)?, false)?;
    let made = call.control.0.store.location_create(&call.actor, call.account, content).await;
    Ok(answer(call, &made.map_err(write_error)?.value))
}

async fn list(call: &Call<'_>) -> Result<Reply, ApiError> {
    let rows = call.control.0.store.location_list(call.account).await?;
    let rows = select(rows, &call.query, Family::Gateway, (&FILTERS, &ORDERS))?;
    let domain = &call.control.0.settings.dns_domain;
    Ok(Reply::single(rows.iter().map(|row| object(row, domain)).collect()))
}

async fn fetch(call: &Call<'_>, id: &str) -> Result<Reply, ApiError> {
    let row = call.control.0.store.location_fetch(call.account, parse(id)?).await.map_err(missing)?;
    Ok(answer(call, &row))
}

async fn replace(call: &Call<'_>, id: &str) -> Result<Reply, ApiError> {
    let id = parse(id)?;
    let fields = call.fields(Family::Gateway)?;
    let store = &call.control.0.store;
    let before = store.location_fetch(call.account, id).await.map_err(missing)?;
    let content = read(&fields, before.content.client_default)?;
    let done = store.location_replace(&call.actor, call.account, id, content).await;
    Ok(answer(call, &done.map_err(write_error)?.value))
}

async fn delete(call: &Call<'_>, id: &str) -> Result<Reply, ApiError> {
    let done = call.control.0.store.location_delete(&call.actor, call.account, parse(id)?).await;
    // Nothing of a body is wrong: there is none.
    done.map_err(|error| ApiError { pointer: None, ..write_error(error) })?;
    Ok(Reply::One(json!({})))
}

fn answer(call: &Call<'_>, row: &LocationRow) -> Reply {
    Reply::One(object(row, &call.control.0.settings.dns_domain))
}

/// What a body says. Whether it is the default one stays as it is, unless it is said.
fn read(fields: &Fields, is_default: bool) -> Result<LocationContent, ApiError> {
    let refuse = |pointer: &str, message: &str| Err(wrong(pointer, message));
    let said =
        |value: Option<&Value>| value.is_some_and(|value| !NOTHING.contains(&value.to_string().as_str()));
    if said(fields.value("ecs_support")) {
        return refuse("/ecs_support", "expected false: no client's subnet is passed on to resolvers");
    }
    if said(fields.value("dns_destination_ips_id")) {
        return refuse(
            "/dns_destination_ips_id",
            "expected null: plain DNS at addresses of its own is not served",
        );
    }
    let endpoints = fields.value("endpoints");
    for pointer in ["/ipv4/enabled", "/ipv6/enabled", "/ipv6/networks"] {
        if said(endpoints.and_then(|endpoints| endpoints.pointer(pointer))) {
            let message = "not supported: plain DNS is not served; use doh or dot";
            return refuse(&format!("/endpoints{pointer}"), message);
        }
    }
    let (https, tls) = match endpoints {
        None => (ON, ON),
        Some(endpoints) => (endpoint(endpoints, "doh")?, endpoint(endpoints, "dot")?),
    };
    let edge = LocationEdge {
        networks: networks(fields.value("networks"), "/networks")?,
        https,
        tls,
        max_ttl: ttl(fields)?,
    };
    let as_written = |name| fields.value(name).cloned().unwrap_or_default();
    Ok(LocationContent {
        name: fields.required("name", NAME, fields.name("name", MAX_NAME)?)?,
        client_default: fields.flag("client_default")?.unwrap_or(is_default),
        networks: as_written("networks"),
        endpoints: as_written("endpoints"),
        max_ttl: as_written("max_ttl"),
        edge,
    })
}

/// An endpoint of a location that says nothing of its endpoints.
const ON: LocationEndpoint = LocationEndpoint { enabled: true, require_token: false, networks: Vec::new() };
/// Values that ask for nothing.
const NOTHING: [&str; 4] = ["null", "false", "\"\"", "[]"];

fn endpoint(endpoints: &Value, name: &str) -> Result<LocationEndpoint, ApiError> {
    let endpoint = &endpoints[name];
    let pointer = format!("/endpoints/{name}/networks");
    Ok(LocationEndpoint {
        enabled: endpoint["enabled"] == true,
        require_token: name == "doh" && endpoint["require_token"] == true,
        networks: networks(endpoint.get("networks"), &pointer)?,
    })
}

/// The networks of an array that has been checked to be one.
fn networks(value: Option<&Value>, pointer: &str) -> Result<Vec<Cidr>, ApiError> {
    let items = value.and_then(Value::as_array).into_iter().flatten().enumerate();
    let network = |(at, item): (usize, &Value)| {
        let pointer = format!("{pointer}/{at}/network");
        let text = item["network"].as_str().unwrap_or_default();
        let network: Cidr =
            text.parse().map_err(|error| wrong(&pointer, &format!("is not a valid CIDR: {error}")))?;
        let least = if network.net().addr().is_ipv4() { LEAST_V4 } else { LEAST_V6 };
        if network.net().prefix_len() < least {
            let message = format!(
                "expected a network of /{least} or longer, since a location answers nobody whom it does not know; \
                 devices that come from everywhere show a token (endpoints.doh.require_token)"
            );
            return Err(wrong(&pointer, &message));
        }
        Ok(network)
    };
    items.map(network).collect()
}

fn ttl(fields: &Fields) -> Result<LocationTtl, ApiError> {
    let Some(max_ttl) = fields.value("max_ttl") else { return Ok(LocationTtl::Inherit) };
    let seconds = max_ttl["ttl_secs"].as_u64().and_then(|seconds| u32::try_from(seconds).ok());
    let pointer = "/max_ttl/ttl_secs";
    match (max_ttl["mode"].as_str(), seconds) {
        (Some("override"), Some(seconds)) if seconds > 0 => Ok(LocationTtl::Seconds(seconds)),
        (Some("override"), _) => {
            Err(wrong(pointer, "expected a whole number from 1 to 604800 with the mode override"))
        }
        (_, Some(_)) => Err(wrong(pointer, "expected with the mode override only")),
        (Some("disabled"), None) => Ok(LocationTtl::Unlimited),
        (_, None) => Ok(LocationTtl::Inherit),
    }
}

/// An error about a place in the body.
fn wrong(pointer: &str, message: &str) -> ApiError {
    let field = pointer.trim_start_matches('/').replace('/', ".");
    Family::Gateway.invalid(&format!("{field}: {message}")).at(pointer)
}

object! {
    FIELDS = object(location: &LocationRow, domain: &str) with {
        let content = &location.content;
    } [
        "id": Kind::Uuid => location.id,
        "name": Kind::Text => content.name,
        "client_default": Kind::Flag => content.client_default,
        "doh_subdomain": Kind::Text => location.subdomain,
        "ecs_support": Kind::Flag => false,
        "networks": Kind::Maybe(&Kind::Many(&NETWORK)) => content.networks,
        "endpoints": Kind::Maybe(&Kind::Object("LocationEndpoints", ENDPOINTS_FIELDS, &[])) =>
            if content.endpoints.is_null() { Value::Null } else { endpoints(&content.endpoints) },
        "max_ttl": Kind::Maybe(&Kind::Object("LocationTtl", TTL_FIELDS, &[])) =>
            if content.max_ttl.is_null() { Value::Null } else { max_ttl(&content.max_ttl) },
        "ip": Kind::Null => Value::Null,
        "ipv4_destination": Kind::Null => Value::Null,
        "ipv4_destination_backup": Kind::Null => Value::Null,
        "dns_destination_ips_id": Kind::Null => Value::Null,
        "dns_destination_ipv6_block_id": Kind::Null => Value::Null,
        "x_hostname": Kind::Text => format!("{}.{domain}", location.subdomain),
        "created_at": Kind::Time => shape::time(location.created_at),
        "updated_at": Kind::Time => shape::time(location.updated_at),
    ]
}

object! {
    ENDPOINTS_FIELDS = endpoints(of: &Value) [
        "doh": Kind::Object("LocationDoh", DOH_FIELDS, &[]) => doh(&of["doh"]),
        "dot": Kind::Object("LocationDot", DOT_FIELDS, &[]) => dot(&of["dot"]),
        "ipv4": Kind::Object("LocationIpv4", IPV4_FIELDS, &[]) => ipv4(&of["ipv4"]),
        "ipv6": Kind::Object("LocationIpv6", DOT_FIELDS, &[]) => dot(&of["ipv6"]),
    ]
}

object! {
    DOH_FIELDS = doh(of: &Value) [
        "enabled": Kind::Maybe(&Kind::Flag) => of["enabled"],
        "require_token": Kind::Maybe(&Kind::Flag) => of["require_token"],
        "networks": Kind::Maybe(&Kind::Many(&NETWORK)) => of["networks"],
    ]
}

object! {
    DOT_FIELDS = dot(of: &Value) [
        "enabled": Kind::Maybe(&Kind::Flag) => of["enabled"],
        "networks": Kind::Maybe(&Kind::Many(&NETWORK)) => of["networks"],
    ]
}

object! {
    IPV4_FIELDS = ipv4(of: &Value) [
        "enabled": Kind::Maybe(&Kind::Flag) => of["enabled"],
    ]
}

object! {
    TTL_FIELDS = max_ttl(of: &Value) [
        "mode": Kind::OneOf(&MODES) => of["mode"],
        "ttl_secs": Kind::Maybe(&Kind::Number) => of["ttl_secs"],
    ]
}

const NETWORK: Kind = Kind::Object("LocationNetwork", &[("network", Kind::Text)], &[]);
const GATEWAY_LOCATION: Kind = Kind::Object("GatewayLocation", FIELDS, &[]);

impl Selected for LocationRow {
    fn texts(&self) -> Vec<&str> {
        vec![&self.content.name, &self.subdomain]
    }

    fn value(&self, key: &str) -> Option<String> {
        match key {
            "id" => Some(self.id.to_string()),
            "name" => Some(self.content.name.clone()),
            "doh_subdomain" => Some(self.subdomain.clone()),
            _ => None,
        }
    }

    fn order(&self, key: &str, other: &Self) -> Option<Ordering> {
        match key {
            "name" => Some(self.content.name.cmp(&other.content.name)),
            "created_at" => Some(self.created_at.cmp(&other.created_at)),
            "updated_at" => Some(self.updated_at.cmp(&other.updated_at)),
            _ => None,
        }
    }
}

fn parse(id: &str) -> Result<LocationId, ApiError> {
    id.parse().map_err(|_| not_found())
}

fn not_found() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, 2100, "location not found")
}

fn missing(error: FindError) -> ApiError {
    match error {
        FindError::NotFound => not_found(),
        FindError::Fault(fault) => fault.into(),
    }
}

fn write_error(error: LocationWriteError) -> ApiError {
    match error {
        LocationWriteError::NotFound => not_found(),
        LocationWriteError::NameTaken => {
            let message = "a location with this name already exists";
            ApiError::new(StatusCode::CONFLICT, 2101, message).at("/name")
        }
        LocationWriteError::DefaultNeeded => {
            let message = "the default location stays; make another one the default (client_default) first";
            Family::Gateway.invalid(message).at("/client_default")
        }
        LocationWriteError::TooMany => Family::Gateway.invalid("an account has at most 1000 locations"),
        LocationWriteError::Fault(fault) => fault.into(),
    }
}

/// Feeds any JSON value to what reads a location.
pub(super) fn fuzz(body: &Value) {
    let Ok(fields) = Fields::read(body.to_string().as_bytes(), Family::Gateway) else { return };
    if Shape::Object(LOCATION).check(body, Family::Gateway).is_ok()
        && let Ok(content) = read(&fields, false)
    {
        let all = [&content.edge.networks, &content.edge.https.networks, &content.edge.tls.networks];
        let least = all.into_iter().flatten().map(|network| network.net().prefix_len()).min();
        assert!(least.is_none_or(|least| least >= LEAST_V6), "no location answers everybody");
    }
}
