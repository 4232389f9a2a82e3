//! Tunnels (contract D, 6.1 to 6.3): `A/cfd_tunnel`, and `A/tunnels` for all kinds in one list. Another kind has other paths
//! ([`super::warp_connector`]), under which tunnels of this one are not found, and the same life.

use std::time::SystemTime;

use adit_model::{Command, ConnectionOpened, ConnectorId, TunnelId};
use adit_store::{
    Cascade, ConfigSource, FindError, NewTunnel, TunnelDeleteError, TunnelEdit, TunnelFilter, TunnelKind,
    TunnelRow, TunnelWriteError, Window,
};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use serde_json::{Value, json};
use time::OffsetDateTime;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::answer::{EMPTY, Kind, Member, object};
use super::body::{Family, Fields};
use super::body_shape::{Field, Shape};
use super::envelope::{ApiError, Reply};
use super::operation::{Operation, Style};
use super::{Call, configuration, management, shape};
use crate::install;
use crate::live::Live;
use crate::permission::{Area, Level};

/// Longest name of a tunnel, in characters.
pub(super) const MAX_NAME: usize = 100;
/// How long a secret is, in bytes; the upper bound is ours.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 32..=1024;
const SECRET_EXPECTED: &str = "tunnel_secret must be base64 of at least 32 bytes";
const PER_PAGE: u64 = 20;
const MAX_PER_PAGE: u64 = 1000;
/// From how many live connections on a tunnel is healthy.
const HEALTHY_CONNECTIONS: usize = 2;
/// The kind of `A/cfd_tunnel`.
const CONNECTOR_KIND: TunnelKind = TunnelKind::Connector;
/// What kinds are called.
pub(super) const KIND: Kind = Kind::OneOf(&["cfd_tunnel", "warp_connector"]);

/// What narrows a list of tunnels.
pub(super) const FILTERS: &[Member] = &[
    ("name", Kind::Text),
    ("name_prefix", Kind::Text),
    ("include_prefix", Kind::Text),
    ("exclude_prefix", Kind::Text),
    ("uuid", Kind::Uuid),
    ("is_deleted", Kind::Flag),
    ("status", Kind::OneOf(&Status::NAMES)),
    ("existed_at", Kind::Time),
    ("was_active_at", Kind::Time),
    ("was_inactive_at", Kind::Time),
    ("tun_types", Kind::Text),
];

const CREATE: &[Field] = &[
    Field::required("name", "1 to 100 printable characters", Shape::Name(MAX_NAME)),
    Field::optional("tunnel_secret", Shape::Secret(SECRET_EXPECTED)),
    Field::optional("config_src", Shape::OneOf(&["local", "cloudflare"])),
];

pub(super) const CHANGE: &[Field] = &[
    Field::optional("name", Shape::Name(MAX_NAME)),
    Field::optional("tunnel_secret", Shape::Secret(SECRET_EXPECTED)),
];

pub(super) const OPERATIONS: &[Operation] = &[
    Operation::post("/accounts/{account}/cfd_tunnel", "Create a tunnel", |call| Box::pin(create(call)))
        .needs(Area::Tunnel, Level::Write)
        .body(Family::Network, CREATE)
        .answers(CREATED),
    Operation::get("/accounts/{account}/cfd_tunnel", "List tunnels", |call| {
        Box::pin(list(call, &[CONNECTOR_KIND]))
    })
    .needs(Area::Tunnel, Level::Read)
    .list(Style::Page, TUNNEL, FILTERS),
    Operation::get("/accounts/{account}/tunnels", "List tunnels of every kind", |call| {
        Box::pin(list(call, &TunnelKind::ALL))
    })
    .needs(Area::Tunnel, Level::Read)
    .list(Style::Page, ANY, FILTERS),
    Operation::get("/accounts/{account}/cfd_tunnel/{tunnel}", "Get a tunnel", |call| {
        Box::pin(fetch(call, CONNECTOR_KIND, call.parameter("tunnel")))
    })
    .needs(Area::Tunnel, Level::Read)
    .answers(TUNNEL),
    Operation::patch("/accounts/{account}/cfd_tunnel/{tunnel}", "Change a tunnel", |call| {
        Box::pin(update(call, CONNECTOR_KIND, call.parameter("tunnel")))
    })
    .needs(Area::Tunnel, Level::Write)
    .body(Family::Network, CHANGE)
    .answers(TUNNEL),
    Operation::delete("/accounts/{account}/cfd_tunnel/{tunnel}", "Delete a tunnel", |call| {
        Box::pin(delete(call, CONNECTOR_KIND, call.parameter("tunnel")))
    })
    .needs(Area::Tunnel, Level::Write)
    .answers(TUNNEL)
    .query(&[("cascade", Kind::Flag)]),
    Operation::get(
        "/accounts/{account}/cfd_tunnel/{tunnel}/connections",
        "List a tunnel's connectors",
        |call| Box::pin(connections(call, CONNECTOR_KIND, call.parameter("tunnel"))),
    )
    .needs(Area::Tunnel, Level::Read)
    .list(Style::Single, CONNECTOR, &[]),
    Operation::delete(
        "/accounts/{account}/cfd_tunnel/{tunnel}/connections",
        "Close a tunnel's connections",
        |call| Box::pin(connections_close(call, CONNECTOR_KIND, call.parameter("tunnel"))),
    )
    .needs(Area::Tunnel, Level::Write)
    .answers(EMPTY)
    .query(&[("client_id", Kind::Uuid)]),
    Operation::get(
        "/accounts/{account}/cfd_tunnel/{tunnel}/connectors/{connector}",
        "Get a connector",
        |call| {
            let (tunnel, connector) = (call.parameter("tunnel"), call.parameter("connector"));
            Box::pin(connector_fetch(call, CONNECTOR_KIND, tunnel, connector))
        },
    )
    .needs(Area::Tunnel, Level::Read)
    .answers(CONNECTOR_TOLD),
    Operation::get(
        "/accounts/{account}/cfd_tunnel/{tunnel}/configurations",
        "Get a tunnel's configuration",
        |call| Box::pin(configuration::fetch(call, call.parameter("tunnel"))),
    )
    .needs(Area::Tunnel, Level::Read)
    .answers(configuration::CONFIGURATION),
    Operation::put(
        "/accounts/{account}/cfd_tunnel/{tunnel}/configurations",
        "Replace a tunnel's configuration",
        |call| Box::pin(configuration::put(call, call.parameter("tunnel"))),
    )
    .needs(Area::Tunnel, Level::Write)
    .body(Family::Network, configuration::PUT)
    .answers(configuration::CONFIGURATION),
    Operation::post(
        "/accounts/{account}/cfd_tunnel/{tunnel}/management",
        "Make a token for what connectors tell",
        |call| Box::pin(management::create(call, call.parameter("tunnel"))),
    )
    .needs(Area::Tunnel, Level::Write)
    .body(Family::Network, management::CREATE)
    .answers(Kind::Text),
    Operation::post(
        "/accounts/{account}/cfd_tunnel/{tunnel}/management/{resource}",
        "Make a token for one thing that connectors tell",
        |call| Box::pin(management::create_for(call, call.parameter("tunnel"), call.parameter("resource"))),
    )
    .needs(Area::Tunnel, Level::Write)
    .answers(Kind::Text),
    Operation::get("/accounts/{account}/cfd_tunnel/{tunnel}/token", "Get a tunnel's token", |call| {
        Box::pin(token_fetch(call, CONNECTOR_KIND, call.parameter("tunnel")))
    })
    .needs(Area::Tunnel, Level::Write)
    .answers(Kind::Text),
];

async fn create(call: &Call<'_>) -> Result<Reply, ApiError> {
    make(call, CONNECTOR_KIND).await
}

/// Makes a tunnel of a kind.
pub(super) async fn make(call: &Call<'_>, kind: TunnelKind) -> Result<Reply, ApiError> {
    let fields = call.fields(Family::Network)?;
    let name = fields.required("name", "1 to 100 printable characters", name(&fields)?)?;
    let secret = match fields.secret("tunnel_secret", SECRET_BYTES, SECRET_EXPECTED)? {
        Some(secret) => secret,
        None => Zeroizing::new(random_secret()?),
    };
    let config_source = match fields.text("config_src")? {
        None => ConfigSource::Local,
        Some(_) if kind != CONNECTOR_KIND => ConfigSource::Local,
        Some(name) => {
            ConfigSource::from_name(name).ok_or_else(|| fields.wrong("config_src", "local or cloudflare"))?
        }
    };
    let new = NewTunnel { kind, name, secret: secret.clone(), config_source };
    let made =
        call.control.0.store.tunnel_create(&call.actor, call.account, new).await.map_err(write_error)?;
    let mut object = object(&made.value, &call.control.live());
    object["token"] = token(call, made.value.id, &secret).into();
    object["x_edges"] = edges(&call.control.edges()).into();
    Ok(Reply::One(object))
}

/// Where connectors find the edge, at least two entries if there is one: a cloudflared that is told of one address only
/// redials it without a pause (tunnel protocol, 1.2).
fn edges(known: &[String]) -> Vec<String> {
    let again = if known.len() == 1 { known } else { &[] };
    known.iter().chain(again).cloned().collect()
}

/// A name that is no UUID, so that commands can take either (contract D, 6.2).
fn name(fields: &Fields) -> Result<Option<String>, ApiError> {
    let name = fields.name("name", MAX_NAME)?;
    if name.as_deref().is_some_and(|name| Uuid::try_parse(name).is_ok()) {
        return Err(fields.wrong("name", "a name that is no UUID"));
    }
    Ok(name)
}

fn random_secret() -> Result<Vec<u8>, ApiError> {
    let secret = install::random::<32>().ok_or_else(|| ApiError::internal(&aws_lc_rs::error::Unspecified))?;
    Ok(secret.to_vec())
}

/// The list of some kinds.
pub(super) async fn list(call: &Call<'_>, kinds: &[TunnelKind]) -> Result<Reply, ApiError> {
    let query = &call.query;
    let paging = query.paging(PER_PAGE, MAX_PER_PAGE)?;
    let asked = asked_kinds(&query.all("tun_types"));
    let kinds: Vec<TunnelKind> = kinds.iter().copied().filter(|kind| asked.contains(kind)).collect();
    let kind = match kinds.as_slice() {
        [] => return Ok(Reply::Many { rows: Vec::new(), info: paging.info(0, 0) }),
        [kind] => Some(*kind),
        _ => None,
    };
    let filter = TunnelFilter {
        kind,
        id: query.parsed("uuid")?,
        name: query.text("name").map(str::to_owned),
        name_prefix: query.text("name_prefix").or(query.text("include_prefix")).map(str::to_owned),
        exclude_prefix: query.text("exclude_prefix").map(str::to_owned),
        deleted: query.deleted()?,
        existed_at: query.time("existed_at")?,
        was_active_at: query.time("was_active_at")?,
        was_inactive_at: query.time("was_inactive_at")?,
    };
    let statuses = query.all("status");
    if let Some(wrong) = statuses.iter().find(|status| !Status::NAMES.contains(status)) {
        let message = format!("status: expected inactive, degraded, healthy or down, not {wrong:?}");
        return Err(Family::Network.invalid(&message));
    }
    let store = &call.control.0.store;
    if statuses.is_empty() {
        let page = store.tunnel_list(call.account, &filter, paging.window()).await?;
        let live = call.control.live();
        let rows: Vec<Value> = page.rows.iter().map(|tunnel| object(tunnel, &live)).collect();
        let info = paging.info(rows.len(), page.total);
        return Ok(Reply::Many { rows, info });
    }
    // What is live is not in the store: such a list is made here.
    let all = store.tunnel_list(call.account, &filter, Window::ALL).await?;
    let live = call.control.live();
    let matching: Vec<&TunnelRow> =
        all.rows.iter().filter(|tunnel| statuses.contains(&Status::of(tunnel, &live).as_str())).collect();
    let window = paging.window();
    let rows: Vec<Value> = matching
        .iter()
        .skip(usize::try_from(window.offset).unwrap_or(usize::MAX))
        .take(usize::try_from(window.limit).unwrap_or(usize::MAX))
        .map(|tunnel| object(tunnel, &live))
        .collect();
    let info = paging.info(rows.len(), matching.len() as u64);
    Ok(Reply::Many { rows, info })
}

/// The kinds that a `tun_types` filter lets through. Those that nobody knows any more are passed over (contract D, 6.4).
pub(super) fn asked_kinds(names: &[&str]) -> Vec<TunnelKind> {
    let known: Vec<TunnelKind> = names.iter().filter_map(|name| TunnelKind::from_name(name)).collect();
    if known.is_empty() { TunnelKind::ALL.to_vec() } else { known }
}

pub(super) async fn fetch(call: &Call<'_>, kind: TunnelKind, id: &str) -> Result<Reply, ApiError> {
    let row = row_of(call, kind, id).await?;
    Ok(Reply::One(object(&row, &call.control.live())))
}

pub(super) async fn update(call: &Call<'_>, kind: TunnelKind, id: &str) -> Result<Reply, ApiError> {
    let id = known(call, kind, id).await?;
    let fields = call.fields(Family::Network)?;
    let secret = fields.secret("tunnel_secret", SECRET_BYTES, SECRET_EXPECTED)?;
    let edit = TunnelEdit { name: name(&fields)?, secret };
    let done = call.control.0.store.tunnel_update(&call.actor, call.account, id, edit).await;
    Ok(Reply::One(object(&done.map_err(write_error)?.value, &call.control.live())))
}

pub(super) async fn delete(call: &Call<'_>, kind: TunnelKind, id: &str) -> Result<Reply, ApiError> {
    let store = &call.control.0.store;
    let cascade = if call.query.flag("cascade")? == Some(true) { Cascade::Delete } else { Cascade::Refuse };
    let tunnel = row_of(call, kind, id).await?;
    let id = tunnel.id;
    let connected = tunnel.deleted_at.is_none() && call.control.live().count(id) > 0;
    if connected && cascade == Cascade::Refuse {
        let message = "Cannot delete tunnel because it has active connections";
        return Err(ApiError::new(StatusCode::BAD_REQUEST, 1022, message));
    }
    let deleted = store.tunnel_delete(&call.actor, call.account, id, cascade).await;
    let row = deleted.map_err(|error| match error {
        TunnelDeleteError::NotFound => not_found(),
        TunnelDeleteError::HasRoutes => {
            let message = "Cannot delete tunnel because it has associated routes";
            ApiError::new(StatusCode::BAD_REQUEST, 1023, message)
        }
        TunnelDeleteError::Fault(fault) => fault.into(),
    })?;
    // Edges close the connections of a tunnel that is gone.
    call.control.live().dismiss(id, None);
    Ok(Reply::One(object(&row, &call.control.live())))
}

pub(super) async fn connections(call: &Call<'_>, kind: TunnelKind, id: &str) -> Result<Reply, ApiError> {
    let id = known(call, kind, id).await?;
    Ok(Reply::single(connectors(&call.control.live().of(id))))
}

pub(super) async fn connector_fetch(
    call: &Call<'_>,
    kind: TunnelKind,
    id: &str,
    connector: &str,
) -> Result<Reply, ApiError> {
    let id = known(call, kind, id).await?;
    let missing = || ApiError::new(StatusCode::NOT_FOUND, 1003, "Connector not found");
    let connector: ConnectorId = connector.parse().map_err(|_| missing())?;
    let mut open = call.control.live().of(id);
    open.retain(|open| open.connector == connector);
    let mut object = connectors(&open).pop().ok_or_else(missing)?;
    // What the connector itself said of its configuration; nobody has checked it.
    object["x_local_configuration"] = match call.control.live().configuration(id, connector) {
        Some(told) => serde_json::from_str(told).unwrap_or_else(|_| told.into()),
        None => Value::Null,
    };
    Ok(Reply::One(object))
}

pub(super) async fn connections_close(
    call: &Call<'_>,
    kind: TunnelKind,
    id: &str,
) -> Result<Reply, ApiError> {
    let connector: Option<ConnectorId> = call.query.parsed("client_id")?;
    let tunnel = known(call, kind, id).await?;
    let moved = call.control.live().dismiss(tunnel, connector);
    call.control.tunnel_moved(tunnel, moved, OffsetDateTime::now_utc()).await?;
    call.control.command(Command::CloseConnections { tunnel, connector });
    Ok(Reply::One(json!({})))
}

pub(super) async fn token_fetch(call: &Call<'_>, kind: TunnelKind, id: &str) -> Result<Reply, ApiError> {
    let id = known(call, kind, id).await?;
    let secret = call.control.0.store.tunnel_secret(call.account, id).await.map_err(missing)?;
    Ok(Reply::One(token(call, id, &secret).into()))
}

/// The token from which a connector learns all that it needs (tunnel protocol, 6.3): base64 of an object with the keys
/// `a`, `t`, `s` in this order.
fn token(call: &Call<'_>, id: TunnelId, secret: &[u8]) -> String {
    let secret = Zeroizing::new(STANDARD.encode(secret));
    let object = format!(r#"{{"a":"{}","t":"{id}","s":"{}"}}"#, call.account, secret.as_str());
    STANDARD.encode(Zeroizing::new(object).as_bytes())
}

/// The id of a tunnel of this kind that exists or existed.
async fn known(call: &Call<'_>, kind: TunnelKind, id: &str) -> Result<TunnelId, ApiError> {
    Ok(row_of(call, kind, id).await?.id)
}

/// A tunnel of `A/cfd_tunnel` that exists or existed.
pub(super) async fn row(call: &Call<'_>, id: &str) -> Result<TunnelRow, ApiError> {
    row_of(call, CONNECTOR_KIND, id).await
}

async fn row_of(call: &Call<'_>, kind: TunnelKind, id: &str) -> Result<TunnelRow, ApiError> {
    let row = call.control.0.store.tunnel_fetch(call.account, parse(id)?).await.map_err(missing)?;
    if row.kind == kind { Ok(row) } else { Err(not_found()) }
}

/// How a tunnel is (contract D, 6.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    Inactive,
    Degraded,
    Healthy,
    Down,
}

impl Status {
    const NAMES: [&'static str; 4] = ["inactive", "degraded", "healthy", "down"];

    fn of(tunnel: &TunnelRow, live: &Live) -> Self {
        match live.count(tunnel.id) {
            0 if tunnel.conns_active_at.is_none() => Self::Inactive,
            0 => Self::Down,
            HEALTHY_CONNECTIONS.. => Self::Healthy,
            _ => Self::Degraded,
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Inactive => "inactive",
            Self::Degraded => "degraded",
            Self::Healthy => "healthy",
            Self::Down => "down",
        }
    }
}

/// A tunnel, with what a connector's has beside.
fn object(tunnel: &TunnelRow, live: &Live) -> Value {
    let mut object = common(tunnel, live);
    if tunnel.kind == CONNECTOR_KIND {
        object["remote_config"] = (tunnel.config_source == ConfigSource::Control).into();
        object["config_src"] = tunnel.config_source.as_str().into();
    }
    object
}

object! {
    FIELDS = common(tunnel: &TunnelRow, live: &Live) with {
        let open = live.of(tunnel.id);
        // A time of the other kind is null, by which clients see whether the tunnel is up.
        let (active, inactive) = if open.is_empty() {
            (Value::Null, shape::maybe_time(tunnel.conns_inactive_at))
        } else {
            (shape::maybe_time(tunnel.conns_active_at), Value::Null)
        };
    } [
        "id": Kind::Uuid => tunnel.id,
        "account_tag": Kind::Tag => tunnel.account,
        "name": Kind::Text => tunnel.name,
        "created_at": Kind::Time => shape::time(tunnel.created_at),
        "deleted_at": Kind::Maybe(&Kind::Time) => shape::maybe_time(tunnel.deleted_at),
        "status": Kind::OneOf(&Status::NAMES) => Status::of(tunnel, live).as_str(),
        "tun_type": KIND => tunnel.kind.as_str(),
        "connections": Kind::Many(&CONNECTION) => open.iter().map(connection).collect::<Vec<_>>(),
        "conns_active_at": Kind::Maybe(&Kind::Time) => active,
        "conns_inactive_at": Kind::Maybe(&Kind::Time) => inactive,
        "metadata": Kind::Map(&Kind::Anything) => serde_json::Map::new(),
    ]
}

object! {
    CONNECTION_FIELDS = connection(open: &ConnectionOpened) [
        "id": Kind::Uuid => open.connection,
        "uuid": Kind::Uuid => open.connection,
        "colo_name": Kind::Text => open.node,
        "is_pending_reconnect": Kind::Flag => false,
        "origin_ip": Kind::Text => open.origin.to_canonical(),
        "opened_at": Kind::Time => shape::time(open.at.into()),
        "client_id": Kind::Uuid => open.connector,
        "client_version": Kind::Text => open.version,
    ]
}

/// Where a configuration comes from.
pub(super) const SOURCE: Kind = Kind::OneOf(&["local", "cloudflare"]);
const CONNECTION: Kind = Kind::Object("Connection", CONNECTION_FIELDS, &[]);
const TUNNEL: Kind = Kind::Object("Tunnel", FIELDS, &[("remote_config", Kind::Flag), ("config_src", SOURCE)]);
/// A tunnel of either kind.
const ANY: Kind = Kind::Object(
    "TunnelOfAnyKind",
    FIELDS,
    &[("remote_config", Kind::Sometimes(&Kind::Flag)), ("config_src", Kind::Sometimes(&SOURCE))],
);
/// A tunnel of another kind.
pub(super) const SITE: Kind = Kind::Object("WarpConnectorTunnel", FIELDS, &[]);
const TOKEN: Member = ("token", Kind::Text);
const EDGES: Member = ("x_edges", Kind::Many(&Kind::Text));
const CREATED: Kind = Kind::Object(
    "TunnelCreated",
    FIELDS,
    &[("remote_config", Kind::Flag), ("config_src", SOURCE), TOKEN, EDGES],
);
pub(super) const SITE_CREATED: Kind = Kind::Object("WarpConnectorTunnelCreated", FIELDS, &[TOKEN, EDGES]);
pub(super) const CONNECTOR: Kind = Kind::Object("Connector", CONNECTOR_FIELDS, &[]);
pub(super) const CONNECTOR_TOLD: Kind = Kind::Object(
    "ConnectorWithConfiguration",
    CONNECTOR_FIELDS,
    &[("x_local_configuration", Kind::Anything)],
);

/// One element for each connector; the connections come sorted by it.
fn connectors(open: &[ConnectionOpened]) -> Vec<Value> {
    open.chunk_by(|one, next| one.connector == next.connector)
        .map(|open| {
            let first = &open[0];
            let began = open.iter().map(|open| open.at).min().unwrap_or(first.at);
            connector_object(first, began, open)
        })
        .collect()
}

object! {
    CONNECTOR_FIELDS = connector_object(first: &ConnectionOpened, began: SystemTime, open: &[ConnectionOpened]) [
        "id": Kind::Uuid => first.connector,
        "arch": Kind::Text => first.architecture,
        "version": Kind::Text => first.version,
        "features": Kind::Many(&Kind::Text) => first.features,
        "run_at": Kind::Time => shape::time(began.into()),
        "config_version": Kind::Number => 0,
        "conns": Kind::Many(&CONNECTION) => open.iter().map(connection).collect::<Vec<_>>(),
    ]
}

pub(super) fn parse(id: &str) -> Result<TunnelId, ApiError> {
    id.parse().map_err(|_| not_found())
}

pub(super) fn not_found() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, 1003, "Tunnel not found")
}

pub(super) fn missing(error: FindError) -> ApiError {
    match error {
        FindError::NotFound => not_found(),
        FindError::Fault(fault) => fault.into(),
    }
}

fn write_error(error: TunnelWriteError) -> ApiError {
    match error {
        TunnelWriteError::NotFound => not_found(),
        TunnelWriteError::NameTaken => {
            ApiError::new(StatusCode::CONFLICT, 1013, "You already have a tunnel with this name").at("/name")
        }
        TunnelWriteError::Fault(fault) => fault.into(),
    }
}
