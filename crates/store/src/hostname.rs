//! Public host names: each leads to one tunnel, and no two live ones are the same.

use adit_model::{AccountId, Change, Hostname, HostnameId, PublicHostname, TunnelId};
use time::OffsetDateTime;

use crate::query::QueryBuilder;
use crate::row::{Columns, Connection, Fault, Row};
use crate::tunnel::tunnel_live;
use crate::write::{Actor, Deed, FindError, Write, new_uuid};
use crate::{Page, Store, Window, Written};

/// A public host name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostnameRow {
    /// Its id.
    pub id: HostnameId,
    /// Its account.
    pub account: AccountId,
    /// The name.
    pub hostname: PublicHostname,
    /// The tunnel to which it leads.
    pub tunnel: TunnelId,
    /// When it was made.
    pub created_at: OffsetDateTime,
    /// When it was last made to lead elsewhere.
    pub updated_at: OffsetDateTime,
}

/// Which public host names a list has.
#[derive(Debug, Clone, Default)]
pub struct HostnameFilter {
    /// Only this name.
    pub hostname: Option<PublicHostname>,
    /// Only those that lead to this tunnel.
    pub tunnel: Option<TunnelId>,
}

/// Whether a host name that leads elsewhere may be taken from there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overwrite {
    /// It may.
    Allow,
    /// It may not.
    Refuse,
}

/// What became of a host name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostnamePut {
    /// There was none of this name.
    New(HostnameRow),
    /// It led elsewhere before.
    Updated(HostnameRow),
    /// It led there already; nothing was written.
    Unchanged(HostnameRow),
}

/// A host name could not be put.
#[derive(Debug, thiserror::Error)]
pub enum HostnameWriteError {
    /// This account has no live tunnel with that id.
    #[error("the tunnel is not found")]
    TunnelNotFound,
    /// The name leads to another tunnel, or is another account's.
    #[error("the host name is taken")]
    Taken,
    /// The store failed.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl From<sqlx::Error> for HostnameWriteError {
    fn from(error: sqlx::Error) -> Self {
        Self::Fault(error.into())
    }
}

impl Store {
    /// Makes a host name lead to a tunnel. Another account's is not taken away, whatever `overwrite` says.
    pub async fn hostname_put(
        &self,
        actor: &Actor,
        account: AccountId,
        hostname: PublicHostname,
        tunnel: TunnelId,
        overwrite: Overwrite,
    ) -> Result<HostnamePut, HostnameWriteError> {
        let mut write = self.write().await?;
        let found = tunnel_live(write.sql(), account, tunnel).await?;
        found.ok_or(HostnameWriteError::TunnelNotFound)?;
        let Some(mut row) = hostname_live(write.sql(), &hostname).await? else {
            let now = write.time();
            let id = HostnameId::from_uuid(new_uuid());
            let row = HostnameRow { id, account, hostname, tunnel, created_at: now, updated_at: now };
            hostname_insert(&mut write, &row).await?;
            return Ok(HostnamePut::New(self.hostname_commit(write, actor, "hostname.create", row).await?));
        };
        if row.account == account && row.tunnel == tunnel {
            return Ok(HostnamePut::Unchanged(row));
        }
        if row.account != account || overwrite == Overwrite::Refuse {
            return Err(HostnameWriteError::Taken);
        }
        (row.tunnel, row.updated_at) = (tunnel, write.time());
        let at = write.at();
        sqlx::query("UPDATE hostnames SET tunnel_id = $2, updated_at = $3 WHERE id = $1")
            .bind(row.id.to_string())
            .bind(tunnel.to_string())
            .bind(at)
            .execute(write.sql())
            .await?;
        write.change(Change::HostnamePut(row.change()));
        Ok(HostnamePut::Updated(self.hostname_commit(write, actor, "hostname.update", row).await?))
    }

    /// Deletes a live host name.
    pub async fn hostname_delete(
        &self,
        actor: &Actor,
        account: AccountId,
        id: HostnameId,
    ) -> Result<HostnameRow, FindError> {
        let mut write = self.write().await?;
        let row = hostname_by_id(write.sql(), account, id).await?.ok_or(FindError::NotFound)?;
        let at = write.at();
        sqlx::query("UPDATE hostnames SET deleted_at = $2 WHERE id = $1")
            .bind(id.to_string())
            .bind(at)
            .execute(write.sql())
            .await?;
        write.change(Change::HostnameRemoved { hostname: row.hostname.clone() });
        Ok(self.hostname_commit(write, actor, "hostname.delete", row).await?)
    }

    async fn hostname_commit(
        &self,
        write: Write,
        actor: &Actor,
        action: &'static str,
        row: HostnameRow,
    ) -> Result<HostnameRow, Fault> {
        let id = row.id.to_string();
        let detail = serde_json::json!({ "hostname": row.hostname, "tunnel_id": row.tunnel });
        let deed = Deed { account: Some(row.account), action, kind: "hostname", id: &id, detail };
        let Written { value, .. } = self.commit(write, actor, deed, row).await?;
        Ok(value)
    }

    /// The live host name with this id.
    pub async fn hostname_fetch(&self, account: AccountId, id: HostnameId) -> Result<HostnameRow, FindError> {
        let mut reader = self.read().await?;
        hostname_by_id(reader.sql(), account, id).await?.ok_or(FindError::NotFound)
    }

    /// The live host names that pass the filter, oldest first.
    pub async fn hostname_list(
        &self,
        account: AccountId,
        filter: &HostnameFilter,
        window: Window,
    ) -> Result<Page<HostnameRow>, Fault> {
        let mut reader = self.snapshot().await?;
        let count = filter.query("SELECT count(*)", account);
        let total: i64 = count.build_query_scalar().fetch_one(reader.sql()).await?;
        let mut query = filter.query("SELECT *", account);
        query.push(" ORDER BY created_at, id LIMIT ").push_bind(window.limit_sql());
        query.push(" OFFSET ").push_bind(window.offset_sql());
        let rows = query.build().fetch_all(reader.sql()).await?;
        Page::try_from_rows(total, &rows, hostname_row)
    }
}

impl HostnameFilter {
    fn query(&self, select: &str, account: AccountId) -> QueryBuilder {
        let mut query = QueryBuilder::new(select);
        query.push(" FROM hostnames WHERE deleted_at IS NULL AND account_id = ");
        query.push_bind(account.to_string());
        if let Some(hostname) = &self.hostname {
            query.push(" AND hostname = ").push_bind(hostname.as_str());
        }
        if let Some(tunnel) = self.tunnel {
            query.push(" AND tunnel_id = ").push_bind(tunnel.to_string());
        }
        query
    }
}

impl HostnameRow {
    /// What an edge needs of it.
    fn change(&self) -> Hostname {
        Hostname { hostname: self.hostname.clone(), account: self.account, tunnel: self.tunnel }
    }
}

/// Inserts a row and tells the edges.
async fn hostname_insert(write: &mut Write, row: &HostnameRow) -> Result<(), Fault> {
    let at = write.at();
    sqlx::query(
        "INSERT INTO hostnames (id, account_id, hostname, tunnel_id, created_at, updated_at) \
         VALUES ($1, $2, $3, $4, $5, $5)",
    )
    .bind(row.id.to_string())
    .bind(row.account.to_string())
    .bind(row.hostname.as_str())
    .bind(row.tunnel.to_string())
    .bind(at)
    .execute(write.sql())
    .await?;
    write.change(Change::HostnamePut(row.change()));
    Ok(())
}

/// Deletes the live host names of a tunnel and tells the edges; how many there were.
pub(crate) async fn hostname_delete_of(write: &mut Write, tunnel: TunnelId) -> Result<usize, Fault> {
    let at = write.at();
    let rows = sqlx::query("SELECT * FROM hostnames WHERE tunnel_id = $1 AND deleted_at IS NULL")
        .bind(tunnel.to_string())
        .fetch_all(write.sql())
        .await?;
    for row in &rows {
        write.change(Change::HostnameRemoved { hostname: hostname_row(row)?.hostname });
    }
    sqlx::query("UPDATE hostnames SET deleted_at = $2 WHERE tunnel_id = $1 AND deleted_at IS NULL")
        .bind(tunnel.to_string())
        .bind(at)
        .execute(write.sql())
        .await?;
    Ok(rows.len())
}

/// How many live host names lead to a tunnel.
pub(crate) async fn hostname_count_of(sql: &mut Connection, tunnel: TunnelId) -> Result<i64, Fault> {
    let query = "SELECT count(*) FROM hostnames WHERE tunnel_id = $1 AND deleted_at IS NULL";
    Ok(sqlx::query_scalar(query).bind(tunnel.to_string()).fetch_one(sql).await?)
}

/// Every live host name, as a change to an empty state.
pub(crate) async fn hostname_changes(sql: &mut Connection) -> Result<Vec<Change>, Fault> {
    let live = "SELECT * FROM hostnames WHERE deleted_at IS NULL ORDER BY created_at, id";
    let rows = sqlx::query(live).fetch_all(sql).await?;
    rows.iter().map(|row| Ok(Change::HostnamePut(hostname_row(row)?.change()))).collect()
}

async fn hostname_live(
    sql: &mut Connection,
    hostname: &PublicHostname,
) -> Result<Option<HostnameRow>, Fault> {
    let row = sqlx::query("SELECT * FROM hostnames WHERE hostname = $1 AND deleted_at IS NULL")
        .bind(hostname.as_str())
        .fetch_optional(sql)
        .await?;
    row.as_ref().map(hostname_row).transpose()
}

async fn hostname_by_id(
    sql: &mut Connection,
    account: AccountId,
    id: HostnameId,
) -> Result<Option<HostnameRow>, Fault> {
    let row = sqlx::query("SELECT * FROM hostnames WHERE account_id = $1 AND id = $2 AND deleted_at IS NULL")
        .bind(account.to_string())
        .bind(id.to_string())
        .fetch_optional(sql)
        .await?;
    row.as_ref().map(hostname_row).transpose()
}

fn hostname_row(row: &Row) -> Result<HostnameRow, Fault> {
    let columns = Columns::new(row, "hostnames");
    Ok(HostnameRow {
        id: columns.parsed("id")?,
        account: columns.parsed("account_id")?,
        hostname: columns.parsed("hostname")?,
        tunnel: columns.parsed("tunnel_id")?,
        created_at: columns.time("created_at")?,
        updated_at: columns.time("updated_at")?,
    })
}
