//! Authorities by which an account's own origins are trusted, beside the system's (Gateway semantics, 3.2).
//!
//! What holds: of an account no two have the same name; a virtual network that one names was the account's and live when it
//! was named. One whose virtual networks are all gone is good for nothing, which is the safe side.

use adit_model::{AccountId, Change, OriginRoot, OriginRootId, VirtualNetworkId};
use time::OffsetDateTime;

use crate::row::{Columns, Connection, Fault, Row};
use crate::virtual_network::virtual_network_live;
use crate::write::{Actor, Deed, FindError, Write, new_uuid};
use crate::{Store, Written};

/// Most that an account may have.
pub const MAX_ORIGIN_ROOTS: usize = 100;

/// Authorities of origins, and for which.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OriginRootRow {
    /// Its id.
    pub id: OriginRootId,
    /// Its account.
    pub account: AccountId,
    /// What it is.
    pub content: OriginRootContent,
    /// When it was made.
    pub created_at: OffsetDateTime,
    /// When it was last changed.
    pub updated_at: OffsetDateTime,
}

/// What can be written of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OriginRootContent {
    /// Its name; no other of the account has it.
    pub name: String,
    /// Certificates as PEM, one behind the other.
    pub certificate: String,
    /// Only for origins in these; empty for all.
    pub virtual_networks: Vec<VirtualNetworkId>,
    /// Only for these names and those below them, in lower case; empty for all.
    pub host_suffixes: Vec<String>,
}

/// It was not written.
#[derive(Debug, thiserror::Error)]
pub enum OriginRootError {
    /// This account has none with that id.
    #[error("not found")]
    NotFound,
    /// The account has one of that name.
    #[error("there is one with that name")]
    NameTaken,
    /// A virtual network that it names is not there.
    #[error("no virtual network {0}")]
    NoNetwork(VirtualNetworkId),
    /// The account has as many as it may have.
    #[error("there are {MAX_ORIGIN_ROOTS} already")]
    TooMany,
    /// The store failed.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl From<sqlx::Error> for OriginRootError {
    fn from(error: sqlx::Error) -> Self {
        Self::Fault(error.into())
    }
}

impl Store {
    /// Makes one.
    pub async fn origin_root_create(
        &self,
        actor: &Actor,
        account: AccountId,
        content: OriginRootContent,
    ) -> Result<Written<OriginRootRow>, OriginRootError> {
        let mut write = self.write().await?;
        let count: i64 = sqlx::query_scalar("SELECT count(*) FROM origin_roots WHERE account_id = $1")
            .bind(account.to_string())
            .fetch_one(write.sql())
            .await?;
        if usize::try_from(count).is_ok_and(|count| count >= MAX_ORIGIN_ROOTS) {
            return Err(OriginRootError::TooMany);
        }
        let row = OriginRootRow {
            id: OriginRootId::from_uuid(new_uuid()),
            account,
            content,
            created_at: write.time(),
            updated_at: write.time(),
        };
        legal(write.sql(), &row).await?;
        let at = write.at();
        sqlx::query(
            "INSERT INTO origin_roots \
             (id, account_id, name, certificate, virtual_networks, host_suffixes, created_at, updated_at) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $7)",
        )
        .bind(row.id.to_string())
        .bind(account.to_string())
        .bind(&row.content.name)
        .bind(&row.content.certificate)
        .bind(serde_json::json!(row.content.virtual_networks).to_string())
        .bind(serde_json::json!(row.content.host_suffixes).to_string())
        .bind(at)
        .execute(write.sql())
        .await?;
        Ok(self.origin_root_commit(write, actor, "origin_root.create", row).await?)
    }

    /// Gives one other content.
    pub async fn origin_root_replace(
        &self,
        actor: &Actor,
        account: AccountId,
        id: OriginRootId,
        content: OriginRootContent,
    ) -> Result<Written<OriginRootRow>, OriginRootError> {
        let mut write = self.write().await?;
        let row = origin_root_find(write.sql(), account, id).await?.ok_or(OriginRootError::NotFound)?;
        let row = OriginRootRow { content, updated_at: write.time(), ..row };
        legal(write.sql(), &row).await?;
        let at = write.at();
        sqlx::query(
            "UPDATE origin_roots SET name = $2, certificate = $3, virtual_networks = $4, host_suffixes = $5, \
             updated_at = $6 WHERE id = $1",
        )
        .bind(id.to_string())
        .bind(&row.content.name)
        .bind(&row.content.certificate)
        .bind(serde_json::json!(row.content.virtual_networks).to_string())
        .bind(serde_json::json!(row.content.host_suffixes).to_string())
        .bind(at)
        .execute(write.sql())
        .await?;
        Ok(self.origin_root_commit(write, actor, "origin_root.replace", row).await?)
    }

    /// Deletes one.
    pub async fn origin_root_delete(
        &self,
        actor: &Actor,
        account: AccountId,
        id: OriginRootId,
    ) -> Result<(), FindError> {
        let mut write = self.write().await?;
        let row = origin_root_find(write.sql(), account, id).await?.ok_or(FindError::NotFound)?;
        sqlx::query("DELETE FROM origin_roots WHERE id = $1")
            .bind(id.to_string())
            .execute(write.sql())
            .await?;
        write.change(Change::OriginRootRemoved { id });
        let (id, detail) = (id.to_string(), serde_json::json!({ "name": row.content.name }));
        let deed = Deed {
            account: Some(account),
            action: "origin_root.delete",
            kind: "origin_root",
            id: &id,
            detail,
        };
        self.commit(write, actor, deed, ()).await?;
        Ok(())
    }

    async fn origin_root_commit(
        &self,
        mut write: Write,
        actor: &Actor,
        action: &'static str,
        row: OriginRootRow,
    ) -> Result<Written<OriginRootRow>, Fault> {
        write.change(Change::OriginRootPut(Box::new(row.change())));
        let id = row.id.to_string();
        let detail = serde_json::json!({
            "name": row.content.name, "virtual_networks": row.content.virtual_networks,
            "host_suffixes": row.content.host_suffixes,
        });
        let deed = Deed { account: Some(row.account), action, kind: "origin_root", id: &id, detail };
        self.commit(write, actor, deed, row).await
    }

    /// The one with this id.
    pub async fn origin_root_fetch(
        &self,
        account: AccountId,
        id: OriginRootId,
    ) -> Result<OriginRootRow, FindError> {
        let mut reader = self.read().await?;
        origin_root_find(reader.sql(), account, id).await?.ok_or(FindError::NotFound)
    }

    /// The account's, oldest first.
    pub async fn origin_root_list(&self, account: AccountId) -> Result<Vec<OriginRootRow>, Fault> {
        let list = "SELECT * FROM origin_roots WHERE account_id = $1 ORDER BY created_at, id";
        let rows = sqlx::query(list).bind(account.to_string()).fetch_all(self.read().await?.sql()).await?;
        rows.iter().map(origin_root_row).collect()
    }
}

impl OriginRootRow {
    fn change(&self) -> OriginRoot {
        OriginRoot {
            id: self.id,
            account: self.account,
            certificate: self.content.certificate.clone(),
            virtual_networks: self.content.virtual_networks.clone(),
            host_suffixes: self.content.host_suffixes.clone(),
        }
    }
}

/// Whether the name is free and the virtual networks are there.
async fn legal(sql: &mut Connection, row: &OriginRootRow) -> Result<(), OriginRootError> {
    let taken: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM origin_roots WHERE account_id = $1 AND name = $2 AND id <> $3",
    )
    .bind(row.account.to_string())
    .bind(&row.content.name)
    .bind(row.id.to_string())
    .fetch_one(&mut *sql)
    .await?;
    if taken > 0 {
        return Err(OriginRootError::NameTaken);
    }
    for network in &row.content.virtual_networks {
        if virtual_network_live(&mut *sql, row.account, *network).await?.is_none() {
            return Err(OriginRootError::NoNetwork(*network));
        }
    }
    Ok(())
}

async fn origin_root_find(
    sql: &mut Connection,
    account: AccountId,
    id: OriginRootId,
) -> Result<Option<OriginRootRow>, Fault> {
    let row = sqlx::query("SELECT * FROM origin_roots WHERE account_id = $1 AND id = $2")
        .bind(account.to_string())
        .bind(id.to_string())
        .fetch_optional(sql)
        .await?;
    row.as_ref().map(origin_root_row).transpose()
}

fn origin_root_row(row: &Row) -> Result<OriginRootRow, Fault> {
    let columns = Columns::new(row, "origin_roots");
    Ok(OriginRootRow {
        id: columns.parsed("id")?,
        account: columns.parsed("account_id")?,
        content: OriginRootContent {
            name: columns.text("name")?,
            certificate: columns.text("certificate")?,
            virtual_networks: columns.json_as("virtual_networks")?,
            host_suffixes: columns.json_as("host_suffixes")?,
        },
        created_at: columns.time("created_at")?,
        updated_at: columns.time("updated_at")?,
    })
}

/// Those of every account, for an edge that begins.
pub(crate) async fn origin_root_changes(sql: &mut Connection) -> Result<Vec<Change>, Fault> {
    let rows = sqlx::query("SELECT * FROM origin_roots ORDER BY created_at, id").fetch_all(sql).await?;
    rows.iter().map(|row| Ok(Change::OriginRootPut(Box::new(origin_root_row(row)?.change())))).collect()
}
