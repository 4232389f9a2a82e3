//! The OpenAPI 3.1 document of the API, printed from the table of operations: `/openapi.json`, for every good token.
//!
//! It describes requests whole (parameters and bodies) and answers whole: bodies by the shapes that check them
//! ([`super::body_shape`]), objects by the lines that make them ([`super::answer`]). What a created object's id is good for
//! is said by links.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde_json::{Map, Value, json};

use super::answer::Kind;
use super::envelope::Reply;
use super::operation::{self, Access, Operation, Style, Verb};
use crate::permission::Level;

/// Where it is.
const PATH: &str = "/openapi.json";

pub(super) const OPERATIONS: &[Operation] = &[Operation::get(PATH, "This document", |_call| {
    Box::pin(std::future::ready(Ok(Reply::Document(document().clone()))))
})
.answers(Kind::Map(&Kind::Anything))];

/// The document.
pub(super) fn document() -> &'static Value {
    static DOCUMENT: LazyLock<Value> = LazyLock::new(print);
    &DOCUMENT
}

fn print() -> Value {
    let mut paths: Map<String, Value> = Map::new();
    let mut schemas: BTreeMap<&str, Value> = BTreeMap::from([("Failure", failure())]);
    for row in operation::all() {
        let path = paths.entry(row.path).or_insert_with(|| json!({}));
        path[row.verb.as_str()] = described(row);
        row.answer.objects(&mut |name, schema| {
            schemas.insert(name, schema);
        });
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "adit",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Every answer is an envelope: success, errors, messages and result. What is read of one object has \
                            an ETag; a change at the same path with If-Match is made only if nobody changed it since, else \
                            it is refused with 412. X-Generation is the number of the last entry of the change log: an \
                            edge whose /ready says that number or more knows of everything that was written before.",
        },
        "servers": [{ "url": super::BASE }],
        "security": [{ "token": [] }],
        "paths": paths,
        "components": {
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } },
            "schemas": schemas,
        },
    })
}

fn described(row: &Operation) -> Value {
    let mut described = json!({
        "operationId": name(row),
        "summary": row.summary,
        "parameters": parameters(row),
        "responses": responses(row),
    });
    if let Access::Needs(area, level) = row.access {
        let level = if level == Level::Write { "Write" } else { "Read" };
        described["description"] = format!("Needs the permission {} {level}.", area.name()).into();
    }
    if let Some((_, shape)) = &row.body {
        described["requestBody"] = json!({
            "required": shape.must_be_there(),
            "content": { "application/json": { "schema": shape.schema() } },
        });
    }
    described
}

/// A name that no other operation has: its method, and the words of its path.
fn name(row: &Operation) -> String {
    let words = row.path.trim_start_matches('/').split('/');
    let words = words.map(|word| word.trim_matches(['{', '}', '.']).replace(['-', '.'], "_"));
    format!("{}_{}", row.verb.as_str(), words.collect::<Vec<_>>().join("_"))
}

fn parameters(row: &Operation) -> Vec<Value> {
    let in_path = row
        .path
        .split('/')
        .filter_map(operation::parameter)
        .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": of_path(name) }));
    let paging: &[&str] = match row.style {
        Style::None | Style::Single => &[],
        Style::Page => &["page", "per_page"],
        Style::Cursor => &["cursor", "per_page"],
        Style::CursorAfter => &["cursor", "limit"],
    };
    let paging = paging.iter().map(|name| {
        let number = json!({ "type": "integer", "minimum": 1 });
        let schema = if *name == "cursor" { json!({ "type": "string" }) } else { number };
        json!({ "name": name, "in": "query", "schema": or_empty(&schema) })
    });
    let others = row
        .query
        .iter()
        .map(|(name, kind)| json!({ "name": name, "in": "query", "schema": or_empty(&kind.schema()) }));
    in_path.chain(paging).chain(others).collect()
}

/// A parameter of a query may be empty, and is then as absent.
fn or_empty(schema: &Value) -> Value {
    if *schema == Kind::Text.schema() {
        return schema.clone();
    }
    json!({ "anyOf": [schema, { "const": "" }] })
}

/// What a parameter of a path may be.
fn of_path(name: &str) -> Value {
    match name {
        "account" | "zone" | "token" | "record" | "member" | "role" => Kind::Tag.schema(),
        "network" | "ip" | "length" | "resource" | "audit" => json!({ "type": "string", "minLength": 1 }),
        _ => Kind::Uuid.schema(),
    }
}

fn responses(row: &Operation) -> Value {
    let content = |schema: Value| json!({ "application/json": { "schema": schema } });
    let refusal = || content(json!({ "$ref": "#/components/schemas/Failure" }));
    let (description, good) = match row.style {
        Style::None if row.path == PATH => ("The document.", row.answer.schema()),
        Style::None => ("Done.", success(&row.answer.schema())),
        Style::Page | Style::Single | Style::Cursor | Style::CursorAfter => ("The rows.", list(row)),
    };
    let mut good = json!({ "description": description, "content": content(good) });
    let links = links(row);
    if !links.is_empty() {
        good["links"] = links.into();
    }
    let mut responses = json!({ "200": good });
    let refusals = [
        ("400", "The request is not right: errors say where and what was expected."),
        ("401", "The credential is not good."),
        ("403", "The credential may not do this."),
        ("404", "There is no such object."),
        ("408", "The body did not arrive in time."),
        ("409", "Another object stands in the way."),
        ("412", "Something was written since the version that the request names."),
        ("413", "The body is too large."),
        ("429", "Too many requests."),
        ("500", "The server failed."),
        ("503", "The database is away, or its disk is full: nothing was done."),
    ];
    for (status, description) in refusals {
        responses[status] = json!({ "description": description, "content": refusal() });
    }
    responses
}

/// What the id of what was made is good for: every operation below its path.
fn links(row: &Operation) -> Map<String, Value> {
    let below = |other: &&Operation| {
        let rest = other.path.strip_prefix(row.path).and_then(|rest| rest.strip_prefix("/{"));
        rest.is_some_and(|rest| row.verb == Verb::Post && row.answer.has_id() && !rest.starts_with("network"))
    };
    let link = |other: &Operation| {
        let id = other.path[row.path.len()..].split('/').find_map(operation::parameter).unwrap_or_default();
        let target = json!({ "operationId": name(other), "parameters": { id: "$response.body#/result/id" } });
        (name(other), target)
    };
    operation::all().filter(below).map(link).collect()
}

fn success(result: &Value) -> Value {
    json!({
        "type": "object",
        "properties": {
            "success": { "const": true },
            "errors": { "type": "array", "maxItems": 0 },
            "messages": { "type": "array", "maxItems": 0 },
            "result": result,
        },
        "required": ["success", "errors", "messages", "result"],
        "additionalProperties": false,
    })
}

fn list(row: &Operation) -> Value {
    let mut list = success(&json!({ "type": "array", "items": row.answer.schema() }));
    list["properties"]["result_info"] = result_info(row.style);
    list["required"] = json!(["success", "errors", "messages", "result", "result_info"]);
    list
}

/// What a list says of its page (contract D, 4).
fn result_info(style: Style) -> Value {
    let number = json!({ "type": "integer", "minimum": 0 });
    let after = json!({
        "type": "object", "properties": { "after": { "type": "string" } }, "required": ["after"],
    });
    let cursor = json!({ "type": ["string", "null"] });
    let keys: Vec<(&str, &Value)> = match style {
        Style::None => Vec::new(),
        Style::Page | Style::Single => {
            ["page", "per_page", "count", "total_count", "total_pages"].map(|key| (key, &number)).to_vec()
        }
        Style::Cursor => {
            let mut keys = ["count", "per_page", "total_count"].map(|key| (key, &number)).to_vec();
            keys.push(("cursor", &cursor));
            keys
        }
        Style::CursorAfter => vec![("count", &number), ("cursor", &cursor), ("cursors", &after)],
    };
    json!({
        "type": "object",
        "required": keys.iter().map(|(key, _)| *key).collect::<Vec<_>>(),
        "properties": keys.into_iter().map(|(key, kind)| (key.to_owned(), kind.clone())).collect::<Map<_, _>>(),
        "additionalProperties": false,
    })
}

fn failure() -> Value {
    let chain = json!({
        "type": "array",
        "items": {
            "type": "object",
            "properties": { "code": { "type": "integer" }, "message": { "type": "string" } },
            "required": ["code", "message"],
        },
    });
    json!({
        "type": "object",
        "properties": {
            "success": { "const": false },
            "errors": {
                "type": "array",
                "minItems": 1,
                "items": {
                    "type": "object",
                    "properties": {
                        // 971 is below what the published schema says, and is what the service sends.
                        "code": { "type": "integer", "minimum": 971 },
                        "message": { "type": "string" },
                        "error_chain": chain,
                        "source": {
                            "type": "object",
                            "properties": { "pointer": { "type": "string" } },
                            "required": ["pointer"],
                        },
                    },
                    "required": ["code", "message"],
                    "additionalProperties": false,
                },
            },
            "messages": { "type": "array", "maxItems": 0 },
            "result": { "type": "null" },
        },
        "required": ["success", "errors", "messages", "result"],
        "additionalProperties": false,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_operations_and_no_two_objects_share_a_name() {
        let names: BTreeSet<String> = operation::all().map(name).collect();
        assert_eq!(names.len(), operation::all().count());
        let mut known: BTreeMap<&str, Value> = BTreeMap::new();
        for row in operation::all() {
            row.answer.objects(&mut |name, schema| {
                let before = known.insert(name, schema.clone());
                assert!(before.is_none_or(|before| before == schema), "two objects are called {name}");
            });
        }
    }
}
