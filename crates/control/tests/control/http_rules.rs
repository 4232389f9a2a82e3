//! What holds for every request: envelope, headers, credentials, codes (contract D, 1 to 4).

use adit_store::{AuditWindow, Direction};

use super::*;

#[tokio::test]
async fn credentials_are_refused_by_their_name() {
    let api = Api::new().await;
    let path = api.path("cfd_tunnel");
    let send = |header: Option<(&'static str, String)>| {
        let mut request = Request::get(&path);
        if let Some((name, value)) = header {
            request = request.header(name, value);
        }
        api.request(request.body(Body::empty()).unwrap())
    };
    send(None).await.refused(400, 9106, "Missing X-Auth-Key");
    let malformed = send(Some(("authorization", "Basic eDp5".into()))).await;
    malformed.refused(400, 6003, "Invalid request headers");
    assert_eq!(malformed.body["errors"][0]["error_chain"][0]["code"], 6111);
    send(Some(("authorization", "Bearer a b".into()))).await.refused(400, 6003, "");
    send(Some(("authorization", "Bearer unknown".into()))).await.refused(401, 10000, "Authentication error");
    send(Some(("x-auth-key", "0".repeat(37)))).await.refused(401, 10000, "X-Auth-Key");
    send(Some(("x-auth-email", "a@example.com".into()))).await.refused(400, 9106, "Missing");
    send(Some(("authorization", format!("bearer {}", api.token)))).await.result();
}

#[tokio::test]
async fn every_answer_is_an_envelope_with_ids() {
    let api = Api::new().await;
    let paths = [
        api.path("cfd_tunnel"),
        api.path("nothing"),
        "/client/v4".into(),
        "/client/v4/".into(),
        api.path("cfd_tunnel/"),
    ];
    for path in paths {
        let answer = api.send(Method::GET, &path, None).await;
        assert_eq!(answer.headers["content-type"], "application/json", "exactly");
        let ray = answer.headers["cf-ray"].to_str().unwrap();
        assert!(ray.len() == 21 && ray.ends_with("-adit"), "{ray}");
        assert_eq!(answer.headers["x-request-id"].len(), 36);
        assert!(answer.headers["ratelimit"].to_str().unwrap().starts_with("\"default\";r="));
        for key in ["success", "errors", "messages", "result"] {
            assert!(answer.body.get(key).is_some(), "{path}: {key} of {}", answer.body);
        }
        let again = answer.headers.get("x-should-retry").map(|value| value.to_str().unwrap());
        assert_eq!(again, answer.status.is_client_error().then_some("false"), "{path}");
    }
}

#[tokio::test]
async fn unknown_paths_and_methods_are_404_and_malformed_tags_are_400() {
    let api = Api::new().await;
    api.get("cfd_tunnel/x/y/z").await.refused(404, 7003, "No route for that URI");
    api.put("cfd_tunnel", json!({})).await.refused(404, 7003, "No route for that URI");
    let head = Request::builder().method("OPTIONS").uri(api.path("cfd_tunnel"));
    let head = head.header("authorization", format!("Bearer {}", api.token));
    api.request(head.body(Body::empty()).unwrap()).await.refused(404, 7003, "");
    let wrong_tag = api.send(Method::GET, "/client/v4/accounts/XYZ/cfd_tunnel", None).await;
    wrong_tag.refused(400, 7003, "Could not route to /client/v4/accounts/XYZ/cfd_tunnel");
    let other = format!("/client/v4/accounts/{}/cfd_tunnel", "0".repeat(32));
    api.send(Method::GET, &other, None).await.refused(403, 9109, "Unauthorized");
    api.send(Method::GET, &api.path("cfd_tunnel/%00"), None).await.refused(400, 7003, "Could not route");
    api.get("cfd_tunnel?name=%00").await.refused(400, 1003, "NUL");
}

#[tokio::test]
async fn bodies_are_json_of_a_bounded_length() {
    let api = Api::new().await;
    let path = api.path("cfd_tunnel");
    let send = |body: String| api.send_as(Some(&api.token), Method::POST, &path, body);
    send("{".into()).await.refused(400, 6007, "Malformed JSON in request body");
    send("[]".into()).await.refused(400, 1003, "expected an object");
    send(format!("{{\"name\":\"{}\"}}", "x".repeat(8 << 20))).await.refused(413, 6008, "larger than 8388608");
    send(r#"{"name":"a\u0000b"}"#.into()).await.refused(400, 1003, "NUL");
    send(String::new()).await.refused(
        400,
        1003,
        "name: expected 1 to 100 printable characters; it is required",
    );
    let id = api.tunnel("k8s").await;
    let empty = api.send(Method::DELETE, &api.path(&format!("cfd_tunnel/{id}")), Some(&json!({}))).await;
    assert_ne!(empty.result()["deleted_at"], Value::Null);
}

#[tokio::test]
async fn a_validation_error_points_at_the_field() {
    let api = Api::new().await;
    insta::assert_snapshot!(api.post("cfd_tunnel", json!({ "name": 7 })).await.plain());
}

#[tokio::test]
async fn a_page_beyond_the_end_is_empty_and_sizes_are_cut() {
    let api = Api::new().await;
    for name in ["a", "b", "c"] {
        api.tunnel(name).await;
    }
    let page = api.get("cfd_tunnel?per_page=2&page=1").await;
    assert_eq!(page.column("name"), ["a", "b"]);
    let info = json!({ "page": 1, "per_page": 2, "count": 2, "total_count": 3, "total_pages": 2 });
    assert_eq!(page.body["result_info"], info);
    assert_eq!(api.get("cfd_tunnel?per_page=2&page=2").await.column("name"), ["c"]);
    for page in [3, 100] {
        let beyond = api.get(&format!("cfd_tunnel?per_page=2&page={page}")).await;
        assert_eq!(beyond.result(), &json!([]));
        assert_eq!(beyond.body["result_info"]["total_count"], 3);
        assert_eq!(beyond.body["result_info"]["count"], 0);
    }
    assert_eq!(api.get("cfd_tunnel?per_page=5000").await.body["result_info"]["per_page"], 1000);
    assert_eq!(api.get("cfd_tunnel").await.body["result_info"]["per_page"], 20);
    for wrong in ["page=0", "per_page=0", "per_page=-1", "page=x"] {
        api.get(&format!("cfd_tunnel?{wrong}")).await.refused(400, 1003, "expected a number of at least 1");
    }
}

#[tokio::test]
async fn refused_credentials_are_limited_by_address_and_recorded() {
    let api = Api::new().await;
    let send = |token: &str| {
        let mut request = Request::get(api.path("cfd_tunnel"))
            .header("authorization", format!("Bearer {token}"))
            .body(Body::empty())
            .unwrap();
        request.extensions_mut().insert(SocketAddr::from(([192, 0, 2, 1], 5)));
        api.request(request)
    };
    let mut refusals = 0;
    let limited = loop {
        let answer = send("wrong").await;
        if answer.status == StatusCode::TOO_MANY_REQUESTS {
            break answer;
        }
        answer.refused(401, 10000, "");
        refusals += 1;
        assert!(refusals < 1000, "no limit");
    };
    limited.refused(429, 971, "Please wait");
    assert!(limited.headers.contains_key("retry-after") && !limited.headers.contains_key("x-should-retry"));
    send(&api.token).await.result();
    let records = api.control.store().audit_list(api.control.account(), &everything()).await.unwrap();
    let recorded = records.iter().filter(|record| record.action == "credential.refuse");
    assert_eq!(recorded.count(), refusals);
}

#[tokio::test]
async fn a_token_may_only_what_its_policies_say() {
    let api = Api::new().await;
    let reader = api.token_with(&["Cloudflare Tunnel Read"]).await;
    let path = api.path("cfd_tunnel");
    let list = api.send_as(Some(&reader), Method::GET, &path, String::new()).await;
    assert_eq!(list.result(), &json!([]));
    let create = api.send_as(Some(&reader), Method::POST, &path, json!({ "name": "x" }).to_string()).await;
    create.refused(403, 10000, "Authentication error");
    for other in ["access/service_tokens", "devices/registrations", "tokens"] {
        let answer = api.send_as(Some(&reader), Method::GET, &api.path(other), String::new()).await;
        answer.refused(403, 10000, "Authentication error");
    }
}

#[tokio::test]
async fn a_tunnel_token_takes_no_addresses_from_another_tunnel() {
    let api = Api::new().await;
    let (old, new) = (api.tunnel("old").await, api.tunnel("new").await);
    api.post("teamnet/routes", json!({ "network": "10.0.0.0/8", "tunnel_id": old })).await.result();
    let writer = api.token_with(&["Cloudflare Tunnel Write"]).await;
    let body = json!({ "network": "10.1.0.0/16", "tunnel_id": new }).to_string();
    let path = api.path("teamnet/routes");
    let refused = api.send_as(Some(&writer), Method::POST, &path, body.clone()).await;
    refused.refused(403, 10000, "Zero Trust Write");
    api.send_as(Some(&api.token), Method::POST, &path, body).await.result();
}

/// Every audit record, newest first.
pub(super) fn everything() -> AuditWindow {
    AuditWindow {
        since: None,
        before: None,
        direction: Direction::Descending,
        after: None,
        limit: 10_000,
        unowned: true,
    }
}
