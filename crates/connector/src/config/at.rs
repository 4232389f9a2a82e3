//! A value of a configuration, where it stands and under which key: what every reader of a key works on.
//!
//! Two kinds of text end here: the YAML file of a person, where durations are Go's (`30s`), and the JSON that an edge
//! pushes, where they are whole seconds and keys are compared without case, as Go does (contract, 4.2).

#![expect(clippy::wildcard_enum_match_arm, reason = "whatever is not of the kind that was expected is wrong")]

use std::path::PathBuf;
use std::time::Duration;

use adit_model::GoDuration;
use serde_saphyr::{Location, Spanned};

use super::error::{ConfigError, Origin, shortened};
use super::yaml::Node;

/// What is being read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    /// This file.
    File(PathBuf),
    /// What an edge pushed.
    Pushed,
}

impl Source {
    /// A place in it, for an error.
    pub(super) fn place(&self, location: Location, key: &str) -> Origin {
        match self {
            Self::File(path) => Origin::File {
                path: path.clone(),
                line: location.line(),
                column: location.column(),
                key: shortened(key),
            },
            Self::Pushed if key.is_empty() => Origin::Named("configuration".into()),
            Self::Pushed => Origin::Named(shortened(key)),
        }
    }
}

/// A value, where it is, and under which key.
pub(super) struct At<'a> {
    pub(super) source: &'a Source,
    pub(super) key: String,
    pub(super) value: &'a Spanned<Node>,
}

impl<'a> At<'a> {
    /// Where this is.
    pub(super) fn origin(&self) -> Origin {
        self.source.place(self.value.defined, &self.key)
    }

    pub(super) fn wrong(&self, problem: String) -> ConfigError {
        ConfigError::new(self.origin(), problem)
    }

    fn wrong_at(&self, place: Location, problem: String) -> ConfigError {
        ConfigError::new(self.source.place(place, &self.key), problem)
    }

    pub(super) fn expected(&self, what: &str) -> ConfigError {
        self.wrong(format!("expected {what}, found {}", self.value.value.kind()))
    }

    /// The keys inside; none if nothing was said. `known` are those that may be there.
    pub(super) fn entries(&self, known: &[&'static str]) -> Result<Vec<(&'static str, At<'a>)>, ConfigError> {
        let entries = match &self.value.value {
            Node::Null => return Ok(Vec::new()),
            Node::Map(entries) => entries,
            _ => return Err(self.expected(&format!("keys such as {}", known.first().unwrap_or(&"")))),
        };
        let mut found = Vec::with_capacity(entries.len());
        for (key, value) in entries {
            let at = At { source: self.source, key: self.below(&key.value), value };
            let same = |name: &&&'static str| match self.source {
                Source::File(_) => **name == key.value,
                Source::Pushed => name.eq_ignore_ascii_case(&key.value),
            };
            let Some(name) = known.iter().find(same) else {
                return Err(at.wrong(format!("expected {}", listed(known))));
            };
            found.push((*name, at));
        }
        Ok(found)
    }

    /// The items inside; none if nothing was said.
    pub(super) fn items(&self, what: &str) -> Result<Vec<At<'a>>, ConfigError> {
        match &self.value.value {
            Node::Null => Ok(Vec::new()),
            Node::List(list) => Ok(list
                .iter()
                .enumerate()
                .map(|(index, value)| At { source: self.source, key: self.below(&index.to_string()), value })
                .collect()),
            _ => Err(self.expected(what)),
        }
    }

    fn below(&self, key: &str) -> String {
        if self.key.is_empty() { key.to_owned() } else { format!("{}.{key}", self.key) }
    }

    pub(super) fn text(&self, what: &str) -> Result<Option<String>, ConfigError> {
        match &self.value.value {
            Node::Null => Ok(None),
            Node::Text(text) => Ok(Some(text.clone())),
            _ => Err(self.expected(what)),
        }
    }

    pub(super) fn texts(&self, what: &str) -> Result<Vec<String>, ConfigError> {
        match &self.value.value {
            Node::Null => Ok(Vec::new()),
            // Commas separate in one text, as in the variable.
            Node::Text(text) => Ok(text.split(',').map(|part| part.trim().to_owned()).collect()),
            Node::List(list) => list
                .iter()
                .map(|item| match &item.value {
                    Node::Text(text) => Ok(text.clone()),
                    other => {
                        Err(self.wrong_at(item.defined, format!("expected {what}, found {}", other.kind())))
                    }
                })
                .collect(),
            _ => Err(self.expected(what)),
        }
    }

    pub(super) fn boolean(&self) -> Result<Option<bool>, ConfigError> {
        match &self.value.value {
            Node::Null => Ok(None),
            Node::Bool(value) => Ok(Some(*value)),
            _ => Err(self.expected("true or false")),
        }
    }

    pub(super) fn number(&self, most: u32) -> Result<Option<u32>, ConfigError> {
        match &self.value.value {
            Node::Null => Ok(None),
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "just compared")]
            Node::Number(value) if value.fract() == 0.0 && *value >= 0.0 && *value <= f64::from(most) => {
                Ok(Some(*value as u32))
            }
            _ => Err(self.expected(&format!("a whole number from 0 to {most}"))),
        }
    }

    /// A duration: Go's text in a file, whole seconds when pushed.
    pub(super) fn duration(&self) -> Result<Option<Duration>, ConfigError> {
        match self.source {
            Source::File(_) => Ok(self.go_duration()?.map(|(_, duration)| duration)),
            Source::Pushed => {
                let seconds = self.number(MAX_PUSHED_SECONDS)?;
                Ok(seconds.map(|seconds| Duration::from_secs(seconds.into())))
            }
        }
    }

    /// A duration as Go writes it, with its text.
    pub(super) fn go_duration(&self) -> Result<Option<(String, Duration)>, ConfigError> {
        let Some(text) = self.text(super::DURATION)? else { return Ok(None) };
        match text.parse::<GoDuration>() {
            Ok(duration) => Ok(Some((text, duration.get()))),
            Err(_) => Err(self.expected(super::DURATION)),
        }
    }

    pub(super) fn one_of(&self, choices: &[&str]) -> Result<Option<String>, ConfigError> {
        let found = match &self.value.value {
            Node::Number(number) => number.to_string(),
            Node::Text(text) => text.clone(),
            Node::Null => return Ok(None),
            _ => return Err(self.expected(&listed(choices))),
        };
        if choices.contains(&found.as_str()) { Ok(Some(found)) } else { Err(self.expected(&listed(choices))) }
    }
}

/// `a, b or c`.
fn listed(words: &[&str]) -> String {
    match words {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [head @ .., last] => format!("{} or {last}", head.join(", ")),
    }
}

/// Longest duration that is pushed, in seconds: ten years.
const MAX_PUSHED_SECONDS: u32 = 10 * 366 * 86_400;
