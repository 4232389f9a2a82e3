//! What one account has is, to another, as if it were not: not shown, not usable, and not told from what never was.
//!
//! Two accounts have one of everything. Every operation is asked by one of them with the other's ids, in the path, in the
//! body and in the query, and again with ids that are nobody's: both answers must be the same but for the ids themselves,
//! and nothing of the other account may stand in either. At the end the other account is as it was.

use std::collections::BTreeMap;

use super::accounts::Other;
use super::*;

/// A body for every path, which names all that a body can.
const BODY: &str = r#"{
    "name": "taken over", "network": "10.98.0.0/16", "tunnel_id": "{tunnel}", "virtual_network_id": "{virtual_network}",
    "comment": "taken over", "resources": ["logs"], "config": {"ingress": [{"service": "http_status:404"}]},
    "type": "dns", "user_hostname": "taken.example.com", "overwrite_existing": true, "duration": "24h",
    "action": "off", "traffic": "any(http.conn.dst_ip[*] in ${list})", "append": ["10.96.0.1"],
    "policies": [{"effect": "allow", "permission_groups": [{"id": "ad170000000000000000000000000101"}],
                  "resources": {"com.cloudflare.api.account.{account}": "*"}}]
}"#;

/// Bodies on what is one's own that name another's.
const REFERENCES: [(&str, &str, &str); 21] = [
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
            {"ip": "10.0.0.1", "vnet_id": "{virtual_network}", "route_through_private_network": true}]}}}"#,
    ),
    ("POST", "zerotrust/routes/hostname", r#"{"hostname": "mine.corp.internal", "tunnel_id": "{tunnel}"}"#),
    ("PATCH", "zerotrust/routes/hostname/{own_hostname_route}", r#"{"tunnel_id": "{tunnel}"}"#),
    ("POST", "x/gateway/origin_roots", ORIGIN_ROOT),
    ("PUT", "x/gateway/origin_roots/{own_origin_root}", ORIGIN_ROOT),
    ("PATCH", "gateway/configuration", r#"{"settings": {"certificate": {"id": "{certificate}"}}}"#),
    (
        "PUT",
        "gateway/configuration",
        r#"{"settings": {"custom_certificate": {"enabled": true, "id": "{certificate}"}}}"#,
    ),
    ("POST", "teamnet/routes", r#"{"network": "10.97.0.0/16", "tunnel_id": "{tunnel}"}"#),
    (
        "POST",
        "teamnet/routes",
        r#"{"network": "10.97.0.0/16", "tunnel_id": "{own_tunnel}", "virtual_network_id": "{virtual_network}"}"#,
    ),
    ("POST", "teamnet/routes/network/10.97.0.0%2F16", r#"{"tunnel_id": "{tunnel}"}"#),
    (
        "POST",
        "teamnet/routes/network/10.97.0.0%2F16",
        r#"{"tunnel_id": "{own_tunnel}", "virtual_network_id": "{virtual_network}"}"#,
    ),
    ("PATCH", "teamnet/routes/{own_route}", r#"{"tunnel_id": "{tunnel}"}"#),
    ("PATCH", "teamnet/routes/{own_route}", r#"{"virtual_network_id": "{virtual_network}"}"#),
    ("PATCH", "teamnet/routes/network/10.0.0.0%2F8", r#"{"tunnel_id": "{tunnel}"}"#),
    ("POST", "x/policy/plan", r#"{"operations": [], "since": "2026-01-01T00:00:00Z"}"#),
    ("POST", "x/explain", r#"{"device_id": "{device}", "destination_ip": "10.99.0.1", "dial": false}"#),
    ("POST", "x/batch", r#"{"generation": "none", "operations": []}"#),
    ("POST", "devices/revoke", r#"["{registration}"]"#),
    ("POST", "devices/unrevoke", r#"["{device}"]"#),
];

/// An authority of origins that is limited to a virtual network of another's.
const ORIGIN_ROOT: &str =
    r#"{"name": "x", "certificate": "{authority}", "virtual_networks": ["{virtual_network}"]}"#;

/// An operation of the API's document, with what its path and its query may name.
struct Row {
    method: Method,
    path: String,
    query: Vec<(String, Value)>,
    body: Value,
    list: bool,
}

/// Every operation.
fn table() -> Vec<Row> {
    let mut rows = Vec::new();
    for (path, methods) in api::document()["paths"].as_object().unwrap() {
        for (method, row) in methods.as_object().unwrap() {
            let parameters = row["parameters"].as_array().unwrap().iter();
            let query = parameters.filter(|parameter| parameter["in"] == "query");
            let query = query.map(|one| (one["name"].as_str().unwrap().to_owned(), one["schema"].clone()));
            let success = &row["responses"]["200"]["content"]["application/json"]["schema"];
            rows.push(Row {
                method: method.to_uppercase().parse().unwrap(),
                path: format!("/client/v4{path}"),
                query: query.collect(),
                body: row["requestBody"].clone(),
                list: success["properties"].get("result_info").is_some(),
            });
        }
    }
    rows
}

impl Row {
    /// The names of its path's parameters that stand for objects.
    fn ids(&self) -> Vec<&str> {
        let names = self.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
        let ids: Vec<&str> = names.filter(|name| !OTHERS.contains(name)).collect();
        for id in &ids {
            assert!(KINDS.contains(id), "{}: give Tenant a {id}, so that its isolation is tested", self.path);
        }
        ids
    }

    /// Its path with another's ids in the places of one's own account, and with one's own but for one of them; then these
    /// with all that its query may name of another's.
    fn requests(&self) -> Vec<String> {
        let ids = self.ids();
        let owned = |path: &str, ids: &[&str]| {
            let own = |path: String, id: &&str| path.replace(&format!("{{{id}}}"), &format!("{{own_{id}}}"));
            ids.iter().fold(path.to_owned(), own)
        };
        let path = fixed(&self.path.replace("{account}", "{own_account}").replace("{zone}", "{own_account}"));
        let mut paths = vec![path.clone()];
        if ids.len() > 1 {
            for foreign in &ids {
                let others: Vec<&str> = ids.iter().copied().filter(|id| id != foreign).collect();
                paths.push(owned(&path, &others));
            }
        }
        let queries = self
            .query
            .iter()
            .filter_map(|(name, schema)| Some(format!("{name}={}", asked(&self.path, name, schema)?)));
        let queries: Vec<String> = queries.collect();
        let asked = |path: &str, queries: &mut dyn Iterator<Item = &String>| {
            queries.map(|query| format!("{path}?{query}")).collect::<Vec<_>>()
        };
        let mut all: Vec<String> = paths.iter().flat_map(|path| asked(path, &mut queries.iter())).collect();
        let own = owned(&path, &ids);
        all.extend(asked(&own, &mut queries.iter().filter(|query| query.contains('{'))));
        // What changes something and names nothing of another's is one's own affair.
        if self.method == Method::GET || paths.iter().any(|path| names_foreign(path)) {
            all.extend(paths);
        }
        all
    }
}

fn names_foreign(path: &str) -> bool {
    path.replace("{own_", "").contains('{') || path.contains("10.99.0.0")
}

/// Parameters of paths that stand for no object.
const OTHERS: [&str; 8] = ["account", "zone", "network", "length", "ip", "resource", "role", "dataset"];

/// A path with what is the other's in the place of these.
fn fixed(path: &str) -> String {
    let path = path.replace("{network}/{length}", "10.99.0.0/16").replace("{network}", "10.99.0.0%2F16");
    let path = path.replace("{ip}", "10.99.0.1").replace("{resource}", "logs");
    let path = path.replace("{role}", "ad17000000000000000000000000a001");
    let path = path.replace("{dataset}", "gateway_network");
    path.replace("/devices/{id}", "/devices/{registration}")
}

/// What of another's a parameter of a query is asked for; none if it can name nothing of another's.
fn asked(path: &str, name: &str, schema: &Value) -> Option<&'static str> {
    let kind = |kind: &str| schema.to_string().contains(kind);
    Some(match name {
        "uuid" | "tunnel_id" => "{tunnel}",
        "route_id" => "{route}",
        "virtual_network_id" => "{virtual_network}",
        "client_id" => "{connector}",
        "device.id" | "device_id" => "{device}",
        "policy_id" => "{rule}",
        "session_id" => "{session}",
        "destination_ip" => "10.99.0.1",
        "action" => "block",
        "user.id" => "{service_token}",
        "id" if path.contains("routes/hostname") => "{hostname_route}",
        "hostname" => "of-the-other.corp.internal",
        "id" if path.contains("virtual_networks") => "{virtual_network}",
        "id" if path.contains("registrations") => "{registration}",
        "account.id" => "{account}",
        "content" => "{tunnel}.cfargotunnel.com",
        "name" | "search" | "name_prefix" | "include_prefix" => "of%20the%20other",
        "filter" => "id:{list}",
        "comment" => "route%20of%20the%20other",
        "network_subset" | "network_superset" => "10.99.0.0%2F16",
        "since" => "2020-01-01&before=2100-01-01&resource_id={tunnel}",
        "before" => "2100-01-01&since=2020-01-01&id={tunnel}",
        "per_page" => "1&page=2",
        _ if kind("boolean") => "true",
        _ => {
            assert!(
                !kind("uuid"),
                "{path}: what of another's may {name} name? Its isolation is to be tested"
            );
            return None;
        }
    })
}

/// An operation of a batch that does what this call does.
fn batch_of(method: &Method, path: &str) -> String {
    let path = path.trim_start_matches("/client/v4");
    format!(r#"{{"operations": [{{"method": "{method}", "path": "{path}", "body": {BODY}}}]}}"#)
}

const METHODS: [Method; 5] = [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];

/// What a tenant has one of.
const KINDS: [&str; 19] = [
    "tunnel",
    "site_tunnel",
    "connector",
    "virtual_network",
    "route",
    "hostname_route",
    "list",
    "rule",
    "location",
    "certificate",
    "origin_root",
    "service_token",
    "registration",
    "device",
    "token",
    "record",
    "member",
    "audit",
    // Of a registration, in older paths.
    "id",
];

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
        let site = post("warp_connector", json!({ "name": format!("site {name}") })).await;
        ids.insert("site_tunnel", site.text("/result/id"));
        private.push(site.text("/result/token"));
        let made = post("teamnet/virtual_networks", json!({ "name": format!("network {name}") })).await;
        ids.insert("virtual_network", made.text("/result/id"));
        let route =
            json!({ "network": network, "tunnel_id": ids["tunnel"], "comment": format!("route {name}") });
        ids.insert("route", post("teamnet/routes", route).await.text("/result/id"));
        let names = json!({
            "hostname": format!("{}.corp.internal", name.replace(' ', "-")),
            "tunnel_id": ids["tunnel"],
            "comment": format!("names {name}"),
        });
        ids.insert("hostname_route", post("zerotrust/routes/hostname", names).await.text("/result/id"));
        let list = json!({ "name": format!("list {name}"), "type": "IP", "items": [network] });
        ids.insert("list", post("gateway/lists", list).await.text("/result/id"));
        let traffic = format!("any(http.conn.dst_ip[*] in ${})", ids["list"]);
        let rule = json!({ "name": format!("rule {name}"), "action": "off", "traffic": traffic });
        ids.insert("rule", post("gateway/rules", rule).await.text("/result/id"));
        let location = json!({ "name": format!("location {name}"), "networks": [{ "network": network }] });
        let location = post("gateway/locations", location).await;
        ids.insert("location", location.text("/result/id"));
        private.push(location.text("/result/doh_subdomain"));
        let certificate = post("gateway/certificates", json!({})).await;
        ids.insert("certificate", certificate.text("/result/id"));
        let root = json!({
            "name": format!("root {name}"), "certificate": gateway::own_authority().0,
            "virtual_networks": [ids["virtual_network"]],
        });
        ids.insert("origin_root", post("x/gateway/origin_roots", root).await.text("/result/id"));
        let service = post("access/service_tokens", json!({ "name": format!("service {name}") })).await;
        ids.insert("service_token", service.text("/result/id"));
        let member = json!({
            "email": format!("{}@example.com", name.replace(' ', ".")),
            "roles": ["ad17000000000000000000000000a001"],
        });
        private.push(member["email"].as_str().unwrap().to_owned());
        ids.insert("member", post("members", member).await.text("/result/id"));
        let record = "logs/audit?since=2020-01-01&before=2100-01-01";
        let record = account.send(api, Method::GET, record, Value::Null).await;
        ids.insert("audit", record.text("/result/0/id"));
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
        let (log, session) = logs::blocked(&account.id.to_string(), &ids, network);
        api.control.store().records().add(&[log]).await.unwrap();
        private.push(session.clone());
        ids.insert("session", session);
        Self { account, ids, private }
    }

    /// All that it has, as it sees it: every list but its records of what was done, which tell that someone was refused.
    async fn view(&self, api: &Api) -> Vec<Value> {
        let mut view = Vec::new();
        for row in table().iter().filter(|row| row.list && !row.path.contains("audit")) {
            let path = filled(&fixed(&row.path.replace("{zone}", "{account}")), &self.ids, &self.ids);
            let answer = api.send_as(Some(&self.account.token), Method::GET, &path, String::new()).await;
            view.push(answer.result().clone());
        }
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
    let mut requests: Vec<(Method, String, String)> = Vec::new();
    for row in table() {
        let named =
            REFERENCES.iter().any(|(_, path, _)| account(path) == filled(&row.path, &own.ids, &own.ids));
        let names =
            row.body.to_string().contains("uuid") && row.ids().is_empty() && !row.path.contains("{network}");
        assert!(named || !names, "{} {}: its body names objects: add it to REFERENCES", row.method, row.path);
        let body = if row.method == Method::GET { "" } else { BODY };
        for path in row.requests() {
            // A batch does what a call alone does, and no more.
            if row.method != Method::GET && !path.contains('?') && path.contains("{own_account}") {
                requests.push((Method::POST, account("x/batch"), batch_of(&row.method, &path)));
            }
            requests.push((row.method.clone(), path, body.into()));
        }
    }
    requests.push((Method::GET, account("devices/{device}"), String::new()));
    let authority = gateway::own_authority().0.replace('\n', "\\n");
    for (method, path, body) in REFERENCES {
        requests.push((method.parse().unwrap(), account(path), body.replace("{authority}", &authority)));
    }
    assert!(requests.len() > 150, "only {} requests", requests.len());
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
    for row in table().iter().filter(|row| row.path.contains("{account}") || row.path.contains("{zone}")) {
        let path = fixed(&row.path.replace("{zone}", "{account}")) + "?since=2020-01-01&before=2100-01-01";
        for method in METHODS {
            let ask = async |ids: &Ids| {
                let path = filled(&filled(&path, ids, ids), &other.ids, &other.ids);
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
