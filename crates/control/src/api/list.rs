//! Gateway lists (contract D, 7): `A/gateway/lists`.

pub(super) mod item;

use std::cmp::Ordering;

use adit_model::{ListId, ListKind};
use adit_store::{
    FindError, ItemRow, ListDeleteError, ListEdit, ListRow, ListWriteError, NewItem, NewList, Window,
};
use http::StatusCode;
use serde_json::{Value, json};

use self::item::{MAX_ITEMS, Repeated};
use super::answer::{DIRECTION, EMPTY, Kind, object};
use super::body::{Family, Fields};
use super::body_shape::{Field, Shape};
use super::envelope::{ApiError, Reply};
use super::operation::{Operation, Style};
use super::selection::{Selected, select};
use super::{Call, shape};
use crate::permission::{Area, Level};

/// Longest name, in characters.
const MAX_NAME: usize = 256;
/// Longest description, in characters.
const MAX_DESCRIPTION: usize = 1024;
/// Items of a page, and the most of one (contract D, 4).
const PAGE: u64 = 50;
const MAX_PAGE: u64 = 1000;

const NAME: &str = "1 to 256 printable characters";
const FILTERS: [&str; 3] = ["id", "name", "type"];
const ORDERS: [&str; 4] = ["name", "created_at", "updated_at", "item_count"];

const CREATE: &[Field] = &[
    Field::required("name", NAME, Shape::Name(MAX_NAME)),
    Field::required("type", KINDS, Shape::OneOf(&KIND_NAMES)),
    Field::optional("description", Shape::Comment(MAX_DESCRIPTION)),
    Field::optional("items", Shape::Told(item::schema)),
];

const REPLACE: &[Field] = &[
    Field::required("name", NAME, Shape::Name(MAX_NAME)),
    Field::optional("type", Shape::OneOf(&KIND_NAMES)),
    Field::optional("description", Shape::Comment(MAX_DESCRIPTION)),
    Field::optional("items", Shape::Told(item::schema)),
];

const CHANGE: &[Field] = &[
    Field::optional("append", Shape::Told(item::schema)),
    Field::optional("remove", Shape::Told(item::removed_schema)),
];

pub(super) const OPERATIONS: &[Operation] = &[
    Operation::post("/accounts/{account}/gateway/lists", "Create a list", |call| Box::pin(create(call)))
        .needs(Area::ZeroTrust, Level::Write)
        .body(Family::List, CREATE)
        .answers(WHOLE),
    Operation::get("/accounts/{account}/gateway/lists", "List lists", |call| Box::pin(list(call)))
        .needs(Area::ZeroTrust, Level::Read)
        .list(
            Style::Single,
            LIST,
            &[
                ("type", Kind::OneOf(&KIND_NAMES)),
                ("search", Kind::Text),
                ("filter", Kind::Text),
                ("order_by", Kind::OneOf(&ORDERS)),
                ("direction", DIRECTION),
            ],
        ),
    Operation::get("/accounts/{account}/gateway/lists/{list}", "Get a list with its items", |call| {
        Box::pin(fetch(call, call.parameter("list")))
    })
    .needs(Area::ZeroTrust, Level::Read)
    .answers(WHOLE),
    Operation::put("/accounts/{account}/gateway/lists/{list}", "Replace a list", |call| {
        Box::pin(replace(call, call.parameter("list")))
    })
    .needs(Area::ZeroTrust, Level::Write)
    .body(Family::List, REPLACE)
    .answers(WHOLE),
    Operation::patch(
        "/accounts/{account}/gateway/lists/{list}",
        "Add items to a list and take items away",
        |call| Box::pin(change(call, call.parameter("list"))),
    )
    .needs(Area::ZeroTrust, Level::Write)
    .body(Family::List, CHANGE)
    .answers(LIST),
    Operation::delete("/accounts/{account}/gateway/lists/{list}", "Delete a list", |call| {
        Box::pin(delete(call, call.parameter("list")))
    })
    .needs(Area::ZeroTrust, Level::Write)
    .answers(EMPTY),
    Operation::get("/accounts/{account}/gateway/lists/{list}/items", "List the items of a list", |call| {
        Box::pin(items(call, call.parameter("list")))
    })
    .needs(Area::ZeroTrust, Level::Read)
    .list(Style::Page, ITEM, &[]),
];

async fn create(call: &Call<'_>) -> Result<Reply, ApiError> {
    let fields = call.fields(Family::List)?;
    let kind: Option<ListKind> = fields.parsed("type", KINDS)?;
    let kind = fields.required("type", KINDS, kind)?;
    let new = NewList {
        name: fields.required("name", NAME, fields.name("name", MAX_NAME)?)?,
        kind,
        description: fields.comment("description", MAX_DESCRIPTION)?,
        items: given_items(&fields, kind)?,
    };
    let made = call.control.0.store.list_create(&call.actor, call.account, new).await.map_err(write_error)?;
    whole(call, made.value.id).await
}

fn given_items(fields: &Fields, kind: ListKind) -> Result<Option<Vec<NewItem>>, ApiError> {
    fields.value("items").map(|values| item::items(kind, values, "items", Repeated::Refused)).transpose()
}

async fn list(call: &Call<'_>) -> Result<Reply, ApiError> {
    let kind: Option<ListKind> = call.query.parsed("type")?;
    let mut rows = call.control.0.store.list_list(call.account).await?;
    rows.retain(|row| kind.is_none_or(|kind| kind == row.kind));
    let rows = select(rows, &call.query, Family::List, (&FILTERS, &ORDERS))?;
    Ok(Reply::single(rows.iter().map(object).collect()))
}

async fn fetch(call: &Call<'_>, id: &str) -> Result<Reply, ApiError> {
    whole(call, parse(id)?).await
}

/// A list with its items.
async fn whole(call: &Call<'_>, id: ListId) -> Result<Reply, ApiError> {
    let found = call.control.0.store.list_items(call.account, id, Window::ALL).await;
    let (row, page) = found.map_err(missing)?;
    let mut object = object(&row);
    // A list that never had items has none, and one whose items were taken away has no longer any (contract D, 7.3).
    object["items"] = match row.item_count {
        None => Value::Null,
        Some(_) => page.rows.iter().map(item_object).collect(),
    };
    Ok(Reply::One(object))
}

async fn replace(call: &Call<'_>, id: &str) -> Result<Reply, ApiError> {
    let id = parse(id)?;
    let fields = call.fields(Family::List)?;
    let store = &call.control.0.store;
    let row = store.list_fetch(call.account, id).await.map_err(missing)?;
    if let Some(kind) = fields.parsed::<ListKind>("type", KINDS)?
        && kind != row.kind
    {
        return Err(fields.wrong("type", &format!("{}: a list keeps its type", row.kind)));
    }
    let edit = ListEdit {
        name: fields.required("name", NAME, fields.name("name", MAX_NAME)?)?,
        description: fields.comment("description", MAX_DESCRIPTION)?,
        items: given_items(&fields, row.kind)?,
    };
    store.list_replace(&call.actor, call.account, id, edit).await.map_err(write_error)?;
    whole(call, id).await
}

async fn change(call: &Call<'_>, id: &str) -> Result<Reply, ApiError> {
    let id = parse(id)?;
    let fields = call.fields(Family::List)?;
    let store = &call.control.0.store;
    let kind = store.list_fetch(call.account, id).await.map_err(missing)?.kind;
    let remove = fields.value("remove").map(|values| item::removed(kind, values)).transpose()?;
    let append = fields.value("append");
    let append =
        append.map(|values| item::items(kind, values, "append", Repeated::PassedOver)).transpose()?;
    let (remove, append) = (remove.unwrap_or_default(), append.unwrap_or_default());
    let most = MAX_ITEMS as u64;
    let done = store.list_items_change(&call.actor, call.account, id, remove, append, most).await;
    Ok(Reply::One(object(&done.map_err(write_error)?.value)))
}

async fn delete(call: &Call<'_>, id: &str) -> Result<Reply, ApiError> {
    let done = call.control.0.store.list_delete(&call.actor, call.account, parse(id)?).await;
    done.map_err(|error| match error {
        ListDeleteError::NotFound => not_found(),
        ListDeleteError::InUse { by } => {
            ApiError::new(StatusCode::CONFLICT, 2053, format!("list is in use by: {}", by.join(", ")))
        }
        ListDeleteError::Fault(fault) => fault.into(),
    })?;
    Ok(Reply::One(json!({})))
}

/// Without `per_page` the first page is the whole list, and there is no second: an old client reads no further than the
/// first, and a new one would read its rows twice (contract D, 4).
async fn items(call: &Call<'_>, id: &str) -> Result<Reply, ApiError> {
    let id = parse(id)?;
    let store = &call.control.0.store;
    let paging = call.query.paging(PAGE, MAX_PAGE)?;
    if call.query.text("per_page").is_some() {
        let (_, page) = store.list_items(call.account, id, paging.window()).await.map_err(missing)?;
        let info = paging.info(page.rows.len(), page.total);
        return Ok(Reply::Many { rows: page.rows.iter().map(item_object).collect(), info });
    }
    let first = paging.window().offset == 0;
    let window = if first { Window::ALL } else { Window { offset: 0, limit: 0 } };
    let (_, page) = store.list_items(call.account, id, window).await.map_err(missing)?;
    let total = page.total;
    let info = json!({
        "page": paging.page(), "per_page": total, "count": page.rows.len(), "total_count": total,
        "total_pages": u8::from(total > 0),
    });
    Ok(Reply::Many { rows: page.rows.iter().map(item_object).collect(), info })
}

object! {
    FIELDS = object(list: &ListRow) [
        "id": Kind::Uuid => list.id,
        "name": Kind::Text => list.name,
        "type": Kind::OneOf(&KIND_NAMES) => list.kind,
        "description": Kind::Maybe(&Kind::Text) => list.description,
        "count": Kind::Number => list.item_count.unwrap_or(0),
        "created_at": Kind::Time => shape::time(list.created_at),
        "updated_at": Kind::Time => shape::time(list.updated_at),
    ]
}

object! {
    ITEM_FIELDS = item_object(item: &ItemRow) [
        "value": Kind::Text => item.value,
        "description": Kind::Maybe(&Kind::Text) => item.description,
        "created_at": Kind::Time => shape::time(item.created_at),
    ]
}

const LIST: Kind = Kind::Object("GatewayList", FIELDS, &[]);
const ITEM: Kind = Kind::Object("GatewayListItem", ITEM_FIELDS, &[]);
const WHOLE: Kind =
    Kind::Object("GatewayListWithItems", FIELDS, &[("items", Kind::Maybe(&Kind::Many(&ITEM)))]);

impl Selected for ListRow {
    fn texts(&self) -> Vec<&str> {
        [Some(self.name.as_str()), self.description.as_deref()].into_iter().flatten().collect()
    }

    fn value(&self, key: &str) -> Option<String> {
        match key {
            "id" => Some(self.id.to_string()),
            "name" => Some(self.name.clone()),
            "type" => Some(self.kind.to_string()),
            _ => None,
        }
    }

    fn order(&self, key: &str, other: &Self) -> Option<Ordering> {
        match key {
            "name" => Some(self.name.cmp(&other.name)),
            "created_at" => Some(self.created_at.cmp(&other.created_at)),
            "updated_at" => Some(self.updated_at.cmp(&other.updated_at)),
            "item_count" => Some(self.item_count.cmp(&other.item_count)),
            _ => None,
        }
    }
}

fn parse(id: &str) -> Result<ListId, ApiError> {
    id.parse().map_err(|_| not_found())
}

fn not_found() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, 2050, "list not found")
}

fn missing(error: FindError) -> ApiError {
    match error {
        FindError::NotFound => not_found(),
        FindError::Fault(fault) => fault.into(),
    }
}

fn write_error(error: ListWriteError) -> ApiError {
    match error {
        ListWriteError::NotFound => not_found(),
        ListWriteError::TooLarge { limit } => {
            let message = format!("invalid item: the list would have more than {limit} items");
            ApiError::new(StatusCode::BAD_REQUEST, 2054, message).at("/append")
        }
        ListWriteError::Fault(fault) => fault.into(),
    }
}

/// The types that a list may have.
const KIND_NAMES: [&str; 9] =
    ["SERIAL", "URL", "DOMAIN", "EMAIL", "IP", "CATEGORY", "LOCATION", "DEVICE", "AAGUID"];
const KINDS: &str = "SERIAL, URL, DOMAIN, EMAIL, IP, CATEGORY, LOCATION, DEVICE or AAGUID";
