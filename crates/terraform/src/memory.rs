//! What the API made of a text that it writes otherwise: an expression in its canonical form, a schedule without blanks.
//!
//! It is kept beside the state, in the engine's private bytes. As long as the API says the same again, the state keeps what
//! the person wrote; once it says something else, somebody changed it.

use serde_json::{Map, Value as Json};

use crate::convert;
use crate::schema::Resource;
use crate::value::{Object, of};

/// The API's words by attribute, where they are not what was applied.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Memory(Map<String, Json>);

impl Memory {
    /// Reads what was written; anything else is an empty memory.
    pub(crate) fn read(bytes: &[u8]) -> Self {
        Self(serde_json::from_slice(bytes).unwrap_or_default())
    }

    pub(crate) fn write(&self) -> Vec<u8> {
        if self.0.is_empty() { Vec::new() } else { Json::Object(self.0.clone()).to_string().into_bytes() }
    }

    /// What is to be remembered after `state` was applied and the API answered `answer`.
    pub(crate) fn of(resource: &'static Resource, state: &Object, answer: &Map<String, Json>) -> Self {
        let settable = resource.attributes.iter().filter(|attribute| attribute.settable());
        let other = settable.filter_map(|attribute| {
            let said = answer.get(attribute.field)?;
            let means_it =
                convert::matches(attribute, of(state, attribute.name), &convert::decode(attribute, said));
            (!means_it).then(|| (attribute.name.to_owned(), said.clone()))
        });
        Self(other.collect())
    }

    /// Whether the API said this when the attribute was applied.
    pub(crate) fn knows(&self, name: &str, said: &Json) -> bool {
        self.0.get(name) == Some(said)
    }

    /// Forgets what is no longer said.
    pub(crate) fn forget(&mut self, name: &str) {
        self.0.remove(name);
    }
}
