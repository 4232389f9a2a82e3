//! Audit records through the API (contract D, 12).

use super::*;

/// A stretch of time that holds everything.
const ALWAYS: &str = "since=2020-01-01&before=2100-01-01";

#[tokio::test]
async fn every_write_is_recorded_once_with_who_and_what() {
    let api = Api::new().await;
    let tunnel = api.tunnel("k8s").await;
    let body = json!({ "network": "10.0.0.0/8", "tunnel_id": tunnel });
    let route = api.post("teamnet/routes", body).await.text("/result/id");
    api.delete(&format!("teamnet/routes/{route}")).await.result();
    let listed = api.get(&format!("logs/audit?{ALWAYS}&resource_type=route&direction=asc")).await;
    let kinds: Vec<&str> = listed
        .result()
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["action"]["type"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, ["create", "delete"]);
    let item = &listed.result()[0];
    assert_eq!(item["resource"]["id"], route);
    assert_eq!(item["resource"]["product"], "tunnel");
    assert_eq!(item["actor"]["context"], "api_token");
    assert_eq!(item["actor"]["token_name"], "admin");
    assert_eq!(item["actor"]["ip_address"], "127.0.0.1");
    assert_eq!(item["raw"]["method"], "POST");
    assert_eq!(item["raw"]["uri"], api.path("teamnet/routes"));
    assert_eq!(item["account"]["id"], api.control.account().to_string());
    assert_eq!(listed.body["result_info"], json!({ "count": 2, "cursor": "", "cursors": { "after": "" } }));
}

#[tokio::test]
async fn an_answer_and_its_record_have_the_same_ray() {
    let api = Api::new().await;
    let made = api.post("cfd_tunnel", json!({ "name": "k8s" })).await;
    let ray = made.headers["cf-ray"].to_str().unwrap();
    let found = api.get(&format!("logs/audit?{ALWAYS}&raw_cf_ray_id={ray}")).await;
    assert_eq!(found.result()[0]["resource"]["id"], made.text("/result/id"));
}

#[tokio::test]
async fn a_cursor_walks_over_all_records_once() {
    let api = Api::new().await;
    for at in 0..250 {
        api.tunnel(&format!("tunnel-{at}")).await;
    }
    for direction in ["asc", "desc"] {
        let (mut ids, mut cursor) = (Vec::new(), String::new());
        loop {
            let filter = format!("{ALWAYS}&limit=40&action_type=create&resource_type=tunnel");
            let page = api.get(&format!("logs/audit?{filter}&direction={direction}&cursor={cursor}")).await;
            assert!(page.result().as_array().unwrap().len() <= 40);
            ids.extend(page.column("id"));
            cursor = page.text("/result_info/cursors/after");
            if cursor.is_empty() {
                break;
            }
        }
        let distinct: std::collections::BTreeSet<&String> = ids.iter().collect();
        assert_eq!((ids.len(), distinct.len()), (250, 250), "{direction}");
    }
}

#[tokio::test]
async fn a_refused_credential_is_recorded_and_can_be_left_out() {
    let api = Api::new().await;
    let path = api.path("cfd_tunnel");
    api.send_as(Some("wrong"), Method::GET, &path, String::new()).await.refused(
        401,
        10000,
        "Authentication error",
    );
    let failed = api.get(&format!("logs/audit?{ALWAYS}&action_result=failure")).await;
    assert_eq!(failed.result()[0]["raw"]["uri"], path);
    assert_eq!(failed.result()[0]["actor"]["ip_address"], "127.0.0.1");
    let others = api.get(&format!("logs/audit?{ALWAYS}&action_result.not=failure")).await;
    assert!(!others.column("id").contains(&failed.text("/result/0/id")));
}

#[tokio::test]
async fn a_stretch_of_time_is_needed_and_held_to() {
    let api = Api::new().await;
    api.get("logs/audit").await.refused(400, 1003, "since: expected a time");
    api.get("logs/audit?since=2026-01-01").await.refused(400, 1003, "before: expected a time");
    api.get(&format!("logs/audit?{ALWAYS}&cursor=x")).await.refused(400, 1003, "cursor: expected a cursor");
    api.get(&format!("logs/audit?{ALWAYS}&direction=up")).await.refused(400, 1003, "direction: expected");
    assert_eq!(api.get("logs/audit?since=2020-01-01&before=2020-01-02").await.result(), &json!([]));
}

#[tokio::test]
async fn the_older_list_comes_in_pages() {
    let api = Api::new().await;
    for at in 0..5 {
        api.tunnel(&format!("tunnel-{at}")).await;
    }
    let page = api.get("audit_logs?per_page=3&page=2&action.type=create").await;
    assert_eq!(page.body["result_info"]["total_count"], 6, "five tunnels and the account");
    let item = &page.result()[0];
    assert_eq!((&item["action"]["result"], &item["interface"]), (&json!(true), &json!("API")));
    assert_eq!(api.get("audit_logs?per_page=3&page=3&action.type=create").await.result(), &json!([]));
    let path = "/client/v4/user/audit_logs";
    assert_eq!(api.send(Method::GET, path, None).await.result().as_array().unwrap().len(), 6);
}

#[tokio::test]
async fn records_need_the_permission_to_read_them() {
    let api = Api::new().await;
    let path = api.path(&format!("logs/audit?{ALWAYS}"));
    let reader = api.token_with(&["Access: Audit Logs Read"]).await;
    api.send_as(Some(&reader), Method::GET, &path, String::new()).await.result();
    let other = api.token_with(&["Zero Trust Write"]).await;
    api.send_as(Some(&other), Method::GET, &path, String::new()).await.refused(403, 10000, "Authentication");
}
