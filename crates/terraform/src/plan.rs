//! What an object will be: the configuration, what it leaves to defaults, and what only the API will tell.
//!
//! What holds: a planned value is the configuration's, or what is there if that means the same; if nothing that can be set
//! changes, nothing changes. The engine checks both.

use crate::convert;
use crate::schema::{Attribute, Changes, Default, Kind, Mode, Resource};
use crate::value::{Object, Value, of};

/// What will be.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The values; those that only the API will tell are unknown.
    pub(crate) state: Object,
    /// The attributes for whose sake the object must be made anew.
    pub(crate) replace: Vec<&'static str>,
}

/// Plans an object from its configuration and, if there is one, what it is.
pub(crate) fn plan(resource: &'static Resource, config: &Object, prior: Option<&Object>) -> Plan {
    let state = settled(resource.attributes, config, prior);
    let moved = |attribute: &&'static Attribute| {
        let changed = prior.is_some_and(|prior| of(prior, attribute.name) != of(&state, attribute.name));
        attribute.replaces && changed
    };
    let replace = resource.attributes.iter().filter(moved).map(|attribute| attribute.name).collect();
    Plan { state, replace }
}

/// Whether an attribute changes.
pub(crate) fn changed(attribute: &Attribute, planned: &Object, prior: &Object) -> bool {
    of(planned, attribute.name) != of(prior, attribute.name)
}

fn settled(attributes: &'static [Attribute], config: &Object, prior: Option<&Object>) -> Object {
    let mut state = Object::new();
    for attribute in attributes.iter().filter(|attribute| attribute.settable()) {
        let was = prior.map_or(&Value::Null, |prior| of(prior, attribute.name));
        let value = chosen(attribute, of(config, attribute.name), was, prior.is_some());
        state.insert(attribute.name.to_owned(), value);
    }
    let changes = |name: &str| prior.is_none_or(|prior| of(prior, name) != of(&state, name));
    let any = attributes.iter().any(|attribute| attribute.settable() && changes(attribute.name));
    let computed = |attribute: &&'static Attribute| {
        let Mode::Computed(when) = attribute.mode else { return None };
        let unknown = match when {
            Changes::Never => prior.is_none(),
            Changes::Always => any,
            Changes::With(names) => names.iter().any(|name| changes(name)),
        };
        let value = match prior {
            Some(prior) if !unknown => of(prior, attribute.name).clone(),
            Some(_) | None => Value::Unknown,
        };
        Some((attribute.name.to_owned(), value))
    };
    let computed: Vec<_> = attributes.iter().filter_map(|attribute| computed(&attribute)).collect();
    state.extend(computed);
    state
}

fn chosen(attribute: &'static Attribute, config: &Value, was: &Value, exists: bool) -> Value {
    let config = match (config, attribute.mode) {
        (Value::Null, Mode::Defaulted(default)) => &default.value(),
        (Value::Null, Mode::Kept) if exists => return was.clone(),
        (Value::Null, Mode::Kept) => return Value::Unknown,
        (config, _) => config,
    };
    if convert::same(attribute, config, was) {
        return was.clone();
    }
    match (attribute.kind, config) {
        (Kind::Object(nested), Value::Object(config)) => Value::Object(settled(nested, config, was.object())),
        _ => config.clone(),
    }
}

impl Default {
    /// As a value.
    pub(crate) fn value(self) -> Value {
        match self {
            Self::Text(text) => Value::Text(text.to_owned()),
            Self::Flag(flag) => Value::Flag(flag),
            Self::Number(number) => Value::Number(number),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value as Json, json};

    use super::*;
    use crate::resources::resource;

    fn object(json: &Json) -> Object {
        Value::from_json(json).unwrap().object().unwrap().clone()
    }

    #[test]
    fn what_only_the_api_knows_is_unknown_at_first_and_then_stays() {
        let resource = resource("cloudflare_zero_trust_access_service_token").unwrap();
        let config = object(&json!({"account_id": "a", "name": "n"}));
        let first = plan(resource, &config, None);
        assert_eq!(of(&first.state, "client_secret"), &Value::Unknown);
        assert_eq!(of(&first.state, "duration").text(), Some("8760h"));
        let prior = object(&json!({
            "account_id": "a", "name": "n", "id": "i", "duration": "365d", "client_secret": "s",
            "client_secret_version": 1, "expires_at": "e", "client_id": "c", "created_at": "t", "updated_at": "t",
            "previous_client_secret_expires_at": null,
        }));
        let renamed = plan(resource, &object(&json!({"account_id": "a", "name": "m"})), Some(&prior));
        assert_eq!(of(&renamed.state, "client_secret").text(), Some("s"));
        assert_eq!(of(&renamed.state, "updated_at"), &Value::Unknown);
        assert_eq!(of(&renamed.state, "id").text(), Some("i"));
        let config = object(&json!({"account_id": "b", "name": "n", "client_secret_version": 2}));
        let moved = plan(resource, &config, Some(&prior));
        assert_eq!(of(&moved.state, "client_secret"), &Value::Unknown);
        assert_eq!(moved.replace, ["account_id"]);
    }

    #[test]
    fn what_means_the_same_is_no_change() {
        let resource = resource("cloudflare_access_service_token").unwrap();
        let prior = object(&json!({
            "account_id": "a", "name": "n", "id": "i", "duration": "1h0m0s", "client_secret": "s",
            "expires_at": "e", "client_id": "c",
        }));
        let config = object(&json!({"account_id": "a", "name": "n", "duration": "60m"}));
        assert_eq!(plan(resource, &config, Some(&prior)).state, prior);
    }
}
