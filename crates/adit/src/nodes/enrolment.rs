//! How a node becomes known: it shows a one-time code over HTTPS, and gets its certificate and its way into the database.
//!
//! The node's key is made on the node and never leaves it; the control plane signs the names that it was made for (by
//! `adit node create`), and those only. Each use of a code gives the next one, with which the node renews its certificate, so
//! that a code that was read by somebody else is noticed: the rightful one fails.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use adit_model::{NodeKey, SecretHash};
use adit_store::Store;
use anyhow::{Context, bail};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{KeyPair, PublicKeyData as _};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::identity::{Database, Enrolled};
use crate::authority::{Authority, LEAF_DAYS};
use crate::management::client::{Address, Client};

/// Where nodes enrol.
const PATH: &str = "/adit/node/enroll";
/// A code and a key.
const MAX_REQUEST_BYTES: usize = 4 << 10;
/// For one try to enrol.
const DEADLINE: Duration = Duration::from_secs(15);
/// An uncompressed point of P-256 (SEC 1, 2.3.3).
const POINT_BYTES: usize = 65;
const UNCOMPRESSED: u8 = 4;

/// What a node sends.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    code: String,
    /// The public key: an uncompressed point of P-256, base64.
    public_key: String,
}

/// What it gets.
#[derive(Serialize, Deserialize)]
struct Reply {
    node: adit_model::NodeId,
    name: String,
    hosts: Vec<String>,
    certificate: String,
    /// For the next time.
    code: String,
    database: Database,
}

/// What is needed to answer.
pub(crate) struct Registry {
    pub(crate) store: Store,
    pub(crate) authority: Arc<Authority>,
    /// The names by which connectors ask for any edge.
    pub(crate) connector_names: Vec<String>,
    /// The database without a user, as nodes are to name it.
    pub(crate) database: String,
}

/// Serves enrolment.
pub(crate) fn router(registry: Registry) -> Router {
    Router::new()
        .route(PATH, axum::routing::post(enrol))
        .layer(axum::extract::DefaultBodyLimit::max(MAX_REQUEST_BYTES))
        .with_state(Arc::new(registry))
}

async fn enrol(State(registry): State<Arc<Registry>>, Json(request): Json<Request>) -> Response {
    match answer(&registry, &request).await {
        Ok(Some(reply)) => {
            tracing::info!(node = reply.name, "an edge node has enrolled, or renewed its certificate");
            Json(serde_json::json!({ "success": true, "errors": [], "messages": [], "result": reply }))
                .into_response()
        }
        Ok(None) => refusal(StatusCode::FORBIDDEN, "the code is not known, is used, or is too old"),
        Err(error) => {
            tracing::warn!(error = format!("{error:#}"), "an edge node cannot enrol");
            refusal(StatusCode::SERVICE_UNAVAILABLE, "try again later")
        }
    }
}

fn refusal(status: StatusCode, message: &str) -> Response {
    let errors = serde_json::json!([{ "code": status.as_u16(), "message": message }]);
    let body = serde_json::json!({ "success": false, "errors": errors, "messages": [], "result": null });
    (status, Json(body)).into_response()
}

async fn answer(registry: &Registry, request: &Request) -> anyhow::Result<Option<Reply>> {
    let key = URL_SAFE_NO_PAD.decode(&request.public_key).ok().and_then(NodePublicKey::of_point);
    let Some(key) = key else { return Ok(None) };
    let (next, password) = (new_code()?, new_code()?);
    let hash = |code: &str| SecretHash::of(code.as_bytes());
    let node_key = NodeKey::of_public_key(&key.subject_public_key_info());
    let enrolled =
        registry.store.node_enrol(&hash(&request.code), &hash(&next), &node_key, &password).await?;
    let Some(node) = enrolled else { return Ok(None) };
    let names: Vec<String> = node.hosts.iter().chain(&registry.connector_names).cloned().collect();
    let database = Database {
        url: registry.database.clone(),
        role: node.role,
        password: node.password_set.then_some(password),
    };
    Ok(Some(Reply {
        node: node.id,
        name: node.name,
        certificate: registry.authority.sign(&names, &key)?,
        hosts: node.hosts,
        code: next,
        database,
    }))
}

/// A public key of P-256.
struct NodePublicKey(Vec<u8>);

impl NodePublicKey {
    fn of_point(point: Vec<u8>) -> Option<Self> {
        (point.len() == POINT_BYTES && point[0] == UNCOMPRESSED).then_some(Self(point))
    }
}

impl rcgen::PublicKeyData for NodePublicKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

/// A new one-time code, or a password: 256 random bits in hexadecimal.
pub(crate) fn new_code() -> anyhow::Result<String> {
    use std::fmt::Write as _;
    let mut bytes = [0; 32];
    let random = adit_transport::tls::provider().secure_random;
    random.fill(&mut bytes).map_err(|_| anyhow::anyhow!("no random bytes"))?;
    Ok(bytes.iter().fold(String::new(), |mut text, byte| {
        let _infallible = write!(text, "{byte:02x}");
        text
    }))
}

/// Where and how a node enrols.
pub(crate) struct Enrolment<'a> {
    pub(crate) data: &'a Path,
    pub(crate) control: &'a str,
    /// `ca.pem` of the control plane.
    pub(crate) ca: &'a [u8],
    pub(crate) code: Option<&'a str>,
}

impl Enrolment<'_> {
    /// The node as it has enrolled, now or before. A certificate that is to end is renewed; where that fails, the one that
    /// is there still serves.
    pub(crate) async fn run(&self) -> anyhow::Result<Enrolled> {
        let now = OffsetDateTime::now_utc().unix_timestamp();
        match Enrolled::load(self.data)? {
            Some(kept) if kept.renew_at > now => Ok(kept),
            Some(kept) => match self.ask(&kept.key, &kept.code).await {
                Ok(renewed) => Ok(renewed),
                Err(error) => {
                    tracing::warn!(error = format!("{error:#}"), "the certificate is not renewed");
                    Ok(kept)
                }
            },
            None => {
                let Some(code) = self.code else {
                    bail!(
                        "code: this node has not enrolled yet: make a code with `adit node create` or `adit node code`"
                    );
                };
                let key = KeyPair::generate()?.serialize_pem();
                self.ask(&key, code).await.context("cannot enrol this node")
            }
        }
    }

    async fn ask(&self, key: &str, code: &str) -> anyhow::Result<Enrolled> {
        let pair = KeyPair::from_pem(key).context("the node's key is damaged")?;
        let request = Request { code: code.to_owned(), public_key: URL_SAFE_NO_PAD.encode(pair.der_bytes()) };
        let at = Address::parse("control", self.control)?;
        anyhow::ensure!(at.secure, "control: expected an https URL, not {:?}", self.control);
        let authority = at.authority();
        let roots = adit_transport::tls::roots_from_pem(self.ca).context("ca: expected PEM certificates")?;
        let tls = adit_transport::tls::client_config(roots, &[b"http/1.1"])?;
        let client = Client {
            at,
            tls: Some(Arc::new(tls)),
            token: String::new(),
            account: String::new(),
            zone: String::new(),
            per_page: 1,
        };
        let body = serde_json::to_value(&request)?;
        let called = client.exchange_json("POST", PATH, Some(&body), DEADLINE).await;
        let (status, mut answer) = called.with_context(|| format!("cannot reach {authority}"))?;
        if status != 200 {
            let said = answer["errors"][0]["message"].as_str().unwrap_or("is this an adit up on PostgreSQL?");
            bail!("{authority} answered {status}: {said}");
        }
        let reply: Reply = serde_json::from_value(answer["result"].take())
            .context("the control plane's answer cannot be read: is it of the same version?")?;
        let enrolled = Enrolled {
            node: reply.node,
            name: reply.name,
            hosts: reply.hosts,
            key: key.to_owned(),
            certificate: reply.certificate,
            code: reply.code,
            renew_at: OffsetDateTime::now_utc().unix_timestamp() + LEAF_DAYS * 86_400 * 2 / 3,
            database: reply.database,
        };
        enrolled.save(self.data)?;
        Ok(enrolled)
    }
}

/// A URL of PostgreSQL without its user and password, for somebody else to use.
pub(crate) fn without_user(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("postgres", url));
    let (place, query) = rest.split_once('?').map_or((rest, None), |(place, query)| (place, Some(query)));
    let (authority, path) = place.find('/').map_or((place, ""), |at| place.split_at(at));
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let kept = query.into_iter().flat_map(|query| query.split('&'));
    let kept: Vec<&str> =
        kept.filter(|pair| !["user", "password"].contains(&pair.split('=').next().unwrap_or(pair))).collect();
    let query = if kept.is_empty() { String::new() } else { format!("?{}", kept.join("&")) };
    format!("{scheme}://{host}{path}{query}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_as_it_is_sent_is_known_by_the_same_hash() {
        let pair = KeyPair::generate().unwrap();
        let sent = NodePublicKey::of_point(pair.der_bytes().to_vec()).unwrap();
        assert_eq!(sent.subject_public_key_info(), pair.subject_public_key_info());
        assert!(NodePublicKey::of_point(vec![4; 64]).is_none());
        assert!(NodePublicKey::of_point(vec![2; 65]).is_none());
    }

    #[test]
    fn who_signs_in_is_left_out_of_a_url() {
        let check = |url, expected| assert_eq!(without_user(url), expected);
        check("postgres://adit:p%40ss@db.example:5433/adit", "postgres://db.example:5433/adit");
        check("postgres://db.example/adit?sslmode=require", "postgres://db.example/adit?sslmode=require");
        check("postgresql://a:b@[::1]/x?user=a&host=/run&password=b", "postgresql://[::1]/x?host=/run");
        check("postgres://a:b/c@d@db/x", "postgres://a:b/c@d@db/x");
    }
}
