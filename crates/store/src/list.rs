//! Lists of values (contract D, 7). Whether a text is an item of the list's kind is the caller's to check; the store keeps
//! the text as given beside the value by which it is compared, which a list has once.

mod item;

use adit_model::{AccountId, Change, List, ListId, ListItemsChange, ListKind};
use time::OffsetDateTime;

pub use self::item::{ItemRow, NewItem};
use crate::row::{Columns, Connection, Fault, Row};
use crate::write::{Actor, Deed, FindError, Write, new_uuid};
use crate::{Page, Store, Window, Written};

/// A list, without its items.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListRow {
    /// Its id.
    pub id: ListId,
    /// Its account.
    pub account: AccountId,
    /// Its name; several may have the same.
    pub name: String,
    /// What its items are.
    pub kind: ListKind,
    /// What people wrote about it.
    pub description: Option<String>,
    /// How many items it has; `None` if none were ever given, not even an empty array.
    pub item_count: Option<u64>,
    /// When it was made.
    pub created_at: OffsetDateTime,
    /// When it was changed.
    pub updated_at: OffsetDateTime,
}

/// A list to make.
#[derive(Debug, Clone)]
pub struct NewList {
    /// Its name.
    pub name: String,
    /// What its items are.
    pub kind: ListKind,
    /// Its description.
    pub description: Option<String>,
    /// Its items, no two of which compare equal.
    pub items: Option<Vec<NewItem>>,
}

/// What a list is to be like.
#[derive(Debug, Clone)]
pub struct ListEdit {
    /// Its name.
    pub name: String,
    /// Its description.
    pub description: Option<String>,
    /// Its items, no two of which compare equal; `None` leaves them.
    pub items: Option<Vec<NewItem>>,
}

/// A list could not be made or changed.
#[derive(Debug, thiserror::Error)]
pub enum ListWriteError {
    /// This account has none with that id.
    #[error("not found")]
    NotFound,
    /// It would have more items than a list may have.
    #[error("more than {limit} items")]
    TooLarge {
        /// How many it may have.
        limit: u64,
    },
    /// The store failed.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// A list could not be deleted.
#[derive(Debug, thiserror::Error)]
pub enum ListDeleteError {
    /// This account has none with that id.
    #[error("not found")]
    NotFound,
    /// Rules name it.
    #[error("it is in use")]
    InUse {
        /// The rules' names, the first of them.
        by: Vec<String>,
    },
    /// The store failed.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl From<sqlx::Error> for ListWriteError {
    fn from(error: sqlx::Error) -> Self {
        Self::Fault(error.into())
    }
}

impl From<sqlx::Error> for ListDeleteError {
    fn from(error: sqlx::Error) -> Self {
        Self::Fault(error.into())
    }
}

/// How many names of rules an error carries.
const MAX_USERS: i64 = 5;

impl Store {
    /// Makes a list.
    pub async fn list_create(
        &self,
        actor: &Actor,
        account: AccountId,
        new: NewList,
    ) -> Result<Written<ListRow>, ListWriteError> {
        let mut write = self.write().await?;
        let row = ListRow {
            id: ListId::from_uuid(new_uuid()),
            account,
            name: new.name,
            kind: new.kind,
            description: new.description,
            item_count: new.items.as_ref().map(|items| items.len() as u64),
            created_at: write.time(),
            updated_at: write.time(),
        };
        let at = write.at();
        sqlx::query(
            "INSERT INTO lists (id, account_id, name, kind, description, item_count, created_at, updated_at) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $7)",
        )
        .bind(row.id.to_string())
        .bind(account.to_string())
        .bind(&row.name)
        .bind(row.kind.as_str())
        .bind(row.description.as_deref())
        .bind(row.item_count.map(to_number))
        .bind(at)
        .execute(write.sql())
        .await?;
        let items: Vec<_> = new.items.unwrap_or_default().into_iter().map(|item| (item, at)).collect();
        item::items_insert(write.sql(), row.id, 0, &items).await?;
        let compared = items.into_iter().map(|(item, _)| item.compared).collect();
        write.change(Change::ListPut(row.change(compared)));
        Ok(self.list_commit(write, actor, "list.create", row).await?)
    }

    /// Gives a list another name, description and, if there are any, other items.
    pub async fn list_replace(
        &self,
        actor: &Actor,
        account: AccountId,
        id: ListId,
        edit: ListEdit,
    ) -> Result<Written<ListRow>, ListWriteError> {
        let mut write = self.write().await?;
        let mut row = list_find(write.sql(), account, id).await?.ok_or(ListWriteError::NotFound)?;
        row.name = edit.name;
        row.description = edit.description;
        if let Some(items) = edit.items {
            row.item_count = Some(items.len() as u64);
            let at = write.at();
            let change = item::items_replace(write.sql(), id, at, items).await?;
            write.change(Change::ListItemsChanged(change));
        }
        list_update(&mut write, &mut row).await?;
        Ok(self.list_commit(write, actor, "list.replace", row).await?)
    }

    /// Takes items away, then adds items: those that are not there to remove, and those that are there already, are
    /// passed over.
    pub async fn list_items_change(
        &self,
        actor: &Actor,
        account: AccountId,
        id: ListId,
        remove: Vec<String>,
        append: Vec<NewItem>,
        limit: u64,
    ) -> Result<Written<ListRow>, ListWriteError> {
        let mut write = self.write().await?;
        let mut row = list_find(write.sql(), account, id).await?.ok_or(ListWriteError::NotFound)?;
        let at = write.at();
        let removed = item::items_remove(write.sql(), id, remove).await?;
        let added = item::items_append(write.sql(), id, at, append).await?;
        let count = row.item_count.unwrap_or(0) + added.len() as u64 - removed.len() as u64;
        if count > limit {
            return Err(ListWriteError::TooLarge { limit });
        }
        row.item_count = Some(count);
        list_update(&mut write, &mut row).await?;
        write.change(Change::ListItemsChanged(ListItemsChange { id, removed, added }));
        Ok(self.list_commit(write, actor, "list.change", row).await?)
    }

    /// Deletes a list that no rule names.
    pub async fn list_delete(
        &self,
        actor: &Actor,
        account: AccountId,
        id: ListId,
    ) -> Result<(), ListDeleteError> {
        let mut write = self.write().await?;
        let row = list_find(write.sql(), account, id).await?.ok_or(ListDeleteError::NotFound)?;
        let by: Vec<String> = sqlx::query_scalar(
            "SELECT r.name FROM rule_lists u JOIN rules r ON r.id = u.rule_id WHERE u.list_id = $1 \
             ORDER BY r.precedence, r.id LIMIT $2",
        )
        .bind(id.to_string())
        .bind(MAX_USERS)
        .fetch_all(write.sql())
        .await?;
        if !by.is_empty() {
            return Err(ListDeleteError::InUse { by });
        }
        for statement in ["DELETE FROM list_items WHERE list_id = $1", "DELETE FROM lists WHERE id = $1"] {
            sqlx::query(statement).bind(id.to_string()).execute(write.sql()).await?;
        }
        write.change(Change::ListRemoved { id });
        self.list_commit(write, actor, "list.delete", row).await?;
        Ok(())
    }

    async fn list_commit(
        &self,
        write: Write,
        actor: &Actor,
        action: &'static str,
        row: ListRow,
    ) -> Result<Written<ListRow>, Fault> {
        let id = row.id.to_string();
        let detail = serde_json::json!({
            "name": row.name, "type": row.kind, "description": row.description, "count": row.item_count,
        });
        let deed = Deed { account: Some(row.account), action, kind: "list", id: &id, detail };
        self.commit(write, actor, deed, row).await
    }

    /// The list with this id.
    pub async fn list_fetch(&self, account: AccountId, id: ListId) -> Result<ListRow, FindError> {
        let mut reader = self.read().await?;
        list_find(reader.sql(), account, id).await?.ok_or(FindError::NotFound)
    }

    /// The lists, oldest first.
    pub async fn list_list(&self, account: AccountId) -> Result<Vec<ListRow>, Fault> {
        let rows = sqlx::query("SELECT * FROM lists WHERE account_id = $1 ORDER BY created_at, id")
            .bind(account.to_string())
            .fetch_all(self.read().await?.sql())
            .await?;
        rows.iter().map(list_row).collect()
    }

    /// A list and a part of its items, in the order in which they were given.
    pub async fn list_items(
        &self,
        account: AccountId,
        id: ListId,
        window: Window,
    ) -> Result<(ListRow, Page<ItemRow>), FindError> {
        let mut reader = self.snapshot().await?;
        let row = list_find(reader.sql(), account, id).await?.ok_or(FindError::NotFound)?;
        let rows = item::items_select(reader.sql(), id, window).await?;
        let total = row.item_count.unwrap_or(0);
        Ok((row, Page { rows, total }))
    }
}

impl ListRow {
    fn change(&self, items: Vec<String>) -> List {
        List { id: self.id, account: self.account, kind: self.kind, items }
    }
}

async fn list_update(write: &mut Write, row: &mut ListRow) -> Result<(), Fault> {
    let at = write.at();
    row.updated_at = write.time();
    sqlx::query(
        "UPDATE lists SET name = $2, description = $3, item_count = $4, updated_at = $5 WHERE id = $1",
    )
    .bind(row.id.to_string())
    .bind(&row.name)
    .bind(row.description.as_deref())
    .bind(row.item_count.map(to_number))
    .bind(at)
    .execute(write.sql())
    .await?;
    Ok(())
}

fn to_number(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

async fn list_find(sql: &mut Connection, account: AccountId, id: ListId) -> Result<Option<ListRow>, Fault> {
    let row = sqlx::query("SELECT * FROM lists WHERE account_id = $1 AND id = $2")
        .bind(account.to_string())
        .bind(id.to_string())
        .fetch_optional(sql)
        .await?;
    row.as_ref().map(list_row).transpose()
}

fn list_row(row: &Row) -> Result<ListRow, Fault> {
    let columns = Columns::new(row, "lists");
    Ok(ListRow {
        id: columns.parsed("id")?,
        account: columns.parsed("account_id")?,
        name: columns.text("name")?,
        kind: columns.parsed("kind")?,
        description: columns.maybe_text("description")?,
        item_count: columns.maybe_number("item_count")?.map(|count| u64::try_from(count).unwrap_or(0)),
        created_at: columns.time("created_at")?,
        updated_at: columns.time("updated_at")?,
    })
}

/// Every list of every account, for an edge that begins.
pub(crate) async fn list_changes(sql: &mut Connection) -> Result<Vec<Change>, Fault> {
    let lists = sqlx::query("SELECT * FROM lists ORDER BY created_at, id").fetch_all(&mut *sql).await?;
    let lists = lists.iter().map(list_row).collect::<Result<Vec<_>, _>>()?;
    let mut items = item::items_of_all(sql).await?;
    let change = |list: ListRow| Change::ListPut(list.change(items.remove(&list.id).unwrap_or_default()));
    Ok(lists.into_iter().map(change).collect())
}
