//! What stands on the left: fields, calls and their indexes.

use super::{Checker, Result};
use crate::ast::{self, Argument as Written, Expr, LiteralKind, Value};
use crate::error::{ErrorCode, Problem, Span};
use crate::function::{Function, Parameter};
use crate::lint::LintCode;
use crate::scheme::{Meaning, Type, nearest};
use crate::typed::{Argument, Base, Index, Operand};

/// The most `[*]` of one value (section 5).
const MAX_STARS: usize = 2;

impl Checker<'_> {
    pub(super) fn operand(&mut self, value: &Value<'_>) -> Result<Operand> {
        let mut operand = match &value.base {
            ast::Base::Name { name, respelled, span } => {
                let operand = self.field(name, *span)?;
                if *respelled {
                    let text = format!("{name}[*] is meant: the [*] was moved to the end of the name");
                    self.lint(LintCode::IndexInName, value.span, text);
                }
                operand
            }
            ast::Base::Call { name, span, arguments } => self.call(name, *span, arguments, value.span)?,
        };
        for (index, span) in &value.indexes {
            let index = self.index(&operand, index, *span)?;
            operand.indexes.push(index);
        }
        // A map that yields pairs does so for a `[*]` that stands alone; with another, it yields its values (C13).
        if let [Index::Each] = operand.indexes[..]
            && let Base::Field { meaning: Meaning::Pairs, .. } = operand.base
            && matches!(operand.kind, Type::Map(_))
        {
            operand.indexes = vec![Index::Pairs];
        }
        self.limit_stars(&operand, value.span)?;
        Ok(operand)
    }

    #[expect(clippy::unused_self, reason = "beside its siblings")]
    pub(super) fn limit_stars(&self, operand: &Operand, span: Span) -> Result<()> {
        if operand.stars() > MAX_STARS {
            let text = format!("a value has at most {MAX_STARS} [*]");
            return Err(Problem::new(ErrorCode::IndexType, span, text));
        }
        Ok(())
    }

    fn field(&mut self, name: &str, span: Span) -> Result<Operand> {
        let Some(field) = self.scheme.field(name) else { return Err(self.no_field(name, span)) };
        if let Some(reason) = self.scheme.too_late(field) {
            let text = format!("{name} is known too late: {reason}");
            return Err(Problem::new(ErrorCode::FieldPhaseNotAllowed, span, text));
        }
        self.phase = self.phase.max(field.phase);
        let base =
            Base::Field { name: field.name, slot: field.slot, phase: field.phase, meaning: field.meaning };
        Ok(Operand { base, kind: field.kind, indexes: Vec::new() })
    }

    fn no_field(&self, name: &str, span: Span) -> Problem {
        let scheme = self.scheme.name();
        if let Some(home) = self.scheme.home(name) {
            let text = format!("{name} is a field of {home}, and cannot be used in {scheme}");
            return Problem::new(ErrorCode::FieldNotInFilter, span, text);
        }
        let advice = if Function::from_name(name).is_some() {
            Some(format!("{name} is a function, write {name}(...)"))
        } else {
            self.scheme.nearest(name).map(|near| format!("did you mean {near}?"))
        };
        let text = match advice {
            Some(advice) => format!("unknown identifier {name}: {advice}"),
            None => format!("unknown identifier {name}"),
        };
        Problem::new(ErrorCode::UnknownIdentifier, span, text)
    }

    fn index(&mut self, operand: &Operand, index: &ast::Index<'_>, span: Span) -> Result<Index> {
        let kind = operand.result();
        let wrong = |text: String| Err(Problem::new(ErrorCode::IndexType, span, text));
        match (kind, index) {
            (_, ast::Index::Each) => Ok(Index::Each),
            (Type::Array(_), ast::Index::Number(number)) => match self.int(number, span)?.try_into() {
                Ok(number) => Ok(Index::At(number)),
                Err(_) => wrong("the index of an array is a number from 0".to_owned()),
            },
            (Type::Map(_), ast::Index::Key(key)) => Ok(Index::Key(self.text(key)?)),
            (Type::Array(_), ast::Index::Key(_)) => {
                wrong(format!("{operand} is {}: its index is a number or *", kind.named()))
            }
            (Type::Map(_), ast::Index::Number(_)) => {
                wrong(format!("{operand} is {}: its index is a string or *", kind.named()))
            }
            (Type::Bool | Type::Int | Type::Ip | Type::Bytes, _) => {
                wrong(format!("{operand} is {} and has no elements", kind.named()))
            }
        }
    }

    fn call(&mut self, name: &str, span: Span, written: &[Written<'_>], whole: Span) -> Result<Operand> {
        let Some(function) = Function::from_name(name) else {
            let names = Function::ALL.iter().map(|function| function.as_str()).chain(["any", "all", "not"]);
            let text = match nearest(name, names) {
                Some(near) => format!("unknown function {name}: did you mean {near}?"),
                None => format!("unknown function {name}"),
            };
            return Err(Problem::new(ErrorCode::UnknownIdentifier, span, text));
        };
        let (parameters, optional) = function.parameters();
        let count = written.len();
        let most = if function.repeats() { usize::MAX } else { parameters.len() + 1 };
        let Some((first, others)) =
            written.split_first().filter(|_| count > parameters.len() - optional && count <= most)
        else {
            let text = format!("{name} was given {count} arguments: {}", function.usage());
            return Err(Problem::new(ErrorCode::ArgCount, whole, text));
        };
        let (first, kind) = self.first_argument(function, first)?;
        let mapped = matches!(&first, Argument::Operand(operand) if operand.stars() > 0);
        let result =
            function.result(kind).and_then(|result| if mapped { result.array() } else { Some(result) });
        let Some(result) = result else {
            let text = format!("{name} does not take {}: {}", kind.named(), function.usage());
            return Err(Problem::new(ErrorCode::ArgType, whole, text));
        };
        let mut arguments = vec![first];
        for (index, other) in others.iter().enumerate() {
            let parameter = parameters.get(index).or(parameters.last()).copied().unwrap_or(Parameter::Same);
            arguments.push(self.argument(function, parameter, kind, other)?);
        }
        Ok(Operand { base: Base::Call { function, arguments }, kind: result, indexes: Vec::new() })
    }

    fn first_argument(&mut self, function: Function, written: &Written<'_>) -> Result<(Argument, Type)> {
        match written {
            Written::Literal(literal) => {
                let text = format!("{} takes a field here, and no literal", function.as_str());
                Err(Problem::new(ErrorCode::ArgKind, literal.span, text))
            }
            Written::Expr(Expr::Value(value), _) => {
                let operand = self.operand(value)?;
                let kind = operand.result();
                if matches!(kind, Type::Array(_)) && function.result(kind).is_none() {
                    let text = format!(
                        "{operand} is {}: write {}({operand}[*]...)[*] for each of its elements",
                        kind.named(),
                        function.as_str()
                    );
                    return Err(Problem::new(ErrorCode::ArgType, value.span, text));
                }
                Ok((Argument::Operand(operand), kind))
            }
            Written::Expr(expr, _) => Ok((Argument::Condition(Box::new(self.condition(expr)?)), Type::Bool)),
        }
    }

    fn argument(
        &mut self,
        function: Function,
        parameter: Parameter,
        first: Type,
        written: &Written<'_>,
    ) -> Result<Argument> {
        let kind = |span, what: &str| {
            let text = format!("{what} was expected here: {}", function.usage());
            Problem::new(ErrorCode::ArgKind, span, text)
        };
        let (literal, span) = match written {
            Written::Literal(literal) => (Some(literal), literal.span),
            Written::Expr(_, span) => (None, *span),
        };
        match parameter {
            Parameter::Text => {
                let literal = literal.ok_or_else(|| kind(span, "a string literal"))?;
                Ok(Argument::Text(self.text(literal)?))
            }
            Parameter::Pattern => {
                let literal = literal.ok_or_else(|| kind(span, "a regular expression"))?;
                Ok(Argument::Pattern(self.pattern(literal)?))
            }
            Parameter::Int | Parameter::Bits(_) => {
                let number = match literal.map(|literal| literal.kind) {
                    Some(LiteralKind::Word(word)) => self.int(word, span)?,
                    Some(LiteralKind::Quoted(_) | LiteralKind::Raw { .. }) | None => {
                        return Err(kind(span, "a number"));
                    }
                };
                if let Parameter::Bits(most) = parameter
                    && !(0..=i64::from(most)).contains(&number)
                {
                    let text = format!("a number of bits from 0 to {most} was expected");
                    return Err(Problem::new(ErrorCode::ArgType, span, text));
                }
                Ok(Argument::Int(number))
            }
            Parameter::Same => {
                let Written::Expr(Expr::Value(value), _) = written else {
                    return Err(kind(span, "a field"));
                };
                let operand = self.operand(value)?;
                if operand.stars() > 0 {
                    return Err(kind(span, "a value without [*], which only the first argument may carry,"));
                }
                if operand.result() != first {
                    let text = format!("{operand} is {}, the first argument {}", operand.result(), first);
                    return Err(Problem::new(ErrorCode::ArgType, span, text));
                }
                Ok(Argument::Operand(operand))
            }
        }
    }
}
