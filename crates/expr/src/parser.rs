//! Text to [`Ast`]: one function per level of precedence (section 3 of the contract).
//!
//! It knows the grammar and no field, allocates in proportion to the text, and recurses no deeper than
//! [`MAX_DEPTH`]. Whether what it read makes sense is `check`'s to say.

use std::borrow::Cow;

use crate::ast::{
    Argument, Ast, Base, Connective, Expr, Index, LiteralKind, Operator, Order, Quantifier, Right, Value,
};
use crate::error::{Error, ErrorCode, Problem, Span};
use crate::lexer::Lexer;

/// The longest expression, in bytes (section 11).
pub const MAX_LENGTH: usize = 16 * 1024;
/// How deeply parentheses, `not`, quantifiers and calls may nest (section 11).
pub const MAX_DEPTH: usize = 128;
/// The most items of one set: what is longer belongs into a list.
pub const MAX_SET_ITEMS: usize = 4096;

/// Reads an expression. An error is `empty_expression` for nothing but blanks, which as a part of a rule means "no
/// constraint" and is the caller's to accept: see [`Expression::compile`](crate::Expression::compile).
pub fn parse(source: &str) -> Result<Ast<'_>, Error> {
    Parser { lexer: Lexer::new(source), source, depth: 0 }.whole().map_err(|problem| problem.locate(source))
}

struct Parser<'s> {
    lexer: Lexer<'s>,
    source: &'s str,
    depth: usize,
}

type Parsed<T> = Result<T, Problem>;

impl<'s> Parser<'s> {
    fn whole(mut self) -> Parsed<Ast<'s>> {
        if self.source.len() > MAX_LENGTH {
            let span = Span::new(MAX_LENGTH.min(self.source.len()), self.source.len());
            let text =
                format!("an expression has at most {MAX_LENGTH} bytes, and this one {}", self.source.len());
            // The place is a character's first byte, or it could not be counted to.
            let start = (0..=span.start).rev().find(|at| self.source.is_char_boundary(*at)).unwrap_or(0);
            return Err(Problem::new(ErrorCode::TooLong, Span::new(start, span.end), text));
        }
        if self.lexer.at_end() {
            let span = Span::new(self.source.len(), self.source.len());
            return Err(Problem::new(ErrorCode::EmptyExpression, span, "the expression is empty"));
        }
        let root = self.expr()?;
        if !self.lexer.at_end() {
            return Err(self.unexpected("the end, or and, or, xor"));
        }
        Ok(Ast { source: self.source, root })
    }

    fn expr(&mut self) -> Parsed<Expr<'s>> {
        self.chain(Connective::Or)
    }

    fn chain(&mut self, connective: Connective) -> Parsed<Expr<'s>> {
        let (word, symbol, next) = match connective {
            Connective::Or => ("or", "||", Some(Connective::Xor)),
            Connective::Xor => ("xor", "^^", Some(Connective::And)),
            Connective::And => ("and", "&&", None),
        };
        let mut operands = Vec::new();
        loop {
            operands.push(match next {
                Some(tighter) => self.chain(tighter)?,
                None => self.unary()?,
            });
            self.lexer.skip_blanks();
            if !(self.lexer.take_word(word) || self.lexer.take(symbol)) {
                break;
            }
        }
        Ok(match operands.pop() {
            Some(only) if operands.is_empty() => only,
            last => {
                operands.extend(last);
                Expr::Chain(connective, operands)
            }
        })
    }

    fn unary(&mut self) -> Parsed<Expr<'s>> {
        self.lexer.skip_blanks();
        let start = self.lexer.at();
        let negated =
            self.lexer.take_word("not") || (!self.lexer.rest().starts_with("!=") && self.lexer.take("!"));
        if !negated {
            return self.primary();
        }
        self.nested(start, |parser| {
            parser.lexer.skip_blanks();
            // `not(...)` is one level, so that the canonical text nests no deeper than what was written.
            let negated =
                if parser.lexer.take("(") { parser.inside("a condition")? } else { parser.unary()? };
            Ok(Expr::Not(Box::new(negated)))
        })
    }

    /// Runs one level deeper.
    fn nested<T>(&mut self, start: usize, read: impl FnOnce(&mut Self) -> Parsed<T>) -> Parsed<T> {
        if self.depth == MAX_DEPTH {
            let text = format!("an expression nests at most {MAX_DEPTH} deep");
            return Err(Problem::new(ErrorCode::NestingLimit, self.lexer.span_from(start), text));
        }
        self.depth += 1;
        let read = read(self);
        self.depth -= 1;
        read
    }

    fn primary(&mut self) -> Parsed<Expr<'s>> {
        self.lexer.skip_blanks();
        let start = self.lexer.at();
        if self.lexer.take("(") {
            return self.nested(start, |parser| parser.inside("a condition"));
        }
        let quantifier = [("any", Quantifier::Any), ("all", Quantifier::All)];
        for (word, quantifier) in quantifier {
            let before = self.lexer.clone();
            if self.lexer.take_word(word) {
                self.lexer.skip_blanks();
                if self.lexer.take("(") {
                    let body =
                        self.nested(start, |parser| parser.inside("a condition with [*] on an array"))?;
                    let span = self.lexer.span_from(start);
                    return Ok(Expr::Quantified { quantifier, body: Box::new(body), span });
                }
            }
            self.lexer = before;
        }
        self.comparison()
    }

    /// An expression and its closing parenthesis.
    fn inside(&mut self, what: &str) -> Parsed<Expr<'s>> {
        self.lexer.skip_blanks();
        if self.lexer.rest().starts_with(')') {
            let span = Span::new(self.lexer.at(), self.lexer.at() + 1);
            let text = format!("nothing stands between these parentheses: {what} was expected");
            return Err(Problem::new(ErrorCode::EmptyExpression, span, text));
        }
        let inside = self.expr()?;
        self.close(")")?;
        Ok(inside)
    }

    fn close(&mut self, bracket: &str) -> Parsed<()> {
        self.lexer.skip_blanks();
        if self.lexer.take(bracket) { Ok(()) } else { Err(self.unexpected(bracket)) }
    }

    fn comparison(&mut self) -> Parsed<Expr<'s>> {
        let left = self.value()?;
        self.lexer.skip_blanks();
        let start = self.lexer.at();
        let Some(operator) = self.operator() else { return Ok(Expr::Value(left)) };
        let operator_span = self.lexer.span_from(start);
        let right = self.right(operator)?;
        Ok(Expr::Compare { left, operator, operator_span, right })
    }

    fn operator(&mut self) -> Option<Operator> {
        const SYMBOLS: [(&str, Operator); 8] = [
            ("==", Operator::Order(Order::Equal)),
            ("!=", Operator::Order(Order::Differs)),
            ("<=", Operator::Order(Order::AtMost)),
            (">=", Operator::Order(Order::AtLeast)),
            ("<", Operator::Order(Order::Less)),
            (">", Operator::Order(Order::Greater)),
            ("~", Operator::Matches),
            ("&", Operator::Mask),
        ];
        const WORDS: [(&str, Operator); 11] = [
            ("eq", Operator::Order(Order::Equal)),
            ("ne", Operator::Order(Order::Differs)),
            ("lt", Operator::Order(Order::Less)),
            ("le", Operator::Order(Order::AtMost)),
            ("gt", Operator::Order(Order::Greater)),
            ("ge", Operator::Order(Order::AtLeast)),
            ("in", Operator::In),
            ("contains", Operator::Contains),
            ("matches", Operator::Matches),
            ("wildcard", Operator::Wildcard),
            ("bitwise_and", Operator::Mask),
        ];
        if self.lexer.rest().starts_with("&&") {
            return None;
        }
        if let Some((_, operator)) = SYMBOLS.iter().find(|(symbol, _)| self.lexer.take(symbol)) {
            return Some(*operator);
        }
        if let Some((_, operator)) = WORDS.iter().find(|(word, _)| self.lexer.take_word(word)) {
            return Some(*operator);
        }
        let before = self.lexer.clone();
        if self.lexer.take_word("strict") {
            self.lexer.skip_blanks();
            if self.lexer.take_word("wildcard") {
                return Some(Operator::StrictWildcard);
            }
        }
        self.lexer = before;
        None
    }

    fn right(&mut self, operator: Operator) -> Parsed<Right<'s>> {
        self.lexer.skip_blanks();
        let start = self.lexer.at();
        if self.lexer.take("{") {
            return self.set(start);
        }
        if self.lexer.take("$") {
            let name = self.lexer.list_name();
            return Ok(Right::List(name, self.lexer.span_from(start)));
        }
        match self.lexer.literal()? {
            Some(literal) => Ok(Right::Literal(literal)),
            None if operator == Operator::In => Err(self.unexpected("a set {...} or a list $...")),
            None => Err(self.unexpected(&format!("a value after {}", operator.as_str()))),
        }
    }

    fn set(&mut self, start: usize) -> Parsed<Right<'s>> {
        let mut items = Vec::new();
        loop {
            self.lexer.skip_blanks();
            if self.lexer.take("}") {
                return Ok(Right::Set(items, self.lexer.span_from(start)));
            }
            let Some(item) = self.lexer.literal()? else {
                return Err(self.unexpected("} or another item of the set"));
            };
            if items.len() == MAX_SET_ITEMS {
                let text = format!("a set has at most {MAX_SET_ITEMS} items: make a list of them");
                return Err(Problem::new(ErrorCode::SetTooLarge, item.span, text));
            }
            items.push(item);
        }
    }

    fn value(&mut self) -> Parsed<Value<'s>> {
        self.lexer.skip_blanks();
        let start = self.lexer.at();
        let Some((name, span)) = self.lexer.name() else { return Err(self.no_value()) };
        if let Some(word) = in_capitals(name) {
            let text = format!("unknown identifier {name}: operators are lower case, write {word}");
            return Err(Problem::new(ErrorCode::UnknownIdentifier, span, text));
        }
        let before = self.lexer.clone();
        self.lexer.skip_blanks();
        let base = if self.lexer.take("(") {
            let arguments = self.nested(start, Self::arguments)?;
            Base::Call { name, span, arguments }
        } else {
            self.lexer = before;
            Base::Name { name: Cow::Borrowed(name), respelled: false, span }
        };
        let mut value = Value { base, indexes: Vec::new(), span };
        while self.lexer.rest().starts_with('[') {
            value.indexes.push(self.index()?);
            self.tail_of_name(&mut value);
        }
        value.span = self.lexer.span_from(start);
        Ok(value)
    }

    /// `identity.groups[*].name` is `identity.groups.name[*]` (C2).
    fn tail_of_name(&mut self, value: &mut Value<'s>) {
        let before = self.lexer.clone();
        let all_each = value.indexes.iter().all(|(index, _)| *index == Index::Each);
        let Base::Name { name, respelled, .. } = &mut value.base else { return };
        if !(all_each && self.lexer.take(".")) {
            return;
        }
        match self.lexer.name() {
            Some((tail, _)) => {
                name.to_mut().push('.');
                name.to_mut().push_str(tail);
                *respelled = true;
            }
            None => self.lexer = before,
        }
    }

    fn index(&mut self) -> Parsed<(Index<'s>, Span)> {
        let start = self.lexer.at();
        self.lexer.take("[");
        self.lexer.skip_blanks();
        let index = if self.lexer.take("*") {
            Index::Each
        } else if self.lexer.begins_literal() {
            match self.lexer.literal()? {
                Some(literal) => match literal.kind {
                    LiteralKind::Word(word) => Index::Number(word),
                    LiteralKind::Quoted(_) | LiteralKind::Raw { .. } => Index::Key(literal),
                },
                None => return Err(self.unexpected("a number, a string or *")),
            }
        } else {
            return Err(self.unexpected("a number, a string or *: each element of an array is written [*]"));
        };
        self.close("]")?;
        Ok((index, self.lexer.span_from(start)))
    }

    fn arguments(&mut self) -> Parsed<Vec<Argument<'s>>> {
        let mut arguments = Vec::new();
        self.lexer.skip_blanks();
        if self.lexer.take(")") {
            return Ok(arguments);
        }
        loop {
            self.lexer.skip_blanks();
            let start = self.lexer.at();
            let literal = if self.lexer.begins_literal() { self.lexer.literal()? } else { None };
            arguments.push(if let Some(literal) = literal {
                Argument::Literal(literal)
            } else {
                let expr = self.expr()?;
                Argument::Expr(expr, self.lexer.span_from(start))
            });
            self.lexer.skip_blanks();
            if !self.lexer.take(",") {
                self.close(")")?;
                return Ok(arguments);
            }
        }
    }

    /// What comes next is not what must come next.
    fn unexpected(&mut self, wanted: &str) -> Problem {
        if self.lexer.at_end() {
            let end = Span::new(self.source.len(), self.source.len());
            return Problem::new(
                ErrorCode::UnexpectedEnd,
                end,
                format!("the expression ends where {wanted} was expected"),
            );
        }
        let (found, span) = self.lexer.found();
        let text = match advice(found, self.lexer.rest()) {
            Some(advice) => format!("unexpected {found}: {advice}"),
            None => format!("unexpected {found}: expected {wanted}"),
        };
        Problem::new(ErrorCode::TrailingInput, span, text)
    }

    /// No field or function stands where one must.
    fn no_value(&mut self) -> Problem {
        if self.lexer.at_end() {
            return self.unexpected("a field, a function, any(...), all(...) or (...)");
        }
        let (found, span) = self.lexer.found();
        let text = if self.lexer.begins_literal() {
            format!("unexpected {found}: a comparison has its field on the left and its value on the right")
        } else {
            format!("unexpected {found}: expected a field, a function, any(...), all(...) or (...)")
        };
        Problem::new(ErrorCode::TrailingInput, span, text)
    }
}

/// The operator that somebody wrote in capitals.
fn in_capitals(word: &str) -> Option<&'static str> {
    const WORDS: [&str; 17] = [
        "and", "or", "xor", "not", "eq", "ne", "lt", "le", "gt", "ge", "in", "contains", "matches",
        "wildcard", "strict", "true", "false",
    ];
    WORDS.into_iter().find(|lower| lower.eq_ignore_ascii_case(word) && *lower != word)
}

/// What somebody who wrote this may have meant.
fn advice(found: &str, rest: &str) -> Option<String> {
    if let Some(word) = in_capitals(found) {
        return Some(format!("operators are lower case, write {word}"));
    }
    match found {
        "," => Some("items of a set are separated by blanks, without commas".to_owned()),
        "=" | "is" | "equals" => Some("equality is written ==".to_owned()),
        "|" => Some("or is written or".to_owned()),
        "^" => Some("exclusive or is written xor".to_owned()),
        ")" => Some("no parenthesis is open here".to_owned()),
        "'" => Some("strings stand in double quotes".to_owned()),
        "#" => Some("there are no comments".to_owned()),
        "]" | "[" if rest.starts_with("[]") || found == "]" => {
            Some("an index is a number, a string or *: each element of an array is written [*]".to_owned())
        }
        "not" => Some("write not before the whole comparison: not field in {...}".to_owned()),
        "like" => Some("write wildcard or matches".to_owned()),
        _ => None,
    }
}
