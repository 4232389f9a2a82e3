//! An engine in small: it plans and applies one object at a time through the plugin protocol, and checks what Terraform checks
//! of a plan (nothing of the configuration is changed) and of what was applied (nothing of the plan is).

use std::collections::BTreeMap;

use adit_terraform::protocol as p;
use adit_terraform::provider::Provider;
use adit_terraform::resources::resource;
use adit_terraform::schema::{Attribute, Kind, Mode};
use adit_terraform::value::{Object, Value};
use prost::Message;
use serde_json::{Value as Json, json};

/// A provider, and what was made by it, by the name that its configuration gives it.
pub(crate) struct Engine {
    provider: Provider,
    held: BTreeMap<String, Held>,
}

#[derive(Clone)]
struct Held {
    kind: String,
    state: Value,
    private: Vec<u8>,
}

/// What an apply does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    None,
    Create,
    Update,
    Replace,
}

impl Engine {
    pub(crate) async fn new(base_url: &str, token: &str) -> Self {
        let engine = Self { provider: Provider::new(), held: BTreeMap::new() };
        let config = json!({
            "base_url": base_url, "api_token": token, "api_hostname": null, "api_base_path": null, "ca_file": null,
        });
        let request = p::ConfigureRequest {
            terraform_version: "1.15.5".into(),
            config: Some(packed(&Value::from_json(&config).unwrap())),
        };
        let answer: p::Diagnostics = engine.call("ConfigureProvider", &request).await;
        assert_eq!(answer.diagnostics, []);
        engine
    }

    async fn call<T: Message + Default>(&self, method: &str, request: &impl Message) -> T {
        let answer = self.provider.answer(method, &request.encode_to_vec()).await.unwrap().unwrap();
        T::decode(answer.as_slice()).unwrap()
    }

    /// The state of an object.
    pub(crate) fn state(&self, name: &str) -> Json {
        self.held[name].state.to_json()
    }

    /// Reads an object; one that is gone is held no more.
    pub(crate) async fn refresh(&mut self, name: &str) {
        let Some(held) = self.held.get(name).cloned() else { return };
        let request = p::ReadRequest {
            type_name: held.kind.clone(),
            current_state: Some(packed(&held.state)),
            private: held.private,
        };
        let answer: p::ReadResponse = self.call("ReadResource", &request).await;
        assert_eq!(answer.diagnostics, [], "{name}");
        let state = unpacked(answer.new_state);
        if state.is_null() {
            self.held.remove(name);
        } else {
            self.held.insert(name.into(), Held { kind: held.kind, state, private: answer.private });
        }
    }

    /// Plans an object: what will be, and whether it needs another.
    async fn plan(&self, name: &str, kind: &str, config: &Value, prior: &Value) -> (Value, bool, Vec<u8>) {
        let held = self.held.get(name);
        let request = p::PlanRequest {
            type_name: kind.into(),
            prior_state: Some(packed(prior)),
            proposed_new_state: Some(packed(config)),
            config: Some(packed(config)),
            prior_private: held.map(|held| held.private.clone()).unwrap_or_default(),
        };
        let answer: p::PlanResponse = self.call("PlanResourceChange", &request).await;
        assert_eq!(answer.diagnostics, [], "{name}");
        let planned = unpacked(answer.planned_state);
        let attributes = resource(kind).unwrap().attributes;
        plan_is_valid(attributes, config.object().unwrap(), prior.object(), planned.object().unwrap());
        (planned, !answer.requires_replace.is_empty(), answer.planned_private)
    }

    /// What an apply would do to an object as it is now.
    pub(crate) async fn planned(&mut self, name: &str, kind: &str, config: &Json) -> (Change, String) {
        self.refresh(name).await;
        let prior = self.held.get(name).map_or(Value::Null, |held| held.state.clone());
        let config = complete(resource(kind).unwrap().attributes, config);
        let (planned, replace, _) = self.plan(name, kind, &config, &prior).await;
        let change = match () {
            () if prior.is_null() => Change::Create,
            () if replace => Change::Replace,
            () if planned == prior => Change::None,
            () => Change::Update,
        };
        (change, format!("{} -> {}", prior.to_json(), planned.to_json()))
    }

    /// Applies a configuration: what it did. A second plan is empty.
    pub(crate) async fn apply(&mut self, name: &str, kind: &str, config: &Json) -> Change {
        let change =
            self.try_apply(name, kind, config).await.unwrap_or_else(|said| panic!("{name}: {said:?}"));
        let (again, how) = self.planned(name, kind, config).await;
        assert_eq!(again, Change::None, "{name}: a second plan of {config} is {how}");
        change
    }

    /// Applies a configuration, or says what the API said against it.
    pub(crate) async fn try_apply(
        &mut self,
        name: &str,
        kind: &str,
        config: &Json,
    ) -> Result<Change, Vec<p::Diagnostic>> {
        let (change, _) = self.planned(name, kind, config).await;
        if change == Change::Replace {
            self.destroy(name).await;
        }
        if change != Change::None {
            let prior = self.held.get(name).map_or(Value::Null, |held| held.state.clone());
            let config = complete(resource(kind).unwrap().attributes, config);
            let (planned, _, private) = self.plan(name, kind, &config, &prior).await;
            let request = p::ApplyRequest {
                type_name: kind.into(),
                prior_state: Some(packed(&prior)),
                planned_state: Some(packed(&planned)),
                config: Some(packed(&config)),
                planned_private: private,
            };
            let answer: p::ApplyResponse = self.call("ApplyResourceChange", &request).await;
            let state = unpacked(answer.new_state);
            if !state.is_null() {
                self.held.insert(
                    name.into(),
                    Held { kind: kind.into(), state: state.clone(), private: answer.private },
                );
            }
            if !answer.diagnostics.is_empty() {
                return Err(answer.diagnostics);
            }
            assert!(state.is_known(), "{name}: {state:?}");
            as_planned(&planned, &state, name);
        }
        Ok(change)
    }

    pub(crate) async fn destroy(&mut self, name: &str) {
        let held = self.held.remove(name).unwrap();
        let request = p::ApplyRequest {
            type_name: held.kind,
            prior_state: Some(packed(&held.state)),
            planned_state: Some(packed(&Value::Null)),
            config: Some(packed(&Value::Null)),
            planned_private: held.private,
        };
        let answer: p::ApplyResponse = self.call("ApplyResourceChange", &request).await;
        assert_eq!(answer.diagnostics, [], "{name}");
        assert_eq!(unpacked(answer.new_state), Value::Null);
    }

    /// Takes over an object that exists.
    pub(crate) async fn import(&mut self, name: &str, kind: &str, id: &str) {
        let request = p::ImportRequest { type_name: kind.into(), id: id.into() };
        let answer: p::ImportResponse = self.call("ImportResourceState", &request).await;
        assert_eq!(answer.diagnostics, [], "{name}");
        let imported = answer.imported_resources.into_iter().next().unwrap();
        let held = Held { kind: kind.into(), state: unpacked(imported.state), private: imported.private };
        self.held.insert(name.into(), held);
        self.refresh(name).await;
    }

    /// Makes an object of one type one of another, as a `moved` block does.
    pub(crate) async fn move_to(&mut self, name: &str, kind: &str) {
        let held = self.held.remove(name).unwrap();
        let request = p::MoveRequest {
            source_type_name: held.kind,
            source_state: Some(p::RawState { json: held.state.to_json().to_string().into_bytes() }),
            target_type_name: kind.into(),
        };
        let answer: p::StateResponse = self.call("MoveResourceState", &request).await;
        assert_eq!(answer.diagnostics, [], "{name}");
        let held = Held { kind: kind.into(), state: unpacked(answer.state), private: Vec::new() };
        self.held.insert(name.into(), held);
    }
}

fn packed(value: &Value) -> p::DynamicValue {
    p::DynamicValue { msgpack: value.to_msgpack(), json: Vec::new() }
}

fn unpacked(value: Option<p::DynamicValue>) -> Value {
    Value::from_msgpack(&value.unwrap().msgpack).unwrap()
}

/// A configuration as the engine sends it: every attribute is there.
fn complete(attributes: &'static [Attribute], config: &Json) -> Value {
    let names: Vec<&str> = attributes.iter().map(|attribute| attribute.name).collect();
    for name in config.as_object().unwrap().keys() {
        assert!(names.contains(&name.as_str()), "no attribute {name}");
    }
    let one = |attribute: &'static Attribute| {
        let given = &config[attribute.name];
        let value = match (attribute.kind, given) {
            (Kind::Block(_), Json::Null) => Value::List(Vec::new()),
            (_, Json::Null) => Value::Null,
            (Kind::Object(nested), given) => complete(nested, given),
            (Kind::Objects(nested) | Kind::ObjectSet(nested) | Kind::Block(nested), given) => {
                Value::List(given.as_array().unwrap().iter().map(|given| complete(nested, given)).collect())
            }
            (_, given) => Value::from_json(given).unwrap(),
        };
        (attribute.name.to_owned(), value)
    };
    Value::Object(attributes.iter().map(one).collect())
}

/// What Terraform asks of a plan: what the configuration says, or what is there and means the same.
fn plan_is_valid(
    attributes: &'static [Attribute],
    config: &Object,
    prior: Option<&Object>,
    planned: &Object,
) {
    for attribute in attributes {
        let (config, planned) = (&config[attribute.name], &planned[attribute.name]);
        let prior = prior.map(|prior| &prior[attribute.name]);
        let computed = matches!(attribute.mode, Mode::Defaulted(_) | Mode::Kept | Mode::Computed(_));
        match (attribute.kind, config, planned) {
            (_, Value::Null, _) if computed => {}
            (Kind::Object(nested), Value::Object(config), Value::Object(planned)) => {
                plan_is_valid(nested, config, prior.and_then(Value::object), planned);
            }
            _ => {
                let kept = Some(planned) == prior && !planned.is_null() && !config.is_null();
                assert!(
                    planned == config || kept,
                    "{}: {} planned for {}",
                    attribute.name,
                    planned.to_json(),
                    config.to_json()
                );
            }
        }
    }
}

/// What Terraform asks of what was applied: what was planned.
fn as_planned(planned: &Value, state: &Value, name: &str) {
    match (planned, state) {
        (Value::Unknown, _) => {}
        (Value::Object(planned), Value::Object(state)) => {
            for (key, planned) in planned {
                as_planned(planned, &state[key], &format!("{name}.{key}"));
            }
        }
        _ => assert!(planned == state, "{name}: {} is not {}", state.to_json(), planned.to_json()),
    }
}
