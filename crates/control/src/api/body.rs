//! Bodies: JSON objects whose fields are read one by one, so that every error names the field and what was expected.

use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use serde_json::{Map, Value};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use zeroize::Zeroizing;

use super::envelope::ApiError;

/// The family of products to which an operation belongs: each has codes of its own (contract D, 13).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    /// Tunnels, routes, virtual networks, API tokens.
    Network,
    /// Access.
    Access,
    /// Devices.
    Device,
    /// Gateway lists.
    List,
    /// Gateway rules.
    Rule,
    /// What else belongs to the gateway.
    Gateway,
}

impl Family {
    /// What is said of a request that is not right.
    pub(super) fn invalid(self, message: &str) -> ApiError {
        let (code, message) = match self {
            Self::Network => (1003, message.to_owned()),
            Self::Access => (12130, format!("access.api.error.invalid_request: {message}")),
            Self::Device => (1102, message.to_owned()),
            Self::List => (2051, message.to_owned()),
            Self::Rule => (2082, message.to_owned()),
            Self::Gateway => (2102, message.to_owned()),
        };
        ApiError::new(StatusCode::BAD_REQUEST, code, message)
    }
}

/// A body that is a JSON object. Fields that nobody asks for are ignored (contract D, 1.2); `null` is absent.
#[derive(Debug)]
pub(crate) struct Fields {
    map: Map<String, Value>,
    family: Family,
}

/// Reads a body; an empty one is an empty object (contract D, 1.4).
pub(super) fn value(body: &[u8], family: Family) -> Result<Value, ApiError> {
    if body.trim_ascii().is_empty() {
        return Ok(Value::Object(Map::new()));
    }
    let malformed = |_| ApiError::new(StatusCode::BAD_REQUEST, 6007, "Malformed JSON in request body");
    let value = serde_json::from_slice(body).map_err(malformed)?;
    match nul(&value) {
        Some(pointer) => Err(family.invalid("NUL is not allowed in a text").at(pointer)),
        None => Ok(value),
    }
}

/// Where a text holds NUL, if one does. As deep as the parser lets a value be: 128.
fn nul(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => text.contains('\0').then(String::new),
        Value::Array(items) => {
            items.iter().enumerate().find_map(|(at, item)| Some(format!("/{at}{}", nul(item)?)))
        }
        Value::Object(map) => map.iter().find_map(|(key, item)| {
            let inner = if key.contains('\0') { String::new() } else { nul(item)? };
            Some(format!("/{}{inner}", key.replace('\0', "").replace('~', "~0").replace('/', "~1")))
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) => None,
    }
}

impl Fields {
    pub(super) fn read(body: &[u8], family: Family) -> Result<Self, ApiError> {
        match value(body, family)? {
            Value::Object(map) => Ok(Self { map, family }),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                Err(family.invalid("the body: expected an object").at(""))
            }
        }
    }

    /// Reads the body of an enrolment.
    pub(crate) fn device(body: &[u8]) -> Result<Self, ApiError> {
        Self::read(body, Family::Device)
    }

    /// An error about a field.
    pub(super) fn wrong(&self, name: &str, expected: &str) -> ApiError {
        self.family.invalid(&format!("{name}: expected {expected}")).at(format!("/{name}"))
    }

    pub(super) fn value(&self, name: &str) -> Option<&Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }

    pub(super) fn text(&self, name: &str) -> Result<Option<&str>, ApiError> {
        let text = |value: &'_ Value| value.as_str().is_some();
        match self.value(name) {
            None => Ok(None),
            Some(value) if text(value) => Ok(value.as_str()),
            Some(_) => Err(self.wrong(name, "a text")),
        }
    }

    /// A name that people read: up to `longest` characters, at least one, none of them a control character.
    pub(crate) fn name(&self, name: &str, longest: usize) -> Result<Option<String>, ApiError> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        let length = text.chars().count();
        if (1..=longest).contains(&length) && !text.chars().any(char::is_control) {
            return Ok(Some(text.to_owned()));
        }
        Err(self.wrong(name, &format!("1 to {longest} printable characters")))
    }

    /// A text of up to `longest` characters.
    pub(crate) fn comment(&self, name: &str, longest: usize) -> Result<Option<String>, ApiError> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        if text.chars().count() <= longest {
            return Ok(Some(text.to_owned()));
        }
        Err(self.wrong(name, &format!("at most {longest} characters")))
    }

    pub(super) fn flag(&self, name: &str) -> Result<Option<bool>, ApiError> {
        let flag = |value: &Value| value.as_bool().ok_or_else(|| self.wrong(name, "true or false"));
        self.value(name).map(flag).transpose()
    }

    pub(super) fn count(&self, name: &str) -> Result<Option<u32>, ApiError> {
        let count = |value: &Value| {
            let count = value.as_u64().and_then(|count| u32::try_from(count).ok()).filter(|count| *count > 0);
            count.ok_or_else(|| self.wrong(name, "a whole number of at least 1"))
        };
        self.value(name).map(count).transpose()
    }

    pub(super) fn parsed<T: FromStr>(&self, name: &str, expected: &str) -> Result<Option<T>, ApiError> {
        let parse = |text: &str| text.parse().map_err(|_| self.wrong(name, expected));
        self.text(name)?.map(parse).transpose()
    }

    pub(super) fn id<T: FromStr>(&self, name: &str) -> Result<Option<T>, ApiError> {
        self.parsed(name, "a UUID")
    }

    pub(super) fn time(&self, name: &str) -> Result<Option<OffsetDateTime>, ApiError> {
        let parse = |text: &str| {
            let wrong = |_| self.wrong(name, "a time such as 2026-01-02T03:04:05Z");
            OffsetDateTime::parse(text, &Rfc3339).map_err(wrong)
        };
        self.text(name)?.map(parse).transpose()
    }

    /// A secret in standard base64; `wrong` is the whole message if it is none.
    pub(super) fn secret(
        &self,
        name: &str,
        bytes: std::ops::RangeInclusive<usize>,
        wrong: &str,
    ) -> Result<Option<Zeroizing<Vec<u8>>>, ApiError> {
        let error = || self.family.invalid(wrong).at(format!("/{name}"));
        let Some(value) = self.value(name) else { return Ok(None) };
        let secret = value.as_str().and_then(|text| STANDARD.decode(text).ok()).map(Zeroizing::new);
        secret.filter(|secret| bytes.contains(&secret.len())).map(Some).ok_or_else(error)
    }

    /// What was asked for, or the error that it is missing.
    pub(crate) fn required<T>(&self, name: &str, expected: &str, found: Option<T>) -> Result<T, ApiError> {
        found.ok_or_else(|| self.wrong(name, &format!("{expected}; it is required")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(body: &str, expected: Result<(), (u32, &str)>) {
        let read = value(body.as_bytes(), Family::Network).map(drop);
        let read = read.map_err(|error| (error.code, error.pointer.unwrap_or_default()));
        assert_eq!(read, expected.map_err(|(code, pointer)| (code, pointer.to_owned())), "{body:?}");
    }

    #[test]
    fn bodies_are_json_without_nul() {
        check("", Ok(()));
        check(" \n", Ok(()));
        check(r#"{"name":"x"}"#, Ok(()));
        check("{", Err((6007, "")));
        check(&"[".repeat(1000), Err((6007, "")));
        check(r#"{"a":[{"b/c":"\u0000"}]}"#, Err((1003, "/a/0/b~1c")));
        check(r#"{"a\u0000":1}"#, Err((1003, "/a")));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_a_body_or_an_error(
            data: Vec<u8>,
            text in "\\{\"(name|tunnel_secret|expires_on)\":(\"[a-zA-Z0-9+/=:\\\\u-]{0,40}\"|[0-9]|null)\\}",
        ) {
            super::super::fuzz_request(&data);
            super::super::fuzz_request(text.as_bytes());
        }
    }

    #[test]
    fn an_error_names_the_field_and_what_was_expected() {
        let fields = Fields::read(br#"{"name":7,"flag":"yes"}"#, Family::Access).unwrap();
        let error = fields.name("name", 10).unwrap_err();
        assert_eq!(error.message, "access.api.error.invalid_request: name: expected a text");
        assert_eq!((error.code, error.pointer.as_deref()), (12130, Some("/name")));
        assert!(fields.flag("flag").unwrap_err().message.contains("flag: expected true or false"));
        assert_eq!(Fields::read(b"[]", Family::Device).unwrap_err().code, 1102);
    }
}
