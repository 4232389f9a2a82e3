//! An expression made ready to be evaluated many times: sets hashed or sorted, literals prepared, the frequent shapes
//! apart from the rare ones.
//!
//! Evaluation is total: whatever the facts are, it answers, and it neither allocates nor has side effects. (Functions
//! work in room on the stack, and allocate for results of more than 256 bytes; `regex_replace` allocates where it
//! replaces; so does a quantifier over more than 256 elements that combines comparisons.) A missing value makes a
//! comparison false, `!=` true (section 6); a value that is not known yet makes [`Program::matches_by`] answer "not
//! known" unless the rest decides (section 8). One is never taken for the other.

mod compile;
mod values;

use std::cmp::Ordering;
use std::net::IpAddr;
use std::ops::ControlFlow;

use memchr::memmem::Finder;
use regex::bytes::Regex;

pub(crate) use compile::phase_of;

use crate::ast::{Connective, Order, Quantifier};
use crate::buffer::Truths;
use crate::facts::{Fact, Facts, Scalar};
use crate::function::Function;
use crate::list::{List, ListId, Lists};
use crate::range::RangeSet;
use crate::scheme::{Phase, Slot};
use crate::set::{IpSet, TextSet};
use crate::wildcard::Wildcard;

/// Whether a missing value differs from every value (the contract's sections 6 and 16: the default of the engine that
/// the vectors were made with).
const MISSING_DIFFERS: bool = true;

/// An expression, compiled.
#[derive(Debug, Clone)]
pub struct Program {
    root: Node,
    phase: Phase,
}

impl Program {
    /// The phase from which on all fields that it mentions are known.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Whether these facts match, all of them being known.
    #[inline]
    pub fn matches(&self, facts: &Facts<'_>, lists: &dyn Lists) -> bool {
        self.root.evaluate(&Context { facts, lists })
    }

    /// Whether these facts match as far as they are known by this phase; none if what comes later decides.
    #[inline]
    pub fn matches_by(&self, phase: Phase, facts: &Facts<'_>, lists: &dyn Lists) -> Option<bool> {
        let context = Context { facts, lists };
        if self.phase <= phase {
            return Some(self.root.evaluate(&context));
        }
        self.root.evaluate_by(phase, &context)
    }
}

struct Context<'e> {
    facts: &'e Facts<'e>,
    lists: &'e dyn Lists,
}

/// Yields one truth.
#[derive(Debug, Clone)]
enum Node {
    Chain(Connective, Box<[Node]>),
    Not(Box<Node>),
    /// A comparison of a field: what most are.
    Field {
        slot: Slot,
        phase: Phase,
        test: Test,
    },
    /// Any or all elements of a field that is an array.
    Elements {
        quantifier: Quantifier,
        slot: Slot,
        phase: Phase,
        test: Test,
    },
    /// Another comparison.
    Compare {
        operand: Operand,
        phase: Phase,
        test: Test,
    },
    /// Another quantifier.
    Quantified {
        quantifier: Quantifier,
        phase: Phase,
        body: Many,
    },
}

/// Yields several truths.
#[derive(Debug, Clone)]
enum Many {
    Chain(Connective, Box<[Many]>),
    Not(Box<Many>),
    Compare(Operand, Test),
}

#[derive(Debug, Clone)]
enum Test {
    /// The value itself, which is a bool.
    True,
    Int(Order, i64),
    Mask(i64),
    Ints(Box<RangeSet<i64>>),
    Ip(Order, IpAddr),
    Ips(Box<IpSet>),
    Text(Order, Box<[u8]>),
    Texts(Box<TextSet>),
    Contains(Box<Finder<'static>>),
    Matches(Box<Regex>),
    Wildcard(Box<Wildcard>),
    List(ListId),
}

/// What yields the values to compare.
#[derive(Debug, Clone)]
struct Operand {
    base: Base,
    indexes: Box<[Index]>,
}

#[derive(Debug, Clone)]
enum Base {
    Field(Slot),
    Call(Box<Call>),
}

#[derive(Debug, Clone)]
struct Call {
    function: Function,
    first: First,
    /// Whether `first` yields several values, and so the call.
    mapped: bool,
    others: Box<[Argument]>,
}

#[derive(Debug, Clone)]
enum First {
    Operand(Operand),
    Condition(Node),
}

#[derive(Debug, Clone)]
enum Argument {
    Operand(Operand),
    Text(Box<[u8]>),
    Pattern(Regex),
    Int(i64),
}

#[derive(Debug, Clone)]
enum Index {
    At(usize),
    Key(Box<str>),
    /// A key that is no UTF-8, as no attribute's name is.
    Absent,
    Each,
    Pairs,
}

impl Node {
    #[inline]
    fn evaluate(&self, context: &Context<'_>) -> bool {
        match self {
            Self::Field { slot, test, .. } => match context.facts.get(*slot) {
                Some(fact) => test.holds_of(fact, context),
                None => test.of_missing(),
            },
            Self::Elements { .. }
            | Self::Chain(..)
            | Self::Not(_)
            | Self::Compare { .. }
            | Self::Quantified { .. } => self.evaluate_composed(context),
        }
    }

    /// Apart from [`Node::evaluate`], so that a comparison does not pay for what it does not use.
    #[inline(never)]
    fn evaluate_composed(&self, context: &Context<'_>) -> bool {
        match self {
            Self::Field { .. } => self.evaluate(context),
            Self::Elements { quantifier, slot, test, .. } => {
                let fact = context.facts.get(*slot);
                let Some(fact) = fact else { return *quantifier == Quantifier::All };
                // A list is looked for once, and not for each element.
                if let Test::List(id) = test {
                    let list = context.lists.list(*id);
                    return elements(*quantifier, fact, |value| {
                        list.is_some_and(|list| in_list(list, value))
                    });
                }
                elements(*quantifier, fact, |value| test.holds(value, context))
            }
            Self::Chain(Connective::And, nodes) => nodes.iter().all(|node| node.evaluate(context)),
            Self::Chain(Connective::Or, nodes) => nodes.iter().any(|node| node.evaluate(context)),
            Self::Chain(Connective::Xor, nodes) => {
                nodes.iter().fold(false, |truth, node| truth ^ node.evaluate(context))
            }
            Self::Not(node) => !node.evaluate(context),
            Self::Compare { operand, test, .. } => {
                let mut truth = test.of_missing();
                operand.each(context, &mut |value| {
                    truth = test.holds(value, context);
                    ControlFlow::Break(())
                });
                truth
            }
            Self::Quantified { quantifier, body, .. } => body.quantified(*quantifier, context),
        }
    }

    /// The truth as far as it is known: `false and unknown` is false, `true or unknown` is true (section 8).
    fn evaluate_by(&self, phase: Phase, context: &Context<'_>) -> Option<bool> {
        match self {
            Self::Chain(connective @ (Connective::And | Connective::Or), nodes) => {
                let decisive = *connective == Connective::Or;
                let mut known = true;
                for node in nodes {
                    match node.evaluate_by(phase, context) {
                        Some(truth) if truth == decisive => return Some(decisive),
                        Some(_) => {}
                        None => known = false,
                    }
                }
                known.then_some(!decisive)
            }
            Self::Chain(Connective::Xor, nodes) => {
                nodes.iter().try_fold(false, |truth, node| Some(truth ^ node.evaluate_by(phase, context)?))
            }
            Self::Not(node) => node.evaluate_by(phase, context).map(|truth| !truth),
            Self::Field { phase: known, .. }
            | Self::Elements { phase: known, .. }
            | Self::Compare { phase: known, .. }
            | Self::Quantified { phase: known, .. } => (*known <= phase).then(|| self.evaluate(context)),
        }
    }
}

/// Any or all elements of an array; a scalar is an array of itself (C6).
fn elements(quantifier: Quantifier, fact: &Fact<'_>, test: impl Fn(Scalar<'_>) -> bool) -> bool {
    let decisive = quantifier == Quantifier::Any;
    let holds = |value: Scalar<'_>| test(value) == decisive;
    let decided = match *fact {
        Fact::Bools(values) => values.iter().any(|value| holds(Scalar::Bool(*value))),
        Fact::Ints(values) => values.iter().any(|value| holds(Scalar::Int(*value))),
        Fact::Ips(values) => values.iter().any(|value| holds(Scalar::Ip(*value))),
        Fact::Texts(texts) => texts.any(|text| holds(Scalar::Bytes(text))),
        Fact::Bool(_) | Fact::Int(_) | Fact::Ip(_) | Fact::Bytes(_) => fact.scalar().is_some_and(holds),
        Fact::Map(_) => false,
    };
    decided == decisive
}

impl Many {
    fn quantified(&self, quantifier: Quantifier, context: &Context<'_>) -> bool {
        let decisive = quantifier == Quantifier::Any;
        let Self::Compare(operand, test) = self else {
            return self.truths(context).iter().any(|truth| truth == decisive) == decisive;
        };
        let mut decided = false;
        operand.each(context, &mut |value| {
            decided = test.holds(value, context) == decisive;
            if decided { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        decided == decisive
    }

    fn truths(&self, context: &Context<'_>) -> Truths {
        match self {
            Self::Chain(connective, many) => {
                let combine = |a: bool, b: bool| match connective {
                    Connective::Or => a || b,
                    Connective::Xor => a ^ b,
                    Connective::And => a && b,
                };
                let mut all = many.iter().map(|many| many.truths(context));
                let first = all.next().unwrap_or_default();
                all.fold(first, |before, truths| before.zip(&truths, combine))
            }
            Self::Not(many) => {
                let mut negated = Truths::default();
                many.truths(context).iter().for_each(|truth| negated.push(!truth));
                negated
            }
            Self::Compare(operand, test) => {
                let mut truths = Truths::default();
                operand.each(context, &mut |value| {
                    truths.push(test.holds(value, context));
                    ControlFlow::Continue(())
                });
                truths
            }
        }
    }
}

impl Test {
    /// What a missing value gives.
    #[inline]
    fn of_missing(&self) -> bool {
        match self {
            Self::Int(order, _) | Self::Ip(order, _) | Self::Text(order, _) => {
                *order == Order::Differs && MISSING_DIFFERS
            }
            Self::True
            | Self::Mask(_)
            | Self::Ints(_)
            | Self::Ips(_)
            | Self::Texts(_)
            | Self::Contains(_)
            | Self::Matches(_)
            | Self::Wildcard(_)
            | Self::List(_) => false,
        }
    }

    /// Whether a field's value stands the test. The shortest comparisons are made where they are asked for.
    #[inline]
    fn holds_of(&self, fact: &Fact<'_>, context: &Context<'_>) -> bool {
        match (self, fact) {
            (Self::Int(order, number), Fact::Int(value)) => order.holds(value.cmp(number)),
            (Self::Text(Order::Equal, text), Fact::Bytes(value)) => same(value, text),
            (Self::Ip(order, IpAddr::V4(address)), Fact::Ip(IpAddr::V4(value))) => {
                order.holds(value.cmp(address))
            }
            _ => self.holds_scalar(fact, context),
        }
    }

    #[inline(never)]
    fn holds_scalar(&self, fact: &Fact<'_>, context: &Context<'_>) -> bool {
        fact.scalar().map_or(self.of_missing(), |value| self.holds(value, context))
    }

    /// Whether a value stands the test. One of another type than the field's, which a caller gave by mistake, is as good
    /// as missing.
    #[inline]
    fn holds(&self, value: Scalar<'_>, context: &Context<'_>) -> bool {
        match (self, value) {
            (Self::True, Scalar::Bool(value)) => value,
            (Self::Int(order, number), Scalar::Int(value)) => order.holds(value.cmp(number)),
            (Self::Mask(mask), Scalar::Int(value)) => value & mask != 0,
            (Self::Ints(set), Scalar::Int(value)) => set.contains(value),
            (Self::Ip(order, address), Scalar::Ip(value)) => match (value, address) {
                (IpAddr::V4(value), IpAddr::V4(address)) => order.holds(value.cmp(address)),
                (IpAddr::V6(value), IpAddr::V6(address)) => order.holds(value.cmp(address)),
                // Addresses of two families differ, and neither comes before the other (section 4).
                (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => *order == Order::Differs,
            },
            (Self::Ips(set), Scalar::Ip(value)) => set.contains(value),
            (Self::Text(order, text), Scalar::Bytes(value)) => match order {
                Order::Equal => same(value, text),
                Order::Differs => !same(value, text),
                Order::Less | Order::AtMost | Order::Greater | Order::AtLeast => {
                    let ordering: Ordering = value.cmp(text);
                    order.holds(ordering)
                }
            },
            (Self::Texts(set), Scalar::Bytes(value)) => set.contains(value),
            (Self::Contains(finder), Scalar::Bytes(value)) => finder.find(value).is_some(),
            (Self::Matches(regex), Scalar::Bytes(value)) => regex.is_match(value),
            (Self::Wildcard(wildcard), Scalar::Bytes(value)) => wildcard.matches(value),
            (Self::List(id), value) => {
                // A list that does not exist holds nothing (section 6, rule 6).
                context.lists.list(*id).is_some_and(|list| in_list(list, value))
            }
            _ => self.of_missing(),
        }
    }
}

/// Whether two texts are the same. Most that differ do so in the first or last eight bytes, which are compared at once.
#[inline]
fn same(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    match (a.first_chunk(), b.first_chunk(), a.last_chunk(), b.last_chunk()) {
        (Some(first), Some(other_first), Some(last), Some(other_last)) => {
            let same = |a: &[u8; 8], b: &[u8; 8]| u64::from_ne_bytes(*a) == u64::from_ne_bytes(*b);
            same(first, other_first) && same(last, other_last) && (a.len() <= 16 || a == b)
        }
        _ => a.iter().zip(b).all(|(a, b)| a == b),
    }
}

fn in_list(list: &List, value: Scalar<'_>) -> bool {
    match value {
        Scalar::Bool(_) => false,
        Scalar::Int(value) => list.contains_number(value),
        Scalar::Ip(value) => list.contains_ip(value),
        Scalar::Bytes(value) => list.contains_text(value),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::same;

    proptest! {
        /// Of every length around those that are compared at once, with a difference anywhere or nowhere.
        #[test]
        fn texts_are_the_same_if_every_byte_is(
            text in proptest::collection::vec(any::<u8>(), 0..40),
            changed in proptest::option::of((any::<prop::sample::Index>(), 1_u8..)),
            cut in 0_usize..3,
        ) {
            let mut other = text.clone();
            if let (Some((at, by)), false) = (changed, text.is_empty()) {
                other[at.index(text.len())] ^= by;
            }
            other.truncate(text.len().saturating_sub(cut));
            prop_assert_eq!(same(&text, &other), text == other);
        }
    }
}
