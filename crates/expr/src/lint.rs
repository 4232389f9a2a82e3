//! What is accepted, but not as it stands or probably not as it was meant.

use std::fmt;

use crate::error::Span;

/// A remark on an expression that is accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lint {
    /// Which remark.
    pub code: LintCode,
    /// What was found and what became of it, or what is better.
    pub text: String,
    /// Where in the text as it was written.
    pub span: Span,
}

/// The remarks. Those that begin with `compat.` are rewrites of the contract's section 9.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LintCode {
    /// C1: a list's id with dashes.
    ListDashes,
    /// C2: `a[*].b` for `a.b[*]`.
    IndexInName,
    /// C3: an array inside of `any` or `all` without its `[*]`.
    IndexAdded,
    /// C4: an array compared without index.
    ArrayCompared,
    /// C5: several truths as a condition, without `any`.
    AnyAdded,
    /// C7: a flag compared with `true` or `false`.
    FlagCompared,
    /// C8: a number in quotes.
    QuotedNumber,
    /// C9: an address or prefix in quotes.
    QuotedAddress,
    /// C11: `any(flags[*])` for `any(flags)`.
    FlagsIndexed,
    /// C12: a value by its name instead of its code.
    NamedValue,
    /// A location's id with dashes (the contract's section 16).
    LocationDashes,
    /// A literal in capitals for a field that is lower case.
    Lowered,
    /// A pattern with `\\.`, which demands a backslash.
    DoubleEscaped,
    /// A pattern for e-mail addresses that does not end in `$`.
    Unanchored,
    /// `any(x != y)` as the only condition.
    AnyDiffers,
    /// Elements of different fields compared by their index.
    Pairing,
    /// A list whose kind may not be the field's.
    ListKind,
    /// A field that is often taken for another.
    MistakenField,
    /// A set without items, in which nothing is.
    EmptySet,
}

impl fmt::Display for Lint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.as_str(), self.text)
    }
}

impl LintCode {
    /// Whether the canonical text says it in another way than it was written (section 9).
    pub fn is_rewrite(self) -> bool {
        self.as_str().starts_with("compat.")
    }

    /// The remark's name, as `warning_status` shows it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ListDashes => "compat.list_dashes",
            Self::IndexInName => "compat.index_in_name",
            Self::IndexAdded => "compat.index_added",
            Self::ArrayCompared => "compat.array_compared",
            Self::AnyAdded => "compat.any_added",
            Self::FlagCompared => "compat.flag_compared",
            Self::QuotedNumber => "compat.quoted_number",
            Self::QuotedAddress => "compat.quoted_address",
            Self::FlagsIndexed => "compat.flags_indexed",
            Self::NamedValue => "compat.named_value",
            Self::LocationDashes => "compat.location_dashes",
            Self::Lowered => "value.lowered",
            Self::DoubleEscaped => "regex.double_escaped",
            Self::Unanchored => "regex.unanchored",
            Self::AnyDiffers => "any.differs",
            Self::Pairing => "any.pairing",
            Self::ListKind => "list.kind",
            Self::MistakenField => "field.mistaken",
            Self::EmptySet => "set.empty",
        }
    }
}
