//! What an item of a list may be (contract D, 7.3): each is kept as it was given, and compared by the value that it means.

use std::collections::HashSet;
use std::net::IpAddr;

use adit_model::ListKind;
use adit_store::NewItem;
use http::StatusCode;
use ipnet::IpNet;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::api::envelope::ApiError;

/// Longest item, in bytes (contract D, 7.3).
const MAX_VALUE: usize = 2048;
/// Longest description of an item, in characters (contract D, 7.3).
const MAX_DESCRIPTION: usize = 500;
/// Most items of a list, and of one request (contract D, 7.3).
pub(in crate::api) const MAX_ITEMS: usize = 100_000;

/// What is done with an item that is the same as one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::api) enum Repeated {
    Refused,
    PassedOver,
}

/// What [`items`] takes: what a value may be depends on the list's type.
pub(in crate::api) fn schema() -> Value {
    let value = json!({ "type": "string", "minLength": 1, "maxLength": MAX_VALUE });
    let said = json!({
        "type": "object",
        "properties": { "value": value, "description": { "type": ["string", "null"], "maxLength": MAX_DESCRIPTION } },
        "required": ["value"],
    });
    let many = json!({ "type": "array", "items": { "anyOf": [said, value] }, "maxItems": MAX_ITEMS });
    json!({ "anyOf": [many, { "type": "null" }] })
}

/// What [`removed`] takes.
pub(in crate::api) fn removed_schema() -> Value {
    let said = json!({
        "type": "object", "properties": { "value": { "type": "string" } }, "required": ["value"],
    });
    json!({ "type": ["array", "null"], "items": { "anyOf": [{ "type": "string" }, said] } })
}

/// Reads an array of items, each `{value, description?}` or a text.
pub(in crate::api) fn items(
    kind: ListKind,
    values: &Value,
    name: &str,
    repeated: Repeated,
) -> Result<Vec<NewItem>, ApiError> {
    let Value::Array(values) = values else {
        return Err(wrong(&format!("{name}: expected an array"), format!("/{name}")));
    };
    if values.len() > MAX_ITEMS {
        return Err(wrong(&format!("{name}: expected at most {MAX_ITEMS} items"), format!("/{name}")));
    }
    let mut seen = HashSet::with_capacity(values.len());
    let mut items = Vec::with_capacity(values.len());
    for (index, value) in values.iter().enumerate() {
        let item =
            item(kind, value).map_err(|(text, below)| wrong(&text, format!("/{name}/{index}{below}")))?;
        if seen.insert(item.compared.clone()) {
            items.push(item);
        } else if repeated == Repeated::Refused {
            let text = format!("duplicate item {}", quoted(&item.value));
            return Err(wrong(&text, format!("/{name}/{index}/value")));
        }
    }
    Ok(items)
}

/// An item, or what is wrong with it and where.
fn item(kind: ListKind, value: &Value) -> Result<NewItem, (String, &'static str)> {
    let (value, description) = match value {
        Value::String(text) => (text, None),
        Value::Object(map) => {
            let Some(Value::String(text)) = map.get("value") else {
                return Err(("expected a text".into(), "/value"));
            };
            let description = match map.get("description") {
                None | Some(Value::Null) => None,
                Some(Value::String(text)) if text.chars().count() <= MAX_DESCRIPTION => Some(text.clone()),
                Some(_) => {
                    let text = format!("expected a text of at most {MAX_DESCRIPTION} characters");
                    return Err((text, "/description"));
                }
            };
            (text, description)
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => {
            return Err(("expected an object with a value, or a text".into(), ""));
        }
    };
    let compared = compared(kind, value)
        .map_err(|expected| (format!("{} is not {expected}", quoted(value)), "/value"))?;
    Ok(NewItem { value: value.clone(), compared, description })
}

/// Reads the values that are to be removed: a text is looked for by what it means, and one that means nothing is nowhere.
pub(in crate::api) fn removed(kind: ListKind, values: &Value) -> Result<Vec<String>, ApiError> {
    let expected = |pointer: String| wrong("remove: expected an array of texts", pointer);
    let Value::Array(values) = values else { return Err(expected("/remove".into())) };
    let mut found = Vec::with_capacity(values.len());
    for (index, value) in values.iter().enumerate() {
        let text = value.as_str().or_else(|| value.get("value").and_then(Value::as_str));
        let text = text.ok_or_else(|| expected(format!("/remove/{index}")))?;
        found.extend(compared(kind, text).ok());
    }
    Ok(found)
}

fn wrong(text: &str, pointer: String) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, 2054, format!("invalid item: {text}")).at(pointer)
}

/// The beginning of a text, for an error.
fn quoted(text: &str) -> String {
    let short: String = text.chars().take(64).collect();
    format!("{short:?}")
}

/// The value by which an item is compared, or what was expected.
pub(in crate::api) fn compared(kind: ListKind, text: &str) -> Result<String, &'static str> {
    if text.is_empty() || text.len() > MAX_VALUE || text.chars().any(char::is_control) {
        return Err("a text of 1 to 2048 printable bytes");
    }
    match kind {
        ListKind::Ip => network(text),
        ListKind::Domain => host(text).ok_or("a host name such as app.example.com, without scheme and path"),
        ListKind::Url => url(text).ok_or("a URL such as example.com/path or https://example.com/path"),
        ListKind::Email => email(text).ok_or("an e-mail address"),
        ListKind::Serial => Ok(text.to_owned()),
        ListKind::Category => {
            let number = text.parse::<u32>().ok().filter(|number| number.to_string() == text);
            number.map(|number| number.to_string()).ok_or("the number of a category")
        }
        ListKind::Location | ListKind::Device | ListKind::Aaguid => {
            let plain = text.len() == 32 || text.len() == 36;
            let id = plain.then(|| Uuid::try_parse(text).ok()).flatten();
            id.map(|id| id.as_hyphenated().to_string()).ok_or("a UUID")
        }
    }
}

fn network(text: &str) -> Result<String, &'static str> {
    const EXPECTED: &str = "an address or a network such as 10.0.0.0/8 or 2001:db8::/32";
    let network = match text.parse::<IpAddr>() {
        Ok(address) => IpNet::from(address),
        Err(_) => text.parse::<IpNet>().map_err(|_| EXPECTED)?,
    };
    if network.trunc() != network {
        return Err("a network: bits are set behind its prefix");
    }
    if matches!(network.addr(), IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some()) {
        return Err("an address that flows have: write an IPv4-mapped one as IPv4");
    }
    Ok(network.to_string())
}

/// A host name in lower case and punycode.
fn host(text: &str) -> Option<String> {
    let name = idna::domain_to_ascii(text.strip_suffix('.').unwrap_or(text)).ok()?;
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    (name.len() <= 253 && name.split('.').all(label)).then(|| name.to_ascii_lowercase())
}

fn url(text: &str) -> Option<String> {
    if text.contains(char::is_whitespace) {
        return None;
    }
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) => (Some(scheme.to_ascii_lowercase()), rest),
        None => (None, text),
    };
    if scheme.as_deref().is_some_and(|scheme| scheme != "http" && scheme != "https") {
        return None;
    }
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let (name, port) = match authority.rsplit_once(':') {
        Some((name, port)) if !authority.ends_with(']') => (name, Some(port.parse::<u16>().ok()?)),
        Some(_) | None => (authority, None),
    };
    let name = match name.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')) {
        Some(inner) => format!("[{}]", inner.parse::<std::net::Ipv6Addr>().ok()?),
        None => host(name)?,
    };
    let scheme = scheme.map_or_else(String::new, |scheme| format!("{scheme}://"));
    let port = port.map_or_else(String::new, |port| format!(":{port}"));
    let path = path.trim_end_matches('/');
    Some(format!("{scheme}{name}{port}{path}"))
}

fn email(text: &str) -> Option<String> {
    let (local, domain) = text.split_once('@')?;
    let good = !local.is_empty() && !domain.is_empty() && !domain.contains('@');
    (good && !text.contains(char::is_whitespace)).then(|| text.to_lowercase())
}

/// Feeds any text to the parsers of items.
pub(in crate::api) fn fuzz(text: &str) {
    for kind in ListKind::ALL {
        if let Ok(value) = compared(kind, text) {
            assert_eq!(compared(kind, &value).as_ref(), Ok(&value), "{kind}: a value is compared as itself");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(kind: ListKind, text: &str, expected: Option<&str>) {
        assert_eq!(compared(kind, text).ok().as_deref(), expected, "{kind} {text:?}");
    }

    #[test]
    fn an_item_means_a_value_of_its_kind() {
        use ListKind::{Aaguid, Category, Device, Domain, Email, Ip, Location, Serial, Url};
        check(Ip, "198.51.100.101/32", Some("198.51.100.101/32"));
        check(Ip, "198.51.100.101", Some("198.51.100.101/32"));
        check(Ip, "2001:DB8::101/128", Some("2001:db8::101/128"));
        for wrong in ["10.0.0.1/8", "10.0.0.0/33", "::ffff:10.0.0.1", "a", "", "10.0.0.0/8 "] {
            check(Ip, wrong, None);
        }
        check(Domain, "App.Example.com.", Some("app.example.com"));
        check(Domain, "b\u{fc}cher.example", Some("xn--bcher-kva.example"));
        check(Domain, "_dmarc.example.com", Some("_dmarc.example.com"));
        for wrong in ["https://example.com", "example.com/x", "*.example.com", "a..b", "a b", "a:80"] {
            check(Domain, wrong, None);
        }
        check(Url, "Example.com/A/", Some("example.com/A"));
        check(Url, "HTTPS://Example.com", Some("https://example.com"));
        check(Url, "https://example.com:8443/a?b=C", Some("https://example.com:8443/a?b=C"));
        check(Url, "http://[2001:DB8::1]/x", Some("http://[2001:db8::1]/x"));
        for wrong in ["ftp://example.com", "https://", "a b/c", "user@example.com/x", "example.com:x/"] {
            check(Url, wrong, None);
        }
        check(Email, "A@Example.com", Some("a@example.com"));
        for wrong in ["a", "@b", "a@", "a@b@c", "a @b"] {
            check(Email, wrong, None);
        }
        check(Serial, "ABC-123", Some("ABC-123"));
        check(Serial, "a\nb", None);
        check(Category, "122", Some("122"));
        for wrong in ["x", "-1", "01", "+1", "4294967296"] {
            check(Category, wrong, None);
        }
        for kind in [Device, Aaguid, Location] {
            let id = "01302951-49f9-47c9-a400-0297e60b6a10";
            check(kind, "0130295149F947C9A4000297E60B6A10", Some(id));
            check(kind, id, Some(id));
            check(kind, "x", None);
        }
    }

    #[test]
    fn an_error_points_at_the_item() {
        let refused = |given: Value| {
            let error = items(ListKind::Ip, &given, "items", Repeated::Refused).unwrap_err();
            assert_eq!(error.code, 2054);
            (error.message, error.pointer.unwrap())
        };
        let (message, pointer) = refused(json!([{ "value": "10.0.0.1" }, { "value": "10.0.0.1/8" }]));
        assert_eq!(pointer, "/items/1/value");
        assert_eq!(message, "invalid item: \"10.0.0.1/8\" is not a network: bits are set behind its prefix");
        assert_eq!(refused(json!([{ "value": "10.0.0.1" }, "10.0.0.1/32"])).1, "/items/1/value");
        assert_eq!(refused(json!([{ "value": 1 }])).1, "/items/0/value");
        assert_eq!(refused(json!([1])).1, "/items/0");
        assert_eq!(refused(json!("x")).1, "/items");
        assert_eq!(refused(json!([{ "value": "10.0.0.1", "description": 7 }])).1, "/items/0/description");
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_an_item_or_not(text in ".{0,40}", likely in "[a-zA-Z0-9.:/@\\[\\]?#-]{0,40}") {
            fuzz(&text);
            fuzz(&likely);
        }
    }
}
