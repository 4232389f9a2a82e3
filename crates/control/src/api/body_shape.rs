//! Shapes of bodies: one description checks a body whole, before its handler runs, and prints itself as JSON Schema.
//!
//! What holds: every flaw is reported with its JSON pointer and what was expected; keys that nobody knows are passed over
//! (contract D, 1.2) and `null` is absent. What only the handler can know (a name that is taken, a tunnel that is gone) is
//! not said here.

use adit_model::Cidr;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

use super::body::Family;
use super::envelope::ApiError;

/// Most flaws that one answer tells.
const MAX_FLAWS: usize = 20;

/// Texts of printable characters, as a regular expression.
const PRINTABLE: &str = "^[^\\u0000-\\u001f\\u007f-\\u009f]+$";
/// Base64 of 32 bytes to about a thousand, likewise.
const SECRET: &str = "^([A-Za-z0-9+/]{4}){10}([A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=|([A-Za-z0-9+/]{4}){1,330}\
                      ([A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=|[A-Za-z0-9+/][AQgw]==)?)$";

/// What a value may be.
#[derive(Debug, Clone, Copy)]
pub(super) enum Shape {
    Flag,
    /// A whole number of at least 1.
    Count,
    Text,
    /// 1 to so many printable characters.
    Name(usize),
    /// At most so many characters.
    Comment(usize),
    Uuid,
    /// A UUID, or an empty text for none, as older clients send it.
    UuidOrEmpty,
    Network,
    Time,
    /// Base64 of 32 to 1024 bytes; the text says what is wrong otherwise.
    Secret(&'static str),
    /// One of these.
    OneOf(&'static [&'static str]),
    /// A whole number of at least 0 and at most so much.
    Number(u64),
    /// What a handler checks itself, whether it is there included, with codes and words of its own: its schema.
    Told(fn() -> Value),
    /// An array of up to so many values; the text says what was expected.
    List(&'static Shape, usize, &'static str),
    Object(&'static [Field]),
}

/// A field of an object.
#[derive(Debug, Clone, Copy)]
pub(super) struct Field {
    name: &'static str,
    shape: Shape,
    /// What is said if it is missing; none if it may be.
    required: Option<&'static str>,
}

impl Field {
    pub(super) const fn optional(name: &'static str, shape: Shape) -> Self {
        Self { name, shape, required: None }
    }

    pub(super) const fn required(name: &'static str, expected: &'static str, shape: Shape) -> Self {
        Self { name, shape, required: Some(expected) }
    }
}

/// What is wrong, and where.
type Flaw = (String, String);

impl Shape {
    /// Checks a body.
    pub(super) fn check(&self, body: &Value, family: Family) -> Result<(), ApiError> {
        let mut flaws = Vec::new();
        self.look(body, "", &mut flaws);
        let mut flaws = flaws.into_iter().take(MAX_FLAWS);
        let Some((pointer, message)) = flaws.next() else { return Ok(()) };
        let also = flaws.map(|(pointer, message)| family.invalid(&message).at(pointer)).collect();
        let error = family.invalid(&message).at(pointer);
        Err(ApiError { also, ..error })
    }

    fn look(&self, value: &Value, pointer: &str, flaws: &mut Vec<Flaw>) {
        match (self, value) {
            (Self::Object(fields), Value::Object(map)) => {
                fields.iter().for_each(|field| field.look(map, pointer, flaws));
            }
            (Self::List(shape, most, _), Value::Array(items)) if items.len() <= *most => {
                for (at, item) in items.iter().enumerate() {
                    shape.look(item, &format!("{pointer}/{at}"), flaws);
                }
            }
            _ => {
                if let Err(wrong) = self.fits(value) {
                    flaws.push((pointer.to_owned(), wrong.said_of(&field_name(pointer))));
                }
            }
        }
    }

    /// Whether a value that is neither object nor array, where one of those is wanted, is right.
    fn fits(&self, value: &Value) -> Result<(), Wrong> {
        let expected = |text: &str| Wrong::Expected(text.to_owned());
        let (right, otherwise) = match self {
            Self::Told(_) => return Ok(()),
            Self::Number(most) => (
                value.as_u64().is_some_and(|number| number <= *most),
                expected(&format!("a whole number from 0 to {}", number(*most))),
            ),
            Self::Flag => (value.is_boolean(), expected("true or false")),
            Self::Count => {
                let count = value.as_u64().and_then(|count| u32::try_from(count).ok());
                (count.is_some_and(|count| count > 0), expected("a whole number of at least 1"))
            }
            Self::List(_, _, what) => (false, expected(what)),
            Self::Object(_) => (false, expected("an object")),
            Self::Secret(message) => {
                let secret = value.as_str().and_then(|text| STANDARD.decode(text).ok());
                let long_enough = secret.is_some_and(|secret| (32..=1024).contains(&secret.len()));
                (long_enough, Wrong::Said((*message).to_owned()))
            }
            Self::Text
            | Self::Name(_)
            | Self::Comment(_)
            | Self::Uuid
            | Self::UuidOrEmpty
            | Self::Network
            | Self::Time
            | Self::OneOf(_) => {
                let text = value.as_str().ok_or_else(|| expected("a text"))?;
                return self.fits_text(text);
            }
        };
        if right { Ok(()) } else { Err(otherwise) }
    }

    fn fits_text(&self, text: &str) -> Result<(), Wrong> {
        let length = text.chars().count();
        let (right, expected) = match self {
            Self::Name(longest) => {
                let right = (1..=*longest).contains(&length) && !text.chars().any(char::is_control);
                (right, format!("1 to {longest} printable characters"))
            }
            Self::Comment(longest) => (length <= *longest, format!("at most {longest} characters")),
            Self::Uuid => (Uuid::try_parse(text).is_ok(), "a UUID".into()),
            Self::UuidOrEmpty => (text.is_empty() || Uuid::try_parse(text).is_ok(), "a UUID".into()),
            Self::Network => {
                let read = text.parse::<Cidr>().map(drop);
                return read.map_err(|error| Wrong::Is(format!("is not a valid CIDR: {error}")));
            }
            Self::Time => {
                let right = OffsetDateTime::parse(text, &Rfc3339).is_ok();
                (right, "a time such as 2026-01-02T03:04:05Z".into())
            }
            Self::OneOf(names) => (names.contains(&text), listed(names)),
            Self::Told(_)
            | Self::Flag
            | Self::Count
            | Self::Number(_)
            | Self::Text
            | Self::Secret(_)
            | Self::List(..)
            | Self::Object(_) => (true, String::new()),
        };
        if right { Ok(()) } else { Err(Wrong::Expected(expected)) }
    }

    /// Whether an empty body, which is an empty object (contract D, 1.4), is none of these.
    pub(super) fn must_be_there(&self) -> bool {
        if let Self::Object(fields) = self {
            return fields.iter().any(|field| field.required.is_some());
        }
        matches!(self, Self::List(..))
    }

    /// As JSON Schema.
    pub(super) fn schema(&self) -> Value {
        match self {
            Self::Flag => json!({ "type": "boolean" }),
            Self::Count => json!({ "type": "integer", "minimum": 1, "maximum": u32::MAX }),
            Self::Text => json!({ "type": "string" }),
            Self::Number(most) => json!({ "type": "integer", "minimum": 0, "maximum": most }),
            Self::Told(schema) => schema(),
            Self::Name(longest) => {
                json!({ "type": "string", "minLength": 1, "maxLength": longest, "pattern": PRINTABLE })
            }
            Self::Comment(longest) => json!({ "type": "string", "maxLength": longest }),
            Self::Uuid => json!({ "type": "string", "format": "uuid" }),
            Self::UuidOrEmpty => {
                json!({ "anyOf": [{ "type": "string", "format": "uuid" }, { "const": "" }] })
            }
            Self::Network => json!({
                "type": "string",
                "description": "A network such as 10.0.0.0/8, or an address.",
                "anyOf": [{ "format": "ipv4" }, { "format": "ipv6" }, { "pattern": "^[0-9A-Fa-f.:]+/[0-9]{1,3}$" }],
            }),
            Self::Time => json!({ "type": "string", "format": "date-time" }),
            Self::Secret(_) => {
                json!({ "type": "string", "contentEncoding": "base64", "pattern": SECRET })
            }
            Self::OneOf(names) => json!({ "type": "string", "enum": names }),
            Self::List(shape, most, _) => {
                json!({ "type": "array", "items": shape.schema(), "maxItems": most })
            }
            Self::Object(fields) => {
                let schemas = fields.iter().map(|field| (field.name.to_owned(), field.schema()));
                let needed = fields.iter().filter(|field| field.required.is_some());
                let needed: Vec<&str> = needed.map(|field| field.name).collect();
                json!({
                    "type": "object",
                    "properties": schemas.collect::<Map<_, _>>(),
                    "required": needed,
                })
            }
        }
    }
}

impl Field {
    fn look(&self, map: &Map<String, Value>, pointer: &str, flaws: &mut Vec<Flaw>) {
        let pointer = format!("{pointer}/{}", self.name);
        match (map.get(self.name).filter(|value| !value.is_null()), self.required) {
            (Some(value), _) => self.shape.look(value, &pointer, flaws),
            (None, Some(_)) if matches!(self.shape, Shape::Told(_)) => {}
            (None, Some(expected)) => {
                let wrong = Wrong::Expected(format!("{expected}; it is required"));
                flaws.push((pointer.clone(), wrong.said_of(&field_name(&pointer))));
            }
            (None, None) => {}
        }
    }

    fn schema(&self) -> Value {
        let schema = self.shape.schema();
        match (self.required, self.shape) {
            (Some(_), _) | (None, Shape::Told(_)) => schema,
            (None, _) => json!({ "anyOf": [schema, { "type": "null" }] }),
        }
    }
}

/// What is wrong with a value.
enum Wrong {
    /// Something else was expected.
    Expected(String),
    /// What the field is.
    Is(String),
    /// The whole message.
    Said(String),
}

impl Wrong {
    fn said_of(self, field: &str) -> String {
        match self {
            Self::Expected(expected) => format!("{field}: expected {expected}"),
            Self::Is(what) => format!("{field} {what}"),
            Self::Said(message) => message,
        }
    }
}

/// Names as people read them.
fn listed(names: &[&str]) -> String {
    match names {
        [others @ .., last] if !others.is_empty() => format!("{} or {last}", others.join(", ")),
        _ => names.concat(),
    }
}

/// A limit as people read it.
fn number(limit: u64) -> String {
    if limit > u64::from(u32::MAX) && limit.is_power_of_two() {
        return format!("2^{}", limit.trailing_zeros());
    }
    limit.to_string()
}

/// A pointer as people read it.
fn field_name(pointer: &str) -> String {
    match pointer.strip_prefix('/') {
        Some(path) => path.replace('/', "."),
        None => "the body".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape::Object(&[
        Field::required("name", "1 to 5 printable characters", Shape::Name(5)),
        Field::optional("network", Shape::Network),
        Field::optional("kinds", Shape::List(&Shape::OneOf(&["a", "b"]), 2, "an array of up to two kinds")),
    ]);

    fn check(body: &Value, expected: &[(&str, &str)]) {
        let found = match SHAPE.check(body, Family::Network) {
            Ok(()) => Vec::new(),
            Err(error) => {
                let mut all = vec![(error.pointer.unwrap_or_default(), error.message)];
                all.extend(
                    error.also.into_iter().map(|also| (also.pointer.unwrap_or_default(), also.message)),
                );
                all
            }
        };
        let found: Vec<(&str, &str)> =
            found.iter().map(|(pointer, message)| (pointer.as_str(), message.as_str())).collect();
        assert_eq!(found, expected, "{body}");
    }

    #[test]
    fn every_flaw_of_a_body_is_told_with_its_place() {
        check(&json!({ "name": "x", "other": [1], "network": null, "kinds": ["a"] }), &[]);
        check(&json!([]), &[("", "the body: expected an object")]);
        check(&json!({}), &[("/name", "name: expected 1 to 5 printable characters; it is required")]);
        check(
            &json!({ "name": "too long", "kinds": ["a", "c"] }),
            &[
                ("/name", "name: expected 1 to 5 printable characters"),
                ("/kinds/1", "kinds.1: expected a or b"),
            ],
        );
        check(
            &json!({ "name": "x", "kinds": ["a", "b", "a"] }),
            &[("/kinds", "kinds: expected an array of up to two kinds")],
        );
    }
}
