//! Hostname routes (contract D, 6.6): in one account no two live ones have the same names.

use adit_model::{AccountId, Change, HostnamePattern, HostnameRoute, RouteId, TunnelId};
use time::OffsetDateTime;

use crate::query::QueryBuilder;
use crate::row::{Columns, Connection, Fault, Row, to_micros};
use crate::tunnel::{TunnelKind, tunnel_live};
use crate::write::{Actor, Deed, FindError, Write, new_uuid};
use crate::{Deleted, Page, Store, Takeover, Window, Written};

/// A hostname route, with the name of its tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostnameRouteRow {
    /// Its id.
    pub id: RouteId,
    /// Its account.
    pub account: AccountId,
    /// The names.
    pub hostname: HostnamePattern,
    /// Its tunnel.
    pub tunnel: TunnelId,
    /// The name of its tunnel.
    pub tunnel_name: String,
    /// What its tunnel is listed as.
    pub tunnel_kind: TunnelKind,
    /// What people wrote about it.
    pub comment: String,
    /// When it was made.
    pub created_at: OffsetDateTime,
    /// When it was deleted, if it was.
    pub deleted_at: Option<OffsetDateTime>,
}

/// A hostname route to make.
#[derive(Debug, Clone)]
pub struct NewHostnameRoute {
    /// The names.
    pub hostname: HostnamePattern,
    /// The tunnel that leads there.
    pub tunnel: TunnelId,
    /// The comment.
    pub comment: String,
}

/// What to change of a hostname route; `None` leaves as it is.
#[derive(Debug, Clone, Default)]
pub struct HostnameRouteEdit {
    /// Other names.
    pub hostname: Option<HostnamePattern>,
    /// Another tunnel.
    pub tunnel: Option<TunnelId>,
    /// Another comment.
    pub comment: Option<String>,
}

/// Which hostname routes a list has.
#[derive(Debug, Clone, Default)]
pub struct HostnameRouteFilter {
    /// Only the one with this id.
    pub id: Option<RouteId>,
    /// Only the one of exactly these names, as they are written.
    pub hostname: Option<String>,
    /// Only those with exactly this comment.
    pub comment: Option<String>,
    /// Only those of this tunnel.
    pub tunnel: Option<TunnelId>,
    /// Whether deleted ones are in it.
    pub deleted: Deleted,
    /// Only those that existed then.
    pub existed_at: Option<OffsetDateTime>,
}

/// A hostname route could not be made or changed.
#[derive(Debug, thiserror::Error)]
pub enum HostnameRouteWriteError {
    /// This account has no live one with that id.
    #[error("not found")]
    NotFound,
    /// This account has no live tunnel with that id.
    #[error("the tunnel is not found")]
    TunnelNotFound,
    /// Another live one of the account has the names.
    #[error("the names are taken")]
    NamesTaken,
    /// Its names lead to another tunnel now.
    #[error("the names lead to another tunnel")]
    TakesNames,
    /// The store failed.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl From<sqlx::Error> for HostnameRouteWriteError {
    fn from(error: sqlx::Error) -> Self {
        Self::Fault(error.into())
    }
}

impl Store {
    /// Makes a hostname route.
    pub async fn hostname_route_create(
        &self,
        actor: &Actor,
        account: AccountId,
        new: NewHostnameRoute,
        takeover: Takeover,
    ) -> Result<Written<HostnameRouteRow>, HostnameRouteWriteError> {
        let mut write = self.write().await?;
        let tunnel = tunnel_live(write.sql(), account, new.tunnel).await?;
        let tunnel = tunnel.ok_or(HostnameRouteWriteError::TunnelNotFound)?;
        let row = HostnameRouteRow {
            id: RouteId::from_uuid(new_uuid()),
            account,
            hostname: new.hostname,
            tunnel: tunnel.id,
            tunnel_name: tunnel.name,
            tunnel_kind: tunnel.kind,
            comment: new.comment,
            created_at: write.time(),
            deleted_at: None,
        };
        let takes = checked(write.sql(), &row, takeover, false).await?;
        let at = write.at();
        sqlx::query(
            "INSERT INTO hostname_routes (id, account_id, hostname, tunnel_id, comment, created_at, updated_at) \
             VALUES ($1, $2, $3, $4, $5, $6, $6)",
        )
        .bind(row.id.to_string())
        .bind(account.to_string())
        .bind(row.hostname.as_str())
        .bind(row.tunnel.to_string())
        .bind(&row.comment)
        .bind(at)
        .execute(write.sql())
        .await?;
        write.change(Change::HostnameRoutePut(row.change()));
        Ok(self.hostname_route_commit(write, actor, "hostname_route.create", row, takes).await?)
    }

    /// Changes a live hostname route, at once for the edges: there is no instant without it.
    pub async fn hostname_route_update(
        &self,
        actor: &Actor,
        account: AccountId,
        id: RouteId,
        edit: HostnameRouteEdit,
        takeover: Takeover,
    ) -> Result<Written<HostnameRouteRow>, HostnameRouteWriteError> {
        let mut write = self.write().await?;
        let found = hostname_route_live(write.sql(), account, id).await?;
        let mut row = found.ok_or(HostnameRouteWriteError::NotFound)?;
        let moved = edit.tunnel.is_some_and(|tunnel| tunnel != row.tunnel);
        if let Some(id) = edit.tunnel {
            let tunnel = tunnel_live(write.sql(), account, id).await?;
            let tunnel = tunnel.ok_or(HostnameRouteWriteError::TunnelNotFound)?;
            (row.tunnel, row.tunnel_name, row.tunnel_kind) = (tunnel.id, tunnel.name, tunnel.kind);
        }
        row.hostname = edit.hostname.unwrap_or(row.hostname);
        row.comment = edit.comment.unwrap_or(row.comment);
        let takes = checked(write.sql(), &row, takeover, moved).await?;
        let at = write.at();
        sqlx::query(
            "UPDATE hostname_routes SET hostname = $2, tunnel_id = $3, comment = $4, updated_at = $5 WHERE id = $1",
        )
        .bind(id.to_string())
        .bind(row.hostname.as_str())
        .bind(row.tunnel.to_string())
        .bind(&row.comment)
        .bind(at)
        .execute(write.sql())
        .await?;
        write.change(Change::HostnameRoutePut(row.change()));
        Ok(self.hostname_route_commit(write, actor, "hostname_route.update", row, takes).await?)
    }

    /// Deletes a live hostname route.
    pub async fn hostname_route_delete(
        &self,
        actor: &Actor,
        account: AccountId,
        id: RouteId,
    ) -> Result<Written<HostnameRouteRow>, FindError> {
        let mut write = self.write().await?;
        let mut row = hostname_route_live(write.sql(), account, id).await?.ok_or(FindError::NotFound)?;
        let at = write.at();
        sqlx::query("UPDATE hostname_routes SET deleted_at = $2 WHERE id = $1")
            .bind(id.to_string())
            .bind(at)
            .execute(write.sql())
            .await?;
        row.deleted_at = Some(write.time());
        write.change(Change::HostnameRouteRemoved { id });
        Ok(self.hostname_route_commit(write, actor, "hostname_route.delete", row, false).await?)
    }

    async fn hostname_route_commit(
        &self,
        write: Write,
        actor: &Actor,
        action: &'static str,
        row: HostnameRouteRow,
        takes_names: bool,
    ) -> Result<Written<HostnameRouteRow>, Fault> {
        let id = row.id.to_string();
        let detail = serde_json::json!({
            "hostname": row.hostname, "tunnel_id": row.tunnel, "comment": row.comment, "takes_names": takes_names,
        });
        let deed = Deed { account: Some(row.account), action, kind: "hostname_route", id: &id, detail };
        self.commit(write, actor, deed, row).await
    }

    /// The live hostname route with this id.
    pub async fn hostname_route_fetch(
        &self,
        account: AccountId,
        id: RouteId,
    ) -> Result<HostnameRouteRow, FindError> {
        let mut reader = self.read().await?;
        hostname_route_live(reader.sql(), account, id).await?.ok_or(FindError::NotFound)
    }

    /// The hostname routes that pass the filter, oldest first.
    pub async fn hostname_route_list(
        &self,
        account: AccountId,
        filter: &HostnameRouteFilter,
        window: Window,
    ) -> Result<Page<HostnameRouteRow>, Fault> {
        let mut reader = self.snapshot().await?;
        let count = filter.query("SELECT count(*) FROM hostname_routes r WHERE true", account);
        let total: i64 = count.build_query_scalar().fetch_one(reader.sql()).await?;
        let mut query = filter.query(SELECT, account);
        query.push(" ORDER BY r.created_at, r.id LIMIT ").push_bind(window.limit_sql());
        query.push(" OFFSET ").push_bind(window.offset_sql());
        let rows = query.build().fetch_all(reader.sql()).await?;
        Page::try_from_rows(total, &rows, hostname_route_row)
    }
}

const SELECT: &str = "SELECT r.*, t.name AS tunnel_name, t.kind AS tunnel_kind FROM hostname_routes r \
     JOIN tunnels t ON t.id = r.tunnel_id WHERE true";

impl HostnameRouteFilter {
    fn query(&self, select: &str, account: AccountId) -> QueryBuilder {
        let mut query = QueryBuilder::new(select);
        query.push(" AND r.account_id = ").push_bind(account.to_string());
        if let Some(id) = self.id {
            query.push(" AND r.id = ").push_bind(id.to_string());
        }
        if let Some(hostname) = &self.hostname {
            query.push(" AND r.hostname = ").push_bind(hostname.as_str());
        }
        if let Some(comment) = &self.comment {
            query.push(" AND r.comment = ").push_bind(comment.as_str());
        }
        if let Some(tunnel) = self.tunnel {
            query.push(" AND r.tunnel_id = ").push_bind(tunnel.to_string());
        }
        if let Some(at) = self.existed_at.map(to_micros) {
            query.push(" AND r.created_at <= ").push_bind(at);
            query.push(" AND (r.deleted_at IS NULL OR r.deleted_at > ").push_bind(at).push(")");
        }
        query.push(self.deleted.sql("r.deleted_at"));
        query
    }
}

impl HostnameRouteRow {
    /// What an edge needs of it.
    fn change(&self) -> HostnameRoute {
        HostnameRoute {
            id: self.id,
            account: self.account,
            hostname: self.hostname.clone(),
            tunnel: self.tunnel,
        }
    }
}

/// Checks that nobody has the names, and that they may be taken from where they lead now: whether they are taken.
async fn checked(
    sql: &mut Connection,
    row: &HostnameRouteRow,
    takeover: Takeover,
    moved: bool,
) -> Result<bool, HostnameRouteWriteError> {
    let others = |start: &str| {
        let mut query = QueryBuilder::new(start);
        query.push(" FROM hostname_routes WHERE deleted_at IS NULL AND account_id = ");
        query.push_bind(row.account.to_string()).push(" AND id <> ").push_bind(row.id.to_string());
        query
    };
    let mut same = others("SELECT count(*)");
    same.push(" AND hostname = ").push_bind(row.hostname.as_str());
    let same: i64 = same.build_query_scalar().fetch_one(&mut *sql).await?;
    if same > 0 {
        return Err(HostnameRouteWriteError::NamesTaken);
    }
    let mut around = others("SELECT count(*)");
    around.push(" AND tunnel_id <> ").push_bind(row.tunnel.to_string()).push(" AND hostname IN (");
    around.push_binds(row.hostname.above());
    around.push(")");
    let around: i64 = around.build_query_scalar().fetch_one(sql).await?;
    let takes = moved || around > 0;
    if takes && takeover == Takeover::Refuse { Err(HostnameRouteWriteError::TakesNames) } else { Ok(takes) }
}

/// Deletes the live hostname routes of a tunnel and tells the edges.
pub(crate) async fn hostname_route_delete_of(write: &mut Write, tunnel: TunnelId) -> Result<(), Fault> {
    let at = write.at();
    let ids: Vec<String> =
        sqlx::query_scalar("SELECT id FROM hostname_routes WHERE tunnel_id = $1 AND deleted_at IS NULL")
            .bind(tunnel.to_string())
            .fetch_all(write.sql())
            .await?;
    for id in ids {
        let id = id.parse().map_err(|_| Fault::Damaged { table: "hostname_routes", column: "id" })?;
        write.change(Change::HostnameRouteRemoved { id });
    }
    sqlx::query("UPDATE hostname_routes SET deleted_at = $2 WHERE tunnel_id = $1 AND deleted_at IS NULL")
        .bind(tunnel.to_string())
        .bind(at)
        .execute(write.sql())
        .await?;
    Ok(())
}

/// How many live hostname routes lead to a tunnel.
pub(crate) async fn hostname_route_count_of(sql: &mut Connection, tunnel: TunnelId) -> Result<i64, Fault> {
    let query = "SELECT count(*) FROM hostname_routes WHERE tunnel_id = $1 AND deleted_at IS NULL";
    Ok(sqlx::query_scalar(query).bind(tunnel.to_string()).fetch_one(sql).await?)
}

/// The live hostname routes of all accounts as an edge needs them.
pub(crate) async fn hostname_route_changes(sql: &mut Connection) -> Result<Vec<Change>, Fault> {
    let live = format!("{SELECT} AND r.deleted_at IS NULL ORDER BY r.created_at, r.id");
    let rows = sqlx::query(&live).fetch_all(sql).await?;
    rows.iter().map(|row| Ok(Change::HostnameRoutePut(hostname_route_row(row)?.change()))).collect()
}

async fn hostname_route_live(
    sql: &mut Connection,
    account: AccountId,
    id: RouteId,
) -> Result<Option<HostnameRouteRow>, Fault> {
    let mut query = QueryBuilder::new(SELECT);
    query.push(" AND r.account_id = ").push_bind(account.to_string());
    query.push(" AND r.id = ").push_bind(id.to_string()).push(" AND r.deleted_at IS NULL");
    let row = query.build().fetch_optional(sql).await?;
    row.as_ref().map(hostname_route_row).transpose()
}

fn hostname_route_row(row: &Row) -> Result<HostnameRouteRow, Fault> {
    let columns = Columns::new(row, "hostname_routes");
    Ok(HostnameRouteRow {
        id: columns.parsed("id")?,
        account: columns.parsed("account_id")?,
        hostname: columns.parsed("hostname")?,
        tunnel: columns.parsed("tunnel_id")?,
        tunnel_name: columns.text("tunnel_name")?,
        tunnel_kind: TunnelKind::read(&columns, "tunnel_kind")?,
        comment: columns.text("comment")?,
        created_at: columns.time("created_at")?,
        deleted_at: columns.maybe_time("deleted_at")?,
    })
}
