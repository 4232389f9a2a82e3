//! The rules of a tunnel's configuration (contract D, 6.2, and tunnel protocol, 4.2 and 6.2), checked before they are
//! stored: a connector that is told a configuration that it cannot use keeps the one that it has, and nobody sees why.
//!
//! Keys that nobody knows are passed on: a newer connector may know them.

use std::net::IpAddr;

use http::StatusCode;
use ipnet::IpNet;
use serde_json::{Map, Value, json};

use super::envelope::ApiError;

/// Longest configuration, in bytes of JSON: a connector gets it in one message.
const MAX_BYTES: usize = 256 << 10;
/// Most rules of a tunnel.
const MAX_RULES: usize = 1000;
/// Longest `path`, in bytes.
const MAX_PATH: usize = 1024;
/// Longest duration, in seconds: a day.
const MAX_SECONDS: u64 = 86_400;

/// Checks the object under `config`.
///
/// # Errors
/// The first thing that is wrong, with where it stands.
pub(super) fn check(config: &Value) -> Result<(), ApiError> {
    let Value::Object(config_map) = config else {
        return Err(wrong("config: expected an object", ""));
    };
    if config.to_string().len() > MAX_BYTES {
        return Err(wrong(&format!("the configuration has more than {MAX_BYTES} bytes"), ""));
    }
    origin_request(config_map, "")?;
    warp_routing(config_map)?;
    let rules = match config_map.get("ingress") {
        Some(Value::Array(rules)) if !rules.is_empty() => rules,
        Some(Value::Array(_)) | None => {
            return Err(wrong("There must be at least one ingress rule", "/ingress"));
        }
        Some(_) => return Err(wrong("ingress: expected an array of rules", "/ingress")),
    };
    if rules.len() > MAX_RULES {
        return Err(wrong(&format!("there are more than {MAX_RULES} ingress rules"), "/ingress"));
    }
    for (at, value) in rules.iter().enumerate() {
        rule(value, at, at + 1 == rules.len())?;
    }
    Ok(())
}

/// What [`check`] takes, as far as it is a matter of form. A `null` is an absent key.
pub(super) fn schema() -> Value {
    let rule = json!({
        "type": "object",
        "properties": {
            "hostname": { "type": ["string", "null"], "maxLength": 255 },
            "path": { "type": ["string", "null"], "maxLength": MAX_PATH },
            "service": { "type": "string", "minLength": 1 },
            "originRequest": origin_request_schema(),
        },
        "required": ["service"],
    });
    json!({
        "type": "object",
        "properties": {
            "ingress": { "type": "array", "items": rule, "minItems": 1, "maxItems": MAX_RULES },
            "originRequest": origin_request_schema(),
            "warp-routing": {
                "type": ["object", "null"], "properties": { "enabled": { "type": ["boolean", "null"] } },
            },
        },
        "required": ["ingress"],
    })
}

fn origin_request_schema() -> Value {
    let known = ORIGIN_KEYS.iter().map(|(key, form)| {
        let schema = match form {
            Form::Seconds => json!({ "type": ["integer", "null"], "minimum": 0, "maximum": MAX_SECONDS }),
            Form::Count => json!({ "type": ["integer", "null"], "minimum": 0, "maximum": u32::MAX }),
            Form::Flag => json!({ "type": ["boolean", "null"] }),
            Form::Text => json!({ "type": ["string", "null"] }),
        };
        ((*key).to_owned(), schema)
    });
    json!({ "type": ["object", "null"], "properties": known.collect::<Map<_, _>>() })
}

fn rule(value: &Value, at: usize, last: bool) -> Result<(), ApiError> {
    let pointer = format!("/ingress/{at}");
    let Value::Object(rule) = value else {
        return Err(wrong(&format!("rule #{}: expected an object", at + 1), &pointer));
    };
    let text = |key: &str| match rule.get(key) {
        None => Ok(""),
        Some(Value::String(text)) => Ok(text.as_str()),
        Some(_) => {
            Err(wrong(&format!("rule #{}: {key}: expected a text", at + 1), &format!("{pointer}/{key}")))
        }
    };
    let (hostname, path, service) = (text("hostname")?, text("path")?, text("service")?);
    hostname_form(hostname).map_err(|message| wrong(message, &format!("{pointer}/hostname")))?;
    path_form(path)
        .map_err(|message| wrong(&format!("Rule #{} has {message}", at + 1), &format!("{pointer}/path")))?;
    let matches_all = (hostname.is_empty() || hostname == "*") && path.is_empty();
    if last && !matches_all {
        let message =
            "The last ingress rule must match all URLs (i.e. it should not have a hostname or path filter)";
        return Err(wrong(message, &pointer));
    }
    if !last && matches_all {
        let message = format!(
            "Rule #{} is matching the hostname '{hostname}', but this will match every hostname, meaning the rules which \
             follow it will never be triggered.",
            at + 1
        );
        return Err(wrong(&message, &pointer));
    }
    service_form(service).map_err(|message| wrong(&message, &format!("{pointer}/service")))?;
    origin_request(rule, &pointer)
}

fn hostname_form(hostname: &str) -> Result<(), &'static str> {
    if hostname.len() > 255 || hostname.chars().any(|char| char.is_control() || char.is_whitespace()) {
        return Err("hostname: expected a host name of up to 255 characters");
    }
    if hostname.contains(':') {
        return Err("Hostname cannot contain a port");
    }
    let stars = hostname.matches('*').count();
    if stars > 1 || (stars == 1 && hostname != "*" && !hostname.starts_with("*.")) {
        return Err(
            "Hostname patterns can have at most one wildcard character (\"*\") and it can only be used for subdomains, \
             e.g. \"*.example.com\"",
        );
    }
    Ok(())
}

fn path_form(path: &str) -> Result<(), String> {
    if path.len() > MAX_PATH {
        return Err(format!("a path of more than {MAX_PATH} bytes"));
    }
    regex_syntax::Parser::new().parse(path).map(drop).map_err(|error| {
        // The parser draws what it means over several lines.
        let reason = error.to_string();
        let reason = reason.lines().last().unwrap_or_default().trim_start_matches("error: ");
        format!("an invalid regex: {reason}")
    })
}

fn service_form(service: &str) -> Result<(), String> {
    if service.is_empty() {
        return Err("every rule needs a service".into());
    }
    if let Some(status) = service.strip_prefix("http_status:") {
        let known = status.parse::<u16>().is_ok_and(|status| (100..=999).contains(&status));
        return if known { Ok(()) } else { Err(format!("{status} is not a valid HTTP status code")) };
    }
    if ["hello_world", "hello-world", "socks-proxy", "bastion"].contains(&service) {
        return Ok(());
    }
    for scheme in ["unix:", "unix+tls:"] {
        if let Some(path) = service.strip_prefix(scheme) {
            return if path.is_empty() { Err(format!("{service} names no socket")) } else { Ok(()) };
        }
    }
    let hint = || format!("{service} is an invalid address, please make sure it has a scheme and a hostname");
    let (scheme, rest) = service.split_once("://").ok_or_else(hint)?;
    let plain = |char: char| char.is_ascii_alphanumeric() || "+-.".contains(char);
    if !scheme.starts_with(|char: char| char.is_ascii_alphabetic()) || !scheme.chars().all(plain) {
        return Err(hint());
    }
    let (authority, path) = rest.find(['/', '?', '#']).map_or((rest, ""), |at| rest.split_at(at));
    if !authority_form(authority) {
        return Err(hint());
    }
    if !(path.is_empty() || path == "/") {
        return Err(format!(
            "{service} is an invalid address, ingress rules don't support proxying to a different path on the origin \
             service. The path will be the same as the eyeball request's path"
        ));
    }
    Ok(())
}

/// A host or an address, and perhaps a port.
fn authority_form(authority: &str) -> bool {
    let (host, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) if address.parse::<IpAddr>().is_ok() => (address, port),
        Some(_) => return false,
        None => authority.find(':').map_or((authority, ""), |at| authority.split_at(at)),
    };
    let port = port.is_empty() || port.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok());
    !host.is_empty()
        && !host.contains(|char: char| char.is_whitespace() || char.is_control() || char == '@')
        && port
}

/// What a key of `originRequest` may hold.
#[derive(Debug, Clone, Copy)]
enum Form {
    Seconds,
    Count,
    Flag,
    Text,
}

const ORIGIN_KEYS: [(&str, Form); 18] = [
    ("connectTimeout", Form::Seconds),
    ("tlsTimeout", Form::Seconds),
    ("tcpKeepAlive", Form::Seconds),
    ("keepAliveTimeout", Form::Seconds),
    ("keepAliveConnections", Form::Count),
    ("proxyPort", Form::Count),
    ("noHappyEyeballs", Form::Flag),
    ("noTLSVerify", Form::Flag),
    ("disableChunkedEncoding", Form::Flag),
    ("bastionMode", Form::Flag),
    ("http2Origin", Form::Flag),
    ("matchSNItoHost", Form::Flag),
    ("httpHostHeader", Form::Text),
    ("originServerName", Form::Text),
    ("caPool", Form::Text),
    ("proxyAddress", Form::Text),
    ("proxyType", Form::Text),
    ("maxActiveFlows", Form::Count),
];

fn origin_request(holder: &Map<String, Value>, pointer: &str) -> Result<(), ApiError> {
    let pointer = format!("{pointer}/originRequest");
    let Some(value) = holder.get("originRequest") else { return Ok(()) };
    let Value::Object(map) = value else {
        return Err(wrong("originRequest: expected an object", &pointer));
    };
    forms(map, &pointer)?;
    if let Some(access) = map.get("access") {
        let pointer = format!("{pointer}/access");
        let Value::Object(access) = access else {
            return Err(wrong("access: expected an object", &pointer));
        };
        let tags = |value: &Value| {
            value.as_array().is_some_and(|tags| tags.iter().all(|tag| tag.as_str().is_some()))
        };
        if !access.get("required").is_none_or(Value::is_boolean)
            || !access.get("teamName").is_none_or(Value::is_string)
            || !access.get("audTag").is_none_or(tags)
        {
            let message = "access: expected {\"required\": true, \"teamName\": \"..\", \"audTag\": [\"..\"]}";
            return Err(wrong(message, &pointer));
        }
    }
    match map.get("ipRules") {
        None => Ok(()),
        Some(Value::Array(rules)) if rules.iter().all(ip_rule) => Ok(()),
        Some(_) => {
            let message = "ipRules: expected an array of {\"prefix\": \"10.0.0.0/8\", \"ports\": [443], \"allow\": true}";
            Err(wrong(message, &format!("{pointer}/ipRules")))
        }
    }
}

fn ip_rule(rule: &Value) -> bool {
    let port = |port: &Value| port.as_u64().is_some_and(|port| (1..=65535).contains(&port));
    let ports = |ports: &Value| ports.as_array().is_some_and(|ports| ports.iter().all(port));
    rule["prefix"].as_str().is_some_and(|prefix| prefix.parse::<IpNet>().is_ok())
        && rule.get("ports").is_none_or(ports)
        && rule.get("allow").is_none_or(Value::is_boolean)
}

fn warp_routing(config: &Map<String, Value>) -> Result<(), ApiError> {
    match config.get("warp-routing") {
        None => Ok(()),
        Some(Value::Object(map)) if map.get("enabled").is_none_or(Value::is_boolean) => {
            forms(map, "/warp-routing")
        }
        Some(_) => {
            Err(wrong("warp-routing: expected an object such as {\"enabled\": true}", "/warp-routing"))
        }
    }
}

fn forms(map: &Map<String, Value>, pointer: &str) -> Result<(), ApiError> {
    for (key, form) in ORIGIN_KEYS {
        let Some(value) = map.get(key) else { continue };
        let (good, expected) = match form {
            Form::Seconds => (
                value.as_u64().is_some_and(|seconds| seconds <= MAX_SECONDS),
                "a whole number of seconds, at most a day",
            ),
            Form::Count => (
                value.as_u64().is_some_and(|count| u32::try_from(count).is_ok()),
                "a whole number of at least 0",
            ),
            Form::Flag => (value.is_boolean(), "true or false"),
            Form::Text => (value.is_string(), "a text"),
        };
        if !good {
            return Err(wrong(&format!("{key}: expected {expected}"), &format!("{pointer}/{key}")));
        }
    }
    match map.get("proxyType").and_then(Value::as_str) {
        None | Some("" | "socks") => Ok(()),
        Some(_) => Err(wrong("proxyType: expected \"\" or \"socks\"", &format!("{pointer}/proxyType"))),
    }
}

fn wrong(message: &str, pointer: &str) -> ApiError {
    let message = format!("Bad Configuration: {message}");
    ApiError::new(StatusCode::BAD_REQUEST, 1056, message).at(format!("/config{pointer}"))
}

/// Feeds any value to the checks.
pub(super) fn fuzz(config: &Value) {
    if let Err(error) = check(config) {
        assert!(error.message.starts_with("Bad Configuration: "), "an error says what it is about");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(config: &Value) -> Option<(String, String)> {
        let error = check(config).err()?;
        assert_eq!((error.status, error.code), (StatusCode::BAD_REQUEST, 1056));
        Some((error.message, error.pointer.unwrap_or_default()))
    }

    fn of_rules(rules: &Value) -> Option<(String, String)> {
        refusal(&json!({ "ingress": rules }))
    }

    fn service(service: &str) -> Option<String> {
        of_rules(&json!([{ "service": service }])).map(|(message, _)| message)
    }

    #[test]
    fn what_a_connector_can_use_is_good() {
        let config = json!({
            "originRequest": { "connectTimeout": 10, "noTLSVerify": true, "proxyType": "socks", "someday": [1] },
            "ingress": [
                { "hostname": "a.example.com", "path": "^/api/\\d+", "service": "https://10.0.0.1:6443",
                  "originRequest": { "access": { "required": true, "teamName": "t", "audTag": ["x"] } } },
                { "hostname": "*.example.com", "service": "unix:/run/web.sock",
                  "originRequest": { "ipRules": [{ "prefix": "10.0.0.0/8", "ports": [443], "allow": true }] } },
                { "hostname": "", "service": "http_status:404" },
            ],
            "warp-routing": { "enabled": true, "connectTimeout": 5, "maxActiveFlows": 0 },
        });
        assert_eq!(refusal(&config), None);
        for good in [
            "http://localhost:8080",
            "https://[2001:db8::1]:443",
            "ws://a",
            "tcp://10.0.0.1:22",
            "ssh://host",
            "rdp://host:3389",
            "smb://host",
            "unix+tls:/run/x",
            "hello_world",
            "hello-world",
            "socks-proxy",
            "bastion",
            "http_status:503",
            "http://localhost/",
        ] {
            assert_eq!(service(good), None, "{good}");
        }
    }

    #[test]
    fn the_last_rule_and_no_other_matches_everything() {
        let (message, pointer) =
            of_rules(&json!([{ "hostname": "a.example.com", "service": "http://a" }])).unwrap();
        assert_eq!(
            message,
            "Bad Configuration: The last ingress rule must match all URLs (i.e. it should not have a hostname or path \
             filter)"
        );
        assert_eq!(pointer, "/config/ingress/0");
        let (message, _) = of_rules(&json!([{ "service": "http://a" }, { "service": "http://b" }])).unwrap();
        assert!(message.contains("Rule #1 is matching the hostname ''"), "{message}");
        let (message, _) = of_rules(&json!([])).unwrap();
        assert!(message.contains("at least one"), "{message}");
        assert!(refusal(&json!({})).is_some() && refusal(&json!([])).is_some());
    }

    #[test]
    fn hostnames_and_paths_have_their_forms() {
        let rule = |key: &str, value: &str| {
            let mut rule = json!({ "hostname": "a.example.com", "service": "http://a" });
            rule[key] = value.into();
            of_rules(&json!([rule, { "service": "http_status:404" }])).map(|(message, _)| message)
        };
        assert_eq!(rule("hostname", "*.example.com"), None);
        for (hostname, part) in [
            ("a.*.example.com", "at most one wildcard"),
            ("*.*.example.com", "at most one wildcard"),
            ("a.example.com:443", "cannot contain a port"),
            ("a b", "expected a host name"),
        ] {
            assert!(rule("hostname", hostname).unwrap().contains(part), "{hostname}");
        }
        assert_eq!(rule("path", "\\.(jpg|png)$"), None);
        let message = rule("path", "[unclosed").unwrap();
        assert!(
            message.starts_with("Bad Configuration: Rule #1 has an invalid regex: unclosed"),
            "{message}"
        );
    }

    #[test]
    fn services_have_their_forms() {
        for (given, part) in [
            ("", "needs a service"),
            ("localhost:8080", "make sure it has a scheme and a hostname"),
            ("http://", "make sure it has a scheme and a hostname"),
            ("http://:80", "make sure it has a scheme and a hostname"),
            ("http://host:port", "make sure it has a scheme and a hostname"),
            ("http://a/x", "don't support proxying to a different path"),
            ("http_status:99", "99 is not a valid HTTP status code"),
            ("http_status:x", "x is not a valid HTTP status code"),
            ("unix:", "names no socket"),
        ] {
            let message = service(given).unwrap_or_else(|| panic!("{given} was taken"));
            assert!(message.contains(part), "{given}: {message}");
        }
    }

    #[test]
    fn an_error_points_to_the_key() {
        for (key, value) in [
            ("connectTimeout", json!("30s")),
            ("connectTimeout", json!(1.5)),
            ("tlsTimeout", json!(-1)),
            ("noTLSVerify", json!("yes")),
            ("caPool", json!(1)),
            ("proxyType", json!("http")),
            ("access", json!({ "required": "yes" })),
            ("ipRules", json!([{ "prefix": "10.0.0.0/33" }])),
        ] {
            let mut origin = Map::new();
            origin.insert(key.into(), value);
            let origin = Value::Object(origin);
            let rules = json!([{ "service": "http://a", "originRequest": origin.clone() }]);
            assert_eq!(of_rules(&rules).unwrap().1, format!("/config/ingress/0/originRequest/{key}"));
            let top = json!({ "originRequest": origin, "ingress": [{ "service": "http://a" }] });
            assert_eq!(refusal(&top).unwrap().1, format!("/config/originRequest/{key}"));
        }
        let routing = json!({ "warp-routing": true, "ingress": [{ "service": "http://a" }] });
        assert_eq!(refusal(&routing).unwrap().1, "/config/warp-routing");
    }

    proptest::proptest! {
        #[test]
        fn any_rule_is_good_or_has_its_reason(hostname in ".{0,20}", path in ".{0,20}", service in ".{0,30}") {
            fuzz(&json!({ "ingress": [{ "hostname": hostname, "path": path, "service": service }] }));
        }
    }
}
