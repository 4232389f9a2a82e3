//! What Terraform's providers call, replayed call by call (contract D, 14.1 and 14.2): 2022's and today's.
//!
//! What holds after each step is what makes a second plan empty: every field that was sent comes back as it was sent, text for
//! text, from each of the calls by which a provider reads.

use super::*;

/// The user agents of the two generations, as far as a server sees a difference.
const AGENT_2022: &str = "terraform/1.3.9 terraform-plugin-sdk/2.10.1 terraform-provider-cloudflare/3.35.0";
const AGENT_TODAY: &str = "terraform-provider-cloudflare/5.12.0 terraform-plugin-framework/1.15.0";
const SECRET: &str = "AQIDBAUGBwgBAgMEBQYHCAECAwQFBgcIAQIDBAUGBwg=";

/// A provider that applies one configuration.
struct Provider<'a> {
    api: &'a Api,
    agent: &'static str,
}

impl Provider<'_> {
    /// A call as the provider makes it; its result.
    async fn call(&self, method: Method, path: &str, body: Option<Value>) -> Value {
        self.answer(method, path, body).await.result().clone()
    }

    async fn answer(&self, method: Method, path: &str, body: Option<Value>) -> Answer {
        let request = Request::builder()
            .method(method)
            .uri(self.api.path(path))
            .header("authorization", format!("Bearer {}", self.api.token))
            .header("content-type", "application/json")
            .header("accept", "application/json;version=1")
            .header("user-agent", self.agent);
        let body = body.map_or_else(String::new, |body| body.to_string());
        let answer = self.api.request(request.body(body.into()).unwrap()).await;
        assert_eq!(answer.headers["content-type"], "application/json");
        assert_eq!(answer.body["messages"], json!([]));
        answer
    }

    async fn get(&self, path: &str) -> Value {
        self.call(Method::GET, path, None).await
    }
}

/// Every field of `sent` stands in `read` as it was sent.
#[track_caller]
fn same(sent: &Value, read: &Value) {
    for (field, value) in sent.as_object().unwrap() {
        assert_eq!(read[field], *value, "{field} of {read}");
    }
}

/// A text field of an object.
#[track_caller]
fn text(object: &Value, field: &str) -> String {
    object[field].as_str().unwrap_or_else(|| panic!("{field} of {object}")).to_owned()
}

/// A network as a query and as a path carry it, escaped by Go's rules.
fn escaped(network: &str) -> (String, String) {
    (network.replace('/', "%2F").replace(':', "%3A"), network.replace('/', "%2F"))
}

const NETWORKS: [&str; 5] =
    ["198.51.100.101/32", "10.0.0.0/8", "2001:db8::101/128", "2001:DB8:0:1::/64", "0.0.0.0/1"];

#[tokio::test]
async fn the_2022_provider_applies_and_plans_nothing_more() {
    let api = Api::new().await;
    let provider = Provider { api: &api, agent: AGENT_2022 };
    let sent = json!({ "name": "api-zt", "tunnel_secret": SECRET });
    let tunnel = text(&provider.call(Method::POST, "cfd_tunnel", Some(sent)).await, "id");
    tunnel_2022_is_unchanged(&provider, &tunnel).await;

    for network in NETWORKS {
        let (query, path) = escaped(network);
        let one = format!("teamnet/routes/network/{path}");
        let sent = json!({ "tunnel_id": tunnel, "comment": "Kubernetes API, \"prod\" – ü" });
        let made = provider.call(Method::POST, &one, Some(sent.clone())).await;
        same(&sent, &made);
        let read = async |sent: &Value| {
            let list = "teamnet/routes?is_deleted=false";
            let list = format!("{list}&network_subset={query}&network_superset={query}");
            let found = provider.get(&list).await;
            same(sent, &found[0]);
            assert_eq!(found[0]["network"], network, "as it was written");
            assert_eq!(found.as_array().unwrap().len(), 1);
            text(&found[0], "id")
        };
        let id = read(&sent).await;
        let changed = json!({ "network": network, "tunnel_id": tunnel, "comment": "changed" });
        same(&changed, &provider.call(Method::PATCH, &one, Some(changed.clone())).await);
        assert_eq!(read(&changed).await, id, "a change keeps the route");
        let emptied = json!({ "network": network, "tunnel_id": tunnel, "comment": "" });
        provider.call(Method::PATCH, &one, Some(emptied.clone())).await;
        read(&emptied).await;
    }
    tunnel_2022_is_unchanged(&provider, &tunnel).await;

    for network in NETWORKS {
        let (_, path) = escaped(network);
        let gone =
            provider.call(Method::DELETE, &format!("teamnet/routes/network/{path}"), Some(json!({}))).await;
        assert_eq!((&gone["network"], &gone["tunnel_id"]), (&json!(network), &json!(tunnel)));
    }
    let connections = format!("cfd_tunnel/{tunnel}/connections");
    provider.call(Method::DELETE, &connections, Some(json!({}))).await;
    provider.call(Method::DELETE, &format!("cfd_tunnel/{tunnel}"), Some(json!({}))).await;
}

/// What a refresh reads of a tunnel: the object, and the token, which the provider keeps.
async fn tunnel_2022_is_unchanged(provider: &Provider<'_>, tunnel: &str) {
    same(&json!({ "id": tunnel, "name": "api-zt" }), &provider.get(&format!("cfd_tunnel/{tunnel}")).await);
    let token = provider.get(&format!("cfd_tunnel/{tunnel}/token")).await;
    let token = base64::Engine::decode(
        &base64::engine::general_purpose::STANDARD,
        token.as_str().expect("the token is a text"),
    );
    let token: Value = serde_json::from_slice(&token.unwrap()).unwrap();
    assert_eq!(token, json!({ "a": provider.api.control.account().to_string(), "t": tunnel, "s": SECRET }));
}

#[tokio::test]
async fn todays_provider_applies_and_plans_nothing_more() {
    let api = Api::new().await;
    let provider = Provider { api: &api, agent: AGENT_TODAY };
    for source in ["local", "cloudflare"] {
        let name = format!("api-{source}");
        let sent = json!({ "name": name, "tunnel_secret": SECRET, "config_src": source });
        let made = provider.call(Method::POST, "cfd_tunnel", Some(sent)).await;
        let path = format!("cfd_tunnel/{}", text(&made, "id"));
        let expected = json!({
            "id": made["id"], "account_tag": made["account_tag"], "name": name, "config_src": source,
            "created_at": made["created_at"], "deleted_at": null, "remote_config": source == "cloudflare",
        });
        same(&expected, &provider.get(&path).await);
        let renamed = format!("{name}-renamed");
        let patched = provider.call(Method::PATCH, &path, Some(json!({ "name": renamed }))).await;
        assert_eq!(patched["name"], renamed);
        let again = json!({ "name": renamed, "config_src": source, "created_at": made["created_at"] });
        same(&again, &provider.get(&path).await);

        for network in NETWORKS {
            routes_today(&provider, &text(&made, "id"), network).await;
        }
        provider.call(Method::DELETE, &path, None).await;
        assert!(provider.get(&path).await["deleted_at"].is_string());
    }
}

async fn routes_today(provider: &Provider<'_>, tunnel: &str, network: &str) {
    let sent = json!({ "network": network, "tunnel_id": tunnel, "comment": "first" });
    let made = provider.call(Method::POST, "teamnet/routes", Some(sent.clone())).await;
    same(&sent, &made);
    let path = format!("teamnet/routes/{}", text(&made, "id"));
    same(&sent, &provider.get(&path).await);
    // Only what has changed is sent; the rest stays.
    provider.call(Method::PATCH, &path, Some(json!({ "comment": "second" }))).await;
    let read = provider.get(&path).await;
    same(&json!({ "network": network, "tunnel_id": tunnel, "comment": "second", "id": made["id"] }), &read);
    assert_eq!(read["virtual_network_id"], made["virtual_network_id"]);
    assert_eq!(read["created_at"], made["created_at"]);
    // A state of the older provider holds a checksum for an id: the route is looked for by its network.
    let (query, _) = escaped(network);
    let list =
        format!("teamnet/routes?is_deleted=false&network_subset={query}&network_superset={query}&page=1");
    assert_eq!(provider.get(&list).await[0]["id"], made["id"]);
    provider.call(Method::DELETE, &path, None).await;
    provider.answer(Method::GET, &path, None).await.refused(404, 1003, "Route not found");
}

#[tokio::test]
async fn a_virtual_network_comes_back_to_either_provider() {
    let api = Api::new().await;
    for (agent, flag) in [(AGENT_2022, "is_default"), (AGENT_TODAY, "is_default_network")] {
        let provider = Provider { api: &api, agent };
        let name = format!("lab {flag}");
        let sent = json!({ "name": name, "comment": "a – b", flag: false });
        let made = provider.call(Method::POST, "teamnet/virtual_networks", Some(sent)).await;
        let path = format!("teamnet/virtual_networks/{}", text(&made, "id"));
        let expected = json!({ "name": name, "comment": "a – b", "is_default_network": false });
        same(&expected, &provider.get(&path).await);
        let list = format!("teamnet/virtual_networks?is_deleted=false&id={}", text(&made, "id"));
        same(&expected, &provider.get(&list).await[0]);
        let changed = json!({ "name": name, "comment": "", flag: false });
        provider.call(Method::PATCH, &path, Some(changed)).await;
        same(&json!({ "name": name, "comment": "" }), &provider.get(&path).await);
        provider.call(Method::DELETE, &path, None).await;
    }
}

#[tokio::test]
async fn a_tunnels_configuration_comes_back_as_it_was_sent() {
    let api = Api::new().await;
    for agent in [AGENT_2022, AGENT_TODAY] {
        let provider = Provider { api: &api, agent };
        let sent = json!({ "name": agent.len().to_string(), "config_src": "cloudflare" });
        let tunnel = text(&provider.call(Method::POST, "cfd_tunnel", Some(sent)).await, "id");
        let path = format!("cfd_tunnel/{tunnel}/configurations");
        for config in [
            json!({ "ingress": [{ "service": "http_status:404" }] }),
            json!({
                "ingress": [
                    {
                        "hostname": "App.example.com", "path": "/api/.*", "service": "https://10.0.0.1:8443",
                        "originRequest": { "connectTimeout": 7, "noTLSVerify": false, "httpHostHeader": "" },
                    },
                    { "hostname": "*.example.com", "service": "unix:/run/app.sock" },
                    { "service": "http_status:503" },
                ],
                "originRequest": { "keepAliveTimeout": 90, "access": { "required": false, "audTag": [] } },
                "warp-routing": { "enabled": true },
            }),
        ] {
            let stored = provider.call(Method::PUT, &path, Some(json!({ "config": config }))).await;
            assert_eq!(stored["config"], config);
            let read = provider.get(&path).await;
            same(&json!({ "config": config, "tunnel_id": tunnel, "source": "cloudflare" }), &read);
            assert_eq!(read["version"], stored["version"], "to read is not to change");
        }
    }
}

#[tokio::test]
async fn a_service_token_comes_back_without_its_secret_and_keeps_its_end() {
    let api = Api::new().await;
    for agent in [AGENT_2022, AGENT_TODAY] {
        let provider = Provider { api: &api, agent };
        for duration in ["8760h", "17520h", "forever", "24h"] {
            let sent = json!({ "name": format!("ci {duration}"), "duration": duration });
            let made = provider.call(Method::POST, "access/service_tokens", Some(sent.clone())).await;
            assert_eq!(text(&made, "client_secret").len(), 64);
            same(&sent, &made);
            let path = format!("access/service_tokens/{}", text(&made, "id"));
            let expected = json!({
                "id": made["id"], "name": sent["name"], "duration": duration, "client_id": made["client_id"],
                "expires_at": made["expires_at"],
            });
            same(&expected, &provider.get(&path).await);
            // 2022's finds it in the list.
            let listed = provider.get("access/service_tokens").await;
            let listed = listed.as_array().unwrap().iter().find(|token| token["id"] == made["id"]).unwrap();
            same(&expected, listed);
            let renamed = json!({ "name": "renamed", "duration": duration });
            provider.call(Method::PUT, &path, Some(renamed.clone())).await;
            let read = provider.get(&path).await;
            same(&renamed, &read);
            assert_eq!(read["expires_at"], made["expires_at"]);
            provider.call(Method::DELETE, &path, None).await;
        }
    }
}

/// The traffic of a rule, as the reference configuration makes it of a list's id.
fn traffic_of(list: &str) -> String {
    format!("any(http.conn.dst_ip[*] in ${})", list.replace('-', ""))
}

#[tokio::test]
async fn the_2022_provider_applies_a_list_and_a_rule_and_plans_nothing_more() {
    let api = Api::new().await;
    let provider = Provider { api: &api, agent: AGENT_2022 };
    let values = ["198.51.100.101/32", "2001:DB8::101/128"];
    let items: Vec<Value> = values.iter().map(|value| json!({ "value": value })).collect();
    let sent = json!({ "name": "Kubernetes API IPs", "type": "IP", "items": items });
    let list = text(&provider.call(Method::POST, "gateway/lists", Some(sent)).await, "id");
    let path = format!("gateway/lists/{list}");
    let read = async |wanted: &[&str]| {
        same(&json!({ "id": list, "name": "Kubernetes API IPs", "type": "IP" }), &provider.get(&path).await);
        let items = provider.get(&format!("{path}/items")).await;
        let values: Vec<&str> =
            items.as_array().unwrap().iter().map(|item| item["value"].as_str().unwrap()).collect();
        let (mut values, mut wanted) = (values, wanted.to_vec());
        values.sort_unstable();
        wanted.sort_unstable();
        assert_eq!(values, wanted);
    };
    read(&values).await;

    // Every key of the older client's struct, with its zero.
    let settings = json!({
        "block_page_enabled": false, "block_reason": "", "override_ips": null, "override_host": "",
        "l4override": null, "biso_admin_controls": null, "check_session": null, "add_headers": null,
        "insecure_disable_dnssec_validation": false,
    });
    let sent = json!({
        "id": "", "created_at": null, "updated_at": null, "deleted_at": null, "version": 0,
        "name": "Don't inspect Kubernetes API", "description": "Allow connections from kubectl to API",
        "precedence": 10_000_123, "enabled": true, "action": "off", "filters": ["http"],
        "traffic": traffic_of(&list), "identity": "", "device_posture": "", "rule_settings": settings,
    });
    let kept = |sent: &Value| {
        let mut kept = sent.clone();
        for computed in ["id", "created_at", "updated_at", "deleted_at", "version", "rule_settings"] {
            kept.as_object_mut().unwrap().remove(computed);
        }
        kept
    };
    let made = provider.call(Method::POST, "gateway/rules", Some(sent.clone())).await;
    let rule = format!("gateway/rules/{}", text(&made, "id"));
    for read in [made, provider.get(&rule).await, provider.get("gateway/rules").await[0].clone()] {
        same(&kept(&sent), &read);
        same(&json!({ "rule_settings": null, "version": 1, "deleted_at": null }), &read);
    }
    // A list item changes: the list without items, then the items.
    let renamed = json!({ "id": list, "name": "Kubernetes API IPs", "type": "IP" });
    provider.call(Method::PUT, &path, Some(renamed)).await;
    read(&values).await;
    let patch = json!({ "id": list, "append": [{ "value": "198.51.100.102/32" }], "remove": [values[1]] });
    provider.call(Method::PATCH, &path, Some(patch)).await;
    read(&[values[0], "198.51.100.102/32"]).await;
    same(&kept(&sent), &provider.get(&rule).await);

    provider.call(Method::DELETE, &rule, Some(json!({}))).await;
    provider.answer(Method::GET, &rule, None).await.refused(404, 2080, "invalid rule id");
    provider.call(Method::DELETE, &path, Some(json!({}))).await;
}

#[tokio::test]
async fn todays_provider_applies_a_list_and_a_rule_and_plans_nothing_more() {
    let api = Api::new().await;
    let provider = Provider { api: &api, agent: AGENT_TODAY };
    let sent = json!({
        "name": "Kubernetes API IPs", "type": "IP", "description": "of the API",
        "items": [{ "value": "198.51.100.101/32", "description": "v4" }, { "value": "2001:DB8::101/128" }],
    });
    let made = provider.call(Method::POST, "gateway/lists", Some(sent.clone())).await;
    let path = format!("gateway/lists/{}", text(&made, "id"));
    let read = provider.get(&path).await;
    same(&json!({ "name": sent["name"], "type": "IP", "description": "of the API", "count": 2 }), &read);
    let value_of = |item: &Value| (item["value"].clone(), item["description"].clone());
    let mut items: Vec<_> = read["items"].as_array().unwrap().iter().map(value_of).collect();
    items.sort_by_key(|(value, _)| value.to_string());
    assert_eq!(items, [(json!("198.51.100.101/32"), json!("v4")), (json!("2001:DB8::101/128"), Value::Null)]);
    // A list without items comes back without them, and one with none with none.
    let bare = provider.call(Method::POST, "gateway/lists", Some(json!({ "name": "b", "type": "IP" }))).await;
    assert!(provider.get(&format!("gateway/lists/{}", text(&bare, "id"))).await["items"].is_null());
    let none = json!({ "name": "e", "type": "IP", "items": [] });
    let none = provider.call(Method::POST, "gateway/lists", Some(none)).await;
    assert_eq!(provider.get(&format!("gateway/lists/{}", text(&none, "id"))).await["items"], json!([]));

    for (number, rule) in [
        json!({ "action": "off", "filters": ["http"], "traffic": traffic_of(&text(&made, "id")) }),
        json!({ "action": "block", "filters": ["l4"], "traffic": "net.dst.port == 22" }),
        json!({ "action": "allow", "filters": ["http"], "rule_settings": { "check_session": { "enforce": true, "duration": "1h0m0s" } } }),
        json!({ "action": "block", "filters": ["dns"], "rule_settings": { "block_page_enabled": true, "block_reason": "no" } }),
    ]
    .into_iter()
    .enumerate()
    {
        let mut sent = rule;
        sent["name"] = format!("rule {number}").into();
        sent["enabled"] = true.into();
        sent["precedence"] = (10_000 + number).into();
        let made = provider.call(Method::POST, "gateway/rules", Some(sent.clone())).await;
        let path = format!("gateway/rules/{}", text(&made, "id"));
        same(&sent, &provider.get(&path).await);
        sent["description"] = "changed".into();
        provider.call(Method::PUT, &path, Some(sent.clone())).await;
        let read = provider.get(&path).await;
        same(&sent, &read);
        assert_eq!(read["version"], 2);
        provider.call(Method::DELETE, &path, None).await;
        provider.answer(Method::GET, &path, None).await.refused(404, 2080, "rule not found");
    }
    provider.call(Method::DELETE, &path, None).await;
    provider.answer(Method::GET, &path, None).await.refused(404, 2050, "list not found");
}
