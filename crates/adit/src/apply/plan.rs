//! What has to be done so that an installation has what the files say.
//!
//! What holds: an object is the same one by its name (a route by its network and virtual network); only the keys that a file
//! has are compared and written; nothing is deleted but what [`Prune`] allows, and the default virtual network never. Names
//! that lead to objects which are made by the same plan become placeholders, which the batch replaces by their ids.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};
use uuid::Uuid;

use super::document::{Document, Given, summary};
use crate::manage::kind::{Field, KINDS, Kind, Shape, Writes};
use crate::manage::objects::{as_key, is_id, nearest, target};
use crate::manage::problem::Problem;
use crate::manage::replace_lists;

/// The live objects of each kind, by the kind's name.
pub(super) type State = BTreeMap<&'static str, Vec<Value>>;

/// Whether what the files do not have is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Prune {
    /// Nothing is.
    Keep,
    /// Of the kinds that the files have.
    Listed,
}

/// One thing to do.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) deed: Deed,
    pub(super) kind: &'static Kind,
    pub(super) name: String,
    /// Where the file has it; none when it is deleted.
    pub(super) place: Option<String>,
    /// What is different, by the keys of files.
    pub(super) differences: Vec<Difference>,
}

#[derive(Debug)]
pub(super) enum Deed {
    /// Make it: the id that stands for it, and its body.
    Create(Uuid, Map<String, Value>),
    /// Change it: its id, what it is, and what changes.
    Change(String, Value, Map<String, Value>),
    /// Delete it: its id.
    Delete(String),
}

/// One key, before and after.
#[derive(Debug)]
pub(super) struct Difference {
    pub(super) key: &'static str,
    pub(super) old: Option<Value>,
    pub(super) new: Option<Value>,
}

/// The kinds whose objects have to be known to plan these documents.
pub(super) fn needed(documents: &[Document]) -> Vec<&'static Kind> {
    let mut needed: Vec<&'static str> = Vec::new();
    for document in documents {
        needed.push(document.kind.name);
        for field in document.kind.fields {
            if let Shape::Reference(kind) = field.shape {
                needed.push(kind);
            } else if field.shape == Shape::Expression {
                needed.push("list");
            }
        }
        if document.kind.writes == Writes::Singleton {
            needed.push("tunnel");
        }
    }
    KINDS.iter().filter(|kind| needed.contains(&kind.name)).collect()
}

/// The plan, in the order in which it can be done.
pub(super) fn plan(documents: &[Document], state: &State, prune: Prune) -> Result<Vec<Step>, Problem> {
    let mut planner = Planner::new(state);
    planner.announce(documents);
    let mut steps = Vec::new();
    for kind in KINDS {
        for document in documents.iter().filter(|document| document.kind.name == kind.name) {
            steps.extend(planner.step(document));
        }
    }
    if !planner.flaws.is_empty() {
        return Err(summary(planner.flaws));
    }
    if prune == Prune::Listed {
        let mut deletions = planner.deletions(documents);
        // What leads to others goes before them, and before what is made in its place.
        let leads = |step: &Step| matches!(step.kind.name, "rule" | "route" | "hostname-route" | "hostname");
        let (first, last): (Vec<_>, Vec<_>) = deletions.drain(..).partition(leads);
        steps.splice(0..0, first);
        steps.extend(last);
    }
    Ok(steps)
}

struct Planner<'a> {
    state: &'a State,
    /// The objects that are there, by kind and identity.
    there: BTreeMap<(&'static str, String), Vec<&'a Value>>,
    /// The names that are there, by kind.
    keys: BTreeSet<(&'static str, String)>,
    /// What will be there that is not there yet: by kind and key, what stands for its id.
    made: BTreeMap<(&'static str, String), Uuid>,
    flaws: Vec<String>,
}

impl<'a> Planner<'a> {
    fn new(state: &'a State) -> Self {
        let mut there: BTreeMap<_, Vec<&'a Value>> = BTreeMap::new();
        let mut keys = BTreeSet::new();
        for kind in KINDS {
            for object in state.get(kind.name).into_iter().flatten() {
                there.entry((kind.name, Self::identity_of(kind, object))).or_default().push(object);
                keys.insert((kind.name, as_key(kind, object[kind.key].as_str().unwrap_or_default())));
            }
        }
        Self { state, there, keys, made: BTreeMap::new(), flaws: Vec::new() }
    }

    fn objects(&self, kind: &Kind) -> &[Value] {
        self.state.get(kind.name).map_or(&[], Vec::as_slice)
    }

    /// Finds out what the documents will make, and that none is there twice.
    fn announce(&mut self, documents: &[Document]) {
        let mut seen: BTreeMap<(&'static str, String), &Document> = BTreeMap::new();
        for document in documents {
            let identity = (document.kind.name, self.identity(document));
            if let Some(first) = seen.insert(identity, document) {
                let text = format!(
                    "{}: {} {} is in {} too",
                    document.place, document.kind.name, document.name, first.place
                );
                self.flaws.push(text);
            }
            let key = (document.kind.name, as_key(document.kind, &document.name));
            if !self.keys.contains(&key) {
                self.made.entry(key).or_insert_with(Uuid::new_v4);
            }
        }
    }

    /// What makes a document's object the one it is.
    fn identity(&self, document: &Document) -> String {
        let key = as_key(document.kind, &document.name);
        if document.kind.name != "route" {
            return key;
        }
        let network = document.fields.get("virtual_network_id").and_then(|given| given.value.as_str());
        let name = match network {
            Some(text) if is_id(text) => self.virtual_network(|object| object["id"] == text),
            Some(text) => Some(text.to_owned()),
            None => self.virtual_network(|object| object["is_default_network"] == true),
        };
        format!("{key} in {}", name.unwrap_or_default())
    }

    fn virtual_network(&self, is: impl Fn(&Value) -> bool) -> Option<String> {
        let found = self.state.get("virtual-network")?.iter().find(|object| is(object))?;
        Some(found["name"].as_str()?.to_owned())
    }

    /// The same of an object that is there.
    fn identity_of(kind: &Kind, object: &Value) -> String {
        let key = as_key(kind, object[kind.key].as_str().unwrap_or_default());
        match kind.name {
            "route" => format!("{key} in {}", object["virtual_network_name"].as_str().unwrap_or_default()),
            _ => key,
        }
    }

    /// The object that a document means, if it is there.
    fn there(&mut self, document: &Document) -> Option<Value> {
        let kind = document.kind;
        let found = self.there.get(&(kind.name, self.identity(document)));
        let (count, first) =
            (found.map_or(0, Vec::len), found.and_then(|found| found.first().map(|first| (*first).clone())));
        if count > 1 {
            let text = format!(
                "{}: {count} {}s are called {:?}: rename or delete all but one first",
                document.place, kind.name, document.name
            );
            self.flaws.push(text);
        }
        first
    }

    fn step(&mut self, document: &Document) -> Option<Step> {
        let kind = document.kind;
        let mut body = Map::new();
        for (api, given) in &document.fields {
            let field = kind.field(api).expect("the document's keys are of its kind");
            if let Some(value) = self.resolved(field, given) {
                body.insert((*api).to_owned(), value);
            }
        }
        if kind.writes == Writes::Singleton {
            return self.singleton(document, body);
        }
        let old = self.there(document);
        let shown = |field: &Field| document.fields.get(field.api).map(|given| given.value.clone());
        let step = |deed, differences| Step {
            deed,
            kind,
            name: document.name.clone(),
            place: Some(document.place.to_string()),
            differences,
        };
        let Some(old) = old else {
            let differences = kind.fields.iter().filter(|field| body.contains_key(field.api));
            let differences = differences.filter(|field| field.key != "tunnel_secret");
            let differences =
                differences.map(|field| Difference { key: field.key, old: None, new: shown(field) });
            let differences = differences.collect();
            body.insert(kind.key.to_owned(), document.name.clone().into());
            let stands_for = self.made.get(&(kind.name, as_key(kind, &document.name))).copied();
            return Some(step(Deed::Create(stands_for.unwrap_or_else(Uuid::new_v4), body), differences));
        };
        let (changed, differences) = self.compare(document, &old, body)?;
        let id = old["id"].as_str().unwrap_or_default().to_owned();
        Some(step(Deed::Change(id, old, changed), differences))
    }

    /// What of a body is not so yet; none if all is.
    fn compare(
        &mut self,
        document: &Document,
        old: &Value,
        body: Map<String, Value>,
    ) -> Option<(Map<String, Value>, Vec<Difference>)> {
        let mut differences = Vec::new();
        let mut changed = Map::new();
        for (api, new) in body {
            let field = document.kind.field(&api).expect("the body's keys are of its kind");
            // A secret is not shown: it cannot be compared, and is only set when the object is made.
            if field.api == "tunnel_secret" || is_same(field, old, &new) {
                continue;
            }
            let given = &document.fields[field.api];
            let old_items = (field.shape == Shape::Items).then(|| items(&old[field.api]));
            if !field.when.can_change() {
                let text = format!(
                    "{}: {}: cannot be changed from {} to {new}: delete the {} first, or give it another name",
                    given.place, field.key, old[field.api], document.kind.name
                );
                self.flaws.push(text);
                continue;
            }
            let (before, after) = match old_items {
                Some(old) => without_common(&old, &items(&given.value)),
                None => (self.shown(field, old), Some(given.value.clone())),
            };
            differences.push(Difference { key: field.key, old: before, new: after });
            changed.insert(api, new);
        }
        (!differences.is_empty()).then_some((changed, differences))
    }

    /// The configuration of a tunnel: there always is one, if the tunnel is there.
    fn singleton(&mut self, document: &Document, body: Map<String, Value>) -> Option<Step> {
        let tunnel = Kind::named("tunnel").expect("the table has tunnels");
        let field = Field {
            api: "tunnel",
            key: "tunnel",
            shape: Shape::Reference("tunnel"),
            when: crate::manage::kind::When::Required,
            help: "",
        };
        let given = Given { value: document.name.clone().into(), place: document.place.clone() };
        let id = self.resolved(&field, &given)?;
        let id = id.as_str().unwrap_or_default().to_owned();
        let old = self.objects(document.kind).iter().find(|object| object["tunnel_id"] == id.as_str());
        let is_made = self.made.contains_key(&(tunnel.name, document.name.clone()));
        let old = old.cloned().unwrap_or(Value::Null);
        let (changed, differences) = self.compare(document, &old, body)?;
        let old = if is_made { Value::Null } else { old };
        Some(Step {
            deed: Deed::Change(id, old, changed),
            kind: document.kind,
            name: document.name.clone(),
            place: Some(document.place.to_string()),
            differences,
        })
    }

    /// A field's value as the API takes it: ids in the place of names.
    fn resolved(&mut self, field: &Field, given: &Given) -> Option<Value> {
        match (field.shape, given.value.as_str()) {
            (Shape::Reference(kind), Some(name)) => {
                let kind = Kind::named(kind).expect("a reference leads to a kind of the table");
                match self.reference(kind, name) {
                    Ok(id) => Some(id.into()),
                    Err(text) => {
                        self.flaws.push(format!("{}: {}: {text}", given.place, field.key));
                        None
                    }
                }
            }
            (Shape::Expression, Some(text)) => {
                let lists = Kind::named("list").expect("the table has lists");
                let done = replace_lists(text, |name| {
                    let id = self.reference(lists, name).map_err(Problem::usage)?;
                    Ok(id.replace('-', ""))
                });
                match done {
                    Ok(text) => Some(text.into()),
                    Err(problem) => {
                        self.flaws.push(format!("{}: {}: {problem}", given.place, field.key));
                        None
                    }
                }
            }
            _ => Some(given.value.clone()),
        }
    }

    /// The id of what is there or will be made under a name.
    fn reference(&self, kind: &'static Kind, name: &str) -> Result<String, String> {
        if let Some(stands_for) = self.made.get(&(kind.name, as_key(kind, name))) {
            return Ok(stands_for.to_string());
        }
        let by_name = self.there.get(&(kind.name, as_key(kind, name))).map_or(&[][..], Vec::as_slice);
        let by_id = || self.objects(kind).iter().find(|object| is_id(name) && object["id"] == name);
        let found = match by_name {
            [one] => Some(*one),
            [] => by_id(),
            _ => None,
        };
        if let Some(found) = found {
            return Ok(found["id"].as_str().unwrap_or_default().to_owned());
        }
        let there = self.objects(kind).iter().filter_map(|object| object[kind.key].as_str());
        let made = self.made.keys().filter(|(made, _)| *made == kind.name).map(|(_, name)| name.as_str());
        let hint = nearest(name, there.chain(made)).map(|near| format!("; did you mean {near}?"));
        Err(format!(
            "there is no {} {name:?}, or more than one, neither in these files nor in the installation{}",
            kind.name,
            hint.unwrap_or_default()
        ))
    }

    /// What a field of an object is, as a file would have it.
    fn shown(&self, field: &Field, object: &Value) -> Option<Value> {
        shown(self.state, field, object)
    }

    fn deletions(&self, documents: &[Document]) -> Vec<Step> {
        let mut steps = Vec::new();
        for kind in KINDS.iter().rev().filter(|kind| kind.can_delete() && kind.can_apply()) {
            let listed: BTreeSet<String> = documents
                .iter()
                .filter(|document| document.kind.name == kind.name)
                .map(|document| self.identity(document))
                .collect();
            if listed.is_empty() {
                continue;
            }
            for object in self.objects(kind) {
                if listed.contains(&Self::identity_of(kind, object)) || object["is_default_network"] == true {
                    continue;
                }
                steps.push(Step {
                    deed: Deed::Delete(object["id"].as_str().unwrap_or_default().to_owned()),
                    kind,
                    name: object[kind.key].as_str().unwrap_or_default().to_owned(),
                    place: None,
                    differences: Vec::new(),
                });
            }
        }
        steps
    }
}

/// What a field of an object is, as a file would have it: names in the place of ids.
pub(super) fn shown(state: &State, field: &Field, object: &Value) -> Option<Value> {
    let value = object.get(field.api).filter(|value| !value.is_null())?;
    let name = |kind: &str, id: &str| {
        let found = state.get(kind)?.iter().find(|object| object["id"] == id)?;
        found["name"].as_str().map(str::to_owned)
    };
    Some(match field.shape {
        Shape::Reference(kind) => {
            let id = target(field, object)?;
            name(kind, id).unwrap_or_else(|| id.to_owned()).into()
        }
        Shape::Expression => {
            let mut text = value.as_str()?.to_owned();
            for list in state.get("list").into_iter().flatten() {
                if let (Some(id), Some(name)) = (list["id"].as_str(), list["name"].as_str()) {
                    let named = format!("${{list.{name}}}");
                    text = text.replace(&format!("${}", id.replace('-', "")), &named);
                    text = text.replace(&format!("${id}"), &named);
                }
            }
            text.into()
        }
        Shape::Items => items(value),
        Shape::Text | Shape::Flag | Shape::Number | Shape::Texts | Shape::Object => value.clone(),
    })
}

/// What of two lists of items is in one of them only: of long lists that is what people look for.
fn without_common(old: &Value, new: &Value) -> (Option<Value>, Option<Value>) {
    let texts = |items: &Value| -> BTreeSet<String> {
        items.as_array().into_iter().flatten().map(Value::to_string).collect()
    };
    let only = |items: &Value, other: &Value| {
        let other = texts(other);
        let items = items.as_array().into_iter().flatten().filter(|item| !other.contains(&item.to_string()));
        Some(items.cloned().collect::<Value>()).filter(|items| *items != serde_json::json!([]))
    };
    (only(old, new), only(new, old))
}

/// The items of a list as files have them: a text, or a value with its description.
fn items(value: &Value) -> Value {
    let item = |item: &Value| match item["description"].as_str().filter(|text| !text.is_empty()) {
        Some(description) => serde_json::json!({ "value": item["value"], "description": description }),
        None => item["value"].clone(),
    };
    value.as_array().into_iter().flatten().map(item).collect()
}

/// Whether an object's field is what is wanted.
fn is_same(field: &Field, object: &Value, new: &Value) -> bool {
    let old = &object[field.api];
    match field.shape {
        Shape::Reference(_) => target(field, object) == new.as_str(),
        Shape::Items => {
            let sorted = |value: &Value| {
                let Value::Array(mut items) = items(value) else { return Vec::new() };
                items.sort_by_key(Value::to_string);
                items
            };
            sorted(old) == sorted(new)
        }
        Shape::Object => pruned(old) == pruned(new),
        Shape::Text | Shape::Expression => {
            old.as_str().unwrap_or_default() == new.as_str().unwrap_or_default()
        }
        Shape::Flag => old.as_bool().unwrap_or(false) == new.as_bool().unwrap_or(false),
        Shape::Number | Shape::Texts => old == new,
    }
}

/// A value without what says nothing: null, false, empty texts, lists and objects.
fn pruned(value: &Value) -> Value {
    match value {
        Value::Object(members) => {
            let kept = members.iter().map(|(key, value)| (key.clone(), pruned(value)));
            let kept: Map<String, Value> = kept.filter(|(_, value)| !value.is_null()).collect();
            if kept.is_empty() { Value::Null } else { kept.into() }
        }
        Value::Array(items) if items.is_empty() => Value::Null,
        Value::Array(items) => items.iter().map(pruned).collect(),
        Value::Bool(false) => Value::Null,
        Value::String(text) if text.is_empty() => Value::Null,
        Value::Null | Value::Bool(true) | Value::Number(_) | Value::String(_) => value.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::document::parse;
    use crate::apply::report;
    use serde_json::json;

    fn state() -> State {
        State::from([
            (
                "tunnel",
                vec![
                    json!({ "id": "6f1d2c8e-0f6f-4a3c-9c53-0a6f3c1d2e4b", "name": "k8s", "config_src": "local" }),
                ],
            ),
            (
                "virtual-network",
                vec![
                    json!({ "id": "v0", "name": "default", "is_default_network": true, "comment": "" }),
                    json!({ "id": "v1", "name": "staging", "is_default_network": false, "comment": "" }),
                ],
            ),
            (
                "route",
                vec![json!({
                    "id": "r0", "network": "10.0.0.0/8", "tunnel_id": "6f1d2c8e-0f6f-4a3c-9c53-0a6f3c1d2e4b",
                    "virtual_network_id": "v0", "virtual_network_name": "default", "comment": "old"
                })],
            ),
            (
                "list",
                vec![json!({
                    "id": "0b1c2d3e-4f50-4a61-8b72-9c8d0e1f2a3b", "name": "offices", "type": "IP",
                    "items": [{ "value": "192.0.2.1" }, { "value": "192.0.2.2", "description": "two" }]
                })],
            ),
            ("rule", Vec::new()),
        ])
    }

    fn planned(text: &str, prune: Prune) -> String {
        let documents = parse("a.yaml", text).unwrap();
        match plan(&documents, &state(), prune) {
            Ok(steps) => report::steps(&steps, crate::manage::print::Colour::Off),
            Err(problem) => problem.to_string(),
        }
    }

    const SAME: &str = "kind: route\nnetwork: 10.0.0.0/8\ntunnel: k8s\ncomment: old\n---\nkind: list\nname: offices\n\
                        type: IP\nitems: [{value: 192.0.2.2, description: two}, 192.0.2.1]\n---\nkind: tunnel\nname: k8s\n";

    #[test]
    fn what_is_so_already_needs_nothing() {
        assert_eq!(planned(SAME, Prune::Keep), "no changes\n");
    }

    #[test]
    fn a_plan_says_what_is_made_changed_and_deleted() {
        let text = "kind: route\nnetwork: 10.0.0.0/8\nvirtual_network: staging\ntunnel: office\n---\nkind: tunnel\n\
                    name: office\n---\nkind: rule\nname: in\naction: allow\ntraffic: net.src.ip in ${list.new}\n---\n\
                    kind: list\nname: new\ntype: IP\nitems: [192.0.2.1]\n---\nkind: virtual_network\nname: staging\ncomment: c\n";
        insta::assert_snapshot!(planned(text, Prune::Listed));
    }

    #[test]
    fn what_leads_nowhere_is_said_with_its_place() {
        let text = "kind: route\nnetwork: 10.0.0.0/8\ntunnel: k9s\n---\nkind: rule\nname: r\naction: block\n\
                    traffic: net.src.ip in ${list.office}\n---\nkind: list\nname: offices\ntype: DOMAIN\n---\nkind: rule\n\
                    name: r\naction: block\n";
        insta::assert_snapshot!(planned(text, Prune::Keep));
    }
}
