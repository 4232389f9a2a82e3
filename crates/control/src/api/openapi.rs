//! The OpenAPI 3.1 document of the API, printed from the table of operations: `/openapi.json`, for every good token.
//!
//! It describes requests whole (parameters and bodies) and of answers the envelope: which fields an object has is said by
//! contract D.

use std::sync::LazyLock;

use serde_json::{Map, Value, json};

use super::body_shape::Shape;
use super::envelope::Reply;
use super::operation::{self, Access, Operation, Style};
use crate::permission::Level;

pub(super) const OPERATIONS: &[Operation] = &[Operation::get("/openapi.json", "This document", |_call| {
    Box::pin(std::future::ready(Ok(Reply::Document(DOCUMENT.clone()))))
})];

static DOCUMENT: LazyLock<Value> = LazyLock::new(document);

fn document() -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for row in operation::all() {
        let path = paths.entry(row.path).or_insert_with(|| json!({}));
        path[row.verb.as_str()] = described(row);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "adit",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Every answer is an envelope: success, errors, messages and result.",
        },
        "servers": [{ "url": super::BASE }],
        "security": [{ "token": [] }],
        "paths": paths,
        "components": {
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } },
            "schemas": { "Failure": failure(), "Success": success(&json!({})), "List": list() },
        },
    })
}

fn described(row: &Operation) -> Value {
    let mut described = json!({
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
            "required": matches!(shape, Shape::List(..)),
            "content": { "application/json": { "schema": shape.schema() } },
        });
    }
    described
}

fn parameters(row: &Operation) -> Vec<Value> {
    let tag = json!({ "type": "string", "pattern": "^[0-9a-f]{32}$" });
    let in_path = row.path.split('/').filter_map(operation::parameter).map(|name| {
        let plain = || json!({ "type": "string", "minLength": 1 });
        let schema = if matches!(name, "account" | "zone") { tag.clone() } else { plain() };
        json!({ "name": name, "in": "path", "required": true, "schema": schema })
    });
    let paging: &[&str] = match row.style {
        Style::None | Style::Single => &[],
        Style::Page => &["page", "per_page"],
        Style::Cursor => &["cursor", "per_page"],
        Style::CursorAfter => &["cursor", "limit"],
    };
    let paging = paging.iter().map(|name| {
        let number = json!({ "type": "integer", "minimum": 1 });
        let schema = if *name == "cursor" { json!({ "type": "string" }) } else { number };
        json!({ "name": name, "in": "query", "schema": schema })
    });
    let others =
        row.query.iter().map(|name| json!({ "name": name, "in": "query", "schema": { "type": "string" } }));
    in_path.chain(paging).chain(others).collect()
}

fn responses(row: &Operation) -> Value {
    let content = |schema: &str| json!({ "application/json": { "schema": { "$ref": format!("#/components/schemas/{schema}") } } });
    let good = match row.style {
        Style::None => "Success",
        Style::Page | Style::Single | Style::Cursor | Style::CursorAfter => "List",
    };
    let success = if row.path == "/openapi.json" {
        json!({ "description": "The document.", "content": { "application/json": { "schema": {} } } })
    } else {
        json!({ "description": "Done.", "content": content(good) })
    };
    let mut responses = json!({ "200": success });
    let refusals = [
        ("400", "The request is not right: errors say where and what was expected."),
        ("401", "The credential is not good."),
        ("403", "The credential may not do this."),
        ("404", "There is no such object."),
        ("408", "The body did not arrive in time."),
        ("409", "Another object stands in the way."),
        ("413", "The body is too large."),
        ("429", "Too many requests."),
        ("500", "The server failed."),
    ];
    for (status, description) in refusals {
        responses[status] = json!({ "description": description, "content": content("Failure") });
    }
    responses
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
    })
}

fn list() -> Value {
    let mut list = success(&json!({ "type": "array" }));
    list["properties"]["result_info"] = json!({
        "type": "object",
        "properties": { "count": { "type": "integer", "minimum": 0 } },
        "required": ["count"],
    });
    list["required"] = json!(["success", "errors", "messages", "result", "result_info"]);
    list
}

fn failure() -> Value {
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
                        "code": { "type": "integer" },
                        "message": { "type": "string" },
                        "source": {
                            "type": "object",
                            "properties": { "pointer": { "type": "string" } },
                            "required": ["pointer"],
                        },
                    },
                    "required": ["code", "message"],
                },
            },
            "messages": { "type": "array", "maxItems": 0 },
            "result": { "type": "null" },
        },
        "required": ["success", "errors", "messages", "result"],
    })
}
