//! Every key with every action, and what a value may be.

use serde_json::json;

use super::*;

/// A value of every key that says something.
fn example(key: &str) -> Value {
    match key {
        "block_page_enabled"
        | "insecure_disable_dnssec_validation"
        | "ip_categories"
        | "ip_indicator_feeds"
        | "ignore_cname_category_matches"
        | "allow_child_bypass"
        | "bypass_parent_rule"
        | "resolve_dns_through_cloudflare" => json!(true),
        "block_reason" => json!("not here"),
        "block_page" => json!({ "target_uri": "https://example.com/blocked", "include_context": true }),
        "notification_settings" => {
            json!({ "enabled": true, "msg": "no", "support_url": "https://example.com" })
        }
        "override_ips" => json!(["192.0.2.1", "2001:DB8::1"]),
        "override_host" => json!("example.com"),
        "l4override" => json!({ "ip": "192.0.2.1", "port": 80 }),
        "audit_ssh" => json!({ "command_logging": true }),
        "check_session" => json!({ "enforce": true, "duration": "1h30m0s" }),
        "add_headers" | "set_headers" => json!({ "X-A": ["b", "@{identity.email} @@{x}"] }),
        "delete_headers" => json!(["X-C"]),
        "untrusted_cert" => json!({ "action": "pass_through" }),
        "payload_log" | "forensic_copy" => json!({ "enabled": true }),
        "redirect" => json!({ "target_uri": "https://example.com", "preserve_path_and_query": true }),
        "quarantine" => json!({ "file_types": ["exe"] }),
        "biso_admin_controls" => json!({ "version": "v1", "dp": true }),
        "egress" => json!({ "ipv4_fallback": "0.0.0.0" }),
        "dns_resolvers" => json!({ "ipv4": [{ "ip": "192.0.2.1", "port": 5353 }] }),
        "resolve_dns_internally" => json!({ "view_id": "x", "fallback": "none" }),
        other => panic!("no example of {other}"),
    }
}

/// The contract's table (D, 8.7): with which filter and action each key is legal.
const LEGAL: [(&str, &str); 24] = [
    ("block_page_enabled", "dns:block http:block"),
    ("block_reason", "dns:block l4:block http:block"),
    ("block_page", "http:block"),
    ("notification_settings", "dns:block l4:block http:block"),
    ("override_ips", "dns:override"),
    ("override_host", "dns:override"),
    ("insecure_disable_dnssec_validation", "dns:allow"),
    ("ip_categories", "dns:* dns_resolver:*"),
    ("ip_indicator_feeds", "dns:* dns_resolver:*"),
    ("ignore_cname_category_matches", "dns:* dns_resolver:*"),
    ("allow_child_bypass", "*"),
    ("bypass_parent_rule", "*"),
    ("l4override", "l4:l4_override"),
    ("check_session", "l4:allow http:allow"),
    ("add_headers", "http:allow"),
    ("set_headers", "http:allow"),
    ("delete_headers", "http:allow"),
    ("untrusted_cert", "http:allow"),
    ("payload_log", "http:*"),
    ("forensic_copy", "http:*"),
    ("redirect", "http:redirect"),
    ("egress", "egress:egress"),
    ("dns_resolvers", "dns_resolver:resolve"),
    ("resolve_dns_through_cloudflare", "dns_resolver:resolve"),
];

/// What an action needs besides.
fn needed(action: Action, key: &str) -> Map<String, Value> {
    let needed = match action {
        Action::Override if key != "override_host" => "override_ips",
        Action::L4Override => "l4override",
        Action::Redirect => "redirect",
        Action::Resolve if key != "resolve_dns_through_cloudflare" => "dns_resolvers",
        Action::Override
        | Action::Resolve
        | Action::Allow
        | Action::Block
        | Action::Safesearch
        | Action::Ytrestricted
        | Action::Off
        | Action::On
        | Action::Noscan
        | Action::Egress => return Map::new(),
    };
    Map::from_iter([(needed.to_owned(), example(needed))])
}

#[test]
fn every_key_is_legal_where_the_contract_says_and_nowhere_else() {
    for (key, ..) in SETTINGS {
        let places = LEGAL.iter().find(|(known, _)| *known == key).map_or("", |(_, places)| *places);
        for action in Action::ALL {
            for filter in action.filters() {
                let mut map = needed(action, key);
                map.insert(key.into(), example(key));
                let legal = places.split(' ').any(|place| {
                    place == "*" || place == format!("{filter}:*") || place == format!("{filter}:{action}")
                });
                match check(&map, *filter, action) {
                    Ok(checked) => {
                        assert!(legal, "{key} with {filter} {action} was taken");
                        assert_eq!(checked.as_written, Value::Object(map), "{key} comes back as it was");
                    }
                    Err(error) => {
                        assert!(!legal, "{key} with {filter} {action}: {}", error.message);
                        let found = (error.status.as_u16(), error.code, error.pointer.unwrap());
                        assert_eq!(found, (400, 2089, format!("/rule_settings/{key}")));
                    }
                }
            }
        }
    }
}

#[test]
fn what_says_nothing_is_legal_everywhere_and_not_kept() {
    for nothing in [json!(null), json!(false), json!(""), json!([]), json!({}), json!({ "enabled": null })] {
        let mut map: Map<String, Value> =
            SETTINGS.iter().map(|(key, ..)| ((*key).to_owned(), nothing.clone())).collect();
        map.insert("of_a_later_year".into(), nothing);
        for action in [Action::Off, Action::Block, Action::Egress] {
            map.retain(|key, value| {
                !SETTINGS.iter().any(|(known, _, legal)| known == key && legal(action.filters()[0], action))
                    || says_nothing(value)
            });
            let checked = check(&map, action.filters()[0], action).unwrap();
            assert_eq!(checked.as_written, json!({}));
            assert_eq!(checked.settings, RuleSettings::default());
        }
    }
}

fn refusal(filter: Filter, action: Action, given: &Value) -> (String, String) {
    let error = check(given.as_object().unwrap(), filter, action).unwrap_err();
    (error.message, error.pointer.unwrap())
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn a_wrong_value_is_refused_with_its_place() {
    use Filter::{Dns, DnsResolver, Egress, Http, L4};
    let cases = [
        (
            Dns,
            Action::Override,
            json!({ "override_ips": ["192.0.2.1", "x"] }),
            "/override_ips/1",
            "an address",
        ),
        (Dns, Action::Override, json!({}), "/override_ips", "needs override_ips or override_host"),
        (
            Dns,
            Action::Override,
            json!({ "override_ips": ["192.0.2.1"], "override_host": "a.example" }),
            "/override_host",
            "not both",
        ),
        (Dns, Action::Override, json!({ "override_host": "a b" }), "/override_host", "a host name"),
        (L4, Action::L4Override, json!({}), "/l4override", "an ip, a port or both"),
        (L4, Action::L4Override, json!({ "l4override": {} }), "/l4override", "an ip, a port or both"),
        (L4, Action::L4Override, json!({ "l4override": { "port": 65536 } }), "/l4override/port", "a port"),
        (L4, Action::L4Override, json!({ "l4override": { "host": "a" } }), "/l4override", "not known"),
        (
            L4,
            Action::Allow,
            json!({ "check_session": { "enforce": true, "duration": "8" } }),
            "/check_session/duration",
            "a duration",
        ),
        (
            L4,
            Action::Allow,
            json!({ "check_session": { "enforce": true } }),
            "/check_session/duration",
            "since the session is enforced",
        ),
        (Http, Action::Redirect, json!({}), "/redirect", "needs a target_uri"),
        (
            Http,
            Action::Redirect,
            json!({ "redirect": { "include_context": true } }),
            "/redirect/target_uri",
            "required",
        ),
        (
            Http,
            Action::Redirect,
            json!({ "redirect": { "target_uri": "x" } }),
            "/redirect/target_uri",
            "a URL",
        ),
        (
            Http,
            Action::Allow,
            json!({ "add_headers": { "a b": ["x"] } }),
            "/add_headers/a b",
            "name of a header",
        ),
        (
            Http,
            Action::Allow,
            json!({ "add_headers": { "A": ["x\n"] } }),
            "/add_headers/A/0",
            "header's value",
        ),
        (
            Http,
            Action::Allow,
            json!({ "set_headers": { "A": ["@{no.field}"] } }),
            "/set_headers/A/0",
            "not no.field",
        ),
        (
            Http,
            Action::Allow,
            json!({ "set_headers": { "A": ["@{x"] } }),
            "/set_headers/A/0",
            "to have its }",
        ),
        (
            Http,
            Action::Allow,
            json!({ "delete_headers": vec!["A"; 21] }),
            "/delete_headers",
            "at most 20 of all three",
        ),
        (
            Http,
            Action::Allow,
            json!({ "untrusted_cert": { "action": "ask" } }),
            "/untrusted_cert/action",
            "pass_through",
        ),
        (Http, Action::Block, json!({ "block_reason": "x".repeat(1025) }), "/block_reason", "at most 1024"),
        (Http, Action::Block, json!({ "of_a_later_year": true }), "/of_a_later_year", "not known"),
        (Egress, Action::Egress, json!({ "egress": { "ipv4": "192.0.2.1" } }), "/egress/ipv4", "doesn't own"),
        (DnsResolver, Action::Resolve, json!({}), "/dns_resolvers", "exactly one"),
        (
            DnsResolver,
            Action::Resolve,
            json!({ "dns_resolvers": { "ipv4": [{ "ip": "2001:db8::1" }] } }),
            "/dns_resolvers/ipv4/0/ip",
            "an ipv4 address",
        ),
        (
            DnsResolver,
            Action::Resolve,
            json!({ "dns_resolvers": { "ipv4": [{ "ip": "192.0.2.1", "vnet_id": "0b9af4a4-0e6c-4f9d-8a8b-1f4d5e6f7a8b" }] } }),
            "/dns_resolvers/ipv4/0/vnet_id",
            "route_through_private_network",
        ),
        (
            DnsResolver,
            Action::Resolve,
            json!({ "dns_resolvers": { "ipv4": vec![json!({ "ip": "192.0.2.1" }); 11] } }),
            "/dns_resolvers/ipv4",
            "at most 10",
        ),
        (
            DnsResolver,
            Action::Resolve,
            json!({ "resolve_dns_internally": { "view_id": "a" } }),
            "/resolve_dns_internally",
            "not supported",
        ),
    ];
    for (filter, action, given, pointer, part) in cases {
        let (message, at) = refusal(filter, action, &given);
        assert_eq!(at, format!("/rule_settings{pointer}"), "{given}: {message}");
        assert!(message.contains(part), "{given}: {message}");
    }
}

#[test]
fn durations_are_written_as_go_does_and_switches_that_are_off_stay() {
    let given = json!({ "check_session": { "enforce": false, "duration": "5m" }, "block_reason": "" });
    let checked = check(given.as_object().unwrap(), Filter::L4, Action::Allow).unwrap();
    assert_eq!(checked.as_written, json!({ "check_session": { "enforce": false, "duration": "5m0s" } }));
}

proptest::proptest! {
    #[test]
    fn any_settings_are_legal_or_have_their_reason(
        keys in proptest::collection::vec((0..SETTINGS.len(), 0..8u8, ".{0,20}"), 0..4),
    ) {
        let value = |kind: u8, key: &str, text: String| match kind {
            0 => json!(text),
            1 => json!([text]),
            2 => json!({ text: [1] }),
            3 => json!(text.len()),
            4 => json!({ "ip": text, "port": 1, "target_uri": "https://a.example", "enabled": true }),
            _ => example(key),
        };
        let map = keys.into_iter().map(|(key, kind, text)| (SETTINGS[key].0.to_owned(), value(kind, SETTINGS[key].0, text)));
        fuzz(&Value::Object(map.collect()));
    }
}
