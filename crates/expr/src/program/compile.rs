//! [`Typed`] to [`Program`].

use memchr::memmem::Finder;

use super::{Argument, Base, Call, First, Index, Many, Node, Operand, Program, Test};
use crate::range::RangeSet;
use crate::scheme::{Phase, Type};
use crate::set::{IpSet, TextSet, prefix_range};
use crate::typed::{self, IpItem, Typed, WildcardTest};

impl Program {
    pub(crate) fn new(typed: &Typed, phase: Phase) -> Self {
        Self { root: node(typed), phase }
    }
}

fn node(typed: &Typed) -> Node {
    match typed {
        Typed::Chain(connective, operands) => Node::Chain(*connective, operands.iter().map(node).collect()),
        Typed::Not(negated) => Node::Not(Box::new(node(negated))),
        Typed::Is(operand) => compared(operand, Test::True),
        Typed::Compare(operand, written) => compared(operand, test(written)),
        Typed::Quantified(quantifier, body) => {
            let quantifier = *quantifier;
            let phase = phase_of(body);
            let body = many(body);
            match body {
                Many::Compare(Operand { base: Base::Field(slot), indexes }, test)
                    if matches!(*indexes, [Index::Each]) =>
                {
                    Node::Elements { quantifier, slot, phase, test }
                }
                body @ (Many::Compare(..) | Many::Chain(..) | Many::Not(_)) => {
                    Node::Quantified { quantifier, phase, body }
                }
            }
        }
    }
}

fn compared(written: &typed::Operand, test: Test) -> Node {
    let phase = phase_of_operand(written);
    match operand(written) {
        Operand { base: Base::Field(slot), indexes } if indexes.is_empty() => {
            Node::Field { slot, phase, test }
        }
        operand => Node::Compare { operand, phase, test },
    }
}

fn many(typed: &Typed) -> Many {
    match typed {
        Typed::Chain(connective, operands) => Many::Chain(*connective, operands.iter().map(many).collect()),
        Typed::Not(negated) => Many::Not(Box::new(many(negated))),
        Typed::Compare(written, compared) => Many::Compare(operand(written), test(compared)),
        Typed::Is(written) => {
            let mut flags = operand(written);
            if matches!(written.result(), Type::Array(_)) {
                flags.indexes = each(flags.indexes);
            }
            Many::Compare(flags, Test::True)
        }
        // The checker lets no quantifier stand in another; if it did, it would be one truth.
        Typed::Quantified(_, body) => many(body),
    }
}

fn each(indexes: Box<[Index]>) -> Box<[Index]> {
    indexes.into_vec().into_iter().chain([Index::Each]).collect()
}

fn operand(written: &typed::Operand) -> Operand {
    let base = match &written.base {
        typed::Base::Field { slot, .. } => Base::Field(*slot),
        typed::Base::Call { function, arguments } => {
            let mut mapped = false;
            let first = match arguments.first() {
                Some(typed::Argument::Condition(condition)) => First::Condition(node(condition)),
                Some(typed::Argument::Operand(first)) => {
                    mapped = first.stars() > 0;
                    First::Operand(whole(first))
                }
                // The checker lets no literal stand there.
                Some(typed::Argument::Text(_) | typed::Argument::Pattern(_) | typed::Argument::Int(_))
                | None => First::Condition(Node::Chain(crate::ast::Connective::Or, Box::new([]))),
            };
            let others = arguments.iter().skip(1).map(argument).collect();
            Base::Call(Box::new(Call { function: *function, first, mapped, others }))
        }
    };
    let index = |index: &typed::Index| match index {
        typed::Index::At(number) => Index::At(usize::try_from(*number).unwrap_or(usize::MAX)),
        typed::Index::Key(key) => {
            std::str::from_utf8(&key.bytes).map_or(Index::Absent, |key| Index::Key(key.into()))
        }
        typed::Index::Each => Index::Each,
        typed::Index::Pairs => Index::Pairs,
    };
    Operand { base, indexes: written.indexes.iter().map(index).collect() }
}

/// An operand as an argument: an array that is passed whole is read element by element too.
fn whole(written: &typed::Operand) -> Operand {
    let mut operand = operand(written);
    if matches!(written.result(), Type::Array(_)) {
        operand.indexes = each(operand.indexes);
    }
    operand
}

fn argument(written: &typed::Argument) -> Argument {
    match written {
        typed::Argument::Operand(operand) => Argument::Operand(whole(operand)),
        typed::Argument::Text(text) => Argument::Text(text.bytes.clone()),
        typed::Argument::Pattern(pattern) => Argument::Pattern(pattern.regex.clone()),
        typed::Argument::Int(number) => Argument::Int(*number),
        // Only a first argument may be a condition.
        typed::Argument::Condition(_) => Argument::Int(0),
    }
}

fn test(written: &typed::Test) -> Test {
    match written {
        typed::Test::Int(order, number) => Test::Int(*order, *number),
        typed::Test::Mask(mask) => Test::Mask(*mask),
        typed::Test::Ints(ranges) => Test::Ints(Box::new(RangeSet::new(ranges.clone()))),
        typed::Test::Ip(order, address) => Test::Ip(*order, *address),
        typed::Test::Ips(items) => {
            let ranges = items.iter().filter_map(|item| match *item {
                IpItem::Address(address) => Some((address, address)),
                IpItem::Prefix(network, length) => prefix_range(network, length),
                IpItem::Range(start, end) => Some((start, end)),
            });
            Test::Ips(Box::new(IpSet::new(ranges)))
        }
        typed::Test::Text(order, text) => Test::Text(*order, text.bytes.clone()),
        typed::Test::Texts(texts) => {
            Test::Texts(Box::new(TextSet::new(texts.iter().map(|text| text.bytes.clone()))))
        }
        typed::Test::Contains(text) => Test::Contains(Box::new(Finder::new(&text.bytes).into_owned())),
        typed::Test::Matches(pattern) => Test::Matches(Box::new(pattern.regex.clone())),
        typed::Test::Wildcard(_, WildcardTest::Loose(wildcard) | WildcardTest::Strict(wildcard)) => {
            Test::Wildcard(Box::new(wildcard.clone()))
        }
        typed::Test::List(id) => Test::List(*id),
    }
}

/// The phase from which on all fields of an expression are known.
pub(crate) fn phase_of(typed: &Typed) -> Phase {
    match typed {
        Typed::Chain(_, operands) => operands.iter().map(phase_of).max().unwrap_or_default(),
        Typed::Not(inner) | Typed::Quantified(_, inner) => phase_of(inner),
        Typed::Is(operand) | Typed::Compare(operand, _) => phase_of_operand(operand),
    }
}

fn phase_of_operand(operand: &typed::Operand) -> Phase {
    match &operand.base {
        typed::Base::Field { phase, .. } => *phase,
        typed::Base::Call { arguments, .. } => {
            let phase = |argument: &typed::Argument| match argument {
                typed::Argument::Operand(operand) => phase_of_operand(operand),
                typed::Argument::Condition(condition) => phase_of(condition),
                typed::Argument::Text(_) | typed::Argument::Pattern(_) | typed::Argument::Int(_) => 0,
            };
            arguments.iter().map(phase).max().unwrap_or_default()
        }
    }
}
