//! Many who write at once, as clients see it: equal creates, versions, and no lost update.

use super::*;

/// Who write at once.
const WRITERS: usize = 64;

impl Api {
    async fn with_version(&self, method: Method, rest: &str, version: &str, body: &Value) -> Answer {
        let request = Request::builder().method(method).uri(self.path(rest));
        let request = request.header("authorization", format!("Bearer {}", self.token));
        self.request(request.header("if-match", version).body(body.to_string().into()).unwrap()).await
    }
}

fn version(answer: &Answer) -> String {
    answer.headers["etag"].to_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_two_equal_creates_at_once_one_is_made_and_one_conflicts() {
    let api = Api::new().await;
    let tunnel = api.tunnel("for routes").await;
    let cases = [
        ("cfd_tunnel", json!({ "name": "twice" }), 1013),
        ("teamnet/virtual_networks", json!({ "name": "twice" }), 1017),
        ("teamnet/routes", json!({ "network": "10.0.0.0/8", "tunnel_id": tunnel }), 1014),
        ("teamnet/routes/network/10.1.0.0%2F16", json!({ "tunnel_id": tunnel }), 1014),
        ("gateway/rules", json!({ "name": "twice", "action": "off", "precedence": 7 }), 2081),
    ];
    for (path, body, code) in cases {
        for round in 0..10 {
            let (one, other) = tokio::join!(api.post(path, body.clone()), api.post(path, body.clone()));
            let (made, refused) = if one.status == StatusCode::OK { (one, other) } else { (other, one) };
            let (status, found, _) = refused.refusal();
            assert_eq!((status, found), (409, code), "{path}, round {round}");
            assert_eq!(refused.headers["x-should-retry"], "false");
            let id = made.text("/result/id");
            let place = path.split("/network/").next().unwrap();
            api.delete(&format!("{place}/{id}")).await.result();
        }
    }
}

#[tokio::test]
async fn a_change_that_names_a_version_is_made_once() {
    let api = Api::new().await;
    let id = api.post("teamnet/virtual_networks", json!({ "name": "a" })).await.text("/result/id");
    let path = format!("teamnet/virtual_networks/{id}");
    let first = version(&api.get(&path).await);
    let renamed = json!({ "name": "b" });
    let changed = api.with_version(Method::PATCH, &path, &first, &renamed).await;
    assert_eq!(changed.result()["name"], "b");
    assert_eq!(version(&changed), version(&api.get(&path).await), "a change tells the version that it made");
    let stale = api.with_version(Method::PATCH, &path, &first, &json!({ "name": "c" })).await;
    stale.refused(412, 1020, "look at it again");
    api.with_version(Method::DELETE, &path, &first, &json!({})).await.refused(412, 1020, "look at it again");
    assert_eq!(api.get(&path).await.result()["name"], "b");
    let either = format!("{first}, {}", version(&changed));
    api.with_version(Method::PATCH, &path, &either, &json!({ "comment": "x" })).await.result();
    api.with_version(Method::PATCH, &path, "*", &json!({ "comment": "y" })).await.result();
    api.with_version(Method::PATCH, &path, "unquoted", &renamed).await.refused(400, 6003, "If-Match");
    let nobody = uuid::Uuid::new_v4();
    let answer =
        api.with_version(Method::PATCH, &format!("teamnet/virtual_networks/{nobody}"), "*", &renamed).await;
    answer.refused(404, 1003, "not found");
    // What has no version cannot be compared.
    let create =
        api.with_version(Method::POST, "teamnet/virtual_networks", "*", &json!({ "name": "d" })).await;
    create.refused(412, 1020, "nothing can be read at this path");
    let batch = api.with_version(Method::POST, "x/batch", "*", &json!({ "operations": [] })).await;
    batch.refused(412, 1020, "nothing can be read at this path");
    let last = version(&api.get(&path).await);
    api.with_version(Method::DELETE, &path, &last, &json!({})).await.result();
}

#[tokio::test]
async fn a_refused_change_leaves_nothing_and_a_made_one_has_its_record() {
    let api = Api::new().await;
    let (one, _) = (api.tunnel("one").await, api.tunnel("two").await);
    let path = format!("cfd_tunnel/{one}");
    let before = api.control.subscribe().await.unwrap().0.number;
    let taken = api.with_version(Method::PATCH, &path, "*", &json!({ "name": "two" })).await;
    taken.refused(409, 1013, "already have a tunnel");
    assert_eq!(api.control.subscribe().await.unwrap().0.number, before);
    let made = api.with_version(Method::PATCH, &path, "*", &json!({ "name": "three" })).await;
    made.result();
    let log = api.get("logs/audit?since=2020-01-01&before=2100-01-01&action_type=update").await;
    assert_eq!(log.result()[0]["resource"]["id"], one.as_str());
}

#[tokio::test]
async fn a_rule_that_names_a_version_takes_no_precedence_of_another() {
    let api = Api::new().await;
    let rule =
        |name: &str, precedence: u32| json!({ "name": name, "action": "off", "precedence": precedence });
    api.post("gateway/rules", rule("one", 1)).await.result();
    let two = api.post("gateway/rules", rule("two", 2)).await.text("/result/id");
    let path = format!("gateway/rules/{two}");
    let taken = api.with_version(Method::PUT, &path, "*", &rule("two", 1)).await;
    taken.refused(409, 2081, "a rule with this precedence already exists: one");
    assert_eq!(api.get(&path).await.result()["precedence"], 2);
    api.with_version(Method::PUT, &path, "*", &rule("two", 3)).await.result();
    assert_eq!(api.get(&path).await.result()["precedence"], 3);
}

/// Each adds its own line to one comment, by reading it and writing it back.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_64_who_read_change_and_write_back_none_loses_what_another_wrote() {
    let api = std::sync::Arc::new(Api::new().await);
    let id = api.post("teamnet/virtual_networks", json!({ "name": "shared" })).await.text("/result/id");
    let writers: Vec<_> = (0..WRITERS)
        .map(|n| {
            let (api, path) = (std::sync::Arc::clone(&api), format!("teamnet/virtual_networks/{id}"));
            tokio::spawn(async move {
                loop {
                    let read = api.get(&path).await;
                    let comment = format!("{}{};", read.text("/result/comment"), n % 10);
                    let body = json!({ "comment": comment });
                    let wrote = api.with_version(Method::PATCH, &path, &version(&read), &body).await;
                    if wrote.status == StatusCode::OK {
                        return;
                    }
                    wrote.refused(412, 1020, "look at it again");
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let comment = api.get(&format!("teamnet/virtual_networks/{id}")).await.text("/result/comment");
    assert_eq!(comment.split(';').count() - 1, WRITERS, "{comment}");
}

/// 64 clients, each with a tunnel, a route and a list of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_64_who_make_things_at_once_each_gets_its_own_and_the_generation_counts_them() {
    let api = std::sync::Arc::new(Api::new().await);
    let generation =
        |answer: &Answer| answer.headers["x-generation"].to_str().unwrap().parse::<u64>().unwrap();
    let before = generation(&api.get("cfd_tunnel").await);
    let writers: Vec<_> = (0..WRITERS)
        .map(|n| {
            let api = std::sync::Arc::clone(&api);
            tokio::spawn(async move {
                let tunnel = api.tunnel(&format!("t{n}")).await;
                let route = json!({ "network": format!("10.0.{n}.0/24"), "tunnel_id": tunnel });
                api.post("teamnet/routes", route).await.result();
                api.post("gateway/lists", json!({ "name": "l", "type": "IP", "items": ["10.0.0.1"] })).await
            })
        })
        .collect();
    let mut last = 0;
    for writer in writers {
        last = last.max(generation(&writer.await.unwrap()));
    }
    assert_eq!(last, before + 3 * WRITERS as u64, "each change has its number");
    let routes = api.get("teamnet/routes?per_page=100").await;
    assert_eq!(routes.body["result_info"]["total_count"], WRITERS);
    assert_eq!(api.get("gateway/lists").await.body["result_info"]["count"], WRITERS);
}
