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

#[tokio::test]
async fn rules_change_places_in_one_batch_and_records_say_where_they_went() {
    let api = Api::new().await;
    let rule = |name: &str, precedence: u64| json!({ "name": name, "action": "block", "filters": ["l4"], "enabled": true, "precedence": precedence });
    let mut ids = Vec::new();
    for (name, precedence) in [("a", 1), ("b", 2), ("c", 3)] {
        ids.push(api.post("gateway/rules", rule(name, precedence)).await.text("/result/id"));
    }
    let put = |id: &str, body: Value| {
        let path = format!("/accounts/{}/gateway/rules/{id}", api.control.account());
        json!({ "method": "PUT", "path": path, "body": body })
    };
    let before = api.control.store().state().await.unwrap().number;
    let turned = json!({ "operations": [
        put(&ids[0], rule("a", 2)), put(&ids[1], rule("b", 3)), put(&ids[2], rule("c", 1)),
    ] });
    let done = api.post("x/batch", turned).await;
    let told: Vec<&Value> =
        done.result().as_array().unwrap().iter().map(|rule| &rule["precedence"]).collect();
    assert_eq!(told, [2, 3, 1]);
    let listed = api.get("gateway/rules").await;
    let listed = listed.result().as_array().unwrap().iter().map(|rule| (&rule["name"], &rule["precedence"]));
    let listed: Vec<_> =
        listed.map(|(name, place)| (name.as_str().unwrap(), place.as_u64().unwrap())).collect();
    assert_eq!(listed, [("c", 1), ("a", 2), ("b", 3)]);
    assert_eq!(api.control.store().state().await.unwrap().number, before + 1, "one entry of the change log");
    let records = api.get("audit_logs?per_page=3").await.result().to_string();
    for place in [1, 2, 3] {
        assert!(records.contains(&format!("\"precedence\":{place},")), "{records}");
    }

    // What is still another's at the end is refused, and said of the operation that asked for it.
    let taken = json!({ "operations": [put(&ids[0], rule("a", 9)), put(&ids[1], rule("b", 1))] });
    let refused = api.post("x/batch", taken).await;
    refused.refused(409, 2081, "operation 1: a rule with this precedence already exists: c");
    assert_eq!(refused.body["errors"][0]["source"]["pointer"], "/operations/1/body/precedence");
    let both = json!({ "operations": [put(&ids[0], rule("a", 1)), put(&ids[1], rule("b", 1))] });
    api.post("x/batch", both).await.refused(409, 2081, "a rule with this precedence already exists: a");
    assert_eq!(
        api.get(&format!("gateway/rules/{}", ids[0])).await.result()["precedence"],
        2,
        "nothing was done"
    );

    // A rule that goes makes room for one that was made before it in the same batch.
    let path = format!("/accounts/{}/gateway/rules", api.control.account());
    let replaced = json!({ "operations": [
        { "method": "POST", "path": path, "body": rule("new", 1) },
        { "method": "DELETE", "path": format!("{path}/{}", ids[2]) },
    ] });
    assert_eq!(api.post("x/batch", replaced).await.result()[0]["precedence"], 1);
}
