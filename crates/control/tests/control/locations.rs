//! DNS locations (contract D, 9.5), as clients see them.

use super::*;
use adit_model::{Admission, Change};
use adit_store::Feed;

const PATH: &str = "gateway/locations";

/// A body with every part that can be set.
fn whole() -> Value {
    json!({
        "name": "office",
        "client_default": false,
        "networks": [{ "network": "192.0.2.0/24" }, { "network": "2001:DB8::/32" }],
        "endpoints": {
            "doh": { "enabled": true, "require_token": true, "networks": [{ "network": "198.51.100.7" }] },
            "dot": { "enabled": true, "networks": null },
            "ipv4": { "enabled": false },
            "ipv6": { "enabled": false, "networks": [] },
        },
        "max_ttl": { "mode": "override", "ttl_secs": 300 },
    })
}

#[tokio::test]
async fn a_location_comes_back_as_it_was_written_and_the_edges_are_told() {
    let api = Api::new().await;
    let (_, mut feed): (_, Feed) = api.control.subscribe().await.unwrap();
    let made = api.post(PATH, whole()).await;
    let label = made.text("/result/doh_subdomain");
    insta::assert_snapshot!(made.plain().replace(&label, "[label]"));
    let told = feed.next().await.unwrap().changes;
    let [Change::LocationPut(told)] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!(told.subdomain, label);
    let source = |text: &str| text.parse().unwrap();
    assert_eq!(told.admits_tls(source("192.0.2.9")), Admission::Admitted);
    assert_eq!(told.admits_tls(source("198.51.100.7")), Admission::Elsewhere);
    assert_eq!(told.admits_https(source("198.51.100.7")), Admission::NeedsToken);
    assert_eq!(told.admits_https(source("192.0.2.9")), Admission::Elsewhere);

    let path = format!("{PATH}/{}", made.text("/result/id"));
    assert_eq!(api.get(&path).await.result(), made.result());
    let replaced = api.put(&path, json!({ "name": "home" })).await;
    assert_eq!(replaced.text("/result/doh_subdomain"), label, "its hosts stay");
    for unset in ["networks", "endpoints", "max_ttl"] {
        assert_eq!(replaced.result()[unset], Value::Null, "{unset}");
    }
    assert_eq!(api.get(PATH).await.column("name"), ["Default", "home"]);
    assert_eq!(api.get(&format!("{PATH}?search=HOM")).await.column("name"), ["home"]);
    let sorted = format!("{PATH}?order_by=name&direction=desc");
    assert_eq!(api.get(&sorted).await.column("name"), ["home", "Default"]);
    assert_eq!(api.delete(&path).await.result(), &json!({}));
    api.get(&path).await.refused(404, 2100, "location not found");
    api.delete(&path).await.refused(404, 2100, "location not found");
    let records = api.get("logs/audit?since=2020-01-01&before=2100-01-01&resource_type=location").await;
    assert_eq!(records.result().as_array().unwrap().len(), 3, "{}", records.body);
    assert_eq!(records.text("/result/0/resource/product"), "gateway");
}

#[tokio::test]
async fn one_location_is_the_default_one_and_it_stays() {
    let api = Api::new().await;
    let default = async || {
        let listed = api.get(PATH).await;
        let rows = listed.result().as_array().unwrap();
        let mut defaults = rows.iter().filter(|row| row["client_default"] == true);
        let name = defaults.next().unwrap()["name"].as_str().unwrap().to_owned();
        assert!(defaults.next().is_none(), "{}", listed.body);
        name
    };
    assert_eq!(default().await, "Default");
    let first = format!("{PATH}/{}", api.get(PATH).await.text("/result/0/id"));
    let stays = "the default location stays; make another one the default (client_default) first";
    api.delete(&first).await.refused(400, 2102, stays);
    let put = async |body: Value| api.put(&first, body).await;
    put(json!({ "name": "Default", "client_default": false })).await.refused(400, 2102, stays);
    assert_eq!(put(json!({ "name": "Default" })).await.result()["client_default"], true);
    api.post(PATH, json!({ "name": "other", "client_default": true })).await.result();
    assert_eq!(default().await, "other");
    api.delete(&first).await.result();
    let taken = api.post(PATH, json!({ "name": "other" })).await;
    taken.refused(409, 2101, "a location with this name already exists");
}

#[tokio::test]
async fn what_is_not_done_and_what_would_answer_everybody_is_refused_by_its_place() {
    let api = Api::new().await;
    let check = async |pointer: &str, value: Value, part: &str| {
        let mut body = whole();
        *body.pointer_mut(pointer).unwrap_or(&mut Value::Null) = value.clone();
        if body.pointer(pointer).is_none() {
            body[pointer.trim_start_matches('/')] = value;
        }
        let answer = api.post(PATH, body).await;
        let error = &answer.body["errors"][0];
        let (code, at) = (&error["code"], error["source"]["pointer"].as_str().unwrap());
        assert_eq!((answer.status.as_u16(), code, at), (400, &json!(2102), pointer), "{}", answer.body);
        assert!(error["message"].as_str().unwrap().contains(part), "{error}");
    };
    check("/ecs_support", json!(true), "no client's subnet").await;
    check("/dns_destination_ips_id", json!("0e4a32c6-6fb8-4858-9296-98f51631e8e6"), "plain DNS").await;
    check("/endpoints/ipv4/enabled", json!(true), "plain DNS is not served").await;
    check("/endpoints/ipv6/enabled", json!(true), "plain DNS is not served").await;
    check("/endpoints/ipv6/networks", json!([{ "network": "2001:db8::/32" }]), "plain DNS is not served")
        .await;
    check("/networks/0/network", json!("0.0.0.0/0"), "/8 or longer").await;
    check("/networks/1/network", json!("2000::/3"), "/7 or longer").await;
    check("/networks/0/network", json!("192.0.2.1/24"), "not a valid CIDR").await;
    check("/endpoints/doh/networks/0/network", json!("128.0.0.0/1"), "require_token").await;
    check("/max_ttl/ttl_secs", Value::Null, "from 1 to 604800").await;
    check("/max_ttl/ttl_secs", json!(0), "from 1 to 604800").await;
    check("/max_ttl/mode", json!("sometimes"), "inherit, override or disabled").await;
    let mut body = whole();
    body["max_ttl"] = json!({ "mode": "disabled", "ttl_secs": 60 });
    api.post(PATH, body).await.refused(400, 2102, "max_ttl.ttl_secs: expected with the mode override only");
    assert_eq!(api.get(PATH).await.column("name"), ["Default"], "nothing was stored");
}

#[tokio::test]
async fn a_host_of_a_location_is_no_public_host_name() {
    let api = Api::new().await;
    let label = api.get(PATH).await.text("/result/0/doh_subdomain");
    let tunnel = api.tunnel("web").await;
    let path = format!("/client/v4/zones/{}/tunnels/{tunnel}/routes", api.control.account());
    for name in [format!("{label}.dns.localhost"), "dns.localhost".into(), "other.DNS.localhost".into()] {
        let body = json!({ "type": "dns", "user_hostname": name, "overwrite_existing": true });
        let answer = api.send(Method::PUT, &path, Some(&body)).await;
        assert!(
            answer.body["errors"][0]["message"].as_str().unwrap().contains("own name"),
            "{}",
            answer.body
        );
    }
}
