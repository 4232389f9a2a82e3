//! The API's description of itself, and that it is true of the API.

use http::Method;
use serde_json::Value;

use super::Api;

async fn document(api: &Api) -> Value {
    api.send(Method::GET, "/client/v4/openapi.json", None).await.body
}

/// Every operation: its method, its path as it is described, and the description.
fn operations(document: &Value) -> Vec<(Method, String, Value)> {
    let paths = document["paths"].as_object().unwrap();
    let rows = paths.iter().flat_map(|(path, methods)| {
        let methods = methods.as_object().unwrap().iter();
        methods.map(move |(method, described)| {
            (method.to_uppercase().parse().unwrap(), path.clone(), described.clone())
        })
    });
    rows.collect()
}

#[tokio::test]
async fn the_document_is_the_committed_one() {
    let document = document(&Api::new().await).await;
    insta::assert_snapshot!("openapi", serde_json::to_string_pretty(&document).unwrap());
}

#[tokio::test]
async fn the_document_needs_a_token() {
    let api = Api::new().await;
    api.send_as(None, Method::GET, "/client/v4/openapi.json", String::new())
        .await
        .refused(400, 9106, "Missing");
}

/// Contract D, 15.11 and 15.12.
#[tokio::test]
async fn every_operation_answers_in_an_envelope_and_ignores_what_it_does_not_know() {
    let api = Api::new().await;
    let account = api.control.account().to_string();
    let mut lists = 0;
    for (method, pattern, described) in operations(&document(&api).await) {
        if pattern == "/openapi.json" {
            continue;
        }
        let path = pattern.replace("{account}", &account).replace("{zone}", &account);
        let path = path.replace("{ip}", "10.0.0.1").replace("{length}", "8").replace("{network}", "10.0.0.0");
        let random = path.contains('{');
        let path: Vec<String> = path
            .split('/')
            .map(
                |part| if part.starts_with('{') { uuid::Uuid::new_v4().to_string() } else { part.to_owned() },
            )
            .collect();
        let path = format!("/client/v4{}?x_unknown=1&page=7", path.join("/"));
        let body = (method != Method::GET).then(|| serde_json::json!({ "x_unknown": [1] }));
        let answer = api.send(method.clone(), &path, body.as_ref()).await;
        let what = format!("{method} {pattern}: {} {}", answer.status, answer.body);
        assert!(described["responses"].get(answer.status.as_str()).is_some(), "{what}");
        assert!(!answer.status.is_server_error(), "{what}");
        assert_eq!(answer.headers["content-type"], "application/json", "{what}");
        for header in ["cf-ray", "x-request-id", "ratelimit", "ratelimit-policy"] {
            assert!(answer.headers.contains_key(header), "{header}: {what}");
        }
        for key in ["success", "errors", "messages", "result"] {
            assert!(answer.body.get(key).is_some(), "{key}: {what}");
        }
        assert_eq!(answer.body["messages"], serde_json::json!([]), "{what}");
        if answer.status.is_client_error() {
            assert_eq!(answer.headers["x-should-retry"], "false", "{what}");
        }
        if method == Method::GET && random {
            assert_eq!(answer.status, 404, "{what}");
        }
        let success = &described["responses"]["200"]["content"]["application/json"]["schema"];
        let list = success["properties"].get("result_info").is_some();
        if list && answer.status.is_success() {
            lists += 1;
            assert!(answer.body["result"].is_array() && answer.body["result_info"].is_object(), "{what}");
        }
    }
    assert!(lists > 10, "only {lists} lists answered");
}
