//! Host names: public ones, which a person asks for in the world and a tunnel's ingress rules answer, and those that a
//! hostname route names for an account's devices.
//!
//! Both are lower-case and without a trailing dot, so that two spellings of one name are one value. Neither says whose name it
//! is.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Bytes in a name, RFC 1035, 2.3.4, without the length and the root.
const MAX_NAME: usize = 253;
/// Bytes in a label, RFC 1035, 2.3.4.
const MAX_LABEL: usize = 63;

/// A public host name, such as `app.example.com`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PublicHostname(String);

/// A text that is no [`PublicHostname`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HostnameError {
    /// Empty, or over 253 bytes.
    #[error("a host name has 1 to 253 characters")]
    Length,
    /// A label is empty or over 63 bytes.
    #[error("each label of a host name has 1 to 63 characters")]
    Label,
    /// Something else than letters, digits, `-` and `_`, or a `-` at an end of a label.
    #[error(
        "a host name has letters, digits, hyphens and underscores only, and no hyphen at an end of a label"
    )]
    Character,
    /// One label only, or nothing but digits at the end: an address, or a name of a local network.
    #[error("a public host name has two labels or more and does not end in a number")]
    NotPublic,
    /// Nothing but digits at the end.
    #[error("an address is no host name: it has a route of its own")]
    Address,
}

impl PublicHostname {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for PublicHostname {
    type Err = HostnameError;

    fn from_str(text: &str) -> Result<Self, HostnameError> {
        let name = name(text)?;
        match name.rsplit_once('.') {
            Some((_, last)) if !is_number(last) => Ok(Self(name)),
            Some(_) | None => Err(HostnameError::NotPublic),
        }
    }
}

/// A name in lower case, without the root's dot.
fn name(text: &str) -> Result<String, HostnameError> {
    let name = text.strip_suffix('.').unwrap_or(text);
    if name.is_empty() || name.len() > MAX_NAME {
        return Err(HostnameError::Length);
    }
    for label in name.split('.') {
        if label.is_empty() || label.len() > MAX_LABEL {
            return Err(HostnameError::Label);
        }
        let known = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if !label.bytes().all(known) || label.starts_with('-') || label.ends_with('-') {
            return Err(HostnameError::Character);
        }
    }
    Ok(name.to_ascii_lowercase())
}

fn is_number(label: &str) -> bool {
    label.bytes().all(|byte| byte.is_ascii_digit())
}

/// What a hostname route stands for (contract D, 6.6): one name such as `wiki.corp.internal`, or with a leading `*.` every
/// name below one, however deep, and not that name itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostnamePattern(String);

/// What stands before the name that others are below of.
const WILDCARD: &str = "*.";

impl HostnamePattern {
    /// As it is written: lower-case, with its wildcard.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name, if it stands for no other.
    pub fn exact(&self) -> Option<&str> {
        (!self.0.starts_with(WILDCARD)).then_some(&self.0)
    }

    /// The patterns that hold all that this one holds, without itself, the closest first.
    pub fn above(&self) -> impl Iterator<Item = String> + '_ {
        Self::holding(self.0.strip_prefix(WILDCARD).unwrap_or(&self.0)).skip(1)
    }

    /// The patterns that hold a name in lower case without a trailing dot, as they are written, the closest first.
    pub fn holding(name: &str) -> impl Iterator<Item = String> + '_ {
        let above = std::iter::successors(Some(name), |name| name.split_once('.').map(|(_, above)| above));
        std::iter::once(name.to_owned()).chain(above.skip(1).map(|above| format!("{WILDCARD}{above}")))
    }
}

impl FromStr for HostnamePattern {
    type Err = HostnameError;

    fn from_str(text: &str) -> Result<Self, HostnameError> {
        let (wildcard, rest) = text.strip_prefix(WILDCARD).map_or(("", text), |rest| (WILDCARD, rest));
        let name = name(rest)?;
        if name.len() + wildcard.len() > MAX_NAME {
            return Err(HostnameError::Length);
        }
        if is_number(name.rsplit('.').next().unwrap_or_default()) {
            return Err(HostnameError::Address);
        }
        Ok(Self(format!("{wildcard}{name}")))
    }
}

impl TryFrom<String> for HostnamePattern {
    type Error = HostnameError;

    fn try_from(text: String) -> Result<Self, HostnameError> {
        text.parse()
    }
}

impl From<HostnamePattern> for String {
    fn from(pattern: HostnamePattern) -> Self {
        pattern.0
    }
}

impl fmt::Display for HostnamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for PublicHostname {
    type Error = HostnameError;

    fn try_from(text: String) -> Result<Self, HostnameError> {
        text.parse()
    }
}

impl From<PublicHostname> for String {
    fn from(hostname: PublicHostname) -> Self {
        hostname.0
    }
}

impl fmt::Display for PublicHostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_name_are_one_value() {
        let name: PublicHostname = "App.Example.COM.".parse().expect("a name");
        assert_eq!(name.as_str(), "app.example.com");
        assert_eq!(Ok(name), "app.example.com".parse());
    }

    #[test]
    fn what_is_no_public_name_is_refused() {
        let long = format!("{}.example.com", "a".repeat(64));
        let very_long = format!("{}com", "a.".repeat(126));
        for (text, error) in [
            ("", HostnameError::Length),
            (".", HostnameError::Length),
            (very_long.as_str(), HostnameError::Length),
            (long.as_str(), HostnameError::Label),
            ("a..example.com", HostnameError::Label),
            ("*.example.com", HostnameError::Character),
            ("-a.example.com", HostnameError::Character),
            ("a.example.com/", HostnameError::Character),
            ("localhost", HostnameError::NotPublic),
            ("192.0.2.1", HostnameError::NotPublic),
        ] {
            assert_eq!(text.parse::<PublicHostname>(), Err(error), "{text}");
        }
    }

    #[test]
    fn a_pattern_is_a_name_or_all_names_below_one() {
        let pattern = |text: &str| text.parse::<HostnamePattern>();
        assert_eq!(pattern("*.Corp.Internal.").unwrap().as_str(), "*.corp.internal");
        assert_eq!(pattern("intranet").unwrap().exact(), Some("intranet"));
        assert_eq!(pattern("*.internal").unwrap().exact(), None);
        for (text, error) in [
            ("*", HostnameError::Character),
            ("*.", HostnameError::Length),
            ("a.*.internal", HostnameError::Character),
            ("*.*.internal", HostnameError::Character),
            ("10.0.0.1", HostnameError::Address),
            ("*.1", HostnameError::Address),
        ] {
            assert_eq!(pattern(text), Err(error), "{text}");
        }
        let holding: Vec<_> = HostnamePattern::holding("a.b.internal").collect();
        assert_eq!(holding, ["a.b.internal", "*.b.internal", "*.internal"]);
        let above = |text: &str| pattern(text).unwrap().above().collect::<Vec<_>>();
        assert_eq!(above("*.b.internal"), ["*.internal"]);
        assert_eq!(above("a.internal"), ["*.internal"]);
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_a_pattern_that_reads_as_it_prints_or_an_error(text in "[a-z*.-]{0,20}") {
            if let Ok(pattern) = text.parse::<HostnamePattern>() {
                proptest::prop_assert_eq!(pattern.as_str().parse(), Ok(pattern.clone()));
            }
        }

        #[test]
        fn any_text_is_a_name_that_reads_as_it_prints_or_an_error(text in "[a-zA-Z0-9._*-]{0,40}") {
            if let Ok(name) = text.parse::<PublicHostname>() {
                proptest::prop_assert_eq!(name.as_str().parse(), Ok(name.clone()));
                proptest::prop_assert_eq!(String::from(name), text.trim_end_matches('.').to_ascii_lowercase());
            }
        }
    }
}
