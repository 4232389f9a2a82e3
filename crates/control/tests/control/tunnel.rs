//! Tunnels (contract D, 6.1 and 6.2).

use super::*;
use adit_model::{Change, Command};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

fn connector() -> ConnectorId {
    ConnectorId::from_uuid(uuid::Uuid::new_v4())
}

#[tokio::test]
async fn a_tunnel_is_shown_as_the_contract_has_it() {
    let api = Api::new().await;
    insta::assert_snapshot!(api.post("cfd_tunnel", json!({ "name": "k8s" })).await.plain());
}

#[tokio::test]
async fn a_connected_tunnel_shows_its_connections() {
    let api = Api::new().await;
    let id = api.tunnel("k8s").await;
    let one = connector();
    api.connected(&id, one, 0).await;
    assert_eq!(api.get(&format!("cfd_tunnel/{id}")).await.result()["status"], "degraded");
    api.connected(&id, one, 1).await;
    insta::assert_snapshot!("tunnel_with_connections", api.get(&format!("cfd_tunnel/{id}")).await.plain());
    insta::assert_snapshot!(
        "connections_of_a_tunnel",
        api.get(&format!("cfd_tunnel/{id}/connections")).await.plain()
    );
    let single = api.get(&format!("cfd_tunnel/{id}/connectors/{one}")).await;
    assert_eq!(single.result()["id"], one.to_string());
    api.get(&format!("cfd_tunnel/{id}/connectors/{}", connector())).await.refused(404, 1003, "Connector");
}

#[tokio::test]
async fn the_secret_is_as_given_and_the_token_carries_it() {
    let api = Api::new().await;
    let secret = STANDARD.encode([9; 40]);
    let made = api.post("cfd_tunnel", json!({ "name": "k8s", "tunnel_secret": secret })).await;
    let id = made.text("/result/id");
    let decode = |token: &str| -> Value { serde_json::from_slice(&STANDARD.decode(token).unwrap()).unwrap() };
    let expected = json!({ "a": api.control.account().to_string(), "t": id, "s": secret });
    assert_eq!(decode(&made.text("/result/token")), expected);
    assert_eq!(api.get(&format!("cfd_tunnel/{id}")).await.result().get("token"), None, "only once");
    let token = api.get(&format!("cfd_tunnel/{id}/token")).await.text("/result");
    assert_eq!(decode(&token), expected);
    let rolled = STANDARD.encode([8; 32]);
    api.patch(&format!("cfd_tunnel/{id}"), json!({ "tunnel_secret": rolled })).await.result();
    let token = api.get(&format!("cfd_tunnel/{id}/token")).await.text("/result");
    assert_eq!(decode(&token)["s"], rolled);
    let generated = api.post("cfd_tunnel", json!({ "name": "other" })).await.text("/result/token");
    let generated = STANDARD.decode(decode(&generated)["s"].as_str().unwrap()).unwrap();
    assert_eq!(generated.len(), 32);
}

#[tokio::test]
async fn wrong_secrets_and_names_are_refused() {
    let api = Api::new().await;
    for secret in [json!("not base64!"), json!(STANDARD.encode([1; 31])), json!(7), json!("")] {
        let answer = api.post("cfd_tunnel", json!({ "name": "x", "tunnel_secret": secret })).await;
        answer.refused(400, 1003, "tunnel_secret must be base64 of at least 32 bytes");
        assert_eq!(answer.body["errors"][0]["source"]["pointer"], "/tunnel_secret");
    }
    for name in [json!(""), json!("x".repeat(101)), json!("a\nb"), json!(null)] {
        api.post("cfd_tunnel", json!({ "name": name })).await.refused(400, 1003, "name: expected 1 to 100");
    }
    let uuid = "8e343b13-a087-48ea-825f-9783931ff2a5";
    api.post("cfd_tunnel", json!({ "name": uuid })).await.refused(400, 1003, "no UUID");
    let source = json!({ "name": "x", "config_src": "elsewhere" });
    api.post("cfd_tunnel", source).await.refused(400, 1003, "local or cloudflare");
    assert_eq!(api.get("cfd_tunnel").await.result(), &json!([]), "nothing half-made");
}

#[tokio::test]
async fn of_two_equal_creations_at_once_one_is_a_conflict() {
    let api = Api::new().await;
    let body = json!({ "name": "k8s" });
    let (one, other) = tokio::join!(api.post("cfd_tunnel", body.clone()), api.post("cfd_tunnel", body));
    let (won, lost) = if one.status == StatusCode::OK { (one, other) } else { (other, one) };
    won.result();
    lost.refused(409, 1013, "You already have a tunnel with this name");
    assert_eq!(lost.headers["x-should-retry"], "false");
}

#[tokio::test]
async fn filters_choose_tunnels() {
    let api = Api::new().await;
    let alpha = api.tunnel("team-alpha").await;
    api.tunnel("team-beta").await;
    let gone = api.tunnel("gone").await;
    api.connected(&alpha, connector(), 0).await;
    api.delete(&format!("cfd_tunnel/{gone}")).await.result();
    for (query, expected) in [
        ("", vec!["team-alpha", "team-beta", "gone"]),
        ("is_deleted=false", vec!["team-alpha", "team-beta"]),
        ("is_deleted=true", vec!["gone"]),
        ("name=team-beta", vec!["team-beta"]),
        ("name=team", vec![]),
        ("name_prefix=team-", vec!["team-alpha", "team-beta"]),
        ("include_prefix=team-b", vec!["team-beta"]),
        ("exclude_prefix=team-&is_deleted=false", vec![]),
        (&format!("uuid={alpha}"), vec!["team-alpha"]),
        ("status=degraded", vec!["team-alpha"]),
        ("status=healthy,inactive&is_deleted=false", vec!["team-beta"]),
        ("existed_at=2020-01-01T00:00:00Z", vec![]),
        ("unknown=1&name=", vec!["team-alpha", "team-beta", "gone"]),
    ] {
        assert_eq!(api.get(&format!("cfd_tunnel?{query}")).await.column("name"), expected, "{query}");
    }
    assert_eq!(api.get("tunnels?tun_types=cfd_tunnel,old").await.column("name").len(), 3);
    assert_eq!(api.get("tunnels?tun_types=warp_connector").await.result(), &json!([]));
    assert_eq!(api.get("cfd_tunnel?tun_types=warp_connector").await.result(), &json!([]));
    api.get("cfd_tunnel?status=odd").await.refused(400, 1003, "status: expected inactive");
    api.get("cfd_tunnel?existed_at=yesterday").await.refused(400, 1003, "existed_at: expected a time");
}

#[tokio::test]
async fn a_site_has_a_tunnel_of_its_own_kind_with_the_same_names_routes_and_life() {
    let api = Api::new().await;
    api.tunnel("k8s").await;
    api.post("warp_connector", json!({ "name": "k8s" })).await.refused(
        409,
        1013,
        "You already have a tunnel",
    );
    api.post("warp_connector", json!({ "name": "x", "ha": true })).await.refused(400, 1003, "ha: only false");
    let made = api.post("warp_connector", json!({ "name": "site", "ha": false })).await;
    let (id, token) = (made.text("/result/id"), made.text("/result/token"));
    let path = format!("warp_connector/{id}");
    let site = api.get(&path).await;
    assert_eq!(site.result()["tun_type"], "warp_connector");
    assert_eq!(site.result()["status"], "inactive");
    assert!(site.result().get("config_src").is_none() && site.result().get("remote_config").is_none());
    assert_eq!(api.get(&format!("{path}/token")).await.result(), &json!(token));
    api.get(&format!("cfd_tunnel/{id}")).await.refused(404, 1003, "Tunnel not found");
    api.delete(&format!("cfd_tunnel/{id}")).await.refused(404, 1003, "Tunnel not found");
    assert_eq!(api.get("cfd_tunnel").await.column("name"), ["k8s"]);
    assert_eq!(api.get("warp_connector").await.column("name"), ["site"]);
    assert_eq!(api.get("tunnels").await.column("name"), ["k8s", "site"]);
    assert_eq!(api.get("tunnels?tun_types=warp_connector").await.column("name"), ["site"]);

    let route = json!({ "network": "10.0.0.0/8", "tunnel_id": id });
    assert_eq!(api.post("teamnet/routes", route).await.result()["tun_type"], "warp_connector");
    assert_eq!(api.get("teamnet/routes?tun_types=warp_connector").await.column("tunnel_name"), ["site"]);
    assert_eq!(api.get("teamnet/routes?tun_types=cfd_tunnel").await.result(), &json!([]));
    let one = connector();
    api.connected(&id, one, 0).await;
    assert_eq!(api.get(&path).await.result()["status"], "degraded");
    assert_eq!(api.get(&format!("{path}/connections")).await.column("id"), [one.to_string()]);
    assert_eq!(api.get(&format!("{path}/connectors/{one}")).await.text("/result/id"), one.to_string());
    api.delete(&path).await.refused(400, 1022, "active connections");
    api.delete(&format!("{path}/connections")).await.result();
    api.delete(&path).await.refused(400, 1023, "associated routes");
    let gone = api.delete(&format!("{path}?cascade=true")).await;
    assert_ne!(gone.result()["deleted_at"], Value::Null);
}

#[tokio::test]
async fn deletion_follows_the_cascade_rules() {
    let api = Api::new().await;
    let id = api.tunnel("k8s").await;
    let path = format!("cfd_tunnel/{id}");
    let one = connector();
    api.post("teamnet/routes", json!({ "network": "10.0.0.0/8", "tunnel_id": id })).await.result();
    api.connected(&id, one, 0).await;
    api.delete(&path).await.refused(400, 1022, "Cannot delete tunnel because it has active connections");

    let mut commands = api.control.commands();
    assert_eq!(api.delete(&format!("{path}/connections?client_id={one}")).await.result(), &json!({}));
    let tunnel = id.parse().unwrap();
    let close = Command::CloseConnections { tunnel, connector: Some(one) };
    assert_eq!(commands.try_recv().unwrap(), close);
    assert_eq!(api.get(&path).await.result()["status"], "down");
    api.delete(&path).await.refused(400, 1023, "Cannot delete tunnel because it has associated routes");

    let (state, mut feed) = api.control.subscribe().await.unwrap();
    let deleted = api.delete(&format!("{path}?cascade=true")).await;
    assert_ne!(deleted.result()["deleted_at"], Value::Null);
    let told = feed.next().await.unwrap();
    assert_eq!(told.number, state.number + 1);
    assert!(matches!(
        told.changes.as_slice(),
        [Change::RouteRemoved { .. }, Change::TunnelRemoved { id }] if *id == tunnel
    ));
    assert_eq!(api.delete(&path).await.result()["deleted_at"], deleted.result()["deleted_at"], "idempotent");
    assert_ne!(api.get(&path).await.result()["deleted_at"], Value::Null, "a deleted tunnel is still shown");
    api.get(&format!("{path}/token")).await.refused(404, 1003, "Tunnel not found");
    api.patch(&path, json!({ "name": "new" })).await.refused(404, 1003, "Tunnel not found");
    api.tunnel("k8s").await;
}

#[tokio::test]
async fn unknown_ids_are_not_found_and_undashed_ones_are_read() {
    let api = Api::new().await;
    let unknown = uuid::Uuid::new_v4();
    for path in [format!("cfd_tunnel/{unknown}"), "cfd_tunnel/nonsense".into()] {
        api.get(&path).await.refused(404, 1003, "Tunnel not found");
        api.delete(&path).await.refused(404, 1003, "Tunnel not found");
        api.get(&format!("{path}/connections")).await.refused(404, 1003, "Tunnel not found");
        api.get(&format!("{path}/token")).await.refused(404, 1003, "Tunnel not found");
    }
    let id = api.tunnel("k8s").await;
    let answer = api.get(&format!("cfd_tunnel/{}", id.replace('-', ""))).await;
    assert_eq!(answer.result()["id"], id);
}

#[tokio::test]
async fn a_tunnel_comes_and_goes_with_its_connections() {
    let api = Api::new().await;
    let id = api.tunnel("k8s").await;
    let path = format!("cfd_tunnel/{id}");
    api.connected(&id, connector(), 0).await;
    let shown = api.get(&path).await;
    assert_ne!(shown.result()["conns_active_at"], Value::Null);
    assert_eq!(shown.result()["conns_inactive_at"], Value::Null);
    let closed = adit_model::ConnectionClosed {
        tunnel: id.parse().unwrap(),
        connection: shown.text("/result/connections/0/id").parse().unwrap(),
        at: SystemTime::now(),
    };
    api.control.record(Record::ConnectionClosed(closed)).await;
    let shown = api.get(&path).await;
    assert_eq!(shown.result()["status"], "down");
    assert_eq!(shown.result()["conns_active_at"], Value::Null);
    assert_ne!(shown.result()["conns_inactive_at"], Value::Null);
    assert_eq!(shown.result()["connections"], json!([]));
}
