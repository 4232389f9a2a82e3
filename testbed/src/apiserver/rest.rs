//! Create, read, list, watch, patch, replace and delete.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::mpsc;
use uuid::Uuid;

use super::patch::{self, Lists};
use super::store::{Change, Key, RESOURCES, Resource, Store};
use super::table::table;
use super::{Failure, json_response, parameter, query, streamed};
use crate::https::Body;

/// Largest object taken; a real server's limit.
const MAX_BODY_BYTES: usize = 3 << 20;
/// A watch without `timeoutSeconds` ends after this; real servers choose 30 to 60 minutes.
const WATCH_LIMIT: Duration = Duration::from_mins(30);

/// What a request is about.
struct Target {
    resource: &'static Resource,
    /// `None`: all namespaces, or a resource without.
    namespace: Option<String>,
    /// `None`: the collection.
    name: Option<String>,
}

impl Target {
    fn parse(segments: &[&str]) -> Result<Self, Failure> {
        let (namespace, name, rest) = match segments {
            ["namespaces", namespace, resource, rest @ ..] => (Some(*namespace), *resource, rest),
            [resource, rest @ ..] => (None, *resource, rest),
            [] => return Err(Failure::not_found("the server could not find the requested resource")),
        };
        let resource = RESOURCES.iter().find(|resource| resource.name == name);
        let (Some(resource), [] | [_]) = (resource, rest) else {
            return Err(Failure::not_found("the server could not find the requested resource"));
        };
        let name = rest.first().map(ToString::to_string);
        Ok(Self { resource, namespace: namespace.map(ToOwned::to_owned), name })
    }

    fn key(&self, name: &str) -> Key {
        Key {
            resource: self.resource.name,
            namespace: self.namespace.clone().unwrap_or_default(),
            name: name.to_owned(),
        }
    }

    fn missing(&self, name: &str) -> Failure {
        Failure::not_found(format!("{} {name:?} not found", self.resource.name))
    }
}

/// Everything below `/api/v1` but the subresources.
pub(super) async fn handle(
    store: Arc<Store>,
    segments: &[&str],
    request: Request<Incoming>,
) -> Result<Response<Body>, Failure> {
    let target = Target::parse(segments)?;
    let query = query(request.uri().query().unwrap_or_default());
    let header = |name| {
        request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
    };
    let as_table = header(ACCEPT).contains("as=Table");
    let content_type = header(CONTENT_TYPE);
    let method = request.method().clone();
    let object = match (&method, &target.name) {
        (&Method::GET, None) => return collection(store, target, &query, as_table),
        (&Method::GET, Some(name)) => store.find(&target.key(name)).ok_or_else(|| target.missing(name))?,
        (&Method::POST, None) => {
            let object = create(&store, &target, body(request).await?)?;
            let mut response = json_response(&object);
            *response.status_mut() = StatusCode::CREATED;
            return Ok(response);
        }
        (&Method::PATCH, Some(name)) => {
            let patch = body(request).await?;
            patch_object(&store, &target, name, &content_type, &patch)?
        }
        (&Method::PUT, Some(name)) => {
            let new = body(request).await?;
            update(&store, &target, name, |_| Ok(new))?
        }
        (&Method::DELETE, Some(name)) => return delete(&store, &target, name),
        _ => {
            return Err(Failure::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "MethodNotAllowed",
                "method not allowed",
            ));
        }
    };
    if as_table {
        let version = object["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
        return Ok(json_response(&table(target.resource.kind, &version, &[object])));
    }
    Ok(json_response(&object))
}

/// The name of a pod that exists.
pub(super) fn pod(store: &Store, namespace: &str, name: &str) -> Result<String, Failure> {
    let key = Key { resource: "pods", namespace: namespace.to_owned(), name: name.to_owned() };
    store
        .find(&key)
        .map(|_| name.to_owned())
        .ok_or_else(|| Failure::not_found(format!("pods {name:?} not found")))
}

/// Puts a namespace there.
pub(super) fn create_namespace(store: &Store, name: &str) {
    let target = Target { resource: &RESOURCES[1], namespace: None, name: None };
    // It can only exist already.
    let _ = create(store, &target, json!({"metadata": {"name": name}}));
}

async fn body(request: Request<Incoming>) -> Result<Value, Failure> {
    let body = Limited::new(request.into_body(), MAX_BODY_BYTES).collect().await;
    let body = body.map_err(|error| Failure::bad_request(format!("the body could not be read: {error}")))?;
    serde_json::from_slice(&body.to_bytes())
        .map_err(|error| Failure::bad_request(format!("the body is not a JSON object: {error}")))
}

fn create(store: &Store, target: &Target, mut object: Value) -> Result<Value, Failure> {
    let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let invalid = |message: String| Failure::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message);
    if name.is_empty()
        || !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b))
    {
        return Err(invalid(format!("metadata.name: {name:?} is not a lower-case DNS name")));
    }
    let kind = object["kind"].as_str().unwrap_or(target.resource.kind);
    if kind != target.resource.kind {
        return Err(Failure::bad_request(format!("kind {kind} does not belong to {}", target.resource.name)));
    }
    object["kind"] = json!(target.resource.kind);
    object["apiVersion"] = json!("v1");
    match (&target.namespace, target.resource.namespaced) {
        (Some(namespace), true) => {
            let key = Key { resource: "namespaces", namespace: String::new(), name: namespace.clone() };
            store
                .find(&key)
                .ok_or_else(|| Failure::not_found(format!("namespaces {namespace:?} not found")))?;
            object["metadata"]["namespace"] = json!(namespace);
        }
        (None, false) => {}
        _ => return Err(Failure::bad_request("the namespace of the path does not fit the resource")),
    }
    let now = OffsetDateTime::now_utc().replace_nanosecond(0).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    object["metadata"]["uid"] = json!(Uuid::new_v4().to_string());
    object["metadata"]["creationTimestamp"] = json!(now.format(&Rfc3339).unwrap_or_default());
    match target.resource.kind {
        "Namespace" => object["status"] = json!({"phase": "Active"}),
        "Pod" => object["status"] = running(&object),
        _ => {}
    }
    let created = store.change(&target.key(&name), |old| match old {
        Some(_) => {
            let message = format!("{} {name:?} already exists", target.resource.name);
            Err(Failure::new(StatusCode::CONFLICT, "AlreadyExists", message))
        }
        None => Ok(Some(object)),
    })?;
    Ok(created.unwrap_or_default())
}

/// There is no scheduler and no image: a pod runs as soon as it exists.
fn running(pod: &Value) -> Value {
    let containers = pod["spec"]["containers"].as_array().map(Vec::as_slice).unwrap_or_default();
    let statuses: Vec<Value> = containers
        .iter()
        .map(|container| {
            json!({
                "name": container["name"], "image": container["image"], "imageID": "", "ready": true, "started": true,
                "restartCount": 0, "state": {"running": {"startedAt": pod["metadata"]["creationTimestamp"]}},
            })
        })
        .collect();
    json!({
        "phase": "Running", "podIP": "10.0.0.1", "hostIP": "10.0.0.1",
        "conditions": [{"type": "Ready", "status": "True"}], "containerStatuses": statuses,
    })
}

fn patch_object(
    store: &Store,
    target: &Target,
    name: &str,
    content_type: &str,
    change: &Value,
) -> Result<Value, Failure> {
    let lists = match content_type {
        "application/merge-patch+json" => Lists::Replace,
        "application/strategic-merge-patch+json" | "application/apply-patch+yaml" => Lists::MergeByName,
        other => {
            let message = format!("patches of type {other:?} are not supported");
            return Err(Failure::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType", message));
        }
    };
    if content_type == "application/apply-patch+yaml" && store.find(&target.key(name)).is_none() {
        return create(store, target, change.clone());
    }
    update(store, target, name, |old| {
        let mut object = old.clone();
        patch::merge(&mut object, change, lists);
        Ok(object)
    })
}

/// Replaces an object; what only the server may set stays.
fn update(
    store: &Store,
    target: &Target,
    name: &str,
    f: impl FnOnce(&Value) -> Result<Value, Failure>,
) -> Result<Value, Failure> {
    let updated = store.change(&target.key(name), |old| {
        let old = old.ok_or_else(|| target.missing(name))?;
        let mut new = f(old)?;
        for field in ["name", "namespace", "uid", "creationTimestamp", "resourceVersion"] {
            new["metadata"][field] = old["metadata"][field].clone();
        }
        if old.get("status").is_some() {
            new["status"] = old["status"].clone();
        }
        Ok(Some(new))
    })?;
    updated.ok_or_else(|| target.missing(name))
}

fn delete(store: &Store, target: &Target, name: &str) -> Result<Response<Body>, Failure> {
    let deleted = store.change(&target.key(name), |old| match old {
        Some(_) => Ok(None),
        None => Err(target.missing(name)),
    })?;
    let uid = deleted.map(|object| object["metadata"]["uid"].clone());
    Ok(json_response(&json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
        "details": {"name": name, "kind": target.resource.name, "uid": uid},
    })))
}

/// What a list or watch is limited to.
struct Selection {
    resource: &'static Resource,
    namespace: Option<String>,
    name: Option<String>,
    labels: Vec<(String, String)>,
}

impl Selection {
    fn new(target: Target, query: &[(String, String)]) -> Result<Self, Failure> {
        let mut name = None;
        for term in
            parameter(query, "fieldSelector").unwrap_or_default().split(',').filter(|term| !term.is_empty())
        {
            match term.split_once('=') {
                Some(("metadata.name", value)) => name = Some(value.trim_start_matches('=').to_owned()),
                _ => return Err(Failure::bad_request(format!("field selector {term:?} is not supported"))),
            }
        }
        let mut labels = Vec::new();
        for term in
            parameter(query, "labelSelector").unwrap_or_default().split(',').filter(|term| !term.is_empty())
        {
            let (key, value) = term
                .split_once('=')
                .ok_or_else(|| Failure::bad_request(format!("label selector {term:?} is not supported")))?;
            labels.push((key.to_owned(), value.trim_start_matches('=').to_owned()));
        }
        Ok(Self { resource: target.resource, namespace: target.namespace, name, labels })
    }

    fn accepts(&self, key: &Key, object: &Value) -> bool {
        key.resource == self.resource.name
            && self.namespace.as_ref().is_none_or(|namespace| *namespace == key.namespace)
            && self.name.as_ref().is_none_or(|name| *name == key.name)
            && self.labels.iter().all(|(label, value)| object["metadata"]["labels"][label] == *value)
    }
}

fn collection(
    store: Arc<Store>,
    target: Target,
    query: &[(String, String)],
    as_table: bool,
) -> Result<Response<Body>, Failure> {
    let selection = Selection::new(target, query)?;
    if matches!(parameter(query, "watch"), Some("true" | "1")) {
        let since = parameter(query, "resourceVersion").and_then(|version| version.parse().ok()).unwrap_or(0);
        let seconds = parameter(query, "timeoutSeconds").and_then(|seconds| seconds.parse().ok());
        let limit = seconds.map_or(WATCH_LIMIT, Duration::from_secs);
        let (events, receiver) = mpsc::channel(64);
        tokio::spawn(async move {
            // The client going away and the time being up both end it.
            let _ = tokio::time::timeout(limit, watch(store, selection, since, as_table, events)).await;
        });
        let mut response = Response::new(streamed(receiver));
        response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
        return Ok(response);
    }
    let (version, objects) = store.list(|key, object| selection.accepts(key, object));
    let version = version.to_string();
    if as_table {
        return Ok(json_response(&table(selection.resource.kind, &version, &objects)));
    }
    Ok(json_response(&json!({
        "kind": format!("{}List", selection.resource.kind), "apiVersion": "v1",
        "metadata": {"resourceVersion": version}, "items": objects,
    })))
}

/// Sends events after version `since`; 0 means: first everything that is there.
async fn watch(
    store: Arc<Store>,
    selection: Selection,
    mut since: u64,
    as_table: bool,
    events: mpsc::Sender<Bytes>,
) {
    let mut versions = store.versions();
    let line =
        |kind: &str, object: Value| Bytes::from(format!("{}\n", json!({"type": kind, "object": object})));
    let shown = |object: &Value| {
        let version = object["metadata"]["resourceVersion"].as_str().unwrap_or_default();
        if as_table {
            table(selection.resource.kind, version, std::slice::from_ref(object))
        } else {
            object.clone()
        }
    };
    if since == 0 {
        let (version, objects) = store.list(|key, object| selection.accepts(key, object));
        since = version;
        for object in &objects {
            if events.send(line("ADDED", shown(object))).await.is_err() {
                return;
            }
        }
    }
    loop {
        versions.borrow_and_update();
        let Some(changes) = store.changes_after(since) else {
            let gone =
                Failure::new(StatusCode::GONE, "Expired", format!("too old resource version: {since}"));
            // The client going away is the end, too.
            let _ = events.send(line("ERROR", gone.status())).await;
            return;
        };
        for Change { version, kind, key, object } in changes {
            since = version;
            if selection.accepts(&key, &object) && events.send(line(kind, shown(&object))).await.is_err() {
                return;
            }
        }
        tokio::select! {
            changed = versions.changed() => if changed.is_err() { return },
            () = events.closed() => return,
        }
    }
}
