//! Expressions whose answer is known without facts: those that a rule had better not have.

use crate::Expression;
use crate::ast::{Connective, Order, Quantifier};
use crate::typed::{Test, Typed};

impl Expression {
    /// The answer, if it is the same whatever the facts are. `None` says nothing: not every such expression is known.
    pub fn constant(&self) -> Option<bool> {
        constant(&self.root)
    }
}

fn constant(typed: &Typed) -> Option<bool> {
    match typed {
        Typed::Chain(connective, operands) => {
            let known = operands.iter().map(constant);
            match connective {
                Connective::And if contradicts(operands) => Some(false),
                Connective::And => short(known, false),
                Connective::Or => short(known, true),
                Connective::Xor => known.reduce(|a, b| Some(a? != b?)).flatten(),
            }
        }
        Typed::Not(negated) => constant(negated).map(|truth| !truth),
        // No element at all: `any` is false and `all` is true. So only what agrees with that is known.
        Typed::Quantified(Quantifier::Any, body) => constant(body).filter(|truth| !truth),
        Typed::Quantified(Quantifier::All, body) => constant(body).filter(|truth| *truth),
        Typed::Compare(_, test) => never(test).then_some(false),
        Typed::Is(_) => None,
    }
}

/// A chain that this truth decides.
fn short(known: impl Iterator<Item = Option<bool>>, decides: bool) -> Option<bool> {
    let mut all = Some(!decides);
    for truth in known {
        match truth {
            Some(truth) if truth == decides => return Some(decides),
            Some(_) => {}
            None => all = None,
        }
    }
    all
}

fn never(test: &Test) -> bool {
    match test {
        Test::Ints(items) => items.is_empty(),
        Test::Ips(items) => items.is_empty(),
        Test::Texts(items) => items.is_empty(),
        Test::Int(..)
        | Test::Mask(_)
        | Test::Ip(..)
        | Test::Text(..)
        | Test::Contains(_)
        | Test::Matches(_)
        | Test::Wildcard(..)
        | Test::List(_) => false,
    }
}

/// Whether one value would have to equal two.
fn contradicts(operands: &[Typed]) -> bool {
    let equal = |typed: &'_ Typed| match typed {
        Typed::Compare(
            operand,
            test @ (Test::Int(Order::Equal, _) | Test::Ip(Order::Equal, _) | Test::Text(Order::Equal, _)),
        ) if operand.stars() == 0 => Some((operand.clone(), test.clone())),
        Typed::Compare(..) | Typed::Chain(..) | Typed::Not(_) | Typed::Quantified(..) | Typed::Is(_) => None,
    };
    let equal: Vec<_> = operands.iter().filter_map(equal).take(MAX_COMPARED).collect();
    let differs = |(index, (operand, test)): (usize, &(_, _))| {
        equal[..index].iter().any(|(other, wanted)| other == operand && !same(wanted, test))
    };
    equal.iter().enumerate().any(differs)
}

/// Whether two tests for equality want the same value, however it is written.
fn same(a: &Test, b: &Test) -> bool {
    match (a, b) {
        (Test::Text(_, a), Test::Text(_, b)) => a.bytes == b.bytes,
        (a, b) => a == b,
    }
}

/// The most equalities of one chain that are compared with each other.
const MAX_COMPARED: usize = 64;
