//! What is recorded of an account's flows (contract D, 9.3): `A/gateway/logging`; and the records (contract D, 12.4; Gateway
//! semantics, 8): `A/x/logs/{dataset}`.
//!
//! What holds: an account's records are seen by that account alone, by tokens that may read its logs; what is personal in
//! them, only by tokens that may see that (contract D, 3.4). A record is answered with every field of its dataset.

use adit_model::{Dataset, LogKind, Logging, RuleLogging};
use adit_store::{AuditPlace, RecordKey, RecordRow, RecordWindow};
use http::StatusCode;
use serde_json::{Map, Value, json};

use super::Call;
use super::answer::{DIRECTION, Kind, object};
use super::audit_log::{direction, moment};
use super::body::Family;
use super::body_shape::{Field, Shape};
use super::envelope::{ApiError, Reply};
use super::operation::{Operation, Style};
use crate::permission::{Area, Level};

/// Records on a page, if nothing is said, and at most (contract D, 12.1).
const LIMIT: u64 = 100;
const MAX_LIMIT: u64 = 1000;

pub(super) const OPERATIONS: &[Operation] = &[
    Operation::get("/accounts/{account}/gateway/logging", "Get what is recorded of flows", |call| {
        Box::pin(fetch(call))
    })
    .needs(Area::ZeroTrust, Level::Read)
    .answers(LOGGING),
    Operation::put("/accounts/{account}/gateway/logging", "Set what is recorded of flows", |call| {
        Box::pin(set(call))
    })
    .needs(Area::ZeroTrust, Level::Write)
    .body(Family::Rule, BODY)
    .answers(LOGGING),
    Operation::get("/accounts/{account}/x/logs/{dataset}", "List log records by cursor", |call| {
        Box::pin(list(call, call.parameter("dataset")))
    })
    .needs(Area::AuditLogs, Level::Read)
    .list(
        Style::CursorAfter,
        Kind::Map(&Kind::Anything),
        &[
            ("since", Kind::Moment),
            ("before", Kind::Moment),
            ("direction", DIRECTION),
            ("session_id", Kind::Text),
            ("policy_id", Kind::Text),
            ("device_id", Kind::Text),
            ("destination_ip", Kind::Text),
            ("action", Kind::Text),
        ],
    ),
];

const LOGGING: Kind = Kind::Object("GatewayLogging", LOGGING_FIELDS, &[]);
const BY_TYPE: Kind = Kind::Object("GatewayLoggingByRuleType", BY_TYPE_FIELDS, &[]);
const OF_TYPE: Kind = Kind::Object("GatewayLoggingOfRuleType", OF_TYPE_FIELDS, &[]);

object! {
    LOGGING_FIELDS = logging_object(logging: Logging) [
        "redact_pii": Kind::Flag => logging.redact_pii,
        "settings_by_rule_type": BY_TYPE => by_type_object(logging),
        "x_query_strings": Kind::Flag => logging.query_strings,
    ]
}

object! {
    BY_TYPE_FIELDS = by_type_object(logging: Logging) [
        "dns": OF_TYPE => of_type_object(logging.dns),
        "http": OF_TYPE => of_type_object(logging.http),
        "l4": OF_TYPE => of_type_object(logging.l4),
    ]
}

object! {
    OF_TYPE_FIELDS = of_type_object(rules: RuleLogging) [
        "log_all": Kind::Flag => rules.log_all,
        "log_blocks": Kind::Flag => rules.log_blocks,
    ]
}

const SWITCHES: Shape =
    Shape::Object(&[Field::optional("log_all", Shape::Flag), Field::optional("log_blocks", Shape::Flag)]);
const BODY: &[Field] = &[
    Field::optional("redact_pii", Shape::Flag),
    Field::optional(
        "settings_by_rule_type",
        Shape::Object(&[
            Field::optional("dns", SWITCHES),
            Field::optional("http", SWITCHES),
            Field::optional("l4", SWITCHES),
        ]),
    ),
    Field::optional("x_query_strings", Shape::Flag),
];

async fn fetch(call: &Call<'_>) -> Result<Reply, ApiError> {
    Ok(Reply::One(logging_object(current(call).await?)))
}

async fn current(call: &Call<'_>) -> Result<Logging, ApiError> {
    let row = call.control.0.store.gateway_settings_fetch(call.account).await?;
    Ok(row.map(|row| row.edge.logging).unwrap_or_default())
}

/// Replaces the settings; our own key stays where nobody speaks of it.
async fn set(call: &Call<'_>) -> Result<Reply, ApiError> {
    let fields = call.fields(Family::Rule)?;
    let before = current(call).await?;
    let by_type = fields.value("settings_by_rule_type");
    let of = |name: &str| {
        let given = by_type.and_then(|types| types.get(name));
        let flag = |key: &str, default| {
            given.and_then(|given| given.get(key)).and_then(Value::as_bool).unwrap_or(default)
        };
        let default = RuleLogging::default();
        RuleLogging {
            log_all: flag("log_all", default.log_all),
            log_blocks: flag("log_blocks", default.log_blocks),
        }
    };
    let logging = Logging {
        redact_pii: fields.flag("redact_pii")?.unwrap_or_default(),
        query_strings: fields.flag("x_query_strings")?.unwrap_or(before.query_strings),
        dns: of("dns"),
        http: of("http"),
        l4: of("l4"),
        ..before
    };
    let row = call.control.0.store.gateway_logging_set(&call.actor, call.account, logging).await?;
    Ok(Reply::One(logging_object(row.value.edge.logging)))
}

/// `A/x/logs/{dataset}`: from `since` to `before`, by cursor, newest first unless said otherwise.
async fn list(call: &Call<'_>, dataset: &str) -> Result<Reply, ApiError> {
    let dataset: Dataset = dataset.parse().map_err(|error: adit_model::UnknownDataset| {
        ApiError::new(StatusCode::NOT_FOUND, 1003, format!("no such dataset: {error}"))
    })?;
    let query = &call.query;
    let limit = query.amount("limit", LIMIT, MAX_LIMIT)?;
    let personal = call.principal.may(call.account, Area::Pii, Level::Read);
    let mut having = Vec::new();
    for (name, key) in KEYS {
        if let Some(value) = query.text(name) {
            if key == RecordKey::Device {
                // What is not shown is not searched by either.
                call.need(Area::Pii, Level::Read)?;
            }
            having.push((key, spelled(name, key, value)?));
        }
    }
    let window = RecordWindow {
        since: moment(query, "since")?,
        before: moment(query, "before")?,
        direction: direction(query)?,
        after: query.parsed::<AuditPlace>("cursor")?,
        // One more than wanted tells whether there are more.
        limit: u32::try_from(limit + 1).unwrap_or(u32::MAX),
        having,
    };
    let mut records = call.control.0.store.records().list(call.account, dataset, &window).await?;
    let more = records.len() as u64 > limit;
    records.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    let after = records.last().filter(|_| more).map_or_else(String::new, |last| last.place().to_string());
    let rows: Vec<Value> = records.into_iter().map(|record| whole(dataset, record, personal)).collect();
    let info = json!({ "count": rows.len(), "cursor": after, "cursors": { "after": after } });
    Ok(Reply::Many { rows, info })
}

/// Parameters that narrow the list.
const KEYS: [(&str, RecordKey); 5] = [
    ("session_id", RecordKey::Session),
    ("policy_id", RecordKey::Policy),
    ("device_id", RecordKey::Device),
    ("destination_ip", RecordKey::Destination),
    ("action", RecordKey::Action),
];

/// A value as it is stored.
fn spelled(name: &str, key: RecordKey, value: &str) -> Result<String, ApiError> {
    let wrong =
        |expected: &str| ApiError::new(StatusCode::BAD_REQUEST, 1003, format!("{name}: expected {expected}"));
    match key {
        RecordKey::Action => Ok(value.to_owned()),
        RecordKey::Destination => {
            let address: std::net::IpAddr = value.parse().map_err(|_| wrong("an IP address"))?;
            Ok(address.to_canonical().to_string())
        }
        RecordKey::Session | RecordKey::Policy | RecordKey::Device => {
            let id: uuid::Uuid = value.parse().map_err(|_| wrong("a UUID"))?;
            Ok(id.to_string())
        }
    }
}

/// A record with every field of its dataset.
fn whole(dataset: Dataset, mut record: RecordRow, personal: bool) -> Value {
    let fields = dataset.fields().iter().map(|field| {
        let stored = record.fields.remove(field.name).filter(|_| personal || !field.personal);
        let empty = match field.kind {
            LogKind::Text => json!(""),
            LogKind::Number => json!(0),
            LogKind::Flag => json!(false),
            LogKind::Many => json!([]),
        };
        (field.name.to_owned(), stored.unwrap_or(empty))
    });
    Value::Object(fields.collect::<Map<_, _>>())
}
