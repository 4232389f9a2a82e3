//! Lists and objects as `Table`, the form that kubectl prints.

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A table of `objects`, which are all of `kind`.
pub(super) fn table(kind: &str, resource_version: &str, objects: &[Value]) -> Value {
    let (columns, cells): (&[&str], fn(&Value) -> Value) = match kind {
        "Pod" => (&["Name", "Ready", "Status", "Restarts", "Age"], |pod| {
            json!([pod["metadata"]["name"], "1/1", pod["status"]["phase"], "0", age(pod)])
        }),
        "Namespace" => (&["Name", "Status", "Age"], |namespace| {
            json!([namespace["metadata"]["name"], namespace["status"]["phase"], age(namespace)])
        }),
        _ => (&["Name", "Data", "Age"], |map| {
            json!([
                map["metadata"]["name"],
                map["data"].as_object().map_or(0, serde_json::Map::len),
                age(map)
            ])
        }),
    };
    let definition = |name: &&str| {
        let format = if *name == "Name" { "name" } else { "" };
        json!({"name": name, "type": "string", "format": format, "description": name, "priority": 0})
    };
    let row = |object: &Value| {
        let metadata = json!({
            "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"],
        });
        json!({"cells": cells(object), "object": metadata})
    };
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {"resourceVersion": resource_version},
        "columnDefinitions": columns.iter().map(definition).collect::<Vec<_>>(),
        "rows": objects.iter().map(row).collect::<Vec<_>>(),
    })
}

fn age(object: &Value) -> String {
    let created = object["metadata"]["creationTimestamp"].as_str().unwrap_or_default();
    OffsetDateTime::parse(created, &Rfc3339).map_or_else(
        |_| "<unknown>".to_owned(),
        |created| format!("{}s", (OffsetDateTime::now_utc() - created).whole_seconds().max(0)),
    )
}
