//! How a management command ends when it does not succeed: the text, as it is printed, and the exit code (tunnel protocol,
//! 6.4). Programs read these texts, so they go out as cloudflared's do: no prefix, and lines as they are.

use std::fmt;

/// The end of a command that failed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    text: String,
    kind: Kind,
}

#[derive(Debug, PartialEq, Eq)]
enum Kind {
    /// It was typed wrongly: 255.
    Usage,
    /// Anything else: 1.
    Other,
}

impl Failure {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), kind: Kind::Other }
    }

    /// A command was typed wrongly. `command` is its name behind `adit`, such as `tunnel info`.
    pub(super) fn usage(command: &str, text: &str) -> Self {
        Self { text: format!("{text}\nSee 'adit {command} --help'."), kind: Kind::Usage }
    }

    /// The same, said of a larger thing.
    pub(super) fn within(self, what: impl fmt::Display) -> Self {
        Self { text: format!("{what}: {}", self.text), kind: self.kind }
    }

    /// The exit code.
    pub(crate) const fn code(&self) -> u8 {
        match self.kind {
            Kind::Usage => 255,
            Kind::Other => 1,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Failure {}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::new(format!("{error:#}"))
    }
}
