//! Configurations of tunnels, management tokens, and host names as zones have them (contract D, 5 and 6.2).

use super::*;
use adit_model::{Change, LocalConfiguration};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

impl Api {
    /// A path of the account's zone.
    fn zone(&self, rest: &str) -> String {
        format!("/client/v4/zones/{}/{rest}", self.control.account())
    }

    async fn route_dns(&self, tunnel: &str, body: Value) -> Answer {
        self.send(Method::PUT, &self.zone(&format!("tunnels/{tunnel}/routes")), Some(&body)).await
    }
}

fn dns(hostname: &str) -> Value {
    json!({ "type": "dns", "user_hostname": hostname, "overwrite_existing": false })
}

#[tokio::test]
async fn a_configuration_is_stored_numbered_and_told_to_the_edges() {
    let api = Api::new().await;
    let made = api.post("cfd_tunnel", json!({ "name": "web", "config_src": "cloudflare" })).await;
    let id = made.text("/result/id");
    let path = format!("cfd_tunnel/{id}/configurations");
    insta::assert_snapshot!("configuration_of_a_new_tunnel", api.get(&path).await.plain());
    let (_, mut feed) = api.control.subscribe().await.unwrap();
    let config = json!({
        "ingress": [
            { "hostname": "a.example.com", "service": "http://localhost:8080", "originRequest": { "noTLSVerify": true },
              "path": null },
            { "hostname": "", "service": "http_status:404" },
        ],
        "warp-routing": { "enabled": true },
        "originRequest": null,
    });
    let stored = api.put(&path, json!({ "config": config })).await;
    insta::assert_snapshot!("configuration_of_a_tunnel", stored.plain());
    assert_eq!(api.get(&path).await.result(), stored.result());
    let told = feed.next().await.unwrap();
    let [Change::TunnelConfigurationPut(told)] = told.changes.as_slice() else { panic!("{told:?}") };
    assert_eq!((told.tunnel.to_string(), told.version), (id, 1));
    let told: Value = serde_json::from_str(&told.config).unwrap();
    assert_eq!(told, stored.result()["config"], "connectors are told what is shown, without nulls");
    let again = api.put(&path, json!({ "config": config })).await;
    assert_eq!(again.result()["version"], 2);
}

#[tokio::test]
async fn a_local_tunnel_shows_what_its_connector_said_and_is_switched_by_a_configuration() {
    let api = Api::new().await;
    let id = api.tunnel("web").await;
    let path = format!("cfd_tunnel/{id}/configurations");
    let connector = ConnectorId::from_uuid(uuid::Uuid::new_v4());
    let report = || LocalConfiguration {
        tunnel: id.parse().unwrap(),
        connector,
        config: r#"{"__configuration_flags":{"protocol":"quic"},"ingress":[{"service":"http://a"}]}"#.into(),
    };
    api.control.record(Record::LocalConfiguration(report())).await;
    assert_eq!(api.get(&path).await.result()["config"], Value::Null, "it has no connection");
    api.connected(&id, connector, 0).await;
    api.control.record(Record::LocalConfiguration(report())).await;
    let shown = api.get(&path).await;
    assert_eq!(shown.result()["config"], json!({ "ingress": [{ "service": "http://a" }] }));
    assert_eq!((&shown.result()["source"], &shown.result()["version"]), (&json!("local"), &json!(0)));
    let single = api.get(&format!("cfd_tunnel/{id}/connectors/{connector}")).await;
    assert_eq!(single.result()["x_local_configuration"]["__configuration_flags"]["protocol"], "quic");

    let config = json!({ "config": { "ingress": [{ "service": "http_status:404" }] } });
    let put = api.put(&path, config).await;
    assert_eq!((&put.result()["source"], &put.result()["version"]), (&json!("cloudflare"), &json!(1)));
    assert_eq!(api.get(&format!("cfd_tunnel/{id}")).await.result()["remote_config"], true);
}

#[tokio::test]
async fn a_configuration_that_no_connector_could_use_is_refused() {
    let api = Api::new().await;
    let id = api.tunnel("web").await;
    let path = format!("cfd_tunnel/{id}/configurations");
    let rules = json!({ "config": { "ingress": [{ "hostname": "a.example.com", "service": "http://a" }] } });
    let refused = api.put(&path, rules).await;
    refused.refused(400, 1056, "Bad Configuration: The last ingress rule must match all URLs");
    assert_eq!(refused.text("/errors/0/source/pointer"), "/config/ingress/0");
    api.put(&path, json!({})).await.refused(400, 1003, "config: expected an object");
    assert_eq!(api.get(&path).await.result()["version"], 0, "nothing is stored");
    let unknown = format!("cfd_tunnel/{}/configurations", uuid::Uuid::new_v4());
    api.get(&unknown).await.refused(404, 1003, "Tunnel not found");
    let good = json!({ "config": { "ingress": [{ "service": "http://a" }] } });
    api.put(&unknown, good.clone()).await.refused(404, 1003, "Tunnel not found");
    let reader = api.token_with(&["Cloudflare Tunnel Read"]).await;
    let answer = api.send_as(Some(&reader), Method::PUT, &api.path(&path), good.to_string()).await;
    answer.refused(403, 10000, "Authentication error");
}

#[tokio::test]
async fn management_tokens_name_tunnel_and_resource() {
    let api = Api::new().await;
    let id = api.tunnel("web").await;
    let path = format!("cfd_tunnel/{id}/management");
    let claims = |answer: &Answer| -> Value {
        let token = answer.text("/result");
        let body = token.split('.').nth(1).unwrap();
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(body).unwrap()).unwrap()
    };
    for (answer, resource) in [
        (api.post(&path, json!({ "resources": ["logs"] })).await, "logs"),
        (api.post(&format!("{path}/host_details"), json!({})).await, "host_details"),
    ] {
        let claims = claims(&answer);
        assert_eq!(claims["tun"], json!({ "id": id, "account_tag": api.control.account().to_string() }));
        assert_eq!(claims["res"], json!([resource]));
        assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), 3600);
        assert_eq!(claims["actor"]["support"], false);
    }
    api.post(&path, json!({ "resources": ["everything"] })).await.refused(
        400,
        1003,
        "resources.0: expected logs, admin or host_details",
    );
    api.post(&path, json!({ "resources": [] })).await.refused(400, 1003, "resources: expected");
    api.post(&format!("{path}/everything"), json!({})).await.refused(404, 7003, "No route");
    api.delete(&format!("cfd_tunnel/{id}")).await.result();
    api.post(&format!("{path}/logs"), json!({})).await.refused(404, 1003, "Tunnel not found");
}

#[tokio::test]
async fn a_host_name_is_new_then_unchanged_and_taken_only_with_overwrite() {
    let api = Api::new().await;
    let (one, two) = (api.tunnel("one").await, api.tunnel("two").await);
    let made = api.route_dns(&one, dns("App.example.com")).await;
    assert_eq!(made.result(), &json!({ "cname": "new", "name": "app.example.com" }));
    assert_eq!(api.route_dns(&one, dns("app.example.com")).await.result()["cname"], "unchanged");
    let taken = api.route_dns(&two, dns("app.example.com")).await;
    taken.refused(400, 1003, "An A, AAAA, or CNAME record with that host already exists.");
    let overwrite = json!({ "type": "dns", "user_hostname": "app.example.com", "overwrite_existing": true });
    assert_eq!(api.route_dns(&two, overwrite).await.result()["cname"], "updated");
    api.delete(&format!("cfd_tunnel/{two}")).await.refused(400, 1023, "associated routes");

    let records = api.send(Method::GET, &api.zone("dns_records?name=app.example.com"), None).await;
    assert_eq!(records.result()[0]["content"], format!("{two}.cfargotunnel.com"));
    let record = records.text("/result/0/id");
    let by_content = format!("dns_records?type=CNAME&content={two}.cfargotunnel.com");
    assert_eq!(api.send(Method::GET, &api.zone(&by_content), None).await.column("id"), [record.as_str()]);
    for none in ["name=*.example.com", "type=A", "content=192.0.2.1", "name=other.example.com", "page=2"] {
        let listed = api.send(Method::GET, &api.zone(&format!("dns_records?{none}")), None).await;
        assert_eq!(listed.result(), &json!([]), "{none}");
    }
    let path = api.zone(&format!("dns_records/{record}"));
    assert_eq!(api.send(Method::GET, &path, None).await.result()["name"], "app.example.com");
    assert_eq!(api.send(Method::DELETE, &path, None).await.result(), &json!({ "id": record }));
    api.send(Method::GET, &path, None).await.refused(404, 1003, "DNS record not found");
    api.send(Method::DELETE, &path, None).await.refused(404, 1003, "DNS record not found");
}

#[tokio::test]
async fn what_is_no_public_host_name_or_our_own_is_refused() {
    let own = Settings {
        own_names: vec!["adit.example.com".into()],
        dns_domain: "dns.adit.example.com".into(),
        ..Settings::default()
    };
    let api = Api::with(own).await;
    let id = api.tunnel("one").await;
    for name in ["", "localhost", "192.0.2.1", "a b.example.com", "*.example.com"] {
        api.route_dns(&id, dns(name)).await.refused(400, 1003, "user_hostname");
    }
    api.route_dns(&id, dns("Adit.example.com.")).await.refused(400, 1003, "this installation's own name");
    let balancer = json!({ "type": "lb", "lb_name": "lb.example.com", "lb_pool": "pool" });
    api.route_dns(&id, balancer).await.refused(400, 1003, "lb (load balancers) is not supported");
    api.route_dns(&id, json!({})).await.refused(400, 1003, "type: expected dns");
    let unknown = uuid::Uuid::new_v4().to_string();
    api.route_dns(&unknown, dns("x.example.com")).await.refused(404, 1003, "Tunnel not found");
}

#[tokio::test]
async fn the_account_has_one_zone_with_its_tag() {
    let api = Api::new().await;
    let zones = api.send(Method::GET, "/client/v4/zones", None).await;
    assert_eq!(zones.column("id"), [api.control.account().to_string()]);
    assert_eq!(api.send(Method::GET, "/client/v4/zones?name=adit", None).await.column("name"), ["adit"]);
    for none in ["name=other", "account.id=00000000000000000000000000000000", "page=2"] {
        let listed = api.send(Method::GET, &format!("/client/v4/zones?{none}"), None).await;
        assert_eq!(listed.result(), &json!([]), "{none}");
    }
    let zone = api.send(Method::GET, api.zone("").trim_end_matches('/'), None).await;
    assert_eq!(zone.result(), &zones.result()[0]);
    let other = "/client/v4/zones/00000000000000000000000000000000/dns_records";
    api.send(Method::GET, other, None).await.refused(403, 9109, "Unauthorized");
    api.send(Method::GET, &api.zone("settings"), None).await.refused(404, 7003, "No route");
}
