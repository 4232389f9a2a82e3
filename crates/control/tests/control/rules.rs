//! Gateway rules (contract D, 8), as clients see them.

use adit_model::{Action, Filter};
use adit_policy::State;

use super::*;

impl Api {
    /// What is refused of a rule: its status, code and pointer; the message has this part.
    async fn rule_refused(&self, body: Value, (status, code): (u16, u64), pointer: &str, part: &str) {
        let answer = self.post("gateway/rules", body.clone()).await;
        answer.refused(status, code, part);
        assert_eq!(answer.body["errors"][0]["source"]["pointer"], pointer, "{body}: {}", answer.body);
    }
}

#[tokio::test]
async fn the_reference_rule_comes_back_as_it_was_written() {
    let api = Api::new().await;
    let list = api.list("IP", json!(["198.51.100.101/32", "2001:DB8::101/128"])).await;
    let traffic = format!("any(http.conn.dst_ip[*] in ${})", list.replace('-', ""));
    // As the provider of 2022 sends it: every key, with its zero value.
    let body = json!({
        "id": "", "name": "Don't inspect Kubernetes API", "description": "Allow connections from kubectl to API",
        "precedence": 10_000_123, "enabled": true, "action": "off", "filters": ["http"], "created_at": null,
        "updated_at": null, "deleted_at": null, "traffic": traffic, "identity": "", "device_posture": "",
        "version": 0,
        "rule_settings": {
            "block_page_enabled": false, "block_reason": "", "override_ips": null, "override_host": "",
            "l4override": null, "biso_admin_controls": null, "add_headers": null, "check_session": null,
            "insecure_disable_dnssec_validation": false,
        },
    });
    let made = api.post("gateway/rules", body).await;
    let result = made.result();
    assert_eq!(result["traffic"], traffic);
    assert_eq!(result["precedence"], 10_000_123);
    assert_eq!(result["rule_settings"], Value::Null);
    let mut shown = made.plain();
    shown = shown.replace(&list.replace('-', ""), "[list]");
    insta::assert_snapshot!(shown);
    let id = made.text("/result/id");
    assert_eq!(api.get(&format!("gateway/rules/{id}")).await.result(), result);
    assert_eq!(api.get("gateway/rules").await.result(), &json!([result]));
}

#[tokio::test]
async fn every_action_goes_with_the_filters_that_the_contract_says() {
    let api = Api::new().await;
    let legal = |filter: Filter| match filter {
        Filter::Dns => "allow block override safesearch ytrestricted",
        Filter::Http => "allow block off on noscan redirect",
        Filter::L4 => "allow block l4_override",
        // Nothing leaves by the installation itself.
        Filter::Egress => "",
        Filter::DnsResolver => "resolve",
    };
    let settings = json!({
        "override": { "override_ips": ["192.0.2.1"] },
        "redirect": { "redirect": { "target_uri": "https://example.com" } },
        "l4_override": { "l4override": { "port": 443 } },
        "resolve": { "resolve_dns_through_cloudflare": true },
    });
    for filter in Filter::ALL {
        for action in Action::ALL.map(Action::as_str) {
            let body = json!({
                "name": format!("{filter} {action}"), "action": action, "filters": [filter],
                "rule_settings": settings[action],
            });
            if legal(filter).split(' ').any(|legal| legal == action) {
                let made = api.post("gateway/rules", body).await;
                assert_eq!(
                    (&made.result()["action"], &made.result()["filters"]),
                    (&json!(action), &json!([filter]))
                );
                assert_eq!(made.result()["enabled"], false, "unless it is said");
            } else {
                let message = format!("invalid action \"{action}\"");
                api.rule_refused(body, (400, 2087), "/action", &message).await;
            }
        }
        for action in ["isolate", "noisolate", "scan", "quarantine", "audit_ssh"] {
            let body = json!({ "name": "x", "action": action, "filters": [filter] });
            let message = format!("invalid action \"{action}\": unsupported action");
            api.rule_refused(body, (400, 2087), "/action", &message).await;
        }
    }
    for (action, filter) in
        [("off", "http"), ("override", "dns"), ("l4_override", "l4"), ("resolve", "dns_resolver")]
    {
        let body = json!({ "name": "inferred", "action": action, "rule_settings": settings[action] });
        assert_eq!(api.post("gateway/rules", body).await.result()["filters"], json!([filter]));
    }
    for action in ["allow", "block"] {
        let body = json!({ "name": "x", "action": action });
        api.rule_refused(body, (400, 2082), "/filters", "one of dns, http, l4").await;
    }
    let two = json!({ "name": "x", "action": "block", "filters": ["dns", "l4"] });
    api.rule_refused(two, (400, 2082), "/filters", "an array of one").await;
    let unknown = json!({ "name": "x", "action": "block", "filters": ["l7"] });
    api.rule_refused(unknown, (400, 2082), "/filters/0", "an array of one").await;
    api.rule_refused(json!({ "name": "x" }), (400, 2087), "/action", "invalid action \"\"").await;
    api.rule_refused(json!({ "action": "off" }), (400, 2082), "/name", "it is required").await;
}

#[tokio::test]
async fn an_expression_comes_back_in_the_spelling_in_which_it_was_given() {
    let api = Api::new().await;
    let list = api.list("IP", json!(["10.0.0.0/8"])).await;
    let plain = list.replace('-', "");
    for (filter, written, canonical, lint) in [
        ("l4", format!("net.dst.ip  in ${list}"), format!("net.dst.ip in ${plain}"), "compat.list_dashes"),
        (
            "l4",
            "net.dst.port eq 22 && !(net.protocol==\"tcp\")".into(),
            "net.dst.port == 22 and not net.protocol == \"tcp\"".into(),
            "",
        ),
        ("l4", "not(net.dst.port == 22)".into(), "not net.dst.port == 22".into(), ""),
        (
            "http",
            "http.response.status_code == \"200\"".into(),
            "http.response.status_code == 200".into(),
            "compat.quoted_number",
        ),
        (
            "dns",
            "any(dns.domains[*] == \"Example.com\")".into(),
            "any(dns.domains[*] == \"example.com\")".into(),
            "value.lowered",
        ),
        ("dns", "  ".into(), String::new(), ""),
    ] {
        let body = json!({ "name": "x", "action": "block", "filters": [filter], "traffic": written });
        let made = api.post("gateway/rules", body.clone()).await;
        assert_eq!(made.result()["traffic"], written);
        assert_eq!(made.result()["x_canonical"]["traffic"], canonical);
        let warning = &made.result()["warning_status"];
        if lint.is_empty() {
            assert_eq!(warning, &Value::Null, "a rule that is not enabled and has no remarks");
        } else {
            assert!(warning.as_str().unwrap().starts_with(lint), "{warning}");
        }
        let put = api.put(&format!("gateway/rules/{}", made.text("/result/id")), body).await;
        assert_eq!(put.result()["traffic"], written);
    }
}

#[tokio::test]
async fn an_expression_is_refused_with_its_place() {
    let api = Api::new().await;
    let urls = api.list("URL", json!([])).await.replace('-', "");
    let missing = "0".repeat(32);
    for (filter, action, key, text, part) in [
        (
            "http",
            "block",
            "traffic",
            "http.foo == \"a\"",
            "filter parsing error (1:1): unknown identifier http.foo",
        ),
        ("http", "off", "traffic", "http.request.method == \"GET\"", "known too late"),
        ("l4", "block", "traffic", "net.dst.ip == 10.0.0.0/8", "filter parsing error (1:15)"),
        ("l4", "block", "traffic", &format!("net.dst.ip in ${missing}"), "list not found"),
        ("l4", "block", "traffic", &format!("net.dst.ip in ${urls}"), "URL"),
        ("l4", "block", "identity", "net.dst.port == 1", "cannot be used in the identity expression"),
        ("l4", "block", "device_posture", "identity.email == \"a\"", "the device_posture expression"),
        (
            "dns_resolver",
            "resolve",
            "device_posture",
            "any(device_posture.checks.passed[*] == \"a\")",
            "has no device_posture",
        ),
        ("l4", "block", "traffic", "any(net.dst.port", "(1:17)"),
    ] {
        let mut body = json!({
            "name": "x", "action": action, "filters": [filter],
            "rule_settings": if action == "resolve" { json!({ "resolve_dns_through_cloudflare": true }) } else { json!({}) },
        });
        body[key] = text.into();
        api.rule_refused(body, (400, 2088), &format!("/{key}"), part).await;
    }
    let number = json!({ "name": "x", "action": "off", "traffic": 7 });
    api.rule_refused(number, (400, 2082), "/traffic", "expected a text").await;
    assert_eq!(api.get("gateway/rules").await.result(), &json!([]), "nothing was stored");
}

#[tokio::test]
async fn precedences_are_exact_and_unique_in_their_filter() {
    let api = Api::new().await;
    let rule = |name: &str, filter: &str, precedence: Value| {
        api.post(
            "gateway/rules",
            json!({ "name": name, "action": "block", "filters": [filter], "precedence": precedence }),
        )
    };
    let first = rule("first", "l4", Value::Null).await;
    assert_eq!(first.result()["precedence"], 1000);
    let second = rule("second", "l4", Value::Null).await.result()["precedence"].as_u64().unwrap();
    assert!((1001..=1100).contains(&second), "{second}");
    let most = 1_u64 << 53;
    for exact in [0, 10_000_123, most - 1, most] {
        assert_eq!(rule(&format!("p{exact}"), "l4", exact.into()).await.result()["precedence"], exact);
    }
    let taken = rule("again", "l4", 10_000_123.into()).await;
    taken.refused(409, 2081, "a rule with this precedence already exists: p10000123");
    assert_eq!(taken.headers["x-should-retry"], "false");
    rule("elsewhere", "dns", 10_000_123.into()).await.result();
    rule("behind", "l4", Value::Null).await.refused(400, 2082, "the last rule has the largest");
    for wrong in [json!(-1), json!(1.5), json!("1"), json!(most + 1)] {
        rule("wrong", "l4", wrong).await.refused(
            400,
            2082,
            "precedence: expected a whole number from 0 to 2^53",
        );
    }
    assert_eq!(
        api.get("gateway/rules").await.column("name"),
        ["p0", "first", "second", "p10000123", "elsewhere", &format!("p{}", most - 1), &format!("p{most}")],
        "all filters together, by precedence"
    );
    let path = format!("gateway/rules/{}", first.text("/result/id"));
    let put = api.put(&path, json!({ "name": "first", "action": "block", "filters": ["l4"] })).await;
    assert_eq!(put.result()["precedence"], 1000, "kept");
    let put = json!({ "name": "first", "action": "block", "filters": ["l4"], "precedence": 0 });
    api.put(&path, put).await.refused(409, 2081, "p0");
}

#[tokio::test]
async fn a_put_replaces_all_and_makes_the_next_version() {
    let api = Api::new().await;
    let made = api
        .post(
            "gateway/rules",
            json!({
                "name": "a", "description": "d", "action": "block", "filters": ["dns"], "enabled": true,
                "identity": "identity.email == \"a@example.com\"", "rule_settings": { "block_reason": "no" },
                "schedule": { "mon": "08:00 - 12:30, 13:30-17:00", "time_zone": "Europe/Berlin" },
            }),
        )
        .await;
    assert_eq!(made.result()["version"], 1);
    assert_eq!(made.result()["rule_settings"], json!({ "block_reason": "no" }));
    assert_eq!(made.result()["schedule"]["mon"], "08:00-12:30,13:30-17:00");
    assert_eq!(made.result()["schedule"]["tue"], Value::Null);
    assert!(made.text("/result/warning_status").contains("this version knows no identity.email"));
    let path = format!("gateway/rules/{}", made.text("/result/id"));
    let put = api.put(&path, json!({ "name": "b", "action": "allow", "filters": ["l4"] })).await;
    let result = put.result();
    for (key, expected) in [
        ("name", json!("b")),
        ("description", json!("")),
        ("enabled", json!(false)),
        ("filters", json!(["l4"])),
        ("identity", json!("")),
        ("rule_settings", Value::Null),
        ("schedule", Value::Null),
        ("version", json!(2)),
        ("warning_status", Value::Null),
    ] {
        assert_eq!(result[key], expected, "{key}");
    }
    assert_eq!(result["created_at"], made.result()["created_at"]);
    assert_eq!(api.delete(&path).await.result(), &json!({}));
    let body = json!({ "name": "b", "action": "off" });
    for answer in [api.get(&path).await, api.put(&path, body).await, api.delete(&path).await] {
        answer.refused(404, 2080, "rule not found: invalid rule id");
    }
    api.get("gateway/rules/x").await.refused(404, 2080, "invalid rule id");
    assert_eq!(api.get("gateway/rules/tenant").await.result(), &json!([]));
}

#[tokio::test]
async fn schedules_and_expirations_are_checked() {
    let api = Api::new().await;
    let rule = |filter: &str, key: &str, value: Value| {
        let mut body = json!({ "name": "x", "action": "block", "filters": [filter] });
        body[key] = value;
        body
    };
    for (key, value, pointer, part) in [
        ("schedule", json!({ "mon": "12:00-08:00" }), "/schedule/mon", "ascend"),
        ("schedule", json!({ "sun": "8-9" }), "/schedule/sun", "expected times such as"),
        ("schedule", json!({ "mon": 7 }), "/schedule/mon", "expected a text"),
        ("schedule", json!({ "time_zone": "Europe/Berlin" }), "/schedule", "never be in force"),
        (
            "schedule",
            json!({ "mon": "00:00-24:00", "time_zone": "Mars/Olympus" }),
            "/schedule/time_zone",
            "time zone",
        ),
        (
            "expiration",
            json!({ "expires_at": "2020-01-01T00:00:00Z" }),
            "/expiration/expires_at",
            "in the future",
        ),
        ("expiration", json!({ "duration": 10 }), "/expiration/expires_at", "expected a time"),
        (
            "expiration",
            json!({ "expires_at": "2999-01-01T00:00:00Z", "duration": 4 }),
            "/expiration/duration",
            "at least 5",
        ),
    ] {
        api.rule_refused(rule("dns", key, value.clone()), (400, 2082), pointer, part).await;
        api.rule_refused(
            rule("l4", key, value),
            (400, 2082),
            &format!("/{key}"),
            "not allowed with filter l4",
        )
        .await;
    }
    for nothing in [json!(null), json!({}), json!({ "expires_at": null, "mon": null })] {
        for key in ["schedule", "expiration"] {
            let made = api.post("gateway/rules", rule("l4", key, nothing.clone())).await;
            assert_eq!(made.result()[key], Value::Null);
        }
    }
    let body = rule(
        "dns",
        "expiration",
        json!({ "expires_at": "2999-01-01T02:00:00+02:00", "duration": 60, "expired": true }),
    );
    let made = api.post("gateway/rules", body).await;
    let expected = json!({ "expires_at": "2999-01-01T00:00:00Z", "duration": 60, "expired": false });
    assert_eq!(made.result()["expiration"], expected);
    let path = format!("gateway/rules/{}", made.text("/result/id"));
    let reset = api.post(&format!("{path}/reset_expiration"), json!({})).await;
    assert_eq!(reset.result()["version"], 2);
    let until = reset.text("/result/expiration/expires_at");
    assert!(until.as_str() < "2999" && until.ends_with('Z'), "{until}");
    api.put(&path, rule("dns", "name", "x".into())).await.result();
    api.post(&format!("{path}/reset_expiration"), json!({})).await.refused(400, 2082, "no duration");
}

#[tokio::test]
async fn warnings_say_what_a_rule_does_not_do() {
    let api = Api::new().await;
    let warning = |body: Value| {
        let api = &api;
        async move { api.post("gateway/rules", body).await.text("/result/warning_status") }
    };
    let never = json!({ "name": "x", "action": "block", "filters": ["l4"], "enabled": true, "traffic": "net.dst.port in {}" });
    let never = warning(never).await;
    assert!(never.starts_with("rule never matches: traffic is false"), "{never}");
    let geo = json!({ "name": "y", "action": "block", "filters": ["l4"], "enabled": true, "traffic": "net.dst.geo.country == \"AQ\"" });
    let geo = warning(geo).await;
    assert!(geo.starts_with("this version knows no net.dst.geo.country of anything"), "{geo}");
    let kept = json!({ "name": "x", "action": "block", "filters": ["http"], "rule_settings": { "payload_log": { "enabled": true } } });
    assert_eq!(warning(kept).await, "rule_settings.payload_log is kept without effect");
}

#[tokio::test]
async fn settings_are_refused_with_the_contracts_codes() {
    let api = Api::new().await;
    let rule = |action: &str, filter: &str, settings: Value| json!({ "name": "x", "action": action, "filters": [filter], "rule_settings": settings });
    let wrong = rule("off", "http", json!({ "block_reason": "x" }));
    api.rule_refused(
        wrong,
        (400, 2089),
        "/rule_settings/block_reason",
        "rule_settings.block_reason not allowed",
    )
    .await;
    let egress = rule("egress", "egress", json!({ "egress": { "ipv4": "192.0.2.1" } }));
    api.rule_refused(
        egress,
        (400, 2055),
        "/rule_settings/egress/ipv4",
        "Account doesn't own dedicated primary IPv4",
    )
    .await;
    let network = |id: &str| {
        let resolver = json!({ "ip": "10.0.0.1", "vnet_id": id, "route_through_private_network": true });
        rule("resolve", "dns_resolver", json!({ "dns_resolvers": { "ipv4": [resolver] } }))
    };
    let unknown = network("0b9af4a4-0e6c-4f9d-8a8b-1f4d5e6f7a8b");
    api.rule_refused(
        unknown,
        (400, 2082),
        "/rule_settings/dns_resolvers/ipv4/0/vnet_id",
        "no such virtual network",
    )
    .await;
    let known = api.get("teamnet/virtual_networks").await.text("/result/0/id");
    let made = api.post("gateway/rules", network(&known)).await;
    assert_eq!(made.result()["rule_settings"]["dns_resolvers"]["ipv4"][0]["vnet_id"], known);
    let session = rule("allow", "l4", json!({ "check_session": { "enforce": true, "duration": "1h" } }));
    let made = api.post("gateway/rules", session).await;
    assert_eq!(made.result()["rule_settings"]["check_session"]["duration"], "1h0m0s");
    let text = rule("override", "dns", json!({ "override_ips": ["2001:DB8::1"] }));
    let made = api.post("gateway/rules", text).await;
    assert_eq!(made.result()["rule_settings"]["override_ips"], json!(["2001:DB8::1"]), "as it was given");
}

#[tokio::test]
async fn rules_are_searched_filtered_and_ordered() {
    let api = Api::new().await;
    for (name, action, filter, traffic, enabled) in [
        ("b", "block", "l4", "net.dst.port == 22", true),
        ("a", "allow", "l4", "", false),
        ("c", "block", "http", "http.request.host == \"b.example\"", false),
    ] {
        let body = json!({ "name": name, "action": action, "filters": [filter], "traffic": traffic, "enabled": enabled });
        api.post("gateway/rules", body).await.result();
    }
    for (query, mut expected) in [
        ("filter=action:block", vec!["b", "c"]),
        ("filter=action:block&filter=filters:http", vec!["c"]),
        ("filter[]=enabled:true", vec!["b"]),
        ("search=B.EXAMPLE", vec!["c"]),
        ("search=port", vec!["b"]),
    ] {
        let mut found = api.get(&format!("gateway/rules?{query}")).await.column("name");
        found.sort_unstable();
        expected.sort_unstable();
        assert_eq!(found, expected, "{query}");
    }
    assert_eq!(api.get("gateway/rules?order_by=name&direction=desc").await.column("name"), ["c", "b", "a"]);
    api.get("gateway/rules?filter=traffic:x").await.refused(400, 2082, "filter: expected KEY:VALUE");
}

#[tokio::test]
async fn of_two_rules_with_one_precedence_at_once_one_is_there() {
    let api = Api::new().await;
    let body = json!({ "name": "x", "action": "off", "precedence": 7 });
    let mut made = 0;
    let (a, b) = tokio::join!(api.post("gateway/rules", body.clone()), api.post("gateway/rules", body));
    for answer in [a, b] {
        if answer.status == StatusCode::OK {
            made += 1;
        } else {
            answer.refused(409, 2081, "");
        }
    }
    assert_eq!(made, 1);
}

#[tokio::test]
async fn what_is_stored_is_what_edges_get() {
    let api = Api::new().await;
    let (first, mut feed) = api.control.subscribe().await.unwrap();
    let mut followed = State::default();
    followed.apply(first);
    let list = api.list("IP", json!(["10.0.0.0/8"])).await;
    let traffic = format!("any(http.conn.dst_ip[*] in ${list})");
    for (name, precedence) in [("second", 20), ("first", 10), ("gone", 15)] {
        let body = json!({ "name": name, "action": "off", "traffic": traffic, "precedence": precedence, "enabled": true });
        let id = api.post("gateway/rules", body).await.text("/result/id");
        if name == "gone" {
            api.delete(&format!("gateway/rules/{id}")).await.result();
        }
    }
    api.patch(&format!("gateway/lists/{list}"), json!({ "append": ["192.0.2.1"], "remove": ["10.0.0.0/8"] }))
        .await
        .result();
    let state = api.control.store().state().await.unwrap();
    while feed.number() < state.number {
        followed.apply(feed.next().await.unwrap());
    }
    let mut begun = State::default();
    begun.apply(state);
    for state in [&mut followed, &mut begun] {
        let snapshot = state.snapshot();
        let rules = snapshot.rules(api.control.account(), Filter::Http);
        let names: Vec<&str> = rules.iter().map(|rule| rule.rule.name.as_str()).collect();
        assert_eq!(names, ["first", "second"]);
        assert!(rules.iter().all(|rule| rule.is_readable()));
        let values = snapshot.list(list.parse().unwrap()).unwrap().values();
        assert!(values.contains_ip("192.0.2.1".parse().unwrap()));
        assert!(!values.contains_ip("10.0.0.1".parse().unwrap()));
    }
}

#[tokio::test]
async fn a_list_of_a_thousand_rules_is_one_answer() {
    let api = Api::new().await;
    for number in 0..1000 {
        let traffic = format!("net.dst.port == {number}");
        let body =
            json!({ "name": format!("r{number}"), "action": "block", "filters": ["l4"], "traffic": traffic });
        api.post("gateway/rules", body).await.result();
    }
    let listed = api.get("gateway/rules?per_page=10").await;
    assert_eq!(listed.result().as_array().unwrap().len(), 1000);
    assert_eq!(listed.body["result_info"]["total_count"], 1000);
}

#[tokio::test]
async fn a_rule_says_whether_anything_applies_it() {
    let api = Api::new().await;
    let body = |name: &str, action: &str, settings: Value| json!({ "name": name, "action": action, "enabled": true, "rule_settings": settings });
    let made = async |body: Value| api.post("gateway/rules", body).await.result()["warning_status"].clone();
    let egress = body("egress", "egress", json!({ "egress": { "ipv4_fallback": "0.0.0.0" } }));
    api.rule_refused(
        egress,
        (400, 2087),
        "/action",
        "unsupported action: what is carried leaves by the connector",
    )
    .await;
    let resolvers = json!({ "dns_resolvers": { "ipv4": [{ "ip": "192.0.2.53" }] } });
    assert_eq!(made(body("resolve", "resolve", resolvers)).await, Value::Null);
    assert_eq!(made(body("safe", "safesearch", json!({}))).await, Value::Null);
    let mut page = body("block", "block", json!({ "block_page_enabled": true }));
    page["filters"] = json!(["dns"]);
    assert_eq!(made(page).await, "rule_settings.block_page_enabled is kept without effect");
}
