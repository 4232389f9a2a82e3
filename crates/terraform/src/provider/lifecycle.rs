//! The life of one object: read, made, changed, deleted, imported.

use serde_json::{Map, Value as Json};

use crate::calls::{Calls, CallsError, Outcome, is_uuid};
use crate::client::Client;
use crate::convert;
use crate::diagnostic;
use crate::memory::Memory;
use crate::protocol::Diagnostic;
use crate::schema::{Import, Resource};
use crate::value::{Object, Value, of};

/// What an object is after it was applied, and what went wrong.
#[derive(Debug, Default)]
pub(super) struct Applied {
    pub(super) state: Option<Object>,
    pub(super) private: Vec<u8>,
    pub(super) diagnostics: Vec<Diagnostic>,
}

/// What an object is now; nothing if it is gone.
pub(super) async fn read(
    client: &Client,
    resource: &'static Resource,
    state: Object,
    private: &[u8],
) -> Result<(Option<Object>, Vec<u8>), Vec<Diagnostic>> {
    let mut calls = Calls::new(client, resource, state.clone(), Object::new());
    match calls.make(resource.read).await {
        Ok(Outcome::Gone) => return Ok((None, Vec::new())),
        Ok(Outcome::Done) => {}
        Err(error) => return Err(diagnostic::failed(resource, "read", &error)),
    }
    let mut memory = Memory::read(private);
    let mut now = Object::new();
    for attribute in resource.attributes {
        let was = of(&state, attribute.name);
        let value = match calls.said().get(attribute.field) {
            None => was.clone(),
            Some(said) if memory.knows(attribute.name, said) => was.clone(),
            Some(said) => {
                memory.forget(attribute.name);
                convert::refreshed(attribute, was, convert::decode(attribute, said))
            }
        };
        now.insert(attribute.name.to_owned(), value);
    }
    Ok((Some(now), memory.write()))
}

/// Makes, changes or deletes an object, as planned.
pub(super) async fn apply(
    client: &Client,
    resource: &'static Resource,
    prior: Option<Object>,
    planned: Option<Object>,
    private: Vec<u8>,
) -> Applied {
    match (prior, planned) {
        (None, None) => Applied::default(),
        (Some(prior), None) => delete(client, resource, prior, private).await,
        (None, Some(planned)) => create(client, resource, planned).await,
        (Some(prior), Some(planned)) => update(client, resource, prior, planned, private).await,
    }
}

async fn create(client: &Client, resource: &'static Resource, planned: Object) -> Applied {
    let mut calls = Calls::new(client, resource, planned.clone(), Object::new());
    let outcome = calls.make(resource.create).await;
    let said = calls.said();
    let made = said.contains_key("id");
    let diagnostics = match outcome {
        Ok(Outcome::Done) => Vec::new(),
        Ok(Outcome::Gone) => vec![vanished(resource, "create", "It was gone right after it was made.")],
        Err(error) => diagnostic::failed(resource, "create", &error),
    };
    if !made {
        return Applied { diagnostics, ..Applied::default() };
    }
    let state = filled(resource, &planned, &Object::new(), said);
    let private = Memory::of(resource, &state, said).write();
    Applied { state: Some(state), private, diagnostics }
}

async fn update(
    client: &Client,
    resource: &'static Resource,
    prior: Object,
    planned: Object,
    private: Vec<u8>,
) -> Applied {
    let mut calls = Calls::new(client, resource, planned.clone(), prior.clone());
    let diagnostics = match calls.make(resource.update).await {
        Ok(Outcome::Done) => {
            let state = filled(resource, &planned, &prior, calls.said());
            let private = Memory::of(resource, &state, calls.said()).write();
            return Applied { state: Some(state), private, diagnostics: Vec::new() };
        }
        Ok(Outcome::Gone) => {
            vec![vanished(resource, "update", "It is no longer there. Plan again, and it will be made anew.")]
        }
        Err(error) => diagnostic::failed(resource, "update", &error),
    };
    Applied { state: Some(prior), private, diagnostics }
}

async fn delete(client: &Client, resource: &'static Resource, prior: Object, private: Vec<u8>) -> Applied {
    let mut calls = Calls::new(client, resource, prior.clone(), prior.clone());
    match calls.make(resource.delete).await {
        Ok(Outcome::Done | Outcome::Gone) => Applied::default(),
        Err(error) => Applied {
            state: Some(prior),
            private,
            diagnostics: diagnostic::failed(resource, "delete", &error),
        },
    }
}

fn vanished(resource: &'static Resource, what: &str, detail: &str) -> Diagnostic {
    diagnostic::error(format!("Cannot {what} {}", resource.names[0]), detail)
}

/// What was planned, with what only the API could tell in its place.
fn filled(resource: &'static Resource, planned: &Object, prior: &Object, said: &Map<String, Json>) -> Object {
    let one = |attribute: &'static crate::schema::Attribute| {
        let api = match said.get(attribute.field) {
            Some(said) => convert::decode(attribute, said),
            None => of(prior, attribute.name).clone(),
        };
        (attribute.name.to_owned(), convert::filled(attribute, of(planned, attribute.name), api))
    };
    resource.attributes.iter().map(one).collect()
}

/// The beginning of a state: what an import id says. The engine reads the rest.
pub(super) async fn import(
    client: &Client,
    resource: &'static Resource,
    id: &str,
) -> Result<Object, Diagnostic> {
    let Some(named) = identified(resource.import, id) else {
        let expected = match resource.import {
            Import::Id => "ACCOUNT_ID/ID",
            Import::Network => "ACCOUNT_ID/NETWORK or ACCOUNT_ID/NETWORK/VIRTUAL_NETWORK_ID",
        };
        return Err(diagnostic::error(
            format!("Cannot import {}", resource.names[0]),
            format!("Expected an id such as {expected}, not {id:?}."),
        ));
    };
    let mut state = convert::saved(resource.attributes, &Json::Null);
    state.extend(named.into_iter().map(|(name, text)| (name.to_owned(), Value::Text(text.to_owned()))));
    let mut calls = Calls::new(client, resource, state.clone(), Object::new());
    match calls.make(resource.adopt).await {
        Ok(_) => {}
        // Who may read an object need not be allowed to read its secrets: it is imported without them.
        Err(CallsError::Call(_)) => return Ok(state),
        Err(error @ (CallsError::Unknown(_) | CallsError::Answer(_))) => {
            let summary = format!("Cannot import {}", resource.names[0]);
            return Err(diagnostic::error(summary, error.to_string()));
        }
    }
    for attribute in resource.attributes {
        if let Some(said) = calls.said().get(attribute.field) {
            state.insert(attribute.name.to_owned(), convert::decode(attribute, said));
        }
    }
    Ok(state)
}

fn identified(import: Import, id: &str) -> Option<Vec<(&'static str, &str)>> {
    let (account, rest) = id.strip_prefix("accounts/").unwrap_or(id).split_once('/')?;
    if account.is_empty() || rest.is_empty() {
        return None;
    }
    let account = ("account_id", account);
    match import {
        Import::Id if rest.contains('/') => None,
        Import::Id => Some(vec![account, ("id", rest)]),
        Import::Network => Some(match rest.rsplit_once('/') {
            Some((network, virtual_network)) if is_uuid(virtual_network) => {
                vec![account, ("network", network), ("virtual_network_id", virtual_network)]
            }
            _ => vec![account, ("network", rest)],
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_import_id_names_an_account_and_an_object() {
        assert_eq!(identified(Import::Id, "a/i"), Some(vec![("account_id", "a"), ("id", "i")]));
        assert_eq!(identified(Import::Id, "accounts/a/i"), Some(vec![("account_id", "a"), ("id", "i")]));
        for wrong in ["", "a", "/i", "a/", "a/i/j"] {
            assert_eq!(identified(Import::Id, wrong), None, "{wrong}");
        }
        let network = ("network", "10.0.0.0/8");
        assert_eq!(identified(Import::Network, "a/10.0.0.0/8"), Some(vec![("account_id", "a"), network]));
        let uuid = "f70ff985-a4ef-4643-bbbc-4a0ed4fc8415";
        assert_eq!(
            identified(Import::Network, &format!("a/10.0.0.0/8/{uuid}")),
            Some(vec![("account_id", "a"), network, ("virtual_network_id", uuid)])
        );
    }
}
