//! Routes and virtual networks (contract D, 6.4 and 6.5), as current and as 2022 clients ask for them.

use super::*;

#[tokio::test]
async fn a_route_is_shown_as_the_contract_has_it() {
    let api = Api::new().await;
    let id = api.tunnel("k8s").await;
    let body = json!({ "network": "10.10.0.0/24", "tunnel_id": id, "comment": "apiserver" });
    insta::assert_snapshot!("route", api.post("teamnet/routes", body.clone()).await.plain());
    insta::assert_snapshot!("route_conflict", api.post("teamnet/routes", body).await.plain());
}

#[tokio::test]
async fn networks_come_back_as_written_and_are_unique_by_value() {
    let api = Api::new().await;
    let id = api.tunnel("k8s").await;
    let create = |network: &str| api.post("teamnet/routes", json!({ "network": network, "tunnel_id": id }));
    assert_eq!(create("2001:DB8::/32").await.result()["network"], "2001:DB8::/32");
    create("2001:db8:0::/32").await.refused(409, 1014, "exact IP subnet");
    assert_eq!(create("198.51.100.101").await.result()["network"], "198.51.100.101/32");
    assert_eq!(create("2001:db8::101").await.result()["network"], "2001:db8::101/128");
    create("198.51.100.101/32").await.refused(409, 1014, "exact IP subnet");
    create("198.51.100.0/24").await.result();
}

#[tokio::test]
async fn wrong_routes_are_refused_with_the_field() {
    let api = Api::new().await;
    let id = api.tunnel("k8s").await;
    for network in
        ["10.0.0.1/8", "::ffff:10.0.0.0/104", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "::/128", "x"]
    {
        let answer = api.post("teamnet/routes", json!({ "network": network, "tunnel_id": id })).await;
        answer.refused(400, 1003, "network is not a valid CIDR");
        assert_eq!(answer.body["errors"][0]["source"]["pointer"], "/network", "{network}");
    }
    let post = |body: Value| api.post("teamnet/routes", body);
    post(json!({ "tunnel_id": id })).await.refused(400, 1003, "network: expected");
    post(json!({ "network": "10.0.0.0/8" })).await.refused(400, 1003, "tunnel_id: expected a UUID");
    let unknown = uuid::Uuid::new_v4();
    post(json!({ "network": "10.0.0.0/8", "tunnel_id": unknown })).await.refused(
        400,
        1003,
        "Tunnel not found",
    );
    let body = json!({ "network": "10.0.0.0/8", "tunnel_id": id, "virtual_network_id": unknown });
    post(body).await.refused(400, 1003, "Virtual network not found");
    let body = json!({ "network": "10.0.0.0/8", "tunnel_id": id, "comment": "x".repeat(257) });
    post(body).await.refused(400, 1003, "comment: expected at most 256 characters");
    assert_eq!(api.get("teamnet/routes").await.result(), &json!([]));
}

#[tokio::test]
async fn the_2022_provider_creates_reads_changes_and_deletes_by_network() {
    let api = Api::new().await;
    let id = api.tunnel("k8s").await;
    let path = "teamnet/routes/network/10.0.0.0%2F8";
    let created = api.post(path, json!({ "tunnel_id": id, "comment": "a" })).await;
    assert_eq!(created.result()["network"], "10.0.0.0/8");
    api.post(path, json!({ "tunnel_id": id })).await.refused(409, 1014, "exact IP subnet");
    let query = "teamnet/routes?is_deleted=false&network_subset=10.0.0.0%2F8&network_superset=10.0.0.0%2F8";
    assert_eq!(api.get(query).await.column("comment"), ["a"]);
    let change = json!({ "network": "10.0.0.0/8", "tunnel_id": id, "comment": "b" });
    assert_eq!(api.patch(path, change).await.result()["comment"], "b");
    let deleted = api.delete(path).await;
    assert_eq!(deleted.result()["network"], "10.0.0.0/8");
    assert_ne!(deleted.result()["deleted_at"], Value::Null);
    api.delete(path).await.refused(404, 1003, "Route not found");
    assert_eq!(api.get(query).await.result(), &json!([]));
    // Not escaped: unambiguous, so accepted.
    api.post("teamnet/routes/network/2001:db8::/32", json!({ "tunnel_id": id })).await.result();
    api.delete("teamnet/routes/network/2001%3Adb8%3A%3A%2F32").await.result();
    // Today's clients escape the parameter that its documentation asks to escape.
    api.post("teamnet/routes/network/2001:db8::%252F32", json!({ "tunnel_id": id })).await.result();
    api.delete("teamnet/routes/network/2001%253Adb8%253A%253A%252F32").await.result();
    api.delete("teamnet/routes/network/10.0.0.0%25%25").await.refused(404, 1003, "Route not found");
    api.delete("teamnet/routes/network/nonsense").await.refused(400, 1003, "not a valid CIDR");
}

#[tokio::test]
async fn a_deletion_by_network_finds_the_only_one_elsewhere() {
    let api = Api::new().await;
    let id = api.tunnel("k8s").await;
    let vnet = api.post("teamnet/virtual_networks", json!({ "name": "lab" })).await.text("/result/id");
    let path = "teamnet/routes/network/10.0.0.0%2F8";
    api.post(path, json!({ "tunnel_id": id, "virtual_network_id": vnet })).await.result();
    api.post(path, json!({ "tunnel_id": id })).await.result();
    let default = api.delete(path).await;
    assert_ne!(default.result()["virtual_network_id"], vnet, "the default network's first");
    assert_eq!(api.delete(path).await.result()["virtual_network_id"], vnet, "then the only one");
}

#[tokio::test]
async fn routes_are_read_changed_and_deleted_by_id() {
    let api = Api::new().await;
    let (one, two) = (api.tunnel("one").await, api.tunnel("two").await);
    let body = json!({ "network": "10.0.0.0/8", "tunnel_id": one });
    let id = api.post("teamnet/routes", body).await.text("/result/id");
    let path = format!("teamnet/routes/{id}");
    assert_eq!(api.get(&path).await.result()["tunnel_name"], "one");
    let changed = api.patch(&path, json!({ "tunnel_id": two, "comment": "moved" })).await;
    assert_eq!(changed.result()["tunnel_name"], "two");
    assert_eq!(changed.result()["network"], "10.0.0.0/8", "what was not named stays");
    assert_ne!(api.delete(&path).await.result()["deleted_at"], Value::Null);
    api.get(&path).await.refused(404, 1003, "Route not found");
    api.delete(&path).await.refused(404, 1003, "Route not found");
    assert_eq!(
        api.get("teamnet/routes").await.column("id"),
        [id],
        "both, deleted and live, if nothing is said"
    );
}

#[tokio::test]
async fn an_address_finds_the_longest_prefix_or_null() {
    let api = Api::new().await;
    let id = api.tunnel("k8s").await;
    for network in ["10.0.0.0/8", "10.1.0.0/16", "2001:db8::/32"] {
        api.post("teamnet/routes", json!({ "network": network, "tunnel_id": id })).await.result();
    }
    let lookup = |address: &'static str| {
        let api = &api;
        async move { api.get(&format!("teamnet/routes/ip/{address}")).await }
    };
    assert_eq!(lookup("10.1.2.3").await.result()["network"], "10.1.0.0/16");
    assert_eq!(lookup("10.2.2.3").await.result()["network"], "10.0.0.0/8");
    assert_eq!(lookup("2001%3Adb8%3A%3A1").await.result()["network"], "2001:db8::/32");
    assert_eq!(lookup("192.0.2.1").await.result(), &Value::Null);
    lookup("10.0.0.0%2F8").await.refused(400, 1003, "no network");
    let query = format!("192.0.2.1?virtual_network_id={}", uuid::Uuid::new_v4());
    api.get(&format!("teamnet/routes/ip/{query}")).await.refused(404, 1003, "Virtual network not found");
}

#[tokio::test]
async fn virtual_networks_have_one_default_and_unique_names() {
    let api = Api::new().await;
    let networks = "teamnet/virtual_networks";
    insta::assert_snapshot!("virtual_networks", api.get(networks).await.plain());
    let first = api.get(networks).await.text("/result/0/id");
    let lab = api.post(networks, json!({ "name": "lab", "is_default": true })).await.text("/result/id");
    assert_eq!(api.get(&format!("{networks}?is_default=true")).await.column("id"), [lab.as_str()]);
    api.post(networks, json!({ "name": "lab" })).await.refused(409, 1017, "this name");
    let lab = format!("{networks}/{lab}");
    api.patch(&lab, json!({ "is_default_network": false })).await.refused(400, 1018, "default");
    api.delete(&lab).await.refused(400, 1018, "default");
    api.patch(&format!("{networks}/{first}"), json!({ "is_default_network": true })).await.result();
    let tunnel = api.tunnel("k8s").await;
    let body =
        json!({ "network": "10.0.0.0/8", "tunnel_id": tunnel, "virtual_network_id": lab.rsplit('/').next() });
    let route = api.post("teamnet/routes", body).await.text("/result/id");
    api.delete(&lab).await.refused(400, 1019, "has routes");
    assert_ne!(api.delete(&format!("{lab}?force=true")).await.result()["deleted_at"], Value::Null);
    api.get(&format!("teamnet/routes/{route}")).await.refused(404, 1003, "Route not found");
    api.get(&format!("{networks}/{}", uuid::Uuid::new_v4())).await.refused(
        404,
        1003,
        "Virtual network not found",
    );
    assert_eq!(api.get(&format!("{networks}?is_deleted=false")).await.column("name"), ["default"]);
}
