//! Each generation makes the calls of its time, in their order (contract D, 14.1 and 14.2).

use serde_json::{Value as Json, json};

use crate::api::{ACCOUNT, Site};
use crate::engine::{Change, Engine};

const SECRET: &str = "AQIDBAUGBwgBAgMEBQYHCAECAwQFBgcIAQIDBAUGBwg=";

async fn started() -> (Site, Engine) {
    let site = Site::recording().await;
    let engine = Engine::new(&site.base_url, &site.token).await;
    (site, engine)
}

/// A configuration in the account.
fn of(mut config: Json) -> Json {
    config["account_id"] = ACCOUNT.into();
    config
}

/// Applies a configuration: what it did, and the calls, those of the empty plan after it left out.
async fn calls(site: &Site, engine: &mut Engine, name: &str, kind: &str, config: &Json) -> (Change, String) {
    let _ = engine.planned(name, kind, config).await;
    site.asked();
    let refresh = {
        engine.refresh(name).await;
        site.asked()
    };
    let change = engine.try_apply(name, kind, config).await.unwrap();
    let asked = site.asked();
    let (again, how) = engine.planned(name, kind, config).await;
    assert_eq!(again, Change::None, "{how}");
    site.asked();
    (change, asked.strip_prefix(&refresh).unwrap().to_owned())
}

#[tokio::test]
async fn the_tunnel_of_2022_is_made_read_and_deleted_as_then() {
    let (site, mut engine) = started().await;
    let config = of(json!({"name": "k8s_zero_trust_tunnel", "secret": SECRET}));
    let (change, asked) = calls(&site, &mut engine, "t", "cloudflare_argo_tunnel", &config).await;
    assert_eq!(change, Change::Create);
    assert_eq!(
        asked,
        format!(
            "POST cfd_tunnel {{\"name\":\"k8s_zero_trust_tunnel\",\"tunnel_secret\":\"{SECRET}\"}}\n\
             GET cfd_tunnel/00000000-0000-4000-8000-000000000001\n\
             GET cfd_tunnel/00000000-0000-4000-8000-000000000001/token\n"
        )
    );
    assert_eq!(engine.state("t")["cname"], "00000000-0000-4000-8000-000000000001.cfargotunnel.com");
    engine.refresh("t").await;
    assert_eq!(
        site.asked(),
        "GET cfd_tunnel/00000000-0000-4000-8000-000000000001\n\
         GET cfd_tunnel/00000000-0000-4000-8000-000000000001/token\n"
    );
    engine.destroy("t").await;
    assert_eq!(
        site.asked(),
        "DELETE cfd_tunnel/00000000-0000-4000-8000-000000000001/connections\n\
         DELETE cfd_tunnel/00000000-0000-4000-8000-000000000001\n"
    );
}

#[tokio::test]
async fn the_route_of_2022_is_known_by_its_network() {
    let (site, mut engine) = started().await;
    let mut config = of(json!({"tunnel_id": "t", "network": "2001:DB8::101/128", "comment": "API"}));
    let find = "GET teamnet/routes?is_deleted=false&network_subset=2001%3ADB8%3A%3A101%2F128\
                &network_superset=2001%3ADB8%3A%3A101%2F128\n";
    let (_, asked) = calls(&site, &mut engine, "r", "cloudflare_tunnel_route", &config).await;
    let escaped = "teamnet/routes/network/2001%3ADB8%3A%3A101%2F128";
    assert_eq!(asked, format!("POST {escaped} {{\"comment\":\"API\",\"tunnel_id\":\"t\"}}\n{find}"));
    config["comment"] = "other".into();
    let (change, asked) = calls(&site, &mut engine, "r", "cloudflare_tunnel_route", &config).await;
    assert_eq!(change, Change::Update);
    let body = r#"{"comment":"other","network":"2001:DB8::101/128","tunnel_id":"t"}"#;
    assert_eq!(asked, format!("PATCH {escaped} {body}\n{find}"));
    engine.destroy("r").await;
    assert_eq!(site.asked(), format!("DELETE {escaped}\n"));
}

#[tokio::test]
async fn the_list_of_2022_is_changed_by_what_is_added_and_removed() {
    let (site, mut engine) = started().await;
    let mut config = of(json!({"name": "n", "type": "IP", "items": ["10.0.0.1", "2001:DB8::101/128"]}));
    let reads = "GET gateway/lists/00000000-0000-4000-8000-000000000001\n\
                 GET gateway/lists/00000000-0000-4000-8000-000000000001/items\n";
    let (_, asked) = calls(&site, &mut engine, "l", "cloudflare_teams_list", &config).await;
    let items = r#"[{"value":"10.0.0.1"},{"value":"2001:DB8::101/128"}]"#;
    assert_eq!(
        asked,
        format!("POST gateway/lists {{\"items\":{items},\"name\":\"n\",\"type\":\"IP\"}}\n{reads}")
    );
    config["items"] = json!(["2001:DB8::101/128", "10.0.0.2"]);
    let (_, asked) = calls(&site, &mut engine, "l", "cloudflare_teams_list", &config).await;
    let list = "gateway/lists/00000000-0000-4000-8000-000000000001";
    let id = r#""id":"00000000-0000-4000-8000-000000000001""#;
    assert_eq!(
        asked,
        format!(
            "PUT {list} {{{id},\"name\":\"n\",\"type\":\"IP\"}}\n\
             PATCH {list} {{\"append\":[{{\"value\":\"10.0.0.2\"}}],{id},\"remove\":[\"10.0.0.1\"]}}\n{reads}"
        )
    );
    engine.destroy("l").await;
    assert_eq!(site.asked(), format!("DELETE {list}\n"));
}

#[tokio::test]
async fn the_rule_of_2022_is_written_whole() {
    let (site, mut engine) = started().await;
    let config = of(json!({
        "name": "Don't inspect Kubernetes API", "description": "Allow connections from kubectl to API",
        "precedence": 10000, "action": "off", "enabled": true, "filters": ["http"], "traffic": "any",
    }));
    let (_, asked) = calls(&site, &mut engine, "r", "cloudflare_teams_rule", &config).await;
    let (post, get) = asked.split_once('\n').unwrap();
    assert_eq!(get, "GET gateway/rules/00000000-0000-4000-8000-000000000001\n");
    let body: Json = serde_json::from_str(post.strip_prefix("POST gateway/rules ").unwrap()).unwrap();
    let precedence = body["precedence"].as_i64().unwrap();
    assert_eq!(precedence / 1000, 10000);
    let settings = json!({
        "override_ips": null, "block_reason": "", "override_host": "", "biso_admin_controls": null,
        "l4override": null, "add_headers": null, "check_session": null, "block_page_enabled": false,
        "insecure_disable_dnssec_validation": false,
    });
    let expected = json!({
        "name": "Don't inspect Kubernetes API", "description": "Allow connections from kubectl to API",
        "precedence": precedence, "action": "off", "enabled": true, "filters": ["http"], "traffic": "any",
        "identity": "", "device_posture": "", "version": 0, "rule_settings": settings,
        "created_at": null, "updated_at": null, "deleted_at": null,
    });
    assert_eq!(body, expected);
    assert_eq!(engine.state("r")["precedence"], 10000);
    engine.destroy("r").await;
    assert_eq!(site.asked(), "DELETE gateway/rules/00000000-0000-4000-8000-000000000001\n");
}

#[tokio::test]
async fn todays_objects_are_known_by_their_ids() {
    let (site, mut engine) = started().await;
    let id = "00000000-0000-4000-8000-000000000001";
    let mut tunnel = of(json!({"name": "n", "tunnel_secret": SECRET}));
    let kind = "cloudflare_zero_trust_tunnel_cloudflared";
    let (_, asked) = calls(&site, &mut engine, "t", kind, &tunnel).await;
    let body = format!(r#"{{"config_src":"local","name":"n","tunnel_secret":"{SECRET}"}}"#);
    assert_eq!(asked, format!("POST cfd_tunnel {body}\n"));
    tunnel["name"] = "m".into();
    let (_, asked) = calls(&site, &mut engine, "t", kind, &tunnel).await;
    assert_eq!(asked, format!("PATCH cfd_tunnel/{id} {{\"name\":\"m\"}}\n"));
    engine.refresh("t").await;
    assert_eq!(site.asked(), format!("GET cfd_tunnel/{id}\n"));
    engine.destroy("t").await;
    assert_eq!(site.asked(), format!("DELETE cfd_tunnel/{id}\n"));

    let mut route = of(json!({"network": "10.0.0.0/8", "tunnel_id": "t"}));
    let kind = "cloudflare_zero_trust_tunnel_cloudflared_route";
    let (_, asked) = calls(&site, &mut engine, "r", kind, &route).await;
    let body = r#"{"comment":"","network":"10.0.0.0/8","tunnel_id":"t"}"#;
    assert_eq!(asked, format!("POST teamnet/routes {body}\n"));
    route["comment"] = "c".into();
    let (_, asked) = calls(&site, &mut engine, "r", kind, &route).await;
    let id = "00000000-0000-4000-8000-000000000002";
    assert_eq!(asked, format!("PATCH teamnet/routes/{id} {{\"comment\":\"c\"}}\n"));
    engine.destroy("r").await;
    assert_eq!(site.asked(), format!("DELETE teamnet/routes/{id}\n"));

    let mut list = of(json!({"name": "n", "type": "IP", "items": [{"value": "10.0.0.1"}]}));
    let kind = "cloudflare_zero_trust_list";
    let (_, asked) = calls(&site, &mut engine, "l", kind, &list).await;
    let body = r#"{"items":[{"value":"10.0.0.1"}],"name":"n","type":"IP"}"#;
    assert_eq!(asked, format!("POST gateway/lists {body}\n"));
    list["items"] = Json::Null;
    let (_, asked) = calls(&site, &mut engine, "l", kind, &list).await;
    let id = "00000000-0000-4000-8000-000000000003";
    assert_eq!(asked, format!("PUT gateway/lists/{id} {{\"items\":[],\"name\":\"n\",\"type\":\"IP\"}}\n"));
    engine.destroy("l").await;
    assert_eq!(site.asked(), format!("DELETE gateway/lists/{id}\n"));
}

#[tokio::test]
async fn a_route_with_an_id_of_an_older_provider_is_looked_for_once() {
    let (site, mut engine) = started().await;
    let old = of(json!({"network": "10.0.0.0/8", "tunnel_id": "t", "comment": "c"}));
    engine.apply("r", "cloudflare_tunnel_route", &old).await;
    engine.move_to("r", "cloudflare_zero_trust_tunnel_cloudflared_route").await;
    site.asked();
    let (change, how) = engine.planned("r", "cloudflare_zero_trust_tunnel_cloudflared_route", &old).await;
    assert_eq!(change, Change::None, "{how}");
    assert_eq!(site.asked(), "GET teamnet/routes/00000000-0000-4000-8000-000000000001\n");
}

#[tokio::test]
async fn what_is_gone_is_made_again_and_what_was_changed_elsewhere_is_seen() {
    let (site, mut engine) = started().await;
    let config = of(json!({"name": "n", "type": "IP", "items": [{"value": "10.0.0.1"}]}));
    let kind = "cloudflare_zero_trust_list";
    engine.apply("l", kind, &config).await;
    let other = Engine::new(&site.base_url, &site.token).await;
    let mut other = other;
    let id = engine.state("l")["id"].as_str().unwrap().to_owned();
    other.import("l", kind, &format!("{ACCOUNT}/{id}")).await;
    let changed = of(json!({"name": "n", "type": "IP", "items": [{"value": "10.0.0.2"}]}));
    other.apply("l", kind, &changed).await;
    assert_eq!(engine.planned("l", kind, &config).await.0, Change::Update);
    engine.apply("l", kind, &config).await;
    other.destroy("l").await;
    assert_eq!(engine.planned("l", kind, &config).await.0, Change::Create);
}
