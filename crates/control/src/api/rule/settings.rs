//! Which settings a rule may have, and what they may be (contract D, 8.7).
//!
//! One table says it all: a row is a key, the form of its value, and the filters and actions with which it means
//! something. A value that says nothing (`null`, `false`, `""`, `[]`) is legal everywhere and is not kept, since old
//! clients send every key with every rule. What is kept is kept as it was written, but for durations.

pub(super) mod form;

use adit_model::{Action, Filter, RuleSettings};
use http::StatusCode;
use serde_json::{Map, Value, json};

use self::form::Form;
use crate::api::body::{Family, Fields};
use crate::api::envelope::ApiError;

/// Longest text of a setting, in characters.
const MAX_TEXT: usize = 1024;
/// Most operations on headers of one rule (Gateway semantics, 2.1).
const MAX_HEADERS: usize = 20;

/// A rule's settings, understood and as they are answered.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Checked {
    pub(super) settings: RuleSettings,
    pub(super) as_written: Value,
}

/// With which filter and action a setting means something.
type Legal = fn(Filter, Action) -> bool;

const BLOCK_PAGE: Form =
    Form::Object(&[("target_uri", Form::Url, true), ("include_context", Form::Flag, false)]);
const NOTIFICATION: Form = Form::Object(&[
    ("enabled", Form::Flag, false),
    ("msg", Form::Text(MAX_TEXT), false),
    ("support_url", Form::Url, false),
    ("include_context", Form::Flag, false),
]);
const REDIRECT: Form = Form::Object(&[
    ("target_uri", Form::Url, true),
    ("include_context", Form::Flag, false),
    ("preserve_path_and_query", Form::Flag, false),
]);
const CHECK_SESSION: Form =
    Form::Object(&[("enforce", Form::Flag, false), ("duration", Form::Duration, false)]);
const OVERRIDE: Form = Form::Object(&[("ip", Form::Ip, false), ("port", Form::Port, false)]);
const UNTRUSTED: Form = Form::Object(&[("action", Form::OneOf(&["pass_through", "block", "error"]), true)]);
const SWITCH: Form = Form::Object(&[("enabled", Form::Flag, false)]);
const EGRESS: Form = Form::Object(&[
    ("ipv4", Form::Text(MAX_TEXT), false),
    ("ipv4_fallback", Form::Text(MAX_TEXT), false),
    ("ipv6", Form::Text(MAX_TEXT), false),
]);
const RESOLVERS: Form = Form::Object(&[("ipv4", Form::Resolvers, false), ("ipv6", Form::Resolvers, false)]);

const fn never(_: Filter, _: Action) -> bool {
    false
}

const SETTINGS: [(&str, Form, Legal); 28] = [
    ("block_page_enabled", Form::Flag, |filter, action| {
        action == Action::Block && matches!(filter, Filter::Dns | Filter::Http)
    }),
    ("block_reason", Form::Text(MAX_TEXT), |_, action| action == Action::Block),
    ("block_page", BLOCK_PAGE, |filter, action| action == Action::Block && filter == Filter::Http),
    ("notification_settings", NOTIFICATION, |_, action| action == Action::Block),
    ("override_ips", Form::Ips, |_, action| action == Action::Override),
    ("override_host", Form::Host, |_, action| action == Action::Override),
    ("insecure_disable_dnssec_validation", Form::Flag, |filter, action| {
        action == Action::Allow && filter == Filter::Dns
    }),
    ("ip_categories", Form::Flag, |filter, _| of_names(filter)),
    ("ip_indicator_feeds", Form::Flag, |filter, _| of_names(filter)),
    ("ignore_cname_category_matches", Form::Flag, |filter, _| of_names(filter)),
    ("allow_child_bypass", Form::Flag, |_, _| true),
    ("bypass_parent_rule", Form::Flag, |_, _| true),
    ("l4override", OVERRIDE, |_, action| action == Action::L4Override),
    ("audit_ssh", Form::Any, never),
    ("check_session", CHECK_SESSION, |filter, action| {
        action == Action::Allow && matches!(filter, Filter::L4 | Filter::Http)
    }),
    ("add_headers", Form::Headers, of_requests),
    ("set_headers", Form::Headers, of_requests),
    ("delete_headers", Form::HeaderNames, of_requests),
    ("untrusted_cert", UNTRUSTED, of_requests),
    ("payload_log", SWITCH, |filter, _| filter == Filter::Http),
    ("redirect", REDIRECT, |_, action| action == Action::Redirect),
    ("quarantine", Form::Any, never),
    ("forensic_copy", SWITCH, |filter, _| filter == Filter::Http),
    ("biso_admin_controls", Form::Any, never),
    ("egress", EGRESS, |_, action| action == Action::Egress),
    ("dns_resolvers", RESOLVERS, |_, action| action == Action::Resolve),
    ("resolve_dns_through_cloudflare", Form::Flag, |_, action| action == Action::Resolve),
    ("resolve_dns_internally", Form::Any, never),
];

const fn of_names(filter: Filter) -> bool {
    matches!(filter, Filter::Dns | Filter::DnsResolver)
}

fn of_requests(filter: Filter, action: Action) -> bool {
    action == Action::Allow && filter == Filter::Http
}

/// What [`read`] takes: which settings go with which action and filter is said by their errors.
pub(super) fn schema() -> Value {
    let known = SETTINGS.iter().map(|(key, form, _)| ((*key).to_owned(), or_nothing(&form.schema())));
    json!({
        "type": ["object", "null"],
        "properties": known.collect::<Map<_, _>>(),
        "additionalProperties": nothing(),
    })
}

/// What stands for a key that is not there, in an object of such values too.
fn nothing() -> Value {
    json!({ "anyOf": [
        { "enum": [null, false, "", 0, []] },
        { "type": "object", "additionalProperties": { "enum": [null, false, "", 0, [], {}] } },
    ] })
}

/// A value of this schema, or nothing.
fn or_nothing(schema: &Value) -> Value {
    json!({ "anyOf": [schema, nothing()] })
}

/// Reads a rule's settings.
pub(super) fn read(fields: &Fields, filter: Filter, action: Action) -> Result<Checked, ApiError> {
    let map = match fields.value("rule_settings") {
        None => &Map::new(),
        Some(Value::Object(map)) => map,
        Some(_) => return Err(fields.wrong("rule_settings", "an object")),
    };
    check(map, filter, action)
}

fn check(given: &Map<String, Value>, filter: Filter, action: Action) -> Result<Checked, ApiError> {
    let mut kept = Map::new();
    for (key, value) in given.iter().filter(|(_, value)| !says_nothing(value)) {
        let at = format!("/rule_settings/{}", key.replace('~', "~0").replace('/', "~1"));
        let row = SETTINGS.iter().find(|(known, ..)| known == key);
        match row {
            Some((_, form, legal)) if legal(filter, action) => {
                kept.insert(key.clone(), form.check(key, value, &at)?);
            }
            Some(_) | None if all_nothing(value) => {}
            Some(_) if key == "resolve_dns_internally" && action == Action::Resolve => {
                return Err(not_allowed(key, "not supported: this version has no internal DNS views", at));
            }
            Some(_) => {
                let why = format!("not allowed for action \"{action}\" with filter {filter}");
                return Err(not_allowed(key, &why, at));
            }
            None => return Err(not_allowed(key, "not known", at)),
        }
    }
    complete(&kept, action)?;
    let as_written = Value::Object(kept);
    let settings = serde_json::from_value(as_written.clone());
    let settings = settings.map_err(|error| invalid(&error.to_string(), "/rule_settings"))?;
    Ok(Checked { settings, as_written })
}

/// Whether a value stands for a key that is not there.
fn says_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Bool(true) | Value::Number(_) => false,
    }
}

/// Whether an object says nothing in all of its keys.
fn all_nothing(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.values().all(all_nothing),
        Value::Number(number) => number.as_u64() == Some(0),
        Value::Null | Value::Bool(_) | Value::String(_) | Value::Array(_) => says_nothing(value),
    }
}

fn not_allowed(key: &str, why: &str, at: String) -> ApiError {
    let key: String = key.chars().take(64).collect();
    ApiError::new(StatusCode::BAD_REQUEST, 2089, format!("rule_settings.{key} {why}")).at(at)
}

fn invalid(message: &str, at: impl Into<String>) -> ApiError {
    Family::Rule.invalid(message).at(at)
}

/// What one action needs, and what excludes each other.
fn complete(kept: &Map<String, Value>, action: Action) -> Result<(), ApiError> {
    let has = |key: &str| kept.contains_key(key);
    let needs = |message: &str, key: &str| Err(invalid(message, format!("/rule_settings/{key}")));
    match action {
        Action::Override if has("override_ips") && has("override_host") => {
            needs("override_host: expected either override_ips or override_host, not both", "override_host")
        }
        Action::Override if !has("override_ips") && !has("override_host") => {
            needs("override_ips: action \"override\" needs override_ips or override_host", "override_ips")
        }
        Action::L4Override => {
            let target = kept.get("l4override").and_then(Value::as_object);
            if target.is_some_and(|target| !target.is_empty()) {
                return Ok(());
            }
            needs("l4override: action \"l4_override\" needs an ip, a port or both", "l4override")
        }
        Action::Redirect if !has("redirect") => {
            needs("redirect: action \"redirect\" needs a target_uri", "redirect")
        }
        Action::Resolve if has("dns_resolvers") == has("resolve_dns_through_cloudflare") => needs(
            "dns_resolvers: action \"resolve\" needs exactly one of dns_resolvers and resolve_dns_through_cloudflare",
            "dns_resolvers",
        ),
        Action::Resolve => resolvers_complete(kept),
        Action::Egress => egress_owned(kept),
        Action::Allow => allow_complete(kept),
        Action::Override
        | Action::Redirect
        | Action::Block
        | Action::Safesearch
        | Action::Ytrestricted
        | Action::Off
        | Action::On
        | Action::Noscan => Ok(()),
    }
}

fn resolvers_complete(kept: &Map<String, Value>) -> Result<(), ApiError> {
    let Some(families) = kept.get("dns_resolvers").and_then(Value::as_object) else { return Ok(()) };
    for (family, resolvers) in families {
        for (index, resolver) in resolvers.as_array().into_iter().flatten().enumerate() {
            let at = format!("/rule_settings/dns_resolvers/{family}/{index}");
            let v6 = resolver["ip"].as_str().is_some_and(|ip| ip.contains(':'));
            if v6 != (family == "ipv6") {
                return Err(invalid(&format!("ip: expected an {family} address"), format!("{at}/ip")));
            }
            let private = resolver.get("route_through_private_network") == Some(&Value::Bool(true));
            if resolver.get("vnet_id").is_some() && !private {
                let message = "vnet_id: needs route_through_private_network: true";
                return Err(invalid(message, format!("{at}/vnet_id")));
            }
        }
    }
    if families.is_empty() {
        return Err(invalid("dns_resolvers: expected at least one resolver", "/rule_settings/dns_resolvers"));
    }
    Ok(())
}

/// No account has addresses of its own to go out from; what is left is the node's.
fn egress_owned(kept: &Map<String, Value>) -> Result<(), ApiError> {
    let egress = kept.get("egress").and_then(Value::as_object);
    let named = egress.into_iter().flatten().find(|(key, value)| {
        let own = key.as_str() == "ipv4_fallback" && value.as_str() == Some("0.0.0.0");
        !own && !says_nothing(value)
    });
    match named {
        None => Ok(()),
        Some((key, _)) => {
            let message = if key == "ipv6" {
                "Account doesn't own dedicated primary IPv6"
            } else {
                "Account doesn't own dedicated primary IPv4"
            };
            let at = format!("/rule_settings/egress/{key}");
            Err(ApiError::new(StatusCode::BAD_REQUEST, 2055, message).at(at))
        }
    }
}

fn allow_complete(kept: &Map<String, Value>) -> Result<(), ApiError> {
    if let Some(session) = kept.get("check_session")
        && session.get("enforce") == Some(&Value::Bool(true))
        && session.get("duration").is_none()
    {
        let message = "duration: expected a duration such as 8h, since the session is enforced";
        return Err(invalid(message, "/rule_settings/check_session/duration"));
    }
    let count = |key: &str| match kept.get(key) {
        Some(Value::Array(names)) => names.len(),
        Some(Value::Object(headers)) => headers.values().filter_map(Value::as_array).map(Vec::len).sum(),
        _ => 0,
    };
    let keys = ["add_headers", "set_headers", "delete_headers"];
    if keys.into_iter().map(count).sum::<usize>() > MAX_HEADERS {
        let message = format!("headers: expected at most {MAX_HEADERS} of all three kinds together");
        let last = keys.into_iter().rev().find(|key| kept.contains_key(*key)).unwrap_or("add_headers");
        return Err(invalid(&message, format!("/rule_settings/{last}")));
    }
    Ok(())
}

/// What has no effect although it is kept.
pub(super) fn remarks(filter: Filter, settings: &RuleSettings) -> Vec<String> {
    let on = |switch: &Option<adit_model::Switch>| {
        switch.as_ref().is_some_and(|switch| switch.enabled == Some(true))
    };
    let without = [
        // A blocked name is answered with the unspecified address, whatever is set (Gateway semantics, 4.4).
        ("block_page_enabled", filter == Filter::Dns && settings.block_page_enabled),
        ("insecure_disable_dnssec_validation", settings.insecure_disable_dnssec_validation),
        ("ip_categories", settings.ip_categories),
        ("ip_indicator_feeds", settings.ip_indicator_feeds),
        ("ignore_cname_category_matches", settings.ignore_cname_category_matches),
        ("payload_log", on(&settings.payload_log)),
        ("forensic_copy", on(&settings.forensic_copy)),
        ("allow_child_bypass", settings.allow_child_bypass),
        ("bypass_parent_rule", settings.bypass_parent_rule),
        (
            "notification_settings.include_context",
            settings
                .notification_settings
                .as_ref()
                .is_some_and(|shown| shown.enabled == Some(true) && shown.include_context == Some(true)),
        ),
    ];
    let kept = without.into_iter().filter(|(_, set)| *set);
    kept.map(|(key, _)| format!("rule_settings.{key} is kept without effect")).collect()
}

/// Feeds any value to the checks.
pub(super) fn fuzz(value: &Value) {
    let Some(map) = value.as_object() else { return };
    for action in Action::ALL {
        for filter in action.filters() {
            match check(map, *filter, action) {
                Ok(checked) => {
                    let again = checked.as_written.as_object().map(|kept| check(kept, *filter, action));
                    let again = again.and_then(Result::ok);
                    assert_eq!(again.as_ref(), Some(&checked), "what is kept is legal, and stays as it is");
                }
                Err(error) => {
                    let pointer = error.pointer.unwrap_or_default();
                    assert!(pointer.starts_with("/rule_settings"), "an error says where: {pointer}");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
