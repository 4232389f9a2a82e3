//! API tokens (contract D, 5) and service tokens (10.9).

use super::*;

#[tokio::test]
async fn a_token_is_verified_by_itself() {
    let api = Api::new().await;
    for path in ["/client/v4/user/tokens/verify".into(), api.path("tokens/verify")] {
        let answer = api.send(Method::GET, &path, None).await;
        assert_eq!(answer.result()["status"], "active");
        assert_eq!(answer.body["messages"], json!([]));
        assert_eq!(answer.text("/result/id").len(), 32);
        let unknown = api.send_as(Some("unknown"), Method::GET, &path, String::new()).await;
        unknown.refused(401, 1000, "Invalid API Token");
    }
    api.send(Method::GET, "/client/v4/user", None).await.refused(403, 9109, "");
}

#[tokio::test]
async fn credentials_that_are_no_tokens_are_refused_by_name() {
    let api = Api::new().await;
    let sent = async |headers: &[(&str, &str)]| {
        let mut request = Request::builder().uri("/client/v4/user/tokens/verify");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        api.request(request.body(Body::empty()).unwrap()).await
    };
    let key = ("x-auth-key", "0123456789abcdef0123456789abcdef01234");
    let email = ("x-auth-email", "someone@example.com");
    sent(&[email, key]).await.refused(401, 10000, "X-Auth-Key, a global API key, is not supported");
    sent(&[("x-auth-user-service-key", "v1.0-abc")]).await.refused(
        401,
        10000,
        "X-Auth-User-Service-Key is not",
    );
    sent(&[email]).await.refused(400, 9106, "Missing X-Auth-Key, X-Auth-Email or Authorization headers");
    let bearer = format!("Bearer {}", api.token);
    sent(&[email, key, ("authorization", &bearer)]).await.result();
    sent(&[("authorization", "Bearer v1.0-abc")]).await.refused(401, 1000, "Invalid API Token");
}

#[tokio::test]
async fn accounts_are_not_made_or_deleted_over_the_api() {
    let api = Api::new().await;
    let made = api.send(Method::POST, "/client/v4/accounts", Some(&json!({ "name": "x" }))).await;
    made.refused(403, 10000, "by adit account");
    let own = format!("/client/v4/accounts/{}", api.control.account());
    api.send(Method::DELETE, &own, None).await.refused(403, 10000, "by adit account");
}

#[tokio::test]
async fn every_policy_of_a_token_has_an_id_of_its_own() {
    let api = Api::new().await;
    let id = api.get("tokens").await.text("/result/0/policies/0/id");
    assert_eq!(id.len(), 32);
    let mut policies = api.get("tokens").await.body["result"][0]["policies"].clone();
    let second = policies[0].clone();
    policies.as_array_mut().unwrap().push(second);
    let made = api.post("tokens", json!({ "name": "two", "policies": policies })).await;
    let of = |answer: &Answer| [0, 1].map(|at| answer.text(&format!("/result/policies/{at}/id")));
    let ids = of(&made);
    assert!(ids[0] != ids[1] && !ids.contains(&id), "{ids:?}");
    assert_eq!(of(&api.get(&format!("tokens/{}", made.text("/result/id"))).await), ids, "and keeps it");
}

#[tokio::test]
async fn an_account_is_seen_by_its_tokens() {
    let api = Api::new().await;
    insta::assert_snapshot!("accounts", api.send(Method::GET, "/client/v4/accounts", None).await.plain());
    let one = format!("/client/v4/accounts/{}", api.control.account());
    assert_eq!(api.send(Method::GET, &one, None).await.result()["id"], api.control.account().to_string());
    assert_eq!(api.send(Method::GET, "/client/v4/accounts?page=2", None).await.result(), &json!([]));
}

#[tokio::test]
async fn a_tokens_value_is_shown_once_and_dies_when_it_is_rolled_or_revoked() {
    let api = Api::new().await;
    let value = api.token_with(&["Cloudflare Tunnel Read"]).await;
    let listed = api.get("tokens").await;
    assert_eq!(listed.column("name"), ["admin", "limited"]);
    assert!(!listed.body.to_string().contains(&value) && !listed.body.to_string().contains("\"value\""));
    let id = listed.text("/result/1/id");
    let path = api.path("cfd_tunnel");
    let works = async |value: &str| {
        api.send_as(Some(value), Method::GET, &path, String::new()).await.status == StatusCode::OK
    };
    assert!(works(&value).await);
    let rolled = api.put(&format!("tokens/{id}/value"), json!({})).await.text("/result");
    assert!(!works(&value).await && works(&rolled).await);
    let policies = api.get(&format!("tokens/{id}")).await.result()["policies"].clone();
    let off = json!({ "name": "off", "policies": policies, "status": "disabled" });
    assert_eq!(api.put(&format!("tokens/{id}"), off).await.result()["status"], "disabled");
    assert!(!works(&rolled).await);
    let verify = "/client/v4/user/tokens/verify";
    let verified = api.send_as(Some(&rolled), Method::GET, verify, String::new()).await;
    assert_eq!(verified.result()["status"], "disabled");
    assert_eq!(api.delete(&format!("tokens/{id}")).await.result()["id"], id);
    api.get(&format!("tokens/{id}")).await.refused(404, 1003, "API token not found");
    let revoked = api.send_as(Some(&rolled), Method::GET, verify, String::new()).await;
    revoked.refused(401, 1000, "Invalid API Token");
}

#[tokio::test]
async fn an_expired_token_and_one_from_elsewhere_are_refused() {
    let api = Api::new().await;
    let policies = api.get("tokens").await.body["result"][0]["policies"].clone();
    let create = |extra: Value| {
        let mut body = json!({ "name": "x", "policies": policies });
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        api.post("tokens", body)
    };
    let path = api.path("cfd_tunnel");
    let expired = create(json!({ "expires_on": "2020-01-01T00:00:00Z" })).await.text("/result/value");
    let answer = api.send_as(Some(&expired), Method::GET, &path, String::new()).await;
    answer.refused(401, 10000, "Authentication error");
    let elsewhere = create(json!({ "condition": { "request_ip": { "in": ["192.0.2.0/24"] } } })).await;
    let elsewhere = elsewhere.text("/result/value");
    let answer = api.send_as(Some(&elsewhere), Method::GET, &path, String::new()).await;
    answer.refused(403, 9109, "Cannot use the access token from location: 127.0.0.1");
    let wrong = create(json!({ "condition": { "request_ip": { "in": ["x"] } } })).await;
    wrong.refused(400, 1003, "networks such as");
    for condition in [
        json!("x"),
        json!({ "request.ip": {} }),
        json!({ "request_ip": { "on": [] } }),
        json!({ "request_ip": 7 }),
    ] {
        create(json!({ "condition": condition })).await.refused(400, 1003, "condition");
    }
    let wrong = api.post("tokens", json!({ "name": "x", "policies": [] })).await;
    wrong.refused(400, 1003, "policies: expected an array");
}

#[tokio::test]
async fn a_service_tokens_secret_is_shown_once() {
    let api = Api::new().await;
    let tokens = "access/service_tokens";
    let made = api.post(tokens, json!({ "name": "ci" })).await;
    insta::assert_snapshot!("service_token", made.plain());
    assert!(made.text("/result/client_id").ends_with(".access"));
    assert_eq!(made.text("/result/client_id").len(), 39);
    assert_eq!(made.text("/result/client_secret").len(), 64);
    let path = format!("{tokens}/{}", made.text("/result/id"));
    for later in [api.get(&path).await, api.get(tokens).await, api.put(&path, json!({ "name": "ci2" })).await]
    {
        assert!(!later.body.to_string().contains("\"client_secret\""), "{}", later.body);
    }
    assert_eq!(api.get(&format!("{tokens}?page=2")).await.result(), &json!([]));
    assert_eq!(api.get(&path).await.result()["name"], "ci2");
    let rotated = api.post(&format!("{path}/rotate"), json!({})).await;
    assert_eq!(rotated.result()["client_secret_version"], 2);
    assert_ne!(rotated.text("/result/client_secret"), made.text("/result/client_secret"));
    let raised = api.put(&path, json!({ "client_secret_version": 3 })).await;
    assert_eq!(raised.text("/result/client_secret").len(), 64);
    api.put(&path, json!({ "client_secret_version": 1 })).await.refused(400, 12130, "3 or more");
    let deleted = api.delete(&path).await;
    assert_eq!(deleted.result()["name"], "ci2");
    api.get(&path).await.refused(404, 12021, "access.api.error.unknown_service_token");
}

#[tokio::test]
async fn a_service_tokens_duration_says_when_it_ends() {
    let api = Api::new().await;
    let tokens = "access/service_tokens";
    let forever = api.post(tokens, json!({ "name": "f", "duration": "forever" })).await;
    assert_eq!(forever.result()["expires_at"], Value::Null);
    let short = api.post(tokens, json!({ "name": "s", "duration": "30m" })).await;
    assert_eq!(short.result()["duration"], "30m");
    let path = format!("{tokens}/{}", short.text("/result/id"));
    let same = api.put(&path, json!({ "name": "s", "duration": "30m" })).await;
    assert_eq!(same.result()["expires_at"], short.result()["expires_at"], "the same again changes nothing");
    let refreshed = api.post(&format!("{path}/refresh"), json!({})).await;
    assert!(refreshed.text("/result/expires_at") > short.text("/result/expires_at"));
    let wrong = api.post(tokens, json!({ "name": "w", "duration": "a year" })).await;
    wrong.refused(400, 12130, "access.api.error.invalid_request: duration: expected a duration");
    api.post(tokens, json!({})).await.refused(400, 12130, "name: expected");
}

#[tokio::test]
async fn a_tokens_path_is_the_accounts_or_the_users() {
    let api = Api::new().await;
    let base = "/client/v4/user/tokens";
    let policies = api.get("tokens").await.body["result"][0]["policies"].clone();
    let body = json!({ "name": "ci", "policies": policies });
    let made = api.send(Method::POST, base, Some(&body)).await;
    let value = made.text("/result/value");
    assert_eq!(api.send(Method::GET, base, None).await.column("id"), api.get("tokens").await.column("id"));
    let path = format!("{base}/{}", made.text("/result/id"));
    let rolled = api.send(Method::PUT, &format!("{path}/value"), Some(&json!({}))).await.text("/result");
    assert_ne!(rolled, value);
    api.send(Method::DELETE, &path, None).await.result();
    api.send(Method::GET, &path, None).await.refused(404, 1003, "API token not found");
    let reader = api.token_with(&["Cloudflare Tunnel Read"]).await;
    api.send_as(Some(&reader), Method::GET, base, String::new()).await.refused(403, 10000, "Authentication");
}
