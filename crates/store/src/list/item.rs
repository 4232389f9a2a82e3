//! The items of lists: many rows with each statement, since a list has up to a hundred thousand.

use std::collections::{HashMap, HashSet};

use adit_model::{ListId, ListItemsChange};
use sqlx::Row as _;
use time::OffsetDateTime;

use crate::Window;
use crate::row::{Columns, Connection, Fault, Row};

/// An item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ItemRow {
    /// The text as it was given.
    pub value: String,
    /// What people wrote about it.
    pub description: Option<String>,
    /// When it came into the list.
    pub created_at: OffsetDateTime,
}

/// An item to store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewItem {
    /// The text as it was given.
    pub value: String,
    /// The value by which it is compared.
    pub compared: String,
    /// Its description.
    pub description: Option<String>,
}

/// Rows of one statement: with six parameters each, far below what either database takes (SQLite: 32,766).
const ROWS: usize = 500;
const COLUMNS: usize = 6;

/// Stores items, each with the time at which it came, behind a place. None of them may be there.
pub(super) async fn items_insert(
    sql: &mut Connection,
    list: ListId,
    mut place: i64,
    items: &[(NewItem, i64)],
) -> Result<(), Fault> {
    let list = list.to_string();
    let whole = statement(ROWS.min(items.len()));
    for piece in items.chunks(ROWS) {
        let last = (piece.len() < ROWS).then(|| statement(piece.len()));
        let mut query = sqlx::query(last.as_deref().unwrap_or(&whole));
        for (item, came) in piece {
            place += 1;
            query = query
                .bind(&list)
                .bind(&item.compared)
                .bind(place)
                .bind(&item.value)
                .bind(item.description.as_deref())
                .bind(*came);
        }
        query.execute(&mut *sql).await?;
    }
    Ok(())
}

/// The statement that stores so many rows.
fn statement(rows: usize) -> String {
    let mut text = String::from(
        "INSERT INTO list_items (list_id, compared, place, value, description, created_at) VALUES ",
    );
    for row in 0..rows {
        let comma = if row > 0 { ", " } else { "" };
        let numbers: Vec<String> =
            (1..=COLUMNS).map(|column| format!("${}", row * COLUMNS + column)).collect();
        text.push_str(comma);
        text.push('(');
        text.push_str(&numbers.join(", "));
        text.push(')');
    }
    text
}

/// Makes these the items of a list. One that was there before keeps the time at which it came.
pub(super) async fn items_replace(
    sql: &mut Connection,
    list: ListId,
    at: i64,
    items: Vec<NewItem>,
) -> Result<ListItemsChange, Fault> {
    let rows = sqlx::query("SELECT * FROM list_items WHERE list_id = $1 ORDER BY place")
        .bind(list.to_string())
        .fetch_all(&mut *sql)
        .await?;
    let mut before = HashMap::with_capacity(rows.len());
    let mut same = rows.len() == items.len();
    for (index, row) in rows.iter().enumerate() {
        let columns = Columns::new(row, "list_items");
        let compared = columns.text("compared")?;
        same = same
            && items.get(index).is_some_and(|item| item.compared == compared)
            && items[index].value == columns.text("value")?
            && items[index].description == columns.maybe_text("description")?;
        before.insert(compared, columns.number("created_at")?);
    }
    if same {
        return Ok(ListItemsChange { id: list, removed: Vec::new(), added: Vec::new() });
    }
    sqlx::query("DELETE FROM list_items WHERE list_id = $1")
        .bind(list.to_string())
        .execute(&mut *sql)
        .await?;
    let mut added = Vec::new();
    let dated = |item: NewItem| {
        let came = before.remove(&item.compared).unwrap_or_else(|| {
            added.push(item.compared.clone());
            at
        });
        (item, came)
    };
    let items: Vec<_> = items.into_iter().map(dated).collect();
    items_insert(sql, list, 0, &items).await?;
    Ok(ListItemsChange { id: list, removed: before.into_keys().collect(), added })
}

/// Takes items away. Answers with those that were there.
pub(super) async fn items_remove(
    sql: &mut Connection,
    list: ListId,
    compared: Vec<String>,
) -> Result<Vec<String>, Fault> {
    let compared: Vec<String> = compared.into_iter().collect::<HashSet<_>>().into_iter().collect();
    let mut removed = Vec::new();
    for piece in compared.chunks(ROWS) {
        let text = format!(
            "DELETE FROM list_items WHERE list_id = $1 AND compared IN ({}) RETURNING compared",
            parameters(2, piece.len())
        );
        let mut query = sqlx::query_scalar(&text).bind(list.to_string());
        for compared in piece {
            query = query.bind(compared);
        }
        removed.extend(query.fetch_all(&mut *sql).await?);
    }
    Ok(removed)
}

/// Adds items behind the others. Answers with those that were not there.
pub(super) async fn items_append(
    sql: &mut Connection,
    list: ListId,
    at: i64,
    items: Vec<NewItem>,
) -> Result<Vec<String>, Fault> {
    let mut there = HashSet::new();
    let compared: Vec<String> = items.iter().map(|item| item.compared.clone()).collect();
    for piece in compared.chunks(ROWS) {
        let text = format!(
            "SELECT compared FROM list_items WHERE list_id = $1 AND compared IN ({})",
            parameters(2, piece.len())
        );
        let mut query = sqlx::query_scalar::<_, String>(&text).bind(list.to_string());
        for compared in piece {
            query = query.bind(compared);
        }
        there.extend(query.fetch_all(&mut *sql).await?);
    }
    let new = items.into_iter().filter(|item| there.insert(item.compared.clone()));
    let items: Vec<_> = new.map(|item| (item, at)).collect();
    let last: i64 = sqlx::query_scalar("SELECT coalesce(max(place), 0) FROM list_items WHERE list_id = $1")
        .bind(list.to_string())
        .fetch_one(&mut *sql)
        .await?;
    items_insert(sql, list, last, &items).await?;
    Ok(items.into_iter().map(|(item, _)| item.compared).collect())
}

/// So many parameters, the first with this number.
fn parameters(first: usize, count: usize) -> String {
    (first..first + count).map(|number| format!("${number}")).collect::<Vec<_>>().join(", ")
}

pub(super) async fn items_select(
    sql: &mut Connection,
    list: ListId,
    window: Window,
) -> Result<Vec<ItemRow>, Fault> {
    let rows = sqlx::query(
        "SELECT value, description, created_at FROM list_items WHERE list_id = $1 ORDER BY place \
         LIMIT $2 OFFSET $3",
    )
    .bind(list.to_string())
    .bind(window.limit_sql())
    .bind(window.offset_sql())
    .fetch_all(sql)
    .await?;
    rows.iter().map(item_row).collect()
}

fn item_row(row: &Row) -> Result<ItemRow, Fault> {
    let columns = Columns::new(row, "list_items");
    Ok(ItemRow {
        value: columns.text("value")?,
        description: columns.maybe_text("description")?,
        created_at: columns.time("created_at")?,
    })
}

/// The items of every list, as they are compared.
pub(super) async fn items_of_all(sql: &mut Connection) -> Result<HashMap<ListId, Vec<String>>, Fault> {
    let rows = sqlx::query("SELECT list_id, compared FROM list_items ORDER BY list_id, place")
        .fetch_all(sql)
        .await?;
    let mut items: HashMap<ListId, Vec<String>> = HashMap::new();
    for row in &rows {
        let id = Columns::new(row, "list_items").parsed("list_id")?;
        items.entry(id).or_default().push(row.try_get("compared")?);
    }
    Ok(items)
}
