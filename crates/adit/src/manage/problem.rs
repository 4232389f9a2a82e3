//! How a command for people ends when it does not succeed: one line, and an exit code that says what kind of failure it was.

use std::fmt;

/// Why a command failed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) code: Code,
    pub(crate) text: String,
}

/// The exit codes; 0 is success. README.md lists them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    /// It was refused or failed for a reason without a code of its own.
    Failed = 1,
    /// What was typed, or what a file says, is wrong.
    Usage = 2,
    /// There is no such object.
    NotFound = 3,
    /// The token is none, or may not do this.
    NotAllowed = 4,
    /// It clashes with what is there, or somebody was faster.
    Conflict = 5,
    /// The installation cannot be reached.
    Unreachable = 6,
}

impl Problem {
    pub(crate) fn new(code: Code, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }

    pub(crate) fn usage(text: impl Into<String>) -> Self {
        Self::new(Code::Usage, text)
    }

    /// The same, said of a larger thing.
    pub(crate) fn within(self, what: impl fmt::Display) -> Self {
        Self { text: format!("{what}: {}", self.text), ..self }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Problem {}
