//! Shapes of answers: an object's fields are named once, with what each may be and where its value comes from, by
//! [`object!`]; what handlers answer and what the OpenAPI document says are read from the same lines.
//!
//! What holds: an object has the keys that its shape names and no others; a key whose value is not set is `null` (contract
//! D, 2.6), and only those that are [`Kind::Sometimes`] may be missing. That a value is of its kind is not checked where it
//! is answered: the tests compare every answer that they get with the document.

use serde_json::{Map, Value, json};

/// A field of an object, and what it may be.
pub(super) type Member = (&'static str, Kind);

/// What a value may be.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Anything,
    Null,
    Flag,
    /// A whole number of at least 0.
    Number,
    Text,
    Uuid,
    /// 32 hexadecimal digits.
    Tag,
    Time,
    /// A time, or a date.
    Moment,
    OneOf(&'static [&'static str]),
    /// It, or `null`.
    Maybe(&'static Kind),
    /// A field that may be missing.
    Sometimes(&'static Kind),
    /// An array.
    Many(&'static Kind),
    /// An object with any keys.
    Map(&'static Kind),
    /// An object: its name, its fields, and fields that only some operations answer.
    Object(&'static str, &'static [Member], &'static [Member]),
}

/// An object without keys.
pub(super) const EMPTY: Kind = Kind::Object("Empty", &[], &[]);
/// `asc` or `desc`.
pub(super) const DIRECTION: Kind = Kind::OneOf(&["asc", "desc"]);

/// Defines an object: `FIELDS = name(arguments) with { statements } [ "key": kind => value, .. ]` makes the constant with its
/// members and the function that makes it.
macro_rules! object {
    (
        $(#[$doc:meta])*
        $fields:ident = $name:ident($($argument:ident: $of:ty),* $(,)?) $(with { $($before:tt)* })?
        [ $($key:literal: $kind:expr => $value:expr),* $(,)? ]
    ) => {
        const $fields: &[$crate::api::answer::Member] = &[$(($key, $kind)),*];

        $(#[$doc])*
        fn $name($($argument: $of),*) -> serde_json::Value {
            $($($before)*)?
            serde_json::json!({ $($key: $value),* })
        }
    };
}

pub(super) use object;

impl Kind {
    /// As JSON Schema; the objects in it are references to what [`Kind::objects`] collects.
    pub(super) fn schema(&self) -> Value {
        match self {
            Self::Anything => json!({}),
            Self::Null => json!({ "type": "null" }),
            Self::Flag => json!({ "type": "boolean" }),
            Self::Number => json!({ "type": "integer", "minimum": 0 }),
            Self::Text => json!({ "type": "string" }),
            Self::Uuid => json!({ "type": "string", "format": "uuid" }),
            Self::Tag => json!({ "type": "string", "pattern": "^[0-9a-f]{32}$" }),
            Self::Time => json!({ "type": "string", "format": "date-time" }),
            Self::Moment => {
                json!({ "type": "string", "anyOf": [{ "format": "date-time" }, { "format": "date" }] })
            }
            Self::OneOf(names) => json!({ "type": "string", "enum": names }),
            Self::Maybe(kind) => json!({ "anyOf": [kind.schema(), { "type": "null" }] }),
            Self::Sometimes(kind) => kind.schema(),
            Self::Many(kind) => json!({ "type": "array", "items": kind.schema() }),
            Self::Map(kind) => json!({ "type": "object", "additionalProperties": kind.schema() }),
            Self::Object(name, ..) => json!({ "$ref": format!("#/components/schemas/{name}") }),
        }
    }

    /// Tells the objects in it, each with its schema.
    pub(super) fn objects(&self, found: &mut dyn FnMut(&'static str, Value)) {
        match self {
            Self::Object(name, fields, more) => {
                let all = || fields.iter().chain(*more);
                let schemas = all().map(|(key, kind)| ((*key).to_owned(), kind.schema()));
                let always = all().filter(|(_, kind)| !matches!(kind, Self::Sometimes(_)));
                let schema = json!({
                    "type": "object",
                    "properties": schemas.collect::<Map<_, _>>(),
                    "required": always.map(|(key, _)| *key).collect::<Vec<_>>(),
                    "additionalProperties": false,
                });
                found(name, schema);
                all().for_each(|(_, kind)| kind.objects(found));
            }
            Self::Maybe(kind) | Self::Sometimes(kind) | Self::Many(kind) | Self::Map(kind) => {
                kind.objects(found);
            }
            Self::Anything
            | Self::Null
            | Self::Flag
            | Self::Number
            | Self::Text
            | Self::Uuid
            | Self::Tag
            | Self::Time
            | Self::Moment
            | Self::OneOf(_) => {}
        }
    }

    /// Whether it is an object with an id, which later requests may name.
    pub(super) fn has_id(&self) -> bool {
        matches!(self, Self::Object(_, fields, _) if fields.iter().any(|(key, _)| *key == "id"))
    }
}
