//! [`Ast`] to [`Typed`]: fields are found, types are compared, and the spellings of section 9 become canonical.
//!
//! Types flow both ways. A field's type says how the literal on its right is read, and the place of an expression says
//! whether it must yield one truth (a condition) or several (inside of `any` and `all`): the rewrites that add `[*]` or
//! `any` are what is done when these two do not agree. Nothing here evaluates anything.

mod literal;
mod operand;

use crate::ast::{Ast, Expr, LiteralKind, Operator, Order, Quantifier, Right, Value};
use crate::error::{Error, ErrorCode, Problem, Span};
use crate::lint::{Lint, LintCode};
use crate::list::{ListId, ListKinds};
use crate::scheme::{Meaning, Phase, Scheme, Type};
use crate::typed::{Base, Index, Operand, Test, Typed};

/// The most regular expressions of one expression (section 11).
pub const MAX_REGEXES: usize = 64;

/// What checking an expression gave.
#[derive(Debug)]
pub(crate) struct Checked {
    pub(crate) root: Typed,
    pub(crate) lints: Vec<Lint>,
    pub(crate) phase: Phase,
    pub(crate) lists: Vec<ListId>,
}

pub(crate) fn check(ast: &Ast<'_>, scheme: &Scheme, lists: &dyn ListKinds) -> Result<Checked, Error> {
    let mut checker =
        Checker { scheme, known: lists, lints: Vec::new(), phase: 0, lists: Vec::new(), regexes: 0 };
    match checker.condition(&ast.root) {
        Ok(root) => {
            checker.look_over(&root, ast.source);
            let Checker { lints, phase, lists, .. } = checker;
            Ok(Checked { root, lints, phase, lists })
        }
        Err(problem) => Err(problem.locate(ast.source)),
    }
}

type Result<T, E = Problem> = std::result::Result<T, E>;

struct Checker<'a> {
    scheme: &'a Scheme,
    known: &'a dyn ListKinds,
    lints: Vec<Lint>,
    phase: Phase,
    lists: Vec<ListId>,
    regexes: usize,
}

impl Checker<'_> {
    fn lint(&mut self, code: LintCode, span: Span, text: impl Into<String>) {
        self.lints.push(Lint { code, text: text.into(), span });
    }

    /// An expression that yields one truth.
    fn condition(&mut self, expr: &Expr<'_>) -> Result<Typed> {
        match expr {
            Expr::Chain(connective, operands) => {
                let operands = operands.iter().map(|operand| self.condition(operand));
                Ok(Typed::chain(*connective, operands.collect::<Result<_>>()?))
            }
            Expr::Not(negated) => Ok(self.condition(negated)?.not()),
            Expr::Quantified { quantifier, body, .. } => {
                Ok(Typed::Quantified(*quantifier, Box::new(self.truths(body)?)))
            }
            Expr::Compare { left, operator, operator_span, right } => {
                let operand = self.operand(left)?;
                let comparison =
                    Comparison { operator: *operator, operator_span: *operator_span, right, left };
                self.compared(operand, comparison)
            }
            Expr::Value(value) => {
                let operand = self.operand(value)?;
                self.flag(operand, value)
            }
        }
    }

    /// A comparison as a condition: an array is asked whether any of its elements compares so (C4, C5).
    fn compared(&mut self, mut operand: Operand, mut comparison: Comparison<'_, '_>) -> Result<Typed> {
        let name = operand.to_string();
        if operand.stars() > 0 {
            let compared = self.elementwise(operand, comparison)?;
            self.lint(
                LintCode::AnyAdded,
                comparison.left.span,
                format!("{name} yields several truths, so that any(...) was put around the comparison"),
            );
            return Ok(compared.any());
        }
        if !matches!(operand.result(), Type::Array(_)) {
            return self.comparison(operand, comparison);
        }
        let differs = comparison.operator == Operator::Order(Order::Differs);
        if differs {
            comparison.operator = Operator::Order(Order::Equal);
        }
        operand.indexes.push(Index::Each);
        let compared = self.elementwise(operand, comparison)?.any();
        let compared = if differs { compared.not() } else { compared };
        let text = format!("{name} is an array, so that any({name}[*] ...) was made of the comparison");
        self.lint(LintCode::ArrayCompared, comparison.left.span, text);
        Ok(compared)
    }

    /// A value as a condition.
    fn flag(&mut self, mut operand: Operand, value: &Value<'_>) -> Result<Typed> {
        let result = operand.result();
        if operand.stars() == 0 && result == Type::Bool {
            return Ok(Typed::Is(operand));
        }
        if operand.stars() == 0 && result == Type::Array(&Type::Bool) || result == Type::Bool {
            self.unindexed(&mut operand, value.span);
            let text = format!("{operand} yields several truths, so that any(...) was put around it");
            self.lint(LintCode::AnyAdded, value.span, text);
            return Ok(Typed::Is(operand).any());
        }
        let text = format!("{operand} is {} and no condition: compare it with something", result.named());
        Err(Problem::new(ErrorCode::TypeMismatch, value.span, text))
    }

    /// An expression that yields several truths, one for each element.
    fn truths(&mut self, expr: &Expr<'_>) -> Result<Typed> {
        match expr {
            Expr::Chain(connective, operands) => {
                let operands = operands.iter().map(|operand| self.truths(operand));
                Ok(Typed::chain(*connective, operands.collect::<Result<_>>()?))
            }
            Expr::Not(negated) => Ok(self.truths(negated)?.not()),
            Expr::Quantified { quantifier, span, .. } => {
                let text = format!(
                    "{}(...) is one bool, and what stands in any(...) or all(...) has one for each element",
                    quantifier.as_str()
                );
                Err(Problem::new(ErrorCode::TypeMismatch, *span, text))
            }
            Expr::Compare { left, operator, operator_span, right } => {
                let mut operand = self.operand(left)?;
                self.indexed(&mut operand, left.span, "compared")?;
                let comparison =
                    Comparison { operator: *operator, operator_span: *operator_span, right, left };
                self.elementwise(operand, comparison)
            }
            Expr::Value(value) => {
                let mut operand = self.operand(value)?;
                let result = operand.result();
                let flags = operand.stars() == 0 && result == Type::Array(&Type::Bool);
                if flags || (operand.stars() > 0 && result == Type::Bool) {
                    self.unindexed(&mut operand, value.span);
                    return Ok(Typed::Is(operand));
                }
                let text = format!(
                    "{operand} is {} and not an array<bool>: what stands in any(...) or all(...) compares the \
                     elements of an array, written with [*]",
                    result.named()
                );
                Err(Problem::new(ErrorCode::TypeMismatch, value.span, text))
            }
        }
    }

    /// Sees to it that an operand yields several values: an array's missing `[*]` is added (C3).
    fn indexed(&mut self, operand: &mut Operand, span: Span, what: &str) -> Result<()> {
        match operand.result() {
            Type::Array(_) => {
                operand.indexes.push(Index::Each);
                let text = format!("{operand} is meant: the [*] was added");
                self.lint(LintCode::IndexAdded, span, text);
                Ok(())
            }
            Type::Bool | Type::Int | Type::Ip | Type::Bytes | Type::Map(_) if operand.stars() > 0 => Ok(()),
            other @ (Type::Bool | Type::Int | Type::Ip | Type::Bytes | Type::Map(_)) => {
                let text = format!(
                    "{operand} {what} is one bool ({operand} is {}), and what stands in any(...) or all(...) has one \
                     for each element of an array, written with [*]: move it outside",
                    other.named()
                );
                Err(Problem::new(ErrorCode::TypeMismatch, span, text))
            }
        }
    }

    /// `flags[*]` as a condition is `flags` (C11).
    fn unindexed(&mut self, operand: &mut Operand, span: Span) {
        let Some(last) = operand.indexes.len().checked_sub(1) else { return };
        let of_array = operand.kind_after(last) == Type::Array(&Type::Bool);
        if of_array && operand.indexes.last() == Some(&Index::Each) {
            operand.indexes.pop();
            self.lint(LintCode::FlagsIndexed, span, format!("{operand} is meant: the [*] was taken away"));
        }
    }

    /// A comparison of an operand with `[*]`.
    fn elementwise(&mut self, mut operand: Operand, comparison: Comparison<'_, '_>) -> Result<Typed> {
        if matches!(operand.result(), Type::Array(_)) {
            // `m[*]` of a map of arrays: its elements are arrays again.
            self.indexed(&mut operand, comparison.left.span, "compared")?;
            self.limit_stars(&operand, comparison.left.span)?;
        }
        self.comparison(operand, comparison)
    }

    /// A comparison whose operand yields values that are not made of others.
    fn comparison(&mut self, mut operand: Operand, comparison: Comparison<'_, '_>) -> Result<Typed> {
        let kind = operand.result();
        if kind == Type::Bool {
            return self.truth_compared(operand, comparison);
        }
        self.caution(&operand, &comparison);
        let (test, negated) = match kind {
            Type::Int => (self.int_test(&operand, comparison)?, false),
            Type::Ip => self.ip_test(&operand, comparison)?,
            Type::Bytes => (self.text_test(&operand, comparison)?, false),
            Type::Bool | Type::Array(_) | Type::Map(_) => {
                let text = format!(
                    "{operand} is {}: choose one of its values by its name, {operand}[\"name\"], or each of them, \
                     {operand}[*]",
                    kind.named()
                );
                return Err(Problem::new(ErrorCode::TypeMismatch, comparison.left.span, text));
            }
        };
        operand.indexes.shrink_to_fit();
        let compared = Typed::Compare(operand, test);
        Ok(if negated { compared.not() } else { compared })
    }

    /// `flag == true` is `flag` (C7).
    fn truth_compared(&mut self, mut operand: Operand, comparison: Comparison<'_, '_>) -> Result<Typed> {
        let Operator::Order(order @ (Order::Equal | Order::Differs)) = comparison.operator else {
            return Err(comparison.unsupported(&operand, "none: write the flag, or not and the flag"));
        };
        let word = match comparison.right {
            Right::Literal(literal) => match literal.kind {
                LiteralKind::Word(word) => word,
                LiteralKind::Quoted(_) | LiteralKind::Raw { .. } => "",
            },
            Right::Set(..) | Right::List(..) => "",
        };
        let truth = match word {
            "true" => true,
            "false" => false,
            _ => {
                let text = format!("{operand} is a bool: write {operand}, or not {operand}");
                return Err(Problem::new(ErrorCode::TypeMismatch, comparison.right.span(), text));
            }
        };
        if operand.stars() > 0 {
            let last = operand.indexes.len() - 1;
            if operand.kind_after(last) == Type::Array(&Type::Bool) && operand.indexes[last] == Index::Each {
                operand.indexes.pop();
            }
        }
        let plain = truth == (order == Order::Equal);
        let text = format!("written {}{operand} instead", if plain { "" } else { "not " });
        self.lint(LintCode::FlagCompared, comparison.left.span.to(comparison.right.span()), text);
        let flag = Typed::Is(operand);
        Ok(if plain { flag } else { flag.not() })
    }

    /// A field that is often taken for another.
    fn caution(&mut self, operand: &Operand, comparison: &Comparison<'_, '_>) {
        if let Base::Field { name, .. } = operand.base
            && let Some(caution) = self.scheme.field(name).and_then(|field| field.caution)
        {
            self.lint(LintCode::MistakenField, comparison.left.span, caution);
        }
    }

    /// Remarks on the whole.
    fn look_over(&mut self, root: &Typed, source: &str) {
        let whole = Span::new(0, source.len());
        if let Typed::Quantified(Quantifier::Any, body) = root
            && let Typed::Compare(_, test) = &**body
            && matches!(
                test,
                Test::Int(Order::Differs, _) | Test::Ip(Order::Differs, _) | Test::Text(Order::Differs, _)
            )
        {
            let text = "any(... != ...) is true as soon as one element differs; \
                        that none equals is written not(any(... == ...))";
            self.lint(LintCode::AnyDiffers, whole, text);
        }
        if pairs_fields(root) {
            let text = "elements of different fields are paired by their index, which says nothing about them; \
                        ask each field with an any(...) of its own";
            self.lint(LintCode::Pairing, whole, text);
        }
    }
}

/// A comparison, without its operand.
#[derive(Debug, Clone, Copy)]
struct Comparison<'a, 's> {
    left: &'a Value<'s>,
    operator: Operator,
    operator_span: Span,
    right: &'a Right<'s>,
}

impl Comparison<'_, '_> {
    fn unsupported(&self, operand: &Operand, right: &str) -> Problem {
        let text = format!(
            "{} does not work on {} ({operand}); what does: {right}",
            self.operator.as_str(),
            operand.result().named()
        );
        Problem::new(ErrorCode::UnsupportedOperator, self.operator_span, text)
    }
}

/// Whether a quantifier combines comparisons of different fields.
fn pairs_fields(typed: &Typed) -> bool {
    match typed {
        Typed::Chain(_, operands) => operands.iter().any(pairs_fields),
        Typed::Not(negated) => pairs_fields(negated),
        Typed::Quantified(_, body) => {
            let mut names = Vec::new();
            fields(body, &mut names);
            names.dedup();
            names.len() > 1
        }
        Typed::Is(_) | Typed::Compare(..) => false,
    }
}

fn fields<'t>(typed: &'t Typed, names: &mut Vec<&'t Base>) {
    match typed {
        Typed::Chain(_, operands) => {
            for operand in operands {
                fields(operand, names);
            }
        }
        Typed::Not(negated) | Typed::Quantified(_, negated) => fields(negated, names),
        Typed::Is(operand) | Typed::Compare(operand, _) => {
            let mut base = &operand.base;
            while let Base::Call { arguments, .. } = base
                && let Some(crate::typed::Argument::Operand(first)) = arguments.first()
            {
                base = &first.base;
            }
            names.push(base);
        }
    }
}

/// What lists of which kind hold values of this meaning.
fn list_kind(meaning: Meaning) -> Option<crate::list::ListKind> {
    match meaning {
        Meaning::Host => Some(crate::list::ListKind::Domain),
        Meaning::Email => Some(crate::list::ListKind::Email),
        Meaning::Listed(kind) => Some(kind),
        Meaning::Plain | Meaning::Coded(_) | Meaning::Pairs => None,
    }
}
