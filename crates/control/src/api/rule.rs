//! Gateway rules (contract D, 8): `A/gateway/rules`.
//!
//! The texts of expressions are answered as they were given, whatever the spelling: tools that compare what they sent with
//! what they get see no difference. How they were understood stands beside them, in `x_canonical`.

mod content;
mod schedule;
mod settings;

use std::cmp::Ordering;

use adit_model::{Filter, MAX_PRECEDENCE, RuleId, Schedule};
use adit_policy::never_supplied;
use adit_store::{Expiration, FindError, RuleContent, RuleRow, RuleWriteError};
use http::StatusCode;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;

use super::answer::{DIRECTION, EMPTY, Kind, object};
use super::body::Family;
use super::body_shape::{Field, Shape};
use super::envelope::{ApiError, Reply};
use super::operation::{Operation, Style};
use super::selection::{Selected, select};
use super::{Call, shape};
use crate::permission::{Area, Level};

/// The filters whose rules decide.
const ENFORCED: [Filter; 4] = [Filter::Dns, Filter::DnsResolver, Filter::L4, Filter::Http];

/// What an enabled rule says of itself whose filter decides nothing yet.
const NOT_ENFORCED: &str = "not enforced: this version applies no rules of the filter egress";

const FILTERS: [&str; 6] = ["id", "name", "action", "filter", "filters", "enabled"];
const ORDERS: [&str; 4] = ["name", "created_at", "updated_at", "precedence"];

/// What a rule may say; [`content`] reads it and knows which parts go together.
const RULE: &[Field] = &[
    Field::required("name", "1 to 256 printable characters", Shape::Name(content::MAX_NAME)),
    Field::optional("description", Shape::Comment(content::MAX_DESCRIPTION)),
    Field::optional("enabled", Shape::Flag),
    Field::required("action", "an action", Shape::Told(content::action_schema)),
    Field::optional("filters", Shape::Told(content::filters_schema)),
    Field::optional("traffic", Shape::Text),
    Field::optional("identity", Shape::Text),
    Field::optional("device_posture", Shape::Text),
    Field::optional("precedence", Shape::Number(MAX_PRECEDENCE)),
    Field::optional("rule_settings", Shape::Told(settings::schema)),
    Field::optional("schedule", Shape::Told(schedule::schema)),
    Field::optional("expiration", Shape::Told(schedule::expiration_schema)),
];

pub(super) use self::settings::form::is_url;

pub(super) const OPERATIONS: &[Operation] = &[
    Operation::post("/accounts/{account}/gateway/rules", "Create a rule", |call| Box::pin(create(call)))
        .needs(Area::ZeroTrust, Level::Write)
        .body(Family::Rule, RULE)
        .answers(GATEWAY_RULE),
    Operation::get("/accounts/{account}/gateway/rules", "List rules", |call| Box::pin(list(call)))
        .needs(Area::ZeroTrust, Level::Read)
        .list(
            Style::Single,
            GATEWAY_RULE,
            &[
                ("search", Kind::Text),
                ("filter", Kind::Text),
                ("order_by", Kind::OneOf(&ORDERS)),
                ("direction", DIRECTION),
            ],
        ),
    Operation::get(
        "/accounts/{account}/gateway/rules/tenant",
        "List the rules that another account shares",
        |_call| Box::pin(std::future::ready(Ok(tenant()))),
    )
    .needs(Area::ZeroTrust, Level::Read)
    .list(Style::Single, GATEWAY_RULE, &[]),
    Operation::get("/accounts/{account}/gateway/rules/{rule}", "Get a rule", |call| {
        Box::pin(fetch(call, call.parameter("rule")))
    })
    .needs(Area::ZeroTrust, Level::Read)
    .answers(GATEWAY_RULE),
    Operation::put("/accounts/{account}/gateway/rules/{rule}", "Replace a rule", |call| {
        Box::pin(replace(call, call.parameter("rule")))
    })
    .needs(Area::ZeroTrust, Level::Write)
    .body(Family::Rule, RULE)
    .answers(GATEWAY_RULE),
    Operation::delete("/accounts/{account}/gateway/rules/{rule}", "Delete a rule", |call| {
        Box::pin(delete(call, call.parameter("rule")))
    })
    .needs(Area::ZeroTrust, Level::Write)
    .answers(EMPTY),
    Operation::post(
        "/accounts/{account}/gateway/rules/{rule}/reset_expiration",
        "Let a rule hold for its duration again",
        |call| Box::pin(reset_expiration(call, call.parameter("rule"))),
    )
    .needs(Area::ZeroTrust, Level::Write)
    .answers(GATEWAY_RULE),
];

async fn create(call: &Call<'_>) -> Result<Reply, ApiError> {
    let fields = call.fields(Family::Rule)?;
    let new = content::read(call, &fields, None).await?;
    let made = call.control.0.store.rule_create(&call.actor, call.account, new).await;
    Ok(Reply::One(object(&made.map_err(write_error)?.value)))
}

async fn list(call: &Call<'_>) -> Result<Reply, ApiError> {
    let rows = call.control.0.store.rule_list(call.account).await?;
    let rows = select(rows, &call.query, Family::Rule, (&FILTERS, &ORDERS))?;
    Ok(Reply::single(rows.iter().map(object).collect()))
}

/// Rules that another account shares with this one: there are none.
fn tenant() -> Reply {
    Reply::single(Vec::new())
}

async fn fetch(call: &Call<'_>, id: &str) -> Result<Reply, ApiError> {
    let row = call.control.0.store.rule_fetch(call.account, parse(id)?).await;
    Ok(Reply::One(object(&row.map_err(missing)?)))
}

async fn replace(call: &Call<'_>, id: &str) -> Result<Reply, ApiError> {
    let id = parse(id)?;
    let fields = call.fields(Family::Rule)?;
    let store = &call.control.0.store;
    let before = store.rule_fetch(call.account, id).await.map_err(missing)?;
    let new = content::read(call, &fields, before.content.expiration).await?;
    let done = store.rule_replace(&call.actor, call.account, id, new).await;
    Ok(Reply::One(object(&done.map_err(write_error)?.value)))
}

async fn delete(call: &Call<'_>, id: &str) -> Result<Reply, ApiError> {
    call.control.0.store.rule_delete(&call.actor, call.account, parse(id)?).await.map_err(missing)?;
    Ok(Reply::One(json!({})))
}

async fn reset_expiration(call: &Call<'_>, id: &str) -> Result<Reply, ApiError> {
    let done = call.control.0.store.rule_expiration_reset(&call.actor, call.account, parse(id)?).await;
    Ok(Reply::One(object(&done.map_err(write_error)?.value)))
}

object! {
    FIELDS = object(rule: &RuleRow) with {
        let content = &rule.content;
        let now = OffsetDateTime::now_utc();
        let set = content.settings_as_written.as_object().is_some_and(|map| !map.is_empty());
    } [
        "id": Kind::Uuid => rule.id,
        "name": Kind::Text => content.name,
        "description": Kind::Text => content.description,
        "enabled": Kind::Flag => content.enabled,
        "action": Kind::Text => content.action,
        "filters": Kind::Many(&Kind::Text) => [content.filter],
        "traffic": Kind::Text => content.traffic.written,
        "identity": Kind::Text => content.identity.written,
        "device_posture": Kind::Text => content.device_posture.written,
        "x_canonical": Kind::Object("RuleCanonical", CANONICAL_FIELDS, &[]) => canonical(content),
        "precedence": Kind::Number => rule.precedence,
        "version": Kind::Number => rule.version,
        "rule_settings": Kind::Maybe(&Kind::Map(&Kind::Anything)) =>
            if set { content.settings_as_written.clone() } else { Value::Null },
        "schedule": Kind::Maybe(&SCHEDULE) => content.schedule.as_ref().map_or(Value::Null, schedule_object),
        "expiration": Kind::Maybe(&Kind::Object("RuleExpiration", EXPIRATION_FIELDS, &[])) =>
            content.expiration.map_or(Value::Null, |expiration| self::expiration(expiration, now)),
        "created_at": Kind::Time => shape::time(rule.created_at),
        "updated_at": Kind::Time => shape::time(rule.updated_at),
        "deleted_at": Kind::Null => Value::Null,
        "read_only": Kind::Flag => false,
        "sharable": Kind::Flag => false,
        "source_account": Kind::Text => "",
        "warning_status": Kind::Maybe(&Kind::Text) => warning(rule, now),
    ]
}

object! {
    CANONICAL_FIELDS = canonical(content: &RuleContent) [
        "traffic": Kind::Text => content.traffic.canonical,
        "identity": Kind::Text => content.identity.canonical,
        "device_posture": Kind::Text => content.device_posture.canonical,
    ]
}

object! {
    EXPIRATION_FIELDS = expiration(expiration: Expiration, now: OffsetDateTime) [
        "expires_at": Kind::Time => shape::whole_time(expiration.at),
        "duration": Kind::Maybe(&Kind::Number) => expiration.minutes,
        "expired": Kind::Flag => expiration.at <= now,
    ]
}

const TIMES: Kind = Kind::Maybe(&Kind::Text);
const SCHEDULE: Kind = Kind::Object(
    "RuleSchedule",
    &[
        ("mon", TIMES),
        ("tue", TIMES),
        ("wed", TIMES),
        ("thu", TIMES),
        ("fri", TIMES),
        ("sat", TIMES),
        ("sun", TIMES),
        ("time_zone", TIMES),
    ],
    &[],
);
const GATEWAY_RULE: Kind = Kind::Object("GatewayRule", FIELDS, &[]);

fn schedule_object(schedule: &Schedule) -> Value {
    let days = adit_model::DAYS.iter().zip(&schedule.days);
    let mut map: Map<String, Value> = days.map(|(day, times)| ((*day).to_owned(), json!(times))).collect();
    map.insert("time_zone".into(), json!(schedule.time_zone));
    Value::Object(map)
}

/// What whoever has this rule should know (contract D, 8.10). A list that it names cannot be missing: it stays while a rule
/// names it.
fn warning(rule: &RuleRow, now: OffsetDateTime) -> Value {
    let content = &rule.content;
    let mut warnings: Vec<&str> = Vec::new();
    if content.enabled && !ENFORCED.contains(&content.filter) {
        warnings.push(NOT_ENFORCED);
    }
    let missing = missing_facts(content);
    warnings.extend(missing.as_deref());
    if content.expiration.is_some_and(|expiration| expiration.at <= now) {
        warnings.push("expired: the rule is not in force any longer");
    }
    warnings.extend(content.remarks.iter().map(String::as_str));
    if warnings.is_empty() { Value::Null } else { warnings.join("; ").into() }
}

/// Facts that a rule asks and that no flow or query has yet. It is enforced all the same: it matches as one without the fact.
fn missing_facts(content: &RuleContent) -> Option<String> {
    if !content.enabled || !ENFORCED.contains(&content.filter) {
        return None;
    }
    let parts = [&content.traffic, &content.identity, &content.device_posture];
    let mut fields: Vec<_> =
        parts.into_iter().flat_map(|part| never_supplied(content.filter, &part.canonical)).collect();
    fields.dedup();
    let waits_for_person =
        content.settings.check_session.as_ref().is_some_and(|check| check.enforce == Some(true));
    match (fields.as_slice(), waits_for_person) {
        ([], false) => None,
        ([], true) => {
            Some("nobody can sign in yet: check_session refuses every flow that the rule matches".to_owned())
        }
        (fields, _) => Some(format!(
            "this version knows no {} of anything: what is compared with it is not equal to anything",
            fields.join(", ")
        )),
    }
}

impl Selected for RuleRow {
    fn texts(&self) -> Vec<&str> {
        let content = &self.content;
        let written = [&content.traffic, &content.identity, &content.device_posture];
        let written = written.into_iter().map(|text| text.written.as_str());
        [content.name.as_str(), content.description.as_str()].into_iter().chain(written).collect()
    }

    fn value(&self, key: &str) -> Option<String> {
        match key {
            "id" => Some(self.id.to_string()),
            "name" => Some(self.content.name.clone()),
            "action" => Some(self.content.action.to_string()),
            "filter" | "filters" => Some(self.content.filter.to_string()),
            "enabled" => Some(self.content.enabled.to_string()),
            _ => None,
        }
    }

    fn order(&self, key: &str, other: &Self) -> Option<Ordering> {
        match key {
            "name" => Some(self.content.name.cmp(&other.content.name)),
            "created_at" => Some(self.created_at.cmp(&other.created_at)),
            "updated_at" => Some(self.updated_at.cmp(&other.updated_at)),
            "precedence" => Some(self.precedence.cmp(&other.precedence)),
            _ => None,
        }
    }
}

fn parse(id: &str) -> Result<RuleId, ApiError> {
    id.parse().map_err(|_| not_found())
}

/// The second half is what a client of 2022 knows a deleted rule by (contract D, 8.1).
fn not_found() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, 2080, "rule not found: invalid rule id")
}

fn missing(error: FindError) -> ApiError {
    match error {
        FindError::NotFound => not_found(),
        FindError::Fault(fault) => fault.into(),
    }
}

/// Another rule of the filter has the precedence.
pub(super) fn precedence_taken(by: &str) -> ApiError {
    let message = format!("a rule with this precedence already exists: {by}");
    ApiError::new(StatusCode::CONFLICT, 2081, message).at("/precedence")
}

fn write_error(error: RuleWriteError) -> ApiError {
    match error {
        RuleWriteError::NotFound => not_found(),
        RuleWriteError::PrecedenceTaken { by } => precedence_taken(&by),
        RuleWriteError::PrecedencesUsedUp => {
            let message =
                "precedence: the last rule has the largest that there is: give this rule one that is free";
            Family::Rule.invalid(message).at("/precedence")
        }
        RuleWriteError::ListNotFound(id) => {
            let message = format!("list not found: {id}");
            ApiError::new(StatusCode::BAD_REQUEST, 2088, message).at("/traffic")
        }
        RuleWriteError::NoDuration => Family::Rule
            .invalid("expiration: the rule has no duration to be set anew by")
            .at("/expiration/duration"),
        RuleWriteError::Fault(fault) => fault.into(),
    }
}

/// Feeds any value to the parsers of rules.
pub(super) fn fuzz(value: &Value) {
    settings::fuzz(value);
    schedule::fuzz(value);
}
