//! Another evaluator, as plain as can be: it copies every value, searches every set from its beginning, and knows nothing
//! of phases. The program must answer what it answers; what people are told of an expression is found by it.

#![expect(clippy::wildcard_enum_match_arm, reason = "what is not named has no value here")]

use std::net::IpAddr;

use crate::ast::{Connective, Order, Quantifier};
use crate::buffer::Buffer;
use crate::facts::{Fact, Facts};
use crate::function::{Function, expand, network, substring, url_decode};
use crate::list::Lists;
use crate::typed::{Argument, Base, Index, IpItem, Operand, Test, Typed, WildcardTest};

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Bool(bool),
    Int(i64),
    Ip(IpAddr),
    Bytes(Vec<u8>),
    Array(Vec<Value>),
    Map(Vec<(String, Vec<Value>)>),
}

pub(crate) struct Naive<'e> {
    pub(crate) facts: &'e Facts<'e>,
    pub(crate) lists: &'e dyn Lists,
}

impl Naive<'_> {
    pub(crate) fn truth(&self, typed: &Typed) -> bool {
        match typed {
            Typed::Chain(Connective::And, operands) => operands.iter().all(|operand| self.truth(operand)),
            Typed::Chain(Connective::Or, operands) => operands.iter().any(|operand| self.truth(operand)),
            Typed::Chain(Connective::Xor, operands) => {
                operands.iter().filter(|operand| self.truth(operand)).count() % 2 == 1
            }
            Typed::Not(negated) => !self.truth(negated),
            Typed::Quantified(Quantifier::Any, body) => self.truths(body).contains(&true),
            Typed::Quantified(Quantifier::All, body) => !self.truths(body).contains(&false),
            Typed::Is(operand) => {
                self.values(operand).is_some_and(|values| values.first() == Some(&Value::Bool(true)))
            }
            Typed::Compare(operand, test) => {
                let values = self.values(operand).unwrap_or_default();
                let of_missing = matches!(
                    test,
                    Test::Int(Order::Differs, _)
                        | Test::Ip(Order::Differs, _)
                        | Test::Text(Order::Differs, _)
                );
                values.first().map_or(of_missing, |value| self.test(test, value))
            }
        }
    }

    fn truths(&self, typed: &Typed) -> Vec<bool> {
        match typed {
            Typed::Chain(connective, operands) => {
                let combine = |a: bool, b: bool| match connective {
                    Connective::And => a && b,
                    Connective::Or => a || b,
                    Connective::Xor => a != b,
                };
                let all: Vec<Vec<bool>> = operands.iter().map(|operand| self.truths(operand)).collect();
                let shortest = all.iter().map(Vec::len).min().unwrap_or_default();
                let at = |at: usize| all.iter().map(|truths| truths[at]).reduce(combine).unwrap_or_default();
                (0..shortest).map(at).collect()
            }
            Typed::Not(negated) => self.truths(negated).into_iter().map(|truth| !truth).collect(),
            Typed::Is(operand) => {
                let values = self.values(operand).unwrap_or_default().into_iter();
                let values = values.flat_map(|value| match value {
                    Value::Array(values) => values,
                    scalar => vec![scalar],
                });
                values.map(|value| value == Value::Bool(true)).collect()
            }
            Typed::Compare(operand, test) => {
                self.values(operand).unwrap_or_default().iter().map(|value| self.test(test, value)).collect()
            }
            Typed::Quantified(..) => Vec::new(),
        }
    }

    /// What an operand yields; none if it is missing.
    pub(crate) fn values(&self, operand: &Operand) -> Option<Vec<Value>> {
        let value = match &operand.base {
            Base::Field { slot, .. } => of_fact(self.facts.get(*slot)?),
            Base::Call { function, arguments } => self.call(*function, arguments)?,
        };
        index(value, &operand.indexes)
    }

    fn call(&self, function: Function, arguments: &[Argument]) -> Option<Value> {
        let (first, others) = arguments.split_first()?;
        let mut evaluated = Vec::new();
        for other in others {
            evaluated.push(match other {
                Argument::Operand(operand) => self.values(operand)?.into_iter().next()?,
                Argument::Text(text) => Value::Bytes(text.bytes.to_vec()),
                Argument::Int(number) => Value::Int(*number),
                Argument::Pattern(_) | Argument::Condition(_) => Value::Bool(false),
            });
        }
        let apply = |value| apply(function, value, &evaluated, others);
        match first {
            Argument::Condition(condition) => apply(Value::Bool(self.truth(condition))),
            Argument::Operand(operand) if operand.stars() > 0 => {
                Some(Value::Array(self.values(operand)?.into_iter().filter_map(apply).collect()))
            }
            Argument::Operand(operand) => apply(self.values(operand)?.into_iter().next()?),
            Argument::Text(_) | Argument::Int(_) | Argument::Pattern(_) => None,
        }
    }

    fn test(&self, test: &Test, value: &Value) -> bool {
        match (test, value) {
            (Test::Int(order, number), Value::Int(value)) => order.holds(value.cmp(number)),
            (Test::Mask(mask), Value::Int(value)) => mask & value != 0,
            (Test::Ints(items), Value::Int(value)) => {
                items.iter().any(|(start, end)| start <= value && value <= end)
            }
            (Test::Ip(order, address), Value::Ip(value)) if address.is_ipv4() == value.is_ipv4() => {
                order.holds(value.cmp(address))
            }
            (Test::Ip(order, _), Value::Ip(_)) => *order == Order::Differs,
            (Test::Ips(items), Value::Ip(value)) => items.iter().any(|item| match item {
                IpItem::Address(address) => address == value,
                IpItem::Prefix(address, length) => {
                    address.is_ipv4() == value.is_ipv4()
                        && network(*value, Some(*length), *length) == *address
                }
                IpItem::Range(start, end) => {
                    start.is_ipv4() == value.is_ipv4() && start <= value && value <= end
                }
            }),
            (Test::Text(order, text), Value::Bytes(value)) => order.holds(value.as_slice().cmp(&text.bytes)),
            (Test::Texts(texts), Value::Bytes(value)) => texts.iter().any(|text| *text.bytes == **value),
            (Test::Contains(text), Value::Bytes(value)) => {
                text.bytes.is_empty() || value.windows(text.bytes.len()).any(|window| *window == *text.bytes)
            }
            (Test::Matches(pattern), Value::Bytes(value)) => pattern.regex.find(value).is_some(),
            (Test::Wildcard(text, kind), Value::Bytes(value)) => match kind {
                WildcardTest::Strict(_) => wildcard(&text.bytes, value),
                WildcardTest::Loose(_) => {
                    wildcard(&text.bytes.to_ascii_lowercase(), &value.to_ascii_lowercase())
                }
            },
            (Test::List(id), value) => self.lists.list(*id).is_some_and(|list| match value {
                Value::Int(value) => list.contains_number(*value),
                Value::Ip(value) => list.contains_ip(*value),
                Value::Bytes(value) => list.contains_text(value),
                Value::Bool(_) | Value::Array(_) | Value::Map(_) => false,
            }),
            _ => false,
        }
    }
}

fn of_fact(fact: &Fact<'_>) -> Value {
    match fact {
        Fact::Bool(value) => Value::Bool(*value),
        Fact::Int(value) => Value::Int(*value),
        Fact::Ip(value) => Value::Ip(*value),
        Fact::Bytes(value) => Value::Bytes(value.to_vec()),
        Fact::Bools(values) => Value::Array(values.iter().copied().map(Value::Bool).collect()),
        Fact::Ints(values) => Value::Array(values.iter().copied().map(Value::Int).collect()),
        Fact::Ips(values) => Value::Array(values.iter().copied().map(Value::Ip).collect()),
        Fact::Texts(texts) => Value::Array(
            (0..texts.len()).map(|at| Value::Bytes(texts.get(at).unwrap_or_default().to_vec())).collect(),
        ),
        Fact::Map(attributes) => {
            let values =
                |values: &[String]| values.iter().map(|value| Value::Bytes(value.clone().into())).collect();
            Value::Map(attributes.iter().map(|a| (a.name.clone(), values(&a.values))).collect())
        }
    }
}

fn index(value: Value, indexes: &[Index]) -> Option<Vec<Value>> {
    let Some((first, rest)) = indexes.split_first() else { return Some(vec![value]) };
    let each = |values: Vec<Value>| {
        Some(values.into_iter().filter_map(|value| index(value, rest)).flatten().collect())
    };
    match (first, value) {
        (Index::At(at), Value::Array(values)) => index(values.get(usize::try_from(*at).ok()?)?.clone(), rest),
        (Index::Each, Value::Array(values)) => each(values),
        (Index::Each, Value::Map(map)) => {
            each(map.into_iter().map(|(_, values)| Value::Array(values)).collect())
        }
        (Index::Key(key), Value::Map(map)) => {
            let (_, values) = map.into_iter().find(|(name, _)| name.as_bytes() == &*key.bytes)?;
            index(Value::Array(values), rest)
        }
        (Index::Pairs, Value::Map(map)) => each(
            map.into_iter()
                .flat_map(|(name, values)| {
                    values.into_iter().map(move |value| match value {
                        Value::Bytes(value) => Value::Bytes([name.as_bytes(), b"=", &value].concat()),
                        other => other,
                    })
                })
                .collect(),
        ),
        (Index::Each, scalar) => index(scalar, rest),
        _ => None,
    }
}

fn apply(function: Function, value: Value, evaluated: &[Value], written: &[Argument]) -> Option<Value> {
    let literal = evaluated.iter().find_map(|value| match value {
        Value::Bytes(bytes) => Some(bytes.clone()),
        _ => None,
    });
    let int = |at: usize| match evaluated.get(at) {
        Some(Value::Int(number)) => Some(*number),
        _ => None,
    };
    let bits = |at| int(at).and_then(|bits| u8::try_from(bits).ok());
    let mut made = Buffer::new();
    Some(match (function, value) {
        (Function::Lower, Value::Bytes(text)) => Value::Bytes(text.to_ascii_lowercase()),
        (Function::Upper, Value::Bytes(text)) => Value::Bytes(text.to_ascii_uppercase()),
        (Function::Len, Value::Bytes(text)) => Value::Int(i64::try_from(text.len()).ok()?),
        (Function::Len, Value::Array(values)) => Value::Int(i64::try_from(values.len()).ok()?),
        (Function::StartsWith, Value::Bytes(text)) => Value::Bool(text.starts_with(&literal?)),
        (Function::EndsWith, Value::Bytes(text)) => Value::Bool(text.ends_with(&literal?)),
        (Function::Substring, Value::Bytes(text)) => Value::Bytes(substring(&text, int(0)?, int(1)).to_vec()),
        (Function::Concat, Value::Bytes(mut text)) => {
            for value in evaluated {
                if let Value::Bytes(more) = value {
                    text.extend(more);
                }
            }
            Value::Bytes(text)
        }
        (Function::Concat, Value::Array(mut values)) => {
            for value in evaluated {
                if let Value::Array(more) = value {
                    values.extend(more.iter().cloned());
                }
            }
            Value::Array(values)
        }
        (Function::RegexReplace, Value::Bytes(text)) => {
            let Some(Argument::Pattern(pattern)) = written.first() else { return None };
            let Some(groups) = pattern.regex.captures(&text) else { return Some(Value::Bytes(text)) };
            let whole = groups.get_match();
            expand(&literal?, |group| groups.get(group).map(|group| group.as_bytes()), &mut made);
            Value::Bytes([&text[..whole.start()], made.as_slice(), &text[whole.end()..]].concat())
        }
        (Function::ToString, Value::Int(number)) => Value::Bytes(number.to_string().into()),
        (Function::ToString, Value::Ip(address)) => Value::Bytes(address.to_string().into()),
        (Function::ToString, Value::Bool(truth)) => Value::Bytes(truth.to_string().into()),
        (Function::RemoveBytes, Value::Bytes(mut text)) => {
            let removed = literal?;
            text.retain(|byte| !removed.contains(byte));
            Value::Bytes(text)
        }
        (Function::UrlDecode, Value::Bytes(text)) => {
            url_decode(&text, &mut made);
            Value::Bytes(made.as_slice().to_vec())
        }
        (Function::Cidr, Value::Ip(address)) => Value::Ip(network(address, bits(0), bits(1)?)),
        (Function::Cidr6, Value::Ip(address)) => Value::Ip(network(address, None, bits(0)?)),
        _ => return None,
    })
}

/// The textbook's recursion, on a pattern that was checked.
fn wildcard(pattern: &[u8], text: &[u8]) -> bool {
    match pattern {
        [] => text.is_empty(),
        [b'*', rest @ ..] => (0..=text.len()).any(|skipped| wildcard(rest, &text[skipped..])),
        [b'\\', literal, rest @ ..] | [literal, rest @ ..] => {
            text.first() == Some(literal) && wildcard(rest, &text[1..])
        }
    }
}
