//! Gateway lists (contract D, 7), as clients see them.

use super::*;

impl Api {
    /// A list of this type and these items: its id.
    pub(super) async fn list(&self, kind: &str, items: Value) -> String {
        let body = json!({ "name": "a list", "type": kind, "items": items });
        self.post("gateway/lists", body).await.text("/result/id")
    }

    async fn list_values(&self, id: &str) -> Vec<String> {
        let list = self.get(&format!("gateway/lists/{id}")).await;
        list.result()["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| item["value"].as_str().unwrap().into())
            .collect()
    }
}

#[tokio::test]
async fn the_reference_list_comes_back_as_it_was_written() {
    let api = Api::new().await;
    let body = json!({
        "name": "Kubernetes API IPs", "type": "IP",
        "items": [{ "value": "198.51.100.101/32" }, { "value": "2001:DB8::101/128" }],
    });
    let made = api.post("gateway/lists", body).await;
    insta::assert_snapshot!(made.plain());
    let id = made.text("/result/id");
    assert_eq!(api.get(&format!("gateway/lists/{id}")).await.result(), made.result());
    let listed = api.get("gateway/lists").await;
    let mut row = made.result().clone();
    row.as_object_mut().unwrap().remove("items");
    assert_eq!(listed.result(), &json!([row]), "without items");
    assert_eq!(listed.body["result_info"]["total_count"], 1);
    let items = api.get(&format!("gateway/lists/{id}/items")).await;
    assert_eq!(items.column("value"), ["198.51.100.101/32", "2001:DB8::101/128"]);
    let info = json!({ "page": 1, "per_page": 2, "count": 2, "total_count": 2, "total_pages": 1 });
    assert_eq!(items.body["result_info"], info);
}

#[tokio::test]
async fn items_that_were_never_given_are_null_and_an_empty_array_stays_one() {
    let api = Api::new().await;
    for (items, expected) in
        [(None, Value::Null), (Some(Value::Null), Value::Null), (Some(json!([])), json!([]))]
    {
        let mut body = json!({ "name": "x", "type": "DOMAIN" });
        if let Some(items) = items {
            body["items"] = items;
        }
        let made = api.post("gateway/lists", body).await;
        assert_eq!((&made.result()["items"], &made.result()["count"]), (&expected, &json!(0)));
        let path = format!("gateway/lists/{}", made.text("/result/id"));
        assert_eq!(api.get(&path).await.result()["items"], expected);
        let put = api.put(&path, json!({ "name": "y", "items": null })).await;
        assert_eq!(put.result()["items"], expected, "null leaves them");
    }
}

#[tokio::test]
async fn a_put_replaces_all_that_it_names() {
    let api = Api::new().await;
    let id = api.list("IP", json!([{ "value": "10.0.0.1", "description": "one" }, "10.0.0.2"])).await;
    let path = format!("gateway/lists/{id}");
    let first = api.get(&path).await.result()["items"].clone();
    let body = json!({ "id": id, "name": "other", "type": "IP", "description": "d" });
    let put = api.put(&path, body).await;
    assert_eq!(put.result()["name"], "other");
    assert_eq!(put.result()["description"], "d");
    assert_eq!(put.result()["items"], first, "no items: they stay");
    let items = json!([{ "value": "10.0.0.3" }, { "value": "10.0.0.1/32", "description": "one" }]);
    let put = api.put(&path, json!({ "name": "other", "items": items })).await;
    assert_eq!(put.result()["description"], Value::Null);
    assert_eq!(api.list_values(&id).await, ["10.0.0.3", "10.0.0.1/32"], "in the order given, as given");
    assert_eq!(put.result()["items"][1]["created_at"], first[0]["created_at"], "the same value came before");
    let put = api.put(&path, json!({ "name": "other", "items": [] })).await;
    assert_eq!((&put.result()["items"], &put.result()["count"]), (&json!([]), &json!(0)));
    api.put(&path, json!({ "name": "x", "type": "URL" })).await.refused(400, 2051, "a list keeps its type");
}

#[tokio::test]
async fn a_patch_removes_first_and_then_appends() {
    let api = Api::new().await;
    let id = api.list("IP", json!(["10.0.0.1", "10.0.0.2", "2001:DB8::/32"])).await;
    let path = format!("gateway/lists/{id}");
    let body = json!({
        "append": [{ "value": "10.0.0.2" }, { "value": "10.0.0.1/32" }, { "value": "10.0.0.1" }, "10.0.0.9"],
        "remove": ["10.0.0.1", "10.0.0.7", "no address", "2001:db8::/32"],
    });
    let patched = api.patch(&path, body).await;
    assert_eq!(patched.result()["count"], 3);
    assert_eq!(api.list_values(&id).await, ["10.0.0.2", "10.0.0.1/32", "10.0.0.9"]);
    api.patch(&path, json!({ "append": [{ "value": "x" }] })).await.refused(400, 2054, "is not an address");
    let unchanged = api.patch(&path, json!({})).await;
    assert_eq!(unchanged.result()["count"], 3);
}

#[tokio::test]
async fn an_item_is_refused_with_its_pointer() {
    let api = Api::new().await;
    let post = |kind: &str, items: Value| {
        api.post("gateway/lists", json!({ "name": "x", "type": kind, "items": items }))
    };
    for (kind, wrong) in [
        ("IP", "10.0.0.1/8"),
        ("DOMAIN", "https://example.com"),
        ("URL", "ftp://example.com"),
        ("EMAIL", "example.com"),
        ("CATEGORY", "news"),
        ("LOCATION", "x"),
        ("DEVICE", "x"),
        ("AAGUID", "x"),
        ("SERIAL", ""),
    ] {
        let refused = post(kind, json!([{ "value": wrong }])).await;
        refused.refused(400, 2054, "invalid item");
        assert_eq!(refused.body["errors"][0]["source"]["pointer"], "/items/0/value");
    }
    let twice = post("DOMAIN", json!([{ "value": "example.com" }, { "value": "Example.com" }])).await;
    twice.refused(400, 2054, "duplicate item");
    assert_eq!(twice.body["errors"][0]["source"]["pointer"], "/items/1/value");
    post("LISTS", json!([])).await.refused(400, 2051, "type: expected SERIAL, URL");
    api.post("gateway/lists", json!({ "type": "IP" })).await.refused(400, 2051, "name: expected 1 to 256");
    assert_eq!(api.get("gateway/lists").await.result(), &json!([]), "nothing was stored");
}

#[tokio::test]
async fn lists_are_searched_filtered_and_ordered() {
    let api = Api::new().await;
    for (name, kind, items) in
        [("b", "IP", json!(["10.0.0.1"])), ("a", "DOMAIN", json!([])), ("A b", "IP", json!([]))]
    {
        api.post("gateway/lists", json!({ "name": name, "type": kind, "items": items })).await.result();
    }
    for (query, expected) in [
        ("", vec!["b", "a", "A b"]),
        ("?type=IP", vec!["b", "A b"]),
        ("?search=B", vec!["b", "A b"]),
        ("?order_by=name", vec!["A b", "a", "b"]),
        ("?order_by=name&direction=desc", vec!["b", "a", "A b"]),
        ("?order_by=item_count&direction=desc", vec!["b", "A b", "a"]),
        ("?filter=type:IP&filter=name:b", vec!["b"]),
        ("?per_page=1&page=2", vec!["b", "a", "A b"]),
    ] {
        assert_eq!(api.get(&format!("gateway/lists{query}")).await.column("name"), expected, "{query}");
    }
    api.get("gateway/lists?order_by=size").await.refused(400, 2051, "order_by: expected name");
    api.get("gateway/lists?filter=size:1").await.refused(400, 2051, "filter: expected KEY:VALUE");
    api.get("gateway/lists?direction=up").await.refused(400, 2051, "direction");
}

#[tokio::test]
async fn items_have_pages_only_for_those_who_say_how_large() {
    let api = Api::new().await;
    let values: Vec<String> = (0..120).map(|number| format!("10.0.0.{number}")).collect();
    let id = api.list("IP", json!(values)).await;
    let path = format!("gateway/lists/{id}/items");
    assert_eq!(api.get(&path).await.column("value"), values);
    assert_eq!(api.get(&format!("{path}?page=1")).await.column("value"), values);
    let second = api.get(&format!("{path}?page=2")).await;
    assert_eq!(second.result(), &json!([]));
    assert_eq!(second.body["result_info"]["per_page"], 120);
    assert_eq!(api.get(&format!("{path}?per_page=50")).await.column("value"), values[..50]);
    assert_eq!(api.get(&format!("{path}?per_page=50&page=3")).await.column("value"), values[100..]);
    assert_eq!(api.get(&format!("{path}?per_page=50&page=4")).await.result(), &json!([]));
}

#[tokio::test]
async fn a_list_in_use_stays() {
    let api = Api::new().await;
    let id = api.list("IP", json!(["10.0.0.1"])).await;
    let traffic = format!("any(http.conn.dst_ip[*] in ${})", id.replace('-', ""));
    let body = json!({ "name": "uses it", "action": "off", "traffic": traffic });
    let rule = api.post("gateway/rules", body).await.text("/result/id");
    let path = format!("gateway/lists/{id}");
    api.delete(&path).await.refused(409, 2053, "list is in use by: uses it");
    api.put(&format!("gateway/rules/{rule}"), json!({ "name": "uses it", "action": "off" })).await.result();
    assert_eq!(api.delete(&path).await.result(), &json!({}));
    for answer in [api.get(&path).await, api.delete(&path).await, api.patch(&path, json!({})).await] {
        answer.refused(404, 2050, "list not found");
    }
    api.get(&format!("{path}/items")).await.refused(404, 2050, "list not found");
    api.get("gateway/lists/x").await.refused(404, 2050, "list not found");
}

#[tokio::test]
async fn lists_need_the_permission_for_them() {
    let api = Api::new().await;
    let reader = api.token_with(&["Zero Trust Read"]).await;
    let path = api.path("gateway/lists");
    api.send_as(Some(&reader), Method::GET, &path, String::new()).await.result();
    let body = json!({ "name": "x", "type": "IP" }).to_string();
    api.send_as(Some(&reader), Method::POST, &path, body.clone()).await.refused(403, 10000, "");
    let other = api.token_with(&["Cloudflare Tunnel Write"]).await;
    api.send_as(Some(&other), Method::GET, &path, String::new()).await.refused(403, 10000, "");
    let writer = api.token_with(&["Zero Trust Write"]).await;
    api.send_as(Some(&writer), Method::POST, &path, body).await.result();
}

#[tokio::test]
async fn a_hundred_thousand_items_fit_into_one_request_and_one_answer() {
    let api = Api::new().await;
    let value = |number: u32| format!("10.{}.{}.{}/32", number >> 16, number >> 8 & 255, number & 255);
    let items: Vec<Value> = (0..100_000).map(|number| json!({ "value": value(number) })).collect();
    let body = json!({ "name": "large", "type": "IP", "items": items });
    let made = api.post("gateway/lists", body).await;
    assert_eq!(made.result()["count"], 100_000);
    assert_eq!(made.result()["items"][99_999]["value"], value(99_999));
    let path = format!("gateway/lists/{}", made.text("/result/id"));
    let number = api.control.store().state().await.unwrap().number;
    api.patch(&path, json!({ "remove": [value(5)], "append": [] })).await.result();
    let batches = api.control.store().changes_since(number).await.unwrap();
    let size = serde_json::to_string(&batches).unwrap().len();
    assert!(size < 1000, "a change of one item carries that item: {size} bytes");
    api.patch(&path, json!({ "append": ["11.0.0.1", "11.0.0.2"] })).await.refused(
        400,
        2054,
        "more than 100000 items",
    );
    assert_eq!(api.get(&path).await.result()["count"], 99_999);
}
