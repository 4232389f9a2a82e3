//! The values that an operand yields, one after the other and without a place of their own: fields by their indexes, and
//! what functions make of them.

use std::fmt::Write;
use std::ops::ControlFlow;

use super::{Argument, Base, Call, Context, First, Index, Operand};
use crate::buffer::Buffer;
use crate::facts::{Attribute, Fact, Scalar, Texts};
use crate::function::{Function, expand, network, substring, url_decode};

/// Whether there was anything to yield from: an empty array is there, a missing one is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Presence {
    Missing,
    Present,
}

/// Takes one value, and says whether it wants another.
type Sink<'f> = dyn FnMut(Scalar<'_>) -> ControlFlow<()> + 'f;

impl Operand {
    /// Yields each value to `sink`.
    pub(super) fn each(&self, context: &Context<'_>, sink: &mut Sink<'_>) -> Presence {
        match &self.base {
            Base::Field(slot) => match context.facts.get(*slot) {
                Some(fact) => walk(fact, &self.indexes, sink).1,
                None => Presence::Missing,
            },
            Base::Call(call) => call.indexed(&self.indexes, context, sink),
        }
    }
}

/// Yields what is left of a value behind its indexes.
fn walk(fact: &Fact<'_>, indexes: &[Index], sink: &mut Sink<'_>) -> (ControlFlow<()>, Presence) {
    const MISSING: (ControlFlow<()>, Presence) = (ControlFlow::Continue(()), Presence::Missing);
    let Some((index, rest)) = indexes.split_first() else {
        return match fact.scalar() {
            Some(value) => (sink(value), Presence::Present),
            None => MISSING,
        };
    };
    match fact {
        Fact::Bool(_) | Fact::Int(_) | Fact::Ip(_) | Fact::Bytes(_) => match index {
            Index::Each => walk(fact, rest, sink),
            Index::At(_) | Index::Key(_) | Index::Absent | Index::Pairs => MISSING,
        },
        // What is left behind the index of an element can only be `[*]` on a scalar (C6).
        Fact::Bools(_) | Fact::Ints(_) | Fact::Ips(_) | Fact::Texts(_) => match index {
            Index::Each => (fact.elements().try_for_each(&mut *sink), Presence::Present),
            Index::At(at) => match fact.element(*at) {
                Some(value) => (sink(value), Presence::Present),
                None => MISSING,
            },
            Index::Key(_) | Index::Absent | Index::Pairs => MISSING,
        },
        Fact::Map(attributes) => match index {
            Index::Key(key) => match attributes.iter().find(|attribute| *attribute.name == **key) {
                Some(attribute) => walk(&Fact::Texts(Texts::Strings(&attribute.values)), rest, sink),
                None => MISSING,
            },
            Index::Each => {
                let flow = attributes.iter().try_for_each(|attribute| {
                    walk(&Fact::Texts(Texts::Strings(&attribute.values)), rest, sink).0
                });
                (flow, Presence::Present)
            }
            Index::Pairs => {
                (attributes.iter().try_for_each(|attribute| pairs(attribute, sink)), Presence::Present)
            }
            Index::At(_) | Index::Absent => MISSING,
        },
    }
}

/// One string `name=value` for each value (C13).
fn pairs(attribute: &Attribute, sink: &mut Sink<'_>) -> ControlFlow<()> {
    attribute.values.iter().try_for_each(|value| {
        let mut pair = Buffer::new();
        pair.extend(attribute.name.as_bytes());
        pair.push(b'=');
        pair.extend(value.as_bytes());
        sink(Scalar::Bytes(pair.as_slice()))
    })
}

impl Call {
    /// Yields the call's value, or of several those that the index chooses.
    fn indexed(&self, indexes: &[Index], context: &Context<'_>, sink: &mut Sink<'_>) -> Presence {
        let Some(Index::At(wanted)) = indexes.first() else { return self.each(context, sink) };
        let (mut at, mut presence) = (0, Presence::Missing);
        self.each(context, &mut |value| {
            if at == *wanted {
                presence = Presence::Present;
                let _chosen = sink(value);
                return ControlFlow::Break(());
            }
            at += 1;
            ControlFlow::Continue(())
        });
        presence
    }

    fn each(&self, context: &Context<'_>, sink: &mut Sink<'_>) -> Presence {
        // Calls propagate missing (section 6, rule 5).
        let is_missing = |argument: &Argument| match argument {
            Argument::Operand(operand) => {
                operand.each(context, &mut |_| ControlFlow::Break(())) == Presence::Missing
            }
            Argument::Text(_) | Argument::Pattern(_) | Argument::Int(_) => false,
        };
        if self.others.iter().any(is_missing) {
            return Presence::Missing;
        }
        let first = match &self.first {
            First::Operand(operand) => operand,
            First::Condition(node) => {
                let _only = self.apply(Scalar::Bool(node.evaluate(context)), context, sink);
                return Presence::Present;
            }
        };
        let of_array = !self.mapped && matches!(first.indexes.last(), Some(Index::Each));
        if of_array && self.function == Function::Len {
            let mut count = 0_i64;
            let presence = first.each(context, &mut |_| {
                count += 1;
                ControlFlow::Continue(())
            });
            if presence == Presence::Present {
                let _only = sink(Scalar::Int(count));
            }
            return presence;
        }
        if of_array && self.function == Function::Concat {
            return self.concatenated(first, context, sink);
        }
        first.each(context, &mut |value| self.apply(value, context, sink))
    }

    /// The elements of all arguments.
    fn concatenated(&self, first: &Operand, context: &Context<'_>, sink: &mut Sink<'_>) -> Presence {
        let mut flow = ControlFlow::Continue(());
        let mut pass = |value: Scalar<'_>| {
            flow = sink(value);
            flow
        };
        if first.each(context, &mut pass) == Presence::Missing {
            return Presence::Missing;
        }
        for argument in &self.others {
            if flow.is_continue()
                && let Argument::Operand(operand) = argument
            {
                operand.each(context, &mut |value| {
                    flow = sink(value);
                    flow
                });
            }
        }
        Presence::Present
    }

    /// What the function makes of one value.
    fn apply(&self, value: Scalar<'_>, context: &Context<'_>, sink: &mut Sink<'_>) -> ControlFlow<()> {
        let mut made = Buffer::new();
        let text = match value {
            Scalar::Bytes(text) => text,
            Scalar::Ip(address) => return self.of_address(address, made, sink),
            Scalar::Int(number) => {
                // Writing into a buffer does not fail.
                let _written = write!(made, "{number}");
                return sink(Scalar::Bytes(made.as_slice()));
            }
            Scalar::Bool(truth) => return sink(Scalar::Bytes(if truth { b"true" } else { b"false" })),
        };
        let literal = self.others.iter().find_map(|argument| match argument {
            Argument::Text(text) => Some(&**text),
            Argument::Operand(_) | Argument::Pattern(_) | Argument::Int(_) => None,
        });
        let literal = literal.unwrap_or_default();
        match self.function {
            Function::Lower if !text.iter().any(u8::is_ascii_uppercase) => return sink(value),
            Function::Upper if !text.iter().any(u8::is_ascii_lowercase) => return sink(value),
            Function::Lower => text.iter().for_each(|byte| made.push(byte.to_ascii_lowercase())),
            Function::Upper => text.iter().for_each(|byte| made.push(byte.to_ascii_uppercase())),
            Function::Len => return sink(Scalar::Int(i64::try_from(text.len()).unwrap_or(i64::MAX))),
            Function::StartsWith => return sink(Scalar::Bool(text.starts_with(literal))),
            Function::EndsWith => return sink(Scalar::Bool(text.ends_with(literal))),
            Function::Substring => {
                let part = substring(text, self.int(0).unwrap_or_default(), self.int(1));
                return sink(Scalar::Bytes(part));
            }
            Function::RemoveBytes => {
                text.iter().filter(|byte| !literal.contains(byte)).for_each(|byte| made.push(*byte));
            }
            Function::UrlDecode => url_decode(text, &mut made),
            Function::RegexReplace => self.replace(text, literal, &mut made),
            Function::Concat => {
                made.extend(text);
                for argument in &self.others {
                    let Argument::Operand(operand) = argument else { continue };
                    operand.each(context, &mut |value| {
                        if let Scalar::Bytes(text) = value {
                            made.extend(text);
                        }
                        ControlFlow::Break(())
                    });
                }
            }
            // The checker gives these no text.
            Function::ToString | Function::Cidr | Function::Cidr6 => return sink(value),
        }
        sink(Scalar::Bytes(made.as_slice()))
    }

    fn of_address(
        &self,
        address: std::net::IpAddr,
        mut made: Buffer,
        sink: &mut Sink<'_>,
    ) -> ControlFlow<()> {
        let bits = |at| self.int(at).and_then(|bits| u8::try_from(bits).ok());
        if self.function == Function::ToString {
            let _written = write!(made, "{address}");
            return sink(Scalar::Bytes(made.as_slice()));
        }
        let (v4, v6) = if self.function == Function::Cidr { (bits(0), bits(1)) } else { (None, bits(0)) };
        sink(Scalar::Ip(network(address, v4, v6.unwrap_or(128))))
    }

    fn replace(&self, text: &[u8], replacement: &[u8], made: &mut Buffer) {
        let Some(Argument::Pattern(regex)) = self.others.first() else { return made.extend(text) };
        let Some(captures) = regex.captures(text) else { return made.extend(text) };
        let whole = captures.get_match();
        made.extend(&text[..whole.start()]);
        expand(replacement, |group| captures.get(group).map(|group| group.as_bytes()), made);
        made.extend(&text[whole.end()..]);
    }

    fn int(&self, at: usize) -> Option<i64> {
        match self.others.get(at)? {
            Argument::Int(number) => Some(*number),
            Argument::Operand(_) | Argument::Text(_) | Argument::Pattern(_) => None,
        }
    }
}
