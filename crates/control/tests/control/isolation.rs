//! What one account has is, to another, as if it were not: not shown, not usable, and not told from what never was.
//!
//! Two accounts have one of everything. Every operation is asked by one of them with the other's ids, in the path, in the
//! body and in the query, and again with ids that are nobody's: both answers must be the same but for the ids themselves,
//! and nothing of the other account may stand in either. At the end the other account is as it was.

use std::collections::BTreeMap;

use super::accounts::Other;
use super::*;

/// Paths of an account, by the ids in them. Every method is tried on each.
const PATHS: [&str; 28] = [
    "cfd_tunnel/{tunnel}",
    "cfd_tunnel/{tunnel}?cascade=true",
    "cfd_tunnel/{tunnel}/connections",
    "cfd_tunnel/{tunnel}/connections?client_id={connector}",
    "cfd_tunnel/{tunnel}/connectors/{connector}",
    "cfd_tunnel/{own_tunnel}/connectors/{connector}",
    "cfd_tunnel/{tunnel}/token",
    "cfd_tunnel/{tunnel}/configurations",
    "cfd_tunnel/{tunnel}/management",
    "cfd_tunnel/{tunnel}/management/logs",
    "teamnet/routes/{route}",
    "teamnet/routes/network/10.99.0.0%2F16",
    "teamnet/virtual_networks/{network}",
    "teamnet/virtual_networks/{network}?force=true",
    "tokens/{token}",
    "tokens/{token}/value",
    "access/service_tokens/{service}",
    "access/service_tokens/{service}/rotate",
    "access/service_tokens/{service}/refresh",
    "devices/registrations/{registration}",
    "devices/physical-devices/{device}",
    "devices/physical-devices/{device}/revoke",
    "devices/{device}",
    "devices/{registration}",
    "gateway/lists/{list}",
    "gateway/lists/{list}/items",
    "gateway/rules/{rule}",
    "gateway/rules/{rule}/reset_expiration",
];

/// The same of a zone.
const ZONE_PATHS: [&str; 2] = ["tunnels/{tunnel}/routes", "dns_records/{record}"];

/// A body for every path, which names all that a body can.
const BODY: &str = r#"{
    "name": "taken over", "network": "10.98.0.0/16", "tunnel_id": "{tunnel}", "virtual_network_id": "{network}",
    "comment": "taken over", "resources": ["logs"], "config": {"ingress": [{"service": "http_status:404"}]},
    "type": "dns", "user_hostname": "taken.example.com", "overwrite_existing": true, "duration": "24h",
    "action": "off", "traffic": "any(http.conn.dst_ip[*] in ${list})", "append": ["10.96.0.1"],
    "policies": [{"effect": "allow", "permission_groups": [{"id": "ad170000000000000000000000000101"}],
                  "resources": {"com.cloudflare.api.account.{account}": "*"}}]
}"#;

/// Operations on what is one's own that name another's in a query or a body.
const REFERENCES: [(&str, &str, &str); 33] = [
    (
        "POST",
        "gateway/rules",
        r#"{"name": "x", "action": "off", "traffic": "any(http.conn.dst_ip[*] in ${list})"}"#,
    ),
    (
        "PUT",
        "gateway/rules/{own_rule}",
        r#"{"name": "x", "action": "off", "traffic": "any(http.conn.dst_ip[*] in ${list})"}"#,
    ),
    (
        "POST",
        "gateway/rules",
        r#"{"name": "x", "action": "resolve", "rule_settings": {"dns_resolvers": {"ipv4": [
            {"ip": "10.0.0.1", "vnet_id": "{network}", "route_through_private_network": true}]}}}"#,
    ),
    ("GET", "gateway/lists?filter=id:{list}", ""),
    ("GET", "gateway/rules?filter=id:{rule}", ""),
    ("POST", "teamnet/routes", r#"{"network": "10.97.0.0/16", "tunnel_id": "{tunnel}"}"#),
    (
        "POST",
        "teamnet/routes",
        r#"{"network": "10.97.0.0/16", "tunnel_id": "{own_tunnel}", "virtual_network_id": "{network}"}"#,
    ),
    ("POST", "teamnet/routes/network/10.97.0.0%2F16", r#"{"tunnel_id": "{tunnel}"}"#),
    (
        "POST",
        "teamnet/routes/network/10.97.0.0%2F16",
        r#"{"tunnel_id": "{own_tunnel}", "virtual_network_id": "{network}"}"#,
    ),
    ("PATCH", "teamnet/routes/{own_route}", r#"{"tunnel_id": "{tunnel}"}"#),
    ("PATCH", "teamnet/routes/{own_route}", r#"{"virtual_network_id": "{network}"}"#),
    ("PATCH", "teamnet/routes/network/10.0.0.0%2F8", r#"{"tunnel_id": "{tunnel}"}"#),
    ("GET", "teamnet/routes?tunnel_id={tunnel}", ""),
    ("GET", "teamnet/routes?route_id={route}", ""),
    ("GET", "teamnet/routes?virtual_network_id={network}", ""),
    ("GET", "teamnet/routes/ip/10.99.0.1", ""),
    ("GET", "teamnet/routes/ip/10.0.0.1?virtual_network_id={network}", ""),
    ("DELETE", "teamnet/routes/network/10.99.0.0%2F16?virtual_network_id={network}", ""),
    ("DELETE", "teamnet/routes/network/10.99.0.0%2F16?tunnel_id={tunnel}", ""),
    ("GET", "teamnet/virtual_networks?id={network}", ""),
    ("GET", "cfd_tunnel?uuid={tunnel}", ""),
    ("GET", "cfd_tunnel?name=of%20the%20other", ""),
    ("GET", "tunnels?uuid={tunnel}", ""),
    ("DELETE", "cfd_tunnel/{own_tunnel}/connections?client_id={connector}", ""),
    ("GET", "devices/registrations?id={registration}", ""),
    ("GET", "devices/registrations?device.id={device}", ""),
    ("POST", "devices/registrations/revoke?id={registration}", ""),
    ("POST", "devices/registrations/unrevoke?id={registration}", ""),
    ("DELETE", "devices/registrations?id={registration}", ""),
    ("POST", "devices/revoke", r#"["{registration}"]"#),
    ("POST", "devices/unrevoke", r#"["{device}"]"#),
    ("GET", "logs/audit?since=2020-01-01&before=2100-01-01&resource_id={tunnel}", ""),
    ("GET", "audit_logs?id={tunnel}", ""),
];

/// Everything that an account can list.
const LISTS: [&str; 11] = [
    "gateway/lists",
    "gateway/rules",
    "cfd_tunnel",
    "tunnels",
    "teamnet/routes",
    "teamnet/virtual_networks",
    "tokens",
    "access/service_tokens",
    "devices/registrations",
    "devices/physical-devices",
    "devices",
];

const METHODS: [Method; 5] = [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];

/// The ids of an account's objects, by kind.
type Ids = BTreeMap<&'static str, String>;

/// An account and one of everything in it.
struct Tenant {
    account: Other,
    ids: Ids,
    /// What must be seen by nobody else, beside the ids.
    private: Vec<String>,
}

impl Tenant {
    async fn furnish(api: &Api, account: Other, name: &str, network: &str) -> Self {
        let mut ids = Ids::from([("account", account.id.to_string())]);
        let mut private = vec![name.to_owned(), account.token.clone()];
        let post = async |path: &str, body: Value| account.send(api, Method::POST, path, body).await;
        let tunnel = post("cfd_tunnel", json!({ "name": name, "config_src": "cloudflare" })).await;
        ids.insert("tunnel", tunnel.text("/result/id"));
        private.push(tunnel.text("/result/token"));
        let connector = ConnectorId::from_uuid(uuid::Uuid::new_v4());
        api.connected(&ids["tunnel"], connector, 0).await;
        ids.insert("connector", connector.to_string());
        let made = post("teamnet/virtual_networks", json!({ "name": format!("network {name}") })).await;
        ids.insert("network", made.text("/result/id"));
        let route =
            json!({ "network": network, "tunnel_id": ids["tunnel"], "comment": format!("route {name}") });
        ids.insert("route", post("teamnet/routes", route).await.text("/result/id"));
        let list = json!({ "name": format!("list {name}"), "type": "IP", "items": [network] });
        ids.insert("list", post("gateway/lists", list).await.text("/result/id"));
        let traffic = format!("any(http.conn.dst_ip[*] in ${})", ids["list"]);
        let rule = json!({ "name": format!("rule {name}"), "action": "off", "traffic": traffic });
        ids.insert("rule", post("gateway/rules", rule).await.text("/result/id"));
        let service = post("access/service_tokens", json!({ "name": format!("service {name}") })).await;
        ids.insert("service", service.text("/result/id"));
        let secret = (service.text("/result/client_id"), service.text("/result/client_secret"));
        let enrolled = api.enroll(Some(&secret), Some(name.as_bytes()), device::LAPTOP).await;
        ids.insert("registration", enrolled.text("/registration_id"));
        ids.insert("device", enrolled.text("/device_id"));
        private.push(secret.1);
        ids.insert("token", account.send(api, Method::GET, "tokens", Value::Null).await.text("/result/0/id"));
        let hostname = format!("{}.example.com", name.replace(' ', "-"));
        let zone = format!("/client/v4/zones/{}", account.id);
        let body = json!({ "type": "dns", "user_hostname": hostname, "overwrite_existing": false });
        let path = format!("{zone}/tunnels/{}/routes", ids["tunnel"]);
        api.send_as(Some(&account.token), Method::PUT, &path, body.to_string()).await.result();
        let records = format!("{zone}/dns_records");
        let records = api.send_as(Some(&account.token), Method::GET, &records, String::new()).await;
        ids.insert("record", records.text("/result/0/id"));
        private.push(hostname);
        Self { account, ids, private }
    }

    /// All that it has, as it sees it.
    async fn view(&self, api: &Api) -> Vec<Value> {
        let mut view = Vec::new();
        for list in LISTS {
            let answer = self.account.send(api, Method::GET, list, Value::Null).await;
            view.push(answer.result().clone());
        }
        let records = format!("/client/v4/zones/{}/dns_records", self.account.id);
        let records = api.send_as(Some(&self.account.token), Method::GET, &records, String::new()).await;
        view.push(records.result().clone());
        let token = format!("cfd_tunnel/{}/token", self.ids["tunnel"]);
        view.push(self.account.send(api, Method::GET, &token, Value::Null).await.result().clone());
        view
    }
}

/// Ids of the same form that are nobody's.
fn nobodys(ids: &Ids) -> Ids {
    let random = |id: &String| {
        let fresh = uuid::Uuid::new_v4();
        if id.contains('-') { fresh.to_string() } else { fresh.simple().to_string() }
    };
    ids.iter().map(|(kind, id)| (*kind, random(id))).collect()
}

/// A template with these ids in it, and one's own where it says so.
fn filled(template: &str, ids: &Ids, own: &Ids) -> String {
    let mut text = template.to_owned();
    for (kind, id) in own {
        text = text.replace(&format!("{{own_{kind}}}"), id);
    }
    for (kind, id) in ids {
        text = text.replace(&format!("{{{kind}}}"), id);
    }
    text
}

/// An answer without what is each request's own: the ids that were sent, and times.
fn comparable(answer: &Answer, ids: &Ids) -> String {
    let mut text = answer.plain();
    for (kind, id) in ids {
        text = text.replace(id, kind);
    }
    text
}

#[tokio::test]
async fn nothing_of_another_account_is_seen_or_used_or_told_from_what_never_was() {
    let api = Api::new().await;
    let first = Other { id: api.control.account(), token: api.token.clone() };
    let own = Tenant::furnish(&api, first, "one of mine", "10.0.0.0/8").await;
    let other = Other::new(&api, "another").await;
    let other = Tenant::furnish(&api, other, "of the other", "10.99.0.0/16").await;
    let before = other.view(&api).await;

    let account = |rest: &str| format!("/client/v4/accounts/{}/{rest}", own.account.id);
    let zone = |rest: &str| format!("/client/v4/zones/{}/{rest}", own.account.id);
    let mut requests: Vec<(Method, String, &str)> = Vec::new();
    for method in METHODS {
        requests.extend(PATHS.map(|path| (method.clone(), account(path), BODY)));
        requests.extend(ZONE_PATHS.map(|path| (method.clone(), zone(path), BODY)));
    }
    requests.extend(REFERENCES.map(|(method, path, body)| (method.parse().unwrap(), account(path), body)));
    requests.push((Method::GET, zone("dns_records?content={tunnel}.cfargotunnel.com"), ""));
    requests.push((Method::GET, "/client/v4/zones?account.id={account}".into(), ""));
    requests.push((Method::GET, "/client/v4/accounts?name=another".into(), ""));
    requests.push((Method::GET, "/client/v4/user/tokens/{token}".into(), ""));
    requests.push((Method::DELETE, "/client/v4/user/tokens/{token}".into(), ""));
    for list in LISTS {
        requests.push((Method::GET, account(list), ""));
        requests.push((Method::GET, account(&format!("{list}?per_page=1&page=2")), ""));
    }
    let strangers = nobodys(&other.ids);
    for (method, path, body) in &requests {
        let ask = async |ids: &Ids| {
            let (path, body) = (filled(path, ids, &own.ids), filled(body, ids, &own.ids));
            api.send_as(Some(&own.account.token), method.clone(), &path, body).await
        };
        let (theirs, nobodys) = (ask(&other.ids).await, ask(&strangers).await);
        let (theirs_text, nobodys_text) = (comparable(&theirs, &other.ids), comparable(&nobodys, &strangers));
        assert_eq!(theirs_text, nobodys_text, "{method} {path} tells what there is elsewhere");
        let sent = filled(path, &other.ids, &own.ids) + &filled(body, &other.ids, &own.ids);
        let shown = theirs.body.to_string();
        let leaks = |text: &&String| shown.contains(text.as_str()) && !sent.contains(text.as_str());
        let leaked: Vec<&String> = other.private.iter().chain(other.ids.values()).filter(leaks).collect();
        assert!(leaked.is_empty(), "{method} {path} shows {leaked:?}: {shown}");
        assert_ne!(theirs.status, StatusCode::INTERNAL_SERVER_ERROR, "{method} {path}");
    }
    assert_eq!(other.view(&api).await, before, "and nothing of it has changed");
    // The same operations exist: with one's own ids none of the references is an unknown path.
    for (method, path, body) in REFERENCES {
        let (path, body) = (filled(path, &own.ids, &own.ids), filled(body, &own.ids, &own.ids));
        let answer =
            api.send_as(Some(&own.account.token), method.parse().unwrap(), &account(&path), body).await;
        assert_ne!(answer.body["errors"][0]["code"], 7003, "{method} {path}");
    }
}

#[tokio::test]
async fn another_accounts_paths_are_closed_as_those_of_none_are() {
    let api = Api::new().await;
    let other = Other::new(&api, "another").await;
    let other = Tenant::furnish(&api, other, "of the other", "10.99.0.0/16").await;
    let before = other.view(&api).await;
    let nowhere = Ids::from([("account", "0123456789abcdef0123456789abcdef".to_owned())]);
    let mut paths: Vec<String> = PATHS.map(|path| format!("accounts/{{account}}/{path}")).to_vec();
    paths.extend(LISTS.map(|path| format!("accounts/{{account}}/{path}")));
    paths.extend(ZONE_PATHS.map(|path| format!("zones/{{account}}/{path}")));
    paths.extend(["accounts/{account}", "zones/{account}", "zones/{account}/dns_records"].map(str::to_owned));
    paths.push("accounts/{account}/logs/audit?since=2020-01-01&before=2100-01-01".into());
    for path in &paths {
        for method in METHODS {
            let ask = async |ids: &Ids| {
                let path = format!("/client/v4/{}", filled(&filled(path, ids, ids), &other.ids, &other.ids));
                let body = filled(BODY, &other.ids, &other.ids);
                api.send_as(Some(&api.token), method.clone(), &path, body).await
            };
            let (theirs, nobodys) = (ask(&other.ids).await, ask(&nowhere).await);
            let same = comparable(&theirs, &other.ids) == comparable(&nobodys, &nowhere);
            assert!(same, "{method} {path}: {} and {}", theirs.body, nobodys.body);
            let (status, code, _) = theirs.refusal();
            let closed = [(403, 9109), (403, 10000), (404, 7003)].contains(&(status, code));
            assert!(closed, "{method} {path}: {}", theirs.body);
        }
    }
    assert_eq!(other.view(&api).await, before);
}

#[tokio::test]
async fn a_host_name_of_another_account_cannot_be_taken() {
    let api = Api::new().await;
    let other = Other::new(&api, "another").await;
    let other = Tenant::furnish(&api, other, "of the other", "10.99.0.0/16").await;
    let tunnel = api.tunnel("mine").await;
    let path = format!("/client/v4/zones/{}/tunnels/{tunnel}/routes", api.control.account());
    for name in ["of-the-other.example.com", "OF-the-Other.example.com.", "of-the-other.EXAMPLE.com"] {
        for overwrite in [true, false] {
            let body = json!({ "type": "dns", "user_hostname": name, "overwrite_existing": overwrite });
            let taken = api.send(Method::PUT, &path, Some(&body)).await;
            assert_eq!(taken.status, StatusCode::BAD_REQUEST, "{name} {}", taken.body);
        }
    }
    let snapshot = api.control.subscribe().await.unwrap().0.changes;
    let mut owners = Vec::new();
    for change in &snapshot {
        if let adit_model::Change::HostnamePut(put) = change {
            owners.push(put.account.to_string());
        }
    }
    assert_eq!(owners, [other.account.id.to_string()]);
}
