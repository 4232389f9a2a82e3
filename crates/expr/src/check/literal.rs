//! What stands on the right: literals read by the type on their left, and sets and lists of them.

use std::net::IpAddr;

use regex::bytes::RegexBuilder;

use super::{Checker, Comparison, MAX_REGEXES, Result, list_kind};
use crate::ast::{Literal, LiteralKind, Operator, Order, Right};
use crate::error::{ErrorCode, Problem, Span};
use crate::lint::LintCode;
use crate::list::{ListId, ListKind};
use crate::scheme::{Meaning, Type};
use crate::set::prefix_range;
use crate::typed::{Base, IpItem, Operand, Pattern, Test, Text, WildcardTest};
use crate::wildcard::Wildcard;

/// The largest program of a regular expression, in bytes (section 11).
const MAX_REGEX_BYTES: usize = 10 * 1024 * 1024;
/// As many regular expressions of one expression may be so large, and the others only a tenth: 64 of the largest would
/// take gigabytes and seconds to compile. Those that people write need some ten thousand bytes.
const LARGE_REGEXES: usize = 8;
/// The cache of a regular expression's lazy automaton, in bytes (section 11).
const REGEX_CACHE_BYTES: usize = 2 * 1024 * 1024;
/// How deeply a regular expression's own groups may nest: deeper ones take stack while they are read.
const MAX_REGEX_DEPTH: u32 = 100;

impl Checker<'_> {
    pub(super) fn int_test(&mut self, operand: &Operand, comparison: Comparison<'_, '_>) -> Result<Test> {
        match (comparison.operator, comparison.right) {
            (Operator::Order(order), Right::Literal(literal)) => {
                Ok(Test::Int(order, self.number(operand, literal)?))
            }
            (Operator::Mask, Right::Literal(literal)) => Ok(Test::Mask(self.number(operand, literal)?)),
            (Operator::In, Right::Set(items, span)) => {
                self.empty_set(items, *span);
                let items = items.iter().map(|item| self.int_item(operand, item));
                Ok(Test::Ints(items.collect::<Result<_>>()?))
            }
            (Operator::In, Right::List(name, span)) => {
                let categories = |kind| kind == ListKind::Category;
                Ok(Test::List(self.list(operand, name, *span, "CATEGORY", categories)?))
            }
            (Operator::Order(_) | Operator::Mask | Operator::In, right) => {
                Err(wrong_right(&comparison, right))
            }
            (Operator::Contains | Operator::Matches | Operator::Wildcard | Operator::StrictWildcard, _) => {
                Err(comparison.unsupported(operand, "== != < <= > >= in &"))
            }
        }
    }

    /// Also says whether the test is to be negated: `!= "10.0.0.0/8"` is not in `{10.0.0.0/8}` (C9).
    pub(super) fn ip_test(
        &mut self,
        operand: &Operand,
        comparison: Comparison<'_, '_>,
    ) -> Result<(Test, bool)> {
        match (comparison.operator, comparison.right) {
            (Operator::Order(order), Right::Literal(literal)) => self.address_test(operand, order, literal),
            (Operator::In, Right::Set(items, span)) => {
                self.empty_set(items, *span);
                let items = items.iter().map(|item| {
                    let (text, quoted) = unquoted_address(operand, item)?;
                    self.quoted_address(quoted, item.span);
                    ip_item(text, item.span)
                });
                Ok((Test::Ips(items.collect::<Result<_>>()?), false))
            }
            (Operator::In, Right::List(name, span)) => {
                let addresses = |kind| kind == ListKind::Ip;
                Ok((Test::List(self.list(operand, name, *span, "IP", addresses)?), false))
            }
            (Operator::Order(_) | Operator::In, right) => Err(wrong_right(&comparison, right)),
            (
                Operator::Mask
                | Operator::Contains
                | Operator::Matches
                | Operator::Wildcard
                | Operator::StrictWildcard,
                _,
            ) => Err(comparison.unsupported(operand, "== != < <= > >= in")),
        }
    }

    fn address_test(
        &mut self,
        operand: &Operand,
        order: Order,
        literal: &Literal<'_>,
    ) -> Result<(Test, bool)> {
        let (text, quoted) = unquoted_address(operand, literal)?;
        let equality = matches!(order, Order::Equal | Order::Differs);
        if quoted && equality && text.contains('/') {
            let prefix = ip_item(text, literal.span)?;
            let text = format!("written in {{{text}}}, since an address does not equal a prefix");
            self.lint(LintCode::QuotedAddress, literal.span, text);
            return Ok((Test::Ips(vec![prefix]), order == Order::Differs));
        }
        self.quoted_address(quoted, literal.span);
        Ok((Test::Ip(order, address(text, literal.span)?), false))
    }

    pub(super) fn text_test(&mut self, operand: &Operand, comparison: Comparison<'_, '_>) -> Result<Test> {
        match (comparison.operator, comparison.right) {
            (Operator::Order(order), Right::Literal(literal)) => {
                let mut text = self.text(literal)?;
                if matches!(order, Order::Equal | Order::Differs) {
                    self.canonical_text(operand, &mut text, literal.span);
                }
                Ok(Test::Text(order, text))
            }
            (Operator::In, Right::Set(items, span)) => {
                self.empty_set(items, *span);
                let items = items.iter().map(|item| {
                    let mut text = self.text(item)?;
                    self.canonical_text(operand, &mut text, item.span);
                    Ok(text)
                });
                Ok(Test::Texts(items.collect::<Result<_>>()?))
            }
            (Operator::In, Right::List(name, span)) => {
                let strings = |kind| !matches!(kind, ListKind::Ip | ListKind::Category);
                Ok(Test::List(self.list(operand, name, *span, "strings", strings)?))
            }
            (Operator::Contains, Right::Literal(literal)) => Ok(Test::Contains(self.text(literal)?)),
            (Operator::Matches, Right::Literal(literal)) => {
                let pattern = self.pattern(literal)?;
                self.anchors(operand, &pattern, literal.span);
                Ok(Test::Matches(pattern))
            }
            (Operator::Wildcard | Operator::StrictWildcard, Right::Literal(literal)) => {
                let strict = comparison.operator == Operator::StrictWildcard;
                let text = self.text(literal)?;
                let wildcard = Wildcard::new(&text.bytes, strict)
                    .map_err(|text| Problem::new(ErrorCode::BadWildcard, literal.span, text))?;
                let test =
                    if strict { WildcardTest::Strict(wildcard) } else { WildcardTest::Loose(wildcard) };
                Ok(Test::Wildcard(text, test))
            }
            (Operator::Mask, _) => Err(comparison
                .unsupported(operand, "== != < <= > >= in contains matches wildcard, and strict wildcard")),
            (_, right) => Err(wrong_right(&comparison, right)),
        }
    }

    fn empty_set(&mut self, items: &[Literal<'_>], span: Span) {
        if items.is_empty() {
            self.lint(LintCode::EmptySet, span, "nothing is in an empty set: this is never true");
        }
    }

    /// A number for an int; in quotes too (C8).
    fn number(&mut self, operand: &Operand, literal: &Literal<'_>) -> Result<i64> {
        match literal.kind {
            LiteralKind::Word(word) => self.int(word, literal.span),
            LiteralKind::Quoted(text) | LiteralKind::Raw { text, .. } => {
                let number = self.int(text, literal.span).map_err(|problem| {
                    let text = format!("{operand} is an int, and \"{text}\" is no number");
                    Problem::new(ErrorCode::TypeMismatch, problem.span, text)
                })?;
                self.lint(LintCode::QuotedNumber, literal.span, "numbers stand without quotes");
                Ok(number)
            }
        }
    }

    fn int_item(&mut self, operand: &Operand, item: &Literal<'_>) -> Result<(i64, i64)> {
        if let LiteralKind::Word(word) = item.kind
            && let Some((start, end)) = word.split_once("..")
        {
            let (start, end) = (self.int(start, item.span)?, self.int(end, item.span)?);
            if start > end {
                let text = format!("incompatible range bounds: {start} is larger than {end}");
                return Err(Problem::new(ErrorCode::BadRange, item.span, text));
            }
            return Ok((start, end));
        }
        let number = self.number(operand, item)?;
        Ok((number, number))
    }

    /// A number: decimal, octal after `0`, hexadecimal after `0x`.
    #[expect(clippy::unused_self, reason = "beside its siblings")]
    pub(super) fn int(&self, text: &str, span: Span) -> Result<i64> {
        let (digits, radix) = match (text.strip_prefix("0x"), text.strip_prefix('0')) {
            (Some(digits), _) => (digits, 16),
            (None, Some(digits)) if !digits.is_empty() => (digits, 8),
            _ => (text, 10),
        };
        let unsigned = if radix == 10 { digits.strip_prefix('-').unwrap_or(digits) } else { digits };
        let number = if unsigned.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            i64::from_str_radix(digits, radix).map_err(Some)
        } else {
            Err(None)
        };
        number.map_err(|why| {
            use std::num::IntErrorKind::{NegOverflow, PosOverflow};
            let overflow = why.is_some_and(|why| matches!(why.kind(), NegOverflow | PosOverflow));
            let text = match (overflow, radix) {
                (true, _) => format!("{text} does not fit into 64 bits"),
                (false, 8) => format!("{text} is no number: a leading 0 means octal"),
                (false, _) => format!("{text} is no number"),
            };
            Problem::new(ErrorCode::BadInt, span, text)
        })
    }

    fn quoted_address(&mut self, quoted: bool, span: Span) {
        if quoted {
            self.lint(LintCode::QuotedAddress, span, "addresses stand without quotes");
        }
    }

    /// A string: quoted with its escapes undone, raw, or bytes as `61:62:63`.
    #[expect(clippy::unused_self, reason = "beside its siblings")]
    pub(super) fn text(&self, literal: &Literal<'_>) -> Result<Text> {
        match literal.kind {
            LiteralKind::Quoted(inside) => {
                Ok(Text { bytes: unescape(inside, literal.span)?.into_boxed_slice(), raw: None })
            }
            LiteralKind::Raw { hashes, text } => {
                Ok(Text { bytes: text.as_bytes().to_vec().into_boxed_slice(), raw: Some(hashes) })
            }
            LiteralKind::Word(word) => {
                let bytes = hex_bytes(word).ok_or_else(|| {
                    let text = format!("a string was expected, in double quotes: \"{word}\"");
                    Problem::new(ErrorCode::TypeMismatch, literal.span, text)
                })?;
                Ok(Text { bytes: bytes.into_boxed_slice(), raw: None })
            }
        }
    }

    /// A regular expression: of a quoted one only `\"` is undone.
    pub(super) fn pattern(&mut self, literal: &Literal<'_>) -> Result<Pattern> {
        let (text, raw) = match literal.kind {
            LiteralKind::Quoted(inside) => (unescape_quotes(inside), None),
            LiteralKind::Raw { hashes, text } => (text.to_owned(), Some(hashes)),
            LiteralKind::Word(word) => {
                let text = format!("a regular expression was expected, in double quotes: \"{word}\"");
                return Err(Problem::new(ErrorCode::TypeMismatch, literal.span, text));
            }
        };
        if self.regexes == MAX_REGEXES {
            let text = format!("an expression has at most {MAX_REGEXES} regular expressions");
            return Err(Problem::new(ErrorCode::TooManyRegexes, literal.span, text));
        }
        let limit = if self.regexes < LARGE_REGEXES { MAX_REGEX_BYTES } else { MAX_REGEX_BYTES / 10 };
        self.regexes += 1;
        let regex = RegexBuilder::new(&text)
            .unicode(false)
            .size_limit(limit)
            .dfa_size_limit(REGEX_CACHE_BYTES)
            .nest_limit(MAX_REGEX_DEPTH)
            .build()
            .map_err(|error| regex_problem(&error, literal.span))?;
        if text.contains(r"\\.") {
            let advice = r"\\. demands a backslash before any character: probably double-escaped, write \.";
            self.lint(LintCode::DoubleEscaped, literal.span, advice);
        }
        Ok(Pattern { text, raw, regex })
    }

    fn anchors(&mut self, operand: &Operand, pattern: &Pattern, span: Span) {
        let Base::Field { meaning: Meaning::Email, .. } = operand.base else { return };
        if !(pattern.text.ends_with('$') || pattern.text.ends_with(r"\z")) {
            let text = "the pattern does not end in $, so that an address with more behind it matches too";
            self.lint(LintCode::Unanchored, span, text);
        }
    }

    /// Gives a literal the spelling that its field's values have (section 4, C12).
    fn canonical_text(&mut self, operand: &Operand, text: &mut Text, span: Span) {
        let Base::Field { meaning, .. } = operand.base else { return };
        match meaning {
            Meaning::Host | Meaning::Email if text.bytes.iter().any(u8::is_ascii_uppercase) => {
                text.bytes.make_ascii_lowercase();
                let remark = format!("{operand} is lower case, and so was {text} made");
                self.lint(LintCode::Lowered, span, remark);
            }
            Meaning::Coded(codes) => {
                let lower = text.bytes.to_ascii_lowercase();
                if let Some((name, code)) = codes.iter().find(|(name, _)| name.as_bytes() == lower) {
                    *text = Text { bytes: code.as_bytes().into(), raw: None };
                    self.lint(LintCode::NamedValue, span, format!("the code of {name} is {code}"));
                }
            }
            Meaning::Listed(ListKind::Location) => {
                if let Some(plain) = std::str::from_utf8(&text.bytes).ok().and_then(without_dashes) {
                    *text = Text { bytes: plain.into_bytes().into_boxed_slice(), raw: None };
                    self.lint(LintCode::LocationDashes, span, format!("{operand} has no dashes"));
                }
            }
            Meaning::Host | Meaning::Email | Meaning::Listed(_) | Meaning::Plain | Meaning::Pairs => {}
        }
    }

    /// A list by its name: 32 hex digits, dashes between them accepted (C1).
    fn list(
        &mut self,
        operand: &Operand,
        name: &str,
        span: Span,
        wanted: &'static str,
        fits: impl Fn(ListKind) -> bool,
    ) -> Result<ListId> {
        let legal = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.');
        let dashed = without_dashes(name);
        let plain = dashed.as_deref().unwrap_or(name);
        let well_formed = !plain.is_empty() && plain.bytes().all(legal);
        if !well_formed || plain.starts_with('.') || plain.ends_with('.') {
            let text =
                format!("${name} names no list: write $ and the 32 hex digits of its id, in lower case");
            return Err(Problem::new(ErrorCode::BadListName, span, text));
        }
        let Some(id) = ListId::from_hex(plain) else {
            let text =
                format!("list not found: ${name}; a list is named by $ and the 32 hex digits of its id");
            return Err(Problem::new(ErrorCode::ListNotFound, span, text));
        };
        let Some(kind) = self.known.list_kind(id) else {
            return Err(Problem::new(ErrorCode::ListNotFound, span, format!("list not found: ${name}")));
        };
        let meant = match operand.base {
            Base::Field { meaning, .. } => list_kind(meaning),
            Base::Call { .. } => None,
        };
        if !fits(kind) || meant.is_some_and(|meant| meant != kind) {
            let wanted = meant.map_or(wanted, ListKind::as_str);
            let text = format!("{operand} needs a list of {wanted}, and this one is of kind {kind}");
            return Err(Problem::new(ErrorCode::ListTypeMismatch, span, text));
        }
        if meant.is_none() && operand.result() == Type::Bytes {
            let text = format!("this list is of kind {kind}, which may not be what {operand} holds");
            self.lint(LintCode::ListKind, span, text);
        }
        if dashed.is_some() {
            self.lint(LintCode::ListDashes, span, format!("written ${id}, without dashes"));
        }
        if !self.lists.contains(&id) {
            self.lists.push(id);
        }
        Ok(id)
    }
}

/// A right side that does not go with its operator.
fn wrong_right(comparison: &Comparison<'_, '_>, right: &Right<'_>) -> Problem {
    let operator = comparison.operator.as_str();
    let text = match right {
        Right::Literal(_) => format!("{operator} takes a set {{...}} or a list $..., and not one value"),
        Right::Set(..) => format!("{operator} takes one value; with a set goes in"),
        Right::List(..) => format!("{operator} takes one value; with a list goes in"),
    };
    Problem::new(ErrorCode::TypeMismatch, right.span(), text)
}

/// The text of an address, and whether it was in quotes (C9).
fn unquoted_address<'s>(operand: &Operand, literal: &Literal<'s>) -> Result<(&'s str, bool)> {
    match literal.kind {
        LiteralKind::Word(word) => Ok((word, false)),
        LiteralKind::Quoted(text) | LiteralKind::Raw { text, .. } => {
            if text.split('/').next().is_none_or(|address| address.parse::<IpAddr>().is_err()) {
                let text = format!("{operand} is an ip, and \"{text}\" is no address");
                return Err(Problem::new(ErrorCode::TypeMismatch, literal.span, text));
            }
            Ok((text, true))
        }
    }
}

fn address(text: &str, span: Span) -> Result<IpAddr> {
    text.parse().map_err(|_| {
        let text = if text.contains('/') {
            format!("{text} is a prefix and no address: write in {{{text}}}")
        } else {
            format!("{text} is no address")
        };
        Problem::new(ErrorCode::BadIp, span, text)
    })
}

/// An item of a set of addresses: an address, a prefix without host bits, or a range.
fn ip_item(text: &str, span: Span) -> Result<IpItem> {
    if let Some((start, end)) = text.split_once("..") {
        let (start, end) = (address(start, span)?, address(end, span)?);
        if start.is_ipv4() != end.is_ipv4() || start > end {
            let text = format!("incompatible range bounds: {start} and {end}");
            return Err(Problem::new(ErrorCode::BadRange, span, text));
        }
        return Ok(IpItem::Range(start, end));
    }
    let Some((network, length)) = text.split_once('/') else {
        return Ok(IpItem::Address(address(text, span)?));
    };
    let network = address(network, span)?;
    let digits = (1..=3).contains(&length.len()) && length.bytes().all(|byte| byte.is_ascii_digit());
    let range = length
        .parse()
        .ok()
        .filter(|_| digits)
        .and_then(|length| prefix_range(network, length).map(|(first, _)| (first, length)));
    match range {
        None => {
            let most = if network.is_ipv4() { 32 } else { 128 };
            let text = format!("{text}: the length of this prefix is a number from 0 to {most}");
            Err(Problem::new(ErrorCode::BadIp, span, text))
        }
        Some((first, length)) if first != network => {
            let text = format!("{text} has bits set behind its length: did you mean {first}/{length}?");
            Err(Problem::new(ErrorCode::BadCidrHostBits, span, text))
        }
        Some((_, length)) => Ok(IpItem::Prefix(network, length)),
    }
}

/// A UUID with its dashes taken out.
fn without_dashes(text: &str) -> Option<String> {
    let dash = |(at, byte): (usize, u8)| matches!(at, 8 | 13 | 18 | 23) == (byte == b'-');
    let hex = |byte: u8| matches!(byte, b'-' | b'0'..=b'9' | b'a'..=b'f');
    let is_uuid = text.len() == 36 && text.bytes().enumerate().all(dash) && text.bytes().all(hex);
    is_uuid.then(|| text.replace('-', ""))
}

/// `61:62:63` as bytes: two or more, separated by `:`, `-` or `.`.
fn hex_bytes(word: &str) -> Option<Vec<u8>> {
    let pairs = word.as_bytes().chunks(3);
    if word.len() < 5 || word.len() % 3 != 2 {
        return None;
    }
    let byte = |chunk: &[u8]| match chunk {
        [high, low] | [high, low, b':' | b'-' | b'.'] => {
            let digit = |byte: u8| char::from(byte).to_digit(16);
            u8::try_from(digit(*high)? * 16 + digit(*low)?).ok()
        }
        _ => None,
    };
    pairs.map(byte).collect()
}

fn unescape(inside: &str, span: Span) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(inside.len());
    let mut rest = inside.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'\\' {
            bytes.push(*first);
            continue;
        }
        let at = span.start + 1 + (inside.len() - after.len() - 1);
        let (byte, length) = match after {
            [quoted @ (b'"' | b'\\'), ..] => (Some(*quoted), 1),
            [b'x', digits @ ..] => (number(digits, 2, 16), 3),
            [b'0'..=b'7', ..] => (number(after, 3, 8), 3),
            _ => (None, 1),
        };
        let Some(byte) = byte else {
            let shown =
                after.first().filter(|byte| byte.is_ascii_graphic()).map_or(' ', |byte| char::from(*byte));
            let text = format!(
                "\\{shown} is no escape: there are \\\" \\\\ \\xHH (two hex digits) and \\OOO (three octal digits)"
            );
            return Err(Problem::new(ErrorCode::BadEscape, Span::new(at, at + 1), text));
        };
        bytes.push(byte);
        rest = &after[length..];
    }
    Ok(bytes)
}

/// The number of so many digits.
fn number(digits: &[u8], count: usize, radix: u32) -> Option<u8> {
    let digits = digits.get(..count)?.iter().map(|byte| char::from(*byte).to_digit(radix));
    let number =
        digits.collect::<Option<Vec<_>>>()?.into_iter().fold(0, |number, digit| number * radix + digit);
    u8::try_from(number).ok()
}

fn unescape_quotes(inside: &str) -> String {
    let mut text = String::with_capacity(inside.len());
    let mut characters = inside.chars();
    while let Some(character) = characters.next() {
        if character != '\\' {
            text.push(character);
            continue;
        }
        match characters.next() {
            Some('"') => text.push('"'),
            Some(other) => text.extend(['\\', other]),
            None => text.push('\\'),
        }
    }
    text
}

fn regex_problem(error: &regex::Error, span: Span) -> Problem {
    if let regex::Error::CompiledTooBig(limit) = error {
        let text = format!("this regular expression needs more than {} KiB", limit / 1024);
        return Problem::new(ErrorCode::RegexTooBig, span, text);
    }
    // The error shows the pattern over several lines, and says in the last what is wrong.
    let whole = error.to_string();
    let last = whole.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
    let why = last.trim().trim_start_matches("error: ");
    Problem::new(ErrorCode::BadRegex, span, format!("not a regular expression: {why}"))
}
