//! Virtual networks (contract D, 6.5): `A/teamnet/virtual_networks`.

use adit_model::VirtualNetworkId;
use adit_store::{
    Cascade, FindError, NewVirtualNetwork, VirtualNetworkDeleteError, VirtualNetworkEdit,
    VirtualNetworkFilter, VirtualNetworkRow, VirtualNetworkWriteError,
};
use http::StatusCode;

use super::answer::{Kind, object};
use super::body::{Family, Fields};
use super::body_shape::{Field, Shape};
use super::envelope::{ApiError, Reply};
use super::operation::{Operation, Style};
use super::{Call, shape};
use crate::permission::{Area, Level};

/// Longest name and comment, in characters.
const MAX_TEXT: usize = 256;

const CREATE: &[Field] = &[
    Field::required("name", "1 to 256 printable characters", Shape::Name(MAX_TEXT)),
    Field::optional("comment", Shape::Comment(MAX_TEXT)),
    Field::optional("is_default_network", Shape::Flag),
    Field::optional("is_default", Shape::Flag),
];

const CHANGE: &[Field] = &[
    Field::optional("name", Shape::Name(MAX_TEXT)),
    Field::optional("comment", Shape::Comment(MAX_TEXT)),
    Field::optional("is_default_network", Shape::Flag),
    Field::optional("is_default", Shape::Flag),
];

pub(super) const OPERATIONS: &[Operation] = &[
    Operation::post("/accounts/{account}/teamnet/virtual_networks", "Create a virtual network", |call| {
        Box::pin(create(call))
    })
    .needs(Area::Tunnel, Level::Write)
    .body(Family::Network, CREATE)
    .answers(VIRTUAL_NETWORK),
    Operation::get("/accounts/{account}/teamnet/virtual_networks", "List virtual networks", |call| {
        Box::pin(list(call))
    })
    .needs(Area::Tunnel, Level::Read)
    .list(
        Style::Single,
        VIRTUAL_NETWORK,
        &[
            ("id", Kind::Uuid),
            ("name", Kind::Text),
            ("is_default", Kind::Flag),
            ("is_default_network", Kind::Flag),
            ("is_deleted", Kind::Flag),
        ],
    ),
    Operation::get(
        "/accounts/{account}/teamnet/virtual_networks/{virtual_network}",
        "Get a virtual network",
        |call| Box::pin(fetch(call, call.parameter("virtual_network"))),
    )
    .needs(Area::Tunnel, Level::Read)
    .answers(VIRTUAL_NETWORK),
    Operation::patch(
        "/accounts/{account}/teamnet/virtual_networks/{virtual_network}",
        "Change a virtual network",
        |call| Box::pin(update(call, call.parameter("virtual_network"))),
    )
    .needs(Area::Tunnel, Level::Write)
    .body(Family::Network, CHANGE)
    .answers(VIRTUAL_NETWORK),
    Operation::delete(
        "/accounts/{account}/teamnet/virtual_networks/{virtual_network}",
        "Delete a virtual network",
        |call| Box::pin(delete(call, call.parameter("virtual_network"))),
    )
    .needs(Area::Tunnel, Level::Write)
    .answers(VIRTUAL_NETWORK)
    .query(&[("force", Kind::Flag)]),
];

async fn create(call: &Call<'_>) -> Result<Reply, ApiError> {
    let fields = call.fields(Family::Network)?;
    let name = fields.required("name", "1 to 256 printable characters", fields.name("name", MAX_TEXT)?)?;
    let new = NewVirtualNetwork {
        name,
        comment: fields.comment("comment", MAX_TEXT)?.unwrap_or_default(),
        is_default: is_default(&fields)?.unwrap_or(false),
    };
    let made = call.control.0.store.virtual_network_create(&call.actor, call.account, new).await;
    Ok(Reply::One(object(&made.map_err(write_error)?.value)))
}

/// The flag by its name or its alias.
fn is_default(fields: &Fields) -> Result<Option<bool>, ApiError> {
    Ok(fields.flag("is_default_network")?.or(fields.flag("is_default")?))
}

async fn list(call: &Call<'_>) -> Result<Reply, ApiError> {
    let query = &call.query;
    let filter = VirtualNetworkFilter {
        id: query.parsed("id")?,
        name: query.text("name").map(str::to_owned),
        is_default: query.flag("is_default_network")?.or(query.flag("is_default")?),
        deleted: query.deleted()?,
    };
    let rows = call.control.0.store.virtual_network_list(call.account, &filter).await?;
    Ok(Reply::single(rows.iter().map(object).collect()))
}

async fn fetch(call: &Call<'_>, id: &str) -> Result<Reply, ApiError> {
    let row = call.control.0.store.virtual_network_fetch(call.account, parse(id)?).await;
    Ok(Reply::One(object(&row.map_err(missing)?)))
}

async fn update(call: &Call<'_>, id: &str) -> Result<Reply, ApiError> {
    let id = parse(id)?;
    let fields = call.fields(Family::Network)?;
    let edit = VirtualNetworkEdit {
        name: fields.name("name", MAX_TEXT)?,
        comment: fields.comment("comment", MAX_TEXT)?,
        is_default: is_default(&fields)?,
    };
    let done = call.control.0.store.virtual_network_update(&call.actor, call.account, id, edit).await;
    Ok(Reply::One(object(&done.map_err(write_error)?.value)))
}

async fn delete(call: &Call<'_>, id: &str) -> Result<Reply, ApiError> {
    let id = parse(id)?;
    let cascade = if call.query.flag("force")? == Some(true) { Cascade::Delete } else { Cascade::Refuse };
    let done = call.control.0.store.virtual_network_delete(&call.actor, call.account, id, cascade).await;
    let row = done.map_err(|error| match error {
        VirtualNetworkDeleteError::NotFound => not_found(),
        VirtualNetworkDeleteError::DefaultNeeded => default_needed(),
        VirtualNetworkDeleteError::HasRoutes => {
            let message = "Cannot delete virtual network because it has routes; force=true deletes them too";
            ApiError::new(StatusCode::BAD_REQUEST, 1019, message)
        }
        VirtualNetworkDeleteError::Fault(fault) => fault.into(),
    })?;
    Ok(Reply::One(object(&row)))
}

object! {
    FIELDS = object(network: &VirtualNetworkRow) [
        "id": Kind::Uuid => network.id,
        "name": Kind::Text => network.name,
        "comment": Kind::Text => network.comment,
        "is_default_network": Kind::Flag => network.is_default,
        "created_at": Kind::Time => shape::time(network.created_at),
        "deleted_at": Kind::Maybe(&Kind::Time) => shape::maybe_time(network.deleted_at),
    ]
}

const VIRTUAL_NETWORK: Kind = Kind::Object("VirtualNetwork", FIELDS, &[]);

fn parse(id: &str) -> Result<VirtualNetworkId, ApiError> {
    id.parse().map_err(|_| not_found())
}

fn not_found() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, 1003, "Virtual network not found")
}

pub(super) fn missing(error: FindError) -> ApiError {
    match error {
        FindError::NotFound => not_found(),
        FindError::Fault(fault) => fault.into(),
    }
}

fn default_needed() -> ApiError {
    let message = "The default virtual network cannot be removed; make another one the default first";
    ApiError::new(StatusCode::BAD_REQUEST, 1018, message)
}

fn write_error(error: VirtualNetworkWriteError) -> ApiError {
    match error {
        VirtualNetworkWriteError::NotFound => not_found(),
        VirtualNetworkWriteError::NameTaken => {
            let message = "You already have a virtual network with this name";
            ApiError::new(StatusCode::CONFLICT, 1017, message).at("/name")
        }
        VirtualNetworkWriteError::DefaultNeeded => default_needed().at("/is_default_network"),
        VirtualNetworkWriteError::Fault(fault) => fault.into(),
    }
}
