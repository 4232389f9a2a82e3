//! Hostname routes (contract D, 6.6).

use super::*;

const ROUTES: &str = "zerotrust/routes/hostname";

#[tokio::test]
async fn a_hostname_route_is_shown_as_the_contract_has_it_and_is_there_once() {
    let api = Api::new().await;
    let tunnel = api.tunnel("k8s").await;
    let body = json!({ "hostname": "Wiki.Corp.Internal.", "tunnel_id": tunnel, "comment": "the wiki" });
    let made = api.post(ROUTES, body.clone()).await;
    insta::assert_snapshot!("hostname_route", made.plain());
    api.post(ROUTES, body).await.refused(409, 1014, "this exact hostname");
    let path = format!("{ROUTES}/{}", made.text("/result/id"));
    assert_eq!(api.get(&path).await.result(), made.result());
    let two = api.tunnel("two").await;
    let changed = api.patch(&path, json!({ "tunnel_id": two, "hostname": "*.corp.internal" })).await;
    assert_eq!(changed.result()["tunnel_name"], "two");
    assert_eq!(changed.result()["hostname"], "*.corp.internal");
    assert_eq!(changed.result()["comment"], "the wiki", "what was not named stays");
    assert_ne!(api.delete(&path).await.result()["deleted_at"], Value::Null);
    api.get(&path).await.refused(404, 1003, "Hostname route not found");
    api.patch(&path, json!({ "comment": "x" })).await.refused(404, 1003, "Hostname route not found");
    api.delete(&path).await.refused(404, 1003, "Hostname route not found");
    api.get(&format!("{ROUTES}/x")).await.refused(404, 1003, "Hostname route not found");
}

#[tokio::test]
async fn wrong_names_are_refused_with_the_field() {
    let own = "edge.example.com";
    let api = Api::with(Settings { own_names: vec![own.into()], ..Settings::default() }).await;
    let tunnel = api.tunnel("k8s").await;
    for hostname in ["", "*", "a.*.internal", "*.*.internal", "-a.internal", "10.0.0.1", "a b", "a..b"] {
        let answer = api.post(ROUTES, json!({ "hostname": hostname, "tunnel_id": tunnel })).await;
        answer.refused(400, 1003, "hostname: expected a host name such as");
        assert_eq!(answer.body["errors"][0]["source"]["pointer"], "/hostname", "{hostname}");
    }
    let post = |body: Value| api.post(ROUTES, body);
    post(json!({ "tunnel_id": tunnel })).await.refused(400, 1003, "hostname: expected");
    post(json!({ "hostname": "a.internal" })).await.refused(400, 1003, "tunnel_id: expected a UUID");
    let unknown = json!({ "hostname": "a.internal", "tunnel_id": uuid::Uuid::new_v4() });
    post(unknown).await.refused(400, 1003, "Tunnel not found");
    let own = json!({ "hostname": own, "tunnel_id": tunnel });
    post(own).await.refused(400, 1003, "this installation's own name");
    assert_eq!(api.get(ROUTES).await.result(), &json!([]));
}

#[tokio::test]
async fn hostname_routes_are_found_by_what_they_say() {
    let api = Api::new().await;
    let (one, two) = (api.tunnel("one").await, api.tunnel("two").await);
    let mut ids = Vec::new();
    for (hostname, tunnel, comment) in
        [("a.internal", &one, "x"), ("*.internal", &one, "y"), ("b.internal", &two, "y")]
    {
        let body = json!({ "hostname": hostname, "tunnel_id": tunnel, "comment": comment });
        ids.push(api.post(ROUTES, body).await.text("/result/id"));
    }
    api.delete(&format!("{ROUTES}/{}", ids[2])).await.result();
    let found = async |query: &str| api.get(&format!("{ROUTES}?{query}")).await.column("hostname");
    assert_eq!(found("").await, ["a.internal", "*.internal", "b.internal"], "deleted ones too");
    assert_eq!(found("is_deleted=false").await, ["a.internal", "*.internal"]);
    assert_eq!(found("is_deleted=true").await, ["b.internal"]);
    assert_eq!(found("hostname=*.INTERNAL").await, ["*.internal"]);
    assert_eq!(found("comment=y&is_deleted=false").await, ["*.internal"]);
    assert_eq!(found(&format!("tunnel_id={two}")).await, ["b.internal"]);
    assert_eq!(found(&format!("id={}", ids[0])).await, ["a.internal"]);
    assert_eq!(found("existed_at=2020-01-01T00:00:00Z").await, Vec::<String>::new());
    let page = api.get(&format!("{ROUTES}?per_page=1&page=2")).await;
    assert_eq!(page.column("hostname"), ["*.internal"]);
    assert_eq!(page.body["result_info"]["total_count"], 3);
}

#[tokio::test]
async fn names_of_another_tunnel_are_taken_only_by_who_may_edit_policy() {
    let api = Api::new().await;
    let (one, two) = (api.tunnel("one").await, api.tunnel("two").await);
    api.post(ROUTES, json!({ "hostname": "*.corp.internal", "tunnel_id": one })).await.result();
    let token = api.token_with(&["Cloudflare Tunnel Write"]).await;
    let path = api.path(ROUTES);
    let post = async |hostname: &str, tunnel: &str| {
        let body = json!({ "hostname": hostname, "tunnel_id": tunnel }).to_string();
        api.send_as(Some(&token), Method::POST, &path, body).await
    };
    post("wiki.corp.internal", &two).await.refused(403, 10000, "lead to another tunnel");
    post("*.eu.corp.internal", &two).await.refused(403, 10000, "lead to another tunnel");
    post("wiki.corp.internal", &one).await.result();
    post("corp.internal", &two).await.result();
    api.post(ROUTES, json!({ "hostname": "api.corp.internal", "tunnel_id": two })).await.result();
}

#[tokio::test]
async fn a_tunnel_with_hostname_routes_goes_only_with_them() {
    let api = Api::new().await;
    let tunnel = api.tunnel("k8s").await;
    api.post(ROUTES, json!({ "hostname": "wiki.corp.internal", "tunnel_id": tunnel })).await.result();
    api.delete(&format!("cfd_tunnel/{tunnel}")).await.refused(400, 1023, "associated routes");
    api.delete(&format!("cfd_tunnel/{tunnel}?cascade=true")).await.result();
    assert_eq!(api.get(&format!("{ROUTES}?is_deleted=false")).await.result(), &json!([]));
}
