//! Makes a resource's calls, in their order, and collects what the API says.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value as Json};

use crate::client::{CallError, Client, escape};
use crate::convert;
use crate::plan;
use crate::schema::{Attribute, Body, Resource, Step, Take, When};
use crate::value::{Object, Value, of};

/// A sequence of calls for one object.
#[derive(Debug)]
pub(crate) struct Calls<'a> {
    client: &'a Client,
    resource: &'static Resource,
    /// What the object is, or is planned to be.
    object: Object,
    /// What it was; empty if it was not.
    prior: Object,
    /// What the API said of it.
    said: Map<String, Json>,
}

/// How a sequence of calls ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// All were made.
    Done,
    /// The object is not there.
    Gone,
}

/// Why a sequence of calls ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallsError {
    /// A call failed.
    #[error(transparent)]
    Call(#[from] CallError),
    /// A part of a path is not known.
    #[error("{0} is not known")]
    Unknown(&'static str),
    /// An answer has not what the contract says.
    #[error("the answer to {0} is not what it should be")]
    Answer(&'static str),
}

impl<'a> Calls<'a> {
    pub(crate) fn new(
        client: &'a Client,
        resource: &'static Resource,
        object: Object,
        prior: Object,
    ) -> Self {
        Self { client, resource, object, prior, said: Map::new() }
    }

    /// What the API has said so far.
    pub(crate) fn said(&self) -> &Map<String, Json> {
        &self.said
    }

    /// Makes the calls. An object that is not there ends them without an error.
    pub(crate) async fn make(&mut self, steps: &'static [Step]) -> Result<Outcome, CallsError> {
        let own = of(&self.object, "id").text().is_some_and(is_uuid);
        for step in steps {
            let wanted = match step.when {
                When::Always => true,
                When::Changed(name) => {
                    let attribute = self.resource.attribute(name);
                    attribute.is_some_and(|attribute| plan::changed(attribute, &self.object, &self.prior))
                }
                When::ForeignId => !own,
                When::OwnId => own,
            };
            if wanted && self.step(step).await? == Outcome::Gone {
                return Ok(Outcome::Gone);
            }
        }
        Ok(Outcome::Done)
    }

    async fn step(&mut self, step: &'static Step) -> Result<Outcome, CallsError> {
        let path = self.path(step.path)?;
        let body = self.body(&step.body);
        let result = match self.client.call(&step.method, &path, body.as_ref()).await {
            Err(error) if error.is_missing() => return Ok(Outcome::Gone),
            result => result?,
        };
        match (step.take, result) {
            // Nothing, or a list whose items nobody set.
            (Take::Nothing, _) | (Take::As(_), Json::Null) => {}
            (Take::Fields, Json::Object(fields)) => self.learn(fields),
            (Take::As(name), rows @ Json::Array(_)) => {
                self.said.insert(name.to_owned(), rows);
            }
            (Take::Match, Json::Array(rows)) => match self.matching(&rows) {
                Some(fields) => self.learn(fields),
                None => return Ok(Outcome::Gone),
            },
            (Take::Token, Json::String(token)) => self.learn_token(token),
            _ => return Err(CallsError::Answer(step.path)),
        }
        let deleted = self.said.get("deleted_at").is_some_and(|at| !at.is_null());
        Ok(if deleted && step.take != Take::Nothing { Outcome::Gone } else { Outcome::Done })
    }

    fn learn(&mut self, fields: Map<String, Json>) {
        if let Some(Json::String(id)) = fields.get("id") {
            self.object.insert("id".into(), Value::Text(id.clone()));
            self.said.insert("cname".into(), Json::String(format!("{id}.cfargotunnel.com")));
        }
        // What is told once, such as a secret, stays when a later answer leaves it out.
        self.said.extend(fields);
    }

    /// A token tells the secret in it (tunnel protocol, 6.3).
    fn learn_token(&mut self, token: String) {
        let inside = STANDARD.decode(&token).ok();
        let inside: Option<Json> = inside.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        // Only for whoever has none: another secret elsewhere is no reason to make the tunnel anew.
        let unset = |name: &str| matches!(of(&self.object, name), Value::Null | Value::Unknown);
        if let Some(secret) = inside.map(|mut inside| inside["s"].take()).filter(Json::is_string)
            && unset("secret")
            && unset("tunnel_secret")
        {
            self.said.insert("tunnel_secret".into(), secret);
        }
        self.said.insert("tunnel_token".into(), Json::String(token));
    }

    /// The row that is this object: by its id, else by its network, else the first.
    fn matching(&self, rows: &[Json]) -> Option<Map<String, Json>> {
        let text = |name: &str| of(&self.object, name).text();
        let is = |row: &Json, name: &str| text(name).is_some_and(|text| row[name] == text);
        let best = rows.iter().position(|row| is(row, "id"));
        let best = best.or_else(|| rows.iter().position(|row| is(row, "network"))).unwrap_or(0);
        rows.get(best)?.as_object().cloned()
    }

    /// A path with its texts in place, escaped. What is not set is left out of a query.
    fn path(&self, pattern: &'static str) -> Result<String, CallsError> {
        let (path, query) = pattern.split_once('?').unwrap_or((pattern, ""));
        let mut whole = Vec::new();
        for segment in path.split('/') {
            whole.push(match self.placed(segment) {
                Ok(Some(text)) => text,
                Ok(None) => return Err(CallsError::Unknown(segment)),
                Err(plain) => plain,
            });
        }
        let mut whole = whole.join("/");
        let mut separator = '?';
        for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            let value = match self.placed(value) {
                Ok(Some(text)) => text,
                Ok(None) => continue,
                Err(plain) => plain,
            };
            whole.push(separator);
            whole.push_str(name);
            whole.push('=');
            whole.push_str(&value);
            separator = '&';
        }
        Ok(whole)
    }

    /// The text in a `{name}`'s place, if it is set; what is no name comes back as it is.
    fn placed(&self, part: &'static str) -> Result<Option<Cow<'static, str>>, Cow<'static, str>> {
        match part.strip_prefix('{').and_then(|name| name.strip_suffix('}')) {
            None => Err(part.into()),
            Some(name) => Ok(of(&self.object, name).text().map(|text| escape(text).into())),
        }
    }

    fn body(&self, body: &'static Body) -> Option<Json> {
        let all = || convert::fields(self.resource.attributes, &self.object);
        match body {
            Body::None => None,
            Body::All => {
                let mut fields = all();
                fields.extend(self.unset());
                Some(fields.into())
            }
            Body::Changed => {
                let mut fields = all();
                fields.extend(self.unset());
                fields.retain(|field, _| {
                    let attribute =
                        self.resource.attributes.iter().find(|attribute| attribute.field == field);
                    attribute.is_some_and(|attribute| plan::changed(attribute, &self.object, &self.prior))
                });
                Some(fields.into())
            }
            Body::Only(names) => {
                let attributes = self.resource.attributes;
                let one = |field: &&str| {
                    let attribute = attributes.iter().find(|attribute| attribute.field == *field)?;
                    let value =
                        convert::field(attribute, &self.object).or_else(|| self.emptied(attribute))?;
                    Some(((*field).to_owned(), value))
                };
                Some(Json::Object(names.iter().filter_map(one).collect()))
            }
            Body::Made(make) => Some(make(self.resource, &self.object, &self.prior)),
        }
    }

    /// What was set and is no longer.
    fn unset(&self) -> Map<String, Json> {
        let emptied =
            |attribute: &'static Attribute| Some((attribute.field.to_owned(), self.emptied(attribute)?));
        self.resource.attributes.iter().filter_map(emptied).collect()
    }

    fn emptied(&self, attribute: &'static Attribute) -> Option<Json> {
        let now = of(&self.object, attribute.name).is_null();
        let was = !of(&self.prior, attribute.name).is_empty();
        (now && was).then(|| serde_json::from_str(attribute.unset).ok()).flatten()
    }
}

/// Whether a text is an id of the API's: a UUID.
pub(crate) fn is_uuid(text: &str) -> bool {
    let dash = |at: usize| matches!(at, 8 | 13 | 18 | 23);
    text.len() == 36
        && text
            .bytes()
            .enumerate()
            .all(|(at, byte)| if dash(at) { byte == b'-' } else { byte.is_ascii_hexdigit() })
}
