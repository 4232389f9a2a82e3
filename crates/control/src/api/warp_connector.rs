//! Tunnels of sites (contract D, 6.3): `A/warp_connector`.
//!
//! They have names, secrets, routes and connections as those of `A/cfd_tunnel` have, whose operations do the work; a connector
//! serves one by its token. Their configuration, and several at once as one (`ha`), are not built.

use adit_store::TunnelKind;

use super::Call;
use super::answer::{EMPTY, Kind};
use super::body::Family;
use super::body_shape::{Field, Shape};
use super::envelope::{ApiError, Reply};
use super::operation::{Operation, Style};
use super::tunnel::{
    CHANGE, CONNECTOR, CONNECTOR_TOLD, FILTERS, MAX_NAME, SITE, SITE_CREATED, connections, connections_close,
    connector_fetch, delete, fetch, list, make, token_fetch, update,
};
use crate::permission::{Area, Level};

const THIS: TunnelKind = TunnelKind::Site;

const CREATE: &[Field] = &[
    Field::required("name", "1 to 100 printable characters", Shape::Name(MAX_NAME)),
    Field::optional("ha", Shape::Flag),
];

pub(super) const OPERATIONS: &[Operation] = &[
    Operation::post("/accounts/{account}/warp_connector", "Create a tunnel of a site", |call| {
        Box::pin(create(call))
    })
    .needs(Area::Tunnel, Level::Write)
    .body(Family::Network, CREATE)
    .answers(SITE_CREATED),
    Operation::get("/accounts/{account}/warp_connector", "List tunnels of sites", |call| {
        Box::pin(list(call, &[THIS]))
    })
    .needs(Area::Tunnel, Level::Read)
    .list(Style::Page, SITE, FILTERS),
    Operation::get("/accounts/{account}/warp_connector/{site_tunnel}", "Get a tunnel of a site", |call| {
        Box::pin(fetch(call, THIS, call.parameter("site_tunnel")))
    })
    .needs(Area::Tunnel, Level::Read)
    .answers(SITE),
    Operation::patch(
        "/accounts/{account}/warp_connector/{site_tunnel}",
        "Change a tunnel of a site",
        |call| Box::pin(update(call, THIS, call.parameter("site_tunnel"))),
    )
    .needs(Area::Tunnel, Level::Write)
    .body(Family::Network, CHANGE)
    .answers(SITE),
    Operation::delete(
        "/accounts/{account}/warp_connector/{site_tunnel}",
        "Delete a tunnel of a site",
        |call| Box::pin(delete(call, THIS, call.parameter("site_tunnel"))),
    )
    .needs(Area::Tunnel, Level::Write)
    .answers(SITE)
    .query(&[("cascade", Kind::Flag)]),
    Operation::get(
        "/accounts/{account}/warp_connector/{site_tunnel}/token",
        "Get the token of a tunnel of a site",
        |call| Box::pin(token_fetch(call, THIS, call.parameter("site_tunnel"))),
    )
    .needs(Area::Tunnel, Level::Write)
    .answers(Kind::Text),
    Operation::get(
        "/accounts/{account}/warp_connector/{site_tunnel}/connections",
        "List the connectors of a tunnel of a site",
        |call| Box::pin(connections(call, THIS, call.parameter("site_tunnel"))),
    )
    .needs(Area::Tunnel, Level::Read)
    .list(Style::Single, CONNECTOR, &[]),
    Operation::delete(
        "/accounts/{account}/warp_connector/{site_tunnel}/connections",
        "Close the connections of a tunnel of a site",
        |call| Box::pin(connections_close(call, THIS, call.parameter("site_tunnel"))),
    )
    .needs(Area::Tunnel, Level::Write)
    .answers(EMPTY)
    .query(&[("client_id", Kind::Uuid)]),
    Operation::get(
        "/accounts/{account}/warp_connector/{site_tunnel}/connectors/{connector}",
        "Get a connector of a tunnel of a site",
        |call| {
            let (tunnel, connector) = (call.parameter("site_tunnel"), call.parameter("connector"));
            Box::pin(connector_fetch(call, THIS, tunnel, connector))
        },
    )
    .needs(Area::Tunnel, Level::Read)
    .answers(CONNECTOR_TOLD),
];

async fn create(call: &Call<'_>) -> Result<Reply, ApiError> {
    let fields = call.fields(Family::Network)?;
    if fields.flag("ha")? == Some(true) {
        return Err(Family::Network.invalid("ha: only false is built").at("/ha"));
    }
    make(call, THIS).await
}
