//! What is known of the thing that is decided: one value or none for each field.
//!
//! A field without a value is *missing* (section 6): it does not exist, or does not apply. What is *not known yet* is not
//! told here but by the phase that an evaluation is given.

use std::net::IpAddr;

use crate::scheme::Slot;

/// The value of one field. Whoever makes facts canonicalises them first: host names, e-mail addresses and methods have
/// one spelling, IPv4 addresses are never written as IPv6 (section 4).
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fact<'a> {
    /// A `bool`.
    Bool(bool),
    /// An `int`.
    Int(i64),
    /// An `ip`.
    Ip(IpAddr),
    /// `bytes`.
    Bytes(&'a [u8]),
    /// An `array<bool>`.
    Bools(&'a [bool]),
    /// An `array<int>`.
    Ints(&'a [i64]),
    /// An `array<ip>`.
    Ips(&'a [IpAddr]),
    /// An `array<bytes>`.
    Texts(Texts<'a>),
    /// A `map<array<bytes>>`, ordered by name.
    Map(&'a [Attribute]),
}

/// An `array<bytes>`, as its owner happens to hold it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Texts<'a> {
    /// Borrowed bytes.
    Bytes(&'a [&'a [u8]]),
    /// Borrowed strings.
    Strs(&'a [&'a str]),
    /// Owned strings.
    Strings(&'a [String]),
}

impl<'a> Texts<'a> {
    /// How many there are.
    pub fn len(self) -> usize {
        match self {
            Self::Bytes(texts) => texts.len(),
            Self::Strs(texts) => texts.len(),
            Self::Strings(texts) => texts.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Whether any of them is as asked.
    #[inline]
    pub(crate) fn any(self, mut is: impl FnMut(&[u8]) -> bool) -> bool {
        match self {
            Self::Bytes(texts) => texts.iter().any(|text| is(text)),
            Self::Strs(texts) => texts.iter().any(|text| is(text.as_bytes())),
            Self::Strings(texts) => texts.iter().any(|text| is(text.as_bytes())),
        }
    }

    /// One of them.
    pub fn get(self, index: usize) -> Option<&'a [u8]> {
        match self {
            Self::Bytes(texts) => texts.get(index).copied(),
            Self::Strs(texts) => texts.get(index).map(|text| text.as_bytes()),
            Self::Strings(texts) => texts.get(index).map(String::as_bytes),
        }
    }
}

/// A name and its values, as an identity provider sent them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attribute {
    /// The name.
    pub name: String,
    /// The values, in the order in which they came.
    pub values: Vec<String>,
}

/// The values of all fields of one thing that is decided.
#[derive(Debug, Clone, Default)]
pub struct Facts<'a> {
    slots: Vec<Option<Fact<'a>>>,
}

impl<'a> Facts<'a> {
    /// Facts with room for this many fields, all of them missing.
    pub fn with_slots(slots: usize) -> Self {
        Self { slots: vec![None; slots] }
    }

    /// Gives a field its value.
    pub fn set(&mut self, slot: Slot, fact: Fact<'a>) {
        let slot = usize::from(slot);
        if self.slots.len() <= slot {
            self.slots.resize(slot + 1, None);
        }
        self.slots[slot] = Some(fact);
    }

    /// A field's value; none if it is missing.
    #[inline]
    pub fn get(&self, slot: Slot) -> Option<&Fact<'a>> {
        self.slots.get(usize::from(slot)).and_then(Option::as_ref)
    }
}

/// A value that is not made of others.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Scalar<'a> {
    Bool(bool),
    Int(i64),
    Ip(IpAddr),
    Bytes(&'a [u8]),
}

impl<'a> Fact<'a> {
    #[inline]
    pub(crate) fn scalar(&self) -> Option<Scalar<'a>> {
        match *self {
            Self::Bool(value) => Some(Scalar::Bool(value)),
            Self::Int(value) => Some(Scalar::Int(value)),
            Self::Ip(value) => Some(Scalar::Ip(value)),
            Self::Bytes(value) => Some(Scalar::Bytes(value)),
            Self::Bools(_) | Self::Ints(_) | Self::Ips(_) | Self::Texts(_) | Self::Map(_) => None,
        }
    }

    /// An element of an array.
    #[inline]
    pub(crate) fn element(&self, at: usize) -> Option<Scalar<'a>> {
        match *self {
            Self::Bools(values) => values.get(at).copied().map(Scalar::Bool),
            Self::Ints(values) => values.get(at).copied().map(Scalar::Int),
            Self::Ips(values) => values.get(at).copied().map(Scalar::Ip),
            Self::Texts(texts) => texts.get(at).map(Scalar::Bytes),
            Self::Bool(_) | Self::Int(_) | Self::Ip(_) | Self::Bytes(_) | Self::Map(_) => None,
        }
    }

    /// The elements of an array.
    pub(crate) fn elements(&self) -> impl Iterator<Item = Scalar<'a>> + '_ {
        (0..).map_while(|at| self.element(at))
    }
}
