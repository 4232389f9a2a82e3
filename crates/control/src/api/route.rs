//! Routes (contract D, 6.4): `A/teamnet/routes` by id, and by network as older clients have it.

use std::net::IpAddr;

use adit_model::{Cidr, RouteId, TunnelId, VirtualNetworkId};
use adit_store::{
    Deleted, FindError, NewRoute, RouteEdit, RouteFilter, RouteRow, RouteWriteError, Takeover, Window,
};
use http::StatusCode;
use serde_json::Value;

use super::answer::{Kind, object};
use super::body::{Family, Fields};
use super::body_shape::{Field, Shape};
use super::envelope::{ApiError, Reply};
use super::operation::{Operation, Style, Verb};
use super::{Call, path, shape, tunnel, virtual_network};
use crate::permission::{Area, Level};

/// Longest comment, in characters.
const MAX_COMMENT: usize = 256;
const PER_PAGE: u64 = 20;
const MAX_PER_PAGE: u64 = 1000;

const CREATE: &[Field] = &[
    Field::required("network", "a network such as 10.0.0.0/8", Shape::Network),
    Field::required("tunnel_id", "a UUID", Shape::Uuid),
    Field::optional("comment", Shape::Comment(MAX_COMMENT)),
    Field::optional("virtual_network_id", Shape::UuidOrEmpty),
];

const CREATE_BY_NETWORK: &[Field] = &[
    Field::required("tunnel_id", "a UUID", Shape::Uuid),
    Field::optional("comment", Shape::Comment(MAX_COMMENT)),
    Field::optional("virtual_network_id", Shape::UuidOrEmpty),
];

const CHANGE: &[Field] = &[
    Field::optional("network", Shape::Network),
    Field::optional("tunnel_id", Shape::Uuid),
    Field::optional("comment", Shape::Comment(MAX_COMMENT)),
    Field::optional("virtual_network_id", Shape::UuidOrEmpty),
];

pub(super) const OPERATIONS: &[Operation] = &[
    Operation::post("/accounts/{account}/teamnet/routes", "Create a route", |call| {
        Box::pin(create(call, None))
    })
    .needs(Area::Tunnel, Level::Write)
    .body(Family::Network, CREATE)
    .answers(ROUTE),
    Operation::get("/accounts/{account}/teamnet/routes", "List routes", |call| Box::pin(list(call)))
        .needs(Area::Tunnel, Level::Read)
        .list(
            Style::Page,
            ROUTE,
            &[
                ("comment", Kind::Text),
                ("is_deleted", Kind::Flag),
                ("network_subset", Kind::Text),
                ("network_superset", Kind::Text),
                ("existed_at", Kind::Time),
                ("tunnel_id", Kind::Uuid),
                ("route_id", Kind::Uuid),
                ("virtual_network_id", Kind::Uuid),
                ("tun_types", Kind::Text),
            ],
        ),
    Operation::get("/accounts/{account}/teamnet/routes/ip/{ip}", "Find the route of an address", |call| {
        Box::pin(lookup(call, call.parameter("ip")))
    })
    .needs(Area::Tunnel, Level::Read)
    .answers(Kind::Maybe(&ROUTE))
    .query(&[("virtual_network_id", Kind::Uuid)]),
    Operation::get("/accounts/{account}/teamnet/routes/{route}", "Get a route", |call| {
        Box::pin(fetch(call, call.parameter("route")))
    })
    .needs(Area::Tunnel, Level::Read)
    .answers(ROUTE),
    Operation::patch("/accounts/{account}/teamnet/routes/{route}", "Change a route", |call| {
        Box::pin(update_by_id(call, call.parameter("route")))
    })
    .needs(Area::Tunnel, Level::Write)
    .body(Family::Network, CHANGE)
    .answers(ROUTE),
    Operation::delete("/accounts/{account}/teamnet/routes/{route}", "Delete a route", |call| {
        Box::pin(delete_by_id(call, call.parameter("route")))
    })
    .needs(Area::Tunnel, Level::Write)
    .answers(ROUTE),
    Operation::post(
        "/accounts/{account}/teamnet/routes/network/{network}",
        "Create a route by its network",
        |call| Box::pin(by_network(call, Verb::Post)),
    )
    .needs(Area::Tunnel, Level::Write)
    .body(Family::Network, CREATE_BY_NETWORK)
    .answers(ROUTE),
    Operation::patch(
        "/accounts/{account}/teamnet/routes/network/{network}",
        "Change a route by its network",
        |call| Box::pin(by_network(call, Verb::Patch)),
    )
    .needs(Area::Tunnel, Level::Write)
    .body(Family::Network, CHANGE)
    .answers(ROUTE),
    Operation::delete(
        "/accounts/{account}/teamnet/routes/network/{network}",
        "Delete a route by its network",
        |call| Box::pin(by_network(call, Verb::Delete)),
    )
    .needs(Area::Tunnel, Level::Write)
    .answers(ROUTE)
    .query(&[("virtual_network_id", Kind::Uuid), ("tunnel_id", Kind::Uuid)]),
    Operation::post(
        "/accounts/{account}/teamnet/routes/network/{network}/{length}",
        "Create a route by its network",
        |call| Box::pin(by_network(call, Verb::Post)),
    )
    .needs(Area::Tunnel, Level::Write)
    .body(Family::Network, CREATE_BY_NETWORK)
    .answers(ROUTE),
    Operation::patch(
        "/accounts/{account}/teamnet/routes/network/{network}/{length}",
        "Change a route by its network",
        |call| Box::pin(by_network(call, Verb::Patch)),
    )
    .needs(Area::Tunnel, Level::Write)
    .body(Family::Network, CHANGE)
    .answers(ROUTE),
    Operation::delete(
        "/accounts/{account}/teamnet/routes/network/{network}/{length}",
        "Delete a route by its network",
        |call| Box::pin(by_network(call, Verb::Delete)),
    )
    .needs(Area::Tunnel, Level::Write)
    .answers(ROUTE)
    .query(&[("virtual_network_id", Kind::Uuid), ("tunnel_id", Kind::Uuid)]),
];

async fn create(call: &Call<'_>, network: Option<&str>) -> Result<Reply, ApiError> {
    let fields = call.fields(Family::Network)?;
    let written = match network {
        Some(network) => network,
        None => fields.required("network", "a network such as 10.0.0.0/8", fields.text("network")?)?,
    };
    let (network, network_as_written) = checked(written)?;
    let tunnel: TunnelId = fields.required("tunnel_id", "a UUID", fields.id("tunnel_id")?)?;
    let new = NewRoute {
        network,
        network_as_written,
        tunnel,
        comment: fields.comment("comment", MAX_COMMENT)?.unwrap_or_default(),
        virtual_network: virtual_network_id(&fields)?,
    };
    let made = call.control.0.store.route_create(&call.actor, call.account, new, takeover(call)).await;
    Ok(Reply::One(object(&made.map_err(write_error)?.value)))
}

/// A token that may edit policy may also take addresses from another tunnel's networks (design, section 4).
pub(super) fn takeover(call: &Call<'_>) -> Takeover {
    match call.need(Area::ZeroTrust, Level::Write) {
        Ok(()) => Takeover::Allow,
        Err(_) => Takeover::Refuse,
    }
}

/// A network, and the text by which it is shown: as it was written, a bare address with its prefix length.
fn checked(written: &str) -> Result<(Cidr, String), ApiError> {
    let network = written.parse::<Cidr>().map_err(|error| {
        Family::Network.invalid(&format!("network is not a valid CIDR: {error}")).at("/network")
    })?;
    let shown = if written.contains('/') {
        written.to_owned()
    } else {
        format!("{written}/{}", network.net().prefix_len())
    };
    Ok((network, shown))
}

/// The virtual network of a body; an empty text is none, as an older client sends it.
fn virtual_network_id(fields: &Fields) -> Result<Option<VirtualNetworkId>, ApiError> {
    match fields.text("virtual_network_id")? {
        Some("") => Ok(None),
        _ => fields.id("virtual_network_id"),
    }
}

async fn list(call: &Call<'_>) -> Result<Reply, ApiError> {
    let query = &call.query;
    let paging = query.paging(PER_PAGE, MAX_PER_PAGE)?;
    let asked = tunnel::asked_kinds(&query.all("tun_types"));
    let filter = RouteFilter {
        tunnel_kind: if let [kind] = asked.as_slice() { Some(*kind) } else { None },
        id: query.parsed("route_id")?,
        comment: query.text("comment").map(str::to_owned),
        inside: query.parsed("network_subset")?,
        around: query.parsed("network_superset")?,
        tunnel: query.parsed("tunnel_id")?,
        virtual_network: query.parsed("virtual_network_id")?,
        deleted: query.deleted()?,
        existed_at: query.time("existed_at")?,
    };
    let page = call.control.0.store.route_list(call.account, &filter, paging.window()).await?;
    let rows: Vec<Value> = page.rows.iter().map(object).collect();
    let info = paging.info(rows.len(), page.total);
    Ok(Reply::Many { rows, info })
}

async fn fetch(call: &Call<'_>, id: &str) -> Result<Reply, ApiError> {
    let row = call.control.0.store.route_fetch(call.account, parse(id)?).await.map_err(missing)?;
    Ok(Reply::One(object(&row)))
}

async fn update_by_id(call: &Call<'_>, id: &str) -> Result<Reply, ApiError> {
    update(call, parse(id)?).await
}

async fn delete_by_id(call: &Call<'_>, id: &str) -> Result<Reply, ApiError> {
    delete(call, parse(id)?).await
}

async fn update(call: &Call<'_>, id: RouteId) -> Result<Reply, ApiError> {
    let fields = call.fields(Family::Network)?;
    let edit = RouteEdit {
        network: fields.text("network")?.map(checked).transpose()?,
        tunnel: fields.id("tunnel_id")?,
        comment: fields.comment("comment", MAX_COMMENT)?,
        virtual_network: virtual_network_id(&fields)?,
    };
    let done = call.control.0.store.route_update(&call.actor, call.account, id, edit, takeover(call)).await;
    Ok(Reply::One(object(&done.map_err(write_error)?.value)))
}

async fn delete(call: &Call<'_>, id: RouteId) -> Result<Reply, ApiError> {
    let done = call.control.0.store.route_delete(&call.actor, call.account, id).await;
    Ok(Reply::One(object(&done.map_err(missing)?.value)))
}

/// The longest prefix that holds an address; none is `null`, not 404 (contract D, 6.4).
async fn lookup(call: &Call<'_>, address: &str) -> Result<Reply, ApiError> {
    let store = &call.control.0.store;
    let address: IpAddr = address.parse().map_err(|_| {
        Family::Network.invalid("ip: expected an address such as 10.0.0.1 or 2001:db8::1, no network")
    })?;
    let network = match call.query.parsed("virtual_network_id")? {
        Some(id) => store.virtual_network_fetch(call.account, id).await,
        None => store.virtual_network_default(call.account).await,
    };
    let network = network.map_err(virtual_network::missing)?;
    let found = store.route_lookup(call.account, network.id, address.to_canonical()).await?;
    Ok(Reply::One(found.as_ref().map_or(Value::Null, object)))
}

/// `network/{cidr}`: what the 2022 provider uses to create, change and delete.
async fn by_network(call: &Call<'_>, verb: Verb) -> Result<Reply, ApiError> {
    let network = call.parameter("network");
    let network = match call.parameter("length") {
        // A client that escapes what its caller had escaped already.
        "" if network.contains('%') => path::unescaped(network).ok_or_else(not_found)?,
        "" => network.to_owned(),
        // Not escaped: two segments, the second of which is the prefix length.
        length => format!("{network}/{length}"),
    };
    let network = network.as_str();
    match verb {
        Verb::Post => create(call, Some(network)).await,
        Verb::Patch => update(call, resolve(call, network).await?).await,
        Verb::Delete => delete(call, resolve(call, network).await?).await,
        Verb::Get | Verb::Put => Err(ApiError::no_route()),
    }
}

/// The live route with this network: in the virtual network that the query or body names, else in the default one, else
/// the only one there is (contract D, 6.4: that client's delete does not say which).
async fn resolve(call: &Call<'_>, network: &str) -> Result<RouteId, ApiError> {
    let (network, _) = checked(network)?;
    let store = &call.control.0.store;
    let named: Option<VirtualNetworkId> = call.query.parsed("virtual_network_id")?;
    let filter = RouteFilter {
        inside: Some(network),
        around: Some(network),
        tunnel: call.query.parsed("tunnel_id")?,
        virtual_network: named,
        deleted: Deleted::Without,
        ..RouteFilter::default()
    };
    let found = store.route_list(call.account, &filter, Window::ALL).await?.rows;
    let default = store.virtual_network_default(call.account).await.map_err(virtual_network::missing)?.id;
    let in_default = found.iter().find(|route| route.virtual_network == default);
    match (in_default, found.as_slice()) {
        (Some(route), _) | (None, [route]) => Ok(route.id),
        (None, _) => Err(not_found()),
    }
}

object! {
    FIELDS = object(route: &RouteRow) [
        "id": Kind::Uuid => route.id,
        "network": Kind::Text => route.network_as_written,
        "tunnel_id": Kind::Uuid => route.tunnel,
        "tunnel_name": Kind::Text => route.tunnel_name,
        "tun_type": tunnel::KIND => route.tunnel_kind.as_str(),
        "virtual_network_id": Kind::Uuid => route.virtual_network,
        "virtual_network_name": Kind::Text => route.virtual_network_name,
        "comment": Kind::Text => route.comment,
        "created_at": Kind::Time => shape::time(route.created_at),
        "deleted_at": Kind::Maybe(&Kind::Time) => shape::maybe_time(route.deleted_at),
    ]
}

const ROUTE: Kind = Kind::Object("Route", FIELDS, &[]);

fn parse(id: &str) -> Result<RouteId, ApiError> {
    id.parse().map_err(|_| not_found())
}

fn not_found() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, 1003, "Route not found")
}

fn missing(error: FindError) -> ApiError {
    match error {
        FindError::NotFound => not_found(),
        FindError::Fault(fault) => fault.into(),
    }
}

fn write_error(error: RouteWriteError) -> ApiError {
    match error {
        RouteWriteError::NotFound => not_found(),
        RouteWriteError::TunnelNotFound => Family::Network.invalid("Tunnel not found").at("/tunnel_id"),
        RouteWriteError::VirtualNetworkNotFound => {
            Family::Network.invalid("Virtual network not found").at("/virtual_network_id")
        }
        RouteWriteError::NetworkTaken => {
            let message = "You already have a route defined for this exact IP subnet";
            ApiError::new(StatusCode::CONFLICT, 1014, message).at("/network")
        }
        RouteWriteError::TakesAddresses => {
            let message = "Authentication error: these addresses lead to another tunnel, and to take them away needs \
                           a token with Zero Trust Write";
            ApiError::new(StatusCode::FORBIDDEN, 10000, message)
        }
        RouteWriteError::Fault(fault) => fault.into(),
    }
}
