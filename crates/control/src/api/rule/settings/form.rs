//! The forms of settings: what a value may be, and how it is kept.

use std::net::IpAddr;

use adit_model::{GoDuration, VirtualNetworkId};
use adit_policy::scheme::{self, Filter, Part};
use serde_json::{Map, Value, json};

use super::{invalid, or_nothing, says_nothing};
use crate::api::envelope::ApiError;

/// Longest URL, in bytes.
const MAX_URL: usize = 2048;
/// Longest name and value of a header, in bytes (Gateway semantics, 2.1).
const MAX_HEADER_NAME: usize = 256;
const MAX_HEADER_VALUE: usize = 4096;
/// Most addresses of an override.
const MAX_IPS: usize = 100;
/// Most resolvers of a family (contract D, 8.7).
const MAX_RESOLVERS: usize = 10;

/// What a value may be.
#[derive(Debug, Clone, Copy)]
pub(super) enum Form {
    /// Anything: a setting that is never legal.
    Any,
    Flag,
    /// Up to so many characters.
    Text(usize),
    Ip,
    Ips,
    Port,
    Host,
    Url,
    Duration,
    OneOf(&'static [&'static str]),
    /// Keys, the forms of their values, and whether they must be there.
    Object(&'static [(&'static str, Form, bool)]),
    Headers,
    HeaderNames,
    HeaderName,
    HeaderValue,
    Resolvers,
    /// The id of a virtual network.
    Network,
}

const RESOLVER: Form = Form::Object(&[
    ("ip", Form::Ip, true),
    ("port", Form::Port, false),
    ("vnet_id", Form::Network, false),
    ("route_through_private_network", Form::Flag, false),
]);

impl Form {
    /// The value as it is kept, or what is wrong with it.
    pub(super) fn check(self, key: &str, value: &Value, at: &str) -> Result<Value, ApiError> {
        let wrong = |expected: &str| Err(invalid(&format!("{key}: expected {expected}"), at));
        let text = value.as_str();
        match self {
            Self::Any => Ok(value.clone()),
            Self::Flag if value.is_boolean() => Ok(value.clone()),
            Self::Flag => wrong("true or false"),
            Self::Text(most) if text.is_some_and(|text| text.chars().count() <= most) => Ok(value.clone()),
            Self::Text(most) => wrong(&format!("a text of at most {most} characters")),
            Self::Ip if text.is_some_and(|text| text.parse::<IpAddr>().is_ok()) => Ok(value.clone()),
            Self::Ip => wrong("an address such as 10.0.0.1 or 2001:db8::1"),
            Self::Port if value.as_u64().is_some_and(|port| (1..=65535).contains(&port)) => Ok(value.clone()),
            Self::Port => wrong("a port from 1 to 65535"),
            Self::Network if text.is_some_and(|text| text.parse::<VirtualNetworkId>().is_ok()) => {
                Ok(value.clone())
            }
            Self::Network => wrong("the id of a virtual network"),
            Self::Host if text.is_some_and(is_host) => Ok(value.clone()),
            Self::Host => wrong("a host name such as app.example.com"),
            Self::Url if text.is_some_and(is_url) => Ok(value.clone()),
            Self::Url => wrong("a URL such as https://example.com/path"),
            Self::OneOf(names) if text.is_some_and(|text| names.contains(&text)) => Ok(value.clone()),
            Self::OneOf(names) => wrong(&names.join(", ")),
            Self::Duration => {
                let duration = text.and_then(|text| text.parse::<GoDuration>().ok());
                match duration.filter(|duration| !duration.get().is_zero()) {
                    Some(duration) => Ok(duration.verbose().into()),
                    None => wrong("a duration such as 30m or 1h30m"),
                }
            }
            Self::Ips => each(key, value, at, MAX_IPS, Self::Ip),
            Self::Resolvers => each(key, value, at, MAX_RESOLVERS, RESOLVER),
            Self::HeaderNames => each(key, value, at, usize::MAX, Self::HeaderName),
            Self::HeaderName if text.is_some_and(is_header_name) => Ok(value.clone()),
            Self::HeaderName => wrong("the name of a header, of at most 256 bytes"),
            Self::HeaderValue => match text.map_or(Err("a text".into()), header_value) {
                Ok(()) => Ok(value.clone()),
                Err(expected) => wrong(&expected),
            },
            Self::Headers => headers(key, value, at),
            Self::Object(keys) => object(key, keys, value, at),
        }
    }
}

impl Form {
    /// As JSON Schema.
    pub(super) fn schema(self) -> Value {
        let text = |most: usize| json!({ "type": "string", "maxLength": most });
        let many = |form: Self| json!({ "type": "array", "items": form.schema() });
        match self {
            Self::Any => json!({ "not": {} }),
            Self::Flag => json!({ "type": "boolean" }),
            Self::Text(most) => text(most),
            Self::Ip => json!({ "type": "string", "anyOf": [{ "format": "ipv4" }, { "format": "ipv6" }] }),
            Self::Ips => json!({ "type": "array", "items": Self::Ip.schema(), "maxItems": MAX_IPS }),
            Self::Port => json!({ "type": "integer", "minimum": 1, "maximum": 65535 }),
            Self::Host => json!({ "type": "string", "maxLength": 254, "pattern": "^[A-Za-z0-9_.-]+$" }),
            Self::Url => {
                json!({ "type": "string", "maxLength": MAX_URL, "pattern": "^[Hh][Tt][Tt][Pp][Ss]?://" })
            }
            Self::Duration => json!({ "type": "string", "description": "A duration such as 1h30m." }),
            Self::OneOf(names) => json!({ "type": "string", "enum": names }),
            Self::Object(keys) => object_schema(keys),
            Self::Headers => json!({
                "type": "object",
                "propertyNames": Self::HeaderName.schema(),
                "additionalProperties": many(Self::HeaderValue),
            }),
            Self::HeaderNames => many(Self::HeaderName),
            Self::HeaderName => {
                json!({ "type": "string", "maxLength": MAX_HEADER_NAME, "pattern": "^[!#$%&'*+.^_`|~0-9A-Za-z-]+$" })
            }
            Self::HeaderValue => text(MAX_HEADER_VALUE),
            Self::Resolvers => {
                json!({ "type": "array", "items": RESOLVER.schema(), "maxItems": MAX_RESOLVERS })
            }
            Self::Network => json!({ "type": "string", "format": "uuid" }),
        }
    }
}

/// What [`object`] takes.
fn object_schema(keys: &[(&'static str, Form, bool)]) -> Value {
    let known = keys.iter().map(|(key, form, required)| {
        let schema = form.schema();
        ((*key).to_owned(), if *required { schema } else { or_nothing(&schema) })
    });
    let required = keys.iter().filter(|(.., required)| *required).map(|(key, ..)| *key);
    json!({
        "type": "object",
        "properties": known.collect::<Map<_, _>>(),
        "required": required.collect::<Vec<_>>(),
        "additionalProperties": { "enum": [null, false, "", [], {}] },
    })
}

fn each(key: &str, value: &Value, at: &str, most: usize, form: Form) -> Result<Value, ApiError> {
    match value {
        Value::Array(items) if items.len() <= most => {
            let items = items.iter().enumerate();
            items.map(|(index, item)| form.check(key, item, &format!("{at}/{index}"))).collect()
        }
        Value::Array(_) => Err(invalid(&format!("{key}: expected at most {most}"), at)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => {
            Err(invalid(&format!("{key}: expected an array"), at))
        }
    }
}

/// An object of known keys. What says nothing is not kept, but for a flag that someone switched off.
fn object(
    key: &str,
    keys: &[(&'static str, Form, bool)],
    value: &Value,
    at: &str,
) -> Result<Value, ApiError> {
    let Value::Object(map) = value else {
        return Err(invalid(&format!("{key}: expected an object"), at));
    };
    let mut kept = Map::new();
    for (key, form, required) in keys {
        let at = format!("{at}/{key}");
        match map.get(*key) {
            Some(value @ Value::Bool(false)) => {
                kept.insert((*key).into(), form.check(key, value, &at)?);
            }
            Some(value) if !says_nothing(value) && value.as_u64() != Some(0) => {
                kept.insert((*key).into(), form.check(key, value, &at)?);
            }
            Some(_) | None if *required => {
                return Err(invalid(&format!("{key}: it is required"), at));
            }
            Some(_) | None => {}
        }
    }
    match map.iter().find(|(key, value)| !says_nothing(value) && !keys.iter().any(|(known, ..)| known == key))
    {
        None => Ok(Value::Object(kept)),
        Some((unknown, _)) => {
            let known: Vec<&str> = keys.iter().map(|(known, ..)| *known).collect();
            let unknown: String = unknown.chars().take(64).collect();
            Err(invalid(&format!("{unknown}: not known; there are {}", known.join(", ")), at))
        }
    }
}

fn headers(key: &str, value: &Value, at: &str) -> Result<Value, ApiError> {
    let Value::Object(map) = value else {
        return Err(invalid(&format!("{key}: expected an object of names with arrays of values"), at));
    };
    for (name, values) in map {
        let at = format!("{at}/{}", name.replace('~', "~0").replace('/', "~1"));
        Form::HeaderName.check(key, &Value::String(name.clone()), &at)?;
        each(key, values, &at, usize::MAX, Form::HeaderValue)?;
    }
    Ok(value.clone())
}

fn is_host(text: &str) -> bool {
    let name = text.strip_suffix('.').unwrap_or(text);
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let label = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(plain);
    name.len() <= 253 && name.split('.').all(label)
}

/// An absolute URL of `http` or `https`.
pub(in crate::api) fn is_url(text: &str) -> bool {
    let uri = (text.len() <= MAX_URL).then(|| text.parse::<http::Uri>().ok()).flatten();
    uri.is_some_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some_and(|host| !host.is_empty())
    })
}

fn is_header_name(text: &str) -> bool {
    text.len() <= MAX_HEADER_NAME && http::HeaderName::from_bytes(text.as_bytes()).is_ok()
}

/// A header's value, with fields of the request as `@{field}`; `@@{` is `@{` itself.
fn header_value(text: &str) -> Result<(), String> {
    if text.len() > MAX_HEADER_VALUE || text.chars().any(|char| char.is_control() && char != '\t') {
        return Err(format!(
            "a header's value of at most {MAX_HEADER_VALUE} bytes, without control characters"
        ));
    }
    let known = scheme::rule(Filter::Http, Part::Traffic, "allow");
    let mut rest = text;
    while let Some(at) = rest.find("@{") {
        let escaped = rest[..at].ends_with('@');
        rest = &rest[at + 2..];
        if escaped {
            continue;
        }
        let (name, after) = rest.split_once('}').ok_or("every @{ to have its }; @@{ stands for @{ itself")?;
        if known.and_then(|scheme| scheme.field(name)).is_none() {
            let name: String = name.chars().take(64).collect();
            return Err(format!("@{{FIELD}} with a field of the http filter, not {name}"));
        }
        rest = after;
    }
    Ok(())
}
