//! Audit records (contract D, 12): `A/logs/audit`, and the older `A/audit_logs` and `user/audit_logs`.
//!
//! What holds: an account's records are seen by that account alone. Refused credentials belong to no account; they are
//! shown in the installation's first one. A filter is applied to what a client would see.

use std::collections::HashMap;

use adit_model::AccountId;
use adit_store::{AccountRow, AuditPlace, AuditRow, AuditWindow, Direction, Window};
use http::StatusCode;
use serde_json::{Value, json};
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;
use time::{Date, OffsetDateTime};

use super::answer::{DIRECTION, Kind, object};
use super::envelope::{ApiError, Reply};
use super::operation::{Operation, Style};
use super::path::Query;
use super::{Call, shape};
use crate::permission::{Area, Level};

/// Records on a page, if nothing is said, and at most (contract D, 12.1).
const LIMIT: u64 = 100;
const MAX_LIMIT: u64 = 1000;
/// Records that are read from the store at a time.
const AT_ONCE: u32 = 1000;
/// Records that one request looks at for a filter; the cursor then goes on behind them.
const MAX_LOOKED_AT: usize = 20_000;
/// Records that the older list counts and pages through.
const MAX_LEGACY: usize = 100_000;

pub(super) const OPERATIONS: &[Operation] = &[
    Operation::get("/accounts/{account}/logs/audit", "List audit records by cursor", |call| {
        Box::pin(list(call))
    })
    .needs(Area::AuditLogs, Level::Read)
    .list(
        Style::CursorAfter,
        ITEM,
        &[("since", Kind::Moment), ("before", Kind::Moment), ("direction", DIRECTION)],
    ),
    Operation::get(
        "/accounts/{account}/logs/audit/product_categories",
        "List the products that audit records are of",
        |_call| Box::pin(std::future::ready(Ok(categories()))),
    )
    .needs(Area::AuditLogs, Level::Read)
    .list(Style::Single, CATEGORY, &[]),
    Operation::get(
        "/accounts/{account}/logs/audit/{audit}/history",
        "List the audit records of the object of one",
        |call| Box::pin(history(call, call.parameter("audit"))),
    )
    .needs(Area::AuditLogs, Level::Read)
    .list(
        Style::CursorAfter,
        ITEM,
        &[("since", Kind::Moment), ("before", Kind::Moment), ("direction", DIRECTION)],
    ),
    Operation::get(
        "/accounts/{account}/audit_logs",
        "List audit records as older clients have them",
        |call| Box::pin(legacy_list(call)),
    )
    .needs(Area::AuditLogs, Level::Read)
    .list(
        Style::Page,
        LEGACY_ITEM,
        &[("since", Kind::Moment), ("before", Kind::Moment), ("direction", DIRECTION)],
    ),
    Operation::get("/user/audit_logs", "List audit records as older clients have them", |call| {
        Box::pin(legacy_list(call))
    })
    .needs(Area::AuditLogs, Level::Read)
    .list(
        Style::Page,
        LEGACY_ITEM,
        &[("since", Kind::Moment), ("before", Kind::Moment), ("direction", DIRECTION)],
    ),
];

/// `A/logs/audit`: from `since` to `before`, by cursor.
pub(super) async fn list(call: &Call<'_>) -> Result<Reply, ApiError> {
    stretch(call, Filters::read(&call.query, &FIELDS)).await
}

/// `A/logs/audit/{id}/history`: what was done to the object of a record, in a stretch of time.
async fn history(call: &Call<'_>, id: &str) -> Result<Reply, ApiError> {
    let record = call.control.0.store.audit_fetch(call.account, id).await?;
    let missing = || ApiError::new(StatusCode::NOT_FOUND, 1003, "Audit record not found");
    let record = record.ok_or_else(missing)?;
    let only = |pointer, value: &str| (pointer, vec![value.to_owned()], Wanted::These);
    let of_object =
        vec![only("/resource/type", &record.object_kind), only("/resource/id", &record.object_id)];
    stretch(call, Filters(of_object)).await
}

/// The products, as clients choose among them: one category.
fn categories() -> Reply {
    let products = PRODUCTS.iter().map(|product| self::product_object(product)).collect();
    Reply::single(vec![category(products)])
}

object! {
    CATEGORY_FIELDS = category(products: Vec<Value>) [
        "label": Kind::Text => "Zero Trust",
        "value": Kind::Text => "zero_trust",
        "products": Kind::Many(&Kind::Object("AuditProduct", PRODUCT_FIELDS, &[])) => products,
    ]
}

object! {
    PRODUCT_FIELDS = product_object(name: &str) [
        "label": Kind::Text => name,
        "value": Kind::OneOf(&PRODUCTS) => name,
    ]
}

const CATEGORY: Kind = Kind::Object("AuditProductCategory", CATEGORY_FIELDS, &[]);

async fn stretch(call: &Call<'_>, filters: Filters) -> Result<Reply, ApiError> {
    let query = &call.query;
    let since = moment(query, "since")?.ok_or_else(|| required("since"))?;
    let before = moment(query, "before")?.ok_or_else(|| required("before"))?;
    let limit = query.amount("limit", LIMIT, MAX_LIMIT)?;
    let mut window = AuditWindow {
        since: Some(since),
        before: Some(before),
        direction: direction(query)?,
        after: query.parsed("cursor")?,
        limit: AT_ONCE,
        unowned: sees_unowned(call),
    };
    let viewer = Viewer::of(call).await?;
    let (mut rows, mut looked_at) = (Vec::new(), 0);
    let mut last: Option<AuditPlace> = None;
    let more = 'pages: loop {
        let page = call.control.0.store.audit_list(call.account, &window).await?;
        let whole = page.len() == AT_ONCE as usize;
        for record in &page {
            if rows.len() as u64 == limit || looked_at == MAX_LOOKED_AT {
                break 'pages true;
            }
            looked_at += 1;
            last = Some(record.place());
            let item = viewer.item(record);
            if filters.pass(&item) {
                rows.push(item);
            }
        }
        if !whole {
            break false;
        }
        window.after.clone_from(&last);
    };
    let after = last.filter(|_| more).map_or_else(String::new, |place| place.to_string());
    // Older clients look for the cursor where the other lists have it.
    let info = json!({ "count": rows.len(), "cursor": after, "cursors": { "after": after } });
    Ok(Reply::Many { rows, info })
}

/// `A/audit_logs`: page by page, newest first unless said otherwise.
pub(super) async fn legacy_list(call: &Call<'_>) -> Result<Reply, ApiError> {
    let query = &call.query;
    let paging = query.paging(LIMIT, MAX_LIMIT)?;
    let filters = Filters::read(query, &LEGACY_FIELDS);
    let mut window = AuditWindow {
        since: moment(query, "since")?,
        before: moment(query, "before")?,
        direction: if query.text("direction").is_some() { direction(query)? } else { Direction::Descending },
        after: None,
        limit: AT_ONCE,
        unowned: sees_unowned(call),
    };
    let wanted = paging.window();
    let (mut rows, mut total, mut looked_at) = (Vec::new(), 0_u64, 0);
    loop {
        let page = call.control.0.store.audit_list(call.account, &window).await?;
        for item in page.iter().map(legacy_item).filter(|item| filters.pass(item)) {
            if total >= wanted.offset && (rows.len() as u64) < wanted.limit {
                rows.push(item);
            }
            total += 1;
        }
        looked_at += page.len();
        match page.last() {
            Some(last) if page.len() == AT_ONCE as usize && looked_at < MAX_LEGACY => {
                window.after = Some(last.place());
            }
            _ => break,
        }
    }
    let info = paging.info(rows.len(), total);
    Ok(Reply::Many { rows, info })
}

/// Refused credentials are nobody's: the installation's own account shows them.
fn sees_unowned(call: &Call<'_>) -> bool {
    call.account == call.control.0.account
}

pub(super) fn direction(query: &Query) -> Result<Direction, ApiError> {
    match query.text("direction") {
        None | Some("desc") => Ok(Direction::Descending),
        Some("asc") => Ok(Direction::Ascending),
        Some(_) => Err(invalid("direction: expected asc or desc")),
    }
}

/// A time (RFC 3339) or a date, which is its first moment in UTC.
pub(super) fn moment(query: &Query, name: &str) -> Result<Option<OffsetDateTime>, ApiError> {
    let Some(text) = query.text(name) else { return Ok(None) };
    // A `+` of the offset that was not escaped has become a space.
    if let Ok(time) = OffsetDateTime::parse(&text.replace(' ', "+"), &Rfc3339) {
        return Ok(Some(time));
    }
    let date = Date::parse(text, format_description!("[year]-[month]-[day]"));
    let wrong = |_| invalid(&format!("{name}: expected a time such as 2026-01-02T03:04:05Z, or a date"));
    date.map(|date| Some(date.midnight().assume_utc())).map_err(wrong)
}

fn required(name: &str) -> ApiError {
    invalid(&format!("{name}: expected a time such as 2026-01-02T03:04:05Z, or a date; it is required"))
}

fn invalid(message: &str) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, 1003, message)
}

/// What of an item a parameter is compared with.
type Field = (&'static str, &'static str);

/// Parameters of `A/logs/audit`; each has a `.not` form too.
const FIELDS: [Field; 21] = [
    ("id", "/id"),
    ("action_type", "/action/type"),
    ("action_result", "/action/result"),
    ("actor_email", "/actor/email"),
    ("actor_id", "/actor/id"),
    ("actor_ip_address", "/actor/ip_address"),
    ("actor_type", "/actor/type"),
    ("actor_context", "/actor/context"),
    ("actor_token_id", "/actor/token_id"),
    ("actor_token_name", "/actor/token_name"),
    ("resource_type", "/resource/type"),
    ("resource_product", "/resource/product"),
    ("resource_id", "/resource/id"),
    ("resource_scope", "/resource/scope"),
    ("product_category", "/resource/product"),
    ("raw_method", "/raw/method"),
    ("raw_uri", "/raw/uri"),
    ("raw_status_code", "/raw/status_code"),
    ("raw_cf_ray_id", "/raw/cf_ray_id"),
    ("zone_id", "/zone/id"),
    ("zone_name", "/zone/name"),
];

/// Parameters of the older lists.
const LEGACY_FIELDS: [Field; 5] = [
    ("id", "/id"),
    ("action.type", "/action/type"),
    ("actor.email", "/actor/email"),
    ("actor.ip", "/actor/ip"),
    ("zone.name", "/zone/name"),
];

/// What a query asks of items: field, values, and whether they are the ones wanted or the ones not wanted.
#[derive(Debug)]
struct Filters(Vec<(&'static str, Vec<String>, Wanted)>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    These,
    Others,
}

impl Filters {
    fn read(query: &Query, fields: &[Field]) -> Self {
        let mut filters = Vec::new();
        for (name, pointer) in fields {
            for (name, wanted) in
                [((*name).to_owned(), Wanted::These), (format!("{name}.not"), Wanted::Others)]
            {
                let values: Vec<String> = query.all(&name).into_iter().map(str::to_owned).collect();
                if !values.is_empty() {
                    filters.push((*pointer, values, wanted));
                }
            }
        }
        Self(filters)
    }

    fn pass(&self, item: &Value) -> bool {
        self.0.iter().all(|(pointer, values, wanted)| {
            let found = item.pointer(pointer).unwrap_or(&Value::Null);
            let is = values.iter().any(|value| match found {
                Value::String(text) => text == value,
                Value::Number(number) => number.to_string() == *value,
                Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => false,
            });
            is == (*wanted == Wanted::These)
        })
    }
}

/// What an account's records are shown with.
struct Viewer {
    account: Value,
    node: String,
    tokens: HashMap<String, String>,
}

impl Viewer {
    async fn of(call: &Call<'_>) -> Result<Self, ApiError> {
        let store = &call.control.0.store;
        let accounts = store.account_list().await?;
        let name = |account: &AccountRow| (account.id == call.account).then(|| account.name.clone());
        let tokens = store.token_list(call.account, Window::ALL).await?.rows;
        Ok(Self {
            account: account_object(call.account, accounts.iter().find_map(name)),
            node: call.control.0.settings.node.clone(),
            tokens: tokens.into_iter().map(|token| (token.id.to_string(), token.name)).collect(),
        })
    }

    fn item(&self, record: &AuditRow) -> Value {
        item(record, self)
    }
}

object! {
    FIELDS_OF_ITEM = item(record: &AuditRow, viewer: &Viewer) [
        "id": Kind::Text => record.id,
        "account": Kind::Object("AuditAccount", ACCOUNT_FIELDS, &[]) => viewer.account,
        "action": Kind::Object("AuditAction", ACTION_FIELDS, &[]) => action_object(record),
        "actor": Kind::Object("AuditActor", ACTOR_FIELDS, &[]) => actor_object(record, viewer),
        "resource": Kind::Object("AuditResource", RESOURCE_FIELDS, &[]) => resource_object(record),
        "raw": Kind::Object("AuditRequest", RAW_FIELDS, &[]) => raw_object(record, viewer),
        "zone": Kind::Null => Value::Null,
    ]
}

object! {
    ACCOUNT_FIELDS = account_object(id: AccountId, name: Option<String>) [
        "id": Kind::Tag => id,
        "name": MAYBE => name,
    ]
}

object! {
    ACTION_FIELDS = action_object(record: &AuditRow) [
        "type": ACTION => action(record),
        "result": Kind::OneOf(&["success", "failure"]) => if record.success { "success" } else { "failure" },
        "description": Kind::Text => record.action,
        "time": Kind::Time => shape::time(record.at),
    ]
}

object! {
    ACTOR_FIELDS = actor_object(record: &AuditRow, viewer: &Viewer) with {
        let actor = Who::of(record);
        let name = actor.token.and_then(|id| viewer.tokens.get(id));
    } [
        "id": MAYBE => actor.id,
        "type": MAYBE => actor.kind,
        "email": Kind::Null => Value::Null,
        "context": MAYBE => actor.context,
        "ip_address": MAYBE => record.address,
        "token_id": MAYBE => actor.token,
        "token_name": MAYBE => name,
    ]
}

object! {
    RESOURCE_FIELDS = resource_object(record: &AuditRow) [
        "id": MAYBE => text(&record.object_id),
        "type": Kind::Text => record.object_kind,
        "product": Kind::OneOf(&PRODUCTS) => product(&record.object_kind),
        "scope": Kind::OneOf(&["accounts"]) => "accounts",
        "request": Kind::Anything => record.detail,
        "response": Kind::Map(&Kind::Anything) => serde_json::Map::new(),
    ]
}

object! {
    RAW_FIELDS = raw_object(record: &AuditRow, viewer: &Viewer) with {
        let ray: String = record.request.chars().filter(|letter| *letter != '-').take(16).collect();
        let ray = if ray.is_empty() { Value::Null } else { format!("{ray}-{}", viewer.node).into() };
    } [
        "method": MAYBE => text(&record.call.method),
        "uri": MAYBE => text(&record.call.uri),
        "status_code": Kind::Number => if record.success { 200 } else { 401 },
        "cf_ray_id": MAYBE => ray,
        "user_agent": MAYBE => text(&record.call.user_agent),
    ]
}

/// A text that is not always there.
const MAYBE: Kind = Kind::Maybe(&Kind::Text);
const ACTION: Kind = Kind::OneOf(&["create", "update", "delete", "view"]);
const ITEM: Kind = Kind::Object("AuditRecord", FIELDS_OF_ITEM, &[]);
const LEGACY_ITEM: Kind = Kind::Object("LegacyAuditRecord", LEGACY_ITEM_FIELDS, &[]);

/// Who an actor's text names, in the words of the published schema, which knows no others.
struct Who<'r> {
    kind: Option<&'static str>,
    context: Option<&'static str>,
    id: Option<&'r str>,
    token: Option<&'r str>,
}

impl<'r> Who<'r> {
    fn of(record: &'r AuditRow) -> Self {
        match record.actor.split_once(':') {
            Some(("api_token", id)) => {
                Self { kind: Some("account"), context: Some("api_token"), id: Some(id), token: Some(id) }
            }
            Some(("service_token", id)) => {
                Self { kind: Some("account"), context: None, id: Some(id), token: None }
            }
            // Someone of the machine itself, by the number of the user.
            Some(("local", id)) => Self { kind: Some("user"), context: None, id: Some(id), token: None },
            _ if record.actor == "system" => {
                Self { kind: Some("system"), context: None, id: None, token: None }
            }
            _ => Self { kind: None, context: None, id: None, token: None },
        }
    }
}

object! {
    LEGACY_ITEM_FIELDS = legacy_item(record: &AuditRow) [
        "id": Kind::Text => record.id,
        "when": Kind::Time => shape::time(record.at),
        "action": Kind::Object("LegacyAuditAction", LEGACY_ACTION_FIELDS, &[]) => legacy_action(record),
        "actor": Kind::Object("LegacyAuditActor", LEGACY_ACTOR_FIELDS, &[]) => legacy_actor(record),
        "resource": Kind::Object("LegacyAuditResource", LEGACY_RESOURCE_FIELDS, &[]) => legacy_resource(record),
        "owner": Kind::Object("LegacyAuditOwner", LEGACY_OWNER_FIELDS, &[]) => legacy_owner(record),
        "interface": Kind::OneOf(&["API"]) => "API",
        "metadata": Kind::Anything => record.detail,
        "newValue": Kind::Null => Value::Null,
        "oldValue": Kind::Null => Value::Null,
    ]
}

object! {
    LEGACY_ACTION_FIELDS = legacy_action(record: &AuditRow) [
        "type": ACTION => action(record),
        "result": Kind::Flag => record.success,
    ]
}

object! {
    LEGACY_ACTOR_FIELDS = legacy_actor(record: &AuditRow) with {
        let actor = Who::of(record);
    } [
        "id": MAYBE => actor.id,
        "email": Kind::Null => Value::Null,
        "ip": MAYBE => record.address,
        "type": Kind::OneOf(&["user", "system"]) => if actor.kind == Some("system") { "system" } else { "user" },
    ]
}

object! {
    LEGACY_RESOURCE_FIELDS = legacy_resource(record: &AuditRow) [
        "id": MAYBE => text(&record.object_id),
        "type": Kind::Text => record.object_kind,
    ]
}

object! {
    LEGACY_OWNER_FIELDS = legacy_owner(record: &AuditRow) [
        "id": Kind::Maybe(&Kind::Tag) => record.account,
    ]
}

/// An action as one of the four kinds that clients know.
fn action(record: &AuditRow) -> &'static str {
    match record.action.rsplit('.').next() {
        Some("create" | "enroll") => "create",
        Some("delete" | "revoke") => "delete",
        Some("refuse") => "view",
        _ => "update",
    }
}

/// The products that records are of.
const PRODUCTS: [&str; 5] = ["tunnel", "gateway", "access", "devices", "account"];

/// The product to which a kind of object belongs.
fn product(kind: &str) -> &'static str {
    match kind {
        "tunnel" | "hostname" | "route" | "virtual_network" | "hostname_route" => "tunnel",
        "list" | "rule" | "location" => "gateway",
        "service_token" => "access",
        "device" | "registration" | "fallback_domains" => "devices",
        _ => "account",
    }
}

/// A text, or `null` where there is none.
fn text(text: &str) -> Value {
    if text.is_empty() { Value::Null } else { text.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_its_first_moment() {
        let read = |text: &str| moment(&Query::parse(text).unwrap(), "since");
        let day = time::macros::datetime!(2026-01-02 00:00 UTC);
        assert_eq!(read("since=2026-01-02").unwrap(), Some(day));
        assert_eq!(read("since=2026-01-02T01:00:00%2B01:00").unwrap(), Some(day));
        assert_eq!(read("other=1").unwrap(), None);
        assert!(read("since=yesterday").unwrap_err().message.contains("since: expected a time"));
    }

    #[test]
    fn filters_take_these_or_others() {
        let item = json!({ "action": { "type": "create" }, "raw": { "status_code": 200 }, "zone": null });
        let check = |query: &str, expected: bool| {
            let filters = Filters::read(&Query::parse(query).unwrap(), &FIELDS);
            assert_eq!(filters.pass(&item), expected, "{query}");
        };
        check("", true);
        check("action_type=create", true);
        check("action_type=delete&action_type=create", true);
        check("action_type=delete,update", false);
        check("action_type.not=delete", true);
        check("action_type.not=create", false);
        check("raw_status_code=200", true);
        check("zone_name=example.com", false);
        check("zone_name.not=example.com", true);
    }
}
