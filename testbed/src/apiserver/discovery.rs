//! What the server says of itself: version, resources, and as much OpenAPI as kubectl asks for before it applies.

use serde_json::{Value, json};

use super::store::RESOURCES;

/// The version that the server claims: the kubectl of the tests is within one minor version of it.
pub(super) const MINOR: u32 = 33;

/// `/version`.
pub(super) fn version() -> Value {
    json!({
        "major": "1", "minor": MINOR.to_string(), "gitVersion": format!("v1.{MINOR}.0+testbed"), "gitCommit": "",
        "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z", "goVersion": "none", "compiler": "rustc",
        "platform": "linux/amd64",
    })
}

/// `/api`.
pub(super) fn api_versions() -> Value {
    json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []})
}

/// `/apis`: no groups.
pub(super) fn api_groups() -> Value {
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": []})
}

/// `/api/v1`.
pub(super) fn api_resources() -> Value {
    let mut resources: Vec<Value> = RESOURCES
        .iter()
        .map(|resource| {
            json!({
                "name": resource.name, "kind": resource.kind, "namespaced": resource.namespaced,
                "singularName": resource.kind.to_lowercase(), "shortNames": [resource.short_name],
                "verbs": ["create", "delete", "get", "list", "patch", "update", "watch"],
            })
        })
        .collect();
    for (name, kind, verbs) in [
        ("pods/log", "Pod", json!(["get"])),
        ("pods/exec", "PodExecOptions", json!(["create", "get"])),
        ("pods/portforward", "PodPortForwardOptions", json!(["create", "get"])),
    ] {
        resources.push(
            json!({"name": name, "kind": kind, "namespaced": true, "singularName": "", "verbs": verbs}),
        );
    }
    json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "v1", "resources": resources})
}

/// `/openapi/v3`.
pub(super) fn openapi_index() -> Value {
    json!({"paths": {"api/v1": {"serverRelativeURL": "/openapi/v3/api/v1"}}})
}

/// `/openapi/v3/api/v1`. From the parameter `fieldValidation` of a PATCH, kubectl learns that the server checks fields,
/// and leaves that to it.
pub(super) fn openapi() -> Value {
    let parameters = json!([
        {"name": "fieldValidation", "in": "query", "schema": {"type": "string"}},
        {"name": "dryRun", "in": "query", "schema": {"type": "string"}},
        {"name": "fieldManager", "in": "query", "schema": {"type": "string"}},
    ]);
    let paths: serde_json::Map<_, _> = RESOURCES
        .iter()
        .map(|resource| {
            let namespace = if resource.namespaced { "namespaces/{namespace}/" } else { "" };
            let operation = json!({
                "parameters": parameters,
                "responses": {"200": {"description": "OK"}},
                "x-kubernetes-group-version-kind": {"group": "", "version": "v1", "kind": resource.kind},
            });
            (format!("/api/v1/{namespace}{}/{{name}}", resource.name), json!({"patch": operation}))
        })
        .collect();
    json!({
        "openapi": "3.0.0", "info": {"title": "testbed", "version": "v1"}, "paths": paths,
        "components": {"schemas": {}},
    })
}
