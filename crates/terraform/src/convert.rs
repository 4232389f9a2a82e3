//! Between a configuration's values and the API's JSON, attribute by attribute.
//!
//! What holds: a value that a person wrote stays as it was written for as long as the API means the same by its answer. What
//! the API means by nothing (`null`, `""`, `false`, `[]`, an object of such) is one for an optional attribute, so that none of
//! them is drift from another. What it means by a text is told by [`Same`], or by what it answered when the text was applied
//! (see [`crate::memory`]).

use std::collections::BTreeMap;
use std::net::IpAddr;

use adit_model::GoDuration;
use ipnet::IpNet;
use serde_json::{Map, Value as Json, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::schema::{ANY, Attribute, Kind, Mode, Same, Spelling};
use crate::value::{Object, Value, of};

/// Every field that is set, as the API spells it.
pub(crate) fn fields(attributes: &'static [Attribute], object: &Object) -> Map<String, Json> {
    let set = attributes.iter().filter(|attribute| attribute.settable() && !attribute.field.is_empty());
    set.filter_map(|attribute| Some((attribute.field.to_owned(), field(attribute, object)?))).collect()
}

/// One field of an object as the API spells it, if it is set.
pub(crate) fn field(attribute: &'static Attribute, object: &Object) -> Option<Json> {
    let value = of(object, attribute.name);
    let block = matches!(attribute.kind, Kind::Block(_));
    let unset = matches!(value, Value::Null | Value::Unknown) || block && value.list().is_empty();
    (!unset).then(|| encode(attribute, value, object))
}

/// Which number of 1000 a name has (CRC-32 of IEEE 802.3): two rules at one place are in one order everywhere.
fn place(name: &str) -> i64 {
    let step = |crc: u32, byte: u8| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    };
    i64::from(!name.bytes().fold(!0, step)) % PLACES
}

fn encode(attribute: &'static Attribute, value: &Value, siblings: &Object) -> Json {
    let objects = |nested: &'static [Attribute]| {
        value.list().iter().filter_map(Value::object).map(|object| fields(nested, object).into()).collect()
    };
    match (attribute.kind, attribute.spelling, value) {
        (Kind::Object(nested), _, Value::Object(object)) => fields(nested, object).into(),
        (Kind::Objects(nested) | Kind::ObjectSet(nested), _, _) => Json::Array(objects(nested)),
        (Kind::Block(nested), _, _) => objects(nested).into_iter().next().unwrap_or_default(),
        (_, Spelling::Values, Value::List(values)) => values
            .iter()
            .map(|value| Json::Object(Map::from_iter([("value".to_owned(), value.to_json())])))
            .collect(),
        (_, Spelling::Commas, Value::Object(values)) => {
            let split = |value: &Value| value.text().unwrap_or_default().split(',').map(Json::from).collect();
            Json::Object(values.iter().map(|(name, value)| (name.clone(), split(value))).collect())
        }
        (_, Spelling::Precedence, Value::Number(number)) => {
            let name = of(siblings, "name").text().unwrap_or_default();
            number.saturating_mul(PLACES).saturating_add(place(name)).into()
        }
        _ => value.to_json(),
    }
}

/// What the API said, as a value. What is of another type is not set.
pub(crate) fn decode(attribute: &'static Attribute, json: &Json) -> Value {
    match (attribute.kind, json) {
        (Kind::Text, Json::String(text)) => Value::Text(text.clone()),
        (Kind::Flag, Json::Bool(flag)) => Value::Flag(*flag),
        (Kind::Number, Json::Number(_)) => match Value::from_json(json) {
            Ok(Value::Number(number)) if attribute.spelling == Spelling::Precedence => {
                Value::Number(number.div_euclid(PLACES))
            }
            Ok(value) => value,
            Err(_) => Value::Null,
        },
        (Kind::Texts | Kind::TextSet, Json::Array(values)) => {
            let text = |value: &Json| value.as_str().or_else(|| value["value"].as_str()).map(str::to_owned);
            Value::List(values.iter().filter_map(text).map(Value::Text).collect())
        }
        (Kind::TextMap, Json::Object(values)) => Value::Object(
            values.iter().map(|(name, value)| (name.clone(), Value::Text(joined(value)))).collect(),
        ),
        (Kind::TextsMap, Json::Object(values)) => Value::Object(
            values
                .iter()
                .map(|(name, value)| (name.clone(), Value::from_json(value).unwrap_or_default()))
                .collect(),
        ),
        (Kind::Object(nested), Json::Object(values)) => decode_object(nested, values),
        (Kind::Objects(nested) | Kind::ObjectSet(nested), Json::Array(values)) => Value::List(
            values.iter().filter_map(Json::as_object).map(|values| decode_object(nested, values)).collect(),
        ),
        (Kind::Block(nested), Json::Object(values)) => {
            let object = decode_object(nested, values);
            Value::List(if object.is_empty() { Vec::new() } else { vec![object] })
        }
        (Kind::Block(_), _) => Value::List(Vec::new()),
        _ => Value::Null,
    }
}

fn decode_object(attributes: &'static [Attribute], values: &Map<String, Json>) -> Value {
    let value =
        |attribute: &'static Attribute| decode(attribute, values.get(attribute.field).unwrap_or(&Json::Null));
    Value::Object(attributes.iter().map(|attribute| (attribute.name.to_owned(), value(attribute))).collect())
}

fn joined(value: &Json) -> String {
    match value.as_array() {
        Some(values) => values.iter().filter_map(Json::as_str).collect::<Vec<_>>().join(","),
        None => value.as_str().unwrap_or_default().to_owned(),
    }
}

/// Whether a planned value is the one that is there. Here nothing and empty are two things: the engine tells them apart.
pub(crate) fn same(attribute: &'static Attribute, config: &Value, prior: &Value) -> bool {
    config.is_known() && normal(attribute, config, Nothing::Told) == normal(attribute, prior, Nothing::Told)
}

/// Whether the API's value is what is in the state.
pub(crate) fn matches(attribute: &'static Attribute, state: &Value, api: &Value) -> bool {
    let left_to_api = state.is_null() && attribute.absent == ANY;
    let nothing = !state.is_null() && state.is_empty() && api.is_empty();
    let normal = |value| normal(attribute, value, Nothing::One);
    left_to_api || nothing || state.is_known() && normal(state) == normal(api)
}

/// How `null` and what is empty compare.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Nothing {
    /// As different values.
    Told,
    /// As one, where the attribute is optional.
    One,
}

/// The one value for all that means the same.
fn normal(attribute: &'static Attribute, value: &Value, nothing: Nothing) -> Value {
    let object = |nested: &'static [Attribute], value: &Value| {
        let Some(object) = value.object() else { return value.clone() };
        let one = |attribute: &'static Attribute| {
            (attribute.name.to_owned(), normal(attribute, of(object, attribute.name), nothing))
        };
        Value::Object(nested.iter().map(one).collect())
    };
    let mut value = match (attribute.kind, value) {
        (_, Value::Text(text)) => Value::Text(normal_text(attribute.same, text)),
        (Kind::Object(nested), value) => object(nested, value),
        (Kind::Objects(nested) | Kind::ObjectSet(nested) | Kind::Block(nested), Value::List(values)) => {
            Value::List(values.iter().map(|value| object(nested, value)).collect())
        }
        (_, value) => value.clone(),
    };
    if let Value::List(values) = &mut value {
        if attribute.kind.is_set() {
            values.sort_unstable();
        }
        if matches!(attribute.kind, Kind::Block(_)) && nothing == Nothing::One {
            values.retain(|value| !value.is_empty());
        }
    }
    let absent = || {
        let named = serde_json::from_str(attribute.absent).ok();
        named.is_some_and(|named| decode(attribute, &named) == value)
    };
    let optional = nothing == Nothing::One && matches!(attribute.mode, Mode::Optional);
    if optional && (value.is_empty() || absent()) { Value::Null } else { value }
}

fn normal_text(same: Same, text: &str) -> String {
    let number = match same {
        Same::Exact => None,
        Same::Duration => nanoseconds(text),
        Same::Time => moment(text),
        Same::Network => return network(text).unwrap_or_else(|| text.to_owned()),
        Same::Unspaced => return text.chars().filter(|c| !c.is_whitespace()).collect(),
    };
    number.map_or_else(|| text.to_owned(), |number| number.to_string())
}

fn nanoseconds(text: &str) -> Option<i128> {
    let duration = text.parse::<GoDuration>().ok()?.get();
    i128::try_from(duration.as_nanos()).ok()
}

fn network(text: &str) -> Option<String> {
    let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    Some(network.ok()?.to_string())
}

fn moment(text: &str) -> Option<i128> {
    Some(OffsetDateTime::parse(text, &Rfc3339).ok()?.unix_timestamp_nanos())
}

/// What a state becomes by what the API says: what means the same stays as it is.
pub(crate) fn refreshed(attribute: &'static Attribute, state: &Value, api: Value) -> Value {
    if matches(attribute, state, &api) {
        return state.clone();
    }
    match (attribute.kind, state, api) {
        (Kind::Object(nested), Value::Object(state), Value::Object(api)) => {
            refreshed_object(nested, state, api)
        }
        (Kind::Block(nested) | Kind::Objects(nested), Value::List(state), Value::List(api)) => {
            let empty = Value::Object(Object::new());
            let states = state.iter().chain(std::iter::repeat(&empty));
            let one = |(api, state): (Value, &Value)| match (state, api) {
                (Value::Object(state), Value::Object(api)) => refreshed_object(nested, state, api),
                (_, api) => api,
            };
            Value::List(api.into_iter().zip(states).map(one).collect())
        }
        (Kind::ObjectSet(nested), state, Value::List(api)) => {
            let key = |object: &Object| {
                let key = |attribute| normal(attribute, of(object, attribute.name), Nothing::One);
                nested.iter().map(key).collect::<Vec<_>>()
            };
            let states = state.list().iter().filter_map(Value::object);
            let states: BTreeMap<_, _> = states.map(|state| (key(state), state)).collect();
            let empty = Object::new();
            let one = |api: &Object| {
                let state = states.get(&key(api)).copied().unwrap_or(&empty);
                refreshed_object(nested, state, api.clone())
            };
            Value::List(api.iter().filter_map(Value::object).map(one).collect())
        }
        (_, _, api) => tidied(attribute, api),
    }
}

fn refreshed_object(attributes: &'static [Attribute], state: &Object, mut api: Object) -> Value {
    let one = |attribute: &'static Attribute| {
        let api = api.remove(attribute.name).unwrap_or_default();
        (attribute.name.to_owned(), refreshed(attribute, of(state, attribute.name), api))
    };
    Value::Object(attributes.iter().map(one).collect())
}

/// A value that is only the API's: nothing is `null`, or the default.
fn tidied(attribute: &'static Attribute, api: Value) -> Value {
    let nested = match (attribute.kind, api) {
        (Kind::Object(nested), Value::Object(api)) => refreshed_object(nested, &Object::new(), api),
        (_, api) => api,
    };
    match attribute.mode {
        Mode::Optional if nested.is_empty() && !matches!(attribute.kind, Kind::Block(_)) => Value::Null,
        Mode::Defaulted(default) if nested.is_null() => default.value(),
        Mode::Optional | Mode::Defaulted(_) | Mode::Required | Mode::Kept | Mode::Computed(_) => nested,
    }
}

/// What a planned value becomes when it is applied: what was unknown is what the API says, the rest what was planned.
pub(crate) fn filled(attribute: &'static Attribute, planned: &Value, api: Value) -> Value {
    match (attribute.kind, planned) {
        (_, Value::Unknown) => api,
        (Kind::Object(nested), Value::Object(planned)) => {
            let mut api = api.object().cloned().unwrap_or_default();
            let one = |attribute: &'static Attribute| {
                let api = api.remove(attribute.name).unwrap_or_default();
                (attribute.name.to_owned(), filled(attribute, of(planned, attribute.name), api))
            };
            Value::Object(nested.iter().map(one).collect())
        }
        _ => planned.clone(),
    }
}

/// A saved state as this schema has it, whatever wrote it: what is unknown to the schema is left out, what is missing is not
/// set, and objects, blocks and texts that stand for them become each other.
pub(crate) fn saved(attributes: &'static [Attribute], json: &Json) -> Object {
    attributes.iter().map(|attribute| (attribute.name.to_owned(), saved_value(attribute, json))).collect()
}

fn saved_value(attribute: &'static Attribute, object: &Json) -> Value {
    let named = &object[attribute.name];
    let json = if named.is_null() { &object[attribute.field] } else { named };
    let nested = |nested: &'static [Attribute], json: &Json| {
        if json.is_string() {
            return Some(Value::Object(saved(nested, &json!({ "value": json }))));
        }
        json.is_object().then(|| Value::Object(saved(nested, json)))
    };
    let first = json.as_array().and_then(|values| values.first()).unwrap_or(json);
    match attribute.kind {
        Kind::Text | Kind::Flag | Kind::Number if json.is_array() || json.is_object() => Value::Null,
        Kind::Text | Kind::Flag | Kind::Number => Value::from_json(json).unwrap_or_default(),
        Kind::Texts | Kind::TextSet | Kind::TextMap | Kind::TextsMap => decode(attribute, json),
        Kind::Object(inner) => nested(inner, first).unwrap_or_default(),
        Kind::Block(inner) => Value::List(nested(inner, first).into_iter().collect()),
        Kind::Objects(inner) | Kind::ObjectSet(inner) => json.as_array().map_or(Value::Null, |values| {
            Value::List(values.iter().filter_map(|value| nested(inner, value)).collect())
        }),
    }
}

/// How many places a rule's number in the API has for one in 2022's configuration.
const PLACES: i64 = 1000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::resource;

    fn attribute(kind: &str, name: &str) -> &'static Attribute {
        resource(kind).unwrap().attribute(name).unwrap()
    }

    fn value(json: &Json) -> Value {
        Value::from_json(json).unwrap()
    }

    #[test]
    fn the_place_of_a_rule_is_that_of_its_name() {
        // CRC-32 of "123456789" is 0xcbf43926.
        assert_eq!(place("123456789"), 0xcbf4_3926_i64 % 1000);
        let precedence = attribute("cloudflare_teams_rule", "precedence");
        let siblings = Object::from([("name".to_owned(), Value::Text("123456789".into()))]);
        let sent = encode(precedence, &Value::Number(10000), &siblings);
        assert_eq!(sent, json!(10_000_000 + 0xcbf4_3926_i64 % 1000));
        assert_eq!(decode(precedence, &sent), Value::Number(10000));
    }

    #[test]
    fn nothing_is_not_drift_from_nothing() {
        let description = attribute("cloudflare_zero_trust_list", "description");
        let items = attribute("cloudflare_zero_trust_list", "items");
        for state in [Value::Null, Value::Text(String::new())] {
            for api in [json!(null), json!("")] {
                assert_eq!(refreshed(description, &state, decode(description, &api)), state);
            }
        }
        for state in [Value::Null, Value::List(vec![])] {
            for api in [json!(null), json!([])] {
                assert_eq!(refreshed(items, &state, decode(items, &api)), state);
            }
        }
        assert_eq!(refreshed(description, &Value::Null, Value::Text("x".into())), Value::Text("x".into()));
    }

    #[test]
    fn a_text_that_means_the_same_stays_as_it_was_written() {
        let duration = attribute("cloudflare_access_service_token", "duration");
        let kept = refreshed(duration, &Value::Text("60m".into()), Value::Text("1h0m0s".into()));
        assert_eq!(kept, Value::Text("60m".into()));
        let changed = refreshed(duration, &Value::Text("60m".into()), Value::Text("2h".into()));
        assert_eq!(changed, Value::Text("2h".into()));
    }

    #[test]
    fn the_order_of_a_set_says_nothing() {
        let items = attribute("cloudflare_zero_trust_list", "items");
        let state = value(&json!([{"value": "a", "description": null}, {"value": "b", "description": "x"}]));
        let api = json!([{"value": "b", "description": "x"}, {"value": "a", "description": ""}]);
        assert_eq!(refreshed(items, &state, decode(items, &api)), state);
        let api = json!([{"value": "b", "description": "x"}]);
        let changed = value(&json!([{"value": "b", "description": "x"}]));
        assert_eq!(refreshed(items, &state, decode(items, &api)), changed);
    }

    #[test]
    fn a_state_of_the_other_generation_is_understood() {
        let old = json!({
            "account_id": "a", "id": "i", "name": "n", "type": "IP", "items": ["10.0.0.1"], "gone": 1
        });
        let new = saved(resource("cloudflare_zero_trust_list").unwrap().attributes, &old);
        assert_eq!(of(&new, "items").to_json(), json!([{"value": "10.0.0.1", "description": null}]));
        let rule = json!({ "rule_settings": [{ "check_session": [{ "enforce": true, "duration": "1h" }] }] });
        let new = saved(resource("cloudflare_zero_trust_gateway_policy").unwrap().attributes, &rule);
        assert_eq!(of(&new, "rule_settings").to_json()["check_session"]["duration"], "1h");
        let tunnel =
            saved(resource("cloudflare_argo_tunnel").unwrap().attributes, &json!({"tunnel_secret": "s"}));
        assert_eq!(of(&tunnel, "secret").text(), Some("s"));
    }
}
