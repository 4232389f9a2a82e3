//! Hostname routes (contract D, 6.6): names behind tunnels, for an account's devices.
//!
//! What an edge makes of them is in `edge::synthetic`: a device that asks for such a name gets an address that stands for it,
//! and its flows go through the route's tunnel, whose connectors' resolver says what the name stands for.

use adit_model::{HostnamePattern, RouteId, TunnelId};
use adit_store::{
    FindError, HostnameRouteEdit, HostnameRouteFilter, HostnameRouteRow, HostnameRouteWriteError,
    NewHostnameRoute,
};
use http::StatusCode;
use serde_json::Value;

use super::answer::{Kind, object};
use super::body::Family;
use super::body_shape::{Field, Shape};
use super::envelope::{ApiError, Reply};
use super::operation::{Operation, Style};
use super::{Call, route, shape, tunnel};
use crate::permission::{Area, Level};

/// Longest comment, in characters.
const MAX_COMMENT: usize = 256;
const PER_PAGE: u64 = 20;
const MAX_PER_PAGE: u64 = 1000;
const EXPECTED_NAME: &str = "a host name such as wiki.corp.internal or *.corp.internal";

const CREATE: &[Field] = &[
    Field::required("hostname", EXPECTED_NAME, Shape::Text),
    Field::required("tunnel_id", "a UUID", Shape::Uuid),
    Field::optional("comment", Shape::Comment(MAX_COMMENT)),
];

const CHANGE: &[Field] = &[
    Field::optional("hostname", Shape::Text),
    Field::optional("tunnel_id", Shape::Uuid),
    Field::optional("comment", Shape::Comment(MAX_COMMENT)),
];

pub(super) const OPERATIONS: &[Operation] = &[
    Operation::post("/accounts/{account}/zerotrust/routes/hostname", "Create a hostname route", |call| {
        Box::pin(create(call))
    })
    .needs(Area::Tunnel, Level::Write)
    .body(Family::Network, CREATE)
    .answers(HOSTNAME_ROUTE),
    Operation::get("/accounts/{account}/zerotrust/routes/hostname", "List hostname routes", |call| {
        Box::pin(list(call))
    })
    .needs(Area::Tunnel, Level::Read)
    .list(
        Style::Page,
        HOSTNAME_ROUTE,
        &[
            ("id", Kind::Uuid),
            ("hostname", Kind::Text),
            ("comment", Kind::Text),
            ("tunnel_id", Kind::Uuid),
            ("is_deleted", Kind::Flag),
            ("existed_at", Kind::Time),
        ],
    ),
    Operation::get(
        "/accounts/{account}/zerotrust/routes/hostname/{hostname_route}",
        "Get a hostname route",
        |call| Box::pin(fetch(call, call.parameter("hostname_route"))),
    )
    .needs(Area::Tunnel, Level::Read)
    .answers(HOSTNAME_ROUTE),
    Operation::patch(
        "/accounts/{account}/zerotrust/routes/hostname/{hostname_route}",
        "Change a hostname route",
        |call| Box::pin(update(call, call.parameter("hostname_route"))),
    )
    .needs(Area::Tunnel, Level::Write)
    .body(Family::Network, CHANGE)
    .answers(HOSTNAME_ROUTE),
    Operation::delete(
        "/accounts/{account}/zerotrust/routes/hostname/{hostname_route}",
        "Delete a hostname route",
        |call| Box::pin(delete(call, call.parameter("hostname_route"))),
    )
    .needs(Area::Tunnel, Level::Write)
    .answers(HOSTNAME_ROUTE),
];

async fn create(call: &Call<'_>) -> Result<Reply, ApiError> {
    let fields = call.fields(Family::Network)?;
    let written = fields.required("hostname", EXPECTED_NAME, fields.text("hostname")?)?;
    let new = NewHostnameRoute {
        hostname: checked(call, written)?,
        tunnel: fields.required("tunnel_id", "a UUID", fields.id("tunnel_id")?)?,
        comment: fields.comment("comment", MAX_COMMENT)?.unwrap_or_default(),
    };
    let takeover = route::takeover(call);
    let made = call.control.0.store.hostname_route_create(&call.actor, call.account, new, takeover).await;
    Ok(Reply::One(object(&made.map_err(write_error)?.value)))
}

/// The names of a route. The installation's own are never asked of an edge, so that a route for one would be ignored.
fn checked(call: &Call<'_>, written: &str) -> Result<HostnamePattern, ApiError> {
    let pattern: HostnamePattern = written.parse().map_err(|error| {
        Family::Network.invalid(&format!("hostname: expected {EXPECTED_NAME}: {error}")).at("/hostname")
    })?;
    let own_names = &call.control.0.settings.own_names;
    if own_names.iter().any(|own| own.eq_ignore_ascii_case(pattern.as_str())) {
        let message = format!("hostname: {pattern} is this installation's own name");
        return Err(Family::Network.invalid(&message).at("/hostname"));
    }
    Ok(pattern)
}

async fn list(call: &Call<'_>) -> Result<Reply, ApiError> {
    let query = &call.query;
    let paging = query.paging(PER_PAGE, MAX_PER_PAGE)?;
    let filter = HostnameRouteFilter {
        id: query.parsed("id")?,
        // A text that is no name is no route's.
        hostname: query
            .text("hostname")
            .map(|text| text.parse::<HostnamePattern>().map_or_else(|_| text.to_owned(), String::from)),
        comment: query.text("comment").map(str::to_owned),
        tunnel: query.parsed::<TunnelId>("tunnel_id")?,
        deleted: query.deleted()?,
        existed_at: query.time("existed_at")?,
    };
    let page = call.control.0.store.hostname_route_list(call.account, &filter, paging.window()).await?;
    let rows: Vec<Value> = page.rows.iter().map(object).collect();
    let info = paging.info(rows.len(), page.total);
    Ok(Reply::Many { rows, info })
}

async fn fetch(call: &Call<'_>, id: &str) -> Result<Reply, ApiError> {
    let row = call.control.0.store.hostname_route_fetch(call.account, parse(id)?).await.map_err(missing)?;
    Ok(Reply::One(object(&row)))
}

async fn update(call: &Call<'_>, id: &str) -> Result<Reply, ApiError> {
    let id = parse(id)?;
    let fields = call.fields(Family::Network)?;
    let edit = HostnameRouteEdit {
        hostname: fields.text("hostname")?.map(|written| checked(call, written)).transpose()?,
        tunnel: fields.id("tunnel_id")?,
        comment: fields.comment("comment", MAX_COMMENT)?,
    };
    let store = &call.control.0.store;
    let done = store.hostname_route_update(&call.actor, call.account, id, edit, route::takeover(call)).await;
    Ok(Reply::One(object(&done.map_err(write_error)?.value)))
}

async fn delete(call: &Call<'_>, id: &str) -> Result<Reply, ApiError> {
    let done = call.control.0.store.hostname_route_delete(&call.actor, call.account, parse(id)?).await;
    Ok(Reply::One(object(&done.map_err(missing)?.value)))
}

object! {
    FIELDS = object(route: &HostnameRouteRow) [
        "id": Kind::Uuid => route.id,
        "hostname": Kind::Text => route.hostname,
        "tunnel_id": Kind::Uuid => route.tunnel,
        "tunnel_name": Kind::Text => route.tunnel_name,
        "tun_type": tunnel::KIND => route.tunnel_kind.as_str(),
        "comment": Kind::Text => route.comment,
        "created_at": Kind::Time => shape::time(route.created_at),
        "deleted_at": Kind::Maybe(&Kind::Time) => shape::maybe_time(route.deleted_at),
    ]
}

const HOSTNAME_ROUTE: Kind = Kind::Object("HostnameRoute", FIELDS, &[]);

fn parse(id: &str) -> Result<RouteId, ApiError> {
    id.parse().map_err(|_| not_found())
}

fn not_found() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, 1003, "Hostname route not found")
}

fn missing(error: FindError) -> ApiError {
    match error {
        FindError::NotFound => not_found(),
        FindError::Fault(fault) => fault.into(),
    }
}

fn write_error(error: HostnameRouteWriteError) -> ApiError {
    match error {
        HostnameRouteWriteError::NotFound => not_found(),
        HostnameRouteWriteError::TunnelNotFound => {
            Family::Network.invalid("Tunnel not found").at("/tunnel_id")
        }
        HostnameRouteWriteError::NamesTaken => {
            let message = "You already have a route defined for this exact hostname";
            ApiError::new(StatusCode::CONFLICT, 1014, message).at("/hostname")
        }
        HostnameRouteWriteError::TakesNames => {
            let message = "Authentication error: these names lead to another tunnel, and to take them away needs a \
                           token with Zero Trust Write";
            ApiError::new(StatusCode::FORBIDDEN, 10000, message)
        }
        HostnameRouteWriteError::Fault(fault) => fault.into(),
    }
}
