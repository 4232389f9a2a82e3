//! An expression that makes sense: fields found, literals read, rewrites done, every node of a known type.
//!
//! What always holds: a chain has two or more operands, none of them a chain of the same connective; an operand of
//! `Any` and `All` yields several truths, every other condition one.

use std::net::IpAddr;

use regex::bytes::Regex;

use crate::ast::{Connective, Order, Quantifier};
use crate::function::Function;
use crate::list::ListId;
use crate::scheme::{Meaning, Phase, Slot, Type};
use crate::wildcard::Wildcard;

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Typed {
    Chain(Connective, Vec<Typed>),
    Not(Box<Typed>),
    Quantified(Quantifier, Box<Typed>),
    /// A bool, or inside of a quantifier several.
    Is(Operand),
    Compare(Operand, Test),
}

impl Typed {
    pub(crate) fn not(self) -> Self {
        Self::Not(Box::new(self))
    }

    pub(crate) fn any(self) -> Self {
        Self::Quantified(Quantifier::Any, Box::new(self))
    }

    /// A chain without chains of the same connective in it.
    pub(crate) fn chain(connective: Connective, operands: Vec<Self>) -> Self {
        let mut flat = Vec::with_capacity(operands.len());
        for operand in operands {
            match operand {
                Self::Chain(inner, operands) if inner == connective => flat.extend(operands),
                Self::Chain(..) | Self::Not(_) | Self::Quantified(..) | Self::Is(_) | Self::Compare(..) => {
                    flat.push(operand);
                }
            }
        }
        Self::Chain(connective, flat)
    }
}

/// What stands on the left of a comparison.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Operand {
    pub(crate) base: Base,
    /// The type of the base.
    pub(crate) kind: Type,
    pub(crate) indexes: Vec<Index>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Base {
    Field { name: &'static str, slot: Slot, phase: Phase, meaning: Meaning },
    Call { function: Function, arguments: Vec<Argument> },
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Index {
    At(u32),
    Key(Text),
    Each,
    /// `[*]` on a map that yields `name=value` (C13).
    Pairs,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Argument {
    Operand(Operand),
    Condition(Box<Typed>),
    Text(Text),
    Pattern(Pattern),
    Int(i64),
}

impl Operand {
    /// The type after the first so many indexes. They were checked.
    pub(crate) fn kind_after(&self, indexes: usize) -> Type {
        let step = |kind, index: &Index| match (kind, index) {
            (Type::Array(of), Index::At(_) | Index::Each) | (Type::Map(of), Index::Key(_) | Index::Each) => {
                *of
            }
            (Type::Map(_), Index::Pairs) => Type::Bytes,
            // A scalar behaves as an array of itself (C6).
            (other, _) => other,
        };
        self.indexes.iter().take(indexes).fold(self.kind, step)
    }

    /// The type that is compared.
    pub(crate) fn result(&self) -> Type {
        self.kind_after(self.indexes.len())
    }

    /// How many `[*]` it has: with one, it yields several values.
    pub(crate) fn stars(&self) -> usize {
        self.indexes.iter().filter(|index| matches!(index, Index::Each | Index::Pairs)).count()
    }
}

/// What a value is compared with, and how.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Test {
    Int(Order, i64),
    Mask(i64),
    Ints(Vec<(i64, i64)>),
    Ip(Order, IpAddr),
    Ips(Vec<IpItem>),
    Text(Order, Text),
    Texts(Vec<Text>),
    Contains(Text),
    Matches(Pattern),
    Wildcard(Text, WildcardTest),
    List(ListId),
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum WildcardTest {
    Loose(Wildcard),
    Strict(Wildcard),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IpItem {
    Address(IpAddr),
    Prefix(IpAddr, u8),
    Range(IpAddr, IpAddr),
}

/// A string, and whether it was written raw, with how many `#`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Text {
    pub(crate) bytes: Box<[u8]>,
    pub(crate) raw: Option<u8>,
}

/// A regular expression, compiled.
#[derive(Debug, Clone)]
pub(crate) struct Pattern {
    pub(crate) text: String,
    pub(crate) raw: Option<u8>,
    pub(crate) regex: Regex,
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text && self.raw == other.raw
    }
}
