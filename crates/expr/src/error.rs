//! What is wrong with an expression, and where.

use std::fmt;

/// A piece of the source: byte offsets, the end exclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// First byte.
    pub start: usize,
    /// The byte after the last.
    pub end: usize,
}

impl Span {
    pub(crate) fn new(start: usize, end: usize) -> Self {
        Self { start, end }
    }

    pub(crate) fn to(self, end: Self) -> Self {
        Self { start: self.start, end: end.end }
    }
}

/// Why an expression is refused: the contract's codes (section 11), and five of our own at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// No field or function of this name.
    UnknownIdentifier,
    /// A field of another filter or of another part of a rule.
    FieldNotInFilter,
    /// A field whose value comes too late for what the rule does.
    FieldPhaseNotAllowed,
    /// The operator does not work on this type.
    UnsupportedOperator,
    /// A value of another type was expected.
    TypeMismatch,
    /// Not a number, or one of more than 64 bits.
    BadInt,
    /// Not an address, or a prefix where an address is expected.
    BadIp,
    /// A prefix with bits set behind its length.
    BadCidrHostBits,
    /// A range that runs backwards or from IPv4 to IPv6.
    BadRange,
    /// An unknown escape in a quoted string.
    BadEscape,
    /// Not a regular expression.
    BadRegex,
    /// A regular expression whose program is too large.
    RegexTooBig,
    /// A wildcard with `**`, a wrong escape or too many stars.
    BadWildcard,
    /// Not the name of a list.
    BadListName,
    /// No such list.
    ListNotFound,
    /// A list of a kind that does not fit the field.
    ListTypeMismatch,
    /// A string that does not end.
    MissingQuote,
    /// Text that continues no expression.
    TrailingInput,
    /// Nested too deeply.
    NestingLimit,
    /// Too many or too few arguments.
    ArgCount,
    /// A literal where a field is expected, or the other way round.
    ArgKind,
    /// An argument of another type.
    ArgType,
    /// An index that does not fit what it is put on.
    IndexType,
    /// Nothing where an expression is expected.
    EmptyExpression,
    /// Ours: the text ends in the middle of an expression.
    UnexpectedEnd,
    /// Ours: the text is longer than [`MAX_LENGTH`](crate::MAX_LENGTH).
    TooLong,
    /// Ours: more items than [`MAX_SET_ITEMS`](crate::MAX_SET_ITEMS).
    SetTooLarge,
    /// Ours: more regular expressions than [`MAX_REGEXES`](crate::MAX_REGEXES).
    TooManyRegexes,
}

impl ErrorCode {
    /// The code's spelling in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UnknownIdentifier => "unknown_identifier",
            Self::FieldNotInFilter => "field_not_in_filter",
            Self::FieldPhaseNotAllowed => "field_phase_not_allowed",
            Self::UnsupportedOperator => "unsupported_operator",
            Self::TypeMismatch => "type_mismatch",
            Self::BadInt => "bad_int",
            Self::BadIp => "bad_ip",
            Self::BadCidrHostBits => "bad_cidr_host_bits",
            Self::BadRange => "bad_range",
            Self::BadEscape => "bad_escape",
            Self::BadRegex => "bad_regex",
            Self::RegexTooBig => "regex_too_big",
            Self::BadWildcard => "bad_wildcard",
            Self::BadListName => "bad_list_name",
            Self::ListNotFound => "list_not_found",
            Self::ListTypeMismatch => "list_type_mismatch",
            Self::MissingQuote => "missing_quote",
            Self::TrailingInput => "trailing_input",
            Self::NestingLimit => "nesting_limit",
            Self::ArgCount => "arg_count",
            Self::ArgKind => "arg_kind",
            Self::ArgType => "arg_type",
            Self::IndexType => "index_type",
            Self::EmptyExpression => "empty_expression",
            Self::UnexpectedEnd => "unexpected_end",
            Self::TooLong => "expression_too_long",
            Self::SetTooLarge => "set_too_large",
            Self::TooManyRegexes => "too_many_regexes",
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An expression that is refused. Its text is `filter parsing error (LINE:COLUMN): ...`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("filter parsing error ({line}:{column}): {text}")]
pub struct Error {
    /// What kind of error.
    pub code: ErrorCode,
    /// What was found, and what would be right.
    pub text: String,
    /// The first byte that is wrong.
    pub offset: usize,
    /// How many bytes are wrong; 0 at the end of the text.
    pub length: usize,
    /// The line, from 1.
    pub line: usize,
    /// The column, in characters, from 1.
    pub column: usize,
}

/// An error before its place is known as line and column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) code: ErrorCode,
    pub(crate) span: Span,
    pub(crate) text: String,
}

impl Problem {
    pub(crate) fn new(code: ErrorCode, span: Span, text: impl Into<String>) -> Self {
        Self { code, span, text: text.into() }
    }

    pub(crate) fn locate(self, source: &str) -> Error {
        let before = source.get(..self.span.start).unwrap_or(source);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        Error {
            code: self.code,
            text: self.text,
            offset: self.span.start,
            length: self.span.end.saturating_sub(self.span.start),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
        }
    }
}
