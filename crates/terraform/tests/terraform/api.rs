//! Two APIs for a provider: one that records what it is asked and keeps what it is given, and adit's own.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use adit_control::{Control, Settings};
use adit_store::Store;
use axum::Router;
use axum::body::Body;
use axum::extract::State;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{Method, Request, Response};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use serde_json::{Value as Json, json};
use tokio::net::TcpListener;

/// The account of the API that records.
pub(crate) const ACCOUNT: &str = "699d98642c564d2e855e9661899b7252";

/// Where an API is.
pub(crate) struct Site {
    pub(crate) base_url: String,
    pub(crate) token: String,
    pub(crate) account: String,
    pub(crate) asked: Arc<Mutex<Asked>>,
    server: tokio::task::JoinHandle<()>,
    _dir: Option<tempfile::TempDir>,
}

/// What the API that records was asked, and what it keeps.
#[derive(Default)]
pub(crate) struct Asked {
    pub(crate) calls: Vec<String>,
    objects: BTreeMap<String, Vec<Json>>,
    made: usize,
}

impl Drop for Site {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Site {
    /// An API that keeps what it is given and records what it is asked.
    pub(crate) async fn recording() -> Self {
        let asked = Arc::new(Mutex::new(Asked::default()));
        let router = Router::new().fallback(record).with_state(Arc::clone(&asked));
        let (base_url, server) = serve(router).await;
        Self { base_url, token: "token".into(), account: ACCOUNT.into(), asked, server, _dir: None }
    }

    /// adit's API on a store of its own.
    pub(crate) async fn real() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).await.unwrap();
        let control = Control::new(store, Settings::default()).await.unwrap();
        let token = std::fs::read_to_string(dir.path().join("admin-token")).unwrap().trim().to_owned();
        let account = control.account().to_string();
        let client = axum::Extension(SocketAddr::from(([127, 0, 0, 1], 40000)));
        let (base_url, server) = serve(adit_control::api::router(control).layer(client)).await;
        Self { base_url, token, account, asked: Arc::default(), server, _dir: Some(dir) }
    }

    /// What was asked since the last time.
    pub(crate) fn asked(&self) -> String {
        let calls = std::mem::take(&mut self.asked.lock().unwrap().calls);
        calls.into_iter().map(|call| call + "\n").collect()
    }
}

async fn serve(router: Router) -> (String, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base_url = format!("http://{}/client/v4", listener.local_addr().unwrap());
    let server = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let service = TowerToHyperService::new(router.clone());
            let http = hyper::server::conn::http1::Builder::new();
            tokio::spawn(http.serve_connection(TokioIo::new(stream), service));
        }
    });
    (base_url, server)
}

async fn record(State(asked): State<Arc<Mutex<Asked>>>, request: Request<Body>) -> Response<Body> {
    let method = request.method().clone();
    let path = request.uri().path_and_query().unwrap().as_str().to_owned();
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let body: Json = serde_json::from_slice(&body).unwrap_or_default();
    let path = path.strip_prefix(&format!("/client/v4/accounts/{ACCOUNT}/")).unwrap_or(&path).to_owned();
    let mut asked = asked.lock().unwrap();
    let shown = if body.is_null() { String::new() } else { format!(" {body}") };
    asked.calls.push(format!("{method} {path}{shown}"));
    let result = asked.answer(&method, &path, body);
    let errors = json!([{"code": 1003, "message": "not found"}]);
    let errors = if result.is_some() { json!([]) } else { errors };
    let status = if result.is_some() { 200 } else { 404 };
    let envelope = json!({"success": status == 200, "errors": errors, "messages": [], "result": result});
    let response = Response::builder().status(status).header("content-type", "application/json");
    response.body(Body::from(envelope.to_string())).unwrap()
}

impl Asked {
    fn answer(&mut self, method: &Method, path: &str, body: Json) -> Option<Json> {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let (collection, rest) = match path.split('/').collect::<Vec<_>>().as_slice() {
            ["cfd_tunnel", rest @ ..] => ("cfd_tunnel".to_owned(), rest.to_vec()),
            [area, kind, rest @ ..] => (format!("{area}/{kind}"), rest.to_vec()),
            _ => return None,
        };
        let objects = self.objects.entry(collection).or_default();
        let id_of = |objects: &[Json], key: &str, text: &str| objects.iter().position(|o| o[key] == text);
        let (at, name) = match rest.as_slice() {
            [] if *method == Method::POST => (None, None),
            [] => {
                let network = query.split('&').find_map(|pair| pair.strip_prefix("network_subset="));
                let network = unescaped(network.unwrap_or_default());
                return Some(
                    objects.iter().filter(|object| object["network"] == *network).cloned().collect(),
                );
            }
            ["network", network] => {
                let network = unescaped(network);
                (id_of(objects, "network", &network), Some(network))
            }
            [id, "token"] => {
                let at = id_of(objects, "id", id)?;
                let inside = json!({"a": ACCOUNT, "t": id, "s": objects[at]["tunnel_secret"]});
                return Some(STANDARD.encode(inside.to_string()).into());
            }
            [id, "items"] => return Some(objects[id_of(objects, "id", id)?]["items"].clone()),
            [_, "connections"] => return Some(json!({})),
            [id] => (Some(id_of(objects, "id", id)?), None),
            _ => return None,
        };
        match (method, at) {
            (&Method::POST, _) => {
                self.made += 1;
                let mut object = body;
                object["id"] = format!("00000000-0000-4000-8000-{:012}", self.made).into();
                if let Some(network) = name {
                    object["network"] = network.into();
                }
                objects.push(object.clone());
                Some(object)
            }
            (&Method::DELETE, Some(at)) => Some(objects.remove(at)),
            (&Method::GET, Some(at)) => Some(objects[at].clone()),
            (_, Some(at)) => {
                let object = objects[at].as_object_mut()?;
                for (key, value) in body.as_object()? {
                    object.insert(key.clone(), value.clone());
                }
                let removed = object.remove("remove").unwrap_or_default();
                let appended = object.remove("append").unwrap_or_default();
                if let Some(Json::Array(items)) = object.get_mut("items") {
                    items.retain(|item| !removed.as_array().is_some_and(|r| r.contains(&item["value"])));
                    items.extend(appended.as_array().into_iter().flatten().cloned());
                }
                Some(objects[at].clone())
            }
            (_, None) => None,
        }
    }
}

fn unescaped(text: &str) -> String {
    text.replace("%2F", "/").replace("%3A", ":")
}
