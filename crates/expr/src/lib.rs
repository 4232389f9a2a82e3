//! The expression language of rules: parse, check, print, compile, evaluate.
//!
//! An [`Expression`] is made of a text by a [`Scheme`], which says what the fields are: this crate knows none by name. It
//! has a canonical text, remarks for whoever wrote it, the lists that it needs and the phase by which it can be decided,
//! and its [`Program`] answers for given [`Facts`].
//!
//! What always holds: whatever the text is, reading it ends in an expression or in an error that says where and what
//! would be right; the canonical text reads back as the same expression; evaluation answers for all facts, without
//! allocating. What it does not do: no I/O, clock, randomness, tasks; and it decides nothing, since the order of rules and
//! what follows from a match are `policy`'s.
//!
//! *The policy expression language*, the contract, is cited by section.

mod ast;
mod buffer;
mod check;
mod constant;
mod error;
mod explain;
mod facts;
mod function;
mod fuzz;
mod lexer;
mod lint;
mod list;
mod naive;
mod parser;
mod print;
mod program;
mod range;
mod scheme;
mod set;
mod typed;
pub mod vector;
mod wildcard;

pub use ast::Ast;
pub use check::MAX_REGEXES;
pub use error::{Error, ErrorCode, Span};
pub use explain::{Explanation, Finding};
pub use facts::{Attribute, Fact, Facts, Texts};
#[doc(hidden)]
pub use fuzz::fuzz_expression;
pub use lint::{Lint, LintCode};
pub use list::{ItemError, List, ListId, ListKind, ListKinds, Lists, NoLists};
pub use parser::{MAX_DEPTH, MAX_LENGTH, MAX_SET_ITEMS, parse};
pub use program::Program;
pub use scheme::{Field, Meaning, Phase, Scheme, Slot, Type};

use error::Problem;
use typed::Typed;

/// An expression that makes sense in its scheme.
#[derive(Debug, Clone, PartialEq)]
pub struct Expression {
    root: Typed,
    canonical: String,
    lints: Vec<Lint>,
    phase: Phase,
    lists: Vec<ListId>,
}

impl Expression {
    /// Reads and checks an expression. A text of nothing but blanks is no constraint, and gives none (section 1).
    pub fn new(text: &str, scheme: &Scheme, lists: &dyn ListKinds) -> Result<Option<Self>, Error> {
        match parse(text) {
            Ok(ast) => Self::check(&ast, scheme, lists).map(Some),
            Err(error) if error.code == ErrorCode::EmptyExpression && text.trim().is_empty() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Checks an expression that was read. Its canonical text keeps the limits too, or it could not be read again.
    pub fn check(ast: &Ast<'_>, scheme: &Scheme, lists: &dyn ListKinds) -> Result<Self, Error> {
        let check::Checked { root, lints, phase, lists } = check::check(ast, scheme, lists)?;
        let canonical = root.to_string();
        let rewritten = lints.iter().any(|lint| lint.code.is_rewrite());
        if canonical.len() > MAX_LENGTH || rewritten {
            parse(&canonical).map_err(|error| {
                let whole = Span { start: 0, end: ast.source.len() };
                let text = format!("the canonical text breaks a limit: {}", error.text);
                Problem { code: error.code, span: whole, text }.locate(ast.source)
            })?;
        }
        Ok(Self { root, canonical, lints, phase, lists })
    }

    /// The canonical text (section 10).
    pub fn canonical(&self) -> &str {
        &self.canonical
    }

    /// Remarks for whoever wrote it, rewrites among them.
    pub fn lints(&self) -> &[Lint] {
        &self.lints
    }

    /// The phase from which on all fields that it mentions are known.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// The lists that it names, each once.
    pub fn lists(&self) -> &[ListId] {
        &self.lists
    }

    /// Makes it ready to be evaluated.
    pub fn compile(&self) -> Program {
        Program::new(&self.root, self.phase)
    }

    /// Whether another expression says the same in the same words, whatever was remarked on them.
    pub fn same_as(&self, other: &Self) -> bool {
        self.root == other.root
    }
}
