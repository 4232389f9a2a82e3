//! The values that cross the plugin protocol: MessagePack from and to the engine, JSON from a saved state.
//!
//! What holds: a number is whole, since nothing in the API is not; whatever the engine marks as unknown is [`Value::Unknown`],
//! refinements dropped. Sets and lists are both [`Value::List`], objects and maps both [`Value::Object`]: the schema tells
//! them apart. A value may be a secret, so `Debug` shows no text.

use std::collections::BTreeMap;
use std::fmt;

use rmpv::Value as Pack;
use serde_json::Value as Json;

/// An object's values by name.
pub type Object = BTreeMap<String, Value>;

/// A value of an attribute, or of a whole resource.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Value {
    /// Not set.
    #[default]
    Null,
    /// Known after apply.
    Unknown,
    /// `true` or `false`.
    Flag(bool),
    /// A whole number.
    Number(i64),
    /// A text.
    Text(String),
    /// A list or a set.
    List(Vec<Value>),
    /// An object or a map.
    Object(Object),
}

/// Why something is no value.
#[derive(Debug, thiserror::Error)]
pub enum ValueError {
    /// The bytes are no MessagePack.
    #[error("the value is not MessagePack")]
    Pack(#[from] rmpv::decode::Error),
    /// The bytes are no JSON.
    #[error("the value is not JSON")]
    Json(#[from] serde_json::Error),
    /// Something that no schema of ours has.
    #[error("expected {expected}")]
    Unexpected {
        /// What would be right.
        expected: &'static str,
    },
}

impl Value {
    /// Reads what the engine sent.
    ///
    /// # Errors
    /// The bytes are no value that a schema of ours can have.
    pub fn from_msgpack(mut bytes: &[u8]) -> Result<Self, ValueError> {
        from_pack(rmpv::decode::read_value_with_max_depth(&mut bytes, MAX_DEPTH)?)
    }

    /// What the engine reads.
    pub fn to_msgpack(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        // Writing to memory does not fail.
        let _ = rmpv::encode::write_value(&mut bytes, &to_pack(self));
        bytes
    }

    /// Reads JSON.
    ///
    /// # Errors
    /// It has a number that is not whole.
    pub fn from_json(json: &Json) -> Result<Self, ValueError> {
        Ok(match json {
            Json::Null => Self::Null,
            Json::Bool(flag) => Self::Flag(*flag),
            Json::Number(number) => match number.as_i64().or_else(|| number.as_f64().and_then(whole)) {
                Some(number) => Self::Number(number),
                None => return Err(ValueError::Unexpected { expected: "a whole number" }),
            },
            Json::String(text) => Self::Text(text.clone()),
            Json::Array(values) => Self::List(values.iter().map(Self::from_json).collect::<Result<_, _>>()?),
            Json::Object(values) => {
                let values = values.iter().map(|(name, value)| Ok((name.clone(), Self::from_json(value)?)));
                Self::Object(values.collect::<Result<_, ValueError>>()?)
            }
        })
    }

    /// The value as JSON; what is unknown is `null`.
    pub fn to_json(&self) -> Json {
        match self {
            Self::Null | Self::Unknown => Json::Null,
            Self::Flag(flag) => Json::Bool(*flag),
            Self::Number(number) => Json::from(*number),
            Self::Text(text) => Json::String(text.clone()),
            Self::List(values) => Json::Array(values.iter().map(Self::to_json).collect()),
            Self::Object(values) => {
                Json::Object(values.iter().map(|(name, value)| (name.clone(), value.to_json())).collect())
            }
        }
    }

    /// The text, if it is one.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Null
            | Self::Unknown
            | Self::Flag(_)
            | Self::Number(_)
            | Self::List(_)
            | Self::Object(_) => None,
        }
    }

    /// The values of a list, or none.
    pub fn list(&self) -> &[Value] {
        match self {
            Self::List(values) => values,
            Self::Null
            | Self::Unknown
            | Self::Flag(_)
            | Self::Number(_)
            | Self::Text(_)
            | Self::Object(_) => &[],
        }
    }

    /// The object, if it is one.
    pub fn object(&self) -> Option<&Object> {
        match self {
            Self::Object(values) => Some(values),
            Self::Null | Self::Unknown | Self::Flag(_) | Self::Number(_) | Self::Text(_) | Self::List(_) => {
                None
            }
        }
    }

    /// Whether it is not set.
    pub fn is_null(&self) -> bool {
        *self == Self::Null
    }

    /// Whether the API may mean the same by it as by nothing: `null`, `false`, 0, `""`, `[]`, and an object of only such.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Null => true,
            Self::Unknown => false,
            Self::Flag(flag) => !flag,
            Self::Number(number) => *number == 0,
            Self::Text(text) => text.is_empty(),
            Self::List(values) => values.is_empty(),
            Self::Object(values) => values.values().all(Self::is_empty),
        }
    }

    /// Whether nothing in it is unknown.
    pub fn is_known(&self) -> bool {
        match self {
            Self::Unknown => false,
            Self::Null | Self::Flag(_) | Self::Number(_) | Self::Text(_) => true,
            Self::List(values) => values.iter().all(Self::is_known),
            Self::Object(values) => values.values().all(Self::is_known),
        }
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Unknown => f.write_str("unknown"),
            Self::Flag(flag) => flag.fmt(f),
            Self::Number(number) => number.fmt(f),
            Self::Text(text) => write!(f, "text of {} bytes", text.len()),
            Self::List(values) => f.debug_list().entries(values).finish(),
            Self::Object(values) => f.debug_map().entries(values).finish(),
        }
    }
}

/// The value of an object's attribute; what is not there is not set.
pub(crate) fn of<'a>(object: &'a Object, name: &str) -> &'a Value {
    object.get(name).unwrap_or(&Value::Null)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "only numbers that both types hold exactly pass"
)]
fn whole(number: f64) -> Option<i64> {
    let exact = number.abs() <= MAX_EXACT && number.to_bits() == (number as i64 as f64).to_bits();
    exact.then_some(number as i64)
}

fn from_pack(pack: Pack) -> Result<Value, ValueError> {
    let wrong = |expected| Err(ValueError::Unexpected { expected });
    Ok(match pack {
        Pack::Nil => Value::Null,
        Pack::Ext(..) => Value::Unknown,
        Pack::Boolean(flag) => Value::Flag(flag),
        Pack::Integer(number) => match number.as_i64() {
            Some(number) => Value::Number(number),
            None => return wrong("a number below 2^63"),
        },
        Pack::F32(number) => match whole(f64::from(number)) {
            Some(number) => Value::Number(number),
            None => return wrong("a whole number"),
        },
        Pack::F64(number) => match whole(number) {
            Some(number) => Value::Number(number),
            None => return wrong("a whole number"),
        },
        Pack::String(text) => match text.into_str() {
            Some(text) => Value::Text(text),
            None => return wrong("text in UTF-8"),
        },
        Pack::Binary(_) => return wrong("no binary value"),
        Pack::Array(values) => Value::List(values.into_iter().map(from_pack).collect::<Result<_, _>>()?),
        Pack::Map(values) => {
            let values = values.into_iter().map(|(name, value)| {
                let name = name.as_str().map(str::to_owned);
                let name =
                    name.ok_or(ValueError::Unexpected { expected: "names that are texts in UTF-8" })?;
                Ok((name, from_pack(value)?))
            });
            Value::Object(values.collect::<Result<_, ValueError>>()?)
        }
    })
}

fn to_pack(value: &Value) -> Pack {
    match value {
        Value::Null => Pack::Nil,
        // Extension 0: unknown, nothing more said about it.
        Value::Unknown => Pack::Ext(0, vec![0]),
        Value::Flag(flag) => Pack::Boolean(*flag),
        Value::Number(number) => Pack::from(*number),
        Value::Text(text) => Pack::from(text.as_str()),
        Value::List(values) => Pack::Array(values.iter().map(to_pack).collect()),
        Value::Object(values) => Pack::Map(
            values.iter().map(|(name, value)| (Pack::from(name.as_str()), to_pack(value))).collect(),
        ),
    }
}

/// Reads any bytes: no panic, and what is read is read again from what is written.
#[doc(hidden)]
pub fn fuzz_value(bytes: &[u8]) {
    if let Ok(value) = Value::from_msgpack(bytes) {
        let again = Value::from_msgpack(&value.to_msgpack());
        assert_eq!(again.ok().as_ref(), Some(&value), "a value does not survive being written");
    }
}

/// Deepest nesting that is read; the deepest schema has six levels.
const MAX_DEPTH: usize = 32;
/// From here on a float does not tell neighbouring whole numbers apart.
const MAX_EXACT: f64 = 9_007_199_254_740_992.0;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_bytes_of_a_value_are_those_of_the_protocol() {
        let value = Value::Object(BTreeMap::from([
            ("a".to_owned(), Value::Unknown),
            ("b".to_owned(), Value::List(vec![Value::Number(-1), Value::Null, Value::Flag(true)])),
        ]));
        assert_eq!(value.to_msgpack(), b"\x82\xa1a\xd4\x00\x00\xa1b\x93\xff\xc0\xc3");
        let refined = b"\xc7\x03\x0c\x81\x01\xc2";
        assert_eq!(Value::from_msgpack(refined).unwrap(), Value::Unknown);
    }

    #[test]
    fn numbers_are_whole() {
        assert_eq!(Value::from_msgpack(b"\xcb\x40\x24\0\0\0\0\0\0").unwrap(), Value::Number(10));
        let error = Value::from_msgpack(b"\xcb\x3f\xf8\0\0\0\0\0\0").unwrap_err();
        assert_eq!(error.to_string(), "expected a whole number");
    }

    #[test]
    fn debug_shows_no_text() {
        let shown = format!("{:?}", Value::List(vec![Value::Text("secret".into())]));
        assert!(!shown.contains("secret"), "{shown}");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            fuzz_value(&bytes);
        }
    }
}
