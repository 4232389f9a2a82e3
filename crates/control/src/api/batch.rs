//! Several operations as one (an extension of ours): `A/x/batch`.
//!
//! `POST` takes `{generation?, operations: [{method, path, body?, as?}]}` and does each operation with the handler that
//! would serve it alone, in order, in one transaction: all of them, or none. `as` is a UUID of the client's that stands for
//! the id of what the operation makes: wherever it is in a later path or text, with dashes or without, the id is put in
//! its place, written likewise. The result has the results of the operations, in order. An error says which operation it
//! was, and its pointer begins with that.
//!
//! Two rules may change places: that each precedence is one rule's is checked when all operations are done.
//!
//! `GET` gives `{generation}`, which changes with whatever is written in the account. A batch that names a generation is
//! refused with 412 when something was written since, so that a plan is not carried out on what it was not made for.
//!
//! What it does not take: reads, queries, and what acts at once and could not be undone (closing connections).

use adit_store::{Batch, BatchCommitError, RawCall, Store};
use axum::body::Bytes;
use http::StatusCode;
use serde_json::Value;
use uuid::Uuid;

use super::answer::{Kind, object};
use super::body::{Family, Fields};
use super::body_shape::{Field, Shape};
use super::envelope::{ApiError, Reply};
use super::operation::{self, Operation as Row, Verb};
use super::path::{self, Query};
use super::rule::precedence_taken;
use super::{BASE, Call, account_of};
use crate::Control;
use crate::permission::{Area, Level};

/// Operations of one batch at most: a transaction keeps all other writers waiting.
const MAX_OPERATIONS: usize = 10_000;
/// Nobody wrote anything in this account yet.
const NO_GENERATION: &str = "none";

/// What an operation of a batch may do.
const METHODS: [(&str, Verb); 4] =
    [("POST", Verb::Post), ("PUT", Verb::Put), ("PATCH", Verb::Patch), ("DELETE", Verb::Delete)];

/// One operation as it was sent.
pub(super) struct Operation {
    verb: Verb,
    method: &'static str,
    pub(super) path: String,
    body: Value,
    stands_for: Option<Uuid>,
}

pub(super) const OPERATIONS: &[Row] = &[
    Row::get(
        "/accounts/{account}/x/batch",
        "Get the generation of the account: what the last write made it",
        |call| Box::pin(look(call)),
    )
    .needs(Area::Tunnel, Level::Read)
    .answers(GENERATION),
    Row::post(
        "/accounts/{account}/x/batch",
        "Do several operations in one transaction: all of them, or none",
        |call| Box::pin(run(call)),
    )
    .body(
        Family::Network,
        &[
            Field::optional("generation", Shape::Text),
            Field::required("operations", "an array of {method, path, body}", Shape::Told(operations_schema)),
        ],
    )
    .answers(Kind::Many(&Kind::Anything)),
];

/// What [`read_one`] takes.
pub(super) fn operations_schema() -> Value {
    serde_json::json!({
        "type": "array",
        "maxItems": MAX_OPERATIONS,
        "items": {
            "type": "object",
            "properties": {
                "method": { "type": "string", "enum": METHODS.map(|(name, _)| name) },
                "path": { "type": "string", "description": "A path below this account or its zone, without a query." },
                "body": {},
                "as": { "anyOf": [Shape::Uuid.schema(), { "type": "null" }] },
            },
            "required": ["method", "path"],
            "additionalProperties": false,
        },
    })
}

async fn look(call: &Call<'_>) -> Result<Reply, ApiError> {
    Ok(Reply::One(generation_object(&generation(&call.control.0.store, call).await?)))
}

object! {
    GENERATION_FIELDS = generation_object(generation: &str) [
        "generation": Kind::Text => generation,
    ]
}

const GENERATION: Kind = Kind::Object("Generation", GENERATION_FIELDS, &[]);

async fn run(call: &Call<'_>) -> Result<Reply, ApiError> {
    let fields = call.fields(Family::Network)?;
    let operations = read(call, &fields)?;
    let expected = fields.text("generation")?;
    let batch = call.control.0.store.begin().await?;
    if let Some(expected) = expected
        && expected != generation(batch.store(), call).await?
    {
        let message = "Something was written in this account since this generation: look at it again";
        return Err(ApiError::new(StatusCode::PRECONDITION_FAILED, 1020, message).at("/generation"));
    }
    let results = carry_out(call, &batch, operations).await?;
    batch.commit().await.map_err(|error| unsettled(error, &results))?;
    Ok(Reply::One(results.into()))
}

/// Does operations within a batch, which is not committed yet; their results.
pub(super) async fn carry_out(
    call: &Call<'_>,
    batch: &Batch,
    operations: Vec<Operation>,
) -> Result<Vec<Value>, ApiError> {
    let control = call.control.within(batch.store().clone());
    let mut results: Vec<Value> = Vec::with_capacity(operations.len());
    let mut made: Vec<(Uuid, Uuid)> = Vec::new();
    for (index, operation) in operations.into_iter().enumerate() {
        let stands_for = operation.stands_for;
        let result = one(call, &control, operation, &made).await.map_err(|error| within(index, error))?;
        if let Some(stands_for) = stands_for {
            let id = result["id"].as_str().and_then(|id| Uuid::try_parse(id).ok()).ok_or_else(|| {
                let message = format!("operation {index}: as: this operation makes nothing with an id");
                Family::Network.invalid(&message).at(format!("/operations/{index}/as"))
            })?;
            made.push((stands_for, id));
        }
        results.push(result);
    }
    batch.settle().await.map_err(|error| unsettled(error, &results))?;
    Ok(results)
}

/// A rule's precedence is still another's: said of the operation that gave it to the rule last.
fn unsettled(error: BatchCommitError, results: &[Value]) -> ApiError {
    match error {
        BatchCommitError::Fault(fault) => fault.into(),
        BatchCommitError::PrecedenceTaken { rule, by } => {
            let rule = rule.to_string();
            let index = results.iter().rposition(|result| result["id"] == rule.as_str()).unwrap_or(0);
            within(index, precedence_taken(&by))
        }
    }
}

/// One operation, as if it had come alone.
async fn one(
    call: &Call<'_>,
    control: &Control,
    operation: Operation,
    made: &[(Uuid, Uuid)],
) -> Result<Value, ApiError> {
    let target = replaced(&operation.path, made);
    let body = with_ids(operation.body, made);
    let mut actor = call.actor.clone();
    actor.call = RawCall { method: operation.method.into(), uri: target.clone(), ..actor.call };
    let segments = path::segments(&target).ok_or_else(|| ApiError::unroutable(&target))?;
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    if matches!(segments.as_slice(), [.., "x", "batch"] | [.., "connections"]) {
        return Err(Family::Network.invalid("path: a batch cannot do this").at("/path"));
    }
    let row = operation::find(operation.verb, &segments).ok_or_else(ApiError::no_route)?;
    let inner = Call {
        control,
        principal: call.principal,
        actor,
        account: account_of(call.principal, &segments, &target)?,
        parameters: row.parameters(&segments),
        query: Query::parse("")?,
        body: if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) },
    };
    inner.allowed(row)?;
    inner.well_formed(row)?;
    let reply = (row.run)(&inner).await?;
    Ok(match reply {
        Reply::One(result) => result,
        Reply::Many { rows, .. } => rows.into(),
        // A document is read, and a batch reads nothing.
        Reply::Document(_) => Value::Null,
    })
}

pub(super) fn read(call: &Call<'_>, fields: &Fields) -> Result<Vec<Operation>, ApiError> {
    let wanted = "an array of {method, path, body}";
    let array = fields.required("operations", wanted, fields.value("operations"))?;
    let array = array.as_array().ok_or_else(|| fields.wrong("operations", wanted))?;
    if array.len() > MAX_OPERATIONS {
        return Err(fields.wrong("operations", &format!("at most {MAX_OPERATIONS} operations")));
    }
    array.iter().enumerate().map(|(index, value)| read_one(call, value, index)).collect()
}

fn read_one(call: &Call<'_>, value: &Value, index: usize) -> Result<Operation, ApiError> {
    let wrong = |key: &str, expected: &str| {
        let message = format!("operation {index}: {key}: expected {expected}");
        Family::Network.invalid(&message).at(format!("/operations/{index}/{key}"))
    };
    let object = value.as_object().ok_or_else(|| {
        let message = format!("operation {index}: expected an object with method, path and body");
        Family::Network.invalid(&message).at(format!("/operations/{index}"))
    })?;
    if let Some(unknown) = object.keys().find(|key| !["method", "path", "body", "as"].contains(&key.as_str()))
    {
        return Err(wrong(unknown, "no such key: an operation has method, path, body and as"));
    }
    let method = value["method"].as_str();
    let (method, verb) = METHODS
        .into_iter()
        .find(|(name, _)| Some(*name) == method)
        .ok_or_else(|| wrong("method", "POST, PUT, PATCH or DELETE"))?;
    let account = call.account.to_string();
    let below = [format!("/accounts/{account}/"), format!("/zones/{account}/")];
    let path = value["path"].as_str().map(|path| path.strip_prefix(BASE).unwrap_or(path));
    let path = path
        .filter(|path| below.iter().any(|below| path.starts_with(below)) && !path.contains(['?', '#']))
        .ok_or_else(|| wrong("path", "a path below this account or its zone, without a query"))?;
    let stands_for = match object.get("as") {
        None | Some(Value::Null) => None,
        Some(id) => {
            let id = id.as_str().and_then(|id| Uuid::try_parse(id).ok());
            Some(id.ok_or_else(|| wrong("as", "a UUID that stands for the id"))?)
        }
    };
    let body = object.get("body").cloned().unwrap_or_default();
    Ok(Operation { verb, method, path: path.to_owned(), body, stands_for })
}

/// The same error, of an operation.
fn within(index: usize, error: ApiError) -> ApiError {
    let inner = error.pointer.as_deref().unwrap_or_default();
    let pointer = match inner {
        "" => format!("/operations/{index}"),
        "/path" => format!("/operations/{index}/path"),
        inner => format!("/operations/{index}/body{inner}"),
    };
    ApiError { message: format!("operation {index}: {}", error.message), pointer: Some(pointer), ..error }
}

/// A text with ids in the place of what stands for them.
fn replaced(text: &str, made: &[(Uuid, Uuid)]) -> String {
    // Nothing to replace in most texts: what stands for an id has 32 digits.
    if text.len() < 32 {
        return text.to_owned();
    }
    let mut text = text.to_owned();
    for (stands_for, id) in made {
        let (dashed, plain) = (stands_for.to_string(), stands_for.simple().to_string());
        if text.contains(&dashed) {
            text = text.replace(&dashed, &id.to_string());
        }
        if text.contains(&plain) {
            text = text.replace(&plain, &id.simple().to_string());
        }
    }
    text
}

/// The same in every text of a value.
fn with_ids(value: Value, made: &[(Uuid, Uuid)]) -> Value {
    match value {
        Value::String(text) => replaced(&text, made).into(),
        Value::Array(items) => items.into_iter().map(|item| with_ids(item, made)).collect(),
        Value::Object(members) => members
            .into_iter()
            .map(|(key, value)| (key, with_ids(value, made)))
            .collect::<serde_json::Map<_, _>>()
            .into(),
        Value::Null | Value::Bool(_) | Value::Number(_) => value,
    }
}

/// The last write in the account: its number in the change log, since clocks are set back.
async fn generation(store: &Store, call: &Call<'_>) -> Result<String, ApiError> {
    let last = store.change_last(call.account).await?;
    Ok(last.map_or_else(|| NO_GENERATION.to_owned(), |number| number.to_string()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_stands_for_an_id_is_replaced_in_both_spellings() {
        let (stands_for, id) = (Uuid::new_v4(), Uuid::new_v4());
        let value =
            json!({ "a": [stands_for.to_string(), 5], "b": format!("x in ${}", stands_for.simple()) });
        let wanted = json!({ "a": [id.to_string(), 5], "b": format!("x in ${}", id.simple()) });
        assert_eq!(with_ids(value, &[(stands_for, id)]), wanted);
    }

    #[test]
    fn an_error_points_into_its_operation() {
        let error = ApiError::new(StatusCode::CONFLICT, 1014, "taken").at("/network");
        let error = within(3, error);
        assert_eq!(error.pointer.as_deref(), Some("/operations/3/body/network"));
        assert_eq!(error.message, "operation 3: taken");
    }
}
