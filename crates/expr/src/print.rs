//! The canonical text (section 10): what the API answers with, and what reads back as the same expression.

use std::fmt::{self, Display, Formatter, Write};

use crate::ast::Connective;
use crate::typed::{Argument, Base, Index, IpItem, Operand, Pattern, Test, Text, Typed, WildcardTest};

impl Display for Typed {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Chain(connective, operands) => {
                for (index, operand) in operands.iter().enumerate() {
                    if index > 0 {
                        write!(f, " {} ", connective.as_str())?;
                    }
                    if binds_looser(operand, *connective) {
                        write!(f, "({operand})")?;
                    } else {
                        operand.fmt(f)?;
                    }
                }
                Ok(())
            }
            Self::Not(negated) => match **negated {
                Self::Is(_) | Self::Compare(..) => write!(f, "not {negated}"),
                Self::Chain(..) | Self::Not(_) | Self::Quantified(..) => write!(f, "not({negated})"),
            },
            Self::Quantified(quantifier, body) => write!(f, "{}({body})", quantifier.as_str()),
            Self::Is(operand) => operand.fmt(f),
            Self::Compare(operand, test) => write!(f, "{operand} {test}"),
        }
    }
}

/// Whether an operand of a chain would be read differently without parentheses.
fn binds_looser(operand: &Typed, around: Connective) -> bool {
    match operand {
        Typed::Chain(Connective::Or, _) => true,
        Typed::Chain(Connective::Xor, _) => around == Connective::And,
        Typed::Chain(Connective::And, _)
        | Typed::Not(_)
        | Typed::Quantified(..)
        | Typed::Is(_)
        | Typed::Compare(..) => false,
    }
}

impl Display for Operand {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.base {
            Base::Field { name, .. } => f.write_str(name)?,
            Base::Call { function, arguments } => {
                write!(f, "{}(", function.as_str())?;
                for (index, argument) in arguments.iter().enumerate() {
                    if index > 0 {
                        f.write_str(", ")?;
                    }
                    match argument {
                        Argument::Operand(operand) => operand.fmt(f)?,
                        Argument::Condition(condition) => condition.fmt(f)?,
                        Argument::Text(text) => text.fmt(f)?,
                        Argument::Pattern(pattern) => pattern.fmt(f)?,
                        Argument::Int(number) => number.fmt(f)?,
                    }
                }
                f.write_char(')')?;
            }
        }
        self.indexes.iter().try_for_each(|index| match index {
            Index::At(number) => write!(f, "[{number}]"),
            Index::Key(key) => write!(f, "[{key}]"),
            Index::Each | Index::Pairs => f.write_str("[*]"),
        })
    }
}

impl Display for Test {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(order, number) => write!(f, "{} {number}", order.as_str()),
            Self::Mask(mask) => write!(f, "& {mask}"),
            Self::Ints(items) => {
                set(
                    f,
                    items,
                    |f, (start, end)| {
                        if start == end { start.fmt(f) } else { write!(f, "{start}..{end}") }
                    },
                )
            }
            Self::Ip(order, address) => write!(f, "{} {address}", order.as_str()),
            Self::Ips(items) => set(f, items, |f, item| match item {
                IpItem::Address(address) => address.fmt(f),
                IpItem::Prefix(network, length) => write!(f, "{network}/{length}"),
                IpItem::Range(start, end) => write!(f, "{start}..{end}"),
            }),
            Self::Text(order, text) => write!(f, "{} {text}", order.as_str()),
            Self::Texts(items) => set(f, items, |f, text| text.fmt(f)),
            Self::Contains(text) => write!(f, "contains {text}"),
            Self::Matches(pattern) => write!(f, "matches {pattern}"),
            Self::Wildcard(text, WildcardTest::Loose(_)) => write!(f, "wildcard {text}"),
            Self::Wildcard(text, WildcardTest::Strict(_)) => write!(f, "strict wildcard {text}"),
            Self::List(id) => write!(f, "in ${id}"),
        }
    }
}

fn set<T>(
    f: &mut Formatter<'_>,
    items: &[T],
    mut write_item: impl FnMut(&mut Formatter<'_>, &T) -> fmt::Result,
) -> fmt::Result {
    f.write_str("in {")?;
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            f.write_char(' ')?;
        }
        write_item(f, item)?;
    }
    f.write_char('}')
}

impl Display for Text {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if let Some(hashes) = self.raw {
            return raw(f, hashes, &String::from_utf8_lossy(&self.bytes));
        }
        f.write_char('"')?;
        for chunk in self.bytes.utf8_chunks() {
            for character in chunk.valid().chars() {
                match character {
                    '"' | '\\' => write!(f, "\\{character}")?,
                    '\0'..='\x1f' | '\x7f' => write!(f, "\\x{:02x}", u32::from(character))?,
                    other => f.write_char(other)?,
                }
            }
            chunk.invalid().iter().try_for_each(|byte| write!(f, "\\x{byte:02x}"))?;
        }
        f.write_char('"')
    }
}

impl Display for Pattern {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if let Some(hashes) = self.raw {
            return raw(f, hashes, &self.text);
        }
        f.write_char('"')?;
        for character in self.text.chars() {
            if character == '"' {
                f.write_char('\\')?;
            }
            f.write_char(character)?;
        }
        f.write_char('"')
    }
}

fn raw(f: &mut Formatter<'_>, hashes: u8, text: &str) -> fmt::Result {
    let hashes = "#".repeat(usize::from(hashes));
    write!(f, "r{hashes}\"{text}\"{hashes}")
}
