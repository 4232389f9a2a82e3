//! Several operations as one (`A/x/batch`).

use adit_store::Actor;

use super::*;

#[tokio::test]
async fn a_batch_is_done_whole_or_not_at_all() {
    let api = Api::new().await;
    let stands_for = "11111111-2222-4333-8444-555555555555";
    let operations = |network: &str| {
        let account = api.control.account();
        json!({ "operations": [
            { "method": "POST", "path": format!("/accounts/{account}/cfd_tunnel"), "body": { "name": "k8s" }, "as": stands_for },
            { "method": "POST", "path": format!("/accounts/{account}/teamnet/routes"),
              "body": { "network": network, "tunnel_id": stands_for } },
        ] })
    };
    let refused = api.post("x/batch", operations("10.0.0.1/8")).await;
    refused.refused(400, 1003, "operation 1: network is not a valid CIDR");
    assert_eq!(refused.body["errors"][0]["source"]["pointer"], "/operations/1/body/network");
    assert_eq!(api.get("cfd_tunnel").await.result(), &json!([]), "the first operation is undone too");
    let done = api.post("x/batch", operations("10.0.0.0/8")).await;
    assert_eq!(done.result()[1]["tunnel_id"], done.result()[0]["id"]);
}

#[tokio::test]
async fn a_generation_tells_a_write_however_many_credentials_were_refused() {
    let api = Api::new().await;
    let generation = || async { api.get("x/batch").await.text("/result/generation") };
    api.tunnel("one").await;
    let before = generation().await;
    for _ in 0..1001 {
        let account = Some(api.control.account());
        api.control.store().audit_refusal(&Actor::system(), account, "expired").await.unwrap();
    }
    assert_eq!(generation().await, before, "a refused credential writes nothing");
    api.tunnel("two").await;
    assert_ne!(generation().await, before);
    let stale = json!({ "generation": before, "operations": [] });
    api.post("x/batch", stale).await.refused(412, 1020, "Something was written");
}

#[tokio::test]
async fn an_operation_of_a_batch_needs_what_it_needs_alone() {
    let api = Api::new().await;
    let reader = api.token_with(&["Cloudflare Tunnel Read"]).await;
    let path = format!("/accounts/{}/cfd_tunnel", api.control.account());
    let body = json!({ "operations": [{ "method": "POST", "path": path, "body": { "name": "x" } }] });
    let answer = api.send_as(Some(&reader), Method::POST, &api.path("x/batch"), body.to_string()).await;
    answer.refused(403, 10000, "Authentication error");
    let other = body.to_string().replace(&api.control.account().to_string(), &"0".repeat(32));
    let answer = api.send_as(Some(&api.token), Method::POST, &api.path("x/batch"), other).await;
    answer.refused(400, 1003, "a path below this account");
}
