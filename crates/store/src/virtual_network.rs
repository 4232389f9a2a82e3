//! Virtual networks (contract D, 6.5). A live account always has exactly one default network.

use adit_model::{AccountId, Change, RouteId, VirtualNetwork, VirtualNetworkId};
use time::OffsetDateTime;

use crate::query::QueryBuilder;
use crate::row::{Columns, Connection, Fault, Row};
use crate::write::{Actor, Deed, FindError, Write, new_uuid};
use crate::{Cascade, Deleted, Store, Written};

/// A virtual network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VirtualNetworkRow {
    /// Its id.
    pub id: VirtualNetworkId,
    /// Its account.
    pub account: AccountId,
    /// Its name, unique among the live ones.
    pub name: String,
    /// What people wrote about it.
    pub comment: String,
    /// Whether it is meant where none is named.
    pub is_default: bool,
    /// When it was made.
    pub created_at: OffsetDateTime,
    /// When it was deleted, if it was.
    pub deleted_at: Option<OffsetDateTime>,
}

/// A virtual network to make.
#[derive(Debug, Clone)]
pub struct NewVirtualNetwork {
    /// Its name.
    pub name: String,
    /// Its comment.
    pub comment: String,
    /// Whether it takes the place of the default one.
    pub is_default: bool,
}

/// What to change of a virtual network; `None` leaves as it is.
#[derive(Debug, Clone, Default)]
pub struct VirtualNetworkEdit {
    /// Another name.
    pub name: Option<String>,
    /// Another comment.
    pub comment: Option<String>,
    /// `true` takes the place of the default one; `false` is refused for the default one.
    pub is_default: Option<bool>,
}

/// Which virtual networks a list has.
#[derive(Debug, Clone, Default)]
pub struct VirtualNetworkFilter {
    /// Only the one with this id.
    pub id: Option<VirtualNetworkId>,
    /// Only those of this name.
    pub name: Option<String>,
    /// Only the default one, or only the others.
    pub is_default: Option<bool>,
    /// Whether deleted ones are in it.
    pub deleted: Deleted,
}

/// A virtual network could not be made or changed.
#[derive(Debug, thiserror::Error)]
pub enum VirtualNetworkWriteError {
    /// This account has none with that id.
    #[error("not found")]
    NotFound,
    /// Another live one has the name.
    #[error("the name is taken")]
    NameTaken,
    /// An account has a default network.
    #[error("the default network cannot be removed")]
    DefaultNeeded,
    /// The store failed.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// A virtual network could not be deleted.
#[derive(Debug, thiserror::Error)]
pub enum VirtualNetworkDeleteError {
    /// This account has none with that id.
    #[error("not found")]
    NotFound,
    /// It is the default one.
    #[error("the default network cannot be removed")]
    DefaultNeeded,
    /// Routes stand in it.
    #[error("it has routes")]
    HasRoutes,
    /// The store failed.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl From<sqlx::Error> for VirtualNetworkWriteError {
    fn from(error: sqlx::Error) -> Self {
        Self::Fault(error.into())
    }
}

impl From<sqlx::Error> for VirtualNetworkDeleteError {
    fn from(error: sqlx::Error) -> Self {
        Self::Fault(error.into())
    }
}

impl Store {
    /// Makes a virtual network.
    pub async fn virtual_network_create(
        &self,
        actor: &Actor,
        account: AccountId,
        new: NewVirtualNetwork,
    ) -> Result<Written<VirtualNetworkRow>, VirtualNetworkWriteError> {
        let mut write = self.write().await?;
        let row = VirtualNetworkRow {
            id: VirtualNetworkId::from_uuid(new_uuid()),
            account,
            name: new.name,
            comment: new.comment,
            is_default: new.is_default,
            created_at: write.time(),
            deleted_at: None,
        };
        name_free(write.sql(), &row).await?;
        if row.is_default {
            default_clear(&mut write, account).await?;
        }
        let at = write.at();
        sqlx::query(
            "INSERT INTO virtual_networks (id, account_id, name, comment, is_default, created_at) \
             VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(row.id.to_string())
        .bind(account.to_string())
        .bind(&row.name)
        .bind(&row.comment)
        .bind(i64::from(row.is_default))
        .bind(at)
        .execute(write.sql())
        .await?;
        write.change(Change::VirtualNetworkPut(row.change()));
        Ok(self.virtual_network_commit(write, actor, "virtual_network.create", row).await?)
    }

    /// Changes a live virtual network.
    pub async fn virtual_network_update(
        &self,
        actor: &Actor,
        account: AccountId,
        id: VirtualNetworkId,
        edit: VirtualNetworkEdit,
    ) -> Result<Written<VirtualNetworkRow>, VirtualNetworkWriteError> {
        let mut write = self.write().await?;
        let mut row = virtual_network_live(write.sql(), account, id)
            .await?
            .ok_or(VirtualNetworkWriteError::NotFound)?;
        if row.is_default && edit.is_default == Some(false) {
            return Err(VirtualNetworkWriteError::DefaultNeeded);
        }
        if !row.is_default && edit.is_default == Some(true) {
            default_clear(&mut write, account).await?;
        }
        row.name = edit.name.unwrap_or(row.name);
        row.comment = edit.comment.unwrap_or(row.comment);
        row.is_default = edit.is_default.unwrap_or(row.is_default);
        name_free(write.sql(), &row).await?;
        sqlx::query("UPDATE virtual_networks SET name = $2, comment = $3, is_default = $4 WHERE id = $1")
            .bind(id.to_string())
            .bind(&row.name)
            .bind(&row.comment)
            .bind(i64::from(row.is_default))
            .execute(write.sql())
            .await?;
        write.change(Change::VirtualNetworkPut(row.change()));
        Ok(self.virtual_network_commit(write, actor, "virtual_network.update", row).await?)
    }

    /// Deletes a virtual network; deleting it again returns it as it is.
    pub async fn virtual_network_delete(
        &self,
        actor: &Actor,
        account: AccountId,
        id: VirtualNetworkId,
        cascade: Cascade,
    ) -> Result<VirtualNetworkRow, VirtualNetworkDeleteError> {
        let mut write = self.write().await?;
        let found = virtual_network_any(write.sql(), account, id).await?;
        let mut row = found.ok_or(VirtualNetworkDeleteError::NotFound)?;
        if row.deleted_at.is_some() {
            return Ok(row);
        }
        if row.is_default {
            return Err(VirtualNetworkDeleteError::DefaultNeeded);
        }
        let live: Vec<String> =
            sqlx::query_scalar("SELECT id FROM routes WHERE virtual_network_id = $1 AND deleted_at IS NULL")
                .bind(id.to_string())
                .fetch_all(write.sql())
                .await?;
        if !live.is_empty() && cascade == Cascade::Refuse {
            return Err(VirtualNetworkDeleteError::HasRoutes);
        }
        let at = write.at();
        for route in live {
            let route: RouteId =
                route.parse().map_err(|_| Fault::Damaged { table: "routes", column: "id" })?;
            sqlx::query("UPDATE routes SET deleted_at = $2 WHERE id = $1")
                .bind(route.to_string())
                .bind(at)
                .execute(write.sql())
                .await?;
            write.change(Change::RouteRemoved { id: route });
        }
        sqlx::query("UPDATE virtual_networks SET deleted_at = $2 WHERE id = $1")
            .bind(id.to_string())
            .bind(at)
            .execute(write.sql())
            .await?;
        row.deleted_at = Some(write.time());
        write.change(Change::VirtualNetworkRemoved { id });
        Ok(self.virtual_network_commit(write, actor, "virtual_network.delete", row).await?.value)
    }

    async fn virtual_network_commit(
        &self,
        write: Write,
        actor: &Actor,
        action: &'static str,
        row: VirtualNetworkRow,
    ) -> Result<Written<VirtualNetworkRow>, Fault> {
        let id = row.id.to_string();
        let detail = serde_json::json!({
            "name": row.name, "comment": row.comment, "is_default_network": row.is_default,
        });
        let deed = Deed { account: Some(row.account), action, kind: "virtual_network", id: &id, detail };
        self.commit(write, actor, deed, row).await
    }

    /// The virtual network with this id, also when it is deleted.
    pub async fn virtual_network_fetch(
        &self,
        account: AccountId,
        id: VirtualNetworkId,
    ) -> Result<VirtualNetworkRow, FindError> {
        let mut reader = self.read().await?;
        virtual_network_any(reader.sql(), account, id).await?.ok_or(FindError::NotFound)
    }

    /// The default virtual network.
    pub async fn virtual_network_default(&self, account: AccountId) -> Result<VirtualNetworkRow, FindError> {
        let mut reader = self.read().await?;
        virtual_network_default(reader.sql(), account).await?.ok_or(FindError::NotFound)
    }

    /// The virtual networks that pass the filter, oldest first.
    pub async fn virtual_network_list(
        &self,
        account: AccountId,
        filter: &VirtualNetworkFilter,
    ) -> Result<Vec<VirtualNetworkRow>, Fault> {
        let mut query = QueryBuilder::new("SELECT * FROM virtual_networks WHERE account_id = ");
        query.push_bind(account.to_string());
        if let Some(id) = filter.id {
            query.push(" AND id = ").push_bind(id.to_string());
        }
        if let Some(name) = &filter.name {
            query.push(" AND name = ").push_bind(name.as_str());
        }
        if let Some(is_default) = filter.is_default {
            query.push(" AND is_default = ").push_bind(i64::from(is_default));
        }
        query.push(filter.deleted.sql("deleted_at")).push(" ORDER BY created_at, id");
        let rows = query.build().fetch_all(self.read().await?.sql()).await?;
        rows.iter().map(virtual_network_row).collect()
    }
}

impl Deleted {
    /// The condition on a column that says when a row was deleted.
    pub(crate) fn sql(self, column: &str) -> String {
        match self {
            Self::Both => String::new(),
            Self::Only => format!(" AND {column} IS NOT NULL"),
            Self::Without => format!(" AND {column} IS NULL"),
        }
    }
}

impl VirtualNetworkRow {
    /// What an edge needs of it.
    pub(crate) const fn change(&self) -> VirtualNetwork {
        VirtualNetwork { id: self.id, account: self.account, is_default: self.is_default }
    }
}

/// The live virtual network with this id.
pub(crate) async fn virtual_network_live(
    sql: &mut Connection,
    account: AccountId,
    id: VirtualNetworkId,
) -> Result<Option<VirtualNetworkRow>, Fault> {
    let row = virtual_network_any(sql, account, id).await?;
    Ok(row.filter(|row| row.deleted_at.is_none()))
}

async fn virtual_network_any(
    sql: &mut Connection,
    account: AccountId,
    id: VirtualNetworkId,
) -> Result<Option<VirtualNetworkRow>, Fault> {
    let row = sqlx::query("SELECT * FROM virtual_networks WHERE account_id = $1 AND id = $2")
        .bind(account.to_string())
        .bind(id.to_string())
        .fetch_optional(sql)
        .await?;
    row.as_ref().map(virtual_network_row).transpose()
}

/// The account's default virtual network.
pub(crate) async fn virtual_network_default(
    sql: &mut Connection,
    account: AccountId,
) -> Result<Option<VirtualNetworkRow>, Fault> {
    let row = sqlx::query(
        "SELECT * FROM virtual_networks WHERE account_id = $1 AND is_default = 1 AND deleted_at IS NULL",
    )
    .bind(account.to_string())
    .fetch_optional(sql)
    .await?;
    row.as_ref().map(virtual_network_row).transpose()
}

async fn default_clear(write: &mut Write, account: AccountId) -> Result<(), Fault> {
    let Some(mut old) = virtual_network_default(write.sql(), account).await? else { return Ok(()) };
    sqlx::query("UPDATE virtual_networks SET is_default = 0 WHERE id = $1")
        .bind(old.id.to_string())
        .execute(write.sql())
        .await?;
    old.is_default = false;
    write.change(Change::VirtualNetworkPut(old.change()));
    Ok(())
}

async fn name_free(sql: &mut Connection, row: &VirtualNetworkRow) -> Result<(), VirtualNetworkWriteError> {
    let taken: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM virtual_networks \
         WHERE account_id = $1 AND name = $2 AND id <> $3 AND deleted_at IS NULL",
    )
    .bind(row.account.to_string())
    .bind(&row.name)
    .bind(row.id.to_string())
    .fetch_one(sql)
    .await?;
    if taken == 0 { Ok(()) } else { Err(VirtualNetworkWriteError::NameTaken) }
}

pub(crate) fn virtual_network_row(row: &Row) -> Result<VirtualNetworkRow, Fault> {
    let columns = Columns::new(row, "virtual_networks");
    Ok(VirtualNetworkRow {
        id: columns.parsed("id")?,
        account: columns.parsed("account_id")?,
        name: columns.text("name")?,
        comment: columns.text("comment")?,
        is_default: columns.flag("is_default")?,
        created_at: columns.time("created_at")?,
        deleted_at: columns.maybe_time("deleted_at")?,
    })
}
