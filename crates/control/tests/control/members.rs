//! Members, roles, the account itself, and what else an account is asked for (contract D, 5, 6.6 and 12.1).

use super::*;

const ADMINISTRATOR: &str = "ad17000000000000000000000000a001";

#[tokio::test]
async fn members_are_added_given_other_roles_listed_and_removed() {
    let api = Api::new().await;
    let body = json!({ "email": "Ann@example.com", "roles": [ADMINISTRATOR] });
    let ann = api.post("members", body.clone()).await;
    assert_eq!(ann.result()["status"], "pending");
    assert_eq!(ann.result()["roles"][0]["name"], "Administrator");
    assert_eq!(ann.result()["user"]["email"], "Ann@example.com");
    let again = json!({ "email": "ann@EXAMPLE.com", "roles": [ADMINISTRATOR] });
    api.post("members", again).await.refused(409, 1016, "belongs to the account already");
    let tag = api.control.account().to_string();
    let policies = json!([{
        "access": "allow",
        "permission_groups": [{ "id": "ad170000000000000000000000000101" }],
        "resource_groups": [{ "id": tag }],
    }]);
    let bob = api.post("members", json!({ "email": "bob@example.com", "policies": policies })).await;
    assert_eq!(bob.result()["policies"][0]["permission_groups"][0]["name"], "Cloudflare Tunnel Read");
    assert_eq!(bob.result()["roles"], json!([]));
    let id = bob.text("/result/id");
    // As an older client sends roles.
    let roles = json!({ "account_id": tag, "roles": [{ "id": "ad17000000000000000000000000a002" }] });
    let changed = api.put(&format!("members/{id}"), roles).await;
    assert_eq!(changed.result()["roles"][0]["name"], "Administrator Read Only");
    assert_eq!(api.get(&format!("members/{id}")).await.result(), changed.result());
    let list = async |query: &str| api.get(&format!("members{query}")).await.column("email");
    assert_eq!(list("").await, ["Ann@example.com", "bob@example.com"]);
    assert_eq!(list("?order=user.email&direction=desc").await, ["bob@example.com", "Ann@example.com"]);
    assert_eq!(list("?per_page=1&page=2").await, ["bob@example.com"]);
    assert_eq!(list("?status=accepted").await, Vec::<String>::new());
    assert_eq!(api.delete(&format!("members/{id}")).await.text("/result/id"), id);
    api.get(&format!("members/{id}")).await.refused(404, 1003, "Member not found");
    assert_eq!(list("").await, ["Ann@example.com"]);
    let undashed = uuid::Uuid::new_v4().simple();
    api.delete(&format!("members/{undashed}")).await.refused(404, 1003, "Member not found");
}

#[tokio::test]
async fn a_members_flaws_are_told_with_their_place() {
    let api = Api::new().await;
    let policy = |group: &str, resource: &str| json!([{ "access": "allow", "permission_groups": [{ "id": group }], "resource_groups": [{ "id": resource }] }]);
    let group = "ad170000000000000000000000000101";
    for (body, pointer) in [
        (json!({ "roles": [ADMINISTRATOR] }), "/email"),
        (json!({ "email": "nobody", "roles": [ADMINISTRATOR] }), "/email"),
        (json!({ "email": "a b@example.com", "roles": [ADMINISTRATOR] }), "/email"),
        (json!({ "email": "a@example.com" }), "/roles"),
        (json!({ "email": "a@example.com", "roles": [] }), "/roles"),
        (json!({ "email": "a@example.com", "roles": [ADMINISTRATOR, "x"] }), "/roles/1"),
        (json!({ "email": "a@example.com", "roles": [ADMINISTRATOR], "policies": [] }), "/policies"),
        (json!({ "email": "a@example.com", "policies": [{}] }), "/policies/0/access"),
        (
            json!({ "email": "a@example.com", "policies": policy("x", "x") }),
            "/policies/0/permission_groups/0/id",
        ),
        (
            json!({ "email": "a@example.com", "policies": policy(group, &"0".repeat(32)) }),
            "/policies/0/resource_groups/0/id",
        ),
        (json!({ "email": "a@example.com", "roles": [ADMINISTRATOR], "status": "accepted" }), "/status"),
    ] {
        let answer = api.post("members", body.clone()).await;
        answer.refused(400, 1003, "");
        assert_eq!(answer.body["errors"][0]["source"]["pointer"], pointer, "{body}");
    }
    assert_eq!(api.get("members").await.result(), &json!([]));
}

#[tokio::test]
async fn an_account_is_renamed_and_keeps_what_is_not_said() {
    let api = Api::new().await;
    let path = api.path("").trim_end_matches('/').to_owned();
    let put = async |body: Value| api.send(Method::PUT, &path, Some(&body)).await;
    let contact = json!({ "abuse_contact_email": "abuse@example.com", "enforce_twofactor": false });
    let changed = put(json!({ "name": "home", "type": "standard", "settings": contact })).await;
    assert_eq!((&changed.result()["name"], &changed.result()["settings"]), (&json!("home"), &contact));
    let kept = put(json!({ "name": "home", "type": "standard" })).await;
    assert_eq!(kept.result()["settings"]["abuse_contact_email"], "abuse@example.com");
    // What a client read, it can send.
    let whole = api.send(Method::GET, &path, None).await.result().clone();
    assert_eq!(put(whole.clone()).await.result(), &whole);
    let without = json!({ "name": "home", "type": "standard", "settings": { "abuse_contact_email": null } });
    assert_eq!(put(without).await.result()["settings"]["abuse_contact_email"], Value::Null);
    accounts::Other::new(&api, "taken").await;
    put(json!({ "name": "taken", "type": "standard" })).await.refused(409, 1015, "Another account");
    put(json!({ "name": "home", "type": "enterprise" })).await.refused(400, 1003, "type: expected standard");
    put(json!({ "name": "0".repeat(32), "type": "standard" })).await.refused(400, 1003, "no account's id");
    let two = json!({ "name": "home", "type": "standard", "settings": { "enforce_twofactor": true } });
    let refused = put(two).await;
    refused.refused(400, 1003, "nobody signs in yet");
    assert_eq!(refused.body["errors"][0]["source"]["pointer"], "/settings/enforce_twofactor");
    let reader = api.token_with(&["Account Settings Read"]).await;
    let body = json!({ "name": "x", "type": "standard" }).to_string();
    api.send_as(Some(&reader), Method::PUT, &path, body).await.refused(403, 10000, "Authentication error");
    api.send(Method::PATCH, "/client/v4/user", Some(&json!({}))).await.refused(403, 9109, "Unauthorized");
}

#[tokio::test]
async fn the_history_of_an_audit_record_is_its_objects() {
    let api = Api::new().await;
    let (one, _) = (api.tunnel("one").await, api.tunnel("two").await);
    api.patch(&format!("cfd_tunnel/{one}"), json!({ "name": "three" })).await.result();
    let span = "since=2020-01-01&before=2100-01-01";
    let record = api.get(&format!("logs/audit?{span}&resource_id={one}")).await.text("/result/0/id");
    let history = api.get(&format!("logs/audit/{record}/history?{span}&direction=asc")).await;
    let done: Vec<&str> = history
        .result()
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["action"]["type"].as_str().unwrap())
        .collect();
    assert_eq!(done, ["create", "update"]);
    let first = api.get(&format!("logs/audit/{record}/history?{span}&direction=asc&limit=1")).await;
    let after = first.text("/result_info/cursors/after");
    let second = api.get(&format!("logs/audit/{record}/history?{span}&direction=asc&cursor={after}")).await;
    assert_eq!(second.result()[0]["action"]["type"], "update");
    api.get(&format!("logs/audit/{record}/history")).await.refused(400, 1003, "since");
    api.get(&format!("logs/audit/nothing/history?{span}")).await.refused(404, 1003, "not found");
    let products = api.get("logs/audit/product_categories").await;
    assert_eq!(products.result()[0]["products"][0]["value"], "tunnel");
}

#[tokio::test]
async fn connectivity_settings_say_what_is_so_and_take_nothing_else() {
    let api = Api::new().await;
    let path = "zerotrust/connectivity_settings";
    let is = json!({ "icmp_proxy_enabled": true, "offramp_warp_enabled": false });
    assert_eq!(api.get(path).await.result(), &is);
    assert_eq!(api.patch(path, is.clone()).await.result(), &is);
    let refused = api.patch(path, json!({ "icmp_proxy_enabled": false })).await;
    refused.refused(400, 1003, "ICMP cannot be switched off yet");
    assert_eq!(refused.body["errors"][0]["source"]["pointer"], "/icmp_proxy_enabled");
    api.patch(path, json!({ "offramp_warp_enabled": true })).await.refused(
        400,
        1003,
        "do not reach each other",
    );
    // Nothing carries these: they are not there.
    api.get("warp_connector/x/configurations").await.refused(404, 7003, "No route");
}

/// Contract D, 4: clients walk on until a page is empty.
#[tokio::test]
async fn a_page_beyond_the_end_of_any_list_is_empty() {
    let api = Api::new().await;
    let tunnel = api.tunnel("k8s").await;
    let site = api.post("warp_connector", json!({ "name": "site" })).await.text("/result/id");
    let list = api.post("gateway/lists", json!({ "name": "l", "type": "IP", "items": ["10.0.0.1"] })).await;
    api.post("teamnet/routes", json!({ "network": "10.0.0.0/8", "tunnel_id": tunnel })).await.result();
    api.post("access/service_tokens", json!({ "name": "ci" })).await.result();
    api.post("members", json!({ "email": "a@example.com", "roles": [ADMINISTRATOR] })).await.result();
    api.post("gateway/rules", json!({ "name": "x", "action": "off" })).await.result();
    let record = api.get("logs/audit?since=2020-01-01&before=2100-01-01").await.text("/result/0/id");
    let (account, list) = (api.control.account().to_string(), list.text("/result/id"));
    let mut walked = 0;
    for (path, methods) in api::document()["paths"].as_object().unwrap() {
        let Some(row) = methods.get("get") else { continue };
        let schema = &row["responses"]["200"]["content"]["application/json"]["schema"];
        let info = &schema["properties"]["result_info"]["properties"];
        if !info.is_object() {
            continue;
        }
        walked += 1;
        let path =
            path.replace("{account}", &account).replace("{zone}", &account).replace("{audit}", &record);
        let path = path.replace("{tunnel}", &tunnel).replace("{site_tunnel}", &site);
        let path = path.replace("{list}", &list).replace("{dataset}", "gateway_http");
        assert!(!path.contains('{'), "{path}: what stands there?");
        let get = async |query: &str| {
            let path = format!("/client/v4{path}?since=2020-01-01&before=2100-01-01{query}");
            api.send(Method::GET, &path, None).await
        };
        if info.get("total_pages").is_some() {
            // Whoever has one page says so; the others are empty from the end on.
            let first = get("").await;
            let pages = first.body["result_info"]["total_pages"].as_u64().unwrap();
            let parameters = row["parameters"].to_string();
            let paged = parameters.contains("\"per_page\"");
            for page in [pages + 1, pages + 7, u64::MAX] {
                let beyond = get(&format!("&page={page}")).await;
                let rows = beyond.result().as_array().unwrap().len();
                assert!(!paged || rows == 0, "{path}: {rows} rows on page {page} of {pages}");
                assert_eq!(beyond.body["result_info"]["count"], rows, "{path}");
            }
            continue;
        }
        // By cursor: as often as there are rows, and then no cursor.
        let mut cursor = String::new();
        for _ in 0..200 {
            let size = if info.get("cursors").is_some() { "limit" } else { "per_page" };
            let page = get(&format!("&{size}=1{cursor}")).await;
            assert!(page.result().as_array().unwrap().len() <= 1, "{path}");
            let next = page.body["result_info"]["cursor"].as_str().filter(|next| !next.is_empty());
            let Some(next) = next else {
                cursor = "end".into();
                break;
            };
            cursor = format!("&cursor={next}");
        }
        assert_eq!(cursor, "end", "{path}: its cursors never end");
    }
    assert!(walked > 20, "only {walked} lists");
}
