//! Zones (contract D, 5 and 6.2): host names of the world that lead to tunnels.
//!
//! An account has one zone, and the zone's tag is the account's. `PUT /zones/{zone}/tunnels/{id}/routes` makes a host name
//! lead to a tunnel; what there is, is listed and deleted as DNS records, `/zones/{zone}/dns_records`, where each name is a
//! CNAME to its tunnel. Names that edges answer themselves, such as the API's, cannot be taken.

use adit_model::{HostnameId, PublicHostname, TunnelId};
use adit_store::{
    AccountRow, FindError, HostnameFilter, HostnamePut, HostnameRow, HostnameWriteError, Overwrite,
};
use http::StatusCode;
use serde_json::{Map, Value};

use super::answer::{Kind, object};
use super::body::Family;
use super::body_shape::{Field, Shape};
use super::envelope::{ApiError, Reply};
use super::operation::{Operation, Style};
use super::{Call, shape, tunnel};
use crate::permission::{Area, Level};

const PER_PAGE: u64 = 100;
const MAX_PER_PAGE: u64 = 5000;
/// What a tunnel's CNAME ends in.
const CNAME_SUFFIX: &str = ".cfargotunnel.com";

/// `/zones`: those that the credential may see, which is one or none.
pub(super) async fn list(call: &Call<'_>) -> Result<Reply, ApiError> {
    let of_account = call.query.text("account.id").is_none_or(|id| id == call.account.to_string());
    let mut rows = Vec::new();
    if call.principal.sees(call.account) && of_account {
        let zone = object(call).await?;
        if call.query.text("name").is_none_or(|name| zone["name"] == name) {
            rows.push(zone);
        }
    }
    let paging = call.query.paging(20, 50)?;
    let total = rows.len() as u64;
    if paging.window().offset > 0 {
        rows.clear();
    }
    let info = paging.info(rows.len(), total);
    Ok(Reply::Many { rows, info })
}

const ROUTE: &[Field] = &[
    Field::required("type", "dns", Shape::Text),
    // Its handler asks for it after it has refused what is no DNS record.
    Field::optional("user_hostname", Shape::Text),
    Field::optional("overwrite_existing", Shape::Flag),
];

pub(super) const OPERATIONS: &[Operation] = &[
    Operation::get("/zones", "List zones", |call| Box::pin(list(call))).list(
        Style::Page,
        ZONE,
        &[("name", Kind::Text), ("account.id", Kind::Text)],
    ),
    Operation::get("/zones/{zone}", "Get a zone", |call| Box::pin(fetch(call))).answers(ZONE),
    Operation::put(
        "/zones/{zone}/tunnels/{tunnel}/routes",
        "Make a public host name lead to a tunnel",
        |call| Box::pin(route(call, call.parameter("tunnel"))),
    )
    .needs(Area::Tunnel, Level::Write)
    .body(Family::Network, ROUTE)
    .answers(ROUTED),
    Operation::get("/zones/{zone}/dns_records", "List public host names", |call| Box::pin(records(call)))
        .needs(Area::Tunnel, Level::Read)
        .list(Style::Page, RECORD, &[("name", Kind::Text), ("content", Kind::Text), ("type", Kind::Text)]),
    Operation::get("/zones/{zone}/dns_records/{record}", "Get a public host name", |call| {
        Box::pin(record_fetch(call, call.parameter("record")))
    })
    .needs(Area::Tunnel, Level::Read)
    .answers(RECORD),
    Operation::delete("/zones/{zone}/dns_records/{record}", "Delete a public host name", |call| {
        Box::pin(record_delete(call, call.parameter("record")))
    })
    .needs(Area::Tunnel, Level::Write)
    .answers(DELETED),
];

async fn fetch(call: &Call<'_>) -> Result<Reply, ApiError> {
    Ok(Reply::One(object(call).await?))
}

async fn object(call: &Call<'_>) -> Result<Value, ApiError> {
    let accounts = call.control.0.store.account_list().await?;
    let account = accounts.into_iter().find(|account| account.id == call.account);
    let account = account.ok_or_else(ApiError::no_route)?;
    Ok(zone(&account))
}

async fn route(call: &Call<'_>, id: &str) -> Result<Reply, ApiError> {
    let id: TunnelId = tunnel::parse(id)?;
    let fields = call.fields(Family::Network)?;
    match fields.required("type", "dns", fields.text("type")?)? {
        "dns" => {}
        "lb" => {
            let message =
                "type: lb (load balancers) is not supported; a tunnel's connections already share its flows";
            return Err(Family::Network.invalid(message).at("/type"));
        }
        _ => return Err(fields.wrong("type", "dns")),
    }
    let name = fields.required("user_hostname", "a host name", fields.text("user_hostname")?)?;
    let hostname: PublicHostname = name
        .parse()
        .map_err(|error| Family::Network.invalid(&format!("user_hostname: {error}")).at("/user_hostname"))?;
    let settings = &call.control.0.settings;
    let own = settings.own_names.iter().any(|own| own.eq_ignore_ascii_case(hostname.as_str()));
    let name = hostname.as_str().strip_suffix(settings.dns_domain.as_str());
    if own || name.is_some_and(|name| name.is_empty() || name.ends_with('.')) {
        let message = format!("user_hostname: {hostname} is this installation's own name");
        return Err(Family::Network.invalid(&message).at("/user_hostname"));
    }
    let overwrite = match fields.flag("overwrite_existing")? {
        Some(true) => Overwrite::Allow,
        Some(false) | None => Overwrite::Refuse,
    };
    let store = &call.control.0.store;
    let done = store.hostname_put(&call.actor, call.account, hostname, id, overwrite).await;
    let (outcome, row) = match done.map_err(write_error)? {
        HostnamePut::New(row) => ("new", row),
        HostnamePut::Updated(row) => ("updated", row),
        HostnamePut::Unchanged(row) => ("unchanged", row),
    };
    tracing::info!(
        hostname = %row.hostname,
        tunnel = %row.tunnel,
        outcome,
        "a public host name leads to a tunnel: it is public, whoever reaches the edge reaches its ingress"
    );
    Ok(Reply::One(routed(outcome, &row)))
}

async fn records(call: &Call<'_>) -> Result<Reply, ApiError> {
    let query = &call.query;
    let paging = query.paging(PER_PAGE, MAX_PER_PAGE)?;
    let of_type = query.text("type").is_none_or(|kind| kind.eq_ignore_ascii_case("CNAME"));
    let content = query.text("content").map(|content| content.strip_suffix(CNAME_SUFFIX).unwrap_or(content));
    let (name, content) = (query.text("name").map(str::parse), content.map(str::parse));
    let (Ok(hostname), Ok(tunnel), true) = (name.transpose(), content.transpose(), of_type) else {
        // There is no record of such a name, content or type.
        return Ok(Reply::Many { rows: Vec::new(), info: paging.info(0, 0) });
    };
    let filter = HostnameFilter { hostname, tunnel };
    let page = call.control.0.store.hostname_list(call.account, &filter, paging.window()).await?;
    let rows: Vec<Value> = page.rows.iter().map(record).collect();
    let info = paging.info(rows.len(), page.total);
    Ok(Reply::Many { rows, info })
}

async fn record_fetch(call: &Call<'_>, id: &str) -> Result<Reply, ApiError> {
    let row = call.control.0.store.hostname_fetch(call.account, parse(id)?).await.map_err(missing)?;
    Ok(Reply::One(record(&row)))
}

async fn record_delete(call: &Call<'_>, id: &str) -> Result<Reply, ApiError> {
    let done = call.control.0.store.hostname_delete(&call.actor, call.account, parse(id)?).await;
    Ok(Reply::One(deleted(&done.map_err(missing)?)))
}

object! {
    RECORD_FIELDS = record(row: &HostnameRow) [
        "id": Kind::Tag => tag(row.id),
        "name": Kind::Text => row.hostname,
        "type": Kind::OneOf(&["CNAME"]) => "CNAME",
        "content": Kind::Text => format!("{}{CNAME_SUFFIX}", row.tunnel),
        "proxied": Kind::Flag => true,
        "proxiable": Kind::Flag => true,
        "ttl": Kind::Number => 1,
        "comment": Kind::Null => Value::Null,
        "tags": Kind::Many(&Kind::Text) => Value::Array(Vec::new()),
        "settings": Kind::Map(&Kind::Anything) => Map::new(),
        "meta": Kind::Map(&Kind::Anything) => Map::new(),
        "created_on": Kind::Time => shape::time(row.created_at),
        "modified_on": Kind::Time => shape::time(row.updated_at),
    ]
}

object! {
    ACCOUNT_FIELDS = account(account: &AccountRow) [
        "id": Kind::Tag => account.id,
        "name": Kind::Text => account.name,
    ]
}

object! {
    FIELDS = zone(account: &AccountRow) [
        "id": Kind::Tag => account.id,
        "name": Kind::Text => account.name,
        "account": Kind::Object("ZoneAccount", ACCOUNT_FIELDS, &[]) => self::account(account),
        "status": Kind::OneOf(&["active"]) => "active",
        "type": Kind::OneOf(&["full"]) => "full",
        "created_on": Kind::Time => shape::time(account.created_at),
    ]
}

object! {
    ROUTED_FIELDS = routed(outcome: &str, row: &HostnameRow) [
        "cname": Kind::OneOf(&["new", "updated", "unchanged"]) => outcome,
        "name": Kind::Text => row.hostname,
    ]
}

object! {
    DELETED_FIELDS = deleted(row: &HostnameRow) [
        "id": Kind::Tag => tag(row.id),
    ]
}

const ZONE: Kind = Kind::Object("Zone", FIELDS, &[]);
const RECORD: Kind = Kind::Object("DnsRecord", RECORD_FIELDS, &[]);
const ROUTED: Kind = Kind::Object("HostnameRouted", ROUTED_FIELDS, &[]);
const DELETED: Kind = Kind::Object("DnsRecordDeleted", DELETED_FIELDS, &[]);

/// Ids of DNS records are tags: no dashes.
fn tag(id: HostnameId) -> String {
    id.uuid().simple().to_string()
}

fn parse(id: &str) -> Result<HostnameId, ApiError> {
    id.parse().map_err(|_| not_found())
}

fn not_found() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, 1003, "DNS record not found")
}

fn missing(error: FindError) -> ApiError {
    match error {
        FindError::NotFound => not_found(),
        FindError::Fault(fault) => fault.into(),
    }
}

fn write_error(error: HostnameWriteError) -> ApiError {
    match error {
        HostnameWriteError::TunnelNotFound => tunnel::not_found(),
        HostnameWriteError::Taken => {
            let message = "An A, AAAA, or CNAME record with that host already exists.";
            Family::Network.invalid(message).at("/user_hostname")
        }
        HostnameWriteError::Fault(fault) => fault.into(),
    }
}
