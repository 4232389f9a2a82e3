//! Several accounts in one installation: made and deleted beside the API, strangers to each other in it.

use adit_control::accounts::{self, AccountError};
use adit_model::Change;
use adit_store::{Actor, Cascade, Feed};

use super::*;

/// Another account of an installation, with a token of its own.
pub(crate) struct Other {
    pub(crate) id: adit_model::AccountId,
    pub(crate) token: String,
}

impl Other {
    pub(crate) async fn new(api: &Api, name: &str) -> Self {
        let made = accounts::create(api.control.store(), &Actor::system(), name).await.unwrap();
        Self { id: made.account.id, token: made.token }
    }

    /// Asks for a path of this account, with its own token.
    pub(crate) async fn send(&self, api: &Api, method: Method, rest: &str, body: Value) -> Answer {
        let path = format!("/client/v4/accounts/{}/{rest}", self.id);
        let body = if body.is_null() { String::new() } else { body.to_string() };
        api.send_as(Some(&self.token), method, &path, body).await
    }

    async fn post(&self, api: &Api, rest: &str, body: Value) -> Answer {
        self.send(api, Method::POST, rest, body).await
    }
}

#[tokio::test]
async fn a_new_account_has_a_network_and_a_token_for_itself_alone() {
    let api = Api::new().await;
    let other = Other::new(&api, "staging").await;
    let networks = other.send(&api, Method::GET, "teamnet/virtual_networks", Value::Null).await;
    assert_eq!(networks.column("name"), ["default"]);
    let seen = api.send_as(Some(&other.token), Method::GET, "/client/v4/accounts", String::new()).await;
    assert_eq!(seen.column("name"), ["staging"]);
    assert_eq!(api.send(Method::GET, "/client/v4/accounts", None).await.column("name"), ["adit"]);
    let zones = api.send_as(Some(&other.token), Method::GET, "/client/v4/zones", String::new()).await;
    assert_eq!(zones.column("id"), [other.id.to_string()]);
    let verify = "/client/v4/user/tokens/verify";
    api.send_as(Some(&other.token), Method::GET, verify, String::new()).await.result();
    let tokens = api.send_as(Some(&other.token), Method::GET, "/client/v4/user/tokens", String::new()).await;
    assert_eq!(tokens.column("name"), ["admin"]);
    // Names and networks are each account's own.
    for send in [
        other.post(&api, "cfd_tunnel", json!({ "name": "k8s" })).await,
        api.post("cfd_tunnel", json!({ "name": "k8s" })).await,
    ] {
        send.result();
    }
}

#[tokio::test]
async fn names_of_accounts_are_checked_and_unique() {
    let api = Api::new().await;
    let create = async |name: &str| accounts::create(api.control.store(), &Actor::system(), name).await;
    create("staging").await.unwrap();
    assert!(matches!(create("staging").await, Err(AccountError::NameTaken)));
    assert!(matches!(create("adit").await, Err(AccountError::NameTaken)));
    for wrong in ["", "  ", "a\nb", &"x".repeat(101), &"0".repeat(32)] {
        assert!(matches!(create(wrong).await, Err(AccountError::Name)), "{wrong:?}");
    }
}

#[tokio::test]
async fn an_account_is_deleted_with_all_that_it_owns_and_edges_are_told() {
    let api = Api::new().await;
    let store = api.control.store();
    let other = Other::new(&api, "staging").await;
    let delete = async |cascade| accounts::delete(store, &Actor::system(), other.id, cascade).await;
    let tunnel = other.post(&api, "cfd_tunnel", json!({ "name": "k8s", "config_src": "cloudflare" })).await;
    let tunnel = tunnel.text("/result/id");
    let rules = json!({ "config": { "ingress": [{ "service": "http_status:404" }] } });
    other.send(&api, Method::PUT, &format!("cfd_tunnel/{tunnel}/configurations"), rules).await.result();
    let route = json!({ "network": "10.0.0.0/8", "tunnel_id": tunnel });
    other.post(&api, "teamnet/routes", route).await.result();
    let service = other.post(&api, "access/service_tokens", json!({ "name": "ci" })).await;
    let enrolled = async |service: &Answer| {
        let token = (service.text("/result/client_id"), service.text("/result/client_secret"));
        api.enroll(Some(&token), Some(b"key"), device::LAPTOP).await
    };
    assert_eq!(enrolled(&service).await.body["user"], format!("non_identity@{}", other.id));
    let hostname = json!({ "type": "dns", "user_hostname": "app.example.com", "overwrite_existing": false });
    let path = format!("/client/v4/zones/{}/tunnels/{tunnel}/routes", other.id);
    api.send_as(Some(&other.token), Method::PUT, &path, hostname.to_string()).await.result();

    let held = delete(Cascade::Refuse).await.unwrap_err().to_string();
    assert!(
        held.contains("1 public host name, 1 route, 1 tunnel, 1 registration, 1 service token"),
        "{held}"
    );
    other.send(&api, Method::GET, "cfd_tunnel", Value::Null).await.result();
    let (before, mut feed): (_, Feed) = api.control.subscribe().await.unwrap();
    delete(Cascade::Delete).await.unwrap();
    let told = feed.next().await.unwrap().changes;
    let removes = |wanted: fn(&Change) -> bool| told.iter().any(wanted);
    assert!(removes(|change| matches!(change, Change::TunnelRemoved { .. })));
    assert!(removes(|change| matches!(change, Change::RouteRemoved { .. })));
    assert!(removes(|change| matches!(change, Change::HostnameRemoved { .. })));
    assert!(removes(|change| matches!(change, Change::VirtualNetworkRemoved { .. })));
    assert!(removes(|change| matches!(change, Change::RegistrationRemoved { .. })));
    assert!(removes(|change| matches!(change, Change::LocationRemoved { .. })));
    assert!(removes(|change| matches!(change, Change::ServiceTokenRemoved { .. })));
    let (after, _) = api.control.subscribe().await.unwrap();
    assert!(before.changes.len() > after.changes.len() && after.changes.len() == 2, "{after:?}");
    let answer = other.send(&api, Method::GET, "cfd_tunnel", Value::Null).await;
    answer.refused(401, 10000, "Authentication error");
    assert!(matches!(delete(Cascade::Delete).await, Err(AccountError::NotFound)));
    // The key and the name are free again, for anyone.
    let tunnel = api.tunnel("mine").await;
    let path = format!("/client/v4/zones/{}/tunnels/{tunnel}/routes", api.control.account());
    let hostname = json!({ "type": "dns", "user_hostname": "app.example.com", "overwrite_existing": false });
    api.send(Method::PUT, &path, Some(&hostname)).await.result();
    let service = api.post("access/service_tokens", json!({ "name": "ci" })).await;
    assert_eq!(enrolled(&service).await.status, StatusCode::OK);
}

#[tokio::test]
async fn the_first_account_cannot_be_deleted() {
    let api = Api::new().await;
    let account = api.control.account();
    let refused = accounts::delete(api.control.store(), &Actor::system(), account, Cascade::Delete).await;
    assert!(matches!(refused, Err(AccountError::First)));
    api.get("cfd_tunnel").await.result();
}

#[tokio::test]
async fn making_and_deleting_an_account_is_recorded() {
    let api = Api::new().await;
    let other = Other::new(&api, "staging").await;
    let path = "logs/audit?since=2020-01-01&before=2100-01-01";
    let seen = other.send(&api, Method::GET, path, Value::Null).await;
    assert_eq!(seen.result()[0]["resource"]["id"], other.id.to_string());
    assert!(!api.get(path).await.body.to_string().contains(&other.id.to_string()));
}

#[tokio::test]
async fn a_refused_credential_is_recorded_where_it_belongs() {
    let api = Api::new().await;
    let other = Other::new(&api, "staging").await;
    let service = other.post(&api, "access/service_tokens", json!({ "name": "ci" })).await;
    let wrong = (service.text("/result/client_id"), "0".repeat(64));
    api.enroll(Some(&wrong), Some(b"key"), device::LAPTOP).await.refused(401, 10000, "id or secret is wrong");
    let path = "logs/audit?since=2020-01-01&before=2100-01-01&action_result=failure";
    let seen = other.send(&api, Method::GET, path, Value::Null).await;
    assert_eq!(seen.result().as_array().unwrap().len(), 1, "{}", seen.body);
    assert_eq!(api.get(path).await.result(), &json!([]));
    api.send_as(Some("unknown"), Method::GET, "/client/v4/accounts", String::new()).await.refused(
        401,
        10000,
        "Authentication error",
    );
    assert_eq!(api.get(path).await.result().as_array().unwrap().len(), 1, "nobody's is the installation's");
}

#[tokio::test]
async fn accounts_are_listed_in_one_direction_or_the_other() {
    let api = Api::new().await;
    let list = async |query: &str| api.send(Method::GET, &format!("/client/v4/accounts{query}"), None).await;
    for good in ["", "?direction=asc", "?direction=desc"] {
        assert_eq!(list(good).await.column("name"), ["adit"]);
    }
    list("?direction=up").await.refused(400, 1003, "direction: expected asc or desc");
}
