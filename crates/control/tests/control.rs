//! The control plane through its routers, as clients see it. Every answer that a test gets is compared with the API's own
//! OpenAPI document ([`schema`]).

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "control/access.rs"]
mod access;
#[path = "control/accounts.rs"]
mod accounts;
#[path = "control/audit.rs"]
mod audit;
#[path = "control/batch.rs"]
mod batch;
#[path = "control/concurrency.rs"]
mod concurrency;
#[path = "control/device.rs"]
mod device;
#[path = "control/gateway.rs"]
mod gateway;
#[path = "control/hostname_routes.rs"]
mod hostname_routes;
#[path = "control/http_rules.rs"]
mod http_rules;
#[path = "control/ingress.rs"]
mod ingress;
#[path = "control/isolation.rs"]
mod isolation;
#[path = "control/lists.rs"]
mod lists;
#[path = "control/locations.rs"]
mod locations;
#[path = "control/logs.rs"]
mod logs;
#[path = "control/members.rs"]
mod members;
#[path = "control/network.rs"]
mod network;
#[path = "control/openapi.rs"]
mod openapi;
#[path = "control/rules.rs"]
mod rules;
#[path = "control/schema.rs"]
mod schema;
#[path = "control/start.rs"]
mod start;
#[path = "control/traces.rs"]
mod traces;
#[path = "control/tunnel.rs"]
mod tunnel;

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::SystemTime;

use adit_control::{Control, Settings, api};
use adit_model::{ConnectionId, ConnectionOpened, ConnectorId, Record};
use adit_store::Store;
use axum::Router;
use axum::body::Body;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

/// An installation in a directory of its own, and its API.
struct Api {
    control: Control,
    router: Router,
    token: String,
    dir: tempfile::TempDir,
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Value,
}

impl Api {
    async fn new() -> Self {
        Self::with(Settings::default()).await
    }

    async fn with(settings: Settings) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).await.unwrap();
        let control = Control::new(store, settings).await.unwrap();
        let token = std::fs::read_to_string(dir.path().join("admin-token")).unwrap().trim().to_owned();
        let router = api::router(control.clone());
        Self { control, router, token, dir }
    }

    /// A path of the account.
    fn path(&self, rest: &str) -> String {
        format!("/client/v4/accounts/{}/{rest}", self.control.account())
    }

    async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Answer {
        let body = body.map_or_else(String::new, Value::to_string);
        self.send_as(Some(&self.token), method, path, body).await
    }

    async fn send_as(&self, token: Option<&str>, method: Method, path: &str, body: String) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        self.request(request.header("content-type", "application/json").body(body.into()).unwrap()).await
    }

    async fn request(&self, mut request: Request<Body>) -> Answer {
        if request.extensions().get::<SocketAddr>().is_none() {
            request.extensions_mut().insert(SocketAddr::from(([127, 0, 0, 1], 40000)));
        }
        let (method, path) = (request.method().to_string(), request.uri().to_string());
        let answer = answer(self.router.clone().oneshot(request).await.unwrap()).await;
        // Whatever a test is about, what it gets is what the document says.
        schema::check(api::document(), &method, &path, &answer);
        answer
    }

    async fn get(&self, rest: &str) -> Answer {
        self.send(Method::GET, &self.path(rest), None).await
    }

    async fn post(&self, rest: &str, body: Value) -> Answer {
        self.send(Method::POST, &self.path(rest), Some(&body)).await
    }

    async fn patch(&self, rest: &str, body: Value) -> Answer {
        self.send(Method::PATCH, &self.path(rest), Some(&body)).await
    }

    async fn put(&self, rest: &str, body: Value) -> Answer {
        self.send(Method::PUT, &self.path(rest), Some(&body)).await
    }

    async fn delete(&self, rest: &str) -> Answer {
        self.send(Method::DELETE, &self.path(rest), None).await
    }

    /// A tunnel of this name: its id.
    async fn tunnel(&self, name: &str) -> String {
        self.post("cfd_tunnel", json!({ "name": name })).await.text("/result/id")
    }

    /// Reports a connection of a tunnel.
    async fn connected(&self, tunnel: &str, connector: ConnectorId, index: u8) {
        let opened = ConnectionOpened {
            tunnel: tunnel.parse().unwrap(),
            connection: ConnectionId::from_uuid(uuid::Uuid::new_v4()),
            connector,
            index,
            version: "2026.8.0".into(),
            architecture: "linux_amd64".into(),
            features: vec!["ha-origin".into()],
            origin: "192.0.2.7".parse().unwrap(),
            node: "node01".into(),
            at: SystemTime::now(),
        };
        self.control.record(Record::ConnectionOpened(opened)).await;
    }

    /// A token that may do what these permission groups say.
    async fn token_with(&self, groups: &[&str]) -> String {
        let known = self.get("tokens/permission_groups").await;
        let id = |name: &&str| {
            let known = known.body["result"].as_array().unwrap();
            known.iter().find(|group| group["name"] == *name).unwrap()["id"].clone()
        };
        let groups: Vec<Value> = groups.iter().map(|name| json!({ "id": id(name) })).collect();
        let resource = format!("com.cloudflare.api.account.{}", self.control.account());
        let policies =
            json!([{ "effect": "allow", "permission_groups": groups, "resources": { resource: "*" } }]);
        let made = self.post("tokens", json!({ "name": "limited", "policies": policies })).await;
        made.text("/result/value")
    }
}

async fn answer(response: http::Response<Body>) -> Answer {
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    Answer { status: parts.status, headers: parts.headers, body: serde_json::from_slice(&bytes).unwrap() }
}

impl Answer {
    fn text(&self, pointer: &str) -> String {
        let text = self.body.pointer(pointer).and_then(Value::as_str);
        text.unwrap_or_else(|| panic!("no text at {pointer} of {}", self.body)).to_owned()
    }

    /// Status, code and message of a refusal.
    fn refusal(&self) -> (u16, u64, &str) {
        assert_eq!(self.body["success"], false, "{}", self.body);
        assert_eq!(self.body["result"], Value::Null);
        assert_eq!(self.body["messages"], json!([]));
        let error = &self.body["errors"][0];
        (self.status.as_u16(), error["code"].as_u64().unwrap(), error["message"].as_str().unwrap())
    }

    #[track_caller]
    fn refused(&self, status: u16, code: u64, part: &str) {
        let (found_status, found_code, message) = self.refusal();
        assert_eq!((found_status, found_code), (status, code), "{}", self.body);
        assert!(message.contains(part), "{message:?} should have {part:?}");
    }

    #[track_caller]
    fn result(&self) -> &Value {
        assert_eq!(self.status, StatusCode::OK, "{}", self.body);
        assert_eq!(self.body["success"], true, "{}", self.body);
        &self.body["result"]
    }

    /// The values of a field of every row.
    #[track_caller]
    fn column(&self, field: &str) -> Vec<String> {
        let rows = self.result().as_array().unwrap();
        rows.iter().map(|row| row[field].as_str().unwrap().to_owned()).collect()
    }

    /// The body for a snapshot: what differs each time is named instead of shown.
    fn plain(&self) -> String {
        let mut body = self.body.clone();
        hide(&mut body);
        let mut text = format!("{}\n", self.status);
        write!(text, "{}", serde_json::to_string_pretty(&body).unwrap()).unwrap();
        text
    }
}

/// Replaces ids, times and secrets by their names, where there are any.
fn hide(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(hide),
        Value::Object(map) => {
            for (key, item) in map {
                let random = key == "uuid"
                    || key == "client_id"
                    || key == "id"
                    || key == "key"
                    || key == "account_tag"
                    || ["_id", "_at", "_on", "token", "secret", "created", "updated", "last_seen", "email"]
                        .iter()
                        .any(|end| key.ends_with(end));
                if random && item.is_string() {
                    *item = format!("[{key}]").into();
                } else {
                    hide(item);
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
