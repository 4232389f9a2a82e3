//! Tunnels (contract D, 6.1 and 6.2).

use adit_model::{AccountId, Change, RouteId, SecretHash, Tunnel, TunnelId};
use time::OffsetDateTime;
use zeroize::Zeroizing;

use crate::hostname::{hostname_count_of, hostname_delete_of};
use crate::hostname_route::{hostname_route_count_of, hostname_route_delete_of};
use crate::query::QueryBuilder;
use crate::row::{Columns, Connection, Fault, Row, to_hex, to_micros};
use crate::seal::Place;
use crate::write::{Actor, Deed, FindError, Write, new_uuid, now_micros};
use crate::{Deleted, Page, Store, Window, Written};

/// Where a tunnel's configuration comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfigSource {
    /// The connector's own file.
    Local,
    /// The control plane. `cloudflare` in the API.
    Control,
}

impl ConfigSource {
    /// As the API writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Control => "cloudflare",
        }
    }

    /// As the API writes it, read.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Local, Self::Control].into_iter().find(|source| source.as_str() == name)
    }
}

/// What a tunnel is listed as (contract D, 6.1 and 6.3). For edges and connectors all are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TunnelKind {
    /// One of connectors.
    Connector,
    /// One of a site's own device: its configuration is nobody's but its own.
    Site,
}

impl TunnelKind {
    /// Every kind.
    pub const ALL: [Self; 2] = [Self::Connector, Self::Site];

    /// As the API writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connector => "cfd_tunnel",
            Self::Site => "warp_connector",
        }
    }

    /// As the API writes it, read.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }

    pub(crate) fn read(columns: &Columns<'_>, column: &'static str) -> Result<Self, Fault> {
        Self::from_name(&columns.text(column)?).ok_or(Fault::Damaged { table: "tunnels", column: "kind" })
    }
}

/// A tunnel, without its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunnelRow {
    /// Its id.
    pub id: TunnelId,
    /// What it is listed as.
    pub kind: TunnelKind,
    /// Its account.
    pub account: AccountId,
    /// Its name, unique among the live ones.
    pub name: String,
    /// What its secret is checked against.
    pub secret_hash: SecretHash,
    /// Where its configuration comes from.
    pub config_source: ConfigSource,
    /// When it was made.
    pub created_at: OffsetDateTime,
    /// When it was deleted, if it was.
    pub deleted_at: Option<OffsetDateTime>,
    /// When it last went from no connection to one; `None` if it never had one.
    pub conns_active_at: Option<OffsetDateTime>,
    /// When it lost its last connection, or was made; `None` while it has one.
    pub conns_inactive_at: Option<OffsetDateTime>,
}

/// A tunnel to make.
pub struct NewTunnel {
    /// What it is listed as.
    pub kind: TunnelKind,
    /// Its name.
    pub name: String,
    /// Its secret.
    pub secret: Zeroizing<Vec<u8>>,
    /// Where its configuration comes from.
    pub config_source: ConfigSource,
}

/// What to change of a tunnel; `None` leaves as it is.
#[derive(Default)]
pub struct TunnelEdit {
    /// Another name.
    pub name: Option<String>,
    /// Another secret; live connections stay.
    pub secret: Option<Zeroizing<Vec<u8>>>,
}

impl std::fmt::Debug for NewTunnel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewTunnel").field("name", &self.name).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for TunnelEdit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TunnelEdit").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Which tunnels a list has.
#[derive(Debug, Clone, Default)]
pub struct TunnelFilter {
    /// Only those of this kind.
    pub kind: Option<TunnelKind>,
    /// Only the one with this id.
    pub id: Option<TunnelId>,
    /// Only those of this name.
    pub name: Option<String>,
    /// Only those whose name begins so.
    pub name_prefix: Option<String>,
    /// None whose name begins so.
    pub exclude_prefix: Option<String>,
    /// Whether deleted ones are in it.
    pub deleted: Deleted,
    /// Only those that existed then.
    pub existed_at: Option<OffsetDateTime>,
    /// Only those whose connections were up then, as far as the last change tells.
    pub was_active_at: Option<OffsetDateTime>,
    /// Only those that had no connection then, as far as the last change tells.
    pub was_inactive_at: Option<OffsetDateTime>,
}

/// A tunnel could not be made or changed.
#[derive(Debug, thiserror::Error)]
pub enum TunnelWriteError {
    /// This account has no live one with that id.
    #[error("not found")]
    NotFound,
    /// Another live one has the name.
    #[error("the name is taken")]
    NameTaken,
    /// The store failed.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// A tunnel could not be deleted.
#[derive(Debug, thiserror::Error)]
pub enum TunnelDeleteError {
    /// This account has none with that id.
    #[error("not found")]
    NotFound,
    /// Routes or host names lead to it.
    #[error("routes or host names lead to it")]
    HasRoutes,
    /// The store failed.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl From<sqlx::Error> for TunnelWriteError {
    fn from(error: sqlx::Error) -> Self {
        Self::Fault(error.into())
    }
}

impl From<sqlx::Error> for TunnelDeleteError {
    fn from(error: sqlx::Error) -> Self {
        Self::Fault(error.into())
    }
}

impl Store {
    /// Makes a tunnel.
    pub async fn tunnel_create(
        &self,
        actor: &Actor,
        account: AccountId,
        new: NewTunnel,
    ) -> Result<Written<TunnelRow>, TunnelWriteError> {
        let mut write = self.write().await?;
        let row = TunnelRow {
            id: TunnelId::from_uuid(new_uuid()),
            kind: new.kind,
            account,
            name: new.name,
            secret_hash: SecretHash::of(&new.secret),
            config_source: new.config_source,
            created_at: write.time(),
            deleted_at: None,
            conns_active_at: None,
            conns_inactive_at: Some(write.time()),
        };
        name_free(write.sql(), &row).await?;
        let at = write.at();
        let id = row.id.to_string();
        sqlx::query(
            "INSERT INTO tunnels (id, account_id, name, secret_sealed, secret_hash, config_src, created_at, \
             updated_at, conns_inactive_at, kind) VALUES ($1, $2, $3, $4, $5, $6, $7, $7, $7, $8)",
        )
        .bind(&id)
        .bind(account.to_string())
        .bind(&row.name)
        .bind(self.0.seal.seal(place(&id), &new.secret))
        .bind(to_hex(row.secret_hash.bytes()))
        .bind(row.config_source.as_str())
        .bind(at)
        .bind(row.kind.as_str())
        .execute(write.sql())
        .await?;
        write.change(Change::TunnelPut(row.change()));
        let detail = serde_json::json!({ "name": row.name, "config_src": row.config_source.as_str() });
        Ok(self.tunnel_commit(write, actor, "tunnel.create", row, detail).await?)
    }

    /// Changes a live tunnel.
    pub async fn tunnel_update(
        &self,
        actor: &Actor,
        account: AccountId,
        id: TunnelId,
        edit: TunnelEdit,
    ) -> Result<Written<TunnelRow>, TunnelWriteError> {
        let mut write = self.write().await?;
        let found = tunnel_live(write.sql(), account, id).await?;
        let mut row = found.ok_or(TunnelWriteError::NotFound)?;
        row.name = edit.name.unwrap_or(row.name);
        name_free(write.sql(), &row).await?;
        let at = write.at();
        sqlx::query("UPDATE tunnels SET name = $2, updated_at = $3 WHERE id = $1")
            .bind(id.to_string())
            .bind(&row.name)
            .bind(at)
            .execute(write.sql())
            .await?;
        let detail = serde_json::json!({ "name": row.name, "secret_changed": edit.secret.is_some() });
        if let Some(secret) = edit.secret {
            row.secret_hash = SecretHash::of(&secret);
            sqlx::query("UPDATE tunnels SET secret_sealed = $2, secret_hash = $3 WHERE id = $1")
                .bind(id.to_string())
                .bind(self.0.seal.seal(place(&id.to_string()), &secret))
                .bind(to_hex(row.secret_hash.bytes()))
                .execute(write.sql())
                .await?;
        }
        write.change(Change::TunnelPut(row.change()));
        Ok(self.tunnel_commit(write, actor, "tunnel.update", row, detail).await?)
    }

    /// Deletes a tunnel, with its routes and host names if `cascade` says so; deleting it again returns it as it is.
    pub async fn tunnel_delete(
        &self,
        actor: &Actor,
        account: AccountId,
        id: TunnelId,
        cascade: Cascade,
    ) -> Result<TunnelRow, TunnelDeleteError> {
        let mut write = self.write().await?;
        let mut row = tunnel_any(write.sql(), account, id).await?.ok_or(TunnelDeleteError::NotFound)?;
        if row.deleted_at.is_some() {
            return Ok(row);
        }
        let routes: Vec<String> =
            sqlx::query_scalar("SELECT id FROM routes WHERE tunnel_id = $1 AND deleted_at IS NULL")
                .bind(id.to_string())
                .fetch_all(write.sql())
                .await?;
        let hostnames = hostname_count_of(write.sql(), id).await?;
        let named = hostname_route_count_of(write.sql(), id).await?;
        if (!routes.is_empty() || hostnames > 0 || named > 0) && cascade == Cascade::Refuse {
            return Err(TunnelDeleteError::HasRoutes);
        }
        let at = write.at();
        let detail = serde_json::json!({
            "name": row.name, "routes": routes.len(), "hostnames": hostnames, "hostname_routes": named,
        });
        for route in routes {
            let route: RouteId =
                route.parse().map_err(|_| Fault::Damaged { table: "routes", column: "id" })?;
            sqlx::query("UPDATE routes SET deleted_at = $2 WHERE id = $1")
                .bind(route.to_string())
                .bind(at)
                .execute(write.sql())
                .await?;
            write.change(Change::RouteRemoved { id: route });
        }
        hostname_delete_of(&mut write, id).await?;
        hostname_route_delete_of(&mut write, id).await?;
        sqlx::query(
            "UPDATE tunnels SET deleted_at = $2, conns_inactive_at = coalesce(conns_inactive_at, $2) WHERE id = $1",
        )
        .bind(id.to_string())
        .bind(at)
        .execute(write.sql())
        .await?;
        row.deleted_at = Some(write.time());
        row.conns_inactive_at = row.conns_inactive_at.or(row.deleted_at);
        write.change(Change::TunnelRemoved { id });
        Ok(self.tunnel_commit(write, actor, "tunnel.delete", row, detail).await?.value)
    }

    async fn tunnel_commit(
        &self,
        write: Write,
        actor: &Actor,
        action: &'static str,
        row: TunnelRow,
        detail: serde_json::Value,
    ) -> Result<Written<TunnelRow>, Fault> {
        let id = row.id.to_string();
        let deed = Deed { account: Some(row.account), action, kind: "tunnel", id: &id, detail };
        self.commit(write, actor, deed, row).await
    }

    /// The tunnel with this id, also when it is deleted.
    pub async fn tunnel_fetch(&self, account: AccountId, id: TunnelId) -> Result<TunnelRow, FindError> {
        let mut reader = self.read().await?;
        tunnel_any(reader.sql(), account, id).await?.ok_or(FindError::NotFound)
    }

    /// The secret of a live tunnel.
    pub async fn tunnel_secret(
        &self,
        account: AccountId,
        id: TunnelId,
    ) -> Result<Zeroizing<Vec<u8>>, FindError> {
        let sealed: Option<String> = sqlx::query_scalar(
            "SELECT secret_sealed FROM tunnels WHERE account_id = $1 AND id = $2 AND deleted_at IS NULL",
        )
        .bind(account.to_string())
        .bind(id.to_string())
        .fetch_optional(self.read().await?.sql())
        .await?;
        let sealed = sealed.ok_or(FindError::NotFound)?;
        let damaged = |_| Fault::Damaged { table: "tunnels", column: "secret_sealed" };
        Ok(self.0.seal.open(place(&id.to_string()), &sealed).map_err(damaged)?)
    }

    /// The tunnels that pass the filter, oldest first.
    pub async fn tunnel_list(
        &self,
        account: AccountId,
        filter: &TunnelFilter,
        window: Window,
    ) -> Result<Page<TunnelRow>, Fault> {
        let mut reader = self.snapshot().await?;
        let count = filter.query("SELECT count(*)", account);
        let total: i64 = count.build_query_scalar().fetch_one(reader.sql()).await?;
        let mut query = filter.query("SELECT *", account);
        query.push(" ORDER BY created_at, id LIMIT ").push_bind(window.limit_sql());
        query.push(" OFFSET ").push_bind(window.offset_sql());
        let rows = query.build().fetch_all(reader.sql()).await?;
        Page::try_from_rows(total, &rows, tunnel_row)
    }

    /// Notes that a tunnel has its first connection.
    pub async fn tunnel_became_active(&self, id: TunnelId, at: OffsetDateTime) -> Result<(), Fault> {
        sqlx::query("UPDATE tunnels SET conns_active_at = $2, conns_inactive_at = NULL WHERE id = $1")
            .bind(id.to_string())
            .bind(to_micros(at))
            .execute(&mut *self.0.writer.acquire().await?)
            .await?;
        Ok(())
    }

    /// Notes that a tunnel has lost its last connection.
    pub async fn tunnel_became_inactive(&self, id: TunnelId, at: OffsetDateTime) -> Result<(), Fault> {
        sqlx::query("UPDATE tunnels SET conns_inactive_at = $2 WHERE id = $1")
            .bind(id.to_string())
            .bind(to_micros(at))
            .execute(&mut *self.0.writer.acquire().await?)
            .await?;
        Ok(())
    }

    /// Notes that no tunnel has a connection: for the start, when what was open before is gone.
    pub async fn tunnel_all_inactive(&self) -> Result<(), Fault> {
        sqlx::query("UPDATE tunnels SET conns_inactive_at = $1 WHERE conns_inactive_at IS NULL")
            .bind(now_micros())
            .execute(&mut *self.0.writer.acquire().await?)
            .await?;
        Ok(())
    }
}

/// What happens to the routes and host names of a tunnel that is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cascade {
    /// If there are any, nothing is deleted.
    Refuse,
    /// They are deleted with it.
    Delete,
}

impl TunnelFilter {
    fn query(&self, select: &str, account: AccountId) -> QueryBuilder {
        let mut query = QueryBuilder::new(select);
        query.push(" FROM tunnels WHERE account_id = ").push_bind(account.to_string());
        if let Some(kind) = self.kind {
            query.push(" AND kind = ").push_bind(kind.as_str());
        }
        if let Some(id) = self.id {
            query.push(" AND id = ").push_bind(id.to_string());
        }
        if let Some(name) = &self.name {
            query.push(" AND name = ").push_bind(name.as_str());
        }
        if let Some(prefix) = &self.name_prefix {
            query.push(" AND substr(name, 1, length(").push_bind(prefix.as_str());
            query.push(")) = ").push_bind(prefix.as_str());
        }
        if let Some(prefix) = &self.exclude_prefix {
            query.push(" AND substr(name, 1, length(").push_bind(prefix.as_str());
            query.push(")) <> ").push_bind(prefix.as_str());
        }
        if let Some(at) = self.existed_at.map(to_micros) {
            query.push(" AND created_at <= ").push_bind(at);
            query.push(" AND (deleted_at IS NULL OR deleted_at > ").push_bind(at).push(")");
        }
        if let Some(at) = self.was_active_at.map(to_micros) {
            query.push(" AND conns_active_at <= ").push_bind(at);
            query.push(" AND (conns_inactive_at IS NULL OR conns_inactive_at > ").push_bind(at).push(")");
        }
        if let Some(at) = self.was_inactive_at.map(to_micros) {
            query.push(" AND (conns_inactive_at <= ").push_bind(at);
            query.push(" OR conns_active_at > ").push_bind(at).push(")");
        }
        query.push(self.deleted.sql("deleted_at"));
        query
    }
}

impl TunnelRow {
    /// What an edge needs of it.
    pub(crate) fn change(&self) -> Tunnel {
        Tunnel {
            id: self.id,
            account: self.account,
            name: self.name.clone(),
            secret: self.secret_hash,
            remotely_managed: self.config_source == ConfigSource::Control,
        }
    }
}

const fn place(id: &str) -> Place<'_> {
    Place { table: "tunnels", column: "secret_sealed", row: id }
}

/// The live tunnel with this id.
pub(crate) async fn tunnel_live(
    sql: &mut Connection,
    account: AccountId,
    id: TunnelId,
) -> Result<Option<TunnelRow>, Fault> {
    Ok(tunnel_any(sql, account, id).await?.filter(|row| row.deleted_at.is_none()))
}

/// Makes a tunnel remotely managed, and tells the edges.
pub(crate) async fn tunnel_switch_to_control(write: &mut Write, mut row: TunnelRow) -> Result<(), Fault> {
    row.config_source = ConfigSource::Control;
    let at = write.at();
    sqlx::query("UPDATE tunnels SET config_src = $2, updated_at = $3 WHERE id = $1")
        .bind(row.id.to_string())
        .bind(row.config_source.as_str())
        .bind(at)
        .execute(write.sql())
        .await?;
    write.change(Change::TunnelPut(row.change()));
    Ok(())
}

async fn tunnel_any(
    sql: &mut Connection,
    account: AccountId,
    id: TunnelId,
) -> Result<Option<TunnelRow>, Fault> {
    let row = sqlx::query("SELECT * FROM tunnels WHERE account_id = $1 AND id = $2")
        .bind(account.to_string())
        .bind(id.to_string())
        .fetch_optional(sql)
        .await?;
    row.as_ref().map(tunnel_row).transpose()
}

async fn name_free(sql: &mut Connection, row: &TunnelRow) -> Result<(), TunnelWriteError> {
    let taken: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM tunnels WHERE account_id = $1 AND name = $2 AND id <> $3 AND deleted_at IS NULL",
    )
    .bind(row.account.to_string())
    .bind(&row.name)
    .bind(row.id.to_string())
    .fetch_one(sql)
    .await?;
    if taken == 0 { Ok(()) } else { Err(TunnelWriteError::NameTaken) }
}

pub(crate) fn tunnel_row(row: &Row) -> Result<TunnelRow, Fault> {
    let columns = Columns::new(row, "tunnels");
    let source = columns.text("config_src")?;
    Ok(TunnelRow {
        id: columns.parsed("id")?,
        kind: TunnelKind::read(&columns, "kind")?,
        account: columns.parsed("account_id")?,
        name: columns.text("name")?,
        secret_hash: columns.hash("secret_hash")?,
        config_source: ConfigSource::from_name(&source)
            .ok_or(Fault::Damaged { table: "tunnels", column: "config_src" })?,
        created_at: columns.time("created_at")?,
        deleted_at: columns.maybe_time("deleted_at")?,
        conns_active_at: columns.maybe_time("conns_active_at")?,
        conns_inactive_at: columns.maybe_time("conns_inactive_at")?,
    })
}
