//! Routes (contract D, 6.4): in one virtual network no two live ones have the same network.

use std::net::IpAddr;

use adit_model::{AccountId, Change, Cidr, Route, RouteId, TunnelId, VirtualNetworkId};
use ipnet::IpNet;
use time::OffsetDateTime;

use crate::query::QueryBuilder;
use crate::row::{Columns, Connection, Fault, Row, to_hex, to_micros};
use crate::tunnel::{TunnelKind, tunnel_live};
use crate::virtual_network::{virtual_network_default, virtual_network_live};
use crate::write::{Actor, Deed, FindError, Write, new_uuid};
use crate::{Deleted, Page, Store, Window, Written};

/// A route, with the names of what it refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteRow {
    /// Its id.
    pub id: RouteId,
    /// Its account.
    pub account: AccountId,
    /// Its virtual network.
    pub virtual_network: VirtualNetworkId,
    /// The name of its virtual network.
    pub virtual_network_name: String,
    /// Its tunnel.
    pub tunnel: TunnelId,
    /// The name of its tunnel.
    pub tunnel_name: String,
    /// What its tunnel is listed as.
    pub tunnel_kind: TunnelKind,
    /// The destinations.
    pub network: Cidr,
    /// The destinations as they were written.
    pub network_as_written: String,
    /// What people wrote about it.
    pub comment: String,
    /// When it was made.
    pub created_at: OffsetDateTime,
    /// When it was deleted, if it was.
    pub deleted_at: Option<OffsetDateTime>,
}

/// Whether a route may take addresses away from another tunnel (design, section 4): the token that asks may edit policy,
/// or it may not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Takeover {
    /// It may; the audit record says so.
    Allow,
    /// It may not.
    Refuse,
}

/// A route to make.
#[derive(Debug, Clone)]
pub struct NewRoute {
    /// The destinations.
    pub network: Cidr,
    /// The destinations as they were written.
    pub network_as_written: String,
    /// The tunnel that leads there.
    pub tunnel: TunnelId,
    /// The comment.
    pub comment: String,
    /// The virtual network; `None` is the default one.
    pub virtual_network: Option<VirtualNetworkId>,
}

/// What to change of a route; `None` leaves as it is.
#[derive(Debug, Clone, Default)]
pub struct RouteEdit {
    /// Other destinations, and how they were written.
    pub network: Option<(Cidr, String)>,
    /// Another tunnel.
    pub tunnel: Option<TunnelId>,
    /// Another comment.
    pub comment: Option<String>,
    /// Another virtual network.
    pub virtual_network: Option<VirtualNetworkId>,
}

/// Which routes a list has.
#[derive(Debug, Clone, Default)]
pub struct RouteFilter {
    /// Only those of tunnels of this kind.
    pub tunnel_kind: Option<TunnelKind>,
    /// Only the one with this id.
    pub id: Option<RouteId>,
    /// Only those with exactly this comment.
    pub comment: Option<String>,
    /// Only those inside this network, or equal.
    pub inside: Option<Cidr>,
    /// Only those that contain this network, or equal it.
    pub around: Option<Cidr>,
    /// Only those of this tunnel.
    pub tunnel: Option<TunnelId>,
    /// Only those of this virtual network.
    pub virtual_network: Option<VirtualNetworkId>,
    /// Whether deleted ones are in it.
    pub deleted: Deleted,
    /// Only those that existed then.
    pub existed_at: Option<OffsetDateTime>,
}

/// A route could not be made or changed.
#[derive(Debug, thiserror::Error)]
pub enum RouteWriteError {
    /// This account has no live one with that id.
    #[error("not found")]
    NotFound,
    /// This account has no live tunnel with that id.
    #[error("the tunnel is not found")]
    TunnelNotFound,
    /// This account has no live virtual network with that id.
    #[error("the virtual network is not found")]
    VirtualNetworkNotFound,
    /// Another live one in the virtual network has the network.
    #[error("the network is taken")]
    NetworkTaken,
    /// Its addresses lead to another tunnel now.
    #[error("the addresses lead to another tunnel")]
    TakesAddresses,
    /// The store failed.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl From<sqlx::Error> for RouteWriteError {
    fn from(error: sqlx::Error) -> Self {
        Self::Fault(error.into())
    }
}

impl Store {
    /// Makes a route.
    pub async fn route_create(
        &self,
        actor: &Actor,
        account: AccountId,
        new: NewRoute,
        takeover: Takeover,
    ) -> Result<Written<RouteRow>, RouteWriteError> {
        let mut write = self.write().await?;
        let network = match new.virtual_network {
            Some(id) => virtual_network_live(write.sql(), account, id).await?,
            None => virtual_network_default(write.sql(), account).await?,
        };
        let network = network.ok_or(RouteWriteError::VirtualNetworkNotFound)?;
        let tunnel = tunnel_live(write.sql(), account, new.tunnel).await?;
        let tunnel = tunnel.ok_or(RouteWriteError::TunnelNotFound)?;
        let row = RouteRow {
            id: RouteId::from_uuid(new_uuid()),
            account,
            virtual_network: network.id,
            virtual_network_name: network.name,
            tunnel: tunnel.id,
            tunnel_name: tunnel.name,
            tunnel_kind: tunnel.kind,
            network: new.network,
            network_as_written: new.network_as_written,
            comment: new.comment,
            created_at: write.time(),
            deleted_at: None,
        };
        network_free(write.sql(), &row).await?;
        let takes = takes_addresses(write.sql(), &row).await?;
        if takes && takeover == Takeover::Refuse {
            return Err(RouteWriteError::TakesAddresses);
        }
        let at = write.at();
        let (low, high) = bounds(row.network);
        sqlx::query(
            "INSERT INTO routes (id, account_id, virtual_network_id, tunnel_id, network, network_as_written, \
             network_low, network_high, prefix_length, comment, created_at, updated_at) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $11)",
        )
        .bind(row.id.to_string())
        .bind(account.to_string())
        .bind(row.virtual_network.to_string())
        .bind(row.tunnel.to_string())
        .bind(row.network.to_string())
        .bind(&row.network_as_written)
        .bind(low)
        .bind(high)
        .bind(i64::from(row.network.net().prefix_len()))
        .bind(&row.comment)
        .bind(at)
        .execute(write.sql())
        .await?;
        write.change(Change::RoutePut(row.change()));
        Ok(self.route_commit(write, actor, "route.create", row, takes).await?)
    }

    /// Changes a live route, at once for the edges: there is no instant without it.
    pub async fn route_update(
        &self,
        actor: &Actor,
        account: AccountId,
        id: RouteId,
        edit: RouteEdit,
        takeover: Takeover,
    ) -> Result<Written<RouteRow>, RouteWriteError> {
        let mut write = self.write().await?;
        let found = route_live(write.sql(), account, id).await?;
        let mut row = found.ok_or(RouteWriteError::NotFound)?;
        let moved = edit.tunnel.is_some_and(|tunnel| tunnel != row.tunnel);
        if let Some(id) = edit.virtual_network {
            let network = virtual_network_live(write.sql(), account, id).await?;
            let network = network.ok_or(RouteWriteError::VirtualNetworkNotFound)?;
            (row.virtual_network, row.virtual_network_name) = (network.id, network.name);
        }
        if let Some(id) = edit.tunnel {
            let tunnel = tunnel_live(write.sql(), account, id).await?;
            let tunnel = tunnel.ok_or(RouteWriteError::TunnelNotFound)?;
            (row.tunnel, row.tunnel_name, row.tunnel_kind) = (tunnel.id, tunnel.name, tunnel.kind);
        }
        if let Some((network, written)) = edit.network {
            (row.network, row.network_as_written) = (network, written);
        }
        row.comment = edit.comment.unwrap_or(row.comment);
        network_free(write.sql(), &row).await?;
        let takes = moved || takes_addresses(write.sql(), &row).await?;
        if takes && takeover == Takeover::Refuse {
            return Err(RouteWriteError::TakesAddresses);
        }
        let at = write.at();
        let (low, high) = bounds(row.network);
        sqlx::query(
            "UPDATE routes SET virtual_network_id = $2, tunnel_id = $3, network = $4, network_as_written = $5, \
             network_low = $6, network_high = $7, prefix_length = $8, comment = $9, updated_at = $10 WHERE id = $1",
        )
        .bind(id.to_string())
        .bind(row.virtual_network.to_string())
        .bind(row.tunnel.to_string())
        .bind(row.network.to_string())
        .bind(&row.network_as_written)
        .bind(low)
        .bind(high)
        .bind(i64::from(row.network.net().prefix_len()))
        .bind(&row.comment)
        .bind(at)
        .execute(write.sql())
        .await?;
        write.change(Change::RoutePut(row.change()));
        Ok(self.route_commit(write, actor, "route.update", row, takes).await?)
    }

    /// Deletes a live route.
    pub async fn route_delete(
        &self,
        actor: &Actor,
        account: AccountId,
        id: RouteId,
    ) -> Result<Written<RouteRow>, FindError> {
        let mut write = self.write().await?;
        let mut row = route_live(write.sql(), account, id).await?.ok_or(FindError::NotFound)?;
        let at = write.at();
        sqlx::query("UPDATE routes SET deleted_at = $2 WHERE id = $1")
            .bind(id.to_string())
            .bind(at)
            .execute(write.sql())
            .await?;
        row.deleted_at = Some(write.time());
        write.change(Change::RouteRemoved { id });
        Ok(self.route_commit(write, actor, "route.delete", row, false).await?)
    }

    async fn route_commit(
        &self,
        write: Write,
        actor: &Actor,
        action: &'static str,
        row: RouteRow,
        takes_addresses: bool,
    ) -> Result<Written<RouteRow>, Fault> {
        let id = row.id.to_string();
        let detail = serde_json::json!({
            "network": row.network, "tunnel_id": row.tunnel, "virtual_network_id": row.virtual_network,
            "comment": row.comment, "takes_addresses": takes_addresses,
        });
        let deed = Deed { account: Some(row.account), action, kind: "route", id: &id, detail };
        self.commit(write, actor, deed, row).await
    }

    /// The live route with this id.
    pub async fn route_fetch(&self, account: AccountId, id: RouteId) -> Result<RouteRow, FindError> {
        let mut reader = self.read().await?;
        route_live(reader.sql(), account, id).await?.ok_or(FindError::NotFound)
    }

    /// The routes that pass the filter, oldest first.
    pub async fn route_list(
        &self,
        account: AccountId,
        filter: &RouteFilter,
        window: Window,
    ) -> Result<Page<RouteRow>, Fault> {
        let mut reader = self.snapshot().await?;
        let count = filter.query("SELECT count(*) FROM routes r WHERE true", account);
        let total: i64 = count.build_query_scalar().fetch_one(reader.sql()).await?;
        let mut query = filter.query(SELECT, account);
        query.push(" ORDER BY r.created_at, r.id LIMIT ").push_bind(window.limit_sql());
        query.push(" OFFSET ").push_bind(window.offset_sql());
        let rows = query.build().fetch_all(reader.sql()).await?;
        Page::try_from_rows(total, &rows, route_row)
    }

    /// The live route with the longest prefix that holds the address, in this virtual network.
    pub async fn route_lookup(
        &self,
        account: AccountId,
        virtual_network: VirtualNetworkId,
        address: IpAddr,
    ) -> Result<Option<RouteRow>, Fault> {
        let mut query = QueryBuilder::new(SELECT);
        query.push(" AND r.account_id = ").push_bind(account.to_string());
        query.push(" AND r.virtual_network_id = ").push_bind(virtual_network.to_string());
        query.push(" AND r.deleted_at IS NULL AND r.network IN (");
        query.push_binds(networks_around(IpNet::from(address)));
        query.push(") ORDER BY r.prefix_length DESC LIMIT 1");
        let row = query.build().fetch_optional(self.read().await?.sql()).await?;
        row.as_ref().map(route_row).transpose()
    }
}

const SELECT: &str = "SELECT r.*, t.name AS tunnel_name, t.kind AS tunnel_kind, v.name AS virtual_network_name FROM routes r \
     JOIN tunnels t ON t.id = r.tunnel_id JOIN virtual_networks v ON v.id = r.virtual_network_id WHERE true";

impl RouteFilter {
    fn query(&self, select: &str, account: AccountId) -> QueryBuilder {
        let mut query = QueryBuilder::new(select);
        query.push(" AND r.account_id = ").push_bind(account.to_string());
        if let Some(id) = self.id {
            query.push(" AND r.id = ").push_bind(id.to_string());
        }
        if let Some(comment) = &self.comment {
            query.push(" AND r.comment = ").push_bind(comment.as_str());
        }
        if let Some((low, high)) = self.inside.map(bounds) {
            // The first address is inside too, which bounds the search in the index from both sides.
            query.push(" AND r.network_low >= ").push_bind(low);
            query.push(" AND r.network_low <= ").push_bind(high.clone());
            query.push(" AND r.network_high <= ").push_bind(high);
        }
        if let Some(network) = self.around {
            query.push(" AND r.network IN (");
            query.push_binds(networks_around(network.net()));
            query.push(")");
        }
        if let Some(kind) = self.tunnel_kind {
            query.push(" AND r.tunnel_id IN (SELECT id FROM tunnels WHERE kind = ").push_bind(kind.as_str());
            query.push(")");
        }
        if let Some(tunnel) = self.tunnel {
            query.push(" AND r.tunnel_id = ").push_bind(tunnel.to_string());
        }
        if let Some(network) = self.virtual_network {
            query.push(" AND r.virtual_network_id = ").push_bind(network.to_string());
        }
        if let Some(at) = self.existed_at.map(to_micros) {
            query.push(" AND r.created_at <= ").push_bind(at);
            query.push(" AND (r.deleted_at IS NULL OR r.deleted_at > ").push_bind(at).push(")");
        }
        query.push(self.deleted.sql("r.deleted_at"));
        query
    }
}

impl RouteRow {
    /// What an edge needs of it.
    pub(crate) const fn change(&self) -> Route {
        Route {
            id: self.id,
            account: self.account,
            virtual_network: self.virtual_network,
            network: self.network,
            tunnel: self.tunnel,
        }
    }
}

/// The first and the last address of a network, as texts that sort like the addresses within a family.
fn bounds(network: Cidr) -> (String, String) {
    let network = network.net();
    (address_key(network.network()), address_key(network.broadcast()))
}

fn address_key(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => format!("4{}", to_hex(&v4.octets())),
        IpAddr::V6(v6) => format!("6{}", to_hex(&v6.octets())),
    }
}

async fn route_live(
    sql: &mut Connection,
    account: AccountId,
    id: RouteId,
) -> Result<Option<RouteRow>, Fault> {
    let mut query = QueryBuilder::new(SELECT);
    query.push(" AND r.account_id = ").push_bind(account.to_string());
    query.push(" AND r.id = ").push_bind(id.to_string()).push(" AND r.deleted_at IS NULL");
    let row = query.build().fetch_optional(sql).await?;
    row.as_ref().map(route_row).transpose()
}

async fn network_free(sql: &mut Connection, row: &RouteRow) -> Result<(), RouteWriteError> {
    let taken: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM routes \
         WHERE virtual_network_id = $1 AND network = $2 AND id <> $3 AND deleted_at IS NULL",
    )
    .bind(row.virtual_network.to_string())
    .bind(row.network.to_string())
    .bind(row.id.to_string())
    .fetch_one(sql)
    .await?;
    if taken == 0 { Ok(()) } else { Err(RouteWriteError::NetworkTaken) }
}

/// Every network that holds this one, and itself, as the column `network` spells them: few enough to be looked up one by
/// one, where comparing bounds would read every route.
fn networks_around(network: IpNet) -> impl Iterator<Item = String> {
    std::iter::successors(Some(network), IpNet::supernet).map(|network| network.to_string())
}

/// Whether the route stands inside a network that leads to another tunnel.
async fn takes_addresses(sql: &mut Connection, row: &RouteRow) -> Result<bool, Fault> {
    let mut query = QueryBuilder::new("SELECT count(*) FROM routes WHERE virtual_network_id = ");
    query.push_bind(row.virtual_network.to_string()).push(" AND id <> ").push_bind(row.id.to_string());
    query.push(" AND tunnel_id <> ").push_bind(row.tunnel.to_string());
    query.push(" AND deleted_at IS NULL AND network IN (");
    query.push_binds(networks_around(row.network.net()));
    query.push(")");
    let around: i64 = query.build_query_scalar().fetch_one(sql).await?;
    Ok(around > 0)
}

fn route_row(row: &Row) -> Result<RouteRow, Fault> {
    let columns = Columns::new(row, "routes");
    Ok(RouteRow {
        id: columns.parsed("id")?,
        account: columns.parsed("account_id")?,
        virtual_network: columns.parsed("virtual_network_id")?,
        virtual_network_name: columns.text("virtual_network_name")?,
        tunnel: columns.parsed("tunnel_id")?,
        tunnel_name: columns.text("tunnel_name")?,
        tunnel_kind: TunnelKind::read(&columns, "tunnel_kind")?,
        network: columns.parsed("network")?,
        network_as_written: columns.text("network_as_written")?,
        comment: columns.text("comment")?,
        created_at: columns.time("created_at")?,
        deleted_at: columns.maybe_time("deleted_at")?,
    })
}

/// The live routes of all accounts as an edge needs them.
pub(crate) async fn route_changes(sql: &mut Connection) -> Result<Vec<Change>, Fault> {
    let live = format!("{SELECT} AND r.deleted_at IS NULL ORDER BY r.created_at, r.id");
    let rows = sqlx::query(&live).fetch_all(sql).await?;
    rows.iter().map(|row| Ok(Change::RoutePut(route_row(row)?.change()))).collect()
}
