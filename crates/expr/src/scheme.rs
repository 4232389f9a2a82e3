//! Which fields an expression may name, of which types, and what else is known of them.
//!
//! The fields are the caller's: this crate knows none by name. A [`Slot`] is the place of a field's value in
//! [`Facts`](crate::Facts); two fields of one slot are two spellings of one.

use std::collections::BTreeMap;
use std::fmt;

use crate::list::ListKind;

/// The type of a field or value (section 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// True or false.
    Bool,
    /// A signed number of 64 bits.
    Int,
    /// An IPv4 or IPv6 address.
    Ip,
    /// A string: bytes, which need not be UTF-8.
    Bytes,
    /// Any number of values of one type.
    Array(&'static Type),
    /// Values of one type by name.
    Map(&'static Type),
}

impl Type {
    /// The array of values of this type, if there is one.
    pub(crate) fn array(self) -> Option<Self> {
        match self {
            Self::Bool => Some(Self::Array(&Self::Bool)),
            Self::Int => Some(Self::Array(&Self::Int)),
            Self::Ip => Some(Self::Array(&Self::Ip)),
            Self::Bytes => Some(Self::Array(&Self::Bytes)),
            Self::Array(_) | Self::Map(_) => None,
        }
    }

    /// With its article, for a sentence.
    pub(crate) fn named(self) -> String {
        match self {
            Self::Bool => "a bool".to_owned(),
            Self::Int => "an int".to_owned(),
            Self::Ip => "an ip".to_owned(),
            Self::Bytes => "a string".to_owned(),
            Self::Array(_) => format!("an {self}"),
            Self::Map(_) => format!("a {self}"),
        }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool => f.write_str("bool"),
            Self::Int => f.write_str("int"),
            Self::Ip => f.write_str("ip"),
            Self::Bytes => f.write_str("bytes"),
            Self::Array(of) => write!(f, "array<{of}>"),
            Self::Map(of) => write!(f, "map<{of}>"),
        }
    }
}

/// The place of a field's value among the facts.
pub type Slot = u16;

/// When a value is known: larger is later. What the numbers mean is the scheme's.
pub type Phase = u8;

/// What is known of a field's values beyond their type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// Nothing.
    Plain,
    /// Host names in lower case; lists of kind DOMAIN.
    Host,
    /// E-mail addresses in lower case; lists of kind EMAIL.
    Email,
    /// What lists of this kind hold.
    Listed(ListKind),
    /// Codes, which some write by these names: name in lower case, code.
    Coded(&'static [(&'static str, &'static str)]),
    /// A map whose `[*]` yields one string `name=value` for each value (C13).
    Pairs,
}

/// A field that an expression may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// Its name, parts joined by dots.
    pub name: &'static str,
    /// Where its value is among the facts.
    pub slot: Slot,
    /// Its type.
    pub kind: Type,
    /// When its value is known.
    pub phase: Phase,
    /// What its values are.
    pub meaning: Meaning,
    /// What those who use it often get wrong, as a sentence for a lint.
    pub caution: Option<&'static str>,
}

/// The fields of one place in which expressions occur.
#[derive(Debug, Clone)]
pub struct Scheme {
    name: &'static str,
    fields: BTreeMap<&'static str, Field>,
    elsewhere: BTreeMap<&'static str, &'static str>,
    latest: Option<(Phase, &'static str)>,
}

impl Scheme {
    /// A scheme with these fields. The name appears in errors: "of the http filter".
    pub fn new(name: &'static str, fields: impl IntoIterator<Item = Field>) -> Self {
        let fields = fields.into_iter().map(|field| (field.name, field)).collect();
        Self { name, fields, elsewhere: BTreeMap::new(), latest: None }
    }

    /// Names that are fields elsewhere, each with its home: "the dns filter".
    #[must_use]
    pub fn with_elsewhere(mut self, names: impl IntoIterator<Item = (&'static str, &'static str)>) -> Self {
        self.elsewhere = names.into_iter().filter(|(name, _)| !self.fields.contains_key(name)).collect();
        self
    }

    /// Refuses fields that are known after this phase, for this reason: "an off rule decides before decryption".
    #[must_use]
    pub fn with_latest(mut self, latest: Phase, reason: &'static str) -> Self {
        self.latest = Some((latest, reason));
        self
    }

    /// The scheme's name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// A field by its name.
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields.get(name)
    }

    /// All fields, by name.
    pub fn fields(&self) -> impl Iterator<Item = &Field> {
        self.fields.values()
    }

    pub(crate) fn home(&self, name: &str) -> Option<&'static str> {
        self.elsewhere.get(name).copied()
    }

    pub(crate) fn too_late(&self, field: &Field) -> Option<&'static str> {
        self.latest.filter(|(latest, _)| field.phase > *latest).map(|(_, reason)| reason)
    }

    /// The field whose name is nearest to what was written, if any is near.
    pub(crate) fn nearest(&self, written: &str) -> Option<&'static str> {
        nearest(written, self.fields.keys().copied()).or_else(|| {
            // `http.host` for `http.request.host`: the same beginning and the same end.
            let (first, last) = (written.split('.').next()?, written.rsplit('.').next()?);
            self.fields
                .keys()
                .copied()
                .filter(|name| name.split('.').next() == Some(first) && name.rsplit('.').next() == Some(last))
                .min_by_key(|name| name.len())
        })
    }
}

/// The longest name that is compared with others: names of fields are shorter.
const MAX_COMPARED: usize = 64;

/// The candidate with the fewest edits from what was written, if they are at most a third of it.
pub(crate) fn nearest<'a>(written: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    if written.len() > MAX_COMPARED {
        return None;
    }
    let lower = written.to_ascii_lowercase();
    candidates
        .map(|candidate| (edits(lower.as_bytes(), candidate.as_bytes()), candidate))
        .filter(|(edits, _)| *edits <= (lower.len() / 3).clamp(1, 4))
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance.
fn edits(from: &[u8], to: &[u8]) -> usize {
    let mut previous: Vec<usize> = (0..=to.len()).collect();
    let mut current = vec![0; to.len() + 1];
    for (row, a) in from.iter().enumerate() {
        current[0] = row + 1;
        for (column, b) in to.iter().enumerate() {
            let replaced = previous[column] + usize::from(a != b);
            current[column + 1] = replaced.min(previous[column + 1] + 1).min(current[column] + 1);
        }
        std::mem::swap(&mut previous, &mut current);
    }
    previous[to.len()]
}
