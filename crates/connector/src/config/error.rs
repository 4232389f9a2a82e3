//! What is wrong with a configuration, in one line.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Where something was said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// In a file, at a place in it.
    File {
        /// The file.
        path: PathBuf,
        /// Line, from 1; 0 for the whole file.
        line: u64,
        /// Column, from 1.
        column: u64,
        /// The key; empty for the file itself.
        key: String,
    },
    /// By this flag, or its variable.
    Flag(&'static str),
    /// Nowhere, and there is no file.
    Nowhere,
    /// In something else that has a name.
    Named(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line, column, key } => {
                write!(f, "{}", path.display())?;
                if *line > 0 {
                    write!(f, ":{line}:{column}")?;
                }
                if key.is_empty() { Ok(()) } else { write!(f, ": {key}") }
            }
            Self::Flag(key) => write!(f, "--{key}"),
            Self::Nowhere => f.write_str("configuration"),
            Self::Named(name) => f.write_str(name),
        }
    }
}

/// A configuration is wrong or incomplete.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{origin}: {problem}")]
pub struct ConfigError {
    origin: Origin,
    problem: String,
    is_usage: bool,
}

impl ConfigError {
    #[expect(clippy::needless_pass_by_value, reason = "texts made for an error end in it")]
    pub(crate) fn new(origin: Origin, problem: String) -> Self {
        // One line, whatever a parser said.
        let problem = problem.split_whitespace().collect::<Vec<_>>().join(" ");
        Self { origin, problem, is_usage: false }
    }

    /// What was typed cannot be meant: cloudflared's exit code for it is another (contract, 6.4).
    pub(super) fn usage(origin: Origin, problem: &str) -> Self {
        Self { is_usage: true, ..Self::new(origin, problem.to_owned()) }
    }

    /// What is wrong, without where.
    pub fn problem(&self) -> &str {
        &self.problem
    }

    /// Whether the command line is wrong, and not what it names.
    pub fn is_usage(&self) -> bool {
        self.is_usage
    }

    pub(super) fn unreadable(origin: Origin, path: &Path, source: &io::Error) -> Self {
        Self::new(origin, format!("cannot read {}: {source}", path.display()))
    }

    /// Where it was said.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }
}

/// As much of a wrong value as an error repeats.
pub(super) fn shortened(text: &str) -> String {
    const QUOTED_CHARS: usize = 64;
    if text.chars().count() <= QUOTED_CHARS {
        return text.to_owned();
    }
    text.chars().take(QUOTED_CHARS).chain("...".chars()).collect()
}
