//! An expression as it was written, before any field is known.
//!
//! What a literal means depends on the type of what stands on its left (`10.0.0.1`, `61:62` and `0x1f` are nothing in
//! themselves), so that literals stay text here: quoted, raw or a word. Chains of one connective are one node with many
//! operands, so that only what the writer nested is nested here.

use std::borrow::Cow;

use crate::error::Span;

/// An expression as it was written: see [`parse`](crate::parse).
#[derive(Debug, Clone, PartialEq)]
pub struct Ast<'s> {
    pub(crate) source: &'s str,
    pub(crate) root: Expr<'s>,
}

impl Ast<'_> {
    /// The names of the fields that it asks, in the order in which they stand there; whether there are such fields is not
    /// known.
    pub fn field_names(&self) -> Vec<&str> {
        let mut names = Vec::new();
        names_of(&self.root, &mut names);
        names
    }
}

fn names_of<'a>(expression: &'a Expr<'_>, names: &mut Vec<&'a str>) {
    match expression {
        Expr::Chain(_, operands) => operands.iter().for_each(|operand| names_of(operand, names)),
        Expr::Not(body) | Expr::Quantified { body, .. } => names_of(body, names),
        Expr::Compare { left, .. } => names_of_value(left, names),
        Expr::Value(value) => names_of_value(value, names),
    }
}

fn names_of_value<'a>(value: &'a Value<'_>, names: &mut Vec<&'a str>) {
    match &value.base {
        Base::Name { name, .. } => names.push(name),
        Base::Call { arguments, .. } => {
            for argument in arguments {
                match argument {
                    Argument::Literal(_) => {}
                    Argument::Expr(expression, _) => names_of(expression, names),
                }
            }
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Expr<'s> {
    Chain(Connective, Vec<Expr<'s>>),
    Not(Box<Expr<'s>>),
    Quantified { quantifier: Quantifier, body: Box<Expr<'s>>, span: Span },
    Compare { left: Value<'s>, operator: Operator, operator_span: Span, right: Right<'s> },
    Value(Value<'s>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Connective {
    Or,
    Xor,
    And,
}

impl Connective {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Or => "or",
            Self::Xor => "xor",
            Self::And => "and",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Quantifier {
    Any,
    All,
}

impl Quantifier {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::All => "all",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operator {
    Order(Order),
    In,
    Contains,
    Matches,
    Wildcard,
    StrictWildcard,
    Mask,
}

impl Operator {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Order(order) => order.as_str(),
            Self::In => "in",
            Self::Contains => "contains",
            Self::Matches => "matches",
            Self::Wildcard => "wildcard",
            Self::StrictWildcard => "strict wildcard",
            Self::Mask => "&",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    Equal,
    Differs,
    Less,
    AtMost,
    Greater,
    AtLeast,
}

impl Order {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Equal => "==",
            Self::Differs => "!=",
            Self::Less => "<",
            Self::AtMost => "<=",
            Self::Greater => ">",
            Self::AtLeast => ">=",
        }
    }

    pub(crate) fn holds(self, ordering: std::cmp::Ordering) -> bool {
        match self {
            Self::Equal => ordering.is_eq(),
            Self::Differs => ordering.is_ne(),
            Self::Less => ordering.is_lt(),
            Self::AtMost => ordering.is_le(),
            Self::Greater => ordering.is_gt(),
            Self::AtLeast => ordering.is_ge(),
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Value<'s> {
    pub(crate) base: Base<'s>,
    pub(crate) indexes: Vec<(Index<'s>, Span)>,
    pub(crate) span: Span,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Base<'s> {
    /// A field. `respelled` says that it was written `a[*].b` (C2).
    Name {
        name: Cow<'s, str>,
        respelled: bool,
        span: Span,
    },
    Call {
        name: &'s str,
        span: Span,
        arguments: Vec<Argument<'s>>,
    },
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Index<'s> {
    Number(&'s str),
    Key(Literal<'s>),
    Each,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Argument<'s> {
    Literal(Literal<'s>),
    Expr(Expr<'s>, Span),
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Right<'s> {
    Literal(Literal<'s>),
    Set(Vec<Literal<'s>>, Span),
    List(&'s str, Span),
}

impl Right<'_> {
    pub(crate) fn span(&self) -> Span {
        match self {
            Self::Literal(literal) => literal.span,
            Self::Set(_, span) | Self::List(_, span) => *span,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Literal<'s> {
    pub(crate) kind: LiteralKind<'s>,
    pub(crate) span: Span,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LiteralKind<'s> {
    /// What stands between the quotes, its escapes as they are.
    Quoted(&'s str),
    Raw {
        hashes: u8,
        text: &'s str,
    },
    /// A number, an address, a prefix, a range, bytes, or a mistake.
    Word(&'s str),
}
